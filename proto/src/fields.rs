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
