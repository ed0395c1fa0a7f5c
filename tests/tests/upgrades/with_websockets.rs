//! Clients and a server of WebSocket that were not written here: Python's `websockets`.

use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use e2e::manifest::service;
use e2e::port::free_port;
use e2e::process::{Process, end, root, target};
use e2e::wait::SOON;
use e2e::wait_until;
use e2e::ways::{Form, each_way};

use super::{CART, World};

/// The longest that a check may take.
const CHECK_MAX: Duration = Duration::from_secs(240);

/// Python with what `tests/run` puts there.
fn python() -> PathBuf {
    let python = target().join("clients-venv/bin/python");
    assert!(python.is_file(), "{} is missing: `tests/run` makes it", python.display());
    python
}

fn server(world: &std::path::Path) -> (Process, SocketAddr) {
    let at = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
    let mut command = Command::new(python());
    command.arg(root().join("tests/clients/websocket_server.py")).arg(at.port().to_string());
    let process = Process::start("websockets", command, &world.join("websockets.log"));
    wait_until("websockets listens", SOON, || TcpStream::connect(at).ok());
    (process, at)
}

fn client(check: &str, at: SocketAddr, rest: &[&str]) -> Child {
    client_of(CART, check, at, rest)
}

fn client_of(host: &str, check: &str, at: SocketAddr, rest: &[&str]) -> Child {
    let mut command = Command::new(python());
    command
        .arg(root().join("tests/clients/websocket_client.py"))
        .args([check, host, &at.to_string()])
        .args(rest);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().expect("python runs")
}

fn succeed(client: Child) {
    end(client, CHECK_MAX).map(|said| assert_eq!(said.code, Some(0), "{said:?}")).expect("an end in time");
}

#[test]
fn messages_pings_and_close_codes_cross_by_each_way() {
    let dir = tempfile::tempdir().unwrap();
    let (_server, endpoint) = server(dir.path());
    let world = World::new(endpoint, "");
    let sidecar = world.sidecar();
    for at in [world.west.site.http, world.east.site.http, sidecar.site.proxy] {
        succeed(client("echo", at, &[]));
        succeed(client("proxy", at, &[]));
    }
}

#[test]
fn they_cross_over_each_carrier_and_after_the_loss_of_a_gateway() {
    let dir = tempfile::tempdir().unwrap();
    let (_server, endpoint) = server(dir.path());
    each_way(&Form::of_http(service("cart", &[("a", endpoint)])), |at| {
        succeed(client("echo", at, &[]));
        succeed(client("proxy", at, &[]));
    });
}

#[test]
fn a_host_outside_of_the_mesh_is_reached_by_each_way_too() {
    let dir = tempfile::tempdir().unwrap();
    let (_server, endpoint) = server(dir.path());
    let world = World::new(endpoint, "");
    let (sidecar, host) = (world.sidecar(), endpoint.to_string());
    for check in ["echo", "proxy"] {
        succeed(client_of(&host, check, sidecar.site.proxy, &[]));
    }
}

#[test]
fn ten_thousand_are_open_at_once() {
    e2e::process::allow_files(20_000);
    let dir = tempfile::tempdir().unwrap();
    let (_server, endpoint) = server(dir.path());
    let world = World::new(endpoint, "");
    succeed(client("many", world.west.site.http, &["10000"]));
    // As many as one sidecar may have under way, nearly.
    succeed(client("many", world.sidecar().site.proxy, &["1000"]));
}

/// Starts a check that says when it is open.
fn opened(check: &str, at: SocketAddr) -> Result<Child, Child> {
    let mut open = client(check, at, &[]);
    let mut line = String::new();
    BufReader::new(open.stdout.take().unwrap()).read_line(&mut line).unwrap();
    if line == "open\n" { Ok(open) } else { Err(open) }
}

#[test]
fn a_process_that_goes_says_so_to_both_ends_when_it_waits_no_longer() {
    for which in ["west", "east", "sidecar"] {
        let dir = tempfile::tempdir().unwrap();
        let (server, endpoint) = server(dir.path());
        let mut world = World::new(endpoint, "");
        let mut sidecar = world.sidecar();
        let at = if which == "sidecar" { sidecar.site.proxy } else { world.west.site.http };
        let open = opened("away", at).unwrap_or_else(|failed| panic!("{failed:?}"));
        let process = match which {
            "west" => &mut world.west.process,
            "east" => &mut world.east.process,
            _ => &mut sidecar.process,
        };
        process.ask_to_end();
        process.wait_log(&["Draining."]);
        assert!(!server.log().contains("closed"), "{which}: it has its grace");
        // Waits no longer.
        assert!(process.terminate().success());
        succeed(open);
        server.wait_log(&["closed 1001"]);
    }
}

#[test]
fn one_whose_gateway_dies_ends_without_a_close() {
    let dir = tempfile::tempdir().unwrap();
    let (_server, endpoint) = server(dir.path());
    let mut world = World::new(endpoint, "");
    match opened("cut", world.west.site.http) {
        Err(failed) => succeed(failed),
        Ok(open) => {
            world.east.process.kill();
            succeed(open);
        }
    }
}
