//! The secure connection between two Ringway processes.
//!
//! A [`Tunnel`] runs on a carrier (QUIC, TLS on TCP, TLS on a Unix socket), is up once both sides have said HELLO, and is symmetric from then on: either
//! side opens streams, one for each exchange. This crate knows nothing of services, placement, health or HTTP types:
//! it moves heads, data and codes, certifies what was never processed, and answers probes.
//!
//! | file | holds |
//! |---|---|
//! | [`endpoint`] | accepts and dials on a worker's share of the port |
//! | [`direct`] | accepts and dials on byte streams: TCP, Unix sockets |
//! | [`Port`] | one UDP port for all workers |
//! | `socket` | a worker's share as quinn sees it: hands over what is another worker's |
//! | `succession` | one process after another on a port |
//! | `apart` | one datagram in each buffer, where the kernel joins them |
//! | `steer` | the kernel's choice among the sockets of a port |
//! | `cid` | connection IDs, which name worker and start |
//! | [`Secrets`] | the keys of a port, which outlive the process |
//! | [`Account`] | what may be unread over several tunnels |
//! | `congestion` | what may be in flight on a path |
//! | `copies` | small frames that are sent twice, where much is lost |
//! | `carrier` | streams, whatever they run on: open, accept, write, finish, reset, stop |
//! | `mux` | streams on one byte stream |
//! | `handshake` | from a secured connection to a tunnel |
//! | `hello` | the first message each way, and what it must agree with |
//! | [`Local`] | who we are to peers |
//! | `bulk` | what streams that send much share: places and a rate |
//! | `flight` | exchanges that are not over |
//! | `flow` | datagrams beside a stream |
//! | [`tunnel`](Tunnel) | the life of one connection: streams, GOAWAY, probes, its end; its driver; what the peer opens |
//! | [`stream`] | one exchange: frames written and read, cut bodies told from whole ones |

mod account;
mod apart;
mod bulk;
mod carrier;
mod cid;
mod congestion;
mod copies;
pub mod direct;
pub mod endpoint;
mod error;
mod flight;
mod flow;
mod handshake;
mod hello;
mod kernel;
mod local;
mod mux;
mod port;
mod secrets;
mod socket;
#[cfg(target_os = "linux")]
mod steer;
pub mod stream;
mod succession;
mod tunnel;

pub use account::Account;
pub use carrier::{Kind, PeerAddress};
pub use congestion::{Congestion, Path, Shaping};
pub use direct::{DirectEndpoint, Incoming};
pub use endpoint::{Attempt, Endpoint};
pub use error::{CloseReason, EndpointError, TunnelError};
pub use flight::{Answered, Fate};
pub use flow::{Datagrams, Unsent};
pub use hello::{HelloInfo, Peer};
pub use local::Local;
pub use port::{Port, Strays};
pub use secrets::{Secrets, SecretsError};
pub use stream::{Exchange, MessageReader, MessageWriter, Receiver, Sender};
pub use succession::Spare;
pub use tunnel::{Accepted, Begun, Driver, Event, Tunnel, begin};

pub use proto::version::ALPN;
