//! Records sorted bytewise in bounded memory: sorted runs in temporary files, merged
//! at the end.
//!
//! The files have no names, so that nothing is left of them however the process
//! ends. Runs of about one size are merged to a longer one when there are many, so
//! that few files are open and no record is written often. In a file, a record stands
//! behind its length, in four bytes.

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    fs::{self, File},
    io::{self, BufReader, BufWriter, Read, Seek, Write},
    path::{Path, PathBuf},
};

/// Bytes of lines that are held in memory.
const HELD_BYTES_MAX: usize = 32 * 1024 * 1024;

/// Runs that are merged to one of the next level.
const RUNS_MAX: usize = 16;

/// What a line costs beside its bytes.
const LINE_OVERHEAD: usize = size_of::<Box<[u8]>>();

/// Why records could not be held back to be sorted.
#[derive(Debug, thiserror::Error)]
#[error("could not sort in {}: {source}", tmp.display())]
pub struct SortError {
    /// The directory for temporary files.
    pub tmp: PathBuf,
    /// What the system said.
    pub source: io::Error,
}

impl SortError {
    /// Whether the disk of the temporary files is full.
    pub fn is_disk_full(&self) -> bool {
        matches!(self.source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
    }
}

/// Sorts records.
#[derive(Debug)]
pub(crate) struct Sorted {
    held: Vec<Box<[u8]>>,
    held_bytes: usize,
    held_bytes_max: usize,
    /// Files of sorted lines, by how often their lines were merged.
    runs: Vec<Vec<File>>,
    tmp: PathBuf,
}

impl Sorted {
    /// Runs lie in the directory `tmp`, which is made when it is needed.
    pub(crate) fn new(tmp: &Path) -> Self {
        Self {
            held: Vec::new(),
            held_bytes: 0,
            held_bytes_max: HELD_BYTES_MAX,
            runs: Vec::new(),
            tmp: tmp.into(),
        }
    }

    /// Takes a record.
    pub(crate) fn push(&mut self, line: &[u8]) -> Result<(), SortError> {
        self.held_bytes += line.len() + LINE_OVERHEAD;
        self.held.push(line.into());
        if self.held_bytes > self.held_bytes_max { self.write_run() } else { Ok(()) }
    }

    /// Hands out all lines in order, once.
    pub(crate) fn finish<E: From<SortError>>(
        &mut self,
        mut take: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        if self.runs.is_empty() {
            self.held.sort_unstable();
            return self.held.iter().try_for_each(|line| take(line));
        }
        self.write_run()?;
        let runs = self.runs.drain(..).flatten().collect();
        self.merge(runs, take)
    }

    /// Puts the lines in memory into a run.
    fn write_run(&mut self) -> Result<(), SortError> {
        self.held.sort_unstable();
        let mut held = std::mem::take(&mut self.held);
        self.held_bytes = 0;
        let run = self.run(|file| held.drain(..).try_for_each(|line| self.write(file, &line)))?;
        // Its room is used again.
        self.held = held;
        self.add_run(run, 0)
    }

    fn add_run(&mut self, run: File, level: usize) -> Result<(), SortError> {
        if self.runs.len() == level {
            self.runs.push(Vec::new());
        }
        self.runs[level].push(run);
        if self.runs[level].len() < RUNS_MAX {
            return Ok(());
        }
        let runs = std::mem::take(&mut self.runs[level]);
        let merged = self.run(|file| self.merge(runs, |line| self.write(file, line)))?;
        self.add_run(merged, level + 1)
    }

    /// A new file with what `fill` writes, to be read from its beginning.
    fn run(
        &self,
        fill: impl FnOnce(&mut BufWriter<File>) -> Result<(), SortError>,
    ) -> Result<File, SortError> {
        let create = || {
            fs::create_dir_all(&self.tmp)?;
            tempfile::tempfile_in(&self.tmp)
        };
        let mut file = BufWriter::new(create().map_err(|error| self.error(error))?);
        fill(&mut file)?;
        let rewound = file.into_inner().map_err(io::IntoInnerError::into_error);
        let rewound = rewound.and_then(|mut file| file.rewind().map(|()| file));
        rewound.map_err(|error| self.error(error))
    }

    fn write(&self, file: &mut BufWriter<File>, line: &[u8]) -> Result<(), SortError> {
        let length = u32::try_from(line.len()).unwrap_or(u32::MAX).to_be_bytes();
        let written = file.write_all(&length).and_then(|()| file.write_all(line));
        written.map_err(|error| self.error(error))
    }

    fn merge<E: From<SortError>>(
        &self,
        runs: Vec<File>,
        mut take: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut runs: Vec<_> = runs.into_iter().map(BufReader::new).collect();
        let mut heads = BinaryHeap::with_capacity(runs.len());
        for (index, run) in runs.iter_mut().enumerate() {
            if let Some(line) = self.next_line(run, Vec::new())? {
                heads.push(Reverse((line, index)));
            }
        }
        while let Some(Reverse((line, index))) = heads.pop() {
            take(&line)?;
            if let Some(line) = self.next_line(&mut runs[index], line)? {
                heads.push(Reverse((line, index)));
            }
        }
        Ok(())
    }

    fn next_line(
        &self,
        run: &mut impl Read,
        mut line: Vec<u8>,
    ) -> Result<Option<Vec<u8>>, SortError> {
        let mut length = [0; 4];
        match run.read_exact(&mut length) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            Err(error) => return Err(self.error(error)),
        }
        line.resize(u32::from_be_bytes(length) as usize, 0);
        run.read_exact(&mut line).map_err(|error| self.error(error))?;
        Ok(Some(line))
    }

    fn error(&self, source: io::Error) -> SortError {
        SortError { tmp: self.tmp.clone(), source }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The lines in order, and how many runs there were at each level at the end.
    fn sort(tmp: &Path, lines: &[String], held_bytes_max: usize) -> (Vec<String>, Vec<usize>) {
        let mut sorted = Sorted { held_bytes_max, ..Sorted::new(tmp) };
        for line in lines {
            sorted.push(line.as_bytes()).unwrap();
        }
        let runs = sorted.runs.iter().map(Vec::len).collect();
        let mut out = Vec::new();
        sorted
            .finish(|line| {
                out.push(String::from_utf8(line.into()).unwrap());
                Ok::<_, SortError>(())
            })
            .unwrap();
        (out, runs)
    }

    #[test]
    fn lines_come_out_sorted_whatever_fits_into_memory() {
        let dir = tempfile::TempDir::new().unwrap();
        let tmp = dir.path().join("tmp");
        let mut rng = fastrand::Rng::with_seed(2);
        let mut lines: Vec<String> =
            (0..5_000).map(|_| "ab".repeat(rng.usize(..9)) + &rng.u16(..).to_string()).collect();
        lines.push(String::new());
        let unsorted = lines.clone();
        lines.sort();

        let (all, runs) = sort(&tmp, &unsorted, usize::MAX);
        assert!((all == lines) && runs.is_empty());
        assert!(!tmp.exists(), "what fits into memory needs no place");
        let (all, runs) = sort(&tmp, &unsorted, 20_000);
        assert!((all == lines) && runs.len() == 1 && runs[0] > 1, "{runs:?}");
        let (all, runs) = sort(&tmp, &unsorted, 300);
        assert!((all == lines) && runs.len() == 3, "{runs:?}");
        assert!(runs.iter().all(|runs| *runs < RUNS_MAX), "{runs:?}");
        assert_eq!(fs::read_dir(&tmp).unwrap().count(), 0, "no run has a name");
    }
}
