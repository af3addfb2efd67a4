//! Several hosts that are crawled together, by which a crawl that was disturbed is held against
//! one that was not.

use std::ops::Deref;

use crate::{Command, Duration, Pages, Site, Trawl, Web, network::Host};

/// Hosts, each with the same web, such as a [`Web::tree`].
#[derive(Debug)]
pub struct Sites {
    sites: Vec<Site>,
    /// What a crawl finds on each.
    urls: usize,
}

impl Sites {
    /// So many hosts of so many pages each, and seven broken links; each page takes `wait`.
    pub async fn trees(hosts: usize, pages: usize, wait: Duration) -> Self {
        Self::of(hosts, pages + 7, || Web::new().tree(pages, wait)).await
    }

    /// So many hosts of this web, on each of which a crawl finds so many URLs.
    pub async fn of(hosts: usize, urls: usize, web: impl Fn() -> Web) -> Self {
        let mut sites = Vec::new();
        for _ in 0..hosts {
            sites.push(web().serve().await);
        }
        Self { sites, urls }
    }

    /// So many trees on a host of a network, at a port for each. What crawls them must be there as well.
    pub fn trees_on(host: &Host, hosts: usize, pages: usize) -> Self {
        let sites = (0..hosts).map(|_| Web::new().tree(pages, Duration::ZERO).serve_at_host(host));
        Self { sites: sites.collect(), urls: pages + 7 }
    }

    /// Where a crawl of all of them starts.
    pub fn seeds(&self) -> Vec<String> {
        self.sites.iter().map(|site| site.url("/")).collect()
    }

    /// What a crawl of them in one process brings that nobody disturbs. The hosts forget it.
    ///
    /// # Panics
    /// If it fails, or does not find every page by one visit.
    pub async fn undisturbed(&self) -> Pages {
        self.undisturbed_as(|command| command).await
    }

    /// The same by a command that is not quite [`Trawl::crawl`].
    ///
    /// # Panics
    /// As [`Sites::undisturbed`].
    pub async fn undisturbed_as(&self, change: impl FnOnce(Command) -> Command) -> Pages {
        let trawl = Trawl::new();
        change(trawl.crawl(self.seeds())).done().await.expect(0);
        let pages = trawl.pages().await;
        assert_eq!(pages.count(), self.sites.len() * self.urls);
        assert_eq!(self.again(), 0);
        self.forget();
        pages
    }

    /// From now on every answer takes this much longer.
    pub fn slow_down(&self, slowness: Duration) {
        self.sites.iter().for_each(|site| site.slow_down(slowness));
    }

    /// Requests so far.
    pub fn requests(&self) -> usize {
        self.sites.iter().map(|site| site.visits().len()).sum()
    }

    /// Requests beyond the first of each URL.
    pub fn again(&self) -> usize {
        self.requests() - self.sites.iter().map(|site| site.counts().len()).sum::<usize>()
    }

    /// Forgets all requests so far.
    pub fn forget(&self) {
        self.sites.iter().for_each(Site::forget);
    }
}

impl Deref for Sites {
    type Target = [Site];

    fn deref(&self) -> &[Site] {
        &self.sites
    }
}
