//! The placement contract of a TrafficPolicy.

use std::collections::BTreeMap;

use prost::Message;
use proto::limits::{CONTRACT_BYTES_MAX, CONTRACT_POINTS_MAX};
use serde_saphyr::{Location, Spanned};

use super::raw::{self, List};
use super::scope::{Scope, Target};
use super::suggest;
use super::units::{self, number};
use crate::model::record;
use crate::model::{ClusterName, Contract, HashKey, Member, Mode, OnOwnerUnavailable, Tier};

/// Most members: far above any real number of clusters, and cheap for every gateway to hold as a ring.
const MEMBERS_MAX: usize = 256;

/// Most tiers, and most entries of one.
const TIERS_MAX: usize = 64;

/// Most sources of the key: each is looked at in every request without the ones before.
const HASH_MAX: usize = 8;

/// Largest weight of a member in hundredths: a hundred times the usual one.
const WEIGHT_MAX: i128 = 10_000;

/// Reads `spec.placement`.
pub(super) fn read(field: &Spanned<raw::Placement>, scope: &mut Scope<'_, '_>) -> Option<Contract> {
    let raw = &field.value;
    let modes = [("local-first", Mode::LocalFirst), ("sharded", Mode::Sharded)];
    let mode = scope.optional(&raw.mode, "spec.placement.mode", units::word(&modes, &["weighted"]));
    let generations = number::<u64>(1..=i128::from(u64::MAX));
    let generation = scope.optional(&raw.generation, "spec.placement.generation", generations);
    let seeds = number::<u64>(0..=i128::from(u64::MAX));
    let seed = scope.optional(&raw.seed, "spec.placement.seed", seeds);
    let outcomes = [("next", OnOwnerUnavailable::Next), ("fail", OnOwnerUnavailable::Fail)];
    let outcome = scope.optional(
        &raw.on_owner_unavailable,
        "spec.placement.onOwnerUnavailable",
        units::word(&outcomes, &[]),
    );
    let members = match &raw.members {
        None => Some(None),
        Some(list) => members(list.referenced, &raw.members, scope).map(Some),
    };
    let tiers = match &raw.tiers {
        None => Some(None),
        Some(list) => tiers(list.referenced, &raw.tiers, members.as_ref(), scope).map(Some),
    };
    let hash = hash(&raw.hash, scope);
    let mode = mode?.unwrap_or(Mode::LocalFirst);
    if mode == Mode::Sharded {
        if let Some(tiers) = &raw.tiers {
            let hint = "leave `tiers` out, or choose `mode: local-first`";
            scope.error(tiers.referenced, "spec.placement.tiers have no meaning with `mode: sharded`", hint);
        }
        if raw.hash.as_ref().is_none_or(|list| list.value.is_empty()) {
            let hint = "add `hash: [{ header: x-user }]`, or choose `mode: local-first`";
            let message =
                "spec.placement: `sharded` without `hash` finds no key: every request is placed local-first";
            scope.warning(raw.mode.as_ref().map_or(field.referenced, |m| m.referenced), message, hint);
        }
    }
    let contract = Contract {
        generation: generation?.unwrap_or(1),
        mode,
        members: members?,
        seed: seed?.unwrap_or(0),
        tiers: tiers?,
        hash: hash?,
        on_owner_unavailable: outcome?.unwrap_or(OnOwnerUnavailable::Next),
    };
    let bytes = record::encode_contract(&contract).encoded_len();
    if bytes > CONTRACT_BYTES_MAX {
        let message = format!(
            "spec.placement has {bytes} bytes where it is told to peers, {CONTRACT_BYTES_MAX} are allowed"
        );
        let hint = "shorten `tiers` (`any` stands for every member) and the names of members and regions";
        scope.error(field.referenced, message, hint);
        return None;
    }
    Some(contract)
}

/// The members by ascending name: clusters unique, not all of weight 0.
fn members(at: Location, list: &List<raw::Member>, scope: &mut Scope<'_, '_>) -> Option<Vec<Member>> {
    const NAME: &str = "spec.placement.members";
    let list = scope.list(list, NAME, MEMBERS_MAX)?;
    let mut members: BTreeMap<ClusterName, Member> = BTreeMap::new();
    for entry in list {
        let (at, raw) = (entry.referenced, &entry.value);
        let cluster = scope.required(
            &raw.cluster,
            "spec.placement.members.cluster",
            at,
            "cluster: east",
            units::cluster,
        );
        let region =
            scope.required(&raw.region, "spec.placement.members.region", at, "region: us-east", units::zone);
        let weight =
            scope.optional(&raw.weight, "spec.placement.members.weight", number::<u32>(0..=WEIGHT_MAX));
        let at = raw.cluster.as_ref().map_or(at, |c| c.referenced);
        if let Some(cluster) = &cluster {
            scope.refers(at, Target::Cluster(cluster.to_string(), NAME));
        }
        let (Some(cluster), Some(region), Some(weight)) = (cluster, region, weight) else { continue };
        if members.contains_key(&cluster) {
            scope.error(at, format!("{NAME}: `{cluster}` is listed twice"), "list each cluster once");
            continue;
        }
        members.insert(cluster.clone(), Member { cluster, region, weight: weight.unwrap_or(100) });
    }
    if members.len() != list.len() {
        return None;
    }
    if members.values().all(|m| m.weight == 0) {
        let message = format!("{NAME}: no member has any weight: nobody could be placed");
        scope.error(
            at,
            message,
            "list the clusters that serve, with a weight such as 100, or leave `members` out",
        );
        return None;
    }
    let members: Vec<_> = members.into_values().collect();
    let points = record::points(&members);
    if points > CONTRACT_POINTS_MAX {
        let message = format!(
            "{NAME}: weights like these ask for {points} points of the ring, {CONTRACT_POINTS_MAX} are allowed"
        );
        let hint = format!(
            "divide all weights by {}: what counts is how they stand to each other",
            points.div_ceil(CONTRACT_POINTS_MAX)
        );
        scope.error(at, message, hint);
        return None;
    }
    Some(members)
}

/// The tiers. `members` is `None` where those are wrong, `Some(None)` where there are none.
fn tiers(
    at: Location,
    list: &List<Vec<Spanned<String>>>,
    members: Option<&Option<Vec<Member>>>,
    scope: &mut Scope<'_, '_>,
) -> Option<Vec<Vec<Tier>>> {
    const NAME: &str = "spec.placement.tiers";
    let list = scope.list(list, NAME, TIERS_MAX)?;
    if list.is_empty() {
        let hint = "leave `tiers` out for `[[local], [same-region], [any]]`";
        scope.error(at, format!("{NAME}: a list without tiers lets no traffic through"), hint);
        return None;
    }
    let mut tiers = Vec::new();
    let mut whole = true;
    for tier in list {
        if tier.value.is_empty() || tier.value.len() > TIERS_MAX {
            let message = format!("{NAME}: this tier has {} entries", tier.value.len());
            scope.error(tier.referenced, message, format!("write from 1 to {TIERS_MAX}, such as `[local]`"));
        }
        let entries = tier.value.iter().map(|entry| tier_entry(entry, members, scope));
        let entries: Vec<Option<Tier>> = entries.collect();
        whole &= !entries.is_empty() && entries.len() <= TIERS_MAX && entries.iter().all(Option::is_some);
        tiers.push(entries.into_iter().flatten().collect());
    }
    whole.then_some(tiers)
}

fn tier_entry(
    entry: &Spanned<String>,
    members: Option<&Option<Vec<Member>>>,
    scope: &mut Scope<'_, '_>,
) -> Option<Tier> {
    const NAME: &str = "spec.placement.tiers";
    match entry.value.as_str() {
        "local" => return Some(Tier::Local),
        "same-region" => return Some(Tier::SameRegion),
        "any" => return Some(Tier::Any),
        _ => {}
    }
    let cluster = scope.read(entry, NAME, units::cluster)?;
    match members {
        Some(Some(members)) if !members.iter().any(|m| m.cluster == cluster) => {
            let names = members.iter().map(|m| m.cluster.as_str());
            let words: Vec<&str> = ["local", "same-region", "any"].into_iter().chain(names).collect();
            let hint = suggest::hint(cluster.as_str(), &words, "write one of");
            let message = format!("{NAME}: `{cluster}` is neither a member nor one of the words");
            scope.error(entry.referenced, message, hint);
            None
        }
        Some(None) => {
            scope.refers(entry.referenced, Target::Cluster(cluster.to_string(), NAME));
            Some(Tier::Cluster(cluster))
        }
        _ => Some(Tier::Cluster(cluster)),
    }
}

/// The sources of the key.
fn hash(list: &List<raw::Hash>, scope: &mut Scope<'_, '_>) -> Option<Vec<HashKey>> {
    let list = scope.list(list, "spec.placement.hash", HASH_MAX)?;
    let keys: Vec<HashKey> = list.iter().filter_map(|entry| hash_key(entry, scope)).collect();
    (keys.len() == list.len()).then_some(keys)
}

fn hash_key(entry: &Spanned<raw::Hash>, scope: &mut Scope<'_, '_>) -> Option<HashKey> {
    const NAME: &str = "spec.placement.hash";
    let raw = &entry.value;
    let later = [("cookie", &raw.cookie), ("path", &raw.path), ("metadata", &raw.metadata)];
    for (word, field) in &later {
        scope.later(field, &format!("{NAME}.{word}"));
    }
    let available = [
        raw.header.is_some(),
        raw.query.is_some(),
        raw.source_ip.is_some(),
        raw.server_name.is_some(),
        raw.proxy_tlv.is_some(),
    ];
    let given = available.iter().filter(|given| **given).count();
    let postponed = later.iter().filter(|(_, field)| field.is_some()).count();
    if given + postponed != 1 {
        let hint = "write one of `{ header: x-user }`, `{ query: id }`, `{ sourceIp: {} }`, `{ serverName: {} }`, `{ proxyTlv: 224 }`, each an entry of its own";
        scope.error(entry.referenced, format!("{NAME}: an entry names exactly one source of the key"), hint);
        return None;
    }
    if let Some(name) = &raw.header {
        scope.read(name, NAME, units::header).map(HashKey::Header)
    } else if let Some(name) = &raw.query {
        scope.read(name, NAME, units::query).map(HashKey::Query)
    } else if let Some(kind) = &raw.proxy_tlv {
        scope.read(kind, NAME, number::<u8>(0..=255)).map(HashKey::ProxyTlv)
    } else if raw.source_ip.is_some() {
        Some(HashKey::SourceIp)
    } else {
        raw.server_name.is_some().then_some(HashKey::ServerName)
    }
}
