//! `spec.registration` of a MeshService: where endpoints may be that workloads register over the network.

use std::net::IpAddr;

use super::raw::{self, Field};
use super::scope::Scope;
use super::units::Wrong;
use crate::base::address::Special;
use crate::model::{HostRule, Hosts, is_host};

/// Most rules of one service: every registration of it is held against them.
const HOSTS_MAX: usize = 64;

/// Reads what is allowed beside a workload's own address: nothing unless given.
pub(super) fn read(field: &Field<raw::Registration>, scope: &mut Scope<'_, '_>) -> Option<Hosts> {
    const NAME: &str = "spec.registration.hosts";
    let Some(registration) = field else { return Some(Hosts::default()) };
    let example = "hosts: [10.0.0.0/16]";
    scope.present(&registration.value.hosts, NAME, registration.referenced, example)?;
    let list = scope.list(&registration.value.hosts, NAME, HOSTS_MAX)?;
    let rules: Vec<_> = list.iter().filter_map(|entry| scope.read(entry, NAME, rule)).collect();
    (rules.len() == list.len()).then_some(Hosts(rules))
}

/// A network, an address, a DNS name, or all names under one.
fn rule(text: &str) -> Result<HostRule, Wrong> {
    const FORMS: &str = "write a network such as `10.0.0.0/16`, an address, a DNS name, or `\"*.pods.example\"` for all under it";
    if let Some((address, prefix)) = text.split_once('/') {
        let network = address.parse::<IpAddr>().ok().zip(prefix.parse::<u8>().ok());
        let (address, prefix) =
            network.ok_or_else(|| Wrong::new(format!("`{text}` is no network"), FORMS))?;
        return registrable(text, address, prefix);
    }
    if let Ok(address) = text.parse::<IpAddr>() {
        return registrable(text, address, if address.is_ipv4() { 32 } else { 128 });
    }
    let (name, under) = text.strip_prefix("*.").map_or((text, false), |parent| (parent, true));
    if !is_host(name) {
        return Err(Wrong::new(format!("`{text}` is no host"), FORMS));
    }
    let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase().into();
    Ok(if under { HostRule::Under(name) } else { HostRule::Name(name) })
}

/// A network, or an address.
pub(super) fn network(text: &str) -> Result<HostRule, Wrong> {
    let wrong =
        || Wrong::new(format!("`{text}` is no network"), "write one such as `10.0.0.0/16`, or an address");
    let (address, prefix) = match text.split_once('/') {
        Some((address, prefix)) => (address, Some(prefix.parse::<u8>().map_err(|_| wrong())?)),
        None => (text, None),
    };
    let address = address.parse::<IpAddr>().map_err(|_| wrong())?;
    of_network(text, address, prefix.unwrap_or(if address.is_ipv4() { 32 } else { 128 }))
}

/// A network whose addresses may be registered.
fn registrable(text: &str, address: IpAddr, prefix: u8) -> Result<HostRule, Wrong> {
    let network = of_network(text, address, prefix)?;
    // A network that merely holds such addresses may be given: they are not allowed for that.
    if let Some(kind) = Special::of(address).filter(|_| prefix > 0) {
        let hint =
            "workloads on the gateway's own host register over its Unix socket, whatever is allowed here";
        return Err(Wrong::new(
            format!("`{text}`: {kind} addresses are never registered over the network"),
            hint,
        ));
    }
    Ok(network)
}

fn of_network(text: &str, address: IpAddr, prefix: u8) -> Result<HostRule, Wrong> {
    let (bits, first) = match address {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(prefix.min(32))).unwrap_or(0);
            (32, IpAddr::V4((u32::from(v4) & mask).into()))
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(prefix.min(128))).unwrap_or(0);
            (128, IpAddr::V6((u128::from(v6) & mask).into()))
        }
    };
    if prefix > bits {
        let hint = format!("write a number of bits up to {bits}");
        return Err(Wrong::new(format!("`{text}` is no network"), hint));
    }
    if address.to_canonical() != address {
        let hint = format!("write the IPv4 address, `{}`", address.to_canonical());
        return Err(Wrong::new(format!("`{text}` is an IPv4 address in the dress of IPv6"), hint));
    }
    if first != address {
        let hint = format!("write `{first}/{prefix}`, or the address alone");
        return Err(Wrong::new(format!("`{text}` has bits behind its network"), hint));
    }
    Ok(HostRule::Network(address, prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_addresses_and_names_are_told_apart() {
        let right = |text: &str| rule(text).map_err(|wrong| wrong.message);
        let network = |address: &str, prefix| address.parse().map(|ip| HostRule::Network(ip, prefix)).ok();
        for (text, expected) in [
            ("10.0.0.0/8", network("10.0.0.0", 8)),
            ("0.0.0.0/0", network("0.0.0.0", 0)),
            ("::/0", network("::", 0)),
            ("2001:db8::/32", network("2001:db8::", 32)),
            ("192.0.2.7", network("192.0.2.7", 32)),
            ("2001:db8::1", network("2001:db8::1", 128)),
            ("Cart.example.", Some(HostRule::Name("cart.example".into()))),
            ("*.pods.example", Some(HostRule::Under("pods.example".into()))),
        ] {
            assert_eq!(right(text).ok(), expected, "{text}");
        }
        for (text, hint) in [
            ("10.0.0.5/24", "write `10.0.0.0/24`, or the address alone"),
            ("10.0.0.0/33", "write a number of bits up to 32"),
            ("::ffff:10.0.0.0/104", "write the IPv4 address, `10.0.0.0`"),
            ("127.0.0.0/8", "workloads on the gateway's own host register over its Unix socket"),
            ("169.254.169.254", "workloads on the gateway's own host register over its Unix socket"),
            ("fe80::/10", "workloads on the gateway's own host register over its Unix socket"),
            ("*", "write a network such as"),
            ("cart.*", "write a network such as"),
            ("10.0.0.0/x", "write a network such as"),
            ("cart:80", "write a network such as"),
        ] {
            let wrong = rule(text).err().and_then(|wrong| wrong.hint);
            assert!(wrong.as_ref().is_some_and(|said| said.starts_with(hint)), "{text}: {wrong:?}");
        }
    }
}
