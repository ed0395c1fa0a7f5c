//! A service that two clusters serve, reached by each way there is: through a gateway and through a sidecar, over QUIC and,
//! where UDP is blocked, over TCP, before and after the loss of a gateway: one that dies, and one that is cut off.

use std::net::{Ipv4Addr, SocketAddr};

use crate::manifest::{link, listener, of_connections};
use crate::mesh::{Gateway, Mesh};
use crate::port::free_port;
use crate::relay::Relay;
use crate::sidecar::{Sidecar, SidecarSite};
use crate::stream_relay::StreamRelay;

/// What is served, and how callers reach it.
pub struct Form {
    /// `namespace/name` of the service.
    pub name: String,
    /// Its manifest.
    pub service: String,
    /// The listeners for it at an address.
    pub listens: Box<dyn Fn(SocketAddr) -> Vec<String>>,
}

/// How the gateway of one of the clusters is lost.
#[derive(Clone, Copy, Debug)]
pub enum Loss {
    /// It dies, and its host says so.
    Killed,
    /// Nothing gets through to it or back, and nobody says so.
    Cut,
}

/// East and north serve it, west asks.
pub struct Ways {
    /// Where callers are.
    pub west: Gateway,
    /// One of the two that serve.
    pub east: Gateway,
    /// The other one.
    pub north: Gateway,
    /// Where west listens.
    pub at: SocketAddr,
    /// In front of east, and of north.
    relays: [(Relay, StreamRelay); 2],
    mesh: Mesh,
}

impl Form {
    /// A service `shop/db` whose one port speaks `protocol`, with one endpoint, and a listener of that.
    pub fn of(protocol: &'static str, endpoint: SocketAddr) -> Self {
        let leads = format!("protocol: {protocol}\n  service: db");
        Self {
            name: "shop/db".into(),
            service: of_connections("db", protocol, &[("a", endpoint)], ""),
            listens: Box::new(move |at| vec![listener("db", &at.to_string(), &leads)]),
        }
    }

    /// A service `shop/cart`, as this manifest has it, for callers of HTTP, and a listener for names of the mesh.
    pub fn of_http(service: String) -> Self {
        let listens = |at: SocketAddr| vec![listener("web", &at.to_string(), "protocol: http")];
        Self { name: "shop/cart".into(), service, listens: Box::new(listens) }
    }
}

impl Ways {
    /// All up; `blocked`: over TCP alone.
    ///
    /// # Panics
    /// When something does not come up.
    pub fn new(form: &Form, blocked: bool) -> Self {
        let mesh = Mesh::new();
        let [west, east, north] =
            [("west", &["east", "north"][..]), ("east", &["west"]), ("north", &["west"])]
                .map(|(name, peers)| mesh.site(name, peers));
        let serves = [link("west", &[]), form.service.clone()];
        let (east, north) = (east.start(&serves), north.start(&serves));
        let relays = [&east, &north].map(|gateway| StreamRelay::beside_udp(gateway.site.tunnel));
        if blocked {
            relays.iter().for_each(|(udp, _)| udp.cut());
        }
        let [to_east, to_north] = [0, 1].map(|n: usize| relays[n].0.address());
        let at = (Ipv4Addr::LOCALHOST, free_port()).into();
        let links = vec![link("east", &[to_east]), link("north", &[to_north])];
        let west = west.start(&[links, (form.listens)(at)].concat());
        west.wait_service(&form.name, &["east", "north"]);
        Self { west, east, north, at, relays, mesh }
    }

    /// Loses the gateway of east; west may not know it yet.
    pub fn lose_east(&mut self, loss: Loss) {
        match loss {
            Loss::Killed => self.east.process.kill(),
            Loss::Cut => {
                let (udp, tcp) = &self.relays[0];
                udp.cut();
                tcp.silence();
            }
        }
    }

    /// A sidecar in west, of the workload `shop/web`, and where it listens.
    pub fn sidecar(&self, form: &Form) -> (Sidecar, SocketAddr) {
        let mut site = SidecarSite::new(&self.mesh, "web-1", "web", &self.west.site);
        let at = (Ipv4Addr::LOCALHOST, free_port()).into();
        site.objects = (form.listens)(at);
        (site.start_up(), at)
    }
}

/// Tries every way, and again when the gateway of one of the two clusters is lost.
pub fn each_way(form: &Form, try_at: impl Fn(SocketAddr)) {
    for (blocked, loss) in [(false, Loss::Killed), (false, Loss::Cut), (true, Loss::Cut)] {
        let mut ways = Ways::new(form, blocked);
        let (_sidecar, sidecar) = ways.sidecar(form);
        for way in [ways.at, sidecar] {
            try_at(way);
        }
        ways.lose_east(loss);
        ways.west.wait_peer("east", "down");
        for way in [ways.at, sidecar] {
            try_at(way);
        }
    }
}
