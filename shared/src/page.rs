//! What trawl knows of one page besides its bytes.
//!
//! The worker writes it as the JSON of the page's WARC metadata record; an
//! export to JSON lines hands out the same objects.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::spec::LinkKind;

/// Outlinks of a page that are kept. A page with more is cut there: indexes of real
/// sites have some ten thousand, and more than this is meant to overwhelm.
pub const OUTLINKS_MAX: usize = 50_000;

/// One URL's final answer, as `trawl export --format jsonl` shows it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PageMeta {
    /// The canonical URL.
    pub url: String,
    /// SHA-1 of the canonical URL, in hex.
    pub id: String,
    /// The HTTP status.
    pub status: u16,
    /// SHA-1 of the body after content decoding, in hex.
    pub sha1: String,
    /// The Content-Type header, as sent.
    pub content_type: Option<String>,
    /// Bytes of the body after content decoding.
    pub bytes: u64,
    /// Bytes of the body as received.
    pub wire_bytes: u64,
    /// When the fetch began (RFC 3339, UTC).
    pub fetched_at: String,
    /// How long it took, in milliseconds.
    pub elapsed_ms: u64,
    /// The address that answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// Links from a seed.
    pub depth: u32,
    /// Redirects followed to come here.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub hops: u32,
    /// Links from the last page where the crawl's seeds are.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub off_site: u32,
    /// The id of the page that it was found on; none for a seed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub via: Option<String>,
    /// Which try brought the answer; 1 is the first.
    pub attempt: u32,
    /// Where a redirect leads, absolute.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub location: Option<String>,
    /// Why the body is not whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub truncated: Option<Truncated>,
    /// The charset that the body was read by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub charset: Option<Charset>,
    /// What the page asks of the crawler, such as `noindex`, whether it was obeyed or not.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub directives: Vec<String>,
    /// The SimHash of the document's text, in hex: pages that are nearly the same differ
    /// in few bits of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub simhash: Option<String>,
    /// The document's title, white space folded.
    pub title: Option<String>,
    /// Links in document order, each URL once.
    pub outlinks: Vec<Outlink>,
    /// Whether the document was too large or too costly to be read to its end,
    /// so that links or fields may be missing.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub parse_cut: bool,
    /// The fields that the crawl's extraction rules found.
    pub fields: Map<String, Value>,
}

/// One link of a page.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Outlink {
    /// The canonical URL that it leads to.
    pub url: String,
    /// Where it stood.
    pub kind: LinkKind,
    /// Its `rel` attribute, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rel: Option<String>,
    /// Whether the crawl does not follow it, because page or link ask for that.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub nofollow: bool,
    /// When what it leads to changed last, as a sitemap or a feed has written it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lastmod: Option<String>,
}

impl Outlink {
    /// A link without anything more to say of it.
    pub fn new(url: String, kind: LinkKind) -> Self {
        Self { url, kind, rel: None, nofollow: false, lastmod: None }
    }
}

/// How a page's bytes became text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Charset {
    /// The encoding's name by the WHATWG Encoding standard.
    pub name: String,
    /// What decided.
    pub by: CharsetSource,
    /// Whether some bytes did not fit and were replaced.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub lossy: bool,
}

/// What decided on a page's charset, in order of precedence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CharsetSource {
    /// A byte order mark.
    Mark,
    /// The Content-Type header.
    Header,
    /// A `<meta>` element in the first 64 KiB.
    Meta,
    /// The crawl's list of charsets.
    List,
    /// A guess from the bytes.
    Guess,
}

/// Why a body is not whole; WARC's own words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Truncated {
    /// It was longer than the crawl's limit.
    Length,
    /// Its content coding was broken from some point on.
    Unspecified,
}

fn is_zero(number: &u32) -> bool {
    *number == 0
}
