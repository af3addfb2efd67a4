//! Which addresses may be connected to: those of the public internet, and the
//! networks that the operator allows.
//!
//! The rule is by address alone and has no state, so the same check serves
//! addresses in URLs, answers of name servers, and connections that stand. An
//! IPv6 address that carries an IPv4 one (mapped, NAT64, 6to4) is judged by
//! that, because that is where its packets go. Who asks for checks, and when,
//! is `http` and `resolve`'s business.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::FetchError;

/// IPv4 blocks that are not the public internet: the IANA special-purpose
/// registry but for its few blocks that are marked as globally reachable, the
/// multicast space, and one address more.
const SPECIAL_V4: [Ipv4Net; 17] = [
    v4([0, 0, 0, 0], 8),          // this network
    v4([10, 0, 0, 0], 8),         // private
    v4([100, 64, 0, 0], 10),      // carriers' NAT; one cloud's metadata service
    v4([127, 0, 0, 0], 8),        // loopback
    v4([168, 63, 129, 16], 32),   // public by registry, but one cloud's metadata service
    v4([169, 254, 0, 0], 16),     // link-local; most clouds' metadata services
    v4([172, 16, 0, 0], 12),      // private
    v4([192, 0, 0, 0], 24),       // protocol assignments
    v4([192, 0, 2, 0], 24),       // documentation
    v4([192, 88, 99, 0], 24),     // 6to4 relays, withdrawn
    v4([192, 168, 0, 0], 16),     // private
    v4([198, 18, 0, 0], 15),      // benchmarks
    v4([198, 51, 100, 0], 24),    // documentation
    v4([203, 0, 113, 0], 24),     // documentation
    v4([224, 0, 0, 0], 4),        // multicast
    v4([240, 0, 0, 0], 4),        // reserved
    v4([255, 255, 255, 255], 32), // broadcast
];

/// The only IPv6 space that addresses of the public internet come from.
const GLOBAL_UNICAST_V6: Ipv6Net = v6([0x2000, 0, 0], 3);

/// IPv6 blocks that are not the public internet. Those outside
/// [`GLOBAL_UNICAST_V6`] stand here for their names' sake only.
const SPECIAL_V6: [Ipv6Net; 11] = [
    Ipv6Net::new_assert(Ipv6Addr::UNSPECIFIED, 128),
    Ipv6Net::new_assert(Ipv6Addr::LOCALHOST, 128),
    v6([0x0064, 0xff9b, 0x0001], 48), // local NAT64
    v6([0x0100, 0, 0], 64),           // discard-only
    v6([0x2001, 0, 0], 23),           // protocol assignments: Teredo, benchmarks, ORCHID
    v6([0x2001, 0x0db8, 0], 32),      // documentation
    v6([0x3fff, 0, 0], 20),           // documentation
    v6([0x5f00, 0, 0], 16),           // segment routing
    v6([0xfc00, 0, 0], 7),            // unique local
    v6([0xfe80, 0, 0], 10),           // link-local
    v6([0xff00, 0, 0], 8),            // multicast
];

/// Decides which addresses may be connected to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Guard {
    /// Networks outside the public internet that are allowed all the same.
    pub allow: Vec<IpNet>,
}

impl Guard {
    /// Checks one address.
    ///
    /// # Errors
    /// [`FetchError::ForbiddenAddress`], if it is neither of the public internet
    /// nor allowed.
    pub fn check(&self, address: IpAddr) -> Result<(), FetchError> {
        match special_block(address) {
            Some(block) if !self.allows(address) => {
                Err(FetchError::ForbiddenAddress { host: None, address, block })
            }
            _ => Ok(()),
        }
    }

    fn allows(&self, address: IpAddr) -> bool {
        let carried = carried_v4(address).map(IpAddr::V4);
        self.allow.iter().any(|net| {
            net.contains(&address) || carried.is_some_and(|carried| net.contains(&carried))
        })
    }
}

/// Whether the address belongs to the public internet.
pub fn is_public(address: IpAddr) -> bool {
    special_block(address).is_none()
}

/// The block that keeps the address from being public.
fn special_block(address: IpAddr) -> Option<IpNet> {
    let v6 = match (address, carried_v4(address)) {
        (IpAddr::V4(v4), _) | (_, Some(v4)) => return special_block_v4(v4),
        (IpAddr::V6(v6), None) => v6,
    };
    let named = SPECIAL_V6.into_iter().find(|block| block.contains(&v6)).map(IpNet::V6);
    let reserved = || (!GLOBAL_UNICAST_V6.contains(&v6)).then(|| IpNet::from(address));
    named.or_else(reserved)
}

fn special_block_v4(v4: Ipv4Addr) -> Option<IpNet> {
    SPECIAL_V4.into_iter().find(|block| block.contains(&v4)).map(IpNet::V4)
}

/// The IPv4 address that packets to an IPv6 address end up at: IPv4-mapped
/// (`::ffff:0:0/96`), NAT64 (`64:ff9b::/96`) and 6to4 (`2002::/16`).
fn carried_v4(address: IpAddr) -> Option<Ipv4Addr> {
    let IpAddr::V6(v6) = address else { return None };
    let (high, low) = match v6.segments() {
        [0, 0, 0, 0, 0, 0xffff, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => (high, low),
        [0x2002, high, low, ..] => (high, low),
        _ => return None,
    };
    let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
    Some(Ipv4Addr::new(a, b, c, d))
}

const fn v4([a, b, c, d]: [u8; 4], prefix: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), prefix)
}

const fn v6([a, b, c]: [u16; 3], prefix: u8) -> Ipv6Net {
    Ipv6Net::new_assert(Ipv6Addr::new(a, b, c, 0, 0, 0, 0, 0), prefix)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn addresses_outside_the_public_internet() {
        for address in [
            "0.0.0.0",
            "0.1.2.3",
            "0.255.255.255",
            "10.0.0.0",
            "10.1.2.3",
            "10.255.255.255",
            "100.64.0.0",
            "100.100.100.200",
            "100.127.255.255",
            "127.0.0.0",
            "127.0.0.1",
            "127.255.255.255",
            "168.63.129.16",
            "169.254.0.0",
            "169.254.169.254",
            "169.254.255.255",
            "172.16.0.0",
            "172.20.10.1",
            "172.31.255.255",
            "192.0.0.0",
            "192.0.0.8",
            "192.0.0.170",
            "192.0.0.255",
            "192.0.2.0",
            "192.0.2.255",
            "192.88.99.1",
            "192.168.0.0",
            "192.168.1.1",
            "192.168.255.255",
            "198.18.0.0",
            "198.19.255.255",
            "198.51.100.0",
            "198.51.100.255",
            "203.0.113.0",
            "203.0.113.255",
            "224.0.0.0",
            "224.0.0.251",
            "239.255.255.255",
            "240.0.0.0",
            "255.255.255.254",
            "255.255.255.255",
            "::",
            "::1",
            "::2",
            "::127.0.0.1",
            "::8.8.8.8",
            "0:0:0:0:ffff:0:8.8.8.8",
            "::ffff:0.0.0.0",
            "::ffff:127.0.0.1",
            "::ffff:10.1.2.3",
            "::ffff:169.254.169.254",
            "::ffff:192.168.1.1",
            "::ffff:255.255.255.255",
            "64:ff9b::127.0.0.1",
            "64:ff9b::10.0.0.1",
            "64:ff9b::169.254.169.254",
            "64:ff9b:0:0:0:1:8.8.8.8",
            "64:ff9b:1::8.8.8.8",
            "64:ff9b:1:ffff::1",
            "100::",
            "100::1",
            "100:0:0:1::1",
            "2001::",
            "2001:0:4136:e378:8000:63bf:3fff:fdd2",
            "2001:2::1",
            "2001:10::1",
            "2001:1ff:ffff::1",
            "2001:db8::",
            "2001:db8:ffff::1",
            "2002:7f00:1::",
            "2002:a00:1::1",
            "2002:a9fe:a9fe::1",
            "2002:c0a8:101::1",
            "3fff::",
            "3fff:fff::1",
            "4000::1",
            "5f00::1",
            "8000::1",
            "fc00::",
            "fd00:ec2::254",
            "fdff:ffff::1",
            "fe80::",
            "fe80::1",
            "febf:ffff::1",
            "fec0::1",
            "feff::1",
            "ff00::",
            "ff02::1",
            "ff0e::1",
        ] {
            assert!(!is_public(ip(address)), "{address}");
            assert!(Guard::default().check(ip(address)).is_err(), "{address}");
        }
    }

    #[test]
    fn addresses_of_the_public_internet() {
        for address in [
            "1.1.1.1",
            "8.8.8.8",
            "1.0.0.0",
            "9.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "126.255.255.255",
            "128.0.0.1",
            "168.63.129.15",
            "168.63.129.17",
            "169.253.255.255",
            "169.255.0.0",
            "172.15.255.255",
            "172.32.0.0",
            "191.255.255.255",
            "192.0.1.0",
            "192.0.3.0",
            "192.31.196.1",
            "192.88.98.255",
            "192.167.255.255",
            "192.169.0.0",
            "198.17.255.255",
            "198.20.0.0",
            "198.51.99.255",
            "198.51.101.0",
            "203.0.112.255",
            "203.0.114.0",
            "223.255.255.255",
            "::ffff:8.8.8.8",
            "64:ff9b::8.8.8.8",
            "2002:808:808::1",
            "2000::1",
            "2001:200::1",
            "2001:4860:4860::8888",
            "2001:db7:ffff::1",
            "2001:db9::1",
            "2003::1",
            "2606:4700:4700::1111",
            "2a00:1450:4001::1",
            "3ffe::1",
            "3fff:1000::1",
        ] {
            assert!(is_public(ip(address)), "{address}");
            assert_eq!(Guard::default().check(ip(address)), Ok(()), "{address}");
        }
    }

    #[test]
    fn an_allowed_net_matches_the_address_or_the_one_it_carries() {
        let guard =
            Guard { allow: vec!["127.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()] };
        for address in
            ["127.0.0.1", "::ffff:127.9.9.9", "64:ff9b::127.0.0.1", "2002:7f00:1::1", "fd12::1"]
        {
            assert_eq!(guard.check(ip(address)), Ok(()), "{address}");
        }
        for address in ["10.0.0.1", "::1", "::ffff:10.0.0.1", "fc12::1", "169.254.169.254"] {
            assert!(guard.check(ip(address)).is_err(), "{address}");
        }
        assert_eq!(guard.check(ip("8.8.8.8")), Ok(()));
    }

    #[test]
    fn a_refusal_names_the_net_that_would_allow_it() {
        for (address, phrase) in [
            (
                "127.0.0.1",
                "127.0.0.1 is outside the public internet; --allow-net 127.0.0.0/8 would allow it",
            ),
            (
                "::ffff:10.0.0.1",
                "::ffff:10.0.0.1 is outside the public internet; --allow-net 10.0.0.0/8 would allow it",
            ),
            (
                "fe80::1",
                "fe80::1 is outside the public internet; --allow-net fe80::/10 would allow it",
            ),
            (
                "4000::1",
                "4000::1 is outside the public internet; --allow-net 4000::1/128 would allow it",
            ),
        ] {
            let refusal = Guard::default().check(ip(address)).unwrap_err();
            assert_eq!(refusal.to_string(), phrase);
            let FetchError::ForbiddenAddress { block, .. } = refusal else { panic!("{refusal:?}") };
            assert_eq!(Guard { allow: vec![block] }.check(ip(address)), Ok(()), "{address}");
        }
    }
}
