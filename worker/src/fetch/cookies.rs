//! The cookies of one crawl, in memory (RFC 6265).
//!
//! They are kept apart by registrable domain: no cookie is ever looked for beyond its
//! own, so that nothing can leak from one to another, and one domain cannot use up what
//! the others need. A domain that is a public suffix sets cookies for no one. They are
//! gone with the fetcher, and so never in another crawl.

use std::sync::{Arc, Mutex, PoisonError};

use cookie_store::{Cookie, CookieDomain, CookieStore, RawCookie};
use http::{HeaderMap, HeaderValue, header::SET_COOKIE};
use moka::sync::Cache;
use trawl_shared::url::CrawlUrl;
use url::Url;

/// Cookies of one registrable domain at most. Further ones are refused.
const COOKIES_MAX: usize = 50;

/// Bytes of one cookie, its attributes included. A longer one is refused.
const COOKIE_BYTES_MAX: usize = 4 * 1024;

/// Bytes of a cookie's path. One with a longer path is refused.
const PATH_BYTES_MAX: usize = 1024;

/// Bytes of the cookies that one request carries. Further ones stay.
const HEADER_BYTES_MAX: usize = 16 * 1024;

/// Bytes of all cookies of a crawl. Beyond, those of the least used domains go.
const BYTES_MAX: u64 = 16 * 1024 * 1024;

/// What a jar costs besides its cookies.
const JAR_BYTES: usize = 256;

/// What a cookie costs besides its texts; most of it is the table of its path.
const STORED_BYTES: usize = 1536;

/// The cookies of one crawl.
pub(super) struct Cookies {
    /// By registrable domain.
    jars: Cache<String, Arc<Mutex<CookieStore>>>,
}

impl Cookies {
    pub(super) fn new() -> Self {
        let weigh = |domain: &String, jar: &Arc<Mutex<CookieStore>>| {
            let bytes = domain.len() + JAR_BYTES + bytes(&lock(jar));
            u32::try_from(bytes).unwrap_or(u32::MAX)
        };
        Self { jars: Cache::builder().max_capacity(BYTES_MAX).weigher(weigh).build() }
    }

    /// The Cookie header of a request, if it has one.
    pub(super) fn header(&self, url: &CrawlUrl) -> Option<HeaderValue> {
        let jar = self.jars.get(url.domain())?;
        let parsed = url.to_url().ok()?;
        let jar = lock(&jar);
        let mut cookies = jar.matches(&parsed);
        // Those of longer paths come first (RFC 6265, section 5.4).
        cookies.sort_by_key(|cookie| std::cmp::Reverse(cookie.path.len()));
        let mut text = String::new();
        for cookie in cookies {
            let (name, value) = cookie.name_value();
            if text.len() + name.len() + value.len() + "; =".len() > HEADER_BYTES_MAX {
                break;
            }
            let separator = if text.is_empty() { "" } else { "; " };
            text += &format!("{separator}{name}={value}");
        }
        let mut header = HeaderValue::from_bytes(text.as_bytes()).ok()?;
        header.set_sensitive(true);
        (!text.is_empty()).then_some(header)
    }

    /// Keeps what a page sets.
    pub(super) fn keep(&self, url: &CrawlUrl, headers: &HeaderMap) {
        let mut lines = headers.get_all(SET_COOKIE).iter().take(COOKIES_MAX).peekable();
        let Ok(parsed) = url.to_url() else { return };
        if lines.peek().is_none() {
            return;
        }
        let jar = self.jars.get_with_by_ref(url.domain(), Arc::default);
        for line in lines {
            if let Some(cookie) = acceptable(line, url, &parsed) {
                put(&mut lock(&jar), cookie, &parsed);
            }
        }
        // Weighed anew.
        self.jars.insert(url.domain().to_owned(), jar);
    }
}

/// The cookie of a Set-Cookie header, unless it is to be refused.
fn acceptable(line: &HeaderValue, url: &CrawlUrl, parsed: &Url) -> Option<Cookie<'static>> {
    let line = line.to_str().ok().filter(|line| line.len() <= COOKIE_BYTES_MAX)?;
    let cookie = compact(Cookie::parse(line, parsed).ok()?, parsed)?;
    let is_wider_than_its_owner = match &cookie.domain {
        // A public suffix is shorter than every registrable domain below it.
        CookieDomain::Suffix(domain) => domain.len() < url.domain().len(),
        _ => false,
    };
    // A host that is a public suffix itself speaks for itself alone.
    let is_of_a_suffix = matches!(cookie.domain, CookieDomain::Suffix(_))
        && url.address().is_none()
        && psl::domain(url.host().as_bytes()).is_none();
    let is_header = !line.chars().any(char::is_control);
    let is_deep = cookie.path.len() > PATH_BYTES_MAX;
    let is_refused = !is_header || is_deep || is_wider_than_its_owner || is_of_a_suffix;
    (!is_refused).then_some(cookie)
}

/// The cookie without its line, which would be kept as long as it.
fn compact(cookie: Cookie<'_>, url: &Url) -> Option<Cookie<'static>> {
    let mut texts = RawCookie::new(cookie.name().to_owned(), cookie.value().to_owned());
    texts.set_secure(cookie.secure());
    let mut compact = Cookie::try_from_raw_cookie(&texts, url).ok()?;
    compact.path = cookie.path;
    compact.domain = cookie.domain;
    compact.expires = cookie.expires;
    Some(compact)
}

fn put(jar: &mut CookieStore, cookie: Cookie<'static>, url: &Url) {
    let key = |cookie: &Cookie<'_>| {
        (String::from(&cookie.domain), String::from(&cookie.path), cookie.name().to_owned())
    };
    let (domain, path, name) = key(&cookie);
    let expired: Vec<_> = jar.iter_any().filter(|it| it.is_expired()).map(key).collect();
    for (domain, path, name) in expired {
        jar.remove(&domain, &path, &name);
    }
    if jar.contains_any(&domain, &path, &name) || jar.iter_any().count() < COOKIES_MAX {
        // One that is refused or expired leaves the jar as it should be.
        let _ = jar.insert(cookie, url);
    }
}

/// The bytes that a jar's cookies take. Name, path and domain stand in the cookie, and
/// again in the tables that it is found by.
fn bytes(jar: &CookieStore) -> usize {
    let texts = |cookie: &Cookie<'_>| {
        let domain = cookie.domain.as_cow().map_or(0, |domain| domain.len());
        2 * (cookie.name().len() + cookie.path.len() + domain) + cookie.value().len()
    };
    jar.iter_any().map(|cookie| STORED_BYTES + texts(cookie)).sum()
}

fn lock(jar: &Mutex<CookieStore>) -> std::sync::MutexGuard<'_, CookieStore> {
    jar.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fetch::testing::url;

    fn set(cookies: &Cookies, from: &str, lines: &[&str]) {
        let headers = lines.iter().map(|line| (SET_COOKIE, HeaderValue::from_str(line).unwrap()));
        cookies.keep(&url(from), &headers.collect());
    }

    fn sent(cookies: &Cookies, to: &str) -> String {
        let header = cookies.header(&url(to));
        assert!(header.as_ref().is_none_or(HeaderValue::is_sensitive));
        header.map_or(String::new(), |header| header.to_str().unwrap().to_owned())
    }

    #[test]
    fn a_cookie_goes_back_to_where_it_is_for() {
        let cookies = Cookies::new();
        let from = "https://www.example.co.uk/a/b";
        set(&cookies, from, &["host=1; Path=/", "wide=2; Domain=example.co.uk; Path=/"]);
        set(&cookies, from, &["deep=3", "safe=4; Secure; Path=/safe"]);
        for (to, header) in [
            ("https://www.example.co.uk/a/c", "deep=3; host=1; wide=2"),
            ("http://www.example.co.uk/safe", "host=1; wide=2"),
            ("https://www.example.co.uk/safe", "safe=4; host=1; wide=2"),
            ("https://example.co.uk/", "wide=2"),
            ("https://other.example.co.uk/", "wide=2"),
            ("https://other.co.uk/", ""),
            ("https://wwwexample.co.uk/", ""),
        ] {
            let sorted = |text: &str| {
                let mut parts: Vec<_> = text.split("; ").map(str::to_owned).collect();
                parts[usize::from(text.starts_with("deep") || text.starts_with("safe"))..].sort();
                parts
            };
            assert_eq!(sorted(&sent(&cookies, to)), sorted(header), "{to}");
        }
    }

    #[test]
    fn nobody_sets_cookies_for_others() {
        let cookies = Cookies::new();
        for (from, domain) in [
            ("https://a.example.co.uk/", "co.uk"),
            ("https://a.example.co.uk/", ".uk"),
            ("https://a.example.co.uk/", "b.example.co.uk"),
            ("https://a.example.co.uk/", "other.co.uk"),
            ("https://me.github.io/", "github.io"),
            ("https://co.uk/", "co.uk"),
            ("https://intranet/", "intranet"),
            ("https://10.1.2.3/", "2.3"),
        ] {
            set(&cookies, from, &[&format!("a=b; Domain={domain}")]);
            assert_eq!(sent(&cookies, from), "", "{from} {domain}");
        }
        set(&cookies, "https://co.uk/", &["a=b"]);
        assert_eq!(sent(&cookies, "https://co.uk/"), "a=b");
        assert_eq!(sent(&cookies, "https://x.co.uk/"), "");
    }

    #[test]
    fn a_cookie_ends_when_it_says_so() {
        let cookies = Cookies::new();
        let site = "https://example.org/";
        set(&cookies, site, &["a=1", "b=2; Max-Age=3600", "c=3; Max-Age=0"]);
        set(&cookies, site, &["a=; Max-Age=0", "d=4; Expires=Thu, 01 Jan 1970 00:00:00 GMT"]);
        assert_eq!(sent(&cookies, site), "b=2");
    }

    #[test]
    fn a_bomb_of_cookies_fills_one_jar_and_no_request() {
        let cookies = Cookies::new();
        set(&cookies, "https://good.example/", &["a=1"]);
        let value = "x".repeat(4000);
        for number in 0..200 {
            set(&cookies, "https://bad.example/", &[&format!("c{number}={value}")]);
        }
        let jar = cookies.jars.get("bad.example").unwrap();
        assert_eq!(lock(&jar).iter_any().count(), COOKIES_MAX);
        assert!(sent(&cookies, "https://bad.example/").len() <= HEADER_BYTES_MAX);
        set(&cookies, "https://bad.example/", &[&format!("d={}", "x".repeat(5000)), "c0=new"]);
        assert_eq!(lock(&jar).iter_any().count(), COOKIES_MAX);
        assert_eq!(sent(&cookies, "https://good.example/"), "a=1");

        for number in 0..300 {
            let site = format!("https://bad{number}.example/");
            let lines: Vec<_> = (0..50).map(|number| format!("c{number}={value}")).collect();
            set(&cookies, &site, &lines.iter().map(|line| &**line).collect::<Vec<_>>());
        }
        cookies.jars.run_pending_tasks();
        assert!(cookies.jars.weighted_size() <= BYTES_MAX);
    }

    #[test]
    fn all_that_is_stored_of_a_cookie_is_weighed() {
        let cookies = Cookies::new();
        let (path, padding) = (format!("/{}", "p".repeat(1_000)), "x".repeat(2_000));
        let site = format!("https://bad.example{path}/");
        set(&cookies, &site, &[&format!("a=1; Path={path}; Padding={padding}; Max-Age=60")]);
        assert_eq!(sent(&cookies, &site), "a=1");
        let jar = cookies.jars.get("bad.example").unwrap();
        let stored = format!("{:?}", lock(&jar).iter_any().next().unwrap());
        assert!(!stored.contains("xx") && stored.matches(&path).count() == 1, "{stored}");
        let weight = bytes(&lock(&jar));
        assert!((STORED_BYTES + 2 * path.len()..STORED_BYTES + 2_100).contains(&weight));

        // A path may also be that of the page.
        let deep = format!("https://bad.example/{}/", "p".repeat(1_024));
        set(&cookies, &deep, &["b=2", &format!("c=3; Path=/{}", "p".repeat(1_024)), "d=4; Path=/"]);
        assert_eq!(sent(&cookies, &deep), "d=4");
    }
}
