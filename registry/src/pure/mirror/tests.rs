#![allow(clippy::unwrap_used)]

mod budget;

use super::*;
use crate::model::{ClusterName, EXPIRE_AFTER, ImportRule, Placement, Port, Protocol, record};
use crate::testing;

const NOW: u64 = 1_700_000_000_000;
const HOLD_MS: u64 = HOLD.as_millis() as u64;
const EPOCH: u64 = 9;

fn link(namespaces: &[Option<&str>]) -> Link {
    let rule = |namespace: &Option<&str>| ImportRule {
        namespace: namespace.map(Into::into),
        union: true,
        placement: Placement::Accept,
    };
    Link { import: namespaces.iter().map(rule).collect(), ..testing::link("east") }
}

fn fresh() -> Mirror {
    Mirror::new(&link(&[None]), Arc::default())
}

fn event(kind: Kind) -> sync::Event {
    sync::Event { kind: Some(kind) }
}

fn begin(epoch: u64, revision: u64) -> sync::Event {
    event(Kind::SnapshotBegin(sync::SnapshotBegin { epoch, revision }))
}

fn end(revision: u64) -> sync::Event {
    event(Kind::SnapshotEnd(sync::SnapshotEnd { revision }))
}

fn current(epoch: u64, revision: u64) -> sync::Event {
    event(Kind::Current(sync::Current { epoch, revision }))
}

fn record(name: &str, epoch: u64, revision: u64) -> sync::Record {
    let import = Import {
        name: ServiceName::new("shop", name).unwrap(),
        ports: [Port { name: "web".into(), number: 80, protocol: Protocol::Http, proxy_header: false }]
            .into(),
        region: "us-east".into(),
        contract: None,
        revision,
    };
    record::encode(&import, epoch)
}

fn upsert(name: &str, revision: u64) -> sync::Event {
    event(Kind::Upsert(record(name, EPOCH, revision)))
}

fn removed(name: &str, revision: u64) -> sync::Event {
    event(Kind::Removed(sync::Removed { namespace: "shop".into(), name: name.into(), revision }))
}

/// Applies all, in short: what changed.
fn apply(mirror: &mut Mirror, events: &[sync::Event], now: u64) -> Vec<String> {
    let changes = events.iter().flat_map(|event| mirror.apply(event, now).unwrap());
    changes.map(|write| short(&write)).collect()
}

fn short(write: &Changed) -> String {
    match write {
        Changed::Put(import) => format!("+{}", import.name.name),
        Changed::Delete(name) => format!("-{}", name.name),
    }
}

fn names(mirror: &Mirror) -> Vec<&str> {
    mirror.imports().services.keys().map(|name| &*name.name).collect()
}

/// A mirror that has a snapshot of these services at revision 10.
fn synced(services: &[&str]) -> Mirror {
    let mut mirror = fresh();
    mirror.watch();
    snapshot(&mut mirror, 10, services, NOW);
    mirror
}

fn snapshot(mirror: &mut Mirror, revision: u64, services: &[&str], now: u64) -> Vec<String> {
    let mut events = vec![begin(EPOCH, revision)];
    events.extend(services.iter().map(|name| upsert(name, revision)));
    events.push(end(revision));
    apply(mirror, &events, now)
}

fn position(watch: &sync::Watch) -> (u64, u64) {
    (watch.epoch, watch.revision)
}

#[test]
fn a_snapshot_and_its_deltas_are_mirrored() {
    let mut mirror = fresh();
    assert_eq!(position(&mirror.watch()), (0, 0));
    assert_eq!(snapshot(&mut mirror, 10, &["a", "b"], NOW), ["+a", "+b"]);
    let deltas = [upsert("c", 11), removed("a", 12), current(EPOCH, 12)];
    assert_eq!(apply(&mut mirror, &deltas, NOW + 5), ["+c", "-a"]);
    assert_eq!(names(&mirror), ["b", "c"]);
    let PeerImports { epoch, revision, synced_unix_ms, .. } = **mirror.imports();
    assert_eq!((epoch, revision, synced_unix_ms), (EPOCH, 12, NOW + 5));
    assert_eq!(position(&mirror.watch()), (EPOCH, 12));
}

#[test]
fn repeats_and_older_news_change_nothing() {
    let mut mirror = synced(&["a", "b"]);
    apply(&mut mirror, &[upsert("a", 15), removed("b", 14)], NOW);
    let before = Arc::clone(mirror.imports());
    let replays = [
        upsert("a", 15),
        upsert("a", 12),
        removed("a", 13),
        upsert("b", 13),
        removed("b", 14),
        begin(EPOCH, 10),
        end(10),
    ];
    assert!(apply(&mut mirror, &replays, NOW).is_empty());
    assert_eq!(*mirror.imports(), before);
    apply(&mut mirror, &[current(EPOCH, 15)], NOW);
    assert!(apply(&mut mirror, &replays, NOW).is_empty(), "nor once the deletion is history");
    assert_eq!(apply(&mut mirror, &[upsert("b", 16)], NOW), ["+b"]);
}

#[test]
fn a_snapshot_sweeps_what_it_does_not_name_and_overrules_what_was_known() {
    let mut mirror = synced(&["a", "b"]);
    mirror.lost();
    mirror.watch();
    // A new history, whose revisions say nothing against those of the old one.
    let record = event(Kind::Upsert(record("a", EPOCH + 1, 2)));
    assert_eq!(apply(&mut mirror, &[begin(EPOCH + 1, 3), record, end(3)], NOW), ["+a", "-b"]);
    assert_eq!(position(&mirror.watch()), (EPOCH + 1, 3));
}

#[test]
fn a_cut_snapshot_sweeps_nothing_and_is_asked_for_again() {
    let mut mirror = synced(&["a", "b"]);
    apply(&mut mirror, &[begin(EPOCH, 20), upsert("a", 20)], NOW);
    mirror.lost();
    assert_eq!(names(&mirror), ["a", "b"]);
    assert_eq!(position(&mirror.watch()), (0, 0));
    assert_eq!(snapshot(&mut mirror, 21, &["a"], NOW), ["+a", "-b"]);
}

#[test]
fn losing_the_link_forgets_nothing_until_the_records_expire() {
    let mut mirror = synced(&["a"]);
    mirror.lost();
    let expires = NOW + EXPIRE_AFTER.as_millis() as u64;
    assert!(mirror.tick(expires - 1).is_empty());
    assert_eq!(names(&mirror), ["a"]);
    let changes = mirror.tick(expires);
    assert_eq!(changes.iter().map(short).collect::<Vec<_>>(), ["-a"]);
    assert_eq!(position(&mirror.watch()), (0, 0), "what expired is asked for again");
}

#[test]
fn a_sign_of_life_keeps_records_from_expiring() {
    let mut mirror = synced(&["a"]);
    let later = NOW + EXPIRE_AFTER.as_millis() as u64 - 1;
    apply(&mut mirror, &[current(EPOCH, 10)], later);
    assert!(mirror.tick(later + 1000).is_empty());
}

#[test]
fn five_of_ten_absences_are_believed_and_six_of_ten_are_held() {
    let all = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j"];
    let mut mirror = synced(&all);
    assert_eq!(snapshot(&mut mirror, 20, &all[..5], NOW).len(), 5 + 5);
    assert_eq!(names(&mirror), all[..5]);

    let mut mirror = synced(&all);
    assert_eq!(snapshot(&mut mirror, 20, &all[..4], NOW).len(), 4);
    assert_eq!(names(&mirror), all);
    assert_eq!(mirror.held().count(), 6);
}

#[test]
fn of_many_more_than_half_must_be_missing() {
    let all: Vec<String> = (0..20).map(|i| format!("s{i}")).collect();
    let all: Vec<&str> = all.iter().map(String::as_str).collect();
    let mut mirror = synced(&all);
    snapshot(&mut mirror, 20, &all[..10], NOW);
    assert_eq!(mirror.held().count(), 0);
    let mut mirror = synced(&all);
    snapshot(&mut mirror, 20, &all[..9], NOW);
    assert_eq!(mirror.held().count(), 11);
}

#[test]
fn held_services_go_after_the_hold_and_not_before() {
    let mut mirror = synced(&["a", "b", "c", "d", "e", "f"]);
    snapshot(&mut mirror, 20, &[], NOW);
    assert!(mirror.tick(NOW + HOLD_MS - 1).is_empty());
    assert_eq!(mirror.tick(NOW + HOLD_MS).len(), 6);
    assert_eq!(mirror.held().count(), 0);
    assert_eq!(position(&mirror.watch()), (EPOCH, 20));
}

#[test]
fn a_held_service_stays_when_the_peer_names_it_again_and_goes_when_it_is_deleted() {
    let mut mirror = synced(&["a", "b", "c", "d", "e", "f"]);
    snapshot(&mut mirror, 20, &[], NOW);
    assert_eq!(apply(&mut mirror, &[upsert("a", 21), removed("b", 22)], NOW + 1), ["+a", "-b"]);
    assert_eq!(mirror.tick(NOW + HOLD_MS).len(), 4);
    assert_eq!(names(&mirror), ["a"]);
}

#[test]
fn while_the_link_is_away_nobody_can_decide_over_held_services() {
    let mut mirror = synced(&["a", "b", "c", "d", "e", "f"]);
    snapshot(&mut mirror, 20, &[], NOW);
    mirror.lost();
    assert!(mirror.tick(NOW + 10 * HOLD_MS).is_empty());
    assert_eq!(position(&mirror.watch()), (0, 0), "they are asked for again");
    assert_eq!(snapshot(&mut mirror, 21, &["a"], NOW + 10 * HOLD_MS), ["+a", "-b", "-c", "-d", "-e", "-f"]);
}

#[test]
fn reconnecting_does_not_lengthen_the_hold() {
    let mut mirror = synced(&["a", "b", "c", "d", "e", "f", "g"]);
    snapshot(&mut mirror, 20, &["a"], NOW);
    mirror.lost();
    mirror.watch();
    snapshot(&mut mirror, 21, &["a"], NOW + HOLD_MS / 2);
    assert_eq!(mirror.tick(NOW + HOLD_MS).len(), 6);
}

#[test]
fn explicit_deletions_are_believed_however_many() {
    let mut mirror = synced(&["a", "b", "c", "d", "e", "f"]);
    let deletions: Vec<_> = ["a", "b", "c", "d", "e", "f"].iter().map(|name| removed(name, 11)).collect();
    assert_eq!(apply(&mut mirror, &deletions, NOW).len(), 6);
}

#[test]
fn a_record_that_cannot_be_used_is_skipped_and_counted_and_what_was_known_stays() {
    let mut mirror = synced(&["a", "b"]);
    let mut bad = record("a", EPOCH, 20);
    bad.ports.clear();
    let nameless = sync::Record { name: String::new(), ..bad.clone() };
    let bad = [bad, nameless].map(|record| event(Kind::Upsert(record)));
    apply(&mut mirror, &[begin(EPOCH, 20), bad[0].clone(), bad[1].clone(), upsert("c", 20), end(20)], NOW);
    assert_eq!(names(&mirror), ["a", "c"], "a is there, though unreadable; b vanished");
    assert_eq!(mirror.skipped(), 2);
    assert_eq!(position(&mirror.watch()), (0, 0), "what was skipped is not taken for known");
    snapshot(&mut mirror, 21, &["a", "c"], NOW);
    assert_eq!(position(&mirror.watch()), (EPOCH, 21));
}

#[test]
fn contracts_of_a_peer_that_is_not_heard_count_for_an_hour() {
    const KEPT: u64 = limits::CONTRACT_KEPT.as_millis() as u64;
    let mut mirror = synced(&["a"]);
    mirror.lost();
    let notes = mirror.notes();
    mirror.tick(NOW + KEPT - 1);
    assert_eq!((mirror.imports().contracts_lapsed, mirror.notes()), (false, notes));
    mirror.tick(NOW + KEPT);
    assert!(mirror.imports().contracts_lapsed && mirror.notes() > notes);
    assert_eq!(names(&mirror), ["a"], "that it serves is not forgotten");
    let notes = mirror.notes();
    mirror.watch();
    apply(&mut mirror, &[current(EPOCH, 10)], NOW + KEPT + 1);
    assert!(!mirror.imports().contracts_lapsed && mirror.notes() > notes);
    // One that was kept over a restart is as old as it is.
    let mut again = Mirror::new(&link(&[None]), mirror.imports().clone());
    again.tick(NOW + 2 * KEPT + 1);
    assert!(again.imports().contracts_lapsed);
}

#[test]
fn only_selected_namespaces_are_asked_for_and_kept() {
    let mut mirror = Mirror::new(&link(&[Some("bank"), Some("shop")]), Arc::default());
    let selected: Vec<_> = mirror.watch().selectors.into_iter().map(|selector| selector.namespace).collect();
    assert_eq!(selected, ["bank", "shop"]);
    snapshot(&mut mirror, 10, &["a"], NOW);
    assert!(mirror.select(&link(&[Some("shop"), Some("bank")])).is_empty());
    assert!(mirror.is_watching(), "the same selection in another order");
    let changes = mirror.select(&link(&[Some("bank")]));
    assert_eq!(changes.iter().map(short).collect::<Vec<_>>(), ["-a"]);
    assert!(!mirror.is_watching());
    assert_eq!(position(&mirror.watch()), (0, 0));
    assert!(snapshot(&mut mirror, 20, &["a"], NOW).is_empty(), "an exporter that sends more is not obeyed");
    assert!(mirror.select(&link(&[Some("bank"), None])).is_empty());
    assert!(mirror.watch().selectors.is_empty());
}

#[test]
fn a_link_that_imports_nothing_asks_for_nothing() {
    let mut mirror = Mirror::new(&link(&[]), Arc::clone(synced(&["a"]).imports()));
    assert!(names(&mirror).is_empty());
    let watch = mirror.watch();
    assert_eq!(watch.selectors.len(), 1, "none would be all");
    assert!(ServiceName::new(&watch.selectors[0].namespace, "a").is_err());
}

#[test]
fn what_was_kept_is_served_at_once_and_a_snapshot_brings_it_up_to_date() {
    let kept = Arc::clone(synced(&["a", "b"]).imports());
    let mut mirror = Mirror::new(&link(&[None]), Arc::clone(&kept));
    assert_eq!(*mirror.imports(), kept);
    assert_eq!(position(&mirror.watch()), (0, 0));
    // At the revision already known: an exporter that was set back and moved on.
    assert_eq!(snapshot(&mut mirror, 5, &["b", "c"], NOW), ["+b", "+c", "-a"]);
}

#[test]
fn a_stream_that_makes_no_sense_is_a_desync() {
    let event = upsert("a", 1);
    assert_eq!(fresh().apply(&event, NOW), Err(Desync::NotWatching));
    let mut mirror = fresh();
    mirror.watch();
    for event in [event, removed("a", 1), current(EPOCH, 1)] {
        assert_eq!(mirror.apply(&event, NOW), Err(Desync::NoSnapshot));
    }
    assert_eq!(mirror.apply(&begin(0, 1), NOW), Err(Desync::ZeroEpoch));
    assert_eq!(mirror.apply(&end(5), NOW), Err(Desync::EndWithoutBegin(5)));
    snapshot(&mut mirror, 10, &["a"], NOW);
    assert_eq!(mirror.apply(&current(8, 11), NOW), Err(Desync::OtherEpoch { expected: EPOCH, got: 8 }));
    assert_eq!(mirror.apply(&end(11), NOW), Err(Desync::EndWithoutBegin(11)));
    assert_eq!(names(&mirror), ["a"]);
}

#[test]
fn an_event_of_a_later_version_is_skipped() {
    let mut mirror = synced(&["a"]);
    assert_eq!(mirror.apply(&sync::Event { kind: None }, NOW), Ok(Vec::new()));
}

#[test]
fn what_stands_in_the_store_is_followed_until_our_own_stream_speaks() {
    let mut mirror = synced(&["a", "b"]);
    assert!(!mirror.follow(stored(NOW + 9, &["c"])), "its own stream is open");
    mirror.lost();
    assert!(!mirror.follow(stored(NOW - 1, &["c"])), "older than what is known");
    assert_eq!(names(&mirror), ["a", "b"]);
    assert!(mirror.follow(stored(NOW + 9, &["b", "c"])));
    assert_eq!((names(&mirror), mirror.imports().synced_unix_ms), (vec!["b", "c"], NOW + 9));
    assert!(!mirror.follow(stored(NOW + 10, &["b", "c"])), "nothing new but its age");

    // A stream that was opened and has said nothing yet changes nothing; its first word does.
    assert_eq!(mirror.watch().epoch, 0, "its place in the history is not known");
    assert!(mirror.follow(stored(NOW + 11, &["c"])));
    snapshot(&mut mirror, 20, &["d"], NOW + 20);
    assert!(!mirror.follow(stored(NOW + 30, &["c"])));
    assert_eq!(names(&mirror), ["d"]);
}

/// What the store holds, as another gateway of ours wrote it.
fn stored(synced_unix_ms: u64, names: &[&str]) -> PeerImports {
    let imports = names.iter().map(|name| record::decode(&record(name, 0, 0)).unwrap());
    let services = imports.map(|import| (import.name.clone(), Arc::new(import))).collect();
    PeerImports { synced_unix_ms, services, ..PeerImports::default() }
}

#[test]
fn part_of_a_first_snapshot_never_passes_for_all_of_it() {
    let mut mirror = fresh();
    mirror.watch();
    apply(&mut mirror, &[begin(EPOCH, 10), upsert("a", 1)], NOW);
    mirror.lost();
    assert!(mirror.is_filling(), "the link is lost, and the rest has not come");
    // As little after a restart.
    let mut mirror = Mirror::new(&link(&[None]), Arc::clone(mirror.imports()));
    assert!(mirror.is_filling());
    assert!(mirror.follow(stored(1, &["a", "b"])), "however long ago all was known");
    assert_eq!((names(&mirror), mirror.is_filling()), (vec!["a", "b"], false));
}

#[test]
fn part_of_a_later_snapshot_says_nothing_against_what_others_heard_since() {
    let mut cut = synced(&["a", "b"]);
    cut.lost();
    cut.watch();
    apply(&mut cut, &[begin(EPOCH, 20), upsert("a", 20)], NOW + 9);
    cut.lost();
    cut.watch();
    apply(&mut cut, &[begin(EPOCH, 21)], NOW + 10);
    cut.lost();
    assert!(cut.is_filling());
    let mut mirror = cut.clone();
    assert!(!mirror.follow(stored(NOW - 1, &["c"])), "older than when all was known");
    assert!(mirror.follow(stored(NOW + 1, &["a", "b", "c"])));
    assert_eq!((names(&mirror), mirror.is_filling()), (vec!["a", "b", "c"], false));
    let mut mirror = cut.clone();
    mirror.follow(stored(NOW, &["a", "b"]));
    assert!(!mirror.is_filling(), "the same, and that is all of it");
    let mut mirror = cut.clone();
    mirror.watch();
    snapshot(&mut mirror, 22, &["a"], NOW + 11);
    assert!(!mirror.is_filling());
    assert_eq!(cut.tick(NOW + 10 + EXPIRE_AFTER.as_millis() as u64).len(), 2);
    assert!(!cut.is_filling(), "what expired is gone for certain");
}

#[test]
fn a_link_may_forget_earlier_and_what_is_followed_a_little_later() {
    let short = Link { expire_after: Duration::from_secs(2), ..link(&[None]) };
    let kept = |mirror: &Mirror| Arc::clone(mirror.imports());
    let mut mirror = Mirror::new(&short, kept(&synced(&["a"])));
    assert!(mirror.tick(NOW + 1_999).is_empty());
    let mut followed = mirror.clone();
    assert_eq!(mirror.tick(NOW + 2_000).len(), 1);
    assert!(!followed.follow((*kept(&followed)).clone()));
    assert!(followed.tick(NOW + 2_000).is_empty());
    assert_eq!(followed.tick(NOW + 2_000 + 2 * STAMP_MS).len(), 1);
}

#[test]
fn a_snapshot_under_way_is_seen() {
    let mut mirror = fresh();
    mirror.watch();
    assert!(!mirror.is_filling());
    apply(&mut mirror, &[begin(EPOCH, 10), upsert("a", 1)], NOW);
    assert!(mirror.is_filling());
    apply(&mut mirror, &[end(10)], NOW);
    assert!(!mirror.is_filling());
}
