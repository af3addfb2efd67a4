//! What a lane has to do: batches of URLs that come from the lease loops and are taken
//! one by one by its lines, unless they are wanted back first.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};
use trawl_proto::v1::{HostBatch, HostNews, HostRef, HostTold, LeasedUrl, RobotsState};
use trawl_shared::{
    lease::Token,
    politeness::adaptive_delay,
    robots::Rules,
    spec::{CONNECTIONS_MAX, CrawlSpec},
};

use crate::{account::millis, master::Life, robots::Remembered};

/// A lane asks for more URLs when what it has left takes no longer than this.
const LOW_WATER: Duration = Duration::from_secs(1);

/// The least time that a fetch is taken to need.
const FETCH_MIN: Duration = Duration::from_millis(10);

/// URLs left when a lane asks for more; one at least.
fn low_water(delay: Duration) -> usize {
    let urls = LOW_WATER.as_millis() / delay.max(FETCH_MIN).as_millis();
    usize::try_from(urls).unwrap_or(usize::MAX).max(1)
}

/// What a lane has to do. Shared by the lane, which takes, and the lease loops,
/// which add.
#[derive(Debug, Default)]
pub(crate) struct Work {
    host: HostRef,
    state: Mutex<WorkState>,
    /// Told when there is more to do, or nothing any more.
    changed: Notify,
    /// Held by who looks for the host's rules, so that its other lines wait for them.
    pub(super) looking_for_rules: tokio::sync::Mutex<()>,
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
pub(super) struct Lease {
    pub(super) token: Token,
    pub(super) crawl: u32,
    pub(super) host: u32,
    pub(super) spec_version: u32,
    pub(super) pace: Pace,
    pub(super) life: Life,
    pub(super) robots: Option<RobotsState>,
    pub(super) connections: u32,
}

/// How long a lane waits after a fetch.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    pub(super) delay: Duration,
    /// People have set it: nothing is added for slow answers.
    pub(super) is_set: bool,
}

/// The next thing to do.
#[derive(Debug)]
pub(super) struct Task {
    pub(super) lease: Lease,
    pub(super) url: LeasedUrl,
    /// The lane runs low and has not asked for more yet.
    pub(super) is_low: bool,
}

/// What there is to do for a line.
#[derive(Debug)]
enum Next {
    Task(Task),
    /// Nothing yet; something at that time, unless it changes before.
    Wait(Option<Instant>),
    /// Nothing any more, or nothing for so long that the rest is given back.
    End,
}

impl Pace {
    /// The wait after a fetch that took so long.
    pub(super) fn after(self, spec: &CrawlSpec, took: Duration) -> Duration {
        if self.is_set { self.delay } else { self.delay.max(adaptive_delay(spec, took)) }
    }

    /// The part of it that lies between any two fetches of the host: what people ask for.
    pub(super) fn between(self) -> Duration {
        if self.is_set { self.delay } else { Duration::ZERO }
    }
}

impl Task {
    /// The wait after its URL's fetch.
    pub(super) fn pace(&self) -> Pace {
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
        let host = HostRef { crawl: batch.lease.crawl, host: batch.lease.host };
        let state = WorkState { batches: VecDeque::from([batch]), ..WorkState::default() };
        Self { host, state: Mutex::new(state), ..Self::default() }
    }

    /// Lines to the host at the same time.
    pub(super) fn connections(&self) -> u32 {
        self.lock().batches.front().map_or(1, |batch| batch.lease.connections)
    }

    /// Adds a batch, unless the lane has ended: then it is given back.
    pub(crate) fn add(&self, batch: Batch) -> Result<(), Box<Batch>> {
        let mut state = self.lock();
        if state.ended {
            return Err(Box::new(batch));
        }
        state.asked = false;
        state.batches.push_back(batch);
        drop(state);
        self.changed.notify_waiters();
        Ok(())
    }

    /// The next URL for a line that may fetch again at that time; it is under way from
    /// now on. None ends the line: there is nothing left, and nobody under way who
    /// could ask for more; or the wait would be longer than the `longest`, which ends the
    /// lane, so that others have its place.
    pub(super) async fn next(&self, free_at: Option<Instant>, longest: Duration) -> Option<Task> {
        loop {
            let changed = self.changed.notified();
            match self.take(free_at, Instant::now(), longest) {
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
    fn take(&self, free_at: Option<Instant>, now: Instant, longest: Duration) -> Next {
        let mut state = self.lock();
        state.batches.retain(|batch| !batch.urls.is_empty());
        state.ended |= state.batches.is_empty() && state.under_way.is_empty();
        if state.ended {
            return Next::End;
        }
        let free_at = free_at.max(state.free_at).filter(|free_at| now < *free_at);
        let Some(batch) = state.batches.front_mut() else { return Next::Wait(None) };
        if let Some(free_at) = free_at {
            state.ended = free_at.duration_since(now) > longest;
            return if state.ended { Next::End } else { Next::Wait(Some(free_at)) };
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
    pub(super) fn begin(&self, token: Token, now: Instant, between: Duration) -> bool {
        let mut state = self.lock();
        let may = !state.is_wanted_back(token) && state.free_at.is_none_or(|at| at <= now);
        if may && !between.is_zero() {
            state.free_at = Some(now + between);
        }
        may
    }

    /// Puts a URL that was taken back to the others. False if it is wanted back: then
    /// it is dropped.
    pub(super) fn put_back(&self, task: Task) -> bool {
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
    pub(super) fn done(&self, token: Token) {
        let mut state = self.lock();
        if let Some(at) = state.under_way.iter().position(|url| url.token == token) {
            state.under_way.swap_remove(at);
        }
        drop(state);
        self.changed.notify_waiters();
    }

    /// The rules, if the lane has any that still hold.
    pub(super) fn rules(&self, spec_version: u32, now: Instant) -> Option<Arc<Rules>> {
        let state = self.lock();
        let held = state.rules.as_ref()?;
        let holds = held.spec_version == spec_version && held.rules.holds(now);
        holds.then(|| Arc::clone(&held.rules.rules))
    }

    /// Keeps rules for all lines.
    pub(super) fn keep_rules(&self, spec_version: u32, rules: Remembered) -> Arc<Rules> {
        let kept = Arc::clone(&rules.rules);
        self.lock().rules = Some(Held { spec_version, rules, has_offered: false });
        kept
    }

    /// Whether the sitemaps that the rules name are still to be offered.
    pub(super) fn has_sitemaps_to_offer(&self) -> bool {
        self.lock().rules.as_ref().is_some_and(|held| !held.has_offered)
    }

    /// A page's report offers them.
    pub(super) fn sitemaps_offered(&self) {
        if let Some(held) = &mut self.lock().rules {
            held.has_offered = true;
        }
    }

    pub(super) fn keep_news(&self, news: Option<HostNews>) {
        let mut state = self.lock();
        state.news = news.or(state.news.take());
    }

    pub(super) fn take_news(&self) -> Option<HostNews> {
        self.lock().news.take()
    }

    /// The same for when no report is to carry it: with the delay that the host asks for.
    pub(super) fn untold(&self) -> Option<HostTold> {
        let mut state = self.lock();
        let news = state.news.take()?;
        let rules = state.rules.as_ref().map(|held| &held.rules.rules);
        let delay = rules.map(|rules| millis(rules.crawl_delay().unwrap_or_default()));
        Some(HostTold { host: Some(self.host), news: Some(news), host_delay_ms: delay })
    }

    /// No line fetches before this.
    pub(super) fn hold(&self, until: Instant) {
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
    pub(super) async fn wanted_back(&self, token: Token) {
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

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const HOUR: Duration = Duration::from_secs(3_600);

    fn batch(token: u64, urls: usize) -> Batch {
        let url = |n| LeasedUrl { url: format!("http://h.test/{n}"), ..LeasedUrl::default() };
        let urls = (0..urls).map(url).collect();
        Batch::of(HostBatch { token, urls, ..HostBatch::default() }, Life::default())
    }

    #[tokio::test(start_paused = true)]
    async fn what_waits_for_its_turn_can_be_wanted_back() {
        let work = Work::of(batch(1, 3));
        let now = Instant::now();
        let task = work.next(None, HOUR).await.unwrap();
        assert!(work.begin(Token(1), now, Duration::ZERO));
        work.done(task.lease.token);
        let waits = async {
            let next = work.next(Some(now + SECOND * 60), HOUR).await;
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
        let task = work.next(None, HOUR).await.unwrap();
        assert_eq!(now.elapsed(), SECOND);
        work.hold(now + SECOND * 3);
        assert!(!work.begin(Token(1), Instant::now(), Duration::ZERO), "the host is not free");
        assert!(work.put_back(task));
        let task = work.next(None, HOUR).await.unwrap();
        assert_eq!(now.elapsed(), SECOND * 3);
        assert_eq!(work.forget(Token(1)), 0, "it is under way");
        assert!(!work.begin(Token(1), Instant::now(), Duration::ZERO));
        assert!(!work.put_back(task));
        assert!(work.next(None, HOUR).await.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_lane_that_ends_gives_back_what_is_under_way_too() {
        let work = Work::of(batch(1, 1));
        assert!(work.add(batch(2, 1)).is_ok());
        let task = work.next(None, HOUR).await.unwrap();
        assert_eq!(work.end(), [Token(1), Token(2)]);
        assert!(!work.begin(Token(1), Instant::now(), Duration::ZERO), "others do not ask again");
        assert!(!work.put_back(task));
        assert!(work.next(None, HOUR).await.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn what_the_host_asks_for_lies_between_the_fetches_of_all_lines() {
        let work = Work::of(batch(1, 3));
        let began = Instant::now();
        let line = async || {
            let mut times = Vec::new();
            while let Some(task) = work.next(None, HOUR).await {
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

    #[tokio::test(start_paused = true)]
    async fn a_wait_that_is_too_long_ends_the_lane_and_what_is_left_goes_back() {
        let work = Work::of(batch(1, 3));
        let now = Instant::now();
        let task = work.next(None, SECOND * 5).await.unwrap();
        work.done(task.lease.token);
        let task = work.next(Some(now + SECOND * 5), SECOND * 5).await.unwrap();
        assert_eq!(now.elapsed(), SECOND * 5, "that is waited out");
        work.done(task.lease.token);
        assert!(work.next(Some(now + SECOND * 11), SECOND * 5).await.is_none());
        assert_eq!(now.elapsed(), SECOND * 5);
        assert_eq!(work.end(), [Token(1)]);
        assert_eq!(work.forget(Token(1)), 1);
    }
}
