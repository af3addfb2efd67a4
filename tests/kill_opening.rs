//! A master that is killed while it opens its data directory, or while it closes it: the next one
//! opens it, and finds all that was there.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says so by a panic")]

use std::{fs, path::Path};

use harness::{Audit, Duration, Sites, Trawl, audit, ms};
use tokio::time::sleep;

/// Kills of a master that opens, spread evenly over the first moments of its process.
const OPENING: u32 = 200;
const FIRST_MOMENTS: Duration = ms(50);

/// Kills of a master that closes.
const CLOSING: u32 = 40;

/// Pages of a host.
const PAGES: usize = 150;

/// A data directory with half a crawl in it, and what a whole one brings.
async fn half_a_crawl(trawl: &Trawl) -> (Sites, harness::Pages) {
    let sites = Sites::trees(3, PAGES, ms(1)).await;
    let want = sites.undisturbed().await;
    let crawl = trawl.crawl(sites.seeds()).start();
    sites[0].visited(PAGES / 2).await;
    crawl.interrupt();
    crawl.done().await.expect(130);
    (sites, want)
}

/// Half a snapshot, as a kill leaves it while it is being written.
fn plant_half_a_snapshot(data: &Path) {
    let frontier = data.join("frontier");
    let whole = fs::read_dir(&frontier).unwrap().map(|entry| entry.unwrap().path());
    let whole = whole.filter(|path| path.to_string_lossy().contains("snap.")).max().unwrap();
    let mut half = fs::read(&whole).unwrap();
    half.truncate(half.len() / 2);
    // Newer than every whole one, so that it would be preferred.
    fs::write(frontier.join("snap.7FFFFFFFFFFFFFFF.generating"), half).unwrap();
}

/// That the directory opens, and holds what it did.
fn check(data: &Path, before: &Audit, when: &str) {
    let found = audit(data).unwrap_or_else(|reason| panic!("{when}: {reason}"));
    assert_eq!(found, *before, "{when}");
}

#[tokio::test]
async fn a_master_that_is_killed_while_it_opens_or_closes_loses_nothing() {
    let trawl = Trawl::new();
    let (sites, want) = half_a_crawl(&trawl).await;
    let data = trawl.data();
    let before = audit(&data).unwrap();
    assert!(before.pages.len() > PAGES && !before.waiting.is_empty());
    let master = trawl.master();

    let mut opened = 0;
    for kill in 0..OPENING {
        if kill % 10 == 0 {
            plant_half_a_snapshot(&data);
        }
        let running = master.start();
        sleep(FIRST_MOMENTS * kill / OPENING).await;
        let ended = running.kill().await;
        opened += u32::from(ended.stderr.contains("listening on"));
        assert!(ended.code.is_none(), "it ended by itself: {ended}");
        check(&data, &before, &format!("kill {kill} while it opened"));
    }

    assert!(opened > 0, "no master got so far within {FIRST_MOMENTS:?}");

    for kill in 0..CLOSING {
        let running = master.serve().await.running;
        running.terminate();
        sleep(FIRST_MOMENTS * kill / CLOSING).await;
        running.kill().await;
        check(&data, &before, &format!("kill {kill} while it closed"));
    }

    sites.forget();
    trawl.crawl(sites.seeds()).done().await.expect(0);
    assert_eq!(trawl.pages().await.content(), want.content());
    println!(
        "B3: {OPENING} kills in the first {FIRST_MOMENTS:?} of a master, {opened} of them after it had \
         opened, with half a snapshot planted {} times, and {CLOSING} kills while it closed: 0 \
         failed opens, 0 lost; the crawl then ended equal to an undisturbed one",
        OPENING / 10
    );
}
