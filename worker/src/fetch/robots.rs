//! robots.txt: fetched (RFC 9309). What its rules say is
//! [`trawl_shared::robots`]' affair.
//!
//! A robots.txt that could not be had allows nothing, and one that a host does
//! not have allows everything. It is fetched like any page, so the same guards
//! and limits hold; its redirects are followed here, as its rules are those of
//! the host that was asked first.

use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_ENCODING, LOCATION};
use tokio::time::{Instant, sleep, timeout};
use trawl_shared::{
    robots::{BYTES_MAX, Rules, read_part},
    units::Span,
    url::CrawlUrl,
};

use super::{Fetch, FetchError, Page, Timeout, detours::Detours, retry_after};

/// The longest wait before a redirect is followed: a lane and its lease are held meanwhile.
const WAIT_MAX: Duration = Duration::from_secs(15);

/// Redirects that are followed; beyond, there are no rules.
const REDIRECTS_MAX: usize = 5;

/// What a host answered for its robots.txt, whoever asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RobotsTxt {
    /// The file, cut at a line's end if it is longer than is read; none if the host
    /// has none.
    pub text: Option<Bytes>,
}

impl RobotsTxt {
    /// Its rules for the crawler of that product token.
    pub fn rules(&self, product_token: &str) -> Rules {
        match &self.text {
            Some(text) => Rules::parse(text, product_token),
            None => Rules::allow_all(),
        }
    }
}

/// Fetches the robots.txt of the page's host. It waits for `pause` before it follows a
/// redirect, and gives up when the fetches have taken `limit` in all. Returns also how
/// long they took; the pauses, which say nothing of the host, count in neither.
///
/// # Errors
/// If it could not be had: nothing may be fetched from the host until it can.
/// The error is [`FetchError::RobotsUnavailable`], unless the host itself could
/// not be reached, or could not even be asked.
pub async fn fetch_robots<F: Fetch>(
    fetcher: &F,
    page_url: &CrawlUrl,
    pause: Duration,
    limit: Span,
) -> (Result<RobotsTxt, FetchError>, Duration) {
    fetch_robots_at_pace(fetcher, page_url, |_| pause, limit, &Detours::default()).await
}

/// The same at a host's pace: `pause` tells the wait after a fetch that took so long. Where
/// redirects lead to other hosts, those are visited by turns.
pub(crate) async fn fetch_robots_at_pace<F: Fetch>(
    fetcher: &F,
    page_url: &CrawlUrl,
    pause: impl Fn(Duration) -> Duration,
    limit: Span,
    detours: &Detours,
) -> (Result<RobotsTxt, FetchError>, Duration) {
    let mut took = Duration::ZERO;
    let fetched = follow(fetcher, page_url, pause, limit, detours, &mut took).await;
    (fetched, took)
}

async fn follow<F: Fetch>(
    fetcher: &F,
    page_url: &CrawlUrl,
    pause: impl Fn(Duration) -> Duration,
    limit: Span,
    detours: &Detours,
    took: &mut Duration,
) -> Result<RobotsTxt, FetchError> {
    let mut url = page_url.join("/robots.txt").map_err(|error| unavailable(error.to_string()))?;
    let mut last = Duration::ZERO;
    for hop in 0..=REDIRECTS_MAX {
        let pause = |took| pause(took).min(WAIT_MAX);
        if hop > 0 {
            sleep(pause(last)).await;
        }
        let mut turn = None;
        if url.host_key_str() != page_url.host_key_str() {
            let free_at = timeout(WAIT_MAX, detours.turn(url.host_key())).await;
            let free_at = free_at
                .map_err(|_| unavailable(format!("{url}, where it leads, is visited by others")))?;
            turn = Some(free_at);
        }
        if let Some(free_at) = &mut turn {
            // Also if the fetch is given up.
            **free_at = Some(Instant::now() + pause(Duration::ZERO));
        }
        let (began, left) = (Instant::now(), limit.duration().saturating_sub(*took));
        // One byte more shows whether the last line is whole.
        let fetched = timeout(left, fetcher.get_at_least(&url, BYTES_MAX + 1)).await;
        last = began.elapsed();
        *took += last;
        if let Some(mut free_at) = turn {
            *free_at = Some(Instant::now() + pause(last));
        }
        let too_long = |_| Err(FetchError::Timeout(Timeout::Whole(limit)));
        let page = fetched.unwrap_or_else(too_long).map_err(|error| for_host(error, hop))?;
        match page.status {
            200..=299 => return Ok(RobotsTxt { text: Some(text(&page)?) }),
            300..=399 => match location(&page) {
                Some(next) if next != url => url = next,
                _ => break,
            },
            400..=428 | 430..=499 => break,
            status => {
                return Err(FetchError::RobotsUnavailable {
                    cause: format!("status {status}").into(),
                    // Another host's wish is not this one's.
                    retry_after: retry_after(&page.headers, page.fetched_at).filter(|_| hop == 0),
                });
            }
        }
    }
    Ok(RobotsTxt::default())
}

/// What the error of a hop means for the host that was asked first.
fn for_host(error: FetchError, hop: usize) -> FetchError {
    match error {
        // No host is to blame for these.
        FetchError::Proxy { .. } | FetchError::Internal { .. } => error,
        // The host is there, and only this file is not to be had.
        FetchError::Broken { .. } | FetchError::Protocol { .. } => unavailable(error.to_string()),
        // What keeps the file from us would keep the host's pages from us too, ...
        _ if hop == 0 => error,
        // ... but another host's troubles are not this one's.
        _ => unavailable(error.to_string()),
    }
}

fn unavailable(cause: String) -> FetchError {
    FetchError::RobotsUnavailable { cause: cause.into(), retry_after: None }
}

fn location(page: &Page) -> Option<CrawlUrl> {
    let location = String::from_utf8_lossy(page.headers.get(LOCATION)?.as_bytes());
    page.url.join(location.trim()).ok()
}

/// The file's text, as far as it is to be trusted: what cannot be decoded would
/// read as a file without rules, and half a line as another rule.
fn text(page: &Page) -> Result<Bytes, FetchError> {
    use trawl_shared::page::Truncated;

    let is_coded =
        page.headers.get_all(CONTENT_ENCODING).iter().any(|coding| {
            !coding.is_empty() && !coding.as_bytes().eq_ignore_ascii_case(b"identity")
        });
    let is_undecoded = is_coded && !page.wire.is_empty() && page.body == page.wire;
    match page.truncated {
        _ if is_undecoded => Err(unavailable("its content coding is unknown".into())),
        Some(Truncated::Unspecified) => Err(unavailable("its content coding is broken".into())),
        truncated => {
            let is_cut = truncated == Some(Truncated::Length);
            Ok(page.body.slice(..read_part(&page.body, is_cut).len()))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::HashMap, sync::Arc};

    use bytes::Bytes;
    use http::{HeaderMap, Version};
    use jiff::Timestamp;
    use trawl_shared::{outcome::FailureKind, page::Truncated, units::Size};

    use super::*;

    /// Pages by URL, which take as long as they say; everything else is no host.
    #[derive(Clone, Default)]
    struct Canned(Arc<HashMap<&'static str, Result<Page, FetchError>>>);

    impl Fetch for Canned {
        async fn get(&self, url: &CrawlUrl) -> Result<Page, FetchError> {
            if let Some(Ok(page)) = self.0.get(url.as_str()) {
                sleep(page.elapsed).await;
            }
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

    async fn rules(
        pages: Vec<(&'static str, Result<Page, FetchError>)>,
    ) -> Result<Rules, FetchError> {
        timed_rules(pages).await.0
    }

    async fn timed_rules(
        pages: Vec<(&'static str, Result<Page, FetchError>)>,
    ) -> (Result<Rules, FetchError>, Duration) {
        let fetcher = Canned(Arc::new(pages.into_iter().collect()));
        let page_url = CrawlUrl::parse("http://site.example/a/b?c").unwrap();
        let pause = |took: Duration| Duration::from_secs(10).max(took * 6);
        let limit = Span::secs(5);
        let (fetched, took) =
            fetch_robots_at_pace(&fetcher, &page_url, pause, limit, &Detours::default()).await;
        (fetched.map(|robots| robots.rules("MyBot")), took)
    }

    async fn of(answer: Page) -> Result<Rules, FetchError> {
        rules(vec![(ROBOTS, Ok(answer))]).await
    }

    fn allowed(rules: &Rules, path: &str) -> bool {
        rules.allowed(&CrawlUrl::parse(&format!("http://site.example{path}")).unwrap())
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

    #[tokio::test(start_paused = true)]
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

    #[tokio::test(start_paused = true)]
    async fn a_dead_host_is_reported_as_dead() {
        let cause = || "x".to_owned();
        for (error, kind) in [
            (FetchError::NoSuchHost { host: cause().into() }, FailureKind::NoSuchHost),
            (FetchError::Dns { host: cause().into(), cause: cause().into() }, FailureKind::Dns),
            (FetchError::Refused { peer: cause().into() }, FailureKind::Connect),
            (
                FetchError::Connect { peer: cause().into(), cause: cause().into() },
                FailureKind::Connect,
            ),
            (FetchError::Tls { cause: cause().into() }, FailureKind::Tls),
            (FetchError::Timeout(Timeout::TooSlow(Size::bytes(1024))), FailureKind::Timeout),
            (FetchError::Broken { cause: cause().into() }, FailureKind::RobotsUnavailable),
            (FetchError::Protocol { cause: cause().into() }, FailureKind::RobotsUnavailable),
        ] {
            let answer = rules(vec![(ROBOTS, Err(error.clone()))]).await;
            assert_eq!(answer.unwrap_err().kind(), kind, "{error}");
            // Another host's troubles are not this one's.
            let kind = by_redirect(error).await;
            assert_eq!(kind, FailureKind::RobotsUnavailable);
        }
    }

    async fn by_redirect(error: FetchError) -> FailureKind {
        let other = "http://other.example/";
        rules(vec![(ROBOTS, Ok(redirect(other))), (other, Err(error))]).await.unwrap_err().kind()
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_no_hosts_failure_stays_that() {
        let cause = || "x".to_owned();
        for error in [
            FetchError::Proxy { cause: cause().into() },
            FetchError::Internal { cause: cause().into() },
        ] {
            assert_eq!(by_redirect(error.clone()).await, error.kind());
            assert_eq!(rules(vec![(ROBOTS, Err(error.clone()))]).await, Err(error));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn redirects_have_a_pause_before_each_and_one_limit_for_all() {
        let slow = |page: Page| Page { elapsed: Duration::from_secs(2), ..page };
        let second = "http://site.example/2";
        let mut pages = vec![(ROBOTS, Ok(slow(redirect(second))))];
        pages.push((second, Ok(slow(page(200, b"User-agent: *\nDisallow: /")))));
        let began = Instant::now();
        let (found, took) = timed_rules(pages.clone()).await;
        assert!(!allowed(&found.unwrap(), "/x"));
        assert_eq!((took.as_secs(), began.elapsed().as_secs()), (2 + 2, 2 + 12 + 2));

        let third = "http://site.example/3";
        pages[1].1 = Ok(slow(redirect(third)));
        pages.push((third, Ok(slow(page(200, b"")))));
        let began = Instant::now();
        let (found, took) = timed_rules(pages).await;
        assert_eq!(found.unwrap_err().to_string(), "robots.txt cannot be had: not done within 5s");
        assert_eq!((took.as_secs(), began.elapsed().as_secs()), (2 + 2 + 1, 2 + 12 + 2 + 12 + 1));

        let endless = Page { elapsed: Duration::MAX, ..page(200, b"") };
        let error = of(endless).await.unwrap_err();
        assert_eq!(error, FetchError::Timeout(Timeout::Whole(Span::secs(5))));
    }

    #[tokio::test(start_paused = true)]
    async fn another_host_that_many_redirect_to_is_visited_by_one_at_a_time() {
        let slow = |page: Page| Page { elapsed: Duration::from_secs(2), ..page };
        let (own, other) = ("http://site.example/own", "http://other.example/robots.txt");
        let fetcher = Canned(Arc::new(HashMap::from([
            ("http://a.example/robots.txt", Ok(redirect(other))),
            ("http://b.example/robots.txt", Ok(redirect(other))),
            ("http://c.example/robots.txt", Ok(redirect(other))),
            ("http://d.example/robots.txt", Ok(redirect(other))),
            (other, Ok(slow(page(200, b"")))),
            (ROBOTS, Ok(redirect(own))),
            (own, Ok(slow(page(200, b"")))),
        ])));
        let (detours, began) = (Detours::default(), Instant::now());
        let ended = async |host: &str| {
            let url = CrawlUrl::parse(&format!("http://{host}.example/")).unwrap();
            let pause = |_| Duration::from_secs(5);
            let fetched = fetch_robots_at_pace(&fetcher, &url, pause, Span::secs(5), &detours);
            (fetched.await.0.is_ok(), began.elapsed().as_secs())
        };
        let (a, b, c, d, own) =
            tokio::join!(ended("a"), ended("b"), ended("c"), ended("d"), ended("site"));
        let mut by_turns = [a, b, c, d];
        by_turns.sort_unstable_by_key(|(is_had, ended)| (!is_had, *ended));
        let turn = |number: u64| (true, 5 + 2 + number * (5 + 2));
        // The last one would wait longer than a lane may.
        assert_eq!(by_turns, [turn(0), turn(1), turn(2), (false, 5 + 15)]);
        assert_eq!(own, (true, 5 + 2), "the host's own redirects wait for nobody");
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

    #[tokio::test]
    async fn the_first_500_kib_count_up_to_a_lines_end() {
        let filler = "# filler\n".repeat(BYTES_MAX / 9 - 10);
        let text = |text: String| page(200, text.into_bytes().leak());
        let short = format!("User-agent: *\nDisallow: /early\n{filler}");
        assert!(!allowed(&of(text(short.clone())).await.unwrap(), "/early"));
        let long = of(text(format!("{short}{filler}Disallow: /late\n"))).await.unwrap();
        assert!(!allowed(&long, "/early") && allowed(&long, "/late"));
        let across = "#".repeat(BYTES_MAX - short.len() - 12);
        let across = of(text(format!("{short}{across}\nAllow: /early/but/this\n"))).await.unwrap();
        assert!(!allowed(&across, "/early/but/this"));
    }
}
