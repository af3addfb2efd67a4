//! The hosts in this worker's lanes, by where they are.
//!
//! The master lends only so many hosts at one address at a time, but where a host is, it
//! has from the workers. A farm of names on one machine looks like many hosts until then.
//! So a lane takes a place at its host's address before its first request; where all
//! places are taken, the host is given back, and the master told where it is.

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

/// A lane's place at its host's address, until it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    neighbours: Arc<Neighbours>,
    host: HostRef,
    pub(crate) address: IpAddr,
}

impl Neighbours {
    /// Takes a place for a host, of `limit`.
    ///
    /// # Errors
    /// If all are taken. Tells the hosts that have them, and where this one is.
    pub(crate) fn enter(
        self: &Arc<Self>,
        host: HostRef,
        address: IpAddr,
        limit: u32,
    ) -> Result<Place, Vec<HostAddress>> {
        let mut all = self.lock();
        let there = all.entry(neighbourhood(address)).or_default();
        if there.len() >= limit as usize {
            let found = there.iter().copied().chain([(host, address)]);
            let found = found
                .map(|(host, address)| HostAddress { host: Some(host), address: octets(address) });
            return Err(found.collect());
        }
        there.push((host, address));
        drop(all);
        Ok(Place { neighbours: Arc::clone(self), host, address })
    }

    /// What is behind the lock is never left half changed.
    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, Vec<(HostRef, IpAddr)>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut all = self.neighbours.lock();
        let at = neighbourhood(self.address);
        if let Some(there) = all.get_mut(&at) {
            if let Some(own) = there.iter().position(|(host, _)| *host == self.host) {
                there.swap_remove(own);
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

    #[test]
    fn an_address_has_so_many_places_and_who_finds_none_hears_who_has_them() {
        let neighbours = Arc::new(Neighbours::default());
        let enter = |host, at| {
            neighbours.enter(HostRef { crawl: 1, host }, ip(at), 2).map_err(|found| {
                let host = |it: &HostAddress| it.host.unwrap_or_default().host;
                found.iter().map(host).collect::<Vec<_>>()
            })
        };
        let one = enter(1, "192.0.2.1").unwrap();
        let two = enter(2, "::ffff:192.0.2.1").unwrap();
        assert_eq!(enter(3, "192.0.2.1").unwrap_err(), [1, 2, 3]);
        assert!(enter(3, "192.0.2.2").is_ok(), "another address has its own");
        drop(one);
        let three = enter(3, "192.0.2.1").unwrap();
        assert_eq!(enter(4, "192.0.2.1").unwrap_err(), [2, 3, 4]);
        drop((two, three));
        assert!(neighbours.lock().is_empty());
    }

    #[test]
    fn the_addresses_of_one_ipv6_network_are_one() {
        let neighbours = Arc::new(Neighbours::default());
        let enter = |host, at| neighbours.enter(HostRef { crawl: 1, host }, ip(at), 1);
        let _one = enter(1, "2001:db8::1").unwrap();
        let found = enter(2, "2001:db8::ffff:1:2:3").unwrap_err();
        assert_eq!(found[1].address[..4], [0x20, 0x01, 0x0d, 0xb8], "and it is told as it is");
        assert_eq!(found[1].address[15], 3);
        assert!(enter(3, "2001:db8:0:1::1").is_ok());
    }
}
