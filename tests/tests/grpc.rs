//! HTTP/2 and gRPC through two gateways, spoken by those that most people use: Python's grpcio and curl.
#![allow(clippy::unwrap_used)]

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use e2e::curl::curl;
use e2e::manifest::{link, policy, service};
use e2e::mesh::{Gateway, Mesh, find};
use e2e::pair::CART;
use e2e::port::free_port;
use e2e::process::{Process, end, root, target};
use e2e::sidecar::SidecarSite;
use e2e::wait::{SOON, wait_until};
use e2e::ways::{Form, each_way};

/// The longest that a check may take.
const CHECK_MAX: Duration = Duration::from_secs(180);

/// Python with grpcio, which `tests/run` puts there.
fn python() -> PathBuf {
    let python = target().join("grpc-venv/bin/python");
    assert!(python.is_file(), "{} is missing: `tests/run` makes it", python.display());
    python
}

fn script(name: &str) -> PathBuf {
    root().join("tests/grpc").join(name)
}

/// An endpoint that speaks gRPC.
struct Server {
    process: Process,
    address: SocketAddr,
}

impl Server {
    fn start(mesh: &Mesh, name: &str, rest: &[&str]) -> Self {
        Self::at(mesh, name, SocketAddr::from((Ipv4Addr::LOCALHOST, free_port())), rest)
    }

    fn at(mesh: &Mesh, name: &str, address: SocketAddr, rest: &[&str]) -> Self {
        let mut command = Command::new(python());
        command.arg(script("server.py")).arg(address.port().to_string()).arg(name).args(rest);
        let log = mesh.dir().join(format!("grpc-{}", address.port()));
        let process = Process::start(name, command, &log);
        wait_until(&format!("{name} listens"), SOON, || TcpStream::connect(address).ok());
        Self { process, address }
    }
}

/// A MeshService `shop/NAME` that speaks gRPC.
fn grpc_service(name: &str, endpoints: &[(&str, SocketAddr)]) -> String {
    service(name, endpoints).replace("protocol: http", "protocol: grpc")
}

/// West, which only asks, and east, which serves `shop/cart` from endpoints that speak gRPC.
struct Grpc {
    west: Gateway,
    servers: Vec<Server>,
    mesh: Mesh,
    east: Gateway,
}

impl Grpc {
    fn new(servers: &[&str], west_policy: &str) -> Self {
        let mesh = Mesh::new();
        let start = |id: &&str| Server::start(&mesh, &format!("east/{id}"), &[]);
        let started: Vec<_> = servers.iter().map(start).collect();
        let endpoints: Vec<_> = servers.iter().copied().zip(started.iter().map(|s| s.address)).collect();
        let (east, west) = (mesh.site("east", &["west"]), mesh.site("west", &["east"]));
        let east = east.start(&[link("west", &[]), grpc_service("cart", &endpoints)]);
        let mut objects = vec![link("east", &[east.site.tunnel])];
        if !west_policy.is_empty() {
            objects.push(policy("cart", west_policy));
        }
        let west = west.start(&objects);
        west.wait_service("shop/cart", &["east"]);
        Self { west, servers: started, mesh, east }
    }

    fn check(&self, check: &str) {
        succeed(client(self.west.site.http, CART, check));
    }
}

/// Starts a check of `client.py`, against what listens `at` an address.
fn client(at: SocketAddr, authority: &str, check: &str) -> Child {
    let mut command = Command::new(python());
    command.arg(script("client.py")).args([&at.to_string(), authority, check]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Waits until it has found that all is as it should be.
fn succeed(client: Child) {
    match end(client, CHECK_MAX) {
        Ok(said) => assert!(said.code == Some(0), "{}\n{}", said.out, said.err),
        Err(said) => panic!("it has not ended after {CHECK_MAX:?}:\n{}\n{}", said.out, said.err),
    }
}

/// Starts a check that says when it is under way, does `then`, and tells it so.
fn amid(gateway: &Gateway, check: &str, then: impl FnOnce()) {
    let mut client = client(gateway.site.http, CART, check);
    let mut line = String::new();
    BufReader::new(client.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    if line == "open\n" {
        then();
        // A client that has failed meanwhile says so below.
        let _ = client.stdin.as_mut().unwrap().write_all(b"\n");
    }
    succeed(client);
    assert_eq!(line, "open\n");
}

mod with_grpcio {
    use super::*;

    #[test]
    fn calls_of_all_four_kinds_pass_with_metadata_and_status() {
        let grpc = Grpc::new(&["a"], "");
        for check in ["four_kinds", "conversation", "many_at_once", "metadata", "statuses"] {
            grpc.check(check);
        }
    }

    #[test]
    fn calls_cross_over_each_carrier_and_after_the_loss_of_a_gateway() {
        let mesh = Mesh::new();
        let server = Server::start(&mesh, "both/a", &[]);
        each_way(&Form::of_http(grpc_service("cart", &[("a", server.address)])), |at| {
            for check in ["four_kinds", "conversation", "many_at_once"] {
                succeed(client(at, CART, check));
            }
        });
    }

    #[test]
    fn everything_passes_through_a_sidecar_too() {
        let mut grpc = Grpc::new(&["a"], "");
        let sidecar = SidecarSite::new(&grpc.mesh, "cart-1", "cart", &grpc.west.site).start_up();
        let check = |authority, check| succeed(client(sidecar.site.proxy, authority, check));
        let kinds =
            ["four_kinds", "conversation", "many_at_once", "metadata", "statuses", "deadline", "cancel"];
        kinds.into_iter().for_each(|kind| check(CART, kind));
        check("nothing.shop.mesh", "unimplemented");
        grpc.servers[0].process.kill();
        check(CART, "unavailable");
    }

    #[test]
    fn deadlines_and_cancellations_reach_the_endpoint() {
        let grpc = Grpc::new(&["a"], "");
        grpc.check("deadline");
        grpc.check("cancel");
    }

    #[test]
    fn the_total_deadline_of_the_policy_ends_a_call_that_has_none() {
        Grpc::new(&["a"], "timeout: { total: 3s }").check("total");
    }

    #[test]
    fn a_reader_that_takes_nothing_ends_alone() {
        Grpc::new(&["a"], "timeout: { idle: 2s }").check("stalled");
    }

    #[test]
    fn what_gateways_refuse_is_said_in_the_words_of_grpc() {
        let mut grpc = Grpc::new(&["a"], "");
        succeed(client(grpc.west.site.http, "nothing.shop.mesh", "unimplemented"));
        grpc.servers[0].process.kill();
        grpc.check("unavailable");
    }

    #[test]
    fn an_unavailable_cluster_is_left_for_another_only_if_the_policy_says_that_calls_may_be_repeated() {
        for (policy_spec, check) in [
            ("retry: { attempts: 2, methods: [POST], on: [unavailable] }", "served_by_east"),
            ("retry: { attempts: 2, methods: [POST], on: [connect] }", "refused_here"),
            ("retry: { attempts: 2, on: [unavailable] }", "refused_here"),
        ] {
            let mesh = Mesh::new();
            let here = Server::start(&mesh, "west/a", &["unavailable"]);
            let there = Server::start(&mesh, "east/a", &[]);
            let (east, west) = (mesh.site("east", &["west"]), mesh.site("west", &["east"]));
            let east = east.start(&[link("west", &[]), grpc_service("cart", &[("a", there.address)])]);
            let objects = [
                link("east", &[east.site.tunnel]),
                grpc_service("cart", &[("a", here.address)]),
                policy("cart", policy_spec),
            ];
            let west = west.start(&objects);
            west.wait_service("shop/cart", &["west", "east"]);
            succeed(client(west.site.http, CART, check));
        }
    }

    #[test]
    fn a_draining_gateway_finishes_the_calls_that_are_open() {
        let mut grpc = Grpc::new(&["a"], "");
        amid(&grpc.west, "drain", || {
            let kill = format!("kill -TERM {}", grpc.west.process.pid());
            assert!(Command::new("sh").args(["-c", &kill]).status().unwrap().success());
            grpc.west.process.wait_log(&["Draining"]);
        });
        let ended = wait_until("the gateway has drained", SOON, || grpc.west.process.ended());
        assert!(ended.success(), "{ended}");
    }

    #[test]
    fn endpoints_that_restart_one_after_the_other_fail_no_call_that_may_be_repeated() {
        let mut grpc = Grpc::new(&["a", "b"], "retry: { methods: [POST] }");
        let (servers, mesh, east) = (&mut grpc.servers, &grpc.mesh, &grpc.east);
        // Refused once it is left alone for a second or more, and then taken by one call.
        let wait_used = |id: &str| {
            east.wait_status(&format!("{id} is used"), SOON, |status| {
                let cart = find(&status["services"], "name", "shop/cart")?;
                let state = find(&cart["endpoints"], "id", id)?["state"].as_str()?.to_owned();
                matches!(&*state, "ready" | "warming").then_some(())
            });
        };
        amid(&grpc.west, "steady", || {
            for (index, name) in ["east/a", "east/b"].into_iter().enumerate() {
                // Gracefully: GOAWAY, then it finishes what it has.
                servers[index].process.terminate();
                let address = servers[index].address;
                let id = name.strip_prefix("east/").unwrap();
                east.wait_status("its end is noticed", SOON, |status| {
                    let cart = find(&status["services"], "name", "shop/cart")?;
                    (find(&cart["endpoints"], "id", id)?["state"] == "unreachable").then_some(())
                });
                servers[index] = Server::at(mesh, name, address, &[]);
                wait_used(id);
            }
        });
    }
}

mod with_curl {
    use e2e::client::Request;
    use e2e::http::values;
    use e2e::pair::Pair;

    use super::*;

    fn h2(pair: &Pair, path: &str, rest: &[&str]) -> e2e::process::Said {
        let host = format!("host: {CART}");
        let url = format!("http://{}{path}", pair.west.site.http);
        let mut args = vec!["--http2-prior-knowledge", "-H", &host];
        args.extend(rest);
        args.push(&url);
        curl(&args)
    }

    #[test]
    fn http2_and_http1_share_a_port_and_reach_endpoints_of_http1() {
        let pair = Pair::new();
        let said = h2(&pair, "/", &["-w", "%{http_version} %{response_code}"]);
        assert_eq!((said.code, said.out.as_str()), (Some(0), "east/a\n2 200"));
        assert_eq!(pair.get("/").text(), "east/a\n");
        let said = h2(&pair, "/bytes/5000000", &["-o", "/dev/null", "-w", "%{size_download}"]);
        assert_eq!((said.code, said.out.as_str()), (Some(0), "5000000"));
        let body = "b".repeat(200_000);
        let file = pair.mesh.dir().join("body");
        std::fs::write(&file, &body).unwrap();
        let said = h2(&pair, "/echo", &["--data-binary", &format!("@{}", file.display())]);
        assert_eq!((said.code, said.out == body), (Some(0), true));
        let seen = pair.backend().seen();
        let via = values(&seen[0].fields, "via");
        assert_eq!(via, ["2 west.gateway"]);
    }

    #[test]
    fn a_cookie_in_crumbs_arrives_whole() {
        let pair = Pair::new();
        let said = h2(&pair, "/", &["-H", "cookie: a=1", "-H", "cookie: b=2"]);
        assert_eq!(said.code, Some(0));
        assert_eq!(values(&pair.backend().seen()[0].fields, "cookie"), ["a=1; b=2"]);
    }

    #[test]
    fn errors_and_limits_are_those_of_http1() {
        let pair = Pair::new();
        let code = ["-o", "/dev/null", "-w", "%{response_code}"];
        let url = format!("http://{}/", pair.west.site.http);
        let said = curl(&["--http2-prior-knowledge", "-i", "-H", "host: no.shop.mesh", &url]);
        assert!(said.out.starts_with("HTTP/2 404"), "{said:?}");
        assert!(said.out.contains("proxy-status: west.gateway; error=destination_not_found"), "{said:?}");
        // With what curl adds and 32 bytes a field it is over 64 KiB; curl itself refuses to send more than that.
        let large = format!("x-large: {}", "l".repeat(65_300));
        let said = h2(&pair, "/", &[&code[..], &["-H", &large]].concat());
        assert_eq!(said.out, "431");
        assert_eq!(pair.backend().seen().len(), 0);
        let request = Request::get(CART, "/");
        assert_eq!(pair.west.ask(&request).unwrap().status, 200);
    }

    #[test]
    fn an_answer_that_is_cut_is_an_error_of_the_stream() {
        let pair = Pair::new();
        let said = h2(&pair, "/cut/100000/5000", &["--fail", "-o", "/dev/null"]);
        assert_ne!(said.code, Some(0), "{said:?}");
    }
}
