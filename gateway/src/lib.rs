//! The gateway: tunnels, placement, health, balancing, routes, listeners, admin and the command line.
//!
//! | part | rooms | knows |
//! |---|---|---|
//! | pure decisions | [`placement`], [`balance`], [`health`], [`route`], [`retry`] | no I/O, no await; time and randomness are parameters |
//! | one moment | [`view`] | catalog, rings and endpoints, immutable, swapped whole |
//! | the ways out | [`peers`], [`endpoint`] | other clusters' gateways; instances on this side |
//! | a request | [`outbound`], [`inbound`] | places it; serves it: inbound is given no tunnels |
//! | the process | [`dataplane`], [`sync`], [`checks`], [`admin`], [`app`] | threads, mirror, health checks, operators, wiring |

pub mod admin;
pub mod answer;
pub mod app;
pub mod audit;
pub mod balance;
pub mod body;
pub mod budget;
pub mod checks;
pub mod cli;
pub mod clock;
pub mod dataplane;
pub mod descriptors;
pub mod endpoint;
pub mod error;
pub mod exchange;
pub mod facts;
pub mod fields;
pub mod flow;
pub mod grpc;
pub mod health;
pub mod inbound;
pub mod limited;
pub mod line;
pub mod listener;
pub mod message;
pub mod metrics;
pub mod news;
pub mod outbound;
pub mod peers;
pub mod placement;
pub mod places;
pub mod record;
pub mod registrar;
pub mod registrations;
pub mod resets;
pub mod retry;
pub mod route;
pub mod rpc;
pub mod shifts;
pub mod sidecar;
pub mod sidecars;
pub mod stall;
pub mod sync;
pub mod view;
pub mod worker;
