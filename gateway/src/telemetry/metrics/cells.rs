//! Numbers that many threads add to and that are read now and then: each thread of the data plane has cells of its own,
//! so that counting never waits for another core.

use std::cell::Cell;
use std::num::NonZeroU8;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

thread_local! {
    static WORKER: Cell<u8> = const { Cell::new(0) };
}

/// Makes this thread count in the cells of `worker` from now on; threads that never say so share those of the first.
pub(super) fn count_as(worker: u8) {
    WORKER.set(worker);
}

/// `N` numbers. Those of a worker take room once it has counted: of ten thousand services few are ever asked for.
#[derive(Debug)]
pub(super) struct Cells<const N: usize>(Box<[OnceLock<Box<Own<N>>>]>);

/// Those of one worker, in cache lines that no other worker writes: lines are fetched in pairs.
#[derive(Debug)]
#[repr(align(128))]
struct Own<const N: usize>([AtomicU64; N]);

impl<const N: usize> Default for Own<N> {
    fn default() -> Self {
        Self(std::array::from_fn(|_| AtomicU64::new(0)))
    }
}

impl<const N: usize> Cells<N> {
    /// All zero, for `workers`.
    pub(super) fn new(workers: NonZeroU8) -> Self {
        Self((0..workers.get()).map(|_| OnceLock::new()).collect())
    }

    /// Adds to the number `at`.
    ///
    /// # Panics
    /// When there is no such number.
    pub(super) fn add(&self, at: usize, more: u64) {
        let worker = usize::from(WORKER.get());
        if let Some(own) = self.0.get(worker).or(self.0.first()) {
            own.get_or_init(Box::default).0[at].fetch_add(more, Ordering::Relaxed);
        }
    }

    /// The numbers of the moment, over all workers.
    pub(super) fn sum(&self) -> [u64; N] {
        let own = || self.0.iter().filter_map(OnceLock::get);
        let of = |at: usize| own().map(|own| own.0[at].load(Ordering::Relaxed)).sum();
        std::array::from_fn(of)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn what_all_threads_counted_adds_up() {
        let cells = Cells::<2>::new(NonZeroU8::new(2).unwrap());
        std::thread::scope(|scope| {
            // The last is a thread that the cells do not know.
            for worker in [0, 1, 1, 7] {
                let cells = &cells;
                scope.spawn(move || {
                    count_as(worker);
                    (0..1000).for_each(|n| cells.add(n % 2, 1 + u64::from(worker)));
                });
            }
        });
        assert_eq!(cells.sum(), [500 * (1 + 2 + 2 + 8); 2]);
    }
}
