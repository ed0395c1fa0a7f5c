//! What moves between two rings.

use std::collections::BTreeMap;

use crate::error::RingError;
use crate::node::NodeIndex;
use crate::ring::Ring;

/// Hashes that one node hands to another, from [`Ring::diff`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flow {
    /// The owner in the ring before; none if that has no points.
    pub from: Option<NodeIndex>,
    /// The owner in the ring after; none if that has no points.
    pub to: Option<NodeIndex>,
    /// How many of the 2^64 hashes.
    pub hashes: u128,
}

impl Ring {
    /// Which hashes have another owner in `after`, counted from the intervals of both rings: exact. Nodes are the
    /// same if their ids are. In the order of the indices of `from` and then `to`.
    ///
    /// # Errors
    ///
    /// Rings that hash keys differently, by seed or kind of hash: there a key has two hashes.
    pub fn diff(&self, after: &Ring) -> Result<Vec<Flow>, RingError> {
        let (a, b) = (&self.declaration, &after.declaration);
        if (a.seed, a.key_hash) != (b.seed, b.key_hash) {
            return Err(RingError::DifferentHashes);
        }
        let mut flows = BTreeMap::new();
        let mut olds = arcs(self).peekable();
        let mut news = arcs(after).peekable();
        let mut first = 0;
        while let (Some(&(old_end, old)), Some(&(new_end, new))) = (olds.peek(), news.peek()) {
            let end = old_end.min(new_end);
            let is_same = match (old, new) {
                (Some(old), Some(new)) => self.node(old).id == after.node(new).id,
                (old, new) => old == new,
            };
            if !is_same && end > first {
                *flows.entry((old, new)).or_insert(0) += end - first;
            }
            first = end;
            olds.next_if(|(old_end, _)| *old_end == end);
            news.next_if(|(new_end, _)| *new_end == end);
        }
        Ok(flows.into_iter().map(|((from, to), hashes)| Flow { from, to, hashes }).collect())
    }
}

/// The stretches of hashes with one owner as (the first hash behind, owner), from 0 to 2^64.
fn arcs(ring: &Ring) -> impl Iterator<Item = (u128, Option<NodeIndex>)> {
    let owners = ring.index.arcs().map(|(_, owner)| Some(owner));
    let ends = ring.index.arcs().skip(1).map(|(first, _)| u128::from(first)).chain([1 << 64]);
    let nobody = (ring.index.len() == 0).then_some(None);
    ends.zip(owners.chain(nobody))
}
