//! What the rows say. Each is a protobuf message, so that a later format can add
//! fields and still read the rows of this one.

use prost::Message;
use trawl_shared::outcome::Class;

use super::{StoreError, keys::Slot};

/// The master itself.
#[derive(Clone, PartialEq, Message)]
pub struct MetaRow {
    /// Names this data directory to workers.
    #[prost(string, tag = "1")]
    pub instance: String,
    /// Starts of the master so far; the upper part of every token.
    #[prost(uint32, tag = "2")]
    pub epoch: u32,
    /// The master's clock at the last commit, in milliseconds it has run.
    #[prost(uint64, tag = "3")]
    pub clock: u64,
    /// The number of the next new host.
    #[prost(uint32, tag = "4")]
    pub next_host: u32,
    /// The number of the next new crawl.
    #[prost(uint32, tag = "5")]
    pub next_crawl: u32,
    /// The canonicalisation rules that the URL ids were made by.
    #[prost(uint32, tag = "6")]
    pub canon_version: u32,
}

/// A crawl and its exact counts.
#[derive(Clone, PartialEq, Message)]
pub struct CrawlRow {
    /// The crawl's name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Rises with every change of the specification.
    #[prost(uint32, tag = "2")]
    pub spec_version: u32,
    /// Parts that the specification is stored in.
    #[prost(uint32, tag = "3")]
    pub spec_parts: u32,
    /// Why it has finished; [`Finish::Running`] if it has not.
    #[prost(enumeration = "Finish", tag = "4")]
    pub finish: i32,
    /// URLs ever admitted.
    #[prost(uint64, tag = "5")]
    pub discovered: u64,
    /// URLs waiting.
    #[prost(uint64, tag = "6")]
    pub queued: u64,
    /// URLs lent to workers.
    #[prost(uint64, tag = "7")]
    pub leased: u64,
    /// URLs ended, by the number of their class.
    #[prost(uint64, repeated, tag = "8")]
    pub outcomes: Vec<u64>,
    /// Failed tries after which another was due.
    #[prost(uint64, tag = "9")]
    pub retries: u64,
    /// Bytes of bodies after content decoding.
    #[prost(uint64, tag = "10")]
    pub body_bytes: u64,
    /// Bytes of bodies as received.
    #[prost(uint64, tag = "11")]
    pub wire_bytes: u64,
    /// Hosts seen.
    #[prost(uint64, tag = "12")]
    pub hosts: u64,
    /// The order number of the next admission.
    #[prost(uint64, tag = "13")]
    pub next_seq: u64,
    /// URLs waiting or lent, by depth; kept only while the crawl has a depth limit.
    #[prost(uint64, repeated, tag = "14")]
    pub open_by_depth: Vec<u64>,
    /// Milliseconds it has been running.
    #[prost(uint64, tag = "15")]
    pub ran_ms: u64,
    /// The page store's segment that is written to.
    #[prost(uint32, tag = "16")]
    pub segment: u32,
    /// Bytes of that segment that count.
    #[prost(uint64, tag = "17")]
    pub segment_bytes: u64,
    /// Reports that had counted before.
    #[prost(uint64, tag = "18")]
    pub reports_already: u64,
    /// Reports of URLs that were no longer the worker's.
    #[prost(uint64, tag = "19")]
    pub reports_stale: u64,
    /// Leases that ran out.
    #[prost(uint64, tag = "20")]
    pub leases_expired: u64,
    /// What people want of it.
    #[prost(enumeration = "Wish", tag = "21")]
    pub wish: i32,
    /// Bytes of its pages' records.
    #[prost(uint64, tag = "22")]
    pub stored_bytes: u64,
    /// Leases of URLs that an earlier lease was lost with.
    #[prost(uint64, tag = "23")]
    pub leases_recovered: u64,
    /// Leases that a start of the master found, and kept.
    #[prost(uint64, tag = "24")]
    pub leases_kept: u64,
    /// Links that were taken for traps while the quarantine was full, and forgotten.
    #[prost(uint64, tag = "40")]
    pub traps_forgotten: u64,
}

/// What people want of a crawl.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, prost::Enumeration)]
#[repr(i32)]
pub enum Wish {
    /// That it goes on.
    Run = 0,
    /// That it lends nothing until told to go on.
    Pause = 1,
    /// That it ends as soon as nothing is lent; what is queued stays.
    Stop = 2,
}

/// How a crawl ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, prost::Enumeration)]
#[repr(i32)]
pub enum Finish {
    /// It has not.
    Running = 0,
    /// Nothing is queued, delayed or leased.
    Complete = 1,
    /// It has fetched as many pages as it may.
    PageBudget = 2,
    /// Somebody stopped it.
    Stopped = 3,
}

/// A host in a crawl.
#[derive(Clone, PartialEq, Message)]
pub struct HostRow {
    /// Scheme, host and port.
    #[prost(string, tag = "1")]
    pub key: String,
    /// The delay that the host itself asked for, in milliseconds.
    #[prost(uint64, tag = "3")]
    pub delay_ms: u64,
    /// URLs waiting.
    #[prost(uint64, tag = "4")]
    pub queued: u64,
    /// Pages fetched.
    #[prost(uint64, tag = "5")]
    pub pages: u64,
    /// Whether it counts among the hosts of its domain.
    #[prost(bool, tag = "6")]
    pub is_counted: bool,
    /// Whether its first text was compared with those of its domain's other hosts.
    #[prost(bool, tag = "7")]
    pub is_compared: bool,
}

/// The hosts of one registrable domain in a crawl.
#[derive(Clone, PartialEq, Message)]
pub struct DomainRow {
    /// Hosts that URLs were taken in of, be there such hosts or not.
    #[prost(uint64, tag = "1")]
    pub hosts: u64,
    /// Hosts whose first text brought nothing new, less those whose did.
    #[prost(uint64, tag = "2")]
    pub alike: u64,
    /// Hosts that a page was fetched of.
    #[prost(uint64, tag = "3")]
    pub visited: u64,
}

/// A host as all crawls share it. Moments are milliseconds of the master's clock.
#[derive(Clone, PartialEq, Message)]
pub struct GateRow {
    /// When it was last let go of, if it ever was.
    #[prost(uint64, tag = "1")]
    pub freed_at: u64,
    /// How long its last answer took, in milliseconds.
    #[prost(uint64, tag = "2")]
    pub answer_ms: u64,
    /// Failures of the whole host in a row.
    #[prost(uint32, tag = "3")]
    pub failures: u32,
    /// Until when it is left alone.
    #[prost(uint64, tag = "4")]
    pub rests_until: u64,
    /// Why; the last failure in a row.
    #[prost(string, tag = "5")]
    pub trouble: String,
    /// The number of that failure's class.
    #[prost(uint32, tag = "6")]
    pub trouble_class: u32,
    /// Where it is, as last seen, in 4 or 16 bytes.
    #[prost(bytes = "vec", tag = "7")]
    pub address: Vec<u8>,
    /// Somebody wants it left alone.
    #[prost(bool, tag = "8")]
    pub blocked: bool,
    /// Why.
    #[prost(string, tag = "9")]
    pub blocked_reason: String,
    /// The delay that somebody has set, in milliseconds.
    #[prost(uint64, optional, tag = "10")]
    pub set_delay_ms: Option<u64>,
    /// The fetches at the same time that somebody has set.
    #[prost(uint32, optional, tag = "11")]
    pub set_connections: Option<u32>,
    /// The pages of it that each crawl may fetch, as somebody has set.
    #[prost(uint64, optional, tag = "12")]
    pub set_pages: Option<u64>,
    /// It was never visited: the row is there for what people have set.
    #[prost(bool, tag = "13")]
    pub unvisited: bool,
    /// The delay that its robots.txt asks for, in milliseconds.
    #[prost(uint64, tag = "14")]
    pub robots_delay_ms: u64,
}

impl GateRow {
    /// Whether people have set something of the host.
    pub fn is_set(&self) -> bool {
        self.blocked
            || self.set_delay_ms.is_some()
            || self.set_connections.is_some()
            || self.set_pages.is_some()
    }
}

/// A host's robots.txt. Times are Unix milliseconds by the master's wall clock: its
/// age is for people and their hosts, and goes on while the master is down.
#[derive(Clone, PartialEq, Message)]
pub struct RobotsRow {
    /// When it was fetched; 0 for never.
    #[prost(uint64, tag = "1")]
    pub fetched_at: u64,
    /// Parts that it is stored in, zlib-compressed; 0 if the host has none.
    #[prost(uint32, tag = "2")]
    pub parts: u32,
    /// Since when it could not be had; 0 if the last fetch brought it.
    #[prost(uint64, tag = "3")]
    pub unavailable_since: u64,
    /// Why it could not be had.
    #[prost(string, tag = "4")]
    pub unavailable: String,
    /// When it was last found that it could not be had.
    #[prost(uint64, tag = "5")]
    pub unavailable_at: u64,
    /// How long its host was left alone after that, in milliseconds.
    #[prost(uint64, tag = "6")]
    pub rest_ms: u64,
}

/// A try that brought no final answer.
#[derive(Clone, PartialEq, Message)]
pub struct TryRow {
    /// The number of the failure's class.
    #[prost(uint32, tag = "1")]
    pub class: u32,
    /// When it was reported, in Unix milliseconds by the master's wall clock.
    #[prost(uint64, tag = "2")]
    pub at: u64,
    /// How long it took, in milliseconds; 0 if that is not known.
    #[prost(uint64, tag = "3")]
    pub took_ms: u64,
    /// What was said of it.
    #[prost(string, tag = "4")]
    pub detail: String,
}

/// A URL that waits, or is lent: it stays in its place until it has ended.
#[derive(Clone, PartialEq, Message)]
pub struct QueueRow {
    /// The URL without its host key.
    #[prost(string, tag = "1")]
    pub path: String,
    /// Redirects followed to come here.
    #[prost(uint32, tag = "2")]
    pub hops: u32,
    /// The id of the page it was found on; empty for a seed.
    #[prost(bytes = "vec", tag = "3")]
    pub via: Vec<u8>,
    /// Tries that were reported as failed.
    #[prost(uint32, tag = "4")]
    pub failures: u32,
    /// Leases that ran out with this URL in them.
    #[prost(uint32, tag = "5")]
    pub losses: u32,
    /// The token it was last lent under; 0 for never, or not since this row.
    #[prost(uint64, tag = "6")]
    pub last_token: u64,
    /// Whether a report under that token has counted.
    #[prost(bool, tag = "7")]
    pub last_applied: bool,
    /// The number of the host of the page it was found on; 0 for a seed.
    #[prost(uint32, tag = "8")]
    pub via_host: u32,
    /// What the last failure said; empty if there was none.
    #[prost(string, tag = "9")]
    pub last_error: String,
    /// The newest of the tries that failed, the oldest first.
    #[prost(message, repeated, tag = "20")]
    pub tries: Vec<TryRow>,
    /// Links from the last page where the crawl's seeds are.
    #[prost(uint32, tag = "16")]
    pub off_site: u32,
    /// Somebody gave it, or let it out of quarantine: it is no trap, whatever it looks
    /// like.
    #[prost(bool, tag = "17")]
    pub exempt: bool,
}

/// What the visited set knows of a URL.
#[derive(Clone, PartialEq, Message)]
pub struct UrlRow {
    /// One of the three states.
    #[prost(oneof = "UrlState", tags = "1, 2, 3")]
    pub state: Option<UrlState>,
}

/// A URL's state.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum UrlState {
    /// Waiting or lent; the bytes are its [`Slot`].
    #[prost(bytes, tag = "1")]
    Pending(Vec<u8>),
    /// Ended with an answer, whatever its status.
    #[prost(message, tag = "2")]
    Fetched(FetchedRow),
    /// Ended without one.
    #[prost(message, tag = "3")]
    Ended(EndedRow),
}

/// An answer, and where its records are: the page index.
#[derive(Clone, PartialEq, Message)]
pub struct FetchedRow {
    /// The token of the report that counted.
    #[prost(uint64, tag = "1")]
    pub token: u64,
    /// The HTTP status.
    #[prost(uint32, tag = "2")]
    pub status: u32,
    /// Where the records are: a `pages::Place`.
    #[prost(bytes = "vec", tag = "3")]
    pub place: Vec<u8>,
    /// SHA-1 of the body after content decoding.
    #[prost(bytes = "vec", tag = "4")]
    pub sha1: Vec<u8>,
    /// When the fetch began, in Unix milliseconds by the worker's clock.
    #[prost(uint64, tag = "5")]
    pub fetched_at: u64,
    /// The number of the host of the page it was found on; 0 for a seed. The page's
    /// metadata record has the rest.
    #[prost(uint32, tag = "6")]
    pub via_host: u32,
    /// The newest of the tries that failed before, the oldest first.
    #[prost(message, repeated, tag = "20")]
    pub tries: Vec<TryRow>,
    /// An earlier page of the crawl with the same body: its host's number and its id;
    /// empty for none.
    #[prost(bytes = "vec", tag = "21")]
    pub same_as: Vec<u8>,
}

/// An end without an answer, with what people want to know of it.
#[derive(Clone, PartialEq, Message)]
pub struct EndedRow {
    /// The token of the report that counted; 0 if none did.
    #[prost(uint64, tag = "1")]
    pub token: u64,
    /// The number of the class.
    #[prost(uint32, tag = "2")]
    pub class: u32,
    /// What happened.
    #[prost(string, tag = "3")]
    pub detail: String,
    /// The URL without its host key.
    #[prost(string, tag = "4")]
    pub path: String,
    /// The id of the page it was found on; empty for a seed.
    #[prost(bytes = "vec", tag = "5")]
    pub via: Vec<u8>,
    /// Links from a seed.
    #[prost(uint32, tag = "6")]
    pub depth: u32,
    /// Tries, those lost with their worker included.
    #[prost(uint32, tag = "7")]
    pub attempts: u32,
    /// The number of the host of the page it was found on; 0 for a seed.
    #[prost(uint32, tag = "8")]
    pub via_host: u32,
    /// Redirects followed to come here.
    #[prost(uint32, tag = "9")]
    pub hops: u32,
    /// Of a URL in quarantine, the worker that was lost with it last.
    #[prost(string, tag = "10")]
    pub worker: String,
    /// The kind of trap that it was taken for; empty if it was not.
    #[prost(string, tag = "16")]
    pub trap: String,
    /// Links from the last page where the crawl's seeds are.
    #[prost(uint32, tag = "17")]
    pub off_site: u32,
    /// The newest of the tries that failed, the oldest first.
    #[prost(message, repeated, tag = "20")]
    pub tries: Vec<TryRow>,
}

impl EndedRow {
    /// The end of a URL that stood in this place of its queue, under no token.
    pub fn of(row: QueueRow, slot: Slot, class: Class, detail: String) -> Self {
        Self {
            class: class.number().into(),
            detail,
            path: row.path,
            via: row.via,
            via_host: row.via_host,
            depth: slot.depth.into(),
            hops: row.hops,
            attempts: row.failures + row.losses,
            tries: row.tries,
            off_site: row.off_site,
            ..Self::default()
        }
    }
}

/// What was fetched of a host by one template, or under one rule of the crawl.
#[derive(Clone, PartialEq, Message)]
pub struct PatternRow {
    /// Pages that count, less those that brought something new where they make up for it.
    #[prost(uint64, tag = "1")]
    pub pages: u64,
    /// The last pages, one after the other, that were nearly the same as others.
    #[prost(uint32, tag = "2")]
    pub alike: u32,
    /// Of a template of all combinations of a path's parameters: the keys of the templates of
    /// the sets that were met, until they are too many.
    #[prost(fixed64, repeated, tag = "3")]
    pub sets: Vec<u64>,
}

/// A lease: what was lent to whom. Written once when it is granted and removed
/// once when all of it has ended; what has ended in between has left the queue.
#[derive(Clone, PartialEq, Message)]
pub struct LeaseRow {
    /// The crawl's number.
    #[prost(uint32, tag = "1")]
    pub crawl: u32,
    /// The host's number.
    #[prost(uint32, tag = "2")]
    pub host: u32,
    /// The worker's name.
    #[prost(string, tag = "3")]
    pub worker: String,
    /// The [`Slot`]s, one after the other.
    #[prost(bytes = "vec", tag = "4")]
    pub slots: Vec<u8>,
    /// By how many milliseconds the wait after some of them is longer than the host's.
    #[prost(uint64, tag = "5")]
    pub longer_wait_ms: u64,
}

/// Reads a row.
///
/// # Errors
/// If the bytes are not one.
pub fn decode<R: Message + Default>(bytes: &[u8]) -> Result<R, StoreError> {
    R::decode(bytes).map_err(|error| StoreError::Damaged(format!("a row cannot be read: {error}")))
}
