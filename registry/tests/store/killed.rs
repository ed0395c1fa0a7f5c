//! A process that writes and is killed at any moment, again and again on one directory: what it was answered is there.
//!
//! Run one sequence again with `RINGWAY_SEED=17 cargo test --release -p ringway-registry --test store killed`; where
//! exactly a kill hits is up to the system.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use registry::store::embedded::EmbeddedStore;
use registry::store::{
    Changes, Entry, Event, HISTORY_EVENTS, LeaseId, Op, Outcome, Store, StoreError, TTL_MAX, Transaction,
    Watch,
};

use crate::child::{Child, say};

const ROUNDS: usize = 24;
/// Until a child says something, on a machine that has much else to do.
const START_MAX: Duration = Duration::from_secs(60);
const WRITERS: usize = 6;

/// The history of a child that also forgets: a few dozen revisions.
const SHORT_HISTORY: usize = 40;

/// Runs a child whose files cannot grow past 2 MB, so that its disk is full now and then.
const ON_A_SMALL_DISK: [&str; 5] =
    ["sh", "-c", "trap '' XFSZ; exec prlimit --fsize=2000000 \"$0\" \"$@\"", "env", "--"];

/// What the children were answered.
#[derive(Default)]
struct Answered {
    /// Each write of this round by its revision: the key, and its value or that it was deleted.
    writes: BTreeMap<u64, (String, Option<String>)>,
    /// The newest lease, 0 before the first.
    lease: u64,
    written: usize,
    refused: usize,
    mended: usize,
}

impl Answered {
    fn hear(&mut self, line: &str) {
        let words: Vec<_> = line.split(' ').collect();
        match words[..] {
            ["put", revision, key, value] => self.write(revision, key, Some(value.into())),
            ["deleted", revision, key] => self.write(revision, key, None),
            ["lease", id] => self.lease = id.parse().unwrap(),
            ["refused"] => self.refused += 1,
            ["mended"] => self.mended += 1,
            _ => panic!("what is `{line}`?"),
        }
    }

    fn write(&mut self, revision: &str, key: &str, value: Option<String>) {
        let twice = self.writes.insert(revision.parse().unwrap(), (key.into(), value));
        assert!(twice.is_none(), "revision {revision} was told twice");
        self.written += 1;
    }
}

#[tokio::test]
async fn what_was_answered_survives_a_kill_at_any_moment() {
    let given = std::env::var("RINGWAY_SEED").ok().map(|seed| seed.parse().unwrap());
    let seed = given.unwrap_or_else(|| fastrand::u64(..1_000_000));
    println!("RINGWAY_SEED={seed}");
    let mut rng = fastrand::Rng::with_seed(seed);
    let directory = tempfile::tempdir().unwrap();
    let mut answered = Answered::default();
    let mut before = BTreeMap::new();
    let (mut revision, mut told_whole, mut kills_in_writes) = (0, 0, 0);
    for round in 0..ROUNDS {
        // On a full disk long enough for another try at it.
        let (wrapper, longest_us): (&[_], _) =
            if rng.u8(..3) == 0 { (&ON_A_SMALL_DISK, 1_400_000) } else { (&[], 120_000) };
        let child = Child::spawn("killed", directory.path(), wrapper);
        // Now and then at its start, else while it writes, however long it took to get there.
        if rng.u8(..4) != 0
            && let Some(line) = child.line(START_MAX)
        {
            answered.hear(&line);
        }
        let until = Instant::now() + Duration::from_micros(rng.u64(..longest_us));
        while let Some(line) = child.line(until.saturating_duration_since(Instant::now())) {
            answered.hear(&line);
        }
        child.kill().iter().for_each(|line| answered.hear(line));
        kills_in_writes += usize::from(!answered.writes.is_empty());

        let store = EmbeddedStore::open(directory.path()).unwrap_or_else(|e| panic!("round {round}: {e:?}"));
        let found = store.range("/").await.unwrap();
        let now = found.revision;
        let last = answered.writes.last_key_value().map_or(0, |(last, _)| *last);
        assert!(now >= revision.max(last), "round {round}: revision {now} after {revision} and {last}");
        let found: Entries = found.entries.into_iter().map(|entry| (entry.key.clone(), entry)).collect();
        check_entries(&store, &before, &answered, &found).await;
        told_whole += usize::from(check_history(&store, &answered, revision, now).await);
        if answered.lease > 0 {
            assert_eq!(store.keep_alive(LeaseId(answered.lease)).await, Ok(()), "round {round}");
            assert!(store.grant(TTL_MAX).await.unwrap() > LeaseId(answered.lease), "round {round}");
        }
        answered.writes.clear();
        (before, revision) = (found, now);
        store.close().await;
    }
    let Answered { written, refused, mended, .. } = answered;
    println!("{written} writes, {refused} refusals, {mended} mended, {told_whole} whole watches");
    assert!(kills_in_writes > ROUNDS / 4 && told_whole > 0, "too little was tried");
}

type Entries = BTreeMap<String, Entry>;

/// Every key is as its last answered write left it, or as a later one did that was not answered any more.
async fn check_entries(store: &EmbeddedStore, before: &Entries, answered: &Answered, found: &Entries) {
    let value = |entry: &Entry| Some(String::from_utf8(entry.value.to_vec()).unwrap());
    let mut last: BTreeMap<_, _> =
        before.values().map(|entry| (entry.key.clone(), (entry.modified, value(entry)))).collect();
    for (revision, (key, value)) in &answered.writes {
        last.insert(key.clone(), (*revision, value.clone()));
    }
    for (key, (revision, expected)) in last {
        match found.get(&key) {
            Some(entry) if entry.modified > revision => {}
            Some(entry) => assert_eq!((entry.modified, value(entry)), (revision, expected), "{key}"),
            None if expected.is_none() => {}
            // It was deleted without an answer, so by one of the last writes: the history has it.
            None => assert!(was_deleted(store, &key, revision).await, "{key} of revision {revision} is lost"),
        }
    }
}

async fn was_deleted(store: &EmbeddedStore, key: &str, after: u64) -> bool {
    let last = store.range("/").await.unwrap().revision;
    let mut watch = match store.watch("/", after + 1).await {
        Err(StoreError::Compacted(revision)) => store.watch("/", revision + 1).await.unwrap(),
        watch => watch.unwrap(),
    };
    let deleted = Event::Deleted(key.into());
    let mut told = after;
    // Every revision changes something.
    while told < last {
        let changes = watch.next().await.unwrap();
        if changes.events.contains(&deleted) {
            return true;
        }
        told = changes.revision;
    }
    false
}

/// A watch from where the last round ended tells every revision, and each answered one as it was. False: a child
/// forgot some of it, and the watch said so.
async fn check_history(store: &EmbeddedStore, answered: &Answered, from: u64, to: u64) -> bool {
    let mut watch = match store.watch("/", from + 1).await {
        Ok(watch) => watch,
        Err(StoreError::Compacted(revision)) => {
            assert!(revision > from && revision <= to);
            return false;
        }
        Err(other) => panic!("{other:?}"),
    };
    for expected in from + 1..=to {
        let Changes { revision, events } = watch.next().await.unwrap();
        assert_eq!(revision, expected);
        let Some((key, value)) = answered.writes.get(&revision) else { continue };
        match (&events[..], value) {
            ([Event::Put(entry)], Some(value)) => {
                assert_eq!((&entry.key, &*entry.value), (key, value.as_bytes()));
            }
            ([Event::Deleted(deleted)], None) => assert_eq!(deleted, key),
            other => panic!("revision {revision}: {other:?}"),
        }
    }
    true
}

/// The child: several writers, each of which says what it was answered.
pub(crate) async fn write_for_ever(directory: &Path) {
    let mut rng = fastrand::Rng::new();
    let history = if rng.u8(..4) == 0 { SHORT_HISTORY } else { HISTORY_EVENTS };
    let store = EmbeddedStore::with_history(directory, history).unwrap();
    let lease = store.grant(TTL_MAX).await.ok();
    if let Some(LeaseId(id)) = lease {
        say!("lease {id}");
    }
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..WRITERS {
        let (store, mut rng) = (store.clone(), rng.fork());
        writers.spawn(async move {
            let mut refused = false;
            loop {
                let key = format!("/{writer}/{}", rng.u8(..30));
                let value = format!("{:x}", rng.u128(..)).repeat(rng.usize(1..100));
                let delete = rng.u8(..5) == 0;
                let lease = if rng.bool() { lease } else { None };
                let op = match delete {
                    true => Op::Delete(key.clone()),
                    false => Op::Put { key: key.clone(), value: value.clone().into(), lease },
                };
                let there = store.get(&key).await.unwrap().is_some();
                let outcome = store.commit(Transaction { expect: Vec::new(), ops: vec![op] }).await;
                if std::mem::replace(&mut refused, outcome.is_err()) && outcome.is_ok() {
                    say!("mended");
                }
                match outcome {
                    // Deleting nothing is no change.
                    Ok(Outcome::Committed(_)) if delete && !there => {}
                    Ok(Outcome::Committed(revision)) if delete => say!("deleted {revision} {key}"),
                    Ok(Outcome::Committed(revision)) => say!("put {revision} {key} {value}"),
                    Err(StoreError::Unkept(_)) => {
                        say!("refused");
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                    other => panic!("{other:?}"),
                }
            }
        });
    }
    writers.join_all().await;
}
