//! Other hosts that redirects of robots.txt lead to: visited by one at a time, a wait
//! apart, however many hosts lead there.
//!
//! Such a host is nobody's lease then, so that neither its lane, if it has one, nor other
//! workers know of the visit. What is promised here holds within this worker.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::{
    sync::{Mutex as AsyncMutex, OwnedMutexGuard},
    time::{Instant, sleep_until},
};
use trawl_shared::url::HostKey;

/// Hosts that are remembered at most. Beyond, those that nobody visits or waits for are
/// forgotten, first of all those whose wait is over.
const HOSTS_MAX: usize = 4_096;

/// A turn at a host, which ends when it is dropped. It holds when the next one may begin.
pub(super) type Turn = OwnedMutexGuard<Option<Instant>>;

/// The hosts that were visited lately.
#[derive(Debug, Default)]
pub(crate) struct Detours(Mutex<HashMap<HostKey, Arc<AsyncMutex<Option<Instant>>>>>);

impl Detours {
    /// Waits for a turn at a host. Who has it writes when the next one may begin.
    pub(super) async fn turn(&self, host: HostKey) -> Turn {
        let free_at = self.of(host).lock_owned().await;
        if let Some(at) = *free_at {
            sleep_until(at).await;
        }
        free_at
    }

    fn of(&self, host: HostKey) -> Arc<AsyncMutex<Option<Instant>>> {
        let mut hosts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if hosts.len() >= HOSTS_MAX {
            let now = Instant::now();
            // The lock is not free where the host is visited.
            let is_in_use = |at: &AsyncMutex<Option<Instant>>| {
                at.try_lock().map_or(true, |at| at.is_some_and(|at| now < at))
            };
            hosts.retain(|_, at| Arc::strong_count(at) > 1 || is_in_use(at));
        }
        if hosts.len() >= HOSTS_MAX {
            hosts.retain(|_, at| Arc::strong_count(at) > 1);
        }
        Arc::clone(hosts.entry(host).or_default())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn no_more_hosts_are_remembered_than_may_be_and_those_in_use_are() {
        let detours = Detours::default();
        let host = |number: usize| HostKey::trusted(format!("http://{number}.example"));
        let visited = detours.turn(host(0)).await;
        for number in 1..HOSTS_MAX * 3 {
            let rests = Instant::now() + Duration::from_secs(number as u64 % 2 * 3_600);
            *detours.turn(host(number)).await = Some(rests);
            assert!(detours.0.lock().unwrap().len() <= HOSTS_MAX);
        }
        assert!(detours.0.lock().unwrap().contains_key(&host(0)));
        drop(visited);
    }
}
