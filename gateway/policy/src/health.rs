//! Whether a peer gateway is there: a [`Detector`] for each way to it, fed by the workers that own its tunnels, and
//! [`Ways`], which says what follows from all of them.
//!
//! Silence means something only while the peer owes us a sign of life: since a probe or a request that it has not
//! reacted to. And only silence that we could have heard through counts: when our own loop ran late, the lateness is
//! taken off, so that a busy core here is never a dead peer there.
//!
//! The driver's part, per peer gateway: call [`Detector::tick`] when [`Detector::due`] says so and when the first request
//! goes out to a peer that owed none; send a probe whenever a tick asks for one; report every authenticated packet.
//! Ticking more often than asked does no harm.

mod ways;

use std::fmt;
use std::time::{Duration, Instant};

pub use ways::{Ticks, Way, Ways};

/// The least time between two probes while requests are outstanding or an answer is owed: with a long way to the peer,
/// two fifths of a round trip, so that the answer to a second one would be here before that to a first is overdue ...
pub const PROBE_BUSY: Duration = Duration::from_millis(25);
/// ... but no longer than this.
pub const PROBE_BUSY_MAX: Duration = Duration::from_millis(250);
/// Between two probes otherwise.
pub const PROBE_IDLE: Duration = Duration::from_secs(1);
/// The least silence that makes a peer suspect; with a long way to it, a round trip and a half, and where round trips
/// vary, one and four times by how much they do (RFC 6298, section 2) ...
pub const SUSPECT_AFTER: Duration = Duration::from_millis(80);
/// ... but no longer than this; with a long way to it, two round trips.
pub const SUSPECT_AFTER_AT_MOST: Duration = Duration::from_millis(100);
/// The least silence that makes a peer down, together with [`DOWN_PROBES`].
pub const DOWN_AFTER: Duration = Duration::from_millis(500);
/// Overdue probes that make a peer down, together with [`DOWN_AFTER`].
pub const DOWN_PROBES: usize = 5;
/// Between two probes while a cut connection makes the peer doubtful.
pub const PROBE_DOUBT: Duration = Duration::from_millis(25);
/// Probes that must have gone out before the silence of a doubtful peer means that it is down: one may be lost.
pub const DOUBT_PROBES: usize = 3;

/// What a peer gateway is to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// It answers.
    Up,
    /// It owes an answer for too long: requests that can be are hedged or placed elsewhere.
    Suspect,
    /// It is silent for so long, or its last tunnel is gone: its streams fail at once.
    Down,
}

impl State {
    /// The word for status, metrics and audit lines.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Suspect => "suspect",
            Self::Down => "down",
        }
    }
}

/// Why a state changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// A tunnel came up.
    TunnelUp,
    /// It was heard again.
    Heard,
    /// It was silent while it owed an answer.
    Silent {
        /// For how long, the lateness of our own loop taken off.
        silence: Duration,
        /// Probes sent since it was last heard.
        probes: usize,
    },
    /// Its last tunnel is gone.
    TunnelLost(String),
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TunnelUp => f.write_str("tunnel up"),
            Self::Heard => f.write_str("heard again"),
            Self::Silent { silence, probes } => {
                write!(f, "silent for {} ms, {probes} probes unanswered", silence.as_millis())
            }
            Self::TunnelLost(why) => write!(f, "tunnel lost: {why}"),
        }
    }
}

/// A change of state, for the audit line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transition {
    /// What it was.
    pub from: State,
    /// What it is now.
    pub to: State,
    /// When.
    pub at: Instant,
    /// Why.
    pub reason: Reason,
}

/// What a tick asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tick {
    /// Send a probe and call [`Detector::probe_sent`].
    pub probe: bool,
    /// The state changed.
    pub transition: Option<Transition>,
}

/// The state of one peer gateway on one way.
#[derive(Clone, Debug)]
pub struct Detector {
    state: State,
    since: Instant,
    /// Whether a tunnel is there to be heard through.
    tunnel: bool,
    rtt: Duration,
    /// By how much round trips differ from that.
    variation: Duration,
    /// Whether a probe has measured the round trip; the handshake's figure has the cost of its cryptography in it.
    measured: bool,
    /// When the oldest thing was sent that the peer has not reacted to by any sign of life.
    owed_since: Option<Instant>,
    /// Probes sent since it was last heard.
    probes: usize,
    /// When the [`DOWN_PROBES`]th of them was sent.
    decisive_probe: Option<Instant>,
    /// When a tick last asked for a probe.
    probed_at: Option<Instant>,
    /// Whether requests were outstanding at the last tick.
    outstanding: bool,
    /// When another sign said that the peer may be dead; only the answer to a probe sent since then says that it lives.
    doubted: Option<Instant>,
}

impl Detector {
    /// The detector of a peer gateway whose first tunnel came up; `rtt` is what its handshake measured.
    pub fn new(now: Instant, rtt: Duration) -> Self {
        Self {
            state: State::Up,
            since: now,
            tunnel: true,
            rtt,
            variation: Duration::ZERO,
            measured: false,
            owed_since: None,
            probes: 0,
            decisive_probe: None,
            probed_at: None,
            outstanding: false,
            doubted: None,
        }
    }

    /// Whether a tunnel is there.
    pub fn has_tunnel(&self) -> bool {
        self.tunnel
    }

    /// The state.
    pub fn state(&self) -> State {
        self.state
    }

    /// Since when the state holds.
    pub fn since(&self) -> Instant {
        self.since
    }

    /// The smoothed round-trip time.
    pub fn rtt(&self) -> Duration {
        self.rtt
    }

    /// A tunnel came up, a first one again or one more; `rtt` is what its handshake measured.
    pub fn tunnel_up(&mut self, now: Instant, rtt: Duration) -> Option<Transition> {
        if !self.tunnel {
            self.tunnel = true;
            self.rtt = rtt;
            self.variation = Duration::ZERO;
            self.measured = false;
        }
        self.alive(now, Reason::TunnelUp)
    }

    /// The last tunnel is gone: closed, reset or timed out.
    pub fn tunnel_lost(&mut self, now: Instant, why: &str) -> Option<Transition> {
        self.tunnel = false;
        self.settle();
        self.enter(State::Down, now, || Reason::TunnelLost(why.to_owned()))
    }

    /// Another sign says that the peer may be dead. It is suspect at once, and down unless it answers a probe within the
    /// time in which others become suspect.
    pub fn doubt(&mut self, now: Instant) {
        if !self.tunnel || self.state == State::Down || self.doubted.is_some() {
            return;
        }
        self.settle();
        self.doubted = Some(now);
        self.owed_since = Some(now);
        self.probed_at = None;
        if self.state != State::Suspect {
            (self.state, self.since) = (State::Suspect, now);
        }
    }

    /// Anything authenticated came from the peer. Late words of a tunnel that is gone change nothing, nor of a peer in
    /// doubt.
    pub fn heard(&mut self, now: Instant) -> Option<Transition> {
        if self.tunnel && self.doubted.is_none() { self.alive(now, Reason::Heard) } else { None }
    }

    /// A probe was answered after `rtt`. Includes [`Detector::heard`].
    pub fn answered(&mut self, now: Instant, rtt: Duration) -> Option<Transition> {
        // RFC 6298, section 2: an eighth of each new sample, and a quarter of how far off it is.
        if self.measured {
            self.variation = (self.variation * 3 + self.rtt.abs_diff(rtt)) / 4;
            self.rtt = (self.rtt * 7 + rtt) / 8;
        } else {
            self.rtt = rtt;
        }
        self.measured = true;
        if self.doubted.is_some_and(|since| since + rtt <= now) {
            self.doubted = None;
        }
        self.heard(now)
    }

    /// The probe that a tick asked for went out. One that could not be sent is not the peer's to answer.
    pub fn probe_sent(&mut self, now: Instant) {
        self.owed_since.get_or_insert(now);
        self.probes += 1;
        if self.probes == DOWN_PROBES {
            self.decisive_probe = Some(now);
        }
    }

    /// Looks at the clock; `outstanding`: whether any request to the peer waits for something. How late the driver is
    /// shows against [`Detector::due`].
    pub fn tick(&mut self, now: Instant, outstanding: bool) -> Tick {
        if !self.tunnel {
            return Tick::default();
        }
        // After a stall several wake-ups are ready at once, and one that no timer caused may win: our own schedule tells
        // the lateness all the same.
        let expected = self.due(now).map_or(now, |due| due.min(now));
        self.forgive(now.saturating_duration_since(expected), now);
        self.outstanding = outstanding;
        if outstanding {
            self.owed_since.get_or_insert(now);
        } else if self.probes == 0 {
            // The requests ended without a word from the peer (our callers gave up): nothing is owed any more.
            self.owed_since = None;
        }
        let transition = self.judge(now);
        let probe = self.probe_due().is_none_or(|due| due <= now);
        if probe {
            self.probed_at = Some(now);
        }
        Tick { probe, transition }
    }

    /// When [`Detector::tick`] is to be called next; `None` while there is no tunnel.
    pub fn due(&self, now: Instant) -> Option<Instant> {
        if !self.tunnel {
            return None;
        }
        let probe = self.probe_due().unwrap_or(now);
        let verdict = match self.state {
            State::Up => self.owed_since.map(|since| since + self.overdue_after()),
            State::Suspect => self.down_at(),
            State::Down => None,
        };
        Some(verdict.map_or(probe, |verdict| verdict.min(probe)))
    }

    /// When the next probe is to go out; `None`: at once.
    ///
    /// Whatever is owed for the time of a busy probe is asked for again, before it is overdue: so one lost datagram on
    /// an idle link makes nobody suspect.
    fn probe_due(&self) -> Option<Instant> {
        if self.doubted.is_some() {
            return Some(self.probed_at? + PROBE_DOUBT);
        }
        let busy = self.outstanding || self.owed_since.is_some() || self.state != State::Up;
        Some(self.probed_at? + if busy { self.probe_busy() } else { PROBE_IDLE })
    }

    fn probe_busy(&self) -> Duration {
        (self.rtt * 2 / 5).clamp(PROBE_BUSY, PROBE_BUSY_MAX)
    }

    /// After how much silence an answer is overdue.
    fn overdue_after(&self) -> Duration {
        if self.doubted.is_some() {
            return self.overdue_at_most();
        }
        let usual = self.rtt + (self.rtt / 2).max(self.variation * 4);
        usual.max(SUSPECT_AFTER).min(self.overdue_at_most())
    }

    /// However much round trips vary, or one was measured wrong; and in doubt, where the third of three probes must have
    /// had its time.
    fn overdue_at_most(&self) -> Duration {
        SUSPECT_AFTER_AT_MOST.max(self.rtt * 2)
    }

    /// When silence, if it goes on, means that the peer is down; `None` before enough probes went out.
    fn down_at(&self) -> Option<Instant> {
        if self.doubted.is_some() {
            let enough = self.probes >= DOUBT_PROBES;
            return self.owed_since.filter(|_| enough).map(|since| since + self.overdue_after());
        }
        let unanswered = self.decisive_probe? + self.overdue_after();
        Some(unanswered.max(self.owed_since? + DOWN_AFTER))
    }

    /// Takes the time in which we could not have heard off the silence.
    fn forgive(&mut self, late: Duration, now: Instant) {
        for start in [&mut self.owed_since, &mut self.decisive_probe].into_iter().flatten() {
            *start = (*start + late).min(now);
        }
    }

    fn judge(&mut self, now: Instant) -> Option<Transition> {
        let since = self.owed_since?;
        let silence = now.saturating_duration_since(since);
        let to = if self.down_at().is_some_and(|at| at <= now) {
            State::Down
        } else if silence >= self.overdue_after() && self.state == State::Up {
            State::Suspect
        } else {
            return None;
        };
        let probes = self.probes;
        self.enter(to, now, || Reason::Silent { silence, probes })
    }

    fn alive(&mut self, now: Instant, reason: Reason) -> Option<Transition> {
        // The tunnels of a peer that is down have been closed: what they still say is from before. Another one tells.
        if self.state == State::Down && reason == Reason::Heard {
            return None;
        }
        self.settle();
        self.enter(State::Up, now, || reason)
    }

    /// Nothing is owed: not even by requests that go on, until the next tick says so.
    fn settle(&mut self) {
        self.owed_since = None;
        self.probes = 0;
        self.decisive_probe = None;
        self.doubted = None;
    }

    fn enter(&mut self, to: State, now: Instant, reason: impl FnOnce() -> Reason) -> Option<Transition> {
        let from = std::mem::replace(&mut self.state, to);
        if from == to {
            return None;
        }
        self.since = now;
        Some(Transition { from, to, at: now, reason: reason() })
    }
}

#[cfg(test)]
mod tests;
