//! Outlinks and title of a page's text.
//!
//! A link is what a browser without scripting would follow: resolved against the
//! first `<base href>` wherever it stands, canonical, each URL once, in document
//! order. Only http and https are kept. URLs are always encoded as UTF-8: that a
//! page in another charset has its queries encoded in that one is left out, as
//! hardly a server of today expects it.

use std::{borrow::Cow, collections::HashMap, ops::ControlFlow, time::Duration};

use trawl_shared::{
    spec::LinkKind,
    url::{Base, CrawlUrl, URL_BYTES_MAX},
};
use url::Url;

use super::{
    directives::is_nofollow,
    reference,
    scan::{Found, Wanted, scan},
};

pub use trawl_shared::page::OUTLINKS_MAX;

/// Different references of a page, as written, that are looked at. A page with
/// more is cut there.
const REFERENCES_MAX: usize = 2 * OUTLINKS_MAX;

/// Bytes of all outlinks of a page that are kept. A page with more is cut there.
pub(super) const OUTLINKS_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Bytes of a reference, as written. Longer ones are no links: a URL is at most
/// [`URL_BYTES_MAX`] long.
const REFERENCE_BYTES_MAX: usize = 64 * 1024;

/// Bytes of all different references that are kept.
const REFERENCES_BYTES_MAX: usize = 16 * 1024 * 1024;

/// CPU time that a page may have taken when its scan ends. Usual ones of the size
/// that is read at most take a third of it.
const SCAN_TIME_MAX: Duration = Duration::from_millis(200);

/// CPU time that a page may have taken when its links are joined to their base.
const JOIN_TIME_MAX: Duration = Duration::from_millis(250);

/// References that are joined between two looks at the clock.
const JOINS_PER_LOOK: usize = 16;

/// Bytes of a title, as written, that are looked at.
const TITLE_BYTES_MAX: usize = 64 * 1024;

/// Elements that may hold directives, of which a page has one or two.
const METAS_MAX: usize = 32;

/// Bytes of their names and contents that are looked at.
const META_BYTES_MAX: usize = 4 * 1024;

/// Characters of a title that are kept.
const TITLE_CHARS_MAX: usize = 1_000;

/// Characters of a `rel` that are kept.
const REL_CHARS_MAX: usize = 200;

/// Bytes of a `rel`, as written, that are looked at.
const REL_BYTES_MAX: usize = 4 * 1024;

/// A link that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundLink {
    /// The canonical URL that it leads to.
    pub url: CrawlUrl,
    /// Where it stood.
    pub kind: LinkKind,
    /// Its element's `rel`, white space folded; none if it is missing or empty.
    pub rel: Option<String>,
    /// Whether every link to the URL asks not to follow it.
    pub nofollow: bool,
    /// When what it leads to changed last, as a sitemap or a feed has written it.
    pub lastmod: Option<String>,
}

/// What a page leads to.
#[derive(Debug, Default)]
pub(super) struct Links {
    pub(super) title: Option<String>,
    pub(super) outlinks: Vec<FoundLink>,
    /// Name and content of the `<meta>` elements that are for the crawler.
    pub(super) metas: Vec<(String, String)>,
    /// Whether the page was not read to its end.
    pub(super) cut: bool,
}

/// Finds what is `wanted` in the text of the page at `url`. `clock` tells the CPU
/// time spent on the page.
pub(super) fn links(
    text: &str,
    url: &CrawlUrl,
    wanted: &Wanted,
    clock: &dyn Fn() -> Duration,
) -> Links {
    let mut finder = Finder::default();
    let is_late = || clock() >= SCAN_TIME_MAX;
    let is_whole = scan(text, wanted, &is_late, &mut |found| finder.take(found));
    let mut outlinks = Vec::new();
    // A canonical URL can always be parsed.
    let are_all = url.to_url().is_ok_and(|document| {
        let base = finder.base.and_then(|href| base(href, &document)).unwrap_or(document);
        join(&finder.references, &Base::new(base), &mut outlinks, clock)
    });
    let cut = !is_whole || !are_all || outlinks.len() > OUTLINKS_MAX;
    outlinks.truncate(OUTLINKS_MAX);
    Links { title: finder.title, outlinks, metas: finder.metas, cut }
}

/// A link as written: its base is not known before the page's end.
struct Reference<'t> {
    href: Cow<'t, str>,
    kind: LinkKind,
    rel: Option<&'t str>,
    nofollow: bool,
}

#[derive(Default)]
struct Finder<'t> {
    references: Vec<Reference<'t>>,
    /// Where each reference stands in `references`.
    seen: HashMap<Cow<'t, str>, usize>,
    bytes: usize,
    metas: Vec<(String, String)>,
    base: Option<&'t str>,
    title: Option<String>,
}

impl<'t> Finder<'t> {
    fn take(&mut self, found: Found<'t>) -> ControlFlow<()> {
        match found {
            Found::Link { href, .. } if href.len() > REFERENCE_BYTES_MAX => {}
            Found::Link { kind, href, rel } => {
                return self.reference(reference::attribute(href), kind, rel);
            }
            Found::Refresh { content } if content.len() > REFERENCE_BYTES_MAX => {}
            Found::Refresh { content } => {
                let href = match reference::attribute(content) {
                    Cow::Borrowed(content) => refresh_target(content).map(Cow::Borrowed),
                    Cow::Owned(content) => {
                        refresh_target(&content).map(|href| Cow::Owned(href.to_owned()))
                    }
                };
                if let Some(href) = href {
                    return self.reference(href, LinkKind::MetaRefresh, None);
                }
            }
            Found::Meta { name, content } => {
                if self.metas.len() < METAS_MAX {
                    let value = |raw: &str| {
                        let raw = &raw[..raw.floor_char_boundary(META_BYTES_MAX)];
                        reference::attribute(raw).into_owned()
                    };
                    self.metas.push((value(name), value(content)));
                }
            }
            Found::Base { href } => {
                self.base.get_or_insert(href);
            }
            Found::Title { text } => {
                let text = &text[..text.floor_char_boundary(TITLE_BYTES_MAX)];
                let title = reference::folded(&reference::text(text), TITLE_CHARS_MAX);
                self.title = Some(title).filter(|title| !title.is_empty());
            }
        }
        ControlFlow::Continue(())
    }

    fn reference(
        &mut self,
        href: Cow<'t, str>,
        kind: LinkKind,
        rel: Option<&'t str>,
    ) -> ControlFlow<()> {
        let href = match href {
            Cow::Borrowed(href) => Cow::Borrowed(essence(href)),
            Cow::Owned(href) => Cow::Owned(essence(&href).to_owned()),
        };
        if href.len() > URL_BYTES_MAX || has_other_scheme(&href) {
            return ControlFlow::Continue(());
        }
        let nofollow = rel.is_some_and(|rel| is_nofollow(&self::rel(rel)));
        if let Some(first) = self.seen.get(&href) {
            self.references[*first].nofollow &= nofollow;
            return ControlFlow::Continue(());
        }
        self.bytes += href.len();
        if self.references.len() >= REFERENCES_MAX || self.bytes > REFERENCES_BYTES_MAX {
            return ControlFlow::Break(());
        }
        self.seen.insert(href.clone(), self.references.len());
        self.references.push(Reference { href, kind, rel, nofollow });
        ControlFlow::Continue(())
    }
}

/// The part of a reference that makes a difference: without the white space that
/// URLs are stripped of, and without a fragment. Pages link to many parts of few
/// pages, and each that is left costs a join.
fn essence(href: &str) -> &str {
    let href = href.trim_matches(|c| c <= ' ');
    match href.split_once('#') {
        // White space before a fragment is part of the URL, at its end it is not.
        Some((essence, _)) if !essence.ends_with(|c| c <= ' ') => essence,
        _ => href,
    }
}

/// Whether a reference has a scheme that is not followed, such as `mailto`. One
/// with tabs or newlines in it passes here, and fails later.
fn has_other_scheme(href: &str) -> bool {
    let is_part = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.');
    let Some(end) = href.bytes().position(|byte| !is_part(byte)) else { return false };
    href.as_bytes()[end] == b':'
        && href.starts_with(|c: char| c.is_ascii_alphabetic())
        && !["http", "https"].iter().any(|scheme| href[..end].eq_ignore_ascii_case(scheme))
}

/// What a `<base>` makes the base of a page's links. None if the standard has it
/// ignored.
fn base(href: &str, document: &Url) -> Option<Url> {
    if href.len() > REFERENCE_BYTES_MAX {
        return None;
    }
    let base = document.join(&reference::attribute(href)).ok()?;
    (!matches!(base.scheme(), "data" | "javascript")).then_some(base)
}

/// Adds the distinct URLs of `references`; returns whether these are all. With a
/// long base, short references make long URLs.
fn join(
    references: &[Reference<'_>],
    base: &Base,
    links: &mut Vec<FoundLink>,
    clock: &dyn Fn() -> Duration,
) -> bool {
    let (mut bytes_left, mut are_all) = (OUTLINKS_BYTES_MAX, true);
    for (count, reference) in references.iter().enumerate() {
        if count % JOINS_PER_LOOK == JOINS_PER_LOOK - 1 && clock() >= JOIN_TIME_MAX {
            are_all = false;
            break;
        }
        let Ok(url) = base.join(&reference.href) else { continue };
        let rel = reference.rel.map(rel).filter(|rel| !rel.is_empty());
        let bytes = url.as_str().len() + rel.as_ref().map_or(0, String::len);
        if bytes > bytes_left {
            are_all = false;
            break;
        }
        bytes_left -= bytes;
        let (kind, nofollow) = (reference.kind, reference.nofollow);
        links.push(FoundLink { url, kind, rel, nofollow, lastmod: None });
    }
    let mut seen = HashMap::with_capacity(links.len());
    let firsts: Vec<usize> = links
        .iter()
        .enumerate()
        .map(|(at, link)| *seen.entry(link.url.as_str()).or_insert(at))
        .collect();
    drop(seen);
    for (at, first) in firsts.iter().enumerate() {
        links[*first].nofollow &= links[at].nofollow;
    }
    let mut is_first = firsts.iter().enumerate().map(|(at, first)| at == *first);
    links.retain(|_| is_first.next().unwrap_or(false));
    are_all
}

fn rel(raw: &str) -> String {
    let raw = &raw[..raw.floor_char_boundary(REL_BYTES_MAX)];
    reference::folded(&reference::attribute(raw), REL_CHARS_MAX)
}

/// The URL in the `content` of a refresh, by the HTML standard's shared
/// declarative refresh steps. None if it only reloads the page, or is none.
fn refresh_target(content: &str) -> Option<&str> {
    let is_space = |c: char| matches!(c, '\t' | '\n' | '\x0c' | '\r' | ' ');
    let content = content.trim_start_matches(is_space);
    let rest = content.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.');
    if rest.len() == content.len() || !rest.starts_with(|c| is_space(c) || matches!(c, ';' | ',')) {
        return None;
    }
    let rest = rest.trim_start_matches(is_space);
    let rest = rest.strip_prefix([';', ',']).unwrap_or(rest).trim_start_matches(is_space);
    let url = after_url_equals(rest).unwrap_or(rest);
    let url = match url.chars().next()? {
        quote @ ('"' | '\'') => {
            let quoted = &url[1..];
            quoted.split_once(quote).map_or(quoted, |(url, _)| url)
        }
        _ => url,
    };
    Some(url)
}

/// What follows a leading `url=`.
fn after_url_equals(text: &str) -> Option<&str> {
    let (word, rest) = text.split_at_checked(3)?;
    if !word.eq_ignore_ascii_case("url") {
        return None;
    }
    Some(rest.trim_ascii_start().strip_prefix('=')?.trim_ascii_start())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(text: &str, follow: &[LinkKind]) -> Links {
        let url = CrawlUrl::parse("http://h.test/d/p?q").unwrap();
        let wanted = Wanted::new(follow).unwrap().of("mybot");
        links(text, &url, &wanted, &|| Duration::ZERO)
    }

    /// The URLs on the page `http://h.test/d/p?q`; those of its host by path.
    fn urls(text: &str) -> Vec<String> {
        let found = find(text, &[LinkKind::A, LinkKind::Area]);
        assert!(!found.cut, "{text:?}");
        let short = |url: &str| url.strip_prefix("http://h.test").unwrap_or(url).to_owned();
        found.outlinks.iter().map(|link| short(link.url.as_str())).collect()
    }

    fn check(samples: &[(&str, &[&str])]) {
        for (text, want) in samples {
            assert_eq!(urls(text), *want, "{text:?}");
        }
    }

    #[test]
    fn references_of_every_shape() {
        check(&[
            ("<a href=/x>", &["/x"]),
            ("<a href='x'>", &["/d/x"]),
            ("<A HREF=\"../x\">", &["/x"]),
            ("<a href=>", &["/d/p?q"]),
            ("<a href>", &["/d/p?q"]),
            ("<a href=''>", &["/d/p?q"]),
            ("<a href='#frag'>", &["/d/p?q"]),
            ("<a href='?r#frag'>", &["/d/p?r"]),
            ("<a href='?'>", &["/d/p?"]),
            ("<a href=//other.test/x>", &["http://other.test/x"]),
            ("<a href=http:x>", &["/d/x"]),
            ("<a href=https:x>", &["https://x/"]),
            ("<a href='http:/x'>", &["/x"]),
            ("<a href='\\x\\y'>", &["/x/y"]),
            ("<a href='\\\\other.test\\x'>", &["http://other.test/x"]),
            ("<a href=' \n /x \t'>", &["/x"]),
            ("<a href='/a\tb\nc\r\nd'>", &["/abcd"]),
            ("<a href='ht\ntp://other.test/'>", &["http://other.test/"]),
            ("<a href='/x #f'>", &["/x%20"]),
            ("<a href='/x y'>", &["/x%20y"]),
            ("<a href='/ä?ö'>", &["/%C3%A4?%C3%B6"]),
            ("<a href=http://bücher.test/>", &["http://xn--bcher-kva.test/"]),
            ("<a href=http://USER:pw@H.Test:80/x>", &["/x"]),
            ("<a href=HTTPS://h.test:443/x>", &["https://h.test/x"]),
            ("<a href='/a\0b'>", &["/a%EF%BF%BDb"]),
            ("<a href='/%zz%41'>", &["/%zz%41"]),
        ]);
    }

    #[test]
    fn what_is_no_link() {
        check(&[
            ("<a name=x>", &[]),
            ("<a xlink:href=/x data-href=/y>", &[]),
            ("<a href='javascript:void(0)'><a href=mailto:a@h.test><a href=data:,x>", &[]),
            (
                "<a href='java\nscript:x'><a href=tel:1><a href=ftp://h.test/><a href=about:blank>",
                &[],
            ),
            ("<a href=http://><a href=http://[/><a href='http://a b/'><a href=//h:99999/>", &[]),
            ("<link href=/x><img src=/y><form action=/z><iframe src=/w>", &[]),
            ("<a href=/x", &[]),
            ("<a href='/x>", &[]),
            ("</a href=/x>", &[]),
            ("< a href=/x>", &[]),
        ]);
        let long = format!("<a href=/{}><a href=/x>", "a".repeat(2_048));
        assert_eq!(urls(&long), ["/x"]);
        let longer = format!("<a href='{}/x'><a href=/x>", " ".repeat(REFERENCE_BYTES_MAX));
        assert_eq!(urls(&longer), ["/x"]);
    }

    #[test]
    fn character_references() {
        check(&[
            ("<a href='?a=1&amp;b=2'>", &["/d/p?a=1&b=2"]),
            ("<a href='?a=1&copy=2&lt=3'>", &["/d/p?a=1&copy=2&lt=3"]),
            ("<a href='?a&copy'>", &["/d/p?a%C2%A9"]),
            ("<a href=/&#x61;&#98;>", &["/ab"]),
            ("<a href='&#47;x&#35;y'>", &["/x"]),
            ("<a href='&#32;/x&nbsp;'>", &["/x%C2%A0"]),
            ("<a href='&Tab;java&NewLine;script:x'>", &[]),
            ("<a hre&#102;=/x>", &[]),
        ]);
    }

    #[test]
    fn tags_as_people_write_them() {
        check(&[
            ("<a\nhref\t=\r\n/x\x0cid=y>", &["/x"]),
            ("<a/href=/x>", &["/x"]),
            ("<a id=1href=/y href=/x>", &["/x"]),
            ("<a id='1'href=/x>", &["/x"]),
            ("<a href=/x/>", &["/x/"]),
            ("<a href=/1 href=/2>", &["/1"]),
            ("<a title='>' href=/x>", &["/x"]),
            ("<a =href=/y href=/x>", &["/x"]),
            ("<a href='/x\">'>\"</a>", &["/x%22%3E"]),
            ("<a href=/x\"'y>", &["/x%22'y"]),
            ("<<a href=/x>", &["/x"]),
            ("<a<b href=/y><a href=/x>", &["/x"]),
            ("<a href=/1><a href=/2></a></b></a>", &["/1", "/2"]),
            ("<area href=/1><AREA shape=rect href=/2 />", &["/1", "/2"]),
            ("<table><a href=/1><tr><a href=/2><td></table><a href=/3>", &["/1", "/2", "/3"]),
            ("<select><option><a href=/x></select>", &["/x"]),
            ("<html></html><a href=/x>", &["/x"]),
            ("\u{feff}<a href=/x>", &["/x"]),
        ]);
    }

    #[test]
    fn text_that_looks_like_links() {
        check(&[
            ("<script>'<a href=/y>'</script><a href=/x>", &["/x"]),
            ("<script><!-- <script> </script> <a href=/y> --></script><a href=/x>", &["/x"]),
            ("<script><!-- </script><a href=/x>", &["/x"]),
            ("<style><a href=/y></STYLE ><a href=/x>", &["/x"]),
            ("<textarea><a href=/y></textarea><a href=/x>", &["/x"]),
            ("<title><a href=/y></title><a href=/x>", &["/x"]),
            ("<xmp><a href=/y></xmp><iframe><a href=/y></iframe><a href=/x>", &["/x"]),
            ("<noembed><a href=/y></noembed><noframes><a href=/y></noframes><a href=/x>", &["/x"]),
            ("<!-- <a href=/y> --><a href=/x>", &["/x"]),
            ("<!--><a href=/x>--><!---><a href=/z>", &["/x", "/z"]),
            ("<!-- <a href=/y> --!><a href=/x>", &["/x"]),
            ("<! <a href=/y><? <a href=/y></ <a href=/y><a href=/x>", &["/x"]),
            ("<![CDATA[<a href=/y>]]><a href=/x>", &["/x"]),
            ("<svg><![CDATA[<a href=/y>]]></svg><a href=/x>", &["/x"]),
            ("<textarea></textareas><a href=/y></textarea/><a href=/x>", &["/x"]),
            ("<a href=/x><plaintext></plaintext><a href=/y>", &["/x"]),
            ("<script><a href=/y>", &[]),
        ]);
    }

    #[test]
    fn svg_and_mathml() {
        check(&[
            ("<svg><a href=/x><title><a href=/z></title></svg>", &["/x", "/z"]),
            ("<svg><style><a href=/x></style><script><a href=/z></script></svg>", &["/x", "/z"]),
            ("<svg><desc><style><a href=/y></style></desc></svg><a href=/x>", &["/x"]),
            ("<svg><p><style><a href=/y></style><a href=/x>", &["/x"]),
            ("<math><mi><a href=/x></mi></math>", &["/x"]),
            ("<math><annotation-xml encoding=text/html><a href=/x></math>", &["/x"]),
        ]);
    }

    #[test]
    fn noscript_is_markup_and_template_is_not() {
        check(&[
            ("<a href=/1><noscript><a href=/2></noscript><a href=/3>", &["/1", "/2", "/3"]),
            ("<head><noscript><a href=/1></noscript><a href=/2>", &["/1", "/2"]),
            ("<noscript><noscript><a href=/1></noscript></noscript><a href=/2>", &["/1", "/2"]),
            ("<noscript><script><a href=/y></script><a href=/x></NOSCRIPT\n>", &["/x"]),
            ("<noscript><a href=/x>", &["/x"]),
            ("<noscript><iframe src=/x></iframe></noscripts><a href=/1></noscript>", &["/1"]),
            ("<template><a href=/y></template><a href=/x>", &["/x"]),
            ("<template><template></template><a href=/y></template><a href=/x>", &["/x"]),
            ("<template><noscript><a href=/y></noscript></template><a href=/x>", &["/x"]),
            ("<a href=/x><template><a href=/y>", &["/x"]),
            ("<svg><template><a href=/x></template></svg>", &["/x"]),
        ]);
    }

    #[test]
    fn the_base_applies_to_all_links() {
        check(&[
            ("<base href=/b/><a href=x>", &["/b/x"]),
            ("<a href=x><base href=/b/><a href=y>", &["/b/x", "/b/y"]),
            ("<base href=/b/><base href=/c/><a href=x>", &["/b/x"]),
            ("<base target=_top><base href=/b/><a href=x>", &["/b/x"]),
            ("<base href=b><a href=x><a href='#y'>", &["/d/x", "/d/b"]),
            ("<base href=../b/c?d><a href=''>", &["/b/c?d"]),
            ("<BASE HREF='//other.test/&#98;/'><a href=x>", &["http://other.test/b/x"]),
            ("<base href=''><a href=x>", &["/d/x"]),
            ("<base href='http://['><base href=/b/><a href=x>", &["/d/x"]),
            ("<base href=data:,x><a href=x>", &["/d/x"]),
            ("<base href=javascript:x><a href=x>", &["/d/x"]),
            ("<base href=mailto:x><a href=x><a href=http://h.test/y>", &["/y"]),
            ("<base href=ftp://h.test/b/><a href=x><a href=http://h.test/y>", &["/y"]),
            ("<svg><base href=/b/></svg><a href=x>", &["/d/x"]),
            ("<template><base href=/b/></template><a href=x>", &["/d/x"]),
            ("<noscript><base href=/b/></noscript><a href=x>", &["/b/x"]),
            ("<!-- <base href=/b/> --><a href=x>", &["/d/x"]),
        ]);
    }

    #[test]
    fn each_url_once_in_document_order() {
        let page = "<a href=b rel=' No&#x46;ollow\n me '>1</a><a href=a rel=''>2</a>\
                    <area href=./b#x rel=next><a href=http://H.test/d/a>3</a><area href=c>";
        let links = find(page, &[LinkKind::A, LinkKind::Area]).outlinks;
        let links: Vec<_> =
            links.iter().map(|link| (link.url.as_str(), link.kind, link.rel.as_deref())).collect();
        assert_eq!(
            links,
            [
                ("http://h.test/d/b", LinkKind::A, Some("NoFollow me")),
                ("http://h.test/d/a", LinkKind::A, None),
                ("http://h.test/d/c", LinkKind::Area, None),
            ]
        );
    }

    #[test]
    fn a_link_is_followed_unless_all_links_to_its_url_ask_not_to() {
        let page = "<a href=a rel=nofollow>1</a><a href=b rel='NoFollow me'>2</a><a href=a>3</a>\
                    <a href=c rel='ugc sponsored'>4</a><a href=/d/b rel=nofollow>5</a>\
                    <a href=d rel=nofollow>6</a><a href=/d/d>7</a><a href=e rel=no&#102;ollow>8</a>";
        let links = find(page, &[LinkKind::A]).outlinks;
        let links: Vec<_> =
            links.iter().map(|link| (&link.url.as_str()[16..], link.nofollow)).collect();
        assert_eq!(links, [("a", false), ("b", true), ("c", false), ("d", false), ("e", true)]);
    }

    #[test]
    fn metas_that_may_hold_directives() {
        let page = "<meta name=robots content='no&#105;ndex'><META CONTENT=x NAME=MyBot>\
                    <meta name=x><meta content=y><template><meta name=robots content=z></template>\
                    <noscript><meta name=robots content=nofollow></noscript>";
        let metas = find(page, &[LinkKind::A]).metas;
        let metas: Vec<_> = metas.iter().map(|(name, content)| (&**name, &**content)).collect();
        assert_eq!(metas, [("robots", "noindex"), ("MyBot", "x"), ("robots", "nofollow")]);
        let many = find(&"<meta name=robots content=x>".repeat(100), &[]);
        assert_eq!((many.metas.len(), many.cut), (METAS_MAX, false));
    }

    #[test]
    fn feeds_and_sitemaps_that_a_page_names() {
        let page = "<link rel=alternate type=application/rss+xml href=1>\
                    <link rel=alternate type='Application/Atom+XML; x' href=2>\
                    <link rel=alternate type=text/html href=3><link rel=alternate href=4>\
                    <link rel=sitemap type=application/xml href=5>";
        let found = |follow: &[LinkKind]| {
            let links = find(page, follow).outlinks;
            let of = |link: &FoundLink| (link.kind, link.url.as_str()[16..].to_owned());
            links.iter().map(of).collect::<Vec<_>>()
        };
        let (feed, alternate) = (LinkKind::Feed, LinkKind::LinkAlternate);
        let want = |links: &[(LinkKind, &str)]| {
            links.iter().map(|(kind, url)| (*kind, (*url).to_owned())).collect::<Vec<_>>()
        };
        assert_eq!(found(&[feed]), want(&[(feed, "1"), (feed, "2")]));
        assert_eq!(found(&[LinkKind::Sitemap]), want(&[(LinkKind::Sitemap, "5")]));
        let all = [(feed, "1"), (feed, "2"), (alternate, "3"), (alternate, "4")];
        assert_eq!(found(&[feed, alternate]), want(&all));
    }

    #[test]
    fn kinds_that_are_asked_for() {
        let page = "<link rel='Prev NEXT' href=1><link rel=canonical href=2>\
                    <link rel=alternate href=3><link rel='alternate stylesheet' href=4>\
                    <link rel=stylesheet href=5><link href=6><link rel=next>\
                    <meta http-equiv=Refresh content='5; url=7'><meta name=refresh content='0;8'>\
                    <a href=9></a><area href=10><iframe src=11 href=y></iframe><frame src=12>";
        for (kind, want) in [
            (LinkKind::LinkNext, "1"),
            (LinkKind::LinkCanonical, "2"),
            (LinkKind::LinkAlternate, "3"),
            (LinkKind::MetaRefresh, "7"),
            (LinkKind::A, "9"),
            (LinkKind::Area, "10"),
            (LinkKind::Iframe, "11"),
            (LinkKind::Frame, "12"),
        ] {
            let links = find(page, &[kind]).outlinks;
            let links: Vec<_> = links.iter().map(|link| (link.kind, link.url.as_str())).collect();
            assert_eq!(links, [(kind, format!("http://h.test/d/{want}").as_str())]);
        }
        let all = [LinkKind::LinkAlternate, LinkKind::LinkNext, LinkKind::MetaRefresh, LinkKind::A];
        let links = find(page, &all).outlinks;
        let kinds: Vec<_> = links.iter().map(|link| link.kind).collect();
        assert_eq!(
            kinds,
            [LinkKind::LinkNext, LinkKind::LinkAlternate, LinkKind::MetaRefresh, LinkKind::A]
        );
        assert!(find(page, &[]).outlinks.is_empty());
    }

    #[test]
    fn refreshes() {
        for (content, want) in [
            ("0;url=x", Some("x")),
            ("5 ; URL = 'x y' z", Some("x y")),
            ("5,\"x", Some("x")),
            ("1.5 x", Some("x")),
            (".5;x", Some("x")),
            ("5;urlx", Some("urlx")),
            ("5;url x", Some("url x")),
            ("5;ürl=x", Some("ürl=x")),
            ("5", None),
            ("5; ", None),
            ("x;url=y", None),
            ("5x;url=y", None),
            (";url=y", None),
            ("", None),
        ] {
            assert_eq!(refresh_target(content), want, "{content:?}");
        }
    }

    #[test]
    fn titles() {
        for (text, want) in [
            ("<title> A &amp; B\n&lt;c> </title>", Some("A & B <c>")),
            ("<TITLE lang=en>x</TITLE >", Some("x")),
            ("<title>a<b>b</b></titles></title>", Some("a<b>b</b></titles>")),
            ("<body><title>x</title><title>y</title>", Some("x")),
            ("<svg><title>y</title></svg><title>x</title>", Some("x")),
            ("<svg/><title>x</title>", Some("x")),
            ("<template><title>y</title></template><title>x</title>", Some("x")),
            ("<!-- <title>y</title> --><title>x", Some("x")),
            ("<title></title><title>y</title>", None),
            ("<title>\0&copy=1</title>", Some("\u{fffd}©=1")),
            ("<title>x</title", Some("x</title")),
            ("none", None),
        ] {
            assert_eq!(find(text, &[]).title.as_deref(), want, "{text:?}");
        }
        let long = find(&format!("<title>{}", "é ".repeat(100_000)), &[]).title.unwrap();
        assert_eq!(long.chars().count(), TITLE_CHARS_MAX - 1);
    }

    #[test]
    fn a_page_of_many_links_is_cut() {
        let page = |count: usize| (0..count).map(|i| format!("<a href={i}>")).collect::<String>();
        let whole = find(&page(OUTLINKS_MAX), &[LinkKind::A]);
        assert_eq!((whole.outlinks.len(), whole.cut), (OUTLINKS_MAX, false));
        for count in [OUTLINKS_MAX + 1, REFERENCES_MAX + 1] {
            let cut = find(&page(count), &[LinkKind::A]);
            assert_eq!((cut.outlinks.len(), cut.cut), (OUTLINKS_MAX, true));
            assert_eq!(cut.outlinks[OUTLINKS_MAX - 1].url.as_str(), "http://h.test/d/49999");
        }
        let same = find(&"<a href=x><a href=mailto:y>".repeat(50_000), &[LinkKind::A]);
        assert_eq!((same.outlinks.len(), same.cut), (1, false));
    }

    #[test]
    fn a_page_of_long_links_is_cut() {
        let base = format!("<base href='/{}/'>", "b".repeat(1_900));
        let page = (0..10_000).map(|i| format!("<a href={i}>")).collect::<String>();
        let found = find(&(base + &page), &[LinkKind::A]);
        let bytes: usize = found.outlinks.iter().map(|link| link.url.as_str().len()).sum();
        assert!(found.cut && bytes <= OUTLINKS_BYTES_MAX && bytes + 2_048 > OUTLINKS_BYTES_MAX);
    }

    #[test]
    fn a_page_that_takes_too_long_is_cut() {
        let page = format!("<a href=x>{}<a href=y>", "</p>".repeat(1_000_000));
        let url = CrawlUrl::parse("http://h.test/").unwrap();
        let wanted = Wanted::new(&[LinkKind::A]).unwrap();
        let calls = std::cell::Cell::new(0);
        let clock = || {
            calls.set(calls.get() + 1);
            Duration::from_millis(75 * calls.get())
        };
        let found = links(&page, &url, &wanted, &clock);
        assert_eq!((found.outlinks.len(), found.cut, calls.get()), (1, true, 3));
    }

    #[test]
    fn bombs_leave_the_links_before_them() {
        let noscripts = "<noscript><a href=x></noscript>".repeat(1_100);
        let attributes: String = (0..300_000).map(|i| format!(" a{i}")).collect();
        for (name, bomb, is_cut) in [
            ("nested elements", "<div>".repeat(200_000), true),
            ("new element names", (0..200_000).map(|i| format!("<x-y{i}>")).collect(), true),
            ("nested svg", "<svg>".repeat(200_000), true),
            ("attributes of a link", format!("<a {attributes} href=x>"), true),
            ("attributes", format!("<div {attributes}>"), false),
            ("noscripts", noscripts, true),
            ("nested noscripts", "<noscript>".repeat(100_000), false),
            ("end tags", "</div></p>".repeat(200_000), false),
            ("tag openings", "<".repeat(1_000_000), false),
            ("an endless tag", format!("<a href='{}", "x".repeat(1_000_000)), false),
            ("an endless comment", format!("<!--{}", "-".repeat(1_000_000)), false),
            ("an endless script", format!("<script>{}", "</scrip".repeat(200_000)), false),
            ("an endless title", format!("<title>{}", "</titl ".repeat(200_000)), false),
            ("zeros", "\0".repeat(1_000_000), false),
            ("text", "x ".repeat(500_000), false),
        ] {
            let found = find(&format!("<a href=/before>{bomb}"), &[LinkKind::A]);
            assert_eq!(found.outlinks[0].url.as_str(), "http://h.test/before", "{name}");
            assert_eq!(found.cut, is_cut, "{name}");
        }
    }
}
