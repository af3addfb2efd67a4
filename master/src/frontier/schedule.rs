//! Lending: which due host is next, and which of its URLs.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use trawl_shared::{lease::Token, outcome::Class};

use super::{Crawl, Frontier, FrontierError, Host, Lease, Moment};
use crate::store::{
    Store, StoreError,
    keys::{self, HostRef, Slot},
    rows::{EndedRow, LeaseRow, QueueRow, UrlRow, UrlState, decode},
};

/// Bytes of URLs that are lent in one go, give or take a batch; far below what a
/// message may hold.
const LEND_BYTES: usize = 2 * 1024 * 1024;

/// URLs of a host over its budget that are ended in one step.
const SWEEP_URLS: usize = 256;

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
}

/// What a look into a host's queue brought.
#[derive(Default)]
struct Look {
    urls: Vec<(Slot, QueueRow)>,
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
                && let Some(batch) = self.grant(&request.worker, *at, now)?
            {
                bytes += batch.bytes();
                batches.push(batch);
            }
        }
        let mut hosts = 0;
        while hosts < request.hosts && bytes < LEND_BYTES {
            let Some(at) = self.next_due(request.crawl, now) else { break };
            if let Some(batch) = self.grant(&request.worker, at, now)? {
                bytes += batch.bytes();
                batches.push(batch);
                hosts += 1;
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
        let Some(ready) = self.host_ready(at) else { return };
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
    /// it, or nobody does and it is due.
    fn may_have(&self, worker: &str, at: HostRef, now: Moment) -> bool {
        let Some(host) = self.hosts.get(&at) else { return false };
        match host.leased.values().next() {
            Some(token) => {
                let holder = self.leases.get(token);
                !host.suspect_out
                    && holder.is_some_and(|lease| &*lease.worker == worker)
                    && !self.is_wanted_elsewhere(at)
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
    ) -> Result<Option<Batch>, FrontierError> {
        let delay = self.host_delay(at);
        let (Some(crawl), Some(host)) = (self.crawls.get_mut(&at.crawl), self.hosts.get_mut(&at))
        else {
            return Ok(None);
        };
        crawl.forget_ready(host, at.host);
        if host.leased.is_empty() && self.host_ready(at).is_none_or(|ready| ready > now) {
            // Who wants it has changed since it was said to be ready.
            self.wake(at, Moment(0));
            return Ok(None);
        }
        let (Some(crawl), Some(host)) = (self.crawls.get_mut(&at.crawl), self.hosts.get_mut(&at))
        else {
            return Ok(None);
        };
        let host_left = host_pages_left(crawl, host);
        if host_left == 0 {
            if host.leased.is_empty() {
                self.sweep(at, now)?;
            }
            return Ok(None);
        }
        let most = by_time(self.limits.lease, delay)
            .min(self.limits.urls_per_lease as u64)
            .min(crawl.pages_left())
            .min(host_left);
        if most == 0 || !crawl.may_lend() {
            self.wake(at, Moment(0));
            return Ok(None);
        }
        let look = look(&self.store, at, host, most as usize, crawl.depth_open(), now)?;
        if look.urls.is_empty() {
            self.wait(at, &look);
            return Ok(None);
        }
        Ok(Some(self.lend(worker, at, look, delay, now)))
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
        let row = LeaseRow {
            crawl: at.crawl,
            host: at.host,
            worker: worker.to_string(),
            slots: look.urls.iter().flat_map(|(slot, _)| slot.encode()).collect(),
        };
        self.changes.put(keys::lease(token), &row);
        let deadline = now + self.limits.lease;
        self.deadlines.insert((deadline, token));
        let mut batch = Batch {
            token,
            at,
            host_key: String::new(),
            spec_version: 0,
            delay,
            urls: Vec::with_capacity(open.len()),
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
        batch.urls.extend(look.urls.into_iter().map(|(slot, row)| BatchUrl {
            url: format!("{}{}", batch.host_key, row.path),
            depth: slot.depth,
            hops: row.hops,
            attempt: row.failures + row.losses + 1,
            via: row.via,
        }));
        let worker = Arc::clone(worker);
        self.leases.insert(token, Lease { worker, at, open, deadline, is_unknown: false });
        self.take_host(at);
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

    /// Ends some of the URLs of a host that has used up its budget.
    fn sweep(&mut self, at: HostRef, now: Moment) -> Result<(), FrontierError> {
        let from = keys::queue(at, Slot::FIRST);
        let to = keys::queue(at, Slot { due: u64::MAX, depth: u16::MAX, seq: u64::MAX });
        let rows: Vec<_> =
            self.store.range(&from, &to).take(SWEEP_URLS).collect::<Result<_, StoreError>>()?;
        let Some(host_key) = self.hosts.get(&at).map(|host| host.row.key.clone()) else {
            return Ok(());
        };
        for (key, value) in rows {
            let slot = keys::slot_of(&key).ok_or_else(|| super::damaged("a queue's key"))?;
            let row: QueueRow = decode(&value)?;
            let id = trawl_shared::url::UrlId::of(&format!("{host_key}{}", row.path));
            let ended = EndedRow {
                class: u32::from(Class::OverBudget.number()),
                detail: "the host's page budget was used up".into(),
                attempts: row.failures + row.losses,
                path: row.path,
                via: row.via,
                via_host: row.via_host,
                depth: u32::from(slot.depth),
                hops: row.hops,
                token: 0,
                worker: String::new(),
            };
            self.changes.remove(key);
            self.changes.put(keys::url(at, &id), &UrlRow { state: Some(UrlState::Ended(ended)) });
            if let (Some(crawl), Some(host)) =
                (self.crawls.get_mut(&at.crawl), self.hosts.get_mut(&at))
            {
                crawl.row.queued = crawl.row.queued.saturating_sub(1);
                crawl.count_depth(slot.depth, false);
                crawl.count(Class::OverBudget);
                host.row.queued = host.row.queued.saturating_sub(1);
                self.touched.insert(at);
            }
        }
        self.wake(at, Moment(0));
        self.commit(now)
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

/// Pages that may still be lent of a host.
fn host_pages_left(crawl: &Crawl, host: &Host) -> u64 {
    let spent = host.row.pages + host.leased.len() as u64;
    crawl.spec.pages_per_host.map_or(u64::MAX, |budget| budget.saturating_sub(spent))
}

/// URLs that can be fetched in half a lease at this delay; one at least.
fn by_time(lease: Duration, delay: Duration) -> u64 {
    let fit = lease.as_millis() / 2 / delay.as_millis().max(1);
    u64::try_from(fit).unwrap_or(u64::MAX).max(1)
}

/// Looks for up to `most` URLs of a host that may be fetched now: those that
/// waited for a time that has come, then those that wait for nothing, shallow
/// and old first. A suspect is found alone, and only while nothing is lent.
fn look(
    store: &impl Store,
    at: HostRef,
    host: &Host,
    most: usize,
    depth_open: u16,
    now: Moment,
) -> Result<Look, StoreError> {
    const DUE_ONCE: Slot = Slot { due: 1, depth: 0, seq: 0 };
    let range = |from: Slot, to: Slot| store.range(&keys::queue(at, from), &keys::queue(at, to));
    let due_later = Slot { due: now.0.saturating_add(1), depth: 0, seq: 0 };
    let deeper = match depth_open.checked_add(1) {
        Some(depth) => Slot { due: 0, depth, seq: 0 },
        None => DUE_ONCE,
    };
    let mut look = Look::default();
    for entry in range(DUE_ONCE, due_later).chain(range(Slot::FIRST, deeper)) {
        let (key, value) = entry?;
        let slot = keys::slot_of(&key).ok_or_else(|| super::damaged("a queue's key"))?;
        if host.leased.contains_key(&slot) {
            continue;
        }
        let row: QueueRow = decode(&value)?;
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
        let first_slot = |row: Option<_>| -> Result<Option<Slot>, StoreError> {
            let row: Option<crate::store::Row> = row.transpose()?;
            Ok(row.and_then(|(key, _)| keys::slot_of(&key)))
        };
        look.next_due = first_slot(range(due_later, last).next())?.map(|slot| Moment(slot.due));
        look.next_depth = first_slot(range(deeper, DUE_ONCE).next())?.map(|slot| slot.depth);
    }
    Ok(look)
}
