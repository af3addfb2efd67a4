//! A data directory that nothing runs on, read row by row and record by record, and everything in
//! it held against everything else.
//!
//! It reads the store's rows by itself, and so finds what the master's own code would not ask for.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Display,
    path::Path,
};

use prost::Message;
use sha1::{Digest, Sha1};
use trawl_master::{
    data_dir::DataDir,
    pages::{Committed, PageStore, Place, Scan},
    store::{
        Row, Store,
        keys::{self, HostRef, Slot},
        rows::{CrawlRow, HostRow, QueueRow, UrlRow, UrlState},
        sled::SledStore,
    },
};
use trawl_shared::{outcome::Class, units::Size, url::UrlId};

/// What a data directory with one crawl in it holds, after nothing in it contradicted anything
/// else.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Audit {
    /// Every URL that was ever taken in and is still waiting.
    pub waiting: BTreeSet<String>,
    /// Every page: its body's SHA-1, of the record itself, and its links as the record tells them.
    pub pages: BTreeMap<String, (String, Vec<String>)>,
    /// URLs that ended without an answer.
    pub ended: BTreeSet<String>,
}

impl Audit {
    /// Whether a URL is known.
    pub fn knows(&self, url: &str) -> bool {
        self.waiting.contains(url) || self.pages.contains_key(url) || self.ended.contains(url)
    }
}

/// Opens a data directory with one crawl in it, and compares all it holds.
///
/// # Errors
/// If it cannot be opened, or something in it is lost, torn, or counted wrongly.
pub fn audit(path: &Path) -> Result<Audit, String> {
    let data = DataDir::open(path).map_err(text)?;
    let store = SledStore::open(&data.frontier(), Size::mib(16)).map_err(text)?;
    let Some((crawl, row)) = only_crawl(&store)? else { return Ok(Audit::default()) };
    let hosts = hosts(&store, crawl)?;
    let key_of = |at: HostRef| hosts.get(&at.host).ok_or_else(|| format!("no host {}", at.host));

    let mut found = Audit::default();
    let mut places = BTreeSet::new();
    for (key, value) in rows(&store, keys::queues(crawl))? {
        let (at, slot) = keys::host_of(&key).zip(keys::slot_of(&key)).ok_or("a queue's key")?;
        let url = format!("{}{}", key_of(at)?, QueueRow::decode(&*value).map_err(text)?.path);
        places.insert((at, UrlId::of(&url), slot));
        found.waiting.insert(url);
    }
    equal("queue rows and URLs in them", places.len(), found.waiting.len())?;

    let committed = Committed { segment: row.segment, bytes: row.segment_bytes };
    let directory = data.pages(&row.name);
    let opened = PageStore::open(&directory, &row.name, committed, Size::mib(1)).map_err(text)?;
    let segments = opened.segments().clone();
    let mut classes = BTreeMap::<u8, u64>::new();
    let mut records = BTreeSet::new();
    let mut pending = BTreeSet::new();
    for (key, value) in rows(&store, keys::urls(crawl))? {
        let (at, id) = keys::url_of(&key).ok_or("a URL's key")?;
        match UrlRow::decode(&*value).map_err(text)?.state.ok_or("a URL without a state")? {
            UrlState::Pending(slot) => {
                pending.insert((at, id, Slot::decode(&slot).ok_or("a slot")?));
            }
            UrlState::Fetched(row) => {
                let place = Place::decode(&row.place).ok_or("a place")?;
                let page = segments.page(place).map_err(text)?;
                let meta = page.meta().map_err(text)?;
                equal("a page's URL and where it is found", UrlId::of(&meta.url), id)?;
                let body = page.body(&meta).map_err(text)?;
                let sha1: [u8; 20] = Sha1::digest(&body).into();
                equal("a page's digest and that of its record", &row.sha1[..], &sha1[..])?;
                let links = meta.outlinks.into_iter().map(|link| link.url).collect();
                found.pages.insert(meta.url, (hex(&sha1), links));
                records.insert(place.encode());
                let class = Class::of_status(u16::try_from(row.status).map_err(text)?);
                *classes.entry(class.number()).or_default() += 1;
            }
            UrlState::Ended(row) => {
                *classes.entry(u8::try_from(row.class).map_err(text)?).or_default() += 1;
                found.ended.insert(format!("{}{}", key_of(at)?, row.path));
            }
        }
    }
    equal("URLs that wait and their places", &pending, &places)?;

    let mut scan = Scan::new(segments, committed);
    let mut scanned = BTreeSet::new();
    while let Some(page) = scan.next_page().map_err(text)? {
        scanned.insert(page.place.encode());
    }
    equal("records, and rows that point at them", scanned.len(), records.len())?;
    equal("records, and rows that point at them", &scanned, &records)?;

    let counted = |class: &Class| row.outcomes.get(usize::from(class.number())).copied();
    let counts: BTreeMap<_, _> = Class::all()
        .filter_map(|class| Some((class.number(), counted(&class).filter(|count| *count > 0)?)))
        .collect();
    equal("URLs ended and their counts", &classes, &counts)?;
    equal("URLs waiting or lent and their count", pending.len() as u64, row.queued + row.leased)?;
    let all = pending.len() + found.pages.len() + found.ended.len();
    equal("URLs and their count", all as u64, row.discovered)?;
    Ok(found)
}

fn only_crawl(store: &SledStore) -> Result<Option<(u32, CrawlRow)>, String> {
    let (from, to) = keys::CRAWLS;
    let mut crawls = rows(store, (from.to_vec(), to.to_vec()))?.into_iter();
    let Some((key, value)) = crawls.next() else { return Ok(None) };
    equal("crawls after the first", crawls.len(), 0)?;
    let number = key[1..].try_into().map_err(text)?;
    Ok(Some((u32::from_be_bytes(number), CrawlRow::decode(&*value).map_err(text)?)))
}

/// The crawl's hosts by number. Each one's count is looked at too.
fn hosts(store: &SledStore, crawl: u32) -> Result<BTreeMap<u32, String>, String> {
    let mut hosts = BTreeMap::new();
    for (key, value) in rows(store, keys::hosts(crawl))? {
        let at = keys::host_of(&key).ok_or("a host's key")?;
        hosts.insert(at.host, HostRow::decode(&*value).map_err(text)?.key);
    }
    Ok(hosts)
}

fn rows(store: &SledStore, (from, to): (Vec<u8>, Vec<u8>)) -> Result<Vec<Row>, String> {
    store.range(&from, &to).collect::<Result<_, _>>().map_err(text)
}

fn equal<T: PartialEq + std::fmt::Debug>(what: &str, one: T, other: T) -> Result<(), String> {
    if one == other {
        return Ok(());
    }
    let mut told = format!("{what} differ: {one:?} and {other:?}");
    told.truncate(2_000);
    Err(told)
}

fn text(error: impl Display) -> String {
    error.to_string()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
