//! The gateway: tunnels, placement, health, balancing, routes, listeners, admin and the command line.
//!
//! Groups, each of which imports from those above it only:
//!
//! | group | is |
//! |---|---|
//! | `base` | clocks, bounded bytes, message streams |
//! | `telemetry` | metrics, the record of each exchange, audit events |
//! | `http` | header fields, bodies, the judge of messages |
//! | `upstream` | connections to endpoints of this cluster |
//! | `peers` | gateways of other clusters, their tunnels and detectors; sidecars |
//! | `view` | catalog, rings and endpoints of one moment, swapped whole |
//! | `proxy` | the **data plane**: listeners, flows, both sides of an exchange |
//! | `control` | the **control plane**: mirror, peer reports, registration, health checks |
//! | `admin` | what operators see and change |
//! | `sidecar` | the process beside a workload |
//! | `app` | wiring: from manifests to a running process |
//! | `cli` | the commands |
//!
//! What decides is in the crate `policy`: no I/O, no await; time and randomness are parameters.

// Groups are private to the crate, so that the compiler finds what nobody uses; `pub` says what a module offers to others.
#![allow(unreachable_pub)]

mod admin;
mod app;
mod base;
pub mod cli;
mod control;
mod http;
mod peers;
mod proxy;
mod sidecar;
mod telemetry;
mod upstream;
mod view;
