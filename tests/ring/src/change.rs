//! What a change of the set and a build take.

use std::cell::Cell;
use std::hint::black_box;
use std::sync::Arc;

use arc_swap::ArcSwap;
use hashring::Ring;
use pingora_ketama::Continuum;
use ringbench::{BASE, id, ring};

use crate::lookup::{buckets, continuum};
use crate::rounds::{median, ratio, times};
use crate::{Effort, figure};

const NODES: u32 = 1000;

pub(crate) fn measure(effort: Effort) {
    node_more_or_less(effort);
    build(effort);
}

fn node_more_or_less(effort: Effort) {
    // The id is in the middle of the others: half of the nodes get another number.
    let (new, old) = ("10.0.1.250:8081", id(500));
    let start = Arc::new(ring(NODES));
    let current = ArcSwap::new(start.clone());
    let (more, less) = (buckets(NODES + 1), buckets(NODES - 1));
    let rebuilt = Cell::new(None);
    // Each publishes: readers have the new ring when it returns. What comes in between is not measured. The rebuilds
    // sort with all processors.
    let [add, _, remove, _, ketama_more, _, ketama_less, _] = times(
        effort.rounds,
        [
            &mut || current.store(Arc::new(current.load().with_node(new, 100, "").expect("a new id"))),
            &mut || current.store(start.clone()),
            &mut || current.store(Arc::new(current.load().without_node(&old).expect("an id of the ring"))),
            &mut || current.store(start.clone()),
            &mut || rebuilt.set(Some(continuum(&more))),
            &mut || rebuilt.set(None),
            &mut || rebuilt.set(Some(continuum(&less))),
            &mut || rebuilt.set(None),
        ],
    );
    let ms = |times: &[f64]| median(times) / 1e6;
    figure("add_node.ms", ms(&add), "ms");
    figure("remove_node.ms", ms(&remove), "ms");
    figure("add_node.speedup_over_pingora_ketama", ratio(&ketama_more, &add), "x");
    figure("remove_node.speedup_over_pingora_ketama", ratio(&ketama_less, &remove), "x");
}

fn build(effort: Effort) {
    let builder =
        (0..NODES).fold(Ring::builder().base(BASE), |builder, node| builder.node(id(node), 100, ""));
    let mut builders = vec![builder; effort.rounds];
    let buckets = buckets(NODES);
    let [ours, theirs] = times(
        effort.rounds,
        [
            &mut || drop(black_box(builders.pop().map(|builder| builder.build().expect("an id each")))),
            &mut || drop(black_box(Continuum::new(&buckets))),
        ],
    );
    figure("build.ms", median(&ours) / 1e6, "ms");
    figure("build.vs_pingora_ketama_v1", ratio(&ours, &theirs), "x");
    let footprint = ring(NODES).footprint();
    let per_point = |bytes: usize| bytes as f64 / footprint.points as f64;
    figure("bytes_per_vnode.hot", per_point(footprint.hot), "B");
    figure("bytes_per_vnode.total", per_point(footprint.total), "B");
}
