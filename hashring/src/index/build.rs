//! From points to an index.

use super::line::{Line, place};
use super::{Index, Point, walk};
use crate::node::NodeIndex;

/// How many lines an index of so many points has: an eighth, rounded down to five significant bits. So few
/// changes of the points change it, and a point costs 8 bytes of lines at most.
pub(super) fn line_count(points: usize) -> usize {
    if points == 0 {
        return 0;
    }
    let lines = (points / 8).max(1);
    let spare = lines.ilog2().saturating_sub(4);
    lines >> spare << spare
}

impl Index {
    /// An index of what `points` yields, twice the same `count` points in any order.
    pub(crate) fn new<I: Iterator<Item = Point>>(count: usize, points: impl Fn() -> I) -> Self {
        let lines = line_count(count);
        // A point's line is all but its rank: points are hashes, so lines hold about as many each.
        let mut starts = vec![0_u32; lines + 1];
        for point in points() {
            starts[place(point.position, lines).0 + 1] += 1;
        }
        let mut sum = 0;
        for start in &mut starts {
            sum += *start;
            *start = sum;
        }
        let mut next = starts.clone();
        let (mut positions, mut nodes) = (vec![0; count], vec![NodeIndex(0); count]);
        for point in points() {
            let next = &mut next[place(point.position, lines).0];
            positions[*next as usize] = point.position;
            nodes[*next as usize] = point.node;
            *next += 1;
        }

        let mut row = Vec::new();
        for range in starts.windows(2).map(|pair| pair[0] as usize..pair[1] as usize) {
            let (positions, nodes) = (&mut positions[range.clone()], &mut nodes[range]);
            row.clear();
            row.extend(positions.iter().zip(&*nodes).map(|(&position, &node)| Point { position, node }));
            row.sort_unstable();
            for ((position, node), point) in positions.iter_mut().zip(nodes).zip(&row) {
                (*position, *node) = (point.position, point.node);
            }
        }
        Self { lines: [].into(), starts: starts.into(), positions: positions.into(), nodes: nodes.into() }
            .with_lines(lines)
    }

    /// An index of sorted points.
    pub(super) fn from_sorted(positions: Box<[u64]>, nodes: Box<[NodeIndex]>) -> Self {
        let lines = line_count(positions.len());
        let mut starts = Vec::with_capacity(lines + 1);
        for (rank, position) in (0..).zip(&positions) {
            starts.resize(place(*position, lines).0 + 1, rank);
        }
        // There are at most MAX_POINTS.
        starts.resize(lines + 1, positions.len() as u32);
        Self { lines: [].into(), starts: starts.into(), positions, nodes }.with_lines(lines)
    }

    /// Makes every line.
    fn with_lines(mut self, lines: usize) -> Self {
        self.lines = (0..lines).map(|number| self.line(number, lines)).collect();
        self
    }

    /// What line `number` of `lines` has to be.
    pub(super) fn line(&self, number: usize, lines: usize) -> Line {
        let (start, end) = (self.starts[number] as usize, self.starts[number + 1] as usize);
        // Who owns the hashes right below the line's first point, unless that point does.
        let mut line = Line::of(self.nodes[walk::run_before(&self.positions, start).start]);
        let mut count = 0;
        for rank in start..=end {
            let node = self.nodes[if rank < self.len() { rank } else { 0 }];
            match self.takeover(rank).map(|first| place(first, lines)) {
                Some((at, fraction)) if at == number => count = line.add(count, fraction, node),
                // It lies in a line before this one, or before 0.
                Some((at, _)) if at < number => line = Line::of(node),
                None if rank == 0 => line = Line::of(node),
                Some(_) | None => {}
            }
        }
        line
    }
}
