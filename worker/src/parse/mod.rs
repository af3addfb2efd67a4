//! A page in; outlinks, title, charset and fields out.
//!
//! A [`Parser`] is made once for a crawl and reads any number of pages. Nothing
//! here waits or does I/O. Whatever a page holds, parsing ends, in bounded time
//! and memory, with what was found so far. Which of the links are in scope is
//! for others to say.

mod charset;

mod prescan;

mod links;

mod scan;

mod reference;

mod extract;

mod tree;

mod clock;

use encoding_rs::Encoding;
use http::header::{CONTENT_TYPE, LOCATION};
use serde_json::{Map, Value};
use trawl_shared::{
    page::Charset,
    spec::{CrawlSpec, SpecError},
    url::CrawlUrl,
};

use crate::fetch::Page;

pub use self::links::{FoundLink, OUTLINKS_MAX};
use self::{clock::cpu_time, extract::Extractor, scan::Wanted};

/// Reads the pages of a crawl.
#[derive(Debug)]
pub struct Parser {
    wanted: Wanted,
    charsets: Vec<&'static Encoding>,
    extractor: Extractor,
}

/// What a page says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Parsed {
    /// The text of the document's first title, white space folded, and cut after
    /// 1,000 characters; none if it is missing or empty.
    pub title: Option<String>,
    /// How its bytes became text; none for what is not HTML.
    pub charset: Option<Charset>,
    /// Where it leads, each URL once, in document order, and at most
    /// [`OUTLINKS_MAX`]. A link to the page itself is one of them.
    pub outlinks: Vec<FoundLink>,
    /// Where a redirect leads.
    pub location: Option<CrawlUrl>,
    /// Whether a limit of size or time kept links or fields from being found.
    pub cut: bool,
    /// What the crawl's extraction rules found, by name; empty for what is not
    /// HTML.
    pub fields: Map<String, Value>,
}

impl Parser {
    /// A parser of a crawl's pages.
    ///
    /// # Errors
    /// If the crawl has a CSS selector, an attribute name or a charset that
    /// cannot be.
    pub fn new(spec: &CrawlSpec) -> Result<Self, SpecError> {
        let encoding = |label: &String| {
            charset::encoding(label.as_bytes()).ok_or_else(|| {
                let allowed = "a charset is allowed, such as utf-8, gb18030 or windows-1251";
                SpecError::new("charsets", label, allowed)
            })
        };
        let unfit = |_| SpecError::new("follow", "", "this build cannot look for these links");
        Ok(Self {
            wanted: Wanted::new(&spec.follow).map_err(unfit)?,
            charsets: spec.charsets.iter().map(encoding).collect::<Result<_, _>>()?,
            extractor: Extractor::new(&spec.extract)?,
        })
    }

    /// Reads a page. Only answers of status 2xx with HTML have outlinks, a title
    /// and fields, and only those of status 3xx lead elsewhere.
    pub fn parse(&self, page: &Page) -> Parsed {
        match page.status {
            200..300 if is_html(page) => self.html(page),
            300..400 => Parsed { location: location(page), ..Parsed::default() },
            _ => Parsed::default(),
        }
    }

    fn html(&self, page: &Page) -> Parsed {
        let is_whole = page.truncated.is_none();
        let content_type = content_type(page);
        let decoded =
            charset::decode(&page.body, content_type.as_deref(), &self.charsets, is_whole);
        let links = links::links(&decoded.text, &page.url, &self.wanted);
        let fields = match self.extractor.is_empty() {
            true => extract::Fields::default(),
            false => self.extractor.fields(&decoded.text, &cpu_time),
        };
        Parsed {
            title: links.title,
            charset: Some(decoded.charset),
            outlinks: links.outlinks,
            location: None,
            cut: links.cut || fields.cut,
            fields: fields.fields,
        }
    }
}

/// Where a redirect leads. Servers send raw bytes there; those that are not UTF-8
/// are percent-encoded one by one, as browsers do.
fn location(page: &Page) -> Option<CrawlUrl> {
    let value = page.headers.get(LOCATION)?.as_bytes();
    let reference = match str::from_utf8(value) {
        Ok(text) => text.to_owned(),
        Err(_) => value.iter().map(percent_encoded).collect(),
    };
    CrawlUrl::join(page.url.url(), &reference).ok()
}

fn percent_encoded(byte: &u8) -> String {
    if byte.is_ascii() { char::from(*byte).to_string() } else { format!("%{byte:02X}") }
}

fn content_type(page: &Page) -> Option<std::borrow::Cow<'_, str>> {
    page.headers.get(CONTENT_TYPE).map(|value| String::from_utf8_lossy(value.as_bytes()))
}

/// Whether a page is HTML: its Content-Type says so, or there is none, or none
/// that can be read, and it begins like HTML. XHTML is read as HTML.
fn is_html(page: &Page) -> bool {
    let content_type = content_type(page).unwrap_or_default();
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    if essence.contains('/') {
        return ["text/html", "application/xhtml+xml"]
            .iter()
            .any(|html| essence.eq_ignore_ascii_case(html));
    }
    begins_like_html(&page.body)
}

/// Whether bytes begin as the MIME Sniffing standard has it for HTML. A byte
/// order mark may come first.
fn begins_like_html(body: &[u8]) -> bool {
    const TAGS: [&[u8]; 16] = [
        b"<!DOCTYPE HTML", b"<HTML", b"<HEAD", b"<SCRIPT", b"<IFRAME", b"<H1", b"<DIV", b"<FONT",
        b"<TABLE", b"<A", b"<STYLE", b"<TITLE", b"<BODY", b"<BR", b"<P", b"<B",
    ];
    let body = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body).trim_ascii_start();
    body.starts_with(b"<!--")
        || TAGS.iter().any(|tag| {
            let (start, rest) = body.split_at_checked(tag.len()).unwrap_or_default();
            start.eq_ignore_ascii_case(tag) && matches!(rest.first(), Some(b' ' | b'>'))
        })
}
