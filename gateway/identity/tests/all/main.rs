//! The promises of this crate, kept by real files and real handshakes.

mod files;
mod handshake;
mod world;
