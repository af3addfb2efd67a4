//! Which way a request goes: straight, or through one of the crawl's proxies.
//!
//! A host is fetched through the same proxy as long as that one works, so that it sees
//! one visitor; which one that is follows from the names alone, and is the same for all
//! workers. A proxy that fails several times in a row rests, longer each time, and its
//! hosts go through others meanwhile. What the host did wrong is never the proxy's
//! failure, nor the other way round.

use std::{
    collections::hash_map::DefaultHasher,
    hash::{Hash, Hasher},
    sync::{Mutex, MutexGuard, PoisonError},
};

use reqwest::Client;
use tokio::time::{Duration, Instant};
use trawl_shared::{secret::ProxyUrl, url::CrawlUrl};
use url::Url;

use super::FetchError;

/// Failures in a row after which a proxy rests.
const FAILURES_MAX: u32 = 3;

/// Sites in a row that must have been silent through a proxy before it is the proxy
/// that is silent, ...
const SILENT_SITES: usize = 3;

/// ... and that must have sent what no site sends before it is the proxy that does.
const ODD_SITES: usize = 2;

/// The first rest of a proxy, and the longest.
const RESTS: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(5 * 60));

/// Proxies that one fetch tries at most.
pub(super) const TRIES_MAX: usize = 3;

/// One way, with the connections that go by it.
pub(super) struct Route {
    pub(super) client: Client,
    pub(super) proxy: Option<Proxy>,
}

/// A proxy, and how it does.
pub(super) struct Proxy {
    /// Its host, in lower case.
    pub(super) host: String,
    pub(super) port: u16,
    kind: Kind,
    /// All of its URL. Services that rotate their addresses are told apart by the
    /// user's name alone.
    url: ProxyUrl,
    health: Mutex<Health>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Http,
    Socks,
}

/// What a host behind a proxy can do as well as the proxy itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Doubt {
    /// To say nothing.
    Silence,
    /// To ask for the proxy's credentials, to break off, or to send what is no HTTP.
    Oddity,
}

impl Doubt {
    /// The sites in a row after which it is the proxy's doing. One site, with as many
    /// names as it likes, must not be able to put a proxy to rest.
    const fn sites(self) -> usize {
        match self {
            Self::Silence => SILENT_SITES,
            Self::Oddity => ODD_SITES,
        }
    }
}

/// How a proxy has done since it last answered.
#[derive(Debug, Default)]
struct Health {
    failures: u32,
    rests_until: Option<Instant>,
    /// The different sites by which it is in doubt; of each kind no more than count.
    doubts: Vec<(Doubt, String)>,
}

/// The ways of one crawl: the straight one, or those of its proxies.
pub(super) struct Routes(Vec<Route>);

impl Routes {
    pub(super) fn new(routes: Vec<Route>) -> Self {
        Self(routes)
    }

    /// The way for a request to this host, without those that were `tried` and those
    /// that rest.
    ///
    /// # Errors
    /// If none is left.
    pub(super) fn to(
        &self,
        host: &str,
        tried: &[usize],
        now: Instant,
    ) -> Result<usize, FetchError> {
        let open = (0..self.0.len()).filter(|number| !tried.contains(number));
        let awake = open.filter(|number| match &self.0[*number].proxy {
            Some(proxy) => !proxy.rests(now),
            None => true,
        });
        let best = awake.max_by_key(|number| self.weight(*number, host));
        best.ok_or_else(|| FetchError::Proxy { cause: "all proxies rest after failures".into() })
    }

    /// Whether requests go through proxies.
    pub(super) fn by_proxy(&self) -> bool {
        self.0.iter().any(|route| route.proxy.is_some())
    }

    pub(super) fn get(&self, number: usize) -> &Route {
        &self.0[number]
    }

    /// Chance that is always the same: the way with the most goes first.
    fn weight(&self, number: usize, host: &str) -> u64 {
        let mut hasher = DefaultHasher::new();
        let proxy = self.0[number].proxy.as_ref();
        proxy.map(|proxy| proxy.url.reveal()).hash(&mut hasher);
        host.hash(&mut hasher);
        hasher.finish()
    }
}

impl Proxy {
    /// A proxy that has not been used. None if the text is no URL with a host.
    pub(super) fn new(proxy: &ProxyUrl) -> Option<Self> {
        let url = Url::parse(proxy.reveal()).ok()?;
        let is_socks = url.scheme().starts_with("socks");
        let default = if is_socks { 1080 } else { 80 };
        Some(Self {
            host: url.host_str()?.to_ascii_lowercase(),
            port: url.port_or_known_default().unwrap_or(default),
            kind: if is_socks { Kind::Socks } else { Kind::Http },
            url: proxy.clone(),
            health: Mutex::default(),
        })
    }

    /// Its host and port, as messages name it.
    pub(super) fn peer(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }

    /// Whether a connection for this URL is one to the proxy alone: it is asked for the
    /// page, and not for a tunnel to the host.
    pub(super) fn is_asked_for(&self, url: &CrawlUrl) -> bool {
        self.kind == Kind::Http && url.scheme() == "http"
    }

    /// It answered.
    pub(super) fn worked(&self) {
        *self.lock() = Health::default();
    }

    /// Whether it is the proxy's failure, and not the host's, that a request for this URL
    /// met what either may have done: it is if different sites met it in a row. Each of
    /// them then counts as a failure.
    pub(super) fn is_at_fault(&self, doubt: Doubt, url: &CrawlUrl) -> bool {
        let mut health = self.lock();
        let of_kind = || health.doubts.iter().filter(|(kind, _)| *kind == doubt);
        let count = of_kind().count();
        if count == doubt.sites() {
            return true;
        }
        let site = url.domain();
        if of_kind().any(|(_, known)| known == site) {
            return false;
        }
        health.doubts.push((doubt, site.to_owned()));
        if count + 1 < doubt.sites() {
            return false;
        }
        // This request's failure is still to be counted.
        health.failures = health.failures.max(u32::try_from(count).unwrap_or(u32::MAX));
        true
    }

    /// It failed.
    pub(super) fn failed(&self, now: Instant) {
        let mut health = self.lock();
        // Requests that were on their way together fail together, and count once.
        if health.rests_until.is_some_and(|until| now < until) {
            return;
        }
        health.failures = health.failures.saturating_add(1);
        if let Some(beyond) = health.failures.checked_sub(FAILURES_MAX) {
            let rest = RESTS.0.saturating_mul(1 << beyond.min(16)).min(RESTS.1);
            health.rests_until = Some(now + rest);
            tracing::warn!(proxy = self.peer(), ?rest, "a proxy failed and rests");
        }
    }

    fn rests(&self, now: Instant) -> bool {
        self.lock().rests_until.is_some_and(|until| now < until)
    }

    fn lock(&self) -> MutexGuard<'_, Health> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn routes(proxies: &[&str]) -> Routes {
        let route = |url: &&str| {
            let proxy = Proxy::new(&ProxyUrl::from(*url));
            Route { client: Client::new(), proxy }
        };
        Routes(proxies.iter().map(route).collect())
    }

    fn three() -> Routes {
        routes(&["http://a.example:3128", "https://b.example", "socks5://u:p@c.example"])
    }

    fn proxy(routes: &Routes, number: usize) -> &Proxy {
        routes.get(number).proxy.as_ref().unwrap()
    }

    #[test]
    fn a_proxys_host_and_port_are_found() {
        for (url, peer) in [
            ("http://Proxy.example", "proxy.example:80"),
            ("https://proxy.example", "proxy.example:443"),
            ("socks5://u:p@Proxy.example", "proxy.example:1080"),
            ("socks5h://127.0.0.1:9050", "127.0.0.1:9050"),
        ] {
            assert_eq!(Proxy::new(&url.into()).unwrap().peer(), peer);
        }
        assert!(Proxy::new(&"http://".into()).is_none());
    }

    #[test]
    fn a_host_keeps_its_proxy_and_hosts_spread_over_all() {
        let (routes, now) = (three(), Instant::now());
        let mut counts = [0; 3];
        for number in 0..300 {
            let host = format!("host{number}.example");
            let route = routes.to(&host, &[], now).unwrap();
            assert_eq!(routes.to(&host, &[], now), Ok(route));
            assert_ne!(routes.to(&host, &[route], now), Ok(route));
            counts[route] += 1;
        }
        assert!(counts.iter().all(|count| *count > 60), "{counts:?}");
        assert!(routes.to("a.example", &[0, 1, 2], now).is_err());
    }

    #[test]
    fn a_proxy_that_fails_rests_longer_each_time_and_then_gets_its_hosts_back() {
        let routes = three();
        let mut now = Instant::now();
        let first = routes.to("host.example", &[], now).unwrap();
        for rest in [10, 20, 40, 80, 160, 300, 300] {
            let proxy = proxy(&routes, first);
            while routes.to("host.example", &[], now) == Ok(first) {
                proxy.failed(now);
            }
            proxy.failed(now);
            now += Duration::from_secs(rest) - Duration::from_millis(1);
            assert_ne!(routes.to("host.example", &[], now), Ok(first), "{rest}");
            now += Duration::from_millis(1);
            assert_eq!(routes.to("host.example", &[], now), Ok(first), "{rest}");
        }
        proxy(&routes, first).worked();
        proxy(&routes, first).failed(now);
        assert_eq!(routes.to("host.example", &[], now), Ok(first));
    }

    #[test]
    fn users_of_one_gateway_are_different_proxies() {
        let routes = routes(&["http://user1:p@gw.example:8000", "http://user2:p@gw.example:8000"]);
        let now = Instant::now();
        let second = (0..100)
            .filter(|number| routes.to(&format!("host{number}.example"), &[], now) == Ok(1));
        assert!((20..=80).contains(&second.count()));
    }

    #[test]
    fn what_a_host_may_have_done_is_the_proxys_once_different_sites_met_it() {
        let url = |host: &str| CrawlUrl::parse(&format!("http://{host}/")).unwrap();
        for (doubt, needed) in [(Doubt::Silence, 3), (Doubt::Oddity, 2)] {
            let (routes, now) = (routes(&["http://a.example"]), Instant::now());
            let proxy = proxy(&routes, 0);
            for name in 0..50 {
                let host = format!("www{name}.hostile.example");
                assert!(!proxy.is_at_fault(doubt, &url(&host)), "{doubt:?}: one site, many names");
            }
            for number in 2..needed {
                assert!(!proxy.is_at_fault(doubt, &url(&format!("site{number}.example"))));
            }
            assert!(proxy.is_at_fault(doubt, &url("last.example")), "{doubt:?}");
            assert!(proxy.is_at_fault(doubt, &url("hostile.example")), "now it is known");
            proxy.failed(now);
            assert_eq!(proxy.rests(now), doubt == Doubt::Silence, "{doubt:?}");
            proxy.failed(now);
            assert!(proxy.rests(now), "{doubt:?}");
            proxy.worked();
            assert!(!proxy.is_at_fault(doubt, &url("last.example")), "{doubt:?}: all is forgiven");
        }
    }

    #[test]
    fn when_all_rest_there_is_no_way() {
        let (routes, now) = (three(), Instant::now());
        for number in [0, 1, 2].repeat(3) {
            proxy(&routes, number).failed(now);
        }
        let error = routes.to("host.example", &[], now).unwrap_err();
        assert_eq!(error.to_string(), "all proxies rest after failures");
        let straight = Routes(vec![Route { client: Client::new(), proxy: None }]);
        assert_eq!(straight.to("host.example", &[], now), Ok(0));
    }
}
