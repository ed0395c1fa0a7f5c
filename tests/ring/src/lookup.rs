//! How fast a key finds its node, and its first three.

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, Cache};
use hashring::Ring;
use pingora_ketama::{Bucket, Continuum};
use ringbench::plain::Plain;
use ringbench::{BASE, Hashes, KEY_BYTES, Keys, id, ring};

use crate::rounds::{median, processor_time, ratio};
use crate::{Effort, figure};

/// Ids are addresses with a port.
const ADDRESS: &str = "an address with a port";

pub(crate) fn measure(effort: Effort) {
    for nodes in [2, 10, 30, 100, 1000] {
        hashes(nodes, effort);
    }
    keys_of_24_bytes(effort);
    successors(effort);
    under_swaps("lookup_under_swaps", 1000, effort);
    under_swaps("lookup_under_swaps.n100", 100, effort);
}

fn hashes(nodes: u32, effort: Effort) {
    let (ring, plain) = (ring(nodes), Plain::new(nodes));
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    let mut hashes = Hashes(1);
    for _ in 0..effort.rounds {
        ours.push(stream(&mut hashes, |hash| ring.owner(*hash).map_or(0, |owner| u32::from(owner.0))));
        theirs.push(stream(&mut hashes, |hash| plain.owner(*hash)));
    }
    figure(&format!("lookup_u64.n{nodes}.ns"), median(&ours), "ns");
    figure(&format!("lookup_u64.n{nodes}.speedup_over_binary_search"), ratio(&theirs, &ours), "x");
}

fn keys_of_24_bytes(effort: Effort) {
    const NODES: u32 = 1000;
    let (ring, plain, continuum) = (ring(NODES), Plain::new(NODES), continuum(&buckets(NODES)));
    let (mut ours, mut theirs, mut ketama) = (Vec::new(), Vec::new(), Vec::new());
    let mut keys = Keys(Hashes(1));
    // The compiler does not know how long keys are, or it would make code for this length alone.
    let length = black_box(KEY_BYTES);
    for _ in 0..effort.rounds {
        ours.push(stream(&mut keys, |key| owner(&ring, &key[..length])));
        theirs.push(stream(&mut keys, |key| plain.owner_of(&key[..length])));
        ketama.push(stream(&mut keys, |key| {
            continuum.node(&key[..length]).map_or(0, |address| u32::from(address.is_ipv4()))
        }));
    }
    figure("lookup_24b.n1000.ns", median(&ours), "ns");
    figure("lookup_24b.n1000.binary_search_ns", median(&theirs), "ns");
    figure("lookup_24b.n1000.pingora_ketama_ns", median(&ketama), "ns");
    figure("lookup_24b.n1000.speedup_over_binary_search", ratio(&theirs, &ours), "x");
    figure("lookup_24b.n1000.speedup_over_pingora_ketama", ratio(&ketama, &ours), "x");
}

/// The owner of a key, as a function to call like those it is compared with.
#[inline(never)]
fn owner(ring: &Ring, key: &[u8]) -> u32 {
    ring.owner(ring.hash(key)).map_or(0, |owner| u32::from(owner.0))
}

fn successors(effort: Effort) {
    const NODES: u32 = 1000;
    let (ring, plain) = (ring(NODES), Plain::new(NODES));
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    let mut hashes = Hashes(1);
    for _ in 0..effort.rounds {
        ours.push(stream(&mut hashes, |hash| {
            ring.sequence(*hash).take(3).fold(0, |sum, node| sum + u32::from(node.0))
        }));
        theirs.push(stream(&mut hashes, |hash| plain.three(*hash).into_iter().sum()));
    }
    figure("successors3.ns", median(&ours), "ns");
    figure("successors3.speedup_over_binary_search", ratio(&theirs, &ours), "x");
}

/// How many lookups are timed at a time. What is looked up is made before, and so in the nearest cache, as the key of a
/// request is.
const BATCH: usize = 512;

/// How many batches a stream has. Before it come as many that bring the ring to where it stays while nothing else is
/// looked up.
const BATCHES: usize = 200;

/// Nanoseconds of a lookup in a stream of them, in the median of the batches: one that an interrupt or another process
/// has stretched does not count, however long a stream takes.
fn stream<T>(source: &mut impl Iterator<Item = T>, mut lookup: impl FnMut(&T) -> u32) -> f64 {
    let mut batch = Vec::with_capacity(BATCH);
    let mut times = Vec::with_capacity(BATCHES);
    for number in 0..2 * BATCHES {
        refill(&mut batch, source);
        let start = Instant::now();
        look_up(&batch, &mut lookup);
        if number >= BATCHES {
            times.push(start.elapsed().as_nanos() as f64);
        }
    }
    median(&times) / BATCH as f64
}

/// Nanoseconds of processor time that it takes to make and look up, on average over a stream.
fn mean_with_making<T>(source: &mut impl Iterator<Item = T>, mut lookup: impl FnMut(&T) -> u32) -> f64 {
    let mut batch = Vec::with_capacity(BATCH);
    let mut pass = || {
        let start = processor_time();
        for _ in 0..BATCHES {
            refill(&mut batch, source);
            look_up(&batch, &mut lookup);
        }
        (processor_time() - start).as_nanos() as f64 / (BATCH * BATCHES) as f64
    };
    pass();
    pass()
}

fn refill<T>(batch: &mut Vec<T>, source: &mut impl Iterator<Item = T>) {
    batch.clear();
    batch.extend(source.take(BATCH));
}

fn look_up<T>(batch: &[T], lookup: &mut impl FnMut(&T) -> u32) {
    let mut sum = 0_u32;
    for item in black_box(batch) {
        sum = sum.wrapping_add(lookup(item));
    }
    black_box(sum);
}

/// A continuum in the version that is faster, with as many points a node.
pub(crate) fn continuum(buckets: &[Bucket]) -> Continuum {
    Continuum::new_with_version(buckets, pingora_ketama::Version::V2 { point_multiple: BASE })
}

/// The nodes as pingora-ketama has them.
pub(crate) fn buckets(nodes: u32) -> Vec<Bucket> {
    (0..nodes).map(|node| Bucket::new(id(node).parse().expect(ADDRESS), 1)).collect()
}

/// Lookups of keys by a reader that looks for a newer ring each time and warms it, while a writer publishes a changed
/// one every millisecond, and while it does not. In processor time: where writer and reader have to share a processor,
/// that is the machine's doing.
fn under_swaps(name: &str, nodes: u32, effort: Effort) {
    /// Streams of a round: some 50 ms, in which some 50 rings come.
    const STREAMS: usize = 20;
    let current = ArcSwap::from_pointee(ring(nodes));
    let mut reader = Cache::new(&current);
    let mut keys = Keys(Hashes(1));
    let length = black_box(KEY_BYTES);
    let making = median(&[(); STREAMS].map(|()| mean_with_making(&mut keys, |_| 0)));
    let mut known = current.load().fingerprint();
    let (is_swapping, has_ended) = (AtomicBool::new(false), AtomicBool::new(false));
    let (mut quiet, mut busy) = (Vec::new(), Vec::new());
    let (mut swaps, mut spent) = (0_u32, Duration::ZERO);
    std::thread::scope(|scope| {
        scope.spawn(|| publish_every_millisecond(&current, &is_swapping, &has_ended));
        for round in 0..effort.rounds.next_multiple_of(2) {
            is_swapping.store(round % 2 == 1, Ordering::Relaxed);
            let start = processor_time();
            for _ in 0..STREAMS {
                let lookup = |key: &[u8; KEY_BYTES]| {
                    let ring: &Arc<Ring> = reader.load();
                    if ring.fingerprint() != known {
                        known = ring.fingerprint();
                        ring.warm();
                        swaps += 1;
                    }
                    owner(ring, &key[..length])
                };
                let time = mean_with_making(&mut keys, lookup) - making;
                if round % 2 == 1 { busy.push(time) } else { quiet.push(time) }
            }
            if round % 2 == 1 {
                spent += processor_time() - start;
            }
        }
        has_ended.store(true, Ordering::Relaxed);
    });
    figure(&format!("{name}.quiet_ns"), median(&quiet), "ns");
    figure(&format!("{name}.ratio"), ratio(&busy, &quiet), "x");
    // Fewer than one where the writer does not get its processor: then the ratio says less.
    figure(&format!("{name}.swaps_per_ms"), f64::from(swaps) / (spent.as_secs_f64() * 1e3), "swaps");
}

/// Adds a node to the current ring or removes it again, in turns.
fn publish_every_millisecond(current: &ArcSwap<Ring>, is_swapping: &AtomicBool, has_ended: &AtomicBool) {
    let new = "10.0.1.250:8081";
    let mut retired = None;
    let mut next = Instant::now();
    while !has_ended.load(Ordering::Relaxed) {
        next = Instant::now().max(next + Duration::from_millis(1));
        while Instant::now() < next {
            std::thread::park_timeout(next.saturating_duration_since(Instant::now()));
        }
        if is_swapping.load(Ordering::Relaxed) {
            let ring = current.load();
            let changed = if ring.index_of(new.as_bytes()).is_none() {
                ring.with_node(new, 100, "")
            } else {
                ring.without_node(new)
            };
            let changed = changed.expect("a new id, or one of the ring");
            // The ring before the last goes here, and not where the reader lets go of it: who frees a ring has its
            // memory for the next one.
            drop(retired.replace(current.swap(Arc::new(changed))));
        }
    }
}
