//! What a crawl does differently with some of its URLs: rules for all that begin
//! with a prefix, or match a pattern.

use regex::{Regex, RegexSet, RegexSetBuilder};
use serde::{Deserialize, Serialize};

use crate::{
    canon::{Canon, CanonRule},
    spec::SpecError,
    units::Span,
    url::{CrawlUrl, UrlId},
};

/// Rules of a crawl at most; every URL is held against them.
const RULES_MAX: usize = 1_000;

/// Bytes that a crawl's patterns take at most as they are compiled.
const PATTERNS_BYTES_MAX: usize = 100 << 20;

/// The highest priority, and, below zero, the lowest.
pub const PRIORITY_MAX: i32 = 100;

/// How some of a crawl's URLs are treated.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct UrlRule {
    /// The rule is for URLs that begin so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
    /// The rule is for URLs that match this regular expression, and that no prefix is
    /// for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pattern: Option<String>,
    /// The wait after a fetch of such a URL, if it is longer than the host's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delay: Option<Span>,
    /// Pages fetched of such URLs on one host at most; none for no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pages: Option<u64>,
    /// Whether such a URL comes before others of its host (above 0) or after (below).
    #[serde(skip_serializing_if = "is_zero")]
    pub priority: i32,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_zero(number: &i32) -> bool {
    *number == 0
}

impl UrlRule {
    /// What the rule is for, in words.
    pub fn name(&self) -> String {
        match (&self.prefix, &self.pattern) {
            (Some(prefix), _) => format!("prefix {prefix}"),
            (None, pattern) => format!("pattern {:?}", pattern.as_deref().unwrap_or_default()),
        }
    }

    /// Names the rule's count among those of a host.
    pub fn key(&self) -> u64 {
        let id = UrlId::of(&self.name()).0;
        id[..8].iter().fold(0, |key, byte| key << 8 | u64::from(*byte))
    }
}

/// A crawl's rules, ready to be looked up.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    /// The canonical prefixes, the longest first, and the rules' indices.
    prefixes: Vec<(String, usize)>,
    /// All patterns at once, in the order of their rules.
    patterns: RegexSet,
    /// The patterns' rules' indices.
    by_pattern: Vec<usize>,
    rules: Vec<UrlRule>,
    /// The rules' [`UrlRule::key`]s.
    keys: Vec<u64>,
}

/// The budget that a URL counts against.
#[derive(Clone, Copy, Debug)]
pub struct Budget<'r> {
    /// The rule that sets it.
    pub rule: &'r UrlRule,
    /// The rule's [`UrlRule::key`].
    pub key: u64,
    /// Pages on one host at most.
    pub pages: u64,
}

impl Rules {
    /// The rules of a specification.
    ///
    /// # Errors
    /// If one cannot be.
    pub fn new(rules: &[UrlRule]) -> Result<Self, SpecError> {
        if rules.len() > RULES_MAX {
            let allowed = format!("at most {RULES_MAX} rules are allowed");
            return Err(SpecError::new("rules", rules.len(), allowed));
        }
        let keys = rules.iter().map(UrlRule::key).collect();
        let mut ready = Self { rules: rules.to_vec(), keys, ..Self::default() };
        let mut patterns = Vec::new();
        for (index, rule) in rules.iter().enumerate() {
            match (&rule.prefix, &rule.pattern) {
                (Some(prefix), None) => {
                    let canonical = CrawlUrl::parse(prefix).map_err(|error| {
                        SpecError::new("rules.prefix", prefix, error.to_string())
                    })?;
                    ready.prefixes.push((canonical.into(), index));
                }
                (None, Some(pattern)) => {
                    // By itself, so that what is wrong with it is said of it.
                    Regex::new(pattern).map_err(|_| {
                        let allowed = "a regular expression is allowed, and this is none";
                        SpecError::new("rules.pattern", pattern, allowed)
                    })?;
                    patterns.push(pattern);
                    ready.by_pattern.push(index);
                }
                _ => {
                    let allowed = "each rule has a prefix, or else a pattern";
                    return Err(SpecError::new("rules", rule.name(), allowed));
                }
            }
            if !(-PRIORITY_MAX..=PRIORITY_MAX).contains(&rule.priority) {
                let allowed = format!("-{PRIORITY_MAX} to {PRIORITY_MAX} is allowed");
                return Err(SpecError::new("rules.priority", rule.priority, allowed));
            }
            if rule.pages == Some(0) {
                return Err(SpecError::new("rules.pages", 0, "1 or more is allowed"));
            }
            let longest = Span::secs(24 * 60 * 60);
            if let Some(delay) = rule.delay.filter(|delay| *delay > longest) {
                let allowed = format!("0s to {longest} is allowed");
                return Err(SpecError::new("rules.delay", delay, allowed));
            }
        }
        let set = RegexSetBuilder::new(&patterns).size_limit(PATTERNS_BYTES_MAX).build();
        ready.patterns = set.map_err(|_| {
            let allowed = format!("together they take up to {PATTERNS_BYTES_MAX} bytes compiled");
            SpecError::new("rules.pattern", format!("{} patterns", patterns.len()), allowed)
        })?;
        ready.prefixes.sort_by_key(|(prefix, _)| std::cmp::Reverse(prefix.len()));
        Ok(ready)
    }

    /// Checks that URLs can begin as the prefixes do, if hosts have the canonical form that
    /// a crawl has chosen.
    ///
    /// # Errors
    /// With a prefix that none begins with.
    pub fn check_under(&self, canon: &[CanonRule]) -> Result<(), SpecError> {
        let of_hosts = [CanonRule::Https, CanonRule::TrailingDot, CanonRule::Www];
        let of_hosts: Vec<_> = of_hosts.into_iter().filter(|rule| canon.contains(rule)).collect();
        let canon = Canon::new(&of_hosts, &[])?;
        for (prefix, _) in &self.prefixes {
            let other = CrawlUrl::parse(prefix).ok().and_then(|url| canon.apply(&url));
            if let Some(other) = other {
                let allowed = format!("no URL of this crawl begins so; by its canon it is {other}");
                return Err(SpecError::new("rules.prefix", prefix, allowed));
            }
        }
        Ok(())
    }

    /// Whether there is no rule.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Whether a rule has a budget.
    pub fn have_budgets(&self) -> bool {
        self.rules.iter().any(|rule| rule.pages.is_some())
    }

    /// The rule for a canonical URL: that of the longest prefix, else the first pattern's.
    pub fn find(&self, url: &str) -> Option<&UrlRule> {
        self.rules.get(self.index(url)?)
    }

    /// The budget that a canonical URL's rule has.
    pub fn budget(&self, url: &str) -> Option<Budget<'_>> {
        let index = self.index(url)?;
        let (rule, key) = (self.rules.get(index)?, *self.keys.get(index)?);
        Some(Budget { rule, key, pages: rule.pages? })
    }

    fn index(&self, url: &str) -> Option<usize> {
        let prefix = self.prefixes.iter().find(|(prefix, _)| url.starts_with(prefix));
        let by_prefix = prefix.map(|(_, index)| *index);
        // Asking which of no patterns matches would cost an allocation for each link.
        let by_pattern = || match self.by_pattern.is_empty() {
            true => None,
            false => self.by_pattern.get(self.patterns.matches(url).iter().next()?).copied(),
        };
        by_prefix.or_else(by_pattern)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(prefix: Option<&str>, pattern: Option<&str>, priority: i32) -> UrlRule {
        let (prefix, pattern) = (prefix.map(Into::into), pattern.map(Into::into));
        UrlRule { prefix, pattern, priority, ..UrlRule::default() }
    }

    #[test]
    fn a_prefix_that_no_url_of_the_crawl_begins_with_is_refused() {
        let prefix = |prefix: &str| UrlRule { prefix: Some(prefix.into()), ..UrlRule::default() };
        let check = |url: &str, canon: &[CanonRule]| {
            Rules::new(&[prefix(url)]).unwrap().check_under(canon).map_err(|it| it.to_string())
        };
        let canon = [CanonRule::Https, CanonRule::Www, CanonRule::TrailingSlash];
        assert!(check("http://www.a.example/docs/", &[]).is_ok());
        assert!(check("https://a.example/docs/", &canon).is_ok());
        let error = check("http://www.a.example/docs/", &canon).unwrap_err();
        assert!(error.contains("https://a.example/docs/"), "{error}");
    }

    #[test]
    fn the_longest_prefix_wins_then_the_first_pattern() {
        let rules = Rules::new(&[
            rule(None, Some("/docs/"), 1),
            rule(Some("HTTP://A.example/docs/"), None, 2),
            rule(Some("http://a.example/docs/old/"), None, 3),
            rule(None, Some("old"), 4),
            UrlRule { pages: Some(7), ..rule(None, Some("budget$"), 5) },
        ])
        .unwrap();
        let budget = rules.budget("http://b.example/budget").map(|it| (it.rule.priority, it.pages));
        assert_eq!(budget, Some((5, 7)));
        assert!(rules.budget("http://b.example/old/budget").is_none(), "its rule has none");
        for (url, want) in [
            ("http://a.example/docs/x", Some(2)),
            ("http://a.example/docs/old/x", Some(3)),
            ("http://b.example/docs/old/x", Some(1)),
            ("http://b.example/old", Some(4)),
            ("http://a.example/", None),
        ] {
            assert_eq!(rules.find(url).map(|rule| rule.priority), want, "{url}");
        }
    }

    #[test]
    fn a_rule_that_cannot_be_says_why() {
        for (rule, part) in [
            (rule(None, None, 0), "prefix"),
            (rule(Some("http://a/"), Some("a"), 0), "or else"),
            (rule(Some("/docs/"), None, 0), "rules.prefix"),
            (rule(None, Some("("), 0), "regular expression"),
            (rule(None, Some("a"), 101), "-100 to 100"),
            (UrlRule { pages: Some(0), ..rule(None, Some("a"), 0) }, "1 or more"),
        ] {
            let error = Rules::new(&[rule]).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn counts_are_kept_by_what_a_rule_is_for() {
        let one = rule(Some("http://a.example/"), None, 1);
        assert_eq!(one.key(), UrlRule { priority: 2, ..one.clone() }.key());
        assert_ne!(one.key(), rule(Some("http://b.example/"), None, 1).key());
    }
}
