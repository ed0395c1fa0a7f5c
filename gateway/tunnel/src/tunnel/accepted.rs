//! A stream of the peer, from its arrival until it is known what it is for.

use std::sync::Arc;

use proto::code::Code;
use proto::limits;
use proto::stream::StreamKind;

use super::Shared;
use crate::carrier::Stream;
use crate::error::TunnelError;
use crate::flight::Flight;
use crate::flow::Datagrams;
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
    /// A connection that is carried as such: its head is the first frame.
    Connection(Exchange),
    /// A call of Thrift: its head is the first frame.
    Call(Exchange),
    /// A flow of datagrams: its head is the first frame.
    Datagrams(Exchange, Datagrams),
    /// A stream of messages, for whoever that kind is for.
    Messages(StreamKind, MessageReader, MessageWriter),
}

impl Begun {
    /// What is answered, if this is.
    pub fn exchange(&self) -> Option<&Exchange> {
        match self {
            Self::Exchange(exchange)
            | Self::Connection(exchange)
            | Self::Call(exchange)
            | Self::Datagrams(exchange, _) => Some(exchange),
            Self::Messages(..) => None,
        }
    }

    /// The same, without what goes beside it.
    pub fn into_exchange(self) -> Option<Exchange> {
        match self {
            Self::Exchange(exchange)
            | Self::Connection(exchange)
            | Self::Call(exchange)
            | Self::Datagrams(exchange, _) => Some(exchange),
            Self::Messages(..) => None,
        }
    }
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
        // Most are exchanges: all count as such until their first byte is here.
        let flight = Flight::begin(&self.tunnel.flights, self.tunnel.clone(), index, false);
        let mut sender = Sender::new(send, flight.clone());
        let mut receiver = Receiver::new(recv, flight);
        let kind = tokio::time::timeout(limits::STREAM_KIND_WAIT, receiver.kind_byte())
            .await
            .unwrap_or(Err(TunnelError::Truncated))?;
        match StreamKind::from_wire(kind) {
            Some(StreamKind::Exchange) => Ok(Begun::Exchange(Exchange { sender, receiver })),
            Some(StreamKind::Datagrams) => {
                let datagrams = Datagrams::begin(&self.tunnel.datagrams, &self.tunnel.carrier, index, false);
                Ok(Begun::Datagrams(Exchange { sender, receiver }, datagrams))
            }
            Some(StreamKind::Call) => Ok(Begun::Call(Exchange { sender, receiver })),
            Some(StreamKind::Connection) => Ok(Begun::Connection(Exchange { sender, receiver })),
            // The one control stream was there before any other.
            Some(messages)
                if messages != StreamKind::Control
                    && let Some((max, _)) = messages.message_bytes_max() =>
            {
                let flight = Flight::uncounted();
                sender.count(flight.clone());
                receiver.count(flight);
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
