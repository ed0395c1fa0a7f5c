//! Where flows go, how long they stay, and what they carry.

use std::net::{Ipv4Addr, UdpSocket};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use e2e::client::{Request, fetch};
use e2e::manifest::{link, listener, of_connections, policy};
use e2e::mesh::Mesh;
use e2e::wait::SOON;
use e2e::wait_until;
use e2e::ways::{Form, Ways};

use super::{Echo, World, address, ask, caller};

#[test]
fn datagrams_of_any_size_cross_whole_by_each_way() {
    let echo = Echo::start("");
    let world = World::new(echo.address);
    let (_sidecar, sidecar) = world.sidecar();
    for at in [world.at, sidecar] {
        let socket = caller(at);
        for length in [1, 500, 1_200, 1_400, 1_472, 9_000, 60_000, 65_000] {
            let datagram: Vec<u8> = (0..length).map(|n| (n % 251) as u8).collect();
            let answer = wait_until(&format!("{length} bytes"), SOON, || ask(&socket, &datagram));
            assert!(answer == datagram, "{length} bytes");
        }
        // An empty one is one.
        assert_eq!(wait_until("nothing", SOON, || ask(&socket, b"")), b"");
    }
    // Each caller is a flow of its own.
    let before = echo.sources.load(Ordering::Relaxed);
    for n in 0..20_u8 {
        assert_eq!(wait_until("an answer", SOON, || ask(&caller(world.at), &[n])), [n]);
    }
    assert_eq!(echo.sources.load(Ordering::Relaxed) - before, 20);
}

#[test]
fn a_flow_stays_until_its_cluster_is_gone_and_then_moves() {
    let (of_east, of_north) = (Echo::start("east "), Echo::start("north"));
    let mesh = Mesh::new();
    let [east, north, west] = ["east", "north", "west"].map(|c| mesh.site(c, &["east", "north", "west"]));
    let dns = |echo: &Echo| of_connections("dns", "udp", &[("a", echo.address)], "");
    let east_first = policy("dns", "placement: { mode: local-first, tiers: [[east], [north]] }");
    let mut east = east.start(&[link("west", &[]), dns(&of_east), east_first]);
    let north = north.start(&[link("west", &[]), dns(&of_north)]);
    let at = address();
    let west = west.start(&[
        link("east", &[east.site.tunnel]),
        link("north", &[north.site.tunnel]),
        listener("dns", &at.to_string(), "protocol: udp\n  service: dns"),
    ]);
    west.wait_service("shop/dns", &["east", "north"]);
    let socket = caller(at);
    for _ in 0..20 {
        assert_eq!(wait_until("an answer", SOON, || ask(&socket, b"")), b"east ");
    }
    east.process.kill();
    let lost = Instant::now();
    wait_until("north answers", SOON, || (ask(&socket, b"")? == b"north").then_some(()));
    assert!(lost.elapsed() < Duration::from_secs(8), "{:?}", lost.elapsed());
    east.restart();
    west.wait_service("shop/dns", &["east", "north"]);
    for _ in 0..20 {
        assert_eq!(wait_until("an answer", SOON, || ask(&socket, b"")), b"north", "it stays where it is");
    }
    assert_eq!(wait_until("an answer", SOON, || ask(&caller(at), b"")), b"east ", "a new one");
}

#[test]
fn where_nobody_listens_the_next_endpoint_is_asked() {
    let echo = Echo::start("");
    let world = World::with(&[("a", address()), ("b", address()), ("c", echo.address)], "");
    for n in 0..10_u8 {
        let socket = caller(world.at);
        assert_eq!(wait_until("an answer", SOON, || ask(&socket, &[n])), [n]);
    }
}

#[test]
fn a_flow_that_says_nothing_ends() {
    let echo = Echo::start("");
    let world = World::with(&[("a", echo.address)], "timeout: { idle: 1s }");
    let socket = caller(world.at);
    let open = |count: &str| {
        wait_until(&format!("{count} are open"), SOON, || {
            let text = fetch(world.west.site.admin, &Request::get("localhost", "/metrics")).ok()?.text();
            let line = format!("ringway_connections{{direction=\"outbound\",service=\"shop/dns\"}} {count}");
            text.lines().any(|shown| shown == line).then_some(())
        });
    };
    wait_until("an answer", SOON, || ask(&socket, b"x"));
    open("1");
    assert_eq!(echo.sources.load(Ordering::Relaxed), 1);
    open("0");
    wait_until("an answer", SOON, || ask(&socket, b"x"));
    assert_eq!(echo.sources.load(Ordering::Relaxed), 2);
}

#[test]
fn answers_come_from_the_address_that_was_asked_and_drops_are_counted() {
    let echo = Echo::start("");
    let mesh = Mesh::new();
    let port = e2e::port::free_port();
    let west = mesh.site("west", &[]).start(&[
        of_connections("dns", "udp", &[("a", echo.address)], ""),
        listener("dns", &format!("0.0.0.0:{port}"), "protocol: udp\n  service: dns"),
        listener("none", &address().to_string(), "protocol: udp\n  service: none"),
    ]);
    for last in 1..5 {
        let to: std::net::SocketAddr = (Ipv4Addr::new(127, 0, 0, last), port).into();
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        socket.connect(to).unwrap();
        socket.set_read_timeout(Some(super::PATIENCE)).unwrap();
        // From any other address the system would not hand it over.
        assert_eq!(wait_until("an answer", SOON, || ask(&socket, b"x")), b"x");
    }
    let complaints = west.complaints("Listener shop/none");
    assert!(complaints.iter().any(|said| said.contains("BackendNotFound")), "{complaints:?}");
    let text = fetch(west.site.admin, &Request::get("localhost", "/metrics")).unwrap().text();
    for cause in ["flows", "unplaced", "queue", "tunnel", "socket", "size"] {
        let line = format!("ringway_datagrams_dropped_total{{cause=\"{cause}\"}} 0");
        assert!(text.lines().any(|shown| shown == line), "{line} in {text}");
    }
}

#[test]
fn what_is_dropped_is_counted_by_its_cause() {
    let echo = Echo::start("");
    // Where UDP is blocked a tunnel holds few datagrams.
    let ways = Ways::new(&Form::of("udp", echo.address), true);
    let dropped = |cause: &str| {
        let text = ways.west.admin("/metrics")?.text();
        let name = format!("ringway_datagrams_dropped_total{{cause=\"{cause}\"}} ");
        text.lines().find_map(|line| line.strip_prefix(&name)?.parse::<u64>().ok()).filter(|count| *count > 0)
    };
    let burst = |socket: &UdpSocket, count: usize| {
        for _ in 0..count {
            // The system may have no room for it.
            let _ = socket.send(&[7; 1_000]);
        }
    };
    let socket = caller(ways.at);
    wait_until("an answer", SOON, || ask(&socket, b"x"));
    assert_eq!(dropped("tunnel"), None);
    wait_until("the tunnel has no room", SOON, || {
        burst(&socket, 500);
        dropped("tunnel")
    });
    // Nobody says where the next flow goes, until all are down.
    for gateway in [&ways.east, &ways.north] {
        gateway.process.freeze();
    }
    let (socket, before) = (caller(ways.at), dropped("queue"));
    wait_until("too many wait", SOON, || {
        burst(&socket, 200);
        (dropped("queue") > before).then_some(())
    });
    wait_until("nobody takes them", SOON, || {
        burst(&socket, 1);
        dropped("unplaced")
    });
}
