//! What is known in memory of the patterns of hosts. It outlives the hosts themselves,
//! which leave as soon as nothing of them waits: a web that leads from host to host would
//! else seem new on every page.

use std::collections::{HashMap, VecDeque};

use trawl_shared::trap;

use crate::store::keys::HostRef;

/// Fingerprints of a host's last pages that a page is compared with.
const PRINTS: usize = 16;

/// What is known of a host's patterns.
#[derive(Default)]
pub(super) struct Patterns {
    /// Rows of the store; none as long as nobody has counted them.
    pub(super) count: Option<usize>,
    /// Fingerprints of its last pages, the newest last.
    prints: VecDeque<u64>,
}

impl Patterns {
    /// Whether a page of this fingerprint brings something new, compared with the last
    /// ones; from now on it is one of them.
    pub(super) fn is_new(&mut self, print: Option<u64>) -> bool {
        let Some(print) = print else { return true };
        if print == trap::THIN {
            return false;
        }
        let is_new = !self.prints.iter().any(|other| trap::are_alike(*other, print));
        if self.prints.len() == PRINTS {
            self.prints.pop_front();
        }
        self.prints.push_back(print);
        is_new
    }
}

/// The patterns of the hosts that were in use last. Those of at least so many are kept as
/// it was made for, and of twice as many at most.
pub(super) struct HostPatterns {
    most: usize,
    young: HashMap<HostRef, Patterns>,
    /// Not asked for since the young ones were none.
    old: HashMap<HostRef, Patterns>,
}

impl HostPatterns {
    /// For the patterns of so many hosts.
    pub(super) fn new(most: usize) -> Self {
        Self { most, young: HashMap::new(), old: HashMap::new() }
    }

    /// What is known of a host.
    pub(super) fn of(&mut self, at: HostRef) -> &mut Patterns {
        if self.young.len() >= self.most && !self.young.contains_key(&at) {
            self.old = std::mem::take(&mut self.young);
        }
        let old = &mut self.old;
        self.young.entry(at).or_insert_with(|| old.remove(&at).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_in_use_last_is_kept_and_no_more_than_twice_the_limit() {
        let mut patterns = HostPatterns::new(2);
        let at = |host| HostRef { crawl: 1, host };
        for host in 0..100 {
            patterns.of(at(host)).count = Some(1);
            assert_eq!(patterns.of(at(0)).count, Some(1), "it is asked for all the time");
            assert!(patterns.young.len() + patterns.old.len() <= 4);
        }
        assert_eq!(patterns.of(at(1)).count, None);
    }
}
