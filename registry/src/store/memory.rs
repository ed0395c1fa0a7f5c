//! A store in this process's memory: nothing to install, nothing kept. For tests and until the embedded one exists.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch as signal;
use tokio::time::{Instant, sleep_until};

use super::{
    Changes, Entry, Event, Expect, LeaseId, Op, Outcome, Range, Store, StoreError, Transaction, Watch,
    check_key, check_ttl,
};

/// Events kept for watches that lag behind: a change of every service of a large cluster, and as much again.
pub const HISTORY_EVENTS: usize = 16 * 1024;

/// Bytes of keys and values kept for them, whichever limit comes first: large values must not fill the memory.
pub const HISTORY_BYTES: usize = 32 * 1024 * 1024;

/// A [`Store`] in memory. Leases run on tokio's clock, lapse with whatever looks next, and wake sleeping watches.
#[derive(Clone, Debug)]
pub struct MemoryStore {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    /// Held for short, bounded work only, never across an await.
    state: Mutex<State>,
    /// Wakes watches: something changed, be it only the time at which the next lease lapses.
    changed: signal::Sender<()>,
}

#[derive(Debug)]
struct State {
    revision: u64,
    entries: BTreeMap<String, Entry>,
    leases: BTreeMap<LeaseId, Lease>,
    last_lease: u64,
    /// Oldest first, each revision whole.
    history: VecDeque<Changes>,
    history_events: usize,
    history_events_max: usize,
    history_bytes: usize,
    /// Changes up to this revision are no longer in `history`.
    compacted: u64,
}

#[derive(Debug)]
struct Lease {
    ttl: Duration,
    lapses: Instant,
    keys: BTreeSet<String>,
}

/// A watch of a [`MemoryStore`]: a cursor over its history.
#[derive(Debug)]
pub struct MemoryWatch {
    shared: Arc<Shared>,
    changed: signal::Receiver<()>,
    prefix: String,
    from: u64,
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::with_history(HISTORY_EVENTS)
    }
}

impl MemoryStore {
    /// An empty store that keeps `events` events of history, or the last revision if that alone has more.
    pub fn with_history(events: usize) -> Self {
        let state = State {
            revision: 0,
            entries: BTreeMap::new(),
            leases: BTreeMap::new(),
            last_lease: 0,
            history: VecDeque::new(),
            history_events: 0,
            history_events_max: events,
            history_bytes: 0,
            compacted: 0,
        };
        Self { shared: Arc::new(Shared { state: Mutex::new(state), changed: signal::Sender::new(()) }) }
    }
}

impl Store for MemoryStore {
    type Watch = MemoryWatch;

    async fn get(&self, key: &str) -> Result<Option<Entry>, StoreError> {
        check_key(key)?;
        Ok(self.shared.now().entries.get(key).cloned())
    }

    async fn range(&self, prefix: &str) -> Result<Range, StoreError> {
        check_key(prefix)?;
        let state = self.shared.now();
        let from = state.entries.range::<str, _>((Bound::Included(prefix), Bound::Unbounded));
        let entries = from.take_while(|(key, _)| key.starts_with(prefix)).map(|(_, entry)| entry.clone());
        Ok(Range { revision: state.revision, entries: entries.collect() })
    }

    async fn commit(&self, transaction: Transaction) -> Result<Outcome, StoreError> {
        transaction.check()?;
        let mut state = self.shared.now();
        let outcome = state.commit(transaction)?;
        drop(state);
        self.shared.changed.send_replace(());
        Ok(outcome)
    }

    async fn grant(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        check_ttl(ttl)?;
        let mut state = self.shared.now();
        state.last_lease += 1;
        let id = LeaseId(state.last_lease);
        state.leases.insert(id, Lease { ttl, lapses: Instant::now() + ttl, keys: BTreeSet::new() });
        drop(state);
        // A sleeping watch must learn of the new deadline.
        self.shared.changed.send_replace(());
        Ok(id)
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<(), StoreError> {
        let mut state = self.shared.now();
        let lease = state.leases.get_mut(&lease).ok_or(StoreError::LeaseGone(lease))?;
        lease.lapses = Instant::now() + lease.ttl;
        Ok(())
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.shared.now().end_lease(lease);
        self.shared.changed.send_replace(());
        Ok(())
    }

    async fn watch(&self, prefix: &str, from: u64) -> Result<MemoryWatch, StoreError> {
        check_key(prefix)?;
        let state = self.shared.now();
        if from <= state.compacted {
            return Err(StoreError::Compacted(state.compacted));
        }
        let changed = self.shared.changed.subscribe();
        Ok(MemoryWatch { shared: Arc::clone(&self.shared), changed, prefix: prefix.into(), from })
    }
}

impl Watch for MemoryWatch {
    async fn next(&mut self) -> Result<Changes, StoreError> {
        loop {
            self.changed.mark_unchanged();
            let lapses = {
                let mut state = self.shared.now();
                if let Some(changes) = state.changes(&self.prefix, &mut self.from)? {
                    return Ok(changes);
                }
                state.next_lapse()
            };
            tokio::select! {
                // The sender lives in `shared`, which we hold, so this only ever ends with a change.
                _ = self.changed.changed() => {}
                () = sleep_until(lapses.unwrap_or_else(Instant::now)), if lapses.is_some() => {}
            }
        }
    }
}

impl Shared {
    /// The state of this moment, in which no lapsed lease lives on.
    fn now(&self) -> MutexGuard<'_, State> {
        // A panic under the lock is a bug of this file; what it left is still the best there is.
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let lapsed = |(id, lease): (&LeaseId, &Lease)| (lease.lapses <= now).then_some(*id);
        for id in state.leases.iter().filter_map(lapsed).collect::<Vec<_>>() {
            state.end_lease(id);
            self.changed.send_replace(());
        }
        state
    }
}

impl State {
    fn commit(&mut self, transaction: Transaction) -> Result<Outcome, StoreError> {
        for op in &transaction.ops {
            if let Op::Put { lease: Some(lease), .. } = op
                && !self.leases.contains_key(lease)
            {
                return Err(StoreError::LeaseGone(*lease));
            }
        }
        let holds = |expect: &Expect| match expect {
            Expect::Absent(key) => !self.entries.contains_key(key),
            Expect::Modified(key, at) => self.entries.get(key).is_some_and(|entry| entry.modified == *at),
        };
        if !transaction.expect.iter().all(holds) {
            return Ok(Outcome::Conflict);
        }
        let revision = self.revision + 1;
        let events = transaction.ops.into_iter().filter_map(|op| self.apply(op, revision)).collect();
        self.record(events);
        Ok(Outcome::Committed(self.revision))
    }

    /// Does one operation; none: it changed nothing.
    fn apply(&mut self, op: Op, revision: u64) -> Option<Event> {
        let before = self.entries.remove(op.key());
        if let Some(lease) = before.as_ref().and_then(|entry| self.leases.get_mut(&entry.lease?)) {
            lease.keys.remove(op.key());
        }
        match op {
            Op::Put { key, value, lease } => {
                if let Some(lease) = lease.and_then(|id| self.leases.get_mut(&id)) {
                    lease.keys.insert(key.clone());
                }
                let created = before.map_or(revision, |entry| entry.created);
                let entry = Entry { key: key.clone(), value, created, modified: revision, lease };
                self.entries.insert(key, entry.clone());
                Some(Event::Put(entry))
            }
            Op::Delete(key) => before.map(|_| Event::Deleted(key)),
        }
    }

    fn end_lease(&mut self, id: LeaseId) {
        let keys = self.leases.remove(&id).map(|lease| lease.keys).unwrap_or_default();
        for key in &keys {
            self.entries.remove(key);
        }
        self.record(keys.into_iter().map(Event::Deleted).collect());
    }

    /// Makes `events` the next revision, and forgets the oldest ones beyond the limit.
    fn record(&mut self, events: Vec<Event>) {
        if events.is_empty() {
            return;
        }
        self.revision += 1;
        self.history_events += events.len();
        self.history_bytes += events.iter().map(bytes).sum::<usize>();
        self.history.push_back(Changes { revision: self.revision, events });
        let full = |state: &Self| {
            state.history_events > state.history_events_max || state.history_bytes > HISTORY_BYTES
        };
        while full(self) && self.history.len() > 1 {
            let Some(oldest) = self.history.pop_front() else { return };
            self.history_events -= oldest.events.len();
            self.history_bytes -= oldest.events.iter().map(bytes).sum::<usize>();
            self.compacted = oldest.revision;
        }
    }

    /// The first changes under `prefix` at `from` or later; `from` moves past everything that was looked at.
    fn changes(&mut self, prefix: &str, from: &mut u64) -> Result<Option<Changes>, StoreError> {
        if *from <= self.compacted {
            return Err(StoreError::Compacted(self.compacted));
        }
        let first = self.history.partition_point(|changes| changes.revision < *from);
        for changes in self.history.range(first..) {
            *from = changes.revision + 1;
            let under_prefix = |event: &&Event| {
                let (Event::Put(Entry { key, .. }) | Event::Deleted(key)) = event;
                key.starts_with(prefix)
            };
            let events: Vec<_> = changes.events.iter().filter(under_prefix).cloned().collect();
            if !events.is_empty() {
                return Ok(Some(Changes { revision: changes.revision, events }));
            }
        }
        Ok(None)
    }

    fn next_lapse(&self) -> Option<Instant> {
        self.leases.values().map(|lease| lease.lapses).min()
    }
}

/// What an event keeps in memory.
fn bytes(event: &Event) -> usize {
    match event {
        Event::Put(entry) => entry.key.len() + entry.value.len(),
        Event::Deleted(key) => key.len(),
    }
}
