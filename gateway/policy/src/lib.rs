//! What the gateway decides: which cluster, which endpoint and whether it takes requests, which peer is alive, whether a
//! request is tried again, which service and key it is for, who may have it.
//!
//! Pure: no I/O, no await, no clock and no randomness of its own; both are parameters. What is shared between threads is
//! atomics.

pub mod authorize;
pub mod balance;
pub mod facts;
pub mod grpc;
pub mod health;
pub mod placement;
pub mod retry;
pub mod route;
