//! Callers that do not keep to the contract: each is told so by a status and a sentence, nothing of
//! what they send counts, and honest workers do not notice.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says so by a panic")]

use std::io::Write;

use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use harness::{Answer, Cluster, Duration, Running, Site, Web, ms, secs};
use tonic::{
    Code, Status,
    transport::{Channel, Endpoint},
};
use trawl_proto::v1::{
    CrawlRequest, Failure, HandBackRequest, HostBatch, JoinRequest, LeaseRequest, Offer, Offers,
    RenewRequest, ReportHeader, ReportPart, Response, SteerRequest, SubmitRequest, UrlReport,
    Verdict, control_client::ControlClient, report_part::Part, url_report::Outcome,
    worker_client::WorkerClient,
};
use trawl_shared::url::UrlId;

const LEASE: Duration = secs(10);

/// More bytes of records than one page may have.
const TOO_MANY: u64 = 2 << 30;

/// A worker that sends what it likes.
struct Foreign {
    client: WorkerClient<Channel>,
    name: String,
    session: u64,
}

impl Foreign {
    /// Joins under a name.
    async fn join(cluster: &Cluster, name: &str) -> Self {
        let mut client = WorkerClient::new(connected(cluster).await);
        let join = JoinRequest { worker: name.into(), protocol: 1, ..JoinRequest::default() };
        let session = client.join(join).await.unwrap().into_inner().session;
        Self { client, name: name.into(), session }
    }

    /// The same stay, on a connection of its own.
    async fn elsewhere(&self, cluster: &Cluster) -> Self {
        let client = WorkerClient::new(connected(cluster).await);
        Self { client, name: self.name.clone(), session: self.session }
    }

    /// Leases a host.
    async fn lease(&mut self) -> HostBatch {
        let lease = LeaseRequest {
            worker: self.name.clone(),
            session: self.session,
            hosts: 1,
            wait_ms: 5_000,
            ..LeaseRequest::default()
        };
        self.client.lease(lease).await.unwrap().into_inner().batches.remove(0)
    }

    /// Hands back all that it holds.
    async fn leave(&mut self) {
        let back = HandBackRequest { all: true, ..self.hand_back() };
        self.client.hand_back(back).await.unwrap();
    }

    fn hand_back(&self) -> HandBackRequest {
        let (worker, session) = (self.name.clone(), self.session);
        HandBackRequest { worker, session, ..HandBackRequest::default() }
    }

    fn header(&self) -> Part {
        Part::Header(ReportHeader { worker: self.name.clone(), session: self.session })
    }

    /// Sends these parts as one report.
    async fn send(&mut self, parts: Vec<Part>) -> Result<Vec<Verdict>, Status> {
        let parts = parts.into_iter().map(|part| ReportPart { part: Some(part) });
        let reply = self.client.report(tokio_stream::iter(parts)).await?;
        Ok(reply.into_inner().verdicts().collect())
    }

    /// Reports one URL.
    async fn report(&mut self, report: UrlReport) -> Verdict {
        self.send(vec![self.header(), Part::Url(report)]).await.unwrap()[0]
    }
}

async fn connected(cluster: &Cluster) -> Channel {
    Endpoint::from_shared(cluster.url().to_owned()).unwrap().connect().await.unwrap()
}

/// A failure of the first URL of a batch.
fn failure(batch: &HostBatch) -> UrlReport {
    let failure = Failure { kind: "timeout".into(), ..Failure::default() };
    UrlReport {
        token: batch.token,
        crawl: batch.crawl,
        host: batch.host,
        id: UrlId::of(&batch.urls[0].url).0.to_vec(),
        outcome: Some(Outcome::Failure(failure)),
        ..UrlReport::default()
    }
}

/// An answer of the first URL of a batch, with records of these lengths and with these bytes.
fn answer(batch: &HostBatch, lengths: [u64; 3], records: Vec<u8>) -> UrlReport {
    let response = Response {
        status: 200,
        sha1: vec![7; 20],
        response_len: lengths[0],
        request_len: lengths[1],
        metadata_len: lengths[2],
        ..Response::default()
    };
    let outcome = Some(Outcome::Response(response));
    UrlReport { outcome, records: records.into(), ..failure(batch) }
}

/// A crawl that goes on while others misbehave: a host of its own, and a worker.
struct Honest {
    site: Site,
    worker: Running,
}

impl Honest {
    const PAGES: usize = 40;

    async fn start(cluster: &Cluster) -> Self {
        let site = Web::new().tree(Self::PAGES, ms(10)).serve().await;
        cluster.submit("honest", [site.url("/")]).done().await.expect(0);
        let honest = Self { worker: cluster.worker("honest").start(), site };
        honest.site.visited(3).await;
        honest
    }

    /// It has every page by one visit, and nobody meddled.
    async fn noticed_nothing(self, cluster: &Cluster) {
        let wait = cluster.ask("status", ["honest"]).set_flag("--wait");
        wait.done().await.expect(0).says(["finished: complete"]);
        let pages = cluster.pages("honest").await;
        assert_eq!(pages.count(), Self::PAGES + 7);
        assert!(pages.iter().all(|page| page.attempt == 1));
        assert!(self.site.counts().values().all(|&visits| visits == 1));
        self.worker.stops().await;
    }
}

/// A crawl of one page that links to two, of which the caller holds the seed.
async fn held(cluster: &Cluster, foreign: &mut Foreign) -> (Site, HostBatch) {
    let site = Web::new().page("/", ["/a", "/b"]).serve().await;
    cluster.submit("c", [site.url("/")]).set("--retry-wait", "100ms").done().await.expect(0);
    let batch = foreign.lease().await;
    assert_eq!(batch.urls[0].url, site.url("/"));
    (site, batch)
}

#[tokio::test]
async fn only_who_holds_a_url_may_report_it_and_only_once() {
    let cluster = Cluster::start(LEASE).await;
    let mut holder = Foreign::join(&cluster, "holder").await;
    let (site, batch) = held(&cluster, &mut holder).await;
    let mut other = Foreign::join(&cluster, "other").await;
    let honest = Honest::start(&cluster).await;

    // Not the caller's; never lent; never heard of; of another crawl; of no host.
    let report = || failure(&batch);
    assert_eq!(other.report(report()).await, Verdict::Stale);
    assert_eq!(other.report(UrlReport { token: 0, ..report() }).await, Verdict::Stale);
    let wrong = UrlReport { token: batch.token + 1, ..report() };
    assert_eq!(holder.report(wrong).await, Verdict::Stale);
    let unknown = UrlReport { id: UrlId::of(&site.url("/c")).0.to_vec(), ..report() };
    assert_eq!(holder.report(unknown).await, Verdict::Stale);
    assert_eq!(holder.report(UrlReport { crawl: 99, ..report() }).await, Verdict::Stale);
    assert_eq!(holder.report(UrlReport { host: 99, ..report() }).await, Verdict::Stale);
    let crawl = cluster.crawl("c").await;
    assert_eq!((&crawl["leased"], &crawl["retries"]), (&1.into(), &0.into()), "{crawl:#}");

    // What counts, counts once, whatever is sent after it.
    assert_eq!(holder.report(report()).await, Verdict::Applied);
    assert_eq!(holder.report(report()).await, Verdict::Already);
    let changed = answer(&batch, [0; 3], Vec::new());
    assert_eq!(holder.report(changed).await, Verdict::Already);

    let wait = cluster.ask("status", ["c"]).set_flag("--wait");
    wait.done().await.expect(0).says(["finished: complete"]);
    assert_eq!(holder.report(report()).await, Verdict::Stale, "another has fetched it since");
    let crawl = cluster.crawl("c").await;
    assert_eq!((&crawl["retries"], &crawl["reports_already"]), (&1.into(), &2.into()));
    let pages = cluster.pages("c").await;
    assert_eq!(pages.urls(), ["/", "/a", "/b"].map(|path| site.url(path)));
    assert_eq!(pages.of(&site.url("/")).attempt, 2);
    honest.noticed_nothing(&cluster).await;
}

#[tokio::test]
async fn a_stay_that_is_over_or_never_was() {
    let mut cluster = Cluster::start(LEASE).await;
    let honest = Honest::start(&cluster).await;
    let mut replaced = Foreign::join(&cluster, "same").await;
    let _newer = Foreign::join(&cluster, "same").await;
    refused(&mut replaced, Code::AlreadyExists, "another worker has joined under this name").await;

    let mut nobody = Foreign { name: "nobody".into(), ..replaced.elsewhere(&cluster).await };
    refused(&mut nobody, Code::Aborted, "join again").await;

    let former = Foreign::join(&cluster, "former").await;
    cluster.stop_master().await;
    cluster.start_master().await;
    let mut former = former.elsewhere(&cluster).await;
    refused(&mut former, Code::Aborted, "join again").await;
    honest.noticed_nothing(&cluster).await;
}

/// All that a worker may ask is refused.
async fn refused(caller: &mut Foreign, code: Code, says: &str) {
    let (worker, session) = (caller.name.clone(), caller.session);
    let lease = LeaseRequest { worker: worker.clone(), session, ..LeaseRequest::default() };
    let renew = RenewRequest { worker: worker.clone(), session, ..RenewRequest::default() };
    let crawl = CrawlRequest { worker, session, crawl: 1 };
    let back = caller.hand_back();
    let report = vec![caller.header(), Part::Url(failure(&nothing()))];
    for refused in [
        caller.client.lease(lease).await.unwrap_err(),
        caller.client.renew(renew).await.unwrap_err(),
        caller.client.crawl(crawl).await.unwrap_err(),
        caller.client.hand_back(back).await.unwrap_err(),
        caller.send(report).await.unwrap_err(),
    ] {
        assert_eq!(refused.code(), code, "{refused}");
        assert!(refused.message().contains(says), "{refused}");
    }
}

/// A batch that nobody was lent.
fn nothing() -> HostBatch {
    let url = trawl_proto::v1::LeasedUrl { url: "http://a.example/".into(), ..Default::default() };
    HostBatch { crawl: 1, host: 1, urls: vec![url], ..HostBatch::default() }
}

#[tokio::test]
async fn reports_that_cannot_be_are_refused_as_a_whole() {
    let cluster = Cluster::start(LEASE).await;
    let mut foreign = Foreign::join(&cluster, "foreign").await;
    let (site, batch) = held(&cluster, &mut foreign).await;
    let honest = Honest::start(&cluster).await;
    let header = || foreign.header();
    let fails = || Part::Url(failure(&batch));
    let answers = |lengths, records| Part::Url(answer(&batch, lengths, records));
    let with_status = |status| {
        let response = Response { status, sha1: vec![7; 20], ..Response::default() };
        Part::Url(UrlReport { outcome: Some(Outcome::Response(response)), ..failure(&batch) })
    };
    let offers = || {
        Part::Offers(Offers {
            offers: vec![Offer { url: site.url("/x"), hops: 0, ..Default::default() }],
        })
    };
    let chunk = |bytes: usize| Part::Chunk(vec![0; bytes].into());
    let odd = Code::InvalidArgument;

    let mut reports = vec![
        (vec![], odd, "begins with its header"),
        (vec![fails()], odd, "begins with its header"),
        (vec![header(), header()], odd, "a second header"),
        (vec![header(), chunk(1)], odd, "more bytes of records than announced"),
        (vec![header(), offers()], odd, "offers before a URL"),
        (vec![header(), answers([1, 1, 1], vec![0; 4])], odd, "more bytes of records than"),
        (vec![header(), answers([9, 9, 9], vec![0; 26]), chunk(2)], odd, "more bytes of records"),
        (vec![header(), answers([9, 9, 9], vec![0; 26])], odd, "27 bytes of records announced, 26"),
        (vec![header(), answers([9, 9, 9], vec![0; 26]), fails()], odd, "before the last one's"),
        (vec![header(), with_status(99)], odd, "three digits"),
        (vec![header(), with_status(1_000)], odd, "three digits"),
        (
            vec![header(), Part::Url(UrlReport { id: vec![1; 19], ..failure(&batch) })],
            odd,
            "20 bytes",
        ),
        (
            vec![header(), Part::Url(UrlReport { outcome: None, ..failure(&batch) })],
            odd,
            "without an outcome",
        ),
    ];
    let long = "x".repeat(5_000);
    let told = Failure { kind: "timeout".into(), detail: long.clone(), ..Failure::default() };
    let told = UrlReport { outcome: Some(Outcome::Failure(told)), ..failure(&batch) };
    reports.push((vec![header(), Part::Url(told)], odd, "what is said about a URL may take"));
    let offer = Offer { url: site.url(&format!("/{long}")), ..Offer::default() };
    let found = UrlReport { offers: vec![offer], ..failure(&batch) };
    reports.push((vec![header(), Part::Url(found)], odd, "a URL has 2048 bytes at most"));
    reports.push((vec![header(), fails(), offers()], odd, "further offers after a few"));
    for lengths in [[TOO_MANY, 0, 0], [u64::MAX, 1, 1]] {
        let parts = vec![header(), answers(lengths, Vec::new())];
        reports.push((parts, odd, "a page's records may take"));
    }
    // A good one before does not help a bad one, nor the other way round.
    let parts = vec![header(), fails(), with_status(99)];
    reports.push((parts, odd, "three digits"));
    for (parts, code, says) in reports {
        let told = format!("{parts:?}");
        let refused = foreign.send(parts).await.expect_err(says);
        assert_eq!(refused.code(), code, "{refused} to {told}");
        assert!(refused.message().contains(says), "{refused} to {told}");
    }

    // Nothing of it counts; what was lent is still lent, and comes to an honest worker in the end.
    let crawl = cluster.crawl("c").await;
    assert_eq!((&crawl["leased"], &crawl["retries"]), (&1.into(), &0.into()), "{crawl:#}");
    foreign.leave().await;
    let wait = cluster.ask("status", ["c"]).set_flag("--wait");
    wait.done().await.expect(0).says(["finished: complete"]);
    assert_eq!(cluster.pages("c").await.count(), 3);
    assert_eq!(site.visits().len(), 3);
    honest.noticed_nothing(&cluster).await;
}

#[tokio::test]
async fn a_page_whose_records_are_none_is_tried_again() {
    let cluster = Cluster::start(LEASE).await;
    let mut foreign = Foreign::join(&cluster, "foreign").await;
    let (site, batch) = held(&cluster, &mut foreign).await;

    let report = answer(&batch, [20, 20, 20], vec![0; 60]);
    assert_eq!(foreign.report(report).await, Verdict::Applied);
    let _worker = cluster.worker("w").start();
    cluster.complete().await;
    let pages = cluster.pages("c").await;
    assert_eq!(pages.urls(), ["/", "/a", "/b"].map(|path| site.url(path)));
    assert_eq!(pages.of(&site.url("/")).attempt, 2);
}

#[tokio::test]
async fn whole_gzip_members_that_are_no_records_of_the_page_are_not_stored() {
    let member = |text: &str| {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(text.as_bytes()).unwrap();
        encoder.finish().unwrap()
    };
    let record = |kind: &str, url: &str| {
        member(&format!(
            "WARC/1.1\r\nWARC-Type: {kind}\r\nWARC-Record-ID: <urn:uuid:0>\r\nWARC-Date: 2026\r\n\
             WARC-Target-URI: {url}\r\nContent-Length: 0\r\n\r\n\r\n\r\n"
        ))
    };
    type Members<'a> = &'a dyn Fn(&str) -> [Vec<u8>; 3];
    let of_another_url: Members<'_> =
        &|url| ["response", "request", "metadata"].map(|kind| record(kind, &format!("{url}x")));
    let of_other_kinds: Members<'_> =
        &|url| ["metadata", "request", "response"].map(|kind| record(kind, url));
    let of_no_kind: Members<'_> = &|_| ["these are", "no records", "at all, only gzip"].map(member);
    for members in [of_another_url, of_other_kinds, of_no_kind] {
        let cluster = Cluster::start(LEASE).await;
        let mut foreign = Foreign::join(&cluster, "foreign").await;
        let (site, batch) = held(&cluster, &mut foreign).await;
        let members = members(&batch.urls[0].url);
        let lengths = [0, 1, 2].map(|index| members[index].len() as u64);
        let report = answer(&batch, lengths, members.concat());
        assert_eq!(foreign.report(report).await, Verdict::Applied);
        let _worker = cluster.worker("w").start();
        cluster.complete().await;
        let pages = cluster.pages("c").await;
        assert_eq!(pages.urls(), ["/", "/a", "/b"].map(|path| site.url(path)));
        assert_eq!(pages.of(&site.url("/")).attempt, 2);
    }
}

#[tokio::test]
async fn names_and_specifications_that_cannot_be() {
    let cluster = Cluster::start(LEASE).await;
    let honest = Honest::start(&cluster).await;
    let mut workers = WorkerClient::new(connected(&cluster).await);
    for name in ["", "two words", "tab\t", "escape\u{1b}[2J", "ümlaut", &"x".repeat(129)] {
        let join = JoinRequest { worker: name.into(), protocol: 1, ..JoinRequest::default() };
        let refused = workers.join(join).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{name:?}");
        assert!(refused.message().contains("a worker's name has 1 to 128"), "{refused}");
    }

    let mut control = ControlClient::new(connected(&cluster).await);
    let good = || SubmitRequest {
        name: "new".into(),
        seeds: vec!["http://127.0.0.1:49/".into()],
        spec_json: "{}".into(),
        take_up: false,
    };
    for (request, code, says) in [
        (SubmitRequest { name: "../up".into(), ..good() }, Code::InvalidArgument, "name"),
        (SubmitRequest { name: String::new(), ..good() }, Code::InvalidArgument, "name"),
        (SubmitRequest { name: "honest".into(), ..good() }, Code::AlreadyExists, "exists already"),
        (SubmitRequest { seeds: vec!["ftp://a/".into()], ..good() }, Code::InvalidArgument, "ftp"),
        (SubmitRequest { spec_json: "{".into(), ..good() }, Code::InvalidArgument, ""),
        (
            SubmitRequest { spec_json: r#"{"warp": 9}"#.into(), ..good() },
            Code::InvalidArgument,
            "warp",
        ),
        (
            SubmitRequest { spec_json: r#"{"include": ["["]}"#.into(), ..good() },
            Code::InvalidArgument,
            "regular expression",
        ),
        (
            SubmitRequest { spec_json: r#"{"attempts": 0}"#.into(), ..good() },
            Code::InvalidArgument,
            "attempts",
        ),
    ] {
        let refused = control.submit(request).await.unwrap_err();
        assert_eq!(refused.code(), code, "{refused}");
        assert!(refused.message().contains(says), "{refused}");
    }
    let steer = SteerRequest { name: "new".into(), wish: 2 };
    let refused = control.steer(steer).await.unwrap_err();
    assert_eq!(refused.code(), Code::NotFound, "{refused}");
    let aimless = SteerRequest { name: "honest".into(), wish: 0 };
    let refused = control.steer(aimless).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    honest.noticed_nothing(&cluster).await;
}

#[tokio::test]
async fn a_page_of_32_mib_passes_in_chunks() {
    let mut rng = fastrand::Rng::with_seed(5);
    let body: Vec<u8> = std::iter::repeat_with(|| rng.u8(..)).take(32 << 20).collect();
    let large = Answer::bytes("application/octet-stream", body);
    let site = Web::new().page("/", ["/large"]).answer("/large", large).serve().await;
    let cluster = Cluster::start(LEASE).await;
    let _worker = cluster.worker("w").start();
    let submit = cluster.submit("c", [site.url("/")]).set("--body-limit", "40MiB");
    submit.done().await.expect(0);
    cluster.complete().await;

    let pages = cluster.pages("c").await;
    let page = pages.of(&site.url("/large"));
    assert_eq!((page.bytes, page.truncated.as_deref()), (32 << 20, None));
    assert_eq!(page.sha1, "bf06f59d06e63bbf2c9e2718c5edcff13c229b6c");
    assert_eq!(site.visits().len(), 2);
}

#[tokio::test]
async fn many_large_reports_at_once_take_bounded_memory() {
    const REPORTS: usize = 8;
    const CHUNKS: usize = 384;
    const CHUNK: usize = 256 * 1024;
    let cluster = Cluster::start(LEASE).await;
    let honest = Honest::start(&cluster).await;
    let before = cluster.master().memory_peak();

    // Eight pages of 96 MiB, each on a connection of its own, none of which the caller holds.
    let foreign = Foreign::join(&cluster, "foreign").await;
    let chunk = Bytes::from(vec![7; CHUNK]);
    let mut senders = Vec::new();
    for _ in 0..REPORTS {
        let mut sender = foreign.elsewhere(&cluster).await;
        let url = Part::Url(answer(&nothing(), [(CHUNKS * CHUNK) as u64, 0, 0], Vec::new()));
        let mut parts = vec![sender.header(), url];
        parts.extend((0..CHUNKS).map(|_| Part::Chunk(chunk.clone())));
        senders.push(tokio::spawn(async move { sender.send(parts).await.unwrap() }));
    }
    for sender in senders {
        assert_eq!(sender.await.unwrap(), [Verdict::Stale]);
    }
    let grown = cluster.master().memory_peak() - before;
    println!("{} MiB for {} MiB of reports", grown >> 20, (REPORTS * CHUNKS * CHUNK) >> 20);
    // There is room for 256 MiB of them, and each connection may have a few under way.
    assert!(grown < 384 << 20, "{grown} bytes");
    honest.noticed_nothing(&cluster).await;
}
