//! The other clusters' gateways: which are there, how they are, and the tunnels to them.
//!
//! [`Peers`] follows the links; within it everything is atomics and swapped lists, so that a request looks without a
//! lock. Each [`PeerGateway`] is watched by one task (`watch`), each address of a link is dialled by one (`dial`).

mod address;
mod dial;
mod gateway;
mod learned;
mod over;
mod own;
mod pace;
pub mod questions;
mod replace;
pub mod resets;
pub mod sidecars;
#[cfg(test)]
mod tests;
mod watch;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use arc_swap::ArcSwap;
use identity::Role;
use proto::code::CloseCode;
use proto::limits::{
    GATEWAY_KEPT, PEER_GATEWAYS_MAX, PEER_TUNNELS_MAX, PEER_UNREAD_BYTES_MAX, QUOTED_BYTES_MAX,
};
use proto::text::clean;
use registry::model::{ClusterName, HostPort, Link};
use tokio::sync::{Notify, watch as changes};
use tokio_util::sync::CancellationToken;
use tunnel::{Account, CloseReason, Kind, Peer, Tunnel};

use crate::base::clock::unix_ms;
use crate::base::news::News;
use crate::peers::resets::ResetBudget;
use crate::telemetry::audit;
use crate::telemetry::limited::limited;
use crate::telemetry::metrics::InProgress;
use policy::facts::Told;
use policy::health::State;
use policy::placement::Availability;

use self::address::Classes;
use self::learned::Learned;
use self::pace::{Gate, Sockets};
pub use dial::{Dialler, Pace, each_address, keep_dialling};
pub use gateway::PeerGateway;
pub use learned::each_learned;
pub use over::{OVER_BUDGET, Over, Overs};
pub use own::own;
pub use questions::Questions;
pub use replace::close_replaced;
pub use watch::watch;

/// Requests that a linked cluster may give up before they are answered: more than callers who go away do by themselves;
/// and as many as it may have under way, once so many were answered.
const RESETS: resets::Limits = resets::Limits { per_second: 256, free: 1024, earned: 8192 };

/// All peers, by cluster.
#[derive(Debug)]
pub struct Peers {
    /// Our own place in the order that decides whose dials stay.
    us: (String, String),
    /// Swapped whole when links come or go. Requests do not look here: views hold the clusters themselves.
    clusters: changes::Sender<Arc<Clusters>>,
    /// Bounds dials of told addresses of all clusters.
    gate: Gate,
    /// Told of whatever changes of any of them.
    news: News,
    /// Cancelled when the process drains.
    stop: CancellationToken,
}

type Clusters = BTreeMap<ClusterName, Arc<PeerCluster>>;

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
    news: News,
    link: changes::Sender<Arc<Link>>,
    gateways: ArcSwap<Vec<Arc<PeerGateway>>>,
    /// Held while that list changes.
    roster: Mutex<()>,
    /// The UID it showed first; another one under the same name is another cluster.
    uid: Mutex<Option<[u8; 16]>>,
    /// Where each of its gateways says that it and the others may be dialled.
    learned: Mutex<Learned>,
    /// Told when there is news in it.
    told: Notify,
    /// What the addresses of the link are to this host, as far as they were resolved.
    named: Mutex<BTreeMap<HostPort, Classes>>,
    /// Bounds dials of told addresses.
    gate: Gate,
    /// The pace of each.
    sockets: Mutex<Sockets>,
    /// Of each carrier that is dialled.
    last_errors: Mutex<BTreeMap<Kind, String>>,
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

impl Peers {
    /// The peers of `links`, none of them reached yet, as seen by the gateway `id` of `cluster`, until `stop`.
    pub fn new(
        cluster: &ClusterName,
        id: &str,
        links: &BTreeMap<ClusterName, Link>,
        stop: CancellationToken,
    ) -> Self {
        let us = (cluster.to_string(), id.to_owned());
        let peers = Self {
            us,
            clusters: changes::Sender::default(),
            news: News::default(),
            gate: Gate::of_all(),
            stop,
        };
        peers.relink(links);
        peers
    }

    /// Follows a change of the links: what stays keeps its tunnels, what is gone loses them at once.
    pub fn relink(&self, links: &BTreeMap<ClusterName, Link>) {
        let before = self.all();
        let after = links.values().map(|link| {
            let cluster = before.get(&link.cluster).cloned();
            let cluster =
                cluster.unwrap_or_else(|| Arc::new(PeerCluster::new(link, self.news.clone(), &self.stop)));
            cluster.link.send_if_modified(|known| {
                let differs = **known != *link;
                if differs {
                    *known = Arc::new(link.clone());
                }
                differs
            });
            (link.cluster.clone(), cluster)
        });
        self.clusters.send_replace(Arc::new(after.collect()));
        // Only now: whoever offers a tunnel looks whether its cluster is still there after it has put it up.
        for gone in before.values().filter(|cluster| !links.contains_key(&cluster.name)) {
            gone.stop.cancel();
            gone.close("the link was removed");
        }
    }

    /// Where every change is told of how a peer is, of its tunnels, and of what it tells of its services.
    pub fn news(&self) -> &News {
        &self.news
    }

    /// Calls `begin` for every linked cluster, and for each that is linked later, until the process drains.
    pub async fn each(&self, mut begin: impl FnMut(Arc<PeerCluster>)) {
        let mut changes = self.clusters.subscribe();
        let mut begun: Arc<Clusters> = Arc::default();
        while !self.stop.is_cancelled() {
            let now = changes.borrow_and_update().clone();
            for (name, cluster) in now.iter() {
                if !begun.get(name).is_some_and(|known| Arc::ptr_eq(known, cluster)) {
                    begin(cluster.clone());
                }
            }
            begun = now;
            tokio::select! {
                () = self.stop.cancelled() => {}
                // `self` holds the sender.
                _ = changes.changed() => {}
            }
        }
    }

    fn all(&self) -> Arc<Clusters> {
        self.clusters.borrow().clone()
    }

    /// A linked cluster.
    pub fn get(&self, cluster: &ClusterName) -> Option<Arc<PeerCluster>> {
        self.clusters.borrow().get(cluster).cloned()
    }

    /// All clusters linked at the moment, by name.
    pub fn iter(&self) -> impl Iterator<Item = Arc<PeerCluster>> {
        self.all().values().cloned().collect::<Vec<_>>().into_iter()
    }

    /// The last word on a peer whose certificate and HELLO agree: is there a link, and is it the cluster that it was?
    ///
    /// # Errors
    /// The code to close with, and why.
    pub fn admit(&self, peer: &Peer) -> Result<(), (CloseCode, String)> {
        if self.stop.is_cancelled() {
            return Err((CloseCode::Shutdown, "this process drains".into()));
        }
        if !matches!(peer.identity.role, Role::Gateway { .. }) {
            return Err((CloseCode::WrongPeer, format!("{} is no gateway", peer.identity)));
        }
        let name = &peer.hello.cluster;
        let cluster = self
            .cluster_of(peer)
            .ok_or_else(|| (CloseCode::LinkRemoved, format!("there is no link to cluster `{name}` here")))?;
        cluster.has_room().map_err(|text| (CloseCode::DuplicateTunnel, text))?;
        if self.is_own(peer) {
            return Ok(());
        }
        let mut uid = lock(&cluster.uid);
        match *uid {
            Some(known) if known != peer.hello.cluster_uid && cluster.has_tunnel() => {
                let text = format!(
                    "another cluster named `{name}` is linked and up; every cluster needs its own name"
                );
                limited!(
                    WARN, KNOWN, name, "Refused a tunnel: DuplicateCluster.",
                    peer = %name, gateway = %peer.hello.gateway, why = text
                );
                return Err((CloseCode::DuplicateCluster, text));
            }
            Some(known) if known != peer.hello.cluster_uid => {
                audit::change_by(
                    name,
                    "cluster has a new UID and is taken over",
                    format_args!("cluster {name}"),
                    "its state was lost, or it was rebuilt",
                    "nothing by itself",
                );
            }
            _ => {}
        }
        *uid = Some(peer.hello.cluster_uid);
        Ok(())
    }

    /// Whether our own dials stay where `gateway` dials us too.
    fn are_smaller_than(&self, gateway: &PeerGateway) -> bool {
        (self.us.0.as_str(), self.us.1.as_str()) < (gateway.cluster.as_str(), gateway.id.as_str())
    }

    /// Takes nothing new from any peer: they place elsewhere, and what is under way goes on.
    pub fn go_away(&self, reason: &str) {
        for cluster in self.iter() {
            for gateway in cluster.gateways().iter() {
                gateway.tunnels().iter().for_each(|tunnel| tunnel.go_away(reason));
            }
        }
    }

    /// Takes a tunnel into use, unless there is a better one to the same gateway already. `None`: the link was removed
    /// or the process drains, and the tunnel is closed.
    pub fn offer(&self, tunnel: &Tunnel) -> Option<(Arc<PeerCluster>, Arc<PeerGateway>, Offer)> {
        let Some(cluster) = self.cluster_of(tunnel.peer()) else {
            tunnel.close(CloseCode::LinkRemoved, "the link was removed");
            return None;
        };
        // Two clusters of one name may have been admitted at the same moment.
        let uid = Some(tunnel.peer().hello.cluster_uid);
        if !self.is_own(tunnel.peer()) && *lock(&cluster.uid) != uid {
            tunnel.close(CloseCode::DuplicateCluster, "another cluster of this name is linked");
            return None;
        }
        // And more than there is room for.
        if let Err(text) = cluster.has_room() {
            tunnel.close(CloseCode::DuplicateTunnel, &text);
            return None;
        }
        let taken = cluster.take(tunnel, |gateway| self.are_smaller_than(gateway));
        let Some((gateway, new, offer)) = taken else {
            cluster.over.note(&cluster.name, Over::Gateways, Instant::now());
            tunnel.close(CloseCode::DuplicateTunnel, "too many gateways of this cluster have tunnels");
            return None;
        };
        tunnel.share(&cluster.unread);
        if self.stop.is_cancelled() {
            // Too late to be told GOAWAY with the others.
            tunnel.go_away("the gateway drains");
        } else if cluster.stop.is_cancelled() {
            cluster.close("the link was removed");
        }
        cluster.tunnels_changed();
        let offer = if new && offer == Offer::Taken { Offer::TakenFromNew } else { offer };
        Some((cluster, gateway, offer))
    }

    /// Whether it is of our own cluster, as a sidecar's gateways are: then its certificate says all.
    fn is_own(&self, peer: &Peer) -> bool {
        peer.hello.cluster == self.us.0
    }

    fn cluster_of(&self, peer: &Peer) -> Option<Arc<PeerCluster>> {
        let clusters = self.clusters.borrow();
        let found = clusters.iter().find(|(name, _)| name.as_str() == peer.hello.cluster);
        found.map(|(_, cluster)| cluster.clone())
    }
}

impl PeerCluster {
    fn new(link: &Link, news: News, stop: &CancellationToken) -> Self {
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
    fn has_room(&self) -> Result<(), String> {
        if self.tunnels() < PEER_TUNNELS_MAX {
            return Ok(());
        }
        self.over.note(&self.name, Over::Tunnels, Instant::now());
        Err(format!("`{}` has {PEER_TUNNELS_MAX} tunnels to this gateway, and may have no more", self.name))
    }

    /// A tunnel came or went, or shall be replaced.
    fn tunnels_changed(&self) {
        // Requests decide anew; and whoever speaks on tunnels begins anew on a new one.
        self.changed.notify_waiters();
        self.news.tell();
    }

    /// Closes every tunnel at once, for a link that does not hold any more.
    fn close(&self, reason: &str) {
        for gateway in self.gateways().iter() {
            gateway.tunnels().iter().for_each(|tunnel| tunnel.close(CloseCode::LinkRemoved, reason));
        }
    }

    /// Its tunnels, those included that are to be closed.
    fn tunnels(&self) -> usize {
        self.gateways.load().iter().map(|gateway| gateway.tunnels().len()).sum()
    }

    fn has_tunnel(&self) -> bool {
        self.gateways.load().iter().any(|g| g.has_open_tunnel())
    }

    /// Offers a tunnel to the gateway that it leads to; true: that one is new. None: there are too many, and all of them
    /// have tunnels.
    fn take(
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
    fn forget_gone(&self, there: bool, now_unix_ms: u64) {
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

impl Peers {
    /// Forgets gateways that have gone for good.
    pub fn forget_gone(&self) {
        let now = unix_ms();
        self.iter().for_each(|cluster| cluster.forget_gone(cluster.has_tunnel(), now));
    }
}
