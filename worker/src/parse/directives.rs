//! What a page asks of robots: `<meta name=robots>` and X-Robots-Tag, in which
//! Google's documentation is the standard that everyone follows.
//!
//! A directive without a name is for everyone, and one with a name for the crawler
//! whose product token it is. All that are for us hold together. Words that nobody
//! has defined are passed over.

use http::HeaderMap;

/// Directives of a page that are kept.
const DIRECTIVES_MAX: usize = 32;

/// Characters of a directive that are kept.
const CHARS_MAX: usize = 100;

/// Bytes of a header or a `content` that are looked at.
const BYTES_MAX: usize = 4 * 1024;

/// Words that ask for something. `all`, `index` and `follow` ask for nothing.
const WORDS: [&str; 12] = [
    "noindex",
    "nofollow",
    "none",
    "noarchive",
    "nocache",
    "nosnippet",
    "noimageindex",
    "notranslate",
    "indexifembedded",
    "nositelinkssearchbox",
    "noai",
    "noimageai",
];

/// Words that a value follows.
const VALUED: [&str; 4] =
    ["unavailable_after", "max-snippet", "max-image-preview", "max-video-preview"];

/// Words that are none of these, and no crawler's name either.
const EMPTY: [&str; 3] = ["all", "index", "follow"];

/// What a page asks of one crawler.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Directives {
    product_token: String,
    /// In lower case, each once; `none` as the two that it stands for.
    words: Vec<String>,
}

impl Directives {
    /// Nothing yet, for the crawler of that product token.
    pub(super) fn new(product_token: &str) -> Self {
        Self { product_token: product_token.to_owned(), words: Vec::new() }
    }

    /// Takes in the X-Robots-Tag headers of an answer. A name in front of a directive
    /// holds up to the next name or the header's end.
    pub(super) fn headers(&mut self, headers: &HeaderMap) {
        for value in headers.get_all("x-robots-tag") {
            let text = String::from_utf8_lossy(value.as_bytes());
            let (mut is_ours, mut is_open) = (true, false);
            for part in parts(&text) {
                let (name, part) = named(part);
                if let Some(name) = name {
                    is_ours = self.is_ours(name);
                    is_open = false;
                }
                is_open = is_ours && self.take(part, is_open);
            }
        }
    }

    /// Takes in a `<meta>` element, if it is one for us.
    pub(super) fn meta(&mut self, name: &str, content: &str) {
        if name.eq_ignore_ascii_case("robots") || self.is_ours(name) {
            let mut is_open = false;
            for part in parts(content) {
                is_open = self.take(part, is_open);
            }
        }
    }

    /// Whether the page's links are not to be followed.
    pub(super) fn forbid_following(&self) -> bool {
        self.words.iter().any(|word| word == "nofollow")
    }

    /// The directives as they are recorded.
    pub(super) fn into_words(self) -> Vec<String> {
        self.words
    }

    fn is_ours(&self, name: &str) -> bool {
        name.eq_ignore_ascii_case(&self.product_token)
    }

    /// Takes in what stands between two commas. Returns whether it is open: what
    /// follows may still be part of it, as a date can have a comma.
    fn take(&mut self, part: &str, is_open: bool) -> bool {
        let lower = part.trim().to_ascii_lowercase();
        let value_at = lower.find(':');
        if let Some(at) = value_at
            && VALUED.contains(&lower[..at].trim_end())
        {
            self.keep(format!("{}: {}", lower[..at].trim_end(), part.trim()[at + 1..].trim()));
            return lower.starts_with("unavailable_after");
        }
        let is_known = |word: &str| WORDS.contains(&word) || EMPTY.contains(&word);
        // Some write spaces in the place of commas.
        if !lower.is_empty() && lower.split_ascii_whitespace().all(is_known) {
            for word in lower.split_ascii_whitespace().filter(|word| WORDS.contains(word)) {
                let words = if word == "none" { &["noindex", "nofollow"][..] } else { &[word] };
                words.iter().for_each(|word| self.keep((*word).to_owned()));
            }
            return false;
        }
        if is_open && let Some(date) = self.words.last_mut() {
            let more = format!("{date}, {}", part.trim());
            *date = more.chars().take(CHARS_MAX).collect();
        }
        is_open
    }

    fn keep(&mut self, word: String) {
        let word: String = word.chars().take(CHARS_MAX).collect();
        if self.words.len() < DIRECTIVES_MAX && !self.words.contains(&word) {
            self.words.push(word);
        }
    }
}

fn parts(text: &str) -> impl Iterator<Item = &str> {
    text[..text.floor_char_boundary(BYTES_MAX)].split(',')
}

/// A part of a header without the crawler's name in front of it, if it has one. What
/// stands in front of a colon may also be a directive, or half a date.
fn named(part: &str) -> (Option<&str>, &str) {
    let Some((name, rest)) = part.split_once(':') else { return (None, part) };
    let name = name.trim();
    let is_name = name.bytes().any(|byte| byte.is_ascii_alphabetic())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.*".contains(&byte))
        && !VALUED.iter().any(|word| word.eq_ignore_ascii_case(name));
    if is_name { (Some(name), rest) } else { (None, part) }
}

/// Whether a link's `rel` asks not to follow it; some write commas between its words.
/// `ugc` and `sponsored` say whose link it is, and nothing about following.
pub(super) fn is_nofollow(rel: &str) -> bool {
    rel.split([' ', ',']).any(|word| word.eq_ignore_ascii_case("nofollow"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(values: &[&str]) -> Vec<String> {
        let values = values
            .iter()
            .map(|value| (http::HeaderName::from_static("x-robots-tag"), value.parse().unwrap()));
        let mut map = HeaderMap::new();
        for (name, value) in values {
            map.append(name, value);
        }
        let mut directives = Directives::new("MyBot");
        directives.headers(&map);
        directives.into_words()
    }

    #[test]
    fn what_headers_ask_of_us() {
        for (values, want) in [
            (&["noindex"][..], &["noindex"][..]),
            (&["NoIndex, NOFOLLOW"], &["noindex", "nofollow"]),
            (&["noindex", "nofollow"], &["noindex", "nofollow"]),
            (&["none"], &["noindex", "nofollow"]),
            (&["all", "index, follow"], &[]),
            (&["mybot: noindex"], &["noindex"]),
            (&["otherbot: noindex, nofollow"], &[]),
            (&["noarchive, otherbot: noindex, nofollow"], &["noarchive"]),
            (&["otherbot: noindex, mybot: nofollow, nosnippet"], &["nofollow", "nosnippet"]),
            (&["MJ12bot: none", "noindex"], &["noindex"]),
            (&["otherbot: nofollow, unavailable_after: 25 Jun 2010 15:00:00 PST"], &[]),
            (
                &["unavailable_after: 25 Jun 2010 15:00:00 PST"],
                &["unavailable_after: 25 Jun 2010 15:00:00 PST"],
            ),
            (
                &["unavailable_after: Friday, 25-Jun-10 15:00:00 PST, nofollow"],
                &["unavailable_after: Friday, 25-Jun-10 15:00:00 PST", "nofollow"],
            ),
            (
                &["mybot: Unavailable_After: 2026-01-01T10:00:00+01:00, noindex"],
                &["unavailable_after: 2026-01-01T10:00:00+01:00", "noindex"],
            ),
            (
                &["max-snippet: 20, max-image-preview:large, noimageindex"],
                &["max-snippet: 20", "max-image-preview: large", "noimageindex"],
            ),
            (&["noindex nofollow"], &["noindex", "nofollow"]),
            (&["noindexing, follow me, :, ::, ,,"], &[]),
            (&["noindex, noindex"], &["noindex"]),
        ] {
            assert_eq!(headers(values), want, "{values:?}");
        }
    }

    #[test]
    fn what_elements_ask_of_us() {
        for (name, content, want) in [
            ("robots", "noindex,nofollow", &["noindex", "nofollow"][..]),
            ("ROBOTS", " NONE ", &["noindex", "nofollow"]),
            ("mybot", "nofollow", &["nofollow"]),
            ("otherbot", "noindex", &[]),
            ("robots", "noindex nofollow", &["noindex", "nofollow"]),
            ("robots", "index,follow,max-snippet:-1", &["max-snippet: -1"]),
            ("robots", "", &[]),
            ("description", "noindex", &[]),
        ] {
            let mut directives = Directives::new("MyBot");
            directives.meta(name, content);
            assert_eq!(directives.into_words(), want, "{name} {content}");
        }
    }

    #[test]
    fn directives_are_bounded() {
        let many: String = (0..1_000).map(|n| format!("max-snippet:{n},")).collect();
        let long = format!("unavailable_after: {}", "1, é".repeat(5_000));
        let words = headers(&[&many, &long]);
        assert_eq!(words.len(), DIRECTIVES_MAX);
        let words = headers(&[&long]);
        assert!(words.iter().all(|word| word.chars().count() <= CHARS_MAX), "{words:?}");
    }

    #[test]
    fn rels() {
        for (rel, want) in [
            ("nofollow", true),
            ("noopener NoFollow", true),
            ("ugc,nofollow", true),
            ("ugc", false),
            ("sponsored", false),
            ("nofollowing", false),
            ("", false),
        ] {
            assert_eq!(is_nofollow(rel), want, "{rel}");
        }
    }
}
