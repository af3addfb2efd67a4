//! Whether it is our own network that is down.
//!
//! That a host cannot be reached is the host's failure only if others can be. If nobody
//! has answered in the second half of the time that the fetch took, those that answered
//! before are connected to, one after the other, and nothing is sent to them; if none can
//! be reached, the failure says nothing of the host. A few hosts that all go down look the
//! same, so that this counts with several witnesses only, and not for ever.

use std::{
    collections::VecDeque,
    net::{IpAddr, SocketAddr},
    sync::{Mutex, MutexGuard, PoisonError},
};

use tokio::time::{Duration, Instant};
use trawl_shared::{address::neighbourhood, units::Span};

/// Who is remembered, of those that answered last.
const PEERS: usize = 4;

/// Others of them that must be out of reach.
const WITNESSES: usize = 3;

/// How long one that was reached vouches for the network, so that nobody is connected to
/// more often.
const VOUCHED: Duration = Duration::from_secs(60);

/// How long it is believed that none could be reached.
const DOWN: Duration = Duration::from_secs(2);

/// What is known of the network.
pub(super) struct Uplink {
    known: Mutex<Known>,
    /// Held by who finds out, so that others wait for the answer.
    asking: tokio::sync::Mutex<()>,
    /// How long it may be down at most.
    outage_max: Duration,
}

#[derive(Default)]
struct Known {
    /// Who answered, of each neighbourhood one, the last one last.
    peers: VecDeque<SocketAddr>,
    heard_at: Option<Instant>,
    /// When a peer could be reached.
    reached_at: Option<Instant>,
    /// Since when none could be, and when that was last tried.
    down: Option<(Instant, Instant)>,
}

impl Uplink {
    pub(super) fn new(outage_max: Span) -> Self {
        Self {
            known: Mutex::default(),
            asking: Default::default(),
            outage_max: outage_max.duration(),
        }
    }

    /// Somebody has answered; who, if that is known.
    pub(super) fn heard(&self, peer: Option<SocketAddr>) {
        let mut known = self.lock();
        let now = Instant::now();
        known.heard_at = Some(now);
        known.is_up(now);
        let Some(peer) = peer.filter(|peer| known.peers.back() != Some(peer)) else { return };
        let at = neighbourhood(peer.ip());
        known.peers.retain(|other| neighbourhood(other.ip()) != at);
        if known.peers.len() == PEERS {
            known.peers.pop_front();
        }
        known.peers.push_back(peer);
    }

    /// Whether the network is down, so that a fetch that began then, of a host at `own`
    /// address if that is known, could not reach anybody. `reaches` tries a peer.
    pub(super) async fn is_down<R: Future<Output = bool>>(
        &self,
        own: Option<IpAddr>,
        began: Instant,
        reaches: impl Fn(SocketAddr) -> R,
    ) -> bool {
        let _one_at_a_time = self.asking.lock().await;
        let witnesses = match self.lock().judge(own, began, self.outage_max, Instant::now()) {
            Ok(is_down) => return is_down,
            Err(witnesses) => witnesses,
        };
        for peer in witnesses {
            if reaches(peer).await {
                let mut known = self.lock();
                let now = Instant::now();
                known.reached_at = Some(now);
                known.is_up(now);
                return false;
            }
        }
        let now = Instant::now();
        let mut known = self.lock();
        let since = known.down.map_or(now, |(since, _)| since);
        if known.down.is_none() {
            tracing::warn!(
                "not even those can be reached who answered before: waiting for the network"
            );
        }
        known.down = Some((since, now));
        true
    }

    /// What is behind the lock is never left half changed.
    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    /// Whether the network is down, as far as that is known; or else who is to be tried,
    /// the last one that answered first.
    fn judge(
        &self,
        own: Option<IpAddr>,
        began: Instant,
        outage_max: Duration,
        now: Instant,
    ) -> Result<bool, Vec<SocketAddr>> {
        let lately = |then: Instant, long: Duration| now.saturating_duration_since(then) < long;
        // Who was heard before that, may have been heard just before it went down.
        let half = began + now.saturating_duration_since(began) / 2;
        let is_heard = self.heard_at.is_none_or(|at| at >= half);
        if is_heard || self.reached_at.is_some_and(|at| lately(at, VOUCHED)) {
            return Ok(false);
        }
        if let Some((since, tried)) = self.down {
            if !lately(since, outage_max) {
                return Ok(false);
            }
            if lately(tried, DOWN) {
                return Ok(true);
            }
        }
        let own = own.map(neighbourhood);
        let is_other = |peer: &&SocketAddr| Some(neighbourhood(peer.ip())) != own;
        let witnesses: Vec<_> = self.peers.iter().rev().filter(is_other).copied().collect();
        if witnesses.len() < WITNESSES || outage_max.is_zero() { Ok(false) } else { Err(witnesses) }
    }

    fn is_up(&mut self, now: Instant) {
        if let Some((since, _)) = self.down.take() {
            let secs = now.saturating_duration_since(since).as_secs();
            tracing::warn!(secs, "the network is back");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        future::ready,
        sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    };

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn peer(number: u8) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, number], 80))
    }

    /// A network that can be pulled, and how often it was tried.
    struct Net {
        uplink: Uplink,
        is_up: AtomicBool,
        tried: AtomicUsize,
    }

    impl Net {
        fn with_peers(count: u8) -> Self {
            let uplink = Uplink::new(Span::secs(3_600));
            (1..=count).for_each(|number| uplink.heard(Some(peer(number))));
            Self { uplink, is_up: AtomicBool::new(false), tried: AtomicUsize::new(0) }
        }

        async fn is_down(&self, own: u8, began: Instant) -> bool {
            let reaches = |_| {
                self.tried.fetch_add(1, Ordering::Relaxed);
                ready(self.is_up.load(Ordering::Relaxed))
            };
            self.uplink.is_down(Some(peer(own).ip()), began, reaches).await
        }

        fn tried(&self) -> usize {
            self.tried.swap(0, Ordering::Relaxed)
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_answered_before_tells_whether_it_is_the_network() {
        let net = Net::with_peers(6);
        tokio::time::advance(SECOND).await;
        let began = Instant::now();
        assert!(net.is_down(9, began).await);
        assert_eq!(net.tried(), PEERS, "no more are remembered");
        assert!(net.is_down(9, began).await);
        assert_eq!(net.tried(), 0, "that was just tried");
        tokio::time::advance(DOWN).await;
        net.is_up.store(true, Ordering::Relaxed);
        assert!(!net.is_down(9, began).await);
        assert_eq!(net.tried(), 1, "one is enough");
        tokio::time::advance(VOUCHED - SECOND).await;
        assert!(!net.is_down(9, Instant::now()).await);
        assert_eq!(net.tried(), 0, "nobody is bothered more often");
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_the_host_if_anybody_answered_since() {
        let net = Net::with_peers(6);
        let began = Instant::now();
        tokio::time::advance(SECOND * 5).await;
        net.uplink.heard(Some(peer(2)));
        tokio::time::advance(SECOND * 5).await;
        assert!(!net.is_down(9, began).await);
        assert_eq!(net.tried(), 0);
        tokio::time::advance(SECOND).await;
        assert!(net.is_down(9, began).await, "it may have gone down since");
    }

    #[tokio::test(start_paused = true)]
    async fn few_witnesses_are_none() {
        for (peers, own, expected) in
            [(0, 9, false), (2, 9, false), (3, 3, false), (3, 9, true), (4, 3, true)]
        {
            let net = Net::with_peers(peers);
            tokio::time::advance(SECOND).await;
            assert_eq!(net.is_down(own, Instant::now()).await, expected, "{peers} {own}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_outage_is_not_believed_for_ever() {
        let net = Net::with_peers(4);
        tokio::time::advance(SECOND).await;
        assert!(net.is_down(9, Instant::now()).await);
        tokio::time::advance(SECOND * 3_599).await;
        assert!(net.is_down(9, Instant::now()).await);
        tokio::time::advance(SECOND).await;
        assert!(!net.is_down(9, Instant::now()).await);
        net.uplink.heard(Some(peer(1)));
        tokio::time::advance(SECOND).await;
        assert!(net.is_down(9, Instant::now()).await, "the next one is believed again");
    }
}
