//! Keeps in a store what this cluster is and what its mirrors hold. The mirrors are what counts; the store follows, so
//! that whoever else reads it sees the same.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use prost::Message;
use proto::store::Cluster;
use proto::sync;

use crate::mirror::Write;
use crate::model::ServiceName;
use crate::record;
use crate::state::Saved;
use crate::store::{Op, Store, StoreError, TRANSACTION_OPS_MAX, Transaction, VALUE_BYTES_MAX, keys};

/// Writes what differs between `wanted` and what the store holds (`None`: it is read first); gives how many keys that
/// were. Nobody else writes these keys.
///
/// # Errors
/// The store's. Part of it may be written: what it holds is not known then.
pub async fn bring<S: Store>(store: &S, held: Option<&Saved>, wanted: &Saved) -> Result<usize, StoreError> {
    let ops = match held {
        Some(held) => since(wanted, held),
        None => {
            let mut entries = store.range(&keys::all_imports()).await?.entries;
            entries.extend(store.get(keys::CLUSTER).await?);
            let held = entries.into_iter().map(|entry| (entry.key, entry.value));
            against(wanted, held.collect())
        }
    };
    let written = ops.len();
    let mut batch = Batch::default();
    for op in ops {
        if batch.is_full_for(&op) {
            batch.commit(store).await?;
        }
        batch.push(op);
    }
    batch.commit(store).await?;
    Ok(written)
}

/// Changes that go together.
#[derive(Default)]
struct Batch {
    ops: Vec<Op>,
    bytes: usize,
}

impl Batch {
    fn is_full_for(&self, op: &Op) -> bool {
        self.ops.len() == TRANSACTION_OPS_MAX || self.bytes + bytes(op) > VALUE_BYTES_MAX
    }

    fn push(&mut self, op: Op) {
        self.bytes += bytes(&op);
        self.ops.push(op);
    }

    async fn commit<S: Store>(&mut self, store: &S) -> Result<(), StoreError> {
        let Self { ops, .. } = std::mem::take(self);
        if !ops.is_empty() {
            // Nothing is expected, so nothing can conflict.
            store.commit(Transaction { expect: Vec::new(), ops }).await?;
        }
        Ok(())
    }
}

fn bytes(op: &Op) -> usize {
    match op {
        Op::Put { key, value, .. } => key.len() + value.len(),
        Op::Delete(key) => key.len(),
    }
}

fn cluster(saved: &Saved) -> Op {
    let cluster = Cluster { uid: saved.uid.to_vec(), epoch: saved.export.epoch };
    Op::Put { key: keys::CLUSTER.into(), value: cluster.encode_to_vec().into(), lease: None }
}

/// What must be written where `held` is: by comparing pointers, for most of it stayed.
fn since(wanted: &Saved, held: &Saved) -> Vec<Op> {
    let mut ops = Vec::new();
    if (wanted.uid, wanted.export.epoch) != (held.uid, held.export.epoch) {
        ops.push(cluster(wanted));
    }
    let none = Arc::default();
    for (peer, now) in &wanted.peers {
        let before = held.peers.get(peer).unwrap_or(&none);
        if Arc::ptr_eq(before, now) {
            continue;
        }
        // Every record names its epoch.
        let names: BTreeSet<_> = match before.epoch == now.epoch {
            true => now.services.differing(&before.services, Arc::ptr_eq).collect(),
            false => now.services.keys().chain(before.services.keys()).collect(),
        };
        let write = |name: &ServiceName| match now.services.get(name) {
            Some(import) => Write::Put(import.clone()),
            None => Write::Delete(name.clone()),
        };
        ops.extend(names.into_iter().map(|name| write(name).op(peer, now.epoch)));
    }
    for (peer, before) in held.peers.iter().filter(|(peer, _)| !wanted.peers.contains_key(*peer)) {
        ops.extend(before.services.keys().map(|name| Write::Delete(name.clone()).op(peer, 0)));
    }
    ops
}

/// What must be written where these keys are: what nobody knows any more goes.
fn against(wanted: &Saved, mut held: BTreeMap<String, Bytes>) -> Vec<Op> {
    let imports = wanted.peers.iter().flat_map(|(peer, imports)| {
        imports.services.values().map(|import| Write::Put(import.clone()).op(peer, imports.epoch))
    });
    let all = imports.chain([cluster(wanted)]);
    let mut ops: Vec<Op> = all
        .filter(|op| match op {
            Op::Put { key, value, .. } => held.remove(key).as_ref() != Some(value),
            Op::Delete(_) => true,
        })
        .collect();
    ops.extend(held.into_keys().map(Op::Delete));
    ops
}

/// What a value says that stands under `key`, in a line for people; none: this version does not know it.
pub fn describe(key: &str, value: &[u8]) -> Option<String> {
    if key == keys::CLUSTER {
        let Cluster { uid, epoch } = Cluster::decode(value).ok()?;
        let uid: String = uid.iter().map(|byte| format!("{byte:02x}")).collect();
        return Some(format!("uid {uid}, epoch {epoch:016x}"));
    }
    if !key.starts_with(&keys::all_imports()) {
        return None;
    }
    let record = sync::Record::decode(value).ok()?;
    let epoch = record.epoch;
    let import = record::decode(&record).ok()?;
    let ports: Vec<_> = import.ports.iter().map(|port| format!("{} {}", port.name, port.number)).collect();
    let contract =
        import.contract.map_or(String::new(), |c| format!(", contract generation {}", c.generation));
    Some(format!(
        "ports {}, region {}{contract}, epoch {epoch:016x}, revision {}",
        ports.join(", "),
        import.region,
        import.revision
    ))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use crate::model::{ClusterName, Import, PeerImports, Port, Position, Protocol};
    use crate::store::memory::MemoryStore;
    use std::sync::Arc;

    use super::*;

    fn import(name: &str, revision: u64) -> Arc<Import> {
        Arc::new(Import {
            name: ServiceName::new("shop", name).unwrap(),
            ports: vec![Port { name: "web".into(), number: 80, protocol: Protocol::Http }],
            region: "us-east".into(),
            contract: None,
            revision,
        })
    }

    fn picture(peers: &[(&str, u64, &[Arc<Import>])]) -> Saved {
        let imports = |(peer, epoch, imports): &(&str, u64, &[Arc<Import>])| {
            let services = imports.iter().map(|import| (import.name.clone(), import.clone())).collect();
            let imports = PeerImports { epoch: *epoch, revision: 1, synced_unix_ms: 1, services };
            (ClusterName::new(peer).unwrap(), Arc::new(imports))
        };
        let export = Position { epoch: 7, revision: 1 };
        Saved { uid: [1; 16], export, peers: peers.iter().map(imports).collect() }
    }

    async fn held(store: &MemoryStore) -> BTreeMap<String, Bytes> {
        let entries = store.range(keys::ROOT).await.unwrap().entries;
        entries.into_iter().map(|entry| (entry.key, entry.value)).collect()
    }

    #[tokio::test]
    async fn a_store_is_brought_to_every_picture_from_any_other() {
        let (a, b, newer) = (import("a", 1), import("b", 1), import("a", 2));
        let pictures = [
            picture(&[]),
            picture(&[("east", 3, &[a.clone(), b.clone()])]),
            picture(&[("east", 3, &[newer.clone(), b.clone()]), ("north", 4, std::slice::from_ref(&a))]),
            // Another history of the same records.
            picture(&[("east", 5, &[newer.clone(), b.clone()])]),
            picture(&[("north", 4, &[b])]),
        ];
        for from in &pictures {
            for to in &pictures {
                // Known, or read from the store.
                for known in [Some(from), None] {
                    let store = MemoryStore::default();
                    bring(&store, None, from).await.unwrap();
                    bring(&store, known, to).await.unwrap();
                    assert_eq!(against(to, held(&store).await), []);
                    assert_eq!(bring(&store, Some(to), to).await.unwrap(), 0);
                }
            }
        }
    }

    #[tokio::test]
    async fn what_is_held_can_be_read() {
        let store = MemoryStore::default();
        bring(&store, None, &picture(&[("east", 3, &[import("a", 2)])])).await.unwrap();
        let said = |(key, value): (&String, &Bytes)| format!("{key}: {}", describe(key, value).unwrap());
        let said: Vec<_> = held(&store).await.iter().map(said).collect();
        assert_eq!(
            said,
            [
                "/ringway/v1/cluster: uid 01010101010101010101010101010101, epoch 0000000000000007",
                "/ringway/v1/imports/east/shop/a: ports web 80, region us-east, epoch 0000000000000003, revision 2",
            ]
        );
        assert_eq!(describe("/ringway/v1/imports/east/shop/a", b"nonsense"), None);
        assert_eq!(describe("/ringway/v1/config/Link/default/east", b""), None);
    }

    #[tokio::test]
    async fn thousands_of_records_go_in_pieces() {
        let many: Vec<_> = (0..2000).map(|n| import(&format!("s{n}"), 1)).collect();
        let store = MemoryStore::default();
        let picture = picture(&[("east", 3, &many)]);
        assert_eq!(bring(&store, None, &picture).await.unwrap(), 2001);
        assert_eq!(held(&store).await.len(), 2001);
    }
}
