//! A disk that is full refuses writes, loses nothing, and is used again once there is room.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use registry::store::embedded::EmbeddedStore;
use registry::store::{LeaseId, Op, Outcome, Store, StoreError, TTL_MIN, Transaction, Watch};

use crate::child::{Child, say};

/// Runs a child whose files cannot grow past 4 MB, until it lifts that limit itself.
const ON_A_SMALL_DISK: [&str; 5] =
    ["sh", "-c", "trap '' XFSZ; exec prlimit --fsize=4000000: \"$0\" \"$@\"", "env", "--"];

const WAIT: Duration = Duration::from_secs(60);

#[tokio::test]
async fn a_full_disk_refuses_writes_loses_nothing_and_is_used_again() {
    let directory = tempfile::tempdir().unwrap();
    let child = Child::spawn("refused", directory.path(), &ON_A_SMALL_DISK);
    let answered = child.line(WAIT).unwrap();
    let answered: u64 = answered.strip_prefix("refused after ").unwrap().parse().unwrap();
    assert!(answered > 3, "{answered}");
    for expected in ["reads and leases go on", "nobody saw what was refused", "mended"] {
        assert_eq!(child.line(WAIT).as_deref(), Some(expected));
    }
    child.kill();
    let store = EmbeddedStore::open(directory.path()).unwrap();
    let range = store.range("/full/").await.unwrap();
    let expected: Vec<_> = (1..=answered).map(|at| format!("/full/{at:04}")).collect();
    assert_eq!(
        range.entries.iter().map(|entry| &entry.key).collect::<Vec<_>>(),
        expected.iter().collect::<Vec<_>>()
    );
    assert!(range.entries.iter().all(|entry| entry.value.len() == VALUE_BYTES));
    assert_eq!(store.get("/after").await.unwrap().map(|entry| entry.modified), Some(answered + 2));
}

const VALUE_BYTES: usize = 100_000;

async fn put(store: &EmbeddedStore, key: &str, lease: Option<LeaseId>) -> Result<Outcome, StoreError> {
    let value = vec![7; VALUE_BYTES].into();
    let op = Op::Put { key: key.into(), value, lease };
    store.commit(Transaction { expect: Vec::new(), ops: vec![op] }).await
}

/// The child: fills its disk, looks at what still works, makes room and goes on.
pub(crate) async fn write_until_refused(directory: &Path) {
    let store = EmbeddedStore::open(directory).unwrap();
    let lease = store.grant(10 * TTL_MIN).await.unwrap();
    assert_eq!(put(&store, "/leased", Some(lease)).await, Ok(Outcome::Committed(1)));
    let mut answered = 0;
    let refusal = loop {
        store.keep_alive(lease).await.unwrap();
        match put(&store, &format!("/full/{:04}", answered + 1), None).await {
            Ok(Outcome::Committed(_)) => answered += 1,
            refused => break refused,
        }
    };
    let Err(StoreError::Unkept(cause)) = refusal else { panic!("{refusal:?}") };
    assert!(!cause.to_string().is_empty());
    say!("refused after {answered}");

    store.keep_alive(lease).await.unwrap();
    assert!(matches!(store.grant(TTL_MIN).await, Err(StoreError::Unkept(_))));
    let range = store.range("/full/").await.unwrap();
    assert_eq!((range.revision, range.entries.len() as u64), (answered + 1, answered));
    say!("reads and leases go on");
    let mut watch = store.watch("/", range.revision + 1).await.unwrap();
    tokio::time::timeout(Duration::from_millis(20), watch.next()).await.unwrap_err();
    say!("nobody saw what was refused");

    let pid = std::process::id().to_string();
    assert!(Command::new("prlimit").args(["--pid", &pid, "--fsize=unlimited"]).status().unwrap().success());
    let mut retry = tokio::time::interval(Duration::from_millis(50));
    loop {
        retry.tick().await;
        store.keep_alive(lease).await.unwrap();
        match put(&store, "/after", None).await {
            Ok(outcome) => break assert_eq!(outcome, Outcome::Committed(answered + 2)),
            Err(refused) => assert!(matches!(refused, StoreError::Unkept(_)), "{refused:?}"),
        }
    }
    assert_eq!(watch.next().await.unwrap().revision, answered + 2);
    say!("mended");
    // Until the parent has seen it and ends us.
    std::future::pending::<()>().await;
}
