//! The tasks that dial the addresses of a link, again and again.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use registry::model::HostPort;
use tokio::net::lookup_host;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};
use tunnel::{DirectEndpoint, Driver, Endpoint, Kind, Peer, Tunnel, TunnelError};

use super::{PeerCluster, Peers};

/// First wait after a failure; doubled each time.
const BACKOFF_MIN: Duration = Duration::from_millis(100);
/// Longest wait between two dials.
const BACKOFF_MAX: Duration = Duration::from_secs(5);
/// Resolved addresses tried per dial.
const ADDRESSES_MAX: usize = 16;
/// A resolver that has not answered by then is given up for this dial.
const RESOLVE_WAIT: Duration = Duration::from_secs(5);
/// The same error again is only said every so often.
const SAY_AGAIN: u32 = 20;

/// What dials, and so on which carrier.
#[derive(Debug)]
pub enum Dialler<'a> {
    /// QUIC.
    Quic(&'a Endpoint),
    /// TLS on TCP.
    Tcp(&'a DirectEndpoint),
}

impl Dialler<'_> {
    fn carrier(&self) -> Kind {
        match self {
            Self::Quic(_) => Kind::Quic,
            Self::Tcp(_) => Kind::Tcp,
        }
    }

    fn lane(&self) -> u8 {
        match self {
            Self::Quic(endpoint) => endpoint.worker(),
            Self::Tcp(endpoint) => endpoint.worker(),
        }
    }
}

/// Calls `begin` for every address of the link to `cluster`, and for each that is added later, with a token that is
/// cancelled when the address goes. Returns when the link is removed or the process drains.
pub async fn each_address(cluster: &PeerCluster, mut begin: impl FnMut(HostPort, CancellationToken)) {
    let mut links = cluster.link_changes();
    let mut begun: BTreeMap<HostPort, CancellationToken> = BTreeMap::new();
    while !cluster.stop.is_cancelled() {
        let link = links.borrow_and_update().clone();
        begun.retain(|address, stop| {
            let stays = link.addresses.contains(address);
            if !stays {
                stop.cancel();
            }
            stays
        });
        for address in &link.addresses {
            if !begun.contains_key(address) {
                let stop = cluster.stop.child_token();
                begun.insert(address.clone(), stop.clone());
                begin(address.clone(), stop);
            }
        }
        tokio::select! {
            () = cluster.stop.cancelled() => {}
            // `cluster` holds the sender.
            _ = links.changed() => {}
        }
    }
}

/// Keeps one tunnel through `address` in the lane of `dialler` until `stop`: dials whenever the gateway that answers there
/// has none but such as are to be replaced, with jittered exponential backoff. `serve` gets each tunnel and returns at
/// once. A tunnel through an address that is no longer one of the link's is to be replaced by one through another.
pub async fn keep_dialling(
    dialler: Dialler<'_>,
    peers: Arc<Peers>,
    cluster: Arc<PeerCluster>,
    address: HostPort,
    stop: CancellationToken,
    mut serve: impl FnMut(Tunnel, Driver),
) {
    let mut backoff = BACKOFF_MIN;
    let mut failures = 0u32;
    let mut rng = fastrand::Rng::new();
    let carrier = dialler.carrier();
    loop {
        let dialled = tokio::select! {
            () = stop.cancelled() => return,
            dialled = dial(&dialler, &peers, &cluster, &address) => dialled,
        };
        match dialled {
            Ok((tunnel, driver)) => {
                (backoff, failures) = (BACKOFF_MIN, 0);
                cluster.dialled(carrier, None);
                let gateway = tunnel.peer().hello.gateway.clone();
                serve(tunnel.clone(), driver);
                tokio::select! {
                    () = stop.cancelled() => {
                        if !cluster.stop.is_cancelled() {
                            tunnel.retire();
                            cluster.changed.notify_waiters();
                        }
                        return;
                    }
                    () = needs_tunnel(&peers, &cluster, &gateway, &dialler) => {}
                }
            }
            Err(error) => {
                let text = format!("{address}: {error}");
                if failures.is_multiple_of(SAY_AGAIN) {
                    warn!(peer = %cluster.name, %address, %carrier, error = %error, "No tunnel.");
                } else {
                    debug!(peer = %cluster.name, %address, %carrier, error = %error, "No tunnel.");
                }
                failures += 1;
                cluster.dialled(carrier, Some(text));
            }
        }
        // Full jitter: many gateways that lost one peer together do not come back together.
        let wait = backoff.mul_f64(0.5 + rng.f64() / 2.0);
        backoff = (backoff * 2).min(BACKOFF_MAX);
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(wait) => {}
        }
    }
}

async fn dial(
    dialler: &Dialler<'_>,
    peers: &Peers,
    cluster: &PeerCluster,
    address: &HostPort,
) -> Result<(Tunnel, Driver), TunnelError> {
    let resolving = lookup_host((address.host.as_str(), address.port));
    let resolved: Vec<SocketAddr> = match tokio::time::timeout(RESOLVE_WAIT, resolving).await {
        Ok(Ok(found)) => found.take(ADDRESSES_MAX).collect(),
        Ok(Err(e)) => return Err(TunnelError::Connect(format!("cannot resolve {}: {e}", address.host))),
        Err(_) => return Err(TunnelError::Connect(format!("resolving {} took too long", address.host))),
    };
    let mut last = TunnelError::Connect(format!("{} has no address", address.host));
    for socket in resolved {
        let (name, admit) = (cluster.name.as_str(), |peer: &Peer| peers.admit(peer));
        let dialled = match dialler {
            Dialler::Quic(endpoint) => endpoint.dial(socket, name, admit).await,
            Dialler::Tcp(endpoint) => endpoint.dial(socket, name, admit).await,
        };
        match dialled {
            Ok(up) => return Ok(up),
            Err(e) => last = e,
        }
    }
    Err(last)
}

/// Waits until there is no open tunnel to the gateway on the dialler's carrier and lane, whoever dialled it, but such as are
/// to be replaced.
async fn needs_tunnel(us: &Peers, cluster: &PeerCluster, gateway: &str, dialler: &Dialler<'_>) {
    let (carrier, lane) = (dialler.carrier(), dialler.lane());
    loop {
        // Registered before the look, so that no change is missed between the two.
        let mut changed = std::pin::pin!(cluster.changed.notified());
        changed.as_mut().enable();
        let gateways = cluster.gateways();
        if gateways.iter().find(|g| g.id == gateway).is_none_or(|g| g.needs_tunnel(us, carrier, lane)) {
            return;
        }
        changed.await;
    }
}
