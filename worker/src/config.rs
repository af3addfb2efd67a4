//! The worker's settings.

use std::time::Duration;

use trawl_shared::units::Size;

/// What bounds a worker.
#[derive(Clone, Debug)]
pub struct WorkerConfig {
    /// The worker's name at the master, the same after a restart.
    pub name: String,
    /// The only crawl to work for; none for all.
    pub crawl: Option<u32>,
    /// Hosts fetched from at the same time.
    pub lanes: usize,
    /// Bytes of pages that wait for the master; lanes stop when it is full.
    pub outbox: Size,
    /// URLs in one report at most.
    pub report_urls: usize,
    /// Bytes in one report, give or take the last page.
    pub report_bytes: Size,
    /// Hosts whose robots.txt is remembered.
    pub robots_hosts: u64,
    /// URL ids remembered as known to the master, 16 bytes each.
    pub known_urls: usize,
    /// How long a lease call may wait at the master; a fifth of a lease at most.
    pub lease_wait: Duration,
    /// How long fetches may go on after the worker was asked to stop.
    pub grace: Duration,
}

impl WorkerConfig {
    /// The defaults, under a name.
    pub fn new(name: String) -> Self {
        Self {
            name,
            crawl: None,
            lanes: 32,
            outbox: Size::mib(64),
            report_urls: 256,
            report_bytes: Size::mib(4),
            robots_hosts: 10_000,
            known_urls: 1 << 18,
            lease_wait: Duration::from_secs(20),
            grace: Duration::from_secs(5),
        }
    }
}
