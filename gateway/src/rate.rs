//! How often something may happen: so many at once, and so many a second for ever. Pure: the time is a parameter.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A rate that many threads may draw on, without a lock: a token bucket, kept as the time at which it will be full
/// again (the "generic cell rate algorithm" of ATM's traffic management).
#[derive(Debug)]
pub struct Rate {
    /// Nanoseconds that one token takes to come back.
    token_ns: u64,
    /// What the tokens of a whole burst take.
    burst_ns: u64,
    /// When all tokens are back, in nanoseconds of the caller's clock.
    full_at: AtomicU64,
}

impl Rate {
    /// `burst` at once, and then `per_second`, which is at least 1.
    pub const fn new(per_second: u32, burst: u32) -> Self {
        let per_second = if per_second == 0 { 1 } else { per_second as u64 };
        let token_ns = 1_000_000_000 / per_second;
        Self { token_ns, burst_ns: token_ns * burst as u64, full_at: AtomicU64::new(0) }
    }

    /// Takes `tokens` at `now`, in microseconds, or none.
    ///
    /// # Errors
    /// There are not so many: how long until there are.
    pub fn take(&self, tokens: u64, now: u64) -> Result<(), Duration> {
        let now = now.saturating_mul(1_000);
        let mut late = 0;
        let taken = self.full_at.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |full_at| {
            let full_at = self.after(full_at, tokens, now);
            late = full_at.saturating_sub(now).saturating_sub(self.burst_ns);
            (late == 0).then_some(full_at)
        });
        taken.map(drop).map_err(|_| Duration::from_nanos(late))
    }

    /// Takes `tokens` at `now`, in microseconds, whether they are there or not; gives how long to wait for them.
    pub fn book(&self, tokens: u64, now: u64) -> Duration {
        let now = now.saturating_mul(1_000);
        let booked = |full_at| Some(self.after(full_at, tokens, now));
        // Never refused.
        let before = self.full_at.fetch_update(Ordering::Relaxed, Ordering::Relaxed, booked).unwrap_or(now);
        let full_at = self.after(before, tokens, now);
        Duration::from_nanos(full_at.saturating_sub(now).saturating_sub(self.burst_ns))
    }

    fn after(&self, full_at: u64, tokens: u64, now: u64) -> u64 {
        full_at.max(now).saturating_add(self.token_ns.saturating_mul(tokens))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: u64 = 1_000_000;

    #[test]
    fn a_burst_and_then_the_rate() {
        let rate = Rate::new(10, 3);
        assert_eq!([rate.take(1, 0), rate.take(2, 0)], [Ok(()), Ok(())]);
        assert_eq!(rate.take(1, 0), Err(Duration::from_millis(100)));
        assert_eq!(rate.take(1, SECOND / 10 - 1), Err(Duration::from_micros(1)));
        assert_eq!(rate.take(1, SECOND / 10), Ok(()), "one came back");
        assert!(rate.take(1, SECOND / 10).is_err(), "and no more");
        assert_eq!(rate.take(3, 60 * SECOND), Ok(()), "never more than a burst is kept");
        assert!(rate.take(1, 60 * SECOND).is_err());
        assert!(rate.take(4, 120 * SECOND).is_err(), "more than a burst is never there");
    }

    #[test]
    fn what_is_booked_is_waited_for_in_turn() {
        let rate = Rate::new(10, 2);
        assert_eq!([rate.book(1, 0), rate.book(1, 0)], [Duration::ZERO; 2]);
        assert_eq!(rate.book(1, 0), Duration::from_millis(100));
        assert_eq!(rate.book(5, 0), Duration::from_millis(600));
        assert_eq!(rate.book(1, SECOND), Duration::ZERO);
    }

    proptest! {
        #[test]
        fn never_more_than_the_burst_and_what_came_back(asks in prop::collection::vec((0..50_000_u64, 1..5_u64), 1..200)) {
            let rate = Rate::new(100, 10);
            let (mut now, mut taken) = (0, 0);
            for (pause, tokens) in asks {
                now += pause;
                if rate.take(tokens, now).is_ok() {
                    taken += tokens;
                }
                prop_assert!(taken <= 10 + now / 10_000, "{taken} by {now}");
            }
        }
    }
}
