//! Frames of an exchange: varint kind, varint length, payload. A few INTERIM if any, one HEAD, any DATA, TRAILERS if any,
//! END; nothing after.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use thiserror::Error;

use crate::limits::{FRAME_DATA_BYTES_MAX, HEAD_BYTES_MAX, INTERIM_FRAMES_MAX, UNKNOWN_FRAME_BYTES_MAX};
use crate::varint;

/// What a frame holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum FrameKind {
    /// A piece of the body.
    Data = 0,
    /// The head.
    Head = 1,
    /// The trailer fields.
    Trailers = 2,
    /// The exchange's end in this direction; empty.
    End = 3,
    /// The head of an interim answer (RFC 9110, section 15.2): only before the final one's. A version that does not know
    /// it skips it, as such answers may be.
    Interim = 4,
}

impl FrameKind {
    const fn from_wire(kind: u64) -> Option<Self> {
        match kind {
            0 => Some(Self::Data),
            1 => Some(Self::Head),
            2 => Some(Self::Trailers),
            3 => Some(Self::End),
            4 => Some(Self::Interim),
            _ => None,
        }
    }

    const fn as_str(self) -> &'static str {
        match self {
            Self::Data => "DATA",
            Self::Head => "HEAD",
            Self::Trailers => "TRAILERS",
            Self::End => "END",
            Self::Interim => "INTERIM",
        }
    }

    /// The longest payload that may be announced, in bytes.
    const fn max(self) -> u64 {
        match self {
            Self::Data => FRAME_DATA_BYTES_MAX,
            Self::Head | Self::Trailers | Self::Interim => HEAD_BYTES_MAX as u64,
            Self::End => 0,
        }
    }
}

/// Most bytes before a payload: kind and length, for frames that this version writes.
pub const FRAME_HEADER_BYTES_MAX: usize = 5;

/// A whole END frame.
pub const END: [u8; 2] = [FrameKind::End as u8, 0];

/// Appends what stands before a payload of `len` bytes. DATA longer than [`FRAME_DATA_BYTES_MAX`] must be split: the
/// receiver refuses it.
#[inline]
pub fn put_frame_header(out: &mut impl BufMut, kind: FrameKind, len: usize) {
    debug_assert!(len as u64 <= kind.max(), "{} of {len} bytes", kind.as_str());
    out.put_u8(kind as u8);
    varint::put(out, len as u64);
}

/// Appends a HEAD, INTERIM or TRAILERS frame whose payload `write` appends, in one buffer and without a copy.
///
/// # Errors
/// What `write` returns; `out` is then as it was.
pub fn put_frame<E>(
    out: &mut Vec<u8>,
    kind: FrameKind,
    write: impl FnOnce(&mut Vec<u8>) -> Result<(), E>,
) -> Result<(), E> {
    let start = out.len();
    out.push(kind as u8);
    // Four bytes, whatever the length needs: it is known only after the payload.
    out.extend_from_slice(&[0; 4]);
    let payload = out.len();
    if let Err(error) = write(out) {
        out.truncate(start);
        return Err(error);
    }
    let len = (out.len() - payload) as u64;
    debug_assert!(len <= kind.max(), "{} of {len} bytes", kind.as_str());
    out[start + 1..payload].copy_from_slice(&(len as u32 | 2 << 30).to_be_bytes());
    Ok(())
}

/// One frame, or a piece of a DATA frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// A whole head, for [`RequestHead::decode`](crate::head::RequestHead::decode) and its like.
    Head(Bytes),
    /// The next bytes of the body, never empty; where DATA frames begin and end means nothing.
    Data(Bytes),
    /// A whole head of an interim answer, for [`ResponseHead::decode`](crate::head::ResponseHead::decode).
    Interim(Bytes),
    /// Whole trailer fields, for [`Fields::decode`](crate::head::Fields::decode).
    Trailers(Bytes),
    /// The end of the exchange in this direction.
    End,
}

/// Why a stream cannot be read any further.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum FrameError {
    /// The stream ended without END: what came may be half of what was sent.
    #[error("the stream ended before its END frame")]
    Truncated,
    /// A frame announced more than its kind may hold.
    #[error("a frame of kind {kind} announces {announced} bytes, {max} are allowed")]
    TooLarge {
        /// Its kind on the wire.
        kind: u64,
        /// What it announced, in bytes.
        announced: u64,
        /// What is allowed, in bytes.
        max: u64,
    },
    /// Frames of unknown kinds came to more than is skipped on one stream.
    #[error("frames of unknown kinds exceed {UNKNOWN_FRAME_BYTES_MAX} bytes")]
    TooMuchUnknown,
    /// Interim answers without an end.
    #[error("more than {INTERIM_FRAMES_MAX} interim answers")]
    TooManyInterim,
    /// A frame stands where it must not.
    #[error("{found} came where {expected} must")]
    Order {
        /// What came.
        found: &'static str,
        /// What may stand there.
        expected: &'static str,
    },
    /// Bytes follow END.
    #[error("bytes follow the END frame")]
    AfterEnd,
}

/// What may come next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expect {
    Head,
    Body,
    End,
    Nothing,
}

/// Where in a frame the decoder stands.
#[derive(Debug)]
enum State {
    /// Before or within kind and length.
    Header,
    /// `left` bytes of a DATA payload are to come.
    Data { left: u64 },
    /// A payload of `len` bytes that is handed out whole is being gathered.
    Gather { kind: FrameKind, len: usize, got: BytesMut },
    /// `left` bytes of an unknown frame are to be skipped.
    Skip { left: u64 },
}

/// Reads frames from the chunks of a stream, and enforces their order and limits. DATA is handed out as it comes, without
/// a copy; at most one other payload is held.
#[derive(Debug)]
pub struct Decoder {
    expect: Expect,
    state: State,
    input: Bytes,
    /// Kind and length, as far as they came: two integers of at most 8 bytes.
    header: [u8; 16],
    header_len: usize,
    unknown_bytes: u64,
    interim: u8,
}

impl Default for Decoder {
    fn default() -> Self {
        Self::new()
    }
}

impl Decoder {
    /// A decoder at the start of an exchange's frames (after the stream's first byte).
    pub const fn new() -> Self {
        Self {
            expect: Expect::Head,
            state: State::Header,
            input: Bytes::new(),
            header: [0; 16],
            header_len: 0,
            unknown_bytes: 0,
            interim: 0,
        }
    }

    /// Takes the next chunk of the stream. Without a copy if [`Decoder::next_frame`] was called until it gave none, as
    /// it should be: what is pushed before piles up.
    pub fn push(&mut self, chunk: Bytes) {
        if self.input.is_empty() {
            self.input = chunk;
        } else if !chunk.is_empty() {
            let mut joined = BytesMut::with_capacity(self.input.len() + chunk.len());
            joined.extend_from_slice(&self.input);
            joined.extend_from_slice(&chunk);
            self.input = joined.freeze();
        }
    }

    /// Whether END was read.
    pub fn ended(&self) -> bool {
        self.expect == Expect::Nothing
    }

    /// The next frame, or piece of DATA. None: more of the stream is needed.
    ///
    /// # Errors
    /// [`FrameError`]: the peer broke the protocol; reset this stream.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, FrameError> {
        while !self.input.is_empty() {
            match &mut self.state {
                State::Header => {
                    if let Some(frame) = self.read_header()? {
                        return Ok(Some(frame));
                    }
                }
                State::Data { left } => {
                    let piece = self.input.split_to(self.input.len().min(usize_of(*left)));
                    *left -= piece.len() as u64;
                    if *left == 0 {
                        self.state = State::Header;
                    }
                    return Ok(Some(Frame::Data(piece)));
                }
                State::Gather { kind, len, got } => {
                    let kind = *kind;
                    let payload = if got.is_empty() && self.input.len() >= *len {
                        // A copy: it is kept for as long as the exchange lasts, and not the chunk that it came in.
                        Bytes::copy_from_slice(&self.input.split_to(*len))
                    } else {
                        let piece = self.input.split_to(self.input.len().min(*len - got.len()));
                        got.extend_from_slice(&piece);
                        if got.len() < *len {
                            continue;
                        }
                        std::mem::take(got).freeze()
                    };
                    self.state = State::Header;
                    return Ok(Some(gathered(kind, payload)));
                }
                State::Skip { left } => {
                    let skipped = self.input.len().min(usize_of(*left));
                    self.input.advance(skipped);
                    *left -= skipped as u64;
                    if *left == 0 {
                        self.state = State::Header;
                    }
                }
            }
        }
        Ok(None)
    }

    /// Says that the stream ended, once [`Decoder::next_frame`] gave none.
    ///
    /// # Errors
    /// [`FrameError::Truncated`] unless END was the last that came.
    pub fn finish(&self) -> Result<(), FrameError> {
        if self.ended() && self.input.is_empty() { Ok(()) } else { Err(FrameError::Truncated) }
    }

    /// Reads on in kind and length. A frame only where it has no payload: END, and empty TRAILERS.
    fn read_header(&mut self) -> Result<Option<Frame>, FrameError> {
        if self.expect == Expect::Nothing {
            return Err(FrameError::AfterEnd);
        }
        let (kind, len) = loop {
            if self.input.is_empty() {
                return Ok(None);
            }
            self.header[self.header_len] = self.input.get_u8();
            self.header_len += 1;
            if let Some(header) = parse_header(&self.header[..self.header_len]) {
                break header;
            }
        };
        self.header_len = 0;
        let Some(known) = FrameKind::from_wire(kind) else { return self.skip(len) };
        self.step(known)?;
        if len > known.max() {
            return Err(FrameError::TooLarge { kind, announced: len, max: known.max() });
        }
        match known {
            FrameKind::End => return Ok(Some(Frame::End)),
            FrameKind::Data if len == 0 => {}
            FrameKind::Data => self.state = State::Data { left: len },
            FrameKind::Head | FrameKind::Trailers | FrameKind::Interim if len == 0 => {
                return Ok(Some(gathered(known, Bytes::new())));
            }
            FrameKind::Head | FrameKind::Trailers | FrameKind::Interim => {
                self.state = State::Gather { kind: known, len: usize_of(len), got: BytesMut::new() };
            }
        }
        Ok(None)
    }

    fn skip(&mut self, len: u64) -> Result<Option<Frame>, FrameError> {
        // The header counts too: empty unknown frames without end are as bad as long ones.
        self.unknown_bytes = self.unknown_bytes.saturating_add(len).saturating_add(2);
        if self.unknown_bytes > UNKNOWN_FRAME_BYTES_MAX {
            return Err(FrameError::TooMuchUnknown);
        }
        if len > 0 {
            self.state = State::Skip { left: len };
        }
        Ok(None)
    }

    /// Checks that a frame of `kind` may stand here, and what may follow it.
    fn step(&mut self, kind: FrameKind) -> Result<(), FrameError> {
        self.expect = match (self.expect, kind) {
            (Expect::Head, FrameKind::Interim) => {
                self.interim += 1;
                if self.interim > INTERIM_FRAMES_MAX {
                    return Err(FrameError::TooManyInterim);
                }
                Expect::Head
            }
            (Expect::Head, FrameKind::Head) | (Expect::Body, FrameKind::Data) => Expect::Body,
            (Expect::Body, FrameKind::Trailers) => Expect::End,
            (Expect::Body | Expect::End, FrameKind::End) => Expect::Nothing,
            (expect, found) => {
                let expected = match expect {
                    Expect::Head => "HEAD",
                    Expect::Body => "DATA, TRAILERS or END",
                    Expect::End => "END",
                    Expect::Nothing => "nothing",
                };
                return Err(FrameError::Order { found: found.as_str(), expected });
            }
        };
        Ok(())
    }
}

fn gathered(kind: FrameKind, payload: Bytes) -> Frame {
    match kind {
        FrameKind::Head => Frame::Head(payload),
        FrameKind::Interim => Frame::Interim(payload),
        FrameKind::Trailers | FrameKind::Data | FrameKind::End => Frame::Trailers(payload),
    }
}

/// Kind and length, once both are there.
fn parse_header(bytes: &[u8]) -> Option<(u64, u64)> {
    let (kind, used) = varint::get(bytes)?;
    let (len, _) = varint::get(&bytes[used..])?;
    Some((kind, len))
}

/// `n` as a size; larger ones, where sizes have 32 bits, only bound what is in memory anyway.
fn usize_of(n: u64) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests;
