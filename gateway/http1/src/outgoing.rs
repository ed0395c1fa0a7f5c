//! What goes out on a connection: messages gathered into few writes.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use http::HeaderMap;
use tokio::io::AsyncWrite;

use crate::head::put_fields;

/// Bytes that are gathered before they must be written; whoever makes them waits then.
const GATHERED_BYTES_MAX: usize = 128 * 1024;
/// Pieces written at once.
const SLICES_MAX: usize = 32;
/// Data up to this is copied next to what stands around it.
const COPIED_BYTES_MAX: usize = 2048;
/// What a chunk costs besides its data, at most: its size and two line ends.
const CHUNK_SIZE_BYTES: usize = 16 + 2;

/// Bytes on their way into a socket.
#[derive(Debug, Default)]
pub(crate) struct Outgoing {
    pieces: VecDeque<Bytes>,
    /// Behind the pieces; small things are gathered here.
    tail: Vec<u8>,
    bytes: usize,
    /// Something was written.
    begun: bool,
}

/// How a body is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// As it is; so many bytes must come.
    Length(u64),
    /// In the chunked coding.
    Chunked,
    /// As it is, until the connection ends.
    UntilClose,
    /// Not at all, whatever comes.
    Nothing,
}

/// A body that is not as long as its head said.
#[derive(Debug)]
pub(crate) struct WrongLength;

impl Outgoing {
    /// Where a head is written.
    pub(crate) fn head(&mut self) -> &mut Vec<u8> {
        &mut self.tail
    }

    /// To be called after [`Outgoing::head`] has grown.
    pub(crate) fn head_written(&mut self) {
        self.bytes = self.pieces.iter().map(Bytes::len).sum::<usize>() + self.tail.len();
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    pub(crate) fn is_begun(&self) -> bool {
        self.begun
    }

    pub(crate) fn is_full(&self) -> bool {
        self.bytes >= GATHERED_BYTES_MAX
    }

    /// Some data of a body.
    pub(crate) fn data(&mut self, mode: &mut Mode, data: Bytes) -> Result<(), WrongLength> {
        if data.is_empty() {
            return Ok(());
        }
        match mode {
            Mode::Nothing => return Ok(()),
            Mode::Length(left) => *left = left.checked_sub(data.len() as u64).ok_or(WrongLength)?,
            Mode::Chunked => self.chunk_size(data.len()),
            Mode::UntilClose => {}
        }
        let chunked = *mode == Mode::Chunked;
        self.bytes += data.len();
        if data.len() <= COPIED_BYTES_MAX {
            self.tail.extend_from_slice(&data);
        } else {
            self.flush_tail();
            self.pieces.push_back(data);
        }
        if chunked {
            self.tail.extend_from_slice(b"\r\n");
            self.bytes += 2;
        }
        Ok(())
    }

    fn chunk_size(&mut self, size: usize) {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut text = [0; CHUNK_SIZE_BYTES];
        let mut at = text.len() - 2;
        text[at..].copy_from_slice(b"\r\n");
        let mut left = size;
        loop {
            at -= 1;
            text[at] = DIGITS[left & 15];
            left >>= 4;
            if left == 0 {
                break;
            }
        }
        self.tail.extend_from_slice(&text[at..]);
        self.bytes += text.len() - at;
    }

    /// The end of a body.
    pub(crate) fn end(&mut self, mode: Mode, trailers: Option<&HeaderMap>) -> Result<(), WrongLength> {
        match mode {
            Mode::Length(1..) => return Err(WrongLength),
            Mode::Chunked => {
                let before = self.tail.len();
                self.tail.extend_from_slice(b"0\r\n");
                if let Some(trailers) = trailers {
                    put_fields(&mut self.tail, trailers);
                }
                self.tail.extend_from_slice(b"\r\n");
                self.bytes += self.tail.len() - before;
            }
            Mode::Length(0) | Mode::UntilClose | Mode::Nothing => {}
        }
        Ok(())
    }

    fn flush_tail(&mut self) {
        if !self.tail.is_empty() {
            self.pieces.push_back(std::mem::take(&mut self.tail).into());
        }
    }

    /// Writes until nothing is left.
    pub(crate) fn poll_write<W: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        to: &mut W,
    ) -> Poll<io::Result<()>> {
        while self.bytes > 0 {
            let written = if self.pieces.is_empty() {
                ready!(Pin::new(&mut *to).poll_write(cx, &self.tail))?
            } else {
                let mut slices = [IoSlice::new(&[]); SLICES_MAX];
                let pieces = self.pieces.iter().map(|piece| &piece[..]).chain([&self.tail[..]]);
                let mut count = 0;
                for (slot, piece) in slices.iter_mut().zip(pieces) {
                    *slot = IoSlice::new(piece);
                    count += 1;
                }
                ready!(Pin::new(&mut *to).poll_write_vectored(cx, &slices[..count]))?
            };
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.advance(written);
        }
        Poll::Ready(Ok(()))
    }

    fn advance(&mut self, mut written: usize) {
        self.bytes -= written;
        self.begun = true;
        while let Some(piece) = self.pieces.front_mut() {
            if written < piece.len() {
                piece.advance(written);
                return;
            }
            written -= piece.len();
            self.pieces.pop_front();
        }
        if written >= self.tail.len() {
            self.tail.clear();
        } else if written > 0 {
            self.tail.drain(..written);
        }
    }

    /// Gives memory back while nothing is to be written.
    pub(crate) fn rest(&mut self) {
        if self.is_empty() {
            *self = Self::default();
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::task::Waker;

    use super::*;

    /// Takes so many bytes at a time.
    struct Sip(usize, Vec<u8>);

    impl AsyncWrite for Sip {
        fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
            let taken = buf.len().min(self.0);
            self.1.extend_from_slice(&buf[..taken]);
            Poll::Ready(Ok(taken))
        }
        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    fn written(out: &mut Outgoing, at_once: usize) -> Vec<u8> {
        let mut sip = Sip(at_once, Vec::new());
        assert!(out.poll_write(&mut Context::from_waker(Waker::noop()), &mut sip).is_ready());
        assert!(out.is_empty());
        sip.1
    }

    #[test]
    fn what_is_gathered_is_written_in_order_however_little_the_socket_takes() {
        for at_once in [1, 2, 3, 7, 1000, 100_000] {
            let (mut out, mut mode) = (Outgoing::default(), Mode::Chunked);
            out.head().extend_from_slice(b"HEAD\r\n\r\n");
            out.head_written();
            out.data(&mut mode, Bytes::from_static(b"hello")).unwrap();
            out.data(&mut mode, Bytes::from(vec![b'x'; 5000])).unwrap();
            out.data(&mut mode, Bytes::new()).unwrap();
            out.end(mode, None).unwrap();
            let expected =
                [b"HEAD\r\n\r\n5\r\nhello\r\n1388\r\n", &[b'x'; 5000][..], b"\r\n0\r\n\r\n"].concat();
            assert_eq!(written(&mut out, at_once), expected, "{at_once}");
        }
    }

    #[test]
    fn a_body_is_as_long_as_its_head_said_or_an_error() {
        let (mut out, mut mode) = (Outgoing::default(), Mode::Length(3));
        out.data(&mut mode, Bytes::from_static(b"ab")).unwrap();
        assert!(out.end(mode, None).is_err());
        assert!(out.data(&mut mode, Bytes::from_static(b"cd")).is_err());
        let mut mode = Mode::Nothing;
        out.data(&mut mode, Bytes::from_static(b"cd")).unwrap();
        assert_eq!(written(&mut out, 9), b"ab");
    }
}
