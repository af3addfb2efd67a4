//! Hosts for people: what is known of one, in all crawls, and what people set: a block, a
//! delay, connections, a limit. What is set is durable, and holds from the next visit on.

use std::{net::IpAddr, time::Duration};

use trawl_shared::{address::from_octets, spec::CONNECTIONS_MAX, url::HostKey};

use super::{Frontier, FrontierError, HostStatus, Moment, RobotsFile, damaged, gate::unvisited};
use crate::store::{
    Store,
    keys::{self, HostRef},
    rows::GateRow,
};

/// What is known of a host.
#[derive(Clone, Debug)]
pub struct HostAccount {
    /// It was ever heard of.
    pub known: bool,
    /// What holds for all crawls.
    pub gate: GateRow,
    /// Where it is, as last seen.
    pub address: Option<IpAddr>,
    /// How long ago its last visit ended, by the master's clock.
    pub visited: Option<Duration>,
    /// How long it is left alone still.
    pub rests: Duration,
    /// Its robots.txt.
    pub robots: Option<RobotsFile>,
    /// What each crawl has of it that has something queued or lent there.
    pub crawls: Vec<HostStatus>,
}

/// What people set of a host; what is none stays as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostChange {
    /// Nothing is fetched from it, for this reason; or it is free again.
    pub blocked: Option<Result<(), String>>,
    /// The wait between two visits in place of the crawls'; none for the crawls' again.
    pub delay: Option<Option<Duration>>,
    /// Fetches at the same time in place of the crawls'; none for the crawls' again.
    pub connections: Option<Option<u32>>,
    /// Pages of it at most in each crawl in place of the crawls' budget; none for the
    /// crawls' again.
    pub pages: Option<Option<u64>>,
    /// It need not rest any longer, and its failures are forgotten.
    pub rested: bool,
}

impl<S: Store> Frontier<S> {
    /// What is known of a host.
    ///
    /// # Errors
    /// If the store fails.
    pub fn host_account(&self, key: &HostKey, now: Moment) -> Result<HostAccount, FrontierError> {
        let number = self.known_host(key.as_str())?;
        let host = number.unwrap_or_default();
        let gate = self.gate_row(host)?.unwrap_or_else(unvisited);
        let since = |then: u64| Duration::from_millis(now.0.saturating_sub(then));
        let ats = self.crawls.keys().map(|crawl| HostRef { crawl: *crawl, host });
        Ok(HostAccount {
            known: number.is_some(),
            address: from_octets(&gate.address),
            visited: (!gate.unvisited).then(|| since(gate.freed_at)),
            rests: Duration::from_millis(gate.rests_until.saturating_sub(now.0)),
            robots: self.robots(host)?,
            crawls: ats.filter_map(|at| self.host_status(at, now)).collect(),
            gate,
        })
    }

    /// Of the next `rows` hosts behind a key, those that people have set something of and whose
    /// key contains a text. Also the last key that was looked at; none if no more follow.
    /// The frontier must have been committed.
    ///
    /// # Errors
    /// If the store fails.
    pub fn set_hosts(
        &self,
        after: &str,
        contains: &str,
        rows: usize,
    ) -> Result<(Vec<HostKey>, Option<String>), FrontierError> {
        // The next key after one is the same with a zero behind it.
        let from = [&keys::host_number(after)[..], &[0]].concat();
        let (mut set, mut last, mut looked_at) = (Vec::new(), None, 0);
        for row in self.store.range(&from, keys::HOST_NUMBERS.1).take(rows) {
            let (key, number) = row?;
            let key = keys::host_key(&key).ok_or_else(|| damaged("a host's key"))?;
            looked_at += 1;
            last = Some(key.to_owned());
            if !key.contains(contains) {
                continue;
            }
            let number = number.try_into().map_err(|_| damaged("a host's number"))?;
            let gate = self.gate_row(u32::from_be_bytes(number))?;
            if gate.is_some_and(|gate| gate.is_set()) {
                set.push(HostKey::trusted(key.to_owned()));
            }
        }
        Ok((set, last.filter(|_| looked_at == rows)))
    }

    /// Sets what people want of a host, be it known or not.
    ///
    /// # Errors
    /// If the store fails.
    pub fn change_host(&mut self, key: &HostKey, change: HostChange) -> Result<(), FrontierError> {
        let host = self.host_number(key.as_str())?;
        if change.rested {
            self.take_up(host);
        }
        self.set_gate(host, |row| {
            match change.blocked {
                Some(Ok(())) => {
                    row.blocked = false;
                    row.blocked_reason.clear();
                }
                Some(Err(reason)) => {
                    row.blocked = true;
                    row.blocked_reason = reason;
                }
                None => {}
            }
            if let Some(delay) = change.delay {
                row.set_delay_ms = delay.map(super::millis);
            }
            if let Some(connections) = change.connections {
                row.set_connections = connections.map(|many| many.clamp(1, CONNECTIONS_MAX));
            }
            if let Some(pages) = change.pages {
                row.set_pages = pages;
            }
            if change.rested {
                row.rests_until = 0;
                row.failures = 0;
            }
        })?;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
