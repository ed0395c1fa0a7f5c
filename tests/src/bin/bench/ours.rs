//! Our own chains.

use std::net::SocketAddr;

use e2e::manifest::{link, listener, of_connections, policy, service, sharded};
use e2e::mesh::{Gateway, Mesh, Site};
use e2e::sidecar::{Sidecar, SidecarSite};

use crate::chain::{Chain, KEY_HEADER, KEYS, free_address};

/// Services that are declared beside the two that are asked for, so that memory at rest is not that of an empty mesh.
const OTHERS: usize = 8;

/// Two linked gateways that carry connections and datagrams as they are: west listens, east has the endpoints.
#[derive(Debug)]
pub(crate) struct Carried {
    west: Gateway,
    east: Gateway,
    /// Where connections are taken, and datagrams.
    pub(crate) tcp: SocketAddr,
    pub(crate) udp: SocketAddr,
    _mesh: Mesh,
}

impl Carried {
    /// Starts them with so many workers each, and waits until they have linked.
    pub(crate) fn start(workers: u8, tcp_endpoint: SocketAddr, udp_endpoint: SocketAddr) -> Self {
        let mesh = Mesh::new();
        let (east, west) = (mesh.site("east", &["west"]), mesh.site("west", &["east"]));
        let workers = workers.to_string();
        let start = |site: Site, objects: &[String]| {
            site.write(objects);
            let gateway = site.spawn_with(["--workers", &workers]);
            gateway.wait_ready();
            gateway
        };
        let east = start(
            east,
            &[
                link("west", &[]),
                of_connections("db", "tcp", &[("e", tcp_endpoint)], ""),
                of_connections("dns", "udp", &[("e", udp_endpoint)], ""),
            ],
        );
        let (tcp, udp) = (free_address(), free_address());
        let west = start(
            west,
            &[
                link("east", &[east.site.tunnel]),
                listener("db", &tcp.to_string(), "protocol: tcp\n  service: db"),
                listener("dns", &udp.to_string(), "protocol: udp\n  service: dns"),
            ],
        );
        west.wait_service("shop/db", &["east"]);
        west.wait_service("shop/dns", &["east"]);
        Self { west, east, tcp, udp, _mesh: mesh }
    }

    /// The way of connections through both.
    pub(crate) fn chain(&self, name: &'static str) -> Chain {
        let pids = vec![self.west.process.pid(), self.east.process.pid()];
        Chain { name, address: self.tcp, host: "cart.shop.mesh", keys: 0, pids }
    }
}

/// Two linked gateways: west takes the requests, east has the backend.
#[derive(Debug)]
pub(crate) struct Gateways {
    west: Gateway,
    east: Gateway,
    mesh: Mesh,
}

impl Gateways {
    /// Starts them with so many workers each, and waits until they have linked.
    pub(crate) fn start(workers: u8, backend: SocketAddr) -> Self {
        let mesh = Mesh::new();
        let (east, west) = (mesh.site("east", &["west"]), mesh.site("west", &["east"]));
        let endpoint = [("e", backend)];
        let keyed = sharded(&["east", "west"]).replace("x-user", KEY_HEADER);
        let mut objects = vec![
            link("west", &[]),
            service("cart", &endpoint),
            service("keyed", &endpoint),
            policy("keyed", &keyed),
        ];
        objects.extend((0..OTHERS).map(|n| service(&format!("other-{n}"), &endpoint)));
        let workers = workers.to_string();
        let start = |site: Site, objects: &[String]| {
            site.write(objects);
            let gateway = site.spawn_with(["--workers", &workers]);
            gateway.wait_ready();
            gateway
        };
        let east = start(east, &objects);
        let west = start(west, &[link("east", &[east.site.tunnel])]);
        west.wait_service("shop/cart", &["east"]);
        west.wait_service("shop/keyed", &["east"]);
        Self { west, east, mesh }
    }

    /// The way through both, without keys.
    pub(crate) fn plain(&self, name: &'static str) -> Chain {
        self.chain(name, "cart.shop.mesh", 0)
    }

    /// The way through both, placed by the key of each request.
    pub(crate) fn keyed(&self, name: &'static str) -> Chain {
        self.chain(name, "keyed.shop.mesh", KEYS)
    }

    /// A sidecar beside the caller, and the way through it and both.
    pub(crate) fn with_sidecar(&self, name: &'static str) -> (Chain, Sidecar) {
        let sidecar = SidecarSite::new(&self.mesh, "cart-1", "cart", &self.west.site).start_up();
        let mut chain = self.plain(name);
        chain.address = sidecar.site.proxy;
        chain.pids.push(sidecar.process.pid());
        (chain, sidecar)
    }

    fn chain(&self, name: &'static str, host: &'static str, keys: u32) -> Chain {
        let pids = vec![self.west.process.pid(), self.east.process.pid()];
        Chain { name, address: self.west.site.http, host, keys, pids }
    }
}
