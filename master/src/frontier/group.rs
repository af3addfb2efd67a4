//! Groups of hosts that share a budget: those behind one address, those of one
//! registrable domain, and those that a crawl's `[[groups]]` name. Only so many of a
//! group are lent at the same time, so that a farm of hosts on one machine is not visited
//! as if it were many, and holds no more than its share of the workers' lanes. A place
//! may have to rest after a visit, before the next host has it.
//!
//! A host that is due while its group is full waits in the group's line, and is woken
//! when a place is free. Only groups with a place taken or resting, or somebody in
//! line, are in memory. A host's address comes from the worker that has it; it takes its place there
//! then, and if there is none, it is wanted back.

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use sha1::{Digest, Sha1};
use trawl_shared::{
    address::{from_octets, neighbourhood, octets},
    politeness::named_group,
    url::CrawlUrl,
};

use super::{Frontier, Moment};
use crate::store::{Store, keys::HostRef};

/// A group, by a hash of its name. Two groups of the same hash share a budget, which
/// slows them and harms nobody.
type GroupId = u64;

/// A place in a group, that a host has while it is lent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    group: GroupId,
    /// Places that there are.
    limit: u32,
    /// How long it rests after a visit.
    rest: Duration,
}

/// The groups that something is lent of.
pub(super) struct Groups {
    groups: HashMap<GroupId, Group>,
    /// When the frontier was opened: who was visited just before is not known.
    opened: Moment,
}

#[derive(Default)]
struct Group {
    /// Hosts of it that are lent.
    lent: u32,
    /// The most places that any crawl has given it, which those in line may be of.
    most: u32,
    /// Until when places rest that nobody has.
    resting: Vec<Moment>,
    /// Hosts that would be due, in the order in which they came.
    line: VecDeque<HostRef>,
}

impl Groups {
    pub(super) fn opened_at(opened: Moment) -> Self {
        Self { groups: HashMap::new(), opened }
    }

    /// A place's group; a new one's places have to rest first if they might have been
    /// taken before the start.
    fn of(&mut self, place: Place, now: Moment) -> &mut Group {
        let rested = self.opened + place.rest;
        self.groups.entry(place.group).or_insert_with(|| {
            let may_rest = self.opened > Moment(0) && rested > now;
            let resting = if may_rest { place.limit } else { 0 };
            Group { resting: vec![rested; resting as usize], ..Group::default() }
        })
    }

    /// Lets go of those of some places' groups of which nothing need be known any more.
    fn forget_idle(&mut self, places: &[Place], now: Moment) {
        for place in places {
            if self.groups.get(&place.group).is_some_and(|group| group.is_over(now)) {
                self.groups.remove(&place.group);
            }
        }
    }
}

impl Group {
    /// Nobody has a place, waits for one, or has left one that still rests.
    fn is_over(&self, now: Moment) -> bool {
        self.lent == 0 && self.line.is_empty() && self.resting.iter().all(|until| *until <= now)
    }
}

/// A number for a name: that of the same name of another kind is another one.
pub(super) fn id_of(kind: &str, name: &[u8]) -> u64 {
    let digest = Sha1::new().chain_update(kind).chain_update([b' ']).chain_update(name).finalize();
    digest.iter().take(8).fold(0, |id, byte| id << 8 | u64::from(*byte))
}

impl<S: Store> Frontier<S> {
    /// Whether a host that is about to be lent finds a place in each of its groups. If
    /// not, it waits for one.
    pub(super) fn has_place(&mut self, at: HostRef, now: Moment) -> bool {
        let places = self.groups_of(at);
        let has_place = self.finds_places(at, &places, now);
        if !has_place {
            self.groups.forget_idle(&places, now);
        }
        has_place
    }

    fn finds_places(&mut self, at: HostRef, places: &[Place], now: Moment) -> bool {
        for place in places {
            let group = self.groups.of(*place, now);
            group.resting.retain(|until| *until > now);
            if group.lent >= place.limit {
                group.most = group.most.max(place.limit);
                group.line.push_back(at);
                if let Some(host) = self.hosts.get_mut(&at) {
                    host.in_line = true;
                }
                return false;
            }
            if group.lent + group.resting.len() as u32 >= place.limit {
                let rested = group.resting.iter().min().copied().unwrap_or(now);
                self.wake(at, rested);
                return false;
            }
        }
        true
    }

    /// The host is lent: it takes a place in each of its groups.
    pub(super) fn take_places(&mut self, at: HostRef, now: Moment) {
        let has_some = self.gates.get(&at.host).is_none_or(|gate| !gate.places.is_empty());
        if has_some {
            return;
        }
        let places = self.groups_of(at);
        for place in &places {
            self.take_place(*place, now);
        }
        if let Some(gate) = self.gates.get_mut(&at.host) {
            gate.places = places;
        }
    }

    /// Returns how many hosts have a place in the group then.
    fn take_place(&mut self, place: Place, now: Moment) -> u32 {
        let group = self.groups.of(place, now);
        group.lent += 1;
        group.most = group.most.max(place.limit);
        group.lent
    }

    /// Something else is known of a host that is lent: it takes a place in each group that it
    /// was not known to be of, and gives up those of others. Whether any that it came to has
    /// more hosts than places now.
    pub(super) fn take_places_anew(&mut self, at: HostRef, now: Moment) -> bool {
        let places = self.groups_of(at);
        let Some(gate) = self.gates.get_mut(&at.host) else { return false };
        let former = std::mem::replace(&mut gate.places, places.clone());
        let mut is_over_full = false;
        let has = |places: &[Place], place: &Place| places.iter().any(|it| it.group == place.group);
        for place in places.iter().filter(|place| !has(&former, place)) {
            is_over_full |= self.take_place(*place, now) > place.limit;
        }
        for place in former.into_iter().filter(|place| !has(&places, place)) {
            self.free_place(place, now);
        }
        is_over_full
    }

    /// The host is free: others of its groups may have its places.
    pub(super) fn free_places(&mut self, at: HostRef, now: Moment) {
        let places = self.gates.get_mut(&at.host).map(|gate| std::mem::take(&mut gate.places));
        for place in places.unwrap_or_default() {
            self.free_place(place, now);
        }
    }

    fn free_place(&mut self, place: Place, now: Moment) {
        let Some(group) = self.groups.groups.get_mut(&place.group) else { return };
        group.lent = group.lent.saturating_sub(1);
        group.resting.retain(|until| *until > now);
        let is_idle = group.lent == 0;
        let has_room = group.lent + (group.resting.len() as u32) < group.most;
        let rested = now + place.rest;
        if rested > now {
            group.resting.push(rested);
        }
        if has_room || is_idle {
            self.call_next(place.group, rested, is_idle);
        }
        self.groups.forget_idle(&[place], now);
    }

    /// A host that was called takes no place after all: the next in line may have it.
    pub(super) fn pass_place_on(&mut self, at: HostRef, now: Moment) {
        let is_lent = self.hosts.get(&at).is_some_and(|host| !host.leased.is_empty());
        if is_lent || self.groups.groups.is_empty() {
            return;
        }
        let places = self.groups_of(at);
        for place in &places {
            let free = |group: &Group| group.lent + (group.resting.len() as u32) < place.limit;
            if self.groups.groups.get(&place.group).is_some_and(free) {
                self.call_next(place.group, now, false);
            }
        }
        self.groups.forget_idle(&places, now);
    }

    /// Calls the next host in a group's line that could be lent by then, or all of it:
    /// nobody is left in line whom nobody would call. Who has left meanwhile, or waits
    /// for something else, lets others pass.
    fn call_next(&mut self, group: GroupId, by: Moment, all: bool) {
        let line = |it: &mut Self| it.groups.groups.get_mut(&group)?.line.pop_front();
        while let Some(next) = line(self) {
            if let Some(host) = self.hosts.get_mut(&next) {
                host.in_line = false;
            }
            self.wake(next, Moment(0));
            if self.could_be_lent(next, by) && !all {
                break;
            }
        }
    }

    /// Calls everybody in every line: what they wait for has changed.
    pub(super) fn call_all(&mut self) {
        for group in self.groups.groups.keys().copied().collect::<Vec<_>>() {
            self.call_next(group, Moment(u64::MAX), true);
        }
    }

    /// Whether somebody waits for a place that a host has.
    pub(super) fn is_waited_for(&self, host: u32) -> bool {
        let places = self.gates.get(&host).map_or(&[][..], |gate| &gate.places);
        let mut groups = places.iter().filter_map(|place| self.groups.groups.get(&place.group));
        groups.any(|group| !group.line.is_empty())
    }

    fn could_be_lent(&self, at: HostRef, by: Moment) -> bool {
        let ready = self.hosts.get(&at).and_then(|host| host.ready);
        ready.is_some_and(|ready| ready <= by)
            && self.crawls.get(&at.crawl).is_some_and(super::Crawl::may_lend)
    }

    /// The groups that a host is of: the one that its crawl names, or else its address's
    /// and its domain's.
    fn groups_of(&self, at: HostRef) -> Vec<Place> {
        let (Some(crawl), Some(host)) = (self.crawls.get(&at.crawl), self.hosts.get(&at)) else {
            return Vec::new();
        };
        if crawl.spec.group_hosts == 0 && crawl.spec.groups.is_empty() {
            return Vec::new();
        }
        let Ok(url) = CrawlUrl::parse(&host.row.key) else { return Vec::new() };
        if let Some(named) = named_group(&crawl.spec, &url) {
            let group = id_of("group", named.name.as_bytes());
            let (limit, rest) = (named.hosts_at_once, named.delay.duration());
            return vec![Place { group, limit, rest }];
        }
        let limit = crawl.spec.group_hosts;
        if limit == 0 {
            return Vec::new();
        }
        let address = self.known(at.host).and_then(|row| from_octets(&row.address));
        let domain = Some(id_of("domain", url.domain().as_bytes()));
        let address = address.map(|address| id_of("address", &octets(neighbourhood(address))));
        let place = |group| Place { group, limit, rest: Duration::ZERO };
        domain.into_iter().chain(address).map(place).collect()
    }
}

#[cfg(test)]
impl<S: Store> Frontier<S> {
    /// How many groups are remembered.
    pub(super) fn groups_in_memory(&self) -> usize {
        self.groups.groups.len()
    }
}
