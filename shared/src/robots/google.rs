//! The cases that Google has published with its parser (google/robotstxt, its
//! `robots_test.cc`), as a table: each by its name there, each file with whom it was
//! asked for, about what, and whether that is allowed.

use super::{Rules, path_as_written, written};

/// What is asked of a file: agent, URL, whether it is allowed.
type Asked<'a> = &'a [(&'a str, &'a str, bool)];

fn check(name: &str, file: &str, asked: Asked) {
    for (agent, url, want) in asked {
        let rules = Rules::parse(file.as_bytes(), agent);
        let verdict = rules.verdict_of_path(&path_as_written(url));
        assert_eq!(verdict.allowed, *want, "{name}: {agent:?} {url:?} {verdict:?} of {file:?}");
    }
}

/// A file's lines, then what is asked.
const CASES: &[(&str, &[&str], Asked)] = &[
    ("SystemTest", &[], &[("FooBot", "", true), ("", "", true)]),
    (
        "SystemTest",
        &["user-agent: FooBot", "disallow: /"],
        &[("", "", true), ("FooBot", "", false)],
    ),
    (
        "LineSyntax_Line",
        &["user-agent: FooBot", "disallow: /"],
        &[("FooBot", "http://foo.bar/x/y", false)],
    ),
    ("LineSyntax_Line", &["foo: FooBot", "bar: /"], &[("FooBot", "http://foo.bar/x/y", true)]),
    (
        "LineSyntax_Line",
        &["user-agent FooBot", "disallow /"],
        &[("FooBot", "http://foo.bar/x/y", false)],
    ),
    (
        "LineSyntax_Groups",
        &[
            "allow: /foo/bar/",
            "",
            "user-agent: FooBot",
            "disallow: /",
            "allow: /x/",
            "user-agent: BarBot",
            "disallow: /",
            "allow: /y/",
            "",
            "",
            "allow: /w/",
            "user-agent: BazBot",
            "",
            "user-agent: FooBot",
            "allow: /z/",
            "disallow: /",
        ],
        &[
            ("FooBot", "http://foo.bar/x/b", true),
            ("FooBot", "http://foo.bar/z/d", true),
            ("FooBot", "http://foo.bar/y/c", false),
            ("BarBot", "http://foo.bar/y/c", true),
            ("BarBot", "http://foo.bar/w/a", true),
            ("BarBot", "http://foo.bar/z/d", false),
            ("BazBot", "http://foo.bar/z/d", true),
            ("FooBot", "http://foo.bar/foo/bar/", false),
            ("BarBot", "http://foo.bar/foo/bar/", false),
            ("BazBot", "http://foo.bar/foo/bar/", false),
        ],
    ),
    (
        "LineSyntax_Groups_OtherRules",
        &["User-agent: BarBot", "Sitemap: https://foo.bar/sitemap", "User-agent: *", "Disallow: /"],
        &[("FooBot", "http://foo.bar/", false), ("BarBot", "http://foo.bar/", false)],
    ),
    (
        "LineSyntax_Groups_OtherRules",
        &["User-agent: FooBot", "Invalid-Unknown-Line: unknown", "User-agent: *", "Disallow: /"],
        &[("FooBot", "http://foo.bar/", false), ("BarBot", "http://foo.bar/", false)],
    ),
    (
        "REPLineNamesCaseInsensitive",
        &["USER-AGENT: FooBot", "ALLOW: /x/", "DISALLOW: /"],
        &[("FooBot", "http://foo.bar/x/y", true), ("FooBot", "http://foo.bar/a/b", false)],
    ),
    (
        "REPLineNamesCaseInsensitive",
        &["user-agent: FooBot", "allow: /x/", "disallow: /"],
        &[("FooBot", "http://foo.bar/x/y", true), ("FooBot", "http://foo.bar/a/b", false)],
    ),
    (
        "REPLineNamesCaseInsensitive",
        &["uSeR-aGeNt: FooBot", "AlLoW: /x/", "dIsAlLoW: /"],
        &[("FooBot", "http://foo.bar/x/y", true), ("FooBot", "http://foo.bar/a/b", false)],
    ),
    ("UserAgentValueCaseInsensitive", &["User-Agent: FOO BAR", "Allow: /x/", "Disallow: /"], FOO),
    ("UserAgentValueCaseInsensitive", &["User-Agent: foo bar", "Allow: /x/", "Disallow: /"], FOO),
    ("UserAgentValueCaseInsensitive", &["User-Agent: FoO bAr", "Allow: /x/", "Disallow: /"], FOO),
    (
        "AcceptUserAgentUpToFirstSpace",
        &["User-Agent: *", "Disallow: /", "User-Agent: Foo Bar", "Allow: /x/", "Disallow: /"],
        &[("Foo", "http://foo.bar/x/y", true), ("Foo Bar", "http://foo.bar/x/y", false)],
    ),
    ("GlobalGroups_Secondary", &[], &[("FooBot", "http://foo.bar/x/y", true)]),
    (
        "GlobalGroups_Secondary",
        &["user-agent: *", "allow: /", "user-agent: FooBot", "disallow: /"],
        &[("FooBot", "http://foo.bar/x/y", false), ("BarBot", "http://foo.bar/x/y", true)],
    ),
    (
        "GlobalGroups_Secondary",
        &[
            "user-agent: FooBot",
            "allow: /",
            "user-agent: BarBot",
            "disallow: /",
            "user-agent: BazBot",
            "disallow: /",
        ],
        &[("QuxBot", "http://foo.bar/x/y", true)],
    ),
    (
        "AllowDisallow_Value_CaseSensitive",
        &["user-agent: FooBot", "disallow: /x/"],
        &[("FooBot", "http://foo.bar/x/y", false)],
    ),
    (
        "AllowDisallow_Value_CaseSensitive",
        &["user-agent: FooBot", "disallow: /X/"],
        &[("FooBot", "http://foo.bar/x/y", true)],
    ),
    (
        "LongestMatch",
        &["user-agent: FooBot", "disallow: /x/page.html", "allow: /x/"],
        &[("FooBot", "http://foo.bar/x/page.html", false)],
    ),
    (
        "LongestMatch",
        &["user-agent: FooBot", "allow: /x/page.html", "disallow: /x/"],
        &[("FooBot", "http://foo.bar/x/page.html", true), ("FooBot", "http://foo.bar/x/", false)],
    ),
    (
        "LongestMatch",
        &["user-agent: FooBot", "disallow: ", "allow: "],
        &[("FooBot", "http://foo.bar/x/page.html", true)],
    ),
    (
        "LongestMatch",
        &["user-agent: FooBot", "disallow: /", "allow: /"],
        &[("FooBot", "http://foo.bar/x/page.html", true)],
    ),
    (
        "LongestMatch",
        &["user-agent: FooBot", "disallow: /x", "allow: /x/"],
        &[("FooBot", "http://foo.bar/x", false), ("FooBot", "http://foo.bar/x/", true)],
    ),
    (
        "LongestMatch",
        &["user-agent: FooBot", "disallow: /x/page.html", "allow: /x/page.html"],
        &[("FooBot", "http://foo.bar/x/page.html", true)],
    ),
    (
        "LongestMatch",
        &["user-agent: FooBot", "allow: /page", "disallow: /*.html"],
        &[("FooBot", "http://foo.bar/page.html", false), ("FooBot", "http://foo.bar/page", true)],
    ),
    (
        "LongestMatch",
        &["user-agent: FooBot", "allow: /x/page.", "disallow: /*.html"],
        &[
            ("FooBot", "http://foo.bar/x/page.html", true),
            ("FooBot", "http://foo.bar/x/y.html", false),
        ],
    ),
    (
        "LongestMatch",
        &["User-agent: *", "Disallow: /x/", "User-agent: FooBot", "Disallow: /y/"],
        &[("FooBot", "http://foo.bar/x/page", true), ("FooBot", "http://foo.bar/y/page", false)],
    ),
    (
        "Encoding",
        &[
            "User-agent: FooBot",
            "Disallow: /",
            "Allow: /foo/bar?qux=taz&baz=http://foo.bar?tar&par",
        ],
        &[("FooBot", "http://foo.bar/foo/bar?qux=taz&baz=http://foo.bar?tar&par", true)],
    ),
    (
        "Encoding",
        &["User-agent: FooBot", "Disallow: /", "Allow: /foo/bar/ツ"],
        &[
            ("FooBot", "http://foo.bar/foo/bar/%E3%83%84", true),
            ("FooBot", "http://foo.bar/foo/bar/ツ", false),
        ],
    ),
    (
        "Encoding",
        &["User-agent: FooBot", "Disallow: /", "Allow: /foo/bar/%E3%83%84"],
        &[
            ("FooBot", "http://foo.bar/foo/bar/%E3%83%84", true),
            ("FooBot", "http://foo.bar/foo/bar/ツ", false),
        ],
    ),
    (
        "Encoding",
        &["User-agent: FooBot", "Disallow: /", "Allow: /foo/bar/%62%61%7A"],
        &[
            ("FooBot", "http://foo.bar/foo/bar/baz", false),
            ("FooBot", "http://foo.bar/foo/bar/%62%61%7A", true),
        ],
    ),
    (
        "SpecialCharacters",
        &["User-agent: FooBot", "Disallow: /foo/bar/quz", "Allow: /foo/*/qux"],
        &[
            ("FooBot", "http://foo.bar/foo/bar/quz", false),
            ("FooBot", "http://foo.bar/foo/quz", true),
            ("FooBot", "http://foo.bar/foo//quz", true),
            ("FooBot", "http://foo.bar/foo/bax/quz", true),
        ],
    ),
    (
        "SpecialCharacters",
        &["User-agent: FooBot", "Disallow: /foo/bar$", "Allow: /foo/bar/qux"],
        &[
            ("FooBot", "http://foo.bar/foo/bar", false),
            ("FooBot", "http://foo.bar/foo/bar/qux", true),
            ("FooBot", "http://foo.bar/foo/bar/", true),
            ("FooBot", "http://foo.bar/foo/bar/baz", true),
        ],
    ),
    (
        "SpecialCharacters",
        &["User-agent: FooBot", "# Disallow: /", "Disallow: /foo/quz#qux", "Allow: /"],
        &[("FooBot", "http://foo.bar/foo/bar", true), ("FooBot", "http://foo.bar/foo/quz", false)],
    ),
    (
        "IndexHTMLisDirectory",
        &["User-Agent: *", "Allow: /allowed-slash/index.html", "Disallow: /"],
        &[
            ("foobot", "http://foo.com/allowed-slash/", true),
            ("foobot", "http://foo.com/allowed-slash/index.htm", false),
            ("foobot", "http://foo.com/allowed-slash/index.html", true),
            ("foobot", "http://foo.com/anyother-url", false),
        ],
    ),
    ("DocumentationChecks", &["user-agent: FooBot", "disallow: /", "allow: /fish"], FISH),
    ("DocumentationChecks", &["user-agent: FooBot", "disallow: /", "allow: /fish*"], FISH),
    (
        "DocumentationChecks",
        &["user-agent: FooBot", "disallow: /", "allow: /fish/"],
        &[
            ("FooBot", "http://foo.bar/bar", false),
            ("FooBot", "http://foo.bar/fish/", true),
            ("FooBot", "http://foo.bar/fish/salmon", true),
            ("FooBot", "http://foo.bar/fish/?salmon", true),
            ("FooBot", "http://foo.bar/fish/salmon.html", true),
            ("FooBot", "http://foo.bar/fish/?id=anything", true),
            ("FooBot", "http://foo.bar/fish", false),
            ("FooBot", "http://foo.bar/fish.html", false),
            ("FooBot", "http://foo.bar/Fish/Salmon.html", false),
        ],
    ),
    (
        "DocumentationChecks",
        &["user-agent: FooBot", "disallow: /", "allow: /*.php"],
        &[
            ("FooBot", "http://foo.bar/bar", false),
            ("FooBot", "http://foo.bar/filename.php", true),
            ("FooBot", "http://foo.bar/folder/filename.php", true),
            ("FooBot", "http://foo.bar/folder/filename.php?parameters", true),
            ("FooBot", "http://foo.bar//folder/any.php.file.html", true),
            ("FooBot", "http://foo.bar/filename.php/", true),
            ("FooBot", "http://foo.bar/index?f=filename.php/", true),
            ("FooBot", "http://foo.bar/php/", false),
            ("FooBot", "http://foo.bar/index?php", false),
            ("FooBot", "http://foo.bar/windows.PHP", false),
        ],
    ),
    (
        "DocumentationChecks",
        &["user-agent: FooBot", "disallow: /", "allow: /*.php$"],
        &[
            ("FooBot", "http://foo.bar/bar", false),
            ("FooBot", "http://foo.bar/filename.php", true),
            ("FooBot", "http://foo.bar/folder/filename.php", true),
            ("FooBot", "http://foo.bar/filename.php?parameters", false),
            ("FooBot", "http://foo.bar/filename.php/", false),
            ("FooBot", "http://foo.bar/filename.php5", false),
            ("FooBot", "http://foo.bar/php/", false),
            ("FooBot", "http://foo.bar/filename?php", false),
            ("FooBot", "http://foo.bar/aaaphpaaa", false),
            ("FooBot", "http://foo.bar//windows.PHP", false),
        ],
    ),
    (
        "DocumentationChecks",
        &["user-agent: FooBot", "disallow: /", "allow: /fish*.php"],
        &[
            ("FooBot", "http://foo.bar/bar", false),
            ("FooBot", "http://foo.bar/fish.php", true),
            ("FooBot", "http://foo.bar/fishheads/catfish.php?parameters", true),
            ("FooBot", "http://foo.bar/Fish.PHP", false),
        ],
    ),
    (
        "DocumentationChecks",
        &["user-agent: FooBot", "allow: /p", "disallow: /"],
        &[("FooBot", "http://example.com/page", true)],
    ),
    (
        "DocumentationChecks",
        &["user-agent: FooBot", "allow: /folder", "disallow: /folder"],
        &[("FooBot", "http://example.com/folder/page", true)],
    ),
    (
        "DocumentationChecks",
        &["user-agent: FooBot", "allow: /page", "disallow: /*.htm"],
        &[("FooBot", "http://example.com/page.htm", false)],
    ),
    (
        "DocumentationChecks",
        &["user-agent: FooBot", "allow: /$", "disallow: /"],
        &[
            ("FooBot", "http://example.com/", true),
            ("FooBot", "http://example.com/page.html", false),
        ],
    ),
];

const FOO: Asked = &[
    ("Foo", "http://foo.bar/x/y", true),
    ("foo", "http://foo.bar/x/y", true),
    ("Foo", "http://foo.bar/a/b", false),
    ("foo", "http://foo.bar/a/b", false),
];

const FISH: Asked = &[
    ("FooBot", "http://foo.bar/bar", false),
    ("FooBot", "http://foo.bar/fish", true),
    ("FooBot", "http://foo.bar/fish.html", true),
    ("FooBot", "http://foo.bar/fish/salmon.html", true),
    ("FooBot", "http://foo.bar/fishheads", true),
    ("FooBot", "http://foo.bar/fishheads/yummy.html", true),
    ("FooBot", "http://foo.bar/fish.html?id=anything", true),
    ("FooBot", "http://foo.bar/Fish.asp", false),
    ("FooBot", "http://foo.bar/catfish", false),
    ("FooBot", "http://foo.bar/?id=fish", false),
];

#[test]
fn googles_cases_are_judged_as_google_judges_them() {
    for (name, lines, asked) in CASES {
        check(name, &lines.join("\n"), asked);
        check(name, &lines.join("\r\n"), asked);
        check(name, &format!("{}\r", lines.join("\r")), asked);
    }
}

/// "LineTooLong".
#[test]
fn a_line_is_cut_where_google_cuts_it() {
    let long = |letter: &str, key: &str| {
        format!("/x/{}", letter.repeat(2_083 * 8 - "/x/".len() * 2 - key.len() + 1))
    };
    let path = long("a", "disallow: ");
    let file = format!("user-agent: FooBot\ndisallow: {path}/qux\n");
    let cut = format!("http://foo.bar{path}/fux");
    check("LineTooLong", &file, &[("FooBot", "http://foo.bar/fux", true), ("FooBot", &cut, false)]);

    let (a, b) = (long("a", "allow: "), long("b", "allow: "));
    let file = format!("user-agent: FooBot\ndisallow: /\nallow: {a}/qux\nallow: {b}/qux\n");
    let (whole, cut) = (format!("http://foo.bar{a}/qux"), format!("http://foo.bar{b}/fux"));
    check(
        "LineTooLong",
        &file,
        &[("FooBot", "http://foo.bar/", false), ("FooBot", &whole, true), ("FooBot", &cut, true)],
    );
}

/// "VerifyValidUserAgentsToObey".
#[test]
fn a_name_that_is_no_product_token_is_nobodys() {
    for (agent, is_token) in [
        ("Foobot", true),
        ("Foobot-Bar", true),
        ("Foo_Bar", true),
        ("", false),
        ("ツ", false),
        ("Foobot*", false),
        (" Foobot ", false),
        ("Foobot/2.1", false),
        ("Foobot Bar", false),
    ] {
        let file = format!("user-agent: {agent}\ndisallow: /");
        let rules = Rules::parse(file.as_bytes(), agent);
        assert_eq!(rules.verdict_of_path("/").allowed, !is_token, "{agent:?}");
    }
}

/// "LinesNumbersAreCountedCorrectly".
#[test]
fn lines_are_counted_whatever_ends_them() {
    for file in [
        "User-Agent: foo\nAllow: /some/path\nUser-Agent: bar\n\n\nDisallow: /\n",
        "User-Agent: foo\r\nAllow: /some/path\r\nUser-Agent: bar\r\n\r\n\r\nDisallow: /\r\n",
        "User-Agent: foo\rAllow: /some/path\rUser-Agent: bar\r\r\rDisallow: /\r",
        "User-Agent: foo\nAllow: /some/path\nUser-Agent: bar\n\n\nDisallow: /",
        "User-Agent: foo\nAllow: /some/path\r\nUser-Agent: bar\n\r\n\nDisallow: /",
    ] {
        let line = |agent, path| {
            let rules = Rules::parse(file.as_bytes(), agent);
            let verdict = rules.verdict_of_path(path);
            (verdict.allowed, verdict.line.map(|line| line.number))
        };
        assert_eq!(line("foo", "/some/path"), (true, Some(2)), "{file:?}");
        assert_eq!(line("bar", "/x"), (false, Some(6)), "{file:?}");
    }
}

/// "UTF8ByteOrderMarkIsSkipped".
#[test]
fn a_byte_order_mark_is_skipped_at_the_beginning_be_it_half_of_one() {
    for (file, want) in [
        (&b"\xef\xbb\xbfUser-Agent: foo\nDisallow: /AnyValue\n"[..], false),
        (b"\xef\xbbUser-Agent: foo\nDisallow: /AnyValue\n", false),
        (b"\xefUser-Agent: foo\nDisallow: /AnyValue\n", false),
        (b"\xef\x11\xbfUser-Agent: foo\nDisallow: /AnyValue\n", true),
        (b"User-Agent: foo\n\xef\xbb\xbfDisallow: /AnyValue\n", true),
    ] {
        let rules = Rules::parse(file, "foo");
        assert_eq!(rules.verdict_of_path("/AnyValue").allowed, want, "{file:?}");
    }
}

/// "NonStandardLineExample_Sitemap".
#[test]
fn a_sitemap_may_be_named_anywhere() {
    let sitemap = "Sitemap: http://foo.bar/sitemap.xml\n";
    let rest = "User-Agent: foo\nAllow: /some/path\nUser-Agent: bar\n\n\n";
    for file in [format!("{rest}{sitemap}"), format!("{sitemap}{rest}")] {
        let rules = Rules::parse(file.as_bytes(), "foo");
        let sitemaps: Vec<_> = rules.sitemaps().iter().map(|url| url.as_str()).collect();
        assert_eq!(sitemaps, ["http://foo.bar/sitemap.xml"]);
    }
}

/// "TestGetPathParamsQuery".
#[test]
fn a_path_is_taken_from_a_url_as_it_is_written() {
    for (url, path) in [
        ("", "/"),
        ("http://www.example.com", "/"),
        ("http://www.example.com/", "/"),
        ("http://www.example.com/a", "/a"),
        ("http://www.example.com/a/", "/a/"),
        ("http://www.example.com/a/b?c=http://d.e/", "/a/b?c=http://d.e/"),
        ("http://www.example.com/a/b?c=d&e=f#fragment", "/a/b?c=d&e=f"),
        ("example.com", "/"),
        ("example.com/", "/"),
        ("example.com/a", "/a"),
        ("example.com/a/", "/a/"),
        ("example.com/a/b?c=d&e=f#fragment", "/a/b?c=d&e=f"),
        ("a", "/"),
        ("a/", "/"),
        ("/a", "/a"),
        ("a/b", "/b"),
        ("example.com?a", "/?a"),
        ("example.com/a;b#c", "/a;b"),
        ("//a/b/c", "/b/c"),
    ] {
        assert_eq!(path_as_written(url), path, "{url:?}");
    }
}

/// "TestMaybeEscapePattern".
#[test]
fn a_pattern_is_escaped_where_it_must_be() {
    for (pattern, want) in [
        ("http://www.example.com", "http://www.example.com"),
        ("/a/b/c", "/a/b/c"),
        ("á", "%C3%A1"),
        ("%aa", "%AA"),
    ] {
        assert_eq!(written(pattern.as_bytes()), want);
    }
}
