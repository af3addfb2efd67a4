//! From the errors of the HTTP client to our own.
//!
//! reqwest's errors are chains across reqwest, hyper and rustls, in which only
//! the types of the links tell what went wrong. This is the only place that
//! knows them.

use std::{error::Error, io, iter::successors};

use rustls::CertificateError;
use trawl_shared::{units::Span, untrusted::Untrusted, url::CrawlUrl};

use super::{
    FetchError, Timeout,
    route::{Doubt, Proxy},
};

/// What a request was on its way to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Target<'a> {
    pub(super) url: &'a CrawlUrl,
    /// Host and port of the proxy that is connected to instead.
    pub(super) proxy: Option<&'a str>,
    pub(super) connect_limit: Span,
}

/// Why no response came.
pub(super) fn of_request(error: &reqwest::Error, target: &Target<'_>) -> FetchError {
    if let Some(ours) = find::<FetchError>(error) {
        return ours.clone();
    }
    if error.is_builder() {
        // The URL standard admits hosts such as `{x}`, that no name can be.
        let host = target.url.host().to_owned();
        return FetchError::NoSuchHost { host: host.into() };
    }
    if error.is_connect() {
        return of_connection(error, target);
    }
    let cause = deepest(error);
    match find::<hyper::Error>(error) {
        Some(error) if error.is_parse() => FetchError::Protocol { cause },
        _ => FetchError::Broken { cause },
    }
}

/// Whose failure it is, behind a proxy, that no response came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Blame {
    /// The host's: the proxy did what it could.
    Host,
    /// The proxy's: the host was not asked.
    Proxy,
    /// One of the two did that.
    Unclear(Doubt),
}

/// Whose failure `ours` is, which was made of `error`.
pub(super) fn blame(
    error: &reqwest::Error,
    ours: &FetchError,
    proxy: &Proxy,
    url: &CrawlUrl,
) -> Blame {
    match ours {
        FetchError::NoSuchHost { host } | FetchError::Dns { host, .. } => {
            if host.raw().eq_ignore_ascii_case(&proxy.host) { Blame::Proxy } else { Blame::Host }
        }
        FetchError::ForbiddenAddress { .. } | FetchError::Internal { .. } => Blame::Host,
        // It sends on what the host sends, and that need be no answer.
        FetchError::Broken { .. } | FetchError::Protocol { .. } if proxy.is_asked_for(url) => {
            Blame::Unclear(Doubt::Oddity)
        }
        // The connection that could not be made was the one to the proxy.
        _ if proxy.is_asked_for(url) => Blame::Proxy,
        FetchError::Timeout(_) => Blame::Unclear(Doubt::Silence),
        _ => chain(error)
            .map(ToString::to_string)
            .find_map(|text| blame_of(&text))
            .unwrap_or(Blame::Host),
    }
}

/// What a link of the chain says of tunnels. Their types are not to be had, so that it
/// is the text that counts; tests hold it.
fn blame_of(text: &str) -> Option<Blame> {
    let by_host = |is_by_host| if is_by_host { Blame::Host } else { Blame::Proxy };
    if let Some(tunnel) = text.strip_prefix("tunnel error: ") {
        return Some(by_host(tunnel == "unsuccessful"));
    }
    let socks = text.strip_prefix("SOCKS error: ")?;
    let of_host = [
        "address type not supported",
        "connection not allowed",
        "connection refused",
        "general server failure",
        "host address is more than 255 characters",
        "host unreachable",
        "network unreachable",
        "ttl expired",
    ];
    Some(by_host(of_host.contains(&socks)))
}

/// Why a response's body ended before it was whole.
pub(super) fn of_body(error: &reqwest::Error) -> FetchError {
    let cause = deepest(error);
    match io_kind(error) {
        // Chunked coding that is none.
        Some(io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData) => {
            FetchError::Protocol { cause }
        }
        _ => FetchError::Broken { cause },
    }
}

/// Whether the connection simply ended.
pub(super) fn is_end(error: &reqwest::Error) -> bool {
    io_kind(error) == Some(io::ErrorKind::UnexpectedEof)
}

/// What the last link of the chain says, which is nearest to what happened.
pub(super) fn deepest(error: &(dyn Error + 'static)) -> Untrusted<String> {
    let text = chain(error).last().map(ToString::to_string).unwrap_or_default();
    // Error numbers and links to a library's manual are of no use to people.
    let ends = [" (os error ", ": https://docs.rs/"].into_iter().filter_map(|end| text.find(end));
    text[..ends.min().unwrap_or(text.len())].into()
}

fn of_connection(error: &reqwest::Error, target: &Target<'_>) -> FetchError {
    use io::ErrorKind as Kind;

    if error.is_timeout() {
        return FetchError::Timeout(Timeout::Connect(target.connect_limit));
    }
    if let Some(error) = find::<rustls::Error>(error) {
        return FetchError::Tls { cause: of_tls(error) };
    }
    let peer = target.peer();
    let is_tls = target.url.scheme() == "https";
    match io_kind(error) {
        Some(Kind::ConnectionRefused) => FetchError::Refused { peer: peer.into() },
        // Whoever resets a connection has accepted it before.
        Some(Kind::UnexpectedEof | Kind::ConnectionReset | Kind::BrokenPipe) if is_tls => {
            FetchError::Tls { cause: "the host closed the connection in the handshake".into() }
        }
        _ => FetchError::Connect { peer: peer.into(), cause: deepest(error) },
    }
}

fn of_tls(error: &rustls::Error) -> Untrusted<String> {
    let rustls::Error::InvalidCertificate(certificate) = error else {
        return error.to_string().into();
    };
    match certificate {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "certificate expired".into()
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "certificate not valid yet".into()
        }
        CertificateError::UnknownIssuer => "certificate of an unknown issuer".into(),
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            "certificate of another host".into()
        }
        // What most self-signed certificates come to.
        CertificateError::Other(other) if other.to_string() == "CaUsedAsEndEntity" => {
            "certificate of an authority, not of a host".into()
        }
        _ => error.to_string().into(),
    }
}

impl Target<'_> {
    fn peer(&self) -> String {
        match self.proxy {
            Some(proxy) => format!("the proxy {proxy}"),
            None => format!("{}:{}", self.url.host(), self.url.port_or_default()),
        }
    }
}

/// The kind of the innermost I/O error; those around it are of kind "other".
fn io_kind(error: &(dyn Error + 'static)) -> Option<io::ErrorKind> {
    chain(error).filter_map(|link| link.downcast_ref::<io::Error>()).last().map(io::Error::kind)
}

fn find<'a, E: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a E> {
    chain(error).find_map(|link| link.downcast_ref())
}

/// The error and its causes. An I/O error's source is not what it wraps but the
/// source of that, so what it wraps is asked for first.
fn chain<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    successors(Some(error), |link| {
        let link: &'a (dyn Error + 'static) = *link;
        match link.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            Some(wrapped) => Some(wrapped as &(dyn Error + 'static)),
            None => link.source(),
        }
    })
}
