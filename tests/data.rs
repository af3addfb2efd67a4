//! Data directories proved, mended, dumped and loaded: while they are used, after a kill, and with
//! damage planted in them.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::{
    fs::{self, OpenOptions},
    os::unix::fs::{FileExt, MetadataExt},
    path::{Path, PathBuf},
};

use harness::{Command, Ended, Pages, Sites, Trawl, Web, ms};
use serde_json::Value;
use trawl_master::store::{Store, rows::CrawlRow, sled::SledStore};
use trawl_shared::units::Size;

const PAGES: usize = 120;

/// `trawl verify --json`, and what it said.
async fn verified(trawl: &Trawl, data: &Path) -> (Ended, Value) {
    let ended =
        trawl.command::<&str>("verify", []).set("--data", data).set_flag("--json").done().await;
    let value = serde_json::from_str(&ended.stdout).unwrap_or_default();
    (ended, value)
}

/// That a data directory is as it should be; and what there is of its only crawl.
#[track_caller]
fn proved((ended, value): (Ended, Value)) -> Value {
    let ended = ended.expect(0);
    assert_eq!(value["proved"], true, "{ended}");
    assert_eq!(value["differences"], Value::Array(Vec::new()), "{ended}");
    let crawl = &value["crawls"][0];
    let count = |name: &str| crawl[name].as_u64().unwrap();
    assert_eq!(count("fetched"), count("stored"), "{ended}");
    assert_eq!(count("fetched"), count("counted"), "{ended}");
    let sum = ["done", "queued", "leased", "quarantined", "dropped"].map(count).iter().sum::<u64>();
    assert_eq!(count("discovered"), sum, "{ended}");
    crawl.clone()
}

/// The pages of a data directory.
async fn pages(trawl: &Trawl, data: &Path) -> Pages {
    let out = trawl.file("all.jsonl");
    let export = trawl.command::<&str>("export", []).set("--data", data).set("--format", "jsonl");
    export.set("--out", &out).done().await.expect(0);
    Pages::read(&out)
}

/// A command on a file, such as `trawl dump FILE --data DIR`.
fn on(trawl: &Trawl, verb: &str, file: &Path) -> Command {
    trawl.command(verb, [file])
}

fn flip(path: &Path, at: u64) {
    let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[!byte[0]], at).unwrap();
}

#[tokio::test]
async fn a_finished_crawl_is_proved_and_its_only_socket_is_gone() {
    let site = Web::new().tree(30, ms(0)).serve().await;
    let trawl = Trawl::new();
    trawl.crawl([site.url("/")]).done().await.expect(0);
    let crawl = proved(verified(&trawl, &trawl.data()).await);
    assert_eq!((&crawl["fetched"], &crawl["queued"]), (&37.into(), &0.into()));
    let text = trawl.command::<&str>("verify", []).done().await.expect(0);
    text.says(["37 fetched = 37 stored = 37 counted", "proved: nothing is lost"]);
    assert!(!trawl.data().join("control.sock").exists());
    trawl.command::<&str>("repair", []).done().await.expect(0).says(["nothing to mend"]);
    let none = trawl.command::<&str>("verify", []).set("--data", trawl.file("none"));
    none.done().await.expect(4).says(["there is no data directory"]);
}

#[tokio::test]
async fn a_crawl_is_proved_while_it_runs_and_after_each_kill() {
    let sites = Sites::trees(3, PAGES, ms(4)).await;
    let want = sites.undisturbed().await;
    let trawl = Trawl::new();
    let crawl = trawl.crawl(sites.seeds());
    let mut looks = 0;
    for count in [10, 40, 80] {
        let mut running = crawl.start();
        sites[0].visited(count - 8).await;
        // Each look is another moment of a crawl under load.
        while running.is_running() && sites[0].visits().len() < count {
            proved(verified(&trawl, &trawl.data()).await);
            looks += 1;
        }
        running.kill().await;
        proved(verified(&trawl, &trawl.data()).await);
    }
    crawl.done().await.expect(0);
    println!("proved {looks} times while it ran");
    let proof = proved(verified(&trawl, &trawl.data()).await);
    assert_eq!(proof["fetched"], want.count());
    assert_eq!(trawl.pages().await.content(), want.content());
}

#[tokio::test]
async fn a_directory_in_use_is_asked_through_its_socket_by_its_owner_alone() {
    let site = Web::new().tree(20, ms(0)).serve().await;
    let trawl = Trawl::new();
    let master = trawl.master().serve().await;
    let worker = trawl.worker(&master.url).start();
    trawl.submit([site.url("/")], &master.url).done().await.expect(0);
    trawl.ask::<&str>("status", [], &master.url).set_flag("--wait").done().await.expect(0);

    let socket = fs::metadata(trawl.data().join("control.sock")).unwrap();
    assert_eq!(socket.mode() & 0o777, 0o600);
    let online = trawl.pages().await;
    proved(verified(&trawl, &trawl.data()).await);
    let in_use = trawl.command::<&str>("repair", []).done().await;
    in_use.expect(4).says(["in use by process"]);
    let file = trawl.file("dump");
    on(&trawl, "dump", &file).done().await.expect(0);
    let from_afar = trawl.ask("dump", [trawl.file("same")], &master.url);
    from_afar.done().await.expect(0);

    worker.terminate();
    worker.done().await.expect(0);
    master.stop().await.expect(0);
    assert_eq!(trawl.pages().await.content(), online.content());
    // Who uses it is asked; a socket that was left behind is not.
    fs::write(trawl.data().join("control.sock"), "").unwrap();
    trawl.command::<&str>("verify", []).done().await.expect(0);
    let again = trawl.master().serve().await;
    trawl.command::<&str>("verify", []).done().await.expect(0);
    again.stop().await.expect(0);
}

#[tokio::test]
async fn a_dump_of_a_running_crawl_brings_it_back_after_all_is_lost() {
    let sites = Sites::trees(3, PAGES, ms(4)).await;
    let want = sites.undisturbed().await;
    let trawl = Trawl::new();
    let dump = trawl.file("dump.jsonl.gz");
    let running = trawl.crawl(sites.seeds()).start();
    sites[0].visited(30).await;
    on(&trawl, "dump", &dump).done().await.expect(0).says(["rows", "written to"]);
    sites[0].visited(75).await;
    running.kill().await;
    let fetched = sites.iter().map(|site| site.counts().len()).sum::<usize>();
    let pages_at = trawl.data().join("pages");

    // With the pages of the kill: those that are later than the dump are taken in.
    let mended = trawl.file("mended");
    let load = on(&trawl, "load", &dump).set("--data", &mended).set("--pages", &pages_at);
    load.done().await.expect(0).says(["loaded into", "later than the dump", "trawl repair"]);
    let repair = trawl.command::<&str>("repair", []).set("--data", &mended);
    repair.clone().set_flag("--dry-run").done().await.expect(0).says(["found in the segments"]);
    repair.done().await.expect(0).says(["found in the segments"]);
    let crawl = proved(verified(&trawl, &mended).await);
    let known = crawl["fetched"].as_u64().unwrap() as usize;
    repair.done().await.expect(0).says(["there is nothing to mend"]);
    let before = sites.again();
    trawl.crawl(sites.seeds()).set("--data", &mended).done().await.expect(0);
    assert_eq!(pages(&trawl, &mended).await.content(), want.content());
    proved(verified(&trawl, &mended).await);
    let again = sites.again() - before;
    println!("{fetched} fetched before the kill, {known} known after the repair, {again} again");
    assert!(known + 60 > fetched && again < 60, "{fetched}, {known}, {again}");

    // Without a repair they are fetched again, and nothing else is different.
    let plain = trawl.file("plain");
    let load = on(&trawl, "load", &dump).set("--data", &plain).set("--pages", &pages_at);
    load.done().await.expect(0);
    trawl.crawl(sites.seeds()).set("--data", &plain).done().await.expect(0);
    assert_eq!(pages(&trawl, &plain).await.content(), want.content());
    proved(verified(&trawl, &plain).await);

    // What it was loaded from is as it was.
    proved(verified(&trawl, &trawl.data()).await);
}

#[tokio::test]
async fn a_dump_without_its_pages_is_loaded_and_says_so_until_it_is_repaired() {
    let site = Web::new().tree(30, ms(0)).serve().await;
    let trawl = Trawl::new();
    trawl.crawl([site.url("/")]).done().await.expect(0);
    let want = trawl.pages().await;
    let (dump, data) = (trawl.file("dump"), trawl.file("other"));
    on(&trawl, "dump", &dump).done().await.expect(0);
    let load = on(&trawl, "load", &dump).set("--data", &data);
    load.done().await.expect(0).says(["1 segment is missing", "trawl repair"]);
    load.done().await.expect(4).says(["is not empty"]);

    let (ended, value) = verified(&trawl, &data).await;
    ended.expect(7).says(["segment 1 is missing"]);
    assert_eq!(value["counts"]["page_missing"], 37);
    trawl.crawl([site.url("/")]).set("--data", &data).done().await;
    let repair = trawl.command::<&str>("repair", []).set("--data", &data);
    repair.done().await.expect(0).says(["37 URLs not known any more", "1 segment missing"]);
    proved(verified(&trawl, &data).await);
    site.forget();
    trawl.crawl([site.url("/")]).set("--data", &data).done().await.expect(0);
    assert_eq!(pages(&trawl, &data).await.content(), want.content());
    proved(verified(&trawl, &data).await);
}

#[tokio::test]
async fn a_dump_that_is_not_whole_makes_no_data_directory() {
    let site = Web::new().tree(10, ms(0)).serve().await;
    let trawl = Trawl::new();
    trawl.crawl([site.url("/")]).done().await.expect(0);
    let (dump, data) = (trawl.file("dump"), trawl.file("other"));
    on(&trawl, "dump", &dump).done().await.expect(0);
    let piped = on(&trawl, "dump", Path::new("-")).done().await.expect(0).stdout;
    let text = fs::read_to_string(&dump).unwrap();
    assert_eq!(piped, text);
    let lines = text.lines().count();

    let load = on(&trawl, "load", &dump).set("--data", &data);
    fs::write(&dump, &text[..text.len() / 2]).unwrap();
    load.done().await.expect(1).says(["breaks off after line", "nothing was loaded"]);
    let flipped = text.replacen("\"state\":\"fetched\"", "\"state\":\"fetcheD\"", 1);
    fs::write(&dump, &flipped).unwrap();
    let line = text.lines().position(|line| line.contains("\"state\":\"fetched\"")).unwrap() + 1;
    load.done().await.expect(1).says([&*format!("line {line} of the dump is damaged")]);
    fs::write(&dump, text.lines().take(lines - 1).collect::<Vec<_>>().join("\n") + "\n").unwrap();
    load.done().await.expect(1).says(["breaks off"]);
    fs::write(&dump, "{\"url\":\"http://a.example/\"}\n").unwrap();
    load.done().await.expect(1).says(["no dump of trawl's"]);
    let verify = trawl.command::<&str>("verify", []).set("--data", &data);
    verify.done().await.expect(4).says(["there is no data directory"]);

    fs::write(&dump, &text).unwrap();
    load.set("--pages", trawl.data().join("pages")).done().await.expect(0);
    proved(verified(&trawl, &data).await);
}

/// What is planted, what verify calls it, and whether pages are lost by it.
type Plant = (&'static str, fn(&Path), u64);

#[tokio::test]
async fn planted_damage_is_named_and_mended_and_the_crawl_ends_the_same() {
    let site = Web::new().tree(40, ms(0)).serve().await;
    let trawl = Trawl::new();
    trawl.crawl([site.url("/")]).done().await.expect(0);
    let want = trawl.pages().await;

    fn first(data: &Path) -> PathBuf {
        data.join("pages/default/default-00000001.warc.gz")
    }
    fn change(data: &Path, change: impl FnOnce(&mut SledStore)) {
        let mut store = SledStore::open(&data.join("frontier"), Size::mib(8)).unwrap();
        change(&mut store);
        store.sync().unwrap();
    }
    fn nth(store: &SledStore, table: u8, which: usize) -> (Vec<u8>, Vec<u8>) {
        store.range(&[table], &[table + 1]).nth(which).unwrap().unwrap()
    }
    let plants: [Plant; 6] = [
        (
            "page_damaged",
            |data| flip(&first(data), fs::metadata(first(data)).unwrap().len() / 2),
            1,
        ),
        (
            "page_missing",
            |data| {
                let file = OpenOptions::new().write(true).open(first(data)).unwrap();
                file.set_len(file.metadata().unwrap().len() / 2).unwrap();
            },
            30,
        ),
        (
            "page_unknown",
            |data| {
                change(data, |store| {
                    let key = nth(store, b'U', 5).0;
                    store.apply(vec![(key, None)]).unwrap();
                });
            },
            0,
        ),
        (
            "crawl_count",
            |data| {
                change(data, |store| {
                    let (key, value) = nth(store, b'C', 0);
                    let mut row: CrawlRow = trawl_master::store::rows::decode(&value).unwrap();
                    row.stored_bytes += 1;
                    let value = prost::Message::encode_to_vec(&row);
                    store.apply(vec![(key, Some(value))]).unwrap();
                });
            },
            0,
        ),
        (
            "host_number",
            |data| {
                change(data, |store| {
                    let key = nth(store, b'H', 0).0;
                    store.apply(vec![(key, None)]).unwrap();
                });
            },
            0,
        ),
        ("segment", |data| fs::remove_file(first(data)).unwrap(), 40),
    ];
    let dump = trawl.file("dump");
    on(&trawl, "dump", &dump).done().await.expect(0);
    for (kind, plant, lost) in plants {
        let data = trawl.file(kind);
        let load = on(&trawl, "load", &dump).set("--data", &data);
        load.set("--pages", trawl.data().join("pages")).done().await.expect(0);
        plant(&data);
        let (ended, value) = verified(&trawl, &data).await;
        let ended = ended.expect(7);
        assert!(value["counts"][kind].as_u64() >= Some(1), "{kind}: {ended}");
        assert_eq!(value["proved"], false);
        let text = trawl.command::<&str>("verify", []).set("--data", &data).set("--limit", "1");
        text.done().await.expect(7).says(["different: ", "trawl repair"]);

        let repair = trawl.command::<&str>("repair", []).set("--data", &data);
        repair.done().await.expect(0);
        let crawl = proved(verified(&trawl, &data).await);
        let stored = crawl["stored"].as_u64().unwrap();
        let least = want.count() as u64 - lost.min(want.count() as u64);
        assert!(stored + 7 >= least, "{kind}: {stored} of {least}");
        repair.done().await.expect(0).says(["there is nothing to mend"]);
        trawl.crawl([site.url("/")]).set("--data", &data).done().await.expect(0);
        assert_eq!(pages(&trawl, &data).await.content(), want.content(), "{kind}");
        proved(verified(&trawl, &data).await);
    }
}
