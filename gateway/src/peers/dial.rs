//! The tasks that dial the addresses of gateways, again and again.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use registry::model::HostPort;
use tokio::net::lookup_host;
use tokio_util::sync::CancellationToken;
use tracing::debug;
use tunnel::{DirectEndpoint, Driver, Endpoint, Kind, Peer, Tunnel, TunnelError};

use super::{PeerCluster, Peers};
use crate::limited::limited;

/// Resolved addresses tried per dial.
const ADDRESSES_MAX: usize = 16;
/// A resolver that has not answered by then is given up for this dial.
const RESOLVE_WAIT: Duration = Duration::from_secs(5);
/// The same error again is only said every so often.
const SAY_AGAIN: u32 = 20;

/// What dials where, and so on which carrier.
#[derive(Debug)]
pub enum Dialler<'a> {
    /// QUIC.
    Quic(&'a Endpoint, HostPort),
    /// TLS on TCP.
    Tcp(&'a DirectEndpoint, HostPort),
    /// The same on a Unix socket.
    Unix(&'a DirectEndpoint, PathBuf),
}

/// How long to wait after a failure.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// At first; doubled each time.
    pub first: Duration,
    /// At the most.
    pub longest: Duration,
}

impl Dialler<'_> {
    fn carrier(&self) -> Kind {
        match self {
            Self::Quic(..) => Kind::Quic,
            Self::Tcp(..) => Kind::Tcp,
            Self::Unix(..) => Kind::Unix,
        }
    }

    fn lane(&self) -> u8 {
        match self {
            Self::Quic(endpoint, _) => endpoint.worker(),
            Self::Tcp(endpoint, _) | Self::Unix(endpoint, _) => endpoint.worker(),
        }
    }
}

/// Where it dials.
impl fmt::Display for Dialler<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Quic(_, address) | Self::Tcp(_, address) => address.fmt(f),
            Self::Unix(_, path) => path.display().fmt(f),
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

/// Keeps one tunnel through the address of `dialler`, in its lane, until `stop`: dials whenever the gateway that answers
/// there has none but such as are to be replaced, with jittered exponential backoff. `serve` gets each tunnel and returns
/// at once. A tunnel through an address that is no longer one of the link's is to be replaced by one through another.
///
/// With `of`, the id of the gateway that is to be there, it begins when that one has none, and a tunnel stays when its
/// address is told no more.
pub async fn keep_dialling(
    dialler: Dialler<'_>,
    of: Option<&str>,
    pace: Pace,
    peers: Arc<Peers>,
    cluster: Arc<PeerCluster>,
    stop: CancellationToken,
    mut serve: impl FnMut(Tunnel, Driver),
) {
    let mut backoff = pace.first;
    let mut failures = 0u32;
    let mut rng = fastrand::Rng::new();
    let carrier = dialler.carrier();
    loop {
        if let Some(gateway) = of {
            tokio::select! {
                () = stop.cancelled() => return,
                () = needs_tunnel(&peers, &cluster, gateway, &dialler) => {}
            }
        }
        let dialled = tokio::select! {
            () = stop.cancelled() => return,
            dialled = dial(&dialler, &peers, &cluster) => dialled,
        };
        match dialled {
            Ok((tunnel, driver)) => {
                (backoff, failures) = (pace.first, 0);
                cluster.dialled(carrier, None);
                let gateway = tunnel.peer().hello.gateway.clone();
                serve(tunnel.clone(), driver);
                tokio::select! {
                    () = stop.cancelled() => {
                        if of.is_none() && !cluster.stop.is_cancelled() {
                            tunnel.retire();
                            cluster.changed.notify_waiters();
                        }
                        return;
                    }
                    () = needs_tunnel(&peers, &cluster, &gateway, &dialler) => {}
                }
            }
            Err(error) => {
                let text = format!("{dialler}: {error}");
                if failures.is_multiple_of(SAY_AGAIN) {
                    limited!(
                        WARN, KNOWN, cluster.name, "No tunnel.",
                        peer = %cluster.name, address = %dialler, %carrier, error = %error
                    );
                } else {
                    debug!(peer = %cluster.name, address = %dialler, %carrier, error = %error, "No tunnel.");
                }
                failures += 1;
                cluster.dialled(carrier, Some(text));
            }
        }
        // Full jitter: many gateways that lost one peer together do not come back together.
        let wait = backoff.mul_f64(0.5 + rng.f64() / 2.0);
        backoff = (backoff * 2).min(pace.longest);
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
) -> Result<(Tunnel, Driver), TunnelError> {
    let (name, admit) = (cluster.name.as_str(), |peer: &Peer| peers.admit(peer));
    let address = match dialler {
        Dialler::Unix(endpoint, path) => return endpoint.dial_unix(path, name, admit).await,
        Dialler::Quic(_, address) | Dialler::Tcp(_, address) => address,
    };
    let resolving = lookup_host((&*address.host, address.port));
    let resolved: Vec<SocketAddr> = match tokio::time::timeout(RESOLVE_WAIT, resolving).await {
        Ok(Ok(found)) => found.take(ADDRESSES_MAX).collect(),
        Ok(Err(e)) => return Err(TunnelError::Connect(format!("cannot resolve {}: {e}", address.host))),
        Err(_) => return Err(TunnelError::Connect(format!("resolving {} took too long", address.host))),
    };
    let mut last = TunnelError::Connect(format!("{} has no address", address.host));
    for socket in resolved {
        let dialled = match dialler {
            Dialler::Quic(endpoint, _) => endpoint.dial(socket, name, admit).await,
            Dialler::Tcp(endpoint, _) | Dialler::Unix(endpoint, _) => {
                endpoint.dial(socket, name, admit).await
            }
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
