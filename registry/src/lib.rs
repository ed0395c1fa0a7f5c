//! What is declared and what exists: manifests, the model, stores, export and mirror.
//!
//! Knows nothing of requests, tunnels or rings.

pub mod export;
pub mod manifest;
pub mod mirror;
pub mod model;
pub mod record;
pub mod state;
pub mod store;
pub mod union;
