//! What the embedded store promises beyond the suite: to be the same after a restart, and to say what is wrong.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use files::FileError;
use registry::store::embedded::{EmbeddedStore, OpenError};
use registry::store::{
    Event, LeaseId, Op, Outcome, Store, StoreError, TTL_MAX, TTL_MIN, Transaction, Watch, conformance,
};

use crate::child::{Child, say};
use crate::overflow;

/// Of leases whose time is measured: long enough for a busy machine, short enough to wait for.
const TTL: Duration = Duration::from_secs(2);
/// The same where another process must be in time, twice: to freeze it, and to be woken.
const FROZEN_TTL: Duration = Duration::from_secs(6);
/// Within which a child says something.
const SOON: Duration = Duration::from_secs(60);

fn put(key: &str, lease: Option<LeaseId>) -> Op {
    Op::Put { key: key.into(), value: Bytes::from_static(b"value"), lease }
}

async fn commit(store: &EmbeddedStore, op: Op) -> u64 {
    match store.commit(Transaction { expect: Vec::new(), ops: vec![op] }).await {
        Ok(Outcome::Committed(revision)) => revision,
        other => panic!("not committed: {other:?}"),
    }
}

#[tokio::test]
async fn it_conforms() {
    let directory = tempfile::tempdir().unwrap();
    conformance::all(&EmbeddedStore::open(directory.path()).unwrap()).await;
}

#[tokio::test]
async fn it_tells_who_fell_behind_its_history() {
    let directory = tempfile::tempdir().unwrap();
    let store = EmbeddedStore::with_history(directory.path(), 8).unwrap();
    conformance::compaction(&store, async |store| overflow(store).await).await;
}

#[tokio::test]
async fn after_a_restart_all_is_there_and_a_watch_goes_on() {
    let directory = tempfile::tempdir().unwrap();
    let store = EmbeddedStore::open(directory.path()).unwrap();
    let first = commit(&store, put("/a", None)).await;
    let second = commit(&store, put("/b", None)).await;
    let deleted = commit(&store, Op::Delete("/a".into())).await;
    let before = store.range("/").await.unwrap();
    store.close().await;

    let store = EmbeddedStore::open(directory.path()).unwrap();
    assert_eq!(store.range("/").await.unwrap(), before);
    let mut watch = store.watch("/", first).await.unwrap();
    for revision in [first, second, deleted] {
        assert_eq!(watch.next().await.unwrap().revision, revision);
    }
    assert_eq!(commit(&store, put("/c", None)).await, deleted + 1);
    assert_eq!(watch.next().await.unwrap().revision, deleted + 1);
}

#[tokio::test]
async fn after_a_restart_forgotten_history_stays_forgotten() {
    let directory = tempfile::tempdir().unwrap();
    let store = EmbeddedStore::with_history(directory.path(), 8).unwrap();
    overflow(&store).await;
    // The disk forgets with the write after the one that made it too much.
    commit(&store, put("/last", None)).await;
    store.close().await;
    let store = EmbeddedStore::with_history(directory.path(), 8).unwrap();
    assert!(matches!(store.watch("/", 1).await.map(drop), Err(StoreError::Compacted(_))));
    assert!(store.watch("/", 3).await.is_ok());
}

#[tokio::test]
async fn after_a_restart_leases_have_their_full_time_and_then_lapse() {
    let directory = tempfile::tempdir().unwrap();
    let store = EmbeddedStore::open(directory.path()).unwrap();
    let (short, long) = (store.grant(TTL).await.unwrap(), store.grant(TTL_MAX).await.unwrap());
    commit(&store, put("/short", Some(short))).await;
    let last = commit(&store, put("/long", Some(long))).await;
    // Most of its time goes by, with nobody to keep it alive.
    tokio::time::sleep(TTL * 7 / 10).await;
    store.close().await;
    let opened = Instant::now();
    let store = EmbeddedStore::open(directory.path()).unwrap();
    let mut watch = store.watch("/", last + 1).await.unwrap();
    assert_eq!(watch.next().await.unwrap().events, [Event::Deleted("/short".into())]);
    assert!(opened.elapsed() >= TTL, "{:?}", opened.elapsed());
    assert_eq!(store.keep_alive(long).await, Ok(()));
    assert_eq!(store.keep_alive(short).await, Err(StoreError::LeaseGone(short)));
    assert!(store.grant(TTL_MIN).await.unwrap() > long, "no lease has another's id");
}

#[tokio::test]
async fn a_process_that_was_frozen_takes_nobody_for_dead() {
    let directory = tempfile::tempdir().unwrap();
    let mut child = Child::spawn("frozen", directory.path(), &[]);
    assert_eq!(child.line(SOON).as_deref(), Some("ready"));
    child.signal("STOP");
    // As long as it takes for a lease to lapse if time were all that counts.
    assert_eq!(child.line(FROZEN_TTL * 3 / 2), None);
    child.signal("CONT");
    assert_eq!(child.line(SOON).as_deref(), Some("alive"));
}

/// Holds a lease that nobody keeps alive until it is asked to, well before it lapses.
pub(crate) async fn frozen(directory: &Path) {
    let store = EmbeddedStore::open(directory).unwrap();
    let lease = store.grant(FROZEN_TTL).await.unwrap();
    commit(&store, put("/frozen", Some(lease))).await;
    say!("ready");
    tokio::time::sleep(FROZEN_TTL / 2).await;
    let alive = store.keep_alive(lease).await.is_ok() && store.get("/frozen").await.unwrap().is_some();
    say!("{}", if alive { "alive" } else { "dead" });
}

#[tokio::test]
async fn one_process_at_a_time() {
    let directory = tempfile::tempdir().unwrap();
    let store = EmbeddedStore::open(directory.path()).unwrap();
    let refused = EmbeddedStore::open(directory.path()).unwrap_err();
    assert!(matches!(refused, OpenError::InUse(_)), "{refused:?}");
    assert!(refused.to_string().contains("stop that one"), "{refused}");
    store.close().await;
    EmbeddedStore::open(directory.path()).unwrap();
}

/// The file alone would say so too, but not while it is being made or made anew.
#[tokio::test]
async fn the_directory_is_taken_before_the_file_is_looked_at() {
    let directory = tempfile::tempdir().unwrap();
    let lock = fs::File::create(directory.path().join("registry.lock")).unwrap();
    lock.lock().unwrap();
    let refused = EmbeddedStore::open(directory.path()).unwrap_err();
    assert!(matches!(refused, OpenError::InUse(_)), "{refused:?}");
    assert!(!directory.path().join("registry.redb").exists());
}

#[tokio::test]
async fn a_closed_store_ends_its_watches_and_refuses_writes() {
    let directory = tempfile::tempdir().unwrap();
    let store = EmbeddedStore::open(directory.path()).unwrap();
    let revision = commit(&store, put("/a", None)).await;
    let mut watch = store.watch("/", revision).await.unwrap();
    let waiting = store.clone();
    let write = tokio::spawn(async move { commit(&waiting, put("/b", None)).await });
    tokio::task::yield_now().await;
    store.close().await;
    assert_eq!(write.await.unwrap(), revision + 1, "what waited is written");
    for revision in [revision, revision + 1] {
        assert_eq!(watch.next().await.unwrap().revision, revision);
    }
    assert_eq!(watch.next().await, Err(StoreError::Closed));
    assert_eq!(store.grant(TTL_MIN).await, Err(StoreError::Closed));
    assert!(store.get("/b").await.unwrap().is_some(), "what is known can be read");
}

#[tokio::test]
async fn dropping_the_last_handle_ends_the_watches() {
    let directory = tempfile::tempdir().unwrap();
    let store = EmbeddedStore::open(directory.path()).unwrap();
    let mut watch = store.watch("/", 1).await.unwrap();
    drop(store);
    assert_eq!(watch.next().await, Err(StoreError::Closed));
}

#[tokio::test]
async fn writes_that_come_together_go_together() {
    let directory = tempfile::tempdir().unwrap();
    let store = EmbeddedStore::open(directory.path()).unwrap();
    let mut writes = tokio::task::JoinSet::new();
    for i in 0..200 {
        let store = store.clone();
        writes.spawn(async move { commit(&store, put(&format!("/{i}"), None)).await });
    }
    let mut revisions = writes.join_all().await;
    revisions.sort_unstable();
    assert_eq!(revisions, (1..=200).collect::<Vec<_>>());
}

#[tokio::test]
async fn more_writes_than_can_wait_are_told_so() {
    let directory = tempfile::tempdir().unwrap();
    let store = EmbeddedStore::open(directory.path()).unwrap();
    // All of them are put into the queue before this thread yields to any answer.
    let mut writes = tokio::task::JoinSet::new();
    for i in 0..20_000 {
        let store = store.clone();
        let op = put(&format!("/{i}"), None);
        writes.spawn(async move { store.commit(Transaction { expect: Vec::new(), ops: vec![op] }).await });
    }
    let outcomes = writes.join_all().await;
    let (mut kept, mut busy) = (0, 0);
    for outcome in outcomes {
        match outcome {
            Ok(Outcome::Committed(_)) => kept += 1,
            Err(StoreError::Busy) => busy += 1,
            other => panic!("{other:?}"),
        }
    }
    assert!(kept >= 1024 && busy > 0, "{kept} kept, {busy} refused");
    assert_eq!(store.range("/").await.unwrap().entries.len(), kept, "who was refused changed nothing");
}

type Damage = fn(&mut Vec<u8>);

#[tokio::test]
async fn a_damaged_file_is_named_and_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let store = EmbeddedStore::open(directory.path()).unwrap();
    for i in 0..50 {
        commit(&store, put(&format!("/{i}"), None)).await;
    }
    store.close().await;
    let path = directory.path().join("registry.redb");
    let whole = fs::read(&path).unwrap();
    let cases: [(_, Damage); 4] = [
        ("empty", Vec::clear),
        ("cut short", |bytes| bytes.truncate(bytes.len() / 2)),
        ("of something else", |bytes| bytes[..16].copy_from_slice(b"SQLite format 3\0")),
        ("overwritten", |bytes| bytes[4096..].fill(7)),
    ];
    for (case, damage) in cases {
        let mut bytes = whole.clone();
        damage(&mut bytes);
        fs::write(&path, &bytes).unwrap();
        let refused = EmbeddedStore::open(directory.path()).unwrap_err();
        assert!(matches!(refused, OpenError::Damaged { .. }), "{case}: {refused:?}");
        let message = refused.to_string();
        assert!(
            message.contains("registry.redb` is damaged") && message.contains("move it away"),
            "{message}"
        );
        assert!(std::error::Error::source(&refused).is_some(), "{case}: says why");
    }
    fs::write(&path, &whole).unwrap();
    let store = EmbeddedStore::open(directory.path()).unwrap();
    assert_eq!(store.range("/").await.unwrap().entries.len(), 50);
}

#[tokio::test]
async fn what_is_in_the_way_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    fs::write(&file, "").unwrap();
    let refused = EmbeddedStore::open(&file).unwrap_err();
    assert!(matches!(refused, OpenError::File(FileError::Io { .. })), "{refused:?}");
    assert!(refused.to_string().contains(file.to_str().unwrap()), "{refused}");
}

#[tokio::test]
async fn a_planted_link_leads_nowhere() {
    let directory = tempfile::tempdir().unwrap();
    let (inside, precious) = (directory.path().join("registry"), directory.path().join("precious"));
    for name in ["registry.redb", "registry.lock", "registry.redb.new"] {
        fs::create_dir_all(&inside).unwrap();
        fs::write(&precious, "").unwrap();
        symlink(&precious, inside.join(name)).unwrap();
        let opened = EmbeddedStore::open(&inside);
        match name {
            // What an earlier run left half done is replaced, not written to.
            "registry.redb.new" => assert!(opened.is_ok()),
            _ => {
                let refused = opened.unwrap_err();
                assert!(matches!(refused, OpenError::File(FileError::Link(_))), "{name}: {refused:?}");
            }
        }
        assert_eq!(fs::read(&precious).unwrap(), b"", "{name}");
        fs::remove_dir_all(&inside).unwrap();
    }
}

#[tokio::test]
async fn a_first_start_cut_short_leaves_nothing_in_the_way() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("registry.redb.new"), "half of a fi").unwrap();
    let store = EmbeddedStore::open(directory.path()).unwrap();
    commit(&store, put("/a", None)).await;
}

#[tokio::test]
async fn nobody_else_reads_it() {
    let directory = tempfile::tempdir().unwrap();
    let inside = directory.path().join("deep/registry");
    EmbeddedStore::open(&inside).unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&inside), 0o700);
    assert_eq!(mode(&inside.join("registry.redb")), 0o600);
}
