//! One bottleneck: a rate, a queue before it, and a way there and back.

use std::time::Duration;

/// Of every so often, as many packets in a row are lost.
#[derive(Clone, Copy, Debug)]
pub(super) struct Burst {
    pub(super) every: Duration,
    pub(super) packets: u32,
}

/// All times are seconds since the start.
#[derive(Clone, Debug)]
pub(super) struct Link {
    /// Bits per second from the start, and from when on another rate.
    pub(super) rate: f64,
    pub(super) rates: Vec<(f64, f64)>,
    pub(super) rtt: Duration,
    pub(super) rtts: Vec<(f64, Duration)>,
    /// Bytes.
    pub(super) queue: f64,
    /// What waits for longer is marked (ECN).
    pub(super) marks: Option<Duration>,
    pub(super) loss: f64,
    pub(super) burst: Option<Burst>,
    pub(super) jitter: Duration,
    /// Whether jitter may change the order.
    pub(super) reorder: bool,
    /// When the bottleneck is free.
    pub(super) free_at: f64,
    pub(super) last_arrival: f64,
    /// When the next burst of losses is due, and how many packets it still takes.
    pub(super) next_burst: f64,
    pub(super) bursting: u32,
}

/// What becomes of a packet that arrives.
#[derive(Clone, Copy, Debug)]
pub(super) struct Arrival {
    /// When its acknowledgement is back.
    pub(super) back: f64,
    /// Whether the bottleneck has marked it.
    pub(super) marked: bool,
}

impl Link {
    /// Of so many bits per second, with a queue that takes so long to empty.
    pub(super) fn new(rate: f64, rtt: Duration, queue: Duration) -> Self {
        Self {
            rate,
            rates: Vec::new(),
            rtt,
            rtts: Vec::new(),
            queue: rate / 8.0 * queue.as_secs_f64(),
            marks: None,
            loss: 0.0,
            burst: None,
            jitter: Duration::ZERO,
            reorder: false,
            free_at: 0.0,
            last_arrival: 0.0,
            next_burst: 0.0,
            bursting: 0,
        }
    }

    fn rate(&self, now: f64) -> f64 {
        self.rates.iter().rev().find(|(from, _)| *from <= now).map_or(self.rate, |(_, rate)| *rate)
    }

    fn rtt(&self, now: f64) -> f64 {
        self.rtts.iter().rev().find(|(from, _)| *from <= now).map_or(self.rtt, |(_, rtt)| *rtt).as_secs_f64()
    }

    /// How long what is sent now waits in the queue.
    pub(super) fn wait(&self, now: f64) -> f64 {
        (self.free_at - now).max(0.0)
    }

    /// Sends a packet; none: it is lost.
    pub(super) fn send(&mut self, now: f64, bytes: f64, rng: &mut fastrand::Rng) -> Option<Arrival> {
        let marked = self.marks.is_some_and(|most| self.wait(now) > most.as_secs_f64());
        let rate = self.rate(now);
        if self.wait(now) * rate / 8.0 + bytes > self.queue {
            return None;
        }
        self.free_at = self.free_at.max(now) + bytes * 8.0 / rate;
        // What is lost on the way has taken its room at the bottleneck.
        if let Some(burst) = self.burst
            && now >= self.next_burst
        {
            self.next_burst = now + burst.every.as_secs_f64();
            self.bursting = burst.packets;
        }
        if self.bursting > 0 {
            self.bursting -= 1;
            return None;
        }
        if rng.f64() < self.loss {
            return None;
        }
        let late = rng.f64() * self.jitter.as_secs_f64();
        let mut arrival = self.free_at + self.rtt(now) + late;
        if !self.reorder {
            arrival = arrival.max(self.last_arrival);
            self.last_arrival = arrival;
        }
        Some(Arrival { back: arrival, marked })
    }
}
