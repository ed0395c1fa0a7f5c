//! The zones of a ring's nodes.

use std::collections::HashMap;

use crate::node::NodeIndex;

/// Which nodes with points each zone has. A zone's name here is its first node, with points or without.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Zones {
    /// Each node's zone.
    of: Box<[NodeIndex]>,
    /// The nodes with points, by zone and then by index.
    members: Box<[NodeIndex]>,
    /// Where in `members` the zone that starts with this node starts, for every node, and where the last ends.
    starts: Box<[u32]>,
    /// How many nodes each round of a spread order takes: the zones that have more nodes than rounds went by.
    rounds: Box<[u32]>,
}

impl Zones {
    /// The zones of nodes with these names of zones, by index.
    pub(crate) fn new<'a>(
        names: impl Iterator<Item = &'a [u8]>,
        is_placed: impl Fn(NodeIndex) -> bool,
    ) -> Self {
        let mut first = HashMap::new();
        let of = (0..).map(NodeIndex).zip(names).map(|(node, name)| *first.entry(name).or_insert(node));
        Self::grouped(of.collect(), is_placed)
    }

    /// The same with a node more at `at`, of the zone that starts with the old node `zone`, or of a new one.
    pub(crate) fn with(
        &self,
        at: NodeIndex,
        zone: Option<NodeIndex>,
        is_placed: impl Fn(NodeIndex) -> bool,
    ) -> Self {
        // It becomes the first of its zone if it comes before the old first.
        let becomes_first = zone.is_none_or(|zone| at <= zone);
        let moved = |old: NodeIndex| match zone {
            Some(zone) if becomes_first && old == zone => at,
            _ => NodeIndex(old.0 + u16::from(old >= at)),
        };
        let mut of = Vec::with_capacity(self.of.len() + 1);
        of.extend(self.of[..at.get()].iter().copied().map(moved));
        of.push(zone.map_or(at, moved));
        of.extend(self.of[at.get()..].iter().copied().map(moved));
        Self::grouped(of.into(), is_placed)
    }

    /// The same without the node `gone`.
    pub(crate) fn without(&self, gone: NodeIndex, is_placed: impl Fn(NodeIndex) -> bool) -> Self {
        let rest = || (0..).map(NodeIndex).zip(&self.of).filter(|(node, _)| *node != gone);
        let heir = rest().find(|(_, zone)| **zone == gone).map(|(node, _)| node);
        let shifted = |old: NodeIndex| NodeIndex(old.0 - u16::from(old > gone));
        // Where the first of a zone goes, the next one takes its place; without a next one nobody asks.
        let moved = |zone: NodeIndex| shifted(if zone == gone { heir.unwrap_or(zone) } else { zone });
        Self::grouped(rest().map(|(_, zone)| moved(*zone)).collect(), is_placed)
    }

    /// The same with other nodes having points.
    pub(crate) fn placed(&self, is_placed: impl Fn(NodeIndex) -> bool) -> Self {
        Self::grouped(self.of.clone(), is_placed)
    }

    fn grouped(of: Box<[NodeIndex]>, is_placed: impl Fn(NodeIndex) -> bool) -> Self {
        let placed = || (0..).map(NodeIndex).zip(&of).filter(|(node, _)| is_placed(*node));
        let mut starts = vec![0_u32; of.len() + 1];
        let mut rounds = Vec::new();
        for (_, zone) in placed() {
            let size = &mut starts[zone.get() + 1];
            // The zone's nodes are taken one a round, so this one makes the round numbered `size` longer.
            if *size as usize == rounds.len() {
                rounds.push(0);
            }
            rounds[*size as usize] += 1;
            *size += 1;
        }
        let mut sum = 0;
        for start in &mut starts {
            sum += *start;
            *start = sum;
        }
        let mut next = starts.clone();
        let mut members = vec![NodeIndex(0); sum as usize];
        for (node, zone) in placed() {
            let next = &mut next[zone.get()];
            members[*next as usize] = node;
            *next += 1;
        }
        Self { of, members: members.into(), starts: starts.into(), rounds: rounds.into() }
    }

    /// A node's zone.
    #[inline]
    pub(crate) fn of(&self, node: NodeIndex) -> NodeIndex {
        self.of[node.get()]
    }

    /// The first node of each zone.
    pub(crate) fn firsts(&self) -> impl Iterator<Item = NodeIndex> {
        (0..).map(NodeIndex).zip(&self.of).filter_map(|(node, zone)| (node == *zone).then_some(node))
    }

    /// The nodes with points, those of one zone side by side.
    #[inline]
    pub(crate) fn members(&self) -> &[NodeIndex] {
        &self.members
    }

    /// The nodes with points of a zone.
    pub(crate) fn members_of(&self, zone: NodeIndex) -> &[NodeIndex] {
        let zone = zone.get();
        &self.members[self.starts[zone] as usize..self.starts[zone + 1] as usize]
    }

    /// How many zones have more than `round` nodes with points.
    pub(crate) fn round(&self, round: usize) -> usize {
        self.rounds.get(round).map_or(0, |zones| *zones as usize)
    }

    /// The nodes with points of each zone that has any.
    pub(crate) fn groups(&self) -> impl Iterator<Item = &[NodeIndex]> {
        self.members.chunk_by(|a, b| self.of(*a) == self.of(*b))
    }

    /// The bytes on the heap.
    pub(crate) fn heap_bytes(&self) -> usize {
        size_of_val(&*self.of)
            + size_of_val(&*self.members)
            + size_of_val(&*self.starts)
            + size_of_val(&*self.rounds)
    }
}
