//! Reading a dump back, into a data directory of its own.
//!
//! The directory counts as one only when all of it is there and durable: its format
//! is written last. It is another one than that which was dumped, with another name:
//! workers that come back to it forget what they held, since the master that lent it
//! may have gone on after the dump. So leases become queued URLs, and their hosts wait
//! a full delay from then on.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::{self, BufRead, BufReader, Read},
    path::{Path, PathBuf},
};

use flate2::bufread::MultiGzDecoder;
use prost::Message;
use trawl_shared::{units::Size, url::CANON_VERSION};

use super::{Counts, DUMP_FORMAT, EndLine, Head, LINE_BYTES_MAX, Sums, words::Words};
use crate::{
    data_dir::{DataDir, DataDirError, FORMAT},
    pages::{PageStoreError, Segments},
    server::new_instance,
    store::{
        Batch, Store, StoreError,
        keys::{self, HostRef, Slot},
        rows::{CrawlRow, GateRow, HostRow, LeaseRow, MetaRow, decode},
        sled::SledStore,
    },
};

/// Bytes of the store's page cache while it is filled.
const CACHE: Size = Size::mib(64);

/// Rows that are written together. While a batch is applied the store keeps every state of
/// the pages that it changes: with ten times as many it takes ten times the memory.
const BATCH_ROWS: usize = 200;

/// Rows after which they are made durable: the store keeps in memory what is not.
const SYNC_ROWS: u64 = 10_000;

/// What was loaded.
#[derive(Clone, Debug, Default)]
pub struct Loaded {
    /// What the dump held.
    pub counts: Counts,
    /// URLs that were lent and now wait.
    pub recalled: u64,
    /// Segments taken over.
    pub segments: u64,
    /// Segments that the dump tells of and that were not there.
    pub segments_missing: u64,
    /// Bytes of pages that the dump does not know.
    pub newer_bytes: u64,
}

/// Why a dump was not loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// It does not begin as one.
    #[error("this is no dump of trawl's: {0}")]
    NotADump(String),
    /// It was made by a later trawl.
    #[error(
        "the dump has format {found} and was made by trawl {version}; this trawl knows formats \
         up to {DUMP_FORMAT}, and data directories up to {FORMAT}: use that version, or a later one"
    )]
    TooNew {
        /// Its format.
        found: u32,
        /// Who made it.
        version: String,
    },
    /// Its URLs are by other rules.
    #[error(
        "the dump's URLs were made canonical by rules of version {0}, which are not known here"
    )]
    Canon(u32),
    /// A line is not what it was.
    #[error(
        "line {line} of the dump is damaged: {why}; nothing was loaded, take another copy of it"
    )]
    Damaged {
        /// The line, counted from 1.
        line: u64,
        /// What is wrong.
        why: String,
    },
    /// The end is missing.
    #[error(
        "the dump breaks off after line {line}: it is not whole; nothing was loaded, take another \
         copy of it"
    )]
    Cut {
        /// The last whole line.
        line: u64,
    },
    /// There is something already.
    #[error("{} is not empty: a dump is loaded into a directory of its own", .0.display())]
    NotEmpty(PathBuf),
    /// It cannot be read.
    #[error("could not read the dump: {0}")]
    Read(#[source] io::Error),
    /// The data directory cannot be used.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// The rows cannot be written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Segments cannot be.
    #[error(transparent)]
    Pages(#[from] PageStoreError),
    /// A segment cannot be taken over.
    #[error("could not take over {}: {source}", path.display())]
    Segment {
        /// The segment.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// Loads a dump, compressed or not, into the empty or missing directory `to`. Segments
/// are taken over from `pages`; those that may still change are copied, the others
/// linked where that is possible. `told` hears now and then how many lines there were.
///
/// # Errors
/// If the dump is not whole, or something cannot be read or written. Then there is
/// no data directory.
pub fn load(
    from: impl Read,
    to: &Path,
    pages: Option<&Path>,
    told: &mut dyn FnMut(u64),
) -> Result<Loaded, LoadError> {
    let data = DataDir::begin(to)?.ok_or_else(|| LoadError::NotEmpty(to.into()))?;
    match fill(from, &data, pages, told) {
        Ok(loaded) => {
            data.finish()?;
            Ok(loaded)
        }
        Err(error) => {
            // Without a format it is no data directory; but it should be in nobody's way.
            for half in [data.frontier(), data.path().join("pages")] {
                let _ = fs::remove_dir_all(half);
            }
            Err(error)
        }
    }
}

fn fill(
    from: impl Read,
    data: &DataDir,
    pages: Option<&Path>,
    told: &mut dyn FnMut(u64),
) -> Result<Loaded, LoadError> {
    let mut from = BufReader::new(from);
    let is_gzip = from.fill_buf().map_err(LoadError::Read)?.starts_with(&[0x1f, 0x8b]);
    let mut lines: Box<dyn BufRead> =
        if is_gzip { Box::new(BufReader::new(MultiGzDecoder::new(from))) } else { Box::new(from) };
    let mut store = SledStore::open(&data.frontier(), CACHE)?;
    let counts = read(&mut *lines, &mut store, told)?;
    let mut loaded = Loaded { counts, ..Loaded::default() };
    loaded.recalled = recall_leases(&mut store)?;
    store.sync()?;
    take_pages(&store, data, pages, &mut loaded)?;
    Ok(loaded)
}

/// Reads all lines into the store.
pub(super) fn read(
    from: &mut dyn BufRead,
    store: &mut impl Store,
    told: &mut dyn FnMut(u64),
) -> Result<Counts, LoadError> {
    let mut lines = Lines { from, number: 0, sums: Sums::new() };
    let head = lines.next()?.ok_or_else(|| LoadError::NotADump("it is empty".into()))?;
    let head: Head = serde_json::from_str(&head)
        .map_err(|error| LoadError::NotADump(format!("its first line does not say so: {error}")))?;
    if head.dump > DUMP_FORMAT || head.format > FORMAT {
        return Err(LoadError::TooNew { found: head.dump.max(head.format), version: head.trawl });
    }
    if head.canon != CANON_VERSION {
        return Err(LoadError::Canon(head.canon));
    }
    let mut counts = Counts::default();
    let mut batch = Batch::new();
    loop {
        let sha1 = lines.sums.sha1.clone();
        let Some(line) = lines.next()? else { return Err(LoadError::Cut { line: lines.number }) };
        if line.starts_with("{\"end\":") {
            let end: EndLine = serde_json::from_str(&line).map_err(|error| lines.damaged(error))?;
            let sums = Sums { sha1, ..Sums::new() };
            if end.end.sha1 != sums.sha1() || end.end.counts != counts {
                return Err(lines.damaged("it tells of other lines than those before it"));
            }
            if lines.next()?.is_some() {
                return Err(lines.damaged("something follows the end"));
            }
            store.apply(batch)?;
            return Ok(counts);
        }
        let words: Words = serde_json::from_str(&line).map_err(|error| lines.damaged(error))?;
        let change = words.change().ok_or_else(|| lines.damaged("a word in it is unknown"))?;
        counts.lines += 1;
        *counts.rows.entry(words.table().to_owned()).or_default() += 1;
        batch.push(change);
        if batch.len() == BATCH_ROWS {
            store.apply(std::mem::take(&mut batch))?;
            if counts.lines % SYNC_ROWS < BATCH_ROWS as u64 {
                store.sync()?;
            }
            told(counts.lines);
        }
    }
}

/// The lines of a dump, each held against its sum.
struct Lines<'a> {
    from: &'a mut dyn BufRead,
    number: u64,
    sums: Sums,
}

impl Lines<'_> {
    /// The next line without its sum; none at the end of the file.
    fn next(&mut self) -> Result<Option<String>, LoadError> {
        let mut line = Vec::new();
        let mut limited = (&mut *self.from).take(LINE_BYTES_MAX as u64);
        match limited.read_until(b'\n', &mut line) {
            Ok(0) => return Ok(None),
            Ok(_) => {}
            // What a cut gzip file ends with.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                return Err(LoadError::Cut { line: self.number });
            }
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData
                ) =>
            {
                self.number += 1;
                return Err(self.damaged(error));
            }
            Err(error) => return Err(LoadError::Read(error)),
        }
        if line.pop() != Some(b'\n') {
            if line.len() + 1 < LINE_BYTES_MAX {
                return Err(LoadError::Cut { line: self.number });
            }
            self.number += 1;
            return Err(self.damaged("it is far too long"));
        }
        self.number += 1;
        let line = String::from_utf8(line).map_err(|_| self.damaged("it is not text"))?;
        let parts = line.strip_prefix("{\"sum\":\"").and_then(|rest| rest.split_once("\","));
        let Some((sum, rest)) = parts else {
            return Err(match self.number {
                1 => LoadError::NotADump("its first line has no sum".into()),
                _ => self.damaged("it has no sum"),
            });
        };
        let json = format!("{{{rest}");
        if self.sums.add(&json) != sum {
            return Err(self.damaged("its sum is of another line, or lines before it are missing"));
        }
        Ok(Some(json))
    }

    fn damaged(&self, why: impl ToString) -> LoadError {
        LoadError::Damaged { line: self.number, why: why.to_string() }
    }
}

/// Ends every lease: its URLs wait, as if handed back. The directory gets a name of its
/// own, and an epoch that was not given yet. Returns how many URLs were lent.
fn recall_leases(store: &mut impl Store) -> Result<u64, StoreError> {
    let Some(meta) = store.get(keys::META)? else { return Ok(0) };
    let mut meta: MetaRow = decode(&meta)?;
    meta.instance = new_instance();
    meta.epoch += 1;
    let mut batch: Batch = vec![(keys::META.to_vec(), Some(meta.encode_to_vec()))];
    let mut by_host: BTreeMap<HostRef, BTreeSet<Slot>> = BTreeMap::new();
    for row in store.range(keys::LEASES.0, keys::LEASES.1) {
        let (key, value) = row?;
        let row: LeaseRow = decode(&value)?;
        let at = HostRef { crawl: row.crawl, host: row.host };
        for slot in row.slots.chunks(Slot::BYTES).filter_map(Slot::decode) {
            // What had ended has left its place.
            if store.get(&keys::queue(at, slot))?.is_some() {
                by_host.entry(at).or_default().insert(slot);
            }
        }
        batch.push((key, None));
    }
    let mut by_crawl: BTreeMap<u32, u64> = BTreeMap::new();
    for (at, slots) in by_host {
        let urls = slots.len() as u64;
        *by_crawl.entry(at.crawl).or_default() += urls;
        if let Some(row) = store.get(&keys::host(at))? {
            let mut row: HostRow = decode(&row)?;
            row.queued += urls;
            batch.push((keys::host(at), Some(row.encode_to_vec())));
        }
        let gate = store.get(&keys::gate(at.host))?.map(|row| decode::<GateRow>(&row));
        let gate = GateRow {
            freed_at: meta.clock,
            unvisited: false,
            ..gate.transpose()?.unwrap_or_default()
        };
        batch.push((keys::gate(at.host), Some(gate.encode_to_vec())));
    }
    for (crawl, urls) in &by_crawl {
        if let Some(row) = store.get(&keys::crawl(*crawl))? {
            let mut row: CrawlRow = decode(&row)?;
            row.queued += urls;
            row.leased = row.leased.saturating_sub(*urls);
            batch.push((keys::crawl(*crawl), Some(row.encode_to_vec())));
        }
    }
    store.apply(batch)?;
    Ok(by_crawl.values().sum())
}

/// Takes the segments of every crawl over, as far as they are there.
fn take_pages(
    store: &impl Store,
    data: &DataDir,
    pages: Option<&Path>,
    loaded: &mut Loaded,
) -> Result<(), LoadError> {
    for row in store.range(keys::CRAWLS.0, keys::CRAWLS.1) {
        let row: CrawlRow = decode(&row?.1)?;
        let to = Segments::new(&data.pages(&row.name), &row.name)?;
        let from = pages.map(|pages| pages.join(&row.name)).filter(|from| from.is_dir());
        let Some(from) = from else {
            loaded.segments_missing += u64::from(row.segment);
            continue;
        };
        let from = Segments::new(&from, &row.name)?;
        let found = from.list()?;
        fs::create_dir_all(to.dir()).map_err(|source| segment(to.dir(), source))?;
        for (number, bytes) in &found {
            let (old, new) = (from.path(*number), to.path(*number));
            // The last one may still be written to, or cut off at its end.
            let is_closed = *number < row.segment;
            let put = if is_closed && fs::hard_link(&old, &new).is_ok() {
                Ok(())
            } else {
                fs::copy(&old, &new).map(|_| ())
            };
            // Also what is linked may have been written a moment ago.
            let durable = put.and_then(|()| File::open(&new)?.sync_all());
            durable.map_err(|source| segment(&old, source))?;
            loaded.segments += 1;
            loaded.newer_bytes += match number.cmp(&row.segment) {
                std::cmp::Ordering::Less => 0,
                std::cmp::Ordering::Equal => bytes.saturating_sub(row.segment_bytes),
                std::cmp::Ordering::Greater => *bytes,
            };
        }
        to.sync_dir()?;
        let is_missing = |number: &u32| match found.get(number) {
            Some(bytes) => *number == row.segment && *bytes < row.segment_bytes,
            None => true,
        };
        loaded.segments_missing += (1..=row.segment).filter(is_missing).count() as u64;
    }
    let all = data.path().join("pages");
    if all.is_dir() {
        File::open(&all).and_then(|dir| dir.sync_all()).map_err(|source| segment(&all, source))?;
    }
    Ok(())
}

fn segment(path: &Path, source: io::Error) -> LoadError {
    LoadError::Segment { path: path.into(), source }
}

impl LoadError {
    /// Whether the disk is full.
    pub fn is_disk_full(&self) -> bool {
        match self {
            Self::DataDir(error) => error.is_disk_full(),
            Self::Store(error) => matches!(error, StoreError::DiskFull),
            Self::Pages(error) => error.is_disk_full(),
            Self::Segment { source, .. } => source.kind() == io::ErrorKind::StorageFull,
            _ => false,
        }
    }
}
