//! trawl's worker: leases host batches, fetches and parses them, and reports
//! pages and outlinks back. It keeps nothing that matters.

pub mod fetch;

pub mod parse;
