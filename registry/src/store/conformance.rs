//! What every back end of the registry must do, as functions that any test can call.
//!
//! Each takes a store that nobody else uses and keys of its own, so that a suite may share one store. They run on
//! whatever clock the store has: a paused one is advanced by awaiting, a real one waits. A broken promise panics.

use std::time::Duration;

use bytes::Bytes;

use super::{
    Changes, Entry, Event, Expect, KEY_BYTES_MAX, LeaseId, Op, Outcome, Store, StoreError,
    TRANSACTION_BYTES_MAX, TRANSACTION_OPS_MAX, TTL_MAX, TTL_MIN, Transaction, VALUE_BYTES_MAX, Watch,
};

/// Runs every promise but those about compaction, which need a store that forgets: [`compaction`].
///
/// # Panics
/// Where the store breaks a promise.
pub async fn all(store: &impl Store) {
    reads_see_writes(store).await;
    transactions_are_whole(store).await;
    expectations_guard_writes(store).await;
    limits_are_kept(store).await;
    watches_miss_nothing(store).await;
    leases_lapse(store).await;
    revoked_leases_take_their_keys(store).await;
}

/// Of leases that lapse: so long that a busy machine keeps one alive in time, so short that a real clock can be waited
/// for.
const TTL: Duration = Duration::from_secs(4);

fn put(key: &str, value: &str) -> Op {
    Op::Put { key: key.into(), value: Bytes::copy_from_slice(value.as_bytes()), lease: None }
}

fn leased(key: &str, lease: LeaseId) -> Op {
    Op::Put { key: key.into(), value: Bytes::from_static(b"leased"), lease: Some(lease) }
}

fn delete(key: &str) -> Op {
    Op::Delete(key.into())
}

async fn try_commit(store: &impl Store, expect: Vec<Expect>, ops: Vec<Op>) -> Result<Outcome, StoreError> {
    store.commit(Transaction { expect, ops }).await
}

async fn commit(store: &impl Store, ops: Vec<Op>) -> u64 {
    match try_commit(store, Vec::new(), ops).await {
        Ok(Outcome::Committed(revision)) => revision,
        other => panic!("a transaction without conditions did not commit: {other:?}"),
    }
}

async fn get(store: &impl Store, key: &str) -> Option<Entry> {
    store.get(key).await.expect("get works")
}

async fn keys(store: &impl Store, prefix: &str) -> Vec<String> {
    let range = store.range(prefix).await.expect("range works");
    range.entries.into_iter().map(|entry| entry.key).collect()
}

async fn next(watch: &mut impl Watch) -> Changes {
    watch.next().await.expect("the watch goes on")
}

/// A write is read back with its revisions, a range holds its prefix in order, and nothing else.
///
/// # Panics
/// Where the store breaks the promise.
pub async fn reads_see_writes(store: &impl Store) {
    assert_eq!(get(store, "/reads/a").await, None);
    let first = commit(store, vec![put("/reads/b", "1"), put("/reads/a", "1")]).await;
    let second = commit(store, vec![put("/reads/a", "2")]).await;
    assert_eq!(second, first + 1, "each transaction is one revision");
    let value = Bytes::from_static(b"2");
    let entry = Entry { key: "/reads/a".into(), value, created: first, modified: second, lease: None };
    assert_eq!(get(store, "/reads/a").await, Some(entry));
    commit(store, vec![put("/reads-not/a", "1")]).await;
    assert_eq!(keys(store, "/reads/").await, ["/reads/a", "/reads/b"]);
    assert_eq!(keys(store, "/reads/none/").await, [""; 0]);

    let deleted = commit(store, vec![delete("/reads/a")]).await;
    assert_eq!(get(store, "/reads/a").await, None);
    assert_eq!(commit(store, vec![delete("/reads/a")]).await, deleted, "deleting nothing is no change");
    let again = commit(store, vec![put("/reads/a", "3")]).await;
    assert_eq!(get(store, "/reads/a").await.map(|entry| entry.created), Some(again), "it is a new key");
    assert_eq!(store.range("/reads/").await.map(|range| range.revision), Ok(again));
}

/// All of a transaction has one revision, and a refused one changes nothing.
///
/// # Panics
/// Where the store breaks the promise.
pub async fn transactions_are_whole(store: &impl Store) {
    let ops = vec![put("/whole/a", "1"), put("/whole/b", "1")];
    let revision = commit(store, ops).await;
    for key in ["/whole/a", "/whole/b"] {
        assert_eq!(get(store, key).await.map(|entry| entry.modified), Some(revision));
    }
    let expect = vec![Expect::Modified("/whole/a".into(), revision), Expect::Absent("/whole/b".into())];
    let ops = vec![put("/whole/c", "1"), delete("/whole/a")];
    assert_eq!(try_commit(store, expect, ops).await, Ok(Outcome::Conflict));
    assert_eq!(keys(store, "/whole/").await, ["/whole/a", "/whole/b"]);
    assert_eq!(
        store.range("/whole/").await.map(|range| range.revision),
        Ok(revision),
        "no revision was spent"
    );
}

/// Of two writers that expect the same, one wins.
///
/// # Panics
/// Where the store breaks the promise.
pub async fn expectations_guard_writes(store: &impl Store) {
    let absent = || vec![Expect::Absent("/guard".into())];
    let first = try_commit(store, absent(), vec![put("/guard", "first")]).await;
    let Ok(Outcome::Committed(revision)) = first else { panic!("the key was absent: {first:?}") };
    assert_eq!(try_commit(store, absent(), vec![put("/guard", "second")]).await, Ok(Outcome::Conflict));
    let at = |revision| vec![Expect::Modified("/guard".into(), revision)];
    let outcome = try_commit(store, at(revision), vec![put("/guard", "third")]).await;
    assert_eq!(outcome, Ok(Outcome::Committed(revision + 1)));
    assert_eq!(try_commit(store, at(revision), vec![delete("/guard")]).await, Ok(Outcome::Conflict));
    let missing = vec![Expect::Modified("/guard/none".into(), revision)];
    let equals =
        |key: &str, value: &'static [u8]| vec![Expect::Equals(key.into(), Bytes::from_static(value))];
    for wrong in [equals("/guard", b"other"), equals("/guard/none", b"")] {
        assert_eq!(try_commit(store, wrong, Vec::new()).await, Ok(Outcome::Conflict));
    }
    assert_eq!(try_commit(store, missing, Vec::new()).await, Ok(Outcome::Conflict));
    // A question: whether it still stands as it was written.
    let held = try_commit(store, at(revision + 1), Vec::new()).await;
    assert_eq!(held, Ok(Outcome::Committed(revision + 1)), "no revision was spent");
    assert_eq!(try_commit(store, at(revision), Vec::new()).await, Ok(Outcome::Conflict));
    assert_eq!(get(store, "/guard").await.map(|entry| entry.value), Some(Bytes::from_static(b"third")));
}

/// What is as large as allowed goes in, what is larger is refused by name, and a refusal changes nothing.
///
/// # Panics
/// Where the store breaks the promise.
pub async fn limits_are_kept(store: &impl Store) {
    let key = |len: usize| format!("/limits/{}", "k".repeat(len - "/limits/".len()));
    commit(store, vec![put(&key(KEY_BYTES_MAX), "")]).await;
    let long = key(KEY_BYTES_MAX + 1);
    let refused = try_commit(store, Vec::new(), vec![put(&long, "")]).await;
    assert_eq!(refused, Err(StoreError::Key(long.clone())));
    assert_eq!(store.get(&long).await, Err(StoreError::Key(long)));
    for not_a_path in ["", "limits"] {
        assert_eq!(store.range(not_a_path).await, Err(StoreError::Key(not_a_path.into())));
    }

    let value = |bytes: usize| {
        vec![Op::Put { key: "/limits/value".into(), value: Bytes::from(vec![7; bytes]), lease: None }]
    };
    commit(store, value(VALUE_BYTES_MAX)).await;
    let (key, bytes) = ("/limits/value".to_owned(), VALUE_BYTES_MAX + 1);
    assert_eq!(try_commit(store, Vec::new(), value(bytes)).await, Err(StoreError::Value { key, bytes }));
    commit(store, vec![delete("/limits/value")]).await;

    let ops = |count: usize| (0..count).map(|i| put(&format!("/limits/op/{i:03}"), "")).collect::<Vec<_>>();
    let before = commit(store, ops(TRANSACTION_OPS_MAX)).await;
    let refused = try_commit(store, Vec::new(), ops(TRANSACTION_OPS_MAX + 1)).await;
    assert_eq!(refused, Err(StoreError::Transaction(TRANSACTION_OPS_MAX + 1)));
    let half = |key: &str| {
        let value = Bytes::from(vec![7; TRANSACTION_BYTES_MAX / 2]);
        Op::Put { key: key.into(), value, lease: None }
    };
    let (pair, bytes) = (vec![half("/limits/x"), half("/limits/y")], TRANSACTION_BYTES_MAX + 18);
    let refused = try_commit(store, Vec::new(), pair).await;
    assert_eq!(refused, Err(StoreError::TransactionBytes(bytes)));
    let twice = try_commit(store, Vec::new(), vec![put("/limits/x", ""), delete("/limits/x")]).await;
    assert_eq!(twice, Err(StoreError::Twice("/limits/x".into())));

    for ttl in [TTL_MIN - Duration::from_millis(1), TTL_MAX + Duration::from_millis(1)] {
        assert_eq!(store.grant(ttl).await, Err(StoreError::Ttl(ttl)));
    }
    let range = store.range("/limits/op/").await.expect("range works");
    assert_eq!((range.revision, range.entries.len()), (before, TRANSACTION_OPS_MAX));
}

/// A watch tells every change under its prefix once, in order and by whole revisions: those before it as well as
/// those after.
///
/// # Panics
/// Where the store breaks the promise.
pub async fn watches_miss_nothing(store: &impl Store) {
    let first = commit(store, vec![put("/watch/a", "1"), put("/watch/b", "1")]).await;
    commit(store, vec![put("/watch-not/a", "1")]).await;
    let deleted = commit(store, vec![delete("/watch/a"), put("/watch-not/b", "1")]).await;
    let mut from_first = store.watch("/watch/", first).await.expect("nothing is compacted");
    let mut from_now = store.watch("/watch/", deleted + 1).await.expect("nothing is compacted");

    let changes = next(&mut from_first).await;
    assert_eq!((changes.revision, changes.events.len()), (first, 2));
    let changes = next(&mut from_first).await;
    assert_eq!(changes, Changes { revision: deleted, events: vec![Event::Deleted("/watch/a".into())] });

    let later = {
        let late = next(&mut from_now);
        let write = commit(store, vec![put("/watch/b", "2")]);
        let (changes, revision) = tokio::join!(late, write);
        assert_eq!(changes.revision, revision);
        let value = Bytes::from_static(b"2");
        let entry = Entry { key: "/watch/b".into(), value, created: first, modified: revision, lease: None };
        assert_eq!(changes.events, [Event::Put(entry)]);
        revision
    };
    assert_eq!(next(&mut from_first).await.revision, later, "every watch is told");
}

/// Keys of a lease live as long as it is kept alive, then go together, and watches see them go.
///
/// # Panics
/// Where the store breaks the promise.
pub async fn leases_lapse(store: &impl Store) {
    let lease = store.grant(TTL).await.expect("grant works");
    commit(store, vec![leased("/lease/a", lease), leased("/lease/b", lease), leased("/lease/c", lease)])
        .await;
    // Put again without the lease, a key no longer dies with it.
    let put = commit(store, vec![put("/lease/c", "stays")]).await;
    assert_eq!(get(store, "/lease/a").await.and_then(|entry| entry.lease), Some(lease));
    for _ in 0..5 {
        tokio::time::sleep(TTL / 4).await;
        assert_eq!(store.keep_alive(lease).await, Ok(()));
    }
    assert_eq!(keys(store, "/lease/").await, ["/lease/a", "/lease/b", "/lease/c"]);

    let mut watch = store.watch("/lease/", put + 1).await.expect("nothing is compacted");
    let mut gone = Vec::new();
    while gone.len() < 2 {
        gone.extend(next(&mut watch).await.events);
    }
    assert_eq!(gone, [Event::Deleted("/lease/a".into()), Event::Deleted("/lease/b".into())]);
    assert_eq!(keys(store, "/lease/").await, ["/lease/c"]);
    assert_eq!(store.keep_alive(lease).await, Err(StoreError::LeaseGone(lease)));
    let late = try_commit(store, Vec::new(), vec![leased("/lease/d", lease)]).await;
    assert_eq!(late, Err(StoreError::LeaseGone(lease)));
}

/// A revoked lease takes its keys at once and in one revision.
///
/// # Panics
/// Where the store breaks the promise.
pub async fn revoked_leases_take_their_keys(store: &impl Store) {
    let lease = store.grant(TTL_MAX).await.expect("grant works");
    let put = commit(store, vec![leased("/revoke/a", lease), leased("/revoke/b", lease)]).await;
    assert_eq!(store.revoke(lease).await, Ok(()));
    assert_eq!(keys(store, "/revoke/").await, [""; 0]);
    let mut watch = store.watch("/revoke/", put + 1).await.expect("nothing is compacted");
    assert_eq!(next(&mut watch).await.events.len(), 2);
    assert_eq!(store.revoke(lease).await, Ok(()), "what is gone can be revoked");
    assert_eq!(store.keep_alive(lease).await, Err(StoreError::LeaseGone(lease)));
}

/// A watch from what is compacted says so, and one that fell behind never skips: it tells what its back end had
/// already sent, or says the same. Getting the range and watching from the revision after it then misses nothing.
/// `compact` makes the store forget all but the newest history.
///
/// # Panics
/// Where the store breaks the promise.
pub async fn compaction<S: Store>(store: &S, compact: impl AsyncFnOnce(&S)) {
    let first = commit(store, vec![put("/compact/a", "1")]).await;
    let mut slow = store.watch("/compact/", first).await.expect("nothing is compacted");
    commit(store, vec![put("/compact/b", "1")]).await;
    compact(store).await;
    match slow.next().await {
        Ok(changes) => assert_eq!(changes.revision, first),
        Err(error) => {
            assert!(matches!(error, StoreError::Compacted(revision) if revision >= first), "{error}")
        }
    }
    let late = store.watch("/compact/", first).await.map(drop);
    assert!(matches!(late, Err(StoreError::Compacted(revision)) if revision >= first), "{late:?}");

    let range = store.range("/compact/").await.expect("range works");
    assert_eq!(range.entries.len(), 2);
    let mut anew = store.watch("/compact/", range.revision + 1).await.expect("the newest is kept");
    let revision = commit(store, vec![put("/compact/c", "1")]).await;
    assert_eq!(next(&mut anew).await.revision, revision);
}
