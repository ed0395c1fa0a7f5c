//! A request at an endpoint, from the moment it was picked: however it ends, its endpoint is told.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use registry::base::time::Tick;

use super::{Cause, Change, EndpointState, FAILED_MICROS};
use crate::balance::outlier::{Ejection, GIVEN_UP_LATENCIES, GIVEN_UP_MICROS, Phase, Sign};

/// A request that waits for a connection.
#[derive(Debug)]
pub struct Connecting(pub(super) Arc<EndpointState>);

impl Drop for Connecting {
    fn drop(&mut self) {
        self.0.connecting.fetch_sub(1, Relaxed);
    }
}

/// A request in flight at an endpoint; dropped when the whole answer is through, or given up. However it ends, one of its
/// methods is to be told.
#[derive(Debug)]
pub struct InFlight {
    pub(super) endpoint: Arc<EndpointState>,
    pub(super) started: Tick,
    /// The endpoint was out when this began: it is a probe, or was a last resort.
    pub(super) out: bool,
    /// Its answer has not begun.
    pub(super) waits: Cell<bool>,
    /// How it ended was told.
    pub(super) over: Cell<bool>,
}

impl InFlight {
    /// The endpoint that holds the request.
    pub fn endpoint(&self) -> &Arc<EndpointState> {
        &self.endpoint
    }

    /// The head of a good answer came: its latency counts.
    pub fn answered(&self, now: Tick) -> Option<Change> {
        let change = self.endpoint.answered(self.out, now);
        self.endpoint.latency.answered(now.since(self.started) as f64);
        self.head_came(now);
        self.observe(0.0, now);
        change
    }

    /// The head of an answer came that is an error of the endpoint's own making, such as a 500: counts as slow, however
    /// fast it was, and says nothing about the health of the endpoint.
    pub fn erred(&self, now: Tick) {
        self.endpoint.latency.answered(now.since(self.started) as f64);
        self.head_came(now);
        self.observe(FAILED_MICROS, now);
        self.over.set(true);
    }

    /// All of its answer is through.
    pub fn completed(&self) {
        // The load keeps the line shared between cores, since this is the answer nearly always.
        if !self.over.replace(true) && self.endpoint.failures.load(Relaxed) != 0 {
            self.endpoint.failures.store(0, Relaxed);
        }
    }

    /// It was cut, in its answer or before, or answered 502, 503 or 504.
    pub fn failed(&self, now: Tick) -> Option<Change> {
        self.over.set(true);
        self.head_came(now);
        self.observe(FAILED_MICROS, now);
        self.endpoint.failed(Sign::Failing, self.out, now)
    }

    /// It was not answered in the time that its policy gives.
    pub fn timed_out(&self, now: Tick) -> Option<Change> {
        self.over.set(true);
        self.observe(FAILED_MICROS, now);
        self.endpoint.failed(Sign::Silent, self.out, now)
    }

    /// Its caller gave it up, or another attempt was faster. That says nothing, unless it had to wait for long.
    pub fn given_up(&self, now: Tick) -> Option<Change> {
        if self.over.replace(true) || !self.waits.get() {
            return None;
        }
        let waited = now.since(self.started);
        let usual = self.endpoint.latency.usual() * GIVEN_UP_LATENCIES;
        self.observe(0.0, now);
        if waited as f64 >= usual.max(GIVEN_UP_MICROS as f64) {
            return self.endpoint.failed(Sign::Silent, self.out, now);
        }
        self.make_room();
        None
    }

    /// What ended it was none of the endpoint's doing.
    pub fn unblamed(&self) {
        self.over.set(true);
        self.make_room();
    }

    /// The connect for it was refused.
    pub fn refused(&self, now: Tick) -> Option<Change> {
        self.unreachable(Cause::ConnectRefused, now)
    }

    /// The connect for it was not answered in time.
    pub fn unanswered(&self, now: Tick) -> Option<Change> {
        self.unreachable(Cause::ConnectUnanswered, now)
    }

    fn unreachable(&self, cause: Cause, now: Tick) -> Option<Change> {
        self.over.set(true);
        let word = self.endpoint.ejection.load(Relaxed);
        self.endpoint.eject(word, Sign::Unreachable, cause, now)
    }

    /// If this was the probe, another may be.
    fn make_room(&self) {
        let word = self.endpoint.ejection.load(Relaxed);
        if let Some(probing @ Ejection { phase: Phase::Probing, .. }) = Ejection::unpack(word)
            && self.out
        {
            let due = Ejection { phase: Phase::Due, ..probing };
            let _ = self.endpoint.ejection.compare_exchange(word, due.pack(), Relaxed, Relaxed);
        }
    }

    fn observe(&self, at_least: f64, now: Tick) {
        let sample = now.since(self.started) as f64;
        self.endpoint.latency.observe(sample.max(at_least), now);
    }

    /// It waits no longer, and the endpoint is not silent.
    fn head_came(&self, now: Tick) {
        if self.waits.replace(false) {
            self.endpoint.waiting.fetch_sub(1, Relaxed);
            self.endpoint.silent_since.store(now);
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        if self.waits.get() {
            self.endpoint.waiting.fetch_sub(1, Relaxed);
        }
        self.endpoint.in_flight.fetch_sub(1, Relaxed);
    }
}
