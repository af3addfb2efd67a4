//! The one owner of crawl state: a bounded mailbox, commits in groups, then the
//! answers.
//!
//! Everything that waits in the mailbox is handled in one turn. Page records are
//! made durable first, then the outcomes that point at them are committed, then
//! the turn's questions are answered: what is acknowledged is on stable storage.
//! While a turn waits for the disk the mailbox fills, so a slow disk makes larger
//! groups by itself, and a full mailbox slows the workers down.

mod ask;
mod disk;
mod operate;
mod tally;
mod walk;

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use trawl_shared::{
    lease::{Token, Verdict},
    sabotage::{self, Fault},
    units::Size,
};

use self::ask::{About, Heard, MAILBOX, Question, To};
pub use self::ask::{
    AccountView, AskError, Crawls, Delivery, HostView, Inmates, Mailbox, NoCrawl, NotSubmitted,
    Overview, Quarantine, Records, Renewal, Submission, Walking, Welcome,
};
pub use self::disk::{DiskLow, DiskWatch, Look, Space};
pub use self::tally::Tally;
use self::walk::Walker;
use crate::{
    frontier::{
        Batch, Found, Frontier, FrontierError, HandBack, Judgement, LeaseRequest, Moment, Outcome,
    },
    pages::{PageStore, PageStoreError, Place},
    store::{Store, StoreError},
    workers::{Caller, Hello, Unheard, Workers},
};

/// The shortest and the longest rest after a turn. What comes in meanwhile shares the
/// next one's writes to the disk, which cost as much as a page or two each.
const REST: (Duration, Duration) = (Duration::from_millis(8), Duration::from_millis(100));

/// How many times as long as the last turn the rest is, between these: on a slow disk,
/// or a busy machine, turns become fewer and larger.
const REST_FACTOR: u32 = 2;

/// The longest that a turn waits for a question.
const IDLE_TURN: Duration = Duration::from_secs(5);

/// Between two looks for room while the disk has too little.
const DISK_INTERVAL: Duration = Duration::from_secs(1);

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
    disk: DiskWatch,
    workers: Workers,
    /// Names this start of the master.
    start: u64,
    clock: Clock,
    leases: Vec<Waiting<LeaseRequest, Heard<Vec<Batch>>>>,
    statuses: Vec<Waiting<Option<String>, About<Overview>>>,
    tally: Tally,
    /// Where the pieces of the walk under way go.
    walker: Option<Walker>,
}

/// A question that is answered when something has happened, or at a time.
struct Waiting<Q, A> {
    question: Q,
    until: Moment,
    answer: To<A>,
}

/// An answer that is due when the turn is durable.
type Answer = Box<dyn FnOnce() -> Option<Undelivered> + Send>;

/// Leases whose worker had hung up when they were granted.
struct Undelivered {
    worker: Arc<str>,
    tokens: Vec<Token>,
}

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
            start: fastrand::u64(..),
            frontier,
            pages: BTreeMap::new(),
            page_settings: pages,
            disk: DiskWatch::none(),
            clock: Clock::start(now),
            leases: Vec::new(),
            statuses: Vec::new(),
            tally: Tally::start(),
            walker: None,
        }
    }

    /// Rests while the disk has too little room.
    #[must_use]
    pub fn watching(self, disk: DiskWatch) -> Self {
        Self { disk, ..self }
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
        let held = self.frontier.held();
        let (leases, urls) =
            held.values().fold((0, 0), |all, worker| (all.0 + worker.0, all.1 + worker.1));
        tracing::info!(start = self.frontier.epoch(), leases, urls, "leases found are kept");
        let mut next = Instant::now();
        loop {
            let first = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                question = mailbox.0.recv() => match question {
                    Some(question) => Some(question),
                    None => break,
                },
                () = sleep_until(self.next_turn()) => None,
            };
            sleep_until(next).await;
            let began = Instant::now();
            self.disk.look();
            let mut answers = Vec::new();
            let mut heard_all = false;
            // Whoever has asked in time is heard before leases run out.
            let asked_until = self.clock.now();
            let waiting = std::iter::from_fn(|| {
                let question = mailbox.0.try_recv().ok();
                heard_all = question.is_none();
                question
            });
            let waiting: Vec<Question> = first.into_iter().chain(waiting.take(MAILBOX)).collect();
            for question in waiting {
                self.handle(question, &mut answers)?;
            }
            if heard_all {
                let expired = self.frontier.expire(asked_until)?;
                if expired > 0 {
                    tracing::info!(expired, "leases ran out; what is left of them waits again");
                }
            }
            self.finish_turn(answers)?;
            self.tally.note_turn(began, self.frontier.written());
            if self.tally.is_due() {
                self.tally.log(&self.frontier.status(None));
            }
            let rest = began.elapsed() * REST_FACTOR;
            next = Instant::now() + rest.clamp(REST.0, REST.1);
        }
        self.frontier.checkpoint(self.clock.now())?;
        self.finish_turn(Vec::new())?;
        self.tally.log(&self.frontier.status(None));
        Ok(())
    }

    /// When the next turn is due without a question.
    fn next_turn(&self) -> Instant {
        if let Some(walker) = &self.walker {
            // A walk goes on turn by turn.
            return Instant::now() + walker.wait();
        }
        let idle = self.clock.now() + IDLE_TURN;
        let waits = self.leases.iter().map(|waiting| waiting.until);
        let waits = waits.chain(self.statuses.iter().map(|waiting| waiting.until));
        if self.disk.low().is_some() {
            let look = self.clock.now() + DISK_INTERVAL;
            let event = waits.chain(self.frontier.next_deadline()).chain([look]).min();
            return self.clock.instant(event.unwrap_or(look));
        }
        // What is ready matters only while somebody waits for it.
        let leases = self.leases.iter();
        let leases = leases.filter(|lease| !self.workers.is_draining(&lease.question.worker));
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
            Question::HandBack { caller, leases, found, answer } => {
                let heard = self.workers.hear(&caller, now);
                if heard.is_ok() {
                    // First: what is given back may be lent again at once.
                    let Found { addresses, told } = found;
                    self.frontier.note_addresses(&caller.worker, &addresses, now);
                    self.frontier.note_told(&caller.worker, &told, now)?;
                    self.frontier.hand_back(&caller.worker, &leases, now)?;
                }
                later(answers, answer, heard);
            }
            Question::Robots { caller, host, answer } => {
                let found = match self.workers.hear(&caller, now) {
                    Ok(()) => Ok(self.frontier.robots(host)?),
                    Err(unheard) => Err(unheard),
                };
                later(answers, answer, found);
            }
            Question::Operator(question) => self.handle_operator(question, now, answers)?,
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
            start: self.start,
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
        if self.disk.low().is_some_and(|low| low.refuses_reports) {
            return Ok(Err(Unheard::NoRoom));
        }
        let mut verdicts = Vec::with_capacity(deliveries.len());
        for delivery in deliveries {
            verdicts.push(self.deliver(&caller.worker, delivery, now)?);
        }
        Ok(Ok(verdicts))
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
        if sabotage::is(Fault::StoreUnjudged)
            && let Some(records) = &records
        {
            self.put_away(report.at.crawl, records)?;
        }
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
        self.workers.forget_silent(self.frontier.lease_duration(), now);
        self.commit_all(now)?;
        self.lend(now, &mut answers)?;
        self.frontier.commit(now)?;
        if !sabotage::is(Fault::AnswerBeforeSync) {
            let began = Instant::now();
            self.frontier.sync()?;
            self.tally.note_sync(began);
        }
        self.walk_on(now)?;
        self.tell_status(now);
        for answer in answers {
            // What nobody has received is not lost with anybody. The next turn writes it.
            if let Some(Undelivered { worker, tokens }) = answer() {
                self.frontier.hand_back(&worker, &HandBack::Tokens(tokens), now)?;
            }
        }
        Ok(())
    }

    /// Answers those that wait for leases, as far as something is due and the disk has
    /// room for what comes of it.
    fn lend(&mut self, now: Moment, answers: &mut Vec<Answer>) -> Result<(), CrawlError> {
        for waiting in std::mem::take(&mut self.leases) {
            // Nobody is lent to who has hung up.
            if waiting.answer.is_closed() {
                continue;
            }
            let rests = self.disk.low().is_some();
            let batches = if rests || self.workers.is_draining(&waiting.question.worker) {
                Vec::new()
            } else {
                self.frontier.lease(&waiting.question, now)?
            };
            if batches.is_empty() && now < waiting.until {
                self.leases.push(waiting);
            } else {
                lend(answers, waiting.question.worker, waiting.answer, batches);
            }
        }
        Ok(())
    }
}

/// Answers when the turn is durable. Who has hung up meanwhile is not missed.
fn later<A: Send + 'static>(answers: &mut Vec<Answer>, to: To<A>, answer: A) {
    answers.push(Box::new(move || {
        let _ = to.send(answer);
        None
    }));
}

/// Hands leases out when they are durable.
fn lend(
    answers: &mut Vec<Answer>,
    worker: Arc<str>,
    to: To<Heard<Vec<Batch>>>,
    batches: Vec<Batch>,
) {
    answers.push(Box::new(move || match to.send(Ok(batches)) {
        Ok(()) | Err(Err(_)) => None,
        Err(Ok(batches)) => {
            let tokens = batches.into_iter().map(|batch| batch.token).collect();
            Some(Undelivered { worker, tokens })
        }
    }));
}
