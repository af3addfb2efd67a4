//! The words that the tests of the whole crawler are written in.
//!
//! A test runs the real program: [`Trawl`] is one data directory and the commands
//! on it. What it crawls is a [`Site`], a small web of the test's own on loopback
//! that counts visits and misbehaves on request, or one of the real sites
//! ([`real`]); several hosts together are [`Sites`]. A [`Cluster`] is a master that a
//! test starts, stops and kills, with its workers and whoever asks it. What came of it
//! is read back as [`Page`]s, or by the tools of others ([`tools`]).
//!
//! The program and the tools come from the environment that `tests/run` sets up;
//! without it every test fails and says so. Everything that a test starts ends
//! with it.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on panics")]

mod audit;
mod cluster;
pub mod containers;
mod disk;
pub mod env;
pub mod network;
mod pages;
pub mod real;
mod site;
mod sites;
pub mod tools;
mod trawl;

pub use audit::{Audit, audit};
pub use cluster::{Cluster, Master, until};
pub use disk::{Disk, SmallDisk};
pub use pages::{Outlink, Page, Pages};
pub use site::{Answer, Site, Visit, Web};
pub use sites::Sites;
pub use trawl::{Command, Ended, Running, Trawl};

pub use std::time::Duration;

/// A duration in milliseconds.
pub const fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

/// A duration in seconds.
pub const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}
