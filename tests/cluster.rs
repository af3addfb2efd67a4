//! A cluster of real processes that are killed, frozen and started again: the pages are those of
//! an undisturbed crawl in one process, none is lost, and none stands there twice.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says so by a panic")]

use harness::{Answer, Cluster, Duration, Running, Site, Sites, Visit, Web, ms, real, secs, tools};
use serde_json::Value;
use tokio::time::sleep;

/// Exit code of a worker that the master does not want.
const MASTER: i32 = 6;

/// How long leases last where one is meant to run out.
const LEASE: Duration = secs(2);

/// How long they last where none is meant to.
const LONG_LEASE: Duration = secs(10);

/// Pages of a host.
const PAGES: usize = 150;

/// Three hosts of [`PAGES`] pages each.
async fn three_hosts() -> Sites {
    Sites::trees(3, PAGES, ms(8)).await
}

/// Workers of these names, each with lanes for two hosts, so that they share three.
fn workers<const COUNT: usize>(cluster: &Cluster, names: [&str; COUNT]) -> [Running; COUNT] {
    names.map(|name| cluster.worker(name).set("--lanes", "2").start())
}

async fn stop(workers: impl IntoIterator<Item = Running>) {
    for worker in workers {
        worker.stops().await;
    }
}

#[tokio::test]
async fn workers_that_came_before_their_master_outlive_it_twice() {
    let sites = three_hosts().await;
    let want = sites.undisturbed().await;
    let mut cluster = Cluster::absent(LONG_LEASE);
    let workers = workers(&cluster, ["one", "two"]);
    for worker in &workers {
        worker.says_line("will try to join again", secs(30)).await;
    }
    cluster.start_master().await;
    cluster.submit("c", sites.seeds()).done().await.expect(0);

    for count in [40, 100] {
        sites[0].visited(count).await;
        cluster.kill_master().await;
        cluster.start_master().await;
    }
    cluster.complete().await;

    assert_eq!(cluster.pages("c").await.content(), want.content());
    assert_eq!(sites.again(), 0, "what was fetched meanwhile was kept for the master");
    stop(workers).await;
}

#[tokio::test]
async fn a_master_that_is_stopped_and_started_costs_no_fetch() {
    let sites = three_hosts().await;
    let want = sites.undisturbed().await;
    let mut cluster = Cluster::start(LONG_LEASE).await;
    let workers = workers(&cluster, ["one", "two"]);
    cluster.submit("c", sites.seeds()).done().await.expect(0);

    for count in [40, 100] {
        sites[0].visited(count).await;
        cluster.stop_master().await;
        cluster.start_master().await;
    }
    cluster.complete().await;

    assert_eq!(cluster.pages("c").await.content(), want.content());
    assert_eq!(sites.again(), 0);
    let crawl = cluster.crawl("c").await;
    assert_eq!(crawl["leases_expired"], 0, "nothing that was lent got lost: {crawl:#}");
    stop(workers).await;
}

/// The longest time between the beginnings of two visits of a host that follow each other.
fn longest_silence(site: &Site) -> Duration {
    let visits = site.visits();
    visits.windows(2).map(|pair| pair[1].began - pair[0].began).max().unwrap()
}

#[tokio::test]
async fn a_worker_that_is_killed_costs_a_lease_time_and_nothing_else() {
    let sites = three_hosts().await;
    let want = sites.undisturbed().await;
    let cluster = Cluster::start(LEASE).await;
    let [one, two] = workers(&cluster, ["one", "two"]);
    cluster.submit("c", sites.seeds()).done().await.expect(0);

    sites[0].visited(40).await;
    cluster.worker_until("one", |worker| worker["state"] == "working").await;
    one.kill().await;
    cluster.worker_until("one", |worker| worker["state"] == "silent").await;
    let [three] = workers(&cluster, ["three"]);
    sites[0].visited(100).await;
    two.kill().await;
    cluster.complete().await;

    assert_eq!(cluster.pages("c").await.content(), want.content());
    let crawl = cluster.crawl("c").await;
    assert_ne!(crawl["leases_expired"], 0, "{crawl:#}");
    // What had been fetched and not been acknowledged when a worker was killed.
    let again = sites.again();
    println!("{again} fetched again after two kills; {crawl:#}");
    assert!(again < 30, "{again} fetched again");
    for site in sites.iter() {
        let silence = longest_silence(site);
        println!("silence {silence:?}");
        assert!(silence < LEASE * 2, "a host waited {silence:?}");
    }
    stop([three]).await;
}

#[tokio::test]
async fn a_worker_that_comes_back_after_its_lease_changes_nothing() {
    let pages: Vec<String> = (0..20).map(|number| format!("/{number}")).collect();
    let mut web = Web::new().answer("/", Answer::links("start", &pages));
    for page in &pages {
        web = web.answer(page, Answer::text(page));
    }
    let slow = Answer::text("/5").after(secs(1));
    let twice = [Answer::text("what the frozen one got"), Answer::text("kept")];
    let site = web.answer("/5", slow).answers("/15", twice).serve().await;
    let mut cluster = Cluster::absent(LEASE * 2);
    cluster.change_master(|master| master.variable("TRAWL_LOG", "info"));
    cluster.start_master().await;
    let frozen = cluster.worker("frozen").start();
    cluster.submit("c", [site.url("/")]).done().await.expect(0);
    // It is at its sixth page, and has reported the others. What it fetches from now on it keeps.
    site.asked_for("/5").await;
    cluster.crawl_until("c", |crawl| crawl["outcomes"]["ok"] == 6).await;
    cluster.master().freeze();
    site.asked_for("/19").await;
    frozen.freeze();
    cluster.master().thaw();

    let other = cluster.worker("other").start();
    cluster.complete().await;
    cluster.worker_until("frozen", |worker| worker["state"] == "silent").await;
    let before = cluster.pages("c").await;
    frozen.thaw();
    let crawl = cluster.crawl_until("c", |crawl| crawl["reports_stale"] != 0).await;
    counters_are_told_of(&mut cluster, &crawl).await;

    assert_eq!(crawl["state"], "finished");
    let after = cluster.pages("c").await;
    assert_eq!(after.content(), before.content());
    assert_eq!(after.of(&site.url("/15")).bytes, "kept".len() as u64);
    let counts = site.counts();
    assert_eq!(counts["/15"], 2);
    assert!(counts.values().all(|&visits| visits <= 2), "{counts:?}");
    stop([frozen, other]).await;
}

/// What operators see of it: in the table, as JSON, and in the log; also after a restart.
async fn counters_are_told_of(cluster: &mut Cluster, crawl: &Value) {
    let counts = ["leases_expired", "leases_recovered", "reports_stale", "reports_already"];
    let counts = counts.map(|count| crawl[count].as_u64().unwrap());
    let [expired, recovered, stale, already] = counts;
    assert!(expired >= 1 && recovered >= 1 && stale >= 1, "{crawl:#}");
    let told = cluster.told("status", []).await;
    let commits = |what: &str| told["commits"][what].as_u64().unwrap();
    assert!(commits("commits") > 20 && commits("rows") > 100 && commits("syncs") > 20, "{told:#}");
    for what in ["turns", "bytes", "turn_longest_us", "sync_longest_us", "running_ms"] {
        assert!(commits(what) > 0, "{what} of {told:#}");
    }
    cluster.master().says_line("leases ran out; what is left of them waits again", secs(1)).await;

    let master = cluster.stop_master().await;
    let logged = [
        format!("leases_expired={expired} leases_recovered={recovered} leases_kept=0"),
        format!("reports_stale={stale} reports_already={already}"),
        "commits since the master's start".to_owned(),
    ];
    master.says(logged.iter().map(String::as_str));
    cluster.start_master().await;
    let text = cluster.ask("status", []).done().await.expect(0);
    let leases = format!(
        "\nleases: {expired} ran out, {recovered} lent again, 0 kept by a start of the master; \
         reports: {stale} stale, {already} duplicate\n"
    );
    text.says([&*leases, " since the master's start: ", " sync"]);
}

#[tokio::test]
async fn a_second_process_of_a_workers_name_takes_its_place() {
    let sites = three_hosts().await;
    let want = sites.undisturbed().await;
    let cluster = Cluster::start(LONG_LEASE).await;
    let [first] = workers(&cluster, ["same"]);
    cluster.submit("c", sites.seeds()).done().await.expect(0);
    sites[0].visited(30).await;

    let [second] = workers(&cluster, ["same"]);
    let ended = first.done().await.expect(MASTER);
    ended.says([cluster.url(), "another worker has joined under this name", "--name"]);
    cluster.complete().await;

    assert_eq!(cluster.pages("c").await.content(), want.content());
    stop([second]).await;
}

/// Who came: the product name of a visit's User-Agent.
fn agent(visit: &Visit) -> &str {
    visit.headers["user-agent"].split('/').next().unwrap()
}

#[tokio::test]
async fn two_crawls_share_a_host_by_turns_at_the_longer_of_their_delays() {
    const SLOW: Duration = ms(200);
    let rooms: Vec<String> = (0..10).map(|number| format!("/rooms/{number}")).collect();
    let towers: Vec<String> = (0..10).map(|number| format!("/towers/{number}")).collect();
    let mut web = Web::new()
        .answer("/rooms/", Answer::links("rooms", rooms.iter().chain(&towers)))
        .answer("/towers/", Answer::links("towers", towers.iter().chain(&rooms)));
    for path in rooms.iter().chain(&towers) {
        web = web.answer(path, Answer::html(format!("<h1>{path}</h1><a href='/rooms/deeper'>")));
    }
    let shared = web.serve().await;
    let own = Sites::trees(3, 80, ms(0)).await;

    let cluster = Cluster::start(LEASE).await;
    let rules = "[[extract]]\nname = 'heading'\nselect = 'h1'\n";
    let rules = cluster.trawl().write("rules.toml", rules);
    let quick = cluster.submit("quick", [vec![shared.url("/rooms/")], own.seeds()].concat());
    let quick = quick.set("--scope", "prefix").set("--delay", "20ms").set("--config", rules);
    quick.set("--user-agent", "quick/1").done().await.expect(0);
    let slow = cluster.submit("slow", [shared.url("/towers/")]).set("--depth", "1");
    slow.set("--delay", "200ms").set("--user-agent", "slow/1").done().await.expect(0);
    let workers = workers(&cluster, ["one", "two", "three"]);
    cluster.complete().await;
    stop(workers).await;

    // Each has what its own specification asks for.
    let (quick, slow) = (cluster.pages("quick").await, cluster.pages("slow").await);
    assert_eq!(slow.count(), 1 + 20, "its scope is the host, one link deep");
    assert!(!slow.has(&shared.url("/rooms/deeper")));
    assert_eq!(
        quick.count(),
        1 + 10 + 1 + 3 * (80 + 7),
        "its scope is a directory and three hosts"
    );
    assert!(quick.has(&shared.url("/rooms/deeper")));
    assert_eq!(quick.of(&shared.url("/rooms/3")).fields["heading"], "/rooms/3");
    assert!(slow.iter().all(|page| page.fields.is_empty()));

    // While both were at the host, it was left alone for the longer delay.
    let visits = shared.visits();
    let last = |name| visits.iter().rposition(|visit| agent(visit) == name).unwrap();
    let both = last("quick").min(last("slow"));
    let waits = shared.waits(|_| true);
    assert!(waits[..both].iter().all(|&wait| wait >= SLOW), "{waits:?}");
    assert!(shared.most_at_once() == 1);
    // Hosts that only one wants know nothing of the other's delay.
    assert!(own.iter().all(|own| own.waits(|_| true).iter().any(|&wait| wait < SLOW)));
    // They had it by turns: half a lease at this delay is five fetches.
    let turns: Vec<_> = visits[..=both].iter().map(agent).collect();
    let longest = turns.chunk_by(|one, other| one == other).map(<[_]>::len).max().unwrap();
    assert!(longest <= 6, "one waited for {longest} fetches of the other: {turns:?}");
}

#[tokio::test]
async fn a_master_that_stands_still_is_waited_for_and_not_fetched_ahead_of() {
    const HOSTS: usize = 6;
    const BODY: usize = 128 * 1024;
    let mut rng = fastrand::Rng::with_seed(11);
    let mut sites = Vec::new();
    for _ in 0..HOSTS {
        let paths: Vec<String> = (0..40).map(|number| format!("/{number}")).collect();
        let mut web = Web::new().answer("/", Answer::links("large", &paths));
        for path in &paths {
            let body: Vec<u8> = std::iter::repeat_with(|| rng.u8(..)).take(BODY).collect();
            web = web.answer(path, Answer::bytes("application/octet-stream", body));
        }
        sites.push(web.serve().await);
    }
    let visits = || sites.iter().map(|site| site.visits().len()).sum::<usize>();
    let cluster = Cluster::start(LONG_LEASE).await;
    let worker = cluster.worker("w").set("--outbox", "1MiB").start();
    cluster.submit("c", sites.iter().map(|site| site.url("/"))).done().await.expect(0);
    sites[0].visited(8).await;
    cluster.master().freeze();
    let before = visits();
    let memory_before = worker.memory_peak();

    // Long enough to fetch all that is lent to it several times over.
    sleep(secs(2)).await;
    let ahead = visits() - before;
    // What fits into the outbox, and in each lane a page that waits for room.
    assert!(ahead <= (1 << 20) / BODY + HOSTS + 1, "{ahead} fetched ahead of the master");
    // The kernel counts it roughly.
    let memory = worker.memory_peak().saturating_sub(memory_before);
    println!("{ahead} pages ahead, {memory} bytes more of {}", worker.memory_peak());
    cluster.master().thaw();
    cluster.complete().await;

    assert_eq!(cluster.pages("c").await.count(), HOSTS * 41);
    assert!(sites.iter().all(|site| site.counts().values().all(|&visits| visits == 1)));
    cluster.worker_until("w", |worker| worker["outbox_bytes"] == 0).await;
    let peak = worker.memory_peak();
    assert!(peak < 64 << 20, "{peak} bytes of memory");
    stop([worker]).await;
}

#[tokio::test]
async fn real_sites_are_crawled_exactly_whatever_happens_to_the_cluster() {
    let sites = ["dx", "sqlite", "docbook"].map(real::site);
    let mut cluster = Cluster::start(LEASE).await;
    let [one, two, three] = workers(&cluster, ["one", "two", "three"]);
    let submit = cluster.submit("c", sites.iter().map(|site| &site.seed)).set("--delay", "1ms");
    submit.done().await.expect(0);
    let fetched = |count: u64| move |crawl: &Value| crawl["outcomes"]["ok"].as_u64() >= Some(count);

    cluster.crawl_until("c", fetched(100)).await;
    one.kill().await;
    cluster.crawl_until("c", fetched(400)).await;
    two.freeze();
    cluster.worker_until("two", |worker| worker["state"] == "silent").await;
    two.thaw();
    cluster.crawl_until("c", fetched(800)).await;
    cluster.kill_master().await;
    cluster.start_master().await;
    cluster.complete().await;

    cluster.pages("c").await;
    let export = cluster.trawl().file("c.jsonl");
    let oracles = sites.iter().map(|site| site.oracle(None));
    tools::python("sites/compare.py", std::iter::once(export).chain(oracles)).ok();
    stop([two, three]).await;
}
