//! A consistent-hash ring of weighted nodes: where a key belongs, and where it goes when that node is
//! skipped. The crate turns a set of `(id, weight, zone)` into an immutable [`Ring`] and answers from it. It
//! knows nothing of what a node is, of networks, health, clocks or threads, and it never logs, blocks or does
//! I/O: a caller skips nodes, counts their load and replaces the ring.
//!
//! ```
//! use hashring::Ring;
//!
//! let ring = Ring::builder()
//!     .node("east", 100, "us")
//!     .node("west", 100, "us")
//!     .node("north", 50, "eu")
//!     .build()?;
//!
//! let hash = ring.hash(b"user-17"); // once, at the first hop; carried from there
//! let owner = ring.owner(hash).expect("nodes with points");
//! println!("{}", ring.node(owner).id.escape_ascii());
//!
//! // The owner is down: take the first in failover order that is not.
//! let second = ring.near(hash).skipping(|node| node == owner).next().expect("three nodes");
//! assert_ne!(second, owner);
//! # Ok::<(), hashring::RingError>(())
//! ```
//!
//! # What it is for
//!
//! **Nodes that come and go.** A changed ring is a copy, mended where the node's points are; the old one stays
//! whole for those who read it. Swap it behind an `Arc`, and the set may change every millisecond. What moves
//! is known exactly before anything does.
//!
//! ```
//! # use hashring::Ring;
//! use std::sync::{Arc, RwLock};
//!
//! let ring = Ring::builder().node("a", 100, "").node("b", 100, "").build()?;
//! let current = RwLock::new(Arc::new(ring));
//!
//! let before = current.read().unwrap().clone();
//! let after = before.with_node("c", 200, "")?;
//! // Half of the weight is new, so about half of the keys move, and only to where it is.
//! let flows = before.diff(&after)?;
//! let moved: u128 = flows.iter().map(|flow| flow.hashes).sum();
//! assert!((0.4..0.6).contains(&(moved as f64 / 2_f64.powi(64))));
//! assert!(flows.iter().all(|flow| flow.to == after.index_of(b"c")));
//! *current.write().unwrap() = Arc::new(after);
//! # Ok::<(), hashring::RingError>(())
//! ```
//!
//! **Nodes that are out for a while.** Health is no membership: skip a node that is down, and its keys come back
//! to it. A node that is drained, or that returns cold, gives or takes its keys by and by; everyone who knows
//! the number of the transition and the fraction agrees on which.
//!
//! ```
//! # use hashring::Ring;
//! # let ring = Ring::builder().node("a", 100, "").node("b", 100, "").node("c", 100, "").build()?;
//! let draining = ring.index_of(b"a").expect("a node of the ring");
//! let (transition, fraction) = (7, 16_384); // a quarter of 65,536
//! for hash in (0..1000).map(hashring::inner) {
//!     let gone = |node| node == draining && hashring::moves(hash, transition, fraction);
//!     let node = ring.sequence(hash).skipping(gone).next().expect("two nodes are left");
//!     assert!(node == ring.owner(hash).unwrap() || ring.owner(hash) == Some(draining));
//! }
//! # Ok::<(), hashring::RingError>(())
//! ```
//!
//! **Keys that are hot.** A bound on the load of each node passes over the ones that have too much of it; the
//! counts are the caller's, and so are the totals.
//!
//! ```
//! # use hashring::{NodeIndex, Ring};
//! # let ring = Ring::builder().node("a", 100, "").node("b", 100, "").node("c", 100, "").build()?;
//! let mut requests = vec![0_u64; ring.len()];
//! let mut totals = ring.totals(|_| 0, |_| false);
//! let hash = ring.hash(b"the same key, again and again");
//! for _ in 0..300 {
//!     let load = |node: NodeIndex| requests[node.get()];
//!     let node = ring.bounded(ring.near(hash), 125, totals, load).expect("nodes with points");
//!     requests[node.get()] += 1;
//!     totals.load += 1;
//! }
//! assert!(requests.iter().all(|count| *count <= 125)); // a quarter more than the mean
//! # Ok::<(), hashring::RingError>(())
//! ```
//!
//! **Rings inside rings.** Keys of one cluster are spread over its endpoints by a second ring, under
//! [`inner`]`(hash)`: under the same hash that ring would see only the arcs of the first one's owner.
//!
//! # The contract `ring-v1`
//!
//! Every build of this crate, on every platform, answers alike for the same inputs. The answers depend on the
//! set of nodes, the base, the seed and the kind of key hash; not on the order of insertion, nor on who asks, nor
//! on how a ring came about.
//!
//! - **Points.** A node of weight `w` (hundredths: 100 is one) has `base * w / 100` points, rounded down;
//!   point `i` lies at [`point`]`(id, i, seed)`. So a change of weight adds or drops a node's last points and
//!   moves no other.
//! - **Owner.** A key belongs to the point nearest to its hash, in either direction around the ring. At equal
//!   distance the points below the hash come before those above it; at one position the smaller id comes
//!   first.
//! - **Orders.** [`Ring::sequence`] visits the nodes outward from the hash: take the owner away from the set
//!   and the next of the sequence owns the key. [`Ring::near`] starts with the owner's zone, for failover;
//!   [`Ring::spread`] takes turns between the zones, for replicas.
//! - **No points, no place.** A node with weight 0 (or one too small for a single point) stays a node of the
//!   ring, with an index and a part in the fingerprint, but owns nothing and appears in no order.
//! - **Derived hashes.** [`inner`] places a key in a ring inside a ring; [`threshold`] and [`moves`] decide
//!   which keys take part in a gradual change.
//! - **Bounded load.** [`Ring::bounded`] passes over nodes that have more than their share.
//! - **Fingerprint.** [`Ring::fingerprint`] is equal for two rings that place every key alike, and differs
//!   (but for a 64-bit collision) for all others.
//!
//! # Guarantees
//!
//! - Nothing is approximate: the owner is the nearest point's node for every one of the 2^64 hashes.
//! - A node that joins or gains weight takes keys and gives none; one that leaves or loses weight gives and
//!   takes none; between all others nothing moves, not one hash.
//! - A changed ring is, byte for byte, what [`RingBuilder::build`] makes of the changed set.
//! - Answers do not allocate, lock or panic; a ring is `Send` and `Sync` and never changes.
//! - Sets that make no ring are refused with a [`RingError`] before work or memory goes into them: a duplicate id,
//!   and what passes [`MAX_NODES`], [`MAX_NODE_POINTS`], [`MAX_POINTS`] or [`MAX_NAME_BYTES`].
//! - XXH3 is no defence against clients that choose their keys to meet in one place. [`KeyHash::SipHash13`] under a
//!   secret seed is, and [`Ring::bounded`] limits the harm.
//!
//! # Costs
//!
//! With `n` nodes and `p` points; only builds and changes allocate, [`Ring::shares`] and [`Ring::diff`] for what
//! they return.
//!
//! | operation | time |
//! |---|---|
//! | [`Ring::hash`] | `O(bytes)` |
//! | [`Ring::owner`] | `O(1)`: one cache line; in one of 1,300 hashes that of the orders |
//! | `k` of [`Ring::sequence`], [`Ring::near`] without the zone, `k` well below `n` | `O(k)`, three cache lines to begin with |
//! | all of [`Ring::sequence`] and [`Ring::near`] | `O(n log n)` expected at equal weights, `O(p)` at worst; above 1024 nodes `O(k^2)` for `k` of them, in steps of a vector |
//! | a round of [`Ring::spread`] | as a sequence up to its last node |
//! | nodes skipped | `O(1)` a point passed over, at most `O(n)` in all when hardly any is left |
//! | [`Ring::bounded`] | that of the nodes tried: 1.004 of them at 125 |
//! | [`Ring::totals`] | `O(n)` |
//! | [`RingBuilder::build`] | `O(p)` expected |
//! | [`Ring::with_node`], [`Ring::without_node`], [`Ring::with_weight`] | a copy of the ring, and `O(points of the node)`; when the number of lines changes, once in some thirty nodes of a thousand, `O(p)` |
//! | [`Ring::shares`], [`Ring::diff`] | `O(p)` |
//! | [`Ring::node`], [`Ring::fingerprint`] | `O(1)` |
//! | [`Ring::index_of`] | `O(log n)` |
//!
//! A point takes 18.3 bytes, 7.5 to 8 of which are read to find owners; a node 30 and its names.
//!
//! # How
//!
//! The hashes are cut into lines of equal length, an eighth as many as points. A line is 64 bytes: up to
//! fifteen boundaries between owners, each the upper 15 bits of its place in the line, and the owners between
//! them. The rank of a hash among the boundaries comes from one comparison of sixteen numbers, a dozen instructions
//! without a branch. A line with more boundaries does without the owners of the narrowest stretches
//! between them; a hash in one of these, or with the same 15 bits as a boundary, is looked up in the sorted points
//! behind the lines. Boundaries are the middles between points, so the nearest point costs what the next one
//! clockwise would, and halves the variance of shares.
//!
//! # Figures
//!
//! Medians of runs of `tests/ring/run`, with nodes of 160 points and lookups in a stream, on one of two cores of a Xeon
//! (Sapphire Rapids, 3.2 GHz, 2 MB of L2 cache) that had nothing else to do. With 1000 nodes unless it says so.
//!
//! | | this ring | binary search in a sorted `Vec` | pingora-ketama 0.9 |
//! |---|---|---|---|
//! | owner of a hash, 10 nodes | 1.6 ns | 13 ns | |
//! | 100 nodes | 1.9 ns | 23 ns | |
//! | 1000 nodes | 2.3 ns | 47 ns | |
//! | owner of a 24-byte key | 5.6 ns in 65 instructions | 59 ns | 61 ns (version 2) |
//! | first three nodes | 27 ns | 60 ns | |
//! | a node more or less | 0.23 to 0.28 ms | | 3.2 to 4.4 ms in all threads, a build |
//! | build | 4.5 ms | | 3.4 ms (version 1) |
//! | bytes a point | 18.6, of which 7.8 to find owners | 16 | |
//! | 16 million keys: deviation, fullest node over mean | 5.8 %, 1.21 | | |
//! | under a bound of 1.25: fullest node over mean, keys displaced | 1.20, 0.3 % | | |
//! | lookups while a changed ring comes every millisecond | 1.24 to 1.28 times the time, 1.01 with 100 nodes | | |
//!
//! What bounds them:
//!
//! - **A hash**: at 10 nodes the instructions. At 1000 it is 0.7 ns more: lines come from the L2 cache, and one in 1,300
//!   hashes goes to the points, which are further away.
//! - **A change**: copying. Of 0.25 ms the lines take 0.085, the positions 0.09, the nodes of points 0.02, and all that
//!   is about the node itself 0.04: 2.9 MB that no near cache holds are read and written at 14 GB/s, without a page
//!   fault. Rings could share what stays only if nodes kept their numbers: a new id moves up those of half the nodes, on
//!   average. Lines in shared chunks, with a table from lasting numbers to ranks, made each lookup a fifth slower, the
//!   chunks alone an eighth.
//! - **Swaps**: a quarter of each millisecond, which it takes to fetch 1.2 MB that another processor has written and
//!   still has in a cache of its own, with [`Ring::warm`]. Where other work drives them out of there before, it is 0.04
//!   ms (1.02 to 1.12 times the time, measured beside builds). It is not the other one's work as such: lookups beside a
//!   thread that copies 3 MB each millisecond take no longer. Without `warm` it is up to 1.8 times the time.
//!
//! # Beside others
//!
//! | | lookup | join or leave moves | weights | successors | a change |
//! |---|---|---|---|---|---|
//! | this ring | one cache line | what the node owns, exactly | in hundredths | in ring order, by zone | copy and mend |
//! | rings by binary search (Ketama, pingora-ketama, Envoy's ring hash) | `log2 p` steps | likewise, if the points of a node do not depend on the others (Envoy's do: 1.67 times as much) | points | clockwise | rebuild |
//! | Maglev | one table entry | 6.6 to 6.8 times as much at 1000 nodes and 65,537 slots | share of turns | none | rebuild |
//! | jump hash | `log2 n` steps | what the node owns, but only the last node can leave | none | none | nothing to change |
//! | rendezvous | `n` hashes | what the node owns, exactly | by logarithms | by rank | nothing to change |
//!
//! Jump hash fits shards that are numbered and never leave; rendezvous a handful of nodes, and it balances better
//! than any ring; Maglev a router that can bear keys moving. A ring is for nodes with names that come and go, whose
//! keys are worth keeping where they are.

mod bounded;
mod builder;
mod change;
mod declaration;
mod diff;
mod error;
mod hash;
mod index;
mod limits;
mod node;
mod order;
mod ring;
mod siphash;
#[cfg(test)]
mod tests;
mod zones;

pub use bounded::Totals;
pub use builder::RingBuilder;
pub use diff::Flow;
pub use error::RingError;
pub use hash::{KeyHash, inner, moves, point, threshold};
pub use limits::{MAX_NAME_BYTES, MAX_NODE_POINTS, MAX_NODES, MAX_POINTS};
pub use node::{Node, NodeIndex};
pub use order::{Near, Sequence, Spread};
pub use ring::{Footprint, Ring};
