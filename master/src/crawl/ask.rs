//! Asking the owner of the crawls: the questions, the mailbox that they wait in,
//! and the handle that puts them there.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};
use trawl_shared::{
    lease::{Token, Verdict},
    spec::CrawlSpec,
    url::{CrawlUrl, HostKey, UrlId},
    warc::Lengths,
};

use super::{Tally, disk::DiskLow};
use crate::{
    frontier::{
        Account, Batch, CrawlStatus, Found, HandBack, HostAccount, HostChange, HostStatus,
        LeaseRequest, Piece, Quarantined, Release, Released, Report, RobotsFile, Specification,
        Submitted, Via,
    },
    pages::CrawlPages,
    store::rows::{UrlState, Wish},
    workers::{Activity, Caller, Hello, Unheard, WorkerStatus},
};

/// Questions in the mailbox at most; more have to wait outside.
pub(super) const MAILBOX: usize = 256;

/// A way to ask the owner; cheap to clone.
#[derive(Clone, Debug)]
pub struct Crawls {
    mailbox: mpsc::Sender<Question>,
    lease: Duration,
}

/// The end of the mailbox that the owner reads.
#[derive(Debug)]
pub struct Mailbox(pub(super) mpsc::Receiver<Question>);

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
    /// Starts of the master on it.
    pub epoch: u32,
    /// Names this start.
    pub start: u64,
    /// Names the worker's stay.
    pub session: u64,
    /// How long a lease lasts.
    pub lease: Duration,
}

/// What the master says to a heartbeat.
#[derive(Clone, Debug, Default)]
pub struct Renewal {
    /// Leases that are no longer the worker's.
    pub lost: Vec<Token>,
    /// Leases that are wanted back.
    pub recalled: Vec<Token>,
    /// The worker is to take nothing more.
    pub drain: bool,
}

/// Where the crawls stand, and who works for them.
#[derive(Clone, Debug)]
pub struct Overview {
    /// The crawls asked for.
    pub crawls: Vec<CrawlStatus>,
    /// Workers that hold leases.
    pub working: u32,
    /// Workers that are there and hold none.
    pub idle: u32,
    /// Names the data directory.
    pub instance: String,
    /// The master rests, since the disk has too little room.
    pub disk_low: Option<DiskLow>,
    /// What the master has written since its start.
    pub tally: Tally,
}

/// Why a question was not answered.
#[derive(Clone, Copy, Debug, thiserror::Error)]
pub enum AskError {
    /// The owner has stopped.
    #[error("the master is stopping")]
    Stopped,
    /// The worker that asks is not known.
    #[error(transparent)]
    Unheard(#[from] Unheard),
}

/// Why a person's question about a crawl has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoCrawl {
    /// No crawl of that name.
    #[error("there is no crawl {name:?} here; there are: {crawls}")]
    Unknown {
        /// What was asked for.
        name: String,
        /// What there is.
        crawls: String,
    },
    /// Several crawls, and none was named.
    #[error("there are several crawls ({crawls}); choose one with --crawl")]
    Several {
        /// What there is.
        crawls: String,
    },
}

/// Why a submission was not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotSubmitted {
    /// The specification cannot be met.
    #[error("{0}")]
    Spec(String),
    /// A crawl of this name exists.
    #[error(
        "a crawl {0:?} exists already; choose another --name, or let it go on with these options \
         and seeds by --update"
    )]
    Taken(String),
}

/// A crawl to start, or to take up again.
#[derive(Debug)]
pub struct Submission {
    /// Its name.
    pub name: String,
    /// Its specification.
    pub spec: CrawlSpec,
    /// Where it starts.
    pub seeds: Vec<CrawlUrl>,
    /// A crawl of this name goes on with these.
    pub take_up: bool,
}

/// Part of a crawl's quarantine.
#[derive(Debug)]
pub struct Quarantine {
    /// The URLs.
    pub inmates: Vec<Quarantined>,
    /// Links of the crawl that were taken for traps while the quarantine was full, and
    /// forgotten.
    pub forgotten: u64,
    /// The crawl's pages.
    pub pages: CrawlPages,
}

/// URLs to let out of quarantine.
#[derive(Clone, Debug)]
pub enum Inmates {
    /// All.
    All,
    /// These.
    Urls(Vec<CrawlUrl>),
}

/// Where an answer goes.
pub(super) type To<A> = oneshot::Sender<A>;

/// A worker's answer, or why there is none.
pub(super) type Heard<A> = Result<A, Unheard>;

/// An answer about a crawl, or why there is none.
pub(super) type About<A> = Result<A, NoCrawl>;

#[derive(Debug)]
pub(super) enum Question {
    Join { worker: Arc<str>, hello: Hello, answer: To<Heard<Welcome>> },
    Lease { caller: Caller, request: LeaseRequest, wait: Duration, answer: To<Heard<Vec<Batch>>> },
    Specification { caller: Caller, crawl: u32, answer: To<Heard<Option<Specification>>> },
    Renew { caller: Caller, tokens: Vec<Token>, activity: Activity, answer: To<Heard<Renewal>> },
    Report { caller: Caller, deliveries: Vec<Delivery>, answer: To<Heard<Vec<Verdict>>> },
    HandBack { caller: Caller, leases: HandBack, found: Found, answer: To<Heard<()>> },
    Robots { caller: Caller, host: u32, answer: To<Heard<Option<RobotsFile>>> },
    Operator(OperatorQuestion),
}

/// What people ask.
#[derive(Debug)]
pub(super) enum OperatorQuestion {
    Submit {
        submission: Box<Submission>,
        answer: To<Result<Submitted, NotSubmitted>>,
    },
    Status {
        name: Option<String>,
        wait: Duration,
        answer: To<About<Overview>>,
    },
    Steer {
        name: String,
        wish: Wish,
        answer: To<About<CrawlStatus>>,
    },
    Workers {
        answer: To<Vec<WorkerStatus>>,
    },
    Drain {
        worker: String,
        draining: bool,
        answer: To<Option<u32>>,
    },
    Hosts {
        crawl: Option<String>,
        contains: String,
        limit: usize,
        answer: To<About<(Vec<HostView>, u64)>>,
    },
    SetHosts {
        after: String,
        contains: String,
        answer: To<(Vec<HostKey>, Option<String>)>,
    },
    Host {
        key: HostKey,
        change: HostChange,
        answer: To<(HostAccount, Vec<Option<Duration>>)>,
    },
    Why {
        crawl: Option<String>,
        url: CrawlUrl,
        answer: To<About<Vec<AccountView>>>,
    },
    Via {
        crawl: u32,
        host: u32,
        id: UrlId,
        answer: To<Via>,
    },
    Pages {
        crawl: Option<String>,
        answer: To<About<CrawlPages>>,
    },
    LookUp {
        crawl: u32,
        url: CrawlUrl,
        answer: To<Option<UrlState>>,
    },
    Quarantine {
        crawl: Option<String>,
        after: Vec<u8>,
        limit: usize,
        answer: To<About<Quarantine>>,
    },
    Release {
        crawl: Option<String>,
        inmates: Inmates,
        how: Release,
        answer: To<About<Released>>,
    },
    Walk {
        answer: To<Option<Walking>>,
    },
}

/// A walk through the store that has begun.
#[derive(Debug)]
pub struct Walking {
    /// Names the data directory.
    pub instance: String,
    /// The pieces as they come. They break off before the last one if the master ends,
    /// or if far too little is taken.
    pub pieces: mpsc::Receiver<Piece>,
}

/// A host, with its waits as durations from now.
#[derive(Clone, Debug)]
pub struct HostView {
    /// The host.
    pub host: HostStatus,
    /// Until it may be fetched from; none while it is lent.
    pub due: Option<Duration>,
}

/// What a crawl knows of a URL, with its waits as durations from now.
#[derive(Clone, Debug)]
pub struct AccountView {
    /// What it knows.
    pub account: Account,
    /// Until the URL is due; none while its host is lent.
    pub due: Option<Duration>,
    /// Until its lease runs out.
    pub lease_left: Option<Duration>,
    /// The crawl's pages.
    pub pages: CrawlPages,
}

impl Crawls {
    /// A mailbox, and the end that [`Owner::run`](super::Owner::run) reads. `lease`
    /// is how long the frontier's leases last.
    pub fn mailbox(lease: Duration) -> (Self, Mailbox) {
        let (mailbox, questions) = mpsc::channel(MAILBOX);
        (Self { mailbox, lease }, Mailbox(questions))
    }

    /// How long a lease lasts unless renewed.
    pub fn lease_duration(&self) -> Duration {
        self.lease
    }

    /// Makes a worker known. Unless it is the same process as before, what it held
    /// in a former life is taken back.
    ///
    /// # Errors
    /// If the master is stopping, as with all questions, or has too many workers.
    pub async fn join(&self, worker: Arc<str>, hello: Hello) -> Result<Welcome, AskError> {
        Ok(self.ask(|answer| Question::Join { worker, hello, answer }).await??)
    }

    /// Lends what is due, or waits for it at most `wait`.
    ///
    /// # Errors
    /// If the master is stopping, or does not know the worker.
    pub async fn lease(
        &self,
        caller: Caller,
        request: LeaseRequest,
        wait: Duration,
    ) -> Result<Vec<Batch>, AskError> {
        Ok(self.ask(|answer| Question::Lease { caller, request, wait, answer }).await??)
    }

    /// A crawl's specification.
    ///
    /// # Errors
    /// As [`Crawls::lease`].
    pub async fn specification(
        &self,
        caller: Caller,
        crawl: u32,
    ) -> Result<Option<Specification>, AskError> {
        Ok(self.ask(|answer| Question::Specification { caller, crawl, answer }).await??)
    }

    /// Hears a worker's heartbeat: extends its leases.
    ///
    /// # Errors
    /// As [`Crawls::lease`].
    pub async fn renew(
        &self,
        caller: Caller,
        tokens: Vec<Token>,
        activity: Activity,
    ) -> Result<Renewal, AskError> {
        Ok(self.ask(|answer| Question::Renew { caller, tokens, activity, answer }).await??)
    }

    /// Takes reports; answers when they are durable, a verdict for each in order.
    ///
    /// # Errors
    /// As [`Crawls::lease`]; if the master is stopping, the reports may or may not
    /// have counted, and can be sent again.
    pub async fn report(
        &self,
        caller: Caller,
        deliveries: Vec<Delivery>,
    ) -> Result<Vec<Verdict>, AskError> {
        Ok(self.ask(|answer| Question::Report { caller, deliveries, answer }).await??)
    }

    /// Takes leases back, and note of what the worker found of its hosts.
    ///
    /// # Errors
    /// As [`Crawls::lease`].
    pub async fn hand_back(
        &self,
        caller: Caller,
        leases: HandBack,
        found: Found,
    ) -> Result<(), AskError> {
        Ok(self.ask(|answer| Question::HandBack { caller, leases, found, answer }).await??)
    }

    /// A host's robots.txt, if anything is known of it.
    ///
    /// # Errors
    /// As [`Crawls::lease`].
    pub async fn robots(&self, caller: Caller, host: u32) -> Result<Option<RobotsFile>, AskError> {
        Ok(self.ask(|answer| Question::Robots { caller, host, answer }).await??)
    }

    /// Starts a crawl or takes it up again. The inner error says why not.
    ///
    /// # Errors
    /// If the master is stopping.
    pub async fn submit(
        &self,
        submission: Submission,
    ) -> Result<Result<Submitted, NotSubmitted>, AskError> {
        let submission = Box::new(submission);
        self.ask_as_operator(|answer| OperatorQuestion::Submit { submission, answer }).await
    }

    /// Where the crawls stand; with a `wait`, when all asked for have ended.
    ///
    /// # Errors
    /// If the master is stopping.
    pub async fn status(
        &self,
        name: Option<String>,
        wait: Duration,
    ) -> Result<Result<Overview, NoCrawl>, AskError> {
        self.ask_as_operator(|answer| OperatorQuestion::Status { name, wait, answer }).await
    }

    /// Pauses, resumes or stops a crawl.
    ///
    /// # Errors
    /// If the master is stopping.
    pub async fn steer(
        &self,
        name: String,
        wish: Wish,
    ) -> Result<Result<CrawlStatus, NoCrawl>, AskError> {
        self.ask_as_operator(|answer| OperatorQuestion::Steer { name, wish, answer }).await
    }

    /// The workers, by name.
    ///
    /// # Errors
    /// If the master is stopping.
    pub async fn workers(&self) -> Result<Vec<WorkerStatus>, AskError> {
        self.ask_as_operator(|answer| OperatorQuestion::Workers { answer }).await
    }

    /// Lets a worker drain, or work again. Returns how many leases it still holds;
    /// none if it is not known.
    ///
    /// # Errors
    /// If the master is stopping.
    pub async fn drain(&self, worker: String, draining: bool) -> Result<Option<u32>, AskError> {
        self.ask_as_operator(|answer| OperatorQuestion::Drain { worker, draining, answer }).await
    }

    /// Hosts that have something queued or lent, the fullest first, and how many
    /// there are.
    ///
    /// # Errors
    /// If the master is stopping.
    pub async fn hosts(
        &self,
        crawl: Option<String>,
        contains: String,
        limit: usize,
    ) -> Result<Result<(Vec<HostView>, u64), NoCrawl>, AskError> {
        self.ask_as_operator(|answer| OperatorQuestion::Hosts { crawl, contains, limit, answer })
            .await
    }

    /// Some of the hosts behind a key that people have set something of, and the key
    /// behind which to ask on; none if there are no more.
    ///
    /// # Errors
    /// If the master is stopping.
    pub async fn set_hosts(
        &self,
        after: String,
        contains: String,
    ) -> Result<(Vec<HostKey>, Option<String>), AskError> {
        self.ask_as_operator(|answer| OperatorQuestion::SetHosts { after, contains, answer }).await
    }

    /// What is known of a host, after it was changed as `change` says; with the time
    /// until each of its crawls may have it.
    ///
    /// # Errors
    /// If the master is stopping.
    pub async fn host(
        &self,
        key: HostKey,
        change: HostChange,
    ) -> Result<(HostAccount, Vec<Option<Duration>>), AskError> {
        self.ask_as_operator(|answer| OperatorQuestion::Host { key, change, answer }).await
    }

    /// What the crawls know of a URL.
    ///
    /// # Errors
    /// If the master is stopping.
    pub async fn why(
        &self,
        crawl: Option<String>,
        url: CrawlUrl,
    ) -> Result<Result<Vec<AccountView>, NoCrawl>, AskError> {
        self.ask_as_operator(|answer| OperatorQuestion::Why { crawl, url, answer }).await
    }

    /// The page of this id on this host.
    ///
    /// # Errors
    /// If the master is stopping.
    pub async fn via(&self, crawl: u32, host: u32, id: UrlId) -> Result<Via, AskError> {
        self.ask_as_operator(|answer| OperatorQuestion::Via { crawl, host, id, answer }).await
    }

    /// The pages of a crawl, or of the only one.
    ///
    /// # Errors
    /// If the master is stopping.
    pub async fn pages(
        &self,
        crawl: Option<String>,
    ) -> Result<Result<CrawlPages, NoCrawl>, AskError> {
        self.ask_as_operator(|answer| OperatorQuestion::Pages { crawl, answer }).await
    }

    /// What a crawl knows of a URL.
    ///
    /// # Errors
    /// If the master is stopping.
    pub async fn look_up(&self, crawl: u32, url: CrawlUrl) -> Result<Option<UrlState>, AskError> {
        self.ask_as_operator(|answer| OperatorQuestion::LookUp { crawl, url, answer }).await
    }

    /// URLs of a crawl that are in quarantine, after a key; with the crawl's pages.
    ///
    /// # Errors
    /// If the master is stopping.
    pub async fn quarantine(
        &self,
        crawl: Option<String>,
        after: Vec<u8>,
        limit: usize,
    ) -> Result<Result<Quarantine, NoCrawl>, AskError> {
        self.ask_as_operator(|answer| OperatorQuestion::Quarantine { crawl, after, limit, answer })
            .await
    }

    /// Lets URLs out of quarantine.
    ///
    /// # Errors
    /// If the master is stopping.
    pub async fn release(
        &self,
        crawl: Option<String>,
        inmates: Inmates,
        how: Release,
    ) -> Result<Result<Released, NoCrawl>, AskError> {
        self.ask_as_operator(|answer| OperatorQuestion::Release { crawl, inmates, how, answer })
            .await
    }

    /// Begins a walk through the store; none if one is under way.
    ///
    /// # Errors
    /// If the master is stopping.
    pub async fn walk(&self) -> Result<Option<Walking>, AskError> {
        self.ask_as_operator(|answer| OperatorQuestion::Walk { answer }).await
    }

    async fn ask_as_operator<A>(
        &self,
        question: impl FnOnce(To<A>) -> OperatorQuestion,
    ) -> Result<A, AskError> {
        self.ask(|answer| Question::Operator(question(answer))).await
    }

    async fn ask<A>(&self, question: impl FnOnce(To<A>) -> Question) -> Result<A, AskError> {
        let (answer, answered) = oneshot::channel();
        self.mailbox.send(question(answer)).await.map_err(|_| AskError::Stopped)?;
        answered.await.map_err(|_| AskError::Stopped)
    }
}
