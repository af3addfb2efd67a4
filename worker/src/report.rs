//! The outbox: what the master has not acknowledged, bounded in bytes, sent in
//! batches, and kept until there is a verdict.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    time::sleep,
};
use tokio_util::sync::CancellationToken;
use trawl_proto::v1::{HostNews, UrlReport, Verdict, robots_news::Found, url_report};
use trawl_shared::{backoff, lease::Token, url::UrlId};

use crate::{
    config::WorkerConfig,
    master::{Life, Master, MasterError},
};

/// The first wait when the master is away, and the longest.
const RETRY_WAITS: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// The longest between two tries of a worker that has been told to stop.
const LAST_RETRY_WAIT: Duration = Duration::from_millis(250);

/// Reports in the outbox at most, beside the limit in bytes.
const REPORTS_MAX: usize = 1_024;

/// A report on its way, and the URLs that the master knows once it has it.
#[derive(Debug)]
pub(crate) struct Outgoing {
    pub(crate) report: UrlReport,
    pub(crate) offered: Vec<UrlId>,
    /// Whose lease it belongs to.
    pub(crate) life: Life,
    /// Its share of the outbox.
    pub(crate) room: Option<OwnedSemaphorePermit>,
}

/// Where lanes put their reports.
#[derive(Clone, Debug)]
pub(crate) struct Outbox {
    reports: mpsc::Sender<Outgoing>,
    room: Arc<Semaphore>,
    room_bytes: u32,
}

/// Where they come out.
#[derive(Debug)]
pub(crate) struct Outlet {
    reports: mpsc::Receiver<Outgoing>,
    batch_urls: usize,
    batch_bytes: usize,
}

/// An outbox with the limits of the settings.
pub(crate) fn outbox(config: &WorkerConfig) -> (Outbox, Outlet) {
    let (sender, receiver) = mpsc::channel(REPORTS_MAX);
    let room_bytes = u32::try_from(config.outbox.as_bytes()).unwrap_or(u32::MAX);
    let room = Arc::new(Semaphore::new(room_bytes as usize));
    let outlet = Outlet {
        reports: receiver,
        batch_urls: config.report_urls,
        batch_bytes: config.report_bytes.as_usize(),
    };
    (Outbox { reports: sender, room, room_bytes }, outlet)
}

impl Outbox {
    /// Bytes that wait for the master.
    pub(crate) fn bytes(&self) -> u64 {
        u64::from(self.room_bytes) - self.room.available_permits() as u64
    }

    /// Puts a report in, as soon as there is room. One that is larger than the
    /// whole outbox waits until it is empty.
    pub(crate) async fn put(&self, mut outgoing: Outgoing) {
        let bytes = u32::try_from(outgoing.bytes()).unwrap_or(u32::MAX);
        let bytes = bytes.min(self.room_bytes);
        // Neither is ever closed while a lane runs.
        outgoing.room = Arc::clone(&self.room).acquire_many_owned(bytes).await.ok();
        let _ = self.reports.send(outgoing).await;
    }
}

impl Outlet {
    /// Sends what the lanes put in, until `drain` is cancelled and all is sent.
    /// `told` hears of every verdict. Ends with the error if the master has taken
    /// another worker in this one's place.
    pub(crate) async fn run(
        &mut self,
        master: &Master,
        drain: &CancellationToken,
        told: impl Fn(&Outgoing, Verdict),
    ) -> Result<(), MasterError> {
        while let Some(batch) = self.next_batch(drain).await {
            let verdicts = send(master, &batch, drain).await?;
            for (outgoing, verdict) in batch.iter().zip(verdicts) {
                told(outgoing, verdict);
            }
        }
        Ok(())
    }

    /// What is there, up to the limits; waits for the first.
    async fn next_batch(&mut self, drain: &CancellationToken) -> Option<Vec<Outgoing>> {
        let first = tokio::select! {
            biased;
            first = self.reports.recv() => first?,
            () = drain.cancelled() => return None,
        };
        let mut bytes = first.bytes();
        let mut batch = vec![first];
        while batch.len() < self.batch_urls && bytes < self.batch_bytes {
            let Ok(next) = self.reports.try_recv() else { break };
            bytes += next.bytes();
            batch.push(next);
        }
        Some(batch)
    }
}

/// Sends a batch until the master has answered. If it will never take the batch, its
/// reports are sent one by one, since only one of them need be to blame.
async fn send(
    master: &Master,
    batch: &[Outgoing],
    drain: &CancellationToken,
) -> Result<Vec<Verdict>, MasterError> {
    match deliver(master, batch, drain).await {
        Err(MasterError::Invalid(_) | MasterError::Odd(_)) => {}
        answer => return answer,
    }
    let mut verdicts = Vec::with_capacity(batch.len());
    for outgoing in batch {
        match deliver(master, std::slice::from_ref(outgoing), drain).await {
            Ok(verdict) => verdicts.extend(verdict),
            Err(error @ (MasterError::Invalid(_) | MasterError::Odd(_))) => {
                // Its lease runs out, and others try.
                tracing::error!(%error, "a report was refused");
                verdicts.push(Verdict::Stale);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(verdicts)
}

/// Sends a batch until the master has taken it, or will never take it. What belongs to
/// a master's former data directory goes nowhere.
async fn deliver(
    master: &Master,
    batch: &[Outgoing],
    drain: &CancellationToken,
) -> Result<Vec<Verdict>, MasterError> {
    let mut attempt = 0;
    loop {
        let life = master.life();
        let live = batch.iter().filter(|outgoing| outgoing.life == life);
        let reports: Vec<UrlReport> = live.map(|outgoing| outgoing.report.clone()).collect();
        if reports.is_empty() {
            return Ok(vec![Verdict::Stale; batch.len()]);
        }
        match master.report(reports).await {
            Ok(verdicts) => {
                let mut verdicts = verdicts.into_iter();
                let verdict = |outgoing: &Outgoing| {
                    let told = (outgoing.life == life).then(|| verdicts.next()).flatten();
                    told.unwrap_or(Verdict::Stale)
                };
                return Ok(batch.iter().map(verdict).collect());
            }
            // What has become of the session, or of our credential, may change again.
            Err(
                error @ (MasterError::Away(_) | MasterError::Unknown(_) | MasterError::Refused(_)),
            ) => {
                attempt += 1;
                tracing::warn!(%error, attempt, urls = batch.len(), "will report again");
                let wait = backoff::wait(attempt, RETRY_WAITS.0, RETRY_WAITS.1, fastrand::f64());
                tokio::select! {
                    () = sleep(wait) => {}
                    () = drain.cancelled() => sleep(wait.min(LAST_RETRY_WAIT)).await,
                }
            }
            Err(error) => return Err(error),
        }
    }
}

fn robots_bytes(news: &HostNews) -> usize {
    match news.robots.as_ref().and_then(|robots| robots.found.as_ref()) {
        Some(Found::Text(text)) => text.len(),
        Some(Found::Unavailable(reason)) => reason.len(),
        None => 0,
    }
}

impl Outgoing {
    /// About what it takes, in memory and on the wire.
    fn bytes(&self) -> usize {
        const BESIDE: usize = 256;
        const BESIDE_A_URL: usize = 64;
        let offers = self.report.offers.iter();
        let offers: usize = offers.map(|offer| offer.url.len() + BESIDE_A_URL).sum();
        let robots = self.report.host_news.as_ref().map_or(0, robots_bytes);
        let detail = match &self.report.outcome {
            Some(url_report::Outcome::Failure(failure)) => failure.detail.len(),
            _ => 0,
        };
        self.report.records.len() + offers + robots + detail + BESIDE
    }

    /// The lease that it belongs to.
    pub(crate) fn token(&self) -> Token {
        Token(self.report.token)
    }
}

#[cfg(test)]
mod tests {
    use trawl_proto::v1::{Failure, RobotsNews};

    use super::*;

    #[test]
    fn all_that_may_be_large_counts() {
        let of =
            |report| Outgoing { report, offered: Vec::new(), life: Life::default(), room: None };
        let robots = RobotsNews { found: Some(Found::Text(vec![0; 500_000])) };
        let news = HostNews { robots: Some(robots), ..HostNews::default() };
        let failure = Failure { detail: "x".repeat(2_000), ..Failure::default() };
        let report = UrlReport {
            host_news: Some(news),
            outcome: Some(url_report::Outcome::Failure(failure)),
            ..UrlReport::default()
        };
        assert!(of(report).bytes() >= 502_000);
    }
}
