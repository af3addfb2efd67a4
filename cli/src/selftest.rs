//! `trawl selftest`: what the tests do to trawl, done for a minute to the user's own machine, disk
//! and network stack. A web of its own on loopback, a master and three workers as processes of this
//! program, which are killed and stopped at random; then every page that came of it is held against
//! what the web has served.

mod cluster;
mod machine;
mod verdict;
mod web;

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Args;
use fastrand::Rng;
use tempfile::TempDir;
use tokio::time::{Instant, sleep};
use trawl_shared::{shutdown, units::Span};

use self::{
    cluster::{Broken, Cluster, LEASE, LOOK, WORKERS},
    machine::Machine,
    verdict::{Attack, Export, Verdict},
    web::Web,
};
use crate::{
    exit::{Exit, Failure},
    options::check_range,
    render::{print, say},
    roles::runtime,
};

/// The part of the time in which something is killed or stopped; in the rest the crawl ends.
const ATTACK: f64 = 0.75;

/// The longest between two blows.
const PAUSE_MAX: Duration = Duration::from_millis(1500);

/// How long it may take until a dead worker's hosts are fetched from again.
const RECOVERED_MAX: Duration = LEASE.saturating_mul(4);

/// How long a crawl may take to end after the last blow, beside the time that was given.
const END_MAX: Duration = Duration::from_secs(60);

#[derive(Args, Debug)]
pub(crate) struct SelftestArgs {
    /// A directory on the disk to test. All is done in a new one in it, which is removed afterwards
    #[arg(long, value_name = "DIR", default_value = ".")]
    data: PathBuf,

    /// About how long it may take
    #[arg(long, value_name = "DURATION", default_value = "60s")]
    time: Span,

    /// The chance that chooses who is killed when [default: another one each time]
    #[arg(long, value_name = "NUMBER")]
    seed: Option<u64>,

    /// Keep the directory, with what the processes have said, and tell its name
    #[arg(long)]
    keep: bool,

    /// Print the verdict as JSON
    #[arg(long)]
    json: bool,
}

/// What is done to a cluster.
#[derive(Clone, Copy, Debug)]
enum Blow {
    KillMaster,
    KillWorker,
    StopMaster,
    StopWorker,
}

const BLOWS: [Blow; 4] = [Blow::KillWorker, Blow::KillMaster, Blow::StopWorker, Blow::StopMaster];

/// Tests this machine.
pub(crate) fn selftest(args: &SelftestArgs) -> Result<Exit, Failure> {
    check_range("time", args.time, Span::secs(10), Span::secs(3_600))?;
    runtime()?.block_on(async {
        let signal = shutdown::on_signal()?;
        tokio::select! {
            exit = run(args) => exit,
            () = signal.cancelled() => Ok(Exit::Interrupted),
        }
    })
}

async fn run(args: &SelftestArgs) -> Result<Exit, Failure> {
    let seed = args.seed.unwrap_or_else(|| fastrand::u64(..));
    let folder = make_folder(&args.data, args.keep)?;
    let machine = Machine::look(folder.path())?;
    say(&format!("selftest in {}, about {}, --seed {seed}", folder.path().display(), args.time));
    let began = Instant::now();
    let web = Web::serve(seed).await?;
    let mut attack = Attack::default();
    let broken = attack_cluster(folder.path(), args, seed, &web, &mut attack).await.err();
    let exported = folder.path().join(EXPORT);
    let export = exported.exists().then(|| Export::read(&exported)).transpose()?;
    let verdict =
        Verdict::of(&machine, &attack, &web.account(), export.as_ref(), broken, began.elapsed());
    let text = if args.json { verdict.as_json(seed) } else { verdict.as_text(seed) };
    print(&text)?;
    if args.keep {
        say(&format!("kept: {}", folder.path().display()));
    }
    Ok(if verdict.is_passed() { Exit::Done } else { Exit::Wrong })
}

/// The export's name in the folder.
const EXPORT: &str = "pages.jsonl";

/// A new directory in `data`.
fn make_folder(data: &Path, keep: bool) -> Result<TempDir, Failure> {
    let unusable = |error: std::io::Error| {
        let exit = match error.kind() {
            std::io::ErrorKind::StorageFull => Exit::DiskFull,
            _ => Exit::DataDir,
        };
        Failure::new(exit, format!("no directory can be made in {}: {error}", data.display()))
    };
    fs::create_dir_all(data).map_err(unusable)?;
    let mut folder = TempDir::with_prefix_in("trawl-selftest-", data).map_err(unusable)?;
    folder.disable_cleanup(keep);
    Ok(folder)
}

/// Crawls the web with a cluster that is beaten for a while, to the end.
async fn attack_cluster(
    folder: &Path,
    args: &SelftestArgs,
    seed: u64,
    web: &Web,
    attack: &mut Attack,
) -> Result<(), Broken> {
    let mut cluster = Cluster::start(folder).await?;
    let crawled = crawl_under_attack(&mut cluster, args, seed, web, attack).await;
    if crawled.is_err() {
        // A process that is gone explains whatever did not work.
        cluster.check()?;
    }
    crawled?;
    cluster.export(&folder.join(EXPORT)).await?;
    cluster.stop().await?;
    cluster.verify().await
}

/// Crawls the web, and beats the cluster meanwhile.
async fn crawl_under_attack(
    cluster: &mut Cluster,
    args: &SelftestArgs,
    seed: u64,
    web: &Web,
    attack: &mut Attack,
) -> Result<(), Broken> {
    let mut random = Rng::with_seed(seed);
    let began = Instant::now();
    cluster.submit(web.seeds()).await?;
    // Each blow once, in any order, and then as they come.
    let mut blows = BLOWS.to_vec();
    random.shuffle(&mut blows);
    while began.elapsed() < args.time.duration().mul_f64(ATTACK) || !blows.is_empty() {
        let pause = PAUSE_MAX.mul_f64(random.f64());
        sleep(pause).await;
        cluster.check()?;
        let blow = blows.pop().unwrap_or_else(|| BLOWS[random.usize(..BLOWS.len())]);
        strike(cluster, blow, &mut random, web, attack).await?;
        say(&format!("{:>5.1}s  {blow}: {}", began.elapsed().as_secs_f64(), attack.last));
    }
    web.stop_growing();
    let late = Instant::now() + args.time.duration() + END_MAX;
    loop {
        cluster.check()?;
        let status = cluster.status(Duration::from_secs(1)).await?;
        let is_done = status.state == "finished";
        attack.crawl = status;
        if is_done {
            break;
        }
        if Instant::now() > late {
            return Err("the crawl did not end after the last blow".to_owned());
        }
    }
    attack.crawl_time = began.elapsed();
    Ok(())
}

/// Does one thing to the cluster, and waits until that is made good.
async fn strike(
    cluster: &mut Cluster,
    blow: Blow,
    random: &mut Rng,
    web: &Web,
    attack: &mut Attack,
) -> Result<(), Broken> {
    let worker = random.usize(..WORKERS);
    match blow {
        Blow::KillMaster => {
            attack.lent_at_kills += cluster.status(Duration::ZERO).await?.leased;
            let ready = cluster.kill_master().await?;
            attack.master_killed(ready);
        }
        Blow::StopMaster => {
            let ready = cluster.stop_master().await?;
            attack.master_stopped(ready);
        }
        Blow::KillWorker => {
            let (worker, held) = cluster.somebody_at_work(worker).await?;
            attack.lent_at_kills += held.iter().map(|host| host.leased).sum::<u64>();
            let hosts: Vec<String> = held.into_iter().map(|host| host.key).collect();
            cluster.kill_worker(worker, random.bool()).await?;
            let killed = Instant::now();
            while !web.was_asked_since(killed, &hosts) {
                cluster.check()?;
                if killed.elapsed() > RECOVERED_MAX {
                    return Err(format!(
                        "a dead worker's hosts were not fetched from again within {RECOVERED_MAX:?}"
                    ));
                }
                sleep(LOOK).await;
            }
            attack.worker_killed(killed.elapsed());
        }
        Blow::StopWorker => {
            let began = Instant::now();
            cluster.stop_worker(worker).await?;
            attack.worker_stopped(began.elapsed());
        }
    }
    Ok(())
}

impl std::fmt::Display for Blow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::KillMaster => "the master was killed",
            Self::KillWorker => "a worker was killed",
            Self::StopMaster => "the master was stopped",
            Self::StopWorker => "a worker was stopped",
        })
    }
}
