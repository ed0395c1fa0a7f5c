//! Callers that speak Thrift: each call on a connection goes where it is placed, some of them at once; answers come in the
//! order of their calls, which is right for every client, whether it matches their numbers or not. A one-way call is not
//! waited for.

use std::collections::VecDeque;
use std::future::{pending, poll_fn};
use std::rc::Rc;
use std::time::Duration;

use ::thrift::{Decoder, ExceptionKind, Kind, Message};
use bytes::{Bytes, BytesMut};
use registry::model::Timeout;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::task::spawn_local;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};
use tracing::debug;

use super::Front;
use crate::base::budget::Reservation;
use crate::http::join::End;
use crate::proxy::connection::Opened;
use crate::proxy::error::{ProxyError, Rejection};
use crate::proxy::exchange::call as exchange;
use crate::proxy::outbound::call;
use crate::telemetry::limited::limited;

/// Calls of one connection under way at once; more are read once some are answered.
const CALLS_MAX: usize = 32;
/// What is read at once, and what of a message does not count as held.
const READ_BYTES: usize = 16 * 1024;
/// The next byte of a call that has begun must come within that, and the next one of an answer be taken.
const BYTE_WAIT: Duration = Duration::from_secs(60);
/// A caller that is told that nothing more is answered has so long to end its side, too.
const LINGER: Duration = Duration::from_millis(500);
/// By which clients of Finagle ask whether all that follows may be in a form of their own. It is a property of one
/// connection, and calls of one go to many: they are told that nobody knows it.
const FINAGLE_UPGRADE: &str = "__can__finagle__trace__v3__";

/// A call under way, and what its answer counts on.
type Calling = AbortOnDropHandle<(Bytes, Option<Reservation>)>;

/// Serves the calls of a connection, which lead to what `authority` names, until its caller has left, it idles for too long,
/// or the process drains.
pub(super) async fn serve(front: impl Front, mut stream: TcpStream, authority: String, opened: Opened) {
    let to = Rc::new(To { front, authority, opened });
    match calls(&to, &mut stream).await {
        Ok(()) => {
            // Whoever is gone does not hear it.
            let _ = stream.shutdown().await;
            linger(&mut stream).await;
        }
        Err(Broken) => drop(End::socket(stream, Bytes::new())),
    }
}

/// Throws away what a caller still sends: where something is unread the system would reset the connection, and it may not have
/// the last answer yet.
async fn linger(stream: &mut TcpStream) {
    let mut said = [0; 1024];
    let rest = async { while stream.read(&mut said).await.is_ok_and(|count| count > 0) {} };
    let _ = timeout(LINGER, rest).await;
}

/// The connection is to be reset.
struct Broken;

/// Where the calls of a connection lead.
struct To<F> {
    front: F,
    authority: String,
    opened: Opened,
}

async fn calls<F: Front>(to: &Rc<To<F>>, stream: &mut TcpStream) -> Result<(), Broken> {
    let worker = to.front.worker().clone();
    let shared = &worker.shared;
    let (mut read, mut write) = stream.split();
    let (mut decoder, mut buf) = (Decoder::default(), BytesMut::with_capacity(READ_BYTES));
    let mut held = Held { reservation: shared.budget.reservation(), bytes: 0 };
    let mut under_way: VecDeque<Calling> = VecDeque::new();
    // Of them nobody waits for an answer, and they go on without their connection.
    let (oneway, ended) = (TaskTracker::new(), Rc::new(Notify::new()));
    let (mut over, mut moved) = (false, Instant::now());
    let idle = worker.timers.timer();
    loop {
        while under_way.len() + oneway.len() < CALLS_MAX {
            let message = decoder.next(&mut buf).map_err(|error| {
                let source = to.opened.source.map(|source| source.ip());
                limited!(WARN, STRANGERS, format_args!("{source:?}"), "What came is no call of Thrift.", ?source, %error);
                Broken
            })?;
            let Some(message) = message else { break };
            // What was kept of it counts for it from now on.
            held.count(&buf);
            let kept = Kept::of(&message, shared.budget.reservation());
            if message.head.kind == Kind::Oneway {
                let (to, ended) = (to.clone(), ended.clone());
                oneway.spawn_local(async move {
                    tell(&to, &message, kept).await;
                    ended.notify_one();
                });
            } else {
                let answering = answer(to.clone(), message, kept);
                under_way.push_back(AbortOnDropHandle::new(spawn_local(answering)));
            }
        }
        // Nothing more is read then.
        // A call that has begun may still come: what bounds it is how long its bytes, and the drain, may take.
        over |= shared.leave.is_cancelled() && buf.is_empty();
        let quiet = under_way.is_empty() && oneway.is_empty();
        if over && quiet {
            // In the middle of a message it was cut.
            return if buf.is_empty() { Ok(()) } else { Err(Broken) };
        }
        let room = under_way.len() + oneway.len() < CALLS_MAX && held.count(&buf);
        if quiet && !room {
            limited!(
                WARN,
                KNOWN,
                &to.authority,
                "A call was not read: too much is held already.",
                service = to.authority
            );
            return Err(Broken);
        }
        let reads = !over && room;
        if reads && buf.capacity() - buf.len() < READ_BYTES / 4 {
            buf.reserve(buf.len().max(READ_BYTES));
        }
        if quiet && buf.is_empty() {
            idle.set(Timeout::default().idle_of_connection());
        } else {
            idle.clear();
        }
        tokio::select! {
            answered = next(&mut under_way) => {
                let (bytes, _held) = answered?;
                put(&mut write, &bytes, &shared.cut).await?;
            }
            came = read.read_buf(&mut buf), if reads => over |= came.map_err(|_| Broken)? == 0,
            () = ended.notified(), if !oneway.is_empty() => {}
            () = shared.leave.cancelled(), if !over && buf.is_empty() => {}
            () = shared.cut.cancelled() => return Err(Broken),
            () = sleep_until(moved + BYTE_WAIT), if reads && !buf.is_empty() => return Err(Broken),
            () = poll_fn(|cx| idle.poll_due(cx)), if quiet => return Ok(()),
        }
        moved = Instant::now();
    }
}

/// What is kept of calls that are not whole.
struct Held {
    reservation: Reservation,
    /// Those that count.
    bytes: usize,
}

impl Held {
    /// Counts what is kept now; false: there is no room for it.
    fn count(&mut self, buf: &BytesMut) -> bool {
        let counts = buf.len().saturating_sub(READ_BYTES);
        if counts > self.bytes && !self.reservation.grow(counts - self.bytes) {
            return false;
        }
        self.reservation.shrink(self.bytes.saturating_sub(counts));
        self.bytes = counts;
        true
    }
}

/// What a whole call counts on while it is under way; none: there is no room for it.
struct Kept(Option<Reservation>);

impl Kept {
    fn of(message: &Message, mut reservation: Reservation) -> Self {
        let counts = message.bytes.len().saturating_sub(READ_BYTES);
        Self(reservation.grow(counts).then_some(reservation))
    }
}

/// Writes an answer, as fast as it is taken.
async fn put(
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

/// The answer to the oldest call, once it is there. Cancel safe.
async fn next(under_way: &mut VecDeque<Calling>) -> Result<(Bytes, Option<Reservation>), Broken> {
    let Some(oldest) = under_way.front_mut() else { return pending().await };
    let answered = oldest.await;
    under_way.pop_front();
    // One that panicked has said so, and its caller would take the next answer for its own.
    answered.map_err(|_| Broken)
}

/// Sends a one-way call on. Whether that worked nobody is told.
async fn tell<F: Front>(to: &To<F>, message: &Message, kept: Kept) {
    // Said in its record.
    let _ = serve_one(to, message, kept).await;
}

/// Answers one message of a caller.
async fn answer<F: Front>(to: Rc<To<F>>, message: Message, kept: Kept) -> (Bytes, Option<Reservation>) {
    let refuse = |kind, text: &str| (message.exception(kind, text).bytes, None);
    let gateway = &to.front.worker().shared.name;
    if message.head.kind != Kind::Call {
        return refuse(ExceptionKind::InvalidMessageType, &format!("{gateway}: that is no call"));
    }
    if &*message.head.method == FINAGLE_UPGRADE {
        let text = format!("{gateway}: calls of one connection go to many servers");
        return refuse(ExceptionKind::UnknownMethod, &text);
    }
    let rejection = match serve_one(&to, &message, kept).await {
        Ok(Some((answer, held))) => return (answer.bytes, Some(held)),
        // Whoever serves a call has an answer.
        Ok(None) => Rejection::new(ProxyError::HttpProtocolError, "it was not answered"),
        Err(rejection) => rejection,
    };
    (exchange::exception(&message, gateway, &rejection).bytes, None)
}

async fn serve_one<F: Front>(
    to: &To<F>,
    message: &Message,
    kept: Kept,
) -> Result<Option<(Message, Reservation)>, Rejection> {
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
