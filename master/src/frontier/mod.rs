//! The frontier: what to fetch, and when; what was ever seen; and who has what.
//!
//! A state machine over a [`Store`]. It takes the time and chance as arguments,
//! does no I/O but through its store, and starts nothing. Every call stages its
//! changes; [`Frontier::commit`] writes all of them as one batch, together with
//! the counts that they change, so that the counts are exact at any crash.
//!
//! In reading order: `admit` takes URLs in, `traps` says which URLs are not worth fetching,
//! `domains` of which hosts none are, `gate` when a host may be visited, `group` how many
//! hosts of one address, `robots` keeps what hosts allow, `schedule` lends due hosts' URLs to
//! workers, `lease` takes them back, `report` ends them; `steer`, `hosts` and `quarantine` are
//! for people to step in, `status` and `why` tell them how things stand, `walk` hands out all
//! of it.
//!
//! In memory are only hosts that have something queued or lent, and leases; both
//! are rebuilt from the store by [`Frontier::open`]. `patterns` remembers of other hosts,
//! and of domains, as far as there is room, what their last pages said.

mod admit;
mod changes;
mod domains;
mod gate;
mod group;
mod hosts;
mod lease;
#[cfg(test)]
pub(crate) mod model;
mod patterns;
mod quarantine;
mod report;
mod robots;
mod schedule;
mod status;
mod steer;
mod traps;
mod walk;
mod why;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    ops::Add,
    sync::Arc,
    time::Duration,
};

pub(crate) use self::admit::StoredSpec;
pub use self::{
    admit::{Offer, Submitted},
    changes::Written,
    gate::{Found, HostNews, HostTold},
    hosts::{HostAccount, HostChange},
    lease::HandBack,
    quarantine::{Quarantined, Release, Released},
    report::{Judgement, Outcome, Report, Ticket},
    robots::{ROBOTS_BYTES_MAX, RobotsFile, RobotsNews, SILENCE_MAX_MS},
    schedule::{Batch, BatchUrl, LeaseRequest},
    status::{CrawlStatus, HostStatus, Specification, Trouble},
    walk::Piece,
    why::{Account, Holder, Reach, State, Via},
};
use self::{
    changes::Changes,
    gate::Gate,
    group::Groups,
    patterns::{LastUsed, Patterns, Prints},
    walk::Walk,
};
use crate::{
    pages::Committed,
    store::{
        Store, StoreError,
        keys::{self, HostRef, Slot},
        rows::{CrawlRow, Finish, HostRow, LeaseRow, MetaRow, QueueRow, Wish, decode},
    },
};
use trawl_shared::{
    canon::Canon,
    known::Known,
    lease::Token,
    outcome::Class,
    rules::{PRIORITY_MAX, Rules},
    sabotage::{self, Fault},
    scope::Scope,
    spec::{CrawlSpec, SpecError},
    url::CANON_VERSION,
};

/// A point on the master's own clock: milliseconds that it has been running since
/// its data directory was made. It stands still while the master is down, so no
/// wait is ever cut short by a restart, nor by a stepped wall clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Moment(pub u64);

impl Add<Duration> for Moment {
    type Output = Self;

    fn add(self, wait: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(wait.as_millis()).unwrap_or(u64::MAX)))
    }
}

/// Rows of hosts that are in memory beside the hosts themselves while they are loaded.
const HOSTS_AT_ONCE: usize = 1_000;

/// The frontier's limits.
#[derive(Clone, Debug)]
pub struct Limits {
    /// How long a lease lasts unless renewed.
    pub lease: Duration,
    /// URLs lent in one lease at most.
    pub urls_per_lease: usize,
    /// Leases that may run out with a URL in them before it is quarantined.
    pub losses: u32,
    /// URL ids kept in memory to answer for known links, 16 bytes each.
    pub known_urls: usize,
    /// Host numbers kept in memory, about 100 bytes each.
    pub known_hosts: usize,
    /// Hosts whose counts of patterns and last pages' fingerprints are kept in memory, up
    /// to twice as many, about 250 bytes each; and domains whose hosts' first pages' are.
    pub pattern_hosts: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            lease: Duration::from_secs(30),
            urls_per_lease: 128,
            losses: 4,
            known_urls: 1 << 20,
            known_hosts: 1 << 16,
            pattern_hosts: 1 << 15,
        }
    }
}

/// Why the frontier could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum FrontierError {
    /// The store failed; the master must stop.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The specification cannot be met.
    #[error("{0}")]
    Spec(String),
    /// The data directory was made by other canonicalisation rules.
    #[error(
        "the data directory's URL ids were made by canonicalisation rules {found}, this build has \
         rules {CANON_VERSION}; use the build that made it"
    )]
    Canon {
        /// The rules that the data directory was made by.
        found: u32,
    },
}

/// The frontier of all crawls of a data directory.
pub struct Frontier<S> {
    store: S,
    changes: Changes,
    limits: Limits,
    meta: MetaRow,
    last_token: Token,
    crawls: BTreeMap<u32, Crawl>,
    /// The crawl that the next lease looks at first, so that all get their turn.
    turn: u32,
    hosts: HashMap<HostRef, Host>,
    gates: HashMap<u32, Gate>,
    groups: Groups,
    /// Hosts that have changed since the last commit.
    touched: BTreeSet<HostRef>,
    host_numbers: HashMap<String, u32>,
    patterns: LastUsed<HostRef, Patterns>,
    /// First pages of a crawl's domains.
    domains: LastUsed<(u32, u64), Prints>,
    known: Known,
    leases: HashMap<Token, Lease>,
    deadlines: BTreeSet<(Moment, Token)>,
    walk: Option<Walk>,
}

/// A crawl in memory.
struct Crawl {
    row: CrawlRow,
    dirty: bool,
    spec: Arc<CrawlSpec>,
    spec_json: Arc<str>,
    anchors: BTreeSet<String>,
    scope: Arc<Scope>,
    canon: Canon,
    rules: Arc<Rules>,
    /// Hosts with something queued and no lease, by when they may be visited.
    ready: BTreeSet<(Moment, u32)>,
    /// Hosts whose next URL lies deeper than the crawl has come, by that depth.
    parked: BTreeSet<(u16, u32)>,
    running_since: Moment,
    busy_hosts: u64,
    troubles: VecDeque<Trouble>,
}

/// A host in memory.
#[derive(Default)]
struct Host {
    row: HostRow,
    /// When it stands in its crawl's `ready`.
    ready: Option<Moment>,
    /// Where it stands in its crawl's `parked`.
    parked: Option<u16>,
    /// What of its queue is lent, and under which token.
    leased: BTreeMap<Slot, Token>,
    /// A lent URL has lost a lease before and is lent alone.
    suspect_out: bool,
    /// It failed too often in a row: what waits for it is ended.
    given_up: bool,
    /// It stands in the line of a group, and is called when there is a place.
    in_line: bool,
    /// By how much the wait after some lent URL is longer than the host's.
    longer_wait: Duration,
}

/// A lease in memory.
struct Lease {
    worker: Arc<str>,
    at: HostRef,
    /// What of it has not ended.
    open: BTreeSet<Slot>,
    deadline: Moment,
    /// Its worker lives, and does not seem to know of it.
    is_unknown: bool,
}

impl<S: Store> Frontier<S> {
    /// Takes up what the store holds, or makes a new frontier in it. Returns it
    /// with the time at which its clock goes on. Every lease found gets its full
    /// duration again.
    ///
    /// # Errors
    /// If the store fails or was written by rules that this build does not have.
    pub fn open(
        mut store: S,
        limits: Limits,
        instance: &str,
    ) -> Result<(Self, Moment), FrontierError> {
        let mut meta = match store.get(keys::META)? {
            Some(bytes) => decode::<MetaRow>(&bytes)?,
            None => MetaRow {
                instance: instance.to_owned(),
                next_host: 1,
                next_crawl: 1,
                canon_version: CANON_VERSION,
                ..MetaRow::default()
            },
        };
        if meta.canon_version != CANON_VERSION {
            return Err(FrontierError::Canon { found: meta.canon_version });
        }
        // The new epoch is durable before any token of it is given.
        meta.epoch += 1;
        store.apply(vec![(keys::META.to_vec(), Some(prost::Message::encode_to_vec(&meta)))])?;
        store.sync()?;
        let now = Moment(meta.clock);
        let mut frontier = Self {
            store,
            changes: Changes::default(),
            last_token: Token::first_of(meta.epoch),
            crawls: BTreeMap::new(),
            turn: 0,
            hosts: HashMap::new(),
            gates: HashMap::new(),
            groups: Groups::opened_at(now),
            touched: BTreeSet::new(),
            host_numbers: HashMap::new(),
            patterns: LastUsed::new(limits.pattern_hosts),
            domains: LastUsed::new(limits.pattern_hosts),
            known: Known::new(limits.known_urls),
            leases: HashMap::new(),
            deadlines: BTreeSet::new(),
            walk: None,
            limits,
            meta,
        };
        frontier.load_crawls(now)?;
        frontier.load_leases(now)?;
        frontier.load_hosts()?;
        Ok((frontier, now))
    }

    fn load_crawls(&mut self, now: Moment) -> Result<(), FrontierError> {
        let (from, to) = keys::CRAWLS;
        let rows: Vec<_> = self.store.range(from, to).collect::<Result<_, _>>()?;
        for (key, value) in rows {
            let number = key.get(1..5).and_then(|bytes| bytes.try_into().ok());
            let number = u32::from_be_bytes(number.ok_or_else(|| damaged("a crawl's key"))?);
            let row: CrawlRow = decode(&value)?;
            let stored = StoredSpec::read(&self.store, number, &row)?;
            let crawl = Crawl::new(row, stored, now)?;
            self.crawls.insert(number, crawl);
        }
        Ok(())
    }

    fn load_leases(&mut self, now: Moment) -> Result<(), FrontierError> {
        let (from, to) = keys::LEASES;
        let rows: Vec<_> = self.store.range(from, to).collect::<Result<_, _>>()?;
        for (key, value) in rows {
            let token = keys::lease_token(&key).ok_or_else(|| damaged("a lease's key"))?;
            let row: LeaseRow = decode(&value)?;
            let at = HostRef { crawl: row.crawl, host: row.host };
            let (mut open, mut suspect) = (BTreeSet::new(), false);
            for slot in row.slots.chunks(Slot::BYTES) {
                let slot = Slot::decode(slot).ok_or_else(|| damaged("a lease"))?;
                // What has ended meanwhile has left its place.
                if let Some(row) = self.store.get(&keys::queue(at, slot))? {
                    suspect |= decode::<QueueRow>(&row)?.losses > 0;
                    open.insert(slot);
                }
            }
            if open.is_empty() {
                self.changes.remove(key);
                continue;
            }
            let host = self.load_host(at)?;
            host.leased.extend(open.iter().map(|slot| (*slot, token)));
            host.suspect_out |= suspect;
            host.longer_wait = host.longer_wait.max(Duration::from_millis(row.longer_wait_ms));
            if let Some(crawl) = self.crawls.get_mut(&at.crawl) {
                crawl.row.leases_kept += 1;
                crawl.dirty = true;
            }
            self.take_host(at, now);
            let deadline = now + self.limits.lease;
            self.deadlines.insert((deadline, token));
            self.leases.insert(
                token,
                Lease { worker: row.worker.into(), at, open, deadline, is_unknown: false },
            );
        }
        // A host that is lent under several tokens is busy once.
        for (number, crawl) in &mut self.crawls {
            let busy = self.hosts.iter().filter(|(at, _)| at.crawl == *number).count();
            crawl.busy_hosts = busy as u64;
        }
        Ok(())
    }

    fn load_hosts(&mut self) -> Result<(), FrontierError> {
        for number in self.crawls.keys().copied().collect::<Vec<_>>() {
            let (mut from, to) = keys::hosts(number);
            loop {
                let rows: Vec<_> =
                    self.store.range(&from, &to).take(HOSTS_AT_ONCE).collect::<Result<_, _>>()?;
                let Some((last, _)) = rows.last() else { break };
                // The key that comes next after it.
                from = [last, &[0][..]].concat();
                for (key, value) in rows {
                    let at = keys::host_of(&key).ok_or_else(|| damaged("a host's key"))?;
                    let row: HostRow = decode(&value)?;
                    if row.queued > 0 && !self.hosts.contains_key(&at) {
                        self.keep_host(at, Host { row, ..Host::default() })?;
                    }
                }
            }
        }
        // When a host is ready depends on all crawls that want it.
        for at in self.hosts.keys().copied().collect::<Vec<_>>() {
            self.wake(at, Moment(0));
        }
        Ok(())
    }

    /// The host in memory, read from the store if it has been idle.
    fn load_host(&mut self, at: HostRef) -> Result<&mut Host, StoreError> {
        if !self.hosts.contains_key(&at) {
            let row = self.changes.get(&self.store, &keys::host(at))?;
            let row = row.ok_or_else(|| damaged("a host is missing"))?;
            self.keep_host(at, Host { row, ..Host::default() })?;
            // An idle host is let go of again by the next commit.
            self.touched.insert(at);
        }
        self.hosts.get_mut(&at).ok_or_else(|| damaged("a host is missing"))
    }

    /// Ends crawls that are done, and writes everything staged since the last
    /// commit as one batch. It counts after [`Frontier::sync`].
    ///
    /// # Errors
    /// If the store fails; the master must stop then.
    pub fn commit(&mut self, now: Moment) -> Result<(), FrontierError> {
        for (number, crawl) in self.crawls.iter_mut().filter(|(_, crawl)| crawl.dirty) {
            crawl.dirty = false;
            crawl.settle(now);
            self.changes.put(keys::crawl(*number), &crawl.row);
        }
        self.unpark();
        self.put_hosts();
        if self.changes.is_empty() {
            return Ok(());
        }
        self.meta.clock = now.0;
        self.changes.put(keys::META.to_vec(), &self.meta);
        let mut batch = self.changes.take();
        if let Some(walk) = &mut self.walk {
            walk.note(&batch);
        }
        if sabotage::is(Fault::SplitCommit) {
            let counts = batch.extract_if(.., |(key, _)| key.starts_with(keys::CRAWLS.0));
            let counts = counts.collect();
            self.store.apply(std::mem::replace(&mut batch, counts))?;
        }
        self.store.apply(batch)?;
        Ok(())
    }

    /// Stages the rows of hosts that have changed, and lets go of those that have
    /// nothing queued and nothing lent.
    fn put_hosts(&mut self) {
        for at in std::mem::take(&mut self.touched) {
            let Some(host) = self.hosts.get_mut(&at) else { continue };
            self.changes.put(keys::host(at), &host.row);
            if host.row.queued > 0 || !host.leased.is_empty() {
                continue;
            }
            if let Some(crawl) = self.crawls.get_mut(&at.crawl) {
                crawl.forget_waiting(host, at.host);
            }
            self.drop_host(at);
        }
    }

    /// Commits the time that has passed, if nothing else: what waits for a time goes
    /// on from here after a restart.
    ///
    /// # Errors
    /// As [`Frontier::commit`].
    pub fn checkpoint(&mut self, now: Moment) -> Result<(), FrontierError> {
        for crawl in self.crawls.values_mut() {
            crawl.dirty |= crawl.is_running();
        }
        self.changes.put(keys::META.to_vec(), &self.meta);
        self.commit(now)
    }

    /// Returns when every commit so far is on stable storage.
    ///
    /// # Errors
    /// If the store fails; the master must stop then.
    pub fn sync(&mut self) -> Result<(), FrontierError> {
        Ok(self.store.sync()?)
    }

    /// What was written since it was opened.
    pub fn written(&self) -> Written {
        self.changes.written()
    }

    /// The store, with what was committed.
    pub fn into_store(self) -> S {
        self.store
    }

    /// Starts of the master on this data directory.
    pub fn epoch(&self) -> u32 {
        self.meta.epoch
    }

    /// The number of the crawl of this name, or of the only one.
    pub fn crawl_number(&self, name: Option<&str>) -> Option<u32> {
        let mut named =
            self.crawls.iter().filter(|(_, crawl)| name.is_none_or(|name| crawl.row.name == name));
        let (number, _) = named.next()?;
        named.next().is_none().then_some(*number)
    }

    /// Names the data directory.
    pub fn instance(&self) -> &str {
        &self.meta.instance
    }

    /// How long a lease lasts.
    pub fn lease_duration(&self) -> Duration {
        self.limits.lease
    }

    /// The page store's committed end in a crawl.
    pub fn committed_pages(&self, crawl: u32) -> Committed {
        let row = self.crawls.get(&crawl).map(|crawl| &crawl.row);
        row.map_or_else(Committed::default, |row| Committed {
            segment: row.segment,
            bytes: row.segment_bytes,
        })
    }

    /// Stages the page store's end, to be committed with the pages' outcomes.
    pub fn set_committed_pages(&mut self, crawl: u32, committed: Committed) {
        if let Some(crawl) = self.crawls.get_mut(&crawl) {
            crawl.row.segment = committed.segment;
            crawl.row.segment_bytes = committed.bytes;
            crawl.dirty = true;
        }
    }
}

impl Crawl {
    fn new(row: CrawlRow, stored: admit::StoredSpec, now: Moment) -> Result<Self, FrontierError> {
        let odd = |error: SpecError| FrontierError::Spec(error.to_string());
        let scope = Scope::new(&stored.spec, stored.anchors.iter().cloned()).map_err(odd)?;
        let spec = &stored.spec;
        Ok(Self {
            row,
            dirty: false,
            canon: Canon::new(&spec.canon, &spec.drop_params).map_err(odd)?,
            rules: Arc::new(Rules::new(&spec.rules).map_err(odd)?),
            spec_json: stored.spec.to_json().into(),
            spec: Arc::new(stored.spec),
            anchors: stored.anchors,
            scope: Arc::new(scope),
            ready: BTreeSet::new(),
            parked: BTreeSet::new(),
            running_since: now,
            busy_hosts: 0,
            troubles: VecDeque::new(),
        })
    }

    fn is_running(&self) -> bool {
        self.row.finish == Finish::Running as i32
    }

    /// The priority of a URL at a depth.
    fn priority(&self, url: &str, depth: u16) -> i32 {
        let by_depth = self.spec.priority_per_link.saturating_mul(depth.into());
        let by_rule = if self.rules.is_empty() { None } else { self.rules.find(url) };
        let by_rule = by_rule.map_or(0, |rule| rule.priority);
        by_rule.saturating_add(by_depth).clamp(-PRIORITY_MAX, PRIORITY_MAX)
    }

    /// Brings the running time up to date, and finishes the crawl when it is done.
    fn settle(&mut self, now: Moment) {
        if !self.is_running() {
            return;
        }
        if self.row.leased > 0 || self.is_wanted() {
            self.row.ran_ms += now.0.saturating_sub(self.running_since.0);
        }
        self.running_since = now;
        if self.row.leased > 0 {
            return;
        }
        if self.row.queued == 0 {
            self.row.finish = Finish::Complete as i32;
        } else if self.row.wish == Wish::Stop as i32 {
            self.row.finish = Finish::Stopped as i32;
        } else if self.pages_left() == 0 {
            self.row.finish = Finish::PageBudget as i32;
        }
    }

    /// Whether people want it to go on.
    fn is_wanted(&self) -> bool {
        self.row.wish == Wish::Run as i32
    }

    /// Pages that may still be lent out.
    fn pages_left(&self) -> u64 {
        let spent = self.pages() + self.row.leased;
        self.spec.pages.map_or(u64::MAX, |budget| budget.saturating_sub(spent))
    }

    /// Pages fetched.
    fn pages(&self) -> u64 {
        Class::all().filter(|class| class.is_page()).map(|class| self.outcome(class)).sum()
    }

    fn outcome(&self, class: Class) -> u64 {
        self.row.outcomes.get(usize::from(class.number())).copied().unwrap_or(0)
    }

    /// Counts an ended URL.
    fn count(&mut self, class: Class) {
        let number = usize::from(class.number());
        if self.row.outcomes.len() <= number {
            self.row.outcomes.resize(Class::COUNT, 0);
        }
        self.row.outcomes[number] += 1;
        self.dirty = true;
    }

    /// Takes an ended URL out of the count.
    fn uncount(&mut self, class: Class) {
        if let Some(count) = self.row.outcomes.get_mut(usize::from(class.number())) {
            *count = count.saturating_sub(1);
        }
        self.dirty = true;
    }

    /// The deepest that may be lent now. With a depth limit, a depth is opened
    /// when everything above it has ended: then a URL's depth is the shortest way
    /// to it, and the limit cuts the same URLs in every run.
    fn depth_open(&self) -> u16 {
        if self.spec.depth.is_none() {
            return u16::MAX;
        }
        let open = self.row.open_by_depth.iter().position(|open| *open > 0);
        open.map_or(u16::MAX, |depth| u16::try_from(depth).unwrap_or(u16::MAX))
    }

    /// Counts URLs at a depth in or out.
    fn count_depth(&mut self, depth: u16, opened: bool) {
        if self.spec.depth.is_none() {
            return;
        }
        let depth = usize::from(depth);
        let counts = &mut self.row.open_by_depth;
        if counts.len() <= depth {
            counts.resize(depth + 1, 0);
        }
        counts[depth] = if opened { counts[depth] + 1 } else { counts[depth].saturating_sub(1) };
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn damaged(what: &str) -> StoreError {
    StoreError::Damaged(format!("{what} cannot be read"))
}
