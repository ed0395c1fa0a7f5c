//! The gateway: tunnels, placement, health, balancing, routes, listeners, admin and the command line.

pub mod balance;
pub mod health;
pub mod placement;
pub mod retry;
pub mod route;
