//! The frontier alone, on sled, durable: what it takes in, lends and ends in a
//! second, and what it needs for it. Runs in a process of its own, so that the
//! memory it takes is its own.
//!
//! A page leads to a thousand URLs that are new, fifty a host, and is a commit of
//! its own, synced. Then the same pages are offered once more. Then
//! everything is lent, a thousand URLs at a time, and ended, each a commit.

use std::{fs, path::Path};

use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use trawl_master::{
    frontier::{Batch, Frontier, Judgement, LeaseRequest, Limits, Moment, Offer, Outcome, Report},
    pages::Place,
    store::sled::SledStore,
};
use trawl_shared::{
    scope::ScopeKind,
    spec::CrawlSpec,
    units::{Size, Span},
    url::{CrawlUrl, UrlId},
};

use crate::{Failure, crawls::disk_usage, table::Run};

/// URLs in one commit.
const COMMIT: usize = 1_000;

const URLS_PER_HOST: usize = 50;

/// As the master has it.
const CACHE: Size = Size::mib(32);

/// The frontier takes the time as an argument, and nothing here waits.
const NOW: Moment = Moment(1);

const WORKER: &str = "bench";

/// Figures, and how many URLs they are of.
#[derive(Deserialize, Serialize)]
pub(crate) struct Found {
    urls: usize,
    offers_per_s: f64,
    known_offers_per_s: f64,
    leases_per_s: f64,
    ends_per_s: f64,
    /// CPU seconds of all threads.
    offers_cpu: f64,
    lent_and_ended_cpu: f64,
    disk_bytes: u64,
    memory_bytes: u64,
}

impl Found {
    pub(crate) fn run(&self) -> Run {
        let urls = self.urls as f64;
        let both = 1.0 / (1.0 / self.leases_per_s + 1.0 / self.ends_per_s);
        Run::new(format!("frontier on sled, {} URLs", self.urls))
            .with("offers_per_s", self.offers_per_s)
            .with("known_offers_per_s", self.known_offers_per_s)
            .with("leases_per_s", self.leases_per_s)
            .with("ends_per_s", self.ends_per_s)
            .with("lent_and_ended_per_s", both)
            .with("offer_cpu_us", self.offers_cpu * 1e6 / urls)
            .with("lent_and_ended_cpu_us", self.lent_and_ended_cpu * 1e6 / urls)
            .with("disk_bytes_per_url", self.disk_bytes as f64 / urls)
            .with("memory_bytes_per_url", self.memory_bytes as f64 / urls)
    }
}

type Sled = Frontier<SledStore>;

/// Takes in, lends and ends so many URLs, in a folder that does not exist yet.
pub(crate) fn run(urls: usize, folder: &Path) -> Result<Found, Failure> {
    let store = SledStore::open(folder, CACHE)?;
    let (mut frontier, _) = Frontier::open(store, Limits::default(), "bench")?;
    let spec = CrawlSpec { scope: ScopeKind::Any, delay: Span::secs(0), ..CrawlSpec::default() };
    let pages = urls.div_ceil(COMMIT);
    // Half of them offer what the other half have offered before.
    let seeds = (0..2 * pages).map(|page| format!("http://seed{page}.example/").parse());
    let seeds: Vec<CrawlUrl> = seeds.collect::<Result<_, _>>()?;
    frontier.submit("bench", spec, &seeds, NOW)?;
    finish(&mut frontier)?;
    let leading = lend(&mut frontier, seeds.len())?;
    let memory_before = memory()?;

    let (first, second) = leading.split_at(pages);
    let start = cpu_time();
    let offers_per_s = offer_all(&mut frontier, first)?;
    let offers_cpu = cpu_time() - start;
    let known_offers_per_s = offer_all(&mut frontier, second)?;

    let start = cpu_time();
    let (mut lending, mut ending, mut ended) = (0.0, 0.0, 0);
    loop {
        let start = Instant::now();
        let batches = lend(&mut frontier, COMMIT / URLS_PER_HOST)?;
        lending += start.elapsed().as_secs_f64();
        if batches.is_empty() {
            break;
        }
        let start = Instant::now();
        for batch in &batches {
            for url in &batch.urls {
                end(&mut frontier, batch, &url.url, Vec::new())?;
            }
            ended += batch.urls.len();
        }
        finish(&mut frontier)?;
        ending += start.elapsed().as_secs_f64();
    }
    let lent_and_ended_cpu = cpu_time() - start;
    if ended != pages * COMMIT {
        return Err(format!("{ended} URLs were lent, not {}", pages * COMMIT).into());
    }
    let memory_bytes = memory()?.saturating_sub(memory_before);
    drop(frontier);
    Ok(Found {
        urls: ended,
        offers_per_s,
        known_offers_per_s,
        leases_per_s: ended as f64 / lending,
        ends_per_s: ended as f64 / ending,
        offers_cpu,
        lent_and_ended_cpu,
        disk_bytes: disk_usage(folder)?,
        memory_bytes,
    })
}

/// Ends each of these pages with its offers; says how many were handled in a second.
fn offer_all(frontier: &mut Sled, leading: &[Batch]) -> Result<f64, Failure> {
    let mut spent = 0.0;
    for (page, batch) in leading.iter().enumerate() {
        let url = |n| format!("http://host{}.example/section/page{n}.html", n / URLS_PER_HOST);
        let offers = (page * COMMIT..(page + 1) * COMMIT).map(|n| Offer {
            url: url(n),
            hops: 0,
            ..Default::default()
        });
        let offers = offers.collect();
        let start = Instant::now();
        end(frontier, batch, &batch.urls[0].url, offers)?;
        finish(frontier)?;
        spent += start.elapsed().as_secs_f64();
    }
    Ok((leading.len() * COMMIT) as f64 / spent)
}

fn lend(frontier: &mut Sled, hosts: usize) -> Result<Vec<Batch>, Failure> {
    let request = LeaseRequest { worker: WORKER.into(), hosts, extend: Vec::new(), crawl: None };
    let batches = frontier.lease(&request, NOW)?;
    finish(frontier)?;
    Ok(batches)
}

/// Ends a lent URL with an answer that offers these.
fn end(frontier: &mut Sled, batch: &Batch, url: &str, offers: Vec<Offer>) -> Result<(), Failure> {
    let id = UrlId::of(url);
    let Judgement::Apply(ticket) = frontier.judge(WORKER, batch.token, batch.at, &id)? else {
        return Err(format!("{url} is not lent").into());
    };
    let outcome = Outcome::Answered {
        status: 200,
        sha1: [7; 20],
        body_bytes: 30_000,
        wire_bytes: 30_000,
        fetched_at: 0,
        simhash: None,
    };
    let (token, at) = (batch.token, batch.at);
    let report =
        Report { token, at, id, outcome, offers, host_delay: None, news: None, reported_at: 0 };
    let place = Place { segment: 1, offset: 0, response_len: 1, request_len: 1, metadata_len: 1 };
    frontier.apply(ticket, report, Some(place), NOW, 0.0)?;
    Ok(())
}

fn finish(frontier: &mut Sled) -> Result<(), Failure> {
    frontier.commit(NOW)?;
    Ok(frontier.sync()?)
}

/// CPU seconds that this process has spent.
fn cpu_time() -> f64 {
    let spent = clock_gettime(ClockId::ProcessCPUTime);
    spent.tv_sec as f64 + spent.tv_nsec as f64 / 1e9
}

/// The largest that this process has been.
fn memory() -> Result<u64, Failure> {
    let status = fs::read_to_string("/proc/self/status")?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = peak.and_then(|peak| peak.trim().trim_end_matches(" kB").parse::<u64>().ok());
    Ok(kib.ok_or("/proc tells no peak of memory")? * 1024)
}
