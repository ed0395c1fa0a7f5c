//! What is declared and what exists: manifests, the model, stores, export and mirror.
//!
//! Knows nothing of requests, tunnels or rings.
//!
//! | group | is |
//! |---|---|
//! | [`base`] | audit lines, error chains, rates, maps that share their unchanged parts |
//! | [`model`] | what is declared and mirrored, as types |
//! | [`manifest`] | what was written, read strictly |
//! | [`pure`] | what follows from both: time and randomness come in as parameters, what is to be written comes out |
//! | [`store`] | where it is kept: in memory, in a file, in etcd |
//! | [`tasks`] | what runs: election, leases, what follows the store and what is written to it |
//!
//! # The life of an update
//!
//! [`manifest`] reads what was declared, and [`pure::sources`] joins it where it comes from several places. [`pure::export`] holds
//! what of it is granted to peers, and a feed per peer tells it what is new. The peer's [`pure::mirror`] folds that into its
//! imports, and [`pure::union`] derives from declarations and imports what every name means there.
//!
//! ```
//! use std::sync::Arc;
//!
//! use registry::pure::export::{Export, Feed};
//! use registry::manifest::{Source, parse};
//! use registry::pure::mirror::Mirror;
//! use registry::model::{Catalog, ClusterName, Position, ServiceName};
//!
//! let read = |text: &str| parse(&[Source { name: "example.yaml".into(), text: text.into() }]);
//! let (east, west) = (ClusterName::new("east")?, ClusterName::new("west")?);
//! let now_unix_ms = 1_700_000_000_000;
//!
//! // East declares a service and grants it to everyone.
//! let declared = read(r#"
//! apiVersion: ringway.dev/v1alpha1
//! kind: MeshService
//! metadata: { name: cart, namespace: shop }
//! spec:
//!   ports: [{ name: web, port: 80, protocol: http }]
//!   endpoints: [{ id: a, host: 127.0.0.1, ports: { web: 9001 } }]
//!   export: { to: ["*"] }
//! "#)?.declared;
//! let saved = Position { epoch: 7, revision: 0 };
//! let export = Export::new(saved, &declared, "us-east", now_unix_ms, &mut fastrand::Rng::new());
//!
//! // West declares nothing but its link to east, and mirrors what east exports to it.
//! let declared = read(r#"
//! apiVersion: ringway.dev/v1alpha1
//! kind: Link
//! metadata: { name: east }
//! spec: { trustDomain: acme.example, import: [{ namespace: shop, union: true }] }
//! "#)?.declared;
//! let mut mirror = Mirror::new(&declared.links[&east], Arc::default());
//! let mut feed = Feed::new(west.clone(), &mirror.watch(), &export, &mut fastrand::Rng::new())?;
//! for event in feed.next(&export, 100) {
//!     mirror.apply(&event, now_unix_ms)?;
//! }
//!
//! let imports = [(east.clone(), Arc::clone(mirror.imports()))].into();
//! let catalog = Catalog { revision: 1, cluster: west, region: "us-west".into(), declared, imports };
//! let resolved = registry::pure::union::resolve(&catalog);
//! let cart = &resolved.union[&ServiceName::new("shop", "cart")?];
//! assert!(cart.servers.contains_key(&east));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

pub mod base;
pub mod manifest;
pub mod model;
pub mod pure;
pub mod store;
pub mod tasks;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
