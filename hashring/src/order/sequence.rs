//! Nodes by distance.

use std::iter::FusedIterator;

use super::{Outward, Skip};
use crate::node::NodeIndex;
use crate::ring::Ring;

/// Nodes by the distance of their nearest point, from [`Ring::sequence`].
#[derive(Debug, Clone)]
pub struct Sequence<'a, S = fn(NodeIndex) -> bool> {
    ring: &'a Ring,
    outward: Outward<'a>,
    /// How many nodes are still to come.
    left: usize,
    /// How many were when the present skip came into force.
    of: usize,
    skip: Skip<S>,
}

impl<'a> Sequence<'a> {
    #[inline]
    pub(crate) fn new(ring: &'a Ring, hash: u64) -> Self {
        let left = ring.placed();
        Self { ring, outward: Outward::new(ring, hash), left, of: left, skip: Skip::new(ring, None) }
    }

    /// The order from here on, without the nodes that `skip` names.
    ///
    /// It is asked about a node any number of times. Answers that change meanwhile leave it open whether the
    /// node is taken, and nothing else.
    pub fn skipping<S: Fn(NodeIndex) -> bool>(self, skip: S) -> Sequence<'a, S> {
        let Self { ring, outward, left, .. } = self;
        Sequence { ring, outward, left, of: left, skip: Skip::new(ring, Some(skip)) }
    }
}

impl<S: Fn(NodeIndex) -> bool> Iterator for Sequence<'_, S> {
    type Item = NodeIndex;

    #[inline]
    fn next(&mut self) -> Option<NodeIndex> {
        // Without `left` the walk would run on through points of nodes already taken.
        while self.left > 0 {
            let node = self.outward.next()?;
            if self.skip.skips(node) {
                if self.skip.passes() {
                    // What was taken before the skip came may count: too many are no harm.
                    let taken = self.of - self.left;
                    self.left = self.skip.count(self.ring.zones().members()).saturating_sub(taken);
                    self.of = self.left;
                }
            } else if self.outward.is_first(node) {
                self.left -= 1;
                return Some(node);
            }
        }
        None
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.skip.size_hint(self.left)
    }
}

impl<S: Fn(NodeIndex) -> bool> FusedIterator for Sequence<'_, S> {}
