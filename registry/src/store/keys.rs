//! Where everything stands in a store. All of Ringway's keys begin with [`ROOT`].

use super::LeaseId;
use crate::model::{ClusterName, ServiceName};

/// The first part of every key; the number changes when neighbouring versions could misread each other's values.
pub const ROOT: &str = "/ringway/v1/";

/// The cluster's UID.
pub const CLUSTER: &str = "/ringway/v1/cluster";

/// The gateway that writes for the cluster, leased by it.
pub const LEADER: &str = "/ringway/v1/leader";

/// An office of the elected gateway, leased by it: of the process that started as `boot`, under `lease`.
pub fn office(boot: u64, lease: LeaseId) -> String {
    format!("{}{boot:016x}-{:016x}", offices(), lease.0)
}

/// All offices.
pub fn offices() -> String {
    format!("{ROOT}office/")
}

/// The original bytes of a manifest.
pub fn config(kind: &str, namespace: &str, name: &str) -> String {
    format!("{ROOT}config/{kind}/{namespace}/{name}")
}

/// Kind, namespace and name of the manifest under `key`.
pub fn config_of(key: &str) -> Option<(&str, &str, &str)> {
    object_of(key, "config/")
}

/// All manifests.
pub fn configs() -> String {
    format!("{ROOT}config/")
}

/// The status of what a manifest declares: under a key of its own, so that a status never rewrites a manifest.
pub fn status(kind: &str, namespace: &str, name: &str) -> String {
    format!("{ROOT}status/{kind}/{namespace}/{name}")
}

/// Kind, namespace and name of the object whose status stands under `key`.
pub fn status_of(key: &str) -> Option<(&str, &str, &str)> {
    object_of(key, "status/")
}

/// Every status.
pub fn statuses() -> String {
    format!("{ROOT}status/")
}

fn object_of<'k>(key: &'k str, word: &str) -> Option<(&'k str, &'k str, &'k str)> {
    let mut parts = key.strip_prefix(ROOT)?.strip_prefix(word)?.split('/');
    let found = (parts.next()?, parts.next()?, parts.next()?);
    parts.next().is_none().then_some(found)
}

/// One endpoint, leased by whoever registered it.
pub fn endpoint(service: &ServiceName, id: &str) -> String {
    format!("{}{id}", endpoints(service))
}

/// All endpoints of a service.
pub fn endpoints(service: &ServiceName) -> String {
    format!("{ROOT}endpoints/{service}/")
}

/// All endpoints of all services.
pub fn all_endpoints() -> String {
    format!("{ROOT}endpoints/")
}

/// Namespace, service and id of an endpoint's key; none: it is no such key. What they hold is not checked.
pub fn parse_endpoint(key: &str) -> Option<(&str, &str, &str)> {
    let mut parts = key.strip_prefix(ROOT)?.strip_prefix("endpoints/")?.splitn(3, '/');
    Some((parts.next()?, parts.next()?, parts.next()?))
}

/// The mirrored record of a peer's export.
pub fn import(peer: &ClusterName, service: &ServiceName) -> String {
    format!("{}{service}", imports(peer))
}

/// How far what is mirrored of a peer has come; in the range of [`all_imports`].
pub fn mirrored(peer: &ClusterName) -> String {
    format!("{ROOT}imports/{peer}")
}

/// All that is mirrored, of every peer.
pub fn all_imports() -> String {
    format!("{ROOT}imports/")
}

/// All that is mirrored of a peer.
pub fn imports(peer: &ClusterName) -> String {
    format!("{ROOT}imports/{peer}/")
}

/// A gateway of this cluster, leased by it.
pub fn gateway(id: &str) -> String {
    format!("{ROOT}gateways/{id}")
}

/// All gateways of this cluster.
pub fn gateways() -> String {
    format!("{ROOT}gateways/")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn keys_stand_where_the_design_puts_them() {
        let east = ClusterName::new("east").unwrap();
        let cart = ServiceName::new("shop", "cart").unwrap();
        assert_eq!(config("MeshService", "shop", "cart"), "/ringway/v1/config/MeshService/shop/cart");
        assert_eq!(config_of(&config("MeshService", "shop", "cart")), Some(("MeshService", "shop", "cart")));
        assert_eq!(config_of(&import(&east, &cart)), None);
        assert_eq!(status("Link", "default", "east"), "/ringway/v1/status/Link/default/east");
        assert_eq!(status_of(&status("Link", "default", "east")), Some(("Link", "default", "east")));
        assert_eq!(status_of(&config("Link", "default", "east")), None);
        assert_eq!(endpoint(&cart, "a"), "/ringway/v1/endpoints/shop/cart/a");
        // An id may hold slashes.
        for id in ["a", "10.0.0.1:80", "a/b"] {
            assert_eq!(parse_endpoint(&endpoint(&cart, id)), Some(("shop", "cart", id)));
        }
        assert_eq!(parse_endpoint(&endpoints(&cart)), Some(("shop", "cart", "")));
        assert_eq!(parse_endpoint(&import(&east, &cart)), None);
        assert_eq!(import(&east, &cart), "/ringway/v1/imports/east/shop/cart");
        assert_eq!(mirrored(&east), "/ringway/v1/imports/east");
        assert!(!mirrored(&east).starts_with(&imports(&east)) && mirrored(&east).starts_with(&all_imports()));
        assert_eq!(gateway("gw-1"), "/ringway/v1/gateways/gw-1");
        for key in [configs(), endpoints(&cart), imports(&east), gateways(), CLUSTER.into(), LEADER.into()] {
            assert!(key.starts_with(ROOT));
        }
    }

    #[test]
    fn the_range_of_one_peer_or_service_never_holds_another_whose_name_begins_alike() {
        let imports_of = |peer| imports(&ClusterName::new(peer).unwrap());
        assert!(!imports_of("east-2").starts_with(&imports_of("east")));
        let endpoints_of = |name| endpoints(&ServiceName::new("shop", name).unwrap());
        assert!(!endpoints_of("cart-2").starts_with(&endpoints_of("cart")));
    }
}
