//! Tunnels on TCP where QUIC does not pass, and beside it where it does: nothing is lost at a change, and a dead process
//! is noticed at once.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use e2e::backend::{Backend, Outcome};
use e2e::client::{Connection, Request};
use e2e::http::{Digest, pattern};
use e2e::manifest::{link, policy, service, sharded};
use e2e::mesh::{Gateway, Mesh, lanes, undoubted};
use e2e::pair::{CART, Pair};
use e2e::relay::Relay;
use e2e::stream_relay::StreamRelay;
use e2e::traffic::{Ask, Traffic};
use e2e::wait::{AT_ONCE, SOON, wait_until};

/// West and east, linked through a relay of UDP and one of TCP on the same port. East alone dials nobody.
struct Linked {
    west: Gateway,
    east: Gateway,
    backend: Backend,
    udp: Relay,
    tcp: StreamRelay,
    _west_backend: Backend,
    _mesh: Mesh,
}

impl Linked {
    /// `blocked`: nothing passes over UDP from the start. With `rest` as policy of `cart` in both, which then both serve.
    fn start(blocked: bool, rest: &str) -> Self {
        let mesh = Mesh::new();
        let (backend, west_backend) = (Backend::start("east/a"), Backend::start("west/a"));
        let (east, west) = (mesh.site("east", &["west"]), mesh.site("west", &["east"]));
        let mut in_east = vec![link("west", &[]), service("cart", &[("a", backend.address())])];
        let (udp, tcp) = StreamRelay::beside_udp(east.tunnel);
        if blocked {
            udp.cut();
        }
        let mut in_west = vec![link("east", &[udp.address()])];
        let mut serve = vec!["east"];
        if !rest.is_empty() {
            in_west.push(service("cart", &[("a", west_backend.address())]));
            in_west.push(policy("cart", rest));
            in_east.push(policy("cart", rest));
            serve.push("west");
        }
        let east = east.start(&in_east);
        let west = west.start(&in_west);
        west.wait_service("shop/cart", &serve);
        Self { west, east, backend, udp, tcp, _west_backend: west_backend, _mesh: mesh }
    }

    /// Waits until west has so many tunnels on QUIC and on TCP.
    fn wait_tunnels(&self, quic: usize, tcp: usize) {
        self.west.wait_tunnels("east", quic, tcp);
    }

    fn traffic(&self) -> Traffic {
        Traffic::start(self.west.site.http, 4, Ask::get(CART))
    }

    fn changes(&self, to: &str) -> usize {
        let log = self.west.process.log();
        log.lines().filter(|l| l.contains("peer health changed") && l.contains(to)).count()
    }
}

fn body(len: u64) -> Vec<u8> {
    let mut body = Vec::new();
    pattern(len, |piece| {
        body.extend_from_slice(piece);
        Ok(())
    })
    .unwrap();
    body
}

#[test]
fn where_udp_is_blocked_everything_passes_over_tcp() {
    let linked = Linked::start(true, "");
    linked.wait_tunnels(0, 1);
    for size in [0, 1, 16_385, 65_537, 5_000_003, 32 * 1_048_576] {
        let echoed = linked.west.ask(&Request::post(CART, "/echo", &body(size))).unwrap();
        assert_eq!((echoed.status, echoed.digest), (200, Digest::of_pattern(size)), "{size}");
        let request = Request::new("POST", CART, "/echo").with_chunks(&body(size), 10_007, &[("x-sum", "7")]);
        assert_eq!(linked.west.ask(&request).unwrap().digest, Digest::of_pattern(size), "{size}");
        for framing in ["bytes", "chunked"] {
            let got = linked.west.get(CART, &format!("/{framing}/{size}"));
            assert_eq!(got.digest, Digest::of_pattern(size), "{framing} {size}");
        }
    }
    // A cut body is an error, before its head was forwarded or after, and hurts no other request.
    let cut = linked.west.ask(&Request::get(CART, "/cut/1000000/500000"));
    assert!(cut.as_ref().is_err() || cut.as_ref().is_ok_and(|answer| answer.status == 502), "{cut:?}");
    assert_eq!(linked.west.get(CART, "/status/418").status, 418);
    assert_eq!(linked.west.get(CART, "/slam").status, 502);
    // A caller that goes away cancels its request at the backend.
    let mut caller = Connection::open(linked.west.site.http).unwrap();
    caller.send(&Request::get(CART, "/hold")).unwrap();
    let held = |outcome| {
        let seen = linked.backend.seen();
        seen.iter().any(|s| s.target == "/hold" && s.outcome == outcome).then_some(())
    };
    wait_until("the request is held", SOON, || held(Outcome::Open));
    drop(caller);
    wait_until("the request is cancelled", SOON, || held(Outcome::Cancelled));

    let metrics = linked.west.admin("/metrics").unwrap().text();
    for line in [
        r#"ringway_tunnel_up{peer="east",carrier="tcp"} 1"#,
        r#"ringway_tunnel_up{peer="east",carrier="quic"} 0"#,
    ] {
        assert!(metrics.contains(line), "{metrics}");
    }
    let error = linked.west.wait_status("why QUIC is not up", SOON, |status| {
        Some(status["links"][0]["last_error"].as_str()?.to_owned())
    });
    assert!(error.starts_with("quic ") && !error.contains("tcp "), "{error}");
}

#[test]
fn keys_stay_where_they_belong_whatever_the_carrier() {
    let linked = Linked::start(true, &sharded(&["east", "west"]));
    let place = |n| {
        let request = Request::get(CART, "/").with("x-user", &format!("user-{n}"));
        (n, linked.west.ask(&request).unwrap().field("x-served-by").unwrap().to_owned())
    };
    linked.wait_tunnels(0, 1);
    let places = || undoubted([&linked.west], || (0..40).map(place).collect::<BTreeMap<_, _>>());
    let over_tcp = places();
    assert!(over_tcp.values().any(|by| by == "east/a") && over_tcp.values().any(|by| by == "west/a"));
    linked.udp.heal();
    linked.wait_tunnels(lanes(), 1);
    assert_eq!(over_tcp, places());
}

#[test]
fn nothing_is_lost_when_udp_is_blocked_in_mid_life_and_when_it_passes_again() {
    let linked = Linked::start(false, "");
    linked.wait_tunnels(lanes(), 1);
    let traffic = linked.traffic();
    traffic.wait_more(200);
    linked.udp.cut();
    linked.wait_tunnels(0, 1);
    traffic.wait_more(200);
    linked.udp.heal();
    linked.wait_tunnels(lanes(), 1);
    // Requests are on QUIC again: what they need passes there.
    let (passed, _) = linked.udp.counts(e2e::relay::Toward::Target);
    traffic.wait_more(500);
    assert!(linked.udp.counts(e2e::relay::Toward::Target).0 > passed + 200);
    let report = traffic.stop();
    report.assert_none_failed();
    assert!(report.slowest() < AT_ONCE, "the slowest took {:?}", report.slowest());
    assert_eq!(linked.changes("to=\"down\""), 0, "the peer was there all the time");
    linked.west.process.wait_log(&["tunnel given up", "quic is silent"]);
}

#[test]
fn tcp_connections_that_are_cut_alone_move_nothing() {
    let linked = Linked::start(false, "");
    let traffic = linked.traffic();
    for round in 1..=3 {
        linked.wait_tunnels(lanes(), 1);
        wait_until("west has dialled through the relay", SOON, || {
            (linked.tcp.passed() >= round).then_some(())
        });
        linked.tcp.cut();
        linked.west.wait_status("the cut is noticed", SOON, |_| {
            (linked.changes("to=\"suspect\"") >= round).then_some(())
        });
        linked.west.wait_peer("east", "up");
        traffic.wait_more(50);
    }
    traffic.stop().assert_none_failed();
    assert_eq!(linked.changes("to=\"down\""), 0, "{}", linked.west.process.log());
    assert_eq!(linked.east.peer_state("west").as_deref(), Some("up"));
}

#[test]
fn the_death_of_an_idle_peer_is_noticed_well_before_its_silence() {
    /// Its silence takes 500 ms to show, after a probe that an idle peer gets each second.
    const SOON_ENOUGH: Duration = Duration::from_millis(350);
    let mut pair = Pair::new();
    let mut took = Vec::new();
    while took.iter().all(|took| *took >= SOON_ENOUGH) {
        // For one of so many the machine must have been free for a moment.
        assert!(took.len() < 10, "noticed after {took:?}");
        // Nothing is on its way.
        let killed = Instant::now();
        pair.east.process.kill();
        pair.west.wait_peer("east", "down");
        took.push(killed.elapsed());
        pair.east.restart();
        pair.west.wait_peer("east", "up");
        pair.west.wait_tunnels("east", lanes(), 1);
    }
}

#[test]
fn the_socket_for_this_host_is_there_while_the_gateway_is() {
    let mut pair = Pair::new();
    let socket = pair.east.site.dir.join("state/tunnel.sock");
    assert_eq!(std::fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
    // Left behind by a killed process, and replaced.
    pair.east.process.kill();
    assert!(socket.exists());
    pair.east.restart();
    std::os::unix::net::UnixStream::connect(&socket).unwrap();
    assert!(pair.east.process.terminate().success());
    assert!(!socket.exists());
}
