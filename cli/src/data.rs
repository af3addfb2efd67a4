//! Data directories looked after: dumped and loaded.

use std::{
    fs::File,
    io::{self, BufWriter, Read, Write, stdin},
    path::{Path, PathBuf},
};

use clap::Args;
use tokio::time::Instant;
use trawl_master::{
    dump::{self, Counts, DumpError, Dumper, LoadError},
    store::{Batch, StoreError},
};
use trawl_shared::{shutdown, units::Size};

use crate::{
    exit::{Exit, Failure},
    render::{self, counted},
    roles::runtime,
    source::PlaceArgs,
    walk::{Taker, walk},
};

/// Between two words on how far it has come.
const PROGRESS_INTERVAL: std::time::Duration = std::time::Duration::from_secs(5);

#[derive(Args, Debug)]
pub(crate) struct DumpArgs {
    #[command(flatten)]
    place: PlaceArgs,

    /// The file to write or replace, compressed if its name ends in `.gz`; `-` is standard
    /// output. Page records are not in it: a backup needs the directory `pages` as well
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

#[derive(Args, Debug)]
pub(crate) struct LoadArgs {
    /// What `trawl dump` wrote; `-` is standard input
    #[arg(value_name = "FILE")]
    file: PathBuf,

    /// The data directory to make; there must be none, or an empty directory
    #[arg(long, value_name = "DIR")]
    data: PathBuf,

    /// The directory `pages` that belongs to the dump, or a later state of it: its files
    /// are linked or copied, and stay as they are
    #[arg(long, value_name = "DIR")]
    pages: Option<PathBuf>,
}

/// Writes a dump.
pub(crate) fn dump(args: &DumpArgs) -> Result<Exit, Failure> {
    let mut pipe;
    let out = if is_pipe(&args.file) {
        pipe = BufWriter::with_capacity(256 * 1024, render::pipe());
        Out::Pipe(&mut pipe)
    } else {
        Out::File(&args.file)
    };
    let mut writer =
        Writer { out: Some(out), dumper: None, progress: Ticks::start("row", "dumped") };
    runtime()?.block_on(async {
        let source = args.place.open().await?;
        let signal = shutdown::on_signal()?;
        tokio::select! {
            done = walk(&source, &mut writer) => done,
            () = signal.cancelled() => {
                Err(Failure::new(Exit::Interrupted, "the dump was interrupted"))
            }
        }
    })?;
    let Some(dumper) = writer.dumper else { return Ok(Exit::Done) };
    let counts = dumper.finish()?;
    render::say(&format!("{} written to {}", rows_text(&counts), name(&args.file)));
    Ok(Exit::Done)
}

/// Loads a dump.
pub(crate) fn load(args: &LoadArgs) -> Result<Exit, Failure> {
    let from: Box<dyn Read> = if is_pipe(&args.file) {
        Box::new(stdin().lock())
    } else {
        let opened = File::open(&args.file);
        Box::new(opened.map_err(|error| {
            Failure::usage(format!("{}: cannot be read: {error}", args.file.display()))
        })?)
    };
    if let Some(pages) = args.pages.as_deref().filter(|pages| !pages.is_dir()) {
        return Err(Failure::usage(format!(
            "--pages {}: there is no such directory",
            pages.display()
        )));
    }
    let mut progress = Ticks::start("row", "loaded");
    let mut told = |lines| progress.tell(lines);
    let done = dump::load(from, &args.data, args.pages.as_deref(), &mut told)?;
    let data = args.data.display();
    render::say(&format!("{} loaded into {data}", rows_text(&done.counts)));
    if done.recalled > 0 {
        render::say(&format!("{} had been lent and now wait", counted(done.recalled, "URL")));
    }
    if done.segments_missing > 0 {
        render::say(&format!(
            "of the pages {} missing: put them into {data}/pages before anything else, or let \
             `trawl repair --data {data}` have those pages fetched again as far as their URLs are \
             known",
            match done.segments_missing {
                1 => "1 segment is".to_owned(),
                count => format!("{count} segments are"),
            }
        ));
    }
    if done.newer_bytes > 0 {
        render::say(&format!(
            "{} of pages are later than the dump: `trawl repair --data {data}` takes them in; a \
             master or a crawl that starts before that cuts them off",
            Size::bytes(done.newer_bytes)
        ));
    }
    Ok(Exit::Done)
}

/// Where a dump goes.
enum Out<'a> {
    Pipe(&'a mut dyn Write),
    File(&'a Path),
}

/// Writes the rows of a walk.
struct Writer<'a> {
    out: Option<Out<'a>>,
    dumper: Option<Dumper<'a>>,
    progress: Ticks,
}

impl Taker for Writer<'_> {
    fn begin(&mut self, head: dump::Head) -> Result<(), Failure> {
        self.dumper = match self.out.take() {
            Some(Out::Pipe(pipe)) => Some(Dumper::to_pipe(pipe, &head)?),
            Some(Out::File(path)) => Some(Dumper::to_file(path, &head)?),
            None => None,
        };
        Ok(())
    }

    fn take(&mut self, rows: &Batch) -> Result<(), Failure> {
        if let Some(dumper) = &mut self.dumper {
            dumper.write(rows)?;
            self.progress.tell(dumper.lines());
        }
        Ok(())
    }
}

/// Says now and then how far something has come.
pub(crate) struct Ticks {
    noun: &'static str,
    done: &'static str,
    next: Instant,
}

impl Ticks {
    pub(crate) fn start(noun: &'static str, done: &'static str) -> Self {
        Self { noun, done, next: Instant::now() + PROGRESS_INTERVAL }
    }

    pub(crate) fn tell(&mut self, count: u64) {
        if Instant::now() >= self.next {
            self.next = Instant::now() + PROGRESS_INTERVAL;
            render::say(&format!("{} {} so far", counted(count, self.noun), self.done));
        }
    }
}

fn rows_text(counts: &Counts) -> String {
    let of = |table: &str| counts.rows.get(table).copied().unwrap_or_default();
    format!("{} ({})", counted(counts.lines, "row"), counted(of("url"), "URL"))
}

fn is_pipe(path: &Path) -> bool {
    path == Path::new("-")
}

fn name(path: &Path) -> String {
    if is_pipe(path) { "standard output".into() } else { path.display().to_string() }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        let exit = match error {
            StoreError::DiskFull => Exit::DiskFull,
            _ => Exit::DataDir,
        };
        Self::new(exit, error)
    }
}

impl From<DumpError> for Failure {
    fn from(error: DumpError) -> Self {
        match error {
            DumpError::File(error) => error.into(),
            DumpError::Write(error) => io::Error::into(error),
            DumpError::Row(_) => Self::new(Exit::Failed, error),
        }
    }
}

impl From<LoadError> for Failure {
    fn from(error: LoadError) -> Self {
        let exit = match &error {
            error if error.is_disk_full() => Exit::DiskFull,
            LoadError::DataDir(_) | LoadError::Store(_) | LoadError::NotEmpty(_) => Exit::DataDir,
            _ => Exit::Failed,
        };
        Self::caused(exit, &error)
    }
}
