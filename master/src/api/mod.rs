//! The gRPC services: messages in, one question to the owner of the crawls,
//! messages out. What arrives is checked here, once.

mod control;
mod host;
mod pages;
mod source;
mod walk;
mod why;
mod worker;

pub use self::{
    control::ControlApi,
    pages::{ExportStream, Exports, PageStream, page, place},
    worker::{WorkerApi, deliveries},
};

use std::time::Duration;

use tonic::Status;

use crate::{
    crawl::{AskError, NoCrawl, NotSubmitted},
    workers::Unheard,
};

impl From<AskError> for Status {
    fn from(error: AskError) -> Self {
        let text = error.to_string();
        match error {
            AskError::Stopped => Self::unavailable(text),
            AskError::Unheard(Unheard::JoinAgain) => Self::aborted(text),
            AskError::Unheard(Unheard::Replaced) => Self::already_exists(text),
            AskError::Unheard(Unheard::NoRoom) => Self::unavailable(text),
            AskError::Unheard(Unheard::TooMany) => Self::resource_exhausted(text),
        }
    }
}

impl From<NoCrawl> for Status {
    fn from(none: NoCrawl) -> Self {
        let text = none.to_string();
        match none {
            NoCrawl::Unknown { .. } => Self::not_found(text),
            NoCrawl::Several { .. } => Self::invalid_argument(text),
        }
    }
}

impl From<NotSubmitted> for Status {
    fn from(error: NotSubmitted) -> Self {
        let text = error.to_string();
        match error {
            NotSubmitted::Spec(_) => Self::invalid_argument(text),
            NotSubmitted::Taken(_) => Self::already_exists(text),
        }
    }
}

/// A duration as it travels.
fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
