//! What operators ask of a running master: the answers, for people and for programs, and what they
//! hear if they ask for something that is not there.

use std::fmt::Write as _;

use harness::{Answer, Command, Site, Trawl, Web, ms, secs, until};
use serde_json::Value;

/// A command that prints JSON, and what it printed.
async fn json(command: &Command) -> Value {
    let ended = command.clone().set_flag("--json").done().await.expect(0);
    serde_json::from_str(&ended.stdout).unwrap_or_else(|error| panic!("{error}: {ended}"))
}

async fn site() -> Site {
    Web::new().tree(40, ms(0)).serve().await
}

#[tokio::test]
async fn a_name_that_is_taken_is_refused_unless_it_is_meant() {
    let site = site().await;
    let trawl = Trawl::new();
    let master = trawl.master().serve().await;
    let submit = |path| trawl.submit([site.url(path)], &master.url).set("--name", "docs");
    submit("/").done().await.expect(0).says(["crawl \"docs\" submitted, 1 new seed"]);
    submit("/late").done().await.expect(2).says(["\"docs\"", "exists already", "--update"]);
    let update = submit("/late").set_flag("--update").set("--depth", "0");
    update.done().await.expect(0).says(["crawl \"docs\" updated, 1 new seed"]);
    submit("/late").set_flag("--update").done().await.expect(0).says(["0 new seeds"]);

    for (option, value, says) in [
        ("--name", "a/b", "name"),
        ("--include", "[", "regular expression"),
        ("--charsets", "klingon", "klingon"),
        ("--delay", "2 days", "delay"),
    ] {
        submit("/").set(option, value).done().await.expect(2).says([says]);
    }
    let answer = trawl.ask::<&str>("crawls", [], &master.url).done().await.expect(0);
    assert_eq!(answer.stdout, "NAME  STATE\ndocs  running\n");
}

#[tokio::test]
async fn names_that_nobody_has() {
    let site = site().await;
    let trawl = Trawl::new();
    let master = trawl.master().serve().await;
    trawl.submit([site.url("/")], &master.url).set("--name", "docs").done().await.expect(0);
    let url = site.url("/");
    for words in [
        vec!["status", "nope"],
        vec!["status", "nope", "--wait"],
        vec!["pause", "nope"],
        vec!["resume", "nope"],
        vec!["stop", "nope"],
        vec!["hosts", "--crawl", "nope"],
        vec!["why", &url, "--crawl", "nope"],
        vec!["quarantine", "list", "--crawl", "nope"],
        vec!["quarantine", "release", "--all", "--crawl", "nope"],
        vec!["drain", "nope"],
    ] {
        let ended = trawl.ask(words[0], &words[1..], &master.url).done().await.expect(2);
        ended.says(["nope"]);
    }
    for words in [vec!["why", "nonsense"], vec!["quarantine", "release", "nonsense"]] {
        let ended = trawl.ask(words[0], &words[1..], &master.url).done().await.expect(2);
        ended.says(["nonsense", "not a URL"]);
    }
}

#[tokio::test]
async fn seeds_from_files_in_as_many_calls_as_they_need() {
    let trawl = Trawl::new();
    let master = trawl.master().serve().await;
    let mut list = "# seeds\n\n".to_owned();
    let path = "x".repeat(1_000);
    for number in 0..3_000 {
        writeln!(list, "  http://a.example/{number}/{path}").unwrap();
    }
    let file = trawl.write("seeds.txt", &list);
    let submit = trawl.ask::<&str>("submit", [], &master.url).set("--seeds-file", &file);
    submit.done().await.expect(0).says(["3000 new seeds"]);
    let status = json(&trawl.ask::<&str>("status", [], &master.url)).await;
    assert_eq!(status["crawls"][0]["queued"], 3_000);

    trawl.write("seeds.txt", "http://a.example/\nnonsense\n");
    let submit = submit.set("--name", "other");
    submit.done().await.expect(2).says(["nonsense", "not a URL"]);
    let submit = submit.set("--seeds-file", trawl.file("nowhere"));
    submit.done().await.expect(2).says(["nowhere", "cannot be read"]);
}

#[tokio::test]
async fn what_is_told_of_a_crawl_that_is_under_way() {
    let site = site().await;
    let trawl = Trawl::new();
    let master = trawl.master().serve().await;
    let url = master.url.as_str();
    let ask = |verb, args: &[&str]| trawl.ask(verb, args, url);
    let slow = |name| trawl.submit([site.url("/")], url).set("--name", name).set("--delay", "10s");
    slow("one").done().await.expect(0);
    slow("two").done().await.expect(0);
    let worker = trawl.worker(url).set("--name", "w1").start();
    let status = ask("status", &["one"]).set_flag("--json");
    until(&status, secs(60), |it| it.stdout.contains("\"ok\":1")).await;

    let status = json(&ask("status", &[])).await;
    assert_eq!(status["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(status["instance"].as_str().unwrap().len(), 32);
    let names: Vec<_> = status["crawls"].as_array().unwrap().iter().map(|it| &it["name"]).collect();
    assert_eq!(names, ["one", "two"]);
    assert_eq!(status["crawls"][0]["outcomes"]["ok"], 1);
    let text = ask("status", &[]).done().await.expect(0);
    assert!(text.stdout.starts_with("NAME  STATE    FOUND  QUEUED  LENT  OK"), "{text}");

    let workers = json(&ask("workers", &[])).await;
    assert_eq!(
        (&workers["workers"][0]["name"], &workers["workers"][0]["lanes"]),
        (&"w1".into(), &32.into())
    );
    ask("workers", &[]).done().await.expect(0).says(["WORKER", "w1"]);

    let host = site.url("/").trim_end_matches('/').to_owned();
    let hosts = json(&ask("hosts", &["--crawl", "one"])).await;
    assert_eq!((&hosts["matched"], &hosts["hosts"][0]["key"]), (&1.into(), &host.clone().into()));
    assert_eq!(hosts["hosts"][0]["delay_ms"], 10_000);
    let none = json(&ask("hosts", &["--contains", "elsewhere"])).await;
    assert_eq!(none["matched"], 0);
    ask("hosts", &["--limit", "1"]).done().await.expect(0).says([&host, "10s", "1 more"]);

    let why = json(&ask("why", &[&site.url("/"), "--crawl", "one"])).await;
    assert_eq!(
        (&why["crawls"][0]["state"], &why["crawls"][0]["status"]),
        (&"fetched".into(), &200.into())
    );
    let told = ask("why", &[&format!("{host}/#top")]).done().await.expect(0);
    told.says(["is the canonical form of", "in crawl \"one\": fetched", "status 200", "SHA-1"]);
    let told = ask("why", &["http://elsewhere.example/"]).done().await.expect(0);
    told.says(["in crawl \"two\": unknown", "scope"]);

    ask("pause", &["one"]).done().await.expect(0).says(["crawl \"one\" is paused"]);
    ask("crawls", &[]).done().await.expect(0).says(["one   paused", "two   running"]);
    // A paused crawl has not ended, so nobody who waits for it is sent home.
    let waiting = ask("status", &["--wait"]).start();
    ask("resume", &["one"]).done().await.expect(0).says(["crawl \"one\" is running"]);
    ask("drain", &["w1"]).done().await.expect(0).says(["worker w1 "]);
    ask("drain", &["w1", "--undo"]).done().await.expect(0).says(["w1 works again"]);
    ask("stop", &["one"]).done().await.expect(0).says(["crawl \"one\" "]);
    ask("stop", &["two"]).done().await.expect(0).says(["crawl \"two\" "]);
    let ended = waiting.done().await.expect(0);
    assert_eq!(ended.stdout.matches("finished: stopped").count(), 2, "{ended}");
    worker.stops().await;
}

#[tokio::test]
async fn a_status_can_be_watched_to_the_end() {
    let site = site().await;
    let trawl = Trawl::new();
    let master = trawl.master().serve().await;
    trawl.submit([site.url("/")], &master.url).done().await.expect(0);
    let watch = trawl.ask::<&str>("status", [], &master.url).set_flag("--watch");
    let watching = watch.set_flag("--wait").start();
    let _worker = trawl.worker(&master.url).start();
    watching.done().await.expect(0).says(["running", "finished: complete"]);
}

#[tokio::test]
async fn an_empty_quarantine() {
    let site = site().await;
    let trawl = Trawl::new();
    let master = trawl.master().serve().await;
    trawl.submit([site.url("/")], &master.url).done().await.expect(0);
    let ask = |args: &[&str]| trawl.ask("quarantine", args, &master.url);
    assert_eq!(ask(&["list"]).done().await.expect(0).stdout, "");
    ask(&["release", "--all"]).done().await.expect(0).says(["0 URLs released"]);
    let url = site.url("/");
    ask(&["drop", &url]).done().await.expect(1).says([
        "0 URLs given up",
        "not in quarantine",
        &url,
    ]);
    ask(&["release"]).done().await.expect(2).says(["--all"]);
    ask(&["release", &url, "--all"]).done().await.expect(2).says(["cannot be used with"]);
}

#[tokio::test]
async fn a_data_directory_is_asked_whether_anybody_uses_it_or_not() {
    let web = Web::new().tree(25, ms(0)).page("/trap", ["a/b/a/b/a/b/"]);
    let site = web.answer("/slow", Answer::text("at last").after(secs(60))).serve().await;
    let trawl = Trawl::new();
    let ask =
        |verb: &str, words: &[&str]| trawl.command(verb, words.iter().map(|it| it.to_owned()));
    let nothing = ask("why", &[&site.url("/")]).done().await.expect(4);
    nothing.says(["there is no data directory"]);
    assert!(!trawl.data().exists(), "a question makes none");

    trawl.crawl([site.url("/"), site.url("/trap")]).done().await.expect(0);
    let (page, caught) = (site.url("/3"), site.url("/a/b/a/b/a/b/"));
    let why = json(&ask("why", &[&page])).await;
    assert_eq!(why["crawls"][0]["state"], "fetched");
    ask("why", &[&caught]).done().await.expect(0).says(["quarantined", "path_repeats"]);
    ask("status", &[]).done().await.expect(0).says(["default", "complete"]);
    ask("crawls", &[]).done().await.expect(0).says(["default"]);
    ask("quarantine", &["list"]).done().await.expect(0).says([caught.as_str()]);
    ask("hosts", &["--set"]).done().await.expect(0);
    // What is changed stays so.
    let block = ask("host", &[&site.url("/"), "--block", "--reason", "asked by mail"]);
    block.done().await.expect(0);
    ask("host", &[&site.url("/")]).done().await.expect(0).says(["asked by mail"]);
    ask("host", &[&site.url("/"), "--unblock"]).done().await.expect(0);
    ask("quarantine", &["drop", "--all"]).done().await.expect(0).says(["1 URL given up"]);
    ask("why", &[&caught]).done().await.expect(0).says(["dropped"]);
    for option in ["--wait", "--watch"] {
        ask("status", &[option]).done().await.expect(2).says([option, "nobody uses"]);
    }
    trawl.command::<&str>("verify", []).done().await.expect(0);

    // While a crawl goes on, it is the crawl that answers.
    let slow = trawl.crawl([site.url("/slow")]).set("--read-timeout", "60s");
    let crawl = slow.set("--fetch-timeout", "60s").start();
    site.asked_for("/slow").await;
    let why = json(&ask("why", &[&site.url("/slow")])).await;
    assert_eq!(why["crawls"][0]["state"], "leased");
    let master = "http://127.0.0.1:9";
    let other = ask("why", &[&page]).variable("TRAWL_MASTER", master).done().await.expect(0);
    other.says(["fetched"]);
    let both = ask("why", &[&page]).set("--master", master).done().await.expect(2);
    both.says(["--data", "--master"]);
    crawl.interrupt();
    crawl.done().await.expect(130);
}
