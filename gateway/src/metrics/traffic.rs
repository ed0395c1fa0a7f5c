//! What requests count, and how it is shown.

use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZeroU8;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Unit;

use super::cells::Cells;
use crate::retry::Failure;

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

/// The counters of one service, direction and peer, by outcome.
#[derive(Clone, Debug)]
pub struct RequestCounters(Arc<Outcomes>);

/// How long the answers of one service and direction take.
#[derive(Clone, Debug)]
pub struct Durations(Arc<Buckets>);

/// The counters of attempts, by kind.
#[derive(Clone, Debug)]
pub struct AttemptCounters(Arc<Cells<{ AttemptKind::ALL.len() }>>);

impl RequestCounters {
    /// Counts a request that ended.
    pub fn ended(&self, outcome: Outcome) {
        self.0.add(outcome as usize, 1);
    }

    /// Requests that ended so since the start.
    pub fn count(&self, outcome: Outcome) -> u64 {
        self.0.sum()[outcome as usize]
    }
}

impl Durations {
    /// Counts an answer that took so long.
    pub fn observe(&self, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.0.add(bucket(micros), 1);
        self.0.add(SUM_MICROS, micros);
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

/// Direction, service and peer; an empty peer: nobody.
type RequestsOf = (Direction, Box<str>, Box<str>);
/// Direction and service.
type DurationsOf = (Direction, Box<str>);

/// Everything that requests count. Its locks are taken when a view is built and when somebody looks, never by requests.
#[derive(Debug)]
pub(super) struct Traffic {
    workers: NonZeroU8,
    requests: Mutex<BTreeMap<RequestsOf, Arc<Outcomes>>>,
    durations: Mutex<BTreeMap<DurationsOf, Arc<Buckets>>>,
    attempts: AttemptCounters,
}

/// A lock whose holder panicked still guards maps that are whole at any time.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether something still counts: what is left to be forgotten is not shown.
fn is_used<T>(counted: &Arc<T>) -> bool {
    Arc::strong_count(counted) > 1
}

impl Traffic {
    pub(super) fn new(workers: NonZeroU8) -> Self {
        Self {
            workers,
            requests: Mutex::default(),
            durations: Mutex::default(),
            attempts: AttemptCounters(Arc::new(Cells::new(workers))),
        }
    }

    pub(super) fn requests(&self, direction: Direction, service: &str, peer: &str) -> RequestCounters {
        let mut requests = lock(&self.requests);
        let counters = requests.entry((direction, service.into(), peer.into()));
        RequestCounters(counters.or_insert_with(|| Arc::new(Cells::new(self.workers))).clone())
    }

    pub(super) fn durations(&self, direction: Direction, service: &str) -> Durations {
        let mut durations = lock(&self.durations);
        let buckets = durations.entry((direction, service.into()));
        Durations(buckets.or_insert_with(|| Arc::new(Cells::new(self.workers))).clone())
    }

    pub(super) fn attempts(&self) -> AttemptCounters {
        self.attempts.clone()
    }

    pub(super) fn forget_unused(&self) {
        lock(&self.requests).retain(|_, counters| is_used(counters));
        lock(&self.durations).retain(|_, buckets| is_used(buckets));
    }

    fn encode_requests(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let help = "Requests by how they ended";
        let mut family = encoder.encode_descriptor("requests", help, None, MetricType::Counter)?;
        for ((direction, service, peer), counters) in lock(&self.requests).iter().filter(|(_, c)| is_used(c))
        {
            for (outcome, count) in Outcome::ALL.into_iter().zip(counters.sum()) {
                // Thousands of services times all outcomes would be mostly zeros.
                if count == 0 && outcome != Outcome::Answered {
                    continue;
                }
                let labels = [
                    ("direction", direction.as_str()),
                    ("service", service),
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
        for ((direction, service), buckets) in lock(&self.durations).iter().filter(|(_, b)| is_used(b)) {
            let counts = buckets.sum();
            let bound = |at: usize| match at {
                LONGER => f64::INFINITY,
                at => (SMALLEST_BUCKET_MICROS << at) as f64 / 1e6,
            };
            let shown: [(f64, u64); BUCKETS + 1] = std::array::from_fn(|at| (bound(at), counts[at]));
            let count = shown.iter().map(|(_, count)| count).sum();
            let seconds = counts[SUM_MICROS] as f64 / 1e6;
            let labels = [("direction", direction.as_str()), ("service", service)];
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

    #[test]
    fn what_was_counted_is_shown() {
        let metrics = Metrics::new(NonZeroU8::MIN);
        let counters = metrics.requests(Direction::Outbound, "shop/cart", "east");
        counters.ended(Outcome::Answered);
        metrics.requests(Direction::Outbound, "shop/cart", "east").ended(Outcome::Timeout);
        let durations = metrics.durations(Direction::Outbound, "shop/cart");
        durations.observe(Duration::from_micros(300));
        durations.observe(Duration::from_secs(20));
        metrics.attempts().made(AttemptKind::Hedge);
        let text = metrics.encode().unwrap_or_default();
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
    fn what_nothing_counts_for_is_forgotten() {
        let metrics = Metrics::new(NonZeroU8::MIN);
        let kept = metrics.requests(Direction::Inbound, "shop/kept", "east");
        drop(metrics.requests(Direction::Inbound, "shop/gone", "east"));
        kept.ended(Outcome::Answered);
        let text = metrics.encode().unwrap_or_default();
        metrics.forget_unused();
        assert_eq!(lock(&metrics.traffic.requests).len(), 1);
        assert!(text.contains("shop/kept") && !text.contains("shop/gone"), "{text}");
    }
}
