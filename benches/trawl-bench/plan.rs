//! What is measured, in which order, and within which bounds.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use clap::{Args, ValueEnum};
use serde::Serialize;
use tempfile::TempDir;
use tokio::time::Instant;

use crate::{
    Failure,
    crawls::{Job, Trawl, cluster_name},
    floor, frontier,
    machine::Machine,
    process::Running,
    sites::Sites,
    synthetic::{Shape, SyntheticWeb},
    table::{Run, Table},
    wget2::Wget2,
};

/// What the floor is called.
const FLOOR: &str = "floor";

/// Lanes of the floor, connections of wget2, lanes of trawl.
const LANES: usize = 32;

/// Workers of a cluster whose costs are compared, and of those whose speed is.
const WORKERS: usize = 2;
const SCALE: [usize; 4] = [1, 2, 4, 8];

/// Slow hosts for each lane of a worker, one after the other.
const HOSTS_PER_LANE: usize = 2;

/// Pages of slow hosts are small: where all workers share one machine, that is not
/// to be what holds them up.
const SLOW_WEB: Shape = Shape { hosts: 0, pages: 0, links: 20, page_bytes: 5_000, delay_ms: 0 };

/// The longest that one process may take.
const PROCESS_MAX: Duration = Duration::from_secs(300);

/// Where things are.
#[derive(Args)]
pub(crate) struct Places {
    /// The program to measure
    #[arg(long, value_name = "FILE", default_value = "target/release/trawl")]
    pub(crate) trawl: PathBuf,

    /// The folder that tests/setup made, with the real sites in it
    #[arg(long, value_name = "DIR", default_value = ".test-env")]
    pub(crate) test_env: PathBuf,
}

#[derive(Args)]
pub(crate) struct Options {
    #[command(flatten)]
    places: Places,

    /// What to measure
    #[arg(long, value_enum, value_delimiter = ',', default_values = ["sites", "synthetic", "scaling", "frontier"])]
    parts: Vec<Part>,

    /// Whether trawl crawls as one process, as a cluster of processes, or both
    #[arg(long, value_enum, value_delimiter = ',', default_values = ["single", "cluster"])]
    modes: Vec<Mode>,

    /// Two minutes instead of ten: fewer runs, smaller webs
    #[arg(long)]
    quick: bool,

    /// Runs of each program on each workload [default: 5 on the real sites, 3 on
    /// the synthetic web and of each number of workers; with --quick 2, 1, 1]
    #[arg(long)]
    runs: Option<usize>,

    /// Begin no further round after so many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 900)]
    stop_after: u64,

    /// Hosts of the synthetic web [default: 500, with --quick 100]
    #[arg(long)]
    hosts: Option<u32>,

    /// Pages of each of its hosts
    #[arg(long, default_value_t = 40)]
    pages: u32,

    /// Links of each of its pages
    #[arg(long, default_value_t = 70)]
    links: u32,

    /// Bytes of each of its pages, about
    #[arg(long, default_value_t = 30_000)]
    page_bytes: usize,

    /// Milliseconds that its hosts wait before each answer, where workers are scaled
    #[arg(long, default_value_t = 500)]
    slow_ms: u64,

    /// Where to write results.md and results.json
    #[arg(long, value_name = "DIR", default_value = "target/bench")]
    out: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// The real sites: trawl, the floor, wget2
    Sites,
    /// A synthetic web of many hosts: trawl, the floor
    Synthetic,
    /// One to eight workers on slow hosts
    Scaling,
    /// The frontier alone
    Frontier,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Mode {
    Single,
    Cluster,
}

/// All that is written down.
#[derive(Serialize)]
struct Results {
    machine: Machine,
    tables: Vec<Table>,
}

/// One of those that take turns.
type Turn<'a> = Box<dyn Fn(&Path) -> Result<Run, Failure> + 'a>;

pub(crate) fn run(options: &Options) -> Result<(), Failure> {
    let plan = Plan {
        options,
        trawl: Trawl { program: options.places.trawl.clone() },
        deadline: Instant::now() + Duration::from_secs(options.stop_after),
    };
    fs::create_dir_all(&options.out)?;
    let mut results = Results { machine: Machine::look(&plan.trawl.program)?, tables: Vec::new() };
    println!("{}", results.machine.markdown());
    let mut text = results.machine.markdown();
    for part in &options.parts {
        let table = match part {
            Part::Sites => plan.real_sites()?,
            Part::Synthetic => plan.synthetic()?,
            Part::Scaling => plan.scaling()?,
            Part::Frontier => plan.frontier()?,
        };
        println!("{}", table.markdown());
        text.push('\n');
        text.push_str(&table.markdown());
        results.tables.push(table);
        // What there is stays, should a later part fail.
        fs::write(options.out.join("results.md"), &text)?;
        fs::write(options.out.join("results.json"), serde_json::to_vec_pretty(&results)?)?;
    }
    Ok(())
}

/// All real sites in one crawl.
pub(crate) fn real_sites_job(sites: &Sites) -> Job<'_> {
    Job { seeds: &sites.seeds, scope: "host", lanes: LANES, limit: PROCESS_MAX }
}

/// The command of a process that is the floor of these URLs.
pub(crate) fn floor_command(urls: &Path) -> Result<Command, Failure> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("floor").arg(urls).arg(LANES.to_string());
    Ok(command)
}

struct Plan<'a> {
    options: &'a Options,
    trawl: Trawl,
    deadline: Instant,
}

impl Plan<'_> {
    fn real_sites(&self) -> Result<Table, Failure> {
        let sites = Sites::serve(&self.options.places.test_env)?;
        let job = real_sites_job(&sites);
        let wget2 = Wget2::find(&self.options.places.test_env.join("wget2"));
        let reference = self.reference(&job)?;
        let urls = reference.path().join("urls");

        let mut turns = self.trawls(&job, &[1, WORKERS]);
        turns.push(Box::new(|folder| floor(&urls, folder)));
        match &wget2 {
            Some(wget2) => turns.push(Box::new(|folder| wget2.run(job.seeds, folder, job.limit))),
            None => eprintln!("wget2 is not here and is left out"),
        }
        let mut table = Table::new(format!("{} real sites", sites.seeds.len()));
        self.take_turns(&mut table, self.runs(5, 2), &turns)?;
        hold_against_floor(&mut table);
        Ok(table)
    }

    fn synthetic(&self) -> Result<Table, Failure> {
        let quick = if self.options.quick { 100 } else { 500 };
        let Options { pages, links, page_bytes, .. } = *self.options;
        let hosts = self.options.hosts.unwrap_or(quick);
        let shape = Shape { hosts, pages, links, page_bytes, delay_ms: 0 };
        let title = format!("A synthetic web: {shape}");
        let web = SyntheticWeb::serve(shape)?;
        let seeds = [web.seed()];
        let job = Job { seeds: &seeds, scope: "any", lanes: LANES, limit: PROCESS_MAX };
        let reference = self.reference(&job)?;
        let urls = reference.path().join("urls");

        let mut turns = self.trawls(&job, &[WORKERS]);
        turns.push(Box::new(|folder| floor(&urls, folder)));
        let turns = turns.into_iter().map(|turn| -> Turn<'_> {
            let web = &web;
            Box::new(move |folder| web.all_of_it(turn(folder)?))
        });
        let turns: Vec<_> = turns.collect();
        let mut table = Table::new(title);
        self.take_turns(&mut table, self.runs(3, 1), &turns)?;
        hold_against_floor(&mut table);
        Ok(table)
    }

    /// Each number of workers crawls a web in proportion, so that all take the same
    /// time if nothing is lost by there being more.
    fn scaling(&self) -> Result<Table, Failure> {
        let (lanes, pages) = if self.options.quick { (16, 10) } else { (32, 12) };
        let slow_ms = self.options.slow_ms;
        let mut webs = Vec::new();
        for workers in SCALE {
            let hosts = u32::try_from(workers * lanes * HOSTS_PER_LANE)?;
            let shape = Shape { hosts, pages, delay_ms: slow_ms, ..SLOW_WEB };
            let web = SyntheticWeb::serve(shape)?;
            webs.push((workers, web.seeds(), web));
        }
        let turns = webs.iter().map(|(workers, seeds, web)| -> Turn<'_> {
            Box::new(move |folder| {
                let job = Job { seeds, scope: "any", lanes, limit: PROCESS_MAX };
                web.all_of_it(self.trawl.cluster(&job, *workers, folder)?)
            })
        });
        let mut table = Table::new(format!(
            "Workers of {lanes} lanes, each with {} hosts of {pages} small pages, each answered \
             after {slow_ms} ms",
            lanes * HOSTS_PER_LANE
        ));
        self.take_turns(&mut table, self.runs(3, 1), &turns.collect::<Vec<_>>())?;
        let one = table.median(&cluster_name(1), "pages_per_s").unwrap_or(f64::NAN);
        for workers in SCALE {
            let possible = (workers * lanes) as f64 / (slow_ms as f64 / 1_000.0);
            let name = cluster_name(workers);
            for run in table.runs.iter_mut().filter(|run| run.subject == name) {
                let speed = run.figure("pages_per_s").unwrap_or(f64::NAN);
                run.figures.insert("of_linear", speed / (one * workers as f64));
                run.figures.insert("of_possible", speed / possible);
            }
        }
        Ok(table)
    }

    fn frontier(&self) -> Result<Table, Failure> {
        let urls = if self.options.quick { 100_000 } else { 1_000_000 };
        let turn: Turn<'_> = Box::new(|folder| {
            let mut command = Command::new(std::env::current_exe()?);
            command.arg("frontier").arg(urls.to_string()).arg(folder.join("frontier"));
            let cost = Running::start(&mut command, folder)?.finish(PROCESS_MAX)?;
            let found: frontier::Found = serde_json::from_str(&cost.stdout)?;
            Ok(found.run())
        });
        let mut table = Table::new("The frontier alone, on sled, durable, 1,000 URLs a commit");
        self.take_turns(&mut table, 1, &[turn])?;
        Ok(table)
    }

    /// trawl's turns: as one process, and as clusters of so many workers.
    fn trawls<'t>(&'t self, job: &'t Job<'t>, clusters: &[usize]) -> Vec<Turn<'t>> {
        let mut turns: Vec<Turn<'t>> = Vec::new();
        if self.options.modes.contains(&Mode::Single) {
            turns.push(Box::new(|folder| self.trawl.single(job, folder)));
        }
        if self.options.modes.contains(&Mode::Cluster) {
            turns.extend(clusters.iter().map(|&workers| -> Turn<'t> {
                Box::new(move |folder| self.trawl.cluster(job, workers, folder))
            }));
        }
        turns
    }

    fn runs(&self, full: usize, quick: usize) -> usize {
        self.options.runs.unwrap_or(if self.options.quick { quick } else { full })
    }

    /// A crawl that warms everything up, and tells which URLs there are: in the
    /// file `urls` of the folder, for the floor.
    fn reference(&self, job: &Job<'_>) -> Result<TempDir, Failure> {
        let folder = TempDir::with_prefix("trawl-bench-")?;
        self.trawl.single(job, folder.path())?;
        let data = folder.path().join("data");
        self.trawl.urls(&data, &folder.path().join("urls"))?;
        fs::remove_dir_all(data)?;
        Ok(folder)
    }

    /// Runs each of `turns` so many times, one after the other, each time in a
    /// folder of its own, and each round beginning with another one.
    fn take_turns(
        &self,
        table: &mut Table,
        runs: usize,
        turns: &[Turn<'_>],
    ) -> Result<(), Failure> {
        for round in 0..runs {
            if round > 0 && Instant::now() > self.deadline {
                eprintln!("time is up: {round} rounds of {runs} were run");
                break;
            }
            for turn in 0..turns.len() {
                let folder = TempDir::with_prefix("trawl-bench-")?;
                let run = turns[(round + turn) % turns.len()](folder.path())?;
                eprintln!("  {run}");
                table.runs.push(run);
            }
        }
        Ok(())
    }
}

/// The floor, in a process of its own.
fn floor(urls: &Path, folder: &Path) -> Result<Run, Failure> {
    let cost = Running::start(&mut floor_command(urls)?, folder)?.finish(PROCESS_MAX)?;
    let done: floor::Done = serde_json::from_str(&cost.stdout)?;
    Ok(Run::of(FLOOR, done.pages, &cost))
}

fn hold_against_floor(table: &mut Table) {
    let Some(floor) = table.median(FLOOR, "cpu_ms_per_page") else { return };
    for run in table.runs.iter_mut().filter(|run| run.subject != FLOOR) {
        if let Some(cpu) = run.figure("cpu_ms_per_page") {
            run.figures.insert("times_floor", cpu / floor);
        }
    }
}
