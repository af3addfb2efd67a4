//! How a host is treated: how long to wait after an answer, and how long to leave it
//! alone when it is in trouble. The worker waits by these rules while it has a host,
//! the master before it lends the host again.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{
    host_pattern::HostPattern,
    outcome::FailureKind,
    spec::{CrawlSpec, SPAN_MAX, SpecError},
    units::Span,
    url::CrawlUrl,
};

/// Groups of one crawl at most, and patterns of one group.
const GROUPS_MAX: usize = 100;

/// Hosts of a group that may be visited at the same time, at most: the master remembers
/// the rest of each place.
const HOSTS_AT_ONCE_MAX: u32 = 10_000;

/// Hosts that share a budget, because somebody says so: their owner's machines, or an
/// intranet behind one gateway. It takes the place of the budgets of their addresses and
/// domains.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GroupRule {
    /// The group's name; crawls that use the same name share the budget.
    pub name: String,
    /// Its hosts.
    pub hosts: Vec<HostPattern>,
    /// How many of them are visited at the same time.
    #[serde(default = "one")]
    pub hosts_at_once: u32,
    /// The wait after a visit of one of them until the next one has its place.
    #[serde(default)]
    pub delay: Span,
}

const fn one() -> u32 {
    1
}

/// The group of the crawl's that a host is of, in place of those of its address and
/// domain.
pub fn named_group<'a>(spec: &'a CrawlSpec, url: &CrawlUrl) -> Option<&'a GroupRule> {
    spec.groups.iter().find(|group| group.has(url))
}

impl GroupRule {
    /// Whether the URL's host is of the group.
    pub fn has(&self, url: &CrawlUrl) -> bool {
        self.hosts.iter().any(|hosts| hosts.matches(url))
    }
}

/// Checks a crawl's groups.
///
/// # Errors
/// With the first setting that cannot be.
pub(crate) fn check_groups(groups: &[GroupRule]) -> Result<(), SpecError> {
    if groups.len() > GROUPS_MAX {
        let allowed = format!("at most {GROUPS_MAX} groups are allowed");
        return Err(SpecError::new("groups", groups.len(), allowed));
    }
    for group in groups {
        if group.name.is_empty() || group.name.len() > 64 {
            let allowed = "a name of 1 to 64 bytes is allowed";
            return Err(SpecError::new("groups.name", &group.name, allowed));
        }
        if group.hosts.is_empty() || group.hosts.len() > GROUPS_MAX {
            let allowed = format!("1 to {GROUPS_MAX} patterns of hosts are allowed");
            return Err(SpecError::new("groups.hosts", group.hosts.len(), allowed));
        }
        if group.hosts_at_once == 0 || group.hosts_at_once > HOSTS_AT_ONCE_MAX {
            let allowed = format!("1 to {HOSTS_AT_ONCE_MAX} is allowed");
            return Err(SpecError::new("groups.hosts_at_once", group.hosts_at_once, allowed));
        }
        if group.delay > SPAN_MAX {
            let allowed = format!("0s to {SPAN_MAX} is allowed");
            return Err(SpecError::new("groups.delay", group.delay, allowed));
        }
    }
    Ok(())
}

/// The longest that a host may ask to be left alone.
pub const REST_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// The wait after an answer that took so long: `delay_factor` times as long, but at
/// most `delay_stretch` times the crawl's delay. A host that answers slowly is asked
/// less often, and a crawl without a delay is not slowed down.
pub fn adaptive_delay(spec: &CrawlSpec, answer: Duration) -> Duration {
    let most = spec.delay.duration().saturating_mul(spec.delay_stretch);
    answer.saturating_mul(spec.delay_factor).min(most)
}

/// Whether a failure speaks of the whole host: it would meet the host's other URLs too.
pub const fn is_about_the_host(kind: FailureKind) -> bool {
    match kind {
        FailureKind::NoSuchHost
        | FailureKind::Dns
        | FailureKind::Connect
        | FailureKind::Tls
        | FailureKind::Timeout
        | FailureKind::Broken
        | FailureKind::RobotsUnavailable => true,
        FailureKind::Protocol
        | FailureKind::Busy
        | FailureKind::Disallowed
        | FailureKind::ForbiddenAddress
        | FailureKind::Internal
        | FailureKind::Proxy => false,
    }
}

/// Whether a host that answers with this status asks for rest as a whole: 429 (RFC
/// 6585, too many requests) and 503 (RFC 9110, unavailable).
pub const fn asks_for_rest(status: u16) -> bool {
    matches!(status, 429 | 503)
}

/// How long a host is left alone after so many failures in a row, the first counted
/// as 1: `retry_wait`, doubled from one to the next, at most `retry_wait_max`; or as
/// long as the host itself asks for, if that is longer, at most [`REST_MAX`].
pub fn rest(spec: &CrawlSpec, failures: u32, asked: Option<Duration>) -> Duration {
    let (base, max) = (spec.retry_wait.duration(), spec.retry_wait_max.duration());
    crate::backoff::wait(failures, base, max, 0.0).max(asked.unwrap_or_default().min(REST_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::Span;

    #[test]
    fn a_slow_host_is_asked_less_often_within_bounds() {
        let spec = CrawlSpec { delay: Span::secs(1), ..CrawlSpec::default() };
        let wait = |millis| adaptive_delay(&spec, Duration::from_millis(millis));
        assert_eq!(wait(100), Duration::from_millis(500));
        assert_eq!(wait(1_000), Duration::from_secs(5));
        assert_eq!(wait(30_000), Duration::from_secs(10), "ten times the delay at most");
        let fast = CrawlSpec { delay: Span::secs(0), ..spec };
        assert_eq!(adaptive_delay(&fast, Duration::from_secs(30)), Duration::ZERO);
    }

    #[test]
    fn a_host_in_trouble_rests_longer_from_time_to_time() {
        let spec = CrawlSpec::default();
        let secs = |failures, asked: Option<u64>| {
            rest(&spec, failures, asked.map(Duration::from_secs)).as_secs()
        };
        assert_eq!([1, 2, 3, 4].map(|failures| secs(failures, None)), [5, 10, 20, 40]);
        assert_eq!(secs(30, None), 300);
        assert_eq!(secs(1, Some(120)), 120);
        assert_eq!(secs(3, Some(2)), 20, "its own wish does not shorten the wait");
        assert_eq!(secs(1, Some(1_000_000)), 86_400);
    }
}
