//! What strangers, peers and workloads say and do ends in short lines that are their own, and keeps nobody out.
#![allow(clippy::unwrap_used)]

use std::cell::Cell;
use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use e2e::manifest::{link, link_that_allows};
use e2e::mesh::{Gateway, Mesh, lanes};
use e2e::pair::{CART, Pair};
use e2e::peer::{Peer, hello};
use e2e::process::{allow_files, memory_kib};
use e2e::sidecar::{SidecarSite, tcp, unix};
use e2e::stranger::{close_quic, half_a_handshake, open_quic, silent};
use e2e::traffic::Traffic;
use e2e::wait::{SOON, pause, wait_until};
use proto::message::encode_message;
use proto::objects::{Ask, DeleteRequest, Name, ask};
use proto::stream::StreamKind;
use proto::text::is_harmful;

/// A line end, the time of another line, and an escape sequence that clears the screen.
const FORGED: &str = "x\n2026-01-01T00:00:00Z  INFO audit: Audit: y.\u{1b}[2J";
/// How it is shown.
const SHOWN: &str = "x\\n2026-01-01T00:00:00Z  INFO audit: Audit: y.\\u001b[2J";
/// Where most of them connect from.
const ANY: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
/// More than a line of ours ever takes.
const LINE_BYTES: usize = 20 * 1024;

/// The gateway of east, linked to north, of which the peer is there.
fn east_and_north() -> (Mesh, Gateway, Peer) {
    let mesh = Mesh::new();
    let site = mesh.site("east", &["north"]);
    let east = site.start(&[link_that_allows("north", &[], "{ namespace: shop }")]);
    mesh.site("north", &["east"]);
    let target = ("east", east.site.tunnel);
    let north = Peer::dial(&mesh.dir().join("north/pki"), target, &hello("north", [9; 16])).unwrap();
    east.wait_peer("north", "up");
    (mesh, east, north)
}

/// No line of its log is anybody else's, and none is long.
fn assert_lines(gateway: &Gateway) {
    let log = gateway.process.log();
    for line in log.lines() {
        assert!(!line.starts_with("2026-01-01") && !line.contains(is_harmful), "{line:?}");
        assert!(line.len() < LINE_BYTES, "{} bytes", line.len());
    }
}

#[test]
fn a_stranger_writes_no_line_of_the_log_that_is_not_about_it() {
    let mesh = Mesh::new();
    let east = mesh.site("east", &["north"]).start(&[link("north", &[])]);
    close_quic(east.site.tunnel, FORGED);
    let line = east.process.wait_log(&["Refused a tunnel.", "127.0.0.1", SHOWN]);
    assert!(line.contains("WARN"), "{line}");
    assert_lines(&east);
}

#[test]
fn a_peer_writes_neither_lines_of_the_log_nor_rows_of_status() {
    let (mesh, east, north) = east_and_north();
    north.connection.close(7u8.into(), FORGED.as_bytes());
    east.process.wait_log(&["Tunnel ended.", SHOWN]);
    east.wait_peer("north", "down");
    let said = mesh.cli_at(&east, &["status"]);
    assert!(said.out.lines().any(|line| line.contains("north") && line.contains(SHOWN)), "{said:?}");
    assert!(!said.out.replace('\n', "").contains(is_harmful), "{said:?}");
    // A HELLO that lies about its name.
    let identity = mesh.dir().join("north/pki");
    let lie = proto::control::Hello { cluster: FORGED.repeat(900), ..hello("north", [9; 16]) };
    assert!(Peer::dial(&identity, ("east", east.site.tunnel), &lie).is_err());
    east.process.wait_log(&["Refused a tunnel.", "its certificate says"]);
    assert_lines(&east);
}

#[test]
fn a_name_of_megabytes_makes_a_line_of_bytes() {
    let (_mesh, east, north) = east_and_north();
    for name in [format!("{FORGED}{}", "n".repeat(3_900_000)), "n".repeat(3_900_000)] {
        let named = Name { kind: "MeshService".into(), namespace: "shop".into(), name };
        let kind = Some(ask::Kind::Delete(DeleteRequest { names: vec![named], dry_run: false }));
        let question = encode_message(&Ask { operator: FORGED.into(), kind });
        north.tell([&[StreamKind::Objects.to_wire()], &question[..]].concat().into());
    }
    // What is granted to nobody leaves a line, however it is called.
    let named = Name { kind: "MeshService".into(), namespace: "bank".into(), name: "ledger".into() };
    let kind = Some(ask::Kind::Delete(DeleteRequest { names: vec![named], dry_run: false }));
    let question = encode_message(&Ask { operator: FORGED.repeat(2), kind });
    north.tell([&[StreamKind::Objects.to_wire()], &question[..]].concat().into());
    east.process.wait_log(&["Audit: what a linked cluster asked for is denied.", "told operator x\\n2026"]);
    assert_lines(&east);
}

/// The lines of the log that are about refused tunnels.
fn refused(gateway: &Gateway) -> Vec<String> {
    gateway.process.log().lines().filter(|line| line.contains("Refused a tunnel")).map(String::from).collect()
}

#[test]
fn a_flood_of_connections_is_a_few_lines_and_a_count() {
    const CONNECTS: usize = 3_000;
    let mesh = Mesh::new();
    let east = mesh.site("east", &["north"]).start(&[link("north", &[])]);
    // Each ends before it has said anything.
    let connected = (0..CONNECTS).filter(|_| silent(ANY, east.site.tunnel).is_some()).count();
    assert_eq!(connected, CONNECTS);
    // What is counted is said once: the rest of the flood may fall into a second time.
    let counted = |lines: &[String]| -> usize {
        let counts =
            lines.iter().filter_map(|line| line.split_once("Refused a tunnel: ")?.1.split_once(" more"));
        counts.map(|(count, _)| count.parse::<usize>().unwrap()).sum()
    };
    wait_until("all are said or counted", SOON, || {
        let lines = refused(&east);
        let said = lines.iter().filter(|line| line.contains("Refused a tunnel.")).count();
        (said + counted(&lines) == CONNECTS).then_some(())
    });
    let lines = refused(&east);
    assert!(lines.len() < 20, "{lines:#?}");
    assert!(lines.iter().any(|line| line.contains("most_of=\"127.0.0.1\"")), "{lines:#?}");
}

/// Ends what goes on until it is dropped, however a test ends.
struct Until<'a>(&'a AtomicBool);

impl Drop for Until<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Connects with `connect` and keeps the last 2,500 connections.
fn keep<T>(connect: impl Fn() -> Option<T>) -> impl FnMut() {
    let mut kept = VecDeque::new();
    move || {
        kept.extend(connect());
        if kept.len() > 2_500 {
            kept.pop_front();
        }
    }
}

/// A gateway and sidecars, on the Unix socket and on TCP, get their tunnels while a stranger does at the port of the tunnels
/// again and again what `of` makes for it.
fn assert_not_kept_out<F: FnMut()>(of: impl Fn(SocketAddr) -> F + Sync) {
    allow_files(8_192);
    let mesh = Mesh::new();
    let (east, west) = (mesh.site("east", &["west"]), mesh.site("west", &["east"]));
    let east = east.start(&[link("west", &[])]);
    let done = AtomicBool::new(false);
    let count = std::thread::scope(|scope| {
        let flooding = scope.spawn(|| {
            let (mut again, mut count) = (of(east.site.tunnel), 0_u64);
            while !done.load(Ordering::Relaxed) {
                again();
                count += 1;
            }
            count
        });
        let until = Until(&done);
        let west = west.start(&[link("east", &[east.site.tunnel])]);
        west.wait_tunnels("east", lanes(), 1);
        for (name, gateway) in [("unix", unix(&east.site)), ("tcp", tcp(&east.site))] {
            let site = SidecarSite::new(&mesh, name, "cart", &east.site);
            drop(SidecarSite { gateways: vec![gateway], ..site }.start_up());
        }
        drop(until);
        flooding.join().unwrap()
    });
    println!("{count} times meanwhile");
    assert!(refused(&east).len() < 100, "{:#?}", refused(&east));
}

#[test]
fn connections_that_say_nothing_keep_no_gateway_and_no_sidecar_out() {
    assert_not_kept_out(|to| keep(move || silent(ANY, to)));
}

#[test]
fn handshakes_that_do_not_go_on_take_the_places_of_their_own_addresses_only() {
    assert_not_kept_out(|to| {
        let turn = Cell::new(0);
        keep(move || {
            turn.set((turn.get() + 1) % 2);
            half_a_handshake(IpAddr::from([127, 0, 0, 2 + turn.get()]), to)
        })
    });
}

#[test]
fn quic_from_addresses_that_nobody_has_proven_leaves_room_for_those_that_have() {
    assert_not_kept_out(|to| {
        let mut id = 0;
        move || {
            id += 1;
            open_quic(to, id);
        }
    });
}

#[test]
fn a_connection_that_says_nothing_or_goes_on_with_nothing_is_closed() {
    let mesh = Mesh::new();
    let east = mesh.site("east", &["west"]).start(&[link("west", &[])]);
    let closed = |stream: TcpStream| {
        stream.set_read_timeout(Some(SOON)).unwrap();
        // The end, or a reset; nothing at all is neither.
        let read = std::io::Read::read(&mut &stream, &mut [0; 64]);
        assert!(
            read.as_ref().is_ok_and(|n| *n < 64)
                || read.is_err_and(|e| e.raw_os_error().is_some_and(|n| n != 11))
        );
    };
    closed(silent(ANY, east.site.tunnel).unwrap());
    east.process.wait_log(&["Refused a tunnel.", "nothing came within 1s"]);
    closed(half_a_handshake(ANY, east.site.tunnel).unwrap());
    east.process.wait_log(&["Refused a tunnel.", "no answer within 5s"]);
}

/// What callers of west get from east while `flood` goes on at a port of east for so long.
fn under(pair: &Pair, name: &str, time: Duration, mut flood: impl FnMut() + Send) {
    let traffic = Traffic::start(pair.west.site.http, 2, e2e::traffic::Ask::get(CART));
    let started = Instant::now();
    let mut count = 0_u64;
    while started.elapsed() < time {
        flood();
        count += 1;
    }
    let report = traffic.stop();
    report.assert_none_failed();
    let memory = memory_kib(pair.east.process.pid(), "VmRSS").unwrap() / 1024;
    println!(
        "{name}: {count} times; p99 {:?}, slowest {:?}; {memory} MiB",
        report.quantile(0.99),
        report.slowest()
    );
    assert!(memory < 512, "{memory} MiB");
}

/// Alone: `cargo test --release -p e2e --test strangers -- --ignored --nocapture floods`; `STRANGER_SECONDS` is for each.
#[test]
#[ignore = "takes minutes: tests/run --long"]
fn floods_fail_no_request_and_take_no_memory() {
    allow_files(16_384);
    let seconds = std::env::var("STRANGER_SECONDS").map_or(30, |seconds| seconds.parse().unwrap());
    let time = Duration::from_secs(seconds);
    let pair = Pair::new();
    let (tunnel, http, admin) = (pair.east.site.tunnel, pair.east.site.http, pair.east.site.admin);
    under(&pair, "nothing", Duration::from_secs(10), || pause(Duration::from_millis(10)));
    under(&pair, "silent on TCP", time, keep(move || silent(ANY, tunnel)));
    under(&pair, "half a handshake", time, keep(move || half_a_handshake(ANY, tunnel)));
    let mut id = 0;
    under(&pair, "first packets of QUIC", time, || {
        id += 1;
        open_quic(tunnel, id);
    });
    under(&pair, "closed QUIC", time, || close_quic(tunnel, FORGED));
    under(&pair, "silent callers", time, keep(move || silent(ANY, http)));
    under(&pair, "silent at the admin port", time, keep(move || silent(ANY, admin)));
    wait_until("the admin port answers", SOON, || pair.east.admin("/live"));
    assert_lines(&pair.east);
    assert!(pair.east.process.log().lines().count() < 1_000);
}
