//! Waiting for what shall become true.

use std::time::{Duration, Instant};

/// How long a test waits for anything that should come soon, on a machine that has much else to do. Generous: it only
/// costs time when a test fails.
pub const SOON: Duration = Duration::from_secs(60);

/// What must not wait for a deadline comes within this: less than the shortest that a gateway has by default (`head`,
/// 10 s), and as much of it as a busy machine may need. How fast it really is, benchmarks tell.
pub const AT_ONCE: Duration = Duration::from_secs(8);

/// Asks `condition` until it gives something, at most for `limit`.
///
/// # Panics
/// When the time is up, naming `what` was waited for.
pub fn wait_until<T>(what: &str, limit: Duration, mut condition: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(started.elapsed() < limit, "still waiting after {limit:?}: {what}");
        pause(Duration::from_millis(5));
    }
}

/// Lets `time` pass: between two looks at a condition, between two requests of a steady load, or where a promise is
/// about time itself. Never in the hope that something will have happened by then.
#[allow(clippy::disallowed_methods)] // The one place that sleeps; tests have threads of their own.
pub fn pause(time: Duration) {
    std::thread::sleep(time);
}
