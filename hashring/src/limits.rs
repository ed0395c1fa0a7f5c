//! What a ring may be made of.

use crate::error::RingError;
use crate::node::Node;

/// Most nodes in a ring: of 16-bit numbers one stays free for a mark of the index, one for the caller's.
pub const MAX_NODES: usize = 65_534;

/// Most points of one node: 6,553 times the weight 1 at the base 160.
pub const MAX_NODE_POINTS: u64 = 1 << 20;

/// Most points in a ring: the largest set of nodes has 1024 points a node, in 1.2 GB.
pub const MAX_POINTS: u64 = 1 << 26;

/// Longest id and longest zone, in bytes: a DNS name, 253 bytes, with room for a port and a prefix.
pub const MAX_NAME_BYTES: usize = 1024;

/// How much of an id that is too long an error shows, in bytes.
const SHOWN_BYTES: usize = 32;

/// How many points a node has.
pub(crate) fn points(base: u32, node: Node<'_>) -> Result<u32, RingError> {
    if node.id.len() > MAX_NAME_BYTES {
        return Err(RingError::IdTooLong { start: shown(node.id), bytes: node.id.len() });
    }
    if node.zone.len() > MAX_NAME_BYTES {
        return Err(RingError::ZoneTooLong { id: node.id.into(), bytes: node.zone.len() });
    }
    let points = u64::from(base) * u64::from(node.weight) / 100;
    if points > MAX_NODE_POINTS {
        return Err(RingError::TooManyNodePoints { id: node.id.into(), points });
    }
    Ok(points as u32)
}

/// Whether a node of this weight has points.
pub(crate) fn is_placed(base: u32, weight: u32) -> bool {
    u64::from(base) * u64::from(weight) >= 100
}

/// Refuses more points in a ring than [`MAX_POINTS`].
pub(crate) fn check_total(points: u64) -> Result<(), RingError> {
    if points > MAX_POINTS { Err(RingError::TooManyPoints { points }) } else { Ok(()) }
}

/// As much of an id as an error shows.
pub(crate) fn shown(id: &[u8]) -> Box<[u8]> {
    id[..id.len().min(SHOWN_BYTES)].into()
}
