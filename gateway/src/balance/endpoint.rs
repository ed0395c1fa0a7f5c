//! What is known of one endpoint from the requests sent to it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use registry::model::HostPort;

/// How long an endpoint that refused a connect is skipped, in microseconds.
pub const SKIP_REFUSED_MICROS: u64 = 1_000_000;

/// The time in which the weight of a latency sample falls to 1/e, in microseconds.
const DECAY_MICROS: f64 = 10_000_000.0;

/// The least latency that a failed request counts as, in microseconds. Failing is often fast; without a price an
/// endpoint that fails everything would look like the best one and draw all requests to itself.
pub(super) const FAILED_MICROS: f64 = 100_000.0;

/// An endpoint's measures. Counts are exact; of two latency samples that end at the same instant one may be lost, which
/// an average does not notice.
#[derive(Debug)]
pub struct EndpointState {
    id: String,
    address: HostPort,
    in_flight: AtomicU32,
    /// Peak EWMA of the latency in microseconds, as the bits of an `f64`; zero: never measured.
    latency: AtomicU64,
    /// When `latency` was true.
    measured_at: AtomicU64,
    refused_until: AtomicU64,
}

impl EndpointState {
    pub(super) fn new(id: String, address: HostPort) -> Self {
        Self {
            id,
            address,
            in_flight: AtomicU32::new(0),
            latency: AtomicU64::new(0),
            measured_at: AtomicU64::new(0),
            refused_until: AtomicU64::new(0),
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

    /// Whether it may be picked: it refused no connect within the last second.
    pub fn ready(&self, now: u64) -> bool {
        now >= self.refused_until.load(Relaxed)
    }

    /// A connect to it was refused or timed out: it is skipped for a second.
    pub fn refused(&self, now: u64) {
        self.refused_until.fetch_max(now.saturating_add(SKIP_REFUSED_MICROS), Relaxed);
    }

    /// A connect to it was accepted. After a refusal that is another process than before: what was measured of the
    /// one that died counts no more.
    pub fn connected(&self) {
        // The load keeps the line shared between cores, since this is the answer nearly always.
        if self.refused_until.load(Relaxed) != 0 {
            self.refused_until.store(0, Relaxed);
            self.latency.store(0, Relaxed);
        }
    }

    /// Counts a request as in flight until the guard is dropped.
    pub fn start(self: &Arc<Self>, now: u64) -> InFlight {
        self.in_flight.fetch_add(1, Relaxed);
        InFlight { endpoint: self.clone(), started: now }
    }

    /// Expected latency in microseconds: the last peak, fading towards later samples, and towards nothing while there
    /// are none, so that an endpoint with a bad past is tried again. `None`: never measured.
    pub fn latency_micros(&self, now: u64) -> Option<f64> {
        let latency = f64::from_bits(self.latency.load(Relaxed));
        (latency > 0.0).then(|| latency * self.faded(now))
    }

    /// What is left at `now` of a sample's weight.
    fn faded(&self, now: u64) -> f64 {
        let age = now.saturating_sub(self.measured_at.load(Relaxed));
        (-(age as f64) / DECAY_MICROS).exp()
    }

    /// Peak EWMA: what is slower than expected counts at once, what is faster by and by.
    fn observe(&self, sample: f64, now: u64) {
        let sample = sample.max(1.0);
        let old = f64::from_bits(self.latency.load(Relaxed));
        let faded = self.faded(now);
        let mean = if sample >= old { sample } else { old * faded + sample * (1.0 - faded) };
        self.latency.store(mean.to_bits(), Relaxed);
        self.measured_at.store(now, Relaxed);
    }
}

/// A request in flight at an endpoint; dropped when the whole answer is through, or given up.
#[derive(Debug)]
pub struct InFlight {
    endpoint: Arc<EndpointState>,
    started: u64,
}

impl InFlight {
    /// The endpoint that holds the request.
    pub fn endpoint(&self) -> &Arc<EndpointState> {
        &self.endpoint
    }

    /// The head of an answer came: its latency counts.
    pub fn answered(&self, now: u64) {
        self.endpoint.observe(now.saturating_sub(self.started) as f64, now);
    }

    /// The request failed at the endpoint (cut, timed out, answered with a 5xx): counts as slow, however fast it was.
    pub fn failed(&self, now: u64) {
        self.endpoint.observe((now.saturating_sub(self.started) as f64).max(FAILED_MICROS), now);
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.endpoint.in_flight.fetch_sub(1, Relaxed);
    }
}
