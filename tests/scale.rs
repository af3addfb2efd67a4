//! A million URLs in the frontier: how long a master takes from its start to its first lease, what
//! memory it needs then, and what disk.
//!
//! The URLs wait, fifty a host, as links of pages that led to a thousand of them each. A process of
//! its own, which is this test program started once more, takes them in and is then gone without
//! closing anything, as by `kill -9`. `TRAWL_SCALE_URLS` sets how many there are (1,000,000),
//! `TRAWL_SCALE_URLS_PER_HOST` of how many a host (50). With `TRAWL_SCALE_SPREAD=1` a page leads to
//! other hosts by each of its links, instead of to all URLs of some.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says so by a panic")]

use std::{
    env, fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::Command,
};

use harness::{Cluster, Trawl, secs};
use tokio::time::Instant;
use trawl_master::{
    data_dir::DataDir,
    frontier::{Batch, Frontier, Judgement, LeaseRequest, Limits, Moment, Offer, Outcome, Report},
    pages::Place,
    store::sled::SledStore,
};
use trawl_proto::{
    PROTOCOL,
    v1::{self, JoinRequest, worker_client::WorkerClient},
};
use trawl_shared::{
    scope::ScopeKind,
    spec::CrawlSpec,
    units::{Size, Span},
    url::{CrawlUrl, UrlId},
};

const LINKS_OF_A_PAGE: usize = 1_000;

/// The bar: seconds to the first lease, of a million URLs at most and of more.
const FIRST_LEASE_SECS: (f64, f64) = (5.0, 20.0);
const MEMORY: (u64, u64) = (150_000_000, 100);
const DISK_BYTES_PER_URL: u64 = 500;

const CHILD_DATA: &str = "TRAWL_SCALE_DATA";

const NOW: Moment = Moment(1);
const WORKER: &str = "filler";

#[tokio::test]
async fn a_master_of_a_million_urls_starts_in_seconds_and_within_its_memory() {
    let urls = setting("URLS", 1_000_000);
    let trawl = Trawl::new();
    let data = trawl.data();
    let began = Instant::now();
    let filled = Command::new(env::current_exe().unwrap())
        .args(["--exact", "fill", "--ignored", "--nocapture"])
        .env(CHILD_DATA, &data)
        .status();
    assert!(filled.unwrap().success());
    let filling = began.elapsed().as_secs_f64();
    let disk = on_disk(&data);

    let mut cluster = Cluster::absent(secs(30)).with("--data", &data);
    let began = Instant::now();
    cluster.start_master().await;
    let listening = began.elapsed().as_secs_f64();
    let leased = first_lease(cluster.url()).await;
    let first = began.elapsed().as_secs_f64();
    let memory = cluster.master().memory_peak();
    let again = on_disk(&data);
    println!(
        "B13: {urls} URLs waiting (taken in within {filling:.1} s, unoptimised): listening after \
         {listening:.2} s, first lease of {leased} URLs after {first:.2} s; {:.0} MB of memory at \
         most, {:.0} B a URL beyond 150 MB; {} B of disk a URL, {} after the start",
        memory as f64 / 1e6,
        memory.saturating_sub(MEMORY.0) as f64 / urls as f64,
        disk / urls as u64,
        again / urls as u64,
    );
    let crawl = cluster.crawl("c").await;
    assert!(crawl["queued"].as_u64().unwrap() + leased as u64 >= urls as u64, "{crawl:#}");
    let limit = if urls > 1_000_000 { FIRST_LEASE_SECS.1 } else { FIRST_LEASE_SECS.0 };
    assert!(first < limit, "{first:.2} s to the first lease");
    assert!(memory <= MEMORY.0 + MEMORY.1 * urls as u64, "{memory} bytes of memory");
    assert!(
        disk.max(again) <= DISK_BYTES_PER_URL * urls as u64,
        "{disk} and {again} bytes of disk"
    );
    cluster.stop_master().await;
}

/// Joins a master, and takes what it lends first.
async fn first_lease(master: &str) -> usize {
    let mut worker = WorkerClient::connect(master.to_owned()).await.unwrap();
    let name = "first".to_owned();
    let join = JoinRequest { worker: name.clone(), protocol: PROTOCOL, ..JoinRequest::default() };
    let session = worker.join(join).await.unwrap().into_inner().session;
    let lease =
        v1::LeaseRequest { worker: name, session, hosts: 8, wait_ms: 10_000, ..Default::default() };
    let batches = worker.lease(lease).await.unwrap().into_inner().batches;
    batches.iter().map(|batch| batch.urls.len()).sum()
}

fn setting(name: &str, otherwise: usize) -> usize {
    env::var(format!("TRAWL_SCALE_{name}")).map_or(otherwise, |value| value.parse().unwrap())
}

/// The URLs of the web, by number.
#[derive(Clone, Copy)]
struct Numbered {
    hosts: usize,
    urls_per_host: usize,
    is_spread: bool,
}

impl Numbered {
    fn of(urls: usize) -> Self {
        let urls_per_host = setting("URLS_PER_HOST", 50);
        let is_spread = setting("SPREAD", 0) == 1;
        Self { hosts: urls.div_ceil(urls_per_host), urls_per_host, is_spread }
    }

    fn url(self, n: usize) -> String {
        let host = if self.is_spread { n % self.hosts } else { n / self.urls_per_host };
        format!("http://host{host}.example/section/page{n}.html")
    }
}

/// Bytes of disk that a folder takes, holes left out.
fn on_disk(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries
        .map(|path| match path.is_dir() {
            true => on_disk(&path),
            // What the store has just replaced is gone.
            false => fs::metadata(path).map_or(0, |file| file.blocks() * 512),
        })
        .sum()
}

/// Takes the URLs in, in a process of its own, and ends it without a word.
#[test]
#[ignore = "runs in a process that the other test starts"]
fn fill() {
    let Some(data) = env::var_os(CHILD_DATA) else { return };
    let urls = setting("URLS", 1_000_000);
    let numbered = Numbered::of(urls);
    let data = DataDir::open_or_create(&PathBuf::from(data)).unwrap();
    let store = SledStore::open(&data.frontier(), Size::mib(32)).unwrap();
    let (mut frontier, _) = Frontier::open(store, Limits::default(), "scale").unwrap();
    let spec = CrawlSpec { scope: ScopeKind::Any, delay: Span::secs(0), ..CrawlSpec::default() };
    let pages = urls / LINKS_OF_A_PAGE;
    let seeds = (0..pages).map(|page| format!("http://seed{page}.example/").parse());
    let seeds: Vec<CrawlUrl> = seeds.collect::<Result<_, _>>().unwrap();
    frontier.submit("c", spec, &seeds, NOW).unwrap();
    let request =
        LeaseRequest { worker: WORKER.into(), hosts: pages, extend: Vec::new(), crawl: None };
    for (page, batch) in frontier.lease(&request, NOW).unwrap().iter().enumerate() {
        end(&mut frontier, batch, page, numbered);
        frontier.commit(NOW).unwrap();
    }
    frontier.sync().unwrap();
    std::process::exit(0);
}

/// Ends a page with its links.
fn end(frontier: &mut Frontier<SledStore>, batch: &Batch, page: usize, numbered: Numbered) {
    let id = UrlId::of(&batch.urls[0].url);
    let Judgement::Apply(ticket) = frontier.judge(WORKER, batch.token, batch.at, &id).unwrap()
    else {
        panic!("it is lent")
    };
    let links = page * LINKS_OF_A_PAGE..(page + 1) * LINKS_OF_A_PAGE;
    let outcome = Outcome::Answered {
        status: 200,
        sha1: [7; 20],
        body_bytes: 30_000,
        wire_bytes: 30_000,
        fetched_at: 0,
        simhash: None,
    };
    let report = Report {
        token: batch.token,
        at: batch.at,
        id,
        outcome,
        offers: links
            .map(|n| Offer { url: numbered.url(n), hops: 0, ..Default::default() })
            .collect(),
        host_delay: None,
        news: None,
        reported_at: 0,
    };
    let place = Place { segment: 1, offset: 0, response_len: 1, request_len: 1, metadata_len: 1 };
    frontier.apply(ticket, report, Some(place), NOW, 0.0).unwrap();
}
