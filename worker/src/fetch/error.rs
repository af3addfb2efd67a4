//! Why a URL could not be fetched: a phrase for people, and a class for the
//! rules of retrying.
//!
//! Each phrase can follow "could not fetch: " and holds the deepest cause that
//! tells something. Causes are kept as text, not as `#[source]`: an error is
//! cloned, compared and sent to the master, and what a library had to say is of
//! use to people only. It may quote the host.

use std::{fmt, net::IpAddr, time::Duration};

use ipnet::IpNet;
use trawl_shared::{
    outcome::FailureKind,
    units::{Size, Span},
    untrusted::Untrusted,
};

/// Why a URL could not be fetched. A 404 is no error: it is a page that says so.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FetchError {
    /// The name does not resolve.
    #[error("no such host {host}")]
    NoSuchHost {
        /// The name.
        host: Untrusted<String>,
    },
    /// The name server gave no answer.
    #[error("the name server has no answer for {host}: {cause}")]
    Dns {
        /// The name.
        host: Untrusted<String>,
        /// What went wrong.
        cause: Untrusted<String>,
    },
    /// Nothing listens there.
    #[error("connection refused by {peer}")]
    Refused {
        /// Host and port.
        peer: Untrusted<String>,
    },
    /// The connection could not be made.
    #[error("no connection to {peer}: {cause}")]
    Connect {
        /// Host and port.
        peer: Untrusted<String>,
        /// What went wrong.
        cause: Untrusted<String>,
    },
    /// TLS could not be agreed on, or the certificate is not valid.
    #[error("TLS: {cause}")]
    Tls {
        /// What went wrong.
        cause: Untrusted<String>,
    },
    /// A phase took longer than its limit.
    #[error("{0}")]
    Timeout(Timeout),
    /// The connection broke before the answer was whole.
    #[error("the connection broke before the answer was whole: {cause}")]
    Broken {
        /// What went wrong.
        cause: Untrusted<String>,
    },
    /// The answer was not HTTP.
    #[error("the answer is not HTTP: {cause}")]
    Protocol {
        /// What went wrong.
        cause: Untrusted<String>,
    },
    /// The address is outside the public internet and not allowed.
    #[error("{}{address} is outside the public internet; --allow-net {block} would allow it",
        Named(host.as_ref()))]
    ForbiddenAddress {
        /// The name that resolved to it; none if the URL has the address itself.
        host: Option<Untrusted<String>>,
        /// The address.
        address: IpAddr,
        /// The special-purpose block that it is in.
        block: IpNet,
    },
    /// robots.txt could not be had, so that nothing may be fetched yet.
    #[error("robots.txt cannot be had: {cause}")]
    RobotsUnavailable {
        /// What went wrong.
        cause: Untrusted<String>,
        /// The host's own wish to be left alone for so long.
        retry_after: Option<Duration>,
    },
    /// No proxy could be used; the host was not asked.
    #[error("{cause}")]
    Proxy {
        /// Which proxy, and what went wrong.
        cause: Untrusted<String>,
    },
    /// The fetcher could not make a request of it.
    #[error("no request can be made: {cause}")]
    Internal {
        /// What went wrong.
        cause: Untrusted<String>,
    },
}

/// Which limit a fetch ran into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timeout {
    /// The connection did not stand, TLS included.
    Connect(Span),
    /// The host said nothing at first.
    Answer(Span),
    /// The host fell silent in the middle of its answer.
    Stalled(Span),
    /// The fetch as a whole took too long.
    Whole(Span),
    /// The body came more slowly than so many bytes a second.
    TooSlow(Size),
}

impl FetchError {
    /// Whether nothing came from the host in the end, so that the failure may be that of
    /// the network between.
    pub(crate) const fn is_silence(&self) -> bool {
        match self {
            Self::Timeout(Timeout::TooSlow(_)) => false,
            _ => matches!(self, Self::Dns { .. } | Self::Connect { .. } | Self::Timeout(_)),
        }
    }

    /// The class by which retries and summaries go.
    pub const fn kind(&self) -> FailureKind {
        match self {
            Self::NoSuchHost { .. } => FailureKind::NoSuchHost,
            Self::Dns { .. } => FailureKind::Dns,
            Self::Refused { .. } | Self::Connect { .. } => FailureKind::Connect,
            Self::Tls { .. } => FailureKind::Tls,
            Self::Timeout(_) => FailureKind::Timeout,
            Self::Broken { .. } => FailureKind::Broken,
            Self::Protocol { .. } => FailureKind::Protocol,
            Self::ForbiddenAddress { .. } => FailureKind::ForbiddenAddress,
            Self::RobotsUnavailable { .. } => FailureKind::RobotsUnavailable,
            Self::Internal { .. } => FailureKind::Internal,
            Self::Proxy { .. } => FailureKind::Proxy,
        }
    }
}

impl fmt::Display for Timeout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect(limit) => write!(f, "no connection within {limit}"),
            Self::Answer(limit) => write!(f, "no answer within {limit}"),
            Self::Stalled(limit) => write!(f, "the answer stalled for {limit}"),
            Self::Whole(limit) => write!(f, "not done within {limit}"),
            Self::TooSlow(rate) => write!(f, "slower than {rate} a second"),
        }
    }
}

/// `name at ` in front of the address that a name resolved to.
struct Named<'a>(Option<&'a Untrusted<String>>);

impl fmt::Display for Named<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(name) => write!(f, "{name} at "),
            None => Ok(()),
        }
    }
}
