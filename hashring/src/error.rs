//! Why there is no such ring.

use crate::limits::{MAX_NAME_BYTES, MAX_NODE_POINTS, MAX_NODES, MAX_POINTS};

/// Why a set of nodes makes no ring, or two rings cannot be compared.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RingError {
    /// Two nodes have the same id.
    #[error("node id \"{}\" occurs twice; give each node its own id", .id.escape_ascii())]
    DuplicateId {
        /// The id that occurs again.
        id: Box<[u8]>,
    },
    /// A change of a node that the ring does not have.
    #[error("the ring has no node \"{}\"", .id.escape_ascii())]
    UnknownId {
        /// The id, or its first 32 bytes.
        id: Box<[u8]>,
    },
    /// Two rings under different seeds or kinds of key hash.
    #[error("the rings hash keys differently: compare rings of one seed and kind of key hash")]
    DifferentHashes,
    /// More nodes than [`MAX_NODES`].
    #[error("{nodes} nodes are more than a ring holds ({MAX_NODES}); split the set")]
    TooManyNodes {
        /// How many there are.
        nodes: usize,
    },
    /// A node's id is longer than [`MAX_NAME_BYTES`].
    #[error("node id \"{}...\" has {bytes} bytes; at most {MAX_NAME_BYTES} are allowed", .start.escape_ascii())]
    IdTooLong {
        /// How the id starts.
        start: Box<[u8]>,
        /// How long it is.
        bytes: usize,
    },
    /// A node's zone is longer than [`MAX_NAME_BYTES`].
    #[error("zone of node \"{}\" has {bytes} bytes; at most {MAX_NAME_BYTES} are allowed", .id.escape_ascii())]
    ZoneTooLong {
        /// The node.
        id: Box<[u8]>,
        /// How long its zone is.
        bytes: usize,
    },
    /// A node's base times weight gives more points than [`MAX_NODE_POINTS`].
    #[error("node \"{}\" would have {points} points, at most {MAX_NODE_POINTS} are allowed; \
             lower its weight or the base", .id.escape_ascii())]
    TooManyNodePoints {
        /// The node.
        id: Box<[u8]>,
        /// How many points it would have.
        points: u64,
    },
    /// The nodes together would have more points than [`MAX_POINTS`].
    #[error(
        "the ring would have {points} points, at most {MAX_POINTS} are allowed; lower the base or the weights"
    )]
    TooManyPoints {
        /// How many points there would be.
        points: u64,
    },
}
