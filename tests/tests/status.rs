//! How applied objects are: one word of the elected gateway, kept beside them and shown by every gateway.
#![allow(clippy::unwrap_used)]

use std::fs;

use e2e::backend::Backend;
use e2e::etcd::{ETCD_SOON, Etcd, of_the_system};
use e2e::manifest::{object, service};
use e2e::mesh::{Gateway, Mesh, find};
use e2e::wait::wait_until;
use serde_json::Value;

/// `ringway ARGS` against a gateway: it must work.
fn worked(mesh: &Mesh, gateway: &Gateway, args: &[&str]) -> String {
    let admin = gateway.site.admin.to_string();
    let said = mesh.cli(&[args, &["--admin", &admin]].concat());
    assert_eq!(said.code, Some(0), "{args:?}: {said:?}");
    said.out
}

/// The conditions of the applied object `name` with the word of the elected gateway, which alone knows since when.
fn stated(mesh: &Mesh, gateway: &Gateway, name: &str) -> Option<Value> {
    let found: Value = serde_json::from_str(&worked(mesh, gateway, &["get", "-o", "json"])).unwrap();
    let conditions = find(&found["objects"], "name", name)?["conditions"].clone();
    conditions.as_array()?.iter().all(|c| c["since_unix_ms"].is_u64()).then_some(conditions)
}

/// Waits until the elected gateway says that `name` is ready, or why not, at this generation.
fn wait_stated(mesh: &Mesh, gateway: &Gateway, name: &str, generation: u64, ready: &str) -> Value {
    wait_until(&format!("{name} of generation {generation} is {ready}"), ETCD_SOON, || {
        let conditions = stated(mesh, gateway, name)?;
        let word = find(&conditions, "kind", "Ready")?;
        (word["reason"] == ready && word["observed_generation"] == generation).then_some(conditions)
    })
}

/// The keys of statuses and what they say.
fn kept(mesh: &Mesh, gateway: &Gateway) -> Vec<String> {
    let dump = worked(mesh, gateway, &["registry", "dump"]);
    dump.lines().filter(|line| line.contains("/ringway/v1/status/")).map(str::to_owned).collect()
}

mod with_etcd {
    use super::*;

    #[test]
    fn every_gateway_shows_the_word_of_the_elected_one_and_a_takeover_changes_none() {
        let etcd = Etcd::start(&of_the_system(), 1);
        let mesh = Mesh::new();
        let backend = Backend::start("west/a");
        let mut gateways = ["gw-1", "gw-2"].map(|id| mesh.site_of("west", id, &[], &etcd).start(&[]));
        let cart = service("cart", &[("a", backend.address())]);
        // It refers to a link that nobody declares.
        let policy = "service: cart\n  placement: { mode: local-first, tiers: [[local], [north]] }";
        let policy = object("TrafficPolicy", "cart-policy, namespace: shop", policy);
        fs::write(mesh.dir().join("cart.yaml"), [cart.clone(), policy].join("---\n")).unwrap();
        worked(&mesh, &gateways[0], &["apply", "-f", "cart.yaml"]);
        let ready = wait_stated(&mesh, &gateways[0], "cart", 1, "Ready");
        let kinds: Vec<_> = ready.as_array().unwrap().iter().map(|c| c["kind"].as_str().unwrap()).collect();
        assert_eq!(kinds, ["Accepted", "ResolvedRefs", "Programmed", "Ready"]);
        wait_stated(&mesh, &gateways[0], "cart-policy", 1, "LinkNotFound");
        for name in ["cart", "cart-policy"] {
            assert_eq!(stated(&mesh, &gateways[0], name), stated(&mesh, &gateways[1], name));
        }
        let lines = kept(&mesh, &gateways[1]);
        assert_eq!(lines.len(), 2, "{lines:?}");
        assert!(lines[0].contains("/status/MeshService/shop/cart"), "{lines:?}");
        assert!(lines[0].contains("Ready=True; observed generation 1"), "{lines:?}");
        let text = worked(&mesh, &gateways[1], &["get", "-o", "yaml"]);
        assert!(text.contains("# MeshService shop/cart: Accepted=True, "), "{text}");
        fs::write(mesh.dir().join("shown.yaml"), &text).unwrap();
        worked(&mesh, &gateways[1], &["apply", "-f", "shown.yaml"]);
        wait_stated(&mesh, &gateways[1], "cart", 1, "Ready");
        let again = worked(&mesh, &gateways[1], &["get", "-o", "yaml"]);
        assert_eq!(again.matches("# MeshService").count(), 1, "what is shown is applied without it: {again}");

        // Whoever is elected next finds it as it is.
        let elected = wait_until("one of them is elected", ETCD_SOON, || {
            gateways.iter().position(|g| g.status().is_some_and(|s| s["registry"]["standing"] == "elected"))
        });
        gateways[elected].process.kill();
        let other = &gateways[1 - elected];
        other.wait_status("the other one is elected", ETCD_SOON, |status| {
            (status["registry"]["standing"] == "elected").then_some(())
        });
        let changed = cart.replace("id: a", "id: b");
        fs::write(mesh.dir().join("cart.yaml"), changed).unwrap();
        worked(&mesh, other, &["apply", "-f", "cart.yaml"]);
        let later = wait_stated(&mesh, other, "cart", 2, "Ready");
        let since =
            |conditions: &Value| find(conditions, "kind", "Accepted").unwrap()["since_unix_ms"].clone();
        assert_eq!(since(&ready), since(&later), "it was accepted all the time");
        assert!(kept(&mesh, other)[1].starts_with(&lines[1][..60]), "{lines:?}");

        for (kind, name) in [("MeshService", "cart"), ("TrafficPolicy", "cart-policy")] {
            worked(&mesh, other, &["delete", kind, name, "-n", "shop"]);
        }
        wait_until("no status is left", ETCD_SOON, || kept(&mesh, other).is_empty().then_some(()));
    }
}
