//! robots.txt: fetched, read and remembered (RFC 9309).
//!
//! A robots.txt that could not be had allows nothing, and one that a host does
//! not have allows everything. It is fetched like any page, so the same guards
//! and limits hold; its redirects are followed here, as its rules are those of
//! the host that was asked first.

use std::{borrow::Cow, sync::Arc, time::Duration};

use http::header::{CONTENT_ENCODING, LOCATION};
use moka::sync::Cache;
use robotxt::Robots;
use trawl_shared::url::{CrawlUrl, HostKey};

use super::{Fetch, FetchError, Page, WAIT_MAX};

/// Bytes of a robots.txt that are read; RFC 9309 asks for no less.
const BYTES_MAX: usize = 500 * 1024;

/// Redirects that are followed; beyond, there are no rules.
const REDIRECTS_MAX: usize = 5;

/// How long rules are used before they are fetched again.
const TTL: Duration = Duration::from_secs(24 * 60 * 60);

/// Bytes of rules that a host is reckoned to have. One with more counts as
/// several hosts in the cache.
const HOST_BYTES: usize = 8 * 1024;

/// One host's rules for one crawler.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules(Robots);

/// The rules of hosts lately fetched from. Bounded, and no rules older than 24
/// hours. Clones are the same cache.
#[derive(Clone, Debug)]
pub struct RobotsCache(Cache<(u32, HostKey), Arc<Rules>>);

impl Rules {
    /// The rules that `text` has for the crawler of that product token. Any bytes
    /// are a robots.txt, if perhaps one without rules.
    pub fn parse(text: &[u8], product_token: &str) -> Self {
        Self(Robots::parse(&cut_agents(text), product_token))
    }

    /// The rules of a host that has none.
    pub fn allow_all() -> Self {
        Self(Robots::allow_all())
    }

    /// Whether the URL, which is of the rules' host, may be fetched.
    pub fn allowed(&self, url: &CrawlUrl) -> bool {
        self.0.is_allowed(url.path_and_query())
    }

    /// The line that forbids a URL of the rules' host, if it is not allowed.
    pub fn forbidden_by(&self, url: &CrawlUrl) -> Option<String> {
        let rule = self.0.matching_rule(url.path_and_query());
        if self.allowed(url) {
            return None;
        }
        let pattern = rule.map_or("/", |rule| rule.pattern());
        Some(format!("Disallow: {pattern} (for {})", self.0.user_agent()))
    }

    /// The wait between two fetches that the host asks for, at most a day.
    pub fn crawl_delay(&self) -> Option<Duration> {
        self.0.crawl_delay().map(|delay| delay.min(WAIT_MAX))
    }

    /// As how many hosts the rules count in the cache.
    fn weight(&self) -> u32 {
        let rules: usize = self.0.rules().iter().map(|rule| rule.pattern().len() + 32).sum();
        let sitemaps: usize = self.0.sitemaps().iter().map(|url| url.as_str().len() + 88).sum();
        u32::try_from(1 + (rules + sitemaps) / HOST_BYTES).unwrap_or(u32::MAX)
    }
}

impl RobotsCache {
    /// An empty cache for that many hosts, the least used of which are forgotten.
    pub fn new(hosts: u64) -> Self {
        let cache = Cache::builder()
            .max_capacity(hosts)
            .weigher(|_, rules: &Arc<Rules>| rules.weight())
            .time_to_live(TTL);
        Self(cache.build())
    }

    /// The host's rules in the crawl, if they are remembered.
    pub fn get(&self, crawl: u32, host: &HostKey) -> Option<Arc<Rules>> {
        self.0.get(&(crawl, host.clone()))
    }

    /// Forgets all rules.
    pub fn clear(&self) {
        self.0.invalidate_all();
    }

    /// Remembers the host's rules, and hands them back.
    pub fn insert(&self, crawl: u32, host: HostKey, rules: Rules) -> Arc<Rules> {
        let rules = Arc::new(rules);
        self.0.insert((crawl, host), Arc::clone(&rules));
        rules
    }
}

/// Fetches and reads the rules of the page's host.
///
/// # Errors
/// If they could not be had: nothing may be fetched from the host until they
/// can. The error is [`FetchError::RobotsUnavailable`], unless the host itself
/// could not be reached.
pub async fn fetch_rules<F: Fetch>(
    fetcher: &F,
    page_url: &CrawlUrl,
    product_token: &str,
) -> Result<Rules, FetchError> {
    let mut url = page_url.join("/robots.txt").map_err(|error| unavailable(error.to_string()))?;
    for hop in 0..=REDIRECTS_MAX {
        // One byte more shows whether the last line is whole.
        let page = match fetcher.get_at_least(&url, BYTES_MAX + 1).await {
            Ok(page) => page,
            Err(error) if hop == 0 && is_about_the_host(&error) => return Err(error),
            Err(error) => return Err(unavailable(error.to_string())),
        };
        match page.status {
            200..=299 => return Ok(Rules::parse(text(&page)?, product_token)),
            300..=399 => match location(&page) {
                Some(next) if next != url => url = next,
                _ => break,
            },
            400..=428 | 430..=499 => break,
            status => return Err(unavailable(format!("status {status}"))),
        }
    }
    Ok(Rules::allow_all())
}

fn unavailable(cause: String) -> FetchError {
    FetchError::RobotsUnavailable { cause }
}

/// Whether the host's pages would fail for the same reason.
fn is_about_the_host(error: &FetchError) -> bool {
    match error {
        FetchError::NoSuchHost { .. }
        | FetchError::Dns { .. }
        | FetchError::Refused { .. }
        | FetchError::Connect { .. }
        | FetchError::Tls { .. }
        | FetchError::Timeout(_)
        | FetchError::ForbiddenAddress { .. }
        | FetchError::Internal { .. } => true,
        FetchError::Broken { .. }
        | FetchError::Protocol { .. }
        | FetchError::RobotsUnavailable { .. } => false,
    }
}

fn location(page: &Page) -> Option<CrawlUrl> {
    let location = String::from_utf8_lossy(page.headers.get(LOCATION)?.as_bytes());
    page.url.join(location.trim()).ok()
}

/// The file's text, as far as it is to be trusted: what cannot be decoded would
/// read as a file without rules, and half a line as another rule.
fn text(page: &Page) -> Result<&[u8], FetchError> {
    use trawl_shared::page::Truncated;

    let is_coded =
        page.headers.get_all(CONTENT_ENCODING).iter().any(|coding| {
            !coding.is_empty() && !coding.as_bytes().eq_ignore_ascii_case(b"identity")
        });
    let is_undecoded = is_coded && !page.wire.is_empty() && page.body == page.wire;
    match page.truncated {
        _ if is_undecoded => Err(unavailable("its content coding is unknown".into())),
        Some(Truncated::Unspecified) => Err(unavailable("its content coding is broken".into())),
        Some(Truncated::Length) if page.body.len() <= BYTES_MAX => {
            let end = page.body.iter().rposition(|byte| is_line_end(*byte)).unwrap_or(0);
            Ok(&page.body[..end])
        }
        _ => Ok(&page.body),
    }
}

const fn is_line_end(byte: u8) -> bool {
    matches!(byte, b'\n' | b'\r' | 0)
}

/// Cuts every User-agent value at the first byte that no product token has, so
/// that `User-agent: MyBot/1.0` speaks to MyBot. robotxt would compare the whole
/// of it, and take silence for consent.
fn cut_agents(text: &[u8]) -> Cow<'_, [u8]> {
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
    let mut out = Vec::new();
    let mut copied = 0;
    let mut start = 0;
    for line in text.split_inclusive(|byte| is_line_end(*byte)) {
        if let Some(value) = agent_value(line) {
            out.extend_from_slice(&text[copied..start]);
            out.extend_from_slice(b"user-agent:");
            out.extend_from_slice(token(value));
            out.push(b'\n');
            copied = start + line.len();
        }
        start += line.len();
    }
    if copied == 0 {
        return Cow::Borrowed(text);
    }
    out.extend_from_slice(&text[copied..]);
    Cow::Owned(out)
}

/// What a User-agent line says, in all the ways that robotxt knows to write one.
fn agent_value(line: &[u8]) -> Option<&[u8]> {
    let line = line.trim_ascii();
    let keys: [&[u8]; 3] = [b"user-agent", b"user agent", b"useragent"];
    let after = keys.into_iter().find_map(|key| {
        let (start, rest) = line.split_at_checked(key.len())?;
        start.eq_ignore_ascii_case(key).then_some(rest)
    })?;
    let value = after.trim_ascii_start();
    match value.strip_prefix(b":") {
        Some(value) => Some(value.trim_ascii_start()),
        None => (value.len() < after.len()).then_some(value),
    }
}

/// The product token that a value begins with; `*` only if it stands alone.
fn token(value: &[u8]) -> &[u8] {
    if let [b'*', rest @ ..] = value
        && rest.first().is_none_or(|byte| byte.is_ascii_whitespace() || *byte == b'#')
    {
        return b"*";
    }
    let is_token = |byte: &u8| byte.is_ascii_alphabetic() || matches!(byte, b'-' | b'_');
    let end = value.iter().position(|byte| !is_token(byte)).unwrap_or(value.len());
    &value[..end]
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use bytes::Bytes;
    use http::{HeaderMap, Version};
    use jiff::Timestamp;
    use trawl_shared::{outcome::FailureKind, page::Truncated};

    use super::*;
    use crate::fetch::Timeout;

    /// Pages by URL; everything else is no host.
    #[derive(Clone, Default)]
    struct Canned(Arc<HashMap<&'static str, Result<Page, FetchError>>>);

    impl Fetch for Canned {
        async fn get(&self, url: &CrawlUrl) -> Result<Page, FetchError> {
            let none = || FetchError::NoSuchHost { host: url.authority().into() };
            let found = self.0.get(url.as_str()).cloned().unwrap_or_else(|| Err(none()));
            found.map(|page| Page { url: url.clone(), ..page })
        }
    }

    fn page(status: u16, body: &'static [u8]) -> Page {
        Page {
            url: CrawlUrl::parse("http://unused.example/").unwrap(),
            status,
            version: Version::HTTP_11,
            headers: HeaderMap::new(),
            request_head: Vec::new(),
            wire: Bytes::from_static(body),
            body: Bytes::from_static(body),
            truncated: None,
            address: None,
            fetched_at: Timestamp::UNIX_EPOCH,
            elapsed: Duration::ZERO,
        }
    }

    fn redirect(location: &'static str) -> Page {
        let headers = HeaderMap::from_iter([(LOCATION, location.parse().unwrap())]);
        Page { headers, ..page(301, b"") }
    }

    const ROBOTS: &str = "http://site.example/robots.txt";

    #[test]
    fn the_line_that_forbids_a_url_is_told() {
        let text = b"User-agent: *\nDisallow: /p\nAllow: /public\n";
        let rules = Rules::parse(text, "trawl");
        let line = |path| rules.forbidden_by(&format!("http://a.example{path}").parse().unwrap());
        assert_eq!(line("/private").as_deref(), Some("Disallow: /p (for *)"));
        assert_eq!(line("/public"), None);
        assert_eq!(line("/"), None);
    }

    async fn rules(
        pages: Vec<(&'static str, Result<Page, FetchError>)>,
    ) -> Result<Rules, FetchError> {
        let fetcher = Canned(Arc::new(pages.into_iter().collect()));
        let page_url = CrawlUrl::parse("http://site.example/a/b?c").unwrap();
        fetch_rules(&fetcher, &page_url, "MyBot").await
    }

    async fn of(answer: Page) -> Result<Rules, FetchError> {
        rules(vec![(ROBOTS, Ok(answer))]).await
    }

    fn allowed(rules: &Rules, path: &str) -> bool {
        rules.allowed(&CrawlUrl::parse(&format!("http://site.example{path}")).unwrap())
    }

    fn says(text: &str, path: &str) -> bool {
        allowed(&Rules::parse(text.as_bytes(), "MyBot"), path)
    }

    #[tokio::test]
    async fn what_a_status_means() {
        let text = b"User-agent: *\nDisallow: /private";
        for status in [200, 203, 206, 299] {
            let rules = of(page(status, text)).await.unwrap();
            assert!(!allowed(&rules, "/private/x") && allowed(&rules, "/"), "{status}");
        }
        // Without a usable Location there is nothing to follow.
        for status in [300, 301, 302, 304, 307, 308, 400, 401, 403, 404, 410, 418, 428, 430, 499] {
            assert_eq!(of(page(status, text)).await, Ok(Rules::allow_all()), "{status}");
        }
        for status in [100, 199, 429, 500, 501, 503, 504, 599, 600, 999] {
            let error = of(page(status, text)).await.unwrap_err();
            assert_eq!(error.kind(), FailureKind::RobotsUnavailable, "{status}");
            assert_eq!(error.to_string(), format!("robots.txt cannot be had: status {status}"));
        }
    }

    #[tokio::test]
    async fn redirects_are_followed_across_hosts_five_times() {
        let urls = [
            ROBOTS,
            "http://site.example/1",
            "https://other.example/2",
            "http://third.example/3?x",
            "http://site.example/4",
            "http://site.example/5",
        ];
        let chain = |hops: usize| {
            let mut pages: Vec<_> =
                (0..hops).map(|hop| (urls[hop], Ok(redirect(urls[hop + 1])))).collect();
            pages.push((urls[hops], Ok(page(200, b"User-agent: *\nDisallow: /"))));
            pages
        };
        for hops in 0..=5 {
            assert!(!allowed(&rules(chain(hops)).await.unwrap(), "/x"), "{hops}");
        }
        let mut six = chain(5);
        six.pop();
        six.push((urls[5], Ok(redirect("/6"))));
        six.push(("http://site.example/6", Ok(page(200, b"User-agent: *\nDisallow: /"))));
        assert_eq!(rules(six).await, Ok(Rules::allow_all()));

        for odd in ["/robots.txt", "", "mailto:a@b", "http://", "//"] {
            assert_eq!(of(redirect(odd)).await, Ok(Rules::allow_all()), "{odd:?}");
        }
        let to_503 =
            vec![(ROBOTS, Ok(redirect("/r"))), ("http://site.example/r", Ok(page(503, b"")))];
        assert_eq!(rules(to_503).await.unwrap_err().kind(), FailureKind::RobotsUnavailable);
    }

    #[tokio::test]
    async fn a_dead_host_is_reported_as_dead() {
        let cause = || "x".to_owned();
        for (error, kind) in [
            (FetchError::NoSuchHost { host: cause() }, FailureKind::NoSuchHost),
            (FetchError::Dns { host: cause(), cause: cause() }, FailureKind::Dns),
            (FetchError::Refused { peer: cause() }, FailureKind::Connect),
            (FetchError::Connect { peer: cause(), cause: cause() }, FailureKind::Connect),
            (FetchError::Tls { cause: cause() }, FailureKind::Tls),
            (FetchError::Timeout(Timeout::TooSlow), FailureKind::Timeout),
            (FetchError::Broken { cause: cause() }, FailureKind::RobotsUnavailable),
            (FetchError::Protocol { cause: cause() }, FailureKind::RobotsUnavailable),
        ] {
            let answer = rules(vec![(ROBOTS, Err(error.clone()))]).await;
            assert_eq!(answer.unwrap_err().kind(), kind, "{error}");
            // Another host's troubles are not this one's.
            let pages = vec![
                (ROBOTS, Ok(redirect("http://other.example/"))),
                ("http://other.example/", Err(error)),
            ];
            assert_eq!(rules(pages).await.unwrap_err().kind(), FailureKind::RobotsUnavailable);
        }
    }

    #[tokio::test]
    async fn what_is_no_robots_file_has_no_rules() {
        for body in [
            &b""[..],
            b"<!DOCTYPE html><html><body>Disallow: /</body></html>",
            b"\x00\x01\x02\xff\xfe\x80User-agent\x00:\x00*\x00",
            b"\xff\xfeU\x00s\x00e\x00r\x00",
            b":::::\n\n\n*:*\nUser-agent\nDisallow /",
        ] {
            assert!(allowed(&of(page(200, body)).await.unwrap(), "/x"), "{body:?}");
        }
        let mut random = fastrand::Rng::with_seed(3);
        let words = [
            "User-agent",
            "user agent ",
            "useragent",
            "Disallow",
            "Allow",
            "Crawl-delay",
            "Sitemap",
            ":",
            "*",
            "/",
            "$",
            "#",
            "\n",
            "\r",
            "\0",
            " ",
            "MyBot",
            "%",
            "%2",
            "%ff",
            "é",
            "\u{feff}",
        ];
        for _ in 0..3_000 {
            let text: String = (0..40).map(|_| words[random.usize(..words.len())]).collect();
            let _ = says(&text, "/a%2fb?c=*$");
            let bytes: Vec<u8> = (0..60).map(|_| random.u8(..)).collect();
            let _ = Rules::parse(&bytes, "MyBot").crawl_delay();
        }
    }

    #[tokio::test]
    async fn what_cannot_be_read_is_not_taken_for_consent() {
        let coded = |coding: &'static str| {
            let headers = HeaderMap::from_iter([(CONTENT_ENCODING, coding.parse().unwrap())]);
            Page { headers, ..page(200, b"\x8b\x00\x80") }
        };
        for coding in ["gzip, gzip", "compress"] {
            let error = of(coded(coding)).await.unwrap_err();
            assert_eq!(error.kind(), FailureKind::RobotsUnavailable, "{coding}");
        }
        assert!(of(coded("identity")).await.is_ok());
        let decoded =
            Page { body: Bytes::from_static(b"User-agent: *\nDisallow: /"), ..coded("gzip") };
        assert!(!allowed(&of(decoded.clone()).await.unwrap(), "/x"));
        let broken = Page { truncated: Some(Truncated::Unspecified), ..decoded };
        assert!(of(broken).await.is_err());
    }

    #[tokio::test]
    async fn a_cut_line_is_not_a_rule() {
        let cut = Page {
            truncated: Some(Truncated::Length),
            ..page(200, b"User-agent: *\nDisallow: /\nAllow: /")
        };
        assert!(!allowed(&of(cut).await.unwrap(), "/x"));
    }

    #[test]
    fn only_the_first_500_kib_count() {
        let filler = "# filler\n".repeat(BYTES_MAX / 9 - 10);
        let text = format!("User-agent: *\nDisallow: /early\n{filler}");
        assert!(!says(&text, "/early"));
        let text = format!("{text}{filler}Disallow: /late\n");
        assert!(!says(&text, "/early") && says(&text, "/late"));
    }

    #[test]
    fn agents_are_compared_by_product_token() {
        for text in [
            "User-agent: MyBot\nDisallow: /",
            "User-agent: MyBot/1.0\nDisallow: /",
            "User-agent: MyBot # us\r\nDisallow: /\r\n",
            "User-agent: mybot Foo\nDisallow: /",
            "\u{feff}User-agent: MyBot/2\nDisallow: /",
            "user agent : MyBot\rDisallow: /",
            "USERAGENT MyBot\0Disallow: /",
            "  User-agent\t:\tMyBot;q\nDisallow: /",
            "User-agent: *\nDisallow: /",
            "User-agent: * # all\nDisallow: /",
            "User-agent: A\nUser-agent: MyBot\nDisallow: /",
            "User-agent: A\nSitemap: https://e.com/s\nUser-agent: *\nDisallow: /",
            "User-agent: Other\nAllow: /\n\nUser-agent: MyBot\nDisallow: /",
            "User-agent: *\nAllow: /\n\nUser-agent: MyBot/1\nDisallow: /",
        ] {
            assert!(!says(text, "/p"), "{text:?}");
        }
        for text in [
            "User-agent: *foo\nDisallow: /",
            "User-agentfoo: MyBot\nDisallow: /",
            "User-agent:\nDisallow: /",
            "User-agent: MyBotter\nDisallow: /",
            "User-agent: My\nDisallow: /",
            "User-agent: 1MyBot\nDisallow: /",
            "User-agent: *\nDisallow: /\n\nUser-agent: MyBot\nDisallow:",
            "Disallow: /",
        ] {
            assert!(says(text, "/p"), "{text:?}");
        }
    }

    #[test]
    fn the_longest_rule_wins() {
        let text =
            "User-agent: *\nDisallow: /\nAllow: /a\nDisallow: /a/b\nAllow: /*.html$\nDisallow: /q?";
        for (path, want) in [
            ("/", false),
            ("/a", true),
            ("/a/b", false),
            ("/a/c", true),
            ("/x/y.html", true),
            ("/x/y.html?z", false),
            ("/robots.txt", true),
        ] {
            assert_eq!(says(text, path), want, "{path}");
        }
        assert!(!says("User-agent: *\nDisallow: /caf\u{e9}", "/caf%C3%A9"));
        assert!(!says("User-agent: *\nDisallow: /%7ejoe", "/~joe/"));
    }

    #[test]
    fn the_delay_is_at_most_a_day() {
        let delay = |text: &str| {
            Rules::parse(format!("User-agent: *\nCrawl-delay: {text}").as_bytes(), "MyBot")
                .crawl_delay()
        };
        assert_eq!(delay("2.5"), Some(Duration::from_millis(2_500)));
        assert_eq!(delay("1e18"), Some(Duration::from_secs(86_400)));
        for odd in ["", "-1", "NaN", "inf", "soon"] {
            assert_eq!(delay(odd), None, "{odd:?}");
        }
        assert_eq!(Rules::allow_all().crawl_delay(), None);
    }

    #[test]
    fn the_cache_is_bounded_by_hosts_and_by_size() {
        let host = |number: usize| HostKey::trusted(format!("http://{number}.example"));
        let cache = RobotsCache::new(100);
        let small = Rules::parse(b"User-agent: *\nDisallow: /x", "MyBot");
        assert_eq!(cache.insert(1, host(0), small.clone()), cache.get(1, &host(0)).unwrap());
        assert_eq!(cache.get(2, &host(0)), None);

        let many: String = (0..20_000).map(|n| format!("Disallow: /{n:06}\n")).collect();
        let large = Rules::parse(format!("User-agent: *\n{many}").as_bytes(), "MyBot");
        assert_eq!((small.weight(), Rules::allow_all().weight()), (1, 1));
        assert!(large.weight() > 50, "{}", large.weight());
        for number in 0..1_000 {
            let rules = if number % 2 == 0 { &small } else { &large };
            cache.insert(1, host(number), rules.clone());
        }
        cache.0.run_pending_tasks();
        assert!(cache.0.weighted_size() <= 100);
    }
}
