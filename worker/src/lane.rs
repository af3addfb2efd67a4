//! A lane: the worker's serial line to one host. It fetches what it is lent, one
//! after the other, no sooner than the delay after the last fetch ended.

use std::{
    collections::VecDeque,
    future::Future,
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::FutureExt;
use tokio::time::{Instant, sleep, sleep_until};
use trawl_proto::v1::{HostBatch, LeasedUrl};
use trawl_shared::{
    lease::Token,
    outcome::FailureKind,
    spec::RobotsPolicy,
    url::{CrawlUrl, HostKey},
};

use crate::{
    account::{Account, Leased},
    crawls::ReadyCrawl,
    fetch::{Fetch, FetchError, Page, RobotsCache, Rules, fetch_rules},
    master::{Life, MasterError},
    pipeline::Worker,
};

/// A lane asks for more URLs when what it has left takes no longer than this.
const LOW_WATER: Duration = Duration::from_secs(1);

/// The least time that a fetch is taken to need.
const FETCH_MIN: Duration = Duration::from_millis(10);

/// The wait before a specification is asked for again.
const ASK_AGAIN: Duration = Duration::from_millis(500);

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
}

#[derive(Debug, Default)]
struct WorkState {
    batches: VecDeque<Batch>,
    /// More was asked for since the last batch came.
    asked: bool,
    /// The lane has ended; a new batch needs a new one.
    ended: bool,
}

/// A host batch on its way through a lane.
#[derive(Debug)]
pub(crate) struct Batch {
    token: Token,
    crawl: u32,
    host: u32,
    spec_version: u32,
    delay: Duration,
    life: Life,
    urls: VecDeque<LeasedUrl>,
}

/// The next thing to do.
struct Task {
    token: Token,
    crawl: u32,
    host: u32,
    spec_version: u32,
    delay: Duration,
    life: Life,
    url: LeasedUrl,
    /// The lane runs low and has not asked for more yet.
    is_low: bool,
}

impl Batch {
    /// A batch that was leased from a master in this life of it.
    pub(crate) fn of(batch: HostBatch, life: Life) -> Self {
        Self {
            life,
            token: Token(batch.token),
            crawl: batch.crawl,
            host: batch.host,
            spec_version: batch.spec_version,
            delay: Duration::from_millis(batch.delay_ms),
            urls: batch.urls.into(),
        }
    }
}

impl Work {
    /// What a new lane begins with.
    pub(crate) fn of(batch: Batch) -> Self {
        let state = WorkState { batches: VecDeque::from([batch]), ..WorkState::default() };
        Self { state: Mutex::new(state) }
    }

    /// Adds a batch, unless the lane has ended: then it is given back.
    pub(crate) fn add(&self, batch: Batch) -> Result<(), Batch> {
        let mut state = self.lock();
        if state.ended {
            return Err(batch);
        }
        state.asked = false;
        state.batches.push_back(batch);
        Ok(())
    }

    /// The next URL; none ends the lane.
    fn next(&self) -> Option<Task> {
        let mut state = self.lock();
        while let Some(batch) = state.batches.front_mut() {
            let Some(url) = batch.urls.pop_front() else {
                state.batches.pop_front();
                continue;
            };
            let (token, crawl, host) = (batch.token, batch.crawl, batch.host);
            let (spec_version, delay, life) = (batch.spec_version, batch.delay, batch.life);
            let left: usize = state.batches.iter().map(|batch| batch.urls.len()).sum();
            let is_low = left <= low_water(delay) && !state.asked;
            state.asked |= is_low;
            return Some(Task { token, crawl, host, spec_version, delay, life, url, is_low });
        }
        state.ended = true;
        None
    }

    /// Drops what is left of a lease that the worker is not to act on any more.
    /// Returns how many URLs that are.
    pub(crate) fn forget(&self, token: Token) -> usize {
        let mut dropped = 0;
        self.lock().batches.retain(|batch| {
            let stays = batch.token != token;
            dropped += if stays { 0 } else { batch.urls.len() };
            stays
        });
        dropped
    }

    /// Drops everything: it is another master's.
    pub(crate) fn clear(&self) {
        self.lock().batches.clear();
    }

    /// Ends the lane. Returns the tokens of the work that is left in it.
    pub(crate) fn end(&self) -> Vec<Token> {
        let mut state = self.lock();
        state.ended = true;
        state.batches.iter().map(|batch| batch.token).collect()
    }

    fn lock(&self) -> MutexGuard<'_, WorkState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Runs a lane until its work is done or the worker stops. What it leaves is
/// handed back by the pipeline, or runs out.
pub(crate) async fn run<F: Fetch>(worker: Arc<Worker<F>>, work: Arc<Work>) {
    let mut lane = Lane { worker, account: Account::new(), free_at: None };
    while !lane.worker.stop.is_cancelled() {
        let Some(task) = work.next() else { return };
        if task.is_low {
            lane.worker.ask_for_more(task.crawl, task.host);
        }
        let token = task.token;
        if let Err(reason) = lane.fetch_and_report(task).await {
            tracing::warn!(%token, %reason, "a lease is left to run out");
            lane.worker.holdings.drop(token);
            work.forget(token);
        }
    }
    work.end();
}

struct Lane<F> {
    worker: Arc<Worker<F>>,
    account: Account,
    /// When the host may be fetched from again; none before the first fetch, for
    /// which the master has waited.
    free_at: Option<Instant>,
}

impl<F: Fetch> Lane<F> {
    /// Does a task. The error says why its lease cannot be worked on.
    async fn fetch_and_report(&mut self, task: Task) -> Result<(), String> {
        let worker = Arc::clone(&self.worker);
        if !worker.holdings.may_fetch(task.token, Instant::now()) {
            return Err("it was not renewed in time".to_owned());
        }
        let crawl = self.crawl(&task).await?;
        let url = CrawlUrl::parse(&task.url.url).map_err(|error| error.to_string())?;
        let leased = Leased {
            token: task.token,
            crawl: task.crawl,
            host: task.host,
            depth: task.url.depth,
            hops: task.url.hops,
            attempt: task.url.attempt,
            via: task.url.via,
            life: task.life,
            host_delay: None,
        };
        let outcome = self.outcome(&crawl, leased.clone(), url.clone(), task.delay);
        // A defect in one page's handling ends that page, not the lane.
        let outgoing = match AssertUnwindSafe(outcome).catch_unwind().await {
            Ok(Some(outgoing)) => outgoing,
            Ok(None) if worker.stop.is_cancelled() => return Ok(()),
            Ok(None) => return Err("it was not renewed in time".to_owned()),
            Err(_) => {
                self.account = Account::new();
                let detail = "the handling of the page panicked".to_owned();
                self.account.failure(&leased, &url, FailureKind::Internal, detail, None)
            }
        };
        worker.note(&outgoing);
        worker.outbox.put(outgoing).await;
        Ok(())
    }

    /// The task's crawl, made ready. While the master is away this waits, for as long
    /// as the lease may be acted on.
    async fn crawl(&self, task: &Task) -> Result<Arc<ReadyCrawl<F>>, String> {
        let worker = &self.worker;
        loop {
            match worker.crawls.get(&worker.master, task.crawl, task.spec_version).await {
                Ok(crawl) => return Ok(crawl),
                Err(MasterError::Away(_))
                    if worker.holdings.may_fetch(task.token, Instant::now())
                        && !worker.stop.is_cancelled() =>
                {
                    sleep(ASK_AGAIN).await;
                }
                Err(error) => return Err(error.to_string()),
            }
        }
    }

    /// Fetches a URL if its host allows it, and accounts for it. None if the worker
    /// stops, or may not act on the lease any more, before there is an outcome.
    async fn outcome(
        &mut self,
        crawl: &Arc<ReadyCrawl<F>>,
        mut leased: Leased,
        url: CrawlUrl,
        delay: Duration,
    ) -> Option<crate::report::Outgoing> {
        let mut delay = delay;
        if crawl.spec.robots == RobotsPolicy::Obey {
            match self.rules(crawl, &leased, &url, delay).await? {
                Ok(rules) => {
                    leased.host_delay = Some(rules.crawl_delay().unwrap_or_default());
                    delay = delay.max(rules.crawl_delay().unwrap_or_default());
                    if let Some(line) = rules.forbidden_by(&url) {
                        let detail = format!("disallowed by robots.txt: {line}");
                        let kind = FailureKind::Disallowed;
                        return Some(self.account.failure(&leased, &url, kind, detail, None));
                    }
                }
                Err(error) => return Some(self.account.fetch_failure(&leased, &url, &error)),
            }
        }
        match self.get(crawl, &leased, &url, delay).await? {
            Ok(page) => Some(self.account_for(crawl, leased, page).await),
            Err(error) => Some(self.account.fetch_failure(&leased, &url, &error)),
        }
    }

    /// The host's robots rules, fetched unless they are known.
    async fn rules(
        &mut self,
        crawl: &ReadyCrawl<F>,
        leased: &Leased,
        url: &CrawlUrl,
        delay: Duration,
    ) -> Option<Result<Arc<Rules>, FetchError>> {
        let number = leased.crawl;
        let host = HostKey::trusted(url.host_key_str().to_owned());
        let cache: &RobotsCache = &self.worker.robots;
        if let Some(rules) = cache.get(number, &host) {
            return Some(Ok(rules));
        }
        self.pace(leased.token).await?;
        let token = crawl.spec.product_token();
        let fetch = fetch_rules(&crawl.fetcher, url, token);
        let fetched = self.while_held(leased.token, fetch).await;
        let delay = match &fetched {
            Some(Ok(rules)) => delay.max(rules.crawl_delay().unwrap_or_default()),
            Some(Err(_)) | None => delay,
        };
        self.free_at = Some(Instant::now() + delay);
        Some(fetched?.map(|rules| self.worker.robots.insert(number, host, rules)))
    }

    async fn get(
        &mut self,
        crawl: &ReadyCrawl<F>,
        leased: &Leased,
        url: &CrawlUrl,
        delay: Duration,
    ) -> Option<Result<Page, FetchError>> {
        self.pace(leased.token).await?;
        let fetched = self.while_held(leased.token, crawl.fetcher.get(url)).await;
        // The host was visited, also where the fetch was given up.
        self.free_at = Some(Instant::now() + delay);
        fetched
    }

    /// Fetches to the end. None if the fetch is given up before: the worker stops, or
    /// may not act on the lease any more, since somebody else may soon.
    async fn while_held<T>(&self, token: Token, fetch: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            fetched = self.worker.unless_aborted(fetch) => fetched,
            () = self.worker.holdings.let_go(token) => None,
        }
    }

    /// Waits until the host may be fetched from. None if the worker stops first, or
    /// may not act on the lease any more.
    async fn pace(&self, token: Token) -> Option<()> {
        if let Some(free_at) = self.free_at {
            tokio::select! {
                biased;
                () = self.worker.stop.cancelled() => return None,
                () = sleep_until(free_at) => {}
            }
        }
        self.worker.holdings.may_fetch(token, Instant::now()).then_some(())
    }

    /// Parses a page and writes its records: here if that is quick, on a thread
    /// for such work if it may take long.
    async fn account_for(
        &mut self,
        crawl: &Arc<ReadyCrawl<F>>,
        leased: Leased,
        page: Page,
    ) -> crate::report::Outgoing {
        /// Bytes of a body that are parsed and compressed in a millisecond or so.
        const QUICK_BYTES: usize = 256 * 1024;
        let is_quick = page.body.len() <= QUICK_BYTES && crawl.spec.extract.is_empty();
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
