//! How often something may be done: so much at once, and so much again as time goes on.
//!
//! Pure: time is a parameter. One instant is all that is remembered (the generic cell rate algorithm, ITU-T I.371). A
//! [`Bucket`] has one owner; on a [`SharedBucket`] many threads draw without a lock.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::base::time::Tick;

/// A burst, and how fast it comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    burst: u32,
    /// How long one takes to come back.
    each: Duration,
}

/// What is left of a [`Rate`].
#[derive(Clone, Copy, Debug)]
pub struct Bucket {
    rate: Rate,
    /// When all of it will be back; none: it is.
    full_at: Option<Instant>,
}

impl Rate {
    /// `burst` at once, and one more each `each`.
    pub const fn every(burst: u32, each: Duration) -> Self {
        Self { burst, each }
    }

    /// `burst` at once, and `count` more each second, at least one.
    pub const fn per_second(burst: u32, count: u32) -> Self {
        let count = if count == 0 { 1 } else { count };
        Self { burst, each: Duration::from_nanos(1_000_000_000 / count as u64) }
    }
}

impl Bucket {
    /// All of `rate`.
    pub const fn new(rate: Rate) -> Self {
        Self { rate, full_at: None }
    }

    /// Takes `count` at `now`. More than the burst counts as the burst: it would never be there.
    ///
    /// # Errors
    /// How long to wait until they are there; nothing was taken.
    pub fn take(&mut self, count: usize, now: Instant) -> Result<(), Duration> {
        let wait = self.wait(count, now);
        if !wait.is_zero() {
            return Err(wait);
        }
        self.full_at = Some(self.full_from(now) + self.time_of(count));
        Ok(())
    }

    /// How long to wait from `now` until `count` are there.
    pub fn wait(&self, count: usize, now: Instant) -> Duration {
        let back = self.full_from(now) + self.time_of(count);
        back.saturating_duration_since(now + self.rate.each * self.rate.burst)
    }

    /// Whether it is as if nothing had ever been taken.
    pub fn is_full(&self, now: Instant) -> bool {
        self.full_from(now) == now
    }

    fn full_from(&self, now: Instant) -> Instant {
        self.full_at.map_or(now, |at| at.max(now))
    }

    fn time_of(&self, count: usize) -> Duration {
        self.rate.each * u32::try_from(count).unwrap_or(u32::MAX).min(self.rate.burst)
    }
}

/// What is left of a [`Rate`] on which many threads draw, without a lock.
#[derive(Debug)]
pub struct SharedBucket {
    /// Nanoseconds that one takes to come back.
    each_ns: u64,
    /// What a whole burst takes.
    burst_ns: u64,
    /// When all of it will be back, in nanoseconds of the caller's clock.
    full_at: AtomicU64,
}

impl SharedBucket {
    /// All of `rate`.
    pub const fn new(rate: Rate) -> Self {
        // Nobody counts in centuries.
        let each_ns = rate.each.as_nanos() as u64;
        Self { each_ns, burst_ns: each_ns * rate.burst as u64, full_at: AtomicU64::new(0) }
    }

    /// Takes `count` at `now`, or none. More than the burst is never there.
    ///
    /// # Errors
    /// There are not so many: how long until there are.
    pub fn take(&self, count: u64, now: Tick) -> Result<(), Duration> {
        let now_ns = now.micros().saturating_mul(1_000);
        let mut late = 0;
        let taken = self.full_at.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |full_at| {
            let full_at = self.after(full_at, count, now_ns);
            late = full_at.saturating_sub(now_ns).saturating_sub(self.burst_ns);
            (late == 0).then_some(full_at)
        });
        taken.map(drop).map_err(|_| Duration::from_nanos(late))
    }

    /// Takes `count` at `now`, whether they are there or not; gives how long to wait for them.
    pub fn book(&self, count: u64, now: Tick) -> Duration {
        let now_ns = now.micros().saturating_mul(1_000);
        let booked = |full_at| Some(self.after(full_at, count, now_ns));
        // Never refused.
        let before =
            self.full_at.fetch_update(Ordering::Relaxed, Ordering::Relaxed, booked).unwrap_or(now_ns);
        let full_at = self.after(before, count, now_ns);
        Duration::from_nanos(full_at.saturating_sub(now_ns).saturating_sub(self.burst_ns))
    }

    fn after(&self, full_at: u64, count: u64, now_ns: u64) -> u64 {
        full_at.max(now_ns).saturating_add(self.each_ns.saturating_mul(count))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_burst_goes_at_once_and_the_rest_at_its_pace() {
        let mut bucket = Bucket::new(Rate::every(3, SECOND));
        let start = Instant::now();
        assert_eq!([(); 4].map(|()| bucket.take(1, start)), [Ok(()), Ok(()), Ok(()), Err(SECOND)]);
        assert!(bucket.take(1, start + SECOND - Duration::from_millis(1)).is_err());
        assert_eq!(bucket.take(1, start + SECOND), Ok(()));
        assert_eq!(bucket.take(2, start + SECOND), Err(2 * SECOND));
        assert!(!bucket.is_full(start + 3 * SECOND) && bucket.is_full(start + 4 * SECOND));
        // Nobody saves up.
        let later = start + 1_000 * SECOND;
        assert_eq!([(); 4].map(|()| bucket.take(1, later)), [Ok(()), Ok(()), Ok(()), Err(SECOND)]);
    }

    #[test]
    fn more_than_the_burst_goes_when_all_of_it_is_there() {
        let mut bucket = Bucket::new(Rate::per_second(10, 1_000));
        let start = Instant::now();
        assert_eq!(bucket.take(5_000, start), Ok(()));
        assert_eq!(bucket.take(1, start), Err(Duration::from_millis(1)));
        assert_eq!(bucket.take(5_000, start), Err(Duration::from_millis(10)));
    }

    proptest! {
        /// Whoever asks, however: in any span no more than the burst and what came back in it.
        #[test]
        fn no_span_has_more_than_the_burst_and_what_came_back(
            asks in prop::collection::vec((0_u64..300, 1_usize..4), 1..200),
            burst in 1_u32..8,
        ) {
            let each = Duration::from_millis(100);
            let mut bucket = Bucket::new(Rate::every(burst, each));
            let start = Instant::now();
            let (mut at, mut taken) = (Duration::ZERO, Vec::new());
            for (pause, count) in asks {
                at += Duration::from_millis(pause);
                if bucket.take(count, start + at).is_ok() {
                    taken.push((at, count.min(burst as usize)));
                }
            }
            for (n, (from, _)) in taken.iter().enumerate() {
                let mut sum = 0;
                for (to, count) in &taken[n..] {
                    sum += count;
                    let back = (*to - *from).as_millis() / each.as_millis();
                    prop_assert!(sum as u128 <= u128::from(burst) + back);
                }
            }
        }
    }

    const MICROS: u64 = 1_000_000;

    #[test]
    fn many_threads_have_a_burst_and_then_the_rate() {
        let bucket = SharedBucket::new(Rate::per_second(3, 10));
        assert_eq!([bucket.take(1, Tick::ZERO), bucket.take(2, Tick::ZERO)], [Ok(()), Ok(())]);
        assert_eq!(bucket.take(1, Tick::ZERO), Err(Duration::from_millis(100)));
        assert_eq!(bucket.take(1, Tick::at(MICROS / 10 - 1)), Err(Duration::from_micros(1)));
        assert_eq!(bucket.take(1, Tick::at(MICROS / 10)), Ok(()), "one came back");
        assert!(bucket.take(1, Tick::at(MICROS / 10)).is_err(), "and no more");
        assert_eq!(bucket.take(3, Tick::at(60 * MICROS)), Ok(()), "never more than a burst is kept");
        assert!(bucket.take(1, Tick::at(60 * MICROS)).is_err());
        assert!(bucket.take(4, Tick::at(120 * MICROS)).is_err(), "more than a burst is never there");
    }

    #[test]
    fn what_is_booked_is_waited_for_in_turn() {
        let bucket = SharedBucket::new(Rate::per_second(2, 10));
        assert_eq!([bucket.book(1, Tick::ZERO), bucket.book(1, Tick::ZERO)], [Duration::ZERO; 2]);
        assert_eq!(bucket.book(1, Tick::ZERO), Duration::from_millis(100));
        assert_eq!(bucket.book(5, Tick::ZERO), Duration::from_millis(600));
        assert_eq!(bucket.book(1, Tick::at(MICROS)), Duration::ZERO);
    }

    proptest! {
        #[test]
        fn many_threads_never_have_more_than_the_burst_and_what_came_back(asks in prop::collection::vec((0..50_000_u64, 1..5_u64), 1..200)) {
            let bucket = SharedBucket::new(Rate::per_second(10, 100));
            let (mut now, mut taken) = (0, 0);
            for (pause, count) in asks {
                now += pause;
                if bucket.take(count, Tick::at(now)).is_ok() {
                    taken += count;
                }
                prop_assert!(taken <= 10 + now / 10_000, "{taken} by {now}");
            }
        }
    }
}
