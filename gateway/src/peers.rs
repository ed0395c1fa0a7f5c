//! The other clusters' gateways: which are there, how they are, and the tunnels to them.
//!
//! [`Peers`] follows the links; within it everything is atomics and swapped lists, so that a request looks without a
//! lock. Each [`PeerGateway`] is watched by one task (`watch`), each address of a link is dialled by one (`dial`).

mod address;
mod cluster;
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

use identity::Role;
use proto::code::CloseCode;
use registry::model::{ClusterName, Link};
use tokio::sync::watch as changes;
use tokio_util::sync::CancellationToken;
use tunnel::{Congestion, Peer, Shaping, Tunnel};

use crate::base::clock::unix_ms;
use crate::base::news::News;
use crate::telemetry::audit;
use crate::telemetry::limited::limited;

use self::pace::Gate;
pub use cluster::PeerCluster;
pub use dial::{Dialler, Pace, each_address, keep_dialling};
pub use gateway::PeerGateway;
pub use learned::each_learned;
pub use over::{Over, Overs};
pub use own::own;
pub use questions::Questions;
pub use replace::{MOVE_OVER, close_replaced};
pub use watch::watch;

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
    /// Whether tunnels are dialled: not while another process takes over, which dials its own.
    dials: changes::Sender<bool>,
    /// Cancelled when the process drains.
    stop: CancellationToken,
}

type Clusters = BTreeMap<ClusterName, Arc<PeerCluster>>;

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

/// How the tunnels of `link` may use their paths.
fn shaping(link: &Link) -> Shaping {
    let congestion = match link.congestion {
        registry::model::Congestion::Ringway => Congestion::Ringway,
        registry::model::Congestion::Cubic => Congestion::Cubic,
        registry::model::Congestion::NewReno => Congestion::NewReno,
        registry::model::Congestion::Bbr => Congestion::Bbr,
    };
    Shaping { congestion, rate_max: link.max_rate }
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
            dials: changes::Sender::new(true),
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
            cluster.shape(shaping(link));
            (link.cluster.clone(), cluster)
        });
        self.clusters.send_replace(Arc::new(after.collect()));
        // Only now: whoever offers a tunnel looks whether its cluster is still there after it has put it up.
        for gone in before.values().filter(|cluster| !links.contains_key(&cluster.name)) {
            gone.stop.cancel();
            gone.close("the link was removed");
        }
    }

    /// Whether tunnels are dialled from now on.
    pub fn dial(&self, do_so: bool) {
        self.dials.send_replace(do_so);
    }

    /// Waits until tunnels are dialled.
    pub async fn dials(&self) {
        // `self` holds the sender.
        let _ = self.dials.subscribe().wait_for(|do_so| *do_so).await;
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
        let link = cluster.link();
        tunnel.shape(shaping(&link));
        let changed = cluster.link();
        if !Arc::ptr_eq(&link, &changed) {
            // After it was read, and perhaps before this tunnel could be found.
            tunnel.shape(shaping(&changed));
        }
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

    /// Forgets gateways that have gone for good.
    pub fn forget_gone(&self) {
        let now = unix_ms();
        self.iter().for_each(|cluster| cluster.forget_gone(cluster.has_tunnel(), now));
    }
}
