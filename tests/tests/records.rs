//! Every exchange is counted once and leaves one line in the access log, however it ends: answered, cut, given up, refused
//! by a peer, or rejected before a service was known.
#![allow(clippy::unwrap_used)]

use std::io::Write;
use std::net::TcpStream;
use std::time::Duration;

use e2e::backend::Backend;
use e2e::client::{Connection, Request, fetch};
use e2e::manifest::{exported, link, policy, service};
use e2e::mesh::{Gateway, Mesh};
use e2e::pair::CART;
use e2e::peer::{Answer, Peer, get, get_with, hello};
use e2e::wait::{SOON, wait_until};
use proto::code::Code;
use proto::frame::{FrameKind, put_frame};
use proto::head::{HttpHead, RequestHead};
use proto::stream::StreamKind;

/// East serves `cart` (to all) and `closed` (to nobody); it logs each request, and north is played by the test.
struct Stage {
    east: Gateway,
    backend: Backend,
    mesh: Mesh,
}

impl Stage {
    fn set() -> Self {
        let mesh = Mesh::new();
        let backend = Backend::start("east/a");
        let endpoint = [("a", backend.address())];
        let mut site = mesh.site("east", &["north"]);
        site.access_log = true;
        let nobody = std::net::SocketAddr::from(([127, 0, 0, 1], e2e::port::free_port()));
        let east = site.start(&[
            link("north", &[]),
            service("cart", &endpoint),
            policy("cart", "timeout: { head: 1s, idle: 1s }"),
            exported("closed", &endpoint, &[]),
            service("nobody", &[("a", nobody)]),
        ]);
        mesh.site("north", &["east"]);
        Self { east, backend, mesh }
    }

    fn north(&self) -> Peer {
        let target = ("east", self.east.site.tunnel);
        Peer::dial(&self.mesh.dir().join("north/pki"), target, &hello("north", [9; 16])).unwrap()
    }

    /// How many requests were counted with all of these labels.
    fn count(&self, labels: &[&str]) -> u64 {
        let text = self.east.admin("/metrics").unwrap().text();
        let lines = text.lines().filter(|line| line.starts_with("ringway_requests_total{"));
        let fitting = lines.filter(|line| labels.iter().all(|label| line.contains(label)));
        fitting.map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum()
    }

    /// Runs `ask`, which ends in `outcome`: one more is counted so, of `service`, and one line says so and `parts`.
    fn ends(&self, direction: &str, service: &str, outcome: &str, parts: &[&str], ask: impl FnOnce(&Self)) {
        let labels = [
            format!("direction=\"{direction}\""),
            format!("service=\"{service}\""),
            format!("outcome=\"{outcome}\""),
        ];
        let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
        let lines = || -> Vec<String> {
            let log = self.east.process.log();
            let wanted = [format!("direction=\"{direction}\""), format!("outcome=\"{outcome}\"")];
            let fits = |line: &&str| {
                line.contains("ringway::access") && wanted.iter().all(|part| line.contains(part.as_str()))
            };
            log.lines().filter(fits).map(str::to_owned).collect()
        };
        let (counted, logged) = (self.count(&labels), lines().len());
        ask(self);
        wait_until(&format!("{direction} {service} {outcome} is counted"), SOON, || {
            (self.count(&labels) == counted + 1).then_some(())
        });
        let line = wait_until(&format!("{direction} {service} {outcome} is logged"), SOON, || {
            lines().get(logged).cloned()
        });
        for part in parts {
            assert!(line.contains(part), "no `{part}` in {line}");
        }
    }
}

/// Asks with a connection of its own and gives up while the answer is awaited, or half of it is there.
fn give_up(stage: &Stage, target: &str) {
    let mut connection = Connection::open(stage.east.site.http).unwrap();
    connection.send(&Request::get(CART, target)).unwrap();
    let seen = || (stage.backend.count(target) > 0).then_some(());
    wait_until("the request arrived", SOON, seen);
}

#[test]
fn each_outcome_of_a_caller_has_its_count_and_its_line() {
    let stage = Stage::set();
    let ask = |request: Request| move |stage: &Stage| drop(fetch(stage.east.site.http, &request));
    let cart = "service=\"shop/cart\"";
    let answered =
        [cart, "method=\"GET\"", "status=200", "sent=1000", "endpoint=\"a\"", "attempts=\"east first "];
    stage.ends("outbound", "shop/cart", "answered", &answered, ask(Request::get(CART, "/bytes/1000")));
    let sent = [cart, "received=5", "caller=\"anonymous\""];
    stage.ends("outbound", "shop/cart", "answered", &sent, ask(Request::post(CART, "/", b"hello")));
    stage.ends("outbound", "shop/cart", "cut", &[cart], ask(Request::get(CART, "/cut/100000/60000")));
    stage.ends("outbound", "shop/cart", "timeout", &[cart, "status=504"], ask(Request::get(CART, "/hold")));
    stage.ends(
        "outbound",
        "shop/cart",
        "broken",
        &[cart, "status=502"],
        ask(Request::post(CART, "/slam", b"x")),
    );
    stage.ends("outbound", "shop/cart", "cancelled", &[cart], |stage| give_up(stage, "/hold/2"));
    stage.ends(
        "outbound",
        "shop/nobody",
        "unavailable",
        &["status=502"],
        ask(Request::get("nobody.shop.mesh", "/")),
    );
    stage.ends("outbound", "", "not_found", &["status=404"], ask(Request::get("nothing.shop.mesh", "/")));
    stage.ends("outbound", "", "malformed", &["status=400"], |stage| {
        let mut stream = TcpStream::connect(stage.east.site.http).unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n").unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let mut answer = [0; 12];
        std::io::Read::read_exact(&mut stream, &mut answer).unwrap();
        assert_eq!(&answer, b"HTTP/1.1 400");
    });
}

#[test]
fn each_refusal_of_a_peer_has_its_count_and_its_line() {
    let stage = Stage::set();
    let north = stage.north();
    let peer = "peer=\"north\"";
    let ask = |head: RequestHead<'_>, answer: Answer| assert_eq!(north.ask(&head, &[], b""), answer);
    stage.ends("inbound", "shop/cart", "answered", &[peer, "status=200", "endpoint=\"a\""], |_| {
        let answer = north.ask(&get("cart"), &[], b"");
        assert!(matches!(answer, Answer::Whole { status: 200, .. }), "{answer:?}");
    });
    stage.ends(
        "inbound",
        "shop/closed",
        "denied",
        &[peer, "method=\"GET\"", "service=\"shop/closed\""],
        |_| {
            let closed = HttpHead { authority: "closed.shop.mesh", ..get("closed").http };
            ask(RequestHead { http: closed, ..get("closed") }, Answer::Reset(Code::Denied));
        },
    );
    stage.ends("inbound", "", "not_found", &[peer], |_| ask(get("nothing"), Answer::Reset(Code::Unknown)));
    stage.ends("inbound", "shop/cart", "not_found", &[peer], |_| {
        ask(get_with("cart", |flow| flow.port = 81), Answer::Reset(Code::Unknown));
    });
    stage.ends("inbound", "shop/cart", "misplaced", &[peer], |_| {
        let placed = get_with("cart", |flow| {
            (flow.generation, flow.key_hash, flow.owner) = (7, Some(1), Some("west"));
        });
        ask(placed, Answer::Reset(Code::Misplaced));
    });
    stage.ends("inbound", "shop/cart", "malformed", &[peer], |_| {
        let connect = HttpHead { method: "CONNECT", ..get("cart").http };
        ask(RequestHead { http: connect, ..get("cart") }, Answer::Reset(Code::Internal));
    });
    stage.ends("inbound", "shop/nobody", "unavailable", &[peer], |_| {
        let nobody = HttpHead { authority: "nobody.shop.mesh", ..get("nobody").http };
        ask(RequestHead { http: nobody, ..get("nobody") }, Answer::Reset(Code::Refused));
    });
}

#[test]
fn what_is_shed_is_counted_and_logged() {
    let stage = Stage::set();
    let north = stage.north();
    let mut bytes = vec![StreamKind::Exchange.to_wire()];
    put_frame(&mut bytes, FrameKind::Head, |out| get("cart").encode([], out)).unwrap();
    // The first hundreds are admitted, and reset before they are answered; then north's budget is spent.
    wait_until("north is shed", SOON, || {
        north.open_and_reset(&bytes, 256);
        let labels = ["direction=\"inbound\"", "peer=\"north\"", "outcome=\"overloaded\""];
        (stage.count(&labels) > 0).then_some(())
    });
    stage.east.process.wait_log(&["ringway::access", "peer=\"north\"", "outcome=\"overloaded\""]);
}
