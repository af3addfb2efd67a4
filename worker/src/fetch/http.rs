//! Fetching over HTTP/1.1 and HTTP/2, with and without TLS.
//!
//! One fetcher serves one crawl. It keeps a connection per host for the next
//! request, follows no redirect, sends no cookie, tries nothing twice, and never
//! looks at the environment's proxy variables. Addresses are checked three
//! times: in the URL, in what the resolver says, and on the connection that
//! stands. With a proxy, names are resolved and connected to by the proxy, so
//! only addresses in URLs (and `localhost`) can be checked here; the proxy's own
//! address may be anywhere, as the operator named it.
//!
//! HTTP/1 heads are bounded by hyper: 100 headers, 400 KiB.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Method, Version,
    header::{ACCEPT, ACCEPT_ENCODING, CONTENT_LENGTH, HOST, TRANSFER_ENCODING, USER_AGENT},
};
use reqwest::{Client, Proxy, Request, Response, redirect, retry, tls};
use tokio::task::yield_now;
use trawl_shared::{
    clock::wall_now,
    spec::{CrawlSpec, SpecError},
    units::Span,
    url::CrawlUrl,
};
use url::Url;

use super::{
    Fetch, FetchError, Page, Timeout,
    body::{self, Chunks, Expected},
    cause::{self, Target},
    coding::Coding,
    deadline::{Deadline, Limits},
    guard::Guard,
    resolve::{GuardedResolver, Resolver, is_localhost},
    tls::root_certificates,
};

/// What we would rather have: documents.
const ACCEPTED: &str = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8";

/// The content codings that `coding` undoes.
const ACCEPTED_CODINGS: &str = "gzip, deflate, br, zstd";

/// How long an idle connection is kept for the host's next page.
const IDLE: Duration = Duration::from_secs(15);

/// Bytes of an HTTP/2 response's headers at most.
const HEADER_LIST_BYTES_MAX: u32 = 64 * 1024;

/// Fetches pages by the rules of one crawl. Clones share connections.
#[derive(Clone)]
pub struct HttpFetcher(Arc<Inner>);

struct Inner {
    client: Client,
    guard: Arc<Guard>,
    limits: Limits,
    body_limit: usize,
    /// What every request has besides its host, ...
    headers: HeaderMap,
    /// ... and the same as it is written.
    header_lines: Vec<u8>,
    /// The proxy's host and port, if there is a proxy.
    proxy: Option<String>,
}

impl HttpFetcher {
    /// A fetcher with a resolver of its own.
    ///
    /// # Errors
    /// If the proxy or the user agent cannot be used.
    pub fn new(spec: &CrawlSpec) -> Result<Self, SpecError> {
        Self::with_resolver(spec, Resolver::from_system())
    }

    /// A fetcher that shares a resolver, and what it has learned, with others.
    ///
    /// # Errors
    /// As [`HttpFetcher::new`].
    pub fn with_resolver(spec: &CrawlSpec, names: Resolver) -> Result<Self, SpecError> {
        let guard = Arc::new(Guard { allow: spec.allow_net.clone() });
        let resolver = GuardedResolver {
            names,
            guard: Arc::clone(&guard),
            proxy_host: spec.proxy.as_deref().and_then(host_of).map(Arc::from),
            limit: dns_limit(spec.connect_timeout),
        };
        let headers = headers(spec)?;
        Ok(Self(Arc::new(Inner {
            client: client(spec, resolver)?,
            guard,
            limits: Limits {
                connect: spec.connect_timeout,
                silence: spec.read_timeout,
                whole: spec.fetch_timeout,
            },
            body_limit: spec.body_limit.as_usize(),
            header_lines: header_lines(&headers),
            headers,
            proxy: spec.proxy.as_deref().map(|proxy| host_and_port(proxy).unwrap_or_default()),
        })))
    }

    async fn fetch(&self, url: &CrawlUrl, body_limit: usize) -> Result<Page, FetchError> {
        let fetched_at = wall_now();
        let mut deadline = Deadline::new(self.0.limits);
        self.0.check_host(url)?;
        let sending = self.0.client.execute(self.0.request(url)?);
        let mut response = deadline
            .wait(sending, Timeout::Answer)
            .await?
            .map_err(|error| cause::of_request(&error, &self.0.target(url)))?;
        let address = self.0.peer(&response)?;

        let (status, version) = (response.status().as_u16(), response.version());
        let headers = std::mem::take(response.headers_mut());
        let expected = Expected {
            coding: Coding::of(&headers),
            length: response.content_length(),
            limit: body_limit,
        };
        let ends_by_close = ends_by_close(version, &headers);
        let mut incoming = Incoming { response, ends_by_close };
        let body = body::read(&mut incoming, expected, &mut deadline).await?;
        // The connection's own task must run before the connection is free again. A
        // request that came sooner would open a second one.
        yield_now().await;
        Ok(Page {
            url: url.clone(),
            status,
            version,
            headers,
            request_head: self.0.request_head(url, version),
            wire: body.wire,
            body: body.decoded,
            truncated: body.truncated,
            address,
            fetched_at,
            elapsed: deadline.elapsed(),
        })
    }
}

impl Fetch for HttpFetcher {
    async fn get(&self, url: &CrawlUrl) -> Result<Page, FetchError> {
        self.fetch(url, self.0.body_limit).await
    }

    async fn get_at_least(&self, url: &CrawlUrl, bytes: usize) -> Result<Page, FetchError> {
        self.fetch(url, self.0.body_limit.max(bytes)).await
    }
}

impl Inner {
    /// Checks a host that is an address, which no resolver will be asked for, and
    /// `localhost`, which a proxy would take for itself.
    fn check_host(&self, url: &CrawlUrl) -> Result<(), FetchError> {
        let check = |address: IpAddr| self.guard.check(address);
        match url.address() {
            Some(address) => check(address),
            None if is_localhost(url.host()) => {
                check(Ipv6Addr::LOCALHOST.into()).or_else(|_| check(Ipv4Addr::LOCALHOST.into()))
            }
            None => Ok(()),
        }
    }

    /// The address that answered, which is not known behind a proxy.
    fn peer(&self, response: &Response) -> Result<Option<SocketAddr>, FetchError> {
        let address = response.remote_addr().filter(|_| self.proxy.is_none());
        if let Some(address) = address {
            self.guard.check(address.ip())?;
        }
        Ok(address)
    }

    fn request(&self, url: &CrawlUrl) -> Result<Request, FetchError> {
        let internal = |cause: String| FetchError::Internal { cause };
        let parsed = url.to_url().map_err(|error| internal(error.to_string()))?;
        let mut request = Request::new(Method::GET, parsed);
        let headers = request.headers_mut();
        if puts_host_first(url) {
            let host = HeaderValue::from_str(url.authority())
                .map_err(|error| internal(error.to_string()))?;
            headers.reserve(self.headers.len() + 1);
            headers.insert(HOST, host);
            headers.extend(self.headers.iter().map(|(name, value)| (name.clone(), value.clone())));
        } else {
            headers.clone_from(&self.headers);
        }
        Ok(request)
    }

    /// The request's head as it was sent. Of HTTP/2 it is the translation, and of
    /// a request to a proxy what the proxy is to send on.
    fn request_head(&self, url: &CrawlUrl, version: Version) -> Vec<u8> {
        let (path, host) = (url.path_and_query().as_bytes(), url.authority().as_bytes());
        let host: [&[u8]; 3] = [b"host: ", host, b"\r\n"];
        let is_first = puts_host_first(url) || version == Version::HTTP_2;
        let (first, last) = if is_first { (host, [&[][..]; 3]) } else { ([&[][..]; 3], host) };

        let start: [&[u8]; 3] = [b"GET ", path, b" HTTP/1.1\r\n"];
        let end: [&[u8]; 1] = [b"\r\n"];
        [&start[..], &first, &[&self.header_lines], &last, &end].concat().concat()
    }

    fn target<'a>(&'a self, url: &'a CrawlUrl) -> Target<'a> {
        Target { url, proxy: self.proxy.as_deref(), connect_limit: self.limits.connect }
    }
}

/// A response's body on its way.
struct Incoming {
    response: Response,
    ends_by_close: bool,
}

impl Chunks for Incoming {
    async fn next(&mut self) -> Result<Option<Bytes>, FetchError> {
        match self.response.chunk().await {
            Err(error) if self.ends_by_close && cause::is_end(&error) => Ok(None),
            chunk => chunk.map_err(|error| cause::of_body(&error)),
        }
    }
}

/// Whether nothing but the connection's end tells where the body ends. Servers
/// that do so seldom say goodbye in TLS, and browsers do not insist.
fn ends_by_close(version: Version, headers: &HeaderMap) -> bool {
    version <= Version::HTTP_11
        && !headers.contains_key(CONTENT_LENGTH)
        && !headers.contains_key(TRANSFER_ENCODING)
}

/// Whether we write the host header ourselves, which puts it first, as RFC 9110
/// has it. With TLS it is not known before the handshake whether HTTP/2, which
/// has no such header, will be spoken; there hyper adds it where it is needed.
fn puts_host_first(url: &CrawlUrl) -> bool {
    url.scheme() == "http"
}

fn client(spec: &CrawlSpec, resolver: GuardedResolver) -> Result<Client, SpecError> {
    // Silence and the whole fetch are timed by `deadline`; decompression is
    // switched off should some other crate have switched it on.
    let mut builder = Client::builder()
        .redirect(redirect::Policy::none())
        .retry(retry::never())
        .referer(false)
        .no_proxy()
        .no_gzip()
        .no_brotli()
        .no_zstd()
        .no_deflate()
        .dns_resolver(resolver)
        .connect_timeout(spec.connect_timeout.duration())
        .tcp_nodelay(true)
        .pool_max_idle_per_host(1)
        .pool_idle_timeout(IDLE)
        .http1_allow_obsolete_multiline_headers_in_responses(true)
        .http1_allow_spaces_after_header_name_in_responses(true)
        .http1_ignore_invalid_headers_in_responses(true)
        .http2_max_header_list_size(HEADER_LIST_BYTES_MAX)
        .tls_certs_only(root_certificates())
        .tls_version_min(tls::Version::TLS_1_2);
    if let Some(proxy) = &spec.proxy {
        let odd = |error: reqwest::Error| SpecError::new("proxy", proxy, cause::deepest(&error));
        builder = builder.proxy(Proxy::all(proxy).map_err(odd)?);
    }
    // No setting of a crawl is known to make it fail.
    builder.build().map_err(|error| SpecError::new("fetch", "HTTP", cause::deepest(&error)))
}

fn headers(spec: &CrawlSpec) -> Result<HeaderMap, SpecError> {
    let user_agent = HeaderValue::from_str(&spec.user_agent)
        .map_err(|error| SpecError::new("user_agent", &spec.user_agent, error.to_string()))?;
    Ok(HeaderMap::from_iter([
        (USER_AGENT, user_agent),
        (ACCEPT, HeaderValue::from_static(ACCEPTED)),
        (ACCEPT_ENCODING, HeaderValue::from_static(ACCEPTED_CODINGS)),
    ]))
}

fn header_lines(headers: &HeaderMap) -> Vec<u8> {
    let line = |(name, value): (&http::HeaderName, &HeaderValue)| {
        [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"].concat()
    };
    headers.iter().flat_map(line).collect()
}

/// Name servers get four fifths of the time that a connection may take, so that
/// their silence is not mistaken for the host's.
fn dns_limit(connect: Span) -> Span {
    Span::millis(connect.as_millis() * 4 / 5)
}

fn host_of(proxy: &str) -> Option<String> {
    Url::parse(proxy).ok()?.host_str().map(str::to_ascii_lowercase)
}

fn host_and_port(proxy: &str) -> Option<String> {
    let url = Url::parse(proxy).ok()?;
    let default = if url.scheme().starts_with("socks") { 1080 } else { 80 };
    Some(format!("{}:{}", url.host_str()?, url.port_or_known_default().unwrap_or(default)))
}

#[cfg(test)]
mod tests;
