//! The sidecars of this cluster that hold tunnels to this gateway.
//!
//! They dial, we never do; each speaks for one workload, and is served what this cluster itself may use. A workload has
//! as many sidecars as instances, all with one certificate's name: what all of them together may cost is limited, so that
//! there is room for other workloads whatever one does.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use identity::{Credentials, Role, Trust};
use proto::code::CloseCode;
use proto::limits::WORKLOAD_UNREAD_BYTES_MAX;
use registry::base::rate::{Rate, SharedBucket};
use registry::model::ClusterName;
use tokio_util::sync::CancellationToken;
use tunnel::{Account, Peer, Tunnel};

use crate::peers::resets::{self, ResetBudget};
use crate::telemetry::audit;
use crate::telemetry::metrics::InProgress;

/// Tunnels of sidecars to one gateway: each of some thousand workloads has one, and a second while it is replaced.
const TUNNELS_MAX: usize = 8192;

/// Those of one workload: a thousand instances, while all of them are replaced.
const TUNNELS_OF_ONE_MAX: usize = TUNNELS_MAX / 4;

/// Workloads that are remembered although none of their sidecars is here: some hundred bytes each.
const WORKLOADS_KEPT: usize = 4096;

/// Requests that one tunnel may have us work on: a busy workload, and a small part of the process.
pub const REQUESTS_EACH_MAX: u64 = 1024;

/// Lookup streams that one tunnel may have: a sidecar has one, and those that it has just given up.
pub const LOOKUPS_EACH_MAX: u64 = 4;

/// Those of one workload: one on each of its tunnels.
pub const LOOKUPS_OF_ONE_MAX: u64 = TUNNELS_OF_ONE_MAX as u64;

/// Names that the sidecars of one workload may use together, each counted as often as it is used: a thousand sidecars
/// with some dozens. A name that does not exist takes half a kilobyte, so that they hold some 40 MB at the most.
pub const NAMES_OF_ONE_MAX: u64 = 64 * 1024;

/// Questions about names a second of one workload, and at once: all sidecars of a large one may come back together.
/// One takes some microseconds, so that the workload has at most a tenth of the control plane.
const ASKS_PER_SECOND: u32 = 32 * 1024;
const ASKS_AT_ONCE: u32 = 64 * 1024;

/// Those of one workload, however many sidecars it has: some of the room for all is left to others.
pub const REQUESTS_OF_ONE_MAX: u64 = 8 * REQUESTS_EACH_MAX;

/// Requests that a workload may give up before they are answered: a part of what this cluster may at a linked one, to
/// which they are sent on; and as many as one of its sidecars may have under way, once so many were answered.
const RESETS: resets::Limits = resets::Limits { per_second: 64, free: 512, earned: 1024 };

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
    /// By SPIFFE ID. Short sections without await; requests do not look here.
    workloads: Mutex<HashMap<Box<str>, Arc<Workload>>>,
}

/// What all sidecars of one workload have together.
#[derive(Debug)]
pub struct Workload {
    /// Its requests that we work on.
    pub asking: Arc<InProgress>,
    /// Those that it may give up before they are answered.
    pub resets: ResetBudget,
    /// What it may have unread here over all its tunnels.
    pub unread: Arc<Account>,
    /// Its lookup streams.
    pub lookups: Arc<InProgress>,
    /// Names that they use.
    pub names: Arc<InProgress>,
    /// How often it asks what a name means; a long answer counts as several.
    pub asks: SharedBucket,
}

impl Default for Workload {
    fn default() -> Self {
        Self {
            asking: Arc::default(),
            resets: ResetBudget::new(RESETS),
            unread: Account::new(WORKLOAD_UNREAD_BYTES_MAX),
            lookups: Arc::default(),
            names: Arc::default(),
            asks: SharedBucket::new(Rate::per_second(ASKS_AT_ONCE, ASKS_PER_SECOND)),
        }
    }
}

impl Sidecars {
    /// Those of `cluster`, none yet, until `stop`.
    pub fn new(cluster: ClusterName, stop: CancellationToken) -> Self {
        Self { asking: Arc::default(), cluster, stop, tunnels: Mutex::default(), workloads: Mutex::default() }
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
        has_room(&self.lock(), peer).map_err(|text| (CloseCode::Shutdown, text))
    }

    /// Takes a tunnel into use, until [`Self::ended`]; or closes it, where others that were admitted at the same time have
    /// taken the room.
    pub fn begun(&self, tunnel: &Tunnel) {
        {
            let mut tunnels = self.lock();
            if let Err(text) = has_room(&tunnels, tunnel.peer()) {
                tunnel.close(CloseCode::Shutdown, &text);
                return;
            }
            tunnels.push(tunnel.clone());
        }
        if self.stop.is_cancelled() {
            // Too late to be told with the others.
            tunnel.go_away("the gateway drains");
        }
    }

    /// A tunnel has ended.
    pub fn ended(&self, tunnel: &Tunnel) {
        self.lock().retain(|known| !known.is(tunnel));
    }

    /// What the sidecars of the workload `id` have together. It is kept although none is here any more: who comes back is
    /// owed nothing new.
    pub fn workload(&self, id: &str) -> Arc<Workload> {
        // Whoever panicked left a map that is whole: every change is one call.
        let mut workloads = self.workloads.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = workloads.get(id) {
            return known.clone();
        }
        if workloads.len() >= WORKLOADS_KEPT {
            workloads.retain(|_, known| Arc::strong_count(known) > 1);
        }
        let workload = Arc::<Workload>::default();
        workloads.insert(id.into(), workload.clone());
        workload
    }

    /// All tunnels of the moment.
    pub fn tunnels(&self) -> Vec<Tunnel> {
        self.lock().clone()
    }

    /// Takes nothing new of any of them.
    pub fn go_away(&self, reason: &str) {
        self.tunnels().iter().for_each(|tunnel| tunnel.go_away(reason));
    }

    /// Has them dial again: they reach the process that takes over.
    pub fn retire(&self) {
        self.tunnels().iter().for_each(Tunnel::retire);
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
/// Whether there may be another tunnel of `peer` beside these.
fn has_room(tunnels: &[Tunnel], peer: &Peer) -> Result<(), String> {
    if tunnels.len() >= TUNNELS_MAX {
        return Err(format!("this gateway serves {TUNNELS_MAX} sidecars and no more"));
    }
    let of_it = tunnels.iter().filter(|tunnel| tunnel.peer().identity == peer.identity).count();
    if of_it >= TUNNELS_OF_ONE_MAX {
        return Err(format!("this gateway serves {TUNNELS_OF_ONE_MAX} sidecars of one workload and no more"));
    }
    Ok(())
}
