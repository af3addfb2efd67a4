//! The one owner of crawl state: a bounded mailbox, commits in groups, then the
//! answers.
//!
//! Everything that waits in the mailbox is handled in one turn. Page records are
//! made durable first, then the outcomes that point at them are committed, then
//! the turn's questions are answered: what is acknowledged is on stable storage.
//! While a turn waits for the disk the mailbox fills, so a slow disk makes larger
//! groups by itself, and a full mailbox slows the workers down.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;
use trawl_shared::{
    lease::{Token, Verdict},
    spec::CrawlSpec,
    units::Size,
    url::CrawlUrl,
    warc::Lengths,
};

use crate::{
    frontier::{
        Batch, CrawlStatus, Frontier, FrontierError, HandBack, Judgement, LeaseRequest, Moment,
        Outcome, Report, Specification, Submitted,
    },
    pages::{PageStore, PageStoreError, Place},
    store::{Store, StoreError, rows::Finish},
};

/// Questions in the mailbox at most; more have to wait outside.
const MAILBOX: usize = 256;

/// The longest that a turn waits for a question.
const IDLE_TURN: Duration = Duration::from_secs(5);

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

/// A report with its page's records.
#[derive(Debug)]
pub struct Delivery {
    /// The report.
    pub report: Report,
    /// The records; none for a failure.
    pub records: Option<Records>,
}

/// A page's records as they arrived: three gzip members, in pieces.
#[derive(Debug)]
pub struct Records {
    /// The bytes.
    pub pieces: Vec<Bytes>,
    /// How long each member is.
    pub lengths: Lengths,
}

/// Who a master is, for a worker that joins.
#[derive(Clone, Debug)]
pub struct Welcome {
    /// Names the data directory.
    pub instance: String,
    /// How long a lease lasts.
    pub lease: Duration,
}

/// A way to ask the owner; cheap to clone.
#[derive(Clone, Debug)]
pub struct Crawls {
    mailbox: mpsc::Sender<Question>,
    lease: Duration,
}

/// The owner has stopped.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the master is stopping")]
pub struct Stopped;

#[derive(Debug)]
enum Question {
    Join { worker: Arc<str>, answer: oneshot::Sender<Welcome> },
    Lease { request: LeaseRequest, wait: Duration, answer: oneshot::Sender<Vec<Batch>> },
    Specification { crawl: u32, answer: oneshot::Sender<Option<Specification>> },
    Renew { worker: Arc<str>, tokens: Vec<Token>, answer: oneshot::Sender<Vec<Token>> },
    Report { worker: Arc<str>, deliveries: Vec<Delivery>, answer: oneshot::Sender<Vec<Verdict>> },
    HandBack { worker: Arc<str>, leases: HandBack, answer: oneshot::Sender<()> },
    Submit(Box<Submission>),
    Status { name: Option<String>, wait: Duration, answer: oneshot::Sender<Vec<CrawlStatus>> },
}

#[derive(Debug)]
struct Submission {
    name: String,
    spec: CrawlSpec,
    seeds: Vec<CrawlUrl>,
    answer: oneshot::Sender<Result<Submitted, String>>,
}

impl Crawls {
    /// A mailbox, and the end that [`Owner::run`] reads. `lease` is how long the
    /// frontier's leases last.
    pub fn mailbox(lease: Duration) -> (Self, Mailbox) {
        let (mailbox, questions) = mpsc::channel(MAILBOX);
        (Self { mailbox, lease }, Mailbox(questions))
    }

    /// How long a lease lasts unless renewed.
    pub fn lease_duration(&self) -> Duration {
        self.lease
    }

    /// Makes a worker known; what it held in a former life is taken back.
    ///
    /// # Errors
    /// If the master is stopping, as with all questions.
    pub async fn join(&self, worker: Arc<str>) -> Result<Welcome, Stopped> {
        self.ask(|answer| Question::Join { worker, answer }).await
    }

    /// Lends what is due, or waits for it at most `wait`.
    ///
    /// # Errors
    /// If the master is stopping.
    pub async fn lease(
        &self,
        request: LeaseRequest,
        wait: Duration,
    ) -> Result<Vec<Batch>, Stopped> {
        self.ask(|answer| Question::Lease { request, wait, answer }).await
    }

    /// A crawl's specification.
    ///
    /// # Errors
    /// If the master is stopping.
    pub async fn specification(&self, crawl: u32) -> Result<Option<Specification>, Stopped> {
        self.ask(|answer| Question::Specification { crawl, answer }).await
    }

    /// Extends leases. Returns those that the worker has lost.
    ///
    /// # Errors
    /// If the master is stopping.
    pub async fn renew(&self, worker: Arc<str>, tokens: Vec<Token>) -> Result<Vec<Token>, Stopped> {
        self.ask(|answer| Question::Renew { worker, tokens, answer }).await
    }

    /// Takes reports; answers when they are durable, a verdict for each in order.
    ///
    /// # Errors
    /// If the master is stopping; the reports may or may not have counted, and can
    /// be sent again.
    pub async fn report(
        &self,
        worker: Arc<str>,
        deliveries: Vec<Delivery>,
    ) -> Result<Vec<Verdict>, Stopped> {
        self.ask(|answer| Question::Report { worker, deliveries, answer }).await
    }

    /// Takes leases back.
    ///
    /// # Errors
    /// If the master is stopping.
    pub async fn hand_back(&self, worker: Arc<str>, leases: HandBack) -> Result<(), Stopped> {
        self.ask(|answer| Question::HandBack { worker, leases, answer }).await
    }

    /// Starts a crawl or takes it up again. The inner error says what is wrong with
    /// the specification.
    ///
    /// # Errors
    /// If the master is stopping.
    pub async fn submit(
        &self,
        name: String,
        spec: CrawlSpec,
        seeds: Vec<CrawlUrl>,
    ) -> Result<Result<Submitted, String>, Stopped> {
        self.ask(|answer| Question::Submit(Box::new(Submission { name, spec, seeds, answer })))
            .await
    }

    /// Where the crawls stand; with a `wait`, when all asked for have ended.
    ///
    /// # Errors
    /// If the master is stopping.
    pub async fn status(
        &self,
        name: Option<String>,
        wait: Duration,
    ) -> Result<Vec<CrawlStatus>, Stopped> {
        self.ask(|answer| Question::Status { name, wait, answer }).await
    }

    async fn ask<A>(
        &self,
        question: impl FnOnce(oneshot::Sender<A>) -> Question,
    ) -> Result<A, Stopped> {
        let (answer, answered) = oneshot::channel();
        self.mailbox.send(question(answer)).await.map_err(|_| Stopped)?;
        answered.await.map_err(|_| Stopped)
    }
}

/// The end of the mailbox that the owner reads.
#[derive(Debug)]
pub struct Mailbox(mpsc::Receiver<Question>);

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
    clock: Clock,
    leases: Vec<Waiting<LeaseRequest, Vec<Batch>>>,
    statuses: Vec<Waiting<Option<String>, Vec<CrawlStatus>>>,
}

/// A question that is answered when something has happened, or at a time.
struct Waiting<Q, A> {
    question: Q,
    until: Moment,
    answer: oneshot::Sender<A>,
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
        loop {
            let first = tokio::select! {
                () = stop.cancelled() => break,
                question = mailbox.0.recv() => match question {
                    Some(question) => Some(question),
                    None => break,
                },
                () = sleep_until(self.next_turn()) => None,
            };
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
            Question::Join { worker, answer } => {
                self.frontier.forget_worker(&worker, now)?;
                let welcome = Welcome {
                    instance: self.frontier.instance().to_owned(),
                    lease: self.frontier.lease_duration(),
                };
                later(answers, answer, welcome);
            }
            Question::Lease { request, wait, answer } => {
                self.leases.push(Waiting { question: request, until: now + wait, answer });
            }
            Question::Specification { crawl, answer } => {
                later(answers, answer, self.frontier.specification(crawl));
            }
            Question::Renew { worker, tokens, answer } => {
                later(answers, answer, self.frontier.renew(&worker, &tokens, now));
            }
            Question::Report { worker, deliveries, answer } => {
                let mut verdicts = Vec::with_capacity(deliveries.len());
                for delivery in deliveries {
                    verdicts.push(self.deliver(&worker, delivery, now)?);
                }
                later(answers, answer, verdicts);
            }
            Question::HandBack { worker, leases, answer } => {
                self.frontier.hand_back(&worker, &leases, now)?;
                later(answers, answer, ());
            }
            Question::Submit(submission) => self.submit(*submission, now, answers)?,
            Question::Status { name, wait, answer } => {
                self.statuses.push(Waiting { question: name, until: now + wait, answer });
            }
        }
        Ok(())
    }

    fn submit(
        &mut self,
        submission: Submission,
        now: Moment,
        answers: &mut Vec<Answer>,
    ) -> Result<(), CrawlError> {
        let Submission { name, spec, seeds, answer } = submission;
        // The frontier commits before it takes a submission.
        self.seal_pages()?;
        match self.frontier.submit(&name, spec, &seeds, now) {
            Ok(submitted) => later(answers, answer, Ok(submitted)),
            Err(FrontierError::Spec(reason)) => later(answers, answer, Err(reason)),
            Err(error) => return Err(error.into()),
        }
        Ok(())
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
        self.seal_pages()?;
        self.frontier.commit(now)?;
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
            let batches = self.frontier.lease(&waiting.question, now)?;
            if batches.is_empty() && now < waiting.until {
                self.leases.push(waiting);
            } else {
                later(answers, waiting.answer, batches);
            }
        }
        Ok(())
    }

    fn tell_status(&mut self, now: Moment) {
        let frontier = &self.frontier;
        self.statuses.retain_mut(|waiting| {
            let crawls = frontier.status(waiting.question.as_deref());
            let running = crawls.iter().any(|crawl| crawl.finish == Finish::Running);
            if running && now < waiting.until && !waiting.answer.is_closed() {
                return true;
            }
            let (answer, _) = oneshot::channel();
            let _ = std::mem::replace(&mut waiting.answer, answer).send(crawls);
            false
        });
    }
}

/// Answers when the turn is durable. Who has hung up meanwhile is not missed.
fn later<A: Send + 'static>(answers: &mut Vec<Answer>, to: oneshot::Sender<A>, answer: A) {
    answers.push(Box::new(move || {
        let _ = to.send(answer);
    }));
}
