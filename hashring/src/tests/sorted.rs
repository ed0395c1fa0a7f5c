//! The points of a ring in a sorted array and a binary search: the plainest index that answers the contract, to
//! compare the fast one with where the oracle takes too long.

use std::ops::Range;

use crate::index::Point;
use crate::node::NodeIndex;

/// All points of a ring, ascending.
#[derive(Debug)]
pub(super) struct Sorted {
    points: Box<[Point]>,
}

impl Sorted {
    pub(super) fn new(mut points: Vec<Point>) -> Self {
        points.sort_unstable();
        Self { points: points.into() }
    }

    /// Every point once, by ring distance from `hash`; ties as the contract has them.
    pub(super) fn walk(&self, hash: u64) -> Walk<'_> {
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
pub(super) struct Walk<'a> {
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
