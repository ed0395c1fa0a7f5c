//! Minutes of random faults under steady traffic: nothing is lost, nothing is misplaced, nothing grows.
//!
//! A gateway without endpoints of its own, `edge`, asks three clusters, keyed and unkeyed. One fault at a time strikes
//! them or the links to them, and is over before the next. `tests/run --long [--seed N]` runs it; by hand, with
//! `RINGWAY_SOAK_SECONDS` (600 if not given) and `RINGWAY_SOAK_SEED`, which gives the same faults again:
//! `cargo test --release -p e2e --test soak -- --include-ignored --nocapture`.
#![allow(clippy::unwrap_used)]

mod fault;
mod usage;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use e2e::manifest::{link, sharded};
use e2e::mesh::{Gateway, find};
use e2e::pair::CART;
use e2e::relay::Relay;
use e2e::traffic::{Ask, Report, Traffic};
use e2e::trio::{CLUSTERS, Trio, cluster_of};
use e2e::wait::{SOON, pause, wait_until};

use fault::Fault;
use usage::History;

const KEYS: u64 = 100;
/// Callers of each kind, and the pause of each between two requests: the journals of ten minutes fit into memory.
const CALLERS: usize = 4;
const PACE: Duration = Duration::from_millis(20);
/// After a fault, until all that changes quickly has been said: digests say at once what changed, and a new tunnel everything.
const SETTLE: Duration = Duration::from_millis(1_500);

/// The clusters, and edge, which lives through it all.
struct World {
    trio: Trio,
    edge: Gateway,
    /// Between edge and each of the three.
    relays: BTreeMap<&'static str, Relay>,
}

impl World {
    fn start(seed: u64) -> Self {
        let trio = Trio::with_callers(&sharded(&CLUSTERS), &["edge"]);
        let relay = |c: &'static str| (c, Relay::start(trio.gateways[c].site.tunnel, seed));
        let relays: BTreeMap<_, _> = CLUSTERS.map(relay).into();
        let links: Vec<_> = relays.iter().map(|(cluster, relay)| link(cluster, &[relay.address()])).collect();
        let edge = trio.mesh.site("edge", &CLUSTERS).start(&links);
        let world = Self { trio, edge, relays };
        world.wait_whole();
        world
    }

    /// Waits until everybody reaches everybody.
    fn wait_whole(&self) {
        self.trio.wait_all();
        self.edge.wait_service("shop/cart", &CLUSTERS);
    }
}

/// When a cluster could not be expected to answer for its keys.
struct Disturbed {
    cluster: &'static str,
    from: Instant,
    to: Instant,
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|number| number.parse().unwrap())
}

/// Every key was answered by its owner, but for requests that were under way while that was disturbed.
fn assert_placed(report: &Report, owners: &BTreeMap<String, String>, disturbed: &[Disturbed]) {
    let excused = |owner: &str, sent: Instant, ended: Instant| {
        disturbed.iter().any(|d| d.cluster == owner && sent <= d.to && ended >= d.from)
    };
    let misplaced = report.done.iter().filter(|done| {
        let (Some(key), Ok((_, server))) = (&done.key, &done.result) else { return false };
        let owner = &owners[key];
        cluster_of(server) != owner && !excused(owner, done.sent, done.sent + done.took)
    });
    let misplaced: Vec<_> = misplaced.collect();
    let shown: Vec<_> = misplaced.iter().take(5).collect();
    let all = report.done.len();
    println!("{} of {all} answered elsewhere without a fault of ours", misplaced.len());
    assert!(misplaced.is_empty(), "{} of {all} misplaced, such as {shown:#?}", misplaced.len());
}

#[test]
#[ignore = "takes ten minutes: tests/run --long"]
fn nothing_is_lost_or_misplaced_and_nothing_grows() {
    let time = Duration::from_secs(number("RINGWAY_SOAK_SECONDS").unwrap_or(600));
    let seed = number("RINGWAY_SOAK_SEED").unwrap_or_else(|| fastrand::u64(..1_000_000));
    println!("RINGWAY_SOAK_SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let mut world = World::start(seed);
    let keys = (0..KEYS).map(|n| format!("u{n}"));
    let owners: BTreeMap<_, _> = keys.map(|key| (key.clone(), world.trio.near(&key)[0].clone())).collect();
    let ask = |keys| Ask { keys, pace: PACE, ..Ask::get(CART) };
    let start = |keys| Traffic::start(world.edge.site.http, CALLERS, ask(keys));
    let (keyed, unkeyed) = (start(KEYS), start(0));
    keyed.wait_more(KEYS as usize);

    // West is never killed: what grows there grows by what others go through.
    let lasting = [world.edge.process.pid(), world.trio.gateways["west"].process.pid()];
    let mut history = History::of(&lasting);
    let mut disturbed = Vec::new();
    let began = Instant::now();
    while began.elapsed() < time {
        let fault = Fault::draw(&mut random);
        println!("{:6.1} s {fault:?}", began.elapsed().as_secs_f64());
        let from = Instant::now();
        fault.strike(&mut world);
        world.wait_whole();
        disturbed.push(Disturbed { cluster: fault.cluster, from, to: Instant::now() + SETTLE });
        pause(SETTLE);
        keyed.wait_more(KEYS as usize);
        history.look();
    }

    let (keyed, unkeyed) = (keyed.stop(), unkeyed.stop());
    println!("{} faults, {} requests", disturbed.len(), keyed.done.len() + unkeyed.done.len());
    keyed.assert_none_failed();
    unkeyed.assert_none_failed();
    history.assert_flat();
    assert_placed(&keyed, &owners, &disturbed);
    for gateway in [&world.edge, &world.trio.gateways["west"]] {
        wait_until("nothing is under way any more", SOON, || {
            (gateway.status()?["requests_in_progress"] == 0).then_some(())
        });
        let status = gateway.status().unwrap();
        let service = find(&status["services"], "name", "shop/cart").unwrap();
        assert!(service["members"].as_array().is_some_and(|m| m.len() == CLUSTERS.len()), "{service}");
    }
}
