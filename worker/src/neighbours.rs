//! The hosts in this worker's lanes, by where they are.
//!
//! The master lends only so many hosts at one address at a time, but where a host is, it
//! has from the workers. A farm of names on one machine looks like many hosts until then.
//! So a lane takes a place at each of its host's addresses before its first request; where
//! all places are taken, the host is given back, and the master told where it is.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use trawl_proto::v1::{HostAddress, HostRef};
use trawl_shared::address::{neighbourhood, octets};

/// Who is where.
#[derive(Debug, Default)]
pub(crate) struct Neighbours(Mutex<HashMap<IpAddr, Vec<(HostRef, IpAddr)>>>);

/// A lane's places at its host's addresses, until they are dropped.
#[derive(Debug)]
pub(crate) struct Places {
    neighbours: Arc<Neighbours>,
    host: HostRef,
    /// Of each neighbourhood one address.
    addresses: Vec<IpAddr>,
}

impl Neighbours {
    /// Takes a place for a host at each of its addresses, of `limit` that there are.
    ///
    /// # Errors
    /// If all are taken at one of them. Tells the hosts that have them, and then that this
    /// one is there, too.
    pub(crate) fn enter(
        self: &Arc<Self>,
        host: HostRef,
        mut addresses: Vec<IpAddr>,
        limit: u32,
    ) -> Result<Places, Vec<HostAddress>> {
        addresses.sort_unstable();
        addresses.dedup_by_key(|address| neighbourhood(*address));
        let mut all = self.lock();
        for address in &addresses {
            let there = all.get(&neighbourhood(*address)).map_or(&[][..], Vec::as_slice);
            if there.len() >= limit as usize {
                let found = there.iter().copied().chain([(host, *address)]);
                let found = found.map(|(host, address)| HostAddress {
                    host: Some(host),
                    address: octets(address),
                });
                return Err(found.collect());
            }
        }
        for address in &addresses {
            all.entry(neighbourhood(*address)).or_default().push((host, *address));
        }
        drop(all);
        Ok(Places { neighbours: Arc::clone(self), host, addresses })
    }

    /// What is behind the lock is never left half changed.
    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, Vec<(HostRef, IpAddr)>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Places {
    /// Where the host is, if there is no doubt.
    pub(crate) fn only_address(&self) -> Option<IpAddr> {
        match self.addresses[..] {
            [address] => Some(address),
            _ => None,
        }
    }
}

impl Drop for Places {
    fn drop(&mut self) {
        let mut all = self.neighbours.lock();
        for at in self.addresses.iter().copied().map(neighbourhood) {
            let Some(there) = all.get_mut(&at) else { continue };
            if let Some(own) = there.iter().position(|(host, _)| *host == self.host) {
                there.remove(own);
            }
            if there.is_empty() {
                all.remove(&at);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn enter(neighbours: &Arc<Neighbours>, host: u32, at: &[&str]) -> Result<Places, Vec<u32>> {
        let addresses = at.iter().map(|at| ip(at)).collect();
        let entered = neighbours.enter(HostRef { crawl: 1, host }, addresses, 2);
        let host = |it: &HostAddress| it.host.unwrap_or_default().host;
        entered.map_err(|found| found.iter().map(host).collect())
    }

    #[test]
    fn an_address_has_so_many_places_and_who_finds_none_hears_who_has_them() {
        let neighbours = Arc::default();
        let one = enter(&neighbours, 1, &["192.0.2.1"]).unwrap();
        let two = enter(&neighbours, 2, &["::ffff:192.0.2.1"]).unwrap();
        assert_eq!(enter(&neighbours, 3, &["192.0.2.1"]).unwrap_err(), [1, 2, 3]);
        assert!(enter(&neighbours, 3, &["192.0.2.2"]).is_ok(), "another address has its own");
        drop(one);
        let three = enter(&neighbours, 3, &["192.0.2.1"]).unwrap();
        assert_eq!(enter(&neighbours, 4, &["192.0.2.1"]).unwrap_err(), [2, 3, 4]);
        drop((two, three));
        assert!(neighbours.lock().is_empty());
    }

    #[test]
    fn further_addresses_hide_nobody() {
        let neighbours = Arc::default();
        let one = enter(&neighbours, 1, &["192.0.2.1", "192.0.2.101"]).unwrap();
        assert_eq!(one.only_address(), None);
        let two = enter(&neighbours, 2, &["192.0.2.2", "192.0.2.101"]).unwrap();
        assert_eq!(enter(&neighbours, 3, &["192.0.2.3", "192.0.2.101"]).unwrap_err(), [1, 2, 3]);
        assert!(enter(&neighbours, 3, &["192.0.2.1", "192.0.2.2"]).is_ok());
        drop((one, two));
        assert!(neighbours.lock().is_empty());
    }

    #[test]
    fn the_addresses_of_one_ipv6_network_are_one() {
        let neighbours = Arc::default();
        let one = enter(&neighbours, 1, &["2001:db8::1", "2001:db8::2"]).unwrap();
        assert_eq!(one.only_address(), Some(ip("2001:db8::1")));
        let _two = enter(&neighbours, 2, &["2001:db8::ffff:1:2:3"]).unwrap();
        assert_eq!(enter(&neighbours, 3, &["2001:db8::4"]).unwrap_err(), [1, 2, 3]);
        assert!(enter(&neighbours, 3, &["2001:db8:0:1::1"]).is_ok());
    }
}
