//! Three clusters that all serve `shop/cart` with two endpoints each, linked all to all.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::backend::Backend;
use crate::client::Request;
use crate::manifest::{link, policy, service};
use crate::mesh::{Gateway, Mesh};
use crate::pair::CART;
use crate::process::cli;

/// Their names.
pub const CLUSTERS: [&str; 3] = ["east", "north", "west"];

/// The three; fields are dropped in this order.
#[derive(Debug)]
pub struct Trio {
    /// By cluster.
    pub gateways: BTreeMap<&'static str, Gateway>,
    /// By cluster: endpoints `a` and `b`.
    pub backends: BTreeMap<&'static str, [Backend; 2]>,
    /// The folder of it all.
    pub mesh: Mesh,
}

impl Trio {
    /// With this policy everywhere, up.
    pub fn start(rest: &str) -> Self {
        Self::with_callers(rest, &[])
    }

    /// The same, where clusters that only ask may link to them.
    pub fn with_callers(rest: &str, callers: &[&str]) -> Self {
        let peers = [&CLUSTERS, callers].concat();
        let mesh = Mesh::new();
        let backends: BTreeMap<_, _> =
            CLUSTERS.map(|c| (c, ["a", "b"].map(|id| Backend::start(&format!("{c}/{id}"))))).into();
        let sites = CLUSTERS.map(|c| mesh.site(c, &peers));
        let gateways: BTreeMap<_, _> = CLUSTERS
            .iter()
            .zip(&sites)
            .map(|(&cluster, site)| {
                let peers = sites.iter().filter(|s| s.cluster != cluster);
                let mut objects: Vec<_> = peers.map(|s| link(&s.cluster, &[s.tunnel])).collect();
                objects.extend(callers.iter().map(|caller| link(caller, &[])));
                let [a, b] = &backends[cluster];
                objects.push(service("cart", &[("a", a.address()), ("b", b.address())]));
                objects.push(policy("cart", rest));
                (cluster, site.start(&objects))
            })
            .collect();
        let trio = Self { gateways, backends, mesh };
        trio.wait_all();
        trio
    }

    /// Waits until every gateway places `shop/cart` on all three.
    pub fn wait_all(&self) {
        for gateway in self.gateways.values() {
            gateway.wait_service("shop/cart", &CLUSTERS);
        }
    }

    /// The gateway of `cluster`, to end it and start it again.
    ///
    /// # Panics
    /// When there is no such cluster.
    pub fn gateway(&mut self, cluster: &str) -> &mut Gateway {
        self.gateways.get_mut(cluster).expect("one of the three clusters")
    }

    /// What `ringway ring locate` says at `cluster` of a key.
    ///
    /// # Panics
    /// When it does not work.
    pub fn locate(&self, cluster: &str, key: &str) -> Value {
        let admin = self.gateways[cluster].site.admin.to_string();
        let args = ["ring", "locate", "shop/cart", key, "--admin", &admin, "-o", "json"];
        let said = cli(self.mesh.dir(), &args);
        assert_eq!(said.code, Some(0), "{said:?}");
        serde_json::from_str(&said.out).expect("`-o json` gives JSON")
    }

    /// The clusters that serve a key, its owner first.
    pub fn near(&self, key: &str) -> Vec<String> {
        let near = self.locate("west", key)["near"].clone();
        let names = near.as_array().into_iter().flatten().filter_map(Value::as_str);
        names.map(String::from).collect()
    }

    /// The cluster that answers a key asked for at `cluster`.
    ///
    /// # Panics
    /// When none does.
    pub fn served_by(&self, cluster: &str, key: &str) -> String {
        let answer = self.gateways[cluster].ask(&Request::get(CART, "/").with("x-user", key));
        let answer = answer.unwrap_or_else(|e| panic!("{key} at {cluster}: {e:?}"));
        assert_eq!(answer.status, 200, "{key} at {cluster}");
        cluster_of(answer.field("x-served-by").unwrap_or_default()).to_owned()
    }
}

/// The cluster of a server that calls itself `CLUSTER/ENDPOINT`.
pub fn cluster_of(server: &str) -> &str {
    server.split('/').next().unwrap_or_default()
}
