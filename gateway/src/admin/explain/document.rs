//! What `/v1/explain` answers. The command line reads it with the same types: what is added later is skipped, and what
//! may be missing in an older answer is optional.

use serde::{Deserialize, Serialize};

/// Every decision about one request, in the order in which they fall.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Explanation {
    /// The gateway that would take it: cluster and id.
    pub(crate) gateway: String,
    /// What was asked about.
    pub(crate) request: Request,
    /// What the gateway would answer itself; none: it would forward the request.
    pub(crate) rejected: Option<Rejected>,
    /// What the authority names; none: nothing.
    pub(crate) name: Option<Name>,
    /// The rule that places it.
    pub(crate) contract: Option<Contract>,
    /// The key that places it; none: there is none.
    pub(crate) key: Option<Key>,
    /// The sources of a key that were looked at, in their order.
    pub(crate) key_sources: Vec<String>,
    /// The cluster whose key it is, whatever its state; none without a key.
    pub(crate) owner: Option<String>,
    /// Every member: first those that would be tried, in their order, then those that are skipped.
    pub(crate) clusters: Vec<Cluster>,
    /// The cluster that the first attempt goes to.
    pub(crate) chosen: Option<String>,
    /// How an endpoint is picked, where the chosen cluster is this one.
    pub(crate) local: Option<Local>,
    /// The way to the chosen cluster, where it is another one.
    pub(crate) way: Option<Way>,
    /// What is tried again, and for how long.
    pub(crate) rules: Option<Rules>,
    /// Who may call it.
    pub(crate) grant: Option<String>,
    /// Who the caller is to the mesh.
    pub(crate) caller: String,
}

/// The request.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) authority: String,
    /// In origin form.
    pub(crate) target: String,
    /// Address of the caller.
    pub(crate) source: String,
}

/// An answer of the gateway itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Rejected {
    pub(crate) status: u16,
    /// Error type of RFC 9209.
    pub(crate) error: String,
    pub(crate) details: String,
}

/// What an authority names.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Name {
    /// `namespace/name`.
    pub(crate) service: String,
    /// Whether it is pinned to one cluster, and skips the ring of clusters.
    pub(crate) pinned: bool,
    pub(crate) port: u16,
    pub(crate) port_name: String,
    pub(crate) protocol: String,
}

/// The rule that places it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Contract {
    pub(crate) mode: String,
    /// 0: nobody declared one.
    pub(crate) generation: u64,
    /// The cluster whose policy counts; none: nobody declared one.
    pub(crate) from: Option<String>,
    /// The ring's fingerprint.
    pub(crate) ring: String,
    /// `next` or `fail`.
    pub(crate) on_owner_unavailable: String,
}

/// The key.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Key {
    /// Where it comes from.
    pub(crate) source: String,
    /// As text, where it is text.
    pub(crate) value: String,
    pub(crate) hash: String,
}

/// One member of the ring of clusters.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Cluster {
    pub(crate) cluster: String,
    pub(crate) region: String,
    /// In hundredths.
    pub(crate) weight: u32,
    /// Its place among those that would be tried, from 1; none: skipped.
    pub(crate) place: Option<usize>,
    /// Its place in the near order of the key's ring, from 1; none without a key.
    pub(crate) near: Option<usize>,
    /// Its tier, from 1, where tiers count; none: it is in none.
    pub(crate) tier: Option<u16>,
    /// `up`, `suspect`, `down` or `unreachable`.
    pub(crate) availability: String,
    /// Weight of its endpoints that take requests, if that is known.
    pub(crate) ready: Option<u32>,
    /// Why it stands where it stands.
    pub(crate) why: String,
}

/// The choice inside this cluster.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Local {
    pub(crate) algorithm: String,
    /// In the order of the inner ring where the key decides, else as declared.
    pub(crate) endpoints: Vec<Endpoint>,
    /// How one of them is picked.
    pub(crate) why: String,
}

/// An endpoint of this cluster.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Endpoint {
    pub(crate) id: String,
    pub(crate) address: String,
    /// How it is, in a word.
    pub(crate) state: String,
    /// Whether it may be picked.
    pub(crate) takes: bool,
    pub(crate) in_flight: u32,
    /// Expected latency; none before its first answer.
    pub(crate) latency_ms: Option<f64>,
}

/// The tunnel that the first attempt would use.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Way {
    /// Id of the peer's gateway.
    pub(crate) gateway: String,
    pub(crate) carrier: String,
    pub(crate) address: String,
    pub(crate) rtt_ms: f64,
    /// Requests on it.
    pub(crate) outstanding: usize,
}

/// What is tried again, and for how long.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Rules {
    /// Whether the method may be sent twice; its body must be at hand as well.
    pub(crate) replayable: bool,
    /// Clusters tried, the first included.
    pub(crate) attempts: u8,
    /// Outcomes that are tried again.
    pub(crate) on: Vec<String>,
    pub(crate) budget_percent: u8,
    pub(crate) min_per_second: u32,
    /// Retries and hedges of the last 10 s.
    pub(crate) spent: u64,
    /// Whether a second attempt goes beside the first while its peer is suspect.
    pub(crate) hedged: bool,
    pub(crate) head_ms: u64,
    pub(crate) idle_ms: u64,
    pub(crate) total_ms: Option<u64>,
}
