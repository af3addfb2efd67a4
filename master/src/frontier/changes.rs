//! Changes that are decided but not yet written: everything between two commits
//! goes into the store as one batch.

use std::collections::HashMap;

use prost::Message;

use crate::store::{Batch, Store, StoreError, rows::decode};

/// Staged changes, seen by [`Changes::get`] before the store is asked.
#[derive(Debug, Default)]
pub(super) struct Changes {
    staged: HashMap<Vec<u8>, Option<Vec<u8>>>,
    written: Written,
}

/// What was written to the store, since the frontier was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// Atomic batches.
    pub batches: u64,
    /// Rows in them, those that they removed included.
    pub rows: u64,
    /// Bytes of keys and values.
    pub bytes: u64,
}

impl Changes {
    /// Stages a row.
    pub(super) fn put(&mut self, key: Vec<u8>, row: &impl Message) {
        self.staged.insert(key, Some(row.encode_to_vec()));
    }

    /// Stages a value that is not a message.
    pub(super) fn put_bytes(&mut self, key: Vec<u8>, value: Vec<u8>) {
        self.staged.insert(key, Some(value));
    }

    /// Stages a removal.
    pub(super) fn remove(&mut self, key: Vec<u8>) {
        self.staged.insert(key, None);
    }

    /// A value as it will be after the commit.
    pub(super) fn get_bytes(
        &self,
        store: &impl Store,
        key: &[u8],
    ) -> Result<Option<Vec<u8>>, StoreError> {
        match self.staged.get(key) {
            Some(value) => Ok(value.clone()),
            None => store.get(key),
        }
    }

    /// A row as it will be after the commit.
    pub(super) fn get<R: Message + Default>(
        &self,
        store: &impl Store,
        key: &[u8],
    ) -> Result<Option<R>, StoreError> {
        self.get_bytes(store, key)?.map(|bytes| decode(&bytes)).transpose()
    }

    /// Whether nothing is staged.
    pub(super) fn is_empty(&self) -> bool {
        self.staged.is_empty()
    }

    /// All that is staged, in key order, which is the order that trees like.
    pub(super) fn take(&mut self) -> Batch {
        let mut batch: Batch = self.staged.drain().collect();
        batch.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        let bytes = |(key, value): &(Vec<u8>, Option<Vec<u8>>)| {
            (key.len() + value.as_ref().map_or(0, Vec::len)) as u64
        };
        self.written.batches += 1;
        self.written.rows += batch.len() as u64;
        self.written.bytes += batch.iter().map(bytes).sum::<u64>();
        batch
    }

    /// All that was taken so far.
    pub(super) fn written(&self) -> Written {
        self.written
    }
}
