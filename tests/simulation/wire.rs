//! The network between a worker and the master: turmoil's, which loses, delays and
//! splits; and on top of it reports that come twice, late, or without their answer.

use std::{
    collections::BTreeMap,
    io,
    net::Ipv4Addr,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Buf, Bytes};
use futures::{Stream, stream};
use http::{Request, Response, Uri};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use prost::Message;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{sleep, timeout},
};
use tonic::{
    Status,
    body::Body,
    transport::{self, Endpoint, server::Connected},
};
use tower::{Service, ServiceExt, service_fn, util::BoxCloneSyncService};
use trawl_master::{api::WorkerApi, crawl::Crawls, listen::limited_server};
use trawl_proto::v1::{
    JoinReply, ReportPart, ReportReply, UrlReport, Verdict, report_part::Part, url_report::Outcome,
    worker_client::WorkerClient, worker_server::WorkerServer,
};
use trawl_shared::units::Size;
use trawl_worker::master::Channel;
use turmoil::net::{TcpListener, TcpStream};

use crate::disk::now;

const PORT: u16 = 7070;

/// Silence after which the worker asks for a sign of life, and how long it waits for it.
const PING: Duration = Duration::from_secs(2);

/// Serves workers on this host's port, with the limits of the real listener.
pub(crate) async fn serve(crawls: Crawls) -> Result<(), transport::Error> {
    let api = WorkerServer::new(WorkerApi::new(crawls, Size::mib(64)));
    limited_server().add_service(api).serve_with_incoming(incoming()).await
}

fn incoming() -> impl Stream<Item = io::Result<Accepted>> {
    stream::unfold(None, |listener: Option<TcpListener>| async {
        let listener = match listener {
            Some(listener) => listener,
            None => TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT)).await.ok()?,
        };
        let accepted = listener.accept().await.map(|(stream, _)| Accepted(stream));
        Some((accepted, Some(listener)))
    })
}

/// What the master has acknowledged.
#[derive(Clone, Debug, Hash)]
pub(crate) enum Acknowledged {
    /// A crawl and its seeds.
    Crawl { at: Duration, name: String, seeds: Vec<String> },
    /// A report that counts.
    Report { at: Duration, crawl: u32, id: Vec<u8>, is_page: bool, links: Vec<String> },
}

/// What passes between workers and master, and is remembered. Clones are the same one.
#[derive(Clone, Debug, Default)]
pub(crate) struct Post(Arc<Mutex<PostState>>);

#[derive(Debug, Default)]
struct PostState {
    told: Vec<Acknowledged>,
    /// The newest session of each worker.
    sessions: BTreeMap<String, u64>,
    /// Copies of reports, and when they arrive.
    copies: Vec<(Duration, Vec<ReportPart>)>,
    /// Copies that have arrived.
    arrived: u64,
}

impl Post {
    /// Notes what was acknowledged.
    pub(crate) fn tell(&self, told: Acknowledged) {
        self.lock().told.push(told);
    }

    /// All that was acknowledged.
    pub(crate) fn told(&self) -> Vec<Acknowledged> {
        self.lock().told.clone()
    }

    /// Copies of reports that have arrived.
    pub(crate) fn arrived(&self) -> u64 {
        self.lock().arrived
    }

    /// A host that no crash meets: from it copies of reports come, whatever has become of
    /// their worker, in its old session or in the one that it has now.
    pub(crate) async fn deliver_copies(self) -> turmoil::Result {
        let mut client = WorkerClient::new(wire());
        loop {
            sleep(Duration::from_millis(100)).await;
            let due: Vec<_> = {
                let mut state = self.lock();
                state.copies.extract_if(.., |(at, _)| *at <= now()).collect()
            };
            for (_, mut parts) in due {
                if fastrand::bool()
                    && let Some(Part::Header(header)) =
                        parts.first_mut().and_then(|p| p.part.as_mut())
                    && let Some(session) = self.lock().sessions.get(&header.worker)
                {
                    header.session = *session;
                }
                let sent = client.report(tokio_stream::iter(parts));
                // It counts if the master has judged it; whatever it says, nothing changes.
                if let Ok(Ok(_)) = timeout(Duration::from_secs(5), sent).await {
                    self.lock().arrived += 1;
                }
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, PostState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How reports fare.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Mischief {
    /// Of a hundred: those that come once more, at once or up to a minute later.
    pub(crate) twice: u8,
    /// Those that are held up.
    pub(crate) late: u8,
    /// Those whose answer is lost.
    pub(crate) unanswered: u8,
}

/// A worker's channel to the master.
pub(crate) fn channel(worker: &str, mischief: Mischief, post: Post) -> Channel {
    let (wire, worker): (_, Arc<str>) = (wire(), worker.into());
    BoxCloneSyncService::new(service_fn(move |request: Request<Body>| {
        let (wire, post, worker) = (wire.clone(), post.clone(), Arc::clone(&worker));
        async move {
            match request.uri().path() {
                path if path.ends_with("/Report") => report(wire, request, mischief, post).await,
                path if path.ends_with("/Join") => join(wire, request, &worker, post).await,
                _ => call(wire, request).await,
            }
        }
    }))
}

fn wire() -> transport::Channel {
    let connect = |_: Uri| async { TcpStream::connect(("master", PORT)).await.map(TokioIo::new) };
    Endpoint::from_static("http://master:7070")
        .connect_timeout(Duration::from_secs(2))
        .http2_keep_alive_interval(PING)
        .keep_alive_timeout(PING)
        .keep_alive_while_idle(true)
        .connect_with_connector_lazy(service_fn(connect))
}

async fn call(
    mut wire: transport::Channel,
    request: Request<Body>,
) -> Result<Response<Body>, Status> {
    let ready = wire.ready().await.map_err(unavailable)?;
    ready.call(request).await.map_err(unavailable)
}

fn unavailable(error: impl std::fmt::Display) -> Status {
    Status::unavailable(error.to_string())
}

/// An answer, taken apart and put together again, and its bytes.
async fn answer(
    wire: transport::Channel,
    request: Request<Body>,
) -> Result<(Response<Body>, Bytes), Status> {
    let (head, body) = call(wire, request).await?.into_parts();
    let body = body.collect().await?;
    let trailers = body.trailers().cloned();
    let bytes = body.to_bytes();
    let frames = Full::new(bytes.clone()).with_trailers(async move { trailers.map(Ok) });
    Ok((Response::from_parts(head, Body::new(frames)), bytes))
}

/// Joins, and notes the session.
async fn join(
    wire: transport::Channel,
    request: Request<Body>,
    worker: &str,
    post: Post,
) -> Result<Response<Body>, Status> {
    let (response, bytes) = answer(wire, request).await?;
    if let Some(reply) = messages::<JoinReply>(&bytes).next() {
        post.lock().sessions.insert(worker.to_owned(), reply.session);
    }
    Ok(response)
}

/// Sends a report as the mischief has it.
async fn report(
    wire: transport::Channel,
    request: Request<Body>,
    mischief: Mischief,
    post: Post,
) -> Result<Response<Body>, Status> {
    let (head, body) = request.into_parts();
    let body = body.collect().await?.to_bytes();
    let happens = |percent| fastrand::u8(..100) < percent;
    if happens(mischief.late) {
        sleep(Duration::from_millis(fastrand::u64(..5_000))).await;
    }
    if happens(mischief.twice) {
        let wait = if fastrand::bool() { 0 } else { fastrand::u64(..60_000) };
        let due = now() + Duration::from_millis(wait);
        post.lock().copies.push((due, messages(&body).collect()));
    }
    let request = Request::from_parts(head, Body::new(Full::new(body.clone())));
    let (response, bytes) = answer(wire, request).await?;
    note(&post, &body, &bytes);
    if happens(mischief.unanswered) {
        return Err(Status::unavailable("the answer was lost"));
    }
    Ok(response)
}

/// Notes what the master has acknowledged by its answer to a report.
fn note(post: &Post, report: &Bytes, answer: &Bytes) {
    let Some(reply) = messages::<ReportReply>(answer).next() else { return };
    let mut reports: Vec<UrlReport> = Vec::new();
    for part in messages::<ReportPart>(report).filter_map(|part| part.part) {
        match part {
            Part::Url(report) => reports.push(report),
            Part::Offers(more) => {
                if let Some(report) = reports.last_mut() {
                    report.offers.extend(more.offers);
                }
            }
            Part::Header(_) | Part::Chunk(_) => {}
        }
    }
    let counted = reports.into_iter().zip(reply.verdicts());
    for (report, _) in counted.filter(|(_, v)| matches!(v, Verdict::Applied | Verdict::Already)) {
        post.tell(Acknowledged::Report {
            at: now(),
            crawl: report.crawl,
            id: report.id,
            is_page: matches!(report.outcome, Some(Outcome::Response(_))),
            links: report.offers.into_iter().map(|offer| offer.url).collect(),
        });
    }
}

/// The messages of a gRPC body: each behind a flag and its length.
fn messages<M: Message + Default>(body: &Bytes) -> impl Iterator<Item = M> {
    let mut rest = body.clone();
    std::iter::from_fn(move || {
        if rest.len() < 5 {
            return None;
        }
        rest.advance(1);
        let length = rest.get_u32() as usize;
        (length <= rest.len()).then(|| M::decode(rest.split_to(length)).ok()).flatten()
    })
}

/// A connection that was accepted, in the form that tonic wants.
struct Accepted(TcpStream);

impl Connected for Accepted {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl AsyncRead for Accepted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Accepted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
