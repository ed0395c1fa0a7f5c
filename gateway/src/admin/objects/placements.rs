//! By what services are placed before a change and after it: `ringway diff` counts the keys that move from this.
//!
//! Pure: two catalogs in. Who serves and whose contract counts is the union's to say, as for requests.

use registry::model::{Catalog, Contract, HashKey, Kind, Member, ObjectName, ServiceName};
use registry::pure::union;

use crate::admin::status::mode;
use admin_api::rpc::{self, Placed, Placement};

/// Services that one answer speaks of: a Link may change the placement of every service. Of more the number is said.
const PLACEMENTS_MAX: usize = 100;

/// The services that are placed otherwise afterwards, or whose policy says so without effect, as far as `may` lets see
/// their objects; and how many more there are.
pub(super) fn placements(
    before: &Catalog,
    after: &Catalog,
    may: impl Fn(&ObjectName) -> bool,
) -> (Vec<Placement>, u32) {
    let seen = |name: &ServiceName| {
        let object = |kind| ObjectName::new(kind, &name.namespace, &name.name);
        may(&object(Kind::MeshService)) || may(&object(Kind::TrafficPolicy))
    };
    let names = union::changed(before, after).unwrap_or_else(|| names(before).chain(names(after)).collect());
    let names = names.into_iter().filter(|name| seen(name));
    let mut found: Vec<_> = names.filter_map(|name| placement(before, after, name)).collect();
    let more = found.len().saturating_sub(PLACEMENTS_MAX);
    found.truncate(PLACEMENTS_MAX);
    (found, u32::try_from(more).unwrap_or(u32::MAX))
}

/// Every name that may be placed.
fn names(catalog: &Catalog) -> impl Iterator<Item = &ServiceName> {
    let imported = catalog.imports.values().flat_map(|imports| imports.services.keys());
    catalog.declared.services.keys().chain(catalog.declared.policies.keys()).chain(imported)
}

fn placement(before: &Catalog, after: &Catalog, name: &ServiceName) -> Option<Placement> {
    let (was, is) = (placed(before, name), placed(after, name));
    if was == is && declared(before, name) == declared(after, name) {
        return None;
    }
    Some(Placement {
        namespace: name.namespace.to_string(),
        name: name.name.to_string(),
        before: was,
        after: is,
        notes: notes(after, name),
    })
}

/// The contract that this cluster declares itself.
fn declared<'a>(catalog: &'a Catalog, name: &ServiceName) -> Option<&'a Contract> {
    catalog.declared.policies.get(name)?.placement.as_ref()
}

/// By what a service is placed; where nobody serves it, by what it would be, if that is declared.
fn placed(catalog: &Catalog, name: &ServiceName) -> Option<Placed> {
    if let Some(union) = union::meaning(catalog, name).union {
        let from = union.contract_from.map(|from| from.to_string()).unwrap_or_default();
        return Some(of(&union.contract, &union.members, from, true));
    }
    let contract = declared(catalog, name)?;
    Some(of(contract, contract.members.as_ref()?, catalog.cluster.to_string(), false))
}

fn of(contract: &Contract, members: &[Member], contract_from: String, in_force: bool) -> Placed {
    let member = |member: &Member| rpc::Member {
        cluster: member.cluster.to_string(),
        region: member.region.clone(),
        weight: member.weight,
    };
    let key = |key: &HashKey| match key {
        HashKey::Header(name) => format!("header {name}"),
        HashKey::Query(name) => format!("query {name}"),
        HashKey::SourceIp => "sourceIp".into(),
        HashKey::ServerName => "serverName".into(),
        HashKey::ProxyTlv(kind) => format!("proxyTlv {kind}"),
    };
    Placed {
        generation: contract.generation,
        mode: mode(contract.mode).into(),
        seed: contract.seed,
        contract_from,
        members: members.iter().map(member).collect(),
        key: contract.hash.iter().map(key).collect(),
        in_force,
    }
}

/// What does not come of it as it is declared.
fn notes(catalog: &Catalog, name: &ServiceName) -> Vec<String> {
    let meaning = union::meaning(catalog, name);
    let mut notes: Vec<_> = meaning.conditions.into_iter().map(|condition| condition.message).collect();
    let outbid = || {
        let (own, union) = (declared(catalog, name)?, meaning.union?);
        let from = union.contract_from.filter(|from| *from != catalog.cluster)?;
        let serves = union.servers.contains_key(&catalog.cluster);
        let (theirs, ours) = (union.contract.generation, own.generation);
        (serves && theirs > ours).then(|| {
            format!(
                "the placement of cluster `{from}` counts, whose generation is {theirs}; this one has {ours}: \
                 raise it above that to make it count"
            )
        })
    };
    notes.extend(outbid());
    notes
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use registry::manifest::{Source, parse};
    use registry::model::{ClusterName, Import, PeerImports};

    use super::*;

    const LINK: &str = "kind: Link\nmetadata: { name: east }\nspec: { import: [{ union: true }] }\n";
    const CART: &str = "kind: MeshService\nmetadata: { name: cart, namespace: shop }\n\
                        spec: { ports: [{ name: web, port: 80, protocol: http }] }\n";

    fn policy(placement: &str) -> String {
        format!(
            "kind: TrafficPolicy\nmetadata: {{ name: cart, namespace: shop }}\nspec:\n  service: cart\n  \
             placement: {{ {placement} }}\n"
        )
    }

    /// What west knows that declares these documents, where east serves `shop/cart` by this contract.
    fn west(documents: &[&str], east: Option<Contract>) -> Catalog {
        let texts: Vec<_> =
            documents.iter().map(|text| format!("apiVersion: ringway.dev/v1alpha1\n{text}")).collect();
        let manifests = parse(&[Source { name: "west.yaml".into(), text: texts.join("---\n") }]).unwrap();
        let ports =
            parse(&[Source { name: "p".into(), text: format!("apiVersion: ringway.dev/v1alpha1\n{CART}") }])
                .unwrap()
                .declared
                .services
                .values()
                .next()
                .unwrap()
                .ports
                .clone();
        let name = cart();
        let import = Import {
            name: name.clone(),
            ports,
            region: "us-east".into(),
            contract: east.map(Box::new),
            revision: 1,
        };
        let services = [(name, Arc::new(import))].into_iter().collect();
        let imports = PeerImports { services, ..PeerImports::default() };
        Catalog {
            revision: 1,
            cluster: ClusterName::new("west").unwrap(),
            region: "us-west".into(),
            declared: manifests.declared,
            imports: BTreeMap::from([(ClusterName::new("east").unwrap(), Arc::new(imports))]),
        }
    }

    fn cart() -> ServiceName {
        ServiceName::new("shop", "cart").unwrap()
    }

    fn only(before: &Catalog, after: &Catalog) -> Placement {
        let (mut found, more) = placements(before, after, |_| true);
        assert_eq!((found.len(), more), (1, 0), "{found:?}");
        found.remove(0)
    }

    fn members(placed: &Placed) -> Vec<(&str, u32)> {
        placed.members.iter().map(|member| (&*member.cluster, member.weight)).collect()
    }

    #[test]
    fn without_a_policy_the_servers_that_are_known_are_the_members() {
        let before = west(&[LINK, CART], None);
        let open = policy("mode: sharded, generation: 3, hash: [{ header: x-user }]");
        let placement = only(&before, &west(&[LINK, CART, &open], None));
        let (was, is) = (placement.before.unwrap(), placement.after.unwrap());
        assert_eq!((was.generation, &*was.mode, &*was.contract_from), (0, "local-first", ""));
        assert_eq!((is.generation, &*is.mode, &*is.contract_from), (3, "sharded", "west"));
        assert_eq!(members(&was), [("east", 100), ("west", 100)]);
        assert_eq!((members(&is), &*is.key), (members(&was), &["header x-user".to_owned()][..]));
        assert!(is.in_force && was.in_force && placement.notes.is_empty());
    }

    #[test]
    fn a_service_that_comes_is_a_member_and_a_link_that_goes_takes_one_away() {
        let alone = west(&[CART], None);
        let placement = only(&west(&[LINK], None), &west(&[LINK, CART], None));
        assert_eq!(members(&placement.before.unwrap()), [("east", 100)]);
        let both = placement.after.unwrap();
        assert_eq!(members(&both), [("east", 100), ("west", 100)]);
        let placement = only(&west(&[LINK, CART], None), &alone);
        assert_eq!(members(&placement.after.unwrap()), [("west", 100)]);
        assert_eq!(placements(&alone, &alone, |_| true), (Vec::new(), 0));
        // What may not be seen is not told.
        assert_eq!(placements(&west(&[LINK, CART], None), &alone, |_| false), (Vec::new(), 0));
    }

    #[test]
    fn a_placement_that_does_not_count_says_why() {
        let east = Contract { generation: 5, ..Contract::default() };
        let ours = policy("generation: 2, mode: sharded");
        let before = west(&[LINK, CART], Some(east.clone()));
        let placement = only(&before, &west(&[LINK, CART, &ours], Some(east)));
        assert_eq!(placement.before, placement.after);
        assert!(placement.notes[0].contains("cluster `east` counts"), "{:?}", placement.notes);
        // Nobody here serves it.
        let placement = only(&west(&[LINK], None), &west(&[LINK, &ours], None));
        assert_eq!(placement.before, placement.after);
        assert!(placement.notes[0].contains("does not serve"), "{:?}", placement.notes);
        // Nobody at all does: as it is declared.
        let placement =
            only(&west(&[], None), &west(&[&policy("members: [{ cluster: a, region: r }]")], None));
        assert_eq!((placement.before, placement.after.unwrap().in_force), (None, false));
        assert!(placement.notes[0].contains("neither declared here nor imported"));
        let placement = only(&west(&[], None), &west(&[&ours], None));
        assert_eq!((placement.before, placement.after), (None, None));
    }

    #[test]
    fn of_more_than_are_told_the_number_is() {
        let service = |n: usize| CART.replace("name: cart", &format!("name: s{n}"));
        let many: Vec<_> = (0..PLACEMENTS_MAX + 7).map(service).collect();
        let many: Vec<_> = many.iter().map(String::as_str).collect();
        let (found, more) = placements(&west(&[], None), &west(&many, None), |_| true);
        assert_eq!((found.len(), more), (PLACEMENTS_MAX, 7));
    }
}
