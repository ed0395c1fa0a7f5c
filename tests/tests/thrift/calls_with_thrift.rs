//! Calls that are served.

use std::cell::Cell;
use std::io::Write;

use e2e::tcp::{End, connect, end_of, read};
use e2e::ways::{self, each_way};

use super::{FRAMED, Form, Store, World, client};

#[test]
fn every_form_crosses_from_callers_and_sidecars() {
    for transport in ["framed", "buffered"] {
        // Not the old binary protocol: Python 3's library does not know its own methods in it.
        for protocol in ["binary", "compact"] {
            let form = Form(transport, protocol);
            let world = World::new(1, form, "");
            let (_sidecar, beside) = world.sidecar();
            client(world.at, form, "everything", &["from outside"]);
            client(beside, form, "everything", &["from beside"]);
        }
    }
}

#[test]
fn calls_cross_over_each_carrier_and_after_the_loss_of_a_gateway() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::start(dir.path(), "a", FRAMED);
    let tried = Cell::new(0);
    each_way(&ways::Form::of("thrift", store.at), |at| {
        tried.set(tried.get() + 1);
        client(at, FRAMED, "everything", &[&format!("time {}", tried.get())]);
    });
}

#[test]
fn calls_of_one_connection_are_balanced_and_answered_in_their_order() {
    let world = World::new(2, FRAMED, "balance: { algorithm: round-robin }");
    let said = client(world.at, FRAMED, "who", &["100"]);
    assert!(said.contains("'a': 50") && said.contains("'b': 50"), "{said}");
    client(world.at, FRAMED, "pipelined", &[]);
    client(world.at, FRAMED, "upgrade", &[]);
}

#[test]
fn an_endpoint_of_this_cluster_is_called_without_a_tunnel() {
    let world = World::new(1, FRAMED, "");
    let at = std::net::SocketAddr::from(([127, 0, 0, 1], e2e::port::free_port()));
    let here = [
        e2e::manifest::link("west", &[]),
        e2e::manifest::of_connections("store", "thrift", &[("a", world.stores[0].at)], ""),
        FRAMED.listener(at),
    ];
    world.east.site.write(&here);
    world.east.process.hang_up();
    e2e::wait_until("east listens", e2e::wait::SOON, || std::net::TcpStream::connect(at).ok());
    client(at, FRAMED, "everything", &["here"]);
}

#[test]
fn what_is_no_call_is_reset_and_one_that_is_cut_calls_nobody() {
    let world = World::new(1, FRAMED, "");
    let mut stranger = connect(world.at);
    stranger.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    assert_eq!(end_of(&mut stranger), End::Reset);
    let mut cut = connect(world.at);
    cut.write_all(&[0, 0, 0, 50, 0x80, 1, 0, 1, 0, 0]).unwrap();
    cut.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(end_of(&mut cut), End::Reset);
    // An answer that nobody asked for is no call.
    let mut answers = connect(world.at);
    answers.write_all(&[0, 0, 0, 16, 0x80, 1, 0, 2, 0, 0, 0, 3, b'w', b'h', b'o', 0, 0, 0, 5]).unwrap();
    answers.write_all(&[0]).unwrap();
    answers.shutdown(std::net::Shutdown::Write).unwrap();
    let head = read(&mut answers, 8);
    assert_eq!(head[4..], [0x80, 1, 0, 3]);
    client(world.at, FRAMED, "who", &["1"]);
}
