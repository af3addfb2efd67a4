//! The gRPC services: messages in, one question to the owner of the crawls,
//! messages out. What arrives is checked here, once.

mod control;
mod pages;
mod worker;

pub use self::{
    control::ControlApi,
    pages::{ExportStream, Exports, PageStream, page, place},
    worker::WorkerApi,
};

use tonic::Status;

use crate::crawl::Stopped;

impl From<Stopped> for Status {
    fn from(stopped: Stopped) -> Self {
        Self::unavailable(stopped.to_string())
    }
}
