//! What operators ask of a running master.

use std::{path::PathBuf, time::Duration};

use clap::Args;
use tokio::time::{sleep, timeout};
use tonic::{Code, Response, Status};
use trawl_proto::v1::{StatusReply, StatusRequest, SubmitReply, SubmitRequest};
use trawl_shared::{backoff, untrusted::Untrusted};

use crate::{
    connect::{Control, MasterArgs},
    exit::{Exit, Failure},
    options::{CrawlOptions, Resolved},
    render::{self, counted},
    roles::runtime,
    tables,
};

/// How long a master may take for an answer that it does not hold back.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// How long one call of `status --wait` is held open.
const WAIT_INTERVAL: Duration = Duration::from_secs(20);

/// The first wait when the master has gone away in between, and the longest.
const RETRY_WAITS: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));

/// Bytes of seeds in one call.
const SUBMIT_BYTES: usize = 1024 * 1024;

#[derive(Args, Debug)]
pub(crate) struct SubmitArgs {
    #[command(flatten)]
    options: CrawlOptions,

    /// Read further seeds from a file, one a line; `-` is standard input. Empty lines
    /// and those that begin with # do not count
    #[arg(long, value_name = "FILE")]
    seeds_file: Option<PathBuf>,

    /// Take up a crawl of that name that exists, with these settings and seeds
    #[arg(long)]
    update: bool,

    #[command(flatten)]
    master: MasterArgs,
}

#[derive(Args, Debug)]
pub(crate) struct StatusArgs {
    /// Only this crawl
    #[arg(value_name = "NAME")]
    name: Option<String>,

    /// Print JSON
    #[arg(long)]
    json: bool,

    /// Wait until every crawl asked for has ended; a paused one has not
    #[arg(long)]
    wait: bool,

    #[command(flatten)]
    master: MasterArgs,
}

/// A master, and how to speak of it.
struct Operator {
    control: Control,
    url: String,
}

/// Gives a crawl to a master.
pub(crate) fn submit(args: SubmitArgs) -> Result<Exit, Failure> {
    let SubmitArgs { options, seeds_file, update, master } = args;
    let Resolved { seeds, name, spec, .. } = options.resolve(seeds_file.as_deref())?;
    let seeds = seeds.iter().map(|seed| seed.as_str().to_owned());
    let spec_json = spec.to_json();
    runtime()?.block_on(async {
        let operator = Operator::new(&master)?;
        let mut sum = SubmitReply::default();
        for (index, seeds) in groups(seeds).into_iter().enumerate() {
            let request = SubmitRequest {
                name: name.clone(),
                seeds,
                spec_json: spec_json.clone(),
                // What the first call has begun, the others go on with.
                take_up: update || index > 0,
            };
            let reply = operator.ask(async |mut control| control.submit(request).await).await;
            let reply = reply.map_err(|failure| match failure {
                // Seeds of the earlier calls are there already.
                failure if index > 0 => failure.with(&format!(
                    "not all seeds were taken ({} were); give the command again with --update",
                    sum.new_seeds
                )),
                failure => failure,
            })?;
            sum.resumed |= index == 0 && reply.resumed;
            sum.new_seeds += reply.new_seeds;
        }
        let done = if sum.resumed { "updated" } else { "submitted" };
        render::print(&format!("crawl \"{name}\" {done}, {}", counted(sum.new_seeds, "new seed")))?;
        Ok(Exit::Done)
    })
}

/// Seeds in groups that fit into a call each; one group at least.
fn groups(seeds: impl Iterator<Item = String>) -> Vec<Vec<String>> {
    let mut groups = vec![Vec::new()];
    let mut bytes = 0;
    for seed in seeds {
        bytes += seed.len();
        if bytes > SUBMIT_BYTES {
            bytes = seed.len();
            groups.push(Vec::new());
        }
        if let Some(group) = groups.last_mut() {
            group.push(seed);
        }
    }
    groups
}

/// Shows where the crawls stand.
pub(crate) fn status(args: &StatusArgs) -> Result<Exit, Failure> {
    runtime()?.block_on(async {
        let operator = Operator::new(&args.master)?;
        let name = args.name.as_deref().unwrap_or_default();
        let mut status = operator.status(name, Duration::ZERO).await?;
        if args.wait {
            status = operator.wait_for_end(name, status).await?;
        }
        let text = if args.json {
            tables::status_json(&status)
        } else {
            tables::status(&status, args.name.is_some())
        };
        render::print(&text)?;
        Ok(Exit::Done)
    })
}

impl Operator {
    fn new(master: &MasterArgs) -> Result<Self, Failure> {
        Ok(Self { control: master.control()?, url: master.master.clone() })
    }

    async fn status(&self, name: &str, wait: Duration) -> Result<StatusReply, Failure> {
        let wait_ended_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
        let request = StatusRequest { name: name.to_owned(), wait_ended_ms };
        self.ask_for(ANSWER_TIMEOUT + wait, async |mut control| control.status(request).await).await
    }

    /// Asks until every crawl has ended. A master that goes away meanwhile is waited
    /// for: it goes on where it stood.
    async fn wait_for_end(
        &self,
        name: &str,
        mut status: StatusReply,
    ) -> Result<StatusReply, Failure> {
        let mut failures = 0;
        while status.crawls.iter().any(|crawl| crawl.state != "finished") {
            match self.status(name, WAIT_INTERVAL).await {
                Ok(reply) => {
                    if failures > 0 {
                        render::say("the master is back");
                    }
                    failures = 0;
                    status = reply;
                }
                Err(failure) if failure.exit == Exit::Master => {
                    failures += 1;
                    if failures == 1 {
                        render::say(&format!("{}; waiting for it", failure.message));
                    }
                    let (first, longest) = RETRY_WAITS;
                    sleep(backoff::wait(failures, first, longest, fastrand::f64())).await;
                }
                Err(failure) => return Err(failure),
            }
        }
        Ok(status)
    }

    /// What the master answers, or why it does not.
    async fn ask<T>(
        &self,
        call: impl AsyncFnOnce(Control) -> Result<Response<T>, Status>,
    ) -> Result<T, Failure> {
        self.ask_for(ANSWER_TIMEOUT, call).await
    }

    /// The same, with a time limit of its own.
    async fn ask_for<T>(
        &self,
        limit: Duration,
        call: impl AsyncFnOnce(Control) -> Result<Response<T>, Status>,
    ) -> Result<T, Failure> {
        match timeout(limit, call(self.control.clone())).await {
            Ok(Ok(answer)) => Ok(answer.into_inner()),
            Ok(Err(status)) => Err(self.failure(&status)),
            Err(_) => {
                let message = format!("the master at {} does not answer", self.url);
                Err(Failure::new(Exit::Master, message))
            }
        }
    }

    /// A call's end as the program's.
    fn failure(&self, status: &Status) -> Failure {
        let url = &self.url;
        let text = Untrusted(status.message()).to_string();
        match status.code() {
            Code::InvalidArgument | Code::NotFound => Failure::usage(text),
            Code::AlreadyExists => Failure::usage(format!(
                "{text}; --update takes it up again, with these settings and seeds"
            )),
            Code::Unavailable => {
                Failure::new(Exit::Master, format!("no answer from the master at {url}: {text}"))
            }
            Code::Unauthenticated | Code::PermissionDenied => {
                Failure::new(Exit::Master, format!("not let in by the master at {url}: {text}"))
            }
            Code::Unimplemented => Failure::new(
                Exit::Failed,
                format!("the master at {url} is of another version and does not know this: {text}"),
            ),
            _ => Failure::new(Exit::Failed, format!("the master at {url}: {text}")),
        }
    }
}
