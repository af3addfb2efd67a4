//! Where the crawls stand, told from counts that are kept, and what became of a
//! URL.

use std::{cmp::Reverse, sync::Arc, time::Duration};

use trawl_shared::{
    outcome::Class,
    spec::CrawlSpec,
    url::{CrawlUrl, UrlId},
};

use super::{Crawl, Frontier, FrontierError, Host, Moment};
use crate::store::{
    Store,
    keys::{self, HostRef},
    rows::{Finish, GateRow, UrlRow, UrlState, Wish},
};

/// Failures that a crawl remembers for its status.
const TROUBLES_MAX: usize = 10;

/// What a host waits for that is in a group's line.
const IN_LINE: &str =
    "as many hosts of its address, domain or group are visited as may be at the same time";

/// A recent end without an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// The URL.
    pub url: String,
    /// Its class.
    pub class: Class,
    /// What happened.
    pub detail: String,
}

/// Where a crawl stands.
#[derive(Clone, Debug)]
pub struct CrawlStatus {
    /// The crawl's number.
    pub crawl: u32,
    /// The crawl's name.
    pub name: String,
    /// How it finished, or that it runs.
    pub finish: Finish,
    /// URLs ever admitted.
    pub discovered: u64,
    /// URLs waiting.
    pub queued: u64,
    /// URLs lent to workers.
    pub leased: u64,
    /// Ended URLs by class; only those that occurred.
    pub outcomes: Vec<(Class, u64)>,
    /// Failed tries after which another was due.
    pub retries: u64,
    /// Bytes of bodies after content decoding.
    pub body_bytes: u64,
    /// Bytes of bodies as received.
    pub wire_bytes: u64,
    /// Hosts seen.
    pub hosts: u64,
    /// Hosts lent now.
    pub hosts_busy: u64,
    /// Milliseconds that it has been running.
    pub ran_ms: u64,
    /// Reports that had counted before.
    pub reports_already: u64,
    /// Reports of URLs that were no longer the worker's.
    pub reports_stale: u64,
    /// Leases that ran out.
    pub leases_expired: u64,
    /// Leases of URLs that an earlier lease was lost with.
    pub leases_recovered: u64,
    /// Leases that a start of the master found, and kept.
    pub leases_kept: u64,
    /// The newest failures, newest first.
    pub troubles: Vec<Trouble>,
    /// What people want of it.
    pub wish: Wish,
    /// Bytes of its pages' records.
    pub stored_bytes: u64,
}

/// A host that has something queued or lent.
#[derive(Clone, Debug)]
pub struct HostStatus {
    /// The crawl's name.
    pub crawl: String,
    /// Scheme, host and port.
    pub key: String,
    /// URLs waiting.
    pub queued: u64,
    /// URLs lent.
    pub leased: u64,
    /// Pages fetched.
    pub pages: u64,
    /// The wait between two visits.
    pub delay: Duration,
    /// From when on it may be fetched from; none while it is lent, and while it waits for a
    /// place in its group.
    pub ready: Option<Moment>,
    /// The worker that has it in this crawl.
    pub worker: Option<Arc<str>>,
    /// Why it is left alone; empty if it is not.
    pub rests: String,
}

impl<S: Store> Frontier<S> {
    /// Where the crawls stand; one, if it is named.
    pub fn status(&self, name: Option<&str>) -> Vec<CrawlStatus> {
        let asked = |crawl: &Crawl| name.is_none_or(|name| crawl.row.name == name);
        let crawls = self.crawls.iter().filter(|(_, crawl)| asked(crawl));
        crawls.map(|(number, crawl)| crawl.status(*number)).collect()
    }

    /// The hosts in memory, of one crawl or all, whose key contains a text: those
    /// with the most URLs open first, `limit` at most. Also how many there are.
    pub fn hosts(
        &self,
        crawl: Option<&str>,
        contains: &str,
        limit: usize,
        now: Moment,
    ) -> (Vec<HostStatus>, u64) {
        let named = |at: &HostRef| {
            let name = self.crawls.get(&at.crawl).map(|crawl| crawl.row.name.as_str());
            crawl.is_none() || name == crawl
        };
        let open = |host: &Host| host.row.queued + host.leased.len() as u64;
        let mut matching: Vec<_> = self
            .hosts
            .iter()
            .filter(|(at, host)| named(at) && host.row.key.contains(contains))
            .map(|(at, host)| (Reverse(open(host)), *at))
            .collect();
        let matched = matching.len() as u64;
        if limit < matching.len() {
            matching.select_nth_unstable(limit);
            matching.truncate(limit);
        }
        matching.sort_unstable();
        let told = matching.into_iter().filter_map(|(_, at)| self.host_status(at, now));
        (told.collect(), matched)
    }

    pub(super) fn host_status(&self, at: HostRef, now: Moment) -> Option<HostStatus> {
        let (crawl, host) = (self.crawls.get(&at.crawl)?, self.hosts.get(&at)?);
        let lease = host.leased.values().next().and_then(|token| self.leases.get(token));
        Some(HostStatus {
            crawl: crawl.row.name.clone(),
            key: host.row.key.clone(),
            queued: host.row.queued,
            leased: host.leased.len() as u64,
            pages: host.row.pages,
            delay: self.host_delay(at),
            ready: if host.in_line { None } else { host.ready.or_else(|| self.host_ready(at)) },
            worker: lease.map(|lease| Arc::clone(&lease.worker)),
            rests: match left_alone(self.known(at.host), now) {
                rests if rests.is_empty() && host.in_line => IN_LINE.to_owned(),
                rests => rests,
            },
        })
    }

    /// A crawl's name, specification version and specification.
    pub fn specification(&self, crawl: u32) -> Option<Specification> {
        let crawl = self.crawls.get(&crawl)?;
        Some(Specification {
            name: crawl.row.name.clone(),
            version: crawl.row.spec_version,
            spec: Arc::clone(&crawl.spec),
            json: Arc::clone(&crawl.spec_json),
            anchors: crawl.anchors.iter().cloned().collect(),
        })
    }

    /// What is known of a URL in a crawl.
    ///
    /// # Errors
    /// If the store fails.
    pub fn look_up(&self, crawl: u32, url: &CrawlUrl) -> Result<Option<UrlState>, FrontierError> {
        let url = self.canonical(crawl, url);
        let Some(host) = self.known_host(url.host_key_str())? else { return Ok(None) };
        let key = keys::url(HostRef { crawl, host }, &UrlId::of(url.as_str()));
        let row: Option<UrlRow> = self.changes.get(&self.store, &key)?;
        Ok(row.and_then(|row| row.state))
    }
}

/// A crawl's specification, as a worker asks for it.
#[derive(Clone, Debug)]
pub struct Specification {
    /// The crawl's name.
    pub name: String,
    /// Rises with every change.
    pub version: u32,
    /// The specification.
    pub spec: Arc<CrawlSpec>,
    /// The same as JSON.
    pub json: Arc<str>,
    /// What the scope hangs on.
    pub anchors: Vec<String>,
}

impl Crawl {
    fn status(&self, number: u32) -> CrawlStatus {
        let row = &self.row;
        CrawlStatus {
            crawl: number,
            name: row.name.clone(),
            finish: Finish::try_from(row.finish).unwrap_or(Finish::Running),
            discovered: row.discovered,
            queued: row.queued,
            leased: row.leased,
            outcomes: Class::all()
                .map(|class| (class, self.outcome(class)))
                .filter(|(_, count)| *count > 0)
                .collect(),
            retries: row.retries,
            body_bytes: row.body_bytes,
            wire_bytes: row.wire_bytes,
            hosts: row.hosts,
            hosts_busy: self.busy_hosts,
            ran_ms: row.ran_ms,
            reports_already: row.reports_already,
            reports_stale: row.reports_stale,
            leases_expired: row.leases_expired,
            leases_recovered: row.leases_recovered,
            leases_kept: row.leases_kept,
            troubles: self.troubles.iter().cloned().collect(),
            wish: Wish::try_from(row.wish).unwrap_or(Wish::Run),
            stored_bytes: row.stored_bytes,
        }
    }

    /// Remembers a failure for the status.
    pub(super) fn note_trouble(&mut self, url: &str, class: Class, detail: &str) {
        self.troubles.truncate(TROUBLES_MAX - 1);
        self.troubles.push_front(Trouble { url: url.to_owned(), class, detail: detail.to_owned() });
    }
}

/// Why a host is left alone now, of which so much is known; empty if it is not.
pub(super) fn left_alone(row: Option<&GateRow>, now: Moment) -> String {
    match row {
        Some(row) if row.blocked && row.blocked_reason.is_empty() => "blocked".to_owned(),
        Some(row) if row.blocked => format!("blocked: {}", row.blocked_reason),
        Some(row) if row.rests_until > now.0 => {
            let wait = Duration::from_millis(row.rests_until - now.0).as_secs_f64();
            let (failures, trouble) = (row.failures, &row.trouble);
            format!("rests for {wait:.1} s after {failures} failures in a row: {trouble}")
        }
        _ => String::new(),
    }
}
