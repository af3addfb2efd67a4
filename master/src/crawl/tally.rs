//! What the owner has written since its start, counted for people: in `trawl status`, and once a
//! minute in the log. What belongs to a crawl is counted in its row, and outlives the master.

use std::time::Duration;

use tokio::time::Instant;

use crate::frontier::{CrawlStatus, Written};

/// The shortest time between two lines of the log.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

/// Counts since the master's start.
#[derive(Clone, Copy, Debug)]
pub struct Tally {
    /// When that was.
    started: Instant,
    /// Turns of the owner.
    pub turns: u64,
    /// The longest one.
    pub turn_longest: Duration,
    /// Atomic batches written to the store, their rows and bytes.
    pub written: Written,
    /// Times that the store was made durable.
    pub syncs: u64,
    /// The longest that took.
    pub sync_longest: Duration,
    /// When the last line was logged, and how much had been written.
    logged: (Instant, Written),
}

impl Tally {
    pub(super) fn start() -> Self {
        let started = Instant::now();
        Self {
            started,
            turns: 0,
            turn_longest: Duration::ZERO,
            written: Written::default(),
            syncs: 0,
            sync_longest: Duration::ZERO,
            logged: (started, Written::default()),
        }
    }

    /// How long the master has been running.
    pub fn running(&self) -> Duration {
        self.started.elapsed()
    }

    pub(super) fn note_sync(&mut self, began: Instant) {
        self.syncs += 1;
        self.sync_longest = self.sync_longest.max(began.elapsed());
    }

    pub(super) fn note_turn(&mut self, began: Instant, written: Written) {
        self.turns += 1;
        self.turn_longest = self.turn_longest.max(began.elapsed());
        self.written = written;
    }

    /// Whether a line is due: something was written, and the last line is a while ago.
    pub(super) fn is_due(&self) -> bool {
        self.logged.0.elapsed() >= LOG_INTERVAL && self.logged.1 != self.written
    }

    /// Logs how things stand.
    pub(super) fn log(&mut self, crawls: &[CrawlStatus]) {
        let sum = |count: fn(&CrawlStatus) -> u64| crawls.iter().map(count).sum::<u64>();
        tracing::info!(
            turns = self.turns,
            turn_longest = ?self.turn_longest,
            commits = self.written.batches,
            rows = self.written.rows,
            bytes = self.written.bytes,
            syncs = self.syncs,
            sync_longest = ?self.sync_longest,
            leases_expired = sum(|crawl| crawl.leases_expired),
            leases_recovered = sum(|crawl| crawl.leases_recovered),
            leases_kept = sum(|crawl| crawl.leases_kept),
            reports_stale = sum(|crawl| crawl.reports_stale),
            reports_already = sum(|crawl| crawl.reports_already),
            "commits since the master's start; leases and reports since the crawls' start"
        );
        self.logged = (Instant::now(), self.written);
    }
}
