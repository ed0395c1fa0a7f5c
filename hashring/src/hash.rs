//! Every hash of the contract. All are XXH3-64 but the optional SipHash-1-3 of keys.

use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::siphash::siphash13;

/// Seeds and the second half of the SipHash key: "ringway1" to "ringway3" as big-endian text.
const INNER_SEED: u64 = u64::from_be_bytes(*b"ringway1");
const THRESHOLD_SEED: u64 = u64::from_be_bytes(*b"ringway2");
const SIPHASH_K1: u64 = u64::from_be_bytes(*b"ringway3");

/// How a ring hashes keys. Points are XXH3 with either.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum KeyHash {
    /// XXH3-64 under the ring's seed: fast, and no defence against clients that choose their keys.
    #[default]
    Xxh3,
    /// SipHash-1-3 with the ring's seed as the first half of its key: for hostile keys, under a secret seed.
    SipHash13,
}

impl KeyHash {
    /// The hash of `key` under `seed`.
    #[inline]
    pub(crate) fn hash(self, seed: u64, key: &[u8]) -> u64 {
        match self {
            Self::Xxh3 => xxh3_64_with_seed(key, seed),
            Self::SipHash13 => siphash13(seed, SIPHASH_K1, key),
        }
    }

    /// The number that stands for the kind in a fingerprint.
    pub(crate) fn kind(self) -> u8 {
        match self {
            Self::Xxh3 => 0,
            Self::SipHash13 => 1,
        }
    }
}

/// The position of point `i` of the node `id` in a ring with this seed:
/// `XXH3-64(id ++ u32 little-endian i, seed)`.
pub fn point(id: &[u8], i: u32, seed: u64) -> u64 {
    PointHasher::new(id, seed).position(i)
}

/// The points of one node, without copying its id for each.
pub(crate) struct PointHasher {
    /// The id and four bytes for the number of the point.
    bytes: Vec<u8>,
    seed: u64,
}

impl PointHasher {
    pub(crate) fn new(id: &[u8], seed: u64) -> Self {
        Self { bytes: [id, &[0; 4]].concat(), seed }
    }

    pub(crate) fn position(&mut self, i: u32) -> u64 {
        let number = self.bytes.len() - 4;
        self.bytes[number..].copy_from_slice(&i.to_le_bytes());
        xxh3_64_with_seed(&self.bytes, self.seed)
    }
}

/// The hash that places a key in a ring inside the ring where `hash` placed it.
///
/// The keys of one node are those near its points; under the same hash an inner ring would see only these
/// arcs and load its nodes unevenly.
pub fn inner(hash: u64) -> u64 {
    xxh3_64_with_seed(&hash.to_le_bytes(), INNER_SEED)
}

/// The hash that decides when a key takes part in the gradual change numbered `transition`; see [`moves`].
///
/// Independent of the key's place and of every other transition.
pub fn threshold(hash: u64, transition: u64) -> u64 {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&hash.to_le_bytes());
    bytes[8..].copy_from_slice(&transition.to_le_bytes());
    xxh3_64_with_seed(&bytes, THRESHOLD_SEED)
}

/// Whether a key moves in `transition` once `fraction` of 65,536 keys shall have moved: none at 0, all at
/// 65,536 and above.
///
/// As the fraction grows a key moves once and stays moved, at the same fraction for every observer.
pub fn moves(hash: u64, transition: u64, fraction: u32) -> bool {
    (threshold(hash, transition) >> 48) < u64::from(fraction)
}
