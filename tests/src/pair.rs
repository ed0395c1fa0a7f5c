//! The smallest mesh: east serves `shop/cart`, west has no service of its own and links to east.

use crate::backend::Backend;
use crate::client::Response;
use crate::manifest::{link, policy, service};
use crate::mesh::{Gateway, Mesh, lanes};
use crate::relay::Relay;

/// The authority under which west reaches east's service.
pub const CART: &str = "cart.shop.mesh";

/// The pair; fields are dropped in this order.
#[derive(Debug)]
pub struct Pair {
    /// Where callers ask.
    pub west: Gateway,
    /// Where the service is.
    pub east: Gateway,
    /// Its endpoints: `a`, `b` and so on.
    pub backends: Vec<Backend>,
    /// The link, if it was asked to lead through one.
    pub relay: Option<Relay>,
    /// The folder of it all.
    pub mesh: Mesh,
}

/// What varies between pairs.
#[derive(Clone, Debug)]
pub struct Setup {
    /// How many endpoints.
    pub backends: usize,
    /// The spec of a TrafficPolicy in east after `service`, lines indented by two spaces; empty: none.
    pub east_policy: String,
    /// The same in west: what counts of it are `retry` and `timeout`.
    pub west_policy: String,
    /// The tunnel leads through a [`Relay`].
    pub relayed: bool,
}

impl Default for Setup {
    fn default() -> Self {
        Self { backends: 1, east_policy: String::new(), west_policy: String::new(), relayed: false }
    }
}

impl Pair {
    /// The pair with one endpoint and no policy, up.
    pub fn new() -> Self {
        Self::with(Setup::default())
    }

    /// The pair with a policy in west.
    pub fn with_west_policy(rest: &str) -> Self {
        Self::with(Setup { west_policy: rest.into(), ..Setup::default() })
    }

    /// The pair as `setup` says, up.
    pub fn with(setup: Setup) -> Self {
        let mesh = Mesh::new();
        let names = ["a", "b", "c", "d"];
        let backends: Vec<_> =
            names[..setup.backends].iter().map(|id| Backend::start(&format!("east/{id}"))).collect();
        let endpoints: Vec<_> = names.into_iter().zip(backends.iter().map(Backend::address)).collect();
        let (east, west) = (mesh.site("east", &["west"]), mesh.site("west", &["east"]));

        let with_policy = |mut objects: Vec<String>, rest: &str| {
            if !rest.is_empty() {
                objects.push(policy("cart", rest));
            }
            objects
        };
        let east = east
            .start(&with_policy(vec![link("west", &[]), service("cart", &endpoints)], &setup.east_policy));
        let relay = setup.relayed.then(|| Relay::start(east.site.tunnel, 1));
        let dialled = relay.as_ref().map_or(east.site.tunnel, Relay::address);
        let west = west.start(&with_policy(vec![link("east", &[dialled])], &setup.west_policy));
        west.wait_service("shop/cart", &["east"]);
        east.wait_peer("west", "up");
        // Counted by tests: none may come later. A relay is one of UDP alone.
        let tcp = usize::from(relay.is_none());
        west.wait_tunnels("east", lanes(), tcp);
        east.wait_tunnels("west", lanes(), tcp);
        Self { west, east, backends, relay, mesh }
    }

    /// The first endpoint.
    pub fn backend(&self) -> &Backend {
        &self.backends[0]
    }

    /// The relay of a pair that was asked to have one.
    ///
    /// # Panics
    /// When it was not.
    pub fn relay(&self) -> &Relay {
        self.relay.as_ref().expect("this pair was set up with `relayed`")
    }

    /// A GET of `target` from the service, at west.
    pub fn get(&self, target: &str) -> Response {
        self.west.get(CART, target)
    }
}

impl Default for Pair {
    fn default() -> Self {
        Self::new()
    }
}
