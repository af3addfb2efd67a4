//! What is known of a URL, put into a message: what the frontier told, and what
//! stands in the page's own records.

use tokio::{task::spawn_blocking, time::Instant};
use tonic::Status;
use trawl_proto::v1::{self, SearchPoint, WhyCrawl};
use trawl_shared::{
    clock::wall_now,
    outcome::Class,
    page::PageMeta,
    robots::Rules,
    url::{CrawlUrl, UrlId},
    warc::sha1_base32,
};

use super::{
    host::robots_text,
    millis,
    source::{self, Search},
};
use crate::{
    crawl::{AccountView, Crawls},
    frontier::{RobotsFile, State, Via},
    pages::{CrawlPages, Place},
    store::rows::TryRow,
};

/// One crawl's account of a URL as a message. If the crawl did not take it in, its pages are
/// searched for one that leads to it, from there on and until then at the latest.
pub(super) async fn told(
    crawls: &Crawls,
    view: AccountView,
    search_from: Option<SearchPoint>,
    search_until: Instant,
) -> Result<WhyCrawl, Status> {
    let AccountView { account, due, lease_left, pages } = view;
    let canonical = account.canonical.url.clone();
    let fetched_at = match &account.state {
        State::Fetched { row, .. } => Some(row.fetched_at),
        _ => None,
    };
    let mut told = WhyCrawl {
        robots: account
            .robots
            .map(|robots| robots_line(&canonical, &account.product_token, robots, fetched_at))
            .unwrap_or_default(),
        crawl: account.name,
        reason: account.held_up,
        host: account.host,
        canonical: account.canonical.url.into(),
        canon_rules: account.canonical.changed_by.into_iter().map(str::to_owned).collect(),
        scope: account.scope,
        budgets: account.budgets,
        trap: account.trap,
        rule: account.rule,
        priority: account.priority,
        ..WhyCrawl::default()
    };
    match account.state {
        State::Unknown => {
            told.state = "unknown".into();
            let search = Search::new(canonical, account.reach, search_from);
            let source = source::find(&pages, search, search_until).await;
            // From how far a page leads to it says more than its place alone.
            if !source.reason.is_empty() && (told.reason.is_empty() || !source.via.is_empty()) {
                told.reason = source.reason;
            } else if told.reason.is_empty() && !source.via.is_empty() {
                told.reason = "a page leads to it, and it was not taken in".to_owned();
            }
            told.via = source.via;
            told.search_next = source.next;
        }
        State::Open { row, via, slot, holder, .. } => {
            told.via = via_url(&pages, via).await;
            told.depth = Some(slot.depth.into());
            told.hops = row.hops;
            told.failures = row.failures;
            told.losses = row.losses;
            told.tries = tries(row.tries);
            told.off_site = row.off_site;
            match holder {
                None => {
                    told.state = "waiting".into();
                    told.due_ms = due.map(millis);
                }
                Some(holder) => {
                    told.state = "leased".into();
                    told.worker = holder.worker.to_string();
                    told.token = holder.token.to_string();
                    told.lease_left_ms = lease_left.map(millis).unwrap_or_default();
                }
            }
        }
        State::Fetched { row, place, same_as } => {
            told.tries = tries(row.tries);
            told.same_as = via_url(&pages, same_as).await;
            told.state = "fetched".into();
            told.status = row.status;
            told.sha1 = row.sha1.as_slice().try_into().map(sha1_base32).unwrap_or_default();
            told.fetched_at_ms = row.fetched_at;
            told.segment = pages.segments().map_or_else(
                |_| place.segment.to_string(),
                |segments| segments.path(place.segment).display().to_string(),
            );
            told.offset = place.offset;
            told.length = place.lengths().total();
            if let Some(meta) = meta(&pages, place).await {
                told.depth = Some(meta.depth);
                told.took_ms = meta.elapsed_ms;
                told.location = meta.location.unwrap_or_default();
                told.hops = meta.hops;
                told.off_site = meta.off_site;
                told.failures = meta.attempt.saturating_sub(1);
                if let Some(id) = meta.via.as_deref().and_then(|via| via.parse::<UrlId>().ok()) {
                    let via = crawls.via(pages.crawl, row.via_host, id).await?;
                    told.via = via_url(&pages, via).await;
                }
            }
        }
        State::Ended { row, via, class } => {
            told.state = match class {
                Some(Class::OverBudget) => "over budget",
                Some(Class::Quarantined) => "quarantined",
                Some(Class::Dropped) => "dropped",
                _ => "failed",
            }
            .into();
            told.class = class.map(|class| class.word().to_owned()).unwrap_or_default();
            told.via = via_url(&pages, via).await;
            told.depth = Some(row.depth);
            told.hops = row.hops;
            told.failures = row.attempts;
            told.tries = tries(row.tries);
            told.off_site = row.off_site;
            told.detail = row.detail;
        }
    }
    Ok(told)
}

fn tries(rows: Vec<TryRow>) -> Vec<v1::Try> {
    let told = |row: TryRow| {
        let class = u8::try_from(row.class).ok().and_then(Class::of_number);
        v1::Try {
            class: class.map(|class| class.word().to_owned()).unwrap_or_default(),
            detail: row.detail,
            at_ms: row.at,
            took_ms: row.took_ms,
        }
    };
    rows.into_iter().map(told).collect()
}

/// What the host's robots.txt says of a URL, with its age, which comes first: the line may be
/// long. `page_at` is when the URL's own answer was fetched, by the worker's clock.
fn robots_line(
    url: &CrawlUrl,
    product_token: &str,
    (row, zlib): RobotsFile,
    page_at: Option<u64>,
) -> String {
    let now = u64::try_from(wall_now().as_millisecond()).unwrap_or(0);
    let ago = |then: u64| {
        let minutes = now.saturating_sub(then) / 60_000;
        format!("{}h {}m ago", minutes / 60, minutes % 60)
    };
    if row.fetched_at == 0 {
        let (since, why) = (ago(row.unavailable_since), row.unavailable);
        return format!("robots.txt could not be had since {since}: {why}");
    }
    let newer = match page_at {
        Some(page_at) if page_at < row.fetched_at => ", after this page",
        _ => "",
    };
    let age = format!("robots.txt fetched {}{newer}", ago(row.fetched_at));
    let text = robots_text(&zlib);
    if text.is_empty() {
        return format!("{age}: allowed, the host has no rules");
    }
    let rules = Rules::parse(&text, product_token);
    let verdict = rules.verdict(url);
    let word = if verdict.allowed { "allowed" } else { "disallowed" };
    format!("{age}: {word}, {verdict}")
}

/// The URL of the page that another was found on; empty for a seed, and if it is
/// not known.
pub(super) async fn via_url(pages: &CrawlPages, via: Via) -> String {
    match via {
        Via::Seed | Via::Unknown => String::new(),
        Via::Url(url) => url,
        Via::Page(place) => meta(pages, place).await.map(|meta| meta.url).unwrap_or_default(),
    }
}

/// A page's metadata, read away from the owner's thread.
async fn meta(pages: &CrawlPages, place: Place) -> Option<PageMeta> {
    let segments = pages.segments().ok()?;
    let read = spawn_blocking(move || segments.page(place).and_then(|page| page.meta())).await;
    match read {
        Ok(Ok(meta)) => Some(meta),
        Ok(Err(error)) => {
            tracing::error!(%error, "a page's metadata cannot be read");
            None
        }
        Err(error) => {
            tracing::error!(%error, "a page's metadata was not read");
            None
        }
    }
}
