//! QUIC's part: what quinn says, in the words of [`super`].

use std::future::Future;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use proto::code::Code;
use rustls::pki_types::CertificateDer;

use super::{RecvStream, SendStream, Stream};
use crate::congestion::Meter;
use crate::error::{CloseReason, TunnelError};

/// Largest UDP payload that is sent or taken: Ethernet's 1500 less IP and UDP headers.
pub(crate) const UDP_PAYLOAD_BYTES_MAX: u16 = 1472;

pub(super) fn authenticated_frames(connection: &quinn::Connection) -> u64 {
    let f = connection.stats().frame_rx;
    f.acks + f.stream + f.datagram + f.ping + f.max_stream_data + f.reset_stream + f.stop_sending
}

pub(super) fn peer_certificates(connection: &quinn::Connection) -> Vec<CertificateDer<'static>> {
    connection
        .peer_identity()
        .and_then(|any| any.downcast::<Vec<CertificateDer<'static>>>().ok())
        .map_or_else(Vec::new, |certificates| *certificates)
}

pub(super) async fn open(connection: &quinn::Connection, meter: &Arc<Meter>) -> Result<Stream, TunnelError> {
    let mut opening = std::pin::pin!(connection.open_bi());
    match std::future::poll_fn(|cx| Poll::Ready(opening.as_mut().poll(cx))).await {
        Poll::Ready(Ok(halves)) => Ok(stream(halves, meter)),
        Poll::Ready(Err(e)) => Err(TunnelError::Down(e.into())),
        Poll::Pending => Err(TunnelError::Busy),
    }
}

pub(super) async fn accept(
    connection: &quinn::Connection,
    meter: &Arc<Meter>,
) -> Result<Stream, CloseReason> {
    Ok(stream(connection.accept_bi().await?, meter))
}

fn stream((send, recv): (quinn::SendStream, quinn::RecvStream), meter: &Arc<Meter>) -> Stream {
    (send.id().index(), SendStream::Quic(send, meter.clone()), RecvStream::Quic(recv))
}

/// Bytes of datagrams that may wait to be sent on one connection.
pub(crate) const DATAGRAM_BUFFER_BYTES: usize = 1024 * 1024;
/// Bytes of flows that wait to be sent on one connection. Probes wait behind them.
const FLOWS_UNSENT_MAX: usize = 256 * 1024;

/// The largest datagram that can be sent at the moment; none: all that may wait does.
pub(super) fn datagram_room(connection: &quinn::Connection) -> Option<usize> {
    let unsent = DATAGRAM_BUFFER_BYTES.saturating_sub(connection.datagram_send_buffer_space());
    if unsent < FLOWS_UNSENT_MAX { connection.max_datagram_size() } else { None }
}

pub(super) fn send_datagram(connection: &quinn::Connection, data: Bytes) -> Result<(), TunnelError> {
    connection.send_datagram(data).map_err(|e| match e {
        quinn::SendDatagramError::ConnectionLost(e) => TunnelError::Down(e.into()),
        other => TunnelError::Protocol(format!("datagrams: {other}")),
    })
}

pub(super) async fn write(stream: &mut quinn::SendStream, chunk: Bytes) -> Result<(), TunnelError> {
    stream.write_chunk(chunk).await.map_err(|e| match e {
        quinn::WriteError::Stopped(code) => TunnelError::Reset(Code::from_wire(code.into_inner())),
        quinn::WriteError::ConnectionLost(e) => TunnelError::Lost(e.into()),
        quinn::WriteError::ClosedStream => TunnelError::Protocol("written after its end".into()),
        quinn::WriteError::ZeroRttRejected => TunnelError::Protocol("0-RTT is never used".into()),
    })
}

pub(super) fn poll_read(
    stream: &mut quinn::RecvStream,
    cx: &mut Context<'_>,
    max: usize,
) -> Poll<Result<Option<Bytes>, TunnelError>> {
    // `read_chunk` keeps its state in the stream: a future made for one poll loses nothing.
    Poll::Ready(match ready!(std::pin::pin!(stream.read_chunk(max, true)).poll(cx)) {
        Ok(chunk) => Ok(chunk.map(|c| apart(c.bytes))),
        Err(quinn::ReadError::Reset(code)) => Err(TunnelError::Reset(Code::from_wire(code.into_inner()))),
        Err(quinn::ReadError::ConnectionLost(e)) => Err(TunnelError::Lost(e.into())),
        Err(quinn::ReadError::ClosedStream) => Ok(None),
        Err(e @ (quinn::ReadError::IllegalOrderedRead | quinn::ReadError::ZeroRttRejected)) => {
            Err(TunnelError::Protocol(e.to_string()))
        }
    })
}

/// Bytes that hold little more than themselves: those of a datagram hold all of it, and those of several all that quinn
/// has joined with them. Whoever reads may keep them for as long as an exchange lasts.
fn apart(bytes: Bytes) -> Bytes {
    let most_of_a_datagram = usize::from(UDP_PAYLOAD_BYTES_MAX / 2)..=usize::from(UDP_PAYLOAD_BYTES_MAX);
    if most_of_a_datagram.contains(&bytes.len()) { bytes } else { Bytes::copy_from_slice(&bytes) }
}
