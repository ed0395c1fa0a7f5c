//! The other clusters' gateways: which are there, how they are, and the tunnels to them.
//!
//! [`Peers`] is fixed by the links; within it everything is atomics and swapped lists, so that a request looks without
//! a lock. Each [`PeerGateway`] is watched by one task (`watch`), each address of a link is dialled by one (`dial`).

mod dial;
mod watch;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use proto::code::CloseCode;
use registry::model::{ClusterName, Link};
use tokio::sync::Notify;
use tracing::{info, warn};
use tunnel::{CloseReason, Peer, Tunnel};

use crate::health::{Detector, State, Transition};
use crate::placement::Availability;

pub use dial::keep_dialling;
pub use watch::{close_redundant, watch};

/// All peers, by cluster.
#[derive(Debug)]
pub struct Peers {
    /// Our own place in the order that decides whose dials stay.
    us: (String, String),
    clusters: BTreeMap<ClusterName, Arc<PeerCluster>>,
}

/// A linked cluster.
#[derive(Debug)]
pub struct PeerCluster {
    /// The link.
    pub link: Link,
    gateways: ArcSwap<Vec<Arc<PeerGateway>>>,
    /// The UID it showed first; another one under the same name is another cluster.
    uid: Mutex<Option<[u8; 16]>>,
    last_error: Mutex<Option<String>>,
    /// Told whenever a tunnel comes or goes.
    pub changed: Notify,
}

/// One gateway process of a peer.
#[derive(Debug)]
pub struct PeerGateway {
    /// Its cluster.
    pub cluster: ClusterName,
    /// Its id.
    pub id: String,
    state: AtomicU8,
    since_unix_ms: AtomicU64,
    reason: Mutex<String>,
    tunnels: ArcSwap<Vec<Tunnel>>,
    /// Short sections without await: fed by the tunnels' drivers, looked at by the watching task.
    detector: Mutex<Detector>,
    /// Told when its state changes: requests in flight decide anew.
    pub changed: Notify,
    /// Told when the first request goes out on an idle tunnel: silence counts from now.
    busy: Arc<Notify>,
}

/// What became of a tunnel that was offered.
#[derive(Debug, PartialEq, Eq)]
pub enum Offer {
    /// It is in use; the gateway is new and must be watched.
    TakenFromNew,
    /// It is in use.
    Taken,
    /// There is one already: this one is to be closed.
    Duplicate,
}

/// A lock whose holder panicked still guards plain values that are whole at any time.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

impl Peers {
    /// The peers of `links`, none of them reached yet, as seen by the gateway `id` of `cluster`.
    pub fn new<'a>(cluster: &ClusterName, id: &str, links: impl IntoIterator<Item = &'a Link>) -> Self {
        let clusters = links.into_iter().map(|link| {
            let peer = PeerCluster {
                link: link.clone(),
                gateways: ArcSwap::default(),
                uid: Mutex::default(),
                last_error: Mutex::default(),
                changed: Notify::new(),
            };
            (link.cluster.clone(), Arc::new(peer))
        });
        Self { us: (cluster.to_string(), id.to_owned()), clusters: clusters.collect() }
    }

    /// A linked cluster.
    pub fn get(&self, cluster: &ClusterName) -> Option<&Arc<PeerCluster>> {
        self.clusters.get(cluster)
    }

    /// All linked clusters by name.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<PeerCluster>> {
        self.clusters.values()
    }

    /// The last word on a peer whose certificate and HELLO agree: is there a link, and is it the cluster that it was?
    ///
    /// # Errors
    /// The code to close with, and why.
    pub fn admit(&self, peer: &Peer) -> Result<(), (CloseCode, String)> {
        let name = &peer.hello.cluster;
        let cluster = self
            .cluster_of(peer)
            .ok_or_else(|| (CloseCode::LinkRemoved, format!("there is no link to cluster `{name}` here")))?;
        let mut uid = lock(&cluster.uid);
        match *uid {
            Some(known) if known != peer.hello.cluster_uid && cluster.has_tunnel() => {
                let text = format!(
                    "another cluster named `{name}` is linked and up; every cluster needs its own name"
                );
                warn!(peer = %name, gateway = %peer.hello.gateway, "DuplicateCluster: {text}");
                return Err((CloseCode::DuplicateCluster, text));
            }
            Some(known) if known != peer.hello.cluster_uid => {
                warn!(peer = %name, "Audit: cluster has a new UID (its state was lost or it was rebuilt); taken over.");
            }
            _ => {}
        }
        *uid = Some(peer.hello.cluster_uid);
        Ok(())
    }

    /// Takes a tunnel into use, unless there is a better one to the same gateway already.
    pub fn offer(&self, tunnel: &Tunnel) -> Option<(Arc<PeerGateway>, Offer)> {
        let cluster = self.cluster_of(tunnel.peer())?;
        let (gateway, new) = cluster.gateway(tunnel);
        let them = (tunnel.peer().hello.cluster.clone(), tunnel.peer().hello.gateway.clone());
        let offer = gateway.take(tunnel, self.us < them);
        cluster.changed.notify_waiters();
        Some((gateway, if new && offer == Offer::Taken { Offer::TakenFromNew } else { offer }))
    }

    /// A tunnel has ended.
    pub fn ended(&self, tunnel: &Tunnel, reason: &CloseReason) {
        let Some(cluster) = self.cluster_of(tunnel.peer()) else { return };
        let gateways = cluster.gateways.load();
        if let Some(gateway) = gateways.iter().find(|g| g.id == tunnel.peer().hello.gateway) {
            gateway.drop_tunnel(tunnel, reason);
        }
        cluster.changed.notify_waiters();
    }

    fn cluster_of(&self, peer: &Peer) -> Option<&Arc<PeerCluster>> {
        self.clusters.iter().find(|(name, _)| name.as_str() == peer.hello.cluster).map(|(_, cluster)| cluster)
    }
}

impl PeerCluster {
    /// Its gateways that were reached at least once.
    pub fn gateways(&self) -> Arc<Vec<Arc<PeerGateway>>> {
        self.gateways.load_full()
    }

    /// Whether a request may go there: as its best gateway.
    pub fn availability(&self) -> Availability {
        let gateways = self.gateways.load();
        let states = || gateways.iter().filter(|g| g.has_open_tunnel()).map(|g| g.state());
        if states().any(|s| s == State::Up) {
            Availability::Up
        } else if states().any(|s| s == State::Suspect) {
            Availability::Suspect
        } else {
            Availability::Down
        }
    }

    /// A tunnel for the next request: of a gateway that is up if there is one, the least loaded.
    pub fn pick(&self) -> Option<(Arc<PeerGateway>, Tunnel)> {
        let gateways = self.gateways.load();
        let mut best: Option<(bool, usize, &Arc<PeerGateway>, Tunnel)> = None;
        for gateway in gateways.iter().filter(|g| g.state() != State::Down) {
            let suspect = gateway.state() == State::Suspect;
            let Some(tunnel) = gateway.tunnel() else { continue };
            let load = tunnel.outstanding();
            if best.as_ref().is_none_or(|b| (suspect, load) < (b.0, b.1)) {
                best = Some((suspect, load, gateway, tunnel));
            }
        }
        best.map(|(_, _, gateway, tunnel)| (gateway.clone(), tunnel))
    }

    /// Why the last dial failed, if the link is not up for that reason.
    pub fn last_error(&self) -> Option<String> {
        lock(&self.last_error).clone()
    }

    fn has_tunnel(&self) -> bool {
        self.gateways.load().iter().any(|g| g.has_open_tunnel())
    }

    fn gateway(&self, tunnel: &Tunnel) -> (Arc<PeerGateway>, bool) {
        let id = &tunnel.peer().hello.gateway;
        // `uid` serves as the lock of the list: both are only changed when a tunnel comes up.
        let _guard = lock(&self.uid);
        let known = self.gateways.load_full();
        if let Some(gateway) = known.iter().find(|g| &g.id == id) {
            return (gateway.clone(), false);
        }
        let gateway = Arc::new(PeerGateway {
            cluster: self.link.cluster.clone(),
            id: id.clone(),
            state: AtomicU8::new(State::Down as u8),
            since_unix_ms: AtomicU64::new(unix_ms()),
            reason: Mutex::default(),
            tunnels: ArcSwap::default(),
            detector: Mutex::new(Detector::new(Instant::now(), tunnel.rtt())),
            changed: Notify::new(),
            busy: Arc::default(),
        });
        let mut list = known.to_vec();
        list.push(gateway.clone());
        self.gateways.store(Arc::new(list));
        (gateway, true)
    }
}

impl PeerGateway {
    /// How it is.
    pub fn state(&self) -> State {
        match self.state.load(Ordering::Acquire) {
            s if s == State::Up as u8 => State::Up,
            s if s == State::Suspect as u8 => State::Suspect,
            _ => State::Down,
        }
    }

    /// Since when, in Unix milliseconds.
    pub fn since_unix_ms(&self) -> u64 {
        self.since_unix_ms.load(Ordering::Relaxed)
    }

    /// Why it is as it is.
    pub fn reason(&self) -> String {
        lock(&self.reason).clone()
    }

    /// The tunnels to it.
    pub fn tunnels(&self) -> Arc<Vec<Tunnel>> {
        self.tunnels.load_full()
    }

    /// The smoothed round-trip time of its probes.
    pub fn rtt(&self) -> Duration {
        lock(&self.detector).rtt()
    }

    /// The tunnel for the next request: the newest that is open.
    pub fn tunnel(&self) -> Option<Tunnel> {
        self.tunnels.load().iter().rev().find(|t| t.is_open()).cloned()
    }

    fn has_open_tunnel(&self) -> bool {
        self.tunnels.load().iter().any(Tunnel::is_open)
    }

    /// The rule that leaves one tunnel for a pair of gateways: the dials of the smaller (cluster, gateway) stay; of
    /// several by the same side the first stays. The newest is used: whoever dials anew has lost the older one. Tunnels
    /// to an earlier start of the process are dead.
    fn take(&self, tunnel: &Tunnel, we_are_smaller: bool) -> Offer {
        let mut detector = lock(&self.detector);
        let boot = tunnel.peer().hello.boot;
        let tunnels = self.tunnels.load_full();
        let (mut keep, stale): (Vec<_>, Vec<_>) =
            tunnels.iter().cloned().partition(|t| t.peer().hello.boot == boot);
        for old in stale {
            old.close(CloseCode::Shutdown, "the peer has restarted");
        }
        // Only the dialler knows why it dialled, so only it judges: it has one that is open, or the peer's own dial stays.
        let redundant = |t: &Tunnel| t.is_open() && (t.dialled() || !we_are_smaller);
        if tunnel.dialled() && keep.iter().any(redundant) {
            return Offer::Duplicate;
        }
        tunnel.notify_when_busy(self.busy.clone());
        keep.push(tunnel.clone());
        self.tunnels.store(Arc::new(keep));
        let transition = match (self.state(), detector.tunnel_up(Instant::now(), tunnel.rtt())) {
            (_, Some(transition)) => Some(transition),
            // The first tunnel of a gateway: its detector begins in the state up.
            (State::Down, None) => Some(Transition {
                from: State::Down,
                to: State::Up,
                at: Instant::now(),
                reason: crate::health::Reason::TunnelUp,
            }),
            _ => None,
        };
        self.apply(transition);
        Offer::Taken
    }

    /// Tunnels that we dialled and that one of the peer's has made redundant.
    pub fn redundant(&self, us: &Peers) -> Vec<Tunnel> {
        let we_are_smaller = us.us < (self.cluster.to_string(), self.id.clone());
        let tunnels = self.tunnels.load();
        if we_are_smaller || !tunnels.iter().any(|t| !t.dialled() && t.is_open()) {
            return Vec::new();
        }
        tunnels.iter().filter(|t| t.dialled()).cloned().collect()
    }

    fn drop_tunnel(&self, tunnel: &Tunnel, reason: &CloseReason) {
        let mut detector = lock(&self.detector);
        let left: Vec<Tunnel> = self.tunnels.load().iter().filter(|t| !t.is(tunnel)).cloned().collect();
        let none_left = left.is_empty();
        self.tunnels.store(Arc::new(left));
        if none_left {
            self.apply(detector.tunnel_lost(Instant::now(), &reason.text));
        }
    }

    /// Makes a change of state known. Called with the detector locked, so that changes are seen in their order.
    fn apply(&self, transition: Option<Transition>) {
        let Some(change) = transition else { return };
        let reason = change.reason.to_string();
        *lock(&self.reason) = reason.clone();
        self.since_unix_ms.store(unix_ms(), Ordering::Relaxed);
        self.state.store(change.to as u8, Ordering::Release);
        let (from, to) = (change.from.as_str(), change.to.as_str());
        let streams: usize = self.tunnels.load().iter().map(Tunnel::outstanding).sum();
        info!(peer = %self.cluster, gateway = %self.id, from, to, reason, streams, "Audit: peer health changed.");
        if change.to == State::Down {
            // Its streams fail at once, so that what can be sent elsewhere is.
            for tunnel in self.tunnels.load().iter() {
                tunnel.close(CloseCode::Unresponsive, &reason);
            }
        }
        self.changed.notify_waiters();
    }
}
