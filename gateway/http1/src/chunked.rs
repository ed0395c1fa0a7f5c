//! Bodies: how many bytes of what comes belong to a message, and when it is complete.

use bytes::{Buf, Bytes, BytesMut};
use http::HeaderMap;

use crate::framing::Framing;
use crate::head::{self, Finder};
use crate::{BodyError, HeadError};

/// Bytes of one line that announces a chunk, its extensions included. They mean nothing here (RFC 9112, section 7.1.1).
const CHUNK_LINE_BYTES_MAX: usize = 256;
/// Bytes of such extensions in one message: chunks of a byte with long extensions keep a reader busy for nothing.
const EXTENSION_BYTES_MAX: usize = 16 * 1024;

/// What a body may be beside its data.
pub type Limits = head::Limits;

/// A piece of a body.
#[derive(Debug, PartialEq, Eq)]
pub enum Item {
    /// Some of its data, never empty.
    Data(Bytes),
    /// What stands behind the last chunk; at most once.
    Trailers(HeaderMap),
    /// It is complete.
    End,
}

/// Reads one body from a connection's bytes.
#[derive(Debug)]
pub struct Decoder {
    state: State,
    limits: Limits,
    extensions: usize,
}

#[derive(Debug)]
enum State {
    Length(u64),
    UntilClose,
    /// Before a line that announces a chunk.
    ChunkLine,
    /// So much of a chunk is to come.
    Chunk(u64),
    /// Before the end of a chunk's last line.
    ChunkEnd,
    Trailers(Finder),
    Ended,
}

impl Decoder {
    /// For a body with this framing, whose trailers may be as `limits` say.
    pub fn new(framing: Framing, limits: Limits) -> Self {
        let state = match framing {
            Framing::Empty => State::Ended,
            Framing::Length(length) => State::Length(length),
            Framing::Chunked => State::ChunkLine,
            Framing::UntilClose => State::UntilClose,
        };
        Self { state, limits, extensions: 0 }
    }

    /// The next piece in `buf`; `None`: there is more to come.
    ///
    /// # Errors
    /// [`BodyError::Chunk`] and [`BodyError::TooLarge`]; the connection cannot be used any further.
    pub fn decode(&mut self, buf: &mut BytesMut) -> Result<Option<Item>, BodyError> {
        loop {
            match &mut self.state {
                State::Length(left) => {
                    let data = take(buf, left);
                    if *left == 0 {
                        self.state = State::Ended;
                    }
                    return Ok(data.map(Item::Data));
                }
                State::UntilClose => {
                    let data = buf.split().freeze();
                    return Ok((!data.is_empty()).then_some(Item::Data(data)));
                }
                State::ChunkLine => match self.chunk_line(buf)? {
                    None => return Ok(None),
                    Some(0) => self.state = State::Trailers(Finder::default()),
                    Some(size) => self.state = State::Chunk(size),
                },
                State::Chunk(left) => {
                    let data = take(buf, left);
                    if *left == 0 {
                        self.state = State::ChunkEnd;
                    }
                    return Ok(data.map(Item::Data));
                }
                State::ChunkEnd => match buf[..] {
                    [b'\r', b'\n', ..] => {
                        buf.advance(2);
                        self.state = State::ChunkLine;
                    }
                    [] | [b'\r'] => return Ok(None),
                    _ => return Err(BodyError::Chunk("it is longer than it says")),
                },
                State::Trailers(finder) => {
                    if !finder.has_begun() && matches!(buf[..], [b'\r', b'\n', ..]) {
                        buf.advance(2);
                        self.state = State::Ended;
                        continue;
                    }
                    if matches!(buf[..], [] | [b'\r']) {
                        return Ok(None);
                    }
                    if !finder.has_begun() && matches!(buf[0], b'\r' | b'\n') {
                        return Err(BodyError::Chunk("line end"));
                    }
                    let section = finder.take(buf, &self.limits).map_err(trailers_error)?;
                    let Some(section) = section else { return Ok(None) };
                    let trailers = head::trailers(&section, &self.limits).map_err(trailers_error)?;
                    self.state = State::Ended;
                    return Ok(Some(Item::Trailers(trailers)));
                }
                State::Ended => return Ok(Some(Item::End)),
            }
        }
    }

    /// The size that the next line announces; `None`: the line is not whole.
    fn chunk_line(&mut self, buf: &mut BytesMut) -> Result<Option<u64>, BodyError> {
        let Some(end) = memchr::memchr(b'\n', buf) else {
            return if buf.len() > CHUNK_LINE_BYTES_MAX { Err(BodyError::TooLarge) } else { Ok(None) };
        };
        if end > CHUNK_LINE_BYTES_MAX {
            return Err(BodyError::TooLarge);
        }
        // Only CRLF ends it: a recipient that took a lone LF would see other chunks than one that does not.
        let line = buf[..end].strip_suffix(b"\r").ok_or(BodyError::Chunk("line end"))?;
        let digits = line.iter().take_while(|b| b.is_ascii_hexdigit()).count();
        let rest = line[digits..].trim_ascii_start();
        if digits == 0 || digits > 16 || !(rest.is_empty() || rest[0] == b';') || rest.contains(&b'\r') {
            return Err(BodyError::Chunk("its size"));
        }
        let size = line[..digits].iter().fold(0, |size: u64, &digit| size << 4 | u64::from(value(digit)));
        self.extensions += rest.len();
        if self.extensions > EXTENSION_BYTES_MAX {
            return Err(BodyError::TooLarge);
        }
        buf.advance(end + 1);
        Ok(Some(size))
    }

    /// The connection has ended, and all that came was decoded.
    ///
    /// # Errors
    /// [`BodyError::Truncated`] unless that is the body's end.
    pub fn end(&mut self) -> Result<(), BodyError> {
        match self.state {
            State::Ended | State::UntilClose => {
                self.state = State::Ended;
                Ok(())
            }
            _ => Err(BodyError::Truncated),
        }
    }

    /// Whether all of it was decoded.
    pub fn is_ended(&self) -> bool {
        matches!(self.state, State::Ended)
    }

    /// The bytes that are still to come, if the head said.
    pub fn remaining(&self) -> Option<u64> {
        match self.state {
            State::Length(left) => Some(left),
            State::Ended => Some(0),
            _ => None,
        }
    }
}

fn trailers_error(error: HeadError) -> BodyError {
    match error {
        HeadError::TooLarge(_) | HeadError::TooManyFields(_) => BodyError::TooLarge,
        HeadError::Malformed(what) => BodyError::Chunk(what),
        HeadError::Version => BodyError::Chunk("trailers"),
    }
}

/// Takes at most `left` bytes off `buf`, and off `left`.
fn take(buf: &mut BytesMut, left: &mut u64) -> Option<Bytes> {
    let here = usize::try_from(*left).unwrap_or(usize::MAX).min(buf.len());
    *left -= here as u64;
    (here > 0).then(|| buf.split_to(here).freeze())
}

fn value(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        _ => (digit | 0x20) - b'a' + 10,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    const LIMITS: Limits = Limits { bytes: 256, fields: 4 };

    /// All of a body that comes in `pieces`, its trailers, and what is behind it.
    #[allow(clippy::type_complexity)]
    fn read(framing: Framing, pieces: &[&[u8]]) -> Result<(Vec<u8>, Option<HeaderMap>, Vec<u8>), BodyError> {
        let mut decoder = Decoder::new(framing, LIMITS);
        let (mut buf, mut data, mut trailers) = (BytesMut::new(), Vec::new(), None);
        let mut pieces = pieces.iter();
        loop {
            match decoder.decode(&mut buf)? {
                Some(Item::Data(bytes)) => data.extend_from_slice(&bytes),
                Some(Item::Trailers(map)) => trailers = Some(map),
                Some(Item::End) => {
                    pieces.for_each(|piece| buf.extend_from_slice(piece));
                    return Ok((data, trailers, buf.to_vec()));
                }
                None => match pieces.next() {
                    Some(piece) => buf.extend_from_slice(piece),
                    None => decoder.end()?,
                },
            }
        }
    }

    fn data(framing: Framing, text: &[u8]) -> Result<Vec<u8>, String> {
        read(framing, &[text]).map(|(data, ..)| data).map_err(|e| e.to_string())
    }

    #[test]
    fn chunks_are_joined_and_trailers_are_read() {
        let text = b"5;a=b\r\nhello\r\n00A \r\n, world...\r\n0\r\nx-sum: 7\r\n\r\nGET";
        let (data, trailers, rest) = read(Framing::Chunked, &[text]).unwrap();
        assert_eq!((&data[..], &rest[..]), (&b"hello, world..."[..], &b"GET"[..]));
        assert_eq!(trailers.unwrap()["x-sum"], "7");
        let (_, trailers, rest) = read(Framing::Chunked, &[b"0\r\n\r\nGET"]).unwrap();
        assert_eq!((trailers, &rest[..]), (None, &b"GET"[..]));
    }

    #[test]
    fn what_ends_early_is_truncated() {
        for (framing, text) in [
            (Framing::Length(6), &b"hello"[..]),
            (Framing::Chunked, b""),
            (Framing::Chunked, b"5\r\nhel"),
            (Framing::Chunked, b"5\r\nhello\r\n"),
            (Framing::Chunked, b"5\r\nhello\r\n0\r\n"),
            (Framing::Chunked, b"5\r\nhello\r\n0\r\nx: y\r\n"),
        ] {
            assert!(matches!(read(framing, &[text]), Err(BodyError::Truncated)), "{text:?}");
        }
        assert_eq!(data(Framing::UntilClose, b"hello").unwrap(), b"hello");
        assert_eq!(data(Framing::Length(5), b"hello").unwrap(), b"hello");
    }

    #[test]
    fn malformed_chunks_are_refused() {
        for text in [
            &b"5\nhello\r\n0\r\n\r\n"[..],
            b"-5\r\nhello\r\n",
            b"0x5\r\nhello\r\n",
            b"5 5\r\nhello\r\n",
            b"\r\n",
            b"11111111111111111\r\n",
            b"5\r\nhello!\r\n",
            b"5;\rx\r\nhello\r\n",
            b"0\r\n\nGET",
            b"0\r\nx : y\r\n\r\n",
        ] {
            assert!(matches!(read(Framing::Chunked, &[text]), Err(BodyError::Chunk(_))), "{text:?}");
        }
        let line = [&b"5;"[..], &[b'x'; 300], b"\r\n"].concat();
        assert!(matches!(read(Framing::Chunked, &[&line]), Err(BodyError::TooLarge)));
        let crumbs = [&b"1;"[..], &[b'x'; 200], b"\r\na\r\n"].concat().repeat(100);
        assert!(matches!(read(Framing::Chunked, &[&crumbs]), Err(BodyError::TooLarge)));
        let many = [&b"0\r\n"[..], &b"a: b\r\n".repeat(5), b"\r\n"].concat();
        assert!(matches!(read(Framing::Chunked, &[&many]), Err(BodyError::TooLarge)));
    }

    proptest! {
        #[test]
        fn a_body_is_the_same_however_it_is_cut(
            chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..40), 0..8),
            cuts in prop::collection::vec(1usize..9, 1..200),
            with_trailers in any::<bool>(),
        ) {
            let mut text = Vec::new();
            for chunk in &chunks {
                text.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
                text.extend_from_slice(chunk);
                text.extend_from_slice(b"\r\n");
            }
            text.extend_from_slice(if with_trailers { b"0\r\na: 1\r\n\r\nNEXT" } else { b"0\r\n\r\nNEXT" });
            let mut pieces = Vec::new();
            let mut rest = &text[..];
            for cut in cuts {
                let (piece, more) = rest.split_at(cut.min(rest.len()));
                pieces.push(piece);
                rest = more;
            }
            pieces.push(rest);
            let (data, trailers, behind) = read(Framing::Chunked, &pieces).unwrap();
            prop_assert_eq!(data, chunks.concat());
            prop_assert_eq!(trailers.is_some(), with_trailers);
            prop_assert_eq!(behind, b"NEXT");
        }
    }
}
