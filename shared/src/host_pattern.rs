//! Which hosts a rule is about: `example.org`, `*.example.org`, or `*`, each with a
//! port where that matters.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use url::Host;

use crate::url::CrawlUrl;

/// A pattern of hosts. `example.org` is that host alone; `*.example.org` is every host
/// below it, and not itself; `*` is every host. With a port (`example.org:8443`) only
/// that port is meant, without one any. Names are compared as the URL standard has
/// them: in lower case, international ones in their ASCII form.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HostPattern {
    names: Names,
    port: Option<u16>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Names {
    Any,
    /// A host, an IPv6 address in brackets.
    One(String),
    /// The hosts below this one.
    Below(String),
}

/// Why a text is no pattern of hosts.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no host; one such as example.org, *.example.org or example.org:8443 is")]
pub struct HostPatternError(String);

impl HostPattern {
    /// Whether the URL's host is one of those.
    pub fn matches(&self, url: &CrawlUrl) -> bool {
        let host = url.host().trim_end_matches('.');
        let is_named = match &self.names {
            Names::Any => true,
            Names::One(name) => name == host,
            // An address has no hosts below it, and ends with no name either.
            Names::Below(name) => {
                host.strip_suffix(name.as_str()).is_some_and(|below| below.ends_with('.'))
            }
        };
        is_named && self.port.is_none_or(|port| port == url.port_or_default())
    }

    /// Whether hosts of different owners are meant: `*`, and what is below a public
    /// suffix, such as `*.co.uk`, or consists of such, as `*.kawasaki.jp`. What nobody but
    /// one owner may see is not for those.
    pub fn is_of_many_owners(&self) -> bool {
        match &self.names {
            Names::Any => true,
            Names::One(_) => false,
            // The list may say that whatever stands before a name makes a suffix of it.
            Names::Below(name) => is_public_suffix(name) || is_public_suffix(&format!("x.{name}")),
        }
    }
}

fn is_public_suffix(name: &str) -> bool {
    psl::suffix(name.as_bytes())
        .is_some_and(|suffix| suffix.is_known() && suffix.as_bytes() == name.as_bytes())
}

impl FromStr for HostPattern {
    type Err = HostPatternError;

    fn from_str(text: &str) -> Result<Self, HostPatternError> {
        let odd = || HostPatternError(text.to_owned());
        let colon = text.rfind(':').filter(|colon| !text[*colon..].contains(']'));
        let (name, port) = match colon {
            Some(colon) => {
                let port: u16 = text[colon + 1..].parse().map_err(|_| odd())?;
                (&text[..colon], Some(port))
            }
            None => (text, None),
        };
        let host = |name: &str| match Host::parse(name.trim_end_matches('.')) {
            Ok(host) if !name.contains('*') => Ok(host),
            _ => Err(odd()),
        };
        let names = match name.strip_prefix("*.") {
            _ if name == "*" => Names::Any,
            Some(name) => match host(name)? {
                Host::Domain(name) => Names::Below(name),
                Host::Ipv4(_) | Host::Ipv6(_) => return Err(odd()),
            },
            None => Names::One(host(name)?.to_string()),
        };
        Ok(Self { names, port })
    }
}

impl TryFrom<String> for HostPattern {
    type Error = HostPatternError;

    fn try_from(text: String) -> Result<Self, HostPatternError> {
        text.parse()
    }
}

impl From<HostPattern> for String {
    fn from(pattern: HostPattern) -> Self {
        pattern.to_string()
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.names {
            Names::Any => write!(f, "*")?,
            Names::One(name) => write!(f, "{name}")?,
            Names::Below(name) => write!(f, "*.{name}")?,
        }
        match self.port {
            Some(port) => write!(f, ":{port}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(text: &str) -> HostPattern {
        text.parse().unwrap()
    }

    fn matches(text: &str, url: &str) -> bool {
        pattern(text).matches(&url.parse().unwrap())
    }

    #[test]
    fn a_pattern_means_a_host_the_hosts_below_it_or_all() {
        for (text, url, is_meant) in [
            ("example.org", "https://example.org/a", true),
            ("EXAMPLE.org.", "http://example.org:81/", true),
            ("example.org", "http://example.org./", true),
            ("example.org", "http://www.example.org/", false),
            ("example.org", "http://example.org.evil.example/", false),
            ("*.example.org", "http://www.example.org/", true),
            ("*.example.org", "http://a.b.example.org/", true),
            ("*.example.org", "http://example.org/", false),
            ("*.example.org", "http://badexample.org/", false),
            ("*.example.org", "http://www.example.org.evil.example/", false),
            ("*", "http://anything.example/", true),
            ("*:8080", "http://anything.example/", false),
            ("example.org:443", "https://example.org/", true),
            ("example.org:443", "http://example.org/", false),
            ("b\u{fc}cher.example", "http://xn--bcher-kva.example/", true),
            ("127.1", "http://127.0.0.1:5/", true),
            ("[::1]", "http://[0:0::1]/", true),
            ("[::1]:80", "http://[::1]/", true),
            ("[::1]:81", "http://[::1]/", false),
        ] {
            assert_eq!(matches(text, url), is_meant, "{text} {url}");
        }
    }

    #[test]
    fn what_is_no_host_is_refused_by_name() {
        for text in ["", "*.", "a*.example", "**", "a b", "example.org:", "x:99999", "*.127.0.0.1"]
        {
            let error = text.parse::<HostPattern>().unwrap_err().to_string();
            assert!(error.starts_with(&format!("{text:?} is no host")), "{error}");
        }
    }

    #[test]
    fn a_pattern_is_written_as_it_is_read() {
        for text in ["example.org", "*.example.org:8443", "*", "[::1]:80", "10.0.0.1"] {
            assert_eq!(pattern(text).to_string(), text);
        }
    }

    #[test]
    fn public_suffixes_have_many_owners() {
        for text in [
            "*",
            "*.com",
            "*.co.uk",
            "*.github.io",
            "*:8080",
            "*.kawasaki.jp",
            "*.anything.kawasaki.jp",
            "*.compute.amazonaws.com",
            "*.ck",
        ] {
            assert!(pattern(text).is_of_many_owners(), "{text}");
        }
        for text in ["*.example.com", "com", "*.intranet", "example.co.uk", "*.city.kawasaki.jp"] {
            assert!(!pattern(text).is_of_many_owners(), "{text}");
        }
    }
}
