//! What this cluster declares, joined of its sources: files, applied objects, registered endpoints.
//!
//! Pure. An object that a file declares counts; one of the same name that was applied is inert and says so. Registered
//! endpoints join those that their service declares; of two with one id the declared one counts.

mod references;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use proto::limits::LOOKUP_ENDPOINTS_MAX;

use crate::manifest::Document;
use crate::model::Stored;
use crate::model::{ClusterName, Condition, Declared, Object, ObjectName, Reason, Service, ServiceName};
use crate::pure::probation::Endpoints;
use crate::pure::registration;

/// Registered endpoints that a condition names; more are counted.
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
pub type RegisteredEndpoints = BTreeMap<ServiceName, Endpoints>;

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
    conditions: Vec<Condition>,
    /// Services to which registered endpoints were added, as they were before.
    bare: BTreeMap<ServiceName, Arc<Service>>,
    /// Which registered endpoints wait, and for what, by service.
    waiting: BTreeMap<ServiceName, Vec<Condition>>,
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
        let mut merged = Merged { declared: self.files.declared.clone(), ..Merged::default() };
        for (name, applied) in &self.applied {
            if let Err((reason, message)) = self.join(name, applied, &mut merged.declared) {
                merged.conditions.push(Condition::new(name.clone(), reason, message));
            }
        }
        for (service, endpoints) in &self.registered {
            merged.register(service, endpoints);
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
    ) -> Result<(), (Reason, String)> {
        if let Some(place) = self.place(name) {
            return Err((
                Reason::DeclaredInFile,
                format!("declared in {place}, which counts: delete one of the two"),
            ));
        }
        match applied.object.clone().map_err(|why| (Reason::NotReadable, why))? {
            Object::Link(link) => {
                declared.links.insert(link.cluster.clone(), link);
            }
            Object::Listener(listener) => {
                declared.listeners.insert(listener.object(), listener);
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
                    return Err((Reason::SecondPolicy, message));
                }
                declared.policies.insert(policy.service.clone(), policy);
            }
        }
        Ok(())
    }
}

impl Merged {
    /// What does not hold: what is inert or refers to nothing, and which registered endpoints wait.
    pub fn conditions(&self) -> impl Iterator<Item = &Condition> {
        self.conditions.iter().chain(self.waiting.values().flatten())
    }

    /// Takes the endpoints that are registered for a service instead of those before; whether anything else follows from
    /// it. Costs as much as that service has endpoints: all others stay the very same.
    pub fn register(&mut self, name: &ServiceName, endpoints: &Endpoints) -> bool {
        let before = self.declared.services.get(name).cloned();
        let bare = self.bare.remove(name).or_else(|| before.clone());
        let (joined, waiting) = join_registered(name, endpoints, bare.as_deref());
        let now = joined.map(Arc::new).or_else(|| bare.clone());
        let mut changed = now != before;
        if let Some(now) = now.filter(|_| changed) {
            self.declared.services.insert(name.clone(), now);
        }
        if let Some(bare) = bare.filter(|_| !endpoints.is_empty()) {
            self.bare.insert(name.clone(), bare);
        }
        let waited = self.waiting.remove(name).unwrap_or_default();
        changed |= waited != waiting;
        if !waiting.is_empty() {
            self.waiting.insert(name.clone(), waiting);
        }
        changed
    }
}

/// A service with the registered endpoints that it can take, if there are any; and which of them wait, for what.
fn join_registered(
    name: &ServiceName,
    endpoints: &Endpoints,
    bare: Option<&Service>,
) -> (Option<Service>, Vec<Condition>) {
    let waits = |reason, ids: &[&str], why: String| {
        Condition::new(name, reason, format!("{} wait: {why}", list(ids)))
    };
    if endpoints.is_empty() {
        return (None, Vec::new());
    }
    let Some(bare) = bare else {
        let ids: Vec<&str> = endpoints.keys().map(|id| &**id).collect();
        let why = format!("no MeshService {name} is declared");
        return (None, vec![waits(Reason::ServiceNotDeclared, &ids, why)]);
    };
    let known: BTreeSet<&str> = bare.endpoints.iter().map(|endpoint| &*endpoint.id).collect();
    let mut service = bare.clone();
    let (mut misfits, mut too_many) = (Vec::new(), Vec::new());
    let mut why = None;
    for endpoint in endpoints.values().filter(|endpoint| !known.contains(&*endpoint.id)) {
        match registration::fits(endpoint, name, &service.ports) {
            Err(misfit) => {
                misfits.push(&*endpoint.id);
                why.get_or_insert(misfit);
            }
            Ok(()) if service.endpoints.len() < LOOKUP_ENDPOINTS_MAX => {
                service.endpoints.push(endpoint.clone());
            }
            Ok(()) => too_many.push(&*endpoint.id),
        }
    }
    let mut waiting = Vec::new();
    if let Some(why) = why {
        waiting.push(waits(Reason::EndpointsMisfit, &misfits, why.to_string()));
    }
    if !too_many.is_empty() {
        let why = format!("a service has {LOOKUP_ENDPOINTS_MAX} endpoints and no more");
        waiting.push(waits(Reason::TooManyEndpoints, &too_many, why));
    }
    (Some(service), waiting)
}

/// The first ids, and how many more there are.
fn list(ids: &[&str]) -> String {
    let named = ids[..ids.len().min(NAMED_MAX)].join(", ");
    let more = ids.len().saturating_sub(NAMED_MAX);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("the registered endpoints {named}{more}")
}
