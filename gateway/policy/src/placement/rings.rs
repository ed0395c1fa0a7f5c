//! Rings that several services share.

use std::sync::Arc;

use hashring::{Ring, RingError};
use registry::model::{Endpoint, Member};

use super::shared::Shared;

/// All that a ring is a function of, in the ring's own order. Equal declarations have equal fingerprints, and unlike a
/// fingerprint they are known before the ring is built.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Declaration {
    seed: u64,
    /// Id, zone and weight, by ascending id.
    nodes: Vec<(Arc<str>, Arc<str>, u32)>,
}

/// The rings in use, each built once however many services declare it. A ring goes when the last that holds it goes.
#[derive(Debug, Default)]
pub struct Rings {
    built: Shared<Declaration, Ring>,
}

impl Rings {
    /// The ring of clusters that `members`, sorted by name, declare: ids are the names' bytes, zones the regions',
    /// base 160.
    ///
    /// # Errors
    /// As [`hashring::RingBuilder::build`]: a name twice, too many nodes or points.
    pub fn get(&mut self, members: &[Member], seed: u64) -> Result<Arc<Ring>, RingError> {
        let node = |member: &Member| (member.cluster.as_str().into(), (*member.region).into(), member.weight);
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
        self.built.get(declaration, |Declaration { seed, nodes }| {
            let ring = nodes.iter().fold(Ring::builder().seed(*seed), |ring, (id, zone, weight)| {
                ring.node(id.as_bytes(), *weight, zone.as_bytes())
            });
            ring.build()
        })
    }

    /// How many rings are remembered, in use or not.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.built.len()
    }
}
