//! Consistent hashing with bounded loads (Mirrokni, Thorup and Zadimoghaddam, 2018).

use crate::node::NodeIndex;
use crate::ring::Ring;

/// What the caps of [`Ring::bounded`] are shares of: sums over all nodes with points that are not skipped, in
/// an order or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Totals {
    /// The nodes' load, in what the caller counts: requests, most often.
    pub load: u64,
    /// The nodes' weights.
    pub weight: u64,
}

impl Ring {
    /// Adds up load and weight of all nodes with points but those that `skip` names; a load above `u64::MAX`
    /// counts as that. Asks every node: a caller that has many keeps the totals beside its counts.
    pub fn totals(&self, loads: impl Fn(NodeIndex) -> u64, skip: impl Fn(NodeIndex) -> bool) -> Totals {
        let mut totals = Totals::default();
        for node in self.zones.members().iter().copied().filter(|node| !skip(*node)) {
            totals.load = totals.load.saturating_add(loads(node));
            totals.weight += u64::from(self.declaration.weight(node));
        }
        totals
    }

    /// The first node of `order` that one request more would not take above its cap; where all are at their
    /// caps, the one with the least load for its weight, the earlier in the order at equal loads. None if the
    /// order is empty.
    ///
    /// A node's cap is `ceil(c / 100 * (load + 1) * weight / weights)`, with load and weights from `totals`:
    /// `c_hundredths` times its fair share once this request is counted, so 125 lets a node have a quarter more
    /// than the average. From 100 up some node of a whole order is always below its cap.
    ///
    /// `order` is one of this ring's, without the nodes that are out, whole or cut short. `loads` says how many
    /// requests a node has; the ring counts nothing itself. Counts that move in between, such as those of other
    /// threads, make the bound as soft as the counts, and nothing else.
    pub fn bounded(
        &self,
        order: impl IntoIterator<Item = NodeIndex>,
        c_hundredths: u32,
        totals: Totals,
        loads: impl Fn(NodeIndex) -> u64,
    ) -> Option<NodeIndex> {
        // A whole number is below ceil(a / b) exactly if it is below a / b, so the cap needs no division:
        // load < cap is load * unit < allowed * weight. Neither side reaches 2^128 with the weights of a ring:
        // loads are below 2^64 and unit below 2^55, allowed is below 2^97 and a weight below 2^32. The totals
        // are the caller's, though: no ring has such a weight.
        let unit = 100 * u128::from(totals.weight.min(1 << 48));
        let allowed = u128::from(c_hundredths) * (u128::from(totals.load) + 1);

        let mut least: Option<(NodeIndex, u128, u128)> = None;
        for node in order {
            let (load, weight) = (u128::from(loads(node)), u128::from(self.declaration.weight(node)));
            if load * unit < allowed * weight {
                return Some(node);
            }
            // load / weight < least load / least weight, without the divisions.
            if least.is_none_or(|(_, least_load, least_weight)| load * least_weight < least_load * weight) {
                least = Some((node, load, weight));
            }
        }
        least.map(|(node, _, _)| node)
    }
}
