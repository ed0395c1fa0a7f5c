//! The index that answers in one cache line.
//!
//! The hashes are cut into lines of equal length, some eight points each. A line ([`line::Line`], 64 bytes)
//! knows the boundaries between owners in it to 15 bits and so answers almost every hash. What it cannot tell,
//! a hash with the same 15 bits as a boundary or in a stretch that found no room, is read from the sorted points
//! behind it; so are the orders. Nothing is approximate.

mod build;
mod line;
mod patch;
mod walk;

use std::hint::black_box;

use crate::node::NodeIndex;
use line::{Line, place};

pub(crate) use patch::Renumber;
pub(crate) use walk::Walk;

/// As many points as hardly a line has.
const FEW: usize = 16;

/// A point on the ring. The derived order, position and then id (indices ascend with ids), is the contract's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Point {
    pub(crate) position: u64,
    pub(crate) node: NodeIndex,
}

/// The points of a ring. Equal sets of points have equal indices, byte for byte, however they came about.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Index {
    lines: Box<[Line]>,
    /// How many points lie below each line, and below the end.
    starts: Box<[u32]>,
    /// The points' positions, ascending, and their nodes; at one position in the order of ids.
    positions: Box<[u64]>,
    nodes: Box<[NodeIndex]>,
}

impl Index {
    /// How many points there are.
    pub(crate) fn len(&self) -> usize {
        self.positions.len()
    }

    /// The bytes that owners are read from, and all bytes.
    pub(crate) fn bytes(&self) -> (usize, usize) {
        let hot = size_of_val(&*self.lines);
        let rest = size_of_val(&*self.starts) + size_of_val(&*self.positions) + size_of_val(&*self.nodes);
        (hot, hot + rest)
    }

    /// Reads every line.
    pub(crate) fn warm(&self) {
        black_box(self.lines.iter().fold(0, |sum, line| sum ^ line.first_boundary()));
    }

    /// The node whose point is nearest to `hash`.
    #[inline]
    pub(crate) fn owner(&self, hash: u64) -> Option<NodeIndex> {
        let (line, fraction) = place(hash, self.lines.len());
        match self.lines.get(line).and_then(|line| line.owner(fraction)) {
            Some(owner) => Some(owner),
            None => self.nearest(hash),
        }
    }

    /// The same from the points.
    #[cold]
    fn nearest(&self, hash: u64) -> Option<NodeIndex> {
        self.walk(hash).next()
    }

    /// Every point once, by ring distance from `hash`; ties as the contract has them.
    #[inline]
    pub(crate) fn walk(&self, hash: u64) -> Walk<'_> {
        Walk::new(&self.positions, &self.nodes, hash, self.rank(hash))
    }

    /// How many points lie below `hash`.
    #[inline]
    fn rank(&self, hash: u64) -> usize {
        let (line, _) = place(hash, self.lines.len());
        let (Some(start), Some(end)) = (self.starts.get(line), self.starts.get(line + 1)) else { return 0 };
        let (start, end) = (*start as usize, *end as usize);
        // Nearly always it is one of the next few. A search among always as many takes the same steps each time,
        // without a branch to foresee; points of later lines lie above the hash and change nothing.
        if let Some(few) = self.positions[start..].first_chunk::<FEW>() {
            let below = few.partition_point(|position| *position < hash);
            if below < FEW {
                return start + below;
            }
        }
        start + self.positions[start..end].partition_point(|position| *position < hash)
    }

    /// The first hashes that are nearer to a point than to those below it, ascending, and the nodes of these
    /// points: of the points at `start` to `end`, where the last one may be [`Index::len`]. From the last point
    /// to the first is a passage at 0 or at the end, as its hash lies.
    fn passages(&self, start: usize, end: usize) -> impl Iterator<Item = (u64, NodeIndex)> {
        let seam = self.seam().zip(self.nodes.first().copied());
        let bottom = seam.filter(|(first, _)| start == 0 && self.is_bottom(*first));
        let top = seam.filter(|(first, _)| end == self.len() && !self.is_bottom(*first));
        let (from, to) = (start.max(1), (end + 1).min(self.len()));
        let pairs = self.positions.get(from - 1..to).unwrap_or_default().windows(2);
        let nodes = self.nodes.get(from..to).unwrap_or_default();
        let middle = pairs.zip(nodes).filter_map(|(pair, node)| Some((passage(pair[0], pair[1])?, *node)));
        bottom.into_iter().chain(middle).chain(top)
    }

    /// The first hash that is nearer to the first point than to the last; none if they are in one place.
    fn seam(&self) -> Option<u64> {
        passage(*self.positions.last()?, *self.positions.first()?)
    }

    /// Whether a seam is below the first point rather than above the last.
    fn is_bottom(&self, seam: u64) -> bool {
        self.positions.first().is_some_and(|position| seam <= *position)
    }

    /// The owner of the hashes right below the points at `rank`, in hash order from 0; there is a point.
    fn owner_below(&self, rank: usize) -> NodeIndex {
        match self.seam() {
            Some(seam) if rank > 0 || self.is_bottom(seam) => {
                self.nodes[walk::run_before(&self.positions, rank).start]
            }
            // The first point owns what is below it. Or all points are in one place.
            _ => self.nodes[0],
        }
    }

    /// The stretches of hashes with one owner as (first hash, owner), from 0 up; some may be empty, and
    /// neighbours may have the same owner. Nothing if there is no point.
    pub(crate) fn arcs(&self) -> impl Iterator<Item = (u64, NodeIndex)> {
        let first = (self.len() > 0).then(|| (0, self.owner_below(0)));
        first.into_iter().chain(self.passages(0, self.len()))
    }
}

/// The first hash that is nearer to a point at `above` than to one at `below`, its neighbour; none if they are
/// in one place.
#[inline]
fn passage(below: u64, above: u64) -> Option<u64> {
    let gap = above.wrapping_sub(below);
    // At equal distance the lower point owns.
    (gap > 0).then(|| below.wrapping_add(gap / 2 + 1))
}
