//! The walk outward from a hash.

use std::hint::select_unpredictable;
use std::iter::FusedIterator;
use std::ops::Range;

use crate::node::NodeIndex;

/// The run of points at one position that ends where `end` starts; 0 means around the ring.
#[inline]
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
    /// Where the next run below the hash ends; 0 means around the ring. Runs are taken downward.
    below: usize,
    /// How many points of that run were visited: these are taken by ascending id.
    taken: usize,
}

impl<'a> Walk<'a> {
    /// A walk from `hash`, below which `rank` points lie.
    #[inline]
    pub(super) fn new(positions: &'a [u64], nodes: &'a [NodeIndex], hash: u64, rank: usize) -> Self {
        let above = if rank < positions.len() { rank } else { 0 };
        Self { positions, nodes, hash, left: positions.len(), above, below: rank, taken: 0 }
    }

    /// Whether the walk has visited two points of `node`. Costs a look at each point visited.
    pub(crate) fn has_visited_twice(&self, node: NodeIndex) -> bool {
        self.visited().into_iter().map(|nodes| count(nodes, node)).sum::<usize>() > 1
    }

    /// The nodes of the points visited so far, in no order that means anything.
    pub(crate) fn visited(&self) -> [&'a [NodeIndex]; 3] {
        // What was taken of the lower run is apart: the rest of the run lies between.
        let run = run_before(self.positions, self.below);
        let taken = &self.nodes[run.start..run.start + self.taken];
        let arc = self.nodes.len() - self.left - self.taken;
        let end = run.end + arc;
        match end.checked_sub(self.nodes.len()) {
            None => [taken, &self.nodes[run.end..end], &[]],
            Some(rest) => [taken, &self.nodes[run.end..], &self.nodes[..rest]],
        }
    }

    /// [`Walk::next`] where the lower point shares its position with others.
    #[cold]
    fn next_beside_run(&mut self) -> NodeIndex {
        let run = run_before(self.positions, self.below);
        let low = run.start + self.taken;
        // The comparison stays the same throughout a run, so that it is never interrupted by points of the other
        // side.
        if self.is_low(low) {
            self.taken += 1;
            if low + 1 == run.end {
                (self.below, self.taken) = (run.start, 0);
            }
            self.nodes[low]
        } else {
            let high = self.above;
            self.above = self.after(high);
            self.nodes[high]
        }
    }

    /// Whether the point `low` is next, rather than the one above the hash. Both distances wrap around 0.
    #[inline]
    fn is_low(&self, low: usize) -> bool {
        let (below, above) = (self.positions[low], self.positions[self.above]);
        self.hash.wrapping_sub(below) <= above.wrapping_sub(self.hash)
    }

    /// The point after another.
    #[inline]
    fn after(&self, rank: usize) -> usize {
        if rank + 1 < self.positions.len() { rank + 1 } else { 0 }
    }
}

impl Iterator for Walk<'_> {
    type Item = NodeIndex;

    #[inline]
    fn next(&mut self) -> Option<NodeIndex> {
        self.left = self.left.checked_sub(1)?;
        let low = self.below.checked_sub(1).unwrap_or(self.positions.len() - 1);
        if low > 0 && self.positions[low - 1] == self.positions[low] {
            return Some(self.next_beside_run());
        }
        // Which side is next nobody can guess, a processor neither: so both are advanced and one is kept.
        let (high, is_low) = (self.above, self.is_low(low));
        self.above = select_unpredictable(is_low, high, self.after(high));
        self.below = select_unpredictable(is_low, low, self.below);
        Some(self.nodes[select_unpredictable(is_low, low, high)])
    }
}

impl FusedIterator for Walk<'_> {}

/// How often `node` is among `nodes`.
fn count(nodes: &[NodeIndex], node: NodeIndex) -> usize {
    // Sums of 16 bits, as wide as what is compared, so that compilers make vectors of it.
    let sum = |chunk: &[NodeIndex]| chunk.iter().map(|other| u16::from(*other == node)).sum::<u16>();
    nodes.chunks(1 << 15).map(|chunk| usize::from(sum(chunk))).sum()
}
