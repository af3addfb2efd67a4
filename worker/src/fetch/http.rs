//! Fetching over HTTP/1.1 and HTTP/2, with and without TLS.
//!
//! One fetcher serves one crawl. It keeps a connection per host for the next
//! request, follows no redirect, sends no cookie unless the crawl says so, tries no
//! host twice, and never looks at the environment's proxy variables. Addresses are
//! checked three times: in the URL, in what the resolver says, and on the connection that
//! stands. With a proxy, names are resolved and connected to by the proxy, so only
//! addresses in URLs (and `localhost`) can be checked here; the proxy's own address may be
//! anywhere, as the operator named it.
//!
//! HTTP/1 heads are bounded by hyper: 100 headers, 400 KiB.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Method, Uri, Version,
    header::{
        ACCEPT, ACCEPT_ENCODING, CONTENT_LENGTH, COOKIE, HOST, TRANSFER_ENCODING, USER_AGENT,
    },
};
use reqwest::{Certificate, Client, Request, Response, redirect, retry, tls};
use tokio::{
    net::TcpStream,
    task::yield_now,
    time::{Instant, timeout},
};
use trawl_shared::{
    clock::wall_now,
    secret::{ProxyUrl, REDACTED},
    spec::{CrawlSpec, SpecError},
    units::Span,
    url::CrawlUrl,
};
use url::Url;

use super::{
    Fetch, FetchError, Page, Timeout,
    body::{self, Chunks, Expected},
    cause::{self, Blame, Target},
    coding::Coding,
    cookies::Cookies,
    deadline::{Deadline, Limits},
    extras::Extras,
    guard::Guard,
    resolve::{GuardedResolver, Resolver, is_localhost},
    route::{self, Doubt, Proxy, Route, Routes},
    tls::root_certificates,
    uplink::{Uplink, is_routed},
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
    routes: Routes,
    /// Resolves names as connections without a proxy do.
    names: GuardedResolver,
    guard: Arc<Guard>,
    limits: Limits,
    body_limit: usize,
    /// What every request has besides its host, ...
    headers: HeaderMap,
    /// ... and the same as it is written.
    header_lines: Vec<u8>,
    /// What requests to some hosts have besides.
    extras: Extras,
    /// The cookies, if the crawl wants them.
    cookies: Option<Cookies>,
    uplink: Uplink,
}

impl HttpFetcher {
    /// A fetcher with a resolver of its own.
    ///
    /// # Errors
    /// If a proxy, a header or the user agent cannot be used.
    pub fn new(spec: &CrawlSpec) -> Result<Self, SpecError> {
        Self::with_resolver(spec, Resolver::from_system())
    }

    /// A fetcher that shares a resolver, and what it has learned, with others.
    ///
    /// # Errors
    /// As [`HttpFetcher::new`].
    pub fn with_resolver(spec: &CrawlSpec, names: Resolver) -> Result<Self, SpecError> {
        let guard = Arc::new(Guard { allow: spec.allow_net.clone() });
        let names = GuardedResolver {
            names,
            guard: Arc::clone(&guard),
            proxy_host: None,
            limit: dns_limit(spec.connect_timeout),
        };
        let headers = headers(spec)?;
        Ok(Self(Arc::new(Inner {
            routes: routes(spec, &names)?,
            names,
            guard,
            limits: Limits {
                connect: spec.connect_timeout,
                silence: spec.read_timeout,
                whole: spec.fetch_timeout,
                rate: spec.rate_min,
            },
            body_limit: spec.body_limit.as_usize(),
            header_lines: header_lines(&headers),
            headers,
            extras: Extras::new(spec)?,
            cookies: spec.cookies.then(Cookies::new),
            uplink: Uplink::new(spec.outage_max),
        })))
    }

    async fn fetch(&self, url: &CrawlUrl, body_limit: usize) -> Result<Page, FetchError> {
        let fetched_at = wall_now();
        let mut deadline = Deadline::new(self.0.limits);
        self.0.check_host(url)?;
        let extras = self.0.extras_for(url)?;
        let (mut response, route) = self.0.response(url, &extras, &mut deadline).await?;
        let address = route.peer(&response, &self.0.guard)?;
        self.0.uplink.heard(url, address);

        let (status, version) = (response.status().as_u16(), response.version());
        let headers = std::mem::take(response.headers_mut());
        if let Some(cookies) = &self.0.cookies {
            cookies.keep(url, &headers);
        }
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
            request_head: self.0.request_head(url, &extras, version),
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

    async fn addresses(&self, url: &CrawlUrl) -> Result<Vec<IpAddr>, FetchError> {
        if self.0.routes.by_proxy() {
            return Ok(Vec::new());
        }
        match url.address() {
            Some(address) => Ok(vec![address]),
            None => self.0.names.permitted(url.host()).await,
        }
    }

    async fn is_cut_off(&self, url: &CrawlUrl, began: Instant) -> bool {
        self.0.uplink.is_down(url, began, is_routed, |peer| self.0.reaches(peer)).await
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

    /// What the request has besides what all have. Empty for most.
    fn extras_for(&self, url: &CrawlUrl) -> Result<HeaderMap, FetchError> {
        let mut extras = self.extras.of(url)?;
        if let Some(cookies) = &self.cookies
            && let Some(header) = cookies.header(url)
        {
            extras.insert(COOKIE, header);
        }
        Ok(extras)
    }

    /// Sends a request for the URL and returns the response's beginning, and the way it
    /// came. A proxy that fails is not the host's failure, and the next one is tried.
    async fn response(
        &self,
        url: &CrawlUrl,
        extras: &HeaderMap,
        deadline: &mut Deadline,
    ) -> Result<(Response, &Route), FetchError> {
        let mut tried = Vec::new();
        let mut last_failure = None;
        loop {
            let number = self.routes.to(url.host(), &tried, Instant::now())?;
            let route = self.routes.get(number);
            let Some(proxy) = &route.proxy else {
                let sending = route.client.execute(self.request(url, extras)?);
                let sent = deadline.wait(sending, Timeout::Answer).await?;
                let sent = sent.map_err(|error| cause::of_request(&error, &self.target(url, None)));
                return sent.map(|response| (response, route));
            };
            // The proxy's own name is resolved without a check, but not for pages.
            if url.host().eq_ignore_ascii_case(&proxy.host) && url.address().is_none() {
                self.names.permitted(url.host()).await?;
            }
            let sending = route.client.execute(self.request(url, extras)?);
            let sent = deadline.wait(sending, Timeout::Answer).await;
            // The proxies before took the time that this one did not get.
            if let (Err(FetchError::Timeout(Timeout::Whole(_))), Some(cause)) =
                (&sent, &last_failure)
            {
                return Err(FetchError::Proxy { cause: String::clone(cause).into() });
            }
            let failure = match self.by_proxy(url, proxy, sent, deadline).await? {
                Ok(response) => return Ok((response, route)),
                Err(failure) => failure,
            };
            proxy.failed(Instant::now());
            tried.push(number);
            let may_go_on = tried.len() < route::TRIES_MAX;
            if !may_go_on || self.routes.to(url.host(), &tried, Instant::now()).is_err() {
                return Err(FetchError::Proxy { cause: failure.into() });
            }
            last_failure = Some(failure);
        }
    }

    /// Judges what came by a proxy: an answer, why none came, or that none came in time.
    /// The outer error is the host's, the inner one is how the proxy failed.
    async fn by_proxy(
        &self,
        url: &CrawlUrl,
        proxy: &Proxy,
        sent: Result<reqwest::Result<Response>, FetchError>,
        deadline: &mut Deadline,
    ) -> Result<Result<Response, String>, FetchError> {
        let peer = proxy.peer();
        let (ours, blame) = match sent {
            Ok(Ok(response)) if response.status() == 407 && proxy.is_asked_for(url) => {
                // Any host can answer that.
                if proxy.is_at_fault(Doubt::Oddity, url) {
                    return Ok(Err(format!("the proxy {peer} refuses its credentials")));
                }
                return Ok(Ok(response));
            }
            Ok(Ok(response)) => {
                proxy.worked();
                return Ok(Ok(response));
            }
            Ok(Err(error)) => {
                let ours = cause::of_request(&error, &self.target(url, Some(&peer)));
                let blame = cause::blame(&error, &ours, proxy, url);
                (ours, blame)
            }
            Err(silent) => (silent, Blame::Unclear(Doubt::Silence)),
        };
        let is_proxys = match blame {
            Blame::Host => false,
            Blame::Proxy => true,
            Blame::Unclear(Doubt::Silence) => {
                // If no time is left to try, it counts as one that can be reached.
                let reached = deadline.wait(self.can_be_reached(proxy), Timeout::Answer).await;
                reached == Ok(false) || proxy.is_at_fault(Doubt::Silence, url)
            }
            Blame::Unclear(doubt) => proxy.is_at_fault(doubt, url),
        };
        let named = || match &ours {
            FetchError::Refused { .. } | FetchError::Connect { .. } => ours.to_string(),
            _ => format!("the proxy {peer}: {ours}"),
        };
        if is_proxys { Ok(Err(named())) } else { Err(ours) }
    }

    /// Whether the proxy takes a connection, which tells its silence from a host's.
    async fn can_be_reached(&self, proxy: &Proxy) -> bool {
        let connecting = async {
            let addresses = self.names.names.lookup(&proxy.host).await.ok()?;
            let addresses = addresses.into_iter().map(|it| SocketAddr::new(it, proxy.port));
            TcpStream::connect(addresses.collect::<Vec<_>>().as_slice()).await.ok()
        };
        let limit = self.limits.connect.duration();
        timeout(limit, connecting).await.is_ok_and(|stream| stream.is_some())
    }

    /// Whether an address takes a connection, or at least refuses it.
    async fn reaches(&self, peer: SocketAddr) -> bool {
        let connecting = timeout(self.limits.connect.duration(), TcpStream::connect(peer));
        match connecting.await {
            Ok(Ok(_)) => true,
            Ok(Err(error)) => error.kind() == io::ErrorKind::ConnectionRefused,
            Err(_) => false,
        }
    }

    fn request(&self, url: &CrawlUrl, extras: &HeaderMap) -> Result<Request, FetchError> {
        let internal = |cause: String| FetchError::Internal { cause: cause.into() };
        let parsed = url.to_url().map_err(|error| internal(error.to_string()))?;
        let mut request = Request::new(Method::GET, parsed);
        let headers = request.headers_mut();
        if puts_host_first(url) {
            let host = HeaderValue::from_str(url.authority())
                .map_err(|error| internal(error.to_string()))?;
            headers.reserve(self.headers.len() + extras.len() + 1);
            headers.insert(HOST, host);
            headers.extend(self.headers.iter().map(|(name, value)| (name.clone(), value.clone())));
        } else {
            headers.clone_from(&self.headers);
        }
        for (name, value) in extras {
            headers.insert(name, value.clone());
        }
        Ok(request)
    }

    /// The request's head as it was sent, but without secrets. Of HTTP/2 it is the
    /// translation, and of a request to a proxy what the proxy is to send on.
    fn request_head(&self, url: &CrawlUrl, extras: &HeaderMap, version: Version) -> Vec<u8> {
        let (path, host) = (url.path_and_query().as_bytes(), url.authority().as_bytes());
        let host: [&[u8]; 3] = [b"host: ", host, b"\r\n"];
        let is_first = puts_host_first(url) || version == Version::HTTP_2;
        let (first, last) = if is_first { (host, [&[][..]; 3]) } else { ([&[][..]; 3], host) };

        let with_extras = || {
            let mut headers = self.headers.clone();
            headers.extend(extras.clone());
            header_lines(&headers)
        };
        let own = (!extras.is_empty()).then(with_extras);
        let lines = own.as_ref().unwrap_or(&self.header_lines);
        let start: [&[u8]; 3] = [b"GET ", path, b" HTTP/1.1\r\n"];
        let end: [&[u8]; 1] = [b"\r\n"];
        [&start[..], &first, &[lines], &last, &end].concat().concat()
    }

    fn target<'a>(&'a self, url: &'a CrawlUrl, proxy: Option<&'a str>) -> Target<'a> {
        Target { url, proxy, connect_limit: self.limits.connect }
    }
}

impl Route {
    /// The address that answered, which is not known behind a proxy.
    fn peer(&self, response: &Response, guard: &Guard) -> Result<Option<SocketAddr>, FetchError> {
        let address = response.remote_addr().filter(|_| self.proxy.is_none());
        if let Some(address) = address {
            guard.check(address.ip())?;
        }
        Ok(address)
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

/// The ways that a crawl's requests can go.
fn routes(spec: &CrawlSpec, names: &GuardedResolver) -> Result<Routes, SpecError> {
    let certificates = root_certificates();
    let by = |url: &ProxyUrl| {
        let odd = |cause: String| SpecError::new("proxy", url, cause);
        let reqwest = reqwest::Proxy::all(url.reveal())
            .map_err(|error| odd(cause::deepest(&error).to_string()))?;
        let proxy = Proxy::new(url)
            .filter(|_| is_understood(url))
            .ok_or_else(|| odd("a URL with a host that HTTP can read is allowed".into()))?;
        let names = GuardedResolver { proxy_host: Some((&*proxy.host).into()), ..names.clone() };
        let client = client(spec, names, certificates.clone(), Some(reqwest))?;
        Ok(Route { client, proxy: Some(proxy) })
    };
    let mut routes: Vec<Route> = spec.all_proxies().map(by).collect::<Result<_, SpecError>>()?;
    if routes.is_empty() {
        let client = client(spec, names.clone(), certificates, None)?;
        routes.push(Route { client, proxy: None });
    }
    Ok(Routes::new(routes))
}

/// Whether the client can read a proxy's URL. It reads it once more, as what HTTP takes
/// for a URI, and if it is none it uses no proxy, and says nothing.
fn is_understood(proxy: &ProxyUrl) -> bool {
    let Ok(url) = Url::parse(proxy.reveal()) else { return false };
    let uri = url.as_str().parse::<Uri>();
    uri.is_ok_and(|uri| uri.host().is_some_and(|host| !host.is_empty()))
}

fn client(
    spec: &CrawlSpec,
    resolver: GuardedResolver,
    certificates: Vec<Certificate>,
    proxy: Option<reqwest::Proxy>,
) -> Result<Client, SpecError> {
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
        .tls_certs_only(certificates)
        .tls_version_min(tls::Version::TLS_1_2);
    if let Some(proxy) = proxy {
        builder = builder.proxy(proxy);
    }
    // No setting of a crawl is known to make it fail.
    builder
        .build()
        .map_err(|error| SpecError::new("fetch", "HTTP", cause::deepest(&error).to_string()))
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
        let value = if value.is_sensitive() { REDACTED.as_bytes() } else { value.as_bytes() };
        [name.as_str().as_bytes(), b": ", value, b"\r\n"].concat()
    };
    headers.iter().flat_map(line).collect()
}

/// Name servers get four fifths of the time that a connection may take, so that
/// their silence is not mistaken for the host's.
fn dns_limit(connect: Span) -> Span {
    Span::millis(connect.as_millis() * 4 / 5)
}

#[cfg(test)]
mod tests;
