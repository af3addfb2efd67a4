//! Outlinks and title of a page's text.
//!
//! A link is what a browser without scripting would follow: resolved against the
//! first `<base href>` wherever it stands, canonical, each URL once, in document
//! order. Only http and https are kept. URLs are always encoded as UTF-8: that a
//! page in another charset has its queries encoded in that one is left out, as
//! hardly a server of today expects it.

use std::{borrow::Cow, collections::HashSet, ops::ControlFlow};

use trawl_shared::{spec::LinkKind, url::CrawlUrl};
use url::Url;

use super::{
    reference,
    scan::{Found, Wanted, scan},
};

/// Outlinks of a page that are kept. A page with more is cut there.
pub const OUTLINKS_MAX: usize = 5_000;

/// Different references of a page, as written, that are looked at. A page with
/// more is cut there.
const REFERENCES_MAX: usize = 2 * OUTLINKS_MAX;

/// Bytes of a reference, as written. Longer ones are no links: a URL is at most
/// [`trawl_shared::url::URL_BYTES_MAX`] long.
const REFERENCE_BYTES_MAX: usize = 64 * 1024;

/// Bytes of a title, as written, that are looked at.
const TITLE_BYTES_MAX: usize = 64 * 1024;

/// Characters of a title that are kept.
const TITLE_CHARS_MAX: usize = 1_000;

/// Characters of a `rel` that are kept.
const REL_CHARS_MAX: usize = 200;

/// A link that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundLink {
    /// The canonical URL that it leads to.
    pub url: CrawlUrl,
    /// Where it stood.
    pub kind: LinkKind,
    /// Its element's `rel`, white space folded; none if it is missing or empty.
    pub rel: Option<String>,
}

/// What a page leads to.
#[derive(Debug, Default)]
pub(super) struct Links {
    pub(super) title: Option<String>,
    pub(super) outlinks: Vec<FoundLink>,
    /// Whether the page was not read to its end.
    pub(super) cut: bool,
}

/// Finds what is `wanted` in the text of the page at `url`.
pub(super) fn links(text: &str, url: &CrawlUrl, wanted: &Wanted) -> Links {
    let mut finder = Finder::default();
    let is_whole = scan(text, wanted, &mut |found| finder.take(found));
    let base = finder.base.and_then(|href| base(href, url.url()));
    let mut outlinks = join(&finder.references, base.as_ref().unwrap_or(url.url()));
    let cut = !is_whole || outlinks.len() > OUTLINKS_MAX;
    outlinks.truncate(OUTLINKS_MAX);
    Links { title: finder.title, outlinks, cut }
}

/// A link as written: its base is not known before the page's end.
struct Reference<'t> {
    href: Cow<'t, str>,
    kind: LinkKind,
    rel: Option<&'t str>,
}

#[derive(Default)]
struct Finder<'t> {
    references: Vec<Reference<'t>>,
    seen: HashSet<Cow<'t, str>>,
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
        if has_other_scheme(&href) || self.seen.contains(&href) {
            return ControlFlow::Continue(());
        }
        if self.references.len() >= REFERENCES_MAX {
            return ControlFlow::Break(());
        }
        self.seen.insert(href.clone());
        self.references.push(Reference { href, kind, rel });
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

/// The distinct URLs of `references`.
fn join(references: &[Reference<'_>], base: &Url) -> Vec<FoundLink> {
    let joined = |reference: &Reference<'_>| {
        let url = CrawlUrl::join(base, &reference.href).ok()?;
        let rel = reference.rel.map(rel).filter(|rel| !rel.is_empty());
        Some(FoundLink { url, kind: reference.kind, rel })
    };
    let mut links: Vec<FoundLink> = references.iter().filter_map(joined).collect();
    let mut seen = HashSet::with_capacity(links.len());
    let is_first: Vec<bool> = links.iter().map(|link| seen.insert(link.url.as_str())).collect();
    drop(seen);
    let mut is_first = is_first.into_iter();
    links.retain(|_| is_first.next().unwrap_or(false));
    links
}

fn rel(raw: &str) -> String {
    let raw = &raw[..raw.floor_char_boundary(REFERENCE_BYTES_MAX)];
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
