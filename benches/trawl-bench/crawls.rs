//! trawl's crawls: in one process, and in a cluster of processes.

use std::{
    fs, io,
    net::TcpListener,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::Duration,
};

use serde_json::Value;
use tokio::time::Instant;

use crate::{
    Failure,
    process::{Cost, LOOK, Running},
    table::{Run, mib},
};

/// The program under measurement.
pub(crate) struct Trawl {
    pub(crate) program: PathBuf,
}

/// What is crawled, and how.
pub(crate) struct Job<'a> {
    pub(crate) seeds: &'a [String],
    pub(crate) scope: &'a str,
    pub(crate) lanes: usize,
    /// How long it may take.
    pub(crate) limit: Duration,
}

/// What a crawl in one process is called.
pub(crate) const SINGLE: &str = "trawl crawl";

/// The crawl's name in a cluster.
const CRAWL: &str = "bench";

/// How long workers may take to join, and between two looks at whether they have.
const JOIN_MAX: Duration = Duration::from_secs(20);
const JOIN_LOOK: Duration = Duration::from_millis(100);

/// Threads that do the master's work in a process that has both.
pub(crate) const MASTERS_THREADS: [&str; 2] = ["crawls", "sled"];

impl Trawl {
    /// Crawls in one process.
    pub(crate) fn single(&self, job: &Job<'_>, folder: &Path) -> Result<Run, Failure> {
        let data = folder.join("data");
        let mut command = self.crawl(job, &data);
        let cost = Running::start(&mut command, folder)?.finish(job.limit)?;
        let counts = Counts::of_summary(&cost.stdout)?;
        let per_page = 1_000.0 / counts.pages as f64;
        let frontier = cost.threads(&MASTERS_THREADS);
        let run = Run::of(SINGLE, counts.pages, &cost)
            .with("frontier_thread_ms_per_page", frontier * per_page);
        on_disk(run, &data, &counts)
    }

    /// Crawls with a master and so many workers, each a process. The time counts
    /// from the submission to the end that the master tells.
    pub(crate) fn cluster(
        &self,
        job: &Job<'_>,
        workers: usize,
        folder: &Path,
    ) -> Result<Run, Failure> {
        let data = folder.join("data");
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string();
        let url = format!("http://{address}");
        let mut master = self.verb("master");
        master.arg("--data").arg(&data).args(["--listen", &address]);
        let mut master = Running::start(&mut master, folder)?;
        let names: Vec<String> = (1..=workers).map(|number| format!("worker-{number}")).collect();
        let mut at_work = Vec::new();
        for name in &names {
            let mut worker = self.verb("worker");
            worker.args(["--master", &url, "--name", name, "--lanes", &job.lanes.to_string()]);
            at_work.push(Running::start(&mut worker, folder)?);
        }
        let begin = Instant::now();
        while self.idle_workers(&url) != Some(workers as u64) {
            master.is_well()?;
            for worker in &mut at_work {
                worker.is_well()?;
            }
            if begin.elapsed() > JOIN_MAX {
                return Err(format!("{workers} workers have not joined in {JOIN_MAX:?}").into());
            }
            thread::sleep(JOIN_LOOK);
        }

        let start = Instant::now();
        let mut submit = self.verb("submit");
        submit.args(["--master", &url, "--name", CRAWL]);
        options(&mut submit, job);
        Running::start(&mut submit, folder)?.finish(job.limit)?;
        let mut wait = self.verb("status");
        wait.args(["--master", &url, "--wait", "--json"]);
        let mut wait = Running::start(&mut wait, folder)?;
        while wait.is_running()? {
            // They are looked at, so that their memory is known.
            master.is_well()?;
            for worker in &mut at_work {
                worker.is_well()?;
            }
            if start.elapsed() > job.limit {
                return Err(format!("the crawl took more than {:?}", job.limit).into());
            }
            thread::sleep(LOOK);
        }
        let wall = start.elapsed().as_secs_f64();
        let counts = Counts::of_status(&wait.finish(job.limit)?.stdout)?;

        let at_work = at_work.into_iter().map(Running::stop);
        let at_work: Vec<Cost> = at_work.collect::<Result<_, _>>()?;
        let master = master.stop()?;
        let per_page = 1_000.0 / counts.pages as f64;
        let worker_cpu: f64 = at_work.iter().map(Cost::cpu).sum();
        let system: f64 = at_work.iter().map(|cost| cost.system).sum();
        let cpu = worker_cpu + master.cpu();
        let memory = at_work.iter().map(|cost| cost.memory_peak).max().unwrap_or(0);
        let run = Run::new(cluster_name(workers))
            .with("pages", counts.pages as f64)
            .with("wall_s", wall)
            .with("pages_per_s", counts.pages as f64 / wall)
            .with("cpu_ms_per_page", cpu * per_page)
            .with("system_ms_per_page", (system + master.system) * per_page)
            .with("worker_ms_per_page", worker_cpu * per_page)
            .with("master_ms_per_page", master.cpu() * per_page)
            .with("master_percent", 100.0 * master.cpu() / cpu)
            .with("worker_memory_mib", mib(memory))
            .with("master_memory_mib", mib(master.memory_peak));
        on_disk(run, &data, &counts)
    }

    /// How many workers a master knows that hold nothing; none if it does not answer.
    fn idle_workers(&self, url: &str) -> Option<u64> {
        let said = self.verb("status").args(["--master", url, "--json"]).output().ok()?;
        let status: Value = serde_json::from_slice(&said.stdout).ok()?;
        status["workers"]["idle"].as_u64()
    }

    /// `trawl crawl`, as it is measured.
    pub(crate) fn crawl(&self, job: &Job<'_>, data: &Path) -> Command {
        let mut command = self.verb("crawl");
        command.arg("--data").arg(data).args(["--lanes", &job.lanes.to_string()]);
        options(&mut command, job);
        command
    }

    /// All URLs that a crawl has an answer of, to a file, one a line.
    pub(crate) fn urls(&self, data: &Path, out: &Path) -> Result<(), Failure> {
        let export = out.with_extension("jsonl");
        let mut command = self.verb("export");
        command.args(["--format", "jsonl", "--data"]).arg(data).arg("--out").arg(&export);
        let done = command.output()?;
        if !done.status.success() {
            return Err(String::from_utf8_lossy(&done.stderr).into_owned().into());
        }
        let mut urls = String::new();
        for line in fs::read_to_string(&export)?.lines() {
            let page: Value = serde_json::from_str(line)?;
            urls.push_str(page["url"].as_str().ok_or("a page without a URL")?);
            urls.push('\n');
        }
        fs::remove_file(&export)?;
        fs::write(out, urls)?;
        Ok(())
    }

    fn verb(&self, verb: &str) -> Command {
        let mut command = Command::new(&self.program);
        command.arg(verb);
        command
    }
}

fn options(command: &mut Command, job: &Job<'_>) {
    command
        .args(["--allow-net", "127.0.0.0/8", "--delay", "0s", "--robots", "ignore"])
        .args(["--group-hosts", "0"])
        .args(["--scope", job.scope])
        .args(job.seeds);
}

/// How many URLs a crawl has ended, and how many of them were pages (2xx).
pub(crate) struct Counts {
    pub(crate) pages: u64,
    urls: u64,
}

impl Counts {
    /// From the lines `  COUNT  WHAT` that `trawl crawl` ends with.
    pub(crate) fn of_summary(summary: &str) -> Result<Self, Failure> {
        let counts = summary.lines().filter_map(|line| {
            let (count, what) = line.trim_start().split_once("  ")?;
            Some((count.parse::<u64>().ok()?, what))
        });
        let counts: Vec<_> = counts.collect();
        let pages = counts.iter().find(|(_, what)| *what == "ok (2xx)");
        let (pages, _) = pages.ok_or_else(|| format!("no pages were fetched:\n{summary}"))?;
        Ok(Self { pages: *pages, urls: counts.iter().map(|(count, _)| count).sum() })
    }

    /// From what `trawl status --json` tells of the only crawl.
    fn of_status(status: &str) -> Result<Self, Failure> {
        let status: Value = serde_json::from_str(status)?;
        let outcomes = &status["crawls"][0]["outcomes"];
        let counts = outcomes.as_object().into_iter().flatten().filter_map(|(_, n)| n.as_u64());
        let pages = outcomes["ok"].as_u64().filter(|pages| *pages > 0);
        let pages = pages.ok_or_else(|| format!("no pages were fetched: {status}"))?;
        Ok(Self { pages, urls: counts.sum() })
    }
}

/// What a cluster is called.
pub(crate) fn cluster_name(workers: usize) -> String {
    let s = if workers == 1 { "" } else { "s" };
    format!("trawl master, {workers} worker{s}")
}

/// With what the data directory takes on the disk.
fn on_disk(run: Run, data: &Path, counts: &Counts) -> Result<Run, Failure> {
    let pages = disk_usage(&data.join("pages"))? as f64;
    let frontier = disk_usage(&data.join("frontier"))? as f64;
    Ok(run
        .with("pages_bytes_per_page", pages / counts.pages as f64)
        .with("frontier_bytes_per_url", frontier / counts.urls as f64))
}

/// Bytes that a folder takes on the disk.
pub(crate) fn disk_usage(folder: &Path) -> io::Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        bytes +=
            if metadata.is_dir() { disk_usage(&entry.path())? } else { metadata.blocks() * 512 };
    }
    Ok(bytes)
}
