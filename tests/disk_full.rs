//! Disks that are full: the master's, where it rests before there is no room, and goes on by itself;
//! and whatever a worker could write to.

use harness::{
    Answer, Cluster, Duration, Pages, Running, Site, Sites, SmallDisk, Trawl, Web, audit, ms, secs,
};
use tokio::time::{Instant, sleep};

/// Exit code of a program that met a full disk.
const DISK_FULL: i32 = 5;

const MIB: u64 = 1 << 20;

/// How long it may take until all goes on after there is room again.
const RESUMES: Duration = secs(30);

/// Pages of a host.
const PAGES: usize = 150;

/// Three hosts whose pages are about 20 KB each as they are stored.
async fn large_pages() -> Sites {
    Sites::of(3, PAGES + 1, || {
        let path = |page| format!("/{page}");
        let mut web =
            Web::new().page("/", (1..=4).map(path).collect::<Vec<_>>().iter().map(|p| &**p));
        for page in 1..=PAGES {
            let mut chance = fastrand::Rng::with_seed(page as u64);
            let mut noise = String::new();
            for link in (4 * page + 1..4 * page + 5).filter(|link| *link <= PAGES) {
                noise += &format!("<a href='{}'>{link}</a>", path(link));
            }
            noise.extend(std::iter::repeat_with(|| chance.alphanumeric()).take(24 * 1024));
            web = web.answer(&path(page), Answer::html(noise).after(ms(4)));
        }
        web
    })
    .await
}

/// A master on a small disk, which rests below so many MiB, and two workers.
async fn cluster_on(disk: &SmallDisk, reserve: &str) -> (Cluster, [Running; 2]) {
    let data = disk.path().join("data");
    let cluster = Cluster::absent(secs(20)).with("--data", data).with("--disk-reserve", reserve);
    let mut cluster = cluster.with("--segment", "1MiB");
    cluster.start_master().await;
    let workers = ["one", "two"].map(|name| cluster.worker(name).set("--lanes", "2").start());
    (cluster, workers)
}

async fn stop(workers: impl IntoIterator<Item = Running>) {
    for worker in workers {
        worker.stops().await;
    }
}

#[tokio::test]
async fn a_master_rests_while_its_disk_is_nearly_full_and_goes_on_by_itself() {
    let sites = large_pages().await;
    let want = sites.undisturbed().await;
    let disk = SmallDisk::new(64);
    let (mut cluster, workers) = cluster_on(&disk, "16MiB").await;
    cluster.submit("c", sites.seeds()).done().await.expect(0);

    // Below the reserve: what is out comes in, and nothing more goes out.
    sites[0].visited(20).await;
    disk.fill(12 * MIB);
    let rests = |status: &serde_json::Value| {
        !status["disk_low"].is_null() && status["crawls"][0]["leased"] == 0
    };
    let status = cluster.told_until("status", [], rests).await;
    println!("B10: rests: {}", status["disk_low"]);
    assert_eq!(status["disk_low"]["reserve"], 16 * MIB);
    assert_eq!(status["disk_low"]["refuses_reports"], false);
    let visits = sites[0].visits().len();
    let text = cluster.ask("status", []).done().await.expect(0);
    text.says(["resting: the disk has ", " left, the reserve is 16.0 MiB"]);
    sleep(secs(2)).await;
    assert_eq!(sites[0].visits().len(), visits, "nothing is fetched while it rests");
    cluster.master().says_line("resting: the disk has ", secs(1)).await;

    disk.clear();
    let room = Instant::now();
    sites[0].visited(visits + 1).await;
    let resumed = room.elapsed();
    assert!(resumed < RESUMES, "{resumed:?}");
    cluster.master().says_line("going on: the disk has ", secs(5)).await;

    // Below a quarter of it, at once: workers keep what they have fetched.
    sites[0].visited(60).await;
    disk.fill(2 * MIB);
    let status = cluster
        .told_until("status", [], |status| status["disk_low"]["refuses_reports"] == true)
        .await;
    println!("B10: takes no reports: {}", status["disk_low"]);
    workers[0].says_line("it takes reports again when there is room", secs(20)).await;
    let at_rest = cluster.crawl("c").await["outcomes"]["ok"].as_u64();
    sleep(secs(2)).await;
    assert_eq!(cluster.crawl("c").await["outcomes"]["ok"].as_u64(), at_rest);
    disk.resize(128);
    let room = Instant::now();
    let goes_on = |crawl: &serde_json::Value| crawl["outcomes"]["ok"].as_u64() > at_rest;
    cluster.crawl_until("c", goes_on).await;
    let resumed_again = room.elapsed();
    assert!(resumed_again < RESUMES, "{resumed_again:?}");

    cluster.complete().await;
    assert_eq!(cluster.pages("c").await.content(), want.content());
    assert_eq!(sites.again(), 0, "what was refused was kept for the master");
    println!(
        "B10: disk nearly full twice: went on by itself after {resumed:.1?} and {resumed_again:.1?}, \
         0 lost, 0 fetched again"
    );
    stop(workers).await;
    cluster.stop_master().await;
}

#[tokio::test]
async fn a_master_without_a_reserve_ends_when_the_disk_is_full_and_loses_nothing() {
    let sites = large_pages().await;
    let want = sites.undisturbed().await;
    let disk = SmallDisk::new(64);
    let (mut cluster, workers) = cluster_on(&disk, "0").await;
    cluster.submit("c", sites.seeds()).done().await.expect(0);

    let mut ends = 0;
    for (visits, left) in [(20, MIB), (60, MIB / 4), (100, 0)] {
        sites[0].visited(visits).await;
        let told = cluster.crawl("c").await["outcomes"]["ok"].as_u64().unwrap_or_default();
        disk.fill(left);
        let ended = cluster.master_ended().await.expect(DISK_FULL);
        ended.says(["the disk is full"]);
        // Still full: it says so, and leaves all as it is.
        let again = cluster.start_master_in_vain().await.expect(DISK_FULL);
        again.says(["the disk is full"]);
        disk.clear();
        let found = audit(&disk.path().join("data")).unwrap();
        assert!(found.pages.len() as u64 >= told, "{told} pages were told of");
        cluster.start_master().await;
        ends += 1;
    }
    cluster.complete().await;

    assert_eq!(cluster.pages("c").await.content(), want.content());
    assert_eq!(sites.again(), 0, "what was fetched meanwhile was kept for the master");
    println!("B10: {ends} times without any space, exit code {DISK_FULL} each, 0 lost");
    stop(workers).await;
    cluster.stop_master().await;
}

#[tokio::test]
async fn a_crawl_of_one_process_rests_and_goes_on_by_itself() {
    let sites = large_pages().await;
    let want = sites.undisturbed().await;
    let disk = SmallDisk::new(64);
    let trawl = Trawl::new();
    let data = disk.path().join("data");
    let crawl = trawl.crawl(sites.seeds()).set("--data", &data).set("--disk-reserve", "16MiB");
    let running = crawl.start();
    sites[0].visited(20).await;
    disk.fill(8 * MIB);
    running.says_line("resting: the disk has ", secs(10)).await;
    let visits = at_rest(&sites[0]).await;
    disk.clear();
    let room = Instant::now();
    sites[0].visited(visits + 1).await;
    assert!(room.elapsed() < RESUMES);
    running.done().await.expect(0);
    let out = trawl.file("pages.jsonl");
    let export = trawl.command::<&str>("export", []).set("--data", &data).set("--format", "jsonl");
    export.set("--out", &out).done().await.expect(0);
    assert_eq!(Pages::read(&out).content(), want.content());
    assert_eq!(sites.again(), 0);
}

/// Waits until what was lent has been fetched, and nothing more is: for two seconds. Returns the
/// visits until then.
async fn at_rest(site: &Site) -> usize {
    for _ in 0..15 {
        let visits = site.visits().len();
        sleep(secs(2)).await;
        if site.visits().len() == visits {
            return visits;
        }
    }
    panic!("it goes on, although the disk is nearly full");
}

#[tokio::test]
async fn a_worker_needs_no_disk() {
    let sites = Sites::trees(2, 60, ms(5)).await;
    let want = sites.undisturbed().await;
    let disk = SmallDisk::new(1);
    disk.fill(0);
    let mut cluster = Cluster::start(secs(10)).await;
    let log = disk.path().join("log");
    let worker = cluster.worker("one").variable("TMPDIR", disk.path());
    // It has much to say, and nowhere to say it.
    let worker = worker.variable("TRAWL_LOG", "debug").start_on(&disk.path(), &log);
    cluster.submit("c", sites.seeds()).done().await.expect(0);
    sites[0].visited(20).await;
    cluster.kill_master().await;
    cluster.start_master().await;
    cluster.complete().await;
    worker.stops().await;

    assert_eq!(std::fs::metadata(&log).unwrap().len(), 0, "the disk was not full");
    assert_eq!(cluster.pages("c").await.content(), want.content());
    println!("B11: a worker on a full disk crawled {} pages, exit code 0", want.count());
}

#[tokio::test]
async fn a_worker_whose_reports_are_not_taken_stops_fetching_and_ends_when_told_to() {
    let sites = large_pages().await;
    let disk = SmallDisk::new(64);
    let data = disk.path().join("data");
    let cluster = Cluster::absent(secs(20)).with("--data", data).with("--disk-reserve", "48MiB");
    let mut cluster = cluster;
    cluster.start_master().await;
    // 24 KiB of a page are about 18 as they are stored, so that 60 of 453 pages fill it.
    let worker = cluster.worker("one").set("--outbox", "1MiB").start();
    cluster.submit("c", sites.seeds()).done().await.expect(0);
    sites[0].visited(10).await;
    disk.fill(2 * MIB);
    cluster.told_until("status", [], |status| status["disk_low"]["refuses_reports"] == true).await;
    worker.says_line("it takes reports again when there is room", secs(20)).await;
    sleep(secs(2)).await;
    let visits: usize = sites.iter().map(|site| site.visits().len()).sum();
    sleep(secs(2)).await;
    let later: usize = sites.iter().map(|site| site.visits().len()).sum();
    assert_eq!(later, visits, "it goes on fetching although nothing is taken");
    assert!(visits < 3 * PAGES, "it has fetched all");
    let began = Instant::now();
    worker.stops().await;
    println!(
        "B11: with its outbox full a worker stopped at {visits} pages, and ended {:.1?} after \
         SIGTERM with exit code 0",
        began.elapsed()
    );
    cluster.stop_master().await;
}
