//! A sender on the simulated link: paced and watched for losses as quinn does it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use super::super::model::Model;

pub(super) const PACKET: u64 = 1450;
/// What was sent so many packets before one that arrived, or so much of a round trip, is lost (RFC 9002, section 6.1).
const REORDERED_MAX: u64 = super::super::REORDERED_MAX as u64;
const LATE: f64 = 0.125;
/// Packets that may leave at once.
const BURST: f64 = 10.0;

/// What decides the window.
#[derive(Debug)]
pub(super) enum Window {
    Own(Box<Model>),
    Cubic(Cubic),
}

/// Cubic (RFC 9438) as TCP has it, in packets, without its convex detours.
#[derive(Debug)]
pub(super) struct Cubic {
    window: f64,
    most: f64,
    threshold: f64,
    epoch: f64,
    recovered_from: f64,
}

impl Cubic {
    pub(super) fn new() -> Self {
        Self { window: 10.0, most: 0.0, threshold: f64::MAX, epoch: 0.0, recovered_from: 0.0 }
    }

    fn acknowledged(&mut self, now: f64, rtt: f64) {
        if self.window < self.threshold {
            self.window += 1.0;
            return;
        }
        let (c, beta) = (0.4, 0.7);
        let k = (self.most * (1.0 - beta) / c).cbrt();
        let target = c * (now + rtt - self.epoch - k).powi(3) + self.most;
        let reno = self.most * beta + 3.0 * (1.0 - beta) / (1.0 + beta) * (now - self.epoch) / rtt;
        let target = target.max(reno);
        if target > self.window {
            self.window += (target - self.window) / self.window;
        }
    }

    fn lost(&mut self, now: f64, sent: f64) {
        if sent > self.recovered_from {
            self.recovered_from = now;
            self.most = self.window;
            self.window = (self.window * 0.7).max(2.0);
            (self.threshold, self.epoch) = (self.window, now);
        }
    }
}

/// One sender.
#[derive(Debug)]
pub(super) struct Flow {
    pub(super) window: Window,
    start: Instant,
    /// When each packet left, and which piece of the stream it carries.
    in_flight: BTreeMap<u64, (f64, u64)>,
    next: u64,
    /// Pieces of the stream that have not arrived, and those of them that are to be sent again.
    missing: BTreeSet<u64>,
    again: VecDeque<u64>,
    next_piece: u64,
    rtt: f64,
    heard: bool,
    /// When the pacer lets the next packet go.
    pub(super) next_send: f64,
    pub(super) last_heard: f64,
    /// Until when it need not be looked at for that.
    pub(super) woken_at: f64,
    /// Bytes to send; none: no end.
    pub(super) left: Option<u64>,
    /// What the receiver may have unread of its stream; none: there are streams enough.
    pub(super) unread_max: Option<u64>,
    /// Seconds of each hundredth of a second in which the sender has other work.
    pub(super) busy: f64,
    /// Bytes that arrived in each tenth of a second.
    pub(super) arrived: Vec<u64>,
}

impl Flow {
    pub(super) fn new(window: Window, start: Instant, left: Option<u64>, at: f64) -> Self {
        Self {
            window,
            start,
            in_flight: BTreeMap::new(),
            next: 0,
            missing: BTreeSet::new(),
            again: VecDeque::new(),
            next_piece: 0,
            rtt: 0.333,
            heard: false,
            next_send: at,
            last_heard: at,
            woken_at: 0.0,
            left,
            unread_max: None,
            busy: 0.0,
            arrived: Vec::new(),
        }
    }

    fn at(&self, now: f64) -> Instant {
        self.start + Duration::from_secs_f64(now)
    }

    fn window(&self) -> u64 {
        match &self.window {
            Window::Own(model) => model.window(),
            Window::Cubic(cubic) => (cubic.window * PACKET as f64) as u64,
        }
    }

    fn bytes_in_flight(&self) -> u64 {
        self.in_flight.len() as u64 * PACKET
    }

    /// How long the sender has other work.
    pub(super) fn busy_for(&self, now: f64) -> f64 {
        (self.busy - (now + 0.005) % 0.01).max(0.0)
    }

    /// Whether there is nothing to send: all of it has left, or the receiver waits for a piece and holds as much behind it
    /// as it may, or the sender has other work.
    fn is_limited(&self, now: f64) -> bool {
        let first = self.missing.first().copied().unwrap_or(self.next_piece);
        let unread = self.unread_max.is_some_and(|most| (self.next_piece - first) * PACKET >= most);
        self.busy_for(now) > 0.0 || (self.again.is_empty() && (unread || self.left == Some(0)))
    }

    /// The number of the packet that leaves now; none: it may not, or there is none. With it, when to ask again.
    pub(super) fn send(&mut self, now: f64) -> Option<u64> {
        if self.is_limited(now) || self.bytes_in_flight() + PACKET > self.window() || self.next_send > now {
            return None;
        }
        // TCP sends when it is acknowledged; QUIC is paced a quarter faster than the window.
        let gap = match &self.window {
            Window::Own(_) => PACKET as f64 * self.rtt / (1.25 * self.window() as f64),
            Window::Cubic(_) => 0.0,
        };
        self.next_send = self.next_send.max(now - BURST * gap) + gap;
        let piece = self.again.pop_front().unwrap_or_else(|| {
            self.left = self.left.map(|left| left.saturating_sub(PACKET));
            self.missing.insert(self.next_piece);
            self.next_piece += 1;
            self.next_piece - 1
        });
        self.next += 1;
        self.in_flight.insert(self.next, (now, piece));
        let at = self.at(now);
        if let Window::Own(model) = &mut self.window {
            model.sent(at, false);
        }
        Some(self.next)
    }

    /// When it sends on by itself: as soon as its other work is done, or its pacer lets it; none: it waits for something.
    pub(super) fn sends_next_at(&self, now: f64) -> Option<f64> {
        let busy = self.busy_for(now);
        if busy > 0.0 {
            return Some(now + busy);
        }
        let paced = self.next_send > now && self.bytes_in_flight() + PACKET <= self.window();
        (paced && !self.is_limited(now)).then_some(self.next_send)
    }

    pub(super) fn acknowledged(&mut self, now: f64, number: u64, marked: bool) {
        self.last_heard = now;
        // One that was taken for lost counts no more.
        let Some((sent, piece)) = self.in_flight.remove(&number) else { return };
        self.missing.remove(&piece);
        let tenth = (now * 10.0) as usize;
        if self.arrived.len() <= tenth {
            self.arrived.resize(tenth + 1, 0);
        }
        self.arrived[tenth] += PACKET;
        self.rtt = if self.heard { self.rtt + (now - sent - self.rtt) / 8.0 } else { now - sent };
        self.heard = true;
        let is_lost = |n: u64, at: f64| n + REORDERED_MAX < number || at + LATE * self.rtt < sent;
        let before = self.in_flight.range(..number).map(|(&n, &(at, piece))| (n, at, piece));
        let lost: Vec<(u64, f64, u64)> = before.take_while(|&(n, at, _)| is_lost(n, at)).collect();
        for (n, _, piece) in &lost {
            self.in_flight.remove(n);
            self.again.push_back(*piece);
        }
        let (at, sent_at, limited) = (self.at(now), self.at(sent), self.is_limited(now));
        let (rtt, in_flight) = (self.rtt, self.bytes_in_flight());
        match &mut self.window {
            Window::Own(model) => {
                model.acknowledged(at, sent_at, PACKET, limited);
                model.acknowledged_all(at, in_flight);
                if marked {
                    model.marked();
                }
                if !lost.is_empty() {
                    model.lost(lost.len() as u64 * PACKET);
                }
            }
            Window::Cubic(cubic) => {
                lost.iter().for_each(|&(_, sent, _)| cubic.lost(now, sent));
                if marked {
                    cubic.lost(now, sent);
                }
                cubic.acknowledged(now, rtt);
            }
        }
    }

    /// Nothing was heard for long: all that is under way is lost.
    pub(super) fn give_up(&mut self, now: f64) {
        if !self.heard || self.in_flight.is_empty() || now - self.last_heard < 3.0 * self.rtt + 0.1 {
            return;
        }
        let lost = std::mem::take(&mut self.in_flight);
        self.again.extend(lost.values().map(|(_, piece)| *piece));
        self.last_heard = now;
        let at = self.at(now);
        match &mut self.window {
            Window::Own(model) => {
                model.lost(lost.len() as u64 * PACKET);
                model.acknowledged_all(at, 0);
            }
            Window::Cubic(cubic) => cubic.lost(now, now),
        }
    }

    pub(super) fn is_done(&self) -> bool {
        self.left == Some(0) && self.in_flight.is_empty() && self.again.is_empty()
    }
}
