//! What this cluster exports, and what each watching peer has yet to hear of it.
//!
//! Pure. Own services only: an export is made of declarations, so that an import can never leave again. The latest
//! state per service wins: a [`Feed`] is a cursor over the export, not a queue, so a slow peer costs nothing.

mod feed;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use proto::sync;

pub use feed::{Feed, TooManySelectors};

use crate::model::record;
use crate::model::{ClusterName, Declared, Grant, Import, Position, ServiceName};

/// Services no longer exported whose deletion is still known one by one. A peer that resumes from before the oldest
/// gets a snapshot instead of deltas.
const DELETIONS_MAX: usize = 4096;

/// Clusters remembered per service as having been granted it once. Past it, older resumes get a snapshot.
const ONCE_GRANTED_MAX: usize = 1024;

/// The exported services of this cluster with the revision of each one's last change.
///
/// # One history, one process
///
/// Peers resume by epoch and revision, so none may ever name two states, not even after a crash before the last one was
/// saved, or a restored backup. Therefore every start begins a history, and so an epoch, of its own: what was deleted
/// while nothing ran is not known anyway, and every peer gets a snapshot. No word of a peer changes the epoch: see
/// [`Feed`]. Revisions count on from the clock, in microseconds, so that peers can tell whose is behind.
#[derive(Clone, Debug)]
pub struct Export {
    position: Position,
    /// Resuming from an earlier revision could miss a deletion.
    floor: u64,
    services: BTreeMap<ServiceName, Entry>,
    /// Every entry by its revision, which is unique.
    by_revision: BTreeMap<u64, ServiceName>,
    /// Entries that nobody is granted now.
    deleted: usize,
}

/// A service that is exported, or was.
#[derive(Clone, Debug)]
struct Entry {
    /// The last state that anyone was granted.
    import: Import,
    grant: Grant,
    /// Whoever was granted it since the floor: those hear of its deletion, and only those.
    once: Grant,
}

impl Entry {
    /// What `peer` is told of it; none: it never had the grant and hears nothing.
    fn event(&self, peer: &ClusterName, epoch: u64) -> Option<sync::event::Kind> {
        let name = &self.import.name;
        if self.grant.allows(peer) {
            Some(sync::event::Kind::Upsert(record::encode(&self.import, epoch)))
        } else if self.once.allows(peer) {
            Some(sync::event::Kind::Removed(sync::Removed {
                namespace: name.namespace.to_string(),
                name: name.name.to_string(),
                revision: self.import.revision,
            }))
        } else {
            None
        }
    }
}

impl Export {
    /// The export of `declared` in a new epoch, with revisions above those that were `saved` by an earlier run and that
    /// the time makes likely. `now_unix_ms`: the time, in Unix milliseconds.
    pub fn new(
        saved: Position,
        declared: &Declared,
        region: &str,
        now_unix_ms: u64,
        rng: &mut fastrand::Rng,
    ) -> Self {
        let clock = now_unix_ms.saturating_mul(1000);
        let mut export = Self {
            position: Position { epoch: random_epoch(rng), revision: saved.revision.max(clock) },
            floor: 0,
            services: BTreeMap::new(),
            by_revision: BTreeMap::new(),
            deleted: 0,
        };
        export.update(declared, region);
        // One further even if nothing is exported: a start is a change to whoever resumes.
        export.position.revision += 1;
        export.floor = export.position.revision;
        export
    }

    /// Takes in what is declared now. True: something that peers see changed.
    pub fn update(&mut self, declared: &Declared, region: &str) -> bool {
        let before = self.position.revision;
        let gone = |(name, entry): (&ServiceName, &Entry)| {
            let kept = declared.services.get(name).is_some_and(|service| service.export != Grant::Nobody);
            (!kept && entry.grant != Grant::Nobody).then(|| name.clone())
        };
        for name in self.services.iter().filter_map(gone).collect::<Vec<_>>() {
            self.change(&name, |entry| entry.grant = Grant::Nobody);
        }
        for service in declared.services.values().filter(|service| service.export != Grant::Nobody) {
            let policy = declared.policies.get(&service.name);
            let import = Import {
                name: service.name.clone(),
                ports: service.ports.clone(),
                region: region.into(),
                contract: policy.and_then(|policy| policy.placement.clone()).map(Box::new),
                revision: 0,
            };
            self.declare(import, &service.export);
        }
        self.forget_oldest_deletions();
        self.position.revision != before
    }

    /// The epoch and the revision of the last change; its owner saves it when it changed.
    pub fn position(&self) -> Position {
        self.position
    }

    /// What `peer` may use now, by name.
    pub fn granted_to(&self, peer: &ClusterName) -> impl Iterator<Item = &Import> {
        let granted = move |entry: &&Entry| entry.grant.allows(peer);
        self.services.values().filter(granted).map(|entry| &entry.import)
    }

    fn declare(&mut self, import: Import, grant: &Grant) {
        let known = self.services.get(&import.name);
        if known.is_some_and(|known| known.grant == *grant && same_facts(&known.import, &import)) {
            return;
        }
        let name = import.name.clone();
        if known.is_none() {
            // `change` gives it its revision; 0 is in no index yet.
            let entry = Entry { import: import.clone(), grant: Grant::Nobody, once: Grant::Nobody };
            self.services.insert(name.clone(), entry);
            self.deleted += 1;
        }
        self.change(&name, |entry| {
            entry.import = Import { revision: entry.import.revision, ..import };
            entry.grant = grant.clone();
        });
    }

    /// Changes one entry, which exists, under the next revision.
    fn change(&mut self, name: &ServiceName, change: impl FnOnce(&mut Entry)) {
        let Some(entry) = self.services.get_mut(name) else { return };
        let was_deleted = entry.grant == Grant::Nobody;
        self.position.revision += 1;
        self.by_revision.remove(&entry.import.revision);
        self.by_revision.insert(self.position.revision, name.clone());
        change(entry);
        entry.import.revision = self.position.revision;
        match both(&entry.once, &entry.grant) {
            Some(once) => entry.once = once,
            None => {
                entry.once = entry.grant.clone();
                self.floor = self.position.revision;
            }
        }
        match (was_deleted, entry.grant == Grant::Nobody) {
            (false, true) => self.deleted += 1,
            (true, false) => self.deleted -= 1,
            _ => {}
        }
    }

    fn forget_oldest_deletions(&mut self) {
        if self.deleted <= DELETIONS_MAX {
            return;
        }
        let is_deleted =
            |name: &ServiceName| self.services.get(name).is_some_and(|entry| entry.grant == Grant::Nobody);
        // Half at once, so that a long series of deletions does not come here for each.
        let oldest: Vec<_> = (self.by_revision.iter())
            .filter(|(_, name)| is_deleted(name))
            .map(|(revision, name)| (*revision, name.clone()))
            .take(self.deleted - DELETIONS_MAX / 2)
            .collect();
        for (revision, name) in oldest {
            self.services.remove(&name);
            self.by_revision.remove(&revision);
            self.deleted -= 1;
            self.floor = self.floor.max(revision);
        }
    }
}

/// A new epoch: random, so that two histories never share one, and never 0, which means "nothing heard".
pub fn random_epoch(rng: &mut fastrand::Rng) -> u64 {
    rng.u64(1..)
}

fn same_facts(a: &Import, b: &Import) -> bool {
    (&a.ports, &a.region, &a.contract) == (&b.ports, &b.region, &b.contract)
}

/// Whoever one of the two allows; none: too many to remember.
fn both(a: &Grant, b: &Grant) -> Option<Grant> {
    match (a, b) {
        (Grant::Everyone, _) | (_, Grant::Everyone) => Some(Grant::Everyone),
        (Grant::Nobody, other) | (other, Grant::Nobody) => Some(other.clone()),
        (Grant::Clusters(a), Grant::Clusters(b)) => {
            let both: BTreeSet<_> = a.union(b).cloned().collect();
            (both.len() <= ONCE_GRANTED_MAX.max(b.len())).then_some(Grant::Clusters(both))
        }
    }
}
