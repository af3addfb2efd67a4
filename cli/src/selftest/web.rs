//! A small web on loopback, made up as it is asked for: pages that lead to further pages for as
//! long as it grows, pages that are not there, redirects, and a host that is slow.
//!
//! What a URL answers follows from the seed, and from whether the web still grew when it was first
//! asked for; afterwards it never changes. The web notes what it has served and which links it has
//! given out: that is what a crawl must bring.

use std::{
    collections::{BTreeMap, BTreeSet},
    convert::Infallible,
    fmt::Write as _,
    io,
    net::Ipv4Addr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use fastrand::Rng;
use http::{
    Request, Response, StatusCode,
    header::{CONTENT_TYPE, LOCATION},
};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use sha1::{Digest as _, Sha1};
use tokio::{
    net::TcpListener,
    task::JoinSet,
    time::{Instant, sleep},
};

/// Hosts, each a port of its own. The last one is slow.
pub(super) const HOSTS: usize = 8;

/// What an answer takes, and what it takes on the slow host.
const ANSWER_TIMES: (Duration, Duration) = (Duration::from_millis(15), Duration::from_millis(120));

/// Pages of a host that wait to be fetched while the web grows: each leads to one more.
const WIDTH: u64 = 50;

/// Words of a page's text at most.
const WORDS_MAX: usize = 1_500;

/// A web that is being served, until dropped.
pub(super) struct Web {
    shared: Arc<Shared>,
    /// Ends with the value, and with it every connection.
    _servers: JoinSet<()>,
}

struct Shared {
    seed: u64,
    /// The first page of each host.
    roots: Vec<String>,
    log: Mutex<Log>,
}

/// What has happened so far.
struct Log {
    is_growing: bool,
    served: BTreeMap<String, Served>,
    /// URLs that pages lead to, and the first pages.
    linked: BTreeSet<String>,
    requests: u64,
    hosts: [HostLog; HOSTS],
}

#[derive(Clone, Copy, Default)]
struct HostLog {
    /// When it was last asked for something.
    asked: Option<Instant>,
    /// Requests under way, and the most at a time.
    busy: u32,
    most_busy: u32,
}

/// What a URL answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Served {
    /// The HTTP status.
    pub(super) status: u16,
    /// SHA-1 of the body.
    pub(super) sha1: [u8; 20],
    /// Whether it leads nowhere, because the web grew no more.
    is_leaf: bool,
}

#[cfg(test)]
impl Served {
    pub(super) fn for_test(status: u16, sha1: [u8; 20]) -> Self {
        Self { status, sha1, is_leaf: false }
    }
}

/// What the web knows in the end.
pub(super) struct Account {
    /// All that was served, by URL.
    pub(super) served: BTreeMap<String, Served>,
    /// Every URL that a crawl must have found.
    pub(super) linked: BTreeSet<String>,
    /// Requests for the same URL beyond the first.
    pub(super) again: u64,
    /// The most requests to one host at the same time.
    pub(super) most_at_once: u32,
}

/// An answer before it is sent.
struct Answer {
    status: StatusCode,
    location: Option<String>,
    body: String,
    links: Vec<String>,
}

impl Web {
    /// Serves a web on free ports of 127.0.0.1.
    ///
    /// # Errors
    /// If the system does not let it listen.
    pub(super) async fn serve(seed: u64) -> io::Result<Self> {
        let (mut listeners, mut roots) = (Vec::new(), Vec::new());
        for _ in 0..HOSTS {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
            roots.push(format!("http://{}/", listener.local_addr()?));
            listeners.push(listener);
        }
        let log = Log {
            is_growing: true,
            served: BTreeMap::new(),
            linked: roots.iter().cloned().collect(),
            requests: 0,
            hosts: [HostLog::default(); HOSTS],
        };
        let shared = Arc::new(Shared { seed, roots, log: Mutex::new(log) });
        let mut servers = JoinSet::new();
        for (host, listener) in listeners.into_iter().enumerate() {
            servers.spawn(accept(listener, host, Arc::clone(&shared)));
        }
        Ok(Self { shared, _servers: servers })
    }

    /// Where a crawl of all of it starts.
    pub(super) fn seeds(&self) -> Vec<String> {
        self.shared.roots.clone()
    }

    /// From now on new pages lead nowhere.
    pub(super) fn stop_growing(&self) {
        self.shared.log().is_growing = false;
    }

    /// Whether each of these hosts (scheme, host and port) was asked for something after a moment.
    pub(super) fn was_asked_since(&self, moment: Instant, hosts: &[String]) -> bool {
        let log = self.shared.log();
        let asked = |host: &String| {
            let roots = self.shared.roots.iter();
            let place = roots.map(|root| root.trim_end_matches('/')).position(|root| root == host);
            place.is_none_or(|place| log.hosts[place].asked.is_some_and(|asked| asked > moment))
        };
        hosts.iter().all(asked)
    }

    /// What the web knows now.
    pub(super) fn account(&self) -> Account {
        let log = self.shared.log();
        Account {
            served: log.served.clone(),
            linked: log.linked.clone(),
            again: log.requests - log.served.len() as u64,
            most_at_once: log.hosts.iter().map(|host| host.most_busy).max().unwrap_or_default(),
        }
    }
}

/// Takes a host's connections.
async fn accept(listener: TcpListener, host: usize, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        // A connection that was given up before it was taken is not missed.
        let Ok((stream, _)) = listener.accept().await else { continue };
        while connections.try_join_next().is_some() {}
        let shared = Arc::clone(&shared);
        connections.spawn(async move {
            let answer = service_fn(|request: Request<Incoming>| {
                let (shared, path) = (Arc::clone(&shared), request.uri().path().to_owned());
                async move { Ok::<_, Infallible>(shared.answer(host, &path).await) }
            });
            // A worker that is killed leaves its connections in the middle.
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), answer).await;
        });
    }
}

/// A request under way, until dropped.
struct Visit<'a> {
    shared: &'a Shared,
    host: usize,
}

impl Drop for Visit<'_> {
    fn drop(&mut self) {
        self.shared.log().hosts[self.host].busy -= 1;
    }
}

impl Shared {
    async fn answer(&self, host: usize, path: &str) -> Response<Full<Bytes>> {
        let (answer, visit) = self.begin(host, path);
        let (usual, slow) = ANSWER_TIMES;
        sleep(if host + 1 == HOSTS { slow } else { usual }).await;
        drop(visit);
        let mut response = Response::new(Full::from(answer.body));
        *response.status_mut() = answer.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, http::HeaderValue::from_static("text/html; charset=utf-8"));
        if let Some(location) = answer.location.and_then(|location| location.try_into().ok()) {
            headers.insert(LOCATION, location);
        }
        response
    }

    /// Notes a request, and makes its answer.
    fn begin(&self, host: usize, path: &str) -> (Answer, Visit<'_>) {
        let mut log = self.log();
        let url = format!("{}{path}", self.roots[host].trim_end_matches('/'));
        let known = log.served.get(&url).map(|served| served.is_leaf);
        let is_leaf = known.unwrap_or(!log.is_growing);
        let answer = self.make(host, path, is_leaf);
        if known.is_none() {
            let sha1 = Sha1::digest(&answer.body).into();
            log.served.insert(url, Served { status: answer.status.as_u16(), sha1, is_leaf });
            log.linked.extend(answer.links.iter().cloned());
            log.linked.extend(answer.location.clone());
        }
        log.requests += 1;
        let host_log = &mut log.hosts[host];
        host_log.asked = Some(Instant::now());
        host_log.busy += 1;
        host_log.most_busy = host_log.most_busy.max(host_log.busy);
        (answer, Visit { shared: self, host })
    }

    fn make(&self, host: usize, path: &str, is_leaf: bool) -> Answer {
        let root = self.roots[host].trim_end_matches('/');
        let number = |path: &str| path.parse::<u64>().ok();
        let place = path.trim_start_matches('/');
        if let Some(number) = place.strip_prefix("old/").and_then(number) {
            return Answer {
                status: StatusCode::FOUND,
                location: Some(format!("{root}/{number}")),
                body: format!("<title>moved {number}</title>"),
                links: Vec::new(),
            };
        }
        let number = if place.is_empty() { Some(0) } else { number(place) };
        let Some(number) = number else {
            return Answer {
                status: StatusCode::NOT_FOUND,
                location: None,
                body: format!("<title>nothing at {path}</title>"),
                links: Vec::new(),
            };
        };
        let mut links = vec![self.roots[host].clone(), self.roots[(host + 1) % HOSTS].clone()];
        if !is_leaf {
            let further = if number == 0 { 1..=WIDTH } else { number + WIDTH..=number + WIDTH };
            links.extend(further.map(|number| format!("{root}/{number}")));
            if number % 10 == 3 {
                links.push(format!("{root}/missing/{number}"));
            }
            if number % 10 == 7 {
                links.push(format!("{root}/old/{number}"));
            }
        }
        let body = self.page(host, number, &links);
        Answer { status: StatusCode::OK, location: None, body, links }
    }

    fn page(&self, host: usize, number: u64, links: &[String]) -> String {
        let place = (host as u64) << 48 | number;
        let mut rng = Rng::with_seed(self.seed ^ place.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let mut html = format!("<!DOCTYPE html>\n<title>page {number}</title>\n<p>");
        for _ in 0..rng.usize(20..WORDS_MAX) {
            let _ = write!(html, "{:x} ", rng.u32(..));
        }
        for link in links {
            let _ = write!(html, "\n<p><a href=\"{link}\">{link}</a>");
        }
        html
    }

    fn log(&self) -> MutexGuard<'_, Log> {
        // Every change of it is complete.
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
