//! Whatever a person, a disk or a host does wrong: a message that says what is wrong and what to do,
//! an exit code of its own, nothing lost, and never a panic (which every run is checked for).

use std::{fs, net::TcpListener};

use harness::{Answer, Trawl, Web, ms, secs, tools};

#[tokio::test]
async fn a_host_that_does_not_exist() {
    let trawl = Trawl::new();
    let crawl = trawl.crawl(["http://no-such-host.invalid/"]).within(secs(60));
    crawl.done().await.expect(3).says(["no such host", "http://no-such-host.invalid/"]);
}

#[tokio::test]
async fn a_host_that_refuses_the_connection() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let trawl = Trawl::new();
    let ended = trawl.crawl([format!("http://{address}/")]).done().await;
    ended.expect(3).says(["no connection", &format!("http://{address}/"), "refused"]);
}

#[tokio::test]
async fn a_seed_that_is_no_url() {
    for (seed, why) in [
        ("example.org", "not a URL"),
        ("http://", "not a URL"),
        ("http://exa mple.org/", "not a URL"),
        ("http://example.org:99999/", "not a URL"),
        ("ftp://example.org/", "http"),
        ("file:///etc/passwd", "http"),
        ("javascript:alert(1)", "http"),
    ] {
        let trawl = Trawl::new();
        trawl.crawl([seed]).done().await.expect(2).says([seed, why]);
        assert!(!trawl.data().exists(), "nothing is made for {seed}");
    }
}

#[tokio::test]
async fn no_seed_at_all() {
    let trawl = Trawl::new();
    trawl.crawl::<&str>([]).done().await.expect(2).says(["URL"]);
}

#[tokio::test]
async fn one_wrong_seed_among_good_ones_starts_nothing() {
    let site = Web::new().page("/", []).serve().await;
    let trawl = Trawl::new();
    trawl.crawl([site.url("/"), "gopher://x/".into()]).done().await.expect(2).says(["gopher"]);
    assert_eq!(site.visits().len(), 0);
}

#[tokio::test]
async fn options_that_cannot_be() {
    for (option, value, parts) in [
        ("--include", "[", ["include", "regular expression"]),
        ("--exclude", "a(", ["exclude", "regular expression"]),
        ("--delay", "soon", ["delay", "500ms"]),
        ("--delay", "3", ["delay", "500ms"]),
        ("--body-limit", "plenty", ["body-limit", "10MiB"]),
        ("--body-limit", "1", ["body", "1 KiB"]),
        ("--scope", "moon", ["scope", "prefix"]),
        ("--robots", "maybe", ["robots", "obey"]),
        ("--allow-net", "127.0.0.0/99", ["allow-net", "127.0.0.0/99"]),
        ("--attempts", "0", ["attempts", "1"]),
        ("--pages", "0", ["pages", "1"]),
        ("--lanes", "0", ["lanes", "1"]),
        ("--depth", "deep", ["depth", "deep"]),
        ("--charsets", "klingon", ["charsets", "utf-8"]),
        ("--follow", "script", ["follow", "meta-refresh"]),
        ("--proxy", "ftp://x/", ["proxy", "socks5"]),
        ("--user-agent", "", ["user", "agent"]),
        ("--no-such-option", "", ["--no-such-option", "--help"]),
    ] {
        let trawl = Trawl::new();
        let crawl = trawl.crawl(["http://127.0.0.1:49/"]).set(option, value);
        crawl.done().await.expect(2).says([value]).says(parts);
        assert!(!trawl.data().exists(), "nothing is made for {option} {value:?}");
    }
}

#[tokio::test]
async fn a_configuration_that_cannot_be_names_file_line_and_key() {
    for (line, parts) in [
        ("dealy = \"1s\"", ["dealy", "delay"]),
        ("delay = \"soon\"", ["delay", "soon"]),
        ("delay = 5", ["delay", "500ms"]),
        ("depth = -1", ["depth", "-1"]),
        ("scope = \"moon\"", ["scope", "prefix"]),
        ("allow_net = [\"10.0.0.0/33\"]", ["allow_net", "10.0.0.0/33"]),
        ("attempts = \"many\"", ["attempts", "many"]),
        ("this is no toml", ["expected", "="]),
    ] {
        let trawl = Trawl::new();
        let config = format!("# A comment.\nname = \"odd\"\n{line}\n");
        let config = trawl.write("crawl.toml", &config);
        let crawl = trawl.command("crawl", ["http://127.0.0.1:49/"]).set("--config", config);
        let ended = crawl.done().await.expect(2).says(["crawl.toml"]).says(parts);
        assert!(ended.stderr.contains("line 3") || ended.stderr.contains(":3"), "{ended}");
    }
}

#[tokio::test]
async fn settings_that_make_no_sense_name_key_value_and_what_is_allowed() {
    for (line, parts) in [
        ("include = [\"[\"]", ["include", "\"[\"", "regular expression"]),
        ("attempts = 0", ["attempts", "\"0\"", "1 or more"]),
        ("charsets = [\"klingon\"]", ["charsets", "klingon", "utf-8"]),
        ("retry_wait = \"2h\"\nretry_wait_max = \"1h\"", ["retry_wait_max", "1h", "2h"]),
        ("lanes = 0", ["lanes", "0", "1 to"]),
    ] {
        let trawl = Trawl::new();
        let config = trawl.write("crawl.toml", line);
        let crawl = trawl.command("crawl", ["http://127.0.0.1:49/"]).set("--config", config);
        crawl.done().await.expect(2).says(parts);
    }
}

#[tokio::test]
async fn extraction_rules_that_cannot_be() {
    for (rule, parts) in [
        ("name = \"x\"\nselect = \"p[\"", ["select", "p["]),
        ("name = \"x\"\nselect = \"p\"\nattr = \"id\"", ["attr", "attribute"]),
        ("name = \"x\"", ["select", "missing"]),
        ("name = \"\"\nselect = \"p\"", ["name", "\"\""]),
    ] {
        let trawl = Trawl::new();
        let config = trawl.write("crawl.toml", &format!("[[extract]]\n{rule}\n"));
        let crawl = trawl.command("crawl", ["http://127.0.0.1:49/"]).set("--config", config);
        crawl.done().await.expect(2).says(parts);
    }
}

#[tokio::test]
async fn a_configuration_that_is_not_there() {
    let trawl = Trawl::new();
    let crawl = trawl.command("crawl", ["http://127.0.0.1:49/"]).set("--config", "nowhere.toml");
    crawl.done().await.expect(2).says(["nowhere.toml"]);
}

#[tokio::test]
async fn a_data_directory_of_a_later_trawl_is_left_alone() {
    let site = Web::new().page("/", []).serve().await;
    let trawl = Trawl::new();
    trawl.crawl([site.url("/")]).done().await.expect(0);
    let format = trawl.data().join("format");
    let text = fs::read_to_string(&format).unwrap();
    fs::write(&format, text.replacen('1', "4711", 1)).unwrap();

    let data = trawl.data().display().to_string();
    let again = trawl.crawl([site.url("/")]).done().await;
    again.expect(4).says([&data, "4711", "format"]);
    let export = trawl.command::<&str>("export", []).set("--format", "jsonl").set("--out", "x");
    export.done().await.expect(4).says(["4711"]);

    fs::write(&format, text).unwrap();
    assert_eq!(trawl.pages().await.count(), 1);
}

#[tokio::test]
async fn a_directory_of_something_else_is_left_alone() {
    let trawl = Trawl::new();
    fs::create_dir(trawl.data()).unwrap();
    fs::write(trawl.data().join("thesis.tex"), "ten years of work").unwrap();

    let data = trawl.data().display().to_string();
    let crawl = trawl.crawl(["http://127.0.0.1:49/"]);
    crawl.done().await.expect(4).says([&data, "not a trawl data directory", "--data"]);
    assert_eq!(fs::read_dir(trawl.data()).unwrap().count(), 1);
}

#[tokio::test]
async fn a_data_directory_that_is_a_file() {
    let trawl = Trawl::new();
    let file = trawl.write("data", "a file");
    let crawl = trawl.crawl(["http://127.0.0.1:49/"]);
    crawl.done().await.expect(4).says([&*file.to_string_lossy()]);
    assert_eq!(fs::read_to_string(file).unwrap(), "a file");
}

/// The form of a crawl in a script of [`tools::in_mount_namespace`].
fn crawl_in_script(seed: &str, data: &str) -> String {
    format!(
        "\"$TRAWL\" crawl {seed} --data {data} --allow-net 127.0.0.0/8 --delay 0s --robots ignore \
         --retry-wait 100ms"
    )
}

#[tokio::test]
async fn a_read_only_disk_is_named_and_nothing_is_fetched() {
    let site = Web::new().page("/", []).serve().await;
    let trawl = Trawl::new();
    let disk = trawl.file("disk").display().to_string();
    let crawl = crawl_in_script(&site.url("/"), &format!("{disk}/data"));
    let script = format!(
        "mkdir {disk}; mount -t tmpfs -o ro tmpfs {disk}\n\
         {crawl} && code=0 || code=$?; echo \"code $code\""
    );

    let text = tools::in_mount_namespace(&script).await.ok();
    for part in ["code 4", &format!("{disk}/data"), "ead-only"] {
        assert!(text.contains(part), "{part:?} is not in: {text}");
    }
    assert!(!text.contains("panicked"), "{text}");
    assert_eq!(site.visits().len(), 0);
}

#[tokio::test]
async fn a_full_disk_stops_the_crawl_and_loses_nothing() {
    // 60 pages of 200 KB that no compression makes smaller, on a disk of 6 MB that is used to its
    // end.
    let mut random = fastrand::Rng::with_seed(6);
    let paths: Vec<_> = (0..60).map(|number| format!("/{number}")).collect();
    let mut web = Web::new().answer("/", Answer::links("all", &paths));
    for path in &paths {
        let body: Vec<u8> = std::iter::repeat_with(|| random.u8(..)).take(200_000).collect();
        web = web.answer(path, Answer::bytes("application/octet-stream", body).after(ms(5)));
    }
    let site = web.serve().await;
    let trawl = Trawl::new();
    let disk = trawl.file("disk").display().to_string();
    let out = trawl.file("pages.jsonl").display().to_string();
    let crawl = crawl_in_script(&site.url("/"), &format!("{disk}/data"));
    let crawl = format!("{crawl} --disk-reserve 0");
    let script = format!(
        "mkdir {disk}; mount -t tmpfs -o size=6m tmpfs {disk}\n\
         for i in 1 2; do {crawl} && code=0 || code=$?; echo \"full: code $code\"; done\n\
         mount -o remount,size=64m {disk}\n\
         {crawl} && code=0 || code=$?; echo \"roomy: code $code\"\n\
         \"$TRAWL\" export --data {disk}/data --format jsonl --out {out}"
    );

    let text = tools::in_mount_namespace(&script).await.ok();
    assert_eq!(text.matches("full: code 5").count(), 2, "{text}");
    assert!(text.contains("roomy: code 0"), "{text}");
    assert_eq!(text.matches("the disk is full").count(), 2, "{text}");
    assert!(!text.contains("panicked"), "{text}");
    assert!(!text.contains('\u{1b}'), "it writes for a terminal, but is in a pipe: {text}");
    assert_eq!(harness::Pages::read(&trawl.file("pages.jsonl")).count(), 61);
    // What was acknowledged before the disk was full is not fetched again.
    let again = site.visits().len() - site.counts().len();
    assert!(again <= 8, "{again} of 61 fetched again");
}

#[tokio::test]
async fn what_a_host_says_cannot_write_to_the_terminal() {
    let title = "red \u{1b}[31m and a bell \u{7}";
    let site = Web::new()
        .answer("/", Answer::html(format!("<title>{title}</title><a href='/\u{1b}[2J'>x</a>")))
        .serve()
        .await;
    let trawl = Trawl::new();
    let ended = trawl.crawl([site.url("/")]).done().await.expect(0);

    for text in [&ended.stdout, &ended.stderr] {
        assert!(!text.contains(['\u{1b}', '\u{7}']), "{text:?}");
    }
}
