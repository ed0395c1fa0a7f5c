//! The orders in which a key tries nodes. None allocates: what was visited is an arc of the index.

mod marks;
mod near;
mod sequence;
mod spread;

pub use near::Near;
pub use sequence::Sequence;
pub use spread::Spread;

use crate::index::Walk;
use crate::node::NodeIndex;
use crate::ring::Ring;
use marks::Marks;

/// The points outward from a hash, and which of them is the first of its node.
#[derive(Debug, Clone)]
struct Outward<'a> {
    walk: Walk<'a>,
    marks: Marks,
    /// Whether the marks say all.
    exact: bool,
}

impl<'a> Outward<'a> {
    #[inline]
    fn new(ring: &'a Ring, hash: u64) -> Self {
        Self { walk: ring.walk(hash), marks: Marks::default(), exact: Marks::are_exact(ring.len()) }
    }

    /// The node of the next point.
    #[inline]
    fn next(&mut self) -> Option<NodeIndex> {
        self.walk.next()
    }

    /// Whether `node`, of the point that the walk is at, is met for the first time. To be asked of every point
    /// that shall count.
    #[inline]
    fn is_first(&mut self, node: NodeIndex) -> bool {
        self.marks.set(node) || (!self.exact && !self.walk.has_visited_twice(node))
    }
}

/// What an order does not take, and when to find out how much that is.
///
/// An order ends after as many nodes as there are. Of nodes to skip it does not know how many there are, and
/// could walk the whole ring for one that does not come. So it counts them, but only when it has passed over so
/// much that counting costs no more than what it did until then.
#[derive(Debug, Clone)]
struct Skip<S> {
    skip: Option<S>,
    patience: usize,
}

impl<S: Fn(NodeIndex) -> bool> Skip<S> {
    #[inline]
    fn new(ring: &Ring, skip: Option<S>) -> Self {
        Self { skip, patience: ring.placed() }
    }

    #[inline]
    fn skips(&self, node: NodeIndex) -> bool {
        self.skip.as_ref().is_some_and(|skip| skip(node))
    }

    /// Notes that a point was passed over. True if it is time to count.
    fn passes(&mut self) -> bool {
        self.patience = self.patience.wrapping_sub(1);
        self.patience == 0
    }

    /// How many of `nodes` are not skipped.
    fn count(&self, nodes: &[NodeIndex]) -> usize {
        nodes.iter().filter(|node| !self.skips(**node)).count()
    }

    /// The size of an iterator that has `left` nodes to come, less those that are skipped.
    fn size_hint(&self, left: usize) -> (usize, Option<usize>) {
        (if self.skip.is_none() { left } else { 0 }, Some(left))
    }
}
