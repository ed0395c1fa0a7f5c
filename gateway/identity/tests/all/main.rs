//! The promises of this crate, kept by real files and real handshakes.

mod authorities;
mod files;
mod handshake;
mod world;
