//! Two gateways of one cluster on one etcd: west, linked to east, which serves `shop/cart`.

use serde_json::Value;

use crate::backend::Backend;
use crate::etcd::{ETCD_SOON, Etcd, of_the_system};
use crate::manifest::{link, service};
use crate::mesh::{Gateway, Mesh, Site};
use crate::stored::Stored;
use crate::wait::wait_until;

/// The duo; fields are dropped in this order.
#[derive(Debug)]
pub struct Duo {
    /// What stands in the etcd.
    pub stored: Stored,
    /// The gateway of west that was elected at first.
    pub first: Gateway,
    /// The other one.
    pub second: Gateway,
    /// Where the service is.
    pub east: Gateway,
    /// Its endpoint.
    pub backend: Backend,
    /// What both of west share.
    pub etcd: Etcd,
    /// The folder of it all.
    pub mesh: Mesh,
}

impl Duo {
    /// On the system's etcd of one member, up.
    pub fn new() -> Self {
        Self::on(Etcd::start(&of_the_system(), 1))
    }

    /// On `etcd`, up.
    pub fn on(etcd: Etcd) -> Self {
        let stored = Stored::of(&etcd);
        let mesh = Mesh::new();
        let backend = Backend::start("east/a");
        let east = mesh.site("east", &["west"]);
        let sites = ["gw-1", "gw-2"].map(|id| mesh.site_of("west", id, &["east"], &etcd));
        let east = east.start(&[link("west", &[]), service("cart", &[("a", backend.address())])]);
        let start = |site: &Site| {
            let gateway = site.start(&[link("east", &[east.site.tunnel])]);
            gateway.wait_service("shop/cart", &["east"]);
            gateway
        };
        let mut first = start(&sites[0]);
        let mut second = start(&sites[1]);
        // On a busy machine a lease may lapse, and the other be elected.
        let elected = wait_until("one is elected, the other a member", ETCD_SOON, || {
            let statuses = [first.status()?, second.status()?];
            match [standing(&statuses[0]), standing(&statuses[1])] {
                ["elected", "member"] => Some(0),
                ["member", "elected"] => Some(1),
                _ => None,
            }
        });
        if elected == 1 {
            std::mem::swap(&mut first, &mut second);
        }
        stored.wait_import("shop/cart");
        Self { stored, first, second, east, backend, etcd, mesh }
    }

    /// Both gateways of west.
    pub fn west(&self) -> [&Gateway; 2] {
        [&self.first, &self.second]
    }

    /// East serves `shop/cart` and `shop/NAME` from now on.
    pub fn serve(&self, name: &str) {
        let endpoint = [("a", self.backend.address())];
        self.east.site.write(&[link("west", &[]), service("cart", &endpoint), service(name, &endpoint)]);
        self.east.process.hang_up();
    }

    /// Waits until both gateways of west place `shop/NAME` on east.
    pub fn wait_service(&self, name: &str) {
        self.west().into_iter().for_each(|gateway| gateway.wait_service(&format!("shop/{name}"), &["east"]));
    }

    /// Waits until one of west is elected.
    ///
    /// # Panics
    /// When none ever is.
    pub fn wait_elected(&self) {
        wait_until("one of them is elected", ETCD_SOON, || {
            let statuses = self.west().map(Gateway::status);
            statuses.iter().flatten().any(|status| standing(status) == "elected").then_some(())
        });
    }
}

impl Default for Duo {
    fn default() -> Self {
        Self::new()
    }
}

/// How a gateway stands in its cluster, by its status.
pub fn standing(status: &Value) -> &str {
    status["registry"]["standing"].as_str().unwrap_or_default()
}

/// Waits until it stands so.
pub fn wait_standing(gateway: &Gateway, wanted: &str) {
    gateway.wait_status(&format!("{} is {wanted}", gateway.site.gateway), ETCD_SOON, |status| {
        (standing(status) == wanted).then_some(())
    });
}

/// Waits until the store has answered it anew: it is a member, or elected.
pub fn wait_answered(gateway: &Gateway) {
    gateway.wait_status(&format!("{} has a lease", gateway.site.gateway), ETCD_SOON, |status| {
        (status["registry"]["up"] == true).then_some(())
    });
}
