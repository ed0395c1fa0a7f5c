//! Many callers, slow callers and a peer that floods: everybody else is served, and memory stays bounded.
#![allow(clippy::unwrap_used)]

use std::process::Command;
use std::time::{Duration, Instant};

use e2e::backend::Backend;
use e2e::client::{Connection, Request};
use e2e::manifest::{link, service};
use e2e::mesh::{Gateway, Mesh};
use e2e::pair::{CART, Pair};
use e2e::peer::{Answer, Peer, get, hello};
use e2e::process::{Process, allow_files, memory_kib, ringway};
use e2e::traffic::{Ask, Traffic};
use e2e::wait::{AT_ONCE, pause};
use proto::frame::{END, FrameKind, put_frame};
use proto::limits::STREAMS_MAX;
use proto::stream::StreamKind;

const IDLE: usize = 10_000;
/// A gateway keeps them for 75 s; asking again takes some time as well.
const IDLE_KEPT: Duration = Duration::from_secs(60);
const SLOW: usize = 1_000;
/// What a slow caller sends or is sent, a byte at a time.
const SLOW_BYTES: usize = 24;
const SLOW_PACE: Duration = Duration::from_millis(250);
/// Files that a process of this test has open, the endpoint's both handles on each connection included.
const FILES: u64 = 16_384;

/// The most memory that a gateway may ever have used, in MiB.
fn assert_memory(gateway: &Gateway, most: u64) {
    let used = memory_kib(gateway.process.pid(), "VmHWM").unwrap() / 1024;
    println!("{}: at most {used} MiB", gateway.site.cluster);
    assert!(used <= most, "{} used {used} MiB", gateway.site.cluster);
}

/// Connections that have asked once and say nothing more, and since when.
fn idle_callers(pair: &Pair) -> Vec<(Connection, Instant)> {
    let open = |_| {
        let mut connection = Connection::open(pair.west.site.http).unwrap();
        assert_eq!(connection.exchange(&Request::get(CART, "/")).unwrap().status, 200);
        (connection, Instant::now())
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> =
            (0..8).map(|_| scope.spawn(|| (0..IDLE / 8).map(open).collect::<Vec<_>>())).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    })
}

#[test]
fn ten_thousand_idle_callers_and_a_thousand_slow_ones_leave_others_served() {
    allow_files(FILES);
    let pair = Pair::new();
    let mut idle = idle_callers(&pair);
    assert_memory(&pair.west, 512);

    let traffic = Traffic::start(pair.west.site.http, 4, Ask::get(CART));
    let ask = |request: Request| {
        let mut connection = Connection::open(pair.west.site.http).unwrap();
        connection.send(&request).unwrap();
        connection
    };
    // Half of them send slowly, half of them are sent to slowly.
    let length = SLOW_BYTES.to_string();
    let upload = Request::new("POST", CART, "/echo").with("content-length", &length);
    let download = Request::get(CART, &format!("/trickle/{SLOW_BYTES}/{}", SLOW_PACE.as_millis()));
    let mut down: Vec<_> = (0..SLOW / 2).map(|_| ask(download.clone())).collect();
    let mut up: Vec<_> = (0..SLOW / 2).map(|_| ask(upload.clone())).collect();
    for _ in 0..SLOW_BYTES {
        pause(SLOW_PACE);
        up.iter_mut().for_each(|connection| connection.write(b"u").unwrap());
    }
    for (connections, method, byte) in [(&mut up, "POST", "u"), (&mut down, "GET", "t")] {
        for connection in connections {
            let answer = connection.receive(method).unwrap();
            assert_eq!((answer.status, answer.text()), (200, byte.repeat(SLOW_BYTES)));
        }
    }
    let report = traffic.stop();
    report.assert_none_failed();
    assert!(report.slowest() < AT_ONCE, "{:?}", report.slowest());
    // On a machine so busy that their time is over they may be gone.
    let mut kept = 0;
    for (connection, since) in &mut idle {
        let in_time = since.elapsed() < IDLE_KEPT;
        let answer = connection.exchange(&Request::get(CART, "/"));
        assert!(
            !in_time || answer.as_ref().is_ok_and(|a| a.status == 200),
            "{:?}: {answer:?}",
            since.elapsed()
        );
        kept += usize::from(answer.is_ok());
    }
    println!("{kept} of {IDLE} were kept");
    assert!(kept > 0);
    assert_memory(&pair.west, 640);
    assert_memory(&pair.east, 192);
}

#[test]
fn a_gateway_takes_all_the_files_that_it_may_open() {
    let pair = Pair::new();
    let (site, dir) = (pair.west.site.clone(), pair.west.site.dir.clone());
    drop(pair.west);
    // As a shell gives them out, only fewer.
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -Sn 128 && exec \"$0\" gateway -f \"$1\""]).arg(ringway()).arg(site.file());
    let process = Process::start("west/gw-1", command, &dir.join("log"));
    let west = Gateway { site, process };
    west.wait_service("shop/cart", &["east"]);
    let ask = |connection: &mut Connection| connection.exchange(&Request::get(CART, "/")).unwrap().status;
    let mut callers: Vec<_> = (0..300).map(|_| Connection::open(west.site.http).unwrap()).collect();
    assert!(callers.iter_mut().all(|caller| ask(caller) == 200));
}

/// East serves `cart` to west, to its own callers and to north, which floods it.
struct Stage {
    /// Of callers of west, and of east's own.
    traffic: [Traffic; 2],
    east: Gateway,
    west: Gateway,
    _backend: Backend,
    mesh: Mesh,
}

impl Stage {
    fn set() -> Self {
        let mesh = Mesh::new();
        let backend = Backend::start("east/a");
        let east = mesh.site("east", &["west", "north"]).start(&[
            link("west", &[]),
            link("north", &[]),
            service("cart", &[("a", backend.address())]),
        ]);
        let west = mesh.site("west", &["east"]).start(&[link("east", &[east.site.tunnel])]);
        west.wait_service("shop/cart", &["east"]);
        mesh.site("north", &["east"]);
        let traffic = [&west, &east].map(|at| Traffic::start(at.site.http, 2, Ask::get(CART)));
        Self { traffic, east, west, _backend: backend, mesh }
    }

    /// A tunnel of north, up.
    fn north(&self) -> Peer {
        let target = ("east", self.east.site.tunnel);
        Peer::dial(&self.mesh.dir().join("north/pki"), target, &hello("north", [9; 16])).unwrap()
    }

    /// All that the others asked was answered in time, also after all that happened.
    fn assert_others_served(self) {
        self.traffic.iter().for_each(|traffic| traffic.wait_more(100));
        for traffic in self.traffic {
            let report = traffic.stop();
            report.assert_none_failed();
            assert!(report.slowest() < AT_ONCE, "{:?}", report.slowest());
        }
        assert_eq!(self.east.peer_state("west").as_deref(), Some("up"));
    }
}

#[test]
fn a_peer_that_holds_every_stream_of_every_tunnel_leaves_others_served() {
    let stage = Stage::set();
    let tunnels: Vec<_> = (0..8).map(|_| stage.north()).collect();
    // The head never comes, and its time is not over before the last one is open.
    let held: usize = tunnels.iter().map(|north| north.open_silent(STREAMS_MAX as usize)).sum();
    println!("held {held} streams");
    assert!(held > STREAMS_MAX as usize, "{held}");
    // More at once than a process that is all but full has room for.
    for gateway in [&stage.east, &stage.west] {
        let ask = |_| {
            let mut connection = Connection::open(gateway.site.http).unwrap();
            connection.send(&Request::get(CART, "/trickle/1/100")).unwrap();
            connection
        };
        let asked: Vec<_> = (0..64).map(ask).collect();
        for mut connection in asked {
            assert_eq!(connection.receive("GET").unwrap().status, 200);
        }
    }
    assert_memory(&stage.east, 512);
    stage.assert_others_served();
}

#[test]
fn a_peer_that_opens_and_resets_streams_without_end_leaves_others_served() {
    let stage = Stage::set();
    let north = stage.north();
    let mut bytes = vec![StreamKind::Exchange.to_wire()];
    put_frame(&mut bytes, FrameKind::Head, |out| get("cart").encode([], out)).unwrap();
    bytes.extend_from_slice(&END);
    north.open_and_reset(&bytes, 20_000);
    let answer = north.ask(&get("cart"), &[], b"");
    assert!(matches!(answer, Answer::Whole { status: 200, .. }), "{answer:?}");
    assert_memory(&stage.east, 256);
    stage.assert_others_served();
}
