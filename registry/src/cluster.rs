//! Who this cluster is: its name and one random UID under their own key, which every gateway of the cluster shows.

use prost::Message;
use proto::store::Cluster;

use crate::model::ClusterName;
use crate::store::{Expect, Op, Outcome, Store, StoreError, Transaction, keys};

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

/// The UID that the store has for the cluster `name`; `ours` from now on, if it has none.
///
/// # Errors
/// [`UidError`]: whether `ours` was written is not known then.
pub async fn settle<S: Store>(store: &S, name: &ClusterName, ours: Uid) -> Result<Uid, UidError> {
    loop {
        let (uid, expect) = match store.get(keys::CLUSTER).await? {
            None => (ours, Expect::Absent(keys::CLUSTER.into())),
            Some(entry) => {
                let found = Cluster::decode(entry.value).map_err(|_| UidError::Malformed)?;
                let uid = found.uid.try_into().map_err(|_| UidError::Malformed)?;
                if found.name == name.as_str() {
                    return Ok(uid);
                }
                if !found.name.is_empty() {
                    return Err(UidError::OtherCluster { found: found.name, ours: name.clone() });
                }
                (uid, Expect::Modified(keys::CLUSTER.into(), entry.modified))
            }
        };
        let value = Cluster { uid: uid.to_vec(), name: name.to_string() }.encode_to_vec().into();
        let put = Op::Put { key: keys::CLUSTER.into(), value, lease: None };
        if let Outcome::Committed(_) =
            store.commit(Transaction { expect: vec![expect], ops: vec![put] }).await?
        {
            return Ok(uid);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use bytes::Bytes;

    use super::*;
    use crate::store::memory::MemoryStore;

    fn west() -> ClusterName {
        ClusterName::new("west").unwrap()
    }

    #[tokio::test]
    async fn the_first_gateway_names_the_cluster_and_the_others_follow() {
        let store = MemoryStore::default();
        let west = west();
        let (first, second) = tokio::join!(settle(&store, &west, [1; 16]), settle(&store, &west, [2; 16]));
        let uid = first.unwrap();
        assert_eq!(second.unwrap(), uid);
        assert_eq!(settle(&store, &west, [3; 16]).await.unwrap(), uid);
    }

    #[tokio::test]
    async fn a_store_is_of_one_cluster_and_says_which() {
        let store = MemoryStore::default();
        // As versions wrote it that did not name the cluster.
        let value = Cluster { uid: vec![1; 16], name: String::new() }.encode_to_vec().into();
        let put = Op::Put { key: keys::CLUSTER.into(), value, lease: None };
        store.commit(Transaction { expect: Vec::new(), ops: vec![put] }).await.unwrap();
        assert_eq!(settle(&store, &west(), [2; 16]).await.unwrap(), [1; 16]);
        let refused =
            settle(&store, &ClusterName::new("east").unwrap(), [3; 16]).await.unwrap_err().to_string();
        for part in ["`west`", "`east`", "registry.etcd.prefix"] {
            assert!(refused.contains(part), "{refused}");
        }
        assert_eq!(settle(&store, &west(), [4; 16]).await.unwrap(), [1; 16]);
    }

    #[tokio::test]
    async fn what_is_no_uid_is_not_overwritten() {
        let store = MemoryStore::default();
        let put = Op::Put { key: keys::CLUSTER.into(), value: Bytes::from_static(b"x"), lease: None };
        store.commit(Transaction { expect: Vec::new(), ops: vec![put] }).await.unwrap();
        assert!(matches!(settle(&store, &west(), [1; 16]).await, Err(UidError::Malformed)));
    }
}
