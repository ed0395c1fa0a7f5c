//! Nodes in turns between zones.

use std::cmp::Ordering;
use std::iter::FusedIterator;

use super::marks::Marks;
use super::{Outward, Skip};
use crate::index::Walk;
use crate::node::NodeIndex;
use crate::ring::Ring;

/// Rounds that take one node of each zone, from [`Ring::spread`].
#[derive(Debug, Clone)]
pub struct Spread<'a, S = fn(NodeIndex) -> bool> {
    ring: &'a Ring,
    /// The walk of this round; marks are on nodes taken in any round.
    outward: Outward<'a>,
    /// Where the walk of the next round starts: before the first node that this round has passed over because
    /// its zone had had its turn.
    resume: Option<Walk<'a>>,
    /// Marks on the zones that have had their turn in this round.
    used: Marks,
    round: usize,
    /// How many nodes this round has taken since the present skip came into force.
    taken: usize,
    /// How many it still takes.
    left: usize,
    skip: Skip<S>,
}

impl<'a> Spread<'a> {
    pub(crate) fn new(ring: &'a Ring, hash: u64) -> Self {
        Self {
            ring,
            outward: Outward::new(ring, hash),
            resume: None,
            used: Marks::default(),
            round: 0,
            taken: 0,
            left: ring.zones().round(0),
            skip: Skip::new(ring, None),
        }
    }

    /// The order from here on, over the nodes that `skip` does not name: a zone takes its turn with the first of its
    /// nodes that is not skipped, and later rounds likewise.
    ///
    /// It is asked about a node any number of times. Answers that change meanwhile leave it open whether the
    /// node is taken and in which round, and nothing else.
    pub fn skipping<S: Fn(NodeIndex) -> bool>(self, skip: S) -> Spread<'a, S> {
        let Self { ring, outward, resume, used, round, left, .. } = self;
        Spread { ring, outward, resume, used, round, taken: 0, left, skip: Skip::new(ring, Some(skip)) }
    }
}

impl<S: Fn(NodeIndex) -> bool> Spread<'_, S> {
    /// Whether this round can take `node`, which is not skipped: the order of its turn among the nodes of its zone,
    /// compared with the number of the round.
    fn turn(&self, node: NodeIndex) -> Ordering {
        let zone = self.ring.zones().of(node);
        let (taken, used) = (self.outward.marks.has(node), self.used.has(zone));
        if self.outward.exact || !(taken || used) {
            return match (taken, used) {
                (true, _) => Ordering::Less,
                (false, true) => Ordering::Greater,
                (false, false) => Ordering::Equal,
            };
        }
        // Another node or zone may have set the mark: see what the walk has met of this zone.
        let walk = &self.outward.walk;
        if walk.has_visited_twice(node) {
            return Ordering::Less;
        }
        let visited = || walk.visited().into_iter().flatten().copied();
        let is_mate = |mate| mate != node && self.ring.zones().of(mate) == zone && !self.skip.skips(mate);
        let is_new = |at, mate| !visited().take(at).any(|other| other == mate);
        let rank = visited().enumerate().filter(|&(at, mate)| is_mate(mate) && is_new(at, mate)).count();
        rank.cmp(&self.round)
    }

    /// Goes to the next round, if there is one.
    fn start_round(&mut self) -> Option<()> {
        self.round += 1;
        (self.taken, self.left) = (0, self.ring.zones().round(self.round));
        if self.left == 0 {
            return None;
        }
        // If nothing was passed over the walk goes on.
        if let Some(walk) = self.resume.take() {
            self.outward.walk = walk;
        }
        self.used = Marks::default();
        self.skip.patience = self.ring.placed();
        Some(())
    }

    /// Notes that a point was passed over, which may show that the round is through, or the order.
    fn pass(&mut self) {
        if self.skip.skip.is_none() || !self.skip.passes() {
            return;
        }
        // Where marks do not say all, more may be counted than there is: then the walk ends the round.
        let has = |marks: &Marks, node| self.outward.exact && marks.has(node);
        let is_left = |node: &NodeIndex| !has(&self.outward.marks, *node) && !self.skip.skips(*node);
        let (mut zones, mut turns) = (0, 0);
        for members in self.ring.zones().groups().filter(|members| members.iter().any(is_left)) {
            zones += 1;
            turns += usize::from(!has(&self.used, self.ring.zones().of(members[0])));
        }
        self.left = if self.outward.exact { turns } else { turns.saturating_sub(self.taken) };
        if zones == 0 {
            // Nor is there for later rounds.
            self.round = self.ring.len();
        }
    }
}

impl<S: Fn(NodeIndex) -> bool> Iterator for Spread<'_, S> {
    type Item = NodeIndex;

    #[inline]
    fn next(&mut self) -> Option<NodeIndex> {
        loop {
            if self.left == 0 {
                self.start_round()?;
                continue;
            }
            // Only until something is passed over in this round.
            let before = self.resume.is_none().then(|| self.outward.walk.clone());
            let Some(node) = self.outward.next() else {
                // More was counted than there is, or the answers of `skip` have changed.
                self.left = 0;
                continue;
            };
            if self.skip.skips(node) {
                self.pass();
                continue;
            }
            match self.turn(node) {
                Ordering::Less => self.pass(),
                Ordering::Greater => {
                    self.resume = self.resume.take().or(before);
                    self.pass();
                }
                Ordering::Equal => {
                    self.outward.marks.set(node);
                    self.used.set(self.ring.zones().of(node));
                    self.taken += 1;
                    self.left -= 1;
                    return Some(node);
                }
            }
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let later: usize =
            (self.round + 1..).map(|round| self.ring.zones().round(round)).take_while(|size| *size > 0).sum();
        self.skip.size_hint(self.left + later)
    }
}

impl<S: Fn(NodeIndex) -> bool> FusedIterator for Spread<'_, S> {}
