//! What a store holds, as this process's memory has it: entries, leases and the history that watches read.
//!
//! Pure: time is a parameter. It changes only by batches, which [`super::staged`] makes.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Bound;
use std::time::{Duration, Instant};

use super::staged::Batch;
use super::{
    Changes, Entry, HISTORY_AGE, HISTORY_BYTES, HISTORY_EVENTS, LEASES_MAX, LeaseId, Range, Room,
    STORE_BYTES_MAX, StoreError,
};

/// How much a store holds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Bytes of all keys and values.
    pub(super) bytes: usize,
    pub(super) leases: usize,
    /// Events of history, or those of the last revision if that alone has more.
    pub(super) history_events: usize,
    /// Bytes of history, with the same exception.
    pub(super) history_bytes: usize,
    pub(super) history_age: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            bytes: STORE_BYTES_MAX,
            leases: LEASES_MAX,
            history_events: HISTORY_EVENTS,
            history_bytes: HISTORY_BYTES,
            history_age: HISTORY_AGE,
        }
    }
}

/// All that a store holds at one revision.
#[derive(Clone, Debug, Default)]
pub(super) struct State {
    limits: Limits,
    revision: u64,
    entries: BTreeMap<String, Entry>,
    /// Of all entries.
    bytes: usize,
    leases: BTreeMap<LeaseId, Lease>,
    last_lease: u64,
    /// Oldest first, no revision missing up to `revision`.
    history: VecDeque<Recorded>,
    history_events: usize,
    history_bytes: usize,
}

#[derive(Clone, Debug)]
struct Lease {
    ttl: Duration,
    lapses: Instant,
    /// It lapsed, and only its keys are still to go: nothing revives it.
    ending: bool,
    keys: BTreeSet<String>,
}

/// Changes and when they were made, in Unix milliseconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Recorded {
    pub(super) at_unix_ms: u64,
    pub(super) changes: Changes,
}

/// What of a store outlives its process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Kept {
    pub(super) revision: u64,
    pub(super) last_lease: u64,
    pub(super) entries: BTreeMap<String, Entry>,
    /// Times to live.
    pub(super) leases: BTreeMap<LeaseId, Duration>,
    pub(super) history: VecDeque<Recorded>,
}

impl State {
    pub(super) fn new(limits: Limits) -> Self {
        Self { limits, ..Self::default() }
    }

    /// Goes on from what was kept elsewhere meanwhile.
    ///
    /// # Errors
    /// What of it contradicts itself; nothing has changed then.
    pub(super) fn replace(&mut self, kept: Kept, now: Instant) -> Result<(), &'static str> {
        *self = Self::restore(self.limits, kept, now)?;
        Ok(())
    }

    /// The state that was kept. Every lease begins with a full time to live: whether its owner was there while
    /// nobody listened is unknown.
    ///
    /// # Errors
    /// What of it contradicts itself.
    pub(super) fn restore(limits: Limits, kept: Kept, now: Instant) -> Result<Self, &'static str> {
        let mut leases: BTreeMap<_, _> = (kept.leases.into_iter())
            .map(|(id, ttl)| (id, Lease { ttl, lapses: now + ttl, ending: false, keys: BTreeSet::new() }))
            .collect();
        if leases.last_key_value().is_some_and(|(id, _)| id.0 > kept.last_lease) {
            return Err("a lease is newer than the last one granted");
        }
        for entry in kept.entries.values() {
            if entry.created > entry.modified || entry.modified > kept.revision {
                return Err("an entry is newer than its store");
            }
            if let Some(id) = entry.lease {
                let lease = leases.get_mut(&id).ok_or("an entry has a lease that never was")?;
                lease.keys.insert(entry.key.clone());
            }
        }
        let before = kept.revision.checked_sub(kept.history.len() as u64);
        let before = before.ok_or("the history is longer than its store is old")?;
        let mut revisions = kept.history.iter().map(|recorded| recorded.changes.revision).zip(before + 1..);
        if revisions.any(|(revision, expected)| revision != expected) {
            return Err("revisions are missing from the history");
        }
        let events = kept.history.iter().flat_map(|recorded| &recorded.changes.events);
        Ok(Self {
            limits,
            revision: kept.revision,
            bytes: kept.entries.values().map(Entry::bytes).sum(),
            entries: kept.entries,
            leases,
            last_lease: kept.last_lease,
            history_events: events.clone().count(),
            history_bytes: events.map(super::Event::bytes).sum(),
            history: kept.history,
        })
    }

    /// What of it shall outlive the process.
    pub(super) fn kept(&self) -> Kept {
        Kept {
            revision: self.revision,
            last_lease: self.last_lease,
            entries: self.entries.clone(),
            leases: self.leases.iter().map(|(id, lease)| (*id, lease.ttl)).collect(),
            history: self.history.clone(),
        }
    }

    pub(super) fn limits(&self) -> &Limits {
        &self.limits
    }

    pub(super) fn revision(&self) -> u64 {
        self.revision
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn room(&self) -> Room {
        Room { used: self.bytes as u64, max: self.limits.bytes as u64, full: false }
    }

    pub(super) fn last_lease(&self) -> u64 {
        self.last_lease
    }

    pub(super) fn leases(&self) -> usize {
        self.leases.len()
    }

    /// Changes up to this revision are no longer in the history.
    pub(super) fn compacted(&self) -> u64 {
        self.history.front().map_or(self.revision, |oldest| oldest.changes.revision - 1)
    }

    pub(super) fn entry(&self, key: &str) -> Option<&Entry> {
        self.entries.get(key)
    }

    pub(super) fn range(&self, prefix: &str) -> Range {
        let from = self.entries.range::<str, _>((Bound::Included(prefix), Bound::Unbounded));
        let entries = from.take_while(|(key, _)| key.starts_with(prefix)).map(|(_, entry)| entry.clone());
        Range { revision: self.revision, entries: entries.collect() }
    }

    /// Whether the lease is there, if only to end.
    pub(super) fn has(&self, lease: LeaseId) -> bool {
        self.leases.contains_key(&lease)
    }

    /// Whether keys may be put with the lease.
    pub(super) fn lives(&self, lease: LeaseId) -> bool {
        self.leases.get(&lease).is_some_and(|lease| !lease.ending)
    }

    /// The keys that die with the lease.
    pub(super) fn leased(&self, lease: LeaseId) -> impl Iterator<Item = &String> {
        self.leases.get(&lease).into_iter().flat_map(|lease| &lease.keys)
    }

    /// Lets a lease live for another time to live.
    pub(super) fn keep_alive(&mut self, id: LeaseId, now: Instant) -> Result<(), StoreError> {
        let lease =
            self.leases.get_mut(&id).filter(|lease| !lease.ending).ok_or(StoreError::LeaseGone(id))?;
        lease.lapses = now + lease.ttl;
        Ok(())
    }

    /// Gives every lease its full time to live again: nobody could be heard for a while.
    pub(super) fn keep_all_alive(&mut self, now: Instant) {
        for lease in self.leases.values_mut().filter(|lease| !lease.ending) {
            lease.lapses = now + lease.ttl;
        }
    }

    /// When the next lease lapses, or has.
    pub(super) fn next_lapse(&self) -> Option<Instant> {
        self.leases.values().map(|lease| lease.lapses).min()
    }

    /// The leases that lapsed by `now`. They are past saving, and told again until a batch ended them.
    pub(super) fn lapse(&mut self, now: Instant) -> Vec<LeaseId> {
        let mut lapsed = Vec::new();
        for (id, lease) in self.leases.iter_mut().filter(|(_, lease)| lease.lapses <= now) {
            lease.ending = true;
            lapsed.push(*id);
        }
        lapsed
    }

    /// Makes a batch true that was decided upon this very state.
    pub(super) fn apply(&mut self, batch: Batch, now: Instant) {
        for (id, ttl) in batch.granted {
            self.leases.insert(id, Lease { ttl, lapses: now + ttl, ending: false, keys: BTreeSet::new() });
        }
        for (key, entry) in batch.entries {
            self.set(key, entry);
        }
        for id in &batch.ended {
            self.leases.remove(id);
        }
        self.last_lease = batch.last_lease;
        for changes in batch.changes {
            self.revision = changes.revision;
            self.history_events += changes.events.len();
            self.history_bytes += changes.events.iter().map(super::Event::bytes).sum::<usize>();
            self.history.push_back(Recorded { at_unix_ms: batch.at_unix_ms, changes });
        }
        self.forget(batch.at_unix_ms);
    }

    fn set(&mut self, key: String, entry: Option<Entry>) {
        let lease = entry.as_ref().and_then(|entry| entry.lease);
        self.bytes += entry.as_ref().map_or(0, Entry::bytes);
        let before = match entry {
            Some(entry) => self.entries.insert(key.clone(), entry),
            None => self.entries.remove(&key),
        };
        if let Some(before) = before {
            self.bytes -= before.bytes();
            if let Some(lease) = before.lease.and_then(|id| self.leases.get_mut(&id)) {
                lease.keys.remove(&key);
            }
        }
        if let Some(lease) = lease.and_then(|id| self.leases.get_mut(&id)) {
            lease.keys.insert(key);
        }
    }

    /// Drops the oldest history beyond the limits. A clock that was set back keeps it for longer.
    fn forget(&mut self, now_unix_ms: u64) {
        while let Some(oldest) = self.history.front() {
            let age_ms = u128::from(now_unix_ms.saturating_sub(oldest.at_unix_ms));
            let too_much = self.history_events > self.limits.history_events
                || self.history_bytes > self.limits.history_bytes;
            let too_old = age_ms > self.limits.history_age.as_millis();
            let goes = too_old || too_much && self.history.len() > 1;
            if !goes {
                return;
            }
            self.history_events -= oldest.changes.events.len();
            self.history_bytes -= oldest.changes.events.iter().map(super::Event::bytes).sum::<usize>();
            self.history.pop_front();
        }
    }

    /// The first changes under `prefix` at `from` or later; `from` moves past everything that was looked at.
    pub(super) fn changes(&self, prefix: &str, from: &mut u64) -> Result<Option<Changes>, StoreError> {
        let compacted = self.compacted();
        if *from <= compacted {
            return Err(StoreError::Compacted(compacted));
        }
        let first = self.history.partition_point(|recorded| recorded.changes.revision < *from);
        for Recorded { changes, .. } in self.history.range(first..) {
            *from = changes.revision + 1;
            let under_prefix = changes.events.iter().filter(|event| event.key().starts_with(prefix));
            let events: Vec<_> = under_prefix.cloned().collect();
            if !events.is_empty() {
                return Ok(Some(Changes { revision: changes.revision, events }));
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
pub(super) mod tests;
