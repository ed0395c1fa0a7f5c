//! A store in this process's memory: nothing to install, nothing kept. For tests and for what may be forgotten.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch as signal;
use tokio::time::{Instant, sleep_until};

use super::staged::Staged;
use super::state::{Limits, State};
use super::{
    Changes, Entry, HISTORY_EVENTS, LeaseId, Outcome, Range, Room, Store, StoreError, Transaction, Watch,
    check_key, check_ttl, unix_ms,
};

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
        let state = State::new(Limits { history_events: events, ..Limits::default() });
        Self { shared: Arc::new(Shared { state: Mutex::new(state), changed: signal::Sender::new(()) }) }
    }
}

impl Store for MemoryStore {
    type Watch = MemoryWatch;

    async fn get(&self, key: &str) -> Result<Option<Entry>, StoreError> {
        check_key(key)?;
        Ok(self.shared.now().entry(key).cloned())
    }

    async fn range(&self, prefix: &str) -> Result<Range, StoreError> {
        check_key(prefix)?;
        Ok(self.shared.now().range(prefix))
    }

    async fn commit(&self, transaction: Transaction) -> Result<Outcome, StoreError> {
        transaction.check()?;
        self.shared.write(|staged| staged.commit(transaction))
    }

    async fn grant(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        check_ttl(ttl)?;
        self.shared.write(|staged| staged.grant(ttl))
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.shared.now().keep_alive(lease, Instant::now().into_std())
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.shared.write(|staged| staged.end(lease));
        Ok(())
    }

    async fn room(&self) -> Result<Room, StoreError> {
        Ok(self.shared.now().room())
    }

    async fn watch(&self, prefix: &str, from: u64) -> Result<MemoryWatch, StoreError> {
        check_key(prefix)?;
        let compacted = self.shared.now().compacted();
        if from <= compacted {
            return Err(StoreError::Compacted(compacted));
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
                let state = self.shared.now();
                if let Some(changes) = state.changes(&self.prefix, &mut self.from)? {
                    return Ok(changes);
                }
                state.next_lapse().map(Instant::from_std)
            };
            tokio::select! {
                biased;
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
        // A panic under the lock is a bug of this crate; what it left is still the best there is.
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let lapsed = state.lapse(Instant::now().into_std());
        if !lapsed.is_empty() {
            self.apply(&mut state, |staged| lapsed.into_iter().for_each(|lease| staged.end(lease)));
        }
        state
    }

    fn write<T>(&self, decide: impl FnOnce(&mut Staged<'_>) -> T) -> T {
        self.apply(&mut self.now(), decide)
    }

    fn apply<T>(&self, state: &mut State, decide: impl FnOnce(&mut Staged<'_>) -> T) -> T {
        let mut staged = Staged::on(state, unix_ms());
        let decided = decide(&mut staged);
        let batch = staged.finish();
        state.apply(batch, Instant::now().into_std());
        self.changed.send_replace(());
        decided
    }
}
