//! What all callers have in common whose calls are placed each by itself: what is held of them, where their calls lead, and
//! how they end.

use std::fmt::Display;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::Front;
use crate::base::budget::Reservation;
use crate::proxy::connection::Opened;
use crate::proxy::error::{ProxyError, Rejection};
use crate::proxy::exchange::call as exchange;
use crate::proxy::outbound::call;
use crate::telemetry::limited::limited;
use crate::upstream::Message;

/// What is read at once, and what of a message does not count as held.
pub(super) const READ_BYTES: usize = 16 * 1024;
/// The next byte of a call that has begun must come within that, and the next one of an answer be taken.
pub(super) const BYTE_WAIT: Duration = Duration::from_secs(60);
/// A caller that is told that nothing more is answered has so long to end its side, too.
const LINGER: Duration = Duration::from_millis(500);

/// The connection is to be reset.
pub(super) struct Broken;

/// Where the calls of a connection lead.
pub(super) struct To<F> {
    pub(super) front: F,
    pub(super) authority: String,
    pub(super) opened: Opened,
}

impl<F> To<F> {
    /// What came is nothing that is spoken here.
    pub(super) fn misspoke(&self, error: &dyn Display) -> Broken {
        let source = self.opened.source.map(|source| source.ip());
        limited!(WARN, STRANGERS, format_args!("{source:?}"), "What came is no call.", ?source, %error);
        Broken
    }

    /// Nothing is under way whose end would make room for what is to be read.
    pub(super) fn has_no_room(&self) -> Broken {
        let service = &self.authority;
        limited!(WARN, KNOWN, service, "A call was not read: too much is held already.", service);
        Broken
    }
}

/// What is kept of calls that are not whole.
pub(super) struct Held {
    reservation: Reservation,
    /// Those that count.
    bytes: usize,
}

/// What a whole call counts on while it is under way; none: there is no room for it.
pub(super) struct Kept(Option<Reservation>);

impl Held {
    /// Nothing yet.
    pub(super) fn of(reservation: Reservation) -> Self {
        Self { reservation, bytes: 0 }
    }

    /// Counts what is kept now; false: there is no room for it.
    pub(super) fn count(&mut self, buf: &BytesMut) -> bool {
        let counts = buf.len().saturating_sub(READ_BYTES);
        if counts > self.bytes && !self.reservation.grow(counts - self.bytes) {
            return false;
        }
        self.reservation.shrink(self.bytes.saturating_sub(counts));
        self.bytes = counts;
        true
    }
}

impl Kept {
    pub(super) fn of(message: &Message, mut reservation: Reservation) -> Self {
        let counts = message.bytes().len().saturating_sub(READ_BYTES);
        Self(reservation.grow(counts).then_some(reservation))
    }
}

/// Makes room for what is read next.
pub(super) fn make_room(buf: &mut BytesMut) {
    if buf.capacity() - buf.len() < READ_BYTES / 4 {
        buf.reserve(buf.len().max(READ_BYTES));
    }
}

/// Writes an answer, as fast as it is taken.
pub(super) async fn put(
    write: &mut (impl AsyncWriteExt + Unpin),
    mut bytes: &[u8],
    cut: &CancellationToken,
) -> Result<(), Broken> {
    while !bytes.is_empty() {
        let written = tokio::select! {
            written = timeout(BYTE_WAIT, write.write(bytes)) => written,
            () = cut.cancelled() => return Err(Broken),
        };
        match written {
            Ok(Ok(count)) if count > 0 => bytes = &bytes[count..],
            _ => return Err(Broken),
        }
    }
    Ok(())
}

/// Ends a connection on which all is answered. What its caller still sends is thrown away: where something is unread the
/// system would reset the connection, and it may not have the last answer yet.
pub(super) async fn end(mut stream: TcpStream) {
    // Whoever is gone does not hear it.
    let _ = stream.shutdown().await;
    let mut said = [0; 1024];
    let rest = async { while stream.read(&mut said).await.is_ok_and(|count| count > 0) {} };
    let _ = timeout(LINGER, rest).await;
}

/// The answer to a call, until it is written.
pub(super) struct Answer {
    pub(super) bytes: Bytes,
    /// None: it is our own, and small.
    _of: Option<call::Answer>,
}

impl Answer {
    /// One of our own.
    pub(super) fn ours(bytes: Bytes) -> Self {
        Self { bytes, _of: None }
    }
}

/// Serves one call: its answer, if it is to have one.
///
/// # Errors
/// Why it is not served.
pub(super) async fn serve<F: Front>(
    to: &To<F>,
    message: &Message,
    kept: Kept,
) -> Result<Option<call::Answer>, Rejection> {
    let To { front, authority, opened } = to;
    let Kept(Some(_kept)) = kept else {
        let details = "so much is held of other calls that there is no room for this one";
        return Err(Rejection::new(ProxyError::ConnectionLimitReached, details));
    };
    if !front.learn(authority).await {
        debug!(authority, "No gateway has said what a name means.");
        let details = format!("no gateway has said what `{authority}` is");
        return Err(Rejection::new(ProxyError::DestinationUnavailable, details));
    }
    call::serve(front.worker(), authority, opened, message).await
}

/// The answer to one call of a caller that waits for one.
pub(super) async fn answer<F: Front>(to: &To<F>, message: &Message, kept: Kept) -> Answer {
    let rejection = match serve(to, message, kept).await {
        Ok(Some(answer)) => return Answer { bytes: answer.message.bytes().clone(), _of: Some(answer) },
        // Whoever serves a call has an answer.
        Ok(None) => Rejection::new(ProxyError::HttpProtocolError, "it was not answered"),
        Err(rejection) => rejection,
    };
    let refusal = exchange::exception(message, &to.front.worker().shared.name, &rejection);
    Answer::ours(refusal.bytes().clone())
}
