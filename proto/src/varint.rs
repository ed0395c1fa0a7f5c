//! Variable-length integers (RFC 9000, section 16): the two top bits of the first byte give the length.

use bytes::BufMut;

/// The largest value that fits.
pub const MAX: u64 = (1 << 62) - 1;

/// Appends `value` in the fewest bytes.
///
/// # Panics
/// When `value` is above [`MAX`]. Callers pass tags and lengths of what is in memory.
#[inline]
pub fn put(out: &mut impl BufMut, value: u64) {
    if value < 1 << 6 {
        out.put_u8(value as u8);
    } else if value < 1 << 14 {
        out.put_u16(value as u16 | 1 << 14);
    } else if value < 1 << 30 {
        out.put_u32(value as u32 | 2 << 30);
    } else {
        assert!(value <= MAX, "{value} does not fit in a variable-length integer");
        out.put_u64(value | 3 << 62);
    }
}

/// How many bytes the integer has that starts with `first`.
#[inline]
pub const fn len_of(first: u8) -> usize {
    1 << (first >> 6)
}

/// Reads one integer (of any permitted length, the fewest bytes or not) from the front of `buf`, and how many bytes it
/// took. None: `buf` ends before the integer does.
#[inline]
pub fn get(buf: &[u8]) -> Option<(u64, usize)> {
    let &first = buf.first()?;
    if first < 1 << 6 {
        return Some((u64::from(first), 1));
    }
    let len = len_of(first);
    let rest = buf.get(1..len)?;
    let top = u64::from(first & 0x3f);
    Some((rest.iter().fold(top, |value, &byte| value << 8 | u64::from(byte)), len))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    fn encoded(value: u64) -> Vec<u8> {
        let mut out = Vec::new();
        put(&mut out, value);
        out
    }

    #[test]
    fn reads_and_writes_the_examples_of_rfc_9000() {
        let examples: [(&[u8], u64); 4] = [
            (&[0xc2, 0x19, 0x7c, 0x5e, 0xff, 0x14, 0xe8, 0x8c], 151_288_809_941_952_652),
            (&[0x9d, 0x7f, 0x3e, 0x7d], 494_878_333),
            (&[0x7b, 0xbd], 15_293),
            (&[0x25], 37),
        ];
        for (bytes, value) in examples {
            assert_eq!(encoded(value), bytes);
            assert_eq!(get(bytes), Some((value, bytes.len())));
        }
        assert_eq!(get(&[0x40, 0x25]), Some((37, 2)), "more bytes than needed are permitted");
    }

    #[test]
    fn lengths_change_where_they_must() {
        for (value, len) in
            [(63, 1), (64, 2), (16_383, 2), (16_384, 4), ((1 << 30) - 1, 4), (1 << 30, 8), (MAX, 8)]
        {
            let bytes = encoded(value);
            assert_eq!((bytes.len(), len_of(bytes[0])), (len, len), "{value}");
        }
    }

    #[test]
    #[should_panic(expected = "does not fit")]
    fn a_value_that_does_not_fit_is_not_written_as_another() {
        encoded(MAX + 1);
    }

    proptest! {
        #[test]
        fn round_trips_and_needs_every_byte(shift in 2u32..64, bits: u64, tail: Vec<u8>) {
            let value = bits >> shift;
            let bytes = encoded(value);
            for cut in 0..bytes.len() {
                prop_assert_eq!(get(&bytes[..cut]), None);
            }
            prop_assert_eq!(get(&[&bytes[..], &tail].concat()), Some((value, bytes.len())));
        }
    }
}
