//! Fields of a page by CSS selectors, as the crawl asks. scraper's home.
//!
//! A field is the text of the first element that its selector matches, or the
//! value of an attribute of it; with `many`, a list of those of all matches.
//! Text is that of the element and all within, but for scripts, style sheets and
//! templates, with white space folded as on a screen. A match without the
//! attribute is passed over. Nothing found is null, or an empty list.
//!
//! Trees cost ten times what links cost, so pages of crawls without rules have
//! none. Matching is limited like the tree: a page and a selector can be made for
//! each other to take forever.

use std::{iter::successors, ops::Deref, time::Duration};

use scraper::{ElementRef, Html, Node, Selector};
use serde_json::{Map, Value};
use trawl_shared::spec::{ExtractRule, SpecError};

use super::tree::{Limits, tree};

/// CPU time that links, tree and matching may take together; matching ends with
/// it.
const TIME_MAX: Duration = Duration::from_millis(400);

/// Elements whose classes are named, and rules that are held against an element and do
/// not match, between two looks at the clock, which is a system call.
const ELEMENTS_PER_LOOK: usize = 4;
const RULES_PER_LOOK: usize = 16;

/// Characters and nodes that are looked at for the text of one element.
const TEXT_CHARS_MAX: usize = 256 * 1024;
const TEXT_NODES_MAX: usize = 50_000;

/// Bytes of one value that are kept.
const VALUE_BYTES_MAX: usize = 64 * 1024;

/// Bytes of all values of a page that are kept.
const VALUES_BYTES_MAX: usize = 1024 * 1024;

/// Values of a page that are kept.
const VALUES_MAX: usize = 10_000;

/// A crawl's extraction rules, compiled.
#[derive(Debug)]
pub(super) struct Extractor {
    rules: Vec<Rule>,
}

#[derive(Debug)]
struct Rule {
    name: String,
    selector: Selector,
    attribute: Option<String>,
    many: bool,
}

/// The fields of a page.
#[derive(Debug, Default)]
pub(super) struct Fields {
    pub(super) fields: Map<String, Value>,
    /// Whether something was left out for its size or cost.
    pub(super) cut: bool,
}

impl Extractor {
    /// Compiles the rules.
    pub(super) fn new(rules: &[ExtractRule]) -> Result<Self, SpecError> {
        Ok(Self { rules: rules.iter().map(Rule::new).collect::<Result<_, _>>()? })
    }

    /// Whether there is nothing to extract.
    pub(super) fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// The fields of a page's text. `clock` tells the CPU time spent on the page.
    pub(super) fn fields(&self, text: &str, clock: &dyn Fn() -> Duration) -> Fields {
        let (html, is_cut) = tree(text, Limits::default(), clock);
        let mut matcher = Matcher {
            values: self.rules.iter().map(|_| Vec::new()).collect(),
            bytes_left: VALUES_BYTES_MAX,
            values_left: VALUES_MAX,
            cut: is_cut,
        };
        matcher.run(&self.rules, &html, clock);
        let field = |(rule, values): (&Rule, Vec<String>)| {
            let mut values = values.into_iter().map(Value::String);
            let value = match rule.many {
                true => Value::Array(values.collect()),
                false => values.next().unwrap_or(Value::Null),
            };
            (rule.name.clone(), value)
        };
        let fields = self.rules.iter().zip(matcher.values).map(field).collect();
        Fields { fields, cut: matcher.cut }
    }
}

impl Rule {
    fn new(rule: &ExtractRule) -> Result<Self, SpecError> {
        let selector = Selector::parse(&rule.select).map_err(|_| {
            let allowed = "a CSS selector is allowed, such as `h1` or `article .price > a[href]`";
            SpecError::new("extract.select", &rule.select, allowed)
        })?;
        if let Some(name) = &rule.attribute
            && (name.is_empty() || name.contains(is_forbidden))
        {
            let allowed = "the name of an HTML attribute is allowed, such as `href`";
            return Err(SpecError::new("extract.attribute", name, allowed));
        }
        let (name, attribute) = (rule.name.clone(), rule.attribute.clone());
        Ok(Self { name, selector, attribute, many: rule.many })
    }

    /// The value that an element has for this rule, and whether that is all of it.
    fn value(&self, element: ElementRef<'_>) -> Option<(String, bool)> {
        if !self.selector.matches(&element) {
            return None;
        }
        match &self.attribute {
            None => Some(text(element)),
            Some(name) => attribute(element, name).map(|value| (value, true)),
        }
    }
}

/// What no attribute of a parsed page has in its name.
fn is_forbidden(c: char) -> bool {
    c.is_whitespace() || c.is_control() || matches!(c, '"' | '\'' | '>' | '/' | '=')
}

struct Matcher {
    /// For each rule.
    values: Vec<Vec<String>>,
    bytes_left: usize,
    values_left: usize,
    cut: bool,
}

impl Matcher {
    /// Holds the document's elements against the rules, once, in document order.
    fn run(&mut self, rules: &[Rule], html: &Html, clock: &dyn Fn() -> Duration) {
        let is_late = || clock() >= TIME_MAX;
        if !name_classes(html, &is_late) {
            self.cut = true;
            return;
        }
        let mut missed = 0_usize;
        for element in elements(html) {
            for (rule, values) in rules.iter().zip(0..) {
                if !rule.many && !self.values[values].is_empty() {
                    continue;
                }
                let value = rule.value(element);
                missed += usize::from(value.is_none());
                let is_time_to_look = value.is_some() || missed.is_multiple_of(RULES_PER_LOOK);
                if let Some(value) = value {
                    self.keep(values, value);
                }
                if is_time_to_look && is_late() {
                    self.cut = true;
                    return;
                }
            }
        }
    }

    fn keep(&mut self, rule: usize, (mut value, is_whole): (String, bool)) {
        self.cut |= !is_whole;
        let room = self.bytes_left.min(VALUE_BYTES_MAX);
        if self.values_left == 0 || value.len() > room {
            self.cut = true;
            value.truncate(value.floor_char_boundary(room));
        }
        if self.values_left > 0 {
            self.values_left -= 1;
            self.bytes_left -= value.len();
            self.values[rule].push(value);
        }
    }
}

/// A node of the tree; its library has no other name here.
type NodeRef<'a> = <ElementRef<'a> as Deref>::Target;

/// The document's elements, in its order. The content of a `<template>` is no
/// part of it.
fn elements(html: &Html) -> impl Iterator<Item = ElementRef<'_>> {
    let root = html.tree.root();
    let nodes = successors(Some(root), move |node| next(*node, root, !node.value().is_fragment()));
    nodes.filter_map(ElementRef::wrap)
}

/// Gives the classes of all elements their names, which the library would do when a
/// selector first asks: one selector may ask for those of the whole document at once,
/// and no clock. Whether there was time for all.
fn name_classes(html: &Html, is_late: &dyn Fn() -> bool) -> bool {
    elements(html).zip(0_usize..).all(|(element, count)| {
        // They are named as soon as one is wanted.
        let _ = element.value().classes();
        !count.is_multiple_of(ELEMENTS_PER_LOOK) || !is_late()
    })
}

/// The text of an element and all within, white space folded, and whether that is all of
/// it. Longer text than [`VALUE_BYTES_MAX`] ends soon after it.
fn text(element: ElementRef<'_>) -> (String, bool) {
    let root = *element;
    let (mut text, mut is_apart) = (String::new(), false);
    let (mut chars, mut nodes) = (0, 0);
    let mut node = root.first_child();
    while let Some(current) = node {
        nodes += 1;
        if nodes > TEXT_NODES_MAX {
            return (text, false);
        }
        if let Node::Text(piece) = current.value() {
            for char in piece.chars() {
                chars += 1;
                if chars > TEXT_CHARS_MAX || text.len() > VALUE_BYTES_MAX {
                    return (text, false);
                }
                if char.is_ascii_whitespace() {
                    is_apart = true;
                    continue;
                }
                if is_apart && !text.is_empty() {
                    text.push(' ');
                }
                is_apart = false;
                text.push(char);
            }
        }
        node = next(current, root, has_text(current.value()));
    }
    (text, true)
}

/// Whether what is in a node is text of the page for those who read it.
fn has_text(node: &Node) -> bool {
    let unread = |name| matches!(name, "script" | "style" | "template");
    !node.as_element().is_some_and(|element| unread(element.name()))
}

/// The value of an attribute, its name in any case.
fn attribute(element: ElementRef<'_>, name: &str) -> Option<String> {
    let mut attributes = element.value().attrs();
    let found = attributes.find(|(key, _)| key.eq_ignore_ascii_case(name));
    found.map(|(_, value)| value.to_owned())
}

/// The node after `node` in document order, within `root`; below `node` only if
/// it `enters`.
fn next<'a>(node: NodeRef<'a>, root: NodeRef<'a>, enters: bool) -> Option<NodeRef<'a>> {
    if enters && let Some(child) = node.first_child() {
        return Some(child);
    }
    let mut node = node;
    while node != root {
        if let Some(sibling) = node.next_sibling() {
            return Some(sibling);
        }
        node = node.parent()?;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(name: &str, select: &str, attribute: Option<&str>, many: bool) -> ExtractRule {
        let (name, select) = (name.to_owned(), select.to_owned());
        ExtractRule { name, select, attribute: attribute.map(str::to_owned), many }
    }

    fn fields(rules: &[ExtractRule], text: &str) -> (String, bool) {
        let found = Extractor::new(rules).unwrap().fields(text, &|| Duration::ZERO);
        (Value::Object(found.fields).to_string(), found.cut)
    }

    #[test]
    fn text_attributes_and_lists() {
        let page = "<h1> Big\n <b>news</b></h1><p class=x>1<p class=x>2\
                    <a href='/a?b&amp;c'>a</a><a>none</a><a HREF=' /d '>d</a>";
        let rules = [
            rule("heading", "h1", None, false),
            rule("paragraphs", ".x", None, true),
            rule("link", "a", Some("href"), false),
            rule("links", "a", Some("Href"), true),
            rule("none", "h2", None, false),
            rule("nothing", "h2", Some("id"), true),
        ];
        let want = r#"{"heading":"Big news","link":"/a?b&c","links":["/a?b&c"," /d "],"#.to_owned()
            + r#""none":null,"nothing":[],"paragraphs":["1","2anoned"]}"#;
        assert_eq!(fields(&rules, page), (want, false));
    }

    #[test]
    fn text_is_what_a_reader_reads() {
        let page = "<div>a<script>b</script><style>c</style><template>d</template>\
                    <noscript>e <i>f</i></noscript>\u{a0}g<!-- h --></div><script>{ \"i\": 1 }</script>";
        let rules = [
            rule("div", "div", None, false),
            rule("script", "div ~ script", None, false),
            rule("template", "template *", None, true),
        ];
        let want = "{\"div\":\"ae f\u{a0}g\",\"script\":\"{ \\\"i\\\": 1 }\",\"template\":[]}";
        assert_eq!(fields(&rules, page), (want.to_owned(), false));
    }

    #[test]
    fn matches_come_in_document_order() {
        // The tree builder makes the table before what it moves in front of it.
        let page = "<table id=1><p id=2>x</table>";
        let rules = [rule("ids", "body *", Some("id"), true)];
        assert_eq!(fields(&rules, page), (r#"{"ids":["2","1"]}"#.to_owned(), false));
    }

    #[test]
    fn rules_that_cannot_be_say_why() {
        let error = |rule: ExtractRule| Extractor::new(&[rule]).unwrap_err().to_string();
        let select = error(rule("x", "a[", None, false));
        for part in ["extract.select", "\"a[\"", "CSS selector"] {
            assert!(select.contains(part), "{select}");
        }
        for name in ["", "a b", "a=", "<a>"] {
            let attribute = error(rule("x", "a", Some(name), false));
            for part in ["extract.attribute", &format!("{name:?}"), "HTML attribute"] {
                assert!(attribute.contains(part), "{attribute}");
            }
        }
    }

    #[test]
    fn values_are_limited() {
        let rules = [rule("p", "p", None, true)];
        let long = format!("<p>{}é<p>x", "a".repeat(VALUE_BYTES_MAX - 1));
        let found = Extractor::new(&rules).unwrap().fields(&long, &|| Duration::ZERO);
        let values = found.fields["p"].as_array().unwrap();
        assert_eq!(values[0].as_str().unwrap().len(), VALUE_BYTES_MAX - 1);
        assert_eq!((&values[1], found.cut), (&Value::from("x"), true));

        let nested = "<p>x".repeat(VALUES_MAX + 1);
        let found = Extractor::new(&rules).unwrap().fields(&nested, &|| Duration::ZERO);
        assert_eq!((found.fields["p"].as_array().unwrap().len(), found.cut), (VALUES_MAX, true));

        let many = format!("{}{}", "<div>".repeat(100), "x".repeat(60_000));
        let found = Extractor::new(&[rule("d", "div", None, true)]).unwrap();
        let found = found.fields(&many, &|| Duration::ZERO);
        let bytes: usize =
            found.fields["d"].as_array().unwrap().iter().map(|v| v.as_str().unwrap().len()).sum();
        assert_eq!((bytes, found.cut), (VALUES_BYTES_MAX, true));
    }

    #[test]
    fn matching_ends_with_its_time() {
        let calls = std::cell::Cell::new(0);
        let clock = || {
            calls.set(calls.get() + 1);
            Duration::from_millis(calls.get() / 10)
        };
        let page = "<p>x".repeat(8_000);
        let found = Extractor::new(&[rule("p", "p", None, true)]).unwrap().fields(&page, &clock);
        let count = found.fields["p"].as_array().unwrap().len();
        assert!(found.cut && (500..8_000).contains(&count), "{count}");
    }

    #[test]
    fn the_clock_is_asked_between_the_rules_of_one_element() {
        let rules: Vec<_> = (0..100).map(|i| rule(&i.to_string(), "p", None, false)).collect();
        let calls = std::cell::Cell::new(0);
        let clock = || {
            calls.set(calls.get() + 1);
            Duration::from_millis(10 * calls.get())
        };
        let found = Extractor::new(&rules).unwrap().fields("<p>x", &clock);
        let count = found.fields.values().filter(|value| !value.is_null()).count();
        assert!(found.cut && (1..50).contains(&count), "{count}");
    }

    #[test]
    fn what_a_selector_may_ask_of_all_elements_is_done_by_the_clock() {
        let calls = std::cell::Cell::new(0);
        let clock = || {
            calls.set(calls.get() + 1);
            Duration::from_millis(calls.get())
        };
        let page = "<i class='a b'></i>".repeat(2_000);
        let found = Extractor::new(&[rule("p", "body:has(.none)", None, true)]).unwrap();
        assert!(found.fields(&page, &clock).cut);
        assert_eq!(calls.get(), 400);
    }

    #[test]
    fn what_is_looked_at_for_a_text_is_limited() {
        let rules = [rule("div", "div", None, false)];
        for (within, is_cut) in [
            (" \n".repeat(TEXT_CHARS_MAX / 2 - 2) + "<p>end", false),
            (" \n".repeat(TEXT_CHARS_MAX / 2) + "<p>end", true),
            ("<i> </i>".repeat(TEXT_NODES_MAX / 2 - 2) + "<p>end", false),
            ("<i> </i>".repeat(TEXT_NODES_MAX / 2) + "<p>end", true),
        ] {
            let want = if is_cut { "" } else { "end" };
            let want = (format!(r#"{{"div":"{want}"}}"#), is_cut);
            assert_eq!(fields(&rules, &format!("<div>{within}</div>")), want);
        }
    }
}
