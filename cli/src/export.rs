//! Taking a crawl's pages away: from a data directory, or from a master that runs.
//! Both write the same bytes, and a file appears under its name when it is whole.

use std::{
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
};

use clap::{Args, ValueEnum};
use tonic::Status;
use trawl_master::{
    archive::Archive,
    export::{self as pages, ExportError, Format, Summary, WholeFile},
};
use trawl_proto::v1::{ExportPart, ExportRequest, export_part::Part};
use trawl_shared::{shutdown, units::Size};

use crate::{
    exit::{Exit, Failure},
    operate::Operator,
    render::{self, counted},
    roles::runtime,
    source::{Source, SourceArgs, Unreceived},
};

/// Bytes that are collected before they are written to a pipe.
const PIPE_BYTES: usize = 256 * 1024;

#[derive(Args, Debug)]
pub(crate) struct ExportArgs {
    #[command(flatten)]
    source: SourceArgs,

    /// What to write
    #[arg(long, value_enum)]
    format: FormatOption,

    /// The file to write or replace; `-` is standard output. For warc, an existing directory (or
    /// a path that ends in `/`) takes the segments as they are, but not from a master
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
    let crawl = args.source.crawl.as_deref();
    let format = Format::from(args.format);
    if is_pipe(&args.out) && matches!(format, Format::Warc | Format::Bson) && render::is_seen() {
        return Err(Failure::usage(format!(
            "--out -: {format} is not for a terminal; send it to a program, or name a file"
        )));
    }
    let done = runtime()?.block_on(async {
        match args.source.open().await? {
            Source::Archive(archive) => from_archive(&archive, crawl, format, &args.out),
            Source::Master(master) => from_master(&master, crawl, format, &args.out).await,
        }
    });
    tell(&done?, &args.out)?;
    Ok(Exit::Done)
}

fn from_archive(
    archive: &Archive,
    crawl: Option<&str>,
    format: Format,
    out: &Path,
) -> Result<Summary, Failure> {
    let crawl = archive.crawl(crawl)?;
    if !is_pipe(out) {
        return Ok(pages::export_file(&crawl, format, out)?);
    }
    let mut pipe = pipe();
    let done = pages::export(&crawl, format, &mut pipe, &archive.tmp())?;
    pipe.flush()?;
    Ok(done)
}

async fn from_master(
    master: &Operator,
    crawl: Option<&str>,
    format: Format,
    out: &Path,
) -> Result<Summary, Failure> {
    if format == Format::Warc && pages::is_directory(out) {
        return Err(Failure::usage(format!(
            "{} is a directory, but a master sends its segments joined to one file: name a file, \
             or export with --data while the master does not run",
            out.display()
        )));
    }
    let signal = shutdown::on_signal()?;
    let crawl = crawl.unwrap_or_default().to_owned();
    let request = ExportRequest { crawl, format: format.to_string() };
    let receive = async {
        if is_pipe(out) {
            let mut pipe = pipe();
            let done = receive(master, request, &mut pipe).await?;
            let done = done.map_err(|error| error.failure(master))?;
            pipe.flush()?;
            return Ok(done);
        }
        let mut file = WholeFile::create(out)?;
        let done = receive(master, request, &mut file).await?.map_err(|error| match error {
            Unreceived::Unwritten(source) => ExportError::Write { path: out.into(), source }.into(),
            error => error.failure(master).with(&format!("{} is not written", out.display())),
        })?;
        file.commit()?;
        Ok(done)
    };
    tokio::select! {
        done = receive => done,
        () = signal.cancelled() => Err(Failure::new(Exit::Interrupted, "the export was interrupted")),
    }
}

/// Asks for an export, and writes it as it comes.
async fn receive(
    master: &Operator,
    request: ExportRequest,
    out: &mut dyn Write,
) -> Result<Result<Summary, Unreceived>, Failure> {
    let mut parts = master.ask(async |mut control| control.export(request).await).await?;
    Ok(write_parts(async || parts.message().await, out).await)
}

/// Writes an export's chunks up to its end, which must tell of as many bytes.
async fn write_parts(
    mut next: impl AsyncFnMut() -> Result<Option<ExportPart>, Status>,
    out: &mut dyn Write,
) -> Result<Summary, Unreceived> {
    let mut bytes = 0;
    loop {
        match next().await?.map(|part| part.part) {
            Some(Some(Part::Chunk(chunk))) => {
                out.write_all(&chunk)?;
                bytes += chunk.len() as u64;
            }
            Some(Some(Part::Done(done))) if done.bytes == bytes => {
                return Ok(Summary { pages: done.pages, bytes, left_out: done.left_out });
            }
            Some(Some(Part::Done(_))) => {
                return Err(Unreceived::NotWhole("it has another length than its end says"));
            }
            Some(None) => return Err(Unreceived::NotWhole("a part of it is empty")),
            None => return Err(Unreceived::NotWhole("it has no end")),
        }
    }
}

/// Standard output, for pages.
fn pipe() -> impl Write {
    BufWriter::with_capacity(PIPE_BYTES, render::pipe())
}

/// Whether the pages go to standard output.
fn is_pipe(out: &Path) -> bool {
    out == Path::new("-")
}

/// Says what was written; not among the pages.
fn tell(done: &Summary, out: &Path) -> io::Result<()> {
    let mut to: Box<dyn Write> = Box::new(render::out());
    let mut name = out.display().to_string();
    if is_pipe(out) {
        to = Box::new(render::err());
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

#[cfg(test)]
mod tests {
    use trawl_proto::v1::ExportDone;

    use super::*;

    fn chunk(bytes: &'static [u8]) -> Result<Part, Status> {
        Ok(Part::Chunk(bytes.into()))
    }

    fn done(bytes: u64) -> Result<Part, Status> {
        Ok(Part::Done(ExportDone { pages: 2, bytes, left_out: 1 }))
    }

    /// What is made of these parts.
    async fn written(parts: Vec<Result<Part, Status>>) -> (Vec<u8>, Result<Summary, Unreceived>) {
        let mut parts = parts.into_iter();
        let next = async || {
            let part = parts.next().transpose()?;
            Ok(part.map(|part| ExportPart { part: Some(part) }))
        };
        let mut out = Vec::new();
        let done = write_parts(next, &mut out).await;
        (out, done)
    }

    #[tokio::test]
    async fn an_export_is_whole_when_its_end_has_come() {
        let (out, summary) = written(vec![chunk(b"ab"), chunk(b"c"), done(3)]).await;
        assert_eq!(out, b"abc");
        assert_eq!(summary.unwrap(), Summary { pages: 2, bytes: 3, left_out: 1 });
        assert!(written(vec![done(0)]).await.1.is_ok());
    }

    #[tokio::test]
    async fn an_export_that_breaks_off_is_not_whole() {
        for (parts, why) in [
            (vec![], "no end"),
            (vec![chunk(b"abc")], "no end"),
            (vec![chunk(b"abc"), done(4)], "another length"),
            (vec![chunk(b"abc"), Err(Status::data_loss("damaged")), done(3)], "damaged"),
        ] {
            let error = written(parts).await.1.unwrap_err();
            assert!(format!("{error:?}").contains(why), "{error:?}");
        }
    }
}
