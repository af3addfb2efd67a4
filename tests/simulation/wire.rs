//! The network between a worker and the master: turmoil's, which loses, delays and
//! splits; and on top of it reports that come twice, late, or without their answer.

use std::{
    io,
    net::Ipv4Addr,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
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
    time::sleep,
};
use tonic::{
    Status,
    body::Body,
    transport::{self, Endpoint, server::Connected},
};
use tower::{Service, ServiceExt, service_fn, util::BoxCloneSyncService};
use trawl_master::{api::WorkerApi, crawl::Crawls, listen::limited_server};
use trawl_proto::v1::{
    ReportPart, ReportReply, UrlReport, Verdict, report_part::Part, worker_server::WorkerServer,
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

/// A report that the master has acknowledged.
#[derive(Clone, Debug)]
pub(crate) struct Acknowledged {
    /// When the worker heard so.
    pub(crate) at: Duration,
    pub(crate) report: UrlReport,
}

/// What workers have been told.
pub(crate) type Told = Arc<Mutex<Vec<Acknowledged>>>;

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
pub(crate) fn channel(mischief: Mischief, told: Told) -> Channel {
    let endpoint = Endpoint::from_static("http://master:7070")
        .connect_timeout(Duration::from_secs(2))
        .http2_keep_alive_interval(PING)
        .keep_alive_timeout(PING)
        .keep_alive_while_idle(true);
    let connect = |_: Uri| async { TcpStream::connect(("master", PORT)).await.map(TokioIo::new) };
    let wire = endpoint.connect_with_connector_lazy(service_fn(connect));
    BoxCloneSyncService::new(service_fn(move |request: Request<Body>| {
        let (wire, told) = (wire.clone(), Arc::clone(&told));
        async move {
            if request.uri().path().ends_with("/Report") {
                report(wire, request, mischief, told).await
            } else {
                call(wire, request).await
            }
        }
    }))
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

/// Sends a report as the mischief has it.
async fn report(
    wire: transport::Channel,
    request: Request<Body>,
    mischief: Mischief,
    told: Told,
) -> Result<Response<Body>, Status> {
    let (head, body) = request.into_parts();
    let body = body.collect().await?.to_bytes();
    let again = || {
        let mut request = Request::new(Body::new(Full::new(body.clone())));
        *request.method_mut() = head.method.clone();
        *request.uri_mut() = head.uri.clone();
        *request.version_mut() = head.version;
        *request.headers_mut() = head.headers.clone();
        request
    };
    let happens = |percent| fastrand::u8(..100) < percent;
    if happens(mischief.late) {
        sleep(Duration::from_millis(fastrand::u64(..5_000))).await;
    }
    if happens(mischief.twice) {
        let wait = if fastrand::bool() { 0 } else { fastrand::u64(..60_000) };
        let (wire, request) = (wire.clone(), again());
        tokio::spawn(async move {
            sleep(Duration::from_millis(wait)).await;
            // What comes of it concerns nobody; it must change nothing.
            let _ = call(wire, request).await;
        });
    }
    let (head, answer) = call(wire, again()).await?.into_parts();
    let answer = answer.collect().await?;
    let trailers = answer.trailers().cloned();
    let bytes = answer.to_bytes();
    if happens(mischief.unanswered) {
        return Err(Status::unavailable("the answer was lost"));
    }
    note(&told, &body, &bytes);
    let frames = Full::new(bytes).with_trailers(async move { trailers.map(Ok) });
    Ok(Response::from_parts(head, Body::new(frames)))
}

/// Notes what the master has acknowledged by its answer to a report.
fn note(told: &Told, report: &Bytes, answer: &Bytes) {
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
    let counted = counted.filter(|(_, v)| matches!(v, Verdict::Applied | Verdict::Already));
    let noted = counted.map(|(report, _)| Acknowledged { at: now(), report });
    told.lock().unwrap_or_else(PoisonError::into_inner).extend(noted);
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
