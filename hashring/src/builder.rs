//! From a set of nodes to a ring, or the reason why not.

use crate::declaration::Declaration;
use crate::error::RingError;
use crate::hash::KeyHash;
use crate::node::Node;
use crate::ring::Ring;

/// Collects what a [`Ring`] is made of.
#[derive(Debug, Clone)]
#[must_use]
pub struct RingBuilder {
    base: u32,
    seed: u64,
    key_hash: KeyHash,
    nodes: Vec<Owned>,
}

/// A node until there is a ring to hold it.
#[derive(Debug, Clone)]
struct Owned {
    id: Box<[u8]>,
    weight: u32,
    zone: Box<[u8]>,
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

    /// Adds a node; the order of calls does not matter. See [`Node`] for what the parts mean.
    pub fn node(mut self, id: impl AsRef<[u8]>, weight: u32, zone: impl AsRef<[u8]>) -> Self {
        self.nodes.push(Owned { id: id.as_ref().into(), weight, zone: zone.as_ref().into() });
        self
    }

    /// Builds the ring.
    ///
    /// # Errors
    ///
    /// An id that occurs twice, and whatever passes one of the limits [`MAX_NODES`](crate::MAX_NODES),
    /// [`MAX_NODE_POINTS`](crate::MAX_NODE_POINTS), [`MAX_POINTS`](crate::MAX_POINTS) and
    /// [`MAX_NAME_BYTES`](crate::MAX_NAME_BYTES).
    pub fn build(self) -> Result<Ring, RingError> {
        let Self { base, seed, key_hash, nodes } = self;
        let nodes = nodes.iter().map(|node| Node { id: &node.id, weight: node.weight, zone: &node.zone });
        Declaration::new(base, seed, key_hash, nodes.collect()).map(Ring::new)
    }
}
