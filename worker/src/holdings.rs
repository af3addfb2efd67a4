//! What the worker holds, and until when it may act on it.
//!
//! The worker counts from before it asked, and stops at four fifths of a lease,
//! so that it has let go before the master believes that it has.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;
use trawl_shared::lease::Token;

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
}

/// The part of a lease's duration, counted from before it was asked for, in which
/// the worker acts on it.
fn fence(asked: Instant, lease: Duration) -> Instant {
    asked + lease.mul_f64(0.8)
}

/// How often leases are renewed.
pub(crate) fn renewal_interval(lease: Duration) -> Duration {
    lease.mul_f64(0.4)
}

/// The longest that a lease call may wait at the master. What is granted at its end
/// has that much less time for the worker, and must still come to its first renewal.
pub(crate) fn wait_max(lease: Duration) -> Duration {
    lease / 5
}

impl Holdings {
    /// A lease was granted to a request sent at `asked`.
    pub(crate) fn take(&self, token: Token, urls: usize, asked: Instant, lease: Duration) {
        self.lock().insert(token, Held { fence: fence(asked, lease), open: urls });
    }

    /// Whether the worker may fetch under a token now.
    pub(crate) fn may_fetch(&self, token: Token, now: Instant) -> bool {
        self.lock().get(&token).is_some_and(|held| now < held.fence)
    }

    /// The master has acknowledged a URL of a token.
    pub(crate) fn acknowledged(&self, token: Token) {
        let mut all = self.lock();
        if let Some(held) = all.get_mut(&token) {
            held.open = held.open.saturating_sub(1);
            if held.open == 0 {
                all.remove(&token);
            }
        }
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
    async fn a_lease_is_held_until_its_last_url_is_acknowledged() {
        let holdings = Holdings::default();
        holdings.take(Token(1), 2, Instant::now(), Duration::from_secs(30));
        holdings.acknowledged(Token(1));
        assert_eq!(holdings.tokens(), [Token(1)]);
        holdings.acknowledged(Token(1));
        assert_eq!(holdings.tokens(), []);
    }
}
