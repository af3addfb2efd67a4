//! Real sites, crawled and held against an independent oracle: nothing missing, nothing extra,
//! nothing different, nothing twice.

use harness::{Pages, Trawl, real, secs, tools};

/// Crawls a real site in the form in which scripts do it, and compares.
async fn crawled_exactly(name: &str) {
    let site = real::site(name);
    let trawl = Trawl::new();
    let crawl = trawl.command("crawl", [&site.seed]);
    let crawl = crawl.set("--allow-net", "127.0.0.0/8").set("--delay", "0s");
    let crawl = crawl.set("--robots", "ignore").set("--scope", "host").within(secs(300));
    crawl.done().await.expect(0);

    let export = trawl.export("jsonl", "pages.jsonl").await;
    tools::python("sites/compare.py", [export, site.oracle(None)]).ok();
}

#[tokio::test]
async fn pages_of_a_megabyte_are_crawled_exactly() {
    crawled_exactly("python").await;
}

#[tokio::test]
async fn a_site_in_xhtml_is_crawled_exactly() {
    crawled_exactly("postgres").await;
}

#[tokio::test]
async fn a_compressed_site_with_broken_links_is_crawled_exactly() {
    crawled_exactly("sqlite").await;
}

#[tokio::test]
async fn a_site_in_twelve_languages_and_several_charsets_is_crawled_exactly() {
    crawled_exactly("apache").await;
}

#[tokio::test]
async fn a_site_with_frames_and_bases_is_crawled_exactly() {
    crawled_exactly("ant").await;
}

#[tokio::test]
async fn a_site_with_image_maps_is_crawled_exactly() {
    crawled_exactly("xerces").await;
}

#[tokio::test]
async fn a_site_of_the_nineties_is_crawled_exactly() {
    crawled_exactly("dx").await;
}

#[tokio::test]
async fn listings_of_folders_are_crawled_exactly() {
    crawled_exactly("harden").await;
}

#[tokio::test]
async fn a_site_with_relative_redirects_is_crawled_exactly() {
    crawled_exactly("docbook").await;
}

#[tokio::test]
async fn five_thousand_pages_of_a_hundred_authors_are_crawled_exactly() {
    crawled_exactly("boost").await;
}

#[tokio::test]
async fn all_sites_in_one_crawl_are_crawled_exactly() {
    let sites = real::sites();
    let trawl = Trawl::new();
    let crawl = trawl.crawl(sites.iter().map(|site| &site.seed)).within(secs(600));
    crawl.done().await.expect(0);

    let mut args = vec![trawl.export("jsonl", "pages.jsonl").await];
    args.extend(sites.iter().map(|site| site.oracle(None)));
    tools::python("sites/compare.py", args).ok();
}

#[tokio::test]
async fn two_links_from_the_seed_is_where_depth_2_ends() {
    let site = real::site("sqlite");
    let trawl = Trawl::new();
    trawl.crawl([&site.seed]).set("--depth", "2").within(secs(300)).done().await.expect(0);

    let export = trawl.export("jsonl", "pages.jsonl").await;
    tools::python("sites/compare.py", [&export, &site.oracle(Some(2))]).ok();
    assert_eq!(Pages::read(&export).iter().map(|page| page.depth).max(), Some(2));
}
