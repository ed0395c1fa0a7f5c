//! Keeps in a store what the mirrors of the elected gateway hold, so that a gateway without a tunnel to a peer sees the
//! same, and so does whoever starts with every peer down; and how applied objects are.
//!
//! Each transaction expects the [`Guard`], and signs it: that the key of its office is as the one before left it. So one
//! that is elected no more changes nothing, and in a store that was put back to an older state none follows on one that
//! is lost. A record says nothing of epoch and revision, for they are of the history of that gateway of the peer which
//! ours happens to follow: equal content is equal bytes whoever writes it, and a takeover writes only what differs.
//!
//! How fast a peer's records are written is bounded ([`Paces`]), and what room they may take ([`Recorder::allow`]): what
//! may not be written yet is written later as it is then. Deletions need no room.

mod pace;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use prost::Message;
use proto::store::{Applied, Leader, Member, Mirrored, Status};
use proto::sync;

use crate::model::record;
use crate::model::{ClusterName, Import, ObjectName, PeerImports, ServiceName};
use crate::pure::mirror::STAMP_MS;
use crate::pure::registration::Registered;
use crate::store::{Expect, Op, Outcome, Store, StoreError, Transaction, batches, keys};
use crate::tasks::applied;
use crate::tasks::cluster;
use crate::tasks::election::{self, Guard};
use crate::tasks::status::{self, Statuses};

pub use self::pace::Paces;

/// How long records that have no room in the store wait until it is looked again.
const ROOM_LOOK: Duration = Duration::from_secs(5);

/// What is mirrored of each linked peer. None: its first snapshot is under way, and what the store has of it stays.
pub type Picture = BTreeMap<ClusterName, Option<Arc<PeerImports>>>;

/// What a store holds of all peers, and of applied objects, as it was read.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Stored {
    values: BTreeMap<String, Bytes>,
    statuses: Statuses,
}

/// Brings a store to one picture after another, under one guard.
#[derive(Debug)]
pub struct Recorder {
    /// What the store holds for certain.
    held: BTreeMap<ClusterName, Arc<PeerImports>>,
    /// So it does of the statuses of applied objects.
    statuses: Statuses,
    /// The revision of the last transaction: as long as the office's key has it, everything before is there.
    signed: u64,
    /// Short sections without await.
    paces: Arc<Mutex<Paces>>,
    /// Bytes that records of peers may still take.
    room: u64,
    /// What the last call left for later.
    later: Later,
}

/// What was not written yet, and why.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Later {
    /// How long to wait until some of it may be; none: nothing is left, or it waits for nothing but room.
    pub wait: Option<Duration>,
    /// Records of peers for which the store has no room.
    pub no_room: usize,
}

impl Later {
    fn wait(&mut self, wait: Duration) {
        self.wait = Some(self.wait.map_or(wait, |before| before.min(wait)));
    }
}

/// Why a picture is not in the store.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The store's. Part of it may be written: begin anew with [`Recorder::begin`].
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Another gateway is elected, or the store was put back to an older state: nothing was written. Begin anew with
    /// [`Recorder::begin`] if the guard still holds.
    #[error("another gateway is elected, or the store was put back to an older state")]
    Deposed,
}

impl Stored {
    /// Reads all of it.
    ///
    /// # Errors
    /// The store's.
    pub async fn read<S: Store>(store: &S) -> Result<Self, StoreError> {
        let entries = store.range(&keys::all_imports()).await?.entries;
        let values = entries.into_iter().map(|entry| (entry.key, entry.value)).collect();
        Ok(Self { values, statuses: status::range(store).await? })
    }

    /// Reads what it holds of one peer.
    ///
    /// # Errors
    /// The store's.
    pub async fn read_peer<S: Store>(store: &S, peer: &ClusterName) -> Result<Self, StoreError> {
        // The stamp first: records that are newer than it do no harm, older ones would be taken for its own.
        let mut entries: Vec<_> = store.get(&keys::mirrored(peer)).await?.into_iter().collect();
        entries.extend(store.range(&keys::imports(peer)).await?.entries);
        let values = entries.into_iter().map(|entry| (entry.key, entry.value)).collect();
        Ok(Self { values, statuses: Statuses::new() })
    }

    /// What it holds of `peer`, at an unknown place in the peer's history; none: nothing was ever written.
    pub fn of(&self, peer: &ClusterName) -> Option<PeerImports> {
        let stamp = self.values.get(&keys::mirrored(peer))?;
        let Mirrored { synced_unix_ms } = Mirrored::decode(stamp.clone()).ok()?;
        let prefix = keys::imports(peer);
        let records = self.values.range(prefix.clone()..).take_while(|(key, _)| key.starts_with(&prefix));
        let imports = records.filter_map(|(_, value)| {
            // Of a newer version: its peer sends it again.
            record::decode(&sync::Record::decode(value.clone()).ok()?).ok()
        });
        let services = imports.map(|import| (import.name.clone(), Arc::new(import))).collect();
        Some(PeerImports { synced_unix_ms, services, ..PeerImports::default() })
    }
}

impl Recorder {
    /// Begins to write under `guard`: whatever was sent under it before, and is not made yet, is refused from now on.
    /// What the store holds is read after this, for [`Recorder::take_over`].
    ///
    /// # Errors
    /// [`RecordError`].
    pub async fn begin<S: Store>(store: &S, guard: &Guard) -> Result<Self, RecordError> {
        Self::begin_at(store, guard, Arc::default()).await
    }

    /// The same at the pace of those before it.
    ///
    /// # Errors
    /// [`RecordError`].
    pub async fn begin_at<S: Store>(
        store: &S,
        guard: &Guard,
        paces: Arc<Mutex<Paces>>,
    ) -> Result<Self, RecordError> {
        let office = store.get(&guard.office()).await?.ok_or(RecordError::Deposed)?;
        let mut recorder = Self {
            held: BTreeMap::new(),
            statuses: Statuses::new(),
            signed: office.modified,
            paces,
            room: u64::MAX,
            later: Later::default(),
        };
        recorder.sign(store, guard, &[]).await?;
        Ok(recorder)
    }

    /// Lets records of peers take so many more bytes in the store.
    pub fn allow(&mut self, bytes: u64) {
        self.room = bytes;
    }

    /// Bytes that are left of what was allowed.
    pub fn room(&self) -> u64 {
        self.room
    }

    /// What the last [`Recorder::take_over`] or [`Recorder::bring`] left for later.
    pub fn later(&self) -> Later {
        self.later
    }

    /// Takes over from whoever wrote before: writes what differs between `picture` and `stored`, and removes what is of
    /// no linked peer. Gives how many keys that were.
    ///
    /// # Errors
    /// [`RecordError`].
    pub async fn take_over<S: Store>(
        &mut self,
        store: &S,
        guard: &Guard,
        stored: &Stored,
        picture: &Picture,
    ) -> Result<usize, RecordError> {
        let held = picture.keys().map(|peer| (peer.clone(), Arc::new(stored.of(peer).unwrap_or_default())));
        self.held = held.collect();
        self.statuses = stored.statuses.clone();
        let mut ops = self.nobodys(stored, picture);
        ops.extend(self.towards(picture, now()));
        self.commit(store, guard, &ops).await?;
        Ok(ops.len())
    }

    /// Writes what differs between `picture` and what was written last, as far as it may be yet: see
    /// [`Recorder::later`]. Gives how many keys that were.
    ///
    /// # Errors
    /// [`RecordError`]; then this recorder is of no further use.
    pub async fn bring<S: Store>(
        &mut self,
        store: &S,
        guard: &Guard,
        picture: &Picture,
    ) -> Result<usize, RecordError> {
        let ops = self.towards(picture, now());
        self.commit(store, guard, &ops).await?;
        Ok(ops.len())
    }

    /// What `stored` has that is no record of a peer in `held`: of no linked peer, or nothing that this version reads and
    /// that its peer would send again.
    fn nobodys(&self, stored: &Stored, picture: &Picture) -> Vec<Op> {
        let mut left: BTreeSet<&str> = stored.values.keys().map(|key| &**key).collect();
        for (peer, imports) in &self.held {
            left.remove(&*keys::mirrored(peer));
            if picture.get(peer).is_some_and(Option::is_none) {
                let prefix = keys::imports(peer);
                left.retain(|key| !key.starts_with(&prefix));
            }
            for name in imports.services.keys() {
                left.remove(&*keys::import(peer, name));
            }
        }
        left.into_iter().map(|key| Op::Delete(key.into())).collect()
    }

    /// What is to be written at `now` on the way to `picture`; taken for written.
    fn towards(&mut self, picture: &Picture, now: Instant) -> Vec<Op> {
        let mut ops = Vec::new();
        self.later = Later::default();
        let none = Arc::default();
        // Not a method: `self` is taken apart below.
        let mut paces = lock(&self.paces);
        for (peer, imports) in picture {
            let Some(target) = imports else { continue };
            let before = self.held.get(peer).unwrap_or(&none);
            if Arc::ptr_eq(before, target) {
                continue;
            }
            let pace = paces.of(peer);
            let wait = pace.wait(now);
            if !wait.is_zero() {
                self.later.wait(wait);
                continue;
            }
            let (written, mut reached) = (ops.len(), None::<PeerImports>);
            let (mut left, room) = (false, self.room);
            for name in differing(target, before) {
                let wait = pace.wait_for(name, now);
                let op = if wait.is_zero() { Some(write(peer, name, target)) } else { None };
                let needs = op.as_ref().map_or(0, |op| match op {
                    Op::Put { key, value, .. } => (key.len() + value.len()) as u64,
                    Op::Delete(_) => 0,
                });
                let taken = match &op {
                    Some(_) if needs > self.room => {
                        self.later.no_room += 1;
                        Err(ROOM_LOOK)
                    }
                    Some(op) => pace.take(name.clone(), op.bytes(), now),
                    None => Err(wait),
                };
                if let Err(wait) = taken {
                    left = true;
                    self.later.wait(wait);
                    continue;
                }
                self.room -= needs;
                ops.extend(op);
                let reached = &mut reached.get_or_insert_with(|| PeerImports::clone(before)).services;
                match target.services.get(name) {
                    Some(import) => drop(reached.insert(name.clone(), import.clone())),
                    None => drop(reached.remove(name)),
                }
            }
            let due = target.synced_unix_ms >= before.synced_unix_ms + STAMP_MS && room > 0 && !left;
            if left {
                pace.flushed(now);
            }
            if ops.len() > written || due {
                let reached = if left {
                    // The stamp says when all was there. Whoever follows it, with something left out, would drop that.
                    let services = reached.map_or_else(|| before.services.clone(), |now| now.services);
                    let synced_unix_ms = before.synced_unix_ms;
                    Arc::new(PeerImports { services, synced_unix_ms, ..PeerImports::clone(target) })
                } else {
                    target.clone()
                };
                ops.push(stamp(peer, &reached));
                pace.flushed(now);
                self.held.insert(peer.clone(), reached);
            }
        }
        let unlinked: Vec<_> =
            self.held.keys().filter(|peer| !picture.contains_key(*peer)).cloned().collect();
        for peer in unlinked {
            let before = self.held.remove(&peer).unwrap_or_default();
            ops.extend(before.services.keys().map(|name| Op::Delete(keys::import(&peer, name))));
            ops.push(Op::Delete(keys::mirrored(&peer)));
        }
        paces.retain(|peer| picture.contains_key(peer));
        ops
    }

    /// Writes what is new of how applied objects are, and removes what is said of those that are gone from the store;
    /// gives how many keys that were. `now_unix_ms`: when what changed did so, in Unix milliseconds.
    ///
    /// # Errors
    /// [`RecordError`]; then this recorder is of no further use.
    pub async fn bring_statuses<S: Store>(
        &mut self,
        store: &S,
        guard: &Guard,
        wanted: &Statuses,
        now_unix_ms: u64,
    ) -> Result<usize, RecordError> {
        let mut ops = Vec::new();
        let moment = now();
        for (name, wanted) in wanted {
            let before = self.statuses.get(name);
            if before.is_some_and(|before| status::same(before, wanted)) {
                continue;
            }
            let now = status::follow(before, wanted.clone(), now_unix_ms);
            let put = Op::Put { key: status::key(name), value: now.encode_to_vec().into(), lease: None };
            // Peers make conditions come and go: the next look writes how it is then.
            if lock(&self.paces).statuses.take(name.clone(), put.bytes(), moment).is_ok() {
                ops.push(put);
                self.statuses.insert(name.clone(), now);
            }
        }
        lock(&self.paces).statuses.flushed(moment);
        let unknown = |name: &&ObjectName| !wanted.contains_key(name);
        let mut gone: Vec<_> = self.statuses.keys().filter(unknown).cloned().collect();
        if !gone.is_empty() {
            // What was applied just now may not have come to us yet.
            let (_, there) = applied::range(store).await?;
            gone.retain(|name| !there.contains_key(name));
        }
        for name in gone {
            ops.push(Op::Delete(status::key(&name)));
            self.statuses.remove(&name);
        }
        self.commit(store, guard, &ops).await?;
        Ok(ops.len())
    }

    /// Looks whether the store still has what was written.
    ///
    /// # Errors
    /// [`RecordError`]; [`RecordError::Deposed`] if it has not.
    pub async fn verify<S: Store>(&self, store: &S, guard: &Guard) -> Result<(), RecordError> {
        let office = store.get(&guard.office()).await?;
        office.filter(|office| office.modified == self.signed).map(drop).ok_or(RecordError::Deposed)
    }

    async fn commit<S: Store>(&mut self, store: &S, guard: &Guard, ops: &[Op]) -> Result<(), RecordError> {
        for ops in batches(ops) {
            self.sign(store, guard, ops).await?;
        }
        Ok(())
    }

    async fn sign<S: Store>(&mut self, store: &S, guard: &Guard, ops: &[Op]) -> Result<(), RecordError> {
        let expect = vec![guard.expect(), Expect::Modified(guard.office(), self.signed)];
        let ops = ops.iter().cloned().chain([guard.sign()]).collect();
        match store.commit(Transaction { expect, ops }).await {
            Ok(Outcome::Committed(revision)) => self.signed = revision,
            // The office ended with the lease.
            Ok(Outcome::Conflict) | Err(StoreError::LeaseGone(_)) => return Err(RecordError::Deposed),
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }
}

/// The moment, by the clock that the tests of this room stop.
fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// A lock whose holder panicked still guards plain values that are whole at any time.
fn lock(paces: &Mutex<Paces>) -> MutexGuard<'_, Paces> {
    paces.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Makes the record of a service what it is in `target`.
fn write(peer: &ClusterName, name: &ServiceName, target: &PeerImports) -> Op {
    let key = keys::import(peer, name);
    match target.services.get(name) {
        Some(import) => Op::Put { key, value: record::stored(import).encode_to_vec().into(), lease: None },
        None => Op::Delete(key),
    }
}

fn stamp(peer: &ClusterName, imports: &PeerImports) -> Op {
    let mirrored = Mirrored { synced_unix_ms: imports.synced_unix_ms };
    Op::Put { key: keys::mirrored(peer), value: mirrored.encode_to_vec().into(), lease: None }
}

/// The services whose records must be written where `before` is: mostly by comparing pointers, for most of them stayed.
fn differing<'a>(target: &'a PeerImports, before: &'a PeerImports) -> impl Iterator<Item = &'a ServiceName> {
    let same =
        |known: &Arc<Import>, import: &Arc<Import>| Arc::ptr_eq(known, import) || known.same_content(import);
    target.services.differing(&before.services, same)
}

/// What a value says that stands under `key`, in a line for people; none: this version does not know it.
pub fn describe(key: &str, value: &[u8]) -> Option<String> {
    if key == keys::CLUSTER {
        return Some(cluster::describe(value));
    }
    if key == keys::LEADER {
        return Some(format!("gateway {}", Leader::decode(value).ok()?.gateway));
    }
    if key.starts_with(&keys::offices()) {
        return Some("the office of the elected gateway".into());
    }
    if key.starts_with(&keys::gateways()) {
        return Some(election::describe(&Member::decode(value).ok()?));
    }
    if key.starts_with(&keys::all_endpoints()) {
        return Some(Registered::decode(key, value).ok()?.1.to_string());
    }
    if applied::name(key).is_some() {
        let Applied { generation, by, .. } = Applied::decode(value).ok()?;
        return (generation > 0).then(|| format!("generation {generation}, by {by}"));
    }
    if status::name(key).is_some() {
        return Some(status::describe(&Status::decode(value).ok()?));
    }
    let below = key.strip_prefix(&keys::all_imports())?;
    if !below.contains('/') {
        return Some(format!("last word at {} ms", Mirrored::decode(value).ok()?.synced_unix_ms));
    }
    let import = record::decode(&sync::Record::decode(value).ok()?).ok()?;
    let ports: Vec<_> = import.ports.iter().map(|port| format!("{} {}", port.name, port.number)).collect();
    let contract =
        import.contract.map_or(String::new(), |c| format!(", contract generation {}", c.generation));
    Some(format!("ports {}, region {}{contract}", ports.join(", "), import.region))
}
