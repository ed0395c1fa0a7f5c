//! What every part of the process may use: clocks, bounded bytes, message streams, change notification. Knows nothing of
//! requests.

pub mod accept;
pub mod bind;
pub mod budget;
pub mod clock;
pub mod descriptors;
pub mod given;
pub mod line;
pub mod news;
pub mod places;
pub mod stall;
