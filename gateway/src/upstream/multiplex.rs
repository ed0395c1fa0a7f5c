//! HTTP/2 connections to endpoints, of one worker: every one carries many requests at once.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::Poll;
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::{RecvStream, SendStream};
use http::{Request, Response};
use http_body::Body as _;
use registry::model::HostPort;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio::task::yield_now;
use tracing::debug;

use super::connect::ConnectError;
use super::idle::IDLE_WAIT;
use super::pool::{NotConnected, Pool, Reuse, SendError, Sending};
use crate::http::body::http2::{self, Unsent};
use crate::http::body::{Reader, RequestBody};

/// Streams of one connection, even if the endpoint allows more; what is beyond opens another connection. Each of them
/// How long an endpoint may take to say what it can do, and how often that is looked for.
const SETTINGS_WAIT: Duration = Duration::from_secs(1);
const SETTINGS_LOOK: Duration = Duration::from_millis(2);
/// may have its whole window waiting to be read without holding up the others.
const STREAMS_MAX: u32 = 128;
/// Connections of one endpoint and worker; then those there are take more streams than they should.
const CONNECTIONS_MAX: usize = 64;
/// Bytes of one answer that may wait to be read: endpoints are near, so this keeps some Gbit/s moving.
const STREAM_WINDOW: u32 = 256 * 1024;
/// Bytes of one request that may wait for the endpoint to take them.
const SEND_BUFFER_BYTES: usize = 256 * 1024;
/// Bytes of a head that are taken, the library's count of 32 a field included: room to find that it is too large for us
/// and say so, which is nobody's fault, instead of breaking off.
const HEADER_LIST_BYTES_MAX: u32 = 4 * proto::limits::HEAD_BYTES_MAX as u32;
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
    /// How the last one did.
    failure: RefCell<Option<Rc<SendError>>>,
}

#[derive(Debug)]
struct Connection {
    sender: SendRequest<Bytes>,
    /// Its driver, in a task of its own, has ended.
    closed: Rc<Cell<bool>>,
    /// Streams that it carries now.
    streams: Cell<usize>,
    idle_since: Cell<Instant>,
}

/// One of the streams of a connection.
#[derive(Debug)]
pub(super) struct Stream(Rc<Connection>);

/// An answer, and what is still to be sent of the request, if the answer came before its end.
pub(super) type Answered = (Response<RecvStream>, Stream, Option<Upload>);

/// The rest of a request, to be driven beside the answer.
pub(super) type Upload = Pin<Box<dyn Future<Output = ()>>>;

impl Connections {
    /// Closes what was idle for too long.
    pub(super) fn sweep(&self) {
        let now = Instant::now();
        self.0.borrow_mut().retain(|_, endpoint| {
            let mut connections = endpoint.connections.borrow_mut();
            connections.retain(|c| {
                let idle = c.streams.get() == 0 && now.duration_since(c.idle_since.get()) >= IDLE_WAIT;
                !c.closed.get() && !idle
            });
            // Whoever dials holds the endpoint, and finds it here again.
            !connections.is_empty() || Rc::strong_count(endpoint) > 1
        });
    }

    /// Closes connections without a stream: others need their descriptors. False: there were none.
    pub(super) fn close_idle(&self) -> bool {
        let mut closed = false;
        for endpoint in self.0.borrow().values() {
            endpoint.connections.borrow_mut().retain(|connection| {
                let idle = connection.streams.get() == 0;
                closed |= idle;
                !idle
            });
        }
        closed
    }

    fn endpoint(&self, address: &HostPort) -> Rc<Endpoint> {
        let known = self.0.borrow().get(address).cloned();
        known.unwrap_or_else(|| self.0.borrow_mut().entry(address.clone()).or_default().clone())
    }

    /// Opens a stream that is a tunnel, over a connection with room, or over a new one.
    pub(super) async fn connect(
        &self,
        pool: &Pool,
        sending: &Sending<'_>,
        request: impl Fn() -> Request<()>,
    ) -> Result<(Response<RecvStream>, SendStream<Bytes>, Stream), SendError> {
        let endpoint = self.endpoint(sending.endpoint.address());
        let room = || if sending.reuse == Reuse::None { None } else { endpoint.room() };
        let (stream, reused) = match room() {
            Some(stream) => (stream, true),
            None => (endpoint.dial(pool, sending).await?, false),
        };
        match stream.connect(request(), sending).await {
            Ok((response, send)) => Ok((response, send, stream)),
            Err(unanswered) => Err(unanswered.judge(sending.endpoint.address(), reused)),
        }
    }

    /// Sends a request over a connection with room, or over a new one.
    pub(super) async fn send(
        &self,
        pool: &Pool,
        sending: &Sending<'_>,
        request: impl Fn() -> Request<()>,
        body: &RequestBody,
    ) -> Result<Answered, SendError> {
        let address = sending.endpoint.address();
        let endpoint = self.endpoint(address);
        let reused = || if sending.reuse == Reuse::None { None } else { endpoint.room() };
        if sending.reuse != Reuse::None && endpoint.is_idle() {
            // Until the connections' tasks have seen what has come: an end above all.
            yield_now().await;
        }
        while let Some(stream) = reused() {
            match stream.send(request(), body.reader(), sending).await {
                Ok((response, upload)) => return Ok((response, stream, upload)),
                Err(Unanswered::Unsent) if body.can_restart() => {
                    // It was closed meanwhile and took nothing: as if it had not been there.
                    endpoint.forget(&stream.0);
                }
                Err(unanswered) => return Err(unanswered.judge(address, true)),
            }
        }
        let stream = endpoint.dial(pool, sending).await?;
        match stream.send(request(), body.reader(), sending).await {
            Ok((response, upload)) => Ok((response, stream, upload)),
            Err(unanswered) => Err(unanswered.judge(address, false)),
        }
    }
}

impl Endpoint {
    /// A stream on a connection with room: the oldest, so that the others can be closed as idle.
    fn room(&self) -> Option<Stream> {
        let mut connections = self.connections.borrow_mut();
        connections.retain(|c| !c.closed.get());
        let free = connections.iter().find(|c| c.has_room());
        let least = || connections.iter().min_by_key(|c| c.streams.get());
        let taken = free.or_else(|| if connections.len() < CONNECTIONS_MAX { None } else { least() });
        taken.map(Stream::open)
    }

    /// Whether there are connections, and all of them lie idle.
    fn is_idle(&self) -> bool {
        let connections = self.connections.borrow();
        !connections.is_empty() && connections.iter().all(|c| c.streams.get() == 0)
    }

    fn forget(&self, connection: &Rc<Connection>) {
        self.connections.borrow_mut().retain(|c| !Rc::ptr_eq(c, connection));
    }

    /// A stream on a new connection, or on one that somebody else has made meanwhile.
    async fn dial(&self, pool: &Pool, sending: &Sending<'_>) -> Result<Stream, SendError> {
        let failures = self.failures.get();
        let waiting = sending.endpoint.connecting(sending.clock.now());
        let _dialling = self.dialling.lock().await;
        drop(waiting);
        if let Some(stream) = self.room() {
            return Ok(stream);
        }
        if self.failures.get() != failures {
            return Err(self.failure.borrow().as_deref().map_or(SendError::Cut, same_failure));
        }
        let made = async {
            let stream = sending.dial(pool).await?;
            connect(stream).await
        };
        match made.await {
            Ok(connection) => {
                let stream = Stream::open(&connection);
                self.connections.borrow_mut().push(connection);
                Ok(stream)
            }
            Err(error) => {
                self.failures.set(failures.wrapping_add(1));
                *self.failure.borrow_mut() = Some(Rc::new(same_failure(&error)));
                Err(error)
            }
        }
    }
}

/// The failure of a dial, for whoever waited for it.
fn same_failure(error: &SendError) -> SendError {
    let again = |error: &std::io::Error| match error.raw_os_error() {
        Some(code) => std::io::Error::from_raw_os_error(code),
        None => error.kind().into(),
    };
    let failed = match error {
        SendError::NotConnected(NotConnected::Crowded) => return NotConnected::Crowded.into(),
        SendError::NotConnected(NotConnected::Failed(failed)) => failed,
        _ => return broke_off(),
    };
    let failed = match failed {
        ConnectError::Refused(error) => ConnectError::Refused(again(error)),
        ConnectError::Unanswered(wait) => ConnectError::Unanswered(*wait),
        ConnectError::Ours(error) => ConnectError::Ours(again(error)),
    };
    NotConnected::Failed(failed).into()
}

/// A connection that ended before it was of any use.
fn broke_off() -> SendError {
    NotConnected::Failed(ConnectError::Refused(std::io::ErrorKind::ConnectionReset.into())).into()
}

impl Connection {
    fn has_room(&self) -> bool {
        self.streams.get() < self.sender.current_max_send_streams().clamp(1, STREAMS_MAX as usize)
    }
}

/// Why there is no answer.
enum Unanswered {
    /// The connection had ended before the request went out.
    Unsent,
    /// The stream or the connection ended.
    Failed(h2::Error),
    /// The body of the request broke off.
    Body,
    /// It takes no extended CONNECT (RFC 8441, section 3).
    NoTunnels,
}

impl Unanswered {
    /// Whether the stream may have been processed; `reused`: its connection had served before.
    fn judge(self, address: &HostPort, reused: bool) -> SendError {
        let error = match self {
            Self::Unsent => {
                return broke_off();
            }
            Self::Body => return SendError::Body,
            Self::NoTunnels => return SendError::NoTunnels,
            Self::Failed(error) => error,
        };
        debug!(endpoint = %address, %error, "Endpoint ended the stream.");
        // The library fails only the streams above the last one that a GOAWAY accepts with it; those below go on.
        if error.is_remote() && error.is_go_away() {
            SendError::GoneAway
        } else if error.is_remote() && error.is_reset() && error.reason() == Some(h2::Reason::REFUSED_STREAM)
        {
            SendError::Refused
        } else if reused && error.is_io() {
            SendError::CutReused
        } else {
            SendError::Cut
        }
    }
}

impl Stream {
    async fn connect(
        &self,
        request: Request<()>,
        sending: &Sending<'_>,
    ) -> Result<(Response<RecvStream>, SendStream<Bytes>), Unanswered> {
        let Ok(mut sender) = self.0.sender.clone().ready().await else { return Err(Unanswered::Unsent) };
        // It says so in its first frame, which may still be under way.
        let allows = async {
            while !sender.is_extended_connect_protocol_enabled() {
                tokio::time::sleep(SETTINGS_LOOK).await;
            }
        };
        if tokio::time::timeout(SETTINGS_WAIT, allows).await.is_err() {
            return Err(Unanswered::NoTunnels);
        }
        let (response, send) = sender.send_request(request, false).map_err(Unanswered::Failed)?;
        Ok((head(response, sending).await?, send))
    }

    fn open(connection: &Rc<Connection>) -> Self {
        connection.streams.update(|streams| streams + 1);
        Self(connection.clone())
    }

    async fn send(
        &self,
        request: Request<()>,
        body: Reader,
        sending: &Sending<'_>,
    ) -> Result<(Response<RecvStream>, Option<Upload>), Unanswered> {
        let empty = body.is_end_stream();
        let Ok(mut sender) = self.0.sender.clone().ready().await else { return Err(Unanswered::Unsent) };
        let sent = sender.send_request(request, empty);
        let (response, stream) = sent.map_err(|error| match error.is_io() || error.is_go_away() {
            true => Unanswered::Unsent,
            false => Unanswered::Failed(error),
        })?;
        if empty {
            return Ok((head(response, sending).await?, None));
        }
        let failed = Rc::new(Cell::new(false));
        let mut upload: Upload = Box::pin(upload(stream, body, failed.clone()));
        let mut answering = pin!(head(response, sending));
        let mut sent = false;
        let response = poll_fn(|cx| {
            if !sent && upload.as_mut().poll(cx).is_ready() {
                sent = true;
            }
            if failed.get() {
                return Poll::Ready(Err(Unanswered::Body));
            }
            answering.as_mut().poll(cx)
        });
        let response = response.await?;
        Ok((response, (!sent).then_some(upload)))
    }
}

/// Sends the body of a request; what fails here but the body itself shows on the answer's side.
async fn upload(mut stream: SendStream<Bytes>, body: Reader, failed: Rc<Cell<bool>>) {
    let body = pin!(body);
    if let Err(Unsent::Body(_)) = http2::send(&mut stream, body).await {
        failed.set(true);
        http2::cut(&mut stream);
    }
}

/// The head of an answer; those of interim ones before it are handed on.
async fn head(
    mut response: ResponseFuture,
    sending: &Sending<'_>,
) -> Result<Response<RecvStream>, Unanswered> {
    poll_fn(|cx| {
        while let Poll::Ready(Some(Ok(interim))) = response.poll_informational(cx) {
            let (parts, ()) = interim.into_parts();
            (sending.interim)(parts.status, parts.headers);
        }
        Pin::new(&mut response).poll(cx)
    })
    .await
    .map_err(Unanswered::Failed)
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.0.streams.update(|streams| streams - 1);
        self.0.idle_since.set(Instant::now());
    }
}

async fn connect(stream: TcpStream) -> Result<Rc<Connection>, SendError> {
    let refused = |error| SendError::from(NotConnected::Failed(ConnectError::Refused(error)));
    watch(&stream).map_err(refused)?;
    let handshake = h2::client::Builder::new()
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(STREAM_WINDOW * STREAMS_MAX)
        .max_send_buffer_size(SEND_BUFFER_BYTES)
        .max_header_list_size(HEADER_LIST_BYTES_MAX)
        .enable_push(false)
        .handshake::<_, Bytes>(stream)
        .await;
    let (sender, connection) = handshake.map_err(|error| refused(std::io::Error::other(error)))?;
    let closed = Rc::new(Cell::new(false));
    let over = closed.clone();
    // Ends with its senders, which are in the list and in streams.
    tokio::task::spawn_local(async move {
        if let Err(error) = connection.await {
            debug!(%error, "Connection to an endpoint ended.");
        }
        over.set(true);
    });
    Ok(Rc::new(Connection { sender, closed, streams: Cell::new(0), idle_since: Cell::new(Instant::now()) }))
}

/// Makes the kernel notice an endpoint that is gone without a word: many requests wait on this one connection.
fn watch(stream: &TcpStream) -> std::io::Result<()> {
    let socket = SockRef::from(stream);
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(SILENCE).with_interval(PROBE))?;
    socket.set_tcp_user_timeout(Some(UNACKNOWLEDGED))
}

#[cfg(test)]
mod tests;
