//! A store that fails as etcd does: it is late, silent or gone, takes a write and loses the answer, forgets history, ends
//! watches and leases, and is put back to what it was. It also watches its writers.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use prost::Message;
use proto::store::Leader;
use registry::store::memory::{MemoryStore, MemoryWatch};
use registry::store::{
    Cause, Changes, Entry, Expect, LeaseId, Op, Outcome, Range, Room, Store, StoreError, Transaction, Watch,
    keys,
};
use tokio::sync::watch;
use tokio::time::sleep;

/// Events that it keeps for watches: few, so that they are often left behind.
const HISTORY: usize = 24;
/// How long a caller waits for an answer that does not come.
const TIMEOUT: Duration = Duration::from_secs(1);
/// How long a watch does not notice that its server is gone.
const WATCH_TIMEOUT: Duration = Duration::from_secs(7);
/// Of leases that a backup holds: nobody knows how long they live, so it is a full time anew.
const RESTORED_TTL: Duration = Duration::from_secs(5);

/// How it fails at the moment.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Weather {
    /// The share of requests that do not reach it.
    pub(crate) lost: f64,
    /// The share of answers that do not come back.
    pub(crate) unanswered: f64,
    /// The longest that a request, and an answer, is on its way.
    pub(crate) delay_ms: u64,
    /// Nobody reaches it.
    pub(crate) down: bool,
}

/// What became of the writes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Count {
    pub(crate) written: usize,
    /// Those of a gateway that was not elected any more.
    pub(crate) refused: usize,
    /// Those that were made and not answered.
    pub(crate) unknown: usize,
    pub(crate) restores: usize,
    /// Offices under which something was written.
    pub(crate) reigns: usize,
}

pub(crate) struct Etcd(Mutex<State>, watch::Sender<u64>);

struct State {
    store: MemoryStore,
    /// Its leases by the names that clients have for them, of which no two are ever the same: etcd draws them.
    leases: BTreeMap<LeaseId, LeaseId>,
    leases_granted: u64,
    rng: fastrand::Rng,
    weather: Weather,
    backup: Option<Range>,
    /// Of the newest office under which imports were written since the last restore: its revision and holder.
    office: Option<(u64, String)>,
    /// Keys of imports that a peer did not export at some time: these may go.
    may_go: BTreeSet<String>,
    wrong: Vec<String>,
    count: Count,
}

/// One gateway's way to it.
#[derive(Clone)]
pub(crate) struct Client {
    etcd: Arc<Etcd>,
    gateway: String,
    cut: watch::Receiver<bool>,
}

pub(crate) struct ClientWatch {
    inner: MemoryWatch,
    restored: watch::Receiver<u64>,
    cut: watch::Receiver<bool>,
}

fn unavailable() -> StoreError {
    StoreError::Unavailable(Cause::new(std::io::Error::from(std::io::ErrorKind::TimedOut)))
}

impl Etcd {
    pub(crate) fn new(rng: fastrand::Rng) -> Arc<Self> {
        let state = State {
            store: MemoryStore::with_history(HISTORY),
            leases: BTreeMap::new(),
            leases_granted: 0,
            rng,
            weather: Weather::default(),
            backup: None,
            office: None,
            may_go: BTreeSet::new(),
            wrong: Vec::new(),
            count: Count::default(),
        };
        Arc::new(Self(Mutex::new(state), watch::Sender::new(0)))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    pub(crate) fn client(self: &Arc<Self>, gateway: &str, cut: watch::Receiver<bool>) -> Client {
        Client { etcd: Arc::clone(self), gateway: gateway.into(), cut }
    }

    pub(crate) fn set_weather(&self, weather: Weather) {
        self.state().weather = weather;
    }

    /// From now on this import may be deleted.
    pub(crate) fn may_go(&self, key: String) {
        self.state().may_go.insert(key);
    }

    /// What the writers did that they must not do.
    pub(crate) fn wrong(&self) -> Vec<String> {
        self.state().wrong.clone()
    }

    pub(crate) fn count(&self) -> Count {
        self.state().count
    }

    /// What it holds, seen from inside.
    pub(crate) fn inside(&self) -> MemoryStore {
        self.state().store.clone()
    }

    pub(crate) async fn back_up(&self) {
        let mut held = self.inside().range("/").await.unwrap();
        let mut state = self.state();
        held.entries = held.entries.into_iter().map(|entry| state.seen(entry)).collect();
        state.backup = Some(held);
    }

    /// Puts it back to the last backup: every entry has its revision again and its lease a full time to live, and what
    /// follows has revisions that others had before.
    pub(crate) async fn restore(&self) {
        let Some(backup) = self.state().backup.clone() else { return };
        let store = MemoryStore::with_history(HISTORY);
        let mut leases = BTreeMap::new();
        for lease in backup.entries.iter().filter_map(|entry| entry.lease).collect::<BTreeSet<_>>() {
            leases.insert(lease, store.grant(RESTORED_TTL).await.unwrap());
        }
        for revision in 1..=backup.revision {
            let of_revision = backup.entries.iter().filter(|entry| entry.modified == revision);
            let put = |entry: &Entry| Op::Put {
                key: entry.key.clone(),
                value: entry.value.clone(),
                lease: entry.lease.map(|lease| leases[&lease]),
            };
            let mut ops: Vec<_> = of_revision.map(put).collect();
            if ops.is_empty() {
                ops.push(Op::Put { key: "/gone-since".into(), value: Vec::new().into(), lease: None });
            }
            let outcome = store.commit(Transaction { expect: Vec::new(), ops }).await;
            assert_eq!(outcome, Ok(Outcome::Committed(revision)));
        }
        {
            let mut state = self.state();
            (state.store, state.leases, state.office) = (store, leases, None);
            state.count.restores += 1;
        }
        self.1.send_modify(|restored| *restored += 1);
    }
}

impl State {
    /// An entry as clients see it.
    fn seen(&self, entry: Entry) -> Entry {
        let outer = |inner| self.leases.iter().find(|(_, known)| **known == inner).map(|(outer, _)| *outer);
        Entry { lease: entry.lease.map(|inner| outer(inner).unwrap()), ..entry }
    }

    /// Looks at a write of imports before it is made: who may make it, and what it may take away. `goes`: all that it
    /// expects holds.
    fn watch_writer(&mut self, gateway: &str, transaction: &Transaction, leader: Option<&Entry>, goes: bool) {
        let imports = keys::all_imports();
        if !transaction.ops.iter().any(|op| op.key().starts_with(&imports)) {
            return;
        }
        let guard = transaction.expect.iter().find_map(|expect| match expect {
            Expect::Modified(key, revision) if key == keys::LEADER => Some(*revision),
            _ => None,
        });
        let Some(guard) = guard else {
            return self.wrong.push(format!("{gateway} writes imports and expects no office"));
        };
        let Some(leader) = leader.filter(|_| goes) else {
            self.count.refused += 1;
            return;
        };
        let holder = Leader::decode(leader.value.clone()).unwrap().gateway;
        if holder != gateway {
            self.wrong.push(format!("{gateway} writes under office {guard}, which is {holder}'s"));
        }
        match self.office.replace((guard, holder)) {
            Some((before, _)) if before > guard => {
                self.wrong.push(format!("{gateway} writes under office {guard} after {before}"));
            }
            Some((before, _)) if before == guard => {}
            _ => self.count.reigns += 1,
        }
        for op in &transaction.ops {
            if let Op::Delete(key) = op
                && !self.may_go.contains(key)
            {
                self.wrong.push(format!("{gateway} deletes {key}, which its peer has always exported"));
            }
        }
        self.count.written += 1;
    }
}

impl Client {
    async fn travel(&self) -> Result<MemoryStore, StoreError> {
        let delay = {
            let mut state = self.etcd.state();
            let most = state.weather.delay_ms;
            state.rng.u64(..=most)
        };
        sleep(Duration::from_millis(delay)).await;
        if *self.cut.borrow() || self.etcd.state().weather.down {
            sleep(TIMEOUT).await;
            return Err(unavailable());
        }
        let mut state = self.etcd.state();
        if state.rng.f64() < state.weather.lost {
            return Err(unavailable());
        }
        Ok(state.store.clone())
    }

    /// A lease as the store knows it, if it is of this store.
    fn inner(&self, lease: LeaseId) -> Result<LeaseId, StoreError> {
        self.etcd.state().leases.get(&lease).copied().ok_or(StoreError::LeaseGone(lease))
    }

    /// A name for a lease that was granted.
    fn outer(&self, lease: LeaseId) -> LeaseId {
        let mut state = self.etcd.state();
        state.leases_granted += 1;
        let outer = LeaseId(state.leases_granted);
        state.leases.insert(outer, lease);
        outer
    }

    /// The way of an answer, if it comes.
    async fn answer<T>(&self, answer: T) -> Result<T, StoreError> {
        let (delay, lost) = {
            let mut state = self.etcd.state();
            let most = state.weather.delay_ms;
            let lost = state.rng.f64() < state.weather.unanswered;
            state.count.unknown += usize::from(lost);
            (state.rng.u64(..=most), lost)
        };
        sleep(Duration::from_millis(delay)).await;
        if lost { Err(unavailable()) } else { Ok(answer) }
    }
}

impl Store for Client {
    type Watch = ClientWatch;

    async fn get(&self, key: &str) -> Result<Option<Entry>, StoreError> {
        let answer = self.travel().await?.get(key).await;
        let answer = answer.map(|entry| entry.map(|entry| self.etcd.state().seen(entry)));
        self.answer(answer).await?
    }

    async fn range(&self, prefix: &str) -> Result<Range, StoreError> {
        let mut answer = self.travel().await?.range(prefix).await;
        if let Ok(range) = &mut answer {
            let state = self.etcd.state();
            range.entries = std::mem::take(&mut range.entries).into_iter().map(|e| state.seen(e)).collect();
        }
        self.answer(answer).await?
    }

    async fn commit(&self, mut transaction: Transaction) -> Result<Outcome, StoreError> {
        let store = self.travel().await?;
        for op in &mut transaction.ops {
            if let Op::Put { lease: Some(lease), .. } = op {
                *lease = self.inner(*lease)?;
            }
        }
        // Nothing here waits, so nothing comes between the look and the write.
        let leader = store.get(keys::LEADER).await?;
        let mut goes = true;
        for expect in &transaction.expect {
            goes &= match expect {
                Expect::Absent(key) => store.get(key).await?.is_none(),
                Expect::Modified(key, at) => store.get(key).await?.is_some_and(|e| e.modified == *at),
                Expect::Equals(key, value) => store.get(key).await?.is_some_and(|e| e.value == *value),
            };
        }
        self.etcd.state().watch_writer(&self.gateway, &transaction, leader.as_ref(), goes);
        let answer = store.commit(transaction).await;
        self.answer(answer).await?
    }

    async fn grant(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        let answer = self.travel().await?.grant(ttl).await.map(|lease| self.outer(lease));
        self.answer(answer).await?
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<(), StoreError> {
        let store = self.travel().await?;
        let answer = store.keep_alive(self.inner(lease)?).await;
        self.answer(answer).await?
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        let store = self.travel().await?;
        let answer = store.revoke(self.inner(lease)?).await;
        self.answer(answer).await?
    }

    async fn room(&self) -> Result<Room, StoreError> {
        self.travel().await?.room().await
    }

    async fn watch(&self, prefix: &str, from: u64) -> Result<ClientWatch, StoreError> {
        let store = self.travel().await?;
        if from > store.range(prefix).await?.revision + 1 {
            return Err(StoreError::SetBack(from));
        }
        let inner = store.watch(prefix, from).await?;
        let restored = self.etcd.1.subscribe();
        self.answer(ClientWatch { inner, restored, cut: self.cut.clone() }).await
    }
}

/// Ends some time after the link is cut.
async fn cut(link: &mut watch::Receiver<bool>) {
    // The sender outlives every client.
    drop(link.wait_for(|cut| *cut).await);
    sleep(WATCH_TIMEOUT).await;
}

impl Watch for ClientWatch {
    async fn next(&mut self) -> Result<Changes, StoreError> {
        tokio::select! {
            biased;
            changes = self.inner.next() => changes,
            _ = self.restored.changed() => Err(unavailable()),
            () = cut(&mut self.cut) => Err(unavailable()),
        }
    }
}
