//! The tunnels of a sidecar: one to each gateway of its own cluster, kept up as long as it runs.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use registry::model::{GatewayAddress, Link, Sidecar};
use tokio::net::lookup_host;
use tokio::task::spawn_local;
use tracing::{debug, warn};
use tunnel::{DirectEndpoint, Driver, Kind, Tunnel, TunnelError};

use crate::peers::{self, PeerCluster};
use crate::worker::Shared;

/// First wait after a failure; doubled each time. A gateway on the same host is back in a moment.
const BACKOFF_MIN: Duration = Duration::from_millis(20);
/// Longest wait between two dials.
const BACKOFF_MAX: Duration = Duration::from_secs(1);
/// A resolver that has not answered by then is given up for this dial.
const RESOLVE_WAIT: Duration = Duration::from_secs(5);
/// Resolved addresses tried per dial.
const ADDRESSES_MAX: usize = 16;
/// The same error again is only said every so often.
const SAY_AGAIN: u32 = 50;

/// The own cluster as if it were linked: its gateways are watched like those of a peer.
pub fn own_cluster(sidecar: &Sidecar) -> BTreeMap<registry::model::ClusterName, Link> {
    let link = Link {
        cluster: sidecar.cluster.clone(),
        addresses: Vec::new(),
        trust_domain: sidecar.trust_domain.clone(),
        import: Vec::new(),
    };
    [(sidecar.cluster.clone(), link)].into()
}

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

/// Keeps a tunnel through one address: dials whenever the gateway that answers there has none but such as are to be
/// replaced, with jittered exponential backoff.
async fn keep(
    place: usize,
    address: GatewayAddress,
    shared: Arc<Shared>,
    cluster: Arc<PeerCluster>,
    endpoint: Rc<DirectEndpoint>,
) {
    let (mut backoff, mut failures) = (BACKOFF_MIN, 0u32);
    let mut rng = fastrand::Rng::new();
    let carrier = match &address {
        GatewayAddress::Unix(_) => Kind::Unix,
        GatewayAddress::Tcp(_) => Kind::Tcp,
    };
    while !shared.stop.is_cancelled() {
        let dialled = tokio::select! {
            () = shared.stop.cancelled() => return,
            dialled = dial(&endpoint, &shared, &cluster, &address) => dialled,
        };
        match dialled {
            Ok((tunnel, driver)) => {
                (backoff, failures) = (BACKOFF_MIN, 0);
                cluster.dialled(carrier, None);
                take(place, &shared, &tunnel, driver);
                tokio::select! {
                    () = shared.stop.cancelled() => return,
                    () = needed(&cluster, &tunnel.peer().hello.gateway) => {}
                }
            }
            Err(error) => {
                cluster.dialled(carrier, Some(format!("{address}: {error}")));
                if failures.is_multiple_of(SAY_AGAIN) {
                    warn!(gateway = %address, %error, "No tunnel.");
                } else {
                    debug!(gateway = %address, %error, "No tunnel.");
                }
                failures += 1;
            }
        }
        // Full jitter: many sidecars that lost one gateway together do not come back together.
        tokio::time::sleep(backoff.mul_f64(0.5 + rng.f64() / 2.0)).await;
        backoff = (backoff * 2).min(BACKOFF_MAX);
    }
}

/// Takes a tunnel into use and runs it to its end.
fn take(place: usize, shared: &Arc<Shared>, tunnel: &Tunnel, driver: Driver) {
    let Some((cluster, driving)) = peers::own(&shared.peers, shared.clock, tunnel, driver) else { return };
    let gateways = cluster.gateways();
    if let Some(gateway) = gateways.iter().find(|g| g.id == tunnel.peer().hello.gateway) {
        gateway.prefer(place);
    }
    spawn_local(driving);
    // Nothing is to be had here: what a gateway opens is dropped, which refuses it.
    let tunnel = tunnel.clone();
    spawn_local(async move { while tunnel.accept().await.is_ok() {} });
}

async fn dial(
    endpoint: &DirectEndpoint,
    shared: &Shared,
    cluster: &PeerCluster,
    address: &GatewayAddress,
) -> Result<(Tunnel, Driver), TunnelError> {
    let (peers, name) = (&shared.peers, cluster.name.as_str());
    let address = match address {
        GatewayAddress::Unix(path) => return endpoint.dial_unix(path, name, |peer| peers.admit(peer)).await,
        GatewayAddress::Tcp(address) => address,
    };
    let failed = |text: String| TunnelError::Connect(text);
    let resolving = lookup_host((address.host.as_str(), address.port));
    let resolved = tokio::time::timeout(RESOLVE_WAIT, resolving).await;
    let resolved = resolved.map_err(|_| failed(format!("resolving {} took too long", address.host)))?;
    let resolved = resolved.map_err(|e| failed(format!("cannot resolve {}: {e}", address.host)))?;
    let mut last = failed(format!("{} has no address", address.host));
    for socket in resolved.take(ADDRESSES_MAX) {
        match endpoint.dial(socket, name, |peer| peers.admit(peer)).await {
            Ok(up) => return Ok(up),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Waits until there is no tunnel to `gateway` but such as are to be replaced.
async fn needed(cluster: &PeerCluster, gateway: &str) {
    loop {
        // Registered before the look, so that no change is missed between the two.
        let mut changed = std::pin::pin!(cluster.changed.notified());
        changed.as_mut().enable();
        let gateways = cluster.gateways();
        let tunnels = gateways.iter().filter(|g| g.id == gateway).flat_map(|g| g.tunnels().to_vec());
        if !tunnels.into_iter().any(|tunnel| tunnel.is_open() && !tunnel.is_retiring()) {
            return;
        }
        changed.await;
    }
}
