//! What hosts and pages ask of robots: what robots.txt decides, whatever a host answers for it, and
//! `trawl check robots`, which tells; links that are not to be followed; sitemaps and feeds.

use harness::{Answer, Command, Ended, Site, Trawl, Web, ms, secs};

/// The answer was no; the question was none.
const NO: i32 = 1;
const USAGE: i32 = 2;

fn check(trawl: &Trawl, url: &str) -> Command {
    trawl.command("check", ["robots", url]).unset("--data").set("--agent", "MyBot/2.1 (test)")
}

/// Asks the site itself, from loopback.
async fn asked(site: &Site, path: &str) -> Ended {
    let trawl = Trawl::new();
    check(&trawl, &site.url(path)).set("--allow-net", "127.0.0.0/8").done().await
}

#[tokio::test]
async fn the_verdict_comes_with_the_line_that_decided() {
    let trawl = Trawl::new();
    let file = trawl.write(
        "robots.txt",
        "# Ours.\nUser-agent: *\nDisallow: /\n\nUser-agent: MyBot\nCrawl-delay: 1.5\n\
         Disallow: /private # not for you\nAllow: /private/open\nDisallow: /%7Ejoe/\n",
    );
    for (url, code, parts) in [
        ("http://h.test/", 0, ["allowed", "no line for MyBot matches", "crawl-delay: 1.5s"]),
        ("http://h.test", 0, ["allowed", "no line for MyBot", ""]),
        ("http://h.test/private/x", NO, ["not allowed", "line 7: Disallow: /private (for", ""]),
        ("http://h.test/private/open", 0, ["allowed", "line 8: Allow: /private/open", ""]),
        ("http://h.test/~joe/", NO, ["not allowed", "line 9: Disallow: /%7Ejoe/", ""]),
        ("http://h.test/robots.txt", 0, ["allowed", "", ""]),
        (
            "http://h.test/a/../private",
            NO,
            ["not allowed", "line 7", "as it is written it is allo"],
        ),
    ] {
        let ended = check(&trawl, url).set("--file", &file).done().await.expect(code);
        for part in parts {
            assert!(ended.stdout.contains(part), "{part:?} of {ended}");
        }
    }
    for agent in ["other", "My Bot", "", "MyBotter/1.0"] {
        let ended = check(&trawl, "http://h.test/x").set("--agent", agent).set("--file", &file);
        let ended = ended.done().await.expect(NO);
        assert_eq!(ended.stdout, "not allowed\nline 3: Disallow: / (for *)\n", "{agent:?}");
    }
    for agent in ["MyBot", "MyBot (+https://bot.example/)", "MyBot2/1.0"] {
        let ended = check(&trawl, "http://h.test/x").set("--agent", agent).set("--file", &file);
        ended.done().await.expect(0).says(["no line for MyBot matches"]);
    }
}

/// One of Google's published cases: a group's name ends at its first space, an agent's does not.
#[tokio::test]
async fn a_bare_name_is_taken_whole() {
    let trawl = Trawl::new();
    let groups = "User-Agent: *\nDisallow: /\nUser-Agent: Foo Bar\nAllow: /x/\nDisallow: /\n";
    let file = trawl.write("robots.txt", groups);
    for (agent, code) in [("Foo", 0), ("Foo Bar", NO), ("Foo2Bot", NO), ("Foo/1.0 (Bar)", 0)] {
        let asked = check(&trawl, "http://foo.bar/x/y").set("--agent", agent).set("--file", &file);
        asked.done().await.expect(code);
    }
}

#[tokio::test]
async fn what_a_file_says_does_not_reach_the_terminal_raw() {
    let trawl = Trawl::new();
    let file = trawl.write(
        "robots.txt",
        "User-agent: *\nDisallow: *\u{1b}[31m\u{202e}$\n\
                                          Disallow: /*# \u{1b}[0m\nDisallow\u{9b}: /xy\n",
    );
    let ended = check(&trawl, "http://h.test/xyz").set("--file", &file).done().await.expect(NO);
    let line = "not allowed\nline 4: Disallow\\u{9b}: /xy (for *)\n";
    assert_eq!(ended.stdout, line);
}

#[tokio::test]
async fn a_question_that_cannot_be_answered_says_why() {
    let trawl = Trawl::new();
    let missing = trawl.file("missing");
    let file = trawl.write("robots.txt", "");
    for url in ["not a url", "ftp://h.test/", "http://", "/path", "http://h:99999/"] {
        let ended = check(&trawl, url).set("--file", &file).done().await.expect(USAGE);
        ended.says([url]);
        check(&trawl, url).done().await.expect(USAGE).says([url]);
    }
    let url = "http://h.test/";
    check(&trawl, url).set("--file", &missing).done().await.expect(USAGE).says(["missing", "read"]);
    check(&trawl, url).unset("--agent").done().await.expect(USAGE).says(["--agent"]);
    check(&trawl, "http://127.0.0.1:2/").done().await.expect(USAGE).says(["--allow-net"]);
    let nowhere = "http://no-such-host.invalid/";
    check(&trawl, nowhere).done().await.expect(USAGE).says(["no such host", "no-such-host"]);
}

/// What a host answers for its robots.txt, whether `/private/x` may then be fetched, and whether
/// `/` may. Each answer is a site of its own.
#[tokio::test]
async fn whatever_a_host_answers_there_is_a_verdict() {
    let rules = "User-agent: *\nDisallow: /private\n";
    let text = || Answer::text(rules);
    let status = |status| Answer::status(status);
    let (yes, no) = (true, false);
    let filler = "# nothing\n".repeat(200_000);
    let (late, early) = (format!("{filler}{rules}"), format!("{rules}{filler}Disallow: /\n"));
    let across = format!("{rules}{}", "a".repeat(600_000));
    let mut cases = vec![
        ("200", text(), no, yes),
        ("203", text().with_status(203), no, yes),
        ("206", text().with_status(206), no, yes),
        ("empty", Answer::text(""), yes, yes),
        ("of another type", Answer::bytes("application/octet-stream", rules), no, yes),
        ("of a type that is HTML's", Answer::html(rules), no, yes),
        ("HTML", Answer::html("<html><body>Disallow: /</body></html>"), yes, yes),
        ("gzip", text().gzipped(), no, yes),
        ("gzip that is none", text().header("Content-Encoding", "gzip"), no, no),
        ("an unknown coding", text().header("Content-Encoding", "compress"), no, no),
        ("a byte order mark", Answer::text(&format!("\u{feff}{rules}")), no, yes),
        ("CR", Answer::text(&rules.replace('\n', "\r")), no, yes),
        ("CRLF", Answer::text(&rules.replace('\n', "\r\n")), no, yes),
        ("UTF-16", Answer::bytes("text/plain", utf16(rules)), yes, yes),
        ("zeros", Answer::bytes("text/plain", vec![0; 10_000]), yes, yes),
        ("2 MB, rules first", Answer::text(&early), no, yes),
        ("2 MB, rules last", Answer::text(&late), yes, yes),
        ("a line across the end", Answer::text(&across), no, yes),
        ("endless", text().endless(), no, yes),
        ("cut off", text().cut(), no, no),
        ("dropped", text().dropped(), no, no),
        ("silent", text().after(secs(60)), no, no),
        ("slow", text().after(ms(500)), no, yes),
        ("no rules for us", Answer::text("User-agent: Other\nDisallow: /\n"), yes, yes),
        ("all forbidden", Answer::text("User-agent: *\nDisallow: /\n"), no, no),
        ("by our name", Answer::text("User-agent: mybot/7\nDisallow: /\n"), no, no),
        ("a redirect to itself", Answer::redirect(301, "/robots.txt"), yes, yes),
        ("a redirect nowhere", Answer::redirect(302, "http://"), yes, yes),
        ("a redirect without a target", status(301), yes, yes),
        ("a redirect inside", Answer::redirect(302, "http://10.0.0.1/robots.txt"), no, no),
        ("a redirect to a dead host", Answer::redirect(302, "http://127.0.0.1:2/"), no, no),
    ];
    for code in [400, 401, 403, 404, 410, 418, 451] {
        cases.push(("4xx", status(code), yes, yes));
    }
    for code in [429, 500, 502, 503, 504, 599] {
        cases.push(("429 or 5xx", status(code), no, no));
    }
    assert!(cases.len() >= 30);
    let verdicts = cases.into_iter().map(async |(name, answer, private, root)| {
        let site = Web::new().answer("/robots.txt", answer.clone()).serve().await;
        for (path, allowed) in [("/private/x", private), ("/", root)] {
            let ended = asked(&site, path).await;
            let want = if allowed { 0 } else { NO };
            assert_eq!(ended.code, Some(want), "{name} {path}: {ended} {answer:?}");
        }
    });
    futures::future::join_all(verdicts).await;
}

fn utf16(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_le_bytes).collect()
}

#[tokio::test]
async fn five_redirects_are_followed_also_to_other_hosts_and_six_are_none() {
    let other = Web::new().robots("User-agent: *\nDisallow: /\n").serve().await;
    for (redirects, code) in [(1, NO), (5, NO), (6, 0)] {
        let mut web = Web::new();
        let mut from = "/robots.txt".to_owned();
        for hop in 1..redirects {
            let to = format!("/hop{hop}");
            web = web.answer(&from, Answer::redirect(302, &to));
            from = to;
        }
        let away = Answer::redirect(301, &other.url("/robots.txt"));
        let site = web.answer(&from, away).serve().await;
        assert_eq!(asked(&site, "/x").await.code, Some(code), "{redirects}");
    }
}

/// A site whose pages ask not to follow some of their links.
async fn shy() -> Site {
    let html = |text: &str| Answer::html(format!("<!DOCTYPE html>{text}"));
    let links = |to: &str| format!("<a href=/{to}1>1</a><a href=/{to}2>2</a>");
    let mut web = Web::new()
        .answer(
            "/",
            html(
                "<a href=/meta>1</a><a href=/own>2</a><a href=/other>3</a><a href=/header>4</a>\
                 <a href=/rel rel='nofollow noopener'>5</a><a href=/twice rel=nofollow>6</a>\
                 <a href=/twice>7</a><a href=/ugc rel='ugc sponsored'>8</a>",
            ),
        )
        .answer("/meta", html(&format!("<meta name=robots content=none>{}", links("m"))))
        .answer("/own", html(&format!("<meta name=MyBot content=NoFollow>{}", links("o"))))
        .answer("/other", html(&format!("<meta name=otherbot content=none>{}", links("x"))))
        .answer(
            "/header",
            html(&links("h"))
                .header("X-Robots-Tag", "otherbot: noindex")
                .header("X-Robots-Tag", "mybot: nofollow, unavailable_after: 1 Jan 2030 0:00 UTC"),
        );
    for path in ["/rel", "/twice", "/ugc", "/m1", "/m2", "/o1", "/o2", "/x1", "/x2", "/h1", "/h2"] {
        web = web.page(path, []);
    }
    web.serve().await
}

fn sorted(site: &Site) -> Vec<String> {
    let mut paths = site.paths();
    paths.sort();
    paths
}

#[tokio::test]
async fn pages_and_links_that_ask_not_to_be_followed_are_not() {
    let site = shy().await;
    let trawl = Trawl::new();
    let crawl = trawl.crawl([site.url("/")]).set("--user-agent", "mybot/1");
    crawl.done().await.expect(0);

    let fetched = ["/", "/header", "/meta", "/other", "/own", "/twice", "/ugc", "/x1", "/x2"];
    assert_eq!(sorted(&site), fetched);
    let pages = trawl.pages().await;
    let asked = |path: &str| pages.of(&site.url(path)).directives.clone();
    assert_eq!(asked("/meta"), ["noindex", "nofollow"], "it is stored, and says what it asked");
    assert_eq!(asked("/header"), ["nofollow", "unavailable_after: 1 Jan 2030 0:00 UTC"]);
    assert!(asked("/other").is_empty() && asked("/").is_empty());
    let marked = |path: &str| {
        let links = pages.of(&site.url(path)).outlinks.iter();
        links.map(|link| link.nofollow).collect::<Vec<_>>()
    };
    assert_eq!(marked("/meta"), [true, true]);
    assert_eq!(marked("/"), [false, false, false, false, true, false, false]);
}

#[tokio::test]
async fn a_crawl_can_follow_them_all_the_same() {
    let site = shy().await;
    let trawl = Trawl::new();
    let crawl = trawl.crawl([site.url("/")]).set("--user-agent", "mybot/1");
    crawl.set("--directives", "ignore").done().await.expect(0);

    assert_eq!(site.paths().len(), 16);
    let pages = trawl.pages().await;
    let page = pages.of(&site.url("/meta"));
    assert_eq!(page.directives, ["noindex", "nofollow"]);
    assert!(page.outlinks.iter().all(|link| !link.nofollow));
}

/// A site with pages that only sitemaps and feeds lead to, at an address of its own.
async fn listed(address: [u8; 4]) -> Site {
    let [a, b, c, d] = address;
    let site = format!("http://{a}.{b}.{c}.{d}:8080");
    let xml = |text: &str| {
        let text = text.replace("SITE", &site);
        Answer::bytes("application/xml", format!("<?xml version='1.0'?>{text}"))
    };
    let index = "<sitemapindex xmlns='http://www.sitemaps.org/schemas/sitemap/0.9'>\
                 <sitemap><loc>SITE/one.xml.gz</loc></sitemap>\
                 <sitemap><loc>SITE/sitemap2.txt</loc></sitemap></sitemapindex>";
    let one = "<urlset xmlns='http://www.sitemaps.org/schemas/sitemap/0.9'>\
               <url><loc>SITE/a?x&amp;y</loc><lastmod>2026-11-01</lastmod></url>\
               <url><loc>http://elsewhere.invalid/</loc></url></urlset>";
    let rss = "<rss version='2.0'><channel><link>/</link>\
               <item><link>/news</link><pubDate>Mon, 23 Nov 2026 12:00:00 GMT</pubDate></item>\
               </channel></rss>";
    let atom = "<feed xmlns='http://www.w3.org/2005/Atom'>\
                <entry><link href='post'/><updated>2026-11-23</updated></entry></feed>";
    let home = "<link rel=alternate type=application/rss+xml href=/rss>\
                <link rel=alternate type=application/atom+xml href=/blog/atom>";
    let robots = format!(
        "User-agent: *\nDisallow: /c\nSitemap: {site}/index.xml\nSitemap: http://elsewhere.invalid/s"
    );
    Web::new()
        .robots(&robots)
        .answer("/", Answer::html(home))
        .answer("/index.xml", xml(index))
        .answer("/one.xml.gz", xml(one).gzip())
        .answer("/sitemap2.txt", Answer::text(&format!("{site}/b\n{site}/c\n")))
        .answer("/rss", xml(rss))
        .answer("/blog/atom", xml(atom))
        .page("/a?x&y", [])
        .page("/b", [])
        .page("/c", [])
        .page("/news", [])
        .page("/blog/post", [])
        .serve_on((address, 8080).into())
        .await
}

#[tokio::test]
async fn sitemaps_and_feeds_lead_to_pages_if_the_crawl_follows_them() {
    let site = listed([127, 77, 0, 1]).await;
    let trawl = Trawl::new();
    let crawl = trawl.crawl([site.url("/")]).set("--robots", "obey");
    crawl.set("--follow", "a,sitemap,feed").done().await.expect(0);

    let lists = ["/blog/atom", "/index.xml", "/one.xml.gz", "/rss", "/sitemap2.txt"];
    let mut fetched = vec!["/", "/a?x&y", "/b", "/blog/post", "/news", "/robots.txt"];
    fetched.extend(lists);
    fetched.sort_unstable();
    assert_eq!(sorted(&site), fetched);

    let pages = trawl.pages().await;
    let links = |path: &str| {
        let links = pages.of(&site.url(path)).outlinks.clone().into_iter();
        let of = |link: harness::Outlink| (link.url, link.kind, link.lastmod.unwrap_or_default());
        links.map(of).collect::<Vec<_>>()
    };
    let link = |path: &str, kind: &str, time: &str| (site.url(path), kind.into(), time.into());
    assert_eq!(links("/one.xml.gz")[0], link("/a?x&y", "sitemap", "2026-11-01"));
    assert_eq!(links("/rss"), [link("/news", "feed", "Mon, 23 Nov 2026 12:00:00 GMT")]);
    assert_eq!(links("/blog/atom"), [link("/blog/post", "feed", "2026-11-23")]);
    // What robots.txt names is as deep as a seed.
    let depth = |path: &str| pages.of(&site.url(path)).depth;
    let depths = ["/", "/index.xml", "/one.xml.gz", "/a?x&y", "/rss", "/news"].map(depth);
    assert_eq!(depths, [0, 0, 1, 2, 1, 2]);
}

#[tokio::test]
async fn sitemaps_and_feeds_are_pages_like_any_otherwise() {
    let site = listed([127, 77, 0, 2]).await;
    let trawl = Trawl::new();
    let seeds = ["/", "/index.xml", "/rss"].map(|path| site.url(path));
    trawl.crawl(seeds).set("--robots", "obey").done().await.expect(0);

    assert_eq!(sorted(&site), ["/", "/index.xml", "/robots.txt", "/rss"]);
    assert!(trawl.pages().await.of(&site.url("/rss")).outlinks.is_empty());
}
