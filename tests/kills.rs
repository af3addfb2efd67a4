//! Masters and workers that are killed at random under load, and replaced in any order: the pages
//! are those of an undisturbed crawl, and each fetch that was made again is one that a kill explains.
//!
//! `TRAWL_TEST_KILLS` kills so often instead of what fits into a test run, `TRAWL_TEST_SEED` chooses
//! the moments.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says so by a panic")]

use std::{env, time::Duration};

use fastrand::Rng;
use harness::{Answer, Cluster, Running, Site, Sites, Web, ms, secs};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

/// How long leases last where none is meant to run out, and where some are.
const LONG_LEASE: Duration = secs(10);
const LEASE: Duration = secs(3);

const HOSTS: usize = 8;

/// What an answer takes in a crawl that is disturbed, so that it lasts.
const SLOWNESS: Duration = ms(40);

/// How long a master may take from its start to its first answer.
const READY_WITHIN: Duration = secs(5);

fn from_environment(name: &str) -> Option<u64> {
    env::var(name).ok().map(|text| text.parse().unwrap())
}

/// How often to kill.
fn kills(usually: usize) -> usize {
    from_environment("TRAWL_TEST_KILLS").map_or(usually, |kills| kills as usize)
}

/// The chance that chooses the moments, and its seed.
fn chance() -> (Rng, String) {
    let seed = from_environment("TRAWL_TEST_SEED").unwrap_or_else(|| fastrand::u64(..));
    (Rng::with_seed(seed), format!("TRAWL_TEST_SEED={seed}"))
}

/// Sites that keep a cluster at work for so long, if nothing holds it up.
async fn sites_for(time: Duration) -> Sites {
    let pages = (time.as_millis() / SLOWNESS.as_millis()) as usize;
    Sites::trees(HOSTS, pages, ms(0)).await
}

fn worker(cluster: &Cluster, name: &str) -> Running {
    cluster.worker(name).set("--lanes", "4").start()
}

fn median(times: &mut [Duration]) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

#[tokio::test]
async fn a_master_that_is_killed_at_any_moment_loses_nothing_and_fetches_nothing_twice() {
    let (kills, (mut random, seed)) = (kills(20), chance());
    println!("{seed}");
    let sites = sites_for(secs(kills as u64)).await;
    let want = sites.undisturbed().await;
    sites.slow_down(SLOWNESS);
    let mut cluster = Cluster::start(LONG_LEASE).await;
    let workers = ["one", "two", "three", "four"].map(|name| worker(&cluster, name));
    cluster.submit("c", sites.seeds()).done().await.expect(0);
    let began = Instant::now();

    let (mut ready, mut leased_at_kills) = (Vec::new(), 0);
    for kill in 1..=kills {
        let crawl = cluster.crawl("c").await;
        assert_eq!(crawl["state"], "running", "it ended before kill {kill}: too few pages");
        leased_at_kills += crawl["leased"].as_u64().unwrap();
        sleep(ms(random.u64(..400))).await;
        cluster.kill_master().await;
        let started = Instant::now();
        cluster.start_master().await;
        ready.push(started.elapsed());
    }
    sites.slow_down(ms(0));
    cluster.complete().await;

    cluster.pages("c").await.are_those_of(&want);
    let again = sites.again();
    let crawl = cluster.crawl("c").await;
    println!(
        "{kills} kills of the master in {:.1?}, {} pages, {again} fetched again of {leased_at_kills} \
         that were lent at the kills; ready again after {:.2?} in the middle, {:.2?} at most; {crawl}",
        began.elapsed(),
        want.count(),
        median(&mut ready),
        ready.iter().max().unwrap(),
    );
    assert!(ready.iter().all(|&time| time < READY_WITHIN), "{ready:?}");
    // Workers keep what they have fetched until a master takes it.
    assert!(again as u64 <= leased_at_kills, "{again} fetched again");
    // Counted by the crawl, whichever of its masters saw it.
    assert!(crawl["leases_kept"].as_u64().unwrap() >= 1, "{crawl:#}");
    if crawl["leases_expired"] == 0 {
        assert_eq!(again, 0, "no lease was lost, so nothing had to be fetched again");
    }
    for worker in workers {
        worker.stops().await;
    }
    cluster.stop_master().await;
}

/// A worker's death: when, and which hosts and how many URLs it held.
struct Death {
    when: Instant,
    hosts: Vec<String>,
    urls: u64,
}

/// How long after a death a host of the dead worker was fetched from again. None if nothing was left
/// of it, or if whoever had it next died as well.
fn silence_after(death: &Death, host: &str, sites: &[Site], deaths: &[Death]) -> Option<Duration> {
    // What was on its way at the death may have been counted in this time.
    const ON_ITS_WAY: Duration = ms(100);
    let site = sites.iter().find(|site| site.url("") == host).unwrap();
    let visits = site.visits();
    let next = visits.iter().find(|visit| visit.began > death.when + ON_ITS_WAY)?;
    let died_again = deaths.iter().any(|other| {
        other.when > death.when
            && other.when < next.began
            && other.hosts.iter().any(|held| held == host)
    });
    (!died_again).then(|| next.began - death.when)
}

#[tokio::test]
async fn workers_that_are_killed_one_after_the_other_cost_a_lease_time_and_what_they_held() {
    let (kills, (mut random, seed)) = (kills(7), chance());
    println!("{seed}");
    let sites = sites_for(secs(2 * kills as u64 + 6)).await;
    let want = sites.undisturbed().await;
    sites.slow_down(SLOWNESS);
    let cluster = Cluster::start(LEASE).await;
    let mut workers: Vec<(String, Running)> = Vec::new();
    for number in 0..4 {
        let name = format!("w{number}");
        let running = worker(&cluster, &name);
        workers.push((name, running));
    }
    cluster.submit("c", sites.seeds()).done().await.expect(0);
    let began = Instant::now();

    let mut deaths = Vec::new();
    for kill in 1..=kills {
        sleep(secs(2)).await;
        let place = random.usize(..workers.len());
        let (name, running) = workers.swap_remove(place);
        let (hosts, urls) = cluster.held_by(&name).await;
        running.kill().await;
        deaths.push(Death { when: Instant::now(), hosts, urls });
        // The same machine starts it again, or another one takes its place.
        let name = if random.bool() { name } else { format!("w{}", 3 + kill) };
        let running = worker(&cluster, &name);
        workers.push((name, running));
    }
    sites.slow_down(ms(0));
    cluster.complete().await;

    cluster.pages("c").await.are_those_of(&want);
    let (again, crawl) = (sites.again() as u64, cluster.crawl("c").await);
    let held: u64 = deaths.iter().map(|death| death.urls).sum();
    let silences = deaths.iter().flat_map(|death| {
        death.hosts.iter().filter_map(|host| silence_after(death, host, &sites, &deaths))
    });
    let mut silences: Vec<_> = silences.collect();
    println!(
        "{kills} kills of workers in {:.1?}, {} pages, {again} fetched again of {held} that the dead \
         held; their hosts were fetched from again after {:.2?} in the middle, {:.2?} at most; {crawl}",
        began.elapsed(),
        want.count(),
        median(&mut silences),
        silences.last().unwrap(),
    );
    assert!(again <= held, "{again} fetched again");
    assert_ne!(crawl["leases_expired"], 0, "nobody held anything when killed");
    assert!(silences.iter().all(|&silence| silence <= LEASE.mul_f64(1.2)), "{silences:?}");
    for (_, worker) in workers {
        worker.stops().await;
    }
}

#[tokio::test]
async fn a_page_that_kills_its_worker_takes_four_of_them_and_none_of_its_neighbours() {
    const DEATHS: usize = 4;
    let pages: Vec<String> = (0..50).map(|number| format!("/{number}")).collect();
    let mut web = Web::new().answer("/", Answer::links("fifty", &pages));
    for page in &pages {
        web = web.answer(page, Answer::text(page));
    }
    let deadly = Answer::text("").after(secs(60));
    let site = web.answer("/17", deadly.clone()).serve().await;
    // Another one that has answered once before.
    let other = Web::new().answers("/", [Answer::status(503), deadly]).serve().await;
    let mut cluster = Cluster::start(secs(1)).await;
    cluster.submit("c", [site.url("/"), other.url("/")]).done().await.expect(0);

    // Whoever fetches them dies of it, and is started again.
    for death in 1..=DEATHS {
        let worker = worker(&cluster, &format!("w{death}"));
        site.asked_for_again("/17", death).await;
        other.asked_for_again("/", 1 + death).await;
        worker.kill().await;
    }
    let last = worker(&cluster, "last");
    cluster.complete().await;

    let crawl = cluster.crawl("c").await;
    assert_eq!(
        crawl["outcomes"],
        json!({"ok": 50, "quarantined": 2}),
        "the other 49, and the seed"
    );
    let mut counts = site.counts();
    assert_eq!(counts.remove("/17"), Some(DEATHS));
    // With the first death all that the worker had not been acknowledged, which may be every page
    // of its lease; afterwards none, since a suspect is lent alone.
    let again = counts.values().sum::<usize>() - counts.len();
    assert!(counts.values().all(|&visits| visits <= 2), "{counts:?}");
    println!("{DEATHS} deaths; {again} of its 49 neighbours fetched again; {crawl}");

    // It stays where it is when the master starts again, and people are told of it.
    cluster.kill_master().await;
    cluster.start_master().await;
    let list = cluster.ask("quarantine", ["list"]).set_flag("--json").done().await.expect(0);
    let listed: Vec<Value> =
        list.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let detail = "4 leases ran out with it, the last one held by worker w4";
    let was_busy = format!("{detail}; before that: status 503");
    let told = |url: String, detail: &str, via: String, depth: u32, attempts: usize| {
        json!({"url": url, "detail": detail, "worker": "w4", "via": via, "depth": depth,
               "attempts": attempts, "trap": ""})
    };
    let want = [
        told(site.url("/17"), detail, site.url("/"), 1, DEATHS),
        told(other.url("/"), &was_busy, String::new(), 0, 1 + DEATHS),
    ];
    assert_eq!(listed.len(), 2);
    assert!(want.iter().all(|url| listed.contains(url)), "{listed:#?}");
    last.stops().await;
}

/// Who is replaced, in which order.
#[derive(Clone, Copy, Debug)]
enum Replaced {
    Master,
    Worker(usize),
}

#[tokio::test]
async fn masters_and_workers_that_are_replaced_in_any_order_cost_no_fetch() {
    let (mut random, seed) = chance();
    println!("{seed}");
    let sites = sites_for(secs(20)).await;
    let want = sites.undisturbed().await;
    sites.slow_down(SLOWNESS);
    let mut cluster = Cluster::start(LONG_LEASE).await;
    let mut workers: Vec<_> =
        (0..3).map(|number| worker(&cluster, &format!("w{number}"))).map(Some).collect();
    cluster.submit("c", sites.seeds()).done().await.expect(0);
    sites[0].visited(20).await;

    let mut order =
        [Replaced::Master, Replaced::Worker(0), Replaced::Worker(1), Replaced::Worker(2)];
    let mut longest = Duration::ZERO;
    for _ in 0..3 {
        assert_eq!(cluster.crawl("c").await["state"], "running", "too few pages");
        random.shuffle(&mut order);
        // None waits for another one, so that workers may find their master gone when they end.
        let mut ending = Vec::new();
        for replaced in order {
            let began = Instant::now();
            match replaced {
                Replaced::Master => {
                    cluster.stop_master().await;
                    longest = longest.max(began.elapsed());
                }
                Replaced::Worker(number) => {
                    let worker = workers[number].take().unwrap();
                    worker.terminate();
                    ending.push(tokio::spawn(async move {
                        worker.ends().await;
                        began.elapsed()
                    }));
                }
            }
        }
        cluster.start_master().await;
        for worker in ending {
            longest = longest.max(worker.await.unwrap());
        }
        println!("replaced in the order {order:?}");
        for (number, place) in workers.iter_mut().enumerate() {
            *place = Some(worker(&cluster, &format!("w{number}")));
        }
    }
    sites.slow_down(ms(0));
    cluster.complete().await;

    cluster.pages("c").await.are_those_of(&want);
    let crawl = cluster.crawl("c").await;
    println!("{} pages, 12 ends, the longest took {longest:.2?}; {crawl}", want.count());
    assert_eq!((sites.again(), &crawl["leases_expired"]), (0, &Value::from(0)), "{crawl:#}");
    for worker in workers.into_iter().flatten() {
        worker.stops().await;
    }
    cluster.stop_master().await;
}
