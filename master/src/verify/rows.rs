//! Rows held against each other.
//!
//! [`RowProof`] takes each row once and counts; what has to agree with something
//! elsewhere becomes a fact. Sorted, the facts of a host come together, and among them
//! those of a place in its queue and those of a URL: [`HostProof`] looks at each such
//! group when it is over.

use std::{collections::BTreeMap, path::Path};

use trawl_shared::{lease::Token, outcome::Class, untrusted::Untrusted, url::UrlId};

use super::{
    VerifyError,
    matcher::Entry,
    report::{CrawlProof, Kind, Report},
};
use crate::{
    frontier::StoredSpec,
    pages::{Committed, Place},
    sorted::{SortError, Sorted},
    store::{
        StoreError,
        keys::{self, HostRef, Slot},
        rows::{
            CrawlRow, DomainRow, GateRow, HostRow, LeaseRow, MetaRow, PatternRow, QueueRow,
            RobotsRow, UrlRow, UrlState, decode,
        },
    },
};

/// What a crawl's row says, and what the other rows come to.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) row: Option<CrawlRow>,
    pub(super) proof: CrawlProof,
    pub(super) committed: Committed,
    spec: BTreeMap<u16, Vec<u8>>,
    pending: u64,
    queue_rows: u64,
    hosts: u64,
    outcomes: Vec<u64>,
    by_depth: Vec<u64>,
    next_seq: u64,
}

pub(super) type Tallies = BTreeMap<u32, Tally>;

/// Takes the rows.
#[derive(Debug)]
pub(super) struct RowProof {
    crawls: Tallies,
    meta: Option<MetaRow>,
    host_last: u32,
    /// The host whose URLs come, and its pages so far.
    pages: Option<(HostRef, u64)>,
    facts: Sorted,
    places: Sorted,
}

/// A fact of a host: what stands behind crawl and host in its record.
mod fact {
    /// A host number's key in the table of numbers, under crawl 0.
    pub(super) const NUMBER: u8 = b'H';
    /// A host's row: its counts, its key. Under crawl 0 its key alone.
    pub(super) const HOST: u8 = b'O';
    /// How many of its URLs are pages.
    pub(super) const PAGES: u8 = b'P';
    /// A place in its queue: slot, one of the letters below, details.
    pub(super) const SLOT: u8 = b'S';
    /// A URL's id, and whether the visited set or the list says that it's in quarantine.
    pub(super) const QUARANTINE: u8 = b'X';
    pub(super) const LEASE: u8 = b'L';
    pub(super) const QUEUE: u8 = b'Q';
    pub(super) const URL: u8 = b'U';
}

impl RowProof {
    pub(super) fn new(tmp: &Path) -> Self {
        Self {
            crawls: BTreeMap::new(),
            meta: None,
            host_last: 0,
            pages: None,
            facts: Sorted::new(tmp),
            places: Sorted::new(tmp),
        }
    }

    /// Takes a row; they come in the order of their keys.
    pub(super) fn row(
        &mut self,
        key: &[u8],
        value: &[u8],
        report: &mut Report,
    ) -> Result<(), SortError> {
        match self.read(key, value) {
            Ok(()) => Ok(()),
            Err(Unread::Sort(error)) => Err(error),
            Err(Unread::Row) => {
                report.differs(Kind::Row, || {
                    format!("the row {} cannot be read", data_encoding::HEXLOWER.encode(key))
                });
                Ok(())
            }
        }
    }

    fn read(&mut self, key: &[u8], value: &[u8]) -> Result<(), Unread> {
        let number = |at: usize| -> Option<u32> {
            Some(u32::from_be_bytes(key.get(at..at + 4)?.try_into().ok()?))
        };
        match key.first() {
            Some(b'M') => self.meta = Some(decode(value)?),
            Some(b'C') => {
                let row: CrawlRow = decode(value)?;
                let tally = self.crawls.entry(number(1).ok_or(Unread::Row)?).or_default();
                tally.proof.name.clone_from(&row.name);
                tally.committed = Committed { segment: row.segment, bytes: row.segment_bytes };
                tally.row = Some(row);
            }
            Some(b'S') => {
                let part = key.get(5..).and_then(|part| part.try_into().ok());
                let part = u16::from_be_bytes(part.ok_or(Unread::Row)?);
                let tally = self.crawls.entry(number(1).ok_or(Unread::Row)?).or_default();
                tally.spec.insert(part, value.to_vec());
            }
            Some(b'G') => {
                let _: GateRow = decode(value)?;
            }
            Some(b'R') if key.len() == keys::robots(0).len() => {
                let _: RobotsRow = decode(value)?;
            }
            Some(b'R') if key.len() == keys::robots_part(0, 0).len() => {}
            Some(b'T') => {
                keys::pattern_of(key).ok_or(Unread::Row)?;
                decode::<PatternRow>(value)?;
            }
            Some(b'N') => {
                keys::domain_of(key).ok_or(Unread::Row)?;
                decode::<DomainRow>(value)?;
            }
            Some(b'D') => {
                keys::page_of_ref(value).ok_or(Unread::Row)?;
            }
            Some(b'H') => {
                let host = u32::from_be_bytes(value.try_into().map_err(|_| Unread::Row)?);
                self.host_last = self.host_last.max(host);
                self.fact(HostRef { crawl: 0, host }, &[&[fact::NUMBER], &key[1..]])?;
            }
            Some(b'O') => {
                let at = keys::host_of(key).ok_or(Unread::Row)?;
                let HostRow { key, queued, pages, .. } = decode(value)?;
                self.crawls.entry(at.crawl).or_default().hosts += 1;
                let (queued, pages) = (queued.to_be_bytes(), pages.to_be_bytes());
                self.fact(at, &[&[fact::HOST], &queued, &pages, key.as_bytes()])?;
                self.fact(HostRef { crawl: 0, ..at }, &[&[fact::HOST], key.as_bytes()])?;
            }
            Some(b'Q') => {
                let at = keys::host_of(key).ok_or(Unread::Row)?;
                let slot = keys::slot_of(key).ok_or(Unread::Row)?;
                let row: QueueRow = decode(value)?;
                let tally = self.crawls.entry(at.crawl).or_default();
                tally.queue_rows += 1;
                tally.next_seq = tally.next_seq.max(slot.seq + 1);
                let depth = usize::from(slot.depth);
                if tally.by_depth.len() <= depth {
                    tally.by_depth.resize(depth + 1, 0);
                }
                tally.by_depth[depth] += 1;
                let what = [&[fact::SLOT][..], &slot.encode(), &[fact::QUEUE], row.path.as_bytes()];
                self.fact(at, &what)?;
            }
            Some(b'L') => {
                let token = keys::lease_token(key).ok_or(Unread::Row)?;
                let row: LeaseRow = decode(value)?;
                let at = HostRef { crawl: row.crawl, host: row.host };
                for slot in row.slots.chunks(Slot::BYTES) {
                    Slot::decode(slot).ok_or(Unread::Row)?;
                    let token = token.0.to_be_bytes();
                    self.fact(at, &[&[fact::SLOT], slot, &[fact::LEASE], &token])?;
                }
            }
            Some(b'U') => {
                let (at, id) = keys::url_of(key).ok_or(Unread::Row)?;
                let row: UrlRow = decode(value)?;
                self.url(at, &id, row.state.ok_or(Unread::Row)?)?;
            }
            Some(b'X') => {
                let (at, id) = keys::url_of(key).ok_or(Unread::Row)?;
                self.fact(at, &[&[fact::QUARANTINE], &id.0, b"X"])?;
            }
            _ => return Err(Unread::Row),
        }
        Ok(())
    }

    fn url(&mut self, at: HostRef, id: &UrlId, state: UrlState) -> Result<(), Unread> {
        if self.pages.is_none_or(|(host, _)| host != at) {
            self.end_host()?;
            self.pages = Some((at, 0));
        }
        let tally = self.crawls.entry(at.crawl).or_default();
        tally.proof.discovered += 1;
        let class = match state {
            UrlState::Pending(slot) => {
                Slot::decode(&slot).ok_or(Unread::Row)?;
                tally.pending += 1;
                let what = [&[fact::SLOT][..], &slot, &[fact::URL], &id.0];
                return Ok(self.fact(at, &what)?);
            }
            UrlState::Fetched(row) => {
                let place = Place::decode(&row.place).ok_or(Unread::Row)?;
                let sha1: [u8; 20] = row.sha1.try_into().map_err(|_| Unread::Row)?;
                tally.proof.fetched += 1;
                tally.proof.bytes += place.lengths().total();
                let entry = Entry { host: at.host, place, id: *id, sha1 };
                self.places.push(&entry.record(at.crawl))?;
                let class = Class::of_status(u16::try_from(row.status).map_err(|_| Unread::Row)?);
                if let Some((_, pages)) = &mut self.pages {
                    *pages += u64::from(class.is_page());
                }
                class
            }
            UrlState::Ended(row) => {
                let class = u8::try_from(row.class).ok().and_then(Class::of_number);
                class.ok_or(Unread::Row)?
            }
        };
        match class {
            Class::Quarantined => {
                tally.proof.quarantined += 1;
                self.fact(at, &[&[fact::QUARANTINE], &id.0, b"U"])?;
            }
            Class::Dropped => tally.proof.dropped += 1,
            _ => tally.proof.done += 1,
        }
        let tally = self.crawls.entry(at.crawl).or_default();
        tally.outcomes.resize(Class::COUNT, 0);
        tally.outcomes[usize::from(class.number())] += 1;
        Ok(())
    }

    fn end_host(&mut self) -> Result<(), SortError> {
        match self.pages.take() {
            Some((at, pages)) => self.fact(at, &[&[fact::PAGES], &pages.to_be_bytes()]),
            None => Ok(()),
        }
    }

    fn fact(&mut self, at: HostRef, what: &[&[u8]]) -> Result<(), SortError> {
        let mut record = Vec::with_capacity(64);
        record.extend_from_slice(&at.crawl.to_be_bytes());
        record.extend_from_slice(&at.host.to_be_bytes());
        what.iter().for_each(|part| record.extend_from_slice(part));
        self.facts.push(&record)
    }

    /// The facts, the places of pages, and what there is of each crawl.
    pub(super) fn finish(mut self) -> Result<(Sorted, Sorted, Crawls), VerifyError> {
        self.end_host()?;
        let crawls = Crawls { tallies: self.crawls, meta: self.meta, host_last: self.host_last };
        Ok((self.facts, self.places, crawls))
    }
}

/// Why a row counts for nothing.
enum Unread {
    Row,
    Sort(SortError),
}

impl From<StoreError> for Unread {
    fn from(_: StoreError) -> Self {
        Self::Row
    }
}

impl From<SortError> for Unread {
    fn from(error: SortError) -> Self {
        Self::Sort(error)
    }
}

/// What the rows say of all crawls.
pub(super) struct Crawls {
    tallies: Tallies,
    meta: Option<MetaRow>,
    host_last: u32,
}

/// Takes the facts, sorted.
pub(super) struct HostProof {
    crawls: Crawls,
    at: HostRef,
    host: HostGroup,
    slot: SlotGroup,
    inmate: InmateGroup,
}

/// What is known of a host.
#[derive(Default)]
struct HostGroup {
    key: Option<String>,
    /// How often it was numbered, under crawl 0.
    numbered: u32,
    queued_said: u64,
    pages_said: u64,
    pages: u64,
    waiting: u64,
    is_wanted: bool,
}

/// What is known of a place in its queue.
#[derive(Default)]
struct SlotGroup {
    slot: Option<Slot>,
    tokens: Vec<Token>,
    path: Option<String>,
    url: Option<UrlId>,
}

/// What is known of a URL that may be in quarantine.
#[derive(Default)]
struct InmateGroup {
    id: Option<UrlId>,
    is_listed: bool,
    is_inside: bool,
}

impl HostProof {
    pub(super) fn new(crawls: Crawls) -> Self {
        Self {
            crawls,
            at: HostRef { crawl: 0, host: 0 },
            host: HostGroup::default(),
            slot: SlotGroup::default(),
            inmate: InmateGroup::default(),
        }
    }

    /// Takes the next fact.
    pub(super) fn fact(&mut self, record: &[u8], report: &mut Report) -> Result<(), SortError> {
        let number = |at: usize| record.get(at..at + 4).and_then(|n| n.try_into().ok());
        let number = |at| u32::from_be_bytes(number(at).unwrap_or_default());
        let at = HostRef { crawl: number(0), host: number(4) };
        if at != self.at {
            self.end_host(report);
            self.at = at;
        }
        let Some((kind, what)) = record.get(8..).and_then(<[u8]>::split_first) else {
            return Ok(());
        };
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let count = |bytes: Option<&[u8]>| {
            let bytes = bytes.and_then(|bytes| bytes.try_into().ok()).unwrap_or_default();
            u64::from_be_bytes(bytes)
        };
        match *kind {
            fact::NUMBER => {
                self.host.numbered += 1;
                self.name(&text(what), report);
            }
            fact::HOST if at.crawl == 0 => self.name(&text(what), report),
            fact::HOST => {
                self.host.queued_said = count(what.get(..8));
                self.host.pages_said = count(what.get(8..16));
                self.host.key = Some(text(what.get(16..).unwrap_or_default()));
            }
            fact::PAGES => {
                self.host.pages = count(Some(what));
                self.host.is_wanted = true;
            }
            fact::SLOT => {
                self.host.is_wanted = true;
                let (slot, what) = what.split_at(Slot::BYTES.min(what.len()));
                let slot = Slot::decode(slot);
                if self.slot.slot != slot {
                    self.end_slot(report);
                    self.slot.slot = slot;
                }
                match what.split_first() {
                    Some((&fact::LEASE, token)) => {
                        self.slot.tokens.push(Token(count(Some(token))));
                    }
                    Some((&fact::QUEUE, path)) => self.slot.path = Some(text(path)),
                    Some((&fact::URL, id)) => self.slot.url = UrlId::from_bytes(id),
                    _ => {}
                }
            }
            fact::QUARANTINE => {
                let (id, who) = what.split_at(20.min(what.len()));
                let id = UrlId::from_bytes(id);
                if self.inmate.id != id {
                    self.end_inmate(report);
                    self.inmate.id = id;
                }
                self.inmate.is_listed |= who == b"X";
                self.inmate.is_inside |= who == b"U";
            }
            _ => {}
        }
        Ok(())
    }

    /// A host is called so by a row.
    fn name(&mut self, key: &str, report: &mut Report) {
        let host = self.at.host;
        match &self.host.key {
            Some(known) if known != key => report.differs(Kind::HostNumber, || {
                format!("host number {host} is that of {known} and of {key}")
            }),
            Some(_) => {}
            None => self.host.key = Some(key.to_owned()),
        }
    }

    fn end_host(&mut self, report: &mut Report) {
        self.end_slot(report);
        self.end_inmate(report);
        let at = self.at;
        let group = std::mem::take(&mut self.host);
        let name = || group.key.clone().unwrap_or_else(|| format!("number {}", at.host));
        if at.crawl == 0 {
            if group.key.is_some() && group.numbered != 1 {
                report.differs(Kind::HostNumber, || match group.numbered {
                    0 => format!("host {} has no number", name()),
                    count => format!("host {} is numbered {count} times", name()),
                });
            }
            return;
        }
        if group.key.is_none() && group.is_wanted {
            report.differs(Kind::Row, || {
                format!("{}: host number {} has URLs and no row", self.crawl(at.crawl), at.host)
            });
            return;
        }
        for (what, said, is) in
            [("queued", group.queued_said, group.waiting), ("pages", group.pages_said, group.pages)]
        {
            if said != is {
                let crawl = self.crawl(at.crawl);
                report.differs(Kind::HostCount, || {
                    format!("{crawl}: host {} counts {said} {what}, there are {is}", name())
                });
            }
        }
    }

    fn end_slot(&mut self, report: &mut Report) {
        let group = std::mem::take(&mut self.slot);
        if group.slot.is_none() {
            return;
        }
        let at = self.at;
        let host = self.host.key.clone();
        let name = || match (&host, &group.path) {
            (Some(key), Some(path)) => Untrusted::new(&format!("{key}{path}")).to_string(),
            (_, Some(path)) => Untrusted::new(path).to_string(),
            _ => format!("URL {} of host {}", id_text(group.url), host.as_deref().unwrap_or("?")),
        };
        let crawl = self.crawl(at.crawl);
        match (&group.path, group.url) {
            (Some(path), Some(id)) => {
                let is_same =
                    host.as_ref().is_none_or(|key| UrlId::of(&format!("{key}{path}")) == id);
                if !is_same {
                    report.differs(Kind::Queue, || {
                        format!("{crawl}: {} stands in the queue where URL {id} should", name())
                    });
                }
            }
            (Some(_), None) => report.differs(Kind::Queue, || {
                format!("{crawl}: {} is queued, but the visited set does not say so", name())
            }),
            (None, Some(_)) => report.differs(Kind::Queue, || {
                format!("{crawl}: {} should wait, but is not in the queue", name())
            }),
            // What has ended of a lease leaves its place before the lease goes.
            (None, None) => return,
        }
        if group.path.is_none() {
            return;
        }
        let tally = self.crawls.tallies.entry(at.crawl).or_default();
        match group.tokens.as_slice() {
            [] => {
                tally.proof.queued += 1;
                self.host.waiting += 1;
            }
            [_] => tally.proof.leased += 1,
            tokens => {
                tally.proof.leased += 1;
                let tokens: Vec<_> = tokens.iter().map(ToString::to_string).collect();
                report.differs(Kind::Lease, || {
                    format!("{crawl}: {} is lent more than once: {}", name(), tokens.join(", "))
                });
            }
        }
    }

    fn end_inmate(&mut self, report: &mut Report) {
        let group = std::mem::take(&mut self.inmate);
        if group.id.is_none() || group.is_listed == group.is_inside {
            return;
        }
        let (crawl, id) = (self.crawl(self.at.crawl), id_text(group.id));
        let host = self.host.key.clone().unwrap_or_default();
        report.differs(Kind::Quarantine, || match group.is_inside {
            true => format!("{crawl}: URL {id} of {host} is in quarantine, but not listed there"),
            false => format!("{crawl}: URL {id} of {host} is listed, but not in quarantine"),
        });
    }

    fn crawl(&self, number: u32) -> String {
        let name = self.crawls.tallies.get(&number).map(|tally| tally.proof.name.as_str());
        match name.filter(|name| !name.is_empty()) {
            Some(name) => format!("crawl \"{name}\""),
            None => format!("crawl number {number}"),
        }
    }

    /// Ends the last group, and holds the crawls' counts against what was counted.
    pub(super) fn finish(mut self, report: &mut Report) -> Tallies {
        self.end_host(report);
        let Crawls { meta, host_last, .. } = &self.crawls;
        let meta = meta.clone().unwrap_or_default();
        let crawl_last = self.crawls.tallies.keys().next_back().copied().unwrap_or_default();
        for (what, next, last) in
            [("host", meta.next_host, *host_last), ("crawl", meta.next_crawl, crawl_last)]
        {
            if next <= last {
                report.differs(Kind::HostNumber, || {
                    format!("the next {what} would be number {next}, but {last} is given already")
                });
            }
        }
        let names: BTreeMap<u32, String> =
            self.crawls.tallies.keys().map(|number| (*number, self.crawl(*number))).collect();
        for (number, tally) in &mut self.crawls.tallies {
            tally.proof.number = *number;
            tally.check(&names[number], report);
        }
        self.crawls.tallies
    }
}

impl Tally {
    fn check(&mut self, name: &str, report: &mut Report) {
        let Some(row) = &self.row else {
            report.differs(Kind::Row, || format!("{name} has rows, but none of its own"));
            return;
        };
        let outcome = |counts: &[u64], class: Class| {
            counts.get(usize::from(class.number())).copied().unwrap_or_default()
        };
        let answered = [
            Class::Ok,
            Class::Redirect,
            Class::ClientError,
            Class::ServerError,
            Class::OtherStatus,
        ];
        self.proof.counted = answered.iter().map(|class| outcome(&row.outcomes, *class)).sum();
        self.proof.segments = row.segment;
        // Of a longer one before it, parts may be left.
        let parts = || self.spec.iter().filter(|(part, _)| u32::from(**part) < row.spec_parts);
        let text: Vec<u8> = parts().flat_map(|(_, text)| text).copied().collect();
        let spec: Option<StoredSpec> = serde_json::from_slice(&text).ok();
        let spec = spec.filter(|_| parts().count() == row.spec_parts as usize);
        if spec.is_none() {
            report.differs(Kind::Row, || format!("{name}: its specification cannot be read"));
        }
        let mut counts = vec![
            ("discovered".to_owned(), row.discovered, self.proof.discovered),
            ("queued".into(), row.queued, self.proof.queued),
            ("leased".into(), row.leased, self.proof.leased),
            ("hosts".into(), row.hosts, self.hosts),
            ("stored bytes".into(), row.stored_bytes, self.proof.bytes),
            ("waiting or lent".into(), self.queue_rows, self.pending),
        ];
        counts.extend(Class::all().map(|class| {
            let (said, is) = (outcome(&row.outcomes, class), outcome(&self.outcomes, class));
            (format!("outcome {}", class.word()), said, is)
        }));
        if spec.is_some_and(|spec| spec.spec.depth.is_some()) {
            let depths = self.by_depth.len().max(row.open_by_depth.len());
            let at = |counts: &[u64], depth: usize| counts.get(depth).copied().unwrap_or_default();
            counts.extend((0..depths).map(|depth| {
                let (said, is) = (at(&row.open_by_depth, depth), at(&self.by_depth, depth));
                (format!("open at depth {depth}"), said, is)
            }));
        }
        for (what, said, is) in counts {
            if said != is {
                report.differs(Kind::CrawlCount, || {
                    format!("{name}: it counts {said} {what}, there are {is}")
                });
            }
        }
        if row.next_seq < self.next_seq {
            report.differs(Kind::CrawlCount, || {
                format!("{name}: its next order number {} is taken", row.next_seq)
            });
        }
    }
}

fn id_text(id: Option<UrlId>) -> String {
    id.map(|id| id.to_string()).unwrap_or_default()
}
