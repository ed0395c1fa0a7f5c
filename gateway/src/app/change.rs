//! The difference between two declared states: what of it may be taken at run time, and what it is, object by object.
//!
//! Pure.

use std::fmt::{self, Display};
use std::sync::Arc;

use registry::base::shared_map::SharedMap;
use registry::model::{ClusterName, Declared, Gateway, Link, Listener};

/// One object that differs.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) what: What,
    /// `Kind name`.
    pub(super) object: String,
}

/// How it differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum What {
    Added,
    Changed,
    Removed,
}

impl Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Added => "added",
            Self::Changed => "changed",
            Self::Removed => "removed",
        })
    }
}

/// The fields of the Gateway that differ. All of it is read at the start: sockets are bound, names are in certificates
/// and in what peers remember.
pub(super) fn needs_restart(before: &Gateway, after: &Gateway) -> Vec<&'static str> {
    let fields = [
        ("metadata.name", before.id == after.id),
        ("spec.cluster", before.cluster == after.cluster),
        ("spec.region", before.region == after.region),
        ("spec.trustDomain", before.trust_domain == after.trust_domain),
        ("spec.identity", before.identity_dir == after.identity_dir),
        ("spec.state", before.state_dir == after.state_dir),
        ("spec.registry", before.registry == after.registry),
        ("spec.listen", before.listen == after.listen),
        ("spec.advertise", before.advertise == after.advertise),
        ("spec.domain", before.domain == after.domain),
    ];
    let differ: Vec<_> = fields.into_iter().filter(|(_, same)| !same).map(|(field, _)| field).collect();
    if differ.is_empty() && before != after { vec!["spec"] } else { differ }
}

/// What differs between two declared states, in order of kind and name.
pub(super) fn changes(before: &Declared, after: &Declared) -> Vec<Change> {
    let mut changes = Vec::new();
    compare("Link", &links(before), &links(after), &mut changes);
    compare("Listener", &listeners(before), &listeners(after), &mut changes);
    compare("MeshService", &before.services, &after.services, &mut changes);
    compare("TrafficPolicy for", &before.policies, &after.policies, &mut changes);
    changes
}

/// The links, as [`compare`] takes them.
fn links(declared: &Declared) -> SharedMap<ClusterName, Link> {
    declared.links.iter().map(|(cluster, link)| (cluster.clone(), link.clone())).collect()
}

/// The listeners, as [`compare`] takes them.
fn listeners(declared: &Declared) -> SharedMap<String, Arc<Listener>> {
    let named = |listener: &Arc<Listener>| format!("{}/{}", listener.namespace, listener.name);
    declared.listeners.values().map(|listener| (named(listener), listener.clone())).collect()
}

fn compare<K: Ord + Display, V: PartialEq>(
    kind: &str,
    before: &SharedMap<K, V>,
    after: &SharedMap<K, V>,
    changes: &mut Vec<Change>,
) {
    changes.extend(after.differing(before, V::eq).map(|name| {
        let what = match (before.contains_key(name), after.contains_key(name)) {
            (false, _) => What::Added,
            (true, true) => What::Changed,
            (true, false) => What::Removed,
        };
        Change { what, object: format!("{kind} {name}") }
    }));
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use registry::manifest::{Manifests, Source, parse};

    use super::*;

    const GATEWAY: &str = "
apiVersion: ringway.dev/v1alpha1
kind: Gateway
metadata: { name: gw-1 }
spec:
  cluster: west
  region: us-west
  trustDomain: acme.example
  identity: { directory: pki }
  state: { directory: state }
";
    const EAST: &str = "
---
apiVersion: ringway.dev/v1alpha1
kind: Link
metadata: { name: east }
spec: { addresses: [127.0.0.1:8443] }
";
    const CART: &str = "
---
apiVersion: ringway.dev/v1alpha1
kind: MeshService
metadata: { name: cart, namespace: shop }
spec:
  ports: [{ name: web, port: 80, protocol: http }]
  endpoints: [{ id: a, host: 127.0.0.1, ports: { web: 9001 } }]
";
    const POLICY: &str = "
---
apiVersion: ringway.dev/v1alpha1
kind: TrafficPolicy
metadata: { name: cart, namespace: shop }
spec: { service: cart, timeout: { head: 2s } }
";

    fn read(text: &str) -> Manifests {
        parse(&[Source { name: "west.yaml".into(), text: text.into() }]).unwrap()
    }

    fn told(before: &str, after: &str) -> Vec<String> {
        let changes = changes(&read(before).declared, &read(after).declared);
        changes.iter().map(|change| format!("{} {}", change.object, change.what)).collect()
    }

    #[test]
    fn objects_that_come_go_and_change_are_named() {
        let all = format!("{GATEWAY}{EAST}{CART}{POLICY}");
        assert_eq!(told(&all, &all), [""; 0]);
        assert_eq!(
            told(GATEWAY, &all),
            ["Link east added", "MeshService shop/cart added", "TrafficPolicy for shop/cart added"]
        );
        assert_eq!(told(&all, &format!("{GATEWAY}{CART}{POLICY}")), ["Link east removed"]);
        let other = all.replace("9001", "9002").replace("head: 2s", "head: 3s").replace("8443", "8444");
        assert_eq!(
            told(&all, &other),
            ["Link east changed", "MeshService shop/cart changed", "TrafficPolicy for shop/cart changed"]
        );
    }

    #[test]
    fn how_it_is_written_is_no_change() {
        let all = format!("{GATEWAY}{EAST}{CART}{POLICY}");
        let commented = all.replace("---\n", "---\n# a comment\n").replace("head: 2s", "head: 2000ms");
        assert_eq!(told(&all, &commented), [""; 0]);
    }

    #[test]
    fn the_gateway_itself_is_read_at_the_start_only() {
        let restart = |from: &str, to: &str| {
            let gateway = |text: &str| read(text).gateway.unwrap();
            needs_restart(&gateway(GATEWAY), &gateway(&GATEWAY.replace(from, to)))
        };
        assert!(restart("gw-1", "gw-1").is_empty());
        assert_eq!(restart("name: gw-1", "name: gw-2"), ["metadata.name"]);
        assert_eq!(restart("cluster: west", "cluster: north"), ["spec.cluster"]);
        assert_eq!(restart("acme", "other"), ["spec.trustDomain"]);
        assert_eq!(restart("{ directory: state }", "{ directory: elsewhere }"), ["spec.state"]);
        let etcd = "region: us-west\n  registry: { etcd: { endpoints: [http://127.0.0.1:2379] } }";
        assert_eq!(restart("region: us-west", etcd), ["spec.registry"]);
        let listen = "region: us-west\n  listen: { http: 127.0.0.1:7481 }";
        assert_eq!(restart("region: us-west", listen), ["spec.listen"]);
    }
}
