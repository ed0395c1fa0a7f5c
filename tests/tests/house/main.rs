//! What holds of the house itself: who may know whom, how long a file may be, what the build may contain.
#![allow(clippy::unwrap_used)]

mod arrows;
mod dependencies;
mod sizes;
