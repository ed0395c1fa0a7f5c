//! What the records of one peer add up to, against what one peer may cost.

use std::collections::HashMap;

use prost::Message;
use proto::limits;

use crate::model::record;
use crate::model::{Import, Member};

/// Which budget of the peer a record does not fit into any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Over {
    /// [`limits::SYNC_RECORDS_PER_PEER_MAX`].
    #[error("the peer has {max} services here already, no more are taken", max = limits::SYNC_RECORDS_PER_PEER_MAX)]
    Records,
    /// [`limits::PEER_BYTES_MAX`].
    #[error("the peer's records would have more than {max} bytes", max = limits::PEER_BYTES_MAX)]
    Bytes,
    /// [`limits::PEER_PARTS_MAX`].
    #[error("the peer's records would have more than {max} ports, members, tiers and keys", max = limits::PEER_PARTS_MAX)]
    Parts,
    /// [`limits::PEER_POINTS_MAX`].
    #[error("the peer's contracts would ask for more than {max} points of different rings", max = limits::PEER_POINTS_MAX)]
    Points,
}

/// What the records of one peer add up to.
#[derive(Clone, Debug)]
pub(super) struct Budget {
    records_max: usize,
    records: usize,
    bytes: usize,
    parts: usize,
    points: u64,
    /// How many records ask for each ring: it is built once.
    rings: HashMap<Ring, usize>,
}

/// All that the ring of a contract is a function of; without members it is that of those who serve.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Ring {
    seed: u64,
    members: Option<Box<[Member]>>,
}

impl Ring {
    fn of(import: &Import) -> Option<Self> {
        let contract = import.contract.as_deref()?;
        Some(Self { seed: contract.seed, members: contract.members.as_deref().map(Into::into) })
    }

    fn points(&self) -> u64 {
        self.members.as_deref().map_or(0, record::points).max(limits::RING_POINTS_MIN)
    }
}

impl Budget {
    /// Of nothing yet; so many records are allowed.
    pub(super) fn new(records_max: usize) -> Self {
        Self { records_max, records: 0, bytes: 0, parts: 0, points: 0, rings: HashMap::new() }
    }

    /// Takes `after` in, in the place of `before`.
    ///
    /// # Errors
    /// [`Over`]: everything is as it was.
    pub(super) fn replace(&mut self, before: Option<&Import>, after: &Import) -> Result<(), Over> {
        if let Some(before) = before {
            self.remove(before);
        }
        let taken = self.add(after);
        if let (Err(_), Some(before)) = (&taken, before) {
            // It did fit.
            self.count(before, Ring::of(before));
        }
        taken
    }

    /// Forgets a record that was taken in.
    pub(super) fn remove(&mut self, import: &Import) {
        self.records -= 1;
        self.bytes -= bytes(import);
        self.parts -= parts(import);
        if let Some(ring) = Ring::of(import)
            && let Some(asking) = self.rings.get_mut(&ring)
        {
            *asking -= 1;
            if *asking == 0 {
                self.rings.remove(&ring);
                self.points -= ring.points();
            }
        }
    }

    fn add(&mut self, import: &Import) -> Result<(), Over> {
        let ring = Ring::of(import);
        let new = ring.as_ref().filter(|ring| !self.rings.contains_key(ring));
        if self.records >= self.records_max {
            return Err(Over::Records);
        }
        if self.bytes + bytes(import) > limits::PEER_BYTES_MAX {
            return Err(Over::Bytes);
        }
        if self.parts + parts(import) > limits::PEER_PARTS_MAX {
            return Err(Over::Parts);
        }
        if self.points + new.map_or(0, Ring::points) > limits::PEER_POINTS_MAX {
            return Err(Over::Points);
        }
        self.count(import, ring);
        Ok(())
    }

    fn count(&mut self, import: &Import, ring: Option<Ring>) {
        self.records += 1;
        self.bytes += bytes(import);
        self.parts += parts(import);
        if let Some(ring) = ring {
            let points = ring.points();
            let asking = self.rings.entry(ring).or_default();
            if *asking == 0 {
                self.points += points;
            }
            *asking += 1;
        }
    }
}

/// What it takes in a store.
fn bytes(import: &Import) -> usize {
    record::stored(import).encoded_len()
}

/// Ports, members, entries of tiers and sources of keys.
fn parts(import: &Import) -> usize {
    let of_contract = import.contract.as_deref().map_or(0, |contract| {
        let members = contract.members.as_ref().map_or(0, Vec::len);
        let tiers = contract.tiers.as_ref().map_or(0, |tiers| tiers.iter().map(|tier| 1 + tier.len()).sum());
        members + tiers + contract.hash.len()
    });
    import.ports.len() + of_contract
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;
    use crate::model::{ClusterName, Contract, Port, Protocol, ServiceName};

    fn import(name: &str, members: usize, weight: u32, seed: u64) -> Import {
        let member =
            |n| Member { cluster: ClusterName::new(&format!("c{n}")).unwrap(), region: "r".into(), weight };
        let members = (members > 0).then(|| (0..members).map(member).collect());
        Import {
            name: ServiceName::new("shop", name).unwrap(),
            ports: [Port { name: "web".into(), number: 80, protocol: Protocol::Http, proxy_header: false }]
                .into(),
            region: "r".into(),
            contract: Some(Box::new(Contract { generation: 1, seed, members, ..Contract::default() })),
            revision: 1,
        }
    }

    #[test]
    fn rings_that_records_share_are_counted_once_and_others_up_to_the_budget() {
        let mut budget = Budget::new(usize::MAX);
        for n in 0..1_000 {
            budget.replace(None, &import(&format!("s{n}"), 10, 100, 7)).unwrap();
        }
        assert_eq!(budget.points, 1_600);
        let seeds = (0..).find(|&seed| {
            budget.replace(None, &import(&format!("t{seed}"), 16, 10_000, 100 + seed)).is_err()
        });
        assert_eq!(seeds.unwrap(), (limits::PEER_POINTS_MAX - 1_600) / (16 * 16_000));
        // What costs nothing more still goes in, and so does what takes the place of another.
        budget.replace(None, &import("u", 10, 100, 7)).unwrap();
        let large = import("t0", 16, 10_000, 100);
        budget.replace(Some(&large), &import("t0", 16, 10_000, 99)).unwrap();
    }

    #[test]
    fn a_contract_of_little_weight_or_without_members_is_not_free() {
        for (members, weight) in [(0, 0), (1, 1), (3, 1)] {
            let mut budget = Budget::new(usize::MAX);
            let taken = (0..10_000)
                .take_while(|&n| budget.replace(None, &import(&format!("s{n}"), members, weight, n)).is_ok());
            assert_eq!(taken.count() as u64, limits::PEER_POINTS_MAX / limits::RING_POINTS_MIN);
        }
    }

    #[test]
    fn what_does_not_fit_changes_nothing() {
        let mut budget = Budget::new(1);
        let (one, other) = (import("a", 5, 100, 1), import("b", 5, 100, 2));
        budget.replace(None, &one).unwrap();
        let before = format!("{budget:?}");
        assert_eq!(budget.replace(None, &other), Err(Over::Records));
        assert_eq!(format!("{budget:?}"), before);
        budget.remove(&one);
        assert_eq!((budget.records, budget.bytes, budget.parts, budget.points), (0, 0, 0, 0));
        assert!(budget.rings.is_empty());
    }

    proptest! {
        /// Whatever comes in whatever order, no sum is ever above its budget, and all of it comes back.
        #[test]
        fn no_order_of_changes_gets_above_the_budget(
            changes in prop::collection::vec((0_usize..6, 0_usize..1024, 0_u32..160, 0_u64..4, any::<bool>()), 1..60),
        ) {
            let mut budget = Budget::new(4);
            let mut held: HashMap<usize, Import> = HashMap::new();
            for (name, members, weight, seed, remove) in changes {
                if remove {
                    if let Some(gone) = held.remove(&name) {
                        budget.remove(&gone);
                    }
                } else {
                    let after = import(&format!("s{name}"), members, weight, seed);
                    if budget.replace(held.get(&name), &after).is_ok() {
                        held.insert(name, after);
                    }
                }
                prop_assert!(budget.records <= 4 && budget.points <= limits::PEER_POINTS_MAX);
                prop_assert_eq!(budget.records, held.len());
                prop_assert_eq!(budget.bytes, held.values().map(bytes).sum::<usize>());
                prop_assert_eq!(budget.parts, held.values().map(parts).sum::<usize>());
            }
            held.values().for_each(|gone| budget.remove(gone));
            prop_assert_eq!((budget.bytes, budget.parts, budget.points, budget.rings.len()), (0, 0, 0, 0));
        }
    }
}
