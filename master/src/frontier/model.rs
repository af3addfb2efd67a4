//! The frontier held against a plain model, with random operations.
//!
//! The model is what one would write down on paper: a list of URLs and what each
//! is doing. It does not choose what is lent; it checks that what was lent could
//! be, and that something is lent whenever it must. [`check`] runs on any store.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use proptest::prelude::*;
use trawl_shared::{
    lease::{Token, Verdict},
    outcome::{Class, FailureKind},
    scope::ScopeKind,
    spec::CrawlSpec,
    units::{Size, Span},
    url::{CrawlUrl, UrlId},
};

use super::{
    Batch, Frontier, HandBack, Judgement, LeaseRequest, Limits, Moment, Offer, Outcome,
    Quarantined, Release, Report, State, Via,
};
use crate::{
    pages::Place,
    store::{
        Store,
        keys::{HostRef, Slot},
        memory::MemoryStore,
        rows::{Finish, Wish},
        sled::SledStore,
    },
};

const LEASE: Duration = Duration::from_secs(30);
/// Two crawls of the same hosts, and the delay that each asks for.
const CRAWLS: [(&str, Duration); 2] =
    [("c", Duration::from_secs(1)), ("d", Duration::from_secs(3))];
const HOSTS: usize = 4;
const PATHS: usize = 12;
const WORKERS: usize = 3;
const ATTEMPTS: u32 = 3;
const LOSSES: u32 = 3;

/// Something that may happen to a frontier.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    Submit {
        crawl: usize,
        seeds: Vec<usize>,
    },
    Steer {
        crawl: usize,
        wish: Wish,
    },
    /// Lets the n-th URL out of quarantine.
    Release {
        inmate: usize,
        how: Release,
    },
    Lease {
        worker: usize,
        hosts: usize,
        extend: bool,
    },
    /// Reports on the n-th URL ever lent, whether or not it is still lent.
    Report {
        lent: usize,
        status: Option<u16>,
        links: Vec<usize>,
    },
    Renew {
        worker: usize,
    },
    HandBack {
        worker: usize,
    },
    Join {
        worker: usize,
    },
    Pass {
        secs: u64,
    },
    Restart,
}

pub(crate) fn steps() -> impl Strategy<Value = Vec<Step>> {
    let urls = || prop::collection::vec(0..HOSTS * PATHS, 0..6);
    let status = prop_oneof![6 => Just(Some(200)), 1 => Just(Some(301)), 3 => Just(None)];
    let wish = prop_oneof![2 => Just(Wish::Run), 1 => Just(Wish::Pause), 1 => Just(Wish::Stop)];
    let how = prop_oneof![Just(Release::Retry), Just(Release::Drop)];
    let step = prop_oneof![
        2 => (0..CRAWLS.len(), urls()).prop_map(|(crawl, seeds)| Step::Submit { crawl, seeds }),
        1 => (0..CRAWLS.len(), wish).prop_map(|(crawl, wish)| Step::Steer { crawl, wish }),
        1 => (any::<usize>(), how).prop_map(|(inmate, how)| Step::Release { inmate, how }),
        6 => (0..WORKERS, 0..3usize, any::<bool>())
            .prop_map(|(worker, hosts, extend)| Step::Lease { worker, hosts, extend }),
        12 => (any::<usize>(), status, urls())
            .prop_map(|(lent, status, links)| Step::Report { lent, status, links }),
        2 => (0..WORKERS).prop_map(|worker| Step::Renew { worker }),
        1 => (0..WORKERS).prop_map(|worker| Step::HandBack { worker }),
        1 => (0..WORKERS).prop_map(|worker| Step::Join { worker }),
        4 => (0..40u64).prop_map(|secs| Step::Pass { secs }),
        1 => Just(Step::Restart),
    ];
    prop::collection::vec(step, 1..120)
}

fn url(number: usize) -> String {
    format!("http://h{}.example/p{}", number / PATHS, number % PATHS)
}

fn host_of(url: &str) -> &str {
    url.split('/').nth(2).unwrap()
}

/// What a URL is doing, in the model.
#[derive(Clone, Debug, PartialEq)]
enum Doing {
    /// Since when, that is from when on, it may be lent.
    Waiting {
        due: Moment,
    },
    Lent {
        token: Token,
        worker: usize,
    },
    Done,
    Quarantined,
}

#[derive(Clone, Debug)]
struct ModelUrl {
    doing: Doing,
    failures: u32,
    losses: u32,
    /// The last token under which it was lost, or under which a report counted.
    last: Option<(Token, Last)>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Last {
    Lost,
    Counted,
}

/// A URL that was lent once.
#[derive(Clone)]
struct Lent {
    crawl: usize,
    url: String,
    at: HostRef,
    token: Token,
    worker: usize,
}

/// A crawl, and how it stands.
#[derive(Clone, Copy, Debug, PartialEq)]
struct ModelCrawl {
    finish: Finish,
    wish: Wish,
}

struct Model {
    urls: BTreeMap<(usize, String), ModelUrl>,
    crawls: [ModelCrawl; CRAWLS.len()],
    /// When a host was last visited, or let go of.
    freed: BTreeMap<String, Moment>,
    deadlines: BTreeMap<Token, Moment>,
    history: Vec<Lent>,
}

impl Model {
    fn new() -> Self {
        let crawl = ModelCrawl { finish: Finish::Complete, wish: Wish::Run };
        Self {
            urls: BTreeMap::new(),
            crawls: [crawl; CRAWLS.len()],
            freed: BTreeMap::new(),
            deadlines: BTreeMap::new(),
            history: Vec::new(),
        }
    }

    fn admit(&mut self, crawl: usize, url: String) {
        let waiting = Doing::Waiting { due: Moment(0) };
        let new = ModelUrl { doing: waiting, failures: 0, losses: 0, last: None };
        self.urls.entry((crawl, url)).or_insert(new);
    }

    /// The crawl and the worker that have a host.
    fn holder(&self, host: &str) -> Option<(usize, usize)> {
        self.urls.iter().find_map(|((crawl, url), entry)| match entry.doing {
            Doing::Lent { worker, .. } if host_of(url) == host => Some((*crawl, worker)),
            _ => None,
        })
    }

    fn may_lend(&self, crawl: usize) -> bool {
        self.crawls[crawl] == ModelCrawl { finish: Finish::Running, wish: Wish::Run }
    }

    /// Whether another crawl waits for a host.
    fn is_wanted_elsewhere(&self, crawl: usize, host: &str) -> bool {
        self.urls.iter().any(|((other, url), entry)| {
            *other != crawl
                && self.may_lend(*other)
                && host_of(url) == host
                && matches!(entry.doing, Doing::Waiting { .. })
        })
    }

    /// Hosts that may be lent to some crawl, if each waits as long as `delay` says.
    fn open_hosts(&self, now: Moment, delay: impl Fn(usize) -> Duration) -> BTreeSet<String> {
        let due = self.urls.iter().filter(|((crawl, url), entry)| {
            let is_due = matches!(entry.doing, Doing::Waiting { due } if due <= now);
            let freed = self.freed.get(host_of(url));
            is_due
                && self.may_lend(*crawl)
                && freed.is_none_or(|freed| *freed + delay(*crawl) <= now)
        });
        due.map(|((_, url), _)| host_of(url).to_owned())
            .filter(|host| self.holder(host).is_none())
            .collect()
    }

    fn free_if_last(&mut self, host: &str, now: Moment) {
        if self.holder(host).is_none() {
            self.freed.insert(host.to_owned(), now);
        }
    }

    /// Takes a lease away from its worker.
    fn lose(&mut self, token: Token, now: Moment, counts: bool) {
        self.deadlines.remove(&token);
        let lent =
            |entry: &ModelUrl| matches!(entry.doing, Doing::Lent { token: t, .. } if t == token);
        let urls: Vec<_> =
            self.urls.iter().filter(|(_, entry)| lent(entry)).map(|(url, _)| url.clone()).collect();
        for url in urls {
            let entry = self.urls.get_mut(&url).unwrap();
            entry.doing = Doing::Waiting { due: Moment(0) };
            if counts {
                entry.losses += 1;
                entry.last = Some((token, Last::Lost));
                if entry.losses >= LOSSES {
                    entry.doing = Doing::Quarantined;
                    entry.last = None;
                }
            }
            self.free_if_last(host_of(&url.1), now);
        }
    }

    fn expire(&mut self, now: Moment) {
        let over: Vec<Token> = self
            .deadlines
            .iter()
            .filter(|(_, end)| **end <= now)
            .map(|(token, _)| *token)
            .collect();
        for token in over {
            self.lose(token, now, true);
        }
    }

    fn tokens_of(&self, worker: usize) -> Vec<Token> {
        self.tokens(|_, w| w == worker)
    }

    /// The tokens that are lent in such crawls to such workers.
    fn tokens(&self, such: impl Fn(usize, usize) -> bool) -> Vec<Token> {
        let held = self.urls.iter().filter_map(|((crawl, _), entry)| match entry.doing {
            Doing::Lent { token, worker } if such(*crawl, worker) => Some(token),
            _ => None,
        });
        held.collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// Checks that a batch could be lent, and notes that it is.
    fn lend(&mut self, batch: &Batch, worker: usize, now: Moment) {
        let host = host_of(&batch.urls[0].url).to_owned();
        let crawl = batch.at.crawl as usize - 1;
        assert!(self.may_lend(crawl), "a crawl that is not to run lends nothing");
        match self.holder(&host) {
            Some(holder) => {
                assert_eq!(holder, (crawl, worker), "a host is lent to one worker at a time");
                let is_wanted = self.is_wanted_elsewhere(crawl, &host);
                assert!(!is_wanted, "a crawl keeps no host that another one waits for");
            }
            None => assert!(
                self.freed.get(&host).is_none_or(|freed| *freed + CRAWLS[crawl].1 <= now),
                "{host} is not visited before the delay is over"
            ),
        }
        for lent in &batch.urls {
            assert_eq!(host_of(&lent.url), host, "a batch is one host's");
            let entry = self.urls.get_mut(&(crawl, lent.url.clone()));
            let entry = entry.expect("only what was admitted is lent");
            match entry.doing {
                Doing::Waiting { due } => assert!(due <= now, "{} is not due", lent.url),
                _ => panic!("{} is lent while {:?}", lent.url, entry.doing),
            }
            assert_eq!(lent.attempt, entry.failures + entry.losses + 1);
            if entry.losses > 0 {
                assert_eq!(batch.urls.len(), 1, "a suspect is lent alone");
            }
            entry.doing = Doing::Lent { token: batch.token, worker };
            self.history.push(Lent {
                crawl,
                url: lent.url.clone(),
                at: batch.at,
                token: batch.token,
                worker,
            });
        }
        assert!(self.deadlines.insert(batch.token, now + LEASE).is_none(), "a token is new");
    }

    fn entry(&self, lent: &Lent) -> &ModelUrl {
        &self.urls[&(lent.crawl, lent.url.clone())]
    }

    /// What a report must be answered.
    fn verdict(&self, lent: &Lent) -> Verdict {
        let entry = self.entry(lent);
        match (&entry.doing, entry.last) {
            (Doing::Lent { token, .. }, _) if *token == lent.token => Verdict::Applied,
            (Doing::Lent { .. }, _) => Verdict::Stale,
            (_, Some((token, Last::Counted))) if token == lent.token => Verdict::Already,
            (Doing::Waiting { .. }, Some((token, Last::Lost))) if token == lent.token => {
                Verdict::Applied
            }
            _ => Verdict::Stale,
        }
    }

    fn apply(&mut self, lent: &Lent, status: Option<u16>, links: &[usize], now: Moment) {
        let entry = self.urls.get_mut(&(lent.crawl, lent.url.clone())).unwrap();
        let was_lent = matches!(entry.doing, Doing::Lent { .. });
        entry.last = Some((lent.token, Last::Counted));
        if status.is_some() {
            entry.doing = Doing::Done;
            links.iter().for_each(|link| self.admit(lent.crawl, url(*link)));
        } else {
            entry.failures += 1;
            entry.doing = if entry.failures < ATTEMPTS {
                // Chance is 0 in these tests: 5 s, doubled from try to try.
                Doing::Waiting { due: now + Duration::from_secs(5 << (entry.failures - 1)) }
            } else {
                Doing::Done
            };
        }
        if !was_lent {
            // It was fetched all the same.
            self.freed.insert(host_of(&lent.url).to_owned(), now);
        } else {
            self.free_if_last(host_of(&lent.url), now);
            let open = |entry: &ModelUrl| matches!(entry.doing, Doing::Lent { token, .. } if token == lent.token);
            if !self.urls.values().any(open) {
                self.deadlines.remove(&lent.token);
            }
        }
    }

    fn submit(&mut self, crawl: usize, seeds: &[CrawlUrl]) {
        seeds.iter().for_each(|seed| self.admit(crawl, seed.as_str().to_owned()));
        self.crawls[crawl].wish = Wish::Run;
        self.restart(crawl);
    }

    fn steer(&mut self, crawl: usize, wish: Wish) {
        match (self.crawls[crawl].finish, wish) {
            (Finish::Running, _) => self.crawls[crawl].wish = wish,
            (Finish::Stopped, Wish::Run) => {
                self.crawls[crawl].wish = wish;
                self.restart(crawl);
            }
            _ => {}
        }
    }

    fn release(&mut self, url: &(usize, String), how: Release) {
        let entry = self.urls.get_mut(url).unwrap();
        *entry = match how {
            Release::Drop => ModelUrl { doing: Doing::Done, ..entry.clone() },
            Release::Retry => {
                let doing = Doing::Waiting { due: Moment(0) };
                ModelUrl { doing, failures: 0, losses: 0, last: None }
            }
        };
        if how == Release::Retry {
            self.restart(url.0);
        }
    }

    /// A crawl goes on if there is something to do.
    fn restart(&mut self, crawl: usize) {
        if self.count(crawl, |doing| !matches!(doing, Doing::Done | Doing::Quarantined)) > 0 {
            self.crawls[crawl].finish = Finish::Running;
        }
    }

    /// Crawls end when there is nothing left to do, or to be waited for.
    fn settle(&mut self) {
        for crawl in 0..CRAWLS.len() {
            let lent = self.count(crawl, |doing| matches!(doing, Doing::Lent { .. }));
            let waiting = self.count(crawl, |doing| matches!(doing, Doing::Waiting { .. }));
            let state = &mut self.crawls[crawl];
            match (state.finish, lent, waiting, state.wish) {
                (Finish::Running, 0, 0, _) => state.finish = Finish::Complete,
                (Finish::Running, 0, _, Wish::Stop) => state.finish = Finish::Stopped,
                _ => {}
            }
        }
    }

    fn count(&self, crawl: usize, doing: impl Fn(&Doing) -> bool) -> u64 {
        let urls = self.urls.iter().filter(|((of, _), _)| *of == crawl);
        urls.filter(|(_, entry)| doing(&entry.doing)).count() as u64
    }
}

pub(super) fn spec() -> CrawlSpec {
    CrawlSpec {
        scope: ScopeKind::Any,
        delay: Span::secs(1),
        attempts: ATTEMPTS,
        retry_wait: Span::secs(5),
        ..CrawlSpec::default()
    }
}

pub(super) fn limits() -> Limits {
    Limits {
        lease: LEASE,
        urls_per_lease: 3,
        losses: LOSSES,
        known_urls: 8,
        known_hosts: 2,
        pattern_hosts: 2,
    }
}

fn worker_name(worker: usize) -> Arc<str> {
    format!("w{worker}").into()
}

pub(super) fn answered(status: u16) -> Outcome {
    Outcome::Answered {
        status,
        sha1: [1; 20],
        body_bytes: 10,
        wire_bytes: 5,
        fetched_at: 0,
        simhash: None,
    }
}

pub(super) const PLACE: Place =
    Place { segment: 1, offset: 0, response_len: 1, request_len: 1, metadata_len: 1 };

fn spec_of(crawl: usize) -> CrawlSpec {
    let delay = Span::secs(CRAWLS[crawl].1.as_secs());
    CrawlSpec { delay, ..spec() }
}

/// What a store holds after the steps.
pub(crate) fn store_after(steps: Vec<Step>) -> MemoryStore {
    run(MemoryStore::default(), |store| store, steps).0.into_store()
}

/// A store with URLs that wait, and others that are lent.
pub(crate) fn store_with_leases() -> MemoryStore {
    let seeds: Vec<String> = (0..HOSTS * PATHS).map(url).collect();
    let seeds: Vec<&str> = seeds.iter().map(String::as_str).collect();
    let mut frontier = frontier(spec(), &seeds);
    let lent = lend(&mut frontier, 0);
    answer(&mut frontier, &lent[..1], &[], 1);
    frontier.into_store()
}

/// Runs the steps on a frontier over a store, and then lets the crawls end. `reopen`
/// closes the store and opens what is left of it.
fn check<S: Store>(store: S, reopen: impl FnMut(S) -> S, steps: Vec<Step>) {
    let (frontier, model, now) = run(store, reopen, steps);
    drain(frontier, model, now);
}

fn run<S: Store>(
    store: S,
    mut reopen: impl FnMut(S) -> S,
    steps: Vec<Step>,
) -> (Frontier<S>, Model, Moment) {
    let (mut frontier, mut now) = Frontier::open(store, limits(), "test").unwrap();
    let mut model = Model::new();
    for (crawl, (name, _)) in CRAWLS.iter().enumerate() {
        frontier.submit(name, spec_of(crawl), &[], now).unwrap();
    }
    frontier.commit(now).unwrap();
    for step in steps {
        match step {
            Step::Submit { crawl, seeds } => {
                let seeds: Vec<CrawlUrl> =
                    seeds.into_iter().map(|seed| url(seed).parse().unwrap()).collect();
                frontier.submit(CRAWLS[crawl].0, spec_of(crawl), &seeds, now).unwrap();
                model.submit(crawl, &seeds);
            }
            Step::Steer { crawl, wish } => {
                assert!(frontier.steer(CRAWLS[crawl].0, wish, now));
                model.steer(crawl, wish);
            }
            Step::Release { inmate, how } => release(&mut frontier, &mut model, inmate, how, now),
            Step::Lease { worker, hosts, extend } => {
                lease(&mut frontier, &mut model, worker, hosts, extend, now);
            }
            Step::Report { lent, status, links } => {
                let Some(lent) = pick(&model.history, lent) else { continue };
                report(&mut frontier, &mut model, &lent, status, &links, now);
            }
            Step::Renew { worker } => {
                let tokens = model.tokens_of(worker);
                assert_eq!(frontier.renew(&worker_name(worker), &tokens, now), []);
                for token in tokens {
                    model.deadlines.insert(token, now + LEASE);
                }
            }
            Step::HandBack { worker } => {
                let tokens = model.tokens_of(worker);
                let all = HandBack::Tokens(tokens.clone());
                let leases = if tokens.len().is_multiple_of(2) { HandBack::All } else { all };
                frontier.hand_back(&worker_name(worker), &leases, now).unwrap();
                tokens.into_iter().for_each(|token| model.lose(token, now, false));
            }
            Step::Join { worker } => {
                frontier.forget_worker(&worker_name(worker), now).unwrap();
                let tokens = model.tokens_of(worker);
                tokens.into_iter().for_each(|token| model.lose(token, now, true));
            }
            Step::Pass { secs } => {
                now = now + Duration::from_secs(secs);
                frontier.expire(now).unwrap();
                model.expire(now);
            }
            Step::Restart => {
                frontier.commit(now).unwrap();
                frontier.sync().unwrap();
                let store = reopen(frontier.into_store());
                (frontier, now) = Frontier::open(store, limits(), "another").unwrap();
                // Every lease has its full time again.
                for deadline in model.deadlines.values_mut() {
                    *deadline = now + LEASE;
                }
            }
        }
        frontier.commit(now).unwrap();
        model.settle();
        compare(&frontier, &model);
    }
    (frontier, model, now)
}

fn pick(history: &[Lent], index: usize) -> Option<Lent> {
    history.get(index.checked_rem(history.len())?).cloned()
}

fn lease<S: Store>(
    frontier: &mut Frontier<S>,
    model: &mut Model,
    worker: usize,
    hosts: usize,
    extend: bool,
    now: Moment,
) {
    // The wait is between a crawl's own delay and the longest.
    let may = model.open_hosts(now, |crawl| CRAWLS[crawl].1).len();
    let must = model.open_hosts(now, |_| CRAWLS[1].1).len();
    let held = model.history.iter().filter(|lent| extend && lent.worker == worker);
    let extend: Vec<HostRef> =
        held.map(|lent| lent.at).collect::<BTreeSet<_>>().into_iter().collect();
    let asked_again = extend.len();
    let request = LeaseRequest { worker: worker_name(worker), hosts, extend, crawl: None };
    let batches = frontier.lease(&request, now).unwrap();
    if asked_again == 0 {
        let lent = hosts.min(must)..=hosts.min(may);
        assert!(lent.contains(&batches.len()), "due hosts are lent on demand: {batches:?}");
    }
    for batch in &batches {
        model.lend(batch, worker, now);
    }
}

fn release<S: Store>(
    frontier: &mut Frontier<S>,
    model: &mut Model,
    inmate: usize,
    how: Release,
    now: Moment,
) {
    let inmates = model.urls.iter().filter(|(_, entry)| entry.doing == Doing::Quarantined);
    let inmates: Vec<(usize, String)> = inmates.map(|(url, _)| url.clone()).collect();
    let Some(inmate) = inmate.checked_rem(inmates.len()).map(|index| &inmates[index]) else {
        return;
    };
    let url: CrawlUrl = inmate.1.parse().unwrap();
    let at = frontier.locate(inmate.0 as u32 + 1, &url).unwrap().unwrap();
    assert!(frontier.release(at, &url.id(), how, now).unwrap(), "{url} is in quarantine");
    model.release(inmate, how);
}

fn report<S: Store>(
    frontier: &mut Frontier<S>,
    model: &mut Model,
    lent: &Lent,
    status: Option<u16>,
    links: &[usize],
    now: Moment,
) {
    let id = UrlId::of(&lent.url);
    let verdict = match frontier.judge(&worker_name(lent.worker), lent.token, lent.at, &id).unwrap()
    {
        Judgement::Already => Verdict::Already,
        Judgement::Stale => Verdict::Stale,
        Judgement::Apply(ticket) => {
            let failed = Outcome::Failed {
                kind: FailureKind::Timeout,
                detail: "no answer".into(),
                retry_after: None,
            };
            let report = Report {
                token: lent.token,
                at: lent.at,
                id,
                outcome: status.map_or(failed, answered),
                offers: links
                    .iter()
                    .map(|link| Offer { url: url(*link), hops: 0, ..Default::default() })
                    .collect(),
                host_delay: None,
                news: None,
                reported_at: 0,
            };
            frontier.apply(ticket, report, status.map(|_| PLACE), now, 0.0).unwrap()
        }
    };
    assert_eq!(verdict, model.verdict(lent), "on {} under {}", lent.url, lent.token);
    if verdict == Verdict::Applied {
        model.apply(lent, status, links, now);
    }
}

/// The frontier's counts are those of the model, and a crawl is finished exactly
/// when nothing is open, or it was stopped.
fn compare<S: Store>(frontier: &Frontier<S>, model: &Model) {
    for (crawl, (name, _)) in CRAWLS.iter().enumerate() {
        let status = frontier.status(Some(name)).remove(0);
        let waiting = model.count(crawl, |doing| matches!(doing, Doing::Waiting { .. }));
        let lent = model.count(crawl, |doing| matches!(doing, Doing::Lent { .. }));
        let ended = model.count(crawl, |doing| matches!(doing, Doing::Done | Doing::Quarantined));
        let inmates = model.count(crawl, |doing| *doing == Doing::Quarantined);
        assert_eq!((status.queued, status.leased), (waiting, lent));
        assert_eq!(status.discovered, waiting + lent + ended);
        assert_eq!(status.outcomes.iter().map(|(_, count)| count).sum::<u64>(), ended);
        let quarantined = frontier.quarantined(crawl as u32 + 1, &[], 100).unwrap();
        assert_eq!(quarantined.len() as u64, inmates);
        let state = ModelCrawl { finish: status.finish, wish: status.wish };
        assert_eq!(state, model.crawls[crawl], "{status:?}");
        let busy: BTreeSet<&str> = model
            .urls
            .iter()
            .filter(|((of, _), entry)| *of == crawl && matches!(entry.doing, Doing::Lent { .. }))
            .map(|((_, url), _)| host_of(url))
            .collect();
        assert_eq!(status.hosts_busy, busy.len() as u64);
    }
    for worker in 0..WORKERS {
        let mut recalled = frontier.recalled(&worker_name(worker));
        recalled.sort_unstable();
        let unwanted = |crawl: usize| model.crawls[crawl].wish != Wish::Run;
        assert_eq!(recalled, model.tokens(|crawl, w| w == worker && unwanted(crawl)));
    }
}

/// Whatever happened, crawls end when they may go on and their URLs are fetched.
fn drain<S: Store>(mut frontier: Frontier<S>, mut model: Model, mut now: Moment) {
    for (crawl, (name, _)) in CRAWLS.iter().enumerate() {
        frontier.steer(name, Wish::Run, now);
        model.steer(crawl, Wish::Run);
    }
    for _ in 0..600 {
        frontier.commit(now).unwrap();
        model.settle();
        compare(&frontier, &model);
        if model.crawls.iter().all(|crawl| crawl.finish != Finish::Running) {
            return;
        }
        lease(&mut frontier, &mut model, 0, HOSTS, false, now);
        for lent in model.history.clone().into_iter().rev().take(HOSTS * 3) {
            if model.verdict(&lent) == Verdict::Applied {
                report(&mut frontier, &mut model, &lent, Some(200), &[], now);
            }
        }
        now = now + Duration::from_secs(3);
        frontier.expire(now).unwrap();
        model.expire(now);
    }
    panic!("the crawls do not end");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, max_shrink_iters: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn the_frontier_does_what_the_model_does(steps in steps()) {
        check(MemoryStore::default(), |store| store, steps);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, max_shrink_iters: 50, ..ProptestConfig::default() })]

    #[test]
    fn it_does_so_on_sled_too(steps in steps()) {
        let dir = tempfile::tempdir().unwrap();
        let open = || SledStore::open(dir.path(), Size::mib(16)).unwrap();
        check(open(), |store| { drop(store); open() }, steps);
    }
}

/// A frontier with seeds, for the tests below.
pub(super) fn frontier(spec: CrawlSpec, seeds: &[&str]) -> Frontier<MemoryStore> {
    let (mut frontier, now) = Frontier::open(MemoryStore::default(), limits(), "test").unwrap();
    let seeds: Vec<CrawlUrl> = seeds.iter().map(|seed| seed.parse().unwrap()).collect();
    frontier.submit("c", spec, &seeds, now).unwrap();
    frontier
}

pub(super) fn submit(
    frontier: &mut Frontier<MemoryStore>,
    name: &str,
    spec: CrawlSpec,
    seeds: &[&str],
) {
    let seeds: Vec<CrawlUrl> = seeds.iter().map(|seed| seed.parse().unwrap()).collect();
    frontier.submit(name, spec, &seeds, Moment(0)).unwrap();
}

pub(super) fn lend(frontier: &mut Frontier<MemoryStore>, secs: u64) -> Vec<Batch> {
    let request = LeaseRequest { worker: "w".into(), hosts: 10, extend: Vec::new(), crawl: None };
    frontier.lease(&request, Moment(secs * 1_000)).unwrap()
}

/// Answers every URL of the batches with these links.
pub(super) fn answer(
    frontier: &mut Frontier<MemoryStore>,
    batches: &[Batch],
    links: &[&str],
    secs: u64,
) {
    for batch in batches {
        for lent in &batch.urls {
            let id = UrlId::of(&lent.url);
            let Judgement::Apply(ticket) = frontier.judge("w", batch.token, batch.at, &id).unwrap()
            else {
                panic!("{} is lent", lent.url)
            };
            let report = Report {
                token: batch.token,
                at: batch.at,
                id,
                outcome: answered(200),
                offers: links
                    .iter()
                    .map(|link| Offer { url: (*link).into(), hops: 0, ..Default::default() })
                    .collect(),
                host_delay: None,
                news: None,
                reported_at: 0,
            };
            frontier.apply(ticket, report, Some(PLACE), Moment(secs * 1_000), 0.0).unwrap();
        }
    }
    frontier.commit(Moment(secs * 1_000)).unwrap();
}

pub(super) fn urls(batches: &[Batch]) -> Vec<&str> {
    batches.iter().flat_map(|batch| &batch.urls).map(|lent| lent.url.as_str()).collect()
}

#[test]
fn a_depth_is_opened_when_all_above_it_has_ended() {
    let spec = CrawlSpec { depth: Some(2), ..spec() };
    let mut frontier = frontier(spec, &["http://a.example/", "http://b.example/"]);
    let seeds = lend(&mut frontier, 0);
    assert_eq!(urls(&seeds), ["http://a.example/", "http://b.example/"]);
    answer(&mut frontier, &seeds[..1], &["http://c.example/1"], 1);
    assert_eq!(urls(&lend(&mut frontier, 5)), [""; 0], "a link waits for the other seed");
    answer(&mut frontier, &seeds[1..], &[], 6);
    let links = lend(&mut frontier, 8);
    assert_eq!(urls(&links), ["http://c.example/1"]);
    answer(&mut frontier, &links, &["http://c.example/2"], 9);
    let links = lend(&mut frontier, 11);
    assert_eq!(urls(&links), ["http://c.example/2"]);
    answer(&mut frontier, &links, &["http://c.example/3"], 12);
    let status = &frontier.status(None)[0];
    assert_eq!((status.discovered, status.finish), (4, Finish::Complete));
}

#[test]
fn a_crawl_stops_at_its_page_budget_and_goes_on_with_a_larger_one() {
    let budget = |pages| CrawlSpec { pages: Some(pages), ..spec() };
    let seeds = ["http://a.example/", "http://b.example/", "http://c.example/"];
    let mut frontier = frontier(budget(2), &seeds);
    let lent = lend(&mut frontier, 0);
    assert_eq!(lent.len(), 2, "no more is lent than may be fetched");
    answer(&mut frontier, &lent, &[], 1);
    let status = &frontier.status(None)[0];
    assert_eq!((status.queued, status.finish), (1, Finish::PageBudget));
    frontier.submit("c", budget(5), &[], Moment(2_000)).unwrap();
    let lent = lend(&mut frontier, 3);
    answer(&mut frontier, &lent, &[], 4);
    assert_eq!(frontier.status(None)[0].finish, Finish::Complete);
}

#[test]
fn what_goes_beyond_a_hosts_budget_ends_and_says_so() {
    let spec = CrawlSpec { pages_per_host: Some(2), ..spec() };
    let seeds: Vec<String> = (0..5).map(|n| format!("http://a.example/{n}")).collect();
    let seeds: Vec<&str> = seeds.iter().map(String::as_str).collect();
    let mut frontier = frontier(spec, &seeds);
    let lent = lend(&mut frontier, 0);
    assert_eq!(urls(&lent), ["http://a.example/0", "http://a.example/1"]);
    answer(&mut frontier, &lent, &[], 1);
    assert_eq!(lend(&mut frontier, 3), []);
    let status = &frontier.status(None)[0];
    assert_eq!(status.finish, Finish::Complete);
    assert_eq!(status.outcomes, [(Class::Ok, 2), (Class::OverBudget, 3)]);
}

#[test]
fn a_hosts_own_delay_outlives_a_restart() {
    let mut frontier = frontier(spec(), &["http://a.example/1"]);
    let lent = lend(&mut frontier, 0);
    let (batch, id) = (&lent[0], UrlId::of("http://a.example/1"));
    let Judgement::Apply(ticket) = frontier.judge("w", batch.token, batch.at, &id).unwrap() else {
        panic!("it is lent")
    };
    let report = Report {
        token: batch.token,
        at: batch.at,
        id,
        outcome: answered(200),
        offers: vec![Offer { url: "http://a.example/2".into(), hops: 0, ..Default::default() }],
        host_delay: Some(Duration::from_secs(60)),
        news: None,
        reported_at: 0,
    };
    frontier.apply(ticket, report, Some(PLACE), Moment(1_000), 0.0).unwrap();
    frontier.commit(Moment(1_000)).unwrap();
    let (mut frontier, now) = Frontier::open(frontier.into_store(), limits(), "").unwrap();
    assert_eq!(now, Moment(1_000), "the clock goes on where it stood");
    assert_eq!(lend(&mut frontier, 60), []);
    let lent = lend(&mut frontier, 61);
    assert_eq!(urls(&lent), ["http://a.example/2"]);
    assert_eq!(lent[0].delay, Duration::from_secs(60));
}

#[test]
fn crawls_take_turns() {
    let mut frontier = frontier(spec(), &["http://a.example/", "http://b.example/"]);
    submit(&mut frontier, "d", spec(), &["http://c.example/", "http://d.example/"]);
    let lent: Vec<u32> = lend(&mut frontier, 0).iter().map(|batch| batch.at.crawl).collect();
    assert_eq!(lent, [1, 2, 1, 2]);
}

#[test]
fn a_host_is_lent_to_one_crawl_at_a_time_and_they_take_turns() {
    let seeds = |name| (0..6).map(|n| format!("http://a.example/{name}{n}")).collect::<Vec<_>>();
    let (c, d) = (seeds("c"), seeds("d"));
    let refs = |seeds: &'static [String]| seeds.iter().map(String::as_str).collect::<Vec<_>>();
    let mut frontier = frontier(spec(), &refs(c.leak()));
    submit(&mut frontier, "d", spec(), &refs(d.leak()));
    let mut turns = Vec::new();
    for secs in (0..).step_by(2).take(4) {
        let lent = lend(&mut frontier, secs);
        assert_eq!(lent.len(), 1, "the host is lent once");
        turns.push(lent[0].at.crawl);
        let more =
            LeaseRequest { worker: "w".into(), hosts: 0, extend: vec![lent[0].at], crawl: None };
        let more = frontier.lease(&more, Moment(secs * 1_000)).unwrap();
        assert_eq!(more, [], "nobody keeps a host that another one waits for");
        answer(&mut frontier, &lent, &[], secs + 1);
    }
    assert_eq!(turns, [1, 2, 1, 2]);
    assert!(frontier.status(None).iter().all(|crawl| crawl.finish == Finish::Complete));
}

#[test]
fn a_crawl_with_many_hosts_does_not_keep_another_from_the_one_that_they_share() {
    let of_c: Vec<String> = (0..40).map(|n| format!("http://a.example/c{n}")).collect();
    let of_d: Vec<String> = (0..4).map(|n| format!("http://a.example/d{n}")).collect();
    let others: Vec<String> = (0..40).map(|n| format!("http://h{n}.example/")).collect();
    let seeds = |urls: &[String]| urls.iter().map(|url| url.parse().unwrap()).collect::<Vec<_>>();
    let mut frontier = frontier(spec(), &[]);
    frontier.submit("c", spec(), &seeds(&[of_c, others].concat()), Moment(0)).unwrap();
    frontier.submit("d", spec(), &seeds(&of_d), Moment(0)).unwrap();
    let mut turns = Vec::new();
    for secs in (0..8).step_by(2) {
        let lent = lend(&mut frontier, secs);
        let shared = lent.iter().filter(|batch| batch.host_key == "http://a.example");
        turns.extend(shared.map(|batch| batch.at.crawl));
        answer(&mut frontier, &lent, &[], secs + 1);
    }
    assert_eq!(turns, [1, 2, 1, 2]);
}

#[test]
fn a_submission_that_is_refused_leaves_nothing_behind() {
    let mut frontier = frontier(spec(), &["http://a.example/"]);
    let long = ["x".repeat(60), "y".repeat(60), "z".repeat(60)].join(".");
    let seeds: Vec<CrawlUrl> =
        (0..20_000).map(|n| format!("http://{n}.{long}.example/").parse().unwrap()).collect();
    let host = CrawlSpec { scope: ScopeKind::Host, ..spec() };
    assert!(frontier.submit("big", host, &seeds, Moment(0)).is_err());
    assert_eq!(frontier.status(None).len(), 1);
    frontier.checkpoint(Moment(1)).unwrap();
    let (frontier, _) = Frontier::open(frontier.into_store(), limits(), "").unwrap();
    assert_eq!(frontier.status(None).len(), 1);
}

#[test]
fn a_lease_that_its_living_worker_never_heard_of_is_no_loss() {
    let mut frontier = frontier(spec(), &["http://a.example/", "http://b.example/"]);
    let lent = lend(&mut frontier, 0);
    // The worker names one of the two.
    assert_eq!(frontier.renew("w", &[lent[0].token], Moment(20_000)), []);
    assert_eq!(frontier.expire(Moment(30_000)).unwrap(), 1);
    let again = lend(&mut frontier, 40);
    assert_eq!((urls(&again), again[0].urls[0].attempt), (vec!["http://b.example/"], 1));
    // Of this one nobody has said anything since.
    frontier.expire(Moment(50_000)).unwrap();
    let again = lend(&mut frontier, 60);
    assert_eq!((urls(&again), again[0].urls[0].attempt), (vec!["http://a.example/"], 2));
}

#[test]
fn a_host_waits_for_the_longest_delay_of_those_who_want_it() {
    let mut frontier = frontier(spec(), &["http://a.example/1"]);
    let slow = CrawlSpec { delay: Span::secs(20), ..spec() };
    submit(&mut frontier, "slow", slow, &["http://a.example/2"]);
    let lent = lend(&mut frontier, 0);
    assert_eq!((urls(&lent), lent[0].delay.as_secs()), (vec!["http://a.example/1"], 20));
    answer(&mut frontier, &lent, &["http://a.example/3"], 1);
    assert_eq!(lend(&mut frontier, 20), []);
    let (mut frontier, now) = Frontier::open(frontier.into_store(), limits(), "").unwrap();
    assert_eq!(now, Moment(1_000));
    assert_eq!(lend(&mut frontier, 20), [], "also after a restart");
    let first = lend(&mut frontier, 21);
    answer(&mut frontier, &first, &[], 22);
    let second = lend(&mut frontier, 42);
    answer(&mut frontier, &second, &[], 43);
    let mut both = [urls(&first), urls(&second)].concat();
    both.sort_unstable();
    assert_eq!(both, ["http://a.example/2", "http://a.example/3"]);
}

#[test]
fn a_paused_crawl_lends_nothing_and_wants_its_leases_back() {
    let mut frontier = frontier(spec(), &["http://a.example/", "http://b.example/"]);
    let request = LeaseRequest { worker: "w".into(), hosts: 1, extend: Vec::new(), crawl: None };
    let lent = frontier.lease(&request, Moment(0)).unwrap();
    assert_eq!(frontier.recalled("w"), []);
    assert!(frontier.steer("c", Wish::Pause, Moment(0)));
    assert_eq!((lend(&mut frontier, 9), frontier.next_ready(None)), (vec![], None));
    assert_eq!((frontier.recalled("w"), frontier.recalled("v")), (vec![lent[0].token], vec![]));
    frontier.hand_back("w", &HandBack::All, Moment(9_000)).unwrap();
    frontier.commit(Moment(9_000)).unwrap();
    assert_eq!(frontier.status(None)[0].finish, Finish::Running, "it is only paused");
    let (mut frontier, _) = Frontier::open(frontier.into_store(), limits(), "").unwrap();
    assert_eq!(lend(&mut frontier, 20), [], "also after a restart");
    frontier.steer("c", Wish::Run, Moment(20_000));
    assert_eq!(lend(&mut frontier, 20).len(), 2);
    assert!(!frontier.steer("x", Wish::Run, Moment(20_000)));
}

#[test]
fn a_stopped_crawl_ends_when_nothing_is_lent_and_goes_on_when_told_to() {
    let mut frontier = frontier(spec(), &["http://a.example/", "http://b.example/"]);
    let request = LeaseRequest { worker: "w".into(), hosts: 1, extend: Vec::new(), crawl: None };
    let lent = frontier.lease(&request, Moment(0)).unwrap();
    frontier.steer("c", Wish::Stop, Moment(0));
    frontier.commit(Moment(0)).unwrap();
    assert_eq!(frontier.status(None)[0].finish, Finish::Running);
    answer(&mut frontier, &lent, &[], 1);
    let status = &frontier.status(None)[0];
    assert_eq!((status.finish, status.queued), (Finish::Stopped, 1));
    frontier.steer("c", Wish::Run, Moment(2_000));
    let lent = lend(&mut frontier, 3);
    assert_eq!(urls(&lent), ["http://b.example/"]);
    answer(&mut frontier, &lent, &[], 4);
    assert_eq!(frontier.status(None)[0].finish, Finish::Complete);
}

#[test]
fn what_is_in_quarantine_is_listed_and_let_out() {
    let seeds = ["http://a.example/", "http://b.example/", "http://c.example/"];
    let mut frontier = frontier(spec(), &seeds);
    for turn in 0..LOSSES {
        assert_eq!(lend(&mut frontier, u64::from(turn) * 100).len(), 3);
        frontier.forget_worker("w", Moment(u64::from(turn) * 100_000 + 1_000)).unwrap();
    }
    frontier.commit(Moment(300_000)).unwrap();
    let first = frontier.quarantined(1, &[], 2).unwrap();
    let rest = frontier.quarantined(1, &first[1].key, 2).unwrap();
    let listed = |inmates: &[Quarantined]| {
        inmates.iter().map(|inmate| inmate.url.clone()).collect::<Vec<_>>()
    };
    assert_eq!([listed(&first), listed(&rest)].concat(), seeds);
    assert_eq!(frontier.status(None)[0].finish, Finish::Complete);

    let now = Moment(400_000);
    assert!(frontier.release(first[0].at, &first[0].id, Release::Retry, now).unwrap());
    assert!(!frontier.release(first[0].at, &first[0].id, Release::Retry, now).unwrap());
    assert!(frontier.release(first[1].at, &first[1].id, Release::Drop, now).unwrap());
    frontier.commit(now).unwrap();
    assert_eq!(listed(&frontier.quarantined(1, &[], 9).unwrap()), ["http://c.example/"]);
    let lent = lend(&mut frontier, 400);
    assert_eq!((urls(&lent), lent[0].urls[0].attempt), (vec!["http://a.example/"], 1));
    answer(&mut frontier, &lent, &[], 401);
    let status = &frontier.status(None)[0];
    let outcomes = [(Class::Ok, 1), (Class::Quarantined, 1), (Class::Dropped, 1)];
    assert_eq!((&status.outcomes[..], status.finish), (&outcomes[..], Finish::Complete));
}

#[test]
fn why_tells_where_a_url_is_and_what_holds_it_up() {
    let mut frontier = frontier(spec(), &["http://a.example/1"]);
    let why = |frontier: &Frontier<MemoryStore>, url: &str, secs: u64| {
        let url = url.parse().unwrap();
        let mut accounts = frontier.why(None, &url, Moment(secs * 1_000)).unwrap();
        assert_eq!(accounts.len(), 1);
        accounts.remove(0)
    };
    assert!(matches!(why(&frontier, "http://a.example/2", 0).state, State::Unknown));
    let lent = lend(&mut frontier, 0);
    let State::Open { holder: Some(holder), via, .. } =
        why(&frontier, "http://a.example/1", 0).state
    else {
        panic!("it is lent")
    };
    assert_eq!((&*holder.worker, holder.token, via), ("w", lent[0].token, Via::Seed));
    answer(&mut frontier, &lent, &["http://a.example/2"], 1);
    let account = why(&frontier, "http://a.example/2", 1);
    let State::Open { holder: None, via, slot: Slot { depth: 1, .. }, due, .. } = account.state
    else {
        panic!("it waits")
    };
    assert_eq!((via, due), (Via::Page(PLACE), Some(Moment(2_000))));
    assert!(account.held_up.contains("1.0 s"), "{}", account.held_up);
    frontier.steer("c", Wish::Pause, Moment(1_000));
    let account = why(&frontier, "http://a.example/2", 5);
    assert!(account.held_up.contains("paused"), "{}", account.held_up);
    assert!(matches!(why(&frontier, "http://a.example/1", 5).state, State::Fetched { .. }));
}

#[test]
fn a_worker_may_work_for_one_crawl_alone() {
    let mut frontier = frontier(spec(), &["http://a.example/"]);
    let seed: CrawlUrl = "http://b.example/".parse().unwrap();
    frontier.submit("d", spec(), &[seed], Moment(0)).unwrap();
    let request =
        LeaseRequest { worker: "w".into(), hosts: 10, extend: Vec::new(), crawl: Some(2) };
    assert_eq!(urls(&frontier.lease(&request, Moment(0)).unwrap()), ["http://b.example/"]);
    assert_eq!(urls(&lend(&mut frontier, 0)), ["http://a.example/"]);
}

#[test]
fn a_host_that_waits_for_a_deep_url_is_woken_for_a_shallow_one() {
    let links = ["http://e.example/1", "http://f.example/1", "http://h.example/1"];
    let mut frontier = frontier(spec(), &["http://a.example/"]);
    let seed = lend(&mut frontier, 0);
    answer(&mut frontier, &seed, &links, 1);
    let [e, f, h] = <[Batch; 3]>::try_from(lend(&mut frontier, 3)).unwrap();
    answer(&mut frontier, &[e], &["http://g.example/2"], 4);
    let g = lend(&mut frontier, 6);
    answer(&mut frontier, &g, &["http://d.example/3"], 7);
    // From here on depth counts: d waits at depth 3 for f and h at depth 1, ...
    frontier.submit("c", CrawlSpec { depth: Some(5), ..spec() }, &[], Moment(8_000)).unwrap();
    assert_eq!(urls(&lend(&mut frontier, 9)), [""; 0]);
    // ... and is found again at depth 2 before f has ended.
    answer(&mut frontier, &[h], &["http://d.example/2"], 10);
    assert_eq!(urls(&lend(&mut frontier, 12)), [""; 0]);
    answer(&mut frontier, &[f], &[], 13);
    let mut fetched = Vec::new();
    for secs in [15, 17, 19] {
        let lent = lend(&mut frontier, secs);
        fetched.extend(urls(&lent).into_iter().map(str::to_owned));
        answer(&mut frontier, &lent, &[], secs + 1);
    }
    assert_eq!(fetched, ["http://d.example/2", "http://d.example/3"]);
    assert_eq!(frontier.status(None)[0].finish, Finish::Complete);
}

#[test]
fn only_a_crawl_that_somebody_waits_for_wakes_the_master() {
    let mut frontier = frontier(spec(), &["http://a.example/"]);
    let seed: CrawlUrl = "http://b.example/".parse().unwrap();
    frontier.submit("d", spec(), &[seed], Moment(0)).unwrap();
    lend(&mut frontier, 0).clear();
    assert_eq!((frontier.next_ready(Some(1)), frontier.next_ready(None)), (None, None));
    frontier.hand_back("w", &HandBack::All, Moment(1_000)).unwrap();
    frontier.commit(Moment(1_000)).unwrap();
    assert_eq!(frontier.next_ready(Some(1)), Some(Moment(2_000)));
    assert_eq!(frontier.next_ready(Some(3)), None);
}

#[test]
fn no_answer_to_a_lease_outgrows_a_message() {
    let long = "x".repeat(1_900);
    let seeds: Vec<String> = (0..2_000).map(|n| format!("http://h{n}.example/{long}")).collect();
    let seeds: Vec<&str> = seeds.iter().map(String::as_str).collect();
    let mut frontier = frontier(spec(), &seeds);
    let request =
        LeaseRequest { worker: "w".into(), hosts: 2_000, extend: Vec::new(), crawl: None };
    let lent = frontier.lease(&request, Moment(0)).unwrap();
    let bytes: usize = urls(&lent).iter().map(|url| url.len()).sum();
    assert!((1_900_000..2_200_000).contains(&bytes), "{bytes}");
    assert!(!frontier.lease(&request, Moment(0)).unwrap().is_empty(), "the rest comes next");
}
