//! One run: a master, its workers, a web, and a nemesis that takes them down, cuts their
//! network and their power, and lets go of them in the end. Everything comes from a seed.

use std::{
    collections::BTreeMap,
    fmt,
    hash::{DefaultHasher, Hash, Hasher},
    io,
    iter::Sum,
    ops::Range,
    panic,
    path::PathBuf,
    rc::Rc,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use prost::Message;
use serde::{Deserialize, Serialize};
use tempfile::TempDir;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use trawl_master::{
    crawl::{Crawls, Owner, PageSettings, Submission},
    frontier::{Frontier, Limits},
    store::{
        keys,
        rows::{CrawlRow, Finish, Wish},
    },
};
use trawl_shared::{
    clock::by_hand,
    outcome::Class,
    sabotage::{self, Fault},
    spec::{CrawlSpec, RobotsPolicy},
    units::{Size, Span},
};
use trawl_worker::{config::WorkerConfig, master::Master, pipeline};
use turmoil::Sim;

use crate::{
    check::{Account, Invariant, Violation},
    disk::{self, Disk},
    web::{View, Web},
    wire::{self, Acknowledged, Mischief, Post},
};

/// The network's clock ticks so.
const TICK: Duration = Duration::from_millis(20);

/// A lease. What goes wrong lasts up to five times as long.
const LEASE: Duration = Duration::from_secs(10);

/// When all is well again, the crawls end within this.
const PATIENCE: Duration = Duration::from_secs(15 * 60);

/// When they have ended, what is still on its way may come.
const AFTERWARDS: Duration = Duration::from_secs(20);

/// A run and what came of it.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Run {
    pub(crate) seed: u64,
    pub(crate) violations: Vec<Violation>,
    /// The same for the same run.
    pub(crate) fingerprint: u64,
    pub(crate) story: Story,
}

/// What happened, in numbers.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Story {
    pub(crate) power_cuts: u64,
    pub(crate) master_stops: u64,
    pub(crate) worker_kills: u64,
    pub(crate) worker_stops: u64,
    pub(crate) partitions: u64,
    pub(crate) clock_steps: u64,
    pub(crate) pages: u64,
    pub(crate) visits: u64,
    pub(crate) commits: u64,
    /// Copies of reports that the master has judged.
    pub(crate) copies: u64,
    pub(crate) already: u64,
    pub(crate) stale: u64,
    pub(crate) quarantined: u64,
    /// Power cuts in the middle of a commit.
    pub(crate) torn_commits: u64,
    /// Partitions that outlast a lease.
    pub(crate) long_partitions: u64,
    /// How long it took on the simulation's clock.
    pub(crate) time: Duration,
}

impl Sum for Story {
    fn sum<I: Iterator<Item = Self>>(stories: I) -> Self {
        stories.fold(Self::default(), |a, b| Self {
            power_cuts: a.power_cuts + b.power_cuts,
            master_stops: a.master_stops + b.master_stops,
            worker_kills: a.worker_kills + b.worker_kills,
            worker_stops: a.worker_stops + b.worker_stops,
            partitions: a.partitions + b.partitions,
            clock_steps: a.clock_steps + b.clock_steps,
            pages: a.pages + b.pages,
            visits: a.visits + b.visits,
            commits: a.commits + b.commits,
            copies: a.copies + b.copies,
            already: a.already + b.already,
            stale: a.stale + b.stale,
            quarantined: a.quarantined + b.quarantined,
            torn_commits: a.torn_commits + b.torn_commits,
            long_partitions: a.long_partitions + b.long_partitions,
            time: a.time + b.time,
        })
    }
}

impl fmt::Display for Story {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hours = self.time.as_secs_f64() / 3_600.0;
        write!(f, "{hours:.1} simulated hours")?;
        for (number, what) in self.numbers() {
            write!(f, ", {number} {what}")?;
        }
        Ok(())
    }
}

impl Story {
    /// Every number, with what it counts.
    pub(crate) fn numbers(&self) -> [(u64, &'static str); 15] {
        [
            (self.power_cuts, "power cuts"),
            (self.torn_commits, "of them within a commit"),
            (self.master_stops, "stops of the master"),
            (self.worker_kills, "kills of workers"),
            (self.worker_stops, "stops of workers"),
            (self.partitions, "partitions"),
            (self.long_partitions, "of them longer than a lease"),
            (self.clock_steps, "clock steps"),
            (self.copies, "copies of reports judged"),
            (self.already, "reports that had counted"),
            (self.stale, "stale reports"),
            (self.quarantined, "URLs given up"),
            (self.pages, "pages"),
            (self.visits, "visits"),
            (self.commits, "writes and syncs"),
        ]
    }
}

/// Runs a seed. What comes of it is the same only in the first run of a process: Tokio
/// numbers its tasks from the process's start, and drops them in an order that hangs on
/// their numbers.
///
/// # Errors
/// If the machine does not let it run.
pub(crate) fn run(seed: u64, fault: Option<Fault>) -> io::Result<Run> {
    let _guard = fault.map(sabotage::commit);
    fastrand::seed(seed);
    // A panic that is caught somewhere is a defect all the same.
    panic::set_hook(Box::new(|panic| lock(&PANICS).push(panic.to_string())));
    World::new(seed)?.run()
}

/// The panics of this process.
static PANICS: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// What a run consists of, decided by its seed.
struct World {
    seed: u64,
    disk: Disk,
    pages: TempDir,
    web: Web,
    post: Post,
    /// Lost leases after which a URL is given up.
    losses: u32,
    spec: CrawlSpec,
    crawls: usize,
    delay: Duration,
    mischief: Mischief,
    workers: Vec<String>,
    stops: Mutex<BTreeMap<String, CancellationToken>>,
    /// Why a master or a worker ended that should not have.
    defects: Mutex<Vec<String>>,
    chaos: Duration,
    chance: Mutex<fastrand::Rng>,
}

impl World {
    fn new(seed: u64) -> io::Result<Rc<Self>> {
        let mut chance = fastrand::Rng::with_seed(seed);
        let delay = Duration::from_millis(chance.u64(100..4_000));
        let robots = if chance.bool() { RobotsPolicy::Obey } else { RobotsPolicy::Ignore };
        let spec = CrawlSpec {
            robots,
            delay: Span::millis(delay.as_millis() as u64),
            attempts: 20,
            retry_wait: Span::secs(1),
            retry_wait_max: Span::secs(5),
            ..CrawlSpec::default()
        };
        let workers = chance.usize(2..9);
        let hosts = chance.usize(2..8);
        Ok(Rc::new(Self {
            seed,
            disk: Disk::new(chance.u64(..)),
            pages: scratch()?,
            web: Web::new(hosts, &mut chance, LEASE),
            post: Post::default(),
            losses: if chance.u8(0..4) == 0 { 2 } else { 1_000 },
            spec,
            crawls: chance.usize(1..3),
            delay,
            mischief: Mischief {
                twice: chance.u8(0..40),
                late: chance.u8(0..30),
                unanswered: chance.u8(0..30),
            },
            workers: (0..workers).map(|number| format!("w{number}")).collect(),
            stops: Mutex::default(),
            defects: Mutex::default(),
            chaos: Duration::from_secs(chance.u64(20..120)),
            chance: Mutex::new(chance),
        }))
    }

    fn run(self: Rc<Self>) -> io::Result<Run> {
        let mut builder = turmoil::Builder::new();
        builder
            .rng_seed(self.seed)
            .tick_duration(TICK)
            .simulation_duration(Duration::from_secs(24 * 60 * 60))
            .min_message_latency(Duration::from_millis(1))
            .max_message_latency(Duration::from_millis(60))
            .tcp_capacity(1 << 16)
            .enable_random_order();
        let mut sim = builder.build();
        by_hand::set(Some(wall_clock(&sim, SignedDuration::ZERO)));
        let world = Rc::clone(&self);
        sim.host("master", move || Rc::clone(&world).master());
        for name in &self.workers {
            let (world, name) = (Rc::clone(&self), name.clone());
            sim.host(name.clone(), move || Rc::clone(&world).worker(name.clone()));
        }
        let post = self.post.clone();
        sim.client("post", post.deliver_copies());
        let mut nemesis = Nemesis::new(Rc::clone(&self));
        let mut until = self.chaos + PATIENCE;
        let mut is_over = false;
        while sim.elapsed() < until {
            if !is_over && self.is_over() {
                is_over = true;
                until = sim.elapsed() + AFTERWARDS;
            }
            nemesis.act(&mut sim)?;
            sim.step().map_err(|error| io::Error::other(error.to_string()))?;
        }
        let end = sim.elapsed();
        let mut story = nemesis.story;
        drop(sim);
        Ok(self.account(&mut story, end))
    }

    /// Holds what was written down against what was promised.
    fn account(&self, story: &mut Story, end: Duration) -> Run {
        let account = Account {
            history: self.disk.history(),
            visits: self.web.visits(),
            told: self.post.told(),
            losses: self.losses,
            pages: self.pages.path(),
            web: &self.web,
            delay: self.delay,
            tick: TICK * 2,
            end,
        };
        let mut violations = account.violations();
        let mut defects = lock(&self.defects).clone();
        defects.append(&mut lock(&PANICS));
        let defect = |what: &String| {
            let (invariant, what) = (Invariant::Completion, what.clone());
            Violation { invariant, at: end, what }
        };
        violations.extend(defects.iter().map(defect));
        story.pages = (self.web.answers().len() * self.crawls) as u64;
        story.visits = account.visits.len() as u64;
        story.commits = account.history.len() as u64;
        story.copies = self.post.arrived();
        for row in self.crawl_rows() {
            story.already += row.reports_already;
            story.stale += row.reports_stale;
            let quarantined = usize::from(Class::Quarantined.number());
            story.quarantined += row.outcomes.get(quarantined).copied().unwrap_or_default();
        }
        story.time = end;
        let mut hasher = DefaultHasher::new();
        (&account.history, &account.visits, &account.told).hash(&mut hasher);
        Run { seed: self.seed, violations, fingerprint: hasher.finish(), story: *story }
    }

    /// The master's machine, from its start to the next crash.
    async fn master(self: Rc<Self>) -> turmoil::Result {
        let limits = Limits { lease: LEASE, losses: self.losses, ..Limits::default() };
        let (frontier, now) = match Frontier::open(self.disk.store(), limits, "simulation") {
            Ok(opened) => opened,
            Err(error) => return self.master_ended(Some(error.to_string())).await,
        };
        let directory = self.pages.path().to_owned();
        let settings = PageSettings { directory, segment: Size::bytes(16 * 1024) };
        let (crawls, mailbox) = Crawls::mailbox(LEASE);
        let owner = Owner::new(frontier, now, settings).run(mailbox, self.stop_of("master"));
        let error = tokio::select! {
            biased;
            ended = owner => ended.err().map(|error| error.to_string()),
            served = wire::serve(crawls.clone()) => served.err().map(|error| error.to_string()),
            failed = self.operate(crawls) => Some(failed),
        };
        self.master_ended(error).await
    }

    /// Nothing more, until the machine is switched off.
    async fn master_ended(&self, error: Option<String>) -> turmoil::Result {
        if let Some(error) = error
            && !self.disk.is_burnt()
        {
            lock(&self.defects).push(format!("the master ended: {error}"));
        }
        std::future::pending().await
    }

    /// What people do: submit the crawls as far as they are not there, pause and resume
    /// them, and drain workers. Ends only if something is refused that must not be.
    async fn operate(&self, crawls: Crawls) -> String {
        for number in 0..self.crawls {
            let seeds = self.web.seeds().iter().filter_map(|seed| seed.parse().ok()).collect();
            let (name, spec) = (crawl_name(number), self.spec.clone());
            let submission = Submission { name: name.clone(), spec, seeds, take_up: true };
            match crawls.submit(submission).await {
                Ok(Ok(_)) => {
                    let (at, seeds) = (disk::now(), self.web.seeds().to_vec());
                    self.post.tell(Acknowledged::Crawl { at, name, seeds });
                }
                Ok(Err(error)) => return format!("a crawl was refused: {error:?}"),
                // The owner has ended, and says why.
                Err(_) => std::future::pending().await,
            }
        }
        // Whatever a master before this one was told in the middle of it.
        self.let_all_work(&crawls).await;
        while disk::now() < self.chaos {
            sleep(Duration::from_millis(self.random(1_000..20_000))).await;
            let number = self.random(0..self.crawls as u64) as usize;
            // One that has ended cannot be paused.
            let _ = crawls.steer(crawl_name(number), Wish::Pause).await;
            let worker = self.random(0..self.workers.len() as u64) as usize;
            let _ = crawls.drain(self.workers[worker].clone(), true).await;
            sleep(Duration::from_millis(self.random(100..8_000))).await;
            self.let_all_work(&crawls).await;
        }
        std::future::pending().await
    }

    async fn let_all_work(&self, crawls: &Crawls) {
        for number in 0..self.crawls {
            let _ = crawls.steer(crawl_name(number), Wish::Run).await;
        }
        for worker in &self.workers {
            let _ = crawls.drain(worker.clone(), false).await;
        }
    }

    async fn worker(self: Rc<Self>, name: String) -> turmoil::Result {
        let channel = wire::channel(&name, self.mischief, self.post.clone());
        let config = WorkerConfig { lanes: 3, ..WorkerConfig::new(name.clone()) };
        let master = Master::new(channel, &name, config.lanes);
        let view = View::of(&self.web, &name);
        let fetcher = Arc::new(move |_: &CrawlSpec| Ok(view.clone()));
        let stop = self.stop_of(&name);
        if let Err(error) = pipeline::run(master, config, fetcher, stop).await {
            lock(&self.defects).push(format!("worker {name} ended: {error}"));
        }
        Ok(())
    }

    /// The token by which a host is asked to stop, from its start on.
    fn stop_of(&self, name: &str) -> CancellationToken {
        let token = CancellationToken::new();
        lock(&self.stops).insert(name.to_owned(), token.clone());
        token
    }

    /// Whether all crawls have ended, durably.
    fn is_over(&self) -> bool {
        let rows = self.crawl_rows();
        rows.len() == self.crawls && rows.iter().all(|row| row.finish != Finish::Running as i32)
    }

    /// The durable rows of the crawls.
    fn crawl_rows(&self) -> Vec<CrawlRow> {
        let rows = self.disk.durable_range(keys::CRAWLS);
        rows.iter().map(|row| CrawlRow::decode(&row[..]).unwrap_or_default()).collect()
    }

    fn random(&self, range: Range<u64>) -> u64 {
        lock(&self.chance).u64(range)
    }

    /// The power of the master's machine fails: of what was written and is not durable,
    /// some is gone.
    fn lose_power(&self, now: Duration) -> io::Result<()> {
        self.disk.lose_power(now);
        for row in self.crawl_rows() {
            let directory = self.pages.path().join(&row.name);
            let segment = |number: u32| directory.join(format!("{}-{number:08}.warc.gz", row.name));
            for number in row.segment.max(1).. {
                let file = segment(number);
                let Ok(found) = std::fs::metadata(&file) else { break };
                let counts = if number == row.segment { row.segment_bytes } else { 0 };
                let left = lock(&self.chance).u64(counts.min(found.len())..=found.len());
                std::fs::OpenOptions::new().write(true).open(&file)?.set_len(left)?;
            }
        }
        Ok(())
    }
}

fn crawl_name(number: usize) -> String {
    format!("c{number}")
}

/// Where the segments lie: in memory, if the machine has such a place, since every
/// commit waits for them.
fn scratch() -> io::Result<TempDir> {
    let memory = PathBuf::from("/dev/shm");
    if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }
}

/// What the wall clocks show, which have been stepped by so much.
fn wall_clock(sim: &Sim<'_>, stepped: SignedDuration) -> Timestamp {
    let start = Timestamp::UNIX_EPOCH + SignedDuration::from_hours(24 * 365 * 50);
    let passed = SignedDuration::try_from(sim.elapsed()).unwrap_or_default();
    start + passed + stepped
}

/// What makes things go wrong.
struct Nemesis {
    world: Rc<World>,
    now: Duration,
    /// When it does the next thing.
    next: Duration,
    /// What it takes back, and when.
    remedies: Vec<(Duration, Remedy)>,
    stepped: SignedDuration,
    is_over: bool,
    story: Story,
}

/// What ends a trouble.
#[derive(Clone, Debug)]
enum Remedy {
    /// The host starts.
    Start(String),
    /// The worker's network is whole.
    Join(String),
    /// What was held up arrives.
    Release(String),
}

impl Nemesis {
    fn new(world: Rc<World>) -> Self {
        Self {
            world,
            now: Duration::ZERO,
            next: Duration::from_millis(500),
            remedies: Vec::new(),
            stepped: SignedDuration::ZERO,
            is_over: false,
            story: Story::default(),
        }
    }

    /// Does what is due before the next tick.
    fn act(&mut self, sim: &mut Sim<'_>) -> io::Result<()> {
        let now = sim.elapsed();
        self.now = now;
        by_hand::set(Some(wall_clock(sim, self.stepped)));
        if self.world.disk.is_burnt() && !self.is_down("master") {
            self.story.torn_commits += 1;
            self.cut_power(sim)?;
        }
        let is_over = now >= self.world.chaos;
        let due = |(at, _): &(Duration, Remedy)| is_over || *at <= now;
        let due: Vec<_> = self.remedies.extract_if(.., |remedy| due(remedy)).collect();
        for (_, remedy) in due {
            self.help(sim, &remedy);
        }
        if is_over && !self.is_over {
            self.is_over = true;
            // Connections that lost something wait for it, as if it were to come.
            for worker in &self.world.workers {
                sim.repair("master", worker.as_str());
                sim.release("master", worker.as_str());
            }
        }
        if !is_over && now >= self.next {
            self.next = now + Duration::from_millis(self.random(200..4_000));
            self.trouble(sim)?;
        }
        Ok(())
    }

    fn trouble(&mut self, sim: &mut Sim<'_>) -> io::Result<()> {
        let number = self.random(0..self.world.workers.len() as u64) as usize;
        let worker = self.world.workers[number].clone();
        let name = worker.as_str();
        match self.random(0..20) {
            0..=3 if self.is_down("master") => {}
            0 | 1 => self.cut_power(sim)?,
            2 => self.world.disk.set_fuse(self.random(1..20) as u32),
            3 => {
                self.story.master_stops += 1;
                self.stop("master", 8_000);
            }
            4..=8 if self.is_down(name) => {}
            4..=6 => {
                self.story.worker_kills += 1;
                sim.crash(name);
                self.later(20_000, Remedy::Start(worker));
            }
            7 | 8 => {
                self.story.worker_stops += 1;
                self.stop(name, 30_000);
            }
            // The simulated network knows one trouble of a link at a time.
            9..=17 if self.is_cut(name) => {}
            9..=15 => {
                match self.random(0..4) {
                    0 => sim.partition_oneway("master", name),
                    1 => sim.partition_oneway(name, "master"),
                    _ => sim.partition("master", name),
                }
                let lasts = self.later(5 * LEASE.as_millis() as u64, Remedy::Join(worker));
                self.story.partitions += 1;
                self.story.long_partitions += u64::from(lasts > LEASE);
            }
            16 | 17 => {
                sim.hold("master", name);
                self.later(15_000, Remedy::Release(worker));
            }
            _ => {
                self.story.clock_steps += 1;
                let step = [3_600, 86_400, -3_600, -86_400][self.random(0..4) as usize];
                self.stepped += SignedDuration::from_secs(step);
            }
        }
        Ok(())
    }

    fn help(&mut self, sim: &mut Sim<'_>, remedy: &Remedy) {
        match remedy {
            Remedy::Start(host) => {
                // One that was asked to stop may not have come to its end.
                sim.crash(host.as_str());
                sim.bounce(host.as_str());
            }
            Remedy::Join(worker) => sim.repair("master", worker.as_str()),
            Remedy::Release(worker) => sim.release("master", worker.as_str()),
        }
    }

    fn cut_power(&mut self, sim: &mut Sim<'_>) -> io::Result<()> {
        self.story.power_cuts += 1;
        sim.crash("master");
        self.world.lose_power(sim.elapsed())?;
        self.later(10_000, Remedy::Start("master".to_owned()));
        Ok(())
    }

    /// Asks a host to stop, and starts it again within so many milliseconds.
    fn stop(&mut self, host: &str, within_ms: u64) {
        if let Some(stop) = lock(&self.world.stops).get(host) {
            stop.cancel();
        }
        self.later(within_ms, Remedy::Start(host.to_owned()));
    }

    /// Remembers to end a trouble. Returns how long it lasts.
    fn later(&mut self, within_ms: u64, remedy: Remedy) -> Duration {
        // Short ones as often as long ones: what is forgotten shows when little time passes.
        let within_ms = if self.random(0..2) == 0 { within_ms / 10 } else { within_ms };
        let wait = Duration::from_millis(self.random(50..within_ms));
        self.remedies.push((self.now + wait, remedy));
        wait
    }

    fn is_cut(&self, worker: &str) -> bool {
        let is_its = |remedy: &Remedy| match remedy {
            Remedy::Join(name) | Remedy::Release(name) => name == worker,
            Remedy::Start(_) => false,
        };
        self.remedies.iter().any(|(_, remedy)| is_its(remedy))
    }

    fn is_down(&self, host: &str) -> bool {
        let starts = |remedy: &Remedy| matches!(remedy, Remedy::Start(name) if name == host);
        self.remedies.iter().any(|(_, remedy)| starts(remedy))
    }

    fn random(&self, range: Range<u64>) -> u64 {
        self.world.random(range)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
