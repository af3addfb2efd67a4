//! Traps: webs of endless pages, made by mistake or on purpose.
//!
//! Some can be told by one URL alone ([`caught`]): paths and queries that no person
//! would write, as links that are relative where they should not be bring them forth.
//! Others only by how many there are: [`Template`] is what is left of a URL without
//! the parts that such webs count up, and a host's pages of one template have a
//! budget; so have the hosts of one registrable domain, which a name server can make
//! without end. The master judges; what is caught goes to quarantine, where people see
//! it and may let it out.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use crate::{
    canon::{is_session_parameter, name_and_value, without_session},
    spec::SpecError,
    url::{CrawlUrl, UrlId},
};

/// What is taken for a trap.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrapSpec {
    /// Whether anything is.
    pub enabled: bool,
    /// Times that a path may repeat the same segments one after the other.
    pub path_repeats: u32,
    /// Segments of a path at most.
    pub path_depth: u32,
    /// Different keys of a query at most.
    pub query_keys: u32,
    /// Times that a query may have the same key.
    pub key_repeats: u32,
    /// The first and the last year of dates in URLs.
    pub years: (u16, u16),
    /// Pages of one template and host at most that bring nothing new.
    pub template_pages: u64,
    /// Pages of one template one after the other that are nearly the same, after which
    /// no more of it are fetched.
    pub alike_pages: u32,
    /// Templates of a host that are counted each by itself; further ones are counted
    /// together.
    pub templates: u32,
    /// Hosts of one registrable domain at most that pages are fetched of.
    pub domain_hosts: u64,
    /// Hosts of one registrable domain at most whose first page brings nothing new.
    pub alike_hosts: u64,
    /// URLs in quarantine at most; further ones that are caught as they are found are
    /// counted and forgotten, those that wait by then are given up.
    pub quarantine: u64,
}

impl Default for TrapSpec {
    fn default() -> Self {
        Self {
            enabled: true,
            path_repeats: 2,
            path_depth: 20,
            query_keys: 8,
            key_repeats: 3,
            years: (1900, 2100),
            template_pages: 500,
            alike_pages: 50,
            templates: 10_000,
            domain_hosts: 10_000,
            alike_hosts: 500,
            quarantine: 100_000,
        }
    }
}

impl TrapSpec {
    /// Checks the limits.
    ///
    /// # Errors
    /// With the first that cannot be.
    pub fn validate(&self) -> Result<(), SpecError> {
        const MOST: u64 = 1_000_000;
        for (key, value) in [
            ("traps.path_repeats", self.path_repeats.into()),
            ("traps.path_depth", self.path_depth.into()),
            ("traps.query_keys", self.query_keys.into()),
            ("traps.key_repeats", self.key_repeats.into()),
            ("traps.template_pages", self.template_pages),
            ("traps.alike_pages", self.alike_pages.into()),
            ("traps.templates", self.templates.into()),
            ("traps.domain_hosts", self.domain_hosts),
            ("traps.alike_hosts", self.alike_hosts),
        ] {
            if !(1..=MOST).contains(&value) {
                return Err(SpecError::new(key, value, format!("1 to {MOST} is allowed")));
            }
        }
        if self.years.0 > self.years.1 {
            let value = format!("{:?}", self.years);
            return Err(SpecError::new("traps.years", value, "the first year comes first"));
        }
        Ok(())
    }
}

/// A kind of trap. The words are stable: they stand in the store and in lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Trap {
    /// A path repeats the same segments one after the other.
    PathRepeats,
    /// A path has too many segments.
    PathDepth,
    /// A query has too many different keys.
    QueryKeys,
    /// A query has the same key too often.
    KeyRepeats,
    /// A date lies where no calendar of use reaches.
    Calendar,
    /// Too many pages of one template.
    Template,
    /// Too many pages in a row that are nearly the same.
    Alike,
    /// Too many hosts of one registrable domain.
    Hosts,
}

impl Trap {
    /// Every kind.
    pub const ALL: [Self; 8] = [
        Self::PathRepeats,
        Self::PathDepth,
        Self::QueryKeys,
        Self::KeyRepeats,
        Self::Calendar,
        Self::Template,
        Self::Alike,
        Self::Hosts,
    ];

    /// The kind's stable word.
    pub const fn word(self) -> &'static str {
        match self {
            Self::PathRepeats => "path_repeats",
            Self::PathDepth => "path_depth",
            Self::QueryKeys => "query_keys",
            Self::KeyRepeats => "key_repeats",
            Self::Calendar => "calendar",
            Self::Template => "template",
            Self::Alike => "alike",
            Self::Hosts => "hosts",
        }
    }
}

/// Why a URL was caught.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caught {
    /// The kind of trap.
    pub trap: Trap,
    /// What of the URL shows it, and the limit: one phrase.
    pub detail: String,
}

/// Holds one URL by itself against the limits.
pub fn caught(url: &CrawlUrl, spec: &TrapSpec) -> Option<Caught> {
    if !spec.enabled {
        return None;
    }
    let found = |trap, detail| Some(Caught { trap, detail });
    let segments: Vec<&str> = segments(url.path()).collect();
    if segments.len() > spec.path_depth as usize {
        let (count, max) = (segments.len(), spec.path_depth);
        return found(Trap::PathDepth, format!("its path has {count} segments, at most {max}"));
    }
    if let Some((what, times)) = repeated(&segments, spec.path_repeats as usize) {
        let max = spec.path_repeats;
        let detail =
            format!("its path has /{} {times} times in a row, at most {max}", what.join("/"));
        return found(Trap::PathRepeats, detail);
    }
    if let Some(query) = url.query() {
        let mut keys: HashMap<&str, u32> = HashMap::new();
        for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
            *keys.entry(name_and_value(parameter).0).or_default() += 1;
        }
        if keys.len() > spec.query_keys as usize {
            let (count, max) = (keys.len(), spec.query_keys);
            return found(Trap::QueryKeys, format!("its query has {count} keys, at most {max}"));
        }
        let most = keys.iter().map(|(key, times)| (*times, *key)).max();
        if let Some((times, key)) = most.filter(|(times, _)| *times > spec.key_repeats) {
            let max = spec.key_repeats;
            let detail = format!("its query has the key {key} {times} times, at most {max}");
            return found(Trap::KeyRepeats, detail);
        }
    }
    if !url.path_and_query().bytes().any(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let (first, last) = spec.years;
    let year = Shape::of(url).years.into_iter().find(|year| !(first..=last).contains(year));
    year.and_then(|year| {
        found(Trap::Calendar, format!("it has a date in {year}, not in {first} to {last}"))
    })
}

fn segments(path: &str) -> impl Iterator<Item = &str> {
    path.split('/').filter(|segment| !segment.is_empty())
}

/// The shortest run of segments that stands more than `max` times in a row, and how
/// often.
fn repeated<'s, 'p>(segments: &'s [&'p str], max: usize) -> Option<(&'s [&'p str], usize)> {
    let longest = segments.len() / (max + 1);
    (1..=longest).find_map(|length| {
        (0..=segments.len() - length * (max + 1)).find_map(|start| {
            let run = &segments[start..start + length];
            let times =
                segments[start..].chunks_exact(length).take_while(|other| *other == run).count();
            (times > max).then_some((run, times))
        })
    })
}

/// What URLs of a host have in common that differ in what endless webs count up:
/// numbers, ids and dates in the path, and all of the query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    /// Names its count among those of a host.
    pub key: u64,
    /// For people.
    pub text: String,
    /// Whether all its pages count, also those that bring something new: sessions and
    /// combinations of many parameters have no end at any content.
    pub counts_all: bool,
}

impl Template {
    /// The template of a URL; none if nothing in it varies.
    pub fn of(url: &CrawlUrl) -> Option<Self> {
        let shape = Shape::of(url);
        let (text, counts_all) = match (shape.has_session, shape.is_varied) {
            // A page of whatever path, once for each session.
            (true, _) => ("{any page}?{session}".to_owned(), true),
            (false, true) => (shape.text, shape.counts_all),
            (false, false) => return None,
        };
        let id = UrlId::of(&text).0;
        let key = id[..8].iter().fold(0, |key, byte| key << 8 | u64::from(*byte));
        Some(Self { key, text, counts_all })
    }

    /// The key of all templates of a host beyond those that are counted each by itself.
    pub const REST: u64 = 0;
}

/// Parameters of a query from which on all combinations count.
const COMBINED_KEYS: usize = 3;

/// A URL's parts, as far as they vary.
#[derive(Default)]
struct Shape {
    text: String,
    is_varied: bool,
    counts_all: bool,
    has_session: bool,
    years: Vec<u16>,
    /// Where the text's first date in the path ends.
    date_end: Option<usize>,
}

impl Shape {
    fn of(url: &CrawlUrl) -> Self {
        let mut shape = Self::default();
        let bare = without_session(url.path());
        shape.has_session = bare.is_some();
        shape.path(bare.as_deref().unwrap_or(url.path()));
        if let Some(query) = url.query() {
            shape.query(query);
        }
        shape
    }

    fn path(&mut self, path: &str) {
        let mut segments = path.split('/').peekable();
        // Before the first slash is nothing.
        segments.next();
        while let Some(segment) = segments.next() {
            self.text.push('/');
            let month = segments.peek().copied().and_then(month);
            if let (Some(year), Some(_)) = (year(segment), month) {
                segments.next();
                segments.next_if(|day| number_up_to(day, 31).is_some());
                self.date(year);
            } else {
                self.words(segment);
            }
        }
        // Below a date stands what is of that day: a journal's titles make no kinds.
        if let Some(end) = self.date_end {
            let below = self.text.split_off(end);
            self.text.push_str(match below.chars().next() {
                None => "",
                Some('/') => "/*",
                Some(_) => "*",
            });
        }
    }

    fn query(&mut self, query: &str) {
        self.is_varied = true;
        let (mut year_of, mut has_month, mut keys) = (None, false, 0);
        for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
            let (key, value) = name_and_value(parameter);
            keys += 1;
            self.has_session |= is_session_parameter(key, value);
            let is_key = |names: &[&str]| names.iter().any(|name| key.eq_ignore_ascii_case(name));
            if is_key(&["year", "y", "yr"]) {
                year_of = year(value).or(year_of);
            }
            has_month |= is_key(&["month", "m", "mon", "week", "day"]);
            if let Some((year, _)) = date(value) {
                self.years.push(year);
            }
        }
        if let Some(year) = year_of.filter(|_| has_month) {
            self.years.push(year);
        }
        self.counts_all |= keys >= COMBINED_KEYS;
        self.text.push_str("?*");
    }

    /// A segment of a path, its words apart.
    fn words(&mut self, segment: &str) {
        let mut rest = segment;
        while let Some(first) = rest.chars().next() {
            if let Some((year, length)) = date(rest) {
                self.date(year);
                rest = &rest[length..];
                continue;
            }
            let is_word = |c: char| c.is_ascii_alphanumeric();
            let end = if is_word(first) {
                rest.find(|c| !is_word(c)).unwrap_or(rest.len())
            } else {
                first.len_utf8()
            };
            let (word, after) = rest.split_at(end);
            self.word(word);
            rest = after;
        }
    }

    fn word(&mut self, word: &str) {
        let has_digit = word.bytes().any(|byte| byte.is_ascii_digit());
        if !has_digit {
            return self.text.push_str(word);
        }
        self.is_varied = true;
        if is_id(word) {
            return self.text.push_str("{id}");
        }
        let mut was_digit = false;
        for c in word.chars() {
            let is_digit = c.is_ascii_digit();
            match (is_digit, was_digit) {
                (true, false) => self.text.push_str("{n}"),
                (true, true) => {}
                (false, _) => self.text.push(c),
            }
            was_digit = is_digit;
        }
    }

    fn date(&mut self, year: u16) {
        self.text.push_str("{date}");
        self.is_varied = true;
        self.date_end.get_or_insert(self.text.len());
        self.years.push(year);
    }
}

/// Whether a word with digits is no name with a number: letters and digits change
/// more than once, or it is a long hexadecimal number.
fn is_id(word: &str) -> bool {
    const HEX_CHARS_MIN: usize = 8;
    let kinds = word.as_bytes().windows(2);
    let changes = kinds.filter(|pair| pair[0].is_ascii_digit() != pair[1].is_ascii_digit()).count();
    let is_hex = word.len() >= HEX_CHARS_MIN && word.bytes().all(|byte| byte.is_ascii_hexdigit());
    changes > 2 || (changes > 0 && is_hex)
}

/// A year of four digits.
fn year(text: &str) -> Option<u16> {
    let is_year = text.len() == 4 && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| is_year)
}

fn month(text: &str) -> Option<u8> {
    number_up_to(text, 12)
}

/// A number of one or two digits from 1 up to `max`.
fn number_up_to(text: &str, max: u8) -> Option<u8> {
    let is_number = matches!(text.len(), 1 | 2) && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|number| is_number && (1..=max).contains(number))
}

/// The year and the length of a date that a text begins with: `2031-05`, `2031-05-17`,
/// with `_` or `.` for `-`, or `20310517`.
fn date(text: &str) -> Option<(u16, usize)> {
    let year = year(text.get(..4)?)?;
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    if digits == 8 {
        let day = number_up_to(text.get(6..8)?, 31);
        let is_known = (1_000..=2_999).contains(&year);
        return (month(text.get(4..6)?).is_some() && day.is_some() && is_known)
            .then_some((year, 8));
    }
    let mark = *text.as_bytes().get(4)?;
    if digits != 4 || !matches!(mark, b'-' | b'_' | b'.') {
        return None;
    }
    month(text.get(5..7)?)?;
    let day = text.get(8..10).filter(|_| text.as_bytes().get(7) == Some(&mark));
    let length = if day.and_then(|day| number_up_to(day, 31)).is_some() { 10 } else { 7 };
    // A number that goes on is none of a date.
    let ends = text.as_bytes().get(length).is_none_or(|byte| !byte.is_ascii_digit());
    ends.then_some((year, length))
}

/// Bits in which the fingerprints of two pages differ at most that are nearly the same.
const ALIKE_BITS: u32 = 3;

/// The fingerprint of a page with hardly any text: such pages have nothing new.
pub const THIN: u64 = 0;

/// Whether two pages are nearly the same by their fingerprints.
pub fn are_alike(a: u64, b: u64) -> bool {
    (a ^ b).count_ones() <= ALIKE_BITS
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn kind(url: &str) -> Option<Trap> {
        caught(&url.parse().unwrap(), &TrapSpec::default()).map(|caught| caught.trap)
    }

    #[test]
    fn urls_that_no_person_would_write_are_caught() {
        let deep = |segments: usize| -> String {
            let path: String = (0..segments).map(|n| format!("/x{n}")).collect();
            format!("http://h.test{path}")
        };
        for (url, want) in [
            ("http://h.test/a/a/b", None),
            ("http://h.test/a/a/a", Some(Trap::PathRepeats)),
            ("http://h.test/x/a/b/a/b/y", None),
            ("http://h.test/x/a/b/a/b/a/b/y", Some(Trap::PathRepeats)),
            ("http://h.test/infra/www/infra/www/infra/www/", Some(Trap::PathRepeats)),
            ("http://h.test/a/b/a/c/a/d", None),
            ("http://h.test/?a&b&c&d&e&f&g&h=1&h=2", None),
            ("http://h.test/?a&b&c&d&e&f&g&h&i", Some(Trap::QueryKeys)),
            ("http://h.test/?t=1&t=2&t=3", None),
            ("http://h.test/?t=1&t=2&t=3&t=4", Some(Trap::KeyRepeats)),
            ("http://h.test/cal/2031/05/17", None),
            ("http://h.test/cal/2101/05", Some(Trap::Calendar)),
            ("http://h.test/cal/0999-12-31", Some(Trap::Calendar)),
            ("http://h.test/cal?year=2500&month=1", Some(Trap::Calendar)),
            ("http://h.test/item?year=2500", None),
            ("http://h.test/item/2500", None),
            ("http://h.test/2031/05/a/2500-01", Some(Trap::Calendar)),
            ("http://h.test/item/25001231", Some(Trap::Calendar)),
            (&deep(20), None),
            (&deep(21), Some(Trap::PathDepth)),
        ] {
            assert_eq!(kind(url), want, "{url}");
        }
        let off = TrapSpec { enabled: false, ..TrapSpec::default() };
        assert_eq!(caught(&"http://h.test/a/a/a/a".parse().unwrap(), &off), None);
    }

    #[test]
    fn what_was_caught_says_what_shows_it() {
        let url = "http://h.test/x/a/b/a/b/a/b/y".parse().unwrap();
        let caught = caught(&url, &TrapSpec::default()).unwrap();
        assert_eq!(caught.detail, "its path has /a/b 3 times in a row, at most 2");
    }

    #[test]
    fn a_template_is_what_stays_when_endless_webs_count_up() {
        for (url, want) in [
            ("http://h.test/about/team", None),
            ("http://h.test/item/17", Some(("/item/{n}", false))),
            ("http://h.test/page12.html", Some(("/page{n}.html", false))),
            ("http://h.test/x/9f86d081884c7d65", Some(("/x/{id}", false))),
            ("http://h.test/x/a1b2c3", Some(("/x/{id}", false))),
            ("http://h.test/a-tale_7/", Some(("/a-tale_{n}/", false))),
            ("http://h.test/2031/05/17/a-talk", Some(("/{date}/*", false))),
            ("http://h.test/2031/05/17/", Some(("/{date}/*", false))),
            ("http://h.test/blog/2031/05/a/2030-01-02", Some(("/blog/{date}/*", false))),
            ("http://h.test/cal/2031-05", Some(("/cal/{date}", false))),
            ("http://h.test/cal/day-20310517.html", Some(("/cal/day-{date}*", false))),
            ("http://h.test/list?page=2", Some(("/list?*", false))),
            ("http://h.test/list?sort=a&page=2", Some(("/list?*", false))),
            ("http://h.test/list?sort=a&page=2&c=red", Some(("/list?*", true))),
            ("http://h.test/cal?date=2031-05-17", Some(("/cal?*", false))),
            ("http://h.test/cal?year=2031&month=5", Some(("/cal?*", false))),
            ("http://h.test/a?PHPSESSID=1", Some(("{any page}?{session}", true))),
            ("http://h.test/b;jsessionid=1", Some(("{any page}?{session}", true))),
        ] {
            let template = Template::of(&url.parse().unwrap());
            let got = template.as_ref().map(|it| (it.text.as_str(), it.counts_all));
            assert_eq!(got, want, "{url}");
        }
    }

    #[test]
    fn limits_that_cannot_be_are_named() {
        let error = |spec: TrapSpec| spec.validate().unwrap_err().to_string();
        let none = TrapSpec { path_depth: 0, ..TrapSpec::default() };
        assert!(error(none).contains("traps.path_depth"));
        let years = TrapSpec { years: (2000, 1999), ..TrapSpec::default() };
        assert!(error(years).contains("traps.years"));
    }

    proptest! {
        #[test]
        fn whatever_a_url_is_it_can_be_judged(tail in "[-a-c0-9/._?&=;%()SPé]{0,60}") {
            if let Ok(url) = CrawlUrl::parse(&format!("http://h.test/{tail}")) {
                caught(&url, &TrapSpec::default());
                Template::of(&url);
            }
        }
    }
}
