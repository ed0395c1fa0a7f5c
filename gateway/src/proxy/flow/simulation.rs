//! A mesh in one thread and virtual time: real flows, placements, detectors and budgets; clusters, links and faults are a
//! model that a seed determines. Thousands of schedules of kills, freezes, cuts and partitions take a few seconds.
//!
//! `RINGWAY_SEEDS=N` runs N schedules instead of 2,000; a failure prints its seed, and `RINGWAY_SEED=S` runs that one.

mod caller;
mod world;

use std::rc::Rc;
use std::time::Duration;

use tokio::time::Instant;

use caller::{Ended, Plan};
use world::World;

/// Schedules that are run unless something else is asked for.
const SEEDS: u64 = 2_000;
/// How long a schedule lasts; faults come within it.
const LASTS: Duration = Duration::from_secs(4);

/// What a schedule was, word by word, and how each flow ended.
#[derive(Debug, PartialEq)]
struct Told {
    events: Vec<String>,
    flows: Vec<Ended>,
    hedges: u64,
    charged: u64,
}

/// Runs the schedule of `seed` to its end.
fn run(seed: u64) -> Told {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let runtime = runtime.expect("a runtime without I/O");
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let world = World::new(seed);
        let plans: Vec<Plan> = world.plans();
        world.begin();
        let flows = plans.into_iter().map(|plan| {
            let world = world.clone();
            tokio::task::spawn_local(async move {
                tokio::time::sleep(plan.at).await;
                caller::call(&world, plan).await
            })
        });
        let flows: Vec<_> = flows.collect();
        let mut ended = Vec::new();
        for flow in flows {
            ended.push(flow.await.expect("a flow ends"));
        }
        // What callers gave up may still arrive somewhere.
        tokio::time::sleep(LASTS).await;
        world.stop();
        world.check_placements();
        Told {
            events: world.events(),
            flows: ended.into_iter().map(|flow: Ended| world.settle(flow)).collect(),
            hedges: world.hedges(),
            charged: world.charged(),
        }
    })
}

/// What must hold of every schedule.
fn check(told: &Told) -> Result<(), String> {
    for flow in &told.flows {
        if flow.took > flow.plan.deadline + Duration::from_millis(2) {
            return Err(format!("it ended after its deadline: {flow:?}"));
        }
        if !flow.plan.replayable && flow.delivered > 1 {
            return Err(format!("it was delivered twice, and must not be: {flow:?}"));
        }
        if flow.plan.replayable && flow.failed.is_some() && flow.served_by.is_some() {
            return Err(format!("it failed, while a cluster would have served it all the time: {flow:?}"));
        }
    }
    let flows = told.flows.len() as u64;
    // 2 % of the requests of 10 s, and 10 a second of those.
    if told.hedges > flows / 50 + 100 {
        return Err(format!("{} hedges for {flows} flows", told.hedges));
    }
    if told.charged > flows / 5 + 100 {
        return Err(format!("{} charged retries for {flows} flows", told.charged));
    }
    Ok(())
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

#[test]
fn flows_survive_what_the_mesh_survives() {
    let seeds = match number("RINGWAY_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("RINGWAY_SEEDS").unwrap_or(SEEDS),
    };
    let (mut hedged, mut retried, mut failed, mut flows) = (0, 0, 0, 0);
    let many = seeds.end - seeds.start >= 500;
    for seed in seeds {
        let told = run(seed);
        if let Err(what) = check(&told) {
            panic!("RINGWAY_SEED={seed}: {what}\n{}", told.events.join("\n"));
        }
        hedged += told.hedges;
        flows += told.flows.len();
        failed += told.flows.iter().filter(|flow| flow.failed.is_some()).count();
        retried += told.flows.iter().filter(|flow| flow.attempts > 1).count();
    }
    println!("{flows} flows: {retried} took more than one attempt, {hedged} hedges, {failed} failed");
    // A simulation in which nothing happens would hold anything.
    if many {
        assert!(
            hedged > 100 && retried > 1_000 && failed > 10,
            "{hedged} hedges, {retried} retries, {failed} failed"
        );
    }
}

#[test]
fn a_seed_repeats_itself() {
    for seed in [1, 7, 99] {
        assert_eq!(run(seed), run(seed), "seed {seed}");
    }
}

/// Time since `start`, for the log of a schedule.
fn since(start: Instant) -> String {
    format!("{:>6} ms", start.elapsed().as_millis())
}

/// Shared by all tasks of a schedule.
type Shared = Rc<World>;
