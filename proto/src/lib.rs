//! The bytes between Ringway processes, and their limits. No logic, no defaults, no input or output.
//! Also how text that comes in them is made fit to be shown: [`text`].
//!
//! # Map of the bytes
//!
//! ```text
//! tunnel            QUIC, ALPN ringway/1; or mux frames in TLS on TCP or a Unix socket, ALPN ringway-mux/1
//! +- bidirectional stream   first byte: StreamKind
//! |  +- Control             both ways: Hello, then Control messages   (message: varint length, protobuf)
//! |  +- Exchange            both ways: HEAD, DATA*, TRAILERS?, END    (frame: varint kind, varint length, payload)
//! |  |  +- HEAD             facts (varint tag, varint length, value)*, 0x00, fields
//! |  |  +- TRAILERS         fields
//! |  |  `- fields           (varint length, name, varint length, value)*
//! |  +- Sync                importer: Watch; exporter: Event*         (message)
//! |  +- Lookup              sidecar: Ask*; gateway: Answer*          (message)
//! |  +- Register            sidecar: Say*; gateway: Told*            (message)
//! |  `- Objects             opener: Ask; the other gateway: Answer   (message)
//! `- datagram               Probe
//! ```
//!
//! Variable-length integers are those of RFC 9000, section 16; other integers are big-endian. FIN without END is a
//! truncation. A reset or a stop carries a [`code::Code`], the close of a connection a [`code::CloseCode`].
//!
//! # Version skew
//!
//! Neighbours of one minor version interoperate; unknown is skipped, never an error. See [`version`].

pub mod code;
pub mod datagram;
pub mod frame;
pub mod head;
pub mod limits;
pub mod message;
pub mod mux;
pub mod stream;
pub mod text;
pub mod varint;
pub mod version;

mod fields;

#[expect(
    unreachable_pub,
    reason = "prost makes every module and type public; what is meant to be is re-exported"
)]
mod schema {
    include!(concat!(env!("OUT_DIR"), "/schema.rs"));
}

/// Messages on the control stream (`schema/control.proto`).
pub mod control {
    pub use crate::schema::ringway::control::v1::*;
}

/// Messages on sync streams (`schema/sync.proto`).
pub mod sync {
    pub use crate::schema::ringway::sync::v1::*;
}

/// Messages on lookup streams (`schema/lookup.proto`).
pub mod lookup {
    pub use crate::schema::ringway::lookup::v1::*;
}

/// Messages about what a cluster declares (`schema/objects.proto`): on objects streams, and on the admin socket.
pub mod objects {
    pub use crate::schema::ringway::objects::v1::*;
}

/// Messages of whoever registers endpoints (`schema/register.proto`): on register streams, and on the admin socket.
pub mod register {
    pub use crate::schema::ringway::register::v1::*;
}

/// What the registry and the state directory hold (`schema/store.proto`).
pub mod store {
    pub use crate::schema::ringway::store::v1::*;
}
