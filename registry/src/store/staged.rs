//! What writes add up to before they are made: a batch decided upon a state, to be kept first and shown then.
//!
//! Pure. Later writes of a batch see the earlier ones.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::state::State;
use super::{Changes, Entry, Event, Expect, LeaseId, Op, Outcome, StoreError, Transaction};

/// Decided changes, whole: all of them are made, or none.
#[derive(Debug)]
pub(super) struct Batch {
    /// When it was decided, in Unix milliseconds.
    pub(super) at_unix_ms: u64,
    /// One for each revision, in order.
    pub(super) changes: Vec<Changes>,
    /// What they make of each key that they touch; none: it is gone.
    pub(super) entries: BTreeMap<String, Option<Entry>>,
    /// New leases with their times to live.
    pub(super) granted: BTreeMap<LeaseId, Duration>,
    /// Leases that end.
    pub(super) ended: BTreeSet<LeaseId>,
    pub(super) last_lease: u64,
    /// History up to here was no longer kept when it was decided.
    pub(super) compacted: u64,
}

impl Batch {
    /// Whether it leaves everything as it is.
    pub(super) fn is_empty(&self) -> bool {
        self.changes.is_empty() && self.granted.is_empty() && self.ended.is_empty()
    }
}

/// A batch in the making.
#[derive(Debug)]
pub(super) struct Staged<'a> {
    state: &'a State,
    batch: Batch,
    revision: u64,
    /// Of all keys and values.
    bytes: usize,
}

impl<'a> Staged<'a> {
    pub(super) fn on(state: &'a State, now_unix_ms: u64) -> Self {
        let batch = Batch {
            at_unix_ms: now_unix_ms,
            changes: Vec::new(),
            entries: BTreeMap::new(),
            granted: BTreeMap::new(),
            ended: BTreeSet::new(),
            last_lease: state.last_lease(),
            compacted: state.compacted(),
        };
        Self { state, batch, revision: state.revision(), bytes: state.bytes() }
    }

    pub(super) fn finish(self) -> Batch {
        self.batch
    }

    /// Decides a transaction that is within its limits.
    pub(super) fn commit(&mut self, transaction: Transaction) -> Result<Outcome, StoreError> {
        for op in &transaction.ops {
            if let Op::Put { lease: Some(lease), .. } = op
                && !self.lives(*lease)
            {
                return Err(StoreError::LeaseGone(*lease));
            }
        }
        let holds = |expect: &Expect| match expect {
            Expect::Absent(key) => self.entry(key).is_none(),
            Expect::Modified(key, at) => self.entry(key).is_some_and(|entry| entry.modified == *at),
            Expect::Equals(key, value) => self.entry(key).is_some_and(|entry| entry.value == *value),
        };
        if !transaction.expect.iter().all(holds) {
            return Ok(Outcome::Conflict);
        }
        let bytes = self.bytes_after(&transaction.ops);
        if bytes > self.state.limits().bytes.max(self.bytes) {
            return Err(StoreError::Full(bytes));
        }
        let revision = self.revision + 1;
        let events = transaction.ops.into_iter().filter_map(|op| self.event(op, revision)).collect();
        self.record(events);
        Ok(Outcome::Committed(self.revision))
    }

    pub(super) fn grant(&mut self, ttl: Duration) -> Result<LeaseId, StoreError> {
        let leases = self.state.leases() + self.batch.granted.len();
        if leases - self.batch.ended.len() >= self.state.limits().leases {
            return Err(StoreError::Leases);
        }
        self.batch.last_lease += 1;
        let id = LeaseId(self.batch.last_lease);
        self.batch.granted.insert(id, ttl);
        Ok(id)
    }

    /// Ends a lease, if it is there, and deletes its keys.
    pub(super) fn end(&mut self, lease: LeaseId) {
        let is_there = self.state.has(lease) || self.batch.granted.contains_key(&lease);
        if !is_there || !self.batch.ended.insert(lease) {
            return;
        }
        let candidates: BTreeSet<_> = self.state.leased(lease).chain(self.batch.entries.keys()).collect();
        let dies = |key: &&&String| self.entry(key).is_some_and(|entry| entry.lease == Some(lease));
        let keys: Vec<_> = candidates.iter().filter(dies).map(|key| (*key).clone()).collect();
        let revision = self.revision + 1;
        let events = keys.into_iter().filter_map(|key| self.event(Op::Delete(key), revision)).collect();
        self.record(events);
    }

    fn entry(&self, key: &str) -> Option<&Entry> {
        self.batch.entries.get(key).map_or_else(|| self.state.entry(key), Option::as_ref)
    }

    fn lives(&self, lease: LeaseId) -> bool {
        let is_there = self.state.lives(lease) || self.batch.granted.contains_key(&lease);
        is_there && !self.batch.ended.contains(&lease)
    }

    fn bytes_after(&self, ops: &[Op]) -> usize {
        let before = ops.iter().filter_map(|op| self.entry(op.key())).map(Entry::bytes).sum::<usize>();
        let after = ops.iter().map(|op| match op {
            Op::Put { key, value, .. } => key.len() + value.len(),
            Op::Delete(_) => 0,
        });
        self.bytes - before + after.sum::<usize>()
    }

    /// Does one operation; none: it changed nothing.
    fn event(&mut self, op: Op, revision: u64) -> Option<Event> {
        let before = self.entry(op.key());
        let (before_bytes, created) = (before.map_or(0, Entry::bytes), before.map(|entry| entry.created));
        self.bytes -= before_bytes;
        match op {
            Op::Put { key, value, lease } => {
                let created = created.unwrap_or(revision);
                let entry = Entry { key: key.clone(), value, created, modified: revision, lease };
                self.bytes += entry.bytes();
                self.batch.entries.insert(key, Some(entry.clone()));
                Some(Event::Put(entry))
            }
            Op::Delete(key) => {
                created?;
                self.batch.entries.insert(key.clone(), None);
                Some(Event::Deleted(key))
            }
        }
    }

    /// Makes `events`, if there are any, the next revision.
    fn record(&mut self, events: Vec<Event>) {
        if !events.is_empty() {
            self.revision += 1;
            self.batch.changes.push(Changes { revision: self.revision, events });
        }
    }
}
