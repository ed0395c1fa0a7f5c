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
    /// A stream of messages, for whoever that kind is for.
    Messages(StreamKind, MessageReader, MessageWriter),
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
            // The one control stream was there before any other.
            Some(messages)
                if messages != StreamKind::Control
                    && let Some((max, _)) = messages.message_bytes_max() =>
            {
                let reader = receiver.into_messages(max);
                Ok(Begun::Messages(messages, reader, MessageWriter::new(sender)))
            }
            Some(_) | None => {
                sender.reset(Code::Refused);
                receiver.stop(Code::Refused);
                Err(TunnelError::Protocol(format!("stream of unknown kind {kind:#04x}")))
            }
        }
    }
}
