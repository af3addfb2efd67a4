//! Pages: a line is the Content-Type header, the rest is the body.

use std::{collections::HashSet, sync::LazyLock, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Version, header::CONTENT_TYPE};
use jiff::Timestamp;
use rustix::time::{ClockId, clock_gettime};
use trawl_shared::{
    spec::{CrawlSpec, ExtractRule, LinkKind},
    url::CrawlUrl,
};
use trawl_worker::{
    fetch::Page,
    parse::{OUTLINKS_MAX, Parsed, Parser},
};

use super::{canonicalisation, split};

/// A page that takes longer breaks what is promised; counters at every branch make it slower.
const SECONDS_MAX: i64 = 2;

/// One that finds links, and one that fills in fields too.
static PARSERS: LazyLock<[Option<Parser>; 2]> = LazyLock::new(|| {
    let rules = ["a[href]", "p:has(b) > :not(i)", "li:nth-child(2n+1) ~ li"];
    [parser(&[]), parser(&rules)]
});

pub(super) fn run(data: &[u8]) {
    let (header, body) = split(data, b'\n');
    let Some(page) = page("d/p?q", header, body) else { return };
    let started = clock_gettime(ClockId::ThreadCPUTime).tv_sec;
    let read = PARSERS.each_ref().map(|parser| parser.as_ref().map(|parser| parser.parse(&page)));
    let spent = clock_gettime(ClockId::ThreadCPUTime).tv_sec - started;
    assert!(spent <= SECONDS_MAX, "{spent} s");
    let [Some(plain), Some(extracted)] = &read else { panic!("the rules are good") };
    check(plain);
    check(extracted);
    assert_eq!((&plain.title, &plain.charset), (&extracted.title, &extracted.charset));
    if !plain.cut && !extracted.cut {
        assert_eq!(plain.outlinks, extracted.outlinks, "rules change no links");
    }
}

/// An answer of that type from `http://h.test/`.
pub(super) fn page(file: &str, content_type: &[u8], body: &[u8]) -> Option<Page> {
    Some(Page {
        url: CrawlUrl::parse("http://h.test/").ok()?.join(file).ok()?,
        status: 200,
        version: Version::HTTP_11,
        headers: HeaderValue::from_bytes(content_type)
            .map(|value| HeaderMap::from_iter([(CONTENT_TYPE, value)]))
            .unwrap_or_default(),
        request_head: Vec::new(),
        wire: Bytes::new(),
        body: Bytes::copy_from_slice(body),
        truncated: None,
        address: None,
        fetched_at: Timestamp::UNIX_EPOCH,
        elapsed: Duration::ZERO,
    })
}

/// A parser of links of every kind, with extraction rules.
pub(super) fn parser(rules: &[&str]) -> Option<Parser> {
    let rule = |select: &&str| ExtractRule {
        name: (*select).into(),
        select: (*select).into(),
        attribute: None,
        many: true,
    };
    let follow = vec![
        LinkKind::A,
        LinkKind::Area,
        LinkKind::Iframe,
        LinkKind::Frame,
        LinkKind::LinkNext,
        LinkKind::LinkCanonical,
        LinkKind::LinkAlternate,
        LinkKind::MetaRefresh,
        LinkKind::Sitemap,
        LinkKind::Feed,
    ];
    let extract = rules.iter().map(rule).collect();
    Parser::new(&CrawlSpec { follow, extract, ..CrawlSpec::default() }).ok()
}

/// What holds of every page.
pub(super) fn check(parsed: &Parsed) {
    assert!(parsed.outlinks.len() <= OUTLINKS_MAX);
    let urls: HashSet<_> = parsed.outlinks.iter().map(|link| &link.url).collect();
    assert_eq!(urls.len(), parsed.outlinks.len(), "each URL once");
    for link in parsed.outlinks.iter().take(100) {
        canonicalisation::check(&link.url);
    }
    if let Some(title) = &parsed.title {
        assert!(!title.is_empty() && title.chars().count() <= 1_000);
    }
}
