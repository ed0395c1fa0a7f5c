//! Connections to endpoints, of one worker: idle ones of HTTP/1.1, and those of HTTP/2.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::time::{Duration, Instant};

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use registry::model::HostPort;
use tokio::net::TcpStream;
use tracing::debug;

use super::multiplex::Connections;
use crate::body::Reader;

/// Connecting takes no longer, or the endpoint counts as refusing.
const CONNECT_WAIT: Duration = Duration::from_secs(1);
/// Idle connections kept per endpoint and worker; more are closed.
const IDLE_MAX: usize = 512;
/// An idle connection is closed after this long: below the 60 s at which servers commonly close theirs.
pub(super) const IDLE_WAIT: Duration = Duration::from_secs(50);
/// A request that cannot be sent twice takes only a connection that was idle for less: an endpoint that closes idle
/// connections early may be closing an older one at this moment.
const FRESH: Duration = Duration::from_secs(1);

/// Idle connections by endpoint address.
#[derive(Debug, Default)]
pub struct Pool {
    idle: RefCell<HashMap<HostPort, VecDeque<Idle>>>,
    /// Those of HTTP/2.
    pub(super) multiplexed: Connections,
    rng: RefCell<fastrand::Rng>,
}

#[derive(Debug)]
struct Idle {
    sender: SendRequest<Reader>,
    since: Instant,
}

/// A connection in use.
#[derive(Debug)]
pub(super) struct Lease {
    pool: Rc<Pool>,
    address: HostPort,
    sender: SendRequest<Reader>,
}

/// Which idle connections a request may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reuse {
    /// Any.
    Any,
    /// One that was idle for less than [`FRESH`].
    Fresh,
    /// None: a new connection.
    None,
}

/// How sending failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SendError {
    /// There was no connection: nothing was sent.
    Connect,
    /// The endpoint certified that it processed nothing (`REFUSED_STREAM`).
    Refused,
    /// The same, because it ends the connection (above the last stream of a GOAWAY): another one may do.
    GoneAway,
    /// The connection ended before the head of an answer: it may have been processed.
    Cut,
    /// The same on a connection that had served before: the endpoint may have closed it for being idle.
    CutReused,
}

impl Lease {
    /// The answer was read to its end: the connection can be used again.
    pub(super) fn give_back(self) {
        let Self { pool, address, sender } = self;
        if sender.is_closed() {
            return;
        }
        let mut idle = pool.idle.borrow_mut();
        let list = idle.entry(address).or_default();
        if list.len() < IDLE_MAX {
            list.push_back(Idle { sender, since: Instant::now() });
        }
    }
}

impl Pool {
    /// Draws from this worker's randomness.
    pub fn with_rng<T>(&self, draw: impl FnOnce(&mut fastrand::Rng) -> T) -> T {
        draw(&mut self.rng.borrow_mut())
    }

    /// Closes what was idle for too long.
    pub fn sweep(&self) {
        let now = Instant::now();
        self.idle.borrow_mut().retain(|_, list| {
            list.retain(|idle| !idle.sender.is_closed() && now.duration_since(idle.since) < IDLE_WAIT);
            !list.is_empty()
        });
        self.multiplexed.sweep();
    }

    /// Sends `request` to `address` over an idle connection, or over a new one when there is none or the idle ones
    /// turn out to be closed; `connected` is called for a new one.
    pub(super) async fn send(
        self: &Rc<Self>,
        address: &HostPort,
        request: Request<Reader>,
        reuse: Reuse,
        connected: impl FnOnce(),
    ) -> Result<(Response<Incoming>, Lease), SendError> {
        let mut request = request;
        while let Some(mut sender) = self.take(address, reuse) {
            match sender.try_send_request(request).await {
                Ok(response) => return Ok((response, self.lease(address, sender))),
                Err(mut error) => match error.take_message() {
                    // It was closed meanwhile and took nothing: as if it had not been there.
                    Some(unsent) => request = unsent,
                    None => {
                        debug!(endpoint = %address, error = %error.error(), "Endpoint cut the exchange.");
                        return Err(SendError::CutReused);
                    }
                },
            }
        }
        let mut sender = self.connect(address).await?;
        connected();
        match sender.try_send_request(request).await {
            Ok(response) => Ok((response, self.lease(address, sender))),
            Err(error) => {
                debug!(endpoint = %address, error = %error.error(), "Endpoint cut the exchange.");
                Err(SendError::Cut)
            }
        }
    }

    fn lease(self: &Rc<Self>, address: &HostPort, sender: SendRequest<Reader>) -> Lease {
        Lease { pool: self.clone(), address: address.clone(), sender }
    }

    /// The connection that was used last, so that the others can be closed as idle.
    fn take(&self, address: &HostPort, reuse: Reuse) -> Option<SendRequest<Reader>> {
        if reuse == Reuse::None {
            return None;
        }
        let mut idle = self.idle.borrow_mut();
        let list = idle.get_mut(address)?;
        while let Some(last) = list.pop_back() {
            if last.sender.is_closed() {
                continue;
            }
            if reuse == Reuse::Fresh && last.since.elapsed() >= FRESH {
                list.push_back(last);
                return None;
            }
            if last.sender.is_ready() {
                return Some(last.sender);
            }
            // Its answer was read, but its task has not seen that yet; it will be ready by the next look.
            let next = list.iter().rposition(|i| i.sender.is_ready());
            let taken = next.and_then(|at| list.remove(at));
            list.push_back(last);
            return taken.map(|idle| idle.sender);
        }
        None
    }

    async fn connect(&self, address: &HostPort) -> Result<SendRequest<Reader>, SendError> {
        let stream = connect_tcp(address, |_| Ok(())).await?;
        let (sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|_| SendError::Connect)?;
        // Ends with its sender, which is in the pool or in a lease.
        tokio::task::spawn_local(connection);
        Ok(sender)
    }
}

/// A TCP connection to `address`, with what `options` sets.
pub(super) async fn connect_tcp(
    address: &HostPort,
    options: impl FnOnce(&TcpStream) -> std::io::Result<()>,
) -> Result<TcpStream, SendError> {
    let connecting = async {
        let stream = TcpStream::connect((&*address.host, address.port)).await?;
        stream.set_nodelay(true)?;
        options(&stream)?;
        Ok::<_, std::io::Error>(stream)
    };
    match tokio::time::timeout(CONNECT_WAIT, connecting).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) => {
            debug!(endpoint = %address, %error, "Endpoint refused the connection.");
            Err(SendError::Connect)
        }
        Err(_) => {
            debug!(endpoint = %address, "Connecting to the endpoint took too long.");
            Err(SendError::Connect)
        }
    }
}
