//! What this cluster declares, joined of its sources: files, applied objects, registered endpoints.
//!
//! Pure. An object that a file declares counts; one of the same name that was applied is inert and says so. RegisteredEndpoints
//! endpoints join those that their service declares; of two with one id the declared one counts.

mod references;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::applied::Stored;
use crate::manifest::Document;
use crate::model::{ClusterName, Condition, Declared, Endpoint, Object, ObjectName, ServiceName};
use crate::registration;

/// RegisteredEndpoints endpoints that a condition names; more are counted.
const NAMED_MAX: usize = 5;

/// Everything that declares something, as it stands at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sources {
    /// The manifest files of the gateway.
    pub files: Arc<Files>,
    /// What was applied.
    pub applied: AppliedObjects,
    /// Endpoints that registered themselves.
    pub registered: RegisteredEndpoints,
}

/// What the manifest files declare.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Files {
    /// The objects.
    pub declared: Declared,
    /// The documents that they stand in.
    pub documents: BTreeMap<ObjectName, Arc<Document>>,
}

/// Objects that were applied, by name.
pub type AppliedObjects = BTreeMap<ObjectName, Arc<Applied>>;

/// Endpoints that registered themselves, by service and id.
pub type RegisteredEndpoints = BTreeMap<ServiceName, BTreeMap<String, Endpoint>>;

/// An object that was applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// As it is kept.
    pub stored: Arc<Stored>,
    /// What it says; or why this version cannot read it.
    pub object: Result<Object, String>,
}

/// What follows from the sources.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Merged {
    /// What counts.
    pub declared: Declared,
    /// What is inert, and what refers to nothing.
    pub conditions: Vec<Condition>,
}

impl Files {
    /// From manifests that were read: the objects, and each document that declares one.
    pub fn new(declared: Declared, documents: Vec<Document>) -> Self {
        let named = |document: Document| Some((document.object()?, Arc::new(document)));
        Self { declared, documents: documents.into_iter().filter_map(named).collect() }
    }
}

impl Sources {
    /// Joins everything, for the cluster `own`.
    pub fn merge(&self, own: &ClusterName) -> Merged {
        let mut merged = Merged { declared: self.files.declared.clone(), conditions: Vec::new() };
        for (name, applied) in &self.applied {
            if let Err((reason, message)) = self.join(name, applied, &mut merged.declared) {
                merged.conditions.push(Condition {
                    object: name.to_string(),
                    kind: "Accepted",
                    status: false,
                    reason,
                    message,
                });
            }
        }
        for (service, endpoints) in &self.registered {
            let joined = register(service, endpoints, &mut merged.declared);
            merged.conditions.extend(joined.err());
        }
        merged.conditions.extend(references::unresolved(&merged.declared, own));
        merged
    }

    /// Where the files declare an object, as `FILE:LINE`.
    pub fn place(&self, name: &ObjectName) -> Option<String> {
        let document = self.files.documents.get(name)?;
        Some(format!("{}:{}", document.file.display(), document.line))
    }

    /// Adds an applied object, or says why it is inert.
    fn join(
        &self,
        name: &ObjectName,
        applied: &Applied,
        declared: &mut Declared,
    ) -> Result<(), (&'static str, String)> {
        if let Some(place) = self.place(name) {
            return Err((
                "DeclaredInFile",
                format!("declared in {place}, which counts: delete one of the two"),
            ));
        }
        match applied.object.clone().map_err(|why| ("NotReadable", why))? {
            Object::Link(link) => {
                declared.links.insert(link.cluster.clone(), link);
            }
            Object::Service(service) => {
                declared.services.insert(service.name.clone(), service);
            }
            Object::Policy(policy) => {
                if let Some(taken) = declared.policies.get(&policy.service) {
                    let first = taken.object();
                    let message = format!(
                        "spec.service: {} has the policy {first} already: join the two, a service has one TrafficPolicy",
                        policy.service
                    );
                    return Err(("SecondPolicy", message));
                }
                declared.policies.insert(policy.service.clone(), policy);
            }
        }
        Ok(())
    }
}

/// Adds registered endpoints to their service, or says which of them wait, and for what.
fn register(
    name: &ServiceName,
    endpoints: &BTreeMap<String, Endpoint>,
    declared: &mut Declared,
) -> Result<(), Condition> {
    let waits = |reason, ids: Vec<&str>, why: String| Condition {
        object: format!("MeshService {name}"),
        kind: "ResolvedRefs",
        status: false,
        reason,
        message: format!("{} wait: {why}", list(&ids)),
    };
    if endpoints.is_empty() {
        return Ok(());
    }
    let Some(service) = declared.services.get_mut(name) else {
        let why = format!("no MeshService {name} is declared");
        return Err(waits("ServiceNotDeclared", endpoints.keys().map(String::as_str).collect(), why));
    };
    let known: BTreeSet<String> = service.endpoints.iter().map(|endpoint| endpoint.id.clone()).collect();
    let service = Arc::make_mut(service);
    let mut misfits = Vec::new();
    let mut why = None;
    for (id, endpoint) in endpoints.iter().filter(|(id, _)| !known.contains(*id)) {
        match registration::fits(endpoint, name, &service.ports) {
            Ok(()) => service.endpoints.push(endpoint.clone()),
            Err(misfit) => {
                misfits.push(id.as_str());
                why.get_or_insert(misfit);
            }
        }
    }
    match why {
        None => Ok(()),
        Some(why) => Err(waits("EndpointsMisfit", misfits, why.to_string())),
    }
}

/// The first ids, and how many more there are.
fn list(ids: &[&str]) -> String {
    let named = ids[..ids.len().min(NAMED_MAX)].join(", ");
    let more = ids.len().saturating_sub(NAMED_MAX);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("the registered endpoints {named}{more}")
}
