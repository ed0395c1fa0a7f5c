//! Bounded load.

use proptest::prelude::*;

use super::*;
use crate::Totals;

/// `ceil(c * (total + 1) * weight / (100 * weights))`, with the division the product avoids.
fn cap(ring: &Ring, c: u32, loads: &[u64], skip: &[bool], node: NodeIndex) -> u128 {
    let counted = ring.sequence(0).filter(|node| !skip[node.get()]);
    let (total, weights) = counted.fold((0_u64, 0), |(total, weights), node| {
        (total.saturating_add(loads[node.get()]), weights + u128::from(ring.node(node).weight))
    });
    let share = u128::from(c) * (u128::from(total) + 1) * u128::from(ring.node(node).weight);
    share.div_ceil(100 * weights)
}

fn bounded(ring: &Ring, hash: u64, c: u32, loads: &[u64], skip: &[bool]) -> Option<NodeIndex> {
    let (load, skips) = (|node: NodeIndex| loads[node.get()], |node: NodeIndex| skip[node.get()]);
    ring.bounded(ring.near(hash).skipping(skips), c, ring.totals(load, skips), load)
}

/// Weights and loads of every size, up to the largest the types hold.
fn sizes() -> impl Strategy<Value = (Vec<u32>, Vec<u64>, Vec<bool>)> {
    let weight = prop_oneof![3 => 1_u32..=300, 1 => Just(u32::MAX)];
    let load = prop_oneof![4 => 0_u64..20, 1 => Just(u64::MAX), 1 => any::<u64>()];
    vec((weight, load, prop::bool::weighted(0.2)), 1..7).prop_map(|nodes| {
        let (weights, rest): (Vec<_>, Vec<_>) = nodes.into_iter().map(|(w, l, s)| (w, (l, s))).unzip();
        let (loads, skip) = rest.into_iter().unzip();
        (weights, loads, skip)
    })
}

proptest! {
    #[test]
    fn takes_the_first_below_its_cap_else_the_least_loaded(
        (weights, loads, skip) in sizes(),
        c in prop_oneof![Just(0), 1_u32..=300, Just(u32::MAX)],
        hash: u64,
    ) {
        let points: Vec<_> = (0..weights.len() as u16).map(|node| at(crate::inner(node.into()), node)).collect();
        let ring = ring_of(&weights.iter().map(|weight| (*weight, 0)).collect::<Vec<_>>(), &points);

        let open: Vec<_> = ring.near(hash).filter(|node| !skip[node.get()]).collect();
        let below = open.iter().find(|node| u128::from(loads[node.get()]) < cap(&ring, c, &loads, &skip, **node));
        let least = || open.iter().min_by(|a, b| {
            let ratio = |a: &NodeIndex, b: &NodeIndex| u128::from(loads[a.get()]) * u128::from(weights[b.get()]);
            ratio(a, b).cmp(&ratio(b, a))
        });
        prop_assert_eq!(bounded(&ring, hash, c, &loads, &skip), below.or_else(least).copied());
    }

    /// Request after request, from c = 1 up nobody is ever taken above the cap of the moment.
    #[test]
    fn the_cap_is_never_exceeded(declared in declared(), c in 100_u32..300, skipped: u8) {
        let ring = declared.ring();
        let skip: Vec<_> = (0..ring.len()).map(|node| skipped >> node & 1 == 1).collect();
        let mut loads = vec![0; ring.len()];
        for hash in (0..100).map(crate::inner) {
            let Some(node) = bounded(&ring, hash, c, &loads, &skip) else {
                prop_assert!(ring.sequence(hash).all(|node| skip[node.get()]));
                continue;
            };
            prop_assert!(!skip[node.get()]);
            let cap = cap(&ring, c, &loads, &skip, node);
            loads[node.get()] += 1;
            prop_assert!(u128::from(loads[node.get()]) <= cap);
        }
    }
}

#[test]
fn the_load_of_skipped_and_unplaced_nodes_does_not_count() {
    let ring = Ring::builder().node("a", 100, "").node("b", 100, "").node("gone", 0, "").build().unwrap();
    let hash = (0..).map(crate::inner).find(|hash| ring.owner(*hash) == Some(NodeIndex(0))).unwrap();
    // Alone, "a" may have all 3; with "b" it may have ceil(1.5) = 2 of them and has.
    assert_eq!(bounded(&ring, hash, 100, &[2, 0, 1000], &[false, true, false]), Some(NodeIndex(0)));
    assert_eq!(bounded(&ring, hash, 100, &[2, 0, 1000], &[false; 3]), Some(NodeIndex(1)));
}

#[test]
fn the_cap_counts_this_request_and_is_for_the_node_below_it_only() {
    let ring = ring_on(&[0; 2], &[at(0, 0), at(10, 1)]);
    let taken = |c, loads: [u64; 2]| bounded(&ring, 0, c, &loads, &[false; 2]).map(|node| node.0);
    // A cap of exactly 100 / 100 * 4 / 2 = 2 is reached at 2.
    assert_eq!((taken(100, [2, 1]), taken(100, [1, 2])), (Some(1), Some(0)));
    // ceil(150 / 100 * 2 / 2) = 2 with this request, 1 without it.
    assert_eq!(taken(150, [1, 0]), Some(0));
}

#[test]
fn an_order_cut_short_falls_back_within_itself() {
    let ring = ring_on(&[0; 3], &[at(0, 0), at(10, 1), at(30, 2)]);
    let loads = [9_u64, 8, 0];
    let load = |node: NodeIndex| loads[node.get()];
    let two = ring.bounded(ring.sequence(0).take(2), 100, ring.totals(load, |_| false), load);
    assert_eq!(two, Some(NodeIndex(1)));
}

/// The goals of the contract at c = 1.25, with fixed ids: the figures are exact.
#[test]
fn a_quarter_above_the_mean_is_the_most_and_few_keys_are_displaced() {
    let nodes: u32 = 100;
    let ring = (0..nodes).fold(Ring::builder(), |b, i| b.node(format!("node-{i}"), 100, "")).build().unwrap();
    let mut loads = vec![0_u64; nodes as usize];
    let (keys, mut displaced) = (100_000_u64, 0);
    // Every node counts, so the totals need no sum each time.
    let mut totals = ring.totals(|_| 0, |_| false);
    for hash in (0..keys).map(|key| ring.hash(&key.to_le_bytes())) {
        let node = ring.bounded(ring.sequence(hash), 125, totals, |node| loads[node.get()]).unwrap();
        displaced += u64::from(ring.owner(hash) != Some(node));
        loads[node.get()] += 1;
        totals.load += 1;
    }
    assert_eq!(totals, ring.totals(|node| loads[node.get()], |_| false));
    let most = loads.into_iter().max().unwrap();
    assert!(most <= 1250, "{most}");
    assert!(displaced * 50 <= keys, "{displaced}");
}

#[test]
fn totals_that_no_ring_has_do_no_harm() {
    let ring = ring_on(&[0; 2], &[at(0, 0), at(10, 1)]);
    let totals = Totals { load: u64::MAX, weight: u64::MAX };
    assert_eq!(ring.bounded(ring.sequence(0), u32::MAX, totals, |_| u64::MAX), Some(NodeIndex(0)));
}
