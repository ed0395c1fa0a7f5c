//! The ring and what it answers.

use std::fmt;

use xxhash_rust::xxh3::Xxh3;

use crate::builder::RingBuilder;
use crate::hash::KeyHash;
use crate::node::{NodeIndex, NodeSpec};
use crate::order::{Near, Sequence, Spread};
use crate::sorted::{Point, Sorted, Walk};

/// An immutable ring; [`Ring::builder`] makes one. `Send` and `Sync`: put it in an `Arc` to share it.
pub struct Ring {
    seed: u64,
    key_hash: KeyHash,
    /// By ascending id.
    nodes: Box<[NodeSpec]>,
    /// How many points each node has.
    points: Box<[u32]>,
    /// Each node's zone: its rank among the ring's zones.
    zones: Box<[u16]>,
    /// How many nodes with points each zone has.
    zone_sizes: Box<[usize]>,
    /// How many nodes each round of a spread order takes: the zones that have more nodes than rounds went by.
    rounds: Box<[usize]>,
    /// How many nodes have points.
    placed: usize,
    index: Sorted,
    fingerprint: u64,
}

impl Ring {
    /// A builder without nodes, of base 160, seed 0 and XXH3 for keys.
    pub fn builder() -> RingBuilder {
        RingBuilder::new()
    }

    /// A ring of `nodes`, ascending by id and at most [`MAX_NODES`](crate::MAX_NODES), on exactly `points`.
    pub(crate) fn new(seed: u64, key_hash: KeyHash, nodes: Vec<NodeSpec>, points: Vec<Point>) -> Self {
        let mut counts = vec![0_u32; nodes.len()];
        for point in &points {
            counts[point.node.get()] += 1;
        }

        let mut names: Vec<&[u8]> = nodes.iter().map(|node| &*node.zone).collect();
        names.sort_unstable();
        names.dedup();
        let zones: Box<[u16]> =
            nodes.iter().map(|node| names.partition_point(|name| *name < &*node.zone) as u16).collect();
        let mut zone_sizes = vec![0; names.len()];
        let mut rounds = Vec::new();
        for (zone, count) in zones.iter().zip(&counts) {
            if *count > 0 {
                let size = &mut zone_sizes[usize::from(*zone)];
                // The zone's nodes are taken one a round, so this one makes the round numbered `size` longer.
                if *size == rounds.len() {
                    rounds.push(0);
                }
                rounds[*size] += 1;
                *size += 1;
            }
        }

        Self {
            seed,
            key_hash,
            fingerprint: fingerprint(seed, key_hash, &nodes, &counts),
            placed: counts.iter().filter(|count| **count > 0).count(),
            nodes: nodes.into(),
            points: counts.into(),
            zones,
            zone_sizes: zone_sizes.into(),
            rounds: rounds.into(),
            index: Sorted::new(points),
        }
    }

    /// How many nodes the ring has, those without points included.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether the ring has no node. A ring whose nodes all lack points is not empty but owns nothing either.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// All nodes by ascending id: the slice that a [`NodeIndex`] points into.
    pub fn nodes(&self) -> &[NodeSpec] {
        &self.nodes
    }

    /// The node at `index`.
    ///
    /// # Panics
    ///
    /// If the index is not below [`Ring::len`]; one that came from this ring is.
    pub fn node(&self, index: NodeIndex) -> &NodeSpec {
        &self.nodes[index.get()]
    }

    /// The index of the node with this id.
    pub fn index_of(&self, id: &[u8]) -> Option<NodeIndex> {
        let found = self.nodes.binary_search_by(|node| (*node.id).cmp(id)).ok()?;
        Some(NodeIndex(found as u16))
    }

    /// The hash that places `key`: computed once, at the first hop, and carried with the request.
    pub fn hash(&self, key: &[u8]) -> u64 {
        self.key_hash.hash(self.seed, key)
    }

    /// The node that owns `hash`; none if no node has points.
    pub fn owner(&self, hash: u64) -> Option<NodeIndex> {
        self.walk(hash).next()
    }

    /// Every node with points, by the distance of its nearest point to `hash`; the owner first.
    ///
    /// The next node of this order is the owner in a ring without the nodes before it, for every hash.
    pub fn sequence(&self, hash: u64) -> Sequence<'_> {
        Sequence::new(self, hash)
    }

    /// The order for failover: the nodes of the owner's zone, then all others, both in sequence order.
    ///
    /// The owner's zone counts even where the caller skips the owner.
    pub fn near(&self, hash: u64) -> Near<'_> {
        Near::new(self, hash)
    }

    /// The order for replicas: rounds that take the first node, in sequence order, of each zone that has any
    /// left.
    pub fn spread(&self, hash: u64) -> Spread<'_> {
        Spread::new(self, hash)
    }

    /// A number that two rings share if they place every key alike: over the kind of key hash, the seed, and
    /// each node's id, number of points and zone.
    ///
    /// The weights that [`Ring::bounded`] reads enter only as numbers of points. With a base below 100 two
    /// weights can give the same number.
    pub fn fingerprint(&self) -> u64 {
        self.fingerprint
    }

    /// How many of the 2^64 hashes each node owns, by index. The sum is 2^64, or 0 if no node has points.
    pub fn shares(&self) -> Vec<u128> {
        let mut shares = vec![0; self.nodes.len()];
        self.index.add_shares(&mut shares);
        shares
    }

    pub(crate) fn walk(&self, hash: u64) -> Walk<'_> {
        self.index.walk(hash)
    }

    /// How many nodes have points.
    pub(crate) fn placed(&self) -> usize {
        self.placed
    }

    /// The nodes that have points.
    pub(crate) fn placed_nodes(&self) -> impl Iterator<Item = NodeIndex> {
        (0..).map(NodeIndex).zip(&self.points).filter_map(|(node, points)| (*points > 0).then_some(node))
    }

    /// The rank of a node's zone.
    pub(crate) fn zone(&self, node: NodeIndex) -> usize {
        usize::from(self.zones[node.get()])
    }

    /// How many nodes with points the zone of this rank has.
    pub(crate) fn zone_size(&self, zone: usize) -> usize {
        self.zone_sizes[zone]
    }

    /// How many zones have more than `round` nodes with points.
    pub(crate) fn round_size(&self, round: usize) -> usize {
        self.rounds.get(round).copied().unwrap_or_default()
    }
}

/// A ring has up to 2^26 points: its picture is their number.
impl fmt::Debug for Ring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ring")
            .field("fingerprint", &format_args!("{:016x}", self.fingerprint))
            .field("nodes", &self.nodes.len())
            .field("points", &self.index.len())
            .finish_non_exhaustive()
    }
}

fn fingerprint(seed: u64, key_hash: KeyHash, nodes: &[NodeSpec], counts: &[u32]) -> u64 {
    let mut hasher = Xxh3::new();
    let name = |hasher: &mut Xxh3, bytes: &[u8]| {
        // Names are at most MAX_NAME_BYTES long.
        hasher.update(&(bytes.len() as u32).to_le_bytes());
        hasher.update(bytes);
    };
    hasher.update(b"ring-v1");
    hasher.update(&[key_hash.kind()]);
    hasher.update(&seed.to_le_bytes());
    for (node, count) in nodes.iter().zip(counts) {
        name(&mut hasher, &node.id);
        hasher.update(&count.to_le_bytes());
        name(&mut hasher, &node.zone);
    }
    hasher.digest()
}
