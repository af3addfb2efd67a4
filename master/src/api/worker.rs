//! The Worker service.

use std::{collections::HashSet, sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};
use tokio_stream::StreamExt;
use tonic::{Request, Response, Status, Streaming};
use trawl_proto::{
    CHUNK_OFFERS, PROTOCOL,
    v1::{
        self, CrawlReply, CrawlRequest, HandBackReply, HandBackRequest, HostBatch, JoinReply,
        JoinRequest, LeaseReply, LeaseRequest, LeasedUrl, RenewReply, RenewRequest, ReportPart,
        ReportReply, RobotsReply, RobotsRequest, UrlReport, report_part::Part,
        robots_news::Found as RobotsFound, url_report,
    },
};
use trawl_shared::{
    VERSION,
    address::from_octets,
    clock::wall_now,
    lease::{Token, Verdict},
    outcome::FailureKind,
    page::OUTLINKS_MAX,
    politeness::REST_MAX,
    robots::SITEMAPS_MAX,
    spec::BODY_LIMIT_MAX,
    units::Size,
    untrusted::CHARS_MAX,
    url::{URL_BYTES_MAX, UrlId},
    warc::{self, Lengths, PEEK_BYTES, RecordType},
};

use super::millis;
use crate::{
    crawl::{Crawls, Delivery, Records},
    frontier::{
        self, Found, HandBack, HostNews, HostTold, Offer, Outcome, ROBOTS_BYTES_MAX, Report,
        RobotsNews, SILENCE_MAX_MS,
    },
    store::{keys::HostRef, rows::RobotsRow},
    workers::{Activity, Caller, Hello},
};

/// The longest that a lease call is held open.
const WAIT_MAX: Duration = Duration::from_secs(60);

/// Hosts that one lease call may ask for, and may extend.
const HOSTS_MAX: usize = 1_024;

/// Links of one page that are looked at: its outlinks, a redirect's target, and the sitemaps
/// that its host's robots.txt names.
const OFFERS_MAX: usize = OUTLINKS_MAX + SITEMAPS_MAX + 1;

/// Characters of a worker's version that are kept.
const VERSION_CHARS: usize = 64;

/// Bytes of reports that are handed on together.
const GROUP_BYTES: usize = 8 * 1024 * 1024;

/// Bytes that a report takes beside its offers and records, about.
const REPORT_BYTES: usize = 256;

/// Bytes to keep free for the offers of a page that has more than fit into a message.
const MORE_OFFERS_BYTES: usize = OFFERS_MAX * (URL_BYTES_MAX + size_of::<v1::Offer>());

/// The longest wait for a report's next part; it keeps its room meanwhile.
const PART_MAX: Duration = Duration::from_secs(60);

/// Bytes of what is said about a failure; a fraction of it is kept.
const DETAIL_BYTES_MAX: usize = 4 * 1024;

/// Bytes that one page's records may take: its body, and room for the rest.
const RECORDS_BYTES_MAX: u64 = BODY_LIMIT_MAX.as_bytes() + 64 * 1024 * 1024;

/// Answers workers.
#[derive(Clone, Debug)]
pub struct WorkerApi {
    crawls: Crawls,
    room: Arc<Semaphore>,
    room_bytes: u32,
}

impl WorkerApi {
    /// A service in front of the owner of the crawls. All reports on their way take
    /// about `room` bytes at most; a report that is larger has it all to itself.
    pub fn new(crawls: Crawls, room: Size) -> Self {
        let room_bytes = u32::try_from(room.as_bytes()).unwrap_or(u32::MAX);
        let room = Arc::new(Semaphore::new(room_bytes as usize));
        Self { crawls, room, room_bytes }
    }
}

#[tonic::async_trait]
impl v1::worker_server::Worker for WorkerApi {
    async fn join(&self, request: Request<JoinRequest>) -> Result<Response<JoinReply>, Status> {
        let address = request.remote_addr();
        let request = request.into_inner();
        let worker = worker_name(&request.worker)?;
        if request.protocol != PROTOCOL {
            return Err(Status::failed_precondition(format!(
                "this master (trawl {VERSION}) speaks protocol {PROTOCOL}, the worker (trawl {}) \
                 speaks {}; run the same version on both sides",
                printable(&request.version),
                request.protocol,
            )));
        }
        let hello = Hello {
            version: request.version.chars().take(VERSION_CHARS).collect(),
            address,
            lanes: request.lanes,
            again: request.again,
            draining: request.draining,
            former: request.former,
        };
        let welcome = self.crawls.join(worker, hello).await?;
        Ok(Response::new(JoinReply {
            instance: welcome.instance,
            epoch: welcome.epoch,
            start: welcome.start,
            session: welcome.session,
            lease_ms: millis(welcome.lease),
            version: VERSION.to_owned(),
        }))
    }

    async fn lease(&self, request: Request<LeaseRequest>) -> Result<Response<LeaseReply>, Status> {
        let request = request.into_inner();
        let caller = caller(&request.worker, request.session)?;
        let lease = frontier::LeaseRequest {
            worker: Arc::clone(&caller.worker),
            hosts: (request.hosts as usize).min(HOSTS_MAX),
            extend: each_once(request.extend.iter().take(HOSTS_MAX).map(host_ref)),
            crawl: (request.crawl > 0).then_some(request.crawl),
        };
        let wait = Duration::from_millis(request.wait_ms).min(WAIT_MAX);
        let lease_ms = millis(self.crawls.lease_duration());
        let batches = self.crawls.lease(caller, lease, wait).await?;
        let batches = batches.into_iter().map(|batch| host_batch(batch, lease_ms)).collect();
        Ok(Response::new(LeaseReply { batches }))
    }

    async fn crawl(&self, request: Request<CrawlRequest>) -> Result<Response<CrawlReply>, Status> {
        let CrawlRequest { crawl, worker, session } = request.into_inner();
        let specification = self.crawls.specification(caller(&worker, session)?, crawl).await?;
        let specification =
            specification.ok_or_else(|| Status::not_found(format!("no crawl {crawl}")))?;
        Ok(Response::new(CrawlReply {
            name: specification.name,
            spec_version: specification.version,
            spec_json: specification.json.to_string(),
            anchors: specification.anchors,
        }))
    }

    async fn renew(&self, request: Request<RenewRequest>) -> Result<Response<RenewReply>, Status> {
        let RenewRequest { worker, session, tokens, activity } = request.into_inner();
        let activity = activity.unwrap_or_default();
        let activity = Activity {
            lanes_busy: activity.lanes_busy,
            pages: activity.pages,
            failures: activity.failures,
            wire_bytes: activity.wire_bytes,
            outbox_bytes: activity.outbox_bytes,
        };
        let tokens = tokens.into_iter().map(Token).collect();
        let renewal = self.crawls.renew(caller(&worker, session)?, tokens, activity).await?;
        let numbers = |tokens: Vec<Token>| tokens.into_iter().map(|token| token.0).collect();
        Ok(Response::new(RenewReply {
            lost: numbers(renewal.lost),
            recalled: numbers(renewal.recalled),
            drain: renewal.drain,
        }))
    }

    async fn report(
        &self,
        request: Request<Streaming<ReportPart>>,
    ) -> Result<Response<ReportReply>, Status> {
        let mut parts = request.into_inner();
        let Some(Part::Header(header)) = next_part(&mut parts).await? else {
            return Err(Status::invalid_argument("a report begins with its header"));
        };
        let caller = caller(&header.worker, header.session)?;
        let mut verdicts = Vec::new();
        let mut group = Group::default();
        while let Some(part) = next_part(&mut parts).await? {
            if let Part::Url(report) = &part {
                // A URL is whole when the next one begins.
                let bytes = room_for(report)?;
                if group.is_whole()
                    && (group.bytes >= GROUP_BYTES || !self.try_room(&mut group, bytes))
                {
                    verdicts.extend(self.deliver(&caller, &mut group).await?);
                    self.wait_for_room(&mut group, bytes).await?;
                }
            }
            group.add(part)?;
        }
        verdicts.extend(self.deliver(&caller, &mut group).await?);
        Ok(Response::new(ReportReply { verdicts }))
    }

    async fn hand_back(
        &self,
        request: Request<HandBackRequest>,
    ) -> Result<Response<HandBackReply>, Status> {
        let HandBackRequest { worker, tokens, all, session, found, told } = request.into_inner();
        let tokens = tokens.into_iter().map(Token).collect();
        let leases = if all { HandBack::All } else { HandBack::Tokens(tokens) };
        let found = found.iter().take(HOSTS_MAX);
        let found =
            found.filter_map(|it| Some((host_ref(it.host.as_ref()?), from_octets(&it.address)?)));
        let found = Found {
            addresses: found.collect(),
            told: told.into_iter().map(host_told).collect::<Result<_, _>>()?,
        };
        self.crawls.hand_back(caller(&worker, session)?, leases, found).await?;
        Ok(Response::new(HandBackReply {}))
    }

    async fn robots(
        &self,
        request: Request<RobotsRequest>,
    ) -> Result<Response<RobotsReply>, Status> {
        let RobotsRequest { worker, session, host } = request.into_inner();
        let found = self.crawls.robots(caller(&worker, session)?, host).await?;
        let (row, text) = found.unwrap_or_default();
        Ok(Response::new(RobotsReply { state: robots_state(&row, unix_millis_now()), text }))
    }
}

impl WorkerApi {
    /// Hands a group of reports on. Answers when they are durable.
    async fn deliver(&self, caller: &Caller, group: &mut Group) -> Result<Vec<i32>, Status> {
        // Its room is free again when the owner has taken it over and answered.
        let mut group = std::mem::take(group);
        let deliveries = group.deliveries()?;
        if deliveries.is_empty() {
            return Ok(Vec::new());
        }
        let verdicts = self.crawls.report(caller.clone(), deliveries).await?;
        Ok(verdicts.into_iter().map(|verdict| verdict_number(verdict) as i32).collect())
    }

    /// Takes room for a report, if there is some now.
    fn try_room(&self, group: &mut Group, bytes: u32) -> bool {
        let room = Arc::clone(&self.room).try_acquire_many_owned(bytes.min(self.room_bytes));
        let got = room.is_ok();
        group.room.extend(room);
        got
    }

    /// Waits for room. Nothing is held meanwhile, so that those who hold some can end.
    async fn wait_for_room(&self, group: &mut Group, bytes: u32) -> Result<(), Status> {
        let room = Arc::clone(&self.room).acquire_many_owned(bytes.min(self.room_bytes)).await;
        group.room.push(room.map_err(|_| Status::unavailable("the master is stopping"))?);
        Ok(())
    }
}

/// Reports on their way, each with the pieces of its records.
#[derive(Default)]
struct Group {
    reports: Vec<(UrlReport, Vec<Bytes>)>,
    bytes: usize,
    /// Bytes of the last report's records that are still to come.
    missing: u64,
    /// The last report has so many offers that others may follow.
    more_offers: bool,
    /// Its share of what all reports on their way may take.
    room: Vec<OwnedSemaphorePermit>,
}

impl Group {
    fn add(&mut self, part: Part) -> Result<(), Status> {
        match part {
            Part::Header(_) => Err(Status::invalid_argument("a second header in one report")),
            Part::Url(_) if self.missing > 0 => {
                Err(Status::invalid_argument("a URL before the last one's records were whole"))
            }
            Part::Url(mut report) => {
                check_sizes(&report)?;
                self.more_offers = report.offers.len() >= CHUNK_OFFERS;
                let records = std::mem::take(&mut report.records);
                self.missing = records_len(&report)?;
                self.bytes += REPORT_BYTES
                    + offer_bytes(&report.offers)
                    + robots_bytes(report.host_news.as_ref());
                self.reports.push((report, Vec::new()));
                self.add_piece(records)
            }
            Part::Chunk(chunk) => self.add_piece(chunk),
            Part::Offers(more) => {
                let Some((report, _)) = self.reports.last_mut() else {
                    return Err(Status::invalid_argument("offers before a URL"));
                };
                if !self.more_offers {
                    return Err(Status::invalid_argument("further offers after a few"));
                }
                check_offers(&more.offers)?;
                self.bytes += offer_bytes(&more.offers);
                let room = OFFERS_MAX.saturating_sub(report.offers.len());
                report.offers.extend(more.offers.into_iter().take(room));
                Ok(())
            }
        }
    }

    fn add_piece(&mut self, piece: Bytes) -> Result<(), Status> {
        if piece.is_empty() {
            return Ok(());
        }
        let bytes = piece.len() as u64;
        let Some((_, pieces)) = self.reports.last_mut().filter(|_| bytes <= self.missing) else {
            return Err(Status::invalid_argument("more bytes of records than announced"));
        };
        self.missing -= bytes;
        self.bytes += piece.len();
        pieces.push(piece);
        Ok(())
    }

    fn is_whole(&self) -> bool {
        self.missing == 0
    }

    /// The reports, checked; the group keeps its room.
    fn deliveries(&mut self) -> Result<Vec<Delivery>, Status> {
        let reports = std::mem::take(&mut self.reports);
        reports.into_iter().map(|(report, pieces)| delivery(report, pieces)).collect()
    }
}

/// What the parts of one report amount to that follow its header: all that the owner of the crawls
/// is given of what a worker sends.
///
/// # Errors
/// If they break the contract; nothing of the report counts then.
pub fn deliveries(parts: impl IntoIterator<Item = Part>) -> Result<Vec<Delivery>, Status> {
    let mut group = Group::default();
    for part in parts {
        if let Part::Url(report) = &part {
            room_for(report)?;
        }
        group.add(part)?;
    }
    group.deliveries()
}

async fn next_part(parts: &mut Streaming<ReportPart>) -> Result<Option<Part>, Status> {
    let part = timeout(PART_MAX, parts.next()).await.map_err(|_| {
        Status::deadline_exceeded(format!("no part of the report came for {PART_MAX:?}"))
    })?;
    match part.transpose()? {
        None => Ok(None),
        Some(ReportPart { part: Some(part) }) => Ok(Some(part)),
        Some(ReportPart { part: None }) => Err(Status::invalid_argument("an empty report part")),
    }
}

fn offer_bytes(offers: &[v1::Offer]) -> usize {
    offers.iter().map(|offer| offer.url.len() + size_of::<v1::Offer>()).sum()
}

/// Fields without a length of their own are no longer than they need be.
fn check_sizes(report: &UrlReport) -> Result<(), Status> {
    check_robots(report.host_news.as_ref())?;
    let detail = match &report.outcome {
        Some(url_report::Outcome::Failure(failure)) => failure.kind.len() + failure.detail.len(),
        Some(url_report::Outcome::Response(response)) => response.sha1.len(),
        None => 0,
    };
    if detail + report.id.len() > DETAIL_BYTES_MAX {
        return Err(Status::invalid_argument(format!(
            "what is said about a URL may take {DETAIL_BYTES_MAX} bytes"
        )));
    }
    check_offers(&report.offers)
}

fn check_offers(offers: &[v1::Offer]) -> Result<(), Status> {
    match offers.iter().all(|offer| offer.url.len() <= URL_BYTES_MAX) {
        true => Ok(()),
        false => Err(Status::invalid_argument(format!("a URL has {URL_BYTES_MAX} bytes at most"))),
    }
}

fn check_robots(news: Option<&v1::HostNews>) -> Result<(), Status> {
    match robots_bytes(news) <= ROBOTS_BYTES_MAX {
        true => Ok(()),
        false => Err(Status::invalid_argument(format!(
            "a robots.txt may take {ROBOTS_BYTES_MAX} bytes, compressed"
        ))),
    }
}

/// Bytes of the robots.txt that comes with what is told of a host.
fn robots_bytes(news: Option<&v1::HostNews>) -> usize {
    match news.and_then(|news| news.robots.as_ref()).and_then(|robots| robots.found.as_ref()) {
        Some(RobotsFound::Text(text)) => text.len(),
        Some(RobotsFound::Unavailable(reason)) => reason.len(),
        None => 0,
    }
}

/// Bytes of records that a report announces.
fn records_len(report: &UrlReport) -> Result<u64, Status> {
    let Some(url_report::Outcome::Response(response)) = &report.outcome else { return Ok(0) };
    let lens = [response.response_len, response.request_len, response.metadata_len];
    let sum = lens.iter().try_fold(0u64, |sum, len| sum.checked_add(*len));
    sum.filter(|sum| *sum <= RECORDS_BYTES_MAX).ok_or_else(|| {
        Status::invalid_argument(format!("a page's records may take {RECORDS_BYTES_MAX} bytes"))
    })
}

fn delivery(report: UrlReport, pieces: Vec<Bytes>) -> Result<Delivery, Status> {
    let announced = records_len(&report)?;
    let arrived: u64 = pieces.iter().map(|piece| piece.len() as u64).sum();
    if arrived != announced {
        return Err(Status::invalid_argument(format!(
            "{announced} bytes of records announced, {arrived} arrived"
        )));
    }
    let id = UrlId::from_bytes(&report.id)
        .ok_or_else(|| Status::invalid_argument("a URL id has 20 bytes"))?;
    let (outcome, records) = match report.outcome {
        None => return Err(Status::invalid_argument("a report without an outcome")),
        Some(url_report::Outcome::Failure(failure)) => (failed(failure), None),
        Some(url_report::Outcome::Response(response)) => {
            let records = records(&response, pieces);
            let records = (announced > 0 && are_of(&records, &id)).then_some(records);
            (answered(&response)?, records)
        }
    };
    let offers = report.offers.into_iter().take(OFFERS_MAX);
    Ok(Delivery {
        report: Report {
            token: Token(report.token),
            at: HostRef { crawl: report.crawl, host: report.host },
            id,
            outcome,
            offers: offers.map(offer).collect(),
            host_delay: host_delay(report.host_delay_ms),
            news: report.host_news.map(host_news),
            reported_at: unix_millis_now(),
        },
        records,
    })
}

fn host_news(news: v1::HostNews) -> HostNews {
    let robots = news.robots.and_then(|robots| robots.found).map(|found| match found {
        RobotsFound::Text(text) => RobotsNews::Found(text),
        RobotsFound::Unavailable(reason) => {
            RobotsNews::Unavailable(reason.chars().take(CHARS_MAX).collect())
        }
    });
    HostNews {
        elapsed: Duration::from_millis(news.elapsed_ms),
        address: from_octets(&news.address),
        troubled: news.troubled,
        retry_after: some_millis(news.retry_after_ms),
        robots,
    }
}

fn host_told(told: v1::HostTold) -> Result<HostTold, Status> {
    check_robots(told.news.as_ref())?;
    let host = told.host.ok_or_else(|| Status::invalid_argument("nothing is told of no host"))?;
    Ok(HostTold {
        at: host_ref(&host),
        news: told.news.map(host_news).unwrap_or_default(),
        delay: host_delay(told.host_delay_ms),
        told_at: unix_millis_now(),
    })
}

fn host_delay(ms: Option<u64>) -> Option<Duration> {
    ms.map(|ms| Duration::from_millis(ms).min(REST_MAX))
}

/// What a worker needs to know of a robots.txt before it asks for it, at that time in Unix
/// milliseconds; none if nothing is known.
fn robots_state(row: &RobotsRow, now: u64) -> Option<v1::RobotsState> {
    // By a clock that was put back a time may lie ahead. What was fetched then counts as
    // older than any, and what could not be had then says nothing.
    let since = |then: u64| now.checked_sub(then);
    let age_ms = (row.fetched_at > 0).then(|| since(row.fetched_at).unwrap_or(u64::MAX));
    let failed_at = since(row.unavailable_at).filter(|_| row.unavailable_at > 0);
    // While it rested it could not be asked: the wait until it is asked again comes after.
    let failed_ms = failed_at.map(|ago| ago.saturating_sub(row.rest_ms));
    // It was not without one all the time, as far as is known.
    let is_known_to_last = failed_at.is_some_and(|ago| ago <= SILENCE_MAX_MS);
    let unavailable_ms =
        since(row.unavailable_since).filter(|_| row.unavailable_since > 0 && is_known_to_last);
    (age_ms.is_some() || failed_ms.is_some()).then_some(v1::RobotsState {
        age_ms,
        unavailable_ms,
        failed_ms,
    })
}

fn unix_millis_now() -> u64 {
    u64::try_from(wall_now().as_millisecond()).unwrap_or(0)
}

fn offer(offer: v1::Offer) -> Offer {
    let is_of_robots = offer.source() == v1::OfferSource::Robots;
    Offer { url: offer.url, hops: offer.hops, is_of_robots }
}

fn answered(response: &v1::Response) -> Result<Outcome, Status> {
    let status = u16::try_from(response.status)
        .ok()
        .filter(|status| (100..1000).contains(status))
        .ok_or_else(|| Status::invalid_argument("an HTTP status has three digits"))?;
    let sha1 = response.sha1.as_slice().try_into();
    Ok(Outcome::Answered {
        status,
        sha1: sha1.map_err(|_| Status::invalid_argument("a SHA-1 has 20 bytes"))?,
        body_bytes: response.body_bytes,
        wire_bytes: response.wire_bytes,
        fetched_at: response.fetched_at_ms,
        simhash: response.simhash,
    })
}

fn failed(failure: v1::Failure) -> Outcome {
    Outcome::Failed {
        // A word of a later worker is a failure all the same.
        kind: failure.kind.parse().unwrap_or(FailureKind::Internal),
        detail: failure.detail,
        retry_after: some_millis(failure.retry_after_ms),
    }
}

/// Whether the first of the records is a response for this URL. The others, and the content of
/// all, are the worker's to answer for: to read them here would cost as much as the rest of a
/// report. This keeps a worker's mistakes from making an export impossible.
fn are_of(records: &Records, id: &UrlId) -> bool {
    let mut front = Vec::with_capacity(PEEK_BYTES);
    let length = PEEK_BYTES.min(records.lengths.response as usize);
    for piece in &records.pieces {
        let left = length - front.len();
        front.extend_from_slice(&piece[..left.min(piece.len())]);
    }
    let told = warc::peek(&front);
    told.is_some_and(|(kind, url)| kind == RecordType::Response && UrlId::of(&url) == *id)
}

/// The lengths fit: their sum has been checked against the limit.
fn records(response: &v1::Response, pieces: Vec<Bytes>) -> Records {
    let len = |len: u64| u32::try_from(len).unwrap_or(u32::MAX);
    Records {
        pieces,
        lengths: Lengths {
            response: len(response.response_len),
            request: len(response.request_len),
            metadata: len(response.metadata_len),
        },
    }
}

fn host_batch(batch: frontier::Batch, lease_ms: u64) -> HostBatch {
    HostBatch {
        token: batch.token.0,
        crawl: batch.at.crawl,
        spec_version: batch.spec_version,
        host: batch.at.host,
        host_key: batch.host_key,
        lease_ms,
        delay_ms: millis(batch.delay),
        robots: batch.robots.and_then(|row| robots_state(&row, unix_millis_now())),
        connections: batch.connections,
        delay_is_set: batch.delay_is_set,
        urls: batch
            .urls
            .into_iter()
            .map(|url| LeasedUrl {
                url: url.url,
                depth: u32::from(url.depth),
                hops: url.hops,
                attempt: url.attempt,
                via: url.via,
                off_site: url.off_site,
                delay_ms: url.delay.map(millis).unwrap_or_default(),
            })
            .collect(),
    }
}

/// Hosts in their order, each once.
fn each_once(hosts: impl Iterator<Item = HostRef>) -> Vec<HostRef> {
    let mut seen = HashSet::new();
    hosts.filter(|host| seen.insert(*host)).collect()
}

fn host_ref(host: &v1::HostRef) -> HostRef {
    HostRef { crawl: host.crawl, host: host.host }
}

fn verdict_number(verdict: Verdict) -> v1::Verdict {
    match verdict {
        Verdict::Applied => v1::Verdict::Applied,
        Verdict::Already => v1::Verdict::Already,
        Verdict::Stale => v1::Verdict::Stale,
    }
}

/// Bytes to keep free for a report: itself, its links and its records.
fn room_for(report: &UrlReport) -> Result<u32, Status> {
    let offers = match report.offers.len() {
        CHUNK_OFFERS.. => MORE_OFFERS_BYTES,
        _ => offer_bytes(&report.offers),
    };
    let bytes = records_len(report)?
        + (REPORT_BYTES + DETAIL_BYTES_MAX + offers + robots_bytes(report.host_news.as_ref()))
            as u64;
    Ok(u32::try_from(bytes).unwrap_or(u32::MAX))
}

fn caller(worker: &str, session: u64) -> Result<Caller, Status> {
    Ok(Caller { worker: worker_name(worker)?, session })
}

fn worker_name(name: &str) -> Result<Arc<str>, Status> {
    if name.is_empty() || name.len() > 128 || !name.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(Status::invalid_argument(
            "a worker's name has 1 to 128 letters, digits and punctuation",
        ));
    }
    Ok(name.into())
}

fn printable(text: &str) -> String {
    trawl_shared::untrusted::Untrusted::new(text).to_string()
}

fn some_millis(millis: u64) -> Option<Duration> {
    (millis > 0).then(|| Duration::from_millis(millis))
}

#[cfg(test)]
mod tests {
    use trawl_proto::v1::RobotsState;

    use super::*;

    const DAY: u64 = 24 * 60 * 60 * 1_000;

    fn failed(since: u64, at: u64) -> RobotsRow {
        RobotsRow { unavailable_since: since, unavailable_at: at, ..RobotsRow::default() }
    }

    #[test]
    fn one_failure_long_ago_does_not_make_a_host_one_without_robots_txt() {
        let now = 100 * DAY;
        let told = |row| robots_state(&row, now).unwrap();
        let lasting = told(failed(now - 40 * DAY, now - 3 * DAY));
        assert_eq!((lasting.unavailable_ms, lasting.failed_ms), (Some(40 * DAY), Some(3 * DAY)));
        let once = told(failed(now - 40 * DAY, now - 40 * DAY));
        assert_eq!((once.unavailable_ms, once.failed_ms), (None, Some(40 * DAY)));
        assert_eq!(robots_state(&RobotsRow::default(), now), None);
    }

    #[test]
    fn a_host_that_rested_after_its_failure_is_not_asked_anew_at_once() {
        let row = RobotsRow { fetched_at: DAY, rest_ms: 3_600_000, ..failed(5 * DAY, 5 * DAY) };
        let failed_ms = |now| robots_state(&row, now).unwrap().failed_ms;
        assert_eq!(failed_ms(5 * DAY + 3_600_000), Some(0));
        assert_eq!(failed_ms(5 * DAY + 3_600_000 + 7), Some(7));
    }

    #[test]
    fn what_a_clock_says_that_was_put_back_is_not_taken_for_fresh() {
        let row = RobotsRow { fetched_at: 10 * DAY, ..failed(11 * DAY, 12 * DAY) };
        let had_one = RobotsState { age_ms: Some(u64::MAX), ..RobotsState::default() };
        assert_eq!(robots_state(&row, 9 * DAY), Some(had_one));
        assert_eq!(robots_state(&row, 10 * DAY).unwrap().age_ms, Some(0));
    }
}
