//! Whom operators ask: a master by its URL, or whoever uses a data directory. If nobody
//! does, a master is started there for as long as the question takes.

#![allow(
    rustdoc::bare_urls,
    reason = "these comments are the help text, which shows them as they are"
)]

use std::{
    env,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Args;
use trawl_master::{
    data_dir::DataDirError,
    server::{Master, MasterConfig, StartError},
};

use super::Operator;
use crate::{
    connect::{self, Credentials, MASTER_URL, MasterArgs},
    exit::{Exit, Failure},
    source,
};

/// How long leases last that a master of our own finds.
const LEASE: Duration = Duration::from_secs(24 * 60 * 60);

#[derive(Args, Debug)]
pub(crate) struct WhomArgs {
    /// Ask about the crawls of this data directory: whoever uses it; or, if nobody does, what
    /// lies there
    #[arg(long, value_name = "DIR", conflicts_with = "master")]
    data: Option<PathBuf>,

    /// The master, such as https://master.example:7070 [env: TRAWL_MASTER, unless --data is
    /// given] [default: http://127.0.0.1:7070]
    #[arg(long, value_name = "URL", help_heading = "Master")]
    master: Option<String>,

    #[command(flatten)]
    credentials: Credentials,
}

impl WhomArgs {
    /// The one to ask. A master need not be there yet.
    ///
    /// # Errors
    /// If the URL, a file of credentials or the data directory cannot be used.
    pub(super) async fn operator(&self) -> Result<Operator, Failure> {
        if let Some(data) = &self.data {
            return of_data(data).await;
        }
        let named = source::master(self.master.as_ref(), None, env::var(source::MASTER_VARIABLE));
        let master = named.unwrap_or_else(|| MASTER_URL.to_owned());
        Operator::new(&MasterArgs { master, credentials: self.credentials.clone() })
    }
}

/// Whoever uses a data directory, or a master of our own.
async fn of_data(data: &Path) -> Result<Operator, Failure> {
    let mut config = MasterConfig::new(data.to_owned());
    // What is lent stays so, however long the question takes: it is not ours to take back.
    config.limits.lease = LEASE;
    match Master::start_existing(config) {
        Ok(mut master) => {
            // It listens to nobody else, since it will be gone in a moment.
            drop(master.serve_local());
            let control = connect::control(connect::in_process(master.control_service()));
            Ok(Operator { control, url: data.display().to_string(), own: Some(Box::new(master)) })
        }
        Err(StartError::DataDir(in_use @ DataDirError::InUse { .. })) => {
            source::local(data, in_use).await
        }
        Err(error) => Err(error.into()),
    }
}

impl Operator {
    /// Ends a master that was there for the question.
    ///
    /// # Errors
    /// If it failed.
    pub(super) async fn close(self) -> Result<(), Failure> {
        match self.own {
            Some(master) => Ok(master.stop().await?),
            None => Ok(()),
        }
    }

    /// Refuses an option that would never come to an end.
    ///
    /// # Errors
    /// If nobody works for the one that is asked.
    pub(super) fn refuse_alone(&self, option: &str) -> Result<(), Failure> {
        if self.own.is_none() {
            return Ok(());
        }
        let message = format!("{option}: nobody uses {}, so that nothing changes there", self.url);
        Err(Failure::new(Exit::Usage, message))
    }
}
