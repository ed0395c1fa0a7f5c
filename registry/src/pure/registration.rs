//! Endpoints that register themselves: what a registrar says, and the record of it in the store.
//!
//! A record belongs to its registrar, a process that shows 16 random bytes, and dies with that one's lease. Everything is
//! checked as strictly as in a manifest, for it ends in the same place; whether a service has these ports is known only
//! where both meet.

pub mod place;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use prost::Message;
use proto::{limits, register, store};

use crate::model::record::{BadRecord, all_differ, at_most, text};
use crate::model::{Endpoint, Port, PortNumbers, ServiceName, is_label};
use crate::store::{TTL_MAX, keys};

/// Largest weight of an endpoint in hundredths, as manifests have it.
const WEIGHT_MAX: u32 = 10_000;

/// Most requests that an endpoint may declare to hold at once, as manifests have it.
const CAPACITY_MAX: u32 = 1_000_000;

/// Shortest time to live: three words of the registrar fit in, and etcd grants no lease of less than two seconds.
pub const TTL_LEAST: Duration = Duration::from_secs(3);

/// The random bytes by which a registrar is known.
pub type RegistrarId = [u8; 16];

/// What a registrar begins with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Begin {
    /// The registrar.
    pub registrar: RegistrarId,
    /// How long its endpoints live after its last word.
    pub ttl: Duration,
    /// Its endpoints, at least one; each id once in its service.
    pub endpoints: Vec<(ServiceName, Endpoint)>,
    /// Whether they drain already.
    pub draining: bool,
}

/// A registered endpoint, as the store keeps it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registered {
    /// As it was registered.
    pub endpoint: Endpoint,
    /// Whether it takes nothing new.
    pub draining: bool,
    /// How long it lives after the last word of its registrar.
    pub ttl: Duration,
    /// Who may change it.
    pub registrar: RegistrarId,
    /// Who that is, for people: kept as far as [`limits::NAME_BYTES_MAX`].
    pub by: String,
}

/// Why a registration cannot be taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadRegistration {
    /// A field is wrong.
    #[error(transparent)]
    Record(#[from] BadRecord),
    /// What stands in the store is no record of the endpoint that its key names, or none of this version.
    #[error("`{0}` holds no record of this version")]
    Malformed(String),
    /// The registrar has another number of bytes.
    #[error("a registrar is known by 16 bytes, not by {0}")]
    Registrar(usize),
    /// The time to live is outside [`TTL_LEAST`] to [`TTL_MAX`].
    #[error("a time to live of {0:?} is outside {TTL_LEAST:?} to {TTL_MAX:?}")]
    Ttl(Duration),
    /// There is nothing to register.
    #[error("nothing to register: name at least one endpoint")]
    Nothing,
    /// The id has other characters than a manifest's may have.
    #[error("`{0}` is no endpoint id: write 1 to 253 visible ASCII characters, without spaces")]
    Id(String),
    /// The host is none.
    #[error("`{0}` is no host: write a DNS name or an IP address")]
    Host(String),
    /// A port's name is none.
    #[error("`{0}` is no name of a port: 1 to 63 of a-z, 0-9 and '-', a letter or digit at both ends")]
    PortName(String),
    /// The endpoint has no port.
    #[error("an endpoint has at least one port: such as `web=9001`")]
    NoPorts,
    /// The weight is outside 1 to 10000.
    #[error("a weight of {0} is outside 1 to {WEIGHT_MAX} hundredths")]
    Weight(u32),
    /// The capacity is outside 1 to 1000000.
    #[error("a capacity of {0} is outside 1 to {CAPACITY_MAX} requests")]
    Capacity(u32),
}

/// Why an endpoint does not fit the service that it serves.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Misfit {
    /// It has a port that the service has not.
    #[error("service {service} has no port `{port}`; its ports are {ports}")]
    NoSuchPort {
        /// The service.
        service: ServiceName,
        /// The port.
        port: String,
        /// What the service has.
        ports: String,
    },
    /// It lacks a port of the service.
    #[error("the number for port `{port}` of service {service} is missing; its ports are {ports}")]
    PortMissing {
        /// The service.
        service: ServiceName,
        /// The port.
        port: String,
        /// What the service has.
        ports: String,
    },
}

/// Whether an endpoint has a number for each of a service's ports, and no others.
///
/// # Errors
/// [`Misfit`]: the first that is too many or missing.
pub fn fits(endpoint: &Endpoint, service: &ServiceName, ports: &[Port]) -> Result<(), Misfit> {
    let names = || ports.iter().map(|port| &*port.name).collect::<Vec<_>>().join(", ");
    let mut given = endpoint.ports.iter().map(|(name, _)| name);
    if let Some(port) = given.find(|name| ports.iter().all(|port| port.name != **name)) {
        return Err(Misfit::NoSuchPort { service: service.clone(), port: port.to_string(), ports: names() });
    }
    if let Some(port) = ports.iter().find(|port| endpoint.ports.get(&port.name).is_none()) {
        return Err(Misfit::PortMissing {
            service: service.clone(),
            port: port.name.to_string(),
            ports: names(),
        });
    }
    Ok(())
}

impl Begin {
    /// What `begin` says, checked.
    ///
    /// # Errors
    /// [`BadRegistration`]: the first thing that is wrong.
    pub fn decode(begin: &register::Begin) -> Result<Self, BadRegistration> {
        at_most(begin.endpoints.len(), limits::REGISTER_ENDPOINTS_MAX, "endpoints of one registrar")?;
        if begin.endpoints.is_empty() {
            return Err(BadRegistration::Nothing);
        }
        let endpoints = begin.endpoints.iter().map(decode).collect::<Result<Vec<_>, _>>()?;
        all_differ(
            endpoints.iter().map(|(name, endpoint)| (name, &endpoint.id)),
            "endpoints of one service",
        )?;
        Ok(Self {
            registrar: decode_registrar(&begin.registrar)?,
            ttl: decode_ttl(begin.ttl_ms)?,
            endpoints,
            draining: begin.draining,
        })
    }

    /// The message that says it.
    pub fn encode(&self) -> register::Begin {
        register::Begin {
            registrar: self.registrar.to_vec(),
            ttl_ms: encode_ttl(self.ttl),
            endpoints: self.endpoints.iter().map(|(name, endpoint)| encode(name, endpoint)).collect(),
            draining: self.draining,
        }
    }
}

impl Registered {
    /// The value that keeps it.
    pub fn encode(&self) -> Bytes {
        let record = store::RegisteredEndpoint {
            endpoint: Some(encode_endpoint(&self.endpoint)),
            draining: self.draining,
            ttl_ms: encode_ttl(self.ttl),
            registrar: self.registrar.to_vec(),
            by: cut(&self.by, limits::NAME_BYTES_MAX).to_owned(),
        };
        record.encode_to_vec().into()
    }

    /// What stands under `key`, and whose it is.
    ///
    /// # Errors
    /// [`BadRegistration`]: the record is wrong, or this version cannot read it.
    pub fn decode(key: &str, value: &[u8]) -> Result<(ServiceName, Self), BadRegistration> {
        let malformed = || BadRegistration::Malformed(key.into());
        let (namespace, name, id) = keys::parse_endpoint(key).ok_or_else(malformed)?;
        let service = ServiceName::new(namespace, name).map_err(BadRecord::from)?;
        let record = store::RegisteredEndpoint::decode(value).map_err(|_| malformed())?;
        let endpoint = decode_endpoint(&record.endpoint.unwrap_or_default())?;
        if *endpoint.id != *id {
            return Err(malformed());
        }
        let registered = Self {
            endpoint,
            draining: record.draining,
            ttl: decode_ttl(record.ttl_ms)?,
            registrar: decode_registrar(&record.registrar)?,
            by: text(&record.by, "the registrar's name")?,
        };
        Ok((service, registered))
    }

    /// The endpoint as balancing is to see it: one that drains has no weight.
    pub fn effective(&self) -> Endpoint {
        let weight = if self.draining { 0 } else { self.endpoint.weight };
        Endpoint { weight, ..self.endpoint.clone() }
    }
}

/// The message that says which endpoint serves a service.
pub fn encode(name: &ServiceName, endpoint: &Endpoint) -> register::Registration {
    register::Registration {
        namespace: name.namespace.to_string(),
        service: name.name.to_string(),
        endpoint: Some(encode_endpoint(endpoint)),
    }
}

/// What such a message says, checked.
///
/// # Errors
/// [`BadRegistration`]: the first thing that is wrong.
pub fn decode(said: &register::Registration) -> Result<(ServiceName, Endpoint), BadRegistration> {
    let name = ServiceName::new(&said.namespace, &said.service).map_err(BadRecord::from)?;
    Ok((name, decode_endpoint(&said.endpoint.clone().unwrap_or_default())?))
}

/// In a line for people.
impl fmt::Display for Registered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Endpoint { host, ports, weight, .. } = &self.endpoint;
        let ports: Vec<String> = ports.iter().map(|(name, number)| format!("{name} {number}")).collect();
        let draining = if self.draining { ", draining" } else { "" };
        let (ports, ttl) = (ports.join(", "), self.ttl.as_secs());
        write!(
            f,
            "host {host}, ports {ports}, weight {weight}, time to live {ttl} s, by {}{draining}",
            self.by
        )
    }
}

fn encode_endpoint(endpoint: &Endpoint) -> register::Endpoint {
    register::Endpoint {
        id: endpoint.id.to_string(),
        host: endpoint.host.to_string(),
        ports: endpoint.ports.iter().map(|(name, number)| (name.to_string(), number.into())).collect(),
        weight: endpoint.weight,
        zone: endpoint.zone.to_string(),
        capacity: endpoint.capacity,
    }
}

fn decode_endpoint(said: &register::Endpoint) -> Result<Endpoint, BadRegistration> {
    if !matches!(said.id.len(), 1..=limits::NAME_BYTES_MAX) || !said.id.bytes().all(|b| b.is_ascii_graphic())
    {
        return Err(BadRegistration::Id(cut(&said.id, limits::NAME_BYTES_MAX).into()));
    }
    if !crate::model::is_host(&said.host) {
        return Err(BadRegistration::Host(cut(&said.host, limits::NAME_BYTES_MAX).into()));
    }
    at_most(said.ports.len(), limits::REGISTER_PORTS_MAX, "ports of one endpoint")?;
    if said.ports.is_empty() {
        return Err(BadRegistration::NoPorts);
    }
    let port = |(name, number): (&String, &u32)| {
        if !is_label(name) {
            return Err(BadRegistration::PortName(cut(name, limits::NAME_BYTES_MAX).into()));
        }
        let known = u16::try_from(*number).ok().filter(|&number| number != 0);
        Ok((name.as_str().into(), known.ok_or(BadRecord::PortNumber(*number))?))
    };
    let ports = said.ports.iter().map(port).collect::<Result<PortNumbers, BadRegistration>>()?;
    if !(1..=WEIGHT_MAX).contains(&said.weight) {
        return Err(BadRegistration::Weight(said.weight));
    }
    if let Some(capacity) = said.capacity.filter(|capacity| !(1..=CAPACITY_MAX).contains(capacity)) {
        return Err(BadRegistration::Capacity(capacity));
    }
    let zone = match &*said.zone {
        "" => Arc::default(),
        zone => text(zone, "an endpoint's zone")?.into(),
    };
    let (id, host) = (said.id.as_str().into(), said.host.as_str().into());
    Ok(Endpoint { id, host, ports, weight: said.weight, zone, capacity: said.capacity })
}

fn decode_registrar(bytes: &[u8]) -> Result<RegistrarId, BadRegistration> {
    bytes.try_into().map_err(|_| BadRegistration::Registrar(bytes.len()))
}

fn encode_ttl(ttl: Duration) -> u32 {
    u32::try_from(ttl.as_millis()).unwrap_or(u32::MAX)
}

fn decode_ttl(ms: u32) -> Result<Duration, BadRegistration> {
    let ttl = Duration::from_millis(ms.into());
    if (TTL_LEAST..=TTL_MAX).contains(&ttl) { Ok(ttl) } else { Err(BadRegistration::Ttl(ttl)) }
}

/// The first `max` bytes of a text, or a little less: whole characters.
fn cut(text: &str, max: usize) -> &str {
    &text[..text.floor_char_boundary(max)]
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::model::Protocol;

    fn said() -> register::Endpoint {
        register::Endpoint {
            id: "127.0.0.1:9001".into(),
            host: "127.0.0.1".into(),
            ports: [("web".into(), 9001)].into(),
            weight: 100,
            zone: "a".into(),
            capacity: Some(64),
        }
    }

    fn begin(endpoints: &[register::Endpoint]) -> register::Begin {
        let registration = |endpoint: &register::Endpoint| register::Registration {
            namespace: "shop".into(),
            service: "cart".into(),
            endpoint: Some(endpoint.clone()),
        };
        let endpoints = endpoints.iter().map(registration).collect();
        register::Begin { registrar: vec![7; 16], ttl_ms: 10_000, endpoints, draining: false }
    }

    fn wrong(change: impl FnOnce(&mut register::Endpoint)) -> BadRegistration {
        let mut said = said();
        change(&mut said);
        Begin::decode(&begin(&[said])).unwrap_err()
    }

    #[test]
    fn what_is_said_is_what_is_kept() {
        let said = begin(&[said()]);
        let begin = Begin::decode(&said).unwrap();
        assert_eq!(begin.encode(), said);
        let (name, endpoint) = begin.endpoints[0].clone();
        let registered = Registered {
            endpoint,
            draining: true,
            ttl: begin.ttl,
            registrar: begin.registrar,
            by: "uid 1000".into(),
        };
        let key = keys::endpoint(&name, &registered.endpoint.id);
        assert_eq!(Registered::decode(&key, &registered.encode()), Ok((name, registered.clone())));
        assert_eq!((registered.effective().weight, registered.endpoint.weight), (0, 100));
        assert_eq!(
            registered.to_string(),
            "host 127.0.0.1, ports web 9001, weight 100, time to live 10 s, by uid 1000, draining"
        );
        // The key says whose it is.
        for other in ["/ringway/v1/endpoints/shop/cart/b", "/ringway/v1/endpoints/shop", "/other"] {
            assert!(Registered::decode(other, &registered.encode()).is_err(), "{other}");
        }
        assert!(Registered::decode(&key, b"nonsense").is_err());
        // Who has a long name is cut, not refused.
        let long = Registered { by: "é".repeat(300), ..registered };
        let kept = Registered::decode(&key, &long.encode()).map(|(_, kept)| kept.by);
        assert_eq!(kept, Ok("é".repeat(limits::NAME_BYTES_MAX / 2)));
    }

    #[test]
    fn every_wrong_field_is_named() {
        assert_eq!(wrong(|e| e.id = "a b".into()), BadRegistration::Id("a b".into()));
        assert_eq!(wrong(|e| e.id = String::new()), BadRegistration::Id(String::new()));
        assert!(matches!(wrong(|e| e.id = "x".repeat(254)), BadRegistration::Id(_)));
        assert_eq!(wrong(|e| e.host = "a/b".into()), BadRegistration::Host("a/b".into()));
        assert_eq!(wrong(|e| e.ports.clear()), BadRegistration::NoPorts);
        assert_eq!(wrong(|e| e.ports.extend([("W".into(), 1)])), BadRegistration::PortName("W".into()));
        for number in [0, 65_536] {
            let error = wrong(|e| e.ports.extend([("web".into(), number)]));
            assert_eq!(error, BadRecord::PortNumber(number).into());
        }
        assert_eq!(wrong(|e| e.weight = 0), BadRegistration::Weight(0));
        assert_eq!(wrong(|e| e.weight = 10_001), BadRegistration::Weight(10_001));
        assert_eq!(wrong(|e| e.capacity = Some(0)), BadRegistration::Capacity(0));
        assert!(matches!(wrong(|e| e.zone = "\n".into()), BadRegistration::Record(BadRecord::Text(_))));
        let many = (0..=64).map(|n| (format!("p{n}"), 1)).collect();
        assert!(matches!(wrong(|e| e.ports = many), BadRegistration::Record(BadRecord::TooMany { .. })));
    }

    #[test]
    fn a_registrar_says_who_it_is_for_how_long_and_what() {
        let decode = |change: fn(&mut register::Begin)| {
            let mut begin = begin(&[said()]);
            change(&mut begin);
            Begin::decode(&begin).map(|begin| begin.endpoints.len())
        };
        assert_eq!(decode(|_| {}), Ok(1));
        assert_eq!(decode(|b| b.registrar.truncate(15)), Err(BadRegistration::Registrar(15)));
        assert_eq!(decode(|b| b.endpoints.clear()), Err(BadRegistration::Nothing));
        for ms in [2_999, 3_600_001] {
            let mut begin = begin(&[said()]);
            begin.ttl_ms = ms;
            assert!(matches!(Begin::decode(&begin), Err(BadRegistration::Ttl(_))), "{ms}");
        }
        let twice = Begin::decode(&begin(&[said(), said()])).unwrap_err();
        assert!(matches!(twice, BadRegistration::Record(BadRecord::Duplicate(_))), "{twice}");
        let many: Vec<_> = (0..=64).map(|n| register::Endpoint { id: format!("e{n}"), ..said() }).collect();
        assert!(Begin::decode(&begin(&many)).is_err());
        assert!(Begin::decode(&begin(&many[..64])).is_ok());
    }

    #[test]
    fn an_endpoint_fits_a_service_whose_ports_it_has() {
        let cart = ServiceName::new("shop", "cart").unwrap();
        let port = |name: &str, number| Port {
            name: name.into(),
            number,
            protocol: Protocol::Http,
            proxy_header: false,
        };
        let endpoint = decode_endpoint(&said()).unwrap();
        assert_eq!(fits(&endpoint, &cart, &[port("web", 80)]), Ok(()));
        let error = fits(&endpoint, &cart, &[port("http", 80)]).unwrap_err();
        assert_eq!(error.to_string(), "service shop/cart has no port `web`; its ports are http");
        let error = fits(&endpoint, &cart, &[port("web", 80), port("ops", 81)]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the number for port `ops` of service shop/cart is missing; its ports are web, ops"
        );
    }
}
