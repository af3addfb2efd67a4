//! Builds the master's parts and runs them. The only file of the master that
//! starts anything.

use std::{
    io,
    path::{Path, PathBuf},
    thread,
};

use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use trawl_proto::MESSAGE_BYTES_MAX;
use trawl_proto::v1::{control_server::ControlServer, worker_server::WorkerServer};
use trawl_shared::units::Size;

use crate::{
    api::{ControlApi, Exports, WorkerApi},
    crawl::{CrawlError, Crawls, DiskWatch, Mailbox, Owner, PageSettings, Space},
    data_dir::{DataDir, DataDirError},
    frontier::{Frontier, FrontierError, Limits},
    listen::{ListenError, Listener},
    socket::Socket,
    store::{StoreError, sled::SledStore},
};

/// The master's settings.
#[derive(Clone, Debug)]
pub struct MasterConfig {
    /// The data directory.
    pub data: PathBuf,
    /// Bytes of the store's page cache.
    pub cache: Size,
    /// Bytes after which a segment of pages is full.
    pub segment: Size,
    /// Bytes that all reports on their way may take in memory.
    pub report_room: Size,
    /// Bytes of the disk that are to stay free; none for a share of it.
    pub disk_reserve: Option<Size>,
    /// The frontier's limits.
    pub limits: Limits,
}

impl MasterConfig {
    /// The defaults, in a data directory.
    pub fn new(data: PathBuf) -> Self {
        Self {
            data,
            cache: Size::mib(32),
            segment: Size::mib(1024),
            report_room: Size::mib(256),
            disk_reserve: None,
            limits: Limits::default(),
        }
    }
}

/// Why a master could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The data directory cannot be used.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// The frontier cannot be opened.
    #[error(transparent)]
    Frontier(#[from] FrontierError),
    /// The system gives no thread.
    #[error("cannot start the master's thread: {0}")]
    Thread(#[source] std::io::Error),
}

impl StartError {
    /// Whether the disk is full.
    pub fn is_disk_full(&self) -> bool {
        match self {
            Self::DataDir(error) => error.is_disk_full(),
            Self::Frontier(FrontierError::Store(StoreError::DiskFull)) => true,
            Self::Frontier(_) | Self::Thread(_) => false,
        }
    }
}

/// A running master.
#[derive(Debug)]
pub struct Master {
    crawls: Crawls,
    report_room: Size,
    exports: Exports,
    /// None if it could not be made, and once it is served.
    socket: Option<Socket>,
    stop: CancellationToken,
    /// None once the end has been told.
    ended: Option<oneshot::Receiver<Result<(), CrawlError>>>,
}

impl Master {
    /// Opens the data directory and starts the owner of the crawls on a thread of
    /// its own, since its store blocks. To be called on a runtime.
    ///
    /// # Errors
    /// If the data directory cannot be used.
    pub fn start(config: MasterConfig) -> Result<Self, StartError> {
        let data = DataDir::open_or_create(&config.data)?;
        Self::start_on(data, config)
    }

    /// The same where there is a data directory: none is made.
    ///
    /// # Errors
    /// If the data directory cannot be used.
    pub fn start_existing(config: MasterConfig) -> Result<Self, StartError> {
        let data = DataDir::open_with_frontier(&config.data)?;
        Self::start_on(data, config)
    }

    fn start_on(data: DataDir, config: MasterConfig) -> Result<Self, StartError> {
        data.check_frontier()?;
        let store = SledStore::open(&data.frontier(), config.cache).map_err(FrontierError::from)?;
        let lease = config.limits.lease;
        let (frontier, now) = Frontier::open(store, config.limits, &new_instance())?;
        let socket = local_socket(&data);
        let pages = PageSettings { directory: data.path().join("pages"), segment: config.segment };
        let (crawls, mailbox) = Crawls::mailbox(lease);
        let stop = CancellationToken::new();
        let (tell, ended) = oneshot::channel();
        let owner_stop = stop.clone();
        let exports = Exports::new(data.tmp(), stop.clone());
        let watched = data.path().to_owned();
        let look = move || space(&watched);
        let disk = DiskWatch::new(Box::new(look), config.disk_reserve);
        let owner = Owner::new(frontier, now, pages).watching(disk);
        let run = move || {
            let result = own(owner, mailbox, owner_stop);
            drop(data);
            // Nobody waits for the end of a master that was dropped.
            let _ = tell.send(result);
        };
        thread::Builder::new().name("crawls".into()).spawn(run).map_err(StartError::Thread)?;
        let report_room = config.report_room;
        Ok(Self { crawls, report_room, exports, socket, stop, ended: Some(ended) })
    }

    /// The service for workers; over TCP, or called in process.
    pub fn worker_service(&self) -> WorkerServer<WorkerApi> {
        WorkerServer::new(WorkerApi::new(self.crawls.clone(), self.report_room))
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX)
    }

    /// The service for operators.
    pub fn control_service(&self) -> ControlServer<ControlApi> {
        ControlServer::new(ControlApi::new(self.crawls.clone(), self.exports.clone()))
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX)
    }

    /// Listens for workers and operators. The future that comes of it serves them
    /// until `stop` is cancelled, and then lets calls under way go on for a moment.
    ///
    /// # Errors
    /// If the system does not let it listen.
    pub fn serve(
        &self,
        listener: Listener,
        stop: CancellationToken,
    ) -> Result<impl Future<Output = Result<(), ListenError>> + Send + use<>, ListenError> {
        listener.serve(self.worker_service(), self.control_service(), stop)
    }

    /// Listens on the data directory's socket. The future that comes of it, if there
    /// is such a socket, serves operators until the master stops.
    pub fn serve_local(
        &mut self,
    ) -> Option<impl Future<Output = Result<(), ListenError>> + Send + use<>> {
        let socket = self.socket.take()?;
        Some(socket.serve(self.control_service(), self.stop.clone()))
    }

    /// Returns when the master has ended, with the reason, which is told once.
    ///
    /// # Errors
    /// If a store failed.
    pub async fn ended(&mut self) -> Result<(), CrawlError> {
        let Some(ended) = &mut self.ended else { return Ok(()) };
        let reason = ended.await.unwrap_or(Err(CrawlError::Died));
        self.ended = None;
        reason
    }

    /// Stops the master; returns when its last commit is durable and the data
    /// directory is free.
    ///
    /// # Errors
    /// If a store failed.
    pub async fn stop(mut self) -> Result<(), CrawlError> {
        self.stop.cancel();
        self.ended().await
    }
}

impl Drop for Master {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// The data directory's own socket. A master does without it where there can be none.
fn local_socket(data: &DataDir) -> Option<Socket> {
    Socket::bind(data.path())
        .inspect_err(|error| {
            let data = data.path().display();
            tracing::warn!(%error, %data, "no socket in the data directory: commands with --data cannot ask");
        })
        .ok()
}

/// Runs the owner on this thread until it is stopped.
fn own(
    owner: Owner<SledStore>,
    mailbox: Mailbox,
    stop: CancellationToken,
) -> Result<(), CrawlError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    let runtime =
        runtime.map_err(|error| FrontierError::Store(StoreError::Engine(error.to_string())))?;
    runtime.block_on(owner.run(mailbox, stop))
}

/// The room on the disk that a path is on.
fn space(path: &Path) -> io::Result<Space> {
    let disk = rustix::fs::statvfs(path)?;
    let bytes = |blocks: u64| blocks.saturating_mul(disk.f_frsize);
    Ok(Space { free: bytes(disk.f_bavail), size: bytes(disk.f_blocks) })
}

/// A name for a new data directory that no other has.
pub(crate) fn new_instance() -> String {
    format!("{:032x}", fastrand::u128(..))
}
