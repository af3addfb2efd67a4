//! What operators ask of a running master: a file for each verb, and here what they
//! share: asking, and telling why there is no answer.

mod host;
mod hosts;
mod quarantine;
mod status;
mod steer;
mod submit;
mod whom;
mod why;
mod workers;

pub(crate) use self::{
    host::HostArgs,
    hosts::HostsArgs,
    quarantine::QuarantineArgs,
    status::{CrawlsArgs, StatusArgs},
    steer::SteerArgs,
    submit::SubmitArgs,
    whom::WhomArgs,
    why::WhyArgs,
    workers::{DrainArgs, WorkersArgs},
};

use std::{path::Path, time::Duration};

use clap::Subcommand;
use tokio::time::timeout;
use tonic::{Code, Response, Status};
use trawl_master::server::Master;
use trawl_proto::v1::Wish;
use trawl_shared::{units::Span, untrusted::Untrusted};

use crate::{
    connect::{Control, MasterArgs, local_control},
    exit::{Exit, Failure},
    roles::runtime,
};

/// How long a master may take for an answer that it does not hold back.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// What can be asked of a master.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Give a crawl to a master
    Submit(Box<SubmitArgs>),
    /// List a master's crawls
    Crawls(CrawlsArgs),
    /// Show where a master's crawls stand
    Status(StatusArgs),
    /// Let a crawl rest: its URLs are lent to nobody until it is resumed
    Pause(SteerArgs),
    /// Let a crawl go on that was paused or stopped
    Resume(SteerArgs),
    /// End a crawl; what is queued stays, and `resume` goes on with it
    Stop(SteerArgs),
    /// List a master's workers, and what they do
    Workers(WorkersArgs),
    /// Let a worker end what it has and take nothing more
    Drain(DrainArgs),
    /// List the hosts that have something queued or lent
    Hosts(HostsArgs),
    /// Tell what is known of a host, block it, or set its delay, connections or limit
    Host(Box<HostArgs>),
    /// Tell what is known of a URL, and why it was or was not fetched
    Why(WhyArgs),
    /// List URLs that were set aside, as traps or because workers were lost with them;
    /// release them, or give them up
    Quarantine(QuarantineArgs),
}

impl Verb {
    /// Asks, and prints the answer.
    pub(crate) fn run(self) -> Result<Exit, Failure> {
        runtime()?.block_on(async {
            match self {
                Self::Submit(args) => submit::submit(*args).await,
                Self::Crawls(args) => asked(&args.whom, async |it| status::crawls(it).await).await,
                Self::Status(args) => {
                    asked(&args.whom, async |it| status::status(it, &args).await).await
                }
                Self::Pause(args) => steer::steer(&args, Wish::Pause).await,
                Self::Resume(args) => steer::steer(&args, Wish::Run).await,
                Self::Stop(args) => steer::steer(&args, Wish::Stop).await,
                Self::Workers(args) => workers::workers(&args).await,
                Self::Drain(args) => workers::drain(&args).await,
                Self::Hosts(args) => {
                    asked(&args.whom, async |it| hosts::hosts(it, &args).await).await
                }
                Self::Host(args) => asked(&args.whom, async |it| host::host(it, &args).await).await,
                Self::Why(args) => asked(&args.whom, async |it| why::why(it, &args).await).await,
                Self::Quarantine(args) => {
                    asked(args.whom(), async |it| quarantine::quarantine(it, &args).await).await
                }
            }
        })
    }
}

/// Asks whom the arguments name.
async fn asked(
    whom: &WhomArgs,
    ask: impl AsyncFnOnce(&Operator) -> Result<Exit, Failure>,
) -> Result<Exit, Failure> {
    let operator = whom.operator().await?;
    let answer = ask(&operator).await;
    // If a store failed, that is the reason for whatever else went wrong.
    operator.close().await?;
    answer
}

/// A master to ask, and how to speak of it.
pub(crate) struct Operator {
    pub(crate) control: Control,
    pub(crate) url: String,
    /// The master, if it is there for this alone.
    own: Option<Box<Master>>,
}

impl Operator {
    /// An operator of a master, which need not be there yet.
    ///
    /// # Errors
    /// If the URL or a file of credentials cannot be used.
    pub(crate) fn new(master: &MasterArgs) -> Result<Self, Failure> {
        Ok(Self { control: master.control()?, url: master.master.clone(), own: None })
    }

    /// An operator of the process that uses a data directory.
    pub(crate) fn local(data: &Path) -> Self {
        Self { control: local_control(data), url: data.display().to_string(), own: None }
    }

    /// What the master answers.
    ///
    /// # Errors
    /// With why it does not.
    pub(crate) async fn ask<T>(
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
    pub(crate) fn failure(&self, status: &Status) -> Failure {
        let url = &self.url;
        let text = Untrusted::new(status.message()).to_string();
        match status.code() {
            Code::InvalidArgument | Code::NotFound | Code::AlreadyExists => Failure::usage(text),
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

/// A duration as people want it: not more exact than it is worth.
fn about(millis: u64) -> String {
    let unit = match millis {
        0..1_000 => 1,
        1_000..3_600_000 => 1_000,
        _ => 60_000,
    };
    exactly(millis / unit * unit)
}

/// A duration with its units.
fn exactly(millis: u64) -> String {
    Span::millis(millis).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_as_exact_as_people_want_them() {
        let told = [308, 9_999, 90_061, 7_261_001].map(about);
        assert_eq!(told, ["308ms", "9s", "1m 30s", "2h 1m"]);
    }
}
