//! Where a URL stands that a crawl did not take in: no row tells, but the pages do that
//! were stored, by their outlinks and redirects.

use std::time::Duration;

use tokio::{sync::Semaphore, task::spawn_blocking, time::Instant};
use trawl_shared::{page::PageMeta, url::CrawlUrl};

use crate::{
    frontier::Reach,
    pages::{CrawlPages, ReadError, Scan},
};

/// How long one question may look through pages, in all crawls that it is about.
pub(super) const SEARCH_MAX: Duration = Duration::from_secs(3);

/// One search at a time, so that questions leave the machine to the crawl.
static SEARCHING: Semaphore = Semaphore::const_new(1);

/// What was found of a URL.
#[derive(Debug, Default)]
pub(super) struct Source {
    /// The first page that leads to it; empty if none was found.
    pub(super) via: String,
    /// Why it was not taken in, in one sentence.
    pub(super) reason: String,
}

/// Looks for the page that leads to a URL of a crawl that reaches so far, in the order in
/// which pages were stored, `until` then.
pub(super) async fn find(
    pages: &CrawlPages,
    url: &CrawlUrl,
    reach: Reach,
    until: Instant,
) -> Source {
    let (pages, url) = (pages.clone(), url.clone());
    // It is never closed.
    let Ok(turn) = SEARCHING.acquire().await else { return Source::default() };
    let searched = spawn_blocking(move || {
        let _turn = turn;
        search(&pages, url.as_str(), reach, until)
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

fn search(
    pages: &CrawlPages,
    url: &str,
    reach: Reach,
    until: Instant,
) -> Result<Source, ReadError> {
    let Ok(segments) = pages.segments() else { return Ok(Source::default()) };
    let mut scan = Scan::new(segments, pages.committed);
    let mut looked_at = 0_u64;
    while let Some(page) = scan.next_page()? {
        looked_at += 1;
        if str::from_utf8(page.metadata.block).is_ok_and(|meta| meta.contains(url))
            && let Ok(meta) = page.meta()
            && let Some(reason) = refusal(&meta, url, reach)
        {
            return Ok(Source { via: meta.url, reason });
        }
        if Instant::now() >= until {
            let reason = format!(
                "none of the first {looked_at} pages leads to this very URL; no more were looked at"
            );
            return Ok(Source { reason, ..Source::default() });
        }
    }
    let reason = "no page that was fetched leads to this very URL".to_owned();
    Ok(Source { reason, ..Source::default() })
}

/// Why a URL was not taken in that the page leads to; none if it does not lead there.
fn refusal(meta: &PageMeta, url: &str, reach: Reach) -> Option<String> {
    let is_redirect = meta.location.as_deref() == Some(url);
    let link = meta.outlinks.iter().find(|link| link.url == url);
    if !is_redirect && link.is_none() {
        return None;
    }
    let (depth, hops) = (meta.depth + 1, meta.hops + 1);
    Some(if link.is_some_and(|link| link.nofollow) {
        "a page leads to it, and asks not to follow that link".to_owned()
    } else if let Some(most) = reach.depth
        && depth > most
    {
        format!("it is {depth} links from a seed, and the crawl goes as deep as {most}")
    } else if is_redirect && hops > reach.redirects {
        format!("{hops} redirects in a row lead to it, and the crawl follows {}", reach.redirects)
    } else {
        "a page leads to it, and it was not taken in".to_owned()
    })
}

#[cfg(test)]
mod tests {
    use trawl_shared::{page::Outlink, spec::LinkKind};

    use super::*;

    #[test]
    fn a_link_that_was_not_taken_in_says_why() {
        let url = "http://a.example/x";
        let reach = Reach { depth: Some(2), redirects: 5 };
        let link = Outlink::new(url.to_owned(), LinkKind::A);
        let page = |depth| PageMeta { depth, outlinks: vec![link.clone()], ..PageMeta::default() };
        let because = |meta: &PageMeta| refusal(meta, url, reach).unwrap_or_default();
        assert_eq!(because(&page(2)), "it is 3 links from a seed, and the crawl goes as deep as 2");
        let mut meta = page(1);
        meta.outlinks[0].nofollow = true;
        assert_eq!(because(&meta), "a page leads to it, and asks not to follow that link");
        assert_eq!(because(&page(1)), "a page leads to it, and it was not taken in");
        let meta = PageMeta { hops: 5, location: Some(url.to_owned()), ..PageMeta::default() };
        assert_eq!(because(&meta), "6 redirects in a row lead to it, and the crawl follows 5");
        assert_eq!(refusal(&PageMeta::default(), url, reach), None);
    }
}
