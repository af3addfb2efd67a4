//! A frontier as a text that outlives it: every row of the store in words, a JSON
//! object a line, with sums by which a damaged or a cut file is recognised.
//!
//! ```text
//! {"sum":"…","dump":1,"format":1,"trawl":"0.1.0","canon":1,"instance":"…"}
//! {"sum":"…","table":"queue","crawl":1,"host":2,"slot":{…},"path":"/a",…}
//! …
//! {"sum":"…","end":{"lines":9,"rows":{"crawls":1,…},"sha1":"…"}}
//! ```
//!
//! `sum` is the CRC-32 of all that was written before and of the line itself, both
//! without the sums, so that a line that is damaged, missing, moved or there twice is
//! found where it is; the last line tells how many there are and the SHA-1 of all. Lines are
//! to be applied in their order: of a running master, a row may come again as it is
//! later, or as `gone`.
//!
//! Page records are not in it: they lie in the segments, and the rows say where.

mod load;
mod words;
mod write;

pub use self::{
    load::{LoadError, Loaded, load},
    write::{DumpError, Dumper},
};

use std::collections::BTreeMap;

use flate2::Crc;
use serde::{Deserialize, Serialize};
use sha1::{Digest, Sha1};

/// The format of dumps that this build writes, and the newest that it reads.
pub const DUMP_FORMAT: u32 = 1;

/// Bytes of a line at most: the largest row is a part of a specification.
const LINE_BYTES_MAX: usize = 1024 * 1024;

/// The first line. Fields are only ever added, so that any version can tell which one
/// is needed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// The dump's format.
    pub dump: u32,
    /// The data directory's.
    pub format: u32,
    /// The version of trawl that the rows are of.
    pub trawl: String,
    /// The rules by which URLs were made canonical.
    pub canon: u32,
    /// Names the data directory.
    pub instance: String,
}

/// What a dump holds, as its last line tells it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Lines between the first and the last.
    pub lines: u64,
    /// Those lines by their table.
    pub rows: BTreeMap<String, u64>,
}

#[derive(Serialize, Deserialize)]
struct End {
    #[serde(flatten)]
    counts: Counts,
    sha1: String,
}

#[derive(Serialize, Deserialize)]
struct EndLine {
    end: End,
}

/// The sums over all lines so far.
struct Sums {
    crc: Crc,
    sha1: Sha1,
}

impl Sums {
    fn new() -> Self {
        Self { crc: Crc::new(), sha1: Sha1::new() }
    }

    /// Adds a line, which is a JSON object, and returns its sum.
    fn add(&mut self, json: &str) -> String {
        self.crc.update(json.as_bytes());
        self.sha1.update(json.as_bytes());
        format!("{:08x}", self.crc.sum())
    }

    /// The SHA-1 of all lines so far, in hex.
    fn sha1(&self) -> String {
        trawl_shared::warc::sha1_hex(&self.sha1.clone().finalize().into())
    }
}

#[cfg(test)]
mod tests;
