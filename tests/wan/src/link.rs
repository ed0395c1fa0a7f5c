//! One direction of a link: what becomes of each packet, and when it arrives. Pure: time is a parameter, and chance comes
//! from a seed.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// A packet that arrives so much after its time was not carried well; [`Counters::late`] counts them.
const LATE: Duration = Duration::from_micros(200);

/// What a direction does to packets. The default lets all of them through at once.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Settings {
    /// From the moment that a packet was sent whole until it arrives.
    pub delay: Duration,
    /// A packet takes up to so much longer, evenly distributed.
    pub jitter: Duration,
    /// Whether jitter lets packets overtake each other; else each arrives no sooner than those before it.
    pub reorder: bool,
    /// Bits a second, headers of IP included; 0: no limit.
    pub rate: u64,
    /// Bytes that may wait for the rate, the packet that is sent included; one that finds no room is dropped.
    pub queue: u64,
    /// The share of packets that is lost after it was sent, from 0 to 1.
    pub loss: f64,
    /// The share that arrives twice.
    pub duplicate: f64,
    /// Nothing arrives, not even what is under way.
    pub cut: bool,
}

/// What became of packets so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// That were to be carried.
    pub offered: u64,
    /// That arrived, and their bytes; of duplicates each one.
    pub arrived: u64,
    /// Bytes of those that arrived.
    pub bytes: u64,
    /// That were lost by chance.
    pub lost: u64,
    /// That found no room in the queue.
    pub dropped: u64,
    /// That were under way or to be sent while the link was cut.
    pub cut: u64,
    /// Of those that arrived, 0.2 ms or more after their time: the machine was too slow for the emulation.
    pub late: u64,
}

/// Packets under way in one direction, each a `P` of so many bytes.
#[derive(Debug)]
pub struct Link<P> {
    settings: Settings,
    counters: Counters,
    chance: fastrand::Rng,
    /// When the sender is done with all that it accepted.
    sender_free: Option<Instant>,
    /// When the last of those that keep their order arrives.
    last: Option<Instant>,
    /// By the time of arrival, and in the order of sending.
    under_way: BTreeMap<(Instant, u64), (usize, P)>,
    number: u64,
}

impl<P: Clone> Link<P> {
    /// A link without packets, whose chance follows from `seed`.
    pub fn new(settings: Settings, seed: u64) -> Self {
        Self {
            settings,
            counters: Counters::default(),
            chance: fastrand::Rng::with_seed(seed),
            sender_free: None,
            last: None,
            under_way: BTreeMap::new(),
            number: 0,
        }
    }

    /// Takes a packet of `bytes` to be sent.
    pub fn send(&mut self, now: Instant, bytes: usize, packet: P) {
        self.counters.offered += 1;
        if self.settings.cut {
            self.counters.cut += 1;
            return;
        }
        let Some(sent) = self.enqueue(now, bytes) else {
            self.counters.dropped += 1;
            return;
        };
        // What is lost has taken its time on the wire.
        if self.happens(self.settings.loss) {
            self.counters.lost += 1;
            return;
        }
        let longer = self.settings.jitter.mul_f64(self.chance.f64());
        let mut arrives = sent + self.settings.delay + longer;
        if !self.settings.reorder {
            arrives = self.last.map_or(arrives, |last| arrives.max(last));
            self.last = Some(arrives);
        }
        if self.happens(self.settings.duplicate) {
            self.put(arrives, bytes, packet.clone());
        }
        self.put(arrives, bytes, packet);
    }

    /// When the next packet arrives; none: none is under way.
    pub fn next(&self) -> Option<Instant> {
        self.under_way.keys().next().map(|(at, _)| *at)
    }

    /// Gives the next packet that has arrived.
    pub fn arrive(&mut self, now: Instant) -> Option<P> {
        loop {
            let entry = self.under_way.first_entry()?;
            let at = entry.key().0;
            if at > now {
                return None;
            }
            let (bytes, packet) = entry.remove();
            if self.settings.cut {
                self.counters.cut += 1;
                continue;
            }
            self.counters.arrived += 1;
            self.counters.bytes += bytes as u64;
            self.counters.late += u64::from(now - at >= LATE);
            return Some(packet);
        }
    }

    /// What counts for packets that are sent from now on, and for a cut also for those under way.
    pub fn settings(&mut self) -> &mut Settings {
        &mut self.settings
    }

    /// What became of packets so far.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// When the packet has left the sender whole; none: there is no room for it.
    fn enqueue(&mut self, now: Instant, bytes: usize) -> Option<Instant> {
        let rate = self.settings.rate;
        if rate == 0 {
            return Some(now);
        }
        let begins = self.sender_free.map_or(now, |free| free.max(now));
        let waiting = (begins - now).as_secs_f64() * rate as f64 / 8.0;
        if waiting + bytes as f64 > self.settings.queue as f64 {
            return None;
        }
        let done = begins + Duration::from_secs_f64(bytes as f64 * 8.0 / rate as f64);
        self.sender_free = Some(done);
        Some(done)
    }

    fn happens(&mut self, share: f64) -> bool {
        share > 0.0 && self.chance.f64() < share
    }

    fn put(&mut self, arrives: Instant, bytes: usize, packet: P) {
        self.number += 1;
        self.under_way.insert((arrives, self.number), (bytes, packet));
    }
}

#[cfg(test)]
mod tests;
