//! The life of a tunnel to a gateway, from the moment it is up to its end.

use std::sync::Arc;

use tokio::task::spawn_local;
use tracing::debug;
use tunnel::{Driver, Event, Tunnel};

use super::{Offer, PeerCluster, Peers, close_replaced, watch};
use crate::base::clock::Clock;
use crate::telemetry::limited::limited;

/// Takes a tunnel into use: its gateway is watched, and tunnels that it replaces are closed. The future runs it to its
/// end; spawn it on the worker that owns the tunnel. `None`: it was closed.
pub fn own(
    peers: &Peers,
    clock: Clock,
    tunnel: &Tunnel,
    driver: Driver,
) -> Option<(Arc<PeerCluster>, impl Future<Output = ()> + 'static)> {
    let (cluster, gateway, offer) = peers.offer(tunnel)?;
    let (name, id) = (gateway.cluster.clone(), gateway.id.clone());
    match offer {
        Offer::Duplicate => debug!(peer = %name, gateway = %id, "Duplicate tunnel; closing it."),
        Offer::TakenFromNew | Offer::Taken => limited!(
            INFO, KNOWN, format_args!("{name}/{id}"), "Tunnel up.",
            peer = %name, gateway = %id, address = %tunnel.remote_address(), carrier = %tunnel.carrier(),
            dialled_by = if tunnel.dialled() { "us" } else { "peer" }
        ),
    }
    if offer == Offer::TakenFromNew {
        spawn_local(watch(gateway.clone(), clock.epoch()));
    }
    let mut replaced = gateway.replaced(peers);
    if offer == Offer::Duplicate {
        replaced.push(tunnel.clone());
    }
    for tunnel in replaced {
        spawn_local(close_replaced(tunnel));
    }
    let (tunnel, of) = (tunnel.clone(), cluster.clone());
    // What it said before a restart is said by nobody any more.
    let teller = format!("{id}/{}", tunnel.peer().hello.boot);
    let driving = async move {
        let on_event = |event| {
            gateway.on_event(&tunnel, &event, clock.epoch());
            match event {
                Event::GoingAway | Event::Retiring => cluster.tunnels_changed(),
                Event::Digest(digest) => {
                    if cluster.facts.tell(&teller, &digest, clock.now()) {
                        cluster.news.tell();
                    }
                }
                Event::TellAgain => gateway.ask_again(),
                Event::Gateways(gateways) => cluster.told_gateways(&gateway.id, &gateways),
                Event::Answered { .. } => {}
            }
        };
        let reason = driver.run(on_event).await;
        let by = format_args!("{name}/{id}");
        limited!(INFO, KNOWN, by, "Tunnel ended.", peer = %name, gateway = %id, %reason);
        cluster.ended(&gateway, &tunnel, &reason);
    };
    Some((of, driving))
}
