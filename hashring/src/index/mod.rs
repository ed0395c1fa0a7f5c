//! The index that answers in one cache line.
//!
//! The hashes are cut into lines of equal length, some eight points each. A line ([`line::Line`], 64 bytes)
//! knows the boundaries between owners in it to 15 bits and so answers almost every hash. What it cannot tell,
//! a hash with the same 15 bits as a boundary or beyond the fifteenth boundary, is read from the sorted points
//! behind it; so are the orders. Nothing is approximate.

mod build;
mod line;
mod patch;
mod walk;

use crate::node::NodeIndex;
use line::{Line, place};

pub(crate) use patch::Renumber;
pub(crate) use walk::Walk;

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
        start + self.positions[start..end].partition_point(|position| *position < hash)
    }

    /// The first hash, counted up from 0, that is nearer to the points at `rank` than to those below them; for
    /// a rank of 0 to [`Index::len`], both of which stand for the passage from the last point to the first.
    /// None where a run of points at one position goes on, and where that passage is at the other of its ranks.
    fn takeover(&self, rank: usize) -> Option<u64> {
        let len = self.len();
        let above = self.positions[if rank < len { rank } else { 0 }];
        let below = self.positions[if rank > 0 { rank - 1 } else { len - 1 }];
        let gap = above.wrapping_sub(below);
        // At equal distance the lower point owns.
        let first = below.wrapping_add(gap / 2 + 1);
        let here = match rank {
            0 => first <= above,
            _ if rank == len => first > above,
            _ => true,
        };
        (gap > 0 && here).then_some(first)
    }

    /// The stretches of hashes with one owner as (first hash, owner), from 0 up; some may be empty, and
    /// neighbours may have the same owner. Nothing if there is no point.
    pub(crate) fn arcs(&self) -> impl Iterator<Item = (u64, NodeIndex)> {
        let len = self.len();
        let ranks = if len > 0 { 0..len + 1 } else { 0..0 };
        let passage = move |rank| Some((self.takeover(rank)?, self.nodes[rank % len]));
        self.owner(0).map(|owner| (0, owner)).into_iter().chain(ranks.filter_map(passage))
    }
}
