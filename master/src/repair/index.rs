//! The index made anew from the segments of a crawl.

use std::{collections::BTreeMap, fs::File, os::unix::fs::FileExt};

use jiff::Timestamp;
use trawl_shared::{
    page::PageMeta,
    url::{CrawlUrl, UrlId},
    warc::{RECORD_BYTES_MAX, Record, read_member},
};

use super::{Repair, RepairError, fill};
use crate::{
    data_dir::DataDir,
    pages::{Committed, FoundPage, Place, Segments, Survey},
    sorted::Sorted,
    store::{
        Store, StoreError,
        keys::{self, HostRef, Slot},
        rows::{CrawlRow, FetchedRow, HostRow, MetaRow, QueueRow, UrlRow, UrlState, decode},
    },
    verify::matcher::{Entry, Match, Matcher},
};

/// Whose links are to be taken in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Links {
    /// Nobody's.
    #[default]
    None,
    /// Those of the pages that no lease brought: they were found.
    Found,
    /// Those of all pages, as URLs were forgotten that they may lead to.
    All,
}

/// What the segments are to become.
#[derive(Debug, Default)]
pub(super) struct Index {
    /// Bytes to put aside, by segment; from the first byte to the one after the last.
    pub(super) aside: BTreeMap<u32, Vec<(u64, u64)>>,
    /// Segments to make.
    pub(super) missing: Vec<u32>,
    /// Whose links are to be taken in.
    pub(super) links: Links,
    /// A piece too short to be filled: what follows has to go with it.
    short: Option<(u32, u64)>,
}

impl Index {
    /// Marks bytes to be put aside, together with those before them that touch them.
    fn put_aside(&mut self, segment: u32, from: u64, to: u64) {
        let pieces = self.aside.entry(segment).or_default();
        match pieces.last_mut() {
            Some(last) if from <= last.1 => last.1 = last.1.max(to),
            _ => pieces.push((from, to)),
        }
        self.short = pieces
            .last()
            .filter(|(from, to)| to - from < fill::BYTES_MIN)
            .map(|(_, to)| (segment, *to));
    }

    /// Whether what begins here has to go, because the piece before it is too short.
    fn takes(&self, segment: u32, from: u64) -> bool {
        self.short == Some((segment, from))
    }
}

impl<S: Store> Repair<S> {
    /// Holds the index of a crawl against its segments, and changes rows accordingly.
    pub(super) fn index(
        &mut self,
        crawl: u32,
        segments: &Segments,
        data: &DataDir,
    ) -> Result<Index, RepairError> {
        let mut entries = Sorted::new(&data.tmp());
        let range = keys::urls(crawl);
        for row in self.store.range(&range.0, &range.1) {
            let (key, value) = row?;
            let Some((at, id)) = keys::url_of(&key) else { continue };
            let Ok(UrlRow { state: Some(UrlState::Fetched(row)) }) = decode(&value) else {
                continue;
            };
            // Rows that cannot be read are the recount's.
            let (Some(place), Ok(sha1)) = (Place::decode(&row.place), row.sha1.try_into()) else {
                continue;
            };
            entries.push(&Entry { host: at.host, place, id, sha1 }.record(crawl))?;
        }
        let row = self.crawl(crawl)?;
        let committed = Committed { segment: row.segment, bytes: row.segment_bytes };
        let survey = Survey::of_all(segments.clone(), committed)?;
        let reach = survey.reach();
        let mut matcher = Matcher::new(survey, reach);
        let mut index = Index::default();
        if reach.segment > 0 && reach.bytes == 0 {
            // A repair that broke off has cut everything off, and not begun it anew.
            index.missing.push(reach.segment);
        }
        entries.finish(|record| {
            let Some((_, entry)) = Entry::of(record) else { return Ok(()) };
            matcher.entry(entry, &mut |found| self.found(crawl, segments, found, &mut index))
        })?;
        matcher.finish(&mut |found| self.found(crawl, segments, found, &mut index))?;
        self.flush()?;
        for pieces in index.aside.values() {
            self.done.aside_bytes += pieces.iter().map(|(from, to)| to - from).sum::<u64>();
        }
        self.done.segments_made += index.missing.len() as u64;
        self.commit_reach(crawl, segments, reach, &index)?;
        Ok(index)
    }

    fn found(
        &mut self,
        crawl: u32,
        segments: &Segments,
        found: Match,
        index: &mut Index,
    ) -> Result<(), RepairError> {
        match found {
            Match::Stored(entry) if index.takes(entry.place.segment, entry.place.offset) => {
                let place = entry.place;
                index.put_aside(place.segment, place.offset, place.end());
                self.lose(crawl, segments, &entry, index)?;
            }
            Match::Stored(_) => {}
            Match::Missing(entry, _) => self.lose(crawl, segments, &entry, index)?,
            Match::Damaged(entry, _) => self.lose(crawl, segments, &entry, index)?,
            Match::Other(entry, page, _) => {
                if page.id != entry.id {
                    self.lose(crawl, segments, &entry, index)?;
                }
                self.adopt(crawl, segments, &page, Some(&entry), index)?;
            }
            Match::Unknown(page) => self.adopt(crawl, segments, &page, None, index)?,
            Match::Head { segment, from, to } => {
                if index.takes(segment, from) {
                    index.put_aside(segment, from, to);
                }
            }
            Match::Damage { segment, from, to, .. } => index.put_aside(segment, from, to),
            Match::NoSegment(segment) => index.missing.push(segment),
            Match::Short(..) => {}
        }
        Ok(())
    }

    /// A page is gone: its URL waits again, if it is still known.
    fn lose(
        &mut self,
        crawl: u32,
        segments: &Segments,
        entry: &Entry,
        index: &mut Index,
    ) -> Result<(), RepairError> {
        let at = HostRef { crawl, host: entry.host };
        self.flush()?;
        let Some(UrlState::Fetched(row)) = self.url(at, &entry.id)? else { return Ok(()) };
        if Place::decode(&row.place) != Some(entry.place) {
            // It was found elsewhere.
            return Ok(());
        }
        let Some(known) = salvage(segments, entry) else {
            self.set(keys::url(at, &entry.id), None)?;
            self.done.pages_forgotten += 1;
            index.links = Links::All;
            return Ok(());
        };
        self.done.pages_queued += 1;
        Ok(self.queue(at, &entry.id, known, row.via_host)?)
    }

    /// Puts a URL into its queue.
    pub(super) fn queue(
        &mut self,
        at: HostRef,
        id: &UrlId,
        known: Known,
        via_host: u32,
    ) -> Result<(), StoreError> {
        let mut crawl = self.crawl(at.crawl)?;
        let slot = Slot::untried(0, known.depth, crawl.next_seq);
        crawl.next_seq += 1;
        self.put(keys::crawl(at.crawl), &crawl)?;
        let Known { path, hops, via, off_site, is_seed: exempt, .. } = known;
        let queued =
            QueueRow { path, hops, via, via_host, off_site, exempt, ..QueueRow::default() };
        self.put(keys::queue(at, slot), &queued)?;
        let state = UrlState::Pending(slot.encode().to_vec());
        self.put(keys::url(at, id), &UrlRow { state: Some(state) })?;
        self.flush()
    }

    /// A page lies in the segments: its URL is fetched, unless it is already. `wrong` is the
    /// entry at its place.
    fn adopt(
        &mut self,
        crawl: u32,
        segments: &Segments,
        page: &FoundPage,
        wrong: Option<&Entry>,
        index: &mut Index,
    ) -> Result<(), RepairError> {
        let place = page.place;
        let url = CrawlUrl::parse(&page.meta.url).ok();
        let url = url.filter(|url| url.as_str() == page.meta.url);
        let Some(url) = url else {
            index.put_aside(place.segment, place.offset, place.end());
            return Ok(());
        };
        self.flush()?;
        let at = HostRef { crawl, host: self.host(crawl, &url)? };
        let known = self.url(at, &page.id)?;
        if index.takes(place.segment, place.offset) {
            index.put_aside(place.segment, place.offset, place.end());
            return match Known::of(&page.meta, &page.id).filter(|_| known.is_none()) {
                Some(known) => {
                    self.done.pages_queued += 1;
                    Ok(self.queue(at, &page.id, known, 0)?)
                }
                None => Ok(()),
            };
        }
        let mut via_host = 0;
        match known {
            Some(UrlState::Fetched(row)) => {
                let elsewhere = Place::decode(&row.place).filter(|other| *other != place);
                let is_there = elsewhere.is_some_and(|other| is_page(segments, other, &page.id));
                if is_there {
                    index.put_aside(place.segment, place.offset, place.end());
                    return Ok(());
                }
                via_host = row.via_host;
            }
            Some(UrlState::Pending(slot)) => {
                if let Some(slot) = Slot::decode(&slot) {
                    let row = self.store.get(&keys::queue(at, slot))?;
                    let row = row.and_then(|row| decode::<QueueRow>(&row).ok());
                    via_host = row.map_or(0, |row| row.via_host);
                    self.set(keys::queue(at, slot), None)?;
                }
            }
            Some(UrlState::Ended(row)) => via_host = row.via_host,
            None => {}
        }
        let fetched_at = page.meta.fetched_at.parse::<Timestamp>().unwrap_or_default();
        let row = FetchedRow {
            // No lease brought it.
            token: 0,
            status: page.meta.status.into(),
            place: place.encode().to_vec(),
            sha1: page.sha1.to_vec(),
            fetched_at: u64::try_from(fetched_at.as_millisecond()).unwrap_or_default(),
            via_host,
            ..FetchedRow::default()
        };
        self.put(keys::url(at, &page.id), &UrlRow { state: Some(UrlState::Fetched(row)) })?;
        if wrong.is_none_or(|entry| entry.id != page.id) {
            let mut crawl_row = self.crawl(crawl)?;
            crawl_row.body_bytes += page.meta.bytes;
            crawl_row.wire_bytes += page.meta.wire_bytes;
            self.put(keys::crawl(crawl), &crawl_row)?;
        }
        self.done.pages_found += 1;
        index.links = index.links.max(Links::Found);
        self.flush()?;
        Ok(())
    }

    /// The number of a URL's host, with the rows that a host has.
    fn host(&mut self, crawl: u32, url: &CrawlUrl) -> Result<u32, StoreError> {
        let key = keys::host_number(url.host_key_str());
        let number = self.store.get(&key)?.and_then(|number| number.try_into().ok());
        let number = match number.map(u32::from_be_bytes) {
            Some(number) => number,
            None => {
                let meta = self.store.get(keys::META)?.unwrap_or_default();
                let mut meta: MetaRow = decode(&meta)?;
                let number = meta.next_host;
                meta.next_host += 1;
                self.put(keys::META.to_vec(), &meta)?;
                self.set(key, Some(number.to_be_bytes().to_vec()))?;
                number
            }
        };
        let at = HostRef { crawl, host: number };
        if self.store.get(&keys::host(at))?.is_none() {
            let row = HostRow { key: url.host_key_str().to_owned(), ..HostRow::default() };
            self.put(keys::host(at), &row)?;
        }
        self.flush()?;
        Ok(number)
    }

    pub(super) fn crawl(&mut self, crawl: u32) -> Result<CrawlRow, StoreError> {
        self.flush()?;
        decode(&self.store.get(&keys::crawl(crawl))?.unwrap_or_default())
    }

    /// All that lies in the segments counts from now on.
    fn commit_reach(
        &mut self,
        crawl: u32,
        segments: &Segments,
        reach: Committed,
        index: &Index,
    ) -> Result<(), RepairError> {
        let mut bytes = match std::fs::metadata(segments.path(reach.segment)) {
            Ok(file) => file.len(),
            Err(_) => 0,
        };
        // A piece at the end is cut off.
        let last = index.aside.get(&reach.segment).and_then(|pieces| pieces.last());
        if let Some((from, to)) = last
            && *to == bytes
        {
            bytes = *from;
        }
        if bytes == 0 && reach.segment > 0 {
            bytes = fill::head(segments, reach.segment).len() as u64;
        }
        let mut row = self.crawl(crawl)?;
        if (row.segment, row.segment_bytes) != (reach.segment, bytes) {
            (row.segment, row.segment_bytes) = (reach.segment, bytes);
            self.put(keys::crawl(crawl), &row)?;
            self.done.counts_mended += 1;
        }
        Ok(())
    }
}

/// Whether the page of this URL is at a place.
fn is_page(segments: &Segments, place: Place, id: &UrlId) -> bool {
    let page = segments.page(place);
    page.and_then(|page| {
        page.response()?;
        page.meta()
    })
    .is_ok_and(|meta| UrlId::of(&meta.url) == *id)
}

/// What is still known of a URL that is to wait again.
pub(super) struct Known {
    pub(super) path: String,
    pub(super) depth: u16,
    pub(super) hops: u32,
    pub(super) via: Vec<u8>,
    /// Links from the last page where the crawl's seeds are.
    pub(super) off_site: u32,
    /// Somebody gave it.
    pub(super) is_seed: bool,
}

impl Known {
    /// What a page's metadata tells, if it is the page of this URL.
    fn of(meta: &PageMeta, id: &UrlId) -> Option<Self> {
        let via = meta.via.as_deref().and_then(|via| via.parse::<UrlId>().ok());
        Some(Self {
            path: path_of(&meta.url, id)?,
            depth: u16::try_from(meta.depth).unwrap_or(u16::MAX),
            hops: meta.hops,
            is_seed: via.is_none(),
            via: via.map_or(Vec::new(), |via| via.0.into()),
            off_site: meta.off_site,
        })
    }
}

/// A URL without its host, if it has this id.
pub(super) fn path_of(url: &str, id: &UrlId) -> Option<String> {
    let url = CrawlUrl::parse(url).ok()?;
    (url.id() == *id).then(|| url.path_and_query().to_owned())
}

/// Looks for the URL in the records that are left of its page.
fn salvage(segments: &Segments, entry: &Entry) -> Option<Known> {
    let place = entry.place;
    let file = File::open(segments.path(place.segment)).ok()?;
    let read = |at: u64, length: u32| -> Option<Vec<u8>> {
        if u64::from(length) > RECORD_BYTES_MAX {
            return None;
        }
        let mut member = vec![0; length as usize];
        file.read_exact_at(&mut member, at).ok()?;
        let mut record = Vec::new();
        read_member(&mut &member[..], RECORD_BYTES_MAX, &mut record).ok()?;
        Some(record)
    };
    let metadata = read(place.metadata_at(), place.metadata_len).and_then(|bytes| {
        let meta = serde_json::from_slice(Record::parse(&bytes).ok()?.block).ok()?;
        Known::of(&meta, &entry.id)
    });
    metadata.or_else(|| {
        let records = [(place.offset, place.response_len), (place.request_at(), place.request_len)];
        let uri = |(at, length)| {
            let bytes = read(at, length)?;
            path_of(Record::parse(&bytes).ok()?.field("WARC-Target-URI")?, &entry.id)
        };
        let path = records.into_iter().find_map(uri)?;
        // From how far it came nothing tells any more.
        Some(Known { path, depth: 0, hops: 0, via: Vec::new(), off_site: 0, is_seed: false })
    })
}
