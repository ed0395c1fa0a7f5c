#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;

use proptest::prelude::*;
use proptest::sample::subsequence;

use super::Availability::{Down, Suspect, Unreachable, Unready, Up};
use super::*;

fn name(text: &str) -> ClusterName {
    ClusterName::new(text).unwrap()
}

fn member(cluster: &str, region: &str, weight: u32) -> Member {
    Member { cluster: name(cluster), region: region.into(), weight }
}

/// Ascending by name, so that node 0 is `east`.
fn four() -> Vec<Member> {
    vec![
        member("east", "us", 100),
        member("north", "eu", 100),
        member("south", "eu", 50),
        member("west", "us", 100),
    ]
}

fn contract(mode: Mode) -> Contract {
    Contract { generation: 1, mode, members: Some(four()), ..Contract::default() }
}

fn bind(contract: &Contract, here: &str) -> Placement {
    Placement::new(contract, &[], &name(here), "us", &mut Rings::default()).unwrap()
}

fn names(placement: &Placement, order: &[NodeIndex]) -> Vec<String> {
    order.iter().map(|&node| placement.cluster(node).to_string()).collect()
}

fn rng() -> fastrand::Rng {
    fastrand::Rng::with_seed(7)
}

#[test]
fn sharded_goes_to_the_owner_from_everywhere() {
    let contract = contract(Mode::Sharded);
    let all: Vec<Placement> =
        ["east", "north", "south", "west", "other"].map(|here| bind(&contract, here)).into();
    for key in 0..200u32 {
        let hash = all[0].hash(&key.to_le_bytes());
        let near: Vec<NodeIndex> = all[0].ring().near(hash).collect();
        assert_eq!(all[0].owner(hash), Some(all[0].cluster(near[0])));
        for placement in &all {
            assert_eq!(placement.order(Some(hash), |_| Up, |_| None, &mut rng()), near);
        }
    }
}

#[test]
fn a_failing_owner_is_passed_over_only_if_the_contract_says_next() {
    let mut contract = contract(Mode::Sharded);
    let placement = bind(&contract, "west");
    let hash = placement.hash(b"ada");
    let near: Vec<NodeIndex> = placement.ring().near(hash).collect();
    let owner = near[0];
    let state = |of_owner: Availability| move |node| if node == owner { of_owner } else { Up };
    for gone in [Down, Unreachable] {
        assert_eq!(placement.order(Some(hash), state(gone), |_| None, &mut rng()), near[1..]);
    }
    let last = [&near[1..], &near[..1]].concat();
    assert_eq!(placement.order(Some(hash), state(Suspect), |_| None, &mut rng()), last);

    contract.on_owner_unavailable = OnOwnerUnavailable::Fail;
    let placement = bind(&contract, "west");
    assert_eq!(placement.order(Some(hash), state(Up), |_| None, &mut rng()), near[..1]);
    assert_eq!(placement.order(Some(hash), state(Suspect), |_| None, &mut rng()), near[..1]);
    assert!(placement.order(Some(hash), state(Down), |_| None, &mut rng()).is_empty());
    // Without a key there is no owner that could fail.
    assert_eq!(placement.order(None, |_| Up, |_| None, &mut rng()).len(), 4);
}

#[test]
fn without_tiers_local_then_region_then_any() {
    for mode in [Mode::LocalFirst, Mode::Sharded] {
        let placement = bind(&contract(mode), "west");
        for seed in 0..50 {
            let mut rng = fastrand::Rng::with_seed(seed);
            let order = names(&placement, &placement.order(None, |_| Up, |_| None, &mut rng));
            assert_eq!(order[..2], ["west", "east"]);
            assert_eq!(order.len(), 4);
        }
    }
}

#[test]
fn local_first_with_a_key_is_the_near_order_within_each_tier() {
    let mut contract = contract(Mode::LocalFirst);
    contract.tiers = Some(vec![vec![Tier::Cluster(name("south")), Tier::Local], vec![Tier::Any]]);
    let placement = bind(&contract, "west");
    let first: BTreeSet<NodeIndex> = ["south", "west"].map(|cluster| placement.node(cluster).unwrap()).into();
    for key in 0..100u32 {
        let hash = placement.hash(&key.to_le_bytes());
        let (mut expected, rest): (Vec<_>, Vec<_>) =
            placement.ring().near(hash).partition(|node| first.contains(node));
        expected.extend(rest);
        assert_eq!(placement.order(Some(hash), |_| Up, |_| None, &mut rng()), expected);
    }
}

#[test]
fn a_list_of_tiers_is_closed() {
    let mut contract = contract(Mode::LocalFirst);
    contract.tiers = Some(vec![vec![Tier::Local], vec![Tier::Cluster(name("north"))]]);
    let placement = bind(&contract, "west");
    assert_eq!(names(&placement, &placement.order(None, |_| Up, |_| None, &mut rng())), ["west", "north"]);
    let lost = |node| if placement.cluster(node).as_str() == "east" { Up } else { Down };
    assert!(placement.order(None, lost, |_| None, &mut rng()).is_empty());
    // Outside the members `local` takes nobody.
    assert_eq!(
        names(&bind(&contract, "other"), &bind(&contract, "other").order(None, |_| Up, |_| None, &mut rng())),
        ["north"]
    );
}

#[test]
fn the_region_is_the_contract_s_where_it_names_us() {
    let contract = contract(Mode::LocalFirst);
    let placement = Placement::new(&contract, &[], &name("west"), "eu", &mut Rings::default()).unwrap();
    assert_eq!(
        names(&placement, &placement.order(None, |_| Up, |_| None, &mut rng()))[..2],
        ["west", "east"]
    );
    let outside = Placement::new(&contract, &[], &name("other"), "eu", &mut Rings::default()).unwrap();
    let first = outside.next(None, &[], |_| Up, |_| None, &mut rng()).unwrap();
    assert_eq!(outside.members()[first.get()].region, "eu");
}

#[test]
fn suspects_come_behind_every_tier() {
    let placement = bind(&contract(Mode::LocalFirst), "west");
    let suspect = |node| if placement.cluster(node).as_str() == "east" { Suspect } else { Up };
    let order = names(&placement, &placement.order(None, suspect, |_| None, &mut rng()));
    assert_eq!((&*order[0], &*order[3]), ("west", "east"));
}

#[test]
fn unkeyed_draws_follow_the_weights() {
    let contract = Contract { tiers: Some(vec![vec![Tier::Any]]), ..contract(Mode::LocalFirst) };
    let placement = bind(&contract, "west");
    let mut counts = [0u32; 4];
    let mut rng = rng();
    for _ in 0..35_000 {
        counts[placement.next(None, &[], |_| Up, |_| None, &mut rng).unwrap().get()] += 1;
    }
    for (count, expected) in counts.into_iter().zip([10_000u32, 10_000, 5_000, 10_000]) {
        assert!(count.abs_diff(expected) < expected / 20, "{counts:?}");
    }
}

#[test]
fn unkeyed_draws_follow_ready_capacity_once_it_is_known_of_all() {
    let contract = Contract { tiers: Some(vec![vec![Tier::Any]]), ..contract(Mode::LocalFirst) };
    let placement = bind(&contract, "west");
    let counts = |state: fn(NodeIndex) -> Availability, capacity: fn(NodeIndex) -> Option<u32>| {
        let mut counts = [0u32; 4];
        let mut rng = rng();
        for _ in 0..35_000 {
            counts[placement.next(None, &[], state, capacity, &mut rng).unwrap().get()] += 1;
        }
        counts
    };
    let near = |counts: [u32; 4], expected: [u32; 4]| {
        counts.iter().zip(expected).all(|(count, expected)| count.abs_diff(expected) <= expected / 20)
    };
    let room = |node: NodeIndex| [Some(100), Some(300), Some(200), Some(100)][node.get()];
    assert!(near(counts(|_| Up, room), [5_000, 15_000, 10_000, 5_000]));
    // One that is not known of: the contract's weights count, and count again where that one is out of question.
    let part = |node: NodeIndex| [None, Some(300), Some(200), Some(100)][node.get()];
    assert!(near(counts(|_| Up, part), [10_000, 10_000, 5_000, 10_000]));
    let first_down = |node: NodeIndex| if node.get() == 0 { Down } else { Up };
    assert!(near(counts(first_down, part), [0, 17_500, 11_667, 5_833]));
    // Nothing to draw by is no reason to draw nobody.
    assert_eq!(counts(|_| Up, |_| Some(0)).iter().sum::<u32>(), 35_000);
}

#[test]
fn weight_zero_takes_nothing() {
    let mut members = four();
    members[3].weight = 0;
    for mode in [Mode::LocalFirst, Mode::Sharded] {
        let placement = bind(&Contract { members: Some(members.clone()), ..contract(mode) }, "west");
        for hash in [None, Some(placement.hash(b"ada"))] {
            assert!(
                !names(&placement, &placement.order(hash, |_| Up, |_| None, &mut rng()))
                    .contains(&"west".into())
            );
        }
    }
}

#[test]
fn without_members_the_known_servers_count() {
    let known = [member("west", "us", 100), member("east", "us", 100)];
    let placement =
        Placement::new(&Contract::default(), &known, &name("west"), "us", &mut Rings::default()).unwrap();
    assert_eq!(names(&placement, &placement.order(None, |_| Up, |_| None, &mut rng())), ["west", "east"]);
    let nobody =
        Placement::new(&Contract::default(), &[], &name("west"), "us", &mut Rings::default()).unwrap();
    assert_eq!(nobody.next(None, &[], |_| Up, |_| None, &mut rng()), None);
    assert_eq!(nobody.owner(nobody.hash(b"ada")), None);
    // Explicit members are all there is.
    let explicit = Placement::new(
        &contract(Mode::LocalFirst),
        &[member("late", "us", 100)],
        &name("west"),
        "us",
        &mut Rings::default(),
    );
    assert_eq!(explicit.unwrap().node("late"), None);
}

#[test]
fn a_cluster_twice_is_refused() {
    let twice = [member("east", "us", 100), member("east", "eu", 100)];
    let refused = Placement::new(&Contract::default(), &twice, &name("west"), "us", &mut Rings::default());
    assert!(matches!(refused, Err(RingError::DuplicateId { .. })));
}

#[test]
fn one_declaration_is_one_ring_while_somebody_holds_it() {
    let mut rings = Rings::default();
    let mut get = |seed, here: &str| {
        let contract = Contract { seed, ..contract(Mode::Sharded) };
        Placement::new(&contract, &[], &name(here), "us", &mut rings).unwrap()
    };
    let (a, b, other) = (get(0, "west"), get(0, "east"), get(1, "west"));
    assert!(Arc::ptr_eq(a.ring(), b.ring()));
    assert_ne!(a.ring().fingerprint(), other.ring().fingerprint());
    let fingerprint = a.ring().fingerprint();
    drop((a, b));
    assert_eq!(get(0, "north").ring().fingerprint(), fingerprint);
    for seed in 2..1000 {
        drop(get(seed, "west"));
    }
    assert!(rings.len() < 100, "rings that nobody holds are forgotten");
}

#[test]
fn equal_declarations_share_one_placement() {
    let mut placements = Placements::default();
    let mut get = |contract: &Contract, known: &[Member], here: &str, region: &str| {
        placements.get(contract, known, Vec::new(), &name(here), region).unwrap()
    };
    let undeclared = Contract::default();
    let first = get(&undeclared, &four(), "west", "us");
    assert!(Arc::ptr_eq(&first, &get(&undeclared, &four(), "west", "us")));
    for other in [
        get(&undeclared, &four()[1..], "west", "us"),
        get(&undeclared, &four(), "west", "eu"),
        get(&undeclared, &four(), "east", "us"),
        get(&contract(Mode::Sharded), &four(), "west", "us"),
    ] {
        assert!(!Arc::ptr_eq(&first, &other), "{other:?}");
    }
    // Whom a contract that lists its members leaves out is not looked at.
    let declared = get(&contract(Mode::LocalFirst), &four(), "west", "us");
    assert!(Arc::ptr_eq(&declared, &get(&contract(Mode::LocalFirst), &[], "west", "us")));
}

/// The contract of east and west alone, where north and south serve as well.
fn with_spares(contract: &Contract) -> Placement {
    let two = four().into_iter().filter(|m| m.region == "us").collect();
    bind(&Contract { members: Some(two), ..contract.clone() }, "north").with_spares(&four())
}

#[test]
fn while_no_member_can_serve_those_who_serve_are_tried() {
    for mode in [Mode::LocalFirst, Mode::Sharded] {
        let placement = with_spares(&contract(mode));
        assert_eq!(names(&placement, &[NodeIndex(0), NodeIndex(1)]), ["east", "west"]);
        assert_eq!(names(&placement, &[NodeIndex(2), NodeIndex(3)]), ["north", "south"]);
        assert_eq!((placement.members().len(), placement.node("south")), (2, None));
        for hash in [None, Some(placement.hash(b"ada"))] {
            let tried = |states: [Availability; 4]| {
                let order = placement.order(hash, |node| states[node.get()], |_| None, &mut rng());
                names(&placement, &order).into_iter().collect::<BTreeSet<_>>()
            };
            let set = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<BTreeSet<_>>();
            // A member that can serve is asked alone, and its answer is the answer.
            assert_eq!(tried([Up, Up, Up, Up]), set(&["east", "west"]), "{mode:?} {hash:?}");
            assert_eq!(tried([Down, Up, Up, Up]), set(&["west"]));
            assert_eq!(tried([Down, Suspect, Up, Up]), set(&["west"]));
            assert_eq!(tried([Down, Unreachable, Up, Up]), set(&["north", "south"]));
            assert_eq!(tried([Down, Down, Down, Suspect]), set(&["south"]));
            assert_eq!(tried([Down, Down, Down, Unreachable]), set(&[]));
            // One that says that nothing is ready is asked at last, whoever it is.
            assert_eq!(tried([Down, Up, Unready, Up]), set(&["west"]));
            assert_eq!(tried([Up, Unready, Up, Up]), set(&["east", "west"]));
            let order = |states: [Availability; 4]| {
                names(&placement, &placement.order(hash, |node| states[node.get()], |_| None, &mut rng()))
            };
            assert_eq!(order([Unready, Down, Suspect, Down]), ["north", "east"]);
            assert_eq!(order([Unready, Down, Unready, Up]), ["south", "east", "north"]);
        }
        let one = |states: [Availability; 4]| {
            let first = placement.next(None, &[], |node| states[node.get()], |_| None, &mut rng()).unwrap();
            names(&placement, &[first]).remove(0)
        };
        assert_eq!(one([Down, Down, Suspect, Up]), "south", "who is up comes before who is suspect");
    }
}

#[test]
fn spares_have_no_place_in_the_ring() {
    let placement = with_spares(&contract(Mode::Sharded));
    let two = four().into_iter().filter(|m| m.region == "us").collect();
    let without = bind(&Contract { members: Some(two), ..contract(Mode::Sharded) }, "north");
    assert_eq!(placement.ring().fingerprint(), without.ring().fingerprint());
    let hash = placement.hash(b"ada");
    assert_eq!(placement.owner(hash), without.owner(hash));
    assert_eq!(placement.members(), without.members());
}

#[test]
fn what_is_closed_on_purpose_stays_closed() {
    let down = |node: NodeIndex| if node.get() < 2 { Down } else { Up };
    let closed = Contract { tiers: Some(vec![vec![Tier::Any]]), ..contract(Mode::LocalFirst) };
    assert!(with_spares(&closed).order(None, down, |_| None, &mut rng()).is_empty());
    let fails = Contract { on_owner_unavailable: OnOwnerUnavailable::Fail, ..contract(Mode::Sharded) };
    let placement = with_spares(&fails);
    assert!(placement.order(Some(7), down, |_| None, &mut rng()).is_empty());
    assert_eq!(placement.order(None, down, |_| None, &mut rng()).len(), 2, "without a key there is no owner");
}

#[test]
fn a_head_agrees_by_generation_and_owner() {
    let placement = bind(&contract(Mode::Sharded), "west");
    let hash = placement.hash(b"ada");
    let owner = placement.owner(hash).map(ClusterName::as_str);
    assert!(placement.agrees(1, Some(hash), owner));
    assert!(placement.agrees(1, None, None));
    assert!(!placement.agrees(1, Some(hash), Some("elsewhere")));
    assert!(!placement.agrees(1, Some(hash), None));
    assert!(!placement.agrees(2, Some(hash), owner));
    assert!(placement.agrees(0, Some(hash), Some("elsewhere")), "generation 0 is never checked");
}

/// A contract over some of seven clusters, with the states in which a gateway sees them.
fn scene() -> impl Strategy<Value = (Contract, Vec<Availability>)> {
    const CLUSTERS: [&str; 7] = ["a", "b", "c", "d", "e", "f", "g"];
    let members = subsequence(CLUSTERS.to_vec(), 0..=7).prop_flat_map(|clusters| {
        let one = (prop::sample::select(vec!["us", "eu", "ap"]), prop::sample::select(vec![0u32, 30, 100]));
        prop::collection::vec(one, clusters.len()).prop_map(move |facts| {
            clusters
                .iter()
                .zip(facts)
                .map(|(c, (region, weight))| member(c, region, weight))
                .collect::<Vec<_>>()
        })
    });
    let entry = prop_oneof![
        Just(Tier::Local),
        Just(Tier::SameRegion),
        Just(Tier::Any),
        prop::sample::select(CLUSTERS.to_vec()).prop_map(|cluster| Tier::Cluster(name(cluster))),
    ];
    let tiers = prop::option::of(prop::collection::vec(prop::collection::vec(entry, 0..3), 0..4));
    let states = prop::collection::vec(prop::sample::select(vec![Up, Suspect, Down, Unreachable]), 7);
    (members, tiers, any::<bool>(), any::<bool>(), any::<u64>(), states).prop_map(
        |(members, tiers, sharded, fail, seed, states)| {
            let mode = if sharded { Mode::Sharded } else { Mode::LocalFirst };
            let on_owner_unavailable = if fail { OnOwnerUnavailable::Fail } else { OnOwnerUnavailable::Next };
            let tiers = tiers.filter(|_| !sharded);
            (
                Contract {
                    generation: 1,
                    mode,
                    members: Some(members),
                    seed,
                    tiers,
                    on_owner_unavailable,
                    hash: vec![],
                },
                states,
            )
        },
    )
}

/// The order as DESIGN 7 words it, from the whole near order, without any of the shortcuts.
fn by_the_book(
    placement: &Placement,
    contract: &Contract,
    hash: u64,
    states: &[Availability],
) -> Vec<NodeIndex> {
    let mut order: Vec<NodeIndex> = placement.ring().near(hash).collect();
    match contract.mode {
        Mode::Sharded if contract.on_owner_unavailable == OnOwnerUnavailable::Fail => order.truncate(1),
        Mode::Sharded => {}
        Mode::LocalFirst => {
            let default = default_tiers();
            let region = placement.local().map_or("us", |node| &placement.members()[node.get()].region);
            let tier = |node: &NodeIndex| {
                let member = &placement.members()[node.get()];
                contract.tiers.as_ref().unwrap_or(&default).iter().position(|entries| {
                    entries.iter().any(|entry| match entry {
                        Tier::Local => Some(*node) == placement.local(),
                        Tier::SameRegion => member.region == region,
                        Tier::Any => true,
                        Tier::Cluster(name) => member.cluster == *name,
                    })
                })
            };
            order.retain(|node| tier(node).is_some());
            order.sort_by_key(tier);
        }
    }
    order.retain(|node| states[node.get()].usable());
    order.sort_by_key(|node| states[node.get()] == Suspect);
    order
}

proptest! {
    #[test]
    fn a_keyed_order_is_the_one_in_the_book((contract, states) in scene(), hash: u64) {
        for here in ["a", "d", "z"] {
            let placement = bind(&contract, here);
            let order = placement.order(Some(hash), |node| states[node.get()], |_| None, &mut rng());
            prop_assert_eq!(order, by_the_book(&placement, &contract, hash, &states));
        }
    }

    #[test]
    fn an_unkeyed_order_has_the_same_clusters_in_the_same_tiers((contract, states) in scene(), seed: u64) {
        let local_first = Contract { mode: Mode::LocalFirst, ..contract.clone() };
        let placement = bind(&contract, "a");
        let state = |node: NodeIndex| states[node.get()];
        let order = placement.order(None, state, |_| None, &mut fastrand::Rng::with_seed(seed));
        let book = by_the_book(&placement, &local_first, 0, &states);
        let ranks = |order: &[NodeIndex]| -> Vec<_> {
            order.iter().map(|&node| (state(node) == Suspect, placement.tier_of[node.get()])).collect()
        };
        prop_assert_eq!(ranks(&order), ranks(&book));
        let distinct: BTreeSet<NodeIndex> = order.iter().copied().collect();
        prop_assert_eq!(distinct.len(), order.len());
        prop_assert_eq!(distinct, book.into_iter().collect());
    }

    #[test]
    fn skipping_is_removing(hash: u64, lost in 0usize..4) {
        // One region: the near order is then the plain sequence, for which this holds.
        let members: Vec<Member> = four().into_iter().map(|m| Member { region: "us".into(), ..m }).collect();
        let whole = bind(&Contract { members: Some(members.clone()), ..contract(Mode::Sharded) }, "west");
        let mut fewer = members;
        fewer.remove(lost);
        let fewer = bind(&Contract { members: Some(fewer), ..contract(Mode::Sharded) }, "west");
        let skip = |node: NodeIndex| if node.get() == lost { Down } else { Up };
        prop_assert_eq!(
            names(&whole, &whole.order(Some(hash), skip, |_| None, &mut rng())),
            names(&fewer, &fewer.order(Some(hash), |_| Up, |_| None, &mut rng()))
        );
    }
}
