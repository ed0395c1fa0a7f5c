//! Several workers in a gateway: they share its ports, and two gateways' tunnels spread over the workers of both.
#![allow(clippy::unwrap_used)]

use std::net::SocketAddr;

use e2e::backend::Backend;
use e2e::client::{Connection, Request};
use e2e::manifest::{link, service};
use e2e::mesh::{Gateway, Mesh, Site};
use e2e::pair::CART;
use e2e::wait::{SOON, wait_until};
use serde_json::Value;

struct Two {
    west: Gateway,
    _east: Gateway,
    backend: Backend,
    _mesh: Mesh,
}

fn start(site: &Site, workers: &str, objects: &[String]) -> Gateway {
    site.write(objects);
    let gateway = site.spawn_with(["--workers", workers]);
    gateway.wait_ready();
    gateway
}

/// West, that dials, and east, that serves and dials too if it shall.
fn two(west_workers: &str, east_workers: &str, east_dials: bool) -> Two {
    let mesh = Mesh::new();
    let backend = Backend::start("east/a");
    let (east, west) = (mesh.site("east", &["west"]), mesh.site("west", &["east"]));
    let back: &[SocketAddr] = if east_dials { &[west.tunnel] } else { &[] };
    let east =
        start(&east, east_workers, &[link("west", back), service("cart", &[("a", backend.address())])]);
    let west = start(&west, west_workers, &[link("east", &[east.site.tunnel])]);
    west.wait_service("shop/cart", &["east"]);
    Two { west, _east: east, backend, _mesh: mesh }
}

/// Our and the peer's worker of each QUIC tunnel, and who dialled it; sorted.
fn tunnels(status: &Value) -> Vec<(u64, u64, String)> {
    let tunnels = status["peers"][0]["tunnels"].as_array().unwrap();
    let of_quic = tunnels.iter().filter(|t| t["carrier"] == "quic");
    let mut found: Vec<_> = of_quic
        .map(|t| {
            let dialled_by = t["dialled_by"].as_str().unwrap().to_owned();
            (t["worker"].as_u64().unwrap(), t["peer_worker"].as_u64().unwrap(), dialled_by)
        })
        .collect();
    found.sort();
    found
}

fn wait_tunnels(west: &Gateway, expected: &[(u64, u64, &str)]) {
    let expected: Vec<_> = expected.iter().map(|(a, b, by)| (*a, *b, (*by).to_owned())).collect();
    west.wait_status(&format!("{expected:?}"), SOON, |status| (tunnels(status) == expected).then_some(()));
}

#[test]
fn tunnels_spread_over_the_workers_of_both_sides() {
    let two = two("3", "2", false);
    // More workers than lanes: the third uses the tunnels of the others.
    wait_tunnels(&two.west, &[(0, 0, "us"), (1, 1, "us")]);
    // Held until it is let go; connections fall on workers at random: of 40, all three have some.
    let mut held: Vec<_> = (0..40).map(|_| Connection::open(two.west.site.http).unwrap()).collect();
    for connection in &mut held {
        connection.send(&Request::get(CART, "/drip/100000")).unwrap();
    }
    two.west.wait_status("requests on both tunnels", SOON, |status| {
        let tunnels = status["peers"][0]["tunnels"].as_array()?;
        let held: Vec<u64> = tunnels.iter().filter_map(|t| t["outstanding"].as_u64()).collect();
        (held.iter().sum::<u64>() == 40 && held.iter().filter(|n| **n > 0).count() == 2).then_some(())
    });
    // Outstanding at west is not yet answered by the endpoint: let go earlier, some would never reach it.
    wait_until("all requests at the endpoint", SOON, || (two.backend.seen().len() == 40).then_some(()));
    drop(held);
    wait_until("the end of all requests", SOON, || {
        (two.west.status()?["requests_in_progress"] == 0).then_some(())
    });
}

#[test]
fn where_both_dial_the_tunnels_of_the_smaller_name_stay() {
    let two = two("2", "2", true);
    wait_tunnels(&two.west, &[(0, 0, "peer"), (1, 1, "peer")]);
    assert_eq!(two.west.get(CART, "/").status, 200);
}

#[test]
fn gateways_with_one_worker_and_with_two_work_together() {
    let two = two("1", "2", false);
    wait_tunnels(&two.west, &[(0, 0, "us")]);
    assert_eq!(two.west.get(CART, "/").status, 200);
}
