//! Lending: which due host is next, and which of its URLs.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use trawl_shared::{
    lease::Token,
    outcome::{Class, FailureKind},
    spec::RobotsPolicy,
    untrusted::Untrusted,
};

use super::{
    Crawl, Frontier, FrontierError, Host, Lease, Moment,
    traps::{End, Fate, Judge},
};
use crate::store::{
    Store, StoreError,
    keys::{self, HostRef, Slot},
    rows::{EndedRow, LeaseRow, QueueRow, RobotsRow, UrlRow, UrlState, decode},
};

/// Bytes of URLs that are lent in one go, give or take a batch; far below what a
/// message may hold.
const LEND_BYTES: usize = 2 * 1024 * 1024;

/// URLs of a host, over its budget or given up, that are ended in one step.
const SWEEP_URLS: usize = 256;

/// Such steps in one call: others wait for the answer.
const SWEEPS: usize = 4;

/// What a worker has room for.
#[derive(Clone, Debug)]
pub struct LeaseRequest {
    /// The worker's name.
    pub worker: Arc<str>,
    /// Hosts that it has free lanes for.
    pub hosts: usize,
    /// Hosts that it has, and wants more URLs of.
    pub extend: Vec<HostRef>,
    /// The only crawl that it works for; none for all.
    pub crawl: Option<u32>,
}

/// A host's next URLs, lent to one worker.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    /// The fencing token.
    pub token: Token,
    /// The host.
    pub at: HostRef,
    /// Scheme, host and port.
    pub host_key: String,
    /// The crawl's current specification.
    pub spec_version: u32,
    /// The wait after a fetch ended before the next may start.
    pub delay: Duration,
    /// The URLs, in the order to fetch them.
    pub urls: Vec<BatchUrl>,
    /// Fetches of the host that may be under way at the same time.
    pub connections: u32,
    /// People have set the delay: nothing is added to it for slow answers.
    pub delay_is_set: bool,
    /// What is known of the host's robots.txt, if its crawl asks for it.
    pub robots: Option<RobotsRow>,
}

impl Batch {
    /// About what it takes in a message.
    fn bytes(&self) -> usize {
        const BESIDE_THE_URL: usize = 48;
        self.urls.iter().map(|lent| lent.url.len() + BESIDE_THE_URL).sum()
    }
}

/// A URL that is lent.
#[derive(Clone, Debug, PartialEq)]
pub struct BatchUrl {
    /// The URL.
    pub url: String,
    /// Links from a seed.
    pub depth: u16,
    /// Redirects followed to come here.
    pub hops: u32,
    /// 1 for the first try.
    pub attempt: u32,
    /// The id of the page it was found on; empty for a seed.
    pub via: Vec<u8>,
    /// Links from the last page where the crawl's seeds are.
    pub off_site: u32,
    /// The wait after its fetch, if it is longer than the host's.
    pub delay: Option<Duration>,
}

/// What came of asking for a host's next URLs.
enum Grant {
    Lent(Box<Batch>),
    /// Some of its URLs were ended without a try, and more of them may be left.
    Swept,
    Nothing,
}

/// What a look into a host's queue brought.
#[derive(Default)]
struct Look {
    urls: Vec<(Slot, QueueRow)>,
    /// What is not to be fetched.
    ended: Vec<(Slot, QueueRow, End)>,
    /// The one URL found has lost a lease before.
    suspect: bool,
    /// When the first of those that wait for a time is due.
    next_due: Option<Moment>,
    /// The depth of the first that lies deeper than the crawl has come.
    next_depth: Option<u16>,
}

impl<S: Store> Frontier<S> {
    /// Lends what is due, as far as the worker has room: more of the hosts it has,
    /// then further hosts, each crawl in turn.
    ///
    /// # Errors
    /// If the store fails.
    pub fn lease(
        &mut self,
        request: &LeaseRequest,
        now: Moment,
    ) -> Result<Vec<Batch>, FrontierError> {
        // The queues are read from the store, so that it must have all changes.
        self.commit(now)?;
        let mut batches = Vec::new();
        let mut bytes = 0;
        for at in &request.extend {
            if bytes < LEND_BYTES
                && self.may_have(&request.worker, *at, now)
                && let Grant::Lent(batch) = self.grant(&request.worker, *at, now)?
            {
                bytes += batch.bytes();
                batches.push(*batch);
            }
        }
        let (mut hosts, mut sweeps) = (0, 0);
        while hosts < request.hosts && bytes < LEND_BYTES && sweeps < SWEEPS {
            let Some(at) = self.next_due(request.crawl, now) else { break };
            match self.grant(&request.worker, at, now)? {
                Grant::Lent(batch) => {
                    bytes += batch.bytes();
                    batches.push(*batch);
                    hosts += 1;
                }
                Grant::Swept => sweeps += 1,
                Grant::Nothing => {}
            }
        }
        Ok(batches)
    }

    /// When the next host is due that may be lent, of all crawls or of `only` one.
    pub fn next_ready(&self, only: Option<u32>) -> Option<Moment> {
        let crawls = self
            .crawls
            .iter()
            .filter(|(number, crawl)| only.is_none_or(|only| only == **number) && crawl.may_lend());
        crawls.filter_map(|(_, crawl)| crawl.ready.first().map(|(when, _)| *when)).min()
    }

    /// When the next lease runs out.
    pub fn next_deadline(&self) -> Option<Moment> {
        self.deadlines.first().map(|(when, _)| *when)
    }

    /// Puts a host among the ready, unless any crawl has it lent or this one has
    /// nothing queued for it.
    pub(super) fn wake(&mut self, at: HostRef, not_before: Moment) {
        let Some(host) = self.hosts.get(&at) else { return };
        if host.in_line {
            return;
        }
        // What is given up is not visited, so that it waits for nothing, unless people
        // want it left alone.
        let given_up = host.given_up && !self.is_blocked(at.host);
        let ready = if given_up { Some(Moment(0)) } else { self.host_ready(at) };
        let Some(ready) = ready else { return };
        let Some(crawl) = self.crawls.get_mut(&at.crawl) else { return };
        let Some(host) = self.hosts.get_mut(&at) else { return };
        if host.row.queued == 0 || !host.leased.is_empty() {
            return;
        }
        let when = ready.max(not_before);
        if host.ready.is_some_and(|ready| ready <= when) {
            return;
        }
        crawl.forget_ready(host, at.host);
        host.ready = Some(when);
        crawl.ready.insert((when, at.host));
    }

    /// Wakes the hosts whose depth has been opened.
    pub(super) fn unpark(&mut self) {
        for number in self.crawls.keys().copied().collect::<Vec<_>>() {
            while let Some(crawl) = self.crawls.get_mut(&number)
                && let Some((depth, host)) = crawl.parked.first().copied()
                && depth <= crawl.depth_open()
            {
                crawl.parked.remove(&(depth, host));
                let at = HostRef { crawl: number, host };
                if let Some(host) = self.hosts.get_mut(&at) {
                    host.parked = None;
                }
                self.wake(at, Moment(0));
            }
        }
    }

    /// The next due host of the crawl whose turn it is, among all or `only` one.
    fn next_due(&mut self, only: Option<u32>, now: Moment) -> Option<HostRef> {
        let due = |crawl: &Crawl| {
            let (when, host) = *crawl.ready.first()?;
            (crawl.may_lend() && when <= now).then_some(host)
        };
        let later = self.crawls.range(self.turn.saturating_add(1)..);
        let (number, host) = later
            .chain(self.crawls.range(..=self.turn))
            .filter(|(number, _)| only.is_none_or(|only| only == **number))
            .find_map(|(number, crawl)| Some((*number, due(crawl)?)))?;
        self.turn = number;
        let at = HostRef { crawl: number, host };
        Some(if only.is_some() { at } else { self.turn_at(at, now) })
    }

    /// Whether a worker that asks for this very host may have more of it: it holds
    /// it, or nobody does and it is due. Who holds it for long waits is to give it back
    /// instead of waiting them out: others have use for its lane.
    fn may_have(&self, worker: &str, at: HostRef, now: Moment) -> bool {
        let Some(host) = self.hosts.get(&at) else { return false };
        match host.leased.values().next() {
            Some(token) => {
                let holder = self.leases.get(token);
                !host.suspect_out
                    && !host.given_up
                    && !self.is_left_alone(at.host, now)
                    && holder.is_some_and(|lease| &*lease.worker == worker)
                    && !self.is_wanted_elsewhere(at)
                    && !self.is_waited_for(at.host)
                    && self.host_wait(at) <= self.limits.lease / 2
            }
            None => host.ready.is_some_and(|when| when <= now),
        }
    }

    /// Lends the next URLs of a host, if there are any that may be fetched now.
    fn grant(
        &mut self,
        worker: &Arc<str>,
        at: HostRef,
        now: Moment,
    ) -> Result<Grant, FrontierError> {
        let delay = self.host_delay(at);
        let set_pages = self.known(at.host).and_then(|row| row.set_pages);
        let (Some(crawl), Some(host)) = (self.crawls.get_mut(&at.crawl), self.hosts.get_mut(&at))
        else {
            return Ok(Grant::Nothing);
        };
        crawl.forget_ready(host, at.host);
        if host.given_up {
            if host.leased.is_empty() {
                let trouble = self.trouble_of(at);
                return self.sweep(at, trouble.0, &trouble.1, now);
            }
            return Ok(Grant::Nothing);
        }
        if host.leased.is_empty() && self.host_ready(at).is_none_or(|ready| ready > now) {
            // Who wants it has changed since it was said to be ready.
            self.wake(at, Moment(0));
            return Ok(Grant::Nothing);
        }
        let (Some(crawl), Some(host)) = (self.crawls.get_mut(&at.crawl), self.hosts.get_mut(&at))
        else {
            return Ok(Grant::Nothing);
        };
        let (host_left, pages_left) = (host_pages_left(crawl, host, set_pages), crawl.pages_left());
        let is_new = host.leased.is_empty();
        let (depth_open, may_lend) = (crawl.depth_open(), crawl.may_lend());
        if host_left == 0 {
            if host.leased.is_empty() {
                let detail = "the host's page budget was used up";
                return self.sweep(at, Class::OverBudget, detail, now);
            }
            return Ok(Grant::Nothing);
        }
        let connections = self.host_connections(at);
        let most = by_time(self.limits.lease, delay)
            .saturating_mul(u64::from(connections))
            .min(self.limits.urls_per_lease as u64)
            .min(pages_left)
            .min(host_left);
        if most == 0 || !may_lend {
            self.wake(at, Moment(0));
            return Ok(Grant::Nothing);
        }
        if is_new && !self.has_place(at, now) {
            return Ok(Grant::Nothing);
        }
        let patterns = self.pattern_count(at)?;
        let (Some(crawl), Some(host)) = (self.crawls.get(&at.crawl), self.hosts.get(&at)) else {
            return Ok(Grant::Nothing);
        };
        let most = most as usize;
        let mut judge = Judge::new(crawl, at, &host.row.key, host.leased.len(), patterns, most);
        let mut look = look(&self.store, host, most, depth_open, now, &mut judge)?;
        let is_cut = look.ended.len() >= SWEEP_URLS;
        let has_ended = !look.ended.is_empty();
        for (slot, row, end) in std::mem::take(&mut look.ended) {
            self.end_waiting(at, slot, row, end)?;
        }
        if look.urls.is_empty() {
            if is_cut {
                self.wake(at, Moment(0));
            } else {
                self.wait(at, &look);
            }
            self.pass_place_on(at, now);
        }
        if has_ended {
            // The next look reads the store.
            self.commit(now)?;
        }
        if look.urls.is_empty() {
            return Ok(if is_cut { Grant::Swept } else { Grant::Nothing });
        }
        let mut batch = self.lend(worker, at, look, delay, now);
        batch.connections = connections;
        batch.robots = self.robots_of(at)?;
        Ok(Grant::Lent(Box::new(batch)))
    }

    /// Lends what the look brought.
    fn lend(
        &mut self,
        worker: &Arc<str>,
        at: HostRef,
        look: Look,
        delay: Duration,
        now: Moment,
    ) -> Batch {
        let token = self.last_token.next();
        self.last_token = token;
        let open: BTreeSet<Slot> = look.urls.iter().map(|(slot, _)| *slot).collect();
        let count = open.len() as u64;
        let slots = look.urls.iter().flat_map(|(slot, _)| slot.encode()).collect();
        let deadline = now + self.limits.lease;
        self.deadlines.insert((deadline, token));
        let mut batch = Batch {
            token,
            at,
            host_key: String::new(),
            spec_version: 0,
            delay,
            urls: Vec::with_capacity(open.len()),
            connections: 1,
            delay_is_set: self.known(at.host).is_some_and(|row| row.set_delay_ms.is_some()),
            robots: None,
        };
        if let (Some(crawl), Some(host)) = (self.crawls.get_mut(&at.crawl), self.hosts.get_mut(&at))
        {
            crawl.busy_hosts += u64::from(host.leased.is_empty());
            crawl.row.queued -= count.min(crawl.row.queued);
            crawl.row.leased += count;
            crawl.row.leases_recovered += u64::from(look.suspect);
            crawl.dirty = true;
            host.row.queued -= count.min(host.row.queued);
            self.touched.insert(at);
            host.suspect_out = look.suspect;
            host.leased.extend(open.iter().map(|slot| (*slot, token)));
            batch.host_key.clone_from(&host.row.key);
            batch.spec_version = crawl.row.spec_version;
        }
        let rules = self.crawls.get(&at.crawl).map(|crawl| Arc::clone(&crawl.rules));
        let rules = rules.filter(|rules| !rules.is_empty());
        let delay_of = |url: &str| {
            let asked = rules.as_ref()?.find(url)?.delay?.duration();
            (asked > delay).then_some(asked)
        };
        batch.urls.extend(look.urls.into_iter().map(|(slot, row)| {
            let url = format!("{}{}", batch.host_key, row.path);
            BatchUrl {
                delay: delay_of(&url),
                url,
                depth: slot.depth,
                hops: row.hops,
                attempt: row.failures + row.losses + 1,
                via: row.via,
                off_site: row.off_site,
            }
        }));
        let longest = batch.urls.iter().filter_map(|url| url.delay).max();
        let longer = longest.map_or(Duration::ZERO, |longest| longest.saturating_sub(delay));
        if let Some(host) = self.hosts.get_mut(&at) {
            host.longer_wait = host.longer_wait.max(longer);
        }
        let row = LeaseRow {
            crawl: at.crawl,
            host: at.host,
            worker: worker.to_string(),
            slots,
            longer_wait_ms: super::millis(longer),
        };
        self.changes.put(keys::lease(token), &row);
        let worker = Arc::clone(worker);
        self.leases.insert(token, Lease { worker, at, open, deadline, is_unknown: false });
        self.take_host(at, now);
        batch
    }

    /// Lets a host wait for what it has: a time, or a depth.
    fn wait(&mut self, at: HostRef, look: &Look) {
        if let Some(due) = look.next_due {
            self.wake(at, due);
        }
        if let (Some(depth), Some(crawl), Some(host)) =
            (look.next_depth, self.crawls.get_mut(&at.crawl), self.hosts.get_mut(&at))
        {
            // It may have been parked deeper, before something shallower came.
            if let Some(deeper) = host.parked.replace(depth) {
                crawl.parked.remove(&(deeper, at.host));
            }
            crawl.parked.insert((depth, at.host));
        }
    }

    /// What is known of the robots.txt of a host, if the crawl asks for it.
    fn robots_of(&self, at: HostRef) -> Result<Option<RobotsRow>, StoreError> {
        let obeys = |crawl: &Crawl| crawl.spec.robots == RobotsPolicy::Obey;
        if self.crawls.get(&at.crawl).is_some_and(obeys) {
            self.robots_row(at.host)
        } else {
            Ok(None)
        }
    }

    /// Why a host is given up.
    fn trouble_of(&self, at: HostRef) -> (Class, String) {
        let row = self.known(at.host);
        let class = row.and_then(|row| Class::of_number(u8::try_from(row.trouble_class).ok()?));
        let (failures, trouble) = row.map_or((0, ""), |row| (row.failures, &*row.trouble));
        let detail = format!(
            "its host was given up after {failures} failures in a row, the last: {trouble}"
        );
        (class.unwrap_or(Class::Failed(FailureKind::Connect)), detail)
    }

    /// Ends some of the URLs that wait for a host without a try.
    fn sweep(
        &mut self,
        at: HostRef,
        class: Class,
        detail: &str,
        now: Moment,
    ) -> Result<Grant, FrontierError> {
        let from = keys::queue(at, Slot::FIRST);
        let to = keys::queue(at, Slot { due: u64::MAX, depth: u16::MAX, seq: u64::MAX });
        let rows: Vec<_> =
            self.store.range(&from, &to).take(SWEEP_URLS).collect::<Result<_, StoreError>>()?;
        let Some(host_key) = self.hosts.get(&at).map(|host| host.row.key.clone()) else {
            return Ok(Grant::Nothing);
        };
        if rows.is_empty()
            && let Some(host) = self.hosts.get_mut(&at)
        {
            tracing::error!(host = %Untrusted::new(&host_key), "a queue is empty that should not be");
            host.row.queued = 0;
            self.touched.insert(at);
        }
        for (key, value) in rows {
            let slot = keys::slot_of(&key).ok_or_else(|| super::damaged("a queue's key"))?;
            let row: QueueRow = decode(&value)?;
            let id = trawl_shared::url::UrlId::of(&format!("{host_key}{}", row.path));
            let ended = EndedRow {
                class: u32::from(class.number()),
                detail: detail.to_owned(),
                attempts: row.failures + row.losses,
                path: row.path,
                via: row.via,
                via_host: row.via_host,
                depth: u32::from(slot.depth),
                hops: row.hops,
                tries: row.tries,
                off_site: row.off_site,
                ..EndedRow::default()
            };
            self.changes.remove(key);
            self.changes.put(keys::url(at, &id), &UrlRow { state: Some(UrlState::Ended(ended)) });
            if let (Some(crawl), Some(host)) =
                (self.crawls.get_mut(&at.crawl), self.hosts.get_mut(&at))
            {
                crawl.row.queued = crawl.row.queued.saturating_sub(1);
                crawl.count_depth(slot.depth, false);
                crawl.count(class);
                host.row.queued = host.row.queued.saturating_sub(1);
                self.touched.insert(at);
            }
        }
        self.wake(at, Moment(0));
        self.pass_place_on(at, now);
        self.commit(now)?;
        Ok(Grant::Swept)
    }
}

impl Crawl {
    /// Whether it has URLs to lend, as far as the crawl itself is concerned.
    pub(super) fn may_lend(&self) -> bool {
        self.is_running() && self.is_wanted() && self.pages_left() > 0
    }

    /// The wait between two fetches of a host, as far as this crawl is concerned:
    /// its own delay, or the longer one that the host asks for.
    pub(super) fn delay(&self, host: &Host) -> Duration {
        self.spec.delay.duration().max(Duration::from_millis(host.row.delay_ms))
    }

    /// Takes a host out of the ready.
    pub(super) fn forget_ready(&mut self, host: &mut Host, number: u32) {
        if let Some(when) = host.ready.take() {
            self.ready.remove(&(when, number));
        }
    }

    /// Takes a host out of all that it may wait for.
    pub(super) fn forget_waiting(&mut self, host: &mut Host, number: u32) {
        self.forget_ready(host, number);
        if let Some(depth) = host.parked.take() {
            self.parked.remove(&(depth, number));
        }
    }
}

/// Pages that may still be lent of a host, by the crawl's budget or the one that people
/// have set.
fn host_pages_left(crawl: &Crawl, host: &Host, set: Option<u64>) -> u64 {
    let spent = host.row.pages + host.leased.len() as u64;
    set.or(crawl.spec.pages_per_host).map_or(u64::MAX, |budget| budget.saturating_sub(spent))
}

/// URLs that can be fetched in half a lease at this delay; one at least.
fn by_time(lease: Duration, delay: Duration) -> u64 {
    let fit = lease.as_millis() / 2 / delay.as_millis().max(1);
    u64::try_from(fit).unwrap_or(u64::MAX).max(1)
}

/// Looks for up to `most` URLs of a host that may be fetched now: those that
/// waited for a time that has come, then those that wait for nothing, by their
/// priority, shallow and old first. A suspect is found alone, and only while nothing
/// is lent. What the judge does not let pass is found apart.
fn look(
    store: &impl Store,
    host: &Host,
    most: usize,
    depth_open: u16,
    now: Moment,
    judge: &mut Judge<'_>,
) -> Result<Look, StoreError> {
    const DUE_FIRST: Slot = Slot { due: Slot::DUE_MIN, depth: 0, seq: 0 };
    let at = judge.at();
    let range = |from: Slot, to: Slot| store.range(&keys::queue(at, from), &keys::queue(at, to));
    let due_later = Slot::FIRST.due_at(now.0.saturating_add(1));
    let mut look = Look::default();
    // What was never tried stands in a range for each priority, of which the part down to
    // the depth that is open counts.
    let mut ranges = vec![(DUE_FIRST, due_later)];
    let mut too_deep = Vec::new();
    match depth_open.checked_add(1) {
        None => ranges.push((Slot::FIRST, DUE_FIRST)),
        Some(depth) => {
            let mut from = Slot::FIRST;
            while let Some(first) = first_slot(range(from, DUE_FIRST))? {
                let (deeper, next) = (Slot { depth, seq: 0, ..first }, first.next_priority());
                ranges.push((first, deeper));
                too_deep.push((deeper, next));
                from = next;
            }
        }
    }
    let mut later = 0;
    for entry in ranges.into_iter().flat_map(|(from, to)| range(from, to)) {
        let (key, value) = entry?;
        let slot = keys::slot_of(&key).ok_or_else(|| super::damaged("a queue's key"))?;
        if host.leased.contains_key(&slot) {
            continue;
        }
        let row: QueueRow = decode(&value)?;
        match judge.fate(store, &row)? {
            Fate::Lent => {}
            // They are looked at again and again until they may be lent.
            Fate::Later if later == SWEEP_URLS => return Ok(look),
            Fate::Later => {
                later += 1;
                continue;
            }
            Fate::Ended(end) => {
                look.ended.push((slot, row, end));
                if look.ended.len() == SWEEP_URLS {
                    return Ok(look);
                }
                continue;
            }
        }
        if row.losses == 0 {
            look.urls.push((slot, row));
        } else if look.urls.is_empty() && host.leased.is_empty() {
            look.urls.push((slot, row));
            look.suspect = true;
            return Ok(look);
        }
        if look.urls.len() == most {
            return Ok(look);
        }
    }
    if look.urls.is_empty() && host.leased.is_empty() {
        let last = Slot { due: u64::MAX, depth: u16::MAX, seq: u64::MAX };
        look.next_due = first_slot(range(due_later, last))?.map(|slot| Moment(slot.due));
        for (from, to) in too_deep {
            let depth = first_slot(range(from, to))?.map(|slot| slot.depth);
            look.next_depth = look.next_depth.into_iter().chain(depth).min();
        }
    }
    Ok(look)
}

/// The slot of the first of some rows of a queue.
fn first_slot(mut rows: crate::store::Rows<'_>) -> Result<Option<Slot>, StoreError> {
    let row = rows.next().transpose()?;
    Ok(row.and_then(|(key, _)| keys::slot_of(&key)))
}
