//! What is declared, from every source: it changes as a whole, and exports, mirrors and the view follow.

use std::sync::Arc;

use registry::model::{ClusterName, Condition, Declared, Reason, ServiceName};
use registry::pure::mirror::LeftOut;
use registry::pure::probation::Endpoints;
use registry::pure::sources::{AppliedObjects, Files};

use super::{Knowledge, State};

/// What a change of the sources changed of what counts.
#[derive(Debug)]
pub struct Change {
    /// What counted before.
    pub before: Declared,
    /// What counts from now on.
    pub after: Declared,
    /// Whether something else is left open than before.
    pub conditions: bool,
}

impl Knowledge {
    /// Takes what files declare and what is applied now. `untrusted`: of which linked clusters, our own among them,
    /// nobody is believed.
    pub fn declare(&self, files: Arc<Files>, applied: AppliedObjects, untrusted: Vec<Condition>) -> Change {
        let mut state = self.lock();
        let unlike = state.untrusted != untrusted;
        state.untrusted = untrusted;
        (state.sources.files, state.sources.applied) = (files, applied);
        let mut change = self.merge(&mut state);
        if unlike {
            change.conditions = true;
            self.touch(&mut state);
        }
        change
    }

    /// Takes what is registered now for each service of `changes`, instead of what was before. Nothing else is looked at:
    /// endpoints matter neither to exports nor to mirrors.
    pub fn register_endpoints(&self, changes: Vec<(ServiceName, Endpoints)>) {
        let mut state = self.lock();
        let State { sources, merged, .. } = &mut *state;
        let mut changed = false;
        for (service, endpoints) in changes {
            changed |= merged.register(&service, &endpoints);
            if endpoints.is_empty() {
                sources.registered.remove(&service);
            } else {
                sources.registered.insert(service, endpoints);
            }
        }
        if changed {
            self.touch(&mut state);
        }
    }

    /// What files declare and what is applied.
    pub fn sources(&self) -> (Arc<Files>, AppliedObjects) {
        let state = self.lock();
        (state.sources.files.clone(), state.sources.applied.clone())
    }

    /// Shows what of the files is not in use, and why, until it is told anew.
    pub fn show_files(&self, conditions: Vec<Condition>) {
        let mut state = self.lock();
        if state.of_files != conditions {
            state.of_files = conditions;
            self.touch(&mut state);
        }
    }

    /// What does not hold of what is declared, and of the files.
    pub(super) fn conditions(&self) -> Vec<Condition> {
        let state = self.lock();
        let State { of_files, untrusted, merged, mirrors, .. } = &*state;
        let left_out = mirrors.iter().filter_map(|(peer, mirror)| left_out(peer, mirror.left_out()));
        of_files.iter().chain(untrusted).chain(merged.conditions()).cloned().chain(left_out).collect()
    }

    /// Joins the sources anew: exports, mirrors and view follow.
    fn merge(&self, state: &mut State) -> Change {
        let merged = state.sources.merge(&self.cluster);
        let before = std::mem::replace(&mut state.merged, merged);
        let declared = state.merged.declared.clone();
        let conditions = before.conditions().ne(state.merged.conditions());
        if before.declared != declared {
            if state.export.update(&declared, &self.region) {
                self.exported.send_modify(|n| *n += 1);
            }
            // What was mirrored of a peer goes with the link to it.
            state.mirrors.retain(|cluster, _| declared.links.contains_key(cluster));
            for (cluster, link) in &declared.links {
                let mirror = state.mirrors.entry(cluster.clone());
                let fresh = || registry::pure::mirror::Mirror::new(link, Arc::default());
                mirror.and_modify(|m| drop(m.select(link))).or_insert_with(fresh);
            }
            self.touch(state);
        } else if conditions {
            self.touch(state);
        }
        Change { before: before.declared, after: declared, conditions }
    }
}

/// What is to be said of the Link to a peer of whose records some are left out.
fn left_out(peer: &ClusterName, left_out: &LeftOut) -> Option<Condition> {
    let (name, why) = left_out.example()?;
    let count = left_out.len();
    let text = format!("{count} of the records that the cluster exports are left out, such as {name}: {why}");
    Some(Condition::new(peer, Reason::RecordsLeftOut, text))
}
