//! A page as WARC records: response, request, metadata, each a gzip member.
//!
//! The response holds the answer as received, with two corrections that any WARC
//! tool needs to find the payload: transfer coding is undone, so its header is
//! renamed, and a Content-Length that differs from what is stored is replaced.
//! What was sent is kept under `x-crawl-…`. Content coding stays as it was.
//!
//! Nothing here is asynchronous, and nothing keeps a page: a recorder's memory
//! is its deflate state (300 KB) and buffers that large pages do not swell.

use std::io::{self, Write as _};

use bytes::Bytes;
use http::{
    HeaderMap, StatusCode, Version,
    header::{CONTENT_LENGTH, TRANSFER_ENCODING},
};
use sha1::{Digest as _, Sha1};
use trawl_shared::{
    page::{PageMeta, Truncated},
    warc::{Head, Lengths, MemberWriter, RECORD_END, RecordId, RecordType, sha1_base32},
};

use crate::fetch::Page;

/// Bytes of a buffer that are kept from page to page.
const BUFFER_BYTES_MAX: usize = 1024 * 1024;

/// Writes pages as WARC records. One per thread or lane; it keeps the state that
/// is dear to make.
#[derive(Debug)]
pub struct Recorder {
    gzip: MemberWriter,
    rng: fastrand::Rng,
    http_head: Vec<u8>,
    json: Vec<u8>,
    members: Vec<u8>,
}

/// A page's three records.
#[derive(Clone, Debug)]
pub struct Records {
    /// The gzip members, one after the other.
    pub bytes: Bytes,
    /// How long each is.
    pub lengths: Lengths,
}

/// The SHA-1 digests of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Digests {
    /// Of the body as received.
    pub wire: [u8; 20],
    /// Of the body after content decoding.
    pub body: [u8; 20],
}

/// A page's digests. Bytes that are both its wire form and its body are read
/// once.
pub fn digest_page(page: &Page) -> Digests {
    let wire = Sha1::digest(&page.wire).into();
    let is_shared = page.wire.as_ptr() == page.body.as_ptr() && page.wire.len() == page.body.len();
    let body = if is_shared { wire } else { Sha1::digest(&page.body).into() };
    Digests { wire, body }
}

impl Recorder {
    /// A recorder that compresses by `level` (0 to 9) and names records by `rng`
    /// (see [`trawl_shared::warc::seeded_rng`]).
    pub fn new(level: u32, rng: fastrand::Rng) -> Self {
        Self {
            gzip: MemberWriter::gzip(level),
            rng,
            http_head: Vec::new(),
            json: Vec::new(),
            members: Vec::new(),
        }
    }

    /// The page's records. The bytes are as many as they need to be, and shared
    /// with nothing.
    ///
    /// # Errors
    /// If a member is longer than 4 GiB, or `meta` cannot be JSON: never, with
    /// what a fetch brings.
    pub fn records(
        &mut self,
        page: &Page,
        digests: &Digests,
        meta: &PageMeta,
    ) -> io::Result<Records> {
        self.members.clear();
        let answer = RecordId::random(&mut self.rng);
        let lengths = Lengths {
            response: self.response(page, answer, &digests.wire)?,
            request: self.request(page, answer)?,
            metadata: self.metadata(page, answer, meta)?,
        };
        let bytes = Bytes::copy_from_slice(&self.members);
        for buffer in [&mut self.http_head, &mut self.json, &mut self.members] {
            buffer.clear();
            buffer.shrink_to(BUFFER_BYTES_MAX);
        }
        Ok(Records { bytes, lengths })
    }

    fn response(&mut self, page: &Page, id: RecordId, wire: &[u8; 20]) -> io::Result<u32> {
        write_http_head(page, &mut self.http_head);
        let mut head = head(RecordType::Response, id, page);
        if let Some(address) = page.address {
            head = head.field("WARC-IP-Address", address.ip().to_canonical());
        }
        if let Some(protocol) = protocol(page.version) {
            head = head.field("WARC-Protocol", protocol);
        }
        if let Some(reason) = page.truncated {
            head = head.field("WARC-Truncated", truncated(reason));
        }
        let head = head
            .field("WARC-Payload-Digest", format_args!("sha1:{}", sha1_base32(wire)))
            .field("Content-Type", "application/http;msgtype=response")
            .finish(self.http_head.len() + page.wire.len());
        let pieces = [head.as_bytes(), &self.http_head, &page.wire, RECORD_END];
        length(self.gzip.write(&pieces, &mut self.members)?)
    }

    fn request(&mut self, page: &Page, answer: RecordId) -> io::Result<u32> {
        let id = RecordId::random(&mut self.rng);
        let head = head(RecordType::Request, id, page)
            .field("WARC-Concurrent-To", answer)
            .field("Content-Type", "application/http;msgtype=request")
            .finish(page.request_head.len());
        let pieces = [head.as_bytes(), &page.request_head, RECORD_END];
        length(self.gzip.write(&pieces, &mut self.members)?)
    }

    fn metadata(&mut self, page: &Page, answer: RecordId, meta: &PageMeta) -> io::Result<u32> {
        self.json.clear();
        serde_json::to_writer(&mut self.json, meta)?;
        let id = RecordId::random(&mut self.rng);
        let head = head(RecordType::Metadata, id, page)
            .field("WARC-Refers-To", answer)
            .field("Content-Type", "application/json")
            .finish(self.json.len());
        let pieces = [head.as_bytes(), &self.json, RECORD_END];
        length(self.gzip.write(&pieces, &mut self.members)?)
    }
}

fn head(kind: RecordType, id: RecordId, page: &Page) -> Head {
    Head::new(kind, id, page.fetched_at).field("WARC-Target-URI", page.url.as_str())
}

fn length(bytes: usize) -> io::Result<u32> {
    u32::try_from(bytes).map_err(|_| io::Error::other("a record is longer than 4 GiB"))
}

fn truncated(reason: Truncated) -> &'static str {
    match reason {
        Truncated::Length => "length",
        Truncated::Unspecified => "unspecified",
    }
}

/// What WARC-Protocol says; nothing for HTTP/1.1, as the status line says that.
fn protocol(version: Version) -> Option<&'static str> {
    match version {
        Version::HTTP_09 => Some("http/0.9"),
        Version::HTTP_10 => Some("http/1.0"),
        Version::HTTP_2 => Some("h2"),
        Version::HTTP_3 => Some("h3"),
        _ => None,
    }
}

/// The status line and headers, always in the form of HTTP/1.1, which is the
/// only one that WARC files know.
fn write_http_head(page: &Page, out: &mut Vec<u8>) {
    let reason = StatusCode::from_u16(page.status).ok().and_then(|code| code.canonical_reason());
    out.clear();
    // Writing to a vector cannot fail.
    let _ = write!(out, "HTTP/1.1 {:03} {}\r\n", page.status, reason.unwrap_or_default());

    let stored = page.wire.len().to_string();
    let length_is_wrong = has_other_length(&page.headers, &stored);
    for (name, value) in &page.headers {
        let name = if name == TRANSFER_ENCODING {
            "x-crawl-transfer-encoding"
        } else if name == CONTENT_LENGTH && length_is_wrong {
            "x-crawl-content-length"
        } else {
            name.as_str()
        };
        write_header(name, value.as_bytes(), out);
    }
    if length_is_wrong {
        write_header("content-length", stored.as_bytes(), out);
    }
    out.extend_from_slice(b"\r\n");
}

fn has_other_length(headers: &HeaderMap, stored: &str) -> bool {
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    lengths.any(|length| length.as_bytes() != stored.as_bytes())
}

fn write_header(name: &str, value: &[u8], out: &mut Vec<u8>) {
    for piece in [name.as_bytes(), b": ", value, b"\r\n"] {
        out.extend_from_slice(piece);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::{HeaderName, HeaderValue};
    use trawl_shared::{
        url::CrawlUrl,
        warc::{Record, read_member, sha1_hex},
    };

    use super::*;

    fn page(headers: &[(&'static str, &[u8])], wire: &'static [u8]) -> Page {
        let wire = Bytes::from_static(wire);
        let header = |(name, value): &(&'static str, &[u8])| {
            (HeaderName::from_static(name), HeaderValue::from_bytes(value).unwrap())
        };
        Page {
            url: CrawlUrl::parse("http://example.org/a?b").unwrap(),
            status: 200,
            version: Version::HTTP_11,
            headers: headers.iter().map(header).collect(),
            request_head: b"GET /a?b HTTP/1.1\r\nhost: example.org\r\n\r\n".to_vec(),
            body: wire.clone(),
            wire,
            truncated: None,
            address: Some("[::ffff:192.0.2.1]:80".parse().unwrap()),
            fetched_at: "2026-11-23T12:00:00.5Z".parse().unwrap(),
            elapsed: Duration::from_millis(7),
        }
    }

    /// The three records, inflated.
    fn records(page: &Page) -> [Vec<u8>; 3] {
        let mut recorder = Recorder::new(1, fastrand::Rng::with_seed(5));
        let meta =
            PageMeta { url: page.url.to_string(), status: page.status, ..PageMeta::default() };
        let first = recorder.records(page, &digest_page(page), &meta).unwrap();
        let again = recorder.records(page, &digest_page(page), &meta).unwrap();
        assert_ne!(first.bytes, again.bytes, "ids are used once");

        let mut rest = &first.bytes[..];
        let mut next = |length: u32| {
            let mut out = Vec::new();
            assert_eq!(read_member(&mut rest, 1 << 20, &mut out).unwrap(), u64::from(length));
            out
        };
        let lengths = first.lengths;
        let records = [next(lengths.response), next(lengths.request), next(lengths.metadata)];
        assert!(rest.is_empty());
        assert_eq!(lengths.total(), first.bytes.len() as u64);
        records
    }

    fn response_block(page: &Page) -> String {
        let [response, ..] = records(page);
        String::from_utf8_lossy(Record::parse(&response).unwrap().block).into_owned()
    }

    #[test]
    fn a_page_is_three_records_that_name_each_other() {
        let [response, request, metadata] =
            records(&page(&[("content-type", b"text/html")], b"hi"));

        let response = Record::parse(&response).unwrap();
        let id = response.field("WARC-Record-ID").unwrap();
        assert_eq!(response.kind, RecordType::Response);
        assert_eq!(response.block, b"HTTP/1.1 200 OK\r\ncontent-type: text/html\r\n\r\nhi");
        for (name, value) in [
            ("WARC-Target-URI", "http://example.org/a?b"),
            ("WARC-Date", "2026-11-23T12:00:00.500Z"),
            ("WARC-IP-Address", "192.0.2.1"),
            // printf hi | openssl sha1 -binary | base32
            ("WARC-Payload-Digest", "sha1:YIVV7ELYGQTASQUNN5I3FRNPJQF542SC"),
            ("Content-Type", "application/http;msgtype=response"),
        ] {
            assert_eq!(response.field(name), Some(value));
        }
        for name in ["WARC-Truncated", "WARC-Protocol"] {
            assert_eq!(response.field(name), None);
        }

        let request = Record::parse(&request).unwrap();
        assert_eq!(request.kind, RecordType::Request);
        assert_eq!(request.block, b"GET /a?b HTTP/1.1\r\nhost: example.org\r\n\r\n");
        assert_eq!(request.field("WARC-Concurrent-To"), Some(id));
        assert_eq!(request.field("Content-Type"), Some("application/http;msgtype=request"));

        let metadata = Record::parse(&metadata).unwrap();
        assert_eq!(metadata.kind, RecordType::Metadata);
        assert_eq!(metadata.field("WARC-Refers-To"), Some(id));
        assert_eq!(metadata.field("Content-Type"), Some("application/json"));
        let meta: PageMeta = serde_json::from_slice(metadata.block).unwrap();
        assert_eq!((meta.url.as_str(), meta.status), ("http://example.org/a?b", 200));
    }

    #[test]
    fn undone_transfer_coding_is_not_claimed() {
        let page = page(&[("transfer-encoding", b"chunked"), ("content-encoding", b"gzip")], b"xy");
        assert_eq!(
            response_block(&page),
            "HTTP/1.1 200 OK\r\nx-crawl-transfer-encoding: chunked\r\n\
             content-encoding: gzip\r\n\r\nxy"
        );
    }

    #[test]
    fn a_content_length_that_is_not_ours_is_corrected() {
        let right = page(&[("content-length", b"2")], b"xy");
        assert_eq!(response_block(&right), "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nxy");

        let cut = page(&[("content-length", b"99"), ("server", b"s")], b"xy");
        let cut = Page { truncated: Some(Truncated::Length), status: 404, ..cut };
        assert_eq!(
            response_block(&cut),
            "HTTP/1.1 404 Not Found\r\nx-crawl-content-length: 99\r\nserver: s\r\n\
             content-length: 2\r\n\r\nxy"
        );
        let [response, ..] = records(&cut);
        let response = Record::parse(&response).unwrap();
        assert_eq!(response.field("WARC-Truncated"), Some("length"));
    }

    #[test]
    fn odd_answers_are_kept_as_they_are() {
        let odd = page(&[("x-name", b"caf\xe9"), ("set-cookie", b"a"), ("set-cookie", b"b")], b"");
        let odd = Page { status: 799, version: Version::HTTP_2, address: None, ..odd };
        let [response, ..] = records(&odd);
        let response = Record::parse(&response).unwrap();
        assert_eq!(
            response.block,
            b"HTTP/1.1 799 \r\nx-name: caf\xe9\r\nset-cookie: a\r\nset-cookie: b\r\n\r\n"
        );
        assert_eq!(response.field("WARC-Protocol"), Some("h2"));
        assert_eq!(response.field("WARC-IP-Address"), None);
    }

    #[test]
    fn digests_of_both_forms() {
        let plain = page(&[], b"hi");
        let digests = digest_page(&plain);
        assert_eq!(digests.wire, digests.body);
        // printf hi | sha1sum
        assert_eq!(sha1_hex(&digests.wire), "c22b5f9178342609428d6f51b2c5af4c0bde6a42");
        let coded = Page { body: Bytes::from_static(b"other"), ..plain };
        let digests = digest_page(&coded);
        assert_eq!(sha1_hex(&digests.wire), "c22b5f9178342609428d6f51b2c5af4c0bde6a42");
        assert_eq!(sha1_hex(&digests.body), "d0941e68da8f38151ff86a61fc59f7c5cf9fcaa2");
    }
}
