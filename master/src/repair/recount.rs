//! Rows brought to agree with each other, and counts with what they count.

use std::collections::{BTreeMap, BTreeSet};

use trawl_shared::{
    lease::Token,
    outcome::Class,
    url::{CrawlUrl, UrlId},
};

use super::{
    Repair,
    index::{Known, path_of},
};
use crate::{
    frontier::StoredSpec,
    pages::Place,
    store::{
        Store, StoreError,
        keys::{self, HostRef, Slot},
        rows::{
            CrawlRow, DomainRow, EndedRow, Finish, HostRow, LeaseRow, MetaRow, PatternRow,
            QueueRow, UrlRow, UrlState, decode,
        },
    },
};

/// What a crawl's rows come to.
#[derive(Default)]
struct Count {
    discovered: u64,
    queued: u64,
    leased: u64,
    hosts: u64,
    stored_bytes: u64,
    outcomes: Vec<u64>,
    by_depth: Vec<u64>,
    next_seq: u64,
}

/// The places that are lent.
type Lent = BTreeSet<(HostRef, Slot)>;

impl<S: Store> Repair<S> {
    /// Brings all rows in order. Returns the crawls that forgot URLs by that.
    pub(super) fn recount(&mut self) -> Result<BTreeSet<u32>, StoreError> {
        self.flush()?;
        let (mut host_last, mut crawl_last) = (0, 0);
        let mut lent = Lent::new();
        let mut forgetful = BTreeSet::new();
        for (number, _) in self.crawls()? {
            crawl_last = number;
            for host in self.hosts(number)? {
                host_last = host_last.max(host);
                if self.mend_queue(HostRef { crawl: number, host })? {
                    forgetful.insert(number);
                }
            }
            self.flush()?;
        }
        self.drop_unread((b"T", b"U"), |key, value| {
            keys::pattern_of(key).is_some() && decode::<PatternRow>(value).is_ok()
        })?;
        self.drop_unread((b"N", b"O"), |key, value| {
            keys::domain_of(key).is_some() && decode::<DomainRow>(value).is_ok()
        })?;
        self.mend_leases(&mut lent)?;
        for (number, row) in self.crawls()? {
            let mut count = Count { next_seq: row.next_seq, ..Count::default() };
            for host in self.hosts(number)? {
                self.count_host(HostRef { crawl: number, host }, &lent, &mut count)?;
            }
            self.mend_quarantine(number)?;
            self.mend_crawl(number, row, count)?;
        }
        let mut meta: MetaRow = decode(&self.store.get(keys::META)?.unwrap_or_default())?;
        let next = (meta.next_host.max(host_last + 1), meta.next_crawl.max(crawl_last + 1));
        if next != (meta.next_host, meta.next_crawl) {
            (meta.next_host, meta.next_crawl) = next;
            self.put(keys::META.to_vec(), &meta)?;
            self.done.counts_mended += 1;
        }
        self.flush()?;
        Ok(forgetful)
    }

    /// The hosts that a crawl has rows of.
    fn hosts(&self, crawl: u32) -> Result<BTreeSet<u32>, StoreError> {
        let mut hosts = BTreeSet::new();
        for table in [keys::hosts(crawl), keys::queues(crawl), keys::urls(crawl)] {
            let mut from = table.0;
            while let Some(row) = self.store.range(&from, &table.1).next() {
                let key = row?.0;
                let Some(at) = keys::host_of(&key) else {
                    from = [&key[..], &[0]].concat();
                    continue;
                };
                hosts.insert(at.host);
                let Some(next) = at.host.checked_add(1) else { break };
                from = [&key[..5], &next.to_be_bytes()].concat();
            }
        }
        Ok(hosts)
    }

    /// A host's key: its row's, or that of its number.
    fn host_key(&mut self, at: HostRef) -> Result<Option<String>, StoreError> {
        if let Some(row) = self.store.get(&keys::host(at))?
            && let Ok(row) = decode::<HostRow>(&row)
            && !row.key.is_empty()
        {
            let number = keys::host_number(&row.key);
            match self.store.get(&number)? {
                Some(known) if known == at.host.to_be_bytes() => {}
                Some(_) => self.done.left.push(format!(
                    "host {} has another number than {}; restore a dump",
                    row.key, at.host
                )),
                None => {
                    self.set(number, Some(at.host.to_be_bytes().to_vec()))?;
                    self.done.rows_mended += 1;
                }
            }
            return Ok(Some(row.key));
        }
        for row in self.store.range(keys::HOST_NUMBERS.0, keys::HOST_NUMBERS.1) {
            let (key, value) = row?;
            if value == at.host.to_be_bytes() {
                return Ok(keys::host_key(&key).map(str::to_owned));
            }
        }
        Ok(None)
    }

    /// Every row of the queue has its URL in the visited set, and the reverse. Returns
    /// whether URLs may have been forgotten.
    fn mend_queue(&mut self, at: HostRef) -> Result<bool, StoreError> {
        let Some(host_key) = self.host_key(at)? else {
            let name = format!("host number {} of crawl number {} has no name", at.host, at.crawl);
            self.done.left.push(name);
            return Ok(false);
        };
        if self.store.get(&keys::host(at))?.is_none_or(|row| decode::<HostRow>(&row).is_err()) {
            self.put(keys::host(at), &HostRow { key: host_key.clone(), ..HostRow::default() })?;
            self.done.rows_mended += 1;
        }
        let mut is_forgetful = false;
        let range = host_range(b'Q', at);
        let mut after: Option<Vec<u8>> = None;
        loop {
            let rows = self.some_rows(&range, after.as_deref())?;
            let Some((last, _)) = rows.last() else { break };
            after = Some(last.clone());
            for (key, value) in rows {
                is_forgetful |= self.mend_queued(at, &host_key, key, &value)?;
            }
        }
        self.flush()?;
        let range = host_range(b'U', at);
        let mut after: Option<Vec<u8>> = None;
        loop {
            let rows = self.some_rows(&range, after.as_deref())?;
            let Some((last, _)) = rows.last() else { break };
            after = Some(last.clone());
            for (key, value) in rows {
                is_forgetful |= self.mend_url(at, &host_key, key, &value)?;
            }
        }
        self.flush()?;
        Ok(is_forgetful)
    }

    /// A row of the queue. Returns whether its URL may have been forgotten.
    fn mend_queued(
        &mut self,
        at: HostRef,
        host_key: &str,
        key: Vec<u8>,
        value: &[u8],
    ) -> Result<bool, StoreError> {
        let slot = keys::slot_of(&key);
        let row = decode::<QueueRow>(value).ok();
        let url = row.map(|row| format!("{host_key}{}", row.path));
        let url = url.filter(|url| CrawlUrl::parse(url).is_ok_and(|known| known.as_str() == url));
        let (Some(slot), Some(url)) = (slot, url) else {
            // If the visited set knows the URL, it is counted there.
            self.done.rows_mended += 1;
            self.set(key, None)?;
            return Ok(true);
        };
        let id = UrlId::of(&url);
        let pending = || UrlRow { state: Some(UrlState::Pending(slot.encode().to_vec())) };
        self.flush()?;
        match self.url(at, &id)? {
            Some(UrlState::Pending(other)) if other == slot.encode() => return Ok(false),
            Some(UrlState::Pending(other)) => {
                let other = Slot::decode(&other).map(|other| keys::queue(at, other));
                let is_there = match other {
                    Some(other) => self.store.get(&other)?.is_some(),
                    None => false,
                };
                if is_there {
                    self.set(key, None)?;
                } else {
                    self.put(keys::url(at, &id), &pending())?;
                }
            }
            Some(_) => self.set(key, None)?,
            None => self.put(keys::url(at, &id), &pending())?,
        }
        self.done.rows_mended += 1;
        self.flush()?;
        Ok(false)
    }

    /// A row of the visited set. Returns whether its URL was forgotten.
    fn mend_url(
        &mut self,
        at: HostRef,
        host_key: &str,
        key: Vec<u8>,
        value: &[u8],
    ) -> Result<bool, StoreError> {
        let state = decode::<UrlRow>(value).ok().and_then(|row| row.state);
        let id = keys::url_of(&key).map(|(_, id)| id);
        let is_good = match (id, &state) {
            (Some(id), Some(UrlState::Pending(slot))) => {
                let row = match Slot::decode(slot) {
                    Some(slot) => self.store.get(&keys::queue(at, slot))?,
                    None => None,
                };
                let row = row.and_then(|row| decode::<QueueRow>(&row).ok());
                row.is_some_and(|row| UrlId::of(&format!("{host_key}{}", row.path)) == id)
            }
            (Some(_), Some(UrlState::Fetched(row))) => {
                Place::decode(&row.place).is_some() && row.sha1.len() == 20 && row.status < 1_000
            }
            (Some(_), Some(UrlState::Ended(row))) => class(row).is_some(),
            _ => false,
        };
        if is_good {
            return Ok(false);
        }
        self.done.rows_mended += 1;
        if let (Some(id), Some(UrlState::Ended(row))) = (id, state)
            && let Some(path) = path_of(&format!("{host_key}{}", row.path), &id)
        {
            // How it ended cannot be read, but it can be tried again.
            let depth = u16::try_from(row.depth).unwrap_or(u16::MAX);
            let (hops, via, off_site) = (row.hops, row.via, row.off_site);
            let known = Known { path, depth, hops, is_seed: via.is_empty(), via, off_site };
            self.queue(at, &id, known, row.via_host)?;
            return Ok(false);
        }
        // Its URL is not known; it is fetched when it is met again.
        self.done.pages_forgotten += 1;
        self.set(key, None)?;
        Ok(true)
    }

    /// Drops what cannot be read of a table whose rows only count what is to be fetched less:
    /// they count anew.
    fn drop_unread(
        &mut self,
        (from, to): (&[u8], &[u8]),
        is_read: impl Fn(&[u8], &[u8]) -> bool,
    ) -> Result<(), StoreError> {
        let range = (from.to_vec(), to.to_vec());
        let mut after: Option<Vec<u8>> = None;
        loop {
            let rows = self.some_rows(&range, after.as_deref())?;
            let Some((last, _)) = rows.last() else { break };
            after = Some(last.clone());
            for (key, value) in rows {
                if !is_read(&key, &value) {
                    self.set(key, None)?;
                    self.done.rows_mended += 1;
                }
            }
        }
        self.flush()
    }

    /// Leases lend places that there are, and none of them twice.
    fn mend_leases(&mut self, lent: &mut Lent) -> Result<(), StoreError> {
        let rows: Vec<_> =
            self.store.range(keys::LEASES.0, keys::LEASES.1).collect::<Result<_, _>>()?;
        let mut by_token: BTreeMap<Token, (Vec<u8>, Option<LeaseRow>)> = BTreeMap::new();
        for (key, value) in rows {
            let token = keys::lease_token(&key).unwrap_or(Token(0));
            by_token.insert(token, (key, decode(&value).ok()));
        }
        // The newest lease of a place is the one that counts.
        for (_, (key, row)) in by_token.into_iter().rev() {
            let Some(row) = row else {
                self.set(key, None)?;
                self.done.rows_mended += 1;
                continue;
            };
            let at = HostRef { crawl: row.crawl, host: row.host };
            let mut slots = Vec::new();
            let mut is_twice = false;
            for slot in row.slots.chunks(Slot::BYTES).filter_map(Slot::decode) {
                let is_there = self.store.get(&keys::queue(at, slot))?.is_some();
                if is_there && !lent.insert((at, slot)) {
                    is_twice = true;
                } else if is_there {
                    slots.extend(slot.encode());
                }
            }
            if slots.is_empty() {
                self.set(key, None)?;
                self.done.rows_mended += 1;
            } else if is_twice {
                self.put(key, &LeaseRow { slots, ..row })?;
                self.done.rows_mended += 1;
            }
        }
        self.flush()
    }

    /// Counts a host's rows, and sets its own right.
    fn count_host(
        &mut self,
        at: HostRef,
        lent: &Lent,
        count: &mut Count,
    ) -> Result<(), StoreError> {
        let (mut queued, mut pages) = (0, 0);
        let range = host_range(b'Q', at);
        for row in self.store.range(&range.0, &range.1) {
            let Some(slot) = keys::slot_of(&row?.0) else { continue };
            if lent.contains(&(at, slot)) {
                count.leased += 1;
            } else {
                queued += 1;
            }
            let depth = usize::from(slot.depth);
            if count.by_depth.len() <= depth {
                count.by_depth.resize(depth + 1, 0);
            }
            count.by_depth[depth] += 1;
            count.next_seq = count.next_seq.max(slot.seq + 1);
        }
        count.queued += queued;
        let range = host_range(b'U', at);
        for row in self.store.range(&range.0, &range.1) {
            count.discovered += 1;
            let ended = match decode::<UrlRow>(&row?.1)?.state {
                Some(UrlState::Fetched(row)) => {
                    let place = Place::decode(&row.place);
                    count.stored_bytes += place.map_or(0, |place| place.lengths().total());
                    let class = Class::of_status(u16::try_from(row.status).unwrap_or_default());
                    pages += u64::from(class.is_page());
                    Some(class)
                }
                Some(UrlState::Ended(row)) => class(&row),
                _ => None,
            };
            if let Some(class) = ended {
                count.outcomes.resize(Class::COUNT, 0);
                count.outcomes[usize::from(class.number())] += 1;
            }
        }
        if let Some(row) = self.store.get(&keys::host(at))? {
            count.hosts += 1;
            let row: HostRow = decode(&row)?;
            if (row.queued, row.pages) != (queued, pages) {
                self.put(keys::host(at), &HostRow { queued, pages, ..row })?;
                self.done.counts_mended += 1;
            }
        }
        Ok(())
    }

    /// The list of the quarantine is that of the URLs in it.
    fn mend_quarantine(&mut self, crawl: u32) -> Result<(), StoreError> {
        self.flush()?;
        let is_inside = |state: Option<UrlState>| matches!(state, Some(UrlState::Ended(row)) if class(&row) == Some(Class::Quarantined));
        for (range, is_list) in [(keys::quarantine(crawl), true), (keys::urls(crawl), false)] {
            let mut after: Option<Vec<u8>> = None;
            loop {
                let rows = self.some_rows(&range, after.as_deref())?;
                let Some((last, _)) = rows.last() else { break };
                after = Some(last.clone());
                for (key, value) in rows {
                    let Some((at, id)) = keys::url_of(&key) else {
                        self.set(key, None)?;
                        self.done.rows_mended += 1;
                        continue;
                    };
                    let listed = keys::quarantined(at, &id);
                    if is_list && !is_inside(self.url(at, &id)?) {
                        self.set(listed, None)?;
                        self.done.rows_mended += 1;
                    } else if !is_list
                        && is_inside(decode::<UrlRow>(&value)?.state)
                        && self.store.get(&listed)?.is_none()
                    {
                        self.set(listed, Some(Vec::new()))?;
                        self.done.rows_mended += 1;
                    }
                }
            }
        }
        self.flush()
    }

    /// Sets a crawl's counts right.
    fn mend_crawl(&mut self, number: u32, was: CrawlRow, count: Count) -> Result<(), StoreError> {
        let mut row = was.clone();
        row.discovered = count.discovered;
        row.queued = count.queued;
        row.leased = count.leased;
        row.hosts = count.hosts;
        row.stored_bytes = count.stored_bytes;
        row.next_seq = count.next_seq;
        let none = |counts: &[u64]| counts.iter().all(|count| *count == 0);
        if !(none(&was.outcomes) && none(&count.outcomes)) {
            row.outcomes = count.outcomes;
        }
        let text = (0..row.spec_parts).map(|part| {
            let key = keys::spec_part(number, u16::try_from(part).unwrap_or(u16::MAX));
            Ok(self.store.get(&key)?.unwrap_or_default())
        });
        let text: Vec<Vec<u8>> = text.collect::<Result<_, StoreError>>()?;
        match serde_json::from_slice::<StoredSpec>(&text.concat()) {
            Ok(spec) if spec.spec.depth.is_some() => {
                let mut depths = count.by_depth;
                depths.resize(depths.len().max(was.open_by_depth.len()), 0);
                row.open_by_depth = depths;
            }
            Ok(_) => {}
            Err(_) => self.done.left.push(format!(
                "the specification of crawl \"{}\" cannot be read; submit it again, or restore a \
                 dump",
                row.name
            )),
        }
        if row.finish == Finish::Complete as i32 && row.queued + row.leased > 0 {
            row.finish = Finish::Running as i32;
        }
        if row != was {
            self.put(keys::crawl(number), &row)?;
            self.done.counts_mended += 1;
        }
        Ok(())
    }
}

fn class(row: &EndedRow) -> Option<Class> {
    u8::try_from(row.class).ok().and_then(Class::of_number)
}

/// A host's rows in a table.
fn host_range(table: u8, at: HostRef) -> (Vec<u8>, Vec<u8>) {
    let from = [&[table][..], &at.crawl.to_be_bytes(), &at.host.to_be_bytes()].concat();
    let next = (u64::from(at.crawl) << 32 | u64::from(at.host)).checked_add(1);
    let to = next.map_or(vec![table + 1], |next| [&[table][..], &next.to_be_bytes()].concat());
    (from, to)
}
