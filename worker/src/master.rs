//! The master, as a worker sees it. Whether a network lies between them is the
//! channel's business: the messages are the same.

use std::{sync::Arc, time::Duration};

use http::{Request, Response};
use tonic::{Code, Status, body::Body};
use tower::util::BoxCloneSyncService;
use trawl_proto::{
    CHUNK_BYTES, CHUNK_OFFERS, MESSAGE_BYTES_MAX, PROTOCOL,
    v1::{
        CrawlRequest, HandBackRequest, HostBatch, HostRef, JoinRequest, LeaseRequest, Offer,
        Offers, RenewRequest, ReportHeader, ReportPart, UrlReport, Verdict, report_part::Part,
        worker_client::WorkerClient,
    },
};
use trawl_shared::{VERSION, lease::Token, scope::Scope, spec::CrawlSpec};

/// Anything that carries gRPC: a connection, or the master's service itself.
pub type Channel = BoxCloneSyncService<Request<Body>, Response<Body>, Status>;

/// A master to work for.
#[derive(Clone)]
pub struct Master {
    client: WorkerClient<Channel>,
    worker: Arc<str>,
}

/// What the master said of itself.
#[derive(Clone, Debug)]
pub struct Welcome {
    /// Names its data directory.
    pub instance: String,
    /// How long a lease lasts unless renewed.
    pub lease: Duration,
}

/// A crawl's specification, as the master gave it.
#[derive(Debug)]
pub struct Specification {
    /// Rises with every change.
    pub version: u32,
    /// The specification.
    pub spec: CrawlSpec,
    /// Its scope.
    pub scope: Scope,
}

/// Why the master gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum MasterError {
    /// It is away, or busy; the same call may succeed later.
    #[error("the master is away: {0}")]
    Away(String),
    /// It refuses.
    #[error("the master refuses: {0}")]
    Refused(String),
    /// Its answer cannot be understood.
    #[error("the master's answer cannot be used: {0}")]
    Odd(String),
}

impl Master {
    /// The master at the other end of `channel`, for the worker of this name.
    pub fn new(channel: Channel, worker: &str) -> Self {
        let client = WorkerClient::new(channel)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX);
        Self { client, worker: worker.into() }
    }

    /// Makes the worker known.
    ///
    /// # Errors
    /// If the master is away, or does not take this worker.
    pub async fn join(&self) -> Result<Welcome, MasterError> {
        let request = JoinRequest {
            worker: self.worker.to_string(),
            protocol: PROTOCOL,
            version: VERSION.to_owned(),
            ..JoinRequest::default()
        };
        let reply = self.client.clone().join(request).await?.into_inner();
        Ok(Welcome { instance: reply.instance, lease: Duration::from_millis(reply.lease_ms) })
    }

    /// Asks for batches of `hosts` further hosts, of one crawl or of any, and more
    /// of those in `extend`.
    ///
    /// # Errors
    /// If the master is away.
    pub async fn lease(
        &self,
        hosts: usize,
        crawl: Option<u32>,
        extend: Vec<HostRef>,
        wait: Duration,
    ) -> Result<Vec<HostBatch>, MasterError> {
        let request = LeaseRequest {
            worker: self.worker.to_string(),
            hosts: u32::try_from(hosts).unwrap_or(u32::MAX),
            crawl: crawl.unwrap_or(0),
            extend,
            wait_ms: u64::try_from(wait.as_millis()).unwrap_or(u64::MAX),
            ..LeaseRequest::default()
        };
        Ok(self.client.clone().lease(request).await?.into_inner().batches)
    }

    /// A crawl's specification.
    ///
    /// # Errors
    /// If the master is away, or sends what this worker does not understand.
    pub async fn specification(&self, crawl: u32) -> Result<Specification, MasterError> {
        let reply = self
            .client
            .clone()
            .crawl(CrawlRequest { crawl, ..CrawlRequest::default() })
            .await?
            .into_inner();
        let spec = CrawlSpec::from_json(&reply.spec_json).map_err(MasterError::Odd)?;
        let scope = Scope::new(&spec, reply.anchors);
        let scope = scope.map_err(|error| MasterError::Odd(error.to_string()))?;
        Ok(Specification { version: reply.spec_version, spec, scope })
    }

    /// Extends leases. Returns those that are lost.
    ///
    /// # Errors
    /// If the master is away.
    pub async fn renew(&self, tokens: &[Token]) -> Result<Vec<Token>, MasterError> {
        let tokens = tokens.iter().map(|token| token.0).collect();
        let request =
            RenewRequest { worker: self.worker.to_string(), tokens, ..Default::default() };
        let reply = self.client.clone().renew(request).await?.into_inner();
        Ok(reply.lost.into_iter().map(Token).collect())
    }

    /// Sends reports. Returns a verdict for each, in order.
    ///
    /// # Errors
    /// If the master is away; the reports can be sent again.
    pub async fn report(&self, reports: Vec<UrlReport>) -> Result<Vec<Verdict>, MasterError> {
        let count = reports.len();
        let header = Part::Header(ReportHeader { worker: self.worker.to_string(), session: 0 });
        let parts = std::iter::once(header).chain(reports.into_iter().flat_map(url_parts));
        let parts = parts.map(|part| ReportPart { part: Some(part) });
        let reply = self.client.clone().report(tokio_stream::iter(parts)).await?.into_inner();
        let verdicts: Vec<Verdict> = reply.verdicts().collect();
        if verdicts.len() != count {
            let told = verdicts.len();
            return Err(MasterError::Odd(format!("{told} verdicts on {count} reports")));
        }
        Ok(verdicts)
    }

    /// Gives leases back.
    ///
    /// # Errors
    /// If the master is away; the leases run out then.
    pub async fn hand_back(&self, tokens: Vec<Token>) -> Result<(), MasterError> {
        let tokens = tokens.into_iter().map(|token| token.0).collect();
        let request =
            HandBackRequest { worker: self.worker.to_string(), tokens, ..Default::default() };
        self.client.clone().hand_back(request).await?;
        Ok(())
    }

    /// Gives back everything that the master believes this worker to hold.
    ///
    /// # Errors
    /// As [`Master::hand_back`].
    pub async fn hand_back_all(&self) -> Result<(), MasterError> {
        let worker = self.worker.to_string();
        let request = HandBackRequest { worker, all: true, ..Default::default() };
        self.client.clone().hand_back(request).await?;
        Ok(())
    }
}

/// A report as it is sent: with the first of its offers and the first chunk of its
/// records, then the others.
fn url_parts(mut report: UrlReport) -> impl Iterator<Item = Part> {
    let mut offers = std::mem::take(&mut report.offers).into_iter();
    report.offers = offers.by_ref().take(CHUNK_OFFERS).collect();
    let mut rest = std::mem::take(&mut report.records);
    report.records = rest.split_to(rest.len().min(CHUNK_BYTES));
    let offers = std::iter::from_fn(move || {
        let offers: Vec<Offer> = offers.by_ref().take(CHUNK_OFFERS).collect();
        (!offers.is_empty()).then(|| Part::Offers(Offers { offers }))
    });
    let chunks = std::iter::from_fn(move || {
        (!rest.is_empty()).then(|| Part::Chunk(rest.split_to(rest.len().min(CHUNK_BYTES))))
    });
    std::iter::once(Part::Url(report)).chain(offers).chain(chunks)
}

impl From<Status> for MasterError {
    fn from(status: Status) -> Self {
        let text = status.message().to_owned();
        match status.code() {
            Code::InvalidArgument
            | Code::FailedPrecondition
            | Code::Unauthenticated
            | Code::PermissionDenied
            | Code::NotFound
            | Code::OutOfRange
            | Code::ResourceExhausted
            | Code::Unimplemented => Self::Refused(text),
            _ => Self::Away(text),
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[test]
    fn long_reports_travel_in_parts_and_nothing_is_lost() {
        let records: Bytes = (0..CHUNK_BYTES * 2 + 17).map(|n| n as u8).collect();
        let offers: Vec<Offer> =
            (0..CHUNK_OFFERS * 2 + 17).map(|n| Offer { url: n.to_string(), hops: 0 }).collect();
        let report = UrlReport {
            token: 7,
            records: records.clone(),
            offers: offers.clone(),
            ..UrlReport::default()
        };
        let (mut bytes, mut links) = (Vec::new(), Vec::new());
        for (index, part) in url_parts(report).enumerate() {
            let (chunk, more) = match part {
                Part::Url(report) => {
                    assert_eq!((index, report.token), (0, 7));
                    (report.records, report.offers)
                }
                Part::Chunk(chunk) => (chunk, Vec::new()),
                Part::Offers(offers) => (Bytes::new(), offers.offers),
                Part::Header(_) => panic!("no header here"),
            };
            assert!(chunk.len() <= CHUNK_BYTES && more.len() <= CHUNK_OFFERS);
            bytes.extend_from_slice(&chunk);
            links.extend(more);
        }
        assert_eq!(bytes, records);
        assert_eq!(links, offers);
    }
}
