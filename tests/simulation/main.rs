//! The real master and the real workers in one simulated network, on simulated time and a
//! simulated disk, while everything goes wrong that a seed can think of; then a look at
//! whether anything of what is promised was broken.
//!
//! `tests/simulate` runs any number of seeds; a seed that fails fails again.

mod check;
mod disk;
mod web;
mod wire;
mod world;

use std::{
    env, io,
    panic::resume_unwind,
    process::Command,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
};

use tokio::time::Instant;
use trawl_shared::sabotage::Fault;

use self::{
    check::Invariant,
    world::{Run, Story},
};

/// Seeds of a usual run.
const SEEDS: u64 = 200;

/// Seeds that once found something: these a fetch that went on after its lease had run out,
/// while another worker had the host.
const KEPT: &[u64] = &[22, 90, 92, 176];

/// Where a process learns which seed it is to run, and with which fault.
const SEED: &str = "TRAWL_SIM_SEED";
const FAULT: &str = "TRAWL_SIM_FAULT";

/// Before what a process says of its run.
const RESULT: &str = "RUN: ";

/// Runs a seed in a process of its own.
fn run(seed: u64, fault: Option<Fault>) -> Run {
    let ran = || -> io::Result<Run> {
        let mut command = Command::new(env::current_exe()?);
        command.args(["--exact", "one_seed", "--ignored", "--nocapture"]);
        command.env(SEED, seed.to_string()).env_remove(FAULT);
        if let Some(fault) = fault {
            command.env(FAULT, format!("{fault:?}"));
        }
        let output = command.output()?;
        let said = String::from_utf8_lossy(&output.stdout);
        let result = said.lines().find_map(|line| line.split_once(RESULT));
        let (_, result) = result.ok_or_else(|| {
            io::Error::other(format!("{said}{}", String::from_utf8_lossy(&output.stderr)))
        })?;
        Ok(serde_json::from_str(result)?)
    };
    ran().unwrap_or_else(|error| panic!("seed {seed} did not come to its end: {error}"))
}

/// One seed, as the others ask for it.
#[test]
#[ignore = "the other tests run it, in processes of its own"]
fn one_seed() {
    let seed = number(SEED).expect("the seed is set");
    let fault = env::var(FAULT).ok();
    let is_it = |of: &Fault| fault.as_deref() == Some(&*format!("{of:?}"));
    let fault = Fault::ALL.into_iter().find(is_it);
    let run = world::run(seed, fault).expect("the machine lets it run");
    println!("{RESULT}{}", serde_json::to_string(&run).expect("it can be told"));
}

/// Runs seeds, as many at a time as there are processors.
fn run_all(seeds: &[u64]) -> Vec<Run> {
    let next = AtomicUsize::new(0);
    let work = || {
        let seeds = std::iter::from_fn(|| seeds.get(next.fetch_add(1, Ordering::Relaxed)));
        seeds.map(|seed| run(*seed, None)).collect::<Vec<_>>()
    };
    thread::scope(|scope| {
        let threads = thread::available_parallelism().map_or(1, |threads| threads.get());
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        threads
            .into_iter()
            .flat_map(|thread| thread.join().unwrap_or_else(|panic| resume_unwind(panic)))
            .collect()
    })
}

fn assert_clean(runs: &[Run]) {
    let mut report = String::new();
    for run in runs.iter().filter(|run| !run.violations.is_empty()) {
        report += &format!("\nseed {0} (again: tests/simulate --seed {0}):", run.seed);
        for violation in run.violations.iter().take(8) {
            report += &format!("\n  {violation}");
        }
    }
    assert!(report.is_empty(), "promises were broken:{report}");
}

fn number(name: &str) -> Option<u64> {
    env::var(name).ok().and_then(|text| text.parse().ok())
}

#[test]
fn every_promise_holds_whatever_happens() {
    let began = Instant::now();
    let from = number("TRAWL_SIM_FROM").unwrap_or(0);
    let count = number("TRAWL_SIM_SEEDS").unwrap_or(SEEDS);
    let runs = run_all(&(from..from + count).collect::<Vec<_>>());
    let story: Story = runs.iter().map(|run| run.story).sum();
    println!("{} seeds in {:.0} s: {story}", runs.len(), began.elapsed().as_secs_f64());
    assert_clean(&runs);
    // Of so many seeds each brings something of each kind.
    let missing = story.numbers().into_iter().filter(|(number, _)| *number == 0);
    let missing: Vec<_> = missing.map(|(_, what)| what).collect();
    assert!(missing.is_empty() || count < SEEDS, "nothing was seen of {missing:?}");
}

#[test]
fn what_once_failed_does_not_fail_again() {
    assert_clean(&run_all(KEPT));
}

#[test]
fn a_seed_runs_the_same_way_every_time() {
    for seed in [3, 14, 159] {
        let first = run(seed, None).fingerprint;
        for _ in 0..2 {
            assert_eq!(run(seed, None).fingerprint, first, "seed {seed}");
        }
    }
}

#[test]
fn every_promise_is_seen_to_be_broken_where_it_is() {
    let mut missed = Vec::new();
    for (fault, invariant) in [
        (Fault::AnswerBeforeSync, Invariant::NothingLost),
        (Fault::StoreUnjudged, Invariant::NothingTwice),
        (Fault::IgnoreDeadline, Invariant::OneLease),
        (Fault::ForgetVisits, Invariant::Politeness),
        (Fault::TakeStale, Invariant::Fencing),
        (Fault::KeepExpired, Invariant::Completion),
        (Fault::SplitCommit, Invariant::Counts),
    ] {
        let is_caught = |run: &Run| run.violations.iter().any(|v| v.invariant == invariant);
        match (0..SEEDS).find(|seed| is_caught(&run(*seed, Some(fault)))) {
            Some(seed) => println!("{fault:?}: {invariant:?} is broken by seed {seed}"),
            None => missed.push((fault, invariant)),
        }
    }
    assert!(missed.is_empty(), "not seen within {SEEDS} seeds: {missed:?}");
}
