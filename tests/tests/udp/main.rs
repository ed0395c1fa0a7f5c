//! Flows of datagrams: between clusters, from sidecars, and what becomes of them when things fail.
#![allow(clippy::unwrap_used)]

mod flows;
mod real;

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use e2e::manifest::{link, listener, of_connections, policy};
use e2e::mesh::{Gateway, Mesh};
use e2e::port::free_port;
use e2e::sidecar::{Sidecar, SidecarSite};

/// How long an answer may take, before whoever asks asks again.
const PATIENCE: Duration = Duration::from_millis(500);

fn address() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, free_port()).into()
}

/// East serves `shop/dns`, west listens for it.
struct World {
    west: Gateway,
    _east: Gateway,
    /// Where west listens.
    at: SocketAddr,
    mesh: Mesh,
}

impl World {
    fn new(endpoint: SocketAddr) -> Self {
        Self::with(&[("a", endpoint)], "")
    }

    /// With endpoints, and lines of a policy in west.
    fn with(endpoints: &[(&str, SocketAddr)], west_policy: &str) -> Self {
        let mesh = Mesh::new();
        let (east, west) = (mesh.site("east", &["west"]), mesh.site("west", &["east"]));
        let east = east.start(&[link("west", &[]), of_connections("dns", "udp", endpoints, "")]);
        let at = address();
        let mut objects = vec![
            link("east", &[east.site.tunnel]),
            listener("dns", &at.to_string(), "protocol: udp\n  service: dns"),
        ];
        if !west_policy.is_empty() {
            objects.push(policy("dns", west_policy));
        }
        let west = west.start(&objects);
        west.wait_service("shop/dns", &["east"]);
        Self { west, _east: east, at, mesh }
    }

    /// A sidecar in west, and where it listens for `shop/dns`.
    fn sidecar(&self) -> (Sidecar, SocketAddr) {
        let mut site = SidecarSite::new(&self.mesh, "web-1", "web", &self.west.site);
        let at = address();
        site.objects = vec![listener("dns", &at.to_string(), "protocol: udp\n  service: dns")];
        (site.start_up(), at)
    }
}

/// Sends back what it gets, behind its name; its thread ends with the process.
struct Echo {
    address: SocketAddr,
    /// Sources that it has heard, one after the other.
    sources: Arc<AtomicUsize>,
}

impl Echo {
    fn start(name: &'static str) -> Self {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = socket.local_addr().unwrap();
        let sources = Arc::<AtomicUsize>::default();
        let heard = sources.clone();
        std::thread::spawn(move || {
            let (mut buffer, mut last) = (vec![0; 65_535], None);
            while let Ok((count, from)) = socket.recv_from(&mut buffer) {
                if last.replace(from) != Some(from) {
                    heard.fetch_add(1, Ordering::Relaxed);
                }
                // Too large with the name it is without.
                let named = [name.as_bytes(), &buffer[..count]].concat();
                let answer = if named.len() > 65_000 { &buffer[..count] } else { &named[..] };
                let _ = socket.send_to(answer, from);
            }
        });
        Self { address, sources }
    }
}

/// A caller with a socket of its own.
fn caller(to: SocketAddr) -> UdpSocket {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    socket.connect(to).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

/// Asks, and gives the answer, if one comes.
fn ask(socket: &UdpSocket, datagram: &[u8]) -> Option<Vec<u8>> {
    // An error may be what came of an earlier one.
    socket.send(datagram).ok()?;
    let mut buffer = vec![0; 65_535];
    let count = socket.recv(&mut buffer).ok()?;
    Some(buffer[..count].to_vec())
}
