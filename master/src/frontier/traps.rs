//! Traps and budgets: which URLs of a host are not fetched because of what they look
//! like, or because too many like them were.
//!
//! What shows in one URL is caught as it is found; what shows in many is counted in
//! rows of its own, and caught when its turn comes, so that as much is fetched as the
//! budget says, and no more. What is caught goes to quarantine.

#[cfg(test)]
pub(super) mod tests;

use std::{collections::HashMap, sync::Arc};

use trawl_shared::{
    outcome::Class,
    trap::{self, Caught, Template, Trap, TrapSpec},
    url::{CrawlUrl, UrlId},
};

use super::{Crawl, Frontier, admit::Candidate, damaged};
use crate::store::{
    Store, StoreError,
    keys::{self, HostRef, Slot},
    rows::{EndedRow, PatternRow, QueueRow, UrlRow, UrlState, decode},
};

/// What becomes of a URL whose turn it is.
#[derive(Debug, PartialEq)]
pub(super) enum Fate {
    /// It may be lent.
    Lent,
    /// It may be, or may not, when what is lent of its host has ended.
    Later,
    /// It is not fetched.
    Ended(End),
}

/// Why a URL is not fetched.
#[derive(Debug, PartialEq)]
pub(super) enum End {
    /// It is taken for a trap.
    Trap(Caught),
    /// The budget of its rule is used up.
    OverBudget(String),
}

/// Judges the URLs of one host that are about to be lent together.
pub(super) struct Judge<'f> {
    crawl: &'f Crawl,
    host_key: String,
    at: HostRef,
    /// URLs of the host that are lent already.
    lent: u64,
    /// Whether templates need be looked at.
    has_templates: bool,
    /// Whether a template without a row counts among the rest.
    is_full: bool,
    has_budgets: bool,
    /// Patterns of the URLs found so far, and how many of each.
    picked: HashMap<u64, u64>,
}

impl<'f> Judge<'f> {
    /// For up to `most` URLs of a host of which so many are lent, and which has so many
    /// rows of patterns.
    pub(super) fn new(
        crawl: &'f Crawl,
        at: HostRef,
        host_key: &str,
        lent: usize,
        patterns: usize,
        most: usize,
    ) -> Self {
        let traps = &crawl.spec.traps;
        let lent = lent as u64;
        // As long as nothing is counted, only many at once can be too many.
        let is_close = patterns > 0 || lent + most as u64 > traps.template_pages;
        Self {
            crawl,
            host_key: host_key.to_owned(),
            at,
            lent,
            has_templates: traps.enabled && is_close,
            is_full: is_full(patterns, traps),
            has_budgets: crawl.rules.have_budgets(),
            picked: HashMap::new(),
        }
    }

    /// The host that it judges the URLs of.
    pub(super) fn at(&self) -> HostRef {
        self.at
    }

    /// What becomes of the URL of a row.
    ///
    /// # Errors
    /// If the store fails.
    pub(super) fn fate(&mut self, store: &impl Store, row: &QueueRow) -> Result<Fate, StoreError> {
        if !self.has_templates && !self.has_budgets {
            return Ok(Fate::Lent);
        }
        let url = format!("{}{}", self.host_key, row.path);
        let mut keys = Vec::new();
        if self.has_budgets
            && let Some(budget) = self.crawl.rules.budget(&url)
        {
            let spent = row_of(store, self.at, budget.key)?.pages;
            if spent >= budget.pages {
                let (pages, name) = (budget.pages, budget.rule.name());
                let detail = format!("the budget of {pages} pages of {name} was used up");
                return Ok(Fate::Ended(End::OverBudget(detail)));
            }
            if spent + self.under_way(budget.key) >= budget.pages {
                return Ok(Fate::Later);
            }
            keys.push(budget.key);
        }
        if self.has_templates
            && !row.exempt
            && let Ok(url) = CrawlUrl::parse(&url)
            && let Some(template) = Template::of(&url)
        {
            let traps = &self.crawl.spec.traps;
            let (key, counted) = counted(store, self.at, &template, self.is_full)?;
            if let Some(caught) = over(&template, key, &counted, traps) {
                return Ok(Fate::Ended(End::Trap(caught)));
            }
            if counted.pages + self.under_way(key) >= traps.template_pages {
                return Ok(Fate::Later);
            }
            keys.push(key);
        }
        for key in keys {
            *self.picked.entry(key).or_default() += 1;
        }
        Ok(Fate::Lent)
    }

    /// URLs of a pattern that may be lent: of those that were before, it may be any.
    fn under_way(&self, key: u64) -> u64 {
        self.lent + self.picked.get(&key).copied().unwrap_or_default()
    }
}

/// What was counted of a pattern.
fn row_of(store: &impl Store, at: HostRef, key: u64) -> Result<PatternRow, StoreError> {
    let row = store.get(&keys::pattern(at, key))?;
    row.map_or_else(|| Ok(PatternRow::default()), |row| decode(&row))
}

/// How many patterns a host has rows of in the store.
fn count_rows(store: &impl Store, at: HostRef) -> Result<usize, StoreError> {
    let (from, to) = keys::patterns(at);
    let mut count = 0;
    for row in store.range(&from, &to) {
        row?;
        count += 1;
    }
    Ok(count)
}

/// Whether a host of so many patterns gets no row of its own for a further template.
fn is_full(patterns: usize, traps: &TrapSpec) -> bool {
    patterns >= traps.templates as usize
}

/// What was counted of a template, and under which key: one that has no row of its own
/// counts among the rest if its host has as many rows as it may.
fn counted(
    store: &impl Store,
    at: HostRef,
    template: &Template,
    is_full: bool,
) -> Result<(u64, PatternRow), StoreError> {
    if let Some(row) = store.get(&keys::pattern(at, template.key))? {
        return Ok((template.key, decode(&row)?));
    }
    let key = if is_full { Template::REST } else { template.key };
    Ok((key, row_of(store, at, key)?))
}

/// The pages that count under a key, for people.
fn what_counts(template: &Template, key: u64) -> String {
    if key == Template::REST {
        return "further kinds with nothing new".to_owned();
    }
    let what = if template.counts_all { "" } else { " with nothing new" };
    format!("the kind {}{what}", template.text)
}

/// Why no more of a template is fetched, if it is so.
fn over(template: &Template, key: u64, counted: &PatternRow, traps: &TrapSpec) -> Option<Caught> {
    if counted.alike >= traps.alike_pages {
        let kind = match key {
            Template::REST => "further kinds".to_owned(),
            _ => format!("the kind {}", template.text),
        };
        let detail = format!("the last {} pages of {kind} were nearly the same", counted.alike);
        return Some(Caught { trap: Trap::Alike, detail });
    }
    (counted.pages >= traps.template_pages).then(|| {
        let (count, what) = (counted.pages, what_counts(template, key));
        let detail = format!("{count} pages of {what} were fetched of its host");
        Caught { trap: Trap::Template, detail }
    })
}

impl Crawl {
    /// Whether the quarantine takes no more traps.
    fn is_quarantine_full(&self) -> bool {
        self.outcome(Class::Quarantined) >= self.spec.traps.quarantine
    }
}

impl<S: Store> Frontier<S> {
    /// How many patterns a host has rows of.
    pub(super) fn pattern_count(&mut self, at: HostRef) -> Result<usize, StoreError> {
        if let Some(count) = self.patterns.of(at).count {
            return Ok(count);
        }
        // What is staged but not written is counted when it is.
        let count = count_rows(&self.store, at)?;
        self.patterns.of(at).count = Some(count);
        Ok(count)
    }

    /// Counts a page that was fetched of a host. `print` is its text's fingerprint; none
    /// for what is not HTML, which is taken for something new.
    pub(super) fn count_page(
        &mut self,
        at: HostRef,
        path: &str,
        class: Class,
        print: Option<u64>,
    ) -> Result<(), StoreError> {
        let (Some(crawl), Some(host)) = (self.crawls.get(&at.crawl), self.hosts.get(&at)) else {
            return Ok(());
        };
        if !crawl.spec.traps.enabled && crawl.rules.is_empty() {
            return Ok(());
        }
        let url = format!("{}{path}", host.row.key);
        let is_new = self.patterns.of(at).prints.is_new(print);
        let spec = Arc::clone(&crawl.spec);
        let is_first = host.row.pages == 0 && class == Class::Ok;
        let budget = crawl.rules.budget(&url).filter(|_| class.is_page());
        let budget = budget.map(|budget| budget.key);
        let template = match CrawlUrl::parse(&url) {
            Ok(url) if crawl.spec.traps.enabled => Template::of(&url),
            _ => None,
        };
        if is_first && spec.traps.enabled {
            self.count_first_page(at, print)?;
        }
        if let Some(key) = budget {
            self.change_pattern(at, key, |row| row.pages += 1)?;
        }
        let Some(template) = template else { return Ok(()) };
        let is_full = is_full(self.pattern_count(at)?, &spec.traps);
        let own = self.changes.get_bytes(&self.store, &keys::pattern(at, template.key))?;
        let is_rest = own.is_none() && is_full;
        let key = if is_rest { Template::REST } else { template.key };
        self.change_pattern(at, key, |row| {
            // The rest has many kinds, good ones too: as long as those bring more that is
            // new than the others bring what is not, it is no trap.
            match (is_rest, is_new) {
                (true, true) => row.pages = row.pages.saturating_sub(1),
                (_, is_new) => row.pages += u64::from(template.counts_all || !is_new),
            }
            match (is_new, print) {
                (true, _) => row.alike = 0,
                (false, Some(trap::THIN) | None) => {}
                (false, Some(_)) => row.alike = row.alike.saturating_add(1),
            }
        })
    }

    fn change_pattern(
        &mut self,
        at: HostRef,
        key: u64,
        change: impl FnOnce(&mut PatternRow),
    ) -> Result<(), StoreError> {
        let row_key = keys::pattern(at, key);
        let was: Option<PatternRow> = self.changes.get(&self.store, &row_key)?;
        let mut row = was.clone().unwrap_or_default();
        change(&mut row);
        if row == was.clone().unwrap_or_default() {
            return Ok(());
        }
        if was.is_none() {
            let count = self.pattern_count(at)?;
            self.patterns.of(at).count = Some(count + 1);
        }
        self.changes.put(row_key, &row);
        Ok(())
    }

    /// Puts a link that was taken for a trap into quarantine, unless it is known, or the
    /// quarantine is full.
    pub(super) fn catch(
        &mut self,
        number: u32,
        new: &Candidate<'_>,
        caught: Caught,
    ) -> Result<(), StoreError> {
        // A host that nothing but traps lead to gets a number with the first that is kept.
        let host = self.known_host(new.url.host_key_str())?;
        if let Some(host) = host {
            let key = keys::url(HostRef { crawl: number, host }, &new.id);
            if self.changes.get_bytes(&self.store, &key)?.is_some() {
                return Ok(());
            }
        }
        let Some(crawl) = self.crawls.get_mut(&number) else { return Ok(()) };
        if crawl.is_quarantine_full() {
            crawl.dirty = true;
            crawl.row.traps_forgotten += 1;
            return Ok(());
        }
        let at = HostRef { crawl: number, host: self.host_number(new.url.host_key_str())? };
        let Some(crawl) = self.crawls.get_mut(&number) else { return Ok(()) };
        crawl.row.discovered += 1;
        crawl.count(Class::Quarantined);
        let ended = EndedRow {
            class: Class::Quarantined.number().into(),
            trap: caught.trap.word().to_owned(),
            detail: caught.detail,
            path: new.url.path_and_query().to_owned(),
            via: new.via.to_vec(),
            via_host: new.via_host,
            depth: new.depth.into(),
            hops: new.hops,
            off_site: new.off_site,
            ..EndedRow::default()
        };
        self.known.insert(number, &new.id);
        self.changes.put(keys::url(at, &new.id), &UrlRow { state: Some(UrlState::Ended(ended)) });
        self.changes.put_bytes(keys::quarantined(at, &new.id), Vec::new());
        self.host_or_new(at, new.url.host_key_str())?;
        self.touched.insert(at);
        Ok(())
    }

    /// Ends a waiting URL that is not to be fetched. While the quarantine is full, what
    /// would go there is given up.
    pub(super) fn end_waiting(
        &mut self,
        at: HostRef,
        slot: Slot,
        row: QueueRow,
        end: End,
    ) -> Result<(), StoreError> {
        let host_key = self.host_key(at)?.ok_or_else(|| damaged("a host is missing"))?;
        let is_full = self.crawls.get(&at.crawl).is_some_and(Crawl::is_quarantine_full);
        let (class, detail, trap) = match end {
            End::Trap(Caught { trap, detail }) if is_full => {
                let detail = format!("given up, since the quarantine was full: {detail}");
                (Class::Dropped, detail, trap.word())
            }
            End::Trap(caught) => (Class::Quarantined, caught.detail, caught.trap.word()),
            End::OverBudget(detail) => (Class::OverBudget, detail, ""),
        };
        let id = UrlId::of(&format!("{host_key}{}", row.path));
        let ended = EndedRow { trap: trap.to_owned(), ..EndedRow::of(row, slot, class, detail) };
        if class == Class::Quarantined {
            self.changes.put_bytes(keys::quarantined(at, &id), Vec::new());
        }
        self.changes.remove(keys::queue(at, slot));
        self.changes.put(keys::url(at, &id), &UrlRow { state: Some(UrlState::Ended(ended)) });
        if let (Some(crawl), Some(host)) = (self.crawls.get_mut(&at.crawl), self.hosts.get_mut(&at))
        {
            crawl.row.queued = crawl.row.queued.saturating_sub(1);
            crawl.count_depth(slot.depth, false);
            crawl.count(class);
            host.row.queued = host.row.queued.saturating_sub(1);
            self.touched.insert(at);
        }
        Ok(())
    }

    /// What a URL counts against, and how far that is used up: each one sentence. And
    /// what trap it would be taken for.
    pub(super) fn budgets(
        &self,
        at: HostRef,
        url: &CrawlUrl,
    ) -> Result<(Vec<String>, Option<Caught>), StoreError> {
        let mut budgets = Vec::new();
        let Some(crawl) = self.crawls.get(&at.crawl) else { return Ok((budgets, None)) };
        if let Some(budget) = crawl.rules.budget(url.as_str()) {
            let row: Option<PatternRow> =
                self.changes.get(&self.store, &keys::pattern(at, budget.key))?;
            let (spent, name) = (row.unwrap_or_default().pages, budget.rule.name());
            budgets.push(format!("{spent} of {} pages of {name} are fetched", budget.pages));
        }
        let traps = &crawl.spec.traps;
        if !traps.enabled {
            return Ok((budgets, None));
        }
        let mut caught = trap::caught(url, traps);
        if let Some(template) = Template::of(url) {
            let is_full = is_full(count_rows(&self.store, at)?, traps);
            let (key, counted) = counted(&self.store, at, &template, is_full)?;
            let (spent, budget) = (counted.pages, traps.template_pages);
            let what = what_counts(&template, key);
            budgets.push(format!("{spent} of {budget} pages of {what} are fetched"));
            caught = caught.or_else(|| over(&template, key, &counted, traps));
        }
        if caught.is_none() {
            caught = self.too_many_hosts(at.crawl, url)?;
        }
        Ok((budgets, caught))
    }
}
