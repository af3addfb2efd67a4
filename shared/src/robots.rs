//! What a robots.txt allows (RFC 9309), and the line that says so.
//!
//! Fetching is the worker's affair; here a file's bytes become rules, and rules
//! judge a URL. Both sides of trawl and its command line ask the same function,
//! so that what is explained is what was done. Where the RFC is silent, Google's
//! published parser and its test cases are followed, since that is what owners
//! check their files against.
//!
//! Percent-escapes are read in two ways, and a URL is allowed only if both allow
//! it. The RFC has `%7E` and `~` mean the same; Google's cases, and most crawlers,
//! compare them as they are written. An owner may have meant either.

use std::{cmp::Reverse, fmt, time::Duration};

use crate::{untrusted::Untrusted, url::CrawlUrl};

/// Bytes of a robots.txt that are read; RFC 9309 asks for no less.
pub const BYTES_MAX: usize = 500 * 1024;

/// Bytes of the longest line; the rest of a longer one is not read. Google's
/// parser cuts at the same place: eight times a browser's longest URL.
const LINE_BYTES_MAX: usize = 8 * 2_083 - 1;

/// The longest delay that a host may ask for.
const DELAY_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// Sitemaps of one file at most; those named after them are not read.
pub const SITEMAPS_MAX: usize = 1_000;

/// The rules that one robots.txt has for one crawler.
///
/// Made in time and memory proportional to the file. Judging a URL takes time
/// proportional to the rules' bytes plus the number of rules times the path's
/// bytes, whatever the patterns are: each piece between two `*` is searched for
/// once, in linear time, and never again further left.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// Whose group applies: the crawler's own name as it was asked for, `*`, or
    /// nobody's.
    agent: Option<String>,
    rules: Vec<Rule>,
    /// The patterns with their escapes as they are written.
    written: Vec<Pattern>,
    /// The patterns with their escapes as the RFC has them, if any differs.
    decoded: Option<Vec<Pattern>>,
    crawl_delay: Option<Duration>,
    sitemaps: Vec<CrawlUrl>,
}

/// A line of a robots.txt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Its number; the first is 1.
    pub number: u32,
    /// Its text, without comment and surrounding space.
    pub text: Untrusted<String>,
}

/// What the rules say of a URL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict<'a> {
    /// Whether it may be fetched.
    pub allowed: bool,
    /// The line that decided; none if no rule matched.
    pub line: Option<&'a Line>,
    /// Whose group applied: the crawler's product token, `*`, or nobody's.
    pub agent: Option<&'a str>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Rule {
    allows: bool,
    line: Line,
}

/// A rule's pattern. Those of a list are sorted: the first that matches decides.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Pattern {
    text: String,
    /// Index of its rule.
    rule: usize,
}

/// The rules of the groups that speak to the crawler, or to everyone.
#[derive(Default)]
struct Group {
    is_named: bool,
    rules: Vec<(Rule, String)>,
    crawl_delay: Option<Duration>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Key {
    UserAgent,
    Allow,
    Disallow,
    CrawlDelay,
    Sitemap,
}

impl fmt::Display for Verdict<'_> {
    /// The line that decided, such as `line 3: Disallow: /p (for *)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => {
                let agent = Untrusted::new(self.agent.unwrap_or("*"));
                write!(f, "line {}: {} (for {agent})", line.number, line.text)
            }
            None => f.write_str("no rule matches"),
        }
    }
}

impl Rules {
    /// The rules of `text` for the crawler of that product token, such as `trawl`;
    /// for a name with other characters than letters, `-` and `_`, those for
    /// everyone. Any bytes are a robots.txt, if perhaps one without rules.
    pub fn parse(text: &[u8], product_token: &str) -> Self {
        let (mut own, mut all) = (Group::default(), Group::default());
        let (mut in_own, mut in_all, mut has_rules) = (false, false, false);
        let mut sitemaps: Vec<CrawlUrl> = Vec::new();
        for (number, line) in lines(text) {
            let Some((key, value)) = key_and_value(line) else { continue };
            match key {
                Key::UserAgent => {
                    if has_rules {
                        (in_own, in_all, has_rules) = (false, false, false);
                    }
                    if is_everyone(value) {
                        (in_all, all.is_named) = (true, true);
                    } else if is_token(product_token)
                        && token(value).eq_ignore_ascii_case(product_token.as_bytes())
                    {
                        (in_own, own.is_named) = (true, true);
                    }
                }
                Key::Allow | Key::Disallow if in_own || in_all => {
                    has_rules = true;
                    let group = if in_own { &mut own } else { &mut all };
                    group.add(key == Key::Allow, number, line, value);
                }
                Key::CrawlDelay if in_own || in_all => {
                    let group = if in_own { &mut own } else { &mut all };
                    group.crawl_delay = group.crawl_delay.max(seconds(value));
                }
                Key::Sitemap if sitemaps.len() < SITEMAPS_MAX => {
                    let url = str::from_utf8(value).ok().and_then(|url| url.parse().ok());
                    sitemaps.extend(url.filter(|url| !sitemaps.contains(url)));
                }
                Key::Allow | Key::Disallow | Key::CrawlDelay | Key::Sitemap => {}
            }
        }
        let (agent, group) = match (own.is_named, all.is_named) {
            (true, _) => (Some(product_token.to_owned()), own),
            (false, true) => (Some("*".to_owned()), all),
            (false, false) => (None, Group::default()),
        };
        Self { agent, sitemaps, ..Self::of(group) }
    }

    fn of(group: Group) -> Self {
        let mut rules = Vec::with_capacity(group.rules.len());
        let (mut written, mut decoded) = (Vec::new(), Vec::new());
        let mut differs = false;
        for (index, (rule, pattern)) in group.rules.into_iter().enumerate() {
            let mut texts = vec![pattern];
            // As Google has it: who allows a directory's index allows the directory.
            if rule.allows
                && let Some((directory, file)) = texts[0].rsplit_once('/')
                && file.starts_with("index.htm")
            {
                texts.push(format!("{directory}/$"));
            }
            for text in texts {
                let other = decode_pattern(&text);
                differs |= other != text;
                decoded.push(Pattern { text: other, rule: index });
                written.push(Pattern { text, rule: index });
            }
            rules.push(rule);
        }
        for patterns in [&mut written, &mut decoded] {
            // The longest wins; of two as long the one that allows, then the first.
            patterns.sort_by_key(|pattern| {
                (Reverse(pattern.text.len()), !rules[pattern.rule].allows, pattern.rule)
            });
        }
        let decoded = differs.then_some(decoded);
        let crawl_delay = group.crawl_delay;
        Self { agent: None, rules, written, decoded, crawl_delay, sitemaps: Vec::new() }
    }

    /// The rules of a host that has none.
    pub fn allow_all() -> Self {
        Self::default()
    }

    /// What the rules say of a URL of their host.
    pub fn verdict(&self, url: &CrawlUrl) -> Verdict<'_> {
        self.verdict_of_path(url.path_and_query())
    }

    /// What the rules say of a path and query, which begin with a slash and are
    /// taken as they are written. [`Rules::verdict`] is for what a crawl fetches;
    /// this is for what a person asks about.
    pub fn verdict_of_path(&self, path: &str) -> Verdict<'_> {
        let agent = self.agent.as_deref();
        let none = Verdict { allowed: true, line: None, agent };
        if path == "/robots.txt" {
            return none;
        }
        let judge = |patterns: &[Pattern], path: &str| {
            let pattern = patterns.iter().find(|pattern| matches(&pattern.text, path))?;
            self.rules.get(pattern.rule)
        };
        let mut rule = judge(&self.written, path);
        if rule.is_none_or(|rule| rule.allows) {
            let other = decode_path(path);
            if self.decoded.is_some() || other != path {
                let second = judge(self.decoded.as_ref().unwrap_or(&self.written), &other);
                rule = match second {
                    Some(second) if !second.allows => Some(second),
                    second => rule.or(second),
                };
            }
        }
        rule.map_or(none, |rule| Verdict { allowed: rule.allows, line: Some(&rule.line), agent })
    }

    /// Whether a URL of the rules' host may be fetched.
    pub fn allowed(&self, url: &CrawlUrl) -> bool {
        self.verdict(url).allowed
    }

    /// The wait between two fetches that the host asks for, at most a day: the
    /// longest, if it asks more than once.
    pub fn crawl_delay(&self) -> Option<Duration> {
        self.crawl_delay
    }

    /// The sitemaps that the file names, which may be other hosts'. No more than a
    /// thousand.
    pub fn sitemaps(&self) -> &[CrawlUrl] {
        &self.sitemaps
    }

    /// About how many bytes of memory the rules take.
    pub fn weight(&self) -> usize {
        let patterns = self.written.iter().chain(self.decoded.iter().flatten());
        let patterns: usize =
            patterns.map(|pattern| pattern.text.len() + size_of::<Pattern>()).sum();
        let rules: usize =
            self.rules.iter().map(|rule| rule.line.text.raw().len() + size_of::<Rule>()).sum();
        let sitemaps: usize =
            self.sitemaps.iter().map(|url| url.as_str().len() + size_of::<CrawlUrl>()).sum();
        size_of::<Self>() + patterns + rules + sitemaps
    }
}

impl Group {
    fn add(&mut self, allows: bool, number: u32, line: &[u8], value: &[u8]) {
        // An empty pattern forbids nothing, and there is nothing else to allow.
        if !value.is_empty() {
            let text = String::from_utf8_lossy(line).into_owned().into();
            self.rules.push((Rule { allows, line: Line { number, text } }, written(value)));
        }
    }
}

/// The part of a file that is read: its first [`BYTES_MAX`], up to a line's end if
/// there is more, or if the file is cut already. Half a line would be another rule.
pub fn read_part(text: &[u8], is_cut: bool) -> &[u8] {
    let part = &text[..text.len().min(BYTES_MAX)];
    match is_cut || part.len() < text.len() {
        true => &part[..part.iter().rposition(|byte| is_line_end(*byte)).unwrap_or(0)],
        false => part,
    }
}

/// The product token that a user-agent string such as `mybot/2.1 (+https://…)`
/// begins with: letters, `-` and `_`. Empty if it begins with something else, which is
/// nobody's token.
pub fn product_token(agent: &str) -> &str {
    &agent[..token(agent.as_bytes()).len()]
}

/// Path and query of a URL that a person wrote, as they stand there: no escape is
/// added, removed or changed. `/` if there is none. The scheme may be missing.
pub fn path_as_written(url: &str) -> String {
    let url = url.split('#').next().unwrap_or_default();
    let url = url.strip_prefix("//").unwrap_or(url);
    let after = match url.split_once("://") {
        Some((scheme, after)) if !scheme.contains(['/', '?', ';']) => after,
        _ => url,
    };
    match after.find(['/', '?', ';']) {
        Some(at) if after[at..].starts_with('/') => after[at..].to_owned(),
        Some(at) => format!("/{}", &after[at..]),
        None => "/".to_owned(),
    }
}

/// The lines with their numbers, without comment and surrounding space. A line ends
/// at CR, LF, both, or a NUL, which no line has; the file may begin with a byte
/// order mark, or with as much of one as an editor left.
fn lines(text: &[u8]) -> impl Iterator<Item = (u32, &[u8])> {
    let mark = b"\xef\xbb\xbf";
    let marked = mark.iter().zip(text).take_while(|(mark, byte)| mark == byte).count();
    let mut rest = Some(&text[marked..]);
    let lines = std::iter::from_fn(move || {
        let text = rest?;
        let end = text.iter().position(|byte| is_line_end(*byte));
        let (line, after) = text.split_at(end.unwrap_or(text.len()));
        rest = match after {
            [b'\r', b'\n', after @ ..] | [_, after @ ..] => Some(after),
            [] => None,
        };
        let line = &line[..line.len().min(LINE_BYTES_MAX)];
        let comment = line.iter().position(|byte| *byte == b'#');
        Some(line[..comment.unwrap_or(line.len())].trim_ascii())
    });
    (1..).zip(lines)
}

const fn is_line_end(byte: u8) -> bool {
    matches!(byte, b'\n' | b'\r' | 0)
}

/// What a line says, if it is one that is known. The colon may be missing if there
/// are two words.
fn key_and_value(line: &[u8]) -> Option<(Key, &[u8])> {
    let is_space = |byte: &u8| matches!(byte, b' ' | b'\t');
    let (key, value) = match line.iter().position(|byte| *byte == b':') {
        Some(at) => (&line[..at], &line[at + 1..]),
        None => {
            let (key, value) = line.split_at(line.iter().position(is_space)?);
            let value = value.trim_ascii();
            (!value.iter().any(is_space)).then_some((key, value))?
        }
    };
    Some((Key::of(key.trim_ascii_end())?, value.trim_ascii()))
}

impl Key {
    /// Reads a key as Google's parser does: whatever case, with the slips of the pen
    /// that are often seen, and with anything after it.
    fn of(key: &[u8]) -> Option<Self> {
        const KEYS: [(&str, Key); 15] = [
            ("user-agent", Key::UserAgent),
            ("useragent", Key::UserAgent),
            ("user agent", Key::UserAgent),
            ("allow", Key::Allow),
            ("disallow", Key::Disallow),
            ("dissallow", Key::Disallow),
            ("dissalow", Key::Disallow),
            ("disalow", Key::Disallow),
            ("diasllow", Key::Disallow),
            ("disallaw", Key::Disallow),
            ("crawl-delay", Key::CrawlDelay),
            ("crawldelay", Key::CrawlDelay),
            ("crawl delay", Key::CrawlDelay),
            ("sitemap", Key::Sitemap),
            ("site-map", Key::Sitemap),
        ];
        let begins = |name: &str| {
            key.get(..name.len()).is_some_and(|start| start.eq_ignore_ascii_case(name.as_bytes()))
        };
        KEYS.into_iter().find(|(name, _)| begins(name)).map(|(_, key)| key)
    }
}

/// Whether a User-agent line speaks to everyone: by a `*` that stands alone, or with
/// words after it.
fn is_everyone(value: &[u8]) -> bool {
    matches!(value, [b'*', rest @ ..] if rest.first().is_none_or(u8::is_ascii_whitespace))
}

/// The product token that a User-agent line begins with: `MyBot` of `MyBot/1.0`.
fn token(value: &[u8]) -> &[u8] {
    let end = value.iter().position(|byte| !is_token_byte(*byte)).unwrap_or(value.len());
    &value[..end]
}

fn is_token(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(is_token_byte)
}

fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphabetic() || matches!(byte, b'-' | b'_')
}

/// A Crawl-delay's seconds, which may have a fraction.
fn seconds(value: &[u8]) -> Option<Duration> {
    let seconds: f64 = str::from_utf8(value).ok()?.parse().ok()?;
    let is_delay = seconds.is_finite() && seconds >= 0.0;
    is_delay.then(|| Duration::from_secs_f64(seconds.min(DELAY_MAX.as_secs_f64())))
}

/// Whether a path begins as the pattern says: `*` stands for any bytes, and a `$` at
/// the end for the path's end.
fn matches(pattern: &str, path: &str) -> bool {
    let (pattern, is_whole) = match pattern.strip_suffix('$') {
        Some(pattern) => (pattern, true),
        None => (pattern, false),
    };
    let Some((first, rest)) = pattern.split_once('*') else {
        return if is_whole { path == pattern } else { path.starts_with(pattern) };
    };
    let Some(mut left) = path.strip_prefix(first) else { return false };
    // The leftmost place of each piece leaves most to the pieces after it. The last
    // piece stands at the end, if the pattern says so.
    let (middle, last) = rest.rsplit_once('*').unwrap_or(("", rest));
    for piece in middle.split('*') {
        let Some(at) = left.find(piece) else { return false };
        left = &left[at + piece.len()..];
    }
    if is_whole { left.ends_with(last) } else { left.contains(last) }
}

/// A pattern as it is written: what is not ASCII is escaped, and escapes are in
/// capitals.
fn written(value: &[u8]) -> String {
    let mut text = String::with_capacity(value.len());
    for octet in octets(value) {
        match octet {
            Octet::Escaped(byte) => escape(&mut text, byte),
            Octet::Plain(byte) if byte.is_ascii() => text.push(char::from(byte)),
            Octet::Plain(byte) => escape(&mut text, byte),
        }
    }
    text
}

/// A path as RFC 9309 compares it (section 2.2.2).
fn decode_path(path: &str) -> String {
    decode(path.as_bytes(), |text, byte| match byte {
        b'*' | b'$' => escape(text, byte),
        _ => text.push(char::from(byte)),
    })
}

/// Likewise a pattern, whose `*` and last `$` stay what they mean.
fn decode_pattern(pattern: &str) -> String {
    let (body, end) = match pattern.strip_suffix('$') {
        Some(body) => (body, "$"),
        None => (pattern, ""),
    };
    let text = decode(body.as_bytes(), |text, byte| match byte {
        b'$' => escape(text, byte),
        _ => text.push(char::from(byte)),
    });
    text + end
}

/// Escapes what is not ASCII and what no URL has unescaped (the URL standard's percent-encode
/// sets of path and query), and unescapes what needs no escape: unreserved characters, and
/// in a query those that part paths and hosts. `plain` writes the characters that are not
/// escaped.
fn decode(text: &[u8], plain: impl Fn(&mut String, u8)) -> String {
    let mut decoded = String::with_capacity(text.len());
    let mut in_query = false;
    for octet in octets(text) {
        match octet {
            Octet::Plain(byte) if byte.is_ascii() && !is_always_escaped(byte, in_query) => {
                in_query |= byte == b'?';
                plain(&mut decoded, byte);
            }
            Octet::Escaped(byte)
                if byte.is_ascii_alphanumeric()
                    || b"-._~".contains(&byte)
                    || in_query && b":/?@".contains(&byte) =>
            {
                decoded.push(char::from(byte));
            }
            Octet::Escaped(byte) | Octet::Plain(byte) => escape(&mut decoded, byte),
        }
    }
    decoded
}

const fn is_always_escaped(byte: u8, in_query: bool) -> bool {
    match byte {
        b' ' | b'"' | b'<' | b'>' => true,
        b'\'' => in_query,
        b'^' | b'`' | b'{' | b'}' => !in_query,
        _ => false,
    }
}

enum Octet {
    Plain(u8),
    Escaped(u8),
}

fn octets(mut text: &[u8]) -> impl Iterator<Item = Octet> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    std::iter::from_fn(move || {
        if let [b'%', high, low, rest @ ..] = text
            && let (Some(high), Some(low)) = (digit(*high), digit(*low))
        {
            text = rest;
            return Some(Octet::Escaped(high << 4 | low));
        }
        let (byte, rest) = text.split_first()?;
        text = rest;
        Some(Octet::Plain(*byte))
    })
}

fn escape(text: &mut String, byte: u8) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    text.push('%');
    text.push(char::from(DIGITS[usize::from(byte >> 4)]));
    text.push(char::from(DIGITS[usize::from(byte & 15)]));
}

#[cfg(test)]
mod google;

#[cfg(test)]
mod tests;
