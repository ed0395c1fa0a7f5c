//! A conversation of messages, whatever carries it: a stream of a tunnel, or a pair of queues in this process.

use prost::Message;
use tokio::sync::mpsc;
use tunnel::{MessageReader, MessageWriter, TunnelError};

/// One side of a conversation: hears `In`, says `Out`.
#[derive(Debug)]
pub enum Line<In, Out> {
    /// Over a stream of a tunnel.
    Tunnel(Box<(MessageReader, MessageWriter)>),
    /// Over bounded queues, whose other ends carry the messages on.
    Queues(mpsc::Receiver<In>, mpsc::Sender<Out>),
}

/// The other side is gone.
#[derive(Debug, thiserror::Error)]
pub enum Cut {
    /// The stream broke.
    #[error("the stream broke")]
    Stream(#[from] TunnelError),
    /// The conversation ended.
    #[error("the other side has hung up")]
    HungUp,
}

impl<In: Message + Default, Out: Message> Line<In, Out> {
    /// Over a stream of a tunnel.
    pub fn tunnel(reader: MessageReader, writer: MessageWriter) -> Self {
        Self::Tunnel(Box::new((reader, writer)))
    }

    /// The next message. Cancel safe.
    ///
    /// # Errors
    /// [`Cut`]: there is none any more.
    pub async fn next(&mut self) -> Result<In, Cut> {
        match self {
            Self::Tunnel(stream) => stream.0.next().await?.ok_or(Cut::HungUp),
            Self::Queues(incoming, _) => incoming.recv().await.ok_or(Cut::HungUp),
        }
    }

    /// Says `message`; waits as long as the other side takes nothing. Not cancel safe: part of it may be sent.
    ///
    /// # Errors
    /// [`Cut`]: nobody hears it any more.
    pub async fn send(&mut self, message: Out) -> Result<(), Cut> {
        match self {
            Self::Tunnel(stream) => Ok(stream.1.send(&message).await?),
            Self::Queues(_, outgoing) => outgoing.send(message).await.map_err(|_| Cut::HungUp),
        }
    }

    /// Hangs up after the last word, which arrives all the same; nothing more is heard.
    pub fn end(self) {
        if let Self::Tunnel(stream) = self {
            let (_, writer) = *stream;
            writer.finish();
        }
    }
}
