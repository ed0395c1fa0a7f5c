//! What a peer may cost.

use super::*;

#[test]
fn a_peer_may_not_make_us_keep_more_than_the_limit() {
    let mut mirror = fresh();
    (mirror.services_max, mirror.budget) = (2, Budget::new(2));
    mirror.watch();
    snapshot(&mut mirror, 10, &["a", "b", "c"], NOW);
    assert_eq!(names(&mirror), ["a", "b"]);
    assert_eq!(mirror.skipped(), 1);
    assert_eq!(mirror.left_out().example().unwrap().0, "shop/c");
    assert_eq!(apply(&mut mirror, &[removed("a", 11), upsert("c", 12)], NOW), ["-a", "+c"]);
    let flood: Vec<_> = (0..9).map(|i| removed(&format!("x{i}"), 20)).collect();
    apply(&mut mirror, &flood, NOW);
    assert!(mirror.gone.len() <= 2);
    assert!(mirror.left_out().is_empty());
}

/// A record whose contract has so many members of this weight, on a ring of its own.
fn ringed(name: &str, members: usize, weight: u32, seed: u64) -> sync::Record {
    let member = |n| crate::model::Member {
        cluster: ClusterName::new(&format!("c{n}")).unwrap(),
        region: "r".into(),
        weight,
    };
    let members = Some((0..members).map(member).collect());
    let contract = crate::model::Contract { generation: 1, seed, members, ..Default::default() };
    let plain = record(name, EPOCH, 10);
    sync::Record { contract: Some(record::encode_contract(&contract)), ..plain }
}

#[test]
fn rings_that_cost_too_much_are_left_out_whether_they_are_told_saved_or_stored() {
    let mut mirror = fresh();
    mirror.watch();
    mirror.apply(&begin(EPOCH, 10), NOW).unwrap();
    mirror.apply(&upsert("good", 10), NOW).unwrap();
    // Each alone is more than one contract may ask for.
    for seed in 0..6 {
        let bomb = ringed(&format!("bomb{seed}"), 1024, 10_000, seed);
        assert!(mirror.apply(&event(Kind::Upsert(bomb)), NOW).unwrap().is_empty());
    }
    // These are more together than one peer's may.
    for seed in 0..100 {
        let large = ringed(&format!("large{seed:03}"), 16, 10_000, seed);
        mirror.apply(&event(Kind::Upsert(large)), NOW).unwrap();
    }
    mirror.apply(&end(10), NOW).unwrap();
    let taken = limits::PEER_POINTS_MAX / 256_000;
    assert_eq!(mirror.imports().services.len() as u64, 1 + taken);
    assert_eq!(mirror.left_out().len() as u64, 6 + 100 - taken);
    assert_eq!(mirror.skipped(), mirror.left_out().len() as u64);
    let why = mirror.left_out().example().unwrap();
    assert_eq!((&*why.0, why.1.to_string().contains("16384000 points")), ("shop/bomb0", true), "{why:?}");

    // As if an earlier version had kept it all.
    let all =
        (0..100).map(|seed| record::decode(&ringed(&format!("large{seed:03}"), 16, 10_000, seed)).unwrap());
    let services = all.map(|import| (import.name.clone(), Arc::new(import))).collect();
    let kept = PeerImports { synced_unix_ms: NOW, services, ..PeerImports::default() };
    let again = Mirror::new(&link(&[None]), Arc::new(kept.clone()));
    assert_eq!((again.imports().services.len() as u64, again.left_out().len() as u64), (taken, 100 - taken));
    let mut follower = fresh();
    assert!(follower.follow(kept));
    assert_eq!(follower.imports().services.len() as u64, taken);
}

#[test]
fn what_was_left_out_is_told_until_it_fits_or_is_taken_back() {
    let mut mirror = synced(&["a"]);
    let notes = mirror.notes();
    for seed in 0..3 {
        mirror
            .apply(
                &event(Kind::Upsert(sync::Record {
                    revision: 11 + seed,
                    ..ringed(&format!("s{seed}"), 1024, 10_000, seed)
                })),
                NOW,
            )
            .unwrap();
    }
    assert_eq!(mirror.left_out().len(), 3);
    assert!(mirror.notes() > notes);
    let notes = mirror.notes();
    mirror
        .apply(&event(Kind::Upsert(sync::Record { revision: 15, ..ringed("s0", 1024, 10_000, 9) })), NOW)
        .unwrap();
    assert_eq!(mirror.notes(), notes, "the same again is no news");
    apply(&mut mirror, &[upsert("s0", 20), removed("s1", 21)], NOW);
    assert_eq!(mirror.left_out().len(), 1);
    // The next snapshot does not name it any more.
    snapshot(&mut mirror, 30, &["a", "s0"], NOW);
    assert!(mirror.left_out().is_empty());
    // What is known stays, though its change is left out, and a snapshot that only has the change does not take it away.
    let events = [
        begin(EPOCH, 40),
        event(Kind::Upsert(sync::Record { revision: 40, ..ringed("a", 1024, 10_000, 1) })),
        upsert("s0", 40),
        end(40),
    ];
    apply(&mut mirror, &events, NOW);
    assert_eq!((names(&mirror), mirror.left_out().len()), (vec!["a", "s0"], 1));
}

#[test]
fn a_snapshot_without_end_fills_nothing() {
    let mut mirror = fresh();
    (mirror.services_max, mirror.budget) = (10, Budget::new(10));
    mirror.watch();
    mirror.apply(&begin(EPOCH, 10), NOW).unwrap();
    for n in 0..5_000 {
        mirror.apply(&upsert(&format!("s{n}"), 10), NOW).unwrap();
        mirror
            .apply(
                &event(Kind::Upsert(sync::Record {
                    ports: Vec::new(),
                    ..record(&format!("t{n}"), EPOCH, 10)
                })),
                NOW,
            )
            .unwrap();
    }
    let seen = mirror.stream.as_ref().unwrap().snapshot.as_ref().unwrap().seen.len();
    assert!(seen <= 10 + 1_000, "{seen} names");
    assert_eq!((mirror.left_out().len(), mirror.imports().services.len()), (9_990, 10));
}
