//! What requests count, and how it is shown.

use std::fmt;
use std::num::NonZeroU8;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Unit;
use registry::model::ClusterName;

use super::cells::Cells;
use super::connections::{ConnectionCounters, Connections, Drops};
use super::series::Series;
use policy::retry::Failure;

/// Upper bounds of the buckets of durations: 0.25 ms, then each twice the one before, to 16 s.
const BUCKETS: usize = 17;
const SMALLEST_BUCKET_MICROS: u64 = 250;
/// Where longer ones are counted, and where all are added up, in microseconds.
const LONGER: usize = BUCKETS;
const SUM_MICROS: usize = BUCKETS + 1;

type Outcomes = Cells<{ Outcome::ALL.len() }>;
type Buckets = Cells<{ BUCKETS + 2 }>;

/// Which way a request goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Direction {
    /// From a caller here.
    Outbound,
    /// From a peer.
    Inbound,
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

    /// The word for metrics and logs.
    pub fn as_str(self) -> &'static str {
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

impl Direction {
    /// The word for metrics and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Outbound => "outbound",
            Self::Inbound => "inbound",
        }
    }
}

impl AttemptKind {
    const ALL: [Self; 3] = [Self::First, Self::Retry, Self::Hedge];

    /// The word for metrics and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::First => "first",
            Self::Retry => "retry",
            Self::Hedge => "hedge",
        }
    }
}

impl From<Failure> for Outcome {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::NotSent | Failure::Connect | Failure::Unavailable | Failure::Refused => {
                Self::Unavailable
            }
            Failure::Overloaded | Failure::NoRoom => Self::Overloaded,
            Failure::Misplaced => Self::Misplaced,
            Failure::Denied => Self::Denied,
            Failure::Unknown => Self::NotFound,
            Failure::PeerLost | Failure::Reset | Failure::Malformed | Failure::AnswerTooLarge => Self::Broken,
            Failure::Status(_) | Failure::GrpcUnavailable => Self::Answered,
            Failure::TooLarge => Self::Malformed,
            Failure::Deadline => Self::Timeout,
            Failure::Cancelled => Self::Cancelled,
        }
    }
}

/// The counters of one service, direction and peer, by outcome. They take room, and are shown, from the first request on: of
/// what a peer exports little is ever asked for.
#[derive(Clone, Debug)]
pub struct RequestCounters(Arc<Lazy<Outcomes>>);

/// How long the answers of one service and direction take; as [`RequestCounters`] from the first answer on.
#[derive(Clone, Debug)]
pub struct Durations(Arc<Lazy<Buckets>>);

/// What is counted under some labels, once something was.
#[derive(Debug)]
pub(super) struct Lazy<T> {
    counted: OnceLock<Arc<T>>,
    pub(super) traffic: Arc<Traffic>,
    direction: Direction,
    /// Nobody's: there is no peer.
    peer: Option<ClusterName>,
    service: Arc<str>,
}

/// The counters of attempts, by kind.
#[derive(Clone, Debug)]
pub struct AttemptCounters(Arc<Cells<{ AttemptKind::ALL.len() }>>);

impl RequestCounters {
    /// Counts a request that ended.
    pub fn ended(&self, outcome: Outcome) {
        self.0.get(&self.0.traffic.requests).add(outcome as usize, 1);
    }

    /// Requests that ended so since the start.
    pub fn count(&self, outcome: Outcome) -> u64 {
        self.0.counted.get().map_or(0, |counted| counted.sum()[outcome as usize])
    }
}

impl Durations {
    /// Counts an answer that took so long.
    pub fn observe(&self, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let counted = self.0.get(&self.0.traffic.durations);
        counted.add(bucket(micros), 1);
        counted.add(SUM_MICROS, micros);
    }
}

impl AttemptCounters {
    /// Counts an attempt.
    pub fn made(&self, kind: AttemptKind) {
        self.0.add(kind as usize, 1);
    }
}

/// The first bucket whose bound is not below `micros`.
fn bucket(micros: u64) -> usize {
    let steps = micros.div_ceil(SMALLEST_BUCKET_MICROS).max(1).next_power_of_two().trailing_zeros();
    (steps as usize).min(LONGER)
}

impl<const N: usize> Lazy<Cells<N>> {
    pub(super) fn new(
        series: &Series<Cells<N>>,
        traffic: &Arc<Traffic>,
        direction: Direction,
        service: &Arc<str>,
        peer: Option<&ClusterName>,
    ) -> Self {
        let (peer, service) = (peer.cloned(), service.clone());
        let counted =
            series.find(&(direction, peer.clone()), &service).map_or_else(OnceLock::new, OnceLock::from);
        Self { counted, traffic: traffic.clone(), direction, peer, service }
    }

    /// Without a lock, but the first time of all.
    pub(super) fn get(&self, series: &Series<Cells<N>>) -> &Cells<N> {
        self.counted.get_or_init(|| {
            let make = || Cells::new(self.traffic.workers);
            series.find_or_make(&(self.direction, self.peer.clone()), &self.service, make)
        })
    }
}

/// Everything that requests count. Its locks are taken when a view is built, when somebody looks, and by the first request
/// of a service; never for longer than a look into a map takes.
#[derive(Debug)]
pub(super) struct Traffic {
    workers: NonZeroU8,
    requests: Series<Outcomes>,
    durations: Series<Buckets>,
    pub(super) connections: Series<Connections>,
    pub(super) drops: Drops,
    attempts: AttemptCounters,
}

impl Traffic {
    pub(super) fn new(workers: NonZeroU8) -> Self {
        Self {
            workers,
            requests: Series::default(),
            durations: Series::default(),
            connections: Series::default(),
            drops: Drops::new(workers),
            attempts: AttemptCounters(Arc::new(Cells::new(workers))),
        }
    }

    pub(super) fn requests(
        self: &Arc<Self>,
        direction: Direction,
        service: &Arc<str>,
        peer: Option<&ClusterName>,
    ) -> RequestCounters {
        RequestCounters(Arc::new(Lazy::new(&self.requests, self, direction, service, peer)))
    }

    pub(super) fn durations(self: &Arc<Self>, direction: Direction, service: &Arc<str>) -> Durations {
        Durations(Arc::new(Lazy::new(&self.durations, self, direction, service, None)))
    }

    pub(super) fn connections(
        self: &Arc<Self>,
        direction: Direction,
        service: &Arc<str>,
    ) -> ConnectionCounters {
        ConnectionCounters::new(self, direction, service)
    }

    pub(super) fn attempts(&self) -> AttemptCounters {
        self.attempts.clone()
    }

    pub(super) fn forget_unused(&self) {
        self.requests.forget_unused();
        self.durations.forget_unused();
        self.connections.forget_unused();
    }

    fn encode_requests(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let help = "Requests by how they ended";
        let mut family = encoder.encode_descriptor("requests", help, None, MetricType::Counter)?;
        for ((direction, peer), service, counters) in self.requests.used() {
            let peer = peer.as_ref().map_or("", ClusterName::as_str);
            for (outcome, count) in Outcome::ALL.into_iter().zip(counters.sum()) {
                // Thousands of services times all outcomes would be mostly zeros.
                if count == 0 && outcome != Outcome::Answered {
                    continue;
                }
                let labels = [
                    ("direction", direction.as_str()),
                    ("service", &*service),
                    ("peer", peer),
                    ("outcome", outcome.as_str()),
                ];
                family.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&count, None)?;
            }
        }
        Ok(())
    }

    fn encode_durations(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let help = "From the head of the request to the head of the answer";
        let unit = Some(&Unit::Seconds);
        let mut family = encoder.encode_descriptor("request_duration", help, unit, MetricType::Histogram)?;
        for ((direction, _), service, buckets) in self.durations.used() {
            let counts = buckets.sum();
            let bound = |at: usize| match at {
                LONGER => f64::INFINITY,
                at => (SMALLEST_BUCKET_MICROS << at) as f64 / 1e6,
            };
            let shown: [(f64, u64); BUCKETS + 1] = std::array::from_fn(|at| (bound(at), counts[at]));
            let count = shown.iter().map(|(_, count)| count).sum();
            let seconds = counts[SUM_MICROS] as f64 / 1e6;
            let labels = [("direction", direction.as_str()), ("service", &*service)];
            family.encode_family(&labels)?.encode_histogram::<NoLabelSet>(seconds, count, &shown, None)?;
        }
        Ok(())
    }

    fn encode_attempts(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let help = "Attempts by what made them necessary";
        let mut family = encoder.encode_descriptor("attempts", help, None, MetricType::Counter)?;
        for (kind, count) in AttemptKind::ALL.into_iter().zip(self.attempts.0.sum()) {
            let labels = [("kind", kind.as_str())];
            family.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&count, None)?;
        }
        Ok(())
    }
}

impl Collector for Traffic {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        self.encode_requests(&mut encoder)?;
        self.encode_durations(&mut encoder)?;
        self.encode_connections(&mut encoder)?;
        self.encode_attempts(&mut encoder)
    }
}

#[cfg(test)]
mod tests {
    use super::super::Metrics;
    use super::*;

    #[test]
    fn a_duration_falls_into_the_first_bucket_that_is_not_below_it() {
        for (micros, expected) in
            [(0, 0), (1, 0), (250, 0), (251, 1), (500, 1), (501, 2), (16_384_000, 16), (16_384_001, 17)]
        {
            assert_eq!(bucket(micros), expected, "{micros} us");
        }
        assert_eq!(bucket(u64::MAX), LONGER);
    }

    fn requests(metrics: &Metrics, service: &str, peer: &str) -> RequestCounters {
        metrics.requests(Direction::Outbound, &service.into(), ClusterName::new(peer).ok().as_ref())
    }

    fn shown(metrics: &Metrics) -> String {
        metrics.encode(|| {}).unwrap_or_default()
    }

    #[test]
    fn what_was_counted_is_shown() {
        let metrics = Metrics::new(NonZeroU8::MIN);
        requests(&metrics, "shop/cart", "east").ended(Outcome::Answered);
        let kept = requests(&metrics, "shop/cart", "east");
        kept.ended(Outcome::Timeout);
        let durations = metrics.durations(Direction::Outbound, &"shop/cart".into());
        durations.observe(Duration::from_micros(300));
        durations.observe(Duration::from_secs(20));
        metrics.attempts().made(AttemptKind::Hedge);
        let text = shown(&metrics);
        let labels = "direction=\"outbound\",service=\"shop/cart\"";
        for line in [
            format!("ringway_requests_total{{{labels},peer=\"east\",outcome=\"answered\"}} 1"),
            format!("ringway_requests_total{{{labels},peer=\"east\",outcome=\"timeout\"}} 1"),
            format!("ringway_request_duration_seconds_sum{{{labels}}} 20.0003"),
            format!("ringway_request_duration_seconds_count{{{labels}}} 2"),
            format!("ringway_request_duration_seconds_bucket{{le=\"0.00025\",{labels}}} 0"),
            format!("ringway_request_duration_seconds_bucket{{le=\"0.0005\",{labels}}} 1"),
            format!("ringway_request_duration_seconds_bucket{{le=\"+Inf\",{labels}}} 2"),
            "ringway_attempts_total{kind=\"hedge\"} 1".into(),
        ] {
            assert!(text.contains(&format!("{line}\n")), "no `{line}` in\n{text}");
        }
        assert!(!text.contains("outcome=\"cut\""));
    }

    #[test]
    fn what_was_never_asked_for_takes_no_line() {
        let metrics = Metrics::new(NonZeroU8::MIN);
        let before = shown(&metrics);
        let handles: Vec<_> = (0..1000).map(|n| requests(&metrics, &format!("shop/s{n}"), "east")).collect();
        let durations = metrics.durations(Direction::Outbound, &"shop/s0".into());
        assert_eq!(shown(&metrics), before);
        assert_eq!(handles[7].count(Outcome::Answered), 0);
        handles[7].ended(Outcome::Answered);
        durations.observe(Duration::from_millis(1));
        let text = shown(&metrics);
        assert!(text.contains("service=\"shop/s7\"") && !text.contains("service=\"shop/s8\""), "{text}");
        // Another handle, as a new view makes it, counts on, and need not look for its place.
        let again = requests(&metrics, "shop/s7", "east");
        assert!(again.0.counted.get().is_some());
        again.ended(Outcome::Answered);
        assert_eq!(handles[7].count(Outcome::Answered), 2);
    }

    #[test]
    fn what_nothing_counts_for_is_forgotten() {
        let metrics = Metrics::new(NonZeroU8::MIN);
        let [kept, gone] = ["shop/kept", "shop/gone"].map(|service| requests(&metrics, service, "east"));
        kept.ended(Outcome::Answered);
        gone.ended(Outcome::Answered);
        drop(gone);
        let text = shown(&metrics);
        metrics.forget_unused();
        assert!(text.contains("shop/kept") && !text.contains("shop/gone"), "{text}");
        assert_eq!(metrics.traffic.requests.len(), 1);
    }
}
