//! One gateway process of a peer: its tunnels, and how it is.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use proto::code::CloseCode;
use registry::model::ClusterName;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tunnel::{CloseReason, Kind, Tunnel};

use super::{Offer, Peers, lock};
use crate::base::clock::unix_ms;
use crate::base::news::News;
use crate::telemetry::audit;
use policy::health::{State, Transition, Way, Ways};

/// Tunnels to one process of a gateway at once, of which there are two while one takes over: the one in use, and a few that
/// are being replaced or that only one side has noticed to be dead.
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
    /// Its place in the order of those that do the same; 0 where there is none.
    preference: AtomicUsize,
    reason: Mutex<String>,
    tunnels: ArcSwap<Vec<Tunnel>>,
    /// Short sections without await: fed by the tunnels' drivers, looked at by the watching task.
    pub(super) ways: Mutex<Ways>,
    /// Whether QUIC is not up: requests then go another way.
    quic_fails: AtomicBool,
    /// Told when its state changes: requests in flight decide anew.
    pub changed: Notify,
    /// Told when the first request goes out on an idle tunnel: silence counts from now.
    pub(super) busy: Arc<Notify>,
    /// Cancelled when it is forgotten, and with its cluster.
    pub(super) stop: CancellationToken,
    /// It asks to be told everything of our services.
    asks_again: AtomicBool,
    /// Told when its state changes: whoever follows how peers are.
    news: News,
}

impl PeerGateway {
    /// A gateway that no tunnel leads to yet.
    pub(super) fn new(cluster: ClusterName, id: String, news: News, stop: &CancellationToken) -> Self {
        Self {
            cluster,
            id,
            state: AtomicU8::new(State::Down as u8),
            since_unix_ms: AtomicU64::new(unix_ms()),
            preference: AtomicUsize::new(0),
            reason: Mutex::default(),
            tunnels: ArcSwap::default(),
            ways: Mutex::new(Ways::none()),
            quic_fails: AtomicBool::new(false),
            changed: Notify::new(),
            busy: Arc::default(),
            stop: stop.child_token(),
            asks_again: AtomicBool::new(false),
            news,
        }
    }

    /// Whether no tunnel leads to it.
    pub(super) fn is_gone(&self) -> bool {
        self.tunnels.load().is_empty()
    }

    /// It is no longer in the list of its cluster.
    pub(super) fn forget(&self) {
        self.stop.cancel();
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

    /// Its place in the order in which those that do the same are used.
    pub fn preference(&self) -> usize {
        self.preference.load(Ordering::Relaxed)
    }

    /// It asks to be told everything of our services.
    pub(super) fn ask_again(&self) {
        // One that asks for ever wakes nobody more often than it is answered.
        if !self.asks_again.swap(true, Ordering::Relaxed) {
            self.news.tell();
        }
    }

    /// Whether it asks for that; true once.
    pub fn take_asks_again(&self) -> bool {
        self.asks_again.load(Ordering::Relaxed) && self.asks_again.swap(false, Ordering::Relaxed)
    }

    /// Gives it a place in that order, from 0.
    pub fn prefer(&self, place: usize) {
        self.preference.store(place, Ordering::Relaxed);
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
        lock(&self.ways).rtt()
    }

    /// The tunnel for words between gateways: whether there is room for requests is nothing to them, so that they stay on
    /// one.
    pub fn control_tunnel(&self) -> Option<Tunnel> {
        self.best_of(&[], |_| true, None)
    }

    /// The tunnel for the next request, none of those in `tried`: the newest that is open, rather one with room for it, one
    /// on a way that is up, one that is not to be replaced, one on QUIC, and of those rather one that `worker` owns.
    pub(super) fn tunnel_but(&self, worker: Option<u8>, tried: &[Tunnel]) -> Option<Tunnel> {
        self.best_of(tried, Tunnel::has_room, worker)
    }

    /// Of the open tunnels that are not in `tried` rather one that `fits`, one on a way that is up, one that is not to be
    /// replaced, one on QUIC, and of those rather one that `worker` owns; of equals the newest.
    fn best_of(
        &self,
        tried: &[Tunnel],
        fits: impl Fn(&Tunnel) -> bool,
        worker: Option<u8>,
    ) -> Option<Tunnel> {
        let tunnels = self.tunnels.load();
        let quic_fails = self.quic_fails.load(Ordering::Relaxed);
        let open = tunnels.iter().filter(|t| t.is_open() && !tried.iter().any(|tried| tried.is(t)));
        // A process that takes over is used once the one before it wants that.
        let is_early = |t: &Tunnel| {
            let elder = t.peer().hello.takes_over_from;
            elder != 0 && tunnels.iter().any(|other| other.peer().hello.boot == elder && stays(other))
        };
        let rank = |t: &&Tunnel| {
            let quic = t.carrier() == Kind::Quic;
            let own = worker.is_some_and(|w| t.worker() == u32::from(w));
            (fits(t), !(quic && quic_fails), !t.is_retiring(), !is_early(t), quic, own)
        };
        // Of equals the last.
        open.max_by_key(rank).cloned()
    }

    /// Whether another process is about to take over from the one with this `boot`.
    pub(super) fn is_taken_over(&self, boot: u64) -> bool {
        self.tunnels.load().iter().any(|heir| heir.peer().hello.takes_over_from == boot)
    }

    /// The tunnel for a probe on `way`; one that takes nothing new is better than none.
    pub(super) fn tunnel_on(&self, way: Way) -> Option<Tunnel> {
        let tunnels = self.tunnels.load();
        tunnels.iter().filter(|t| way_of(t) == way).max_by_key(|t| (t.is_open(), !t.is_retiring())).cloned()
    }

    /// The open tunnels on a carrier.
    pub fn count_open(&self, kind: Kind) -> usize {
        self.tunnels.load().iter().filter(|t| t.carrier() == kind && t.is_open()).count()
    }

    pub(super) fn has_open_tunnel(&self) -> bool {
        self.tunnels.load().iter().any(Tunnel::is_open)
    }

    /// Whether `lane` should be dialled on `kind`: nothing is open there but what is to be replaced, nor a dial of the
    /// peer's where those stay.
    pub(super) fn needs_tunnel(&self, us: &Peers, kind: Kind, lane: u8) -> bool {
        let we_are_smaller = us.are_smaller_than(self);
        !self.tunnels.load().iter().any(|t| t.carrier() == kind && fills(t, lane.into(), we_are_smaller))
    }

    /// The rule that leaves one tunnel of each carrier and lane for a pair of gateways: the dials of the smaller (cluster,
    /// gateway) stay; of several by the same side in a lane the first stays. The newest is used: whoever dials anew has lost the
    /// older one. Tunnels to an earlier start of the process are dead, but for those of one that it takes over from.
    pub(super) fn take(&self, tunnel: &Tunnel, we_are_smaller: bool) -> Offer {
        let mut ways = lock(&self.ways);
        let hello = &tunnel.peer().hello;
        let tunnels = self.tunnels.load_full();
        let (mut keep, stale): (Vec<_>, Vec<_>) =
            tunnels.iter().cloned().partition(|t| t.peer().hello.lives_beside(hello));
        for old in stale {
            old.close(CloseCode::Shutdown, "the peer has restarted");
        }
        // Only the dialler knows why it dialled, so only it judges: it has one that is open, or the peer's own dial stays.
        let boot = hello.boot;
        let ours = |t: &Tunnel| stays(t) && t.dialled() && t.lane() == tunnel.lane();
        let theirs = |t: &Tunnel| stays(t) && !t.dialled() && !we_are_smaller;
        let alike = |t: &Tunnel| t.carrier() == tunnel.carrier() && t.peer().hello.boot == boot;
        if tunnel.dialled() && keep.iter().any(|t| alike(t) && (ours(t) || theirs(t))) {
            return Offer::Duplicate;
        }
        tunnel.notify_when_busy(self.busy.clone());
        keep.push(tunnel.clone());
        let of_it = |t: &Tunnel| t.peer().hello.boot == boot;
        let idle = |t: &Tunnel| of_it(t) && !t.is(tunnel) && t.outstanding() + t.serving() == 0;
        if keep.iter().filter(|t| of_it(t)).count() > TUNNELS_MAX
            && let Some(oldest) = keep.iter().position(idle).or_else(|| keep.iter().position(of_it))
        {
            // Whoever dials again and again has lost the oldest, or wants our memory. One on which something is under way
            // may be an old one that is replaced.
            keep.remove(oldest).close(CloseCode::DuplicateTunnel, "too many tunnels of one gateway");
        }
        let now = Instant::now();
        let transition = ways.tunnel_up(now, way_of(tunnel), tunnel.rtt());
        for way in Way::ALL.into_iter().filter(|way| !keep.iter().any(|t| way_of(t) == *way)) {
            // Lost with the earlier start, if it was there; the peer is up all the same.
            let _ = ways.lost(now, way, "the peer has restarted", false);
        }
        self.tunnels.store(Arc::new(keep));
        self.apply(&ways, transition);
        Offer::Taken
    }

    /// Tunnels that are to be closed now that others on the same carrier are there: those to be replaced, if something
    /// has replaced them, and those that we dialled where one of the peer's dials is to stay. Of two processes of which one
    /// takes over each keeps its own: it may have much to end.
    pub fn replaced(&self, us: &Peers) -> Vec<Tunnel> {
        let we_are_smaller = us.are_smaller_than(self);
        let tunnels = self.tunnels.load();
        let ends = |t: &&Tunnel| {
            let alike = |other: &&Tunnel| {
                other.carrier() == t.carrier() && other.peer().hello.boot == t.peer().hello.boot
            };
            let mut staying = tunnels.iter().filter(alike).filter(|other| stays(other));
            let boot = t.peer().hello.boot;
            (t.is_retiring() && !self.is_taken_over(boot) && staying.clone().next().is_some())
                || (t.dialled() && !we_are_smaller && staying.any(|other| !other.dialled()))
        };
        tunnels.iter().filter(ends).cloned().collect()
    }

    pub(super) fn drop_tunnel(&self, tunnel: &Tunnel, reason: &CloseReason) {
        let mut ways = lock(&self.ways);
        let before = self.tunnels.load_full();
        let left: Vec<Tunnel> = before.iter().filter(|t| !t.is(tunnel)).cloned().collect();
        let way = way_of(tunnel);
        // A duplicate was never among them.
        let lost = left.len() < before.len() && !left.iter().any(|t| way_of(t) == way);
        self.tunnels.store(Arc::new(left));
        if lost {
            let transition = ways.lost(Instant::now(), way, &reason.text, reason.cut);
            self.apply(&ways, transition);
            // What is in doubt is to be asked at once.
            self.busy.notify_one();
        }
    }

    /// Closes the tunnels of a way on which nothing comes, while the peer is up on another: what is on them fails at once,
    /// and goes that way.
    pub(super) fn give_up(&self, way: Way) {
        for tunnel in self.tunnels.load().iter().filter(|t| way_of(t) == way) {
            let carrier = tunnel.carrier();
            let why = format!("{carrier} is silent, another carrier works");
            let what = format!("gateway {} of {}", self.id, self.cluster);
            audit::change_by(
                &what,
                "tunnel given up",
                &what,
                &why,
                format_args!("{} requests on their way on it", tunnel.outstanding()),
            );
            tunnel.close(CloseCode::Unresponsive, &why);
        }
    }

    /// Makes a change of state known. Called with the ways locked, so that changes are seen in their order.
    pub(super) fn apply(&self, ways: &Ways, transition: Option<Transition>) {
        self.quic_fails.store(ways.of(Way::Quic) != State::Up, Ordering::Relaxed);
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
        self.news.tell();
    }
}

/// What a tunnel can fail with.
pub(super) fn way_of(tunnel: &Tunnel) -> Way {
    match tunnel.carrier() {
        Kind::Quic => Way::Quic,
        Kind::Tcp | Kind::Unix => Way::Stream,
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
