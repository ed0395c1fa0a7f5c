//! How the traffic of a service is treated: placement contract, balancing, retries, timeouts.

use std::sync::Arc;
use std::time::Duration;

use super::{ClusterName, ServiceName};

/// How the traffic of one service is treated (`kind: TrafficPolicy`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// `metadata.name`; its namespace is the service's.
    pub name: Arc<str>,
    /// The service it is for.
    pub service: ServiceName,
    /// The placement contract; none: it says nothing about placement.
    pub placement: Option<Contract>,
    /// How an endpoint is picked within this cluster.
    pub balance: Algorithm,
    /// What is tried again.
    pub retry: Retry,
    /// How long things may take.
    pub timeout: Timeout,
}

/// The placement contract: the declared rule that places a service's requests on clusters. Travels with the export.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Contract {
    /// Raised by the operator on each change; 0: nobody declared one.
    pub generation: u64,
    /// How the first cluster is chosen.
    pub mode: Mode,
    /// The nodes of the cluster ring, by ascending name. None: the known servers at weight 100.
    pub members: Option<Vec<Member>>,
    /// The ring's seed.
    pub seed: u64,
    /// The closed list of tiers of `local-first`; none: local, same region, any.
    pub tiers: Option<Vec<Vec<Tier>>>,
    /// Where the key comes from: the first non-empty value.
    pub hash: Vec<HashKey>,
    /// What happens to a key whose owner cannot serve.
    pub on_owner_unavailable: OnOwnerUnavailable,
}

/// How the first cluster is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mode {
    /// The local tier while it is healthy, else tier by tier.
    LocalFirst,
    /// The key's owner, from wherever it is called.
    Sharded,
}

/// A node of the cluster ring.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Member {
    /// The cluster.
    pub cluster: ClusterName,
    /// Its region: the ring's zone.
    pub region: String,
    /// In hundredths.
    pub weight: u32,
}

/// One entry of a tier: relative to the cluster that places, or a cluster's name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Tier {
    /// The cluster that places.
    Local,
    /// Every member of its region.
    SameRegion,
    /// Every member.
    Any,
    /// This member.
    Cluster(ClusterName),
}

/// A source of the key.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum HashKey {
    /// The first value of this header field, lower case.
    Header(String),
    /// The first value of this query parameter, raw bytes.
    Query(String),
    /// The address of the first hop's peer, 4 or 16 bytes; where a PROXY header told another one, that.
    SourceIp,
    /// The name that TLS is for (SNI), lower case.
    ServerName,
    /// The first value of this type in the PROXY header (version 2) that a connection began with, raw bytes.
    ProxyTlv(u8),
}

/// What happens to a key whose owner cannot serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OnOwnerUnavailable {
    /// The next cluster in near order takes it.
    Next,
    /// The request fails: for those who must not split a key over clusters.
    Fail,
}

/// How an endpoint is picked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// Of two drawn by weight, the one with the smaller latency times load.
    P2cEwma,
    /// In turn, by weight.
    RoundRobin,
    /// By the request's key on a ring of the endpoints; requests without a key as [`Self::P2cEwma`].
    Ring,
}

/// What is tried again, and how often.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retry {
    /// Clusters tried, the first included; at least 1.
    pub attempts: u8,
    /// Retries allowed in per cent of the requests of the last 10 s.
    pub budget_percent: u8,
    /// Retries allowed a second whatever the budget.
    pub min_per_second: u32,
    /// Which outcomes are tried again.
    pub on: RetryOn,
    /// Methods declared replayable beyond the idempotent ones, upper case.
    pub methods: Vec<String>,
}

/// Which outcomes are tried again (replays of certified unprocessed requests are always allowed).
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct RetryOn {
    /// The endpoint could not be connected to.
    pub connect: bool,
    /// The peer certified that nothing was processed.
    pub refused: bool,
    /// The exchange was cut before an answer.
    pub reset: bool,
    /// Nothing was ready at the far side (`unavailable`).
    pub unavailable: bool,
    /// Answers with these status codes.
    pub statuses: Vec<u16>,
}

/// How long things may take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timeout {
    /// A connection to an endpoint, where no other one is left; a second at most while others are.
    pub connect: Duration,
    /// From the end of the request body to the answer's head, over all attempts.
    pub head: Duration,
    /// Without a byte in either direction; none: [`Timeout::idle`] and [`Timeout::idle_of_connection`].
    pub idle: Option<Duration>,
    /// The whole exchange, only if given.
    pub total: Option<Duration>,
}

impl Default for Retry {
    fn default() -> Self {
        let on = RetryOn {
            connect: true,
            refused: true,
            reset: true,
            unavailable: true,
            statuses: vec![502, 503, 504],
        };
        Self { attempts: 3, budget_percent: 20, min_per_second: 10, on, methods: Vec::new() }
    }
}

impl Default for Timeout {
    fn default() -> Self {
        let (connect, head) = (Duration::from_secs(5), Duration::from_secs(10));
        Self { connect, head, idle: None, total: None }
    }
}

impl Timeout {
    /// How long nothing may move in an exchange of HTTP: 60 s unless given.
    pub fn idle(&self) -> Duration {
        self.idle.unwrap_or(Duration::from_secs(60))
    }

    /// How long nothing may move on a connection that is carried as such: an hour unless given, for a client of a
    /// database may well have nothing to ask for long. (Whether the two ends are there at all, TCP's keepalive tells.)
    pub fn idle_of_connection(&self) -> Duration {
        self.idle.unwrap_or(Duration::from_secs(60 * 60))
    }

    /// How long nothing may move in a flow of datagrams: a minute unless given, for what has ended does not say so.
    pub fn idle_of_flow(&self) -> Duration {
        self.idle.unwrap_or(Duration::from_secs(60))
    }

    /// The same where it looks as if all was said: a question or two, each answered, such as those of DNS, whose callers
    /// ask from another port each time.
    pub fn idle_of_answered_flow(&self) -> Duration {
        self.idle.unwrap_or(Duration::from_secs(5))
    }
}

impl Default for Contract {
    /// The contract of a service for which nobody declared one: generation 0, local-first, no key.
    fn default() -> Self {
        Self {
            generation: 0,
            mode: Mode::LocalFirst,
            members: None,
            seed: 0,
            tiers: None,
            hash: Vec::new(),
            on_owner_unavailable: OnOwnerUnavailable::Next,
        }
    }
}
