//! Which addresses a peer may have us dial: what it tells is only a hint, and some hints lead where only our own operator
//! may point.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use registry::base::address::Special;

/// What an address is to the host that dials it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// Of another host. Private networks are usual between clusters.
    Ordinary,
    /// None of another host in particular.
    Special(Special),
    /// This host, by its own addresses.
    Own,
}

/// Some of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Classes(u8);

impl Class {
    /// The class of an address; `is_own` says of one that is not special whether it is this host's.
    pub(super) fn of(ip: IpAddr, is_own: impl FnOnce(IpAddr) -> bool) -> Self {
        match Special::of(ip) {
            Some(special) => Self::Special(special),
            None if is_own(ip.to_canonical()) => Self::Own,
            None => Self::Ordinary,
        }
    }

    fn bit(self) -> u8 {
        match self {
            Self::Ordinary => 1,
            Self::Own => 2,
            Self::Special(special) => 4 << special as u8,
        }
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ordinary => f.write_str("of another host"),
            Self::Special(special) => write!(f, "{special}"),
            Self::Own => f.write_str("of this host"),
        }
    }
}

impl Classes {
    /// These and the class of `socket`.
    pub(super) fn with(self, socket: SocketAddr) -> Self {
        Self(self.0 | Class::of(socket.ip(), is_own).bit())
    }

    /// All of both.
    pub(super) fn and(self, others: Self) -> Self {
        Self(self.0 | others.0)
    }

    /// Whether a told address of this class may be dialled where the Link names these.
    pub(super) fn allow(self, class: Class) -> bool {
        class == Class::Ordinary || self.0 & class.bit() != 0
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
    fn an_address_of_this_host_is_told_from_another() {
        assert_eq!(class("10.0.0.4"), Class::Ordinary);
        assert_eq!(class("::ffff:10.0.0.5"), Class::Own);
        assert_eq!(class("127.0.0.1"), Class::Special(Special::Loopback));
    }

    #[test]
    fn only_what_the_link_names_itself_is_dialled_where_a_peer_points() {
        let nothing = Classes::default();
        assert!(nothing.allow(Class::Ordinary) && !nothing.allow(Class::Special(Special::Loopback)));
        let named = nothing.with("127.0.0.1:1".parse().unwrap()).and(nothing);
        assert!(named.allow(Class::Special(Special::Loopback)) && named.allow(Class::Ordinary));
        for other in [Special::LinkLocal, Special::Multicast, Special::Broadcast, Special::Unspecified] {
            assert!(!named.allow(Class::Special(other)), "{other}");
        }
        assert!(!named.allow(Class::Own));
    }

    #[test]
    fn this_host_knows_its_own_addresses() {
        assert!(is_own(Ipv4Addr::LOCALHOST.into()));
        // For documentation (RFC 5737), so nobody's.
        assert!(!is_own([192, 0, 2, 1].into()));
    }
}
