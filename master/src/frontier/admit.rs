//! Taking URLs in: a person's seeds and the pages' outlinks, each once.

use std::{collections::BTreeSet, sync::Arc};

use serde::{Deserialize, Serialize};
use trawl_shared::{
    scope::Scope,
    spec::CrawlSpec,
    url::{CrawlUrl, UrlId},
};

use super::{Crawl, Frontier, FrontierError, Host, Moment};
use crate::store::{
    Store, StoreError,
    keys::{self, HostRef, Slot},
    rows::{CrawlRow, Finish, HostRow, QueueRow, UrlRow, UrlState, Wish, decode},
};

/// Bytes of a specification that are stored in one row; far below what sled
/// would put into a file of its own.
const SPEC_PART_BYTES: usize = 16 * 1024;

/// Bytes of a specification and its seeds' hosts at most; they travel in one message.
const SPEC_BYTES_MAX: usize = 3 * 1024 * 1024;

/// A crawl's specification as it is stored: with what its seeds anchor it to.
#[derive(Serialize, Deserialize)]
pub(crate) struct StoredSpec {
    pub(crate) spec: CrawlSpec,
    pub(crate) anchors: BTreeSet<String>,
}

/// What [`Frontier::submit`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Submitted {
    /// The crawl's number.
    pub crawl: u32,
    /// Whether a crawl of this name existed.
    pub resumed: bool,
    /// Seeds that were not known before.
    pub new_seeds: u64,
}

/// A URL to take in, and how it was found.
struct Candidate<'a> {
    url: &'a CrawlUrl,
    id: UrlId,
    depth: u16,
    hops: u32,
    via: &'a [u8],
    via_host: u32,
}

/// A link that a page led to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// The URL, canonical.
    pub url: String,
    /// Redirects followed to come here; 0 for a link.
    pub hops: u32,
}

impl<S: Store> Frontier<S> {
    /// Starts a crawl, or takes the one of this name up again under this
    /// specification, and takes in its seeds.
    ///
    /// # Errors
    /// If the specification cannot be met, or the store fails.
    pub fn submit(
        &mut self,
        name: &str,
        spec: CrawlSpec,
        seeds: &[CrawlUrl],
        now: Moment,
    ) -> Result<Submitted, FrontierError> {
        spec.validate().map_err(|error| FrontierError::Spec(error.to_string()))?;
        self.commit(now)?;
        let known = self.crawls.iter().find(|(_, crawl)| crawl.row.name == name);
        let known = known.map(|(number, _)| *number);
        let number = match known {
            Some(number) => number,
            None => {
                let number = self.meta.next_crawl;
                self.meta.next_crawl += 1;
                let row = CrawlRow { name: name.to_owned(), ..CrawlRow::default() };
                let stored = StoredSpec { spec: spec.clone(), anchors: BTreeSet::new() };
                self.crawls.insert(number, Crawl::new(row, stored, now)?);
                number
            }
        };
        if let Err(error) = self.specify(number, spec, seeds) {
            if known.is_none() {
                // It never was.
                self.crawls.remove(&number);
            }
            return Err(error);
        }
        let mut new_seeds = 0;
        for url in seeds {
            let candidate =
                Candidate { url, id: url.id(), depth: 0, hops: 0, via: &[], via_host: 0 };
            new_seeds += u64::from(self.take_in(number, &candidate)?);
        }
        self.restart(number, now);
        Ok(Submitted { crawl: number, resumed: known.is_some(), new_seeds })
    }

    /// Gives a crawl its specification, if it has another one.
    fn specify(
        &mut self,
        number: u32,
        spec: CrawlSpec,
        seeds: &[CrawlUrl],
    ) -> Result<(), FrontierError> {
        let Some(crawl) = self.crawls.get_mut(&number) else { return Ok(()) };
        let mut anchors = spec.scope.anchors(seeds);
        if spec.scope == crawl.spec.scope {
            anchors.extend(crawl.anchors.iter().cloned());
        }
        if crawl.row.spec_version > 0 && *crawl.spec == spec && crawl.anchors == anchors {
            return Ok(());
        }
        let stored = StoredSpec { spec, anchors };
        let text =
            serde_json::to_vec(&stored).map_err(|error| FrontierError::Spec(error.to_string()))?;
        if text.len() > SPEC_BYTES_MAX {
            return Err(FrontierError::Spec(format!(
                "the specification and its seeds' hosts take {} bytes, at most {SPEC_BYTES_MAX} \
                 are allowed; split the seeds into several crawls, or use the scope \"any\" with \
                 include patterns",
                text.len()
            )));
        }
        let scope = Scope::new(&stored.spec, stored.anchors.iter().cloned())
            .map_err(|error| FrontierError::Spec(error.to_string()))?;
        let parts = text
            .chunks(SPEC_PART_BYTES)
            .zip(0..)
            .map(|(part, index)| (keys::spec_part(number, index), part.to_vec()));
        for (key, part) in parts {
            self.changes.put_bytes(key, part);
        }
        let depth_was = crawl.spec.depth;
        let spec_parts = text.len().div_ceil(SPEC_PART_BYTES) as u32;
        for former in (spec_parts..crawl.row.spec_parts).filter_map(|part| part.try_into().ok()) {
            self.changes.remove(keys::spec_part(number, former));
        }
        crawl.row.spec_parts = spec_parts;
        crawl.row.spec_version += 1;
        crawl.spec_json = stored.spec.to_json().into();
        crawl.spec = Arc::new(stored.spec);
        crawl.anchors = stored.anchors;
        crawl.scope = Arc::new(scope);
        crawl.dirty = true;
        if depth_was.is_none() && crawl.spec.depth.is_some() {
            self.recount_depths(number)?;
        }
        Ok(())
    }

    /// Counts the open URLs of a crawl by depth, which it did not do so far.
    fn recount_depths(&mut self, number: u32) -> Result<(), FrontierError> {
        let Some(crawl) = self.crawls.get_mut(&number) else { return Ok(()) };
        crawl.row.open_by_depth.clear();
        let (from, to) = keys::queues(number);
        for row in self.store.range(&from, &to) {
            let slot = keys::slot_of(&row?.0).ok_or_else(|| super::damaged("a queue's key"))?;
            crawl.count_depth(slot.depth, true);
        }
        Ok(())
    }

    /// Sets a finished crawl running again if there is something to do.
    pub(super) fn restart(&mut self, number: u32, now: Moment) {
        let Some(crawl) = self.crawls.get_mut(&number) else { return };
        crawl.dirty = true;
        crawl.row.wish = Wish::Run as i32;
        let open = crawl.row.queued > 0 && crawl.pages_left() > 0;
        if !crawl.is_running() && (open || crawl.row.leased > 0) {
            crawl.row.finish = Finish::Running as i32;
        }
        crawl.running_since = now;
    }

    /// Takes in the links of a page that is stored already.
    ///
    /// # Errors
    /// If the store fails.
    pub(crate) fn offer_again(
        &mut self,
        at: HostRef,
        offers: &[Offer],
        depth: u16,
        id: &UrlId,
    ) -> Result<(), FrontierError> {
        let redirects = self.crawls.get(&at.crawl).map_or(0, |crawl| crawl.spec.redirects);
        let offers: Vec<Offer> =
            offers.iter().filter(|offer| offer.hops <= redirects).cloned().collect();
        Ok(self.offer(at.crawl, &offers, depth, (at.host, id))?)
    }

    /// Takes in the links of a page at `depth`, each once, in their order. What
    /// the crawl's scope does not admit is passed over.
    pub(super) fn offer(
        &mut self,
        number: u32,
        offers: &[Offer],
        depth: u16,
        via: (u32, &UrlId),
    ) -> Result<(), StoreError> {
        let Some(crawl) = self.crawls.get(&number) else { return Ok(()) };
        let scope = Arc::clone(&crawl.scope);
        let depth = depth.saturating_add(1);
        for offer in offers {
            let id = UrlId::of(&offer.url);
            if self.known.contains(number, &id) {
                continue;
            }
            let Ok(url) = CrawlUrl::parse(&offer.url) else { continue };
            if scope.admit(&url, u32::from(depth)).is_err() {
                continue;
            }
            // An offer that was not canonical has another id.
            let id = if url.as_str() == offer.url { id } else { url.id() };
            let (via_host, via) = (via.0, &via.1.0[..]);
            let candidate = Candidate { url: &url, id, depth, hops: offer.hops, via, via_host };
            self.take_in(number, &candidate)?;
        }
        Ok(())
    }

    /// Takes a URL in unless it is known. Returns whether it was new.
    fn take_in(&mut self, number: u32, new: &Candidate<'_>) -> Result<bool, StoreError> {
        let at = HostRef { crawl: number, host: self.host_number(new.url.host_key_str())? };
        let key = keys::url(at, &new.id);
        let was_known = self.changes.get_bytes(&self.store, &key)?.is_some();
        self.known.insert(number, &new.id);
        if was_known {
            return Ok(false);
        }
        let Some(crawl) = self.crawls.get_mut(&number) else { return Ok(false) };
        let slot = Slot { due: 0, depth: new.depth, seq: crawl.row.next_seq };
        crawl.row.next_seq += 1;
        crawl.row.discovered += 1;
        crawl.row.queued += 1;
        crawl.count_depth(slot.depth, true);
        crawl.dirty = true;
        self.changes.put(key, &UrlRow { state: Some(UrlState::Pending(slot.encode().to_vec())) });
        self.changes.put(
            keys::queue(at, slot),
            &QueueRow {
                path: new.url.path_and_query().to_owned(),
                hops: new.hops,
                via: new.via.to_vec(),
                via_host: new.via_host,
                ..QueueRow::default()
            },
        );
        let host = self.host_or_new(at, new.url.host_key_str())?;
        host.row.queued += 1;
        self.touched.insert(at);
        self.wake(at, Moment(0));
        Ok(true)
    }

    /// The number of a host, given if it has none yet.
    fn host_number(&mut self, host_key: &str) -> Result<u32, StoreError> {
        if let Some(number) = self.host_numbers.get(host_key) {
            return Ok(*number);
        }
        let key = keys::host_number(host_key);
        let number = match self.changes.get_bytes(&self.store, &key)? {
            Some(bytes) => {
                u32::from_be_bytes(bytes.try_into().map_err(|_| super::damaged("a host's number"))?)
            }
            None => {
                let number = self.meta.next_host;
                self.meta.next_host += 1;
                self.changes.put_bytes(key, number.to_be_bytes().to_vec());
                number
            }
        };
        if self.host_numbers.len() >= self.limits.known_hosts {
            self.host_numbers.clear();
        }
        self.host_numbers.insert(host_key.to_owned(), number);
        Ok(number)
    }

    fn host_or_new(&mut self, at: HostRef, host_key: &str) -> Result<&mut Host, StoreError> {
        if !self.hosts.contains_key(&at) {
            let row = self.changes.get_bytes(&self.store, &keys::host(at))?;
            let row = match row {
                Some(bytes) => decode(&bytes)?,
                None => {
                    if let Some(crawl) = self.crawls.get_mut(&at.crawl) {
                        crawl.row.hosts += 1;
                    }
                    HostRow { key: host_key.to_owned(), ..HostRow::default() }
                }
            };
            self.keep_host(at, Host { row, ..Host::default() })?;
        }
        self.load_host(at)
    }

    /// The number of a known host, for look-ups.
    pub(super) fn known_host(&self, host_key: &str) -> Result<Option<u32>, StoreError> {
        let bytes = self.changes.get_bytes(&self.store, &keys::host_number(host_key))?;
        Ok(bytes.and_then(|bytes| bytes.try_into().ok()).map(u32::from_be_bytes))
    }
}
