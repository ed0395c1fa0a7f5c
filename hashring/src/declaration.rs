//! What a ring is a function of.

use xxhash_rust::xxh3::xxh3_64;

use crate::error::RingError;
use crate::hash::KeyHash;
use crate::limits::{self, MAX_NODES};
use crate::node::{Node, NodeIndex};

/// The name, the kind of key hash and the seed.
const HEADER: usize = b"ring-v1".len() + 1 + 8;

/// The set of nodes, the base, the seed and the kind of key hash, in the bytes that the fingerprint is over. A
/// change is a copy of these bytes with a part more or less, however many nodes there are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Declaration {
    pub(crate) base: u32,
    pub(crate) seed: u64,
    pub(crate) key_hash: KeyHash,
    /// The header and each node's part by ascending id: length of the id, id, number of points, length of the
    /// zone, zone; numbers are 32 bits, little-endian.
    bytes: Box<[u8]>,
    /// Where each node's part starts, and where the last one ends.
    starts: Box<[u32]>,
    /// By node; the fingerprint has the numbers of points instead.
    weights: Box<[u32]>,
}

impl Declaration {
    /// A declaration of `nodes` in any order.
    pub(crate) fn new(
        base: u32,
        seed: u64,
        key_hash: KeyHash,
        mut nodes: Vec<Node<'_>>,
    ) -> Result<Self, RingError> {
        if nodes.len() > MAX_NODES {
            return Err(RingError::TooManyNodes { nodes: nodes.len() });
        }
        nodes.sort_unstable_by_key(|node| node.id);
        if let Some(pair) = nodes.windows(2).find(|pair| pair[0].id == pair[1].id) {
            return Err(RingError::DuplicateId { id: pair[0].id.into() });
        }
        let mut bytes = b"ring-v1".to_vec();
        bytes.push(key_hash.kind());
        bytes.extend(seed.to_le_bytes());
        let mut starts = vec![HEADER as u32];
        let (mut weights, mut total) = (Vec::with_capacity(nodes.len()), 0);
        for node in nodes {
            let points = limits::points(base, node)?;
            total += u64::from(points);
            push_part(&mut bytes, node, points);
            // At most MAX_NODES parts of two names of MAX_NAME_BYTES: below 2^28.
            starts.push(bytes.len() as u32);
            weights.push(node.weight);
        }
        limits::check_total(total)?;
        Ok(Self { base, seed, key_hash, bytes: bytes.into(), starts: starts.into(), weights: weights.into() })
    }

    /// The declaration with one node more, and the node's index.
    pub(crate) fn with(&self, node: Node<'_>) -> Result<(Self, NodeIndex), RingError> {
        let Err(at) = self.search(node.id) else {
            return Err(RingError::DuplicateId { id: node.id.into() });
        };
        if self.len() == MAX_NODES {
            return Err(RingError::TooManyNodes { nodes: MAX_NODES + 1 });
        }
        let mut part = Vec::new();
        push_part(&mut part, node, limits::points(self.base, node)?);
        let index = NodeIndex(at as u16);
        Ok((self.spliced(index, 0, &part, Some(node.weight)), index))
    }

    /// The declaration without a node.
    pub(crate) fn without(&self, node: NodeIndex) -> Self {
        self.spliced(node, 1, &[], None)
    }

    /// The declaration with another weight for a node.
    pub(crate) fn reweighted(&self, node: NodeIndex, weight: u32) -> Result<Self, RingError> {
        let changed = Node { weight, ..self.node(node) };
        let mut part = Vec::new();
        push_part(&mut part, changed, limits::points(self.base, changed)?);
        Ok(self.spliced(node, 1, &part, Some(weight)))
    }

    /// A copy with `part` and `weight` in the place of as many nodes at `node` as `gone` says, 0 or 1.
    fn spliced(&self, node: NodeIndex, gone: usize, part: &[u8], weight: Option<u32>) -> Self {
        let (from, to) = (node.get(), node.get() + gone);
        let (start, end) = (self.starts[from], self.starts[to]);
        let bytes = [&self.bytes[..start as usize], part, &self.bytes[end as usize..]].concat();
        let mut starts = Vec::with_capacity(self.starts.len() + 1);
        starts.extend_from_slice(&self.starts[..from]);
        if weight.is_some() {
            starts.push(start);
        }
        let shift = (part.len() as u32).wrapping_sub(end - start);
        starts.extend(self.starts[to..].iter().map(|start| start.wrapping_add(shift)));
        let weights = [&self.weights[..from], weight.as_slice(), &self.weights[to..]].concat();
        Self { bytes: bytes.into(), starts: starts.into(), weights: weights.into(), ..*self }
    }

    /// The hash over everything that places keys.
    pub(crate) fn fingerprint(&self) -> u64 {
        xxh3_64(&self.bytes)
    }

    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.weights.len()
    }

    pub(crate) fn indices(&self) -> impl ExactSizeIterator<Item = NodeIndex> + DoubleEndedIterator + use<> {
        // There are at most MAX_NODES.
        (0..self.len() as u16).map(NodeIndex)
    }

    /// Every node by ascending id.
    pub(crate) fn nodes(&self) -> impl ExactSizeIterator<Item = Node<'_>> + DoubleEndedIterator {
        self.indices().map(|node| self.node(node))
    }

    pub(crate) fn node(&self, node: NodeIndex) -> Node<'_> {
        let (id, rest) = name(self.part(node));
        Node { id, weight: self.weights[node.get()], zone: name(&rest[4..]).0 }
    }

    pub(crate) fn weight(&self, node: NodeIndex) -> u32 {
        self.weights[node.get()]
    }

    /// Whether a node has points.
    pub(crate) fn is_placed(&self, node: NodeIndex) -> bool {
        limits::is_placed(self.base, self.weights[node.get()])
    }

    /// How many points a node has.
    pub(crate) fn points(&self, node: NodeIndex) -> u32 {
        number(name(self.part(node)).1)
    }

    /// The index of the node with this id, or the one that it would have.
    pub(crate) fn search(&self, id: &[u8]) -> Result<usize, usize> {
        let (mut from, mut to) = (0, self.len());
        while from < to {
            let middle = from.midpoint(to);
            match name(self.part(NodeIndex(middle as u16))).0.cmp(id) {
                std::cmp::Ordering::Less => from = middle + 1,
                std::cmp::Ordering::Equal => return Ok(middle),
                std::cmp::Ordering::Greater => to = middle,
            }
        }
        Err(from)
    }

    /// The bytes on the heap.
    pub(crate) fn heap_bytes(&self) -> usize {
        size_of_val(&*self.bytes) + size_of_val(&*self.starts) + size_of_val(&*self.weights)
    }

    fn part(&self, node: NodeIndex) -> &[u8] {
        let node = node.get();
        &self.bytes[self.starts[node] as usize..self.starts[node + 1] as usize]
    }
}

fn push_part(bytes: &mut Vec<u8>, node: Node<'_>, points: u32) {
    // Names are at most MAX_NAME_BYTES long.
    bytes.extend((node.id.len() as u32).to_le_bytes());
    bytes.extend(node.id);
    bytes.extend(points.to_le_bytes());
    bytes.extend((node.zone.len() as u32).to_le_bytes());
    bytes.extend(node.zone);
}

/// The number at the start of a part's rest.
fn number(bytes: &[u8]) -> u32 {
    u32::from_le_bytes(*bytes.first_chunk().expect("a part has as many numbers as are read"))
}

/// The name at the start of a part's rest, and what follows it.
fn name(bytes: &[u8]) -> (&[u8], &[u8]) {
    bytes[4..].split_at(number(bytes) as usize)
}
