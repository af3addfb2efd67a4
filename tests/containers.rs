//! The compose file that users have, on real containers and real sites: what a cluster finds is what
//! one process finds, whatever happens to its parts meanwhile.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use harness::{
    containers::{Container, Containers, Wire, eventually},
    secs,
};
use serde_json::Value;

/// Four hosts with some three and a half thousand pages, so that three workers with one lane each are
/// all busy.
const SITES: [&str; 4] = ["docbook", "dx", "harden", "xerces"];

/// What the master says of the crawl.
fn status(cluster: &Containers) -> Value {
    let status: Value = serde_json::from_str(&cluster.trawl(["status", "--json"])).unwrap();
    status["crawls"][0].clone()
}

/// What the master says of each worker.
fn workers(cluster: &Containers) -> Vec<Value> {
    let workers: Value = serde_json::from_str(&cluster.trawl(["workers", "--json"])).unwrap();
    workers["workers"].as_array().unwrap().clone()
}

/// Of a worker's numbers one, by the container that it runs in and is named after; 0 if it is unknown.
fn number(workers: &[Value], container: &Container, name: &str) -> u64 {
    let is_named = |worker: &&Value| container.is_named_in(worker["name"].as_str().unwrap());
    workers.iter().find(is_named).map_or(0, |worker| worker[name].as_u64().unwrap())
}

/// A cluster whose three workers are there.
fn cluster(wire: Wire) -> Containers {
    let cluster = Containers::up(wire);
    eventually("every worker is there", secs(60), || workers(&cluster).len() == 3);
    cluster
}

/// That the cluster has found what a single process finds, URL by URL and digest by digest.
fn found_all(cluster: &Containers) {
    let alone = cluster.pages_of_one_process(&SITES);
    assert!(alone.count() > 3_000, "a single process found {} pages only", alone.count());
    assert_eq!(cluster.pages().content(), alone.content());
}

#[test]
fn three_workers_find_what_one_process_finds() {
    let cluster = cluster(Wire::Plain);
    cluster.submit(&SITES, "10ms");
    cluster.trawl(["status", "--wait"]);

    found_all(&cluster);
    let workers = workers(&cluster);
    let mut all = cluster.of("worker");
    for container in &all {
        assert!(number(&workers, container, "pages") > 0, "a worker did nothing: {workers:?}");
    }

    all.push(cluster.master().clone());
    for container in &all {
        eventually("the health check is content", secs(30), || {
            cluster.inspect(container, "{{.State.Health.Status}}") == "healthy"
        });
    }
    cluster.compose(["stop"]);
    for container in &all {
        assert_eq!(cluster.inspect(container, "{{.State.ExitCode}}"), "0", "{container:?}");
    }
}

#[test]
fn nothing_is_lost_when_workers_are_killed_and_frozen_and_the_master_is_killed() {
    let cluster = cluster(Wire::Tls);
    // By this alone it takes two minutes.
    cluster.submit(&SITES, "100ms");
    let [killed, frozen, spared] = cluster.of("worker").try_into().unwrap();
    eventually("every worker has work", secs(30), || {
        let workers = workers(&cluster);
        [&killed, &frozen, &spared].iter().all(|it| number(&workers, it, "leases") > 0)
    });

    cluster.kill(&killed);
    cluster.pause(&frozen);
    eventually("what they held is taken back", secs(30), || {
        let workers = workers(&cluster);
        [&killed, &frozen].iter().all(|it| number(&workers, it, "leases") == 0)
    });
    assert!(status(&cluster)["leases_expired"].as_u64() >= Some(2), "{}", status(&cluster));
    cluster.unpause(&frozen);
    eventually("the frozen worker works again", secs(30), || {
        number(&workers(&cluster), &frozen, "leases") > 0
    });

    assert_eq!(status(&cluster)["state"], "running", "all this must happen in the middle");
    cluster.kill(cluster.master());
    cluster.start(cluster.master());
    eventually("the master serves again", secs(30), || cluster.is_served());
    assert_eq!(status(&cluster)["state"], "running", "all this must happen in the middle");

    cluster.submit(&SITES, "0s");
    cluster.trawl(["status", "--wait"]);
    found_all(&cluster);
}
