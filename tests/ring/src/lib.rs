//! Rings and keys that the figures are about.

pub mod plain;

use hashring::Ring;

/// Points of a node of weight 1, as in pingora-ketama.
pub const BASE: u32 = 160;

/// Bytes of a key.
pub const KEY_BYTES: usize = 24;

/// The id of a node: an address, which pingora-ketama needs.
pub fn id(number: u32) -> String {
    let [_, a, b, c] = number.to_be_bytes();
    format!("10.{a}.{b}.{c}:8080")
}

/// A ring of so many nodes of equal weight.
///
/// # Panics
///
/// With more nodes than a ring holds.
pub fn ring(nodes: u32) -> Ring {
    let builder =
        (0..nodes).fold(Ring::builder().base(BASE), |builder, number| builder.node(id(number), 100, ""));
    builder.build().expect("fewer nodes than the limit, with an id each")
}

/// A stream of hashes that costs two instructions each (Knuth's linear congruential generator): upper bits, which
/// a ring looks at first, are its good ones.
#[derive(Debug, Clone)]
pub struct Hashes(pub u64);

impl Iterator for Hashes {
    type Item = u64;

    #[inline]
    fn next(&mut self) -> Option<u64> {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        Some(self.0)
    }
}

/// A stream of keys that costs a few instructions each and no memory: like the key of a request, each is in the
/// nearest cache when it is looked up.
#[derive(Debug, Clone)]
pub struct Keys(pub Hashes);

impl Iterator for Keys {
    type Item = [u8; KEY_BYTES];

    #[inline]
    fn next(&mut self) -> Option<[u8; KEY_BYTES]> {
        let number = self.0.next()?;
        let mut key = *b"user-00000000-session-id";
        key[5..13].copy_from_slice(&number.to_le_bytes());
        Some(key)
    }
}
