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

use super::address::{Class, Classes, is_own};
use super::pace::now;
use super::{Over, PeerCluster, Peers, lock};
use crate::telemetry::limited::limited;

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
/// With `of`, the id of the gateway that is to be there as a peer tells, it begins when that one has none, and a tunnel
/// stays when its address is told no more. What is told is dialled at the pace, and only where, a peer may have us dial.
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
            dialled = async {
                match of {
                    None => dial(&dialler, &peers, &cluster).await,
                    Some(_) => dial_told(&dialler, pace, &peers, &cluster).await,
                }
            } => dialled,
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
                // What a peer tells may be endless, and is shown in `status`.
                if of.is_none() && failures.is_multiple_of(SAY_AGAIN) {
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

/// Dials an address that our own operator named.
async fn dial(
    dialler: &Dialler<'_>,
    peers: &Peers,
    cluster: &PeerCluster,
) -> Result<(Tunnel, Driver), TunnelError> {
    let address = match dialler {
        Dialler::Unix(endpoint, path) => {
            return endpoint.dial_unix(path, cluster.name.as_str(), |peer: &Peer| peers.admit(peer)).await;
        }
        Dialler::Quic(_, address) | Dialler::Tcp(_, address) => address,
    };
    let resolved = resolve(address).await?;
    cluster.names(address, &resolved);
    let mut last = TunnelError::Connect(format!("{} has no address", address.host));
    for socket in resolved {
        match dial_socket(dialler, socket, peers, cluster).await {
            Ok(up) => return Ok(up),
            Err(e) => last = e,
        }
    }
    Err(last)
}

/// Dials an address that the peer told.
async fn dial_told(
    dialler: &Dialler<'_>,
    pace: Pace,
    peers: &Peers,
    cluster: &PeerCluster,
) -> Result<(Tunnel, Driver), TunnelError> {
    let (Dialler::Quic(_, address) | Dialler::Tcp(_, address)) = dialler else {
        return Err(TunnelError::Connect("a peer tells no paths".into()));
    };
    let _of_cluster = cluster.gate.enter().await;
    let is_name = address.host.parse::<std::net::IpAddr>().is_err();
    if is_name {
        // Whoever answers for it is asked once more.
        cluster.gate.begin().await;
    }
    let resolved = resolve(address).await?;
    let allowed = cluster.named();
    let mut last = TunnelError::Connect(format!("{} has no address", address.host));
    for socket in resolved {
        // Judged by where it leads and not by its name, which may mean something else each time.
        let class = Class::of(socket.ip(), is_own);
        if !allowed.allow(class) {
            cluster.over.note(&cluster.name, Over::Forbidden, now());
            last = TunnelError::Connect(format!(
                "the peer tells {}, an address that is {class}: it is not dialled unless `addresses` of the Link name such",
                socket.ip()
            ));
            continue;
        }
        let way = (dialler.carrier(), dialler.lane(), socket);
        let turn = lock(&cluster.sockets).begin(way, pace, now());
        if let Err(wait) = turn {
            last =
                TunnelError::Connect(format!("{socket} was dialled a moment ago, and is again in {wait:?}"));
            continue;
        }
        cluster.gate.begin().await;
        let _of_all = peers.gate.enter().await;
        peers.gate.begin().await;
        match dial_socket(dialler, socket, peers, cluster).await {
            Ok(up) => {
                lock(&cluster.sockets).worked(&way, pace);
                return Ok(up);
            }
            Err(e) => last = e,
        }
    }
    Err(last)
}

async fn resolve(address: &HostPort) -> Result<Vec<SocketAddr>, TunnelError> {
    let resolving = lookup_host((&*address.host, address.port));
    match tokio::time::timeout(RESOLVE_WAIT, resolving).await {
        Ok(Ok(found)) => Ok(found.take(ADDRESSES_MAX).collect()),
        Ok(Err(e)) => Err(TunnelError::Connect(format!("cannot resolve {}: {e}", address.host))),
        Err(_) => Err(TunnelError::Connect(format!("resolving {} took too long", address.host))),
    }
}

async fn dial_socket(
    dialler: &Dialler<'_>,
    socket: SocketAddr,
    peers: &Peers,
    cluster: &PeerCluster,
) -> Result<(Tunnel, Driver), TunnelError> {
    let (name, admit) = (cluster.name.as_str(), |peer: &Peer| peers.admit(peer));
    match dialler {
        Dialler::Quic(endpoint, _) => endpoint.dial(socket, name, admit).await,
        Dialler::Tcp(endpoint, _) | Dialler::Unix(endpoint, _) => endpoint.dial(socket, name, admit).await,
    }
}

impl PeerCluster {
    /// An address of the link leads there.
    fn names(&self, address: &HostPort, resolved: &[SocketAddr]) {
        let classes = resolved.iter().fold(Classes::default(), |classes, socket| classes.with(*socket));
        lock(&self.named).insert(address.clone(), classes);
    }

    /// The kinds of addresses that the link names, itself or by names that lead there.
    fn named(&self) -> Classes {
        let link = self.link();
        let mut named = lock(&self.named);
        named.retain(|address, _| link.addresses.contains(address));
        let literal = |address: &HostPort| {
            let ip = address.host.parse::<std::net::IpAddr>().ok()?;
            Some(Classes::default().with((ip, address.port).into()))
        };
        let of = |address: &HostPort| named.get(address).copied().or_else(|| literal(address));
        link.addresses.iter().filter_map(of).fold(Classes::default(), Classes::and)
    }
}

/// Waits until there is no open tunnel to the gateway on the dialler's carrier and lane, whoever dialled it, but such as are
/// to be replaced.
async fn needs_tunnel(us: &Peers, cluster: &PeerCluster, gateway: &str, dialler: &Dialler<'_>) {
    let (carrier, lane) = (dialler.carrier(), dialler.lane());
    let mut dials = us.dials.subscribe();
    loop {
        // Registered before the look, so that no change is missed between the two.
        let mut changed = std::pin::pin!(cluster.changed.notified());
        changed.as_mut().enable();
        let gateways = cluster.gateways();
        if gateways.iter().find(|g| g.id == gateway).is_none_or(|g| g.needs_tunnel(us, carrier, lane)) {
            if *dials.borrow_and_update() {
                return;
            }
            // `us` holds the sender.
            let _ = dials.changed().await;
            continue;
        }
        changed.await;
    }
}
