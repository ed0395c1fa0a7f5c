//! Endpoints that are slow to accept, hang, come and go: never worse than without a gateway before them.
#![allow(clippy::unwrap_used)]

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use e2e::backend::Backend;
use e2e::client::{Connection, Request};
use e2e::manifest::{link, object, policy, service};
use e2e::mesh::{Gateway, Mesh, find};
use e2e::pair::{CART, Pair};
use e2e::port::free_port;
use e2e::process::{Process, ringway};
use e2e::sidecar::SidecarSite;
use e2e::wait::SOON;
use e2e::wait_until;
use serde_json::Value;
use socket2::{Domain, Socket, Type};

/// An endpoint of one thread with an accept queue of five, one request a connection; now and then it is away for 0.3 s.
fn stalling() -> SocketAddr {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
    socket.listen(5).unwrap();
    let listener = TcpListener::from(socket);
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for (count, stream) in (1..).zip(listener.incoming()) {
            let Ok(mut stream) = stream else { continue };
            let _ = stream.set_read_timeout(Some(Duration::from_secs(2)));
            let _ = stream.read(&mut [0; 64 * 1024]);
            if count % 200 == 0 {
                e2e::pause(Duration::from_millis(300));
            }
            let _ = stream.write_all(b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok");
        }
    });
    address
}

/// Asks at `to` at a steady pace, whatever is answered when; gives what was not answered 200.
fn at_a_pace(to: SocketAddr, host: &str, per_second: u32, seconds: u32) -> Vec<String> {
    let start = Instant::now();
    let ask = |n: u32| {
        let host = host.to_owned();
        let due = start + Duration::from_secs(1) * n / per_second;
        thread::spawn(move || {
            e2e::pause(due.saturating_duration_since(Instant::now()));
            let asked = Connection::open(to).map_err(|e| format!("{e:?}"));
            let answer =
                asked.and_then(|mut c| c.exchange(&Request::get(&host, "/")).map_err(|e| format!("{e:?}")));
            match answer {
                Ok(answer) if answer.status == 200 => None,
                Ok(answer) => Some(format!("{} {}", answer.status, answer.text())),
                Err(error) => Some(error),
            }
        })
    };
    let asked: Vec<_> = (0..per_second * seconds).map(ask).collect();
    asked.into_iter().filter_map(|asked| asked.join().unwrap()).collect()
}

#[test]
fn the_only_endpoint_whose_accept_queue_overflows_fails_nothing_through_two_gateways() {
    let mesh = Mesh::new();
    let (east, west) = (mesh.site("east", &["west"]), mesh.site("west", &["east"]));
    let east = east.start(&[link("west", &[]), service("cart", &[("a", stalling())])]);
    let west = west.start(&[link("east", &[east.site.tunnel])]);
    west.wait_service("shop/cart", &["east"]);
    let failed = at_a_pace(west.site.http, CART, 150, 10);
    assert!(failed.is_empty(), "{} failed: {:?}", failed.len(), &failed[..failed.len().min(3)]);
}

fn state_of(status: &Value, id: &str) -> Option<String> {
    let service = find(&status["services"], "name", "shop/cart")?;
    Some(find(&service["endpoints"], "id", id)?["state"].as_str()?.to_owned())
}

/// An endpoint that can stop answering, and answer again.
struct Moody {
    backend: Backend,
}

impl Moody {
    fn hang(&self) {
        for target in ["/", "*"] {
            self.backend.answer_instead(target, "/hold");
        }
    }
}

/// Both endpoints have answered; then one hangs. Of so many requests, one after the other, how many are not answered 200.
fn failures_beside_a_hung_one(
    ask: impl Fn() -> u16,
    moody: &Moody,
    good: &Backend,
    requests: usize,
) -> usize {
    wait_until("both have answered", SOON, || {
        ask();
        (moody.backend.count("/") > 5 && good.count("/") > 5).then_some(())
    });
    moody.hang();
    (0..requests).filter(|_| ask() != 200).count()
}

#[test]
fn a_hung_endpoint_of_two_costs_six_requests_at_most_whoever_balances() {
    for algorithm in ["p2c-ewma", "round-robin"] {
        let rest = format!("timeout: {{ head: 500ms }}\n  balance: {{ algorithm: {algorithm} }}");
        // A gateway for its own callers, two gateways, and a sidecar.
        for way in ["local", "remote", "sidecar"] {
            let (moody, good) = (Moody { backend: Backend::start("a") }, Backend::start("b"));
            let mesh = Mesh::new();
            let cart = service("cart", &[("a", moody.backend.address()), ("b", good.address())]);
            let here = |objects: &[String]| [objects, &[policy("cart", &rest)]].concat();
            let (east, west) = (mesh.site("east", &["west"]), mesh.site("west", &["east"]));
            let (remote, local) = if way == "remote" { (vec![cart], vec![]) } else { (vec![], vec![cart]) };
            let east = east.start(&here(&[&[link("west", &[])][..], &remote].concat()));
            let west = west.start(&here(&[&[link("east", &[east.site.tunnel])][..], &local].concat()));
            west.wait_service("shop/cart", &[if way == "remote" { "east" } else { "west" }]);
            let sidecar = (way == "sidecar").then(|| SidecarSite::new(&mesh, "x", "x", &west.site).start());
            let ask = || match &sidecar {
                Some(sidecar) => sidecar.get(CART, "/").status,
                None => west.get(CART, "/").status,
            };
            let failed = failures_beside_a_hung_one(ask, &moody, &good, 60);
            assert!(failed <= 6, "{algorithm}, {way}: {failed} of 60 failed");
            // ... and then none.
            let late = (0..30).filter(|_| ask() != 200).count();
            assert_eq!(late, 0, "{algorithm}, {way}");
        }
    }
}

#[test]
fn an_endpoint_that_answers_again_is_found_without_a_request() {
    let mut backends = [Backend::start("a"), Backend::start("b")];
    let mesh = Mesh::new();
    let endpoints: Vec<_> = ["a", "b"].into_iter().zip(backends.iter().map(Backend::address)).collect();
    let rest = "timeout: { head: 300ms }\n  balance: { algorithm: round-robin }";
    let west = mesh.site("west", &[]).start(&[service("cart", &endpoints), policy("cart", rest)]);
    let until = |state: &[&str]| {
        west.wait_status(&format!("a is {state:?}"), SOON, |status| {
            state.contains(&&*state_of(status, "a")?).then_some(())
        });
    };
    let asked_until = |state: &str| {
        wait_until(&format!("a is {state}"), SOON, || {
            west.get(CART, "/");
            (state_of(&west.status()?, "a")? == state).then_some(())
        });
    };
    backends[0].stop();
    asked_until("unreachable");
    backends[0].start_again();
    until(&["warming", "ready"]);
    // One that hangs gives a sign of life before it is trusted with a request again.
    for target in ["/", "*"] {
        backends[0].answer_instead(target, "/hold");
    }
    asked_until("silent");
    for target in ["/", "*"] {
        backends[0].answer_instead(target, target);
    }
    backends[0].release();
    asked_until("warming");
}

#[test]
fn a_name_is_connected_to_at_whichever_address_answers() {
    // The name has an address of each family; only one of them listens.
    let backend = Backend::start("a");
    let spec = format!(
        "ports: [{{ name: web, port: 80, protocol: http }}]\n  \
         endpoints: [{{ id: a, host: localhost, ports: {{ web: {} }} }}]",
        backend.address().port()
    );
    let west = Mesh::new();
    let gateway = west.site("west", &[]).start(&[object("MeshService", "cart, namespace: shop", &spec)]);
    assert_eq!(gateway.get(CART, "/").status, 200);
}

#[test]
fn want_of_descriptors_is_named_and_blamed_on_no_endpoint() {
    let pair = Pair::new();
    let (site, dir) = (pair.west.site.clone(), pair.west.site.dir.clone());
    drop(pair.west);
    let own = Backend::start("own");
    site.write(&[link("east", &[pair.east.site.tunnel]), service("own", &[("a", own.address())])]);
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -n 140 && exec \"$0\" gateway -f \"$1\""]).arg(ringway()).arg(site.file());
    let west = Gateway { process: Process::start("west/gw-1", command, &dir.join("log")), site };
    west.wait_service("shop/cart", &["east"]);
    // Each holds a connection of its caller, and one to the endpoint.
    let ask = |_| {
        let mut connection = Connection::open(west.site.http).unwrap();
        connection.send(&Request::get("own.shop.mesh", "/hold")).unwrap();
        connection
    };
    let held: Vec<_> = (0..150).map(ask).collect();
    wait_until("the endpoint is busy", SOON, || (own.open() > 5).then_some(()));
    own.release();
    let answers: Vec<_> = held.into_iter().map(|mut c| c.receive("GET").unwrap()).collect();
    for answer in answers.iter().filter(|answer| answer.status != 200) {
        let error = answer.field("proxy-status").unwrap_or_default();
        assert!(error.contains("proxy_internal_error") && error.contains("file descriptors"), "{error}");
    }
    assert!(answers.iter().filter(|answer| answer.status == 200).count() > 100, "most were served in turn");
    let status = west.status().unwrap();
    let service = find(&status["services"], "name", "shop/own").unwrap();
    assert!(matches!(service["endpoints"][0]["state"].as_str(), Some("ready" | "warming")), "{service}");
    assert_eq!(west.get("own.shop.mesh", "/").status, 200);
}

#[test]
fn a_cluster_that_told_that_nothing_is_ready_is_asked_where_nothing_else_is_left() {
    // Its one endpoint does not listen yet, and that is what east tells.
    let port = free_port();
    let at = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mesh = Mesh::new();
    let (east, west) = (mesh.site("east", &["west"]), mesh.site("west", &["east"]));
    let east = east.start(&[link("west", &[]), service("cart", &[("a", at)])]);
    let rest = "placement: { mode: sharded, generation: 1, members: [{ cluster: east, region: us-east }], \
                hash: [{ header: x-user }], onOwnerUnavailable: fail }";
    let west = west.start(&[link("east", &[east.site.tunnel]), policy("cart", rest)]);
    west.wait_service("shop/cart", &["east"]);
    for _ in 0..3 {
        assert!(matches!(west.get(CART, "/").status, 502 | 503));
    }
    // From its first moment on it answers, whatever was told of it before.
    let listener = TcpListener::bind(at).unwrap();
    let served = thread::spawn(move || {
        for stream in listener.incoming().take(50) {
            let Ok(mut stream) = stream else { continue };
            let _ = stream.set_read_timeout(Some(Duration::from_secs(1)));
            if matches!(stream.read(&mut [0; 4096]), Ok(1..)) {
                let _ =
                    stream.write_all(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n");
            }
        }
    });
    let asked = west.ask(&Request::get(CART, "/").with("x-user", "ann")).unwrap();
    assert_eq!(asked.status, 200, "{}", asked.text());
    drop(TcpStream::connect(at));
    drop(served);
}
