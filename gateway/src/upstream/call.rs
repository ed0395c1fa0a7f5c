//! One call of Thrift to the endpoints of a port: which is asked, on what connection, and who is asked after one that fails.

use std::io::ErrorKind;
use std::mem::MaybeUninit;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use registry::model::HostPort;
use socket2::SockRef;
use thrift::{Decoder, ExceptionKind, Kind, Malformed, Message};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tracing::debug;

use super::ask::Allowance;
use super::idle::{FRESH, IDLE_WAIT, Idle};
use super::pool::NotConnected;
use super::search::{Exchange, Next, Search, Taken, Way};
use crate::base::budget::{ByteBudget, Reservation};
use policy::balance::{EndpointState, InFlight};
use policy::retry::Failure;

/// Idle connections kept per endpoint and worker, of either kind; more are closed. Few: many servers have a thread for each.
const IDLE_MAX: usize = 64;
/// What is read of an answer at once.
const READ_BYTES: usize = 16 * 1024;

/// Idle connections. Those for one-way calls are apart: what a server says to one all the same is not to come to the next
/// caller.
#[derive(Debug)]
pub(super) struct Connections {
    answered: Idle<TcpStream>,
    oneway: Idle<TcpStream>,
}

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
}

impl Default for Connections {
    fn default() -> Self {
        Self { answered: Idle::new(IDLE_MAX), oneway: Idle::new(IDLE_MAX) }
    }
}

impl Connections {
    /// Closes what was idle for too long, and what its endpoint has closed.
    pub(super) fn sweep(&self) {
        self.answered.sweep(is_quiet);
        self.oneway.sweep(is_open);
    }

    /// Closes all; whether there was any.
    pub(super) fn close_idle(&self) -> bool {
        let [answered, oneway] = [&self.answered, &self.oneway].map(Idle::close);
        answered || oneway
    }

    /// One that was idle for less than `most`.
    fn take(&self, address: &HostPort, answered: bool, most: Duration) -> Option<TcpStream> {
        match answered {
            true => self.answered.take(address, most, is_quiet),
            false => self.oneway.take(address, most, is_open),
        }
    }

    fn give_back(&self, address: &HostPort, answered: bool, stream: TcpStream) {
        let idle = if answered { &self.answered } else { &self.oneway };
        idle.give_back(address, stream);
    }
}

/// Whether nothing has come on an idle connection, and no end. By the system's word: the readiness that the runtime knows is
/// as old as its last turn.
fn is_quiet(stream: &TcpStream) -> bool {
    let came = SockRef::from(stream).peek(&mut [MaybeUninit::uninit(); 1]);
    came.is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
}

/// Whether no end has come; what else has is thrown away.
fn is_open(stream: &TcpStream) -> bool {
    let mut said = [MaybeUninit::uninit(); 512];
    loop {
        match SockRef::from(stream).recv(&mut said) {
            Ok(count) if count > 0 => {}
            Ok(_) => return false,
            Err(error) => return error.kind() == ErrorKind::WouldBlock,
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
        let answered = message.head.kind != Kind::Oneway;
        let most = if allowance.replayable && answered { IDLE_WAIT } else { FRESH };
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
    let (connections, clock) = (&way.pool.thrift, way.watch.clock);
    let answered = message.head.kind != Kind::Oneway;
    let pooled = idle.and_then(|most| connections.take(endpoint.address(), answered, most));
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
    let taken = stream.write(&message.bytes).await.map_err(|error| CallError::Unsent { reused, error })?;
    stream.write_all(&message.bytes[taken..]).await.map_err(cut)?;
    let mut held = budget.reservation();
    let answer = match answered {
        false => None,
        true => Some(answer(&mut stream, message, &mut held).await.map_err(|error| match error {
            CallError::Cut { .. } => CallError::Cut { reused },
            other => other,
        })?),
    };
    connections.give_back(endpoint.address(), answered, stream);
    Ok((answer, held))
}

/// Reads the answer to `call`.
async fn answer(
    stream: &mut TcpStream,
    call: &Message,
    held: &mut Reservation,
) -> Result<Message, CallError> {
    let (mut decoder, mut buf) = (Decoder::default(), BytesMut::with_capacity(READ_BYTES));
    loop {
        match decoder.next(&mut buf) {
            Ok(None) => {}
            Ok(Some(answer)) => {
                let (asked, said) = (&call.head, &answer.head);
                let is_answer = matches!(said.kind, Kind::Reply | Kind::Exception)
                    && (said.number, &said.method) == (asked.number, &asked.method)
                    && said.protocol.is_read_by_who_writes(asked.protocol)
                    && answer.transport == call.transport
                    && buf.is_empty();
                return if is_answer { Ok(answer) } else { Err(CallError::Malformed) };
            }
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
    let kind = answer.map(Message::exception_kind);
    match kind {
        // Written is not done, and tells nothing of how long it takes.
        None => exchange.end(|in_flight, _| super::search::unblamed(in_flight)),
        // That it has no such method is its caller's fault.
        Some(Some(kind)) if kind != ExceptionKind::UnknownMethod as i32 => {
            exchange.end(|in_flight, now| {
                in_flight.erred(now);
                None
            });
        }
        Some(_) => exchange.end(InFlight::answered),
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
