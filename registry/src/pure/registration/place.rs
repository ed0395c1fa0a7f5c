//! Where an endpoint may be that a workload registers: where it is itself, and where its service allows it. Whoever may
//! register any address has the gateway connect to it, check it, and send it the requests of peers.

use std::net::{IpAddr, SocketAddr};

use crate::base::address::Special;
use crate::model::{Endpoint, Hosts, ServiceName};

/// Where a registrar is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CameFrom {
    /// On the host of the gateway: it came over a Unix socket.
    Host,
    /// Where its connection comes from.
    Address(IpAddr),
}

/// What of the process and its host counts.
#[derive(Clone, Copy)]
pub struct Here<'a> {
    /// Where the process itself listens.
    pub listeners: &'a [SocketAddr],
    /// Whether an address is one of this host.
    pub is_ours: &'a dyn Fn(IpAddr) -> bool,
}

/// Why an endpoint may not be where it is said to be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadPlace {
    /// An address that means another host wherever it is used, or none.
    #[error(
        "{host} is a {kind} address, which is never registered over the network: a workload on the gateway's own host \
         registers over its Unix socket (`gateways: [{{ unix: <state>/tunnel.sock }}]`), others say `host` as it is \
         reached from there"
    )]
    Special {
        /// As it was said.
        host: String,
        /// Which.
        kind: Special,
    },
    /// Another place than that of the registrar, which the service does not allow.
    #[error(
        "{host} is not where it is registered from ({from}): that has to be allowed by `registration: {{ hosts: \
         [\"{host}\"] }}` in the spec of the MeshService {service}, which takes networks and names as well"
    )]
    Elsewhere {
        /// The service.
        service: ServiceName,
        /// As it was said.
        host: String,
        /// Where the registrar is.
        from: IpAddr,
    },
    /// It is the gateway itself.
    #[error("{host}:{port} is a port of this gateway itself: register the port of the workload")]
    Ourselves {
        /// As it was said.
        host: String,
        /// The port.
        port: u16,
    },
}

/// Whether an endpoint of `service`, whose host means `addresses` as far as that is known, may be registered from `from`;
/// `allowed`: what its service allows, if that is declared.
///
/// # Errors
/// [`BadPlace`]: why not, and what to do.
pub fn may_be_at(
    endpoint: &Endpoint,
    addresses: &[IpAddr],
    (service, allowed): (&ServiceName, Option<&Hosts>),
    from: CameFrom,
    here: Here<'_>,
) -> Result<(), BadPlace> {
    let literal = endpoint.host.parse::<IpAddr>().ok();
    let addresses = || literal.iter().chain(addresses).map(IpAddr::to_canonical);
    let host = || endpoint.host.to_string();
    for (_, port) in endpoint.ports.iter() {
        let ours = |listener: &SocketAddr| {
            let at = |ip: IpAddr| match listener.ip().to_canonical() {
                any if any.is_unspecified() => ip.is_loopback() || ip.is_unspecified() || (here.is_ours)(ip),
                one => one == ip || ip.is_unspecified() && (one.is_loopback() || (here.is_ours)(one)),
            };
            listener.port() == port && addresses().any(at)
        };
        if here.listeners.iter().any(ours) {
            return Err(BadPlace::Ourselves { host: host(), port });
        }
    }
    let CameFrom::Address(from) = from else { return Ok(()) };
    if let Some(kind) = addresses().find_map(Special::of) {
        return Err(BadPlace::Special { host: host(), kind });
    }
    let from = from.to_canonical();
    let own = literal.is_some_and(|literal| literal.to_canonical() == from);
    if own || allowed.is_some_and(|allowed| allowed.allow(&endpoint.host)) {
        return Ok(());
    }
    Err(BadPlace::Elsewhere { service: service.clone(), host: host(), from })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::model::HostRule;

    const FAR: CameFrom = CameFrom::Address(IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 5)));

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn endpoint(host: &str, port: u16) -> Endpoint {
        Endpoint {
            id: "a".into(),
            host: host.into(),
            ports: [("web", port)].into(),
            weight: 100,
            zone: "".into(),
            capacity: None,
        }
    }

    fn judge(
        host: &str,
        port: u16,
        addresses: &[&str],
        hosts: &[HostRule],
        from: CameFrom,
    ) -> Result<(), BadPlace> {
        let service = ServiceName::new("shop", "cart").unwrap();
        let hosts = Hosts(hosts.to_vec());
        let addresses: Vec<IpAddr> = addresses.iter().map(|text| ip(text)).collect();
        let listeners = ["0.0.0.0:7443", "127.0.0.1:7490", "[::1]:7480"].map(|l| l.parse().unwrap());
        let here =
            Here { listeners: &listeners, is_ours: &|ip| ip == "192.0.2.1".parse::<IpAddr>().unwrap() };
        may_be_at(&endpoint(host, port), &addresses, (&service, Some(&hosts)), from, here)
    }

    #[test]
    fn over_the_network_it_is_where_it_comes_from_or_where_its_service_allows() {
        assert_eq!(judge("10.0.0.5", 9001, &[], &[], FAR), Ok(()));
        assert_eq!(judge("::ffff:10.0.0.5", 9001, &[], &[], FAR), Ok(()));
        let refused = judge("10.0.0.6", 9001, &[], &[], FAR).unwrap_err();
        let said = refused.to_string();
        assert!(said.contains("10.0.0.5") && said.contains("MeshService shop/cart"), "{said}");
        assert!(said.contains("registration: { hosts: [\"10.0.0.6\"] }"), "{said}");
        let network = HostRule::Network(ip("10.0.0.0"), 24);
        assert_eq!(judge("10.0.0.6", 9001, &[], std::slice::from_ref(&network), FAR), Ok(()));
        assert!(judge("10.0.1.6", 9001, &[], std::slice::from_ref(&network), FAR).is_err());
        // A name is somewhere else whatever it means today.
        assert!(judge("cart.example", 9001, &["10.0.0.5"], &[network], FAR).is_err());
        let name = HostRule::Under("example".into());
        assert_eq!(judge("cart.example", 9001, &["10.0.0.9"], &[name], FAR), Ok(()));
    }

    #[test]
    fn what_means_another_host_everywhere_is_never_registered_over_the_network() {
        let all = [
            HostRule::Network(ip("0.0.0.0"), 0),
            HostRule::Network(ip("::"), 0),
            HostRule::Under("example".into()),
        ];
        for (host, addresses, kind) in [
            ("127.0.0.1", &[][..], Special::Loopback),
            ("127.9.9.9", &[], Special::Loopback),
            ("::1", &[], Special::Loopback),
            ("::ffff:127.0.0.1", &[], Special::Loopback),
            ("0.0.0.0", &[], Special::Unspecified),
            ("0.1.2.3", &[], Special::Unspecified),
            ("::", &[], Special::Unspecified),
            ("169.254.169.254", &[], Special::LinkLocal),
            ("fe80::1", &[], Special::LinkLocal),
            ("224.0.0.1", &[], Special::Multicast),
            ("ff02::1", &[], Special::Multicast),
            ("255.255.255.255", &[], Special::Broadcast),
            ("cart.example", &["10.0.0.5", "127.0.0.1"], Special::Loopback),
        ] {
            let said = judge(host, 9001, addresses, &all, FAR);
            assert_eq!(said, Err(BadPlace::Special { host: host.into(), kind }));
            if kind == Special::Loopback {
                assert_eq!(
                    judge(host, 9001, addresses, &[], CameFrom::Host),
                    Ok(()),
                    "its own host, over the socket"
                );
            }
            // Even where that is its own address: somebody forwards it.
            if let Ok(own) = host.parse() {
                assert_eq!(judge(host, 9001, &[], &all, CameFrom::Address(own)), said);
            }
        }
    }

    #[test]
    fn our_own_ports_are_nobodys_endpoints() {
        for from in [CameFrom::Host, FAR] {
            for (host, port, addresses) in [
                ("127.0.0.1", 7443, &[][..]),
                ("0.0.0.0", 7443, &[]),
                ("192.0.2.1", 7443, &[]),
                ("127.0.0.1", 7490, &[]),
                ("0.0.0.0", 7490, &[]),
                ("localhost", 7490, &["127.0.0.1"]),
                ("::1", 7480, &[]),
                ("::ffff:127.0.0.1", 7490, &[]),
            ] {
                let said = judge(host, port, addresses, &[], from);
                assert_eq!(said, Err(BadPlace::Ourselves { host: host.into(), port }), "{host}:{port}");
            }
        }
        assert_eq!(judge("127.0.0.1", 9001, &[], &[], CameFrom::Host), Ok(()));
        assert_eq!(judge("127.0.0.2", 7490, &[], &[], CameFrom::Host), Ok(()), "another address than ours");
        assert_eq!(judge("10.0.0.5", 7490, &[], &[], FAR), Ok(()), "another host");
    }
}
