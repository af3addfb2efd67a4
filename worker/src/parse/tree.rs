//! Text to a document tree, within limits. html5ever's home.
//!
//! A tree builder can be made to take seconds and gigabytes by a page of 100 KB:
//! elements nested a thousand deep, formatting elements that are opened again in
//! every paragraph, a hundred thousand attributes on one tag. So the tree is
//! stopped, not refused: what was built until a limit was met is used.
//!
//! The limits are looked at after each token, and a token's cost is bounded by
//! the tree's depth and a tag's attributes, which are limited too. Collecting a
//! tag's attributes takes time square to their number before there is a token,
//! which is why text is fed in small pieces.
//!
//! Longer names of tags, attributes and classes go into one table of the whole
//! process, whose 4,096 chains anyone can make names for that meet in one of them.
//! To put a name in and to take it out again, when the tree is dropped and no clock
//! is asked, then takes time by the names that are there. So different names are
//! counted, and the tree is stopped by them too.

use std::{
    cell::{Cell, RefCell},
    collections::HashSet,
    hash::{BuildHasher, RandomState},
    time::Duration,
};

use html5ever::{
    TokenizerResult,
    buffer_queue::BufferQueue,
    tendril::StrTendril,
    tokenizer::{Tag, TagKind, Token, TokenSink, TokenSinkResult, Tokenizer, TokenizerOpts},
    tree_builder::{TreeBuilder, TreeBuilderOpts},
};
use scraper::{Html, HtmlTreeSink};

/// Where a tree is stopped.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Bytes of text that are read.
    pub(super) text_bytes: usize,
    /// Nodes of the tree.
    pub(super) nodes: usize,
    /// Nodes on the way from the root to a node.
    pub(super) depth: usize,
    /// Attributes of a tag; further ones are dropped.
    pub(super) attributes: usize,
    /// Classes of an element, ...
    pub(super) classes: usize,
    /// ... and bytes of them; further ones are dropped.
    pub(super) class_bytes: usize,
    /// Different names longer than [`INLINE_BYTES`].
    pub(super) names: usize,
    /// What the clock that is given may show.
    pub(super) time: Duration,
}

impl Default for Limits {
    /// Ten times what large pages need. As for depth, browsers flatten what is
    /// deeper than 512.
    fn default() -> Self {
        Self {
            text_bytes: 4 * 1024 * 1024,
            nodes: 200_000,
            depth: 512,
            attributes: 1_000,
            classes: 200,
            class_bytes: 4 * 1024,
            names: 5_000,
            time: Duration::from_millis(350),
        }
    }
}

/// Bytes of text that are fed at once.
const PIECE_BYTES: usize = 512;

/// Bytes of a name that needs no place in the table of names.
const INLINE_BYTES: usize = 7;

/// Tokens between two looks at the clock, which is a system call.
const TOKENS_PER_LOOK: u32 = 32;

type Handle = <HtmlTreeSink as html5ever::tree_builder::TreeSink>::Handle;

/// The tree of `text`, and whether it was cut. `clock` tells the time spent since
/// some moment.
pub(super) fn tree(text: &str, limits: Limits, clock: &dyn Fn() -> Duration) -> (Html, bool) {
    // Scripts do not run here, so that `<noscript>` holds elements.
    let options = TreeBuilderOpts { scripting_enabled: false, ..TreeBuilderOpts::default() };
    let sink = HtmlTreeSink::new(Html::new_document());
    let guard = Guard {
        builder: TreeBuilder::new(sink, options),
        limits,
        clock,
        deadline: limits.time,
        tokens: Cell::new(0),
        nodes: Cell::new(0),
        names: RefCell::default(),
        hasher: RandomState::new(),
        is_over: Cell::new(false),
        is_cut: Cell::new(false),
    };
    let tokenizer = Tokenizer::new(guard, TokenizerOpts::default());
    let input = BufferQueue::default();
    let mut rest = text;
    while !rest.is_empty() && !tokenizer.sink.is_over.get() {
        let (piece, after) = rest.split_at(rest.ceil_char_boundary(PIECE_BYTES));
        rest = after;
        input.push_back(StrTendril::from_slice(piece));
        while !matches!(tokenizer.feed(&input), TokenizerResult::Done) {}
        tokenizer.sink.look_at_clock();
        if text.len() - rest.len() >= limits.text_bytes {
            break;
        }
    }
    tokenizer.end();
    let guard = tokenizer.sink;
    let is_cut = guard.is_cut.get() || !rest.is_empty();
    (guard.builder.sink.0.into_inner(), is_cut)
}

/// Stands between tokenizer and tree builder. Once a limit is met, it lets no
/// token through.
struct Guard<'c> {
    builder: TreeBuilder<Handle, HtmlTreeSink>,
    limits: Limits,
    clock: &'c dyn Fn() -> Duration,
    deadline: Duration,
    tokens: Cell<u32>,
    nodes: Cell<usize>,
    /// The hashes of the names so far, by a key that nobody can know.
    names: RefCell<HashSet<u64>>,
    hasher: RandomState,
    is_over: Cell<bool>,
    is_cut: Cell<bool>,
}

impl Guard<'_> {
    fn stop(&self) {
        self.is_over.set(true);
        self.is_cut.set(true);
    }

    fn look_at_clock(&self) {
        if (self.clock)() >= self.deadline {
            self.stop();
        }
    }

    /// Drops what a tag has too much of.
    fn cut(&self, tag: &mut Tag) {
        if tag.attrs.len() > self.limits.attributes {
            tag.attrs.truncate(self.limits.attributes);
            self.is_cut.set(true);
        }
        for attribute in tag.attrs.iter_mut().filter(|attribute| &*attribute.name.local == CLASS) {
            let value = &*attribute.value;
            let kept = &value[..value.floor_char_boundary(self.limits.class_bytes)];
            let is_whole = kept.len() == value.len();
            if !is_whole || classes(kept).nth(self.limits.classes).is_some() {
                let kept: Vec<_> = classes(kept).take(self.limits.classes).collect();
                attribute.value = StrTendril::from_slice(&kept.join(" "));
                self.is_cut.set(true);
            }
        }
    }

    /// Counts the names of a tag. Whether there are still no more than may be.
    fn counts(&self, tag: &Tag) -> bool {
        let mut names = self.names.borrow_mut();
        let mut count = |name: &str| {
            if name.len() > INLINE_BYTES {
                names.insert(self.hasher.hash_one(name));
            }
        };
        count(&tag.name);
        for attribute in &tag.attrs {
            count(&attribute.name.local);
            if &*attribute.name.local == CLASS {
                classes(&attribute.value).for_each(&mut count);
            }
        }
        names.len() <= self.limits.names
    }

    fn look_at_tree(&self) {
        let html = self.builder.sink.0.borrow();
        let mut nodes = html.tree.nodes();
        if nodes.len() == self.nodes.replace(nodes.len()) {
            return;
        }
        // Of the nodes that a token makes, the last is the deepest.
        let depth =
            nodes.next_back().map_or(0, |node| node.ancestors().take(self.limits.depth).count());
        if self.nodes.get() >= self.limits.nodes || depth >= self.limits.depth {
            self.stop();
        }
    }
}

impl TokenSink for Guard<'_> {
    type Handle = Handle;

    fn process_token(&self, mut token: Token, line: u64) -> TokenSinkResult<Handle> {
        // Errors would only pile up in the tree.
        if self.is_over.get() || matches!(token, Token::ParseError(_)) {
            return TokenSinkResult::Continue;
        }
        if let Token::TagToken(tag) = &mut token {
            self.cut(tag);
            // What ends an element leaves no name behind.
            if tag.kind == TagKind::StartTag && !self.counts(tag) {
                self.stop();
                return TokenSinkResult::Continue;
            }
        }
        let result = self.builder.process_token(token, line);
        self.look_at_tree();
        self.tokens.set(self.tokens.get() + 1);
        if self.tokens.get().is_multiple_of(TOKENS_PER_LOOK) {
            self.look_at_clock();
        }
        result
    }

    fn end(&self) {
        self.builder.end();
    }

    fn adjusted_current_node_present_but_not_in_html_namespace(&self) -> bool {
        self.builder.adjusted_current_node_present_but_not_in_html_namespace()
    }
}

/// The attribute whose words become names.
const CLASS: &str = "class";

fn classes(value: &str) -> impl Iterator<Item = &str> {
    value.split_ascii_whitespace()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A clock on which nothing takes time.
    fn still() -> Duration {
        Duration::ZERO
    }

    fn depth(html: &Html) -> usize {
        html.tree.nodes().map(|node| node.ancestors().count() + 1).max().unwrap()
    }

    #[test]
    fn an_ordinary_page_is_whole() {
        let (html, is_cut) = tree("<title>é</title><p>x<p>y", Limits::default(), &still);
        assert!(!is_cut);
        assert_eq!(
            html.html(),
            "<html><head><title>é</title></head><body><p>x</p><p>y</p></body></html>"
        );
        let (html, is_cut) = tree("", Limits::default(), &still);
        assert_eq!(
            (html.html().as_str(), is_cut),
            ("<html><head></head><body></body></html>", false)
        );
    }

    #[test]
    fn noscript_holds_elements() {
        let (html, _) = tree("<body><noscript><p>x</p></noscript>", Limits::default(), &still);
        assert!(html.html().contains("<noscript><p>x</p></noscript>"));
        assert!(html.tree.values().any(|node| node.as_element().is_some_and(|e| e.name() == "p")));
    }

    #[test]
    fn text_is_limited() {
        let limits = Limits { text_bytes: 1_024, ..Limits::default() };
        let (html, is_cut) = tree(&"<p>é".repeat(1_000), limits, &still);
        assert!(is_cut);
        assert!((200..=206).contains(&html.html().matches("<p>").count()));
        let exactly = "x".repeat(1_024);
        assert!(!tree(&exactly, limits, &still).1);
    }

    #[test]
    fn nodes_are_limited() {
        let limits = Limits { nodes: 1_000, ..Limits::default() };
        let (html, is_cut) = tree(&"<p>x".repeat(10_000), limits, &still);
        assert!(is_cut);
        assert!((1_000..1_010).contains(&html.tree.nodes().len()));
    }

    #[test]
    fn depth_is_limited() {
        let limits = Limits::default();
        for bomb in ["<div>", "<ul><li>", "<table><tr><td>", "<b>", "<svg>"] {
            let (html, is_cut) = tree(&bomb.repeat(20_000), limits, &still);
            assert!(is_cut, "{bomb}");
            assert!(depth(&html) <= limits.depth + 4, "{bomb}: {}", depth(&html));
        }
    }

    /// Each paragraph opens all formatting elements again.
    #[test]
    fn formatting_elements_are_limited() {
        let open = |tag: &str| (0..8_000).map(|i| format!("<{tag} {i}>")).collect::<String>();
        let paragraphs = format!("<p>{}", open("b")) + &"<p>x".repeat(10_000);
        let misnested = open("b") + &open("i") + &"x</b>".repeat(8_000);
        // Elements of a table's cells do not count against those before it.
        let cells =
            format!("<p>{}<table><td>", open("b").split_at(4_000).0).repeat(10) + &paragraphs;
        for bomb in [paragraphs, misnested, cells] {
            let limits = Limits::default();
            let (html, is_cut) = tree(&bomb, limits, &still);
            assert!(is_cut);
            assert!(depth(&html) <= limits.depth + 4);
            assert!(html.tree.nodes().len() < 20_000);
        }
    }

    #[test]
    fn attributes_are_limited() {
        let limits = Limits::default();
        let attributes: String = (0..2_000).map(|i| format!(" a{i}=x")).collect();
        let (html, is_cut) = tree(&format!("<p{attributes}>x"), limits, &still);
        assert!(is_cut && html.html().ends_with(">x</p></body></html>"));
        assert_eq!(html.html().matches("=\"x\"").count(), limits.attributes);
    }

    #[test]
    fn classes_are_limited() {
        let limits = Limits { names: 100_000, ..Limits::default() };
        let classes: String = (0..300).map(|i| format!("c{i}\n")).collect();
        let (html, is_cut) = tree(&format!("<p class='{classes}' id='{classes}'>"), limits, &still);
        let kept = html.tree.values().find_map(|node| node.as_element()?.attr("class")).unwrap();
        assert!(is_cut && kept.ends_with("c198 c199"), "{kept}");
        assert!(html.html().contains("c299"), "only classes are cut");
        let (html, is_cut) = tree(&format!("<p class='{}'>", "é".repeat(5_000)), limits, &still);
        assert!(is_cut && html.html().contains(&format!("\"{}\"", "é".repeat(2_048))));
        let ordinary = "<p class=' a  b\n'>";
        assert!(!tree(ordinary, limits, &still).1);
    }

    #[test]
    fn different_names_are_limited() {
        let limits = Limits::default();
        let tags = |each: fn(usize) -> String| (0..20_000).map(each).collect::<String>();
        for bomb in [
            tags(|i| format!("<p class='a name{i:05}'>")),
            tags(|i| format!("<p name{i:05}>")),
            tags(|i| format!("<name{i:05}></name{i:05}>")),
            tags(|i| format!("<p {0}a{i} {0}b{i}>", "name-of-an-attribute")),
        ] {
            let (html, is_cut) = tree(&bomb, limits, &still);
            let count = html.tree.nodes().len();
            assert!(is_cut && (2_500..5_010).contains(&count), "{count}: {}", &bomb[..60]);
        }
        for harmless in [
            tags(|i| format!("<p class='the same {i}' {i}><{i}>")),
            tags(|i| format!("<p></p class=name{i:05} name{i:05}>")),
        ] {
            assert!(!tree(&harmless, limits, &still).1, "{}", &harmless[..60]);
        }
    }

    #[test]
    fn a_tag_without_end_is_stopped_by_the_clock() {
        let calls = Cell::new(0);
        let clock = || {
            calls.set(calls.get() + 1);
            Duration::from_millis(calls.get())
        };
        let attributes: String = (0..1_000_000).map(|i| format!(" {i}")).collect();
        let (html, is_cut) = tree(&format!("<p>x<p{attributes}>"), Limits::default(), &clock);
        assert!(is_cut);
        // A look at the clock for each piece, until the time is over.
        assert_eq!(calls.get(), 350);
        assert!(html.html().contains("<p>x</p>"));
    }

    #[test]
    fn time_is_limited_between_tokens() {
        let calls = Cell::new(0);
        let clock = || {
            calls.set(calls.get() + 1);
            Duration::from_millis(50 * calls.get())
        };
        let (html, is_cut) = tree(&"<p>x".repeat(100_000), Limits::default(), &clock);
        assert!(is_cut);
        assert!(html.tree.nodes().len() < 1_000);
    }
}
