//! The ring and what it answers.

use std::fmt;

use crate::builder::RingBuilder;
use crate::declaration::Declaration;
use crate::hash::PointHasher;
use crate::index::{Index, Walk};
use crate::node::{Node, NodeIndex};
use crate::order::{Near, Sequence, Spread};
use crate::zones::Zones;

/// An immutable ring; [`Ring::builder`] makes one. `Send` and `Sync`: put it in an `Arc` to share it.
///
/// [`Ring::with_node`], [`Ring::without_node`] and [`Ring::with_weight`] make a changed copy in a fraction of
/// the time of a build.
pub struct Ring {
    pub(crate) declaration: Declaration,
    pub(crate) zones: Zones,
    pub(crate) index: Index,
    fingerprint: u64,
}

impl Ring {
    /// A builder without nodes, of base 160, seed 0 and XXH3 for keys.
    pub fn builder() -> RingBuilder {
        RingBuilder::new()
    }

    /// The ring of a declaration.
    pub(crate) fn new(declaration: Declaration) -> Self {
        let counts: Vec<u32> = declaration.indices().map(|node| declaration.points(node)).collect();
        let mut positions = Vec::with_capacity(counts.iter().map(|count| *count as usize).sum());
        for (node, count) in declaration.nodes().zip(&counts) {
            let mut hasher = PointHasher::new(node.id, declaration.seed);
            positions.extend((0..*count).map(|i| hasher.position(i)));
        }
        let index = Index::new(&positions, &counts);
        let zones = Zones::new(declaration.nodes().map(|node| node.zone), |node| declaration.is_placed(node));
        Self::from_parts(declaration, zones, index)
    }

    /// A ring of parts that belong together.
    pub(crate) fn from_parts(declaration: Declaration, zones: Zones, index: Index) -> Self {
        Self { fingerprint: declaration.fingerprint(), declaration, zones, index }
    }

    /// How many nodes the ring has, those without points included.
    #[inline]
    pub fn len(&self) -> usize {
        self.declaration.len()
    }

    /// Whether the ring has no node. A ring whose nodes all lack points is not empty but owns nothing either.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All nodes by ascending id: the first has the [`NodeIndex`] 0.
    pub fn nodes(&self) -> impl ExactSizeIterator<Item = Node<'_>> + DoubleEndedIterator {
        self.declaration.nodes()
    }

    /// The node at `index`.
    ///
    /// # Panics
    ///
    /// If the index is not below [`Ring::len`]; one that came from this ring is.
    pub fn node(&self, index: NodeIndex) -> Node<'_> {
        self.declaration.node(index)
    }

    /// The index of the node with this id.
    pub fn index_of(&self, id: &[u8]) -> Option<NodeIndex> {
        // A ring has at most MAX_NODES.
        self.declaration.search(id).ok().map(|found| NodeIndex(found as u16))
    }

    /// The hash that places `key`: computed once, at the first hop, and carried with the request.
    #[inline]
    pub fn hash(&self, key: &[u8]) -> u64 {
        self.declaration.key_hash.hash(self.declaration.seed, key)
    }

    /// The node that owns `hash`; none if no node has points.
    #[inline]
    pub fn owner(&self, hash: u64) -> Option<NodeIndex> {
        self.index.owner(hash)
    }

    /// Every node with points, by the distance of its nearest point to `hash`; the owner first.
    ///
    /// The next node of this order is the owner in a ring without the nodes before it, for every hash.
    #[inline]
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
        let mut shares = vec![0; self.len()];
        let mut arcs = self.index.arcs().peekable();
        while let Some((first, owner)) = arcs.next() {
            let end = arcs.peek().map_or(1 << 64, |(next, _)| u128::from(*next));
            shares[owner.get()] += end - u128::from(first);
        }
        shares
    }

    /// Reads what [`Ring::owner`] reads from, once and in order. For a reader that was handed a ring which another
    /// thread has made: memory gives a megabyte in one go in less than 0.1 ms, while thousands of lookups that each
    /// wait for a line of it take ten times that.
    pub fn warm(&self) {
        self.index.warm();
    }

    /// What the ring keeps in memory.
    pub fn footprint(&self) -> Footprint {
        let (hot, index) = self.index.bytes();
        let rest = self.declaration.heap_bytes() + self.zones.heap_bytes();
        Footprint { points: self.index.len(), hot, total: index + rest + size_of::<Self>() }
    }

    #[inline]
    pub(crate) fn walk(&self, hash: u64) -> Walk<'_> {
        self.index.walk(hash)
    }

    /// How many nodes have points.
    #[inline]
    pub(crate) fn placed(&self) -> usize {
        self.zones.members().len()
    }

    #[inline]
    pub(crate) fn zones(&self) -> &Zones {
        &self.zones
    }
}

/// What a ring keeps in memory, from [`Ring::footprint`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Footprint {
    /// How many points the ring has.
    pub points: usize,
    /// Bytes that [`Ring::owner`] reads from, each time 64 of them: what has to stay in a cache.
    pub hot: usize,
    /// All bytes of the ring.
    pub total: usize,
}

/// A ring has up to 2^26 points: its picture is their number.
impl fmt::Debug for Ring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ring")
            .field("fingerprint", &format_args!("{:016x}", self.fingerprint))
            .field("nodes", &self.len())
            .field("points", &self.index.len())
            .finish_non_exhaustive()
    }
}
