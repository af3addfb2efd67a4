use proptest::prelude::*;

use super::*;

fn rules(text: &str) -> Rules {
    Rules::parse(text.as_bytes(), "MyBot")
}

fn says(text: &str, path: &str) -> bool {
    rules(text).allowed(&CrawlUrl::parse(&format!("http://site.example{path}")).unwrap())
}

#[test]
fn the_line_that_decided_is_told() {
    let text = "# ours\nUser-agent: *\r\nDisallow: /p  # all\n\nallow :/public\nDisallow:\n";
    let rules = rules(text);
    let line = |path| {
        let verdict = rules.verdict_of_path(path);
        let line = verdict.line.map(|line| (line.number, line.text.raw()));
        (verdict.allowed, line, verdict.agent)
    };
    assert_eq!(line("/private"), (false, Some((3, "Disallow: /p")), Some("*")));
    assert_eq!(line("/public"), (true, Some((5, "allow :/public")), Some("*")));
    assert_eq!(line("/"), (true, None, Some("*")));
    let none = Rules::allow_all();
    assert_eq!(none.verdict_of_path("/"), Verdict { allowed: true, line: None, agent: None });
}

#[test]
fn the_longest_rule_wins() {
    let text = "User-agent: *\nDisallow: /\nAllow: /a\nDisallow: /a/b\nAllow: /*.html$\n\
                Disallow: /q?";
    for (path, want) in [
        ("/", false),
        ("/a", true),
        ("/a/b", false),
        ("/a/c", true),
        ("/x/y.html", true),
        ("/x/y.html?z", false),
        ("/robots.txt", true),
        ("/robots.txt?x", false),
    ] {
        assert_eq!(says(text, path), want, "{path}");
    }
}

#[test]
fn a_url_is_allowed_only_if_both_readings_of_its_escapes_allow_it() {
    for (pattern, path) in [
        ("/caf\u{e9}", "/caf%C3%A9"),
        ("/caf%c3%a9", "/caf\u{e9}"),
        ("/%7ejoe", "/~joe/"),
        ("/~joe/", "/%7Ejoe/"),
        ("/foo/bar/%62%61%7A", "/foo/bar/baz"),
        ("/foo/bar/baz", "/foo/bar/%62%61%7A"),
        ("/file-with-a-%2A.html", "/file-with-a-*.html"),
        ("/foo-%24", "/foo-$"),
        ("/foo$bar", "/foo%24bar"),
        ("/%2fx", "/%2Fx"),
        ("/foo/bar?baz=http://foo.bar", "/foo/bar?baz=http%3A%2F%2Ffoo.bar"),
        ("/a%", "/a%"),
        ("/a%zz", "/a%zz"),
    ] {
        assert!(!says(&format!("User-agent: *\nDisallow: {pattern}"), path), "{pattern} {path}");
        // What is meant to be allowed must be written as it is asked for.
        let text = format!("User-agent: *\nDisallow: /\nAllow: {pattern}");
        let verdict = rules(&text).verdict_of_path(path).allowed;
        assert_eq!(verdict, written(pattern.as_bytes()) == path, "{pattern} {path}");
    }
    for (pattern, path) in [
        ("/a/b", "/a%2Fb"),
        ("/a%2Fb", "/a/b"),
        ("/a?b", "/a%3Fb"),
        ("/x-%2A", "/x-y"),
        ("/x%24", "/x"),
        ("/%41$", "/AB"),
    ] {
        assert!(says(&format!("User-agent: *\nDisallow: {pattern}"), path), "{pattern} {path}");
    }
}

#[test]
fn what_no_url_has_unescaped_is_meant_escaped() {
    let text = "User-agent: *\nDisallow: /my files/\nDisallow: /a{b}^\nDisallow: /q?x=\"1\"'\n";
    let asked = |url: &str| rules(text).allowed(&CrawlUrl::parse(url).unwrap());
    for url in ["/my files/a", "/my%20files/a", "/a{b}^c", "/a%7Bb%7d%5E", "/q?x=\"1\"'"] {
        assert!(!asked(&format!("http://a.example{url}")), "{url}");
    }
    assert!(asked("http://a.example/q?x={1}"));
}

#[test]
fn agents_are_compared_by_product_token() {
    for text in [
        "User-agent: MyBot\nDisallow: /",
        "User-agent: MyBot/1.0\nDisallow: /",
        "User-agent: MyBot # us\r\nDisallow: /\r\n",
        "User-agent: mybot Foo\nDisallow: /",
        "\u{feff}User-agent: MyBot/2\nDisallow: /",
        "user agent : MyBot\rDisallow: /",
        "USERAGENT MyBot\0Disallow: /",
        "  User-agent\t:\tMyBot;q\nDisallow: /",
        "User-agent: *\nDisallow: /",
        "User-agent: * # all\nDisallow: /",
        "User-agent: A\nUser-agent: MyBot\nDisallow: /",
        "User-agent: A\nSitemap: https://e.com/s\nUser-agent: *\nDisallow: /",
        "User-agent: Other\nAllow: /\n\nUser-agent: MyBot\nDisallow: /",
        "User-agent: *\nAllow: /\n\nUser-agent: MyBot/1\nDisallow: /",
        // Google's parser takes a key by how it begins, and knows these slips.
        "User-agents: MyBot\nDisallow: /",
        "User-agent: MyBot\nDisalow: /",
        "User-agent: MyBot\nDissallow: /",
    ] {
        assert!(!says(text, "/p"), "{text:?}");
    }
    for text in [
        "User-agent: *foo\nDisallow: /",
        "User-agent:\nDisallow: /",
        "User-agent: MyBotter\nDisallow: /",
        "User-agent: My\nDisallow: /",
        "User-agent: 1MyBot\nDisallow: /",
        "User-agent: *\nDisallow: /\n\nUser-agent: MyBot\nDisallow:",
        "User-agent: MyBot\nDisallow /a b",
        "Disallow: /",
    ] {
        assert!(says(text, "/p"), "{text:?}");
    }
}

#[test]
fn groups_of_one_agent_are_one() {
    let text = "User-agent: MyBot\nDisallow: /a\nCrawl-delay: 2\n\nUser-agent: *\nDisallow: /b\n\
                Crawl-delay: 9\n\nUser-agent: x\nUser-agent: MYBOT\nDisallow: /c\nCrawl-delay: 3";
    let paths = ["/a", "/b", "/c"].map(|path| says(text, path));
    assert_eq!(paths, [false, true, false]);
    assert_eq!(rules(text).crawl_delay(), Some(Duration::from_secs(3)));
}

#[test]
fn a_user_agent_string_begins_with_the_token() {
    for (agent, token) in [
        ("mybot", "mybot"),
        ("mybot/2.1 (+https://example.org/bot)", "mybot"),
        ("Mozilla/5.0 (compatible; mybot/2.1)", "Mozilla"),
        ("mybot (+https://example.org/bot)", "mybot"),
        ("MyBot2/1.0", "MyBot"),
        ("My Bot/1", "My"),
        ("ツ", ""),
        ("", ""),
    ] {
        assert_eq!(product_token(agent), token);
    }
}

#[test]
fn the_delay_is_at_most_a_day() {
    let delay = |text: &str| rules(&format!("User-agent: *\nCrawl-delay: {text}")).crawl_delay();
    assert_eq!(delay("2.5"), Some(Duration::from_millis(2_500)));
    assert_eq!(delay("0"), Some(Duration::ZERO));
    assert_eq!(delay("1e18"), Some(Duration::from_secs(86_400)));
    for odd in ["", "-1", "NaN", "inf", "soon"] {
        assert_eq!(delay(odd), None, "{odd:?}");
    }
    assert_eq!(Rules::allow_all().crawl_delay(), None);
}

#[test]
fn sitemaps_are_urls_and_bounded() {
    let text = "Sitemap: https://a.example/1\nsite-map: https://b.example/2\nSitemap: /3\n\
                Sitemap: ftp://a.example/4\nSitemap: https://A.example/1#x\n";
    let rules = rules(text);
    let sitemaps: Vec<_> = rules.sitemaps().iter().map(CrawlUrl::as_str).collect();
    assert_eq!(sitemaps, ["https://a.example/1", "https://b.example/2"]);
    let many: String = (0..5_000).map(|n| format!("Sitemap: http://a.example/{n}\n")).collect();
    assert_eq!(Rules::parse(many.as_bytes(), "x").sitemaps().len(), SITEMAPS_MAX);
}

#[test]
fn hostile_patterns_take_no_longer_than_others() {
    let piece = "*a".repeat(1_000);
    let line = format!("Disallow: /{piece}b$\nDisallow: /{}*c\n", "a".repeat(1_000));
    let text = format!("User-agent: *\n{}", line.repeat(500 * 1024 / line.len()));
    let rules = rules(&text);
    let path = format!("/{}", "a".repeat(2_000));
    let started = tokio::time::Instant::now();
    assert!(rules.verdict_of_path(&path).allowed);
    // Trying all ways to place the stars would outlast the universe.
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
}

#[test]
fn rules_know_their_weight() {
    let many: String = (0..20_000).map(|n| format!("Disallow: /{n:06}\n")).collect();
    assert!(rules(&format!("User-agent: *\n{many}")).weight() > 20_000 * 30);
    assert!(Rules::allow_all().weight() < 500);
}

/// What a pattern means, said without thought of time.
fn matches_by_the_book(pattern: &[u8], path: &[u8]) -> bool {
    match pattern {
        [] => true,
        b"$" => path.is_empty(),
        [b'*', rest @ ..] => (0..=path.len()).any(|at| matches_by_the_book(rest, &path[at..])),
        [byte, rest @ ..] => path.first() == Some(byte) && matches_by_the_book(rest, &path[1..]),
    }
}

proptest! {
    #[test]
    fn patterns_mean_what_the_book_says(pattern in "/?[ab*$/]{0,7}", path in "/[ab$/]{0,8}") {
        let want = matches_by_the_book(pattern.as_bytes(), path.as_bytes());
        prop_assert_eq!(matches(&pattern, &path), want);
    }

    #[test]
    fn any_bytes_are_a_robots_txt(
        bytes in prop::collection::vec(any::<u8>(), 0..80),
        text in "((User-agent|useragent |Disallow|ALLOW|Crawl-delay|Sitemap|:| |\\*|/|\\$|#|\n|\r|\u{0}|MyBot|%|%2|%ff|é|\u{feff}|2){0,40})",
        path in "/[a-c/%?*$é]{0,8}",
    ) {
        for file in [bytes.as_slice(), text.as_bytes()] {
            let rules = Rules::parse(file, "MyBot");
            let verdict = rules.verdict_of_path(&path);
            prop_assert!(verdict.allowed || verdict.line.is_some());
        }
    }
}
