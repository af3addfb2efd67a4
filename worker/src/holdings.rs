//! What the worker holds, and until when it may act on it.
//!
//! The worker counts from before it asked, and stops at four fifths of a lease,
//! so that it has let go before the master believes that it has.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::{Instant, sleep_until};
use trawl_shared::{
    lease::Token,
    sabotage::{self, Fault},
};

/// Leases held. Shared by the lanes, which ask, and the loops, which renew.
#[derive(Debug, Default)]
pub(crate) struct Holdings {
    held: Mutex<HashMap<Token, Held>>,
}

#[derive(Debug)]
struct Held {
    /// From here on the worker does not fetch under it.
    fence: Instant,
    /// URLs of it whose outcome the master has not acknowledged.
    open: usize,
    /// Of those, the ones that will not be begun, because it is wanted back.
    dropped: Option<usize>,
}

/// The part of a lease's duration, counted from before it was asked for, in which
/// the worker acts on it.
fn fence(asked: Instant, lease: Duration) -> Instant {
    let part = if sabotage::is(Fault::IgnoreDeadline) { 1_000.0 } else { 0.8 };
    asked + lease.mul_f64(part)
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
    pub(crate) fn take(&self, token: Token, urls: usize, asked: Instant, lease: Duration) {
        self.lock().insert(token, Held { fence: fence(asked, lease), open: urls, dropped: None });
    }

    /// Whether the worker may fetch under a token now.
    pub(crate) fn may_fetch(&self, token: Token, now: Instant) -> bool {
        self.fence(token).is_some_and(|fence| now < fence)
    }

    /// Returns when the worker may not act on a lease any more.
    pub(crate) async fn let_go(&self, token: Token) {
        // Renewals move it on meanwhile.
        while let Some(fence) = self.fence(token)
            && Instant::now() < fence
        {
            sleep_until(fence).await;
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
    }

    /// The worker lets go of a lease: it is not renewed, and runs out.
    pub(crate) fn drop(&self, token: Token) {
        self.lock().remove(&token);
    }

    /// The tokens held.
    pub(crate) fn tokens(&self) -> Vec<Token> {
        self.lock().keys().copied().collect()
    }

    /// A renewal sent at `asked` was answered: all of `tokens` are renewed but `lost`.
    pub(crate) fn renewed(
        &self,
        tokens: &[Token],
        lost: &[Token],
        asked: Instant,
        lease: Duration,
    ) {
        let mut all = self.lock();
        for token in tokens {
            if let Some(held) = all.get_mut(token) {
                held.fence = fence(asked, lease);
            }
        }
        for token in lost {
            all.remove(token);
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

    #[tokio::test(start_paused = true)]
    async fn a_worker_lets_go_before_the_master_takes_back() {
        let lease = Duration::from_secs(30);
        let holdings = Holdings::default();
        let asked = Instant::now();
        holdings.take(Token(1), 2, asked, lease);
        let at = |secs| asked + Duration::from_secs(secs);
        assert!(holdings.may_fetch(Token(1), at(23)));
        assert!(!holdings.may_fetch(Token(1), at(24)));
        holdings.renewed(&[Token(1)], &[], at(12), lease);
        assert!(holdings.may_fetch(Token(1), at(35)));
        holdings.renewed(&[Token(1)], &[Token(1)], at(24), lease);
        assert!(!holdings.may_fetch(Token(1), at(25)));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_under_way_is_given_up_when_the_lease_is_not_renewed() {
        let lease = Duration::from_secs(30);
        let (holdings, asked) = (Holdings::default(), Instant::now());
        holdings.take(Token(1), 2, asked, lease);
        let renew = async {
            sleep_until(asked + Duration::from_secs(12)).await;
            holdings.renewed(&[Token(1)], &[], Instant::now(), lease);
        };
        tokio::join!(holdings.let_go(Token(1)), renew);
        assert_eq!(asked.elapsed().as_secs(), 12 + 24);
    }

    #[tokio::test(start_paused = true)]
    async fn a_recalled_lease_goes_back_when_what_is_under_way_has_ended() {
        let holdings = Holdings::default();
        holdings.take(Token(1), 3, Instant::now(), Duration::from_secs(30));
        assert!(!holdings.recall(Token(1), 2), "one is under way");
        assert!(!holdings.recall(Token(1), 0), "and asking again changes nothing");
        assert!(holdings.acknowledged(Token(1)));
        assert_eq!(holdings.tokens(), []);
        holdings.take(Token(2), 3, Instant::now(), Duration::from_secs(30));
        assert!(holdings.recall(Token(2), 3), "nothing is under way");
        assert_eq!(holdings.tokens(), []);
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_is_held_until_its_last_url_is_acknowledged() {
        let holdings = Holdings::default();
        holdings.take(Token(1), 2, Instant::now(), Duration::from_secs(30));
        holdings.acknowledged(Token(1));
        assert_eq!(holdings.tokens(), [Token(1)]);
        holdings.acknowledged(Token(1));
        assert_eq!(holdings.tokens(), []);
    }
}
