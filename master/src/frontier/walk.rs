//! The whole store, read piece by piece while it changes.
//!
//! A walk reads rows in the order of their keys, some at a time. What is committed
//! meanwhile is passed on as well, as far as the walk has come: what lies ahead will
//! be read as it is then. So the pieces, applied one after the other to an empty
//! store, make the store as it was at the walk's end; nobody waits for that, and no
//! copy of the store is held.

use super::{Frontier, FrontierError};
use crate::store::{Batch, Store, keys};

/// Bytes that a row takes beside its key and value.
const ROW_BYTES: usize = 64;

/// A walk under way.
pub(super) struct Walk {
    /// The first key that was not read; none when all were.
    next: Option<Vec<u8>>,
    /// Changes behind it that were not handed out.
    pending: Batch,
    pending_bytes: usize,
}

/// A piece of a walk.
#[derive(Debug, Default)]
pub struct Piece {
    /// Rows, and keys without a row any more: to be applied in this order.
    pub rows: Batch,
    /// The walk has come to its end.
    pub is_last: bool,
}

impl Walk {
    fn new() -> Self {
        let next = Some(keys::ALL.0.to_vec());
        Self { next, pending: Vec::new(), pending_bytes: 0 }
    }

    /// Passes on what of a commit lies behind.
    pub(super) fn note(&mut self, batch: &Batch) {
        for (key, value) in batch {
            if self.next.as_ref().is_none_or(|next| key < next) {
                self.pending_bytes += ROW_BYTES + key.len() + value.as_ref().map_or(0, Vec::len);
                self.pending.push((key.clone(), value.clone()));
            }
        }
    }
}

impl<S: Store> Frontier<S> {
    /// Begins a walk through the store, unless one is under way. Returns whether it
    /// has begun.
    pub fn begin_walk(&mut self) -> bool {
        if self.walk.is_some() {
            return false;
        }
        self.walk = Some(Walk::new());
        true
    }

    /// The next piece: what has changed behind the walk, and up to `rows` further rows.
    /// The frontier must have been committed. The last piece ends the walk.
    ///
    /// # Errors
    /// If the store fails.
    pub fn walk_on(&mut self, rows: usize) -> Result<Piece, FrontierError> {
        let Some(walk) = &mut self.walk else {
            return Ok(Piece { is_last: true, ..Piece::default() });
        };
        let mut piece = Piece { rows: std::mem::take(&mut walk.pending), is_last: false };
        walk.pending_bytes = 0;
        if let Some(from) = walk.next.take() {
            let known = piece.rows.len();
            for row in self.store.range(&from, keys::ALL.1).take(rows) {
                let (key, value) = row?;
                piece.rows.push((key, Some(value)));
            }
            if piece.rows.len() - known == rows {
                // The next key after one is the same with a zero behind it.
                walk.next = piece.rows.last().map(|(key, _)| [key, &[0][..]].concat());
            }
        }
        if walk.next.is_none() {
            piece.is_last = true;
            self.walk = None;
        }
        Ok(piece)
    }

    /// Bytes of changes that wait to be handed out.
    pub fn walk_backlog(&self) -> usize {
        self.walk.as_ref().map_or(0, |walk| walk.pending_bytes)
    }

    /// Ends a walk that nobody wants any more.
    pub fn end_walk(&mut self) {
        self.walk = None;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        frontier::{Limits, Moment},
        store::memory::MemoryStore,
    };

    fn key() -> impl Strategy<Value = Vec<u8>> {
        prop::collection::vec(b'A'..=b'D', 1..4)
    }

    fn commits() -> impl Strategy<Value = Vec<Batch>> {
        let value = prop::option::weighted(0.7, prop::collection::vec(any::<u8>(), 0..4));
        let batch = prop::collection::vec((key(), value), 0..6);
        prop::collection::vec(batch, 1..40)
    }

    fn rows(store: &MemoryStore) -> Vec<crate::store::Row> {
        store.range(keys::ALL.0, keys::ALL.1).map(Result::unwrap).collect()
    }

    proptest! {
        #[test]
        fn a_walk_applied_in_its_order_is_the_store_at_its_end(
            commits in commits(),
            rows_at_once in 1..4usize,
        ) {
            let opened = Frontier::open(MemoryStore::default(), Limits::default(), "test");
            let (mut frontier, _) = opened.unwrap();
            let mut copy = MemoryStore::default();
            let mut commits = commits.into_iter();
            // Some of the changes come before the walk, the others during it.
            for batch in commits.by_ref().take(10) {
                frontier.store.apply(batch).unwrap();
            }
            prop_assert!(frontier.begin_walk());
            prop_assert!(!frontier.begin_walk(), "one at a time");
            loop {
                if let Some(batch) = commits.next() {
                    for (key, value) in batch {
                        match value {
                            Some(value) => frontier.changes.put_bytes(key, value),
                            None => frontier.changes.remove(key),
                        }
                    }
                    frontier.commit(Moment(1)).unwrap();
                }
                let piece = frontier.walk_on(rows_at_once).unwrap();
                copy.apply(piece.rows).unwrap();
                if piece.is_last {
                    break;
                }
            }
            prop_assert_eq!(rows(&copy), rows(&frontier.into_store()));
        }
    }
}
