//! Data directories of other formats than this build's: older ones are taken up, later ones are left
//! alone.
//!
//! `fixtures/format_1.tar.gz` is a data directory of format 1 as trawl 0.1.0 made it before this test was
//! written, with a crawl in it that was killed half-way: leases out, a URL that waits for another try, and
//! pages. To make one of another build:
//! `TRAWL_BIN=THAT_BUILD cargo test -p trawl-tests --test formats -- --ignored make`.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says so by a panic")]

use std::{
    collections::BTreeMap,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    time::SystemTime,
};

use harness::{Answer, Site, Trawl, Web, audit, ms};

/// Exit code for a data directory that cannot be used.
const DATA_DIR: i32 = 4;

const PAGES: usize = 120;

/// Where the crawl of the fixture found its pages.
fn address() -> SocketAddr {
    SocketAddr::from(([127, 29, 1, 1], 8029))
}

fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/format_1.tar.gz")
}

async fn site() -> Site {
    let trying = [Answer::status(503), Answer::links("/tried", ["/"])];
    let web = Web::new().tree(PAGES, ms(4)).answers("/5", trying);
    web.serve_on(address()).await
}

fn crawl(trawl: &Trawl, site: &Site) -> harness::Command {
    trawl.crawl([site.url("/")]).set("--retry-wait", "3s")
}

fn tar(words: &[&str], file: &Path, folder: &Path) {
    let done = Command::new("tar").args(words).arg(file).arg("-C").arg(folder).arg("data").status();
    assert!(done.unwrap().success());
}

fn unpacked() -> Trawl {
    let trawl = Trawl::new();
    let folder = trawl.data().parent().unwrap().to_owned();
    tar(&["-xzf"], &fixture(), &folder);
    trawl
}

#[tokio::test]
#[ignore = "makes the fixture"]
async fn make() {
    let (trawl, site) = (Trawl::new(), site().await);
    let command = crawl(&trawl, &site);
    let half = command.start();
    site.visited(PAGES / 2).await;
    half.kill().await;
    tar(&["-czf"], &fixture(), trawl.data().parent().unwrap());
}

#[tokio::test]
async fn a_data_directory_of_format_1_is_taken_up_and_its_crawl_ends_as_if_nothing_had_been() {
    let (trawl, site) = (unpacked(), site().await);
    let before = audit(&trawl.data()).unwrap();
    assert!(before.pages.len() > PAGES / 4 && before.waiting.len() > 1, "{before:?}");

    crawl(&trawl, &site).done().await.expect(0);

    let counts = site.counts();
    for url in before.pages.keys() {
        let path = &url[site.url("").len()..];
        assert!(!counts.contains_key(path), "{path} had been fetched");
    }
    let pages = trawl.pages().await;
    site.forget();
    let undisturbed = Trawl::new();
    undisturbed.crawl([site.url("/")]).done().await.expect(0);
    assert_eq!(pages.content(), undisturbed.pages().await.content());
    println!(
        "B29: a data directory of format 1 with {} pages and {} URLs waiting was opened and its crawl \
         finished, {} pages, equal to an undisturbed one",
        before.pages.len(),
        before.waiting.len(),
        pages.count()
    );
}

/// Every file with its bytes and when it was changed, every directory with when it was.
fn everything(folder: &Path) -> BTreeMap<PathBuf, (SystemTime, Vec<u8>)> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let changed = fs::metadata(&path).unwrap().modified().unwrap();
        if path.is_dir() {
            found.extend(everything(&path));
            found.insert(path, (changed, Vec::new()));
        } else {
            let bytes = fs::read(&path).unwrap();
            found.insert(path, (changed, bytes));
        }
    }
    found
}

#[tokio::test]
async fn a_data_directory_of_a_later_format_is_refused_and_no_byte_of_it_changes() {
    let trawl = unpacked();
    fs::write(trawl.data().join("format"), "2 trawl data directory\n").unwrap();
    let before = everything(trawl.data().parent().unwrap());
    assert!(before.len() > 6, "{:?}", before.keys());

    let out = trawl.file("out.jsonl");
    let commands = [
        trawl.crawl([format!("http://{}/", address())]),
        trawl.master(),
        trawl.command::<&str>("export", []).set("--format", "jsonl").set("--out", &out),
        trawl.command("page", [format!("http://{}/", address())]),
    ];
    for command in commands {
        let refused = command.done().await.expect(DATA_DIR);
        refused
            .says(["has format 2, this trawl knows formats up to 1", "use the trawl that made it"]);
    }

    assert!(everything(trawl.data().parent().unwrap()) == before, "something has changed");
    println!("B29: format 2 was refused by 4 commands, {} files unchanged", before.len());
}
