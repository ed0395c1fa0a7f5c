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
