//! Which hosts may be named: networks and DNS names.

use std::net::IpAddr;
use std::sync::Arc;

/// Hosts, by any of the rules.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hosts(pub Vec<HostRule>);

/// Some hosts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostRule {
    /// The addresses that share so many first bits with this one.
    Network(IpAddr, u8),
    /// One DNS name, lower case.
    Name(Arc<str>),
    /// The DNS names under this one, lower case.
    Under(Arc<str>),
}

impl Hosts {
    /// Whether an address is in one of the networks among them.
    pub fn holds(&self, address: IpAddr) -> bool {
        self.0.iter().any(|rule| rule.holds(address.to_canonical()))
    }

    /// Whether `host`, an address or a DNS name, is one of them.
    pub fn allow(&self, host: &str) -> bool {
        match host.parse::<IpAddr>() {
            Ok(address) => self.holds(address),
            Err(_) => self.0.iter().any(|rule| rule.names(host.strip_suffix('.').unwrap_or(host))),
        }
    }
}

impl HostRule {
    fn holds(&self, address: IpAddr) -> bool {
        let Self::Network(network, prefix) = self else { return false };
        match (network, address) {
            (IpAddr::V4(network), IpAddr::V4(address)) => {
                let other = u32::from(*network) ^ u32::from(address);
                other.leading_zeros() >= u32::from(*prefix)
            }
            (IpAddr::V6(network), IpAddr::V6(address)) => {
                let other = u128::from(*network) ^ u128::from(address);
                other.leading_zeros() >= u32::from(*prefix)
            }
            _ => false,
        }
    }

    fn names(&self, host: &str) -> bool {
        match self {
            Self::Network(..) => false,
            Self::Name(name) => name.eq_ignore_ascii_case(host),
            Self::Under(parent) => {
                let Some(labels) = host.len().checked_sub(parent.len()).filter(|&length| length > 1) else {
                    return false;
                };
                host.is_char_boundary(labels)
                    && host[labels..].eq_ignore_ascii_case(parent)
                    && host[..labels].ends_with('.')
            }
        }
    }
}

/// Whether `text` is a DNS name (RFC 1123; underscores are in use) or an address.
pub fn is_host(text: &str) -> bool {
    let edge = |b: &u8| b.is_ascii_alphanumeric() || *b == b'_';
    let part = |p: &str| {
        let bytes = p.as_bytes();
        matches!(bytes.len(), 1..=63)
            && bytes.iter().all(|b| edge(b) || *b == b'-')
            && bytes.first().is_some_and(edge)
            && bytes.last().is_some_and(edge)
    };
    let digits = text.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    let name = text.len() <= 253 && !digits && text.strip_suffix('.').unwrap_or(text).split('.').all(part);
    name || text.parse::<IpAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn an_address_is_held_by_its_networks_and_a_name_by_its_parents() {
        let hosts = Hosts(vec![
            HostRule::Network("10.1.0.0".parse().unwrap(), 16),
            HostRule::Network("2001:db8::".parse().unwrap(), 32),
            HostRule::Name("cart.example".into()),
            HostRule::Under("pods.example".into()),
        ]);
        for allowed in [
            "10.1.0.0",
            "10.1.255.255",
            "::ffff:10.1.2.3",
            "2001:db8:1::1",
            "Cart.Example.",
            "a.b.pods.example",
        ] {
            assert!(hosts.allow(allowed), "{allowed}");
        }
        for denied in [
            "10.2.0.0",
            "2001:db9::1",
            "x.cart.example",
            "pods.example",
            ".pods.example",
            "xpods.example",
            "",
        ] {
            assert!(!hosts.allow(denied), "{denied}");
        }
        let any = Hosts(vec![HostRule::Network("0.0.0.0".parse().unwrap(), 0)]);
        assert!(any.allow("192.0.2.1") && !any.allow("2001:db8::1"));
    }
}
