//! Consistent hashing with bounded loads (Mirrokni, Thorup and Zadimoghaddam, 2018).

use crate::node::NodeIndex;
use crate::ring::Ring;

impl Ring {
    /// The first node of `order` that one request more would not take above its cap; where all are at their
    /// caps, the one with the least load for its weight, the earlier in the order at equal loads. None if every
    /// node of the order is skipped.
    ///
    /// A node's cap is `ceil(c / 100 * (total + 1) * weight / weights)`: `c_hundredths` times its fair share
    /// once this request is counted, so 125 lets a node have a quarter more than the average. Total load and
    /// total weight are over all nodes with points that are not skipped, in the order or not; a total above
    /// `u64::MAX` counts as that. From 100 up some node of a whole order is always below its cap.
    ///
    /// `order` is one of this ring's, whole or cut short. `loads` says how many requests a node has and `skip`
    /// which nodes are out; the ring counts nothing itself. Both are asked twice a node: counts that move in
    /// between, such as those of other threads, make the bound as soft as the counts, and nothing else.
    pub fn bounded(
        &self,
        order: impl IntoIterator<Item = NodeIndex>,
        c_hundredths: u32,
        loads: impl Fn(NodeIndex) -> u64,
        skip: impl Fn(NodeIndex) -> bool,
    ) -> Option<NodeIndex> {
        let (mut total, mut weights) = (0_u64, 0_u64);
        for node in self.placed_nodes().filter(|node| !skip(*node)) {
            total = total.saturating_add(loads(node));
            weights += u64::from(self.node(node).weight);
        }
        // A whole number is below ceil(a / b) exactly if it is below a / b, so the cap needs no division:
        // load < cap is load * unit < allowed * weight. Neither side reaches 2^128: loads are below 2^64 and
        // unit below 2^55, allowed is below 2^96 and a weight below 2^32.
        let unit = 100 * u128::from(weights);
        let allowed = u128::from(c_hundredths) * (u128::from(total) + 1);

        let mut least: Option<(NodeIndex, u128, u128)> = None;
        for node in order.into_iter().filter(|node| !skip(*node)) {
            let (load, weight) = (u128::from(loads(node)), u128::from(self.node(node).weight));
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
