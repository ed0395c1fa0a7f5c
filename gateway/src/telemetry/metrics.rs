//! Metrics of a gateway. Labels are enums, configured names or names that peers export; handles are resolved for each route,
//! not for each request, and what nobody has asked for takes no room.

mod cells;
mod connections;
mod series;
mod traffic;

use std::collections::HashMap;
use std::fmt;
use std::num::NonZeroU8;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};
use registry::model::{ClusterName, ServiceName};

use self::series::OTHERS;
use self::traffic::Traffic;

pub use self::connections::{ConnectionCounters, ConnectionGuard, Drops, Lost};
pub use self::traffic::{AttemptCounters, AttemptKind, Direction, Durations, Outcome, RequestCounters};

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

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct BudgetLabels {
    peer: String,
    budget: &'static str,
}
/// Services of one peer of which it is shown that their rings differ; more are counted.
const RINGS_DIFFERING_MAX: i64 = 1000;

/// All metrics of a process.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// Held while they are encoded: one after the other, as the text of each may be large.
    encoding: Mutex<()>,
    traffic: Arc<Traffic>,
    tunnel_up: Family<TunnelLabels, Gauge>,
    tunnel_rtt: Family<PeerLabels, Gauge<f64, AtomicU64>>,
    registry_age: Family<PeerLabels, Gauge>,
    registry_up: Gauge,
    ring_mismatch: Family<MismatchLabels, Counter>,
    ring_differs: Family<MismatchLabels, Gauge>,
    over_budget: Family<BudgetLabels, Counter>,
}

impl Metrics {
    /// Registers every metric; `workers` threads count.
    pub fn new(workers: NonZeroU8) -> Self {
        let mut registry = Registry::with_prefix("ringway");
        let traffic = Arc::new(Traffic::new(workers));
        let tunnel_up = Family::default();
        let tunnel_rtt = Family::default();
        let registry_age = Family::default();
        let registry_up = Gauge::default();
        let ring_mismatch = Family::default();
        let ring_differs = Family::default();
        let over_budget = Family::default();
        registry.register_collector(Box::new(traffic.clone()));
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
        registry.register("registry_up", "Whether the registry's store answers: 1", registry_up.clone());
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
        registry.register(
            "peer_over_budget",
            "How often a peer went over what it may cost",
            over_budget.clone(),
        );
        Self {
            registry,
            encoding: Mutex::default(),
            traffic,
            tunnel_up,
            tunnel_rtt,
            registry_age,
            registry_up,
            ring_mismatch,
            ring_differs,
            over_budget,
        }
    }

    /// The counters of requests of `service` that `peer` answers or asks; no peer: nobody did.
    pub fn requests(
        &self,
        direction: Direction,
        service: &Arc<str>,
        peer: Option<&ClusterName>,
    ) -> RequestCounters {
        self.traffic.requests(direction, service, peer)
    }

    /// How long the answers of a service take.
    pub fn durations(&self, direction: Direction, service: &Arc<str>) -> Durations {
        self.traffic.durations(direction, service)
    }

    /// The counters of connections of a service.
    pub fn connections(&self, direction: Direction, service: &Arc<str>) -> ConnectionCounters {
        self.traffic.connections(direction, service)
    }

    /// The counters of datagrams that are dropped.
    pub fn drops(&self) -> Drops {
        self.traffic.drops.clone()
    }

    /// The counters of attempts.
    pub fn attempts(&self) -> AttemptCounters {
        self.traffic.attempts()
    }

    /// Forgets what was counted for services and peers that nothing counts for any more.
    pub fn forget_unused(&self) {
        self.traffic.forget_unused();
    }

    /// Sets what is known of a peer when somebody looks; `tunnels` are those that are open, by carrier.
    pub fn set_peer(
        &self,
        peer: &str,
        tunnels: [(&'static str, i64); 2],
        rtt_seconds: Option<f64>,
        registry_age_seconds: Option<i64>,
    ) {
        for (carrier, open) in tunnels {
            self.tunnel_up.get_or_create(&TunnelLabels { peer: peer.into(), carrier }).set(open);
        }
        let labels = PeerLabels { peer: peer.into() };
        if let Some(rtt) = rtt_seconds {
            self.tunnel_rtt.get_or_create(&labels).set(rtt);
        }
        if let Some(age) = registry_age_seconds {
            self.registry_age.get_or_create(&labels).set(age);
        }
    }

    /// Sets how often a peer went over a budget since the start.
    pub fn set_over_budget(&self, peer: &str, budget: &'static str, count: u64) {
        let labels = BudgetLabels { peer: peer.into(), budget };
        self.over_budget.get_or_create(&labels).inner().store(count, Ordering::Relaxed);
    }

    /// Shows whether the registry's store answers.
    pub fn set_registry_up(&self, up: bool) {
        self.registry_up.set(up.into());
    }

    /// Shows nothing more of a peer whose link was removed; what was counted of it stays.
    pub fn forget_peer(&self, peer: &str) {
        for carrier in ["quic", "tcp"] {
            self.tunnel_up.remove(&TunnelLabels { peer: peer.into(), carrier });
        }
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
    pub fn set_rings_differing<'a>(&self, differing: impl Iterator<Item = (&'a ServiceName, &'a str)>) {
        self.ring_differs.clear();
        let mut of_peers = HashMap::<&str, i64>::new();
        for (service, peer) in differing {
            let count = of_peers.entry(peer).or_default();
            *count += 1;
            let others = *count - RINGS_DIFFERING_MAX;
            let service = if others > 0 { OTHERS.into() } else { service.to_string() };
            let labels = MismatchLabels { service, peer: peer.into() };
            self.ring_differs.get_or_create(&labels).set(others.max(1));
        }
    }

    /// The text that Prometheus scrapes (OpenMetrics 1.0), after `refresh` has set what is only looked at when somebody asks.
    /// It may take a while, and waits for whoever else asks: call it where that holds nobody up.
    ///
    /// # Errors
    /// Never in practice: writing to a string does not fail.
    pub fn encode(&self, refresh: impl FnOnce()) -> Result<String, fmt::Error> {
        // Whoever panicked left nothing half done that the next does not do anew.
        let _one_at_a_time = self.encoding.lock().unwrap_or_else(PoisonError::into_inner);
        refresh();
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

/// Makes this thread count for `worker` from now on.
pub fn count_as(worker: u8) {
    cells::count_as(worker);
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn rings_that_differ_are_named_and_bounded_for_each_peer() {
        let metrics = Metrics::new(NonZeroU8::MIN);
        let services: Vec<_> =
            (0..1500).map(|n| ServiceName::new("shop", &format!("s{n}")).unwrap()).collect();
        let of =
            |peer: &'static str, count: usize| services[..count].iter().map(move |service| (service, peer));
        let differing = || of("east", 1500).chain(of("north", 2));
        let text = metrics.encode(|| metrics.set_rings_differing(differing())).unwrap();
        assert_eq!(text.matches("ringway_ring_differs{").count(), 1000 + 1 + 2);
        assert!(text.contains("ringway_ring_differs{service=\"(others)\",peer=\"east\"} 500\n"), "{text}");
        assert!(text.contains("ringway_ring_differs{service=\"shop/s1\",peer=\"north\"} 1\n"), "{text}");
    }
}
