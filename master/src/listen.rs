//! The master on a port: both services over TCP, with or without TLS, beside health
//! and reflection. Who has no right to ask is turned away here, before a message is
//! read; and everything that a caller can make grow has its limit here.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpSocket, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Sleep, sleep},
};
use tokio_stream::Stream;
use tokio_util::sync::CancellationToken;
use tonic::{
    Request, Status,
    server::NamedService,
    service::{Interceptor, interceptor::InterceptedService},
    transport::{
        Certificate, Server, ServerTlsConfig,
        server::{Connected, TcpConnectInfo, TlsConnectInfo},
    },
};
use tonic_health::ServingStatus;
use trawl_proto::{
    DESCRIPTORS,
    v1::{control_server::ControlServer, worker_server::WorkerServer},
};
use trawl_shared::security::{Certificates, Identity, Secret};

use crate::api::{ControlApi, WorkerApi};

/// Connections at a time. A worker has one. Further ones wait to be accepted.
const CONNECTIONS_MAX: usize = 512;

/// Connections that wait to be accepted.
const BACKLOG: u32 = 256;

/// Calls of one connection at a time. A worker has half a dozen.
const STREAMS_MAX: u32 = 32;

/// Bytes of one call that may be under way to a master that does not read them yet, ...
const STREAM_WINDOW: u32 = 1024 * 1024;

/// ... and of one connection: so [`CONNECTIONS_MAX`] of them hold 1 GiB at the very most.
const CONNECTION_WINDOW: u32 = 2 * 1024 * 1024;

/// Bytes of a call's headers.
const HEADER_BYTES_MAX: u32 = 16 * 1024;

/// Bytes of a message to the services that anybody may ask.
const OPEN_MESSAGE_BYTES_MAX: usize = 16 * 1024;

/// How long a peer may stay until a call of its own is let in, and how long TLS may take.
/// Who asks for health and reflection alone has no longer.
const FIRST_WORD: Duration = Duration::from_secs(10);

/// Silence on a connection after which the peer is asked for a sign of life, ...
const PING_INTERVAL: Duration = Duration::from_secs(5);

/// ... and how long it has for it.
const PING_TIMEOUT: Duration = Duration::from_secs(10);

/// How long what was sent may go unreceived before a connection is given up, and with it
/// the calls that wait for leases by it: what is lent to them would be lent in vain.
const UNRECEIVED_MAX: Duration = Duration::from_secs(8);

/// Wait after a connection could not be accepted, as when there are no more file
/// descriptors.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// How long calls under way may go on when the master stops.
const GRACE: Duration = Duration::from_secs(3);

/// Where to listen, and who may ask.
#[derive(Clone, Debug)]
pub struct ListenConfig {
    /// Address and port; port 0 takes a free one.
    pub address: SocketAddr,
    /// What callers have to show. May be absent on loopback only.
    pub secret: Option<Secret>,
    /// The certificate to show, for TLS.
    pub identity: Option<Identity>,
    /// Authorities, one of which must have signed a caller's certificate. Only with
    /// an identity.
    pub client_authorities: Option<Certificates>,
}

/// Why a master cannot listen.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// The port would be open to others, and nothing keeps them out.
    #[error(
        "{0} can be reached from other machines, so a token is needed: make one by \
         `trawl token --out token`, give it by --token-file token to the master, its workers and \
         whoever operates it; or listen on 127.0.0.1"
    )]
    Unprotected(SocketAddr),
    /// The certificate and its key, or the authorities, cannot be used.
    #[error("the certificate cannot be used: {0}")]
    Certificate(String),
    /// The address cannot be listened on.
    #[error("cannot listen on {0}: {1}")]
    Address(SocketAddr, #[source] io::Error),
    /// The server ended.
    #[error("the server failed: {0}")]
    Server(String),
}

/// A port that is the master's, on which it does not listen yet.
#[derive(Debug)]
pub struct Listener {
    socket: TcpSocket,
    address: SocketAddr,
    server: Server,
    secret: Option<Secret>,
    is_tls: bool,
}

impl Listener {
    /// Takes the port. Callers are refused by the system until it serves.
    ///
    /// # Errors
    /// If it cannot be had, or must not be.
    pub fn bind(config: ListenConfig) -> Result<Self, ListenError> {
        let ListenConfig { address, secret, identity, client_authorities } = config;
        if secret.is_none() && !address.ip().is_loopback() {
            return Err(ListenError::Unprotected(address));
        }
        let mut server = limited_server();
        let is_tls = identity.is_some();
        if let Some(identity) = identity {
            let identity = tonic::transport::Identity::from_pem(
                identity.certificate_pem(),
                identity.key_pem(),
            );
            let mut tls = ServerTlsConfig::new().identity(identity).timeout(FIRST_WORD);
            if let Some(authorities) = client_authorities {
                tls = tls.client_ca_root(Certificate::from_pem(authorities.pem()));
            }
            server = server.tls_config(tls).map_err(|error| unusable(&error))?;
        }
        let (socket, address) =
            bind(address).map_err(|error| ListenError::Address(address, error))?;
        Ok(Self { socket, address, server, secret, is_tls })
    }

    /// Where it will be found.
    pub fn url(&self) -> String {
        let scheme = if self.is_tls { "https" } else { "http" };
        format!("{scheme}://{}", self.address)
    }

    /// Listens. The future that comes of it serves until `stop` is cancelled; then no
    /// connection is accepted and no call begun, and those under way may go on for a
    /// moment.
    ///
    /// # Errors
    /// If the system does not let it listen.
    pub(crate) fn serve(
        self,
        worker: WorkerServer<WorkerApi>,
        control: ControlServer<ControlApi>,
        stop: CancellationToken,
    ) -> Result<impl Future<Output = Result<(), ListenError>> + Send + use<>, ListenError> {
        let listener = self.socket.listen(BACKLOG);
        let listener = listener.map_err(|error| ListenError::Address(self.address, error))?;
        let reflection = || {
            tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(DESCRIPTORS)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        };
        let newest = reflection().build_v1().map_err(ListenError::server)?;
        let former = reflection().build_v1alpha().map_err(ListenError::server)?;
        let (health, health_service) = tonic_health::server::health_reporter();
        let names = ["", WorkerServer::<WorkerApi>::NAME, ControlServer::<ControlApi>::NAME];
        let doorkeeper = Doorkeeper(self.secret);
        let mut server = self.server;
        let router = server
            .add_service(health_service.max_decoding_message_size(OPEN_MESSAGE_BYTES_MAX))
            .add_service(newest.max_decoding_message_size(OPEN_MESSAGE_BYTES_MAX))
            .add_service(former.max_decoding_message_size(OPEN_MESSAGE_BYTES_MAX))
            .add_service(InterceptedService::new(worker, doorkeeper.clone()))
            .add_service(InterceptedService::new(control, doorkeeper));
        let stopping = stop.clone();
        let set_all = async move |status| {
            for name in names {
                health.set_service_status(name, status).await;
            }
        };
        Ok(async move {
            set_all(ServingStatus::Serving).await;
            let closed = async {
                stopping.cancelled().await;
                set_all(ServingStatus::NotServing).await;
            };
            let served = router.serve_with_incoming_shutdown(incoming(listener), closed);
            let late = async {
                stop.cancelled().await;
                sleep(GRACE).await;
            };
            tokio::select! {
                ended = served => ended.map_err(ListenError::server),
                () = late => Ok(()),
            }
        })
    }
}

/// A server with the limits of every connection, whatever it comes over.
pub fn limited_server() -> Server {
    Server::builder()
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_concurrent_streams(STREAMS_MAX)
        .http2_max_header_list_size(HEADER_BYTES_MAX)
        .http2_keepalive_interval(Some(PING_INTERVAL))
        .http2_keepalive_timeout(Some(PING_TIMEOUT))
}

impl ListenError {
    fn server(error: impl std::error::Error) -> Self {
        Self::Server(error.to_string())
    }
}

fn bind(address: SocketAddr) -> io::Result<(TcpSocket, SocketAddr)> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // Or a master that starts again would wait for its former connections to fade.
    socket.set_reuseaddr(true)?;
    // Connections that it accepts have it too.
    let unreceived_max = u32::try_from(UNRECEIVED_MAX.as_millis()).unwrap_or(u32::MAX);
    rustix::net::sockopt::set_tcp_user_timeout(&socket, unreceived_max)?;
    socket.bind(address)?;
    let address = socket.local_addr()?;
    Ok((socket, address))
}

/// What TLS has against a certificate; tonic keeps that to its causes.
fn unusable(error: &dyn std::error::Error) -> ListenError {
    let mut deepest = error;
    while let Some(cause) = deepest.source() {
        deepest = cause;
    }
    ListenError::Certificate(deepest.to_string())
}

/// Lets in who shows the token.
#[derive(Clone)]
struct Doorkeeper(Option<Secret>);

impl Interceptor for Doorkeeper {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let extensions = request.extensions();
        let guest = extensions
            .get::<Guest>()
            .or_else(|| extensions.get::<TlsConnectInfo<Guest>>().map(TlsConnectInfo::get_ref));
        let guest = guest.cloned();
        if let Some(guest) = &guest {
            // Where the services look for it.
            request.extensions_mut().insert(guest.tcp.clone());
        }
        let let_in = move |request| {
            if let Some(guest) = guest {
                guest.is_let_in.store(true, Ordering::Relaxed);
            }
            Ok(request)
        };
        let Some(secret) = &self.0 else { return let_in(request) };
        let refusal = match request.metadata().get("authorization") {
            Some(shown) if secret.is_shown_by(shown.as_bytes()) => return let_in(request),
            Some(_) => "the token is not this master's",
            None => "this master asks for a token (--token-file or TRAWL_TOKEN_FILE)",
        };
        tracing::info!(from = ?request.remote_addr(), refusal, "turned a caller away");
        Err(Status::unauthenticated(refusal))
    }
}

/// Connections as they come, as far as there is room. What goes wrong with one is no
/// reason to end.
fn incoming(listener: TcpListener) -> impl Stream<Item = io::Result<Connection>> {
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    futures::stream::unfold((listener, room), |(listener, room)| async move {
        if room.available_permits() == 0 {
            tracing::warn!("no more than {CONNECTIONS_MAX} connections; others have to wait");
        }
        let place = Arc::clone(&room).acquire_owned().await.ok()?;
        let stream = loop {
            match listener.accept().await {
                Ok((stream, _)) => break stream,
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    sleep(ACCEPT_AGAIN).await;
                }
            }
        };
        // Answers are small, and somebody waits for each.
        let prepared = stream.set_nodelay(true);
        let patience = Some(Box::pin(sleep(FIRST_WORD)));
        let is_let_in = Arc::default();
        let connection =
            prepared.map(|()| Connection { stream, patience, is_let_in, _place: place });
        Some((connection, (listener, room)))
    })
}

/// A connection, which has a place as long as it is there, and a short stay unless one
/// of its calls is let in soon.
struct Connection {
    stream: TcpStream,
    /// None once a call was let in.
    patience: Option<Pin<Box<Sleep>>>,
    is_let_in: Arc<AtomicBool>,
    _place: OwnedSemaphorePermit,
}

/// Whose a connection is, and whether a call of it was let in.
#[derive(Clone)]
struct Guest {
    tcp: TcpConnectInfo,
    is_let_in: Arc<AtomicBool>,
}

impl Connected for Connection {
    type ConnectInfo = Guest;

    fn connect_info(&self) -> Guest {
        Guest { tcp: self.stream.connect_info(), is_let_in: Arc::clone(&self.is_let_in) }
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.patience.is_some() && self.is_let_in.load(Ordering::Relaxed) {
            self.patience = None;
        }
        if let Some(patience) = &mut self.patience
            && patience.as_mut().poll(context).is_ready()
        {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
