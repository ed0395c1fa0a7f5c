//! What an order remembers of the nodes it has been through.

use crate::node::NodeIndex;

/// Marks that fit in an iterator.
const MARKS: usize = 1024;

/// A set of nodes in fixed room: exact in rings of up to [`MARKS`] nodes; in larger ones nodes share marks.
#[derive(Debug, Clone, Default)]
pub(crate) struct Marks([u64; MARKS / 64]);

impl Marks {
    /// Whether nodes of a ring of `nodes` share no marks.
    #[inline]
    pub(crate) fn are_exact(nodes: usize) -> bool {
        nodes <= MARKS
    }

    /// Marks a node; false if it is marked already.
    #[inline]
    pub(crate) fn set(&mut self, node: NodeIndex) -> bool {
        let (word, bit) = Self::place(node);
        let fresh = self.0[word] & bit == 0;
        self.0[word] |= bit;
        fresh
    }

    /// Whether a node is marked.
    #[inline]
    pub(crate) fn has(&self, node: NodeIndex) -> bool {
        let (word, bit) = Self::place(node);
        self.0[word] & bit != 0
    }

    #[inline]
    fn place(node: NodeIndex) -> (usize, u64) {
        let mark = node.get() % MARKS;
        (mark / 64, 1 << (mark % 64))
    }
}
