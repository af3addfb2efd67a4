//! A URL in, a page or a reason out.

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, Version};
use jiff::Timestamp;
use trawl_shared::{page::Truncated, url::CrawlUrl};

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
    /// The request line and headers as sent, in HTTP/1.1 form, with the empty line.
    pub request_head: Vec<u8>,
    /// The body as received: transfer coding undone, content coding kept.
    pub wire: Bytes,
    /// The body after content decoding; shares `wire`'s memory where there is none.
    pub body: Bytes,
    /// Why the body is not whole.
    pub truncated: Option<Truncated>,
    /// The address that answered.
    pub address: Option<SocketAddr>,
    /// When the fetch began.
    pub fetched_at: Timestamp,
    /// How long it took.
    pub elapsed: Duration,
}
