//! A peer that speaks the tunnel protocol by hand: what it was not granted it does not get, and its nonsense hurts
//! nobody else.
#![allow(clippy::unwrap_used)]

use std::net::UdpSocket;
use std::time::Duration;

use bytes::Bytes;
use e2e::backend::Backend;
use e2e::manifest::{exported, link, service};
use e2e::mesh::{Gateway, Mesh};
use e2e::pair::CART;
use e2e::peer::{Answer, Peer, get, get_with, hello};
use e2e::traffic::{Ask, Traffic};
use proto::code::Code;
use proto::frame::{END, FrameKind, put_frame, put_frame_header};
use proto::head::{HttpHead, RequestHead};
use proto::stream::StreamKind;
use proto::varint;

/// East serves `cart` (granted to all), `closed` (to nobody) and `others` (to north); west is a real gateway under
/// steady load, north is whoever the test plays.
struct Stage {
    traffic: Traffic,
    _west: Gateway,
    east: Gateway,
    backend: Backend,
    mesh: Mesh,
}

impl Stage {
    fn set() -> Self {
        let mesh = Mesh::new();
        let backend = Backend::start("east/a");
        let endpoint = [("a", backend.address())];
        let east = mesh.site("east", &["west", "north"]).start(&[
            link("west", &[]),
            link("north", &[]),
            service("cart", &endpoint),
            exported("closed", &endpoint, &[]),
            exported("others", &endpoint, &["west"]),
        ]);
        let west = mesh.site("west", &["east"]).start(&[link("east", &[east.site.tunnel])]);
        west.wait_service("shop/cart", &["east"]);
        let traffic = Traffic::start(west.site.http, 2, Ask::get(CART));
        mesh.site("north", &["east"]);
        Self { traffic, _west: west, east, backend, mesh }
    }

    /// North's tunnel, up.
    fn north(&self) -> Peer {
        let target = ("east", self.east.site.tunnel);
        Peer::dial(&self.mesh.dir().join("north/pki"), target, &hello("north", [9; 16])).unwrap()
    }

    /// North's connection before HELLO.
    fn north_silent(&self) -> Peer {
        Peer::shake(&self.mesh.dir().join("north/pki"), "east", self.east.site.tunnel).unwrap()
    }

    /// West has noticed nothing: all it asked was answered, also after all that happened.
    fn assert_others_unharmed(self) {
        self.traffic.wait_more(100);
        self.traffic.stop().assert_none_failed();
        assert_eq!(self.east.peer_state("west").as_deref(), Some("up"));
    }
}

/// A stream of an exchange that begins with these bytes.
fn exchange(rest: &[u8]) -> Bytes {
    [&[StreamKind::Exchange.to_wire()], rest].concat().into()
}

#[test]
fn a_granted_service_answers_and_one_that_was_not_granted_is_not_touched() {
    let stage = Stage::set();
    let north = stage.north();
    let answer = north.ask(&get("cart"), &[("x-id", "north-1")], b"");
    assert_eq!(answer, Answer::Whole { status: 200, body: b"east/a\n".to_vec() });
    for name in ["closed", "others"] {
        let answer = north.ask(&get(name), &[("x-id", "denied")], b"");
        assert_eq!(answer, Answer::Reset(Code::Denied), "{name}");
    }
    for head in [
        get("nothing"),
        get_with("cart", |flow| flow.port = 81),
        get_with("cart", |flow| flow.namespace = "other"),
    ] {
        assert_eq!(north.ask(&head, &[("x-id", "unknown")], b""), Answer::Reset(Code::Unknown), "{head:?}");
    }
    let deliveries = stage.backend.deliveries();
    assert_eq!(deliveries.get("north-1"), Some(&1));
    assert!(!deliveries.contains_key("denied") && !deliveries.contains_key("unknown"), "{deliveries:?}");
    stage.assert_others_unharmed();
}

#[test]
fn a_peer_chooses_neither_the_host_that_an_endpoint_sees_nor_a_method_that_takes_its_connection() {
    let stage = Stage::set();
    let north = stage.north();
    let asks = |http| RequestHead { http, ..get("cart") };
    let named = |authority| asks(HttpHead { authority, ..get("cart").http });
    for head in [
        named("evil:443"),
        named("u:p@cart.shop.mesh"),
        named("cart.shop.mesh@evil"),
        named("other.shop.mesh"),
        asks(HttpHead { method: "CONNECT", ..get("cart").http }),
        asks(HttpHead { path: "http://evil/", ..get("cart").http }),
    ] {
        assert_eq!(north.ask(&head, &[("x-id", "odd")], b""), Answer::Reset(Code::Internal), "{head:?}");
    }
    for authority in ["cart.shop.mesh:80", "Cart.shop.east.mesh", "cart.shop.svc.clusterset.local"] {
        let answer = north.ask(&named(authority), &[], b"");
        assert!(matches!(answer, Answer::Whole { status: 200, .. }), "{authority}: {answer:?}");
    }
    assert!(!stage.backend.deliveries().contains_key("odd"));
    stage.assert_others_unharmed();
}

#[test]
fn a_caller_that_calls_itself_another_cluster_gains_nothing() {
    let stage = Stage::set();
    let caller = "spiffe://acme.example/cluster/west/gateway/gw-1";
    let head = get_with("others", |flow| flow.caller = Some(caller));
    assert_eq!(stage.north().ask(&head, &[], b""), Answer::Reset(Code::Denied));
    stage.assert_others_unharmed();
}

#[test]
fn a_gateway_speaks_for_the_workloads_of_its_own_cluster_only() {
    let stage = Stage::set();
    let north = stage.north();
    let with = |caller: &str| north.ask(&get_with("cart", |flow| flow.caller = Some(caller)), &[], b"");
    let answer = with("spiffe://acme.example/cluster/north/ns/shop/sa/checkout");
    assert!(matches!(answer, Answer::Whole { status: 200, .. }), "{answer:?}");
    for forged in [
        "spiffe://acme.example/cluster/west/ns/shop/sa/checkout",
        "spiffe://other.example/cluster/north/ns/shop/sa/checkout",
        "spiffe://acme.example/cluster/north/gateway/gw-1",
        "spiffe://acme.example/cluster/north/ns/shop/sa/a/../b",
        "checkout",
    ] {
        assert_eq!(with(forged), Answer::Reset(Code::Denied), "{forged}");
    }
    stage.assert_others_unharmed();
}

#[test]
fn a_contract_of_another_generation_is_misplaced_once_and_then_served() {
    let stage = Stage::set();
    let north = stage.north();
    let placed = |insist| {
        get_with("cart", |flow| {
            (flow.generation, flow.key_hash, flow.owner, flow.insist) = (7, Some(1), Some("east"), insist);
        })
    };
    assert_eq!(north.ask(&placed(false), &[], b""), Answer::Reset(Code::Misplaced));
    let answer = north.ask(&placed(true), &[], b"");
    assert!(matches!(answer, Answer::Whole { status: 200, .. }), "{answer:?}");
    stage.assert_others_unharmed();
}

#[test]
fn nonsense_on_a_stream_ends_that_stream_and_nothing_else() {
    let stage = Stage::set();
    let north = stage.north();
    let mut head = Vec::new();
    put_frame(&mut head, FrameKind::Head, |out| get("cart").encode([], out)).unwrap();
    let mut large = Vec::new();
    varint::put(&mut large, FrameKind::Head as u64);
    varint::put(&mut large, 1 << 40);
    let mut early = Vec::new();
    put_frame_header(&mut early, FrameKind::Data, 3);
    early.extend_from_slice(b"abc");
    let twice = [&head[..], &head, &END].concat();
    let after = [&head[..], &END, &END].concat();
    let garbled: Vec<u8> = head.iter().enumerate().map(|(i, b)| if i > 12 { b ^ 0x55 } else { *b }).collect();
    let cases: [&[u8]; 9] =
        [b"", &[0xff; 64], &large, &early, &head, &twice, &after, &garbled, &head[..head.len() / 2]];
    for (i, case) in cases.iter().enumerate() {
        let answer = north.ask_raw(exchange(case));
        // Bytes after the end may come too late to spoil the answer.
        let whole_before = i == 6 && matches!(answer, Answer::Whole { status: 200, .. });
        assert!(whole_before || matches!(answer, Answer::Reset(_)), "case {i}: {answer:?}");
    }
    for kind in [0x03, 0x3f, 0xff] {
        let answer = north.ask_raw(vec![kind, 1, 2, 3].into());
        assert!(!matches!(answer, Answer::Whole { .. }), "kind {kind}: {answer:?}");
    }
    assert!(
        matches!(north.ask(&get("cart"), &[], b""), Answer::Whole { status: 200, .. }),
        "the tunnel is gone"
    );
    stage.assert_others_unharmed();
}

#[test]
fn a_request_whose_end_comes_in_the_next_packet_has_no_body_for_its_endpoint() {
    let stage = Stage::set();
    let mut head = get("cart");
    head.http.path = "/seen";
    let mut first = Vec::new();
    put_frame(&mut first, FrameKind::Head, |out| head.encode([], out)).unwrap();
    let between = Duration::from_millis(100);
    let answer = stage.north().ask_in_two(exchange(&first), between, END.to_vec().into());
    let Answer::Whole { status: 200, body } = answer else { panic!("{answer:?}") };
    let seen = String::from_utf8(body).unwrap().to_lowercase();
    assert!(seen.contains("get /seen") && !seen.contains("transfer-encoding"), "{seen}");
    stage.assert_others_unharmed();
}

#[test]
fn what_a_later_version_adds_is_skipped() {
    let stage = Stage::set();
    let mut bytes = Vec::new();
    // A frame of an unknown kind before the head, and one between head and END.
    let unknown = |bytes: &mut Vec<u8>| {
        varint::put(bytes, 0x2a);
        varint::put(bytes, 5);
        bytes.extend_from_slice(b"later");
    };
    unknown(&mut bytes);
    put_frame(&mut bytes, FrameKind::Head, |out| {
        // A fact of an unknown tag stands first in the head.
        varint::put(out, 900);
        varint::put(out, 3);
        out.extend_from_slice(b"new");
        get("cart").encode([], out)
    })
    .unwrap();
    unknown(&mut bytes);
    bytes.extend_from_slice(&END);
    let answer = stage.north().ask_raw(exchange(&bytes));
    assert!(matches!(answer, Answer::Whole { status: 200, .. }), "{answer:?}");
    stage.assert_others_unharmed();
}

#[test]
fn a_peer_that_says_nonsense_instead_of_hello_loses_its_tunnel() {
    let stage = Stage::set();
    for first in [
        &[StreamKind::Control.to_wire(), 0xff, 0xff, 0xff][..],
        &[StreamKind::Exchange.to_wire(), 1, 2],
        &[0x77; 40],
    ] {
        let north = stage.north_silent();
        north.ask_raw(first.to_vec().into());
        assert!(!north.closed().is_empty());
    }
    assert_eq!(stage.east.peer_state("north"), None);
    stage.assert_others_unharmed();
}

#[test]
fn a_peer_that_says_nothing_instead_of_hello_loses_its_tunnel() {
    let stage = Stage::set();
    let closed = stage.north_silent().closed();
    assert!(!closed.contains("timed out"), "the gateway closed it without a reason: {closed}");
    stage.assert_others_unharmed();
}

#[test]
fn datagrams_that_are_no_tunnel_change_nothing() {
    let stage = Stage::set();
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    for size in [0, 1, 20, 100, 1_200, 1_472, 9_000] {
        for fill in [0x00, 0x40, 0x7f, 0xc0, 0xff] {
            socket.send_to(&vec![fill; size], stage.east.site.tunnel).unwrap();
        }
    }
    // And inside a tunnel, where datagrams are probes.
    let north = stage.north();
    for bytes in [&b""[..], b"\x01", &[0xff; 1_000]] {
        north.connection.send_datagram(bytes.to_vec().into()).unwrap();
    }
    assert!(matches!(north.ask(&get("cart"), &[], b""), Answer::Whole { status: 200, .. }));
    stage.assert_others_unharmed();
}

#[test]
fn a_peer_that_opens_streams_and_says_nothing_starves_nobody() {
    let stage = Stage::set();
    let north = stage.north();
    let held = north.open_silent(1_000);
    assert!(held >= 100, "{held}");
    stage.assert_others_unharmed();
}
