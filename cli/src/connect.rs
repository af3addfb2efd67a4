//! The way to a master: its URL, what is shown to it, and which certificates are
//! believed. Workers and operators take the same way.
//!
//! The connection is made when the first call needs it, and made again whenever a
//! call finds it broken, so a master may be away. When it cannot be made, the calls
//! say why, in words for people.

#![allow(
    rustdoc::bare_urls,
    reason = "these comments are the help text, which shows them as they are"
)]

use std::{
    convert::Infallible,
    error::Error,
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use clap::Args;
use http::{HeaderValue, Request, Uri, header::AUTHORIZATION};
use hyper_util::{
    client::legacy::connect::{HttpConnector, dns::Name},
    rt::TokioIo,
};
use tonic::{
    Status,
    body::Body,
    transport::{Certificate, ClientTlsConfig, Endpoint},
};
use tower::{Service, ServiceExt, service_fn, util::BoxCloneSyncService};
use trawl_master::socket;
use trawl_proto::{MESSAGE_BYTES_MAX, v1::control_client::ControlClient};
use trawl_shared::{
    VERSION,
    security::{Certificates, Identity, Secret},
    untrusted::Untrusted,
};
use trawl_worker::{
    fetch::{FetchError, Resolver},
    master::Channel,
};

use crate::exit::Failure;

/// How long a connection may take to stand, look-up of the name and TLS included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Silence on a connection after which the master is asked for a sign of life, ...
const PING_INTERVAL: Duration = Duration::from_secs(5);

/// ... and how long it has for it.
const PING_TIMEOUT: Duration = Duration::from_secs(10);

/// How long what we sent may go unreceived before the connection is given up. Other than
/// the master's sign of life it does not depend on how much is under way, so that it can
/// be short: the system tries again ever more rarely, and a new connection is there sooner.
const UNRECEIVED_MAX: Duration = Duration::from_secs(8);

/// Bytes of one answer that may be under way to us before we have read them, ...
const STREAM_WINDOW: u32 = 1024 * 1024;

/// ... and of all together.
const CONNECTION_WINDOW: u32 = 2 * 1024 * 1024;

/// The master that is asked if none is named.
pub(crate) const MASTER_URL: &str = "http://127.0.0.1:7070";

/// Which master, and how to be let in.
#[derive(Args, Clone, Debug)]
pub(crate) struct MasterArgs {
    /// The master, such as https://master.example:7070
    #[arg(
        long,
        value_name = "URL",
        env = "TRAWL_MASTER",
        default_value = MASTER_URL,
        help_heading = "Master"
    )]
    pub(crate) master: String,

    #[command(flatten)]
    pub(crate) credentials: Credentials,
}

/// What is shown to a master, and which certificate is expected of it.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct Credentials {
    /// File with the token that the master asks for
    #[arg(long, value_name = "FILE", env = "TRAWL_TOKEN_FILE", help_heading = "Master")]
    token_file: Option<PathBuf>,

    /// Certificates of the authorities that may have signed the master's certificate
    /// [default: the system's]
    #[arg(long, value_name = "FILE", env = "TRAWL_CA", help_heading = "Master")]
    ca: Option<PathBuf>,

    /// Certificate to show, if the master asks for one
    #[arg(
        long,
        value_name = "FILE",
        env = "TRAWL_CERT",
        requires = "key",
        help_heading = "Master"
    )]
    cert: Option<PathBuf>,

    /// The certificate's private key
    #[arg(
        long,
        value_name = "FILE",
        env = "TRAWL_KEY",
        requires = "cert",
        help_heading = "Master"
    )]
    key: Option<PathBuf>,
}

/// Operators' calls to a master.
pub(crate) type Control = ControlClient<Channel>;

impl MasterArgs {
    /// A channel to the master, which need not be there yet.
    ///
    /// # Errors
    /// If the URL or a file cannot be used.
    pub(crate) fn channel(&self) -> Result<Channel, Failure> {
        channel(&self.master, &self.credentials)
    }

    /// Operators' calls.
    ///
    /// # Errors
    /// As [`MasterArgs::channel`].
    pub(crate) fn control(&self) -> Result<Control, Failure> {
        Ok(control(self.channel()?))
    }
}

/// A channel to the master at `url`, which need not be there yet.
///
/// # Errors
/// If the URL or a file cannot be used.
pub(crate) fn channel(url: &str, credentials: &Credentials) -> Result<Channel, Failure> {
    let uri = master_uri(url)?;
    let is_tls = uri.scheme_str() == Some("https");
    let host = uri.host().unwrap_or_default().to_owned();
    let authorization = credentials.authorization()?;
    if authorization.is_some() && !is_tls && !is_loopback(&host) {
        tracing::warn!(master = url, "the token is sent in the clear; https would hide it");
    }
    let mut endpoint = Endpoint::from(uri)
        .user_agent(format!("trawl/{VERSION}"))
        .map_err(Failure::usage)?
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW);
    if is_tls {
        let tls = credentials.tls()?;
        endpoint = endpoint
            .tls_config(tls)
            .map_err(|error| Failure::usage(format!("TLS cannot be used: {}", deepest(&error))))?;
    }
    let mut connector = HttpConnector::new_with_resolver(service_fn(look_up));
    connector.enforce_http(false);
    connector.set_nodelay(true);
    connector.set_tcp_user_timeout(Some(UNRECEIVED_MAX));
    let wire = endpoint.connect_with_connector_lazy(connector);
    let has_certificate = credentials.cert.is_some();
    let faults = Faults { is_tls, has_certificate, was_reached: AtomicBool::new(false) };
    Ok(explained(wire, authorization, faults))
}

/// Operators' calls to the process that uses a data directory, through its socket.
pub(crate) fn local_control(data: &Path) -> Control {
    let data = Arc::new(data.to_owned());
    let connector = service_fn(move |_: Uri| {
        let data = Arc::clone(&data);
        async move { socket::connect(&data).await.map(TokioIo::new) }
    });
    let wire = Endpoint::from_static("http://localhost").connect_with_connector_lazy(connector);
    let faults =
        Faults { is_tls: false, has_certificate: false, was_reached: AtomicBool::new(true) };
    control(explained(wire, None, faults))
}

/// A service of this process as a channel: messages are those of a network.
pub(crate) fn in_process<S>(service: S) -> Channel
where
    S: Service<Request<Body>, Response = http::Response<Body>, Error = Infallible>
        + Clone
        + Send
        + Sync
        + 'static,
    S::Future: Send,
{
    BoxCloneSyncService::new(ServiceExt::map_err(service, |never| match never {}))
}

/// Operators' calls by a channel.
pub(crate) fn control(channel: Channel) -> Control {
    ControlClient::new(channel)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX)
}

/// A channel over `wire` that shows what is asked for, and says why a call failed.
fn explained(
    wire: tonic::transport::Channel,
    authorization: Option<HeaderValue>,
    faults: Faults,
) -> Channel {
    let faults = Arc::new(faults);
    BoxCloneSyncService::new(service_fn(move |mut request: Request<Body>| {
        if let Some(value) = &authorization {
            request.headers_mut().insert(AUTHORIZATION, value.clone());
        }
        let (mut wire, faults) = (wire.clone(), Arc::clone(&faults));
        async move {
            let answer = match wire.ready().await {
                Ok(wire) => wire.call(request).await,
                Err(error) => Err(error),
            };
            match answer {
                Ok(answer) => {
                    faults.was_reached.store(true, Ordering::Relaxed);
                    Ok(answer)
                }
                Err(error) => Err(faults.explain(&error)),
            }
        }
    }))
}

impl Credentials {
    fn authorization(&self) -> Result<Option<HeaderValue>, Failure> {
        let Some(path) = &self.token_file else { return Ok(None) };
        let secret = Secret::read(path)?;
        let mut value = HeaderValue::from_str(&secret.authorization()).map_err(Failure::usage)?;
        // So that no log of headers shows it.
        value.set_sensitive(true);
        Ok(Some(value))
    }

    fn tls(&self) -> Result<ClientTlsConfig, Failure> {
        let mut tls = ClientTlsConfig::new();
        tls = match &self.ca {
            Some(path) => {
                let authorities = Certificates::read(path)?;
                tls.ca_certificate(Certificate::from_pem(authorities.pem()))
            }
            None => tls.with_native_roots(),
        };
        if let (Some(certificate), Some(key)) = (&self.cert, &self.key) {
            let identity = Identity::read(certificate, key)?;
            tls = tls.identity(tonic::transport::Identity::from_pem(
                identity.certificate_pem(),
                identity.key_pem(),
            ));
        }
        Ok(tls)
    }
}

/// Checks that a master's URL is one: scheme, host and port, and nothing else.
fn master_uri(url: &str) -> Result<Uri, Failure> {
    let wrong = |why: &str| {
        let url = Untrusted::new(url);
        Failure::usage(format!("--master {url}: {why}; write it like http://127.0.0.1:7070"))
    };
    let uri: Uri = url.parse().map_err(|_| wrong("this is not a URL"))?;
    if !matches!(uri.scheme_str(), Some("http" | "https")) {
        return Err(wrong("it begins neither with http:// nor with https://"));
    }
    let authority = uri.authority().ok_or_else(|| wrong("it names no host"))?;
    if authority.as_str().contains('@') || uri.path() != "/" || uri.query().is_some() {
        return Err(wrong("it is more than scheme, host and port"));
    }
    Ok(uri)
}

fn is_loopback(host: &str) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost")
        || host.parse().is_ok_and(|address: std::net::IpAddr| address.is_loopback())
}

/// Looks the master's name up, by the system's settings as they are now: a master may
/// have moved, and the connection is made rarely.
async fn look_up(name: Name) -> Result<std::vec::IntoIter<SocketAddr>, FetchError> {
    let found = Resolver::from_system().lookup_own(name.as_str()).await?;
    let addresses: Vec<_> = found.into_iter().map(|ip| SocketAddr::new(ip, 0)).collect();
    Ok(addresses.into_iter())
}

/// What is known of a channel, to explain why it failed.
struct Faults {
    is_tls: bool,
    /// Whether we have a certificate to show.
    has_certificate: bool,
    /// Whether the master ever answered.
    was_reached: AtomicBool,
}

impl Faults {
    /// Says what went wrong, as the status that a call ends with. Before the master
    /// has ever answered, what a person has to put right is a refusal; afterwards all
    /// is taken for an absence, since waiting may help.
    fn explain(&self, error: &(dyn Error + 'static)) -> Status {
        let (is_fault, text) = self.reason(error);
        if is_fault && !self.was_reached.load(Ordering::Relaxed) {
            Status::unauthenticated(text)
        } else {
            Status::unavailable(text)
        }
    }

    /// Whether a person has to put something right, and what went wrong.
    fn reason(&self, error: &(dyn Error + 'static)) -> (bool, String) {
        if let Some(fault) = find::<rustls::Error>(error) {
            return (true, self.tls_reason(fault));
        }
        if let Some(error) = find::<FetchError>(error) {
            return (false, error.to_string());
        }
        let kind = find::<io::Error>(error).map(io::Error::kind);
        let text = match kind {
            Some(io::ErrorKind::ConnectionRefused) => "nobody listens there".to_owned(),
            Some(io::ErrorKind::TimedOut) => format!("no connection within {CONNECT_TIMEOUT:?}"),
            _ => format!("{}{}", Untrusted::new(&deepest(error).to_string()), self.hint()),
        };
        (false, text)
    }

    /// What may be behind it if a master hangs up on those who have never had a word
    /// from it. TLS tells us of a refusal only after we have begun to speak, and then
    /// the connection may be gone before we have read it.
    fn hint(&self) -> &'static str {
        match (self.was_reached.load(Ordering::Relaxed), self.is_tls, self.has_certificate) {
            (true, _, _) => "",
            (_, false, _) => "; perhaps it wants https:// in its URL",
            (_, true, false) => "; perhaps it asks for a certificate (--cert, --key)",
            (_, true, true) => "; perhaps it does not take the certificate that it was shown",
        }
    }

    fn tls_reason(&self, error: &rustls::Error) -> String {
        use rustls::{AlertDescription as Alert, CertificateError as Bad, Error as Tls};
        match error {
            Tls::InvalidCertificate(Bad::UnknownIssuer) => {
                "its certificate is not of an authority that is trusted here (--ca)".into()
            }
            Tls::InvalidCertificate(
                bad @ (Bad::NotValidForName | Bad::NotValidForNameContext { .. }),
            ) => {
                format!("its certificate is for another host than the URL's: {bad}")
            }
            Tls::InvalidCertificate(bad) => format!("its certificate is not valid: {bad}"),
            Tls::InvalidMessage(_) => {
                "it does not speak TLS there; perhaps it wants http:// in its URL".into()
            }
            Tls::AlertReceived(Alert::CertificateRequired) => {
                "it asks for a certificate of its authority (--cert, --key)".into()
            }
            Tls::AlertReceived(
                alert @ (Alert::UnknownCA
                | Alert::BadCertificate
                | Alert::CertificateExpired
                | Alert::CertificateUnknown
                | Alert::UnsupportedCertificate
                | Alert::DecryptError),
            ) => {
                format!("it does not take the certificate that it was shown ({alert:?})")
            }
            error => format!("TLS failed: {}", Untrusted::new(&error.to_string())),
        }
    }
}

/// Looks for an error of a kind among the causes.
fn find<'a, E: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a E> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        next = cause(error);
    }
    None
}

/// The last cause, which tells most.
fn deepest<'a>(error: &'a (dyn Error + 'static)) -> &'a (dyn Error + 'static) {
    let mut error = error;
    while let Some(next) = cause(error) {
        error = next;
    }
    error
}

/// An error's cause; an I/O error may be nothing but a shell around another one,
/// which it does not tell as its source.
fn cause<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a (dyn Error + 'static)> {
    let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
    match inner {
        Some(inner) => Some(inner),
        None => error.source(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_masters_url_is_scheme_host_and_port() {
        for url in ["http://a.example", "https://a.example:7070/", "http://[::1]:7070"] {
            assert!(master_uri(url).is_ok(), "{url}");
        }
        for url in ["", "a.example:7070", "http://", "http://a/b", "http://a/?b", "http://u:p@a"] {
            let message = master_uri(url).unwrap_err().message;
            assert!(message.contains("write it like http://127.0.0.1:7070"), "{url}: {message}");
        }
    }

    #[test]
    fn only_this_machine_is_loopback() {
        for host in ["localhost", "LOCALHOST", "127.0.0.1", "127.9.9.9", "[::1]"] {
            assert!(is_loopback(host), "{host}");
        }
        for host in ["localhost.example", "10.0.0.1", "[::]", "0.0.0.0", "127.0.0.1.example"] {
            assert!(!is_loopback(host), "{host}");
        }
    }

    #[test]
    fn the_cause_within_an_io_error_is_found() {
        let inner = FetchError::NoSuchHost { host: "a.example".into() };
        let error = io::Error::other(io::Error::other(inner.clone()));
        assert_eq!(find::<FetchError>(&error), Some(&inner));
        assert_eq!(deepest(&error).to_string(), "no such host a.example");
    }

    #[test]
    fn what_a_person_must_put_right_is_a_refusal_until_the_master_was_reached() {
        let faults =
            Faults { is_tls: true, has_certificate: false, was_reached: AtomicBool::new(false) };
        let error = rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer);
        assert_eq!(faults.explain(&error).code(), tonic::Code::Unauthenticated);
        assert_eq!(faults.explain(&io::Error::other("gone")).code(), tonic::Code::Unavailable);
        faults.was_reached.store(true, Ordering::Relaxed);
        assert_eq!(faults.explain(&error).code(), tonic::Code::Unavailable);
    }
}
