//! Whether an endpoint takes requests: the one place that decides it. An endpoint is eligible only if its active health
//! checks (if any) and passive outlier detection ([`super::outlier`]) both allow it. What checks say is the operator's
//! word; what requests tell only orders endpoints and shifts load.
//!
//! Everything is atomics, for the workers; checks come from one checker. An endpoint that comes back starts slowly.

mod change;
mod in_flight;

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed};

use registry::base::time::{AtomicTick, Tick};
use registry::model::{HostPort, Protocol};

use super::latency::Latency;
use super::outlier::{
    EJECTED_MICROS_MAX, Ejection, FAILURES_TO_EJECT, PROBE_MICROS, Phase, SILENT_LATENCIES, SILENT_MICROS,
    SILENT_WAITING, Sign, ejected_for,
};

pub use change::{Cause, Change};
pub use in_flight::{Connecting, InFlight};

/// The time in which the share of an endpoint that opens grows to the whole.
const WARM_UP_MICROS: u64 = 10_000_000;
/// The whole share of requests, see [`EndpointState::share`]; an endpoint that opens starts at a tenth of it.
pub(super) const WHOLE_SHARE: u32 = 1 << 16;

/// Requests of this process that may wait for a connection to an endpoint that accepts none: more would only wait, and
/// fill its accept queue again once it does.
const CONNECTING_MAX: u32 = 256;
/// ... and to one that does: what it accepts so slowly it cannot serve either, and each takes a descriptor.
const CONNECTING_MOST: u32 = 16_384;
/// An endpoint that has accepted none of those that wait for so long accepts none, in microseconds.
const ACCEPTS_MICROS: u64 = 100_000;
/// While one accepts none, and many wait, a connection is tried so often, in microseconds: that is how it is found out.
const TRY_MICROS: u64 = 10_000;

/// The least latency that a failed request counts as, in microseconds. Failing is often fast; without a price an
/// endpoint that fails everything would look like the best one and draw all requests to itself.
pub(super) const FAILED_MICROS: f64 = 100_000.0;

/// Whether an endpoint may be picked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Eligibility {
    /// It takes requests, or the one request that probes it.
    Eligible,
    /// Outlier detection has taken it out: asked behind all others.
    Ejected,
    /// It fails its health checks, or has not passed them yet.
    Unhealthy,
}

/// What checks say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Verdict {
    /// None are declared, or they were only just: as good as passing.
    Unchecked,
    /// Nothing yet.
    Waiting,
    Passing,
    Failing,
}

impl Verdict {
    fn load(from: &AtomicU8) -> Self {
        match from.load(Relaxed) {
            0 => Self::Unchecked,
            1 => Self::Waiting,
            2 => Self::Passing,
            _ => Self::Failing,
        }
    }

    fn passes(self) -> bool {
        matches!(self, Self::Unchecked | Self::Passing)
    }
}

/// What a background probe asks of an endpoint that is out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Probe {
    /// Whether a connection is accepted.
    Connect,
    /// Whether it answers at all.
    Answer,
}

/// An endpoint's health and measures. Counts are exact.
#[derive(Debug)]
pub struct EndpointState {
    id: Arc<str>,
    address: HostPort,
    protocol: Protocol,
    in_flight: AtomicU32,
    /// Of those in flight, the ones whose answer has not begun.
    waiting: AtomicU32,
    /// Since when nothing was answered while something waits.
    silent_since: AtomicTick,
    /// Requests that wait for a connection to it.
    connecting: AtomicU32,
    /// When one of them last began to.
    connect_began_at: AtomicTick,
    /// Since when none that waits was accepted.
    unaccepted_since: AtomicTick,
    latency: Latency,
    /// An [`Ejection`], packed.
    ejection: AtomicU64,
    /// When it was last asked while it was out, or became so.
    asked_at: AtomicTick,
    /// A background probe looks after it.
    probed: AtomicBool,
    /// A [`Verdict`].
    verdict: AtomicU8,
    /// Checks in a row against the verdict.
    streak: AtomicU32,
    /// Requests in a row that failed.
    failures: AtomicU32,
    /// Ejections that grew, since it was last calm.
    ejections: AtomicU32,
    /// When it opened; zero: it was there from the start.
    opened_at: AtomicTick,
}

impl EndpointState {
    /// With `checked` it waits for its checks. Otherwise it takes requests at once, slowly from `opened_at` on.
    pub(super) fn new(
        id: Arc<str>,
        address: HostPort,
        protocol: Protocol,
        checked: bool,
        opened_at: Tick,
    ) -> Self {
        let verdict = if checked { Verdict::Waiting } else { Verdict::Unchecked };
        Self {
            id,
            address,
            protocol,
            in_flight: AtomicU32::new(0),
            waiting: AtomicU32::new(0),
            silent_since: AtomicTick::default(),
            connecting: AtomicU32::new(0),
            connect_began_at: AtomicTick::default(),
            unaccepted_since: AtomicTick::default(),
            latency: Latency::default(),
            ejection: AtomicU64::new(Ejection::NONE),
            asked_at: AtomicTick::default(),
            probed: AtomicBool::new(false),
            verdict: AtomicU8::new(verdict as u8),
            streak: AtomicU32::new(0),
            failures: AtomicU32::new(0),
            ejections: AtomicU32::new(0),
            opened_at: AtomicTick::new(opened_at),
        }
    }

    /// Its id, unique in the service.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Where it listens.
    pub fn address(&self) -> &HostPort {
        &self.address
    }

    /// What it speaks.
    pub fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// Requests it holds now.
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Relaxed)
    }

    /// Expected latency in microseconds: what answers took, and no less than it has been silent for while requests wait.
    /// `None`: never measured.
    pub fn latency_micros(&self, now: Tick) -> Option<f64> {
        match (self.latency.expected(now), self.silence(now)) {
            (None, 0) => None,
            (expected, silence) => Some(expected.unwrap_or(0.0).max(silence as f64)),
        }
    }

    /// How long nothing was answered while something waits.
    fn silence(&self, now: Tick) -> u64 {
        if self.waiting.load(Relaxed) == 0 { 0 } else { now.since(self.silent_since.load()) }
    }

    /// Whether it may be picked.
    pub fn eligibility(&self, now: Tick) -> Eligibility {
        if !self.verdict().passes() {
            return Eligibility::Unhealthy;
        }
        match self.ejection() {
            None => Eligibility::Eligible,
            Some(ejection) if ejection.is_due(now) => Eligibility::Eligible,
            Some(_) => Eligibility::Ejected,
        }
    }

    /// The word for status: what it is, or why it takes no requests.
    pub fn word(&self, now: Tick) -> &'static str {
        match (self.verdict(), self.ejection()) {
            (Verdict::Waiting, _) => "checking",
            (Verdict::Failing, _) => "check-failed",
            (_, Some(Ejection { phase: Phase::Probing, .. })) => "probing",
            (_, Some(Ejection { sign: Sign::Unreachable, .. })) => "unreachable",
            (_, Some(Ejection { sign: Sign::Failing, .. })) => "ejected",
            (_, Some(Ejection { sign: Sign::Silent, .. })) => "silent",
            (_, None) if self.share(now) < WHOLE_SHARE => "warming",
            (_, None) => "ready",
        }
    }

    /// How much of its usual part of the requests it shall get, of [`WHOLE_SHARE`]: it grows from a tenth while an
    /// endpoint that has opened warms up.
    pub(super) fn share(&self, now: Tick) -> u32 {
        match self.opened_at.load() {
            opened_at if opened_at == Tick::ZERO => WHOLE_SHARE,
            opened_at => {
                let age = now.since(opened_at).min(WARM_UP_MICROS);
                let grown = u64::from(WHOLE_SHARE) * age / WARM_UP_MICROS;
                u32::try_from(grown).unwrap_or(WHOLE_SHARE).max(WHOLE_SHARE / 10)
            }
        }
    }

    /// When it was last asked while it was out: the one that was longest ago comes first.
    pub(super) fn asked_at(&self) -> Tick {
        self.asked_at.load()
    }

    /// Whether so many requests wait for a connection to it that no more should.
    pub fn is_crowded(&self, now: Tick) -> bool {
        let connecting = self.connecting.load(Relaxed);
        let ago = |at: &AtomicTick| now.since(at.load());
        connecting >= CONNECTING_MAX
            && (connecting >= CONNECTING_MOST
                || (ago(&self.unaccepted_since) > ACCEPTS_MICROS && ago(&self.connect_began_at) < TRY_MICROS))
    }

    /// A request needs a connection: counted until the guard is dropped.
    pub fn connecting(self: &Arc<Self>, now: Tick) -> Connecting {
        if self.connecting.fetch_add(1, Relaxed) == 0 {
            self.unaccepted_since.store(now);
        }
        self.connect_began_at.store(now);
        Connecting(self.clone())
    }

    /// Begins a request that was picked: counted as in flight until the guard is dropped.
    pub(super) fn begin(self: &Arc<Self>, now: Tick) -> Begun {
        let word = self.ejection.load(Relaxed);
        let ejection = Ejection::unpack(word);
        match ejection {
            Some(due) if due.is_due(now) => {
                let until = now.after(PROBE_MICROS);
                let probed = Ejection { phase: Phase::Probing, until, ..due };
                if self.ejection.compare_exchange(word, probed.pack(), Relaxed, Relaxed).is_err() {
                    return Begun::Elsewhere(None);
                }
            }
            Some(_) => self.asked_at.store(now),
            None => {
                let waiting = self.waiting.load(Relaxed);
                if waiting >= SILENT_WAITING && self.is_silent(now) {
                    let cause = Cause::NothingAnswered(waiting);
                    return Begun::Elsewhere(self.eject(word, Sign::Silent, cause, now));
                }
            }
        }
        self.in_flight.fetch_add(1, Relaxed);
        if self.waiting.fetch_add(1, Relaxed) == 0 {
            self.silent_since.store(now);
        }
        let (out, waits) = (ejection.is_some(), Cell::new(true));
        Begun::Here(InFlight { endpoint: self.clone(), started: now, out, waits, over: Cell::new(false) })
    }

    /// Whether nothing was answered for so long that nothing will be.
    fn is_silent(&self, now: Tick) -> bool {
        let usual = self.latency.usual() * SILENT_LATENCIES;
        self.silence(now) as f64 >= usual.max(SILENT_MICROS as f64)
    }

    /// A connect to it was accepted. After a refusal that is another process than before: what was measured of the one
    /// that died counts no more.
    pub fn connected(&self, now: Tick) -> Option<Change> {
        self.unaccepted_since.store(now);
        let unreachable = self.ejection().is_some_and(|ejection| ejection.sign == Sign::Unreachable);
        if unreachable { self.open(now, Cause::Connected) } else { None }
    }

    /// It gave a sign of life: if it was silent, a request may probe it.
    pub fn lives(&self, now: Tick) {
        let word = self.ejection.load(Relaxed);
        let Some(ejection @ Ejection { sign: Sign::Silent, phase: Phase::Out, until }) =
            Ejection::unpack(word)
        else {
            return;
        };
        if now >= until {
            let due = Ejection { phase: Phase::Due, ..ejection };
            // Else somebody knows better.
            let _ = self.ejection.compare_exchange(word, due.pack(), Relaxed, Relaxed);
        }
    }

    /// What a background probe is to ask now, and how long it may wait with it at the least, in microseconds; `None`:
    /// nothing any more.
    pub fn probe(&self, now: Tick) -> Option<(Probe, u64)> {
        match self.ejection()? {
            Ejection { sign: Sign::Unreachable, .. } => Some((Probe::Connect, 0)),
            Ejection { sign: Sign::Silent, phase: Phase::Out, until } => {
                Some((Probe::Answer, until.since(now)))
            }
            Ejection { sign: Sign::Silent, phase: Phase::Probing, until } => {
                Some((Probe::Answer, until.since(now)))
            }
            _ => None,
        }
    }

    /// Whether a background probe should begin to look after it: true once, until [`EndpointState::unprobed`].
    pub fn claim_probe(&self, now: Tick) -> bool {
        self.probe(now).is_some() && !self.probed.swap(true, Relaxed)
    }

    /// The background probe has ended.
    pub fn unprobed(&self) {
        self.probed.store(false, Relaxed);
    }

    /// The outcome of a check. An endpoint opens after `rise` in a row that passed, and is out after `fall` that
    /// failed. To be called by one checker at a time.
    pub fn checked(&self, passed: bool, rise: u32, fall: u32, now: Tick) -> Option<Change> {
        let verdict = self.verdict();
        if passed == verdict.passes() {
            self.streak.store(0, Relaxed);
            // It was connected to; a word of failing requests is left to requests.
            if passed {
                self.verdict.store(Verdict::Passing as u8, Relaxed);
                return self.connected(now);
            }
            self.verdict.store(Verdict::Failing as u8, Relaxed);
            return None;
        }
        let streak = self.streak.load(Relaxed) + 1;
        self.streak.store(streak, Relaxed);
        if streak < if passed { rise } else { fall } {
            return None;
        }
        self.streak.store(0, Relaxed);
        let was_ready = self.in_use();
        if passed {
            self.verdict.store(Verdict::Passing as u8, Relaxed);
            return self.open(now, Cause::ChecksPassed(streak));
        }
        self.verdict.store(Verdict::Failing as u8, Relaxed);
        was_ready.then_some(Change { ready: false, cause: Cause::ChecksFailed(streak) })
    }

    /// Whether it fails its checks, or has yet to pass them.
    pub fn fails_checks(&self) -> bool {
        !self.verdict().passes()
    }

    /// Whether its checks have not said anything yet.
    pub fn is_waiting(&self) -> bool {
        self.verdict() == Verdict::Waiting
    }

    /// Its checks were declared no longer, or for the first time: what they said, if anything, counts no more.
    pub(super) fn declare_checked(&self, checked: bool) {
        if !checked {
            self.verdict.store(Verdict::Unchecked as u8, Relaxed);
        }
    }

    /// A request failed with this sign; `out`: it began while the endpoint was out.
    fn failed(&self, sign: Sign, out: bool, now: Tick) -> Option<Change> {
        let word = self.ejection.load(Relaxed);
        let failures = match Ejection::unpack(word) {
            None => self.failures.fetch_add(1, Relaxed) + 1,
            Some(Ejection { phase: Phase::Probing, .. }) if out => FAILURES_TO_EJECT,
            // Sent before it was ejected, or although it was: nothing new.
            Some(_) => return None,
        };
        if failures < FAILURES_TO_EJECT {
            return None;
        }
        let cause = match sign {
            Sign::Silent => Cause::RequestsTimedOut(failures),
            _ => Cause::RequestsFailed(failures),
        };
        self.eject(word, sign, cause, now)
    }

    /// Takes it out, if `word` still holds.
    fn eject(&self, word: u64, sign: Sign, cause: Cause, now: Tick) -> Option<Change> {
        let was_ready = self.in_use();
        let grows = sign != Sign::Unreachable;
        let number = if grows { self.ejection_number(now) } else { 0 };
        let until = if grows { now.after(ejected_for(sign, number)) } else { Tick::ZERO };
        let ejected = Ejection { sign, phase: Phase::Out, until };
        self.ejection.compare_exchange(word, ejected.pack(), Relaxed, Relaxed).ok()?;
        if grows {
            self.ejections.store(number + 1, Relaxed);
        }
        self.failures.store(0, Relaxed);
        self.asked_at.store(now);
        // The one request that probes it must not have to wait until a bad past has faded.
        self.latency.forget();
        was_ready.then_some(Change { ready: false, cause })
    }

    /// The head of an answer came; `out`: its request began while the endpoint was out.
    fn answered(&self, out: bool, now: Tick) -> Option<Change> {
        self.ejection()?;
        if out {
            return self.open(now, Cause::ProbeAnswered);
        }
        // A late one is a sign of life.
        self.lives(now);
        None
    }

    /// Takes every ejection off; it warms up from now on.
    fn open(&self, now: Tick, cause: Cause) -> Option<Change> {
        self.failures.store(0, Relaxed);
        self.latency.forget();
        self.opened_at.store(now.max(Tick::at(1)));
        self.ejection.store(Ejection::NONE, Relaxed);
        self.verdict().passes().then_some(Change { ready: true, cause })
    }

    /// Which ejection the next one is, from 0: it starts anew after a long calm.
    fn ejection_number(&self, now: Tick) -> u32 {
        let open_for = now.since(self.opened_at.load());
        let calm = self.ejection().is_none() && open_for > EJECTED_MICROS_MAX;
        if calm { 0 } else { self.ejections.load(Relaxed) }
    }

    /// Whether it takes requests without any reservation but warming up.
    fn in_use(&self) -> bool {
        self.verdict().passes() && self.ejection().is_none()
    }

    fn ejection(&self) -> Option<Ejection> {
        Ejection::unpack(self.ejection.load(Relaxed))
    }

    fn verdict(&self) -> Verdict {
        Verdict::load(&self.verdict)
    }
}

/// What became of a request that was picked for an endpoint.
#[derive(Debug)]
pub(super) enum Begun {
    Here(InFlight),
    /// It is better off elsewhere; that is news of the endpoint, perhaps.
    Elsewhere(Option<Change>),
}
