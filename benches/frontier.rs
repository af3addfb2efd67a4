//! The frontier alone: URLs taken in, and URLs lent and ended, each committed and
//! synced, on sled and in memory. A thousand URLs an iteration, fifty a host.

use std::{hint::black_box, time::Duration};

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use trawl_master::{
    frontier::{Frontier, Judgement, LeaseRequest, Limits, Moment, Outcome, Report},
    pages::Place,
    store::{Store, memory::MemoryStore, sled::SledStore},
};
use trawl_shared::{
    scope::ScopeKind,
    spec::CrawlSpec,
    units::{Size, Span},
    url::{CrawlUrl, UrlId},
};

const URLS: usize = 1_000;

fn spec() -> CrawlSpec {
    CrawlSpec { scope: ScopeKind::Any, delay: Span::secs(0), ..CrawlSpec::default() }
}

fn urls() -> Vec<CrawlUrl> {
    (0..URLS).map(workload::url).collect()
}

fn open<S: Store>(store: S) -> Frontier<S> {
    let opened = Frontier::open(store, Limits::default(), "bench");
    opened.unwrap_or_else(|error| panic!("{error}")).0
}

fn sled() -> (tempfile::TempDir, SledStore) {
    let dir = tempfile::tempdir().unwrap_or_else(|error| panic!("{error}"));
    let store = SledStore::open(dir.path(), Size::mib(32));
    (dir, store.unwrap_or_else(|error| panic!("{error}")))
}

fn take_in<S: Store>(frontier: &mut Frontier<S>, urls: &[CrawlUrl]) {
    let now = Moment(1);
    let submitted = frontier.submit("bench", spec(), urls, now);
    black_box(submitted.unwrap_or_else(|error| panic!("{error}")));
    finish(frontier, now);
}

/// Lends everything, and ends it with an answer each.
fn lend_and_end<S: Store>(frontier: &mut Frontier<S>) {
    let now = Moment(2);
    let request =
        LeaseRequest { worker: "bench".into(), hosts: URLS, extend: Vec::new(), crawl: None };
    let batches = frontier.lease(&request, now).unwrap_or_else(|error| panic!("{error}"));
    finish(frontier, now);
    for batch in batches {
        for url in &batch.urls {
            let id = UrlId::of(&url.url);
            let Ok(Judgement::Apply(ticket)) = frontier.judge("bench", batch.token, batch.at, &id)
            else {
                panic!("{} is lent", url.url)
            };
            let report = Report {
                token: batch.token,
                at: batch.at,
                id,
                outcome: Outcome::Answered {
                    status: 200,
                    sha1: [7; 20],
                    body_bytes: 30_000,
                    wire_bytes: 30_000,
                    fetched_at: 0,
                    simhash: None,
                },
                offers: Vec::new(),
                host_delay: None,
                news: None,
                reported_at: 0,
            };
            let place =
                Place { segment: 1, offset: 0, response_len: 1, request_len: 1, metadata_len: 1 };
            let applied = frontier.apply(ticket, report, Some(place), now, 0.0);
            black_box(applied.unwrap_or_else(|error| panic!("{error}")));
        }
    }
    finish(frontier, now);
}

fn finish<S: Store>(frontier: &mut Frontier<S>, now: Moment) {
    let done = frontier.commit(now).and_then(|()| frontier.sync());
    done.unwrap_or_else(|error| panic!("{error}"));
}

fn frontier(criterion: &mut Criterion) {
    let urls = urls();
    let mut group = criterion.benchmark_group("frontier");
    group.throughput(Throughput::Elements(URLS as u64));
    group.measurement_time(Duration::from_secs(5)).sample_size(10);
    group.bench_function("take in, memory", |bench| {
        let fresh = || open(MemoryStore::default());
        bench.iter_batched_ref(fresh, |frontier| take_in(frontier, &urls), BatchSize::PerIteration);
    });
    group.bench_function("take in, sled, durable", |bench| {
        let fresh = || {
            let (dir, store) = sled();
            (dir, open(store))
        };
        let run = |fresh: &mut (_, _)| take_in(&mut fresh.1, &urls);
        bench.iter_batched_ref(fresh, run, BatchSize::PerIteration);
    });
    group.bench_function("lend and end, sled, durable", |bench| {
        let filled = || {
            let (dir, store) = sled();
            let mut frontier = open(store);
            take_in(&mut frontier, &urls);
            (dir, frontier)
        };
        let run = |filled: &mut (_, _)| lend_and_end(&mut filled.1);
        bench.iter_batched_ref(filled, run, BatchSize::PerIteration);
    });
    group.finish();
}

criterion_group!(benches, frontier);
criterion_main!(benches);
