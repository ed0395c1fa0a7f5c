//! Exchanges that become something else behind their heads: `Upgrade`, CONNECT and extended CONNECT.
#![allow(clippy::unwrap_used)]

mod http1;
mod http2;
mod with_websockets;

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};

use e2e::manifest::{link, policy, service};
use e2e::mesh::{Gateway, Mesh};
use e2e::sidecar::{Sidecar, SidecarSite};
use e2e::tcp::{Server, connect};

/// The authority of the service.
const CART: &str = "cart.shop.mesh";

/// East serves `shop/cart`, west asks.
struct World {
    west: Gateway,
    east: Gateway,
    mesh: Mesh,
}

impl World {
    /// With one endpoint, and lines of a policy in west.
    fn new(endpoint: SocketAddr, west_policy: &str) -> Self {
        let mesh = Mesh::new();
        let (east, west) = (mesh.site("east", &["west"]), mesh.site("west", &["east"]));
        let east = east.start(&[link("west", &[]), service("cart", &[("a", endpoint)])]);
        let mut objects = vec![link("east", &[east.site.tunnel])];
        if !west_policy.is_empty() {
            objects.push(policy("cart", west_policy));
        }
        let west = west.start(&objects);
        west.wait_service("shop/cart", &["east"]);
        Self { west, east, mesh }
    }

    /// A sidecar in west, which leads out of the mesh too.
    fn sidecar(&self) -> Sidecar {
        let mut site = SidecarSite::new(&self.mesh, "web-1", "web", &self.west.site);
        site.more = "  passthrough: true\n".into();
        site.start_up()
    }
}

/// Reads a head, byte by byte, so that what comes behind it stays.
fn head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        assert_eq!(stream.read(&mut byte).unwrap(), 1, "{}", String::from_utf8_lossy(&head));
        head.push(byte[0]);
    }
    String::from_utf8(head).unwrap()
}

/// An endpoint that upgrades to `echo` with a greeting, where it is asked to, and tells on `/seen` what it was asked;
/// `/no` is refused, `/other` is answered with another protocol.
fn endpoint() -> Server {
    Server::start(|mut stream| {
        let asked = head(&mut stream);
        let path = asked.split(' ').nth(1).unwrap_or_default();
        if path == "/no" {
            let _ = stream.write_all(b"HTTP/1.1 426 Upgrade Required\r\ncontent-length: 2\r\n\r\nno");
            return;
        }
        let protocol = if path == "/other" { "other" } else { "echo" };
        let greeting = if path == "/seen" { asked.clone() } else { "hello".into() };
        let switching = format!(
            "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: {protocol}\r\nx-mine: 1\r\n\r\n{greeting}"
        );
        stream.write_all(switching.as_bytes()).unwrap();
        if path == "/seen" {
            stream.shutdown(Shutdown::Write).unwrap();
            let _ = stream.read(&mut [0]);
        } else if path == "/cut" {
            let _ = stream.read(&mut [0]);
            e2e::tcp::reset(stream);
        } else {
            let mut copy = stream.try_clone().unwrap();
            // The caller may break off.
            if std::io::copy(&mut copy, &mut stream).is_ok() {
                let _ = stream.shutdown(Shutdown::Write);
            }
        }
    })
}

/// Asks for an upgrade to `echo`; gives the head of the answer.
fn upgrade(at: SocketAddr, path: &str, more: &str) -> (String, TcpStream) {
    let mut stream = connect(at);
    let asks =
        format!("GET {path} HTTP/1.1\r\nhost: {CART}\r\nconnection: Upgrade\r\nupgrade: echo\r\n{more}\r\n");
    stream.write_all(asks.as_bytes()).unwrap();
    (head(&mut stream), stream)
}
