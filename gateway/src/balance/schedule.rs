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
    use super::*;
}
