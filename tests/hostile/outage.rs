//! An outage of the crawler's own network, which makes every host look dead.

use harness::{Trawl, Web, ms, secs};
use tokio::time::sleep;

use crate::{Outcomes, World};

#[tokio::test]
async fn an_outage_of_our_own_network_costs_no_page() {
    let world = World::new();
    let sites: Vec<_> = (200..206)
        .map(|number| {
            let web = Web::new().tree(25, ms(0));
            web.serve_at_address(&world.web, (world.address(number), 80))
        })
        .collect();
    let dead = world.address(210);
    world.web.swallow(dead);
    let dead = format!("http://{dead}/");
    let trawl = Trawl::new();
    let seeds = sites.iter().map(|site| site.url("/")).chain([dead.clone()]);
    // Every failure that counted would be the last one.
    let crawl = trawl.crawl(seeds).on(&world.crawler).set("--allow-net", "198.51.100.0/24");
    let crawl = crawl.set("--attempts", "1").set("--host-attempts", "1").set("--delay", "100ms");
    let crawl = crawl.set("--connect-timeout", "500ms").set("--read-timeout", "500ms");
    let crawl = crawl.within(secs(90)).start();
    for site in &sites {
        site.visited(5).await;
    }
    world.crawler.cut_off();
    crawl.says_line("waiting for the network", secs(20)).await;
    let before: usize = sites.iter().map(|site| site.visits().len()).sum();
    sleep(secs(5)).await;
    let during: usize = sites.iter().map(|site| site.visits().len()).sum();
    assert_eq!(during, before, "nobody is reached");
    world.crawler.heal();
    crawl.done().await.expect(0).says(["complete", "the network is back"]);

    let outcomes = Outcomes::of(&trawl).await;
    for site in &sites {
        for path in site.counts().keys() {
            let expected = if path.starts_with("/none/") { "404" } else { "200" };
            assert_eq!(outcomes.of_url(&site.url(path)).class, expected, "{path}");
        }
        assert_eq!(site.counts().len(), 25 + 7, "all of it");
    }
    assert_eq!(outcomes.of_url(&dead).class, "timeout", "a dead host is one all the same");
}

#[tokio::test]
async fn a_machine_that_is_unplugged_waits_for_the_only_site() {
    let world = World::new();
    let web = Web::new().tree(25, ms(0));
    let site = web.serve_at_address(&world.web, (world.address(200), 80));
    let trawl = Trawl::new();
    let crawl = trawl.crawl([site.url("/")]).on(&world.crawler);
    let crawl = crawl.set("--allow-net", "198.51.100.0/24").set("--delay", "100ms");
    let crawl = crawl.set("--attempts", "1").set("--host-attempts", "1");
    let crawl = crawl.within(secs(90)).start();
    site.visited(5).await;
    world.crawler.plug(false);
    crawl.says_line("waiting for the network", secs(20)).await;
    world.crawler.plug(true);
    world.lead_to_the_web();
    crawl.done().await.expect(0).says(["complete", "the network is back"]);

    let outcomes = Outcomes::of(&trawl).await;
    for path in site.counts().keys() {
        let expected = if path.starts_with("/none/") { "404" } else { "200" };
        assert_eq!(outcomes.of_url(&site.url(path)).class, expected, "{path}");
    }
    assert_eq!(site.counts().len(), 25 + 7, "all of it");
}
