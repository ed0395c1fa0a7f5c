//! Many callers, slow callers and a peer that floods: everybody else is served, and memory stays bounded.
#![allow(clippy::unwrap_used)]

use std::collections::VecDeque;
use std::net::{SocketAddr, TcpListener};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use e2e::backend::Backend;
use e2e::client::{Connection, Request};
use e2e::manifest::{link, service};
use e2e::mesh::{Gateway, Mesh};
use e2e::pair::{CART, Pair};
use e2e::peer::{Answer, Peer, get, hello};
use e2e::process::{Process, allow_files, memory_kib, ringway};
use e2e::sidecar::SidecarSite;
use e2e::traffic::{self, Traffic};
use e2e::wait::{AT_ONCE, SOON, pause};
use e2e::wait_until;
use proto::code::Code;
use proto::control::Hello;
use proto::frame::{END, FrameKind, put_frame};
use proto::head::{HttpHead, RequestHead};
use proto::limits::{LOOKUP_NAMES_MAX, PEER_TUNNELS_MAX, STREAMS_MAX};
use proto::lookup::{Ask, ask};
use proto::message::encode_message;
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

    let traffic = Traffic::start(pair.west.site.http, 4, traffic::Ask::get(CART));
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
    let mut in_time = 0;
    for (connection, since) in &mut idle {
        // On a machine so busy that their time is over they may be gone.
        if since.elapsed() < IDLE_KEPT {
            let answer = connection.exchange(&Request::get(CART, "/"));
            assert!(answer.as_ref().is_ok_and(|a| a.status == 200), "{:?}: {answer:?}", since.elapsed());
            in_time += 1;
        }
    }
    println!("{in_time} of {IDLE} were asked in time, and all of those were kept");
    assert!(in_time > IDLE / 2, "this machine is too slow to tell");
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
        let traffic = [&west, &east].map(|at| Traffic::start(at.site.http, 2, traffic::Ask::get(CART)));
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
    // It may have to wait until fewer of what it asks are given up.
    wait_until("north is answered again", SOON, || {
        let answer = north.ask(&get("cart"), &[], b"");
        match answer {
            Answer::Whole { status: 200, .. } => Some(()),
            Answer::Reset(Code::Overloaded) => None,
            other => panic!("{other:?}"),
        }
    });
    assert_memory(&stage.east, 256);
    stage.assert_others_served();
}

/// Requests that are open at once, and so what may be under way as the next is refused.
const UNDER_WAY: usize = 64;

/// Counts connects to an endpoint that never answers.
fn silent_endpoint() -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (address, connects) = (listener.local_addr().unwrap(), Arc::new(AtomicUsize::new(0)));
    let counter = connects.clone();
    // Ends with the test's process.
    std::thread::spawn(move || {
        let mut held = VecDeque::new();
        for connection in listener.incoming() {
            counter.fetch_add(1, Ordering::Relaxed);
            held.push_back(connection);
            // Those of long ago were closed by the gateway.
            if held.len() > 512 {
                held.pop_front();
            }
        }
    });
    (address, connects)
}

/// Opens [`UNDER_WAY`] streams of these bytes, and resets them once the gateway has connected for each or refused it; how
/// many it refused.
fn open_and_reset(north: &Peer, bytes: &[u8], connects: &AtomicUsize) -> usize {
    let (connection, before) = (&north.connection, connects.load(Ordering::Relaxed));
    let cancelled = quinn::VarInt::from_u32(Code::Cancelled.to_wire());
    let overloaded = quinn::VarInt::from_u32(Code::Overloaded.to_wire());
    let opened = async {
        let (mut open, mut refused) = (Vec::new(), 0);
        for _ in 0..UNDER_WAY {
            let (mut send, receive) = connection.open_bi().await.unwrap();
            send.write_all(bytes).await.unwrap();
            open.push((send, receive));
        }
        while refused + connects.load(Ordering::Relaxed) - before < UNDER_WAY {
            let mut left = Vec::new();
            for (send, mut receive) in open {
                let ended = tokio::select! {
                    biased;
                    ended = receive.read_chunk(1, true) => Some(ended),
                    () = tokio::task::yield_now() => None,
                };
                match ended {
                    None => left.push((send, receive)),
                    Some(Err(quinn::ReadError::Reset(code))) if code == overloaded => refused += 1,
                    Some(other) => panic!("{other:?}"),
                }
            }
            open = left;
        }
        for (mut send, mut receive) in open {
            let _ = send.reset(cancelled);
            let _ = receive.stop(cancelled);
        }
        refused
    };
    north.runtime().block_on(async { tokio::time::timeout(SOON, opened).await.unwrap() })
}

#[test]
fn requests_that_are_opened_and_reset_cannot_make_the_gateway_connect_without_end() {
    let mesh = Mesh::new();
    let (address, connects) = silent_endpoint();
    let backend = Backend::start("east/a");
    let silent = service("silent", &[("a", address)]);
    let cart = service("cart", &[("a", backend.address())]);
    let east = mesh.site("east", &["north"]).start(&[link("north", &[]), silent, cart]);
    mesh.site("north", &["east"]);
    let target = ("east", east.site.tunnel);
    let sidecar = SidecarSite::new(&mesh, "greedy-1", "greedy", &east.site).dir.join("pki");
    let north = Peer::dial(&mesh.dir().join("north/pki"), target, &hello("north", [9; 16])).unwrap();
    let own = Hello { gateway: "greedy-1".into(), ..hello("east", [7; 16]) };
    let workload = wait_until("east serves sidecars", SOON, || Peer::dial(&sidecar, target, &own).ok());
    let post = RequestHead {
        http: HttpHead { method: "POST", authority: "silent.shop.mesh", ..get("silent").http },
        ..get("silent")
    };
    let mut bytes = vec![StreamKind::Exchange.to_wire()];
    put_frame(&mut bytes, FrameKind::Head, |out| post.encode([], out)).unwrap();
    bytes.extend_from_slice(&END);
    // What each may give up at once, and a second, as the limits have it.
    for (peer, name, at_once, a_second) in [(&north, "north", 1024, 256), (&workload, "sa/greedy", 512, 64)] {
        let (began, before) = (Instant::now(), connects.load(Ordering::Relaxed));
        let rounds = 4 * at_once / UNDER_WAY;
        let refused: usize = (0..rounds).map(|_| open_and_reset(peer, &bytes, &connects)).sum();
        let seconds = usize::try_from(began.elapsed().as_secs()).unwrap() + 1;
        let made = connects.load(Ordering::Relaxed) - before;
        println!("{name}: {made} connects, {refused} refused of {} in {seconds} s", rounds * UNDER_WAY);
        let most = at_once + seconds * a_second + UNDER_WAY;
        assert!(made <= most, "{name}: {made} connects, {most} are allowed for");
        // It is refused before any work meanwhile, and this says so; then it is served again.
        east.process.wait_log(&["over its reset budget", name]);
        wait_until("it is answered again", SOON, || {
            matches!(peer.ask(&get("cart"), &[], b""), Answer::Whole { status: 200, .. }).then_some(())
        });
    }
    assert_eq!(east.get(CART, "/").status, 200);
}

#[test]
fn what_one_workload_asks_about_names_is_limited_and_others_are_told_at_once() {
    /// As many as one tunnel may have.
    const STREAMS: usize = 4;
    let mesh = Mesh::new();
    let backend = Backend::start("west/a");
    let services: Vec<_> =
        (0..LOOKUP_NAMES_MAX).map(|n| service(&format!("s{n}"), &[("a", backend.address())])).collect();
    let west = mesh.site("west", &[]).start(&services);
    let dial = |name: &str, account: &str| {
        let site = SidecarSite::new(&mesh, name, account, &west.site);
        let own = Hello { gateway: name.into(), ..hello("west", [7; 16]) };
        wait_until("west serves sidecars", SOON, || {
            Peer::dial(&site.dir.join("pki"), ("west", west.site.tunnel), &own).ok()
        })
    };
    let asks = |names: usize| {
        let ask = |n| encode_message(&Ask { kind: Some(ask::Kind::Use(format!("s{n}.shop"))) });
        let asks: Vec<u8> = (0..names).flat_map(ask).collect();
        [&[StreamKind::Lookup.to_wire()][..], &asks].concat()
    };
    let greedy = dial("greedy-1", "greedy");
    let all = asks(LOOKUP_NAMES_MAX);
    let answered = (0..64).filter(|_| greedy.first_word(&all).is_some()).count();
    assert_eq!(answered, STREAMS, "the rest is refused");
    // Its other tunnels are as good, and each other workload is told beside it.
    assert!(dial("greedy-2", "greedy").first_word(&asks(1)).is_some());
    let asked = Instant::now();
    assert!(dial("modest-1", "modest").first_word(&asks(1)).is_some());
    assert!(asked.elapsed() < AT_ONCE, "{:?}", asked.elapsed());
    // One name more than a stream may have ends the stream, and nothing else.
    let more = dial("more-1", "more");
    let mut too_many = asks(LOOKUP_NAMES_MAX);
    too_many.extend(encode_message(&Ask { kind: Some(ask::Kind::Use("more.shop".into())) }));
    more.tell(too_many.into());
    assert!(more.first_word(&asks(1)).is_some());
    assert_memory(&west, 256);
}

#[test]
fn a_linked_cluster_has_so_many_tunnels_and_no_more_however_many_gateways_it_names() {
    /// Tunnels of one gateway, of which the oldest is closed for another.
    const EACH: usize = 8;
    let mesh = Mesh::new();
    let east = mesh.site("east", &["north"]).start(&[link("north", &[])]);
    mesh.site("north", &["east"]);
    let mut tunnels = Vec::new();
    let mut dial = |gateway: usize| {
        let name = format!("gw-{gateway}");
        let dir = mesh.dir().join("north").join(&name);
        if !dir.exists() {
            let out = dir.display().to_string();
            let issue =
                ["pki", "issue", "--ca", "ca", "--cluster", "north", "--gateway", &name, "--peer", "east"];
            let said = mesh.cli(&[&issue[..], &["--out", &out]].concat());
            assert_eq!(said.code, Some(0), "{said:?}");
        }
        let own = Hello { gateway: name, ..hello("north", [9; 16]) };
        Peer::dial(&dir, ("east", east.site.tunnel), &own).map(|peer| tunnels.push(peer))
    };
    for gateway in 1..=PEER_TUNNELS_MAX / EACH {
        (0..EACH).for_each(|_| dial(gateway).unwrap());
    }
    let refused = dial(PEER_TUNNELS_MAX / EACH + 1).unwrap_err();
    assert!(refused.contains("`north` has 128 tunnels to this gateway"), "{refused}");
    // One that ends makes room.
    tunnels.pop();
    wait_until("there is room again", SOON, || {
        let own = Hello { gateway: "gw-1".into(), ..hello("north", [9; 16]) };
        Peer::dial(&mesh.dir().join("north/gw-1"), ("east", east.site.tunnel), &own).ok()
    });
}
