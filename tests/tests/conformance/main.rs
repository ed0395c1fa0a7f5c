//! What HTTP asks of a server and an intermediary, a row for each rule with its section, through a gateway and a sidecar.
#![allow(clippy::unwrap_used)]

mod http1;
mod http2;

use std::net::SocketAddr;

use e2e::pair::Pair;
use e2e::sidecar::{Sidecar, SidecarSite};

/// Where callers speak HTTP.
struct World {
    sidecar: Sidecar,
    pair: Pair,
}

impl World {
    fn new() -> Self {
        let pair = Pair::new();
        let sidecar = SidecarSite::new(&pair.mesh, "web-1", "web", &pair.west.site).start_up();
        Self { sidecar, pair }
    }

    /// A gateway that asks another, the one that has the endpoint, and a sidecar.
    fn fronts(&self) -> [SocketAddr; 3] {
        [self.pair.west.site.http, self.pair.east.site.http, self.sidecar.site.proxy]
    }
}
