//! Rows in words, and back: every field by its name, so that a person can read a dump,
//! and a later version can. What words do not fit, because it is damaged or of a table
//! that this build does not know, is kept as bytes.

use std::collections::BTreeMap;

use data_encoding::HEXLOWER;
use prost::Message;
use serde::{Deserialize, Serialize};
use trawl_shared::{lease::Token, outcome::Class, url::UrlId};

use crate::{
    pages::Place,
    store::{
        Batch,
        keys::{self, HostRef, Slot},
        rows::{
            CrawlRow, DomainRow, EndedRow, FetchedRow, Finish, GateRow, HostRow, LeaseRow, MetaRow,
            PatternRow, QueueRow, RobotsRow, TryRow, UrlRow, UrlState, Wish,
        },
    },
};

/// Bytes, in hex.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(super) struct Hex(pub(super) Vec<u8>);

impl TryFrom<String> for Hex {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        HEXLOWER.decode(text.as_bytes()).map(Self).map_err(|_| format!("{text:?} is not hex"))
    }
}

impl From<Hex> for String {
    fn from(hex: Hex) -> Self {
        HEXLOWER.encode(&hex.0)
    }
}

/// A row in words.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "table", rename_all = "snake_case")]
pub(super) enum Words {
    Master {
        instance: String,
        epoch: u32,
        clock_ms: u64,
        next_host: u32,
        next_crawl: u32,
        canon: u32,
    },
    Crawl(Box<CrawlWords>),
    Specification {
        crawl: u32,
        part: u16,
        text: String,
    },
    HostNumber {
        key: String,
        host: u32,
    },
    Gate(GateWords),
    Robots {
        host: u32,
        fetched_at_ms: u64,
        parts: u32,
        unavailable_since_ms: u64,
        unavailable: String,
        #[serde(default)]
        unavailable_at_ms: u64,
        #[serde(default)]
        rest_ms: u64,
    },
    RobotsPart {
        host: u32,
        part: u16,
        zlib: Hex,
    },
    Digest {
        crawl: u32,
        sha1: Hex,
        page: PageWords,
    },
    Host {
        crawl: u32,
        host: u32,
        key: String,
        delay_ms: u64,
        queued: u64,
        pages: u64,
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        is_counted: bool,
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        is_compared: bool,
    },
    Domain {
        crawl: u32,
        domain: Hex,
        hosts: u64,
        alike: u64,
        visited: u64,
    },
    Queue {
        crawl: u32,
        host: u32,
        slot: SlotWords,
        path: String,
        hops: u32,
        via: Hex,
        via_host: u32,
        failures: u32,
        losses: u32,
        last_token: u64,
        last_applied: bool,
        #[serde(default, skip_serializing_if = "String::is_empty")]
        last_error: String,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        tries: Vec<TryWords>,
        #[serde(default, skip_serializing_if = "is_zero")]
        off_site: u32,
        #[serde(default, skip_serializing_if = "std::ops::Not::not", alias = "released")]
        exempt: bool,
    },
    Pattern {
        crawl: u32,
        host: u32,
        pattern: Hex,
        pages: u64,
        alike: u32,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        sets: Vec<u64>,
    },
    Lease {
        token: u64,
        crawl: u32,
        host: u32,
        worker: String,
        slots: Vec<SlotWords>,
        #[serde(default)]
        longer_wait_ms: u64,
    },
    Url {
        crawl: u32,
        host: u32,
        id: Hex,
        #[serde(flatten)]
        state: StateWords,
    },
    Quarantine {
        crawl: u32,
        host: u32,
        id: Hex,
    },
    /// A row that words do not fit.
    Raw {
        key: Hex,
        value: Hex,
    },
    /// A key that has no row any more.
    Gone {
        key: Hex,
    },
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct CrawlWords {
    crawl: u32,
    name: String,
    finish: String,
    wish: String,
    spec_version: u32,
    spec_parts: u32,
    discovered: u64,
    queued: u64,
    leased: u64,
    outcomes: BTreeMap<String, u64>,
    retries: u64,
    hosts: u64,
    next_seq: u64,
    open_by_depth: Vec<u64>,
    ran_ms: u64,
    body_bytes: u64,
    wire_bytes: u64,
    stored_bytes: u64,
    segment: u32,
    segment_bytes: u64,
    reports_already: u64,
    reports_stale: u64,
    leases_expired: u64,
    leases_recovered: u64,
    leases_kept: u64,
    #[serde(default)]
    traps_forgotten: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct GateWords {
    host: u32,
    freed_at_ms: u64,
    #[serde(default)]
    answer_ms: u64,
    #[serde(default)]
    failures: u32,
    #[serde(default)]
    rests_until_ms: u64,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    trouble: String,
    #[serde(default)]
    trouble_class: u32,
    #[serde(default)]
    address: Hex,
    #[serde(default)]
    blocked: bool,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    blocked_reason: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    set_delay_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    set_connections: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    set_pages: Option<u64>,
    #[serde(default)]
    unvisited: bool,
    #[serde(default)]
    robots_delay_ms: u64,
}

/// A page that another row names.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct PageWords {
    host: u32,
    id: Hex,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct TryWords {
    class: u32,
    at_ms: u64,
    took_ms: u64,
    detail: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct SlotWords {
    due_ms: u64,
    depth: u16,
    seq: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct PlaceWords {
    segment: u32,
    offset: u64,
    response: u32,
    request: u32,
    metadata: u32,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub(super) enum StateWords {
    Pending {
        slot: SlotWords,
    },
    Fetched {
        status: u32,
        sha1: Hex,
        fetched_at_ms: u64,
        place: PlaceWords,
        token: u64,
        via_host: u32,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        tries: Vec<TryWords>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        same_as: Option<PageWords>,
    },
    Ended {
        class: String,
        detail: String,
        path: String,
        via: Hex,
        via_host: u32,
        depth: u32,
        hops: u32,
        attempts: u32,
        token: u64,
        #[serde(default, skip_serializing_if = "String::is_empty")]
        worker: String,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        tries: Vec<TryWords>,
        #[serde(default, skip_serializing_if = "String::is_empty")]
        trap: String,
        #[serde(default, skip_serializing_if = "is_zero")]
        off_site: u32,
    },
}

impl Words {
    /// A change of the store in words, from which the same change comes back.
    pub(super) fn of(key: &[u8], value: Option<&[u8]>) -> Self {
        let Some(value) = value else { return Self::Gone { key: Hex(key.into()) } };
        let said = say(key, value).filter(|words| {
            words.change().is_some_and(|(k, v)| k == key && v.as_deref() == Some(value))
        });
        said.unwrap_or_else(|| Self::Raw { key: Hex(key.into()), value: Hex(value.into()) })
    }

    /// The change that it tells of; none if something in it cannot be.
    pub(super) fn change(&self) -> Option<(Vec<u8>, Option<Vec<u8>>)> {
        let row = |key: Vec<u8>, row: &dyn Encode| Some((key, Some(row.bytes())));
        match self {
            Self::Master { instance, epoch, clock_ms, next_host, next_crawl, canon } => row(
                keys::META.to_vec(),
                &MetaRow {
                    instance: instance.clone(),
                    epoch: *epoch,
                    clock: *clock_ms,
                    next_host: *next_host,
                    next_crawl: *next_crawl,
                    canon_version: *canon,
                },
            ),
            Self::Crawl(words) => row(keys::crawl(words.crawl), &words.row()?),
            Self::Specification { crawl, part, text } => {
                Some((keys::spec_part(*crawl, *part), Some(text.clone().into_bytes())))
            }
            Self::HostNumber { key, host } => {
                Some((keys::host_number(key), Some(host.to_be_bytes().to_vec())))
            }
            Self::Gate(words) => row(keys::gate(words.host), &words.row()),
            Self::Robots {
                host,
                fetched_at_ms,
                parts,
                unavailable_since_ms,
                unavailable,
                unavailable_at_ms,
                rest_ms,
            } => row(
                keys::robots(*host),
                &RobotsRow {
                    fetched_at: *fetched_at_ms,
                    parts: *parts,
                    unavailable_since: *unavailable_since_ms,
                    unavailable: unavailable.clone(),
                    unavailable_at: *unavailable_at_ms,
                    rest_ms: *rest_ms,
                },
            ),
            Self::RobotsPart { host, part, zlib } => {
                Some((keys::robots_part(*host, *part), Some(zlib.0.clone())))
            }
            Self::Digest { crawl, sha1, page } => {
                let key = keys::digest(*crawl, sha1.0.as_slice().try_into().ok()?);
                Some((key, Some(page.bytes()?)))
            }
            Self::Host { crawl, host, key, delay_ms, queued, pages, is_counted, is_compared } => {
                row(
                    keys::host(HostRef { crawl: *crawl, host: *host }),
                    &HostRow {
                        key: key.clone(),
                        delay_ms: *delay_ms,
                        queued: *queued,
                        pages: *pages,
                        is_counted: *is_counted,
                        is_compared: *is_compared,
                    },
                )
            }
            Self::Domain { crawl, domain, hosts, alike, visited } => {
                let domain = u64::from_be_bytes(domain.0.as_slice().try_into().ok()?);
                let counted = DomainRow { hosts: *hosts, alike: *alike, visited: *visited };
                row(keys::domain(*crawl, domain), &counted)
            }
            Self::Queue {
                crawl,
                host,
                slot,
                path,
                hops,
                via,
                via_host,
                failures,
                losses,
                last_token,
                last_applied,
                last_error,
                tries,
                off_site,
                exempt,
            } => row(
                keys::queue(HostRef { crawl: *crawl, host: *host }, slot.slot()),
                &QueueRow {
                    path: path.clone(),
                    hops: *hops,
                    via: via.0.clone(),
                    failures: *failures,
                    losses: *losses,
                    last_token: *last_token,
                    last_applied: *last_applied,
                    via_host: *via_host,
                    last_error: last_error.clone(),
                    tries: tries.iter().map(Into::into).collect(),
                    off_site: *off_site,
                    exempt: *exempt,
                },
            ),
            Self::Pattern { crawl, host, pattern, pages, alike, sets } => {
                let at = HostRef { crawl: *crawl, host: *host };
                let pattern = u64::from_be_bytes(pattern.0.as_slice().try_into().ok()?);
                let counted = PatternRow { pages: *pages, alike: *alike, sets: sets.clone() };
                row(keys::pattern(at, pattern), &counted)
            }
            Self::Lease { token, crawl, host, worker, slots, longer_wait_ms } => row(
                keys::lease(Token(*token)),
                &LeaseRow {
                    crawl: *crawl,
                    host: *host,
                    worker: worker.clone(),
                    slots: slots.iter().flat_map(|slot| slot.slot().encode()).collect(),
                    longer_wait_ms: *longer_wait_ms,
                },
            ),
            Self::Url { crawl, host, id, state } => row(
                keys::url(HostRef { crawl: *crawl, host: *host }, &UrlId::from_bytes(&id.0)?),
                &UrlRow { state: Some(state.state()?) },
            ),
            Self::Quarantine { crawl, host, id } => {
                let at = HostRef { crawl: *crawl, host: *host };
                Some((keys::quarantined(at, &UrlId::from_bytes(&id.0)?), Some(Vec::new())))
            }
            Self::Raw { key, value } => Some((key.0.clone(), Some(value.0.clone()))),
            Self::Gone { key } => Some((key.0.clone(), None)),
        }
    }

    /// The table that it is counted under.
    pub(super) fn table(&self) -> &'static str {
        match self {
            Self::Master { .. } => "master",
            Self::Crawl(_) => "crawl",
            Self::Specification { .. } => "specification",
            Self::HostNumber { .. } => "host_number",
            Self::Gate(_) => "gate",
            Self::Host { .. } => "host",
            Self::Domain { .. } => "domain",
            Self::Robots { .. } => "robots",
            Self::RobotsPart { .. } => "robots part",
            Self::Digest { .. } => "digest",
            Self::Queue { .. } => "queue",
            Self::Pattern { .. } => "pattern",
            Self::Lease { .. } => "lease",
            Self::Url { .. } => "url",
            Self::Quarantine { .. } => "quarantine",
            Self::Raw { .. } => "raw",
            Self::Gone { .. } => "gone",
        }
    }
}

/// Rows of any kind.
trait Encode {
    fn bytes(&self) -> Vec<u8>;
}

impl<M: Message> Encode for M {
    fn bytes(&self) -> Vec<u8> {
        self.encode_to_vec()
    }
}

/// The words for a row; none if they do not fit.
fn say(key: &[u8], value: &[u8]) -> Option<Words> {
    let number = |at: usize| Some(u32::from_be_bytes(key.get(at..at + 4)?.try_into().ok()?));
    Some(match key.first()? {
        b'M' => {
            let MetaRow { instance, epoch, clock, next_host, next_crawl, canon_version } =
                MetaRow::decode(value).ok()?;
            Words::Master {
                instance,
                epoch,
                clock_ms: clock,
                next_host,
                next_crawl,
                canon: canon_version,
            }
        }
        b'C' => Words::Crawl(Box::new(CrawlWords::of(number(1)?, CrawlRow::decode(value).ok()?)?)),
        b'S' => Words::Specification {
            crawl: number(1)?,
            part: u16::from_be_bytes(key.get(5..)?.try_into().ok()?),
            text: String::from_utf8(value.to_vec()).ok()?,
        },
        b'H' => Words::HostNumber {
            key: keys::host_key(key)?.to_owned(),
            host: u32::from_be_bytes(value.try_into().ok()?),
        },
        b'G' => Words::Gate(GateWords::of(number(1)?, GateRow::decode(value).ok()?)),
        b'R' if key.len() == keys::robots(0).len() => {
            let RobotsRow {
                fetched_at,
                parts,
                unavailable_since,
                unavailable,
                unavailable_at,
                rest_ms,
            } = RobotsRow::decode(value).ok()?;
            Words::Robots {
                host: number(1)?,
                fetched_at_ms: fetched_at,
                parts,
                unavailable_since_ms: unavailable_since,
                unavailable,
                unavailable_at_ms: unavailable_at,
                rest_ms,
            }
        }
        b'R' => Words::RobotsPart {
            host: number(1)?,
            part: u16::from_be_bytes(key.get(5..)?.try_into().ok()?),
            zlib: Hex(value.to_vec()),
        },
        b'D' => {
            let sha1: [u8; 20] = key.get(5..)?.try_into().ok()?;
            let page = PageWords::of(value)?;
            Words::Digest { crawl: number(1)?, sha1: Hex(sha1.to_vec()), page }
        }
        b'O' => {
            let HostRef { crawl, host } = keys::host_of(key)?;
            let HostRow { key, delay_ms, queued, pages, is_counted, is_compared } =
                HostRow::decode(value).ok()?;
            Words::Host { crawl, host, key, delay_ms, queued, pages, is_counted, is_compared }
        }
        b'N' => {
            let (crawl, domain) = keys::domain_of(key)?;
            let DomainRow { hosts, alike, visited } = DomainRow::decode(value).ok()?;
            let domain = Hex(domain.to_be_bytes().to_vec());
            Words::Domain { crawl, domain, hosts, alike, visited }
        }
        b'Q' => {
            let HostRef { crawl, host } = keys::host_of(key)?;
            let QueueRow {
                path,
                hops,
                via,
                failures,
                losses,
                last_token,
                last_applied,
                via_host,
                last_error,
                tries,
                off_site,
                exempt,
            } = QueueRow::decode(value).ok()?;
            Words::Queue {
                crawl,
                host,
                slot: keys::slot_of(key)?.into(),
                path,
                hops,
                via: Hex(via),
                via_host,
                failures,
                losses,
                last_token,
                last_applied,
                last_error,
                tries: tries.into_iter().map(Into::into).collect(),
                off_site,
                exempt,
            }
        }
        b'T' => {
            let (HostRef { crawl, host }, pattern) = keys::pattern_of(key)?;
            let PatternRow { pages, alike, sets } = PatternRow::decode(value).ok()?;
            let pattern = Hex(pattern.to_be_bytes().to_vec());
            Words::Pattern { crawl, host, pattern, pages, alike, sets }
        }
        b'L' => {
            let LeaseRow { crawl, host, worker, slots, longer_wait_ms } =
                LeaseRow::decode(value).ok()?;
            let slots = slots.chunks(Slot::BYTES).map(|slot| Slot::decode(slot).map(Into::into));
            let slots = slots.collect::<Option<_>>()?;
            let token = keys::lease_token(key)?.0;
            Words::Lease { token, crawl, host, worker, slots, longer_wait_ms }
        }
        b'U' => {
            let (HostRef { crawl, host }, id) = keys::url_of(key)?;
            let state = StateWords::of(UrlRow::decode(value).ok()?.state?)?;
            Words::Url { crawl, host, id: Hex(id.0.to_vec()), state }
        }
        b'X' if value.is_empty() => {
            let (HostRef { crawl, host }, id) = keys::url_of(key)?;
            Words::Quarantine { crawl, host, id: Hex(id.0.to_vec()) }
        }
        _ => return None,
    })
}

impl GateWords {
    fn of(host: u32, row: GateRow) -> Self {
        let GateRow {
            freed_at,
            answer_ms,
            failures,
            rests_until,
            trouble,
            trouble_class,
            address,
            blocked,
            blocked_reason,
            set_delay_ms,
            set_connections,
            set_pages,
            unvisited,
            robots_delay_ms,
        } = row;
        Self {
            host,
            freed_at_ms: freed_at,
            answer_ms,
            failures,
            rests_until_ms: rests_until,
            trouble,
            trouble_class,
            address: Hex(address),
            blocked,
            blocked_reason,
            set_delay_ms,
            set_connections,
            set_pages,
            unvisited,
            robots_delay_ms,
        }
    }

    fn row(&self) -> GateRow {
        GateRow {
            freed_at: self.freed_at_ms,
            answer_ms: self.answer_ms,
            failures: self.failures,
            rests_until: self.rests_until_ms,
            trouble: self.trouble.clone(),
            trouble_class: self.trouble_class,
            address: self.address.0.clone(),
            blocked: self.blocked,
            blocked_reason: self.blocked_reason.clone(),
            set_delay_ms: self.set_delay_ms,
            set_connections: self.set_connections,
            set_pages: self.set_pages,
            unvisited: self.unvisited,
            robots_delay_ms: self.robots_delay_ms,
        }
    }
}

impl PageWords {
    fn of(bytes: &[u8]) -> Option<Self> {
        let (host, id) = keys::page_of_ref(bytes)?;
        Some(Self { host, id: Hex(id.0.to_vec()) })
    }

    fn bytes(&self) -> Option<Vec<u8>> {
        Some(keys::page_ref(self.host, &UrlId::from_bytes(&self.id.0)?))
    }
}

impl From<TryRow> for TryWords {
    fn from(row: TryRow) -> Self {
        let TryRow { class, at, took_ms, detail } = row;
        Self { class, at_ms: at, took_ms, detail }
    }
}

impl From<&TryWords> for TryRow {
    fn from(words: &TryWords) -> Self {
        let TryWords { class, at_ms, took_ms, detail } = words;
        Self { class: *class, at: *at_ms, took_ms: *took_ms, detail: detail.clone() }
    }
}

impl CrawlWords {
    fn of(crawl: u32, row: CrawlRow) -> Option<Self> {
        let (finish, wish) = (finish_word(row.finish()), wish_word(row.wish()));
        let CrawlRow {
            name,
            spec_version,
            spec_parts,
            finish: _,
            discovered,
            queued,
            leased,
            outcomes,
            retries,
            body_bytes,
            wire_bytes,
            hosts,
            next_seq,
            open_by_depth,
            ran_ms,
            segment,
            segment_bytes,
            reports_already,
            reports_stale,
            leases_expired,
            wish: _,
            stored_bytes,
            leases_recovered,
            leases_kept,
            traps_forgotten,
        } = row;
        let outcome = |(number, count): (usize, u64)| {
            let class = Class::of_number(u8::try_from(number).ok()?)?;
            Some((class.word().to_owned(), count))
        };
        Some(Self {
            crawl,
            name,
            finish: finish.into(),
            wish: wish.into(),
            spec_version,
            spec_parts,
            discovered,
            queued,
            leased,
            outcomes: outcomes.into_iter().enumerate().map(outcome).collect::<Option<_>>()?,
            retries,
            hosts,
            next_seq,
            open_by_depth,
            ran_ms,
            body_bytes,
            wire_bytes,
            stored_bytes,
            segment,
            segment_bytes,
            reports_already,
            reports_stale,
            leases_expired,
            leases_recovered,
            leases_kept,
            traps_forgotten,
        })
    }

    fn row(&self) -> Option<CrawlRow> {
        let mut outcomes = Vec::new();
        for (word, count) in &self.outcomes {
            let number = usize::from(class(word)?.number());
            if outcomes.len() <= number {
                outcomes.resize(number + 1, 0);
            }
            outcomes[number] = *count;
        }
        let finishes = [Finish::Running, Finish::Complete, Finish::PageBudget, Finish::Stopped];
        let finish = finishes.into_iter().find(|finish| finish_word(*finish) == self.finish)?;
        let wishes = [Wish::Run, Wish::Pause, Wish::Stop];
        let wish = wishes.into_iter().find(|wish| wish_word(*wish) == self.wish)?;
        Some(CrawlRow {
            name: self.name.clone(),
            spec_version: self.spec_version,
            spec_parts: self.spec_parts,
            finish: finish as i32,
            discovered: self.discovered,
            queued: self.queued,
            leased: self.leased,
            outcomes,
            retries: self.retries,
            body_bytes: self.body_bytes,
            wire_bytes: self.wire_bytes,
            hosts: self.hosts,
            next_seq: self.next_seq,
            open_by_depth: self.open_by_depth.clone(),
            ran_ms: self.ran_ms,
            segment: self.segment,
            segment_bytes: self.segment_bytes,
            reports_already: self.reports_already,
            reports_stale: self.reports_stale,
            leases_expired: self.leases_expired,
            leases_recovered: self.leases_recovered,
            leases_kept: self.leases_kept,
            traps_forgotten: self.traps_forgotten,
            wish: wish as i32,
            stored_bytes: self.stored_bytes,
        })
    }
}

fn finish_word(finish: Finish) -> &'static str {
    match finish {
        Finish::Running => "running",
        Finish::Complete => "complete",
        Finish::PageBudget => "page_budget",
        Finish::Stopped => "stopped",
    }
}

fn wish_word(wish: Wish) -> &'static str {
    match wish {
        Wish::Run => "run",
        Wish::Pause => "pause",
        Wish::Stop => "stop",
    }
}

fn class(word: &str) -> Option<Class> {
    Class::all().find(|class| class.word() == word)
}

impl From<Slot> for SlotWords {
    fn from(slot: Slot) -> Self {
        let Slot { due, depth, seq } = slot;
        Self { due_ms: due, depth, seq }
    }
}

impl SlotWords {
    fn slot(self) -> Slot {
        Slot { due: self.due_ms, depth: self.depth, seq: self.seq }
    }
}

impl StateWords {
    fn of(state: UrlState) -> Option<Self> {
        Some(match state {
            UrlState::Pending(slot) => Self::Pending { slot: Slot::decode(&slot)?.into() },
            UrlState::Fetched(row) => {
                let FetchedRow { token, status, place, sha1, fetched_at, via_host, tries, same_as } =
                    row;
                let Place { segment, offset, response_len, request_len, metadata_len } =
                    Place::decode(&place)?;
                Self::Fetched {
                    status,
                    sha1: Hex(sha1),
                    fetched_at_ms: fetched_at,
                    place: PlaceWords {
                        segment,
                        offset,
                        response: response_len,
                        request: request_len,
                        metadata: metadata_len,
                    },
                    token,
                    via_host,
                    tries: tries.into_iter().map(Into::into).collect(),
                    same_as: PageWords::of(&same_as),
                }
            }
            UrlState::Ended(row) => {
                let EndedRow {
                    token,
                    class,
                    detail,
                    path,
                    via,
                    depth,
                    attempts,
                    via_host,
                    hops,
                    worker,
                    tries,
                    trap,
                    off_site,
                } = row;
                Self::Ended {
                    class: Class::of_number(u8::try_from(class).ok()?)?.word().to_owned(),
                    detail,
                    path,
                    via: Hex(via),
                    via_host,
                    depth,
                    hops,
                    attempts,
                    token,
                    worker,
                    tries: tries.into_iter().map(Into::into).collect(),
                    trap,
                    off_site,
                }
            }
        })
    }

    fn state(&self) -> Option<UrlState> {
        Some(match self {
            Self::Pending { slot } => UrlState::Pending(slot.slot().encode().to_vec()),
            Self::Fetched {
                status,
                sha1,
                fetched_at_ms,
                place,
                token,
                via_host,
                tries,
                same_as,
            } => {
                let place = Place {
                    segment: place.segment,
                    offset: place.offset,
                    response_len: place.response,
                    request_len: place.request,
                    metadata_len: place.metadata,
                };
                UrlState::Fetched(FetchedRow {
                    token: *token,
                    status: *status,
                    place: place.encode().to_vec(),
                    sha1: sha1.0.clone(),
                    fetched_at: *fetched_at_ms,
                    via_host: *via_host,
                    tries: tries.iter().map(Into::into).collect(),
                    same_as: match same_as {
                        Some(page) => page.bytes()?,
                        None => Vec::new(),
                    },
                })
            }
            Self::Ended {
                class: word,
                detail,
                path,
                via,
                via_host,
                depth,
                hops,
                attempts,
                token,
                worker,
                tries,
                trap,
                off_site,
            } => UrlState::Ended(EndedRow {
                token: *token,
                class: class(word)?.number().into(),
                detail: detail.clone(),
                path: path.clone(),
                via: via.0.clone(),
                depth: *depth,
                attempts: *attempts,
                via_host: *via_host,
                hops: *hops,
                worker: worker.clone(),
                tries: tries.iter().map(Into::into).collect(),
                trap: trap.clone(),
                off_site: *off_site,
            }),
        })
    }
}

/// Every change of a batch in words.
pub(super) fn of_batch(batch: &Batch) -> impl Iterator<Item = Words> {
    batch.iter().map(|(key, value)| Words::of(key, value.as_deref()))
}
