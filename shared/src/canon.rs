//! Rules of canonical form that a crawl may choose: URLs that differ only in what
//! they drop are one page.
//!
//! They apply after those of [`crate::url`], which always hold, and none applies
//! unless the crawl names it: each may take two different pages for one. What a
//! rule does never changes, because the ids of a crawl's URLs depend on it; a longer
//! list of parameters comes as a rule of its own. `docs/urls.md` lists all rules,
//! with where they come from.

use std::{borrow::Cow, fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{spec::SpecError, url::CrawlUrl};

/// A rule of canonical form, in the order in which they apply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CanonRule {
    /// `http` is `https`, on the default port.
    Https,
    /// `example.com.` is `example.com`.
    TrailingDot,
    /// `www.example.com` is `example.com`.
    Www,
    /// `%7e` is `~`, and `%c3` is `%C3` (RFC 3986 §6.2.2).
    Unreserved,
    /// Without session ids in path and query.
    Sessions,
    /// `//` is `/` in a path.
    EmptySegments,
    /// `/index.html` is `/`.
    DefaultDocuments,
    /// `/a/` is `/a`.
    TrailingSlash,
    /// Without the parameters that tell where a visitor came from.
    Tracking,
    /// Parameters in the order of their names.
    SortQuery,
    /// `/?` is `/`.
    EmptyQuery,
}

/// The word of [`Canon`]'s rule that drops a crawl's own list of parameters.
const OWN_LIST: &str = "drop_params";

/// Names of documents that a server sends for a directory, as far as common
/// servers are set up. Case does not count.
const DEFAULT_DOCUMENTS: [&str; 13] = [
    "index.html",
    "index.htm",
    "index.xhtml",
    "index.shtml",
    "index.php",
    "index.asp",
    "index.aspx",
    "index.jsp",
    "index.cgi",
    "default.html",
    "default.htm",
    "default.asp",
    "default.aspx",
];

/// Parameters that advertisers, mailers and statistics add to a link; a `*` stands
/// for any end.
const TRACKING: [&str; 42] = [
    "utm_*",
    "gclid",
    "gclsrc",
    "dclid",
    "gbraid",
    "wbraid",
    "srsltid",
    "_ga",
    "_gl",
    "fbclid",
    "igshid",
    "igsh",
    "msclkid",
    "yclid",
    "ysclid",
    "ymclid",
    "_openstat",
    "twclid",
    "ttclid",
    "li_fat_id",
    "epik",
    "mc_cid",
    "mc_eid",
    "mkt_tok",
    "_hsenc",
    "_hsmi",
    "__hssc",
    "__hstc",
    "__hsfp",
    "hsctatracking",
    "vero_id",
    "vero_conv",
    "oly_anon_id",
    "oly_enc_id",
    "rb_clickid",
    "wickedid",
    "s_cid",
    "pk_*",
    "piwik_*",
    "mtm_*",
    "matomo_*",
    "itm_*",
];

/// Parameters that carry nothing but a session, whatever their value.
const SESSIONS: [&str; 11] = [
    "jsessionid",
    "phpsessid",
    "aspsessionid*",
    "asp.net_sessionid",
    "cfid",
    "cftoken",
    "sessionid",
    "session_id",
    "sessid",
    "oscsid",
    "zenid",
];

/// Parameters that carry a session if their value looks like an id.
const SESSIONS_BY_VALUE: [&str; 4] = ["sid", "s", "session", "sess"];

/// Characters of the shortest value that is taken for a session's id.
const SESSION_CHARS_MIN: usize = 16;

impl CanonRule {
    /// Every rule, in the order in which they apply.
    pub const ALL: [Self; 11] = [
        Self::Https,
        Self::TrailingDot,
        Self::Www,
        Self::Unreserved,
        Self::Sessions,
        Self::EmptySegments,
        Self::DefaultDocuments,
        Self::TrailingSlash,
        Self::Tracking,
        Self::SortQuery,
        Self::EmptyQuery,
    ];

    /// The rule's word, as settings have it.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Https => "https",
            Self::TrailingDot => "trailing-dot",
            Self::Www => "www",
            Self::Unreserved => "unreserved",
            Self::Sessions => "sessions",
            Self::EmptySegments => "empty-segments",
            Self::DefaultDocuments => "default-documents",
            Self::TrailingSlash => "trailing-slash",
            Self::Tracking => "tracking",
            Self::SortQuery => "sort-query",
            Self::EmptyQuery => "empty-query",
        }
    }
}

impl fmt::Display for CanonRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

impl FromStr for CanonRule {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|rule| rule.word() == word).ok_or_else(|| {
            let words: Vec<&str> = Self::ALL.iter().map(|rule| rule.word()).collect();
            format!("no rule of canonical form; these are: {}", words.join(", "))
        })
    }
}

/// The rules that a crawl has chosen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Canon {
    rules: Vec<CanonRule>,
    /// In lower case.
    own_list: Vec<String>,
}

/// A URL under a crawl's rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Canonical {
    /// The URL.
    pub url: CrawlUrl,
    /// The words of the rules that changed it, each once, in the order in which they
    /// first did.
    pub changed_by: Vec<&'static str>,
}

/// The parts of a URL that rules change.
struct Parts {
    scheme: String,
    host: String,
    port: Option<u16>,
    path: String,
    query: Option<String>,
}

impl Canon {
    /// These rules, and one that drops the query parameters of `own_list`: names in
    /// any case, or their beginnings with a `*` behind.
    ///
    /// # Errors
    /// If a name cannot be one.
    pub fn new(rules: &[CanonRule], own_list: &[String]) -> Result<Self, SpecError> {
        const OWN_LIST_MAX: usize = 1_000;
        let is_name = |name: &str| {
            let stem = name.strip_suffix('*').unwrap_or(name);
            (1..=256).contains(&stem.len())
                && stem.bytes().all(|b| b.is_ascii_graphic() && !b"&=#*".contains(&b))
        };
        if let Some(name) = own_list.iter().find(|name| !is_name(name)) {
            let allowed =
                "a parameter's name as it stands in URLs is allowed, or its beginning and a `*`";
            return Err(SpecError::new(OWN_LIST, name, allowed));
        }
        if own_list.len() > OWN_LIST_MAX {
            let allowed = format!("at most {OWN_LIST_MAX} names are allowed");
            return Err(SpecError::new(OWN_LIST, own_list.len(), allowed));
        }
        let mut rules = rules.to_vec();
        rules.sort_unstable();
        rules.dedup();
        let own_list = own_list.iter().map(|name| name.to_ascii_lowercase()).collect();
        Ok(Self { rules, own_list })
    }

    /// Whether there is no rule, so that every URL stays as it is.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty() && self.own_list.is_empty()
    }

    /// The URL under these rules, if they change it.
    pub fn apply(&self, url: &CrawlUrl) -> Option<CrawlUrl> {
        if self.is_empty() {
            return None;
        }
        let canonical = self.explain(url);
        (!canonical.changed_by.is_empty()).then_some(canonical.url)
    }

    /// The URL under these rules, borrowed if they do not change it.
    pub fn of<'u>(&self, url: &'u CrawlUrl) -> Cow<'u, CrawlUrl> {
        self.apply(url).map_or(Cow::Borrowed(url), Cow::Owned)
    }

    /// The URL under these rules, and which of them changed it.
    pub fn explain(&self, url: &CrawlUrl) -> Canonical {
        /// Rules undo what others leave behind, but none what itself does: a few rounds
        /// are enough, whatever the URL.
        const ROUNDS_MAX: usize = 8;
        let mut canonical = Canonical { url: url.clone(), changed_by: Vec::new() };
        for _ in 0..ROUNDS_MAX {
            let mut parts = Parts::of(&canonical.url);
            let mut changed_by = Vec::new();
            for rule in &self.rules {
                if parts.apply(*rule) {
                    changed_by.push(rule.word());
                }
            }
            // These two lay bare each other's work, a segment each time.
            let in_turn = [CanonRule::DefaultDocuments, CanonRule::TrailingSlash];
            if in_turn.iter().all(|rule| self.rules.contains(rule)) {
                while let Some(rule) = in_turn.into_iter().find(|rule| parts.apply(*rule)) {
                    changed_by.push(rule.word());
                }
            }
            if parts.drop_parameters(|name, _| is_listed(&self.own_list, name)) {
                changed_by.push(OWN_LIST);
            }
            // What the standard does not take, or takes for the same, is left alone.
            let Ok(next) = CrawlUrl::parse(&parts.text()) else { return canonical };
            if next == canonical.url {
                return canonical;
            }
            canonical.url = next;
            for word in changed_by {
                if !canonical.changed_by.contains(&word) {
                    canonical.changed_by.push(word);
                }
            }
        }
        canonical
    }
}

impl Parts {
    fn of(url: &CrawlUrl) -> Self {
        Self {
            scheme: url.scheme().to_owned(),
            host: url.host().to_owned(),
            port: url.port(),
            path: url.path().to_owned(),
            query: url.query().map(str::to_owned),
        }
    }

    fn text(&self) -> String {
        let Self { scheme, host, port, path, query } = self;
        let port = port.map(|port| format!(":{port}")).unwrap_or_default();
        let query = query.as_ref().map(|query| format!("?{query}")).unwrap_or_default();
        format!("{scheme}://{host}{port}{path}{query}")
    }

    /// Applies a rule. Returns whether it changed something.
    fn apply(&mut self, rule: CanonRule) -> bool {
        match rule {
            CanonRule::Https if self.scheme == "http" && self.port.is_none() => {
                self.scheme = "https".into();
                true
            }
            CanonRule::Https => false,
            CanonRule::TrailingDot => replace(&mut self.host, |host| {
                let bare = host.trim_end_matches('.');
                (bare.len() < host.len()).then_some(bare)
            }),
            CanonRule::Www => replace(&mut self.host, |host| {
                std::iter::successors(without_www(host), |host| without_www(host)).last()
            }),
            CanonRule::Unreserved => {
                let query = self.query.as_ref().map(|query| decode_unreserved(query));
                let path = decode_unreserved(&self.path);
                let is_changed = query != self.query || path != self.path;
                (self.path, self.query) = (path, query);
                is_changed
            }
            CanonRule::Sessions => {
                let path = without_session(&self.path);
                let is_changed = path.is_some();
                self.path = path.unwrap_or_else(|| std::mem::take(&mut self.path));
                self.drop_parameters(is_session_parameter) || is_changed
            }
            CanonRule::EmptySegments => {
                let length = self.path.len();
                while self.path.contains("//") {
                    self.path = self.path.replace("//", "/");
                }
                self.path.len() != length
            }
            CanonRule::DefaultDocuments => replace(&mut self.path, |path| {
                let name_at = path.rfind('/')? + 1;
                let is_default =
                    DEFAULT_DOCUMENTS.iter().any(|name| path[name_at..].eq_ignore_ascii_case(name));
                is_default.then_some(&path[..name_at])
            }),
            CanonRule::TrailingSlash => replace(&mut self.path, |path| {
                let bare = path.trim_end_matches('/');
                (bare.len() < path.len() && !bare.is_empty()).then_some(bare)
            }),
            CanonRule::Tracking => self.drop_parameters(|name, _| is_listed(&TRACKING, name)),
            CanonRule::SortQuery => {
                let Some(query) = &self.query else { return false };
                let mut parameters: Vec<&str> = query.split('&').collect();
                parameters.sort_by_key(|parameter| name_and_value(parameter).0);
                let sorted = parameters.join("&");
                let is_changed = sorted != *query;
                self.query = Some(sorted);
                is_changed
            }
            CanonRule::EmptyQuery => self.query.take_if(|query| query.is_empty()).is_some(),
        }
    }

    /// Drops parameters of the query, and with the last of them its question mark.
    /// Returns whether there were any.
    fn drop_parameters(&mut self, such: impl Fn(&str, &str) -> bool) -> bool {
        let Some(query) = &self.query else { return false };
        let stays = |parameter: &&str| {
            let (name, value) = name_and_value(parameter);
            !such(name, value)
        };
        let kept: Vec<&str> = query.split('&').filter(stays).collect();
        if kept.len() == query.split('&').count() {
            return false;
        }
        let kept = kept.join("&");
        self.query = (!kept.is_empty()).then_some(kept);
        true
    }
}

/// Whether a parameter of a query carries a session.
pub fn is_session_parameter(name: &str, value: &str) -> bool {
    let looks_like_an_id = || {
        value.len() >= SESSION_CHARS_MIN
            && value.bytes().all(|byte| byte.is_ascii_alphanumeric())
            && value.bytes().any(|byte| byte.is_ascii_digit())
    };
    is_listed(&SESSIONS, name) || (is_listed(&SESSIONS_BY_VALUE, name) && looks_like_an_id())
}

/// A path without the session that it carries, if it does: a parameter of a segment
/// (`;jsessionid=…`), or a segment as ASP.NET writes it (`/(S(…))/`).
pub fn without_session(path: &str) -> Option<String> {
    if !path.contains([';', '(']) {
        return None;
    }
    let mut kept = String::with_capacity(path.len());
    for (index, segment) in path.split('/').enumerate() {
        if segment.starts_with("(S(") && segment.ends_with("))") {
            continue;
        }
        if index > 0 {
            kept.push('/');
        }
        let mut parameters = segment.split(';');
        kept.push_str(parameters.next().unwrap_or_default());
        for parameter in parameters {
            let (name, value) = name_and_value(parameter);
            if !is_session_parameter(name, value) {
                kept.push(';');
                kept.push_str(parameter);
            }
        }
    }
    if kept.is_empty() {
        kept.push('/');
    }
    (kept != path).then_some(kept)
}

/// A parameter's name and its value.
pub(crate) fn name_and_value(parameter: &str) -> (&str, &str) {
    parameter.split_once('=').unwrap_or((parameter, ""))
}

/// Whether a list, in lower case, has a name or its beginning.
fn is_listed(list: &[impl AsRef<str>], name: &str) -> bool {
    list.iter().any(|listed| match listed.as_ref().strip_suffix('*') {
        Some(stem) => name.get(..stem.len()).is_some_and(|start| start.eq_ignore_ascii_case(stem)),
        None => name.eq_ignore_ascii_case(listed.as_ref()),
    })
}

/// A host without its `www`, if what is left is a name that somebody can have.
fn without_www(host: &str) -> Option<&str> {
    host.strip_prefix("www.").filter(|rest| psl::domain(rest.as_bytes()).is_some())
}

fn replace(text: &mut String, by: impl FnOnce(&str) -> Option<&str>) -> bool {
    match by(text).map(str::to_owned) {
        Some(other) => {
            *text = other;
            true
        }
        None => false,
    }
}

/// Writes what need not be escaped without escape, and the digits of all others in
/// upper case; also where an escape stands in the place of another's digit.
fn decode_unreserved(text: &str) -> String {
    let mut decoded = String::with_capacity(text.len());
    for c in text.chars() {
        decoded.push(c);
        // What an escape stood for may be the last digit of one itself.
        while let Some(byte) = trailing_escape(&decoded) {
            let is_unreserved = byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
            decoded.truncate(decoded.len() - 3);
            if !is_unreserved {
                decoded.push_str(&format!("%{byte:02X}"));
                break;
            }
            decoded.push(char::from(byte));
        }
    }
    decoded
}

/// The byte of the escape that a text ends with.
fn trailing_escape(text: &str) -> Option<u8> {
    let [.., b'%', high, low] = text.as_bytes() else { return None };
    let digit = |byte: u8| char::from(byte).to_digit(16);
    u8::try_from(digit(*high)? << 4 | digit(*low)?).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn explain(rules: &[CanonRule], url: &str) -> (String, Vec<&'static str>) {
        let canon = Canon::new(rules, &["ref".into(), "src_*".into()]).unwrap();
        let Canonical { url, changed_by } = canon.explain(&url.parse().unwrap());
        (url.as_str().to_owned(), changed_by)
    }

    #[test]
    fn each_rule_does_what_it_says_and_nothing_else() {
        use CanonRule::*;
        for (rule, given, want) in [
            (Https, "http://h.test/", "https://h.test/"),
            (Https, "http://h.test:8080/", "http://h.test:8080/"),
            (TrailingDot, "http://h.test./a", "http://h.test/a"),
            (Www, "http://www.example.com/", "http://example.com/"),
            (Www, "http://www.co.uk/", "http://www.co.uk/"),
            (Www, "http://www.localhost/", "http://www.localhost/"),
            (Www, "http://wwwx.example.com/", "http://wwwx.example.com/"),
            (
                Unreserved,
                "http://h.test/%7Ea%2d%c3%a4%2F?%41=%26",
                "http://h.test/~a-%C3%A4%2F?A=%26",
            ),
            (Unreserved, "http://h.test/%+1%zz", "http://h.test/%+1%zz"),
            (Sessions, "http://h.test/a;jsessionid=1F2?b=c", "http://h.test/a?b=c"),
            (Sessions, "http://h.test/a;v=1;JSESSIONID=1F2/b", "http://h.test/a;v=1/b"),
            (Sessions, "http://h.test/(S(x1y2))/b", "http://h.test/b"),
            (Sessions, "http://h.test/(S(x1y2))", "http://h.test/"),
            (Sessions, "http://h.test/a?PHPSESSID=7&b=c", "http://h.test/a?b=c"),
            (Sessions, "http://h.test/a?sid=0123456789abcdef", "http://h.test/a"),
            (Sessions, "http://h.test/a?sid=12&s=shoes", "http://h.test/a?sid=12&s=shoes"),
            (EmptySegments, "http://h.test//a///b/", "http://h.test/a/b/"),
            (DefaultDocuments, "http://h.test/a/Index.HTML?b", "http://h.test/a/?b"),
            (DefaultDocuments, "http://h.test/a/myindex.html", "http://h.test/a/myindex.html"),
            (TrailingSlash, "http://h.test/a//", "http://h.test/a"),
            (TrailingSlash, "http://h.test/", "http://h.test/"),
            (Tracking, "http://h.test/?utm_source=x&a=b&GCLID=7", "http://h.test/?a=b"),
            (Tracking, "http://h.test/?fbclid=7", "http://h.test/"),
            (Tracking, "http://h.test/?utm=1&xgclid=2", "http://h.test/?utm=1&xgclid=2"),
            (SortQuery, "http://h.test/?b=2&a=2&b=1&a", "http://h.test/?a=2&a&b=2&b=1"),
            (EmptyQuery, "http://h.test/a?", "http://h.test/a"),
            (EmptyQuery, "http://h.test/a?b", "http://h.test/a?b"),
        ] {
            let changed_by = if given == want { vec![] } else { vec![rule.word()] };
            assert_eq!(explain(&[rule], given), (want.to_owned(), changed_by), "{rule}");
            assert_eq!(explain(&[], given), (given.to_owned(), vec![]), "by choice only");
        }
    }

    #[test]
    fn rules_that_changed_a_url_are_named_in_the_order_they_did() {
        let given = "http://www.example.com/a/index.html?src_x=1&utm_id=2&REF=3";
        let rules = [CanonRule::TrailingSlash, CanonRule::DefaultDocuments, CanonRule::Tracking];
        let want = "http://www.example.com/a".to_owned();
        let changed_by = vec!["default-documents", "trailing-slash", "tracking", "drop_params"];
        assert_eq!(explain(&rules, given), (want, changed_by));
    }

    #[test]
    fn what_one_rule_leaves_behind_the_others_see() {
        let rules = CanonRule::ALL;
        assert_eq!(explain(&rules, "http://h.test/a/index.html/").0, "https://h.test/a");
        assert_eq!(explain(&rules, "http://h.test/%%34%31").0, "https://h.test/A");
        assert_eq!(explain(&rules, "http://h.test/%%32%66%4%31%a%62").0, "https://h.test/%2FA%AB");
        assert_eq!(explain(&rules, "http://h.test/x/%2E%2e/a?%75tm_id=1").0, "https://h.test/a");
    }

    #[test]
    fn what_stands_there_a_hundred_times_is_gone_in_a_few_rounds() {
        let rules = CanonRule::ALL;
        let documents = format!("http://h.test{}/", "/index.html".repeat(180));
        assert_eq!(explain(&rules, &documents).0, "https://h.test/");
        let hosts = format!("http://{}example.com/", "www.".repeat(50));
        assert_eq!(explain(&rules, &hosts).0, "https://example.com/");
        let escapes = format!("http://h.test/%4{}1", "%3".repeat(900));
        assert_eq!(explain(&rules, &escapes).0, "https://h.test/A");
        let sessions = format!("http://h.test{}", "/x/..;sid=0123456789abcdef".repeat(70));
        assert_eq!(explain(&rules, &sessions).0, "https://h.test/");
    }

    #[test]
    fn a_rule_is_read_by_its_word() {
        for rule in CanonRule::ALL {
            assert_eq!(rule.word().parse(), Ok(rule));
            assert_eq!(serde_json::to_value(rule).unwrap(), rule.word());
        }
        assert!("tracks".parse::<CanonRule>().unwrap_err().contains("tracking"));
        let error = Canon::new(&[], &["a=b".into()]).unwrap_err().to_string();
        assert!(error.contains("drop_params") && error.contains("a=b"), "{error}");
    }

    proptest! {
        #[test]
        fn a_url_under_the_rules_stays_as_it_is(
            rules in prop::sample::subsequence(CanonRule::ALL.to_vec(), 0..=11),
            url in "https?://((www[.]){0,3}(h[.]test|example[.]com[.]?)|1[.]2[.]3[.]4)(:8080)?(/([ab]|%[4-7][1-9a-f]|%[2-4]|%|[1-4]|;|;sid=[0-9]{16}|[(]S[(]x[)][)]|/index[.]html|index[.]html|[.]|[.][.]|/){0,5}){0,4}([?](a|b=1|utm_x|ref|&|sid=0123456789abcdef){0,5})?",
        ) {
            let canon = Canon::new(&rules, &["ref".into()]).unwrap();
            let url: CrawlUrl = url.parse().unwrap();
            let once = canon.explain(&url);
            prop_assert_eq!(canon.apply(&once.url), None);
            prop_assert_eq!(once.changed_by.is_empty(), once.url == url);
            prop_assert!(CrawlUrl::parse(once.url.as_str()).is_ok_and(|again| again == once.url));
        }
    }
}
