//! Domains: of how many hosts of one registrable domain a crawl takes URLs in. A name server
//! can make up names without end, each with a few pages, which no host's budget catches.
//!
//! A host counts when its first page is fetched, and its first text tells whether the domain
//! has anything new to say. Names alone, which any page can make up of any domain, count only
//! against a far larger budget. URLs of hosts beyond go to quarantine; those of a host that
//! a URL was taken in of never do, also if somebody has let it out.

use trawl_shared::{
    trap::{Caught, Trap, TrapSpec},
    url::CrawlUrl,
};

use super::{Frontier, group::id_of};
use crate::store::{
    Store, StoreError,
    keys::{self, HostRef},
    rows::DomainRow,
};

/// Hosts of a domain whose URLs are taken in, for each that may be visited.
const TAKEN_IN: u64 = 10;

/// Why no further host of a domain is taken in, if it is so.
fn over(domain: &str, row: &DomainRow, traps: &TrapSpec) -> Option<Caught> {
    let (alike, hosts) = (traps.alike_hosts, traps.domain_hosts);
    let detail = if row.alike >= alike {
        format!("{alike} hosts of {domain} had nothing new on their first pages")
    } else if row.visited >= hosts {
        format!("{hosts} hosts of {domain} were fetched from")
    } else if row.hosts >= hosts.saturating_mul(TAKEN_IN) {
        format!("URLs of {} hosts of {domain} were taken in", row.hosts)
    } else {
        return None;
    };
    Some(Caught { trap: Trap::Hosts, detail })
}

impl<S: Store> Frontier<S> {
    /// Why a URL is not taken in, if its domain has enough hosts without its own.
    pub(super) fn too_many_hosts(
        &self,
        number: u32,
        url: &CrawlUrl,
    ) -> Result<Option<Caught>, StoreError> {
        let Some(crawl) = self.crawls.get(&number) else { return Ok(None) };
        let traps = &crawl.spec.traps;
        if !traps.enabled || self.is_counted(number, url)? {
            return Ok(None);
        }
        let domain = url.domain();
        let row: Option<DomainRow> =
            self.changes.get(&self.store, &keys::domain(number, key_of(domain)))?;
        Ok(row.and_then(|row| over(domain, &row, traps)))
    }

    fn is_counted(&self, number: u32, url: &CrawlUrl) -> Result<bool, StoreError> {
        let Some(host) = self.known_host(url.host_key_str())? else { return Ok(false) };
        let at = HostRef { crawl: number, host };
        if let Some(host) = self.hosts.get(&at) {
            return Ok(host.row.is_counted);
        }
        Ok(self.host_row(at)?.is_some_and(|row| row.is_counted))
    }

    /// A URL of a host is taken in: it counts from now on.
    pub(super) fn count_host(&mut self, at: HostRef) -> Result<(), StoreError> {
        let is_looked_for = self.crawls.get(&at.crawl).is_some_and(|it| it.spec.traps.enabled);
        let Some(host) = self.hosts.get_mut(&at) else { return Ok(()) };
        if host.row.is_counted || !is_looked_for {
            return Ok(());
        }
        host.row.is_counted = true;
        self.touched.insert(at);
        self.change_domain(at, |row| row.hosts += 1)
    }

    /// A page of a host was fetched, with this fingerprint if it can be compared: whether it is
    /// the first, and the first text, counts for its domain.
    pub(super) fn count_first_page(
        &mut self,
        at: HostRef,
        print: Option<u64>,
    ) -> Result<(), StoreError> {
        let Some(host) = self.hosts.get_mut(&at) else { return Ok(()) };
        let is_first = host.row.pages == 0;
        let is_first_text = print.is_some() && !host.row.is_compared;
        host.row.is_compared |= is_first_text;
        if !is_first && !is_first_text {
            return Ok(());
        }
        self.touched.insert(at);
        let Some(domain) = self.domain_key(at) else { return Ok(()) };
        let is_new = is_first_text.then(|| self.domains.of((at.crawl, domain)).is_new(print));
        self.change_domain(at, |row| {
            row.visited += u64::from(is_first);
            match is_new {
                Some(true) => row.alike = row.alike.saturating_sub(1),
                Some(false) => row.alike += 1,
                None => {}
            }
        })
    }

    fn change_domain(
        &mut self,
        at: HostRef,
        change: impl FnOnce(&mut DomainRow),
    ) -> Result<(), StoreError> {
        let Some(domain) = self.domain_key(at) else { return Ok(()) };
        let key = keys::domain(at.crawl, domain);
        let was: DomainRow = self.changes.get(&self.store, &key)?.unwrap_or_default();
        let mut row = was.clone();
        change(&mut row);
        if row != was {
            self.changes.put(key, &row);
        }
        Ok(())
    }

    fn domain_key(&self, at: HostRef) -> Option<u64> {
        let url = CrawlUrl::parse(&self.hosts.get(&at)?.row.key).ok()?;
        Some(key_of(url.domain()))
    }
}

fn key_of(domain: &str) -> u64 {
    id_of("domain", domain.as_bytes())
}

#[cfg(test)]
mod tests {
    use trawl_shared::{scope::ScopeKind, spec::CrawlSpec};

    use super::*;
    use crate::frontier::{
        Moment, Release,
        model::{frontier, spec},
        traps::tests::{answer, crawl, inmates, lend, new_text},
    };

    fn spec_of(traps: TrapSpec) -> CrawlSpec {
        CrawlSpec { traps, scope: ScopeKind::Any, group_hosts: 0, ..spec() }
    }

    /// A farm's host by its number, which leads to the next three.
    fn farm(url: &str) -> (u64, Vec<String>) {
        let number = url.trim_start_matches("http://n").split('.').next();
        let number: u64 = number.and_then(|it| it.parse().ok()).unwrap_or(0);
        (number, (1..4).map(|more| format!("http://n{}.farm.example/", number + more)).collect())
    }

    const SEED: &str = "http://n0.farm.example/";

    #[test]
    fn hosts_without_end_and_with_nothing_new_are_a_trap() {
        let mut frontier =
            frontier(spec_of(TrapSpec { alike_hosts: 20, ..TrapSpec::default() }), &[SEED]);
        let fetched = crawl(&mut frontier, &|url| (farm(url).1, Some(7)));
        // The first is new, and those that were found by then are fetched.
        assert!((21..30).contains(&fetched.len()), "{}", fetched.len());
        let caught = inmates(&frontier);
        assert!(!caught.is_empty());
        for inmate in &caught {
            assert_eq!(inmate.trap, "hosts");
            assert_eq!(
                inmate.detail,
                "20 hosts of farm.example had nothing new on their first pages"
            );
        }
    }

    #[test]
    fn a_domain_of_many_hosts_that_all_have_something_to_say_is_fetched_whole() {
        let traps = TrapSpec { alike_hosts: 20, ..TrapSpec::default() };
        let mut frontier = frontier(spec_of(traps), &[SEED]);
        let site = |url: &str| {
            let (number, links) = farm(url);
            (if number < 200 { links } else { Vec::new() }, new_text(number))
        };
        assert!(crawl(&mut frontier, &site).len() > 200);
        assert!(inmates(&frontier).is_empty());
    }

    #[test]
    fn a_domain_has_no_more_hosts_than_its_budget_whatever_they_say() {
        let traps = TrapSpec { domain_hosts: 30, ..TrapSpec::default() };
        let mut frontier = frontier(spec_of(traps), &[SEED, "http://other.example/"]);
        let site = |url: &str| {
            let (number, mut links) = farm(url);
            if url.contains("other") {
                return (vec!["http://more.other.example/".into()], new_text(1_000));
            }
            // More of a host that counts may come at any time.
            links.push(format!("{SEED}{number}"));
            (links, new_text(number))
        };
        let fetched = crawl(&mut frontier, &site);
        let hosts = fetched.iter().filter(|url| url.contains("farm") && url.ends_with("e/"));
        // Those that were found by then are fetched as well.
        assert!((30..=33).contains(&hosts.count()), "{fetched:?}");
        assert!(fetched.iter().any(|url| url == &format!("{SEED}29")), "a host that counts");
        assert!(fetched.iter().any(|url| url == "http://more.other.example/"), "another domain");
        assert_eq!(inmates(&frontier)[0].detail, "30 hosts of farm.example were fetched from");
    }

    #[test]
    fn names_that_a_page_makes_up_use_up_no_domains_budget_until_they_are_very_many() {
        let traps = TrapSpec { domain_hosts: 5, ..TrapSpec::default() };
        let mut frontier = frontier(spec_of(traps), &[SEED]);
        let name = |number: u64| format!("http://made-up-{number}.victim.example/");
        let page = |_: &str| ((0..49).map(name).collect(), None);
        let lent = lend(&mut frontier, Moment(10_000));
        answer(&mut frontier, &lent, &page, Moment(10_000));
        let caught = |frontier: &Frontier<_>, name: &str| {
            let url = CrawlUrl::parse(name).unwrap();
            frontier.too_many_hosts(1, &url).unwrap().map(|caught| caught.detail)
        };
        assert_eq!(caught(&frontier, "http://real.victim.example/"), None);
        frontier
            .submit(
                "c",
                spec_of(TrapSpec { domain_hosts: 5, ..TrapSpec::default() }),
                &[name(50).parse().unwrap()],
                Moment(20_000),
            )
            .unwrap();
        let why = caught(&frontier, "http://real.victim.example/").unwrap();
        assert_eq!(why, "URLs of 50 hosts of victim.example were taken in");
        assert_eq!(caught(&frontier, &name(3)), None, "one that is taken in already");
    }

    #[test]
    fn counts_outlive_a_restart_and_a_host_that_was_let_out_counts() {
        let traps = TrapSpec { domain_hosts: 5, ..TrapSpec::default() };
        let mut frontier = frontier(spec_of(traps), &[SEED]);
        let site = |url: &str| {
            let (number, mut links) = farm(url);
            links.push(format!("http://n{number}.farm.example/more"));
            (links, new_text(number))
        };
        let fetched = crawl(&mut frontier, &site).len();
        assert!((10..=16).contains(&fetched), "two pages of each host: {fetched}");
        let (limits, store) = (frontier.limits.clone(), frontier.into_store());
        let (mut frontier, now) = Frontier::open(store, limits, "again").unwrap();

        let inmate = inmates(&frontier).remove(0);
        let host = inmate.url.clone();
        let now = Moment(now.0 + 1);
        assert!(frontier.release(inmate.at, &inmate.id, Release::Retry, now).unwrap());
        assert_eq!(crawl(&mut frontier, &site), [host.clone(), format!("{host}more")]);
        let url = CrawlUrl::parse("http://n99.farm.example/").unwrap();
        let account = frontier.why(None, &url, now).unwrap().remove(0);
        assert_eq!(account.trap, "hosts");
        assert!(account.held_up.contains("5 hosts of farm.example"), "{}", account.held_up);
    }

    #[test]
    fn who_looks_for_no_traps_counts_no_hosts() {
        let traps = TrapSpec { enabled: false, domain_hosts: 1, ..TrapSpec::default() };
        let mut frontier = frontier(spec_of(traps), &[SEED]);
        let site = |url: &str| {
            let (number, links) = farm(url);
            (if number < 20 { links } else { Vec::new() }, Some(7))
        };
        assert!(crawl(&mut frontier, &site).len() > 20);
    }
}
