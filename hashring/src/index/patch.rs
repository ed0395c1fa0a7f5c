//! From an index to one with a few points more or less, by copying and mending.

use super::build::line_count;
use super::line::{Line, place};
use super::{Index, Point};
use crate::node::NodeIndex;

/// What a change of the set of nodes does to the numbers of the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Renumber {
    /// The set stays.
    Keep,
    /// A node comes in with this number.
    Insert(NodeIndex),
    /// The node with this number goes.
    Remove(NodeIndex),
}

/// A place where the arrays of points change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Edit {
    /// The rank in the old array, of the point that goes or of the first one behind that which comes.
    rank: usize,
    change: Change,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Change {
    Insert(Point),
    Remove { position: u64 },
}

impl Change {
    fn position(self) -> u64 {
        match self {
            Self::Insert(Point { position, .. }) | Self::Remove { position } => position,
        }
    }
}

impl Index {
    /// The index without the points `gone` and with the points `new`, both sorted, of which `gone` have the old
    /// numbers of nodes and `new` the new ones. All of `gone` are in the index; where a node goes, all its
    /// points do.
    pub(crate) fn patched(&self, gone: &[Point], new: &[Point], renumber: Renumber) -> Self {
        // One copy of the work for each case: the loops over all lines and points become vectors.
        match renumber {
            Renumber::Keep => self.patch(gone, new, |node| node),
            Renumber::Insert(NodeIndex(number)) => {
                // Saturates at the mark of an unknown owner.
                self.patch(gone, new, move |NodeIndex(n)| NodeIndex(n.saturating_add(u16::from(n >= number))))
            }
            Renumber::Remove(NodeIndex(number)) => {
                let moves = move |n| number < n && n < Line::UNKNOWN.0;
                self.patch(gone, new, move |NodeIndex(n)| NodeIndex(n - u16::from(moves(n))))
            }
        }
    }

    fn patch(&self, gone: &[Point], new: &[Point], renumber: impl Fn(NodeIndex) -> NodeIndex + Copy) -> Self {
        let edits = self.edits(gone, new, renumber);
        let (len, count) = (self.len() - gone.len() + new.len(), self.lines.len());
        if line_count(len) != count {
            let (positions, nodes) = self.edited_points(&edits, len, renumber);
            return Self::from_sorted(positions, nodes);
        }
        // The lines first: what follows pushes them out of this processor's own cache to where the others, who
        // read them next, have them nearer.
        let mut lines = Vec::with_capacity(count);
        lines.extend(self.lines.iter().map(|line| line.renumbered(renumber)));
        let (positions, nodes) = self.edited_points(&edits, len, renumber);
        let mut patched = Self { lines: [].into(), starts: self.edited_starts(&edits), positions, nodes };
        for number in patched.touched(&edits, count) {
            patched.draw(number..number + 1, &mut lines);
        }
        patched.lines = lines.into();
        patched
    }

    /// What to do where, in the order of ranks.
    fn edits(&self, gone: &[Point], new: &[Point], renumber: impl Fn(NodeIndex) -> NodeIndex) -> Vec<Edit> {
        let mut edits = Vec::with_capacity(gone.len() + new.len());
        let mut free = 0;
        for point in gone {
            // A node may have several points at one position: each goes once.
            let mut rank = self.rank(point.position).max(free);
            while self.nodes[rank] != point.node {
                rank += 1;
            }
            free = rank + 1;
            edits.push(Edit { rank, change: Change::Remove { position: point.position } });
        }
        for point in new {
            let mut rank = self.rank(point.position);
            while self.positions.get(rank) == Some(&point.position) && renumber(self.nodes[rank]) < point.node
            {
                rank += 1;
            }
            edits.push(Edit { rank, change: Change::Insert(*point) });
        }
        edits.sort_unstable();
        edits
    }

    fn edited_points(
        &self,
        edits: &[Edit],
        len: usize,
        renumber: impl Fn(NodeIndex) -> NodeIndex + Copy,
    ) -> (Box<[u64]>, Box<[NodeIndex]>) {
        let (mut positions, mut nodes) = (Vec::with_capacity(len), Vec::with_capacity(len));
        let mut done = 0;
        for edit in edits {
            positions.extend_from_slice(&self.positions[done..edit.rank]);
            nodes.extend(self.nodes[done..edit.rank].iter().copied().map(renumber));
            done = edit.rank;
            match edit.change {
                Change::Insert(point) => {
                    positions.push(point.position);
                    nodes.push(point.node);
                }
                Change::Remove { .. } => done += 1,
            }
        }
        positions.extend_from_slice(&self.positions[done..]);
        nodes.extend(self.nodes[done..].iter().copied().map(renumber));
        (positions.into(), nodes.into())
    }

    fn edited_starts(&self, edits: &[Edit]) -> Box<[u32]> {
        let mut starts = Vec::with_capacity(self.starts.len());
        let mut more = 0_u32;
        for edit in edits {
            // The point counts from the line after its own.
            let line = place(edit.change.position(), self.lines.len()).0;
            let same = starts.len()..line + 1;
            starts.extend(self.starts[same].iter().map(|start| start.wrapping_add(more)));
            more = match edit.change {
                Change::Insert(_) => more.wrapping_add(1),
                Change::Remove { .. } => more.wrapping_sub(1),
            };
        }
        starts.extend(self.starts[starts.len()..].iter().map(|start| start.wrapping_add(more)));
        starts.into()
    }

    /// The lines of this index, which has no lines yet, where owners may differ from before the edits: those from
    /// the next lower position to the next higher one around each edit.
    fn touched(&self, edits: &[Edit], lines: usize) -> Vec<usize> {
        let mut touched = Vec::with_capacity(2 * edits.len());
        let line = |position| place(position, lines).0;
        let (mut inserted, mut removed) = (0, 0);
        for edit in edits {
            let position = edit.change.position();
            // Points below here are below the edit or at its position, points from here on not below it.
            let mut rank = edit.rank + inserted - removed;
            match edit.change {
                Change::Insert(_) => inserted += 1,
                Change::Remove { .. } => removed += 1,
            }
            while rank > 0 && self.positions[rank - 1] == position {
                rank -= 1;
            }
            let here = line(position);
            match rank.checked_sub(1) {
                Some(below) => touched.extend(line(self.positions[below])..=here),
                // Around 0, from the highest point.
                None => {
                    touched.extend(0..=here);
                    touched.extend(line(self.positions[self.len() - 1])..lines);
                }
            }
            while self.positions.get(rank) == Some(&position) {
                rank += 1;
            }
            match self.positions.get(rank) {
                Some(above) => touched.extend(here..=line(*above)),
                None => {
                    touched.extend(here..lines);
                    touched.extend(0..=line(self.positions[0]));
                }
            }
        }
        touched.sort_unstable();
        touched.dedup();
        touched
    }
}
