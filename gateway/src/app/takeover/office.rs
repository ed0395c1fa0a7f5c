//! What the heir waits for before it takes over, and what it does then.

use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use registry::store::AnyStore;
use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};
use tracing::warn;
use tunnel::Spare;

use super::{Heir, TakeOverError};
use crate::base::bind::SocketFile;
use crate::peers::PeerCluster;
use crate::proxy::worker::Shared;
use policy::placement::Availability;

/// Those who register have come to this process so long after it has taken over.
const REGISTRARS_WAIT: Duration = Duration::from_secs(5);
/// How often their leases are renewed until then: the shortest lease is some seconds.
const RENEW: Duration = Duration::from_millis(500);
/// The endpoints of its own are checked by then, or are taken as they are: it was so before.
const CHECKS_WAIT: Duration = Duration::from_secs(15);
/// How often it looks meanwhile.
const LOOK: Duration = Duration::from_millis(20);
/// A process that takes over waits so long for its links; one that is down then was down before, or is not missed.
const LINKS_WAIT: Duration = Duration::from_secs(3);

/// Workers that start from now on neither read the `port` of the tunnels nor dial nor accept any: the process before this one
/// does, until they run.
pub(in crate::app) fn wait_for_turn(shared: &Shared, port: &Spare) {
    port.let_go();
    shared.accepts_tunnels.send_replace(false);
    shared.peers.dial(false);
}

/// They do now, and the process before this one reads no more: nobody does for as long as two processes need for two words,
/// so that no tunnel seems silent. Gives what carries to that one what is its tunnels', if both have the same port.
pub(in crate::app) async fn take_turn(
    heir: &mut Heir,
    shared: &Shared,
    port: &Spare,
    shares_port: bool,
) -> Result<Option<impl Future<Output = ()> + Send + 'static + use<>>, TakeOverError> {
    let carrying = heir.switch(shares_port).await?.map(|elder| port.carry_to(elder));
    port.take();
    shared.accepts_tunnels.send_replace(true);
    shared.peers.dial(true);
    Ok(carrying)
}

/// Has everything that the process before this one has: tunnels, and the health of endpoints.
pub(in crate::app) async fn take_office(heir: &mut Heir, shared: &Shared) -> Result<(), TakeOverError> {
    until_so(LINKS_WAIT, "Not all links are up", || links_are_up(shared, true)).await;
    let checked = || !shared.view.load().locals().any(|local| local.is_waiting_for_checks());
    until_so(CHECKS_WAIT, "Not all endpoints are checked", checked).await;
    // From now on peers come.
    heir.up().await?;
    until_so(LINKS_WAIT, "Not all links are up", || links_are_up(shared, false)).await;
    heir.ready().await
}

/// Whether all links are, or those that are `dialled_alone` from here.
fn links_are_up(shared: &Shared, dialled_alone: bool) -> bool {
    let of_us = |peer: &PeerCluster| !dialled_alone || !peer.link().addresses.is_empty();
    shared.peers.iter().filter(|peer| of_us(peer)).all(|peer| peer.availability() == Availability::Up)
}

/// Waits until it is so, at most for `wait`; then that it is not is said.
async fn until_so(wait: Duration, what: &str, is_so: impl Fn() -> bool) {
    // Not every change of what is looked at is told.
    let so = async {
        while !is_so() {
            sleep(LOOK).await;
        }
    };
    if timeout(wait, so).await.is_err() {
        warn!("{what} after {wait:?}; taking over all the same.");
    }
}

/// Keeps the leases of those who register alive until they have come here from the process before this one: until then they
/// tell that one that they live.
pub(in crate::app) async fn keep_leases(store: AnyStore, shared: Arc<Shared>) {
    let come = async {
        shared.open.cancelled().await;
        sleep(REGISTRARS_WAIT).await;
    };
    let mut come = pin!(come);
    loop {
        store.renew_leases();
        tokio::select! {
            () = &mut come => return,
            () = sleep(RENEW) => {}
        }
    }
}

/// Takes the files of sockets that were given, and removes those of such as nobody listens on any more.
pub(in crate::app) async fn own_files(socket_files: &[SocketFile], shared: &Shared, unused: Vec<PathBuf>) {
    socket_files.iter().for_each(SocketFile::own);
    shared.listeners.own_files();
    // What is left of them is replaced when they are bound again.
    let _ =
        spawn_blocking(move || unused.into_iter().for_each(|file| drop(std::fs::remove_file(file)))).await;
}
