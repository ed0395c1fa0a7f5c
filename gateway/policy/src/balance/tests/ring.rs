//! Keys on the ring of endpoints.

use super::*;

fn ring_of(specs: &[(&str, u32, &str)]) -> (Arc<Ring>, Endpoints) {
    let ring = specs.iter().fold(Ring::builder(), |ring, (id, weight, zone)| ring.node(id, *weight, zone));
    let ring = Arc::new(ring.build().unwrap());
    let rule =
        Rule { algorithm: Algorithm::Ring, ring: Some(ring.clone()), checked: false, fail_open: false };
    (ring, Endpoints::new(rule, specs.iter().map(|(id, weight, _)| spec(id, *weight)), None, Tick::ZERO))
}

/// The ids that keys 0..n are served by.
fn served(set: &Endpoints, n: u64) -> Vec<String> {
    let pick = |key| set.pick(Tick::ZERO, &mut rng(), Some(hashring::inner(key)), &[]).unwrap();
    (0..n).map(|key| set.get(pick(key)).id().to_owned()).collect()
}

#[test]
fn a_key_stays_with_its_owner_on_the_inner_ring() {
    // Declared in another order than the ring's.
    let (ring, set) = ring_of(&[("c", 100, ""), ("a", 100, ""), ("b", 100, "")]);
    for key in 0..1_000u64 {
        let hash = ring.hash(&key.to_le_bytes());
        let owner = ring.owner(hashring::inner(hash)).unwrap();
        let place = set.pick(Tick::at(key), &mut fastrand::Rng::with_seed(key), Some(hash), &[]).unwrap();
        assert_eq!(set.get(place).id().as_bytes(), ring.node(owner).id);
    }
}

#[test]
fn who_is_not_ready_is_skipped_and_only_its_keys_move() {
    let (_, set) = ring_of(&[("a", 100, ""), ("b", 100, ""), ("c", 200, "")]);
    let before = served(&set, 1_000);
    refuse(&set, 1, Tick::ZERO);
    let after = served(&set, 1_000);
    for (before, after) in before.iter().zip(&after) {
        assert!(before == after || before == "b", "{before} became {after}");
        assert_ne!(after, "b");
    }
    let _ = set.get(1).connected(Tick::ZERO);
    assert_eq!(served(&set, 1_000), before, "and they come home at once");
}

#[test]
fn a_tried_endpoint_hands_over_to_the_next_in_near_order() {
    let (ring, set) = ring_of(&[("a", 100, "x"), ("b", 100, "y"), ("c", 100, "x"), ("d", 100, "y")]);
    for key in 0..200 {
        let hash = ring.hash(&[key]);
        let near: Vec<_> = ring.near(hashring::inner(hash)).map(|n| ring.node(n).id.to_vec()).collect();
        let mut tried = Vec::new();
        while let Some(place) = set.pick(Tick::ZERO, &mut rng(), Some(hash), &tried) {
            tried.push(place);
        }
        let tried: Vec<_> = tried.iter().map(|&place| set.get(place).id().as_bytes().to_vec()).collect();
        assert_eq!(tried, near);
    }
}

#[test]
fn without_a_key_requests_are_spread() {
    let (_, set) = ring_of(&[("a", 100, ""), ("b", 100, "")]);
    assert!(counts(&set, 100, Tick::ZERO).iter().all(|&count| count > 0));
}

#[test]
fn other_algorithms_do_not_look_at_the_key() {
    let set = set(Algorithm::RoundRobin, &[100, 100]);
    let picked: Vec<_> = (0..4).map(|_| set.pick(Tick::ZERO, &mut rng(), Some(7), &[]).unwrap()).collect();
    assert_eq!(picked, [0, 1, 0, 1]);
}
