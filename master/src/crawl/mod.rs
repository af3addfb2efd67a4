//! The one owner of crawl state: a bounded mailbox, commits in groups, then the
//! answers.
//!
//! Everything that waits in the mailbox is handled in one turn. Page records are
//! made durable first, then the outcomes that point at them are committed, then
//! the turn's questions are answered: what is acknowledged is on stable storage.
//! While a turn waits for the disk the mailbox fills, so a slow disk makes larger
//! groups by itself, and a full mailbox slows the workers down.

mod ask;

use std::{
    collections::{BTreeMap, HashMap},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use trawl_shared::{lease::Verdict, units::Size, url::CrawlUrl};

use self::ask::{About, Heard, MAILBOX, Question, To};
pub use self::ask::{
    AccountView, AskError, Crawls, Delivery, HostView, Inmates, Mailbox, NoCrawl, NotSubmitted,
    Overview, Records, Renewal, Submission, Welcome,
};
use crate::{
    frontier::{
        Account, Batch, CrawlStatus, Frontier, FrontierError, Judgement, LeaseRequest, Moment,
        Outcome, Release, Released, State,
    },
    pages::{CrawlPages, PageStore, PageStoreError, Place},
    store::{
        Store, StoreError,
        rows::{Finish, Wish},
    },
    workers::{Caller, Hello, WorkerState, Workers},
};

/// The shortest time from one turn to the next. What comes in between shares the
/// next one's writes to the disk, which are dear: the time of a page or two each.
const TURN_MIN: Duration = Duration::from_millis(10);

/// The longest that a turn waits for a question.
const IDLE_TURN: Duration = Duration::from_secs(5);

/// URLs that are let out of quarantine in one commit.
const RELEASE_URLS: usize = 1_000;

/// Why the crawls cannot go on. All of them end the process.
#[derive(Debug, thiserror::Error)]
pub enum CrawlError {
    /// The frontier failed.
    #[error(transparent)]
    Frontier(#[from] FrontierError),
    /// The page store failed.
    #[error(transparent)]
    Pages(#[from] PageStoreError),
    /// The owner's thread is gone.
    #[error("the master ended by a defect of its own; what was acknowledged is safe, start again")]
    Died,
}

impl CrawlError {
    /// Whether the disk is full.
    pub fn is_disk_full(&self) -> bool {
        match self {
            Self::Frontier(FrontierError::Store(StoreError::DiskFull)) => true,
            Self::Frontier(_) | Self::Died => false,
            Self::Pages(error) => error.is_disk_full(),
        }
    }
}

/// Where a crawl's pages go.
#[derive(Clone, Debug)]
pub struct PageSettings {
    /// The directory with one directory for each crawl.
    pub directory: PathBuf,
    /// Bytes after which a segment is full.
    pub segment: Size,
}

/// The owner of crawl state.
pub struct Owner<S> {
    frontier: Frontier<S>,
    pages: BTreeMap<u32, PageStore>,
    page_settings: PageSettings,
    workers: Workers,
    clock: Clock,
    leases: Vec<Waiting<LeaseRequest, Heard<Vec<Batch>>>>,
    statuses: Vec<Waiting<Option<String>, About<Overview>>>,
}

/// A question that is answered when something has happened, or at a time.
struct Waiting<Q, A> {
    question: Q,
    until: Moment,
    answer: To<A>,
}

/// An answer that is due when the turn is durable.
type Answer = Box<dyn FnOnce() + Send>;

/// The master's clock: it goes on where the frontier's store stopped.
struct Clock {
    origin: Moment,
    since: Instant,
}

impl Clock {
    fn start(origin: Moment) -> Self {
        Self { origin, since: Instant::now() }
    }

    fn now(&self) -> Moment {
        self.origin + self.since.elapsed()
    }

    fn instant(&self, moment: Moment) -> Instant {
        self.since + Duration::from_millis(moment.0.saturating_sub(self.origin.0))
    }
}

impl<S: Store> Owner<S> {
    /// The owner of a frontier whose clock stands at `now`.
    pub fn new(frontier: Frontier<S>, now: Moment, pages: PageSettings) -> Self {
        Self {
            workers: Workers::new(frontier.epoch()),
            frontier,
            pages: BTreeMap::new(),
            page_settings: pages,
            clock: Clock::start(now),
            leases: Vec::new(),
            statuses: Vec::new(),
        }
    }

    /// Answers questions until `stop` is cancelled or nobody is left to ask.
    ///
    /// # Errors
    /// If a store fails. Nothing acknowledged is lost by that.
    pub async fn run(
        mut self,
        mut mailbox: Mailbox,
        stop: CancellationToken,
    ) -> Result<(), CrawlError> {
        let mut next = Instant::now();
        loop {
            let first = tokio::select! {
                () = stop.cancelled() => break,
                question = mailbox.0.recv() => match question {
                    Some(question) => Some(question),
                    None => break,
                },
                () = sleep_until(self.next_turn()) => None,
            };
            sleep_until(next).await;
            next = Instant::now() + TURN_MIN;
            let mut answers = Vec::new();
            // Whoever has asked in time is heard before leases run out.
            let waiting = std::iter::from_fn(|| mailbox.0.try_recv().ok()).take(MAILBOX);
            for question in first.into_iter().chain(waiting) {
                self.handle(question, &mut answers)?;
            }
            self.finish_turn(answers)?;
        }
        self.frontier.checkpoint(self.clock.now())?;
        self.finish_turn(Vec::new())
    }

    /// When the next turn is due without a question.
    fn next_turn(&self) -> Instant {
        let idle = self.clock.now() + IDLE_TURN;
        let waits = self.leases.iter().map(|waiting| waiting.until);
        let waits = waits.chain(self.statuses.iter().map(|waiting| waiting.until));
        // What is ready matters only while somebody waits for it.
        let leases = self.leases.iter();
        let ready = leases.filter_map(|lease| self.frontier.next_ready(lease.question.crawl));
        let event = waits.chain(ready).chain(self.frontier.next_deadline()).min();
        self.clock.instant(event.map_or(idle, |event| event.min(idle)))
    }

    fn handle(&mut self, question: Question, answers: &mut Vec<Answer>) -> Result<(), CrawlError> {
        let now = self.clock.now();
        match question {
            Question::Join { worker, hello, answer } => {
                let welcome = self.join(&worker, hello, now)?;
                later(answers, answer, welcome);
            }
            Question::Lease { caller, request, wait, answer } => {
                match self.workers.hear(&caller, now) {
                    Ok(()) => {
                        let until = now + wait;
                        self.leases.push(Waiting { question: request, until, answer });
                    }
                    Err(unheard) => later(answers, answer, Err(unheard)),
                }
            }
            Question::Specification { caller, crawl, answer } => {
                let heard = self.workers.hear(&caller, now);
                later(answers, answer, heard.map(|()| self.frontier.specification(crawl)));
            }
            Question::Renew { caller, tokens, activity, answer } => {
                let heard = self.workers.hear(&caller, now);
                let renewal = heard.map(|()| Renewal {
                    lost: self.frontier.renew(&caller.worker, &tokens, now),
                    recalled: self.frontier.recalled(&caller.worker),
                    drain: self.workers.note(&caller.worker, activity),
                });
                later(answers, answer, renewal);
            }
            Question::Report { caller, deliveries, answer } => {
                let verdicts = self.report(&caller, deliveries, now)?;
                later(answers, answer, verdicts);
            }
            Question::HandBack { caller, leases, answer } => {
                let heard = self.workers.hear(&caller, now);
                if heard.is_ok() {
                    self.frontier.hand_back(&caller.worker, &leases, now)?;
                }
                later(answers, answer, heard);
            }
            question => self.handle_operator(question, now, answers)?,
        }
        Ok(())
    }

    /// Handles what people ask.
    fn handle_operator(
        &mut self,
        question: Question,
        now: Moment,
        answers: &mut Vec<Answer>,
    ) -> Result<(), CrawlError> {
        match question {
            Question::Submit { submission, answer } => {
                self.submit(*submission, now, answer, answers)?
            }
            Question::Status { name, wait, answer } => {
                self.statuses.push(Waiting { question: name, until: now + wait, answer });
            }
            Question::Steer { name, wish, answer } => {
                let steered = self.steer(&name, wish, now)?;
                later(answers, answer, steered);
            }
            Question::Workers { answer } => {
                let held = self.frontier.held();
                let held = |name: &str| held.get(name).copied().unwrap_or_default();
                let workers = self.workers.list(self.frontier.lease_duration(), now, held);
                later(answers, answer, workers);
            }
            Question::Drain { worker, draining, answer } => {
                let known = self.workers.drain(&worker, draining);
                let held = self.frontier.held();
                let leases = held.get(worker.as_str()).map_or(0, |(leases, _)| *leases);
                later(answers, answer, known.then_some(leases));
            }
            Question::Hosts { crawl, contains, limit, answer } => {
                let hosts = self.named(crawl.as_deref()).map(|()| {
                    let (hosts, count) = self.frontier.hosts(crawl.as_deref(), &contains, limit);
                    let due = |ready: Moment| until(ready, now);
                    let view = |host: crate::frontier::HostStatus| HostView {
                        due: host.ready.map(due),
                        host,
                    };
                    (hosts.into_iter().map(view).collect(), count)
                });
                later(answers, answer, hosts);
            }
            Question::Why { crawl, url, answer } => {
                let accounts = self.why(crawl.as_deref(), &url, now)?;
                later(answers, answer, accounts);
            }
            Question::Via { crawl, host, id, answer } => {
                let via = self.frontier.via(crawl, host, &id.0).map_err(FrontierError::from)?;
                later(answers, answer, via);
            }
            Question::Pages { crawl, answer } => {
                self.commit_all(now)?;
                later(answers, answer, self.crawl_pages(crawl.as_deref()));
            }
            Question::LookUp { crawl, url, answer } => {
                later(answers, answer, self.frontier.look_up(crawl, &url)?);
            }
            Question::Quarantine { crawl, after, limit, answer } => {
                self.commit_all(now)?;
                let listed = match self.crawl_pages(crawl.as_deref()) {
                    Ok(pages) => {
                        Ok((self.frontier.quarantined(pages.crawl, &after, limit)?, pages))
                    }
                    Err(none) => Err(none),
                };
                later(answers, answer, listed);
            }
            Question::Release { crawl, inmates, how, answer } => {
                let released = match self.crawl_pages(crawl.as_deref()) {
                    Ok(pages) => Ok(self.release(pages.crawl, inmates, how, now)?),
                    Err(none) => Err(none),
                };
                later(answers, answer, released);
            }
            // All others are handled before.
            _ => {}
        }
        Ok(())
    }

    fn join(
        &mut self,
        worker: &Arc<str>,
        hello: Hello,
        now: Moment,
    ) -> Result<Heard<Welcome>, CrawlError> {
        let is_new = !hello.again;
        let session = match self.workers.join(worker, hello, now) {
            Ok(session) => session,
            Err(unheard) => return Ok(Err(unheard)),
        };
        if is_new {
            self.frontier.forget_worker(worker, now)?;
        }
        Ok(Ok(Welcome {
            instance: self.frontier.instance().to_owned(),
            epoch: self.frontier.epoch(),
            session,
            lease: self.frontier.lease_duration(),
        }))
    }

    fn report(
        &mut self,
        caller: &Caller,
        deliveries: Vec<Delivery>,
        now: Moment,
    ) -> Result<Heard<Vec<Verdict>>, CrawlError> {
        if let Err(unheard) = self.workers.hear(caller, now) {
            return Ok(Err(unheard));
        }
        let mut verdicts = Vec::with_capacity(deliveries.len());
        for delivery in deliveries {
            verdicts.push(self.deliver(&caller.worker, delivery, now)?);
        }
        Ok(Ok(verdicts))
    }

    fn submit(
        &mut self,
        submission: Submission,
        now: Moment,
        answer: To<Result<crate::frontier::Submitted, NotSubmitted>>,
        answers: &mut Vec<Answer>,
    ) -> Result<(), CrawlError> {
        let Submission { name, spec, seeds, take_up } = submission;
        if !take_up && !self.frontier.status(Some(&name)).is_empty() {
            later(answers, answer, Err(NotSubmitted::Taken(name)));
            return Ok(());
        }
        // The frontier commits before it takes a submission.
        self.seal_pages()?;
        match self.frontier.submit(&name, spec, &seeds, now) {
            Ok(submitted) => later(answers, answer, Ok(submitted)),
            Err(FrontierError::Spec(reason)) => {
                later(answers, answer, Err(NotSubmitted::Spec(reason)));
            }
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    fn steer(
        &mut self,
        name: &str,
        wish: Wish,
        now: Moment,
    ) -> Result<About<CrawlStatus>, CrawlError> {
        if !self.frontier.steer(name, wish, now) {
            return Ok(Err(self.no_crawl(name)));
        }
        self.commit_all(now)?;
        let status = self.frontier.status(Some(name)).into_iter().next();
        Ok(status.ok_or_else(|| self.no_crawl(name)))
    }

    fn why(
        &mut self,
        crawl: Option<&str>,
        url: &CrawlUrl,
        now: Moment,
    ) -> Result<About<Vec<AccountView>>, CrawlError> {
        if let Err(none) = self.named(crawl) {
            return Ok(Err(none));
        }
        self.commit_all(now)?;
        let view = |account: Account| {
            let (due, lease_left) = match &account.state {
                State::Open { due, holder, .. } => {
                    let left = holder.as_ref().map(|holder| until(holder.deadline, now));
                    (due.map(|due| until(due, now)), left)
                }
                _ => (None, None),
            };
            let pages = self.pages_of(account.crawl, &account.name);
            AccountView { account, due, lease_left, pages }
        };
        let accounts = self.frontier.why(crawl, url, now)?;
        Ok(Ok(accounts.into_iter().map(view).collect()))
    }

    fn release(
        &mut self,
        crawl: u32,
        inmates: Inmates,
        how: Release,
        now: Moment,
    ) -> Result<Released, CrawlError> {
        let mut released = Released::default();
        match inmates {
            Inmates::Urls(urls) => {
                for url in urls {
                    let at = self.frontier.locate(crawl, &url)?;
                    match at {
                        Some(at) if self.frontier.release(at, &url.id(), how, now)? => {
                            released.count += 1;
                        }
                        _ => released.not_found.push(url.as_str().to_owned()),
                    }
                }
            }
            Inmates::All => loop {
                self.commit_all(now)?;
                let batch = self.frontier.quarantined(crawl, &[], RELEASE_URLS)?;
                if batch.is_empty() {
                    break;
                }
                for inmate in batch {
                    self.frontier.release(inmate.at, &inmate.id, how, now)?;
                    released.count += 1;
                }
            },
        }
        Ok(released)
    }

    /// Whether there is a crawl of this name, if one is named.
    fn named(&self, name: Option<&str>) -> About<()> {
        match name {
            Some(name) if self.frontier.status(Some(name)).is_empty() => Err(self.no_crawl(name)),
            _ => Ok(()),
        }
    }

    /// The pages of the crawl of this name, or of the only one.
    fn crawl_pages(&self, name: Option<&str>) -> About<CrawlPages> {
        let crawls = self.frontier.status(name);
        match (crawls.as_slice(), name) {
            ([crawl], _) => Ok(self.pages_of(crawl.crawl, &crawl.name)),
            (_, Some(name)) => Err(self.no_crawl(name)),
            ([], None) => Err(self.no_crawl("")),
            (_, None) => Err(NoCrawl::Several { crawls: self.crawl_names() }),
        }
    }

    fn pages_of(&self, crawl: u32, name: &str) -> CrawlPages {
        CrawlPages {
            crawl,
            name: name.to_owned(),
            directory: self.page_settings.directory.join(name),
            committed: self.frontier.committed_pages(crawl),
        }
    }

    fn no_crawl(&self, name: &str) -> NoCrawl {
        NoCrawl::Unknown { name: name.to_owned(), crawls: self.crawl_names() }
    }

    /// The crawls' names, for people; not all of very many.
    fn crawl_names(&self) -> String {
        const NAMES_MAX: usize = 20;
        let crawls = self.frontier.status(None);
        let names: Vec<&str> =
            crawls.iter().take(NAMES_MAX).map(|crawl| crawl.name.as_str()).collect();
        match crawls.len() {
            0 => "none".to_owned(),
            n if n > NAMES_MAX => format!("{} and {} more", names.join(", "), n - NAMES_MAX),
            _ => names.join(", "),
        }
    }

    /// Commits what was done so far in this turn, so that it can be read.
    fn commit_all(&mut self, now: Moment) -> Result<(), CrawlError> {
        self.seal_pages()?;
        Ok(self.frontier.commit(now)?)
    }

    /// Judges a report, puts its records away, and applies it.
    fn deliver(
        &mut self,
        worker: &str,
        delivery: Delivery,
        now: Moment,
    ) -> Result<Verdict, CrawlError> {
        let Delivery { report, records } = delivery;
        let ticket = match self.frontier.judge(worker, report.token, report.at, &report.id)? {
            Judgement::Apply(ticket) => ticket,
            Judgement::Already => return Ok(Verdict::Already),
            Judgement::Stale => return Ok(Verdict::Stale),
        };
        let place = match (&report.outcome, records) {
            (Outcome::Answered { .. }, Some(records)) => {
                self.put_away(report.at.crawl, &records)?
            }
            _ => None,
        };
        Ok(self.frontier.apply(ticket, report, place, now, fastrand::f64())?)
    }

    /// Appends a page's records. None if they are not what they are said to be:
    /// that is the worker's fault, and this page's alone.
    fn put_away(&mut self, crawl: u32, records: &Records) -> Result<Option<Place>, CrawlError> {
        match self.page_store(crawl)?.append(&records.pieces, records.lengths) {
            Ok(place) => Ok(Some(place)),
            Err(PageStoreError::Records) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// A crawl's page store, opened when its first page comes.
    fn page_store(&mut self, crawl: u32) -> Result<&mut PageStore, CrawlError> {
        use std::collections::btree_map::Entry;
        match self.pages.entry(crawl) {
            Entry::Occupied(pages) => Ok(pages.into_mut()),
            Entry::Vacant(place) => {
                let name = self.frontier.specification(crawl).map(|spec| spec.name);
                let name = name.unwrap_or_else(|| crawl.to_string());
                let settings = &self.page_settings;
                Ok(place.insert(PageStore::open(
                    &settings.directory.join(&name),
                    &name,
                    self.frontier.committed_pages(crawl),
                    settings.segment,
                )?))
            }
        }
    }

    /// Makes the pages put away so far durable, and stages where they end.
    fn seal_pages(&mut self) -> Result<(), CrawlError> {
        for (crawl, pages) in &mut self.pages {
            let reached = pages.sync()?;
            if reached != self.frontier.committed_pages(*crawl) {
                self.frontier.set_committed_pages(*crawl, reached);
            }
        }
        Ok(())
    }

    /// Commits what the turn changed, lends what is due, and answers.
    fn finish_turn(&mut self, mut answers: Vec<Answer>) -> Result<(), CrawlError> {
        let now = self.clock.now();
        self.frontier.expire(now)?;
        self.workers.forget_silent(self.frontier.lease_duration(), now);
        self.commit_all(now)?;
        self.lend(now, &mut answers)?;
        self.frontier.commit(now)?;
        self.frontier.sync()?;
        self.tell_status(now);
        for answer in answers {
            answer();
        }
        Ok(())
    }

    /// Answers those that wait for leases, as far as something is due.
    fn lend(&mut self, now: Moment, answers: &mut Vec<Answer>) -> Result<(), CrawlError> {
        for waiting in std::mem::take(&mut self.leases) {
            // Nobody is lent to who has hung up.
            if waiting.answer.is_closed() {
                continue;
            }
            let batches = if self.workers.is_draining(&waiting.question.worker) {
                Vec::new()
            } else {
                self.frontier.lease(&waiting.question, now)?
            };
            if batches.is_empty() && now < waiting.until {
                self.leases.push(waiting);
            } else {
                later(answers, waiting.answer, Ok(batches));
            }
        }
        Ok(())
    }

    /// Answers those that wait for crawls to end, as far as they have.
    fn tell_status(&mut self, now: Moment) {
        for waiting in std::mem::take(&mut self.statuses) {
            if waiting.answer.is_closed() {
                continue;
            }
            let overview = self.overview(waiting.question.as_deref(), now);
            let running = |crawl: &CrawlStatus| crawl.finish == Finish::Running;
            let is_running =
                overview.as_ref().is_ok_and(|overview| overview.crawls.iter().any(running));
            if is_running && now < waiting.until {
                self.statuses.push(waiting);
            } else {
                // Who has hung up meanwhile is not missed.
                let _ = waiting.answer.send(overview);
            }
        }
    }

    fn overview(&self, name: Option<&str>, now: Moment) -> About<Overview> {
        self.named(name)?;
        let held: HashMap<Arc<str>, (u32, u64)> = self.frontier.held();
        let held = |name: &str| held.get(name).copied().unwrap_or_default();
        let (mut working, mut idle) = (0, 0);
        for worker in self.workers.list(self.frontier.lease_duration(), now, held) {
            match worker.state {
                WorkerState::Working | WorkerState::Draining => working += 1,
                WorkerState::Idle | WorkerState::Drained => idle += 1,
                WorkerState::Silent => {}
            }
        }
        let instance = self.frontier.instance().to_owned();
        Ok(Overview { crawls: self.frontier.status(name), working, idle, instance })
    }
}

/// From `now` until `then`; nothing if that is past.
fn until(then: Moment, now: Moment) -> Duration {
    Duration::from_millis(then.0.saturating_sub(now.0))
}

/// Answers when the turn is durable. Who has hung up meanwhile is not missed.
fn later<A: Send + 'static>(answers: &mut Vec<Answer>, to: To<A>, answer: A) {
    answers.push(Box::new(move || {
        let _ = to.send(answer);
    }));
}
