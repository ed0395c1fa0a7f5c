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
use policy::retry::Failure;
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
    /// Of each cluster, as one that asks.
    spent: Vec<Spent>,
}

/// What the flows of one cluster cost beside their first attempts.
#[derive(Debug, PartialEq)]
struct Spent {
    flows: u64,
    hedges: u64,
    /// Retries after a failure that is charged.
    charged: u64,
    /// What the budget for retries says of them.
    budget: u64,
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
        let spent = world.spent();
        // What callers gave up may still arrive somewhere.
        tokio::time::sleep(LASTS).await;
        world.stop();
        world.check_placements();
        Told {
            events: world.events(),
            flows: ended.into_iter().map(|flow: Ended| world.settle(flow)).collect(),
            spent,
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
        // What its budget did not allow to be tried again may fail.
        let lost = flow.failed.is_some_and(|failure| !is_charged(failure));
        if flow.plan.replayable && lost && flow.served_by.is_some() {
            return Err(format!("it failed, while a cluster would have served it all the time: {flow:?}"));
        }
    }
    for spent @ Spent { flows, hedges, charged, budget } in &told.spent {
        // 2 % of the requests of 10 s, or 10 a second of those; 20 % or one a second. Flows end within the 10 s.
        if *hedges > (flows / 50).max(100) || *charged > (flows / 5).max(10) {
            return Err(format!("over its budget: {spent:?}"));
        }
        // Where two attempts run at once it is not seen here of which the flow took note.
        if *hedges == 0 && charged != budget {
            return Err(format!("the budget was charged for something else: {spent:?}"));
        }
    }
    Ok(())
}

/// Whether another attempt after it is charged to the budget.
fn is_charged(failure: Failure) -> bool {
    matches!(failure, Failure::Overloaded | Failure::Reset | Failure::Status(_))
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
    let (mut hedged, mut retried, mut failed, mut flows, mut broke) = (0, 0, 0, 0, 0);
    let many = seeds.end - seeds.start >= 500;
    for seed in seeds {
        let told = run(seed);
        if let Err(what) = check(&told) {
            panic!("RINGWAY_SEED={seed}: {what}\n{}", told.events.join("\n"));
        }
        hedged += told.spent.iter().map(|spent| spent.hedges).sum::<u64>();
        broke += told.spent.iter().filter(|spent| spent.charged >= (spent.flows / 5).max(10)).count();
        flows += told.flows.len();
        failed += told.flows.iter().filter(|flow| flow.failed.is_some()).count();
        retried += told.flows.iter().filter(|flow| flow.attempts > 1).count();
    }
    println!(
        "{flows} flows: {retried} took more than one attempt, {hedged} hedges, {failed} failed; {broke} budgets spent"
    );
    // A simulation in which nothing happens would hold anything.
    if many {
        assert!(
            hedged > 100 && retried > 1_000 && failed > 10 && broke > 10,
            "{hedged} hedges, {retried} retries, {failed} failed, {broke} budgets spent"
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
