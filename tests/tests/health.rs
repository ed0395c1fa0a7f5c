//! Endpoints come and go by their checks and by what requests tell, and keys stay where they are.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use e2e::backend::Backend;
use e2e::client::{Request, Response};
use e2e::manifest::{object, policy, service};
use e2e::mesh::{Gateway, Mesh, find, undoubted};
use e2e::pair::{CART, Pair, Setup};
use e2e::traffic::{Ask, Traffic};
use e2e::wait::{AT_ONCE, SOON};
use e2e::wait_until;
use serde_json::Value;

/// One gateway without peers that serves `shop/cart`.
struct Alone {
    west: Gateway,
    backends: Vec<Backend>,
    _mesh: Mesh,
}

impl Alone {
    /// With endpoints `a`, `b` and so on; `check` stands after `healthCheck:`, `rest` in a policy, both may be empty.
    fn new(backends: Vec<Backend>, check: &str, rest: &str) -> Self {
        let mesh = Mesh::new();
        let endpoints: Vec<_> =
            ["a", "b", "c", "d"].into_iter().zip(backends.iter().map(Backend::address)).collect();
        let mut cart = service("cart", &endpoints);
        if !check.is_empty() {
            cart = cart.trim_end().to_owned() + &format!("\n  healthCheck: {check}\n");
        }
        let mut objects = vec![cart];
        if !rest.is_empty() {
            objects.push(policy("cart", rest));
        }
        let west = mesh.site("west", &[]).start(&objects);
        Self { west, backends, _mesh: mesh }
    }

    fn get(&self) -> Response {
        self.west.get(CART, "/")
    }

    /// How often each of `n` requests is answered by whom.
    fn answers(&self, n: usize) -> BTreeMap<String, usize> {
        let mut answers = BTreeMap::new();
        for _ in 0..n {
            *answers.entry(self.get().field("x-served-by").unwrap_or("-").to_owned()).or_default() += 1;
        }
        answers
    }

    fn wait_state(&self, id: &str, states: &[&str]) {
        self.west.wait_status(&format!("{id} is {states:?}"), SOON, |status| {
            states.contains(&state_of(status, id)?.as_str()).then_some(())
        });
    }

    /// Waits until the log has said each of these.
    fn wait_said(&self, parts: &[&str]) {
        parts.iter().for_each(|part| drop(self.west.process.wait_log(&[part])));
    }
}

fn state_of(status: &Value, id: &str) -> Option<String> {
    let service = find(&status["services"], "name", "shop/cart")?;
    Some(find(&service["endpoints"], "id", id)?["state"].as_str()?.to_owned())
}

fn two() -> Vec<Backend> {
    vec![Backend::start("west/a"), Backend::start("west/b")]
}

/// What is to fail says so at once; what lives has two seconds, for a machine that has much else to do.
const QUICK: &str = "{ http: { path: /healthz }, interval: 1s, timeout: 1s, rise: 2, fall: 2 }";
const UP: &[&str] = &["ready", "warming"];

#[test]
fn an_endpoint_that_fails_its_check_leaves_and_returns() {
    let alone = Alone::new(two(), QUICK, "balance: { algorithm: round-robin }");
    alone.wait_state("a", UP);
    alone.wait_state("b", UP);
    let traffic = Traffic::start(alone.west.site.http, 4, Ask::get(CART));
    alone.backends[0].answer_instead("/healthz", "/status/503");
    alone.wait_state("a", &["check-failed"]);
    assert_eq!(alone.answers(20), BTreeMap::from([("west/b".into(), 20)]));
    alone.backends[0].answer_instead("/healthz", "/healthz");
    alone.wait_state("a", UP);
    // It warms up: not at once, but soon.
    wait_until("a answers again", SOON, || alone.answers(20).contains_key("west/a").then_some(()));
    let done = traffic.stop();
    let failed: Vec<_> = done.done.iter().filter(|d| !d.ok()).collect();
    assert!(failed.is_empty(), "{failed:?}");
    alone.wait_said(&[
        "2 checks in a row passed",
        "2 checks in a row failed",
        "Audit: endpoint health changed.",
    ]);
}

#[test]
fn nothing_is_sent_before_the_first_checks_have_passed() {
    let backend = Backend::start("west/a");
    backend.answer_instead("/healthz", "/status/500");
    let alone = Alone::new(vec![backend], QUICK, "");
    alone.wait_state("a", &["check-failed", "checking"]);
    let asked = Instant::now();
    let answer = alone.get();
    assert_eq!(answer.status, 503);
    assert!(answer.field("proxy-status").unwrap().contains("destination_unavailable"));
    assert!(asked.elapsed() < AT_ONCE, "{:?}", asked.elapsed());
    assert_eq!(alone.backends[0].count("/"), 0);
    alone.backends[0].answer_instead("/healthz", "/status/204");
    alone.wait_state("a", UP);
    assert_eq!(alone.get().status, 200);
}

#[test]
fn a_check_waits_no_longer_than_its_timeout_and_asks_for_the_status_it_expects() {
    let check = "{ http: { path: /healthz, expectedStatus: 204 }, interval: 100ms, timeout: 100ms, rise: 1, fall: 1 }";
    let backends = two();
    backends[0].answer_instead("/healthz", "/status/204");
    backends[1].answer_instead("/healthz", "/status/204");
    let alone = Alone::new(backends, check, "");
    alone.wait_state("a", UP);
    alone.wait_state("b", UP);
    alone.backends[0].answer_instead("/healthz", "/hold");
    alone.backends[1].answer_instead("/healthz", "/status/200");
    alone.wait_state("a", &["check-failed"]);
    alone.wait_state("b", &["check-failed"]);
    alone.wait_said(&["not done within 100ms", "answered 200 OK"]);
}

#[test]
fn a_connection_is_all_that_a_tcp_check_asks_for() {
    let check = "{ tcp: {}, interval: 1s, timeout: 1s, rise: 1, fall: 2 }";
    let mut alone = Alone::new(two(), check, "");
    alone.wait_state("a", UP);
    alone.backends[0].stop();
    alone.wait_state("a", &["check-failed"]);
    alone.backends[0].start_again();
    alone.wait_state("a", UP);
    assert!(alone.backends[0].seen().is_empty(), "nothing was sent");
}

#[test]
fn one_bad_endpoint_of_two_is_ejected_and_comes_back_by_one_probe() {
    let alone =
        Alone::new(two(), "", "balance: { algorithm: round-robin }\n  retry: { attempts: 1, on: [] }");
    alone.backends[0].answer_instead("/", "/status/503");
    let mut failed = 0;
    wait_until("a is ejected", SOON, || {
        failed += usize::from(alone.get().status == 503);
        (state_of(&alone.west.status()?, "a")? == "ejected").then_some(())
    });
    // So many in a row and no more; but on a machine so busy that the 5 s are over already, one that probes it.
    assert!((5..=6).contains(&failed), "{failed}");
    let asked = |n: usize| {
        let before = alone.backends[0].count("/");
        assert_eq!(alone.answers(n).values().sum::<usize>(), n);
        alone.backends[0].count("/") - before
    };
    // In turn it would be half of them.
    assert!(asked(50) <= 1);
    // The first probe fails: one request, and a longer wait.
    wait_until("it was probed", SOON, || (asked(1) > 0).then_some(()));
    assert!(asked(50) <= 1);
    alone.backends[0].answer_instead("/", "/");
    wait_until("a is back", SOON, || {
        alone.get();
        UP.contains(&&*state_of(&alone.west.status()?, "a")?).then_some(())
    });
    alone.wait_said(&["5 requests in a row failed", "a probing request was answered"]);
}

#[test]
fn the_only_endpoint_is_asked_whatever_it_has_done() {
    let alone = Alone::new(vec![Backend::start("west/a")], "", "retry: { attempts: 1, on: [] }");
    alone.backends[0].answer_instead("/", "/status/502");
    for _ in 0..20 {
        assert_eq!(alone.get().field("x-served-by"), Some("west/a"));
    }
    alone.backends[0].answer_instead("/", "/");
    assert_eq!(alone.get().status, 200);
}

/// Who serves each of the keys u0 to u39, asked for at `gateway`.
fn owners(gateway: &Gateway) -> BTreeMap<String, String> {
    let ask = |n: usize| {
        let user = format!("u{n}");
        let answer = gateway.ask(&Request::get(CART, "/").with("x-user", &user)).unwrap();
        (user, answer.field("x-served-by").unwrap_or("-").to_owned())
    };
    (0..40).map(ask).collect()
}

#[test]
fn with_ring_a_key_stays_on_its_endpoint_also_from_another_cluster() {
    let rest = "placement: { mode: local-first, generation: 1, hash: [{ header: x-user }] }\n  \
                balance: { algorithm: ring }";
    let mut pair = Pair::with(Setup { backends: 3, east_policy: rest.into(), ..Setup::default() });
    let both = [&pair.west, &pair.east];
    let before = undoubted(both, || owners(&pair.west));
    let endpoints: BTreeSet<_> = before.values().cloned().collect();
    assert_eq!(endpoints.len(), 3, "{before:?}");
    assert_eq!(undoubted(both, || owners(&pair.west)), before);
    assert_eq!(owners(&pair.east), before, "the key travels, and so does its place");
    // A dead endpoint's keys move, no others.
    pair.backends[1].stop();
    let moved = undoubted(both, || owners(&pair.west));
    for (key, owner) in &before {
        assert!(moved[key] == *owner || owner == "east/b", "{key} moved from {owner} to {}", moved[key]);
        assert_ne!(moved[key], "east/b");
    }
    pair.backends[1].start_again();
    wait_until("b's keys come home", SOON, || (owners(&pair.west) == before).then_some(()));
}

#[test]
fn an_unready_cluster_hands_its_requests_to_another() {
    let mesh = Mesh::new();
    let (here, there) = (Backend::start("west/a"), Backend::start("east/a"));
    let (west, east) = (mesh.site("west", &["east"]), mesh.site("east", &["west"]));
    let checked = |backend: &Backend| {
        let at = backend.address();
        let spec = format!(
            "ports: [{{ name: web, port: 80, protocol: http }}]\n  endpoints: [{{ id: a, host: {}, ports: {{ web: {} }} }}]\n  \
             healthCheck: {QUICK}\n  export: {{ to: [\"*\"] }}",
            at.ip(),
            at.port()
        );
        object("MeshService", "cart, namespace: shop", &spec)
    };
    let east = east.start(&[e2e::manifest::link("west", &[]), checked(&there)]);
    let west = west.start(&[e2e::manifest::link("east", &[east.site.tunnel]), checked(&here)]);
    west.wait_service("shop/cart", &["west", "east"]);
    west.wait_status("west/a passes", SOON, |s| UP.contains(&&*state_of(s, "a")?).then_some(()));
    west.wait_status("east has told that its endpoint passes", SOON, |status| {
        let service = find(&status["services"], "name", "shop/cart")?;
        (find(&service["members"], "cluster", "east")?["ready"] == 100).then_some(())
    });
    assert_eq!(west.get(CART, "/").field("x-served-by"), Some("west/a"));
    here.answer_instead("/healthz", "/status/503");
    west.wait_status("west/a fails", SOON, |s| (state_of(s, "a")? == "check-failed").then_some(()));
    for _ in 0..10 {
        let answer = undoubted([&west], || west.get(CART, "/"));
        assert_eq!(answer.field("x-served-by"), Some("east/a"));
    }
}
