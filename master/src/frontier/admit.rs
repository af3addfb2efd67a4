//! Taking URLs in: a person's seeds and the pages' outlinks, each once.

use std::{borrow::Cow, collections::BTreeSet, sync::Arc};

use serde::{Deserialize, Serialize};
use trawl_shared::{
    canon::Canon,
    outcome::Class,
    rules::Rules,
    scope::{Scope, Way},
    spec::{CrawlSpec, SpecError},
    trap,
    url::{CrawlUrl, UrlId},
};

use super::{Crawl, Frontier, FrontierError, Host, Moment, Release};
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

impl StoredSpec {
    /// The specification of a crawl.
    ///
    /// # Errors
    /// If it cannot be read.
    pub(crate) fn read(
        store: &impl Store,
        number: u32,
        row: &CrawlRow,
    ) -> Result<Self, StoreError> {
        let damaged = || super::damaged("a specification");
        let mut text = Vec::new();
        for part in 0..row.spec_parts {
            let key = keys::spec_part(number, u16::try_from(part).unwrap_or(u16::MAX));
            text.extend(store.get(&key)?.ok_or_else(damaged)?);
        }
        serde_json::from_slice(&text).map_err(|_| damaged())
    }
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
pub(super) struct Candidate<'a> {
    pub(super) url: &'a CrawlUrl,
    pub(super) id: UrlId,
    pub(super) depth: u16,
    pub(super) hops: u32,
    pub(super) off_site: u32,
    pub(super) via: &'a [u8],
    pub(super) via_host: u32,
    /// A person gave it: it is no trap, whatever it looks like.
    pub(super) is_seed: bool,
}

/// The page that links were found on.
#[derive(Clone, Copy)]
pub(super) struct Source<'a> {
    pub(super) at: HostRef,
    pub(super) id: &'a UrlId,
    /// Links from a seed.
    pub(super) depth: u16,
    /// Links from the last page where the crawl's seeds are.
    pub(super) off_site: u32,
}

/// A link that a page led to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Offer {
    /// The URL, canonical.
    pub url: String,
    /// Redirects followed to come here; 0 for a link.
    pub hops: u32,
    /// Whether it is a sitemap that the robots.txt of the page's host names: it is as
    /// deep as the page that robots.txt was asked for.
    pub is_of_robots: bool,
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
        let odd = |error: SpecError| FrontierError::Spec(error.to_string());
        spec.validate().map_err(odd)?;
        let canon = Canon::new(&spec.canon, &spec.drop_params).map_err(odd)?;
        let seeds: Vec<Cow<'_, CrawlUrl>> = seeds.iter().map(|seed| canon.of(seed)).collect();
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
        if let Err(error) = self.specify(number, spec, &seeds) {
            if known.is_none() {
                // It never was.
                self.crawls.remove(&number);
            }
            return Err(error);
        }
        let mut new_seeds = 0;
        for url in &seeds {
            let candidate = Candidate {
                url,
                id: url.id(),
                depth: 0,
                hops: 0,
                off_site: 0,
                via: &[],
                via_host: 0,
                is_seed: true,
            };
            let is_new = self.take_in(number, &candidate)?;
            if !is_new {
                self.exempt(number, url, now)?;
            }
            new_seeds += u64::from(is_new);
        }
        self.restart(number, now);
        Ok(Submitted { crawl: number, resumed: known.is_some(), new_seeds })
    }

    /// A URL that is known is given as a seed: it is no trap, whatever it was taken for.
    fn exempt(&mut self, number: u32, url: &CrawlUrl, now: Moment) -> Result<(), FrontierError> {
        let at = HostRef { crawl: number, host: self.host_number(url.host_key_str())? };
        let id = url.id();
        let row: Option<UrlRow> = self.changes.get(&self.store, &keys::url(at, &id))?;
        match row.and_then(|row| row.state) {
            Some(UrlState::Ended(row)) if !row.trap.is_empty() => {
                let was_inside = self.release(at, &id, Release::Retry, now)?;
                let was_dropped = row.class == u32::from(Class::Dropped.number());
                if !was_inside && was_dropped {
                    if let Some(crawl) = self.crawls.get_mut(&number) {
                        crawl.uncount(Class::Dropped);
                    }
                    self.queue_again(at, &id, row, now)?;
                }
            }
            Some(UrlState::Pending(slot)) => {
                let slot = Slot::decode(&slot).ok_or_else(|| super::damaged("a URL's place"))?;
                let key = keys::queue(at, slot);
                if let Some(row) = self.changes.get::<QueueRow>(&self.store, &key)? {
                    self.changes.put(key, &QueueRow { exempt: true, ..row });
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Gives a crawl its specification, if it has another one.
    fn specify(
        &mut self,
        number: u32,
        spec: CrawlSpec,
        seeds: &[Cow<'_, CrawlUrl>],
    ) -> Result<(), FrontierError> {
        let Some(crawl) = self.crawls.get_mut(&number) else { return Ok(()) };
        if crawl.row.discovered > 0 && !spec.has_canon_of(&crawl.spec) {
            return Err(FrontierError::Spec(
                "canon and drop_params stay as they are once a crawl has URLs, since its pages \
                 are named by them; start another crawl, or leave them as they were"
                    .into(),
            ));
        }
        let mut anchors = spec.scope.anchors(seeds.iter().map(AsRef::as_ref));
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
        let odd = |error: SpecError| FrontierError::Spec(error.to_string());
        let spec = &stored.spec;
        let scope = Scope::new(spec, stored.anchors.iter().cloned()).map_err(odd)?;
        let canon = Canon::new(&spec.canon, &spec.drop_params).map_err(odd)?;
        let rules = Rules::new(&spec.rules).map_err(odd)?;
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
        crawl.canon = canon;
        crawl.rules = Arc::new(rules);
        crawl.dirty = true;
        if depth_was.is_none() && crawl.spec.depth.is_some() {
            self.recount_depths(number)?;
        }
        self.time_all_anew(number);
        Ok(())
    }

    /// Says anew when a crawl's hosts may be visited: its delays and budgets are others.
    fn time_all_anew(&mut self, number: u32) {
        let hosts = self.hosts.keys().filter(|at| at.crawl == number);
        for host in hosts.map(|at| at.host).collect::<Vec<_>>() {
            self.time_anew(host);
        }
        self.call_all();
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
        off_site: u32,
        id: &UrlId,
    ) -> Result<(), FrontierError> {
        let redirects = self.crawls.get(&at.crawl).map_or(0, |crawl| crawl.spec.redirects);
        let offers: Vec<Offer> =
            offers.iter().filter(|offer| offer.hops <= redirects).cloned().collect();
        Ok(self.offer(&offers, Source { at, id, depth, off_site })?)
    }

    /// Takes in the links of a page, each once, in their order. What the crawl's scope
    /// does not admit is passed over, and what looks like a trap goes to quarantine.
    pub(super) fn offer(&mut self, offers: &[Offer], source: Source<'_>) -> Result<(), StoreError> {
        let number = source.at.crawl;
        let Some(crawl) = self.crawls.get(&number) else { return Ok(()) };
        let scope = Arc::clone(&crawl.scope);
        let (canon, spec) = (crawl.canon.clone(), Arc::clone(&crawl.spec));
        let (via, via_host) = (&source.id.0[..], source.at.host);
        for offer in offers {
            let id = UrlId::of(&offer.url);
            if self.known.contains(number, &id) {
                continue;
            }
            let Ok(url) = CrawlUrl::parse(&offer.url) else { continue };
            let url = canon.apply(&url).unwrap_or(url);
            let depth = match offer.is_of_robots {
                true => source.depth,
                false => source.depth.saturating_add(1),
            };
            let way = Way::of(offer.hops, offer.is_of_robots);
            let admitted = scope.admit_from(&url, u32::from(depth), source.off_site, way);
            let Ok(off_site) = admitted else { continue };
            // An offer that was not canonical has another id.
            let id = if url.as_str() == offer.url { id } else { url.id() };
            let hops = offer.hops;
            let candidate =
                Candidate { url: &url, id, depth, hops, off_site, via, via_host, is_seed: false };
            let caught = match trap::caught(&url, &spec.traps) {
                None => self.too_many_hosts(number, &url)?,
                caught => caught,
            };
            match caught {
                Some(caught) => self.catch(number, &candidate, caught)?,
                None => {
                    self.take_in(number, &candidate)?;
                }
            }
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
        let priority = crawl.priority(new.url.as_str(), new.depth);
        let slot = Slot::untried(priority, new.depth, crawl.row.next_seq);
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
                off_site: new.off_site,
                exempt: new.is_seed,
                ..QueueRow::default()
            },
        );
        let host = self.host_or_new(at, new.url.host_key_str())?;
        host.row.queued += 1;
        self.touched.insert(at);
        self.count_host(at)?;
        self.wake(at, Moment(0));
        Ok(true)
    }

    /// The number of a host, given if it has none yet.
    pub(super) fn host_number(&mut self, host_key: &str) -> Result<u32, StoreError> {
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

    pub(super) fn host_or_new(
        &mut self,
        at: HostRef,
        host_key: &str,
    ) -> Result<&mut Host, StoreError> {
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
        if let Some(number) = self.host_numbers.get(host_key) {
            return Ok(Some(*number));
        }
        let bytes = self.changes.get_bytes(&self.store, &keys::host_number(host_key))?;
        Ok(bytes.and_then(|bytes| bytes.try_into().ok()).map(u32::from_be_bytes))
    }
}
