//! A master and workers in processes of their own, and the commands that ask them.

use std::{ffi::OsStr, path::PathBuf};

use serde_json::Value;
use tokio::time::{Instant, sleep};

use crate::{Command, Duration, Ended, Pages, Running, Trawl, ms, network::Host, secs};

/// How long a cluster may take for what it is waited for to do.
const PATIENCE: Duration = secs(60);

/// A master that runs; killed when dropped.
#[derive(Debug)]
pub struct Master {
    /// Where it listens.
    pub url: String,
    /// The process.
    pub running: Running,
}

/// A master that a test starts, stops and kills, always at the same address and on the same data
/// directory, and the commands that are given to it.
#[derive(Debug)]
pub struct Cluster {
    trawl: Trawl,
    command: Command,
    url: String,
    /// What every command needs that asks the master.
    asking: Asking,
    master: Option<Running>,
}

/// Where to ask a master from, and what to show it.
#[derive(Debug, Default)]
struct Asking {
    host: Option<Host>,
    token: Option<PathBuf>,
}

impl Asking {
    fn prepare(&self, mut command: Command) -> Command {
        if let Some(host) = &self.host {
            command = command.on(host);
        }
        if let Some(token) = &self.token {
            command = command.set("--token-file", token);
        }
        command
    }
}

impl Trawl {
    /// `trawl master --data DIR --listen 127.0.0.1:0`.
    pub fn master(&self) -> Command {
        self.command::<&str>("master", []).set("--listen", "127.0.0.1:0")
    }

    /// `trawl worker --master URL`.
    pub fn worker(&self, master: &str) -> Command {
        self.ask::<&str>("worker", [], master)
    }

    /// `trawl VERB ARGS --master URL`: a command without a data directory.
    pub fn ask<S: AsRef<OsStr>>(
        &self,
        verb: &str,
        args: impl IntoIterator<Item = S>,
        master: &str,
    ) -> Command {
        self.command(verb, args).unset("--data").set("--master", master)
    }

    /// `trawl submit SEEDS --master URL`, with the options of [`Trawl::crawl`].
    pub fn submit<S: AsRef<OsStr>>(
        &self,
        seeds: impl IntoIterator<Item = S>,
        master: &str,
    ) -> Command {
        self.crawl(seeds).verb("submit").unset("--data").set("--master", master)
    }
}

impl Command {
    /// Starts a master, and waits until it listens.
    ///
    /// # Panics
    /// If it does not.
    pub async fn serve(&self) -> Master {
        let running = self.start();
        let line = running.says_line("listening on ", secs(60)).await;
        let url = line.split(['\u{20}', ',']).nth(2).unwrap_or_default();
        Master { url: url.to_owned(), running }
    }
}

impl Master {
    /// SIGTERM, and its end: see [`Running::stops`].
    pub async fn stop(self) -> Ended {
        self.running.stops().await
    }
}

impl Cluster {
    /// A master that lends for this long, and listens.
    pub async fn start(lease: Duration) -> Self {
        let mut cluster = Self::absent(lease);
        cluster.start_master().await;
        cluster
    }

    /// The same, but its master has not been started yet.
    pub fn absent(lease: Duration) -> Self {
        // A loopback address of its own: nobody else takes its port while it is down.
        let byte = || fastrand::u8(1..255);
        let address = format!("127.{}.{}.{}:7070", byte().max(100), byte(), byte());
        let trawl = Trawl::new();
        let lease = format!("{}ms", lease.as_millis());
        let command = trawl.master().set("--listen", &address).set("--lease", lease);
        let (url, asking) = (format!("http://{address}"), Asking::default());
        Self { trawl, command, url, asking, master: None }
    }

    /// A master on a host of a network, which listens for the other hosts and is asked from its own.
    pub async fn start_on(host: &Host, lease: Duration) -> Self {
        let mut cluster = Self::absent(lease);
        let token = cluster.trawl.write("token", "a-token-for-a-network-of-its-own\n");
        let address = format!("{}:7070", host.address());
        cluster.url = format!("http://{address}");
        cluster.asking = Asking { host: Some(host.clone()), token: Some(token) };
        let command = cluster.command.clone().set("--listen", &address);
        cluster.command = cluster.asking.prepare(command);
        cluster.start_master().await;
        cluster
    }

    /// From its next start on, the master is another command.
    pub fn change_master(&mut self, change: impl FnOnce(Command) -> Command) {
        self.command = change(self.command.clone());
    }

    /// With another option of its master, from its next start on.
    pub fn with(self, option: &str, value: impl AsRef<OsStr>) -> Self {
        Self { command: self.command.set(option, value), ..self }
    }

    /// Starts the master, and waits until it listens.
    pub async fn start_master(&mut self) {
        self.master = Some(self.command.serve().await.running);
    }

    /// `kill -9` to the master, and its end.
    pub async fn kill_master(&mut self) {
        self.take_master().kill().await;
    }

    /// SIGTERM to the master, and its end.
    pub async fn stop_master(&mut self) -> Ended {
        self.take_master().stops().await
    }

    /// The master's end, to which it comes by itself.
    pub async fn master_ended(&mut self) -> Ended {
        self.take_master().done().await
    }

    /// Starts a master that cannot, and waits for its end.
    pub async fn start_master_in_vain(&self) -> Ended {
        self.command.done().await
    }

    /// The master's process.
    pub fn master(&self) -> &Running {
        self.master.as_ref().expect("the master was started")
    }

    fn take_master(&mut self) -> Running {
        self.master.take().expect("the master was started")
    }

    /// Where the master listens.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Its data directory, and files beside it.
    pub fn trawl(&self) -> &Trawl {
        &self.trawl
    }

    /// `trawl worker --name NAME`.
    pub fn worker(&self, name: &str) -> Command {
        self.asking.prepare(self.trawl.worker(&self.url).set("--name", name))
    }

    /// `trawl submit SEEDS --name NAME`, with the options of [`Trawl::crawl`].
    pub fn submit<S: AsRef<OsStr>>(
        &self,
        name: &str,
        seeds: impl IntoIterator<Item = S>,
    ) -> Command {
        self.asking.prepare(self.trawl.submit(seeds, &self.url).set("--name", name))
    }

    /// `trawl VERB ARGS`.
    pub fn ask<'a>(&self, verb: &str, args: impl IntoIterator<Item = &'a str>) -> Command {
        self.asking.prepare(self.trawl.ask(verb, args, &self.url))
    }

    /// What `trawl VERB ARGS --json` tells.
    ///
    /// # Panics
    /// If it fails.
    pub async fn told<'a>(&self, verb: &str, args: impl IntoIterator<Item = &'a str>) -> Value {
        let told = self.ask(verb, args).set_flag("--json").done().await.expect(0);
        serde_json::from_str(&told.stdout).unwrap()
    }

    /// Asks so again until the answer will do, and returns it.
    ///
    /// # Panics
    /// If that takes too long; with the last answer.
    pub async fn told_until<'a>(
        &self,
        verb: &str,
        args: impl IntoIterator<Item = &'a str> + Clone,
        will_do: impl Fn(&Value) -> bool,
    ) -> Value {
        let late = Instant::now() + PATIENCE;
        loop {
            let answer = self.told(verb, args.clone()).await;
            if will_do(&answer) {
                return answer;
            }
            assert!(Instant::now() < late, "not within {PATIENCE:?}: {answer:#}");
            sleep(ms(50)).await;
        }
    }

    /// Where a crawl stands.
    pub async fn crawl(&self, name: &str) -> Value {
        self.crawl_until(name, |_| true).await
    }

    /// Where a crawl stands, as soon as that will do.
    ///
    /// # Panics
    /// If that takes too long.
    pub async fn crawl_until(&self, name: &str, will_do: impl Fn(&Value) -> bool) -> Value {
        let status = self.told_until("status", [name], |status| will_do(&status["crawls"][0]));
        status.await["crawls"][0].take()
    }

    /// What a worker does, as soon as that will do. Null if the master does not know it.
    ///
    /// # Panics
    /// If that takes too long.
    pub async fn worker_until(&self, name: &str, will_do: impl Fn(&Value) -> bool) -> Value {
        let find = |told: &Value| {
            let mut workers = told["workers"].as_array().into_iter().flatten();
            workers.find(|worker| worker["name"] == name).cloned().unwrap_or_default()
        };
        find(&self.told_until("workers", [], |told| will_do(&find(told))).await)
    }

    /// The hosts that a worker holds just now, and the number of their URLs that are lent to it.
    pub async fn held_by(&self, worker: &str) -> (Vec<String>, u64) {
        let told = self.told("hosts", []).await;
        let hosts = told["hosts"].as_array().unwrap().iter();
        let hosts = hosts.filter(|host| host["worker"] == worker);
        let urls = hosts.clone().map(|host| host["leased"].as_u64().unwrap()).sum();
        (hosts.map(|host| host["key"].as_str().unwrap().to_owned()).collect(), urls)
    }

    /// Waits until every crawl has ended as complete.
    ///
    /// # Panics
    /// If that takes too long, or one has ended otherwise.
    pub async fn complete(&self) {
        let wait = self.ask("status", []).set_flag("--wait").set_flag("--json").within(PATIENCE);
        let status: Value = serde_json::from_str(&wait.done().await.expect(0).stdout).unwrap();
        for crawl in status["crawls"].as_array().unwrap() {
            assert_eq!(crawl["reason"], "complete", "{status:#}");
            assert_eq!((&crawl["queued"], &crawl["leased"]), (&0.into(), &0.into()), "{status:#}");
        }
    }

    /// The pages of a crawl, as the running master exports them.
    ///
    /// # Panics
    /// If it does not.
    pub async fn pages(&self, crawl: &str) -> Pages {
        let path = self.trawl.file(&format!("{crawl}.jsonl"));
        let export = self.ask("export", []).set("--crawl", crawl).set("--format", "jsonl");
        export.set("--out", &path).done().await.expect(0);
        Pages::read(&path)
    }
}

/// Asks again until the answer will do.
///
/// # Panics
/// If that takes longer than the limit; with the last answer.
pub async fn until(command: &Command, limit: Duration, will_do: impl Fn(&Ended) -> bool) -> Ended {
    let late = Instant::now() + limit;
    loop {
        let answer = command.done().await;
        if will_do(&answer) {
            return answer;
        }
        assert!(Instant::now() < late, "not within {limit:?}: {answer}");
        sleep(ms(100)).await;
    }
}
