//! What is declared, object by object.

use std::fmt;
use std::sync::Arc;

use super::{Link, Listener, Policy, Service};

/// The kinds of objects that a cluster declares. Gateways and sidecars are processes, not objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// The relation to one peer.
    Link,
    /// Where callers are listened to.
    Listener,
    /// A service of this cluster.
    MeshService,
    /// How the traffic of a service is treated.
    TrafficPolicy,
}

/// Which object: unique in a cluster.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectName {
    kind: Kind,
    namespace: Arc<str>,
    name: Arc<str>,
}

/// One object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Object {
    /// The relation to one peer.
    Link(Link),
    /// Where callers are listened to.
    Listener(Arc<Listener>),
    /// A service of this cluster.
    Service(Arc<Service>),
    /// How the traffic of a service is treated.
    Policy(Arc<Policy>),
}

impl Kind {
    /// Every kind, in the order of [`Ord`].
    pub const ALL: [Self; 4] = [Self::Link, Self::Listener, Self::MeshService, Self::TrafficPolicy];

    /// As manifests write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Link => "Link",
            Self::Listener => "Listener",
            Self::MeshService => "MeshService",
            Self::TrafficPolicy => "TrafficPolicy",
        }
    }

    /// The kind that manifests write as `word`.
    pub fn of(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == word)
    }
}

impl ObjectName {
    /// The object `namespace/name`. A peer has one Link, whatever its namespace: that of a Link is always `default`.
    pub fn new(kind: Kind, namespace: &str, name: &str) -> Self {
        let namespace = if kind == Kind::Link { "default" } else { namespace };
        Self { kind, namespace: namespace.into(), name: name.into() }
    }

    /// Its kind.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Its namespace.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Its name in the namespace.
    pub fn name(&self) -> &str {
        &self.name
    }
}

/// As conditions name it: `Kind namespace/name`, and `Link name`.
impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            Kind::Link => write!(f, "Link {}", self.name),
            kind => write!(f, "{} {}/{}", kind.as_str(), self.namespace, self.name),
        }
    }
}

impl Object {
    /// What it is called.
    pub fn name(&self) -> ObjectName {
        match self {
            Self::Link(link) => ObjectName::new(Kind::Link, "", link.cluster.as_str()),
            Self::Service(service) => {
                ObjectName::new(Kind::MeshService, &service.name.namespace, &service.name.name)
            }
            Self::Listener(listener) => listener.object(),
            Self::Policy(policy) => policy.object(),
        }
    }
}

impl Policy {
    /// What it is called.
    pub fn object(&self) -> ObjectName {
        ObjectName::new(Kind::TrafficPolicy, &self.service.namespace, &self.name)
    }
}

/// An object as it is kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stored {
    /// The document, as it was written.
    pub text: String,
    /// From 1; grows with each change of what it says. 0: the record is of another version and cannot be read.
    pub generation: u64,
    /// Who applied it last.
    pub by: String,
    /// When, in Unix milliseconds.
    pub unix_ms: u64,
    /// The store's revision of its last change: what the next change of it is compared with.
    pub revision: u64,
}

/// Bytes of a value: etcd takes 1.5 MiB for a whole request, of which a value may need most.
pub const VALUE_BYTES_MAX: usize = 1024 * 1024;
