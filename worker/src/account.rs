//! The account of one URL: what came of it, as it goes to the master.

use std::sync::Mutex;

use serde_json::Map;
use trawl_proto::v1::{self, Offer, OfferSource, Response, UrlReport, url_report};
use trawl_shared::{
    known::Known,
    lease::Token,
    outcome::{FailureKind, is_transient_status},
    page::{Outlink, PageMeta},
    robots::Rules,
    scope::Way,
    spec::{CrawlSpec, LinkKind},
    untrusted::Untrusted,
    url::{CrawlUrl, UrlId},
    warc::{seeded_rng, sha1_hex},
};

use crate::{
    crawls::ReadyCrawl,
    fetch::{FetchError, Page, retry_after},
    master::Life,
    parse::Parsed,
    record::{Digests, Recorder, digest_page},
    report::Outgoing,
};

/// The compression level of records: 1 takes a third of 6's time for a quarter
/// more bytes.
const GZIP_LEVEL: u32 = 1;

/// A leased URL, besides the URL.
#[derive(Clone, Debug)]
pub(crate) struct Leased {
    pub(crate) token: Token,
    pub(crate) crawl: u32,
    pub(crate) host: u32,
    pub(crate) depth: u32,
    pub(crate) hops: u32,
    pub(crate) off_site: u32,
    pub(crate) attempt: u32,
    pub(crate) via: Vec<u8>,
    pub(crate) life: Life,
    pub(crate) host_delay: Option<std::time::Duration>,
    /// What the fetch showed of the host.
    pub(crate) news: Option<v1::HostNews>,
    /// The sitemaps that the host's robots.txt names, if the crawl follows them.
    pub(crate) sitemaps: Vec<CrawlUrl>,
}

/// The sitemaps that a host's rules lead a crawl to.
pub(crate) fn sitemaps(rules: &Rules, spec: &CrawlSpec) -> Vec<CrawlUrl> {
    match spec.follow.contains(&LinkKind::Sitemap) {
        true => rules.sitemaps().to_vec(),
        false => Vec::new(),
    }
}

/// Writes accounts. Each lane has one, for the state that is dear to make.
pub(crate) struct Account {
    recorder: Recorder,
}

impl Default for Account {
    fn default() -> Self {
        Self { recorder: Recorder::new(GZIP_LEVEL, seeded_rng()) }
    }
}

impl Account {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// The account of a fetched page. An answer that asks to come back later is a
    /// failure, until the last try makes it final.
    pub(crate) fn page<F>(
        &mut self,
        crawl: &ReadyCrawl<F>,
        known: &Mutex<Known>,
        leased: &Leased,
        page: Page,
    ) -> Outgoing {
        if is_transient_status(page.status) && leased.attempt < crawl.spec.attempts {
            let wait = retry_after(&page.headers, page.fetched_at);
            let detail = format!("status {}", page.status);
            return self.failure(leased, &page.url, FailureKind::Busy, detail, wait);
        }
        let parsed = crawl.parser.parse(&page);
        let (offers, offered) = offers(crawl, known, leased, &page, &parsed);
        let simhash = parsed.simhash;
        let digests = digest_page(&page);
        let meta = meta(leased, &page, parsed, &digests);
        let records = match self.recorder.records(&page, &digests, &meta) {
            Ok(records) => records,
            Err(error) => {
                let detail = format!("the page's records could not be written: {error}");
                return self.failure(leased, &page.url, FailureKind::Internal, detail, None);
            }
        };
        let response = Response {
            status: u32::from(page.status),
            sha1: digests.body.to_vec(),
            body_bytes: page.body.len() as u64,
            wire_bytes: page.wire.len() as u64,
            fetched_at_ms: u64::try_from(page.fetched_at.as_millisecond()).unwrap_or(0),
            response_len: u64::from(records.lengths.response),
            request_len: u64::from(records.lengths.request),
            metadata_len: u64::from(records.lengths.metadata),
            simhash,
        };
        let mut report = report(leased, &page.url, url_report::Outcome::Response(response));
        report.offers = offers;
        report.records = records.bytes;
        Outgoing { report, offered, life: leased.life, room: None }
    }

    /// The account of a fetch that brought nothing.
    pub(crate) fn fetch_failure(
        &self,
        leased: &Leased,
        url: &CrawlUrl,
        error: &FetchError,
    ) -> Outgoing {
        self.failure(leased, url, error.kind(), error.to_string(), None)
    }

    /// The account of a URL that has no answer.
    pub(crate) fn failure(
        &self,
        leased: &Leased,
        url: &CrawlUrl,
        kind: FailureKind,
        detail: String,
        retry_after: Option<std::time::Duration>,
    ) -> Outgoing {
        let failure = v1::Failure {
            kind: kind.word().to_owned(),
            detail: Untrusted::new(&detail).to_string(),
            retry_after_ms: retry_after.map_or(0, millis),
        };
        let report = report(leased, url, url_report::Outcome::Failure(failure));
        Outgoing { report, offered: Vec::new(), life: leased.life, room: None }
    }
}

fn report(leased: &Leased, url: &CrawlUrl, outcome: url_report::Outcome) -> UrlReport {
    UrlReport {
        token: leased.token.0,
        crawl: leased.crawl,
        host: leased.host,
        id: url.id().0.to_vec(),
        outcome: Some(outcome),
        host_delay_ms: leased.host_delay.map(millis),
        host_news: leased.news.clone(),
        ..UrlReport::default()
    }
}

/// What a page leads to, by the crawl's rules of canonical form, in scope and not known
/// to be known, with the ids to remember once the master has them. What looks like a
/// trap is offered too: the master lists it.
fn offers<F>(
    crawl: &ReadyCrawl<F>,
    known: &Mutex<Known>,
    leased: &Leased,
    page: &Page,
    parsed: &Parsed,
) -> (Vec<Offer>, Vec<UrlId>) {
    let hops = leased.hops.saturating_add(1);
    let redirect = parsed.location.iter().filter(|_| hops <= crawl.spec.redirects);
    let redirect = redirect.map(|url| (url, hops, OfferSource::Page));
    let links = parsed.outlinks.iter().filter(|link| !link.nofollow);
    let links = links.map(|link| (&link.url, 0, OfferSource::Page));
    let sitemaps = leased.sitemaps.iter().map(|url| (url, 0, OfferSource::Robots));
    let candidates: Vec<_> = redirect
        .chain(links)
        .chain(sitemaps)
        .map(|(url, hops, source)| {
            let url = crawl.canon.of(url);
            let id = url.id();
            (url, hops, source, id)
        })
        .collect();
    let is_new: Vec<bool> = {
        // A row of look-ups and nothing else: they wait for memory together, and nothing
        // that panics happens under the lock.
        let known = known.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        candidates.iter().map(|(.., id)| !known.contains(leased.crawl, id)).collect()
    };
    let mut offers = Vec::new();
    let mut ids = vec![page.url.id()];
    for ((url, hops, source, id), is_new) in candidates.into_iter().zip(is_new) {
        let deeper = u32::from(source != OfferSource::Robots);
        let depth = leased.depth.saturating_add(deeper);
        let way = Way::of(hops, source == OfferSource::Robots);
        if is_new && crawl.scope.admit_from(&url, depth, leased.off_site, way).is_ok() {
            offers.push(Offer { url: url.as_str().to_owned(), hops, source: source.into() });
            ids.push(id);
        }
    }
    (offers, ids)
}

fn meta(leased: &Leased, page: &Page, parsed: Parsed, digests: &Digests) -> PageMeta {
    let content_type = page.headers.get(http::header::CONTENT_TYPE);
    PageMeta {
        url: page.url.as_str().to_owned(),
        id: page.url.id().to_string(),
        status: page.status,
        sha1: sha1_hex(&digests.body),
        content_type: content_type.map(|v| String::from_utf8_lossy(v.as_bytes()).into_owned()),
        bytes: page.body.len() as u64,
        wire_bytes: page.wire.len() as u64,
        fetched_at: format!("{:.3}", page.fetched_at),
        elapsed_ms: millis(page.elapsed),
        address: page.address.map(|address| address.ip().to_canonical().to_string()),
        depth: leased.depth,
        hops: leased.hops,
        off_site: leased.off_site,
        via: UrlId::from_bytes(&leased.via).map(|id| id.to_string()),
        attempt: leased.attempt,
        location: parsed.location.map(String::from),
        truncated: page.truncated,
        charset: parsed.charset,
        directives: parsed.directives,
        simhash: parsed.simhash.map(|simhash| format!("{simhash:016x}")),
        title: parsed.title,
        outlinks: parsed
            .outlinks
            .into_iter()
            .map(|link| Outlink {
                url: link.url.into(),
                kind: link.kind,
                rel: link.rel,
                nofollow: link.nofollow,
                lastmod: link.lastmod,
            })
            .collect(),
        parse_cut: parsed.cut,
        fields: Map::from_iter(parsed.fields),
    }
}

pub(crate) fn millis(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
