//! What `/v1/status` answers, of a gateway and of a sidecar. Fields of later versions are skipped, and what an older one does
//! not say has a default.

use std::borrow::Cow;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// One of a few fixed words.
pub type Word = Cow<'static, str>;

/// What a gateway answers.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Status {
    /// Version of the gateway's binary.
    pub version: Word,
    /// Its cluster.
    pub cluster: String,
    /// Its `metadata.name`.
    pub gateway: String,
    /// Its cluster's region.
    pub region: String,
    /// The cluster's random UID, hexadecimal.
    pub uid: String,
    /// Number of this start of the process, hexadecimal.
    #[serde(default)]
    pub boot: String,
    /// Where commands that change something go.
    #[serde(default)]
    pub admin_socket: PathBuf,
    /// When the process started.
    pub started_unix_ms: u64,
    /// Whether it is bound and its catalog is loaded.
    pub ready: bool,
    /// Requests in flight.
    #[serde(default)]
    pub requests_in_progress: u64,
    /// The registry's store, and the gateways that share it.
    #[serde(default)]
    pub registry: Option<Registry>,
    /// The peer gateways that were reached at least once.
    pub peers: Vec<Peer>,
    /// The declared links.
    pub links: Vec<Link>,
    /// Every service that can be asked for here.
    pub services: Vec<Service>,
    /// Conditions of declared objects.
    pub conditions: Vec<Condition>,
}

impl Status {
    /// The peer gateway of `cluster`; of several the first.
    pub fn peer(&self, cluster: &str) -> Option<&Peer> {
        self.peers.iter().find(|peer| peer.cluster == cluster)
    }
}

/// The store of the registry, and a gateway's place among those that share it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Registry {
    /// Which one: `embedded`, or the members of an etcd.
    pub store: String,
    /// Whether the store answers.
    pub up: bool,
    /// Since it did last.
    pub silent_seconds: u64,
    /// What it says or does meanwhile.
    #[serde(default)]
    pub trouble: Option<String>,
    /// Whose it is: `ours`, `nobody` (it was wiped), or the UID of another cluster.
    pub owner: String,
    /// `elected` (it writes for the cluster), `member`, `id-taken`, or `unknown` while the store does not answer, or
    /// refuses what a gateway must write.
    pub standing: Word,
    /// The gateway that writes for the cluster; none: nobody, or it is not known.
    pub elected: Option<String>,
    /// The gateways of this cluster.
    pub gateways: Vec<String>,
    /// Where what is served comes from: `registry`, `memory` (as it was when the store answered last) or `last-catalog`
    /// (of the state directory: it has not answered since the start).
    pub catalog: Word,
    /// How old that is.
    pub catalog_age_seconds: u64,
    /// Peers of which many services are missing at once: they are held.
    pub held: Vec<Held>,
    /// Records of peers that are not written because the store has no room for them.
    #[serde(default)]
    pub unwritten: usize,
}

/// Services of a peer that are missing and held.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Held {
    /// The peer.
    pub peer: String,
    /// How many of its services.
    pub services: usize,
    /// Since when.
    pub since_unix_ms: u64,
}

/// What a sidecar answers.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Sidecar {
    /// Version of its binary.
    pub version: Word,
    /// Its cluster.
    pub cluster: String,
    /// Its `metadata.name`.
    pub sidecar: String,
    /// The SPIFFE ID of its workload.
    pub identity: String,
    /// When the process started.
    pub started_unix_ms: u64,
    /// Whether it is bound.
    pub ready: bool,
    /// Requests in flight.
    #[serde(default)]
    pub requests_in_progress: u64,
    /// The gateways of its cluster that were reached at least once.
    pub gateways: Vec<Peer>,
    /// Why the last dial of one failed.
    pub last_error: Option<String>,
    /// Every name in use.
    pub services: Vec<Service>,
    /// What does not hold of its files.
    #[serde(default)]
    pub conditions: Vec<Condition>,
}

/// One peer gateway.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Peer {
    /// Its cluster.
    pub cluster: String,
    /// Its id.
    pub gateway: String,
    /// `up`, `suspect` or `down`.
    pub state: Word,
    /// When it entered that state.
    pub since_unix_ms: u64,
    /// Why it is in that state.
    #[serde(default)]
    pub reason: String,
    /// Its tunnels that are up.
    #[serde(default)]
    pub tunnels: Vec<Tunnel>,
}

/// One tunnel.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Tunnel {
    /// What it runs on.
    pub carrier: Word,
    /// The far end.
    pub address: String,
    /// Smoothed round trip, milliseconds.
    pub rtt_ms: Option<f64>,
    /// `us` or `peer`.
    pub dialled_by: Word,
    /// Which of our workers owns it.
    #[serde(default)]
    pub worker: u32,
    /// Which of the peer's.
    #[serde(default)]
    pub peer_worker: u32,
    /// Exchanges that we wait for on it.
    #[serde(default)]
    pub outstanding: usize,
    /// Exchanges of the peer's on it.
    #[serde(default)]
    pub serving: usize,
    /// What its congestion control knows; none on byte streams.
    #[serde(default)]
    pub path: Option<Path>,
}

/// What is known of the path of a tunnel, in our direction.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Path {
    /// How what may be in flight is decided: `ringway`, `cubic`, `newreno`, `bbr`.
    pub congestion: Word,
    /// Megabits per second that it was seen to carry; zero: not known.
    pub rate_mbit: f64,
    /// Most megabits per second; none: no limit.
    pub max_rate_mbit: Option<f64>,
    /// Bytes that may be in flight.
    pub window_bytes: u64,
    /// Percent of what was sent in the last ten seconds that was lost.
    pub loss_pct: f64,
    /// Whether small frames are sent twice.
    pub copies: bool,
}

/// One declared link.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Link {
    /// The peer cluster.
    pub cluster: String,
    /// Where it is dialled.
    pub addresses: Vec<String>,
    /// `up`, `down`, `connecting` and the like.
    pub state: Word,
    /// Why the last attempt failed.
    pub last_error: Option<String>,
    /// How many of its services are mirrored here.
    pub imported: usize,
    /// Which history of the peer's exports, hexadecimal.
    #[serde(default)]
    pub epoch: String,
    /// How far in it.
    #[serde(default)]
    pub revision: u64,
    /// Age of what is mirrored; none before the first sync.
    pub age_seconds: Option<u64>,
}

/// One service.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Service {
    /// `namespace/name`.
    pub name: String,
    /// Whether it is served here.
    #[serde(default)]
    pub local: bool,
    /// Generation of the contract in force.
    pub generation: u64,
    /// Placement mode of the contract.
    pub mode: Word,
    /// The cluster that declared it.
    #[serde(default)]
    pub contract_from: Option<String>,
    /// The members of the ring.
    pub members: Vec<Member>,
    /// The ring's fingerprint.
    pub ring: String,
    /// Our own endpoints.
    pub endpoints: Vec<Endpoint>,
}

/// A member of a service's ring.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Member {
    /// The cluster.
    pub cluster: String,
    /// Its region.
    #[serde(default)]
    pub region: String,
    /// In hundredths.
    pub weight: u32,
    /// Whether the cluster serves this service to us.
    pub serves: bool,
    /// Its state as placement sees it.
    pub state: Word,
    /// Weight of its endpoints that take requests, if it is known.
    #[serde(default)]
    pub ready: Option<u32>,
    /// Fingerprint of the ring that it places by, if it told.
    #[serde(default)]
    pub ring: Option<String>,
}

/// One of our own endpoints.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Endpoint {
    /// Its id.
    #[serde(default)]
    pub id: String,
    /// Where it listens.
    #[serde(default)]
    pub address: String,
    /// Whether it takes requests.
    pub ready: bool,
    /// How it is: `ready`, `checking`, `check-failed` and the like.
    #[serde(default)]
    pub state: Word,
    /// Requests in flight on it.
    #[serde(default)]
    pub in_flight: u32,
}

/// A condition of a declared object.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Condition {
    /// `Kind namespace/name`.
    pub object: String,
    /// The condition's type.
    pub kind: Word,
    /// Whether it holds.
    pub status: bool,
    /// For programs.
    pub reason: Word,
    /// For people.
    pub message: String,
}
