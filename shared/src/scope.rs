//! Which URLs a crawl admits. The worker asks before it offers a link, the
//! master before it believes the offer.

use std::collections::{BTreeSet, HashSet};

use regex::{Regex, RegexSet};
use serde::{Deserialize, Serialize};

use crate::{
    spec::{CrawlSpec, SpecError},
    url::CrawlUrl,
};

/// How far from its seeds a crawl may go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ScopeKind {
    /// The host (and port) of a seed, by http or https.
    #[default]
    Host,
    /// The registrable domain of a seed, with all its subdomains.
    Domain,
    /// Below the directory of a seed's path, on its host.
    Prefix,
    /// Anywhere.
    Any,
}

/// Why a URL is not admitted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Not where the seeds are.
    #[error("it is not on {}", .0.bound())]
    Outside(ScopeKind),
    /// Include patterns are given, and none matches.
    #[error("no include pattern matches")]
    NotIncluded,
    /// An exclude pattern matches.
    #[error("excluded by the pattern {0:?}")]
    Excluded(String),
    /// Too many links away from a seed.
    #[error("depth {depth} is beyond the limit of {max}")]
    TooDeep {
        /// Links from a seed.
        depth: u32,
        /// The crawl's limit.
        max: u32,
    },
}

/// How a page leads to a URL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// By a link.
    Link,
    /// By a redirect, or as a sitemap that its host's robots.txt names: who follows it is as
    /// far from the seeds as before, unless it leads away from where they are.
    Onwards,
}

impl Way {
    /// The way of an offer with so many redirects before it, and be it a sitemap of robots.txt.
    pub fn of(hops: u32, is_of_robots: bool) -> Self {
        if hops > 0 || is_of_robots { Self::Onwards } else { Self::Link }
    }
}

/// A crawl's scope, ready to judge.
#[derive(Clone, Debug)]
pub struct Scope {
    kind: ScopeKind,
    anchors: HashSet<String>,
    /// Bytes of the longest.
    anchor_bytes: usize,
    include: RegexSet,
    exclude: RegexSet,
    depth_max: Option<u32>,
    hops_off_site: u32,
}

impl ScopeKind {
    /// What keeps a URL in, in words.
    fn bound(self) -> &'static str {
        match self {
            Self::Host => "the host of a seed (scope host)",
            Self::Domain => "the registrable domain of a seed (scope domain)",
            Self::Prefix => "the host and below the directory of a seed (scope prefix)",
            Self::Any => "the web (scope any)",
        }
    }

    /// The kind's word, as settings have it.
    const fn word(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::Domain => "domain",
            Self::Prefix => "prefix",
            Self::Any => "any",
        }
    }

    /// What of a seed the scope hangs on; none for [`ScopeKind::Any`].
    pub fn anchor(self, seed: &CrawlUrl) -> Option<String> {
        match self {
            Self::Host => Some(seed.authority().to_owned()),
            Self::Domain => Some(seed.domain().to_owned()),
            Self::Prefix => {
                let path = seed.path();
                let directory = path.rfind('/').map_or("/", |slash| &path[..=slash]);
                Some(format!("{}{directory}", seed.authority()))
            }
            Self::Any => None,
        }
    }

    /// The anchors of a crawl's seeds, each once.
    pub fn anchors<'a>(self, seeds: impl IntoIterator<Item = &'a CrawlUrl>) -> BTreeSet<String> {
        seeds.into_iter().filter_map(|seed| self.anchor(seed)).collect()
    }
}

impl Scope {
    /// The scope of `spec`, hanging on `anchors` (see [`ScopeKind::anchors`]).
    ///
    /// # Errors
    /// If a pattern is not a regular expression.
    pub fn new(
        spec: &CrawlSpec,
        anchors: impl IntoIterator<Item = String>,
    ) -> Result<Self, SpecError> {
        let anchors: HashSet<String> = anchors.into_iter().collect();
        Ok(Self {
            kind: spec.scope,
            anchor_bytes: anchors.iter().map(String::len).max().unwrap_or(0),
            anchors,
            include: patterns("include", &spec.include)?,
            exclude: patterns("exclude", &spec.exclude)?,
            depth_max: spec.depth,
            hops_off_site: spec.hops_off_site,
        })
    }

    /// Whether a link at `depth` hops from a seed is admitted, found on a page where
    /// the seeds are. Seeds themselves always are, and need not be asked about.
    ///
    /// # Errors
    /// With the rule that refuses it.
    pub fn admit(&self, url: &CrawlUrl, depth: u32) -> Result<(), Refusal> {
        self.admit_from(url, depth, 0, Way::Link).map(|_| ())
    }

    /// Whether a URL at `depth` hops from a seed is admitted, to which that way leads from a
    /// page that is `off_site` links away from the last one where the seeds are. Returns the
    /// same of the URL: 0 if it is where they are.
    ///
    /// # Errors
    /// With the rule that refuses it.
    pub fn admit_from(
        &self,
        url: &CrawlUrl,
        depth: u32,
        off_site: u32,
        way: Way,
    ) -> Result<u32, Refusal> {
        if let Some(max) = self.depth_max
            && depth > max
        {
            return Err(Refusal::TooDeep { depth, max });
        }
        let off_site = match (self.anchor_of(url), way) {
            (Some(_), _) => 0,
            (None, Way::Link) => off_site.saturating_add(1),
            (None, Way::Onwards) => off_site.max(1),
        };
        if off_site > self.hops_off_site {
            return Err(Refusal::Outside(self.kind));
        }
        if !self.include.is_empty() && !self.include.is_match(url.as_str()) {
            return Err(Refusal::NotIncluded);
        }
        // Asking which of no patterns matches would cost an allocation for each link.
        if !self.exclude.is_empty()
            && let Some(first) = self.exclude.matches(url.as_str()).iter().next()
        {
            return Err(Refusal::Excluded(self.exclude.patterns()[first].clone()));
        }
        Ok(off_site)
    }

    /// What of the seeds a URL hangs on: a host, a domain or a directory; nothing, if
    /// it may be anywhere. None for a URL that is not where the seeds are.
    fn anchor_of<'s>(&'s self, url: &CrawlUrl) -> Option<&'s str> {
        let listed = |anchor: &str| self.anchors.get(anchor).map(String::as_str);
        match self.kind {
            ScopeKind::Any => Some(""),
            ScopeKind::Host => listed(url.authority()),
            ScopeKind::Domain => listed(url.domain()),
            ScopeKind::Prefix => {
                // Its directories, from the root on.
                let place = format!("{}{}", url.authority(), url.path());
                let directories = place.match_indices('/').map(|(at, _)| &place[..=at]);
                // A path of thousands of slashes is not looked up as often.
                let mut short = directories.take_while(|it| it.len() <= self.anchor_bytes);
                short.find_map(listed)
            }
        }
    }

    /// Which rule lets a URL in that is `off_site` links away from where the seeds are,
    /// in words.
    pub fn reason(&self, url: &CrawlUrl, off_site: u32) -> String {
        let place = match (self.kind, self.anchor_of(url)) {
            (ScopeKind::Any, _) => "scope any".to_owned(),
            (kind, Some(anchor)) => format!("scope {} of {anchor}", kind.word()),
            (kind, None) => {
                let max = self.hops_off_site;
                format!("outside scope {}, {off_site} of {max} hops off-site", kind.word())
            }
        };
        match self.include.matches(url.as_str()).iter().next() {
            Some(first) => format!("{place}, include {:?}", self.include.patterns()[first]),
            None => place,
        }
    }
}

fn patterns(key: &'static str, patterns: &[String]) -> Result<RegexSet, SpecError> {
    for pattern in patterns {
        Regex::new(pattern).map_err(|error| {
            SpecError::new(
                key,
                pattern,
                format!("a regular expression is allowed, and this is none: {}", brief(&error)),
            )
        })?;
    }
    RegexSet::new(patterns).map_err(|error| SpecError::new(key, patterns.join(" "), brief(&error)))
}

/// The last line of a regex error says what is wrong; those before draw it.
fn brief(error: &regex::Error) -> String {
    let text = error.to_string();
    text.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scope(kind: ScopeKind, seeds: &[&str], change: impl FnOnce(&mut CrawlSpec)) -> Scope {
        let mut spec = CrawlSpec { scope: kind, ..CrawlSpec::default() };
        change(&mut spec);
        let seeds: Vec<CrawlUrl> = seeds.iter().map(|s| s.parse().unwrap()).collect();
        Scope::new(&spec, kind.anchors(&seeds)).unwrap()
    }

    fn admits(scope: &Scope, url: &str) -> bool {
        scope.admit(&url.parse().unwrap(), 1).is_ok()
    }

    #[test]
    fn host_means_name_and_port_by_either_scheme() {
        let scope = scope(ScopeKind::Host, &["http://a.example/x"], |_| {});
        assert!(admits(&scope, "https://a.example/y"));
        assert!(!admits(&scope, "http://a.example:8080/"));
        assert!(!admits(&scope, "http://www.a.example/"));
    }

    #[test]
    fn domain_means_the_registrable_one() {
        let scope = scope(ScopeKind::Domain, &["http://www.example.co.uk/"], |_| {});
        assert!(admits(&scope, "http://shop.example.co.uk:81/"));
        assert!(!admits(&scope, "http://other.co.uk/"));
    }

    #[test]
    fn prefix_means_below_the_seeds_directory() {
        let scope = scope(ScopeKind::Prefix, &["http://a.example/docs/index.html"], |_| {});
        assert!(admits(&scope, "http://a.example/docs/b/c.html"));
        assert!(admits(&scope, "http://a.example/docs/"));
        assert!(!admits(&scope, "http://a.example/"));
        assert!(!admits(&scope, "http://a.example/docsx"));
        assert!(!admits(&scope, "http://a.example.evil.example/docs/"));
    }

    #[test]
    fn patterns_and_depth_narrow_any_scope() {
        let scope = scope(ScopeKind::Any, &["http://a.example/"], |spec| {
            spec.include = vec![r"\.html$".into()];
            spec.exclude = vec!["private".into()];
            spec.depth = Some(3);
        });
        assert!(admits(&scope, "http://b.example/x.html"));
        let refusal = |url: &str, depth| scope.admit(&url.parse().unwrap(), depth).unwrap_err();
        assert_eq!(refusal("http://b.example/x.pdf", 1), Refusal::NotIncluded);
        assert_eq!(
            refusal("http://b.example/private/x.html", 1),
            Refusal::Excluded("private".into())
        );
        assert_eq!(refusal("http://b.example/x.html", 4), Refusal::TooDeep { depth: 4, max: 3 });
    }

    #[test]
    fn hops_off_site_are_counted_from_the_last_page_in_scope() {
        let scope = scope(ScopeKind::Host, &["http://a.example/"], |spec| {
            spec.hops_off_site = 2;
            spec.exclude = vec!["private".into()];
        });
        let by =
            |way, off_site, url: &str| scope.admit_from(&url.parse().unwrap(), 1, off_site, way);
        let from = |off_site, url: &str| by(Way::Link, off_site, url);
        assert_eq!(from(0, "http://b.example/"), Ok(1));
        assert_eq!(from(1, "http://b.example/x"), Ok(2));
        assert_eq!(from(2, "http://c.example/"), Err(Refusal::Outside(ScopeKind::Host)));
        assert_eq!(from(2, "http://a.example/x"), Ok(0), "back on site");
        let onwards = |off_site, url: &str| by(Way::Onwards, off_site, url);
        assert_eq!(onwards(2, "http://www.c.example/"), Ok(2), "a redirect is no link");
        assert_eq!(onwards(0, "http://b.example/"), Ok(1), "but may lead away");
        assert_eq!(onwards(2, "http://a.example/"), Ok(0));
        let excluded = Err(Refusal::Excluded("private".into()));
        assert_eq!(from(0, "http://b.example/private"), excluded);
    }

    #[test]
    fn the_rule_that_lets_a_url_in_is_named() {
        let reason = |scope: &Scope, url: &str, off| scope.reason(&url.parse().unwrap(), off);
        let seeds = ["http://www.a.example/d/x"];
        let domain = scope(ScopeKind::Domain, &seeds, |_| {});
        assert_eq!(reason(&domain, "http://b.a.example/", 0), "scope domain of a.example");
        let prefix = scope(ScopeKind::Prefix, &seeds, |spec| {
            spec.include = vec!["^x".into(), "html$".into()];
            spec.hops_off_site = 3;
        });
        assert_eq!(
            reason(&prefix, "http://www.a.example/d/y.html", 0),
            "scope prefix of www.a.example/d/, include \"html$\""
        );
        assert_eq!(
            reason(&prefix, "http://c.example/", 1),
            "outside scope prefix, 1 of 3 hops off-site"
        );
    }

    #[test]
    fn a_bad_pattern_names_itself() {
        let spec = CrawlSpec { exclude: vec!["a(b".into()], ..CrawlSpec::default() };
        let error = Scope::new(&spec, []).unwrap_err().to_string();
        assert!(
            error.contains("exclude") && error.contains("a(b") && error.contains("unclosed"),
            "{error}"
        );
    }
}
