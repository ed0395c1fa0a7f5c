//! Ringway as a whole: real processes, real clients, faults. Never published.
//!
//! What the tests build on: [`mesh`] starts clusters from manifests through the real binary, [`backend`] answers
//! behind them, [`client`], [`traffic`] and [`curl`] ask in front of them, [`sidecar`] stands beside them, [`crowd`] is a thousand of those, [`etcd`] keeps
//! their registry and [`stored`] reads it there, [`relay`] and [`stream_relay`] spoil the link between them, [`peer`] is a
//! foreign peer that speaks the tunnel protocol by hand, [`exporter`] one that exports, [`hostile`] one that means harm,
//! [`stranger`] one without a certificate; [`pair`], [`duo`] and [`trio`] are clusters ready made. Knows nothing of the
//! rooms' private insides.

pub mod backend;
pub mod client;
pub mod crowd;
pub mod curl;
pub mod duo;
pub mod etcd;
pub mod exporter;
pub mod hostile;
pub mod http;
pub mod http2;
pub mod manifest;
pub mod mesh;
pub mod pair;
pub mod peer;
pub mod port;
pub mod process;
pub mod raw;
pub mod registrar;
pub mod relay;
pub mod sidecar;
pub mod stored;
pub mod stranger;
pub mod stream_relay;
pub mod tcp;
pub mod traffic;
pub mod trio;
pub mod wait;
pub mod ways;

pub use wait::{pause, wait_until};
