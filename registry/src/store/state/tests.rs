#![allow(clippy::unwrap_used)]

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::store::staged::Staged;
use crate::store::{Event, Expect, Op, Outcome, Transaction};

fn put(key: &str, bytes: usize, lease: Option<LeaseId>) -> Op {
    Op::Put { key: key.into(), value: vec![7; bytes].into(), lease }
}

fn transaction(op: Op) -> Transaction {
    Transaction { expect: Vec::new(), ops: vec![op] }
}

/// Decides and applies in one go.
fn write<T>(state: &mut State, now_unix_ms: u64, decide: impl FnOnce(&mut Staged<'_>) -> T) -> T {
    let mut staged = Staged::on(state, now_unix_ms);
    let decided = decide(&mut staged);
    let batch = staged.finish();
    state.apply(batch, Instant::now());
    decided
}

fn commit(state: &mut State, op: Op) -> Result<Outcome, StoreError> {
    write(state, 0, |staged| staged.commit(transaction(op)))
}

/// Some writes of every kind on few keys and leases, from a seed.
pub(in crate::store) fn scribble(staged: &mut Staged<'_>, rng: &mut fastrand::Rng) {
    let newest = staged.grant(Duration::from_secs(rng.u64(1..60))).unwrap();
    for _ in 0..rng.usize(..6) {
        let lease = LeaseId(rng.u64(newest.0.saturating_sub(4)..=newest.0));
        let key = |rng: &mut fastrand::Rng| format!("/key/{}", rng.u8(..12));
        let (first, second) = (key(rng), key(rng));
        let value = Bytes::from(vec![rng.u8(..); rng.usize(..2000)]);
        let put = |lease| Op::Put { key: first.clone(), value: value.clone(), lease };
        let ops = match rng.u8(..8) {
            0 => {
                staged.end(lease);
                continue;
            }
            1 | 2 => vec![Op::Delete(first)],
            3 => vec![put(Some(lease))],
            4 if first != second => vec![put(None), Op::Delete(second)],
            _ => vec![put(None)],
        };
        let expect = if rng.u8(..4) == 0 { vec![Expect::Absent(key(rng))] } else { Vec::new() };
        // A lease that is gone and a conflict are what they are.
        let _ = staged.commit(Transaction { expect, ops });
    }
}

#[test]
fn old_history_goes_with_the_next_write_even_if_it_is_the_last() {
    let limits = Limits { history_age: Duration::from_millis(100), ..Limits::default() };
    let mut state = State::new(limits);
    let at = |state: &mut State, at| write(state, at, |s| s.commit(transaction(put("/a", 1, None)))).unwrap();
    at(&mut state, 1000);
    at(&mut state, 1100);
    assert_eq!(state.compacted(), 0);
    at(&mut state, 1101);
    assert_eq!(state.compacted(), 1);
    write(&mut state, 5000, |_| ());
    assert_eq!((state.compacted(), state.revision()), (3, 3));
    let mut from = 4;
    assert_eq!(state.changes("/", &mut from), Ok(None), "the next revision can be waited for");
}

#[test]
fn a_clock_that_was_set_back_forgets_nothing_early() {
    let limits = Limits { history_age: Duration::from_millis(100), ..Limits::default() };
    let mut state = State::new(limits);
    for at in [1_000_000, 0, 50] {
        write(&mut state, at, |staged| staged.commit(transaction(put("/a", 1, None)))).unwrap();
    }
    assert_eq!(state.compacted(), 0);
}

#[test]
fn a_full_store_takes_what_makes_it_smaller() {
    let mut state = State::new(Limits { bytes: 100, ..Limits::default() });
    commit(&mut state, put("/a", 48, None)).unwrap();
    commit(&mut state, put("/b", 48, None)).unwrap();
    assert_eq!(commit(&mut state, put("/b", 49, None)), Err(StoreError::Full(101)));
    assert_eq!(commit(&mut state, put("/c", 0, None)), Err(StoreError::Full(102)));
    assert_eq!(state.revision(), 2, "a refusal spends no revision");
    commit(&mut state, put("/b", 10, None)).unwrap();
    commit(&mut state, Op::Delete("/a".into())).unwrap();
    commit(&mut state, put("/c", 86, None)).unwrap();
    assert_eq!(state.bytes(), 100);
}

#[test]
fn leases_are_limited_and_their_end_makes_room() {
    let mut state = State::new(Limits { leases: 2, ..Limits::default() });
    let ttl = Duration::from_secs(1);
    let granted: Vec<_> = write(&mut state, 0, |staged| (0..3).map(|_| staged.grant(ttl)).collect());
    assert_eq!(granted, [Ok(LeaseId(1)), Ok(LeaseId(2)), Err(StoreError::Leases)]);
    let granted = write(&mut state, 0, |staged| {
        staged.end(LeaseId(1));
        staged.grant(ttl)
    });
    assert_eq!(granted, Ok(LeaseId(3)), "an id is never used again");
}

#[test]
fn a_lapsed_lease_is_past_saving_until_a_batch_ended_it() {
    let mut state = State::default();
    let lease = write(&mut state, 0, |staged| staged.grant(Duration::from_secs(1))).unwrap();
    commit(&mut state, put("/a", 1, Some(lease))).unwrap();
    let lapses = state.next_lapse().unwrap();
    assert_eq!(state.lapse(lapses - Duration::from_millis(1)), []);
    // Late, but nobody ended it yet.
    assert_eq!(state.keep_alive(lease, lapses + Duration::from_secs(5)), Ok(()));
    let lapses = state.next_lapse().unwrap();
    for _ in 0..2 {
        assert_eq!(state.lapse(lapses), [lease]);
    }
    state.keep_all_alive(lapses);
    assert_eq!(state.keep_alive(lease, lapses), Err(StoreError::LeaseGone(lease)));
    assert_eq!(commit(&mut state, put("/b", 1, Some(lease))), Err(StoreError::LeaseGone(lease)));
    assert!(state.entry("/a").is_some(), "what is not deleted on the disk is there");
    write(&mut state, 0, |staged| staged.end(lease));
    assert_eq!((state.entry("/a"), state.next_lapse()), (None, None));
}

#[test]
fn after_a_time_of_deafness_every_lease_has_its_full_time_again() {
    let mut state = State::default();
    let lease = write(&mut state, 0, |staged| staged.grant(Duration::from_secs(1))).unwrap();
    let later = state.next_lapse().unwrap() + Duration::from_secs(60);
    state.keep_all_alive(later);
    assert_eq!(state.next_lapse(), Some(later + Duration::from_secs(1)));
    assert!(state.lives(lease));
}

#[test]
fn a_batch_sees_its_own_earlier_writes() {
    let mut state = State::default();
    let before = write(&mut state, 0, |staged| {
        let kept = staged.grant(Duration::from_secs(1)).unwrap();
        staged.commit(transaction(put("/kept", 1, Some(kept)))).unwrap();
        kept
    });
    write(&mut state, 0, |staged| {
        let new = staged.grant(Duration::from_secs(1)).unwrap();
        staged.commit(transaction(put("/new", 1, Some(new)))).unwrap();
        staged.commit(transaction(put("/kept", 2, None))).unwrap();
        staged.end(before);
        staged.end(new);
        let late = staged.commit(transaction(put("/late", 1, Some(new))));
        assert_eq!(late, Err(StoreError::LeaseGone(new)));
    });
    let range = state.range("/");
    assert_eq!(range.entries.iter().map(|entry| entry.key.as_str()).collect::<Vec<_>>(), ["/kept"]);
    let mut from = 2;
    let mut told = || state.changes("/new", &mut from).unwrap().unwrap();
    assert!(matches!(&told().events[..], [Event::Put(_)]));
    let deleted = told();
    assert_eq!((deleted.revision, state.revision()), (4, 4));
    assert_eq!(deleted.events, [Event::Deleted("/new".into())]);
}

#[test]
fn what_contradicts_itself_is_not_restored() {
    let mut state = State::default();
    let lease = write(&mut state, 0, |staged| staged.grant(Duration::from_secs(1))).unwrap();
    for key in ["/a", "/b"] {
        commit(&mut state, put(key, 1, Some(lease))).unwrap();
    }
    let refused = |wrong: fn(&mut Kept)| {
        let mut kept = state.kept();
        wrong(&mut kept);
        State::restore(Limits::default(), kept, Instant::now()).unwrap_err()
    };
    assert_eq!(refused(|kept| kept.last_lease = 0), "a lease is newer than the last one granted");
    assert_eq!(refused(|kept| kept.leases.clear()), "an entry has a lease that never was");
    assert_eq!(refused(|kept| kept.revision = 1), "an entry is newer than its store");
    assert_eq!(refused(|kept| drop(kept.history.pop_back())), "revisions are missing from the history");
    let doubled = |kept: &mut Kept| {
        for _ in 0..3 {
            kept.history.push_back(kept.history[0].clone());
        }
    };
    assert_eq!(refused(doubled), "the history is longer than its store is old");
}

proptest! {
    /// Whether writes go one by one or together makes no difference, and what is kept is all there is.
    #[test]
    fn batches_and_restarts_change_nothing(seed: u64, rounds in 1..20_usize) {
        let now = Instant::now();
        let (mut alone, mut together) = (State::default(), State::default());
        let (mut rng, mut same_rng) = (fastrand::Rng::with_seed(seed), fastrand::Rng::with_seed(seed));
        for _ in 0..rounds {
            write(&mut alone, 0, |staged| scribble(staged, &mut rng));
        }
        write(&mut together, 0, |staged| (0..rounds).for_each(|_| scribble(staged, &mut same_rng)));
        prop_assert_eq!(alone.kept(), together.kept());
        prop_assert_eq!(alone.bytes(), alone.entries.values().map(Entry::bytes).sum::<usize>());

        let restored = State::restore(Limits::default(), alone.kept(), now).unwrap();
        prop_assert_eq!(restored.kept(), alone.kept());
        prop_assert_eq!(restored.bytes(), alone.bytes());
        prop_assert_eq!((restored.history_events, restored.history_bytes), (alone.history_events, alone.history_bytes));
        let keys = |state: &State| state.leases.values().map(|lease| lease.keys.clone()).collect::<Vec<_>>();
        prop_assert_eq!(keys(&restored), keys(&alone));
    }
}
