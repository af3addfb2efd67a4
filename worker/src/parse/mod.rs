//! A page in; outlinks, title, charset and fields out.
//!
//! A [`Parser`] is made once for a crawl and reads any number of pages. Nothing
//! here waits or does I/O. Whatever a page holds, parsing ends, in bounded time
//! and memory, with what was found so far. Which of the links are in scope is
//! for others to say.

mod charset;

mod prescan;

mod links;

mod directives;

mod feed;

mod scan;

mod reference;

mod extract;

mod simhash;

mod tree;

mod clock;

use encoding_rs::Encoding;
use http::header::{CONTENT_TYPE, LOCATION};
use serde_json::{Map, Value};
use trawl_shared::{
    page::Charset,
    spec::{CrawlSpec, DirectivesPolicy, LinkKind, SpecError},
    url::CrawlUrl,
};

use crate::fetch::Page;

pub use self::{
    charset::{Decoded, decode},
    links::{FoundLink, OUTLINKS_MAX},
};
use self::{clock::cpu_time, directives::Directives, extract::Extractor, feed::List, scan::Wanted};

/// Bytes of a body that are read. They may become three times as many of text.
const BODY_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Reads the pages of a crawl.
#[derive(Debug)]
pub struct Parser {
    wanted: Wanted,
    charsets: Vec<&'static Encoding>,
    extractor: Extractor,
    product_token: String,
    directives: DirectivesPolicy,
    /// Which lists of URLs are read.
    lists: Vec<LinkKind>,
    list_bytes: usize,
    /// Whether texts are compared, so that their SimHash is wanted.
    compares: bool,
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
    /// What the page asks of the crawler, such as `noindex`: its headers first, then
    /// its elements.
    pub directives: Vec<String>,
    /// The SimHash of the document's text; none for what is not HTML, and for a crawl
    /// that does not look for traps.
    pub simhash: Option<u64>,
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
        let is_list = |kind: &&LinkKind| matches!(kind, LinkKind::Sitemap | LinkKind::Feed);
        Ok(Self {
            wanted: Wanted::new(&spec.follow).map_err(unfit)?.of(spec.product_token()),
            charsets: spec.charsets.iter().map(encoding).collect::<Result<_, _>>()?,
            extractor: Extractor::new(&spec.extract)?,
            product_token: spec.product_token().to_owned(),
            directives: spec.directives,
            lists: spec.follow.iter().filter(is_list).copied().collect(),
            list_bytes: spec.body_limit.as_usize().min(feed::BYTES_MAX),
            compares: spec.traps.enabled,
        })
    }

    /// Reads a page. Only answers of status 2xx have outlinks: HTML, and sitemaps and
    /// feeds if the crawl follows them. HTML has a title and fields besides, and only
    /// answers of status 3xx lead elsewhere.
    pub fn parse(&self, page: &Page) -> Parsed {
        let mut directives = Directives::new(&self.product_token);
        directives.headers(&page.headers);
        match page.status {
            200..300 => self.document(page, directives),
            300..400 => Parsed {
                location: location(page),
                directives: directives.into_words(),
                ..Parsed::default()
            },
            _ => Parsed { directives: directives.into_words(), ..Parsed::default() },
        }
    }

    /// Reads HTML, a sitemap or a feed; anything else has no links.
    fn document(&self, page: &Page, directives: Directives) -> Parsed {
        let is_html = is_html(page);
        let may_be_list = !self.lists.is_empty()
            && match is_html {
                true => feed::begins_like_xml(&page.body),
                false => feed::may_be_list(&page.body, &page.url),
            };
        let listed = may_be_list.then(|| self.list(page, &directives)).flatten();
        match listed {
            Some(listed) => Parsed { directives: directives.into_words(), ..listed },
            None if is_html => self.html(page, directives),
            None => Parsed { directives: directives.into_words(), ..Parsed::default() },
        }
    }

    /// Reads a sitemap or a feed, if it is one.
    fn list(&self, page: &Page, directives: &Directives) -> Option<Parsed> {
        let start = cpu_time();
        let clock = || cpu_time().saturating_sub(start);
        let (body, is_whole) = feed::unzipped(&page.body, self.list_bytes);
        let is_whole = is_whole && page.truncated.is_none();
        let content_type = content_type(page);
        let decoded =
            charset::decode(&body, content_type.as_deref(), &self.charsets, is_whole, &clock);
        let list = List::of(&decoded.text, &page.url);
        let list = list.filter(|list| self.lists.contains(&list.kind()))?;
        let mut links = list.links(&decoded.text, &page.url, &clock);
        // A sitemap is made for crawlers; that it is kept from an index says nothing of what
        // it lists.
        if list.kind() == LinkKind::Feed {
            self.obey(directives, &mut links);
        }
        Some(Parsed {
            charset: Some(decoded.charset),
            outlinks: links.outlinks,
            cut: links.cut || decoded.cut || !is_whole,
            ..Parsed::default()
        })
    }

    /// Marks the links that are not to be followed.
    fn obey(&self, directives: &Directives, links: &mut links::Links) {
        let is_obeyed = self.directives == DirectivesPolicy::Obey;
        let is_for_all = directives.forbid_following();
        for link in &mut links.outlinks {
            link.nofollow = is_obeyed && (link.nofollow || is_for_all);
        }
    }

    fn html(&self, page: &Page, mut directives: Directives) -> Parsed {
        let start = cpu_time();
        let clock = || cpu_time().saturating_sub(start);
        let body = page.body.get(..BODY_BYTES_MAX).unwrap_or(&page.body);
        let is_read = body.len() == page.body.len();
        let is_whole = is_read && page.truncated.is_none();
        let content_type = content_type(page);
        let decoded =
            charset::decode(body, content_type.as_deref(), &self.charsets, is_whole, &clock);
        let mut links = links::links(&decoded.text, &page.url, &self.wanted, &clock);
        for (name, content) in &links.metas {
            directives.meta(name, content);
        }
        self.obey(&directives, &mut links);
        let fields = match self.extractor.is_empty() {
            true => extract::Fields::default(),
            false => self.extractor.fields(&decoded.text, &clock),
        };
        Parsed {
            title: links.title,
            charset: Some(decoded.charset),
            outlinks: links.outlinks,
            directives: directives.into_words(),
            simhash: self.compares.then(|| simhash::simhash(&decoded.text)).flatten(),
            location: None,
            cut: links.cut || fields.cut || decoded.cut || !is_read,
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
            LinkKind::Sitemap,
            LinkKind::Feed,
        ];
        Parser::new(&CrawlSpec { follow, ..CrawlSpec::default() }).unwrap();
    }

    #[test]
    fn directives_of_headers_and_elements_hold_together() {
        let parse = |directives, body: &[u8]| {
            let user_agent = "MyBot/1".to_owned();
            let spec = CrawlSpec { directives, user_agent, ..CrawlSpec::default() };
            let mut page = page(200, Some("text/html"), body);
            page.headers.append("x-robots-tag", HeaderValue::from_static("other: nofollow"));
            page.headers.append("x-robots-tag", HeaderValue::from_static("noarchive"));
            let parsed = Parser::new(&spec).unwrap().parse(&page);
            let marks: Vec<_> = parsed.outlinks.iter().map(|link| link.nofollow).collect();
            (parsed.directives, marks)
        };
        let links = "<a href=x rel=nofollow><a href=y>";
        let own = format!("<meta name=mybot content=nofollow>{links}");
        let (obey, ignore) = (DirectivesPolicy::Obey, DirectivesPolicy::Ignore);
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        assert_eq!(parse(obey, links.as_bytes()), (words(&["noarchive"]), vec![true, false]));
        let both = words(&["noarchive", "nofollow"]);
        assert_eq!(parse(obey, own.as_bytes()), (both.clone(), vec![true, true]));
        assert_eq!(parse(ignore, own.as_bytes()), (both, vec![false, false]));
    }

    #[test]
    fn lists_are_read_if_they_are_followed() {
        let sitemap = b"<?xml version='1.0'?><urlset><url><loc>/x</loc></url></urlset>";
        let feed = b"<rss><channel><item><link>/y</link></item></channel></rss>";
        let found = |follow: &[LinkKind], body: &[u8], header: &'static str| {
            let spec = CrawlSpec { follow: follow.to_vec(), ..CrawlSpec::default() };
            let mut page = page(200, Some("application/xml"), body);
            page.headers.insert("x-robots-tag", HeaderValue::from_static(header));
            let parsed = Parser::new(&spec).unwrap().parse(&page);
            let links = parsed.outlinks.iter();
            links.map(|link| (link.kind, link.nofollow)).collect::<Vec<_>>()
        };
        let both = [LinkKind::Sitemap, LinkKind::Feed];
        assert_eq!(found(&both, sitemap, ""), [(LinkKind::Sitemap, false)]);
        assert_eq!(found(&both, sitemap, "none"), [(LinkKind::Sitemap, false)]);
        assert_eq!(found(&both, feed, ""), [(LinkKind::Feed, false)]);
        assert_eq!(found(&both, feed, "none"), [(LinkKind::Feed, true)]);
        assert_eq!(found(&both, b"<svg/>", ""), []);
        assert_eq!(found(&[LinkKind::Feed], sitemap, ""), []);
        assert_eq!(found(&[LinkKind::A], feed, ""), []);
    }

    #[test]
    fn a_list_is_one_though_its_host_calls_it_html() {
        let found = |body: &[u8]| {
            let follow = vec![LinkKind::A, LinkKind::Sitemap];
            let spec = CrawlSpec { follow, ..CrawlSpec::default() };
            let parsed = Parser::new(&spec).unwrap().parse(&page(200, Some("text/html"), body));
            parsed.outlinks.iter().map(|link| link.kind).collect::<Vec<_>>()
        };
        assert_eq!(
            found(b"<?xml version='1.0'?><urlset><url><loc>/x</loc></url></urlset>"),
            [LinkKind::Sitemap]
        );
        assert_eq!(found(b"\xef\xbb\xbf <urlset><url><loc>/x</loc></url>"), [LinkKind::Sitemap]);
        assert_eq!(found(b"<?xml version='1.0'?><html><a href=x>x</a></html>"), [LinkKind::A]);
        assert_eq!(found(b"<html><urlset><a href=x>x</a></html>"), [LinkKind::A]);
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
