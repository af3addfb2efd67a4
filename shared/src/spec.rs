//! The crawl specification: everything that a person decides about one crawl.
//!
//! The same struct is the crawl's part of `crawl.toml`, the target of the
//! command line's options, and what travels to workers as JSON. Unknown keys are
//! refused. `docs/configuration.md` tells what each key means; a test holds the
//! two together.

use std::{collections::HashSet, fmt};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use url::Url;

use crate::{
    VERSION,
    canon::{Canon, CanonRule},
    politeness::{GroupRule, check_groups},
    request_rules::{self, CredentialRule, HeaderRule},
    robots::product_token,
    rules::{PRIORITY_MAX, Rules, UrlRule},
    scope::{Scope, ScopeKind},
    secret::{ProxyUrl, Secret},
    trap::TrapSpec,
    units::{Size, Span},
};

/// A crawl's specification.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CrawlSpec {
    /// How far from its seeds the crawl may go.
    pub scope: ScopeKind,
    /// Regular expressions; if any are given, a URL must match one.
    pub include: Vec<String>,
    /// Regular expressions; a URL that matches one is not fetched.
    pub exclude: Vec<String>,
    /// Links from a seed to the furthest page fetched; none for no limit.
    pub depth: Option<u32>,
    /// Pages fetched at most (redirects do not count); none for no limit.
    pub pages: Option<u64>,
    /// Pages fetched of one host at most; none for no limit.
    pub pages_per_host: Option<u64>,
    /// Which elements' links are followed.
    pub follow: Vec<LinkKind>,
    /// Redirects followed one after the other.
    pub redirects: u32,
    /// Links that the crawl may follow from a page where its seeds are to pages
    /// elsewhere, one after the other.
    pub hops_off_site: u32,
    /// Rules of canonical form beyond those that always hold. They stay as they are
    /// once the crawl has URLs.
    pub canon: Vec<CanonRule>,
    /// Query parameters that are dropped: names, or their beginnings and a `*`.
    /// They stay as they are once the crawl has URLs.
    pub drop_params: Vec<String>,
    /// What each link from a seed adds to a URL's priority.
    pub priority_per_link: i32,
    /// What is done differently with some URLs.
    pub rules: Vec<UrlRule>,
    /// What is taken for a trap.
    pub traps: TrapSpec,

    /// The wait after a fetch of a host ended before its next one starts.
    pub delay: Span,
    /// How many times as long as its last answer took a host is left alone; 0 for not.
    pub delay_factor: u32,
    /// The most that this makes of the delay, as its multiple.
    pub delay_stretch: u32,
    /// Fetches of one host that may be under way at the same time.
    pub host_connections: u32,
    /// Failures of a host in a row after which what waits for it is given up.
    pub host_attempts: u32,
    /// Hosts behind one address, or of one registrable domain, that are visited at the
    /// same time; 0 for no limit.
    pub group_hosts: u32,
    /// Hosts that share a budget of their own.
    pub groups: Vec<GroupRule>,
    /// Whether robots.txt is obeyed.
    pub robots: RobotsPolicy,
    /// Whether pages are obeyed that ask not to follow their links.
    pub directives: DirectivesPolicy,
    /// What the crawler calls itself. Its first word, up to a slash, is the name
    /// that robots.txt rules are looked up by.
    pub user_agent: String,
    /// The proxy that all fetches go through; none for none. The environment's
    /// proxy variables are never used.
    pub proxy: Option<ProxyUrl>,
    /// Further proxies. Each host is fetched through one of them all, as long as that
    /// one works.
    pub proxies: Vec<ProxyUrl>,
    /// Networks outside the public internet that may be fetched from.
    pub allow_net: Vec<IpNet>,
    /// Whether cookies are kept and sent back, for this crawl alone.
    pub cookies: bool,

    /// Tries of one URL at most, the first included.
    pub attempts: u32,
    /// The wait before the second try; it doubles from try to try, and up to as
    /// much again is added by chance.
    pub retry_wait: Span,
    /// The longest wait between two tries.
    pub retry_wait_max: Span,
    /// The longest a connection may take to stand, TLS included.
    pub connect_timeout: Span,
    /// The longest that a host may send nothing.
    pub read_timeout: Span,
    /// The longest that one fetch may take in all.
    pub fetch_timeout: Span,
    /// Bytes a second that a body must come at on average, after its first ten seconds;
    /// 0 for any.
    pub rate_min: Size,
    /// How long it is believed that our own network is down, if nobody can be reached
    /// any more; 0 for never.
    pub outage_max: Span,
    /// Bytes of a body, after content decoding, that are kept. A longer body is
    /// cut there and its page marked as truncated.
    pub body_limit: Size,

    /// Charsets tried in order on pages that declare none.
    pub charsets: Vec<String>,
    /// Fields to extract from pages.
    pub extract: Vec<ExtractRule>,

    /// Headers for requests to some hosts.
    pub headers: Vec<HeaderRule>,
    /// Credentials for requests to some hosts.
    pub credentials: Vec<CredentialRule>,
}

/// Whether robots.txt is obeyed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RobotsPolicy {
    /// It is fetched first, and followed (RFC 9309).
    #[default]
    Obey,
    /// It is not even fetched.
    Ignore,
}

/// Whether the robots directives of pages are obeyed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DirectivesPolicy {
    /// Links of a page that says `nofollow`, and links that say so themselves, are not
    /// followed.
    #[default]
    Obey,
    /// They are followed.
    Ignore,
}

/// Where a link stood.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LinkKind {
    /// `<a href>`
    A,
    /// `<area href>`
    Area,
    /// `<iframe src>`
    Iframe,
    /// `<frame src>`
    Frame,
    /// `<link rel=next href>`
    LinkNext,
    /// `<link rel=canonical href>`
    LinkCanonical,
    /// `<link rel=alternate href>`
    LinkAlternate,
    /// `<meta http-equiv=refresh content="…; url=…">`
    MetaRefresh,
    /// An entry of a sitemap, or a sitemap that robots.txt or `<link rel=sitemap>` names.
    Sitemap,
    /// An entry of a feed, or a feed that `<link rel=alternate type=…>` names.
    Feed,
}

/// One field to extract from every page.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExtractRule {
    /// The field's name in the page's JSON.
    pub name: String,
    /// A CSS selector.
    pub select: String,
    /// The attribute whose value is taken; without it, the element's text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attribute: Option<String>,
    /// Whether the field is a list of all matches, or the first match alone.
    #[serde(default)]
    pub many: bool,
}

/// A setting that cannot be: its key, its value, and what is allowed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct SpecError {
    key: &'static str,
    value: String,
    allowed: String,
}

impl fmt::Display for SpecError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} = {:?} cannot be: {}", self.key, self.value, self.allowed)
    }
}

impl SpecError {
    /// `key`, with its `value`, cannot be; `allowed` says what can.
    pub fn new(key: &'static str, value: impl ToString, allowed: impl Into<String>) -> Self {
        Self { key, value: value.to_string(), allowed: allowed.into() }
    }
}

impl Default for CrawlSpec {
    fn default() -> Self {
        Self {
            scope: ScopeKind::Host,
            include: Vec::new(),
            exclude: Vec::new(),
            depth: None,
            pages: None,
            pages_per_host: None,
            follow: vec![LinkKind::A, LinkKind::Area],
            redirects: 5,
            hops_off_site: 0,
            canon: Vec::new(),
            drop_params: Vec::new(),
            priority_per_link: 0,
            rules: Vec::new(),
            traps: TrapSpec::default(),
            delay: Span::secs(1),
            delay_factor: 5,
            delay_stretch: 10,
            host_connections: 1,
            host_attempts: 10,
            group_hosts: 8,
            groups: Vec::new(),
            robots: RobotsPolicy::Obey,
            directives: DirectivesPolicy::Obey,
            user_agent: format!("trawl/{VERSION}"),
            proxy: None,
            proxies: Vec::new(),
            allow_net: Vec::new(),
            cookies: false,
            attempts: 3,
            retry_wait: Span::secs(5),
            retry_wait_max: Span::secs(300),
            connect_timeout: Span::secs(5),
            read_timeout: Span::secs(10),
            fetch_timeout: Span::secs(30),
            rate_min: Size::bytes(1024),
            outage_max: SPAN_MAX,
            body_limit: Size::mib(10),
            charsets: Vec::new(),
            extract: Vec::new(),
            headers: Vec::new(),
            credentials: Vec::new(),
        }
    }
}

/// The longest delay, wait or timeout that a crawl may ask for.
pub const SPAN_MAX: Span = Span::secs(24 * 60 * 60);

/// The largest body that a crawl may ask to keep.
pub const BODY_LIMIT_MAX: Size = Size::mib(256);

/// Proxies that a crawl may name; each has connections of its own.
const PROXIES_MAX: usize = 64;

/// Extraction rules that a crawl may have; each is held against every element of a page.
const EXTRACT_MAX: usize = 200;

/// The most fetches of one host at the same time that may be asked for.
pub const CONNECTIONS_MAX: u32 = 16;

/// The deepest limit that a crawl may set; counts are kept for each depth.
const DEPTH_MAX: u32 = 10_000;

/// Links off-site that a crawl may ask for.
const HOPS_OFF_SITE_MAX: u32 = 100;

/// Checks a crawl's name, which also names its directory.
///
/// # Errors
/// If it cannot be.
pub fn check_name(name: &str) -> Result<(), SpecError> {
    let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    if name.is_empty() || name.len() > 64 || name.starts_with('.') || !name.bytes().all(fits) {
        let allowed = "1 to 64 letters, digits, `-`, `_` and `.` are allowed, no `.` first";
        return Err(SpecError::new("name", name, allowed));
    }
    Ok(())
}

impl CrawlSpec {
    /// Reads a specification as it travels: JSON with the keys of `crawl.toml`.
    ///
    /// # Errors
    /// If it is not that, or has a setting that cannot be.
    pub fn from_json(json: &str) -> Result<Self, String> {
        let spec: Self = serde_json::from_str(json)
            .map_err(|error| format!("the crawl's specification cannot be read: {error}"))?;
        spec.validate().map_err(|error| error.to_string())?;
        Ok(spec)
    }

    /// The specification as it travels.
    pub fn to_json(&self) -> String {
        // Strings, numbers and lists of them always have a JSON form.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// The name that robots.txt rules are looked up by.
    pub fn product_token(&self) -> &str {
        product_token(&self.user_agent)
    }

    /// All proxies, in order.
    pub fn all_proxies(&self) -> impl Iterator<Item = &ProxyUrl> {
        self.proxy.iter().chain(&self.proxies)
    }

    /// The environment variables that workers need for the crawl's secrets.
    pub fn secret_variables(&self) -> impl Iterator<Item = &str> {
        let values = self.headers.iter().map(|rule| &rule.value);
        let words = self.credentials.iter().flat_map(|rule| {
            rule.bearer.iter().chain(rule.basic.as_ref().map(|basic| &basic.password))
        });
        values.chain(words).filter_map(Secret::variable)
    }

    /// Whether URLs have the same canonical form by the rules of `other`.
    pub fn has_canon_of(&self, other: &Self) -> bool {
        let canon = |spec: &Self| Canon::new(&spec.canon, &spec.drop_params).ok();
        canon(self) == canon(other)
    }

    /// Checks what can be checked without HTML and network.
    ///
    /// # Errors
    /// With the first setting that cannot be.
    pub fn validate(&self) -> Result<(), SpecError> {
        Scope::new(self, [])?;
        Canon::new(&self.canon, &self.drop_params)?;
        Rules::new(&self.rules)?.check_under(&self.canon)?;
        self.traps.validate()?;
        if self.hops_off_site > HOPS_OFF_SITE_MAX {
            let allowed = format!("0 to {HOPS_OFF_SITE_MAX} are allowed");
            return Err(SpecError::new("hops_off_site", self.hops_off_site, allowed));
        }
        if !(-PRIORITY_MAX..=PRIORITY_MAX).contains(&self.priority_per_link) {
            let allowed = format!("-{PRIORITY_MAX} to {PRIORITY_MAX} is allowed");
            return Err(SpecError::new("priority_per_link", self.priority_per_link, allowed));
        }
        at_least("pages", self.pages, 1)?;
        at_least("pages_per_host", self.pages_per_host, 1)?;
        at_least("attempts", Some(u64::from(self.attempts)), 1)?;
        if self.attempts > 20 {
            return Err(SpecError::new("attempts", self.attempts, "1 to 20 tries are allowed"));
        }
        check_groups(&self.groups)?;
        for (key, value, range) in [
            ("delay_factor", self.delay_factor, 0..=100),
            ("delay_stretch", self.delay_stretch, 1..=1_000),
            ("host_connections", self.host_connections, 1..=CONNECTIONS_MAX),
            ("host_attempts", self.host_attempts, 1..=1_000),
        ] {
            if !range.contains(&value) {
                let allowed = format!("{} to {} is allowed", range.start(), range.end());
                return Err(SpecError::new(key, value, allowed));
            }
        }
        if let Some(depth) = self.depth
            && depth > DEPTH_MAX
        {
            let allowed = format!("0 to {DEPTH_MAX} is allowed");
            return Err(SpecError::new("depth", depth, allowed));
        }
        if self.redirects > 20 {
            return Err(SpecError::new("redirects", self.redirects, "0 to 20 are allowed"));
        }
        for (key, span, least) in [
            ("delay", self.delay, Span::secs(0)),
            ("retry_wait", self.retry_wait, Span::secs(0)),
            ("retry_wait_max", self.retry_wait_max, self.retry_wait),
            ("connect_timeout", self.connect_timeout, Span::millis(1)),
            ("read_timeout", self.read_timeout, Span::millis(1)),
            ("fetch_timeout", self.fetch_timeout, Span::millis(1)),
            ("outage_max", self.outage_max, Span::secs(0)),
        ] {
            if span < least || span > SPAN_MAX {
                return Err(SpecError::new(key, span, format!("{least} to {SPAN_MAX} is allowed")));
            }
        }
        if self.body_limit < Size::bytes(1024) || self.body_limit > BODY_LIMIT_MAX {
            return Err(SpecError::new(
                "body_limit",
                self.body_limit,
                format!("1 KiB to {BODY_LIMIT_MAX} is allowed"),
            ));
        }
        if self.product_token().is_empty()
            || self.user_agent.len() > 256
            || !self.user_agent.bytes().all(|b| matches!(b, b' '..=b'~'))
        {
            return Err(SpecError::new(
                "user_agent",
                &self.user_agent,
                "it starts with a name of letters, `-` and `_`, such as \
                 \"mybot/1.0 (+https://example.org/bot)\", and has at most 256 ASCII characters",
            ));
        }
        for proxy in self.all_proxies() {
            if !Url::parse(proxy.reveal()).is_ok_and(|url| is_proxy(&url)) {
                return Err(SpecError::new(
                    "proxy",
                    proxy,
                    "a URL such as http://host:3128 or socks5://host:1080 is allowed, whose host \
                     is an address or has ASCII letters, digits, `-`, `_` and `.`",
                ));
            }
        }
        if self.proxies.len() > PROXIES_MAX {
            let allowed = format!("{PROXIES_MAX} are allowed at most");
            return Err(SpecError::new("proxies", self.proxies.len(), allowed));
        }
        request_rules::validate(&self.headers, &self.credentials, self.cookies)?;
        if self.extract.len() > EXTRACT_MAX {
            let allowed = format!("{EXTRACT_MAX} rules are allowed at most");
            return Err(SpecError::new("extract", self.extract.len(), allowed));
        }
        let mut names = HashSet::new();
        for rule in &self.extract {
            if rule.name.is_empty() || !names.insert(&rule.name) {
                return Err(SpecError::new(
                    "extract.name",
                    &rule.name,
                    "each field needs a name of its own",
                ));
            }
        }
        Ok(())
    }
}

/// Whether a proxy's URL is one to those who connect to it, too. They read it by a
/// stricter standard, and would do without a proxy, and say nothing, if it were none.
fn is_proxy(url: &Url) -> bool {
    let fits = |b: u8| b.is_ascii_alphanumeric() || b"-_.:[]".contains(&b);
    matches!(url.scheme(), "http" | "https" | "socks5" | "socks5h")
        && url.host_str().is_some_and(|host| !host.is_empty() && host.bytes().all(fits))
}

fn at_least(key: &'static str, value: Option<u64>, least: u64) -> Result<(), SpecError> {
    match value {
        Some(value) if value < least => {
            Err(SpecError::new(key, value, format!("{least} or more is allowed")))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heading() -> ExtractRule {
        ExtractRule { name: "heading".into(), select: "h1".into(), attribute: None, many: true }
    }

    #[test]
    fn the_defaults_are_valid_and_polite() {
        let spec = CrawlSpec::default();
        spec.validate().unwrap();
        assert_eq!(spec.robots, RobotsPolicy::Obey);
        assert_eq!(spec.delay, Span::secs(1));
        assert_eq!(spec.product_token(), "trawl");
    }

    #[test]
    fn a_specification_survives_the_wire() {
        let spec = CrawlSpec {
            depth: Some(4),
            delay: Span::millis(1_500),
            body_limit: Size::bytes(1_234_567),
            allow_net: vec!["127.0.0.0/8".parse().unwrap()],
            extract: vec![heading()],
            ..CrawlSpec::default()
        };
        assert_eq!(CrawlSpec::from_json(&spec.to_json()).unwrap(), spec);
    }

    fn group(hosts_at_once: u32) -> GroupRule {
        let hosts = vec!["*.example.org".parse().unwrap()];
        GroupRule { name: "g".into(), hosts, hosts_at_once, delay: Span::secs(0) }
    }

    #[test]
    fn a_setting_that_cannot_be_names_key_value_and_what_can() {
        let error = |change: fn(&mut CrawlSpec)| {
            let mut spec = CrawlSpec::default();
            change(&mut spec);
            spec.validate().unwrap_err().to_string()
        };
        for (error, parts) in [
            (error(|s| s.attempts = 0), ["attempts", "\"0\"", "1 or more"]),
            (error(|s| s.pages = Some(0)), ["pages", "\"0\"", "1 or more"]),
            (error(|s| s.delay = Span::secs(90_000)), ["delay", "25h", "0s to 24h"]),
            (error(|s| s.body_limit = Size::bytes(1)), ["body_limit", "1 B", "1 KiB"]),
            (error(|s| s.user_agent = "0bot".into()), ["user_agent", "0bot", "letters"]),
            (error(|s| s.proxy = Some("ftp://x".into())), ["proxy", "ftp://x", "socks5://"]),
            (
                error(|s| s.proxies = vec!["ftp://u:w@x".into()]),
                ["proxy = \"ftp://x\"", "http://host:3128", "socks5://"],
            ),
            (
                error(|s| s.extract = vec![heading(); EXTRACT_MAX + 1]),
                ["extract", "\"201\"", "200 rules"],
            ),
            (
                error(|s| s.groups = vec![group(10_001)]),
                ["groups.hosts_at_once", "10001", "1 to 10000"],
            ),
            (error(|s| s.groups = vec![group(0)]), ["groups.hosts_at_once", "\"0\"", "1 to"]),
            (error(|s| s.include = vec!["[".into()]), ["include", "\"[\"", "regular expression"]),
        ] {
            for part in parts {
                assert!(error.contains(part), "{error:?} should contain {part:?}");
            }
        }
    }

    #[test]
    fn a_proxy_that_others_could_not_read_is_refused() {
        let validate = |proxy: &str| {
            CrawlSpec { proxy: Some(proxy.into()), ..CrawlSpec::default() }.validate()
        };
        for proxy in [
            "socks5h://{proxy}:1080",
            "socks5://b\u{fc}cher.example:1080",
            "socks5://a%20b:1080",
            "socks5://a`b",
            "socks5:///x",
            "socks5:x",
            "http://{proxy}:3128",
            "http://",
        ] {
            let error = validate(proxy).unwrap_err().to_string();
            assert!(error.contains("proxy = ") && error.contains(proxy), "{error}");
        }
        for proxy in [
            "http://b\u{fc}cher.example:3128",
            "https://user:w%40rd@my_proxy-1.example",
            "socks5://[::1]:1080",
            "socks5h://user:word@10.1.0.2",
        ] {
            validate(proxy).unwrap();
        }
    }

    #[test]
    fn unknown_keys_are_refused_by_name() {
        let error = CrawlSpec::from_json(r#"{"dealy":"1s"}"#).unwrap_err();
        assert!(error.contains("dealy") && error.contains("delay"), "{error}");
    }
}
