//! What a caller is told whose call was not served (`TApplicationException`).

use bytes::{Buf, BufMut, Bytes};

use crate::head::{Head, Kind, Protocol, put_varint};
use crate::skip::varint;
use crate::{FRAME_BYTES, Transport};

const BINARY_BYTES: u8 = 11;
const BINARY_I32: u8 = 8;
/// The type, behind the distance of 1 to the field before.
const COMPACT_BYTES: u8 = 0x18;
const COMPACT_I32: u8 = 0x15;
/// The same where there is no text before it.
const COMPACT_I32_ALONE: u8 = 0x25;
const STOP: u8 = 0;

/// Why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExceptionKind {
    /// Nobody has this method.
    UnknownMethod = 1,
    /// It is no call.
    InvalidMessageType = 2,
    /// Nobody could serve it.
    InternalError = 6,
}

/// The answer to the call `head` that came by `transport`: why it is not served, and a `text` for people. With it where what
/// it holds begins.
pub(crate) fn exception(
    head: &Head,
    transport: Transport,
    kind: ExceptionKind,
    text: &str,
) -> (Bytes, usize) {
    let mut out = Vec::with_capacity(64 + head.method.len() + text.len());
    if transport == Transport::Framed {
        out.put_u32(0);
    }
    head.put(Kind::Exception, &mut out);
    let content = out.len();
    if head.protocol == Protocol::Compact {
        out.put_u8(COMPACT_BYTES);
        put_varint(text.len() as u64, &mut out);
        out.put_slice(text.as_bytes());
        out.put_u8(COMPACT_I32);
        // Zigzag: even numbers are not negative.
        put_varint(kind as u64 * 2, &mut out);
    } else {
        out.put_u8(BINARY_BYTES);
        out.put_i16(1);
        out.put_u32(text.len() as u32);
        out.put_slice(text.as_bytes());
        out.put_u8(BINARY_I32);
        out.put_i16(2);
        out.put_i32(kind as i32);
    }
    out.put_u8(STOP);
    if transport == Transport::Framed {
        let length = (out.len() - FRAME_BYTES) as u32;
        out[..FRAME_BYTES].copy_from_slice(&length.to_be_bytes());
    }
    (out.into(), content)
}

/// The kind that the content of an exception names: its fields are a text, the first, and a number, the second.
pub(crate) fn kind(protocol: Protocol, mut content: &[u8]) -> Option<i32> {
    loop {
        if protocol == Protocol::Compact {
            let (number, length) = match content.try_get_u8().ok()? {
                COMPACT_BYTES => (false, varint(content).ok()??),
                COMPACT_I32 | COMPACT_I32_ALONE => (true, varint(content).ok()??),
                _ => return None,
            };
            let (value, read) = length;
            content.advance(read);
            if number {
                // Zigzag.
                return i32::try_from((value >> 1) as i64 ^ -((value & 1) as i64)).ok();
            }
            content = content.get(usize::try_from(value).ok()?..)?;
        } else {
            let of = content.try_get_u8().ok()?;
            let field = content.try_get_i16().ok()?;
            match (of, field) {
                (BINARY_BYTES, 1) => {
                    let length = content.try_get_u32().ok()?;
                    content = content.get(usize::try_from(length).ok()?..)?;
                }
                (BINARY_I32, 2) => return content.try_get_i32().ok(),
                _ => return None,
            }
        }
    }
}
