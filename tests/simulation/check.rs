//! What must hold after any run, read from what the disk, the web and the workers wrote
//! down.

use std::{collections::BTreeMap, fmt, path::Path, time::Duration};

use prost::Message;
use serde::{Deserialize, Serialize};
use sha1::{Digest, Sha1};
use trawl_master::{
    pages::{Committed, CrawlPages, Scan},
    store::{
        Batch,
        keys::{self, HostRef, Slot},
        rows::{CrawlRow, Finish, HostRow, LeaseRow, QueueRow, UrlRow, UrlState},
    },
};
use trawl_shared::{
    outcome::Class,
    url::{CrawlUrl, UrlId},
};

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
    /// Lost leases after which a URL is given up.
    pub(crate) losses: u32,
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
        let mut ledger = Ledger { losses: self.losses, ..Ledger::default() };
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
    /// Lost leases after which a URL is given up.
    losses: u32,
    last_token: u64,
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
        for (key, value) in batch.iter().filter(|(key, _)| key.starts_with(b"U")) {
            self.check_url(key, value.as_deref(), batch);
        }
        apply(&mut self.current, batch.clone());
        for (key, value) in batch.iter().filter(|(key, _)| key.starts_with(b"L")) {
            self.check_lease(key, value.as_deref());
        }
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

    /// A URL's row changes: a page stays, and what a report changes, it does under the
    /// right token.
    fn check_url(&mut self, key: &[u8], value: Option<&[u8]>, batch: &Batch) {
        let Some((at, id)) = keys::url_of(key) else { return };
        let before = self.current.get(key).and_then(|bytes| state(bytes));
        let after = value.and_then(state);
        if before == after {
            return;
        }
        if matches!(before, Some(UrlState::Fetched(_))) {
            self.broken(Invariant::NothingTwice, format!("the page {id:?} changed to {after:?}"));
        }
        let token = match &after {
            Some(UrlState::Fetched(row)) => row.token,
            Some(UrlState::Ended(row)) => row.token,
            // A failure that counts moves it to where it waits for its next try.
            Some(UrlState::Pending(slot)) => {
                let moved = Slot::decode(slot).map(|slot| keys::queue(at, slot));
                let row = batch.iter().find(|(key, _)| Some(key) == moved.as_ref());
                let row = row.and_then(|(_, row)| QueueRow::decode(row.as_deref()?).ok());
                row.map_or(0, |row| row.last_token)
            }
            None => 0,
        };
        // No token: it was found, or given up without a report.
        if token == 0 {
            return;
        }
        let good = match &before {
            Some(UrlState::Pending(slot)) => {
                Slot::decode(slot).and_then(|slot| self.good_token(at, slot))
            }
            _ => None,
        };
        if good != Some(token) {
            let what = format!("{id:?} was changed by token {token}, but {good:?} was good");
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

    /// A lease is granted: its token is new, and nobody else has anything of it.
    fn check_lease(&mut self, key: &[u8], value: Option<&[u8]>) {
        let Some(granted) = value.and_then(|bytes| LeaseRow::decode(bytes).ok()) else { return };
        let Some(token) = keys::lease_token(key) else { return };
        if token.0 <= self.last_token {
            self.broken(Invariant::Fencing, format!("token {token} is not a new one"));
        }
        self.last_token = self.last_token.max(token.0);
        let at = HostRef { crawl: granted.crawl, host: granted.host };
        for slot in granted.slots.chunks(Slot::BYTES).filter_map(Slot::decode) {
            let mut leases = self.leases().into_iter();
            let other = leases.find(|(other, lease)| *other != token.0 && holds(lease, at, slot));
            let queue = self.current.get(&keys::queue(at, slot));
            let queue = queue.and_then(|row| QueueRow::decode(&row[..]).ok());
            let host = self.current.get(&keys::host(at));
            let host = host.and_then(|row| HostRow::decode(&row[..]).ok());
            // What has ended has left the queue.
            let (Some(queue), Some(host)) = (queue, host) else { continue };
            if let Some((other, _)) = other {
                self.broken(Invariant::OneLease, format!("{slot:?} is lent already, by {other}"));
            }
            let (url, worker) = (host.key + &queue.path, granted.worker.clone());
            self.grants.push(Grant { at: self.at, url, worker });
        }
    }

    /// Nobody fetches what was not lent to him, or was lent to somebody else since.
    fn check_holders(&mut self, visits: &[Visit], tick: Duration) {
        for visit in visits.iter().filter(|visit| !visit.url.ends_with("/robots.txt")) {
            let end = visit.end.unwrap_or(self.at);
            let (mut holder, mut other) = (None, None);
            for grant in self.grants.iter().filter(|grant| grant.url == visit.url) {
                if grant.at <= visit.begin + tick {
                    holder = Some(grant);
                } else if grant.at + tick < end && grant.worker != visit.worker {
                    other = Some(grant);
                }
            }
            let is_holder = holder.is_some_and(|grant| grant.worker == visit.worker);
            let other = other.or(holder.filter(|_| !is_holder));
            if !is_holder || other.is_some() {
                let (url, mine) = (&visit.url, &visit.worker);
                let other = other.map(|grant| (&grant.worker, grant.at));
                let what = format!("{mine} fetches {url}, which was lent to {other:?}");
                let at = visit.begin;
                self.violations.push(Violation { invariant: Invariant::OneLease, at, what });
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

    /// What was acknowledged before now is durable.
    fn check_told(&mut self, told: &[Acknowledged]) {
        let numbers: BTreeMap<String, u32> =
            self.crawls().into_iter().map(|(number, crawl)| (crawl.name, number)).collect();
        let row = |row: (&Vec<u8>, &Vec<u8>)| {
            let (at, id) = keys::url_of(row.0)?;
            Some(((at.crawl, id.0.to_vec()), matches!(state(row.1), Some(UrlState::Pending(_)))))
        };
        let all = self.durable.range(b"U".to_vec()..b"V".to_vec());
        let known: BTreeMap<(u32, Vec<u8>), bool> = all.filter_map(row).collect();
        let is_known = |crawl: u32, url: &str| {
            let id = url.parse::<CrawlUrl>().map(|url| UrlId::of(url.as_str()).0.to_vec());
            id.is_ok_and(|id| known.contains_key(&(crawl, id)))
        };
        let mut lost = Vec::new();
        for told in told {
            match told {
                Acknowledged::Crawl { at, name, seeds } if *at <= self.at => {
                    let number = numbers.get(name).copied().unwrap_or_default();
                    lost.extend(seeds.iter().filter(|seed| !is_known(number, seed)).cloned());
                }
                Acknowledged::Report { at, crawl, id, is_page, links } if *at <= self.at => {
                    if *is_page && known.get(&(*crawl, id.clone())) != Some(&false) {
                        lost.push(format!("the page of {id:?}"));
                    }
                    lost.extend(links.iter().filter(|link| !is_known(*crawl, link)).cloned());
                }
                _ => {}
            }
        }
        for what in lost {
            self.broken(Invariant::NothingLost, format!("{what} was acknowledged, and is gone"));
        }
    }

    /// Whether a URL was given up as it should be: its workers were lost so often.
    fn is_given_up(&self, state: Option<&UrlState>) -> bool {
        let quarantined = u32::from(Class::Quarantined.number());
        matches!(state, Some(UrlState::Ended(row))
            if row.class == quarantined && row.attempts >= self.losses)
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
            // What was given up leads to nothing.
            let given_up = |state: &&Option<UrlState>| self.is_given_up(state.as_ref());
            let has_gaps = ended.values().any(|state| given_up(&state));
            if !has_gaps && ended.len() != web.answers().len() {
                let what = format!("{} URLs of {}", ended.len(), web.answers().len());
                self.broken(Invariant::Completion, format!("crawl {number} has {what}"));
            }
            for (url, answer) in web.answers() {
                let found = ended.get(&UrlId::of(url).0).cloned().flatten();
                if self.is_given_up(found.as_ref()) || (has_gaps && found.is_none()) {
                    continue;
                }
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
            let mut index = BTreeMap::new();
            for (key, row) in self.rows(keys::urls(number)) {
                if let (Some((_, id)), Some(UrlState::Fetched(row))) =
                    (keys::url_of(key), state(row))
                {
                    index.insert(row.place, (id, row.sha1));
                }
            }
            if let Err((invariant, what)) = check_segments(&pages, index) {
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

/// The segments hold one page for each entry of the index, of its URL and with its body,
/// and no other.
fn check_segments(
    pages: &CrawlPages,
    mut index: BTreeMap<Vec<u8>, (UrlId, Vec<u8>)>,
) -> Result<(), (Invariant, String)> {
    let lost = |what: String| (Invariant::NothingLost, what);
    let segments = pages.segments().map_err(|error| lost(error.to_string()))?;
    let mut scan = Scan::new(segments, pages.committed);
    while let Some(page) = scan.next_page().map_err(|error| lost(error.to_string()))? {
        let url = page.response.field("WARC-Target-URI").unwrap_or_default();
        let Some((id, sha1)) = index.remove(&page.place.encode()[..]) else {
            return Err((Invariant::NothingTwice, format!("a record of {url} does not count")));
        };
        let meta = page.meta().map_err(|error| lost(error.to_string()))?;
        let body = page.body(&meta).map_err(|error| lost(error.to_string()))?;
        if UrlId::of(url) != id || Sha1::digest(&body)[..] != sha1[..] {
            return Err(lost(format!("the record of {url} is not the one of its entry")));
        }
    }
    match index.len() {
        0 => Ok(()),
        entries => Err(lost(format!("{entries} entries of the index have no record"))),
    }
}
