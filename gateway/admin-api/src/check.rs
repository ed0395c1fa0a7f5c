//! What `/v1/check` answers, and `ringway check -f` without a gateway.

use serde::{Deserialize, Serialize};

/// Every check: its id, which never changes, and what it asks.
pub const CHECKS: [(&str, &str); 31] = [
    ("manifests.accepted", "the manifests on disk are those in use"),
    (
        "identity.certificate",
        "our certificate and key can be used, fit each other, and stay valid for a while",
    ),
    ("identity.name", "our certificate is for this cluster, gateway id and trust domain"),
    ("trust.bundle", "each link has a bundle that says whom to believe"),
    ("clock", "this machine's clock is not behind what peers have seen"),
    ("state.writable", "the state directory can be written, and by nobody else"),
    ("ports.bound", "the listeners are bound"),
    ("process.files", "there are file descriptors left"),
    ("process.drain", "the process takes new requests"),
    ("link.resolves", "each address of a link resolves"),
    ("link.tcp", "each address of a link accepts TCP connections"),
    ("link.udp", "a tunnel runs over QUIC, which is UDP"),
    ("link.tunnel", "each link has a tunnel that is up"),
    ("link.budget", "each peer keeps within what it may cost"),
    ("registry.store", "the registry's store answers, in time"),
    ("registry.room", "the registry's store has room"),
    ("registry.owner", "the registry's store is of this cluster"),
    ("registry.member", "this gateway has its place among those of its cluster"),
    ("registry.elected", "a gateway is elected, which writes for the cluster"),
    ("registry.catalog", "what is served is what the registry has, and no older copy"),
    ("registry.removal", "no peer misses many of its services at once"),
    ("registry.age", "what is mirrored of each peer is fresh"),
    ("ring.agrees", "peers place each service by the same ring"),
    ("union.conflict", "a service has the same ports in every cluster that is joined under its name"),
    ("contract.conflict", "no two clusters declare different things of one service"),
    ("grant.export", "services are exported to clusters that exist, and to the members of their contract"),
    ("grant.denied", "peers let our requests in"),
    ("endpoints.ready", "each service of this cluster has an endpoint that takes requests"),
    ("orphan.policy", "each policy has a service, and takes effect"),
    ("orphan.import", "each import rule takes something in"),
    ("orphan.member", "each member of a contract can be reached"),
];

/// What came of all checks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Cluster and id of the gateway that was looked at; empty where there was none.
    pub gateway: String,
    /// In the order of [`CHECKS`].
    pub checks: Vec<Check>,
}

/// One check of one object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// Of [`CHECKS`].
    pub id: String,
    /// What was looked at.
    pub object: String,
    /// What came of it.
    pub result: Outcome,
    /// What was seen.
    pub cause: String,
    /// What to do about it; none where nothing is to be done.
    pub fix: Option<String>,
}

/// What came of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// It holds.
    Ok,
    /// It cannot be known from here.
    Unknown,
    /// It will not hold for long, or something is without effect.
    Warn,
    /// It does not hold.
    Fail,
}

impl Report {
    /// In the order of [`CHECKS`].
    pub fn new(gateway: String, mut checks: Vec<Check>) -> Self {
        let place = |check: &Check| CHECKS.iter().position(|(id, _)| *id == check.id);
        checks.sort_by_cached_key(|check| (place(check), check.object.clone()));
        Self { gateway, checks }
    }
}

impl Check {
    fn new(id: &str, object: impl ToString, result: Outcome, cause: impl Into<String>) -> Self {
        let (id, object, cause) = (id.to_owned(), object.to_string(), cause.into());
        Self { id, object, result, cause, fix: None }
    }

    /// It holds.
    pub fn ok(id: &str, object: impl ToString, seen: impl Into<String>) -> Self {
        Self::new(id, object, Outcome::Ok, seen)
    }

    /// It cannot be known from here.
    pub fn unknown(id: &str, object: impl ToString, why: impl Into<String>) -> Self {
        Self::new(id, object, Outcome::Unknown, why)
    }

    /// It will not hold for long, or something is without effect.
    pub fn warn(id: &str, object: impl ToString, cause: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { fix: Some(fix.into()), ..Self::new(id, object, Outcome::Warn, cause) }
    }

    /// It does not hold.
    pub fn fail(id: &str, object: impl ToString, cause: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { fix: Some(fix.into()), ..Self::new(id, object, Outcome::Fail, cause) }
    }
}
