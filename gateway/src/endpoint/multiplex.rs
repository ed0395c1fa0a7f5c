//! HTTP/2 connections to endpoints, of one worker: every one carries many requests at once.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::error::Error as _;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::{Duration, Instant};

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::TokioIo;
use registry::model::HostPort;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tracing::debug;

use super::LocalExecutor;
use super::pool::{IDLE_WAIT, SendError, connect_tcp};
use crate::body::Reader;

/// Streams of one connection, even if the endpoint allows more; what is beyond opens another connection. Each of them
/// may have its whole window waiting to be read without holding up the others.
const STREAMS_MAX: u32 = 128;
/// Connections of one endpoint and worker; then those there are take more streams than they should.
const CONNECTIONS_MAX: usize = 64;
/// Bytes of one answer that may wait to be read: endpoints are near, so this keeps some Gbit/s moving.
const STREAM_WINDOW: u32 = 256 * 1024;
/// Bytes of one request that may wait for the endpoint to take them.
const SEND_BUFFER_BYTES: usize = 256 * 1024;
/// A connection that is silent for so long is asked for a sign of life, and again as often as [`PROBE`] says. By the
/// kernel: servers of gRPC close connections whose clients send HTTP/2's pings as often.
const SILENCE: Duration = Duration::from_secs(10);
/// Between two such questions.
const PROBE: Duration = Duration::from_secs(5);
/// What was sent must be acknowledged within this time, or the connection is lost.
const UNACKNOWLEDGED: Duration = Duration::from_secs(20);

/// Connections by endpoint address.
#[derive(Debug, Default)]
pub(super) struct Connections(RefCell<HashMap<HostPort, Rc<Endpoint>>>);

/// What one endpoint has.
#[derive(Debug, Default)]
struct Endpoint {
    connections: RefCell<Vec<Rc<Connection>>>,
    /// Held while a connection is being made: those that would make another wait for it.
    dialling: Mutex<()>,
    /// Dials that failed so far: whoever waited for one has failed with it.
    failures: Cell<u64>,
}

type Driver = http2::Connection<TokioIo<TcpStream>, Reader, LocalExecutor>;

#[derive(Debug)]
struct Connection {
    sender: SendRequest<Reader>,
    /// Streams that it carries now.
    streams: Cell<usize>,
    /// What a task of its own drives, until its end; asked how many streams the endpoint allows.
    driver: Rc<RefCell<Option<Driver>>>,
    idle_since: Cell<Instant>,
}

/// One of the streams of a connection.
#[derive(Debug)]
pub(super) struct Stream(Rc<Connection>);

impl Connections {
    /// Closes what was idle for too long.
    pub(super) fn sweep(&self) {
        let now = Instant::now();
        self.0.borrow_mut().retain(|_, endpoint| {
            let mut connections = endpoint.connections.borrow_mut();
            connections.retain(|c| {
                let idle = c.streams.get() == 0 && now.duration_since(c.idle_since.get()) >= IDLE_WAIT;
                !idle && !c.sender.is_closed()
            });
            !connections.is_empty() || Rc::strong_count(endpoint) > 1
        });
    }

    /// Sends `request` to `address` over a connection that has room, or over a new one; `connected` is called for that.
    pub(super) async fn send(
        &self,
        address: &HostPort,
        request: Request<Reader>,
        connected: impl FnOnce(),
    ) -> Result<(Response<Incoming>, Stream), SendError> {
        let endpoint = self.0.borrow_mut().entry(address.clone()).or_default().clone();
        let mut request = request;
        while let Some(stream) = endpoint.room() {
            match stream.send(request).await {
                Ok(response) => return Ok((response, stream)),
                Err(Unanswered::Unsent(unsent)) => {
                    // It was closed meanwhile and took nothing: as if it had not been there.
                    endpoint.forget(&stream.0);
                    request = *unsent;
                }
                Err(Unanswered::Failed(error)) => return Err(judge(address, &error)),
            }
        }
        let stream = endpoint.dial(address, connected).await?;
        match stream.send(request).await {
            Ok(response) => Ok((response, stream)),
            Err(Unanswered::Unsent(_)) => Err(SendError::Connect),
            Err(Unanswered::Failed(error)) => Err(judge(address, &error)),
        }
    }
}

impl Endpoint {
    /// A stream on a connection with room: the oldest, so that the others can be closed as idle.
    fn room(&self) -> Option<Stream> {
        let mut connections = self.connections.borrow_mut();
        connections.retain(|c| !c.sender.is_closed());
        let free = connections.iter().find(|c| c.has_room());
        let least = || connections.iter().min_by_key(|c| c.streams.get());
        let taken = free.or_else(|| if connections.len() < CONNECTIONS_MAX { None } else { least() });
        taken.map(Stream::open)
    }

    fn forget(&self, connection: &Rc<Connection>) {
        self.connections.borrow_mut().retain(|c| !Rc::ptr_eq(c, connection));
    }

    /// A stream on a new connection, or on one that somebody else has made meanwhile.
    async fn dial(&self, address: &HostPort, connected: impl FnOnce()) -> Result<Stream, SendError> {
        let failures = self.failures.get();
        let _dialling = self.dialling.lock().await;
        if let Some(stream) = self.room() {
            return Ok(stream);
        }
        if self.failures.get() != failures {
            return Err(SendError::Connect);
        }
        match connect(address).await {
            Ok(connection) => {
                connected();
                let stream = Stream::open(&connection);
                self.connections.borrow_mut().push(connection);
                Ok(stream)
            }
            Err(error) => {
                self.failures.set(failures.wrapping_add(1));
                Err(error)
            }
        }
    }
}

impl Connection {
    fn has_room(&self) -> bool {
        self.driver.borrow().as_ref().is_some_and(|driver| {
            self.streams.get() < driver.current_max_send_streams().clamp(1, STREAMS_MAX as usize)
        })
    }
}

/// Why there is no answer.
enum Unanswered {
    /// The connection had ended; here is the request.
    Unsent(Box<Request<Reader>>),
    /// The stream or the connection ended.
    Failed(hyper::Error),
}

impl Stream {
    fn open(connection: &Rc<Connection>) -> Self {
        connection.streams.update(|streams| streams + 1);
        Self(connection.clone())
    }

    async fn send(&self, request: Request<Reader>) -> Result<Response<Incoming>, Unanswered> {
        self.0.sender.clone().try_send_request(request).await.map_err(|mut error| {
            match error.take_message() {
                Some(unsent) => Unanswered::Unsent(Box::new(unsent)),
                None => Unanswered::Failed(error.into_error()),
            }
        })
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.0.streams.update(|streams| streams - 1);
        self.0.idle_since.set(Instant::now());
    }
}

/// Whether a stream without an answer may have been processed.
fn judge(address: &HostPort, error: &hyper::Error) -> SendError {
    debug!(endpoint = %address, %error, cause = error.source(), "Endpoint ended the stream.");
    match error.source().and_then(|source| source.downcast_ref::<h2::Error>()) {
        // The library fails only the streams above the last one that a GOAWAY accepts with it; those below go on.
        Some(error) if error.is_remote() && error.is_go_away() => SendError::GoneAway,
        Some(error)
            if error.is_remote()
                && error.is_reset()
                && error.reason() == Some(h2::Reason::REFUSED_STREAM) =>
        {
            SendError::Refused
        }
        _ => SendError::Cut,
    }
}

async fn connect(address: &HostPort) -> Result<Rc<Connection>, SendError> {
    let stream = connect_tcp(address, watch).await?;
    let handshake = http2::Builder::new(LocalExecutor)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(STREAM_WINDOW * STREAMS_MAX)
        .max_send_buf_size(SEND_BUFFER_BYTES)
        .max_header_list_size(proto::limits::HEAD_BYTES_MAX as u32)
        .handshake(TokioIo::new(stream))
        .await;
    let (sender, connection) = handshake.map_err(|_| SendError::Connect)?;
    let driver = Rc::new(RefCell::new(Some(connection)));
    let driven = driver.clone();
    // Ends with its senders, which are in the list and in streams.
    tokio::task::spawn_local(async move {
        let ended = poll_fn(|cx| match &mut *driven.borrow_mut() {
            Some(driver) => Pin::new(driver).poll(cx),
            None => Poll::Ready(Ok(())),
        });
        if let Err(error) = ended.await {
            debug!(%error, cause = error.source(), "Connection to an endpoint ended.");
        }
        // With it go the requests that wait for it: they are told.
        driven.take();
    });
    let (streams, idle_since) = (Cell::new(0), Cell::new(Instant::now()));
    Ok(Rc::new(Connection { sender, driver, streams, idle_since }))
}

/// Makes the kernel notice an endpoint that is gone without a word: many requests wait on this one connection.
fn watch(stream: &TcpStream) -> std::io::Result<()> {
    let socket = SockRef::from(stream);
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(SILENCE).with_interval(PROBE))?;
    socket.set_tcp_user_timeout(Some(UNACKNOWLEDGED))
}

#[cfg(test)]
mod tests;
