//! HTTP/2 connections of callers (RFC 9113).

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use h2::server::{self, SendResponse};
use h2::{Ping, PingPong, Reason, RecvStream};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body::Body as _;
use http1::framing::content_length;
use registry::model::HttpRules;
use tokio::net::TcpStream;
use tokio::task::spawn_local;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Front, HEAD_WAIT};
use crate::http::body::Incoming;
use crate::http::body::http2::{self, Received, Unsent};
use crate::http::fields;
use crate::http::join::{self, End};
use crate::http::upgrade;
use crate::proxy::outbound::{Behind, Caller};

/// Streams that one connection may have open. Enough for a busy caller, few enough that one connection is a small part
/// of [`crate::proxy::worker::REQUESTS_MAX`].
const STREAMS_MAX: u32 = 256;
/// A head with more is answered with 431 by the library, which counts 32 bytes a field on top (RFC 9113, section 6.5.2).
const HEADER_LIST_BYTES_MAX: u32 = proto::limits::HEAD_BYTES_MAX as u32;
/// Bytes of one request's body that may wait to be read: a caller is near, so this keeps some Gbit/s moving.
const STREAM_WINDOW: u32 = 256 * 1024;
/// The same for all requests of one connection: what a caller can make us hold for it.
const CONNECTION_WINDOW: u32 = 4 * 1024 * 1024;
/// Bytes of an answer that may wait for the caller to take them, per stream.
const SEND_BUFFER_BYTES: usize = 64 * 1024;
/// Streams that a caller may have reset before we began with them; one more, and the connection is closed (CVE-2023-44487).
const RESETS_PENDING_MAX: usize = 20;
/// Streams that may break the protocol, in all, before the connection is closed (CVE-2025-8671).
const RESETS_BY_ERROR_MAX: usize = 1024;
/// Interim answers that are forwarded for one request.
const INTERIM_MAX: u8 = proto::limits::INTERIM_FRAMES_MAX;
/// A caller that is silent for so long is asked for a sign of life, and has as long to give it.
const PING: Duration = Duration::from_secs(20);
/// A caller that was told to go has as long to say that it heard.
const FAREWELL: Duration = Duration::from_secs(5);

type Connection = server::Connection<TcpStream, Bytes>;

/// The streams of one connection.
struct Streams {
    open: Cell<usize>,
    idle_since: Cell<Instant>,
}

/// One of them, from its request to the end of its answer.
struct Stream(Rc<Streams>);

/// Serves one connection until its caller leaves, or it idles for [`HEAD_WAIT`], or the process drains: then the caller
/// is told to open no more streams (GOAWAY), and what is open is finished.
pub(super) async fn serve(
    front: impl Front,
    stream: TcpStream,
    source: SocketAddr,
    rules: Arc<HttpRules>,
) -> Result<(), h2::Error> {
    let stop = front.worker().shared.stop.clone();
    let mut builder = server::Builder::new();
    builder
        .max_concurrent_streams(rules.streams.unwrap_or(STREAMS_MAX))
        .enable_connect_protocol()
        .max_header_list_size(rules.head_bytes.unwrap_or(HEADER_LIST_BYTES_MAX))
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buffer_size(SEND_BUFFER_BYTES)
        .max_pending_accept_reset_streams(RESETS_PENDING_MAX)
        .max_local_error_reset_streams(Some(RESETS_BY_ERROR_MAX));
    let handshake = tokio::time::timeout(HEAD_WAIT, builder.handshake::<_, Bytes>(stream));
    let mut connection = match handshake.await {
        Ok(connection) => connection?,
        Err(_) => return Ok(()),
    };
    let streams = Rc::new(Streams { open: Cell::new(0), idle_since: Cell::new(Instant::now()) });
    let pings = connection.ping_pong();
    let begin = |(request, respond): (Request<RecvStream>, SendResponse<Bytes>)| {
        let stream = Stream::open(&streams);
        let (front, rules) = (front.clone(), rules.clone());
        // Ends with its connection, at the latest: all that it waits for does.
        spawn_local(async move {
            // Boxed as an exchange of a tunnel is: a task is moved as a whole.
            Box::pin(exchange(front, (source, rules), request, respond)).await;
            drop(stream);
        });
    };
    let ended = tokio::select! {
        biased;
        ended = accept(&mut connection, begin) => Some(ended),
        () = stop.cancelled() => None,
        () = streams.idle(HEAD_WAIT) => None,
        () = silent(pings) => return Ok(()),
    };
    if let Some(ended) = ended {
        return ended;
    }
    connection.graceful_shutdown();
    // A caller may take its time over what is open, but not over the farewell.
    streams.idle_since.set(Instant::now());
    tokio::select! {
        biased;
        ended = accept(&mut connection, begin) => ended,
        () = streams.idle(FAREWELL) => Ok(()),
    }
}

/// Begins with every request until the end of the connection.
async fn accept(
    connection: &mut Connection,
    begin: impl Fn((Request<RecvStream>, SendResponse<Bytes>)),
) -> Result<(), h2::Error> {
    while let Some(accepted) = connection.accept().await {
        begin(accepted?);
    }
    Ok(())
}

/// Ends when a caller gives no sign of life.
async fn silent(pings: Option<PingPong>) {
    let Some(mut pings) = pings else { return std::future::pending().await };
    loop {
        tokio::time::sleep(PING).await;
        match tokio::time::timeout(PING, pings.ping(Ping::opaque())).await {
            Ok(Ok(_)) => {}
            // The connection is over; whoever drives it knows why.
            Ok(Err(_)) => return std::future::pending().await,
            Err(_) => return,
        }
    }
}

/// Serves one request, until its caller resets the stream or takes nothing of the answer.
async fn exchange(
    front: impl Front,
    (source, rules): (SocketAddr, Arc<HttpRules>),
    request: Request<RecvStream>,
    respond: SendResponse<Bytes>,
) {
    let give_up = CancellationToken::new();
    let respond = RefCell::new(respond);
    let served = serve_stream(&front, (source, &rules), request, &respond, &give_up);
    let served = tokio::select! {
        biased;
        served = served => served,
        () = give_up.cancelled() => Some(()),
    };
    if served.is_some() {
        // Frees what waits for a reader that takes nothing, and leaves the other streams alone.
        respond.borrow_mut().send_reset(Reason::CANCEL);
    }
}

/// `Some`: the stream is still to be reset.
async fn serve_stream(
    front: &impl Front,
    (source, rules): (SocketAddr, &HttpRules),
    request: Request<RecvStream>,
    respond: &RefCell<SendResponse<Bytes>>,
    give_up: &CancellationToken,
) -> Option<()> {
    let (mut parts, received) = request.into_parts();
    fields::join_cookies(&mut parts.headers);
    let length = content_length(&parts.headers).ok().flatten();
    let received = Received::new(received, length);
    // What comes behind the head of a CONNECT is of the tunnel that it asks for.
    let (incoming, kept) = match parts.method == Method::CONNECT {
        true => (Incoming::Nothing, Some(received)),
        false => (Incoming::Http2(received), None),
    };
    let left = Cell::new(INTERIM_MAX);
    let interim = |status: StatusCode, headers: &HeaderMap| {
        let mut response = Response::new(());
        *response.status_mut() = status;
        *response.headers_mut() = headers.clone();
        if left.get() > 0 {
            left.set(left.get() - 1);
            // One that the library does not take is left out, as any of them may be.
            let _ = respond.borrow_mut().send_informational(response);
        }
    };
    let caller = Caller { source, rules, give_up, interim: &interim };
    let answered = {
        // Boxed, as it is large and short-lived beside the body of its answer.
        let mut answering = Box::pin(front.answer(Request::from_parts(parts, incoming), caller));
        poll_fn(|cx| {
            if let Poll::Ready(reply) = answering.as_mut().poll(cx) {
                return Poll::Ready(Some(reply));
            }
            // The caller resets the stream, or is gone.
            match respond.borrow_mut().poll_reset(cx) {
                Poll::Ready(_) => Poll::Ready(None),
                Poll::Pending => Poll::Pending,
            }
        })
        .await?
    };
    let (mut head, mut body) = answered.response.into_parts();
    let behind = body.take_behind();
    if let Some(Behind::Requests) = behind {
        // HTTP/2 need not make connections in connections: each request has a stream.
        return Some(());
    }
    if let (Some(Behind::Carry(carry)), Some(received)) = (behind, kept) {
        head.status = upgrade::answer_http2(&mut head.headers);
        let sent = respond.borrow_mut().send_response(Response::from_parts(head, ()), false);
        let Ok(stream) = sent else { return Some(()) };
        carry.run(End::Http2(join::Http2::new(stream, received))).await;
        return None;
    }
    let mut body = pin!(body);
    let empty = body.is_end_stream();
    let mut response = Response::from_parts(head, ());
    if !response.headers().contains_key(http::header::DATE) {
        let now = http1::server::date();
        response.headers_mut().insert(http::header::DATE, now);
    }
    let sent = respond.borrow_mut().send_response(response, empty);
    let Ok(mut stream) = sent else { return Some(()) };
    if empty {
        // The body is polled to its end all the same: whoever made it counts on that.
        let _ = poll_fn(|cx| body.as_mut().poll_frame(cx)).await;
        return None;
    }
    match http2::send(&mut stream, body).await {
        Ok(()) | Err(Unsent::Stopped) => None,
        Err(Unsent::Body(_)) => {
            http2::cut(&mut stream);
            None
        }
    }
}

impl Streams {
    /// Ends when none has been open for `wait`.
    async fn idle(&self, wait: Duration) {
        loop {
            let now = Instant::now();
            let due = if self.open.get() == 0 { self.idle_since.get() + wait } else { now + wait };
            if due <= now {
                return;
            }
            tokio::time::sleep_until(due).await;
        }
    }
}

impl Stream {
    fn open(streams: &Rc<Streams>) -> Self {
        streams.open.update(|open| open + 1);
        Self(streams.clone())
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.0.open.update(|open| open - 1);
        self.0.idle_since.set(Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_connection_idles_from_the_end_of_its_last_stream() {
        let start = Instant::now();
        let second = Duration::from_secs(1);
        let streams = Rc::new(Streams { open: Cell::new(0), idle_since: Cell::new(start) });
        let two = (Stream::open(&streams), Stream::open(&streams));
        let busy = tokio::time::timeout(100 * second, streams.idle(10 * second)).await;
        assert!(busy.is_err(), "two streams are open");
        drop(two.0);
        let busy = tokio::time::timeout(100 * second, streams.idle(10 * second)).await;
        assert!(busy.is_err(), "one stream is open");
        drop(two.1);
        streams.idle(10 * second).await;
        assert_eq!(start.elapsed(), 210 * second);
    }
}
