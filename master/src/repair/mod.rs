//! A data directory mended: the index is made anew from what lies in the segments, and
//! the counts from the rows.
//!
//! Promises: pages that lie in the segments whole become fetched, with their links taken
//! in; entries whose page is gone or damaged go back into their queue if their URL is
//! still known, and are forgotten otherwise, so that the URL is fetched when it is met
//! again. Bytes that are nothing are put aside, never deleted: into `DIR/aside`. What is
//! done is durable in an order by which a repair that breaks off can be begun again, and
//! a second repair finds nothing to do.
//!
//! `index` holds the entries against the segments, `fill` puts bytes aside, `recount`
//! brings rows and counts in order, `trial` is a store for finding out what would be done.

mod fill;
mod index;
mod recount;
mod trial;

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use serde::Serialize;
use trawl_shared::{
    units::Size,
    url::{CANON_VERSION, UrlId},
};

use self::{index::Links, trial::Trial};
use crate::{
    data_dir::{DataDir, DataDirError},
    frontier::{Frontier, FrontierError, Limits, Offer},
    pages::{Committed, Find, PageStoreError, Place, Segments, Survey},
    server::StartError,
    sorted::SortError,
    store::{
        Batch, Row, Store, StoreError,
        keys::{self, HostRef},
        rows::{CrawlRow, Finish, MetaRow, UrlRow, UrlState, decode},
        sled::SledStore,
    },
    verify::VerifyError,
};

/// Bytes of the store's page cache.
const CACHE: Size = Size::mib(64);

/// Rows that are read, or changed, together; few, as the store keeps every state of the
/// pages that a batch changes.
const BATCH_ROWS: usize = 200;

/// Rows changed after which they are made durable: the store keeps in memory what is not.
const SYNC_ROWS: usize = 10_000;

/// Pages whose links are taken in, after which that is made durable.
const SYNC_PAGES: u64 = 500;

/// The file in a data directory that is there while a repair has not come to its end.
pub const UNDER_WAY: &str = "repairing";

/// Why nothing was mended, or not all.
#[derive(Debug, thiserror::Error)]
pub enum RepairError {
    /// The data directory cannot be used.
    #[error(transparent)]
    Start(#[from] StartError),
    /// Rows cannot be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Segments cannot be.
    #[error(transparent)]
    Pages(#[from] PageStoreError),
    /// Places could not be sorted.
    #[error(transparent)]
    Sort(#[from] SortError),
    /// Links could not be taken in.
    #[error(transparent)]
    Frontier(#[from] FrontierError),
    /// The master's row is not there, and no other row tells what it told.
    #[error(
        "the row of the frontier that tells the data directory's name, the master's epoch and the \
         rules of its URL ids {0}, and nothing can be mended without it; load a dump into a new \
         directory with `trawl load`"
    )]
    NoMaster(&'static str),
    /// The system said no.
    #[error("could not put bytes aside: {}: {source}", path.display())]
    Aside {
        /// The file.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
}

impl From<VerifyError> for RepairError {
    fn from(error: VerifyError) -> Self {
        match error {
            VerifyError::Sort(error) => error.into(),
            VerifyError::Store(error) => error.into(),
            VerifyError::Pages(error) => error.into(),
        }
    }
}

/// What was done, or would be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Repaired {
    /// Pages in the segments that the frontier did not know, and knows now.
    pub pages_found: u64,
    /// Pages that were gone or damaged, and whose URLs wait again.
    pub pages_queued: u64,
    /// URLs that are not known any more: of pages that were gone or damaged, and of rows
    /// that do not tell them.
    pub pages_forgotten: u64,
    /// URLs taken in of the pages' links.
    pub links_taken_in: u64,
    /// Bytes put aside.
    pub aside_bytes: u64,
    /// Segments that were missing, and are there now, without a page.
    pub segments_made: u64,
    /// Rows written or removed to bring queues, visited set, hosts, leases and quarantine in
    /// order.
    pub rows_mended: u64,
    /// Counts set right.
    pub counts_mended: u64,
    /// What cannot be mended.
    pub left: Vec<String>,
}

impl Repaired {
    /// Whether there was nothing to do.
    pub fn is_nothing(&self) -> bool {
        *self == Self { left: self.left.clone(), ..Self::default() }
    }
}

/// Mends the data directory at `path`, or only finds out what there is to mend.
///
/// # Errors
/// If it is in use, or something cannot be read or written. What was done until then is
/// done, and the rest can be done by another repair.
pub fn repair(path: &Path, is_trial: bool) -> Result<Repaired, RepairError> {
    let data = DataDir::open(path).map_err(StartError::from)?;
    data.check_frontier().map_err(StartError::from)?;
    let store = SledStore::open(&data.frontier(), CACHE)?;
    if is_trial { mend(Trial::new(store), &data, true) } else { mend(store, &data, false) }
}

fn mend<S: Store>(store: S, data: &DataDir, is_trial: bool) -> Result<Repaired, RepairError> {
    if is_new(&store, data)? {
        return Ok(Repaired::default());
    }
    let mark = Mark(data.path().join(UNDER_WAY));
    let broke_off = mark.is_there()?;
    if !is_trial {
        mark.set()?;
    }
    let mut repair = Repair { store, batch: Batch::new(), unsynced: 0, done: Repaired::default() };
    let mut crawls = Vec::new();
    for (number, row) in repair.crawls()? {
        let segments = Segments::new(&data.pages(&row.name), &row.name)?;
        let index = repair.index(number, &segments, data)?;
        repair.flush()?;
        repair.store.sync()?;
        if !is_trial {
            fill::put_aside(data, &segments, &index)?;
        }
        crawls.push((number, segments, if broke_off { Links::All } else { index.links }));
    }
    let forgetful = repair.recount()?;
    repair.flush()?;
    repair.store.sync()?;
    for (number, _, links) in &mut crawls {
        if forgetful.contains(number) {
            *links = Links::All;
        }
    }
    crawls.retain(|(_, _, links)| *links > Links::None);
    let Repair { store, mut done, .. } = repair;
    if !crawls.is_empty() {
        let store = take_links_in(store, crawls, &mut done)?;
        let mut repair = Repair { store, batch: Batch::new(), unsynced: 0, done };
        repair.wake_crawls()?;
        repair.flush()?;
        repair.store.sync()?;
        done = repair.done;
    }
    if !is_trial {
        mark.remove()?;
    }
    Ok(done)
}

/// Whether no master has got as far as to write its row, so that there is nothing to mend.
///
/// # Errors
/// If the row is gone from a store in use, or tells of rules that this build does not have.
fn is_new(store: &impl Store, data: &DataDir) -> Result<bool, RepairError> {
    let Some(row) = store.get(keys::META)? else {
        let is_empty = store.range(keys::ALL.0, keys::ALL.1).next().is_none();
        if is_empty && !data.path().join("pages").exists() {
            return Ok(true);
        }
        return Err(RepairError::NoMaster("is gone"));
    };
    match decode::<MetaRow>(&row) {
        // Every master writes it.
        Ok(MetaRow { canon_version: 0, .. }) | Err(_) => {
            Err(RepairError::NoMaster("cannot be read"))
        }
        Ok(MetaRow { canon_version: CANON_VERSION, .. }) => Ok(false),
        Ok(meta) => Err(FrontierError::Canon { found: meta.canon_version }.into()),
    }
}

/// A file that is there while a repair is under way. Its rows tell no more that links
/// have still to be taken in once a repair has broken off: the next one takes in all.
struct Mark(PathBuf);

impl Mark {
    fn is_there(&self) -> Result<bool, RepairError> {
        self.0.try_exists().map_err(|error| self.failed(error))
    }

    fn set(&self) -> Result<(), RepairError> {
        let set = File::create(&self.0).and_then(|file| file.sync_all());
        set.and_then(|()| self.sync_dir()).map_err(|error| self.failed(error))
    }

    fn remove(&self) -> Result<(), RepairError> {
        let removed = fs::remove_file(&self.0);
        removed.and_then(|()| self.sync_dir()).map_err(|error| self.failed(error))
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.0.parent().map_or(Ok(()), |dir| File::open(dir)?.sync_all())
    }

    fn failed(&self, source: io::Error) -> RepairError {
        let path = self.0.display().to_string();
        StartError::from(DataDirError::Io { path, source }).into()
    }
}

/// Offers the links of pages to the frontier as if they had just come: of those found, and
/// if URLs were forgotten, of all, so that they are met again.
fn take_links_in<S: Store>(
    store: S,
    crawls: Vec<(u32, Segments, Links)>,
    done: &mut Repaired,
) -> Result<S, RepairError> {
    let (mut frontier, now) = Frontier::open(store, Limits::default(), "")?;
    let known = |frontier: &Frontier<S>| -> u64 {
        frontier.status(None).iter().map(|crawl| crawl.discovered).sum()
    };
    let before = known(&frontier);
    let mut pages = 0u64;
    for (number, segments, links) in crawls {
        let mut survey = Survey::of_all(segments, Committed::default())?;
        while let Some(find) = survey.next_find()? {
            let Find::Page(page) = find else { continue };
            let Some((at, row)) = frontier.fetched(number, &page.meta.url)? else { continue };
            let is_meant = links == Links::All || row.token == 0;
            if !is_meant || Place::decode(&row.place) != Some(page.place) {
                continue;
            }
            let links = page.meta.outlinks.iter().filter(|link| !link.nofollow);
            let links = links.map(|link| (&link.url, 0));
            let redirect = page.meta.location.iter().map(|url| (url, page.meta.hops + 1));
            let offer =
                |(url, hops): (&String, u32)| Offer { url: url.clone(), hops, ..Offer::default() };
            let offers: Vec<Offer> = redirect.chain(links).map(offer).collect();
            let depth = u16::try_from(page.meta.depth).unwrap_or(u16::MAX);
            frontier.offer_again(at, &offers, depth, page.meta.off_site, &page.id)?;
            frontier.commit(now)?;
            pages += 1;
            if pages.is_multiple_of(SYNC_PAGES) {
                frontier.sync()?;
            }
        }
    }
    frontier.checkpoint(now)?;
    frontier.sync()?;
    done.links_taken_in = known(&frontier) - before;
    Ok(frontier.into_store())
}

/// A repair under way.
struct Repair<S> {
    store: S,
    /// Changes that wait to be written together; none of them is read before.
    batch: Batch,
    /// Rows changed since they were durable.
    unsynced: usize,
    done: Repaired,
}

impl<S: Store> Repair<S> {
    fn crawls(&self) -> Result<Vec<(u32, CrawlRow)>, StoreError> {
        let rows = self.store.range(keys::CRAWLS.0, keys::CRAWLS.1);
        rows.map(|row| {
            let (key, value) = row?;
            let number = key.get(1..).and_then(|number| number.try_into().ok());
            let number = number.ok_or_else(|| StoreError::Damaged("a crawl's key".into()))?;
            Ok((u32::from_be_bytes(number), decode(&value)?))
        })
        .collect()
    }

    /// Writes a row, or removes it, at the latest with the next [`Repair::flush`].
    fn set(&mut self, key: Vec<u8>, row: Option<Vec<u8>>) -> Result<(), StoreError> {
        self.batch.push((key, row));
        if self.batch.len() >= BATCH_ROWS { self.flush() } else { Ok(()) }
    }

    fn put(&mut self, key: Vec<u8>, row: &impl prost::Message) -> Result<(), StoreError> {
        self.set(key, Some(row.encode_to_vec()))
    }

    fn flush(&mut self) -> Result<(), StoreError> {
        if self.batch.is_empty() {
            return Ok(());
        }
        self.unsynced += self.batch.len();
        self.store.apply(std::mem::take(&mut self.batch))?;
        if self.unsynced >= SYNC_ROWS {
            self.unsynced = 0;
            self.store.sync()?;
        }
        Ok(())
    }

    /// Some rows of a range, the first of them or those after a key; they may be changed
    /// before the next ones are read.
    fn some_rows(
        &self,
        range: &(Vec<u8>, Vec<u8>),
        after: Option<&[u8]>,
    ) -> Result<Vec<Row>, StoreError> {
        let from = after.map_or_else(|| range.0.clone(), |key| [key, &[0]].concat());
        self.store.range(&from, &range.1).take(BATCH_ROWS).collect()
    }

    fn url(&self, at: HostRef, id: &UrlId) -> Result<Option<UrlState>, StoreError> {
        let row = self.store.get(&keys::url(at, id))?;
        // What cannot be read is as good as nothing.
        Ok(row.and_then(|row| decode::<UrlRow>(&row).ok()).and_then(|row| row.state))
    }

    /// Lets crawls go on that had ended, and have something to do again.
    fn wake_crawls(&mut self) -> Result<(), StoreError> {
        for (number, mut row) in self.crawls()? {
            if row.finish == Finish::Complete as i32 && row.queued > 0 {
                row.finish = Finish::Running as i32;
                self.put(keys::crawl(number), &row)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
