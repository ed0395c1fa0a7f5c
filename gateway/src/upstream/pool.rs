//! Connections to endpoints, of one worker: idle ones of HTTP/1.1, and those of HTTP/2.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{HeaderMap, StatusCode};
use http1::client::{Answer, Asking, Connection, SendError as Http1Error};
use http1::{HeadError, Limits};
use proto::limits::{HEAD_BYTES_MAX, MESSAGE_FIELDS_MAX};
use registry::model::HostPort;
use tokio::task::yield_now;
use tracing::debug;

use super::connect::{ConnectError, connect};
use super::multiplex::Connections;
use crate::base::clock::Clock;
use crate::http::body::{Reader, RequestBody};
use policy::balance::EndpointState;

/// Idle connections kept per endpoint and worker; more are closed.
const IDLE_MAX: usize = 512;
/// An idle connection is closed after this long: below the 60 s at which servers commonly close theirs.
pub(super) const IDLE_WAIT: Duration = Duration::from_secs(50);
/// A request that cannot be sent twice takes only a connection that was idle for less: an endpoint that closes idle
/// connections early may be closing an older one at this moment.
const FRESH: Duration = Duration::from_secs(1);
/// After a connection that there was no room for, this worker accepts no callers for so long: they would only need more.
const LACK_PAUSE: Duration = Duration::from_millis(100);
/// What heads and trailers of answers may be.
const LIMITS: Limits = Limits { bytes: HEAD_BYTES_MAX, fields: MESSAGE_FIELDS_MAX };

/// Idle connections by endpoint address.
#[derive(Debug, Default)]
pub struct Pool {
    idle: RefCell<HashMap<HostPort, VecDeque<Idle>>>,
    /// Those of HTTP/2.
    pub(super) multiplexed: Connections,
    rng: RefCell<fastrand::Rng>,
    /// When there was last no room for a connection.
    lacked_at: Cell<Option<Instant>>,
}

#[derive(Debug)]
struct Idle {
    connection: Connection,
    since: Instant,
}

/// Which idle connections a request may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reuse {
    /// Any: what is lost is sent again.
    Any,
    /// One that was idle for less than [`FRESH`], and whose end the system does not know.
    Fresh,
    /// None: a new connection.
    None,
}

/// How sending failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum SendError {
    /// There was no connection: nothing was sent.
    #[error(transparent)]
    Connect(ConnectError),
    /// So many requests wait for a connection that this one does not.
    #[error("too many requests wait for a connection")]
    Crowded,
    /// The endpoint certified that it processed nothing (`REFUSED_STREAM`).
    #[error("the endpoint refused the stream")]
    Refused,
    /// The same, because it ends the connection (above the last stream of a GOAWAY): another one may do.
    #[error("the endpoint ends the connection")]
    GoneAway,
    /// The connection ended before the head of an answer: it may have been processed.
    #[error("the endpoint broke off")]
    Cut,
    /// The same on a connection that had served before: the endpoint may have closed it for being idle.
    #[error("the endpoint broke off on a connection that had served before")]
    CutReused,
    /// The head of the answer is larger than goes on. Nobody's fault.
    #[error("the answer's head is too large: {0}")]
    TooLarge(String),
    /// What came is no answer that may go on.
    #[error("the answer is malformed: {0}")]
    Malformed(String),
    /// The body of the request broke off.
    #[error("the request's body broke off")]
    Body,
}

/// How a request is sent to one endpoint.
pub(super) struct Sending<'a> {
    pub(super) endpoint: &'a Arc<EndpointState>,
    pub(super) clock: Clock,
    pub(super) reuse: Reuse,
    /// How long a connection may take to be made.
    pub(super) connect: Duration,
    /// Told when one was.
    pub(super) connected: &'a dyn Fn(),
    /// Given the heads of interim answers.
    pub(super) interim: &'a dyn Fn(StatusCode, HeaderMap),
}

impl Sending<'_> {
    /// A new connection, in its turn.
    pub(super) async fn dial(&self, pool: &Pool) -> Result<tokio::net::TcpStream, SendError> {
        let endpoint = self.endpoint;
        let now = self.clock.now();
        if endpoint.is_crowded(now) {
            return Err(SendError::Crowded);
        }
        let _connecting = endpoint.connecting(now);
        let mut connected = connect(endpoint.address(), self.connect).await;
        if matches!(connected, Err(ConnectError::Ours(_))) && pool.close_idle() {
            // What lies idle is in the way. The tasks of those of HTTP/2 hold their sockets until they have run.
            yield_now().await;
            connected = connect(endpoint.address(), self.connect).await;
        }
        if matches!(connected, Err(ConnectError::Ours(_))) {
            pool.lacked_at.set(Some(Instant::now()));
        }
        let stream = connected.map_err(|error| {
            debug!(endpoint = %endpoint.address(), error = &error as &dyn std::error::Error, "Cannot connect to the endpoint.");
            SendError::Connect(error)
        })?;
        (self.connected)();
        Ok(stream)
    }
}

impl Pool {
    /// Draws from this worker's randomness.
    pub fn with_rng<T>(&self, draw: impl FnOnce(&mut fastrand::Rng) -> T) -> T {
        draw(&mut self.rng.borrow_mut())
    }

    /// Closes what was idle for too long, and what its endpoint has closed.
    pub fn sweep(&self) {
        let now = Instant::now();
        self.idle.borrow_mut().retain(|_, list| {
            list.retain(|idle| now.duration_since(idle.since) < IDLE_WAIT && idle.connection.is_quiet());
            !list.is_empty()
        });
        self.multiplexed.sweep();
    }

    /// Waits for as long as no more callers should be accepted, since there was no room for a connection to an endpoint.
    pub async fn recovered(&self) {
        if let Some(lacked_at) = self.lacked_at.take() {
            tokio::time::sleep_until((lacked_at + LACK_PAUSE).into()).await;
        }
    }

    /// Closes all that is idle, for want of descriptors; whether there was any.
    fn close_idle(&self) -> bool {
        let pooled = !std::mem::take(&mut *self.idle.borrow_mut()).is_empty();
        self.multiplexed.close_idle() || pooled
    }

    /// The answer was read to its end: its connection can be used again.
    pub(super) fn give_back(&self, address: &HostPort, connection: Connection) {
        let mut idle = self.idle.borrow_mut();
        let list = match idle.get_mut(address) {
            Some(list) => list,
            None => idle.entry(address.clone()).or_default(),
        };
        if list.len() < IDLE_MAX {
            list.push_back(Idle { connection, since: Instant::now() });
        }
    }

    /// Sends a request over an idle connection, or over a new one when there is none or the idle ones turn out to be
    /// closed.
    pub(super) async fn send(
        self: &Rc<Self>,
        sending: &Sending<'_>,
        asking: Asking<'_>,
        body: &RequestBody,
    ) -> Result<Answer<Reader>, SendError> {
        let address = sending.endpoint.address();
        while let Some(connection) = self.take(address, sending.reuse) {
            match connection.send(asking, body.reader(), &LIMITS, |s, h| (sending.interim)(s, h)).await {
                Ok(answer) => return Ok(answer),
                // It was closed meanwhile and took nothing: as if it had not been there.
                Err(Http1Error::Unsent(_)) if body.can_restart() => {}
                Err(error) => return Err(judge(address, error, true)),
            }
        }
        let connection = Connection::new(sending.dial(self).await?);
        let sent = connection.send(asking, body.reader(), &LIMITS, |s, h| (sending.interim)(s, h)).await;
        sent.map_err(|error| judge(address, error, false))
    }

    /// The connection that was used last, so that the others can be closed as idle.
    fn take(&self, address: &HostPort, reuse: Reuse) -> Option<Connection> {
        if reuse == Reuse::None {
            return None;
        }
        let mut idle = self.idle.borrow_mut();
        let list = idle.get_mut(address)?;
        while let Some(last) = list.pop_back() {
            if reuse == Reuse::Fresh && last.since.elapsed() >= FRESH {
                list.push_back(last);
                return None;
            }
            // What cannot be sent again is worth a system call.
            let quiet = match reuse {
                Reuse::Fresh => last.connection.is_quiet_now(),
                Reuse::Any | Reuse::None => last.connection.is_quiet(),
            };
            if quiet {
                return Some(last.connection);
            }
        }
        None
    }
}

/// What a failure on a connection of HTTP/1.1 means; `reused`: it had served before.
fn judge(address: &HostPort, error: Http1Error, reused: bool) -> SendError {
    debug!(endpoint = %address, error = &error as &dyn std::error::Error, "Endpoint exchange failed.");
    match error {
        // The same as a connection that was never made: any method may go to another endpoint.
        Http1Error::Unsent(error) => SendError::Connect(ConnectError::Refused(error)),
        Http1Error::Cut(_) if reused => SendError::CutReused,
        Http1Error::Cut(_) => SendError::Cut,
        Http1Error::Head(error @ (HeadError::TooLarge(_) | HeadError::TooManyFields(_))) => {
            SendError::TooLarge(error.to_string())
        }
        Http1Error::Head(error) => SendError::Malformed(error.to_string()),
        Http1Error::Framing(error) => SendError::Malformed(error.to_string()),
        Http1Error::Interim => SendError::Malformed(error.to_string()),
        Http1Error::Body => SendError::Body,
    }
}
