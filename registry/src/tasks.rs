//! What runs: election, members, leases of registered endpoints, what follows the store and what is written to it.

pub mod applied;
pub mod apply;
pub mod cluster;
pub mod election;
pub mod members;
pub mod owned;
pub mod recorder;
pub mod registrar;
pub mod state;
pub mod status;
