//! Mux, with Scales as the client.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;

use e2e::process::{Said, root, run, target};
use e2e::ways::{Form, each_way};

use super::{CHECK_MAX, MUX, Store, World, generated};

/// Python with what `tests/run` puts there.
fn python() -> PathBuf {
    let python = target().join("clients-venv/bin/python");
    assert!(python.is_file(), "{} is missing: `tests/run` makes it", python.display());
    python
}

/// What a client says whose check holds.
fn client(at: SocketAddr, check: &str, rest: &[&str]) -> String {
    let mut command = Command::new(python());
    command.arg(root().join("tests/clients/mux_client.py")).arg(generated());
    command.args([&at.port().to_string(), check]).args(rest);
    let Said { code, out, err } = run(command, CHECK_MAX);
    assert_eq!(code, Some(0), "{check}: {err}");
    out
}

#[test]
fn calls_by_mux_cross_from_callers_and_sidecars() {
    let world = World::new(1, MUX, "");
    let (_sidecar, beside) = world.sidecar();
    for at in [world.at, beside] {
        client(at, "echo", &[]);
        client(at, "atOnce", &["60"]);
    }
}

#[test]
fn calls_by_mux_cross_over_each_carrier_and_after_the_loss_of_a_gateway() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::start(dir.path(), "a", MUX);
    each_way(&Form::of("mux", store.at), |at| {
        client(at, "echo", &[]);
        client(at, "atOnce", &["20"]);
    });
}

#[test]
fn calls_of_one_connection_of_mux_are_balanced() {
    let world = World::new(2, MUX, "balance: { algorithm: round-robin }");
    let said = client(world.at, "who", &["100"]);
    assert!(said.contains("'a': 50") && said.contains("'b': 50"), "{said}");
}

#[test]
fn a_call_that_its_caller_gives_up_is_discarded_where_it_is_served() {
    let world = World::new(1, MUX, "");
    let (_sidecar, beside) = world.sidecar();
    for at in [world.at, beside] {
        client(at, "late", &[]);
    }
    let log = || world.stores[0].process.log().matches("discarded").count();
    e2e::wait_until("both are discarded", e2e::wait::SOON, || (log() == 2).then_some(()));
}

#[test]
fn a_call_that_an_endpoint_has_not_touched_goes_to_another() {
    let world = World::of(&["busy", "b"], MUX, "balance: { algorithm: round-robin }");
    // No policy lists the method.
    let said = client(world.at, "who", &["20"]);
    assert_eq!(said.trim(), "{'b': 20}");
}

#[test]
fn a_call_by_mux_is_repeated_if_the_policy_lists_it_and_else_never() {
    let world = World::new(2, MUX, "retry: { methods: [who, breakOffTwice, count] }");
    let said = client(world.at, "broken", &["breakOff"]);
    assert!(said.contains("west.gateway: "), "{said}");
    client(world.at, "broken", &["breakOffTwice"]);
    let counted = |method: &str| {
        let of = |store: &Store| client(store.at, "counted", &[method]).trim().parse().unwrap();
        world.stores.iter().map(of).collect::<Vec<u32>>()
    };
    assert_eq!(counted("breakOff").iter().sum::<u32>(), 1);
    let each = counted("breakOffTwice");
    assert!(each.iter().all(|count| (1..=2).contains(count)), "{each:?}");
}

#[test]
fn the_loss_of_a_cluster_moves_calls_by_mux() {
    let mut world = World::new(1, MUX, "retry: { methods: [who] }");
    let (_other, _north) = world.with_north();
    let (at, east) = (world.at, &mut world.east);
    std::thread::scope(|scope| {
        // Nothing of it fails, whichever cluster it was at.
        let calling = scope.spawn(|| client(at, "many", &["3"]));
        east.process.kill();
        calling.join().unwrap();
    });
    assert_eq!(client(world.at, "who", &["20"]).trim(), "{'other': 20}");
}

#[test]
fn a_call_by_mux_that_nobody_serves_says_why() {
    let mut world = World::new(1, MUX, "timeout: { total: 300ms }");
    let (_sidecar, beside) = world.sidecar();
    let said = client(world.at, "slow", &["2000"]);
    assert!(said.contains("timeout"), "{said}");
    world.stores[0].process.kill();
    for at in [world.at, beside] {
        client(at, "refused", &[]);
    }
    world.stores[0].start_again();
    client(world.at, "until", &["a"]);
}
