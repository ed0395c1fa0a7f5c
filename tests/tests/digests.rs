//! What gateways tell each other of their services, and what follows from it.
#![allow(clippy::unwrap_used)]

use e2e::backend::Backend;
use e2e::manifest::{exported, link, object, policy, service};
use e2e::mesh::{Gateway, Mesh, find, undoubted};
use e2e::pair::CART;
use e2e::wait::{SOON, wait_until};
use serde_json::Value;

/// What `gateway` knows of `cluster` as a member of `shop/cart`.
fn member(status: &Value, cluster: &str) -> Option<Value> {
    let service = find(&status["services"], "name", "shop/cart")?;
    find(&service["members"], "cluster", cluster).cloned()
}

fn wait_ready(gateway: &Gateway, cluster: &str, ready: u64) {
    gateway.wait_status(&format!("{cluster} has {ready} ready"), SOON, |status| {
        (member(status, cluster)?["ready"] == ready).then_some(())
    });
}

/// Attempts that `gateway` has made, whatever came of them.
fn attempts(gateway: &Gateway) -> u64 {
    let metrics = gateway.admin("/metrics").unwrap().text();
    let lines = metrics.lines().filter(|line| line.starts_with("ringway_attempts_total{"));
    lines.map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum()
}

#[test]
fn a_peer_with_nothing_ready_is_asked_once_where_nothing_else_is_left() {
    let mesh = Mesh::new();
    let backend = Backend::start("east/a");
    let (west, east) = (mesh.site("west", &["east"]), mesh.site("east", &["west"]));
    let checked = service("cart", &[("a", backend.address())]).trim_end().to_owned()
        + "\n  healthCheck: { http: { path: /healthz }, interval: 1s, timeout: 1s, rise: 1, fall: 2 }\n";
    let east = east.start(&[link("west", &[]), checked]);
    let west = west.start(&[link("east", &[east.site.tunnel])]);
    west.wait_service("shop/cart", &["east"]);
    wait_ready(&west, "east", 100);
    assert_eq!(west.get(CART, "/").status, 200);

    backend.answer_instead("/healthz", "/status/503");
    wait_ready(&west, "east", 0);
    assert_eq!(member(&west.status().unwrap(), "east").unwrap()["state"], "unready");
    let before = attempts(&west);
    let answer = west.get(CART, "/");
    assert_eq!(answer.status, 503);
    assert!(answer.text().contains("east is unready"), "{}", answer.text());
    assert_eq!(attempts(&west), before + 1, "what was told may be old");

    backend.answer_instead("/healthz", "/healthz");
    wait_until("it is asked again", SOON, || (west.get(CART, "/").status == 200).then_some(()));
}

#[test]
fn requests_without_a_key_are_spread_by_ready_capacity() {
    let mesh = Mesh::new();
    let backends: Vec<_> =
        ["east/a", "north/a", "north/b", "north/c"].iter().map(|name| Backend::start(name)).collect();
    let at = |n: usize| backends[n].address();
    let [east, north] =
        [("east", vec![("a", at(0))]), ("north", vec![("a", at(1)), ("b", at(2)), ("c", at(3))])].map(
            |(cluster, endpoints)| {
                mesh.site(cluster, &["west"]).start(&[link("west", &[]), service("cart", &endpoints)])
            },
        );
    let west = mesh.site("west", &["east", "north"]);
    let west = west.start(&[link("east", &[east.site.tunnel]), link("north", &[north.site.tunnel])]);
    west.wait_service("shop/cart", &["east", "north"]);
    wait_ready(&west, "east", 100);
    wait_ready(&west, "north", 300);
    let east = undoubted([&west], || {
        let answers = (0..400).map(|_| west.get(CART, "/").field("x-served-by").unwrap().to_owned());
        answers.filter(|by| by == "east/a").count()
    });
    // A quarter; by the contract's weights it would be half. Five standard deviations are 43.
    assert!((57..=143).contains(&east), "{east} of 400");
}

#[test]
fn a_service_is_told_only_to_whom_it_is_granted() {
    let mesh = Mesh::new();
    let backend = Backend::start("east/a");
    let (west, east) = (mesh.site("west", &["east"]), mesh.site("east", &["west"]));
    let endpoints = [("a", backend.address())];
    let east = east.start(&[
        link("west", &[]),
        exported("cart", &endpoints, &["west"]),
        exported("secret", &endpoints, &["north"]),
    ]);
    // West serves a `secret` of its own, and would show what east told of its own one.
    let west = west.start(&[link("east", &[east.site.tunnel]), service("secret", &endpoints)]);
    west.wait_service("shop/cart", &["east"]);
    wait_ready(&west, "east", 100);
    let status = west.status().unwrap();
    let secret = find(&status["services"], "name", "shop/secret").unwrap();
    assert!(find(&secret["members"], "cluster", "east").is_none(), "{secret}");
}

#[test]
fn rings_that_differ_are_a_conflict_and_a_metric() {
    let mesh = Mesh::new();
    let backends = [Backend::start("east/a"), Backend::start("west/a")];
    let (west, east) = (mesh.site("west", &["east"]), mesh.site("east", &["west"]));
    let placed = |generation: u32, weight: u32| {
        let members = format!(
            "[{{ cluster: west, region: us-west, weight: {weight} }}, {{ cluster: east, region: us-east }}]"
        );
        let rest = format!(
            "placement: {{ mode: sharded, generation: {generation}, members: {members}, hash: [{{ header: x-user }}] }}"
        );
        policy("cart", &rest)
    };
    // East takes nothing in, so it hears nothing of the newer contract.
    let closed = object("Link", "west", "import: []");
    let east = east.start(&[closed, service("cart", &[("a", backends[0].address())]), placed(1, 100)]);
    let of_west = |generation, weight| {
        [
            link("east", &[east.site.tunnel]),
            service("cart", &[("a", backends[1].address())]),
            placed(generation, weight),
        ]
    };
    let mut west = west.start(&of_west(2, 50));
    west.wait_service("shop/cart", &["west", "east"]);
    let conflict = |status: &Value| {
        let conditions = status["conditions"].as_array()?;
        conditions.iter().find(|c| c["reason"] == "RingsDiffer").cloned()
    };
    let condition = west.wait_status("the rings differ", SOON, conflict);
    assert_eq!(condition["object"], "MeshService shop/cart");
    assert!(
        condition["message"].as_str().unwrap().contains("cluster `east` places it by the ring"),
        "{condition}"
    );
    let metric = "ringway_ring_differs{service=\"shop/cart\",peer=\"east\"} 1";
    wait_until("a metric shows it", SOON, || west.admin("/metrics")?.text().contains(metric).then_some(()));

    west.site.write(&of_west(2, 100));
    west.restart();
    west.wait_service("shop/cart", &["west", "east"]);
    wait_ready(&west, "east", 100);
    // Another generation of the same ring.
    west.wait_status("the rings agree", SOON, |status| conflict(status).is_none().then_some(()));
    wait_until("the metric is gone", SOON, || {
        (!west.admin("/metrics")?.text().contains("ringway_ring_differs{")).then_some(())
    });
}
