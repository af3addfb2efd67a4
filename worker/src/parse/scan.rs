//! Text in, and in document order the tags and the title that outlinks are made
//! of. lol_html's home.
//!
//! It sees tags, not a tree: memory is bounded, time is linear in the text, and
//! for links the result is that of a tree, with two corrections. Without
//! scripting, as for a crawler, the content of `<noscript>` is ordinary markup;
//! lol_html takes it for text, so it is scanned by itself. The content of
//! `<template>` is no part of the document; it is passed over. A frameset page
//! may show links that a tree would have dropped.
//!
//! Attribute values are as written, with character references.

use std::{
    borrow::Cow,
    cell::{Cell, RefCell},
    ops::ControlFlow,
    rc::Rc,
};

use lol_html::{
    ElementContentHandlers, HandlerResult, HtmlRewriter, MemorySettings, Selector, Settings,
    errors::SelectorError, html_content::Element,
};
use trawl_shared::spec::LinkKind;

/// Bytes that lol_html may take for elements that are not closed (some 90,000)
/// or attributes of one tag (some 280,000). A page that needs more is cut there.
const MEMORY_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Bytes read between two looks at the clock.
const PIECE_BYTES: usize = 16 * 1024;

/// Bytes of a title or a `<noscript>` in which its end is looked for. What is longer
/// is taken to end there.
const CONTENT_BYTES_MAX: usize = 256 * 1024;

/// `<noscript>`s of a page that are looked into. Each costs a few microseconds.
const NOSCRIPTS_MAX: u32 = 1_000;

/// How deep `<noscript>`s are looked into that stand in one another.
const NOSCRIPT_DEPTH_MAX: u32 = 3;

const HTML: &str = "http://www.w3.org/1999/xhtml";

/// Something found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found<'t> {
    /// A link, and its element's `rel`.
    Link { kind: LinkKind, href: &'t str, rel: Option<&'t str> },
    /// The `content` of a `<meta http-equiv=refresh>`.
    Refresh { content: &'t str },
    /// The name and the content of a `<meta>` that is for robots, or for this one.
    Meta { name: &'t str, content: &'t str },
    /// The `href` of a `<base>`.
    Base { href: &'t str },
    /// The text of the first `<title>`.
    Title { text: &'t str },
}

/// What to look for. Made once for many pages.
#[derive(Debug)]
pub(super) struct Wanted {
    selectors: Vec<(Selector, Tag)>,
    rels: Vec<LinkKind>,
    /// The product token that a `<meta>` may be named by.
    agent: String,
}

/// A kind of tag that is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tag {
    /// An element that is a link by its attribute of that name.
    Link(LinkKind, &'static str),
    /// `<link>`
    Rel,
    Refresh,
    /// A `<meta>` with a name.
    Meta,
    Base,
    Title,
    /// Its titles are tooltips.
    Svg,
    Noscript,
    Template,
}

impl Wanted {
    /// Looks for links of the kinds in `follow`, the base, directives, and the title.
    pub(super) fn new(follow: &[LinkKind]) -> Result<Self, SelectorError> {
        let mut tags = vec![
            ("base", Tag::Base),
            ("meta[name]", Tag::Meta),
            ("title", Tag::Title),
            ("svg", Tag::Svg),
            ("noscript", Tag::Noscript),
            ("template", Tag::Template),
        ];
        let mut rels = Vec::new();
        for &kind in follow {
            let tag = match kind {
                LinkKind::A => ("a", Tag::Link(kind, "href")),
                LinkKind::Area => ("area", Tag::Link(kind, "href")),
                LinkKind::Iframe => ("iframe", Tag::Link(kind, "src")),
                LinkKind::Frame => ("frame", Tag::Link(kind, "src")),
                LinkKind::MetaRefresh => ("meta", Tag::Refresh),
                LinkKind::LinkNext
                | LinkKind::LinkCanonical
                | LinkKind::LinkAlternate
                | LinkKind::Sitemap
                | LinkKind::Feed => {
                    rels.push(kind);
                    ("link", Tag::Rel)
                }
            };
            if !tags.contains(&tag) {
                tags.push(tag);
            }
        }
        let parse = |(name, tag): (&str, Tag)| name.parse().map(|selector| (selector, tag));
        let selectors = tags.into_iter().map(parse).collect::<Result<_, _>>()?;
        Ok(Self { selectors, rels, agent: String::new() })
    }

    /// Looks also for the directives of the crawler of that product token.
    pub(super) fn of(self, product_token: &str) -> Self {
        Self { agent: product_token.to_owned(), ..self }
    }
}

/// Calls `find` with everything found in `text`, until it breaks, or `is_late`
/// when asked between two pieces of [`PIECE_BYTES`]. Returns whether the text was read to its
/// end.
pub(super) fn scan<'t>(
    text: &'t str,
    wanted: &Wanted,
    is_late: &dyn Fn() -> bool,
    find: &mut dyn FnMut(Found<'t>) -> ControlFlow<()>,
) -> bool {
    let mut scan = Scan { wanted, is_late, find, is_titled: false, noscripts: 0 };
    scan.markup(text, 0)
}

struct Scan<'t, 's> {
    wanted: &'s Wanted,
    is_late: &'s dyn Fn() -> bool,
    find: &'s mut dyn FnMut(Found<'t>) -> ControlFlow<()>,
    is_titled: bool,
    noscripts: u32,
}

impl<'t> Scan<'t, '_> {
    /// Scans markup that stands in `depth` `<noscript>`s.
    fn markup(&mut self, text: &'t str, depth: u32) -> bool {
        let (wanted, is_late) = (self.wanted, self.is_late);
        let scan = RefCell::new(self);
        let (svgs, templates) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(0)));
        let memory = MemorySettings::new()
            .with_preallocated_parsing_buffer_size(0)
            .with_max_allowed_memory_usage(MEMORY_BYTES_MAX);
        let mut settings = Settings::new().with_strict(false).with_memory_settings(memory);
        for (selector, tag) in &wanted.selectors {
            let (scan, svgs, templates) = (&scan, Rc::clone(&svgs), Rc::clone(&templates));
            let handler = move |element: &mut Element<'_, '_>| {
                match tag {
                    Tag::Svg => return enter(element, &svgs),
                    Tag::Template if element.namespace_uri() == HTML => {
                        return enter(element, &templates);
                    }
                    Tag::Title if svgs.get() > 0 => return Ok(()),
                    _ if templates.get() > 0 => return Ok(()),
                    _ => {}
                }
                match scan.borrow_mut().element(text, *tag, element, depth) {
                    ControlFlow::Continue(()) => Ok(()),
                    ControlFlow::Break(()) => Err("enough was found".into()),
                }
            };
            let handlers = ElementContentHandlers::default().element(handler);
            settings = settings.append_element_content_handler((Cow::Borrowed(selector), handlers));
        }
        let mut rewriter = HtmlRewriter::new(settings, |_: &[u8]| {});
        for (index, piece) in text.as_bytes().chunks(PIECE_BYTES).enumerate() {
            if index > 0 && is_late() || rewriter.write(piece).is_err() {
                return false;
            }
        }
        rewriter.end().is_ok()
    }

    fn element(
        &mut self,
        text: &'t str,
        tag: Tag,
        element: &Element<'_, '_>,
        depth: u32,
    ) -> ControlFlow<()> {
        let attributes = || attributes(text, element);
        let is_html = || element.namespace_uri() == HTML;
        match tag {
            Tag::Link(kind, name) => {
                let (mut href, mut rel) = (None, None);
                for (key, value) in attributes() {
                    if key.eq_ignore_ascii_case(name) {
                        href.get_or_insert(value);
                    } else if key.eq_ignore_ascii_case("rel") {
                        rel.get_or_insert(value);
                    }
                }
                href.map_or(ControlFlow::Continue(()), |href| {
                    (self.find)(Found::Link { kind, href, rel })
                })
            }
            Tag::Rel => {
                let [rel, href, of] =
                    ["rel", "href", "type"].map(|name| attribute(attributes(), name));
                self.link_element(rel, href, of)
            }
            Tag::Meta => {
                let is_ours = |name: &&str| {
                    ["robots", &self.wanted.agent].iter().any(|it| name.eq_ignore_ascii_case(it))
                };
                let name = attribute(attributes(), "name").filter(is_ours);
                match (name, attribute(attributes(), "content")) {
                    (Some(name), Some(content)) => (self.find)(Found::Meta { name, content }),
                    _ => ControlFlow::Continue(()),
                }
            }
            Tag::Refresh => match attribute(attributes(), "content") {
                Some(content) if is_refresh(attribute(attributes(), "http-equiv")) => {
                    (self.find)(Found::Refresh { content })
                }
                _ => ControlFlow::Continue(()),
            },
            Tag::Base => match attribute(attributes(), "href") {
                Some(href) if is_html() => (self.find)(Found::Base { href }),
                _ => ControlFlow::Continue(()),
            },
            Tag::Title => {
                if self.is_titled {
                    return ControlFlow::Continue(());
                }
                self.is_titled = true;
                (self.find)(Found::Title { text: content(text, element, "title") })
            }
            Tag::Noscript => {
                if !is_html() {
                    return ControlFlow::Continue(());
                }
                self.noscript(content(text, element, "noscript"), depth)
            }
            Tag::Svg | Tag::Template => ControlFlow::Continue(()),
        }
    }

    fn link_element(
        &mut self,
        rel: Option<&'t str>,
        href: Option<&'t str>,
        of: Option<&'t str>,
    ) -> ControlFlow<()> {
        let (Some(rel), Some(href)) = (rel, href) else { return ControlFlow::Continue(()) };
        let has = |wanted: &str| {
            rel.split_ascii_whitespace().any(|token| token.eq_ignore_ascii_case(wanted))
        };
        let is_feed = has("alternate") && of.is_some_and(is_feed_type);
        let kind = self.wanted.rels.iter().find(|kind| match kind {
            LinkKind::Sitemap => has("sitemap"),
            LinkKind::Feed => is_feed,
            LinkKind::LinkNext => has("next"),
            LinkKind::LinkCanonical => has("canonical"),
            // An alternate style sheet is no alternate page.
            LinkKind::LinkAlternate => has("alternate") && !has("stylesheet"),
            _ => false,
        });
        match kind {
            Some(&kind) => (self.find)(Found::Link { kind, href, rel: Some(rel) }),
            None => ControlFlow::Continue(()),
        }
    }

    fn noscript(&mut self, content: &'t str, depth: u32) -> ControlFlow<()> {
        // Most hold an image and nothing else.
        if depth >= NOSCRIPT_DEPTH_MAX || !may_hold_links(content) {
            return ControlFlow::Continue(());
        }
        self.noscripts += 1;
        let is_over = self.noscripts > NOSCRIPTS_MAX || (self.is_late)();
        if is_over || !self.markup(content, depth + 1) {
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    }
}

/// Counts an element that is open until its end tag. One that is never closed
/// holds the rest of the page. A selector for what is within would be looked at for
/// each of the elements that stand in one another.
fn enter(element: &mut Element<'_, '_>, open: &Rc<Cell<u32>>) -> HandlerResult {
    // Such as `<svg/>`.
    if !element.can_have_content() {
        return Ok(());
    }
    open.set(open.get() + 1);
    let open = Rc::clone(open);
    element.on_end_tag(Box::new(move |_| {
        open.set(open.get().saturating_sub(1));
        Ok(())
    }))?;
    Ok(())
}

/// An element's attributes as written, borrowed from the text.
fn attributes<'t, 'e>(
    text: &'t str,
    element: &'e Element<'_, '_>,
) -> impl Iterator<Item = (&'t str, &'t str)> + use<'t, 'e> {
    element.attributes().iter().filter_map(move |attribute| {
        let name = text.get(attribute.name_source_location()?.bytes())?;
        let value = match attribute.value_source_location() {
            Some(value) => text.get(value.bytes())?,
            None => "",
        };
        Some((name, value))
    })
}

/// The first attribute of that name: the only one that counts.
fn attribute<'t>(
    mut attributes: impl Iterator<Item = (&'t str, &'t str)>,
    name: &str,
) -> Option<&'t str> {
    let found = attributes.find(|(key, _)| key.eq_ignore_ascii_case(name));
    found.map(|(_, value)| value)
}

/// Whether a content type is that of a feed.
fn is_feed_type(of: &str) -> bool {
    let essence = of.split(';').next().unwrap_or_default().trim();
    ["application/rss+xml", "application/atom+xml", "application/rdf+xml"]
        .iter()
        .any(|feed| essence.eq_ignore_ascii_case(feed))
}

fn is_refresh(http_equiv: Option<&str>) -> bool {
    http_equiv.is_some_and(|value| value.eq_ignore_ascii_case("refresh"))
}

/// What stands in an element that holds text alone: all up to its end tag, or to
/// the end of the page, or to [`CONTENT_BYTES_MAX`].
fn content<'t>(text: &'t str, element: &Element<'_, '_>, name: &str) -> &'t str {
    let from = text.get(element.source_location().bytes().end..).unwrap_or_default();
    let from = &from[..from.floor_char_boundary(CONTENT_BYTES_MAX)];
    let is_end = |&(at, _): &(usize, &str)| {
        let after = &from.as_bytes()[at + 2..];
        let (tag, rest) = after.split_at_checked(name.len()).unwrap_or((after, &[]));
        let ends = matches!(rest.first(), Some(b'\t' | b'\n' | 0x0c | b'\r' | b' ' | b'/' | b'>'));
        ends && tag.eq_ignore_ascii_case(name.as_bytes())
    };
    let end = from.match_indices("</").find(is_end);
    end.map_or(from, |(at, _)| &from[..at])
}

/// Whether there is anything in `markup` that [`Wanted`] could ask for.
fn may_hold_links(markup: &str) -> bool {
    let has =
        |word: &[u8]| markup.as_bytes().windows(word.len()).any(|w| w.eq_ignore_ascii_case(word));
    has(b"href") || has(b"<iframe") || has(b"<frame") || has(b"<meta") || has(b"<title")
}
