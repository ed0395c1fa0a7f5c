//! Orders without some nodes, and orders of rings with more nodes than marks.

use std::cell::Cell;
use std::collections::BTreeSet;

use proptest::prelude::*;

use super::orders::{naive_near, naive_spread};
use super::sorted::Sorted;
use super::*;

/// Checks the orders at `hash` without the nodes that `skip` has.
fn check(ring: &Ring, sequence: &[NodeIndex], hash: u64, skip: &[bool]) -> Result<(), TestCaseError> {
    let skips = |node: NodeIndex| skip[node.get()];
    let without = |mut order: Vec<NodeIndex>| {
        order.retain(|node| !skips(*node));
        order
    };
    let limit = ring.len() + 1;
    let rest = without(sequence.to_vec());
    let ours: Vec<_> = ring.sequence(hash).skipping(skips).take(limit).collect();
    prop_assert_eq!(&ours, &rest, "sequence of {:x}", hash);
    let ours: Vec<_> = ring.near(hash).skipping(skips).take(limit).collect();
    prop_assert_eq!(ours, without(naive_near(ring, sequence)), "near of {:x}", hash);
    let ours: Vec<_> = ring.spread(hash).skipping(skips).take(limit).collect();
    prop_assert_eq!(ours, naive_spread(ring, &rest), "spread of {:x}", hash);
    Ok(())
}

proptest! {
    #[test]
    fn what_is_left_keeps_its_order((zones, points) in crowded(), skip in vec(any::<bool>(), 8)) {
        let ring = ring_on(&zones, &points);
        for hash in edges(&points) {
            check(&ring, &oracle(&points, hash), hash, &skip)?;
        }
    }

    #[test]
    fn what_is_left_keeps_its_order_in_a_larger_ring(
        zones in 1_u32..9,
        skip in vec(prop::bool::weighted(0.7), 100),
        hashes in vec(any::<u64>(), 4),
    ) {
        let node = |b: RingBuilder, i: u32| b.node(i.to_be_bytes(), 100, (i % zones).to_be_bytes());
        let ring = (0..100).fold(Ring::builder().base(10), node).build().unwrap();
        for hash in hashes {
            let sequence: Vec<_> = ring.sequence(hash).collect();
            check(&ring, &sequence, hash, &skip)?;
        }
    }

    /// A skip that comes when some were taken is for the rest of the order.
    #[test]
    fn a_skip_can_come_later(
        (zones, points) in crowded(),
        skip in vec(prop::bool::weighted(0.7), 8),
        taken in 0_usize..9,
    ) {
        let ring = ring_on(&zones, &points);
        let skips = |node: NodeIndex| skip[node.get()];
        for hash in edges(&points) {
            let sequence = oracle(&points, hash);
            let rest = |order: Vec<NodeIndex>| -> Vec<_> {
                order.into_iter().skip(taken).filter(|node| !skips(*node)).collect()
            };
            let mut order = ring.sequence(hash);
            order.by_ref().take(taken).for_each(drop);
            prop_assert_eq!(order.skipping(skips).take(9).collect::<Vec<_>>(), rest(sequence.clone()));
            let mut order = ring.near(hash);
            order.by_ref().take(taken).for_each(drop);
            prop_assert_eq!(order.skipping(skips).take(9).collect::<Vec<_>>(), rest(naive_near(&ring, &sequence)));
            let mut order = ring.spread(hash);
            order.by_ref().take(taken).for_each(drop);
            let ours: BTreeSet<_> = order.skipping(skips).take(9).collect();
            prop_assert_eq!(ours, rest(naive_spread(&ring, &sequence)).into_iter().collect());
        }
    }

    /// Whatever skips answers, orders end, and have no node twice.
    #[test]
    fn answers_that_change_do_no_harm((zones, points) in crowded(), hash: u64, seed: u64) {
        let ring = ring_on(&zones, &points);
        let asked = Cell::new(seed);
        let skip = |_: NodeIndex| {
            asked.set(crate::inner(asked.get()));
            asked.get() & 1 == 0
        };
        let orders: [Vec<_>; 3] = [
            ring.sequence(hash).skipping(skip).take(9).collect(),
            ring.near(hash).skipping(skip).take(9).collect(),
            ring.spread(hash).skipping(skip).take(9).collect(),
        ];
        for order in orders {
            prop_assert_eq!(order.iter().collect::<BTreeSet<_>>().len(), order.len());
        }
    }
}

/// Nodes share marks from 1025 up, and zones do where there are as many: what was visited decides. Zones are
/// few and of many sizes, or one for each node.
#[test]
fn rings_with_more_nodes_than_marks_visit_every_node_once() {
    for (nodes, zones) in [(1024_u32, 7), (1025, 1), (1300, 5), (1300, u32::MAX)] {
        let zone = |i: u32| (if zones == 7 { (i + 1).ilog2() } else { i % zones }).to_be_bytes();
        let node = |b: RingBuilder, i: u32| b.node(i.to_be_bytes(), 100, zone(i));
        let ring = (0..nodes).fold(Ring::builder().base(2), node).build().unwrap();
        let points: Vec<Point> = (0..nodes)
            .flat_map(|i| (0..2).map(move |n| at(point(&i.to_be_bytes(), n, 0), i as u16)))
            .collect();
        let sorted = Sorted::new(points);
        for hash in (0..2).map(crate::inner) {
            let mut met = BTreeSet::new();
            let sequence: Vec<_> = sorted.walk(hash).filter(|node| met.insert(*node)).collect();
            assert_eq!(sequence.len(), nodes as usize);
            let nobody = vec![false; nodes as usize];
            check(&ring, &sequence, hash, &nobody).unwrap();
            let most: Vec<bool> = (0..nodes).map(|i| i % 11 != 3).collect();
            check(&ring, &sequence, hash, &most).unwrap();
        }
    }
}

/// When most nodes are down every key asks for the few that are left: that must not cost a walk of the ring.
#[test]
fn skipping_nearly_all_costs_no_walk_around_the_ring() {
    let nodes = 200_u16;
    let node = |b: RingBuilder, i: u16| b.node(i.to_be_bytes(), 100, [i as u8 % 3]);
    let ring = (0..nodes).fold(Ring::builder(), node).build().unwrap();
    let asked = Cell::new(0_usize);
    let only = |left: Option<u16>| {
        let asked = &asked;
        asked.set(0);
        move |node: NodeIndex| {
            asked.set(asked.get() + 1);
            Some(node.0) != left
        }
    };
    for hash in (0..50).map(crate::inner) {
        // The points of the ring are 32,000.
        assert_eq!(ring.sequence(hash).skipping(only(None)).next(), None);
        assert!(asked.get() <= 400, "{}", asked.get());
        assert_eq!(ring.near(hash).skipping(only(None)).next(), None);
        assert!(asked.get() <= 800, "{}", asked.get());
        assert_eq!(ring.spread(hash).skipping(only(None)).next(), None);
        assert!(asked.get() <= 400, "{}", asked.get());

        assert_eq!(ring.sequence(hash).skipping(only(Some(9))).count(), 1);
        assert_eq!(ring.near(hash).skipping(only(Some(9))).count(), 1);
        assert_eq!(ring.spread(hash).skipping(only(Some(9))).count(), 1);
    }
}
