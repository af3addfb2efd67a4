//! What people take away: one pass over a crawl's pages that feeds a sink.
//!
//! Promises: a file appears under its name only when it is whole and on stable
//! storage, and replaces what was there only then; memory is one page, and a
//! bounded buffer where order needs one. A crawl may go on meanwhile: only what
//! was committed at the start is exported.

use std::{
    fmt, io,
    path::{Path, PathBuf},
    str::FromStr,
};

use crate::{
    pages::{CrawlPages, PageStoreError, ReadError, Scan, ScannedPage},
    sorted::SortError,
};

mod file;

mod jsonl;

mod cdxj;

mod surt;

mod bson;

mod warc;

pub use file::WholeFile;

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
    /// Lines could not be held back to be sorted.
    #[error(transparent)]
    Sort(#[from] SortError),
    /// The output takes no more.
    #[error("could not write the export: {0}")]
    Output(#[source] io::Error),
    /// Nobody waits for the rest.
    #[error("the export is not wanted any more")]
    Unwanted,
    /// A page could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The segments could not be found.
    #[error(transparent)]
    Segments(#[from] PageStoreError),
}

/// Where an export goes: something that is written to, such as a file or a pipe, or
/// somebody who asked for it and may leave.
pub trait Output {
    /// Takes the next bytes. Returns when it has room for more.
    ///
    /// # Errors
    /// If it cannot; the export ends then.
    fn take(&mut self, bytes: &[u8]) -> io::Result<()>;

    /// Whether the rest is still wanted. Asked before every page, since some formats
    /// write nothing until the end.
    fn is_wanted(&self) -> bool {
        true
    }
}

impl<W: io::Write> Output for W {
    fn take(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.write_all(bytes)
    }
}

/// What makes an export of pages.
trait Sink {
    /// Takes the next page, and says whether it is in the export.
    fn page(&mut self, page: &ScannedPage<'_>, out: &mut Counted<'_>) -> Result<bool, ExportError>;

    /// Writes what was held back.
    fn finish(&mut self, _out: &mut Counted<'_>) -> Result<(), ExportError> {
        Ok(())
    }
}

/// An output, and how much it has taken.
struct Counted<'a> {
    output: &'a mut dyn Output,
    bytes: u64,
}

impl Counted<'_> {
    /// Writes the pieces, one after the other.
    fn write(&mut self, pieces: &[&[u8]]) -> Result<(), ExportError> {
        for piece in pieces {
            self.output.take(piece).map_err(ExportError::Output)?;
            self.bytes += piece.len() as u64;
        }
        Ok(())
    }
}

/// Hands the pages to `output`. What has to be sorted is held in files without
/// names in `tmp`, a directory that is made if it is needed. As [`Format::Warc`],
/// all segments are one.
///
/// # Errors
/// If a page is damaged, if the output takes no more, or if the system says no.
pub fn export(
    pages: &CrawlPages,
    format: Format,
    output: &mut dyn Output,
    tmp: &Path,
) -> Result<Summary, ExportError> {
    let segments = pages.segments()?;
    let scan = Scan::new(segments.clone(), pages.committed);
    match format {
        Format::Jsonl => feed(jsonl::Jsonl, scan, output),
        Format::Cdxj => feed(cdxj::Cdxj::new(tmp), scan, output),
        Format::Bson => feed(bson::Bson::new(), scan, output),
        Format::Warc => feed(warc::Joined::new(segments, pages.committed), scan, output),
    }
}

/// Writes the pages to the file `out`. For [`Format::Warc`] an `out` that is a
/// directory, or ends with a slash, gets the segments as they are.
///
/// # Errors
/// If a page is damaged, or if the system says no. Then there is no output, or the
/// old one.
pub fn export_file(pages: &CrawlPages, format: Format, out: &Path) -> Result<Summary, ExportError> {
    if format == Format::Warc && is_directory(out) {
        return warc::copy(pages, out);
    }
    let mut file = WholeFile::create(out)?;
    let summary = export(pages, format, &mut file, file::parent(out));
    let summary = summary.map_err(|error| error.at(out))?;
    file.commit()?;
    Ok(summary)
}

/// Whether a path means a directory: one that is there, or that ends with a slash.
pub fn is_directory(path: &Path) -> bool {
    path.is_dir() || path.as_os_str().as_encoded_bytes().ends_with(b"/")
}

fn feed(
    mut sink: impl Sink,
    mut scan: Scan,
    output: &mut dyn Output,
) -> Result<Summary, ExportError> {
    let mut summary = Summary::default();
    let mut out = Counted { output, bytes: 0 };
    while let Some(page) = scan.next_page()? {
        if !out.output.is_wanted() {
            return Err(ExportError::Unwanted);
        }
        if sink.page(&page, &mut out)? {
            summary.pages += 1;
        } else {
            summary.left_out += 1;
        }
    }
    sink.finish(&mut out)?;
    summary.bytes = out.bytes;
    Ok(summary)
}

impl ExportError {
    /// Whether the disk of the output is full.
    pub fn is_disk_full(&self) -> bool {
        use io::ErrorKind::{QuotaExceeded, StorageFull};
        match self {
            Self::Sort(error) => error.is_disk_full(),
            Self::Write { source, .. } | Self::Output(source) => {
                matches!(source.kind(), StorageFull | QuotaExceeded)
            }
            _ => false,
        }
    }

    /// With the path of the output, if it is about that.
    fn at(self, path: &Path) -> Self {
        match self {
            Self::Output(source) => Self::Write { path: path.into(), source },
            error => error,
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
