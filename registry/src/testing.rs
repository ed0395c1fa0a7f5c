//! What tests are made of, here and in the gateway. Only with the feature `testing`.
#![allow(clippy::expect_used, clippy::missing_panics_doc)]

use crate::model::{ClusterName, EXPIRE_AFTER, HostPort, Link, ServiceName};

/// The cluster of this name.
pub fn cluster(name: &str) -> ClusterName {
    ClusterName::new(name).expect("a name of a test")
}

/// `shop/cart`.
pub fn cart() -> ServiceName {
    ServiceName::new("shop", "cart").expect("a name of a test")
}

/// A Link to a cluster that imports nothing and names no address.
pub fn link(to: &str) -> Link {
    Link {
        cluster: cluster(to),
        addresses: Vec::new(),
        trust_domain: "acme.example".into(),
        import: Vec::new(),
        expire_after: EXPIRE_AFTER,
        congestion: crate::model::Congestion::default(),
        max_rate: None,
        allow_apply: Vec::new(),
    }
}

/// This port of loopback.
pub fn loopback(port: u16) -> HostPort {
    HostPort { host: "127.0.0.1".into(), port }
}
