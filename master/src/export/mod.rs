//! What people take away: one pass over a crawl's pages that feeds a sink.
//!
//! Promises: the output appears under its name only when it is whole and on
//! stable storage, and replaces what was there only then; memory is one page, and
//! a bounded buffer where order needs one. A crawl may go on meanwhile: only what
//! was committed at the start is exported.

use std::{
    fmt, io,
    path::{Path, PathBuf},
    str::FromStr,
};

use crate::pages::{Committed, PageStoreError, ReadError, Scan, ScannedPage, Segments};

mod output;

mod jsonl;

mod cdxj;

mod surt;

mod sorted;

mod bson;

mod warc;

use output::Output;

/// What an export is written as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// One page's metadata a line, as JSON.
    Jsonl,
    /// A sorted index of the segments, as replay tools read it.
    Cdxj,
    /// Documents with the bodies of good pages, as `mongorestore` reads them.
    Bson,
    /// The segments themselves.
    Warc,
}

/// What an export has written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Pages in the output.
    pub pages: u64,
    /// Bytes of the output.
    pub bytes: u64,
    /// Pages left out because the format cannot hold them: in BSON, answers other
    /// than 2xx and bodies too large for a document.
    pub left_out: u64,
}

/// Why an export was not made.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The output is a directory, but the format is one file.
    #[error("{} is a directory; this format is one file", .0.display())]
    Directory(PathBuf),
    /// The output could not be written.
    #[error("could not write {}: {source}", path.display())]
    Write {
        /// The output.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A page could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The segments could not be found.
    #[error(transparent)]
    Segments(#[from] PageStoreError),
}

/// What makes an output file of pages.
trait Sink {
    /// Takes the next page, and says whether it is in the output.
    fn page(&mut self, page: &ScannedPage<'_>, output: &mut Output) -> Result<bool, ExportError>;

    /// Writes what was held back.
    fn finish(&mut self, _output: &mut Output) -> Result<(), ExportError> {
        Ok(())
    }
}

/// Writes the committed pages of `crawl`, whose segments are in `pages_dir`, to
/// `out`. For [`Format::Warc`] an `out` that is a directory, or ends with a slash,
/// gets the segments as they are; otherwise one file gets them all.
///
/// # Errors
/// If a page is damaged, or if the system says no. Then there is no output, or the
/// old one.
pub fn export(
    pages_dir: &Path,
    crawl: &str,
    committed: Committed,
    format: Format,
    out: &Path,
) -> Result<Summary, ExportError> {
    let segments = Segments::new(pages_dir, crawl)?;
    let file = || Output::create(out);
    let scan = || Scan::new(segments.clone(), committed);
    match format {
        Format::Jsonl => feed(jsonl::Jsonl, scan(), file()?),
        Format::Cdxj => feed(cdxj::Cdxj::new(out), scan(), file()?),
        Format::Bson => feed(bson::Bson::new(), scan(), file()?),
        Format::Warc => warc::copy(&segments, committed, out),
    }
}

fn feed(mut sink: impl Sink, mut scan: Scan, mut output: Output) -> Result<Summary, ExportError> {
    let mut summary = Summary::default();
    while let Some(page) = scan.next_page()? {
        if sink.page(&page, &mut output)? {
            summary.pages += 1;
        } else {
            summary.left_out += 1;
        }
    }
    sink.finish(&mut output)?;
    summary.bytes = output.commit()?;
    Ok(summary)
}

impl ExportError {
    /// Whether the disk of the output is full.
    pub fn is_disk_full(&self) -> bool {
        use io::ErrorKind::{QuotaExceeded, StorageFull};
        match self {
            Self::Write { source, .. } => matches!(source.kind(), StorageFull | QuotaExceeded),
            _ => false,
        }
    }
}

impl Format {
    /// Every format.
    pub const ALL: [Self; 4] = [Self::Jsonl, Self::Cdxj, Self::Bson, Self::Warc];

    /// Its name on the command line, and the usual file name extension.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Jsonl => "jsonl",
            Self::Cdxj => "cdxj",
            Self::Bson => "bson",
            Self::Warc => "warc",
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Format {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let known = Self::ALL.into_iter().find(|format| format.as_str() == name);
        known.ok_or_else(|| format!("{name:?} is no format; jsonl, cdxj, bson and warc are"))
    }
}

#[cfg(test)]
mod tests;
