//! Faults of what is below running gateways: their etcd, their disk, the process next to them. Traffic to what is alive
//! goes on, and nothing that was acknowledged is lost without a word.
#![allow(clippy::unwrap_used)]

mod acknowledged;
mod disk;
mod etcd;
