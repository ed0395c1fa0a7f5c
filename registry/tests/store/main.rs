//! Every back end of the registry keeps the promises of `registry::store::conformance`.
#![allow(clippy::unwrap_used)]

mod child;
mod embedded;
mod killed;
mod refused;

use bytes::Bytes;
use registry::store::memory::MemoryStore;
use registry::store::{
    HISTORY_BYTES, Op, Store, StoreError, Transaction, VALUE_BYTES_MAX, Watch, conformance,
};

#[tokio::test(start_paused = true)]
async fn the_memory_store_conforms() {
    conformance::all(&MemoryStore::default()).await;
}

/// Writes enough unrelated keys to push everything older out of a history of eight events.
async fn overflow(store: &impl Store) {
    for i in 0..9 {
        let op = Op::Put { key: format!("/other/{i}"), value: Bytes::new(), lease: None };
        let outcome = store.commit(Transaction { expect: Vec::new(), ops: vec![op] }).await;
        assert!(outcome.is_ok(), "{outcome:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_memory_store_tells_who_fell_behind_its_history() {
    conformance::compaction(&MemoryStore::with_history(8), overflow).await;
}

#[tokio::test(start_paused = true)]
async fn a_watch_slower_than_the_memory_store_keeps_history_ends() {
    let store = MemoryStore::with_history(8);
    let Ok(mut slow) = store.watch("/other/", 1).await else { panic!("nothing is compacted yet") };
    overflow(&store).await;
    assert_eq!(slow.next().await, Err(StoreError::Compacted(1)));
}

#[tokio::test(start_paused = true)]
async fn the_memory_store_forgets_history_revision_by_revision() {
    let store = MemoryStore::with_history(8);
    overflow(&store).await;
    assert_eq!(store.watch("/other/", 1).await.map(drop), Err(StoreError::Compacted(1)));
    let kept = store.watch("/other/", 2).await;
    let Ok(mut kept) = kept else { panic!("revision 2 is the oldest of the last eight") };
    assert_eq!(kept.next().await.map(|changes| changes.revision), Ok(2));
}

#[tokio::test(start_paused = true)]
async fn a_transaction_larger_than_the_history_is_still_told_whole() {
    let store = MemoryStore::with_history(1);
    let op = |i| Op::Put { key: format!("/big/{i}"), value: Bytes::new(), lease: None };
    let outcome = store.commit(Transaction { expect: Vec::new(), ops: (0..5).map(op).collect() }).await;
    assert!(outcome.is_ok(), "{outcome:?}");
    let Ok(mut watch) = store.watch("/big/", 1).await else { panic!("the last revision is always kept") };
    assert_eq!(watch.next().await.map(|changes| changes.events.len()), Ok(5));
}

#[tokio::test(start_paused = true)]
async fn large_values_shorten_the_history() {
    let store = MemoryStore::default();
    for _ in 0..=HISTORY_BYTES / VALUE_BYTES_MAX {
        let op = Op::Put { key: "/large".into(), value: vec![0; VALUE_BYTES_MAX].into(), lease: None };
        let outcome = store.commit(Transaction { expect: Vec::new(), ops: vec![op] }).await;
        assert!(outcome.is_ok(), "{outcome:?}");
    }
    assert!(matches!(store.watch("/large", 1).await.map(drop), Err(StoreError::Compacted(_))));
}
