//! Addresses that mean something else to each host, or no single one.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// What is special about an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Special {
    /// The host that asks.
    Loopback,
    /// A neighbour that no router knows; among them the services by which clouds tell a host its secrets.
    LinkLocal,
    /// Many hosts.
    Multicast,
    /// All hosts of a network.
    Broadcast,
    /// No host; systems take it for the one that asks.
    Unspecified,
}

impl Special {
    /// What is special about `address`, however it is written; `None`: it is that of one host, of whichever network.
    pub fn of(address: IpAddr) -> Option<Self> {
        match address.to_canonical() {
            IpAddr::V4(v4) => of_v4(v4),
            IpAddr::V6(v6) => of_v6(v6),
        }
    }
}

fn of_v4(v4: Ipv4Addr) -> Option<Special> {
    match v4 {
        _ if v4.is_loopback() => Some(Special::Loopback),
        _ if v4.is_link_local() => Some(Special::LinkLocal),
        _ if v4.is_multicast() => Some(Special::Multicast),
        _ if v4.is_broadcast() => Some(Special::Broadcast),
        // RFC 1122, section 3.2.1.3: all of 0.0.0.0/8 is "this host on this network".
        _ if v4.octets()[0] == 0 => Some(Special::Unspecified),
        _ => None,
    }
}

fn of_v6(v6: Ipv6Addr) -> Option<Special> {
    match v6 {
        _ if v6.is_loopback() => Some(Special::Loopback),
        _ if v6.is_unicast_link_local() => Some(Special::LinkLocal),
        _ if v6.is_multicast() => Some(Special::Multicast),
        // With the IPv4-compatible addresses, which nobody uses (RFC 4291, section 2.5.5.1).
        _ if v6.segments()[..6] == [0; 6] => Some(Special::Unspecified),
        _ => None,
    }
}

impl fmt::Display for Special {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Loopback => "loopback",
            Self::LinkLocal => "link-local",
            Self::Multicast => "multicast",
            Self::Broadcast => "broadcast",
            Self::Unspecified => "unspecified",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_address_has_its_kind_however_it_is_written() {
        let ordinary =
            ["10.0.0.4", "192.168.1.1", "203.0.113.7", "2001:db8::1", "fd00::1", "::ffff:10.0.0.4"];
        for (special, addresses) in [
            (None, &ordinary[..]),
            (Some(Special::Loopback), &["127.0.0.1", "127.8.8.8", "::1", "::ffff:127.0.0.1"]),
            (Some(Special::LinkLocal), &["169.254.169.254", "fe80::1", "::ffff:169.254.1.1"]),
            (Some(Special::Multicast), &["224.0.0.1", "ff02::1"]),
            (Some(Special::Broadcast), &["255.255.255.255"]),
            (Some(Special::Unspecified), &["0.0.0.0", "0.1.2.3", "::", "::ffff:0.0.0.0", "::127.0.0.1"]),
        ] {
            for address in addresses {
                assert_eq!(address.parse().map(Special::of), Ok(special), "{address}");
            }
        }
    }
}
