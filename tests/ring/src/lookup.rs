//! How fast a key finds its node, and its first three.

use std::hint::black_box;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::{ArcSwap, Cache};
use hashring::{NodeIndex, Ring};
use pingora_ketama::Continuum;
use ringbench::plain::Plain;
use ringbench::{BASE, Hashes, KEY_BYTES, Keys, id, ring};

use crate::rounds::{median, ratio, times};
use crate::{Effort, figure};

/// Lookups of a round.
const LOOKUPS: usize = 100_000;

/// Ids are addresses with a port.
const ADDRESS: &str = "an address with a port";

pub(crate) fn measure(effort: Effort) {
    for nodes in [2, 10, 30, 100, 1000] {
        hashes(nodes, effort);
    }
    keys_of_24_bytes(effort);
    successors(effort);
    under_swaps(effort);
}

fn hashes(nodes: u32, effort: Effort) {
    let (ring, plain) = (ring(nodes), Plain::new(nodes));
    let mut stream = Hashes(1);
    let mut other = stream.clone();
    let [ours, theirs] = times(
        effort.rounds,
        [
            &mut || {
                let owners =
                    stream.by_ref().take(LOOKUPS).map(|hash| ring.owner(hash).map_or(0, |owner| owner.0));
                black_box(owners.fold(0, u16::wrapping_add));
            },
            &mut || {
                let owners = other.by_ref().take(LOOKUPS).map(|hash| plain.owner(hash));
                black_box(owners.fold(0, u32::wrapping_add));
            },
        ],
    );
    figure(&format!("lookup_u64.n{nodes}.ns"), median(&ours) / LOOKUPS as f64, "ns");
    figure(&format!("lookup_u64.n{nodes}.speedup_over_binary_search"), ratio(&theirs, &ours), "x");
}

/// The continuum of the same nodes in the version that is faster, with as many points.
pub(crate) fn continuum(nodes: u32) -> Continuum {
    Continuum::new_with_version(&buckets(nodes), pingora_ketama::Version::V2 { point_multiple: BASE })
}

/// The nodes as pingora-ketama has them.
pub(crate) fn buckets(nodes: u32) -> Vec<pingora_ketama::Bucket> {
    (0..nodes).map(|node| pingora_ketama::Bucket::new(id(node).parse().expect(ADDRESS), 1)).collect()
}

fn keys_of_24_bytes(effort: Effort) {
    const NODES: u32 = 1000;
    let (ring, plain, continuum) = (ring(NODES), Plain::new(NODES), continuum(NODES));
    // What pingora-ketama answers with is an address: against it ours is fetched too.
    let addresses: Vec<SocketAddr> =
        ring.nodes().map(|node| String::from_utf8_lossy(node.id).parse().expect(ADDRESS)).collect();
    let port = |address: SocketAddr| u32::from(address.port());
    let stream = Keys(Hashes(1));
    let (mut a, mut b, mut c, mut d) = (stream.clone(), stream.clone(), stream.clone(), stream);
    let [ours, ours_address, theirs, ketama] = times(
        effort.rounds,
        [
            &mut || add_up(&mut a, |key| ring.owner(ring.hash(key)).map_or(0, |owner| u32::from(owner.0))),
            &mut || {
                add_up(&mut b, |key| {
                    ring.owner(ring.hash(key)).map_or(0, |owner| port(addresses[owner.get()]))
                })
            },
            &mut || add_up(&mut c, |key| plain.owner(ring.hash(key))),
            &mut || add_up(&mut d, |key| continuum.node(key).map_or(0, port)),
        ],
    );
    let ns = |times: &[f64]| median(times) / LOOKUPS as f64;
    figure("lookup_24b.n1000.ns", ns(&ours), "ns");
    figure("lookup_24b.n1000.binary_search_ns", ns(&theirs), "ns");
    figure("lookup_24b.n1000.pingora_ketama_ns", ns(&ketama), "ns");
    figure("lookup_24b.n1000.speedup_over_binary_search", ratio(&theirs, &ours), "x");
    figure("lookup_24b.n1000.speedup_over_pingora_ketama", ratio(&ketama, &ours_address), "x");
}

/// Looks [`LOOKUPS`] keys up, as slices whose length the compiler does not know.
fn add_up(keys: &mut Keys, lookup: impl Fn(&[u8]) -> u32) {
    let numbers = keys.take(LOOKUPS).map(|key| lookup(&black_box(&key)[..black_box(KEY_BYTES)]));
    black_box(numbers.fold(0, u32::wrapping_add));
}

fn successors(effort: Effort) {
    const NODES: u32 = 1000;
    let (ring, plain) = (ring(NODES), Plain::new(NODES));
    let mut stream = Hashes(1);
    let mut other = stream.clone();
    let [ours, theirs] = times(
        effort.rounds,
        [
            &mut || {
                let three =
                    |hash| ring.sequence(hash).take(3).map(|NodeIndex(node)| node).fold(0, u16::wrapping_add);
                black_box(stream.by_ref().take(LOOKUPS / 4).map(three).fold(0, u16::wrapping_add));
            },
            &mut || {
                let three = |hash| plain.three(hash).into_iter().fold(0, u32::wrapping_add);
                black_box(other.by_ref().take(LOOKUPS / 4).map(three).fold(0, u32::wrapping_add));
            },
        ],
    );
    figure("successors3.ns", median(&ours) / (LOOKUPS / 4) as f64, "ns");
    figure("successors3.speedup_over_binary_search", ratio(&theirs, &ours), "x");
}

/// Lookups of keys by a reader that looks for a newer ring each time, while a writer publishes a changed one every
/// millisecond, and while it does not.
fn under_swaps(effort: Effort) {
    const NODES: u32 = 1000;
    /// Some 50 ms, in which some 50 rings come.
    const LOOKUPS: usize = 4_000_000;
    let mut keys = Keys(Hashes(1));
    let current = ArcSwap::from_pointee(ring(NODES));
    let mut reader = Cache::new(&current);
    let (swapping, ended) = (AtomicBool::new(false), AtomicBool::new(false));
    let mut read = |is_swapping| {
        swapping.store(is_swapping, Ordering::Relaxed);
        let mut sum = 0_u16;
        for key in keys.by_ref().take(LOOKUPS) {
            let ring: &Arc<Ring> = reader.load();
            let key = &black_box(&key)[..black_box(KEY_BYTES)];
            sum = sum.wrapping_add(ring.owner(ring.hash(key)).map_or(0, |owner| owner.0));
        }
        swapping.store(false, Ordering::Relaxed);
        black_box(sum);
    };
    let rounds = effort.rounds.div_ceil(2);
    let [quiet, busy] = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !ended.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(1));
                if swapping.load(Ordering::Relaxed) {
                    let ring = current.load();
                    let next = match ring.with_node(id(NODES), 100, "") {
                        Ok(larger) => larger,
                        Err(_) => ring.without_node(id(NODES)).expect("the node is there"),
                    };
                    current.store(Arc::new(next));
                }
            }
        });
        let read = std::cell::RefCell::new(&mut read);
        let times = times(rounds, [&mut || read.borrow_mut()(false), &mut || read.borrow_mut()(true)]);
        ended.store(true, Ordering::Relaxed);
        times
    });
    figure("lookup_under_swaps.quiet_ns", median(&quiet) / LOOKUPS as f64, "ns");
    figure("lookup_under_swaps.ratio", ratio(&busy, &quiet), "x");
}
