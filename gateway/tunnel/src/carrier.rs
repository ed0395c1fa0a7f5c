//! What a tunnel runs on. One enum per thing that a carrier can do; no type of a carrier is seen above this file.

mod quic;

pub(crate) use quic::{DATAGRAM_BUFFER_BYTES, UDP_PAYLOAD_BYTES_MAX};

use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use proto::code::{CloseCode, Code};
use rustls::pki_types::CertificateDer;

use crate::account::Account;
use crate::congestion::{Congestion, Meter, Path};
use crate::error::{CloseReason, TunnelError};
use crate::kernel::Control;
use crate::mux::{self, MuxRecv, MuxSend};

/// The kinds of carriers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// QUIC on UDP.
    Quic,
    /// TLS on TCP.
    Tcp,
    /// TLS on a Unix socket.
    Unix,
}

impl Kind {
    /// The word for status, metrics and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Quic => "quic",
            Self::Tcp => "tcp",
            Self::Unix => "unix",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Where the other end of a tunnel is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerAddress {
    /// An IP address and a port.
    Ip(SocketAddr),
    /// A process on this host, by its id if the system tells.
    Process(Option<i32>),
}

impl fmt::Display for PeerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => address.fmt(f),
            Self::Process(Some(id)) => write!(f, "process {id}"),
            Self::Process(None) => f.write_str("this host"),
        }
    }
}

/// A secured connection that carries streams and datagrams.
#[derive(Clone, Debug)]
pub(crate) enum Carrier {
    Quic(quinn::Connection, Arc<Meter>),
    Mux(mux::Connection, PeerAddress, Control),
}

/// The sending half of a stream.
#[derive(Debug)]
pub(crate) enum SendStream {
    Quic(quinn::SendStream, Arc<Meter>),
    Mux(MuxSend),
}

/// The receiving half of a stream.
#[derive(Debug)]
pub(crate) enum RecvStream {
    Quic(quinn::RecvStream),
    Mux(MuxRecv),
}

/// A stream with its place in the order of the streams that its opener opened.
pub(crate) type Stream = (u64, SendStream, RecvStream);

fn stream((index, send, recv): (u64, MuxSend, MuxRecv)) -> Stream {
    (index, SendStream::Mux(send), RecvStream::Mux(recv))
}

impl Carrier {
    pub(crate) fn kind(&self) -> Kind {
        match self {
            Self::Quic(..) => Kind::Quic,
            Self::Mux(_, PeerAddress::Ip(_), _) => Kind::Tcp,
            Self::Mux(_, PeerAddress::Process(_), _) => Kind::Unix,
        }
    }

    pub(crate) fn remote_address(&self) -> PeerAddress {
        match self {
            Self::Quic(c, _) => PeerAddress::Ip(c.remote_address()),
            Self::Mux(_, address, _) => *address,
        }
    }

    pub(crate) fn rtt(&self) -> Duration {
        match self {
            Self::Quic(c, _) => c.rtt(),
            Self::Mux(c, ..) => c.rtt(),
        }
    }

    /// How what may be in flight is decided from now on: on byte streams by the system, which is told.
    pub(crate) fn set_congestion(&self, congestion: Congestion) {
        match self {
            Self::Quic(_, meter) => meter.set_congestion(congestion),
            Self::Mux(.., control) => control.set_congestion(congestion),
        }
    }

    /// What is known of its path; none: it is the system's affair.
    pub(crate) fn path(&self) -> Option<Path> {
        match self {
            Self::Quic(_, meter) => Some(meter.path()),
            Self::Mux(..) => None,
        }
    }

    /// The millionths that are lost of what we send, if that is worth copies; else zero.
    pub(crate) fn own_loss(&self) -> u32 {
        match self {
            Self::Quic(_, meter) => meter.own_loss(),
            Self::Mux(..) => 0,
        }
    }

    /// Whether the peer says that much is lost of what it sends.
    pub(crate) fn heed_loss(&self, peer_loses: bool) {
        match self {
            Self::Quic(_, meter) => meter.heed(peer_loses),
            Self::Mux(..) => {}
        }
    }

    /// How many frames were received in packets that authenticated. A change means that the peer is alive.
    pub(crate) fn authenticated_frames(&self) -> u64 {
        match self {
            Self::Quic(c, _) => quic::authenticated_frames(c),
            Self::Mux(c, ..) => c.heard(),
        }
    }

    /// The certificates that the peer proved itself by, its own first.
    pub(crate) fn peer_certificates(&self) -> Vec<CertificateDer<'static>> {
        match self {
            Self::Quic(c, _) => quic::peer_certificates(c),
            Self::Mux(c, ..) => c.peer_certificates(),
        }
    }

    /// From now on what is unread counts on `account`; QUIC counts by itself, within the window that it is given.
    pub(crate) fn share(&self, account: &Arc<Account>) {
        match self {
            Self::Quic(..) => {}
            Self::Mux(c, ..) => c.share(account),
        }
    }

    /// What all streams may have unread from now on, where the carrier counts it by itself.
    pub(crate) fn set_window(&self, bytes: usize) {
        match self {
            Self::Quic(c, _) => c.set_receive_window(u32::try_from(bytes).unwrap_or(u32::MAX).into()),
            Self::Mux(..) => {}
        }
    }

    /// Opens a stream at once, or says that there is none to be had: it never queues.
    pub(crate) async fn open(&self) -> Result<Stream, TunnelError> {
        match self {
            Self::Quic(c, meter) => quic::open(c, meter).await,
            Self::Mux(c, ..) => c.open().map(stream),
        }
    }

    /// Waits for the peer's next stream; they come in the order in which they were opened. Cancel safe.
    pub(crate) async fn accept(&self) -> Result<Stream, CloseReason> {
        match self {
            Self::Quic(c, meter) => quic::accept(c, meter).await,
            Self::Mux(c, ..) => c.accept().await.map(stream),
        }
    }

    /// Sends a datagram; it may be lost, and is dropped when the buffer is full.
    pub(crate) fn send_datagram(&self, data: Bytes) -> Result<(), TunnelError> {
        match self {
            Self::Quic(c, _) => quic::send_datagram(c, data),
            Self::Mux(c, ..) => c.send_datagram(data),
        }
    }

    /// The largest datagram of a flow that it takes now: `Some(0)`: none at all, they go on streams; `None`: there is no
    /// room for another.
    pub(crate) fn datagram_room(&self) -> Option<usize> {
        match self {
            Self::Quic(c, _) => quic::datagram_room(c),
            Self::Mux(..) => Some(0),
        }
    }

    /// Waits for the next datagram. Cancel safe.
    pub(crate) async fn read_datagram(&self) -> Result<Bytes, CloseReason> {
        match self {
            Self::Quic(c, _) => Ok(c.read_datagram().await?),
            Self::Mux(c, ..) => c.read_datagram().await,
        }
    }

    /// Closes it at once. The peer hears code and reason, if the way to it works; a long reason is cut.
    pub(crate) fn close(&self, code: CloseCode, reason: &str) {
        match self {
            Self::Quic(c, _) => c.close(code.to_wire().into(), reason.as_bytes()),
            Self::Mux(c, ..) => c.close(code, reason),
        }
    }

    /// Waits for the end of the connection.
    pub(crate) async fn closed(&self) -> CloseReason {
        match self {
            Self::Quic(c, _) => c.closed().await.into(),
            Self::Mux(c, ..) => c.closed().await,
        }
    }

    /// Why it ended, if it has.
    pub(crate) fn close_reason(&self) -> Option<CloseReason> {
        match self {
            Self::Quic(c, _) => c.close_reason().map(Into::into),
            Self::Mux(c, ..) => c.close_reason(),
        }
    }
}

impl SendStream {
    /// Writes all of `chunk`, waiting for flow control. Not cancel safe: part of it may be written.
    pub(crate) async fn write(&mut self, chunk: Bytes) -> Result<(), TunnelError> {
        match self {
            Self::Quic(s, _) => quic::write(s, chunk).await,
            Self::Mux(s) => s.write(chunk).await,
        }
    }

    /// What is written next is `bytes` of a small message.
    pub(crate) fn mark_small(&self, bytes: usize) {
        match self {
            Self::Quic(_, meter) => meter.mark(bytes),
            Self::Mux(_) => {}
        }
    }

    pub(crate) fn finish(&mut self) {
        match self {
            // Closed already means reset or stopped before: nothing is left to finish.
            Self::Quic(s, _) => drop(s.finish()),
            Self::Mux(s) => s.finish(),
        }
    }

    pub(crate) fn reset(&mut self, code: Code) {
        match self {
            Self::Quic(s, _) => drop(s.reset(code.to_wire().into())),
            Self::Mux(s) => s.reset(code),
        }
    }

    /// Waits until the peer stops the stream, or all of it has arrived or will before the connection's close, or the
    /// peer is gone.
    pub(crate) fn stopped(&self) -> impl Future<Output = ()> + 'static {
        enum Stopped<A, B> {
            Quic(A),
            Mux(B),
        }
        let stopped = match self {
            Self::Quic(s, _) => Stopped::Quic(s.stopped()),
            Self::Mux(s) => Stopped::Mux(s.stopped()),
        };
        async move {
            match stopped {
                // Every outcome means that nobody waits for more.
                Stopped::Quic(stopped) => drop(stopped.await),
                Stopped::Mux(stopped) => stopped.await,
            }
        }
    }

    /// As others again. On byte streams what is low stays it: what was written could be overtaken by what is written next.
    pub(crate) fn raise_priority(&mut self) {
        if let Self::Quic(s, _) = self {
            let _ = s.set_priority(0);
        }
    }

    /// Lower than others from now on: their data goes first.
    pub(crate) fn lower_priority(&mut self) {
        match self {
            Self::Quic(s, _) => drop(s.set_priority(-1)),
            Self::Mux(s) => s.lower_priority(),
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
            Self::Quic(r) => quic::poll_read(r, cx, max),
            Self::Mux(r) => r.poll_read(cx, max),
        }
    }

    pub(crate) fn stop(&mut self, code: Code) {
        match self {
            Self::Quic(r) => drop(r.stop(code.to_wire().into())),
            Self::Mux(r) => r.stop(code),
        }
    }
}
