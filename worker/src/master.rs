//! The master, as a worker sees it. Whether a network lies between them is the
//! channel's business: the messages are the same.

use std::{
    future::Future,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::sync::Mutex as AsyncMutex;
use tonic::{Code, Response, Status, body::Body};
use tower::util::BoxCloneSyncService;
use trawl_proto::{
    CHUNK_BYTES, CHUNK_OFFERS, MESSAGE_BYTES_MAX, PROTOCOL,
    v1::{
        Activity, CrawlRequest, HandBackRequest, HostAddress, HostBatch, HostRef, HostTold,
        JoinRequest, LeaseRequest, Offer, Offers, RenewRequest, ReportHeader, ReportPart,
        RobotsReply, RobotsRequest, UrlReport, Verdict, report_part::Part,
        worker_client::WorkerClient,
    },
};
use trawl_shared::{VERSION, lease::Token, scope::Scope, spec::CrawlSpec};

/// Anything that carries gRPC: a connection, or the master's service itself.
pub type Channel = BoxCloneSyncService<http::Request<Body>, http::Response<Body>, Status>;

/// The longest that an answer may take, beside the wait that was asked for.
const ANSWER_MAX: Duration = Duration::from_secs(30);

/// A master to work for. It joins again by itself when the master does not know
/// the session, as after its restart. Clones share the session.
#[derive(Clone)]
pub struct Master {
    client: WorkerClient<Channel>,
    worker: Arc<str>,
    lanes: u32,
    joined: Arc<AsyncMutex<()>>,
    stay: Arc<Mutex<Stay>>,
}

/// What was agreed on when the worker joined.
#[derive(Clone, Debug, Default)]
struct Stay {
    session: u64,
    instance: String,
    epoch: u32,
    start: u64,
    lease: Duration,
    draining: bool,
    life: Life,
}

/// Which master's data the worker has to do with: it rises when the worker meets
/// another data directory than before, whose URLs, hosts and tokens are others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Life(u32);

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

/// What the master says to a heartbeat.
#[derive(Clone, Debug, Default)]
pub struct Renewal {
    /// Leases that are lost.
    pub lost: Vec<Token>,
    /// Leases that are wanted back.
    pub recalled: Vec<Token>,
    /// Nothing more is to be taken.
    pub drain: bool,
}

/// Why the master gave no answer.
#[derive(Clone, Debug, thiserror::Error)]
pub enum MasterError {
    /// It is away, or busy; the same call may succeed later.
    #[error("the master is away: {0}")]
    Away(String),
    /// Another process has this worker's name now.
    #[error("the master refuses: {0}")]
    Replaced(String),
    /// It does not know the session.
    #[error("the master does not know this worker: {0}")]
    Unknown(String),
    /// It refuses.
    #[error("the master refuses: {0}")]
    Refused(String),
    /// It will never take this message.
    #[error("the master does not take this: {0}")]
    Invalid(String),
    /// Its answer cannot be understood.
    #[error("the master's answer cannot be used: {0}")]
    Odd(String),
}

impl Master {
    /// The master at the other end of `channel`, for the worker of this name, which
    /// has so many lanes.
    pub fn new(channel: Channel, worker: &str, lanes: usize) -> Self {
        let client = WorkerClient::new(channel)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX);
        Self {
            client,
            worker: worker.into(),
            lanes: u32::try_from(lanes).unwrap_or(u32::MAX),
            joined: Arc::default(),
            stay: Arc::default(),
        }
    }

    /// Makes the worker known. What it held in a former life is taken back.
    ///
    /// # Errors
    /// If the master is away, or does not take this worker.
    pub async fn join(&self) -> Result<(), MasterError> {
        self.open_session(false).await
    }

    /// How long a lease lasts unless renewed.
    pub fn lease_duration(&self) -> Duration {
        self.stay().lease
    }

    /// Names the master's data directory.
    pub fn instance(&self) -> String {
        self.stay().instance.clone()
    }

    /// Which data directory the worker has to do with now.
    pub fn life(&self) -> Life {
        self.stay().life
    }

    /// Whether the master has told the worker to take nothing more.
    pub fn is_draining(&self) -> bool {
        self.stay().draining
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
            session: 0,
            hosts: u32::try_from(hosts).unwrap_or(u32::MAX),
            crawl: crawl.unwrap_or(0),
            extend,
            wait_ms: u64::try_from(wait.as_millis()).unwrap_or(u64::MAX),
        };
        let call = |session| {
            let (mut client, request) = (self.client.clone(), request.clone());
            async move { client.lease(limited(LeaseRequest { session, ..request }, wait)).await }
        };
        Ok(self.in_session(call).await?.batches)
    }

    /// A crawl's specification.
    ///
    /// # Errors
    /// If the master is away, or sends what this worker does not understand.
    pub async fn specification(&self, crawl: u32) -> Result<Specification, MasterError> {
        let call = |session| {
            let (mut client, worker) = (self.client.clone(), self.worker.to_string());
            let request = limited(CrawlRequest { crawl, worker, session }, Duration::ZERO);
            async move { client.crawl(request).await }
        };
        let reply = self.in_session(call).await?;
        let spec = CrawlSpec::from_json(&reply.spec_json).map_err(MasterError::Odd)?;
        let scope = Scope::new(&spec, reply.anchors);
        let scope = scope.map_err(|error| MasterError::Odd(error.to_string()))?;
        Ok(Specification { version: reply.spec_version, spec, scope })
    }

    /// The heartbeat: extends leases, and tells what the worker does.
    ///
    /// # Errors
    /// If the master is away.
    pub async fn renew(
        &self,
        tokens: &[Token],
        activity: Activity,
    ) -> Result<Renewal, MasterError> {
        let tokens: Vec<u64> = tokens.iter().map(|token| token.0).collect();
        let call = |session| {
            let (mut client, worker) = (self.client.clone(), self.worker.to_string());
            let (tokens, activity) = (tokens.clone(), Some(activity));
            let request =
                limited(RenewRequest { worker, session, tokens, activity }, Duration::ZERO);
            async move { client.renew(request).await }
        };
        let reply = self.in_session(call).await?;
        self.stay().draining = reply.drain;
        let tokens = |numbers: Vec<u64>| numbers.into_iter().map(Token).collect();
        Ok(Renewal {
            lost: tokens(reply.lost),
            recalled: tokens(reply.recalled),
            drain: reply.drain,
        })
    }

    /// Sends reports. Returns a verdict for each, in order.
    ///
    /// # Errors
    /// If the master is away, or does not know the session: another data directory
    /// may have come meanwhile, so that is for the caller to look at. The reports can
    /// be sent again.
    pub async fn report(&self, reports: Vec<UrlReport>) -> Result<Vec<Verdict>, MasterError> {
        let count = reports.len();
        let session = self.stay().session;
        let header = Part::Header(ReportHeader { worker: self.worker.to_string(), session });
        let parts = std::iter::once(header).chain(reports.into_iter().flat_map(url_parts));
        let parts = parts.map(|part| ReportPart { part: Some(part) });
        let call = self.client.clone().report(tokio_stream::iter(parts)).await;
        let reply = match call.map_err(MasterError::from) {
            Ok(reply) => reply.into_inner(),
            Err(error @ MasterError::Unknown(_)) => {
                self.join_again(session).await?;
                return Err(error);
            }
            Err(error) => return Err(error),
        };
        let verdicts: Vec<Verdict> = reply.verdicts().collect();
        if verdicts.len() != count {
            let told = verdicts.len();
            return Err(MasterError::Odd(format!("{told} verdicts on {count} reports")));
        }
        Ok(verdicts)
    }

    /// Gives leases back, and tells where hosts were found and what came of asking for
    /// their robots.txt.
    ///
    /// # Errors
    /// If the master is away; the leases run out then.
    pub async fn hand_back(
        &self,
        tokens: Vec<Token>,
        found: Vec<HostAddress>,
        told: Vec<HostTold>,
    ) -> Result<(), MasterError> {
        let tokens = tokens.into_iter().map(|token| token.0).collect();
        self.give_back(HandBackRequest { tokens, found, told, ..HandBackRequest::default() }).await
    }

    /// Gives back everything that the master believes this worker to hold.
    ///
    /// # Errors
    /// As [`Master::hand_back`].
    pub async fn hand_back_all(&self) -> Result<(), MasterError> {
        self.give_back(HandBackRequest { all: true, ..HandBackRequest::default() }).await
    }

    /// A host's robots.txt, as some worker fetched it.
    ///
    /// # Errors
    /// If the master is away.
    pub async fn robots(&self, host: u32) -> Result<RobotsReply, MasterError> {
        let call = |session| {
            let (mut client, worker) = (self.client.clone(), self.worker.to_string());
            let request = RobotsRequest { worker, session, host };
            async move { client.robots(limited(request, Duration::ZERO)).await }
        };
        self.in_session(call).await
    }

    async fn give_back(&self, leases: HandBackRequest) -> Result<(), MasterError> {
        let call = |session| {
            let (mut client, worker) = (self.client.clone(), self.worker.to_string());
            let request = HandBackRequest { worker, session, ..leases.clone() };
            async move { client.hand_back(limited(request, Duration::ZERO)).await }
        };
        self.in_session(call).await?;
        Ok(())
    }

    /// Makes a call; once more in a new session if the master does not know this one.
    async fn in_session<R, F>(&self, call: impl Fn(u64) -> F) -> Result<R, MasterError>
    where
        F: Future<Output = Result<Response<R>, Status>>,
    {
        let session = self.stay().session;
        match call(session).await.map_err(MasterError::from) {
            Err(MasterError::Unknown(_)) => {
                self.join_again(session).await?;
                let session = self.stay().session;
                Ok(call(session).await?.into_inner())
            }
            answer => Ok(answer?.into_inner()),
        }
    }

    /// Joins again, unless that has happened since `session` was in use.
    async fn join_again(&self, session: u64) -> Result<(), MasterError> {
        let _one_at_a_time = self.joined.lock().await;
        if self.stay().session != session {
            return Ok(());
        }
        self.open_session(true).await
    }

    async fn open_session(&self, again: bool) -> Result<(), MasterError> {
        let before = self.stay().clone();
        let request = JoinRequest {
            worker: self.worker.to_string(),
            protocol: PROTOCOL,
            version: VERSION.to_owned(),
            lanes: self.lanes,
            again,
            draining: before.draining,
            former: before.session,
        };
        let reply = self.client.clone().join(limited(request, Duration::ZERO)).await?.into_inner();
        // A data directory that was put back to an earlier state is another one.
        let goes_on = reply.start == before.start || reply.epoch > before.epoch;
        let is_same = reply.instance == before.instance && goes_on;
        let life = if again && !is_same { Life(before.life.0 + 1) } else { before.life };
        if again {
            tracing::info!(instance = %reply.instance, is_same, "joined the master again");
        }
        *self.stay() = Stay {
            session: reply.session,
            instance: reply.instance,
            epoch: reply.epoch,
            start: reply.start,
            lease: Duration::from_millis(reply.lease_ms),
            draining: again && before.draining,
            life,
        };
        Ok(())
    }

    fn stay(&self) -> MutexGuard<'_, Stay> {
        // It is replaced as a whole.
        self.stay.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request that is given up when its answer is long overdue: the master may be
/// gone without a word.
fn limited<T>(message: T, wait: Duration) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    request.set_timeout(wait + ANSWER_MAX);
    request
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
            Code::Aborted => Self::Unknown(text),
            Code::AlreadyExists => Self::Replaced(text),
            Code::InvalidArgument | Code::OutOfRange => Self::Invalid(text),
            Code::FailedPrecondition
            | Code::Unauthenticated
            | Code::PermissionDenied
            | Code::NotFound
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
        let offers: Vec<Offer> = (0..CHUNK_OFFERS * 2 + 17)
            .map(|n| Offer { url: n.to_string(), hops: 0, ..Default::default() })
            .collect();
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
