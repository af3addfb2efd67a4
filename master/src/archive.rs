//! A data directory that no master is running on: its crawls and their pages. It is
//! read as it is; nothing of the crawls changes by that.

use std::path::{Path, PathBuf};

use trawl_shared::{
    canon::Canon,
    units::Size,
    url::{CANON_VERSION, CrawlUrl},
};

use crate::{
    data_dir::DataDir,
    frontier::{FrontierError, StoredSpec},
    pages::{Committed, CrawlPages, PageStoreError, Place, ReadError, StoredPage},
    server::StartError,
    store::{
        Batch, Store, StoreError,
        keys::{self, HostRef},
        rows::{CrawlRow, MetaRow, UrlRow, UrlState, decode},
        sled::SledStore,
    },
};

/// Bytes of the store's page cache; look-ups are few.
const CACHE: Size = Size::mib(16);

/// Rows that are handed out together.
const WALK_ROWS: usize = 2_000;

/// A data directory, opened to read.
#[derive(Debug)]
pub struct Archive {
    data: DataDir,
    store: SledStore,
}

/// Why a page or a crawl could not be had.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// No crawl of that name.
    #[error("there is no crawl {name:?} in this data directory; it has {crawls}")]
    NoSuchCrawl {
        /// What was asked for.
        name: String,
        /// What there is.
        crawls: String,
    },
    /// Several crawls, and none was named.
    #[error("the data directory holds several crawls ({crawls}); choose one with --crawl")]
    WhichCrawl {
        /// What there is.
        crawls: String,
    },
    /// The frontier's store cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The segments cannot be read.
    #[error(transparent)]
    Pages(#[from] PageStoreError),
    /// The page cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
}

/// What an archive has of a URL.
#[derive(Debug)]
pub enum Found {
    /// Its page.
    Page(StoredPage),
    /// The crawl never heard of it.
    Unknown,
    /// It waits to be fetched.
    Pending,
    /// It ended without an answer, for this reason.
    Ended(String),
}

impl Archive {
    /// Opens a data directory.
    ///
    /// # Errors
    /// If there is none, or a master is running on it.
    pub fn open(path: &Path) -> Result<Self, StartError> {
        let data = DataDir::open_with_frontier(path)?;
        let store = SledStore::open(&data.frontier(), CACHE).map_err(FrontierError::from)?;
        let meta = store.get(keys::META).map_err(FrontierError::from)?;
        let meta: MetaRow = decode(&meta.unwrap_or_default()).map_err(FrontierError::from)?;
        // 0: no master has got as far as to write its row.
        if !matches!(meta.canon_version, 0 | CANON_VERSION) {
            return Err(FrontierError::Canon { found: meta.canon_version }.into());
        }
        Ok(Self { data, store })
    }

    /// The pages of the crawl of this name, or of the only one.
    ///
    /// # Errors
    /// If there is no such crawl, or several and no name.
    pub fn crawl(&self, name: Option<&str>) -> Result<CrawlPages, ArchiveError> {
        let mut crawls = self.crawls()?;
        let names: Vec<&str> = crawls.iter().map(|crawl| crawl.name.as_str()).collect();
        let names = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
        crawls.retain(|crawl| name.is_none_or(|name| crawl.name == name));
        match crawls.pop() {
            Some(crawl) if crawls.is_empty() => Ok(crawl),
            Some(_) => Err(ArchiveError::WhichCrawl { crawls: names }),
            None => Err(ArchiveError::NoSuchCrawl {
                name: name.unwrap_or_default().to_owned(),
                crawls: names,
            }),
        }
    }

    fn crawls(&self) -> Result<Vec<CrawlPages>, ArchiveError> {
        let (from, to) = keys::CRAWLS;
        let rows = self.store.range(from, to).map(|row| {
            let (key, value) = row?;
            let number = key.get(1..).and_then(|number| number.try_into().ok());
            let number = number.ok_or_else(|| damaged("a crawl's key"))?;
            let row: CrawlRow = decode(&value)?;
            Ok(CrawlPages {
                crawl: u32::from_be_bytes(number),
                directory: self.data.pages(&row.name),
                name: row.name,
                committed: Committed { segment: row.segment, bytes: row.segment_bytes },
            })
        });
        rows.collect()
    }

    /// What there is of a URL.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn find(&self, crawl: &CrawlPages, url: &CrawlUrl) -> Result<Found, ArchiveError> {
        Ok(match self.look_up(crawl.crawl, url)? {
            None => Found::Unknown,
            Some(UrlState::Pending(_)) => Found::Pending,
            Some(UrlState::Ended(row)) => Found::Ended(row.detail),
            Some(UrlState::Fetched(row)) => {
                let place = Place::decode(&row.place).ok_or_else(|| damaged("a page's place"))?;
                Found::Page(crawl.segments()?.page(place)?)
            }
        })
    }

    /// A URL by the rules of canonical form that a crawl has chosen.
    fn canonical(&self, crawl: u32, url: &CrawlUrl) -> Result<CrawlUrl, StoreError> {
        let Some(row) = self.store.get(&keys::crawl(crawl))? else { return Ok(url.clone()) };
        let spec = StoredSpec::read(&self.store, crawl, &decode(&row)?)?.spec;
        let canon = Canon::new(&spec.canon, &spec.drop_params);
        let canon = canon.map_err(|_| damaged("a specification"))?;
        Ok(canon.apply(url).unwrap_or_else(|| url.clone()))
    }

    fn look_up(&self, crawl: u32, url: &CrawlUrl) -> Result<Option<UrlState>, StoreError> {
        let url = self.canonical(crawl, url)?;
        let Some(host) = self.store.get(&keys::host_number(url.host_key_str()))? else {
            return Ok(None);
        };
        let host = host.try_into().map_err(|_| damaged("a host's number"))?;
        let at = HostRef { crawl, host: u32::from_be_bytes(host) };
        let row = self.store.get(&keys::url(at, &url.id()))?;
        let row = row.map(|row| decode::<UrlRow>(&row)).transpose()?;
        Ok(row.and_then(|row| row.state))
    }

    /// The first rows of the store, or those after a key; none at the end.
    ///
    /// # Errors
    /// If a row cannot be read.
    pub fn rows(&self, after: Option<&[u8]>) -> Result<Batch, StoreError> {
        // The next key after one is the same with a zero behind it.
        let from = after.map_or_else(|| keys::ALL.0.to_vec(), |key| [key, &[0]].concat());
        let rows = self.store.range(&from, keys::ALL.1).take(WALK_ROWS);
        rows.map(|row| row.map(|(key, value)| (key, Some(value)))).collect()
    }

    /// Names the data directory; empty if no master has got as far as to name it.
    ///
    /// # Errors
    /// If the row cannot be read.
    pub fn instance(&self) -> Result<String, StoreError> {
        let meta: MetaRow = decode(&self.store.get(keys::META)?.unwrap_or_default())?;
        Ok(meta.instance)
    }

    /// A place for temporary files.
    pub fn tmp(&self) -> PathBuf {
        self.data.tmp()
    }
}

fn damaged(what: &str) -> StoreError {
    StoreError::Damaged(format!("{what} cannot be read"))
}

#[cfg(test)]
mod tests {
    use trawl_shared::spec::CrawlSpec;

    use super::*;
    use crate::frontier::{Frontier, Limits};

    fn url(text: &str) -> CrawlUrl {
        CrawlUrl::parse(text).unwrap()
    }

    /// A data directory with two crawls, each with a seed.
    fn written(path: &Path) {
        let data = DataDir::open_or_create(path).unwrap();
        let store = SledStore::open(&data.frontier(), CACHE).unwrap();
        let (mut frontier, now) = Frontier::open(store, Limits::default(), "test").unwrap();
        for (name, seed) in [("one", "http://one.example/"), ("two", "http://two.example/")] {
            frontier.submit(name, CrawlSpec::default(), &[url(seed)], now).unwrap();
        }
        frontier.commit(now).unwrap();
        frontier.sync().unwrap();
    }

    #[test]
    fn a_crawl_is_chosen_by_its_name() {
        let temp = tempfile::tempdir().unwrap();
        written(temp.path());
        let archive = Archive::open(temp.path()).unwrap();
        let two = archive.crawl(Some("two")).unwrap();
        assert_eq!((two.name.as_str(), two.committed), ("two", Committed::default()));
        assert_eq!(two.directory, temp.path().join("pages/two"));
        let error = archive.crawl(None).unwrap_err().to_string();
        assert!(error.contains("several crawls (one, two)"), "{error}");
        let error = archive.crawl(Some("three")).unwrap_err().to_string();
        assert!(error.contains("\"three\"") && error.contains("it has one, two"), "{error}");

        let find = |text| archive.find(&two, &url(text)).unwrap();
        assert!(matches!(find("http://two.example/"), Found::Pending));
        assert!(matches!(find("http://two.example/a"), Found::Unknown));
        assert!(matches!(find("http://one.example/"), Found::Unknown), "that is the other's");
        assert!(matches!(find("http://three.example/"), Found::Unknown));
    }

    #[test]
    fn reading_changes_no_row() {
        let temp = tempfile::tempdir().unwrap();
        written(temp.path());
        let rows = || -> Vec<_> {
            let archive = Archive::open(temp.path()).unwrap();
            archive.store.range(b"A", b"Z").map(Result::unwrap).collect()
        };
        let before = rows();
        assert!(before.len() > 6, "{before:?}");
        assert!(rows() == before);
    }
}
