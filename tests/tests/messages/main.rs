//! Every rule of messages on every way: whatever an endpoint, a caller or both of them say, a gateway, two gateways, a
//! sidecar and what it passes through treat it alike. A table of cases times ways.
#![allow(clippy::unwrap_used)]

mod answers;
mod http2;
mod requests;

use std::net::SocketAddr;
use std::time::Duration;

use e2e::http2::Http2Endpoint;
use e2e::manifest::{link, object, policy, service};
use e2e::mesh::{Gateway, Mesh};
use e2e::raw::{Raw, exchange};
use e2e::sidecar::{Sidecar, SidecarSite};
use e2e::wait::SOON;

/// How long a caller listens to an answer that does not end its connection.
const LISTEN: Duration = Duration::from_millis(1_500);

/// West serves `own` and `mine`, east `cart` and `call`; the second of each speaks HTTP/2. Both have the same endpoint.
struct Rig {
    sidecar: Sidecar,
    west: Gateway,
    _east: Gateway,
    raw: Raw,
    http2: Http2Endpoint,
    _mesh: Mesh,
}

/// A way from a caller to the endpoint.
#[derive(Clone, Debug)]
struct Way {
    name: &'static str,
    to: SocketAddr,
    authority: String,
}

impl Rig {
    fn new() -> Self {
        let (raw, http2) = (Raw::start(), Http2Endpoint::start());
        let mesh = Mesh::new();
        let (east, west) = (mesh.site("east", &["west"]), mesh.site("west", &["east"]));
        let http = |name: &str| service(name, &[("a", raw.address())]);
        let grpc = |name: &str| http2_service(name, http2.address());
        let impatient = |name: &str| policy(name, "timeout: { head: 5s, idle: 2s }");
        let east = east.start(&[link("west", &[]), http("cart"), grpc("call")]);
        let west = west.start(&[
            link("east", &[east.site.tunnel]),
            http("own"),
            grpc("mine"),
            impatient("own"),
            impatient("mine"),
            impatient("cart"),
            impatient("call"),
        ]);
        west.wait_service("shop/cart", &["east"]);
        west.wait_service("shop/call", &["east"]);
        west.wait_peer("east", "up");
        let mut site = SidecarSite::new(&mesh, "cart-1", "cart", &west.site);
        site.more = "  passthrough: true\n".into();
        let sidecar = site.start();
        Self { sidecar, west, _east: east, raw, http2, _mesh: mesh }
    }

    /// The ways to the endpoint that speaks HTTP/1.1.
    fn ways(&self) -> Vec<Way> {
        let way = |name, to, authority: &str| Way { name, to, authority: authority.into() };
        let (west, sidecar) = (self.west.site.http, self.sidecar.site.proxy);
        vec![
            way("local", west, "own.shop.mesh"),
            way("remote", west, "cart.shop.mesh"),
            way("sidecar to local", sidecar, "own.shop.mesh"),
            way("sidecar to remote", sidecar, "cart.shop.mesh"),
            way("passthrough", sidecar, &self.raw.address().to_string()),
        ]
    }

    /// The ways to the one that speaks HTTP/2.
    fn http2_ways(&self) -> Vec<Way> {
        let way = |name, to, authority: &str| Way { name, to, authority: authority.into() };
        let (west, sidecar) = (self.west.site.http, self.sidecar.site.proxy);
        vec![
            way("local", west, "mine.shop.mesh"),
            way("remote", west, "call.shop.mesh"),
            way("sidecar to local", sidecar, "mine.shop.mesh"),
            way("sidecar to remote", sidecar, "call.shop.mesh"),
        ]
    }
}

impl Way {
    /// All that is answered to a GET of `path` whose connection is to be closed behind the answer.
    fn get(&self, path: &str) -> String {
        let request = format!("GET {path} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n\r\n", self.authority);
        exchange(self.to, request.as_bytes(), SOON)
    }

    /// All that is answered to `request`, in which `HOST` stands for the authority.
    fn send(&self, request: &str) -> String {
        exchange(self.to, request.replace("HOST", &self.authority).as_bytes(), LISTEN)
    }
}

/// A service whose endpoint speaks HTTP/2.
fn http2_service(name: &str, at: SocketAddr) -> String {
    let spec = format!(
        "ports: [{{ name: web, port: 80, protocol: grpc }}]\n  \
         endpoints: [{{ id: a, host: {}, ports: {{ web: {} }} }}]\n  export: {{ to: [\"*\"] }}",
        at.ip(),
        at.port()
    );
    object("MeshService", &format!("{name}, namespace: shop"), &spec)
}

/// The status of an answer, interim ones skipped; 0: there is none.
fn status(answer: &str) -> u16 {
    let lines = answer.split("\r\n").filter_map(|line| line.strip_prefix("HTTP/1.1 "));
    let mut statuses = lines.filter_map(|line| line.get(..3)?.parse().ok());
    statuses.find(|&status: &u16| status >= 200 || status == 101).unwrap_or(0)
}

/// The last answer's head, in lower case.
fn head(answer: &str) -> String {
    let at = answer.match_indices("HTTP/1.1 ").find(|(at, _)| !answer[at + 9..].starts_with('1'));
    let rest = at.map_or("", |(at, _)| &answer[at..]);
    rest.split("\r\n\r\n").next().unwrap_or_default().to_ascii_lowercase()
}

/// What stands behind the head.
fn body(answer: &str) -> &str {
    let at = answer.match_indices("HTTP/1.1 ").find(|(at, _)| !answer[at + 9..].starts_with('1'));
    let rest = at.map_or("", |(at, _)| &answer[at..]);
    rest.split_once("\r\n\r\n").map_or("", |(_, body)| body)
}
