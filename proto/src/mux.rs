//! Frames of a tunnel on a byte stream (TLS on TCP, or on a Unix socket). They carry what QUIC has by itself: streams
//! that either side opens, each half of which ends on its own; windows; datagrams; and the code of a close.
//!
//! Nine bytes of header, big-endian: kind (1), length of the payload (2), stream (6). A stream's number is twice its
//! place in the order of its opener's streams, plus one if the opener is the side that accepted the connection.
//!
//! | kind | payload | means |
//! |---|---|---|
//! | `OPEN` | | the opener's next stream |
//! | `DATA` | 1 to 16,384 bytes | takes [`cost`] of the windows of the stream and of the connection |
//! | `FIN` | | the sender's half is whole |
//! | `RESET`, `STOP` | code (4) | the sender's half ends early; the reader wants no more of it |
//! | `WINDOW` | bytes (4) | so much more may be sent, on the stream or, with the greatest number, on the connection |
//! | `DATAGRAM` | up to 1,200 bytes | dropped where it would have to wait |
//! | `PING`, `PONG` | token (8) | keeps the connection alive and measures it |
//! | `CLOSE` | code (4), reason | the last frame |
//!
//! Kinds from the future are skipped.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use thiserror::Error;

use crate::limits::{MUX_CHUNK_COST_MIN, MUX_DATAGRAM_BYTES_MAX, MUX_PAYLOAD_BYTES_MAX, REASON_BYTES_MAX};

/// Bytes of a frame's header.
pub const HEADER_BYTES: usize = 9;
/// What stands for the connection where a stream is named.
const CONNECTION: u64 = (1 << 48) - 1;
/// Streams that one side can open on one connection; at 100,000 a second it takes forty years.
pub const INDEX_MAX: u64 = CONNECTION >> 1;

const OPEN: u8 = 0x00;
const DATA: u8 = 0x01;
const FIN: u8 = 0x02;
const RESET: u8 = 0x03;
const STOP: u8 = 0x04;
const WINDOW: u8 = 0x05;
const DATAGRAM: u8 = 0x06;
const PING: u8 = 0x07;
const PONG: u8 = 0x08;
const CLOSE: u8 = 0x09;

/// A stream of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamId(u64);

impl StreamId {
    /// The stream at place `index`, at most [`INDEX_MAX`], of those that the dialler, or the other side, opens.
    pub const fn new(index: u64, by_dialler: bool) -> Self {
        Self(index << 1 | !by_dialler as u64)
    }

    /// Its place in the order of its opener's streams.
    pub const fn index(self) -> u64 {
        self.0 >> 1
    }

    /// Whether the side that dialled opened it.
    pub const fn is_by_dialler(self) -> bool {
        self.0 & 1 == 0
    }
}

/// One frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// The opener's next stream.
    Open(StreamId),
    /// Bytes of a stream.
    Data(StreamId, Bytes),
    /// The end of the sender's half.
    Fin(StreamId),
    /// The early end of the sender's half, with its code.
    Reset(StreamId, u32),
    /// The reader wants no more, with its code.
    Stop(StreamId, u32),
    /// More may be sent: on a stream, or on the connection.
    Window(Option<StreamId>, u32),
    /// A datagram.
    Datagram(Bytes),
    /// Asks for a pong with the same token.
    Ping(u64),
    /// Answers a ping.
    Pong(u64),
    /// The end of the connection: code and reason.
    Close(u32, Bytes),
}

/// Why no frame could be read; the connection cannot be read any further.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum MuxError {
    /// The payload is longer than a frame of this kind may have.
    #[error("a frame of kind {kind:#04x} with {length} bytes")]
    Length {
        /// The frame's kind.
        kind: u8,
        /// What it announced, in bytes.
        length: usize,
    },
}

/// What `length` bytes of a stream take of its windows: small chunks cost as much as their keeping does.
pub const fn cost(length: usize) -> usize {
    if length < MUX_CHUNK_COST_MIN { MUX_CHUNK_COST_MIN } else { length }
}

impl Frame {
    /// Appends the frame.
    pub fn encode(&self, out: &mut BytesMut) {
        let mut put = |kind: u8, stream: u64, payload: &[u8]| {
            out.put_u8(kind);
            out.put_uint(payload.len() as u64, 2);
            out.put_uint(stream, 6);
            out.put_slice(payload);
        };
        match self {
            Self::Open(id) => put(OPEN, id.0, &[]),
            Self::Data(id, bytes) => put(DATA, id.0, bytes),
            Self::Fin(id) => put(FIN, id.0, &[]),
            Self::Reset(id, code) => put(RESET, id.0, &code.to_be_bytes()),
            Self::Stop(id, code) => put(STOP, id.0, &code.to_be_bytes()),
            Self::Window(id, more) => put(WINDOW, id.map_or(CONNECTION, |id| id.0), &more.to_be_bytes()),
            Self::Datagram(bytes) => put(DATAGRAM, CONNECTION, bytes),
            Self::Ping(token) => put(PING, CONNECTION, &token.to_be_bytes()),
            Self::Pong(token) => put(PONG, CONNECTION, &token.to_be_bytes()),
            Self::Close(code, reason) => {
                let reason = &reason[..reason.len().min(REASON_BYTES_MAX)];
                put(CLOSE, CONNECTION, &[&code.to_be_bytes()[..], reason].concat());
            }
        }
    }

    /// Takes the next whole frame from the front of `buf`, which never has to hold more than the longest frame. None:
    /// more bytes are needed.
    ///
    /// # Errors
    /// [`MuxError`]: the peer broke the protocol.
    pub fn decode(buf: &mut BytesMut) -> Result<Option<Self>, MuxError> {
        loop {
            let Some(mut header) = buf.get(..HEADER_BYTES) else { return Ok(None) };
            let (kind, length) = (header.get_u8(), usize::from(header.get_u16()));
            let id = header.get_uint(6);
            let fits = match kind {
                OPEN | FIN => length == 0,
                DATA => (1..=MUX_PAYLOAD_BYTES_MAX).contains(&length),
                RESET | STOP | WINDOW => length == 4,
                DATAGRAM => length <= MUX_DATAGRAM_BYTES_MAX,
                PING | PONG => length == 8,
                CLOSE => (4..=4 + REASON_BYTES_MAX).contains(&length),
                _ => length <= MUX_PAYLOAD_BYTES_MAX,
            };
            if !fits {
                return Err(MuxError::Length { kind, length });
            }
            if buf.len() < HEADER_BYTES + length {
                return Ok(None);
            }
            buf.advance(HEADER_BYTES);
            let mut payload = buf.split_to(length);
            let stream = StreamId(id);
            return Ok(Some(match kind {
                OPEN => Self::Open(stream),
                DATA => Self::Data(stream, payload.freeze()),
                FIN => Self::Fin(stream),
                RESET => Self::Reset(stream, payload.get_u32()),
                STOP => Self::Stop(stream, payload.get_u32()),
                WINDOW => Self::Window((id != CONNECTION).then_some(stream), payload.get_u32()),
                DATAGRAM => Self::Datagram(payload.freeze()),
                PING => Self::Ping(payload.get_u64()),
                PONG => Self::Pong(payload.get_u64()),
                CLOSE => Self::Close(payload.get_u32(), payload.freeze()),
                _ => continue,
            }));
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    fn frames() -> Vec<Frame> {
        let (ours, theirs) = (StreamId::new(0, true), StreamId::new(INDEX_MAX - 1, false));
        vec![
            Frame::Open(ours),
            Frame::Data(theirs, Bytes::from(vec![7; MUX_PAYLOAD_BYTES_MAX])),
            Frame::Fin(ours),
            Frame::Reset(theirs, 0x100),
            Frame::Stop(ours, u32::MAX),
            Frame::Window(Some(theirs), 1),
            Frame::Window(None, u32::MAX),
            Frame::Datagram(Bytes::from_static(b"probe")),
            Frame::Ping(u64::MAX),
            Frame::Pong(1),
            Frame::Close(0x200, Bytes::from_static(b"drained")),
        ]
    }

    #[test]
    fn frames_come_out_whole_and_in_order_whatever_the_chunks() {
        let mut bytes = BytesMut::new();
        frames().iter().for_each(|frame| frame.encode(&mut bytes));
        for size in [1, 7, 4096, bytes.len()] {
            let (mut buf, mut got) = (BytesMut::new(), Vec::new());
            for chunk in bytes.chunks(size) {
                buf.extend_from_slice(chunk);
                while let Some(frame) = Frame::decode(&mut buf).unwrap() {
                    got.push(frame);
                }
            }
            assert_eq!(got, frames());
            assert!(buf.is_empty());
        }
    }

    #[test]
    fn numbers_of_the_two_sides_do_not_meet() {
        for (index, by_dialler) in [(0, true), (0, false), (INDEX_MAX - 1, true), (INDEX_MAX - 1, false)] {
            let id = StreamId::new(index, by_dialler);
            assert_eq!((id.index(), id.is_by_dialler()), (index, by_dialler));
            assert_ne!(id.0, CONNECTION);
        }
    }

    #[test]
    fn a_kind_from_the_future_is_skipped() {
        let mut bytes = BytesMut::from(&[0x7f, 0, 3, 0, 0, 0, 0, 0, 9, 1, 2, 3][..]);
        Frame::Ping(1).encode(&mut bytes);
        assert_eq!(Frame::decode(&mut bytes).unwrap(), Some(Frame::Ping(1)));
    }

    #[test]
    fn lengths_count_before_the_payload_came() {
        for (kind, length) in
            [(DATA, 0), (DATA, 0x4001), (OPEN, 1), (RESET, 3), (PING, 9), (CLOSE, 3), (0x7f, 0xffff)]
        {
            let length: u16 = length;
            let mut buf = BytesMut::from(&[kind][..]);
            buf.put_u16(length);
            buf.put_slice(&[0; 6]);
            assert_eq!(Frame::decode(&mut buf), Err(MuxError::Length { kind, length: length.into() }));
        }
    }

    #[test]
    fn a_long_reason_is_cut() {
        let mut buf = BytesMut::new();
        Frame::Close(1, Bytes::from(vec![b'x'; 70_000])).encode(&mut buf);
        let close = Frame::Close(1, Bytes::from(vec![b'x'; REASON_BYTES_MAX]));
        assert_eq!(Frame::decode(&mut buf), Ok(Some(close)));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused_and_what_was_read_is_written_alike(bytes: Vec<u8>) {
            let mut buf = BytesMut::from(&bytes[..]);
            while let Ok(Some(frame)) = Frame::decode(&mut buf) {
                let mut again = BytesMut::new();
                frame.encode(&mut again);
                prop_assert_eq!(Frame::decode(&mut again), Ok(Some(frame)));
            }
        }
    }
}
