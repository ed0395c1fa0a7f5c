//! Manifests as text: what a user would write, with the parts that tests vary.

use std::net::SocketAddr;

/// A Link to `peer` at `addresses` (none: accept only) that joins everything it is granted to the union.
pub fn link(peer: &str, addresses: &[SocketAddr]) -> String {
    let addresses: Vec<_> = addresses.iter().map(SocketAddr::to_string).collect();
    object("Link", peer, &format!("addresses: [{}]\n  import: [{{ union: true }}]", addresses.join(", ")))
}

/// The same, where the gateways of `peer` may apply what the rules `apply` grant.
pub fn link_that_allows(peer: &str, addresses: &[SocketAddr], apply: &str) -> String {
    format!("{}  allow: {{ apply: [{apply}] }}\n", link(peer, addresses))
}

/// A MeshService `shop/NAME` with one port `web` (80), endpoints by id and address, exported to everybody.
pub fn service(name: &str, endpoints: &[(&str, SocketAddr)]) -> String {
    exported(name, endpoints, &["\"*\""])
}

/// The same, exported to the clusters named, or to nobody.
pub fn exported(name: &str, endpoints: &[(&str, SocketAddr)], to: &[&str]) -> String {
    let endpoints: Vec<_> = endpoints
        .iter()
        .map(|(id, at)| format!("{{ id: {id}, host: {}, ports: {{ web: {} }} }}", at.ip(), at.port()))
        .collect();
    let export =
        if to.is_empty() { String::new() } else { format!("\n  export: {{ to: [{}] }}", to.join(", ")) };
    let spec = format!(
        "ports: [{{ name: web, port: 80, protocol: http }}]\n  endpoints: [{}]{export}",
        endpoints.join(", ")
    );
    object("MeshService", &format!("{name}, namespace: shop"), &spec)
}

/// A MeshService `shop/NAME` with one port `main` (5432) of this protocol, endpoints by id and address, exported to
/// everybody; `port` are further fields of the port.
pub fn of_connections(name: &str, protocol: &str, endpoints: &[(&str, SocketAddr)], port: &str) -> String {
    let endpoints: Vec<_> = endpoints
        .iter()
        .map(|(id, at)| format!("{{ id: {id}, host: {}, ports: {{ main: {} }} }}", at.ip(), at.port()))
        .collect();
    let spec = format!(
        "ports: [{{ name: main, port: 5432, protocol: {protocol}{port} }}]\n  endpoints: [{}]\n  \
         export: {{ to: [\"*\"] }}",
        endpoints.join(", ")
    );
    object("MeshService", &format!("{name}, namespace: shop"), &spec)
}

/// A Listener `shop/NAME` at an address, whose spec goes on with `rest`.
pub fn listener(name: &str, address: &str, rest: &str) -> String {
    let spec = format!("address: \"{address}\"\n  {rest}");
    object("Listener", &format!("{name}, namespace: shop"), &spec)
}

/// A TrafficPolicy for `shop/NAME` whose spec goes on with `rest`, lines indented by two spaces.
pub fn policy(name: &str, rest: &str) -> String {
    object("TrafficPolicy", &format!("{name}, namespace: shop"), &format!("service: {name}\n  {rest}"))
}

/// The line of a policy that shards by the header `x-user` over `members`, each in region `us-NAME`, generation 1.
pub fn sharded(members: &[&str]) -> String {
    format!(
        "placement: {{ mode: sharded, generation: 1, members: [{}], hash: [{{ header: x-user }}] }}",
        list(members)
    )
}

/// The line of a policy that keeps to the local cluster while it is healthy, keyed by `x-user`, over `members`.
pub fn local_first(members: &[&str]) -> String {
    format!(
        "placement: {{ mode: local-first, generation: 1, members: [{}], hash: [{{ header: x-user }}] }}",
        list(members)
    )
}

fn list(members: &[&str]) -> String {
    let members: Vec<_> =
        members.iter().map(|m| format!("{{ cluster: {m}, region: us-{m}, weight: 100 }}")).collect();
    members.join(", ")
}

/// One document.
pub fn object(kind: &str, metadata: &str, spec: &str) -> String {
    format!(
        "apiVersion: ringway.dev/v1alpha1\nkind: {kind}\nmetadata: {{ name: {metadata} }}\nspec:\n  {spec}\n"
    )
}
