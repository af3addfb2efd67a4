//! Where stored pages are read: in a data directory; or, if that is in use, at whoever
//! uses it; or at a running master.

#![allow(
    rustdoc::bare_urls,
    reason = "these comments are the help text, which shows them as they are"
)]

use std::{
    env, io,
    path::{Path, PathBuf},
};

use clap::Args;
use tonic::Status;
use trawl_master::{archive::Archive, data_dir::DataDirError, server::StartError, socket};

use crate::{
    connect::{Credentials, MasterArgs},
    exit::{Exit, Failure},
    operate::Operator,
};

/// Names the master to ask, unless the command line says where to read.
pub(crate) const MASTER_VARIABLE: &str = "TRAWL_MASTER";

#[derive(Args, Debug)]
pub(crate) struct SourceArgs {
    /// The crawl, if there are several
    #[arg(long, value_name = "NAME")]
    pub(crate) crawl: Option<String>,

    #[command(flatten)]
    place: PlaceArgs,
}

/// A data directory, or a master.
#[derive(Args, Debug)]
pub(crate) struct PlaceArgs {
    /// The data directory of the crawl; if it is in use, whoever uses it is asked
    /// [default: trawl-data]
    #[arg(long, value_name = "DIR", conflicts_with = "master")]
    data: Option<PathBuf>,

    /// The running master that has the crawl, such as `https://master.example:7070`
    /// [env: TRAWL_MASTER, unless --data is given]
    #[arg(long, value_name = "URL", help_heading = "Master")]
    master: Option<String>,

    #[command(flatten)]
    credentials: Credentials,
}

/// Where pages are read.
pub(crate) enum Source {
    /// In a data directory.
    Archive(Archive),
    /// At a master.
    Master(Operator),
}

/// Why what a master sent could not be received.
#[derive(Debug)]
pub(crate) enum Unreceived {
    /// The master, or the way to it, broke off.
    Broken(Status),
    /// It ended early, or is otherwise not what it says.
    NotWhole(&'static str),
    /// It could not be written down.
    Unwritten(io::Error),
}

impl SourceArgs {
    /// What is to be read from.
    ///
    /// # Errors
    /// If the data directory cannot be read.
    pub(crate) async fn open(&self) -> Result<Source, Failure> {
        self.place.open().await
    }
}

impl PlaceArgs {
    /// What is to be read from.
    ///
    /// # Errors
    /// If the data directory cannot be read.
    pub(crate) async fn open(&self) -> Result<Source, Failure> {
        let (typed, data) = (self.master.as_ref(), self.data.as_ref());
        if let Some(master) = master(typed, data, env::var(MASTER_VARIABLE)) {
            let credentials = self.credentials.clone();
            return Ok(Source::Master(Operator::new(&MasterArgs { master, credentials })?));
        }
        let data = self.data.clone().unwrap_or_else(|| "trawl-data".into());
        open(&data).await
    }
}

/// The master that is meant, if one is. What is typed wins over the environment.
pub(crate) fn master(
    typed: Option<&String>,
    data: Option<&PathBuf>,
    variable: Result<String, env::VarError>,
) -> Option<String> {
    match (typed, data) {
        (Some(master), _) => Some(master.clone()),
        (None, Some(_)) => None,
        (None, None) => variable.ok().filter(|url| !url.is_empty()),
    }
}

/// A data directory, or whoever uses it.
///
/// # Errors
/// If it cannot be read, or is in use by a process that does not answer.
pub(crate) async fn open(data: &Path) -> Result<Source, Failure> {
    match Archive::open(data) {
        Ok(archive) => Ok(Source::Archive(archive)),
        Err(StartError::DataDir(in_use @ DataDirError::InUse { .. })) => {
            local(data, in_use).await.map(Source::Master)
        }
        Err(error) => Err(error.into()),
    }
}

/// Whoever uses a data directory.
///
/// # Errors
/// With `in_use`, if it does not answer, such as an export or a master that is starting.
pub(crate) async fn local(data: &Path, in_use: DataDirError) -> Result<Operator, Failure> {
    let listens = socket::connect(data).await;
    listens.map_err(|_| Failure::from(StartError::DataDir(in_use)))?;
    Ok(Operator::local(data))
}

impl Unreceived {
    /// As the end of the program.
    pub(crate) fn failure(self, master: &Operator) -> Failure {
        match self {
            Self::Broken(status) => master.failure(&status),
            Self::NotWhole(how) => {
                Failure::new(Exit::Failed, format!("what the master sent is not whole: {how}"))
            }
            Self::Unwritten(error) => error.into(),
        }
    }
}

impl From<Status> for Unreceived {
    fn from(status: Status) -> Self {
        Self::Broken(status)
    }
}

impl From<io::Error> for Unreceived {
    fn from(error: io::Error) -> Self {
        Self::Unwritten(error)
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        source: SourceArgs,
    }

    fn master(words: &[&str], variable: Option<&str>) -> Option<String> {
        let line = Line::try_parse_from([&["trawl"], words].concat()).unwrap();
        let PlaceArgs { data, master, .. } = line.source.place;
        let variable = variable.map(str::to_owned).ok_or(env::VarError::NotPresent);
        super::master(master.as_ref(), data.as_ref(), variable)
    }

    #[test]
    fn what_is_typed_wins_over_the_environment() {
        let given = Some("http://given:1");
        assert_eq!(master(&[], None), None);
        assert_eq!(master(&[], Some("")), None);
        assert_eq!(master(&[], given).as_deref(), given);
        assert_eq!(master(&["--data", "d"], given), None);
        assert_eq!(master(&["--master", "http://typed:1"], given).unwrap(), "http://typed:1");
    }
}
