#![allow(clippy::unwrap_used)]

mod agreement;
mod versions;

use std::sync::Arc;

use super::*;
use crate::model::{
    Declared, Grant, HashKey, Hosts, ImportRule, Link, Mode, OnOwnerUnavailable, Protocol, Tier,
};
use crate::testing::{self, cart, cluster};

fn ports(number: u16) -> Arc<[Port]> {
    [Port { name: "web".into(), number, protocol: Protocol::Http, proxy_header: false }].into()
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
        placement: Placement::Accept,
    };
    let link = Link { import: import.iter().map(rule).collect(), ..testing::link(peer) };
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

fn reasons(resolved: &Resolved) -> Vec<Reason> {
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
    assert_eq!(reasons(&resolved), [Reason::ContractsDiffer]);
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
    assert_eq!(reasons(&resolved), [Reason::PlacementInert]);
    assert_eq!(resolved.conditions[0].object.to_string(), "TrafficPolicy shop/cart");
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
    assert_eq!(reasons(&resolved), [Reason::NotAMember]);
    assert!(resolved.conditions[0].message.contains("`east`"));
}

fn closed(generation: u64, names: &[&str]) -> Contract {
    Contract { members: Some(members(names)), ..contract(generation, 0) }
}

#[test]
fn a_peers_contract_that_leaves_out_who_serves_is_a_conflict_and_no_candidate() {
    let mut catalog = west();
    serve(&mut catalog, 80);
    // Ten, so that the generation alone would win.
    join_peer(&mut catalog, "east", Some(closed(10, &["east"])));
    let resolved = resolve(&catalog);
    assert_eq!(union_of(&resolved).contract.generation, 0);
    assert_eq!(union_of(&resolved).members, members(&["east", "west"]));
    assert_eq!(reasons(&resolved), [Reason::LeavesOut]);
    assert!(resolved.conditions[0].message.starts_with("`east` declares"), "{:?}", resolved.conditions);
    // It takes another's place no more than ours.
    join_peer(&mut catalog, "north", None);
    join_peer(&mut catalog, "east", Some(closed(10, &["east", "west"])));
    let resolved = resolve(&catalog);
    assert_eq!((union_of(&resolved).contract.generation, reasons(&resolved)), (0, vec![Reason::LeavesOut]));
    assert!(resolved.conditions[0].message.contains("leaves out `north`"));
    // Where we only call it is the same.
    catalog.declared.services.remove(&cart());
    assert_eq!(reasons(&resolve(&catalog)), [Reason::LeavesOut]);
}

#[test]
fn whoever_is_left_out_may_agree_by_declaring_the_same() {
    for agrees in [false, true] {
        let mut catalog = west();
        serve(&mut catalog, 80);
        let rule = closed(3, &["east"]);
        policy(&mut catalog, agrees.then(|| rule.clone()));
        join_peer(&mut catalog, "east", Some(rule.clone()));
        let resolved = resolve(&catalog);
        let counts = if agrees { 3 } else { 0 };
        assert_eq!(union_of(&resolved).contract.generation, counts);
        // A cluster may always leave out itself.
        join_peer(&mut catalog, "east", Some(closed(4, &["west"])));
        assert_eq!(union_of(&resolve(&catalog)).contract.generation, 4);
    }
}

#[test]
fn no_peer_voids_what_we_declare_by_serving_as_well() {
    let mut catalog = west();
    serve(&mut catalog, 80);
    policy(&mut catalog, Some(closed(2, &["south", "west"])));
    for contract in [None, Some(closed(9, &["east"])), Some(closed(2, &["east"]))] {
        join_peer(&mut catalog, "east", contract);
        let resolved = resolve(&catalog);
        assert_eq!(union_of(&resolved).contract_from, Some(cluster("west")));
        assert_eq!(union_of(&resolved).members, members(&["south", "west"]));
    }
}

#[test]
fn weight_zero_and_tiers_leave_out_as_well_as_members_do() {
    let mut weightless = members(&["east", "west"]);
    weightless[1].weight = 0;
    let tier = |tiers: Vec<Tier>| Contract {
        mode: Mode::LocalFirst,
        tiers: Some(tiers.into_iter().map(|tier| vec![tier]).collect()),
        ..closed(7, &["east", "west"])
    };
    let east = || Tier::Cluster(cluster("east"));
    for (contract, counts) in [
        (Contract { members: Some(weightless), ..contract(7, 0) }, false),
        (tier(vec![east()]), false),
        (tier(vec![east(), Tier::Cluster(cluster("west"))]), true),
        (tier(vec![east(), Tier::Any]), true),
        (tier(vec![Tier::Local]), true),
        (closed(7, &["east", "west"]), true),
        (contract(7, 0), true),
    ] {
        let mut catalog = west();
        serve(&mut catalog, 80);
        join_peer(&mut catalog, "east", Some(contract.clone()));
        let resolved = resolve(&catalog);
        assert_eq!(union_of(&resolved).contract.generation == 7, counts, "{contract:?}");
        assert_eq!(resolved.conditions.is_empty(), counts);
    }
}

#[test]
fn a_link_may_ignore_what_its_peer_declares() {
    let mut catalog = west();
    serve(&mut catalog, 80);
    join_peer(&mut catalog, "east", Some(contract(9, 1)));
    join_peer(&mut catalog, "north", Some(closed(2, &["north", "west"])));
    assert_eq!(union_of(&resolve(&catalog)).contract.generation, 9);
    catalog.declared.links.get_mut(&cluster("east")).unwrap().import[0].placement = Placement::Ignore;
    let resolved = resolve(&catalog);
    // Nor does it void north's by being left out of it.
    assert_eq!(union_of(&resolved).contract_from, Some(cluster("north")));
    assert_eq!(servers(union_of(&resolved)), ["east", "north", "west"], "it serves all the same");
    assert_eq!(reasons(&resolved), [Reason::NotAMember]);
    let mut alone = west();
    join_peer(&mut alone, "east", Some(contract(9, 1)));
    alone.declared.links.get_mut(&cluster("east")).unwrap().import[0].placement = Placement::Ignore;
    assert_eq!(resolve(&alone).pinned[&(cart(), cluster("east"))].contract, Contract::default());
}

#[test]
fn a_generation_that_nobody_counts_to_is_refused_and_a_time_is_none() {
    const STEP: u64 = proto::limits::GENERATION_STEP_MAX;
    let counts = |ours: Option<u64>, theirs: &[u64]| {
        let mut catalog = west();
        serve(&mut catalog, 80);
        policy(&mut catalog, ours.map(|generation| contract(generation, 0)));
        for (peer, generation) in ["east", "north", "south"].iter().zip(theirs) {
            join_peer(&mut catalog, peer, Some(contract(*generation, 0)));
        }
        let resolved = resolve(&catalog);
        let refused =
            reasons(&resolved).iter().filter(|reason| **reason == Reason::GenerationTooHigh).count();
        (union_of(&resolved).contract.generation, refused)
    };
    assert_eq!(counts(None, &[u64::MAX]), (0, 1));
    assert_eq!(counts(None, &[STEP]), (STEP, 0));
    assert_eq!(counts(None, &[STEP + 1]), (0, 1));
    assert_eq!(counts(Some(5), &[STEP + 5]), (STEP + 5, 0));
    assert_eq!(counts(Some(5), &[STEP + 6]), (5, 1));
    // Ours is never refused, and raises what others may.
    assert_eq!(counts(Some(u64::MAX - 1), &[u64::MAX]), (u64::MAX, 0));
    // Two who agree with each other are no better than one.
    assert_eq!(counts(Some(5), &[u64::MAX, u64::MAX, 6]), (6, 2));
    // Seconds, milliseconds, microseconds, nanoseconds; a date, with the time, with the seconds.
    for time in [
        1_795_973_307,
        1_795_973_307_123,
        1_795_973_307_123_456,
        1_795_973_307_123_456_789,
        20_261_129,
        2_026_112_901,
        202_611_291_748,
        20_261_129_174_827,
    ] {
        assert_eq!(counts(Some(5), &[time]), (time, 0), "{time}");
    }
    for none in [1 << 63, 9_999_999_999_999, 5_000_000_000] {
        assert_eq!(counts(Some(5), &[none]), (5, 1), "{none}");
    }
}

#[test]
fn a_peer_that_is_gone_does_not_rule() {
    let mut catalog = west();
    serve(&mut catalog, 80);
    join_peer(&mut catalog, "east", Some(contract(9, 1)));
    let before = catalog.clone();
    assert_eq!(union_of(&resolve(&catalog)).contract.generation, 9);
    Arc::make_mut(catalog.imports.get_mut(&cluster("east")).unwrap()).contracts_lapsed = true;
    let resolved = resolve(&catalog);
    assert_eq!(union_of(&resolved).contract.generation, 0);
    assert_eq!(servers(union_of(&resolved)), ["east", "west"]);
    assert_eq!(reasons(&resolved), [Reason::DeclarerSilent]);
    assert_eq!(changed(&before, &catalog).unwrap(), [&cart()].into());
    assert!(changed(&catalog, &catalog).unwrap().is_empty());
    // It voids nobody's by being left out.
    join_peer(&mut catalog, "north", Some(closed(2, &["north", "west"])));
    assert_eq!(union_of(&resolve(&catalog)).contract_from, Some(cluster("north")));
}

#[test]
fn a_pinned_name_has_a_ring_of_one_whatever_its_cluster_declares() {
    let mut catalog = west();
    link(&mut catalog, "east", &[(None, false)]);
    let many: Vec<_> = (0..1_000).map(|n| format!("c{n}")).collect();
    let many: Vec<_> = many.iter().map(|name| &**name).collect();
    let rule = Contract { tiers: Some(vec![]), ..closed(9, &many) };
    import(&mut catalog, "east", 80, Some(rule.clone()));
    let pinned = &resolve(&catalog).pinned[&(cart(), cluster("east"))];
    assert_eq!(pinned.members, members(&["east"]));
    assert_eq!((pinned.contract.members.as_ref(), pinned.contract.tiers.as_ref()), (None, None));
    // What places a request among its endpoints is as it was.
    assert_eq!((&pinned.contract.hash, pinned.contract.seed), (&rule.hash, rule.seed));
    assert_eq!(pinned.contract.generation, 9);
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
    assert_eq!(reasons(&resolved), [Reason::PortsDiffer]);
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
    let port = |name: &str, number| Port {
        name: name.into(),
        number,
        protocol: Protocol::Http,
        proxy_header: false,
    };
    let (a, b, c) = (port("a", 1), port("b", 2), port("c", 3));
    assert!(same_ports(&[a.clone(), b.clone(), c.clone()], &[a.clone(), c.clone(), b.clone()]));
    assert!(!same_ports(&[a.clone(), b.clone()], &[b, a]));
}
