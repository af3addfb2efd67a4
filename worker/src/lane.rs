//! A lane: the worker's serial line to one host. It fetches what it is lent, one
//! after the other, no sooner than the delay after the last fetch ended. If its crawl
//! allows a host several connections, as many fetches are under way, each line with a
//! delay of its own; what the host's robots.txt or people ask for lies between any two.
//!
//! A URL is taken when it may be fetched, not before: until then it can be wanted back.
//! When the host as a whole is in trouble, the lane gives back what is left and ends:
//! the master says when the host may be asked again.

use std::{
    collections::VecDeque,
    future::Future,
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::{FutureExt, future::join_all};
use tokio::{
    sync::{Notify, OnceCell},
    time::{Instant, sleep, sleep_until},
};
use trawl_proto::v1::{HostBatch, HostNews, HostRef, LeasedUrl, RobotsState, url_report::Outcome};
use trawl_shared::{
    address::octets,
    backoff,
    lease::Token,
    outcome::FailureKind,
    politeness::{adaptive_delay, named_group},
    robots::Rules,
    spec::{CONNECTIONS_MAX, CrawlSpec, RobotsPolicy},
    url::CrawlUrl,
};

use crate::{
    account::{Account, Leased, sitemaps},
    crawls::ReadyCrawl,
    fetch::{Fetch, FetchError, Page, fetch_robots},
    master::{Life, MasterError},
    neighbours::Places,
    news,
    pipeline::Worker,
    report::Outgoing,
    robots::{self, Remembered},
};

/// A lane asks for more URLs when what it has left takes no longer than this.
const LOW_WATER: Duration = Duration::from_secs(1);

/// The least time that a fetch is taken to need.
const FETCH_MIN: Duration = Duration::from_millis(10);

/// The wait before a specification is asked for again.
const ASK_AGAIN: Duration = Duration::from_millis(500);

/// The first wait before it is tried again whether our own network is up, and the longest.
const OUTAGE_WAITS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(15));

/// URLs left when a lane asks for more; one at least.
fn low_water(delay: Duration) -> usize {
    let urls = LOW_WATER.as_millis() / delay.max(FETCH_MIN).as_millis();
    usize::try_from(urls).unwrap_or(usize::MAX).max(1)
}

/// What a lane has to do. Shared by the lane, which takes, and the lease loops,
/// which add.
#[derive(Debug, Default)]
pub(crate) struct Work {
    state: Mutex<WorkState>,
    /// Told when there is more to do, or nothing any more.
    changed: Notify,
    /// Held by who looks for the host's rules, so that its other lines wait for them.
    rules: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct WorkState {
    batches: VecDeque<Batch>,
    /// One for each line that has a URL under way.
    under_way: Vec<UnderWay>,
    /// When any line may fetch at the soonest.
    free_at: Option<Instant>,
    /// What a fetch of robots.txt showed, which the next report carries.
    news: Option<HostNews>,
    /// The host's rules, which the lane goes by as long as they hold.
    rules: Option<Held>,
    /// More was asked for since the last batch came.
    asked: bool,
    /// The lane has ended; a new batch needs a new one.
    ended: bool,
}

/// A host's rules in a lane.
#[derive(Debug)]
struct Held {
    /// The version of the crawl's specification that they were looked up for.
    spec_version: u32,
    rules: Remembered,
    /// A report has offered the sitemaps that they name.
    has_offered: bool,
}

/// A URL that a line has taken.
#[derive(Debug)]
struct UnderWay {
    token: Token,
    /// It is not to be fetched any more, unless it is being fetched already.
    is_wanted_back: bool,
}

/// A host batch on its way through a lane.
#[derive(Debug)]
pub(crate) struct Batch {
    lease: Lease,
    urls: VecDeque<LeasedUrl>,
}

/// What a batch's URLs have in common.
#[derive(Clone, Copy, Debug)]
struct Lease {
    token: Token,
    crawl: u32,
    host: u32,
    spec_version: u32,
    pace: Pace,
    life: Life,
    robots: Option<RobotsState>,
    connections: u32,
}

/// How long a lane waits after a fetch.
#[derive(Clone, Copy, Debug)]
struct Pace {
    delay: Duration,
    /// People have set it: nothing is added for slow answers.
    is_set: bool,
}

/// The next thing to do.
#[derive(Debug)]
struct Task {
    lease: Lease,
    url: LeasedUrl,
    /// The lane runs low and has not asked for more yet.
    is_low: bool,
}

/// What there is to do for a line.
#[derive(Debug)]
enum Next {
    Task(Task),
    /// Nothing yet; something at that time, unless it changes before.
    Wait(Option<Instant>),
    /// Nothing any more.
    End,
}

/// What a fetch brought, and how long it took.
struct Fetched {
    result: Result<Page, FetchError>,
    took: Duration,
}

impl Pace {
    /// The wait after a fetch that took so long.
    fn after(self, spec: &CrawlSpec, took: Duration) -> Duration {
        if self.is_set { self.delay } else { self.delay.max(adaptive_delay(spec, took)) }
    }

    /// The part of it that lies between any two fetches of the host: what people ask for.
    fn between(self) -> Duration {
        if self.is_set { self.delay } else { Duration::ZERO }
    }
}

impl Task {
    /// The wait after its URL's fetch.
    fn pace(&self) -> Pace {
        let Pace { delay, is_set } = self.lease.pace;
        Pace { delay: delay.max(Duration::from_millis(self.url.delay_ms)), is_set }
    }
}

impl Batch {
    /// A batch that was leased from a master in this life of it.
    pub(crate) fn of(batch: HostBatch, life: Life) -> Self {
        let lease = Lease {
            life,
            token: Token(batch.token),
            crawl: batch.crawl,
            host: batch.host,
            spec_version: batch.spec_version,
            pace: Pace { delay: Duration::from_millis(batch.delay_ms), is_set: batch.delay_is_set },
            robots: batch.robots,
            connections: batch.connections.clamp(1, CONNECTIONS_MAX),
        };
        Self { lease, urls: batch.urls.into() }
    }
}

impl Work {
    /// What a new lane begins with.
    pub(crate) fn of(batch: Batch) -> Self {
        let state = WorkState { batches: VecDeque::from([batch]), ..WorkState::default() };
        Self { state: Mutex::new(state), ..Self::default() }
    }

    /// Lines to the host at the same time.
    fn connections(&self) -> u32 {
        self.lock().batches.front().map_or(1, |batch| batch.lease.connections)
    }

    /// Adds a batch, unless the lane has ended: then it is given back.
    pub(crate) fn add(&self, batch: Batch) -> Result<(), Batch> {
        let mut state = self.lock();
        if state.ended {
            return Err(batch);
        }
        state.asked = false;
        state.batches.push_back(batch);
        drop(state);
        self.changed.notify_waiters();
        Ok(())
    }

    /// The next URL for a line that may fetch again at that time; it is under way from
    /// now on. None ends the line: there is nothing left, and nobody under way who
    /// could ask for more.
    async fn next(&self, free_at: Option<Instant>) -> Option<Task> {
        loop {
            let changed = self.changed.notified();
            match self.take(free_at, Instant::now()) {
                Next::Task(task) => return Some(task),
                Next::Wait(None) => changed.await,
                Next::Wait(Some(until)) => {
                    tokio::select! { biased; () = changed => {}, () = sleep_until(until) => {} }
                }
                Next::End => return None,
            }
        }
    }

    /// The next URL, if there is one. Ends the lane if there is none, and none under way.
    fn take(&self, free_at: Option<Instant>, now: Instant) -> Next {
        let mut state = self.lock();
        state.batches.retain(|batch| !batch.urls.is_empty());
        state.ended |= state.batches.is_empty() && state.under_way.is_empty();
        if state.ended {
            return Next::End;
        }
        let free_at = free_at.max(state.free_at).filter(|free_at| now < *free_at);
        let Some(batch) = state.batches.front_mut() else { return Next::Wait(None) };
        if free_at.is_some() {
            return Next::Wait(free_at);
        }
        let lease = batch.lease;
        let Some(url) = batch.urls.pop_front() else { return Next::Wait(None) };
        let mut task = Task { lease, url, is_low: false };
        let left: usize = state.batches.iter().map(|batch| batch.urls.len()).sum();
        task.is_low = left <= low_water(task.pace().delay) && !state.asked;
        state.asked |= task.is_low;
        state.under_way.push(UnderWay { token: lease.token, is_wanted_back: false });
        Next::Task(task)
    }

    /// Whether a URL under way may be fetched now: the host is free, and it is not
    /// wanted back. If so, no other line begins a fetch for so long.
    fn begin(&self, token: Token, now: Instant, between: Duration) -> bool {
        let mut state = self.lock();
        let may = !state.is_wanted_back(token) && state.free_at.is_none_or(|at| at <= now);
        if may && !between.is_zero() {
            state.free_at = Some(now + between);
        }
        may
    }

    /// Puts a URL that was taken back to the others. False if it is wanted back: then
    /// it is dropped.
    fn put_back(&self, task: Task) -> bool {
        let mut state = self.lock();
        let is_dropped = state.is_wanted_back(task.lease.token);
        if !is_dropped {
            let same = |batch: &&mut Batch| batch.lease.token == task.lease.token;
            match state.batches.iter_mut().find(same) {
                Some(batch) => batch.urls.push_front(task.url),
                None => {
                    let urls = VecDeque::from([task.url]);
                    state.batches.push_front(Batch { lease: task.lease, urls });
                }
            }
        }
        drop(state);
        self.done(task.lease.token);
        !is_dropped
    }

    /// A URL is not under way any more.
    fn done(&self, token: Token) {
        let mut state = self.lock();
        if let Some(at) = state.under_way.iter().position(|url| url.token == token) {
            state.under_way.swap_remove(at);
        }
        drop(state);
        self.changed.notify_waiters();
    }

    /// The rules, if the lane has any that still hold.
    fn rules(&self, spec_version: u32, now: Instant) -> Option<Arc<Rules>> {
        let state = self.lock();
        let held = state.rules.as_ref()?;
        let holds = held.spec_version == spec_version && held.rules.holds(now);
        holds.then(|| Arc::clone(&held.rules.rules))
    }

    /// Keeps rules for all lines.
    fn keep_rules(&self, spec_version: u32, rules: Remembered) -> Arc<Rules> {
        let kept = Arc::clone(&rules.rules);
        self.lock().rules = Some(Held { spec_version, rules, has_offered: false });
        kept
    }

    /// Whether the sitemaps that the rules name are still to be offered.
    fn has_sitemaps_to_offer(&self) -> bool {
        self.lock().rules.as_ref().is_some_and(|held| !held.has_offered)
    }

    /// A page's report offers them.
    fn sitemaps_offered(&self) {
        if let Some(held) = &mut self.lock().rules {
            held.has_offered = true;
        }
    }

    fn keep_news(&self, news: Option<HostNews>) {
        let mut state = self.lock();
        state.news = news.or(state.news.take());
    }

    fn take_news(&self) -> Option<HostNews> {
        self.lock().news.take()
    }

    /// No line fetches before this.
    fn hold(&self, until: Instant) {
        let mut state = self.lock();
        state.free_at = state.free_at.max(Some(until));
    }

    /// Drops what is left of a lease that the worker is not to act on any more.
    /// Returns how many URLs that are. Those that were taken and are not fetched yet
    /// follow one by one.
    pub(crate) fn forget(&self, token: Token) -> usize {
        let mut state = self.lock();
        let mut dropped = 0;
        state.batches.retain(|batch| {
            let stays = batch.lease.token != token;
            dropped += if stays { 0 } else { batch.urls.len() };
            stays
        });
        for url in state.under_way.iter_mut().filter(|url| url.token == token) {
            url.is_wanted_back = true;
        }
        drop(state);
        // Who waits to fetch it has perhaps nothing else to do.
        self.changed.notify_waiters();
        dropped
    }

    /// Waits until a lease that a line works on is wanted back.
    async fn wanted_back(&self, token: Token) {
        loop {
            let changed = self.changed.notified();
            if self.lock().is_wanted_back(token) {
                return;
            }
            changed.await;
        }
    }

    /// Drops everything: it is another master's.
    pub(crate) fn clear(&self) {
        let mut state = self.lock();
        state.batches.clear();
        state.rules = None;
        state.under_way.iter_mut().for_each(|url| url.is_wanted_back = true);
        drop(state);
        self.changed.notify_waiters();
    }

    /// Ends the lane. Returns the tokens of the work that is left in it, and of what is
    /// under way.
    pub(crate) fn end(&self) -> Vec<Token> {
        let mut state = self.lock();
        state.ended = true;
        let left = state.batches.iter().map(|batch| batch.lease.token);
        let mut tokens: Vec<Token> =
            left.chain(state.under_way.iter().map(|url| url.token)).collect();
        tokens.sort_unstable();
        tokens.dedup();
        drop(state);
        self.changed.notify_waiters();
        tokens
    }

    fn lock(&self) -> MutexGuard<'_, WorkState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl WorkState {
    fn is_wanted_back(&self, token: Token) -> bool {
        self.ended || self.under_way.iter().any(|url| url.token == token && url.is_wanted_back)
    }
}

/// Runs a lane until its work is done or the worker stops. What it leaves is
/// handed back by the pipeline, or runs out.
pub(crate) async fn run<F: Fetch>(worker: Arc<Worker<F>>, work: Arc<Work>) {
    let site = Site::default();
    let line = |_| run_line(Line::new(Arc::clone(&worker), Arc::clone(&work), site.clone()));
    join_all((0..work.connections()).map(line)).await;
    work.end();
}

async fn run_line<F: Fetch>(mut line: Line<F>) {
    let (worker, work) = (Arc::clone(&line.worker), Arc::clone(&line.work));
    while !worker.stop.is_cancelled() {
        let next = tokio::select! {
            biased;
            () = worker.stop.cancelled() => None,
            next = work.next(line.free_at) => next,
        };
        let Some(task) = next else { return };
        let Lease { token, crawl, host, .. } = task.lease;
        if task.is_low {
            worker.ask_for_more(crawl, host);
        }
        match line.fetch_and_report(&task).await {
            Ok(Done::Well) => {}
            Ok(Done::Troubled) => worker.recall(&work.end()),
            Ok(done @ (Done::NotYet | Done::NotHere)) => {
                if done == Done::NotHere {
                    worker.recall(&work.end());
                }
                if !work.put_back(task) {
                    worker.recall_one(token);
                }
                continue;
            }
            Err(reason) => {
                tracing::warn!(%token, %reason, "a lease is left to run out");
                worker.holdings.drop(token);
                work.forget(token);
            }
        }
        work.done(token);
    }
}

/// How a task ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Done {
    /// There is nothing to say of the host.
    Well,
    /// All of the host is to be left alone for a while.
    Troubled,
    /// It did not begin: it is somebody else's turn, or it is wanted back.
    NotYet,
    /// It did not begin, or does not count, and all of the host is to be given back.
    NotHere,
}

/// Why there is no outcome of a URL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum NoOutcome {
    /// The worker stops, or may not act on the lease any more.
    LetGo,
    /// The host is not free yet, or the URL is wanted back.
    NotYet,
    /// Enough hosts are visited at the host's address, or the worker drains and cannot wait.
    NotHere,
}

/// Where a lane's host is, once that was looked up.
type Site = Arc<OnceCell<Whereabouts>>;

#[derive(Debug)]
enum Whereabouts {
    /// It has its places there.
    At(Places),
    /// Not known, or its crawl does not ask.
    Anywhere,
    Crowded,
}

/// One of a lane's connections.
struct Line<F> {
    worker: Arc<Worker<F>>,
    work: Arc<Work>,
    account: Account,
    site: Site,
    /// When the host may be fetched from again; none before the first fetch, for
    /// which the master has waited.
    free_at: Option<Instant>,
}

impl<F: Fetch> Line<F> {
    fn new(worker: Arc<Worker<F>>, work: Arc<Work>, site: Site) -> Self {
        Self { worker, work, account: Account::new(), site, free_at: None }
    }

    /// Does a task. The error says why its lease cannot be worked on.
    async fn fetch_and_report(&mut self, task: &Task) -> Result<Done, String> {
        let (worker, lease) = (Arc::clone(&self.worker), task.lease);
        if !worker.holdings.may_fetch(lease.token, Instant::now()) {
            return Err("it was not renewed in time".to_owned());
        }
        let crawl = self.crawl(lease).await?;
        let url = CrawlUrl::parse(&task.url.url).map_err(|error| error.to_string())?;
        let leased = Leased {
            token: lease.token,
            crawl: lease.crawl,
            host: lease.host,
            depth: task.url.depth,
            hops: task.url.hops,
            off_site: task.url.off_site,
            attempt: task.url.attempt,
            via: task.url.via.clone(),
            life: lease.life,
            host_delay: None,
            news: None,
            sitemaps: Vec::new(),
        };
        let outcome = self.outcome(&crawl, leased.clone(), url.clone(), task);
        // A defect in one page's handling ends that page, not the lane.
        let mut outgoing = match AssertUnwindSafe(outcome).catch_unwind().await {
            Ok(Ok(outgoing)) => outgoing,
            Ok(Err(NoOutcome::NotYet)) => return Ok(Done::NotYet),
            Ok(Err(NoOutcome::NotHere)) => return Ok(Done::NotHere),
            Ok(Err(NoOutcome::LetGo)) if worker.stop.is_cancelled() => return Ok(Done::Well),
            Ok(Err(NoOutcome::LetGo)) => return Err("it was not renewed in time".to_owned()),
            Err(_) => {
                self.account = Account::new();
                let detail = "the handling of the page panicked".to_owned();
                self.account.failure(&leased, &url, FailureKind::Internal, detail, None)
            }
        };
        if let Some(news) = &mut outgoing.report.host_news
            && news.address.is_empty()
            && let Some(Whereabouts::At(places)) = self.site.get()
        {
            news.address = places.only_address().map(octets).unwrap_or_default();
        }
        let is_troubled = outgoing.report.host_news.as_ref().is_some_and(|news| news.troubled);
        worker.note(&outgoing);
        worker.outbox.put(outgoing).await;
        Ok(if is_troubled { Done::Troubled } else { Done::Well })
    }

    /// The task's crawl, made ready. While the master is away this waits, for as long
    /// as the lease may be acted on.
    async fn crawl(&self, lease: Lease) -> Result<Arc<ReadyCrawl<F>>, String> {
        let worker = &self.worker;
        loop {
            match worker.crawls.get(&worker.master, lease.crawl, lease.spec_version).await {
                Ok(crawl) => return Ok(crawl),
                Err(MasterError::Away(_))
                    if worker.holdings.may_fetch(lease.token, Instant::now())
                        && !worker.stop.is_cancelled() =>
                {
                    sleep(ASK_AGAIN).await;
                }
                Err(error) => return Err(error.to_string()),
            }
        }
    }

    /// Fetches a URL if its host allows it, and accounts for it.
    async fn outcome(
        &mut self,
        crawl: &Arc<ReadyCrawl<F>>,
        mut leased: Leased,
        url: CrawlUrl,
        task: &Task,
    ) -> Result<Outgoing, NoOutcome> {
        let began = Instant::now();
        if let Err(error) = self.look_around(crawl, &url, task).await? {
            news::note(&mut leased, &Err(error.clone()), began.elapsed());
            return Ok(self.account.fetch_failure(&leased, &url, &error));
        }
        let mut pace = task.pace();
        let mut between = task.lease.pace.between();
        if crawl.spec.robots == RobotsPolicy::Obey {
            match self.rules(crawl, &url, task).await? {
                Ok(rules) => {
                    let delay = rules.crawl_delay().unwrap_or_default();
                    leased.host_delay = Some(delay);
                    pace.delay = pace.delay.max(delay);
                    between = between.max(delay);
                    if self.work.has_sitemaps_to_offer() {
                        leased.sitemaps = sitemaps(&rules, &crawl.spec);
                    }
                    let verdict = rules.verdict(&url);
                    if !verdict.allowed {
                        let detail = format!("disallowed by robots.txt, {verdict}");
                        let kind = FailureKind::Disallowed;
                        leased.news = self.work.take_news();
                        return Ok(self.account.failure(&leased, &url, kind, detail, None));
                    }
                }
                Err(error) => {
                    leased.news = self.work.take_news();
                    return Ok(self.account.fetch_failure(&leased, &url, &error));
                }
            }
        }
        let fetched = self.get(crawl, &url, task, pace, between).await?;
        leased.news = self.work.take_news();
        news::note(&mut leased, &fetched.result, fetched.took);
        match fetched.result {
            Ok(page) => {
                let outgoing = self.account_for(crawl, leased, page).await;
                if matches!(outgoing.report.outcome, Some(Outcome::Response(_))) {
                    self.work.sitemaps_offered();
                }
                Ok(outgoing)
            }
            Err(error) => Ok(self.account.fetch_failure(&leased, &url, &error)),
        }
    }

    /// Takes a place at each of the host's addresses before the lane's first request. The
    /// inner error says why it has none.
    async fn look_around(
        &self,
        crawl: &ReadyCrawl<F>,
        url: &CrawlUrl,
        task: &Task,
    ) -> Result<Result<(), FetchError>, NoOutcome> {
        if self.site.get().is_none() {
            let began = Instant::now();
            let looked = self.look(crawl, url, task.lease).await?;
            self.wait_out(crawl, url, task, &looked, began).await?;
            if let Err(error) = looked {
                return Ok(Err(error));
            }
        }
        match self.site.get() {
            Some(Whereabouts::Crowded) => Err(NoOutcome::NotHere),
            _ => Ok(Ok(())),
        }
    }

    /// Looks the host up, once for all lines.
    async fn look(
        &self,
        crawl: &ReadyCrawl<F>,
        url: &CrawlUrl,
        lease: Lease,
    ) -> Result<Result<(), FetchError>, NoOutcome> {
        let limit = crawl.spec.group_hosts;
        let look = async || {
            if limit == 0 || named_group(&crawl.spec, url).is_some() {
                return Ok(Whereabouts::Anywhere);
            }
            let addresses = self.while_held(lease.token, crawl.fetcher.addresses(url)).await;
            let addresses = addresses.map_err(Err)?.map_err(Ok)?;
            let host = HostRef { crawl: lease.crawl, host: lease.host };
            Ok(match self.worker.neighbours.enter(host, addresses, limit) {
                Ok(places) => Whereabouts::At(places),
                Err(found) => {
                    self.worker.tell(found);
                    Whereabouts::Crowded
                }
            })
        };
        match self.site.get_or_try_init(look).await {
            Ok(_) => Ok(Ok(())),
            Err(Ok(error)) => Ok(Err(error)),
            Err(Err(none)) => Err(none),
        }
    }

    /// The host's robots rules: remembered, asked of the master, or fetched.
    async fn rules(
        &self,
        crawl: &ReadyCrawl<F>,
        url: &CrawlUrl,
        task: &Task,
    ) -> Result<Result<Arc<Rules>, FetchError>, NoOutcome> {
        let (work, lease) = (&self.work, task.lease);
        let _one_at_a_time = work.rules.lock().await;
        if let Some(rules) = work.rules(lease.spec_version, Instant::now()) {
            return Ok(Ok(rules));
        }
        let source = robots::Source::new(&self.worker, crawl, lease.host, url, lease.robots);
        if let Some(rules) = source.known().await {
            return Ok(Ok(work.keep_rules(lease.spec_version, rules)));
        }
        self.begin(lease.token, lease.pace.between())?;
        let began = Instant::now();
        let (pause, limit) = (crawl.spec.delay.duration(), crawl.spec.fetch_timeout);
        let fetching = fetch_robots(&crawl.fetcher, url, pause, limit);
        let (fetched, took) = match self.while_held(lease.token, fetching).await {
            Ok((fetched, took)) => (Ok(fetched), took),
            Err(none) => (Err(none), began.elapsed()),
        };
        work.hold(Instant::now() + task.pace().after(&crawl.spec, took));
        let fetched = fetched?;
        self.wait_out(crawl, url, task, &fetched, began).await?;
        let news = news::of_robots(&fetched, took);
        let is_troubled = news.as_ref().is_some_and(|news| news.troubled);
        work.keep_news(news);
        match source.learn(fetched).await {
            Ok(rules) => {
                let rules = work.keep_rules(lease.spec_version, rules);
                work.hold(Instant::now() + rules.crawl_delay().unwrap_or_default());
                Ok(Ok(rules))
            }
            Err(error) => {
                if is_troubled {
                    // The other lines, which wait for the rules, are not to ask again.
                    work.end();
                }
                Ok(Err(error))
            }
        }
    }

    async fn get(
        &mut self,
        crawl: &ReadyCrawl<F>,
        url: &CrawlUrl,
        task: &Task,
        pace: Pace,
        between: Duration,
    ) -> Result<Fetched, NoOutcome> {
        self.begin(task.lease.token, between)?;
        let began = Instant::now();
        let result = self.while_held(task.lease.token, crawl.fetcher.get(url)).await;
        let took = began.elapsed();
        // The host was visited, also where the fetch was given up.
        self.free_at = Some(Instant::now() + pace.after(&crawl.spec, took));
        let result = result?;
        self.wait_out(crawl, url, task, &result, began).await?;
        Ok(Fetched { result, took })
    }

    /// Waits for as long as our own network is down. If it was, a failure that began then
    /// does not count: its URL is fetched again, here or by another worker.
    async fn wait_out<T>(
        &self,
        crawl: &ReadyCrawl<F>,
        url: &CrawlUrl,
        task: &Task,
        fetched: &Result<T, FetchError>,
        began: Instant,
    ) -> Result<(), NoOutcome> {
        if !fetched.as_ref().is_err_and(FetchError::is_silence) {
            return Ok(());
        }
        let token = task.lease.token;
        let mut attempt = 0;
        while self.while_held(token, crawl.fetcher.is_cut_off(url, began)).await? {
            attempt += 1;
            let wait = backoff::wait(attempt, OUTAGE_WAITS.0, OUTAGE_WAITS.1, fastrand::f64());
            tokio::select! {
                biased;
                () = self.worker.stop.cancelled() => return Err(NoOutcome::LetGo),
                () = self.work.wanted_back(token) => return Err(NoOutcome::NotYet),
                waited = self.while_held(token, sleep(wait)) => waited?,
            }
            if self.worker.master.is_draining() {
                return Err(NoOutcome::NotHere);
            }
        }
        if attempt > 0 { Err(NoOutcome::NotYet) } else { Ok(()) }
    }

    /// Fetches to the end, unless the worker stops, or may not act on the lease any more,
    /// since somebody else may soon.
    async fn while_held<T>(
        &self,
        token: Token,
        fetch: impl Future<Output = T>,
    ) -> Result<T, NoOutcome> {
        tokio::select! {
            biased;
            fetched = self.worker.unless_aborted(fetch) => fetched.ok_or(NoOutcome::LetGo),
            () = self.worker.holdings.let_go(token) => Err(NoOutcome::LetGo),
        }
    }

    /// A fetch begins, if it may; `between` it and the next one of any line.
    fn begin(&self, token: Token, between: Duration) -> Result<(), NoOutcome> {
        let now = Instant::now();
        if self.worker.stop.is_cancelled() || !self.worker.holdings.may_fetch(token, now) {
            return Err(NoOutcome::LetGo);
        }
        self.work.begin(token, now, between).then_some(()).ok_or(NoOutcome::NotYet)
    }

    /// Parses a page and writes its records: here if that is quick, on a thread
    /// for such work if it may take long.
    async fn account_for(
        &mut self,
        crawl: &Arc<ReadyCrawl<F>>,
        leased: Leased,
        page: Page,
    ) -> Outgoing {
        /// Bytes of a body that are parsed and compressed in a millisecond or so.
        const QUICK_BYTES: usize = 256 * 1024;
        // A few bytes of gzip may be a large sitemap.
        let is_gzip = page.body.starts_with(b"\x1f\x8b");
        let is_quick = page.body.len() <= QUICK_BYTES && !is_gzip && crawl.spec.extract.is_empty();
        if is_quick {
            return self.account.page(crawl, &self.worker.known, &leased, page);
        }
        let (crawl, worker, url) = (Arc::clone(crawl), Arc::clone(&self.worker), page.url.clone());
        let mut account = std::mem::take(&mut self.account);
        let on_behalf = leased.clone();
        let work = move || {
            let outgoing = account.page(&crawl, &worker.known, &leased, page);
            (account, outgoing)
        };
        match tokio::task::spawn_blocking(work).await {
            Ok((account, outgoing)) => {
                self.account = account;
                outgoing
            }
            Err(error) => {
                let detail = format!("the page could not be parsed: {error}");
                self.account.failure(&on_behalf, &url, FailureKind::Internal, detail, None)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn batch(token: u64, urls: usize) -> Batch {
        let url = |n| LeasedUrl { url: format!("http://h.test/{n}"), ..LeasedUrl::default() };
        let urls = (0..urls).map(url).collect();
        Batch::of(HostBatch { token, urls, ..HostBatch::default() }, Life::default())
    }

    #[tokio::test(start_paused = true)]
    async fn what_waits_for_its_turn_can_be_wanted_back() {
        let work = Work::of(batch(1, 3));
        let now = Instant::now();
        let task = work.next(None).await.unwrap();
        assert!(work.begin(Token(1), now, Duration::ZERO));
        work.done(task.lease.token);
        let waits = async {
            let next = work.next(Some(now + SECOND * 60)).await;
            (next.is_none(), now.elapsed())
        };
        let recall = async {
            tokio::time::sleep(SECOND).await;
            work.forget(Token(1))
        };
        assert_eq!(tokio::join!(waits, recall), ((true, SECOND), 2), "nothing waits any longer");
        assert!(work.add(batch(2, 1)).is_err(), "the lane has ended");
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_taken_and_not_begun_goes_back_or_is_dropped() {
        let work = Work::of(batch(1, 1));
        let now = Instant::now();
        work.hold(now + SECOND);
        let task = work.next(None).await.unwrap();
        assert_eq!(now.elapsed(), SECOND);
        work.hold(now + SECOND * 3);
        assert!(!work.begin(Token(1), Instant::now(), Duration::ZERO), "the host is not free");
        assert!(work.put_back(task));
        let task = work.next(None).await.unwrap();
        assert_eq!(now.elapsed(), SECOND * 3);
        assert_eq!(work.forget(Token(1)), 0, "it is under way");
        assert!(!work.begin(Token(1), Instant::now(), Duration::ZERO));
        assert!(!work.put_back(task));
        assert!(work.next(None).await.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_lane_that_ends_gives_back_what_is_under_way_too() {
        let work = Work::of(batch(1, 1));
        assert!(work.add(batch(2, 1)).is_ok());
        let task = work.next(None).await.unwrap();
        assert_eq!(work.end(), [Token(1), Token(2)]);
        assert!(!work.begin(Token(1), Instant::now(), Duration::ZERO), "others do not ask again");
        assert!(!work.put_back(task));
        assert!(work.next(None).await.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn what_the_host_asks_for_lies_between_the_fetches_of_all_lines() {
        let work = Work::of(batch(1, 3));
        let began = Instant::now();
        let line = async || {
            let mut times = Vec::new();
            while let Some(task) = work.next(None).await {
                if work.begin(Token(1), Instant::now(), SECOND * 5) {
                    times.push(began.elapsed().as_secs());
                    tokio::time::sleep(SECOND * 60).await;
                    work.done(Token(1));
                } else {
                    assert!(work.put_back(task));
                }
            }
            times
        };
        assert_eq!(tokio::join!(line(), line(), line()), (vec![0], vec![5], vec![10]));
    }
}
