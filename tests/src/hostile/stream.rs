//! A tunnel's connection and its streams, on either carrier.

use std::net::SocketAddr;
use std::path::Path;

use bytes::{Bytes, BytesMut};
use prost::Message;
use proto::message::{encode_message, take_message};
use quinn::VarInt;

use super::Carrier;
use super::mux::{Mux, MuxReceive, MuxSend};
use crate::peer::Peer;

/// A connection.
#[derive(Clone, Debug)]
pub(crate) enum Connection {
    Quic(quinn::Connection),
    Tcp(Mux),
}

/// Our half of a stream.
#[derive(Debug)]
pub enum Outgoing {
    /// On QUIC.
    Quic(quinn::SendStream),
    /// On TLS over TCP.
    Tcp(TcpSend),
}

/// The other side's half.
#[derive(Debug)]
pub enum Incoming {
    /// On QUIC.
    Quic(quinn::RecvStream, BytesMut),
    /// On TLS over TCP.
    Tcp(TcpReceive, BytesMut),
}

/// Our half on TLS over TCP.
#[derive(Debug)]
pub struct TcpSend(MuxSend);

/// The other side's half on TLS over TCP.
#[derive(Debug)]
pub struct TcpReceive(MuxReceive);

impl Connection {
    /// Shakes hands with the gateway of the cluster `target`; what else must live as long as the connection comes with it.
    pub(crate) async fn shake(
        dir: &Path,
        target: (&str, SocketAddr),
        carrier: Carrier,
    ) -> Result<(Self, Option<quinn::Endpoint>), String> {
        match carrier {
            Carrier::Quic => {
                let (endpoint, connection) = Peer::connect(dir, target.0, target.1).await?;
                Ok((Self::Quic(connection), Some(endpoint)))
            }
            Carrier::Tcp => Ok((Self::Tcp(Mux::connect(dir, target.0, target.1).await?), None)),
        }
    }

    pub(crate) async fn open(&self) -> Result<(Outgoing, Incoming), String> {
        match self {
            Self::Quic(connection) => {
                let (send, receive) = connection.open_bi().await.map_err(|e| e.to_string())?;
                Ok((Outgoing::Quic(send), Incoming::Quic(receive, BytesMut::new())))
            }
            Self::Tcp(mux) => {
                let (send, receive) = mux.open().await?;
                Ok((Outgoing::Tcp(TcpSend(send)), Incoming::Tcp(TcpReceive(receive), BytesMut::new())))
            }
        }
    }

    pub(super) async fn accept(&self) -> Option<(Outgoing, Incoming)> {
        match self {
            Self::Quic(connection) => {
                let (send, receive) = connection.accept_bi().await.ok()?;
                Some((Outgoing::Quic(send), Incoming::Quic(receive, BytesMut::new())))
            }
            Self::Tcp(mux) => {
                let (send, receive) = mux.accept().await?;
                Some((Outgoing::Tcp(TcpSend(send)), Incoming::Tcp(TcpReceive(receive), BytesMut::new())))
            }
        }
    }

    pub(super) async fn closed(&self) -> String {
        match self {
            Self::Quic(connection) => connection.closed().await.to_string(),
            Self::Tcp(mux) => mux.closed().await,
        }
    }

    pub(crate) fn ended(&self) -> Option<String> {
        match self {
            Self::Quic(connection) => connection.close_reason().map(|reason| reason.to_string()),
            Self::Tcp(mux) => mux.ended(),
        }
    }
}

impl Outgoing {
    /// Writes all of `bytes`, as fast as the gateway takes it.
    ///
    /// # Errors
    /// When the stream or the tunnel ends.
    pub async fn write(&mut self, bytes: Bytes) -> Result<(), String> {
        match self {
            Self::Quic(send) => send.write_chunk(bytes).await.map_err(|e| e.to_string()),
            Self::Tcp(TcpSend(send)) => send.write(bytes).await,
        }
    }

    /// Writes one message.
    ///
    /// # Errors
    /// As [`Outgoing::write`].
    pub async fn say(&mut self, message: &impl Message) -> Result<(), String> {
        self.write(encode_message(message).into()).await
    }

    /// Ends our half: whole, or with a code.
    pub async fn end(&mut self, code: Option<u32>) {
        match self {
            Self::Quic(send) => {
                let _ = match code {
                    None => send.finish(),
                    Some(code) => send.reset(VarInt::from_u32(code)),
                };
            }
            Self::Tcp(TcpSend(send)) => send.end(code).await,
        }
    }
}

impl Incoming {
    /// The next bytes; none: it is whole.
    ///
    /// # Errors
    /// When it was reset, or the tunnel ended.
    pub async fn read(&mut self) -> Result<Option<Bytes>, String> {
        match self {
            Self::Quic(receive, _) => {
                let chunk = receive.read_chunk(65_536, true).await.map_err(|e| e.to_string())?;
                Ok(chunk.map(|chunk| chunk.bytes))
            }
            Self::Tcp(TcpReceive(receive), _) => receive.read().await,
        }
    }

    /// The first byte of a stream that the gateway opened: its kind.
    pub(super) async fn kind(&mut self) -> Option<u8> {
        loop {
            let (Self::Quic(_, buffer) | Self::Tcp(_, buffer)) = self;
            if !buffer.is_empty() {
                return Some(buffer.split_to(1)[0]);
            }
            let bytes = self.read().await.ok()??;
            let (Self::Quic(_, buffer) | Self::Tcp(_, buffer)) = self;
            buffer.extend_from_slice(&bytes);
        }
    }

    /// The next message of at most `max` bytes; none: it is over.
    ///
    /// # Errors
    /// When it was reset, or holds no such message.
    pub async fn message<M: Message + Default>(&mut self, max: usize) -> Result<Option<M>, String> {
        loop {
            let (Self::Quic(_, buffer) | Self::Tcp(_, buffer)) = self;
            if let Some(message) = take_message(buffer, max).map_err(|e| e.to_string())? {
                return Ok(Some(message));
            }
            let Some(bytes) = self.read().await? else { return Ok(None) };
            let (Self::Quic(_, buffer) | Self::Tcp(_, buffer)) = self;
            buffer.extend_from_slice(&bytes);
        }
    }

    /// Wants no more of it.
    pub async fn stop(&mut self, code: u32) {
        match self {
            Self::Quic(receive, _) => drop(receive.stop(VarInt::from_u32(code))),
            Self::Tcp(TcpReceive(receive), _) => receive.stop(code).await,
        }
    }
}
