//! Who this cluster is: its name and one random UID under their own key, which every gateway of the cluster shows.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use prost::Message;
use proto::store::Cluster;

use crate::model::{ClusterName, Stored};
use crate::store::{Expect, Op, Outcome, Store, StoreError, Transaction, batches, keys};
use crate::tasks::applied::{self, StoredObjects};

/// A cluster's random identity.
pub type Uid = [u8; 16];

/// Why the cluster has no UID.
#[derive(Debug, thiserror::Error)]
pub enum UidError {
    /// The store's.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// What stands there is not ours.
    #[error(
        "`{}` in the registry's store is malformed; is the store another program's, or its prefix?",
        keys::CLUSTER
    )]
    Malformed,
    /// The store is another cluster's.
    #[error(
        "the registry's store is that of cluster `{found}`, and this gateway is of `{ours}`: each cluster needs a \
         `registry.etcd.prefix` of its own, or a `state.directory` if the registry is in it"
    )]
    OtherCluster {
        /// Whose it is.
        found: String,
        /// Who we are.
        ours: ClusterName,
    },
}

/// What [`settle`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settled {
    /// The UID that counts.
    pub uid: Uid,
    /// Applied objects that were put back.
    pub put_back: usize,
}

/// The UID that the store has for the cluster `name`; `ours` from now on, if it has none. Such a store is new or was
/// wiped: before it has a UID, and anybody else believes it, what was applied as far as we know (`kept`) is put back.
///
/// # Errors
/// [`UidError`]: whether `ours` was written is not known then.
pub async fn settle<S: Store>(
    store: &S,
    name: &ClusterName,
    ours: Uid,
    kept: &StoredObjects,
) -> Result<Settled, UidError> {
    let mut put_back = 0;
    loop {
        let (uid, expect) = match store.get(keys::CLUSTER).await? {
            None => (ours, Expect::Absent(keys::CLUSTER.into())),
            Some(entry) => {
                let (found, uid) = decode(&entry.value).ok_or(UidError::Malformed)?;
                if found == name.as_str() {
                    return Ok(Settled { uid, put_back });
                }
                if !found.is_empty() {
                    return Err(UidError::OtherCluster { found, ours: name.clone() });
                }
                // As versions wrote it that did not name the cluster.
                (uid, Expect::Modified(keys::CLUSTER.into(), entry.modified))
            }
        };
        let put = |key: String, value| Op::Put { key, value, lease: None };
        if matches!(expect, Expect::Absent(_)) {
            match self::put_back(store, kept).await? {
                Some(count) => put_back += count,
                // Another gateway does the same.
                None => continue,
            }
        }
        let ops = vec![put(keys::CLUSTER.into(), encode(name, uid))];
        if let Outcome::Committed(_) = store.commit(Transaction { expect: vec![expect], ops }).await? {
            return Ok(Settled { uid, put_back });
        }
    }
}

/// Puts back what of `kept` a store without a UID has lost, and gives how many objects; none: it is not any more as it was
/// read.
async fn put_back<S: Store>(store: &S, kept: &StoredObjects) -> Result<Option<usize>, StoreError> {
    let (_, there) = applied::range(store).await?;
    // What cannot be read by this version cannot be written either: its generation is not known.
    let lost = kept
        .iter()
        .filter(|(name, stored)| stored.generation > there.get(*name).map_or(0, |there| there.generation));
    let put = |(name, stored): (&_, &Arc<Stored>)| Op::Put {
        key: applied::key(name),
        value: stored.encode(),
        lease: None,
    };
    let lost: Vec<_> = lost.map(put).collect();
    let revisions: BTreeMap<_, _> =
        there.iter().map(|(name, stored)| (applied::key(name), stored.revision)).collect();
    let as_it_is = |op: &Op| match revisions.get(op.key()) {
        Some(revision) => Expect::Modified(op.key().into(), *revision),
        None => Expect::Absent(op.key().into()),
    };
    for ops in batches(&lost) {
        let unnamed = Expect::Absent(keys::CLUSTER.into());
        let expect = ops.iter().map(as_it_is).chain([unnamed]).collect();
        if store.commit(Transaction { expect, ops: ops.to_vec() }).await? == Outcome::Conflict {
            return Ok(None);
        }
    }
    Ok(Some(lost.len()))
}

/// The value under [`keys::CLUSTER`].
pub(crate) fn encode(name: &ClusterName, uid: Uid) -> Bytes {
    Cluster { uid: uid.to_vec(), name: name.to_string() }.encode_to_vec().into()
}

/// Name and UID in such a value; versions that did not name the cluster left the name empty.
pub(crate) fn decode(value: &[u8]) -> Option<(String, Uid)> {
    let Cluster { uid, name } = Cluster::decode(value).ok()?;
    Some((name, uid.try_into().ok()?))
}

/// What such a value says, for people.
pub(crate) fn describe(value: &[u8]) -> String {
    decode(value)
        .map_or_else(|| "(malformed)".into(), |(name, uid)| format!("cluster {name}, uid {}", show(&uid)))
}

/// A UID for people: hexadecimal.
pub fn show(uid: &Uid) -> String {
    uid.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::model::Stored;
    use crate::model::{Kind, ObjectName};
    use crate::store::memory::MemoryStore;

    fn west() -> ClusterName {
        ClusterName::new("west").unwrap()
    }

    async fn settle(store: &MemoryStore, ours: Uid, kept: &StoredObjects) -> Result<Settled, UidError> {
        super::settle(store, &west(), ours, kept).await
    }

    fn objects(count: usize, generation: u64) -> StoredObjects {
        let stored = Arc::new(Stored { text: "a: 1".into(), generation, ..Stored::default() });
        let name = |n| ObjectName::new(Kind::MeshService, "shop", &format!("s{n}"));
        (0..count).map(|n| (name(n), stored.clone())).collect()
    }

    #[tokio::test]
    async fn the_first_gateway_names_the_cluster_and_the_others_follow() {
        let (store, none) = (MemoryStore::default(), StoredObjects::new());
        let (first, second) = tokio::join!(settle(&store, [1; 16], &none), settle(&store, [2; 16], &none));
        let first = first.unwrap();
        assert_eq!(second.unwrap(), first);
        // What it knows of is of another time: the store counts.
        let third = settle(&store, [3; 16], &objects(1, 9)).await.unwrap();
        assert_eq!((third, applied::range(&store).await.unwrap().1.len()), (first, 0));
    }

    #[tokio::test]
    async fn a_store_is_of_one_cluster_and_says_which() {
        let store = MemoryStore::default();
        // As versions wrote it that did not name the cluster.
        let value = Cluster { uid: vec![1; 16], name: String::new() }.encode_to_vec().into();
        let put = Op::Put { key: keys::CLUSTER.into(), value, lease: None };
        store.commit(Transaction { expect: Vec::new(), ops: vec![put] }).await.unwrap();
        let none = StoredObjects::new();
        assert_eq!(settle(&store, [2; 16], &none).await.unwrap().uid, [1; 16]);
        let east = ClusterName::new("east").unwrap();
        let refused = super::settle(&store, &east, [3; 16], &none).await.unwrap_err().to_string();
        for part in ["`west`", "`east`", "registry.etcd.prefix"] {
            assert!(refused.contains(part), "{refused}");
        }
        assert_eq!(settle(&store, [4; 16], &none).await.unwrap().uid, [1; 16]);
    }

    #[tokio::test]
    async fn what_is_no_uid_is_not_overwritten() {
        let store = MemoryStore::default();
        let put = Op::Put { key: keys::CLUSTER.into(), value: Bytes::from_static(b"x"), lease: None };
        store.commit(Transaction { expect: Vec::new(), ops: vec![put] }).await.unwrap();
        let settled = settle(&store, [1; 16], &StoredObjects::new()).await;
        assert!(matches!(settled, Err(UidError::Malformed)));
    }

    #[tokio::test]
    async fn what_was_applied_is_put_back_into_a_wiped_store_before_it_has_a_uid() {
        let store = MemoryStore::default();
        // By another gateway that does the same: newer, and older.
        for (name, stored) in objects(2, 5).into_iter().take(1).chain(objects(2, 1).into_iter().skip(1)) {
            let put = Op::Put { key: applied::key(&name), value: stored.encode(), lease: None };
            store.commit(Transaction { expect: Vec::new(), ops: vec![put] }).await.unwrap();
        }
        let kept = objects(300, 3);
        let settled = settle(&store, [1; 16], &kept).await.unwrap();
        assert_eq!(settled, Settled { uid: [1; 16], put_back: 299 });
        let (revision, there) = applied::range(&store).await.unwrap();
        assert!(kept.keys().eq(there.keys()));
        let generations: Vec<_> = there.values().map(|stored| stored.generation).collect();
        assert_eq!((generations[0], generations[1]), (5, 3));
        let uid = store.get(keys::CLUSTER).await.unwrap().unwrap();
        assert_eq!(uid.modified, revision, "last of all");
    }
}
