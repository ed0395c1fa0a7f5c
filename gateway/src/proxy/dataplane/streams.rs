//! What the other ends of tunnels open: exchanges, connections and flows are served here, streams of messages are handed to
//! the control plane.

use std::fmt::Display;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use proto::stream::StreamKind;
use registry::model::ClusterName;
use registry::pure::registration::place::CameFrom;
use tokio::task::spawn_local;
use tracing::debug;
use tunnel::{Begun, Fate, Peer, PeerAddress, Tunnel};

use super::Plane;
use crate::base::line::Line;
use crate::peers::questions;
use crate::peers::sidecars::{
    LOOKUPS_EACH_MAX, LOOKUPS_OF_ONE_MAX, REGISTRARS_EACH_MAX, REQUESTS_EACH_MAX, REQUESTS_OF_ONE_MAX,
};
use crate::peers::{Over, PeerCluster};
use crate::proxy::inbound::{self, Asker};
use crate::proxy::outbound::{self, call, connection};
use crate::proxy::worker::{
    LookupStream, ObjectsStream, RegisterStream, SIDECAR_REQUESTS_MAX, Serving, SyncStream, Who, Worker,
};
use crate::telemetry::limited::limited;
use crate::telemetry::metrics::InProgress;

/// Serves every stream that a sidecar opens on its tunnel.
pub(super) async fn of_sidecar(plane: Rc<Plane>, tunnel: Tunnel) {
    let peer = Rc::new(tunnel.peer().clone());
    let caller: Rc<str> = peer.identity.to_string().into();
    let workload = plane.control.sidecars.workload(&caller);
    tunnel.share(&workload.unread);
    let (asking, registering) = (Arc::<InProgress>::default(), Arc::<InProgress>::default());
    let looking_up = Arc::<InProgress>::default();
    while let Ok(accepted) = tunnel.accept().await {
        let (plane, tunnel, peer, caller) = (plane.clone(), tunnel.clone(), peer.clone(), caller.clone());
        let (of_all, of_it) = (plane.control.sidecars.asking.clone(), asking.clone());
        let (registering, looking_up) = (registering.clone(), looking_up.clone());
        let workload = workload.clone();
        // Ends with its stream; streams are limited per tunnel by the transport.
        spawn_local(async move {
            match accepted.begin().await {
                Ok(Begun::Messages(StreamKind::Lookup, reader, writer)) => {
                    let rooms =
                        (looking_up.enter(LOOKUPS_EACH_MAX), workload.lookups.enter(LOOKUPS_OF_ONE_MAX));
                    let (Some(of_it), Some(of_all)) = rooms else {
                        return debug!(%caller, "Too many lookup streams; refused.");
                    };
                    let sidecar = peer.hello.gateway.clone();
                    let room = [of_it, of_all];
                    let stream = LookupStream { sidecar, workload, reader, writer, room };
                    if plane.control.lookups.try_send(stream).is_err() {
                        debug!("Lookup queue full; the sidecar retries.");
                    }
                }
                Ok(Begun::Messages(StreamKind::Register, reader, writer)) => {
                    let Some(who) = Who::workload(&peer.identity) else { return };
                    let from = match tunnel.remote_address() {
                        PeerAddress::Process(_) => CameFrom::Host,
                        PeerAddress::Ip(address) => CameFrom::Address(address.ip()),
                    };
                    let room = registering.enter(REGISTRARS_EACH_MAX);
                    if room.is_none() {
                        return debug!(%caller, "Too many register streams of one tunnel; refused.");
                    }
                    let line = Line::tunnel(reader, writer);
                    let stream = RegisterStream { who, from, line, room };
                    if plane.control.registrars.try_send(stream).is_err() {
                        debug!("Register queue full; the sidecar retries.");
                    }
                }
                Ok(Begun::Messages(kind, ..)) => {
                    debug!(%caller, ?kind, "Rejected stream: not for sidecars.");
                }
                Ok(begun) => {
                    let rooms = [
                        of_all.enter(SIDECAR_REQUESTS_MAX),
                        workload.asking.enter(REQUESTS_OF_ONE_MAX),
                        of_it.enter(REQUESTS_EACH_MAX),
                    ];
                    let (worker, clock) = (&plane.worker, plane.worker.shared.clock);
                    let began = clock.now();
                    let has_room = rooms.iter().all(Option::is_some) && workload.resets.admits(began);
                    let fate = serve_asked(worker, &peer, &caller, begun, has_room).await;
                    let Some(fate) = fate else { return };
                    if workload.resets.ended(fate.answered(), began, clock.now()) {
                        say_gives_up(&caller);
                    }
                }
                Err(error) => debug!(%caller, %error, "Rejected stream: missing or unknown stream type."),
            }
        });
    }
}

/// Serves what a sidecar opened to be answered, if it has room; how it was.
async fn serve_asked(
    worker: &Rc<Worker>,
    peer: &Peer,
    caller: &str,
    begun: Begun,
    has_room: bool,
) -> Option<Fate> {
    if !has_room {
        outbound::shed_sidecar(worker, caller, begun.into_exchange()?);
        return None;
    }
    let fate = begun.exchange()?.fate();
    // A task is moved as a whole until it is polled, and again at its end: this is most of it.
    match begun {
        Begun::Connection(exchange) => {
            Box::pin(connection::serve_sidecar(worker, peer, caller, exchange, None)).await;
        }
        Begun::Datagrams(exchange, datagrams) => {
            Box::pin(connection::serve_sidecar(worker, peer, caller, exchange, Some(datagrams))).await;
        }
        Begun::Exchange(exchange) => {
            Box::pin(outbound::serve_sidecar(worker, peer, caller, exchange)).await;
        }
        Begun::Call(exchange) => Box::pin(call::serve_sidecar(worker, peer, caller, exchange)).await,
        Begun::Messages(..) => return None,
    }
    Some(fate)
}

/// Serves every stream that the peer opens on a tunnel.
pub(super) async fn of_peer(plane: Rc<Plane>, cluster: Arc<PeerCluster>, tunnel: Tunnel) {
    let peer = Rc::new(tunnel.peer().clone());
    while let Ok(accepted) = tunnel.accept().await {
        let (plane, cluster, peer) = (plane.clone(), cluster.clone(), peer.clone());
        // Ends with its stream; streams are limited per tunnel by the transport.
        spawn_local(async move {
            match accepted.begin().await {
                Ok(Begun::Messages(StreamKind::Sync, reader, writer)) => {
                    let Ok(peer) = ClusterName::new(&peer.hello.cluster) else { return };
                    if plane.control.syncs.try_send(SyncStream { peer, reader, writer }).is_err() {
                        debug!("Sync queue full; the peer retries.");
                    }
                }
                Ok(Begun::Messages(StreamKind::Objects, reader, writer)) => {
                    let line = Line::tunnel(reader, writer);
                    if cluster.link().allow_apply.is_empty() {
                        return questions::refuse(&cluster.name, line).await;
                    }
                    let stream = ObjectsStream { peer: cluster.name.clone(), line };
                    if plane.control.objects.try_send(stream).is_err() {
                        debug!(peer = %cluster.name, "Objects queue full; the peer retries.");
                    }
                }
                Ok(Begun::Messages(kind, ..)) => {
                    debug!(peer = %peer.hello.cluster, ?kind, "Rejected stream: for sidecars only.");
                }
                Ok(begun) => {
                    let (serving, clock) = (&plane.worker.serving, plane.worker.shared.clock);
                    let began = clock.now();
                    let asker = Asker { name: &cluster.name, asking: &cluster.asking, gateway: &peer };
                    let admitted = cluster.resets.admits(began);
                    if !admitted {
                        cluster.over.note(&cluster.name, Over::Resets, Instant::now());
                    }
                    let Some(fate) = serve_peer(serving, asker, begun, admitted).await else { return };
                    // What it is refused for is said there.
                    let _ = cluster.resets.ended(fate.answered(), began, clock.now());
                }
                Err(error) => {
                    debug!(peer = %peer.hello.cluster, %error, "Rejected stream: missing or unknown stream type.")
                }
            }
        });
    }
}

/// Serves what a linked cluster opened to be answered, if that is admitted; how it was.
async fn serve_peer(serving: &Serving, asker: Asker<'_>, begun: Begun, admitted: bool) -> Option<Fate> {
    if !admitted {
        inbound::shed(serving, asker, begun.into_exchange()?);
        return None;
    }
    let fate = begun.exchange()?.fate();
    // A task is moved as a whole until it is polled, and again at its end: this is most of it.
    match begun {
        Begun::Exchange(exchange) => Box::pin(inbound::serve(serving, asker, exchange)).await,
        Begun::Call(exchange) => Box::pin(inbound::serve_call(serving, asker, exchange)).await,
        Begun::Connection(exchange) => {
            Box::pin(inbound::serve_connection(serving, asker, exchange, None)).await;
        }
        Begun::Datagrams(exchange, datagrams) => {
            Box::pin(inbound::serve_connection(serving, asker, exchange, Some(datagrams))).await;
        }
        Begun::Messages(..) => return None,
    }
    Some(fate)
}

/// `who` opens exchanges and resets them.
fn say_gives_up(who: &dyn Display) {
    limited!(
        WARN, KNOWN, who,
        "Caller over its reset budget; refusing its requests until resets subside.", %who
    );
}
