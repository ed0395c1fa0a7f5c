//! What Mux says of connections, byte by byte.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use e2e::manifest::{link, of_connections};
use e2e::mesh::{Gateway, Mesh};
use e2e::port::free_port;
use e2e::tcp::{End, Server, connect, end_of};
use e2e::wait::SOON;

use super::MUX;

const DISPATCH: i8 = 2;
const DRAIN: i8 = 64;
const PING: i8 = 65;
const DISCARD: i8 = 66;
const LEASE: i8 = 67;
const INIT: i8 = 68;
const OLD_DISCARD: i8 = -62;
const OLD_ERROR: i8 = 127;

fn say(stream: &mut TcpStream, kind: i8, tag: u32, body: &[u8]) {
    let size = (body.len() as u32 + 4).to_be_bytes();
    let bytes = [&size[..], &kind.to_be_bytes(), &tag.to_be_bytes()[1..], body].concat();
    stream.write_all(&bytes).unwrap();
}

/// The next message; none at the end.
fn hear(stream: &mut TcpStream) -> Option<(i8, u32, Vec<u8>)> {
    let mut size = [0; 4];
    stream.read_exact(&mut size).ok()?;
    let mut message = vec![0; u32::from_be_bytes(size) as usize];
    stream.read_exact(&mut message).ok()?;
    let tag = u32::from_be_bytes([0, message[1], message[2], message[3]]);
    Some((message[0].cast_signed(), tag, message[4..].to_vec()))
}

/// A call without contexts, destination and delegations.
fn call(stream: &mut TcpStream, tag: u32, holds: &[u8]) {
    say(stream, DISPATCH, tag, &[&[0; 6], holds].concat());
}

/// One gateway that serves `shop/store` with this endpoint, and where it listens.
fn gateway(endpoint: SocketAddr) -> (Gateway, SocketAddr, Mesh) {
    let mesh = Mesh::new();
    let at = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let serves = of_connections("store", "mux", &[("a", endpoint)], "");
    let gateway = mesh.site("west", &["east"]).start(&[link("east", &[]), serves, MUX.listener(at)]);
    (gateway, at, mesh)
}

/// Answers each call with what it holds, but `wait`, which it does not answer; says things of the connection before.
fn echo(mut stream: TcpStream) {
    while let Some((kind, tag, body)) = hear(&mut stream) {
        match (kind, body.get(6..)) {
            (DISPATCH, Some(b"wait")) => {}
            (DISPATCH, Some(b"last")) => {
                say(&mut stream, DRAIN, 9, b"");
                assert_eq!(hear(&mut stream), Some((-DRAIN, 9, vec![])));
                say(&mut stream, -DISPATCH, tag, b"\0\0\0last");
                assert_eq!(hear(&mut stream), None, "no call comes any more");
            }
            (DISPATCH, Some(holds)) => {
                say(&mut stream, PING, 1, b"");
                assert_eq!(hear(&mut stream), Some((-PING, 1, vec![])));
                say(&mut stream, LEASE, 0, b"\0\0\0\0\0\0\0\x75\x30");
                say(&mut stream, -DISPATCH, tag, &[b"\0\0\0", holds].concat());
                // While it is idle, too.
                say(&mut stream, PING, 2, b"");
            }
            (OLD_DISCARD, _) => return,
            (pong, _) => assert_eq!(pong, -PING),
        }
    }
}

#[test]
fn what_is_about_a_connection_is_between_its_ends() {
    let server = Server::start(echo);
    let (mut gateway, at, _mesh) = gateway(server.address());
    let mut caller = connect(at);
    say(&mut caller, PING, 5, b"");
    assert_eq!(hear(&mut caller), Some((-PING, 5, vec![])));
    // Whether the other end can do what was agreed on later: no.
    say(&mut caller, OLD_ERROR, 1, b"tinit check");
    let (kind, tag, why) = hear(&mut caller).unwrap();
    assert_eq!((kind, tag), (OLD_ERROR, 1));
    assert_ne!(why, b"tinit check");
    say(&mut caller, INIT, 1, b"\0\x01");
    assert_eq!(hear(&mut caller).unwrap().0, OLD_ERROR);
    // Whatever it is that a call holds.
    for n in 0..20 {
        let holds = [0xff, n];
        call(&mut caller, 1000 + u32::from(n), &holds);
        assert_eq!(
            hear(&mut caller),
            Some((-DISPATCH, 1000 + u32::from(n), [b"\0\0\0", &holds[..]].concat()))
        );
    }
    // Its endpoint goes away behind an answer, and another connection is made.
    for holds in [&b"last"[..], b"next", b"last", b"next"] {
        call(&mut caller, 3, holds);
        assert_eq!(hear(&mut caller), Some((-DISPATCH, 3, [b"\0\0\0", holds].concat())));
    }
    // An answer overtakes another.
    call(&mut caller, 4, b"wait");
    call(&mut caller, 5, b"fast");
    assert_eq!(hear(&mut caller).unwrap().1, 5);
    say(&mut caller, DISCARD, 0, b"\0\0\x04late");
    assert_eq!(hear(&mut caller), Some((-DISCARD, 4, vec![])));
    // Its tag is free again.
    call(&mut caller, 4, b"again");
    assert_eq!(hear(&mut caller).unwrap().2, b"\0\0\0again");

    gateway.process.ask_to_end();
    let (kind, tag, _) = hear(&mut caller).unwrap();
    assert_eq!(kind, DRAIN);
    // One more was on its way.
    call(&mut caller, 6, b"more");
    say(&mut caller, -DRAIN, tag, b"");
    assert_eq!(hear(&mut caller).unwrap().2, b"\0\0\0more");
    // Who has said that it sends none is told that nothing is done of it.
    call(&mut caller, 7, b"late");
    let (kind, tag, said) = hear(&mut caller).unwrap();
    assert_eq!((kind, tag, said[0]), (-DISPATCH, 7, 2));
    assert_eq!(end_of(&mut caller), End::Clean(Vec::new()));
    assert!(gateway.process.wait_end().success());
}

#[test]
fn a_caller_that_leaves_is_told_of_where_its_calls_are_served() {
    let (told, heard) = std::sync::mpsc::sync_channel(8);
    let server = Server::start(move |mut stream| {
        while let Some((kind, ..)) = hear(&mut stream) {
            told.send(kind).unwrap();
        }
    });
    let (_gateway, at, _mesh) = gateway(server.address());
    let mut caller = connect(at);
    call(&mut caller, 4, b"wait");
    assert_eq!(heard.recv_timeout(SOON).unwrap(), DISPATCH);
    drop(caller);
    assert_eq!(heard.recv_timeout(SOON).unwrap(), OLD_DISCARD);
}

#[test]
fn what_breaks_the_rules_of_mux_is_reset_and_calls_nobody() {
    let server = Server::start(echo);
    let (_gateway, at, _mesh) = gateway(server.address());
    let reset = |bytes: &[u8]| {
        let mut caller = connect(at);
        caller.write_all(bytes).unwrap();
        // It may be reset by now.
        let _ = caller.shutdown(std::net::Shutdown::Write);
        assert_eq!(end_of(&mut caller), End::Reset, "{bytes:?}");
    };
    reset(b"GET / HTTP/1.1\r\n\r\n");
    // No tag; a fragment; a call whose contexts are longer than it; a call that is cut.
    reset(b"\0\0\0\x0a\x02\0\0\0\0\0\0\0\0\0");
    reset(b"\0\0\0\x0a\x02\x80\0\x05\0\0\0\0\0\0");
    reset(b"\0\0\0\x0a\x02\0\0\x05\0\x09\0\x09\0\x09");
    reset(b"\0\0\0\x0a\x02\0\0\x05");
    // Two calls of one tag.
    let mut caller = connect(at);
    call(&mut caller, 4, b"wait");
    call(&mut caller, 4, b"wait");
    assert_eq!(end_of(&mut caller), End::Reset);
}
