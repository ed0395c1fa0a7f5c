//! How fast a path delivers: the rate between the departure of a packet and the news of its arrival, as in "Delivery
//! Rate Estimation" (draft-cheng-iccrg-delivery-rate-estimation-02), by departures instead of packets.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Departures that are remembered. What was sent before is acknowledged without a sample.
const DEPARTURES_MAX: usize = 4096;

/// What was known when something was sent.
#[derive(Clone, Copy, Debug)]
struct Departure {
    at: Instant,
    /// When the first of what was then in flight was sent.
    first_sent: Instant,
    /// Bytes delivered until then, and since when.
    delivered: u64,
    delivered_at: Instant,
    /// Whether there was less to send than might have been.
    app_limited: bool,
    /// Whether a copy of it followed.
    copied: bool,
}

/// What the acknowledgements of one moment say.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Sample {
    /// Bytes per second; none: it spans too little time to say.
    pub(super) rate: Option<f64>,
    /// From the departure of the newest packet until now.
    pub(super) rtt: Duration,
    /// Bytes that had been delivered when it departed.
    pub(super) delivered_before: u64,
    /// Whether there was less to send than might have been.
    pub(super) app_limited: bool,
}

/// The departures and arrivals of one path.
#[derive(Clone, Debug)]
pub(super) struct Deliveries {
    departures: VecDeque<Departure>,
    delivered: u64,
    delivered_at: Instant,
    first_sent: Instant,
    app_limited: bool,
    /// Nothing is in flight: what is sent next begins anew.
    idle: bool,
    /// The newest departure that the acknowledgements of this moment name.
    newest: Option<Departure>,
}

impl Deliveries {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            departures: VecDeque::new(),
            delivered: 0,
            delivered_at: now,
            first_sent: now,
            app_limited: false,
            idle: true,
            newest: None,
        }
    }

    /// Bytes delivered so far.
    pub(super) fn delivered(&self) -> u64 {
        self.delivered
    }

    /// Something was sent; `copied`: and will be once more.
    pub(super) fn sent(&mut self, now: Instant, copied: bool) {
        if std::mem::take(&mut self.idle) {
            (self.first_sent, self.delivered_at) = (now, now);
        }
        if let Some(last) = self.departures.back_mut()
            && last.at == now
        {
            last.copied |= copied;
            return;
        }
        if self.departures.len() == DEPARTURES_MAX {
            self.departures.pop_front();
        }
        self.departures.push_back(Departure {
            at: now,
            first_sent: self.first_sent,
            delivered: self.delivered,
            delivered_at: self.delivered_at,
            app_limited: self.app_limited,
            copied,
        });
    }

    /// A packet of `bytes` that departed at `sent` has arrived. Whether it was copied.
    pub(super) fn acknowledged(
        &mut self,
        now: Instant,
        sent: Instant,
        bytes: u64,
        app_limited: bool,
    ) -> bool {
        self.delivered += bytes;
        self.delivered_at = now;
        self.app_limited = app_limited;
        let Some(departure) = self.departure(sent) else { return false };
        if self.newest.is_none_or(|newest| newest.at < departure.at) {
            self.newest = Some(departure);
        }
        departure.copied
    }

    /// Whether what departed at `sent` was copied.
    pub(super) fn was_copied(&self, sent: Instant) -> bool {
        self.departure(sent).is_some_and(|departure| departure.copied)
    }

    /// What the acknowledgements since the last call say, with `in_flight` bytes left; none: they name nothing that is
    /// remembered.
    pub(super) fn sample(&mut self, now: Instant, in_flight: u64) -> Option<Sample> {
        self.idle = in_flight == 0;
        let newest = self.newest.take()?;
        self.first_sent = newest.at;
        // Either may be compressed on the way: the longer one is nearer to the truth.
        let took = (newest.at - newest.first_sent).max(now - newest.delivered_at);
        let rtt = now - newest.at;
        // What departed earlier and has not arrived is found to be lost within a round trip.
        while self.departures.front().is_some_and(|departure| departure.at + rtt < newest.at) {
            self.departures.pop_front();
        }
        let bytes = (self.delivered - newest.delivered) as f64;
        // Less than a round trip would say how fast acknowledgements come, not how fast data goes.
        let rate = (took >= rtt / 2 && !took.is_zero()).then(|| bytes / took.as_secs_f64());
        let app_limited = newest.app_limited;
        Some(Sample { rate, rtt, delivered_before: newest.delivered, app_limited })
    }

    fn departure(&self, sent: Instant) -> Option<Departure> {
        let at = self.departures.partition_point(|departure| departure.at < sent);
        self.departures.get(at).filter(|departure| departure.at == sent).copied()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_steady_flow_has_its_rate() {
        let start = Instant::now();
        let mut deliveries = Deliveries::new(start);
        let mut rates = Vec::new();
        // A packet of 1,000 bytes each millisecond, acknowledged after 20.
        for tick in 0..100 {
            let now = start + tick * MS;
            deliveries.sent(now, false);
            if tick >= 20 {
                deliveries.acknowledged(now, now - 20 * MS, 1000, false);
                let sample = deliveries.sample(now, 20_000).unwrap();
                assert_eq!(sample.rtt, 20 * MS);
                rates.push(sample.rate.unwrap());
            }
        }
        let last = rates[rates.len() - 1];
        assert!((990_000.0..1_060_000.0).contains(&last), "{last}");
    }

    #[test]
    fn acknowledgements_that_come_at_once_are_not_faster() {
        let start = Instant::now();
        let mut deliveries = Deliveries::new(start);
        for tick in 0..20 {
            deliveries.sent(start + tick * MS, false);
        }
        let now = start + 40 * MS;
        for tick in 0..20 {
            deliveries.acknowledged(now, start + tick * MS, 1000, false);
        }
        let sample = deliveries.sample(now, 0).unwrap();
        assert!(sample.rate.unwrap() <= 20_000.0 / 0.040 + 1.0);
    }

    #[test]
    fn idle_time_is_not_counted() {
        let start = Instant::now();
        let mut deliveries = Deliveries::new(start);
        let mut round = |at: Instant| {
            for tick in 0..10 {
                deliveries.sent(at + tick * MS, false);
            }
            for tick in 0..10 {
                deliveries.acknowledged(at + (tick + 10) * MS, at + tick * MS, 1000, true);
            }
            deliveries.sample(at + 19 * MS, 0).unwrap().rate.unwrap()
        };
        let (first, later) = (round(start), round(start + Duration::from_secs(60)));
        assert!((first - later).abs() < 1.0, "{first} {later}");
    }

    #[test]
    fn what_is_remembered_has_a_bound() {
        let start = Instant::now();
        let mut deliveries = Deliveries::new(start);
        for tick in 0..DEPARTURES_MAX as u32 + 10 {
            deliveries.sent(start + tick * MS, false);
        }
        assert_eq!(deliveries.departures.len(), DEPARTURES_MAX);
        deliveries.acknowledged(start + 9000 * MS, start, 1000, false);
        assert_eq!(deliveries.sample(start + 9000 * MS, 1000), None);
        assert_eq!(deliveries.delivered(), 1000);
    }

    #[test]
    fn a_copy_is_remembered_with_its_departure() {
        let start = Instant::now();
        let mut deliveries = Deliveries::new(start);
        deliveries.sent(start, true);
        deliveries.sent(start + MS, false);
        assert!(deliveries.was_copied(start) && !deliveries.was_copied(start + MS));
        assert!(deliveries.acknowledged(start + 9 * MS, start, 100, true));
        assert!(!deliveries.acknowledged(start + 9 * MS, start + MS, 100, true));
    }
}
