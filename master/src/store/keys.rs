//! The layout of every key, in words and in bytes.
//!
//! A key begins with a letter for its table; numbers are big-endian and of fixed
//! width, so that the order of a scan is the order of the work. Hosts come first
//! in all that grows, so that one host's rows lie together.
//!
//! | table | key | row |
//! | --- | --- | --- |
//! | `C` crawls | crawl 4 | [`CrawlRow`](super::rows::CrawlRow) |
//! | `D` digests | crawl 4, SHA-1 of a body 20 | the first page with it: host 4, URL id 20 |
//! | `G` hosts as all crawls share them | host 4 | [`GateRow`](super::rows::GateRow) |
//! | `H` host numbers | host key as text | host 4 |
//! | `L` leases | token 8 | [`LeaseRow`](super::rows::LeaseRow) |
//! | `M` the master itself | – | [`MetaRow`](super::rows::MetaRow) |
//! | `N` domains of a crawl's hosts | crawl 4, domain 8 | [`DomainRow`](super::rows::DomainRow) |
//! | `O` hosts of a crawl | crawl 4, host 4 | [`HostRow`](super::rows::HostRow) |
//! | `Q` queues | crawl 4, host 4, [`Slot`] 14 | [`QueueRow`](super::rows::QueueRow) |
//! | `R` robots.txt | host 4; for the text: host 4, part 2 | [`RobotsRow`](super::rows::RobotsRow); a part of the text |
//! | `S` specifications | crawl 4, part 2 | a part of the text |
//! | `T` patterns of a host's URLs | crawl 4, host 4, pattern 8 | [`PatternRow`](super::rows::PatternRow) |
//! | `U` visited set and page index | crawl 4, host 4, URL id 20 | [`UrlRow`](super::rows::UrlRow) |
//! | `X` quarantine | crawl 4, host 4, URL id 20 | nothing; the URL's row tells |

use trawl_shared::{lease::Token, rules::PRIORITY_MAX, url::UrlId};

/// A host in a crawl.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HostRef {
    /// The crawl's number.
    pub crawl: u32,
    /// The host's number, the same in all crawls of a data directory.
    pub host: u32,
}

/// A place in a host's queue. What waits for nothing comes first, by its priority,
/// then shallow before deep and old before new; what waits for a time comes after, by
/// that time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Slot {
    /// When it may be tried again, in milliseconds of the master's clock, from
    /// [`Slot::DUE_MIN`] on; below, what was never tried, the highest priority first. 48
    /// bits are kept.
    pub due: u64,
    /// Links from a seed; saturating.
    pub depth: u16,
    /// The order of admission within the crawl. 48 bits are kept.
    pub seq: u64,
}

const U48_MAX: u64 = (1 << 48) - 1;

impl Slot {
    /// The place before all others.
    pub const FIRST: Self = Self { due: 0, depth: 0, seq: 0 };

    /// Bytes of a slot.
    pub const BYTES: usize = 14;

    /// The first time that a slot can wait for.
    pub const DUE_MIN: u64 = 256;

    /// The place of what was never tried. Masters that knew no priorities put it where
    /// the highest is.
    pub fn untried(priority: i32, depth: u16, seq: u64) -> Self {
        let priority = priority.clamp(-PRIORITY_MAX, PRIORITY_MAX);
        Self { due: u64::from((PRIORITY_MAX - priority).unsigned_abs()), depth, seq }
    }

    /// The first place of the priority that comes after a slot's.
    pub fn next_priority(self) -> Self {
        Self { due: self.due + 1, depth: 0, seq: 0 }
    }

    /// The place of what is tried again at a time.
    pub fn due_at(self, due: u64) -> Self {
        Self { due: due.max(Self::DUE_MIN), ..self }
    }

    /// The time that it waits for, in milliseconds of the master's clock; 0 for none.
    pub fn waits_for(self) -> u64 {
        if self.due < Self::DUE_MIN { 0 } else { self.due }
    }

    /// The slot as it stands in keys.
    pub fn encode(self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[..6].copy_from_slice(&self.due.min(U48_MAX).to_be_bytes()[2..]);
        bytes[6..8].copy_from_slice(&self.depth.to_be_bytes());
        bytes[8..].copy_from_slice(&self.seq.min(U48_MAX).to_be_bytes()[2..]);
        bytes
    }

    /// The slot of its bytes.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; Self::BYTES] = bytes.try_into().ok()?;
        let u48 = |part: &[u8]| part.iter().fold(0, |n, byte| n << 8 | u64::from(*byte));
        Some(Self {
            due: u48(&bytes[..6]),
            depth: u16::from_be_bytes([bytes[6], bytes[7]]),
            seq: u48(&bytes[8..]),
        })
    }
}

/// Every table.
pub const ALL: (&[u8], &[u8]) = (b"A", b"[");

/// The master's own row.
pub const META: &[u8] = b"M";

/// A crawl's row.
pub fn crawl(crawl: u32) -> Vec<u8> {
    [b"C", &crawl.to_be_bytes()[..]].concat()
}

/// All crawls.
pub const CRAWLS: (&[u8], &[u8]) = (b"C", b"D");

/// One part of a crawl's specification.
pub fn spec_part(crawl: u32, part: u16) -> Vec<u8> {
    [b"S", &crawl.to_be_bytes()[..], &part.to_be_bytes()].concat()
}

/// The number of a host key.
pub fn host_number(host_key: &str) -> Vec<u8> {
    [b"H", host_key.as_bytes()].concat()
}

/// The numbers of all host keys, in the order of the keys.
pub const HOST_NUMBERS: (&[u8], &[u8]) = (b"H", b"I");

/// The host key of a host number's key.
pub fn host_key(key: &[u8]) -> Option<&str> {
    str::from_utf8(key.get(1..)?).ok()
}

/// A host's gate.
pub fn gate(host: u32) -> Vec<u8> {
    [b"G", &host.to_be_bytes()[..]].concat()
}

/// A host's robots.txt.
pub fn robots(host: u32) -> Vec<u8> {
    [b"R", &host.to_be_bytes()[..]].concat()
}

/// One part of the text of a host's robots.txt.
pub fn robots_part(host: u32, part: u16) -> Vec<u8> {
    [b"R", &host.to_be_bytes()[..], &part.to_be_bytes()].concat()
}

/// The first page of a crawl with a body of this SHA-1.
pub fn digest(crawl: u32, sha1: &[u8; 20]) -> Vec<u8> {
    [b"D", &crawl.to_be_bytes()[..], sha1].concat()
}

/// A page as the digests' rows name it.
pub fn page_ref(host: u32, id: &UrlId) -> Vec<u8> {
    [&host.to_be_bytes()[..], &id.0].concat()
}

/// The page that a digest's row names.
pub fn page_of_ref(bytes: &[u8]) -> Option<(u32, UrlId)> {
    let (host, id) = bytes.split_at_checked(4)?;
    Some((u32::from_be_bytes(host.try_into().ok()?), UrlId::from_bytes(id)?))
}

/// A lease.
pub fn lease(token: Token) -> Vec<u8> {
    [b"L", &token.0.to_be_bytes()[..]].concat()
}

/// All leases.
pub const LEASES: (&[u8], &[u8]) = (b"L", b"M");

/// The token of a lease's key.
pub fn lease_token(key: &[u8]) -> Option<Token> {
    Some(Token(u64::from_be_bytes(key.get(1..)?.try_into().ok()?)))
}

/// What was counted of a domain's hosts. It goes by a hash of its name.
pub fn domain(crawl: u32, domain: u64) -> Vec<u8> {
    [b"N", &crawl.to_be_bytes()[..], &domain.to_be_bytes()].concat()
}

/// The crawl and the domain of a domain's key.
pub fn domain_of(key: &[u8]) -> Option<(u32, u64)> {
    let (crawl, domain) = key.get(1..)?.split_at_checked(4)?;
    Some((u32::from_be_bytes(crawl.try_into().ok()?), u64::from_be_bytes(domain.try_into().ok()?)))
}

/// A host's row.
pub fn host(at: HostRef) -> Vec<u8> {
    in_host(b'O', at, &[])
}

/// All hosts of a crawl.
pub fn hosts(crawl: u32) -> (Vec<u8>, Vec<u8>) {
    in_crawl(b'O', crawl)
}

/// The host of a host's key.
pub fn host_of(key: &[u8]) -> Option<HostRef> {
    let number = |at: usize| Some(u32::from_be_bytes(key.get(at..at + 4)?.try_into().ok()?));
    Some(HostRef { crawl: number(1)?, host: number(5)? })
}

/// A URL's row.
pub fn url(at: HostRef, id: &UrlId) -> Vec<u8> {
    in_host(b'U', at, &id.0)
}

/// All URLs of a crawl.
pub fn urls(crawl: u32) -> (Vec<u8>, Vec<u8>) {
    in_crawl(b'U', crawl)
}

/// A URL's place in quarantine.
pub fn quarantined(at: HostRef, id: &UrlId) -> Vec<u8> {
    in_host(b'X', at, &id.0)
}

/// A crawl's quarantine.
pub fn quarantine(crawl: u32) -> (Vec<u8>, Vec<u8>) {
    in_crawl(b'X', crawl)
}

/// The URL of a key in the visited set or in quarantine.
pub fn url_of(key: &[u8]) -> Option<(HostRef, UrlId)> {
    Some((host_of(key)?, UrlId::from_bytes(key.get(9..)?)?))
}

/// What was fetched of a host by one pattern.
pub fn pattern(at: HostRef, pattern: u64) -> Vec<u8> {
    in_host(b'T', at, &pattern.to_be_bytes())
}

/// All patterns of a host.
pub fn patterns(at: HostRef) -> (Vec<u8>, Vec<u8>) {
    let mut to = in_host(b'T', at, &[]);
    // No key of eight bytes comes after.
    to.extend([u8::MAX; 9]);
    (in_host(b'T', at, &[]), to)
}

/// The pattern of a pattern's key.
pub fn pattern_of(key: &[u8]) -> Option<(HostRef, u64)> {
    Some((host_of(key)?, u64::from_be_bytes(key.get(9..)?.try_into().ok()?)))
}

/// A queue's row.
pub fn queue(at: HostRef, slot: Slot) -> Vec<u8> {
    in_host(b'Q', at, &slot.encode())
}

/// A crawl's queues.
pub fn queues(crawl: u32) -> (Vec<u8>, Vec<u8>) {
    in_crawl(b'Q', crawl)
}

/// The slot of a queue's key.
pub fn slot_of(key: &[u8]) -> Option<Slot> {
    Slot::decode(key.get(9..)?)
}

fn in_host(table: u8, at: HostRef, rest: &[u8]) -> Vec<u8> {
    let mut key = Vec::with_capacity(9 + rest.len());
    key.push(table);
    key.extend_from_slice(&at.crawl.to_be_bytes());
    key.extend_from_slice(&at.host.to_be_bytes());
    key.extend_from_slice(rest);
    key
}

fn in_crawl(table: u8, crawl: u32) -> (Vec<u8>, Vec<u8>) {
    let from = [&[table][..], &crawl.to_be_bytes()].concat();
    let to = match crawl.checked_add(1) {
        Some(next) => [&[table][..], &next.to_be_bytes()].concat(),
        None => vec![table + 1],
    };
    (from, to)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn slots() -> impl Strategy<Value = Slot> {
        (0..=U48_MAX, any::<u16>(), 0..=U48_MAX).prop_map(|(due, depth, seq)| Slot {
            due,
            depth,
            seq,
        })
    }

    proptest! {
        #[test]
        fn a_slot_survives_its_bytes(slot in slots()) {
            prop_assert_eq!(Slot::decode(&slot.encode()), Some(slot));
        }

        #[test]
        fn keys_sort_as_slots_do(a in slots(), b in slots()) {
            let at = HostRef { crawl: 1, host: 2 };
            prop_assert_eq!(queue(at, a).cmp(&queue(at, b)), a.cmp(&b));
        }

        #[test]
        fn a_host_is_read_back_from_its_key(crawl: u32, host: u32) {
            let at = HostRef { crawl, host };
            prop_assert_eq!(host_of(&super::host(at)), Some(at));
        }

        #[test]
        fn a_hosts_patterns_lie_within_its_range(crawl: u32, host: u32, number: u64) {
            let at = HostRef { crawl, host };
            let key = pattern(at, number);
            let (from, to) = patterns(at);
            prop_assert!(from <= key && key < to);
            prop_assert_eq!(pattern_of(&key), Some((at, number)));
        }

        #[test]
        fn a_domain_is_read_back_from_its_key(crawl: u32, number: u64) {
            prop_assert_eq!(domain_of(&domain(crawl, number)), Some((crawl, number)));
        }

        #[test]
        fn what_was_never_tried_comes_by_priority(a in -100..=100i32, b in -100..=100i32) {
            let [first, second] = [a, b].map(|priority| Slot::untried(priority, 1, 1));
            prop_assert_eq!(first.cmp(&second), b.cmp(&a));
            prop_assert!(first < second.due_at(0) && first.waits_for() == 0);
        }

        #[test]
        fn a_crawls_rows_lie_within_its_range(crawl: u32, host: u32, slot in slots()) {
            let key = queue(HostRef { crawl, host }, slot);
            let (from, to) = queues(crawl);
            prop_assert!(from <= key && key < to);
        }
    }
}
