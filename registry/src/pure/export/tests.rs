#![allow(clippy::unwrap_used)]

use proto::limits::SYNC_SELECTORS_MAX;
use proto::sync::event::Kind;

use super::*;
use crate::base::shared_map::SharedMap;
use crate::model::{Algorithm, Contract, Hosts, Policy, Port, Protocol, Retry, Service, Timeout};
use crate::testing::cluster;

fn name(name: &str) -> ServiceName {
    ServiceName::new("shop", name).unwrap()
}

fn clusters(names: &[&str]) -> Grant {
    Grant::Clusters(names.iter().map(|name| cluster(name)).collect())
}

fn declare(declared: &mut Declared, service: &str, number: u16, export: Grant) {
    let ports = [Port { name: "web".into(), number, protocol: Protocol::Http, proxy_header: false }].into();
    let service = Service {
        name: name(service),
        ports,
        endpoints: Vec::new(),
        health_check: None,
        export,
        registration: Hosts::default(),
    };
    declared.services.insert(service.name.clone(), service.into());
}

fn saved() -> Position {
    Position { epoch: 9, revision: 100 }
}

/// A clock that is ahead of what was saved, as clocks are.
const NOW_UNIX_MS: u64 = 1_000;

fn start(saved: Position, declared: &Declared, now_unix_ms: u64) -> Export {
    Export::new(saved, declared, "us-east", now_unix_ms, &mut fastrand::Rng::with_seed(7))
}

fn export(declared: &Declared) -> Export {
    start(saved(), declared, NOW_UNIX_MS)
}

fn watch(position: Position) -> sync::Watch {
    sync::Watch { epoch: position.epoch, revision: position.revision, selectors: Vec::new() }
}

fn feed_of(peer: &str, watch: &sync::Watch, export: &Export) -> Result<Feed, TooManySelectors> {
    Feed::new(cluster(peer), watch, export, &mut fastrand::Rng::with_seed(8))
}

fn feed(peer: &str, position: Position, export: &Export) -> Feed {
    feed_of(peer, &watch(position), export).unwrap()
}

/// All that `feed` has to say, in short.
fn said(feed: &mut Feed, export: &Export) -> Vec<String> {
    let mut said = Vec::new();
    loop {
        let events = feed.next(export, 3);
        if events.is_empty() {
            return said;
        }
        said.extend(events.into_iter().map(|event| match event.kind.unwrap() {
            Kind::SnapshotBegin(_) => "begin".into(),
            Kind::SnapshotEnd(_) => "end".into(),
            Kind::Upsert(record) => format!("+{}", record.name),
            Kind::Removed(removed) => format!("-{}", removed.name),
            Kind::Current(_) => "current".into(),
        }));
    }
}

#[test]
fn the_first_watch_gets_a_snapshot_of_what_it_is_granted() {
    let mut declared = Declared::default();
    declare(&mut declared, "all", 80, Grant::Everyone);
    declare(&mut declared, "none", 80, Grant::Nobody);
    declare(&mut declared, "other", 80, clusters(&["north"]));
    declare(&mut declared, "west", 80, clusters(&["west"]));
    let export = export(&declared);
    let mut feed = feed("west", Position::default(), &export);
    assert_eq!(said(&mut feed, &export), ["begin", "+all", "+west", "end"]);
    assert!(said(&mut feed, &export).is_empty());
    assert_eq!(export.granted_to(&cluster("west")).count(), 2);
}

#[test]
fn a_change_is_one_delta_and_unchanged_declarations_are_none() {
    let mut declared = Declared::default();
    declare(&mut declared, "a", 80, Grant::Everyone);
    declare(&mut declared, "b", 80, Grant::Everyone);
    let mut export = export(&declared);
    let mut feed = feed("west", Position::default(), &export);
    said(&mut feed, &export);
    assert!(!export.update(&declared, "us-east"));
    declare(&mut declared, "b", 81, Grant::Everyone);
    assert!(export.update(&declared, "us-east"));
    assert_eq!(said(&mut feed, &export), ["+b", "current"]);
}

#[test]
fn many_changes_of_one_service_are_told_once() {
    let mut declared = Declared::default();
    declare(&mut declared, "a", 80, Grant::Everyone);
    let mut export = export(&declared);
    let mut feed = feed("west", Position::default(), &export);
    said(&mut feed, &export);
    for number in 81..99 {
        declare(&mut declared, "a", number, Grant::Everyone);
        export.update(&declared, "us-east");
    }
    assert_eq!(said(&mut feed, &export), ["+a", "current"]);
    assert_eq!((export.services.len(), export.by_revision.len()), (1, 1));
}

#[test]
fn revoking_a_grant_is_a_deletion_for_that_peer_alone() {
    let mut declared = Declared::default();
    declare(&mut declared, "a", 80, clusters(&["west", "south"]));
    let mut export = export(&declared);
    let mut feeds = ["west", "south", "north"].map(|peer| feed(peer, Position::default(), &export));
    for feed in &mut feeds {
        said(feed, &export);
    }
    declare(&mut declared, "a", 80, clusters(&["south"]));
    export.update(&declared, "us-east");
    let [west, south, north] = feeds.each_mut().map(|feed| said(feed, &export));
    assert_eq!(west, ["-a", "current"]);
    assert_eq!(south, ["+a", "current"]);
    assert_eq!(north, ["current"], "a peer that was never granted a service does not learn of it");
}

#[test]
fn a_deletion_is_told_to_whoever_resumes_and_was_granted_it() {
    let mut declared = Declared::default();
    declare(&mut declared, "a", 80, clusters(&["west"]));
    declare(&mut declared, "b", 80, Grant::Everyone);
    let mut export = export(&declared);
    let before = export.position();
    declared.services = SharedMap::default();
    export.update(&declared, "us-east");
    assert_eq!(said(&mut feed("west", before, &export), &export), ["-a", "-b", "current"]);
    assert_eq!(said(&mut feed("north", before, &export), &export), ["-b", "current"]);
    assert_eq!(export.granted_to(&cluster("west")).count(), 0);
    declare(&mut declared, "a", 80, clusters(&["west"]));
    export.update(&declared, "us-east");
    assert_eq!(said(&mut feed("west", before, &export), &export), ["-b", "+a", "current"]);
}

#[test]
fn resuming_where_nothing_changed_is_told_so() {
    let export = export(&Declared::default());
    let mut feed = feed("west", export.position(), &export);
    assert_eq!(feed.heartbeat(&export), None, "the position is not confirmed yet");
    assert_eq!(said(&mut feed, &export), ["current"]);
    let Position { epoch, revision } = export.position();
    let current = Kind::Current(sync::Current { epoch, revision });
    assert_eq!(feed.heartbeat(&export).unwrap().kind, Some(current));
}

#[test]
fn no_heartbeat_claims_what_was_not_sent() {
    let mut declared = Declared::default();
    let mut export = export(&declared);
    let mut feed = feed("west", Position::default(), &export);
    said(&mut feed, &export);
    declare(&mut declared, "a", 80, Grant::Everyone);
    export.update(&declared, "us-east");
    assert_eq!(feed.heartbeat(&export), None);
}

#[test]
fn every_start_begins_an_epoch_and_answers_with_a_snapshot_whatever_the_clock_says() {
    let mut declared = Declared::default();
    declare(&mut declared, "a", 80, Grant::Everyone);
    let before = export(&declared).position();
    for now_unix_ms in [0, before.revision / 1_000, 2 * NOW_UNIX_MS] {
        let mut rng = fastrand::Rng::with_seed(now_unix_ms);
        let again = Export::new(before, &declared, "us-east", now_unix_ms, &mut rng);
        assert_ne!(again.position().epoch, before.epoch);
        assert!(again.position().revision > before.revision, "{:?}", again.position());
        assert_eq!(said(&mut feed("west", before, &again), &again), ["begin", "+a", "end"]);
        let empty = Export::new(before, &Declared::default(), "us-east", now_unix_ms, &mut rng);
        assert_eq!(said(&mut feed("west", before, &empty), &empty), ["begin", "end"]);
    }
}

#[test]
fn a_restored_backup_never_counts_a_revision_twice() {
    let run = |now_unix_ms, changes: u16, service: &str| {
        let mut declared = Declared::default();
        let mut export = start(saved(), &declared, now_unix_ms);
        for number in 1..=changes {
            declare(&mut declared, service, number, Grant::Everyone);
            export.update(&declared, "us-east");
        }
        export
    };
    let told = run(1_000, 5, "a").position();
    // The second run makes more changes than the first, so that counting alone would overtake what was told.
    let restored = run(1_001, 50, "b");
    assert_eq!(said(&mut feed("west", told, &restored), &restored), ["begin", "+b", "end"]);
}

#[test]
fn what_a_watch_claims_is_believed_for_its_own_stream_alone() {
    let mut declared = Declared::default();
    declare(&mut declared, "a", 80, Grant::Everyone);
    let mut export = export(&declared);
    let mut other = feed("north", Position::default(), &export);
    said(&mut other, &export);
    let Position { epoch, revision } = export.position();
    assert!(!other.claims_more(&export));
    for claimed in [revision + 1, 1 << 63, u64::MAX] {
        let claim = Position { epoch, revision: claimed };
        let mut liar = feed("west", claim, &export);
        assert!(liar.claims_more(&export));
        let Some(Kind::SnapshotBegin(begin)) = liar.next(&export, 1).remove(0).kind else { panic!() };
        assert_ne!(begin.epoch, epoch, "its mirror would take it for a snapshot that it knows");
        assert_eq!(export.position(), Position { epoch, revision });
        assert!(said(&mut other, &export).is_empty(), "nobody else hears of it");
    }
    // It goes on as any other, and so does the next stream, which resumes in the epoch that it was given.
    let mut liar = feed("west", Position { epoch, revision: u64::MAX }, &export);
    assert_eq!(said(&mut liar, &export), ["begin", "+a", "end"]);
    declare(&mut declared, "b", 80, Grant::Everyone);
    export.update(&declared, "us-east");
    assert_eq!(said(&mut liar, &export), ["+b", "current"]);
    let heard = liar.heartbeat(&export).unwrap().kind.unwrap();
    let Kind::Current(sync::Current { epoch, revision }) = heard else { panic!("{heard:?}") };
    let mut again = feed("west", Position { epoch, revision }, &export);
    assert_eq!(said(&mut again, &export), ["begin", "+a", "+b", "end"]);
}

#[test]
fn a_change_during_a_snapshot_follows_as_a_delta() {
    let mut declared = Declared::default();
    for service in ["a", "b", "c", "d"] {
        declare(&mut declared, service, 80, Grant::Everyone);
    }
    let mut export = export(&declared);
    let mut feed = feed("west", Position::default(), &export);
    assert_eq!(feed.next(&export, 3).len(), 3);
    declare(&mut declared, "a", 81, Grant::Everyone);
    declared.services.remove(&name("b"));
    declared.services.remove(&name("d"));
    export.update(&declared, "us-east");
    assert_eq!(said(&mut feed, &export), ["+c", "end", "-b", "-d", "+a", "current"]);
}

#[test]
fn selectors_narrow_a_watch_and_too_many_are_refused() {
    let mut declared = Declared::default();
    declare(&mut declared, "a", 80, Grant::Everyone);
    let export = export(&declared);
    let select = |namespace: &str| sync::Selector { namespace: namespace.into() };
    for (selectors, count) in [(vec![select("bank")], 2), (vec![select("shop")], 3), (vec![select("")], 3)] {
        let mut feed =
            feed_of("west", &sync::Watch { selectors, ..watch(Position::default()) }, &export).unwrap();
        assert_eq!(said(&mut feed, &export).len(), count);
    }
    let selectors = (0..=SYNC_SELECTORS_MAX).map(|i| select(&i.to_string())).collect();
    let refused = feed_of("west", &sync::Watch { selectors, ..watch(Position::default()) }, &export);
    assert_eq!(refused.unwrap_err(), TooManySelectors(SYNC_SELECTORS_MAX + 1));
}

#[test]
fn past_the_limit_of_deletions_older_resumes_get_a_snapshot() {
    let mut declared = Declared::default();
    for service in 0..=DELETIONS_MAX {
        declare(&mut declared, &format!("s{service}"), 80, Grant::Everyone);
    }
    let mut export = export(&declared);
    let before = export.position();
    declared.services = SharedMap::default();
    export.update(&declared, "us-east");
    assert!(export.services.len() <= DELETIONS_MAX);
    assert_eq!(export.services.len(), export.deleted);
    assert_eq!(said(&mut feed("west", before, &export), &export), ["begin", "end"]);
    assert_eq!(said(&mut feed("west", export.position(), &export), &export), ["current"]);
}

#[test]
fn the_contract_and_the_region_travel_and_their_change_is_a_change() {
    let mut declared = Declared::default();
    declare(&mut declared, "a", 80, Grant::Everyone);
    let mut export = export(&declared);
    assert!(export.update(&declared, "eu-west"));
    let contract = Contract { generation: 1, ..Contract::default() };
    let policy = Policy {
        name: "cart".into(),
        service: name("a"),
        placement: Some(contract.clone()),
        balance: Algorithm::P2cEwma,
        retry: Retry::default(),
        timeout: Timeout::default(),
    };
    declared.policies.insert(name("a"), policy.into());
    assert!(export.update(&declared, "eu-west"));
    let import = export.granted_to(&cluster("west")).next().unwrap().clone();
    assert_eq!((&*import.region, import.contract), ("eu-west", Some(Box::new(contract))));
}
