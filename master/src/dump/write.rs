//! Writing a dump.

use std::{
    io::{self, Write},
    path::Path,
};

use flate2::{Compression, write::GzEncoder};
use trawl_shared::untrusted::printable_json;

use super::{Counts, End, EndLine, Head, Sums, words};
use crate::{
    export::{ExportError, WholeFile},
    store::Batch,
};

/// Why a dump was not written.
#[derive(Debug, thiserror::Error)]
pub enum DumpError {
    /// The file cannot be.
    #[error(transparent)]
    File(#[from] ExportError),
    /// It takes no more.
    #[error("could not write the dump: {0}")]
    Write(#[from] io::Error),
    /// A line cannot be made.
    #[error("a row cannot be written: {0}")]
    Row(#[from] serde_json::Error),
}

/// A dump, being written.
pub struct Dumper<'a> {
    out: Out<'a>,
    sums: Sums,
    counts: Counts,
}

/// Where it goes.
enum Out<'a> {
    Pipe(&'a mut dyn Write),
    File(WholeFile),
    Gzip(Box<GzEncoder<WholeFile>>),
}

impl<'a> Dumper<'a> {
    /// A dump to a file, which appears under its name when it is whole; compressed if
    /// that ends in `.gz`.
    ///
    /// # Errors
    /// If the file cannot be made.
    pub fn to_file(path: &Path, head: &Head) -> Result<Self, DumpError> {
        let is_gzip = path.extension().is_some_and(|extension| extension == "gz");
        let file = WholeFile::create(path)?;
        let out = if is_gzip {
            Out::Gzip(Box::new(GzEncoder::new(file, Compression::new(6))))
        } else {
            Out::File(file)
        };
        Self::new(out, head)
    }

    /// A dump to a pipe.
    ///
    /// # Errors
    /// If it takes nothing.
    pub fn to_pipe(pipe: &'a mut dyn Write, head: &Head) -> Result<Self, DumpError> {
        Self::new(Out::Pipe(pipe), head)
    }

    fn new(out: Out<'a>, head: &Head) -> Result<Self, DumpError> {
        let mut dumper = Self { out, sums: Sums::new(), counts: Counts::default() };
        dumper.line(&serde_json::to_string(head)?)?;
        Ok(dumper)
    }

    /// Writes the next rows.
    ///
    /// # Errors
    /// If the output takes no more.
    pub fn write(&mut self, rows: &Batch) -> Result<(), DumpError> {
        for words in words::of_batch(rows) {
            // Some of it was said by hosts and workers, and a dump may go to a terminal.
            self.line(&printable_json(&serde_json::to_string(&words)?))?;
            self.counts.lines += 1;
            *self.counts.rows.entry(words.table().to_owned()).or_default() += 1;
        }
        Ok(())
    }

    /// Writes the end. The dump is whole, and durable if it is a file.
    ///
    /// # Errors
    /// As [`Dumper::write`].
    pub fn finish(mut self) -> Result<Counts, DumpError> {
        let end = End { counts: self.counts.clone(), sha1: self.sums.sha1() };
        self.line(&serde_json::to_string(&EndLine { end })?)?;
        match self.out {
            Out::Pipe(pipe) => pipe.flush()?,
            Out::File(file) => file.commit()?,
            Out::Gzip(encoder) => encoder.finish()?.commit()?,
        }
        Ok(self.counts)
    }

    /// Rows written so far.
    pub fn lines(&self) -> u64 {
        self.counts.lines
    }

    /// Writes a line: the object, with its sum as the first key.
    fn line(&mut self, json: &str) -> Result<(), DumpError> {
        let sum = self.sums.add(json);
        let rest = json.strip_prefix('{').unwrap_or(json);
        writeln!(self.out, "{{\"sum\":\"{sum}\",{rest}")?;
        Ok(())
    }
}

impl Write for Out<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Pipe(pipe) => pipe.write(bytes),
            Self::File(file) => file.write(bytes),
            Self::Gzip(encoder) => encoder.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Pipe(pipe) => pipe.flush(),
            Self::File(file) => file.flush(),
            Self::Gzip(encoder) => encoder.flush(),
        }
    }
}
