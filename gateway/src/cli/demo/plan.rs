//! The fixed facts of the demo: its clusters, services and keys, and where each key belongs.

use hashring::{Ring, RingError};

/// How many different values of `x-user` the load uses.
pub(super) const KEYS: usize = 500;

/// Generation of the contract of `shop/cart`.
pub(super) const GENERATION: u64 = 1;

/// The three clusters, in the order in which they are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cluster {
    /// Where all load enters; never killed.
    West,
    /// One of the two that may be killed.
    East,
    /// The other one.
    North,
}

/// The two services, each served in every cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Service {
    /// Local-first, no key.
    Web,
    /// Sharded by `x-user`.
    Cart,
}

impl Cluster {
    /// All clusters.
    pub(super) const ALL: [Self; 3] = [Self::West, Self::East, Self::North];

    /// The name, as manifests and certificates have it.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::West => "west",
            Self::East => "east",
            Self::North => "north",
        }
    }

    /// The region: the ring's zone.
    pub(super) const fn region(self) -> &'static str {
        match self {
            Self::West => "us-west",
            Self::East => "us-east",
            Self::North => "us-north",
        }
    }

    /// The cluster of this name.
    pub(super) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|c| c.name() == name)
    }

    /// Position in [`Self::ALL`].
    pub(super) const fn index(self) -> usize {
        self as usize
    }

    /// The other two.
    pub(super) fn peers(self) -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().filter(move |&c| c != self)
    }
}

impl Service {
    /// Both services.
    pub(super) const ALL: [Self; 2] = [Self::Web, Self::Cart];

    /// The name within the namespace `shop`.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Web => "web",
            Self::Cart => "cart",
        }
    }

    /// The name with its namespace, as the status shows it.
    pub(super) const fn full_name(self) -> &'static str {
        match self {
            Self::Web => "shop/web",
            Self::Cart => "shop/cart",
        }
    }

    /// The name in the authority of a request.
    pub(super) const fn host(self) -> &'static str {
        match self {
            Self::Web => "web.shop.mesh",
            Self::Cart => "cart.shop.mesh",
        }
    }
}

/// The value of `x-user` with this number.
pub(super) fn key(number: usize) -> String {
    format!("user-{number:03}")
}

/// For each key the clusters in near order, its owner first.
#[derive(Clone, Debug)]
pub(super) struct Placement {
    near: Vec<Vec<Cluster>>,
}

impl Placement {
    /// The placement of every key by the contract of `shop/cart`, worked out without asking any gateway.
    ///
    /// # Errors
    /// When the ring refuses the members.
    pub(super) fn of_contract() -> Result<Self, RingError> {
        let mut builder = Ring::builder();
        for cluster in Cluster::ALL {
            builder = builder.node(cluster.name().as_bytes(), 100, cluster.region().as_bytes());
        }
        let ring = builder.build()?;
        let order = |number: usize| {
            ring.near(ring.hash(key(number).as_bytes()))
                .filter_map(|node| {
                    Cluster::ALL.into_iter().find(|c| c.name().as_bytes() == ring.node(node).id)
                })
                .collect()
        };
        Ok(Self { near: (0..KEYS).map(order).collect() })
    }

    /// The clusters for key `number`, in the order in which they are tried.
    pub(super) fn near(&self, number: usize) -> &[Cluster] {
        self.near.get(number).map_or(&[], Vec::as_slice)
    }

    /// Whether `cluster` owns key `number`.
    pub(super) fn owns(&self, cluster: Cluster, number: usize) -> bool {
        self.near(number).first() == Some(&cluster)
    }

    /// How many of the keys `cluster` owns.
    pub(super) fn owned(&self, cluster: Cluster) -> usize {
        (0..KEYS).filter(|&number| self.owns(cluster, number)).count()
    }

    /// Of the clusters that may be killed, the one that owns more keys.
    pub(super) fn victim(&self) -> Cluster {
        if self.owned(Cluster::North) > self.owned(Cluster::East) { Cluster::North } else { Cluster::East }
    }

    /// A placement from given orders, for tests of what judges by it.
    #[cfg(test)]
    pub(super) fn from_orders(near: Vec<Vec<Cluster>>) -> Self {
        Self { near }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn each_key_has_every_cluster_once() {
        let placement = Placement::of_contract().unwrap();
        for number in 0..KEYS {
            for cluster in Cluster::ALL {
                assert_eq!(
                    placement.near(number).iter().filter(|&&c| c == cluster).count(),
                    1,
                    "key {number}"
                );
            }
        }
    }

    #[test]
    fn the_victim_owns_most_of_the_keys_that_can_be_lost() {
        let placement = Placement::of_contract().unwrap();
        let victim = placement.victim();
        assert_ne!(victim, Cluster::West);
        for cluster in Cluster::West.peers() {
            assert!(placement.owned(victim) >= placement.owned(cluster));
        }
        assert_eq!(Cluster::ALL.map(|c| placement.owned(c)).iter().sum::<usize>(), KEYS);
    }

    #[test]
    fn names_lead_back_to_their_clusters() {
        for cluster in Cluster::ALL {
            assert_eq!(Cluster::named(cluster.name()), Some(cluster));
            assert_eq!(Cluster::ALL[cluster.index()], cluster);
        }
        assert_eq!(Cluster::named("south"), None);
    }
}
