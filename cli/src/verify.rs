//! `trawl verify`: a data directory proved to be as it should be.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;
use trawl_master::{
    dump::Head,
    repair::UNDER_WAY,
    store::Batch,
    verify::{CrawlProof, Report, Verifier, VerifyError},
};
use trawl_shared::{shutdown, units::Size};

use crate::{
    data::Ticks,
    exit::{Exit, Failure},
    render::{self, counted},
    roles::runtime,
    source::{self, Source},
    tables::json_text,
    walk::{Taker, walk},
};

#[derive(Args, Debug)]
pub(crate) struct VerifyArgs {
    /// The data directory, in use or not
    #[arg(long, value_name = "DIR", default_value = "trawl-data")]
    data: PathBuf,

    /// Print one JSON object
    #[arg(long)]
    json: bool,

    /// Differences that are named at most; all are counted
    #[arg(long, value_name = "COUNT", default_value_t = 100)]
    limit: usize,
}

/// Takes the rows of a walk into a proof.
struct Rows {
    verifier: Verifier,
    progress: Ticks,
}

impl Taker for Rows {
    fn begin(&mut self, _: Head) -> Result<(), Failure> {
        Ok(())
    }

    fn take(&mut self, rows: &Batch) -> Result<(), Failure> {
        self.verifier.take(rows)?;
        self.progress.tell(self.verifier.taken());
        Ok(())
    }
}

/// Proves a data directory, and tells what is different.
pub(crate) fn verify(args: &VerifyArgs) -> Result<Exit, Failure> {
    if args.data.join(UNDER_WAY).exists() {
        let data = args.data.display();
        let message = format!("a repair of {data} has broken off; `trawl repair` goes on with it");
        return Err(Failure::new(Exit::Wrong, message));
    }
    let runtime = runtime()?;
    let source = runtime.block_on(source::open(&args.data))?;
    let is_still = matches!(source, Source::Archive(_));
    let verifier = Verifier::new(&args.data.join("tmp"), is_still, args.limit);
    let mut rows = Rows { verifier, progress: Ticks::start("row", "read") };
    runtime.block_on(async {
        let signal = shutdown::on_signal()?;
        tokio::select! {
            done = walk(&source, &mut rows) => done,
            () = signal.cancelled() => {
                Err(Failure::new(Exit::Interrupted, "nothing was proved: it was interrupted"))
            }
        }
    })?;
    let mut progress = Ticks::start("page", "read");
    let mut told = |pages| progress.tell(pages);
    // The source is held until the end: nobody else takes the directory meanwhile.
    let report = rows.verifier.finish(&args.data.join("pages"), &mut told)?;
    drop(source);
    print(&report, args.json)?;
    Ok(if report.count() == 0 { Exit::Done } else { Exit::Wrong })
}

fn print(report: &Report, as_json: bool) -> Result<(), Failure> {
    if as_json {
        let value = json!({
            "proved": report.count() == 0,
            "crawls": report.crawls,
            "counts": report.counts,
            "differences": report.differences,
        });
        return Ok(render::print(&json_text(&value))?);
    }
    for crawl in &report.crawls {
        render::print(&told(crawl))?;
    }
    for difference in &report.differences {
        render::print(&format!("different: {difference}"))?;
    }
    let more = report.count() - report.differences.len() as u64;
    if more > 0 {
        render::print(&format!("and {more} more"))?;
    }
    let verdict = match report.count() {
        0 => "proved: nothing is lost, nothing is there twice".to_owned(),
        count => format!(
            "{}; `trawl repair` mends them while nothing uses the directory",
            counted(count, "difference")
        ),
    };
    Ok(render::print(&verdict)?)
}

fn told(crawl: &CrawlProof) -> String {
    let CrawlProof { name, discovered, done, queued, leased, quarantined, dropped, .. } = crawl;
    let mut text = format!(
        "crawl \"{name}\": {discovered} discovered = {done} done + {queued} queued + {leased} leased \
         + {quarantined} quarantined + {dropped} dropped\n  {} fetched = {} stored = {} counted, {} \
         in {}",
        crawl.fetched,
        crawl.stored,
        crawl.counted,
        Size::bytes(crawl.bytes),
        counted(crawl.segments.into(), "segment"),
    );
    if crawl.uncommitted_bytes > 0 {
        let bytes = Size::bytes(crawl.uncommitted_bytes);
        text +=
            &format!("\n  {bytes} behind that were not committed; the next start cuts them off");
    }
    text
}

impl From<VerifyError> for Failure {
    fn from(error: VerifyError) -> Self {
        let exit = match &error {
            VerifyError::Sort(error) if error.is_disk_full() => Exit::DiskFull,
            VerifyError::Sort(_) => Exit::Failed,
            VerifyError::Store(_) | VerifyError::Pages(_) => Exit::DataDir,
        };
        Self::caused(exit, &error)
    }
}
