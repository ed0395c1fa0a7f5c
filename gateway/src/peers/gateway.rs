//! One gateway process of a peer: its tunnels, and how it is.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use proto::code::CloseCode;
use registry::model::ClusterName;
use tokio::sync::Notify;
use tunnel::{CloseReason, Tunnel};

use super::{Offer, Peers, lock, unix_ms};
use crate::audit;
use crate::health::{Detector, Reason, State, Transition};

/// Tunnels to one gateway process at once: the one in use, and a few that are being replaced or that only one side has
/// noticed to be dead.
const TUNNELS_MAX: usize = 8;

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
    pub(super) detector: Mutex<Detector>,
    /// Told when its state changes: requests in flight decide anew.
    pub changed: Notify,
    /// Told when the first request goes out on an idle tunnel: silence counts from now.
    pub(super) busy: Arc<Notify>,
}

impl PeerGateway {
    /// A gateway that no tunnel leads to yet; `rtt` is the first idea of its round trips.
    pub(super) fn new(cluster: ClusterName, id: String, rtt: Duration) -> Self {
        Self {
            cluster,
            id,
            state: AtomicU8::new(State::Down as u8),
            since_unix_ms: AtomicU64::new(unix_ms()),
            reason: Mutex::default(),
            tunnels: ArcSwap::default(),
            detector: Mutex::new(Detector::new(Instant::now(), rtt)),
            changed: Notify::new(),
            busy: Arc::default(),
        }
    }

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

    /// The tunnel for the next request: the newest that is open, rather one that is not to be replaced, and of those
    /// rather one that `worker` owns.
    pub fn tunnel(&self, worker: Option<u8>) -> Option<Tunnel> {
        let tunnels = self.tunnels.load();
        let open = tunnels.iter().filter(|t| t.is_open());
        // Of equals the last.
        open.max_by_key(|t| (!t.is_retiring(), worker.is_some_and(|w| t.worker() == u32::from(w)))).cloned()
    }

    pub(super) fn has_open_tunnel(&self) -> bool {
        self.tunnels.load().iter().any(Tunnel::is_open)
    }

    /// Whether `lane` should be dialled: nothing is open there but what is to be replaced, nor a dial of the peer's where
    /// those stay.
    pub(super) fn needs_tunnel(&self, us: &Peers, lane: u8) -> bool {
        let we_are_smaller = us.are_smaller_than(self);
        !self.tunnels.load().iter().any(|t| fills(t, lane.into(), we_are_smaller))
    }

    /// The rule that leaves one tunnel of each lane for a pair of gateways: the dials of the smaller (cluster, gateway)
    /// stay; of several by the same side in a lane the first stays. The newest is used: whoever dials anew has lost the
    /// older one. Tunnels to an earlier start of the process are dead.
    pub(super) fn take(&self, tunnel: &Tunnel, we_are_smaller: bool) -> Offer {
        let mut detector = lock(&self.detector);
        let boot = tunnel.peer().hello.boot;
        let tunnels = self.tunnels.load_full();
        let (mut keep, stale): (Vec<_>, Vec<_>) =
            tunnels.iter().cloned().partition(|t| t.peer().hello.boot == boot);
        for old in stale {
            old.close(CloseCode::Shutdown, "the peer has restarted");
        }
        // Only the dialler knows why it dialled, so only it judges: it has one that is open, or the peer's own dial stays.
        let ours = |t: &Tunnel| stays(t) && t.dialled() && t.lane() == tunnel.lane();
        let theirs = |t: &Tunnel| stays(t) && !t.dialled() && !we_are_smaller;
        if tunnel.dialled() && keep.iter().any(|t| ours(t) || theirs(t)) {
            return Offer::Duplicate;
        }
        tunnel.notify_when_busy(self.busy.clone());
        keep.push(tunnel.clone());
        if keep.len() > TUNNELS_MAX {
            // Whoever dials again and again has lost the oldest, or wants our memory.
            keep.remove(0).close(CloseCode::DuplicateTunnel, "too many tunnels of one gateway");
        }
        self.tunnels.store(Arc::new(keep));
        let transition = match (self.state(), detector.tunnel_up(Instant::now(), tunnel.rtt())) {
            (_, Some(transition)) => Some(transition),
            // The first tunnel of a gateway: its detector begins in the state up.
            (State::Down, None) => Some(Transition {
                from: State::Down,
                to: State::Up,
                at: Instant::now(),
                reason: Reason::TunnelUp,
            }),
            _ => None,
        };
        self.apply(transition);
        Offer::Taken
    }

    /// Tunnels that are to be closed now that others are there: those to be replaced, if something has replaced them,
    /// and those that we dialled where one of the peer's dials is to stay.
    pub fn replaced(&self, us: &Peers) -> Vec<Tunnel> {
        let we_are_smaller = us.are_smaller_than(self);
        let tunnels = self.tunnels.load();
        let redundant = !we_are_smaller && tunnels.iter().any(|t| !t.dialled() && stays(t));
        let replaced = tunnels.iter().any(stays);
        let ends = |t: &&Tunnel| (redundant && t.dialled()) || (replaced && t.is_retiring());
        tunnels.iter().filter(ends).cloned().collect()
    }

    pub(super) fn drop_tunnel(&self, tunnel: &Tunnel, reason: &CloseReason) {
        let mut detector = lock(&self.detector);
        let left: Vec<Tunnel> = self.tunnels.load().iter().filter(|t| !t.is(tunnel)).cloned().collect();
        let none_left = left.is_empty();
        self.tunnels.store(Arc::new(left));
        if none_left {
            self.apply(detector.tunnel_lost(Instant::now(), &reason.text));
        }
    }

    /// Makes a change of state known. Called with the detector locked, so that changes are seen in their order.
    pub(super) fn apply(&self, transition: Option<Transition>) {
        let Some(change) = transition else { return };
        let reason = change.reason.to_string();
        *lock(&self.reason) = reason.clone();
        self.since_unix_ms.store(unix_ms(), Ordering::Relaxed);
        self.state.store(change.to as u8, Ordering::Release);
        let (from, to) = (change.from.as_str(), change.to.as_str());
        let streams: usize = self.tunnels.load().iter().map(Tunnel::outstanding).sum();
        let what = format!("gateway {} of {}", self.id, self.cluster);
        audit::health(
            "peer",
            what,
            (from, to),
            &reason,
            format_args!("{streams} requests on their way to it"),
        );
        if change.to == State::Down {
            // Its streams fail at once, so that what can be sent elsewhere is.
            for tunnel in self.tunnels.load().iter() {
                tunnel.close(CloseCode::Unresponsive, &reason);
            }
        }
        self.changed.notify_waiters();
    }
}

/// Whether `tunnel` makes another dial of `lane` needless.
fn fills(tunnel: &Tunnel, lane: u32, we_are_smaller: bool) -> bool {
    stays(tunnel) && (tunnel.lane() == lane || !tunnel.dialled() && !we_are_smaller)
}

/// Whether a tunnel is open and not to be replaced.
fn stays(tunnel: &Tunnel) -> bool {
    tunnel.is_open() && !tunnel.is_retiring()
}
