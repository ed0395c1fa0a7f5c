//! The orders in which a key tries nodes.

use std::iter::FusedIterator;

use crate::bitset::BitSet;
use crate::node::NodeIndex;
use crate::ring::Ring;
use crate::sorted::Walk;

/// Nodes by the distance of their nearest point, from [`Ring::sequence`].
#[derive(Debug, Clone)]
pub struct Sequence<'a> {
    walk: Walk<'a>,
    seen: BitSet,
    /// How many nodes are still to come.
    left: usize,
}

impl<'a> Sequence<'a> {
    pub(crate) fn new(ring: &'a Ring, hash: u64) -> Self {
        Self { walk: ring.walk(hash), seen: BitSet::new(ring.len()), left: ring.placed() }
    }
}

impl Iterator for Sequence<'_> {
    type Item = NodeIndex;

    fn next(&mut self) -> Option<NodeIndex> {
        // Without this the walk would run on through points of nodes already seen.
        self.left = self.left.checked_sub(1)?;
        self.walk.find(|node| self.seen.insert(node.get()))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl ExactSizeIterator for Sequence<'_> {}
impl FusedIterator for Sequence<'_> {}

/// The nodes of the owner's zone and then all others, from [`Ring::near`].
#[derive(Debug, Clone)]
pub struct Near<'a> {
    ring: &'a Ring,
    hash: u64,
    /// The walk for the owner's zone.
    home: Sequence<'a>,
    /// How many nodes of the owner's zone are still to come.
    home_left: usize,
    home_zone: usize,
    /// The walk for the rest, begun once the zone is through.
    away: Option<Sequence<'a>>,
    left: usize,
}

impl<'a> Near<'a> {
    pub(crate) fn new(ring: &'a Ring, hash: u64) -> Self {
        let home_zone = ring.owner(hash).map(|owner| ring.zone(owner));
        Self {
            ring,
            hash,
            home: ring.sequence(hash),
            home_left: home_zone.map_or(0, |zone| ring.zone_size(zone)),
            // Without an owner nothing is to come and the zone is never compared.
            home_zone: home_zone.unwrap_or_default(),
            away: None,
            left: ring.placed(),
        }
    }
}

impl Iterator for Near<'_> {
    type Item = NodeIndex;

    fn next(&mut self) -> Option<NodeIndex> {
        self.left = self.left.checked_sub(1)?;
        let (ring, hash, zone) = (self.ring, self.hash, self.home_zone);
        if let Some(home_left) = self.home_left.checked_sub(1) {
            self.home_left = home_left;
            return self.home.find(|&node| ring.zone(node) == zone);
        }
        self.away.get_or_insert_with(|| ring.sequence(hash)).find(|&node| ring.zone(node) != zone)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl ExactSizeIterator for Near<'_> {}
impl FusedIterator for Near<'_> {}

/// Rounds that take one node of each zone, from [`Ring::spread`].
#[derive(Debug, Clone)]
pub struct Spread<'a> {
    ring: &'a Ring,
    sequence: Sequence<'a>,
    /// Nodes the walk has passed because their zone had its turn, in sequence order.
    passed: Vec<NodeIndex>,
    /// How many of these the current round has looked at.
    looked: usize,
    /// The zones that had their turn in the current round.
    used: BitSet,
    round: usize,
    /// How many nodes the current round still takes.
    round_left: usize,
    left: usize,
}

impl<'a> Spread<'a> {
    pub(crate) fn new(ring: &'a Ring, hash: u64) -> Self {
        Self {
            ring,
            sequence: ring.sequence(hash),
            passed: Vec::new(),
            looked: 0,
            used: BitSet::new(ring.len()),
            round: 0,
            round_left: ring.round_size(0),
            left: ring.placed(),
        }
    }
}

impl Iterator for Spread<'_> {
    type Item = NodeIndex;

    fn next(&mut self) -> Option<NodeIndex> {
        self.left = self.left.checked_sub(1)?;
        if self.round_left == 0 {
            self.round += 1;
            self.round_left = self.ring.round_size(self.round);
            self.used.clear();
            self.looked = 0;
        }
        self.round_left -= 1;
        // What was passed comes earlier in the sequence than what the walk has yet to reach.
        while let Some(&node) = self.passed.get(self.looked) {
            if self.used.insert(self.ring.zone(node)) {
                return Some(self.passed.remove(self.looked));
            }
            self.looked += 1;
        }
        loop {
            let node = self.sequence.next()?;
            if self.used.insert(self.ring.zone(node)) {
                return Some(node);
            }
            self.passed.push(node);
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl ExactSizeIterator for Spread<'_> {}
impl FusedIterator for Spread<'_> {}
