//! Traps: webs of endless pages, made by mistake or on purpose.
//!
//! Some can be told by one URL alone ([`caught`]): paths and queries that no person
//! would write, as links that are relative where they should not be bring them forth.
//! Others only by how many there are: [`Template`] is what is left of a URL without
//! the parts that such webs count up, and a host's pages of one template have a
//! budget; so have the hosts of one registrable domain, which a name server can make
//! without end. The master judges; what is caught goes to quarantine, where people see
//! it and may let it out.

use std::collections::{BTreeSet, HashMap};

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
    /// Pages of a host at most that bring nothing new and whose URLs have nothing that
    /// varies, so that they are of no kind.
    pub plain_pages: u64,
    /// Templates of a host that are counted each by itself; further ones are counted
    /// together.
    pub templates: u32,
    /// Hosts of one registrable domain that a page was fetched of, after which no further
    /// one is taken in.
    pub domain_hosts: u64,
    /// Hosts of one registrable domain at most whose first text brings nothing new.
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
            plain_pages: 10_000,
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
            ("traps.plain_pages", self.plain_pages),
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
    let shape = Shape::of(url);
    let year = shape.sure_years().find(|year| !(first..=last).contains(year));
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
/// numbers, ids and dates in the path, and the values of the query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    /// Names its count among those of a host.
    pub key: u64,
    /// For people.
    pub text: String,
    /// Whether all its pages count, also those that bring something new: sessions have no
    /// end at any content.
    pub counts_all: bool,
    /// Of a URL with many parameters, the template of all combinations of its path's: a
    /// few sets of parameters are those of a program, and each is a template of its own;
    /// many sets are filters, whose combinations have no end at any content either.
    pub combined: Option<Box<Self>>,
}

impl Template {
    /// The template of a URL. Those in which nothing varies are all of one.
    pub fn of(url: &CrawlUrl) -> Self {
        let shape = Shape::of(url);
        let text = match (shape.has_session, shape.is_varied) {
            // A page of whatever path, once for each session.
            (true, _) => return Self::new("{any page}?{session}".to_owned(), true),
            (false, true) => shape.text,
            (false, false) => {
                let text = "{no numbers}".to_owned();
                return Self { key: Self::PLAIN, text, counts_all: false, combined: None };
            }
        };
        if shape.keys.len() < COMBINED_KEYS {
            return Self::new(
                format!("{text}{}", if shape.keys.is_empty() { "" } else { "?*" }),
                false,
            );
        }
        let set: Vec<&str> = shape.keys.iter().map(String::as_str).collect();
        let own = Self::new(format!("{text}?{}", set.join("&")), false);
        let combined = Some(Box::new(Self::new(format!("{text}?**"), true)));
        Self { combined, ..own }
    }

    fn new(text: String, counts_all: bool) -> Self {
        let id = UrlId::of(&text).0;
        let key = id[..8].iter().fold(0, |key, byte| key << 8 | u64::from(*byte));
        Self { key, text, counts_all, combined: None }
    }

    /// The key of all templates of a host beyond those that are counted each by itself.
    pub const REST: u64 = 0;

    /// The key of the template of URLs in which nothing varies.
    pub const PLAIN: u64 = 1;

    /// Sets of parameters of one path that are templates by themselves; beyond, all
    /// combinations count.
    pub const SETS_MAX: usize = 20;
}

/// Different parameters of a query from which on it is one of a set of its own.
const COMBINED_KEYS: usize = 3;

/// A URL's parts, as far as they vary.
#[derive(Default)]
struct Shape {
    text: String,
    is_varied: bool,
    /// The names of the query's parameters.
    keys: BTreeSet<String>,
    has_session: bool,
    /// Whether something of it speaks of dates.
    has_calendar_word: bool,
    /// Years of dates, and whether each has a day, or parameters that name it.
    years: Vec<(u16, bool)>,
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
                let day = segments.next_if(|day| number_up_to(day, 31).is_some());
                self.date(year, day.is_some());
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
        let (mut year_of, mut has_month) = (None, false);
        for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
            let (key, value) = name_and_value(parameter);
            // A short value is a number of something else, such as a talk's.
            self.has_session |=
                is_session_parameter(key, value) && value.len() >= SESSION_CHARS_MIN;
            self.has_calendar_word |= is_calendar_word(key);
            self.keys.insert(key.to_ascii_lowercase());
            let is_key = |names: &[&str]| names.iter().any(|name| key.eq_ignore_ascii_case(name));
            if is_key(&["year", "y", "yr"]) {
                year_of = year(value).or(year_of);
            }
            has_month |= is_key(&["month", "m", "mon", "week", "day"]);
            if let Some((year, length)) = date(value) {
                self.years.push((year, length == FULL_DATE_CHARS));
            }
        }
        if let Some(year) = year_of.filter(|_| has_month) {
            self.years.push((year, true));
        }
    }

    /// A segment of a path, its words apart.
    fn words(&mut self, segment: &str) {
        let mut rest = segment;
        while let Some(first) = rest.chars().next() {
            if let Some((year, length)) = date(rest) {
                self.date(year, length == FULL_DATE_CHARS);
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
        self.has_calendar_word |= is_calendar_word(word);
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

    fn date(&mut self, year: u16, has_day: bool) {
        self.text.push_str("{date}");
        self.is_varied = true;
        self.date_end.get_or_insert(self.text.len());
        self.years.push((year, has_day));
    }

    /// Years of what is surely a date: ids and house numbers look like months, too.
    fn sure_years(&self) -> impl Iterator<Item = u16> {
        let sure = self.years.iter().filter(|(_, is_full)| *is_full || self.has_calendar_word);
        sure.map(|(year, _)| *year)
    }
}

/// Bytes of a session's id at least.
const SESSION_CHARS_MIN: usize = 8;

/// Bytes of a date with a day, `2031-05-17`.
const FULL_DATE_CHARS: usize = 10;

/// Words that URLs of calendars have.
const CALENDAR_WORDS: [&str; 14] = [
    "agenda", "archive", "archives", "cal", "calendar", "date", "day", "event", "events",
    "kalender", "month", "schedule", "week", "year",
];

fn is_calendar_word(word: &str) -> bool {
    CALENDAR_WORDS.iter().any(|it| word.eq_ignore_ascii_case(it))
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

/// A year of four digits, in the millennia that calendars lead to.
fn year(text: &str) -> Option<u16> {
    let is_year = text.len() == 4 && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|year| is_year && (1_000..=2_999).contains(year))
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
        return (month(text.get(4..6)?).is_some() && day.is_some()).then_some((year, 8));
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
            ("http://h.test/cal/1899-12-31", Some(Trap::Calendar)),
            ("http://h.test/2101/05/17/", Some(Trap::Calendar)),
            ("http://h.test/on/2101-05-17", Some(Trap::Calendar)),
            ("http://h.test/?month=2101-05", Some(Trap::Calendar)),
            ("http://h.test/cal?year=2500&month=1", Some(Trap::Calendar)),
            ("http://h.test/item?year=2500", None),
            ("http://h.test/item/2500", None),
            ("http://h.test/2031/05/a/2500-01-01", Some(Trap::Calendar)),
            ("http://h.test/events/25001231", Some(Trap::Calendar)),
            // Numbers of other things.
            ("http://h.test/item/25001231", None),
            ("http://h.test/questions/11120930/how-to", None),
            ("http://h.test/news/world-12061130", None),
            ("http://h.test/view?id=21231105", None),
            ("http://h.test/topic/4711/2", None),
            ("http://h.test/s/2636/1/", None),
            ("http://h.test/wiki/ISO/IEC_8859-10", None),
            ("http://h.test/homes/1208-10th-ave", None),
            ("http://h.test/download/7601.12.exe", None),
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
            ("http://h.test/about/team", "{no numbers}"),
            ("http://h.test/item/17", "/item/{n}"),
            ("http://h.test/page12.html", "/page{n}.html"),
            ("http://h.test/x/9f86d081884c7d65", "/x/{id}"),
            ("http://h.test/x/a1b2c3", "/x/{id}"),
            ("http://h.test/a-tale_7/", "/a-tale_{n}/"),
            ("http://h.test/2031/05/17/a-talk", "/{date}/*"),
            ("http://h.test/2031/05/17/", "/{date}/*"),
            ("http://h.test/blog/2031/05/a/2030-01-02", "/blog/{date}/*"),
            ("http://h.test/cal/2031-05", "/cal/{date}"),
            ("http://h.test/cal/day-20310517.html", "/cal/day-{date}*"),
            ("http://h.test/topic/4711/2", "/topic/{n}/{n}"),
            ("http://h.test/list?page=2", "/list?*"),
            ("http://h.test/list?sort=a&page=2", "/list?*"),
            ("http://h.test/list?sort=a&page=2&c=red", "/list?c&page&sort"),
            ("http://h.test/cal?date=2031-05-17", "/cal?*"),
            ("http://h.test/cal?year=2031&month=5", "/cal?*"),
            ("http://h.test/talk?session_id=17", "/talk?*"),
            ("http://h.test/a?PHPSESSID=0123456789", "{any page}?{session}"),
            ("http://h.test/b;jsessionid=1", "{any page}?{session}"),
        ] {
            let template = Template::of(&url.parse().unwrap());
            assert_eq!(template.text, want, "{url}");
            assert_eq!(template.counts_all, want.contains("session"), "{url}");
            assert_eq!(template.key == Template::PLAIN, want == "{no numbers}", "{url}");
        }
    }

    #[test]
    fn sets_of_many_parameters_are_combinations_of_one_path() {
        let template = |url: &str| Template::of(&url.parse().unwrap());
        let one = template("http://h.test/shop?a=1&b=2&c=3");
        let same = template("http://h.test/shop?c=9&b=8&a=7&a=6");
        let other = template("http://h.test/shop?a=1&b=2&d=3");
        assert_eq!(one.key, same.key);
        assert_ne!(one.key, other.key);
        assert_eq!(one.combined, other.combined);
        let combined = one.combined.unwrap();
        assert!(combined.counts_all && combined.text == "/shop?**");
        assert_eq!(template("http://h.test/shop?a=1&b=2").combined, None);
        assert_ne!(template("http://h.test/buy?a=1&b=2&c=3").combined, other.combined);
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
