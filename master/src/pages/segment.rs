//! A crawl's segments by name and number, and one segment being written to.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use bytes::Bytes;

use super::PageStoreError;
use crate::sabotage::{Hardening, is_left_out};

const SUFFIX: &str = ".warc.gz";

/// A crawl's directory of segments: `<crawl>-00000001.warc.gz` and so on.
#[derive(Clone, Debug)]
pub struct Segments {
    dir: PathBuf,
    crawl: String,
}

/// The segment that pages are appended to.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) number: u32,
    pub(super) path: PathBuf,
    pub(super) file: File,
    /// Bytes of it that were written whole.
    pub(super) end: u64,
}

impl Segments {
    /// The segments of `crawl` in `dir`. Nothing is opened.
    ///
    /// # Errors
    /// If the name could lead elsewhere than to files in `dir`.
    pub fn new(dir: &Path, crawl: &str) -> Result<Self, PageStoreError> {
        let is_plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
        if crawl.is_empty()
            || crawl.len() > 64
            || crawl.starts_with('.')
            || !crawl.bytes().all(is_plain)
        {
            return Err(PageStoreError::Name(crawl.into()));
        }
        Ok(Self { dir: dir.into(), crawl: crawl.into() })
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The crawl's name.
    pub fn crawl(&self) -> &str {
        &self.crawl
    }

    /// A segment's file name.
    pub fn file_name(&self, number: u32) -> String {
        format!("{}-{number:08}{SUFFIX}", self.crawl)
    }

    /// A segment's path.
    pub fn path(&self, number: u32) -> PathBuf {
        self.dir.join(self.file_name(number))
    }

    /// The segments that exist, with how many bytes they have.
    pub(crate) fn list(&self) -> Result<BTreeMap<u32, u64>, PageStoreError> {
        let error = |source| PageStoreError::io("list", &self.dir, source);
        let mut found = BTreeMap::new();
        for entry in fs::read_dir(&self.dir).map_err(error)? {
            let entry = entry.map_err(error)?;
            if let Some(number) = entry.file_name().to_str().and_then(|name| self.number(name)) {
                found.insert(number, entry.metadata().map_err(error)?.len());
            }
        }
        Ok(found)
    }

    fn number(&self, file_name: &str) -> Option<u32> {
        let number = file_name.strip_prefix(&self.crawl)?.strip_prefix('-')?;
        let number = number.strip_suffix(SUFFIX)?.parse().ok()?;
        // Also rules out other spellings of the same number.
        (self.file_name(number) == file_name).then_some(number)
    }

    /// Makes what was created or removed in the directory durable.
    pub(crate) fn sync_dir(&self) -> Result<(), PageStoreError> {
        File::open(&self.dir)
            .and_then(|dir| dir.sync_all())
            .map_err(|source| PageStoreError::io("sync", &self.dir, source))
    }
}

impl Segment {
    /// A new, empty segment; an older file of its name is overwritten.
    pub(super) fn create(path: PathBuf, number: u32) -> Result<Self, PageStoreError> {
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .open(&path)
            .map_err(|source| PageStoreError::io("create", &path, source))?;
        Ok(Self { number, path, file, end: 0 })
    }

    /// An existing segment, of which `end` bytes count: the rest is cut off.
    pub(super) fn open(path: PathBuf, number: u32, end: u64) -> Result<Self, PageStoreError> {
        let file = OpenOptions::new()
            .write(true)
            .open(&path)
            .map_err(|source| PageStoreError::io("open", &path, source))?;
        let segment = Self { number, path, file, end };
        segment.seal()?;
        Ok(segment)
    }

    /// Writes at the end. After an error the segment ends where it did before;
    /// positioned writes make that true even if the file cannot be shortened.
    pub(super) fn append(&mut self, chunks: &[Bytes]) -> Result<(), PageStoreError> {
        let mut end = self.end;
        for chunk in chunks {
            if let Err(source) = self.file.write_all_at(chunk, end) {
                // Gives the space back; not needed for what is read later.
                let _ = self.file.set_len(self.end);
                return Err(PageStoreError::io("write to", &self.path, source));
            }
            end += chunk.len() as u64;
        }
        self.end = end;
        Ok(())
    }

    /// Makes all that was written durable.
    pub(super) fn sync(&self) -> Result<(), PageStoreError> {
        if is_left_out(Hardening::PageSync) {
            return Ok(());
        }
        self.file.sync_data().map_err(|source| PageStoreError::io("sync", &self.path, source))
    }

    /// Cuts off what is beyond the end, and makes the rest durable.
    pub(super) fn seal(&self) -> Result<(), PageStoreError> {
        let cut = || -> io::Result<()> {
            if self.file.metadata()?.len() > self.end {
                self.file.set_len(self.end)?;
            }
            self.file.sync_all()
        };
        cut().map_err(|source| PageStoreError::io("cut", &self.path, source))
    }
}
