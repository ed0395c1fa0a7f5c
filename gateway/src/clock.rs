//! The time as decisions take it: microseconds since the process started.

use std::time::Instant;

/// A clock that starts when it is made.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    start: Instant,
}

impl Clock {
    /// Starts at zero.
    pub fn start() -> Self {
        Self { start: Instant::now() }
    }

    /// When it was zero.
    pub fn epoch(&self) -> Instant {
        self.start
    }

    /// Microseconds since then.
    pub fn micros(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX)
    }
}
