//! From a set of nodes to a ring, or the reason why not.

use crate::error::RingError;
use crate::hash::{KeyHash, PointHasher};
use crate::node::{NodeIndex, NodeSpec};
use crate::ring::Ring;
use crate::sorted::Point;

/// Most nodes in a ring: two 16-bit numbers stay free for an index that needs marks of its own.
pub const MAX_NODES: usize = 65_534;

/// Most points of one node: 6,553 times the weight 1 at the base 160.
pub const MAX_NODE_POINTS: u64 = 1 << 20;

/// Most points in a ring: the largest set of nodes has 1024 points a node, in a gibibyte.
pub const MAX_POINTS: u64 = 1 << 26;

/// Longest id and longest zone, in bytes: a DNS name, 253 bytes, with room for a port and a prefix.
pub const MAX_NAME_BYTES: usize = 1024;

/// How much of an id that is too long an error shows, in bytes.
const SHOWN_BYTES: usize = 32;

/// Collects what a [`Ring`] is made of.
#[derive(Debug, Clone)]
#[must_use]
pub struct RingBuilder {
    base: u32,
    seed: u64,
    key_hash: KeyHash,
    nodes: Vec<NodeSpec>,
}

impl RingBuilder {
    pub(crate) fn new() -> Self {
        Self { base: 160, seed: 0, key_hash: KeyHash::default(), nodes: Vec::new() }
    }

    /// How many points a node of weight 1 has; 160 unless set. More points share keys more evenly and cost
    /// memory. Never make it a function of the number of nodes: each node that comes or goes would then move
    /// keys between all others.
    pub fn base(mut self, base: u32) -> Self {
        self.base = base;
        self
    }

    /// The seed of points and keys; 0 unless set.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// How keys are hashed; [`KeyHash::Xxh3`] unless set.
    pub fn key_hash(mut self, key_hash: KeyHash) -> Self {
        self.key_hash = key_hash;
        self
    }

    /// Adds a node; the order of calls does not matter. See [`NodeSpec`] for what the parts mean.
    pub fn node(mut self, id: impl AsRef<[u8]>, weight: u32, zone: impl AsRef<[u8]>) -> Self {
        self.nodes.push(NodeSpec { id: id.as_ref().into(), weight, zone: zone.as_ref().into() });
        self
    }

    /// Builds the ring.
    ///
    /// # Errors
    ///
    /// An id that occurs twice, and whatever passes one of the limits [`MAX_NODES`], [`MAX_NODE_POINTS`],
    /// [`MAX_POINTS`] and [`MAX_NAME_BYTES`].
    pub fn build(self) -> Result<Ring, RingError> {
        let Self { base, seed, key_hash, mut nodes } = self;
        if nodes.len() > MAX_NODES {
            return Err(RingError::TooManyNodes { nodes: nodes.len() });
        }
        nodes.sort_unstable_by(|a, b| a.id.cmp(&b.id));
        if let Some(pair) = nodes.windows(2).find(|pair| pair[0].id == pair[1].id) {
            return Err(RingError::DuplicateId { id: pair[0].id.clone() });
        }
        // Every limit is checked before the first point is computed.
        let counts = nodes.iter().map(|node| count(base, node)).collect::<Result<Vec<u32>, _>>()?;
        let total = counts.iter().map(|count| u64::from(*count)).sum();
        if total > MAX_POINTS {
            return Err(RingError::TooManyPoints { points: total });
        }

        let mut points = Vec::with_capacity(total as usize);
        for ((index, node), count) in (0..).map(NodeIndex).zip(&nodes).zip(counts) {
            let mut hasher = PointHasher::new(&node.id, seed);
            points.extend((0..count).map(|i| Point { position: hasher.position(i), node: index }));
        }
        Ok(Ring::new(seed, key_hash, nodes, points))
    }
}

/// How many points a node has.
fn count(base: u32, node: &NodeSpec) -> Result<u32, RingError> {
    if node.id.len() > MAX_NAME_BYTES {
        return Err(RingError::IdTooLong { start: node.id[..SHOWN_BYTES].into(), bytes: node.id.len() });
    }
    if node.zone.len() > MAX_NAME_BYTES {
        return Err(RingError::ZoneTooLong { id: node.id.clone(), bytes: node.zone.len() });
    }
    let points = u64::from(base) * u64::from(node.weight) / 100;
    if points > MAX_NODE_POINTS {
        return Err(RingError::TooManyNodePoints { id: node.id.clone(), points });
    }
    Ok(points as u32)
}
