//! Imports and contracts on the wire and in the store: model types to and from [`proto::sync::Record`].
//!
//! Reading is strict: whatever this version does not understand of a contract makes the whole record unreadable, for
//! a contract half understood would place keys wrongly. The receiver skips and counts such a record.

use std::collections::BTreeSet;
use std::sync::Arc;

use prost::Message;
use proto::{limits, sync};

use crate::model::{
    BadLabel, ClusterName, Contract, HashKey, Import, Member, Mode, OnOwnerUnavailable, Port, Protocol,
    ServiceName, Tier,
};

/// Largest weight of a member, in hundredths: a hundred times the usual one, so that no member's share of the ring
/// needs more than some ten thousand points.
pub const MEMBER_WEIGHT_MAX: u32 = 10_000;

/// Why a record cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadRecord {
    /// Namespace, name or a cluster's name is no label.
    #[error("a name is malformed")]
    Name(#[from] BadLabel),
    /// A text that goes into logs, metrics or requests is empty, too long or holds control characters.
    #[error("{0} is empty, too long or holds control characters")]
    Text(&'static str),
    /// No port, or none that speaks a protocol this version knows.
    #[error("no port speaks a protocol that this version knows")]
    NoPorts,
    /// More entries than the protocol allows.
    #[error("more {what} than the {max} allowed")]
    TooMany {
        /// Of what there are too many.
        what: &'static str,
        /// How many are allowed.
        max: usize,
    },
    /// A port number outside 1 to 65535.
    #[error("port number {0} is outside 1 to 65535")]
    PortNumber(u32),
    /// Two entries of a list that must differ do not.
    #[error("two {0} are the same")]
    Duplicate(&'static str),
    /// An enum value or a choice that this version does not know.
    #[error("the contract's {0} is not known to this version")]
    Unknown(&'static str),
    /// A declared contract starts at generation 1.
    #[error("the contract has generation 0, which means that nobody declared one")]
    NoGeneration,
    /// An explicit list of members of which none has any weight: it would place nobody.
    #[error("no member has any weight")]
    NoMembers,
    /// Tiers, which `sharded` has no use for.
    #[error("a sharded contract has tiers")]
    TiersInSharded,
    /// A member's weight is above [`MEMBER_WEIGHT_MAX`].
    #[error("a member's weight of {0} is above {MEMBER_WEIGHT_MAX}")]
    Weight(u32),
    /// The members ask for a larger ring than [`limits::CONTRACT_POINTS_MAX`] points.
    #[error("its members ask for {0} points of the ring, {max} are allowed", max = limits::CONTRACT_POINTS_MAX)]
    Points(u64),
    /// The record is longer than [`limits::RECORD_BYTES_MAX`].
    #[error("it has {0} bytes, {max} are allowed", max = limits::RECORD_BYTES_MAX)]
    Bytes(usize),
}

/// The record of `import` in the history `epoch`.
pub fn encode(import: &Import, epoch: u64) -> sync::Record {
    sync::Record {
        namespace: import.name.namespace.to_string(),
        name: import.name.name.to_string(),
        ports: import.ports.iter().map(encode_port).collect(),
        region: import.region.to_string(),
        contract: import.contract.as_deref().map(encode_contract),
        epoch,
        revision: import.revision,
    }
}

pub(crate) fn encode_port(port: &Port) -> sync::Port {
    let protocol = match port.protocol {
        Protocol::Http => sync::Protocol::Http,
        Protocol::Grpc => sync::Protocol::Grpc,
        Protocol::Tcp => sync::Protocol::Tcp,
        Protocol::Tls => sync::Protocol::Tls,
        Protocol::Udp => sync::Protocol::Udp,
        Protocol::Thrift => sync::Protocol::Thrift,
        Protocol::Mux => sync::Protocol::Mux,
    };
    sync::Port {
        name: port.name.to_string(),
        number: port.number.into(),
        protocol: protocol.into(),
        proxy_header: port.proxy_header,
    }
}

pub(crate) fn encode_contract(contract: &Contract) -> sync::Contract {
    let mode = match contract.mode {
        Mode::LocalFirst => sync::Mode::LocalFirst,
        Mode::Sharded => sync::Mode::Sharded,
    };
    let on_owner_unavailable = match contract.on_owner_unavailable {
        OnOwnerUnavailable::Next => sync::OnOwnerUnavailable::Next,
        OnOwnerUnavailable::Fail => sync::OnOwnerUnavailable::Fail,
    };
    let tier = |tier: &Vec<Tier>| sync::Tier { entries: tier.iter().map(encode_tier_entry).collect() };
    let tiers = |tiers: &Vec<Vec<Tier>>| sync::Tiers { tiers: tiers.iter().map(tier).collect() };
    sync::Contract {
        generation: contract.generation,
        mode: mode.into(),
        members: contract.members.as_deref().map(encode_members),
        seed: contract.seed,
        tiers: contract.tiers.as_ref().map(tiers),
        hash: contract.hash.iter().map(encode_hash_key).collect(),
        on_owner_unavailable: on_owner_unavailable.into(),
    }
}

pub(crate) fn encode_members(members: &[Member]) -> sync::Members {
    let member = |member: &Member| sync::Member {
        cluster: member.cluster.to_string(),
        region: member.region.clone(),
        weight: member.weight,
    };
    sync::Members { members: members.iter().map(member).collect() }
}

fn encode_tier_entry(tier: &Tier) -> sync::TierEntry {
    use sync::tier_entry::Kind;
    let kind = match tier {
        Tier::Local => Kind::Relative(sync::Relative::Local.into()),
        Tier::SameRegion => Kind::Relative(sync::Relative::SameRegion.into()),
        Tier::Any => Kind::Relative(sync::Relative::Any.into()),
        Tier::Cluster(cluster) => Kind::Cluster(cluster.to_string()),
    };
    sync::TierEntry { kind: Some(kind) }
}

fn encode_hash_key(key: &HashKey) -> sync::HashKey {
    use sync::hash_key::Kind;
    let kind = match key {
        HashKey::Header(name) => Kind::Header(name.clone()),
        HashKey::Query(name) => Kind::Query(name.clone()),
        HashKey::SourceIp => Kind::SourceIp(sync::SourceIp {}),
        HashKey::ServerName => Kind::ServerName(sync::ServerName {}),
        HashKey::ProxyTlv(kind) => Kind::ProxyTlv((*kind).into()),
    };
    sync::HashKey { kind: Some(kind) }
}

/// The record of `import` as it stands in a store: without its place in a history, which is of one gateway of the peer.
pub fn stored(import: &Import) -> sync::Record {
    sync::Record { revision: 0, ..encode(import, 0) }
}

/// Points that the ring of `members` has, as `ring-v1` counts them.
pub fn points(members: &[Member]) -> u64 {
    let of = |member: &Member| u64::from(limits::RING_BASE) * u64::from(member.weight) / 100;
    members.iter().map(of).sum()
}

/// The import that `record` says, every name and number checked.
///
/// # Errors
/// [`BadRecord`]: the record is wrong, too large, or says something that this version does not understand.
pub fn decode(record: &sync::Record) -> Result<Import, BadRecord> {
    let bytes = record.encoded_len();
    if bytes > limits::RECORD_BYTES_MAX {
        return Err(BadRecord::Bytes(bytes));
    }
    Ok(Import {
        name: ServiceName::new(&record.namespace, &record.name)?,
        ports: decode_ports(&record.ports)?,
        region: text(&record.region, "the region")?.into(),
        contract: record.contract.as_ref().map(decode_contract).transpose()?.map(Box::new),
        revision: record.revision,
    })
}

/// Ports of a protocol that this version does not know are left out: the others still work.
pub(crate) fn decode_ports(ports: &[sync::Port]) -> Result<Arc<[Port]>, BadRecord> {
    at_most(ports.len(), limits::RECORD_PORTS_MAX, "ports")?;
    let mut known = Vec::with_capacity(ports.len());
    for port in ports {
        let protocol = match port.protocol() {
            sync::Protocol::Http => Protocol::Http,
            sync::Protocol::Grpc => Protocol::Grpc,
            sync::Protocol::Tcp => Protocol::Tcp,
            sync::Protocol::Tls => Protocol::Tls,
            sync::Protocol::Udp => Protocol::Udp,
            sync::Protocol::Thrift => Protocol::Thrift,
            sync::Protocol::Mux => Protocol::Mux,
            sync::Protocol::Unspecified => continue,
        };
        let number = u16::try_from(port.number).ok().filter(|&number| number != 0);
        let number = number.ok_or(BadRecord::PortNumber(port.number))?;
        let name = text(&port.name, "a port's name")?.into();
        known.push(Port { name, number, protocol, proxy_header: port.proxy_header });
    }
    if known.is_empty() {
        return Err(BadRecord::NoPorts);
    }
    all_differ(known.iter().map(|port| &port.name), "ports' names")?;
    all_differ(known.iter().map(|port| port.number), "ports' numbers")?;
    Ok(known.into())
}

pub(crate) fn decode_contract(contract: &sync::Contract) -> Result<Contract, BadRecord> {
    if contract.generation == 0 {
        return Err(BadRecord::NoGeneration);
    }
    at_most(contract.hash.len(), limits::CONTRACT_HASH_KEYS_MAX, "hash keys")?;
    let mode = match contract.mode() {
        sync::Mode::LocalFirst => Mode::LocalFirst,
        sync::Mode::Sharded if contract.tiers.is_some() => return Err(BadRecord::TiersInSharded),
        sync::Mode::Sharded => Mode::Sharded,
        sync::Mode::Unspecified => return Err(BadRecord::Unknown("mode")),
    };
    Ok(Contract {
        generation: contract.generation,
        mode,
        members: contract.members.as_ref().map(decode_members).transpose()?,
        seed: contract.seed,
        tiers: contract.tiers.as_ref().map(decode_tiers).transpose()?,
        hash: contract.hash.iter().map(decode_hash_key).collect::<Result<_, _>>()?,
        on_owner_unavailable: match contract.on_owner_unavailable() {
            sync::OnOwnerUnavailable::Next => OnOwnerUnavailable::Next,
            sync::OnOwnerUnavailable::Fail => OnOwnerUnavailable::Fail,
            sync::OnOwnerUnavailable::Unspecified => {
                return Err(BadRecord::Unknown("`onOwnerUnavailable`"));
            }
        },
    })
}

/// Sorted here whatever the sender's order: equal contracts must compare equal.
pub(crate) fn decode_members(members: &sync::Members) -> Result<Vec<Member>, BadRecord> {
    at_most(members.members.len(), limits::CONTRACT_MEMBERS_MAX, "members")?;
    let decode = |member: &sync::Member| {
        if member.weight > MEMBER_WEIGHT_MAX {
            return Err(BadRecord::Weight(member.weight));
        }
        let cluster = ClusterName::new(&member.cluster)?;
        Ok(Member { cluster, region: text(&member.region, "a member's region")?, weight: member.weight })
    };
    let mut members = members.members.iter().map(decode).collect::<Result<Vec<_>, _>>()?;
    members.sort_by(|a, b| a.cluster.cmp(&b.cluster));
    all_differ(members.iter().map(|member| &member.cluster), "members")?;
    if members.iter().all(|member| member.weight == 0) {
        return Err(BadRecord::NoMembers);
    }
    let points = points(&members);
    if points > limits::CONTRACT_POINTS_MAX {
        return Err(BadRecord::Points(points));
    }
    Ok(members)
}

fn decode_tiers(tiers: &sync::Tiers) -> Result<Vec<Vec<Tier>>, BadRecord> {
    at_most(tiers.tiers.len(), limits::CONTRACT_TIERS_MAX, "tiers")?;
    let decode = |tier: &sync::Tier| {
        at_most(tier.entries.len(), limits::CONTRACT_TIERS_MAX, "entries in a tier")?;
        tier.entries.iter().map(decode_tier_entry).collect()
    };
    tiers.tiers.iter().map(decode).collect()
}

fn decode_tier_entry(entry: &sync::TierEntry) -> Result<Tier, BadRecord> {
    use sync::tier_entry::Kind;
    let unknown = BadRecord::Unknown("tier");
    match &entry.kind {
        Some(Kind::Cluster(cluster)) => Ok(Tier::Cluster(ClusterName::new(cluster)?)),
        Some(Kind::Relative(relative)) => match sync::Relative::try_from(*relative) {
            Ok(sync::Relative::Local) => Ok(Tier::Local),
            Ok(sync::Relative::SameRegion) => Ok(Tier::SameRegion),
            Ok(sync::Relative::Any) => Ok(Tier::Any),
            Ok(sync::Relative::Unspecified) | Err(_) => Err(unknown),
        },
        None => Err(unknown),
    }
}

fn decode_hash_key(key: &sync::HashKey) -> Result<HashKey, BadRecord> {
    use sync::hash_key::Kind;
    match &key.kind {
        // Requests' field names are compared in lower case (RFC 9113, section 8.2.1).
        Some(Kind::Header(name)) => Ok(HashKey::Header(text(name, "a header's name")?.to_ascii_lowercase())),
        Some(Kind::Query(name)) => Ok(HashKey::Query(text(name, "a query parameter's name")?)),
        Some(Kind::SourceIp(_)) => Ok(HashKey::SourceIp),
        Some(Kind::ServerName(_)) => Ok(HashKey::ServerName),
        Some(Kind::ProxyTlv(kind)) => {
            u8::try_from(*kind).map(HashKey::ProxyTlv).map_err(|_| BadRecord::Unknown("hash key"))
        }
        None => Err(BadRecord::Unknown("hash key")),
    }
}

pub(crate) fn at_most(len: usize, max: usize, what: &'static str) -> Result<(), BadRecord> {
    if len > max { Err(BadRecord::TooMany { what, max }) } else { Ok(()) }
}

pub(crate) fn text(value: &str, what: &'static str) -> Result<String, BadRecord> {
    let fits = !value.is_empty() && value.len() <= limits::NAME_BYTES_MAX;
    if fits && !value.chars().any(char::is_control) { Ok(value.into()) } else { Err(BadRecord::Text(what)) }
}

pub(crate) fn all_differ<T: Ord>(
    items: impl Iterator<Item = T>,
    what: &'static str,
) -> Result<(), BadRecord> {
    let mut seen = BTreeSet::new();
    for item in items {
        if !seen.insert(item) {
            return Err(BadRecord::Duplicate(what));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
