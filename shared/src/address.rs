//! Addresses of hosts, as they are written down and compared.

use std::net::{IpAddr, Ipv6Addr};

/// The 4 or 16 bytes of an address. One of IPv4 that is written as one of IPv6 has 4.
pub fn octets(address: IpAddr) -> Vec<u8> {
    match address.to_canonical() {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

/// The address of 4 or 16 bytes; none of any other number of bytes.
pub fn from_octets(octets: &[u8]) -> Option<IpAddr> {
    let v4 = || <[u8; 4]>::try_from(octets).map(IpAddr::from);
    v4().or_else(|_| <[u8; 16]>::try_from(octets).map(IpAddr::from)).ok()
}

/// What stands for whoever is behind an address: the address itself; of IPv6 its network
/// of 64 bits, which is the least that one machine is given (RFC 7421, section 1).
pub fn neighbourhood(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64).into(),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn addresses_are_the_same_when_they_were_written_down() {
        for text in ["192.0.2.1", "0.0.0.0", "2001:db8::1", "::1"] {
            assert_eq!(from_octets(&octets(ip(text))), Some(ip(text)));
        }
        assert_eq!(octets(ip("::ffff:192.0.2.1")), [192, 0, 2, 1]);
        for odd in [&[][..], &[1; 3], &[1; 5], &[1; 17]] {
            assert_eq!(from_octets(odd), None);
        }
    }

    #[test]
    fn a_neighbourhood_is_an_address_or_a_network() {
        for (address, expected) in [
            ("192.0.2.1", "192.0.2.1"),
            ("::ffff:192.0.2.1", "192.0.2.1"),
            ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
            ("2001:db8:1:2::", "2001:db8:1:2::"),
        ] {
            assert_eq!(neighbourhood(ip(address)), ip(expected), "{address}");
        }
    }
}
