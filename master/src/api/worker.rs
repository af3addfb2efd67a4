//! The Worker service.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use tokio_stream::StreamExt;
use tonic::{Request, Response, Status, Streaming};
use trawl_proto::{
    PROTOCOL,
    v1::{
        self, CrawlReply, CrawlRequest, HandBackReply, HandBackRequest, HostBatch, JoinReply,
        JoinRequest, LeaseReply, LeaseRequest, LeasedUrl, RenewReply, RenewRequest, ReportPart,
        ReportReply, UrlReport, report_part::Part, url_report,
    },
};
use trawl_shared::{
    VERSION,
    lease::{Token, Verdict},
    outcome::FailureKind,
    page::OUTLINKS_MAX,
    spec::BODY_LIMIT_MAX,
    url::UrlId,
    warc::Lengths,
};

use crate::{
    crawl::{Crawls, Delivery, Records},
    frontier::{self, HandBack, Offer, Outcome, Report},
    store::keys::HostRef,
};

/// The longest that a lease call is held open.
const WAIT_MAX: Duration = Duration::from_secs(60);

/// Hosts that one lease call may ask for, and may extend.
const HOSTS_MAX: usize = 1_024;

/// Links of one page that are looked at: its outlinks, and a redirect's target.
const OFFERS_MAX: usize = OUTLINKS_MAX + 1;

/// Bytes of reports that are handed on together.
const GROUP_BYTES: usize = 8 * 1024 * 1024;

/// Bytes that a report takes beside its offers and records, about.
const REPORT_BYTES: usize = 256;

/// Bytes that one page's records may take: its body, and room for the rest.
const RECORDS_BYTES_MAX: u64 = BODY_LIMIT_MAX.as_bytes() + 64 * 1024 * 1024;

/// Answers workers.
#[derive(Clone, Debug)]
pub struct WorkerApi {
    crawls: Crawls,
}

impl WorkerApi {
    /// A service in front of the owner of the crawls.
    pub fn new(crawls: Crawls) -> Self {
        Self { crawls }
    }
}

#[tonic::async_trait]
impl v1::worker_server::Worker for WorkerApi {
    async fn join(&self, request: Request<JoinRequest>) -> Result<Response<JoinReply>, Status> {
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
        let welcome = self.crawls.join(worker).await?;
        Ok(Response::new(JoinReply {
            instance: welcome.instance,
            lease_ms: millis(welcome.lease),
            version: VERSION.to_owned(),
            ..JoinReply::default()
        }))
    }

    async fn lease(&self, request: Request<LeaseRequest>) -> Result<Response<LeaseReply>, Status> {
        let request = request.into_inner();
        let lease = frontier::LeaseRequest {
            worker: worker_name(&request.worker)?,
            hosts: (request.hosts as usize).min(HOSTS_MAX),
            extend: request.extend.iter().take(HOSTS_MAX).map(host_ref).collect(),
            crawl: (request.crawl > 0).then_some(request.crawl),
        };
        let wait = Duration::from_millis(request.wait_ms).min(WAIT_MAX);
        let lease_ms = millis(self.crawls.lease_duration());
        let batches = self.crawls.lease(lease, wait).await?;
        let batches = batches.into_iter().map(|batch| host_batch(batch, lease_ms)).collect();
        Ok(Response::new(LeaseReply { batches }))
    }

    async fn crawl(&self, request: Request<CrawlRequest>) -> Result<Response<CrawlReply>, Status> {
        let number = request.into_inner().crawl;
        let specification = self.crawls.specification(number).await?;
        let specification =
            specification.ok_or_else(|| Status::not_found(format!("no crawl {number}")))?;
        Ok(Response::new(CrawlReply {
            name: specification.name,
            spec_version: specification.version,
            spec_json: specification.json.to_string(),
            anchors: specification.anchors,
        }))
    }

    async fn renew(&self, request: Request<RenewRequest>) -> Result<Response<RenewReply>, Status> {
        let RenewRequest { worker, tokens, .. } = request.into_inner();
        let tokens = tokens.into_iter().map(Token).collect();
        let lost = self.crawls.renew(worker_name(&worker)?, tokens).await?;
        let lost = lost.into_iter().map(|token| token.0).collect();
        Ok(Response::new(RenewReply { lost, ..RenewReply::default() }))
    }

    async fn report(
        &self,
        request: Request<Streaming<ReportPart>>,
    ) -> Result<Response<ReportReply>, Status> {
        let mut parts = request.into_inner();
        let Some(Part::Header(header)) = next_part(&mut parts).await? else {
            return Err(Status::invalid_argument("a report begins with its header"));
        };
        let worker = worker_name(&header.worker)?;
        let mut verdicts = Vec::new();
        let mut group = Group::default();
        while let Some(part) = next_part(&mut parts).await? {
            // A URL is whole when the next one begins.
            if group.bytes >= GROUP_BYTES && matches!(part, Part::Url(_)) && group.is_whole() {
                verdicts.extend(self.deliver(&worker, &mut group).await?);
            }
            group.add(part)?;
        }
        verdicts.extend(self.deliver(&worker, &mut group).await?);
        Ok(Response::new(ReportReply { verdicts }))
    }

    async fn hand_back(
        &self,
        request: Request<HandBackRequest>,
    ) -> Result<Response<HandBackReply>, Status> {
        let HandBackRequest { worker, tokens, all, .. } = request.into_inner();
        let tokens = tokens.into_iter().map(Token).collect();
        let leases = if all { HandBack::All } else { HandBack::Tokens(tokens) };
        self.crawls.hand_back(worker_name(&worker)?, leases).await?;
        Ok(Response::new(HandBackReply {}))
    }
}

impl WorkerApi {
    /// Hands a group of reports on. Answers when they are durable.
    async fn deliver(&self, worker: &Arc<str>, group: &mut Group) -> Result<Vec<i32>, Status> {
        let group = std::mem::take(group);
        let mut deliveries = Vec::with_capacity(group.reports.len());
        for (report, pieces) in group.reports {
            deliveries.push(delivery(report, pieces)?);
        }
        if deliveries.is_empty() {
            return Ok(Vec::new());
        }
        let verdicts = self.crawls.report(Arc::clone(worker), deliveries).await?;
        Ok(verdicts.into_iter().map(|verdict| verdict_number(verdict) as i32).collect())
    }
}

/// Reports on their way, each with the pieces of its records.
#[derive(Default)]
struct Group {
    reports: Vec<(UrlReport, Vec<Bytes>)>,
    bytes: usize,
    /// Bytes of the last report's records that are still to come.
    missing: u64,
}

impl Group {
    fn add(&mut self, part: Part) -> Result<(), Status> {
        match part {
            Part::Header(_) => Err(Status::invalid_argument("a second header in one report")),
            Part::Url(_) if self.missing > 0 => {
                Err(Status::invalid_argument("a URL before the last one's records were whole"))
            }
            Part::Url(mut report) => {
                let records = std::mem::take(&mut report.records);
                self.missing = records_len(&report)?;
                self.bytes += REPORT_BYTES + offer_bytes(&report.offers);
                self.reports.push((report, Vec::new()));
                self.add_piece(records)
            }
            Part::Chunk(chunk) => self.add_piece(chunk),
            Part::Offers(more) => {
                let Some((report, _)) = self.reports.last_mut() else {
                    return Err(Status::invalid_argument("offers before a URL"));
                };
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
}

async fn next_part(parts: &mut Streaming<ReportPart>) -> Result<Option<Part>, Status> {
    match parts.next().await.transpose()? {
        None => Ok(None),
        Some(ReportPart { part: Some(part) }) => Ok(Some(part)),
        Some(ReportPart { part: None }) => Err(Status::invalid_argument("an empty report part")),
    }
}

fn offer_bytes(offers: &[v1::Offer]) -> usize {
    offers.iter().map(|offer| offer.url.len() + size_of::<v1::Offer>()).sum()
}

/// Bytes of records that a report announces.
fn records_len(report: &UrlReport) -> Result<u64, Status> {
    let Some(url_report::Outcome::Response(response)) = &report.outcome else { return Ok(0) };
    let lens = [response.response_len, response.request_len, response.metadata_len];
    let sum = lens.iter().try_fold(0u64, |sum, len| sum.checked_add(*len));
    sum.filter(|sum| *sum <= RECORDS_BYTES_MAX).ok_or_else(|| {
        Status::resource_exhausted(format!("a page's records may take {RECORDS_BYTES_MAX} bytes"))
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
            (answered(&response)?, (announced > 0).then_some(records))
        }
    };
    let offers = report.offers.into_iter().take(OFFERS_MAX);
    Ok(Delivery {
        report: Report {
            token: Token(report.token),
            at: HostRef { crawl: report.crawl, host: report.host },
            id,
            outcome,
            offers: offers.map(|offer| Offer { url: offer.url, hops: offer.hops }).collect(),
            host_delay: report.host_delay_ms.map(Duration::from_millis),
        },
        records,
    })
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
        urls: batch
            .urls
            .into_iter()
            .map(|url| LeasedUrl {
                url: url.url,
                depth: u32::from(url.depth),
                hops: url.hops,
                attempt: url.attempt,
                via: url.via,
            })
            .collect(),
    }
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

fn worker_name(name: &str) -> Result<Arc<str>, Status> {
    if name.is_empty() || name.len() > 128 || !name.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(Status::invalid_argument(
            "a worker's name has 1 to 128 letters, digits and punctuation",
        ));
    }
    Ok(name.into())
}

fn printable(text: &str) -> String {
    trawl_shared::untrusted::Untrusted(text).to_string()
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn some_millis(millis: u64) -> Option<Duration> {
    (millis > 0).then(|| Duration::from_millis(millis))
}
