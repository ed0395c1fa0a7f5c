//! The PROXY protocol: taken from load balancers in front of us (versions 1 and 2), and told to endpoints (version 2).

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use ppp::v2::{Addresses as V2, Builder, Command, Header, IPv4, IPv6, Protocol, Type, Version};
use ppp::{HeaderResult, PartialResult, v1};

use crate::Seen;

/// The TLV with the SPIFFE ID of the workload that calls, of the range for applications (PROXY protocol, section 2.2.8).
pub const TLV_IDENTITY: u8 = 0xE5;
/// The TLV with the number of gateways and sidecars that a connection has come through, one byte.
pub const TLV_HOPS: u8 = 0xE6;
/// Entries beside the addresses that are kept, and their bytes together; with more of them a header is refused.
const TLVS_MAX: usize = 64;

/// The entries of a PROXY header beside its addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tlvs(Vec<(u8, Vec<u8>)>);

impl Tlvs {
    /// The first value of a type.
    pub fn first(&self, kind: u8) -> Option<&[u8]> {
        self.0.iter().find(|(of, _)| *of == kind).map(|(_, value)| &**value)
    }

    /// How many gateways and sidecars the connection has come through; 0: nobody says.
    pub fn hops(&self) -> u8 {
        self.first(TLV_HOPS).and_then(|value| value.first()).copied().unwrap_or_default()
    }
}

/// A header that was read.
#[derive(Debug, PartialEq, Eq)]
pub struct Told {
    /// Its bytes.
    pub length: usize,
    /// Who opened the connection, and to where; none: the load balancer itself did, or it does not say.
    pub addresses: Option<(SocketAddr, SocketAddr)>,
    /// What else it says.
    pub tlvs: Tlvs,
}

/// The header that these bytes begin with; none: they begin with something else.
pub fn read(bytes: &[u8]) -> Seen<Option<Told>> {
    let told = match HeaderResult::parse(bytes) {
        result if result.is_incomplete() => return Seen::Part,
        HeaderResult::V1(Ok(header)) => {
            let addresses = match header.addresses {
                v1::Addresses::Unknown => None,
                v1::Addresses::Tcp4(a) => Some((
                    SocketAddr::from((a.source_address, a.source_port)),
                    SocketAddr::from((a.destination_address, a.destination_port)),
                )),
                v1::Addresses::Tcp6(a) => Some((
                    SocketAddr::from((a.source_address, a.source_port)),
                    SocketAddr::from((a.destination_address, a.destination_port)),
                )),
            };
            Told { length: header.header.len(), addresses, tlvs: Tlvs::default() }
        }
        HeaderResult::V2(Ok(header)) => match of_v2(&header) {
            Some(told) => told,
            None => return Seen::All(None),
        },
        HeaderResult::V1(Err(_)) | HeaderResult::V2(Err(_)) => return Seen::All(None),
    };
    Seen::All(Some(told))
}

fn of_v2(header: &Header<'_>) -> Option<Told> {
    let mut tlvs = Vec::new();
    for tlv in header.tlvs() {
        let tlv = tlv.ok()?;
        if tlvs.len() >= TLVS_MAX {
            return None;
        }
        tlvs.push((tlv.kind, tlv.value.to_vec()));
    }
    let addresses = match (header.command, &header.addresses) {
        // Health checks of the load balancer.
        (Command::Local, _) => None,
        (Command::Proxy, V2::IPv4(a)) => Some((
            SocketAddr::from((a.source_address, a.source_port)),
            SocketAddr::from((a.destination_address, a.destination_port)),
        )),
        (Command::Proxy, V2::IPv6(a)) => Some((
            SocketAddr::from((a.source_address, a.source_port)),
            SocketAddr::from((a.destination_address, a.destination_port)),
        )),
        (Command::Proxy, V2::Unspecified | V2::Unix(_)) => None,
    };
    Some(Told { length: header.header.len(), addresses, tlvs: Tlvs(tlvs) })
}

/// What an endpoint is told that asks for it: who opened the connection and to where (said only together), what its TLS is
/// for, the SPIFFE ID of the workload that calls, and how many `hops` it has come by.
pub fn write(
    source: Option<SocketAddr>,
    destination: Option<SocketAddr>,
    server_name: Option<&str>,
    caller: Option<&str>,
    hops: u8,
) -> Vec<u8> {
    // Who asked for a name, and not for an address, is known all the same.
    let nowhere = |from: SocketAddr| match from {
        SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
        SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
    };
    let destination = destination.or_else(|| source.map(nowhere));
    let (command, addresses) = match (source, destination) {
        (Some(SocketAddr::V4(from)), Some(SocketAddr::V4(to))) => {
            let v4 = IPv4::new(*from.ip(), *to.ip(), from.port(), to.port());
            (Command::Proxy, V2::IPv4(v4))
        }
        (Some(from), Some(to)) => {
            let mapped = |address: SocketAddr| match address {
                SocketAddr::V4(v4) => v4.ip().to_ipv6_mapped(),
                SocketAddr::V6(v6) => *v6.ip(),
            };
            let v6 = IPv6::new(mapped(from), mapped(to), from.port(), to.port());
            (Command::Proxy, V2::IPv6(v6))
        }
        // Said only together.
        _ => (Command::Proxy, V2::Unspecified),
    };
    let name = server_name.map(|name| (Type::Authority as u8, name.as_bytes()));
    let caller = caller.map(|caller| (TLV_IDENTITY, caller.as_bytes()));
    let hops = [hops];
    let mut builder = Builder::with_addresses(Version::Two | command, Protocol::Stream, addresses);
    for (kind, value) in name.into_iter().chain(caller).chain([(TLV_HOPS, &hops[..])]) {
        // A name and an identity are far shorter than what does not fit.
        builder = match builder.write_tlv(kind, value) {
            Ok(builder) => builder,
            Err(_) => return Vec::new(),
        };
    }
    builder.build().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let caller = "spiffe://acme.example/cluster/west/ns/shop/sa/web";
        for (source, destination) in
            [("192.0.2.7:4711", "198.51.100.1:5432"), ("[2001:db8::7]:4711", "[2001:db8::1]:5432")]
        {
            let (from, to) = (source.parse().ok(), destination.parse().ok());
            let mut bytes = write(from, to, Some("cart.shop.mesh"), Some(caller), 3);
            let length = bytes.len();
            bytes.extend(b"SELECT 1");
            let Seen::All(Some(told)) = read(&bytes) else { panic!("{bytes:?}") };
            assert_eq!(told.length, length);
            assert_eq!(told.addresses, Some((source.parse().unwrap(), destination.parse().unwrap())));
            assert_eq!(told.tlvs.first(TLV_IDENTITY), Some(caller.as_bytes()));
            assert_eq!(told.tlvs.hops(), 3);
            assert_eq!(told.tlvs.first(Type::Authority as u8), Some(&b"cart.shop.mesh"[..]));
            for cut in 0..length {
                assert_eq!(read(&bytes[..cut]), Seen::Part, "{cut}");
            }
        }
        let named = write("192.0.2.7:4711".parse().ok(), None, None, None, 0);
        let Seen::All(Some(told)) = read(&named) else { panic!("{named:?}") };
        assert_eq!(told.addresses, Some(("192.0.2.7:4711".parse().unwrap(), "0.0.0.0:0".parse().unwrap())));
        let unknown = write(None, None, None, None, 0);
        let Seen::All(Some(told)) = read(&unknown) else { panic!("{unknown:?}") };
        assert_eq!((told.addresses, told.length), (None, unknown.len()));
    }

    #[test]
    fn version_1_is_read_and_anything_else_is_none() {
        let Seen::All(Some(told)) = read(b"PROXY TCP4 192.0.2.7 198.51.100.1 4711 5432\r\nhello") else {
            panic!("a header");
        };
        let addresses = ("192.0.2.7:4711".parse().unwrap(), "198.51.100.1:5432".parse().unwrap());
        assert_eq!((told.addresses, told.length), (Some(addresses), 45));
        let Seen::All(Some(told)) = read(b"PROXY UNKNOWN\r\n") else { panic!("a header") };
        assert_eq!(told.addresses, None);
        for wrong in
            [&b"GET / HTTP/1.1\r\n"[..], b"PROXY TCP4 1 2 3 4\r\n", b"PROXY TCP4 1.2.3.4 1.2.3.4 99999 1\r\n"]
        {
            assert_eq!(read(wrong), Seen::All(None), "{wrong:?}");
        }
    }
}
