//! The crawls that the worker has batches of: their specifications, made ready.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use trawl_shared::{
    canon::Canon,
    scope::Scope,
    spec::{CrawlSpec, SpecError},
};

use crate::{
    fetch::Fetch,
    master::{Master, MasterError},
    parse::Parser,
};

/// Crawls that are kept ready at most; the least used must be asked for again.
const CRAWLS_MAX: usize = 64;

/// A crawl's specification, made ready for its pages.
#[derive(Debug)]
pub(crate) struct ReadyCrawl<F> {
    pub(crate) version: u32,
    pub(crate) spec: CrawlSpec,
    pub(crate) scope: Scope,
    pub(crate) canon: Canon,
    pub(crate) parser: Parser,
    pub(crate) fetcher: F,
}

/// Makes a fetcher by a crawl's specification.
pub type MakeFetcher<F> = Arc<dyn Fn(&CrawlSpec) -> Result<F, SpecError> + Send + Sync>;

/// The crawls made ready so far.
pub(crate) struct ReadyCrawls<F> {
    make_fetcher: MakeFetcher<F>,
    ready: Mutex<HashMap<u32, Arc<ReadyCrawl<F>>>>,
}

impl<F: Fetch> ReadyCrawls<F> {
    pub(crate) fn new(make_fetcher: MakeFetcher<F>) -> Self {
        Self { make_fetcher, ready: Mutex::default() }
    }

    /// The crawl, at `version` or later.
    ///
    /// # Errors
    /// If the master is away, or the specification cannot be met here.
    pub(crate) async fn get(
        &self,
        master: &Master,
        crawl: u32,
        version: u32,
    ) -> Result<Arc<ReadyCrawl<F>>, MasterError> {
        if let Some(ready) = self.lock().get(&crawl).filter(|ready| ready.version >= version) {
            return Ok(Arc::clone(ready));
        }
        let given = master.specification(crawl).await?;
        let odd = |error: SpecError| MasterError::Odd(error.to_string());
        let ready = Arc::new(ReadyCrawl {
            version: given.version,
            parser: Parser::new(&given.spec).map_err(odd)?,
            fetcher: (self.make_fetcher)(&given.spec).map_err(odd)?,
            scope: given.scope,
            canon: Canon::new(&given.spec.canon, &given.spec.drop_params).map_err(odd)?,
            spec: given.spec,
        });
        let mut all = self.lock();
        if all.len() >= CRAWLS_MAX && !all.contains_key(&crawl) {
            all.clear();
        }
        all.insert(crawl, Arc::clone(&ready));
        Ok(ready)
    }

    /// Forgets all: they are another master's.
    pub(crate) fn clear(&self) {
        self.lock().clear();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<u32, Arc<ReadyCrawl<F>>>> {
        self.ready.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
