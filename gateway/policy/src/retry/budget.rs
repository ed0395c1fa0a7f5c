//! How much may be sent twice, in proportion to what is sent at all.

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use registry::base::time::Tick;

/// How far a budget looks back, in seconds, the current one included.
const WINDOW_SECONDS: u64 = 10;
const MICROS_PER_SECOND: u64 = 1_000_000;

/// A budget over the last 10 s, shared by all workers without a lock: for each request that came, a share of an extra
/// attempt, and never less than a floor.
///
/// Times are microseconds since any moment of the process's choice, the same for every call.
#[derive(Debug, Default)]
pub struct Budget {
    requests: Window,
    spent: Window,
}

impl Budget {
    /// A budget that has seen no request.
    pub fn new() -> Self {
        Self::default()
    }

    /// A request came.
    pub fn deposit(&self, now: Tick) {
        self.requests.add(now);
    }

    /// Takes one extra attempt if the last 10 s allow it: up to `percent` of their requests, or `min_per_second` for
    /// each of their seconds if that is more. Never allows more than that, however many workers ask at once.
    pub fn try_withdraw(&self, now: Tick, percent: u8, min_per_second: u32) -> bool {
        let share = self.requests.sum(now) * u64::from(percent) / 100;
        let allowed = share.max(u64::from(min_per_second) * WINDOW_SECONDS);
        // Added before it is compared, so that two who ask for the last one cannot both see it free.
        self.spent.add(now);
        if self.spent.sum(now) <= allowed {
            return true;
        }
        self.spent.take_back(now);
        false
    }

    /// Extra attempts taken in the last 10 s.
    pub fn spent(&self, now: Tick) -> u64 {
        self.spent.sum(now)
    }
}

/// Counts by second. Each bucket holds the second it counts in its upper half, so that a new second clears it in the
/// same step that counts.
#[derive(Debug, Default)]
struct Window {
    buckets: [AtomicU64; WINDOW_SECONDS as usize],
}

impl Window {
    fn add(&self, now: Tick) {
        let (second, bucket) = self.bucket(now);
        // `Err` only when a later second took the bucket already: the count is out of the window.
        let _ = bucket.fetch_update(SeqCst, SeqCst, |old| match (old >> 32).cmp(&second) {
            std::cmp::Ordering::Less => Some(second << 32 | 1),
            std::cmp::Ordering::Equal if old as u32 == u32::MAX => None,
            std::cmp::Ordering::Equal => Some(old + 1),
            std::cmp::Ordering::Greater => None,
        });
    }

    fn take_back(&self, now: Tick) {
        let (second, bucket) = self.bucket(now);
        let _ = bucket
            .fetch_update(SeqCst, SeqCst, |old| (old >> 32 == second && old as u32 > 0).then(|| old - 1));
    }

    fn sum(&self, now: Tick) -> u64 {
        let second = now.micros() / MICROS_PER_SECOND;
        let recent = |bucket: &AtomicU64| {
            let value = bucket.load(SeqCst);
            if second.saturating_sub(value >> 32) < WINDOW_SECONDS { value & u64::from(u32::MAX) } else { 0 }
        };
        self.buckets.iter().map(recent).sum()
    }

    fn bucket(&self, now: Tick) -> (u64, &AtomicU64) {
        let second = now.micros() / MICROS_PER_SECOND;
        (second, &self.buckets[(second % WINDOW_SECONDS) as usize])
    }
}
