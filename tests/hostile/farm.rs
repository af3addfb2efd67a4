//! A farm: names of as many domains as it likes, on one machine.

use std::sync::atomic::{AtomicUsize, Ordering};

use harness::{Answer, Trawl, Web, ms, secs};

use crate::{
    WEB, World,
    names::{NameServer, Reply},
};

/// Hosts of the farm, and of those how many may be visited at the same time.
const FARM: usize = 40;
const AT_ONCE: usize = 4;

#[tokio::test]
async fn a_farm_of_unknown_names_on_one_address_holds_no_more_than_its_share() {
    let world = World::new();
    let server = NameServer::serve(&world, |_, _| Reply::Addresses(vec![WEB.into()]));
    // Slow enough for all lanes to meet there, if they could.
    let answer = Answer::html("slow").after(ms(300));
    let farm = Web::new().answer("/", answer).serve_at_address(&world.web, (WEB, 80));
    let others: Vec<_> = (200..203)
        .map(|number| {
            let site = Web::new().page("/", []);
            site.serve_at_address(&world.web, (world.address(number), 80))
        })
        .collect();

    let names = (0..FARM).map(|number| format!("http://farm{number}.test/"));
    let seeds: Vec<_> = names.chain(others.iter().map(|site| site.url("/"))).collect();
    let trawl = Trawl::new();
    let crawl = trawl.crawl(&seeds).on(&world.crawler).set("--scope", "any");
    let crawl = crawl.set("--allow-net", format!("{WEB}/32")).and("--allow-net", "198.51.100.0/24");
    let crawl = crawl.set("--lanes", "8").set("--group-hosts", AT_ONCE.to_string());
    crawl.within(secs(60)).done().await.expect(0);

    assert_eq!(farm.most_at_once(), AT_ONCE);
    assert_eq!(farm.visits_of("/"), FARM, "each once, in the end");
    assert_eq!(server.asked("farm30.test"), 2, "for both families, and never again");
    let visits = farm.visits();
    for other in others {
        let began = other.visits()[0].began;
        assert!(began < visits[FARM / 2].began, "others need not wait for the farm");
    }
}

/// Hosts of an endless farm that are fetched from, if they say nothing new.
const ALIKE: usize = 12;

/// A page of any host, which leads to three hosts more.
fn offers(_: &str) -> Answer {
    static PAGES: AtomicUsize = AtomicUsize::new(0);
    let first = 3 * PAGES.fetch_add(1, Ordering::Relaxed);
    let link = |number| format!("<a href='http://n{number}.farm.test/'>more</a>");
    let links: String = (first + 1..first + 4).map(link).collect();
    Answer::html(format!("<title>Offers</title><p>The best offers of the web.</p>{links}"))
}

#[tokio::test]
async fn names_that_lead_to_ever_more_names_end_and_others_are_fetched_whole() {
    let world = World::new();
    let _server = NameServer::serve(&world, |_, _| Reply::Addresses(vec![WEB.into()]));
    let farm = Web::new().made_up(offers).serve_at_address(&world.web, (WEB, 80));
    let other = Web::new().tree(25, ms(0));
    let other = other.serve_at_address(&world.web, (world.address(200), 80));

    let trawl = Trawl::new();
    let settings = trawl.write("crawl.toml", &format!("[traps]\nalike_hosts = {ALIKE}\n"));
    let seeds = ["http://n0.farm.test/".to_owned(), other.url("/")];
    let crawl = trawl.crawl(&seeds).on(&world.crawler).set("--config", settings);
    let crawl = crawl.set("--scope", "any").set("--delay", "0s").set("--robots", "ignore");
    let crawl = crawl.set("--allow-net", format!("{WEB}/32")).and("--allow-net", "198.51.100.0/24");
    let crawl = crawl.within(secs(60)).done().await.expect(0);
    crawl.says(["complete", "quarantined"]);

    // What was queued when the domain had its twelve is fetched still: three for each page.
    let visits = farm.visits().len();
    assert!((ALIKE..=4 * ALIKE).contains(&visits), "{visits}");
    assert_eq!(other.counts().len(), 25 + 7, "all of it");
}
