//! A linked cluster: its gateways, the tunnels to them, and what it may cost.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use arc_swap::ArcSwap;
use proto::code::CloseCode;
use proto::limits::{
    GATEWAY_KEPT, PEER_GATEWAYS_MAX, PEER_TUNNELS_MAX, PEER_UNREAD_BYTES_MAX, QUOTED_BYTES_MAX,
};
use proto::text::clean;
use registry::model::{ClusterName, HostPort, Link};
use tokio::sync::{Notify, watch as changes};
use tokio_util::sync::CancellationToken;
use tunnel::{Account, CloseReason, Kind, Tunnel};

use super::address::Classes;
use super::learned::Learned;
use super::pace::{Gate, Sockets};
use super::resets::{self, ResetBudget};
use super::{Offer, Over, Overs, PeerGateway, Questions, lock};
use crate::base::news::News;
use crate::telemetry::metrics::InProgress;
use policy::facts::Told;
use policy::health::State;
use policy::placement::Availability;

/// Requests that a linked cluster may give up before they are answered: more than callers who go away do by themselves;
/// and as many as it may have under way, once so many were answered.
const RESETS: resets::Limits = resets::Limits { per_second: 256, free: 1024, earned: 8192 };

/// A linked cluster.
#[derive(Debug)]
pub struct PeerCluster {
    /// Its name.
    pub name: ClusterName,
    /// Told whenever a tunnel comes or goes, or shall be replaced.
    pub changed: Notify,
    /// Cancelled when the link is removed, and when the process drains.
    pub stop: CancellationToken,
    /// What it tells of its services.
    pub facts: Told,
    /// Its requests that we work on.
    pub asking: Arc<InProgress>,
    /// Where it goes over what a peer may cost.
    pub over: Overs,
    /// Those that it may give up before they are answered.
    pub resets: ResetBudget,
    /// What it may have unread here over all its tunnels.
    pub unread: Arc<Account>,
    /// What it may ask of us about objects.
    pub questions: Questions,
    pub(super) news: News,
    pub(super) link: changes::Sender<Arc<Link>>,
    pub(super) gateways: ArcSwap<Vec<Arc<PeerGateway>>>,
    /// Held while that list changes.
    roster: Mutex<()>,
    /// The UID it showed first; another one under the same name is another cluster.
    pub(super) uid: Mutex<Option<[u8; 16]>>,
    /// Where each of its gateways says that it and the others may be dialled.
    pub(super) learned: Mutex<Learned>,
    /// Told when there is news in it.
    pub(super) told: Notify,
    /// What the addresses of the link are to this host, as far as they were resolved.
    pub(super) named: Mutex<BTreeMap<HostPort, Classes>>,
    /// Bounds dials of told addresses.
    pub(super) gate: Gate,
    /// The pace of each.
    pub(super) sockets: Mutex<Sockets>,
    /// Of each carrier that is dialled.
    last_errors: Mutex<BTreeMap<Kind, String>>,
}

impl PeerCluster {
    pub(super) fn new(link: &Link, news: News, stop: &CancellationToken) -> Self {
        Self {
            name: link.cluster.clone(),
            changed: Notify::new(),
            stop: stop.child_token(),
            facts: Told::default(),
            asking: Arc::default(),
            over: Overs::default(),
            resets: ResetBudget::new(RESETS),
            unread: Account::new(PEER_UNREAD_BYTES_MAX),
            questions: Questions::default(),
            news,
            link: changes::Sender::new(Arc::new(link.clone())),
            gateways: ArcSwap::default(),
            roster: Mutex::default(),
            uid: Mutex::default(),
            learned: Mutex::default(),
            told: Notify::new(),
            named: Mutex::default(),
            gate: Gate::of_cluster(),
            sockets: Mutex::default(),
            last_errors: Mutex::default(),
        }
    }

    /// The link as it is declared at the moment.
    pub fn link(&self) -> Arc<Link> {
        self.link.borrow().clone()
    }

    /// Hears of every change of the link.
    pub fn link_changes(&self) -> changes::Receiver<Arc<Link>> {
        self.link.subscribe()
    }

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

    /// A tunnel for the next request: one with room if there is one, of a gateway that is up, the preferred, the least loaded; there
    /// rather one that `worker` owns.
    pub fn pick(&self, worker: Option<u8>) -> Option<(Arc<PeerGateway>, Tunnel)> {
        self.pick_but(worker, &[])
    }

    /// As [`Self::pick`], but none of the tunnels in `tried`.
    pub fn pick_but(&self, worker: Option<u8>, tried: &[Tunnel]) -> Option<(Arc<PeerGateway>, Tunnel)> {
        let gateways = self.gateways.load();
        let mut best = None::<(_, &Arc<PeerGateway>, Tunnel)>;
        for gateway in gateways.iter().filter(|g| g.state() != State::Down) {
            let suspect = gateway.state() == State::Suspect;
            let Some(tunnel) = gateway.tunnel_but(worker, tried) else { continue };
            let rank = (!tunnel.has_room(), suspect, gateway.preference(), tunnel.outstanding());
            if best.as_ref().is_none_or(|b| rank < b.0) {
                best = Some((rank, gateway, tunnel));
            }
        }
        best.map(|(_, gateway, tunnel)| (gateway.clone(), tunnel))
    }

    /// Whether another process is about to take over from the one at the other end of `tunnel`, or has.
    pub fn is_taken_over(&self, tunnel: &Tunnel) -> bool {
        let boot = tunnel.peer().hello.boot;
        self.gateways.load().iter().any(|gateway| gateway.is_taken_over(boot))
    }

    /// Why the last dial failed, of each carrier that is not up for that reason.
    pub fn last_error(&self) -> Option<String> {
        let errors = lock(&self.last_errors);
        let errors: Vec<_> = errors.iter().map(|(carrier, error)| format!("{carrier} {error}")).collect();
        (!errors.is_empty()).then(|| errors.join("; "))
    }

    /// How the last dial on a carrier ended.
    pub fn dialled(&self, carrier: Kind, error: Option<String>) {
        let mut errors = lock(&self.last_errors);
        match error {
            // The peer tells addresses and says why it refuses.
            Some(error) => errors.insert(carrier, clean(&error, QUOTED_BYTES_MAX)),
            None => errors.remove(&carrier),
        };
    }

    /// A tunnel to `gateway` has ended.
    pub fn ended(&self, gateway: &PeerGateway, tunnel: &Tunnel, reason: &CloseReason) {
        gateway.drop_tunnel(tunnel, reason);
        self.tunnels_changed();
    }

    /// Whether there may be another tunnel of it.
    pub(super) fn has_room(&self) -> Result<(), String> {
        if self.tunnels() < PEER_TUNNELS_MAX {
            return Ok(());
        }
        self.over.note(&self.name, Over::Tunnels, Instant::now());
        Err(format!("`{}` has {PEER_TUNNELS_MAX} tunnels to this gateway, and may have no more", self.name))
    }

    /// How its tunnels may use their paths from now on.
    pub(super) fn shape(&self, shaping: tunnel::Shaping) {
        let gateways = self.gateways.load();
        gateways.iter().for_each(|gateway| gateway.tunnels().iter().for_each(|tunnel| tunnel.shape(shaping)));
    }

    /// A tunnel came or went, or shall be replaced.
    pub(super) fn tunnels_changed(&self) {
        // Requests decide anew; and whoever speaks on tunnels begins anew on a new one.
        self.changed.notify_waiters();
        self.news.tell();
    }

    /// Closes every tunnel at once, for a link that does not hold any more.
    pub(super) fn close(&self, reason: &str) {
        for gateway in self.gateways().iter() {
            gateway.tunnels().iter().for_each(|tunnel| tunnel.close(CloseCode::LinkRemoved, reason));
        }
    }

    /// Its tunnels, those included that are to be closed.
    fn tunnels(&self) -> usize {
        self.gateways.load().iter().map(|gateway| gateway.tunnels().len()).sum()
    }

    pub(super) fn has_tunnel(&self) -> bool {
        self.gateways.load().iter().any(|g| g.has_open_tunnel())
    }

    /// Offers a tunnel to the gateway that it leads to; true: that one is new. None: there are too many, and all of them
    /// have tunnels.
    pub(super) fn take(
        &self,
        tunnel: &Tunnel,
        we_are_smaller: impl FnOnce(&PeerGateway) -> bool,
    ) -> Option<(Arc<PeerGateway>, bool, Offer)> {
        let id = &tunnel.peer().hello.gateway;
        // Until the tunnel is its own the gateway looks gone.
        let _roster = lock(&self.roster);
        let known = self.gateways.load_full();
        let (gateway, new) = match known.iter().find(|g| &g.id == id) {
            Some(gateway) => (gateway.clone(), false),
            None => {
                let mut list = known.to_vec();
                if list.len() >= PEER_GATEWAYS_MAX {
                    let gone = list.iter().filter(|g| g.is_gone());
                    let longest = gone.min_by_key(|g| g.since_unix_ms())?.clone();
                    longest.forget();
                    list.retain(|g| !Arc::ptr_eq(g, &longest));
                }
                let gateway =
                    Arc::new(PeerGateway::new(self.name.clone(), id.clone(), self.news.clone(), &self.stop));
                list.push(gateway.clone());
                self.gateways.store(Arc::new(list));
                (gateway, true)
            }
        };
        let offer = gateway.take(tunnel, we_are_smaller(&gateway));
        Some((gateway, new, offer))
    }

    /// Forgets gateways that have been gone for [`GATEWAY_KEPT`] at `now`, in Unix milliseconds, while some are `there`: a
    /// cluster that is gone as a whole shows its gateways until it is back.
    pub(super) fn forget_gone(&self, there: bool, now_unix_ms: u64) {
        let old = |gateway: &PeerGateway| {
            let gone_ms = now_unix_ms.saturating_sub(gateway.since_unix_ms());
            gateway.is_gone() && u128::from(gone_ms) >= GATEWAY_KEPT.as_millis()
        };
        let known = self.gateways.load();
        if !there || !known.iter().any(|g| old(g)) {
            return;
        }
        let _roster = lock(&self.roster);
        let (gone, left): (Vec<_>, Vec<_>) = self.gateways.load_full().iter().cloned().partition(|g| old(g));
        self.gateways.store(Arc::new(left));
        gone.iter().for_each(|gateway| gateway.forget());
    }
}
