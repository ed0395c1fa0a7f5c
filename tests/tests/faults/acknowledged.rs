//! What a cluster of two gateways has taken from operators and registrars, whatever becomes of its etcd or of one of its
//! gateways: it is there, or somebody is told.

use std::fs;
use std::time::{Duration, Instant};

use e2e::backend::Backend;
use e2e::duo::{Duo, wait_answered, wait_standing};
use e2e::etcd::ETCD_SOON;
use e2e::manifest::{exported, service};
use e2e::mesh::{Gateway, find};
use e2e::pair::CART;
use e2e::process::Said;
use e2e::registrar::register;
use e2e::sidecar::{SidecarSite, unix};
use e2e::traffic::{Ask, Traffic};
use e2e::wait_until;
use serde_json::Value;

/// A service that west has for itself.
const WEB: &str = "web.shop.mesh";

/// Longer than the 10 s for which a registered endpoint lives without a word.
const BEYOND: Duration = Duration::from_secs(12);

fn write(duo: &Duo, file: &str, documents: &[String]) {
    fs::write(duo.mesh.dir().join(file), documents.join("---\n")).unwrap();
}

fn apply(duo: &Duo, gateway: &Gateway, file: &str) -> Said {
    duo.mesh.cli_at(gateway, &["apply", "-f", file])
}

fn applied(duo: &Duo, gateway: &Gateway, file: &str) {
    let said = apply(duo, gateway, file);
    assert_eq!(said.code, Some(0), "{said:?}");
}

/// The objects that `ringway get` shows.
fn shown(duo: &Duo, gateway: &Gateway) -> Vec<Value> {
    let said = duo.mesh.cli_at(gateway, &["get", "-o", "json"]);
    let said: Value = serde_json::from_str(&said.out).unwrap();
    let of_store = |object: &&Value| object["file"].is_null();
    said["objects"].as_array().unwrap().iter().filter(of_store).cloned().collect()
}

/// Waits until both gateways show these applied objects.
fn wait_shown(duo: &Duo, names: &[&str]) {
    for gateway in duo.west() {
        wait_until(&format!("{} shows {names:?}", gateway.site.gateway), ETCD_SOON, || {
            let shown = shown(duo, gateway);
            let found: Vec<_> = shown.iter().filter_map(|object| object["name"].as_str()).collect();
            (found == names).then_some(())
        });
    }
}

/// The ids of the endpoints of `shop/web`.
fn ids(gateway: &Gateway) -> Option<Vec<String>> {
    let status = gateway.status()?;
    let endpoints = find(&status["services"], "name", "shop/web")?["endpoints"].as_array()?.clone();
    Some(endpoints.iter().filter_map(|endpoint| Some(endpoint["id"].as_str()?.to_owned())).collect())
}

fn wait_ids(gateway: &Gateway, expected: &[&str]) {
    wait_until(&format!("{} has {expected:?}", gateway.site.gateway), ETCD_SOON, || {
        (ids(gateway)? == expected).then_some(())
    });
}

/// Whether etcd has the endpoint `id` of `shop/web`.
fn is_stored(duo: &Duo, id: &str) -> Option<bool> {
    let key = format!("/ringway/v1/endpoints/shop/web/{id}");
    Some(duo.stored.below(&key)?.iter().any(|entry| entry.key == key))
}

/// Applies `shop/web`, of which endpoints register themselves.
fn declare_web(duo: &Duo) {
    write(duo, "web.yaml", &[exported("web", &[], &[])]);
    applied(duo, &duo.first, "web.yaml");
    wait_shown(duo, &["web"]);
}

mod with_etcd {
    use super::*;

    #[test]
    fn of_two_operators_at_two_gateways_one_wins_and_the_other_hears_of_it() {
        let duo = Duo::new();
        declare_web(&duo);
        for generation in 2..8 {
            wait_until("both show the last change", ETCD_SOON, || {
                let last = |gateway| shown(&duo, gateway)[0]["generation"] == generation - 1;
                duo.west().into_iter().all(last).then_some(())
            });
            let get = ["get", "MeshService", "web", "-n", "shop", "-o", "yaml"];
            let changed = |gateway: &Gateway, id: &str| {
                let endpoint = format!("{{ id: {id}{generation}, host: 127.0.0.1, ports: {{ web: 9001 }} }}");
                let before = duo.mesh.cli_at(gateway, &get).out;
                let at = before.find("endpoints: [").unwrap();
                let end = at + before[at..].find('\n').unwrap();
                format!("{}endpoints: [{endpoint}]{}", &before[..at], &before[end..])
            };
            write(&duo, "first.yaml", &[changed(&duo.first, "first")]);
            write(&duo, "second.yaml", &[changed(&duo.second, "second")]);
            let said = std::thread::scope(|scope| {
                let first = scope.spawn(|| apply(&duo, &duo.first, "first.yaml"));
                let second = scope.spawn(|| apply(&duo, &duo.second, "second.yaml"));
                [first.join().unwrap(), second.join().unwrap()]
            });
            let (winner, loser) = match [said[0].code, said[1].code] {
                [Some(0), Some(1)] => ("first", &said[1]),
                [Some(1), Some(0)] => ("second", &said[0]),
                _ => panic!("{said:?}"),
            };
            assert!(loser.err.contains("MeshService shop/web was changed by uid"), "{loser:?}");
            for gateway in duo.west() {
                wait_ids(gateway, &[&format!("{winner}{generation}")]);
            }
        }
    }

    #[test]
    fn without_etcd_what_was_taken_serves_after_a_start_and_nothing_else_is_taken() {
        let mut duo = Duo::new();
        declare_web(&duo);
        let backend = Backend::start("west/a");
        let id = "web-of-west";
        let _registrar = register(&duo.mesh, &duo.first.site, ("web", id, backend.address()), "10s", &[]);
        duo.west().into_iter().for_each(|gateway| wait_ids(gateway, &[id]));
        wait_until("it is on the disk", ETCD_SOON, || {
            let catalog = fs::read(duo.first.site.dir.join("state/catalog")).ok()?;
            catalog.windows(id.len()).any(|window| window == id.as_bytes()).then_some(())
        });
        let load = Traffic::start(duo.second.site.http, 2, Ask::get(WEB));
        duo.etcd.kill(0);
        duo.west().into_iter().for_each(|gateway| wait_standing(gateway, "unknown"));

        write(&duo, "more.yaml", &[service("more", &[("a", backend.address())])]);
        let asked = Instant::now();
        let said = apply(&duo, &duo.first, "more.yaml");
        assert_eq!(said.code, Some(1), "{said:?}");
        assert!(said.err.contains("registry") && said.err.contains(&duo.etcd.endpoints()[0]), "{said:?}");
        assert!(asked.elapsed() < Duration::from_secs(30), "{:?}", asked.elapsed());

        duo.first.restart();
        assert_eq!(duo.first.get(WEB, "/").field("x-served-by"), Some("west/a"), "from the first request on");
        wait_shown(&duo, &["web"]);
        let started = Instant::now();
        wait_until("its time to live is over", ETCD_SOON, || {
            assert_eq!(duo.first.get(WEB, "/").status, 200);
            (started.elapsed() > BEYOND).then_some(())
        });

        duo.etcd.restart(0);
        duo.wait_elected();
        wait_until("it is in etcd again", ETCD_SOON, || is_stored(&duo, id)?.then_some(()));
        wait_until("it takes changes", ETCD_SOON, || {
            (apply(&duo, &duo.first, "more.yaml").code == Some(0)).then_some(())
        });
        wait_shown(&duo, &["more", "web"]);
        load.stop().assert_none_failed();
    }

    #[test]
    fn an_old_backup_brings_back_what_lives_and_what_is_lost_is_told() {
        let mut duo = Duo::new();
        declare_web(&duo);
        let backup = duo.etcd.back_up();
        duo.west().into_iter().for_each(wait_answered);
        let backend = Backend::start("west/a");
        let _registrar = register(&duo.mesh, &duo.second.site, ("web", "a", backend.address()), "60s", &[]);
        duo.west().into_iter().for_each(|gateway| wait_ids(gateway, &["a"]));
        write(&duo, "more.yaml", &[service("more", &[("a", backend.address())])]);
        applied(&duo, &duo.first, "more.yaml");
        wait_shown(&duo, &["more", "web"]);
        let [web, cart] = [WEB, CART].map(|host| Traffic::start(duo.first.site.http, 2, Ask::get(host)));

        duo.etcd.restore(&backup);
        // Who registered it lives, and so does the peer; of the operator nothing is left but the word that it is gone.
        wait_until("it is in etcd again", ETCD_SOON, || is_stored(&duo, "a")?.then_some(()));
        wait_shown(&duo, &["web"]);
        for gateway in duo.west() {
            gateway.process.wait_log(&["Audit:", "MeshService shop/more", "removed"]);
            wait_ids(gateway, &["a"]);
        }
        duo.wait_elected();
        applied(&duo, &duo.second, "more.yaml");
        wait_shown(&duo, &["more", "web"]);
        for traffic in [web, cart] {
            traffic.wait_more(50);
            traffic.stop().assert_none_failed();
        }
    }

    #[test]
    fn a_sidecar_moves_with_its_endpoint_when_its_gateway_dies() {
        let mut duo = Duo::new();
        declare_web(&duo);
        let backend = Backend::start("west/a");
        let mut site = SidecarSite::new(&duo.mesh, "web-1", "web", &duo.first.site);
        // Both are on its host: over the network it would have to say where it is.
        site.gateways = vec![unix(&duo.first.site), unix(&duo.second.site)];
        let port = backend.address().port();
        site.more = format!("  register: [{{ service: shop/web, id: a, ports: {{ web: {port} }} }}]\n");
        let sidecar = site.start();
        let [first, second] = duo.west().map(|gateway| gateway.site.gateway.clone());
        sidecar.wait_gateway(&first, "up");
        sidecar.wait_gateway(&second, "up");
        duo.west().into_iter().for_each(|gateway| wait_ids(gateway, &["a"]));
        let of_east = Traffic::start(sidecar.site.proxy, 4, Ask::get(CART));
        let of_west = Traffic::start(duo.second.site.http, 2, Ask::get(WEB));
        of_east.wait_more(100);

        duo.first.process.kill();
        let killed = Instant::now();
        sidecar.wait_gateway(&first, "down");
        wait_until("its time to live is over", ETCD_SOON, || (killed.elapsed() > BEYOND).then_some(()));
        assert_eq!(ids(&duo.second).unwrap(), ["a"]);
        assert_eq!(is_stored(&duo, "a"), Some(true));
        of_east.wait_more(100);
        duo.first.restart();
        sidecar.wait_gateway(&first, "up");
        wait_ids(&duo.first, &["a"]);
        of_east.wait_more(100);
        of_east.stop().assert_none_failed();
        of_west.stop().assert_none_failed();
    }
}
