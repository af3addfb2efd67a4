//! Why a URL is where it is, from what is durably known of it.

use std::{sync::Arc, time::Duration};

use trawl_shared::{
    canon::{Canon, Canonical},
    lease::Token,
    outcome::Class,
    scope::Scope,
    spec::RobotsPolicy,
    url::{CrawlUrl, UrlId},
};

use super::{Crawl, Frontier, FrontierError, Moment, RobotsFile, damaged, status::left_alone};
use crate::{
    pages::Place,
    store::{
        Store, StoreError,
        keys::{self, HostRef, Slot},
        rows::{EndedRow, FetchedRow, QueueRow, UrlRow, UrlState},
    },
};

/// What one crawl knows of a URL.
#[derive(Clone, Debug)]
pub struct Account {
    /// The crawl's number.
    pub crawl: u32,
    /// The crawl's name.
    pub name: String,
    /// The URL by the rules of canonical form that the crawl has chosen, and which of
    /// them changed it.
    pub canonical: Canonical,
    /// The rule of the scope that lets it in, or keeps it out.
    pub scope: String,
    /// The rule of the crawl that is for it; empty for none.
    pub rule: String,
    /// Its priority.
    pub priority: i32,
    /// Budgets that it counts against, each in one sentence.
    pub budgets: Vec<String>,
    /// The kind of trap that it was taken for, or would be; empty for none.
    pub trap: String,
    /// Where the URL stands.
    pub state: State,
    /// Why it has not been lent, or would not be taken in: one sentence; empty if
    /// nothing holds it up, and if no rule keeps out a URL that is not known.
    pub held_up: String,
    /// Why its host is left alone now; empty if it is not.
    pub host: String,
    /// The host's robots.txt; none if it was never asked for.
    pub robots: Option<RobotsFile>,
    /// The name that the crawl looks rules up by.
    pub product_token: String,
    /// How far the crawl goes.
    pub reach: Reach,
}

/// How far a crawl goes from its seeds, and what it takes for the same URL.
#[derive(Clone, Debug)]
pub struct Reach {
    /// Redirects in a row at most.
    pub redirects: u32,
    /// Its scope.
    pub scope: Arc<Scope>,
    /// The rules of canonical form that it has chosen.
    pub canon: Canon,
}

/// Where a URL stands.
#[derive(Clone, Debug)]
pub enum State {
    /// The crawl never heard of it, or did not take it in.
    Unknown,
    /// It waits, or is lent.
    Open {
        /// What is known of it.
        row: QueueRow,
        /// Where it was found.
        via: Via,
        /// Its place in its host's queue.
        slot: Slot,
        /// When it may be lent, as far as its own wait and its host's go.
        due: Option<Moment>,
        /// Who has it.
        holder: Option<Holder>,
    },
    /// Its answer is stored.
    Fetched {
        /// What is known of it.
        row: FetchedRow,
        /// Where its records are.
        place: Place,
        /// An earlier page with the same body.
        same_as: Via,
    },
    /// It ended without an answer.
    Ended {
        /// What is known of it.
        row: EndedRow,
        /// Where it was found.
        via: Via,
        /// Its class.
        class: Option<Class>,
    },
}

/// Who has a URL.
#[derive(Clone, Debug)]
pub struct Holder {
    /// The worker's name.
    pub worker: Arc<str>,
    /// The lease's token.
    pub token: Token,
    /// When the lease runs out unless it is renewed.
    pub deadline: Moment,
}

/// The page that a URL was found on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Via {
    /// None: somebody gave it.
    Seed,
    /// This URL.
    Url(String),
    /// The page whose records are here.
    Page(Place),
    /// Not known any more.
    Unknown,
}

impl<S: Store> Frontier<S> {
    /// What the crawls know of a URL; one, if it is named. The frontier must have
    /// been committed.
    ///
    /// # Errors
    /// If the store fails.
    pub fn why(
        &self,
        name: Option<&str>,
        url: &CrawlUrl,
        now: Moment,
    ) -> Result<Vec<Account>, FrontierError> {
        let asked = |crawl: &Crawl| name.is_none_or(|name| crawl.row.name == name);
        let crawls = self.crawls.iter().filter(|(_, crawl)| asked(crawl));
        crawls.map(|(number, crawl)| self.account(*number, crawl, url, now)).collect()
    }

    fn account(
        &self,
        number: u32,
        crawl: &Crawl,
        url: &CrawlUrl,
        now: Moment,
    ) -> Result<Account, FrontierError> {
        let canonical = crawl.canon.explain(url);
        let url = &canonical.url;
        let host = self.known_host(url.host_key_str())?.unwrap_or_default();
        let at = HostRef { crawl: number, host };
        let row: Option<UrlRow> = self.changes.get(&self.store, &keys::url(at, &url.id()))?;
        let state = match row.and_then(|row| row.state) {
            None => State::Unknown,
            Some(UrlState::Pending(slot)) => {
                let slot = Slot::decode(&slot).ok_or_else(|| damaged("a URL's place"))?;
                self.open_state(at, slot)?
            }
            Some(UrlState::Fetched(row)) => {
                let place = Place::decode(&row.place).ok_or_else(|| damaged("a page's place"))?;
                let same_as = match keys::page_of_ref(&row.same_as) {
                    Some((host, id)) => self.via(number, host, &id.0)?,
                    None => Via::Unknown,
                };
                State::Fetched { row, place, same_as }
            }
            Some(UrlState::Ended(row)) => {
                let via = self.via(number, row.via_host, &row.via)?;
                let class = u8::try_from(row.class).ok().and_then(Class::of_number);
                State::Ended { row, via, class }
            }
        };
        let (is_seed, off_site) = match &state {
            State::Open { row, via, .. } => (*via == Via::Seed, row.off_site),
            State::Ended { row, via, .. } => (*via == Via::Seed, row.off_site),
            State::Fetched { .. } | State::Unknown => (false, 0),
        };
        let refusal = crawl.scope.admit(url, 0).err();
        let is_known = !matches!(state, State::Unknown);
        let scope = match &refusal {
            _ if is_seed => "a seed, which no scope keeps out".to_owned(),
            // The scope was another one, or it is a seed that was fetched.
            Some(refusal) if is_known => format!("known although {refusal}"),
            Some(refusal) => refusal.to_string(),
            None => crawl.scope.reason(url, off_site),
        };
        let (budgets, over) = self.budgets(at, url)?;
        // A link is caught by what it looks like; what waits may be as its turn comes.
        let caught = match &state {
            State::Unknown => self.caught(number, url)?,
            State::Open { row, .. } if !row.exempt => over,
            _ => None,
        };
        let trap = match (&state, &caught) {
            (State::Ended { row, .. }, _) => row.trap.clone(),
            (_, Some(caught)) => caught.trap.word().to_owned(),
            _ => String::new(),
        };
        let held_up = match &state {
            State::Unknown => match (refusal, caught) {
                (Some(refusal), _) => format!("its scope does not admit it: {refusal}"),
                (None, Some(caught)) => format!("it would be taken for a trap: {}", caught.detail),
                (None, None) => String::new(),
            },
            State::Open { holder: None, slot, .. } => self.held_up(at, crawl, *slot, now)?,
            _ => String::new(),
        };
        let depth = match &state {
            State::Open { slot, .. } => slot.depth,
            State::Ended { row, .. } => u16::try_from(row.depth).unwrap_or(u16::MAX),
            State::Fetched { .. } | State::Unknown => 0,
        };
        let rule = crawl.rules.find(url.as_str());
        let robots = match crawl.spec.robots {
            RobotsPolicy::Obey => self.robots(host)?,
            RobotsPolicy::Ignore => None,
        };
        Ok(Account {
            crawl: number,
            name: crawl.row.name.clone(),
            scope,
            rule: rule.map(|rule| rule.name()).unwrap_or_default(),
            priority: crawl.priority(url.as_str(), depth),
            budgets,
            trap,
            state,
            held_up,
            canonical,
            host: left_alone(self.gate_row(host)?.as_ref(), now),
            robots,
            product_token: crawl.spec.product_token().to_owned(),
            reach: Reach {
                redirects: crawl.spec.redirects,
                scope: Arc::clone(&crawl.scope),
                canon: crawl.canon.clone(),
            },
        })
    }

    fn open_state(&self, at: HostRef, slot: Slot) -> Result<State, FrontierError> {
        let row: Option<QueueRow> = self.changes.get(&self.store, &keys::queue(at, slot))?;
        let row = row.ok_or_else(|| damaged("a queued URL"))?;
        let token = self.hosts.get(&at).and_then(|host| host.leased.get(&slot));
        let lease = token.and_then(|token| Some((*token, self.leases.get(token)?)));
        let holder = lease.map(|(token, lease)| Holder {
            worker: Arc::clone(&lease.worker),
            token,
            deadline: lease.deadline,
        });
        let via = self.via(at.crawl, row.via_host, &row.via)?;
        let due = self.host_ready(at).map(|ready| ready.max(Moment(slot.waits_for())));
        Ok(State::Open { row, via, slot, due, holder })
    }

    /// Why a waiting URL is not lent.
    fn held_up(
        &self,
        at: HostRef,
        crawl: &Crawl,
        slot: Slot,
        now: Moment,
    ) -> Result<String, StoreError> {
        let host = self.hosts.get(&at);
        let wait_until = |then: Moment| Duration::from_millis(then.0 - now.0).as_secs_f64();
        let rests = left_alone(self.gate_row(at.host)?.as_ref(), now);
        let above = crawl.depth_open();
        Ok(match (self.host_ready(at), host) {
            _ if !crawl.is_running() => "its crawl has finished without it".to_owned(),
            _ if !crawl.is_wanted() => "its crawl is paused or being stopped".to_owned(),
            _ if crawl.pages_left() == 0 => {
                "its crawl's page budget is lent out or used up".to_owned()
            }
            _ if slot.depth > above => {
                format!("it waits until all URLs at depth {above} have ended")
            }
            (ready, _) if !rests.is_empty() && (ready.is_some() || self.is_blocked(at.host)) => {
                format!("its host is left alone: {rests}")
            }
            _ if slot.waits_for() > now.0 => {
                let wait = wait_until(Moment(slot.waits_for()));
                format!("it failed, and is tried again in {wait:.1} s at the earliest")
            }
            (None, _) => "its host is lent out, and others of it come first".to_owned(),
            (_, Some(host)) if host.in_line => {
                "as many hosts of its address, domain or group are visited as may be at the same \
                 time"
                    .to_owned()
            }
            (Some(ready), host)
                if ready.max(host.and_then(|it| it.ready).unwrap_or(ready)) > now =>
            {
                let ready = ready.max(host.and_then(|it| it.ready).unwrap_or(ready));
                format!("its host may be visited again in {:.1} s", wait_until(ready))
            }
            (Some(_), Some(host)) => {
                format!("it is one of {} that wait for their host", host.row.queued)
            }
            (Some(_), None) => String::new(),
        })
    }

    /// The page of this id on this host.
    ///
    /// # Errors
    /// If the store fails.
    pub fn via(&self, crawl: u32, host: u32, id: &[u8]) -> Result<Via, StoreError> {
        let at = HostRef { crawl, host };
        let Some(id) = UrlId::from_bytes(id) else { return Ok(Via::Seed) };
        let row: Option<UrlRow> = self.changes.get(&self.store, &keys::url(at, &id))?;
        let path = match row.and_then(|row| row.state) {
            None => return Ok(Via::Unknown),
            Some(UrlState::Fetched(row)) => {
                return Ok(Place::decode(&row.place).map_or(Via::Unknown, Via::Page));
            }
            Some(UrlState::Ended(row)) => row.path,
            Some(UrlState::Pending(slot)) => {
                let slot = Slot::decode(&slot).ok_or_else(|| damaged("a URL's place"))?;
                let row: Option<QueueRow> =
                    self.changes.get(&self.store, &keys::queue(at, slot))?;
                row.ok_or_else(|| damaged("a queued URL"))?.path
            }
        };
        Ok(self.host_key(at)?.map_or(Via::Unknown, |key| Via::Url(format!("{key}{path}"))))
    }
}
