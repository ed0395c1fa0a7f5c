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
//! let second = ring.near(hash).find(|&node| node != owner).expect("three nodes");
//! assert_ne!(second, owner);
//! # Ok::<(), hashring::RingError>(())
//! ```
//!
//! # The contract `ring-v1`
//!
//! Every build of this crate, on every platform, answers alike for the same inputs. The answers depend on the
//! set of nodes, the base, the seed and the kind of key hash; not on the order of insertion, nor on who asks.
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
//! # Costs
//!
//! With `n` nodes and `p` points:
//!
//! | operation | time | allocates |
//! |---|---|---|
//! | [`RingBuilder::build`] | `O(p log p)` | 16 bytes a point, the nodes |
//! | [`Ring::owner`] | `O(log p)` | nothing |
//! | first of [`Ring::sequence`], [`Ring::near`], [`Ring::spread`] | `O(log p)` | up to 64 nodes nothing; above, `n / 8` bytes, [`Ring::spread`] and a whole [`Ring::near`] twice that |
//! | `k` of [`Ring::sequence`], `k` well below `n` | `O(log p + k)` | as above |
//! | all of [`Ring::sequence`]; [`Ring::near`] twice that | `O(n log n)` expected at equal weights, `O(p)` at worst | as above |
//! | all of [`Ring::spread`] | the same, and a scan of the nodes passed over in each round | also 2 bytes a node passed over |
//! | [`Ring::bounded`] | `O(n)` for the totals, then the order | nothing of its own |
//! | [`Ring::shares`] | `O(p)` | 16 bytes a node |
//! | [`Ring::node`], [`Ring::fingerprint`] | `O(1)` | nothing |
//! | [`Ring::index_of`] | `O(log n)` | nothing |

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
