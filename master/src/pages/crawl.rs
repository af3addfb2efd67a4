//! A crawl's pages as far as they were committed at one moment: all that a reader
//! needs to know. The crawl may go on meanwhile.

use std::path::PathBuf;

use super::{Committed, PageStoreError, Segments};

/// A crawl's committed pages.
#[derive(Clone, Debug)]
pub struct CrawlPages {
    /// The crawl's number.
    pub crawl: u32,
    /// Its name.
    pub name: String,
    /// The directory of its segments.
    pub directory: PathBuf,
    /// Where they end.
    pub committed: Committed,
}

impl CrawlPages {
    /// Its segments.
    ///
    /// # Errors
    /// If its name could lead elsewhere.
    pub fn segments(&self) -> Result<Segments, PageStoreError> {
        Segments::new(&self.directory, &self.name)
    }
}
