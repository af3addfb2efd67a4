//! Lines sorted bytewise in bounded memory: sorted runs in files next to the
//! output, merged at the end.

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    fs::{self, File},
    io::{self, BufRead, BufReader, BufWriter, Write},
    path::{Path, PathBuf},
};

use super::output::beside;

/// Bytes of lines that are held in memory.
const HELD_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Runs that are merged at once: as many files are open.
const RUNS_MAX: usize = 64;

/// What a line costs beside its bytes.
const LINE_OVERHEAD: usize = size_of::<Box<[u8]>>();

/// Sorts lines. None may hold a line end.
#[derive(Debug)]
pub(super) struct Sorted {
    held: Vec<Box<[u8]>>,
    held_bytes: usize,
    held_bytes_max: usize,
    runs: Vec<Run>,
    /// The next run's number.
    next: usize,
    path: PathBuf,
}

/// A file of sorted lines; removed when dropped.
#[derive(Debug)]
struct Run(PathBuf);

impl Sorted {
    /// Runs are named after `path`.
    pub(super) fn new(path: &Path) -> Self {
        Self {
            held: Vec::new(),
            held_bytes: 0,
            held_bytes_max: HELD_BYTES_MAX,
            runs: Vec::new(),
            next: 1,
            path: path.into(),
        }
    }

    /// Takes a line.
    pub(super) fn push(&mut self, line: &str) -> io::Result<()> {
        self.held_bytes += line.len() + LINE_OVERHEAD;
        self.held.push(line.as_bytes().into());
        if self.held_bytes > self.held_bytes_max {
            self.write_run()?;
        }
        Ok(())
    }

    /// Hands out all lines in order, once.
    pub(super) fn finish<E: From<io::Error>>(
        &mut self,
        mut take: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        if !self.runs.is_empty() {
            self.write_run()?;
            return merge(&self.runs, take);
        }
        self.held.sort_unstable();
        self.held.iter().try_for_each(|line| take(line))
    }

    fn write_run(&mut self) -> io::Result<()> {
        self.held.sort_unstable();
        let (run, mut file) = self.create_run()?;
        for line in self.held.drain(..) {
            write_line(&mut file, &line)?;
        }
        file.flush()?;
        self.held_bytes = 0;
        self.runs.push(run);
        if self.runs.len() >= RUNS_MAX {
            let (run, mut file) = self.create_run()?;
            merge(&self.runs, |line| write_line(&mut file, line))?;
            file.flush()?;
            self.runs = vec![run];
        }
        Ok(())
    }

    fn create_run(&mut self) -> io::Result<(Run, BufWriter<File>)> {
        let run = Run(beside(&self.path, &format!(".run-{}", self.next)));
        self.next += 1;
        let file = File::create(&run.0)?;
        Ok((run, BufWriter::new(file)))
    }
}

fn write_line(file: &mut impl Write, line: &[u8]) -> io::Result<()> {
    file.write_all(line)?;
    file.write_all(b"\n")
}

fn merge<E: From<io::Error>>(
    runs: &[Run],
    mut take: impl FnMut(&[u8]) -> Result<(), E>,
) -> Result<(), E> {
    let mut files = Vec::with_capacity(runs.len());
    let mut heads = BinaryHeap::with_capacity(runs.len());
    for (index, run) in runs.iter().enumerate() {
        files.push(BufReader::new(File::open(&run.0)?));
        if let Some(line) = next_line(&mut files[index], Vec::new())? {
            heads.push(Reverse((line, index)));
        }
    }
    while let Some(Reverse((line, index))) = heads.pop() {
        take(&line)?;
        if let Some(line) = next_line(&mut files[index], line)? {
            heads.push(Reverse((line, index)));
        }
    }
    Ok(())
}

fn next_line(file: &mut impl BufRead, mut line: Vec<u8>) -> io::Result<Option<Vec<u8>>> {
    line.clear();
    file.read_until(b'\n', &mut line)?;
    Ok((line.pop() == Some(b'\n')).then_some(line))
}

impl Drop for Run {
    fn drop(&mut self) {
        // Left behind, it is in nobody's way.
        let _ = fs::remove_file(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sort(dir: &Path, lines: &[String], held_bytes_max: usize) -> (Vec<String>, usize) {
        let mut sorted = Sorted { held_bytes_max, ..Sorted::new(&dir.join("out")) };
        for line in lines {
            sorted.push(line).unwrap();
        }
        let mut out = Vec::new();
        let take = |line: &[u8]| -> io::Result<()> {
            out.push(String::from_utf8(line.into()).unwrap());
            Ok(())
        };
        sorted.finish(take).unwrap();
        (out, sorted.next - 1)
    }

    #[test]
    fn lines_come_out_sorted_whatever_fits_into_memory() {
        let dir = tempfile::TempDir::new().unwrap();
        let mut rng = fastrand::Rng::with_seed(2);
        let mut lines: Vec<String> =
            (0..5_000).map(|_| "ab".repeat(rng.usize(..9)) + &rng.u16(..).to_string()).collect();
        lines.push(String::new());
        let unsorted = lines.clone();
        lines.sort();

        let (all, runs) = sort(dir.path(), &unsorted, usize::MAX);
        assert!((all == lines) && runs == 0);
        let (all, runs) = sort(dir.path(), &unsorted, 20_000);
        assert!((all == lines) && (2..RUNS_MAX).contains(&runs), "{runs}");
        let (all, runs) = sort(dir.path(), &unsorted, 300);
        assert!((all == lines) && runs > 3 * RUNS_MAX, "{runs}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "no run is left");
    }
}
