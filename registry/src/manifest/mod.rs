//! Manifests: what an operator writes, read strictly into the [`model`](crate::model).
//!
//! What was typed and what the program uses are two sets of types: the former stay in here, the latter cannot be
//! wrong. Reading is pure but for [`load`]; it collects everything that is wrong (of each document the first error of
//! shape, of all documents every error of meaning) before it gives up.
//!
//! ```
//! use registry::manifest::{Source, parse};
//!
//! let text = "
//! apiVersion: ringway.dev/v1alpha1
//! kind: TrafficPolicy
//! metadata: { name: cart, namespace: shop }
//! spec: { service: cart, timeout: { head: 2 sec } }
//! ";
//! let problems = parse(&[Source { name: "cart.yaml".into(), text: text.into() }]).unwrap_err();
//! let problem = problems.iter().last().unwrap();
//! assert_eq!(problem.place(), "cart.yaml:5:41");
//! assert_eq!(problem.message, "spec.timeout.head: `2 sec` is no duration");
//! assert_eq!(problem.hint.as_deref(), Some("write `2s`"));
//! ```

use std::path::PathBuf;

mod document;
mod files;
mod gateway;
mod health;
mod http_rules;
mod link;
mod listener;
mod placement;
mod policy;
mod problem;
mod raw;
mod read;
mod register;
mod registration;
mod registry;
mod scope;
mod service;
mod shape;
mod sidecar;
mod suggest;
mod units;
mod version;

pub use files::{load, sources};
pub use problem::{Excerpt, Problem, Problems, Severity};
pub use version::with_revision;

use crate::model::{Condition, Declared, Gateway, Kind, ObjectName, Sidecar};

/// A duration as manifests write it: a whole number and one of ms, s, m, h; more than nothing, at most a day.
///
/// # Errors
/// What is wrong with it, and how to write it.
pub fn duration(text: &str) -> Result<std::time::Duration, String> {
    units::duration(text).map_err(|wrong| {
        let hint = wrong.hint.map_or_else(String::new, |hint| format!(": {hint}"));
        format!("{}{hint}", wrong.message)
    })
}

/// Largest manifest file. Kubernetes refuses objects above 1.5 MiB; a file may hold several.
pub const FILE_BYTES_MAX: usize = 4 << 20;

/// Most bytes of manifests in all: bounds memory and the time of a reload.
pub const TOTAL_BYTES_MAX: usize = 64 << 20;

/// The one version of the API there is.
pub const API_VERSION: &str = "ringway.dev/v1alpha1";

/// A file that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// Its path: named in problems, and the place from which relative paths in it count.
    pub name: PathBuf,
    /// Its text.
    pub text: String,
}

/// One document as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    /// `Gateway`, `Sidecar`, `Link`, `Listener`, `MeshService` or `TrafficPolicy`.
    pub kind: &'static str,
    /// Its namespace, empty for a Gateway or Sidecar.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its original bytes, comments included, but for `metadata.resourceVersion`.
    pub bytes: String,
    /// `metadata.resourceVersion`: the revision that whoever changed it had seen.
    pub revision: Option<u64>,
    /// The file it stands in.
    pub file: PathBuf,
    /// Its first line there, from 1.
    pub line: u32,
}

impl Document {
    /// What it declares; none: a process.
    pub fn object(&self) -> Option<ObjectName> {
        Kind::of(self.kind).map(|kind| ObjectName::new(kind, &self.namespace, &self.name))
    }
}

/// Manifests that can be used.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Manifests {
    /// The Gateway, if the files hold one; see [`Self::require_gateway`].
    pub gateway: Option<Gateway>,
    /// The Sidecar, if the files hold one; see [`Self::require_sidecar`].
    pub sidecar: Option<Sidecar>,
    /// Everything else. Without a Gateway, a Link that names no trust domain has an empty one: such manifests can be
    /// checked, not run.
    pub declared: Declared,
    /// What has no effect, or not the one meant.
    pub warnings: Vec<Problem>,
    /// The same for `status`: references to what is not there.
    pub conditions: Vec<Condition>,
    /// The documents as they were written, in order.
    pub documents: Vec<Document>,
}

impl Manifests {
    /// The Gateway that these manifests declare.
    ///
    /// # Errors
    /// When they declare none.
    pub fn require_gateway(&self) -> Result<&Gateway, Problems> {
        self.gateway.as_ref().ok_or_else(|| self.missing("Gateway"))
    }

    /// The Sidecar that these manifests declare.
    ///
    /// # Errors
    /// When they declare none.
    pub fn require_sidecar(&self) -> Result<&Sidecar, Problems> {
        self.sidecar.as_ref().ok_or_else(|| self.missing("Sidecar"))
    }

    fn missing(&self, kind: &str) -> Problems {
        let hint = format!("add a document with `apiVersion: {API_VERSION}` and `kind: {kind}`");
        let files: Vec<String> = self.documents.iter().map(|d| d.file.display().to_string()).collect();
        let file = files.first().cloned().unwrap_or_else(|| "manifests".into());
        Problem::of_file(file, format!("no {kind} is declared"), Some(hint)).into()
    }
}

/// Reads manifests from text.
///
/// # Errors
/// Everything that is wrong with them.
pub fn parse(sources: &[Source]) -> Result<Manifests, Problems> {
    read::read(sources, None)
}

/// The objects that `sources` declare, by their heads alone: what cannot be read is left out, and [`parse_for`] says why.
/// Lazy: each document is read as its object is asked for.
pub fn names(sources: &[Source]) -> impl Iterator<Item = ObjectName> {
    read::names(sources)
}

/// How many documents `sources` hold; none of them is read.
pub fn count(sources: &[Source]) -> usize {
    sources.iter().map(|source| document::split(&source.text).len()).sum()
}

/// Reads objects from text that join those of the running gateway `of`: what they leave out comes from it, and what
/// they refer to may be elsewhere, so it is not looked up ([`crate::pure::sources`] does).
///
/// # Errors
/// Everything that is wrong with them; a Gateway or a Sidecar among them is.
pub fn parse_for(of: &Gateway, sources: &[Source]) -> Result<Manifests, Problems> {
    read::read(sources, Some(of))
}
