//! Who this cluster is: one random UID under its own key, which every gateway of the cluster shows.

use prost::Message;
use proto::store::Cluster;

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
}

/// The UID that the store has for this cluster; `ours` from now on, if it has none.
///
/// # Errors
/// [`UidError`]: whether `ours` was written is not known then.
pub async fn settle<S: Store>(store: &S, ours: Uid) -> Result<Uid, UidError> {
    loop {
        if let Some(entry) = store.get(keys::CLUSTER).await? {
            let Cluster { uid } = Cluster::decode(entry.value).map_err(|_| UidError::Malformed)?;
            return uid.try_into().map_err(|_| UidError::Malformed);
        }
        let value = Cluster { uid: ours.to_vec() }.encode_to_vec().into();
        let put = Op::Put { key: keys::CLUSTER.into(), value, lease: None };
        let expect = vec![Expect::Absent(keys::CLUSTER.into())];
        if let Outcome::Committed(_) = store.commit(Transaction { expect, ops: vec![put] }).await? {
            return Ok(ours);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use bytes::Bytes;

    use super::*;
    use crate::store::memory::MemoryStore;

    #[tokio::test]
    async fn the_first_gateway_names_the_cluster_and_the_others_follow() {
        let store = MemoryStore::default();
        let (first, second) = tokio::join!(settle(&store, [1; 16]), settle(&store, [2; 16]));
        let uid = first.unwrap();
        assert_eq!(second.unwrap(), uid);
        assert_eq!(settle(&store, [3; 16]).await.unwrap(), uid);
    }

    #[tokio::test]
    async fn what_is_no_uid_is_not_overwritten() {
        let store = MemoryStore::default();
        let put = Op::Put { key: keys::CLUSTER.into(), value: Bytes::from_static(b"x"), lease: None };
        store.commit(Transaction { expect: Vec::new(), ops: vec![put] }).await.unwrap();
        assert!(matches!(settle(&store, [1; 16]).await, Err(UidError::Malformed)));
    }
}
