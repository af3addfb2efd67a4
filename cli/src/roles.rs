//! The two roles of a cluster: a master, and the workers that work for it.

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use clap::Args;
use tokio::{
    runtime::{Builder, Runtime},
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use trawl_master::{
    listen::{ListenConfig, Listener},
    server::{Master, MasterConfig},
};
use trawl_shared::{
    security::{Certificates, Identity, Secret},
    shutdown,
    units::{Size, Span},
};
use trawl_worker::{
    config::WorkerConfig, fetch::HttpFetcher, master::Master as MasterClient, pipeline,
};

use crate::{
    connect,
    crawl::master_ended,
    exit::{Exit, Failure},
    operate::Operator,
    options::{check_lanes, check_range},
    render,
};

/// How long a health check may take.
const HEALTH_TIMEOUT: Duration = Duration::from_secs(5);

/// Characters of a worker's name at most; what a default name has of its host's.
const NAME_CHARS_MAX: usize = 128;
const HOSTNAME_CHARS_MAX: usize = 100;

#[derive(Args, Debug)]
pub(crate) struct MasterArgs {
    /// Where to keep the crawls: their frontiers and their pages
    #[arg(long, value_name = "DIR", env = "TRAWL_DATA", default_value = "trawl-data")]
    data: PathBuf,

    /// Address and port to listen on; port 0 takes a free one. An address that other
    /// machines can reach needs a token
    #[arg(
        long,
        value_name = "ADDRESS:PORT",
        env = "TRAWL_LISTEN",
        default_value = "127.0.0.1:7070"
    )]
    listen: SocketAddr,

    /// File with the token that workers and operators have to show
    #[arg(long, value_name = "FILE", env = "TRAWL_TOKEN_FILE", help_heading = "Security")]
    token_file: Option<PathBuf>,

    /// Certificate to show; with it, TLS is all that is spoken
    #[arg(
        long,
        value_name = "FILE",
        env = "TRAWL_TLS_CERT",
        requires = "tls_key",
        help_heading = "Security"
    )]
    tls_cert: Option<PathBuf>,

    /// The certificate's private key
    #[arg(
        long,
        value_name = "FILE",
        env = "TRAWL_TLS_KEY",
        requires = "tls_cert",
        help_heading = "Security"
    )]
    tls_key: Option<PathBuf>,

    /// Authorities, one of which must have signed the certificate that a worker or
    /// operator shows [default: none has to be shown]
    #[arg(
        long,
        value_name = "FILE",
        env = "TRAWL_CLIENT_CA",
        requires = "tls_cert",
        help_heading = "Security"
    )]
    client_ca: Option<PathBuf>,

    /// How long a worker may be silent before what it holds is lent to others
    #[arg(long, value_name = "DURATION", default_value = "30s", help_heading = "Limits")]
    lease: Span,

    /// Memory for the frontier's store
    #[arg(long, value_name = "SIZE", default_value = "32MiB", help_heading = "Limits")]
    cache: Size,

    /// Bytes of a WARC file after which the next one is begun
    #[arg(long, value_name = "SIZE", default_value = "1GiB", help_heading = "Limits")]
    segment: Size,

    /// Free space on the disk below which nothing more is lent until there is room again;
    /// below a quarter of it reports wait as well; 0 for none [default: 1GiB, or a
    /// twentieth of a disk that has less than 20 GiB]
    #[arg(long, value_name = "SIZE", help_heading = "Limits")]
    disk_reserve: Option<Size>,
}

#[derive(Args, Debug)]
pub(crate) struct WorkerArgs {
    #[command(flatten)]
    master: connect::MasterArgs,

    /// The worker's name, which no other worker of the master has [default: the
    /// host's name and six random characters]
    #[arg(long)]
    name: Option<String>,

    /// Hosts to fetch from at the same time; each host has one connection
    #[arg(long, value_name = "HOSTS", default_value_t = 32, help_heading = "Limits")]
    lanes: usize,

    /// Bytes of pages that may wait for the master; when there are more, fetching waits
    #[arg(long, value_name = "SIZE", default_value = "64MiB", help_heading = "Limits")]
    outbox: Size,
}

#[derive(Args, Debug)]
pub(crate) struct HealthArgs {
    #[command(flatten)]
    master: connect::MasterArgs,
}

impl MasterArgs {
    fn resolve(self) -> Result<(MasterConfig, ListenConfig), Failure> {
        check_range("lease", self.lease, Span::secs(1), Span::secs(3_600))?;
        check_range("cache", self.cache, Size::mib(1), Size::mib(1024 * 1024))?;
        check_range("segment", self.segment, Size::mib(1), Size::mib(1024 * 1024))?;
        let mut config = MasterConfig::new(self.data);
        config.cache = self.cache;
        config.segment = self.segment;
        config.disk_reserve = self.disk_reserve;
        config.limits.lease = self.lease.duration();
        let identity = self.tls_cert.as_deref().zip(self.tls_key.as_deref());
        let listen = ListenConfig {
            address: self.listen,
            secret: self.token_file.as_deref().map(Secret::read).transpose()?,
            identity: identity.map(|(cert, key)| Identity::read(cert, key)).transpose()?,
            client_authorities: self.client_ca.as_deref().map(Certificates::read).transpose()?,
        };
        Ok((config, listen))
    }
}

/// Runs a master until a signal.
pub(crate) fn master(args: MasterArgs) -> Result<Exit, Failure> {
    let (config, listen) = args.resolve()?;
    runtime()?.block_on(serve(config, listen))
}

async fn serve(config: MasterConfig, listen: ListenConfig) -> Result<Exit, Failure> {
    let signal = shutdown::on_signal()?;
    // The port first: if it is taken, the data directory is left alone.
    let listener = Listener::bind(listen)?;
    let (url, data) = (listener.url(), config.data.clone());
    let mut master = Master::start(config)?;
    let close = CancellationToken::new();
    let mut serving = tokio::spawn(master.serve(listener, close.clone())?);
    let local = master.serve_local().map(tokio::spawn);
    tracing::info!(%url, data = %data.display(), "listening");
    render::say(&format!("listening on {url}, data in {}", data.display()));

    let ended = tokio::select! {
        () = signal.cancelled() => Ok(Exit::Done),
        ended = master.ended() => Err(master_ended(ended.map_err(Failure::from))),
        ended = &mut serving => Err(match ended {
            Ok(Err(error)) => error.into(),
            _ => Failure::new(Exit::Failed, "the server ended by itself"),
        }),
    };
    close.cancel();
    // If a store failed, that is the reason for whatever else went wrong.
    let stopped = master.stop().await;
    if !serving.is_finished() {
        // It waits for calls under way, but not for long.
        let _ = serving.await;
    }
    if let Some(local) = local {
        // As above; its end is nobody's concern.
        let _ = local.await;
    }
    stopped?;
    ended
}

impl WorkerArgs {
    fn resolve(&self) -> Result<WorkerConfig, Failure> {
        let name = self.name.clone().unwrap_or_else(default_name);
        let is_name = (1..=NAME_CHARS_MAX).contains(&name.len())
            && name.bytes().all(|byte| byte.is_ascii_graphic());
        if !is_name {
            return Err(Failure::usage(format!(
                "--name: a worker's name has 1 to {NAME_CHARS_MAX} ASCII letters, digits and \
                 punctuation"
            )));
        }
        check_lanes(self.lanes)?;
        check_range("outbox", self.outbox, Size::mib(1), Size::mib(1024 * 1024))?;
        let mut config = WorkerConfig::new(name);
        config.lanes = self.lanes;
        config.outbox = self.outbox;
        Ok(config)
    }
}

/// Works for a master until a signal, or until the master refuses.
pub(crate) fn worker(args: WorkerArgs) -> Result<Exit, Failure> {
    let config = args.resolve()?;
    runtime()?.block_on(work(args.master, config))
}

async fn work(master: connect::MasterArgs, config: WorkerConfig) -> Result<Exit, Failure> {
    let signal = shutdown::on_signal()?;
    let client = MasterClient::new(master.channel()?, &config.name, config.lanes);
    render::say(&format!("worker {} works for {}", config.name, master.master));
    pipeline::run(client, config, Arc::new(HttpFetcher::new), signal)
        .await
        .map_err(|error| Failure::new(Exit::Master, format!("{}: {error}", master.master)))?;
    Ok(Exit::Done)
}

/// Asks a master whether it serves.
pub(crate) fn health(args: &HealthArgs) -> Result<Exit, Failure> {
    runtime()?.block_on(async {
        let operator = Operator::new(&args.master)?;
        let mut client = HealthClient::new(args.master.channel()?);
        let answer = timeout(HEALTH_TIMEOUT, client.check(HealthCheckRequest::default())).await;
        let answer = answer.unwrap_or_else(|_| {
            Err(Status::unavailable(format!("nothing came within {HEALTH_TIMEOUT:?}")))
        });
        let health = answer.map_err(|status| operator.failure(&status))?.into_inner();
        if health.status() == ServingStatus::Serving {
            return Ok(Exit::Done);
        }
        let message = format!("the master at {} does not serve", args.master.master);
        Err(Failure::new(Exit::Failed, message))
    })
}

/// The host's name, and something that tells several workers of a host apart.
fn default_name() -> String {
    let uname = rustix::system::uname();
    let host = uname.nodename().to_string_lossy();
    let host: String =
        host.chars().filter(char::is_ascii_graphic).take(HOSTNAME_CHARS_MAX).collect();
    format!("{host}-{:06x}", fastrand::u32(..1 << 24))
}

/// What everything asynchronous runs on.
pub(crate) fn runtime() -> Result<Runtime, Failure> {
    Ok(Builder::new_multi_thread().enable_all().build()?)
}
