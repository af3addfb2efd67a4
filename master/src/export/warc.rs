//! The segments themselves: as they are, into a directory, or joined to one file,
//! which is a WARC file as well.
//!
//! They are read through before they are copied, so that what is handed out is
//! known to be whole. A CDXJ index tells of the segments, not of the joined file.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader, Read},
    path::Path,
};

use super::{ExportError, Output, Summary};
use crate::pages::{Committed, RecordError, Scan, Segments};

const BUFFER_BYTES: usize = 256 * 1024;

/// Copies the committed bytes of `segments` to `out`.
pub(super) fn copy(
    segments: &Segments,
    committed: Committed,
    out: &Path,
) -> Result<Summary, ExportError> {
    let wants_dir = out.is_dir() || out.as_os_str().as_encoded_bytes().ends_with(b"/");
    let mut summary = Summary::default();
    if wants_dir {
        let error = |source| ExportError::Write { path: out.into(), source };
        fs::create_dir_all(out).map_err(error)?;
        summary.pages = count(segments, committed)?;
        for number in 1..=committed.segment {
            let mut output = Output::create(&out.join(segments.file_name(number)))?;
            append(segments, number, committed, &mut output)?;
            summary.bytes += output.commit()?;
        }
    } else {
        let mut output = Output::create(out)?;
        summary.pages = count(segments, committed)?;
        for number in 1..=committed.segment {
            append(segments, number, committed, &mut output)?;
        }
        summary.bytes = output.commit()?;
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

fn append(
    segments: &Segments,
    number: u32,
    committed: Committed,
    output: &mut Output,
) -> Result<(), ExportError> {
    let path = segments.path(number);
    let error = |source| RecordError::Io(source).at(&path, 0);
    let bytes = if number == committed.segment { committed.bytes } else { u64::MAX };
    let file = File::open(&path).map_err(error)?;
    let mut file = BufReader::with_capacity(BUFFER_BYTES, file.take(bytes));
    loop {
        let chunk = file.fill_buf().map_err(error)?;
        if chunk.is_empty() {
            return Ok(());
        }
        output.write(&[chunk])?;
        let taken = chunk.len();
        file.consume(taken);
    }
}
