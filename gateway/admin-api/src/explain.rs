//! What `/v1/explain` answers. The command line reads it with the same types: what is added later is skipped, and what
//! may be missing in an older answer is optional.

use serde::{Deserialize, Serialize};

/// Every decision about one request, in the order in which they fall.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Explanation {
    /// The gateway that would take it: cluster and id.
    pub gateway: String,
    /// What was asked about.
    pub request: Request,
    /// What the gateway would answer itself; none: it would forward the request.
    pub rejected: Option<Rejected>,
    /// What the authority names; none: nothing.
    pub name: Option<Name>,
    /// The rule that places it.
    pub contract: Option<Contract>,
    /// The key that places it; none: there is none.
    pub key: Option<Key>,
    /// The sources of a key that were looked at, in their order.
    pub key_sources: Vec<String>,
    /// The cluster whose key it is, whatever its state; none without a key.
    pub owner: Option<String>,
    /// Every member: first those that would be tried, in their order, then those that are skipped.
    pub clusters: Vec<Cluster>,
    /// The cluster that the first attempt goes to.
    pub chosen: Option<String>,
    /// How an endpoint is picked, where the chosen cluster is this one.
    pub local: Option<Local>,
    /// The way to the chosen cluster, where it is another one.
    pub way: Option<Way>,
    /// What is tried again, and for how long.
    pub rules: Option<Rules>,
    /// Who may call it.
    pub grant: Option<String>,
    /// Who the caller is to the mesh.
    pub caller: String,
}

/// The request.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Request {
    /// Its method.
    pub method: String,
    /// The authority that it asks for.
    pub authority: String,
    /// In origin form.
    pub target: String,
    /// Address of the caller.
    pub source: String,
}

/// An answer of the gateway itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Rejected {
    /// The status.
    pub status: u16,
    /// Error type of RFC 9209.
    pub error: String,
    /// What is said with it.
    pub details: String,
}

/// What an authority names.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Name {
    /// `namespace/name`.
    pub service: String,
    /// Whether it is pinned to one cluster, and skips the ring of clusters.
    pub pinned: bool,
    /// The port.
    pub port: u16,
    /// Its name.
    pub port_name: String,
    /// What is spoken on it.
    pub protocol: String,
}

/// The rule that places it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Contract {
    /// Its placement mode.
    pub mode: String,
    /// 0: nobody declared one.
    pub generation: u64,
    /// The cluster whose policy counts; none: nobody declared one.
    pub from: Option<String>,
    /// The ring's fingerprint.
    pub ring: String,
    /// `next` or `fail`.
    pub on_owner_unavailable: String,
}

/// The key.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Key {
    /// Where it comes from.
    pub source: String,
    /// As text, where it is text.
    pub value: String,
    /// Its hash, hexadecimal.
    pub hash: String,
}

/// One member of the ring of clusters.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Cluster {
    /// The cluster.
    pub cluster: String,
    /// Its region.
    pub region: String,
    /// In hundredths.
    pub weight: u32,
    /// Its place among those that would be tried, from 1; none: skipped.
    pub place: Option<usize>,
    /// Its place in the near order of the key's ring, from 1; none without a key.
    pub near: Option<usize>,
    /// Its tier, from 1, where tiers count; none: it is in none.
    pub tier: Option<u16>,
    /// `up`, `suspect`, `down` or `unreachable`.
    pub availability: String,
    /// Weight of its endpoints that take requests, if that is known.
    pub ready: Option<u32>,
    /// Why it stands where it stands.
    pub why: String,
}

/// The choice inside this cluster.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Local {
    /// How an endpoint is picked.
    pub algorithm: String,
    /// In the order of the inner ring where the key decides, else as declared.
    pub endpoints: Vec<Endpoint>,
    /// How one of them is picked.
    pub why: String,
}

/// An endpoint of this cluster.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Endpoint {
    /// Its id.
    pub id: String,
    /// Its address.
    pub address: String,
    /// How it is, in a word.
    pub state: String,
    /// Whether it may be picked.
    pub takes: bool,
    /// Requests in flight on it.
    pub in_flight: u32,
    /// Expected latency; none before its first answer.
    pub latency_ms: Option<f64>,
}

/// The tunnel that the first attempt would use.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Way {
    /// Id of the peer's gateway.
    pub gateway: String,
    /// What the tunnel runs on.
    pub carrier: String,
    /// Its address.
    pub address: String,
    /// Smoothed round trip, milliseconds.
    pub rtt_ms: f64,
    /// Requests on it.
    pub outstanding: usize,
}

/// What is tried again, and for how long.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Rules {
    /// Whether the method may be sent twice; its body must be at hand as well.
    pub replayable: bool,
    /// Clusters tried, the first included.
    pub attempts: u8,
    /// Outcomes that are tried again.
    pub on: Vec<String>,
    /// Retries in per cent of the requests of the last 10 s.
    pub budget_percent: u8,
    /// Retries a second whatever that share.
    pub min_per_second: u32,
    /// Retries and hedges of the last 10 s.
    pub spent: u64,
    /// Whether a second attempt goes beside the first while its peer is suspect.
    pub hedged: bool,
    /// Time to the head of the answer, milliseconds.
    pub head_ms: u64,
    /// Time without a byte, milliseconds.
    pub idle_ms: u64,
    /// Time for everything, milliseconds.
    pub total_ms: Option<u64>,
}
