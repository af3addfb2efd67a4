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
        let least = traps.template_pages.min(traps.plain_pages);
        let is_close = patterns > 0 || lent + most as u64 > least;
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
            let spent = row_of(store, self.at, budget.key)?.unwrap_or_default().pages;
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
        {
            let traps = &self.crawl.spec.traps;
            let template = Template::of(&url);
            let row = |key| row_of(store, self.at, key);
            let counted = Counted::of(&template, self.is_full, row)?;
            if let Some(caught) = counted.over(&template, traps) {
                return Ok(Fate::Ended(End::Trap(caught)));
            }
            if counted.row.pages + self.under_way(counted.key) >= counted.budget(traps) {
                return Ok(Fate::Later);
            }
            keys.push(counted.key);
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
fn row_of(store: &impl Store, at: HostRef, key: u64) -> Result<Option<PatternRow>, StoreError> {
    store.get(&keys::pattern(at, key))?.map(|row| decode(&row)).transpose()
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

/// What was counted of a template.
struct Counted {
    /// Its own key, or that of others that it is counted with.
    key: u64,
    row: PatternRow,
    counts_all: bool,
}

impl Counted {
    /// Looks it up among the rows of its host. Combinations of parameters count together
    /// once there are many sets of them; and so does what has no row of its own, if its
    /// host has as many as it may.
    fn of(
        template: &Template,
        is_full: bool,
        row: impl Fn(u64) -> Result<Option<PatternRow>, StoreError>,
    ) -> Result<Self, StoreError> {
        if let Some(all) = &template.combined {
            let row = row(all.key)?.unwrap_or_default();
            if row.sets.len() > Template::SETS_MAX {
                return Ok(Self { key: all.key, row, counts_all: true });
            }
        }
        if let Some(row) = row(template.key)? {
            return Ok(Self { key: template.key, row, counts_all: template.counts_all });
        }
        if is_full {
            let row = row(Template::REST)?.unwrap_or_default();
            return Ok(Self { key: Template::REST, row, counts_all: false });
        }
        let (key, row, counts_all) = (template.key, PatternRow::default(), template.counts_all);
        Ok(Self { key, row, counts_all })
    }

    /// Pages that may count.
    fn budget(&self, traps: &TrapSpec) -> u64 {
        if self.key == Template::PLAIN { traps.plain_pages } else { traps.template_pages }
    }

    /// The pages that count, for people.
    fn what_counts(&self, template: &Template) -> String {
        let new = if self.counts_all { "" } else { " with nothing new" };
        match (self.key, &template.combined) {
            (Template::REST, _) => "further kinds with nothing new".to_owned(),
            (Template::PLAIN, _) => "URLs without numbers with nothing new".to_owned(),
            (key, Some(all)) if key == all.key => format!("the kind {}", all.text),
            _ => format!("the kind {}{new}", template.text),
        }
    }

    /// Why no more of it is fetched, if it is so.
    fn over(&self, template: &Template, traps: &TrapSpec) -> Option<Caught> {
        if self.row.alike >= traps.alike_pages {
            let kind = match self.key {
                Template::REST => "further kinds".to_owned(),
                _ => format!("the kind {}", template.text),
            };
            let count = self.row.alike;
            let detail = format!("the last {count} pages of {kind} were nearly the same");
            return Some(Caught { trap: Trap::Alike, detail });
        }
        (self.row.pages >= self.budget(traps)).then(|| {
            let (count, what) = (self.row.pages, self.what_counts(template));
            let detail = format!("{count} pages of {what} were fetched of its host");
            Caught { trap: Trap::Template, detail }
        })
    }
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
    /// for what cannot be compared, such as what is not HTML.
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
        let budget = crawl.rules.budget(&url).filter(|_| class.is_page());
        let budget = budget.map(|budget| budget.key);
        let template = match spec.traps.enabled {
            true => CrawlUrl::parse(&url).ok().map(|url| Template::of(&url)),
            false => None,
        };
        if spec.traps.enabled && class.is_page() {
            self.count_first_page(at, print)?;
        }
        if let Some(key) = budget {
            self.change_pattern(at, key, |row| row.pages += 1)?;
        }
        match template {
            Some(template) => self.count_template(at, &template, is_new, print, &spec.traps),
            None => Ok(()),
        }
    }

    /// Counts a page of a template.
    fn count_template(
        &mut self,
        at: HostRef,
        template: &Template,
        is_new: bool,
        print: Option<u64>,
        traps: &TrapSpec,
    ) -> Result<(), StoreError> {
        let is_full = is_full(self.pattern_count(at)?, traps);
        if let Some(all) = &template.combined {
            let row = self.pattern(at, all.key)?;
            let may_have_one = row.is_some() || !is_full;
            let sets = row.unwrap_or_default().sets;
            if may_have_one && sets.len() <= Template::SETS_MAX && !sets.contains(&template.key) {
                self.change_pattern(at, all.key, |row| row.sets.push(template.key))?;
            }
        } else if is_new && !template.counts_all && !is_full {
            // What is new takes off a count, and mostly there is none.
            let has_row = self.pattern(at, template.key)?.is_some();
            if !has_row {
                return Ok(());
            }
        }
        let row = |key| self.pattern(at, key);
        let Counted { key, counts_all, .. } = Counted::of(template, is_full, row)?;
        self.change_pattern(at, key, |row| {
            // As long as there is more that is new than what is not, it is no trap. What
            // cannot be compared, such as a calendar's other formats, says neither.
            match (is_new, print) {
                _ if counts_all => row.pages += 1,
                (true, Some(_)) => row.pages = row.pages.saturating_sub(1),
                (true, None) => {}
                (false, _) => row.pages += 1,
            }
            // Plain pages have nothing in common that could be endless in a row.
            match (is_new, print) {
                _ if key == Template::PLAIN => {}
                (true, Some(_)) => row.alike = 0,
                (_, Some(trap::THIN) | None) => {}
                (false, Some(_)) => row.alike = row.alike.saturating_add(1),
            }
        })
    }

    fn pattern(&self, at: HostRef, key: u64) -> Result<Option<PatternRow>, StoreError> {
        self.changes.get(&self.store, &keys::pattern(at, key))
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

    /// Why a link to a URL is not taken in, if it would be taken for a trap.
    pub(super) fn caught(&self, number: u32, url: &CrawlUrl) -> Result<Option<Caught>, StoreError> {
        let Some(crawl) = self.crawls.get(&number) else { return Ok(None) };
        match trap::caught(url, &crawl.spec.traps) {
            None => self.too_many_hosts(number, url),
            caught => Ok(caught),
        }
    }

    /// What a URL counts against, and how far that is used up: each one sentence. And
    /// what trap it would be taken for if its turn came.
    pub(super) fn budgets(
        &self,
        at: HostRef,
        url: &CrawlUrl,
    ) -> Result<(Vec<String>, Option<Caught>), StoreError> {
        let mut budgets = Vec::new();
        let Some(crawl) = self.crawls.get(&at.crawl) else { return Ok((budgets, None)) };
        if let Some(budget) = crawl.rules.budget(url.as_str()) {
            let (spent, name) =
                (self.pattern(at, budget.key)?.unwrap_or_default().pages, budget.rule.name());
            budgets.push(format!("{spent} of {} pages of {name} are fetched", budget.pages));
        }
        let set = self.gate_row(at.host)?.and_then(|row| row.set_pages);
        if let Some(budget) = set.or(crawl.spec.pages_per_host) {
            let spent = self.host_row(at)?.map_or(0, |row| row.pages);
            budgets.push(format!("{spent} of {budget} pages of its host are fetched"));
        }
        if let Some(budget) = crawl.spec.pages {
            budgets.push(format!("{} of {budget} pages of the crawl are fetched", crawl.pages()));
        }
        let traps = &crawl.spec.traps;
        if !traps.enabled {
            return Ok((budgets, None));
        }
        let template = Template::of(url);
        let is_full = is_full(count_rows(&self.store, at)?, traps);
        let counted = Counted::of(&template, is_full, |key| self.pattern(at, key))?;
        if counted.key != Template::PLAIN || counted.row.pages > 0 {
            let (spent, budget) = (counted.row.pages, counted.budget(traps));
            let what = counted.what_counts(&template);
            budgets.push(format!("{spent} of {budget} pages of {what} are fetched"));
        }
        Ok((budgets, counted.over(&template, traps)))
    }
}
