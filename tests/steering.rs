//! Operators step in: crawls are paused, stopped and waited for, workers drained, pages let out of
//! quarantine; and they see what workers do, and why a URL is where it is.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says so by a panic")]

use std::fs;

use harness::{Answer, Cluster, Duration, Sites, Web, ms, secs};
use serde_json::{Value, json};
use tokio::time::Instant;

/// How long leases last; a worker's heartbeat comes twice in it.
const LEASE: Duration = secs(2);

/// The longest that a worker goes without hearing what is wanted of it, whatever the lease.
const HEARTBEAT_MAX: Duration = secs(5);

#[tokio::test]
async fn a_paused_crawl_rests_across_a_restart_and_goes_on_when_it_is_resumed() {
    let sites = Sites::trees(1, 40, ms(0)).await;
    let want = sites.undisturbed().await;
    let mut cluster = Cluster::start(secs(30)).await;
    let worker = cluster.worker("w").start();
    // All pages are lent at once, for twelve seconds of work.
    let seeds: Vec<_> = (1..40).map(|number| sites[0].url(&format!("/{number}"))).collect();
    let submit = cluster.submit("c", [sites.seeds(), seeds].concat()).set("--delay", "300ms");
    submit.done().await.expect(0);
    sites[0].visited(3).await;

    let asked = Instant::now();
    let paused = cluster.ask("pause", ["c"]).done().await.expect(0);
    paused.says(["crawl \"c\" is paused", "URLs still lent"]);
    let crawl = cluster.crawl_until("c", |crawl| crawl["leased"] == 0).await;
    let took = asked.elapsed();
    assert!(took < HEARTBEAT_MAX + secs(2), "it took hold after {took:?}");
    assert_eq!(crawl["state"], "paused");
    let queued = crawl["queued"].clone();
    assert_ne!(queued, 0);
    let visits = sites[0].visits().len();

    cluster.kill_master().await;
    cluster.start_master().await;
    // The worker is there, and has nothing to do.
    cluster.worker_until("w", |worker| worker["state"] == "idle").await;
    let crawl = cluster.crawl("c").await;
    assert_eq!((&crawl["state"], &crawl["queued"]), (&json!("paused"), &queued));
    assert_eq!(sites[0].visits().len(), visits, "a fetch began while it was paused");

    // A worker that comes anew gets nothing either. (The rest is to be fetched without delay.)
    worker.stops().await;
    submit.set("--delay", "0s").set_flag("--update").done().await.expect(0).says(["updated"]);
    cluster.ask("pause", ["c"]).done().await.expect(0).says(["crawl \"c\" is paused"]);
    let _other = cluster.worker("other").start();
    cluster.worker_until("other", |worker| worker["state"] == "idle").await;
    assert_eq!(sites[0].visits().len(), visits, "a fetch began while it was paused");

    cluster.ask("resume", ["c"]).done().await.expect(0).says(["crawl \"c\" is running"]);
    cluster.complete().await;
    assert_eq!(cluster.pages("c").await.content(), want.content());
    assert_eq!(sites.again(), 0);
}

#[tokio::test]
async fn a_stopped_crawl_ends_with_its_queue_kept_and_can_be_resumed() {
    let sites = Sites::trees(1, 40, ms(0)).await;
    let want = sites.undisturbed().await;
    let cluster = Cluster::start(LEASE).await;
    let _worker = cluster.worker("w").start();
    cluster.submit("c", sites.seeds()).set("--delay", "50ms").done().await.expect(0);
    sites[0].visited(8).await;

    cluster.ask("stop", ["c"]).done().await.expect(0).says(["crawl \"c\" "]);
    let ended = cluster.ask("status", ["c"]).set_flag("--wait").done().await.expect(0);
    ended.says(["finished: stopped"]);
    let crawl = cluster.crawl("c").await;
    assert_eq!((&crawl["state"], &crawl["reason"]), (&json!("finished"), &json!("stopped")));
    assert_eq!(crawl["leased"], 0);
    assert_ne!(crawl["queued"], 0);
    let pages = cluster.pages("c").await;
    assert_eq!(pages.count(), sites[0].visits().len(), "what was fetched is there");
    // It has ended, so there is nothing to pause.
    let again = cluster.ask("pause", ["c"]).done().await.expect(0);
    again.says(["has finished: stopped", "queued"]);

    cluster.ask("resume", ["c"]).done().await.expect(0).says(["crawl \"c\" is running"]);
    cluster.complete().await;
    assert_eq!(cluster.pages("c").await.content(), want.content());
    assert_eq!(sites.again(), 0);

    // Without a worker, and paused before: nothing has to end first.
    cluster.submit("d", ["http://127.0.0.1:49/"]).done().await.expect(0);
    cluster.ask("pause", ["d"]).done().await.expect(0);
    cluster.ask("stop", ["d"]).done().await.expect(0);
    cluster.crawl_until("d", |crawl| crawl["reason"] == "stopped").await;
}

#[tokio::test]
async fn waiting_ends_when_every_crawl_has() {
    let site = Web::new().tree(10, ms(0)).serve().await;
    let mut cluster = Cluster::start(LEASE).await;
    for name in ["first", "second"] {
        cluster.submit(name, [site.url("/")]).done().await.expect(0);
    }
    cluster.ask("pause", ["second"]).done().await.expect(0);
    let all = cluster.ask("status", []).set_flag("--wait").set_flag("--json");
    let mut all = all.start();
    let first = cluster.ask("status", ["first"]).set_flag("--wait").start();
    let _worker = cluster.worker("w").start();

    first.done().await.expect(0).says(["finished: complete"]);
    cluster.kill_master().await;
    all.says_line("waiting for it", secs(30)).await;
    cluster.start_master().await;
    assert_eq!(cluster.crawl("second").await["state"], "paused");
    assert!(all.is_running(), "one is paused, and has not ended");

    cluster.ask("resume", ["second"]).done().await.expect(0);
    let ended = all.done().await.expect(0).says(["the master is back"]);
    let ended: Value = serde_json::from_str(&ended.stdout).unwrap();
    for (index, name) in ["first", "second"].into_iter().enumerate() {
        assert_eq!(ended["crawls"][index]["name"], name);
        assert_eq!(ended["crawls"][index]["reason"], "complete");
    }
}

fn keys(object: &Value) -> Vec<&str> {
    object.as_object().unwrap().keys().map(String::as_str).collect()
}

#[tokio::test]
async fn what_programs_are_told() {
    let site = Web::new()
        .page("/", ["/a", "/gone", "/moved", "/broken", "http://elsewhere.invalid/"])
        .answer("/a", Answer::text("one"))
        .answer("/moved", Answer::redirect(301, "/a"))
        .answer("/broken", Answer::text("").dropped())
        .serve()
        .await;
    let cluster = Cluster::start(LEASE).await;
    let none = cluster.told("status", []).await;
    assert_eq!(none["crawls"], json!([]));
    let _worker = cluster.worker("w").start();
    let submit = cluster.submit("c", [site.url("/")]).set("--attempts", "2");
    submit.done().await.expect(0);
    cluster.complete().await;

    let status = cluster.told("status", []).await;
    assert_eq!(keys(&status), ["commits", "crawls", "disk_low", "instance", "version", "workers"]);
    assert_eq!(status["disk_low"], json!(null));
    assert_eq!(status["workers"], json!({"idle": 1, "working": 0}));
    assert_eq!(status["instance"].as_str().unwrap().len(), 32);
    let commits = [
        "bytes",
        "commits",
        "rows",
        "running_ms",
        "sync_longest_us",
        "syncs",
        "turn_longest_us",
        "turns",
    ];
    assert_eq!(keys(&status["commits"]), commits);
    let crawl = &status["crawls"][0];
    assert_eq!(
        keys(crawl),
        [
            "body_bytes",
            "discovered",
            "hosts",
            "hosts_busy",
            "leased",
            "leases_expired",
            "leases_kept",
            "leases_recovered",
            "name",
            "outcomes",
            "queued",
            "ran_ms",
            "reason",
            "reports_already",
            "reports_stale",
            "retries",
            "state",
            "stored_bytes",
            "troubles",
            "wire_bytes",
        ]
    );
    for (key, want) in [
        ("name", json!("c")),
        ("state", json!("finished")),
        ("reason", json!("complete")),
        ("discovered", json!(5)),
        ("queued", json!(0)),
        ("leased", json!(0)),
        ("outcomes", json!({"ok": 2, "client_error": 1, "redirect": 1, "broken": 1})),
        ("retries", json!(1)),
        ("hosts", json!(1)),
        ("hosts_busy", json!(0)),
    ] {
        assert_eq!(crawl[key], want, "{key}");
    }
    let trouble = &crawl["troubles"][0];
    assert_eq!(keys(trouble), ["class", "detail", "url"]);
    assert_eq!(
        (&trouble["url"], &trouble["class"]),
        (&json!(site.url("/broken")), &json!("broken"))
    );

    let workers = cluster.told("workers", []).await;
    assert_eq!(
        keys(&workers["workers"][0]),
        [
            "address",
            "failures",
            "heard_ms",
            "joined_ms",
            "lanes",
            "lanes_busy",
            "leases",
            "name",
            "outbox_bytes",
            "pages",
            "state",
            "urls",
            "version",
            "wire_bytes",
        ]
    );
    let text = cluster.ask("crawls", []).done().await.expect(0).stdout;
    assert_eq!(text, "NAME  STATE\nc     finished: complete\n");
}

#[tokio::test]
async fn workers_show_what_they_do_and_hold() {
    let slow = Answer::links("slow", ["/a", "/b"]).after(secs(60));
    let site = Web::new().answer("/", slow).serve().await;
    let cluster = Cluster::start(LEASE).await;
    let one = cluster.worker("one").set("--lanes", "7").start();
    let idle = cluster.worker_until("one", |worker| !worker.is_null()).await;
    for (key, want) in [("state", json!("idle")), ("leases", json!(0)), ("lanes", json!(7))] {
        assert_eq!(idle[key], want, "{key}");
    }

    cluster.submit("c", [site.url("/")]).done().await.expect(0);
    let working = cluster.worker_until("one", |worker| worker["lanes_busy"] == 1).await;
    for (key, want) in [("state", json!("working")), ("leases", json!(1)), ("urls", json!(1))] {
        assert_eq!(working[key], want, "{key}");
    }
    let status = cluster.told("status", []).await;
    assert_eq!(status["workers"], json!({"idle": 0, "working": 1}));

    one.kill().await;
    let silent = cluster.worker_until("one", |worker| worker["state"] == "silent").await;
    assert!(silent["heard_ms"].as_u64().unwrap() >= 2_000);
    let text = cluster.ask("workers", []).done().await.expect(0).stdout;
    assert!(text.starts_with("WORKER  STATE "), "{text}");
    assert!(text.lines().nth(1).unwrap().starts_with("one     silent "), "{text}");

    // Who gives no name gets one of its own.
    let _nameless = cluster.ask("worker", []).start();
    let others = cluster.told_until("workers", [], |told| told["workers"][1].is_object()).await;
    let names = others["workers"].as_array().unwrap().iter().map(|worker| &worker["name"]);
    let names: Vec<&str> = names.map(|name| name.as_str().unwrap()).collect();
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    let given = names.iter().find_map(|name| name.strip_prefix(&format!("{}-", host.trim())));
    assert!(given.is_some_and(|random| random.len() == 6), "{names:?}");
}

#[tokio::test]
async fn a_drained_worker_ends_what_it_has_and_another_does_the_rest() {
    let sites = Sites::trees(2, 60, ms(0)).await;
    let want = sites.undisturbed().await;
    let mut cluster = Cluster::start(LEASE).await;
    let _one = cluster.worker("one").start();
    cluster.submit("c", sites.seeds()).set("--delay", "50ms").done().await.expect(0);
    sites[0].visited(10).await;

    let drain = cluster.ask("drain", ["one"]);
    drain.done().await.expect(0).says(["worker one drains; it has ", " to end"]);
    let drained = cluster.worker_until("one", |worker| worker["state"] == "drained").await;
    assert_eq!((&drained["leases"], &drained["urls"]), (&json!(0), &json!(0)));
    drain.done().await.expect(0).says(["worker one is drained"]);
    let visits = || sites.iter().map(|site| site.visits().len()).sum::<usize>();
    let so_far = visits();
    let crawl = cluster.crawl("c").await;
    assert_eq!((&crawl["state"], &crawl["leased"]), (&json!("running"), &json!(0)));
    assert_ne!(crawl["queued"], 0, "there is more to do");

    // It stays so when its master starts again.
    cluster.kill_master().await;
    cluster.start_master().await;
    cluster.worker_until("one", |worker| worker["state"] == "drained").await;
    assert_eq!(visits(), so_far, "a drained worker fetched");

    let two = cluster.worker("two").start();
    cluster.complete().await;
    assert_eq!(cluster.pages("c").await.content(), want.content());
    assert_eq!(sites.again(), 0);
    cluster.worker_until("two", |worker| worker["pages"] == want.count() - so_far).await;
    two.stops().await;

    let undo = cluster.ask("drain", ["one"]).set_flag("--undo");
    undo.done().await.expect(0).says(["worker one works again"]);
    cluster.submit("again", sites.seeds()).done().await.expect(0);
    cluster.complete().await;
    assert_eq!(cluster.pages("again").await.content(), want.content());
}

#[tokio::test]
async fn why_finds_the_page_of_a_link_that_was_not_taken_in() {
    let site = Web::new()
        .page("/", ["/a", "/loop", "http://elsewhere.invalid/"])
        .answer(
            "/a",
            Answer::html(
                "<a href=/deep>deep</a><a href=/nf rel=nofollow>not</a>\
                 <a href='/odd?utm_source=a'>odd</a>",
            ),
        )
        .answer("/loop", Answer::redirect(302, "/landing"))
        .serve()
        .await;
    let cluster = Cluster::start(secs(30)).await;
    let _worker = cluster.worker("w").start();
    let submit = cluster.submit("c", [site.url("/")]).set("--depth", "1");
    submit.set("--canon", "tracking").done().await.expect(0);
    cluster.complete().await;
    for (path, via, reason) in [
        ("/deep", "/a", "it is 2 links from a seed, and the crawl goes as deep as 1"),
        ("/landing", "/loop", "it is 2 links from a seed, and the crawl goes as deep as 1"),
        ("/nf", "/a", "a page leads to it, and asks not to follow that link"),
        ("/never", "", "no page that was fetched leads to this very URL"),
    ] {
        let told = cluster.told("why", [site.url(path).as_str()]).await["crawls"][0].clone();
        let via = if via.is_empty() { String::new() } else { site.url(via) };
        assert_eq!(
            (&told["state"], &told["via"], &told["reason"]),
            (&json!("unknown"), &json!(via), &json!(reason)),
        );
    }
    // What the crawl's rules take for a link's URL is found as well, however it is asked for.
    for path in ["/odd", "/odd?utm_source=a", "/odd?utm_source=b"] {
        let told = cluster.told("why", [site.url(path).as_str()]).await["crawls"][0].clone();
        assert_eq!(
            (&told["via"], &told["canonical"]),
            (&json!(site.url("/a")), &json!(site.url("/odd")))
        );
    }
    let foreign = cluster.ask("why", ["http://elsewhere.invalid/"]).done().await.expect(0);
    foreign.says(["its scope does not admit it", &format!("first found on {}", site.url("/"))]);
    let redirect = cluster.ask("why", [site.url("/loop").as_str()]).done().await.expect(0);
    redirect.says([format!("leads to {}", site.url("/landing")).as_str()]);
}

#[tokio::test]
async fn why_tells_what_is_known_of_a_url() {
    let site = Web::new()
        .robots("User-agent: *\nDisallow: /secret/\n")
        .page("/", ["/a", "/secret/x", "/broken", "/slow", "http://elsewhere.invalid/"])
        .answer("/a", Answer::html("a page with <a href='/deep'>a link</a>"))
        .answer("/broken", Answer::text("").dropped())
        .answer("/slow", Answer::text("").after(secs(60)))
        .serve()
        .await;
    let gone = Web::new().answer("/", Answer::text("").dropped()).serve().await;
    let cluster = Cluster::start(secs(30)).await;
    let _worker = cluster.worker("w").start();
    let submit = cluster.submit("c", [site.url("/"), gone.url("/")]).set("--robots", "obey");
    let submit = submit.set("--depth", "2").set("--attempts", "2").set("--retry-wait", "50ms");
    // The slow page is under way for as long as this takes.
    let submit = submit.set("--read-timeout", "60s").set("--fetch-timeout", "60s");
    submit.done().await.expect(0);
    site.asked_for("/slow").await;
    cluster.crawl_until("c", |crawl| crawl["outcomes"]["broken"] == 1).await;
    let why = async |url: String| {
        // What has been fetched may still be on its way.
        let told = cluster.told_until("why", [url.as_str()], |told| {
            told["crawls"][0]["state"] != "leased" || url.ends_with("/slow")
        });
        let told = told.await;
        assert_eq!(told["canonical"], url);
        told["crawls"][0].clone()
    };
    let holds = |account: &Value, facts: Value| {
        for (key, want) in facts.as_object().unwrap() {
            assert_eq!(&account[key], want, "{key} of {account:#}");
        }
    };

    let page = why(site.url("/a")).await;
    holds(&page, json!({"crawl": "c", "state": "fetched", "status": 200, "depth": 1}));
    holds(&page, json!({"via": site.url("/"), "sha1": "I7FNPQPUI3BLPNIABBGEHGTWVVYZ4FEE"}));
    let [offset, length] = ["offset", "length"].map(|key| page[key].as_u64().unwrap());
    let segment = cluster.trawl().file(page["segment"].as_str().unwrap());
    assert!(length > 0 && offset + length <= fs::metadata(segment).unwrap().len());
    assert!(page["fetched_at_ms"].as_u64().unwrap() > 1_700_000_000_000);

    let seed = why(site.url("/")).await;
    holds(&seed, json!({"state": "fetched", "via": "", "depth": 0}));
    let slow = why(site.url("/slow")).await;
    holds(&slow, json!({"state": "leased", "worker": "w", "via": site.url("/"), "depth": 1}));
    let left = slow["lease_left_ms"].as_u64().unwrap();
    assert!((1..=30_000).contains(&left), "{left}");
    let forbidden = why(site.url("/secret/x")).await;
    holds(&forbidden, json!({"state": "failed", "class": "robots", "via": site.url("/")}));
    holds(
        &forbidden,
        json!({"detail": "disallowed by robots.txt, line 2: Disallow: /secret/ (for *)"}),
    );
    let broken = site.url("/broken");
    let told = |told: &Value| told["crawls"][0]["failures"] == 1;
    let broken = cluster.told_until("why", [broken.as_str()], told).await["crawls"][0].clone();
    holds(&broken, json!({"losses": 0, "via": site.url("/"), "depth": 1}));
    // Depending on when its wait was over, it may be the worker's again, behind the slow one.
    match broken["state"].as_str() {
        Some("waiting") => {
            holds(&broken, json!({"reason": "its host is lent out, and others of it come first"}));
        }
        _ => holds(&broken, json!({"state": "leased", "reason": "", "worker": "w"})),
    }
    let deep = why(site.url("/deep")).await;
    holds(&deep, json!({"state": "waiting", "via": site.url("/a"), "depth": 2}));
    holds(&deep, json!({"reason": "it waits until all URLs at depth 1 have ended"}));
    let failed = why(gone.url("/")).await;
    holds(&failed, json!({"state": "failed", "class": "broken", "failures": 2, "via": ""}));
    let unknown = why(site.url("/never")).await;
    holds(&unknown, json!({"state": "unknown", "via": ""}));
    holds(&unknown, json!({"reason": "no page that was fetched leads to this very URL"}));
    let foreign = why("http://elsewhere.invalid/".into()).await;
    holds(&foreign, json!({"state": "unknown"}));
    assert!(foreign["reason"].as_str().unwrap().starts_with("its scope does not admit it: "));

    // For people, and of a URL as they write it.
    let written = site.url("/x/../a#top");
    let text = cluster.ask("why", [written.as_str()]).done().await.expect(0);
    text.says([
        format!(
            "{}\n  is the canonical form of {written}, by standard, fragment\n",
            site.url("/a")
        )
        .as_str(),
        "in crawl \"c\": fetched\n",
        &format!("first found on {}\n", site.url("/")),
        "1 link from a seed\n",
        "answered with status 200\n",
    ]);
    let text = cluster.ask("why", [site.url("/slow").as_str()]).done().await.expect(0);
    text.says(["in crawl \"c\": leased\n", "lent to w by lease 1."]);

    hosts_are_told(&cluster, &site.url("")).await;
}

/// The one host that has something left, which the worker holds.
async fn hosts_are_told(cluster: &Cluster, url: &str) {
    let hosts = cluster.told("hosts", []).await;
    assert_eq!(hosts["matched"], 1);
    let host = &hosts["hosts"][0];
    assert_eq!(
        keys(host),
        ["crawl", "delay_ms", "due_ms", "key", "leased", "pages", "queued", "rests", "worker"]
    );
    assert_eq!((&host["key"], &host["worker"]), (&json!(url), &json!("w")));
    assert_eq!((&host["pages"], &host["due_ms"]), (&json!(2), &Value::Null));
    assert_ne!((&host["queued"], &host["leased"]), (&json!(0), &json!(0)));
    let text = cluster.ask("hosts", []).done().await.expect(0).stdout;
    assert!(text.lines().nth(1).unwrap().starts_with(&format!("c      {url} ")), "{text}");
    let other = cluster.ask("hosts", []).set("--contains", "elsewhere").set_flag("--json");
    let other: Value = serde_json::from_str(&other.done().await.expect(0).stdout).unwrap();
    assert_eq!(other, json!({"hosts": [], "matched": 0}));
}

#[tokio::test]
async fn a_page_that_kills_its_workers_is_quarantined_until_somebody_decides() {
    let poison = || {
        let deaths = (0..4).map(|_| Answer::text("").after(secs(60)));
        let answers = deaths.chain([Answer::text("harmless now")]);
        Web::new().page("/", ["/poison", "/fine"]).answers("/poison", answers)
    };
    let sites = [poison().serve().await, poison().serve().await];
    let mut cluster = Cluster::start(secs(1)).await;
    cluster.submit("c", sites.iter().map(|site| site.url("/"))).done().await.expect(0);
    for death in 1..=4 {
        let worker = cluster.worker("w").start();
        for site in &sites {
            site.asked_for_again("/poison", death).await;
        }
        worker.kill().await;
    }
    let _worker = cluster.worker("w").start();
    cluster.complete().await;

    // The rest of its hosts came through, and the pages are set aside; durably.
    cluster.kill_master().await;
    cluster.start_master().await;
    let crawl = cluster.crawl("c").await;
    assert_eq!(crawl["outcomes"], json!({"ok": 2, "client_error": 2, "quarantined": 2}));
    let list = cluster.ask("quarantine", ["list"]).set("--crawl", "c");
    let listed = list.clone().set_flag("--json").done().await.expect(0).stdout;
    let listed: Vec<Value> =
        listed.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(listed.len(), 2);
    for (url, site) in listed.iter().zip(&sites) {
        let detail = "4 leases ran out with it, the last one held by worker w";
        assert_eq!(
            *url,
            json!({"url": site.url("/poison"), "detail": detail, "via": site.url("/"),
                   "depth": 1, "attempts": 4, "worker": "w", "trap": ""})
        );
    }
    let [kept, dropped] = sites.each_ref().map(|site| site.url("/poison"));
    list.done().await.expect(0).says([&*kept, &*dropped, "4 attempts, depth 1"]);
    let why = cluster.told("why", [&*kept]).await["crawls"][0].take();
    assert_eq!((&why["state"], &why["class"]), (&json!("quarantined"), &json!("quarantined")));

    let quarantine = |verb, url: &str| {
        let command = cluster.ask("quarantine", [verb, url]);
        command.set("--crawl", "c")
    };
    quarantine("drop", &dropped).done().await.expect(0).says(["1 URL given up"]);
    quarantine("release", &kept).done().await.expect(0).says(["1 URL released"]);
    cluster.complete().await;
    let crawl = cluster.crawl("c").await;
    assert_eq!(crawl["outcomes"], json!({"ok": 3, "client_error": 2, "dropped": 1}));
    let pages = cluster.pages("c").await;
    assert_eq!(pages.of(&kept).bytes, "harmless now".len() as u64);
    assert!(!pages.has(&dropped));
    let why = cluster.told("why", [&*dropped]).await["crawls"][0].take();
    assert_eq!(why["state"], "dropped");
    assert!(why["detail"].as_str().unwrap().starts_with("given up by an operator"));
    quarantine("release", &dropped).done().await.expect(1).says(["not in quarantine", &*dropped]);
    let all = cluster.ask("quarantine", ["release", "--all"]).done().await.expect(0);
    all.says(["0 URLs released"]);
}

#[tokio::test]
async fn a_crawl_that_ended_by_its_budget_goes_on_with_a_larger_one() {
    let sites = Sites::trees(1, 20, ms(0)).await;
    let cluster = Cluster::start(LEASE).await;
    let _worker = cluster.worker("w").start();
    let submit = cluster.submit("c", sites.seeds()).set("--pages", "3");
    submit.done().await.expect(0);
    let ended = cluster.crawl_until("c", |crawl| crawl["state"] == "finished").await;
    assert_eq!(ended["reason"], "page budget");
    assert_eq!(sites[0].visits().len(), 3);

    submit.set("--pages", "100").set_flag("--update").done().await.expect(0).says(["updated"]);
    cluster.complete().await;
    assert_eq!(cluster.pages("c").await.count(), 20 + 7);
    assert_eq!(sites.again(), 0);
}
