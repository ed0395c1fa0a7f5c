//! Calls that are not served, or not at once.

use std::io::{Read, Write};
use std::process::Stdio;

use super::{FRAMED, Form, Store, World, checking, client};

const LISTED: &str = "retry: { methods: [who, breakOffTwice, count] }";

#[test]
fn a_call_that_nobody_serves_is_an_exception_and_the_connection_goes_on() {
    for form in [FRAMED, Form("buffered", "compact")] {
        let mut world = World::new(1, form, "");
        let (_sidecar, beside) = world.sidecar();
        world.stores[0].process.kill();
        let said = client(world.at, form, "refused", &[]);
        assert!(
            said.starts_with("west.gateway: destination_unavailable: ") || said.contains("refused"),
            "{said}"
        );
        let said = client(beside, form, "refused", &[]);
        assert!(said.starts_with("web-1.west.sidecar: "), "{said}");
        world.stores[0].start_again();
        client(world.at, form, "until", &["a"]);
        client(beside, form, "until", &["a"]);
    }
}

#[test]
fn a_call_is_repeated_if_the_policy_lists_it_and_else_never() {
    let world = World::new(2, FRAMED, LISTED);
    let said = client(world.at, FRAMED, "broken", &["breakOff"]);
    assert!(said.starts_with("west.gateway: "), "{said}");
    client(world.at, FRAMED, "broken", &["breakOffTwice"]);
    let counted = |method: &str| {
        let of = |store: &Store| client(store.at, FRAMED, "counted", &[method]).trim().parse().unwrap();
        world.stores.iter().map(of).collect::<Vec<u32>>()
    };
    assert_eq!(counted("breakOff").iter().sum::<u32>(), 1);
    // One had it twice, perhaps: on a connection that had idled, and on a new one.
    let each = counted("breakOffTwice");
    assert!(each.iter().all(|count| (1..=2).contains(count)), "{each:?}");
}

#[test]
fn an_answer_that_is_too_large_is_nobodys_fault_and_asked_for_once() {
    for form in [FRAMED, Form("buffered", "compact")] {
        let world = World::new(1, form, "retry: { methods: [fill] }");
        let (_sidecar, beside) = world.sidecar();
        client(world.at, form, "large", &[]);
        client(beside, form, "large", &[]);
        assert_eq!(client(world.stores[0].at, form, "counted", &["fill"]).trim(), "12");
    }
}

#[test]
fn a_drain_waits_for_the_rest_of_a_call() {
    let mut world = World::new(1, FRAMED, "");
    let mut caller = checking(world.at, FRAMED, "halves");
    let mut caller = caller.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut said = [0; 4];
    caller.stdout.as_mut().unwrap().read_exact(&mut said).unwrap();
    assert_eq!(&said, b"half");
    world.west.process.ask_to_end();
    world.west.process.wait_log(&["Draining."]);
    caller.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
    assert!(caller.wait().unwrap().success());
    assert!(world.west.process.wait_end().success());
}

#[test]
fn a_call_that_takes_too_long_is_an_exception() {
    let world = World::new(1, FRAMED, "timeout: { total: 300ms }");
    let (_sidecar, beside) = world.sidecar();
    for at in [world.at, beside] {
        let said = client(at, FRAMED, "slow", &["2000"]);
        assert!(said.contains("timeout"), "{said}");
    }
}

#[test]
fn the_loss_of_a_cluster_moves_calls_of_connections_that_are_open() {
    let mut world = World::new(1, FRAMED, LISTED);
    let (_other, _north) = world.with_north();
    let (at, east) = (world.at, &mut world.east);
    std::thread::scope(|scope| {
        // Nothing of it fails, whichever cluster it was at.
        let calling = scope.spawn(|| client(at, FRAMED, "many", &["3"]));
        east.process.kill();
        calling.join().unwrap();
    });
    let said = client(world.at, FRAMED, "who", &["20"]);
    assert_eq!(said.trim(), "{'other': 20}");
}
