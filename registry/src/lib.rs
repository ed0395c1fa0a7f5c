//! What is declared and what exists: manifests, the model, stores, export and mirror.
//!
//! Knows nothing of requests, tunnels or rings. Everything but [`store`], [`applied`], [`apply`], [`cluster`],
//! [`election`], [`members`], [`owned`], [`reader`], [`recorder`], [`registrar`], [`state`] and [`status`] is pure: time and
//! randomness come in as parameters, and what is to be written comes out.
//!
//! # The life of an update
//!
//! [`manifest`] reads what was declared, and [`sources`] joins it where it comes from several places. [`export`] holds
//! what of it is granted to peers, and a feed per peer tells it what is new. The peer's [`mirror`] folds that into its
//! imports, and [`union`] derives from declarations and imports what every name means there.
//!
//! ```
//! use std::sync::Arc;
//!
//! use registry::export::{Export, Feed};
//! use registry::manifest::{Source, parse};
//! use registry::mirror::Mirror;
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
//! let mut feed = Feed::new(west.clone(), &mirror.watch())?;
//! for event in feed.next(&export, 100) {
//!     mirror.apply(&event, now_unix_ms)?;
//! }
//!
//! let imports = [(east.clone(), Arc::clone(mirror.imports()))].into();
//! let catalog = Catalog { revision: 1, cluster: west, region: "us-west".into(), declared, imports };
//! let resolved = registry::union::resolve(&catalog);
//! let cart = &resolved.union[&ServiceName::new("shop", "cart")?];
//! assert!(cart.servers.contains_key(&east));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

pub mod applied;
pub mod apply;
pub mod audit;
pub mod causes;
pub mod cluster;
pub mod election;
pub mod export;
pub mod lookup;
pub mod manifest;
pub mod members;
pub mod mirror;
pub mod model;
pub mod owned;
pub mod probation;
pub mod reader;
pub mod record;
pub mod recorder;
pub mod registrar;
pub mod registration;
pub mod shared_map;
pub mod sources;
pub mod state;
pub mod status;
pub mod store;
pub mod union;
