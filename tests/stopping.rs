//! A crawl that is stopped, by whatever means, ends with the same pages as one that is not: nothing
//! lost, nothing twice.

use harness::{Answer, Sites, Trawl, Web, ms, secs};
use tokio::time::{Instant, sleep};

const PAGES: usize = 150;

/// Three hosts of [`PAGES`] pages each.
async fn three_hosts() -> Sites {
    Sites::trees(3, PAGES, ms(8)).await
}

#[tokio::test]
async fn ctrl_c_stops_cleanly_and_the_same_command_resumes() {
    let sites = three_hosts().await;
    let want = sites.undisturbed().await;
    let trawl = Trawl::new();
    let crawl = trawl.crawl(sites.seeds());

    for count in [20, 70, 110] {
        let running = crawl.start();
        sites[0].visited(count).await;
        running.interrupt();
        running.done().await.expect(130).says(["interrupted; the same command goes on"]);
        let so_far = trawl.pages().await;
        assert!(so_far.count() >= count - 1 && so_far.count() < want.count());
    }
    crawl.done().await.expect(0);

    assert_eq!(trawl.pages().await.content(), want.content());
    assert_eq!(sites.again(), 0, "nothing is fetched again");
}

#[tokio::test]
async fn a_crawl_that_is_killed_five_times_ends_with_the_same_pages() {
    let sites = three_hosts().await;
    let want = sites.undisturbed().await;
    let trawl = Trawl::new();
    let crawl = trawl.crawl(sites.seeds());

    for count in [1, 25, 60, 90, 130] {
        let running = crawl.start();
        sites[1].visited(count).await;
        running.kill().await;
    }
    crawl.done().await.expect(0);

    assert_eq!(trawl.pages().await.content(), want.content());
    // Only what had been fetched and not yet acknowledged.
    let again = sites.again();
    println!("{again} of {} fetched again after 5 kills", want.count());
    assert!(again < want.count() / 4, "{again} fetched again");
}

#[tokio::test]
async fn a_crawl_that_is_killed_while_it_starts_can_be_started() {
    let site = Web::new().tree(PAGES, ms(1)).serve().await;
    // Three kills each: after four, whatever was being fetched at all of them is suspected of them.
    for round in 0..4 {
        let trawl = Trawl::new();
        let crawl = trawl.crawl([site.url("/")]);
        for step in (round..12).step_by(4) {
            let running = crawl.start();
            // Not a wait for something: any moment of the start is as good as another.
            sleep(ms(step * step)).await;
            running.kill().await;
        }
        crawl.done().await.expect(0);

        assert_eq!(trawl.pages().await.count(), PAGES + 7);
    }
}

#[tokio::test]
async fn ctrl_c_does_not_wait_for_a_host_that_does_not_answer() {
    let site = Web::new().answer("/", Answer::text("late").after(secs(90))).serve().await;
    let trawl = Trawl::new();
    let crawl = trawl.crawl([site.url("/")]);
    let crawl = crawl.set("--read-timeout", "100s").set("--fetch-timeout", "100s");
    let running = crawl.start();
    site.visited(1).await;

    let asked = Instant::now();
    running.interrupt();
    running.done().await.expect(130);
    assert!(asked.elapsed() < secs(30), "it took {:?}", asked.elapsed());
}

#[tokio::test]
async fn a_second_crawl_on_a_data_directory_is_refused_and_the_first_goes_on() {
    let site = Web::new().tree(60, ms(20)).serve().await;
    let trawl = Trawl::new();
    let crawl = trawl.crawl([site.url("/")]);
    let first = crawl.start();
    site.visited(3).await;

    let data = trawl.data().display().to_string();
    crawl.done().await.expect(4).says(["in use", &data, "--data"]);
    first.done().await.expect(0);

    assert_eq!(trawl.pages().await.count(), 67);
    assert!(site.counts().values().all(|&visits| visits == 1), "{:?}", site.counts());
}

#[tokio::test]
async fn a_finished_crawl_started_again_fetches_nothing() {
    let site = Web::new().tree(20, ms(0)).serve().await;
    let trawl = Trawl::new();
    trawl.crawl([site.url("/")]).done().await.expect(0);
    site.forget();

    trawl.crawl([site.url("/")]).done().await.expect(0);

    assert_eq!(site.paths(), [""; 0]);
    assert_eq!(trawl.pages().await.count(), 27);
}
