//! Nodes by zone and distance.

use std::iter::FusedIterator;

use super::{Outward, Skip};
use crate::node::NodeIndex;
use crate::ring::Ring;

/// The nodes of the owner's zone and then all others, from [`Ring::near`].
#[derive(Debug, Clone)]
pub struct Near<'a, S = fn(NodeIndex) -> bool> {
    ring: &'a Ring,
    hash: u64,
    outward: Outward<'a>,
    /// The owner's zone.
    home: Option<NodeIndex>,
    is_home: bool,
    /// How many nodes were taken: of the owner's zone as long as the order is there, then of the others. Since the
    /// present skip came into force.
    taken: usize,
    /// How many are still to come, likewise.
    left: usize,
    skip: Skip<S>,
}

impl<'a> Near<'a> {
    pub(crate) fn new(ring: &'a Ring, hash: u64) -> Self {
        let home = ring.owner(hash).map(|owner| ring.zones().of(owner));
        Self {
            ring,
            hash,
            outward: Outward::new(ring, hash),
            home,
            is_home: true,
            taken: 0,
            left: home.map_or(0, |zone| ring.zones().members_of(zone).len()),
            skip: Skip::new(ring, None),
        }
    }

    /// The order from here on, without the nodes that `skip` names; the owner's zone counts even if the owner is one.
    ///
    /// It is asked about a node any number of times. Answers that change meanwhile leave it open whether the
    /// node is taken, and nothing else.
    pub fn skipping<S: Fn(NodeIndex) -> bool>(self, skip: S) -> Near<'a, S> {
        let Self { ring, hash, outward, home, is_home, left, .. } = self;
        Near { ring, hash, outward, home, is_home, taken: 0, left, skip: Skip::new(ring, Some(skip)) }
    }
}

impl<S: Fn(NodeIndex) -> bool> Near<'_, S> {
    /// How many nodes there are to take in the owner's zone, or outside it.
    fn to_take(&self, count: impl Fn(&[NodeIndex]) -> usize) -> usize {
        let zones = self.ring.zones();
        let home = self.home.map_or(0, |zone| count(zones.members_of(zone)));
        if self.is_home { home } else { count(zones.members()) - home }
    }
}

impl<S: Fn(NodeIndex) -> bool> Iterator for Near<'_, S> {
    type Item = NodeIndex;

    #[inline]
    fn next(&mut self) -> Option<NodeIndex> {
        loop {
            if self.left == 0 {
                if !self.is_home {
                    return None;
                }
                // The zone is through: start again for all others.
                self.is_home = false;
                (self.taken, self.left) = (0, self.to_take(<[_]>::len));
                self.outward.walk = self.ring.walk(self.hash);
                self.skip.patience = self.ring.placed();
                continue;
            }
            let Some(node) = self.outward.next() else {
                // Answers of `skip` have changed.
                self.left = 0;
                continue;
            };
            if (self.home == Some(self.ring.zones().of(node))) != self.is_home {
                continue;
            }
            if self.skip.skips(node) {
                if self.skip.passes() {
                    self.left = self.to_take(|nodes| self.skip.count(nodes)).saturating_sub(self.taken);
                }
            } else if self.outward.is_first(node) {
                self.taken += 1;
                self.left -= 1;
                return Some(node);
            }
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.skip.size_hint(if self.is_home { self.ring.placed() - self.taken } else { self.left })
    }
}

impl<S: Fn(NodeIndex) -> bool> FusedIterator for Near<'_, S> {}
