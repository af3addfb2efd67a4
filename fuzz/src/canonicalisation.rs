//! URLs: a line is a URL, the next is a reference on its page.

use trawl_shared::{
    canon::{Canon, CanonRule},
    trap::{self, Template, TrapSpec},
    url::{Base, CrawlUrl, URL_BYTES_MAX, UrlId},
};

use super::split;

pub(super) fn run(data: &[u8]) {
    let (url, reference) = split(data, b'\n');
    let (url, reference) = (String::from_utf8_lossy(url), String::from_utf8_lossy(reference));
    let Ok(url) = CrawlUrl::parse(&url) else { return };
    check(&url);
    let joined = url.join(&reference);
    if let Ok(joined) = &joined {
        check(joined);
    }
    let base = url.to_url().map(Base::new);
    let by_base = base.map(|base| base.join(&reference));
    assert_eq!(by_base.ok(), Some(joined), "a base joins as its URL does");
}

/// What holds of every canonical URL.
pub(super) fn check(url: &CrawlUrl) {
    check_form(url);
    // Some of the rules that a crawl may choose, others for each URL.
    let [one, other, ..] = url.id().0;
    let chosen = u16::from_be_bytes([one, other]);
    let rules = (0..16).zip(CanonRule::ALL).filter(|(bit, _)| chosen >> bit & 1 == 1);
    let rules: Vec<_> = rules.map(|(_, rule)| rule).collect();
    if let Ok(canon) = Canon::new(&rules, &["ref".to_owned(), "src_*".to_owned()]) {
        let told = canon.explain(url);
        check_form(&told.url);
        assert_eq!(told.changed_by.is_empty(), told.url == *url, "{url} by {rules:?}");
        assert_eq!(canon.apply(&told.url), None, "{url} by {rules:?}: it stays so");
    }
    let _ = trap::caught(url, &TrapSpec::default());
    let template = Template::of(url);
    assert!(!template.text.is_empty() && template.text.is_ascii());
}

fn check_form(url: &CrawlUrl) {
    let text = url.as_str();
    assert!(text.len() <= URL_BYTES_MAX, "{text}");
    assert!(text.bytes().all(|byte| byte.is_ascii_graphic()), "{text}");
    assert!(matches!(url.scheme(), "http" | "https"), "{text}");
    assert!(!text.contains('#') && !url.authority().contains('@'), "{text}");

    let again = CrawlUrl::parse(text);
    assert_eq!(again.as_ref(), Ok(url), "canonical is canonical");
    assert_eq!(again.map(|again| again.id()), Ok(url.id()));
    assert_eq!(url.id(), UrlId::of(text));
    assert_eq!(url.id().to_string().parse(), Ok(url.id()));
    assert_eq!(UrlId::from_bytes(&url.id().0), Some(url.id()));

    let parts = [url.scheme(), "://", url.authority(), url.path_and_query()].concat();
    assert_eq!(parts, text, "nothing is lost between its parts");
    assert!(url.path().starts_with('/'), "{text}");
    assert!(url.authority().starts_with(url.host()) && !url.host().is_empty(), "{text}");
    assert!(url.to_url().is_ok_and(|parsed| parsed.as_str() == text), "{text}");
}
