//! The bytes of a connection, its ends and its cuts.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use e2e::tcp::{End, Server, connect, end_of, read, reset};
use e2e::wait::{AT_ONCE, SOON};

use super::World;

/// Bytes that look like nothing else.
fn noise(length: usize) -> Vec<u8> {
    let mut rng = fastrand::Rng::with_seed(7);
    std::iter::repeat_with(|| rng.u8(..)).take(length).collect()
}

#[test]
fn a_server_speaks_first_and_each_way_ends_by_itself() {
    let server = Server::echo(b"220 ready\r\n");
    let world = World::new(&server);
    let mut client = connect(world.at);
    assert_eq!(read(&mut client, 11), b"220 ready\r\n");
    let sent = noise(8 << 20);
    let mut writing = client.try_clone().unwrap();
    let writer = std::thread::spawn({
        let sent = sent.clone();
        move || {
            writing.write_all(&sent).unwrap();
            writing.shutdown(Shutdown::Write).unwrap();
        }
    });
    assert_eq!(end_of(&mut client), End::Clean(sent), "all of it came back behind our own end");
    writer.join().unwrap();
}

#[test]
fn a_cut_is_a_reset_on_the_other_side_and_never_an_end() {
    let (told, hears) = mpsc::sync_channel(64);
    let (begins, begun) = mpsc::sync_channel(64);
    let told = std::sync::Mutex::new((told, begins));
    let server = Server::start(move |mut stream| {
        let mut first = [0];
        match stream.read(&mut first) {
            Ok(1) if first == *b"x" => {
                stream.write_all(b"half an answer").unwrap();
                // Read before the reset overtakes it.
                let _ = stream.read(&mut first);
                reset(stream);
            }
            _ => {
                let (told, begins) = told.lock().unwrap().clone();
                begins.send(()).unwrap();
                told.send(end_of(&mut stream)).unwrap();
            }
        }
    });
    let world = World::new(&server);
    let mut client = connect(world.at);
    client.write_all(b"x").unwrap();
    assert_eq!(read(&mut client, 14), b"half an answer");
    client.write_all(b"x").unwrap();
    assert_eq!(end_of(&mut client), End::Reset, "of the server");

    let mut client = connect(world.at);
    client.write_all(b"y").unwrap();
    begun.recv_timeout(SOON).expect("the server has it");
    reset(client);
    assert_eq!(hears.recv_timeout(SOON).unwrap(), End::Reset, "of the client");

    // The loss of a gateway, of either side.
    let mut client = connect(world.at);
    client.write_all(b"y").unwrap();
    begun.recv_timeout(SOON).expect("the server has it");
    let World { mut east, west, .. } = world;
    let cut = Instant::now();
    east.process.kill();
    assert_eq!(end_of(&mut client), End::Reset, "of the gateway");
    assert!(cut.elapsed() < AT_ONCE, "{:?}", cut.elapsed());
    assert_eq!(
        hears.recv_timeout(SOON).unwrap(),
        End::Reset,
        "the system resets what a dead process had unread"
    );
    drop(west);
}

#[test]
fn what_is_not_read_is_not_taken() {
    let (go, gone) = mpsc::sync_channel::<()>(64);
    let gone = std::sync::Mutex::new(gone);
    let server = Server::start(move |mut stream| {
        gone.lock().unwrap().recv().unwrap();
        let mut all = Vec::new();
        stream.read_to_end(&mut all).unwrap();
        stream.write_all(&all.len().to_be_bytes()).unwrap();
    });
    let world = World::new(&server);
    let mut client = connect(world.at);
    client.set_write_timeout(Some(Duration::from_secs(1))).unwrap();
    let chunk = vec![7; 1 << 20];
    let mut sent = 0_usize;
    // More than all buffers on the way together.
    let full = (0..256).find_map(|_| match client.write(&chunk) {
        Ok(count) => {
            sent += count;
            None
        }
        Err(error) => Some(error),
    });
    assert!(full.is_some(), "{sent} bytes were taken that nobody reads");
    go.send(()).unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(usize::from_be_bytes(read(&mut client, 8).try_into().unwrap()), sent);
}

#[test]
fn what_says_nothing_for_too_long_ends_and_what_moves_goes_on() {
    let server = Server::echo(b"");
    let world = World::with(&[("a", server.address())], "", "timeout: { idle: 1s }");
    let mut client = connect(world.at);
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(3) {
        client.write_all(b"x").unwrap();
        read(&mut client, 1);
        e2e::pause(Duration::from_millis(100));
    }
    let quiet = Instant::now();
    assert_eq!(end_of(&mut client), End::Reset);
    assert!(quiet.elapsed() >= Duration::from_millis(900), "{:?}", quiet.elapsed());
}

/// An address that takes no connection and refuses none, as long as what is given with it lives.
fn swallowing() -> (SocketAddr, Vec<socket2::Socket>) {
    let socket = || socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    let listener = socket();
    listener.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    listener.listen(0).unwrap();
    let at = listener.local_addr().unwrap().as_socket().unwrap();
    let mut held = vec![listener];
    loop {
        let caller = socket();
        if caller.connect_timeout(&at.into(), Duration::from_millis(100)).is_err() {
            return (at, held);
        }
        held.push(caller);
    }
}

#[test]
fn the_connect_timeout_of_whoever_asks_counts_where_the_endpoint_is() {
    let (at, _held) = swallowing();
    // To either side of the 5 s that are usual.
    for (connect_wait, least, most) in [("300ms", 300, 4_500), ("7s", 6_000, 60_000)] {
        let world = World::with(&[("a", at)], "", &format!("timeout: {{ connect: {connect_wait} }}"));
        let began = Instant::now();
        assert_eq!(end_of(&mut connect(world.at)), End::Reset);
        let took = began.elapsed().as_millis();
        assert!((least..most).contains(&took), "{connect_wait}: {took} ms");
    }
}
