//! The facts of a head, one by one: put, and read with their values checked.

use std::net::{IpAddr, SocketAddr};

use super::HeadError;
use crate::fields::{Fields, put, take};
use crate::limits::{HEAD_BYTES_MAX, NAME_BYTES_MAX};
use crate::varint;

/// Ends the facts.
pub(super) const END_OF_FACTS: u8 = 0;

#[inline]
pub(super) fn put_fact(out: &mut Vec<u8>, tag: u64, value: &[u8]) {
    varint::put(out, tag);
    put(out, value);
}

#[inline]
pub(super) fn put_text(out: &mut Vec<u8>, tag: u64, value: Option<&str>) {
    if let Some(text) = value {
        put_fact(out, tag, text.as_bytes());
    }
}

/// An address of 4 or 16 bytes, then the port, big-endian.
pub(super) fn put_socket(out: &mut Vec<u8>, tag: u64, socket: Option<SocketAddr>) {
    let Some(socket) = socket else { return };
    let port = socket.port().to_be_bytes();
    match socket.ip() {
        IpAddr::V4(ip) => put_fact(out, tag, &[&ip.octets()[..], &port].concat()),
        IpAddr::V6(ip) => put_fact(out, tag, &[&ip.octets()[..], &port].concat()),
    }
}

/// Appends a number without its leading zero bytes; nothing at all for 0, the default.
#[inline]
pub(super) fn put_number(out: &mut Vec<u8>, tag: u64, value: u64) {
    if value != 0 {
        put_fact(out, tag, &value.to_be_bytes()[value.leading_zeros() as usize / 8..]);
    }
}

/// The facts of one head, in turn.
pub(super) struct Facts<'a> {
    rest: &'a [u8],
    /// Bit `tag` is set once the fact was seen.
    seen: u64,
    names: &'static [&'static str],
}

impl<'a> Facts<'a> {
    pub(super) fn new(buf: &'a [u8], names: &'static [&'static str]) -> Result<Self, HeadError> {
        if buf.len() > HEAD_BYTES_MAX {
            return Err(HeadError::TooLarge { bytes: buf.len() });
        }
        Ok(Self { rest: buf, seen: 0, names })
    }

    /// The next fact of a known tag; none at the end of the facts.
    pub(super) fn next(&mut self) -> Result<Option<Fact<'a>>, HeadError> {
        loop {
            let (tag, len) = varint::get(self.rest).ok_or(HeadError::Truncated)?;
            self.rest = &self.rest[len..];
            if tag == u64::from(END_OF_FACTS) {
                return Ok(None);
            }
            let value = take(&mut self.rest).ok_or(HeadError::Truncated)?;
            let Some(&name) = usize::try_from(tag).ok().and_then(|tag| self.names.get(tag)) else { continue };
            let bit = 1 << tag;
            if self.seen & bit != 0 {
                return Err(HeadError::Duplicate(name));
            }
            self.seen |= bit;
            return Ok(Some(Fact { tag, name, value }));
        }
    }

    /// Whether all of `mandatory` were seen.
    pub(super) fn has(&self, mandatory: &[u64]) -> Result<(), HeadError> {
        match mandatory.iter().find(|&&tag| self.seen & 1 << tag == 0) {
            Some(&tag) => Err(HeadError::Missing(self.names[tag as usize])),
            None => Ok(()),
        }
    }

    /// What follows the facts.
    pub(super) fn fields(self) -> Result<Fields<'a>, HeadError> {
        Fields::decode(self.rest)
    }
}

/// One fact, its value unchecked.
pub(super) struct Fact<'a> {
    pub(super) tag: u64,
    name: &'static str,
    pub(super) value: &'a [u8],
}

impl<'a> Fact<'a> {
    pub(super) fn malformed(&self) -> HeadError {
        HeadError::Malformed(self.name)
    }

    pub(super) fn number(&self) -> Result<u64, HeadError> {
        match self.value.len() {
            1..=8 => Ok(self.value.iter().fold(0, |number, &byte| number << 8 | u64::from(byte))),
            _ => Err(self.malformed()),
        }
    }

    pub(super) fn small(&self) -> Result<u8, HeadError> {
        u8::try_from(self.number()?).map_err(|_| self.malformed())
    }

    pub(super) fn nonzero(&self) -> Result<u16, HeadError> {
        match u16::try_from(self.number()?) {
            Ok(number) if number != 0 => Ok(number),
            _ => Err(self.malformed()),
        }
    }

    /// An address of 4 or 16 bytes, then the port.
    pub(super) fn socket(&self) -> Result<SocketAddr, HeadError> {
        let (address, port) = self.value.split_last_chunk::<2>().ok_or(self.malformed())?;
        let ip = match *address {
            [a, b, c, d] => IpAddr::from([a, b, c, d]),
            _ => IpAddr::from(<[u8; 16]>::try_from(address).map_err(|_| self.malformed())?),
        };
        Ok(SocketAddr::new(ip, u16::from_be_bytes(*port)))
    }

    /// UTF-8 whose bytes `allowed` accepts.
    pub(super) fn text(&self, allowed: impl Fn(&[u8]) -> bool) -> Result<&'a str, HeadError> {
        if !allowed(self.value) {
            return Err(self.malformed());
        }
        str::from_utf8(self.value).map_err(|_| self.malformed())
    }

    /// Text without spaces and control bytes, at least one byte.
    pub(super) fn visible(&self) -> Result<&'a str, HeadError> {
        self.text(|bytes| {
            !bytes.is_empty() && !bytes.iter().fold(false, |bad, &byte| bad | (byte <= b' ') | (byte == 0x7f))
        })
    }

    /// A name of ours.
    pub(super) fn name(&self) -> Result<&'a str, HeadError> {
        if self.value.len() > NAME_BYTES_MAX { Err(self.malformed()) } else { self.visible() }
    }

    pub(super) fn path(&self) -> Result<&'a str, HeadError> {
        let path = self.visible()?;
        if path.starts_with('/') || path == "*" { Ok(path) } else { Err(self.malformed()) }
    }
}
