//! The robots rules that a lane goes by: those remembered here; or the robots.txt that
//! some worker fetched, which the master keeps; or, when that is a day old, a new one.
//!
//! A robots.txt that cannot be had allows nothing, but a host that once had one is
//! held to that, however old, and after thirty days without any a host counts as one
//! that has none (RFC 9309, 2.3.1.4 and 2.4).

use std::{io::Read, sync::Arc, time::Duration};

use flate2::read::ZlibDecoder;
use moka::sync::Cache;
use tokio::time::Instant;
use trawl_proto::v1::RobotsState;
use trawl_shared::{
    robots::Rules,
    url::{CrawlUrl, HostKey},
};

use crate::{
    crawls::ReadyCrawl,
    fetch::{Fetch, FetchError, RobotsTxt},
    pipeline::Worker,
};

/// How old a robots.txt may be.
const AGE_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// How long a host's old rules are gone by before a new robots.txt is asked for again.
const ASK_AGAIN: Duration = Duration::from_secs(60 * 60);

/// How long a robots.txt must not be had until the host counts as one without.
const UNAVAILABLE_MAX: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// Bytes that are read of a robots.txt that the master sends.
const TEXT_MAX: u64 = 1024 * 1024;

/// Bytes of rules that a host is reckoned to have. One with more counts as several
/// hosts in the cache.
const HOST_BYTES: usize = 8 * 1024;

/// A host, and the product token that its rules are for.
type Key = (HostKey, Arc<str>);

/// The rules of hosts lately fetched from; bounded.
#[derive(Clone, Debug)]
pub(crate) struct RobotsCache(Cache<Key, Remembered>);

/// A host's rules, and how long they are gone by.
#[derive(Clone, Debug)]
pub(crate) struct Remembered {
    pub(crate) rules: Arc<Rules>,
    until: Instant,
}

impl Remembered {
    /// Whether they are not too old yet.
    pub(crate) fn holds(&self, now: Instant) -> bool {
        now < self.until
    }
}

impl RobotsCache {
    /// An empty cache for that many hosts, the least used of which are forgotten.
    pub(crate) fn new(hosts: u64) -> Self {
        let cache =
            Cache::builder().max_capacity(hosts).weigher(|_, it: &Remembered| counts_as(&it.rules));
        Self(cache.build())
    }

    /// Forgets all rules.
    pub(crate) fn clear(&self) {
        self.0.invalidate_all();
    }

    fn get(&self, key: &Key, now: Instant) -> Option<Remembered> {
        self.0.get(key).filter(|it| it.holds(now))
    }

    fn insert(&self, key: Key, rules: Rules, until: Instant) -> Remembered {
        let remembered = Remembered { rules: Arc::new(rules), until };
        self.0.insert(key, remembered.clone());
        remembered
    }
}

/// As how many hosts the rules count in the cache.
fn counts_as(rules: &Rules) -> u32 {
    u32::try_from(1 + rules.weight() / HOST_BYTES).unwrap_or(u32::MAX)
}

/// How much longer a robots.txt of that age is good; none if it is too old.
fn left(age: Duration) -> Option<Duration> {
    AGE_MAX.checked_sub(age).filter(|left| !left.is_zero())
}

const fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// Where the rules of one host come from.
pub(crate) struct Source<'a, F> {
    worker: &'a Worker<F>,
    key: Key,
    host: u32,
    /// What the master knew when it lent the host.
    state: Option<RobotsState>,
}

impl<'a, F: Fetch> Source<'a, F> {
    pub(crate) fn new(
        worker: &'a Worker<F>,
        crawl: &ReadyCrawl<F>,
        host: u32,
        url: &CrawlUrl,
        state: Option<RobotsState>,
    ) -> Self {
        let key = (url.host_key(), Arc::from(crawl.spec.product_token()));
        Self { worker, key, host, state }
    }

    /// The rules, if a robots.txt that is not too old is known to anybody.
    pub(crate) async fn known(&self) -> Option<Remembered> {
        let now = Instant::now();
        if let Some(rules) = self.worker.robots.get(&self.key, now) {
            return Some(rules);
        }
        let state = self.state?;
        let (rules, left) = if state.age_ms.and_then(|age| left(millis(age))).is_some() {
            let (rules, age) = self.asked().await?;
            (rules, left(age)?)
        } else {
            // A robots.txt that is too old holds on only if the host was asked for a new one
            // less than an hour ago, by whatever worker, and did not give it.
            let left = ASK_AGAIN.checked_sub(millis(state.failed_ms?))?;
            (self.last_known(state).await?, left)
        };
        Some(self.worker.robots.insert(self.key.clone(), rules, now + left))
    }

    /// The rules of a host that does not give its robots.txt: the last that were had, or
    /// none at all after so long.
    async fn last_known(&self, state: RobotsState) -> Option<Rules> {
        if state.age_ms.is_some() {
            // Who had one is held to it, also while the master cannot be asked for it.
            return self.asked().await.map(|(rules, _)| rules);
        }
        let unavailable = state.unavailable_ms.map(millis)?;
        (unavailable >= UNAVAILABLE_MAX).then(Rules::allow_all)
    }

    /// The rules after the host was asked.
    pub(crate) async fn learn(
        &self,
        fetched: Result<RobotsTxt, FetchError>,
    ) -> Result<Remembered, FetchError> {
        let now = Instant::now();
        let keep = |rules, until| self.worker.robots.insert(self.key.clone(), rules, until);
        let error = match fetched {
            Ok(robots) => return Ok(keep(robots.rules(&self.key.1), now + AGE_MAX)),
            Err(error @ FetchError::RobotsUnavailable { .. }) => error,
            // Its pages would fail for the same reason.
            Err(error) => return Err(error),
        };
        let rules = self.last_known(self.state.unwrap_or_default()).await.ok_or(error)?;
        Ok(keep(rules, now + ASK_AGAIN))
    }

    /// The rules of the robots.txt that the master keeps, and its age. None if it cannot
    /// be asked: then the host is.
    async fn asked(&self) -> Option<(Rules, Duration)> {
        let reply = match self.worker.master.robots(self.host).await {
            Ok(reply) => reply,
            Err(error) => {
                tracing::debug!(%error, "the master was not asked for a robots.txt");
                return None;
            }
        };
        let age = millis(reply.state?.age_ms?);
        let mut text = Vec::new();
        if !reply.text.is_empty() {
            let mut text_of = ZlibDecoder::new(&reply.text[..]).take(TEXT_MAX);
            // Half a file would read as one that forbids less.
            text_of.read_to_end(&mut text).ok()?;
        }
        Some((Rules::parse(&text, &self.key.1), age))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_robots_txt_is_good_for_a_day() {
        let hours = |hours: u64| Duration::from_secs(hours * 60 * 60);
        assert_eq!(left(hours(0)), Some(hours(24)));
        assert_eq!(left(hours(23)), Some(hours(1)));
        assert_eq!((left(hours(24)), left(hours(25))), (None, None));
    }

    #[test]
    fn the_cache_is_bounded_by_hosts_and_by_size() {
        let now = Instant::now();
        let later = now + AGE_MAX;
        let key = |number: usize| -> Key {
            (HostKey::trusted(format!("http://{number}.example")), Arc::from("MyBot"))
        };
        let cache = RobotsCache::new(100);
        let small = Rules::parse(b"User-agent: *\nDisallow: /x", "MyBot");
        let kept = cache.insert(key(0), small.clone(), later);
        assert_eq!(cache.get(&key(0), now).unwrap().rules, kept.rules);
        assert!(cache.get(&key(0), later).is_none(), "it is too old then");
        assert!(cache.get(&(key(0).0, Arc::from("Other")), now).is_none());

        let many: String = (0..20_000).map(|n| format!("Disallow: /{n:06}\n")).collect();
        let large = Rules::parse(format!("User-agent: *\n{many}").as_bytes(), "MyBot");
        assert_eq!((counts_as(&small), counts_as(&Rules::allow_all())), (1, 1));
        assert!(counts_as(&large) > 50, "{}", counts_as(&large));
        for number in 0..1_000 {
            let rules = if number % 2 == 0 { &small } else { &large };
            cache.insert(key(number), rules.clone(), later);
        }
        cache.0.run_pending_tasks();
        assert!(cache.0.weighted_size() <= 100);
    }
}
