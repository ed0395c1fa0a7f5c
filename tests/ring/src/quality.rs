//! How evenly keys fall, how few move, and how little a bound on the load displaces.

use std::cell::Cell;

use hashring::{NodeIndex, Ring};
use ringbench::{BASE, Hashes, id, ring};

use crate::{Effort, figure};

const NODES: u32 = 1000;

pub(crate) fn measure(effort: Effort) {
    balance("balance", BASE, effort);
    balance("balance_1024", 1024, effort);
    collateral();
    bounded();
}

fn balance(name: &str, base: u32, effort: Effort) {
    let builder =
        (0..NODES).fold(Ring::builder().base(base), |builder, node| builder.node(id(node), 100, ""));
    let ring = builder.build().expect("an id each");
    let mut counts = vec![0_u32; ring.len()];
    for hash in (0..effort.keys as u64).map(|key| ring.hash(&key.to_le_bytes())) {
        if let Some(owner) = ring.owner(hash) {
            counts[owner.get()] += 1;
        }
    }
    let mean = effort.keys as f64 / f64::from(NODES);
    let variance = counts.iter().map(|count| (f64::from(*count) / mean - 1.0).powi(2)).sum::<f64>();
    let most = counts.iter().copied().max().unwrap_or_default();
    figure(&format!("{name}.n1000.stddev_pct"), (variance / f64::from(NODES)).sqrt() * 100.0, "%");
    figure(&format!("{name}.n1000.max_over_mean"), f64::from(most) / mean, "x");
}

/// Keys moved between nodes that neither joined, nor left, nor changed their weight, and intervals of hashes that
/// would hold such keys.
fn collateral() {
    let before = ring(NODES);
    let old = id(500);
    let changes = [
        before.with_node("10.0.1.250:8081", 100, ""),
        before.without_node(&old),
        before.with_weight(&old, 150),
        before.with_weight(&old, 50),
    ];
    let changed = ["10.0.1.250:8081", &old, &old, &old];
    let mut keys = 0;
    for (after, changed) in changes.iter().zip(changed) {
        let after = after.as_ref().expect("a change within the limits");
        let id = |ring: &Ring, node: Option<NodeIndex>| node.map(|node| ring.node(node).id.to_vec());
        let is_collateral = |from: Option<NodeIndex>, to: Option<NodeIndex>| {
            let (from, to) = (id(&before, from), id(after, to));
            from != to && ![from, to].contains(&Some(changed.as_bytes().to_vec()))
        };
        let flows = before.diff(after).expect("rings of one seed");
        keys += flows.iter().filter(|flow| is_collateral(flow.from, flow.to)).count();
        keys += Hashes(1)
            .take(250_000)
            .filter(|&hash| is_collateral(before.owner(hash), after.owner(hash)))
            .count();
    }
    figure("collateral.keys", keys as f64, "keys");
}

fn bounded() {
    let requests = 1_000_000;
    let ring = ring(NODES);
    let mut loads = vec![0_u64; ring.len()];
    let mut totals = ring.totals(|_| 0, |_| false);
    let (mut displaced, tried) = (0, Cell::new(0));
    for hash in (0..requests as u64).map(|key| ring.hash(&key.to_le_bytes())) {
        let order = ring.sequence(hash).inspect(|_| tried.set(tried.get() + 1));
        let node = ring.bounded(order, 125, totals, |node| loads[node.get()]).expect("nodes with points");
        displaced += usize::from(ring.owner(hash) != Some(node));
        loads[node.get()] += 1;
        totals.load += 1;
    }
    let most = loads.into_iter().max().unwrap_or_default();
    let share = |count: usize| count as f64 / requests as f64;
    figure("bounded.max_over_mean", most as f64 / (requests as f64 / f64::from(NODES)), "x");
    figure("bounded.displaced_pct", share(displaced) * 100.0, "%");
    figure("bounded.nodes_tried", share(tried.get()), "nodes");
}
