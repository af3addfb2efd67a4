//! Clocks that are not what they should be: a wall clock that is stepped by hours and days while a
//! crawl goes on, a monotonic clock that begins elsewhere after a restart, and processes that stand
//! still. No lease runs out early, none late, and no host is fetched from too soon.
//!
//! The wall clock is stepped by libfaketime, for the processes of the test alone.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says so by a panic")]

use std::{collections::BTreeSet, fs, path::PathBuf, time::Duration};

use harness::{Cluster, Command, Running, Site, Sites, ms, secs};
use tokio::time::{Instant, sleep};

const LEASE: Duration = secs(3);

/// How long leases last where none is meant to run out.
const LONG_LEASE: Duration = secs(10);

/// The wait between two fetches of a host.
const DELAY: Duration = ms(50);

/// How late a lease may be taken back.
const LATE: Duration = secs(1);

const HOUR: i64 = 60 * 60;
const DAY: i64 = 24 * HOUR;

/// A wall clock of the processes that are started with it.
struct WallClock {
    file: PathBuf,
    seconds: i64,
}

impl WallClock {
    /// A clock that is right, and told of in this file.
    fn new(file: PathBuf) -> Self {
        let mut clock = Self { file, seconds: 0 };
        clock.step(0);
        clock
    }

    /// Steps it by so many seconds.
    fn step(&mut self, by: i64) {
        self.seconds += by;
        // As a whole: it may be read at any time.
        let next = self.file.with_extension("next");
        fs::write(&next, format!("{:+}\n", self.seconds)).unwrap();
        fs::rename(next, &self.file).unwrap();
    }

    /// Has a process go by it.
    fn of(&self, command: Command) -> Command {
        let libraries = glob("/usr/lib", "faketime/libfaketimeMT.so.1");
        command
            .dynamic()
            .variable("LD_PRELOAD", libraries)
            .variable("FAKETIME_TIMESTAMP_FILE", &self.file)
            .variable("FAKETIME_NO_CACHE", "1")
            .variable("FAKETIME_DONT_FAKE_MONOTONIC", "1")
            .variable("FAKETIME_DONT_RESET", "1")
    }
}

/// A file of this name in a directory of the machine's architecture.
fn glob(folder: &str, name: &str) -> PathBuf {
    let folders = fs::read_dir(folder).unwrap();
    let mut paths = folders.map(|folder| folder.unwrap().path().join(name));
    let found = paths.find(|path| path.exists());
    found.unwrap_or_else(|| panic!("no {name} in {folder}: run tests/setup, which installs it"))
}

/// Sites that take so long to crawl at [`DELAY`], if nothing holds that up.
async fn sites_for(time: Duration) -> Sites {
    Sites::trees(4, (time.as_millis() / DELAY.as_millis()) as usize, ms(0)).await
}

/// Submits a crawl of them with [`DELAY`].
async fn submit(cluster: &Cluster, sites: &Sites) -> Command {
    let submit = cluster.submit("c", sites.seeds());
    let delay = format!("{}ms", DELAY.as_millis());
    submit.clone().set("--delay", delay).done().await.expect(0);
    sites[0].visited(10).await;
    submit
}

/// The shortest wait between two fetches of a host.
fn shortest_wait(sites: &[Site]) -> Duration {
    assert!(sites.iter().all(|site| site.most_at_once() == 1), "two fetched at once from a host");
    sites.iter().flat_map(|site| site.waits(|_| true)).min().unwrap()
}

#[tokio::test]
async fn a_wall_clock_that_is_stepped_by_days_expires_no_lease_and_shortens_no_wait() {
    let sites = sites_for(secs(22)).await;
    let want = sites.undisturbed().await;
    let mut cluster = Cluster::absent(LEASE);
    let mut clock = WallClock::new(cluster.trawl().file("clock"));
    cluster.change_master(|master| clock.of(master));
    cluster.start_master().await;
    let worker = |clock: &WallClock, name: &str| clock.of(cluster.worker(name)).start();
    let mut workers: Vec<(&str, Running)> =
        ["one", "two", "three"].map(|name| (name, worker(&clock, name))).into();
    let submit = submit(&cluster, &sites).await;

    for step in [HOUR, -HOUR, DAY, -DAY, -DAY, DAY] {
        clock.step(step);
        sleep(LEASE / 2).await;
    }
    let crawl = cluster.crawl("c").await;
    assert_eq!((&crawl["state"], &crawl["leases_expired"]), (&"running".into(), &0.into()));
    assert_eq!(sites.again(), 0);

    // What a dead worker held comes back when its time is up, whatever the clock says.
    let mut silences = Vec::new();
    for (step, successor) in [(DAY, "four"), (-DAY, "five")] {
        let (hosts, at) = loop {
            let (name, _) = &workers[0];
            let (hosts, _) = cluster.held_by(name).await;
            if !hosts.is_empty() {
                break (hosts, workers.remove(0));
            }
            workers.rotate_left(1);
        };
        let expired = cluster.crawl("c").await["leases_expired"].take();
        at.1.kill().await;
        let killed = Instant::now();
        clock.step(step);
        // It renewed its leases less than half of their time ago.
        sleep(LEASE / 3).await;
        let crawl = cluster.crawl("c").await;
        assert_eq!(crawl["leases_expired"], expired, "a lease ran out early");
        sleep((LEASE + LATE).saturating_sub(killed.elapsed())).await;
        for host in &hosts {
            let site = sites.iter().find(|site| site.url("") == *host).unwrap();
            let visits = site.visits();
            let next = visits.iter().find(|visit| visit.began > killed + DELAY);
            silences.push(next.map_or(secs(60), |visit| visit.began - killed));
        }
        workers.push((successor, worker(&clock, successor)));
    }
    let wait = shortest_wait(&sites);
    submit.set_flag("--update").done().await.expect(0);
    cluster.complete().await;

    let pages = cluster.pages("c").await;
    pages.are_those_of(&want);
    let days: BTreeSet<_> = pages.iter().map(|page| page.fetched_at[..10].to_owned()).collect();
    println!(
        "fetched, by the wall clock, on {days:?}; hosts of dead workers fetched from again after \
         {silences:.2?}; the shortest wait was {wait:.1?}; {}",
        cluster.crawl("c").await
    );
    assert!(days.len() >= 3, "the clock was not stepped; is the program linked statically?");
    assert!(wait >= DELAY, "a host was fetched from too soon");
    let latest = silences.into_iter().max().unwrap();
    assert!(latest <= LEASE + LATE, "a lease ran out late: {latest:?}");
    for (_, worker) in workers {
        worker.stops().await;
    }
}

#[tokio::test]
async fn a_master_whose_monotonic_clock_begins_elsewhere_goes_on_where_it_was() {
    let sites = sites_for(secs(8)).await;
    let want = sites.undisturbed().await;
    let mut cluster = Cluster::start(LONG_LEASE).await;
    let workers = ["one", "two"].map(|name| cluster.worker(name).start());
    let submit = submit(&cluster, &sites).await;

    // As after a reboot, or on another machine.
    for offset in ["8640000", "0", "86400", "3600"] {
        let clocks = ["--time", "--monotonic", offset, "--boottime", offset];
        cluster.change_master(|master| master.under(std::iter::once("unshare").chain(clocks)));
        cluster.kill_master().await;
        cluster.start_master().await;
        sleep(secs(1)).await;
    }
    assert_eq!(cluster.crawl("c").await["state"], "running", "too few pages");
    let wait = shortest_wait(&sites);
    submit.set_flag("--update").done().await.expect(0);
    cluster.complete().await;

    cluster.pages("c").await.are_those_of(&want);
    let crawl = cluster.crawl("c").await;
    println!("the shortest wait was {wait:.1?}; {crawl}");
    assert_eq!((sites.again(), &crawl["leases_expired"]), (0, &0.into()));
    assert!(wait >= DELAY, "a host was fetched from too soon");
    // It counts the time that its masters have run, not what their clocks say.
    assert!(crawl["ran_ms"].as_u64().unwrap() < 60_000, "{crawl:#}");
    for worker in workers {
        worker.stops().await;
    }
}

#[tokio::test]
async fn a_cluster_that_stands_still_for_longer_than_its_leases_goes_on() {
    let sites = sites_for(secs(10)).await;
    let want = sites.undisturbed().await;
    let mut cluster = Cluster::start(LEASE).await;
    let workers = ["one", "two"].map(|name| cluster.worker(name).start());
    let submit = submit(&cluster, &sites).await;

    let mut leased = 0;
    // Who wakes first differs.
    for master_first in [true, false] {
        leased += cluster.crawl("c").await["leased"].as_u64().unwrap();
        workers.iter().for_each(Running::freeze);
        cluster.master().freeze();
        sleep(LEASE * 3 / 2).await;
        if master_first {
            cluster.master().thaw();
            sleep(secs(1)).await;
        }
        workers.iter().for_each(Running::thaw);
        if !master_first {
            sleep(secs(1)).await;
            cluster.master().thaw();
        }
        sleep(secs(1)).await;
    }
    let wait = shortest_wait(&sites);
    submit.set_flag("--update").done().await.expect(0);
    cluster.complete().await;

    cluster.pages("c").await.are_those_of(&want);
    let (again, crawl) = (sites.again() as u64, cluster.crawl("c").await);
    println!("{again} fetched again of {leased}; the shortest wait was {wait:.1?}; {crawl}");
    assert!(wait >= DELAY, "a host was fetched from too soon");
    assert!(again <= leased, "{again} fetched again");
    for worker in workers {
        worker.stops().await;
    }
    cluster.stop_master().await;
}
