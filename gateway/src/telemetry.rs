//! What is counted and logged: metrics, the record of each exchange, audit events.

pub mod audit;
pub mod limited;
pub mod metrics;
pub mod record;
