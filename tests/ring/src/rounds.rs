//! Time, measured in turns.

use std::time::{Duration, Instant};

use nix::time::ClockId;

/// The time that this thread has had a processor: without what other threads and processes take.
pub(crate) fn processor_time() -> Duration {
    read(ClockId::CLOCK_THREAD_CPUTIME_ID)
}

fn read(clock: ClockId) -> Duration {
    clock.now().expect("the kernel has these clocks").into()
}

/// Runs each of `tasks` once a round, and returns their times by round, in nanoseconds: by the clock on the wall, as a
/// task may have threads of its own, but no more than all threads had processors. What other processes take is not in it.
pub(crate) fn times<const N: usize>(rounds: usize, mut tasks: [&mut dyn FnMut(); N]) -> [Vec<f64>; N] {
    let mut times = [const { Vec::new() }; N];
    for _ in 0..rounds {
        for (task, times) in tasks.iter_mut().zip(&mut times) {
            let (start, processors) = (Instant::now(), read(ClockId::CLOCK_PROCESS_CPUTIME_ID));
            task();
            let processors = read(ClockId::CLOCK_PROCESS_CPUTIME_ID) - processors;
            times.push(start.elapsed().min(processors).as_nanos() as f64);
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
