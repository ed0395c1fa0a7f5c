//! The time as decisions take it: microseconds since the process started; and when an exchange last moved.

use std::cell::Cell;
use std::rc::Rc;
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

/// When something last moved in an exchange, in either direction.
#[derive(Clone, Debug)]
pub struct Activity(Rc<Cell<tokio::time::Instant>>);

impl Activity {
    /// Starts now.
    pub fn new(now: tokio::time::Instant) -> Self {
        Self(Rc::new(Cell::new(now)))
    }

    /// Something moved.
    pub fn touch(&self) {
        self.0.set(tokio::time::Instant::now());
    }

    /// When it did.
    pub fn last(&self) -> tokio::time::Instant {
        self.0.get()
    }
}
