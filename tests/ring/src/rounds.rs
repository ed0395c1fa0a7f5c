//! Time, measured in turns.

use std::time::{Duration, Instant};

use nix::time::ClockId;

/// The time that this thread has had a processor: without what other threads and processes take.
pub(crate) fn processor_time() -> Duration {
    ClockId::CLOCK_THREAD_CPUTIME_ID.now().expect("the kernel has a clock for each thread").into()
}

/// Runs each of `tasks` once a round, and returns their times by round, in nanoseconds. These are by the clock on the
/// wall, as a task may have threads of its own: on a busy machine the longer tasks look longer than they are.
pub(crate) fn times<const N: usize>(rounds: usize, mut tasks: [&mut dyn FnMut(); N]) -> [Vec<f64>; N] {
    let mut times = [const { Vec::new() }; N];
    for _ in 0..rounds {
        for (task, times) in tasks.iter_mut().zip(&mut times) {
            let start = Instant::now();
            task();
            times.push(start.elapsed().as_nanos() as f64);
        }
    }
    times
}

/// The median.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

/// The median of `a / b` of the rounds.
pub(crate) fn ratio(a: &[f64], b: &[f64]) -> f64 {
    median(&a.iter().zip(b).map(|(a, b)| a / b).collect::<Vec<_>>())
}
