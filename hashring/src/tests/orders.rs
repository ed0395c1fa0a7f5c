//! Owner, sequence, near and spread.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

/// Near as the contract words it, from a sequence.
pub(super) fn naive_near(ring: &Ring, sequence: &[NodeIndex]) -> Vec<NodeIndex> {
    let zone = |node: &NodeIndex| ring.node(*node).zone;
    let (mut home, away): (Vec<_>, Vec<_>) =
        sequence.iter().partition(|node| zone(node) == zone(&sequence[0]));
    home.extend(away);
    home
}

/// Spread as the contract words it: rounds over what is left of the sequence.
pub(super) fn naive_spread(ring: &Ring, sequence: &[NodeIndex]) -> Vec<NodeIndex> {
    let (mut left, mut order) = (sequence.to_vec(), Vec::new());
    while !left.is_empty() {
        let mut used = BTreeSet::new();
        let (taken, rest): (Vec<_>, Vec<_>) =
            left.into_iter().partition(|node| used.insert(ring.node(*node).zone));
        order.extend(taken);
        left = rest;
    }
    order
}

/// Checks every answer at `hash` against the oracle.
fn check(ring: &Ring, points: &[Point], hash: u64) -> Result<(), TestCaseError> {
    let expected = oracle(points, hash);
    prop_assert_eq!(ring.owner(hash), expected.first().copied(), "owner of {:x}", hash);
    // More than the nodes is asked for: an order that repeats itself shows.
    let limit = ring.len() + 1;
    let sequence: Vec<_> = ring.sequence(hash).take(limit).collect();
    prop_assert_eq!(&sequence, &expected, "sequence of {:x}", hash);
    let near: Vec<_> = ring.near(hash).take(limit).collect();
    prop_assert_eq!(near, naive_near(ring, &expected), "near of {:x}", hash);
    let spread: Vec<_> = ring.spread(hash).take(limit).collect();
    prop_assert_eq!(spread, naive_spread(ring, &expected), "spread of {:x}", hash);
    let hints = [ring.sequence(hash).size_hint(), ring.near(hash).size_hint(), ring.spread(hash).size_hint()];
    prop_assert_eq!(hints, [(expected.len(), Some(expected.len())); 3]);
    Ok(())
}

proptest! {
    #[test]
    fn equals_the_oracle_on_crowded_points((zones, points) in crowded()) {
        let ring = ring_on(&zones, &points);
        for hash in edges(&points) {
            check(&ring, &points, hash)?;
        }
    }

    #[test]
    fn equals_the_oracle_on_declared_nodes(declared in declared()) {
        let (ring, points) = (declared.ring(), declared.points());
        for hash in declared.hashes() {
            check(&ring, &points, hash)?;
        }
    }

    #[test]
    fn insertion_order_does_not_matter(declared in declared()) {
        let mut sorted = declared.clone();
        sorted.nodes.sort_unstable();
        let (ring, sorted) = (declared.ring(), sorted.ring());
        prop_assert_eq!(ring.fingerprint(), sorted.fingerprint());
        prop_assert!(ring.nodes().eq(sorted.nodes()));
        for hash in declared.hashes() {
            prop_assert!(ring.spread(hash).eq(sorted.spread(hash)));
            prop_assert!(ring.near(hash).eq(sorted.near(hash)));
        }
    }
}

fn order(points: &[Point], hash: u64) -> Vec<u16> {
    ring_on(&[0; 4], points).sequence(hash).map(|node| node.0).collect()
}

#[test]
fn at_equal_distance_the_whole_position_below_comes_first() {
    let points = [at(10, 2), at(10, 3), at(20, 0), at(20, 1)];
    assert_eq!(order(&points, 15), [2, 3, 0, 1]);
    assert_eq!(order(&points, 14), [2, 3, 0, 1]);
    assert_eq!(order(&points, 16), [0, 1, 2, 3]);
}

#[test]
fn at_one_position_the_smaller_id_comes_first_from_either_side() {
    let points = [at(10, 2), at(10, 0), at(10, 1)];
    for hash in [0, 9, 10, 11, u64::MAX, 10 + (1 << 63), 9 + (1 << 63), 11 + (1 << 63)] {
        assert_eq!(order(&points, hash), [0, 1, 2], "{hash}");
    }
}

#[test]
fn distances_wrap_around_zero() {
    let points = [at(u64::MAX - 1, 0), at(3, 1), at(1 << 63, 2)];
    assert_eq!(order(&points, 0), [0, 1, 2]);
    assert_eq!(order(&points, 1), [1, 0, 2]);
    assert_eq!(order(&points, u64::MAX), [0, 1, 2]);
}

#[test]
fn a_ring_without_nodes_has_no_answers() {
    let ring = Ring::builder().build().unwrap();
    assert!(ring.is_empty());
    assert_eq!(ring.owner(7), None);
    assert_eq!((ring.sequence(7).next(), ring.near(7).next(), ring.spread(7).next()), (None, None, None));
    assert_eq!(ring.bounded(ring.near(7), 125, ring.totals(|_| 0, |_| false), |_| 0), None);
    assert!(ring.shares().is_empty());
}

#[test]
fn one_node_owns_everything() {
    let ring = Ring::builder().node("only", 100, "").build().unwrap();
    for hash in [0, 1, 1 << 63, u64::MAX] {
        assert_eq!(ring.owner(hash), Some(NodeIndex(0)));
        assert_eq!(ring.spread(hash).collect::<Vec<_>>(), [NodeIndex(0)]);
    }
    assert_eq!(ring.shares(), [1 << 64]);
}

#[test]
fn a_node_without_points_is_in_no_order() {
    // "b" has weight 0; "c" is too small for a point: 10 * 9 / 100 rounds down to none.
    let ring =
        Ring::builder().base(10).node("a", 100, "z").node("b", 0, "z").node("c", 9, "y").build().unwrap();
    assert_eq!((ring.len(), ring.index_of(b"c")), (3, Some(NodeIndex(2))));
    for order in [ring.sequence(5).collect::<Vec<_>>(), ring.near(5).collect(), ring.spread(5).collect()] {
        assert_eq!(order, [NodeIndex(0)]);
    }
    let none = Ring::builder().node("a", 0, "z").build().unwrap();
    assert!(!none.is_empty());
    assert_eq!((none.owner(5), none.near(5).next(), none.shares()), (None, None, vec![0]));
}

/// Above 64 nodes the orders keep their marks on the heap, and orders start over in mid-way: every node still
/// comes once. Sizes of zones differ, so that spread has rounds of many lengths.
#[test]
fn large_rings_visit_every_node_once() {
    for nodes in [63_u32, 64, 65, 200] {
        let empty = Ring::builder().base(20);
        let builder =
            (0..nodes).fold(empty, |b, i| b.node(format!("node-{i}"), 100, [(i + 1).ilog2() as u8]));
        let ring = builder.build().unwrap();
        for hash in (0..20).map(crate::inner) {
            let sequence: Vec<_> = ring.sequence(hash).collect();
            assert_eq!(sequence.iter().collect::<BTreeSet<_>>().len(), nodes as usize);
            assert_eq!(sequence.len(), nodes as usize);
            assert!(ring.near(hash).eq(naive_near(&ring, &sequence)));
            assert!(ring.spread(hash).eq(naive_spread(&ring, &sequence)));
        }
    }
}

#[test]
fn a_ring_can_be_shared_between_threads() {
    fn shared<T: Send + Sync + 'static>(_: T) {}
    shared(std::sync::Arc::new(Ring::builder().build().unwrap()));
}
