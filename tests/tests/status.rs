//! How applied objects are: one word of the elected gateway, kept beside them and shown by every gateway.
#![allow(clippy::unwrap_used)]

use std::fs;

use e2e::backend::Backend;
use e2e::client::Request;
use e2e::etcd::{ETCD_SOON, Etcd, of_the_system};
use e2e::manifest::{object, service};
use e2e::mesh::{Gateway, Mesh, find};
use e2e::pair::CART;
use e2e::wait::wait_until;
use registry::model::EtcdOptions;
use registry::store::etcd::EtcdStore;
use registry::store::{Entry, Store, keys};
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
    /// What stands in an etcd.
    fn keys(etcd: &Etcd) -> Vec<Entry> {
        let options = EtcdOptions { endpoints: etcd.endpoints(), ..EtcdOptions::default() };
        let store = EtcdStore::open(options).unwrap();
        tokio::runtime::Runtime::new().unwrap().block_on(store.range(keys::ROOT)).unwrap().entries
    }

    /// The checks of this family that do not hold.
    fn bad_checks(mesh: &Mesh, gateway: &Gateway, family: &str) -> Vec<String> {
        let said = mesh.cli(&["check", "-o", "json", "--admin", &gateway.site.admin.to_string()]);
        let report: Value = serde_json::from_str(&said.out).unwrap_or_else(|e| panic!("{e}: {said:?}"));
        let bad = report["checks"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|c| c["result"] == "fail" || c["result"] == "warn");
        bad.map(|c| c["id"].as_str().unwrap().to_owned()).filter(|id| id.starts_with(family)).collect()
    }

    #[test]
    fn an_operator_is_told_how_the_registry_is() {
        let mut etcd = Etcd::start(&of_the_system(), 1);
        let mesh = Mesh::new();
        let mut gateways = ["gw-1", "gw-2"].map(|id| mesh.site_of("west", id, &[], &etcd).start(&[]));
        for gateway in &gateways {
            gateway.wait_status("both are known, and who is elected", ETCD_SOON, |status| {
                let registry = &status["registry"];
                (registry["gateways"].as_array()?.len() == 2 && registry["elected"].is_string()).then_some(())
            });
            assert_eq!(bad_checks(&mesh, gateway, "registry."), [""; 0]);
            let text = worked(&mesh, gateway, &["status"]);
            let store = format!("registry etcd {}: connected\n", etcd.endpoints()[0]);
            assert!(text.contains(&store) && text.contains("gateways gw-1, gw-2\n"), "{text}");
        }
        let elected = |gateway: &Gateway| gateway.status().unwrap()["registry"]["elected"].clone();
        assert_eq!(elected(&gateways[0]), elected(&gateways[1]));

        etcd.kill(0);
        wait_registry_up(&gateways[0], false);
        let gone = ["registry.store", "registry.member", "registry.catalog"];
        assert_eq!(bad_checks(&mesh, &gateways[0], "registry."), gone);
        let text = worked(&mesh, &gateways[0], &["status"]);
        assert!(
            text.contains(": not connected for ") && text.contains("catalog as the registry was "),
            "{text}"
        );
        gateways[1].process.terminate();
        gateways[1].restart();
        assert_eq!(bad_checks(&mesh, &gateways[1], "registry."), gone);
        let text = worked(&mesh, &gateways[1], &["status"]);
        assert!(text.contains("catalog of the state directory, written "), "{text}");
        etcd.restart(0);
        wait_registry_up(&gateways[1], true);
        let text = worked(&mesh, &gateways[1], &["status"]);
        assert!(text.contains("catalog as the registry has it\n"), "{text}");
    }

    fn wait_registry_up(gateway: &Gateway, up: bool) {
        gateway.wait_status(&format!("the registry is up: {up}"), ETCD_SOON, |status| {
            (status["registry"]["up"] == up).then_some(())
        });
    }

    #[test]
    fn what_was_applied_is_put_back_into_an_etcd_that_was_wiped() {
        let mut etcd = Etcd::start(&of_the_system(), 1);
        let mesh = Mesh::new();
        let backend = Backend::start("west/a");
        let mut gateways = ["gw-1", "gw-2"].map(|id| mesh.site_of("west", id, &[], &etcd).start(&[]));
        fs::write(mesh.dir().join("cart.yaml"), service("cart", &[("a", backend.address())])).unwrap();
        worked(&mesh, &gateways[0], &["apply", "-f", "cart.yaml"]);
        for gateway in &gateways {
            wait_stated(&mesh, gateway, "cart", 1, "Ready");
        }
        let uid = |gateway: &Gateway| gateway.status().unwrap()["uid"].clone();
        let before = uid(&gateways[0]);
        for running in [true, false] {
            if !running {
                // The catalog of the last run does as well.
                for gateway in &mut gateways {
                    gateway.process.terminate();
                }
            }
            etcd.restore(&tempfile::tempdir().unwrap());
            if !running {
                gateways.iter_mut().for_each(Gateway::restart);
            }
            wait_until("it is put back", ETCD_SOON, || {
                let there = keys(&etcd);
                let has = |key: &str| there.iter().any(|entry| entry.key.starts_with(key));
                (has(keys::CLUSTER) && has(&keys::configs()) && has(&keys::statuses())).then_some(())
            });
            for gateway in &gateways {
                wait_registry_up(gateway, true);
                wait_stated(&mesh, gateway, "cart", 1, "Ready");
                assert_eq!(gateway.get(CART, "/").status, 200);
                assert_eq!(uid(gateway), before);
            }
        }
    }

    #[test]
    fn an_etcd_of_another_cluster_is_neither_believed_nor_written_to() {
        let mut etcd = Etcd::start(&of_the_system(), 1);
        let mesh = Mesh::new();
        let backend = Backend::start("west/a");
        // Another cluster's, which has a gateway and serves something else.
        let mut other = mesh.site_of("west", "gw-1", &[], &etcd).start(&[]);
        fs::write(mesh.dir().join("web.yaml"), service("web", &[("a", backend.address())])).unwrap();
        worked(&mesh, &other, &["apply", "-f", "web.yaml"]);
        wait_stated(&mesh, &other, "web", 1, "Ready");
        other.process.terminate();
        let foreign = etcd.back_up();

        etcd.restore(&tempfile::tempdir().unwrap());
        let mut west = mesh.site_of("west", "gw-2", &[], &etcd).start(&[]);
        fs::write(mesh.dir().join("cart.yaml"), service("cart", &[("a", backend.address())])).unwrap();
        worked(&mesh, &west, &["apply", "-f", "cart.yaml"]);
        wait_stated(&mesh, &west, "cart", 1, "Ready");
        let ours = etcd.back_up();
        etcd.restore(&foreign);
        let before = keys(&etcd);
        west.process.wait_log(&["The registry's store is of another cluster"]);
        wait_registry_up(&west, false);
        let admin = west.site.admin.to_string();
        let said = mesh.cli(&["apply", "-f", "cart.yaml", "--admin", &admin]);
        assert!(said.code == Some(1) && said.err.contains("another cluster"), "{said:?}");
        assert_eq!(west.get(CART, "/").status, 200, "what is known serves on");
        assert_eq!(
            bad_checks(&mesh, &west, "registry."),
            ["registry.owner", "registry.member", "registry.catalog"]
        );
        assert_eq!(west.get("web.shop.mesh", "/").status, 404);
        let same = |after: Vec<Entry>| {
            after.iter().filter(|e| e.lease.is_none()).eq(before.iter().filter(|e| e.lease.is_none()))
        };
        assert!(same(keys(&etcd)) && !keys(&etcd).iter().any(|e| e.key == keys::gateway("gw-2")));

        etcd.restore(&ours);
        wait_registry_up(&west, true);
        worked(&mesh, &west, &["apply", "-f", "cart.yaml"]);
        // Who starts takes the place that the store gives it.
        etcd.restore(&foreign);
        west.process.terminate();
        west.restart();
        wait_until("it serves what that cluster declares", ETCD_SOON, || {
            let web = west.ask(&Request::get("web.shop.mesh", "/")).ok()?;
            (web.status == 200 && west.get(CART, "/").status == 404).then_some(())
        });
    }
}
