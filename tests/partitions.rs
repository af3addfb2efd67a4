//! Workers that are cut off from their master, both ways and one way, for one to five lease times, on
//! hosts of a network of the test's own. They reach the sites all the while: only what they hold
//! keeps two of them from fetching from the same host.
//!
//! `TRAWL_TEST_CUTS` makes so many cuts at random instead of those below.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says so by a panic")]

use std::{env, time::Duration};

use harness::{
    Cluster, Running, Site, Sites, ms,
    network::{Cut, Host, NETWORK, Network},
    secs,
};
use serde_json::Value;
use tokio::time::{Instant, sleep, timeout};

const LEASE: Duration = secs(3);

/// The wait between two fetches of a host.
const DELAY: Duration = ms(100);

/// How long it may take after a cut until work goes on.
const RESUMED_WITHIN: Duration = secs(10);

/// Who is cut off from the master, which way, and for how many lease times.
type Round = (&'static [usize], Cut, u32);

/// Each way for one worker alone, whose hosts the other one takes over, and for both.
const ROUNDS: [Round; 5] = [
    (&[0], Cut::Both, 2),
    (&[0, 1], Cut::Both, 5),
    (&[1], Cut::To, 2),
    (&[0, 1], Cut::From, 2),
    (&[0], Cut::From, 1),
];

fn rounds() -> Vec<Round> {
    let Ok(count) = env::var("TRAWL_TEST_CUTS") else { return ROUNDS.to_vec() };
    let round = |_| {
        let who: &[usize] = [&[0][..], &[1], &[0, 1]][fastrand::usize(..3)];
        (who, [Cut::Both, Cut::To, Cut::From][fastrand::usize(..3)], fastrand::u32(1..=5))
    };
    (0..count.parse::<usize>().unwrap()).map(round).collect()
}

/// URLs whose fetches the master has been told of.
async fn told(cluster: &Cluster) -> u64 {
    let crawl = cluster.crawl("c").await;
    let outcomes = crawl["outcomes"].as_object().unwrap();
    outcomes.values().map(|count| count.as_u64().unwrap()).sum()
}

/// How long after `healed` the master has heard of each of the workers, which hold leases, and of
/// something that was fetched since.
async fn resumed(cluster: &Cluster, healed: Instant, who: &[usize]) -> Duration {
    let before = told(cluster).await;
    for worker in who {
        let name = format!("w{worker}");
        let is_back = |worker: &Value| {
            let heard = Duration::from_millis(worker["heard_ms"].as_u64().unwrap());
            worker["state"] == "working" && heard < healed.elapsed()
        };
        cluster.worker_until(&name, is_back).await;
    }
    cluster
        .crawl_until("c", |crawl| {
            let outcomes = crawl["outcomes"].as_object().unwrap();
            outcomes.values().map(|count| count.as_u64().unwrap()).sum::<u64>() > before
        })
        .await;
    healed.elapsed()
}

/// The shortest wait between two fetches of a host.
fn shortest_wait(sites: &[Site]) -> Duration {
    sites.iter().flat_map(|site| site.waits(|_| true)).min().unwrap()
}

#[tokio::test]
async fn workers_that_are_cut_off_hurt_no_host_and_lose_nothing() {
    let network = Network::new(4);
    let [master, one, two, web] = network.hosts();
    let hosts: [&Host; 2] = [&one, &two];
    let rounds = rounds();
    let time: Duration = rounds.iter().map(|round| LEASE * round.2 + RESUMED_WITHIN / 4).sum();
    let pages = (time.as_millis() / DELAY.as_millis()) as usize;
    let sites = Sites::trees_on(&web, 4, pages);
    let want = sites.undisturbed_as(|crawl| crawl.on(&one).set("--allow-net", NETWORK)).await;

    let cluster = Cluster::start_on(&master, LEASE).await;
    let worker = |number: usize| cluster.worker(&format!("w{number}")).set("--lanes", "3");
    let workers: [Running; 2] = [worker(0).on(&one).start(), worker(1).on(&two).start()];
    let submit = cluster.submit("c", sites.seeds()).set("--allow-net", NETWORK);
    let delay = format!("{}ms", DELAY.as_millis());
    submit.clone().set("--delay", delay).done().await.expect(0);
    sites[0].visited(10).await;

    let (mut slowest, mut leased_at_cuts) = (Duration::ZERO, 0);
    for (who, cut, leases) in &rounds {
        let crawl = cluster.crawl("c").await;
        assert_eq!(crawl["state"], "running", "too few pages");
        leased_at_cuts += crawl["leased"].as_u64().unwrap();
        for worker in *who {
            hosts[*worker].cut(&master, *cut);
        }
        sleep(LEASE * *leases).await;
        for worker in *who {
            hosts[*worker].heal();
        }
        let healed = Instant::now();
        let after = timeout(RESUMED_WITHIN * 2, resumed(&cluster, healed, who)).await;
        let after = after.unwrap_or(RESUMED_WITHIN * 2);
        println!(
            "workers {who:?} cut off, {cut:?}, for {leases} leases: at work after {after:.2?}"
        );
        slowest = slowest.max(after);
    }
    // What is left need not take its time.
    let shortest_wait = shortest_wait(&sites);
    submit.set_flag("--update").done().await.expect(0);
    cluster.complete().await;

    cluster.pages("c").await.are_those_of(&want);
    let (again, crawl) = (sites.again() as u64, cluster.crawl("c").await);
    println!(
        "{} cuts, {} pages, {again} fetched again of {leased_at_cuts} that were lent at the cuts; \
         at work again after {slowest:.2?} at most; the shortest wait between two fetches was \
         {shortest_wait:.1?} of {DELAY:?}; {crawl}",
        rounds.len(),
        want.count(),
    );
    assert!(sites.iter().all(|site| site.most_at_once() == 1), "two fetched at once from a host");
    assert!(shortest_wait >= DELAY, "a host was fetched from too soon");
    assert!(slowest < RESUMED_WITHIN, "at work only after {slowest:?}");
    assert!(again <= leased_at_cuts, "{again} fetched again");
    // Each of them came to the master from whoever had it first as well, but too late; or that
    // one gave it up under way, at most one on each of its hosts and at each cut.
    let given_up = (sites.len() * rounds.len()) as u64;
    let stale = crawl["reports_stale"].as_u64().unwrap();
    assert!(again <= stale + given_up, "{again} fetched again, {stale} reports came too late");
    for worker in workers {
        worker.stops().await;
    }
}
