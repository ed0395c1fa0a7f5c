//! How much of what is sent is lost, and whether that is worth copies.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// How far back is counted, in seconds: as long as copies go on without a reason.
const SECONDS: u64 = 30;
/// How far back counts for what is lost now.
const SECONDS_NOW: u64 = 10;
/// Copies begin above this share, seen in at least so many losses ...
const COPY_ABOVE: f64 = 0.002;
const LOSSES_LEAST: u32 = 3;
/// ... and end below this one over [`SECONDS`].
const COPY_BELOW: f64 = 0.0005;

#[derive(Clone, Copy, Debug, Default)]
struct Second {
    number: u64,
    arrived: u64,
    lost: u64,
    losses: u32,
}

/// What arrived and what was lost of the last [`SECONDS`] seconds.
#[derive(Clone, Debug)]
pub(super) struct Losses {
    began: Instant,
    seconds: VecDeque<Second>,
    /// Since which second copies are made; none: they are not.
    copying: Option<u64>,
}

impl Losses {
    pub(super) fn new(now: Instant) -> Self {
        Self { began: now, seconds: VecDeque::new(), copying: None }
    }

    pub(super) fn arrived(&mut self, now: Instant, bytes: u64) {
        self.second(now).arrived += bytes;
    }

    pub(super) fn lost(&mut self, now: Instant, bytes: u64) {
        let second = self.second(now);
        second.lost += bytes;
        second.losses += 1;
        let number = second.number;
        if self.copying.is_none() {
            let (share, losses) = self.since(number.saturating_sub(SECONDS_NOW - 1));
            self.copying = (losses >= LOSSES_LEAST && share > COPY_ABOVE).then_some(number);
        }
    }

    /// The share of the last ten seconds.
    pub(super) fn share(&self) -> f64 {
        let last = self.seconds.back().map_or(0, |second| second.number);
        self.since(last.saturating_sub(SECONDS_NOW - 1)).0
    }

    /// Whether small frames are sent twice.
    pub(super) fn copying(&self) -> bool {
        self.copying.is_some()
    }

    fn second(&mut self, now: Instant) -> &mut Second {
        let number = now.saturating_duration_since(self.began).as_secs();
        if self.seconds.back().is_none_or(|last| last.number < number) {
            let first = number.saturating_sub(SECONDS - 1);
            if self.copying.is_some_and(|since| since < first) && self.since(first).0 < COPY_BELOW {
                self.copying = None;
            }
            self.seconds.push_back(Second { number, ..Second::default() });
            while self.seconds.front().is_some_and(|second| second.number < first) {
                self.seconds.pop_front();
            }
        }
        let last = self.seconds.len() - 1;
        &mut self.seconds[last]
    }

    fn since(&self, first: u64) -> (f64, u32) {
        let (mut all, mut lost, mut losses) = (0, 0, 0);
        for second in self.seconds.iter().rev().take_while(|second| second.number >= first) {
            all += second.arrived + second.lost;
            lost += second.lost;
            losses += second.losses;
        }
        (if all == 0 { 0.0 } else { lost as f64 / all as f64 }, losses)
    }
}

/// What copies may cost at once, beyond [`Allowance::SHARE`] of what the path carries.
const COPIES_BYTES_MAX: u64 = 64 * 1024;

/// What copies may cost: a share of what the path carries.
#[derive(Clone, Debug)]
pub(super) struct Allowance {
    bytes: f64,
    at: Instant,
}

impl Allowance {
    /// Of the path's rate.
    const SHARE: f64 = 0.1;

    pub(super) fn new(now: Instant) -> Self {
        Self { bytes: COPIES_BYTES_MAX as f64, at: now }
    }

    /// Takes `bytes` of what a path of `rate` bytes per second allows by now, or none.
    pub(super) fn take(&mut self, now: Instant, rate: f64, bytes: u64) -> bool {
        let passed: Duration = now.saturating_duration_since(self.at);
        self.at = now;
        self.bytes = (self.bytes + passed.as_secs_f64() * rate * Self::SHARE).min(COPIES_BYTES_MAX as f64);
        let enough = self.bytes >= bytes as f64;
        if enough {
            self.bytes -= bytes as f64;
        }
        enough
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn copies_begin_with_losses_and_end_long_after_the_last() {
        let start = Instant::now();
        let mut losses = Losses::new(start);
        losses.arrived(start, 1_000_000);
        (0..3).for_each(|_| losses.lost(start, 100));
        assert!(!losses.copying(), "less than one in five hundred");
        losses.lost(start, 10_000);
        assert!(losses.copying());
        assert!((0.009..0.011).contains(&losses.share()));
        for second in 1..SECONDS as u32 {
            losses.arrived(start + second * SECOND, 1000);
            assert!(losses.copying(), "{second}");
        }
        losses.arrived(start + SECONDS as u32 * SECOND, 1000);
        assert!(!losses.copying());
        assert_eq!(losses.share(), 0.0);
        assert!(losses.seconds.len() <= SECONDS as usize);
    }

    #[test]
    fn two_losses_say_nothing() {
        let start = Instant::now();
        let mut losses = Losses::new(start);
        losses.lost(start, 1000);
        losses.lost(start, 1000);
        assert!(!losses.copying());
        losses.lost(start + 20 * SECOND, 1000);
        assert!(!losses.copying(), "nor one long after them");
    }

    #[test]
    fn copies_cost_a_tenth_of_the_rate() {
        let start = Instant::now();
        let mut allowance = Allowance::new(start);
        let mut taken = 0;
        for tick in 0..10_000 {
            taken += u64::from(allowance.take(start + tick * SECOND / 1000, 1_000_000.0, 1000)) * 1000;
        }
        assert!((1_000_000..1_100_000).contains(&taken), "{taken}");
    }
}
