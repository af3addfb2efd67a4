//! Reports: judged first, so that nothing of a stale one is kept, then applied as
//! one change with all that follows from it.

use std::time::Duration;

use trawl_shared::{
    backoff,
    lease::{Token, Verdict},
    outcome::{Class, FailureKind},
    politeness::{self, REST_MAX},
    sabotage::{self, Fault},
    untrusted::CHARS_MAX,
    url::UrlId,
    warc::Lengths,
};

use super::{
    Frontier, FrontierError, HostNews, Moment,
    admit::{Offer, Source},
};
use crate::{
    pages::Place,
    store::{
        Store, StoreError,
        keys::{self, HostRef, Slot},
        rows::{EndedRow, FetchedRow, QueueRow, TryRow, UrlRow, UrlState},
    },
};

/// Failed tries of a URL that are remembered: as many as a crawl may make, unless it was let
/// out of quarantine in between.
const TRIES_KEPT: usize = 20;

/// A worker's account of one leased URL.
#[derive(Clone, Debug)]
pub struct Report {
    /// The lease's token.
    pub token: Token,
    /// The URL's crawl and host.
    pub at: HostRef,
    /// The URL's id.
    pub id: UrlId,
    /// What became of it.
    pub outcome: Outcome,
    /// Links found.
    pub offers: Vec<Offer>,
    /// The delay that the host asked for.
    pub host_delay: Option<Duration>,
    /// What the fetch showed of the host, if it was asked.
    pub news: Option<HostNews>,
    /// When the report came, in Unix milliseconds by the master's wall clock. For
    /// people, and for the age of robots.txt.
    pub reported_at: u64,
}

/// What became of a URL.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// The host gave its final answer.
    Answered {
        /// The HTTP status.
        status: u16,
        /// SHA-1 of the body after content decoding.
        sha1: [u8; 20],
        /// Bytes of the body after content decoding.
        body_bytes: u64,
        /// Bytes of the body as received.
        wire_bytes: u64,
        /// When the fetch began, in Unix milliseconds by the worker's clock.
        fetched_at: u64,
        /// The fingerprint of an HTML document's text.
        simhash: Option<u64>,
    },
    /// No final answer.
    Failed {
        /// Why not.
        kind: FailureKind,
        /// What happened, for people.
        detail: String,
        /// The wait that the host asked for.
        retry_after: Option<Duration>,
    },
}

/// What a report is worth.
#[derive(Debug)]
pub enum Judgement {
    /// It counts, by this ticket.
    Apply(Ticket),
    /// It had counted before.
    Already,
    /// The URL is no longer the worker's.
    Stale,
}

/// The right to apply a report: where its URL stands. Used before the next
/// report is judged.
#[derive(Debug)]
pub struct Ticket {
    slot: Slot,
    row: QueueRow,
    /// Still lent, or taken back and lent to nobody since.
    lent: bool,
}

impl<S: Store> Frontier<S> {
    /// Judges a worker's report of a URL.
    ///
    /// # Errors
    /// If the store fails.
    pub fn judge(
        &mut self,
        worker: &str,
        token: Token,
        at: HostRef,
        id: &UrlId,
    ) -> Result<Judgement, FrontierError> {
        let judgement = self.judge_quietly(worker, token, at, id)?;
        if let Some(crawl) = self.crawls.get_mut(&at.crawl) {
            let count = match judgement {
                Judgement::Apply(_) => return Ok(judgement),
                Judgement::Already => &mut crawl.row.reports_already,
                Judgement::Stale => &mut crawl.row.reports_stale,
            };
            *count += 1;
            crawl.dirty = true;
        }
        Ok(judgement)
    }

    fn judge_quietly(
        &self,
        worker: &str,
        token: Token,
        at: HostRef,
        id: &UrlId,
    ) -> Result<Judgement, FrontierError> {
        let same = |other: u64| {
            if other == token.0 { Judgement::Already } else { Judgement::Stale }
        };
        let url: Option<UrlRow> = self.changes.get(&self.store, &keys::url(at, id))?;
        let slot = match url.and_then(|url| url.state) {
            None => return Ok(Judgement::Stale),
            Some(UrlState::Fetched(row)) => return Ok(same(row.token)),
            Some(UrlState::Ended(row)) => return Ok(same(row.token)),
            Some(UrlState::Pending(slot)) => {
                Slot::decode(&slot).ok_or_else(|| super::damaged("a URL's place"))?
            }
        };
        let row: Option<QueueRow> = self.changes.get(&self.store, &keys::queue(at, slot))?;
        let row = row.ok_or_else(|| super::damaged("a queued URL"))?;
        let holder = self.hosts.get(&at).and_then(|host| host.leased.get(&slot));
        Ok(match holder {
            Some(holder) if *holder == token => {
                let lease = self.leases.get(&token);
                if lease.is_some_and(|lease| &*lease.worker == worker) {
                    Judgement::Apply(Ticket { slot, row, lent: true })
                } else {
                    Judgement::Stale
                }
            }
            Some(_) if sabotage::is(Fault::TakeStale) => {
                Judgement::Apply(Ticket { slot, row, lent: true })
            }
            Some(_) => Judgement::Stale,
            None if row.last_token != token.0 => Judgement::Stale,
            None if row.last_applied => Judgement::Already,
            None => Judgement::Apply(Ticket { slot, row, lent: false }),
        })
    }

    /// Applies a report by its ticket. `place` is where its records were put, for
    /// an answer; `chance` (0 to 1) spreads the next try of a failure.
    ///
    /// # Errors
    /// If the store fails.
    pub fn apply(
        &mut self,
        ticket: Ticket,
        report: Report,
        place: Option<Place>,
        now: Moment,
        chance: f64,
    ) -> Result<Verdict, FrontierError> {
        self.load_host(report.at)?;
        if let Some(delay) = report.host_delay {
            self.note_asked_delay(report.at, delay);
        }
        if let Some(news) = &report.news {
            self.note_news(report.at, news, report.trouble(), now);
            if let Some(robots) = &news.robots {
                self.note_robots(report.at.host, robots, report.reported_at, now)?;
            }
        }
        // A lent URL leaves its lease below; one that was taken back, the queue.
        if !ticket.lent {
            self.unqueue(report.at);
        }
        let (slot, was_lent) = (ticket.slot, ticket.lent);
        let took = report.news.as_ref().map_or(Duration::ZERO, |news| news.elapsed);
        match (report.outcome, place) {
            (
                Outcome::Answered { status, sha1, body_bytes, wire_bytes, fetched_at, simhash },
                Some(place),
            ) => {
                let (at, off_site) = (report.at, ticket.row.off_site);
                let source = Source { at, id: &report.id, depth: slot.depth, off_site };
                self.offer(&report.offers, source)?;
                let class = Class::of_status(status);
                self.count_page(at, &ticket.row.path, class, simhash)?;
                let same_as = match class {
                    Class::Ok if body_bytes > 0 => self.first_of(report.at, &report.id, &sha1)?,
                    _ => Vec::new(),
                };
                let row = FetchedRow {
                    tries: ticket.row.tries,
                    same_as,
                    token: report.token.0,
                    status: u32::from(status),
                    place: place.encode().to_vec(),
                    sha1: sha1.to_vec(),
                    fetched_at,
                    via_host: ticket.row.via_host,
                };
                self.note_stored(report.at.crawl, place);
                self.changes.remove(keys::queue(report.at, slot));
                self.changes.put(
                    keys::url(report.at, &report.id),
                    &UrlRow { state: Some(UrlState::Fetched(row)) },
                );
                self.count_answer(report.at, class, slot, body_bytes, wire_bytes);
            }
            (Outcome::Answered { .. }, None) => {
                let detail = "the answer came without its records".to_owned();
                let failure = Failure {
                    kind: FailureKind::Internal,
                    detail,
                    retry_after: None,
                    took,
                    at: report.reported_at,
                };
                self.fail(report.at, report.token, &report.id, ticket, failure, now, chance);
            }
            (Outcome::Failed { kind, detail, retry_after }, _) => {
                let detail = detail.chars().take(CHARS_MAX).collect();
                let failure = Failure { kind, detail, retry_after, took, at: report.reported_at };
                self.fail(report.at, report.token, &report.id, ticket, failure, now, chance);
            }
        }
        if was_lent {
            self.close(report.token, slot, now);
        } else {
            self.visited_late(report.at, now);
        }
        Ok(Verdict::Applied)
    }

    /// The page of a crawl that had a body first; empty if this one is the first.
    fn first_of(
        &mut self,
        at: HostRef,
        id: &UrlId,
        sha1: &[u8; 20],
    ) -> Result<Vec<u8>, StoreError> {
        let (key, this) = (keys::digest(at.crawl, sha1), keys::page_ref(at.host, id));
        let first = self.changes.get_bytes(&self.store, &key)?;
        if first.is_none() {
            self.changes.put_bytes(key, this);
            return Ok(Vec::new());
        }
        Ok(first.filter(|first| *first != this).unwrap_or_default())
    }

    /// A host was fetched from under a lease that had run out: it waits from now on.
    fn visited_late(&mut self, at: HostRef, now: Moment) {
        self.touched.insert(at);
        self.host_visited(at, now);
    }

    fn note_stored(&mut self, crawl: u32, place: Place) {
        if let Some(crawl) = self.crawls.get_mut(&crawl) {
            let Lengths { response, request, metadata } = place.lengths();
            crawl.row.stored_bytes +=
                [response, request, metadata].map(u64::from).iter().sum::<u64>();
        }
    }

    /// Counts a waiting URL out.
    fn unqueue(&mut self, at: HostRef) {
        if let (Some(crawl), Some(host)) = (self.crawls.get_mut(&at.crawl), self.hosts.get_mut(&at))
        {
            crawl.row.queued = crawl.row.queued.saturating_sub(1);
            crawl.dirty = true;
            host.row.queued = host.row.queued.saturating_sub(1);
            self.touched.insert(at);
        }
    }

    fn count_answer(&mut self, at: HostRef, class: Class, slot: Slot, body: u64, wire: u64) {
        if let (Some(crawl), Some(host)) = (self.crawls.get_mut(&at.crawl), self.hosts.get_mut(&at))
        {
            crawl.count(class);
            crawl.count_depth(slot.depth, false);
            crawl.row.body_bytes += body;
            crawl.row.wire_bytes += wire;
            host.row.pages += u64::from(class.is_page());
            self.touched.insert(at);
        }
    }

    /// Lets a failed URL wait for its next try, or ends it.
    #[expect(clippy::too_many_arguments, reason = "the parts of one report, taken apart above")]
    fn fail(
        &mut self,
        at: HostRef,
        token: Token,
        id: &UrlId,
        ticket: Ticket,
        failure: Failure,
        now: Moment,
        chance: f64,
    ) {
        let Ticket { slot, mut row, .. } = ticket;
        let (Some(crawl), Some(host)) = (self.crawls.get_mut(&at.crawl), self.hosts.get(&at))
        else {
            return;
        };
        row.failures += 1;
        let class = Class::Failed(failure.kind);
        if row.tries.len() >= TRIES_KEPT {
            row.tries.remove(0);
        }
        row.tries.push(TryRow {
            class: u32::from(class.number()),
            at: failure.at,
            took_ms: super::millis(failure.took),
            detail: failure.detail.clone(),
        });
        // Tries that were lost with their worker are not the host's fault; they have a
        // limit of their own.
        let spec = &crawl.spec;
        if failure.kind.is_transient() && row.failures < spec.attempts {
            let wait = backoff::wait(
                row.failures,
                spec.retry_wait.duration(),
                spec.retry_wait_max.duration(),
                chance,
            );
            let asked = failure.retry_after.unwrap_or_default().min(REST_MAX);
            let due = now + wait.max(asked);
            let later = slot.due_at(due.0);
            row.last_token = token.0;
            row.last_applied = true;
            row.last_error = failure.detail;
            crawl.row.retries += 1;
            self.changes.remove(keys::queue(at, slot));
            self.changes.put(keys::queue(at, later), &row);
            let state = UrlState::Pending(later.encode().to_vec());
            self.changes.put(keys::url(at, id), &UrlRow { state: Some(state) });
            self.requeue(at);
            self.wake(at, due);
            return;
        }
        let url = format!("{}{}", host.row.key, row.path);
        let ended = EndedRow {
            token: token.0,
            class: u32::from(class.number()),
            detail: failure.detail,
            path: row.path,
            via: row.via,
            via_host: row.via_host,
            depth: u32::from(slot.depth),
            hops: row.hops,
            attempts: row.failures + row.losses,
            tries: row.tries,
            off_site: row.off_site,
            ..EndedRow::default()
        };
        self.end_without_answer(at, id, slot, &url, class, ended);
    }
}

/// Why there was no answer.
struct Failure {
    kind: FailureKind,
    detail: String,
    retry_after: Option<Duration>,
    took: Duration,
    /// When it was reported, in Unix milliseconds.
    at: u64,
}

impl Report {
    /// What is wrong with the host as a whole, if its news say so: in class and words.
    fn trouble(&self) -> Option<(Class, String)> {
        match &self.outcome {
            Outcome::Failed { kind, detail, .. } => {
                Some((Class::Failed(*kind), detail.chars().take(CHARS_MAX).collect()))
            }
            Outcome::Answered { status, .. } if politeness::asks_for_rest(*status) => {
                Some((Class::Failed(FailureKind::Busy), format!("status {status}")))
            }
            Outcome::Answered { .. } => None,
        }
    }
}
