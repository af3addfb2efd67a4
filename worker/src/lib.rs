//! trawl's worker: leases host batches, fetches and parses them, and reports
//! pages and outlinks back. It keeps nothing that matters.
//!
//! In reading order: `pipeline` runs the loops, a `lane` fetches one host's URLs
//! through `fetch` as far as `robots` and its `neighbours` let it, `parse` reads them, `record` writes them
//! down, `account`, `news` and `report` tell the master.

pub mod pipeline;

pub mod config;

pub mod master;

mod holdings;

mod crawls;

mod lane;

mod neighbours;

mod robots;

pub mod fetch;

pub mod parse;

pub mod record;

mod account;

mod news;

mod report;

pub use crawls::MakeFetcher;
