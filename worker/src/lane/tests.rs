//! What a lane does with a host's robots.txt and with long waits, between a site and a
//! master that do as they are told, in virtual time.

use std::{
    collections::{HashMap, VecDeque},
    io::Write,
    sync::{Arc, Mutex},
};

use flate2::{Compression, write::ZlibEncoder};
use http::{HeaderMap, header};
use tokio_stream::StreamExt;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming, body::Body};
use tower::{ServiceExt, service_fn, util::BoxCloneSyncService};
use trawl_proto::v1::{
    CrawlReply, CrawlRequest, HandBackReply, HandBackRequest, HostBatch, JoinReply, JoinRequest,
    LeaseReply, LeaseRequest, LeasedUrl, RenewReply, RenewRequest, ReportPart, ReportReply,
    RobotsReply, RobotsRequest, RobotsState, Verdict, report_part::Part, robots_news::Found,
    worker_server,
};
use trawl_shared::{scope::ScopeKind, spec::CrawlSpec, units::Span};

use super::*;
use crate::{config::WorkerConfig, master::Master, pipeline};

const SECOND: Duration = Duration::from_secs(1);
const LEASE: Duration = Duration::from_secs(30);
const HOUR_MS: u64 = 60 * 60 * 1_000;
const DAY_MS: u64 = 24 * HOUR_MS;

/// What a site answers for a path: status, headers, body.
type Answer = (u16, Vec<(header::HeaderName, &'static str)>, &'static str);

/// A site that notes what is fetched from it, and after how many seconds.
#[derive(Clone)]
struct Site {
    began: Instant,
    answers: Arc<HashMap<&'static str, Answer>>,
    fetched: Arc<Mutex<Vec<(String, u64)>>>,
}

impl Site {
    fn of(answers: impl IntoIterator<Item = (&'static str, Answer)>) -> Self {
        let answers = Arc::new(answers.into_iter().collect());
        Self { began: Instant::now(), answers, fetched: Arc::default() }
    }

    fn fetched(&self) -> Vec<(String, u64)> {
        self.fetched.lock().unwrap().clone()
    }

    fn paths(&self) -> Vec<String> {
        self.fetched().into_iter().map(|(path, _)| path).collect()
    }
}

impl Fetch for Site {
    async fn get(&self, url: &CrawlUrl) -> Result<Page, FetchError> {
        let at = self.began.elapsed().as_secs();
        self.fetched.lock().unwrap().push((url.path_and_query().to_owned(), at));
        sleep(Duration::from_millis(10)).await;
        let page = (200, Vec::new(), "");
        let (status, headers, body) = self.answers.get(url.path_and_query()).unwrap_or(&page);
        let headers = headers.iter().map(|(name, value)| (name.clone(), value.parse().unwrap()));
        Ok(Page {
            url: url.clone(),
            status: *status,
            version: http::Version::HTTP_11,
            headers: HeaderMap::from_iter(headers),
            request_head: b"GET / HTTP/1.1\r\n\r\n".to_vec(),
            wire: body.as_bytes().into(),
            body: body.as_bytes().into(),
            truncated: None,
            address: None,
            fetched_at: trawl_shared::clock::wall_now(),
            elapsed: Duration::from_millis(10),
        })
    }
}

/// What a master hears, in order.
#[derive(Clone, Debug)]
enum Heard {
    Report,
    HandBack(HandBackRequest),
}

/// A master with a row of batches, each lent when the one before has ended.
#[derive(Clone, Default)]
struct StubMaster {
    spec: Arc<CrawlSpec>,
    robots: Arc<Vec<u8>>,
    state: Option<RobotsState>,
    batches: Arc<Mutex<VecDeque<HostBatch>>>,
    /// URLs of the batch that is lent.
    open: Arc<Mutex<usize>>,
    heard: Arc<Mutex<Vec<Heard>>>,
}

impl StubMaster {
    fn new(spec: CrawlSpec, batches: impl IntoIterator<Item = HostBatch>) -> Self {
        let batches = Arc::new(Mutex::new(batches.into_iter().collect()));
        Self { spec: Arc::new(spec), batches, ..Self::default() }
    }

    /// It has a robots.txt of the host, of which so much is known.
    fn with_robots(self, text: &str, state: RobotsState) -> Self {
        let mut zlib = ZlibEncoder::new(Vec::new(), Compression::fast());
        zlib.write_all(text.as_bytes()).unwrap();
        let robots = Arc::new(zlib.finish().unwrap());
        let batches = Arc::new(Mutex::new(
            self.batches.lock().unwrap().iter().cloned().map(|batch| with(batch, state)).collect(),
        ));
        Self { robots, state: Some(state), batches, ..self }
    }

    /// Has a worker work for an hour.
    async fn work(&self, site: &Site) -> Vec<Heard> {
        let stub = self.clone();
        let channel = BoxCloneSyncService::new(service_fn(move |request: http::Request<Body>| {
            let service = worker_server::WorkerServer::new(stub.clone());
            async move { service.oneshot(request).await.map_err(|never| match never {}) }
        }));
        let (site, stop) = (site.clone(), CancellationToken::new());
        let working = tokio::spawn(pipeline::run(
            Master::new(channel, "w", 4),
            WorkerConfig::new("w".into()),
            Arc::new(move |_: &CrawlSpec| Ok(site.clone())),
            stop.clone(),
        ));
        sleep(SECOND * 3_600).await;
        stop.cancel();
        working.await.unwrap().unwrap();
        self.heard.lock().unwrap().clone()
    }
}

fn with(batch: HostBatch, robots: RobotsState) -> HostBatch {
    HostBatch { robots: Some(robots), ..batch }
}

#[tonic::async_trait]
impl worker_server::Worker for StubMaster {
    async fn join(&self, _: Request<JoinRequest>) -> Result<Response<JoinReply>, Status> {
        let lease_ms = LEASE.as_millis() as u64;
        Ok(Response::new(JoinReply { session: 1, lease_ms, ..JoinReply::default() }))
    }

    async fn lease(&self, request: Request<LeaseRequest>) -> Result<Response<LeaseReply>, Status> {
        let is_free = *self.open.lock().unwrap() == 0 && request.get_ref().hosts > 0;
        let batch = if is_free { self.batches.lock().unwrap().pop_front() } else { None };
        match &batch {
            Some(batch) => *self.open.lock().unwrap() = batch.urls.len(),
            None => sleep(SECOND).await,
        }
        Ok(Response::new(LeaseReply { batches: batch.into_iter().collect() }))
    }

    async fn crawl(&self, _: Request<CrawlRequest>) -> Result<Response<CrawlReply>, Status> {
        let spec_json = self.spec.to_json();
        Ok(Response::new(CrawlReply { spec_json, ..CrawlReply::default() }))
    }

    async fn renew(&self, _: Request<RenewRequest>) -> Result<Response<RenewReply>, Status> {
        Ok(Response::new(RenewReply::default()))
    }

    async fn report(
        &self,
        request: Request<Streaming<ReportPart>>,
    ) -> Result<Response<ReportReply>, Status> {
        let (mut parts, mut verdicts) = (request.into_inner(), Vec::new());
        while let Some(part) = parts.next().await {
            if let Some(Part::Url(_)) = part?.part {
                *self.open.lock().unwrap() -= 1;
                self.heard.lock().unwrap().push(Heard::Report);
                verdicts.push(Verdict::Applied as i32);
            }
        }
        Ok(Response::new(ReportReply { verdicts }))
    }

    async fn hand_back(
        &self,
        request: Request<HandBackRequest>,
    ) -> Result<Response<HandBackReply>, Status> {
        let request = request.into_inner();
        if !request.all {
            if !request.tokens.is_empty() {
                *self.open.lock().unwrap() = 0;
            }
            self.heard.lock().unwrap().push(Heard::HandBack(request));
        }
        Ok(Response::new(HandBackReply {}))
    }

    async fn robots(&self, _: Request<RobotsRequest>) -> Result<Response<RobotsReply>, Status> {
        Ok(Response::new(RobotsReply { state: self.state, text: self.robots.to_vec() }))
    }
}

fn spec() -> CrawlSpec {
    CrawlSpec { scope: ScopeKind::Any, delay: Span::secs(1), ..CrawlSpec::default() }
}

fn batch(token: u64, paths: &[&str]) -> HostBatch {
    let url = |path: &&str| LeasedUrl {
        url: format!("http://site.example{path}"),
        attempt: 1,
        ..LeasedUrl::default()
    };
    let urls = paths.iter().map(url).collect();
    let host_key = "http://site.example".to_owned();
    HostBatch { token, crawl: 1, host: 7, host_key, urls, delay_ms: 1_000, ..HostBatch::default() }
}

/// What was handed back and told, and how many reports had come before.
fn handed_back(heard: &[Heard]) -> Vec<(usize, &HandBackRequest)> {
    let mut reports = 0;
    let back = heard.iter().filter_map(|heard| match heard {
        Heard::HandBack(back) => Some((reports, back)),
        Heard::Report => {
            reports += 1;
            None
        }
    });
    back.collect()
}

#[tokio::test(start_paused = true)]
async fn a_host_that_asks_for_rest_instead_of_its_robots_txt_rests_although_old_rules_hold() {
    let site = Site::of([("/robots.txt", (503, vec![(header::RETRY_AFTER, "120")], ""))]);
    let state = RobotsState { age_ms: Some(DAY_MS + HOUR_MS), ..RobotsState::default() };
    let batches = [batch(1, &["/1", "/2"]), batch(2, &["/private", "/1"])];
    let master = StubMaster::new(spec(), batches);
    let master = master.with_robots("User-agent: *\nDisallow: /private", state);
    let heard = master.work(&site).await;
    let back = handed_back(&heard);
    let told: Vec<_> = back.iter().flat_map(|(_, back)| &back.told).collect();
    assert_eq!(told.len(), 1);
    let news = told[0].news.as_ref().unwrap();
    assert_eq!((news.troubled, news.retry_after_ms), (true, 120_000));
    assert_eq!(told[0].host, Some(HostRef { crawl: 1, host: 7 }));
    let (reports, last) = back.last().unwrap();
    assert_eq!((*reports, &last.tokens[..]), (0, &[1][..]), "no URL of it has failed: {back:?}");
    assert!(back.iter().position(|(_, back)| !back.told.is_empty()).is_some_and(|at| at == 0));
    // The master has let it rest: now the old rules are gone by, and it is not asked again.
    assert_eq!(site.paths(), ["/robots.txt", "/1"]);
}

#[tokio::test(start_paused = true)]
async fn a_host_whose_waits_are_long_is_given_back_in_between() {
    let rules = "User-agent: *\nCrawl-delay: 600\n";
    let site = Site::of([("/robots.txt", (200, vec![], rules))]);
    let batches = [batch(1, &["/1", "/2"]), batch(2, &["/1", "/2"])];
    let heard = StubMaster::new(spec(), batches).work(&site).await;
    let back = handed_back(&heard);
    let told: Vec<_> = back.iter().flat_map(|(_, back)| &back.told).collect();
    assert_eq!(told.len(), 1);
    assert_eq!(told[0].host_delay_ms, Some(600_000));
    let robots = told[0].news.as_ref().unwrap().robots.as_ref().unwrap();
    assert!(matches!(robots.found, Some(Found::Text(_))), "{robots:?}");
    assert!(!back[0].1.told.is_empty(), "it is told before the lease is given back, or with it");
    let tokens: Vec<_> =
        back.iter().filter(|(_, it)| !it.tokens.is_empty()).map(|(n, it)| (*n, it)).collect();
    assert_eq!((tokens[0].0, &tokens[0].1.tokens[..]), (0, &[1][..]));
    assert_eq!((tokens[1].0, &tokens[1].1.tokens[..]), (1, &[2][..]), "after the report");
    let fetched = site.fetched();
    assert_eq!(site.paths(), ["/robots.txt", "/1"]);
    assert!(fetched[1].1 < 10, "the lane is free at once: {fetched:?}");
}

#[tokio::test(start_paused = true)]
async fn a_robots_txt_that_a_worker_asked_for_in_vain_lately_is_not_asked_for_again() {
    let text = "User-agent: *\nDisallow: /private";
    let had = RobotsState { age_ms: Some(2 * DAY_MS), ..RobotsState::default() };
    let none = RobotsState { unavailable_ms: Some(31 * DAY_MS), ..RobotsState::default() };
    let young = RobotsState { unavailable_ms: Some(29 * DAY_MS), ..RobotsState::default() };
    let (lately, long_ago) = (Some(HOUR_MS / 2), Some(HOUR_MS * 2));
    for (state, failed_ms, expected) in [
        (had, lately, &["/1"][..]),
        (had, long_ago, &["/robots.txt", "/private", "/1"]),
        (none, lately, &["/private", "/1"]),
        (none, long_ago, &["/robots.txt", "/private", "/1"]),
        (young, lately, &["/robots.txt", "/private", "/1"]),
    ] {
        let site = Site::of([]);
        let state = RobotsState { failed_ms, ..state };
        let master = StubMaster::new(spec(), [batch(1, &["/private", "/1"])]);
        master.with_robots(text, state).work(&site).await;
        assert_eq!(site.paths(), expected, "{state:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_redirect_of_robots_txt_waits_as_long_as_the_hosts_next_fetch_would() {
    let to = |path| (301, vec![(header::LOCATION, path)], "");
    let site = Site::of([("/robots.txt", to("/2")), ("/2", to("/3"))]);
    let batch = HostBatch { delay_ms: 7_000, ..batch(1, &["/1"]) };
    StubMaster::new(spec(), [batch]).work(&site).await;
    let at: Vec<_> = site.fetched().into_iter().map(|(_, at)| at).collect();
    assert_eq!(at, [0, 7, 14, 21]);
}
