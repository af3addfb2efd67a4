//! What the worker holds, and until when it may act on it.
//!
//! The worker counts from before it asked, and stops at four fifths of a lease,
//! so that it has let go before the master believes that it has. Time in which its
//! machine was suspended counts, too, since it has passed for the master.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use rustix::time::{ClockId, clock_gettime};
use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};
use trawl_shared::{
    lease::Token,
    sabotage::{self, Fault},
};

/// Leases held. Shared by the lanes, which ask, and the loops, which renew.
#[derive(Debug, Default)]
pub(crate) struct Holdings {
    held: Mutex<HashMap<Token, Held>>,
    /// Told when leases are let go of before their time.
    lost: Notify,
}

#[derive(Debug)]
struct Held {
    /// From here on the worker does not fetch under it, unless the machine was
    /// suspended since.
    fence: Instant,
    /// How long the machine had been suspended by then.
    suspended: Duration,
    /// URLs of it whose outcome the master has not acknowledged.
    open: usize,
    /// Of those, the ones that will not be begun, because it is wanted back.
    dropped: Option<usize>,
}

/// When the master was asked for something.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked {
    at: Instant,
    suspended: Duration,
}

impl Asked {
    pub(crate) fn now() -> Self {
        Self { at: Instant::now(), suspended: suspended() }
    }
}

/// How long this machine has been suspended since it was started, give or take the time
/// between two looks at a clock.
fn suspended() -> Duration {
    let read = |clock| {
        let time = clock_gettime(clock);
        // Neither part is ever negative.
        let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
        Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap_or(0))
    };
    let awake = read(ClockId::Monotonic);
    read(ClockId::Boottime).saturating_sub(awake)
}

/// The longest between two looks at whether a fetch under way may go on.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// A shorter suspension than this is none: the two clocks are not read at once.
const SUSPENDED_MIN: Duration = Duration::from_millis(100);

/// The part of a lease's duration, counted from before it was asked for, in which
/// the worker acts on it.
fn fence(asked: Asked, lease: Duration) -> Instant {
    let part = if sabotage::is(Fault::IgnoreDeadline) { 1_000.0 } else { 0.8 };
    asked.at + lease.mul_f64(part)
}

/// The longest between two heartbeats, which also bring what the master wants.
const HEARTBEAT_MAX: Duration = Duration::from_secs(5);

/// How often leases are renewed.
pub(crate) fn renewal_interval(lease: Duration) -> Duration {
    lease.mul_f64(0.4).min(HEARTBEAT_MAX)
}

/// The longest that a lease call may wait at the master. What is granted at its end
/// has that much less time for the worker, and must still come to its first renewal.
pub(crate) fn wait_max(lease: Duration) -> Duration {
    lease / 5
}

impl Holdings {
    /// A lease was granted to a request sent at `asked`.
    pub(crate) fn take(&self, token: Token, urls: usize, asked: Asked, lease: Duration) {
        let (fence, suspended) = (fence(asked, lease), asked.suspended);
        self.lock().insert(token, Held { fence, suspended, open: urls, dropped: None });
    }

    /// Whether the worker may fetch under a token now.
    pub(crate) fn may_fetch(&self, token: Token, now: Instant) -> bool {
        self.may_fetch_after(token, now, suspended())
    }

    /// The same on a machine that has been suspended for so long.
    fn may_fetch_after(&self, token: Token, now: Instant, suspended: Duration) -> bool {
        self.lock().get(&token).is_some_and(|held| {
            let slept = suspended.saturating_sub(held.suspended);
            let slept = if slept < SUSPENDED_MIN { Duration::ZERO } else { slept };
            now + slept < held.fence
        })
    }

    /// Returns when the worker may not act on a lease any more.
    pub(crate) async fn let_go(&self, token: Token) {
        loop {
            let lost = self.lost.notified();
            let Some(fence) = self.fence(token) else { return };
            if !self.may_fetch(token, Instant::now()) {
                return;
            }
            // Renewals move the fence on meanwhile; and no timer tells of a suspension.
            let look = fence.min(Instant::now() + LOOK_AGAIN);
            tokio::select! { biased; () = lost => {}, () = sleep_until(look) => {} }
        }
    }

    fn fence(&self, token: Token) -> Option<Instant> {
        self.lock().get(&token).map(|held| held.fence)
    }

    /// The master has acknowledged a URL of a token. Returns whether the lease is to
    /// be handed back now: what is left of it will not be begun.
    pub(crate) fn acknowledged(&self, token: Token) -> bool {
        let mut all = self.lock();
        let Some(held) = all.get_mut(&token) else { return false };
        held.open = held.open.saturating_sub(1);
        let rest = held.dropped;
        if held.open <= rest.unwrap_or(0) {
            all.remove(&token);
            return rest.is_some_and(|rest| rest > 0);
        }
        false
    }

    /// A lease is wanted back: `dropped` of its URLs will not be begun. Returns whether
    /// it is to be handed back now: nothing of it is under way.
    pub(crate) fn recall(&self, token: Token, dropped: usize) -> bool {
        let mut all = self.lock();
        let Some(held) = all.get_mut(&token) else { return false };
        let dropped = held.dropped.unwrap_or(0) + dropped;
        held.dropped = Some(dropped);
        let is_idle = held.open <= dropped;
        if is_idle {
            all.remove(&token);
        }
        is_idle
    }

    /// What is held: leases, and URLs in them.
    pub(crate) fn count(&self) -> (usize, usize) {
        let all = self.lock();
        (all.len(), all.values().map(|held| held.open).sum())
    }

    /// Lets go of everything: it is another master's.
    pub(crate) fn clear(&self) {
        self.lock().clear();
        self.lost.notify_waiters();
    }

    /// The worker lets go of a lease: it is not renewed, and runs out.
    pub(crate) fn drop(&self, token: Token) {
        self.lock().remove(&token);
    }

    /// The tokens held, the oldest first.
    pub(crate) fn tokens(&self) -> Vec<Token> {
        let mut tokens: Vec<Token> = self.lock().keys().copied().collect();
        tokens.sort_unstable();
        tokens
    }

    /// A renewal sent at `asked` was answered: all of `tokens` are renewed but `lost`.
    pub(crate) fn renewed(&self, tokens: &[Token], lost: &[Token], asked: Asked, lease: Duration) {
        let mut all = self.lock();
        for token in tokens {
            if let Some(held) = all.get_mut(token) {
                held.fence = fence(asked, lease);
                held.suspended = asked.suspended;
            }
        }
        for token in lost {
            all.remove(token);
        }
        drop(all);
        if !lost.is_empty() {
            self.lost.notify_waiters();
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Token, Held>> {
        // No panic can leave the map half changed.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked_at(at: Instant) -> Asked {
        Asked { at, suspended: Duration::ZERO }
    }

    #[tokio::test(start_paused = true)]
    async fn a_machine_that_was_suspended_has_let_go() {
        let holdings = Holdings::default();
        let (now, lease) = (Instant::now(), Duration::from_secs(30));
        let slept = Duration::from_secs(3_600);
        holdings.take(Token(1), 1, asked_at(now), lease);
        holdings.take(Token(2), 1, Asked { at: now, suspended: slept }, lease);
        assert!(holdings.may_fetch_after(Token(1), now, Duration::from_millis(99)));
        assert!(!holdings.may_fetch_after(Token(1), now, slept), "the master has waited longer");
        assert!(holdings.may_fetch_after(Token(2), now, slept), "it was asked for afterwards");
        holdings.renewed(&[Token(1)], &[], Asked { at: now, suspended: slept }, lease);
        assert!(holdings.may_fetch_after(Token(1), now, slept), "and this one renewed");
    }

    #[tokio::test(start_paused = true)]
    async fn a_worker_lets_go_before_the_master_takes_back() {
        let lease = Duration::from_secs(30);
        let holdings = Holdings::default();
        let asked = Instant::now();
        holdings.take(Token(1), 2, asked_at(asked), lease);
        let at = |secs| asked + Duration::from_secs(secs);
        assert!(holdings.may_fetch(Token(1), at(23)));
        assert!(!holdings.may_fetch(Token(1), at(24)));
        holdings.renewed(&[Token(1)], &[], asked_at(at(12)), lease);
        assert!(holdings.may_fetch(Token(1), at(35)));
        holdings.renewed(&[Token(1)], &[Token(1)], asked_at(at(24)), lease);
        assert!(!holdings.may_fetch(Token(1), at(25)));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_under_way_is_given_up_when_the_lease_is_not_renewed() {
        let lease = Duration::from_secs(30);
        let (holdings, asked) = (Holdings::default(), Instant::now());
        holdings.take(Token(1), 2, asked_at(asked), lease);
        let renew = async {
            sleep_until(asked + Duration::from_secs(12)).await;
            holdings.renewed(&[Token(1)], &[], asked_at(Instant::now()), lease);
        };
        tokio::join!(holdings.let_go(Token(1)), renew);
        assert_eq!(asked.elapsed().as_secs(), 12 + 24);
        let asked = Instant::now();
        holdings.take(Token(2), 2, asked_at(asked), lease);
        let lose = async {
            sleep_until(asked + Duration::from_secs(5)).await;
            holdings.renewed(&[Token(2)], &[Token(2)], asked_at(Instant::now()), lease);
        };
        tokio::join!(holdings.let_go(Token(2)), lose);
        assert_eq!(asked.elapsed().as_secs(), 5, "at once when it is known to be lost");
    }

    #[tokio::test(start_paused = true)]
    async fn a_recalled_lease_goes_back_when_what_is_under_way_has_ended() {
        let holdings = Holdings::default();
        holdings.take(Token(1), 3, asked_at(Instant::now()), Duration::from_secs(30));
        assert!(!holdings.recall(Token(1), 2), "one is under way");
        assert!(!holdings.recall(Token(1), 0), "and asking again changes nothing");
        assert!(holdings.acknowledged(Token(1)));
        assert_eq!(holdings.tokens(), []);
        holdings.take(Token(2), 3, asked_at(Instant::now()), Duration::from_secs(30));
        assert!(holdings.recall(Token(2), 3), "nothing is under way");
        assert_eq!(holdings.tokens(), []);
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_is_held_until_its_last_url_is_acknowledged() {
        let holdings = Holdings::default();
        holdings.take(Token(1), 2, asked_at(Instant::now()), Duration::from_secs(30));
        holdings.acknowledged(Token(1));
        assert_eq!(holdings.tokens(), [Token(1)]);
        holdings.acknowledged(Token(1));
        assert_eq!(holdings.tokens(), []);
    }
}
