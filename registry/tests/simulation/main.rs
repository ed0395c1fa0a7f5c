//! Clusters that export to and mirror from each other while everything goes wrong, from a seed.
//!
//! Links lose, repeat and reorder what a tunnel's streams can: order holds across the marks of a stream (begin, end,
//! current), between them events may swap; any may come twice; a cut loses everything still on its way. Processes die
//! between any two of their writes and start from what was written, or from a backup of long ago, or with half of
//! their manifests read; clocks are wrong and jump. In the end the world heals, link by link in any order.
//!
//! A second world has several gateways of one cluster on one store that fails as etcd does: they die, pause with a write in
//! hand and wake late, and the store is late, silent, forgets history, and is put back to what it was.
//!
//! `RINGWAY_SEED=17` runs one seed again, `RINGWAY_SEEDS=100000` runs so many instead of [`SEEDS`]:
//! `RINGWAY_SEED=17 cargo test --release -p ringway-registry --test simulation`.
#![allow(clippy::unwrap_used)]

mod cluster;
mod etcd;
mod gateways;
mod link;
mod world;

use std::panic::{RefUnwindSafe, catch_unwind};

use world::World;

const SEEDS: u64 = 1000;
const STEPS: usize = 800;

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|number| number.parse().unwrap())
}

/// Runs every seed that is asked for; whether they were enough for all that is tried to have come about.
fn each_seed<S>(run: impl Fn(u64) -> S + RefUnwindSafe, mut add: impl FnMut(S)) -> bool {
    let seeds = match number("RINGWAY_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("RINGWAY_SEEDS").unwrap_or(SEEDS),
    };
    for seed in seeds.clone() {
        match catch_unwind(|| run(seed)) {
            Ok(seen) => add(seen),
            Err(_) => panic!("the run failed; again with RINGWAY_SEED={seed}"),
        }
    }
    seeds.end - seeds.start >= SEEDS
}

#[test]
fn imports_equal_exports_after_any_faults() {
    let mut seen = world::Seen::default();
    let run = |seed| {
        let mut world = World::new(seed);
        for _ in 0..STEPS {
            world.step();
        }
        world.heal();
        world.check_healed();
        world.seen()
    };
    let all = each_seed(run, |run| seen.add(run));
    println!("{seen:?}");
    assert!(!all || seen.everything(), "something was never tried: {seen:?}");
}

#[test]
fn one_gateway_writes_and_the_store_follows_after_any_faults() {
    let mut seen = gateways::Seen::default();
    let all = each_seed(gateways::run, |run| seen.add(run));
    println!("{seen:?}");
    assert!(!all || seen.everything(), "something was never tried: {seen:?}");
}
