//! Turns by weight, fixed when the set is built, so that taking one is a count and an index.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// How many turns a cycle may have, unless there are that many endpoints. Weights whose ratios need more are rounded
/// to fit (never to nothing), which bounds what a set costs: 16 KiB here.
const TURNS_MAX: u64 = 4096;
/// The least room for rounding: turns for each endpoint of a set so large that [`TURNS_MAX`] leaves fewer.
const TURNS_PER_ENDPOINT: u64 = 4;

/// A cycle in which each index has turns in proportion to its weight, as evenly spread as they can be.
#[derive(Debug)]
pub(super) struct Schedule {
    turns: Box<[u32]>,
    cursor: AtomicUsize,
}

impl Schedule {
    /// The cycle for these weights; weight 0 has no turn.
    pub(super) fn new(weights: &[u32]) -> Self {
        let counts = counts(weights);
        let cycle: u64 = counts.iter().sum();
        // Earliest deadline first: turn k of n is due at (k + 1/2) / n of the cycle, compared as a fraction of integers
        // by scaling to the cycle's length.
        let due = |turn: u64, count: u64| (2 * turn + 1) * cycle * 1024 / (2 * count);
        let mut heap: BinaryHeap<Reverse<(u64, u32, u64)>> = (0u32..)
            .zip(&counts)
            .filter(|&(_, &count)| count > 0)
            .map(|(index, &count)| Reverse((due(0, count), index, 0)))
            .collect();
        let mut turns = Vec::with_capacity(usize::try_from(cycle).unwrap_or(0));
        while let Some(Reverse((_, index, turn))) = heap.pop() {
            turns.push(index);
            let count = counts[index as usize];
            if turn + 1 < count {
                heap.push(Reverse((due(turn + 1, count), index, turn + 1)));
            }
        }
        Self { turns: turns.into(), cursor: AtomicUsize::new(0) }
    }

    /// The index whose turn it is among those that `takes` accepts.
    pub(super) fn next(&self, takes: impl Fn(usize) -> bool) -> Option<usize> {
        // A turn that is passed over is used up; else all of it would fall to the one behind it.
        for _ in 0..self.turns.len() {
            let turn = self.cursor.fetch_add(1, Relaxed) % self.turns.len();
            let index = self.turns[turn] as usize;
            if takes(index) {
                return Some(index);
            }
        }
        // Others took turns meanwhile, so this caller may not have seen every index.
        self.turns.iter().map(|&index| index as usize).find(|&index| takes(index))
    }

    /// An index drawn by weight.
    pub(super) fn draw(&self, rng: &mut fastrand::Rng) -> Option<usize> {
        if self.turns.is_empty() {
            return None;
        }
        Some(self.turns[rng.usize(0..self.turns.len())] as usize)
    }
}

/// Turns in a cycle by index: the weights in lowest terms, or rounded to fit.
fn counts(weights: &[u32]) -> Vec<u64> {
    let divisor = weights.iter().fold(0, |a, &b| gcd(a, u64::from(b)));
    if divisor == 0 {
        return vec![0; weights.len()];
    }
    let serving = weights.iter().filter(|&&weight| weight > 0).count() as u64;
    let total = weights.iter().map(|&weight| u64::from(weight)).sum::<u64>();
    let limit = TURNS_MAX.max(serving * TURNS_PER_ENDPOINT);
    let fit = |weight: u64| match weight {
        0 => 0,
        _ if total / divisor <= limit => weight / divisor,
        _ => (weight * limit / total).max(1),
    };
    weights.iter().map(|&weight| fit(u64::from(weight))).collect()
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    fn turns(weights: &[u32]) -> Vec<usize> {
        let schedule = Schedule::new(weights);
        let mut counts = vec![0; weights.len()];
        for &index in &schedule.turns {
            counts[index as usize] += 1;
        }
        counts
    }

    #[test]
    fn weights_in_lowest_terms_are_exact() {
        assert_eq!(turns(&[100, 100]), [1, 1]);
        assert_eq!(turns(&[300, 0, 50]), [6, 0, 1]);
        assert_eq!(turns(&[0, 0]), [0, 0]);
        assert_eq!(turns(&[u32::MAX]), [1]);
        assert_eq!(&*Schedule::new(&[300, 100]).turns, [0, 0, 1, 0]);
    }

    #[test]
    fn odd_weights_are_rounded_but_never_to_nothing() {
        let counts = turns(&[1, 999_983, 499_979]);
        assert_eq!(counts[0], 1);
        assert!(counts[1].abs_diff(2 * counts[2]) <= 2, "{counts:?}");
        assert!(counts.iter().sum::<usize>() <= 4097);
    }

    #[test]
    fn a_large_set_stays_small() {
        let weights: Vec<u32> = (0..10_000).map(|i| 1 + i % 97).collect();
        assert!(Schedule::new(&weights).turns.len() < 60_000);
        assert_eq!(Schedule::new(&[100; 10_000]).turns.len(), 10_000);
    }

    proptest! {
        #[test]
        fn turns_are_evenly_spread(weights in prop::collection::vec(0u32..20, 1..8)) {
            let schedule = Schedule::new(&weights);
            let cycle = schedule.turns.len();
            let counts = turns(&weights);
            let mut taken = vec![0; weights.len()];
            for (i, &index) in schedule.turns.iter().enumerate() {
                taken[index as usize] += 1;
                // After each turn everyone has had its share of the turns so far, give or take less than the
                // number of those that could be before it.
                for (taken, count) in taken.iter().zip(&counts) {
                    let due = (i + 1) as f64 * *count as f64 / cycle as f64;
                    prop_assert!((*taken as f64 - due).abs() <= weights.len() as f64 / 2.0 + 0.5);
                }
            }
        }
    }
}
