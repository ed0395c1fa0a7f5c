//! Connections to endpoints, of one worker: idle ones of HTTP/1.1, and those of HTTP/2.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{HeaderMap, StatusCode};
use http1::client::{Answer, Asking, Connection, SendError as Http1Error};
use http1::{HeadError, Limits};
use proto::limits::{HEAD_BYTES_MAX, MESSAGE_FIELDS_MAX};
use registry::model::HostPort;
use tokio::net::TcpStream;
use tokio::task::yield_now;
use tracing::debug;

use super::call;
use super::connect::{ConnectError, connect};
use super::idle::{FRESH, IDLE_WAIT, Idle};
use super::multiplex::Connections;
use crate::base::clock::Clock;
use crate::http::body::{Reader, RequestBody};
use policy::balance::EndpointState;

/// Idle connections kept per endpoint and worker; more are closed.
const IDLE_MAX: usize = 512;
/// After a connection that there was no room for, this worker accepts no callers for so long: they would only need more.
const LACK_PAUSE: Duration = Duration::from_millis(100);
/// What heads and trailers of answers may be.
const LIMITS: Limits = Limits { bytes: HEAD_BYTES_MAX, fields: MESSAGE_FIELDS_MAX };

/// Those of one worker.
#[derive(Debug)]
pub struct Pool {
    idle: Idle<Connection>,
    /// Those of HTTP/2.
    pub(super) multiplexed: Connections,
    /// Those of protocols whose calls are placed each by itself.
    pub(super) called: call::Connections,
    rng: RefCell<fastrand::Rng>,
    /// When there was last no room for a connection.
    lacked_at: Cell<Option<Instant>>,
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
    NotConnected(#[from] NotConnected),
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
    /// The endpoint takes no extended CONNECT (RFC 8441, section 3): it cannot be upgraded, and nothing is wrong with it.
    #[error("the endpoint takes no extended CONNECT")]
    NoTunnels,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotConnected {
    /// None could be made.
    #[error(transparent)]
    Failed(ConnectError),
    /// So many requests wait for one that this one does not.
    #[error("too many requests wait for a connection")]
    Crowded,
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
    pub(super) async fn dial(&self, pool: &Pool) -> Result<TcpStream, NotConnected> {
        let stream = pool.dial(self.endpoint, self.clock, self.connect).await?;
        (self.connected)();
        Ok(stream)
    }
}

impl Default for Pool {
    fn default() -> Self {
        Self {
            idle: Idle::new(IDLE_MAX),
            multiplexed: Connections::default(),
            called: call::Connections::default(),
            rng: RefCell::default(),
            lacked_at: Cell::default(),
        }
    }
}

impl Pool {
    /// Draws from this worker's randomness.
    pub fn with_rng<T>(&self, draw: impl FnOnce(&mut fastrand::Rng) -> T) -> T {
        draw(&mut self.rng.borrow_mut())
    }

    /// A new connection to an endpoint, in its turn, made within `wait`.
    pub(super) async fn dial(
        &self,
        endpoint: &Arc<EndpointState>,
        clock: Clock,
        wait: Duration,
    ) -> Result<TcpStream, NotConnected> {
        let now = clock.now();
        if endpoint.is_crowded(now) {
            return Err(NotConnected::Crowded);
        }
        let _connecting = endpoint.connecting(now);
        let mut connected = connect(endpoint.address(), wait).await;
        if matches!(connected, Err(ConnectError::Ours(_))) && self.close_idle() {
            // What lies idle is in the way. The tasks of those of HTTP/2 hold their sockets until they have run.
            yield_now().await;
            connected = connect(endpoint.address(), wait).await;
        }
        if matches!(connected, Err(ConnectError::Ours(_))) {
            self.lacked_at.set(Some(Instant::now()));
        }
        connected.map_err(|error| {
            debug!(endpoint = %endpoint.address(), error = &error as &dyn std::error::Error, "Cannot connect to the endpoint.");
            NotConnected::Failed(error)
        })
    }

    /// Closes what was idle for too long, and what its endpoint has closed.
    pub fn sweep(&self) {
        self.idle.sweep(Connection::is_quiet);
        self.multiplexed.sweep();
        self.called.sweep();
    }

    /// Waits for as long as no more callers should be accepted, since there was no room for a connection to an endpoint.
    pub async fn recovered(&self) {
        if let Some(lacked_at) = self.lacked_at.take() {
            tokio::time::sleep_until((lacked_at + LACK_PAUSE).into()).await;
        }
    }

    /// Closes all that is idle, for want of descriptors; whether there was any.
    fn close_idle(&self) -> bool {
        let [pooled, called] = [self.idle.close(), self.called.close_idle()];
        self.multiplexed.close_idle() || pooled || called
    }

    /// The answer was read to its end: its connection can be used again.
    pub(super) fn give_back(&self, address: &HostPort, connection: Connection) {
        self.idle.give_back(address, connection);
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

    fn take(&self, address: &HostPort, reuse: Reuse) -> Option<Connection> {
        match reuse {
            Reuse::Any => self.idle.take(address, IDLE_WAIT, Connection::is_quiet),
            // What cannot be sent again is worth a system call.
            Reuse::Fresh => self.idle.take(address, FRESH, Connection::is_quiet_now),
            Reuse::None => None,
        }
    }
}

/// What a failure on a connection of HTTP/1.1 means; `reused`: it had served before.
fn judge(address: &HostPort, error: Http1Error, reused: bool) -> SendError {
    debug!(endpoint = %address, error = &error as &dyn std::error::Error, "Endpoint exchange failed.");
    match error {
        // The same as a connection that was never made: any method may go to another endpoint.
        Http1Error::Unsent(error) => NotConnected::Failed(ConnectError::Refused(error)).into(),
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
