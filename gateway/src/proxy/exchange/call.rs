//! A call of Thrift or Mux in a tunnel: the whole message there, and the whole answer back. Behind the head, which is that of a
//! connection, comes the message as its caller sent it; behind the answer's head the answer, or nothing to a one-way call.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, StatusCode};
use proto::code::Code;
use proto::frame::{END, Frame, FrameKind, put_frame, put_frame_header};
use proto::head::ConnectionHead;
use proto::limits::SMALL_BODY_BYTES;
use proto::stream::StreamKind;
use registry::model::{Protocol, ServiceName};
use tokio::time::timeout;
use tunnel::{Exchange, Receiver, Sender, Tunnel, TunnelError};

use super::{codec, server};
use crate::base::budget::Reservation;
use crate::proxy::error::{ProxyError, Rejection};
use crate::telemetry::metrics::Outcome;
use crate::telemetry::record::Record;
use crate::upstream::{Decoder, MESSAGE_BYTES_MAX, Message, Verdict};
use policy::retry::Failure;

/// As the access log calls what an answer says: a call that was served, and one whose answer is an exception.
const SERVED: u16 = 200;
const EXCEPTION: u16 = 500;

/// The next part of a message must come within that.
const FRAME_WAIT: Duration = Duration::from_secs(60);
/// An answer must be taken within that: the largest by a way of half a megabit a second.
const ANSWER_WAIT: Duration = Duration::from_secs(300);

/// Why no message came.
#[derive(Debug)]
enum Unread {
    /// The stream ended before it.
    Cut(TunnelError),
    /// What came is none.
    Malformed,
    /// There is no room for it.
    NoRoom,
}

/// Sends `message` through `tunnel` behind `head`; gives the answer, which counts on `held`.
///
/// # Errors
/// What the tunnel or the far side says.
pub async fn send(
    tunnel: &Tunnel,
    head: &ConnectionHead<'_>,
    message: &Message,
    held: &mut Reservation,
) -> Result<Option<Message>, Failure> {
    let failed = |error: TunnelError| codec::failed(tunnel, &error);
    let mut first = tunnel::begin(StreamKind::Call);
    put_frame(&mut first, FrameKind::Head, |out| head.encode(out)).map_err(|_| Failure::TooLarge)?;
    let whole = put_small(&mut first, message.bytes());
    let mut exchange = tunnel.open(first.into(), whole).await.map_err(failed)?;
    if !whole {
        exchange.sender.data(message.bytes().clone()).await.map_err(failed)?;
        exchange.sender.end(None).await.map_err(failed)?;
    }
    match exchange.receiver.frame().await {
        Ok(Some(Frame::Head(head))) if codec::answer(&head).is_some() => {}
        Ok(_) => return Err(Failure::Reset),
        Err(error) => return Err(failed(error)),
    }
    read(&mut exchange.receiver, message.protocol(), held).await.map_err(|unread| match unread {
        Unread::Cut(error) => failed(error),
        Unread::Malformed => Failure::Malformed,
        // It was served: not again elsewhere.
        Unread::NoRoom => Failure::AnswerTooLarge,
    })
}

/// Reads the call of `protocol` that comes behind a head, kept in what `held` is granted, and tells `record` of it. None: it
/// is refused, or whoever sends it wants it no more.
pub async fn called(
    exchange: &mut Exchange,
    protocol: Protocol,
    held: &mut Reservation,
    record: &mut Record,
) -> Option<Message> {
    let Exchange { sender, receiver } = exchange;
    let read = tokio::select! {
        read = read(receiver, protocol, held) => read,
        () = sender.stopped() => return None,
    };
    let (code, outcome) = match read {
        Ok(Some(message)) if message.is_call() => {
            record.method(message.method());
            return Some(message);
        }
        Err(Unread::NoRoom) => (Code::Overloaded, Outcome::Overloaded),
        Ok(_) | Err(_) => (Code::Internal, Outcome::Malformed),
    };
    record.ends(outcome);
    server::refuse(sender, receiver, code);
    None
}

/// Reads what comes behind a head to its end: one message, or nothing.
///
/// # Errors
/// [`Unread`].
async fn read(
    receiver: &mut Receiver,
    protocol: Protocol,
    held: &mut Reservation,
) -> Result<Option<Message>, Unread> {
    let mut whole = BytesMut::new();
    loop {
        let next = timeout(FRAME_WAIT, receiver.frame()).await.unwrap_or(Err(TunnelError::Truncated));
        match next.map_err(Unread::Cut)? {
            None | Some(Frame::End) => break,
            Some(Frame::Data(data)) => {
                let length = whole.len() + data.len();
                // What is small does not count: of that there is always room.
                let counts = length.saturating_sub(SMALL_BODY_BYTES.max(whole.len()));
                if length > MESSAGE_BYTES_MAX || !held.grow(counts) {
                    return Err(Unread::NoRoom);
                }
                whole.extend_from_slice(&data);
            }
            Some(_) => return Err(Unread::Malformed),
        }
    }
    if whole.is_empty() {
        return Ok(None);
    }
    match Decoder::of(protocol).ok_or(Unread::Malformed)?.next(&mut whole) {
        Ok(Some(message)) if whole.is_empty() => Ok(Some(message)),
        _ => Err(Unread::Malformed),
    }
}

/// Answers with a message, or with nothing to a one-way call.
///
/// # Errors
/// Whoever asked wants it no more, or does not take it.
pub async fn answer(sender: &mut Sender, answer: Option<&Message>) -> Result<(), TunnelError> {
    timeout(ANSWER_WAIT, send_answer(sender, answer)).await.unwrap_or(Err(TunnelError::Truncated))
}

async fn send_answer(sender: &mut Sender, answer: Option<&Message>) -> Result<(), TunnelError> {
    let mut first = Vec::with_capacity(512);
    codec::put_answer(&mut first, FrameKind::Head, StatusCode::OK, &HeaderMap::new())
        .map_err(|error| TunnelError::Protocol(error.to_string()))?;
    let bytes = answer.map_or_else(Bytes::new, |answer| answer.bytes().clone());
    if put_small(&mut first, &bytes) {
        sender.write(first.into()).await?;
        sender.finish();
        return Ok(());
    }
    sender.write(first.into()).await?;
    sender.data(bytes).await?;
    sender.end(None).await?;
    // Much of it may still be on its way: a gateway that drains must not close under it.
    sender.stopped().await;
    Ok(())
}

/// What the last failure of a call to `service` means to its caller.
pub fn rejection(failure: Failure, service: &dyn std::fmt::Display) -> Rejection {
    match failure {
        Failure::AnswerTooLarge => {
            let details = format!(
                "{service}: the answer has more than {MESSAGE_BYTES_MAX} bytes, or so much is held that there is no room for it"
            );
            Rejection::new(ProxyError::HttpResponseBodyTooLarge, details)
        }
        failure => Rejection::from_failure(failure, service),
    }
}

/// The answer to `asked` by `gateway`, which says why it is not served.
pub fn exception(asked: &Message, gateway: &str, rejection: &Rejection) -> Message {
    let text = format!("{gateway}: {}: {}", rejection.error.wire().0, rejection.details);
    let untouched = [
        ProxyError::ConnectionLimitReached,
        ProxyError::ConnectionRefused,
        ProxyError::DestinationUnavailable,
        // This process has run out of something, and has asked nobody.
        ProxyError::ProxyInternalError,
    ];
    asked.refusal(&text, untouched.contains(&rejection.error))
}

/// Tells the other end of a tunnel that what it `asked` `service` is not served.
pub async fn refuse(
    exchange: &mut Exchange,
    asked: &Message,
    failure: Failure,
    service: &ServiceName,
    gateway: &str,
) {
    if failure == Failure::AnswerTooLarge {
        // It would be everywhere: said in an answer, as no code could say it.
        let said = exception(asked, gateway, &rejection(failure, service));
        // Whoever asked is gone.
        let _ = answer(&mut exchange.sender, Some(&said)).await;
    } else {
        server::refuse(&mut exchange.sender, &mut exchange.receiver, codec::code(failure));
    }
}

/// Tells a record how a call was answered.
pub fn answered(record: &mut Record, answer: Option<&Message>) {
    let served = answer.is_none_or(|answer| answer.verdict() == Verdict::Served);
    record.status(if served { SERVED } else { EXCEPTION });
    record.sent(answer.map_or(0, |answer| answer.bytes().len()));
    record.ends(Outcome::Answered);
}

/// Appends a small message and its end; false: it is none.
fn put_small(out: &mut Vec<u8>, message: &[u8]) -> bool {
    if message.len() > SMALL_BODY_BYTES {
        return false;
    }
    if !message.is_empty() {
        put_frame_header(out, FrameKind::Data, message.len());
        out.extend_from_slice(message);
    }
    out.extend_from_slice(&END);
    true
}
