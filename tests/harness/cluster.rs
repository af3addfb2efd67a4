//! A master and workers in processes of their own, and the commands that ask them.

use std::ffi::OsStr;

use crate::{Command, Duration, Ended, Running, Trawl, secs};

/// A master that runs; killed when dropped.
#[derive(Debug)]
pub struct Master {
    /// Where it listens.
    pub url: String,
    /// The process.
    pub running: Running,
}

impl Trawl {
    /// `trawl master --data DIR --listen 127.0.0.1:0`.
    pub fn master(&self) -> Command {
        self.command::<&str>("master", []).set("--listen", "127.0.0.1:0")
    }

    /// `trawl worker --master URL`.
    pub fn worker(&self, master: &str) -> Command {
        self.ask::<&str>("worker", [], master)
    }

    /// `trawl VERB ARGS --master URL`: a command without a data directory.
    pub fn ask<S: AsRef<OsStr>>(
        &self,
        verb: &str,
        args: impl IntoIterator<Item = S>,
        master: &str,
    ) -> Command {
        self.command(verb, args).unset("--data").set("--master", master)
    }

    /// `trawl submit SEEDS --master URL`, with the options of [`Trawl::crawl`].
    pub fn submit<S: AsRef<OsStr>>(
        &self,
        seeds: impl IntoIterator<Item = S>,
        master: &str,
    ) -> Command {
        self.crawl(seeds).verb("submit").unset("--data").set("--master", master)
    }
}

impl Command {
    /// Starts a master, and waits until it listens.
    ///
    /// # Panics
    /// If it does not.
    pub async fn serve(&self) -> Master {
        let running = self.start();
        let line = running.says_line("listening on ", secs(60)).await;
        let url = line.split(['\u{20}', ',']).nth(2).unwrap_or_default();
        Master { url: url.to_owned(), running }
    }
}

impl Master {
    /// SIGTERM, and its end.
    pub async fn stop(self) -> Ended {
        self.running.terminate();
        self.running.done().await
    }
}

/// Asks again until the answer will do.
///
/// # Panics
/// If that takes longer than the limit; with the last answer.
pub async fn until(command: &Command, limit: Duration, will_do: impl Fn(&Ended) -> bool) -> Ended {
    let late = tokio::time::Instant::now() + limit;
    loop {
        let answer = command.done().await;
        if will_do(&answer) {
            return answer;
        }
        assert!(tokio::time::Instant::now() < late, "not within {limit:?}: {answer}");
        tokio::time::sleep(crate::ms(100)).await;
    }
}
