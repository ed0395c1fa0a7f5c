//! From points to an index.

use std::ops::Range;

use super::Index;
use super::line::{Line, place};
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
    /// An index of points at these positions: of node 0 as many as its count says, then of node 1, and so on.
    pub(crate) fn new(positions: &[u64], counts: &[u32]) -> Self {
        let lines = line_count(positions.len());
        // A point's line says all about its rank but for the few points of that line, as points are hashes: sort
        // by lines, then within each.
        let mut starts = vec![0_u32; lines + 1];
        for position in positions {
            starts[place(*position, lines).0 + 1] += 1;
        }
        let mut sum = 0;
        for start in &mut starts {
            sum += *start;
            *start = sum;
        }
        let mut next = starts.clone();
        let mut sorted = vec![0; positions.len()];
        let mut nodes = vec![NodeIndex(0); positions.len()];
        let mut rest = positions;
        for (node, count) in (0..).map(NodeIndex).zip(counts) {
            let (own, others) = rest.split_at(*count as usize);
            rest = others;
            for position in own {
                let next = &mut next[place(*position, lines).0];
                sorted[*next as usize] = *position;
                nodes[*next as usize] = node;
                *next += 1;
            }
        }
        for pair in starts.windows(2) {
            let line = pair[0] as usize..pair[1] as usize;
            sort_line(&mut sorted[line.clone()], &mut nodes[line]);
        }
        Self { lines: [].into(), starts: starts.into(), positions: sorted.into(), nodes: nodes.into() }
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
    fn with_lines(mut self, count: usize) -> Self {
        let mut lines = vec![Line::of(Line::UNKNOWN); count];
        if count > 0 {
            self.draw(0..count, &mut lines);
        }
        self.lines = lines.into();
        self
    }

    /// Makes the lines of a range, of all that there will be.
    pub(super) fn draw(&self, range: Range<usize>, lines: &mut [Line]) {
        let (start, end) = (self.starts[range.start] as usize, self.starts[range.end] as usize);
        let count = lines.len();
        let mut owner = self.owner_below(start);
        let (mut at, mut line, mut boundaries) = (range.start, Line::of(owner), 0);
        self.passages(start, end).for_each(|(first, next)| {
            let (number, fraction) = place(first, count);
            if number >= range.end {
                return;
            }
            if number > at {
                lines[at] = line;
                line = Line::of(owner);
                lines[at + 1..number].fill(line);
                (at, boundaries) = (number, 0);
            }
            owner = next;
            if number < at {
                // It lies before the range.
                line = Line::of(owner);
            } else {
                boundaries = line.add(boundaries, fraction, owner);
            }
        });
        lines[at] = line;
        lines[at + 1..range.end].fill(Line::of(owner));
    }
}

/// Sorts the points of one line, in which nodes ascend where positions are equal, as they do afterwards.
fn sort_line(positions: &mut [u64], nodes: &mut [NodeIndex]) {
    const FEW: usize = 24;
    let count = positions.len();
    if count > FEW {
        // As good as never: hashes are even.
        let mut points: Vec<_> = positions.iter().copied().zip(nodes.iter().copied()).collect();
        points.sort();
        for ((position, node), point) in positions.iter_mut().zip(nodes).zip(points) {
            (*position, *node) = point;
        }
        return;
    }
    // Each goes where as many are before it: no branch depends on what the hashes are.
    let (mut sorted, mut owners) = ([0; FEW], [NodeIndex(0); FEW]);
    for (at, (position, node)) in positions.iter().zip(&*nodes).enumerate() {
        let (before, after) = positions.split_at(at);
        let lower = before.iter().map(|other| usize::from(other <= position)).sum::<usize>()
            + after.iter().map(|other| usize::from(other < position)).sum::<usize>();
        (sorted[lower], owners[lower]) = (*position, *node);
    }
    positions.copy_from_slice(&sorted[..count]);
    nodes.copy_from_slice(&owners[..count]);
}

#[cfg(test)]
mod tests {
    use super::{Index, line_count, place};

    #[test]
    fn lines_have_eight_points_and_a_few_more() {
        assert_eq!([0, 1, 7, 8, 15, 16, 320].map(line_count), [0, 1, 1, 1, 1, 2, 40]);
        for points in (8..1 << 20).step_by(7) {
            let lines = line_count(points);
            assert!(lines * 8 <= points && lines * 8 + 16 > points / 16 * 15, "{points}: {lines}");
            assert!(line_count(points + 1) >= lines);
        }
    }

    #[test]
    fn a_node_more_seldom_changes_the_lines() {
        let changes = (100..2000).filter(|nodes| line_count(nodes * 160) != line_count((nodes + 1) * 160));
        assert_eq!(changes.count(), 68);
    }
    /// The points behind the lines are seldom in a near cache: what lines do not know is dear.
    #[test]
    fn lines_answer_all_but_few_hashes() {
        let positions: Vec<u64> = (0..160_000).map(crate::inner).collect();
        let index = Index::new(&positions, &[160; 1000]);
        let is_unknown = |hash: &u64| {
            let (line, fraction) = place(*hash, index.lines.len());
            index.lines[line].owner(fraction).is_none()
        };
        let unknown = (1 << 32..).map(crate::inner).take(1_000_000).filter(is_unknown).count();
        assert!(unknown < 850, "{unknown} of a million hashes");
    }
}
