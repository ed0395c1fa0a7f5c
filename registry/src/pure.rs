//! What follows from what is declared and mirrored: exports, mirrors, unions, merged sources, registration rules. No I/O and
//! no await; time and randomness are parameters.

pub mod export;
pub mod lookup;
pub mod mirror;
pub mod probation;
pub mod registration;
pub mod sources;
pub mod union;
