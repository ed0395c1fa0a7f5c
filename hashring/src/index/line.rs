//! One cache line of a ring: the owners of one stretch of hashes.

use wide::{i8x16, i16x16};

use crate::node::NodeIndex;

/// Lanes of a line: one more than it has room for boundaries.
const LANES: usize = 16;

/// The fraction in lanes without a boundary: no key lies above it.
const NO_BOUNDARY: i16 = i16::MAX;

/// Where a hash lies in a ring of `lines` lines: the number of its line, and how far into it, as a fraction
/// of 15 bits. The pair never descends as the hash ascends. Without lines the number is 0.
#[inline]
pub(super) fn place(hash: u64, lines: usize) -> (usize, i16) {
    let product = u128::from(hash) * lines as u128;
    // The upper half is below `lines`, which is a usize.
    ((product >> 64) as usize, (product as u64 >> 49) as i16)
}

/// The owners of the hashes in one line, exact but for ties: up to fifteen boundaries and the owner below,
/// between and above them. Where there are more, the narrowest stretches between them are left unknown.
///
/// Fifteen bits, not sixteen, as vectors of 16 bits are compared with a sign.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C, align(64))]
pub(super) struct Line {
    /// Fractions of the first hashes of new owners, ascending.
    boundaries: [i16; LANES],
    /// `owners[i]` owns what lies below boundary `i` and not below the one before.
    owners: [NodeIndex; LANES],
}

// A line that took two would cost twice as much.
const _: () = assert!(size_of::<Line>() == 64);

impl Line {
    /// Stands for an owner that the line does not know; no ring has so many nodes.
    pub(super) const UNKNOWN: NodeIndex = NodeIndex(u16::MAX);

    /// The fraction of the first boundary, if there is one.
    pub(super) fn first_boundary(&self) -> i16 {
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
    pub(super) fn owner(&self, fraction: i16) -> Option<NodeIndex> {
        let is_below = i16x16::splat(fraction).simd_gt(i16x16::new(self.boundaries));
        // Boundaries ascend: those below come first. The last lane has none, so there are fewer than 16 anyway.
        let below = i8x16::from_i16x16_saturate(is_below).to_bitmask().trailing_ones();
        let lane = below as usize % LANES;
        let owner = self.owners[lane];
        (self.boundaries[lane] != fraction && owner != Self::UNKNOWN).then_some(owner)
    }

    /// Lets `fraction` be a boundary to `owner`, after those before it, of which `count` were made. Returns
    /// how many there are now.
    pub(super) fn add(&mut self, count: usize, fraction: i16, owner: NodeIndex) -> usize {
        if self.owners[count] == owner {
            return count;
        }
        if count == LANES - 1 {
            self.crowd(fraction, owner);
            return count;
        }
        self.boundaries[count] = fraction;
        self.owners[count + 1] = owner;
        count + 1
    }

    /// Lets `fraction` be a boundary to `owner` in a line that has no room for one more: the boundary between the
    /// two stretches that are narrowest together goes, and nobody is known to own them.
    #[cold]
    fn crowd(&mut self, fraction: i16, owner: NodeIndex) {
        let mut boundaries = self.boundaries;
        boundaries[LANES - 1] = fraction;
        let mut owners = [owner; LANES + 1];
        owners[..LANES].copy_from_slice(&self.owners);
        // How wide what is known of the stretch below boundary `i` is.
        let known = |i: usize| {
            let start = i.checked_sub(1).map_or(0, |below| i32::from(boundaries[below]));
            let end = boundaries.get(i).map_or(1 << 15, |boundary| i32::from(*boundary));
            if owners[i] == Self::UNKNOWN { 0 } else { end - start }
        };
        let lost = |i| known(i) + known(i + 1);
        let gone = (1..LANES).fold(0, |gone, i| if lost(i) < lost(gone) { i } else { gone });
        self.boundaries[gone..LANES - 1].copy_from_slice(&boundaries[gone + 1..]);
        self.owners[gone] = Self::UNKNOWN;
        self.owners[gone + 1..].copy_from_slice(&owners[gone + 2..]);
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

#[cfg(test)]
mod tests {
    use super::{LANES, Line, NodeIndex};

    /// A line with these boundaries; the owner above boundary `i` is `i + 1`.
    fn line(boundaries: &[i16]) -> Line {
        let mut line = Line::of(NodeIndex(0));
        let count = (1..)
            .zip(boundaries)
            .fold(0, |count, (owner, fraction)| line.add(count, *fraction, NodeIndex(owner)));
        assert_eq!(count, boundaries.len().min(LANES - 1));
        line
    }

    /// What a line leaves unknown, as ranges of fractions.
    fn unknown(boundaries: &[i16]) -> Vec<(i32, i32)> {
        let line = line(boundaries);
        let mut ranges: Vec<(i32, i32)> = Vec::new();
        for fraction in 0..=i16::MAX {
            match line.owner(fraction) {
                Some(owner) => {
                    let below = boundaries.partition_point(|boundary| *boundary <= fraction);
                    assert_eq!(owner, NodeIndex(below as u16), "at {fraction} of {boundaries:?}");
                }
                None => {
                    let fraction = i32::from(fraction);
                    match ranges.last_mut() {
                        Some((_, end)) if *end == fraction => *end += 1,
                        _ => ranges.push((fraction, fraction + 1)),
                    }
                }
            }
        }
        // A boundary alone is a tie.
        ranges.retain(|(start, end)| end - start > 1);
        ranges
    }

    #[test]
    fn knows_all_but_ties_with_fifteen_boundaries() {
        let boundaries: Vec<i16> = (1..=15).map(|i| i * 2000).collect();
        assert_eq!(unknown(&boundaries), []);
    }

    #[test]
    fn of_more_boundaries_the_narrowest_stretches_are_unknown() {
        let with = |more: &[i16]| {
            let even = (1..=14).map(|i| i * 2000);
            let mut boundaries: Vec<i16> = even.chain(more.iter().copied()).collect();
            boundaries.sort_unstable();
            unknown(&boundaries)
        };
        assert_eq!(with(&[10, 20]), [(0, 21)]);
        assert_eq!(with(&[10_010, 10_020]), [(10_000, 10_021)]);
        assert_eq!(with(&[32_740, 32_760]), [(32_740, 32_768)]);
        // Beside what is unknown already only one stretch more is lost.
        assert_eq!(with(&[10_010, 10_020, 20_010, 20_020]), [(10_000, 12_001), (20_000, 20_021)]);
    }
}
