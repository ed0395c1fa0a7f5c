//! What moves between two rings, counted exactly.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::{Flow, RingError};

/// The flows from the oracle: owners change at edges only, so each edge speaks for the stretch up to the next.
fn naive_flows(before: &[Point], after: &[Point]) -> Vec<Flow> {
    let mut flows = BTreeMap::new();
    let edges = edges(&[before, after].concat());
    let ends = edges[1..].iter().map(|edge| u128::from(*edge)).chain([1 << 64]);
    for (edge, end) in edges.iter().zip(ends) {
        let owners = [before, after].map(|points| oracle(points, *edge).first().copied());
        if owners[0] != owners[1] {
            *flows.entry(owners).or_insert(0) += end - u128::from(*edge);
        }
    }
    flows.into_iter().map(|([from, to], hashes)| Flow { from, to, hashes }).collect()
}

proptest! {
    #[test]
    fn flows_equal_the_oracle((zones, before) in crowded(), (more, after) in crowded()) {
        let (before_ring, after_ring) = (ring_on(&zones, &before), ring_on(&more, &after));
        prop_assert_eq!(before_ring.diff(&after_ring).unwrap(), naive_flows(&before, &after));
    }

    /// Numbers differ where sets do; what counts are ids.
    #[test]
    fn nodes_are_the_same_by_id(declared in declared(), which in any::<prop::sample::Index>()) {
        prop_assume!(!declared.nodes.is_empty());
        let gone = declared.nodes[which.index(declared.nodes.len())].0.clone();
        let with = declared.ring();
        let without = with.without_node(&gone).unwrap();
        let node = with.index_of(&gone).unwrap();
        let flows = with.diff(&without).unwrap();
        prop_assert!(flows.iter().all(|flow| flow.from == Some(node)));
        prop_assert_eq!(flows.iter().map(|flow| flow.hashes).sum::<u128>(), with.shares()[node.get()]);
        // And back, the other way around.
        let back = without.diff(&with).unwrap();
        let mut turned: Vec<_> = back.iter().map(|flow| (flow.to, flow.from, flow.hashes)).collect();
        turned.sort_unstable();
        prop_assert_eq!(turned, flows.iter().map(|flow| (flow.from, flow.to, flow.hashes)).collect::<Vec<_>>());
        prop_assert_eq!(with.diff(&with).unwrap(), []);
    }
}

/// Nothing moves between nodes that neither join, nor leave, nor change their weight: all 2^64 hashes say so.
#[test]
fn a_thousand_nodes_keep_what_is_theirs() {
    let node = |b: RingBuilder, i: u32| b.node(format!("node-{i}"), 100, "");
    let ring = (0..1000).fold(Ring::builder(), node).build().unwrap();
    let moved = |after: &Ring| {
        let flows = ring.diff(after).unwrap();
        let moved = flows.iter().map(|flow| flow.hashes).sum::<u128>();
        (flows, moved)
    };

    let joined = ring.with_node("node-1000", 100, "").unwrap();
    let new = joined.index_of(b"node-1000");
    let (flows, gained) = moved(&joined);
    assert!(flows.iter().all(|flow| flow.to == new));
    assert_eq!(gained, joined.shares()[new.unwrap().get()]);

    let left = ring.without_node("node-500").unwrap();
    let old = ring.index_of(b"node-500");
    let (flows, lost) = moved(&left);
    assert!(flows.iter().all(|flow| flow.from == old));
    assert_eq!(lost, ring.shares()[old.unwrap().get()]);

    let share = |ring: &Ring| ring.shares()[old.unwrap().get()];
    let heavier = ring.with_weight("node-500", 150).unwrap();
    let (flows, gained) = moved(&heavier);
    assert!(flows.iter().all(|flow| flow.to == old));
    assert_eq!(gained, share(&heavier) - share(&ring));
    let lighter = ring.with_weight("node-500", 50).unwrap();
    let (flows, lost) = moved(&lighter);
    assert!(flows.iter().all(|flow| flow.from == old));
    assert_eq!(lost, share(&ring) - share(&lighter));
}

#[test]
fn rings_that_hash_keys_differently_do_not_compare() {
    let ring = Ring::builder().node("a", 100, "").build().unwrap();
    let seeded = Ring::builder().seed(1).node("a", 100, "").build().unwrap();
    let sip = Ring::builder().key_hash(KeyHash::SipHash13).node("a", 100, "").build().unwrap();
    for other in [seeded, sip] {
        assert_eq!(ring.diff(&other).unwrap_err(), RingError::DifferentHashes);
    }
}

#[test]
fn a_ring_without_points_gives_and_takes_all() {
    let (none, one) = (Ring::builder().build().unwrap(), Ring::builder().node("a", 1, "").build().unwrap());
    let all = |from, to| vec![Flow { from, to, hashes: 1 << 64 }];
    assert_eq!(none.diff(&one).unwrap(), all(None, Some(NodeIndex(0))));
    assert_eq!(one.diff(&none).unwrap(), all(Some(NodeIndex(0)), None));
    assert_eq!(none.diff(&none).unwrap(), []);
}
