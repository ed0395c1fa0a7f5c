//! What connections count that are carried as such.

use std::fmt;
use std::num::NonZeroU8;
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Unit;

use super::cells::Cells;
use super::traffic::{Direction, Lazy, Traffic};

/// Upper bounds of the buckets of durations: 1 ms, then each four times the one before, to 18 hours.
const BUCKETS: usize = 14;
const SMALLEST_BUCKET_MICROS: u64 = 1_000;
const LONGER: usize = BUCKETS;
const SUM_MICROS: usize = BUCKETS + 1;
const BEGAN: usize = BUCKETS + 2;
/// What callers sent, and what they got.
const RECEIVED_BYTES: usize = BUCKETS + 3;
const SENT_BYTES: usize = BUCKETS + 4;

pub(super) type Connections = Cells<{ BUCKETS + 5 }>;

/// The counters of the connections of one service and direction; as [`RequestCounters`](super::traffic::RequestCounters) from the
/// first one on.
#[derive(Clone, Debug)]
pub struct ConnectionCounters(Arc<Lazy<Connections>>);

/// One connection that is counted; it has ended when this is dropped.
#[derive(Debug)]
pub struct ConnectionGuard {
    counters: ConnectionCounters,
    began: tokio::time::Instant,
}

impl ConnectionCounters {
    pub(super) fn new(traffic: &Arc<Traffic>, direction: Direction, service: &Arc<str>) -> Self {
        Self(Arc::new(Lazy::new(&traffic.connections, traffic, direction, service, None)))
    }

    /// Counts a connection that an endpoint has taken.
    pub fn begin(&self) -> ConnectionGuard {
        self.cells().add(BEGAN, 1);
        ConnectionGuard { counters: self.clone(), began: tokio::time::Instant::now() }
    }

    fn cells(&self) -> &Connections {
        self.0.get(&self.0.traffic.connections)
    }
}

impl ConnectionGuard {
    /// Bytes came from the caller.
    pub fn received(&self, bytes: usize) {
        self.counters.cells().add(RECEIVED_BYTES, bytes as u64);
    }

    /// Bytes went to the caller.
    pub fn sent(&self, bytes: usize) {
        self.counters.cells().add(SENT_BYTES, bytes as u64);
    }
}

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        let micros = u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX);
        let cells = self.counters.cells();
        cells.add(bucket(micros), 1);
        cells.add(SUM_MICROS, micros);
    }
}

/// Why a datagram of a flow was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lost {
    /// As many flows as there may be.
    Flows,
    /// Nobody could take it: its flow was not placed.
    Unplaced,
    /// Too many of its flow waited.
    Queue,
    /// Too much waited for its tunnel.
    Tunnel,
    /// A socket had no room for it.
    Socket,
    /// It was too large for its way.
    Size,
}

impl Lost {
    const ALL: [Self; 6] = [Self::Flows, Self::Unplaced, Self::Queue, Self::Tunnel, Self::Socket, Self::Size];

    /// The word for metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Flows => "flows",
            Self::Unplaced => "unplaced",
            Self::Queue => "queue",
            Self::Tunnel => "tunnel",
            Self::Socket => "socket",
            Self::Size => "size",
        }
    }
}

/// The counters of datagrams that were dropped, by cause.
#[derive(Clone, Debug)]
pub struct Drops(Arc<Cells<{ Lost::ALL.len() }>>);

impl Drops {
    pub(super) fn new(workers: NonZeroU8) -> Self {
        Self(Arc::new(Cells::new(workers)))
    }

    /// Counts so many that were lost.
    pub fn count(&self, lost: Lost, datagrams: u64) {
        self.0.add(lost as usize, datagrams);
    }
}

/// The first bucket whose bound is not below `micros`.
fn bucket(micros: u64) -> usize {
    let steps = micros.div_ceil(SMALLEST_BUCKET_MICROS).max(1).next_power_of_two().trailing_zeros();
    (steps.div_ceil(2) as usize).min(LONGER)
}

fn bound(at: usize) -> f64 {
    match at {
        LONGER => f64::INFINITY,
        at => (SMALLEST_BUCKET_MICROS << (2 * at)) as f64 / 1e6,
    }
}

impl Traffic {
    pub(super) fn encode_connections(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let used = self.connections.used();
        let help = "Connections that are carried as such";
        let mut family = encoder.encode_descriptor("connections", help, None, MetricType::Gauge)?;
        for ((direction, _), service, cells) in &used {
            let counts = cells.sum();
            let ended: u64 = counts[..=LONGER].iter().sum();
            let open = i64::try_from(counts[BEGAN].saturating_sub(ended)).unwrap_or(i64::MAX);
            let labels = [("direction", direction.as_str()), ("service", service)];
            family.encode_family(&labels)?.encode_gauge(&open)?;
        }
        let help = "Bytes of connections: received from callers, sent to them";
        let bytes = Some(&Unit::Bytes);
        let mut family = encoder.encode_descriptor("connection", help, bytes, MetricType::Counter)?;
        for ((direction, _), service, cells) in &used {
            let counts = cells.sum();
            for (way, at) in [("received", RECEIVED_BYTES), ("sent", SENT_BYTES)] {
                let labels = [("direction", direction.as_str()), ("service", service), ("way", way)];
                family.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&counts[at], None)?;
            }
        }
        let help = "Datagrams that were dropped";
        let mut family = encoder.encode_descriptor("datagrams_dropped", help, None, MetricType::Counter)?;
        for (lost, count) in Lost::ALL.into_iter().zip(self.drops.0.sum()) {
            let labels = [("cause", lost.as_str())];
            family.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&count, None)?;
        }
        let help = "From the moment that an endpoint has taken a connection to its end";
        let unit = Some(&Unit::Seconds);
        let mut family =
            encoder.encode_descriptor("connection_duration", help, unit, MetricType::Histogram)?;
        for ((direction, _), service, cells) in &used {
            let counts = cells.sum();
            let shown: [(f64, u64); BUCKETS + 1] = std::array::from_fn(|at| (bound(at), counts[at]));
            let count = shown.iter().map(|(_, count)| count).sum();
            let seconds = Duration::from_micros(counts[SUM_MICROS]).as_secs_f64();
            let labels = [("direction", direction.as_str()), ("service", service)];
            family.encode_family(&labels)?.encode_histogram::<NoLabelSet>(seconds, count, &shown, None)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::Metrics;
    use super::*;

    #[test]
    fn a_duration_falls_into_the_first_bucket_that_is_not_below_it() {
        for (micros, expected) in
            [(0, 0), (1_000, 0), (1_001, 1), (4_000, 1), (4_001, 2), (16_000, 2), (16_001, 3)]
        {
            assert_eq!(bucket(micros), expected, "{micros} us");
            assert!(micros as f64 / 1e6 <= bound(expected));
        }
        assert_eq!(bucket(u64::MAX), LONGER);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_open_what_moved_and_how_long_it_took_is_shown() {
        let metrics = Metrics::new(NonZeroU8::MIN);
        let counters = metrics.connections(Direction::Outbound, &"shop/db".into());
        let (one, other) = (counters.begin(), counters.begin());
        one.received(3);
        one.sent(40);
        other.sent(2);
        tokio::time::advance(Duration::from_millis(3)).await;
        drop(one);
        let text = metrics.encode(|| {}).unwrap_or_default();
        let labels = "direction=\"outbound\",service=\"shop/db\"";
        for line in [
            format!("ringway_connections{{{labels}}} 1"),
            format!("ringway_connection_bytes_total{{{labels},way=\"received\"}} 3"),
            format!("ringway_connection_bytes_total{{{labels},way=\"sent\"}} 42"),
            format!("ringway_connection_duration_seconds_bucket{{le=\"0.001\",{labels}}} 0"),
            format!("ringway_connection_duration_seconds_bucket{{le=\"0.004\",{labels}}} 1"),
            format!("ringway_connection_duration_seconds_count{{{labels}}} 1"),
        ] {
            assert!(text.contains(&format!("{line}\n")), "no `{line}` in\n{text}");
        }
    }
}
