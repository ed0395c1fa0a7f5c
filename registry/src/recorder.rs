//! Keeps in a store what the mirrors of the elected gateway hold, so that a gateway without a tunnel to a peer sees the
//! same, and so does whoever starts with every peer down; and how applied objects are.
//!
//! Each transaction expects the [`Guard`], and signs it: that the key of its office is as the one before left it. So one
//! that is elected no more changes nothing, and in a store that was put back to an older state none follows on one that
//! is lost. A record says nothing of epoch and revision, for they are of the history of that gateway of the peer which
//! ours happens to follow: equal content is equal bytes whoever writes it, and a takeover writes only what differs.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use prost::Message;
use proto::store::{Applied, Leader, Member, Mirrored, Status};
use proto::sync;

use crate::applied;
use crate::cluster;
use crate::election::{self, Guard};
use crate::mirror::STAMP_MS;
use crate::model::{ClusterName, Import, ObjectName, PeerImports};
use crate::record;
use crate::registration::Registered;
use crate::status::{self, Statuses};
use crate::store::{Expect, Op, Outcome, Store, StoreError, Transaction, batches, keys};

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
        let office = store.get(&guard.office()).await?.ok_or(RecordError::Deposed)?;
        let mut recorder = Self { held: BTreeMap::new(), statuses: Statuses::new(), signed: office.modified };
        recorder.sign(store, guard, &[]).await?;
        Ok(recorder)
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
        let held = picture.iter().map(|(peer, imports)| {
            let left = || Arc::new(stored.of(peer).unwrap_or_default());
            (peer.clone(), imports.clone().unwrap_or_else(left))
        });
        self.held = held.collect();
        self.statuses = stored.statuses.clone();
        let ops = against(picture, stored);
        self.commit(store, guard, &ops).await?;
        Ok(ops.len())
    }

    /// Writes what differs between `picture` and what was written last; gives how many keys that were.
    ///
    /// # Errors
    /// [`RecordError`]; then this recorder is of no further use.
    pub async fn bring<S: Store>(
        &mut self,
        store: &S,
        guard: &Guard,
        picture: &Picture,
    ) -> Result<usize, RecordError> {
        let mut ops = Vec::new();
        let none = Arc::default();
        for (peer, imports) in picture {
            let Some(now) = imports else { continue };
            let before = self.held.get(peer).unwrap_or(&none);
            if Arc::ptr_eq(before, now) {
                continue;
            }
            let written = ops.len();
            differing(peer, now, before, &mut ops);
            if ops.len() > written || now.synced_unix_ms >= before.synced_unix_ms + STAMP_MS {
                ops.push(stamp(peer, now));
                self.held.insert(peer.clone(), now.clone());
            }
        }
        let unlinked: Vec<_> =
            self.held.keys().filter(|peer| !picture.contains_key(*peer)).cloned().collect();
        for peer in unlinked {
            let before = self.held.remove(&peer).unwrap_or_default();
            ops.extend(before.services.keys().map(|name| Op::Delete(keys::import(&peer, name))));
            ops.push(Op::Delete(keys::mirrored(&peer)));
        }
        self.commit(store, guard, &ops).await?;
        Ok(ops.len())
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
        for (name, wanted) in wanted {
            let before = self.statuses.get(name);
            if before.is_some_and(|before| status::same(before, wanted)) {
                continue;
            }
            let now = status::follow(before, wanted.clone(), now_unix_ms);
            ops.push(Op::Put { key: status::key(name), value: now.encode_to_vec().into(), lease: None });
            self.statuses.insert(name.clone(), now);
        }
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

fn put(peer: &ClusterName, import: &Import) -> Op {
    let record = sync::Record { revision: 0, ..record::encode(import, 0) };
    Op::Put { key: keys::import(peer, &import.name), value: record.encode_to_vec().into(), lease: None }
}

fn stamp(peer: &ClusterName, imports: &PeerImports) -> Op {
    let mirrored = Mirrored { synced_unix_ms: imports.synced_unix_ms };
    Op::Put { key: keys::mirrored(peer), value: mirrored.encode_to_vec().into(), lease: None }
}

/// The records that must be written where `before` is: mostly by comparing pointers, for most of them stayed.
fn differing(peer: &ClusterName, now: &PeerImports, before: &PeerImports, ops: &mut Vec<Op>) {
    let same =
        |known: &Arc<Import>, import: &Arc<Import>| Arc::ptr_eq(known, import) || known.same_content(import);
    ops.extend(now.services.differing(&before.services, same).map(|name| match now.services.get(name) {
        Some(import) => put(peer, import),
        None => Op::Delete(keys::import(peer, name)),
    }));
}

/// What must be written where these keys are: what nobody knows any more goes.
fn against(picture: &Picture, stored: &Stored) -> Vec<Op> {
    let mut held: BTreeMap<&str, &Bytes> = stored.values.iter().map(|(key, value)| (&**key, value)).collect();
    let mut ops = Vec::new();
    for (peer, imports) in picture {
        let Some(imports) = imports else {
            let prefix = keys::imports(peer);
            held.retain(|key, _| *key != keys::mirrored(peer) && !key.starts_with(&prefix));
            continue;
        };
        let records = imports.services.values().map(|import| put(peer, import));
        for op in records.chain([stamp(peer, imports)]) {
            if let Op::Put { key, value, .. } = &op
                && held.remove(&**key) != Some(value)
            {
                ops.push(op);
            }
        }
    }
    ops.extend(held.into_keys().map(|key| Op::Delete(key.into())));
    ops
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
