//! `Upgrade` and CONNECT of HTTP/1.1.

use std::io::Write;
use std::net::Shutdown;
use std::time::{Duration, Instant};

use e2e::client::{Request, fetch};
use e2e::manifest::{link, of_connections, service};
use e2e::mesh::Mesh;
use e2e::tcp::{End, Server, connect, end_of, read};

use super::{CART, World, endpoint, head, upgrade};

#[test]
fn an_upgrade_crosses_with_its_fields_and_each_way_ends_by_itself() {
    let endpoint = endpoint();
    let world = World::new(endpoint.address(), "");
    let sidecar = world.sidecar();
    for at in [world.west.site.http, world.east.site.http, sidecar.site.proxy] {
        let (answer, mut stream) = upgrade(at, "/?a=b", "");
        assert!(answer.starts_with("HTTP/1.1 101 Switching Protocols\r\n"), "{answer}");
        for field in ["connection: upgrade\r\n", "upgrade: echo\r\n", "x-mine: 1\r\n"] {
            assert!(answer.contains(field), "{field} in {answer}");
        }
        assert_eq!(read(&mut stream, 5), b"hello");
        let sent = vec![7; 2 << 20];
        let mut writing = stream.try_clone().unwrap();
        let writer = std::thread::spawn({
            let sent = sent.clone();
            move || {
                writing.write_all(&sent).unwrap();
                writing.shutdown(Shutdown::Write).unwrap();
            }
        });
        assert_eq!(end_of(&mut stream), End::Clean(sent));
        writer.join().unwrap();
        let (_, mut stream) = upgrade(at, "/seen", "x-caller: me\r\n");
        let End::Clean(seen) = end_of(&mut stream) else { panic!("reset") };
        let seen = String::from_utf8(seen).unwrap().to_ascii_lowercase();
        for field in
            ["get /seen http/1.1\r\n", "connection: upgrade\r\n", "upgrade: echo\r\n", "x-caller: me\r\n"]
        {
            assert!(seen.contains(field), "{field} in {seen}");
        }
    }
}

#[test]
fn what_is_refused_is_an_answer_and_what_was_not_asked_for_is_none() {
    let endpoint = endpoint();
    let world = World::new(endpoint.address(), "");
    for at in [world.west.site.http, world.east.site.http] {
        let (answer, mut stream) = upgrade(at, "/no", "");
        assert!(answer.starts_with("HTTP/1.1 426 "), "{answer}");
        assert_eq!(read(&mut stream, 2), b"no");
        let (answer, _) = upgrade(at, "/other", "");
        assert!(answer.starts_with("HTTP/1.1 502 "), "{answer}");
        // Nobody asked for 101.
        assert_eq!(fetch(at, &Request::get(CART, "/")).unwrap().status, 502);
        // To h2c nobody is upgraded, and a body makes of it what it would be without.
        let asks =
            Request::get(CART, "/no").with("connection", "upgrade, http2-settings").with("upgrade", "h2c");
        assert_eq!(fetch(at, &asks).unwrap().status, 426);
    }
}

#[test]
fn a_cut_is_a_cut_and_silence_ends_by_idle_and_not_by_total() {
    let endpoint = endpoint();
    let world = World::new(endpoint.address(), "timeout: { total: 1s, idle: 2s }");
    let at = world.west.site.http;
    let (_, mut stream) = upgrade(at, "/cut", "");
    assert_eq!(read(&mut stream, 5), b"hello");
    stream.write_all(b"x").unwrap();
    assert_eq!(end_of(&mut stream), End::Reset);
    let (_, mut stream) = upgrade(at, "/", "");
    assert_eq!(read(&mut stream, 5), b"hello");
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(3) {
        stream.write_all(b"x").unwrap();
        assert_eq!(read(&mut stream, 1), b"x");
        e2e::pause(Duration::from_millis(100));
    }
    let quiet = Instant::now();
    assert_eq!(end_of(&mut stream), End::Reset);
    // The last byte moved a pause ago, or a little more.
    assert!(quiet.elapsed() >= Duration::from_millis(1500), "{:?}", quiet.elapsed());
}

#[test]
fn connect_leads_to_ports_of_the_mesh() {
    let (db, web) = (Server::echo(b"hello"), e2e::backend::Backend::start("east/a"));
    let mesh = Mesh::new();
    let (east, west) = (mesh.site("east", &["west"]), mesh.site("west", &["east"]));
    let east = east.start(&[
        link("west", &[]),
        of_connections("db", "tcp", &[("a", db.address())], ""),
        service("cart", &[("a", web.address())]),
    ]);
    let west = west.start(&[link("east", &[east.site.tunnel])]);
    west.wait_service("shop/db", &["east"]);
    west.wait_service("shop/cart", &["east"]);
    let world = World { west, east, mesh };
    let sidecar = world.sidecar();
    for at in [world.west.site.http, sidecar.site.proxy] {
        let asks = |authority: &str| {
            let mut stream = connect(at);
            let asks = format!("CONNECT {authority} HTTP/1.1\r\nhost: {authority}\r\n\r\n");
            stream.write_all(asks.as_bytes()).unwrap();
            (head(&mut stream), stream)
        };
        let (answer, mut stream) = asks("db.shop.mesh:5432");
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        assert_eq!(read(&mut stream, 5), b"hello");
        stream.write_all(b"ping").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        assert_eq!(end_of(&mut stream), End::Clean(b"ping".to_vec()));
        let (answer, _) = asks("nobody.shop.mesh:5432");
        assert!(answer.starts_with("HTTP/1.1 404 ") && answer.contains("destination_not_found"), "{answer}");
        let (answer, _) = asks("db.shop.mesh:80");
        assert!(answer.starts_with("HTTP/1.1 404 "), "{answer}");
        // A port of HTTP: its requests are placed one by one all the same.
        let (answer, mut stream) = asks("cart.shop.mesh:80");
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        for _ in 0..2 {
            stream.write_all(b"GET /status/204 HTTP/1.1\r\nhost: cart.shop.mesh\r\n\r\n").unwrap();
            let answer = head(&mut stream);
            assert!(answer.starts_with("HTTP/1.1 204 "), "{answer}");
        }
    }
}
