//! What moves when a linked cluster comes or goes: the audit line of a link. Runs on the control plane.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use registry::model::{ClusterName, Mode};

use crate::peers::PeerCluster;
use crate::proxy::worker::Shared;
use crate::telemetry::audit;
use crate::view::{Server, View};
use policy::health::State;
use policy::placement::Availability;

/// The least time between two looks: a link that comes and goes within it is not spoken of.
const LOOK: Duration = Duration::from_millis(100);
/// Services that a line names; more are counted.
const NAMED_MAX: usize = 10;

/// Says of every link when it comes up and when it goes down, until the process drains.
pub async fn watch(shared: Arc<Shared>) {
    let mut before: BTreeMap<ClusterName, bool> = BTreeMap::new();
    let mut news = shared.news.follow();
    loop {
        let peers: Vec<Arc<PeerCluster>> = shared.peers.iter().collect();
        // That a link was added or removed is said where it is read.
        before.retain(|name, _| peers.iter().any(|peer| peer.name == *name));
        for peer in peers {
            // A suspect one is asked less, and not given up.
            let up = matches!(peer.availability(), Availability::Up | Availability::Suspect);
            if before.insert(peer.name.clone(), up).unwrap_or(false) == up {
                continue;
            }
            let states = if up { ("down", "up") } else { ("up", "down") };
            let what = format!("link {}", peer.name);
            audit::health("link", what, states, why(&peer, up), moved(&shared.view.load(), &peer.name));
        }
        let changed = async {
            news.changed().await;
            tokio::time::sleep(LOOK).await;
        };
        tokio::select! {
            () = shared.stop.cancelled() => return,
            () = changed => {}
        }
    }
}

/// The reason that its gateways give.
fn why(peer: &PeerCluster, up: bool) -> String {
    let gateways = peer.gateways();
    let state = if up { State::Up } else { State::Down };
    let told = gateways.iter().find(|gateway| gateway.state() == state).map(|gateway| gateway.reason());
    told.unwrap_or_else(|| "its gateway drains".into())
}

/// What of every service goes to `cluster` while it is up, and elsewhere while it is not.
fn moved(view: &View, cluster: &ClusterName) -> String {
    let mut parts = Vec::new();
    let mut more = 0;
    for service in view.services() {
        let placement = &service.placement;
        let Some(node) = placement.node(cluster.as_str()) else { continue };
        if !matches!(service.server(node), Server::Peer(..)) {
            continue;
        }
        if parts.len() == NAMED_MAX {
            more += 1;
            continue;
        }
        parts.push(match placement.mode() {
            Mode::Sharded => {
                let owned = placement.ring().shares()[node.get()] as f64 / 2_f64.powi(64);
                format!("{:.2} % of the keys of {}", owned * 100.0, service.name)
            }
            Mode::LocalFirst => format!("what its tier is given of {}", service.name),
        });
    }
    if more > 0 {
        parts.push(format!("and of {more} more services"));
    }
    if parts.is_empty() { "nothing: no service is placed there".into() } else { parts.join(", ") }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::num::NonZeroU8;

    use registry::base::time::Tick;
    use registry::manifest::{Source, parse};
    use registry::model::{Catalog, Import, PeerImports};
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::peers::Peers;
    use crate::telemetry::metrics::Metrics;
    use crate::view::ViewBuilder;

    /// The view of west, where east exports the services `s0`, `s1` and so on, of which the first is sharded.
    fn view(services: usize) -> View {
        let text = "apiVersion: ringway.dev/v1alpha1\nkind: Link\nmetadata: { name: east }\nspec: { import: [{ union: true }] }\n\
                    ---\napiVersion: ringway.dev/v1alpha1\nkind: TrafficPolicy\nmetadata: { name: s0, namespace: shop }\n\
                    spec:\n  service: s0\n  placement:\n    mode: sharded\n    members: [{ cluster: east, region: e }, { cluster: west, region: w }]\n\
                    ---\napiVersion: ringway.dev/v1alpha1\nkind: MeshService\nmetadata: { name: s0, namespace: shop }\n\
                    spec: { ports: [{ name: web, port: 80, protocol: http }] }\n";
        let declared = parse(&[Source { name: "x.yaml".into(), text: text.into() }]).unwrap().declared;
        let ports = declared.services.values().next().unwrap().ports.clone();
        let import = |n: usize| {
            let name = registry::model::ServiceName::new("shop", &format!("s{n}")).unwrap();
            let import = Import {
                name: name.clone(),
                ports: ports.clone(),
                region: "e".into(),
                contract: None,
                revision: 1,
            };
            (name, Arc::new(import))
        };
        let imports = PeerImports { services: (0..services).map(import).collect(), ..PeerImports::default() };
        let (west, east) = (ClusterName::new("west").unwrap(), ClusterName::new("east").unwrap());
        let peers = Peers::new(&west, "gw-1", &declared.links, CancellationToken::new());
        let catalog = Catalog {
            revision: 1,
            cluster: west.clone(),
            region: "w".into(),
            declared,
            imports: BTreeMap::from([(east, Arc::new(imports))]),
        };
        let metrics = Metrics::new(NonZeroU8::MIN);
        ViewBuilder::new(west, "w".into()).build(
            Arc::new(catalog),
            &peers,
            &metrics,
            &View::default(),
            Tick::at(1),
        )
    }

    #[test]
    fn what_moves_is_said_by_service_and_bounded() {
        let east = ClusterName::new("east").unwrap();
        let said = moved(&view(2), &east);
        let (keys, tier) = said.split_once(", ").unwrap();
        let percent: f64 = keys.strip_suffix(" % of the keys of shop/s0").unwrap().parse().unwrap();
        assert!((40.0..60.0).contains(&percent), "{said}");
        assert_eq!(tier, "what its tier is given of shop/s1");
        assert!(moved(&view(15), &east).ends_with(", and of 5 more services"));
        assert_eq!(moved(&view(0), &east), "nothing: no service is placed there");
    }
}
