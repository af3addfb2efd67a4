//! The sort-friendly key of a URL: host reversed, then port, path and query, in
//! the Internet Archive's canonical form.
//!
//! The form is that of the archive's `webarchive-commons`, as Python's `surt`
//! 0.3.1 gives it, including what is odd about it, but for session ids: those
//! stay, so that every URL has a line of its own. The input is a URL in trawl's
//! canonical form, so that what the URL standard has settled is not done again.

use std::borrow::Cow;

use trawl_shared::url::CrawlUrl;

/// The key of a canonical URL; of anything else, the text itself.
pub(super) fn surt(url: &str) -> String {
    CrawlUrl::parse(url).map_or_else(|_| url.to_owned(), |url| key(&url))
}

fn key(url: &CrawlUrl) -> String {
    let host = url.host().trim_matches(['[', ']']);
    let host = host.replace("..", ".");
    let host = strip_www(host.trim_matches('.'));

    let mut key = Vec::new();
    if host.is_empty() {
        key.extend_from_slice(url.scheme().as_bytes());
        key.push(b':');
    } else {
        let labels: Vec<&str> = host.rsplit('.').collect();
        key.extend_from_slice(labels.join(",").as_bytes());
        // The default port has gone with canonicalisation; 0 counts as none.
        if let Some(port) = url.port().filter(|port| *port != 0) {
            key.extend_from_slice(format!(":{port}").as_bytes());
        }
        key.push(b')');
    }
    key.extend(path(url.path().as_bytes(), !host.is_empty()));
    if let Some(query) = url.query().and_then(|query| self::query(query.as_bytes())) {
        key.push(b'?');
        key.extend(query);
    }
    // Escaping has left nothing but ASCII.
    String::from_utf8_lossy(&key).into_owned()
}

/// Without `www.`, `www2.` and the like, once.
fn strip_www(host: &str) -> &str {
    let digits =
        host.strip_prefix("www").map(|rest| rest.trim_start_matches(|c: char| c.is_ascii_digit()));
    digits.and_then(|rest| rest.strip_prefix('.')).unwrap_or(host)
}

fn path(path: &[u8], has_host: bool) -> Vec<u8> {
    let path = unescape(path);
    let path = if has_host { normalize(&path) } else { path };
    let mut path = escape(&path).to_ascii_lowercase();
    if path.len() > 1 && path.ends_with(b"/") {
        path.pop();
    }
    path
}

/// Without dot segments and doubled slashes, which unescaping may have made.
fn normalize(path: &[u8]) -> Vec<u8> {
    let mut kept: Vec<&[u8]> = Vec::new();
    for segment in path.split(|byte| *byte == b'/').skip(1) {
        match segment {
            b"." => {}
            b".." if !kept.is_empty() => drop(kept.pop()),
            _ => kept.push(segment),
        }
    }
    let last = kept.pop().unwrap_or_default();
    let mut path = vec![b'/'];
    for segment in kept.into_iter().filter(|segment| !segment.is_empty()) {
        path.extend_from_slice(segment);
        path.push(b'/');
    }
    path.extend_from_slice(last);
    path
}

/// With its arguments in order; none if nothing is left.
fn query(query: &[u8]) -> Option<Vec<u8>> {
    let query = escape(&unescape(query)).to_ascii_lowercase();
    let mut arguments: Vec<(&[u8], Option<&[u8]>)> = query
        .split(|byte| *byte == b'&')
        .map(|argument| match argument.iter().position(|byte| *byte == b'=') {
            Some(equals) => (&argument[..equals], Some(&argument[equals + 1..])),
            None => (argument, None),
        })
        .collect();
    // A name without "=" sorts before the same with it; a plain sort of the
    // arguments would put "a-" between "a" and "a=".
    arguments.sort();
    let arguments: Vec<Cow<'_, [u8]>> = arguments
        .into_iter()
        .map(|(name, value)| match value {
            Some(value) => [name, b"=", value].concat().into(),
            None => name.into(),
        })
        .collect();
    let query = arguments.join(&b'&');
    (!query.is_empty()).then_some(query)
}

/// Without percent escapes, however deep they are nested.
fn unescape(text: &[u8]) -> Vec<u8> {
    let mut text = text.to_vec();
    loop {
        let mut out = Vec::with_capacity(text.len());
        let mut rest = &text[..];
        while let [first, tail @ ..] = rest {
            match (first, tail) {
                (b'%', [high, low, tail @ ..])
                    if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() =>
                {
                    out.push(hex(*high) << 4 | hex(*low));
                    rest = tail;
                }
                _ => {
                    out.push(*first);
                    rest = tail;
                }
            }
        }
        if out.len() == text.len() {
            return out;
        }
        text = out;
    }
}

fn hex(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        _ => (digit | 0x20) - b'a' + 10,
    }
}

/// With percent escapes for all that is not visible ASCII, and for `#` and `%`.
fn escape(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    for byte in text {
        match byte {
            b'#' | b'%' => out.extend_from_slice(format!("%{byte:02X}").as_bytes()),
            b'!'..=b'~' => out.push(*byte),
            _ => out.extend_from_slice(format!("%{byte:02X}").as_bytes()),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_those_of_pythons_surt() {
        for (url, want) in [
            ("http://example.org/", "org,example)/"),
            ("http://example.org/B/c//d/", "org,example)/b/c/d"),
            ("https://www.example.org/", "org,example)/"),
            ("https://www2.example.org/www.x", "org,example)/www.x"),
            ("http://www.com/", "com)/"),
            ("http://www./", "www)/"),
            ("http://www.www.example.org/", "org,example,www)/"),
            ("http://www123/", "www123)/"),
            (
                "http://example.org:8080/a?b=2&a=1&a&a=&a-=3",
                "org,example:8080)/a?a&a=&a=1&a-=3&b=2",
            ),
            ("http://example.org:443/", "org,example:443)/"),
            ("https://example.org:80/", "org,example:80)/"),
            ("http://127.0.0.1/", "1,0,0,127)/"),
            ("http://0.0.0.0:81/a", "0,0,0,0:81)/a"),
            ("http://[::1]/", "::1)/"),
            ("http://[2001:db8::1]:8080/x", "2001:db8::1:8080)/x"),
            ("http://[::ffff:102:304]/", "::ffff:102:304)/"),
            (
                "http://xn--bcher-kva.example/%C3%A4?%C3%B6=%C3%BC",
                "example,xn--bcher-kva)/%c3%a4?%c3%b6=%c3%bc",
            ),
            ("http://example.org./", "org,example)/"),
            ("http://example.org/a%2fb%2f%2fc", "org,example)/a/b/c"),
            ("http://example.org/a%2f..%2fb", "org,example)/b"),
            ("http://example.org/..%2f..%2fa", "org,example)/a"),
            ("http://example.org/%2525252541", "org,example)/a"),
            ("http://example.org/%25%32%35", "org,example)/%25"),
            ("http://example.org/100%", "org,example)/100%25"),
            ("http://example.org/%zz%4", "org,example)/%25zz%254"),
            ("http://example.org/a%20b+c%20d?e%20f+g%20h", "org,example)/a%20b+c%20d?e%20f+g%20h"),
            ("http://example.org/%23a?b%23c%26d%3De", "org,example)/%23a?b%23c&d=e"),
            ("http://example.org/a%3Fb?c", "org,example)/a?b?c"),
            ("http://example.org/?", "org,example)/"),
            ("http://example.org/a?", "org,example)/a"),
            ("http://example.org/a/?", "org,example)/a"),
            ("http://example.org/a/?&", "org,example)/a?&"),
            ("http://example.org/?&&", "org,example)/?&&"),
            ("http://example.org/?=&=a&b==c", "org,example)/?=&=a&b==c"),
            ("http://example.org/?a=1&A=0", "org,example)/?a=0&a=1"),
            ("http://example.org/?Z&z&Y", "org,example)/?y&z&z"),
            ("http://example.org/?x=%C3%A4%ff%00%0a", "org,example)/?x=%c3%a4%ff%00%0a"),
            ("http://example.org/%C3%84/%ff%00%0a%0d%7f", "org,example)/%c3%84/%ff%00%0a%0d%7f"),
            (
                "http://example.org/;jsessionid=0123456789ABCDEF?sid=0123456789ABCDEF&a",
                "org,example)/;jsessionid=0123456789abcdef?a&sid=0123456789abcdef",
            ),
            ("http://example.org/x", "org,example)/x"),
            ("http://example.org/http://other.example/y", "org,example)/http:/other.example/y"),
            ("http://http//example.org/", "http)/example.org"),
            ("http://https/x", "https)/x"),
            (
                "http://example.org/a;b=1;c/d,e(f)g!h$i&j'k*l@m:n=o~p",
                "org,example)/a;b=1;c/d,e(f)g!h$i&j'k*l@m:n=o~p",
            ),
            ("http://example.org/%60%7B|%7D%5E[]%3C%3E%22//", r#"org,example)/`{|}^[]<>""#),
            (r#"http://example.org/?`{|}^[]%3C%3E%22\\%27"#, r#"org,example)/?`{|}^[]<>"\\'"#),
            ("http://example.org/a/", "org,example)/a"),
            ("http://example.org////", "org,example)/"),
            ("http://example.org/a//", "org,example)/a"),
            ("http://xn--bcher-kva.example/", "example,xn--bcher-kva)/"),
            ("http://example_underscore.org/", "org,example_underscore)/"),
            ("http://a!b$c&d'e(f)g*h+i,j;k=l.example/", "example,a!b$c&d'e(f)g*h+i,j;k=l)/"),
            ("http://example.org:65535/%41%5a", "org,example:65535)/az"),
            ("http://1.2.0.3/", "3,0,2,1)/"),
            ("http://www1.2.3.4.example/", "example,4,3,2)/"),
            ("http://www.127.0.0.1.example/", "example,1,0,0,127)/"),
        ] {
            assert_eq!(CrawlUrl::parse(url).unwrap().as_str(), url, "is canonical");
            assert_eq!(surt(url), want, "{url}");
        }
    }

    #[test]
    fn what_is_no_url_is_its_own_key() {
        for text in ["", "x", "mailto:a@example.org"] {
            assert_eq!(surt(text), text);
        }
    }
}
