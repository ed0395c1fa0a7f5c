//! HTTP/2 connections of callers (RFC 9113).

use std::cell::Cell;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Front, HEAD_WAIT};
use crate::body::BodyError;
use crate::endpoint::LocalExecutor;
use crate::fields;
use crate::outbound::Outgoing;

/// Streams that one connection may have open. Enough for a busy caller, few enough that one connection is a small part
/// of [`crate::worker::REQUESTS_MAX`].
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
/// A caller that is silent for so long is asked for a sign of life, and has as long to give it.
const PING: Duration = Duration::from_secs(20);
/// A caller that was told to go has as long to say that it heard.
const FAREWELL: Duration = Duration::from_secs(5);

/// The streams of one connection.
struct Streams {
    open: Cell<usize>,
    idle_since: Cell<Instant>,
}

/// One of them, from its request to the end of its answer.
struct Stream(Rc<Streams>);

/// Serves one connection until its caller leaves, or it idles for [`HEAD_WAIT`], or the process drains: then the caller
/// is told to open no more streams (GOAWAY), and what is open is finished.
pub(super) async fn serve(front: impl Front, stream: TcpStream, source: SocketAddr) -> hyper::Result<()> {
    let stop = front.worker().shared.stop.clone();
    let streams = Rc::new(Streams { open: Cell::new(0), idle_since: Cell::new(Instant::now()) });
    let executor = StreamExecutor::default();
    let service = service_fn(|mut request: Request<Incoming>| {
        let (front, stream, give_up) = (front.clone(), Stream::open(&streams), executor.expect_stream());
        async move {
            fields::join_cookies(request.headers_mut());
            let response = front.answer(request, source, &give_up).await;
            Ok::<_, Infallible>(response.map(|outgoing| Answering { outgoing, _stream: stream }))
        }
    });
    let serving = http2::Builder::new(executor.clone())
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(HEADER_LIST_BYTES_MAX)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(SEND_BUFFER_BYTES)
        .max_pending_accept_reset_streams(RESETS_PENDING_MAX)
        .max_local_error_reset_streams(RESETS_BY_ERROR_MAX)
        .keep_alive_interval(PING)
        .keep_alive_timeout(PING)
        .serve_connection(TokioIo::new(stream), service);
    let mut serving = std::pin::pin!(serving);
    tokio::select! {
        biased;
        ended = &mut serving => return ended,
        () = stop.cancelled() => {}
        () = streams.idle(HEAD_WAIT) => {}
    }
    serving.as_mut().graceful_shutdown();
    // A caller may take its time over what is open, but not over the farewell.
    streams.idle_since.set(Instant::now());
    tokio::select! {
        biased;
        ended = &mut serving => ended,
        () = streams.idle(FAREWELL) => Ok(()),
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

/// Runs hyper's tasks on this thread, each stream until it is given up: dropping its task resets the stream, which frees
/// what waits for a reader that takes nothing, and leaves the others of the connection alone.
#[derive(Clone, Default)]
struct StreamExecutor {
    /// Of the stream whose service was called last. hyper hands over its task next.
    expected: Rc<Cell<Option<CancellationToken>>>,
}

impl StreamExecutor {
    /// A token that gives up the stream whose task comes next.
    fn expect_stream(&self) -> CancellationToken {
        let give_up = CancellationToken::new();
        self.expected.set(Some(give_up.clone()));
        give_up
    }
}

impl<F: Future<Output = ()> + 'static> hyper::rt::Executor<F> for StreamExecutor {
    fn execute(&self, task: F) {
        let Some(give_up) = self.expected.take() else { return LocalExecutor.execute(task) };
        LocalExecutor.execute(async move {
            tokio::select! {
                biased;
                () = task => {}
                () = give_up.cancelled() => {}
            }
        });
    }
}

/// The body of an answer; while it lasts, its stream counts as open.
struct Answering {
    outgoing: Outgoing,
    _stream: Stream,
}

impl Body for Answering {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        Pin::new(&mut self.outgoing).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.outgoing.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.outgoing.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use hyper::rt::Executor as _;

    use super::*;

    #[tokio::test(flavor = "local")]
    async fn a_stream_that_is_given_up_ends_and_no_other_does() {
        let executor = StreamExecutor::default();
        let alive = Rc::new(());
        let task = |alive: Rc<()>| async move {
            std::future::pending::<()>().await;
            drop(alive);
        };
        let first = executor.expect_stream();
        executor.execute(task(alive.clone()));
        let _second = executor.expect_stream();
        executor.execute(task(alive.clone()));
        // One of hyper's own.
        executor.execute(task(alive.clone()));
        tokio::task::yield_now().await;
        assert_eq!(Rc::strong_count(&alive), 4);
        first.cancel();
        for _ in 0..3 {
            tokio::task::yield_now().await;
        }
        assert_eq!(Rc::strong_count(&alive), 3);
    }

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
