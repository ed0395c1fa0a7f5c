//! What a tunnel runs on. One enum per thing that a carrier can do; no quinn type is seen above this file and
//! [`crate::endpoint`].

use std::future::Future;
use std::net::SocketAddr;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use proto::code::{CloseCode, Code};
use rustls::pki_types::CertificateDer;

use crate::error::{CloseReason, TunnelError};

/// A secured connection that carries streams and datagrams.
#[derive(Clone, Debug)]
pub(crate) enum Carrier {
    Quic(quinn::Connection),
}

/// The sending half of a stream.
#[derive(Debug)]
pub(crate) enum SendStream {
    Quic(quinn::SendStream),
}

/// The receiving half of a stream.
#[derive(Debug)]
pub(crate) enum RecvStream {
    Quic(quinn::RecvStream),
}

/// A stream with its place in the order of the streams that its opener opened.
pub(crate) type Stream = (u64, SendStream, RecvStream);

impl Carrier {
    /// Its name in status and metrics.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Quic(_) => "quic",
        }
    }

    pub(crate) fn remote_address(&self) -> SocketAddr {
        match self {
            Self::Quic(c) => c.remote_address(),
        }
    }

    pub(crate) fn rtt(&self) -> Duration {
        match self {
            Self::Quic(c) => c.rtt(),
        }
    }

    /// How many frames were received in packets that authenticated. A change means that the peer is alive.
    pub(crate) fn authenticated_frames(&self) -> u64 {
        match self {
            Self::Quic(c) => {
                let f = c.stats().frame_rx;
                f.acks + f.stream + f.datagram + f.ping + f.max_stream_data + f.reset_stream + f.stop_sending
            }
        }
    }

    /// The certificates that the peer proved itself by, its own first.
    pub(crate) fn peer_certificates(&self) -> Vec<CertificateDer<'static>> {
        match self {
            Self::Quic(c) => c
                .peer_identity()
                .and_then(|any| any.downcast::<Vec<CertificateDer<'static>>>().ok())
                .map_or_else(Vec::new, |certificates| *certificates),
        }
    }

    /// Opens a stream at once, or says that there is none to be had: it never queues.
    pub(crate) async fn open(&self) -> Result<Stream, TunnelError> {
        match self {
            Self::Quic(c) => {
                let mut opening = std::pin::pin!(c.open_bi());
                match std::future::poll_fn(|cx| Poll::Ready(opening.as_mut().poll(cx))).await {
                    Poll::Ready(Ok((s, r))) => Ok((s.id().index(), SendStream::Quic(s), RecvStream::Quic(r))),
                    Poll::Ready(Err(e)) => Err(TunnelError::Down(e.into())),
                    Poll::Pending => Err(TunnelError::Busy),
                }
            }
        }
    }

    /// Waits for the peer's next stream; they come in the order in which they were opened. Cancel safe.
    pub(crate) async fn accept(&self) -> Result<Stream, CloseReason> {
        match self {
            Self::Quic(c) => {
                let (s, r) = c.accept_bi().await?;
                Ok((s.id().index(), SendStream::Quic(s), RecvStream::Quic(r)))
            }
        }
    }

    /// Sends a datagram; it may be lost, and is dropped when the buffer is full.
    pub(crate) fn send_datagram(&self, data: Bytes) -> Result<(), TunnelError> {
        match self {
            Self::Quic(c) => c.send_datagram(data).map_err(|e| match e {
                quinn::SendDatagramError::ConnectionLost(e) => TunnelError::Down(e.into()),
                other => TunnelError::Protocol(format!("datagrams: {other}")),
            }),
        }
    }

    /// Waits for the next datagram. Cancel safe.
    pub(crate) async fn read_datagram(&self) -> Result<Bytes, CloseReason> {
        match self {
            Self::Quic(c) => Ok(c.read_datagram().await?),
        }
    }

    pub(crate) fn close(&self, code: CloseCode, reason: &str) {
        match self {
            // A reason that does not fit one packet is cut by quinn.
            Self::Quic(c) => c.close(code.to_wire().into(), reason.as_bytes()),
        }
    }

    /// Waits for the end of the connection.
    pub(crate) async fn closed(&self) -> CloseReason {
        match self {
            Self::Quic(c) => c.closed().await.into(),
        }
    }

    /// Why it ended, if it has.
    pub(crate) fn close_reason(&self) -> Option<CloseReason> {
        match self {
            Self::Quic(c) => c.close_reason().map(Into::into),
        }
    }
}

impl SendStream {
    /// Writes all of `chunk`, waiting for flow control. Not cancel safe: part of it may be written.
    pub(crate) async fn write(&mut self, chunk: Bytes) -> Result<(), TunnelError> {
        match self {
            Self::Quic(s) => s.write_chunk(chunk).await.map_err(|e| match e {
                quinn::WriteError::Stopped(code) => TunnelError::Reset(Code::from_wire(code.into_inner())),
                quinn::WriteError::ConnectionLost(e) => TunnelError::Lost(e.into()),
                quinn::WriteError::ClosedStream => TunnelError::Protocol("written after its end".into()),
                quinn::WriteError::ZeroRttRejected => TunnelError::Protocol("0-RTT is never used".into()),
            }),
        }
    }

    pub(crate) fn finish(&mut self) {
        match self {
            // Closed already means reset or stopped before: nothing is left to finish.
            Self::Quic(s) => drop(s.finish()),
        }
    }

    pub(crate) fn reset(&mut self, code: Code) {
        match self {
            Self::Quic(s) => drop(s.reset(code.to_wire().into())),
        }
    }

    /// Waits until the peer stops the stream, has acknowledged all of it, or is gone.
    pub(crate) fn stopped(&self) -> impl Future<Output = ()> + 'static {
        let stopped = match self {
            Self::Quic(s) => s.stopped(),
        };
        async move {
            // Every outcome means that nobody waits for more.
            let _ = stopped.await;
        }
    }

    /// Lower than others from now on: their data goes first.
    pub(crate) fn lower_priority(&mut self) {
        match self {
            Self::Quic(s) => drop(s.set_priority(-1)),
        }
    }
}

impl RecvStream {
    /// Reads the next bytes, at most `max`; `None` at FIN.
    pub(crate) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        max: usize,
    ) -> Poll<Result<Option<Bytes>, TunnelError>> {
        match self {
            // `read_chunk` keeps its state in the stream: a future made for one poll loses nothing.
            Self::Quic(r) => Poll::Ready(match ready!(std::pin::pin!(r.read_chunk(max, true)).poll(cx)) {
                Ok(chunk) => Ok(chunk.map(|c| c.bytes)),
                Err(quinn::ReadError::Reset(code)) => {
                    Err(TunnelError::Reset(Code::from_wire(code.into_inner())))
                }
                Err(quinn::ReadError::ConnectionLost(e)) => Err(TunnelError::Lost(e.into())),
                Err(quinn::ReadError::ClosedStream) => Ok(None),
                Err(e @ (quinn::ReadError::IllegalOrderedRead | quinn::ReadError::ZeroRttRejected)) => {
                    Err(TunnelError::Protocol(e.to_string()))
                }
            }),
        }
    }

    pub(crate) fn stop(&mut self, code: Code) {
        match self {
            Self::Quic(r) => drop(r.stop(code.to_wire().into())),
        }
    }
}
