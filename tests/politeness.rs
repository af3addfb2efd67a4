//! No host is hurt: robots.txt, delays, retries, redirects, one connection, forbidden addresses.

use harness::{Answer, Trawl, Visit, Web, ms, secs};

/// A request of a page, not of robots.txt.
fn is_page(visit: &Visit) -> bool {
    visit.path != "/robots.txt"
}

#[tokio::test]
async fn robots_txt_is_fetched_first_and_once_and_obeyed() {
    let site = Web::new()
        .robots("User-agent: *\nDisallow: /private\nAllow: /private/open\n")
        .page("/", ["/a", "/private", "/private/open", "/private/shut", "/privateer"])
        .page("/a", ["/private/shut", "/?q"])
        .page("/?q", [])
        .page("/private/open", [])
        .serve()
        .await;
    let trawl = Trawl::new();
    let ended = trawl.crawl([site.url("/")]).set("--robots", "obey").done().await.expect(0);

    assert_eq!(site.paths(), ["/robots.txt", "/", "/a", "/private/open", "/?q"]);
    // What was not fetched is no page, but is told.
    let urls = ["/", "/?q", "/a", "/private/open"].map(|path| site.url(path));
    assert_eq!(trawl.pages().await.urls(), urls);
    ended.says(["3  not fetched: disallowed by robots.txt"]);
}

#[tokio::test]
async fn robots_rules_are_looked_up_by_the_crawlers_own_name() {
    let site = Web::new()
        .robots("User-agent: *\nDisallow: /\n\nUser-agent: MyBot\nDisallow: /b\n")
        .page("/", ["/a", "/b"])
        .page("/a", [])
        .page("/b", [])
        .serve()
        .await;
    let trawl = Trawl::new();
    let crawl = trawl.crawl([site.url("/")]).set("--robots", "obey");
    crawl.set("--user-agent", "mybot/2.1 (+https://example.org/bot)").done().await.expect(0);

    assert_eq!(site.paths(), ["/robots.txt", "/", "/a"]);
    for visit in site.visits() {
        assert_eq!(visit.headers["user-agent"], "mybot/2.1 (+https://example.org/bot)");
    }
}

#[tokio::test]
async fn without_a_robots_txt_everything_may_be_fetched() {
    let site = Web::new().page("/", ["/a"]).page("/a", []).serve().await;
    let trawl = Trawl::new();
    trawl.crawl([site.url("/")]).unset("--robots").done().await.expect(0);

    assert_eq!(site.paths(), ["/robots.txt", "/", "/a"]);
}

#[tokio::test]
async fn a_robots_txt_that_cannot_be_had_lets_nothing_be_fetched() {
    let site = Web::new().answer("/robots.txt", Answer::status(500)).page("/", []).serve().await;
    let trawl = Trawl::new();
    trawl.crawl([site.url("/")]).unset("--robots").done().await.expect(3).says(["robots.txt"]);

    assert_eq!(site.visits_of("/"), 0);
}

#[tokio::test]
async fn the_delay_is_kept_between_the_end_of_a_fetch_and_the_next_one() {
    let slow = |links: &[&str]| Answer::links("slow", links).after(ms(150));
    let site = Web::new()
        .answer("/", slow(&["/a", "/b", "/c"]))
        .answer("/a", slow(&[]))
        .answer("/b", Answer::redirect(302, "/d"))
        .answer("/c", Answer::status(404))
        .answer("/d", slow(&[]))
        .serve()
        .await;
    let trawl = Trawl::new();
    trawl.crawl([site.url("/")]).set("--delay", "300ms").done().await.expect(0);

    let waits = site.waits(is_page);
    assert_eq!(waits.len(), 4);
    assert!(waits.iter().all(|wait| *wait >= ms(300)), "{waits:?}");
}

#[tokio::test]
async fn a_larger_delay_of_the_host_wins() {
    let site = Web::new()
        .robots("User-agent: *\nCrawl-delay: 1\n")
        .page("/", ["/a", "/b"])
        .page("/a", [])
        .page("/b", [])
        .serve()
        .await;
    let trawl = Trawl::new();
    let crawl = trawl.crawl([site.url("/")]).set("--robots", "obey");
    crawl.set("--delay", "100ms").done().await.expect(0);

    let waits = site.waits(is_page);
    assert_eq!(waits.len(), 2);
    assert!(waits.iter().all(|wait| *wait >= secs(1)), "{waits:?}");
}

#[tokio::test]
async fn a_second_is_the_delay_unless_told_otherwise() {
    let site = Web::new().page("/", ["/a"]).page("/a", []).serve().await;
    let trawl = Trawl::new();
    trawl.crawl([site.url("/")]).unset("--delay").done().await.expect(0);

    let waits = site.waits(is_page);
    assert!(waits[0] >= secs(1), "{waits:?}");
}

#[tokio::test]
async fn the_delay_is_kept_across_a_restart() {
    let site = Web::new().page("/", ["/a"]).page("/a", []).serve().await;
    let trawl = Trawl::new();
    let crawl = trawl.crawl([site.url("/")]).set("--delay", "2s");
    let running = crawl.start();
    site.visited(1).await;
    running.kill().await;
    crawl.done().await.expect(0);

    let waits = site.waits(is_page);
    assert!(waits.iter().all(|wait| *wait >= secs(2)), "{waits:?}");
}

#[tokio::test]
async fn a_host_gets_one_request_at_a_time_and_hosts_do_not_wait_for_each_other() {
    let slow = Web::new().tree(12, ms(200)).serve().await;
    let fast = Web::new().tree(12, ms(0)).serve().await;
    let trawl = Trawl::new();
    trawl.crawl([slow.url("/"), fast.url("/")]).done().await.expect(0);

    for site in [&slow, &fast] {
        assert_eq!(site.visits().len(), 19);
        assert_eq!(site.most_at_once(), 1);
        let connections = site.visits().iter().map(|visit| visit.connection).max();
        assert!(connections < Some(3), "a connection is kept: {connections:?}");
    }
    let end = |site: &harness::Site| site.visits().iter().filter_map(|visit| visit.ended).max();
    assert!(end(&fast) < end(&slow));
}

#[tokio::test]
async fn a_busy_host_is_asked_again_later_and_each_time_later() {
    let busy = || Answer::status(503);
    let site = Web::new()
        .page("/", ["/busy"])
        .answers("/busy", [busy(), busy(), Answer::text("at last")])
        .serve()
        .await;
    let trawl = Trawl::new();
    trawl.crawl([site.url("/")]).done().await.expect(0);

    let waits = site.waits(|visit| visit.path == "/busy");
    assert_eq!(waits.len(), 2);
    assert!(waits[0] >= ms(100) && waits[1] >= ms(200), "{waits:?}");
    let pages = trawl.pages().await;
    let page = pages.of(&site.url("/busy"));
    assert_eq!((page.status, page.attempt, page.bytes), (200, 3, 7));
}

#[tokio::test]
async fn a_host_that_stays_busy_is_believed_after_the_last_attempt() {
    let site = Web::new().page("/", ["/busy"]).answer("/busy", Answer::status(503)).serve().await;
    let trawl = Trawl::new();
    trawl.crawl([site.url("/")]).set("--attempts", "4").done().await.expect(0);

    assert_eq!(site.visits_of("/busy"), 4);
    let pages = trawl.pages().await;
    assert_eq!(pages.of(&site.url("/busy")).status, 503);
}

#[tokio::test]
async fn a_host_may_say_how_long_it_wants_to_be_left_alone() {
    let busy = Answer::status(429).header("Retry-After", "2");
    let site = Web::new().answers("/", [busy, Answer::text("thanks")]).serve().await;
    let trawl = Trawl::new();
    trawl.crawl([site.url("/")]).done().await.expect(0);

    let waits = site.waits(is_page);
    assert!(waits[0] >= secs(2), "{waits:?}");
}

#[tokio::test]
async fn what_will_not_change_is_not_asked_again() {
    let paths = ["/gone", "/never", "/teapot"];
    let site = Web::new()
        .page("/", paths)
        .answer("/gone", Answer::status(410))
        .answer("/never", Answer::status(501))
        .answer("/teapot", Answer::status(418))
        .serve()
        .await;
    let trawl = Trawl::new();
    trawl.crawl([site.url("/")]).done().await.expect(0);

    let pages = trawl.pages().await;
    let statuses = paths.map(|path| (site.visits_of(path), pages.of(&site.url(path)).status));
    assert_eq!(statuses, [(1, 410), (1, 501), (1, 418)]);
}

#[tokio::test]
async fn broken_answers_are_asked_for_again_and_then_given_up() {
    let site = Web::new()
        .page("/", ["/dropped", "/cut", "/once", "/last"])
        .answer("/dropped", Answer::text("").dropped())
        .answer("/cut", Answer::text("only half of this").cut())
        .answers("/once", [Answer::text("").dropped(), Answer::text("fine")])
        .page("/last", [])
        .serve()
        .await;
    let trawl = Trawl::new();
    let ended = trawl.crawl([site.url("/")]).done().await.expect(0);

    let counts = ["/dropped", "/cut", "/once", "/last"].map(|path| site.visits_of(path));
    assert_eq!(counts, [3, 3, 2, 1]);
    let urls = ["/", "/last", "/once"].map(|path| site.url(path));
    assert_eq!(trawl.pages().await.urls(), urls);
    ended.says(["2  failed: connection broke", &site.url("/dropped"), &site.url("/cut")]);
}

#[tokio::test]
async fn a_host_that_does_not_answer_in_time_is_left() {
    let site = Web::new()
        .page("/", ["/silent", "/drip", "/last"])
        .answer("/silent", Answer::text("").after(secs(60)))
        .answer("/drip", Answer::text("drop by drop").dripping())
        .page("/last", [])
        .serve()
        .await;
    let trawl = Trawl::new();
    let crawl = trawl.crawl([site.url("/")]).set("--attempts", "1");
    let crawl = crawl.set("--read-timeout", "700ms").set("--fetch-timeout", "2s");
    let ended = crawl.within(secs(20)).done().await.expect(0);

    ended.says(["2  failed: too slow"]);
    assert_eq!(site.visits_of("/last"), 1);
    assert!(!trawl.pages().await.has(&site.url("/silent")));
}

#[tokio::test]
async fn redirects_are_pages_of_their_own() {
    let elsewhere = Web::new().page("/", []).serve_at([127, 0, 0, 2]).await;
    let site = Web::new()
        .page("/", ["/old", "/away"])
        .answer("/old", Answer::redirect(301, "newer?a=b#top"))
        .answer("/newer?a=b", Answer::redirect(307, "/newest"))
        .page("/newest", ["/linked"])
        .page("/linked", [])
        .answer("/away", Answer::redirect(302, &elsewhere.url("/")))
        .serve()
        .await;
    let trawl = Trawl::new();
    trawl.crawl([site.url("/")]).done().await.expect(0);

    let pages = trawl.pages().await;
    let of = |path: &str| {
        let page = pages.of(&site.url(path));
        (page.status, page.hops, page.location.clone())
    };
    assert_eq!(of("/old"), (301, 0, Some(site.url("/newer?a=b"))));
    assert_eq!(of("/newer?a=b"), (307, 1, Some(site.url("/newest"))));
    assert_eq!(of("/newest"), (200, 2, None));
    assert_eq!(of("/linked"), (200, 0, None));
    // Out of scope: told, not followed.
    assert_eq!(of("/away"), (302, 0, Some(elsewhere.url("/"))));
    assert_eq!(elsewhere.visits().len(), 0);
}

#[tokio::test]
async fn redirects_in_a_circle_end() {
    let site = Web::new()
        .page("/", ["/a", "/self"])
        .answer("/a", Answer::redirect(302, "/b"))
        .answer("/b", Answer::redirect(302, "/a"))
        .answer("/self", Answer::redirect(302, "/self"))
        .serve()
        .await;
    let trawl = Trawl::new();
    trawl.crawl([site.url("/")]).done().await.expect(0);

    assert_eq!(site.paths().len(), 4);
    assert_eq!(trawl.pages().await.count(), 4);
}

#[tokio::test]
async fn redirects_one_after_the_other_are_followed_so_often_and_no_further() {
    let mut web = Web::new();
    for number in 0..9 {
        let next = format!("/{}", number + 1);
        web = web.answer(&format!("/{number}"), Answer::redirect(302, &next));
    }
    let site = web.page("/9", []).serve().await;
    let trawl = Trawl::new();
    trawl.crawl([site.url("/0")]).done().await;
    assert_eq!(site.paths(), ["/0", "/1", "/2", "/3", "/4", "/5"]);

    let trawl = Trawl::new();
    trawl.crawl([site.url("/0")]).set("--redirects", "9").done().await.expect(0);
    assert!(trawl.pages().await.has(&site.url("/9")));
}

#[tokio::test]
async fn an_address_inside_is_refused_unless_it_is_allowed() {
    let site = Web::new().page("/", []).serve().await;
    let port = site.url("").rsplit(':').next().unwrap().to_owned();

    for host in ["127.0.0.1", "localhost", "0x7f.1", "[::ffff:127.0.0.1]"] {
        let trawl = Trawl::new();
        let crawl = trawl.crawl([format!("http://{host}:{port}/")]).unset("--allow-net");
        crawl.done().await.expect(3).says(["--allow-net"]);
    }
    assert_eq!(site.visits().len(), 0);
}

#[tokio::test]
async fn neither_a_link_nor_a_redirect_leads_to_an_address_that_is_not_allowed() {
    let inside = Web::new().page("/", []).page("/robots.txt", []).serve_at([127, 0, 0, 2]).await;
    let (link, location) = (inside.url("/link"), inside.url("/location"));
    let site = Web::new()
        .page("/", [&link, "/redirect"])
        .answer("/redirect", Answer::redirect(302, &location))
        .serve()
        .await;
    let trawl = Trawl::new();
    let crawl = trawl.crawl([site.url("/")]).set("--robots", "obey").set("--scope", "any");
    let ended = crawl.set("--allow-net", "127.0.0.1/32").done().await.expect(0);

    assert_eq!(inside.visits().len(), 0);
    ended.says(["2  not fetched: address outside the public internet"]);
    assert_eq!(trawl.pages().await.count(), 2);
}
