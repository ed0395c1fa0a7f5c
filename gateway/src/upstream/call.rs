//! One call to the endpoints of a port, of those protocols whose calls are placed each by itself: which is asked, on what
//! connection, and who is asked after one that fails.

mod aside;
mod kept;
mod message;

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tracing::debug;

use aside::Aside;
pub(super) use kept::Connections;
use message::Malformed;
pub use message::{Decoder, MESSAGE_BYTES_MAX, Message, Verdict};

use super::ask::Allowance;
use super::idle::{FRESH, IDLE_WAIT};
use super::pool::NotConnected;
use super::search::{Exchange, Next, Search, Taken, Way};
use crate::base::budget::{ByteBudget, Reservation};
use policy::balance::{EndpointState, InFlight};
use policy::retry::Failure;

/// Endpoints at least that are asked where the first has done nothing of a call.
const ANOTHER: u8 = 2;
/// What a server of Mux may say about its connection before it answers a call.
const ASIDES_MAX: usize = 64;
/// What is read of an answer at once.
const READ_BYTES: usize = 16 * 1024;

/// What came of a call.
#[derive(Debug)]
pub struct Called {
    /// The answer; none to a one-way call.
    pub answer: Option<Message>,
    /// What that counts on.
    pub held: Reservation,
    /// The endpoint that it is of.
    pub endpoint: Arc<EndpointState>,
}

/// How a call failed on one connection.
enum CallError {
    NotConnected(NotConnected),
    /// It took nothing of the call.
    Unsent {
        reused: bool,
        error: std::io::Error,
    },
    /// The connection ended; `reused`: it had served before.
    Cut {
        reused: bool,
    },
    /// What came is no answer to it.
    Malformed,
    /// The answer is too long, or does not fit what may be held.
    TooLarge,
    /// It says that it has done nothing of it.
    Untouched,
}

/// A call that is under way on a connection.
struct Calling {
    /// None: it is answered.
    stream: Option<TcpStream>,
    /// What its server is told where it is not waited for any longer.
    discard: Option<Bytes>,
}

impl Drop for Calling {
    fn drop(&mut self) {
        if let (Some(stream), Some(discard)) = (&self.stream, &self.discard) {
            // It hears the end of the connection otherwise.
            let _ = stream.try_write(discard);
        }
    }
}

/// Sends `message` to an endpoint, and on to others as long as that can do no harm. The answer counts on `budget`.
///
/// # Errors
/// What the last endpoint did; [`Failure::Unavailable`] when there is none.
pub async fn call(
    way: &Way<'_>,
    allowance: Allowance,
    message: &Message,
    budget: &Arc<ByteBudget>,
) -> Result<Called, Failure> {
    let mut search = Search::new();
    loop {
        let Taken { index, endpoint, mut exchange, connect, in_haste } =
            search.take(way, allowance.connect)?;
        // A one-way call that is lost is missed by nobody.
        let most = if allowance.replayable && !message.is_oneway() { IDLE_WAIT } else { FRESH };
        let mut sent = on_one(way, &endpoint, message, connect, Some(most), budget).await;
        let again = match sent {
            Err(CallError::Unsent { reused, .. }) => reused,
            Err(CallError::Cut { reused }) => reused && allowance.replayable,
            _ => false,
        };
        if again {
            // An endpoint may close an idle connection at the moment in which it is used again.
            sent = on_one(way, &endpoint, message, connect, None, budget).await;
        }
        match sent {
            Ok((answer, held)) => {
                note(&exchange, answer.as_ref());
                if let Some(in_flight) = exchange.in_flight.take() {
                    in_flight.completed();
                }
                return Ok(Called { answer, held, endpoint });
            }
            Err(error) => match judge(&mut search, &exchange, &error, allowance, in_haste) {
                Next::Nobody => return Err(search.failure),
                Next::Other | Next::Same => search.tried.push(index),
            },
        }
    }
}

/// One attempt at one endpoint, on an idle connection that was idle for less than `idle`, else on a new one.
async fn on_one(
    way: &Way<'_>,
    endpoint: &Arc<EndpointState>,
    message: &Message,
    connect: Duration,
    idle: Option<Duration>,
    budget: &Arc<ByteBudget>,
) -> Result<(Option<Message>, Reservation), CallError> {
    let (connections, clock) = (&way.pool.called, way.watch.clock);
    let pooled = idle.and_then(|most| connections.take(endpoint.address(), message, most));
    let reused = pooled.is_some();
    let mut stream = match pooled {
        Some(stream) => stream,
        None => {
            let stream = way.pool.dial(endpoint, clock, connect).await.map_err(CallError::NotConnected)?;
            way.watch.tell(endpoint, endpoint.connected(clock.now()));
            stream
        }
    };
    let cut = |error: std::io::Error| {
        debug!(endpoint = %endpoint.address(), %error, "Endpoint exchange failed.");
        CallError::Cut { reused }
    };
    let bytes = message.bytes();
    let taken = stream.write(bytes).await.map_err(|error| CallError::Unsent { reused, error })?;
    let mut calling = Calling { stream: None, discard: None };
    let stream = calling.stream.insert(stream);
    stream.write_all(&bytes[taken..]).await.map_err(cut)?;
    // Not before: it would be taken for the rest of the call.
    calling.discard = match message {
        Message::Mux(call, _) => Some(finagle::Message::discard(call.tag, "its caller has left").bytes),
        Message::Thrift(_) => None,
    };
    let mut held = budget.reservation();
    let answer = match message.is_oneway() {
        true => None,
        false => Some(answer(stream, message, &mut held).await.map_err(|error| match error {
            CallError::Cut { .. } => CallError::Cut { reused },
            other => other,
        })?),
    };
    let stream = calling.stream.take();
    let (answer, last) = answer.map_or((None, false), |(answer, last)| (Some(answer), last));
    if let Some(stream) = stream.filter(|_| !last) {
        connections.give_back(endpoint.address(), message, stream);
    }
    match answer {
        Some(answer) if answer.verdict() == Verdict::Untouched => Err(CallError::Untouched),
        answer => Ok((answer, held)),
    }
}

/// Reads the answer to `call`, and whether it is the last on its connection.
async fn answer(
    stream: &mut TcpStream,
    call: &Message,
    held: &mut Reservation,
) -> Result<(Message, bool), CallError> {
    let mut decoder = Decoder::of(call.protocol()).ok_or(CallError::Malformed)?;
    let (mut buf, mut last, mut asides) = (BytesMut::with_capacity(READ_BYTES), false, 0);
    loop {
        match decoder.next(&mut buf) {
            Ok(None) => {}
            Ok(Some(said)) if call.is_answered_by(&said) => {
                return match (&said, buf.is_empty()) {
                    // Nobody has asked for more.
                    (Message::Thrift(_), false) => Err(CallError::Malformed),
                    (_, nothing_more) => Ok((said.detached(), last || !nothing_more)),
                };
            }
            Ok(Some(Message::Mux(said, _))) => {
                let aside = Aside::of(&said).ok_or(CallError::Malformed)?;
                last |= aside.last;
                asides += 1;
                if asides > ASIDES_MAX {
                    return Err(CallError::Malformed);
                }
                if let Some(reply) = aside.reply {
                    let replied = stream.write_all(&reply.bytes).await;
                    replied.map_err(|_| CallError::Cut { reused: false })?;
                }
                continue;
            }
            Ok(Some(Message::Thrift(_))) => return Err(CallError::Malformed),
            // No other endpoint would do better.
            Err(Malformed::TooLong) => return Err(CallError::TooLarge),
            Err(error) => {
                debug!(%error, "Endpoint response rejected.");
                return Err(CallError::Malformed);
            }
        }
        if buf.capacity() - buf.len() < READ_BYTES / 4 {
            // What is small does not count: of that there is always room.
            let more = buf.len().max(READ_BYTES);
            if !held.grow(more) {
                return Err(CallError::TooLarge);
            }
            buf.reserve(more);
        }
        match stream.read_buf(&mut buf).await {
            Ok(0) | Err(_) => return Err(CallError::Cut { reused: false }),
            Ok(_) => {}
        }
    }
}

/// Notes what an endpoint answered, for its health.
fn note(exchange: &Exchange<'_>, answer: Option<&Message>) {
    match answer.map(Message::verdict) {
        // Written is not done, and tells nothing of how long it takes.
        None => exchange.end(|in_flight, _| super::search::unblamed(in_flight)),
        Some(Verdict::Failed) => exchange.end(|in_flight, now| {
            in_flight.erred(now);
            None
        }),
        Some(Verdict::Served | Verdict::Refused | Verdict::Untouched) => exchange.end(InFlight::answered),
    }
}

/// Notes what an endpoint did, for its health and for the answer.
fn judge(
    search: &mut Search,
    exchange: &Exchange<'_>,
    error: &CallError,
    allowance: Allowance,
    in_haste: Option<usize>,
) -> Next {
    match error {
        CallError::NotConnected(why) => return search.not_connected(exchange, why, in_haste),
        // As if the connection had not been there.
        CallError::Unsent { error, .. } => {
            debug!(%error, "Endpoint exchange failed.");
            exchange.end(|in_flight, _| super::search::unblamed(in_flight));
            search.not_reached(Failure::Connect);
        }
        // It has more to do than it can, as one that accepts no connections.
        CallError::Untouched => {
            exchange.end(|in_flight, now| {
                in_flight.erred(now);
                None
            });
            search.not_reached(Failure::Overloaded);
            // All of them may have more to do than they can.
            search.untouched += 1;
            if search.untouched >= allowance.attempts.max(ANOTHER) {
                return Next::Nobody;
            }
        }
        CallError::TooLarge => {
            exchange.end(|in_flight, _| super::search::unblamed(in_flight));
            return search.end(Failure::AnswerTooLarge);
        }
        CallError::Cut { .. } | CallError::Malformed => {
            exchange.end(InFlight::failed);
            search.reached += 1;
            let malformed = matches!(error, CallError::Malformed);
            search.failure = if malformed { Failure::Malformed } else { Failure::Reset };
            if !allowance.replayable || search.reached >= allowance.attempts {
                return Next::Nobody;
            }
        }
    }
    Next::Other
}
