//! A stream of the peer, from its arrival until it is known what it is for.

use std::sync::Arc;

use proto::code::Code;
use proto::limits;
use proto::stream::StreamKind;

use super::Shared;
use crate::carrier::Stream;
use crate::error::TunnelError;
use crate::flight::Flight;
use crate::stream::{Exchange, MessageReader, MessageWriter, Receiver, Sender};

/// A stream that the peer opened.
#[derive(Debug)]
pub struct Accepted {
    stream: Stream,
    tunnel: Arc<Shared>,
}

/// What a stream of the peer is for.
#[derive(Debug)]
pub enum Begun {
    /// A request: its head is the first frame.
    Exchange(Exchange),
    /// The peer mirrors our exports.
    Sync(MessageReader, MessageWriter),
    /// A sidecar asks what names mean.
    Lookup(MessageReader, MessageWriter),
    /// A sidecar registers endpoints.
    Register(MessageReader, MessageWriter),
    /// The peer asks for a change of what we declare, or to see it.
    Objects(MessageReader, MessageWriter),
}

impl Accepted {
    pub(super) fn new(stream: Stream, tunnel: Arc<Shared>) -> Self {
        Self { stream, tunnel }
    }

    /// Its place in the order of the peer's streams.
    pub fn index(&self) -> u64 {
        self.stream.0
    }

    /// Reads what it is for. A kind from the future is refused: that stream and nothing else.
    ///
    /// # Errors
    /// When the stream or the tunnel ends before its first byte, or the kind is unknown.
    pub async fn begin(self) -> Result<Begun, TunnelError> {
        let (index, send, recv) = self.stream;
        let mut sender = Sender::new(send, Flight::uncounted());
        let mut receiver = Receiver::new(recv, Flight::uncounted());
        let kind = tokio::time::timeout(limits::STREAM_KIND_WAIT, receiver.kind_byte())
            .await
            .unwrap_or(Err(TunnelError::Truncated))?;
        match StreamKind::from_wire(kind) {
            Some(StreamKind::Exchange) => {
                let flight = Flight::begin(&self.tunnel.flights, self.tunnel.clone(), index, false);
                sender.count(flight.clone());
                receiver.count(flight);
                Ok(Begun::Exchange(Exchange { sender, receiver }))
            }
            Some(StreamKind::Sync) => {
                let reader = receiver.into_messages(limits::SYNC_MESSAGE_BYTES_MAX);
                Ok(Begun::Sync(reader, MessageWriter::new(sender)))
            }
            Some(StreamKind::Lookup) => {
                let reader = receiver.into_messages(limits::LOOKUP_ASK_BYTES_MAX);
                Ok(Begun::Lookup(reader, MessageWriter::new(sender)))
            }
            Some(StreamKind::Register) => {
                let reader = receiver.into_messages(limits::REGISTER_MESSAGE_BYTES_MAX);
                Ok(Begun::Register(reader, MessageWriter::new(sender)))
            }
            Some(StreamKind::Objects) => {
                let reader = receiver.into_messages(limits::OBJECTS_ASK_BYTES_MAX);
                Ok(Begun::Objects(reader, MessageWriter::new(sender)))
            }
            Some(StreamKind::Control) | None => {
                sender.reset(Code::Refused);
                receiver.stop(Code::Refused);
                Err(TunnelError::Protocol(format!("stream of unknown kind {kind:#04x}")))
            }
        }
    }
}
