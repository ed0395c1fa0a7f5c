#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use tokio::sync::oneshot;

use super::unleased::UNLEASED_AFTER;
use super::*;
use crate::store::memory::{MemoryStore, MemoryWatch};
use crate::store::{Cause, Range, Room, conformance};

/// A gateway that stands, and the way to have it resign.
struct Stands {
    standing: watch::Receiver<Standing>,
    resign: oneshot::Sender<()>,
    task: tokio::task::JoinHandle<()>,
}

fn candidate(id: &str, home: u64) -> Candidate {
    Candidate { id: id.into(), member: Member { home, boot: home + 1, ..Member::default() } }
}

fn stand_on<S: Store>(store: &S, us: Candidate) -> Stands {
    let (sender, standing) = watch::channel(Standing::unknown());
    let (resign, told) = oneshot::channel();
    let store = store.clone();
    let task = tokio::spawn(async move {
        stand(store, us, &sender, async {
            let _ = told.await;
        })
        .await;
    });
    Stands { standing, resign, task }
}

impl Stands {
    async fn until(&mut self, what: impl Fn(&Standing) -> bool) -> Standing {
        let waited = tokio::time::timeout(TTL * 4, self.standing.wait_for(|standing| what(standing))).await;
        waited.expect("in time").unwrap().clone()
    }

    async fn elected(&mut self) -> Guard {
        match self.until(|s| matches!(s, Standing::Elected(_))).await {
            Standing::Elected(guard) => guard,
            other => panic!("{other:?}"),
        }
    }

    fn kill(self) {
        self.task.abort();
    }
}

/// A write as the elected one makes it. A store may look at the lease before it looks at what is expected.
async fn write(store: &impl Store, guard: &Guard) -> Outcome {
    let put = Op::Put { key: "/ringway/v1/imports/east/shop/a".into(), value: Bytes::new(), lease: None };
    match commit(store, guard.expect(), vec![put, guard.sign()]).await {
        Err(StoreError::LeaseGone(_)) => Outcome::Conflict,
        answer => answer.unwrap(),
    }
}

#[tokio::test(start_paused = true)]
async fn one_is_elected_and_the_next_takes_over_within_the_lease() {
    let store = MemoryStore::default();
    let mut first = stand_on(&store, candidate("gw-1", 1));
    let guard = first.elected().await;
    let mut second = stand_on(&store, candidate("gw-2", 2));
    second.until(|s| matches!(s, Standing::Member(_))).await;
    // It stays so for as long as the first lives.
    sleep(TTL * 3).await;
    assert!(first.standing.borrow().guard(Instant::now()).is_some_and(|now| now.is_of(&guard)));
    assert_eq!(*second.standing.borrow(), Standing::Member(Some("gw-1".into())));
    assert!(matches!(write(&store, &guard).await, Outcome::Committed(_)));

    let died = Instant::now();
    first.kill();
    let next = second.elected().await;
    assert!(died.elapsed() <= TTL, "{:?}", died.elapsed());
    assert_eq!(
        write(&store, &guard).await,
        Outcome::Conflict,
        "a paused leader that wakes late changes nothing"
    );
    assert!(matches!(write(&store, &next).await, Outcome::Committed(_)));
}

#[tokio::test(start_paused = true)]
async fn who_resigns_is_followed_at_once_and_leaves_nothing() {
    let store = MemoryStore::default();
    let mut first = stand_on(&store, candidate("gw-1", 1));
    first.elected().await;
    let mut second = stand_on(&store, candidate("gw-2", 2));
    second.until(|s| matches!(s, Standing::Member(_))).await;
    let resigned = Instant::now();
    first.resign.send(()).unwrap();
    first.task.await.unwrap();
    second.elected().await;
    assert!(resigned.elapsed() < KEEP_ALIVE, "{:?}", resigned.elapsed());
    assert_eq!(store.get(&keys::gateway("gw-1")).await.unwrap(), None);
}

#[tokio::test(start_paused = true)]
async fn a_restart_takes_its_own_place_at_once() {
    let store = MemoryStore::default();
    let mut before = stand_on(&store, candidate("gw-1", 1));
    before.elected().await;
    before.kill();
    let started = Instant::now();
    let mut after = stand_on(
        &store,
        Candidate { member: Member { boot: 9, ..candidate("gw-1", 1).member }, ..candidate("gw-1", 1) },
    );
    after.elected().await;
    assert!(started.elapsed() < Duration::from_millis(100), "{:?}", started.elapsed());
    // The end of the lease of the earlier start takes nothing along.
    sleep(TTL * 2).await;
    assert!(after.standing.borrow().guard(Instant::now()).is_some());
    let ours = store.get(&keys::gateway("gw-1")).await.unwrap().unwrap();
    assert_eq!(Member::decode(ours.value).unwrap().boot, 9);
}

#[tokio::test(start_paused = true)]
async fn who_copied_a_state_directory_takes_no_office() {
    let store = MemoryStore::default();
    let mut first = stand_on(&store, candidate("gw-1", 1));
    let guard = first.elected().await;
    let mut copy = stand_on(&store, candidate("gw-2", 1));
    copy.until(|s| matches!(s, Standing::Member(_))).await;
    sleep(TTL * 3).await;
    assert!(first.standing.borrow().guard(Instant::now()).is_some_and(|now| now.is_of(&guard)));
    assert!(matches!(*copy.standing.borrow(), Standing::Member(_)));
}

#[tokio::test(start_paused = true)]
async fn an_id_belongs_to_one_process_until_it_dies() {
    let store = MemoryStore::default();
    let mut first = stand_on(&store, candidate("gw-1", 1));
    first.elected().await;
    let mut second = stand_on(&store, candidate("gw-1", 2));
    let taken = second.until(|s| matches!(s, Standing::IdTaken(_))).await;
    assert_eq!(taken.guard(Instant::now()), None);
    sleep(TTL * 3).await;
    assert!(matches!(*second.standing.borrow(), Standing::IdTaken(_)));
    first.kill();
    second.elected().await;
}

#[tokio::test(start_paused = true)]
async fn a_store_put_back_to_an_older_state_is_noticed() {
    let store = MemoryStore::default();
    let mut only = stand_on(&store, candidate("gw-1", 1));
    let before = only.elected().await;
    // As if neither key had been written yet.
    let ops = vec![Op::Delete(keys::LEADER.into()), Op::Delete(keys::gateway("gw-1"))];
    store.commit(Transaction { expect: Vec::new(), ops }).await.unwrap();
    let next = only.until(|s| s.guard(Instant::now()).is_some_and(|guard| !guard.is_of(&before))).await;
    let next = next.guard(Instant::now()).unwrap();
    assert_ne!(next.office(), before.office(), "whatever revisions repeat");
    assert!(store.get(&next.office()).await.unwrap().is_some());
    assert!(store.get(&keys::gateway("gw-1")).await.unwrap().is_some());
}

async fn put_unleased(store: &MemoryStore, key: &str, value: impl Message) {
    let put = Op::Put { key: key.into(), value: value.encode_to_vec().into(), lease: None };
    store.commit(Transaction { expect: Vec::new(), ops: vec![put] }).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_leader_without_a_lease_is_taken_for_nobody_once_it_has_lasted() {
    let store = MemoryStore::default();
    // As an operator may put it, or a restore that knows of no leases.
    put_unleased(&store, keys::LEADER, Leader { gateway: "gw-9".into(), home: 9 }).await;
    let started = Instant::now();
    let mut only = stand_on(&store, candidate("gw-1", 1));
    only.until(|s| *s == Standing::Member(Some("gw-9".into()))).await;
    // A change of it is a sign of life.
    sleep(UNLEASED_AFTER - KEEP_ALIVE).await;
    put_unleased(&store, keys::LEADER, Leader { gateway: "gw-8".into(), home: 8 }).await;
    let guard = only.elected().await;
    let waited = started.elapsed();
    let least = UNLEASED_AFTER * 2 - KEEP_ALIVE;
    assert!((least..least + KEEP_ALIVE * 2).contains(&waited), "{waited:?}");
    assert!(matches!(write(&store, &guard).await, Outcome::Committed(_)));
    assert!(
        store.get(keys::LEADER).await.unwrap().unwrap().lease.is_some(),
        "it dies with the gateway from now on"
    );
}

#[tokio::test(start_paused = true)]
async fn a_leader_with_a_lease_is_never_taken_for_nobody() {
    let store = MemoryStore::default();
    let lease = store.grant(UNLEASED_AFTER * 10).await.unwrap();
    let value = Leader { gateway: "gw-9".into(), home: 9 }.encode_to_vec().into();
    let put = Op::Put { key: keys::LEADER.into(), value, lease: Some(lease) };
    store.commit(Transaction { expect: Vec::new(), ops: vec![put] }).await.unwrap();
    let mut other = stand_on(&store, candidate("gw-1", 1));
    other.until(|s| matches!(s, Standing::Member(_))).await;
    sleep(UNLEASED_AFTER * 5).await;
    assert_eq!(*other.standing.borrow(), Standing::Member(Some("gw-9".into())));
}

#[tokio::test(start_paused = true)]
async fn an_id_without_a_lease_is_free_once_it_has_lasted() {
    let store = MemoryStore::default();
    put_unleased(&store, &keys::gateway("gw-1"), candidate("gw-1", 9).member).await;
    let started = Instant::now();
    let mut only = stand_on(&store, candidate("gw-1", 1));
    only.until(|s| matches!(s, Standing::IdTaken(_))).await;
    only.elected().await;
    assert!(started.elapsed() >= UNLEASED_AFTER);
}

/// A store that can stop answering, as a frozen server does, or refuse to be written.
#[derive(Clone, Default)]
struct Freezing {
    store: MemoryStore,
    frozen: Arc<AtomicBool>,
    refuses: Arc<AtomicBool>,
}

impl Freezing {
    async fn answers(&self) {
        if self.frozen.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
    }

    fn may_write(&self) -> Result<(), StoreError> {
        let cause = || Cause::new(std::io::Error::other("etcd at http://a:1: permission denied"));
        let refused = || StoreError::Refused { remedy: "grant a role", cause: cause() };
        if self.refuses.load(Ordering::Relaxed) { Err(refused()) } else { Ok(()) }
    }
}

impl Store for Freezing {
    type Watch = MemoryWatch;

    async fn get(&self, key: &str) -> Result<Option<Entry>, StoreError> {
        self.answers().await;
        self.store.get(key).await
    }

    async fn range(&self, prefix: &str) -> Result<Range, StoreError> {
        self.answers().await;
        self.store.range(prefix).await
    }

    async fn commit(&self, transaction: Transaction) -> Result<Outcome, StoreError> {
        self.answers().await;
        self.may_write()?;
        self.store.commit(transaction).await
    }

    async fn grant(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        self.answers().await;
        self.store.grant(ttl).await
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.answers().await;
        self.store.keep_alive(lease).await
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.answers().await;
        self.store.revoke(lease).await
    }

    async fn room(&self) -> Result<Room, StoreError> {
        self.answers().await;
        self.store.room().await
    }

    async fn watch(&self, prefix: &str, from: u64) -> Result<MemoryWatch, StoreError> {
        self.answers().await;
        self.store.watch(prefix, from).await
    }
}

#[tokio::test(start_paused = true)]
async fn whoever_is_not_answered_steps_down_before_another_is_elected() {
    let store = MemoryStore::default();
    let frozen = Arc::new(AtomicBool::new(false));
    let freezing = Freezing { store: store.clone(), frozen: frozen.clone(), ..Freezing::default() };
    let mut first = stand_on(&freezing, candidate("gw-1", 1));
    let guard = first.elected().await;
    let mut second = stand_on(&store, candidate("gw-2", 2));
    second.until(|s| matches!(s, Standing::Member(_))).await;
    sleep(TTL).await;
    frozen.store(true, Ordering::Relaxed);
    let next = second.elected().await;
    assert_eq!(first.standing.borrow().guard(Instant::now()), None, "by its own clock");
    assert_eq!(write(&store, &guard).await, Outcome::Conflict);
    // Answered again it is a member, and the other stays.
    frozen.store(false, Ordering::Relaxed);
    first.until(|s| matches!(s, Standing::Member(_))).await;
    assert!(second.standing.borrow().guard(Instant::now()).is_some_and(|now| now.is_of(&next)));
}

/// Waits until it is unknown how it stands, for a reason that names the refusal.
async fn until_refused(stands: &mut Stands) {
    let named =
        |s: &Standing| s.unknown_why().is_some_and(|why| why.contains("grant a role: etcd at http://a:1"));
    stands.until(named).await;
}

#[tokio::test(start_paused = true)]
async fn who_may_read_and_not_write_is_told_why_and_stands_once_it_may() {
    let store = Freezing::default();
    store.refuses.store(true, Ordering::Relaxed);
    let mut only = stand_on(&store, candidate("gw-1", 1));
    until_refused(&mut only).await;
    store.refuses.store(false, Ordering::Relaxed);
    only.elected().await;
    // The right to write goes and comes back, and the office is free all the while.
    store
        .store
        .commit(Transaction { expect: Vec::new(), ops: vec![Op::Delete(keys::LEADER.into())] })
        .await
        .unwrap();
    store.refuses.store(true, Ordering::Relaxed);
    let lost = Instant::now();
    until_refused(&mut only).await;
    assert!(lost.elapsed() >= TTL, "what is over sooner is no loss");
    assert_eq!(only.standing.borrow().guard(Instant::now()), None);
    store.refuses.store(false, Ordering::Relaxed);
    only.elected().await;
}

#[tokio::test(start_paused = true)]
async fn whoever_waits_sees_the_office_free_although_its_history_is_compacted() {
    let store = MemoryStore::with_history(4);
    let mut first = stand_on(&store, candidate("gw-1", 1));
    first.elected().await;
    for n in 0..16 {
        let put = Op::Put { key: format!("/n/{n}"), value: Bytes::new(), lease: None };
        store.commit(Transaction { expect: Vec::new(), ops: vec![put] }).await.unwrap();
    }
    let mut second = stand_on(&store, candidate("gw-2", 2));
    second.until(|s| matches!(s, Standing::Member(_))).await;
    // Between two looks.
    sleep(KEEP_ALIVE / 2).await;
    let resigned = Instant::now();
    first.resign.send(()).unwrap();
    second.elected().await;
    assert!(resigned.elapsed() < KEEP_ALIVE / 4, "{:?}", resigned.elapsed());
}

#[tokio::test(start_paused = true)]
async fn the_store_of_these_tests_is_one() {
    let store = Freezing::default();
    conformance::reads_see_writes(&store).await;
}
