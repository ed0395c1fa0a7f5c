//! The view of a sidecar: what its gateway told it of the names that it uses.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use registry::base::time::Tick;
use registry::model::{ClusterName, Endpoint, Grant, HealthCheck, Hosts, Service as Declared};
use registry::pure::lookup::{LocalEndpoints, Meaning, Reach, State};

use super::{Means, Server, View, ViewBuilder, local, ports};
use crate::peers::PeerCluster;
use crate::telemetry::metrics::Metrics;
use crate::upstream;

/// What a name of the mesh means to a sidecar: `service.namespace`, with a cluster behind it where one is pinned.
pub type Names = BTreeMap<String, Arc<Meaning>>;

impl ViewBuilder {
    /// The view of `names` at `now`: what is served in this cluster is reached at its endpoints, everything else through
    /// `gateways`. Endpoints that stay keep what `previous` knows of them.
    pub fn build_told(
        &mut self,
        names: &Names,
        gateways: &Arc<PeerCluster>,
        metrics: &Metrics,
        previous: &View,
        now: Tick,
    ) -> View {
        let means = Means { metrics, previous, now };
        let mut view = View::default();
        let mut conditions = Vec::new();
        for meaning in names.values() {
            let Some(told) = &meaning.local else { continue };
            let service = declared(meaning, told);
            let placed = &meaning.placed;
            let rule = self.rule(&service, Some(placed.balance), placed.contract.seed, &mut conditions);
            let ports = ports(&service, &rule, previous, now);
            if told.checked {
                for (place, (_, endpoints)) in ports.iter().enumerate() {
                    let failing: HashMap<&str, bool> = told.failing(place).collect();
                    for endpoint in endpoints.iter() {
                        let passes = !failing.get(endpoint.id()).copied().unwrap_or_default();
                        // The gateway has counted: its word is the verdict.
                        upstream::tell(endpoint, endpoint.checked(passes, 1, 1, now));
                    }
                }
            }
            let name = &placed.name;
            let service = local(&service, ports, None, std::iter::empty(), metrics);
            let namespace = view.local.entry(name.namespace.clone()).or_default();
            namespace.insert(name.name.clone(), Arc::new(service));
        }
        for (name, meaning) in names {
            self.region.clone_from(&meaning.region);
            let placed = &meaning.placed;
            let pinned = pinned(name);
            let way = |cluster: &ClusterName| {
                let unknown = State { reach: Reach::Up, ready: None };
                let state = meaning.states.get(cluster).copied().unwrap_or(unknown);
                Server::Via(gateways.clone(), state)
            };
            let service = self.service(placed, pinned.as_ref(), way, &means, (&view, &mut conditions));
            let Some(service) = service else { continue };
            let (prefix, service) = (placed.name.host_prefix().into(), Arc::new(service));
            match pinned {
                None => view.union.insert(prefix, service),
                Some(cluster) => {
                    view.pinned.entry(cluster.as_str().into()).or_default().insert(prefix, service)
                }
            };
        }
        view.conditions = conditions;
        view
    }
}

/// The cluster that a name pins.
fn pinned(name: &str) -> Option<ClusterName> {
    name.splitn(3, '.').nth(2).and_then(|cluster| ClusterName::new(cluster).ok())
}

/// The service as if it were declared here. That it is checked is all that counts of its check: the gateway asks.
fn declared(meaning: &Meaning, told: &LocalEndpoints) -> Declared {
    let mut endpoints: Vec<Endpoint> = told.endpoints.iter().map(|(endpoint, _)| endpoint.clone()).collect();
    endpoints.sort_unstable_by(|a, b| a.id.cmp(&b.id));
    Declared {
        name: meaning.placed.name.clone(),
        ports: meaning.placed.ports.clone(),
        endpoints,
        health_check: told.checked.then(HealthCheck::default),
        export: Grant::Nobody,
        registration: Hosts::default(),
    }
}
