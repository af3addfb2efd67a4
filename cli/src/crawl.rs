//! The main job: a master and a worker in one process. They talk by the same
//! services and messages as in a cluster; only the network is missing.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use clap::Args;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use trawl_master::{
    api::ControlApi,
    server::{Master, MasterConfig},
};
use trawl_proto::v1::{
    CrawlStatus, StatusRequest, SubmitReply, SubmitRequest, control_client::ControlClient,
    control_server::ControlServer,
};
use trawl_shared::{shutdown, spec::CrawlSpec, units::Size, untrusted::Untrusted};
use trawl_worker::{
    config::WorkerConfig,
    fetch::HttpFetcher,
    master::{Master as MasterClient, MasterError},
    pipeline,
};

use crate::{
    connect::in_process,
    exit::{Exit, Failure},
    options::{CrawlOptions, Resolved, check_lanes},
    render::{self, Progress, counted, summary},
};

/// The worker's name at the master of its own process.
const WORKER: &str = "local";

#[derive(Args, Debug)]
pub(crate) struct CrawlArgs {
    #[command(flatten)]
    options: CrawlOptions,

    /// Where to keep the crawl: its frontier and its pages [default: trawl-data]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,

    /// Hosts to fetch from at the same time; each host has one connection
    /// [default: 32]
    #[arg(long, value_name = "HOSTS", help_heading = "Network")]
    lanes: Option<usize>,

    /// Free space on the disk below which nothing more is fetched until there is room
    /// again; 0 for none [default: 1GiB, or a twentieth of a disk that has less than
    /// 20 GiB]
    #[arg(long, value_name = "SIZE", help_heading = "Limits")]
    disk_reserve: Option<Size>,
}

/// Operators' calls, in process.
type Control = ControlClient<ControlServer<ControlApi>>;

/// How the crawl came to rest.
enum Rest {
    Finished,
    Interrupted,
}

/// Runs the crawl to its end, or until a signal.
pub(crate) fn run(args: CrawlArgs) -> Result<Exit, Failure> {
    let Resolved { seeds, name, spec, data, lanes } = args.options.resolve(None)?;
    check_secrets(&spec)?;
    let data = args.data.or(data).unwrap_or_else(|| "trawl-data".into());
    let mut worker = WorkerConfig::new(WORKER.into());
    worker.lanes = args.lanes.or(lanes).unwrap_or(worker.lanes);
    check_lanes(worker.lanes)?;
    let request = SubmitRequest {
        name,
        seeds: seeds.iter().map(|seed| seed.as_str().to_owned()).collect(),
        spec_json: spec.to_json(),
        take_up: true,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let mut master = MasterConfig::new(data);
    master.disk_reserve = args.disk_reserve;
    runtime.block_on(crawl(master, worker, request))
}

/// Checks that the secrets are there that this process, as the worker, will need.
fn check_secrets(spec: &CrawlSpec) -> Result<(), Failure> {
    match spec.secret_variables().find(|name| std::env::var_os(name).is_none()) {
        Some(name) => Err(Failure::usage(format!(
            "the environment variable {name} is not set, which a header or credentials name"
        ))),
        None => Ok(()),
    }
}

async fn crawl(
    config: MasterConfig,
    worker: WorkerConfig,
    request: SubmitRequest,
) -> Result<Exit, Failure> {
    let signal = shutdown::on_signal()?;
    let data = config.data.clone();
    let mut master = Master::start(config)?;
    let local = master.serve_local().map(tokio::spawn);
    let ended = crawl_on(&mut master, worker, request, &data, &signal).await;
    // If a store failed, that is the reason for whatever else went wrong.
    let stopped = master.stop().await;
    if let Some(local) = local {
        // It lets calls under way end; what becomes of it is nobody's concern.
        let _ = local.await;
    }
    stopped?;
    let (rest, status) = ended?;
    Ok(conclude(&rest, &status, &data))
}

/// Crawls on a master until it has finished or a signal came.
async fn crawl_on(
    master: &mut Master,
    mut worker: WorkerConfig,
    request: SubmitRequest,
    data: &Path,
    signal: &CancellationToken,
) -> Result<(Rest, CrawlStatus), Failure> {
    let mut control = ControlClient::new(master.control_service());
    let name = request.name.clone();
    let submitted = control.submit(request).await.map_err(from_status)?.into_inner();
    // Other crawls of the data directory rest meanwhile.
    worker.crawl = Some(submitted.crawl);
    let mut progress = Progress::start();
    progress.note(&opening(&submitted, &name, data));

    let stop = CancellationToken::new();
    let work = pipeline::run(
        MasterClient::new(in_process(master.worker_service()), WORKER, worker.lanes),
        worker,
        Arc::new(HttpFetcher::new),
        stop.clone(),
    );
    let mut work = tokio::spawn(work);
    let rest = tokio::select! {
        rest = watch(control.clone(), &name, &mut progress, signal) => rest,
        ended = master.ended() => Err(master_ended(ended.map_err(Failure::from))),
        ended = &mut work => Err(worker_ended(ended)),
    };
    if matches!(rest, Ok(Rest::Interrupted)) {
        progress.note("stopping: fetches under way may end, then everything is saved");
    }
    stop.cancel();
    if rest.is_err() {
        // Without its master a worker would try again and again.
        work.abort();
    } else if let Err(error) = work.await {
        tracing::error!(%error, "the worker did not end well");
    }
    progress.finish();
    Ok((rest?, one_status(&mut control, &name, Duration::ZERO).await?))
}

/// Shows progress until the crawl has finished or a signal came.
async fn watch(
    mut control: Control,
    name: &str,
    progress: &mut Progress,
    signal: &CancellationToken,
) -> Result<Rest, Failure> {
    loop {
        let status = one_status(&mut control, name, progress.interval());
        let status = tokio::select! {
            status = status => status?,
            () = signal.cancelled() => return Ok(Rest::Interrupted),
        };
        progress.show(&status);
        if status.state == "finished" {
            return Ok(Rest::Finished);
        }
    }
}

async fn one_status(
    control: &mut Control,
    name: &str,
    wait: Duration,
) -> Result<CrawlStatus, Failure> {
    let wait_ended_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
    let request = StatusRequest { name: name.to_owned(), wait_ended_ms };
    let reply = control.status(request).await.map_err(from_status)?.into_inner();
    let status = reply.crawls.into_iter().next();
    status.ok_or_else(|| Failure::new(Exit::Failed, "the crawl is gone from the master"))
}

fn opening(submitted: &SubmitReply, name: &str, data: &Path) -> String {
    let data = data.display();
    if submitted.resumed {
        format!("going on with crawl \"{name}\" in {data}")
    } else {
        format!("crawl \"{name}\" in {data}, from {}", counted(submitted.new_seeds, "seed"))
    }
}

/// Prints how it ended, and chooses the exit code.
fn conclude(rest: &Rest, status: &CrawlStatus, data: &Path) -> Exit {
    let interrupted = matches!(rest, Rest::Interrupted);
    summary(status, data, interrupted);
    if interrupted {
        return Exit::Interrupted;
    }
    let answered = ["ok", "redirect", "client_error", "server_error", "other_status"];
    let fetched = answered.iter().any(|class| status.outcomes.contains_key(*class));
    if fetched {
        return Exit::Done;
    }
    let first = status.troubles.last().map(|trouble| {
        format!(": {}: {}", Untrusted::new(&trouble.url), Untrusted::new(&trouble.detail))
    });
    render::error(&format!("no page could be fetched{}", first.unwrap_or_default()));
    Exit::NothingFetched
}

fn from_status(status: Status) -> Failure {
    let exit = match status.code() {
        tonic::Code::InvalidArgument => Exit::Usage,
        _ => Exit::Failed,
    };
    Failure::new(exit, status.message())
}

/// The master ended although nobody stopped it.
pub(crate) fn master_ended(ended: Result<(), Failure>) -> Failure {
    ended.err().unwrap_or_else(|| Failure::new(Exit::Failed, "the master ended by itself"))
}

fn worker_ended(ended: Result<Result<(), MasterError>, tokio::task::JoinError>) -> Failure {
    let reason = match ended {
        Ok(Ok(())) => "the worker ended by itself".to_owned(),
        Ok(Err(error)) => error.to_string(),
        Err(error) => format!("the worker ended by itself: {error}"),
    };
    Failure::new(Exit::Failed, reason)
}
