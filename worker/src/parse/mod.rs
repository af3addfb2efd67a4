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

use std::cell::OnceCell;

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
        // It starts with the first look at it, which most pages end without: it is a
        // system call.
        let start = OnceCell::new();
        let clock = || {
            let now = cpu_time();
            now.saturating_sub(*start.get_or_init(|| now))
        };
        if !self.extractor.is_empty() {
            clock();
        }
        let is_whole = page.truncated.is_none();
        let content_type = content_type(page);
        let decoded =
            charset::decode(&page.body, content_type.as_deref(), &self.charsets, is_whole);
        let links = links::links(&decoded.text, &page.url, &self.wanted, &clock);
        let fields = match self.extractor.is_empty() {
            true => extract::Fields::default(),
            false => self.extractor.fields(&decoded.text, &clock),
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
    page.url.join(&reference).ok()
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
        b"<!DOCTYPE HTML",
        b"<HTML",
        b"<HEAD",
        b"<SCRIPT",
        b"<IFRAME",
        b"<H1",
        b"<DIV",
        b"<FONT",
        b"<TABLE",
        b"<A",
        b"<STYLE",
        b"<TITLE",
        b"<BODY",
        b"<BR",
        b"<P",
        b"<B",
    ];
    let body = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body).trim_ascii_start();
    body.starts_with(b"<!--")
        || TAGS.iter().any(|tag| {
            let (start, rest) = body.split_at_checked(tag.len()).unwrap_or_default();
            start.eq_ignore_ascii_case(tag) && matches!(rest.first(), Some(b' ' | b'>'))
        })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;
    use http::{HeaderMap, HeaderValue, Version};
    use trawl_shared::{
        page::{CharsetSource, Truncated},
        spec::{ExtractRule, LinkKind},
    };

    use super::*;

    fn page(status: u16, content_type: Option<&str>, body: &[u8]) -> Page {
        let mut headers = HeaderMap::new();
        if let Some(value) = content_type {
            headers.insert(CONTENT_TYPE, HeaderValue::from_str(value).unwrap());
        }
        let body = Bytes::copy_from_slice(body);
        Page {
            url: CrawlUrl::parse("http://h.test/d/p").unwrap(),
            status,
            version: Version::HTTP_11,
            headers,
            request_head: Vec::new(),
            wire: body.clone(),
            body,
            truncated: None,
            address: None,
            fetched_at: "2026-11-23T12:00:00Z".parse().unwrap(),
            elapsed: Duration::ZERO,
        }
    }

    fn redirect(status: u16, location: &[u8]) -> Option<String> {
        let mut page = page(status, Some("text/html"), b"<a href=x>");
        page.headers.insert(LOCATION, HeaderValue::from_bytes(location).unwrap());
        let parsed = Parser::new(&CrawlSpec::default()).unwrap().parse(&page);
        assert!(parsed.outlinks.is_empty() || status < 300);
        parsed.location.map(|url| url.as_str().to_owned())
    }

    fn link_count(status: u16, content_type: Option<&str>, body: &[u8]) -> usize {
        let parser = Parser::new(&CrawlSpec::default()).unwrap();
        parser.parse(&page(status, content_type, body)).outlinks.len()
    }

    #[test]
    fn a_page_is_read() {
        let spec = CrawlSpec {
            extract: vec![ExtractRule {
                name: "heading".into(),
                select: "h1".into(),
                attribute: None,
                many: false,
            }],
            ..CrawlSpec::default()
        };
        let body = b"<meta charset=windows-1251><title>\xcf</title><h1>\xd0</h1><a href=/x rel=me>";
        let parsed = Parser::new(&spec).unwrap().parse(&page(200, Some("text/html"), body));
        assert_eq!(parsed.title.as_deref(), Some("П"));
        let charset = parsed.charset.unwrap();
        assert_eq!((charset.name.as_str(), charset.by), ("windows-1251", CharsetSource::Meta));
        assert_eq!(parsed.outlinks[0].url.as_str(), "http://h.test/x");
        assert_eq!((parsed.outlinks[0].kind, parsed.outlinks.len()), (LinkKind::A, 1));
        assert_eq!(parsed.outlinks[0].rel.as_deref(), Some("me"));
        assert_eq!(parsed.fields["heading"], "Р");
        assert!(!parsed.cut && parsed.location.is_none());
    }

    #[test]
    fn only_html_that_was_found_is_read() {
        for (status, content_type, want) in [
            (200, "text/html", 1),
            (299, "Text/HTML ; charset=utf-8", 1),
            (200, "application/xhtml+xml", 1),
            (200, "text/plain", 0),
            (200, "application/xml", 0),
            (200, "text/htmlx", 0),
            (404, "text/html", 0),
            (500, "text/html", 0),
            (304, "text/html", 0),
        ] {
            assert_eq!(
                link_count(status, Some(content_type), b"<a href=x>"),
                want,
                "{content_type}"
            );
        }
    }

    #[test]
    fn what_has_no_type_is_read_if_it_begins_like_html() {
        for (body, want) in [
            ("<!doctype html><a href=x>", 1),
            ("\u{feff} \r\n<HTML><a href=x>", 1),
            ("<!-- x --><a href=x>", 1),
            ("<p ><a href=x>", 1),
            ("<a href=x>", 1),
            ("<pre><a href=x>", 0),
            ("<?xml version='1.0'?><a href=x>", 0),
            ("text <a href=x>", 0),
            ("{\"html\": \"<a href=x>\"}", 0),
            ("<a", 0),
            ("", 0),
        ] {
            assert_eq!(link_count(200, None, body.as_bytes()), want, "{body}");
            assert_eq!(link_count(200, Some("html"), body.as_bytes()), want, "{body}");
        }
    }

    #[test]
    fn redirects_lead_elsewhere() {
        for (location, want) in [
            (&b"/x#y"[..], Some("http://h.test/x")),
            (b"x", Some("http://h.test/d/x")),
            (b"HTTPS://user@Other.test", Some("https://other.test/")),
            (b"//other.test/a b", Some("http://other.test/a%20b")),
            ("/ä".as_bytes(), Some("http://h.test/%C3%A4")),
            (b"/\xe4\xf6", Some("http://h.test/%E4%F6")),
            (b"", Some("http://h.test/d/p")),
            (b"mailto:x", None),
            (b"javascript:x", None),
            (b"http://[", None),
        ] {
            assert_eq!(redirect(302, location).as_deref(), want, "{location:?}");
        }
        assert_eq!(redirect(200, b"/x"), None);
        assert_eq!(redirect(404, b"/x"), None);
    }

    #[test]
    fn settings_that_cannot_be_say_why() {
        let error = |spec: &CrawlSpec| Parser::new(spec).unwrap_err().to_string();
        let spec =
            CrawlSpec { charsets: vec!["utf-8".into(), "utf-9".into()], ..CrawlSpec::default() };
        for part in ["charsets", "\"utf-9\"", "gb18030"] {
            assert!(error(&spec).contains(part), "{}", error(&spec));
        }
        let rule = ExtractRule {
            name: "x".into(),
            select: "::nonsense(".into(),
            attribute: None,
            many: false,
        };
        let spec = CrawlSpec { extract: vec![rule], ..CrawlSpec::default() };
        assert!(error(&spec).contains("extract.select"), "{}", error(&spec));
    }

    #[test]
    fn every_kind_of_link_can_be_followed() {
        let follow = vec![
            LinkKind::A,
            LinkKind::Area,
            LinkKind::Iframe,
            LinkKind::Frame,
            LinkKind::LinkNext,
            LinkKind::LinkCanonical,
            LinkKind::LinkAlternate,
            LinkKind::MetaRefresh,
        ];
        Parser::new(&CrawlSpec { follow, ..CrawlSpec::default() }).unwrap();
    }

    #[test]
    fn a_body_cut_within_a_character_is_still_utf8() {
        let mut page = page(200, Some("text/html"), b"<title>\xc3\xa9 \xe4\xb8");
        page.truncated = Some(Truncated::Length);
        let parsed = Parser::new(&CrawlSpec::default()).unwrap().parse(&page);
        assert_eq!(parsed.title.as_deref(), Some("é \u{fffd}"));
        assert_eq!(parsed.charset.unwrap().name, "UTF-8");
    }

    /// Parsing is total: no bytes make it panic.
    #[test]
    fn any_bytes_are_read() {
        let pieces: [&[u8]; 40] = [
            b"<",
            b">",
            b"</",
            b"<a",
            b" href=",
            b"'",
            b"\"",
            b"=",
            b"/",
            b"<!--",
            b"-->",
            b"&",
            b"&amp",
            b"&#",
            b"x",
            b";",
            b"<script>",
            b"</script>",
            b"<title>",
            b"</title>",
            b"<noscript>",
            b"</noscript>",
            b"<template>",
            b"</template>",
            b"<svg>",
            b"</svg>",
            b"<base",
            b"<table>",
            b"<select>",
            b"<b>",
            b"</b>",
            b"<p>",
            b"\0",
            b"\xff",
            b"\xc3",
            b"\xc3\xa9",
            b"\r\n",
            b" ",
            b"http://",
            b"<meta charset=gbk>",
        ];
        let rule = |select: &str| ExtractRule {
            name: select.into(),
            select: select.into(),
            attribute: None,
            many: true,
        };
        let spec = CrawlSpec {
            extract: vec![rule("a:not(p > a)"), rule("p:has(b)"), rule(":nth-child(2n+1)")],
            ..CrawlSpec::default()
        };
        let parser = Parser::new(&spec).unwrap();
        let mut rng = fastrand::Rng::with_seed(3);
        for _ in 0..2_000 {
            let count = rng.usize(0..60);
            let body: Vec<u8> =
                (0..count).flat_map(|_| pieces[rng.usize(0..pieces.len())]).copied().collect();
            parser.parse(&page(200, Some("text/html"), &body));
        }
    }
}
