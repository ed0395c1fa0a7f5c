//! What the registry and its users share: audit lines, error chains, what is lent to another process, rates, bounded reads of disks, maps that share their
//! unchanged parts.

pub mod address;
pub mod audit;
pub mod causes;
pub mod lent;
pub mod rate;
pub mod reader;
pub mod shared_map;
pub mod time;
