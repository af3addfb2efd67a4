//! A lane: the worker's serial line to one host. It fetches what it is lent, one
//! after the other, no sooner than the delay after the last fetch ended. If its crawl
//! allows a host several connections, as many fetches are under way, each line with a
//! delay of its own; what the host's robots.txt or people ask for lies between any two.
//!
//! A URL is taken when it may be fetched, not before: until then it can be wanted back.
//! When the host as a whole is in trouble, or is not to be asked for long, the lane gives
//! back what is left and ends: the master says when the host may be asked again.

mod work;

use std::{future::Future, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures::{FutureExt, future::join_all};
use tokio::{
    sync::OnceCell,
    time::{Instant, sleep},
};
use trawl_proto::v1::{HostRef, url_report::Outcome};
use trawl_shared::{
    address::octets, backoff, lease::Token, outcome::FailureKind, politeness::named_group,
    robots::Rules, spec::RobotsPolicy, url::CrawlUrl,
};

use crate::{
    account::{Account, Leased, sitemaps},
    crawls::ReadyCrawl,
    fetch::{Fetch, FetchError, Page, fetch_robots_at_pace},
    master::MasterError,
    neighbours::Places,
    news,
    pipeline::Worker,
    report::Outgoing,
    robots,
};

pub(crate) use self::work::{Batch, Work};
use self::work::{Lease, Pace, Task};

/// The wait before a specification is asked for again.
const ASK_AGAIN: Duration = Duration::from_millis(500);

/// The first wait before it is tried again whether our own network is up, and the longest.
const OUTAGE_WAITS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(15));

/// What a fetch brought, and how long it took.
struct Fetched {
    result: Result<Page, FetchError>,
    took: Duration,
}

/// Runs a lane until its work is done or the worker stops. What it leaves is
/// handed back by the pipeline, or runs out.
pub(crate) async fn run<F: Fetch>(worker: Arc<Worker<F>>, work: Arc<Work>) {
    let site = Site::default();
    let line = |_| run_line(Line::new(Arc::clone(&worker), Arc::clone(&work), site.clone()));
    join_all((0..work.connections()).map(line)).await;
    tell(&worker, &work);
    work.end();
}

/// Has the master told what came of the host's robots.txt, if nothing else was fetched
/// since whose report would: so it knows how long the host is to be left alone.
fn tell<F: Fetch>(worker: &Worker<F>, work: &Work) {
    if let Some(told) = work.untold() {
        worker.tell_news(told);
    }
}

/// Ends the lane, and gives back what is left of it.
fn give_back<F: Fetch>(worker: &Worker<F>, work: &Work) {
    tell(worker, work);
    worker.recall(&work.end());
}

async fn run_line<F: Fetch>(mut line: Line<F>) {
    let (worker, work) = (Arc::clone(&line.worker), Arc::clone(&line.work));
    while !worker.stop.is_cancelled() {
        // Others have use for the lane while a host is not to be asked.
        let longest = worker.master.lease_duration() / 2;
        let next = tokio::select! {
            biased;
            () = worker.stop.cancelled() => return,
            next = work.next(line.free_at, longest) => next,
        };
        let Some(task) = next else { return give_back(&worker, &work) };
        let Lease { token, crawl, host, .. } = task.lease;
        if task.is_low {
            worker.ask_for_more(crawl, host);
        }
        match line.fetch_and_report(&task).await {
            Ok(Done::Well) => {}
            Ok(Done::Troubled) => give_back(&worker, &work),
            Ok(done @ (Done::NotYet | Done::NotHere)) => {
                if done == Done::NotHere {
                    give_back(&worker, &work);
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
    /// Enough hosts are visited at the host's address, or the worker drains and cannot wait,
    /// or the host asks for rest.
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
        let _one_at_a_time = work.looking_for_rules.lock().await;
        if let Some(rules) = work.rules(lease.spec_version, Instant::now()) {
            return Ok(Ok(rules));
        }
        let source = robots::Source::new(&self.worker, crawl, lease.host, url, lease.robots);
        if let Some(rules) = source.known().await {
            return Ok(Ok(work.keep_rules(lease.spec_version, rules)));
        }
        self.begin(lease.token, lease.pace.between())?;
        let began = Instant::now();
        let pause = |took| task.pace().after(&crawl.spec, took);
        let (limit, detours) = (crawl.spec.fetch_timeout, &self.worker.detours);
        let fetching = fetch_robots_at_pace(&crawl.fetcher, url, pause, limit, detours);
        let (fetched, took) = match self.while_held(lease.token, fetching).await {
            Ok((fetched, took)) => (Ok(fetched), took),
            Err(none) => (Err(none), began.elapsed()),
        };
        work.hold(Instant::now() + pause(took));
        let fetched = fetched?;
        self.wait_out(crawl, url, task, &fetched, began).await?;
        let news = news::of_robots(&fetched, took);
        let is_troubled = news.as_ref().is_some_and(|news| news.troubled);
        work.keep_news(news);
        let learned = source.learn(fetched).await;
        if is_troubled {
            // The other lines, which wait for the rules, are not to ask again.
            work.end();
        }
        let rules = match learned {
            Ok(rules) => work.keep_rules(lease.spec_version, rules),
            Err(error) => return Ok(Err(error)),
        };
        if is_troubled {
            // Former rules allow it perhaps, but the host asks for rest.
            return Err(NoOutcome::NotHere);
        }
        work.hold(Instant::now() + rules.crawl_delay().unwrap_or_default());
        Ok(Ok(rules))
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
        let waiting = async {
            while crawl.fetcher.is_cut_off(url, began).await {
                if self.worker.master.is_draining() {
                    return Err(NoOutcome::NotHere);
                }
                attempt += 1;
                let wait = backoff::wait(attempt, OUTAGE_WAITS.0, OUTAGE_WAITS.1, fastrand::f64());
                sleep(wait).await;
            }
            if attempt > 0 { Err(NoOutcome::NotYet) } else { Ok(()) }
        };
        tokio::select! {
            biased;
            waited = self.while_held(token, waiting) => waited?,
            () = self.worker.stop.cancelled() => Err(NoOutcome::LetGo),
            () = self.work.wanted_back(token) => Err(NoOutcome::NotYet),
        }
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
mod tests;
