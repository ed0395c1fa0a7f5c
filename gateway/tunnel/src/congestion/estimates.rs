//! The two figures that a path is known by: the largest rate at which it delivered lately, and the smallest round-trip
//! time.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Rounds after which a rate counts no more.
const RATE_ROUNDS: u64 = 12;
/// A round-trip time counts for one to two of these.
const RTT_SPAN: Duration = Duration::from_secs(5);

/// How long a longer path is not taken for a shorter one.
const HELD: Duration = Duration::from_secs(2);

/// The largest rate of the last [`RATE_ROUNDS`] rounds in which there was enough to send.
#[derive(Clone, Debug, Default)]
pub(super) struct LargestRate {
    /// Rates and their rounds, each smaller than those before it.
    rates: VecDeque<(u64, f64)>,
}

impl LargestRate {
    /// In bytes per second; zero: nothing is known.
    pub(super) fn get(&self) -> f64 {
        self.rates.front().map_or(0.0, |&(_, rate)| rate)
    }

    /// A rate of `round`. One of a sender that had little to send counts only if it is larger than what is known.
    pub(super) fn add(&mut self, round: u64, rate: f64, app_limited: bool) {
        if app_limited && rate < self.get() {
            return;
        }
        while self.rates.back().is_some_and(|&(_, known)| known <= rate) {
            self.rates.pop_back();
        }
        match self.rates.back() {
            // A round needs one rate: a larger one of it stands there already.
            Some(&(known, _)) if known == round => {}
            _ => self.rates.push_back((round, rate)),
        }
        while self.rates.front().is_some_and(|&(known, _)| known + RATE_ROUNDS <= round) {
            self.rates.pop_front();
        }
    }

    /// What was known is void: the path is as fast as `rate` now.
    pub(super) fn replace(&mut self, round: u64, rate: f64) {
        self.rates.clear();
        self.rates.push_back((round, rate));
    }
}

/// The smallest round-trip time of the last five to ten seconds.
#[derive(Clone, Debug)]
pub(super) struct SmallestRtt {
    current: Option<Duration>,
    before: Option<Duration>,
    since: Instant,
    /// Until when smaller ones do not count.
    held_until: Option<Instant>,
}

impl SmallestRtt {
    pub(super) fn new(now: Instant) -> Self {
        Self { current: None, before: None, since: now, held_until: None }
    }

    /// None: nothing was measured.
    pub(super) fn get(&self) -> Option<Duration> {
        match (self.current, self.before) {
            (Some(current), Some(before)) => Some(current.min(before)),
            (current, before) => current.or(before),
        }
    }

    pub(super) fn add(&mut self, now: Instant, rtt: Duration) {
        if self.held_until.is_some_and(|until| now < until) {
            return;
        }
        if now.duration_since(self.since) >= RTT_SPAN {
            (self.before, self.current, self.since) = (self.current, None, now);
        }
        self.current = Some(self.current.map_or(rtt, |current| current.min(rtt)));
    }

    /// What was known is void: the path is as long as `rtt` now, and for a while it is not taken for shorter: where a
    /// sender that goes by loss fills the queue, whoever measures it at its emptiest is left with nothing.
    pub(super) fn replace(&mut self, now: Instant, rtt: Duration) {
        (self.current, self.before, self.since) = (Some(rtt), None, now);
        self.held_until = Some(now + HELD);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_rate_of_twelve_rounds_counts() {
        let mut largest = LargestRate::default();
        largest.add(0, 5.0, false);
        largest.add(1, 9.0, false);
        largest.add(1, 8.0, false);
        (2..13).for_each(|round| largest.add(round, 7.0, false));
        assert_eq!(largest.get(), 9.0);
        largest.add(13, 6.0, false);
        assert_eq!(largest.get(), 7.0);
        assert!(largest.rates.len() <= RATE_ROUNDS as usize);
    }

    #[test]
    fn a_sender_with_little_to_send_says_nothing_against_a_rate() {
        let mut largest = LargestRate::default();
        largest.add(0, 9.0, false);
        (1..1000).for_each(|round| largest.add(round, 1.0, true));
        assert_eq!(largest.get(), 9.0);
        largest.add(1000, 10.0, true);
        assert_eq!(largest.get(), 10.0);
        largest.replace(1000, 2.0);
        assert_eq!(largest.get(), 2.0);
    }

    #[test]
    fn a_round_trip_time_counts_for_five_to_ten_seconds() {
        let start = Instant::now();
        let (second, ms) = (Duration::from_secs(1), Duration::from_millis(1));
        let mut smallest = SmallestRtt::new(start);
        assert_eq!(smallest.get(), None);
        smallest.add(start + 4 * second, 50 * ms);
        smallest.add(start + 9 * second, 80 * ms);
        assert_eq!(smallest.get(), Some(50 * ms));
        smallest.add(start + 14 * second, 70 * ms);
        assert_eq!(smallest.get(), Some(70 * ms));
        smallest.replace(start + 15 * second, 90 * ms);
        assert_eq!(smallest.get(), Some(90 * ms));
    }
}
