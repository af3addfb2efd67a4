//! What is known in memory of hosts and domains that traps are looked for in. It outlives
//! the hosts themselves, which leave as soon as nothing of them waits: a web that leads from
//! host to host would else seem new on every page.

use std::{
    collections::{HashMap, VecDeque},
    hash::Hash,
};

use trawl_shared::trap;

/// Fingerprints of the last pages that a page is compared with.
const PRINTS: usize = 16;

/// What is known of a host's patterns.
#[derive(Default)]
pub(super) struct Patterns {
    /// Rows of the store; none as long as nobody has counted them.
    pub(super) count: Option<usize>,
    /// Its last pages.
    pub(super) prints: Prints,
}

/// Fingerprints of the last pages, the newest last.
#[derive(Default)]
pub(super) struct Prints(VecDeque<u64>);

impl Prints {
    /// Whether a page of this fingerprint brings something new, compared with the last
    /// ones; from now on it is one of them.
    pub(super) fn is_new(&mut self, print: Option<u64>) -> bool {
        let Some(print) = print else { return true };
        if print == trap::THIN {
            return false;
        }
        let is_new = !self.0.iter().any(|other| trap::are_alike(*other, print));
        if self.0.len() == PRINTS {
            self.0.pop_front();
        }
        self.0.push_back(print);
        is_new
    }
}

/// What was in use last: of at least so many as it was made for, and of twice as many at
/// most.
pub(super) struct LastUsed<K, V> {
    most: usize,
    young: HashMap<K, V>,
    /// Not asked for since the young ones were none.
    old: HashMap<K, V>,
}

impl<K: Eq + Hash, V: Default> LastUsed<K, V> {
    /// For so many.
    pub(super) fn new(most: usize) -> Self {
        Self { most, young: HashMap::new(), old: HashMap::new() }
    }

    /// What is known of one.
    pub(super) fn of(&mut self, key: K) -> &mut V {
        if self.young.len() >= self.most && !self.young.contains_key(&key) {
            self.old = std::mem::take(&mut self.young);
        }
        let old = self.old.remove(&key);
        self.young.entry(key).or_insert_with(|| old.unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_in_use_last_is_kept_and_no_more_than_twice_the_limit() {
        let mut used = LastUsed::new(2);
        for key in 0..100 {
            *used.of(key) = Some(1);
            assert_eq!(*used.of(0), Some(1), "it is asked for all the time");
            assert!(used.young.len() + used.old.len() <= 4);
        }
        assert_eq!(*used.of(1), None);
    }
}
