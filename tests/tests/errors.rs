//! Every failure has its status and its `Proxy-Status` (RFC 9209), in time, and nothing is asked twice that must not be.
#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use e2e::backend::Backend;
use e2e::client::{Request, Response};
use e2e::manifest::{link, service};
use e2e::mesh::{Mesh, find};
use e2e::pair::{CART, Pair, Setup};
use e2e::port::free_port;
use e2e::wait::{AT_ONCE, SOON};

/// Checks status and `Proxy-Status` of an answer that the gateway of west made itself.
fn assert_error(answer: &Response, status: u16, error: &str) {
    let proxy_status = answer.field("proxy-status").unwrap_or("none");
    assert_eq!(answer.status, status, "Proxy-Status: {proxy_status}; {}", answer.text());
    assert!(proxy_status.starts_with("west.gateway"), "{proxy_status}");
    assert!(proxy_status.contains(&format!("error={error}")), "{proxy_status}");
}

#[test]
fn a_name_without_a_record_is_not_found() {
    let pair = Pair::new();
    for host in [
        "nothing.shop.mesh",
        "cart.elsewhere.mesh",
        "cart.shop.north.mesh",
        "cart.shop.mesh:81",
        "cart.shop.west.mesh",
        "example.com",
        "127.0.0.1",
    ] {
        assert_error(&pair.west.get(host, "/"), 404, "destination_not_found");
    }
    assert_eq!(pair.backend().seen().len(), 0);
}

#[test]
fn a_service_that_is_not_granted_has_no_record_in_the_peer() {
    let backend = Backend::start("east/a");
    let mesh = Mesh::new();
    let (east, west) = (mesh.site("east", &["west"]), mesh.site("west", &["east"]));
    let endpoint = [("a", backend.address())];
    let east = east.start(&[
        link("west", &[]),
        service("open", &endpoint),
        e2e::manifest::exported("closed", &endpoint, &[]),
        e2e::manifest::exported("others", &endpoint, &["north"]),
    ]);
    let west = west.start(&[link("east", &[east.site.tunnel])]);
    west.wait_service("shop/open", &["east"]);
    assert_eq!(west.get("open.shop.mesh", "/").status, 200);
    for name in ["closed", "others"] {
        assert_error(&west.get(&format!("{name}.shop.mesh"), "/"), 404, "destination_not_found");
        assert_error(&west.get(&format!("{name}.shop.east.mesh"), "/"), 404, "destination_not_found");
        // In its own cluster it serves.
        assert_eq!(east.get(&format!("{name}.shop.mesh"), "/").status, 200);
    }
}

#[test]
fn nothing_ready_is_answered_503_at_once() {
    let dead = ([127, 0, 0, 1], free_port()).into();
    let mesh = Mesh::new();
    let (east, west) = (mesh.site("east", &["west"]), mesh.site("west", &["east"]));
    let objects = [service("refusing", &[("a", dead), ("b", dead)]), service("empty", &[])];
    let east = east.start(&[&[link("west", &[])][..], &objects].concat());
    let west = west.start(&[link("east", &[east.site.tunnel]), service("own", &[("a", dead)])]);
    west.wait_service("shop/refusing", &["east"]);
    // East soon tells that nothing of it is ready.
    west.wait_status("shop/empty is mirrored", SOON, |status| {
        let service = find(&status["services"], "name", "shop/empty")?;
        (find(&service["members"], "cluster", "east")?["serves"] == true).then_some(())
    });
    for name in ["refusing", "empty", "own"] {
        for request in [
            Request::get(&format!("{name}.shop.mesh"), "/"),
            Request::post(&format!("{name}.shop.mesh"), "/", b"x"),
        ] {
            let asked = Instant::now();
            let answer = west.ask(&request).unwrap();
            assert!(asked.elapsed() < AT_ONCE, "{name}: {:?}", asked.elapsed());
            // Who is first at a service of our own hears that it was refused; after that nobody is ready.
            if name == "own" && answer.status == 502 {
                assert_error(&answer, 502, "connection_refused");
            } else {
                assert_error(&answer, 503, "destination_unavailable");
            }
        }
    }
}

#[test]
fn a_peer_that_is_down_is_answered_503_at_once_not_404() {
    let mut pair = Pair::new();
    pair.east.process.kill();
    pair.west.wait_peer("east", "down");
    for host in [CART, "cart.shop.east.mesh"] {
        let asked = Instant::now();
        assert_error(&pair.west.get(host, "/"), 503, "destination_unavailable");
        assert!(asked.elapsed() < AT_ONCE, "{:?}", asked.elapsed());
    }
}

#[test]
fn a_backend_that_says_nothing_is_answered_504_in_time() {
    let pair = Pair::with_west_policy("timeout: { head: 2s }");
    for request in [Request::get(CART, "/hold"), Request::post(CART, "/hold", b"x").with("x-id", "1")] {
        let asked = Instant::now();
        let answer = pair.west.ask(&request).unwrap();
        assert_error(&answer, 504, "http_response_timeout");
        let took = asked.elapsed();
        assert!((Duration::from_secs(2)..AT_ONCE).contains(&took), "{took:?}");
    }
    // The backend is told, and a POST was asked once, if it got there in time.
    e2e::wait_until("both are cancelled", e2e::wait::SOON, || {
        pair.backend().seen().iter().all(|s| s.outcome == e2e::backend::Outcome::Cancelled).then_some(())
    });
    let deliveries = pair.backend().deliveries();
    assert!(deliveries.values().all(|n| *n == 1), "{deliveries:?}");
}

#[test]
fn the_head_deadline_does_not_count_the_body_of_the_answer() {
    let pair = Pair::with_west_policy("timeout: { head: 2s }");
    let mut connection = e2e::client::Connection::open(pair.west.site.http).unwrap();
    connection.send(&Request::get(CART, "/drip")).unwrap();
    let started = Instant::now();
    // Reads on for longer than the deadline, then goes away.
    let mut last = Duration::ZERO;
    let socket = connection.socket().try_clone().unwrap();
    let _ = connection.receive_with("GET", |_| {
        last = started.elapsed();
        if last > Duration::from_secs(4) {
            let _ = socket.shutdown(std::net::Shutdown::Both);
        }
    });
    assert!(last > Duration::from_secs(4), "cut after {last:?}");
}

#[test]
fn a_total_deadline_ends_a_body_too() {
    let pair = Pair::with_west_policy("timeout: { total: 3s }");
    // Left alone, it would drip for ever.
    let result = pair.west.ask(&Request::get(CART, "/drip"));
    assert!(matches!(result, Err(e2e::client::FetchError::Cut { status: 200, .. })), "{result:?}");
}

#[test]
fn an_exchange_without_a_byte_ends_after_idle() {
    let pair = Pair::with_west_policy("timeout: { idle: 3s }");
    let started = Instant::now();
    let result = pair.west.ask(&Request::get(CART, "/stall/100000"));
    assert!(matches!(result, Err(e2e::client::FetchError::Cut { status: 200, .. })), "{result:?}");
    let took = started.elapsed();
    // By default it would be a minute.
    assert!((Duration::from_secs(3)..Duration::from_secs(40)).contains(&took), "{took:?}");
}

#[test]
fn a_backend_that_closes_without_an_answer_is_502_and_a_post_is_asked_once() {
    let pair = Pair::new();
    let answer = pair.west.ask(&Request::post(CART, "/slam", b"x").with("x-id", "post")).unwrap();
    assert_error(&answer, 502, "connection_terminated");
    assert_eq!(pair.backend().count("/slam"), 1);
    // What is idempotent is tried again, but not without end.
    let answer = pair.west.ask(&Request::get(CART, "/slam").with("x-id", "get")).unwrap();
    assert_error(&answer, 502, "connection_terminated");
    let tries = pair.backend().deliveries()["get"];
    assert!((1..=6).contains(&tries), "{tries}");
}

#[test]
fn an_idempotency_key_makes_a_post_replayable() {
    let pair = Pair::with(Setup { backends: 2, ..Setup::default() });
    let request = Request::post(CART, "/slam", b"x").with("idempotency-key", "k1");
    assert_eq!(pair.west.ask(&request).unwrap().status, 502);
    let tries: usize = pair.backends.iter().map(|b| b.count("/slam")).sum();
    assert!(tries >= 2, "{tries}");
}

#[test]
fn a_status_that_the_policy_lists_is_tried_elsewhere_for_what_is_replayable() {
    let pair = Pair::with(Setup {
        backends: 2,
        east_policy: "balance: { algorithm: round-robin }".into(),
        west_policy: "retry: { attempts: 3, on: [connect, refused, reset] }".into(),
        ..Setup::default()
    });
    // Not listed here: the backend's own answer arrives, asked once.
    assert_eq!(pair.get("/status/503").field("x-served-by").map(|s| s.starts_with("east/")), Some(true));
    let tries: usize = pair.backends.iter().map(|b| b.count("/status/503")).sum();
    assert_eq!(tries, 1);
}
