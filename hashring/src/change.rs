//! Rings that differ from another in one node.

use crate::error::RingError;
use crate::hash::PointHasher;
use crate::index::{Point, Renumber};
use crate::limits;
use crate::node::{Node, NodeIndex};
use crate::ring::Ring;

/// Each makes the very ring that [`RingBuilder::build`](crate::RingBuilder::build) would make of the changed
/// set, by copying this one and mending it where the node's points are. This ring stays as it is: readers go
/// on with it until they are handed the new one.
impl Ring {
    /// This ring with one node more. See [`Node`] for what the parts mean.
    ///
    /// Indices of nodes with greater ids go up by one.
    ///
    /// # Errors
    ///
    /// An id that the ring has already, and whatever passes one of the limits of a ring.
    pub fn with_node(
        &self,
        id: impl AsRef<[u8]>,
        weight: u32,
        zone: impl AsRef<[u8]>,
    ) -> Result<Ring, RingError> {
        let node = Node { id: id.as_ref(), weight, zone: zone.as_ref() };
        let (declaration, at) = self.declaration.with(node)?;
        let points = declaration.points(at);
        self.check_growth(points)?;
        let zone = self.zones.firsts().find(|first| self.node(*first).zone == node.zone);
        let zones = self.zones.with(at, zone, |node| declaration.is_placed(node));
        let index = self.index.patched(&[], &self.points(node.id, at, 0..points), Renumber::Insert(at));
        Ok(Self::from_parts(declaration, zones, index))
    }

    /// This ring without the node `id`.
    ///
    /// Indices of nodes with greater ids go down by one.
    ///
    /// # Errors
    ///
    /// An id that the ring does not have.
    pub fn without_node(&self, id: impl AsRef<[u8]>) -> Result<Ring, RingError> {
        let node = self.known(id.as_ref())?;
        let declaration = self.declaration.without(node);
        let zones = self.zones.without(node, |node| declaration.is_placed(node));
        let gone = self.points(id.as_ref(), node, 0..self.declaration.points(node));
        let index = self.index.patched(&gone, &[], Renumber::Remove(node));
        Ok(Self::from_parts(declaration, zones, index))
    }

    /// This ring with another weight for the node `id`, in hundredths. Indices stay.
    ///
    /// # Errors
    ///
    /// An id that the ring does not have, and more points than the limits of a ring allow.
    pub fn with_weight(&self, id: impl AsRef<[u8]>, weight: u32) -> Result<Ring, RingError> {
        let id = id.as_ref();
        let node = self.known(id)?;
        let declaration = self.declaration.reweighted(node, weight)?;
        let (before, after) = (self.declaration.points(node), declaration.points(node));
        self.check_growth(after.saturating_sub(before))?;
        let zones = self.zones.placed(|node| declaration.is_placed(node));
        // The last points come or go; one of the ranges is empty.
        let (gone, new) = (self.points(id, node, after..before), self.points(id, node, before..after));
        let index = self.index.patched(&gone, &new, Renumber::Keep);
        Ok(Self::from_parts(declaration, zones, index))
    }

    /// The node with this id.
    fn known(&self, id: &[u8]) -> Result<NodeIndex, RingError> {
        self.index_of(id).ok_or_else(|| RingError::UnknownId { id: limits::shown(id) })
    }

    /// Refuses more points than a ring may have.
    fn check_growth(&self, more: u32) -> Result<(), RingError> {
        limits::check_total(self.index.len() as u64 + u64::from(more))
    }

    /// Some points of a node, ascending.
    fn points(&self, id: &[u8], node: NodeIndex, numbers: std::ops::Range<u32>) -> Vec<Point> {
        let mut hasher = PointHasher::new(id, self.declaration.seed);
        let mut points: Vec<_> = numbers.map(|i| Point { position: hasher.position(i), node }).collect();
        points.sort_unstable();
        points
    }
}
