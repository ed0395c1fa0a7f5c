//! On which cluster a request goes: the placement contract, bound to the cluster that places.
//!
//! A [`Placement`] is built once per change of a contract and asked for every attempt of every request. What a gateway
//! sees of the others (links, health, readiness) never changes the ring; it comes in as [`Availability`] and changes
//! what is skipped. So all gateways agree on a key's order, and a cluster that returns gets its own keys back.
//!
//! The choice is made anew for each attempt, from what is known at that moment, with the clusters already tried left
//! out: a request whose first attempt took long must not go to a cluster that has died since.
//!
//! A contract that leaves out clusters which serve must not take a service away: while none of its members can serve,
//! these spares are tried, unless it is closed on purpose (an explicit list of tiers, or `onOwnerUnavailable: fail`).

mod rings;
mod shared;

use std::sync::Arc;

use hashring::{NodeIndex, Ring, RingError};
use registry::model::{ClusterName, Contract, Member, Mode, OnOwnerUnavailable, Tier};

use shared::Shared;

pub use rings::Rings;

/// What this gateway knows of a cluster's ability to serve one service now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Availability {
    /// Linked, imported (or our own), with something ready.
    Up,
    /// Its gateways are silent while something is owed, or fewer than half of its endpoints are eligible: taken only when
    /// nothing better is left.
    Suspect,
    /// It has told that nothing there is ready, which may have changed since: asked behind all others.
    Unready,
    /// Its gateways are down, or it is our own and has nothing to ask.
    Down,
    /// A member that is not linked, not imported or not joined to the union name.
    Unreachable,
}

impl Availability {
    /// The word for status and audit lines.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Suspect => "suspect",
            Self::Unready => "unready",
            Self::Down => "down",
            Self::Unreachable => "unreachable",
        }
    }

    /// Whether a request may go there at all.
    fn usable(self) -> bool {
        matches!(self, Self::Up | Self::Suspect)
    }
}

/// The tier of a node that is in none: an explicit list of tiers is closed.
const NO_TIER: u16 = u16::MAX;

/// The contract of one service as the cluster that places sees it.
#[derive(Clone, Debug)]
pub struct Placement {
    ring: Arc<Ring>,
    /// In the order of the ring's nodes, which is by ascending name; behind them the spares, in the same order.
    everyone: Box<[Member]>,
    /// How many of them are members.
    members: usize,
    /// Whether its list of tiers is explicit.
    closed: bool,
    local: Option<NodeIndex>,
    generation: u64,
    seed: u64,
    mode: Mode,
    on_owner_unavailable: OnOwnerUnavailable,
    /// Disjoint, none empty, nodes with weight only. A node belongs to the first tier that takes it.
    tiers: Box<[Box<[NodeIndex]>]>,
    /// Index into `tiers` by node, or [`NO_TIER`].
    tier_of: Box<[u16]>,
}

impl Placement {
    /// Binds `contract` to the cluster `here` in `region`.
    ///
    /// `known` are the clusters known to serve; they count only where the contract lists no members. Where the
    /// contract lists `here`, the region it gives is the one that `same-region` means.
    ///
    /// # Errors
    /// When the members make no ring: a name twice, or more points than a ring holds.
    pub fn new(
        contract: &Contract,
        known: &[Member],
        here: &ClusterName,
        region: &str,
        rings: &mut Rings,
    ) -> Result<Self, RingError> {
        let mut members = contract.members.as_deref().unwrap_or(known).to_vec();
        members.sort_unstable_by(|a, b| a.cluster.cmp(&b.cluster));
        let ring = rings.get(&members, contract.seed)?;

        let local = find(&members, here.as_str());
        let region = local.map_or(region, |node| &members[node.get()].region);
        let default = default_tiers();
        let declared = match (contract.mode, &contract.tiers) {
            (Mode::LocalFirst, Some(tiers)) => tiers,
            (Mode::LocalFirst, None) | (Mode::Sharded, _) => &default,
        };
        let mut tier_of = vec![NO_TIER; members.len()];
        let mut tiers = Vec::new();
        for entries in declared {
            let takes = |member: &Member| {
                entries.iter().any(|entry| match entry {
                    Tier::Local => member.cluster == *here,
                    Tier::SameRegion => member.region == region,
                    Tier::Any => true,
                    Tier::Cluster(name) => member.cluster == *name,
                })
            };
            // There are never more tiers that take a node than nodes, and never more nodes than `u16::MAX - 1`.
            let this = u16::try_from(tiers.len()).unwrap_or(NO_TIER);
            let mut nodes = Vec::new();
            for (index, member) in (0..).zip(&members) {
                let node = NodeIndex(index);
                if member.weight > 0 && tier_of[node.get()] == NO_TIER && takes(member) {
                    tier_of[node.get()] = this;
                    nodes.push(node);
                }
            }
            if !nodes.is_empty() {
                tiers.push(nodes.into_boxed_slice());
            }
        }
        Ok(Self {
            ring,
            members: members.len(),
            everyone: members.into(),
            local,
            generation: contract.generation,
            seed: contract.seed,
            mode: contract.mode,
            on_owner_unavailable: contract.on_owner_unavailable,
            closed: contract.mode == Mode::LocalFirst && contract.tiers.is_some(),
            tiers: tiers.into(),
            tier_of: tier_of.into(),
        })
    }

    /// The same where `servers` serve as well: those that are no members are its spares.
    fn with_spares(mut self, servers: &[Member]) -> Self {
        let members = &self.everyone[..self.members];
        let mut spares: Vec<_> = servers
            .iter()
            .filter(|server| find(members, server.cluster.as_str()).is_none())
            .cloned()
            .collect();
        spares.sort_unstable_by(|a, b| a.cluster.cmp(&b.cluster));
        // A ring leaves one number free; whoever finds none has none.
        spares.truncate(usize::from(u16::MAX).saturating_sub(members.len()));
        self.everyone = members.iter().cloned().chain(spares).collect();
        self
    }

    /// The cluster for the next attempt of a request: the first in the contract's order that is available and not in
    /// `tried`; `None` when no cluster is left. `hash` is the key's, from [`Placement::hash`] or the head.
    ///
    /// Suspect clusters come behind all others, in the same order among themselves; behind those the spares, while no
    /// member can serve; and last whoever says that nothing is ready there, who would most likely refuse. Only `rng`
    /// decides between clusters of one tier when there is no key.
    ///
    /// With what `capacity` knows of the room that clusters have it and not the contract's weight decides between them,
    /// once it is known of all that are in question.
    pub fn next(
        &self,
        hash: Option<u64>,
        tried: &[NodeIndex],
        availability: impl Fn(NodeIndex) -> Availability,
        capacity: impl Fn(NodeIndex) -> Option<u32>,
        rng: &mut fastrand::Rng,
    ) -> Option<NodeIndex> {
        let up = |node: NodeIndex| availability(node) == Availability::Up && !tried.contains(&node);
        // Not "is suspect": a cluster that came up between the two looks must not be missed by both.
        let usable = |node: NodeIndex| availability(node).usable() && !tried.contains(&node);
        let askable = |node: NodeIndex| {
            let availability = availability(node);
            (availability.usable() || availability == Availability::Unready) && !tried.contains(&node)
        };
        let member = self.member(hash, up, &capacity, rng);
        if let Some(member) = member.or_else(|| self.member(hash, usable, &capacity, rng)) {
            return Some(member);
        }
        // A member that was tried and can serve has given its answer.
        let served = |(node, member): (NodeIndex, &Member)| member.weight > 0 && availability(node).usable();
        let spares: Vec<_> = match self.opens_to_spares(hash) && !self.nodes().any(served) {
            true => self.spares().map(|(node, _)| node).collect(),
            false => Vec::new(),
        };
        self.draw(&spares, up, &capacity, rng)
            .or_else(|| self.draw(&spares, usable, &capacity, rng))
            .or_else(|| self.member(hash, askable, &capacity, rng))
            .or_else(|| self.draw(&spares, askable, &capacity, rng))
    }

    /// The first member in the contract's order that `takes` accepts.
    fn member(
        &self,
        hash: Option<u64>,
        takes: impl Fn(NodeIndex) -> bool,
        capacity: impl Fn(NodeIndex) -> Option<u32>,
        rng: &mut fastrand::Rng,
    ) -> Option<NodeIndex> {
        match (self.mode, hash) {
            (Mode::Sharded, Some(hash)) => {
                let owner = self.ring.owner(hash)?;
                match self.on_owner_unavailable {
                    _ if takes(owner) => Some(owner),
                    OnOwnerUnavailable::Fail => None,
                    OnOwnerUnavailable::Next => self.ring.near(hash).find(|&node| takes(node)),
                }
            }
            (Mode::LocalFirst, _) | (Mode::Sharded, None) => self.first_in_tiers(hash, takes, capacity, rng),
        }
    }

    /// Whether spares may take what no member can, of a key with this hash.
    fn opens_to_spares(&self, hash: Option<u64>) -> bool {
        let fails = self.mode == Mode::Sharded
            && hash.is_some()
            && self.on_owner_unavailable == OnOwnerUnavailable::Fail;
        self.members < self.everyone.len() && !self.closed && !fails
    }

    /// The first tier's choice among the nodes that `takes` accepts.
    fn first_in_tiers(
        &self,
        hash: Option<u64>,
        takes: impl Fn(NodeIndex) -> bool,
        capacity: impl Fn(NodeIndex) -> Option<u32>,
        rng: &mut fastrand::Rng,
    ) -> Option<NodeIndex> {
        (0..).zip(&self.tiers).find_map(|(tier, nodes)| match (hash, &**nodes) {
            (_, &[only]) => takes(only).then_some(only),
            (Some(hash), _) => {
                self.ring.near(hash).find(|&node| self.tier_of[node.get()] == tier && takes(node))
            }
            (None, nodes) => self.draw(nodes, &takes, &capacity, rng),
        })
    }

    /// One of `nodes`, drawn by capacity or else weight in a single pass (A-Chao): what changes meanwhile does no harm.
    fn draw(
        &self,
        nodes: &[NodeIndex],
        takes: impl Fn(NodeIndex) -> bool,
        capacity: impl Fn(NodeIndex) -> Option<u32>,
        rng: &mut fastrand::Rng,
    ) -> Option<NodeIndex> {
        let open = || nodes.iter().copied().filter(|&node| takes(node));
        let known = open().all(|node| capacity(node).is_some());
        let mut total = 0;
        let mut drawn = None;
        for node in open() {
            let room = if known { capacity(node) } else { None };
            let weight = u64::from(room.unwrap_or(self.everyone[node.get()].weight).max(1));
            total += weight;
            if drawn.is_none() || rng.u64(0..total) < weight {
                drawn = Some(node);
            }
        }
        drawn
    }

    /// The whole order of a request while `availability` and `capacity` hold: what repeated [`Placement::next`] gives. For
    /// people; it allocates.
    pub fn order(
        &self,
        hash: Option<u64>,
        availability: impl Fn(NodeIndex) -> Availability,
        capacity: impl Fn(NodeIndex) -> Option<u32>,
        rng: &mut fastrand::Rng,
    ) -> Vec<NodeIndex> {
        let mut order = Vec::new();
        while let Some(node) = self.next(hash, &order, &availability, &capacity, rng) {
            order.push(node);
        }
        order
    }

    /// The hash of a key; computed once, at the first hop, and carried.
    pub fn hash(&self, key: &[u8]) -> u64 {
        self.ring.hash(key)
    }

    /// The cluster that owns a hash, whatever its state; `None` when no member has weight.
    pub fn owner(&self, hash: u64) -> Option<&ClusterName> {
        self.ring.owner(hash).map(|node| self.cluster(node))
    }

    /// Whether a request's head agrees with our contract: its generation and, where it carries a key, the owner it
    /// names. A request of generation 0 or for a pinned name says nothing that could be checked; it carries 0.
    pub fn agrees(&self, generation: u64, hash: Option<u64>, owner: Option<&str>) -> bool {
        generation == 0
            || (generation == self.generation
                && hash.is_none_or(|hash| self.owner(hash).map(ClusterName::as_str) == owner))
    }

    /// The contract's generation, 0 if nobody declared one.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The ring's seed.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// What happens to a key whose owner cannot serve.
    pub fn on_owner_unavailable(&self) -> OnOwnerUnavailable {
        self.on_owner_unavailable
    }

    /// The place of a node's tier in the order in which requests that have no owner try them, from 0; `None` for a
    /// node that is in none.
    pub fn tier(&self, node: NodeIndex) -> Option<u16> {
        self.tier_of.get(node.get()).copied().filter(|&tier| tier != NO_TIER)
    }

    /// The contract's mode.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// The ring of clusters.
    pub fn ring(&self) -> &Arc<Ring> {
        &self.ring
    }

    /// The members in the order of the ring's nodes.
    pub fn members(&self) -> &[Member] {
        &self.everyone[..self.members]
    }

    /// The members with their nodes.
    pub fn nodes(&self) -> impl Iterator<Item = (NodeIndex, &Member)> {
        (0..).map(NodeIndex).zip(self.members())
    }

    /// The clusters that serve and are no members, with numbers beyond the ring's nodes.
    pub fn spares(&self) -> impl Iterator<Item = (NodeIndex, &Member)> {
        (0..).map(NodeIndex).zip(&self.everyone).skip(self.members)
    }

    /// The members and then the spares, in the order of their numbers.
    pub fn everyone(&self) -> &[Member] {
        &self.everyone
    }

    /// The cluster of a node of this placement's ring, or of a spare.
    ///
    /// # Panics
    /// When `node` is of a larger ring.
    pub fn cluster(&self, node: NodeIndex) -> &ClusterName {
        &self.everyone[node.get()].cluster
    }

    /// The node of a cluster, if it is a member.
    pub fn node(&self, cluster: &str) -> Option<NodeIndex> {
        find(self.members(), cluster)
    }

    /// The cluster that places, if it is a member.
    pub fn local(&self) -> Option<NodeIndex> {
        self.local
    }
}

/// The placements in use, each built once however many services declare it: most have the same.
#[derive(Debug, Default)]
pub struct Placements {
    /// The rings that they and others share.
    pub rings: Rings,
    built: Shared<Terms, Placement>,
}

/// All that a placement is a function of.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Terms {
    contract: Contract,
    known: Vec<Member>,
    servers: Vec<Member>,
    here: ClusterName,
    region: String,
}

impl Placements {
    /// As [`Placement::new`]; those of `servers` that are no members are its spares.
    ///
    /// # Errors
    /// As [`Placement::new`].
    pub fn get(
        &mut self,
        contract: &Contract,
        known: &[Member],
        servers: Vec<Member>,
        here: &ClusterName,
        region: &str,
    ) -> Result<Arc<Placement>, RingError> {
        let known = if contract.members.is_none() { known } else { &[] };
        let terms = Terms {
            contract: contract.clone(),
            known: known.into(),
            servers,
            here: here.clone(),
            region: region.into(),
        };
        let rings = &mut self.rings;
        let build = |terms: &Terms| {
            let placement = Placement::new(&terms.contract, &terms.known, here, region, rings)?;
            Ok(placement.with_spares(&terms.servers))
        };
        self.built.get(terms, build)
    }
}

/// The tiers of `local-first` without a list, and of `sharded` without a key.
fn default_tiers() -> Vec<Vec<Tier>> {
    vec![vec![Tier::Local], vec![Tier::SameRegion], vec![Tier::Any]]
}

/// The node of a cluster among members sorted by name.
fn find(members: &[Member], cluster: &str) -> Option<NodeIndex> {
    let rank = members.binary_search_by(|member| member.cluster.as_str().cmp(cluster)).ok()?;
    u16::try_from(rank).ok().map(NodeIndex)
}

#[cfg(test)]
mod tests;
