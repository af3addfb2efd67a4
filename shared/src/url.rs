//! The URL as a crawl knows it: its canonical form, its id, and its host key.
//!
//! Canonical form, rules version 1: what the WHATWG URL standard serialises
//! (lower-case host, no default port, no dot segments, percent-encoding), with
//! the fragment and the userinfo dropped. The query is kept as it is. Two
//! strings with the same canonical form are the same page. Further rules that a
//! crawl may choose are in [`crate::canon`]; `docs/urls.md` lists all of them.

use std::{fmt, net::IpAddr, str::FromStr};

use sha1::{Digest, Sha1};
use url::{Host, Position, Url};

/// Version of the canonicalisation rules. It is stored with a data directory,
/// because other rules would mean other ids.
pub const CANON_VERSION: u32 = 1;

/// Bytes of the longest URL that is admitted. Longer ones are refused before
/// they are parsed.
pub const URL_BYTES_MAX: usize = 2_048;

/// Ports that other protocols own. Whatever speaks on them may take a request for
/// a command of its own, so that nothing is ever sent there: the list of bad ports
/// of the WHATWG Fetch standard (§2.9, port blocking), in ascending order.
pub const BAD_PORTS: [u16; 83] = [
    0, 1, 7, 9, 11, 13, 15, 17, 19, 20, 21, 22, 23, 25, 37, 42, 43, 53, 69, 77, 79, 87, 95, 101,
    102, 103, 104, 109, 110, 111, 113, 115, 117, 119, 123, 135, 137, 139, 143, 161, 179, 389, 427,
    465, 512, 513, 514, 515, 526, 530, 531, 532, 540, 548, 554, 556, 563, 587, 601, 636, 989, 990,
    993, 995, 1719, 1720, 1723, 2049, 3659, 4045, 4190, 5060, 5061, 6000, 6566, 6665, 6666, 6667,
    6668, 6669, 6679, 6697, 10080,
];

/// Bytes of one label of a host's name, and of the whole name, at most (RFC 1035
/// §2.3.4). No name server knows a longer one.
const NAME_BYTES_MAX: (usize, usize) = (63, 253);

/// A URL in canonical form: http or https, with a host, on a port that may be
/// asked, at most [`URL_BYTES_MAX`] long.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CrawlUrl {
    text: String,
    /// Where host and port end and the path begins.
    path_at: usize,
}

/// What the references of a page are resolved against.
#[derive(Clone, Debug)]
pub struct Base {
    url: Url,
    /// Nothing for a URL whose canonical form does not begin as it does.
    plain: Option<Plain>,
}

/// Where the parts of a base are that plain references need.
#[derive(Clone, Copy, Debug)]
struct Plain {
    /// The first slash of the path.
    path_at: usize,
    /// Behind the last slash of the path.
    directory_end: usize,
}

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
    /// The port is another protocol's.
    #[error("port {0} belongs to another protocol, nothing is fetched from it")]
    Port(u16),
    /// The host's name can be no name server's.
    #[error("no host can have this name: each part has 1 to 63 bytes, the whole at most 253")]
    Host,
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

    /// The canonical form of `reference` as found on this page.
    ///
    /// # Errors
    /// As [`CrawlUrl::parse`].
    pub fn join(&self, reference: &str) -> Result<Self, UrlError> {
        Base::new(self.to_url()?).join(reference)
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
        check_server(&url)?;
        escape_caret(&mut url);
        let path_at = url[..Position::BeforePath].len();
        Self::checked(url.into(), path_at)
    }

    fn checked(text: String, path_at: usize) -> Result<Self, UrlError> {
        if text.len() > URL_BYTES_MAX {
            return Err(UrlError::TooLong(text.len()));
        }
        Ok(Self { text, path_at })
    }

    /// The canonical string.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The URL as the `url` crate has it, parsed anew.
    ///
    /// # Errors
    /// None that is known: a canonical string is a URL.
    pub fn to_url(&self) -> Result<Url, UrlError> {
        Url::parse(&self.text).map_err(UrlError::Syntax)
    }

    /// The URL's id.
    pub fn id(&self) -> UrlId {
        UrlId::of(self.as_str())
    }

    /// `http` or `https`.
    pub fn scheme(&self) -> &str {
        if self.text.starts_with("https") { "https" } else { "http" }
    }

    /// The host key.
    pub fn host_key(&self) -> HostKey {
        HostKey(self.host_key_str().to_owned())
    }

    /// The host key, borrowed.
    pub fn host_key_str(&self) -> &str {
        &self.text[..self.path_at]
    }

    /// Host and, unless it is the scheme's default, port: `example.org:8443`.
    pub fn authority(&self) -> &str {
        &self.text[self.scheme().len() + "://".len()..self.path_at]
    }

    /// The host: a name, or an address, in square brackets if it is an IPv6 one.
    pub fn host(&self) -> &str {
        let authority = self.authority();
        let port = authority.rfind(':').filter(|colon| !authority[*colon..].contains(']'));
        &authority[..port.unwrap_or(authority.len())]
    }

    /// The host, if it is an address.
    pub fn address(&self) -> Option<IpAddr> {
        match self.host().strip_prefix('[') {
            Some(address) => address.strip_suffix(']')?.parse().ok().map(IpAddr::V6),
            None => self.host().parse().ok().map(IpAddr::V4),
        }
    }

    /// The port, unless it is the scheme's default.
    pub fn port(&self) -> Option<u16> {
        self.authority()[self.host().len()..].strip_prefix(':')?.parse().ok()
    }

    /// The port, be it the scheme's default.
    pub fn port_or_default(&self) -> u16 {
        self.port().unwrap_or(if self.scheme() == "https" { 443 } else { 80 })
    }

    /// Path and query: the canonical string without its host key.
    pub fn path_and_query(&self) -> &str {
        &self.text[self.path_at..]
    }

    /// The path.
    pub fn path(&self) -> &str {
        self.path_and_query().split_once('?').map_or(self.path_and_query(), |(path, _)| path)
    }

    /// What follows the question mark, if there is one.
    pub fn query(&self) -> Option<&str> {
        self.path_and_query().split_once('?').map(|(_, query)| query)
    }

    /// The registrable domain by the public suffix list, such as `example.co.uk`;
    /// for an address, or a name that has none, the host itself.
    pub fn domain(&self) -> &str {
        match self.address() {
            Some(_) => self.host(),
            None => psl::domain_str(self.host()).unwrap_or(self.host()),
        }
    }
}

impl Base {
    /// A base, canonical or not, of any scheme.
    pub fn new(url: Url) -> Self {
        let is_web = matches!(url.scheme(), "http" | "https");
        let is_plain = is_web
            && url.username().is_empty()
            && url.password().is_none()
            && !url.path().contains('^')
            && check_server(&url).is_ok();
        let plain = is_plain.then(|| {
            let path_at = url[..Position::BeforePath].len();
            let last_slash = url.path().rfind('/').unwrap_or_default();
            Plain { path_at, directory_end: path_at + last_slash + 1 }
        });
        Self { url, plain }
    }

    /// The canonical form of `reference`.
    ///
    /// # Errors
    /// As [`CrawlUrl::parse`].
    pub fn join(&self, reference: &str) -> Result<CrawlUrl, UrlError> {
        if reference.len() > URL_BYTES_MAX {
            return Err(UrlError::TooLong(reference.len()));
        }
        if let Some((text, path_at)) = self.join_plain(reference) {
            return CrawlUrl::checked(text, path_at);
        }
        CrawlUrl::canonical(self.url.join(reference).map_err(UrlError::Syntax)?)
    }

    /// What [`Url::join`] would make of a reference such as `../b/c.html?d=e` or
    /// `/b/c.html`, at a tenth of its cost: nearly all links are such. None for
    /// whatever takes more than to put two strings together.
    fn join_plain(&self, reference: &str) -> Option<(String, usize)> {
        let Plain { path_at, directory_end } = self.plain?;
        let base = self.url.as_str();
        let reference = match reference.strip_prefix(&base[..path_at]) {
            Some(path) if path.starts_with('/') => path,
            _ => reference,
        };
        let (path, query) = match reference.find('?') {
            Some(at) => reference.split_at(at),
            None => (reference, ""),
        };
        let is_plain = !path.is_empty()
            && path.bytes().all(is_plain_in_path)
            && query.bytes().all(is_plain_in_query);
        if !is_plain {
            return None;
        }
        let (mut directory, mut rest) = match path.strip_prefix('/') {
            Some(rest) => (&base[..=path_at], rest),
            None => (&base[..directory_end], path),
        };
        while let Some(up) = rest.strip_prefix("../") {
            rest = up;
            let parent = base[path_at..directory.len() - 1].rfind('/');
            directory = &base[..=path_at + parent.unwrap_or_default()];
        }
        let mut segments = rest.split('/');
        let last = segments.next_back().unwrap_or_default();
        if is_dots(last) || segments.any(|segment| segment.is_empty() || is_dots(segment)) {
            return None;
        }
        let mut text = String::with_capacity(directory.len() + rest.len() + query.len());
        text.extend([directory, rest, query]);
        Some((text, path_at))
    }
}

/// Whether there may be something to ask at the host and port of a web URL.
fn check_server(url: &Url) -> Result<(), UrlError> {
    if let Some(port) = url.port()
        && BAD_PORTS.binary_search(&port).is_ok()
    {
        return Err(UrlError::Port(port));
    }
    let Some(Host::Domain(name)) = url.host() else { return Ok(()) };
    let (label_max, name_max) = NAME_BYTES_MAX;
    // The dot at the end of a name stands for the root.
    let name = name.strip_suffix('.').unwrap_or(name);
    let is_name = name.len() <= name_max
        && name.split('.').all(|label| !label.is_empty() && label.len() <= label_max);
    if is_name { Ok(()) } else { Err(UrlError::Host) }
}

/// Escapes what the standard escapes in a path and the `url` crate does not yet
/// (<https://github.com/servo/rust-url/issues/1140>).
fn escape_caret(url: &mut Url) {
    if url.path().contains('^') {
        let path = url.path().replace('^', "%5E");
        url.set_path(&path);
    }
}

/// Bytes that the URL standard leaves as they are in a path, wherever they stand.
fn is_plain_in_path(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"/-_.~+,=&@!();".contains(&byte)
}

/// Likewise in a query.
fn is_plain_in_query(byte: u8) -> bool {
    is_plain_in_path(byte) || matches!(byte, b'?' | b'%' | b':')
}

fn is_dots(segment: &str) -> bool {
    matches!(segment, "." | "..")
}

impl fmt::Display for CrawlUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        crate::untrusted::Untrusted::new(self.as_str()).fmt(f)
    }
}

impl From<CrawlUrl> for String {
    fn from(url: CrawlUrl) -> Self {
        url.text
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
        crate::untrusted::Untrusted::new(&self.0).fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

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
            ("http://example.org/a^b{|}?c^{|}", "http://example.org/a%5Eb%7B|%7D?c^{|}"),
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

    /// Cases of the web platform tests, as input, base and result; see
    /// `tests/fixtures/wpt_urls.md`.
    #[test]
    fn urls_are_read_as_the_web_platform_tests_say() {
        let cases = include_str!("../../tests/fixtures/wpt_urls.json");
        let cases: Vec<(String, Option<String>, Option<String>)> =
            serde_json::from_str(cases).unwrap();
        let mut refused = 0;
        for (input, base, want) in &cases {
            let got = match base {
                Some(base) => Base::new(Url::parse(base).unwrap()).join(input),
                None => CrawlUrl::parse(input),
            };
            // What always holds beyond the standard: no fragment, no userinfo.
            let want = want.as_ref().map(|want| {
                let (scheme, rest) = want.split_once("://").unwrap();
                let rest = rest.split('#').next().unwrap();
                let authority = &rest[..rest.find('/').unwrap()];
                let host = authority.rsplit('@').next().unwrap();
                format!("{scheme}://{host}{}", &rest[authority.len()..])
            });
            match (got, want) {
                (Ok(got), Some(want)) => assert_eq!(got.as_str(), want, "{input:?} on {base:?}"),
                (Err(_), None) => {}
                (Err(UrlError::Port(_) | UrlError::Host), Some(_)) => refused += 1,
                (got, want) => panic!("{input:?} on {base:?} is {got:?}, not {want:?}"),
            }
        }
        assert!(cases.len() > 400 && refused < 30, "{refused} of {} are refused", cases.len());
    }

    #[test]
    fn nothing_is_asked_on_the_ports_of_other_protocols() {
        assert!(BAD_PORTS.is_sorted());
        for port in [22, 25, 6000, 10080] {
            let refused = Err(UrlError::Port(port));
            assert_eq!(CrawlUrl::parse(&format!("http://h.test:{port}/")), refused);
            assert_eq!(CrawlUrl::parse(&format!("https://[::1]:{port}/x")), refused);
            let base = Url::parse(&format!("http://h.test:{port}/a")).unwrap();
            assert_eq!(Base::new(base).join("b"), refused, "nor by a base");
        }
        for port in [80, 443, 8080, 8443, 65535] {
            assert!(CrawlUrl::parse(&format!("http://h.test:{port}/")).is_ok());
        }
    }

    #[test]
    fn hostile_forms_are_read_as_a_browser_reads_them_or_not_at_all() {
        let label = "a".repeat(63);
        let long = format!("http://{label}.test/");
        for (given, want) in [
            ("ht\ntp://h.te\tst/a\r\nb", Some("http://h.test/ab")),
            ("  http://h.test/ \u{0}", Some("http://h.test/")),
            ("http:\\\\h.test\\a\\..\\b", Some("http://h.test/b")),
            ("http:h.test/x", Some("http://h.test/x")),
            ("http:////h.test/x", Some("http://h.test/x")),
            ("http://user:pass@h.test@evil.test/", Some("http://evil.test/")),
            ("http://1.1.1.1 &@2.2.2.2# @3.3.3.3/", Some("http://2.2.2.2/")),
            ("http://1.1.1.1&@2.2.2.2#@3.3.3.3/", Some("http://2.2.2.2/")),
            ("http://h.test#@evil.test/", Some("http://h.test/")),
            ("http://h.test?@evil.test/", Some("http://h.test/?@evil.test/")),
            ("http://017700000001/", Some("http://127.0.0.1/")),
            ("http://2130706433/", Some("http://127.0.0.1/")),
            ("http://127.1/", Some("http://127.0.0.1/")),
            ("http://①②⑦.⓪.⓪.①/", Some("http://127.0.0.1/")),
            ("http://faß.test/", Some("http://xn--fa-hia.test/")),
            ("http://xn--bcher-kva.test/", Some("http://xn--bcher-kva.test/")),
            ("http://localhost/", Some("http://localhost/")),
            ("http://example.com./", Some("http://example.com./")),
            (&long, Some(&long)),
            ("http://h.test/%00%zz", Some("http://h.test/%00%zz")),
            ("http://h%00.test/", None),
            ("http://h\u{0}.test/", None),
            ("http://h.test:/", Some("http://h.test/")),
            ("http://h.test:65536/", None),
            ("http://h.test:80a/", None),
            ("http://[::1/", None),
            ("http://1.2.3.256/", None),
            ("http://1.2.3.4.5/", None),
            ("http://a..test/", None),
            ("http://./", None),
            ("http://h.test../", None),
            ("http://a b.test/", None),
            ("http://xn--/", None),
            (&format!("http://{label}a.test/"), None),
            (&format!("http://{}test/", "a.".repeat(125)), None),
        ] {
            let got = CrawlUrl::parse(given).ok();
            assert_eq!(got.as_ref().map(CrawlUrl::as_str), want, "{given:?}");
        }
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
    fn hosts_are_names_or_addresses() {
        for (url, host, address, port) in [
            ("http://localhost/a:b", "localhost", None, None),
            ("https://a.example:8443/?x=]:1", "a.example", None, Some(8443)),
            ("http://0x7f.1/", "127.0.0.1", Some("127.0.0.1"), None),
            ("http://1.2.3.4:80/", "1.2.3.4", Some("1.2.3.4"), None),
            ("http://[::1]/", "[::1]", Some("::1"), None),
            ("http://[2001:db8::1]:81/", "[2001:db8::1]", Some("2001:db8::1"), Some(81)),
        ] {
            let url = CrawlUrl::parse(url).unwrap();
            assert_eq!((url.host(), url.port()), (host, port), "{url}");
            assert_eq!(url.address(), address.map(|address| address.parse().unwrap()), "{url}");
        }
        let url = CrawlUrl::parse("http://h.test/a/b?c?d").unwrap();
        assert_eq!((url.path(), url.query()), ("/a/b", Some("c?d")));
        assert_eq!((url.scheme(), url.port_or_default()), ("http", 80));
        let url = CrawlUrl::parse("https://h.test/").unwrap();
        assert_eq!((url.path(), url.query()), ("/", None));
        assert_eq!((url.scheme(), url.port_or_default()), ("https", 443));
    }

    /// What the URL standard makes of a reference, by its book.
    fn joined_by_the_book(base: &Url, reference: &str) -> Result<CrawlUrl, UrlError> {
        CrawlUrl::canonical(base.join(reference).map_err(UrlError::Syntax)?)
    }

    #[test]
    fn plain_references_are_joined_without_the_parser() {
        let base = Base::new(Url::parse("http://h.test:81/a/b/c.html?x=/y/#z").unwrap());
        for (reference, want) in [
            ("d.html", "/a/b/d.html"),
            ("d/e/", "/a/b/d/e/"),
            ("../d.html?q=%20/../", "/a/d.html?q=%20/../"),
            ("../../../d.html", "/d.html"),
            ("../", "/a/"),
            ("/", "/"),
            ("/d", "/d"),
            ("http://h.test:81/d", "/d"),
        ] {
            let (text, path_at) = base.join_plain(reference).unwrap();
            assert_eq!((&text[..path_at], &text[path_at..]), ("http://h.test:81", want));
        }
        for reference in [
            "",
            "?q",
            "#f",
            ".",
            "..",
            "./d",
            "d/..",
            "d//e",
            "//h",
            "a:b",
            "d e",
            "%2e",
            "d\\e",
            "é",
            "http://h.test:81",
            "http://h.test:81@x/",
        ] {
            assert!(base.join_plain(reference).is_none(), "{reference}");
        }
    }

    proptest! {
        #[test]
        fn references_are_joined_as_the_standard_says(
            base in "(http|https|HTTP|ftp|data)://(u:p@|u@)?(h[.]test|H[.]Test:80|\\[::1\\]:8080|1[.]2[.]3[.]4)(/[a-c./%]{0,8})?(\\?[a/.?]{0,4})?(#[a/]{0,3})?",
            reference in "(http://h[.]test|http://1[.]2[.]3[.]4/|//h|mailto:|/)?[-a-cX0-3./?#%&=+@!();:'\"~_,$*\\[\\\\ \t\n|^`{}é]{0,24}",
        ) {
            let Ok(url) = Url::parse(&base) else { return Ok(()) };
            let got = Base::new(url.clone()).join(&reference);
            prop_assert_eq!(&got, &joined_by_the_book(&url, &reference));
            if let Ok(url) = got {
                let parsed = url.to_url().unwrap();
                prop_assert_eq!(parsed.as_str(), url.as_str());
                prop_assert_eq!(parsed.host_str().unwrap(), url.host());
                prop_assert_eq!((parsed.path(), parsed.query()), (url.path(), url.query()));
                prop_assert_eq!((parsed.scheme(), parsed.port()), (url.scheme(), url.port()));
            }
        }

        #[test]
        fn paths_are_joined_as_the_standard_says(
            base in "http://h[.]test/([ab]{0,2}/){0,3}[ab.]{0,2}",
            reference in "/?(\\.\\./|\\./|[ab]{0,2}/){0,5}[ab.]{0,3}(\\?[a/.]{0,3})?",
        ) {
            let url = Url::parse(&base).unwrap();
            let got = Base::new(url.clone()).join(&reference);
            prop_assert_eq!(got, joined_by_the_book(&url, &reference));
        }
    }

    #[test]
    fn the_id_is_the_sha1_of_the_canonical_string() {
        let id = CrawlUrl::parse("http://EXAMPLE.org").unwrap().id();
        // printf 'http://example.org/' | sha1sum
        assert_eq!(id.to_string(), "bbf5caaf2e8efeeaf919e0d84a683f4b4d8a2c15");
    }
}
