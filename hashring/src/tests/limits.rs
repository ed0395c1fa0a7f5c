//! What a ring accepts, refuses and tells apart.

use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use super::*;
use crate::{MAX_NAME_BYTES, MAX_NODE_POINTS, MAX_NODES, MAX_POINTS, RingError};

/// How many points a ring has.
fn points(ring: &Ring) -> usize {
    ring.walk(0).count()
}

#[test]
fn points_are_base_times_weight_rounded_down() {
    let of = |base, weight| points(&Ring::builder().base(base).node("a", weight, "").build().unwrap());
    assert_eq!((of(160, 100), of(160, 50), of(160, 1), of(160, 0), of(0, 100)), (160, 80, 1, 0, 0));
    assert_eq!((of(10, 9), of(10, 10), of(10, 19), of(10, 20)), (0, 1, 1, 2));
}

#[test]
fn ids_of_every_length_place_points_by_the_formula() {
    for length in (0..=255).chain([256, 1000, MAX_NAME_BYTES]) {
        let id: Vec<u8> = (0..length).map(|byte| byte as u8 ^ 0xa5).collect();
        for seed in [0, 0x0123_4567_89ab_cdef] {
            let expected = xxh3_64_with_seed(&[&id[..], &0x0102_0304_u32.to_le_bytes()].concat(), seed);
            assert_eq!(point(&id, 0x0102_0304, seed), expected, "{length}");
            let first = xxh3_64_with_seed(&[&id[..], &[0; 4]].concat(), seed);
            let ring = Ring::builder()
                .base(1)
                .seed(seed)
                .node(&id, 100, &id)
                .node("other", 100, "")
                .build()
                .unwrap();
            assert_eq!(ring.owner(first), ring.index_of(&id), "{length}");
        }
    }
}

#[test]
fn names_longer_than_the_limit_are_refused() {
    let long = [b'x'; MAX_NAME_BYTES + 1];
    let error = Ring::builder().node(long, 100, "").build().unwrap_err();
    assert_eq!(error, RingError::IdTooLong { start: [b'x'; 32].into(), bytes: 1025 });
    assert_eq!(
        error.to_string(),
        format!("node id \"{}...\" has 1025 bytes; at most 1024 are allowed", "x".repeat(32))
    );
    let error = Ring::builder().node("a", 100, long).build().unwrap_err();
    assert_eq!(error, RingError::ZoneTooLong { id: (*b"a").into(), bytes: 1025 });
    assert_eq!(error.to_string(), "zone of node \"a\" has 1025 bytes; at most 1024 are allowed");
}

#[test]
fn duplicate_ids_are_refused() {
    let error = Ring::builder().node("b", 1, "").node("a\n", 1, "x").node("a\n", 2, "y").build().unwrap_err();
    assert_eq!(error, RingError::DuplicateId { id: (*b"a\n").into() });
    assert_eq!(error.to_string(), "node id \"a\\n\" occurs twice; give each node its own id");
}

#[test]
fn as_many_nodes_as_the_limit_and_no_more() {
    // Every node is a zone of its own: there are as many zones as can be.
    let of = |nodes: usize| {
        (0..nodes as u32)
            .fold(Ring::builder().base(1), |b, i| b.node(i.to_be_bytes(), 100, i.to_be_bytes()))
            .build()
    };
    let ring = of(MAX_NODES).unwrap();
    assert_eq!(ring.len(), 65_534);
    let last = NodeIndex(65_533);
    assert_eq!(ring.index_of(&65_533_u32.to_be_bytes()), Some(last));
    assert_eq!(ring.owner(point(&65_533_u32.to_be_bytes(), 0, 0)), Some(last));
    assert_eq!(ring.spread(1).take(1000).count(), 1000);
    assert_eq!(ring.zones().members().last(), Some(&last));

    let error = of(MAX_NODES + 1).unwrap_err();
    assert_eq!(error, RingError::TooManyNodes { nodes: 65_535 });
    assert_eq!(error.to_string(), "65535 nodes are more than a ring holds (65534); split the set");
}

#[test]
fn more_zones_than_nodes_with_points() {
    let builder = (0..100_u8).fold(Ring::builder(), |b, i| b.node([i], 0, [i]));
    let ring = builder.node("x", 100, "home").node("y", 100, [3]).build().unwrap();
    for hash in (0..50).map(crate::inner) {
        assert!(ring.near(hash).eq(ring.sequence(hash)));
        assert!(ring.spread(hash).eq(ring.sequence(hash)));
        assert_eq!(ring.spread(hash).count(), 2);
    }
}

#[test]
fn as_many_points_of_a_node_as_the_limit_and_no_more() {
    let of = |weight| Ring::builder().base(1).node("big", weight, "").build();
    assert_eq!(points(&of(104_857_699).unwrap()) as u64, MAX_NODE_POINTS);
    let error = of(104_857_700).unwrap_err();
    assert_eq!(error, RingError::TooManyNodePoints { id: (*b"big").into(), points: MAX_NODE_POINTS + 1 });
    assert_eq!(
        error.to_string(),
        "node \"big\" would have 1048577 points, at most 1048576 are allowed; lower its weight or the base"
    );
    // No product overflows on the way to the refusal.
    assert!(Ring::builder().base(u32::MAX).node("big", u32::MAX, "").build().is_err());
}

#[test]
fn more_points_in_all_than_the_limit_are_refused_before_any_is_computed() {
    let full = (0..64_u8).fold(Ring::builder().base(1 << 20), |b, i| b.node([i], 100, ""));
    let error = full.node("one more", 1, "").build().unwrap_err();
    assert_eq!(error, RingError::TooManyPoints { points: MAX_POINTS + 10_485 });
    assert_eq!(
        error.to_string(),
        "the ring would have 67119349 points, at most 67108864 are allowed; lower the base or the weights"
    );
}

#[test]
fn the_fingerprint_tells_every_input_apart() {
    let base = || Ring::builder().node("a", 100, "z").node("b", 0, "y");
    let rings = [
        base(),
        base().seed(1),
        base().key_hash(KeyHash::SipHash13),
        base().base(161),
        base().node("c", 0, ""),
        Ring::builder().node("a", 102, "z").node("b", 0, "y"),
        Ring::builder().node("a", 100, "z").node("b", 100, "y"),
        Ring::builder().node("a", 100, "y").node("b", 0, "y"),
        Ring::builder().node("a", 100, "z").node("by", 0, ""),
        Ring::builder().node("a", 100, "z").node("", 0, "by"),
        Ring::builder().node("a", 100, "z"),
        Ring::builder(),
    ];
    let mut fingerprints: Vec<u64> =
        rings.into_iter().map(|ring| ring.build().unwrap().fingerprint()).collect();
    let many = fingerprints.len();
    fingerprints.sort_unstable();
    fingerprints.dedup();
    assert_eq!(fingerprints.len(), many);

    // Base and weight enter as numbers of points: 161 * 100 / 100 = 160 * 101 / 100.
    let heavier = Ring::builder().node("a", 101, "z").node("b", 0, "y").build().unwrap();
    assert_eq!(base().base(161).build().unwrap().fingerprint(), heavier.fingerprint());
}

#[test]
fn the_fingerprint_is_over_these_bytes() {
    let ring = Ring::builder().seed(0x0102).key_hash(KeyHash::SipHash13).node("b", 0, "").node("a", 50, "zz");
    let bytes = [
        &b"ring-v1\x01\x02\x01\0\0\0\0\0\0"[..],
        b"\x01\0\0\0a\x50\0\0\0\x02\0\0\0zz",
        b"\x01\0\0\0b\0\0\0\0\0\0\0\0",
    ];
    assert_eq!(ring.build().unwrap().fingerprint(), xxh3_64(&bytes.concat()));
}

#[test]
fn the_seed_moves_points_and_keys_of_both_kinds() {
    for kind in [KeyHash::Xxh3, KeyHash::SipHash13] {
        let of = |seed| Ring::builder().seed(seed).key_hash(kind).node("a", 100, "").build().unwrap();
        assert_ne!(of(0).hash(b"key"), of(1).hash(b"key"));
    }
    assert_ne!(point(b"a", 0, 0), point(b"a", 0, 1));
    // Points stay XXH3 whatever hashes the keys.
    let sip = Ring::builder()
        .base(1)
        .key_hash(KeyHash::SipHash13)
        .node("a", 100, "")
        .node("b", 100, "")
        .build()
        .unwrap();
    assert_eq!(sip.owner(point(b"a", 0, 0)), Some(NodeIndex(0)));
    assert_eq!(sip.owner(point(b"b", 0, 0)), Some(NodeIndex(1)));
}
