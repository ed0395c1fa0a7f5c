//! From a secured connection to a tunnel: the control stream and HELLO, whatever the carrier.

use std::future::Future;
use std::time::Duration;

use bytes::Bytes;
use identity::Identity;
use proto::code::CloseCode;
use proto::limits;
use proto::stream::StreamKind;
use tokio::time::{Instant, timeout_at};

use crate::carrier::{Carrier, Stream};
use crate::error::{CloseReason, TunnelError};
use crate::flight::Flight;
use crate::hello::{self, Peer};
use crate::local::Local;
use crate::stream::{MessageWriter, Receiver, Sender};
use crate::tunnel::{ControlStream, Driver, Tunnel};

/// A dial that has not ended by then is given up.
pub(crate) const DIAL_WAIT: Duration = Duration::from_secs(5);

/// The dialler's side of HELLO: it opens the control stream and speaks first. All of it within [`limits::HELLO_WAIT`].
pub(crate) async fn greet(
    carrier: Carrier,
    local: &Local,
    admit: impl FnOnce(&Peer) -> Result<(), (CloseCode, String)>,
) -> Result<(Tunnel, Driver), TunnelError> {
    let by = Instant::now() + limits::HELLO_WAIT;
    let identity = peer_identity(&carrier)?;
    let stream = carrier.open().await.map_err(connecting)?;
    let (sender, receiver) = halves(stream);
    let mut control = control_stream(sender, receiver);
    let done = async {
        let broken = |e| (CloseCode::ProtocolError, e);
        let kind = Bytes::copy_from_slice(&[StreamKind::Control.to_wire()]);
        control.writer.raw(kind).await.map_err(broken)?;
        hello::send(&mut control.writer, &local.hello).await.map_err(broken)?;
        let peer = hello::receive(&mut control.reader, identity).await?;
        admit(&peer).map_err(|(code, text)| (code, TunnelError::Hello(text)))?;
        Ok(peer)
    };
    let peer = refuse(&carrier, until(by, done).await)?;
    Ok(Tunnel::new(carrier, peer, true, local, control))
}

/// The listener's side of HELLO: the first stream must be the control stream; it answers last. All of it within
/// [`limits::HELLO_WAIT`]: whoever sends a byte now and then holds nothing for longer.
pub(crate) async fn answer(
    carrier: Carrier,
    local: &Local,
    admit: impl FnOnce(&Peer) -> Result<(), (CloseCode, String)>,
) -> Result<(Tunnel, Driver), TunnelError> {
    let by = Instant::now() + limits::HELLO_WAIT;
    let identity = peer_identity(&carrier)?;
    let first = async {
        let stream = carrier.accept().await.map_err(|e| (CloseCode::ProtocolError, lost(e)))?;
        let (sender, mut receiver) = halves(stream);
        let kind = receiver.kind_byte().await.map_err(|e| (CloseCode::ProtocolError, e))?;
        if StreamKind::from_wire(kind) != Some(StreamKind::Control) {
            let text = format!("the first stream is of kind {kind:#04x}, not the control stream");
            return Err((CloseCode::ProtocolError, TunnelError::Hello(text)));
        }
        Ok(control_stream(sender, receiver))
    };
    let mut control = refuse(&carrier, until(by, first).await)?;
    let done = async {
        let peer = hello::receive(&mut control.reader, identity).await?;
        admit(&peer).map_err(|(code, text)| (code, TunnelError::Hello(text)))?;
        hello::send(&mut control.writer, &local.hello).await.map_err(|e| (CloseCode::ProtocolError, e))?;
        Ok(peer)
    };
    let peer = refuse(&carrier, until(by, done).await)?;
    Ok(Tunnel::new(carrier, peer, false, local, control))
}

fn halves((_, send, recv): Stream) -> (Sender, Receiver) {
    (Sender::new(send, Flight::uncounted()), Receiver::new(recv, Flight::uncounted()))
}

fn control_stream(sender: Sender, receiver: Receiver) -> ControlStream {
    let reader = receiver.into_messages(limits::CONTROL_MESSAGE_BYTES_MAX);
    ControlStream { reader, writer: MessageWriter::new(sender) }
}

/// Waits for a part of HELLO, as long as there is time for all of it.
async fn until<T>(
    by: Instant,
    part: impl Future<Output = Result<T, (CloseCode, TunnelError)>>,
) -> Result<T, (CloseCode, TunnelError)> {
    let late = || TunnelError::Hello(format!("not done within {:?}", limits::HELLO_WAIT));
    timeout_at(by, part).await.unwrap_or_else(|_| Err((CloseCode::HelloTimeout, late())))
}

/// Closes the connection with the code that says why HELLO failed.
fn refuse<T>(carrier: &Carrier, done: Result<T, (CloseCode, TunnelError)>) -> Result<T, TunnelError> {
    done.map_err(|(code, error)| {
        carrier.close(code, &error.to_string());
        error
    })
}

/// The identity that the handshake proved.
fn peer_identity(carrier: &Carrier) -> Result<Identity, TunnelError> {
    let certificates = carrier.peer_certificates();
    identity::peer_identity(&certificates).map_err(|e| TunnelError::Hello(e.to_string()))
}

/// Waits for an answer of the peer.
pub(crate) async fn within<F: IntoFuture>(wait: Duration, future: F) -> Result<F::Output, TunnelError> {
    tokio::time::timeout(wait, future.into_future())
        .await
        .map_err(|_| TunnelError::Connect(format!("no answer within {wait:?}")))
}

/// The connection ended before the tunnel was up.
pub(crate) fn lost(reason: impl Into<CloseReason>) -> TunnelError {
    TunnelError::Connect(reason.into().text)
}

fn connecting(error: TunnelError) -> TunnelError {
    match error {
        TunnelError::Down(reason) => lost(reason),
        other => other,
    }
}
