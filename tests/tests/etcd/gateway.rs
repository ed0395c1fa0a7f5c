//! A gateway whose manifest names an etcd.

use std::path::Path;

use e2e::backend::Backend;
use e2e::etcd::Etcd;
use e2e::manifest::{link, service};
use e2e::mesh::Mesh;
use registry::model::EtcdOptions;
use registry::store::etcd::EtcdStore;
use registry::store::{Store, StoreError, keys};

use super::access::{Authority, server};
use super::{open, options};

/// Waits until the store has the import of east's service.
async fn imported(store: &EtcdStore, name: &str) {
    let key = format!("{}imports/east/shop/{name}", keys::ROOT);
    let there = async || store.get(&key).await?.ok_or(StoreError::Closed);
    super::until_answered("the import is stored", there).await;
}

pub(crate) async fn keeps_it_there(binary: &Path) {
    let authority = Authority::new();
    let mut etcd = Etcd::start_with(binary, 1, |dir| server(&authority, dir));
    let mesh = Mesh::new();
    let backend = Backend::start("east/a");
    let (east, west) = (mesh.site("east", &["west"]), mesh.site("west", &["east"]));
    let cart = |name: &str| service(name, &[("a", backend.address())]);
    let east = east.start(&[link("west", &[]), cart("cart")]);

    // Relative paths count from the file.
    let tls = authority.sign(west.dir.join("pki-etcd"), "gw-1.west");
    let registry = format!(
        "  registry:\n    etcd: {{ endpoints: [\"{}\"], prefix: /acme/west, tls: {{ directory: pki-etcd }} }}\n",
        etcd.endpoints()[0]
    );
    let objects = [west.manifest() + &registry, link("east", &[east.site.tunnel])];
    std::fs::write(west.file(), objects.join("---\n")).unwrap();
    let west = west.spawn();
    west.wait_ready();
    west.wait_service("shop/cart", &["east"]);
    let store = open(EtcdOptions { prefix: "/acme/west".into(), tls: Some(tls), ..options(&etcd) });
    imported(&store, "cart").await;
    let dump: serde_json::Value =
        serde_json::from_slice(&west.admin("/v1/registry").expect("it answers").body).unwrap();
    let stored = dump["stored"].as_array().unwrap();
    assert!(stored.iter().any(|entry| entry["key"] == "/ringway/v1/imports/east/shop/cart"), "{stored:?}");

    // Requests need no etcd, and what came meanwhile is there once it is back.
    etcd.kill(0);
    east.site.write(&[link("west", &[]), cart("cart"), cart("late")]);
    west.wait_service("shop/late", &["east"]);
    assert_eq!(west.get("cart.shop.mesh", "/").status, 200);
    etcd.restart(0);
    imported(&store, "late").await;
}
