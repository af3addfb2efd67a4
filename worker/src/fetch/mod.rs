//! A URL in, a page or a reason out.
//!
//! [`Fetch`] is the seam: [`HttpFetcher`] asks the network, tests and simulations
//! hand out pages they have. Whatever the network sends is data, and ends in a
//! [`Page`] or a [`FetchError`] within the crawl's limits of time and size.
//! Which URL may be fetched when, and what a status means, is decided elsewhere.

mod body;
mod cause;
mod coding;
mod cookies;
mod deadline;
mod detours;
mod error;
mod extras;
mod guard;
mod http;
mod resolve;
mod robots;
mod route;
mod tls;
mod uplink;

#[cfg(test)]
mod testing;

use std::{
    future::{self, Future},
    net::{IpAddr, SocketAddr},
    time::{Duration, SystemTime},
};

use ::http::{
    HeaderMap, Version,
    header::{DATE, RETRY_AFTER},
};
use bytes::Bytes;
use jiff::Timestamp;
use tokio::time::Instant;
use trawl_shared::{page::Truncated, url::CrawlUrl};

pub(crate) use self::coding::gunzipped;
pub use self::{
    coding::undone,
    error::{FetchError, Timeout},
    guard::{Guard, is_public},
    http::HttpFetcher,
    resolve::Resolver,
    robots::{RobotsTxt, fetch_robots},
};
pub(crate) use self::{detours::Detours, robots::fetch_robots_at_pace};

/// The longest wait that a host can ask for. Longer ones are cut to it.
const WAIT_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// Fetches URLs. Clones share what they have open.
pub trait Fetch: Clone + Send + Sync + 'static {
    /// Fetches one URL, as it stands: no redirect is followed. Dropping the
    /// future gives the fetch up.
    ///
    /// # Errors
    /// If no answer could be had, or not a whole one. Any status is an answer.
    fn get(&self, url: &CrawlUrl) -> impl Future<Output = Result<Page, FetchError>> + Send;

    /// As [`Fetch::get`], but keeps at least `bytes` of the body, whatever the
    /// crawl's limit: for files that mislead when they are cut.
    ///
    /// # Errors
    /// As [`Fetch::get`].
    fn get_at_least(
        &self,
        url: &CrawlUrl,
        bytes: usize,
    ) -> impl Future<Output = Result<Page, FetchError>> + Send {
        let _ = bytes;
        self.get(url)
    }

    /// The addresses that the URL's host may be fetched from; none if others look them up,
    /// as behind a proxy. Nothing is sent to them.
    ///
    /// # Errors
    /// If it has none, or one that is not allowed.
    fn addresses(
        &self,
        url: &CrawlUrl,
    ) -> impl Future<Output = Result<Vec<IpAddr>, FetchError>> + Send {
        let _ = url;
        future::ready(Ok(Vec::new()))
    }

    /// Whether nobody else can be reached, so that a fetch of the URL that began then and
    /// failed says nothing of its host.
    fn is_cut_off(&self, url: &CrawlUrl, began: Instant) -> impl Future<Output = bool> + Send {
        let _ = (url, began);
        future::ready(false)
    }
}

/// What a host answered, whatever the status.
#[derive(Clone, Debug)]
pub struct Page {
    /// The URL that was asked for.
    pub url: CrawlUrl,
    /// The HTTP status.
    pub status: u16,
    /// The HTTP version of the answer.
    pub version: Version,
    /// The headers of the answer.
    pub headers: HeaderMap,
    /// The request line and headers as sent, in HTTP/1.1 form, with the empty line;
    /// in the place of secrets it says so.
    pub request_head: Vec<u8>,
    /// The body as received: transfer coding undone, content coding kept.
    pub wire: Bytes,
    /// The body after content decoding; shares `wire`'s memory where there is none.
    pub body: Bytes,
    /// Why the body is not whole.
    pub truncated: Option<Truncated>,
    /// The address that answered; none behind a proxy.
    pub address: Option<SocketAddr>,
    /// When the fetch began.
    pub fetched_at: Timestamp,
    /// How long it took.
    pub elapsed: Duration,
}

/// How long the host asks us to wait: the Retry-After header, in seconds or as a
/// date, at most a day. A date is taken by the clock that the host wrote it by, which
/// its Date header tells; by `now` where there is none. One that is past asks for no
/// wait.
pub fn retry_after(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let wait = if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        // Only a number that is far too long cannot be read.
        text.parse().map_or(WAIT_MAX, Duration::from_secs)
    } else {
        let date = |text: &str| httpdate::parse_http_date(text).ok();
        let its_now = headers.get(DATE).and_then(|value| value.to_str().ok()).and_then(date);
        let now = its_now.or_else(|| SystemTime::try_from(now).ok())?;
        date(text)?.duration_since(now).unwrap_or_default()
    };
    Some(wait.min(WAIT_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now: Timestamp = "2026-11-23T12:00:00Z".parse().unwrap();
        let wait = |text: &'static str| {
            let headers = HeaderMap::from_iter([(RETRY_AFTER, text.parse().unwrap())]);
            retry_after(&headers, now).map(|wait| wait.as_secs())
        };
        for (text, secs) in [
            ("0", Some(0)),
            ("120", Some(120)),
            (" 7 ", Some(7)),
            ("86401", Some(86_400)),
            ("99999999999999999999999999", Some(86_400)),
            ("Mon, 23 Nov 2026 12:01:30 GMT", Some(90)),
            ("Monday, 23-Nov-26 12:01:30 GMT", Some(90)),
            ("Mon Nov 23 12:01:30 2026", Some(90)),
            ("Mon, 23 Nov 2026 11:00:00 GMT", Some(0)),
            ("Fri, 31 Dec 9999 23:59:59 GMT", Some(86_400)),
            ("", None),
            ("-1", None),
            ("1.5", None),
            ("soon", None),
            ("120, 60", None),
        ] {
            assert_eq!(wait(text), secs, "{text:?}");
        }
        assert_eq!(retry_after(&HeaderMap::new(), now), None);
        let fast_clock = [
            (DATE, "Tue, 24 Nov 2026 12:00:00 GMT".parse().unwrap()),
            (RETRY_AFTER, "Tue, 24 Nov 2026 12:00:10 GMT".parse().unwrap()),
        ];
        let wait = retry_after(&HeaderMap::from_iter(fast_clock), now);
        assert_eq!(wait, Some(Duration::from_secs(10)), "by the clock of who says so");
    }
}
