//! What each event of a sync stream changes.

use std::collections::BTreeSet;
use std::sync::Arc;

use proto::sync;

use super::{Changed, Desync, Mirror, Snapshot, Why, is_in_a_mass};
use crate::model::record;
use crate::model::{Import, Position, ServiceName};

impl Mirror {
    pub(super) fn begin(&mut self, position: Position) -> Result<(), Desync> {
        if position.epoch == 0 {
            return Err(Desync::ZeroEpoch);
        }
        let known = self.imports.services.len();
        let Some(stream) = &mut self.stream else { return Err(Desync::NotWatching) };
        // A snapshot of this stream that began already. One that resumed gets another only from further on, for the
        // exporter sends one where it cannot tell the difference.
        let repeated = |base: Position| base.epoch == position.epoch && base.revision >= position.revision;
        if !stream.base.is_some_and(repeated) {
            stream.base = Some(position);
            stream.snapshot = Some(Snapshot { position, seen: BTreeSet::new(), known, whole: true });
            self.complete = false;
            let imports = Arc::make_mut(&mut self.imports);
            imports.partial_since_ms.get_or_insert(imports.synced_unix_ms);
            self.left_out.begin();
            // An earlier history's deletions say nothing of this one's records.
            self.gone.clear();
        }
        Ok(())
    }

    pub(super) fn upsert(&mut self, record: &sync::Record, base: Position) -> Vec<Changed> {
        // Left over from the history before a snapshot on this stream.
        if record.epoch != base.epoch {
            return Vec::new();
        }
        let import = record::decode(record);
        let name = match &import {
            Ok(import) => Some(import.name.clone()),
            Err(_) => ServiceName::new(&record.namespace, &record.name).ok(),
        };
        let in_snapshot = self.stream.as_ref().is_some_and(|stream| stream.snapshot.is_some());
        // Seen even if it cannot be used: it did not vanish.
        let known =
            |name: &&ServiceName| self.imports.services.contains_key(*name) || self.left_out.names(name);
        let first_seen = name.clone().filter(|name| known(&name)).is_some_and(|name| self.see(name));
        let was_held = name.as_ref().is_some_and(|name| self.held.remove(name).is_some());
        let import = match import {
            Ok(import) => import,
            Err(bad) => return self.skip(name, bad.into()),
        };
        if !self.selection.takes(&import.name) || self.is_replay(&import, first_seen || was_held, in_snapshot)
        {
            return Vec::new();
        }
        let before = self.imports.services.get(&import.name);
        if let Err(over) = self.budget.replace(before.map(|before| &**before), &import) {
            return self.skip(name, over.into());
        }
        self.see(import.name.clone());
        self.notes += u64::from(self.left_out.forget(&import.name));
        let import = Arc::new(import);
        let services = &mut Arc::make_mut(&mut self.imports).services;
        let before = services.insert(import.name.clone(), Arc::clone(&import));
        if before.is_some_and(|before| before == import) { Vec::new() } else { vec![Changed::Put(import)] }
    }

    /// Notes that the snapshot under way, if one is, names a service; true: for the first time.
    pub(super) fn see(&mut self, name: ServiceName) -> bool {
        let snapshot = self.stream.as_mut().and_then(|stream| stream.snapshot.as_mut());
        snapshot.is_some_and(|snapshot| snapshot.seen.insert(name))
    }

    /// Whether a record says nothing new. `overrides`: whatever is known of the service is of an older snapshot.
    fn is_replay(&self, import: &Import, overrides: bool, in_snapshot: bool) -> bool {
        let deleted = self.gone.get(&import.name).is_some_and(|&gone| gone >= import.revision);
        let known = match self.imports.services.get(&import.name) {
            Some(known) => !overrides && known.revision >= import.revision,
            // Deleted before the last complete revision.
            None => !in_snapshot && import.revision <= self.imports.revision,
        };
        deleted || known
    }

    pub(super) fn remove(&mut self, removed: &sync::Removed) -> Vec<Changed> {
        let name = match ServiceName::new(&removed.namespace, &removed.name) {
            Ok(name) => name,
            Err(bad) => return self.skip(None, Why::Bad(bad.into())),
        };
        let snapshot = self.stream.as_ref().and_then(|stream| stream.snapshot.as_ref());
        let superseded =
            self.held.contains_key(&name) || snapshot.is_some_and(|snapshot| !snapshot.seen.contains(&name));
        let known = self.imports.services.get(&name);
        if known.is_some_and(|known| !superseded && known.revision >= removed.revision) {
            return Vec::new();
        }
        self.notes += u64::from(self.left_out.forget(&name));
        if self.gone.len() < self.services_max {
            let gone = self.gone.entry(name.clone()).or_default();
            *gone = removed.revision.max(*gone);
        }
        self.delete_all([name])
    }

    pub(super) fn end(&mut self, revision: u64, now_unix_ms: u64) -> Result<Vec<Changed>, Desync> {
        let Some(stream) = &mut self.stream else { return Err(Desync::NotWatching) };
        let Some(Snapshot { position, seen, known, whole }) =
            stream.snapshot.take_if(|snapshot| snapshot.position.revision == revision)
        else {
            let repeated = stream.base.is_some_and(|base| base.revision >= revision);
            return if repeated { Ok(Vec::new()) } else { Err(Desync::EndWithoutBegin(revision)) };
        };
        self.complete = whole;
        self.gone.retain(|_, gone| *gone > revision);
        self.left_out.end(&seen);
        self.notes += 1;
        let imports = Arc::make_mut(&mut self.imports);
        (imports.epoch, imports.revision) = (position.epoch, position.revision);
        imports.partial_since_ms = None;
        let missing: Vec<_> = imports.services.keys().filter(|name| !seen.contains(*name)).cloned().collect();
        if !is_in_a_mass(missing.len(), known) {
            return Ok(self.delete_all(missing));
        }
        for name in missing {
            self.held.entry(name).or_insert(now_unix_ms);
        }
        Ok(self.release_held(now_unix_ms))
    }

    pub(super) fn advance(&mut self, to: Position, base: Position) -> Result<(), Desync> {
        if to.epoch != base.epoch {
            return Err(Desync::OtherEpoch { expected: base.epoch, got: to.epoch });
        }
        let in_snapshot = self.stream.as_ref().is_some_and(|stream| stream.snapshot.is_some());
        if !in_snapshot && to.revision > self.imports.revision {
            Arc::make_mut(&mut self.imports).revision = to.revision;
            self.gone.retain(|_, gone| *gone > to.revision);
        }
        Ok(())
    }
}
