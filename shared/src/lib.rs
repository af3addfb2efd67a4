//! What both sides of trawl must mean the same by.
//!
//! Knows no network, no database and no HTML. In reading order: the units that settings
//! are written in, the URL and its canonical form, patterns of hosts and their addresses,
//! what nobody may read, which URLs a crawl admits and which are traps, what requests
//! carry besides, what a robots.txt allows, the crawl's specification, what can become of
//! a URL and when it is tried again, how a host is treated, the lease, the page's
//! records; then time, shutdown, logs, who may talk to whom, and text from the web made
//! safe to print.

pub mod units;

pub mod url;

pub mod canon;

pub mod host_pattern;

pub mod address;

pub mod secret;

pub mod known;

pub mod scope;

pub mod rules;

pub mod trap;

pub mod request_rules;

pub mod robots;

pub mod spec;

pub mod outcome;

pub mod backoff;

pub mod politeness;

pub mod lease;

pub mod warc;

pub mod page;

pub mod clock;

pub mod shutdown;

pub mod telemetry;

pub mod security;

pub mod untrusted;

pub mod sabotage;

/// This build's version, as it appears in logs, WARC files and the user agent.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
