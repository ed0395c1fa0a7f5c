//! Zero lost replayable requests while gateways, links and endpoints come and go; nothing else is ever sent twice.
#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use e2e::backend::Backend;
use e2e::manifest::{link, service};
use e2e::mesh::{Gateway, Mesh};
use e2e::pair::{CART, Pair, Setup};
use e2e::relay::{Fault, Relay, Toward};
use e2e::traffic::{Ask, Report, Traffic};
use e2e::wait::{AT_ONCE, SOON, pause};

/// West places `shop/cart` on east, through a relay, and on north.
struct Trio {
    west: Gateway,
    east: Gateway,
    north: Gateway,
    east_backend: Backend,
    north_backend: Backend,
    relay: Relay,
    _mesh: Mesh,
}

impl Trio {
    fn start() -> Self {
        let mesh = Mesh::new();
        let (east_backend, north_backend) = (Backend::start("east/a"), Backend::start("north/a"));
        let serving = |cluster: &str, backend: &Backend| {
            let site = mesh.site(cluster, &["west"]);
            let objects = [link("west", &[]), service("cart", &[("a", backend.address())])];
            site.start(&objects)
        };
        let (east, north) = (serving("east", &east_backend), serving("north", &north_backend));
        let relay = Relay::start(east.site.tunnel, 1);
        let west = mesh.site("west", &["east", "north"]);
        let west = west.start(&[link("east", &[relay.address()]), link("north", &[north.site.tunnel])]);
        west.wait_service("shop/cart", &["east", "north"]);
        Self { west, east, north, east_backend, north_backend, relay, _mesh: mesh }
    }

    fn traffic(&self, method: &'static str) -> Traffic {
        Traffic::start(self.west.site.http, 8, Ask { method, ..Ask::get(CART) })
    }

    /// Waits until requests are answered by both.
    fn wait_both(&self) {
        let (east, north) = (self.east_backend.seen().len(), self.north_backend.seen().len());
        e2e::wait_until("both answer", SOON, || {
            (self.east_backend.seen().len() > east && self.north_backend.seen().len() > north).then_some(())
        });
    }
}

/// No request lost, and none that hung about.
fn assert_smooth(report: &Report) {
    report.assert_none_failed();
    assert!(report.slowest() < AT_ONCE, "the slowest took {:?}", report.slowest());
}

#[test]
fn no_get_is_lost_when_a_gateway_is_killed_and_returns() {
    let mut trio = Trio::start();
    let traffic = trio.traffic("GET");
    trio.wait_both();
    trio.east.process.kill();
    trio.west.wait_peer("east", "down");
    traffic.wait_more(200);
    trio.east.restart();
    trio.west.wait_peer("east", "up");
    trio.wait_both();
    assert_smooth(&traffic.stop());
}

#[test]
fn no_get_is_lost_when_a_link_is_cut_and_healed() {
    let trio = Trio::start();
    let traffic = trio.traffic("GET");
    trio.wait_both();
    trio.relay.cut();
    trio.west.wait_peer("east", "down");
    traffic.wait_more(200);
    trio.relay.heal();
    trio.west.wait_peer("east", "up");
    trio.wait_both();
    assert_smooth(&traffic.stop());
}

#[test]
fn no_get_is_lost_when_a_link_falls_silent_one_way() {
    let trio = Trio::start();
    let traffic = trio.traffic("GET");
    for toward in [Toward::Target, Toward::Client] {
        trio.wait_both();
        trio.relay.set(toward, Fault { silent: true, ..Fault::default() });
        trio.west.wait_peer("east", "down");
        traffic.wait_more(200);
        trio.relay.heal();
        trio.west.wait_peer("east", "up");
    }
    trio.wait_both();
    assert_smooth(&traffic.stop());
}

#[test]
fn no_get_is_lost_when_a_gateway_freezes_and_thaws() {
    let trio = Trio::start();
    let traffic = trio.traffic("GET");
    trio.wait_both();
    trio.east.process.freeze();
    trio.west.wait_peer("east", "down");
    traffic.wait_more(200);
    trio.east.process.thaw();
    trio.west.wait_peer("east", "up");
    trio.wait_both();
    assert_smooth(&traffic.stop());
}

#[test]
fn no_request_is_lost_when_a_gateway_drains() {
    // GOAWAY certifies what was not taken, and what was taken is finished: not even a POST is lost.
    for method in ["GET", "POST"] {
        let mut trio = Trio::start();
        let traffic = trio.traffic(method);
        trio.wait_both();
        let status = trio.east.process.terminate();
        assert!(status.success(), "{status}");
        traffic.wait_more(100);
        let report = traffic.stop();
        assert_smooth(&report);
        if method == "POST" {
            assert_no_post_twice(&trio, &report);
        }
    }
}

#[test]
fn no_get_is_lost_when_endpoints_die_and_return() {
    let mut trio = Trio::start();
    let traffic = trio.traffic("GET");
    for _ in 0..3 {
        trio.wait_both();
        trio.east_backend.stop();
        traffic.wait_more(200);
        trio.east_backend.start_again();
    }
    trio.wait_both();
    assert_smooth(&traffic.stop());
}

#[test]
fn a_post_is_never_delivered_twice_whatever_dies() {
    let mut trio = Trio::start();
    let traffic = trio.traffic("POST");
    trio.wait_both();
    trio.east.process.kill();
    trio.west.wait_peer("east", "down");
    trio.east.restart();
    trio.west.wait_peer("east", "up");
    trio.wait_both();
    trio.relay.cut();
    trio.west.wait_peer("east", "down");
    trio.relay.heal();
    trio.west.wait_peer("east", "up");
    trio.wait_both();
    trio.east_backend.stop();
    traffic.wait_more(100);
    trio.east_backend.start_again();
    trio.wait_both();
    trio.north.process.kill();
    trio.west.wait_peer("north", "down");
    traffic.wait_more(100);
    assert_no_post_twice(&trio, &traffic.stop());
}

/// At most once each, exactly once where 200 was said, and a failure is said as such.
fn assert_no_post_twice(trio: &Trio, report: &Report) {
    let mut deliveries = trio.east_backend.deliveries();
    for (id, n) in trio.north_backend.deliveries() {
        *deliveries.entry(id).or_default() += n;
    }
    for done in report.done.iter().filter(|d| d.ok()) {
        assert_eq!(deliveries.get(&done.id), Some(&1), "{}", done.id);
    }
    let twice: Vec<_> = deliveries.iter().filter(|(_, n)| **n > 1).collect();
    assert!(twice.is_empty(), "delivered more than once: {twice:?}");
    for done in report.failed() {
        assert!(matches!(done.result, Ok((502..=504, _))), "{done:?}");
    }
}

#[test]
fn loss_and_delay_alone_kill_nothing() {
    let pair = Pair::with(Setup { relayed: true, ..Setup::default() });
    let bad = Fault { loss: 0.02, delay: Duration::from_millis(10), ..Fault::default() };
    pair.relay().set(Toward::Target, bad);
    pair.relay().set(Toward::Client, bad);
    let traffic = Traffic::start(pair.west.site.http, 8, Ask::get(CART));
    let until = Instant::now() + Duration::from_secs(6);
    while Instant::now() < until {
        assert_ne!(pair.west.peer_state("east").as_deref(), Some("down"));
        pause(Duration::from_millis(20));
    }
    let (_, lost) = pair.relay().counts(Toward::Target);
    assert!(lost > 10, "the relay lost only {lost}");
    traffic.stop().assert_none_failed();
}

#[test]
fn with_its_only_peer_gone_a_get_fails_honestly_and_works_again_after() {
    let mut pair = Pair::new();
    pair.east.process.kill();
    pair.west.wait_peer("east", "down");
    let asked = Instant::now();
    assert_eq!(pair.get("/").status, 503);
    assert!(asked.elapsed() < AT_ONCE, "{:?}", asked.elapsed());
    pair.east.restart();
    pair.west.wait_peer("east", "up");
    assert_eq!(pair.get("/").status, 200);
}
