//! SipHash-1-3: one round a word, three to finish (Aumasson and Bernstein, "SipHash: a fast short-input PRF").

/// SipHash-1-3 of `bytes` under the key `(k0, k1)`.
pub(crate) fn siphash13(k0: u64, k1: u64, bytes: &[u8]) -> u64 {
    // The paper's constants spell "somepseudorandomlygeneratedbytes".
    let mut v = [
        k0 ^ 0x736f_6d65_7073_6575,
        k1 ^ 0x646f_7261_6e64_6f6d,
        k0 ^ 0x6c79_6765_6e65_7261,
        k1 ^ 0x7465_6462_7974_6573,
    ];
    let (words, rest) = bytes.as_chunks::<8>();
    for word in words {
        absorb(&mut v, u64::from_le_bytes(*word));
    }
    // The last word: what is left over, and the length modulo 256 in its top byte.
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    last[7] = bytes.len() as u8;
    absorb(&mut v, u64::from_le_bytes(last));
    v[2] ^= 0xff;
    for _ in 0..3 {
        round(&mut v);
    }
    v[0] ^ v[1] ^ v[2] ^ v[3]
}

fn absorb(v: &mut [u64; 4], word: u64) {
    v[3] ^= word;
    round(v);
    v[0] ^= word;
}

fn round(v: &mut [u64; 4]) {
    v[0] = v[0].wrapping_add(v[1]);
    v[1] = v[1].rotate_left(13) ^ v[0];
    v[0] = v[0].rotate_left(32);
    v[2] = v[2].wrapping_add(v[3]);
    v[3] = v[3].rotate_left(16) ^ v[2];
    v[0] = v[0].wrapping_add(v[3]);
    v[3] = v[3].rotate_left(21) ^ v[0];
    v[2] = v[2].wrapping_add(v[1]);
    v[1] = v[1].rotate_left(17) ^ v[2];
    v[2] = v[2].rotate_left(32);
}

#[cfg(test)]
mod tests {
    use std::hash::{DefaultHasher, Hasher};

    use super::siphash13;

    /// The standard library promises no algorithm for `DefaultHasher`, but it has been SipHash-1-3 under the
    /// key (0, 0) since Rust 1.13: an independent program to compare with, at every length of the last word.
    #[test]
    fn agrees_with_the_standard_library_at_key_zero() {
        let bytes: Vec<u8> = (0..=255).chain(0..=255).map(|byte: u8| byte.wrapping_mul(167)).collect();
        for length in 0..bytes.len() {
            let mut std = DefaultHasher::new();
            std.write(&bytes[..length]);
            assert_eq!(siphash13(0, 0, &bytes[..length]), std.finish(), "{length} bytes");
        }
    }

    #[test]
    fn both_halves_of_the_key_count() {
        assert_eq!(
            siphash13(0x0706050403020100, 0x0f0e0d0c0b0a0908, b"").to_le_bytes(),
            [0xdc, 0xc4, 0x0f, 0x05, 0x58, 0x01, 0xac, 0xab]
        );
    }
}
