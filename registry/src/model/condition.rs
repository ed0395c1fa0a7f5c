//! What does not hold of an object, in the terms of the Gateway API and MCS.

use std::fmt;
use std::sync::Arc;

use super::{ClusterName, Kind, ObjectName, ServiceName};

/// That something does not hold of an object; nothing is said of what is well.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Condition {
    /// The object.
    pub object: Subject,
    /// What is wrong.
    pub reason: Reason,
    /// For people.
    pub message: String,
}

/// What a condition is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subject {
    /// This gateway.
    Gateway(Arc<str>),
    /// What the cluster declares.
    Object(ObjectName),
    /// This sidecar.
    Sidecar(Arc<str>),
}

/// The aspect of an object that a condition is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ConditionKind {
    /// It was taken as it was written.
    Accepted,
    /// Clusters disagree about it: the one kind whose truth is bad.
    Conflict,
    /// Requests are placed by it.
    Programmed,
    /// All of it.
    Ready,
    /// What it refers to is there.
    ResolvedRefs,
}

/// A CamelCase word for machines: what is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)] // Each says itself; its message says the rest.
pub enum Reason {
    BackendNotFound,
    BundleNotUsable,
    CertificateNotYetValid,
    ContractsDiffer,
    DeclaredInFile,
    DeclarerSilent,
    EndpointsMisfit,
    GenerationTooHigh,
    Held,
    InvalidBundle,
    InvalidIdentity,
    InvalidManifests,
    LeavesOut,
    LinkNotFound,
    NoRing,
    NotAMember,
    NotBound,
    NotRead,
    NotReadable,
    OverBudget,
    PlacementInert,
    PortsDiffer,
    ReadFailed,
    RecordsLeftOut,
    RestartNeeded,
    RingsDiffer,
    SecondPolicy,
    ServiceNotDeclared,
    TooManyEndpoints,
}

impl Condition {
    /// That this does not hold of `object`.
    pub fn new(object: impl Into<Subject>, reason: Reason, message: impl Into<String>) -> Self {
        Self { object: object.into(), reason, message: message.into() }
    }

    /// The aspect that it is about.
    pub fn kind(&self) -> ConditionKind {
        self.reason.kind()
    }

    /// Whether the aspect is true: that of a conflict is.
    pub fn status(&self) -> bool {
        self.kind() == ConditionKind::Conflict
    }
}

impl Reason {
    /// The aspect that it speaks of.
    pub fn kind(self) -> ConditionKind {
        match self {
            Self::CertificateNotYetValid
            | Self::DeclaredInFile
            | Self::Held
            | Self::InvalidBundle
            | Self::InvalidIdentity
            | Self::InvalidManifests
            | Self::NotRead
            | Self::NotReadable
            | Self::ReadFailed
            | Self::RestartNeeded
            | Self::SecondPolicy => ConditionKind::Accepted,
            Self::ContractsDiffer
            | Self::GenerationTooHigh
            | Self::LeavesOut
            | Self::PortsDiffer
            | Self::RingsDiffer => ConditionKind::Conflict,
            Self::DeclarerSilent
            | Self::NoRing
            | Self::NotAMember
            | Self::NotBound
            | Self::OverBudget
            | Self::PlacementInert
            | Self::RecordsLeftOut => ConditionKind::Programmed,
            Self::BackendNotFound
            | Self::BundleNotUsable
            | Self::EndpointsMisfit
            | Self::LinkNotFound
            | Self::ServiceNotDeclared
            | Self::TooManyEndpoints => ConditionKind::ResolvedRefs,
        }
    }
}

impl ConditionKind {
    /// As statuses have it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "Accepted",
            Self::Conflict => "Conflict",
            Self::Programmed => "Programmed",
            Self::Ready => "Ready",
            Self::ResolvedRefs => "ResolvedRefs",
        }
    }
}

impl fmt::Display for ConditionKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The names are the words.
        fmt::Debug::fmt(self, f)
    }
}

/// `Kind namespace/name`, and `Gateway`, `Link` or `Sidecar` with a name alone.
impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gateway(id) => write!(f, "Gateway {id}"),
            Self::Object(object) => write!(f, "{object}"),
            Self::Sidecar(id) => write!(f, "Sidecar {id}"),
        }
    }
}

impl From<ObjectName> for Subject {
    fn from(object: ObjectName) -> Self {
        Self::Object(object)
    }
}

impl From<&ServiceName> for Subject {
    fn from(service: &ServiceName) -> Self {
        Self::Object(ObjectName::new(Kind::MeshService, &service.namespace, &service.name))
    }
}

/// The Link to a cluster.
impl From<&ClusterName> for Subject {
    fn from(peer: &ClusterName) -> Self {
        Self::Object(ObjectName::new(Kind::Link, "", peer.as_str()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_kinds_and_reasons_are_words() {
        let condition =
            Condition::new(ObjectName::new(Kind::MeshService, "shop", "cart"), Reason::NoRing, "x");
        let said = format!("{} {} {}", condition.object, condition.kind(), condition.reason);
        assert_eq!((&*said, condition.status()), ("MeshService shop/cart Programmed NoRing", false));
        assert!(Condition::new(Subject::Gateway("gw-1".into()), Reason::RingsDiffer, "").status());
    }
}
