//! One name in several clusters: where they declare it differently, each keeps what is its own and both sides say so.
#![allow(clippy::unwrap_used)]

use e2e::backend::Backend;
use e2e::manifest::{link, local_first, object, policy, service};
use e2e::mesh::{Gateway, Mesh, find};
use e2e::pair::CART;
use e2e::wait::SOON;

/// East and west both serve `shop/cart`; west takes in what east exports, east nothing.
struct Two {
    west: Gateway,
    east: Gateway,
    backends: [Backend; 2],
    _mesh: Mesh,
}

impl Two {
    /// With these objects for east's service, beside its link.
    fn start(of_east: impl Fn(&Backend) -> Vec<String>, of_west: impl Fn(&Backend) -> Vec<String>) -> Self {
        let mesh = Mesh::new();
        let backends = ["east/a", "west/a"].map(Backend::start);
        let (east, west) = (mesh.site("east", &["west"]), mesh.site("west", &["east"]));
        let east = east.start(&in_east(of_east(&backends[0])));
        let west = west.start(&[vec![link("east", &[east.site.tunnel])], of_west(&backends[1])].concat());
        west.wait_peer("east", "up");
        Self { west, east, backends, _mesh: mesh }
    }

    /// Waits until both say this of `shop/cart`.
    fn wait_conflict(&self, reason: &str) {
        for (gateway, other) in [(&self.west, "east"), (&self.east, "west")] {
            gateway.wait_status(&format!("it tells of {reason}"), SOON, |status| {
                let conflict = find(&status["conditions"], "reason", reason)?;
                assert_eq!(
                    (&conflict["object"], &conflict["kind"]),
                    (&"MeshService shop/cart".into(), &"Conflict".into())
                );
                assert!(conflict["message"].as_str().unwrap().contains(&format!("`{other}`")), "{conflict}");
                Some(())
            });
        }
    }

    /// Waits until neither does any more.
    fn wait_agreement(&self, reason: &str) {
        for gateway in [&self.west, &self.east] {
            gateway.wait_status(&format!("it tells of {reason} no more"), SOON, |status| {
                find(&status["conditions"], "reason", reason).is_none().then_some(())
            });
        }
    }

    /// Gives east's service other objects.
    fn change_east(&self, objects: Vec<String>) {
        self.east.site.write(&in_east(objects));
    }
}

fn in_east(mut objects: Vec<String>) -> Vec<String> {
    // It takes nothing in, so it never sees what west declares.
    objects.push(object("Link", "west", "import: []"));
    objects
}

fn cart(backend: &Backend) -> String {
    service("cart", &[("a", backend.address())])
}

/// Who answers there, if it is answered 200.
fn served_by(gateway: &Gateway, host: &str) -> Option<String> {
    let answer = gateway.get(host, "/");
    (answer.status == 200).then(|| answer.field("x-served-by").unwrap_or_default().to_owned())
}

#[test]
fn a_peer_with_other_ports_stays_out_of_the_union_and_both_sides_say_so() {
    let other = |backend: &Backend| cart(backend).replace("port: 80,", "port: 81,");
    let two = Two::start(|backend| vec![other(backend)], |backend| vec![cart(backend)]);
    two.wait_conflict("PortsDiffer");
    assert_eq!(served_by(&two.west, CART).as_deref(), Some("west/a"));
    assert_eq!(served_by(&two.west, "cart.shop.east.mesh").as_deref(), Some("east/a"), "its first port");
    assert_eq!(served_by(&two.west, "cart.shop.east.mesh:81").as_deref(), Some("east/a"));
    assert_eq!(two.west.get("cart.shop.mesh:81", "/").status, 404);
    // Also `registry dump` shows it, where the exporter knows it by hearsay.
    let dump = two.east.admin("/v1/registry").unwrap().text();
    assert!(dump.contains("PortsDiffer") && dump.contains("keeps ours out of its union"), "{dump}");

    // The same number in another protocol is another port.
    two.change_east(vec![cart(&two.backends[0]).replace("protocol: http", "protocol: grpc")]);
    two.west.wait_status("east's port is 80 now", SOON, |status| {
        let conflict = find(&status["conditions"], "reason", "PortsDiffer")?;
        conflict["message"].as_str()?.contains("web 80 grpc").then_some(())
    });
    two.wait_conflict("PortsDiffer");

    two.change_east(vec![cart(&two.backends[0])]);
    two.west.wait_service("shop/cart", &["east", "west"]);
    two.wait_agreement("PortsDiffer");
}

#[test]
fn contracts_of_one_generation_that_differ_are_a_conflict_on_both_sides() {
    let rule = |members: &[&str]| policy("cart", &local_first(members));
    let two = Two::start(
        |backend| vec![cart(backend), rule(&["east", "west"])],
        |backend| vec![cart(backend), rule(&["west"])],
    );
    two.wait_conflict("ContractsDiffer");
    // East's, as the smaller name, serves in west.
    two.west.wait_service("shop/cart", &["east", "west"]);
    assert_eq!(served_by(&two.west, CART).as_deref(), Some("west/a"));

    let newer = rule(&["east", "west"]).replace("generation: 1", "generation: 2");
    two.change_east(vec![cart(&two.backends[0]), newer]);
    two.wait_agreement("ContractsDiffer");
}
