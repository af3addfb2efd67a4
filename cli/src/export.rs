//! Taking a crawl's pages away.

use std::{
    io::{BufWriter, Write, stderr, stdout},
    path::{Path, PathBuf},
};

use clap::{Args, ValueEnum};
use trawl_master::{
    archive::Archive,
    export::{self as pages, ExportError, Format, Summary},
};
use trawl_shared::units::Size;

use crate::{
    exit::{Exit, Failure},
    render::counted,
};

/// Bytes that are collected before they are written to a pipe.
const PIPE_BYTES: usize = 256 * 1024;

#[derive(Args, Debug)]
pub(crate) struct ExportArgs {
    /// The data directory of the crawl
    #[arg(long, value_name = "DIR", default_value = "trawl-data")]
    data: PathBuf,

    /// The crawl, if the data directory holds several
    #[arg(long, value_name = "NAME")]
    crawl: Option<String>,

    /// What to write
    #[arg(long, value_enum)]
    format: FormatOption,

    /// The file to write or replace; `-` is standard output. For warc, an existing directory (or
    /// a path that ends in `/`) takes the segments as they are
    #[arg(long, value_name = "PATH")]
    out: PathBuf,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum FormatOption {
    /// One JSON object a line for every URL that was answered
    Jsonl,
    /// WARC/1.1, a gzip member a record
    Warc,
    /// The sorted index of the WARC segments
    Cdxj,
    /// Documents {_id, url, page} for mongorestore, page compressed by zlib
    Bson,
}

/// Writes a crawl's pages.
pub(crate) fn export(args: &ExportArgs) -> Result<Exit, Failure> {
    let archive = Archive::open(&args.data)?;
    let crawl = archive.crawl(args.crawl.as_deref())?;
    let format = Format::from(args.format);
    let done = if is_pipe(&args.out) {
        let mut pipe = BufWriter::with_capacity(PIPE_BYTES, stdout().lock());
        let done = pages::export(&crawl, format, &mut pipe, &archive.tmp())?;
        pipe.flush()?;
        done
    } else {
        pages::export_file(&crawl, format, &args.out)?
    };
    tell(&done, &args.out)?;
    Ok(Exit::Done)
}

/// Whether the pages go to standard output.
fn is_pipe(out: &Path) -> bool {
    out == Path::new("-")
}

/// Says what was written; not among the pages.
fn tell(done: &Summary, out: &Path) -> std::io::Result<()> {
    let mut to: Box<dyn Write> = Box::new(stdout());
    let mut name = out.display().to_string();
    if is_pipe(out) {
        to = Box::new(stderr());
        name = "standard output".into();
    }
    writeln!(to, "{} pages, {} written to {name}", done.pages, Size::bytes(done.bytes))?;
    if done.left_out > 0 {
        let left_out = counted(done.left_out, "answer");
        writeln!(to, "{left_out} left out: only pages of status 2xx fit this format")?;
    }
    Ok(())
}

impl From<FormatOption> for Format {
    fn from(option: FormatOption) -> Self {
        match option {
            FormatOption::Jsonl => Self::Jsonl,
            FormatOption::Warc => Self::Warc,
            FormatOption::Cdxj => Self::Cdxj,
            FormatOption::Bson => Self::Bson,
        }
    }
}

impl From<ExportError> for Failure {
    fn from(error: ExportError) -> Self {
        match error {
            error if error.is_disk_full() => Self::caused(Exit::DiskFull, &error),
            ExportError::Output(error) => error.into(),
            error => Self::caused(Exit::Failed, &error),
        }
    }
}
