#![allow(clippy::unwrap_used)]

use bytes::Bytes;

use super::*;
use crate::store::Op;
use crate::store::memory::MemoryStore;

const OURS: Uid = [1; 16];

fn west() -> ClusterName {
    ClusterName::new("west").unwrap()
}

fn put(key: &str, value: impl Into<Bytes>) -> Op {
    Op::Put { key: key.into(), value: value.into(), lease: None }
}

async fn commit(store: &impl Store, ops: Vec<Op>) -> Result<Outcome, StoreError> {
    store.commit(Transaction { expect: Vec::new(), ops }).await
}

/// A store of ours that holds `/a`.
async fn ours() -> (MemoryStore, Owned<MemoryStore>) {
    let inner = MemoryStore::default();
    cluster::settle(&inner, &west(), OURS, &StoredObjects::new()).await.unwrap();
    let store = Owned::new(inner.clone(), west(), OURS);
    commit(&store, vec![put("/a", "1")]).await.unwrap();
    (inner, store)
}

/// What everything that may be asked of `store` is answered.
async fn answers(store: &Owned<MemoryStore>) -> Vec<Option<StoreError>> {
    vec![
        store.get("/a").await.err(),
        store.range("/").await.err(),
        store.watch("/", 1).await.err(),
        store.grant(Duration::from_secs(5)).await.err(),
        commit(store, vec![put("/a", "2")]).await.err(),
    ]
}

#[tokio::test]
async fn a_store_of_ours_is_used_as_it_is() {
    let (_, store) = ours().await;
    assert_eq!(answers(&store).await, [const { None }; 5]);
    let absent = Transaction { expect: vec![Expect::Absent("/a".into())], ops: vec![put("/a", "3")] };
    assert_eq!(store.commit(absent).await, Ok(Outcome::Conflict));
    assert_eq!(store.get("/a").await.unwrap().unwrap().value, "2");
    assert_eq!(*store.owner().borrow(), Owner::Ours);
}

#[tokio::test]
async fn of_another_clusters_store_nothing_is_believed_and_nothing_is_written_to_it() {
    let (inner, store) = ours().await;
    commit(&inner, vec![put(keys::CLUSTER, cluster::encode(&west(), [2; 16]))]).await.unwrap();
    let before = inner.range("/").await.unwrap();
    let uid = format!("cluster west, uid {}", "02".repeat(16));
    assert_eq!(
        answers(&store).await,
        [const { None }; 5].map(|_: Option<()>| Some(StoreError::Foreign(uid.clone())))
    );
    assert_eq!(
        store.take_again(&StoredObjects::new()).await.unwrap_err().to_string(),
        StoreError::Foreign(uid.clone()).to_string()
    );
    assert_eq!(inner.range("/").await.unwrap(), before);
    assert_eq!(*store.owner().borrow(), Owner::Other(uid));
    // Ours is put back.
    commit(&inner, vec![put(keys::CLUSTER, cluster::encode(&west(), OURS))]).await.unwrap();
    assert_eq!(answers(&store).await, [const { None }; 5]);
    assert_eq!(*store.owner().borrow(), Owner::Ours);
}

#[tokio::test]
async fn a_wiped_store_tells_nothing_until_it_is_taken_again() {
    let (inner, store) = ours().await;
    let mut watch = store.watch("/", 1).await.unwrap();
    assert!(watch.next().await.is_ok() && watch.next().await.is_ok(), "the UID, and a");
    commit(&inner, vec![Op::Delete("/a".into()), Op::Delete(keys::CLUSTER.into())]).await.unwrap();
    assert_eq!(watch.next().await, Err(StoreError::Unclaimed), "that it deletes is no word of an operator");
    assert_eq!(answers(&store).await, [const { None }; 5].map(|_: Option<()>| Some(StoreError::Unclaimed)));
    assert_eq!(*store.owner().borrow(), Owner::Nobody);
    assert_eq!(store.take_again(&StoredObjects::new()).await.unwrap(), 0);
    assert_eq!(answers(&store).await, [const { None }; 5]);
    assert_eq!(*store.owner().borrow(), Owner::Ours);
}

#[tokio::test]
async fn a_deletion_of_ours_is_told() {
    let (_, store) = ours().await;
    let revision = store.range("/").await.unwrap().revision;
    let mut watch = store.watch("/", revision + 1).await.unwrap();
    commit(&store, vec![Op::Delete("/a".into())]).await.unwrap();
    assert_eq!(watch.next().await.unwrap().events, [Event::Deleted("/a".into())]);
}
