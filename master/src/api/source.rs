//! Where a URL stands that a crawl did not take in: no row tells, but the pages do that
//! were stored, by their outlinks and redirects.

use std::time::Duration;

use tokio::{
    sync::Semaphore,
    task::spawn_blocking,
    time::{Instant, timeout_at},
};
use trawl_proto::v1::SearchPoint;
use trawl_shared::{
    page::PageMeta,
    scope::{Refusal, Way},
    url::CrawlUrl,
};

use crate::{
    frontier::Reach,
    pages::{CrawlPages, ReadError, Scan},
};

/// How long one call may look through the pages of a crawl, and of all crawls. Another one
/// may go on where it ended.
const SEARCH_MAX: Duration = Duration::from_secs(3);
pub(super) const SEARCHES_MAX: Duration = Duration::from_secs(30);

/// One search at a time, so that questions leave the machine to the crawl.
static SEARCHING: Semaphore = Semaphore::const_new(1);

/// A search for the page that leads to a URL.
#[derive(Debug)]
pub(super) struct Search {
    /// The URL under the crawl's rules of canonical form.
    url: CrawlUrl,
    /// How it stands in metadata, which are JSON.
    in_json: String,
    /// How far the crawl goes.
    reach: Reach,
    /// Where it goes on; none for the beginning.
    from: Option<SearchPoint>,
}

/// What was found of a URL.
#[derive(Debug, Default)]
pub(super) struct Source {
    /// The first page that leads to it; empty if none was found.
    pub(super) via: String,
    /// Why it was not taken in, in one sentence; empty if nothing tells, or pages are left
    /// to look at.
    pub(super) reason: String,
    /// Where to go on, if pages are left to look at.
    pub(super) next: Option<SearchPoint>,
}

/// Looks through the pages of a crawl, in the order in which they were stored, `until` then at
/// the latest.
pub(super) async fn find(pages: &CrawlPages, search: Search, until: Instant) -> Source {
    let pages = pages.clone();
    let Ok(Ok(turn)) = timeout_at(until, SEARCHING.acquire()).await else {
        let beginning = SearchPoint { segment: 1, ..SearchPoint::default() };
        return Source { next: search.from.or(Some(beginning)), ..Source::default() };
    };
    let searched = spawn_blocking(move || {
        let _turn = turn;
        look_through(&pages, &search, until.min(Instant::now() + SEARCH_MAX))
    });
    match searched.await {
        Ok(Ok(source)) => source,
        Ok(Err(error)) => {
            tracing::error!(%error, "the pages cannot be searched");
            Source {
                reason: format!("the crawl's pages cannot be searched: {error}"),
                ..Source::default()
            }
        }
        Err(error) => {
            tracing::error!(%error, "the pages were not searched");
            Source::default()
        }
    }
}

fn look_through(pages: &CrawlPages, search: &Search, until: Instant) -> Result<Source, ReadError> {
    let Ok(segments) = pages.segments() else { return Ok(Source::default()) };
    let mut scan = Scan::new(segments, pages.committed);
    let mut looked_at = 0_u64;
    if let Some(from) = &search.from {
        scan.go_to(from.segment, from.offset)?;
        looked_at = from.pages;
    }
    loop {
        if Instant::now() >= until {
            let (segment, offset) = scan.at();
            let next = SearchPoint { segment, offset, pages: looked_at };
            return Ok(Source { next: Some(next), ..Source::default() });
        }
        let Some(page) = scan.next_page()? else { break };
        looked_at += 1;
        if search.may_be_in(page.metadata.block)
            && let Ok(meta) = page.meta()
            && let Some(reason) = search.refusal(&meta)
        {
            return Ok(Source { via: meta.url, reason, next: None });
        }
    }
    let reason = "no page that was fetched leads to this very URL".to_owned();
    Ok(Source { reason, ..Source::default() })
}

impl Search {
    /// For a URL under a crawl's rules; `from` is where an earlier search ended.
    pub(super) fn new(url: CrawlUrl, reach: Reach, from: Option<SearchPoint>) -> Self {
        let in_json = serde_json::Value::from(url.as_str()).to_string();
        Self { url, in_json, reach, from }
    }

    /// Whether a page's metadata need be read: whether the URL is in its bytes, or links
    /// that the crawl takes for it may be.
    fn may_be_in(&self, metadata: &[u8]) -> bool {
        !self.reach.canon.is_empty()
            || str::from_utf8(metadata).is_ok_and(|meta| meta.contains(&self.in_json))
    }

    /// Whether the crawl takes another URL for this one.
    fn is_it(&self, other: &str) -> bool {
        let canon = &self.reach.canon;
        other == self.url.as_str()
            || !canon.is_empty()
                && CrawlUrl::parse(other).is_ok_and(|other| *canon.of(&other) == self.url)
    }

    /// Why the URL was not taken in that the page leads to, empty if the page does not tell;
    /// none if it does not lead there.
    fn refusal(&self, meta: &PageMeta) -> Option<String> {
        let is_redirect = meta.location.as_deref().is_some_and(|to| self.is_it(to));
        let link = meta.outlinks.iter().find(|link| self.is_it(&link.url));
        if !is_redirect && link.is_none() {
            return None;
        }
        let reach = &self.reach;
        let (depth, hops) = (meta.depth + 1, meta.hops + 1);
        let way = if is_redirect { Way::Onwards } else { Way::Link };
        let refusal = reach.scope.admit_from(&self.url, depth, meta.off_site, way).err();
        Some(match refusal {
            _ if link.is_some_and(|link| link.nofollow) => {
                "a page leads to it, and asks not to follow that link".to_owned()
            }
            Some(Refusal::TooDeep { max, .. }) => {
                format!("it is {depth} links from a seed, and the crawl goes as deep as {max}")
            }
            Some(refusal) => format!("its scope does not admit it: {refusal}"),
            None if is_redirect && hops > reach.redirects => {
                let most = reach.redirects;
                format!("{hops} redirects in a row lead to it, and the crawl follows {most}")
            }
            None => String::new(),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use trawl_shared::{
        canon::{Canon, CanonRule},
        page::Outlink,
        scope::Scope,
        spec::{CrawlSpec, LinkKind},
    };

    use super::*;

    fn search(url: &str, rules: &[CanonRule]) -> Search {
        let canon = Canon::new(rules, &[]).unwrap();
        let spec = CrawlSpec { depth: Some(2), hops_off_site: 1, ..CrawlSpec::default() };
        let scope = Scope::new(&spec, ["a.example".to_owned()]).unwrap();
        let reach = Reach { redirects: 5, scope: Arc::new(scope), canon };
        Search::new(url.parse().unwrap(), reach, None)
    }

    #[test]
    fn a_link_that_was_not_taken_in_says_why() {
        let url = "http://a.example/x";
        let search = search(url, &[]);
        let link = Outlink::new(url.to_owned(), LinkKind::A);
        let page = |depth| PageMeta { depth, outlinks: vec![link.clone()], ..PageMeta::default() };
        let because = |meta: &PageMeta| search.refusal(meta).unwrap_or_default();
        assert_eq!(because(&page(2)), "it is 3 links from a seed, and the crawl goes as deep as 2");
        let mut meta = page(1);
        meta.outlinks[0].nofollow = true;
        assert_eq!(because(&meta), "a page leads to it, and asks not to follow that link");
        assert_eq!(because(&page(1)), "");
        let meta = PageMeta { hops: 5, location: Some(url.to_owned()), ..PageMeta::default() };
        assert_eq!(because(&meta), "6 redirects in a row lead to it, and the crawl follows 5");
        assert_eq!(search.refusal(&PageMeta::default()), None);
    }

    #[test]
    fn a_link_of_a_page_off_site_is_judged_from_there() {
        let url = "http://c.example/";
        let outlinks = vec![Outlink::new(url.to_owned(), LinkKind::A)];
        let page = |off_site| PageMeta { off_site, outlinks: outlinks.clone(), ..<_>::default() };
        let because = |meta: &PageMeta| search(url, &[]).refusal(meta).unwrap();
        assert!(because(&page(1)).starts_with("its scope does not admit it: "));
        assert_eq!(because(&page(0)), "");
    }

    #[test]
    fn metadata_are_searched_for_the_url_as_json_has_it() {
        let url = r"http://a.example/?a\b";
        let outlinks = vec![Outlink::new(url.to_owned(), LinkKind::A)];
        let page = PageMeta { outlinks, ..PageMeta::default() };
        assert!(search(url, &[]).may_be_in(&serde_json::to_vec(&page).unwrap()));
    }

    #[test]
    fn a_link_is_found_in_whatever_form_the_crawl_takes_for_the_url() {
        let link = Outlink::new("http://a.example/x?utm_source=y".to_owned(), LinkKind::A);
        let page = PageMeta { depth: 1, outlinks: vec![link], ..PageMeta::default() };
        let found = |rules: &[CanonRule]| search("http://a.example/x", rules).refusal(&page);
        assert_eq!(found(&[]), None);
        assert!(found(&[CanonRule::Tracking]).is_some());
        assert!(search("http://a.example/x", &[CanonRule::Tracking]).may_be_in(b"{}"));
    }
}
