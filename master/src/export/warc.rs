//! The segments themselves: as they are, into a directory, or joined to one file,
//! which is a WARC file as well.
//!
//! Every page is read before its bytes are handed out, so that what comes out is
//! known to be whole. A CDXJ index tells of the segments, not of the joined file.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
};

use trawl_shared::warc::MemberError;

use super::{Counted, ExportError, Sink, Summary, WholeFile};
use crate::pages::{Committed, CrawlPages, RecordError, Scan, ScannedPage, Segments};

const BUFFER_BYTES: usize = 256 * 1024;

/// Writes the segments as one.
pub(super) struct Joined {
    segments: Segments,
    committed: Committed,
    number: u32,
    segment: Option<Segment>,
}

/// A segment that is being handed out.
struct Segment {
    path: PathBuf,
    file: BufReader<File>,
    at: u64,
    /// Bytes of it that count.
    bytes: u64,
}

impl Joined {
    pub(super) fn new(segments: Segments, committed: Committed) -> Self {
        Self { segments, committed, number: 0, segment: None }
    }

    /// Hands out everything before byte `end` of a segment.
    fn copy_to(&mut self, number: u32, end: u64, out: &mut Counted<'_>) -> Result<(), ExportError> {
        while self.number < number {
            if let Some(segment) = &mut self.segment {
                segment.copy_to(segment.bytes, out)?;
            }
            self.number += 1;
            self.segment = Some(Segment::open(&self.segments, self.number, self.committed)?);
        }
        match &mut self.segment {
            Some(segment) => segment.copy_to(end, out),
            None => Ok(()),
        }
    }
}

impl Sink for Joined {
    fn page(&mut self, page: &ScannedPage<'_>, out: &mut Counted<'_>) -> Result<bool, ExportError> {
        self.copy_to(page.place.segment, page.place.end(), out)?;
        Ok(true)
    }

    fn finish(&mut self, out: &mut Counted<'_>) -> Result<(), ExportError> {
        self.copy_to(self.committed.segment, self.committed.bytes, out)
    }
}

impl Segment {
    fn open(segments: &Segments, number: u32, committed: Committed) -> Result<Self, ExportError> {
        let (file, bytes) = segments.open(number, committed)?;
        let file = BufReader::with_capacity(BUFFER_BYTES, file);
        Ok(Self { path: segments.path(number), file, at: 0, bytes })
    }

    fn copy_to(&mut self, end: u64, out: &mut Counted<'_>) -> Result<(), ExportError> {
        while self.at < end {
            let chunk = self
                .file
                .fill_buf()
                .map_err(|error| RecordError::from(error).at(&self.path, self.at))?;
            if chunk.is_empty() {
                let cut_off = RecordError::from(MemberError::CutOff);
                return Err(cut_off.at(&self.path, self.at).into());
            }
            let wanted = usize::try_from(end - self.at).unwrap_or(usize::MAX);
            let taken = chunk.len().min(wanted);
            out.write(&[&chunk[..taken]])?;
            self.file.consume(taken);
            self.at += taken as u64;
        }
        Ok(())
    }
}

/// Copies the segments into the directory `out`, once all pages have been read.
pub(super) fn copy(pages: &CrawlPages, out: &Path) -> Result<Summary, ExportError> {
    let segments = pages.segments()?;
    fs::create_dir_all(out).map_err(|source| ExportError::Write { path: out.into(), source })?;
    let mut summary = Summary { pages: count(&segments, pages.committed)?, ..Summary::default() };
    for number in 1..=pages.committed.segment {
        let path = out.join(segments.file_name(number));
        let mut file = WholeFile::create(&path)?;
        let mut out = Counted { output: &mut file, bytes: 0 };
        let mut segment = Segment::open(&segments, number, pages.committed)?;
        segment.copy_to(segment.bytes, &mut out).map_err(|error| error.at(&path))?;
        summary.bytes += out.bytes;
        file.commit()?;
    }
    Ok(summary)
}

/// Reads all pages, and says how many there are.
fn count(segments: &Segments, committed: Committed) -> Result<u64, ExportError> {
    let mut scan = Scan::new(segments.clone(), committed);
    let mut pages = 0;
    while scan.next_page()?.is_some() {
        pages += 1;
    }
    Ok(pages)
}
