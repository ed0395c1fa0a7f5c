//! The control plane: what is mirrored and told between clusters, who registers endpoints, how endpoints are checked.

pub mod checks;
pub mod listeners;
pub mod registrations;
pub mod shifts;
pub mod sync;
