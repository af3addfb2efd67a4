//! Quarantine: URLs that took down too many workers, or were taken for traps, listed
//! for people, who let them out to be tried again, or give them up.

use std::borrow::Cow;

use trawl_shared::{
    outcome::Class,
    url::{CrawlUrl, UrlId},
};

use super::{Frontier, FrontierError, Moment, Via, damaged};
use crate::store::{
    Store, StoreError,
    keys::{self, HostRef, Slot},
    rows::{EndedRow, FetchedRow, HostRow, QueueRow, UrlRow, UrlState},
};

/// A URL in quarantine.
#[derive(Clone, Debug)]
pub struct Quarantined {
    /// The URL.
    pub url: String,
    /// What happened.
    pub detail: String,
    /// Where it was found.
    pub via: Via,
    /// Links from a seed.
    pub depth: u32,
    /// Tries, those lost with their worker included.
    pub attempts: u32,
    /// The worker that was lost with it last.
    pub worker: String,
    /// The kind of trap that it was taken for; empty if it was lost with workers.
    pub trap: String,
    /// Its host.
    pub at: HostRef,
    /// Its id.
    pub id: UrlId,
    /// Its key, to go on after.
    pub key: Vec<u8>,
}

/// How URLs leave quarantine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Release {
    /// They are tried again, as if they never were.
    Retry,
    /// They are given up for good.
    Drop,
}

/// URLs that left quarantine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Released {
    /// How many.
    pub count: u64,
    /// Of those named, the ones that were not in it.
    pub not_found: Vec<String>,
}

impl<S: Store> Frontier<S> {
    /// Up to `limit` URLs of a crawl that are in quarantine, after a key.
    ///
    /// # Errors
    /// If the store fails.
    pub fn quarantined(
        &self,
        crawl: u32,
        after: &[u8],
        limit: usize,
    ) -> Result<Vec<Quarantined>, FrontierError> {
        let (from, to) = keys::quarantine(crawl);
        // The next key after one is the same with a zero behind it.
        let from = if after > from.as_slice() { [after, &[0]].concat() } else { from };
        let mut found = Vec::new();
        for row in self.store.range(&from, &to).take(limit) {
            let key = row?.0;
            let (at, id) = keys::url_of(&key).ok_or_else(|| damaged("quarantine"))?;
            let (host_key, row) = self.quarantined_url(at, &id)?;
            found.push(Quarantined {
                url: format!("{host_key}{}", row.path),
                via: self.via(crawl, row.via_host, &row.via)?,
                detail: row.detail,
                depth: row.depth,
                attempts: row.attempts,
                worker: row.worker,
                trap: row.trap,
                at,
                id,
                key,
            });
        }
        Ok(found)
    }

    /// Lets the URL of this id out of quarantine. Returns whether it was in it. Up to
    /// the next commit it may be found in [`Frontier::quarantined`] still.
    ///
    /// # Errors
    /// If the store fails.
    pub fn release(
        &mut self,
        at: HostRef,
        id: &UrlId,
        how: Release,
        now: Moment,
    ) -> Result<bool, FrontierError> {
        let key = keys::quarantined(at, id);
        if self.changes.get_bytes(&self.store, &key)?.is_none() {
            return Ok(false);
        }
        let (_, row) = self.quarantined_url(at, id)?;
        self.changes.remove(key);
        if let Some(crawl) = self.crawls.get_mut(&at.crawl) {
            crawl.uncount(Class::Quarantined);
        }
        match how {
            Release::Retry => self.queue_again(at, id, row, now)?,
            Release::Drop => {
                let detail = format!("given up by an operator; before: {}", row.detail);
                let ended = EndedRow { class: Class::Dropped.number().into(), detail, ..row };
                self.changes
                    .put(keys::url(at, id), &UrlRow { state: Some(UrlState::Ended(ended)) });
                if let Some(crawl) = self.crawls.get_mut(&at.crawl) {
                    crawl.count(Class::Dropped);
                }
            }
        }
        Ok(true)
    }

    /// Puts an ended URL back into its queue.
    pub(super) fn queue_again(
        &mut self,
        at: HostRef,
        id: &UrlId,
        row: EndedRow,
        now: Moment,
    ) -> Result<(), FrontierError> {
        let host_key = self.host_key(at)?.unwrap_or_default();
        let Some(crawl) = self.crawls.get_mut(&at.crawl) else { return Ok(()) };
        let depth = u16::try_from(row.depth).unwrap_or(u16::MAX);
        let priority = crawl.priority(&format!("{host_key}{}", row.path), depth);
        let slot = Slot::untried(priority, depth, crawl.row.next_seq);
        crawl.row.next_seq += 1;
        crawl.count_depth(depth, true);
        // Its tries begin anew, and those before are not forgotten.
        let EndedRow { path, hops, via, via_host, off_site, tries, .. } = row;
        let queued = QueueRow {
            path,
            hops,
            via,
            via_host,
            off_site,
            tries,
            exempt: true,
            ..QueueRow::default()
        };
        self.changes.put(keys::queue(at, slot), &queued);
        let state = UrlState::Pending(slot.encode().to_vec());
        self.changes.put(keys::url(at, id), &UrlRow { state: Some(state) });
        self.load_host(at)?;
        self.count_host(at)?;
        self.requeue(at);
        self.wake(at, Moment(0));
        let wish = self.crawls.get(&at.crawl).map(|crawl| crawl.row.wish);
        self.restart(at.crawl, now);
        // What was paused stays so.
        if let (Some(crawl), Some(wish)) = (self.crawls.get_mut(&at.crawl), wish) {
            crawl.row.wish = wish;
        }
        Ok(())
    }

    /// The host key and the row of a URL in quarantine.
    fn quarantined_url(&self, at: HostRef, id: &UrlId) -> Result<(String, EndedRow), StoreError> {
        let row: Option<UrlRow> = self.changes.get(&self.store, &keys::url(at, id))?;
        let Some(UrlState::Ended(row)) = row.and_then(|row| row.state) else {
            return Err(damaged("a URL in quarantine"));
        };
        Ok((self.host_key(at)?.unwrap_or_default(), row))
    }

    /// A URL by the rules of canonical form that a crawl has chosen.
    pub fn canonical<'u>(&self, crawl: u32, url: &'u CrawlUrl) -> Cow<'u, CrawlUrl> {
        self.crawls.get(&crawl).map_or(Cow::Borrowed(url), |crawl| crawl.canon.of(url))
    }

    /// Links that were taken for traps while the quarantine was full.
    pub fn traps_forgotten(&self, crawl: u32) -> u64 {
        self.crawls.get(&crawl).map_or(0, |crawl| crawl.row.traps_forgotten)
    }

    /// Where a URL would stand in a crawl; none if its host was never heard of.
    ///
    /// # Errors
    /// If the store fails.
    pub fn locate(&self, crawl: u32, url: &CrawlUrl) -> Result<Option<HostRef>, FrontierError> {
        let host = self.known_host(url.host_key_str())?;
        Ok(host.map(|host| HostRef { crawl, host }))
    }

    /// What is known of a URL whose answer is stored; none of any other.
    ///
    /// # Errors
    /// If the store fails.
    pub(crate) fn fetched(
        &self,
        crawl: u32,
        url: &str,
    ) -> Result<Option<(HostRef, FetchedRow)>, FrontierError> {
        let Ok(url) = CrawlUrl::parse(url) else { return Ok(None) };
        let Some(at) = self.locate(crawl, &url)? else { return Ok(None) };
        let row: Option<UrlRow> = self.changes.get(&self.store, &keys::url(at, &url.id()))?;
        Ok(match row.and_then(|row| row.state) {
            Some(UrlState::Fetched(row)) => Some((at, row)),
            _ => None,
        })
    }

    /// The key of a host.
    pub(super) fn host_key(&self, at: HostRef) -> Result<Option<String>, StoreError> {
        Ok(self.host_row(at)?.map(|row| row.key))
    }

    /// What is known of a host in a crawl, in memory or not.
    pub(super) fn host_row(&self, at: HostRef) -> Result<Option<HostRow>, StoreError> {
        match self.hosts.get(&at) {
            Some(host) => Ok(Some(host.row.clone())),
            None => self.changes.get(&self.store, &keys::host(at)),
        }
    }
}
