//! HTTP/1.1 connections (RFC 9112), of a server towards callers and of a client towards endpoints.
//!
//! A connection is one future: nothing is spawned for it, no channel stands between it and whoever serves or asks, and
//! bodies are read from the socket by whoever polls them. What a message's framing is, when it is complete and what is
//! refused is decided in [`head`] and [`framing`], which know no sockets; the same rules hold for both sides.
//!
//! Knows nothing of services, of placement, or of what an intermediary adds and removes.

pub mod chunked;
pub mod client;
pub mod framing;
pub mod head;
pub mod server;

mod outgoing;
mod source;
mod timers;

pub use chunked::Limits as BodyLimits;
pub use framing::Framing;
pub use head::{HeadError, Limits, Request, Response};
pub use timers::{Timer, Timers};

/// Why a message ended before its end.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// The connection failed.
    #[error("the connection failed")]
    Io(#[source] std::io::Error),
    /// The connection ended in the middle of the message.
    #[error("the connection ended in the middle of the message")]
    Truncated,
    /// The chunked coding is malformed, or its trailers are (RFC 9112, section 7.1).
    #[error("the chunked coding is malformed: {0}")]
    Chunk(&'static str),
    /// More than a trailer section or a chunk's extensions may be.
    #[error("the trailers or chunk extensions are too large")]
    TooLarge,
    /// Nobody takes the rest any more.
    #[error("the exchange is over")]
    Over,
}
