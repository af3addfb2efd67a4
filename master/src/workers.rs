//! The workers that the master knows: who has joined, what each says that it
//! does, and which are to drain.
//!
//! Kept in memory: after a restart of the master every worker joins again. A
//! worker that has not been heard of for long is forgotten; its leases have run
//! out long before.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};

use crate::frontier::Moment;

/// Workers known at the same time at most.
const WORKERS_MAX: usize = 10_000;

/// After how many lease durations without a word a worker is forgotten.
const FORGET_AFTER: u32 = 20;

/// A worker, as it names itself in its calls.
#[derive(Clone, Debug)]
pub struct Caller {
    /// Its name.
    pub worker: Arc<str>,
    /// The stay that it was given when it joined.
    pub session: u64,
}

/// What a worker says when it joins.
#[derive(Clone, Debug, Default)]
pub struct Hello {
    /// Its version.
    pub version: String,
    /// Where it calls from; none within the master's process.
    pub address: Option<SocketAddr>,
    /// Hosts that it can fetch from at the same time.
    pub lanes: u32,
    /// It is the same process as before.
    pub again: bool,
    /// It had been told to drain.
    pub draining: bool,
    /// The session that it had.
    pub former: u64,
}

/// What a worker says that it does. Counts are since its start.
#[derive(Clone, Copy, Debug, Default)]
pub struct Activity {
    /// Hosts that it fetches from.
    pub lanes_busy: u32,
    /// Pages fetched.
    pub pages: u64,
    /// Fetches that failed.
    pub failures: u64,
    /// Bytes received.
    pub wire_bytes: u64,
    /// Bytes that wait for the master.
    pub outbox_bytes: u64,
}

/// A worker in the list.
#[derive(Clone, Debug)]
pub struct WorkerStatus {
    /// Its name.
    pub name: Arc<str>,
    /// What it said when it joined.
    pub hello: Hello,
    /// What it last said that it does.
    pub activity: Activity,
    /// In one word.
    pub state: WorkerState,
    /// Leases that it holds.
    pub leases: u32,
    /// URLs in them.
    pub urls: u64,
    /// Since it joined.
    pub joined: Duration,
    /// Since it was last heard.
    pub heard: Duration,
}

/// What a worker is, in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WorkerState {
    /// It holds leases.
    Working,
    /// It holds none, and waits for some.
    Idle,
    /// It ends what it has and takes nothing more.
    Draining,
    /// It has ended what it had.
    Drained,
    /// It has not been heard of for the time of a lease.
    Silent,
}

/// Why a worker's call was not heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unheard {
    /// The session is not known, as after a restart of the master.
    #[error("the master does not know this session; join again")]
    JoinAgain,
    /// Another process has the name now.
    #[error(
        "another worker has joined under this name; give each worker a --name of its own, or none"
    )]
    Replaced,
    /// There are too many.
    #[error("the master knows {WORKERS_MAX} workers already, which is its limit")]
    TooMany,
    /// There is no room for what it brings.
    #[error("the master's disk is nearly full; it takes reports again when there is room")]
    NoRoom,
}

/// The workers, by name.
#[derive(Debug)]
pub(crate) struct Workers {
    by_name: BTreeMap<Arc<str>, Worker>,
    next_session: u64,
}

#[derive(Debug)]
struct Worker {
    session: u64,
    hello: Hello,
    activity: Activity,
    joined: Moment,
    heard: Moment,
    draining: bool,
}

impl Workers {
    /// No workers yet. Sessions are numbered within the master's epoch.
    pub(crate) fn new(epoch: u32) -> Self {
        Self { by_name: BTreeMap::new(), next_session: u64::from(epoch) << 32 | 1 }
    }

    /// Opens a session for a worker, in place of a former one of its name.
    pub(crate) fn join(
        &mut self,
        name: &Arc<str>,
        hello: Hello,
        now: Moment,
    ) -> Result<u64, Unheard> {
        if self.by_name.len() >= WORKERS_MAX && !self.by_name.contains_key(name) {
            return Err(Unheard::TooMany);
        }
        let session = self.next_session;
        self.next_session += 1;
        let draining = hello.again && hello.draining;
        let activity = Activity::default();
        let worker = Worker { session, hello, activity, joined: now, heard: now, draining };
        self.by_name.insert(Arc::clone(name), worker);
        Ok(session)
    }

    /// Notes that a worker was heard.
    pub(crate) fn hear(&mut self, caller: &Caller, now: Moment) -> Result<(), Unheard> {
        let epoch = |session: u64| session >> 32;
        match self.by_name.get_mut(&caller.worker) {
            Some(worker) if worker.session == caller.session => {
                worker.heard = now;
                Ok(())
            }
            // The answer to its joining again was lost.
            Some(worker) if worker.hello.again && worker.hello.former == caller.session => {
                Err(Unheard::JoinAgain)
            }
            Some(worker) if epoch(worker.session) == epoch(caller.session) => {
                Err(Unheard::Replaced)
            }
            _ => Err(Unheard::JoinAgain),
        }
    }

    /// Notes what a worker does. Returns whether it is to drain.
    pub(crate) fn note(&mut self, name: &str, activity: Activity) -> bool {
        let Some(worker) = self.by_name.get_mut(name) else { return false };
        worker.activity = activity;
        worker.draining
    }

    /// Whether a worker is to take nothing more.
    pub(crate) fn is_draining(&self, name: &str) -> bool {
        self.by_name.get(name).is_some_and(|worker| worker.draining)
    }

    /// Lets a worker drain, or work again. Returns whether it is known.
    pub(crate) fn drain(&mut self, name: &str, draining: bool) -> bool {
        let Some(worker) = self.by_name.get_mut(name) else { return false };
        worker.draining = draining;
        true
    }

    /// Forgets those that have been silent for long.
    pub(crate) fn forget_silent(&mut self, lease: Duration, now: Moment) {
        self.by_name.retain(|_, worker| worker.heard + lease * FORGET_AFTER > now);
    }

    /// All, by name; `held` tells the leases and URLs that a worker holds.
    pub(crate) fn list(
        &self,
        lease: Duration,
        now: Moment,
        held: impl Fn(&str) -> (u32, u64),
    ) -> Vec<WorkerStatus> {
        let since = |then: Moment| Duration::from_millis(now.0.saturating_sub(then.0));
        let workers = self.by_name.iter().map(|(name, worker)| {
            let (leases, urls) = held(name);
            let state = match (worker.draining, leases > 0) {
                _ if worker.heard + lease <= now => WorkerState::Silent,
                (true, true) => WorkerState::Draining,
                (true, false) => WorkerState::Drained,
                (false, true) => WorkerState::Working,
                (false, false) => WorkerState::Idle,
            };
            WorkerStatus {
                name: Arc::clone(name),
                hello: worker.hello.clone(),
                activity: worker.activity,
                state,
                leases,
                urls,
                joined: since(worker.joined),
                heard: since(worker.heard),
            }
        });
        workers.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Duration = Duration::from_secs(30);

    fn at(secs: u64) -> Moment {
        Moment(secs * 1_000)
    }

    fn caller(session: u64) -> Caller {
        Caller { worker: "w".into(), session }
    }

    #[test]
    fn a_session_of_a_former_master_is_opened_again_and_a_replaced_one_ends() {
        let mut workers = Workers::new(7);
        let name: Arc<str> = "w".into();
        let of_former_master = Workers::new(6).join(&name, Hello::default(), at(0)).unwrap();
        assert_eq!(workers.hear(&caller(of_former_master), at(0)), Err(Unheard::JoinAgain));
        let first = workers.join(&name, Hello::default(), at(0)).unwrap();
        assert_eq!(workers.hear(&caller(first), at(1)), Ok(()));
        assert_eq!(workers.hear(&caller(of_former_master), at(1)), Err(Unheard::JoinAgain));
        let again = Hello { again: true, former: first, ..Hello::default() };
        workers.join(&name, again, at(1)).unwrap();
        assert_eq!(workers.hear(&caller(first), at(1)), Err(Unheard::JoinAgain));
        let second = workers.join(&name, Hello::default(), at(2)).unwrap();
        assert_eq!(workers.hear(&caller(first), at(3)), Err(Unheard::Replaced));
        assert_eq!(workers.hear(&caller(second), at(3)), Ok(()));
    }

    #[test]
    fn a_worker_is_what_it_holds_and_when_it_was_heard() {
        let mut workers = Workers::new(1);
        let name: Arc<str> = "w".into();
        let session = workers.join(&name, Hello::default(), at(0)).unwrap();
        let state = |workers: &Workers, secs, leases| {
            workers.list(LEASE, at(secs), |_| (leases, 0))[0].state
        };
        assert_eq!(state(&workers, 29, 0), WorkerState::Idle);
        assert_eq!(state(&workers, 29, 1), WorkerState::Working);
        assert_eq!(state(&workers, 30, 1), WorkerState::Silent);
        workers.hear(&caller(session), at(31)).unwrap();
        assert!(workers.drain("w", true) && !workers.drain("v", true));
        assert_eq!(state(&workers, 32, 1), WorkerState::Draining);
        assert_eq!(state(&workers, 32, 0), WorkerState::Drained);
        workers.forget_silent(LEASE, at(31 + 599));
        assert_eq!(workers.list(LEASE, at(0), |_| (0, 0)).len(), 1);
        workers.forget_silent(LEASE, at(31 + 600));
        assert_eq!(workers.hear(&caller(session), at(32)), Err(Unheard::JoinAgain));
    }

    #[test]
    fn who_drains_still_does_when_it_joins_again_but_not_when_it_starts_anew() {
        let mut workers = Workers::new(1);
        let name: Arc<str> = "w".into();
        let again = Hello { again: true, draining: true, ..Hello::default() };
        workers.join(&name, again, at(0)).unwrap();
        assert!(workers.is_draining("w"));
        workers.join(&name, Hello { draining: true, ..Hello::default() }, at(0)).unwrap();
        assert!(!workers.is_draining("w"));
    }
}
