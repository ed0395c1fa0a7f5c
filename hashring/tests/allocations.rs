//! Answers do not allocate, and a ring is as large as it says.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::hint::black_box;

use allocation_counter::measure;
use hashring::{NodeIndex, Ring};

fn ring(nodes: u32) -> Ring {
    (0..nodes).fold(Ring::builder(), |b, i| b.node(format!("node-{i}"), 100, [i as u8 % 7])).build().unwrap()
}

#[test]
fn no_answer_allocates() {
    for nodes in [0, 1, 2, 30, 1000, 2000] {
        let ring = ring(nodes);
        let half = |node: NodeIndex| node.0.is_multiple_of(2);
        let all = |_: NodeIndex| true;
        let loads = vec![3_u64; ring.len()];
        let answers = measure(|| {
            for hash in (0..50).map(hashring::inner) {
                black_box(ring.hash(&hash.to_le_bytes()));
                black_box(ring.owner(hash));
                // More of them than an order could hold on the way by itself.
                let few = 200;
                black_box(ring.sequence(hash).take(few).chain(ring.near(hash).take(few)).last());
                black_box(ring.spread(hash).take(few).last());
                black_box(ring.sequence(hash).skipping(half).take(few).last());
                black_box(ring.near(hash).skipping(half).take(few).last());
                black_box(ring.spread(hash).skipping(half).take(few).last());
                black_box(ring.sequence(hash).skipping(all).chain(ring.spread(hash).skipping(all)).last());
                let totals = ring.totals(|node| loads[node.get()], half);
                black_box(
                    ring.bounded(ring.near(hash).skipping(half), 125, totals, |node| loads[node.get()]),
                );
                black_box(ring.nodes().map(|node| node.id.len()).max());
                black_box(ring.index_of(b"node-7"));
            }
        });
        assert_eq!(answers.count_total, 0, "{nodes} nodes");
    }
}

#[test]
fn a_ring_is_as_large_as_it_says() {
    for nodes in [0, 3, 1000] {
        let mut built = None;
        let build = measure(|| built = Some(ring(nodes)));
        let built = built.unwrap();
        let footprint = built.footprint();
        assert_eq!(footprint.points, 160 * nodes as usize);
        assert_eq!(build.bytes_current, (footprint.total - size_of::<Ring>()) as i64);

        let mut changed = None;
        let change = measure(|| changed = Some(built.with_node("one more", 100, "").unwrap()));
        let footprint = changed.unwrap().footprint();
        assert_eq!(change.bytes_current, (footprint.total - size_of::<Ring>()) as i64);
    }
}

/// The goals: 8.5 bytes a point to find owners, 19 in all, at every size that matters.
#[test]
fn a_point_takes_no_more_than_its_room() {
    for nodes in [100, 317, 1000, 1009] {
        let footprint = ring(nodes).footprint();
        let per_point = |bytes: usize| bytes as f64 / footprint.points as f64;
        assert!(per_point(footprint.hot) <= 8.0, "{footprint:?}");
        assert!(per_point(footprint.total) <= 19.0, "{footprint:?}");
    }
}
