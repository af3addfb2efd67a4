//! What people ask of the owner: to start and steer crawls, and how things stand.

use std::time::Duration;

use trawl_shared::url::CrawlUrl;

use super::{
    Answer, CrawlError, Owner, Waiting,
    ask::{
        About, AccountView, HostView, Inmates, NoCrawl, NotSubmitted, OperatorQuestion, Overview,
        Quarantine, Submission, To,
    },
    later,
};
use crate::{
    frontier::{
        Account, CrawlStatus, FrontierError, HostChange, HostStatus, Moment, Release, Released,
        State, Submitted,
    },
    pages::CrawlPages,
    store::{
        Store,
        rows::{Finish, Wish},
    },
    workers::WorkerState,
};

/// URLs that are let out of quarantine in one commit.
const RELEASE_URLS: usize = 1_000;

/// Hosts that are looked at in a turn for those that people have set something of: some
/// milliseconds' work.
const TURN_HOSTS: usize = 2_000;

impl<S: Store> Owner<S> {
    /// Handles what people ask.
    pub(super) fn handle_operator(
        &mut self,
        question: OperatorQuestion,
        now: Moment,
        answers: &mut Vec<Answer>,
    ) -> Result<(), CrawlError> {
        match question {
            OperatorQuestion::Submit { submission, answer } => {
                self.submit(*submission, now, answer, answers)?
            }
            OperatorQuestion::Status { name, wait, answer } => {
                self.statuses.push(Waiting { question: name, until: now + wait, answer });
            }
            OperatorQuestion::Steer { name, wish, answer } => {
                let steered = self.steer(&name, wish, now)?;
                later(answers, answer, steered);
            }
            OperatorQuestion::Workers { answer } => {
                let held = self.frontier.held();
                let held = |name: &str| held.get(name).copied().unwrap_or_default();
                let workers = self.workers.list(self.frontier.lease_duration(), now, held);
                later(answers, answer, workers);
            }
            OperatorQuestion::Drain { worker, draining, answer } => {
                let known = self.workers.drain(&worker, draining);
                let held = self.frontier.held();
                let leases = held.get(worker.as_str()).map_or(0, |(leases, _)| *leases);
                later(answers, answer, known.then_some(leases));
            }
            OperatorQuestion::Hosts { crawl, contains, limit, answer } => {
                let hosts = self.named(crawl.as_deref()).map(|()| {
                    let (hosts, count) =
                        self.frontier.hosts(crawl.as_deref(), &contains, limit, now);
                    let due = |ready: Moment| until(ready, now);
                    let view = |host: HostStatus| HostView { due: host.ready.map(due), host };
                    (hosts.into_iter().map(view).collect(), count)
                });
                later(answers, answer, hosts);
            }
            OperatorQuestion::SetHosts { after, contains, answer } => {
                self.commit_all(now)?;
                let set = self.frontier.set_hosts(&after, &contains, TURN_HOSTS)?;
                later(answers, answer, set);
            }
            OperatorQuestion::Host { key, change, answer } => {
                if change != HostChange::default() {
                    self.frontier.change_host(&key, change)?;
                }
                let account = self.frontier.host_account(&key, now)?;
                let due = |host: &HostStatus| host.ready.map(|ready| until(ready, now));
                let due = account.crawls.iter().map(due).collect();
                later(answers, answer, (account, due));
            }
            OperatorQuestion::Why { crawl, url, answer } => {
                let accounts = self.why(crawl.as_deref(), &url, now)?;
                later(answers, answer, accounts);
            }
            OperatorQuestion::Via { crawl, host, id, answer } => {
                let via = self.frontier.via(crawl, host, &id.0).map_err(FrontierError::from)?;
                later(answers, answer, via);
            }
            OperatorQuestion::Pages { crawl, answer } => {
                self.commit_all(now)?;
                later(answers, answer, self.crawl_pages(crawl.as_deref()));
            }
            OperatorQuestion::LookUp { crawl, url, answer } => {
                later(answers, answer, self.frontier.look_up(crawl, &url)?);
            }
            OperatorQuestion::Quarantine { crawl, after, limit, answer } => {
                self.commit_all(now)?;
                let listed = match self.crawl_pages(crawl.as_deref()) {
                    Ok(pages) => {
                        let inmates = self.frontier.quarantined(pages.crawl, &after, limit)?;
                        let forgotten = self.frontier.traps_forgotten(pages.crawl);
                        Ok(Quarantine { inmates, forgotten, pages })
                    }
                    Err(none) => Err(none),
                };
                later(answers, answer, listed);
            }
            OperatorQuestion::Release { crawl, inmates, how, answer } => {
                let released = match self.crawl_pages(crawl.as_deref()) {
                    Ok(pages) => Ok(self.release(pages.crawl, inmates, how, now)?),
                    Err(none) => Err(none),
                };
                later(answers, answer, released);
            }
            OperatorQuestion::Walk { answer } => {
                let walking = self.begin_walk(now);
                later(answers, answer, walking);
            }
        }
        Ok(())
    }

    fn submit(
        &mut self,
        submission: Submission,
        now: Moment,
        answer: To<Result<Submitted, NotSubmitted>>,
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
        let rests = self.disk.low().map(|low| low.to_string());
        let view = |mut account: Account| {
            let (due, lease_left) = match &account.state {
                State::Open { due, holder, .. } => {
                    if let (None, Some(rests)) = (holder, &rests) {
                        account.held_up.clone_from(rests);
                    }
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
                    let url = self.frontier.canonical(crawl, &url).into_owned();
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

    /// Answers those that wait for crawls to end, as far as they have.
    pub(super) fn tell_status(&mut self, now: Moment) {
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
        let held = self.frontier.held();
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
        let (crawls, disk_low) = (self.frontier.status(name), self.disk.low());
        Ok(Overview { crawls, working, idle, instance, disk_low, tally: self.tally })
    }
}

/// From `now` until `then`; nothing if that is past.
fn until(then: Moment, now: Moment) -> Duration {
    Duration::from_millis(then.0.saturating_sub(now.0))
}
