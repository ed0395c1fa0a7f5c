//! What may be in flight on a tunnel's path: our own congestion control, or one of quinn's.
//!
//! | file | holds |
//! |---|---|
//! | `model` | our own: what the path holds, and how that is found out |
//! | `delivery` | how fast it delivers |
//! | `estimates` | its largest rate, its smallest round-trip time |
//! | `losses` | how much it loses, and what copies that is worth |
//! | [`Meter`] | what the owner of a tunnel says and is told |

mod delivery;
mod estimates;
mod losses;
mod meter;
mod model;

use std::any::Any;
use std::sync::Arc;
use std::time::{Duration, Instant};

use quinn::congestion::{BbrConfig, Controller, ControllerFactory, CubicConfig, NewRenoConfig};
use quinn_proto::RttEstimator;

use crate::copies::Copier;
use losses::{Allowance, Losses};
pub(crate) use meter::Meter;
pub use meter::{Congestion, Path, Shaping};
use model::Model;

/// What was sent so many packets before one that arrived is lost. Three, as usual, are a tenth of a millisecond at 300
/// Mbit/s, and every path that reorders more would be taken for a bad one; the time that goes by (an eighth of a round
/// trip) tells as early wherever it matters.
pub(crate) const REORDERED_MAX: u32 = 32;

/// Makes the congestion control of one tunnel.
#[derive(Debug)]
pub(crate) struct Factory {
    pub(crate) meter: Arc<Meter>,
    pub(crate) copier: Arc<Copier>,
}

impl ControllerFactory for Factory {
    fn build(self: Arc<Self>, now: Instant, current_mtu: u16) -> Box<dyn Controller> {
        let congestion = self.meter.congestion();
        let inner = Inner::new(congestion, now, current_mtu);
        Box::new(Control {
            initial: inner.window(),
            inner,
            congestion,
            datagram_bytes: current_mtu,
            rtt: Duration::ZERO,
            losses: Losses::new(now),
            allowance: Allowance::new(now),
            meter: self.meter.clone(),
            copier: self.copier.clone(),
        })
    }
}

/// The congestion control of one path. What it goes by may change at any time.
struct Control {
    inner: Inner,
    congestion: Congestion,
    datagram_bytes: u16,
    /// Smoothed.
    rtt: Duration,
    initial: u64,
    losses: Losses,
    allowance: Allowance,
    meter: Arc<Meter>,
    copier: Arc<Copier>,
}

enum Inner {
    Own(Box<Model>),
    Quinns(Box<dyn Controller>),
}

impl Inner {
    fn new(congestion: Congestion, now: Instant, mtu: u16) -> Self {
        Self::Quinns(match congestion {
            Congestion::Ringway => {
                return Self::Own(Box::new(Model::new(now, mtu.into(), fastrand::Rng::new())));
            }
            Congestion::Cubic => Arc::new(CubicConfig::default()).build(now, mtu),
            Congestion::NewReno => Arc::new(NewRenoConfig::default()).build(now, mtu),
            Congestion::Bbr => Arc::new(BbrConfig::default()).build(now, mtu),
        })
    }

    fn window(&self) -> u64 {
        match self {
            Self::Own(model) => model.window(),
            Self::Quinns(other) => other.window(),
        }
    }
}

impl Control {
    /// Bytes per second that the path carries, as far as is known.
    fn rate(&self) -> f64 {
        let by_window = || self.inner.window() as f64 / self.rtt.as_secs_f64().max(1e-4);
        match &self.inner {
            Inner::Own(model) if model.rate() > 0.0 => model.rate(),
            Inner::Own(_) if self.rtt.is_zero() => 0.0,
            Inner::Own(_) | Inner::Quinns(_) => by_window(),
        }
    }
}

impl Controller for Control {
    fn on_sent(&mut self, now: Instant, bytes: u64, last_packet_number: u64) {
        let marked = self.meter.take_marked();
        // What the path would carry: a sender that has little to send is not held back by what it has shown of it.
        let rate = self.inner.window() as f64 / self.rtt.as_secs_f64().max(1e-3);
        let copied = marked > 0 && self.allowance.take(now, rate, marked as u64);
        if copied {
            self.copier.expect(marked, bytes);
        }
        match &mut self.inner {
            Inner::Own(model) => model.sent(now, copied),
            Inner::Quinns(other) => other.on_sent(now, bytes, last_packet_number),
        }
    }

    fn on_ack(&mut self, now: Instant, sent: Instant, bytes: u64, app_limited: bool, rtt: &RttEstimator) {
        self.rtt = rtt.get();
        let copied = match &mut self.inner {
            Inner::Own(model) => model.acknowledged(now, sent, bytes, app_limited),
            Inner::Quinns(other) => {
                other.on_ack(now, sent, bytes, app_limited, rtt);
                false
            }
        };
        // Of what was sent twice it is not known which one arrived.
        if !copied {
            self.losses.arrived(now, bytes);
        }
    }

    fn on_end_acks(&mut self, now: Instant, in_flight: u64, app_limited: bool, largest: Option<u64>) {
        match &mut self.inner {
            Inner::Own(model) => model.acknowledged_all(now, in_flight),
            Inner::Quinns(other) => other.on_end_acks(now, in_flight, app_limited, largest),
        }
        self.meter.tell(self.rate(), self.window(), self.losses.share(), self.losses.copying());
        let congestion = self.meter.congestion();
        if congestion != self.congestion {
            self.congestion = congestion;
            self.inner = Inner::new(congestion, now, self.datagram_bytes);
        }
    }

    fn on_congestion_event(&mut self, now: Instant, sent: Instant, persistent: bool, lost_bytes: u64) {
        let copied = match &mut self.inner {
            Inner::Own(model) => {
                match lost_bytes {
                    0 => model.marked(),
                    _ if persistent => model.restart(now),
                    lost => model.lost(lost),
                }
                model.was_copied(sent)
            }
            Inner::Quinns(other) => {
                other.on_congestion_event(now, sent, persistent, lost_bytes);
                false
            }
        };
        if lost_bytes > 0 && !copied {
            self.losses.lost(now, lost_bytes);
        }
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.datagram_bytes = new_mtu;
        match &mut self.inner {
            Inner::Own(model) => model.set_datagram_bytes(new_mtu.into()),
            Inner::Quinns(other) => other.on_mtu_update(new_mtu),
        }
    }

    fn window(&self) -> u64 {
        self.inner.window()
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        let inner = match &self.inner {
            Inner::Own(model) => Inner::Own(model.clone()),
            Inner::Quinns(other) => Inner::Quinns(other.clone_box()),
        };
        Box::new(Self {
            inner,
            losses: self.losses.clone(),
            allowance: self.allowance.clone(),
            meter: self.meter.clone(),
            copier: self.copier.clone(),
            ..*self
        })
    }

    fn initial_window(&self) -> u64 {
        self.initial
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

#[cfg(test)]
mod simulation;
