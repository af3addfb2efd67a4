//! A host as all crawls share it: who has it lent, when it was let go of, and how long
//! it is left alone.
//!
//! Politeness belongs to the host, not to a crawl: one crawl at a time has it, and the
//! wait between two visits is the longest that any crawl asks for that wants it.
//! Crawls that want the same host take turns, a lease at a time. What is known of the
//! host itself (that it is in trouble, how fast it answers, what people have set) is a
//! row of its own, so that it holds for all crawls and outlives the master.

use std::{net::IpAddr, time::Duration};

use trawl_shared::{
    address::octets,
    outcome::{Class, FailureKind},
    politeness,
    sabotage::{self, Fault},
    spec::{CONNECTIONS_MAX, RobotsPolicy},
};

use super::{Frontier, FrontierError, Host, Moment, RobotsNews, group::Place};
use crate::store::{
    Store, StoreError,
    keys::{self, HostRef},
    rows::GateRow,
};

/// A host in memory, beside what each crawl has of it.
#[derive(Default)]
pub(super) struct Gate {
    /// What is known of it; none if it was never visited, nor set anything for.
    row: Option<Box<GateRow>>,
    /// The crawl that has it lent.
    holder: Option<u32>,
    /// The crawl that had it last.
    last: Option<u32>,
    /// The crawls that have it in memory, ascending. Hardly ever more than one, and there
    /// are as many gates as hosts.
    crawls: Vec<u32>,
    /// What holds for it has changed while it is lent: it is wanted back.
    changed: bool,
    /// The groups in which it has a place while it is lent.
    pub(super) places: Vec<Place>,
}

/// What a fetch showed of its host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostNews {
    /// How long the fetch took; zero if that is not known.
    pub elapsed: Duration,
    /// Where the host is.
    pub address: Option<IpAddr>,
    /// The host could not be reached, or asks for rest as a whole.
    pub troubled: bool,
    /// The host's own wish, if it is troubled.
    pub retry_after: Option<Duration>,
    /// Its robots.txt, if it was fetched.
    pub robots: Option<RobotsNews>,
}

/// What a worker tells of hosts beside its reports.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Where they are.
    pub addresses: Vec<(HostRef, IpAddr)>,
    /// What became of asking for their robots.txt.
    pub told: Vec<HostTold>,
}

/// What came of a host's robots.txt before anything else was fetched from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostTold {
    /// The host, in the crawl that it is lent to.
    pub at: HostRef,
    /// What the fetch showed of it.
    pub news: HostNews,
    /// The delay that it asks for.
    pub delay: Option<Duration>,
    /// When it was told, in Unix milliseconds by the master's wall clock.
    pub told_at: u64,
}

/// What is known of a host that nothing is known of.
pub(super) fn unvisited() -> GateRow {
    GateRow { unvisited: true, ..GateRow::default() }
}

impl Gate {
    fn freed_at(&self) -> Option<Moment> {
        let row = self.row.as_ref()?;
        (!row.unvisited).then_some(Moment(row.freed_at))
    }

    fn rests_until(&self) -> Moment {
        Moment(self.row.as_ref().map_or(0, |row| row.rests_until))
    }

    fn is_blocked(&self) -> bool {
        self.row.as_ref().is_some_and(|row| row.blocked)
    }
}

impl<S: Store> Frontier<S> {
    /// Keeps a host in memory, behind its gate.
    pub(super) fn keep_host(&mut self, at: HostRef, host: Host) -> Result<&mut Host, StoreError> {
        use std::collections::hash_map::Entry;
        let gate = match self.gates.entry(at.host) {
            Entry::Occupied(gate) => gate.into_mut(),
            Entry::Vacant(place) => {
                let row: Option<GateRow> = self.changes.get(&self.store, &keys::gate(at.host))?;
                let row = row.filter(|_| !sabotage::is(Fault::ForgetVisits));
                place.insert(Gate { row: row.map(Box::new), ..Gate::default() })
            }
        };
        if let Err(place) = gate.crawls.binary_search(&at.crawl) {
            gate.crawls.reserve_exact(1);
            gate.crawls.insert(place, at.crawl);
        }
        Ok(self.hosts.entry(at).or_insert(host))
    }

    /// Lets go of a host's memory, and of its gate's after the last crawl's.
    pub(super) fn drop_host(&mut self, at: HostRef) {
        self.hosts.remove(&at);
        if let Some(gate) = self.gates.get_mut(&at.host) {
            gate.crawls.retain(|number| *number != at.crawl);
            if gate.crawls.is_empty() {
                self.gates.remove(&at.host);
            }
        }
        self.wake_others(at);
    }

    /// Says anew when the other crawls may have a host: one of them wants it no more.
    pub(super) fn wake_others(&mut self, at: HostRef) {
        let crawls = self.gates.get(&at.host).map(|gate| gate.crawls.clone());
        for number in crawls.unwrap_or_default().into_iter().filter(|number| *number != at.crawl) {
            self.wake(HostRef { crawl: number, ..at }, Moment(0));
        }
    }

    /// A crawl takes the host: the others wait until it is freed.
    pub(super) fn take_host(&mut self, at: HostRef, now: Moment) {
        self.take_places(at, now);
        let Some(gate) = self.gates.get_mut(&at.host) else { return };
        gate.holder = Some(at.crawl);
        for number in &gate.crawls {
            let at = HostRef { crawl: *number, ..at };
            if let (Some(crawl), Some(host)) =
                (self.crawls.get_mut(number), self.hosts.get_mut(&at))
            {
                crawl.forget_ready(host, at.host);
            }
        }
    }

    /// A crawl lets go of the host, whose last visits ask for a `longer` wait than usual.
    pub(super) fn free_host(&mut self, at: HostRef, now: Moment, longer: Duration) {
        if let Some(gate) = self.gates.get_mut(&at.host) {
            gate.holder = None;
            gate.changed = false;
            gate.last = Some(at.crawl);
        }
        self.host_visited(at, now + longer);
        self.free_places(at, now);
    }

    /// The host was visited: all that want it wait from now on.
    pub(super) fn host_visited(&mut self, at: HostRef, now: Moment) {
        self.change_gate(at.host, |row| {
            row.freed_at = row.freed_at.max(now.0);
            row.unvisited = false;
        });
        self.time_anew(at.host);
    }

    /// Changes what is known of a host that is in memory.
    fn change_gate(&mut self, host: u32, change: impl FnOnce(&mut GateRow)) {
        let Some(gate) = self.gates.get_mut(&host) else { return };
        let row = gate.row.get_or_insert_with(|| Box::new(unvisited()));
        change(row);
        self.changes.put(keys::gate(host), &**row);
    }

    /// Says anew when each crawl may have a host.
    pub(super) fn time_anew(&mut self, host: u32) {
        let crawls = self.gates.get(&host).map(|gate| gate.crawls.clone());
        for number in crawls.unwrap_or_default() {
            let at = HostRef { crawl: number, host };
            if let (Some(crawl), Some(host)) =
                (self.crawls.get_mut(&number), self.hosts.get_mut(&at))
            {
                crawl.forget_ready(host, at.host);
            }
            self.wake(at, Moment(0));
        }
    }

    /// Takes note of what a fetch showed of its host. A host that is in trouble rests,
    /// each time twice as long; after so many times in a row the crawl gives up what
    /// waits for it.
    pub(super) fn note_news(
        &mut self,
        at: HostRef,
        news: &HostNews,
        trouble: Option<(Class, String)>,
        now: Moment,
    ) {
        let Some(spec) = self.crawls.get(&at.crawl).map(|crawl| crawl.spec.clone()) else { return };
        if let Some(address) = news.address {
            self.note_address(at, address, false, now);
        }
        let mut failures = 0;
        self.change_gate(at.host, |row| {
            if !news.elapsed.is_zero() {
                row.answer_ms = super::millis(news.elapsed).max(1);
            }
            if !news.troubled {
                row.failures = 0;
                return;
            }
            // What was under way when the host began to rest tells of the same trouble.
            if row.failures == 0 || now.0 >= row.rests_until {
                row.failures = row.failures.saturating_add(1);
            }
            failures = row.failures;
            let rest = politeness::rest(&spec, row.failures, news.retry_after);
            row.rests_until = row.rests_until.max((now + rest).0);
            if let Some((class, detail)) = trouble {
                row.trouble = detail;
                row.trouble_class = u32::from(class.number());
            }
        });
        if let Some(host) = self.hosts.get_mut(&at) {
            host.given_up = failures >= spec.host_attempts;
        }
        self.time_anew(at.host);
    }

    /// A host that crawls have given up is tried again by all of them.
    pub(super) fn take_up(&mut self, host: u32) {
        for number in self.gates.get(&host).map_or(&[][..], |gate| &gate.crawls) {
            if let Some(host) = self.hosts.get_mut(&HostRef { crawl: *number, host }) {
                host.given_up = false;
            }
        }
    }

    /// Takes note of where a worker's hosts are. Of hosts that it does not have, it can
    /// say nothing.
    pub fn note_addresses(&mut self, worker: &str, found: &[(HostRef, IpAddr)], now: Moment) {
        for (at, address) in found {
            if self.is_lent_to(worker, *at) {
                self.note_address(*at, *address, true, now);
            }
        }
    }

    /// Takes note of what came of its hosts' robots.txt, likewise: how long the hosts are
    /// to be left alone, before they are given back.
    ///
    /// # Errors
    /// If the store fails.
    pub fn note_told(
        &mut self,
        worker: &str,
        told: &[HostTold],
        now: Moment,
    ) -> Result<(), FrontierError> {
        for HostTold { at, news, delay, told_at } in told {
            if !self.is_lent_to(worker, *at) {
                continue;
            }
            let trouble = match &news.robots {
                Some(RobotsNews::Unavailable(reason)) => {
                    Some((Class::Failed(FailureKind::RobotsUnavailable), reason.clone()))
                }
                _ => None,
            };
            if let Some(delay) = delay {
                self.note_asked_delay(*at, *delay);
            }
            self.note_news(*at, news, trouble, now);
            if let Some(robots) = &news.robots {
                self.note_robots(at.host, robots, *told_at, now)?;
            }
        }
        Ok(())
    }

    fn is_lent_to(&self, worker: &str, at: HostRef) -> bool {
        let token = self.hosts.get(&at).and_then(|host| host.leased.values().next());
        let lease = token.and_then(|token| self.leases.get(token));
        lease.is_some_and(|lease| &*lease.worker == worker)
    }

    /// Takes note of where a host is, for its next lease, and for this one if it has no place
    /// at an address yet, or is to take it `anew`: a host of several addresses answers now
    /// from one, now from another, and keeps the place that it has.
    fn note_address(&mut self, at: HostRef, address: IpAddr, anew: bool, now: Moment) {
        /// A lent host's places, if its address is not known.
        const WITHOUT_ADDRESS: usize = 1;
        let address = octets(address);
        let is_new = self.known(at.host).is_none_or(|row| row.address != address);
        if is_new {
            self.change_gate(at.host, |row| row.address = address);
        }
        let Some(gate) = self.gates.get(&at.host) else { return };
        let takes_place = gate.places.len() <= WITHOUT_ADDRESS || anew && is_new;
        if gate.holder == Some(at.crawl) && takes_place {
            let is_over_full = self.take_places_anew(at, now);
            if let Some(gate) = self.gates.get_mut(&at.host) {
                gate.changed |= is_over_full;
            }
        }
    }

    /// Takes note of the delay that a host asks a crawl for.
    pub(super) fn note_asked_delay(&mut self, at: HostRef, delay: Duration) {
        let delay_ms = super::millis(delay);
        if let Some(host) = self.hosts.get_mut(&at)
            && host.row.delay_ms != delay_ms
        {
            host.row.delay_ms = delay_ms;
            self.touched.insert(at);
        }
        self.note_robots_delay(at.host, delay_ms);
    }

    /// Takes note of the delay that a host's robots.txt asks for.
    pub(super) fn note_robots_delay(&mut self, host: u32, delay_ms: u64) {
        if self.known(host).map_or(0, |row| row.robots_delay_ms) != delay_ms {
            self.change_gate(host, |row| row.robots_delay_ms = delay_ms);
        }
    }

    /// From when on a crawl may have the host; none while any crawl has it, and while it
    /// is blocked.
    pub(super) fn host_ready(&self, at: HostRef) -> Option<Moment> {
        let gate = self.gates.get(&at.host)?;
        if gate.holder.is_some() || gate.is_blocked() {
            return None;
        }
        let rested = gate.freed_at().map_or(Moment(0), |freed| freed + self.host_wait(at));
        Some(rested.max(gate.rests_until()))
    }

    /// Whether people want a host left alone.
    pub(super) fn is_blocked(&self, host: u32) -> bool {
        self.gates.get(&host).is_some_and(Gate::is_blocked)
    }

    /// Whether what holds for a host has changed since it was lent.
    pub(super) fn has_changed(&self, host: u32) -> bool {
        self.gates.get(&host).is_some_and(|gate| gate.changed)
    }

    /// Whether a host is to be left alone now: it is blocked, rests, or is wanted back.
    pub(super) fn is_left_alone(&self, host: u32, now: Moment) -> bool {
        self.gates
            .get(&host)
            .is_some_and(|gate| gate.is_blocked() || gate.changed || gate.rests_until() > now)
    }

    /// Whose turn it is at a host that a crawl could have: another's, if that one had
    /// it last and the other could have it as well.
    pub(super) fn turn_at(&self, at: HostRef, now: Moment) -> HostRef {
        let had_it_last = self.gates.get(&at.host).is_some_and(|gate| gate.last == Some(at.crawl));
        let could = |other: &HostRef| {
            let ready = self.hosts.get(other).and_then(|host| host.ready);
            ready.is_some_and(|ready| ready <= now)
        };
        if had_it_last { self.others(at).find(could).unwrap_or(at) } else { at }
    }

    /// Whether another crawl waits for the host and could use it.
    pub(super) fn is_wanted_elsewhere(&self, at: HostRef) -> bool {
        self.others(at).next().is_some()
    }

    /// The wait between two visits of a host, its speed left aside: the longest that
    /// anyone asks for who wants it; or what people have set, if the host itself asks
    /// for no more.
    pub(super) fn host_delay(&self, at: HostRef) -> Duration {
        // What one crawl has read in the host's robots.txt holds for the others, too.
        let robots = self.known(at.host).map_or(0, |row| row.robots_delay_ms);
        let asked = |crawl: &super::Crawl| match crawl.spec.robots {
            RobotsPolicy::Obey => Duration::from_millis(robots),
            RobotsPolicy::Ignore => Duration::ZERO,
        };
        match self.known(at.host).and_then(|row| row.set_delay_ms) {
            Some(set) => {
                let set = Duration::from_millis(set);
                self.longest(at, |crawl, host| {
                    set.max(Duration::from_millis(host.row.delay_ms)).max(asked(crawl))
                })
            }
            None => self.longest(at, |crawl, host| crawl.delay(host).max(asked(crawl))),
        }
    }

    /// The wait after the last visit of a host: longer if it answers slowly.
    pub(super) fn host_wait(&self, at: HostRef) -> Duration {
        let delay = self.host_delay(at);
        match self.known(at.host) {
            Some(row) if row.set_delay_ms.is_none() => {
                let answer = Duration::from_millis(row.answer_ms);
                delay.max(
                    self.longest(at, |crawl, _| politeness::adaptive_delay(&crawl.spec, answer)),
                )
            }
            _ => delay,
        }
    }

    /// Fetches of a host that may be under way at the same time: as many as each crawl
    /// allows that wants it, or as people have set.
    pub(super) fn host_connections(&self, at: HostRef) -> u32 {
        let set = self.known(at.host).and_then(|row| row.set_connections);
        let asked = self.crawls.get(&at.crawl).map_or(1, |crawl| crawl.spec.host_connections);
        set.unwrap_or(asked).clamp(1, CONNECTIONS_MAX)
    }

    /// The most of what the crawls say that want a host.
    fn longest(&self, at: HostRef, of: impl Fn(&super::Crawl, &Host) -> Duration) -> Duration {
        let ask = |at: HostRef| Some(of(self.crawls.get(&at.crawl)?, self.hosts.get(&at)?));
        std::iter::once(at).chain(self.others(at)).filter_map(ask).max().unwrap_or_default()
    }

    /// What is known of a host in memory, whatever crawl it is of.
    pub(super) fn known(&self, host: u32) -> Option<&GateRow> {
        self.gates.get(&host)?.row.as_deref()
    }

    /// What is known of a host, in memory or not.
    pub(super) fn gate_row(&self, host: u32) -> Result<Option<GateRow>, StoreError> {
        match self.gates.get(&host) {
            Some(gate) => Ok(gate.row.as_deref().cloned()),
            None => self.changes.get(&self.store, &keys::gate(host)),
        }
    }

    /// Changes what people have set of a host, and times it anew.
    pub(super) fn set_gate(
        &mut self,
        host: u32,
        change: impl FnOnce(&mut GateRow),
    ) -> Result<(), StoreError> {
        if let Some(gate) = self.gates.get_mut(&host) {
            gate.changed = gate.holder.is_some();
            self.change_gate(host, change);
            self.time_anew(host);
            return Ok(());
        }
        let mut row = self.gate_row(host)?.unwrap_or_else(unvisited);
        change(&mut row);
        self.changes.put(keys::gate(host), &row);
        Ok(())
    }

    /// The other crawls that want a host.
    fn others(&self, at: HostRef) -> impl Iterator<Item = HostRef> {
        let crawls = self.gates.get(&at.host).into_iter().flat_map(|gate| &gate.crawls);
        crawls
            .filter(move |number| **number != at.crawl)
            .map(move |number| HostRef { crawl: *number, ..at })
            .filter(|at| {
                let wants = |crawl: &super::Crawl| {
                    crawl.may_lend() && self.hosts.get(at).is_some_and(|host| host.row.queued > 0)
                };
                self.crawls.get(&at.crawl).is_some_and(wants)
            })
    }
}
