//! A master and its workers, processes of this very program, which are killed, stopped and
//! replaced. They end with the value.

use std::{
    fs::{self, File},
    net::{Ipv4Addr, TcpListener},
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    process::{Child, Command},
    time::{Instant, sleep, timeout},
};
use trawl_proto::v1::{CrawlStatus, HostStatus, HostsRequest, StatusRequest, SubmitRequest};
use trawl_shared::{
    spec::{CrawlSpec, RobotsPolicy},
    trap::TrapSpec,
    units::Span,
};

use crate::{
    connect::{Credentials, MasterArgs},
    exit::Failure,
    operate::Operator,
};

/// The crawl's name.
const CRAWL: &str = "selftest";

/// Workers at a time.
pub(super) const WORKERS: usize = 3;

/// How long leases last: short, so that several can run out in a minute.
pub(super) const LEASE: Duration = Duration::from_secs(3);

/// How long a master may take to answer after its start.
const READY_MAX: Duration = Duration::from_secs(30);

/// How long a process may take to end when it is told to.
const END_MAX: Duration = Duration::from_secs(10);

/// Between two looks at whether something has happened.
pub(super) const LOOK: Duration = Duration::from_millis(10);

/// Processes, and how to ask the master.
pub(super) struct Cluster {
    program: PathBuf,
    folder: PathBuf,
    address: String,
    operator: Operator,
    master: Process,
    workers: Vec<Process>,
    /// Workers started so far.
    started: usize,
}

/// One of the processes.
struct Process {
    name: String,
    child: Child,
    log: PathBuf,
    /// Bytes of the log that were there before it.
    log_before: usize,
}

/// Why a selftest cannot go on.
pub(super) type Broken = String;

impl Cluster {
    /// Starts a master on a directory, and its workers.
    ///
    /// # Errors
    /// If that is not possible, or the master does not answer.
    pub(super) async fn start(folder: &Path) -> Result<Self, Broken> {
        let program = std::env::current_exe().map_err(|error| said("this program", &error))?;
        // Free now, and later on again when the master is started anew.
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|it| it.local_addr());
        let address = port.map_err(|error| said("a free port", &error))?.to_string();
        let args =
            MasterArgs { master: format!("http://{address}"), credentials: Credentials::default() };
        let operator = Operator::new(&args).map_err(|failure| failure.message)?;
        let master = start_master(&program, folder, &address)?;
        let mut cluster = Self {
            program,
            folder: folder.to_owned(),
            address,
            operator,
            master,
            workers: Vec::new(),
            started: 0,
        };
        cluster.ready().await?;
        for _ in 0..WORKERS {
            cluster.start_worker(None).await?;
        }
        Ok(cluster)
    }

    /// Gives the master its crawl.
    pub(super) async fn submit(&self, seeds: Vec<String>) -> Result<(), Broken> {
        let spec = CrawlSpec {
            // The web is one that grows without end.
            traps: TrapSpec { enabled: false, ..TrapSpec::default() },
            allow_net: vec![ipnet::Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8).into()],
            delay: Span::millis(0),
            robots: RobotsPolicy::Ignore,
            ..CrawlSpec::default()
        };
        let request = SubmitRequest {
            name: CRAWL.to_owned(),
            seeds,
            spec_json: spec.to_json(),
            take_up: false,
        };
        self.operator.ask(async |mut it| it.submit(request).await).await.map_err(told)?;
        Ok(())
    }

    /// Where the crawl stands; when it has ended, if that is within `wait`.
    pub(super) async fn status(&self, wait: Duration) -> Result<CrawlStatus, Broken> {
        let wait_ended_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
        let request = StatusRequest { name: CRAWL.to_owned(), wait_ended_ms };
        let reply = self.operator.ask(async |mut it| it.status(request).await).await;
        let crawl = reply.map_err(told)?.crawls.into_iter().next();
        crawl.ok_or_else(|| "the master has lost its crawl".to_owned())
    }

    /// A worker that holds something, this one if it does, and the hosts that it holds. Waits
    /// until there is one.
    pub(super) async fn somebody_at_work(
        &mut self,
        worker: usize,
    ) -> Result<(usize, Vec<HostStatus>), Broken> {
        let began = Instant::now();
        loop {
            if let Some(at_work) = self.at_work(worker).await? {
                return Ok(at_work);
            }
            self.check()?;
            if began.elapsed() > READY_MAX {
                return Err(format!("no worker has found anything to do within {READY_MAX:?}"));
            }
            sleep(LOOK).await;
        }
    }

    async fn at_work(&self, worker: usize) -> Result<Option<(usize, Vec<HostStatus>)>, Broken> {
        let request = HostsRequest::default();
        let reply =
            self.operator.ask(async |mut it| it.hosts(request).await).await.map_err(told)?;
        let held_by = |worker: usize| {
            let name = &self.workers[worker].name;
            reply.hosts.iter().filter(|host| host.worker == *name).cloned().collect::<Vec<_>>()
        };
        let others = (0..self.workers.len()).filter(|other| *other != worker);
        let all = std::iter::once(worker).chain(others).map(|worker| (worker, held_by(worker)));
        let mut at_work = all.filter(|(_, held)| !held.is_empty());
        Ok(at_work.next())
    }

    /// Exports the pages to a file.
    pub(super) async fn export(&self, path: &Path) -> Result<(), Broken> {
        let mut command = command(&self.program);
        command.args(["export", "--format", "jsonl", "--crawl", CRAWL, "--out"]).arg(path);
        command.args(["--master", &format!("http://{}", self.address)]);
        let output = command.output().await.map_err(|error| said("the export", &error))?;
        if output.status.success() {
            return Ok(());
        }
        Err(format!("the export failed: {}", String::from_utf8_lossy(&output.stderr).trim()))
    }

    /// Proves that what the master has left on the disk is as it should be.
    pub(super) async fn verify(&self) -> Result<(), Broken> {
        let mut command = command(&self.program);
        command.arg("verify").arg("--data").arg(self.folder.join("data"));
        let output = command.output().await.map_err(|error| said("verify", &error))?;
        if output.status.success() {
            return Ok(());
        }
        let text = [output.stdout, output.stderr].concat();
        Err(format!("the data directory is wrong: {}", String::from_utf8_lossy(&text).trim()))
    }

    /// `kill -9` to the master, and a new one. Returns how long it took from then until it
    /// answered.
    pub(super) async fn kill_master(&mut self) -> Result<Duration, Broken> {
        self.master.kill().await?;
        self.restart_master().await
    }

    /// Stops the master cleanly, and starts a new one. Returns how long it took from its end until
    /// it answered.
    pub(super) async fn stop_master(&mut self) -> Result<Duration, Broken> {
        self.master.stop().await?;
        self.restart_master().await
    }

    /// `kill -9` to a worker, and another one in its place: the same again, or a new one.
    pub(super) async fn kill_worker(&mut self, worker: usize, same: bool) -> Result<(), Broken> {
        let mut process = self.workers.swap_remove(worker);
        process.kill().await?;
        self.start_worker(same.then_some(process.name)).await
    }

    /// Stops a worker cleanly, and starts it again.
    pub(super) async fn stop_worker(&mut self, worker: usize) -> Result<(), Broken> {
        let mut process = self.workers.swap_remove(worker);
        process.stop().await?;
        self.start_worker(Some(process.name)).await
    }

    /// Stops all of it cleanly.
    pub(super) async fn stop(&mut self) -> Result<(), Broken> {
        for worker in &mut self.workers {
            worker.stop().await?;
        }
        self.master.stop().await
    }

    /// That no process has ended by itself.
    pub(super) fn check(&mut self) -> Result<(), Broken> {
        for process in self.workers.iter_mut().chain([&mut self.master]) {
            if let Ok(Some(status)) = process.child.try_wait() {
                return Err(process.ended("ended by itself", status));
            }
        }
        Ok(())
    }

    async fn restart_master(&mut self) -> Result<Duration, Broken> {
        let began = Instant::now();
        self.master = start_master(&self.program, &self.folder, &self.address)?;
        self.ready().await?;
        Ok(began.elapsed())
    }

    /// Waits until the master answers.
    async fn ready(&mut self) -> Result<(), Broken> {
        let began = Instant::now();
        let request = StatusRequest::default();
        while let Err(failure) =
            self.operator.ask(async |mut it| it.status(request.clone()).await).await
        {
            self.check()?;
            if began.elapsed() > READY_MAX {
                return Err(format!("no answer within {READY_MAX:?}: {}", failure.message));
            }
            sleep(LOOK).await;
        }
        Ok(())
    }

    /// Starts a worker, and waits until it has begun: from then on it can be told to stop.
    async fn start_worker(&mut self, name: Option<String>) -> Result<(), Broken> {
        self.started += 1;
        let name = name.unwrap_or_else(|| format!("worker-{}", self.started));
        let mut command = command(&self.program);
        command.args(["worker", "--name", &name, "--lanes", "3"]);
        command.args(["--master", &format!("http://{}", self.address)]);
        self.workers.push(Process::start(&name, command, &self.folder)?);
        let began = Instant::now();
        while !self.workers.last().is_some_and(Process::has_begun) {
            self.check()?;
            if began.elapsed() > READY_MAX {
                return Err(format!("{name} has not begun within {READY_MAX:?}"));
            }
            sleep(LOOK).await;
        }
        Ok(())
    }
}

fn start_master(program: &Path, folder: &Path, address: &str) -> Result<Process, Broken> {
    let mut command = command(program);
    command.args(["master", "--listen", address]).arg("--data").arg(folder.join("data"));
    command.args(["--lease", &Span::millis(LEASE.as_millis() as u64).to_string()]);
    // There is room for the selftest: that was looked at before.
    command.args(["--disk-reserve", "0"]);
    Process::start("master", command, folder)
}

/// This program, without settings of its environment.
fn command(program: &Path) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("TRAWL_") {
            command.env_remove(name);
        }
    }
    command.stdin(Stdio::null()).kill_on_drop(true);
    command
}

impl Process {
    fn start(name: &str, mut command: Command, folder: &Path) -> Result<Self, Broken> {
        let log = folder.join(format!("{name}.log"));
        let open = || File::options().append(true).create(true).open(&log);
        let file = open().map_err(|error| said(&log.display().to_string(), &error))?;
        let log_before = fs::read(&log).map_or(0, |text| text.len());
        let child = command.stdout(Stdio::null()).stderr(file).spawn();
        let child = child.map_err(|error| said(name, &error))?;
        Ok(Self { name: name.to_owned(), child, log, log_before })
    }

    /// Whether a worker has said what it works for.
    fn has_begun(&self) -> bool {
        let text = fs::read(&self.log).unwrap_or_default();
        let said = text.get(self.log_before..).unwrap_or_default();
        String::from_utf8_lossy(said).contains(" works for ")
    }

    /// `kill -9`, and its end.
    async fn kill(&mut self) -> Result<(), Broken> {
        if let Ok(Some(status)) = self.child.try_wait() {
            return Err(self.ended("ended by itself", status));
        }
        self.child.kill().await.map_err(|error| said(&self.name, &error))
    }

    /// SIGTERM, and its end, which has to be soon and clean.
    async fn stop(&mut self) -> Result<(), Broken> {
        let pid = self.child.id().and_then(|pid| Pid::from_raw(pid as i32));
        if let Some(pid) = pid {
            kill_process(pid, Signal::TERM).map_err(|error| said(&self.name, &error.into()))?;
        }
        match timeout(END_MAX, self.child.wait()).await {
            Ok(Ok(status)) if status.success() => Ok(()),
            Ok(Ok(status)) => Err(self.ended("was told to stop, and ended", status)),
            Ok(Err(error)) => Err(said(&self.name, &error)),
            Err(_) => Err(format!("{} did not stop within {END_MAX:?}", self.name)),
        }
    }

    /// What it said last, with its end.
    fn ended(&self, how: &str, status: ExitStatus) -> Broken {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let last = log.lines().last().unwrap_or("it said nothing").to_owned();
        format!("{} {how} ({status}): {last}", self.name)
    }
}

fn said(what: &str, error: &std::io::Error) -> Broken {
    format!("{what}: {error}")
}

fn told(failure: Failure) -> Broken {
    failure.message
}
