//! Pages taken from a master that runs are those of its data directory: while it crawls and when
//! it has ended, and whatever becomes of those who ask.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::{ffi::OsStr, fs};

use harness::{Answer, Command, Master, Running, Trawl, Web, ms, real, secs, tools};
use tokio::time::{Instant, sleep};

const FORMATS: [&str; 4] = ["jsonl", "warc", "cdxj", "bson"];

/// A master on a data directory, and a worker.
struct Cluster {
    trawl: Trawl,
    master: Master,
    worker: Running,
}

impl Cluster {
    async fn start() -> Self {
        let trawl = Trawl::new();
        let master = trawl.master().serve().await;
        let worker = trawl.worker(&master.url).start();
        Self { trawl, master, worker }
    }

    /// `trawl VERB ARGS --master URL`.
    fn ask<S: AsRef<OsStr>>(&self, verb: &str, args: impl IntoIterator<Item = S>) -> Command {
        self.trawl.ask(verb, args, &self.master.url)
    }

    /// Gives it a crawl named `c`.
    async fn crawl(&self, seeds: impl IntoIterator<Item = String>) {
        let submit = self.trawl.submit(seeds, &self.master.url).set("--name", "c");
        submit.set("--read-timeout", "5s").done().await.expect(0);
    }

    /// Waits until its crawl has ended.
    async fn ended(&self) {
        self.ask::<&str>("status", []).set_flag("--wait").done().await.expect(0);
    }

    /// A command that exports from it to a file.
    fn export(&self, format: &str, name: &str) -> Command {
        self.ask::<&str>("export", []).set("--format", format).set("--out", self.trawl.file(name))
    }

    /// What an export from it writes.
    async fn exported(&self, format: &str) -> Vec<u8> {
        self.export(format, "out").done().await.expect(0);
        fs::read(self.trawl.file("out")).unwrap()
    }

    /// Stops it. The data directory is free then.
    async fn stop(self) -> Trawl {
        self.worker.stops().await;
        self.master.stop().await;
        self.trawl
    }
}

/// Waits until something is so.
async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let late = Instant::now() + secs(60);
    while !is_so().await {
        assert!(Instant::now() < late, "it never came to pass that {what}");
        sleep(ms(5)).await;
    }
}

#[tokio::test]
async fn a_master_exports_what_its_data_directory_holds() {
    let cluster = Cluster::start().await;
    cluster.crawl([real::site("sqlite").seed, real::site("docbook").seed]).await;
    cluster.ended().await;
    let mut exports = Vec::new();
    for format in FORMATS {
        exports.push(cluster.exported(format).await);
    }
    // Into a pipe the pages go alone; what is told of them stands elsewhere.
    let piped = cluster.ask::<&str>("export", []).set("--format", "cdxj").set("--out", "-");
    let piped = piped.done().await.expect(0).says(["written to standard output"]);
    assert!(piped.stdout.as_bytes() == exports[2]);

    let trawl = cluster.stop().await;

    for (format, exported) in FORMATS.into_iter().zip(exports) {
        let offline = fs::read(trawl.export(format, "offline").await).unwrap();
        assert!(offline == exported, "{format} differs");
    }
    let offline = trawl.command::<&str>("export", []).set("--format", "cdxj").set("--out", "-");
    assert!(offline.done().await.expect(0).stdout == piped.stdout);
}

#[tokio::test]
async fn an_export_during_a_crawl_is_whole_and_the_beginning_of_a_later_one() {
    let before: Vec<String> = (0..20).map(|n| format!("/before/{n}")).collect();
    let after: Vec<String> = (0..20).map(|n| format!("/after/{n}")).collect();
    let links = [&before[..], &["/slow".to_owned()], &after].concat();
    let mut web = Web::new().answer("/", Answer::links("start", &links)).answers(
        "/slow",
        // The host's other pages have to wait for it, until its time is over.
        [Answer::text("never").after(secs(60)), Answer::text("at last")],
    );
    for path in before.iter().chain(&after) {
        web = web.answer(path, Answer::text(path));
    }
    let site = web.serve().await;
    let cluster = Cluster::start().await;
    cluster.crawl([site.url("/")]).await;

    until("it has the first pages", async || {
        let lines = cluster.exported("jsonl").await;
        lines.iter().filter(|byte| **byte == b'\n').count() == 1 + before.len()
    })
    .await;
    let mut early = Vec::new();
    for format in FORMATS {
        early.push(cluster.exported(format).await);
    }
    let warc = cluster.trawl.write("early.warc.gz", "");
    fs::write(&warc, &early[1]).unwrap();
    assert_eq!(site.visits_of("/slow"), 1, "the crawl has gone on too soon");
    tools::tool("warcio", ["check".into(), warc]).ok();

    cluster.ended().await;
    for (format, early) in FORMATS.into_iter().zip(early) {
        let late = cluster.exported(format).await;
        assert!(early.len() < late.len());
        if format == "cdxj" {
            let late = String::from_utf8(late).unwrap();
            let early = String::from_utf8(early).unwrap();
            assert_eq!(early.lines().count(), 1 + before.len());
            assert!(early.lines().all(|line| late.lines().any(|other| line == other)));
        } else {
            assert!(late.starts_with(&early), "{format} has another beginning");
        }
    }
    cluster.stop().await;
}

#[tokio::test]
async fn who_is_killed_or_interrupted_leaves_no_output_and_the_master_goes_on() {
    let mut rng = fastrand::Rng::with_seed(7);
    let paths: Vec<String> = (0..24).map(|n| format!("/{n}")).collect();
    let mut web = Web::new().answer("/", Answer::links("large", &paths));
    for path in &paths {
        let body: Vec<u8> = std::iter::repeat_with(|| rng.u8(..)).take(2 << 20).collect();
        web = web.answer(path, Answer::bytes("application/octet-stream", body));
    }
    let site = web.serve().await;
    let cluster = Cluster::start().await;
    cluster.crawl([site.url("/")]).await;
    cluster.ended().await;
    let [out, partial] = ["out", "out.partial"].map(|name| cluster.trawl.file(name));
    let in_the_middle = async || {
        let export = cluster.export("warc", "out").start();
        until("it writes", async || fs::metadata(&partial).is_ok_and(|f| f.len() > 1 << 20)).await;
        export
    };

    // More often than exports may run at the same time.
    for _ in 0..6 {
        let killed = in_the_middle().await.kill().await;
        assert_eq!(killed.code, None, "{killed}");
        assert!(!out.exists());
        fs::remove_file(&partial).unwrap();
    }
    let interrupted = in_the_middle().await;
    interrupted.interrupt();
    interrupted.done().await.expect(130).says(["interrupted"]);
    assert!(!out.exists() && !partial.exists());

    let bytes = cluster.exported("warc").await.len();
    assert!(bytes > paths.len() << 21, "{bytes}");
    cluster.stop().await;
}

#[tokio::test]
async fn a_page_of_a_master_is_printed_as_it_was() {
    let site = Web::new()
        .page("/", ["/zipped"])
        .answer("/zipped", Answer::text("forty\nwords\n").gzipped())
        .serve()
        .await;
    let cluster = Cluster::start().await;
    cluster.crawl([site.url("/")]).await;
    cluster.ended().await;
    let page = |path| cluster.ask("page", [site.url(path)]);

    assert_eq!(page("/zipped").done().await.expect(0).stdout, "forty\nwords\n");
    page("/zipped")
        .set("--show", "headers")
        .done()
        .await
        .expect(0)
        .says(["content-encoding: gzip"]);
    let json = page("/zipped").set("--show", "json").done().await.expect(0).stdout;
    page("/none").done().await.expect(1).says(["/none", "never heard of it"]);
    page("/zipped").set("--crawl", "d").done().await.expect(2).says(["\"d\"", "there are: c"]);

    let offline = cluster.stop().await;
    let offline = offline.command("page", [site.url("/zipped")]).set("--show", "json");
    assert_eq!(offline.done().await.expect(0).stdout, json);
}

#[tokio::test]
async fn what_a_master_cannot_export_is_told() {
    let cluster = Cluster::start().await;
    let site = Web::new().page("/", []).serve().await;
    cluster.crawl([site.url("/")]).await;
    cluster.ended().await;

    let unknown = cluster.export("jsonl", "out").set("--crawl", "d").done().await;
    unknown.expect(2).says(["\"d\"", "there are: c"]);
    // Its segments lie in its data directory; over the network they are one file.
    fs::create_dir(cluster.trawl.file("dir")).unwrap();
    cluster.export("warc", "dir").done().await.expect(2).says(["is a directory", "--data"]);
    cluster.export("jsonl", "none/out").done().await.expect(1).says(["none/out"]);
    let both = cluster.export("jsonl", "out").set("--data", cluster.trawl.data()).done().await;
    both.expect(2).says(["--master", "--data"]);
    for name in ["out", "out.partial"] {
        assert!(!cluster.trawl.file(name).exists());
    }
    let (nobody, trawl) = (cluster.export("jsonl", "out"), cluster.stop().await);
    nobody.done().await.expect(6).says(["no answer from the master"]);
    assert!(!trawl.file("out").exists());
}
