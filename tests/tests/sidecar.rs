//! Sidecars: what is local is reached without the gateway, everything else through one that is there.
#![allow(clippy::unwrap_used)]

use std::io::{Read, Write};
use std::net::TcpStream;

use e2e::backend::Backend;
use e2e::client::Request;
use e2e::curl::curl;
use e2e::manifest::{exported, link, policy, service, sharded};
use e2e::mesh::{Gateway, Mesh, undoubted};
use e2e::pair::{CART, Pair};
use e2e::peer::Peer;
use e2e::sidecar::{SidecarSite, tcp};
use e2e::traffic::{Ask, Traffic};
use e2e::wait::SOON;
use e2e::wait_until;

/// A service that west has for itself.
const WEB: &str = "web.shop.mesh";

/// West alone, with a service `shop/web` of two endpoints in turn.
fn west() -> (Mesh, [Backend; 2], Gateway) {
    let mesh = Mesh::new();
    let backends = ["a", "b"].map(|id| Backend::start(&format!("west/{id}")));
    let endpoints = [("a", backends[0].address()), ("b", backends[1].address())];
    let west = mesh
        .site("west", &[])
        .start(&[exported("web", &endpoints, &[]), policy("web", "balance: { algorithm: round-robin }")]);
    (mesh, backends, west)
}

#[test]
fn what_is_local_is_balanced_without_the_gateway() {
    let (mesh, backends, mut west) = west();
    let sidecar = SidecarSite::new(&mesh, "cart-1", "cart", &west.site).start_up();
    for _ in 0..40 {
        assert_eq!(sidecar.get(WEB, "/").status, 200);
    }
    assert_eq!(backends.each_ref().map(|b| b.seen().len()), [20, 20], "in turn, as the policy says");
    let via = |seen: &str| seen.lines().find(|l| l.starts_with("via:")).map(String::from);
    let seen = via(&sidecar.get(WEB, "/seen").text()).unwrap();
    assert!(seen.contains("cart-1.west.sidecar") && !seen.contains("gateway"), "{seen}");

    west.process.kill();
    sidecar.wait_gateway("gw-1", "down");
    for _ in 0..40 {
        assert_eq!(sidecar.get(WEB, "/").status, 200, "the gateway is not on the way");
    }
}

#[test]
fn an_endpoint_that_fails_its_checks_gets_nothing() {
    let (mesh, mut backends, west) = west();
    let endpoints = [("a", backends[0].address()), ("b", backends[1].address())];
    let checked = exported("web", &endpoints, &[]).trim_end().to_owned()
        + "\n  healthCheck: { http: { path: /status/200 }, interval: 1s, timeout: 1s, rise: 1, fall: 2 }\n";
    west.site.write(&[checked]);
    west.process.hang_up();
    let sidecar = SidecarSite::new(&mesh, "cart-1", "cart", &west.site).start_up();
    assert_eq!(sidecar.get(WEB, "/").status, 200);
    backends[1].stop();
    let failing = |status: &serde_json::Value| {
        let service = e2e::mesh::find(&status["services"], "name", "shop/web")?.clone();
        (e2e::mesh::find(&service["endpoints"], "id", "b")?["ready"] == false).then_some(())
    };
    wait_until("the sidecar hears that b fails", SOON, || failing(&sidecar.status()?));
    for _ in 0..20 {
        assert_eq!(sidecar.get(WEB, "/").field("x-served-by"), Some("west/a"));
    }
}

/// The pair, whose gateways log every request.
fn logging() -> Pair {
    let mut pair = Pair::new();
    for gateway in [&mut pair.east, &mut pair.west] {
        gateway.site.access_log = true;
        gateway.restart();
    }
    pair.west.wait_service("shop/cart", &["east"]);
    pair
}

/// What works through a sidecar of west with an endpoint in east, whatever carries it.
fn matrix(gateways: impl Fn(&Pair) -> Vec<String>) {
    let pair = Pair::new();
    let mut site = SidecarSite::new(&pair.mesh, "cart-1", "cart", &pair.west.site);
    site.gateways = gateways(&pair);
    let sidecar = site.start_up();
    let answer = sidecar.get(CART, "/");
    assert_eq!((answer.status, answer.field("x-served-by")), (200, Some("east/a")));
    // By Host alone, as a workload does that takes the sidecar for the server.
    assert_eq!(sidecar.ask(&Request::get(CART, "/")).unwrap().status, 200);
    assert_eq!(sidecar.get("cart.shop.east.mesh", "/").status, 200);
    assert_eq!(sidecar.get(&format!("{CART}:80"), "/").status, 200);

    let body: Vec<u8> = (0..3u32 << 20).map(|n| (n % 251) as u8).collect();
    let request = Request::post(CART, &format!("http://{CART}/echo"), &body);
    let echoed = sidecar.ask(&request).unwrap();
    assert_eq!((echoed.status, echoed.digest), (200, e2e::http::Digest::of(&body)));
    let chunked = Request::new("POST", CART, "/echo").with("te", "trailers").with("trailer", "x-sum");
    let chunked = chunked.with_chunks(&body[..100_000], 999, &[("x-sum", "7")]);
    let echoed = sidecar.ask(&chunked).unwrap();
    assert_eq!(echoed.digest, e2e::http::Digest::of(&body[..100_000]));
    assert_eq!(echoed.trailers, [("x-sum".to_owned(), "7".to_owned())]);
    assert_eq!(sidecar.get(CART, "/status/503").status, 503, "an answer is an answer");
    // Cut before anything of it was forwarded, or after: never whole.
    if let Ok(answer) = sidecar.ask(&Request::get(CART, "/cut/1000000/500")) {
        assert_eq!(answer.status, 502, "{answer:?}");
    }

    // A real client, by proxy and by prior knowledge of HTTP/2.
    let (proxy, cart) = (format!("http://{}", sidecar.site.proxy), format!("http://{CART}/"));
    let said = curl(&["--noproxy", "", "--proxy", &proxy, &cart]);
    assert_eq!((said.code, &*said.out), (Some(0), "east/a\n"), "{said:?}");
    let host = format!("host: {CART}");
    let said = curl(&["--http2-prior-knowledge", "-w", " %{http_version}", "-H", &host, &proxy]);
    assert_eq!((said.code, &*said.out), (Some(0), "east/a\n 2"), "{said:?}");

    let none = sidecar.get("nothing.shop.mesh", "/");
    let status = none.field("proxy-status").unwrap_or_default().to_owned();
    assert_eq!(none.status, 404, "{status}");
    assert!(status.contains("error=destination_not_found"), "{status}");
}

#[test]
fn everything_crosses_a_unix_socket() {
    matrix(|pair| vec![e2e::sidecar::unix(&pair.west.site)]);
}

#[test]
fn everything_crosses_tcp() {
    matrix(|pair| vec![tcp(&pair.west.site)]);
}

#[test]
fn the_far_gateway_hears_who_asks() {
    let pair = logging();
    let sidecar = SidecarSite::new(&pair.mesh, "cart-1", "checkout", &pair.west.site).start_up();
    assert_eq!(sidecar.get(CART, "/?secret=1").status, 200);
    let caller = "spiffe://acme.example/cluster/west/ns/shop/sa/checkout";
    let line = pair.east.process.wait_log(&["Request.", "inbound", "shop/cart", caller, "answered"]);
    assert!(line.contains("200") && !line.contains("secret"), "{line}");
    pair.west.process.wait_log(&["Request.", "outbound", "shop/cart", caller, "east"]);
    // Whoever needs no sidecar is nobody.
    assert_eq!(pair.get("/").status, 200);
    pair.east.process.wait_log(&["Request.", "inbound", "shop/cart", "anonymous"]);
}

#[test]
fn keys_stay_where_they_belong() {
    let mesh = Mesh::new();
    let backends = ["east/a", "west/a"].map(Backend::start);
    let rule = policy("cart", &sharded(&["east", "west"]));
    let (east, west) = (mesh.site("east", &["west"]), mesh.site("west", &["east"]));
    let [of_east, of_west] = [0, 1].map(|n| service("cart", &[("a", backends[n].address())]));
    let east = east.start(&[link("west", &[]), of_east, rule.clone()]);
    let west = west.start(&[link("east", &[east.site.tunnel]), of_west, rule]);
    west.wait_service("shop/cart", &["east", "west"]);
    let sidecar = SidecarSite::new(&mesh, "cart-1", "cart", &west.site).start_up();
    let mut owners = std::collections::BTreeSet::new();
    for n in 0..40 {
        let user = format!("u{n}");
        let keyed = |at| e2e::client::fetch(at, &Request::get(CART, "/").with("x-user", &user)).unwrap();
        let (by_gateway, by_sidecar) =
            undoubted([&west], || (keyed(west.site.http), keyed(sidecar.site.proxy)));
        let served = |answer: &e2e::client::Response| answer.field("x-served-by").unwrap().to_owned();
        assert_eq!(served(&by_gateway), served(&by_sidecar), "{user}");
        owners.insert(served(&by_sidecar));
    }
    assert_eq!(owners.len(), 2);
}

#[test]
fn no_get_is_lost_when_its_gateway_restarts() {
    let mut pair = Pair::new();
    let sidecar = SidecarSite::new(&pair.mesh, "cart-1", "cart", &pair.west.site).start_up();
    assert_eq!(sidecar.get(CART, "/").status, 200);
    let traffic = Traffic::start(sidecar.site.proxy, 4, Ask::get(CART));
    traffic.wait_more(100);
    assert!(pair.west.process.terminate().success());
    pair.west = pair.west.site.spawn();
    pair.west.wait_service("shop/cart", &["east"]);
    traffic.wait_more(100);
    pair.west.process.kill();
    pair.west = pair.west.site.spawn();
    pair.west.wait_service("shop/cart", &["east"]);
    traffic.wait_more(100);
    traffic.stop().assert_none_failed();
}

#[test]
fn it_moves_to_another_gateway_of_its_cluster() {
    let mut pair = Pair::new();
    // The second gateway of west is of the same cluster: it has the first one's state as it was.
    assert!(pair.west.process.terminate().success());
    let mut second = pair.west.site.clone();
    second.access_log = true;
    second.gateway = "gw-2".into();
    second.dir = pair.mesh.dir().join("west-2");
    second.tunnel.set_port(e2e::port::free_port());
    second.http.set_port(e2e::port::free_port());
    second.admin.set_port(e2e::port::free_port());
    std::fs::create_dir_all(second.dir.join("state")).unwrap();
    for file in std::fs::read_dir(pair.west.site.dir.join("state")).unwrap() {
        let file = file.unwrap();
        if file.file_type().unwrap().is_file() {
            std::fs::copy(file.path(), second.dir.join("state").join(file.file_name())).unwrap();
        }
    }
    let out = second.dir.join("pki");
    let args =
        ["pki", "issue", "--ca", "ca", "--cluster", "west", "--gateway", "gw-2", "--peer", "east", "--out"];
    let args: Vec<String> = args.iter().map(ToString::to_string).chain([out.display().to_string()]).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    assert_eq!(pair.mesh.cli(&args).code, Some(0));
    let objects = [link("east", &[pair.east.site.tunnel])];
    pair.west = pair.west.site.start(&objects);
    let second = second.start(&objects);
    pair.west.wait_service("shop/cart", &["east"]);
    second.wait_service("shop/cart", &["east"]);

    let mut site = SidecarSite::new(&pair.mesh, "cart-1", "cart", &pair.west.site);
    site.gateways = vec![e2e::sidecar::unix(&pair.west.site), tcp(&second.site)];
    let sidecar = site.start_up();
    sidecar.wait_gateway("gw-2", "up");
    let traffic = Traffic::start(sidecar.site.proxy, 4, Ask::get(CART));
    traffic.wait_more(100);
    assert!(!second.process.log().contains("Request."), "the first is preferred while it is there");
    pair.west.process.kill();
    sidecar.wait_gateway("gw-1", "down");
    traffic.wait_more(100);
    second.process.wait_log(&["Request.", "shop/cart", "sa/cart"]);
    traffic.stop().assert_none_failed();
}

#[test]
fn what_is_no_name_of_the_mesh_is_refused_unless_told_otherwise() {
    let (mesh, _backends, west) = west();
    let outside = Backend::start("outside");
    let host = outside.address().to_string();
    let mut site = SidecarSite::new(&mesh, "cart-1", "cart", &west.site);
    let sidecar = site.start_up();
    let refused = sidecar.get(&host, "/");
    let status = refused.field("proxy-status").unwrap_or_default().to_owned();
    assert_eq!(refused.status, 403, "{status}");
    assert!(status.contains("error=http_request_denied") && status.contains("passthrough"), "{status}");
    let connect = Request::new("CONNECT", &host, &host);
    assert_eq!(sidecar.ask(&connect).unwrap().status, 403);
    assert!(outside.seen().is_empty());
    drop(sidecar);

    site.more = "  passthrough: true\n".into();
    let sidecar = site.start_up();
    let passed = sidecar.get(&host, "/seen");
    assert_eq!((passed.status, passed.field("x-served-by")), (200, Some("outside")));
    assert!(passed.text().starts_with("GET /seen HTTP/1.1"), "{}", passed.text());
    assert_eq!(sidecar.get(WEB, "/").status, 200, "the mesh is served as ever");
    // What its caller does wrong is not the host's fault.
    let mut broken = Request::new("POST", &host, "/").with("transfer-encoding", "chunked");
    broken.body = b"0x1\r\na\r\n0\r\n\r\n".to_vec();
    assert_eq!(sidecar.ask(&broken).unwrap().status, 400);
    // A connection of the caller's own, as TLS needs it.
    let mut tunnel = TcpStream::connect(sidecar.site.proxy).unwrap();
    tunnel.set_read_timeout(Some(SOON)).unwrap();
    write!(tunnel, "CONNECT {host} HTTP/1.1\r\nhost: {host}\r\n\r\n").unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        tunnel.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    assert!(head.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&head));
    write!(tunnel, "GET / HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    tunnel.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("x-served-by: outside"), "{answer}");
    // Nobody listens there.
    let nobody = format!("127.0.0.1:{}", e2e::port::free_port());
    assert_eq!(sidecar.get(&nobody, "/").status, 502);
    // Itself: it must not go round in circles.
    let itself = sidecar.site.proxy.to_string();
    assert_eq!(sidecar.get(&itself, "/").status, 502);
}

#[test]
fn a_workload_of_another_cluster_is_refused() {
    let pair = Pair::new();
    let site = SidecarSite::new(&pair.mesh, "cart-1", "cart", &pair.west.site);
    // East's authority is believed in west, and east's workloads are not.
    let mut foreign = site.clone();
    foreign.cluster = "east".into();
    foreign.issue(&pair.mesh, "ca", "east", "cart");
    let foreign = foreign.start();
    let said = foreign.process.wait_log(&["No tunnel."]);
    assert!(said.contains("cluster"), "{said}");
    let answer = foreign.get(CART, "/");
    assert_eq!(answer.status, 503, "{:?}", answer.field("proxy-status"));
    drop(foreign);

    // Nor does a workload of ours speak for our cluster to a peer.
    site.issue(&pair.mesh, "ca", "west", "cart");
    let hello = e2e::peer::hello("west", [9; 16]);
    let said = Peer::dial(&site.dir.join("pki"), ("east", pair.east.site.tunnel), &hello).unwrap_err();
    assert!(said.contains("sa/cart is no gateway"), "{said}");

    // A gateway's certificate makes no sidecar, and says so before anything is bound.
    site.write();
    let out = site.dir.join("pki").display().to_string();
    let args = ["pki", "issue", "--ca", "ca", "--cluster", "west", "--gateway", "gw-9", "--out", &out];
    assert_eq!(pair.mesh.cli(&args).code, Some(0));
    let said = pair.mesh.cli(&["sidecar", "-f", &site.file().display().to_string()]);
    assert_eq!(said.code, Some(1));
    assert!(said.err.contains("--workload"), "{}", said.err);
}

#[test]
fn a_new_certificate_is_taken_and_nothing_is_lost() {
    let pair = logging();
    let site = SidecarSite::new(&pair.mesh, "cart-1", "cart", &pair.west.site);
    let sidecar = site.start_up();
    let traffic = Traffic::start(sidecar.site.proxy, 4, Ask::get(CART));
    traffic.wait_more(50);
    site.issue(&pair.mesh, "ca", "west", "renewed");
    sidecar.process.hang_up();
    let caller = "spiffe://acme.example/cluster/west/ns/shop/sa/renewed";
    pair.east.process.wait_log(&["Request.", "inbound", caller]);
    traffic.wait_more(50);
    traffic.stop().assert_none_failed();
}

#[test]
fn one_workload_fills_a_small_part_of_its_gateway() {
    const EACH: usize = 1024;
    // All are held until the last has come, however long that takes.
    let pair = Pair::with_west_policy("timeout: { head: 120s }");
    let sidecar = SidecarSite::new(&pair.mesh, "cart-1", "cart", &pair.west.site).start_up();
    assert_eq!(sidecar.get(CART, "/").status, 200);
    let hold = |_| {
        let mut held = TcpStream::connect(sidecar.site.proxy).unwrap();
        write!(held, "GET /hold HTTP/1.1\r\nhost: {CART}\r\n\r\n").unwrap();
        held
    };
    let held: Vec<TcpStream> = (0..EACH).map(hold).collect();
    wait_until("they are all at the endpoint", SOON, || {
        (pair.backend().count("/hold") == EACH).then_some(())
    });
    let shed = sidecar.get(CART, "/");
    let why = shed.field("proxy-status").unwrap_or_default().to_owned();
    assert_eq!(shed.status, 503, "{why}");
    assert!(why.contains("error=connection_limit_reached"), "{why}");
    assert_eq!(pair.get("/").status, 200, "others are served");
    pair.backend().release();
    drop(held);
    wait_until("it is served again", SOON, || (sidecar.get(CART, "/").status == 200).then_some(()));
}

#[test]
fn it_drains() {
    let (mesh, backends, west) = west();
    let mut sidecar = SidecarSite::new(&mesh, "cart-1", "cart", &west.site).start_up();
    let proxy = sidecar.site.proxy;
    let held = std::thread::spawn(move || e2e::client::fetch(proxy, &Request::get(WEB, "/hold")));
    wait_until("the request is at an endpoint", SOON, || {
        backends.iter().any(|b| !b.seen().is_empty()).then_some(())
    });
    sidecar.process.ask_to_end();
    wait_until("it says that it drains", SOON, || (sidecar.admin("/ready")?.status == 503).then_some(()));
    assert_eq!(sidecar.admin("/live").unwrap().status, 200);
    backends.iter().for_each(Backend::release);
    assert_eq!(held.join().unwrap().unwrap().status, 200);
    let status = wait_until("its end", SOON, || sidecar.process.ended());
    assert!(status.success());
}

#[test]
fn it_shows_how_it_is() {
    let (mesh, _backends, west) = west();
    let sidecar = SidecarSite::new(&mesh, "cart-1", "cart", &west.site).start_up();
    assert_eq!(sidecar.get(WEB, "/").status, 200);
    let status = sidecar.status().unwrap();
    assert_eq!(status["identity"], "spiffe://acme.example/cluster/west/ns/shop/sa/cart");
    assert_eq!(status["gateways"][0]["tunnels"][0]["carrier"], "unix");
    assert_eq!(status["services"][0]["name"], "shop/web");
    assert_eq!(status["services"][0]["endpoints"].as_array().unwrap().len(), 2);
    let said = mesh.cli(&["status", "--admin", &sidecar.site.admin.to_string()]);
    for part in ["sidecar cart-1 of cluster west: ready", "/ns/shop/sa/cart", "unix ", "shop/web"] {
        assert!(said.out.contains(part), "no `{part}` in {said:?}");
    }
    wait_until("the request is counted", SOON, || {
        let metrics = sidecar.admin("/metrics")?.text();
        metrics.contains("ringway_requests_total{direction=\"outbound\",service=\"shop/web\"").then_some(())
    });
}
