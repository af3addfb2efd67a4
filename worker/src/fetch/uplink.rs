//! Whether it is our own network that is down.
//!
//! That a host cannot be reached is the host's failure only if others can be. If nobody
//! has answered lately, those that answered before are looked at; if none can be reached,
//! the failure says nothing of the host. A machine that knows no way to any of them has
//! lost its own network, whoever they are. Otherwise they are connected to, one after the
//! other, and nothing is sent to them. A few hosts that all go down look the same, so that
//! this counts with witnesses of several domains and addresses only, and not for ever.

use std::{
    collections::VecDeque,
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    sync::{Mutex, MutexGuard, PoisonError},
};

use tokio::time::{Duration, Instant};
use trawl_shared::{address::neighbourhood, units::Span, url::CrawlUrl};

/// Who is remembered, of those that answered last.
const PEERS: usize = 8;

/// Others of them that must be out of reach.
const WITNESSES: usize = 3;

/// How long ago somebody may have answered at most for the network to be up.
const LATELY: Duration = Duration::from_secs(2);

/// How long it is believed that one could be reached if all others were tried since, so
/// that none is bothered more often.
const REACHED: Duration = Duration::from_secs(60);

/// How long it is believed that none could be reached.
const DOWN: Duration = Duration::from_secs(5);

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
    /// Who answered, of each domain and of each neighbourhood one, the last one last.
    peers: VecDeque<Peer>,
    /// When somebody answered.
    heard_at: Option<Instant>,
    /// When a peer could be reached.
    reached_at: Option<Instant>,
    /// Since when none could be, and when that was last tried.
    down: Option<(Instant, Instant)>,
}

#[derive(Clone)]
struct Peer {
    domain: String,
    address: SocketAddr,
    tried_at: Option<Instant>,
}

impl Uplink {
    pub(super) fn new(outage_max: Span) -> Self {
        Self {
            known: Mutex::default(),
            asking: Default::default(),
            outage_max: outage_max.duration(),
        }
    }

    /// A URL's host has answered, from an address if that is known.
    pub(super) fn heard(&self, url: &CrawlUrl, address: Option<SocketAddr>) {
        let mut known = self.lock();
        let now = Instant::now();
        known.heard_at = Some(now);
        known.note_up(now);
        let Some(address) = address else { return };
        let domain = url.domain();
        let is_same = |peer: &Peer| peer.domain == domain && peer.address == address;
        if known.peers.back().is_some_and(is_same) {
            return;
        }
        let at = neighbourhood(address.ip());
        let is_other =
            |peer: &Peer| peer.domain != domain && neighbourhood(peer.address.ip()) != at;
        let same = known.peers.iter().find(|peer| is_same(peer));
        let tried_at = same.and_then(|peer| peer.tried_at);
        known.peers.retain(is_other);
        if known.peers.len() == PEERS {
            known.peers.pop_front();
        }
        known.peers.push_back(Peer { domain: domain.to_owned(), address, tried_at });
    }

    /// Whether the network is down, so that a fetch of the URL that began then could not
    /// reach anybody. `is_routed` tells whether this machine knows a way to a peer,
    /// `reaches` tries one.
    pub(super) async fn is_down<R: Future<Output = bool>>(
        &self,
        url: &CrawlUrl,
        began: Instant,
        is_routed: impl Fn(SocketAddr) -> bool,
        reaches: impl Fn(SocketAddr) -> R,
    ) -> bool {
        let _one_at_a_time = self.asking.lock().await;
        let (knows_no_way, witnesses) = {
            let (known, now) = (self.lock(), Instant::now());
            if let Some(is_down) = known.is_down(began, self.outage_max, now) {
                return is_down;
            }
            let is_cut_off = |peer: &Peer| !is_routed(peer.address);
            let knows_no_way = !known.peers.is_empty() && known.peers.iter().all(is_cut_off);
            (knows_no_way, known.witnesses(url, now))
        };
        if !knows_no_way && witnesses.is_empty() {
            // That says nothing, neither of the network.
            return false;
        }
        let is_down = knows_no_way || self.are_out_of_reach(&witnesses, reaches).await;
        self.lock().note(is_down, Instant::now());
        is_down
    }

    /// Whether none of them can be reached.
    async fn are_out_of_reach<R: Future<Output = bool>>(
        &self,
        witnesses: &[SocketAddr],
        reaches: impl Fn(SocketAddr) -> R,
    ) -> bool {
        for address in witnesses {
            self.lock().note_tried(*address, Instant::now());
            if reaches(*address).await {
                self.lock().reached_at = Some(Instant::now());
                return false;
            }
        }
        true
    }

    /// What is behind the lock is never left half changed.
    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether this machine knows a way to an address. It sends nothing.
pub(super) fn is_routed(address: SocketAddr) -> bool {
    let any = match address {
        SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
        SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
    };
    let way = UdpSocket::bind(any).and_then(|socket| socket.connect(address));
    !way.is_err_and(|error| {
        matches!(error.kind(), io::ErrorKind::NetworkUnreachable | io::ErrorKind::HostUnreachable)
    })
}

impl Known {
    /// Whether the network is down, as far as that is known.
    fn is_down(&self, began: Instant, outage_max: Duration, now: Instant) -> Option<bool> {
        // An answer before that says nothing of the time in which the fetch failed.
        let half = now.saturating_duration_since(began) / 2;
        let is_fresh = |at: Instant| now.saturating_duration_since(at) <= half.min(LATELY);
        if self.heard_at.is_none_or(is_fresh) || self.reached_at.is_some_and(is_fresh) {
            return Some(false);
        }
        let passed = |then: Instant| now.saturating_duration_since(then);
        match self.down {
            _ if outage_max.is_zero() => Some(false),
            Some((since, _)) if passed(since) >= outage_max => Some(false),
            Some((_, tried)) if passed(tried) < DOWN => Some(true),
            _ => None,
        }
    }

    /// Who is to be tried: first who was not for the longest time, and of those the last
    /// one that answered. None if they are too few, or were bothered lately.
    fn witnesses(&self, url: &CrawlUrl, now: Instant) -> Vec<SocketAddr> {
        let others = self.peers.iter().rev().filter(|peer| peer.domain != url.domain());
        let mut witnesses: Vec<&Peer> = others.collect();
        witnesses.sort_by_key(|peer| peer.tried_at);
        let lately =
            |at: Option<Instant>| at.is_some_and(|at| now.saturating_duration_since(at) < REACHED);
        let are_bothered = witnesses.first().is_some_and(|peer| lately(peer.tried_at));
        if witnesses.len() < WITNESSES || are_bothered && lately(self.reached_at) {
            return Vec::new();
        }
        witnesses.into_iter().map(|peer| peer.address).collect()
    }

    fn note_tried(&mut self, address: SocketAddr, now: Instant) {
        for peer in self.peers.iter_mut().filter(|peer| peer.address == address) {
            peer.tried_at = Some(now);
        }
    }

    fn note(&mut self, is_down: bool, now: Instant) {
        if !is_down {
            return self.note_up(now);
        }
        if self.down.is_none() {
            tracing::warn!(
                "not even those can be reached who answered before: waiting for the network"
            );
        }
        self.down = Some((self.down.map_or(now, |(since, _)| since), now));
    }

    fn note_up(&mut self, now: Instant) {
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
        sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering},
    };

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// A page of the site of that number.
    fn page(number: u8) -> CrawlUrl {
        CrawlUrl::parse(&format!("http://www.site{number}.example/")).unwrap()
    }

    fn address(number: u8) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, number], 80))
    }

    /// A network that can be pulled, and how often it was tried.
    struct Net {
        uplink: Uplink,
        is_up: AtomicBool,
        /// Addresses from this one on have no route.
        routes_end: AtomicU8,
        tried: AtomicUsize,
    }

    impl Net {
        fn with_peers(count: u8) -> Self {
            let uplink = Uplink::new(Span::secs(3_600));
            (1..=count).for_each(|number| uplink.heard(&page(number), Some(address(number))));
            let (is_up, tried) = (AtomicBool::new(false), AtomicUsize::new(0));
            Self { uplink, is_up, routes_end: AtomicU8::new(u8::MAX), tried }
        }

        /// Whether it is, for a fetch of a site that took so long.
        async fn is_down(&self, site: u8, took: Duration) -> bool {
            let began = Instant::now();
            tokio::time::advance(took).await;
            let reaches = |_| {
                self.tried.fetch_add(1, Ordering::Relaxed);
                ready(self.is_up.load(Ordering::Relaxed))
            };
            let end = address(self.routes_end.load(Ordering::Relaxed));
            self.uplink.is_down(&page(site), began, |peer| peer < end, reaches).await
        }

        fn tried(&self) -> usize {
            self.tried.swap(0, Ordering::Relaxed)
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_answered_before_tells_whether_it_is_the_network() {
        let net = Net::with_peers(9);
        assert!(net.is_down(99, SECOND * 5).await);
        assert_eq!(net.tried(), PEERS, "no more are remembered");
        assert!(net.is_down(99, SECOND).await);
        assert_eq!(net.tried(), 0, "that was just tried");
        net.is_up.store(true, Ordering::Relaxed);
        assert!(!net.is_down(99, DOWN).await);
        assert_eq!(net.tried(), 1, "one is enough");
        net.is_up.store(false, Ordering::Relaxed);
        assert!(!net.is_down(99, SECOND).await);
        assert_eq!(net.tried(), 0, "it was just reached");
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_is_bothered_more_than_once_a_minute() {
        let net = Net::with_peers(4);
        net.is_up.store(true, Ordering::Relaxed);
        for _ in 0..23 {
            assert!(!net.is_down(99, SECOND * 5).await);
        }
        assert_eq!(net.tried(), 8, "four of them, twice in two minutes");
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_the_host_if_anybody_answered_lately() {
        let net = Net::with_peers(6);
        tokio::time::advance(SECOND * 60).await;
        net.uplink.heard(&page(2), Some(address(2)));
        assert!(!net.is_down(99, SECOND).await || net.tried() > 0);
        net.uplink.heard(&page(2), None);
        assert!(!net.is_down(99, Duration::ZERO).await);
        assert_eq!(net.tried(), 0);
        assert!(net.is_down(99, SECOND * 10).await, "it may have gone down since");
    }

    #[tokio::test(start_paused = true)]
    async fn few_witnesses_are_none() {
        for (peers, site, expected) in
            [(0, 9, false), (2, 9, false), (3, 3, false), (3, 9, true), (4, 3, true)]
        {
            let net = Net::with_peers(peers);
            assert_eq!(net.is_down(site, SECOND * 5).await, expected, "{peers} {site}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_machine_that_knows_no_way_to_anybody_needs_no_witnesses() {
        let net = Net::with_peers(2);
        net.routes_end.store(2, Ordering::Relaxed);
        assert!(!net.is_down(1, Duration::ZERO).await, "there is a way to one of them");
        net.routes_end.store(1, Ordering::Relaxed);
        assert!(!net.is_down(1, Duration::ZERO).await, "somebody answered just now");
        tokio::time::advance(SECOND).await;
        assert!(net.is_down(1, Duration::ZERO).await);
        net.routes_end.store(u8::MAX, Ordering::Relaxed);
        assert!(net.is_down(1, SECOND).await, "that was just tried");
        assert!(!net.is_down(1, DOWN).await);
        assert_eq!(net.tried(), 0);
        let nobody = Net::with_peers(0);
        nobody.routes_end.store(0, Ordering::Relaxed);
        assert!(!nobody.is_down(1, SECOND).await, "there may never have been a network");
    }

    #[tokio::test(start_paused = true)]
    async fn too_few_witnesses_do_not_end_an_outage_that_is_known() {
        let net = Net::with_peers(3);
        tokio::time::advance(SECOND).await;
        assert!(net.is_down(9, SECOND).await);
        tokio::time::advance(DOWN).await;
        assert!(!net.is_down(1, SECOND).await, "two others are too few to tell");
        assert!(net.uplink.lock().down.is_some(), "but what is known stays known");
    }

    #[test]
    fn this_machine_knows_a_way_to_itself() {
        assert!(is_routed(SocketAddr::from(([127, 0, 0, 1], 9))));
    }

    #[tokio::test(start_paused = true)]
    async fn a_site_of_many_addresses_and_an_address_of_many_sites_is_one_witness() {
        for (site, at) in [(|_| 1, |n| n), (|n| n, |_| 1)] as [(fn(u8) -> u8, fn(u8) -> u8); 2] {
            let net = Net::with_peers(2);
            for n in 1..20 {
                net.uplink.heard(&page(site(n)), Some(address(at(n))));
            }
            assert!(!net.is_down(99, SECOND * 5).await);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_outage_is_not_believed_for_ever() {
        let net = Net::with_peers(4);
        assert!(net.is_down(99, SECOND * 5).await);
        assert!(net.is_down(99, SECOND * 3_599).await);
        assert!(!net.is_down(99, SECOND).await);
        net.uplink.heard(&page(1), Some(address(1)));
        assert!(net.is_down(99, SECOND * 5).await, "the next one is believed again");
    }
}
