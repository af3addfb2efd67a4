//! A data directory that no master is running on: its crawls and their pages.

use std::path::{Path, PathBuf};

use trawl_shared::{units::Size, url::CrawlUrl};

use crate::{
    data_dir::{DataDir, DataDirError},
    frontier::{Frontier, FrontierError, Limits},
    pages::{Committed, PageStoreError, Place, ReadError, Segments, StoredPage},
    server::StartError,
    store::{StoreError, rows::UrlState, sled::SledStore},
};

/// Bytes of the store's page cache; look-ups are few.
const CACHE: Size = Size::mib(16);

/// A data directory, opened to read.
pub struct Archive {
    data: DataDir,
    frontier: Frontier<SledStore>,
}

/// A crawl's pages.
#[derive(Clone, Debug)]
pub struct CrawlPages {
    /// The crawl's number.
    pub crawl: u32,
    /// Its name.
    pub name: String,
    /// The directory of its segments.
    pub directory: PathBuf,
    /// Where they end.
    pub committed: Committed,
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
    /// The frontier cannot be read.
    #[error(transparent)]
    Frontier(#[from] FrontierError),
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
        let data = DataDir::open(path)?;
        let frontier = data.frontier();
        if !frontier.exists() {
            let path = frontier.display().to_string();
            return Err(DataDirError::Missing { path }.into());
        }
        let store = SledStore::open(&frontier, CACHE).map_err(FrontierError::from)?;
        let limits = Limits { known_urls: 1, ..Limits::default() };
        let (frontier, _) = Frontier::open(store, limits, "")?;
        Ok(Self { data, frontier })
    }

    /// The pages of the crawl of this name, or of the only one.
    ///
    /// # Errors
    /// If there is no such crawl, or several and no name.
    pub fn crawl(&self, name: Option<&str>) -> Result<CrawlPages, ArchiveError> {
        let crawls = self.frontier.status(name);
        let names = || {
            let names = self.frontier.status(None).into_iter().map(|crawl| crawl.name);
            let names: Vec<String> = names.collect();
            if names.is_empty() { "none".to_owned() } else { names.join(", ") }
        };
        match crawls.as_slice() {
            [crawl] => Ok(CrawlPages {
                crawl: crawl.crawl,
                name: crawl.name.clone(),
                directory: self.data.pages(&crawl.name),
                committed: self.frontier.committed_pages(crawl.crawl),
            }),
            [] => Err(ArchiveError::NoSuchCrawl {
                name: name.unwrap_or_default().to_owned(),
                crawls: names(),
            }),
            _ => Err(ArchiveError::WhichCrawl { crawls: names() }),
        }
    }

    /// What there is of a URL.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn find(&self, crawl: &CrawlPages, url: &CrawlUrl) -> Result<Found, ArchiveError> {
        Ok(match self.frontier.look_up(crawl.crawl, url)? {
            None => Found::Unknown,
            Some(UrlState::Pending(_)) => Found::Pending,
            Some(UrlState::Ended(row)) => Found::Ended(row.detail),
            Some(UrlState::Fetched(row)) => {
                let place = Place::decode(&row.place).ok_or_else(|| {
                    let store = StoreError::Damaged("a page's place cannot be read".into());
                    FrontierError::from(store)
                })?;
                let segments = Segments::new(&crawl.directory, &crawl.name)?;
                Found::Page(segments.page(place)?)
            }
        })
    }
}
