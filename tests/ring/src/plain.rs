//! What most rings are: sorted points and a binary search for the next one clockwise.

use hashring::Ring;

use crate::{BASE, id, ring};

/// The plain ring.
#[derive(Debug)]
pub struct Plain {
    /// Position and node.
    points: Vec<(u64, u32)>,
    /// A ring without nodes, for its hash.
    hasher: Ring,
}

impl Plain {
    /// A ring of the same nodes and points as [`crate::ring`].
    pub fn new(nodes: u32) -> Self {
        let points = |node: u32| {
            let id = id(node);
            (0..BASE).map(move |i| (hashring::point(id.as_bytes(), i, 0), node))
        };
        let mut points: Vec<_> = (0..nodes).flat_map(points).collect();
        points.sort_unstable();
        Self { points, hasher: ring(0) }
    }

    #[inline]
    fn rank(&self, hash: u64) -> usize {
        let (Ok(rank) | Err(rank)) = self.points.binary_search_by_key(&hash, |(position, _)| *position);
        if rank < self.points.len() { rank } else { 0 }
    }

    /// The owner of `hash`.
    #[inline]
    pub fn owner(&self, hash: u64) -> u32 {
        self.points[self.rank(hash)].1
    }

    /// The owner of a key.
    #[inline(never)]
    pub fn owner_of(&self, key: &[u8]) -> u32 {
        self.owner(self.hasher.hash(key))
    }

    /// The first three nodes clockwise from `hash`; of a ring that has as many.
    #[inline]
    pub fn three(&self, hash: u64) -> [u32; 3] {
        let mut rank = self.rank(hash);
        let mut found = [u32::MAX; 3];
        let mut count = 0;
        while count < 3 {
            let node = self.points[rank].1;
            if !found[..count].contains(&node) {
                found[count] = node;
                count += 1;
            }
            rank = if rank + 1 < self.points.len() { rank + 1 } else { 0 };
        }
        found
    }
}
