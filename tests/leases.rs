//! What becomes of leases between a real master and a real worker, in one process
//! and in virtual time, so that every delay is exact.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says so by a panic")]

use std::{
    collections::BTreeMap,
    future::Future,
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};
use tokio_stream::StreamExt;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status, body::Body};
use tower::{ServiceExt, service_fn, util::BoxCloneSyncService};
use trawl_master::{
    api::WorkerApi,
    crawl::{CrawlError, Crawls, Owner, PageSettings, Submission},
    frontier::{CrawlStatus, Frontier, Limits},
    store::{
        rows::{Finish, Wish},
        sled::SledStore,
    },
    workers::WorkerState,
};
use trawl_proto::{
    PROTOCOL,
    v1::{
        JoinRequest, ReportHeader, ReportPart, Response, UrlReport, Verdict, report_part::Part,
        url_report::Outcome, worker_client::WorkerClient, worker_server::WorkerServer,
    },
};
use trawl_shared::{
    outcome::Class,
    spec::{CrawlSpec, RobotsPolicy},
    units::{Size, Span},
    url::CrawlUrl,
};
use trawl_worker::{
    config::WorkerConfig,
    fetch::{Fetch, FetchError, Page},
    master::{Channel, Master, MasterError},
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

impl Web {
    fn counts(&self) -> BTreeMap<String, usize> {
        self.fetched.lock().unwrap().clone()
    }
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

/// A master in this process, which can be stopped and started again.
struct TestMaster {
    crawls: Crawls,
    stop: CancellationToken,
    owner: JoinHandle<Result<(), CrawlError>>,
}

impl TestMaster {
    /// A master on a data directory, in which it finds what a former one left.
    fn start(dir: &Path) -> Self {
        let limits = Limits { lease: LEASE, ..Limits::default() };
        let store = SledStore::open(&dir.join("frontier"), Size::mib(1)).unwrap();
        let instance = dir.display().to_string();
        let (frontier, now) = Frontier::open(store, limits, &instance).unwrap();
        let pages = PageSettings { directory: dir.join("pages"), segment: Size::mib(1) };
        let (crawls, mailbox) = Crawls::mailbox(LEASE);
        let stop = CancellationToken::new();
        let owner = tokio::spawn(Owner::new(frontier, now, pages).run(mailbox, stop.clone()));
        Self { crawls, stop, owner }
    }

    async fn submit(&self, spec: CrawlSpec, seeds: usize) {
        let seeds = (0..seeds).map(|n| format!("http://a.example/{n}").parse().unwrap()).collect();
        let submission = Submission { name: "c".into(), spec, seeds, take_up: false };
        self.crawls.submit(submission).await.unwrap().unwrap();
    }

    async fn status(&self) -> CrawlStatus {
        let overview = self.crawls.status(None, Duration::ZERO).await.unwrap().unwrap();
        overview.crawls.into_iter().next().unwrap()
    }

    async fn stop(self) {
        self.stop.cancel();
        self.owner.await.unwrap().unwrap();
    }
}

/// The way to a master, which may be away, and whose Renew may be held up for as long
/// as `delay` says of the how-manyth it is.
#[derive(Clone, Default)]
struct Way {
    crawls: Arc<Mutex<Option<Crawls>>>,
    renewals: Arc<Mutex<usize>>,
}

impl Way {
    fn to(crawls: &Crawls) -> Self {
        let way = Self::default();
        way.lead_to(Some(crawls));
        way
    }

    fn lead_to(&self, crawls: Option<&Crawls>) {
        *self.crawls.lock().unwrap() = crawls.cloned();
    }

    fn channel(&self, delay: fn(usize) -> Duration) -> Channel {
        let way = self.clone();
        BoxCloneSyncService::new(service_fn(move |request: http::Request<Body>| {
            let way = way.clone();
            async move {
                if request.uri().path().ends_with("/Renew") {
                    let count = {
                        let mut renewals = way.renewals.lock().unwrap();
                        *renewals += 1;
                        *renewals
                    };
                    sleep(delay(count)).await;
                }
                let crawls = way.crawls.lock().unwrap().clone();
                let crawls = crawls.ok_or_else(|| Status::unavailable("nobody is there"))?;
                let service = WorkerServer::new(WorkerApi::new(crawls, Size::mib(64)));
                service.oneshot(request).await.map_err(|never| match never {})
            }
        }))
    }

    /// A worker at the end of this way, until it is stopped.
    fn worker(
        &self,
        web: &Web,
        delay: fn(usize) -> Duration,
        stop: &CancellationToken,
    ) -> JoinHandle<Result<(), MasterError>> {
        let fetcher = web.clone();
        tokio::spawn(pipeline::run(
            Master::new(self.channel(delay), "w", 32),
            WorkerConfig::new("w".into()),
            Arc::new(move |_: &CrawlSpec| Ok(fetcher.clone())),
            stop.clone(),
        ))
    }
}

fn spec(delay: Span) -> CrawlSpec {
    CrawlSpec { robots: RobotsPolicy::Ignore, delay, ..CrawlSpec::default() }
}

/// Crawls the twenty pages of a host from so many seeds, with this delay, and renewals
/// held up so. Returns where the crawl stood when it had ended, and how often each page
/// was fetched.
async fn crawl(
    seeds: usize,
    host_delay: Span,
    delay: fn(usize) -> Duration,
) -> (CrawlStatus, BTreeMap<String, usize>) {
    let dir = tempfile::tempdir().unwrap();
    let master = TestMaster::start(dir.path());
    master.submit(spec(host_delay), seeds).await;
    let (web, stop) = (Web::default(), CancellationToken::new());
    let working = Way::to(&master.crawls).worker(&web, delay, &stop);
    let status = ended(&master.crawls).await;
    stop.cancel();
    working.await.unwrap().unwrap();
    master.stop().await;
    (status, web.counts())
}

/// Waits until so many pages were fetched.
async fn fetched(web: &Web, pages: usize) {
    while web.counts().len() < pages {
        sleep(Duration::from_millis(100)).await;
    }
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
    assert_eq!(status.leases_expired, 0, "its worker lives, and has let go of it: no loss");
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

#[tokio::test(start_paused = true)]
async fn a_worker_goes_on_with_a_master_that_was_away_and_keeps_what_it_held() {
    let dir = tempfile::tempdir().unwrap();
    let master = TestMaster::start(dir.path());
    master.submit(spec(Span::secs(0)), PAGES).await;
    let (web, stop) = (Web::default(), CancellationToken::new());
    let way = Way::to(&master.crawls);
    let working = way.worker(&web, |_| Duration::ZERO, &stop);
    fetched(&web, 5).await;
    way.lead_to(None);
    master.stop().await;
    // Shorter than the worker may act on what it holds, so that it goes on meanwhile.
    sleep(Duration::from_secs(3)).await;
    let master = TestMaster::start(dir.path());
    way.lead_to(Some(&master.crawls));
    let status = ended(&master.crawls).await;
    assert_eq!(status.outcomes, [(Class::Ok, PAGES as u64)]);
    assert_eq!((status.leases_expired, status.reports_stale), (0, 0));
    assert!(web.counts().values().all(|count| *count == 1), "{:?}", web.counts());
    stop.cancel();
    working.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_worker_forgets_what_another_data_directory_knew() {
    let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let master = TestMaster::start(first.path());
    master.submit(spec(Span::secs(0)), 1).await;
    let (web, stop) = (Web::default(), CancellationToken::new());
    let way = Way::to(&master.crawls);
    let working = way.worker(&web, |_| Duration::ZERO, &stop);
    fetched(&web, PAGES / 2).await;
    way.lead_to(None);
    master.stop().await;
    // The same crawl under the same number: what the worker took for known is not, here.
    let master = TestMaster::start(second.path());
    master.submit(spec(Span::secs(0)), 1).await;
    way.lead_to(Some(&master.crawls));
    let status = ended(&master.crawls).await;
    assert_eq!(status.outcomes, [(Class::Ok, PAGES as u64)]);
    stop.cancel();
    working.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_paused_crawl_rests_and_goes_on_where_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let master = TestMaster::start(dir.path());
    master.submit(spec(Span::secs(0)), PAGES).await;
    let (web, stop) = (Web::default(), CancellationToken::new());
    let working = Way::to(&master.crawls).worker(&web, |_| Duration::ZERO, &stop);
    fetched(&web, 5).await;
    master.crawls.steer("c".into(), Wish::Pause).await.unwrap().unwrap();
    // A heartbeat, and the fetch under way.
    sleep(Duration::from_secs(8)).await;
    let (at_rest, status) = (web.counts(), master.status().await);
    assert_eq!((status.leased, status.finish), (0, Finish::Running));
    assert_eq!(status.queued, (PAGES - at_rest.len()) as u64);
    sleep(Duration::from_secs(3_600)).await;
    assert_eq!(web.counts(), at_rest, "nothing is fetched while it is paused");
    master.crawls.steer("c".into(), Wish::Run).await.unwrap().unwrap();
    let status = ended(&master.crawls).await;
    assert_eq!((status.leases_expired, status.reports_stale), (0, 0));
    assert!(web.counts().values().all(|count| *count == 1), "{:?}", web.counts());
    stop.cancel();
    working.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_drains_ends_what_it_has_and_works_again_when_told_to() {
    let dir = tempfile::tempdir().unwrap();
    let master = TestMaster::start(dir.path());
    master.submit(spec(Span::secs(1)), PAGES).await;
    let (web, stop) = (Web::default(), CancellationToken::new());
    let working = Way::to(&master.crawls).worker(&web, |_| Duration::ZERO, &stop);
    fetched(&web, 1).await;
    assert!(master.crawls.drain("w".into(), true).await.unwrap().is_some());
    sleep(Duration::from_secs(60)).await;
    let drained = web.counts();
    let worker = master.crawls.workers().await.unwrap().remove(0);
    assert_eq!((worker.state, worker.urls), (WorkerState::Drained, 0));
    assert!(drained.len() < PAGES, "{drained:?}");
    assert_eq!(master.status().await.leases_expired, 0);
    master.crawls.drain("w".into(), false).await.unwrap();
    ended(&master.crawls).await;
    assert!(web.counts().values().all(|count| *count == 1), "{:?}", web.counts());
    stop.cancel();
    working.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_worker_ends_when_another_takes_its_name() {
    let dir = tempfile::tempdir().unwrap();
    let master = TestMaster::start(dir.path());
    master.submit(spec(Span::secs(0)), PAGES).await;
    let (web, stop) = (Web::default(), CancellationToken::new());
    let way = Way::to(&master.crawls);
    let first = way.worker(&web, |_| Duration::ZERO, &stop);
    fetched(&web, 3).await;
    let second = way.worker(&web, |_| Duration::ZERO, &stop);
    assert!(matches!(first.await.unwrap(), Err(MasterError::Replaced(_))));
    let status = ended(&master.crawls).await;
    assert_eq!(status.outcomes, [(Class::Ok, PAGES as u64)]);
    stop.cancel();
    second.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_report_that_stands_still_gives_its_room_back() {
    const ROOM: u64 = 1 << 20;
    let dir = tempfile::tempdir().unwrap();
    let master = TestMaster::start(dir.path());
    let api = WorkerApi::new(master.crawls.clone(), Size::bytes(ROOM));
    let mut client = WorkerClient::new(WorkerServer::new(api));
    let join = JoinRequest { worker: "w".into(), protocol: PROTOCOL, ..JoinRequest::default() };
    let session = client.join(join).await.unwrap().into_inner().session;
    let report = move |response_len| {
        let header = Part::Header(ReportHeader { worker: "w".into(), session });
        let response =
            Response { status: 200, sha1: vec![0; 20], response_len, ..Response::default() };
        let (id, outcome) = (vec![0; 20], Some(Outcome::Response(response)));
        let url = Part::Url(UrlReport { id, outcome, ..UrlReport::default() });
        tokio_stream::iter([header, url].map(|part| ReportPart { part: Some(part) }))
    };

    // One takes all the room for records that never come. Another one waits for room.
    let began = Instant::now();
    let mut staller = client.clone();
    let stalled = tokio::spawn(async move {
        staller.report(report(ROOM).chain(tokio_stream::pending())).await.unwrap_err()
    });
    sleep(Duration::from_secs(1)).await;
    let verdicts = client.report(report(0)).await.unwrap().into_inner().verdicts;

    assert_eq!(verdicts, [Verdict::Stale as i32]);
    assert_eq!(stalled.await.unwrap().code(), Code::DeadlineExceeded);
    let waited = began.elapsed().as_secs();
    assert!((59..90).contains(&waited), "{waited} s");
    master.stop().await;
}
