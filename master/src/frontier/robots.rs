//! Hosts' robots.txt, as workers fetched them: kept once for all workers and crawls, with
//! their age, through restarts. The frontier does not read them; who fetches does.

use super::{Frontier, FrontierError, Moment};
use crate::store::{Store, StoreError, keys, rows::RobotsRow};

/// Bytes of a text that are stored in one row; far below what sled would put into a
/// file of its own.
const PART_BYTES: usize = 16 * 1024;

/// Bytes of a compressed robots.txt at most. Workers read 500 KiB (RFC 9309, 2.5) of it,
/// which compress to less, or to hardly more.
pub const ROBOTS_BYTES_MAX: usize = 512 * 1024;

/// Milliseconds between two failures to have a robots.txt after which it was not without
/// one all the time, as far as is known: three days.
pub const SILENCE_MAX_MS: u64 = 3 * 24 * 60 * 60 * 1_000;

/// What is known of a host's robots.txt, and its text, zlib-compressed.
pub type RobotsFile = (RobotsRow, Vec<u8>);

/// What came of fetching a robots.txt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RobotsNews {
    /// The file, zlib-compressed; empty if the host has none.
    Found(Vec<u8>),
    /// It could not be had, and why.
    Unavailable(String),
}

impl<S: Store> Frontier<S> {
    /// Takes note of a host's robots.txt, after what it says of its host's rest. `wall` is
    /// the time in Unix milliseconds. What was fetched before stays if it cannot be had now.
    pub(super) fn note_robots(
        &mut self,
        host: u32,
        news: &RobotsNews,
        wall: u64,
        now: Moment,
    ) -> Result<(), StoreError> {
        let mut row = self.robots_row(host)?.unwrap_or_default();
        match news {
            RobotsNews::Found(text) => {
                let parts = text.chunks(PART_BYTES).zip(0u16..);
                let mut count = 0;
                for (part, index) in parts {
                    self.changes.put_bytes(keys::robots_part(host, index), part.to_vec());
                    count += 1;
                }
                for former in (count..row.parts).filter_map(|part| part.try_into().ok()) {
                    self.changes.remove(keys::robots_part(host, former));
                }
                row = RobotsRow { fetched_at: wall, parts: count, ..RobotsRow::default() };
            }
            RobotsNews::Unavailable(reason) => {
                let is_long_ago = wall.saturating_sub(row.unavailable_at) > SILENCE_MAX_MS;
                if row.unavailable_since == 0 || is_long_ago {
                    row.unavailable_since = wall;
                }
                row.unavailable_at = wall;
                let rests_until = self.known(host).map_or(0, |gate| gate.rests_until);
                row.rest_ms = rests_until.saturating_sub(now.0);
                row.unavailable.clone_from(reason);
            }
        }
        self.changes.put(keys::robots(host), &row);
        Ok(())
    }

    /// What is known of a host's robots.txt, beside its text.
    pub(super) fn robots_row(&self, host: u32) -> Result<Option<RobotsRow>, StoreError> {
        self.changes.get(&self.store, &keys::robots(host))
    }

    /// A host's robots.txt, if anything is known of it, and it is whole.
    ///
    /// # Errors
    /// If the store fails.
    pub fn robots(&self, host: u32) -> Result<Option<RobotsFile>, FrontierError> {
        let Some(row) = self.robots_row(host)? else { return Ok(None) };
        let mut text = Vec::new();
        for part in 0..row.parts {
            let key = keys::robots_part(host, u16::try_from(part).unwrap_or(u16::MAX));
            // One that is not whole says less than the host meant; it is fetched again.
            let Some(part) = self.changes.get_bytes(&self.store, &key)? else { return Ok(None) };
            text.extend(part);
        }
        Ok(Some((row, text)))
    }
}
