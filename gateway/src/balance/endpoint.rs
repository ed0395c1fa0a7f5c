//! Whether an endpoint takes requests: the one place that decides it, from what its checks and its requests tell.
//!
//! ```text
//!            rise passes            refused connect: a second
//!   waiting ------------> open <----------------------------------> blocked, nothing is sent
//!                         |  ^  5 failures: 5 s, doubled up to 60 s
//!             fall fails  |  +------------------------------------> blocked, a last choice
//!                         v                                           | the time is over: one request probes
//!                      failing                                        v fails: blocked again, succeeds: open
//! ```
//!
//! What checks say and what requests tell are two locks on one door: both must be open. An endpoint that opens starts
//! slowly. Everything is atomics, for the workers; checks come from one checker.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed};

use registry::model::HostPort;

use super::latency::Latency;

/// How long an endpoint that refused a connect is skipped, in microseconds. Short and never longer: asking again costs
/// a packet, and a request that is refused goes on to another endpoint unharmed.
pub const SKIP_REFUSED_MICROS: u64 = 1_000_000;
/// A connect that failed after so long was not refused but unanswered, which costs a request its time: such an endpoint
/// is asked again ever more rarely.
const SLOW_CONNECT_MICROS: u64 = 500_000;
/// Requests that must fail in a row before an endpoint is ejected.
const FAILURES_TO_EJECT: u32 = 5;
/// How long the first ejection lasts, in microseconds; each further one is twice as long.
const EJECTED_MICROS: u64 = 5_000_000;
/// The longest ejection; and the time without one after which the next counts as the first again.
const EJECTED_MICROS_MAX: u64 = 60_000_000;
/// A probe that has told nothing for so long (its caller left, it still runs) makes room for another.
const PROBE_MICROS: u64 = 10_000_000;
/// The time in which the share of an endpoint that opens grows to the whole.
const WARM_UP_MICROS: u64 = 10_000_000;
/// The whole share of requests, see [`EndpointState::share`]; an endpoint that opens starts at a tenth of it.
pub(super) const WHOLE_SHARE: u32 = 1 << 16;

/// The least latency that a failed request counts as, in microseconds. Failing is often fast; without a price an
/// endpoint that fails everything would look like the best one and draw all requests to itself.
pub(super) const FAILED_MICROS: f64 = 100_000.0;

/// Whether an endpoint may be picked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It takes requests, or the one request that probes it.
    Ready,
    /// It fails, or is being probed: better than nothing.
    LastChoice,
    /// It fails its checks, has not passed them yet, or refuses connections.
    Out,
}

/// That an endpoint was taken into use, or out of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "every change of health leaves an audit line"]
pub struct Change {
    /// Whether it takes requests now.
    pub ready: bool,
    /// Why.
    pub cause: Cause,
}

/// Why an endpoint was taken into use, or out of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// So many checks in a row passed.
    ChecksPassed(u32),
    /// So many checks in a row failed.
    ChecksFailed(u32),
    /// A connect was refused or unanswered.
    ConnectRefused,
    /// A connect was accepted again.
    Connected,
    /// So many requests in a row were cut or answered 502, 503 or 504.
    RequestsFailed(u32),
    /// The request that probed it was answered.
    ProbeAnswered,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ChecksPassed(n) => write!(f, "{n} checks in a row passed"),
            Self::ChecksFailed(n) => write!(f, "{n} checks in a row failed"),
            Self::ConnectRefused => f.write_str("it cannot be connected to"),
            Self::Connected => f.write_str("it can be connected to again"),
            Self::RequestsFailed(n) => write!(f, "{n} requests in a row failed"),
            Self::ProbeAnswered => f.write_str("a probing request was answered"),
        }
    }
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

/// What requests told: no more of them until a time, then one that probes. One word, so that workers agree on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Block {
    until: u64,
    /// A request probes it; at `until` another may.
    probing: bool,
    /// It fails what it is sent; else it refuses connections.
    failing: bool,
}

impl Block {
    /// The word for "not blocked".
    const NONE: u64 = 0;

    fn unpack(word: u64) -> Option<Self> {
        (word != Self::NONE).then_some(Self {
            until: word >> 3,
            probing: word & 2 != 0,
            failing: word & 4 != 0,
        })
    }

    fn pack(self) -> u64 {
        self.until << 3 | u64::from(self.failing) << 2 | u64::from(self.probing) << 1 | 1
    }
}

/// A wait that grows with its number.
#[derive(Clone, Copy, Debug)]
struct Wait {
    micros: u64,
    number: u32,
}

/// An endpoint's health and measures. Counts are exact.
#[derive(Debug)]
pub struct EndpointState {
    id: Arc<str>,
    address: HostPort,
    in_flight: AtomicU32,
    latency: Latency,
    /// A [`Block`], packed.
    block: AtomicU64,
    /// A [`Verdict`].
    verdict: AtomicU8,
    /// Checks in a row against the verdict.
    streak: AtomicU32,
    /// Requests in a row that failed.
    failures: AtomicU32,
    /// Waits that grew, since it was last calm.
    waits: AtomicU32,
    /// When it opened; zero: it was there from the start.
    opened_at: AtomicU64,
}

impl EndpointState {
    /// With `checked` it waits for its checks. Otherwise it takes requests at once, slowly from `opened_at` on.
    pub(super) fn new(id: Arc<str>, address: HostPort, checked: bool, opened_at: u64) -> Self {
        let verdict = if checked { Verdict::Waiting } else { Verdict::Unchecked };
        Self {
            id,
            address,
            in_flight: AtomicU32::new(0),
            latency: Latency::default(),
            block: AtomicU64::new(Block::NONE),
            verdict: AtomicU8::new(verdict as u8),
            streak: AtomicU32::new(0),
            failures: AtomicU32::new(0),
            waits: AtomicU32::new(0),
            opened_at: AtomicU64::new(opened_at),
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

    /// Requests it holds now.
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Relaxed)
    }

    /// Expected latency in microseconds; `None`: never measured.
    pub fn latency_micros(&self, now: u64) -> Option<f64> {
        self.latency.expected(now)
    }

    /// Whether it may be picked.
    pub fn standing(&self, now: u64) -> Standing {
        if !self.verdict().passes() {
            return Standing::Out;
        }
        match self.block() {
            None => Standing::Ready,
            Some(block) if now >= block.until => Standing::Ready,
            Some(Block { failing: false, probing: false, .. }) => Standing::Out,
            Some(_) => Standing::LastChoice,
        }
    }

    /// The word for status: what it is, or why it takes no requests.
    pub fn word(&self, now: u64) -> &'static str {
        match (self.verdict(), self.block()) {
            (Verdict::Waiting, _) => "checking",
            (Verdict::Failing, _) => "check-failed",
            (_, Some(Block { probing: true, .. })) => "probing",
            (_, Some(Block { failing: true, .. })) => "ejected",
            (_, Some(_)) => "refusing",
            (_, None) if self.share(now) < WHOLE_SHARE => "warming",
            (_, None) => "ready",
        }
    }

    /// How much of its usual part of the requests it shall get, of [`WHOLE_SHARE`]: it grows from a tenth while an
    /// endpoint that has opened warms up.
    pub(super) fn share(&self, now: u64) -> u32 {
        match self.opened_at.load(Relaxed) {
            0 => WHOLE_SHARE,
            opened_at => {
                let age = now.saturating_sub(opened_at).min(WARM_UP_MICROS);
                let grown = u64::from(WHOLE_SHARE) * age / WARM_UP_MICROS;
                u32::try_from(grown).unwrap_or(WHOLE_SHARE).max(WHOLE_SHARE / 10)
            }
        }
    }

    /// Whether its requests failed so that it was ejected, the probing included.
    pub(super) fn is_ejected(&self) -> bool {
        self.block().is_some_and(|block| block.failing)
    }

    /// Begins a request that was picked: counted as in flight until the guard is dropped. `None`: another request took
    /// the one place to probe it meanwhile.
    pub(super) fn begin(self: &Arc<Self>, now: u64) -> Option<InFlight> {
        let word = self.block.load(Relaxed);
        let block = Block::unpack(word);
        if let Some(block) = block.filter(|block| now >= block.until) {
            let probed = Block { until: now.saturating_add(PROBE_MICROS), probing: true, ..block };
            self.block.compare_exchange(word, probed.pack(), Relaxed, Relaxed).ok()?;
        }
        self.in_flight.fetch_add(1, Relaxed);
        Some(InFlight { endpoint: self.clone(), started: now, blocked: block.is_some() })
    }

    /// A connect to it was accepted. After a refusal that is another process than before: what was measured of the one
    /// that died counts no more.
    pub fn connected(&self, now: u64) -> Option<Change> {
        let block = self.block();
        if block.is_none_or(|block| block.failing) { None } else { self.open(now, Cause::Connected) }
    }

    /// The outcome of a check. An endpoint opens after `rise` in a row that passed, and is out after `fall` that
    /// failed. To be called by one checker at a time.
    pub fn checked(&self, passed: bool, rise: u32, fall: u32, now: u64) -> Option<Change> {
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

    /// A connect for a request that began at `started` was refused or unanswered.
    fn refused(&self, started: u64, now: u64) -> Option<Change> {
        let unanswered = now.saturating_sub(started) >= SLOW_CONNECT_MICROS;
        let (was_ready, word) = (self.in_use(), self.block.load(Relaxed));
        let (wait, until) = match Block::unpack(word) {
            // Of many that were on their way only the first makes it wait longer.
            Some(block) if !block.probing => (None, block.until.max(now.saturating_add(SKIP_REFUSED_MICROS))),
            _ if !unanswered => (None, now.saturating_add(SKIP_REFUSED_MICROS)),
            _ => {
                let wait = self.next_wait(now);
                (Some(wait), now.saturating_add(wait.micros))
            }
        };
        self.latency.forget();
        let blocked = Block { until, probing: false, failing: false };
        self.block.compare_exchange(word, blocked.pack(), Relaxed, Relaxed).ok()?;
        if let Some(wait) = wait {
            self.waits.store(wait.number, Relaxed);
        }
        was_ready.then_some(Change { ready: false, cause: Cause::ConnectRefused })
    }

    /// A request failed; `blocked`: it began while the endpoint was.
    fn failed(&self, blocked: bool, now: u64, may_eject: impl FnOnce() -> bool) -> Option<Change> {
        let word = self.block.load(Relaxed);
        let (failures, was_ready) = match Block::unpack(word) {
            None => (self.failures.fetch_add(1, Relaxed) + 1, self.in_use()),
            Some(Block { failing: true, probing: true, .. }) if blocked => (FAILURES_TO_EJECT, false),
            // Sent before it was ejected, or as a last choice: nothing new.
            Some(_) => return None,
        };
        if failures < FAILURES_TO_EJECT || (was_ready && !may_eject()) {
            return None;
        }
        let wait = self.next_wait(now);
        let ejected = Block { until: now.saturating_add(wait.micros), probing: false, failing: true };
        self.block.compare_exchange(word, ejected.pack(), Relaxed, Relaxed).ok()?;
        self.waits.store(wait.number, Relaxed);
        self.failures.store(0, Relaxed);
        // The one request that probes it must not have to wait until a bad past has faded.
        self.latency.forget();
        was_ready.then_some(Change { ready: false, cause: Cause::RequestsFailed(failures) })
    }

    /// A request was answered; `blocked`: it began while the endpoint was.
    fn answered(&self, blocked: bool, now: u64) -> Option<Change> {
        // The load keeps the line shared between cores, since this is the answer nearly always.
        if self.failures.load(Relaxed) != 0 {
            self.failures.store(0, Relaxed);
        }
        if blocked && self.is_ejected() { self.open(now, Cause::ProbeAnswered) } else { None }
    }

    /// Takes every block off; it warms up from now on.
    fn open(&self, now: u64, cause: Cause) -> Option<Change> {
        self.failures.store(0, Relaxed);
        self.latency.forget();
        self.opened_at.store(now.max(1), Relaxed);
        self.block.store(Block::NONE, Relaxed);
        self.verdict().passes().then_some(Change { ready: true, cause })
    }

    /// How long it shall wait this time: twice as long as the last, unless it was calm for long.
    fn next_wait(&self, now: u64) -> Wait {
        let open_for = now.saturating_sub(self.opened_at.load(Relaxed));
        let calm = self.block().is_none() && open_for > EJECTED_MICROS_MAX;
        let before = if calm { 0 } else { self.waits.load(Relaxed) };
        // 5, 10, 20, 40, 60 seconds.
        Wait { micros: (EJECTED_MICROS << before.min(4)).min(EJECTED_MICROS_MAX), number: before + 1 }
    }

    /// Whether it takes requests without any reservation but warming up.
    fn in_use(&self) -> bool {
        self.verdict().passes() && self.block().is_none()
    }

    fn block(&self) -> Option<Block> {
        Block::unpack(self.block.load(Relaxed))
    }

    fn verdict(&self) -> Verdict {
        Verdict::load(&self.verdict)
    }
}

/// A request in flight at an endpoint; dropped when the whole answer is through, or given up.
#[derive(Debug)]
pub struct InFlight {
    endpoint: Arc<EndpointState>,
    started: u64,
    /// The endpoint was blocked when this began: it is a probe, or was a last choice.
    blocked: bool,
}

impl InFlight {
    /// The endpoint that holds the request.
    pub fn endpoint(&self) -> &Arc<EndpointState> {
        &self.endpoint
    }

    /// The head of an answer came: its latency counts.
    pub fn answered(&self, now: u64) -> Option<Change> {
        let change = self.endpoint.answered(self.blocked, now);
        self.endpoint.latency.observe(now.saturating_sub(self.started) as f64, now);
        change
    }

    /// It was answered with an error of the endpoint's own making, such as a 500: counts as slow, however fast it was,
    /// and says nothing about the health of the endpoint.
    pub fn erred(&self, now: u64) {
        let sample = now.saturating_sub(self.started) as f64;
        self.endpoint.latency.observe(sample.max(FAILED_MICROS), now);
    }

    /// The connect for it was refused, or not answered in time.
    pub fn refused(&self, now: u64) -> Option<Change> {
        self.endpoint.refused(self.started, now)
    }

    /// It was cut, or answered 502, 503 or 504. `may_eject` is asked if that makes too many in a row.
    pub(super) fn failed(&self, now: u64, may_eject: impl FnOnce() -> bool) -> Option<Change> {
        self.erred(now);
        self.endpoint.failed(self.blocked, now, may_eject)
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.endpoint.in_flight.fetch_sub(1, Relaxed);
    }
}
