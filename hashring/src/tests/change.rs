//! Changed copies of a ring against rings built anew.

use proptest::prelude::*;

use super::*;
use crate::{MAX_NODE_POINTS, MAX_NODES, MAX_POINTS, RingError};

/// Whether two rings are the same, byte for byte.
fn same(a: &Ring, b: &Ring) -> bool {
    a.declaration == b.declaration
        && a.zones == b.zones
        && a.index == b.index
        && a.fingerprint() == b.fingerprint()
}

/// A change of one node: the id is one that may be there.
#[derive(Debug, Clone)]
enum Edit {
    Set { id: u8, weight: u32, zone: u8 },
    Remove { id: u8 },
}

fn edit() -> impl Strategy<Value = Edit> {
    // Few ids and zones: all meet again. Weight 0 and one too small for a point are common.
    let weight = prop_oneof![Just(0_u32), Just(1), 50_u32..300];
    prop_oneof![
        3 => (0_u8..12, weight, 0_u8..4).prop_map(|(id, weight, zone)| Edit::Set { id, weight, zone }),
        1 => (0_u8..12).prop_map(|id| Edit::Remove { id }),
    ]
}

proptest! {
    #[test]
    fn every_edit_makes_what_a_build_makes(base in 0_u32..80, seed: u64, edits in vec(edit(), 1..30)) {
        let mut nodes = std::collections::BTreeMap::new();
        let empty = || Ring::builder().base(base).seed(seed);
        let mut ring = empty().build().unwrap();
        for edit in edits {
            ring = match edit {
                Edit::Set { id, weight, zone } if !nodes.contains_key(&id) => {
                    nodes.insert(id, (weight, zone));
                    ring.with_node([id], weight, [zone]).unwrap()
                }
                Edit::Set { id, weight, .. } => {
                    nodes.entry(id).and_modify(|node| node.0 = weight);
                    ring.with_weight([id], weight).unwrap()
                }
                Edit::Remove { id } if nodes.remove(&id).is_some() => ring.without_node([id]).unwrap(),
                Edit::Remove { id } => {
                    prop_assert_eq!(ring.without_node([id]).unwrap_err(), RingError::UnknownId { id: [id].into() });
                    continue;
                }
            };
            let rebuilt = nodes.iter().fold(empty(), |b, (id, (weight, zone))| b.node([*id], *weight, [*zone]));
            prop_assert!(same(&ring, &rebuilt.build().unwrap()));
        }
    }
}

fn node_name(number: u32) -> String {
    format!("node-{number}")
}

/// At the size the goals are for, up and down across a change of the number of lines and back to the start.
#[test]
fn a_large_ring_grows_and_shrinks_as_if_built() {
    let of = |numbers: &[u32]| {
        numbers
            .iter()
            .fold(Ring::builder(), |b, i| b.node(node_name(*i), 100, [*i as u8 % 5]))
            .build()
            .unwrap()
    };
    let mut numbers: Vec<u32> = (0..300).collect();
    let start = of(&numbers);
    let mut ring = of(&numbers);
    for number in 300..330 {
        ring = ring.with_node(node_name(number), 100, [number as u8 % 5]).unwrap();
        numbers.push(number);
    }
    assert!(same(&ring, &of(&numbers)));
    for number in [0, 299, 17, 329, 150] {
        ring = ring.with_weight(node_name(number), 250).unwrap();
        ring = ring.with_weight(node_name(number), 30).unwrap();
    }
    for number in (300..330).chain([0, 17, 150, 299]) {
        ring = ring.without_node(node_name(number)).unwrap();
    }
    for number in [17, 299, 0, 150] {
        ring = ring.with_node(node_name(number), 100, [number as u8 % 5]).unwrap();
    }
    assert!(same(&ring, &start));
}

#[test]
fn the_seed_and_the_kind_of_hash_stay() {
    let builder = || Ring::builder().base(40).seed(9).key_hash(KeyHash::SipHash13).node("a", 100, "x");
    let changed = builder().build().unwrap().with_node("b", 100, "y").unwrap();
    assert!(same(&changed, &builder().node("b", 100, "y").build().unwrap()));
}

#[test]
fn changes_that_make_no_ring_are_refused() {
    let ring = Ring::builder().node("a", 100, "").build().unwrap();
    assert_eq!(ring.with_node("a", 1, "").unwrap_err(), RingError::DuplicateId { id: (*b"a").into() });
    let unknown = RingError::UnknownId { id: (*b"b\n").into() };
    assert_eq!(ring.with_weight("b\n", 1).unwrap_err(), unknown);
    assert_eq!(unknown.to_string(), "the ring has no node \"b\\n\"");
    let long = [b'x'; crate::MAX_NAME_BYTES + 1];
    assert!(matches!(ring.with_node(long, 1, "").unwrap_err(), RingError::IdTooLong { .. }));
    assert!(matches!(ring.with_node("b", 1, long).unwrap_err(), RingError::ZoneTooLong { .. }));
    // Not even an error shows all of it.
    assert_eq!(ring.without_node(long).unwrap_err(), RingError::UnknownId { id: [b'x'; 32].into() });
    let heavy = RingError::TooManyNodePoints { id: (*b"a").into(), points: MAX_NODE_POINTS + 160 };
    assert_eq!(ring.with_weight("a", 655_460).unwrap_err(), heavy);
}

#[test]
fn a_full_ring_takes_no_node_and_no_point_more() {
    let numbered = |b: RingBuilder, i: u32| b.node(i.to_be_bytes(), 100, "");
    let full = (0..MAX_NODES as u32).fold(Ring::builder().base(0), numbered).build().unwrap();
    let refused = full.with_node("one more", 100, "").unwrap_err();
    assert_eq!(refused, RingError::TooManyNodes { nodes: MAX_NODES + 1 });
    assert_eq!(full.without_node([0; 4]).unwrap().with_node([0; 4], 100, "").unwrap().len(), MAX_NODES);

    assert_eq!(crate::limits::check_total(MAX_POINTS), Ok(()));
    let over = RingError::TooManyPoints { points: MAX_POINTS + 1 };
    assert_eq!(crate::limits::check_total(MAX_POINTS + 1), Err(over));
}
