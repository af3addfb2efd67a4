//! A host as all crawls share it: who has it lent, and when it was let go of.
//!
//! Politeness belongs to the host, not to a crawl: one crawl at a time has it,
//! and the wait between two visits is the longest that any crawl asks for that
//! wants it. Crawls that want the same host take turns, a lease at a time.

use std::time::Duration;

use trawl_shared::sabotage::{self, Fault};

use super::{Frontier, Host, Moment};
use crate::store::{
    Store, StoreError,
    keys::{self, HostRef},
    rows::GateRow,
};

/// A host in memory, beside what each crawl has of it.
#[derive(Default)]
pub(super) struct Gate {
    /// When it was last let go of, if it ever was.
    freed_at: Option<Moment>,
    /// The crawl that has it lent.
    holder: Option<u32>,
    /// The crawl that had it last.
    last: Option<u32>,
    /// The crawls that have it in memory, ascending. Hardly ever more than one, and there
    /// are as many gates as hosts.
    crawls: Vec<u32>,
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
                let freed_at = row.map(|row| Moment(row.freed_at));
                place.insert(Gate { freed_at, ..Gate::default() })
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
    pub(super) fn take_host(&mut self, at: HostRef) {
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

    /// A crawl lets go of the host.
    pub(super) fn free_host(&mut self, at: HostRef, now: Moment) {
        if let Some(gate) = self.gates.get_mut(&at.host) {
            gate.holder = None;
            gate.last = Some(at.crawl);
        }
        self.host_visited(at, now);
    }

    /// The host was visited: all that want it wait from now on.
    pub(super) fn host_visited(&mut self, at: HostRef, now: Moment) {
        let Some(gate) = self.gates.get_mut(&at.host) else { return };
        gate.freed_at = Some(now);
        self.changes.put(keys::gate(at.host), &GateRow { freed_at: now.0 });
        for number in gate.crawls.clone() {
            let at = HostRef { crawl: number, ..at };
            if let (Some(crawl), Some(host)) =
                (self.crawls.get_mut(&number), self.hosts.get_mut(&at))
            {
                crawl.forget_ready(host, at.host);
            }
            self.wake(at, Moment(0));
        }
    }

    /// From when on a crawl may have the host; none while any crawl has it.
    pub(super) fn host_ready(&self, at: HostRef) -> Option<Moment> {
        let gate = self.gates.get(&at.host)?;
        if gate.holder.is_some() {
            return None;
        }
        Some(gate.freed_at.map_or(Moment(0), |freed_at| freed_at + self.host_delay(at)))
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

    /// The wait between two visits of a host: the longest that anyone asks for who
    /// wants it.
    pub(super) fn host_delay(&self, at: HostRef) -> Duration {
        let delay_in = |at: HostRef| {
            let (crawl, host) = (self.crawls.get(&at.crawl)?, self.hosts.get(&at)?);
            Some(crawl.delay(host))
        };
        let others = self.others(at).map(delay_in);
        std::iter::once(delay_in(at)).chain(others).flatten().max().unwrap_or_default()
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
