//! Keys stay where the ring puts them, whoever asks; local stays local while it can.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::net::SocketAddr;

use e2e::client::Request;
use e2e::manifest::{link, local_first, sharded};
use e2e::mesh::undoubted;
use e2e::pair::{CART, Pair, Setup};
use e2e::process::cli;
use e2e::traffic::{Ask, Report, Traffic};
use e2e::trio::{CLUSTERS, Trio, cluster_of};
use serde_json::Value;

fn traffic(trio: &Trio, keys: u64) -> Traffic {
    traffic_at(trio.gateways["west"].site.http, keys)
}

fn traffic_at(west: SocketAddr, keys: u64) -> Traffic {
    Traffic::start(west, 6, Ask { keys, ..Ask::get(CART) })
}

/// Which clusters answered each key.
fn clusters_by_key(report: &Report) -> BTreeMap<&str, Vec<&str>> {
    let mut map: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for done in &report.done {
        let (Some(key), Ok((_, server))) = (&done.key, &done.result) else { continue };
        let clusters = map.entry(key).or_default();
        if !clusters.contains(&cluster_of(server)) {
            clusters.push(cluster_of(server));
        }
    }
    map
}

#[test]
fn a_key_has_one_owner_wherever_it_is_asked_for() {
    let trio = Trio::start(&sharded(&CLUSTERS));
    let mut owners = BTreeMap::new();
    for i in 0..40 {
        let key = format!("user-{i}");
        let located = trio.locate("west", &key);
        for cluster in CLUSTERS {
            let here = trio.locate(cluster, &key);
            assert_eq!(
                (&here["owner"], &here["ring"]),
                (&located["owner"], &located["ring"]),
                "{key} at {cluster}"
            );
            let served_by = undoubted(trio.gateways.values(), || trio.served_by(cluster, &key));
            assert_eq!(served_by, located["owner"].as_str().unwrap(), "{key} at {cluster}");
        }
        *owners.entry(located["owner"].as_str().unwrap().to_owned()).or_insert(0) += 1;
    }
    assert_eq!(owners.len(), 3, "some cluster owns nothing: {owners:?}");
}

#[test]
fn the_same_ring_is_computed_from_manifests_alone() {
    let trio = Trio::start(&sharded(&CLUSTERS));
    let file = trio.gateways["west"].site.file();
    let args = ["ring", "locate", "shop/cart", "user-7", "-f", file.to_str().unwrap(), "-o", "json"];
    let said = cli(trio.mesh.dir(), &args);
    assert_eq!(said.code, Some(0), "{said:?}");
    let (offline, online): (Value, _) =
        (serde_json::from_str(&said.out).unwrap(), trio.locate("east", "user-7"));
    for field in ["owner", "near", "hash", "ring", "generation"] {
        assert_eq!(offline[field], online[field], "{field}");
    }
}

#[test]
fn only_the_keys_of_a_dead_cluster_move_and_they_come_back() {
    let mut trio = Trio::start(&sharded(&CLUSTERS));
    let keys: Vec<_> = (0..60).map(|i| format!("u{i}")).collect();
    let near: BTreeMap<_, _> = keys.iter().map(|k| (k.as_str(), trio.near(k))).collect();
    let expect = |report: &Report, dead: Option<&str>| {
        report.assert_none_failed();
        for (key, clusters) in clusters_by_key(report) {
            let owner = near[key].iter().find(|c| Some(c.as_str()) != dead).unwrap();
            assert_eq!(clusters, [owner.as_str()], "{key}, {dead:?} dead");
        }
    };
    let run = |trio: &Trio| {
        let living = trio.gateways.values().filter(|gateway| gateway.status().is_some()).collect::<Vec<_>>();
        undoubted(living, || {
            let traffic = traffic(trio, 60);
            traffic.wait_more(240);
            traffic.stop()
        })
    };
    expect(&run(&trio), None);
    // Across the death only nothing may be lost; after it every key has its one new place.
    let traffic = traffic(&trio, 60);
    trio.gateway("east").process.kill();
    trio.gateways["west"].wait_peer("east", "down");
    traffic.stop().assert_none_failed();
    expect(&run(&trio), Some("east"));
    trio.gateway("east").restart();
    for cluster in ["west", "east"] {
        trio.gateways[cluster].wait_service("shop/cart", &CLUSTERS);
    }
    expect(&run(&trio), None);
}

#[test]
fn with_one_of_two_endpoints_dead_nothing_fails_and_keys_stay_in_their_cluster() {
    let mut trio = Trio::start(&sharded(&CLUSTERS));
    let owners: BTreeMap<_, _> =
        (0..60).map(|i| format!("u{i}")).map(|k| (k.clone(), trio.near(&k)[0].clone())).collect();
    let Trio { gateways, backends, .. } = &mut trio;
    let west = gateways["west"].site.http;
    let report = undoubted(gateways.values(), || {
        let traffic = traffic_at(west, 60);
        traffic.wait_more(200);
        for [endpoint, _] in backends.values_mut() {
            endpoint.stop();
            traffic.wait_more(300);
        }
        let report = traffic.stop();
        report.assert_none_failed();
        backends.values_mut().for_each(|[endpoint, _]| endpoint.start_again());
        report
    });
    for (key, clusters) in clusters_by_key(&report) {
        assert_eq!(clusters, [owners[key].as_str()], "{key}");
    }
}

#[test]
fn a_key_that_must_not_split_fails_with_its_owner() {
    let rest = sharded(&CLUSTERS).replace("generation: 1,", "generation: 1, onOwnerUnavailable: fail,");
    let mut trio = Trio::start(&rest);
    let keys: Vec<_> = (0..30).map(|i| format!("u{i}")).collect();
    let (of_east, of_others): (Vec<_>, Vec<_>) = keys.iter().partition(|k| trio.near(k)[0] == "east");
    assert!(!of_east.is_empty() && !of_others.is_empty());
    trio.gateway("east").process.kill();
    trio.gateways["west"].wait_peer("east", "down");
    for key in of_east {
        let answer = trio.gateways["west"].ask(&Request::get(CART, "/").with("x-user", key)).unwrap();
        assert_eq!(answer.status, 503, "{key}");
    }
    for key in of_others {
        assert_ne!(undoubted([&trio.gateways["west"]], || trio.served_by("west", key)), "east");
    }
}

#[test]
fn local_first_keeps_to_its_own_cluster_until_that_cannot() {
    for rest in [local_first(&CLUSTERS), "retry: { attempts: 3 }".into()] {
        let mut trio = Trio::start(&rest);
        for cluster in CLUSTERS {
            for i in 0..10 {
                assert_eq!(trio.served_by(cluster, &format!("u{i}")), cluster);
            }
        }
        let traffic = traffic(&trio, 0);
        for backend in trio.backends.get_mut("west").unwrap() {
            backend.stop();
        }
        traffic.wait_more(300);
        let report = traffic.stop();
        report.assert_none_failed();
        let elsewhere: Vec<_> =
            report.by_server().into_keys().filter(|s| !s.starts_with("west")).map(cluster_of).collect();
        assert!(!elsewhere.is_empty(), "{:?}", report.by_server());
        for backend in trio.backends.get_mut("west").unwrap() {
            backend.start_again();
        }
        e2e::wait_until("west serves itself again", e2e::wait::SOON, || {
            (trio.served_by("west", "u1") == "west").then_some(())
        });
    }
}

#[test]
fn a_pinned_name_goes_to_its_cluster_or_nowhere() {
    let mut trio = Trio::start(&sharded(&CLUSTERS));
    for asked in CLUSTERS {
        for pinned in CLUSTERS {
            for i in 0..5 {
                let host = format!("cart.shop.{pinned}.mesh");
                let answer = trio.gateways[asked]
                    .ask(&Request::get(&host, "/").with("x-user", &format!("u{i}")))
                    .unwrap();
                assert_eq!(cluster_of(answer.field("x-served-by").unwrap()), pinned, "u{i} at {asked}");
            }
        }
    }
    trio.gateway("east").process.kill();
    trio.gateways["west"].wait_peer("east", "down");
    assert_eq!(trio.gateways["west"].get("cart.shop.east.mesh", "/").status, 503);
}

#[test]
fn an_import_without_union_is_reached_by_its_pinned_name_only() {
    let pair = Pair::new();
    let (site, east) = (pair.west.site.clone(), pair.east.site.tunnel);
    drop(pair.west);
    let west = site.start(&[link("east", &[east]).replace("union: true", "namespace: shop")]);
    e2e::wait_until("the pinned name serves", e2e::wait::SOON, || {
        (west.get("cart.shop.east.mesh", "/").status == 200).then_some(())
    });
    assert_eq!(west.get(CART, "/").status, 404);
}

#[test]
fn round_robin_uses_every_endpoint_alike() {
    let east_policy = "balance: { algorithm: round-robin }".into();
    let pair = Pair::with(Setup { backends: 4, east_policy, ..Setup::default() });
    for _ in 0..40 {
        assert_eq!(pair.get("/").status, 200);
    }
    let counts: Vec<_> = pair.backends.iter().map(|b| b.seen().len()).collect();
    assert_eq!(counts, [10; 4]);
}
