//! What a fetch showed of its host, for the master to share with all who fetch from it.

use std::{io::Write, time::Duration};

use flate2::{Compression, write::ZlibEncoder};
use trawl_proto::v1::{HostNews, RobotsNews, robots_news::Found};
use trawl_shared::{
    address::octets,
    politeness::{asks_for_rest, is_about_the_host},
    untrusted::Untrusted,
};

use crate::{
    account::{Leased, millis},
    fetch::{FetchError, Page, RobotsTxt, retry_after},
};

/// Whether a fetch failed for a reason of our own: the host was not asked, and nothing is
/// known of it.
const fn is_about_us(error: &FetchError) -> bool {
    matches!(
        error,
        FetchError::Proxy { .. }
            | FetchError::Internal { .. }
            | FetchError::ForbiddenAddress { .. }
    )
}

/// Adds what the fetch of a page showed to the news that its URL's report carries.
pub(crate) fn note(leased: &mut Leased, fetched: &Result<Page, FetchError>, took: Duration) {
    if fetched.as_ref().is_err_and(is_about_us) {
        return;
    }
    let news = leased.news.get_or_insert_default();
    news.elapsed_ms = millis(took);
    match fetched {
        Ok(page) => {
            news.address = page.address.map(|address| octets(address.ip())).unwrap_or_default();
            news.troubled = asks_for_rest(page.status);
            if news.troubled {
                let wait = retry_after(&page.headers, page.fetched_at);
                news.retry_after_ms = wait.map_or(0, millis);
            }
        }
        Err(error) => news.troubled = is_about_the_host(error.kind()),
    }
}

/// What the fetch of a robots.txt showed, if anything.
pub(crate) fn of_robots(
    fetched: &Result<RobotsTxt, FetchError>,
    took: Duration,
) -> Option<HostNews> {
    let found = match fetched {
        Ok(robots) => Found::Text(robots.text.as_deref().map(zlib).unwrap_or_default()),
        Err(error) if is_about_us(error) => return None,
        Err(error) => Found::Unavailable(Untrusted::new(&error.to_string()).to_string()),
    };
    let wait = match fetched {
        Err(FetchError::RobotsUnavailable { retry_after, .. }) => *retry_after,
        _ => None,
    };
    Some(HostNews {
        elapsed_ms: millis(took),
        troubled: fetched.as_ref().is_err_and(|error| is_about_the_host(error.kind())),
        retry_after_ms: wait.map_or(0, millis),
        robots: Some(RobotsNews { found: Some(found) }),
        ..HostNews::default()
    })
}

/// A text, compressed. A host whose robots.txt is empty has rules that say nothing,
/// which is the same as none.
fn zlib(text: &[u8]) -> Vec<u8> {
    if text.is_empty() {
        return Vec::new();
    }
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::fast());
    // A vector takes everything.
    let _ = encoder.write_all(text);
    encoder.finish().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    #[test]
    fn a_failure_of_our_own_is_no_news_of_the_host() {
        let cause = String::new;
        let ours = [
            FetchError::Proxy { cause: cause().into() },
            FetchError::Internal { cause: cause().into() },
            FetchError::ForbiddenAddress {
                host: None,
                address: IpAddr::from([127, 0, 0, 1]),
                block: "127.0.0.0/8".parse().unwrap(),
            },
        ];
        for error in ours {
            assert_eq!(of_robots(&Err(error), Duration::ZERO), None);
        }
        let retry_after = Some(Duration::from_secs(8));
        let theirs = FetchError::RobotsUnavailable { cause: cause().into(), retry_after };
        let news = of_robots(&Err(theirs), Duration::ZERO).unwrap();
        assert!(news.troubled && news.robots.is_some());
        assert_eq!(news.retry_after_ms, 8_000);
    }
}
