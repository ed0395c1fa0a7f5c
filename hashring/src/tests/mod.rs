//! The contract as properties, against an oracle that knows nothing of indices.
#![allow(clippy::unwrap_used, reason = "tests")]

mod bounded;
mod change;
mod diff;
mod index;
mod limits;
mod movement;
mod orders;
mod shares;
mod skipping;
mod sorted;

use proptest::collection::{btree_map, vec};
use proptest::prelude::*;

use crate::declaration::Declaration;
use crate::index::{Index, Point};
use crate::zones::Zones;
use crate::{KeyHash, Node, NodeIndex, Ring, RingBuilder, point};

/// The nodes in the order of the contract, from a distance to every point: the definition, word for word.
fn oracle(points: &[Point], hash: u64) -> Vec<NodeIndex> {
    let mut ranked: Vec<(u64, bool, NodeIndex)> = points
        .iter()
        .map(|point| {
            let (below, above) = (hash.wrapping_sub(point.position), point.position.wrapping_sub(hash));
            // At equal distance what lies below comes first; at one position the smaller id.
            (below.min(above), above < below, point.node)
        })
        .collect();
    ranked.sort_unstable();
    let mut order = Vec::new();
    for (_, _, node) in ranked {
        if !order.contains(&node) {
            order.push(node);
        }
    }
    order
}

/// Hashes where an answer may change: every position and every midpoint (both ways around), the hashes beside
/// them, the opposite of each position, and both ends of the number range.
fn edges(points: &[Point]) -> Vec<u64> {
    let mut middles = vec![0, u64::MAX];
    for a in points {
        middles.extend([a.position, a.position.wrapping_add(1 << 63)]);
        for b in points {
            middles.push(a.position.wrapping_add(b.position.wrapping_sub(a.position) / 2));
        }
    }
    let beside =
        |middle: u64| [middle.wrapping_sub(1), middle, middle.wrapping_add(1), middle.wrapping_add(2)];
    let mut edges: Vec<u64> = middles.into_iter().flat_map(beside).collect();
    edges.sort_unstable();
    edges.dedup();
    edges
}

/// A ring of nodes "\0\0", "\0\1", ... with these weights and zones on exactly these points.
fn ring_of(nodes: &[(u32, u8)], points: &[Point]) -> Ring {
    let names: Vec<[u8; 2]> = (0_u16..).take(nodes.len()).map(u16::to_be_bytes).collect();
    let nodes = names.iter().zip(nodes);
    let nodes =
        nodes.map(|(id, (weight, zone))| Node { id, weight: *weight, zone: std::slice::from_ref(zone) });
    let declaration = Declaration::new(0, 0, KeyHash::Xxh3, nodes.collect()).unwrap();
    let zones = Zones::new(declaration.nodes().map(|node| node.zone), |node| {
        points.iter().any(|point| point.node == node)
    });
    Ring::from_parts(declaration, zones, index_of(points))
}

/// The same with equal weights.
fn ring_on(zones: &[u8], points: &[Point]) -> Ring {
    ring_of(&zones.iter().map(|zone| (100, *zone)).collect::<Vec<_>>(), points)
}

fn index_of(points: &[Point]) -> Index {
    let nodes = points.iter().map(|point| point.node.get() + 1).max().unwrap_or_default();
    let mut counts = vec![0; nodes];
    points.iter().for_each(|point| counts[point.node.get()] += 1);
    let mut by_node = points.to_vec();
    // As they come, not sorted: the index has to do that.
    by_node.sort_by_key(|point| point.node);
    Index::new(&by_node.iter().map(|point| point.position).collect::<Vec<_>>(), &counts)
}

fn at(position: u64, node: u16) -> Point {
    Point { position, node: NodeIndex(node) }
}

/// Zones of up to eight nodes and points on them, crowded so that equal positions, equal distances, opposite
/// points and nodes without points are common.
fn crowded() -> impl Strategy<Value = (Vec<u8>, Vec<Point>)> {
    let position = prop_oneof![
        4 => (0_u64..12).prop_map(|near_zero| near_zero.wrapping_sub(6)),
        2 => (0_u64..8).prop_map(|eighth| eighth << 61),
        1 => any::<u64>(),
    ];
    vec(0_u8..4, 0..=8).prop_flat_map(move |zones| {
        let points = if zones.is_empty() { 0..=0 } else { 0..=20 };
        let node = 0..zones.len().max(1) as u16;
        let points = vec((position.clone(), node).prop_map(|(position, node)| at(position, node)), points);
        (Just(zones), points)
    })
}

/// A set of nodes as a caller declares it, and the rest of what makes a ring.
#[derive(Debug, Clone)]
struct Declared {
    base: u32,
    seed: u64,
    nodes: Vec<(Vec<u8>, u32, u8)>,
}

impl Declared {
    fn builder(&self) -> RingBuilder {
        let empty = Ring::builder().base(self.base).seed(self.seed);
        self.nodes.iter().fold(empty, |builder, (id, weight, zone)| builder.node(id, *weight, [*zone]))
    }

    fn ring(&self) -> Ring {
        self.builder().build().unwrap()
    }

    /// The points, from the contract's formula, of nodes numbered by ascending id.
    fn points(&self) -> Vec<Point> {
        let mut nodes = self.nodes.clone();
        nodes.sort_unstable();
        (0_u16..)
            .zip(&nodes)
            .flat_map(|(node, (id, weight, _))| {
                (0..self.base * weight / 100).map(move |i| at(point(id, i, self.seed), node))
            })
            .collect()
    }

    /// Hashes to try: the edges, and some between them.
    fn hashes(&self) -> Vec<u64> {
        let mut hashes = edges(&self.points());
        hashes.extend((0..64).map(crate::inner));
        hashes
    }
}

/// Up to six nodes of up to twelve points, some with none, ids of any bytes and of none.
fn declared() -> impl Strategy<Value = Declared> {
    let nodes = btree_map(vec(any::<u8>(), 0..6), (0_u32..=150, 0_u8..3), 0..=6);
    (0_u32..=8, any::<u64>(), nodes)
        .prop_map(|(base, seed, nodes)| Declared {
            base,
            seed,
            nodes: nodes.into_iter().map(|(id, (weight, zone))| (id, weight, zone)).collect(),
        })
        .prop_flat_map(|declared| {
            let nodes = Just(declared.nodes.clone()).prop_shuffle();
            nodes.prop_map(move |nodes| Declared { nodes, ..declared.clone() })
        })
}
