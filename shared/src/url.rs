//! The URL as a crawl knows it: its canonical form, its id, and its host key.
//!
//! Canonical form, rules version 1: what the WHATWG URL standard serialises
//! (lower-case host, no default port, no dot segments, percent-encoding), with
//! the fragment and the userinfo dropped. The query is kept as it is. Two
//! strings with the same canonical form are the same page.

use std::{fmt, str::FromStr};

use sha1::{Digest, Sha1};
use url::{Host, Position, Url};

/// Version of the canonicalisation rules. It is stored with a data directory,
/// because other rules would mean other ids.
pub const CANON_VERSION: u32 = 1;

/// Bytes of the longest URL that is admitted. Longer ones are refused before
/// they are parsed.
pub const URL_BYTES_MAX: usize = 2_048;

/// A URL in canonical form: http or https, with a host, at most
/// [`URL_BYTES_MAX`] long.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CrawlUrl(Url);

/// SHA-1 of the canonical URL; names the URL in the visited set and the page in
/// the page store.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UrlId(pub [u8; 20]);

/// Scheme, host and port, as in `https://example.org:8443` (the default port is
/// left out): what politeness counts by.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HostKey(String);

/// Why a string is not a URL that can be crawled.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum UrlError {
    /// The URL standard cannot make a URL of it.
    #[error("not a URL ({0}); a crawl needs one such as https://example.org/")]
    Syntax(url::ParseError),
    /// Another scheme.
    #[error("scheme {0:?} cannot be crawled; only http and https can")]
    Scheme(String),
    /// Too long.
    #[error("{0} bytes long; at most {URL_BYTES_MAX} are allowed")]
    TooLong(usize),
}

impl CrawlUrl {
    /// The canonical form of an absolute URL.
    ///
    /// # Errors
    /// If it is not a URL, not http(s), or too long.
    pub fn parse(text: &str) -> Result<Self, UrlError> {
        if text.len() > URL_BYTES_MAX {
            return Err(UrlError::TooLong(text.len()));
        }
        Self::canonical(Url::parse(text).map_err(UrlError::Syntax)?)
    }

    /// The canonical form of `reference` as found on the page `base`.
    ///
    /// # Errors
    /// As [`CrawlUrl::parse`].
    pub fn join(base: &Url, reference: &str) -> Result<Self, UrlError> {
        if reference.len() > URL_BYTES_MAX {
            return Err(UrlError::TooLong(reference.len()));
        }
        Self::canonical(base.join(reference).map_err(UrlError::Syntax)?)
    }

    fn canonical(mut url: Url) -> Result<Self, UrlError> {
        if !matches!(url.scheme(), "http" | "https") {
            return Err(UrlError::Scheme(url.scheme().into()));
        }
        if url.fragment().is_some() {
            url.set_fragment(None);
        }
        // Both fail only for URLs without a host, which http and https never are.
        if !url.username().is_empty() {
            let _ = url.set_username("");
        }
        if url.password().is_some() {
            let _ = url.set_password(None);
        }
        let bytes = url.as_str().len();
        if bytes > URL_BYTES_MAX {
            return Err(UrlError::TooLong(bytes));
        }
        Ok(Self(url))
    }

    /// The canonical string.
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }

    /// The parsed URL.
    pub fn url(&self) -> &Url {
        &self.0
    }

    /// The URL's id.
    pub fn id(&self) -> UrlId {
        UrlId::of(self.as_str())
    }

    /// The host key.
    pub fn host_key(&self) -> HostKey {
        HostKey(self.host_key_str().to_owned())
    }

    /// The host key, borrowed.
    pub fn host_key_str(&self) -> &str {
        &self.0[..Position::AfterPort]
    }

    /// Path and query: the canonical string without its host key.
    pub fn path_and_query(&self) -> &str {
        &self.0[Position::BeforePath..]
    }

    /// Host and, unless it is the scheme's default, port: `example.org:8443`.
    pub fn authority(&self) -> &str {
        &self.0[Position::BeforeHost..Position::AfterPort]
    }

    /// The registrable domain by the public suffix list, such as `example.co.uk`;
    /// for an address, or a name that has none, the host itself.
    pub fn domain(&self) -> &str {
        let host = self.0.host_str().unwrap_or_default();
        match self.0.host() {
            Some(Host::Domain(name)) => psl::domain_str(name).unwrap_or(host),
            _ => host,
        }
    }
}

impl fmt::Display for CrawlUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        crate::untrusted::Untrusted(self.as_str()).fmt(f)
    }
}

impl FromStr for CrawlUrl {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Self, UrlError> {
        Self::parse(text)
    }
}

impl UrlId {
    /// The id of a canonical URL.
    pub fn of(canonical: &str) -> Self {
        Self(Sha1::digest(canonical.as_bytes()).into())
    }

    /// The id in its 20 bytes, as it travels on the wire.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }
}

impl FromStr for UrlId {
    type Err = ();

    /// Reads what [`UrlId`]'s `Display` writes.
    fn from_str(hex: &str) -> Result<Self, ()> {
        let bytes = data_encoding::HEXLOWER.decode(hex.as_bytes()).map_err(|_| ())?;
        Self::from_bytes(&bytes).ok_or(())
    }
}

impl fmt::Display for UrlId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&data_encoding::HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for UrlId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl HostKey {
    /// A host key as it was stored or sent; it is not checked again.
    pub fn trusted(key: String) -> Self {
        Self(key)
    }

    /// The key's string.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for HostKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        crate::untrusted::Untrusted(&self.0).fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn canonical(text: &str) -> String {
        CrawlUrl::parse(text).unwrap().as_str().to_owned()
    }

    #[test]
    fn canonical_form_is_the_standards_without_fragment_and_userinfo() {
        for (given, want) in [
            ("HTTP://Example.ORG", "http://example.org/"),
            ("http://example.org:80/a/../b/./c#top", "http://example.org/b/c"),
            ("https://user:secret@example.org:443/?q=1#x", "https://example.org/?q=1"),
            ("http://example.org/?", "http://example.org/?"),
            ("http://example.org/ä b", "http://example.org/%C3%A4%20b"),
            ("http://bücher.example/", "http://xn--bcher-kva.example/"),
            ("http://0x7f.1/", "http://127.0.0.1/"),
            ("http://[::ffff:1.2.3.4]:8080/", "http://[::ffff:102:304]:8080/"),
        ] {
            assert_eq!(canonical(given), want);
        }
    }

    #[test]
    fn what_cannot_be_crawled_says_why() {
        let error = |text: &str| CrawlUrl::parse(text).unwrap_err().to_string();
        assert!(error("example.org").contains("not a URL"));
        assert!(error("ftp://example.org/").contains("only http and https"));
        assert!(error("mailto:a@example.org").contains("\"mailto\""));
        assert!(error("http://").contains("not a URL"));
        assert!(
            error(&format!("http://example.org/{}", "a".repeat(2_048))).contains("at most 2048")
        );
    }

    #[test]
    fn the_parts_of_a_url() {
        let url = CrawlUrl::parse("https://www.example.co.uk:8443/a?b=c").unwrap();
        assert_eq!(url.host_key().as_str(), "https://www.example.co.uk:8443");
        assert_eq!(url.authority(), "www.example.co.uk:8443");
        assert_eq!(url.path_and_query(), "/a?b=c");
        assert_eq!(url.domain(), "example.co.uk");
        assert_eq!(CrawlUrl::parse("http://127.0.0.1:80/").unwrap().domain(), "127.0.0.1");
        assert_eq!(CrawlUrl::parse("http://localhost/").unwrap().domain(), "localhost");
    }

    #[test]
    fn the_id_is_the_sha1_of_the_canonical_string() {
        let id = CrawlUrl::parse("http://EXAMPLE.org").unwrap().id();
        // printf 'http://example.org/' | sha1sum
        assert_eq!(id.to_string(), "bbf5caaf2e8efeeaf919e0d84a683f4b4d8a2c15");
    }
}
