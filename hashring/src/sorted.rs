//! The points of a ring in a sorted array: the plainest index that answers the contract.

use std::iter::FusedIterator;
use std::ops::Range;

use crate::node::NodeIndex;

/// A point on the ring. The derived order, position and then id (indices ascend with ids), is the contract's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Point {
    pub(crate) position: u64,
    pub(crate) node: NodeIndex,
}

/// All points of a ring, ascending.
#[derive(Debug)]
pub(crate) struct Sorted {
    points: Box<[Point]>,
}

impl Sorted {
    pub(crate) fn new(mut points: Vec<Point>) -> Self {
        points.sort_unstable();
        Self { points: points.into() }
    }

    pub(crate) fn len(&self) -> usize {
        self.points.len()
    }

    /// Every point once, by ring distance from `hash`; ties as the contract has them.
    pub(crate) fn walk(&self, hash: u64) -> Walk<'_> {
        let points = &*self.points;
        let cut = points.partition_point(|point| point.position < hash);
        let below = run_before(points, cut);
        Walk {
            points,
            hash,
            left: points.len(),
            above: if cut < points.len() { cut } else { 0 },
            below_start: below.start,
            below,
        }
    }

    /// Adds to each node's entry the number of hashes that its points own; 2^64 in all if there is a point.
    pub(crate) fn add_shares(&self, shares: &mut [u128]) {
        // The owners: of the points at one position only the first id owns anything.
        let mut owners = self.points.chunk_by(|a, b| a.position == b.position).map(|run| run[0]);
        let Some(first) = owners.next() else { return };
        let mut split = |from: Point, to: Point| {
            // With a single position the gap is the whole ring, not zero.
            let gap = u128::from(to.position.wrapping_sub(from.position).wrapping_sub(1)) + 1;
            // `from` owns its own position and what is as near to it as to `to`.
            let lower = gap / 2 + 1;
            shares[from.node.get()] += lower;
            shares[to.node.get()] += gap - lower;
        };
        let last = owners.fold(first, |from, to| {
            split(from, to);
            to
        });
        split(last, first);
    }
}

/// The run of points at one position that ends where `end` starts; 0 means around the ring.
fn run_before(points: &[Point], end: usize) -> Range<usize> {
    let end = if end > 0 { end } else { points.len() };
    let mut start = end;
    while start > 0 && points[start - 1].position == points[end - 1].position {
        start -= 1;
    }
    start..end
}

/// The walk outward from a hash, one cursor to either side.
///
/// What was visited is one arc around the hash, so the cursors meet only when nothing is left.
#[derive(Debug, Clone)]
pub(crate) struct Walk<'a> {
    points: &'a [Point],
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

impl Iterator for Walk<'_> {
    type Item = NodeIndex;

    fn next(&mut self) -> Option<NodeIndex> {
        self.left = self.left.checked_sub(1)?;
        let (below, above) = (self.points[self.below.start], self.points[self.above]);
        // Both distances wrap around 0. The comparison stays the same throughout a run, so that it is never
        // interrupted by points of the other side.
        if self.hash.wrapping_sub(below.position) <= above.position.wrapping_sub(self.hash) {
            self.below.start += 1;
            if self.below.is_empty() {
                self.below = run_before(self.points, self.below_start);
                self.below_start = self.below.start;
            }
            Some(below.node)
        } else {
            self.above = if self.above + 1 < self.points.len() { self.above + 1 } else { 0 };
            Some(above.node)
        }
    }
}

impl FusedIterator for Walk<'_> {}
