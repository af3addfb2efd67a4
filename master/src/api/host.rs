//! What is known of a host, put into a message, and what people set of it, read from one.

use std::{io::Read, time::Duration};

use flate2::read::ZlibDecoder;
use tonic::Status;
use trawl_proto::v1::{self, HostReply, RobotsAccount, SetHostRequest};
use trawl_shared::{
    clock::wall_now,
    spec::{CONNECTIONS_MAX, SPAN_MAX},
    untrusted::CHARS_MAX,
    url::HostKey,
};

use super::millis;
use crate::{
    crawl::HostView,
    frontier::{HostAccount, HostChange},
    store::rows::RobotsRow,
};

/// Bytes of a robots.txt that are read of what a worker sent.
const ROBOTS_TEXT_MAX: u64 = 512 * 1024;

/// A host's account as a message; `due` tells for each of its crawls when it may have
/// the host.
pub(super) fn told(key: &HostKey, account: HostAccount, due: Vec<Option<Duration>>) -> HostReply {
    let HostAccount { known, gate, address, visited, rests, robots, crawls } = account;
    let crawls = crawls.into_iter().zip(due).map(|(host, due)| HostView { host, due });
    HostReply {
        key: key.as_str().to_owned(),
        known,
        blocked: gate.blocked,
        blocked_reason: gate.blocked_reason,
        set_delay_ms: gate.set_delay_ms,
        set_connections: gate.set_connections,
        set_pages: gate.set_pages,
        visited_ms: visited.map(millis),
        answer_ms: gate.answer_ms,
        robots_delay_ms: gate.robots_delay_ms,
        failures: gate.failures,
        wait_ms: millis(rests),
        wait_reason: if rests.is_zero() { String::new() } else { gate.trouble },
        address: address.map(|address| address.to_canonical().to_string()).unwrap_or_default(),
        robots: robots.map(|(row, text)| robots_account(row, &text)),
        crawls: crawls.map(host_status).collect(),
    }
}

/// What a request sets.
///
/// # Errors
/// If it sets what cannot be.
pub(super) fn change(request: &SetHostRequest) -> Result<HostChange, Status> {
    let reason = || request.reason.chars().take(CHARS_MAX).collect();
    let delay = request.delay_ms.map(Duration::from_millis);
    if delay.is_some_and(|delay| delay > SPAN_MAX.duration()) {
        return Err(Status::invalid_argument(format!("a delay of 0s to {SPAN_MAX} can be set")));
    }
    if request.connections.is_some_and(|many| many > CONNECTIONS_MAX) {
        return Err(Status::invalid_argument(format!("at most {CONNECTIONS_MAX} can be set")));
    }
    Ok(HostChange {
        blocked: request.blocked.map(|blocked| if blocked { Err(reason()) } else { Ok(()) }),
        delay: if request.clear_delay { Some(None) } else { delay.map(Some) },
        connections: request.connections.map(|many| (many > 0).then_some(many)),
        pages: if request.clear_pages { Some(None) } else { request.pages.map(Some) },
        rested: request.rested,
    })
}

/// A host of a crawl as a message.
pub(super) fn host_status(HostView { host, due }: HostView) -> v1::HostStatus {
    v1::HostStatus {
        crawl: host.crawl,
        key: host.key,
        queued: host.queued,
        leased: host.leased,
        pages: host.pages,
        delay_ms: millis(host.delay),
        due_ms: due.map(millis),
        worker: host.worker.map(|worker| worker.to_string()).unwrap_or_default(),
        rests: host.rests,
    }
}

fn robots_account(row: RobotsRow, zlib: &[u8]) -> RobotsAccount {
    let now = u64::try_from(wall_now().as_millisecond()).unwrap_or(0);
    let since = |then: u64| (then > 0).then(|| now.saturating_sub(then));
    let text = robots_text(zlib);
    RobotsAccount {
        age_ms: since(row.fetched_at),
        bytes: text.len() as u64,
        unavailable_ms: since(row.unavailable_since),
        unavailable_reason: row.unavailable,
        text,
    }
}

/// A robots.txt as it was sent, or what of it can be read.
pub(super) fn robots_text(zlib: &[u8]) -> Vec<u8> {
    let mut text = Vec::new();
    if !zlib.is_empty()
        && let Err(error) = ZlibDecoder::new(zlib).take(ROBOTS_TEXT_MAX).read_to_end(&mut text)
    {
        tracing::warn!(%error, "a robots.txt that was stored cannot be read to its end");
    }
    text
}
