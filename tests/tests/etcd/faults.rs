//! What becomes of an etcd: killed, frozen, restored, without its leader.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use e2e::etcd::{ETCD_SOON, Etcd, patient};
use e2e::port::free_port;
use registry::store::etcd::EtcdStore;
use registry::store::{Event, Store, StoreError, TTL_MAX, Watch, conformance};

use super::{commit, ended, open, options, put, set, store, until_answered};

/// Longer than a store takes to notice that a member is frozen: one wait for an answer for each kind of request.
const NOTICED: Duration = Duration::from_secs(30);

pub(crate) async fn killed(binary: &Path) {
    let mut etcd = Etcd::start(binary, 1);
    let store = store(&etcd);
    let lease = store.grant(TTL_MAX).await.unwrap();
    let answered = put(&store, "/a", "1").await;
    let mut watch = store.watch("/", answered + 1).await.unwrap();
    etcd.kill(0);
    let error = ended(&mut watch).await;
    assert!(matches!(error, StoreError::Unavailable(_)), "{error}");
    assert_eq!(watch.next().await, Err(error), "it stays ended");
    let started = Instant::now();
    for error in [
        store.get("/a").await.map(drop).unwrap_err(),
        commit(&store, vec![set("/a", "2")]).await.map(drop).unwrap_err(),
        store.keep_alive(lease).await.unwrap_err(),
        store.watch("/", 1).await.map(drop).unwrap_err(),
    ] {
        assert!(matches!(error, StoreError::Unavailable(_)), "{error}");
        assert!(super::whole(&error).contains(&etcd.endpoints()[0]), "{}", super::whole(&error));
    }
    assert!(started.elapsed() < NOTICED, "who asks what is dead is told soon: {:?}", started.elapsed());

    etcd.restart(0);
    let entry = until_answered("a read", async || store.get("/a").await).await;
    assert_eq!(entry.map(|entry| entry.modified), Some(answered));
    assert_eq!(store.keep_alive(lease).await, Ok(()));
    let mut watch = store.watch("/", answered + 1).await.unwrap();
    let next = put(&store, "/b", "1").await;
    assert_eq!(watch.next().await.unwrap().revision, next);
}

pub(crate) async fn frozen(binary: &Path) {
    let mut etcd = Etcd::start(binary, 1);
    let store = store(&etcd);
    let answered = put(&store, "/a", "1").await;
    let mut watch = store.watch("/", answered + 1).await.unwrap();
    etcd.process(0).freeze();
    let started = Instant::now();
    let error = store.get("/a").await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable(_)), "{error}");
    let error = ended(&mut watch).await;
    assert!(matches!(error, StoreError::Unavailable(_)), "{error}");
    assert!(started.elapsed() < NOTICED, "{:?}", started.elapsed());
    etcd.process(0).thaw();
    let entry = until_answered("a read", async || store.get("/a").await).await;
    assert_eq!(entry.map(|entry| entry.modified), Some(answered));
}

pub(crate) async fn restored(binary: &Path) {
    let mut etcd = Etcd::start(binary, 1);
    let store = store(&etcd);
    let old = put(&store, "/a", "old").await;
    let backup = etcd.back_up();
    let put_new = async || commit(&store, vec![set("/a", "new")]).await;
    until_answered("a write", put_new).await;
    let newest = put(&store, "/a", "newest").await;
    let mut watch = store.watch("/", newest + 1).await.unwrap();

    etcd.restore(&backup);
    let error = ended(&mut watch).await;
    assert!(matches!(error, StoreError::Unavailable(_)), "{error}");
    let range = until_answered("a range", async || store.range("/").await).await;
    assert_eq!((range.revision, range.entries[0].modified), (old, old));
    let error = store.watch("/", newest + 1).await.map(drop).unwrap_err();
    assert_eq!(error, StoreError::SetBack(newest + 1));
    let mut watch = store.watch("/", range.revision + 1).await.unwrap();
    let next = put(&store, "/b", "1").await;
    assert_eq!(watch.next().await.unwrap().revision, next);
}

pub(crate) async fn one_of_three(binary: &Path) {
    let mut etcd = Etcd::start_with(binary, 3, |_| patient());
    let store = store(&etcd);
    // Whatever was answered, by key; and what another reader makes of it meanwhile.
    let mut answered = BTreeMap::new();
    let reader = tokio::spawn(follow(open(options(&etcd)), "/n/59"));
    for n in 0..60 {
        if n == 20 {
            etcd.kill(etcd.leader().unwrap());
        }
        let key = format!("/n/{n:02}");
        // A write that was not answered may have been made: the same one does no harm.
        let write = async || commit(&store, vec![set(&key, "1")]).await;
        let revision = until_answered("a write", write).await;
        answered.insert(key, revision);
    }
    let range = until_answered("a range", async || store.range("/n/").await).await;
    assert_eq!(range.entries.len(), answered.len(), "nothing that was answered is lost");
    let followed =
        tokio::time::timeout(ETCD_SOON, reader).await.expect("the reader comes to the end").unwrap();
    assert_eq!(followed, answered.into_keys().collect::<Vec<_>>());
    // Two of three keep every promise.
    conformance::all(&store).await;
}

/// The keys under `/n/` as a watch tells them, begun anew with a range each time it ends, up to `last`.
async fn follow(store: EtcdStore, last: &str) -> Vec<String> {
    loop {
        let Ok(range) = store.range("/n/").await else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let mut keys: Vec<_> = range.entries.into_iter().map(|entry| entry.key).collect();
        let Ok(mut watch) = store.watch("/n/", range.revision + 1).await else { continue };
        while keys.last().is_none_or(|key| key != last) {
            let Ok(changes) = watch.next().await else { break };
            for event in changes.events {
                match event {
                    Event::Put(entry) if !keys.contains(&entry.key) => keys.push(entry.key),
                    // Written a second time, for the first was not answered.
                    Event::Put(_) => {}
                    Event::Deleted(key) => panic!("nobody deleted {key}"),
                }
            }
        }
        if keys.last().is_some_and(|key| key == last) {
            return keys;
        }
    }
}

pub(crate) async fn absent(binary: &Path) {
    let etcd = Etcd::start(binary, 1);
    let mut options = options(&etcd);
    options.endpoints.insert(0, format!("http://127.0.0.1:{}", free_port()));
    let store = open(options);
    // Nothing of a write can have come to who is not there: the next member has it at once.
    let revision = put(&store, "/a", "1").await;
    let mut watch = store.watch("/", revision).await.unwrap();
    assert_eq!(watch.next().await.unwrap().revision, revision);
}

pub(crate) async fn one_frozen(binary: &Path) {
    let mut etcd = Etcd::start_with(binary, 3, |_| patient());
    let frozen = (etcd.leader().unwrap() + 1) % 3;
    let mut options = options(&etcd);
    options.endpoints.swap(0, frozen);
    let store = open(options);
    let answered = put(&store, "/a", "1").await;
    let mut watch = store.watch("/", answered + 1).await.unwrap();
    etcd.process(frozen).freeze();
    let started = Instant::now();
    let entry = store.get("/a").await.unwrap();
    assert_eq!(entry.map(|entry| entry.modified), Some(answered), "the next member is asked");
    let error = ended(&mut watch).await;
    assert!(matches!(error, StoreError::Unavailable(_)), "{error}");
    assert!(started.elapsed() < NOTICED, "{:?}", started.elapsed());
    let mut watch = until_answered("a watch", async || store.watch("/", answered + 1).await).await;
    let next = until_answered("a write", async || commit(&store, vec![set("/b", "1")]).await).await;
    assert!(watch.next().await.unwrap().revision <= next, "the watch is another member's");
    etcd.process(frozen).thaw();
}

pub(crate) async fn alone(binary: &Path) {
    let mut etcd = Etcd::start_with(binary, 3, |_| patient());
    let survivor = (etcd.leader().unwrap() + 1) % 3;
    let mut only = options(&etcd);
    only.endpoints = vec![etcd.endpoints().swap_remove(survivor)];
    let store = open(only);
    let answered = put(&store, "/a", "1").await;
    let mut watch = store.watch("/", answered + 1).await.unwrap();
    for other in [1, 2] {
        etcd.kill((survivor + other) % 3);
    }
    let error = ended(&mut watch).await;
    assert!(matches!(error, StoreError::Unavailable(_)), "{error}");
    let started = Instant::now();
    assert!(
        matches!(store.get("/a").await, Err(StoreError::Unavailable(_))),
        "it answers nothing from the past"
    );
    assert!(started.elapsed() < NOTICED, "{:?}", started.elapsed());
    // Health is that of a majority: both must run again before either is waited for.
    etcd.restart_all();
    let entry = until_answered("a read", async || store.get("/a").await).await;
    assert_eq!(entry.map(|entry| entry.modified), Some(answered));
}
