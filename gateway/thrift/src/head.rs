//! The head of a message.

use bytes::BufMut;

use crate::Malformed;
use crate::skip::varint;

/// The longest name of a method.
pub const METHOD_BYTES_MAX: usize = 256;
/// How a message of the strict binary protocol begins.
pub(crate) const STRICT: u8 = 0x80;
/// How a message of the compact protocol begins.
pub(crate) const COMPACT: u8 = 0x82;
const BINARY_VERSION: [u8; 3] = [STRICT, 1, 0];
const COMPACT_VERSION: u8 = 1;
const COMPACT_VERSION_MASK: u8 = 0x1f;
const COMPACT_KIND_SHIFT: u8 = 5;

/// How a message is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Binary, with a version before the name.
    Binary,
    /// Binary, as it was before there were versions.
    OldBinary,
    /// Compact.
    Compact,
}

impl Protocol {
    /// Whether who calls in `other` understands an answer in this: the binary protocol is one, with a version and without,
    /// and libraries answer calls without with answers that have one.
    pub fn is_read_by_who_writes(self, other: Self) -> bool {
        (self == Self::Compact) == (other == Self::Compact)
    }
}

/// What a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A call that is answered.
    Call = 1,
    /// Its answer.
    Reply = 2,
    /// An answer that says that it was not served (`TApplicationException`).
    Exception = 3,
    /// A call that is not answered.
    Oneway = 4,
}

/// The head of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// How the message is written.
    pub protocol: Protocol,
    /// What it is.
    pub kind: Kind,
    /// The method that is called, or was.
    pub method: Box<str>,
    /// By which an answer is matched with its call.
    pub number: i32,
}

impl Kind {
    fn of(byte: u8) -> Result<Self, Malformed> {
        match byte {
            1 => Ok(Self::Call),
            2 => Ok(Self::Reply),
            3 => Ok(Self::Exception),
            4 => Ok(Self::Oneway),
            _ => Err(Malformed::Kind),
        }
    }
}

impl Head {
    /// That of the message that `bytes` begin with, and where the struct behind it does; none: more must come first.
    pub(crate) fn read(bytes: &[u8]) -> Result<Option<(Self, usize)>, Malformed> {
        match bytes {
            [COMPACT, rest @ ..] => Self::compact(rest).map(|read| read.map(|(head, at)| (head, at + 1))),
            [STRICT, rest @ ..] => Self::binary(rest).map(|read| read.map(|(head, at)| (head, at + 1))),
            [0, ..] => Self::old_binary(bytes),
            [] => Ok(None),
            _ => Err(Malformed::Protocol),
        }
    }

    fn binary(rest: &[u8]) -> Result<Option<(Self, usize)>, Malformed> {
        let [version, zero, kind, name @ ..] = rest else { return Ok(None) };
        if [STRICT, *version, *zero] != BINARY_VERSION {
            return Err(Malformed::Protocol);
        }
        let kind = Kind::of(*kind)?;
        let Some((method, at)) = text(name)? else { return Ok(None) };
        let Some(number) = name[at..].first_chunk() else { return Ok(None) };
        let number = i32::from_be_bytes(*number);
        Ok(Some((Self { protocol: Protocol::Binary, kind, method, number }, 3 + at + 4)))
    }

    fn old_binary(bytes: &[u8]) -> Result<Option<(Self, usize)>, Malformed> {
        let Some((method, at)) = text(bytes)? else { return Ok(None) };
        let [kind, number @ ..] = &bytes[at..] else { return Ok(None) };
        let kind = Kind::of(*kind)?;
        let Some(number) = number.first_chunk() else { return Ok(None) };
        let number = i32::from_be_bytes(*number);
        Ok(Some((Self { protocol: Protocol::OldBinary, kind, method, number }, at + 1 + 4)))
    }

    fn compact(rest: &[u8]) -> Result<Option<(Self, usize)>, Malformed> {
        let [byte, rest @ ..] = rest else { return Ok(None) };
        if byte & COMPACT_VERSION_MASK != COMPACT_VERSION {
            return Err(Malformed::Protocol);
        }
        let kind = Kind::of(byte >> COMPACT_KIND_SHIFT)?;
        let Some((number, a)) = varint(rest)? else { return Ok(None) };
        let Some((length, b)) = varint(&rest[a..])? else { return Ok(None) };
        let Some((method, c)) = name(&rest[a + b..], length)? else { return Ok(None) };
        // 32 bits, of which the sign is one.
        let number = number as u32 as i32;
        Ok(Some((Self { protocol: Protocol::Compact, kind, method, number }, 1 + a + b + c)))
    }

    /// Appends it as that of a message of `kind`.
    pub(crate) fn put(&self, kind: Kind, out: &mut Vec<u8>) {
        let method = self.method.as_bytes();
        match self.protocol {
            Protocol::Binary => {
                out.put_slice(&BINARY_VERSION);
                out.put_u8(kind as u8);
                out.put_u32(method.len() as u32);
                out.put_slice(method);
                out.put_i32(self.number);
            }
            Protocol::OldBinary => {
                out.put_u32(method.len() as u32);
                out.put_slice(method);
                out.put_u8(kind as u8);
                out.put_i32(self.number);
            }
            Protocol::Compact => {
                out.put_u8(COMPACT);
                out.put_u8((kind as u8) << COMPACT_KIND_SHIFT | COMPACT_VERSION);
                put_varint(u64::from(self.number as u32), out);
                put_varint(method.len() as u64, out);
                out.put_slice(method);
            }
        }
    }
}

pub(crate) fn put_varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.put_u8(value as u8 | 0x80);
        value >>= 7;
    }
    out.put_u8(value as u8);
}

/// A name behind its length.
fn text(bytes: &[u8]) -> Result<Option<(Box<str>, usize)>, Malformed> {
    let Some(length) = bytes.first_chunk() else { return Ok(None) };
    let read = name(&bytes[4..], u32::from_be_bytes(*length).into())?;
    Ok(read.map(|(name, at)| (name, 4 + at)))
}

fn name(bytes: &[u8], length: u64) -> Result<Option<(Box<str>, usize)>, Malformed> {
    let length = usize::try_from(length).ok().filter(|length| *length <= METHOD_BYTES_MAX);
    let length = length.ok_or(Malformed::Method)?;
    let Some(name) = bytes.get(..length) else { return Ok(None) };
    let name = str::from_utf8(name).map_err(|_| Malformed::Method)?;
    if name.chars().any(char::is_control) {
        return Err(Malformed::Method);
    }
    Ok(Some((name.into(), length)))
}
