//! One gateway process takes over from another: callers, peers, sidecars and open streams notice nothing.
#![allow(clippy::unwrap_used)]

mod failing;
mod others;
mod started;
mod under_load;
mod with_etcd;

use std::io::Write;
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::path::PathBuf;

use e2e::backend::Backend;
use e2e::manifest::{link, listener, of_connections, service};
use e2e::mesh::{Gateway, Mesh};
use e2e::pair::CART;
use e2e::port::free_port;
use e2e::sidecar::{Sidecar, SidecarSite};
use e2e::tcp::{End, Server, end_of, read};
use e2e::traffic::{Ask, Traffic};

/// East serves `shop/cart`, which answers requests, and `shop/db`, which greets and echoes; west listens for it.
struct World {
    west: Gateway,
    east: Gateway,
    /// Where west listens.
    at: SocketAddr,
    unix: PathBuf,
    backend: Backend,
    mesh: Mesh,
}

fn address() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, free_port()).into()
}

impl World {
    fn new() -> Self {
        Self::with(true, "")
    }

    /// With a link that both dial, or only west; `check` stands behind `healthCheck:` of `shop/cart`, if it has one.
    fn with(both_dial: bool, check: &str) -> Self {
        let mesh = Mesh::new();
        let (backend, echo) = (Backend::start("east/a"), Server::echo(b"hi"));
        let (east, west) = (mesh.site("east", &["west"]), mesh.site("west", &["east"]));
        let db = of_connections("db", "tcp", &[("a", echo.address())], "");
        let mut cart = service("cart", &[("a", backend.address())]);
        if !check.is_empty() {
            cart = cart.trim_end().to_owned() + &format!("\n  healthCheck: {check}\n");
        }
        let dials = if both_dial { &[west.tunnel][..] } else { &[] };
        let east = east.start(&[link("west", dials), cart, db]);
        let (at, unix) = (address(), mesh.dir().join("db.sock"));
        let leads = "protocol: tcp\n  service: db";
        let west = west.start(&[
            link("east", &[east.site.tunnel]),
            listener("db", &at.to_string(), leads),
            listener("local", &format!("unix:{}", unix.display()), leads),
        ]);
        west.wait_service("shop/cart", &["east"]);
        west.wait_service("shop/db", &["east"]);
        if !check.is_empty() {
            e2e::wait_until("the endpoint is checked", e2e::wait::SOON, || {
                (west.ask(&e2e::client::Request::get(CART, "/")).ok()?.status == 200).then_some(())
            });
        }
        Self { west, east, at, unix, backend, mesh }
    }

    /// So many callers of `shop/cart`, at west.
    fn traffic(&self, callers: usize) -> Traffic {
        let ask = Ask { target: "/trickle/2/10".into(), ..Ask::get(CART) };
        Traffic::start(self.west.site.http, callers, ask)
    }

    /// A sidecar in west, and where it listens for `shop/db`.
    fn sidecar(&self) -> (Sidecar, SocketAddr) {
        let mut site = SidecarSite::new(&self.mesh, "web-1", "web", &self.west.site);
        let at = address();
        site.objects = vec![listener("db", &at.to_string(), "protocol: tcp\n  service: db")];
        (site.start_up(), at)
    }
}

/// Says something and hears it again.
fn echoes(stream: &mut TcpStream, what: &[u8]) {
    stream.write_all(what).unwrap();
    assert_eq!(read(stream, what.len()), what);
}

/// A connection after the greeting.
fn greeted(at: SocketAddr) -> TcpStream {
    let mut stream = e2e::tcp::connect(at);
    assert_eq!(read(&mut stream, 2), b"hi");
    stream
}

/// Ends as both sides want it to.
fn ends_well(mut stream: TcpStream) {
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(end_of(&mut stream), End::Clean(Vec::new()));
}
