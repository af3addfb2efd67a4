//! The worker's parts and the loops between them. The only file of the worker
//! that starts anything.
//!
//! Two loops lease: one asks for further hosts while lanes are free, the other
//! for more of the hosts whose lanes run low. Each host has a lane; lanes put
//! reports into the outbox; one loop sends them, and one is the heartbeat, which
//! renews what is held and hears what the master wants: leases back, or that the
//! worker drains. When the master is away all of them wait for it.
//!
//! To stop, leasing and lanes end first, then the outbox runs dry, then what is
//! left is handed back.

use std::{
    collections::HashMap,
    future::Future,
    panic::AssertUnwindSafe,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures::FutureExt;
use tokio::{
    sync::{Notify, mpsc},
    task::JoinHandle,
    time::{Instant, sleep, timeout, timeout_at},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use trawl_proto::v1::{
    Activity, HostAddress, HostBatch, HostRef, HostTold, Verdict, url_report::Outcome,
};
use trawl_shared::{backoff, known::Known, lease::Token};

use crate::{
    config::WorkerConfig,
    crawls::{MakeFetcher, ReadyCrawls},
    fetch::{Detours, Fetch},
    holdings::{Asked, Holdings, renewal_interval, wait_max},
    lane::{self, Batch, Work},
    master::{Life, Master, MasterError},
    neighbours::Neighbours,
    report::{Outbox, Outgoing, Outlet, outbox},
    robots::RobotsCache,
};

/// The first wait when the master is away, and the longest.
const RETRY_WAITS: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));

/// How long a worker that stops may take, beside the grace period of its fetches, to report
/// what it has and hand back the rest. A master that starts anew meanwhile gets all of it.
const LAST_WORDS: Duration = Duration::from_secs(4);

/// The part of it that is kept for handing back.
const HAND_BACK: Duration = Duration::from_secs(1);

/// Everything that the lanes of a worker share.
pub(crate) struct Worker<F> {
    pub(crate) master: Master,
    pub(crate) config: WorkerConfig,
    pub(crate) crawls: ReadyCrawls<F>,
    pub(crate) robots: RobotsCache,
    pub(crate) detours: Detours,
    pub(crate) holdings: Holdings,
    pub(crate) neighbours: Arc<Neighbours>,
    pub(crate) known: Mutex<Known>,
    pub(crate) outbox: Outbox,
    /// Which master's data the caches are about.
    life: Mutex<Life>,
    counters: Counters,
    /// Leases that are ready to be handed back.
    wanted_back: Mutex<Vec<Token>>,
    /// Where hosts are, for the master to hear before it lends them again.
    found: Mutex<Vec<HostAddress>>,
    /// What came of hosts' robots.txt and no report tells, likewise.
    told: Mutex<Vec<(Life, HostTold)>>,
    hand_back: Notify,
    /// Told when the worker may lease again after it had to drain.
    undrained: Notify,
    /// Why the worker cannot go on.
    failure: Mutex<Option<MasterError>>,
    /// Cancelled when no further fetch may start.
    pub(crate) stop: CancellationToken,
    /// Cancelled when fetches under way are to be given up.
    abort: CancellationToken,
    lanes: Mutex<HashMap<(u32, u32), Arc<Work>>>,
    lane_ended: Notify,
    low: mpsc::Sender<HostRef>,
}

/// What the worker has done since its start, for people.
#[derive(Debug, Default)]
struct Counters {
    pages: AtomicU64,
    failures: AtomicU64,
    wire_bytes: AtomicU64,
}

/// Works for `master` until `stop` is cancelled. Then no further fetch is begun,
/// those under way may end within the grace period, their outcomes are reported,
/// and the rest is handed back.
///
/// # Errors
/// If the master refuses the worker, or takes another one of its name in its place.
pub async fn run<F: Fetch>(
    master: Master,
    config: WorkerConfig,
    make_fetcher: MakeFetcher<F>,
    stop: CancellationToken,
) -> Result<(), MasterError> {
    if !join(&master, &stop).await? {
        return Ok(());
    }
    tracing::info!(instance = %master.instance(), worker = %config.name, "joined the master");
    let (outbox, outlet) = outbox(&config);
    let (low, lows) = mpsc::channel(config.lanes.max(1));
    let worker = Arc::new(Worker {
        crawls: ReadyCrawls::new(make_fetcher),
        robots: RobotsCache::new(config.robots_hosts),
        detours: Detours::default(),
        holdings: Holdings::default(),
        neighbours: Arc::default(),
        known: Mutex::new(Known::new(config.known_urls)),
        outbox,
        abort: CancellationToken::new(),
        lanes: Mutex::default(),
        lane_ended: Notify::new(),
        low,
        life: Mutex::new(master.life()),
        counters: Counters::default(),
        wanted_back: Mutex::default(),
        found: Mutex::default(),
        told: Mutex::default(),
        hand_back: Notify::new(),
        undrained: Notify::new(),
        failure: Mutex::default(),
        stop: stop.child_token(),
        config,
        master,
    });

    let lanes = TaskTracker::new();
    let heartbeat = tokio::spawn(beat(Arc::clone(&worker)));
    let returns = tokio::spawn(hand_back_recalled(Arc::clone(&worker)));
    let drain = CancellationToken::new();
    let reporter = tokio::spawn(send_reports(Arc::clone(&worker), outlet, drain.clone()));
    tokio::join!(lease_hosts(&worker, &lanes), lease_more(&worker, lows),);
    let end = Instant::now() + worker.config.grace + LAST_WORDS;
    worker.end_lanes(lanes, end).await;
    drain.cancel();
    worker.end_reports(reporter, end - HAND_BACK).await;
    heartbeat.abort();
    returns.abort();
    if let Some(failure) = lock(&worker.failure).take() {
        return Err(failure);
    }
    worker.hand_back(end).await;
    Ok(())
}

/// Joins the master, for as long as it takes. False if the worker stops first.
async fn join(master: &Master, stop: &CancellationToken) -> Result<bool, MasterError> {
    let mut attempt = 0;
    loop {
        let joined = tokio::select! {
            biased;
            joined = master.join() => joined,
            () = stop.cancelled() => return Ok(false),
        };
        match joined {
            Ok(()) => return Ok(true),
            Err(error @ MasterError::Away(_)) => {
                attempt += 1;
                tracing::warn!(%error, attempt, "will try to join again");
                if !wait_again(attempt, stop).await {
                    return Ok(false);
                }
            }
            Err(error) => return Err(error),
        }
    }
}

/// Asks for further hosts while lanes are free.
async fn lease_hosts<F: Fetch>(worker: &Arc<Worker<F>>, lanes: &TaskTracker) {
    let mut failures = 0;
    while !worker.stop.is_cancelled() {
        let undrained = worker.undrained.notified();
        if worker.master.is_draining() {
            tokio::select! { biased; () = undrained => {}, () = worker.stop.cancelled() => {} }
            continue;
        }
        let lane_ended = worker.lane_ended.notified();
        let free = worker.config.lanes.saturating_sub(worker.lanes().len());
        if free == 0 {
            tokio::select! { biased; () = lane_ended => {}, () = worker.stop.cancelled() => {} }
            continue;
        }
        let wait = worker.config.lease_wait.min(wait_max(worker.master.lease_duration()));
        let asked = Asked::now();
        let call = worker.master.lease(free, worker.config.crawl, Vec::new(), wait);
        let Some(answer) = worker.unless_stopped(call).await else { return };
        match answer {
            Ok(batches) => {
                failures = 0;
                worker.take(batches, asked, lanes);
            }
            Err(error) => {
                worker.end_if_replaced(&error);
                failures += 1;
                tracing::warn!(%error, "will ask for leases again");
                wait_again(failures, &worker.stop).await;
            }
        }
    }
}

/// Asks for more of the hosts whose lanes run low.
async fn lease_more<F: Fetch>(worker: &Worker<F>, mut lows: mpsc::Receiver<HostRef>) {
    loop {
        let Some(first) = worker.unless_stopped(lows.recv()).await.flatten() else { return };
        let mut hosts = vec![first];
        while let Ok(host) = lows.try_recv() {
            hosts.push(host);
        }
        if worker.master.is_draining() {
            continue;
        }
        let asked = Asked::now();
        let call = worker.master.lease(0, worker.config.crawl, hosts, Duration::ZERO);
        match worker.unless_stopped(call).await {
            None => return,
            Some(Ok(batches)) => {
                let homeless = worker.take_more(batches, asked);
                if !homeless.is_empty()
                    && let Some(Err(error)) = worker
                        .unless_stopped(worker.master.hand_back(homeless, Vec::new(), Vec::new()))
                        .await
                {
                    tracing::debug!(%error, "leases were not handed back; they run out");
                }
            }
            // The lanes run dry then, and their hosts come by the other loop.
            Some(Err(error)) => tracing::debug!(%error, "no more URLs for running lanes"),
        }
    }
}

/// Sends what the lanes put into the outbox, until `drain` is cancelled and it is empty.
async fn send_reports<F: Fetch>(
    worker: Arc<Worker<F>>,
    mut outlet: Outlet,
    drain: CancellationToken,
) {
    let hear = |outgoing: &Outgoing, verdict| worker.hear(outgoing, verdict);
    if let Err(error) = outlet.run(&worker.master, &drain, hear).await {
        worker.end_if_replaced(&error);
    }
}

/// The heartbeat: renews what is held, and does what the master wants, until the
/// task is aborted.
async fn beat<F: Fetch>(worker: Arc<Worker<F>>) {
    let mut was_draining = false;
    loop {
        sleep(renewal_interval(worker.master.lease_duration())).await;
        let tokens = worker.holdings.tokens();
        let asked = Asked::now();
        match worker.master.renew(&tokens, worker.activity()).await {
            Ok(renewal) => {
                let lease = worker.master.lease_duration();
                worker.catch_up();
                worker.holdings.renewed(&tokens, &renewal.lost, asked, lease);
                worker.recall(&renewal.recalled);
                if renewal.drain != was_draining {
                    was_draining = renewal.drain;
                    let (leases, urls) = worker.holdings.count();
                    tracing::info!(drain = renewal.drain, leases, urls, "told to drain, or not to");
                    worker.undrained.notify_waiters();
                }
            }
            Err(error) => {
                worker.end_if_replaced(&error);
                tracing::warn!(%error, held = tokens.len(), "leases were not renewed");
            }
        }
    }
}

/// Hands back what was recalled, as soon as nothing of it is under way.
async fn hand_back_recalled<F: Fetch>(worker: Arc<Worker<F>>) {
    let mut failures = 0;
    loop {
        worker.hand_back.notified().await;
        failures = if worker.hand_back_some().await { 0 } else { failures + 1 };
        if failures > 0 {
            sleep(retry_wait(failures)).await;
            worker.hand_back.notify_one();
        }
    }
}

impl<F: Fetch> Worker<F> {
    /// Takes batches of further hosts: each gets a lane.
    fn take(self: &Arc<Self>, batches: Vec<HostBatch>, asked: Asked, lanes: &TaskTracker) {
        let life = self.catch_up();
        let lease = self.master.lease_duration();
        for batch in batches {
            self.holdings.take(Token(batch.token), batch.urls.len(), asked, lease);
            let key = (batch.crawl, batch.host);
            let batch = Batch::of(batch, life);
            let mut all = self.lanes();
            // The host's last lane may not have ended quite yet.
            let batch = match all.get(&key) {
                None => batch,
                Some(work) => match work.add(batch) {
                    Ok(()) => continue,
                    Err(batch) => *batch,
                },
            };
            let work = Arc::new(Work::of(batch));
            all.insert(key, Arc::clone(&work));
            drop(all);
            let worker = Arc::clone(self);
            lanes.spawn(async move {
                let lane = lane::run(Arc::clone(&worker), Arc::clone(&work));
                if AssertUnwindSafe(lane).catch_unwind().await.is_err() {
                    tracing::error!("a lane panicked; its leases are left to run out");
                    work.end().into_iter().for_each(|token| worker.holdings.drop(token));
                }
                worker.lane_ended(key, &work);
            });
        }
    }

    /// Takes batches of hosts that have a lane. Returns the tokens of those whose
    /// lane has ended meanwhile: only it knew when the host may be fetched from.
    fn take_more(&self, batches: Vec<HostBatch>, asked: Asked) -> Vec<Token> {
        let life = self.catch_up();
        let lease = self.master.lease_duration();
        let mut homeless = Vec::new();
        for batch in batches {
            let (token, urls) = (Token(batch.token), batch.urls.len());
            let work = self.lanes().get(&(batch.crawl, batch.host)).cloned();
            self.holdings.take(token, urls, asked, lease);
            if work.is_none_or(|work| work.add(Batch::of(batch, life)).is_err()) {
                self.holdings.drop(token);
                homeless.push(token);
            }
        }
        homeless
    }

    fn lane_ended(&self, key: (u32, u32), work: &Arc<Work>) {
        let mut all = self.lanes();
        // A new lane may have taken the place meanwhile.
        if all.get(&key).is_some_and(|other| Arc::ptr_eq(other, work)) {
            all.remove(&key);
        }
        drop(all);
        self.lane_ended.notify_one();
    }

    /// Notes that a lane runs low. If too many do, the lane runs dry first.
    pub(crate) fn ask_for_more(&self, crawl: u32, host: u32) {
        let _ = self.low.try_send(HostRef { crawl, host });
    }

    /// Hears the master's verdict on a report.
    fn hear(&self, outgoing: &Outgoing, verdict: Verdict) {
        let token = outgoing.token();
        let life = self.catch_up();
        if outgoing.life != life {
            return;
        }
        if self.holdings.acknowledged(token) {
            self.give_back(token);
        }
        if matches!(verdict, Verdict::Applied | Verdict::Already) {
            let mut known = lock(&self.known);
            // The caches are emptied under this lock when another life begins.
            if *lock(&self.life) == outgoing.life {
                for id in &outgoing.offered {
                    known.insert(outgoing.report.crawl, id);
                }
            }
        } else {
            tracing::warn!(%token, "a report came too late");
        }
    }

    /// Forgets what was another master's, if the worker has met another one since.
    /// Returns the life that all is about now.
    fn catch_up(&self) -> Life {
        let now = self.master.life();
        let mut known = lock(&self.known);
        let mut life = lock(&self.life);
        if *life != now {
            tracing::warn!(
                "the master has another data directory; what was leased of the former is dropped"
            );
            *life = now;
            known.clear();
            self.crawls.clear();
            self.robots.clear();
            self.holdings.clear();
            lock(&self.told).clear();
            self.lanes().values().for_each(|work| work.clear());
        }
        now
    }

    /// Lets go of leases that the master wants back, or whose host is in trouble: at
    /// once, or when what is under way of them has ended.
    pub(crate) fn recall(&self, tokens: &[Token]) {
        for token in tokens {
            let dropped = self.lanes().values().map(|work| work.forget(*token)).sum();
            if self.holdings.recall(*token, dropped) {
                self.give_back(*token);
            }
        }
    }

    /// A URL of a lease that is wanted back was not begun.
    pub(crate) fn recall_one(&self, token: Token) {
        if self.holdings.recall(token, 1) {
            self.give_back(token);
        }
    }

    /// Has the master told where hosts are, with what is handed back next; those first that
    /// have places there.
    pub(crate) fn tell(&self, found: Vec<HostAddress>) {
        let mut told = lock(&self.found);
        for found in found {
            if !told.iter().any(|other| other.host == found.host) {
                told.push(found);
            }
        }
    }

    /// Has the master told what came of a host's robots.txt, before the host is handed back.
    pub(crate) fn tell_news(&self, told: HostTold) {
        let life = *lock(&self.life);
        lock(&self.told).push((life, told));
        self.hand_back.notify_one();
    }

    /// Hands back what is ready for it. What came of a robots.txt goes before its lease or
    /// with it, as the host may be lent again at once. False if it is to be told again: the
    /// master is away.
    async fn hand_back_some(&self) -> bool {
        /// Hosts that are told of in one message, which has room for several times as many.
        const TOLD_MAX: usize = 4;
        let mut tokens = std::mem::take(&mut *lock(&self.wanted_back));
        let mut found = std::mem::take(&mut *lock(&self.found));
        let mut told = std::mem::take(&mut *lock(&self.told));
        // Another master knows other hosts by the same numbers.
        let life = self.master.life();
        told.retain(|(of, _)| *of == life);
        if tokens.is_empty() && found.is_empty() && told.is_empty() {
            return true;
        }
        loop {
            let some: Vec<_> = told.iter().take(TOLD_MAX).map(|(_, told)| told.clone()).collect();
            let (count, is_last) = (some.len(), told.len() <= TOLD_MAX);
            let (back, places) = match is_last {
                true => (tokens.clone(), found.clone()),
                false => (Vec::new(), Vec::new()),
            };
            match self.master.hand_back(back, places, some).await {
                Ok(()) if is_last => return true,
                Ok(()) => drop(told.drain(..count)),
                Err(error) => {
                    tracing::debug!(%error, "leases were not handed back; they run out");
                    if !matches!(error, MasterError::Away(_)) || told.is_empty() {
                        return true;
                    }
                    lock(&self.told).append(&mut told);
                    lock(&self.wanted_back).append(&mut tokens);
                    lock(&self.found).append(&mut found);
                    return false;
                }
            }
        }
    }

    fn give_back(&self, token: Token) {
        lock(&self.wanted_back).push(token);
        self.hand_back.notify_one();
    }

    /// Ends the worker if another one has its name now.
    fn end_if_replaced(&self, error: &MasterError) {
        if matches!(error, MasterError::Replaced(_)) {
            lock(&self.failure).get_or_insert_with(|| error.clone());
            // All of them are the other one's to lend.
            self.holdings.clear();
            self.stop.cancel();
        }
    }

    /// Counts an outcome.
    pub(crate) fn note(&self, outgoing: &Outgoing) {
        let counters = &self.counters;
        match &outgoing.report.outcome {
            Some(Outcome::Response(response)) => {
                counters.pages.fetch_add(1, Ordering::Relaxed);
                counters.wire_bytes.fetch_add(response.wire_bytes, Ordering::Relaxed);
            }
            _ => {
                counters.failures.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    fn activity(&self) -> Activity {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Activity {
            lanes_busy: u32::try_from(self.lanes().len()).unwrap_or(u32::MAX),
            pages: count(&self.counters.pages),
            failures: count(&self.counters.failures),
            wire_bytes: count(&self.counters.wire_bytes),
            outbox_bytes: self.outbox.bytes(),
        }
    }

    /// Waits for the lanes, and gives up their fetches after the grace period.
    async fn end_lanes(&self, lanes: TaskTracker, end: Instant) {
        lanes.close();
        if timeout(self.config.grace, lanes.wait()).await.is_err() {
            self.abort.cancel();
            // What is left then waits for the master, which may be gone.
            if timeout_at(end, lanes.wait()).await.is_err() {
                tracing::warn!(lanes = lanes.len(), "not all lanes have ended");
            }
        }
    }

    /// Waits until the outbox is empty, but not longer than to the end.
    async fn end_reports(&self, mut reporter: JoinHandle<()>, end: Instant) {
        if timeout_at(end, &mut reporter).await.is_err() {
            tracing::warn!("not all outcomes could be reported; their leases run out");
            reporter.abort();
        }
    }

    /// Hands back what was not begun. If the worker knows of something, it tries again until
    /// the end: a master that starts anew meanwhile still lends it to others at once.
    async fn hand_back(&self, end: Instant) {
        let handing_back = async {
            let mut attempt = 0;
            loop {
                match self.master.hand_back_all().await {
                    Err(MasterError::Away(_)) if self.holdings.count().0 > 0 => {
                        attempt += 1;
                        sleep(retry_wait(attempt)).await;
                    }
                    done => return done,
                }
            }
        };
        match timeout_at(end, handing_back).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "leases were not handed back"),
            Err(_) => tracing::warn!("leases were not handed back in time"),
        }
    }

    /// Runs to the end unless the worker is stopped.
    async fn unless_stopped<T>(&self, future: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            done = future => Some(done),
            () = self.stop.cancelled() => None,
        }
    }

    /// Runs to the end unless fetches under way are to be given up.
    pub(crate) async fn unless_aborted<T>(&self, future: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            done = future => Some(done),
            () = self.abort.cancelled() => None,
        }
    }

    fn lanes(&self) -> MutexGuard<'_, HashMap<(u32, u32), Arc<Work>>> {
        lock(&self.lanes)
    }
}

/// What is behind these locks is never left half changed.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits before the next try. False if the worker is stopped meanwhile.
async fn wait_again(attempt: u32, stop: &CancellationToken) -> bool {
    tokio::select! {
        biased;
        () = sleep(retry_wait(attempt)) => true,
        () = stop.cancelled() => false,
    }
}

fn retry_wait(attempt: u32) -> Duration {
    backoff::wait(attempt, RETRY_WAITS.0, RETRY_WAITS.1, fastrand::f64())
}
