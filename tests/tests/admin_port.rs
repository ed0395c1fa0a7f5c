//! The admin port answers operators whatever strangers, callers and peers do, and takes nothing that is theirs.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::time::Instant;

use e2e::backend::Backend;
use e2e::client::{Connection, Request, Response, fetch};
use e2e::exporter::Exporter;
use e2e::manifest::{link, service};
use e2e::mesh::{Gateway, Mesh, Site};
use e2e::pair::CART;
use e2e::process::{Process, allow_files, ringway};
use e2e::sidecar::SidecarSite;
use e2e::wait::{AT_ONCE, SOON, wait_until};

/// More than the admin port takes at once.
const MANY: usize = 400;
/// What a process is left to open in these tests.
const FILES: usize = 256;

/// A gateway of `site` that serves `cart` and may open [`FILES`] files.
fn start_with_few_files(site: &Site, backend: &Backend) -> Gateway {
    site.write(&[service("cart", &[("a", backend.address())])]);
    let mut command = Command::new("sh");
    let script = format!("ulimit -n {FILES} && exec \"$0\" gateway --workers 2 -f \"$1\"");
    command.args(["-c", &script]).arg(ringway()).arg(site.file());
    let process = Process::start("west/gw-1", command, &site.dir.join("log"));
    let gateway = Gateway { site: site.clone(), process };
    gateway.wait_ready();
    gateway
}

fn open_files(gateway: &Gateway) -> usize {
    fs::read_dir(format!("/proc/{}/fd", gateway.process.pid())).unwrap().count()
}

/// Connections that have sent the half of a request.
fn half_requests(to: SocketAddr, count: usize) -> Vec<TcpStream> {
    let half = |_| {
        let mut stream = TcpStream::connect(to).unwrap();
        // Whoever was closed for a newer one may be told so already.
        let _ = stream.write_all(b"GET /live HTTP/1.1\r\nhost: ");
        stream
    };
    (0..count).map(half).collect()
}

fn live(gateway: &Gateway) -> u16 {
    let asked = Instant::now();
    let status = gateway.admin("/live").map_or(0, |answer| answer.status);
    assert!(asked.elapsed() < AT_ONCE, "{:?}", asked.elapsed());
    status
}

#[test]
fn half_requests_take_nothing_of_callers_and_are_closed() {
    allow_files(4_096);
    let mesh = Mesh::new();
    let backend = Backend::start("west/a");
    let west = start_with_few_files(&mesh.site("west", &[]), &backend);
    let before = open_files(&west);
    let halves = half_requests(west.site.admin, MANY);
    assert_eq!(live(&west), 200, "the oldest half gives way");
    assert!(open_files(&west) <= before + 64 + 8, "{} of {before}", open_files(&west));
    // All that callers may have is there for them.
    let mut callers: Vec<_> = (0..40).map(|_| Connection::open(west.site.http).unwrap()).collect();
    for caller in &mut callers {
        assert_eq!(caller.exchange(&Request::get(CART, "/")).unwrap().status, 200);
    }
    for mut half in halves {
        half.set_read_timeout(Some(SOON)).unwrap();
        let mut said = Vec::new();
        let ended = half.read_to_end(&mut said);
        assert!(ended.is_ok() || ended.is_err_and(|e| e.kind() == std::io::ErrorKind::ConnectionReset));
    }
}

/// How many files it may open, and how many the system would allow it.
fn files_allowed(gateway: &Gateway) -> [usize; 2] {
    let limits = fs::read_to_string(format!("/proc/{}/limits", gateway.process.pid())).unwrap();
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files")).unwrap();
    let mut numbers = line.split_whitespace().map_while(|word| word.parse().ok());
    [numbers.next().unwrap(), numbers.next().unwrap()]
}

/// Has it open so many files and no more, until somebody raises that.
fn allow_files_of(gateway: &Gateway, files: usize) {
    let mut command = Command::new("prlimit");
    command.args([format!("--pid={}", gateway.process.pid()), format!("--nofile={files}:")]);
    assert!(command.status().unwrap().success());
}

#[test]
fn whoever_takes_every_descriptor_leaves_the_admin_port_its_own() {
    allow_files(4_096);
    let mesh = Mesh::new();
    let backend = Backend::start("west/a");
    let west = start_with_few_files(&mesh.site("west", &[]), &backend);
    let held_back = FILES / 4;
    assert_eq!(files_allowed(&west), [FILES - held_back, FILES]);
    // As if others had all that is left.
    allow_files_of(&west, open_files(&west));
    let callers: Vec<_> = (0..MANY).map(|_| TcpStream::connect(west.site.http).unwrap()).collect();
    let log = west.process.wait_log(&["Cannot accept a connection of a caller", "more in the last"]);
    assert!(log.contains("WARN"), "{log}");
    // Several at once, and one after the other.
    let taken = open_files(&west);
    let halves = half_requests(west.site.admin, 32);
    wait_until("operators have some of theirs", SOON, || (open_files(&west) >= taken + 32).then_some(()));
    for _ in 0..20 {
        assert_eq!(live(&west), 200);
    }
    let check = west.admin("/v1/check").unwrap().text();
    assert!(check.contains("\"process.files\""), "{check}");
    let files = check.split("process.files").nth(1).unwrap();
    assert!(files[..120].contains("\"fail\""), "{files}");
    // Of hundreds of tries some are said, the others counted.
    let lines = west.process.log().matches("Cannot accept a connection of a caller.").count();
    assert!(lines <= 20, "{lines} lines");
    assert!(!west.process.log().contains("on the admin port"), "operators are let in, and none is missed");
    allow_files_of(&west, FILES - held_back);
    drop((halves, callers));
    wait_until("others are served again", SOON, || {
        (fetch(west.site.http, &Request::get(CART, "/")).ok()?.status == 200).then_some(())
    });
}

/// What is answered on a route under a name.
fn ask(to: SocketAddr, host: &str, route: &str) -> Response {
    fetch(to, &Request::get(host, route)).unwrap()
}

#[test]
fn a_name_that_a_web_page_could_own_is_misdirected_on_every_route() {
    let mesh = Mesh::new();
    let site = mesh.site("west", &[]);
    site.write(&[]);
    let admin = format!("admin: \"{}\"", site.admin);
    let named = format!("{admin}, adminHosts: [Gw.West.example]");
    fs::write(site.file(), fs::read_to_string(site.file()).unwrap().replace(&admin, &named)).unwrap();
    let west = site.spawn();
    west.wait_ready();
    let sidecar = SidecarSite::new(&mesh, "cart-1", "cart", &site).start();
    let ports = [(west.site.admin, "Gateway"), (sidecar.site.admin, "Sidecar")];
    for (port, kind) in ports {
        for route in [
            "/live",
            "/ready",
            "/metrics",
            "/v1/status",
            "/v1/check",
            "/v1/registry",
            "/v1/ring?service=x",
            "/nothing",
        ] {
            let answer = ask(port, "rebind.attacker.test", route);
            let remedy = format!("`spec.listen.adminHosts` of the {kind}");
            assert_eq!(answer.status, 421, "{route}");
            assert!(
                answer.text().contains("rebind.attacker.test") && answer.text().contains(&remedy),
                "{answer:?}"
            );
        }
        for host in ["localhost", "127.0.0.1", "[::1]:7490", "ringway-west", &port.to_string()] {
            assert_eq!(ask(port, host, "/v1/status").status, 200, "{host}");
        }
    }
    assert_eq!(ask(west.site.admin, "gw.west.example:7490", "/v1/status").status, 200);
    let said = mesh.cli(&["status", "--admin", &format!("localhost:{}", west.site.admin.port())]);
    assert_eq!(said.code, Some(0), "{said:?}");
}

#[test]
fn readers_that_take_nothing_keep_no_operator_waiting() {
    let mesh = Mesh::new();
    let east = mesh.site("east", &["north"]).start(&[link("north", &[])]);
    let identity = mesh.site("north", &["east"]).dir.join("pki");
    let services = (0..5_000).map(|n| format!("s{n}"));
    let _north = Exporter::link(&identity, ("east", east.site.tunnel), "north", services).unwrap();
    east.wait_status("all is imported", SOON, |s| (s["links"][0]["imported"] == 5_000).then_some(()));
    // Each asks for megabytes.
    let readers: Vec<_> = (0..MANY)
        .map(|_| {
            let mut stream = TcpStream::connect(east.site.admin).unwrap();
            let _ = stream.write_all(b"GET /v1/registry HTTP/1.1\r\nhost: localhost\r\n\r\n");
            stream
        })
        .collect();
    for route in ["/live", "/metrics", "/v1/status", "/v1/registry"] {
        let answer = wait_until("an answer", SOON, || east.admin(route));
        assert_eq!(answer.status, 200, "{route}");
    }
    drop(readers);
}

#[test]
fn services_of_a_peer_are_counted_from_their_first_request_on() {
    let mesh = Mesh::new();
    let east = mesh.site("east", &["north"]).start(&[link("north", &[])]);
    let identity = mesh.site("north", &["east"]).dir.join("pki");
    let services = (0..5_000).map(|n| format!("s{n}"));
    let _north = Exporter::link(&identity, ("east", east.site.tunnel), "north", services).unwrap();
    east.wait_status("all is imported", SOON, |s| (s["links"][0]["imported"] == 5_000).then_some(()));
    let metrics = || east.admin("/metrics").unwrap();
    let before = metrics();
    assert!(!before.text().contains("shop/s") && before.digest.len < 16_384, "{} bytes", before.digest.len);
    // It refuses what it is asked, once the view has it.
    let refused = || (east.get("s7.shop.mesh", "/").status >= 500).then_some(());
    wait_until("the view has what was imported", SOON, refused);
    wait_until("the one that was asked for is shown", SOON, || {
        let shown = metrics();
        let text = shown.text();
        (text.contains("service=\"shop/s7\"") && !text.contains("service=\"shop/s8\"")).then_some(())
    });
}
