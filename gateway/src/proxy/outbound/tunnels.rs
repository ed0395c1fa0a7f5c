//! One attempt at a cluster: at its endpoints, or through which of the tunnels that lead there.

use std::time::Duration;

use tokio::time::Instant;
use tunnel::Tunnel;

use super::clusters::Target;
use crate::peers::PeerCluster;
use crate::proxy::worker::Worker;
use crate::view::LocalService;
use policy::retry::Failure;

/// How long what a sidecar sends waits for a gateway: a restart is over by then.
const GATEWAY_WAIT: Duration = Duration::from_secs(5);
/// How long the word of a gateway that leaves may come behind its refusal: streams have no order among them.
const LATE_WORD: Duration = Duration::from_millis(100);
/// Tunnels that one attempt may fail on: to a linked cluster, or from a sidecar to its gateways.
const TUNNELS_MAX: usize = 8;

/// Sends to `target`: to an endpoint of ours, or through a tunnel. Through another one after one that has processed nothing,
/// and from a sidecar also if that may be done twice, for what is `replayable`; as long as all of it is still `at_hand`.
pub(super) async fn attempt<'a, T>(
    worker: &Worker,
    target: Target<'a>,
    replayable: bool,
    at_hand: impl Fn() -> bool,
    to_endpoint: impl AsyncFnOnce(&'a LocalService) -> Result<T, Failure>,
    send: impl AsyncFn(&Tunnel) -> Result<T, Failure>,
) -> Result<T, Failure> {
    match target {
        Target::Local(local) => to_endpoint(local).await,
        Target::Peer(cluster, _, tunnel) => through(worker, cluster, tunnel, send, at_hand).await,
        Target::Gateways(cluster) => {
            let may_go_on = |failure| is_harmless(failure, replayable) && at_hand();
            through_any(worker, cluster, send, may_go_on).await
        }
    }
}

/// Sends through a tunnel to a peer; where nothing could be sent, for it has no room for another stream or has just ended,
/// through the next one, if all of it is still `at_hand`.
async fn through<T>(
    worker: &Worker,
    cluster: &PeerCluster,
    mut tunnel: Tunnel,
    send: impl AsyncFn(&Tunnel) -> Result<T, Failure>,
    at_hand: impl Fn() -> bool,
) -> Result<T, Failure> {
    let mut tried = Vec::new();
    loop {
        let sent = send(&tunnel).await;
        let unsent = match sent {
            Err(Failure::NotSent) => true,
            Err(Failure::Refused) => is_leaving(cluster, &tunnel),
            _ => false,
        };
        if !unsent || !at_hand() {
            return sent;
        }
        tried.push(tunnel);
        let next =
            if tried.len() < TUNNELS_MAX { cluster.pick_but(Some(worker.number), &tried) } else { None };
        let Some((_, next)) = next else { return sent };
        tunnel = next;
    }
}

/// Whether the other end of `tunnel` takes nothing more on it, although its word for that may still be on its way.
fn is_leaving(cluster: &PeerCluster, tunnel: &Tunnel) -> bool {
    tunnel.is_retiring() || !tunnel.is_open() || cluster.is_taken_over(tunnel)
}

/// Whether another gateway may be asked after one that failed like this: it has processed nothing, or what it has may be
/// processed twice.
fn is_harmless(failure: Failure, replayable: bool) -> bool {
    match failure {
        Failure::NotSent | Failure::Refused | Failure::Overloaded => true,
        Failure::PeerLost => replayable,
        _ => false,
    }
}

/// Sends through one gateway of the own cluster after the other, as endpoints of a service are tried: on from one that has
/// processed nothing, or may process it twice. With none left it waits for one to come, for there is no other way.
async fn through_any<T>(
    worker: &Worker,
    cluster: &PeerCluster,
    send: impl AsyncFn(&Tunnel) -> Result<T, Failure>,
    may_go_on: impl Fn(Failure) -> bool,
) -> Result<T, Failure> {
    let give_up = Instant::now() + GATEWAY_WAIT;
    let mut tried: Vec<Tunnel> = Vec::new();
    let mut last = Failure::NotSent;
    while tried.len() < TUNNELS_MAX {
        let mut changed = std::pin::pin!(cluster.changed.notified());
        changed.as_mut().enable();
        let Some((_, tunnel)) = cluster.pick_but(Some(worker.number), &tried) else {
            // One that is full is there, and to wait for it would fill it more.
            let full = last == Failure::NotSent && tried.iter().any(Tunnel::is_open);
            if last == Failure::Overloaded || full {
                return Err(Failure::Overloaded);
            }
            // Nor for one that has something else to say than those that are there.
            let answered = last == Failure::Refused && !tried.iter().all(|tried| is_leaving(cluster, tried));
            let until = if answered { give_up.min(Instant::now() + LATE_WORD) } else { give_up };
            tokio::select! {
                () = changed => continue,
                () = tokio::time::sleep_until(until) => break,
            }
        };
        match send(&tunnel).await {
            Err(failure) if may_go_on(failure) => last = failure,
            done => return done,
        }
        tried.push(tunnel);
    }
    Err(last)
}
