//! What must survive: an ordered map of small rows.
//!
//! The seam is four steps wide, so that another engine can stand behind it. One
//! writer uses it, through [`Store::apply`]; a row is at most a few hundred
//! bytes. Page bytes are not kept here (see `pages`).

pub mod keys;
pub mod memory;
pub mod rows;
pub mod sled;
#[cfg(test)]
mod suite;

/// An ordered map with atomic batches.
pub trait Store: Send + 'static {
    /// The value of a key.
    ///
    /// # Errors
    /// If the engine cannot read.
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError>;

    /// The rows from `from` (included) to `to` (not included), ascending.
    fn range<'a>(&'a self, from: &[u8], to: &[u8]) -> Rows<'a>;

    /// Makes all of the batch's changes, or none, also across a crash. They are
    /// seen by reads at once, and durable after the next [`Store::sync`].
    ///
    /// # Errors
    /// If the engine cannot write. Any such error is final for this process: it
    /// stops, and what was synced is found again at the next start.
    fn apply(&mut self, batch: Batch) -> Result<(), StoreError>;

    /// Returns when everything applied so far is on stable storage.
    ///
    /// # Errors
    /// As [`Store::apply`].
    fn sync(&mut self) -> Result<(), StoreError>;
}

/// Changes to apply together: a key with its new value, or with none to remove it.
pub type Batch = Vec<(Vec<u8>, Option<Vec<u8>>)>;

/// A key and its value.
pub type Row = (Vec<u8>, Vec<u8>);

/// The rows of a range.
pub type Rows<'a> = Box<dyn Iterator<Item = Result<Row, StoreError>> + 'a>;

/// Why the store could not do its work.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The disk is full.
    #[error("the disk is full; free some space and start again, nothing acknowledged is lost")]
    DiskFull,
    /// The engine failed.
    #[error("the frontier's store failed: {0}")]
    Engine(String),
    /// A row cannot be read.
    #[error("the frontier's store is damaged: {0}")]
    Damaged(String),
    /// The build would not keep its promises.
    #[error("{0}")]
    Unsafe(&'static str),
}
