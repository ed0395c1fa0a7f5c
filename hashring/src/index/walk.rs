//! The walk outward from a hash.

use std::iter::FusedIterator;
use std::ops::Range;

use crate::node::NodeIndex;

/// The run of points at one position that ends where `end` starts; 0 means around the ring.
pub(super) fn run_before(positions: &[u64], end: usize) -> Range<usize> {
    let end = if end > 0 { end } else { positions.len() };
    let mut start = end.saturating_sub(1);
    while start > 0 && positions[start - 1] == positions[start] {
        start -= 1;
    }
    start..end
}

/// Points by ring distance from a hash, one cursor to either side.
///
/// What was visited is one arc around the hash, so the cursors meet only when nothing is left.
#[derive(Debug, Clone)]
pub(crate) struct Walk<'a> {
    positions: &'a [u64],
    nodes: &'a [NodeIndex],
    hash: u64,
    /// How many points were not visited yet.
    left: usize,
    /// The next point at or above the hash.
    above: usize,
    /// What is left of the run below the hash: runs are taken downward, a run's points by ascending id.
    below: Range<usize>,
    /// Where that run starts, and the next one ends.
    below_start: usize,
}

impl<'a> Walk<'a> {
    /// A walk from `hash`, below which `rank` points lie.
    #[inline]
    pub(super) fn new(positions: &'a [u64], nodes: &'a [NodeIndex], hash: u64, rank: usize) -> Self {
        let below = run_before(positions, rank);
        Self {
            positions,
            nodes,
            hash,
            left: positions.len(),
            above: if rank < positions.len() { rank } else { 0 },
            below_start: below.start,
            below,
        }
    }

    /// Whether the walk has visited two points of `node`. Costs a look at each point visited.
    pub(crate) fn has_visited_twice(&self, node: NodeIndex) -> bool {
        self.visited().into_iter().map(|nodes| count(nodes, node)).sum::<usize>() > 1
    }

    /// The nodes of the points visited so far, in no order that means anything.
    pub(crate) fn visited(&self) -> [&'a [NodeIndex]; 3] {
        // The part of the lower run that was taken is apart: what is left of the run lies between.
        let run = &self.nodes[self.below_start..self.below.start];
        let arc = self.nodes.len() - self.left - run.len();
        let end = self.below.end + arc;
        match end.checked_sub(self.nodes.len()) {
            None => [run, &self.nodes[self.below.end..end], &[]],
            Some(rest) => [run, &self.nodes[self.below.end..], &self.nodes[..rest]],
        }
    }
}

/// How often `node` is among `nodes`.
fn count(nodes: &[NodeIndex], node: NodeIndex) -> usize {
    // Sums of 16 bits, as wide as what is compared, so that compilers make vectors of it.
    let sum = |chunk: &[NodeIndex]| chunk.iter().map(|other| u16::from(*other == node)).sum::<u16>();
    nodes.chunks(1 << 15).map(|chunk| usize::from(sum(chunk))).sum()
}

impl Iterator for Walk<'_> {
    type Item = NodeIndex;

    #[inline]
    fn next(&mut self) -> Option<NodeIndex> {
        self.left = self.left.checked_sub(1)?;
        let (below, above) = (self.positions[self.below.start], self.positions[self.above]);
        // Both distances wrap around 0. The comparison stays the same throughout a run, so that it is never
        // interrupted by points of the other side.
        if self.hash.wrapping_sub(below) <= above.wrapping_sub(self.hash) {
            let node = self.nodes[self.below.start];
            self.below.start += 1;
            if self.below.is_empty() {
                self.below = run_before(self.positions, self.below_start);
                self.below_start = self.below.start;
            }
            Some(node)
        } else {
            let node = self.nodes[self.above];
            self.above = if self.above + 1 < self.positions.len() { self.above + 1 } else { 0 };
            Some(node)
        }
    }
}

impl FusedIterator for Walk<'_> {}
