//! Several gateways of one cluster on one etcd: found by one address, one of them writes, and none is missed.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use e2e::backend::Backend;
use e2e::duo::{Duo, wait_answered, wait_standing};
use e2e::etcd::{Etcd, of_the_system};
use e2e::manifest::{link, service};
use e2e::mesh::{Gateway, Mesh, find, lanes};
use e2e::pair::CART;
use e2e::process::cli;
use e2e::stored::Stored;
use e2e::wait::wait_until;

/// Machines are slow when everything runs at once, and leases are to lapse before others take over.
const LONG: Duration = Duration::from_secs(60);

fn wait_tunnels(gateway: &Gateway, of: &[&str]) {
    gateway.wait_status(&format!("tunnels to {of:?}"), LONG, |status| {
        let peers = status["peers"].as_array()?;
        let complete = |id: &&str| {
            let peer = peers.iter().find(|p| p["gateway"] == **id && p["state"] == "up")?;
            let tunnels = peer["tunnels"].as_array()?;
            let on = |carrier: &str| tunnels.iter().filter(|t| t["carrier"] == carrier).count();
            (on("quic") == lanes() && on("tcp") == 1).then_some(())
        };
        of.iter().all(|id| complete(id).is_some()).then_some(())
    });
}

mod with_etcd {
    use super::*;

    #[test]
    fn peers_reach_every_gateway_by_the_address_of_one_and_lose_nothing_with_it() {
        let etcd = Etcd::start(&of_the_system(), 1);
        let mesh = Mesh::new();
        let backend = Backend::start("east/a");
        let objects = [link("west", &[]), service("cart", &[("a", backend.address())])];
        let mut first = mesh.site_of("east", "gw-1", &["west"], &etcd).start(&objects);
        let second = mesh.site_of("east", "gw-2", &["west"], &etcd).start(&objects);
        let west = mesh.site("west", &["east"]).start(&[link("east", &[first.site.tunnel])]);
        wait_tunnels(&west, &["gw-1", "gw-2"]);
        west.wait_service("shop/cart", &["east"]);
        let uid = |gateway: &Gateway| gateway.status().unwrap()["uid"].clone();
        assert_eq!(uid(&first), uid(&second), "one cluster");
        // Both are told of, and both tell of the same endpoint.
        west.wait_status("the endpoint counts once", LONG, |status| {
            let cart = find(&status["services"], "name", "shop/cart")?;
            (find(&cart["members"], "cluster", "east")?["ready"] == 100).then_some(())
        });

        for n in 0..200 {
            if n == 50 {
                first.process.kill();
            }
            assert_eq!(west.get(CART, "/").status, 200, "request {n}");
        }
        first.restart();
        wait_tunnels(&west, &["gw-1", "gw-2"]);

        // The one that the link names drains: the other one was learned.
        assert!(first.process.terminate().success());
        for n in 0..50 {
            assert_eq!(west.get(CART, "/").status, 200, "request {n} after a drain");
        }
    }

    #[test]
    fn a_killed_leader_is_followed_and_changes_flow() {
        let mut duo = Duo::new();
        let before = duo.stored.imports().unwrap();
        duo.first.process.kill();
        wait_standing(&duo.second, "elected");
        duo.serve("basket");
        duo.stored.wait_import("shop/basket");
        let after = duo.stored.imports().unwrap();
        assert_eq!(after.len(), 2);
        assert!(before.iter().all(|entry| after.contains(entry)), "a takeover rewrote what had not changed");
        duo.first.restart();
        wait_answered(&duo.first);
        duo.first.wait_service("shop/basket", &["east"]);
    }

    #[test]
    fn a_paused_leader_that_wakes_late_changes_nothing() {
        let duo = Duo::new();
        duo.first.process.freeze();
        wait_standing(&duo.second, "elected");
        // What the sleeper does not know of.
        duo.serve("basket");
        duo.stored.wait_import("shop/basket");
        let before = duo.stored.imports().unwrap();
        duo.first.process.thaw();
        duo.first.process.wait_log(&["No lease in the registry store"]);
        wait_answered(&duo.first);
        duo.first.wait_service("shop/basket", &["east"]);
        assert_eq!(duo.stored.imports().unwrap(), before);
    }

    #[test]
    fn without_etcd_traffic_goes_on_and_a_restart_serves() {
        let mut duo = Duo::new();
        let answered = |gateway: &Gateway| assert_eq!(gateway.get(CART, "/").status, 200);
        duo.etcd.kill(0);
        wait_standing(&duo.first, "unknown");
        let status = duo.first.status().unwrap();
        assert_eq!((&status["registry"]["up"], &status["ready"]), (&false.into(), &true.into()));
        let metrics = duo.first.admin("/metrics").unwrap();
        assert!(String::from_utf8_lossy(&metrics.body).contains("\nringway_registry_up 0\n"));
        for _ in 0..20 {
            answered(&duo.first);
            answered(&duo.second);
        }
        duo.first.restart();
        duo.first.wait_service("shop/cart", &["east"]);
        answered(&duo.first);

        // One that never knew the cluster's UID waits, and says why.
        let third = duo.mesh.site_of("west", "gw-3", &["east"], &duo.etcd);
        third.write(&[link("east", &[duo.east.site.tunnel])]);
        let third = third.spawn();
        let ready = wait_until("it says why it is not ready", LONG, || third.admin("/ready"));
        assert_eq!(ready.status, 503);
        assert!(String::from_utf8_lossy(&ready.body).contains("registry's store"), "{ready:?}");

        duo.etcd.restart(0);
        duo.wait_elected();
        third.wait_service("shop/cart", &["east"]);
        duo.serve("basket");
        duo.stored.wait_import("shop/basket");
        for gateway in [&duo.first, &duo.second, &third] {
            gateway.wait_service("shop/basket", &["east"]);
        }
    }

    #[test]
    fn an_etcd_put_back_to_an_older_state_is_brought_up_again() {
        let mut duo = Duo::new();
        let uid = |gateway: &Gateway| gateway.status().unwrap()["uid"].clone();
        let before = uid(&duo.first);
        let backup = duo.etcd.back_up();
        duo.serve("basket");
        duo.stored.wait_import("shop/basket");
        duo.etcd.restore(&backup);
        // What was imported since is written anew; nothing of it was forgotten meanwhile.
        duo.stored.wait_import("shop/basket");
        for gateway in [&duo.first, &duo.second] {
            gateway.wait_service("shop/basket", &["east"]);
            assert_eq!(uid(gateway), before);
        }
    }

    #[test]
    fn a_gateway_without_a_tunnel_knows_what_another_wrote() {
        let etcd = Etcd::start(&of_the_system(), 1);
        let mesh = Mesh::new();
        let backend = Backend::start("east/a");
        let east = mesh.site("east", &["west"]);
        let east = east.start(&[link("west", &[]), service("cart", &[("a", backend.address())])]);
        let first =
            mesh.site_of("west", "gw-1", &["east"], &etcd).start(&[link("east", &[east.site.tunnel])]);
        wait_standing(&first, "elected");
        Stored::of(&etcd).wait_import("shop/cart");
        // It dials nobody, and nobody dials it.
        let second = mesh.site_of("west", "gw-2", &["east"], &etcd).start(&[link("east", &[])]);
        second.wait_status("it knows of the service", LONG, |status| {
            let east = find(&status["links"], "cluster", "east")?;
            (east["imported"] == 1 && east["age_seconds"].is_number()).then_some(())
        });
        assert_eq!(second.get(CART, "/").status, 503, "known, and out of its reach");
    }

    #[test]
    fn an_id_belongs_to_one_process() {
        let etcd = Etcd::start(&of_the_system(), 1);
        let mesh = Mesh::new();
        let first = mesh.site_of("west", "gw-1", &["east"], &etcd);
        let mut other = mesh.site_of("west", "gw-1", &["east"], &etcd);
        other.dir = mesh.dir().join("other");
        std::fs::create_dir_all(&other.dir).unwrap();
        std::fs::rename(first.dir.join("pki"), other.dir.join("pki")).unwrap();
        let first = mesh.site_of("west", "gw-1", &["east"], &etcd).start(&[]);
        wait_standing(&first, "elected");
        other.write(&[]);
        let said = cli(&other.dir, &["gateway", "-f", "gateway.yaml"]);
        assert_eq!(said.code, Some(1), "{said:?}");
        assert!(said.err.contains("another gateway of this cluster is called `gw-1`"), "{said:?}");
        wait_standing(&first, "elected");
    }
}
