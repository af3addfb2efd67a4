//! URLs known to be known: most links of a page lead to pages that were admitted
//! long ago. The worker need not offer those again, nor the master ask its store.
//!
//! A hit is certain, since it compares 128 bits of the SHA-1; a miss says nothing.

use crate::url::UrlId;

/// A direct-mapped cache of URL ids of fixed size.
#[derive(Debug)]
pub struct Known {
    entries: Vec<u128>,
}

impl Known {
    /// Room for `entries` URLs (16 bytes each), rounded up to a power of two.
    pub fn new(entries: usize) -> Self {
        Self { entries: vec![0; entries.max(1).next_power_of_two()] }
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.entries.fill(0);
    }

    /// Whether the URL is known in the crawl; `false` means "perhaps not".
    pub fn contains(&self, crawl: u32, id: &UrlId) -> bool {
        let (at, entry) = self.place(crawl, id);
        self.entries[at] == entry
    }

    /// Notes a URL as known, in the place of another if need be.
    pub fn insert(&mut self, crawl: u32, id: &UrlId) {
        let (at, entry) = self.place(crawl, id);
        self.entries[at] = entry;
    }

    /// 16 bytes of the id tell URLs apart, the other 4 choose the place; the crawl
    /// takes part in both. No URL's entry is the 0 of an empty place, but for a
    /// chance of 2^-128.
    fn place(&self, crawl: u32, id: &UrlId) -> (usize, u128) {
        let mut entry = [0; 16];
        entry.copy_from_slice(&id.0[..16]);
        let entry = u128::from_be_bytes(entry) ^ (u128::from(crawl) << 96);
        let place = u32::from_be_bytes([id.0[16], id.0[17], id.0[18], id.0[19]]) ^ crawl;
        (place as usize & (self.entries.len() - 1), entry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_known_in_its_own_crawl_only_and_never_by_mistake() {
        let mut known = Known::new(4);
        let ids: Vec<UrlId> =
            (0..100).map(|n| UrlId::of(&format!("http://a.example/{n}"))).collect();
        assert!(!known.contains(1, &ids[0]));
        known.insert(1, &ids[0]);
        assert!(known.contains(1, &ids[0]));
        assert!(!known.contains(2, &ids[0]));
        assert!(ids[1..].iter().all(|id| !known.contains(1, id)));
    }
}
