//! What a proof has come to.

use std::collections::BTreeMap;

use serde::Serialize;

/// Kinds of differences. Their words are stable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A row cannot be read, or belongs to nothing.
    Row,
    /// A crawl's count is not that of what it counts.
    CrawlCount,
    /// A host's count is not that of what it counts.
    HostCount,
    /// A host's number is given twice, or not at all.
    HostNumber,
    /// A queued URL that the visited set does not know as waiting there, or the reverse.
    Queue,
    /// A place in a queue that is lent twice.
    Lease,
    /// The list of the quarantine is not that of the URLs in it.
    Quarantine,
    /// A page that the frontier knows is not where it should be.
    PageMissing,
    /// What is there is another page, or not whole.
    PageDamaged,
    /// A page lies in the segments that the frontier does not know.
    PageUnknown,
    /// Bytes in the segments that are nothing.
    Damage,
    /// A segment is not there, or shorter than it was.
    Segment,
}

/// What was proved of a crawl.
#[derive(Clone, Debug, Default, Serialize)]
pub struct CrawlProof {
    /// Its number.
    #[serde(skip)]
    pub number: u32,
    /// Its name.
    pub name: String,
    /// URLs in the visited set.
    pub discovered: u64,
    /// URLs that have ended, those in quarantine and those given up left out.
    pub done: u64,
    /// URLs that wait.
    pub queued: u64,
    /// URLs that are lent.
    pub leased: u64,
    /// URLs in quarantine.
    pub quarantined: u64,
    /// URLs that an operator gave up.
    pub dropped: u64,
    /// URLs that were answered, by the visited set.
    pub fetched: u64,
    /// Pages whole in the segments, at the place that the visited set says.
    pub stored: u64,
    /// Answers in the crawl's counts.
    pub counted: u64,
    /// Bytes of the pages' records.
    pub bytes: u64,
    /// Segments that count.
    pub segments: u32,
    /// Bytes behind what counts, which the next start cuts off.
    pub uncommitted_bytes: u64,
}

/// What was proved, and what is different.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// The crawls.
    pub crawls: Vec<CrawlProof>,
    /// How many differences there are of each kind.
    pub counts: BTreeMap<Kind, u64>,
    /// The first of them, in words.
    pub differences: Vec<String>,
    #[serde(skip)]
    named_max: usize,
}

impl Report {
    pub(super) fn new(named_max: usize) -> Self {
        Self { named_max, ..Self::default() }
    }

    /// Counts a difference, and names it if there is room.
    pub(super) fn differs(&mut self, kind: Kind, what: impl FnOnce() -> String) {
        *self.counts.entry(kind).or_default() += 1;
        if self.differences.len() < self.named_max {
            // Names are from the web; what is damaged may be anything.
            self.differences.push(what().replace(char::is_control, " "));
        }
    }

    /// How many differences there are.
    pub fn count(&self) -> u64 {
        self.counts.values().sum()
    }
}
