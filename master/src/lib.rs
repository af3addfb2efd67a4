//! trawl's master: owns the frontier, the visited set and the page store.
//!
//! In reading order: `listen` and `socket` let callers in, `api` takes messages in, `crawl` is the
//! one owner of state behind them and `workers` knows those who work for it,
//! `frontier` decides, `store` and `pages` keep, `export` hands out.

pub mod server;

pub mod listen;

pub mod socket;

pub mod api;

pub mod crawl;

pub mod workers;

pub mod frontier;

pub mod store;

pub mod data_dir;

pub mod pages;

pub mod export;

pub mod archive;

mod sorted;

pub mod verify;

pub mod repair;

pub mod dump;

pub mod sabotage;
