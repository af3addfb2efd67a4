//! What must hold after any run, read from what the disk, the web and the workers wrote
//! down.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    path::Path,
    time::Duration,
};

use prost::Message;
use serde::{Deserialize, Serialize};
use trawl_master::{
    pages::{Committed, CrawlPages, Place, Scan},
    store::{
        Batch,
        keys::{self, HostRef, Slot},
        rows::{CrawlRow, Finish, HostRow, LeaseRow, QueueRow, UrlRow, UrlState},
    },
};
use trawl_proto::v1::url_report::Outcome;
use trawl_shared::url::{CrawlUrl, UrlId};

use crate::{
    disk::{Event, Map, apply},
    web::{Visit, Web},
    wire::Acknowledged,
};

/// What is promised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Invariant {
    /// What the master has acknowledged is there, whatever happens.
    NothingLost,
    /// A URL has one page record at most in a crawl.
    NothingTwice,
    /// A URL is lent to one worker at a time, and nobody else fetches it then.
    OneLease,
    /// Two visits of a host are as far apart as its delay.
    Politeness,
    /// A report under a token that is no longer good changes nothing.
    Fencing,
    /// When nothing goes wrong any more, the crawl ends, and as it should.
    Completion,
    /// Discovered is queued and leased and ended.
    Counts,
}

/// A promise that was broken.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Violation {
    pub(crate) invariant: Invariant,
    pub(crate) at: Duration,
    pub(crate) what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} at {:?}: {}", self.invariant, self.at, self.what)
    }
}

/// A run, as it was written down.
pub(crate) struct Account<'a> {
    pub(crate) history: Vec<(Duration, Event)>,
    pub(crate) visits: Vec<Visit>,
    pub(crate) told: Vec<Acknowledged>,
    /// The directory of all crawls' segments.
    pub(crate) pages: &'a Path,
    pub(crate) web: &'a Web,
    /// The crawls' delay.
    pub(crate) delay: Duration,
    /// How much times may be off, since the network's clock ticks.
    pub(crate) tick: Duration,
    /// When the run ended.
    pub(crate) end: Duration,
}

impl Account<'_> {
    /// Every promise that was broken.
    pub(crate) fn violations(&self) -> Vec<Violation> {
        let mut ledger = Ledger::default();
        for (at, event) in &self.history {
            ledger.at = *at;
            match event {
                Event::Apply(batch) => ledger.apply(batch),
                Event::Sync => ledger.sync(),
                Event::PowerLost { kept } => {
                    ledger.lose_power(*kept);
                    ledger.check_told(&self.told);
                }
            }
        }
        ledger.at = self.end;
        ledger.check_told(&self.told);
        ledger.check_end(self.web);
        ledger.check_pages(self.pages);
        ledger.check_holders(&self.visits, self.tick);
        ledger.check_visits(&self.visits, self.delay, self.tick);
        ledger.violations
    }
}

/// The history, gone through again.
#[derive(Default)]
struct Ledger {
    at: Duration,
    current: Map,
    durable: Map,
    unsynced: Vec<Batch>,
    grants: Vec<Grant>,
    violations: Vec<Violation>,
}

/// A URL that was lent to a worker.
struct Grant {
    at: Duration,
    url: String,
    worker: String,
}

impl Ledger {
    fn broken(&mut self, invariant: Invariant, what: String) {
        self.violations.push(Violation { invariant, at: self.at, what });
    }

    fn apply(&mut self, batch: &Batch) {
        for (key, value) in batch {
            match key.first() {
                Some(b'U') => self.check_url(key, value.as_deref()),
                Some(b'L') => self.check_lease(key, value.as_deref(), batch),
                _ => {}
            }
        }
        apply(&mut self.current, batch.clone());
        self.unsynced.push(batch.clone());
    }

    fn sync(&mut self) {
        if self.unsynced.is_empty() {
            return;
        }
        for batch in std::mem::take(&mut self.unsynced) {
            apply(&mut self.durable, batch);
        }
        self.check_counts();
    }

    fn lose_power(&mut self, kept: usize) {
        for batch in std::mem::take(&mut self.unsynced).into_iter().take(kept) {
            apply(&mut self.durable, batch);
        }
        self.current = self.durable.clone();
        self.check_counts();
    }

    /// A URL's row changes: a page stays, and an end comes under the right token.
    fn check_url(&mut self, key: &[u8], value: Option<&[u8]>) {
        let Some((at, id)) = keys::url_of(key) else { return };
        let before = self.current.get(key).and_then(|bytes| state(bytes));
        let after = value.and_then(state);
        let token = match &after {
            Some(UrlState::Fetched(row)) => row.token,
            Some(UrlState::Ended(row)) => row.token,
            _ => 0,
        };
        let invariant_of_page = matches!(before, Some(UrlState::Fetched(_))) && before != after;
        if invariant_of_page {
            self.broken(Invariant::NothingTwice, format!("the page {id:?} changed to {after:?}"));
        }
        if token == 0 || before == after {
            return;
        }
        let Some(UrlState::Pending(slot)) = &before else {
            self.broken(Invariant::Fencing, format!("{id:?} ended again, by token {token}"));
            return;
        };
        let good = Slot::decode(slot).and_then(|slot| self.good_token(at, slot));
        if good != Some(token) {
            let what = format!("{id:?} ended by token {token}, but {good:?} was good");
            self.broken(Invariant::Fencing, what);
        }
    }

    /// The token under which a report of a URL may count: of its lease, or of its last
    /// one.
    fn good_token(&self, at: HostRef, slot: Slot) -> Option<u64> {
        let lent = self.leases().into_iter().find(|(_, lease)| holds(lease, at, slot));
        lent.map(|(token, _)| token).or_else(|| {
            let row = self.current.get(&keys::queue(at, slot))?;
            Some(QueueRow::decode(&row[..]).ok()?.last_token)
        })
    }

    fn leases(&self) -> Vec<(u64, LeaseRow)> {
        let (from, to) = keys::LEASES;
        let rows = self.current.range(from.to_vec()..to.to_vec());
        let row = |(key, value): (&Vec<u8>, &Vec<u8>)| {
            Some((keys::lease_token(key)?.0, LeaseRow::decode(&value[..]).ok()?))
        };
        rows.filter_map(row).collect()
    }

    /// A lease is granted: nobody else has anything of it.
    fn check_lease(&mut self, key: &[u8], value: Option<&[u8]>, batch: &Batch) {
        let Some(granted) = value.and_then(|bytes| LeaseRow::decode(bytes).ok()) else { return };
        let at = HostRef { crawl: granted.crawl, host: granted.host };
        for slot in granted.slots.chunks(Slot::BYTES).filter_map(Slot::decode) {
            let other = self.leases().into_iter().find(|(token, lease)| {
                let ends = |(key, value): &(Vec<u8>, Option<Vec<u8>>)| {
                    value.is_none() && keys::lease_token(key).is_some_and(|t| t.0 == *token)
                };
                // What has ended has left the queue.
                let is_open = self.current.contains_key(&keys::queue(at, slot));
                keys::lease_token(key).is_some_and(|mine| mine.0 != *token)
                    && is_open
                    && holds(lease, at, slot)
                    && !batch.iter().any(ends)
            });
            if let Some((token, _)) = other {
                self.broken(Invariant::OneLease, format!("{slot:?} is lent already, by {token}"));
            }
            let queue =
                self.current.get(&keys::queue(at, slot)).map(|row| QueueRow::decode(&row[..]));
            let host = self.current.get(&keys::host(at)).map(|row| HostRow::decode(&row[..]));
            if let (Some(Ok(queue)), Some(Ok(host))) = (queue, host) {
                let (url, worker) = (host.key + &queue.path, granted.worker.clone());
                self.grants.push(Grant { at: self.at, url, worker });
            }
        }
    }

    /// Nobody fetches what somebody else was lent since.
    fn check_holders(&mut self, visits: &[Visit], tick: Duration) {
        for visit in visits {
            let end = visit.end.unwrap_or(self.at);
            let another = |grant: &&Grant| {
                grant.url == visit.url
                    && grant.worker != visit.worker
                    && visit.begin < grant.at
                    && grant.at + tick < end
            };
            if let Some(grant) = self.grants.iter().find(another) {
                let (url, mine, other) = (&visit.url, &visit.worker, &grant.worker);
                let what = format!("{mine} fetches {url}, which {other} was lent meanwhile");
                let violation = Violation { invariant: Invariant::OneLease, at: grant.at, what };
                self.violations.push(violation);
            }
        }
    }

    fn crawls(&self) -> Vec<(u32, CrawlRow)> {
        let (from, to) = keys::CRAWLS;
        let rows = self.durable.range(from.to_vec()..to.to_vec());
        let row = |(key, value): (&Vec<u8>, &Vec<u8>)| {
            let number = u32::from_be_bytes(key.get(1..5)?.try_into().ok()?);
            Some((number, CrawlRow::decode(&value[..]).ok()?))
        };
        rows.filter_map(row).collect()
    }

    fn rows(&self, (from, to): (Vec<u8>, Vec<u8>)) -> impl Iterator<Item = (&Vec<u8>, &Vec<u8>)> {
        self.durable.range(from..to)
    }

    fn check_counts(&mut self) {
        for (number, crawl) in self.crawls() {
            let (mut pending, mut ended) = (0, 0);
            for (_, row) in self.rows(keys::urls(number)) {
                match state(row) {
                    Some(UrlState::Pending(_)) => pending += 1,
                    Some(_) => ended += 1,
                    None => {}
                }
            }
            let queued = self.rows(keys::queues(number)).count() as u64;
            let counted: u64 = crawl.outcomes.iter().sum();
            let sides = [
                ("URLs, discovered", pending + ended, crawl.discovered),
                ("URLs that wait, queued and leased", pending, crawl.queued + crawl.leased),
                ("URLs that wait, places in the queue", pending, queued),
                ("URLs that have ended, outcomes", ended, counted),
            ];
            for (what, left, right) in sides {
                if left != right {
                    let what = format!("crawl {number}: {what}: {left} and {right}");
                    self.broken(Invariant::Counts, what);
                }
            }
        }
    }

    /// What the workers were told before now is durable.
    fn check_told(&mut self, told: &[Acknowledged]) {
        let known = |row: (&Vec<u8>, &Vec<u8>)| {
            let (at, id) = keys::url_of(row.0)?;
            Some(((at.crawl, id.0), matches!(state(row.1), Some(UrlState::Pending(_)))))
        };
        let all = self.durable.range(b"U".to_vec()..b"V".to_vec());
        let known: BTreeMap<(u32, [u8; 20]), bool> = all.filter_map(known).collect();
        let mut lost = Vec::new();
        for Acknowledged { report, .. } in told.iter().filter(|told| told.at <= self.at) {
            let id: Option<[u8; 20]> = report.id[..].try_into().ok();
            let is_pending = id.and_then(|id| known.get(&(report.crawl, id)));
            let is_page = matches!(report.outcome, Some(Outcome::Response(_)));
            if is_page && is_pending != Some(&false) {
                lost.push(format!("the page of token {}", report.token));
            }
            for offer in &report.offers {
                let id = offer.url.parse::<CrawlUrl>().map(|url| UrlId::of(url.as_str()));
                if !id.is_ok_and(|id| known.contains_key(&(report.crawl, id.0))) {
                    lost.push(offer.url.clone());
                }
            }
        }
        for what in lost {
            self.broken(Invariant::NothingLost, format!("{what} was acknowledged, and is gone"));
        }
    }

    /// Every crawl has ended, with every page of the web as it is.
    fn check_end(&mut self, web: &Web) {
        let crawls = self.crawls();
        if crawls.is_empty() {
            self.broken(Invariant::Completion, "there is no crawl".to_owned());
        }
        for (number, crawl) in crawls {
            if crawl.finish != Finish::Complete as i32 {
                let CrawlRow { queued, leased, .. } = crawl;
                let what = format!("crawl {number} goes on: {queued} queued, {leased} leased");
                self.broken(Invariant::Completion, what);
                continue;
            }
            let state_of =
                |row: (&Vec<u8>, &Vec<u8>)| Some((keys::url_of(row.0)?.1.0, state(row.1)));
            let ended: BTreeMap<[u8; 20], Option<UrlState>> =
                self.rows(keys::urls(number)).filter_map(state_of).collect();
            if ended.len() != web.answers().len() {
                let what = format!("{} URLs of {}", ended.len(), web.answers().len());
                self.broken(Invariant::Completion, format!("crawl {number} has {what}"));
            }
            for (url, answer) in web.answers() {
                let found = ended.get(&UrlId::of(url).0).cloned().flatten();
                let is_so = matches!(&found, Some(UrlState::Fetched(row))
                    if row.status == u32::from(answer.status) && row.sha1 == answer.sha1());
                if !is_so {
                    let what = format!("crawl {number}: {url} ended as {found:?}");
                    self.broken(Invariant::Completion, what);
                }
            }
        }
    }

    /// The segments hold one page for each entry of the index, and no other.
    fn check_pages(&mut self, directory: &Path) {
        for (number, crawl) in self.crawls() {
            let committed = Committed { segment: crawl.segment, bytes: crawl.segment_bytes };
            let directory = directory.join(&crawl.name);
            let pages = CrawlPages { crawl: number, name: crawl.name, directory, committed };
            let mut index = BTreeSet::new();
            for (_, row) in self.rows(keys::urls(number)) {
                if let Some(UrlState::Fetched(row)) = state(row) {
                    index.insert(row.place);
                }
            }
            let (mut seen, mut urls) = (BTreeSet::new(), BTreeSet::new());
            let Ok(segments) = pages.segments() else { continue };
            let mut scan = Scan::new(segments, committed);
            loop {
                let place: Place = match scan.next_page() {
                    Ok(None) => break,
                    Ok(Some(page)) => {
                        let url = page.response.field("WARC-Target-URI").unwrap_or_default();
                        let url = url.to_owned();
                        if !urls.insert(url.clone()) {
                            self.broken(Invariant::NothingTwice, format!("{url} has two records"));
                        }
                        page.place
                    }
                    Err(error) => {
                        self.broken(Invariant::NothingLost, format!("a record: {error}"));
                        break;
                    }
                };
                seen.insert(place.encode().to_vec());
            }
            if seen != index {
                let (records, entries) = (seen.len(), index.len());
                let what = format!("{records} records for {entries} entries of the index");
                let invariant = if records > entries {
                    Invariant::NothingTwice
                } else {
                    Invariant::NothingLost
                };
                self.broken(invariant, what);
            }
        }
    }

    /// No host is visited before its delay.
    fn check_visits(&mut self, visits: &[Visit], delay: Duration, tick: Duration) {
        let mut last: BTreeMap<&str, &Visit> = BTreeMap::new();
        let mut sorted: Vec<&Visit> = visits.iter().collect();
        sorted.sort_by_key(|visit| visit.begin);
        for visit in sorted {
            self.at = visit.begin;
            if let Some(before) = last.get(&*visit.host)
                && let Some(end) = before.end
                && visit.begin + tick < end + delay
            {
                let gap = visit.begin.saturating_sub(end);
                let what = format!("{} after {gap:?} by {}", visit.url, visit.worker);
                self.broken(Invariant::Politeness, what);
            }
            let is_later = |other: &&Visit| other.end.is_none_or(|end| visit.end >= Some(end));
            if last.get(&*visit.host).is_none_or(is_later) {
                last.insert(&visit.host, visit);
            }
        }
    }
}

fn state(row: &[u8]) -> Option<UrlState> {
    UrlRow::decode(row).ok()?.state
}

fn holds(lease: &LeaseRow, at: HostRef, slot: Slot) -> bool {
    (lease.crawl, lease.host) == (at.crawl, at.host)
        && lease.slots.chunks(Slot::BYTES).any(|bytes| Slot::decode(bytes) == Some(slot))
}
