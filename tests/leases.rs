//! What becomes of leases between a real master and a real worker, in one process
//! and in virtual time, so that every delay is exact.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says so by a panic")]

use std::{
    collections::BTreeMap,
    future::Future,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tower::{ServiceExt, service_fn, util::BoxCloneSyncService};
use trawl_master::{
    api::WorkerApi,
    crawl::{Crawls, Owner, PageSettings, Submission},
    frontier::{CrawlStatus, Frontier, Limits},
    store::memory::MemoryStore,
};
use trawl_proto::v1::worker_server::WorkerServer;
use trawl_shared::{
    outcome::Class,
    spec::{CrawlSpec, RobotsPolicy},
    units::{Size, Span},
    url::CrawlUrl,
};
use trawl_worker::{
    config::WorkerConfig,
    fetch::{Fetch, FetchError, Page},
    master::{Channel, Master},
    pipeline,
};

const LEASE: Duration = Duration::from_secs(10);
const FETCH: Duration = Duration::from_millis(1_700);
const PAGES: usize = 20;

/// A web whose every answer takes [`FETCH`], and that counts them. Each page links to
/// the next.
#[derive(Clone, Default)]
struct Web {
    fetched: Arc<Mutex<BTreeMap<String, usize>>>,
}

impl Fetch for Web {
    async fn get(&self, url: &CrawlUrl) -> Result<Page, FetchError> {
        sleep(FETCH).await;
        *self.fetched.lock().unwrap().entry(url.as_str().to_owned()).or_default() += 1;
        let number: usize = url.path_and_query()[1..].parse().unwrap();
        let next = (number + 1) % PAGES;
        let body = Bytes::from(format!("<a href='/{next}'>next</a>"));
        let html = http::HeaderValue::from_static("text/html");
        Ok(Page {
            url: url.clone(),
            status: 200,
            version: http::Version::HTTP_11,
            headers: [(http::header::CONTENT_TYPE, html)].into_iter().collect(),
            request_head: b"GET / HTTP/1.1\r\n\r\n".to_vec(),
            wire: body.clone(),
            body,
            truncated: None,
            address: None,
            fetched_at: trawl_shared::clock::wall_now(),
            elapsed: FETCH,
        })
    }
}

/// The master's service, with every Renew held up for as long as `delay` says of
/// the how-manyth it is.
fn channel(crawls: &Crawls, delay: fn(usize) -> Duration) -> Channel {
    let service = WorkerServer::new(WorkerApi::new(crawls.clone(), Size::mib(64)));
    let renewals = Arc::new(Mutex::new(0));
    BoxCloneSyncService::new(service_fn(move |request: http::Request<Body>| {
        let (service, renewals) = (service.clone(), Arc::clone(&renewals));
        async move {
            if request.uri().path().ends_with("/Renew") {
                let count = {
                    let mut renewals = renewals.lock().unwrap();
                    *renewals += 1;
                    *renewals
                };
                sleep(delay(count)).await;
            }
            service.oneshot(request).await.map_err(|never| match never {})
        }
    }))
}

/// Crawls the twenty pages of a host from so many seeds, with this delay, and renewals
/// held up so. Returns where the
/// crawl stood when it had ended, and how often each page was fetched.
async fn crawl(
    seeds: usize,
    host_delay: Span,
    delay: fn(usize) -> Duration,
) -> (CrawlStatus, BTreeMap<String, usize>) {
    let dir = tempfile::tempdir().unwrap();
    let limits = Limits { lease: LEASE, ..Limits::default() };
    let (frontier, now) = Frontier::open(MemoryStore::default(), limits, "test").unwrap();
    let pages = PageSettings { directory: dir.path().join("pages"), segment: Size::mib(1) };
    let (crawls, mailbox) = Crawls::mailbox(LEASE);
    let stop = CancellationToken::new();
    let owner = tokio::spawn(Owner::new(frontier, now, pages).run(mailbox, stop.clone()));
    let spec =
        CrawlSpec { robots: RobotsPolicy::Ignore, delay: host_delay, ..CrawlSpec::default() };
    let seeds = (0..seeds).map(|n| format!("http://a.example/{n}").parse().unwrap()).collect();
    let submission = Submission { name: "c".into(), spec, seeds, take_up: false };
    crawls.submit(submission).await.unwrap().unwrap();

    let web = Web::default();
    let fetcher = web.clone();
    let working = tokio::spawn(pipeline::run(
        Master::new(channel(&crawls, delay), "w", 32),
        WorkerConfig::new("w".into()),
        Arc::new(move |_: &CrawlSpec| Ok(fetcher.clone())),
        stop.clone(),
    ));
    let status = ended(&crawls).await;
    stop.cancel();
    working.await.unwrap().unwrap();
    owner.await.unwrap().unwrap();
    let fetched = web.fetched.lock().unwrap().clone();
    (status, fetched)
}

/// Where the crawl stands when it has ended; an hour is more than it needs.
fn ended(crawls: &Crawls) -> impl Future<Output = CrawlStatus> {
    let hour = Duration::from_secs(60 * 60);
    async move {
        let overview = timeout(hour * 2, crawls.status(None, hour)).await.unwrap().unwrap();
        let status = overview.unwrap().crawls.into_iter().next().unwrap();
        assert_eq!((status.queued, status.leased), (0, 0), "it has ended: {status:?}");
        status
    }
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_is_renewed_lasts_as_long_as_the_work() {
    let (status, fetched) = crawl(PAGES, Span::secs(0), |_| Duration::ZERO).await;
    assert_eq!(status.outcomes, [(Class::Ok, PAGES as u64)]);
    assert_eq!((status.leases_expired, status.reports_stale), (0, 0));
    assert_eq!(fetched.len(), PAGES);
    assert!(fetched.values().all(|count| *count == 1), "{fetched:?}");
}

#[tokio::test(start_paused = true)]
async fn what_a_worker_let_go_of_comes_again_even_if_its_renewal_came_late() {
    // The first renewal is asked for at 4 s and heard at 9 s: after the worker has let
    // go at 8 s, before the master would have taken back at 10 s.
    let late = |count| if count == 1 { Duration::from_secs(5) } else { Duration::ZERO };
    let (status, fetched) = crawl(PAGES, Span::secs(0), late).await;
    assert_eq!(status.outcomes, [(Class::Ok, PAGES as u64)]);
    assert_eq!(status.leases_expired, 1, "the lease that was let go of");
    assert_eq!(fetched.len(), PAGES);
    assert!(fetched.values().all(|count| *count == 1), "nothing is fetched twice: {fetched:?}");
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_was_long_waited_for_is_not_old_when_it_comes() {
    // Each page is known only when the one before has been read, and the host is due 9 s
    // after that: a worker that has asked for it all the while must not believe that it
    // has held the lease ever since.
    let (status, fetched) = crawl(1, Span::secs(9), |_| Duration::ZERO).await;
    assert_eq!(status.outcomes, [(Class::Ok, PAGES as u64)]);
    assert_eq!((status.leases_expired, status.reports_stale), (0, 0));
    assert!(fetched.values().all(|count| *count == 1), "{fetched:?}");
}
