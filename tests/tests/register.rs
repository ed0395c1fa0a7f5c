//! Endpoints that register themselves: served while they live, drained before they go, kept when it is not they that died.
#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use e2e::backend::Backend;
use e2e::client::{Request, fetch};
use e2e::etcd::{ETCD_SOON, Etcd, of_the_system};
use e2e::manifest::{exported, object, policy};
use e2e::mesh::{Gateway, Mesh, Site, find};
use e2e::port::free_port;
use e2e::registrar::register;
use e2e::sidecar::{SidecarSite, tcp, unix};
use e2e::traffic::{Ask, Traffic};
use e2e::wait::SOON;
use e2e::wait_until;

/// The service of these tests.
const WEB: &str = "web.shop.mesh";

/// A time to live that is waited for.
const SHORT: &str = "10s";
/// One that nothing comes close to.
const LONG: &str = "60s";

/// West alone with `shop/web`, which has no endpoint of its own.
fn west() -> (Mesh, Gateway) {
    let mesh = Mesh::new();
    let west = mesh.site("west", &[]).start(&[exported("web", &[], &[])]);
    (mesh, west)
}

/// The ids of the endpoints of `shop/web` in a status.
fn ids(gateway: &Gateway) -> Option<Vec<String>> {
    let status = gateway.status()?;
    let endpoints = find(&status["services"], "name", "shop/web")?["endpoints"].as_array()?.clone();
    Some(endpoints.iter().filter_map(|endpoint| Some(endpoint["id"].as_str()?.to_owned())).collect())
}

fn wait_ids(gateway: &Gateway, expected: &[&str]) {
    wait_until(&format!("the endpoints are {expected:?}"), SOON, || {
        (ids(gateway)? == expected).then_some(())
    });
}

#[test]
fn it_serves_as_long_as_it_lives_and_is_gone_within_its_time_to_live() {
    let (mesh, west) = west();
    let backend = Backend::start("a");
    let mut registrar = register(&mesh, &west.site, ("web", "a", backend.address()), SHORT, &[]);
    registrar.wait_log(&["registered shop/web a"]);
    let began = Instant::now();
    wait_until("it serves", SOON, || (west.get(WEB, "/").field("x-served-by") == Some("a")).then_some(()));
    let dump = mesh.cli(&["registry", "dump", "--admin", &west.site.admin.to_string()]).out;
    let record = dump.lines().find(|line| line.contains("/ringway/v1/endpoints/shop/web/a"));
    assert!(record.is_some_and(|line| line.contains("time to live 10 s, by user")), "{dump}");
    // It lives for longer than its time to live: who does not say so is gone for good.
    wait_until("its time is over", SOON, || (began.elapsed() > Duration::from_secs(12)).then_some(()));
    wait_until("it serves", SOON, || (west.get(WEB, "/").status == 200).then_some(()));
    registrar.kill();
    wait_ids(&west, &[]);
    assert_eq!(west.get(WEB, "/").status, 503);
}

#[test]
fn it_drains_and_no_request_fails() {
    let mesh = Mesh::new();
    // What is held is held until the drain is under way, however long that takes.
    let patient = policy("web", "timeout: { head: 120s }");
    let west = mesh.site("west", &[]).start(&[exported("web", &[], &[]), patient]);
    let backends = ["a", "b"].map(Backend::start);
    let mut registrars = ["a", "b"].map(|id| {
        register(&mesh, &west.site, ("web", id, backends[usize::from(id == "b")].address()), LONG, &[])
    });
    for (registrar, id) in registrars.iter().zip(["a", "b"]) {
        registrar.wait_log(&["registered shop/web", id]);
    }
    let address = west.site.http;
    let held = std::thread::spawn(move || {
        // Whichever of the two has it, one of them is drained with a request under way.
        let ask = || std::thread::spawn(move || fetch(address, &Request::get(WEB, "/hold")));
        [ask(), ask(), ask(), ask()].map(|asked| asked.join().unwrap())
    });
    wait_until("all are at the endpoints", SOON, || {
        (backends.iter().map(|b| b.count("/hold")).sum::<usize>() == 4).then_some(())
    });
    let traffic = Traffic::start(west.site.http, 4, Ask::get(WEB));
    traffic.wait_more(200);
    registrars[0].ask_to_end();
    registrars[0].wait_log(&["draining shop/web a"]);
    backends.iter().for_each(Backend::release);
    let status = wait_until("the end of the registrar", SOON, || registrars[0].ended());
    assert!(status.success(), "{status}");
    registrars[0].wait_log(&["gone shop/web a"]);
    wait_ids(&west, &["b"]);
    let before = backends[0].count("/");
    traffic.wait_more(200);
    assert_eq!(backends[0].count("/"), before, "it gets nothing any more");
    traffic.stop().assert_none_failed();
    for answer in held.join().unwrap() {
        assert_eq!(answer.unwrap().status, 200, "what was under way is finished");
    }
}

#[test]
fn a_gateway_that_restarts_has_its_endpoints_at_once_and_finds_their_registrars_again() {
    let (mesh, mut west) = west();
    let backend = Backend::start("a");
    let registrar = register(&mesh, &west.site, ("web", "a", backend.address()), LONG, &[]);
    registrar.wait_log(&["registered shop/web a"]);
    west.restart();
    assert_eq!(west.get(WEB, "/").status, 200, "from the first request on");
    wait_until("it is registered again", SOON, || {
        (registrar.log().matches("registered shop/web a").count() >= 2).then_some(())
    });
}

#[test]
fn what_is_wrong_is_refused_and_what_is_not_there_yet_is_waited_for() {
    let (mesh, west) = west();
    let socket = west.site.dir.join("state/admin.sock").display().to_string();
    let register_it = |more: &[&str]| {
        let mut args = vec!["register", "--admin-socket", &socket];
        args.extend(more);
        mesh.cli(&args)
    };
    let said = register_it(&["--service", "shop/web", "--port", "http=9001"]);
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.err.contains("service shop/web has no port `http`; its ports are web"), "{said:?}");
    let said = register_it(&["--service", "shop/web", "--port", "web=9001", "--host", "a/b"]);
    assert!(said.code == Some(1) && said.err.contains("`a/b` is no host"), "{said:?}");
    for wrong in [
        &["--service", "web", "--port", "web=1"][..],
        &["--service", "shop/web"],
        &["--service", "shop/web", "--port", "web"],
        &["--service", "shop/web", "--port", "web=1", "--ttl", "1s"],
        &["--service", "shop/web", "--port", "web=1", "--weight", "0"],
    ] {
        assert_eq!(register_it(wrong).code, Some(2), "{wrong:?}");
    }

    let backend = Backend::start("a");
    let registrar = register(&mesh, &west.site, ("later", "a", backend.address()), LONG, &[]);
    registrar.wait_log(&["waiting shop/later a: no MeshService shop/later is declared"]);
    west.wait_status("the condition", SOON, |status| {
        find(&status["conditions"], "reason", "ServiceNotDeclared").map(|_| ())
    });
    west.site.write(&[exported("later", &[], &[])]);
    west.process.hang_up();
    registrar.wait_log(&["registered shop/later a"]);
    assert_eq!(west.get("later.shop.mesh", "/").status, 200);
}

#[test]
fn an_id_belongs_to_the_first() {
    let (mesh, west) = west();
    let backends = ["first", "second"].map(Backend::start);
    let mut first = register(&mesh, &west.site, ("web", "a", backends[0].address()), SHORT, &[]);
    first.wait_log(&["registered shop/web a"]);
    // Their logs have the same name, which a folder of its own keeps apart.
    let other = Mesh::new();
    let second = register(&other, &west.site, ("web", "a", backends[1].address()), LONG, &[]);
    second.wait_log(&["waiting shop/web a: the id is taken by user"]);
    first.kill();
    second.wait_log(&["registered shop/web a"]);
    wait_until("the second serves", SOON, || {
        (west.get(WEB, "/").field("x-served-by") == Some("second")).then_some(())
    });
}

#[test]
fn a_command_is_registered_while_it_runs_and_ends_after_the_drain() {
    let (mesh, west) = west();
    let backend = Backend::start("a");
    // It says when it is told to end, and has a code of its own.
    let script = "trap 'echo told to end; exit 7' INT; while :; do sleep 0.05; done";
    let mut registrar =
        register(&mesh, &west.site, ("web", "a", backend.address()), LONG, &["--", "sh", "-c", script]);
    registrar.wait_log(&["registered shop/web a"]);
    // By Ctrl-C, which a terminal sends to more than one process.
    registrar.interrupt_group();
    let status = wait_until("its end", SOON, || registrar.ended());
    assert_eq!(status.code(), Some(7), "{}", registrar.log());
    let log = registrar.log();
    let at = |text: &str| log.find(text).unwrap_or_else(|| panic!("no `{text}` in {log}"));
    assert!(at("draining shop/web a") < at("gone shop/web a"), "{log}");
    assert!(at("gone shop/web a") < at("told to end"), "{log}");
    wait_ids(&west, &[]);

    // One that ends by itself takes its endpoint along.
    let mut registrar =
        register(&mesh, &west.site, ("web", "b", backend.address()), LONG, &["--", "sh", "-c", "exit 3"]);
    let status = wait_until("its end", SOON, || registrar.ended());
    assert_eq!(status.code(), Some(3));
    wait_ids(&west, &[]);
}

#[test]
fn a_sidecar_registers_its_workload_in_its_own_namespace() {
    let (mesh, west) = west();
    let backend = Backend::start("a");
    let port = backend.address().port();
    let mut site = SidecarSite::new(&mesh, "web-1", "web", &west.site);
    site.gateways = vec![unix(&west.site)];
    site.more = format!("  register: [{{ service: shop/web, id: a, ports: {{ web: {port} }} }}]\n");
    let mut sidecar = site.start_up();
    wait_ids(&west, &["a"]);
    assert_eq!(west.get(WEB, "/").field("x-served-by"), Some("a"));
    let caller = SidecarSite::new(&mesh, "cart-1", "cart", &west.site).start_up();
    assert_eq!(caller.get(WEB, "/").field("x-served-by"), Some("a"), "other sidecars reach it, too");

    let traffic = Traffic::start(west.site.http, 2, Ask::get(WEB));
    traffic.wait_more(50);
    sidecar.process.ask_to_end();
    wait_until("the end of the sidecar", SOON, || sidecar.process.ended());
    wait_ids(&west, &[]);
    let report = traffic.stop();
    // With its last endpoint the service is out; nothing that was under way was cut.
    assert!(report.done.iter().all(|d| matches!(&d.result, Ok((200 | 503, _)))), "{:?}", report.failed());

    // Not in another's.
    west.site.write(&[
        exported("web", &[], &[]),
        object("MeshService", "web, namespace: ops", "ports: [{ name: web, port: 80, protocol: http }]"),
    ]);
    west.process.hang_up();
    let mut site = SidecarSite::new(&mesh, "web-2", "web", &west.site);
    site.more = format!("  register: [{{ service: ops/web, ports: {{ web: {port} }} }}]\n");
    let sidecar = site.start_up();
    let said = sidecar.process.wait_log(&["Registration refused by the gateway"]);
    assert!(said.contains("ops/web") && said.contains("its own namespace"), "{said}");
}

#[test]
fn a_workload_registers_no_address_but_its_own_unless_its_service_allows_it() {
    let (mesh, west) = west();
    let backend = Backend::start("a");
    let port = backend.address().port();
    let refused = |name: &str, gateways: String, register: &str, words: &[&str]| {
        let mut site = SidecarSite::new(&mesh, name, "web", &west.site);
        site.gateways = vec![gateways];
        site.more = format!("  register: [{{ service: shop/web, id: a, {register} }}]\n");
        let sidecar = site.start_up();
        let said = sidecar.process.wait_log(&["Registration refused by the gateway"]);
        words.iter().for_each(|words| assert!(said.contains(words), "{register}: no `{words}` in {said}"));
        assert_eq!(ids(&west).unwrap(), Vec::<String>::new(), "{register}");
    };
    // Over the network it says where it is reached from elsewhere, and is nowhere else.
    let here = format!("ports: {{ web: {port} }}");
    refused("web-1", tcp(&west.site), &here, &["loopback address", "over its Unix socket"]);
    let elsewhere = "host: 192.0.2.7, ports: { web: 80 }";
    refused(
        "web-2",
        tcp(&west.site),
        elsewhere,
        &["MeshService shop/web", "registration: { hosts: [", "192.0.2.7"],
    );
    // The gateway itself is nobody's endpoint, on its own host neither: peers would be sent there.
    for (name, of_ours) in
        [("web-3", west.site.admin), ("web-4", west.site.tunnel), ("web-5", west.site.http)]
    {
        let ours = format!("ports: {{ web: {} }}", of_ours.port());
        refused(name, unix(&west.site), &ours, &["a port of this gateway itself"]);
    }

    let allowed = exported("web", &[], &[]).trim_end().to_owned()
        + "\n  registration: { hosts: [192.0.2.0/24, \"*.pods.example\"] }\n";
    west.site.write(&[allowed]);
    west.process.hang_up();
    let mut site = SidecarSite::new(&mesh, "web-6", "web", &west.site);
    site.gateways = vec![tcp(&west.site)];
    site.more = format!("  register: [{{ service: shop/web, id: a, {elsewhere} }}]\n");
    let sidecar = site.start_up();
    wait_ids(&west, &["a"]);
    // What is not allowed any more goes with that.
    west.site.write(&[exported("web", &[], &[])]);
    west.process.hang_up();
    wait_ids(&west, &[]);
    sidecar.process.wait_log(&["Registration refused by the gateway", "registration: { hosts: ["]);
}

#[test]
fn a_sidecar_that_loses_its_gateway_stays_registered() {
    let (mesh, mut west) = west();
    let backend = Backend::start("a");
    let mut site = SidecarSite::new(&mesh, "web-1", "web", &west.site);
    let port = backend.address().port();
    site.more = format!("  register: [{{ service: shop/web, id: a, ports: {{ web: {port} }} }}]\n");
    let sidecar = site.start_up();
    // Before the gateway goes: it is told again by the next.
    sidecar.process.wait_log(&["Endpoint registration changed.", "registered"]);
    west.restart();
    assert_eq!(west.get(WEB, "/").status, 200, "from the first request on");
    wait_until("it is registered again", SOON, || {
        let log = sidecar.process.log();
        let again = log
            .lines()
            .filter(|l| l.contains("Endpoint registration changed.") && l.contains("registered"))
            .count()
            >= 2;
        again.then_some(())
    });
}

mod with_etcd {
    use super::*;

    /// Gateway `id` of west, which keeps its registry in `etcd`.
    fn gateway(mesh: &Mesh, id: &str, etcd: &Etcd) -> Gateway {
        let dir = mesh.dir().join(id);
        std::fs::create_dir_all(&dir).unwrap();
        let out = dir.join("pki").display().to_string();
        let args = ["pki", "issue", "--ca", "ca", "--cluster", "west", "--gateway", id, "--out", &out];
        assert_eq!(mesh.cli(&args).code, Some(0));
        let port = || std::net::SocketAddr::from((std::net::Ipv4Addr::LOCALHOST, free_port()));
        let (tunnel, http, admin) = (port(), port(), port());
        let (cluster, gateway) = ("west".into(), id.into());
        let site = Site { cluster, gateway, dir, tunnel, http, admin, access_log: false, etcd: Vec::new() };
        let registry =
            format!("  registry: {{ etcd: {{ endpoints: [{}] }} }}\n", etcd.endpoints().join(", "));
        let manifests = format!("{}{registry}---\n{}", site.manifest(), exported("web", &[], &[]));
        std::fs::write(site.file(), manifests).unwrap();
        let gateway = site.spawn();
        gateway.wait_ready();
        gateway
    }

    #[test]
    fn endpoints_outlive_their_registry_and_not_their_registrar() {
        let mesh = Mesh::new();
        let mut etcd = Etcd::start(&of_the_system(), 1);
        let gateways = ["gw-1", "gw-2"].map(|id| gateway(&mesh, id, &etcd));
        let backends = ["a", "b"].map(Backend::start);
        let start = |id: &str, n: usize, at: usize, ttl| {
            register(&mesh, &gateways[at].site, ("web", id, backends[n].address()), ttl, &[])
        };
        let mut mortal = start("a", 0, 0, SHORT);
        let mut other = start("b", 1, 1, SHORT);
        for gateway in &gateways {
            wait_ids(gateway, &["a", "b"]);
            assert_eq!(gateway.get(WEB, "/").status, 200);
        }
        etcd.kill(0);
        // For longer than any lease would live, whoever is asked.
        let lost = Instant::now();
        while lost.elapsed() < Duration::from_secs(12) {
            for gateway in &gateways {
                assert_eq!(gateway.get(WEB, "/").status, 200);
                assert_eq!(ids(gateway).unwrap(), ["a", "b"]);
            }
        }
        // Its registrar dies meanwhile, and nobody can know.
        mortal.kill();
        etcd.restart(0);
        for gateway in &gateways {
            wait_until("only the other is left", ETCD_SOON, || (ids(gateway)? == ["b"]).then_some(()));
        }
        // The one that lives has its record again, and takes it off itself.
        wait_until("it is in the registry", ETCD_SOON, || {
            let dump = mesh.cli(&["registry", "dump", "--admin", &gateways[0].site.admin.to_string()]).out;
            dump.contains("/ringway/v1/endpoints/shop/web/b").then_some(())
        });
        other.ask_to_end();
        assert!(wait_until("its end", ETCD_SOON, || other.ended()).success());
        for gateway in &gateways {
            wait_until("none is left", ETCD_SOON, || ids(gateway)?.is_empty().then_some(()));
        }
    }
}
