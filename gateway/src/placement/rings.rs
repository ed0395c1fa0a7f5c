//! Rings that several services share.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use hashring::{Ring, RingError};
use registry::model::{Endpoint, Member};

/// All that a ring is a function of, in the ring's own order. Equal declarations have equal fingerprints, and unlike a
/// fingerprint they are known before the ring is built.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Declaration {
    seed: u64,
    /// Id, zone and weight, by ascending id.
    nodes: Vec<(String, String, u32)>,
}

/// The rings in use, each built once however many services declare it. A ring goes when the last that holds it goes.
#[derive(Debug, Default)]
pub struct Rings {
    built: HashMap<Declaration, Weak<Ring>>,
}

impl Rings {
    /// The ring of clusters that `members`, sorted by name, declare: ids are the names' bytes, zones the regions',
    /// base 160.
    ///
    /// # Errors
    /// As [`hashring::RingBuilder::build`]: a name twice, too many nodes or points.
    pub fn get(&mut self, members: &[Member], seed: u64) -> Result<Arc<Ring>, RingError> {
        let node = |member: &Member| (member.cluster.to_string(), member.region.clone(), member.weight);
        self.of(Declaration { seed, nodes: members.iter().map(node).collect() })
    }

    /// The ring of a service's endpoints, the inner one: ids, zones and weights as they are declared, base 160.
    ///
    /// # Errors
    /// As [`Rings::get`].
    pub fn inner(&mut self, endpoints: &[Endpoint], seed: u64) -> Result<Arc<Ring>, RingError> {
        let node = |endpoint: &Endpoint| (endpoint.id.clone(), endpoint.zone.clone(), endpoint.weight);
        let mut nodes: Vec<_> = endpoints.iter().map(node).collect();
        nodes.sort_unstable();
        self.of(Declaration { seed, nodes })
    }

    fn of(&mut self, declaration: Declaration) -> Result<Arc<Ring>, RingError> {
        if let Some(ring) = self.built.get(&declaration).and_then(Weak::upgrade) {
            return Ok(ring);
        }
        let mut builder = Ring::builder().seed(declaration.seed);
        for (id, zone, weight) in &declaration.nodes {
            builder = builder.node(id, *weight, zone);
        }
        let ring = Arc::new(builder.build()?);
        // Swept only before the map would grow, so that building many rings stays linear.
        if self.built.len() == self.built.capacity() {
            self.built.retain(|_, ring| ring.strong_count() > 0);
        }
        self.built.insert(declaration, Arc::downgrade(&ring));
        Ok(ring)
    }

    /// How many rings are remembered, in use or not.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.built.len()
    }
}
