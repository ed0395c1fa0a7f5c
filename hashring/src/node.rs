//! What a ring is made of.

/// A node as it was declared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Node<'a> {
    /// What names the node and places its points; unique in a ring.
    pub id: &'a [u8],
    /// Share of the keys relative to the other nodes, in hundredths: 100 is one. At 0 the node has no points.
    pub weight: u32,
    /// The node's failure domain; nodes without one share the empty name.
    pub zone: &'a [u8],
}

/// A node's rank among the nodes of its ring by ascending id bytes.
///
/// So an index is a pure function of the set of ids: rings over the same ids agree on it, whatever their
/// weights; a ring with an id more or less does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeIndex(pub u16);

impl NodeIndex {
    /// The index as one into a slice that holds an entry for each node of the ring.
    #[inline]
    pub fn get(self) -> usize {
        usize::from(self.0)
    }
}
