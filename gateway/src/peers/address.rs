//! Which addresses a peer may have us dial: what it tells is only a hint, and some hints lead where only our own operator
//! may point.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

/// What an address is to the host that dials it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// Of another host. Private networks are usual between clusters.
    Ordinary,
    /// This host, by its loopback addresses.
    Loopback,
    /// A neighbour that no router knows; among them the services by which clouds tell a host its secrets.
    LinkLocal,
    /// Many hosts.
    Multicast,
    /// No host; systems take it for this one.
    Unspecified,
    /// This host, by its own addresses.
    Own,
}

/// Some of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Classes(u8);

impl Class {
    /// The class of an address; `is_own` says of one that is not special whether it is this host's.
    pub(super) fn of(ip: IpAddr, is_own: impl FnOnce(IpAddr) -> bool) -> Self {
        let special = match ip.to_canonical() {
            IpAddr::V4(ip) => of_v4(ip),
            IpAddr::V6(ip) => of_v6(ip),
        };
        match special {
            Self::Ordinary if is_own(ip.to_canonical()) => Self::Own,
            class => class,
        }
    }

    /// As an operator is told.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Ordinary => "ordinary",
            Self::Loopback => "a loopback address",
            Self::LinkLocal => "a link-local address",
            Self::Multicast => "a multicast or broadcast address",
            Self::Unspecified => "the unspecified address",
            Self::Own => "an address of this host",
        }
    }
}

fn of_v4(ip: Ipv4Addr) -> Class {
    match ip {
        _ if ip.is_loopback() => Class::Loopback,
        _ if ip.is_link_local() => Class::LinkLocal,
        _ if ip.is_multicast() || ip.is_broadcast() => Class::Multicast,
        // RFC 1122, section 3.2.1.3: all of it is "this host on this network".
        _ if ip.octets()[0] == 0 => Class::Unspecified,
        _ => Class::Ordinary,
    }
}

fn of_v6(ip: Ipv6Addr) -> Class {
    match ip {
        _ if ip.is_loopback() => Class::Loopback,
        _ if ip.is_unicast_link_local() => Class::LinkLocal,
        _ if ip.is_multicast() => Class::Multicast,
        // With the IPv4-compatible addresses, which nobody uses (RFC 4291, section 2.5.5.1).
        _ if ip.segments()[..6] == [0; 6] => Class::Unspecified,
        _ => Class::Ordinary,
    }
}

impl Classes {
    /// These and the class of `socket`.
    pub(super) fn with(self, socket: SocketAddr) -> Self {
        Self(self.0 | 1 << Class::of(socket.ip(), is_own) as u8)
    }

    /// All of both.
    pub(super) fn and(self, others: Self) -> Self {
        Self(self.0 | others.0)
    }

    /// Whether a told address of this class may be dialled where the Link names these.
    pub(super) fn allow(self, class: Class) -> bool {
        class == Class::Ordinary || self.0 & 1 << class as u8 != 0
    }
}

/// Whether `ip` is an address of this host: what the system would send from to reach it. Sends nothing.
pub(super) fn is_own(ip: IpAddr) -> bool {
    /// Discard (RFC 863); any would do.
    const PORT: u16 = 9;
    let any: IpAddr = match ip {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let from = UdpSocket::bind((any, 0)).and_then(|socket| {
        socket.connect((ip, PORT))?;
        socket.local_addr()
    });
    from.is_ok_and(|from| from.ip() == ip)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn class(ip: &str) -> Class {
        Class::of(ip.parse().unwrap(), |ip| ip == IpAddr::from([10, 0, 0, 5]))
    }

    #[test]
    fn every_address_has_its_class_however_it_is_written() {
        for (class_of, ips) in [
            (Class::Ordinary, &["10.0.0.4", "192.168.1.1", "203.0.113.7", "2001:db8::1", "fd00::1"][..]),
            (Class::Loopback, &["127.0.0.1", "127.8.8.8", "::1", "::ffff:127.0.0.1"]),
            (Class::LinkLocal, &["169.254.169.254", "fe80::1", "::ffff:169.254.1.1"]),
            (Class::Multicast, &["224.0.0.1", "255.255.255.255", "ff02::1"]),
            (Class::Unspecified, &["0.0.0.0", "0.1.2.3", "::", "::ffff:0.0.0.0", "::127.0.0.1"]),
            (Class::Own, &["10.0.0.5", "::ffff:10.0.0.5"]),
        ] {
            for ip in ips {
                assert_eq!(class(ip), class_of, "{ip}");
            }
        }
    }

    #[test]
    fn only_what_the_link_names_itself_is_dialled_where_a_peer_points() {
        let nothing = Classes::default();
        assert!(nothing.allow(Class::Ordinary) && !nothing.allow(Class::Loopback));
        let named = nothing.with("127.0.0.1:1".parse().unwrap()).and(nothing);
        assert!(named.allow(Class::Loopback) && named.allow(Class::Ordinary));
        for other in [Class::LinkLocal, Class::Multicast, Class::Unspecified, Class::Own] {
            assert!(!named.allow(other), "{other:?}");
        }
    }

    #[test]
    fn this_host_knows_its_own_addresses() {
        assert!(is_own(Ipv4Addr::LOCALHOST.into()));
        // For documentation (RFC 5737), so nobody's.
        assert!(!is_own([192, 0, 2, 1].into()));
    }
}
