//! Exit codes, and the errors that lead to them. `docs/operations.md` lists them.

use std::{fmt, process::ExitCode};

use trawl_master::{crawl::CrawlError, listen::ListenError, server::StartError};
use trawl_shared::{security::SecurityError, shutdown::EXIT_INTERRUPTED};

/// How the program ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// All went well.
    Done = 0,
    /// Something failed that none of the others tells, or the answer is no.
    Failed = 1,
    /// The command line or a settings file is wrong.
    Usage = 2,
    /// The crawl ended, and no page could be fetched.
    NothingFetched = 3,
    /// The data directory cannot be used.
    DataDir = 4,
    /// The disk is full.
    DiskFull = 5,
    /// The master is away, or does not let us in.
    Master = 6,
    /// A check has found something wrong.
    Wrong = 7,
    /// Stopped by a signal.
    Interrupted = EXIT_INTERRUPTED as isize,
}

/// An error with the exit code that it leads to.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) exit: Exit,
    pub(crate) message: String,
}

impl Failure {
    pub(crate) fn new(exit: Exit, message: impl fmt::Display) -> Self {
        Self { exit, message: message.to_string() }
    }

    /// With the error's causes, unless it tells them itself.
    pub(crate) fn caused(exit: Exit, error: &dyn std::error::Error) -> Self {
        let mut message = error.to_string();
        let mut cause = error.source();
        while let Some(error) = cause {
            let text = error.to_string();
            if !message.contains(&text) {
                message = format!("{message}: {text}");
            }
            cause = error.source();
        }
        Self { exit, message }
    }

    /// With something more to say.
    pub(crate) fn with(self, more: &str) -> Self {
        Self { message: format!("{}; {more}", self.message), ..self }
    }

    pub(crate) fn usage(message: impl fmt::Display) -> Self {
        Self::new(Exit::Usage, message)
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

impl From<StartError> for Failure {
    fn from(error: StartError) -> Self {
        let exit = match &error {
            error if error.is_disk_full() => Exit::DiskFull,
            StartError::Thread(_) => Exit::Failed,
            StartError::DataDir(_) | StartError::Frontier(_) => Exit::DataDir,
        };
        Self::new(exit, error)
    }
}

impl From<CrawlError> for Failure {
    fn from(error: CrawlError) -> Self {
        match error {
            CrawlError::Pages(error) if error.is_disk_full() => Self::new(
                Exit::DiskFull,
                format!("{error}: {}", trawl_master::store::StoreError::DiskFull),
            ),
            error if error.is_disk_full() => Self::new(Exit::DiskFull, error),
            CrawlError::Died => Self::new(Exit::Failed, error),
            error => Self::caused(Exit::DataDir, &error),
        }
    }
}

impl From<SecurityError> for Failure {
    fn from(error: SecurityError) -> Self {
        Self::usage(error)
    }
}

impl From<ListenError> for Failure {
    fn from(error: ListenError) -> Self {
        let exit = match error {
            ListenError::Unprotected(_) | ListenError::Certificate(_) => Exit::Usage,
            ListenError::Address(..) | ListenError::Server(_) => Exit::Failed,
        };
        Self::new(exit, error)
    }
}
