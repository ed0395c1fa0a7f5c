//! Points in time by the clock of this process. The clock of the world is counted in Unix milliseconds, and what holds
//! them says so by its name.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A point in time by the clock of this process: microseconds since a moment of the process's choice. It never goes
/// back, and means nothing to another process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tick(u64);

impl Tick {
    /// The first.
    pub const ZERO: Self = Self(0);
    /// The last.
    pub const MAX: Self = Self(u64::MAX);

    /// So many microseconds after the first.
    pub const fn at(micros: u64) -> Self {
        Self(micros)
    }

    /// Microseconds since the first.
    pub const fn micros(self) -> u64 {
        self.0
    }

    /// Microseconds since `earlier`; none if that is later.
    pub const fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// So many microseconds later.
    pub const fn after(self, micros: u64) -> Self {
        Self(self.0.saturating_add(micros))
    }
}

/// A [`Tick`] that threads share; each access is relaxed.
#[derive(Debug, Default)]
pub struct AtomicTick(AtomicU64);

impl AtomicTick {
    /// One that is `tick`.
    pub const fn new(tick: Tick) -> Self {
        Self(AtomicU64::new(tick.0))
    }

    /// What it is.
    pub fn load(&self) -> Tick {
        Tick(self.0.load(Relaxed))
    }

    /// Makes it `tick`.
    pub fn store(&self, tick: Tick) {
        self.0.store(tick.0, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_has_an_end_and_no_way_back() {
        assert_eq!(Tick::at(7).since(Tick::at(3)), 4);
        assert_eq!(Tick::at(3).since(Tick::at(7)), 0);
        assert_eq!(Tick::MAX.after(1), Tick::MAX);
        let shared = AtomicTick::default();
        shared.store(Tick::at(5));
        assert_eq!(shared.load().after(2).micros(), 7);
    }
}
