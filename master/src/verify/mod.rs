//! Proof that a data directory is as it should be: that its rows agree with each
//! other, that the counts are those of what they count, and that every page that the
//! frontier knows lies in its segments, whole, and nothing else.
//!
//! All rows are taken once, in the order of a walk, and turned into facts that are
//! sorted so that those meet that have to agree: those of a host in `rows`, those of a
//! place in the segments in `pages`. So memory is bounded, whatever the size: three
//! sorters of 32 MiB, a page, and some hundred bytes for a crawl. On disk it takes, in
//! the directory for temporary files, about 200 bytes for a URL, and as much again for
//! rows that may still change while they are walked.

pub(crate) mod matcher;
mod pages;
mod report;
mod rows;

pub use self::report::{CrawlProof, Kind, Report};

use std::path::Path;

use self::{
    pages::PageProof,
    rows::{HostProof, RowProof},
};
use crate::{
    pages::PageStoreError,
    sorted::{SortError, Sorted},
    store::{Batch, StoreError},
};

/// Why nothing could be proved.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// Facts could not be sorted.
    #[error(transparent)]
    Sort(#[from] SortError),
    /// The rows could not be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The segments could not be read.
    #[error(transparent)]
    Pages(#[from] PageStoreError),
}

/// A proof under way: rows first, then the segments.
#[derive(Debug)]
pub struct Verifier {
    /// Rows of a store that changes, which may come several times; the last one counts.
    changing: Option<Sorted>,
    taken: u64,
    rows: RowProof,
    report: Report,
}

impl Verifier {
    /// A proof that sorts in `tmp`. The rows come each once and in order if `is_still`.
    /// No more than `named` differences are named; all are counted.
    pub fn new(tmp: &Path, is_still: bool, named: usize) -> Self {
        Self {
            changing: (!is_still).then(|| Sorted::new(tmp)),
            taken: 0,
            rows: RowProof::new(tmp),
            report: Report::new(named),
        }
    }

    /// Takes the next rows.
    ///
    /// # Errors
    /// If they cannot be sorted.
    pub fn take(&mut self, rows: &Batch) -> Result<(), VerifyError> {
        for (key, value) in rows {
            self.taken += 1;
            match &mut self.changing {
                Some(sorted) => sorted.push(&versioned(key, self.taken, value.as_deref()))?,
                None => {
                    let value = value.as_deref().unwrap_or_default();
                    self.rows.row(key, value, &mut self.report)?;
                }
            }
        }
        Ok(())
    }

    /// Rows taken so far.
    pub fn taken(&self) -> u64 {
        self.taken
    }

    /// Holds all that was taken against each other, and against the segments in the
    /// directory `pages`. `told` hears how many pages were read.
    ///
    /// # Errors
    /// If something cannot be read; damage is no error but a difference.
    pub fn finish(
        mut self,
        pages: &Path,
        told: &mut dyn FnMut(u64),
    ) -> Result<Report, VerifyError> {
        if let Some(mut sorted) = self.changing.take() {
            let mut last: Option<(Vec<u8>, Option<Vec<u8>>)> = None;
            sorted.finish(|record| {
                let (key, value) = unversioned(record);
                if let Some((former, Some(row))) = last.take_if(|(former, _)| former != key) {
                    self.rows.row(&former, &row, &mut self.report)?;
                }
                last = Some((key.to_vec(), value.map(<[u8]>::to_vec)));
                Ok::<_, VerifyError>(())
            })?;
            if let Some((key, Some(row))) = last {
                self.rows.row(&key, &row, &mut self.report)?;
            }
        }
        let Self { rows, mut report, .. } = self;
        let (mut facts, mut places, crawls) = rows.finish()?;
        let mut hosts = HostProof::new(crawls);
        facts.finish(|fact| hosts.fact(fact, &mut report).map_err(VerifyError::from))?;
        let crawls = hosts.finish(&mut report);
        let mut proof = PageProof::new(pages, crawls, told);
        places.finish(|place| proof.place(place, &mut report))?;
        proof.finish(&mut report)?;
        Ok(report)
    }
}

/// A row with its number in the order of the walk, sorted by its key, then by that.
fn versioned(key: &[u8], number: u64, value: Option<&[u8]>) -> Vec<u8> {
    let key_bytes = u32::try_from(key.len()).unwrap_or(u32::MAX).to_be_bytes();
    let is_there = [u8::from(value.is_some())];
    [key, &number.to_be_bytes(), value.unwrap_or_default(), &is_there, &key_bytes].concat()
}

fn unversioned(record: &[u8]) -> (&[u8], Option<&[u8]>) {
    let (rest, key_bytes) = record.split_last_chunk::<4>().unwrap_or((record, &[0; 4]));
    let (is_there, rest) = rest.split_last().unwrap_or((&0, rest));
    let (key, rest) = rest.split_at(rest.len().min(u32::from_be_bytes(*key_bytes) as usize));
    (key, (*is_there == 1).then(|| rest.get(8..).unwrap_or_default()))
}

#[cfg(test)]
mod tests;
