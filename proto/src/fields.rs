//! Header and trailer fields on the wire: (varint length, name, varint length, value) to the end of the payload.

use crate::head::HeadError;
use crate::limits::{HEAD_BYTES_MAX, HEADER_FIELDS_MAX};
use crate::varint;

/// Checked header or trailer fields, read in place: an iterator over (name, value).
///
/// Names are lower-case tokens (RFC 9110, section 5.6.2), none of them specific to a connection; values hold no control
/// byte but the tab (section 5.5).
#[derive(Clone, Copy, Debug, Default)]
pub struct Fields<'a> {
    rest: &'a [u8],
    left: usize,
}

impl<'a> Fields<'a> {
    /// Checks the payload of a TRAILERS frame. Allocates nothing.
    ///
    /// # Errors
    /// [`HeadError`]: too large, too many, cut, or no fields of HTTP.
    pub fn decode(buf: &'a [u8]) -> Result<Self, HeadError> {
        if buf.len() > HEAD_BYTES_MAX {
            return Err(HeadError::TooLarge { bytes: buf.len() });
        }
        let mut rest = buf;
        let mut left = 0;
        while !rest.is_empty() {
            if left == HEADER_FIELDS_MAX {
                return Err(HeadError::TooManyFields);
            }
            let name = take(&mut rest).ok_or(HeadError::Truncated)?;
            let value = take(&mut rest).ok_or(HeadError::Truncated)?;
            if !is_field_name(name) {
                return Err(HeadError::FieldName { index: left });
            }
            if is_connection_specific(name) {
                return Err(HeadError::ConnectionSpecific { index: left });
            }
            if !is_field_value(value) {
                return Err(HeadError::FieldValue { index: left });
            }
            left += 1;
        }
        Ok(Self { rest: buf, left })
    }

    /// How many are left.
    pub const fn len(&self) -> usize {
        self.left
    }

    /// Whether none is left.
    pub const fn is_empty(&self) -> bool {
        self.left == 0
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = (&'a [u8], &'a [u8]);

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        let name = take(&mut self.rest)?;
        let value = take(&mut self.rest)?;
        self.left -= 1;
        Some((name, value))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl ExactSizeIterator for Fields<'_> {}

/// Appends `fields`: the payload of a TRAILERS frame, or the end of a head's. Their content is the caller's to have
/// checked, as the types of the `http` crate do; the receiver refuses what is not HTTP.
///
/// # Errors
/// [`HeadError::TooManyFields`] and [`HeadError::TooLarge`]; `out` is then as it was.
pub fn encode_fields<'f>(
    fields: impl IntoIterator<Item = (&'f [u8], &'f [u8])>,
    out: &mut Vec<u8>,
) -> Result<(), HeadError> {
    let start = out.len();
    append_fields(fields, start, out).inspect_err(|_| out.truncate(start))
}

/// Appends `fields`; what `out` holds from `start` on counts against the limit.
pub(crate) fn append_fields<'f>(
    fields: impl IntoIterator<Item = (&'f [u8], &'f [u8])>,
    start: usize,
    out: &mut Vec<u8>,
) -> Result<(), HeadError> {
    for (count, (name, value)) in fields.into_iter().enumerate() {
        if count == HEADER_FIELDS_MAX {
            return Err(HeadError::TooManyFields);
        }
        put(out, name);
        put(out, value);
        // Within the loop, so that a hostile caller's fields are not first copied whole.
        if out.len() - start > HEAD_BYTES_MAX {
            return Err(HeadError::TooLarge { bytes: out.len() - start });
        }
    }
    Ok(())
}

/// Appends `bytes` with their length.
#[inline]
pub(crate) fn put(out: &mut Vec<u8>, bytes: &[u8]) {
    varint::put(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Takes bytes with their length from the front of `buf`.
#[inline]
pub(crate) fn take<'a>(buf: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (len, prefix) = varint::get(buf)?;
    let (bytes, rest) = buf.get(prefix..)?.split_at_checked(usize::try_from(len).ok()?)?;
    *buf = rest;
    Some(bytes)
}

/// Bytes of a lower-case token (RFC 9110, section 5.6.2, without A-Z).
static FIELD_NAME: [bool; 256] = table(false);
/// Bytes of a token (RFC 9110, section 5.6.2).
static TOKEN: [bool; 256] = table(true);

const fn table(upper: bool) -> [bool; 256] {
    let mut table = [false; 256];
    let mut byte = 0u8;
    while byte < 128 {
        table[byte as usize] = byte.is_ascii_digit()
            || byte.is_ascii_lowercase()
            || (upper && byte.is_ascii_uppercase())
            || matches!(byte, b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.')
            || matches!(byte, b'^' | b'_' | b'`' | b'|' | b'~');
        byte += 1;
    }
    table
}

fn is_field_name(name: &[u8]) -> bool {
    !name.is_empty() && name.iter().all(|&byte| FIELD_NAME[usize::from(byte)])
}

/// Whether `bytes` are a token (RFC 9110, section 5.6.2).
pub(crate) fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.iter().all(|&byte| TOKEN[usize::from(byte)])
}

/// Whether `bytes` may stand in a field value: no control byte but the tab (RFC 9110, section 5.5).
pub(crate) fn is_field_value(bytes: &[u8]) -> bool {
    // Without an early exit: this runs over whole cookies, and the compiler makes vectors of it.
    !bytes.iter().fold(false, |bad, &byte| bad | ((byte < b' ') & (byte != b'\t')) | (byte == 0x7f))
}

/// Fields that speak of one connection (RFC 9110, section 7.6.1) and would let a peer frame a second request behind the
/// first once they are written in HTTP/1.1.
fn is_connection_specific(name: &[u8]) -> bool {
    matches!(name, b"connection" | b"keep-alive" | b"proxy-connection" | b"transfer-encoding" | b"upgrade")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn one(name: &[u8], value: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        encode_fields([(name, value)], &mut out).unwrap();
        out
    }

    #[test]
    fn only_lower_case_tokens_are_names() {
        for byte in 0..=255u8 {
            let token =
                byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"!#$%&'*+-.^_`|~".contains(&byte);
            assert_eq!(Fields::decode(&one(&[b'x', byte], b"")).is_ok(), token, "{byte:#x}");
        }
        assert_eq!(Fields::decode(&one(b"", b"v")).unwrap_err(), HeadError::FieldName { index: 0 });
    }

    #[test]
    fn only_the_tab_of_the_control_bytes_is_in_values() {
        for byte in 0..=255u8 {
            let allowed = byte == b'\t' || (byte >= b' ' && byte != 0x7f);
            let result = Fields::decode(&one(b"x", &[b'a', byte, b'b'])).map(|fields| fields.len());
            let expected = if allowed { Ok(1) } else { Err(HeadError::FieldValue { index: 0 }) };
            assert_eq!(result, expected, "{byte:#x}");
        }
    }

    #[test]
    fn what_speaks_of_a_connection_does_not_travel() {
        for name in ["connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade"] {
            let mut buf = one(b"x-first", b"");
            encode_fields([(name.as_bytes(), &b"chunked"[..])], &mut buf).unwrap();
            assert_eq!(
                Fields::decode(&buf).unwrap_err(),
                HeadError::ConnectionSpecific { index: 1 },
                "{name}"
            );
        }
        for name in ["te", "trailer", "connection-id", "content-length"] {
            assert!(Fields::decode(&one(name.as_bytes(), b"1")).is_ok(), "{name}");
        }
    }

    #[test]
    fn one_field_too_many_is_refused_on_both_sides() {
        let field = (&b"a"[..], &b"b"[..]);
        let mut buf = b"kept".to_vec();
        encode_fields(vec![field; HEADER_FIELDS_MAX], &mut buf).unwrap();
        assert_eq!(Fields::decode(&buf[4..]).unwrap().count(), HEADER_FIELDS_MAX);

        buf.truncate(4);
        let error = encode_fields(vec![field; HEADER_FIELDS_MAX + 1], &mut buf).unwrap_err();
        assert_eq!((error, &buf[..]), (HeadError::TooManyFields, &b"kept"[..]));
        let wire = [1, b'a', 1, b'b'].repeat(HEADER_FIELDS_MAX + 1);
        assert_eq!(Fields::decode(&wire).unwrap_err(), HeadError::TooManyFields);
    }

    #[test]
    fn one_byte_too_many_is_refused_on_both_sides() {
        // The name takes 2 bytes, the value's length 4.
        let value = vec![b'v'; HEAD_BYTES_MAX - 6];
        assert_eq!(Fields::decode(&one(b"a", &value)).unwrap().next(), Some((&b"a"[..], &value[..])));

        let value = vec![b'v'; HEAD_BYTES_MAX - 5];
        let too_large = HeadError::TooLarge { bytes: HEAD_BYTES_MAX + 1 };
        let mut buf = b"kept".to_vec();
        assert_eq!(encode_fields([(&b"a"[..], &value[..])], &mut buf).unwrap_err(), too_large);
        assert_eq!(buf, b"kept");
        assert_eq!(Fields::decode(&[0; HEAD_BYTES_MAX + 1]).unwrap_err(), too_large);
    }

    #[test]
    fn a_length_beyond_the_end_is_cut_and_not_believed() {
        for wire in [&[1][..], &[1, b'a'], &[1, b'a', 2, b'b'], &[0xff; 8], &[0xff, 0xff]] {
            assert_eq!(Fields::decode(wire).unwrap_err(), HeadError::Truncated, "{wire:x?}");
        }
    }

    #[test]
    fn lengths_count_down() {
        let mut buf = one(b"a", b"1");
        encode_fields([(&b"b"[..], &b"2"[..])], &mut buf).unwrap();
        let mut fields = Fields::decode(&buf).unwrap();
        assert_eq!((fields.len(), fields.is_empty()), (2, false));
        assert_eq!(fields.next(), Some((&b"a"[..], &b"1"[..])));
        assert_eq!(fields.next(), Some((&b"b"[..], &b"2"[..])));
        assert_eq!((fields.len(), fields.is_empty(), fields.next()), (0, true, None));
    }
}
