//! The sidecars of this cluster that hold tunnels to this gateway.
//!
//! They dial, we never do; each speaks for one workload, and is served what this cluster itself may use.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use identity::{Credentials, Role, Trust};
use proto::code::CloseCode;
use registry::model::ClusterName;
use tokio_util::sync::CancellationToken;
use tunnel::{Peer, Tunnel};

use crate::audit;
use crate::metrics::InProgress;

/// Tunnels of sidecars to one gateway: each of some thousand workloads has one, and a second while it is replaced.
const TUNNELS_MAX: usize = 8192;

/// Requests that one tunnel may have us work on: a busy workload, and a small part of the process.
pub const REQUESTS_EACH_MAX: u64 = 1024;

/// Registrars that one tunnel may have: a sidecar has one, and those that it has just given up.
pub const REGISTRARS_EACH_MAX: u64 = 4;

/// Their tunnels.
#[derive(Debug)]
pub struct Sidecars {
    /// Requests of all of them that we work on.
    pub asking: Arc<InProgress>,
    cluster: ClusterName,
    /// Cancelled when the process drains.
    stop: CancellationToken,
    /// Short sections without await; requests do not look here.
    tunnels: Mutex<Vec<Tunnel>>,
}

impl Sidecars {
    /// Those of `cluster`, none yet, until `stop`.
    pub fn new(cluster: ClusterName, stop: CancellationToken) -> Self {
        Self { asking: Arc::default(), cluster, stop, tunnels: Mutex::default() }
    }

    /// Whether a process whose certificate and HELLO agree is one of them.
    pub fn is_one(peer: &Peer) -> bool {
        matches!(peer.identity.role, Role::Workload { .. })
    }

    /// The last word on a sidecar: the handshake has proven that it is of our own cluster.
    ///
    /// # Errors
    /// The code to close with, and why.
    pub fn admit(&self, peer: &Peer) -> Result<(), (CloseCode, String)> {
        if self.stop.is_cancelled() {
            return Err((CloseCode::Shutdown, "the gateway drains".into()));
        }
        if peer.identity.cluster != self.cluster.as_str() {
            let text = format!("{} is no workload of cluster `{}`", peer.identity, self.cluster);
            return Err((CloseCode::WrongPeer, text));
        }
        if self.lock().len() >= TUNNELS_MAX {
            let text = format!("this gateway serves {TUNNELS_MAX} sidecars and no more");
            return Err((CloseCode::Shutdown, text));
        }
        Ok(())
    }

    /// Takes a tunnel into use, until [`Self::ended`].
    pub fn begun(&self, tunnel: &Tunnel) {
        self.lock().push(tunnel.clone());
        if self.stop.is_cancelled() {
            // Too late to be told with the others.
            tunnel.go_away("the gateway drains");
        }
    }

    /// A tunnel has ended.
    pub fn ended(&self, tunnel: &Tunnel) {
        self.lock().retain(|known| !known.is(tunnel));
    }

    /// All tunnels of the moment.
    pub fn tunnels(&self) -> Vec<Tunnel> {
        self.lock().clone()
    }

    /// Takes nothing new of any of them.
    pub fn go_away(&self, reason: &str) {
        self.tunnels().iter().for_each(|tunnel| tunnel.go_away(reason));
    }

    /// Holds every tunnel against what counts now, as [`crate::peers::Peers::judge`] does.
    pub fn judge(&self, trust: &Trust, credentials: &Credentials, now: SystemTime) {
        for tunnel in self.tunnels() {
            let believed = trust.still_believes(&tunnel.peer_certificates(), tunnel.dialled(), now);
            if let Err(refusal) = believed {
                let sidecar = &tunnel.peer().identity;
                audit::change(
                    "tunnel closed, its sidecar is not believed any more",
                    sidecar,
                    &refusal,
                    "nothing",
                );
                tunnel.close(CloseCode::LinkRemoved, &refusal.to_string());
            } else if tunnel.credentials().chain() != credentials.chain() {
                tunnel.retire();
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Tunnel>> {
        // Whoever panicked left a list that is whole: every change is one call.
        self.tunnels.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
