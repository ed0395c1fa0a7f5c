#![allow(clippy::unwrap_used)]

mod versions;

use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::model::{Declared, Grant, HashKey, Hosts, ImportRule, Link, Mode, OnOwnerUnavailable, Protocol};

fn cluster(name: &str) -> ClusterName {
    ClusterName::new(name).unwrap()
}

fn cart() -> ServiceName {
    ServiceName::new("shop", "cart").unwrap()
}

fn ports(number: u16) -> Arc<[Port]> {
    [Port { name: "web".into(), number, protocol: Protocol::Http }].into()
}

fn contract(generation: u64, seed: u64) -> Contract {
    let hash = vec![HashKey::Header("x-user".into())];
    Contract { generation, mode: Mode::Sharded, seed, hash, ..Contract::default() }
}

fn members(names: &[&str]) -> Vec<Member> {
    let member = |name: &&str| Member { cluster: cluster(name), region: format!("r-{name}"), weight: 100 };
    names.iter().map(member).collect()
}

/// A catalog of cluster `west` that declares and imports nothing yet.
fn west() -> Catalog {
    Catalog {
        revision: 1,
        cluster: cluster("west"),
        region: "r-west".into(),
        declared: Declared::default(),
        imports: BTreeMap::new(),
    }
}

fn serve(catalog: &mut Catalog, number: u16) {
    let service = Service {
        name: cart(),
        ports: ports(number),
        endpoints: Vec::new(),
        health_check: None,
        export: Grant::Everyone,
        registration: Hosts::default(),
    };
    catalog.declared.services.insert(cart(), service.into());
}

fn policy(catalog: &mut Catalog, placement: Option<Contract>) {
    let policy = Policy {
        name: "cart".into(),
        service: cart(),
        placement,
        balance: Algorithm::RoundRobin,
        retry: Retry { attempts: 7, ..Retry::default() },
        timeout: Timeout::default(),
    };
    catalog.declared.policies.insert(cart(), policy.into());
}

fn link(catalog: &mut Catalog, peer: &str, import: &[(Option<&str>, bool)]) {
    let rule = |(namespace, union): &(Option<&str>, bool)| ImportRule {
        namespace: namespace.map(Into::into),
        union: *union,
    };
    let link = Link {
        cluster: cluster(peer),
        addresses: Vec::new(),
        trust_domain: "acme.example".into(),
        import: import.iter().map(rule).collect(),
        expire_after: crate::mirror::EXPIRE_AFTER,
        allow_apply: Vec::new(),
    };
    catalog.declared.links.insert(cluster(peer), link);
}

fn import(catalog: &mut Catalog, peer: &str, number: u16, contract: Option<Contract>) {
    let region = format!("r-{peer}").into();
    let import =
        Import { name: cart(), ports: ports(number), region, contract: contract.map(Box::new), revision: 1 };
    let imports = catalog.imports.entry(cluster(peer)).or_default();
    Arc::make_mut(imports).services.insert(cart(), Arc::new(import));
}

/// `peer` linked, and its `cart` in the union.
fn join_peer(catalog: &mut Catalog, peer: &str, contract: Option<Contract>) {
    link(catalog, peer, &[(None, true)]);
    import(catalog, peer, 80, contract);
}

fn servers(placed: &Placed) -> Vec<&str> {
    placed.servers.keys().map(ClusterName::as_str).collect()
}

fn reasons(resolved: &Resolved) -> Vec<&str> {
    resolved.conditions.iter().map(|condition| condition.reason).collect()
}

fn union_of(resolved: &Resolved) -> &Placed {
    &resolved.union[&cart()]
}

#[test]
fn nobody_declared_a_contract_so_known_servers_share_at_weight_100() {
    let mut catalog = west();
    serve(&mut catalog, 80);
    join_peer(&mut catalog, "east", None);
    let resolved = resolve(&catalog);
    let placed = union_of(&resolved);
    assert_eq!(placed.contract, Contract::default());
    assert_eq!((placed.contract.generation, placed.contract.mode), (0, Mode::LocalFirst));
    assert_eq!(placed.contract.on_owner_unavailable, OnOwnerUnavailable::Next);
    assert_eq!(placed.contract_from, None);
    assert_eq!(placed.members, members(&["east", "west"]));
    assert_eq!(resolved.conditions, []);
}

#[test]
fn an_import_without_union_is_reached_by_its_pinned_name_only() {
    let mut catalog = west();
    link(&mut catalog, "east", &[(None, false)]);
    import(&mut catalog, "east", 80, None);
    let resolved = resolve(&catalog);
    assert!(resolved.union.is_empty());
    let pinned = &resolved.pinned[&(cart(), cluster("east"))];
    assert_eq!(servers(pinned), ["east"]);
    assert_eq!(pinned.members, members(&["east"]));
}

#[test]
fn the_first_import_rule_that_matches_decides() {
    for (rules, in_union) in [
        (&[(Some("shop"), true), (None, false)][..], Some(true)),
        (&[(None, false), (Some("shop"), true)], Some(false)),
        (&[(Some("bank"), true)], None),
    ] {
        let mut catalog = west();
        link(&mut catalog, "east", rules);
        import(&mut catalog, "east", 80, None);
        let resolved = resolve(&catalog);
        assert_eq!(resolved.union.contains_key(&cart()), in_union == Some(true), "{rules:?}");
        assert_eq!(resolved.pinned.len(), usize::from(in_union.is_some()), "{rules:?}");
    }
}

#[test]
fn imports_of_a_removed_link_count_for_nothing() {
    let mut catalog = west();
    import(&mut catalog, "east", 80, Some(contract(3, 0)));
    assert_eq!(resolve(&catalog), Resolved::default());
}

#[test]
fn our_own_service_has_a_pinned_name_too() {
    let mut catalog = west();
    serve(&mut catalog, 80);
    join_peer(&mut catalog, "east", None);
    let resolved = resolve(&catalog);
    assert_eq!(servers(&resolved.pinned[&(cart(), cluster("west"))]), ["west"]);
    assert_eq!(servers(&resolved.pinned[&(cart(), cluster("east"))]), ["east"]);
}

#[test]
fn the_highest_generation_counts_whoever_declared_it() {
    for (ours, theirs, from) in [(1, 2, "east"), (2, 1, "west")] {
        let mut catalog = west();
        serve(&mut catalog, 80);
        policy(&mut catalog, Some(contract(ours, 1)));
        join_peer(&mut catalog, "east", Some(contract(theirs, 2)));
        let resolved = resolve(&catalog);
        assert_eq!(union_of(&resolved).contract.generation, 2);
        assert_eq!(union_of(&resolved).contract_from, Some(cluster(from)));
        assert_eq!(resolved.conditions, []);
    }
}

#[test]
fn equal_generation_with_other_content_is_a_conflict_and_the_smallest_name_serves() {
    let mut catalog = west();
    serve(&mut catalog, 80);
    policy(&mut catalog, Some(contract(4, 1)));
    join_peer(&mut catalog, "north", Some(contract(4, 2)));
    join_peer(&mut catalog, "east", Some(contract(4, 1)));
    let resolved = resolve(&catalog);
    assert_eq!(union_of(&resolved).contract_from, Some(cluster("east")));
    assert_eq!(reasons(&resolved), ["ContractsDiffer"]);
    assert!(resolved.conditions[0].message.starts_with("`north` declares another placement of generation 4"));
    let both = ["east", "north"].map(|peer| (cluster(peer), Disagreement::Contracts));
    assert_eq!(disagreements(&catalog, &cart()), both.into());
}

#[test]
fn equal_generation_with_the_same_content_is_no_conflict() {
    let mut catalog = west();
    serve(&mut catalog, 80);
    policy(&mut catalog, Some(contract(4, 1)));
    join_peer(&mut catalog, "east", Some(contract(4, 1)));
    assert_eq!(resolve(&catalog).conditions, []);
}

#[test]
fn placement_of_a_cluster_that_does_not_serve_is_inert_but_its_retries_count() {
    let mut catalog = west();
    policy(&mut catalog, Some(contract(9, 1)));
    join_peer(&mut catalog, "east", Some(contract(1, 2)));
    let resolved = resolve(&catalog);
    assert_eq!(union_of(&resolved).contract.generation, 1);
    assert_eq!(union_of(&resolved).retry.attempts, 7);
    assert_eq!(reasons(&resolved), ["PlacementInert"]);
    assert_eq!(resolved.conditions[0].object, "TrafficPolicy shop/cart");
}

#[test]
fn a_peer_outside_the_union_has_no_say_in_the_contract() {
    let mut catalog = west();
    serve(&mut catalog, 80);
    link(&mut catalog, "east", &[(None, false)]);
    import(&mut catalog, "east", 80, Some(contract(9, 1)));
    let resolved = resolve(&catalog);
    assert_eq!(union_of(&resolved).contract.generation, 0);
    assert_eq!(servers(union_of(&resolved)), ["west"]);
    assert_eq!(resolved.pinned[&(cart(), cluster("east"))].contract.generation, 9);
}

#[test]
fn explicit_members_stay_in_the_ring_without_a_link_and_leave_others_out() {
    let mut catalog = west();
    serve(&mut catalog, 80);
    let explicit = Contract { members: Some(members(&["south", "west"])), ..contract(1, 0) };
    policy(&mut catalog, Some(explicit));
    join_peer(&mut catalog, "east", None);
    let resolved = resolve(&catalog);
    assert_eq!(union_of(&resolved).members, members(&["south", "west"]));
    assert_eq!(servers(union_of(&resolved)), ["east", "west"]);
    assert_eq!(reasons(&resolved), ["NotAMember"]);
    assert!(resolved.conditions[0].message.contains("`east`"));
}

#[test]
fn other_ports_keep_a_peer_out_of_the_union_but_not_from_its_pinned_name() {
    let mut catalog = west();
    serve(&mut catalog, 80);
    link(&mut catalog, "east", &[(None, true)]);
    import(&mut catalog, "east", 81, Some(contract(9, 0)));
    let resolved = resolve(&catalog);
    assert_eq!(servers(union_of(&resolved)), ["west"]);
    assert_eq!(union_of(&resolved).contract.generation, 0);
    assert_eq!(resolved.pinned[&(cart(), cluster("east"))].ports, ports(81));
    assert_eq!(reasons(&resolved), ["PortsDiffer"]);
    assert_eq!(disagreements(&catalog, &cart()), [(cluster("east"), Disagreement::Ports)].into());
}

#[test]
fn where_we_do_not_serve_the_smallest_name_sets_the_ports() {
    let mut catalog = west();
    join_peer(&mut catalog, "north", None);
    link(&mut catalog, "east", &[(None, true)]);
    import(&mut catalog, "east", 81, None);
    let resolved = resolve(&catalog);
    assert_eq!(servers(union_of(&resolved)), ["east"]);
    assert_eq!(union_of(&resolved).ports, ports(81));
}

#[test]
fn the_same_ports_in_another_order_agree_unless_the_default_differs() {
    let port = |name: &str, number| Port { name: name.into(), number, protocol: Protocol::Http };
    let (a, b, c) = (port("a", 1), port("b", 2), port("c", 3));
    assert!(same_ports(&[a.clone(), b.clone(), c.clone()], &[a.clone(), c.clone(), b.clone()]));
    assert!(!same_ports(&[a.clone(), b.clone()], &[b, a]));
}

proptest! {
    /// What DESIGN 6 promises whatever the declarations: all clusters that see the same offers take the same contract.
    #[test]
    fn every_fully_linked_cluster_takes_the_same_contract(
        generations in prop::collection::vec((prop::option::of(1_u64..4), 0_u64..2), 3),
    ) {
        let names = ["east", "north", "west"];
        let offer = |i: usize| generations[i].0.map(|generation| contract(generation, generations[i].1));
        let chosen: Vec<_> = (0..names.len()).map(|us| {
            let mut catalog = Catalog { cluster: cluster(names[us]), region: format!("r-{}", names[us]), ..west() };
            serve(&mut catalog, 80);
            policy(&mut catalog, offer(us));
            for peer in (0..names.len()).filter(|&peer| peer != us) {
                join_peer(&mut catalog, names[peer], offer(peer));
            }
            let mut resolved = resolve(&catalog);
            let placed = resolved.union.remove(&cart()).unwrap();
            (placed.contract, placed.contract_from, placed.members, placed.servers)
        }).collect();
        prop_assert_eq!(&chosen[0], &chosen[1]);
        prop_assert_eq!(&chosen[1], &chosen[2]);
        let highest = generations.iter().filter_map(|(generation, _)| *generation).max().unwrap_or(0);
        prop_assert_eq!(chosen[0].0.generation, highest);
    }
}
