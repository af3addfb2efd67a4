//! Every page once, in scope, with its links: what a crawl reaches, and where it ends.

use harness::{Answer, Trawl, Web, ms, secs};

#[tokio::test]
async fn every_page_is_fetched_once_and_told_with_its_links() {
    let site = Web::new()
        .page("/", ["/a", "b/", "/a#part", "/missing", "mailto:a@example.org", "//other.invalid/"])
        .page("/a", ["/", "?page=2"])
        .page("/a?page=2", [])
        .page("/b/", ["../a", "c"])
        .answer("/b/c", Answer::text("no links here: <a href=/d>"))
        .serve()
        .await;
    let trawl = Trawl::new();
    let ended = trawl.crawl([site.url("/")]).done().await.expect(0);

    assert_eq!(site.paths(), ["/", "/a", "/b/", "/missing", "/a?page=2", "/b/c"]);
    let pages = trawl.pages().await;
    let root = pages.of(&site.url("/"));
    let links = ["/a", "/b/", "/missing"].map(|path| site.url(path)).to_vec();
    assert_eq!(root.links(), [links, vec!["http://other.invalid/".into()]].concat());
    assert_eq!(root.title.as_deref(), Some("/"));
    assert_eq!((root.status, root.depth, root.attempt), (200, 0, 1));
    let second = pages.of(&site.url("/a?page=2"));
    assert_eq!((second.status, second.depth), (200, 2));
    assert_eq!(pages.of(&site.url("/missing")).status, 404);
    let text = pages.of(&site.url("/b/c"));
    assert_eq!(text.content_type.as_deref(), Some("text/plain; charset=utf-8"));
    // printf 'no links here: <a href=/d>' | sha1sum
    assert_eq!(text.sha1, "eac74140a5c4b84bdbf74a05db536f2b01b50652");
    assert!(text.outlinks.is_empty() && text.fetched_at.ends_with('Z'), "{text:?}");

    // The summary tells how many of which outcome, and where they are.
    let pages = trawl.data().join("pages").display().to_string();
    ended.says(["complete", "5  ok (2xx)", "1  client errors (4xx)", &pages]);
}

#[tokio::test]
async fn a_seed_in_other_words_is_the_same_page() {
    let site = Web::new().page("/x/", []).serve().await;
    let port = site.url("").rsplit(':').next().unwrap().to_owned();
    let trawl = Trawl::new();
    let seeds =
        ["HTTP://127.1:{}/x/", "http://u:p@127.0.0.1:{}/a/../x/#top", "http://0x7f000001:{}/x/"];
    let crawl = trawl.crawl(seeds.map(|seed| seed.replace("{}", &port)));
    crawl.done().await.expect(0);

    assert_eq!(site.paths(), ["/x/"]);
    assert_eq!(trawl.pages().await.urls(), [site.url("/x/")]);
}

#[tokio::test]
async fn scopes() {
    let other = Web::new().page("/", []).serve().await;
    let away = other.url("/");
    let site = Web::new()
        .page("/docs/", ["/docs/a", "/blog/b", &away])
        .page("/docs/a", ["/docs/deep/c"])
        .page("/docs/deep/c", [])
        .page("/blog/b", [])
        .serve()
        .await;
    for (scope, paths, others) in [
        ("host", &["/docs/", "/docs/a", "/blog/b", "/docs/deep/c"][..], 0),
        ("prefix", &["/docs/", "/docs/a", "/docs/deep/c"], 0),
        // The registrable domain of an address is the address itself, whatever the port.
        ("domain", &["/docs/", "/docs/a", "/blog/b", "/docs/deep/c"], 1),
        ("any", &["/docs/", "/docs/a", "/blog/b", "/docs/deep/c"], 1),
    ] {
        site.forget();
        other.forget();
        let trawl = Trawl::new();
        trawl.crawl([site.url("/docs/")]).set("--scope", scope).done().await.expect(0);
        assert_eq!(site.paths(), paths, "{scope}");
        assert_eq!(other.visits().len(), others, "{scope}");
    }
}

#[tokio::test]
async fn rules_of_canonical_form_take_urls_for_one_page() {
    let site = Web::new()
        .page("/", ["/a?utm_source=x", "/a", "/a?ref=1", "/b/index.html", "/b/", "/c?y=1&x=2"])
        .page("/a", [])
        .page("/b/", ["/c?x=2&y=1"])
        .page("/c?x=2&y=1", [])
        .serve()
        .await;
    let trawl = Trawl::new();
    let crawl = trawl.crawl([site.url("/?gclid=1")]).set("--drop-params", "ref");
    let rules = "tracking,default-documents,sort-query";
    crawl.clone().set("--canon", rules).done().await.expect(0);
    assert_eq!(site.paths(), ["/", "/a", "/b/", "/c?x=2&y=1"]);

    // Whoever asks by another form is told of the same page, and the crawl keeps its rules.
    let page = |path: &str| trawl.command("page", [site.url(path)]).set("--show", "json");
    page("/b/index.html?utm_id=7").done().await.expect(0).says([&*site.url("/b/")]);
    crawl.clone().done().await.expect(2).says(["canon", "another crawl"]);
    crawl.set("--canon", "sort-query,tracking,default-documents").done().await.expect(0);
}

#[tokio::test]
async fn hops_off_site_and_rules_for_some_urls() {
    let far = Web::new().page("/", []).serve().await;
    let (far_root, far_next) = (far.url("/"), far.url("/x"));
    let near = Web::new().page("/", [&*far_root]).serve().await;
    let near_root = near.url("/");
    let site = Web::new()
        .page(
            "/",
            ["/late/1", "/1", "/soon/1", "/few/1", "/few/2", "/few/3", &near_root, &far_next],
        )
        .serve()
        .await;
    let trawl = Trawl::new();
    let rule = |prefix: &str, what: &str| {
        format!("[[rules]]\nprefix = \"{}\"\n{what}\n", site.url(prefix))
    };
    let rules = [
        rule("/late/", "priority = -1"),
        rule("/soon/", "priority = 1"),
        rule("/few/", "pages = 1"),
    ];
    let settings = trawl.write("crawl.toml", &rules.concat());
    let crawl = trawl.crawl([site.url("/")]).set("--config", settings);
    crawl.set("--hops-off-site", "1").done().await.expect(0).says(["2  not fetched"]);

    assert_eq!(site.paths(), ["/", "/soon/1", "/1", "/few/1", "/late/1"]);
    assert_eq!((near.paths(), far.paths()), (vec!["/".to_owned()], vec!["/x".to_owned()]));
}

#[tokio::test]
async fn patterns_include_and_exclude() {
    let site = Web::new()
        .page("/", ["/a/1", "/a/2", "/b/1", "/a/1.pdf"])
        .page("/a/1", ["/b/2"])
        .page("/a/2", [])
        .serve()
        .await;
    let trawl = Trawl::new();
    let crawl = trawl.crawl([site.url("/")]);
    let crawl = crawl.and("--include", "/a/").and("--include", "/$").and("--exclude", r"\.pdf$");
    crawl.done().await.expect(0);

    assert_eq!(site.paths(), ["/", "/a/1", "/a/2"]);
}

#[tokio::test]
async fn depth_counts_links_from_the_seed() {
    let site = Web::new()
        .page("/", ["/one"])
        .page("/one", ["/two"])
        .page("/two", ["/three"])
        .serve()
        .await;
    for (depth, paths) in [("0", &["/"][..]), ("2", &["/", "/one", "/two"])] {
        site.forget();
        let trawl = Trawl::new();
        trawl.crawl([site.url("/")]).set("--depth", depth).done().await.expect(0);
        assert_eq!(site.paths(), paths);
    }
}

#[tokio::test]
async fn budgets_end_a_crawl_at_the_page() {
    let web = || Web::new().tree(40, ms(1)).serve();
    let sites = [web().await, web().await];
    let seeds = || sites.iter().map(|site| site.url("/"));

    let trawl = Trawl::new();
    trawl.crawl(seeds()).set("--pages-per-host", "10").done().await.expect(0);
    assert_eq!(sites.each_ref().map(|site| site.visits().len()), [10, 10]);
    assert_eq!(trawl.pages().await.count(), 20);

    let trawl = Trawl::new();
    let ended = trawl.crawl(seeds()).set("--pages", "15").done().await.expect(0);
    assert_eq!(trawl.pages().await.count(), 15);
    assert!(ended.stdout.contains("budget"), "{ended}");
}

#[tokio::test]
async fn other_links_are_followed_if_asked_for() {
    let html = "<link rel=next href=/next><link rel='canonical' href=/canonical>
        <link rel=alternate href=/alternate><link rel=stylesheet href=/style>
        <meta http-equiv=refresh content='5; url=/refresh'>
        <iframe src=/iframe></iframe><a href=/a rel='noopener next'>a</a><map><area href=/area></map>";
    let site = Web::new().answer("/", Answer::html(html)).serve().await;
    let trawl = Trawl::new();
    trawl.crawl([site.url("/")]).done().await.expect(0);
    assert_eq!(site.paths(), ["/", "/a", "/area"]);
    let pages = trawl.pages().await;
    let rel = |path| {
        let link = pages.of(&site.url("/")).outlinks.iter().find(|link| link.url == site.url(path));
        link.and_then(|link| link.rel.clone())
    };
    assert_eq!((rel("/a").as_deref(), rel("/area")), (Some("noopener next"), None));

    site.forget();
    let trawl = Trawl::new();
    let follow = "area,iframe,frame,link-next,link-canonical,link-alternate,meta-refresh";
    trawl.crawl([site.url("/")]).set("--follow", follow).done().await.expect(0);
    let want = ["/", "/alternate", "/area", "/canonical", "/iframe", "/next", "/refresh"];
    assert_eq!(site.counts().into_keys().collect::<Vec<_>>(), want);
}

#[tokio::test]
async fn a_configuration_file_says_the_same_as_options() {
    let site =
        Web::new().page("/", ["/a", "/b", "/x"]).page("/a", ["/c"]).page("/b", []).serve().await;
    let trawl = Trawl::new();
    let config = format!(
        "name = \"shop\"\nseeds = [\"{}\"]\ndata = \"data\"\nlanes = 2\nexclude = [\"/x\"]\n\
         depth = 1\ndelay = \"0s\"\nrobots = \"ignore\"\nallow_net = [\"127.0.0.0/8\"]\n\
         user_agent = \"shopper/1.0\"\nretry_wait = \"100ms\"\nattempts = 2\n",
        site.url("/")
    );
    let config = trawl.write("crawl.toml", &config);
    let crawl = trawl.command::<&str>("crawl", []).unset("--data").set("--config", &config);
    crawl.done().await.expect(0);

    assert_eq!(site.paths(), ["/", "/a", "/b"]);
    assert!(site.visits().iter().all(|visit| visit.headers["user-agent"] == "shopper/1.0"));
    assert_eq!(trawl.pages().await.count(), 3);

    // An option wins over the file.
    let trawl = Trawl::new();
    let crawl = trawl.command::<&str>("crawl", []).set("--config", &config).set("--depth", "0");
    crawl.done().await.expect(0);
    assert_eq!(trawl.pages().await.count(), 1);
}

#[tokio::test]
async fn two_crawls_in_one_data_directory_are_told_apart_by_name() {
    let site = Web::new().page("/a", []).page("/b", []).serve().await;
    let trawl = Trawl::new();
    trawl.crawl([site.url("/a")]).set("--name", "first").done().await.expect(0);
    trawl.crawl([site.url("/b")]).set("--name", "second").done().await.expect(0);

    for (name, path) in [("first", "/a"), ("second", "/b")] {
        let out = trawl.file(name);
        let export = trawl.command::<&str>("export", []).set("--format", "jsonl");
        export.set("--out", &out).set("--crawl", name).done().await.expect(0);
        assert_eq!(harness::Pages::read(&out).urls(), [site.url(path)]);
    }
}

#[tokio::test]
async fn a_body_beyond_the_limit_is_cut_there_and_marked() {
    let bomb = Answer::text(&"0".repeat(50_000_000)).gzipped();
    let site = Web::new()
        .page("/", ["/endless", "/bomb", "/exact", "/last"])
        .answer("/endless", Answer::text("").endless())
        .answer("/bomb", bomb)
        .answer("/exact", Answer::text(&"x".repeat(65_536)))
        .page("/last", [])
        .serve()
        .await;
    let trawl = Trawl::new();
    let crawl = trawl.crawl([site.url("/")]).set("--body-limit", "64KiB");
    crawl.within(secs(30)).done().await.expect(0);

    let pages = trawl.pages().await;
    let of = |path| {
        let page = pages.of(&site.url(path));
        (page.bytes, page.truncated.as_deref())
    };
    assert_eq!(of("/endless"), (65_536, Some("length")));
    assert_eq!(of("/bomb"), (65_536, Some("length")));
    assert_eq!(of("/exact"), (65_536, None));
    assert_eq!(of("/last").1, None);
}

#[tokio::test]
async fn no_page_is_too_odd_to_parse() {
    // What takes a tree builder seconds to minutes, or gigabytes.
    let link = "<a href='/found'>found</a>";
    let many = |count: usize, part: fn(usize) -> String| (0..count).map(part).collect::<String>();
    let formatting = many(4_000, |n| format!("<b {n}><i {n}>"));
    let nested = many(40_000, |_| "<ul><li>".into());
    let attributes = many(200_000, |n| format!(" a{n}=b"));
    let tables = many(20_000, |_| "<table><td>".into());
    let odd = [
        ("/formatting", format!("{link}{formatting}x</p>")),
        ("/nested", format!("{link}{nested}")),
        ("/attributes", format!("{link}<p{attributes}>")),
        ("/tables", format!("{link}{tables}")),
        ("/nul", format!("{link}{}", "\0".repeat(1_000_000))),
        ("/open", format!("{link}<!--{}", "<".repeat(1_000_000))),
    ];
    let site = odd
        .iter()
        .fold(Web::new(), |web, (path, html)| web.answer(path, Answer::html(html.as_str())));
    let site = site.page("/", odd.iter().map(|(path, _)| *path)).page("/found", []).serve().await;
    let trawl = Trawl::new();
    trawl.crawl([site.url("/")]).within(secs(60)).done().await.expect(0);

    let pages = trawl.pages().await;
    assert_eq!(pages.count(), 8);
    for (path, _) in &odd {
        assert_eq!(pages.of(&site.url(path)).links(), [site.url("/found")], "{path}");
    }
}

#[tokio::test]
async fn all_goes_through_a_proxy_if_there_is_one() {
    let proxy = Web::new()
        .page("http://no-such-host.invalid/", ["/a"])
        .page("http://no-such-host.invalid/a", [])
        .serve()
        .await;
    let trawl = Trawl::new();
    let crawl = trawl.crawl(["http://no-such-host.invalid/"]).set("--proxy", proxy.url("/"));
    crawl.done().await.expect(0);

    let urls = ["http://no-such-host.invalid/", "http://no-such-host.invalid/a"];
    assert_eq!(proxy.paths(), urls);
    assert_eq!(trawl.pages().await.urls(), urls);
}

#[tokio::test]
async fn progress_is_told_in_plain_lines_and_the_result_apart_from_it() {
    let site = Web::new().tree(60, ms(100)).serve().await;
    let trawl = Trawl::new();
    let ended = trawl.crawl([site.url("/")]).done().await.expect(0);

    assert!(ended.stderr.lines().count() >= 2, "{ended}");
    assert!(ended.stderr.contains("queued"), "{ended}");
    assert!(!ended.stderr.contains(['\r', '\u{1b}']), "{ended}");
    assert!(ended.stdout.contains("60  ok"), "{ended}");
}
