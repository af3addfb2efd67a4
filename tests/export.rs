//! What comes out is what was fetched, and the tools of others agree.

use std::{fs, path::PathBuf};

use harness::{Answer, Trawl, Web, real, tools};

/// Crawls two real sites: one compressed, one with redirects.
async fn crawl() -> Trawl {
    let trawl = Trawl::new();
    let seeds = [real::site("sqlite").seed, real::site("docbook").seed];
    trawl.crawl(seeds).done().await.expect(0);
    trawl
}

#[tokio::test]
async fn warcio_finds_every_page_whole_in_the_segments_and_in_the_export() {
    let trawl = crawl().await;
    let pages = trawl.export("jsonl", "pages.jsonl").await;
    let one = trawl.export("warc", "pages.warc.gz").await;
    let segments = trawl.segments();
    assert!(!segments.is_empty());

    tools::tool("warcio", ["check".into()].into_iter().chain(segments.clone())).ok();
    tools::tool("warcio", ["check".into(), one.clone()]).ok();
    let figures = tools::python("readers/warc_pages.py", [&pages].into_iter().chain(&segments));
    println!("{}", figures.ok());
    // The joined file holds the segments as they are.
    let bytes = |paths: &[PathBuf]| -> Vec<u8> {
        paths.iter().flat_map(|path| fs::read(path).unwrap()).collect()
    };
    assert!(bytes(&segments) == bytes(&[one]));
}

#[tokio::test]
async fn the_index_is_the_one_that_cdxj_indexer_makes() {
    let trawl = crawl().await;
    let index = trawl.export("cdxj", "index.cdxj").await;

    let lines = tools::python("readers/cdxj_lines.py", [index].into_iter().chain(trawl.segments()));
    assert_eq!(lines.ok().trim(), format!("{} lines", trawl.pages().await.count()));
}

#[tokio::test]
async fn pymongo_reads_every_page_from_the_bson() {
    let trawl = crawl().await;
    let pages = trawl.export("jsonl", "pages.jsonl").await;
    let documents = trawl.export("bson", "pages.bson").await;

    let printed = tools::python("readers/bson_pages.py", [documents, pages]).ok();
    let good = trawl.pages().await.iter().filter(|page| page.status == 200).count();
    assert_eq!(printed.trim(), format!("{good} documents"));
}

#[tokio::test]
async fn a_stored_page_is_printed_as_it_was() {
    let site = Web::new()
        .page("/", ["/zipped"])
        .answer("/zipped", Answer::text("forty\nwords\n").gzipped())
        .serve()
        .await;
    let trawl = Trawl::new();
    trawl.crawl([site.url("/")]).done().await.expect(0);

    let printed = trawl.command("page", [site.url("/zipped")]).done().await.expect(0);
    assert_eq!(printed.stdout, "forty\nwords\n");

    let missing = trawl.command("page", [site.url("/none")]).done().await;
    assert_ne!(missing.code, Some(0));
    missing.says(["/none"]);
}

#[tokio::test]
async fn an_unknown_format_names_those_there_are() {
    let trawl = Trawl::new();
    let export = trawl.command::<&str>("export", []).set("--format", "xml").set("--out", "x");
    export.done().await.expect(2).says(["xml", "jsonl", "warc", "cdxj", "bson"]);
}

#[tokio::test]
async fn an_export_of_nothing_says_where_it_looked() {
    let trawl = Trawl::new();
    let export = trawl.command::<&str>("export", []).set("--format", "jsonl").set("--out", "x");
    export.done().await.expect(4).says(["data", "--data"]);
}
