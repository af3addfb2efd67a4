//! What the cluster does to a host: seen by people, and changed by them while it goes on.

use harness::{Answer, Cluster, Site, Trawl, Visit, Web, ms, secs};
use serde_json::{Value, json};

/// What trawl exits with if a command is not understood.
const USAGE: i32 = 2;

/// A request of a page that is there, not of robots.txt.
fn is_page(visit: &Visit) -> bool {
    visit.path != "/robots.txt" && !visit.path.starts_with("/none/")
}

/// Pages that were fetched.
fn pages(site: &Site) -> usize {
    site.visits().iter().filter(|visit| is_page(visit)).count()
}

#[tokio::test]
async fn a_robots_txt_is_fetched_once_for_the_cluster() {
    let tree = || Web::new().tree(40, ms(0));
    let robots = format!("User-agent: *\nDisallow: /secret\nAllow: /\n# {}\n", "x".repeat(300));
    let site = tree().robots(&robots).serve().await;
    let mut cluster = Cluster::start(secs(2)).await;
    let one = cluster.worker("one").start();
    let submit = cluster.submit("c", [site.url("/")]).set("--robots", "obey");
    submit.set("--delay", "50ms").done().await.expect(0);
    site.visited(8).await;
    one.kill().await;
    cluster.kill_master().await;
    cluster.start_master().await;
    let _two = cluster.worker("two").start();
    cluster.complete().await;
    let again = cluster.submit("again", [site.url("/"), site.url("/secret/x")]);
    again.set("--robots", "obey").done().await.expect(0);
    cluster.complete().await;

    assert_eq!(site.visits_of("/robots.txt"), 1, "two workers, two crawls, two masters");
    let told = cluster.told("host", [site.url("/").as_str()]).await;
    assert_eq!((&told["key"], &told["known"]), (&json!(site.url("")), &json!(true)));
    assert_eq!(
        (&told["robots"]["bytes"], &told["address"]),
        (&json!(robots.len()), &json!("127.0.0.1"))
    );
    let text = cluster.ask("host", [site.url("").as_str()]).set_flag("--robots").done().await;
    assert_eq!(text.expect(0).stdout, robots);
    let why = cluster.ask("why", [site.url("/secret/x").as_str()]).done().await.expect(0);
    why.says(["robots.txt fetched 0h ", " ago: disallowed, line 2: Disallow: /secret (for *)"]);
}

#[tokio::test]
async fn a_host_is_blocked_and_unblocked_while_it_is_crawled() {
    let site = Web::new().tree(400, ms(0)).serve().await;
    let other = Web::new().tree(10, ms(0)).serve().await;
    let mut cluster = Cluster::start(secs(2)).await;
    let _worker = cluster.worker("w").start();
    let submit = cluster.submit("c", [site.url("/"), other.url("/")]);
    submit.set("--delay", "50ms").done().await.expect(0);
    site.visited(5).await;
    let host = site.url("");
    let block = cluster.ask("host", ["--block", host.as_str(), "--reason", "asked by mail"]);
    block.done().await.expect(0).says([host.as_str(), "blocked: asked by mail"]);
    let rests = |told: &Value| told["crawls"][0]["leased"] == 0;
    cluster.told_until("host", [host.as_str()], rests).await;
    let visits = site.visits().len();
    cluster.kill_master().await;
    cluster.start_master().await;
    cluster.crawl_until("c", |crawl| crawl["hosts_busy"] == 0).await;
    let hosts = cluster.told("hosts", []).await;
    assert_eq!(hosts["hosts"][0]["rests"], "blocked: asked by mail");
    let why = cluster.ask("why", [site.url("/399").as_str()]).done().await.expect(0);
    why.says(["its host is left alone: blocked: asked by mail"]);
    assert_eq!(site.visits().len(), visits, "a blocked host is left alone");

    let change = ["--unblock", "--delay", "0s", "--connections", "2"];
    let change = std::iter::once(host.as_str()).chain(change);
    let told = cluster.told("host", change).await;
    assert_eq!((&told["blocked"], &told["set_delay_ms"]), (&json!(false), &json!(0)));
    cluster.complete().await;
    assert_eq!(pages(&site), 400);
    let told = cluster.told("host", [host.as_str(), "--delay", "default"]).await;
    assert_eq!((&told["set_delay_ms"], &told["set_connections"]), (&json!(null), &json!(2)));
}

#[tokio::test]
async fn what_waits_for_its_turn_at_a_blocked_host_goes_back_at_once() {
    let site = Web::new().tree(5, ms(0)).serve().await;
    let cluster = Cluster::start(secs(2)).await;
    let _worker = cluster.worker("w").start();
    let submit = cluster.submit("c", ["/1", "/2", "/3"].map(|path| site.url(path)));
    submit.set("--delay", "1h").done().await.expect(0);
    site.visited(1).await;
    let host = site.url("");
    let told = cluster.told("host", [host.as_str(), "--block"]).await;
    assert_eq!(told["blocked"], json!(true));
    let rests = |told: &Value| told["crawls"][0]["leased"] == 0;
    cluster.told_until("host", [host.as_str()], rests).await;
    assert_eq!(site.visits().len(), 1);
}

#[tokio::test]
async fn what_people_have_set_is_listed_also_where_nothing_is_queued() {
    let mut cluster = Cluster::start(secs(10)).await;
    cluster.submit("c", ["http://queued.test/"]).done().await.expect(0);
    let set = async |host: &'static str, change: &[&'static str]| {
        let words = std::iter::once(host).chain(change.iter().copied());
        cluster.ask("host", words).done().await.expect(0);
    };
    set("http://slow.test", &["--delay", "5s", "--limit", "9"]).await;
    set("http://block.test", &["--block", "--reason", "asked by mail"]).await;
    set("http://freed.test", &["--block"]).await;
    set("http://freed.test", &["--unblock"]).await;
    cluster.kill_master().await;
    cluster.start_master().await;

    let told = cluster.told("hosts", ["--set"]).await;
    let keys: Vec<_> = told["hosts"].as_array().unwrap().iter().map(|host| &host["key"]).collect();
    assert_eq!(keys, [&json!("http://block.test"), &json!("http://slow.test")]);
    assert_eq!(told["hosts"][0]["blocked_reason"], "asked by mail");
    let text = cluster.ask("hosts", ["--set", "--limit", "1"]).done().await.expect(0);
    text.says(["http://block.test  -", "yes: asked by mail", "1 more"]);
    let text = cluster.ask("hosts", ["--set", "--contains", "slow"]).done().await.expect(0);
    text.says(["http://slow.test     5s  -", "9  -"]);
}

#[tokio::test]
async fn what_cannot_be_set_on_a_host_is_refused() {
    let cluster = Cluster::start(secs(10)).await;
    let ask = |change: [&'static str; 2]| {
        cluster.ask("host", ["http://h.test"].into_iter().chain(change))
    };
    ask(["--connections", "0"]).done().await.expect(USAGE).says(["1 is the least"]);
    ask(["--reason", "why"]).done().await.expect(USAGE).says(["--block"]);
    ask(["--block", "--unblock"]).done().await.expect(USAGE).says(["--unblock"]);
}

#[tokio::test]
async fn a_limit_set_on_a_host_ends_it_early() {
    let site = Web::new().tree(100, ms(0)).serve().await;
    let cluster = Cluster::start(secs(10)).await;
    let told = cluster.told("host", [site.url("").as_str(), "--limit", "7"]).await;
    assert_eq!((&told["known"], &told["set_pages"]), (&json!(true), &json!(7)));
    let _worker = cluster.worker("w").start();
    cluster.submit("c", [site.url("/")]).done().await.expect(0);
    cluster.complete().await;
    assert_eq!(site.visits().len(), 7);
}

#[tokio::test]
async fn a_host_gets_several_requests_at_a_time_if_the_crawl_says_so() {
    let site = Web::new().tree(60, ms(100)).robots("User-agent: *\nAllow: /\n").serve().await;
    let trawl = Trawl::new();
    let crawl = trawl.crawl([site.url("/")]).set("--robots", "obey");
    crawl.set("--host-connections", "3").done().await.expect(0);
    assert_eq!(site.most_at_once(), 3);
    assert_eq!((pages(&site), site.visits_of("/robots.txt")), (60, 1));
}

#[tokio::test]
async fn a_crawl_delay_lies_between_the_requests_of_all_connections() {
    let robots = "User-agent: *\nCrawl-delay: 0.5\n";
    let site = Web::new().tree(6, ms(0)).robots(robots).serve().await;
    let trawl = Trawl::new();
    let crawl = trawl.crawl([site.url("/")]).set("--robots", "obey");
    crawl.set("--host-connections", "3").done().await.expect(0);
    let mut began: Vec<_> = site.visits().iter().map(|visit| visit.began).collect();
    began.sort();
    let least = began.windows(2).map(|pair| pair[1] - pair[0]).min();
    assert!(began.len() >= 7, "the pages and robots.txt");
    assert!(least >= Some(ms(450)), "{least:?}");
}

#[tokio::test]
async fn a_robots_txt_that_cannot_be_had_is_asked_for_by_one_connection_only() {
    let seeds: Vec<String> = (0..20).map(|n| format!("/{n}")).collect();
    let site = Web::new().answer("/robots.txt", Answer::status(503)).serve().await;
    let trawl = Trawl::new();
    let crawl = trawl.crawl(seeds.iter().map(|path| site.url(path))).set("--robots", "obey");
    let crawl = crawl.set("--host-connections", "5").set("--host-attempts", "3");
    crawl.set("--retry-wait", "20ms").done().await;
    assert_eq!((site.visits_of("/robots.txt"), pages(&site)), (3, 0));
}

#[tokio::test]
async fn a_host_that_asks_for_rest_gets_it_as_a_whole() {
    let busy = Answer::status(429).header("Retry-After", "2");
    let links = ["/a", "/b", "/busy", "/c", "/d"];
    let site = links
        .iter()
        .filter(|path| **path != "/busy")
        .fold(Web::new().page("/", links), |web, path| web.page(path, []));
    let site = site.answers("/busy", [busy, Answer::text("now")]).serve().await;
    let trawl = Trawl::new();
    let crawl = trawl.crawl([site.url("/")]).set("--retry-wait", "50ms");
    crawl.done().await.expect(0);
    let visits = site.visits();
    let asked = visits.iter().position(|visit| visit.path == "/busy").expect("it is asked for");
    let rest = visits[asked + 1].began - visits[asked].began;
    assert!(rest >= secs(2), "the host was asked again after {rest:?}");
    assert_eq!((site.visits_of("/busy"), visits.len()), (2, 7));
}

#[tokio::test]
async fn a_rest_that_is_asked_for_with_robots_txt_counts_as_well() {
    let busy = Answer::status(503).header("Retry-After", "2");
    let rules = Answer::text("User-agent: *\nDisallow: /no\n");
    let site = Web::new().page("/", []).answers("/robots.txt", [busy, rules]).serve().await;
    let trawl = Trawl::new();
    let crawl = trawl.crawl([site.url("/")]).set("--robots", "obey").set("--retry-wait", "50ms");
    crawl.done().await.expect(0);
    let visits = site.visits();
    assert_eq!(site.paths(), ["/robots.txt", "/robots.txt", "/"]);
    assert!(visits[1].began - visits[0].began >= secs(2));
}

#[tokio::test]
async fn a_slow_host_is_asked_less_often() {
    let site = Web::new().page("/", ["/a"]).answer("/a", Answer::text("")).serve().await;
    site.slow_down(ms(300));
    let trawl = Trawl::new();
    trawl.crawl([site.url("/")]).set("--delay", "200ms").done().await.expect(0);
    let waits = site.waits(is_page);
    assert!(waits[0] >= ms(1_500), "five times as long as it took: {waits:?}");
}

#[tokio::test]
async fn a_dead_host_is_given_up_after_some_tries_and_not_asked_for_each_url() {
    let site = Web::new().serve().await;
    let seeds: Vec<String> = (0..200).map(|n| site.url(&format!("/{n}"))).collect();
    drop(site);
    let other = Web::new().tree(20, ms(0)).serve().await;
    let trawl = Trawl::new();
    let seeds = seeds.into_iter().chain([other.url("/")]);
    let crawl = trawl.crawl(seeds).set("--retry-wait", "20ms").set("--host-attempts", "4");
    crawl.done().await.expect(0).says(["200  failed: no connection"]);
    assert_eq!(pages(&other), 20);
}

#[tokio::test]
async fn hosts_of_one_address_share_its_lanes() {
    let mut sites = Vec::new();
    for _ in 0..6 {
        sites.push(Web::new().tree(6, ms(50)).serve().await);
    }
    let quick = Web::new().tree(20, ms(0)).serve_at([127, 0, 0, 7]).await;
    let seeds = sites.iter().map(|site| site.url("/")).chain([quick.url("/")]);
    let trawl = Trawl::new();
    trawl.crawl(seeds).set("--group-hosts", "2").done().await.expect(0);
    // One address is one domain too, so that it is known before the first answer.
    let mut visits: Vec<_> = sites.iter().flat_map(|site| site.visits()).collect();
    assert!(visits.len() >= 36);
    visits.sort_by_key(|visit| visit.began);
    let most = visits.iter().map(|visit| {
        let under_way = |other: &&Visit| {
            other.began <= visit.began && other.ended.is_none_or(|ended| ended > visit.began)
        };
        visits.iter().filter(under_way).count()
    });
    assert_eq!(most.max(), Some(2));
}
