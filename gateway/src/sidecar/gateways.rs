//! The tunnels of a sidecar: one to each gateway of its own cluster, kept up as long as it runs.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use registry::model::{GatewayAddress, Sidecar};
use tokio::task::spawn_local;
use tunnel::{DirectEndpoint, Driver, Tunnel};

use crate::peers::{self, Dialler, Pace, PeerCluster};
use crate::proxy::worker::Shared;

/// A gateway on the same host is back in a moment.
const PACE: Pace = Pace { first: Duration::from_millis(20), longest: Duration::from_secs(2) };

/// Begins to hold a tunnel through each address, the first preferred, until the process drains.
pub fn hold(
    sidecar: &Sidecar,
    shared: &Arc<Shared>,
    cluster: &Arc<PeerCluster>,
    endpoint: &Rc<DirectEndpoint>,
) {
    for (place, address) in sidecar.gateways.iter().cloned().enumerate() {
        spawn_local(keep(place, address, shared.clone(), cluster.clone(), endpoint.clone()));
    }
}

async fn keep(
    place: usize,
    address: GatewayAddress,
    shared: Arc<Shared>,
    cluster: Arc<PeerCluster>,
    endpoint: Rc<DirectEndpoint>,
) {
    let dialler = match address {
        GatewayAddress::Unix(path) => Dialler::Unix(&endpoint, path),
        GatewayAddress::Tcp(address) => Dialler::Tcp(&endpoint, address),
    };
    let (peers, stop) = (shared.peers.clone(), cluster.stop.clone());
    let own = |tunnel, driver| take(place, &shared, tunnel, driver);
    peers::keep_dialling(dialler, None, PACE, peers, cluster, stop, own).await;
}

/// Takes a tunnel into use and runs it to its end.
fn take(place: usize, shared: &Arc<Shared>, tunnel: Tunnel, driver: Driver) {
    let Some((cluster, driving)) = peers::own(&shared.peers, shared.clock, &tunnel, driver) else { return };
    let gateways = cluster.gateways();
    if let Some(gateway) = gateways.iter().find(|g| g.id == tunnel.peer().hello.gateway) {
        gateway.prefer(place);
    }
    spawn_local(driving);
    // Nothing is to be had here: what a gateway opens is dropped, which refuses it.
    spawn_local(async move { while tunnel.accept().await.is_ok() {} });
}
