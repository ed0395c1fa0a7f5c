#![allow(clippy::unwrap_used)]

use std::thread;

use proptest::prelude::*;
use registry::base::time::Tick;

use super::*;

mod health;
mod recovery;
mod ring;
mod simulation;

const SECOND: u64 = 1_000_000;

fn spec(id: &str, weight: u32) -> EndpointSpec {
    let address = HostPort { host: "127.0.0.1".into(), port: 9000 + u16::from(id.as_bytes()[0]) };
    EndpointSpec { id: id.into(), address, protocol: Protocol::Http, weight, capacity: None }
}

fn set(algorithm: Algorithm, weights: &[u32]) -> Endpoints {
    let ids = "abcdefghij";
    Endpoints::new(
        rule(algorithm),
        weights.iter().enumerate().map(|(i, &w)| spec(&ids[i..=i], w)),
        None,
        Tick::ZERO,
    )
}

fn rule(algorithm: Algorithm) -> Rule {
    Rule { algorithm, ring: None, checked: false, fail_open: false }
}

fn start(set: &Endpoints, index: usize, now: Tick) -> InFlight {
    begin(set.get(index), now).unwrap()
}

fn begin(endpoint: &Arc<EndpointState>, now: Tick) -> Option<InFlight> {
    match endpoint.begin(now) {
        Begun::Here(in_flight) => Some(in_flight),
        Begun::Elsewhere(_) => None,
    }
}

fn refuse(set: &Endpoints, index: usize, now: Tick) {
    let _ = start(set, index, now).refused(now);
}

fn fail(set: &Endpoints, index: usize, now: Tick) {
    let _ = start(set, index, now).failed(now);
}

fn rng() -> fastrand::Rng {
    fastrand::Rng::with_seed(7)
}

/// How often each endpoint is picked in `n` picks of requests that end at once.
fn counts(set: &Endpoints, n: usize, now: Tick) -> Vec<usize> {
    let mut rng = rng();
    let mut counts = vec![0; set.iter().len()];
    for _ in 0..n {
        counts[set.pick(now, &mut rng, None, &[]).unwrap()] += 1;
    }
    counts
}

#[test]
fn round_robin_gives_turns_by_weight_evenly_spread() {
    assert_eq!(counts(&set(Algorithm::RoundRobin, &[100, 100, 100]), 300, Tick::ZERO), [100, 100, 100]);
    assert_eq!(counts(&set(Algorithm::RoundRobin, &[100, 0, 250]), 70, Tick::ZERO), [20, 0, 50]);
    let set = set(Algorithm::RoundRobin, &[300, 100]);
    let order: Vec<usize> = (0..8).map(|_| set.pick(Tick::ZERO, &mut rng(), None, &[]).unwrap()).collect();
    for four in order.windows(4) {
        assert_eq!(four.iter().filter(|&&index| index == 1).count(), 1, "{order:?}");
    }
}

#[test]
fn round_robin_spreads_what_a_refusing_endpoint_leaves() {
    let set = set(Algorithm::RoundRobin, &[100, 100, 100]);
    refuse(&set, 1, Tick::ZERO);
    assert_eq!(counts(&set, 300, Tick::ZERO), [150, 0, 150]);
}

#[test]
fn a_refused_connect_puts_an_endpoint_behind_all_others_until_one_is_accepted() {
    for algorithm in [Algorithm::RoundRobin, Algorithm::P2cEwma] {
        let set = set(algorithm, &[100, 100]);
        refuse(&set, 0, Tick::at(SECOND));
        assert_eq!(counts(&set, 10, Tick::at(100 * SECOND)), [0, 10], "no request has to find out");
        assert_eq!(
            set.pick(Tick::at(100 * SECOND), &mut rng(), None, &[1]),
            Some(0),
            "but it is better than none"
        );
        assert_eq!(set.readiness(Tick::at(100 * SECOND)), Readiness::Ready, "half of them are eligible");
        refuse(&set, 1, Tick::at(SECOND));
        assert_eq!(set.readiness(Tick::at(100 * SECOND)), Readiness::Degraded);
        let _ = set.get(0).connected(Tick::at(101 * SECOND));
        assert_eq!(counts(&set, 10, Tick::at(101 * SECOND)), [10, 0]);
    }
}

#[test]
fn the_past_of_a_process_that_died_does_not_count() {
    let set = set(Algorithm::P2cEwma, &[100]);
    fail(&set, 0, Tick::at(5));
    let _ = set.get(0).connected(Tick::ZERO);
    assert!(
        set.get(0).latency_micros(Tick::at(5)).is_some(),
        "another connection to the same process changes nothing"
    );
    refuse(&set, 0, Tick::at(5));
    let _ = set.get(0).connected(Tick::ZERO);
    assert_eq!(set.get(0).latency_micros(Tick::at(5)), None);
}

#[test]
fn tried_endpoints_are_never_picked_again() {
    for algorithm in [Algorithm::RoundRobin, Algorithm::P2cEwma] {
        let set = set(algorithm, &[100, 1, 100, 0]);
        let mut tried = Vec::new();
        while let Some(index) = set.pick(Tick::ZERO, &mut rng(), None, &tried) {
            assert!(!tried.contains(&index));
            tried.push(index);
        }
        tried.sort_unstable();
        assert_eq!(tried, [0, 1, 2], "each once, and weight 0 never");
    }
}

#[test]
fn nothing_declared_is_nothing_ready() {
    for weights in [&[][..], &[0, 0]] {
        for algorithm in [Algorithm::RoundRobin, Algorithm::P2cEwma] {
            let set = set(algorithm, weights);
            assert_eq!(set.pick(Tick::ZERO, &mut rng(), None, &[]), None);
            assert_eq!(set.readiness(Tick::ZERO), Readiness::None);
        }
    }
}

#[test]
fn a_full_endpoint_is_skipped_while_others_have_room() {
    for algorithm in [Algorithm::RoundRobin, Algorithm::P2cEwma] {
        let limited = |id, capacity| EndpointSpec { capacity: Some(capacity), ..spec(id, 100) };
        let set = Endpoints::new(rule(algorithm), [limited("a", 1), limited("b", 2)], None, Tick::ZERO);
        let guards: Vec<InFlight> = (0..3)
            .map(|_| {
                let index = set.pick(Tick::ZERO, &mut rng(), None, &[]).unwrap();
                start(&set, index, Tick::ZERO)
            })
            .collect();
        assert_eq!([set.get(0).in_flight(), set.get(1).in_flight()], [1, 2]);
        assert!(
            set.pick(Tick::ZERO, &mut rng(), None, &[]).is_some(),
            "all full: better queued there than refused here"
        );
        drop(guards);
        assert_eq!([set.get(0).in_flight(), set.get(1).in_flight()], [0, 0]);
    }
}

#[test]
fn p2c_prefers_what_answers_faster() {
    let set = set(Algorithm::P2cEwma, &[100, 100, 100]);
    for (index, latency) in [(0, 1_000), (1, 50_000), (2, 50_000)] {
        let _ = start(&set, index, Tick::ZERO).answered(Tick::at(latency));
    }
    // Two of three pairs contain the fast one.
    let counts = counts(&set, 3000, Tick::at(50_000));
    assert!(counts[0] > 1900, "{counts:?}");
}

#[test]
fn p2c_weighs_latency_with_load() {
    let set = set(Algorithm::P2cEwma, &[100, 100]);
    let _ = start(&set, 0, Tick::ZERO).answered(Tick::at(1_000));
    let _ = start(&set, 1, Tick::ZERO).answered(Tick::at(2_000));
    let pick = || set.pick(Tick::at(2_000), &mut rng(), None, &[]).unwrap();
    assert_eq!(pick(), 0);
    let first = start(&set, 0, Tick::at(2_000));
    let second = start(&set, 0, Tick::at(2_000));
    assert_eq!(pick(), 1, "three times 1 ms is more than 2 ms");
    drop((first, second));
    assert_eq!(pick(), 0);
}

#[test]
fn p2c_loads_by_weight() {
    // Requests that never end and equal latencies: what is in flight settles at the weights.
    let set = set(Algorithm::P2cEwma, &[300, 100, 100]);
    for endpoint in set.iter() {
        let _ = begin(endpoint, Tick::ZERO).unwrap().answered(Tick::at(1_000));
    }
    let mut rng = rng();
    let guards: Vec<InFlight> = (0..1000)
        .map(|_| {
            begin(set.get(set.pick(Tick::at(1_000), &mut rng, None, &[]).unwrap()), Tick::at(1_000)).unwrap()
        })
        .collect();
    let loads: Vec<u32> = set.iter().map(|endpoint| endpoint.in_flight()).collect();
    for (load, expected) in loads.iter().zip([600u32, 200, 200]) {
        assert!(load.abs_diff(expected) <= 20, "{loads:?}");
    }
    drop(guards);
}

#[test]
fn p2c_asks_a_new_endpoint_once_before_it_relies_on_it() {
    let set = set(Algorithm::P2cEwma, &[100, 100]);
    let _ = start(&set, 0, Tick::ZERO).answered(Tick::at(1_000));
    assert_eq!(set.pick(Tick::at(1_000), &mut rng(), None, &[]), Some(1));
    let _first = start(&set, 1, Tick::at(1_000));
    for _ in 0..20 {
        assert_eq!(set.pick(Tick::at(1_000), &mut rng(), None, &[]), Some(0));
    }
}

#[test]
fn failing_fast_is_no_way_to_draw_requests() {
    let set = set(Algorithm::P2cEwma, &[100, 100]);
    fail(&set, 0, Tick::at(10));
    let _ = start(&set, 1, Tick::ZERO).answered(Tick::at(5_000));
    assert_eq!(counts(&set, 100, Tick::at(5_000)), [0, 100]);
}

#[test]
fn latency_rises_at_once_and_fades_with_time() {
    let set = set(Algorithm::P2cEwma, &[100]);
    let endpoint = set.get(0);
    assert_eq!(endpoint.latency_micros(Tick::ZERO), None);
    let _ = begin(endpoint, Tick::ZERO).unwrap().answered(Tick::at(1_000));
    let _ = begin(endpoint, Tick::at(1_000)).unwrap().answered(Tick::at(101_000));
    assert_eq!(endpoint.latency_micros(Tick::at(101_000)), Some(100_000.0));
    let _ = begin(endpoint, Tick::at(101_000)).unwrap().answered(Tick::at(102_000));
    assert!(
        endpoint.latency_micros(Tick::at(102_000)).unwrap() > 99_000.0,
        "one fast answer does not make it fast"
    );
    let later = endpoint.latency_micros(Tick::at(102_000 + 10 * SECOND)).unwrap();
    assert!((35_000.0..38_000.0).contains(&later), "{later}");
}

#[test]
fn measures_outlive_a_rebuild_where_id_and_address_stay() {
    let specs = [spec("a", 100), spec("b", 100), spec("c", 100)];
    let old = Endpoints::new(rule(Algorithm::RoundRobin), specs, None, Tick::ZERO);
    let guard = start(&old, 0, Tick::ZERO);
    let mut moved = spec("b", 100);
    moved.address.port += 1;
    let specs = [moved, spec("d", 100), spec("a", 7)];
    let new = Endpoints::new(rule(Algorithm::P2cEwma), specs, Some(&old), Tick::ZERO);
    assert!(Arc::ptr_eq(new.get(2), old.get(0)));
    assert_eq!(new.get(2).in_flight(), 1);
    assert!(!Arc::ptr_eq(new.get(0), old.get(1)));
    drop((old, guard));
    assert_eq!(new.get(2).in_flight(), 0);
}

#[test]
fn workers_that_pick_at_once_lose_no_count() {
    for algorithm in [Algorithm::RoundRobin, Algorithm::P2cEwma] {
        let set = set(algorithm, &[100, 100, 100]);
        refuse(&set, 2, Tick::ZERO);
        thread::scope(|scope| {
            for seed in 0..4 {
                let set = &set;
                scope.spawn(move || {
                    let mut rng = fastrand::Rng::with_seed(seed);
                    for now in 0..5_000 {
                        let (_, guard) = set.take(Tick::at(now), &mut rng, None, &[], |_, _| {}).unwrap();
                        let _ = guard.answered(Tick::at(now + 10));
                        assert_eq!(set.get(2).in_flight(), 0);
                    }
                });
            }
        });
        assert!(set.iter().all(|endpoint| endpoint.in_flight() == 0));
    }
}

proptest! {
    #[test]
    fn a_pick_is_always_one_that_may_be_picked(
        endpoints in prop::collection::vec((0u32..4, any::<bool>(), any::<bool>(), any::<bool>()), 0..10),
        p2c: bool,
        seed: u64,
    ) {
        let weights: Vec<u32> = endpoints.iter().map(|endpoint| endpoint.0 * 50).collect();
        let specs = weights.iter().enumerate().map(|(i, &w)| {
            EndpointSpec { capacity: Some(1), ..spec(&"abcdefghij"[i..=i], w) }
        });
        let algorithm = if p2c { Algorithm::P2cEwma } else { Algorithm::RoundRobin };
        let set = Endpoints::new(rule(algorithm), specs, None, Tick::ZERO);
        let mut guards = Vec::new();
        let mut tried = Vec::new();
        for (index, &(_, refused, full, was_tried)) in endpoints.iter().enumerate() {
            if refused { refuse(&set, index, Tick::ZERO) }
            if full { guards.push(start(&set, index, Tick::ZERO)) }
            if was_tried { tried.push(index) }
        }
        let askable = |index: &usize| weights[*index] > 0 && !endpoints[*index].3;
        let open = |index: &usize| askable(index) && !endpoints[*index].1;
        let room = |index: &usize| open(index) && !endpoints[*index].2;
        let all = 0..endpoints.len();
        match set.pick(Tick::ZERO, &mut fastrand::Rng::with_seed(seed), None, &tried) {
            None => prop_assert!(!all.clone().any(|index| askable(&index))),
            Some(index) => {
                prop_assert!(askable(&index));
                prop_assert!(open(&index) || !all.clone().any(|index| open(&index)));
                prop_assert!(room(&index) || !all.clone().any(|index| room(&index)));
            }
        }
    }
}
