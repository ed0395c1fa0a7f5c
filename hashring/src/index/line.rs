//! One cache line of a ring: the owners of one stretch of hashes.

use crate::node::NodeIndex;

/// Lanes of a line: one more than it has room for boundaries.
const LANES: usize = 16;

/// The fraction in lanes without a boundary: no key lies above it.
const NO_BOUNDARY: u16 = i16::MAX as u16;

/// Where a hash lies in a ring of `lines` lines: the number of its line, and how far into it, as a fraction
/// of 15 bits. The pair never descends as the hash ascends. Without lines the number is 0.
#[inline]
pub(super) fn place(hash: u64, lines: usize) -> (usize, u16) {
    let product = u128::from(hash) * lines as u128;
    // The upper half is below `lines`, which is a usize.
    ((product >> 64) as usize, (product as u64 >> 49) as u16)
}

/// The owners of the hashes in one line, exact but for ties: up to fifteen boundaries and the owner below,
/// between and above them.
///
/// Fifteen bits, not sixteen, so that the sign of a difference of 16 bits tells the order: compilers make
/// vectors of that and not of a comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C, align(64))]
pub(super) struct Line {
    /// Fractions of the first hashes of new owners, ascending.
    boundaries: [u16; LANES],
    /// `owners[i]` owns what lies below boundary `i` and not below the one before.
    owners: [NodeIndex; LANES],
}

// A line that took two would cost twice as much.
const _: () = assert!(size_of::<Line>() == 64);

impl Line {
    /// Stands for an owner that the line does not know; no ring has so many nodes.
    pub(super) const UNKNOWN: NodeIndex = NodeIndex(u16::MAX);

    /// The fraction of the first boundary, if there is one.
    pub(super) fn first_boundary(&self) -> u16 {
        self.boundaries[0]
    }

    /// A line that belongs to `owner` as a whole.
    pub(super) fn of(owner: NodeIndex) -> Self {
        let mut owners = [Self::UNKNOWN; LANES];
        owners[0] = owner;
        Self { boundaries: [NO_BOUNDARY; LANES], owners }
    }

    /// The owner at `fraction`, if the line knows it: not where a boundary has the same fraction.
    #[inline]
    pub(super) fn owner(&self, fraction: u16) -> Option<NodeIndex> {
        // How many boundaries are below: both numbers have 15 bits, so their difference has its sign there.
        let below: u16 = self.boundaries.iter().map(|boundary| boundary.wrapping_sub(fraction) >> 15).sum();
        // The last lane has no boundary, so this is below 16 anyway.
        let lane = usize::from(below) % LANES;
        let owner = self.owners[lane];
        (self.boundaries[lane] != fraction && owner != Self::UNKNOWN).then_some(owner)
    }

    /// Lets `fraction` be a boundary to `owner`, after those before it, of which `count` were made. Returns
    /// how many there are now. What finds no room is left unknown.
    pub(super) fn add(&mut self, count: usize, fraction: u16, owner: NodeIndex) -> usize {
        if self.owners[count] == owner {
            return count;
        }
        if count == LANES - 1 {
            self.owners[count] = Self::UNKNOWN;
            return count;
        }
        self.boundaries[count] = fraction;
        self.owners[count + 1] = owner;
        count + 1
    }

    /// The line with other numbers for the same owners; `renumber` leaves [`Line::UNKNOWN`] alone.
    #[inline]
    pub(super) fn renumbered(&self, renumber: impl Fn(NodeIndex) -> NodeIndex) -> Self {
        let mut line = *self;
        for owner in &mut line.owners {
            *owner = renumber(*owner);
        }
        line
    }
}
