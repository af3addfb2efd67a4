//! URLs: a line is a URL, the next is a reference on its page.

use trawl_shared::url::{Base, CrawlUrl, URL_BYTES_MAX, UrlId};

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
