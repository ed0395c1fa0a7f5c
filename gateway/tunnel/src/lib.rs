//! The secure connection between two Ringway processes.
//!
//! A [`Tunnel`] runs on a carrier (QUIC), is up once both sides have said HELLO, and is symmetric from then on: either
//! side opens streams, one for each exchange. This crate knows nothing of services, placement, health or HTTP types:
//! it moves heads, data and codes, certifies what was never processed, and answers probes.
//!
//! | file | holds |
//! |---|---|
//! | [`endpoint`] | the socket that accepts and dials |
//! | `carrier` | streams, whatever they run on: open, accept, write, finish, reset, stop |
//! | `hello` | the first message each way, and what it must agree with |
//! | [`tunnel`](Tunnel) | the life of one connection: streams, GOAWAY, probes, its end |
//! | [`stream`] | one exchange: frames written and read, cut bodies told from whole ones |

mod carrier;
pub mod endpoint;
mod error;
mod hello;
pub mod stream;
mod tunnel;

pub use endpoint::{Endpoint, EndpointError, Local};
pub use error::{CloseReason, TunnelError};
pub use hello::{HelloInfo, Peer};
pub use stream::{Exchange, MessageReader, MessageWriter, Receiver, Sender};
pub use tunnel::{Accepted, Begun, Driver, Event, Tunnel, begin_exchange};

pub use proto::version::ALPN;
