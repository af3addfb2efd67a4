//! Leases after they were granted: renewed, handed back, run out.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use trawl_shared::{
    lease::Token,
    outcome::Class,
    sabotage::{self, Fault},
    url::UrlId,
};

use super::{Frontier, FrontierError, Lease, Moment};
use crate::store::{
    Store,
    keys::{self, HostRef, Slot},
    rows::{EndedRow, QueueRow, UrlRow, UrlState},
};

/// Which leases a worker gives back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HandBack {
    /// These, as far as they are its own.
    Tokens(Vec<Token>),
    /// All that it holds.
    All,
}

/// How a lease ended with URLs in it that have no outcome.
#[derive(Clone, Copy, PartialEq, Eq)]
enum TakenBack {
    /// The worker gave it back: it has not begun with those.
    HandedBack,
    /// The worker is gone, perhaps because of one of them.
    Lost,
}

impl<S: Store> Frontier<S> {
    /// Extends a worker's leases. Returns the tokens that are not its own any more.
    pub fn renew(&mut self, worker: &str, tokens: &[Token], now: Moment) -> Vec<Token> {
        let deadline = now + self.limits.lease;
        let mut lost = Vec::new();
        for token in tokens {
            match self.leases.get_mut(token) {
                Some(lease) if &*lease.worker == worker => {
                    self.deadlines.remove(&(lease.deadline, *token));
                    lease.deadline = deadline;
                    lease.is_unknown = false;
                    self.deadlines.insert((deadline, *token));
                }
                _ => lost.push(*token),
            }
        }
        self.note_unknown(worker, tokens, now);
        lost
    }

    /// Notes the leases that a worker does not name although it has had time to hear
    /// of them: their answer was lost on the way, or it has let go of them.
    fn note_unknown(&mut self, worker: &str, named: &[Token], now: Moment) {
        let known_by = self.limits.lease.mul_f64(0.75);
        let named: HashSet<Token> = named.iter().copied().collect();
        for (token, lease) in &mut self.leases {
            let is_old = lease.deadline <= now + known_by;
            if is_old && &*lease.worker == worker && !named.contains(token) {
                lease.is_unknown = true;
            }
        }
    }

    /// Of a worker's leases, those that are wanted back: their crawl is paused or
    /// stopped, or people have blocked their host or changed how it is to be treated.
    pub fn recalled(&self, worker: &str) -> Vec<Token> {
        let unwanted = |lease: &Lease| {
            self.has_changed(lease.at.host)
                || self.is_blocked(lease.at.host)
                || self.crawls.get(&lease.at.crawl).is_some_and(|crawl| !crawl.is_wanted())
        };
        let leases = self.leases.iter();
        let leases = leases.filter(|(_, lease)| &*lease.worker == worker && unwanted(lease));
        let mut recalled: Vec<Token> = leases.map(|(token, _)| *token).collect();
        recalled.sort_unstable();
        recalled
    }

    /// What workers hold: leases, and URLs in them.
    pub fn held(&self) -> HashMap<Arc<str>, (u32, u64)> {
        let mut held: HashMap<Arc<str>, (u32, u64)> = HashMap::new();
        for lease in self.leases.values() {
            let (leases, urls) = held.entry(Arc::clone(&lease.worker)).or_default();
            *leases += 1;
            *urls += lease.open.len() as u64;
        }
        held
    }

    /// Takes back what a worker does not want. Its URLs wait again, as if they had
    /// not been lent.
    ///
    /// # Errors
    /// If the store fails.
    pub fn hand_back(
        &mut self,
        worker: &str,
        leases: &HandBack,
        now: Moment,
    ) -> Result<(), FrontierError> {
        let held = self.tokens_of(worker);
        let wanted = |token: &Token| match leases {
            HandBack::All => true,
            HandBack::Tokens(tokens) => tokens.contains(token),
        };
        for token in held.into_iter().filter(wanted) {
            self.take_back(token, TakenBack::HandedBack, now)?;
        }
        Ok(())
    }

    /// Takes back the leases that have run out. Returns how many.
    ///
    /// # Errors
    /// If the store fails.
    pub fn expire(&mut self, now: Moment) -> Result<u64, FrontierError> {
        let mut expired = 0;
        if sabotage::is(Fault::KeepExpired) {
            return Ok(expired);
        }
        while let Some((deadline, token)) = self.deadlines.first().copied()
            && deadline <= now
        {
            let is_unknown = self.leases.get(&token).is_some_and(|lease| lease.is_unknown);
            let how = if is_unknown { TakenBack::HandedBack } else { TakenBack::Lost };
            self.take_back(token, how, now)?;
            expired += 1;
        }
        Ok(expired)
    }

    /// Takes back all leases of a worker that starts anew: its former self is gone.
    ///
    /// # Errors
    /// If the store fails.
    pub fn forget_worker(&mut self, worker: &str, now: Moment) -> Result<(), FrontierError> {
        for token in self.tokens_of(worker) {
            self.take_back(token, TakenBack::Lost, now)?;
        }
        Ok(())
    }

    /// What a worker holds, the oldest first.
    fn tokens_of(&self, worker: &str) -> Vec<Token> {
        let of_worker = self.leases.iter().filter(|(_, lease)| &*lease.worker == worker);
        let mut tokens: Vec<Token> = of_worker.map(|(token, _)| *token).collect();
        tokens.sort_unstable();
        tokens
    }

    fn take_back(
        &mut self,
        token: Token,
        how: TakenBack,
        now: Moment,
    ) -> Result<(), FrontierError> {
        let Some(lease) = self.leases.get(&token) else { return Ok(()) };
        let (at, worker) = (lease.at, Arc::clone(&lease.worker));
        if how == TakenBack::Lost
            && let Some(crawl) = self.crawls.get_mut(&at.crawl)
        {
            crawl.row.leases_expired += 1;
            crawl.dirty = true;
        }
        for slot in lease.open.clone() {
            if how == TakenBack::Lost {
                self.count_loss(at, slot, token, &worker)?;
            } else {
                self.requeue(at);
            }
            self.close(token, slot, now);
        }
        Ok(())
    }

    /// Counts a lost lease against a URL of it, and quarantines the URL when it
    /// was there too often.
    fn count_loss(
        &mut self,
        at: HostRef,
        slot: Slot,
        token: Token,
        worker: &str,
    ) -> Result<(), FrontierError> {
        let key = keys::queue(at, slot);
        let Some(mut row) = self.changes.get::<QueueRow>(&self.store, &key)? else {
            return Ok(());
        };
        row.losses += 1;
        row.last_token = token.0;
        row.last_applied = false;
        if row.losses < self.limits.losses {
            self.changes.put(key, &row);
            self.requeue(at);
            return Ok(());
        }
        let Some(host_key) = self.hosts.get(&at).map(|host| host.row.key.clone()) else {
            return Ok(());
        };
        let mut detail =
            format!("{} leases ran out with it, the last one held by worker {worker}", row.losses);
        if !row.last_error.is_empty() {
            detail += &format!("; before that: {}", row.last_error);
        }
        let url = format!("{host_key}{}", row.path);
        let ended = EndedRow {
            token: 0,
            class: u32::from(Class::Quarantined.number()),
            detail,
            attempts: row.failures + row.losses,
            path: row.path,
            via: row.via,
            via_host: row.via_host,
            depth: u32::from(slot.depth),
            hops: row.hops,
            worker: worker.to_owned(),
            tries: row.tries,
            off_site: row.off_site,
            ..EndedRow::default()
        };
        let id = UrlId::of(&url);
        self.changes.put_bytes(keys::quarantined(at, &id), Vec::new());
        self.end_without_answer(at, &id, slot, &url, Class::Quarantined, ended);
        Ok(())
    }

    /// Writes a URL's end that brought no answer.
    pub(super) fn end_without_answer(
        &mut self,
        at: HostRef,
        id: &UrlId,
        slot: Slot,
        url: &str,
        class: Class,
        ended: EndedRow,
    ) {
        if let Some(crawl) = self.crawls.get_mut(&at.crawl) {
            crawl.count(class);
            crawl.count_depth(slot.depth, false);
            crawl.note_trouble(url, class, &ended.detail);
        }
        self.changes.remove(keys::queue(at, slot));
        self.changes.put(keys::url(at, id), &UrlRow { state: Some(UrlState::Ended(ended)) });
    }

    /// Counts a lent URL as waiting again.
    pub(super) fn requeue(&mut self, at: HostRef) {
        if let (Some(crawl), Some(host)) = (self.crawls.get_mut(&at.crawl), self.hosts.get_mut(&at))
        {
            crawl.row.queued += 1;
            crawl.dirty = true;
            host.row.queued += 1;
            self.touched.insert(at);
        }
    }

    /// Takes a URL out of its lease. With its last URL a lease ends, and with its
    /// last lease a host is free again, a full delay from now.
    pub(super) fn close(&mut self, token: Token, slot: Slot, now: Moment) {
        let Some(lease) = self.leases.get_mut(&token) else { return };
        if !lease.open.remove(&slot) {
            return;
        }
        let (at, ended, deadline) = (lease.at, lease.open.is_empty(), lease.deadline);
        if ended {
            self.leases.remove(&token);
            self.deadlines.remove(&(deadline, token));
            self.changes.remove(keys::lease(token));
        }
        let (Some(crawl), Some(host)) = (self.crawls.get_mut(&at.crawl), self.hosts.get_mut(&at))
        else {
            return;
        };
        crawl.row.leased = crawl.row.leased.saturating_sub(1);
        crawl.dirty = true;
        host.leased.remove(&slot);
        if host.leased.is_empty() {
            crawl.busy_hosts = crawl.busy_hosts.saturating_sub(1);
            host.suspect_out = false;
            let longer = std::mem::take(&mut host.longer_wait);
            self.touched.insert(at);
            self.free_host(at, now, longer);
        }
    }
}
