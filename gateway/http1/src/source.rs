//! What comes in on a connection.

use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::BytesMut;
use socket2::SockRef;
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedReadHalf;
use tokio_util::io::poll_read_buf;

use crate::BodyError;
use crate::chunked::{Decoder, Item};

/// Bytes read at once while a head is awaited: nearly every request fits.
const HEAD_READ_BYTES: usize = 8 * 1024;
/// Bytes read at once of a body.
const BODY_READ_BYTES: usize = 64 * 1024;

/// The half of a connection that is read, with what was read and not yet used.
#[derive(Debug)]
pub(crate) struct Source {
    half: OwnedReadHalf,
    pub(crate) buf: BytesMut,
    ended: bool,
}

impl Source {
    pub(crate) fn new(half: OwnedReadHalf) -> Self {
        Self { half, buf: BytesMut::new(), ended: false }
    }

    /// The half, of which `begun` was read already.
    pub(crate) fn behind(begun: bytes::Bytes, half: OwnedReadHalf) -> Self {
        Self { half, buf: begun.into(), ended: false }
    }

    /// The connection.
    pub(crate) fn stream(&self) -> &TcpStream {
        self.half.as_ref()
    }

    /// Reads more; false: the other side has ended. Holds no memory while it waits with nothing at hand.
    pub(crate) fn poll_fill(&mut self, cx: &mut Context<'_>, bytes: usize) -> Poll<io::Result<bool>> {
        if self.ended {
            return Poll::Ready(Ok(false));
        }
        if self.buf.is_empty() {
            self.buf = BytesMut::new();
            ready!(self.half.as_ref().poll_read_ready(cx))?;
        }
        self.buf.reserve(bytes);
        match poll_read_buf(Pin::new(&mut self.half), cx, &mut self.buf) {
            Poll::Ready(Ok(0)) => {
                self.ended = true;
                Poll::Ready(Ok(false))
            }
            Poll::Ready(Ok(_)) => Poll::Ready(Ok(true)),
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => {
                if self.buf.is_empty() {
                    self.buf = BytesMut::new();
                }
                Poll::Pending
            }
        }
    }

    /// As [`Source::poll_fill`], for a head.
    pub(crate) fn poll_head_bytes(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        self.poll_fill(cx, HEAD_READ_BYTES)
    }

    /// Ends when the other side has ended or failed while nobody reads. What else comes is kept for later, as much as
    /// is read at once.
    pub(crate) fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.buf.is_empty() && !self.ended {
            // The next request is here already. Its sender is looked after when it is read.
            return Poll::Pending;
        }
        match self.poll_fill(cx, HEAD_READ_BYTES) {
            Poll::Ready(Ok(true)) | Poll::Pending => Poll::Pending,
            Poll::Ready(Ok(false) | Err(_)) => Poll::Ready(()),
        }
    }

    /// The next piece of a body that `decoder` reads.
    pub(crate) fn poll_item(
        &mut self,
        cx: &mut Context<'_>,
        decoder: &mut Decoder,
    ) -> Poll<Result<Item, BodyError>> {
        loop {
            if let Some(item) = decoder.decode(&mut self.buf)? {
                return Poll::Ready(Ok(item));
            }
            let left = decoder.remaining().and_then(|left| usize::try_from(left).ok());
            let room = left.unwrap_or(BODY_READ_BYTES).clamp(HEAD_READ_BYTES, BODY_READ_BYTES);
            if !ready!(self.poll_fill(cx, room)).map_err(BodyError::Io)? {
                decoder.end()?;
                return Poll::Ready(Ok(Item::End));
            }
        }
    }

    /// Whether an idle connection can be used again: nothing came, and the other side has not ended.
    pub(crate) fn is_quiet(&self) -> bool {
        // Costs no system call while the readiness is known.
        let mut byte = [0; 1];
        let nothing = matches!(
            self.stream().try_read(&mut byte), Err(error) if error.kind() == io::ErrorKind::WouldBlock
        );
        nothing && self.buf.is_empty() && !self.ended
    }

    /// The same by the system's word: the readiness that the runtime knows is as old as its last turn.
    pub(crate) fn is_quiet_now(&self) -> bool {
        let mut byte = [MaybeUninit::uninit(); 1];
        let peeked = SockRef::from(self.stream()).peek(&mut byte);
        let nothing = matches!(peeked, Err(error) if error.kind() == io::ErrorKind::WouldBlock);
        nothing && self.buf.is_empty() && !self.ended
    }
}

impl Source {
    /// What was read and not used, and the half.
    pub(crate) fn into_parts(self) -> (bytes::Bytes, OwnedReadHalf) {
        (self.buf.freeze(), self.half)
    }
}
