//! What a peer claims to know of our exports.

use std::time::{Duration, Instant};

use e2e::hostile::stage::{Setup, Stage};
use e2e::hostile::{Carrier, Hostile};
use e2e::manifest::object;
use e2e::peer::hello;
use e2e::wait::SOON;
use proto::control::Hello;
use proto::limits::{SYNC_STREAM_EVERY, SYNC_STREAMS_BURST};
use proto::sync::{Event, SnapshotBegin, Watch, event};

/// Longer than a change needs to be told, shorter than a sign of life.
const QUIET: Duration = Duration::from_secs(2);

fn begin(events: &[Event]) -> Option<SnapshotBegin> {
    events.iter().find_map(|event| match &event.kind {
        Some(event::Kind::SnapshotBegin(begin)) => Some(*begin),
        _ => None,
    })
}

#[test]
fn a_claim_of_one_peer_is_its_own_affair() {
    let south = object("Link", "south", "addresses: []");
    let mut stage = Stage::set(Setup { objects: vec![south], ..Setup::default() });
    // Whoever is not hostile, and hears all that it is told.
    let dir = stage.mesh.identity("south", "gw-1", &["west"]);
    let of_south = Hello { region: "us-south".into(), ..hello("south", [8; 16]) };
    let target = ("west", stage.west.site.tunnel);
    let south = Hostile::dial(&dir, target, &of_south, Carrier::Tcp).unwrap();
    let first = south.watch(&Watch::default(), 3, SOON).unwrap();
    let known = begin(&first).unwrap();
    let resume = Watch { epoch: known.epoch, revision: known.revision, ..Watch::default() };
    let following = resume.clone();
    let listening = std::thread::spawn(move || {
        // One stream over all of it: what is new for it, and signs of life.
        let heard = south.watch(&following, usize::MAX, Duration::from_secs(12)).unwrap();
        (south, heard)
    });

    let east = stage.east(Carrier::Quic);
    let started = Instant::now();
    let mut told = 0;
    let mut epochs = std::collections::BTreeSet::new();
    while started.elapsed() < Duration::from_secs(9) {
        let claim = Watch { epoch: known.epoch, revision: 1 << 63, ..Watch::default() };
        let Ok(events) = east.watch(&claim, 3, QUIET) else { continue };
        if let Some(begin) = begin(&events) {
            told += 1;
            assert_ne!(begin.epoch, known.epoch);
            epochs.insert(begin.epoch);
        }
    }
    let turns = SYNC_STREAMS_BURST as usize
        + (started.elapsed().as_millis() / SYNC_STREAM_EVERY.as_millis()) as usize
        + 1;
    assert!(told > 1 && told <= turns, "{told} snapshots in {turns} turns");
    assert_eq!(epochs.len(), told, "each is another history");
    stage.wait_shown("OverBudget", "claims to know more of our exports");
    let (south, heard) = listening.join().unwrap();
    assert!(
        heard.iter().all(|event| matches!(event.kind, Some(event::Kind::Current(_)))),
        "south was told {heard:?}"
    );
    // And it still resumes where it was.
    let again = south.watch(&resume, 1, SOON).unwrap();
    assert!(begin(&again).is_none(), "{again:?}");
    stage.assert_unharmed(192);
}

#[test]
fn streams_that_come_and_go_are_answered_at_a_pace() {
    let mut stage = Stage::plain();
    let east = stage.east(Carrier::Tcp);
    let started = Instant::now();
    let mut answered = 0;
    while started.elapsed() < Duration::from_secs(6) {
        answered += usize::from(
            east.watch(&Watch::default(), 1, Duration::from_millis(1)).is_ok_and(|e| !e.is_empty()),
        );
    }
    let turns = SYNC_STREAMS_BURST as usize
        + (started.elapsed().as_millis() / SYNC_STREAM_EVERY.as_millis()) as usize
        + 1;
    assert!(answered <= turns, "{answered} in {turns} turns");
    stage.wait_shown("OverBudget", "asks for our exports more often");
    stage.assert_unharmed(192);
}
