//! What `/v1/registry` answers.

use serde::{Deserialize, Serialize};

use crate::status::Condition;

/// Everything held, of one moment.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Dump {
    /// Our cluster.
    pub cluster: String,
    /// Grows with every change of what is held.
    pub revision: u64,
    /// What the manifests declare.
    pub declared: Vec<Object>,
    /// What peers may use, as they are told it.
    pub exports: Exports,
    /// What is mirrored, by peer.
    pub imports: Vec<Imports>,
    /// What does not hold.
    pub conditions: Vec<Condition>,
    /// What the registry in the state directory holds, by key.
    #[serde(default)]
    pub stored: Vec<Stored>,
}

/// A key of the registry.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Stored {
    /// The key.
    pub key: String,
    /// The registry's revision of its last change.
    pub modified: u64,
    /// Bytes of its value.
    pub bytes: usize,
    /// What its value says; none: this version does not know it.
    pub says: Option<String>,
}

/// A declared object.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Object {
    /// Its kind.
    pub kind: String,
    /// `namespace/name`, or a cluster's name.
    pub name: String,
    /// What it says, in a line.
    pub says: String,
}

/// What this cluster exports.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Exports {
    /// Which history, hexadecimal.
    pub epoch: String,
    /// How far in it.
    pub revision: u64,
    /// What is exported.
    pub services: Vec<Exported>,
}

/// An exported service.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Exported {
    /// `namespace/name`.
    pub name: String,
    /// Cluster names, or `*`.
    pub to: Vec<String>,
    /// Linked clusters among them.
    pub reaches: Vec<String>,
}

/// What is mirrored of one peer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Imports {
    /// The peer.
    pub peer: String,
    /// Which history of the peer's, hexadecimal.
    pub epoch: String,
    /// The peer's revision up to which this is complete.
    pub revision: u64,
    /// Since the last word of the peer; none: it never said one.
    pub age_seconds: Option<u64>,
    /// What is mirrored.
    pub services: Vec<Record>,
}

/// An imported service.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Record {
    /// `namespace/name`.
    pub name: String,
    /// Whether it joins the union name; else it is reached by its pinned name only.
    pub union: bool,
    /// As `name number protocol`.
    pub ports: Vec<String>,
    /// Region of the peer.
    pub region: String,
    /// The peer's revision at which this was written.
    pub revision: u64,
    /// Its placement contract in a line, if the peer declares one.
    pub contract: Option<String>,
}
