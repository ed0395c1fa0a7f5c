//! Metrics of a gateway. Labels are enums or configured names; handles are resolved when a view is built, not per
//! request.

use std::fmt::{self, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

use crate::retry::Failure;

/// Which way a request goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// From a caller here.
    Outbound,
    /// From a peer.
    Inbound,
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// A whole answer, whatever its status.
    Answered,
    /// An answer that broke off.
    Cut,
    /// The caller went away.
    Cancelled,
    /// Nothing could serve it.
    Unavailable,
    /// No such name.
    NotFound,
    /// Not granted.
    Denied,
    /// Too slow.
    Timeout,
    /// Shed.
    Overloaded,
    /// The exchange broke before an answer.
    Broken,
    /// Placed elsewhere by us than by the caller's gateway.
    Misplaced,
    /// The request itself is wrong.
    Malformed,
}

impl Outcome {
    const ALL: [Self; 11] = [
        Self::Answered,
        Self::Cut,
        Self::Cancelled,
        Self::Unavailable,
        Self::NotFound,
        Self::Denied,
        Self::Timeout,
        Self::Overloaded,
        Self::Broken,
        Self::Misplaced,
        Self::Malformed,
    ];
}

impl Outcome {
    fn as_str(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Cut => "cut",
            Self::Cancelled => "cancelled",
            Self::Unavailable => "unavailable",
            Self::NotFound => "not_found",
            Self::Denied => "denied",
            Self::Timeout => "timeout",
            Self::Overloaded => "overloaded",
            Self::Broken => "broken",
            Self::Misplaced => "misplaced",
            Self::Malformed => "malformed",
        }
    }
}

impl EncodeLabelValue for Outcome {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> fmt::Result {
        encoder.write_str(self.as_str())
    }
}

impl EncodeLabelValue for Direction {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> fmt::Result {
        encoder.write_str(match self {
            Self::Outbound => "outbound",
            Self::Inbound => "inbound",
        })
    }
}

impl EncodeLabelValue for AttemptKind {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> fmt::Result {
        encoder.write_str(match self {
            Self::First => "first",
            Self::Retry => "retry",
            Self::Hedge => "hedge",
        })
    }
}

impl From<Failure> for Outcome {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::NotSent | Failure::Connect | Failure::Unavailable | Failure::Refused => {
                Self::Unavailable
            }
            Failure::Overloaded => Self::Overloaded,
            Failure::Misplaced => Self::Misplaced,
            Failure::Denied => Self::Denied,
            Failure::Unknown => Self::NotFound,
            Failure::PeerLost | Failure::Reset => Self::Broken,
            Failure::Status(_) | Failure::GrpcUnavailable => Self::Answered,
            Failure::TooLarge => Self::Malformed,
            Failure::Deadline => Self::Timeout,
            Failure::Cancelled => Self::Cancelled,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    direction: Direction,
    service: String,
    peer: String,
    outcome: Outcome,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ServiceLabels {
    direction: Direction,
    service: String,
}

/// What an attempt was made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AttemptKind {
    /// The first.
    First,
    /// After a failure.
    Retry,
    /// Beside one at a suspect peer.
    Hedge,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AttemptLabels {
    kind: AttemptKind,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PeerLabels {
    peer: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TunnelLabels {
    peer: String,
    carrier: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct MismatchLabels {
    service: String,
    peer: String,
}

/// All metrics of a process.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    requests: Family<RequestLabels, Counter>,
    durations: Family<ServiceLabels, Histogram, fn() -> Histogram>,
    attempts: Family<AttemptLabels, Counter>,
    tunnel_up: Family<TunnelLabels, Gauge>,
    tunnel_rtt: Family<PeerLabels, Gauge<f64, AtomicU64>>,
    registry_age: Family<PeerLabels, Gauge>,
    ring_mismatch: Family<MismatchLabels, Counter>,
    ring_differs: Family<MismatchLabels, Gauge>,
}

/// The counters of one service, direction and peer, by outcome.
#[derive(Clone, Debug)]
pub struct RequestCounters {
    /// Shared: a request takes a clone along.
    outcomes: Arc<[Counter; Outcome::ALL.len()]>,
}

/// The handles of attempts, by kind.
#[derive(Clone, Debug)]
pub struct AttemptCounters {
    first: Counter,
    retry: Counter,
    hedge: Counter,
}

impl RequestCounters {
    /// Counts a request that ended.
    pub fn ended(&self, outcome: Outcome) {
        self.outcomes[outcome as usize].inc();
    }
}

impl AttemptCounters {
    /// Counts an attempt.
    pub fn made(&self, kind: AttemptKind) {
        match kind {
            AttemptKind::First => self.first.inc(),
            AttemptKind::Retry => self.retry.inc(),
            AttemptKind::Hedge => self.hedge.inc(),
        };
    }
}

fn histogram() -> Histogram {
    // 0.25 ms to 16 s, each twice the one before.
    Histogram::new(exponential_buckets(0.000_25, 2.0, 17))
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// Registers every metric.
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("ringway");
        let requests = Family::default();
        let durations = Family::new_with_constructor(histogram as fn() -> Histogram);
        let attempts = Family::default();
        let tunnel_up = Family::default();
        let tunnel_rtt = Family::default();
        let registry_age = Family::default();
        let ring_mismatch = Family::default();
        let ring_differs = Family::default();
        registry.register("requests", "Requests by how they ended", requests.clone());
        registry.register_with_unit(
            "request_duration",
            "From the head of the request to the head of the answer",
            Unit::Seconds,
            durations.clone(),
        );
        registry.register("attempts", "Attempts by what made them necessary", attempts.clone());
        registry.register("tunnel_up", "Open tunnels to a peer", tunnel_up.clone());
        registry.register_with_unit(
            "tunnel_rtt",
            "Round-trip time of probes",
            Unit::Seconds,
            tunnel_rtt.clone(),
        );
        registry.register_with_unit(
            "registry_age",
            "Since the last word of a peer's registry",
            Unit::Seconds,
            registry_age.clone(),
        );
        registry.register(
            "ring_mismatch",
            "Requests that a peer placed by another ring or generation than ours",
            ring_mismatch.clone(),
        );
        registry.register(
            "ring_differs",
            "Services that a peer places by another ring than ours: 1",
            ring_differs.clone(),
        );
        Self {
            registry,
            requests,
            durations,
            attempts,
            tunnel_up,
            tunnel_rtt,
            registry_age,
            ring_mismatch,
            ring_differs,
        }
    }

    /// The counters of requests of `service` that `peer` answers or asks; an empty peer: nobody did.
    pub fn requests(&self, direction: Direction, service: &str, peer: &str) -> RequestCounters {
        let outcomes = Outcome::ALL.map(|outcome| {
            let labels = RequestLabels { direction, service: service.into(), peer: peer.into(), outcome };
            self.requests.get_or_create(&labels).clone()
        });
        RequestCounters { outcomes: Arc::new(outcomes) }
    }

    /// The histogram of a service's durations.
    pub fn durations(&self, direction: Direction, service: &str) -> Histogram {
        self.durations.get_or_create(&ServiceLabels { direction, service: service.into() }).clone()
    }

    /// The counters of attempts.
    pub fn attempts(&self) -> AttemptCounters {
        let of = |kind| self.attempts.get_or_create(&AttemptLabels { kind }).clone();
        AttemptCounters {
            first: of(AttemptKind::First),
            retry: of(AttemptKind::Retry),
            hedge: of(AttemptKind::Hedge),
        }
    }

    /// Sets what is known of a peer when somebody looks.
    pub fn set_peer(
        &self,
        peer: &str,
        tunnels: i64,
        rtt_seconds: Option<f64>,
        registry_age_seconds: Option<i64>,
    ) {
        self.tunnel_up.get_or_create(&TunnelLabels { peer: peer.into(), carrier: "quic" }).set(tunnels);
        let labels = PeerLabels { peer: peer.into() };
        if let Some(rtt) = rtt_seconds {
            self.tunnel_rtt.get_or_create(&labels).set(rtt);
        }
        if let Some(age) = registry_age_seconds {
            self.registry_age.get_or_create(&labels).set(age);
        }
    }

    /// Shows nothing more of a peer whose link was removed; what was counted of it stays.
    pub fn forget_peer(&self, peer: &str) {
        self.tunnel_up.remove(&TunnelLabels { peer: peer.into(), carrier: "quic" });
        self.tunnel_rtt.remove(&PeerLabels { peer: peer.into() });
        self.registry_age.remove(&PeerLabels { peer: peer.into() });
    }

    /// Counts a request that was served although the peer placed it by another contract.
    pub fn mismatch(&self, service: &dyn fmt::Display, peer: &str) {
        self.ring_mismatch
            .get_or_create(&MismatchLabels { service: service.to_string(), peer: peer.into() })
            .inc();
    }

    /// Shows which services are placed by another ring at which peers.
    pub fn set_rings_differing<'a>(
        &self,
        differing: impl Iterator<Item = (&'a registry::model::ServiceName, &'a str)>,
    ) {
        self.ring_differs.clear();
        for (service, peer) in differing {
            let labels = MismatchLabels { service: service.to_string(), peer: peer.into() };
            self.ring_differs.get_or_create(&labels).set(1);
        }
    }

    /// The text that Prometheus scrapes (OpenMetrics 1.0).
    ///
    /// # Errors
    /// Never in practice: writing to a string does not fail.
    pub fn encode(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

/// How many of something are under way, with the guard that counts one.
#[derive(Debug, Default)]
pub struct InProgress(AtomicU64);

impl InProgress {
    /// Counts one more until the guard is dropped; `None` when there are `max` already.
    pub fn enter(self: &std::sync::Arc<Self>, max: u64) -> Option<InProgressGuard> {
        let before = self.0.fetch_add(1, Ordering::Relaxed);
        let guard = InProgressGuard(self.clone());
        (before < max).then_some(guard)
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// One of those under way.
#[derive(Debug)]
pub struct InProgressGuard(Arc<InProgress>);

impl Drop for InProgressGuard {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}
