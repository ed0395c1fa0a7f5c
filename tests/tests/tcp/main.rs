//! Connections that are carried as such: between clusters, from sidecars, and what becomes of them when things fail.
#![allow(clippy::unwrap_used)]

mod bytes;
mod first;
mod listeners;
mod places;
mod real;
mod sidecars;

use std::net::{Ipv4Addr, SocketAddr};

use e2e::manifest::{link, listener, of_connections, policy};
use e2e::mesh::{Gateway, Mesh};
use e2e::port::free_port;
use e2e::sidecar::{Sidecar, SidecarSite};
use e2e::tcp::Server;

/// East serves `shop/db`, west listens for it.
struct World {
    west: Gateway,
    east: Gateway,
    /// Where west listens.
    at: SocketAddr,
    mesh: Mesh,
}

fn address() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, free_port()).into()
}

impl World {
    /// With one endpoint.
    fn new(server: &Server) -> Self {
        Self::at(server.address())
    }

    /// With the one endpoint at `address`.
    fn at(address: SocketAddr) -> Self {
        Self::with(&[("a", address)], "", "")
    }

    /// With endpoints, further fields of their port, and lines of a policy in west.
    fn with(endpoints: &[(&str, SocketAddr)], port: &str, west_policy: &str) -> Self {
        let mesh = Mesh::new();
        let (east, west) = (mesh.site("east", &["west"]), mesh.site("west", &["east"]));
        let east = east.start(&[link("west", &[]), of_connections("db", "tcp", endpoints, port)]);
        let at = address();
        let mut objects = vec![
            link("east", &[east.site.tunnel]),
            listener("db", &at.to_string(), "protocol: tcp\n  service: db"),
        ];
        if !west_policy.is_empty() {
            objects.push(policy("db", west_policy));
        }
        let west = west.start(&objects);
        west.wait_service("shop/db", &["east"]);
        Self { west, east, at, mesh }
    }
}

impl World {
    /// A sidecar in west, of the workload `shop/web`, and where it listens for `shop/db`.
    fn sidecar(&self) -> (Sidecar, SocketAddr) {
        let mut site = SidecarSite::new(&self.mesh, "web-1", "web", &self.west.site);
        let at = address();
        site.objects = vec![listener("db", &at.to_string(), "protocol: tcp\n  service: db")];
        (site.start_up(), at)
    }
}
