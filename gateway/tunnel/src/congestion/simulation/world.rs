//! Senders on one link, in virtual time.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::ops::Range;
use std::time::{Duration, Instant};

use super::super::model::Model;
use super::flow::{Cubic, Flow, PACKET, Window};
use super::link::Link;

#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    Own,
    Cubic,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    /// A packet of a flow is acknowledged, as marked or not.
    Acknowledged(usize, u64, bool),
    /// A flow may send, or give up.
    Look(usize),
    /// The pacer lets a flow send.
    Paced(usize),
    /// More is to be sent.
    Burst,
}

/// In nanoseconds, so that it has an order.
type At = u64;

pub(super) struct World {
    link: Link,
    rng: fastrand::Rng,
    start: Instant,
    flows: Vec<Flow>,
    events: BinaryHeap<Reverse<(At, Event)>>,
    bursts: Option<(Duration, u64)>,
}

/// Milliseconds.
#[derive(Debug)]
pub(super) struct Queue {
    pub(super) p50: f64,
    pub(super) p99: f64,
}

pub(super) struct Report {
    flows: Vec<Flow>,
    /// When, and how long what was sent then waited, in milliseconds.
    queue: Vec<(f64, f64)>,
    /// How long each burst took.
    pub(super) bursts_ms: Vec<f64>,
}

impl World {
    pub(super) fn new(link: Link, seed: u64) -> Self {
        let rng = fastrand::Rng::with_seed(seed);
        let (flows, events) = (Vec::new(), BinaryHeap::new());
        Self { link, rng, start: Instant::now(), flows, events, bursts: None }
    }

    /// With one more sender, which begins half a second after the one before it.
    pub(super) fn flow(mut self, kind: Kind, number: u32) -> Self {
        let at = f64::from(number) * 0.5;
        let window = match kind {
            Kind::Own => Window::Own(Box::new(self.model(at))),
            Kind::Cubic => Window::Cubic(Cubic::new()),
        };
        self.flows.push(Flow::new(window, self.start, None, at));
        self
    }

    /// With what the last sender is bound by beside its window.
    pub(super) fn bound(mut self, unread_max: Option<u64>, busy: Duration) -> Self {
        let flow = self.flows.last_mut().unwrap();
        (flow.unread_max, flow.busy) = (unread_max, busy.as_secs_f64());
        self
    }

    /// With one sender that has so many bytes to send every so often.
    pub(super) fn bursts(mut self, every: Duration, bytes: u64) -> Self {
        let window = Window::Own(Box::new(self.model(0.0)));
        self.flows.push(Flow::new(window, self.start, Some(0), 0.0));
        self.bursts = Some((every, bytes));
        self.plan(0.0, Event::Burst);
        self
    }

    fn model(&mut self, at: f64) -> Model {
        let now = self.start + Duration::from_secs_f64(at);
        Model::new(now, PACKET, self.rng.fork())
    }

    fn plan(&mut self, at: f64, event: Event) {
        // A nanosecond late rather than early: what is looked at too early is looked at for ever.
        self.events.push(Reverse(((at * 1e9).ceil() as At + 1, event)));
    }

    pub(super) fn run(mut self, seconds: u32) -> Report {
        for flow in 0..self.flows.len() {
            self.plan(self.flows[flow].next_send, Event::Look(flow));
        }
        let (mut queue, mut bursts_ms, mut burst_at) = (Vec::new(), Vec::new(), None);
        while let Some(Reverse((at, event))) = self.events.pop() {
            let now = at as f64 / 1e9;
            if now >= f64::from(seconds) {
                break;
            }
            let index = match event {
                Event::Acknowledged(index, number, marked) => {
                    self.flows[index].acknowledged(now, number, marked);
                    if self.flows[index].is_done()
                        && let Some(began) = burst_at.take()
                    {
                        bursts_ms.push((now - began) * 1e3);
                    }
                    index
                }
                Event::Look(index) => {
                    self.flows[index].give_up(now);
                    self.plan(now + 0.05, Event::Look(index));
                    index
                }
                Event::Paced(index) => index,
                Event::Burst => {
                    let (every, bytes) = self.bursts.unwrap();
                    self.flows[0].left = Some(bytes);
                    (self.flows[0].last_heard, burst_at) = (now, Some(now));
                    self.plan(now + every.as_secs_f64(), Event::Burst);
                    0
                }
            };
            while let Some(number) = self.flows[index].send(now) {
                queue.push((now, self.link.wait(now) * 1e3));
                if let Some(arrival) = self.link.send(now, PACKET as f64, &mut self.rng) {
                    self.plan(arrival.back, Event::Acknowledged(index, number, arrival.marked));
                }
            }
            // One look ahead is enough.
            if let Some(at) = self.flows[index].sends_next_at(now)
                && self.flows[index].woken_at <= now
            {
                self.flows[index].woken_at = at;
                self.plan(at, Event::Paced(index));
            }
        }
        Report { flows: self.flows, queue, bursts_ms }
    }
}

impl Report {
    /// What arrived of a flow within these seconds.
    pub(super) fn mbit(&self, flow: usize, seconds: Range<u32>) -> f64 {
        let tenths = seconds.start as usize * 10..seconds.end as usize * 10;
        let arrived = &self.flows[flow].arrived;
        let bytes: u64 = tenths.clone().filter_map(|tenth| arrived.get(tenth)).sum();
        bytes as f64 * 8.0 / (tenths.len() as f64 / 10.0) / 1e6
    }

    /// How long what was sent within these seconds waited at the bottleneck.
    pub(super) fn queue_ms(&self, seconds: Range<u32>) -> Queue {
        let within = f64::from(seconds.start)..f64::from(seconds.end);
        let mut waits: Vec<f64> =
            self.queue.iter().filter(|(at, _)| within.contains(at)).map(|(_, wait)| *wait).collect();
        waits.sort_by(f64::total_cmp);
        let at = |share: f64| waits.get((waits.len() as f64 * share) as usize).copied().unwrap_or(0.0);
        Queue { p50: at(0.5), p99: at(0.99) }
    }
}
