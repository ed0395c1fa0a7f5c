//! Streams on one byte stream: what makes a tunnel of TLS on TCP, or on a Unix socket.
//!
//! The frames are those of [`proto::mux`], not HTTP/2's, for three reasons. A tunnel is symmetric, and an HTTP/2 server
//! opens no streams: it would take a pair of connections with opposite roles, matched by a token, and two deaths to
//! notice. An exchange ends each half on its own, and HTTP/2's RST_STREAM ends both: a reader that stops would cut the
//! answer. And probes, and the code of a close, would need streams of their own. What is said of streams here is what QUIC
//! does: [`crate::carrier`] tells no difference.
//!
//! | what | limit | when it is full |
//! |---|---|---|
//! | streams of one side | [`STREAMS_MAX`](proto::limits::STREAMS_MAX), counted until both halves ended on the wire | `open` says busy; a peer that opens more breaks the protocol |
//! | unread data | 4 MiB for a stream, 256 MiB for a connection | the writer waits; a peer that sends more breaks the protocol |
//! | unread data over all connections of a peer | its [account](crate::Account) | what holds most of it on the connection is given up |
//! | data that waits for the socket | 256 KiB of small exchanges, as much of bulk | the writer waits, in turn |
//! | answers to a peer that reads nothing | some 65,000 frames; one pong | the connection is closed |
//! | datagrams, in and out | 16 | dropped |
//! | silence | 3 s, with a ping each second | the connection is over |

mod driver;
mod state;
#[cfg(test)]
mod tests;

use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use proto::code::{CloseCode, Code};
use proto::limits::TUNNEL_UNREAD_BYTES_MAX;
use proto::mux::{self, StreamId};
use rustls::pki_types::CertificateDer;
use tokio::sync::{Notify, Semaphore, SemaphorePermit, watch};

use crate::account::Account;
use crate::error::{CloseReason, TunnelError};
use state::{Closed, State};

pub(crate) use driver::run;

/// Data of one class that waits for the socket: what a fast path takes in a few milliseconds, so that little is in front
/// of a small exchange.
const ROOM_BYTES: usize = 256 * 1024;

/// A connection; the last handle that goes, streams included, closes it.
#[derive(Clone, Debug)]
pub(crate) struct Connection(Arc<Handle>);

/// Our half of a stream. Dropped before its end, it resets the stream.
#[derive(Debug)]
pub(crate) struct MuxSend {
    connection: Connection,
    id: StreamId,
}

/// The peer's half of a stream. Dropped before its end, it stops the stream.
#[derive(Debug)]
pub(crate) struct MuxRecv {
    connection: Connection,
    id: StreamId,
}

#[derive(Debug)]
struct Handle(Arc<Inner>);

/// What the handles and the task that owns the socket share.
#[derive(Debug)]
pub(crate) struct Inner {
    /// Short sections without await.
    state: Mutex<State>,
    /// Something is to be written.
    outgoing: Notify,
    /// Bytes that the peer takes on the connection.
    credit: Semaphore,
    /// Bytes that may still wait for the socket, by class.
    room: [Semaphore; 2],
    /// Frames received.
    heard: AtomicU64,
    rtt_us: AtomicU64,
    /// The start of the clock that pings carry.
    epoch: Instant,
    /// How the connection ended, and what is said to the peer if it was here.
    end: watch::Sender<Option<CloseReason>>,
    farewell: Mutex<Option<(CloseCode, String)>>,
    certificates: Vec<CertificateDer<'static>>,
}

impl Connection {
    /// A connection whose handshake is done, took `rtt` for a round trip and proved `certificates`; [`run`] with the
    /// other part makes it live.
    pub(crate) fn new(
        dialled: bool,
        rtt: Duration,
        certificates: Vec<CertificateDer<'static>>,
    ) -> (Self, Arc<Inner>) {
        let inner = Arc::new(Inner {
            state: Mutex::new(State::new(dialled)),
            outgoing: Notify::new(),
            credit: Semaphore::new(TUNNEL_UNREAD_BYTES_MAX),
            room: [Semaphore::new(ROOM_BYTES), Semaphore::new(ROOM_BYTES)],
            heard: AtomicU64::new(0),
            rtt_us: AtomicU64::new(micros(rtt)),
            epoch: Instant::now(),
            end: watch::Sender::new(None),
            farewell: Mutex::default(),
            certificates,
        });
        (Self(Arc::new(Handle(inner.clone()))), inner)
    }

    fn inner(&self) -> &Inner {
        &self.0.0
    }

    pub(crate) fn rtt(&self) -> Duration {
        Duration::from_micros(self.inner().rtt_us.load(Ordering::Relaxed))
    }

    pub(crate) fn heard(&self) -> u64 {
        self.inner().heard.load(Ordering::Relaxed)
    }

    pub(crate) fn peer_certificates(&self) -> Vec<CertificateDer<'static>> {
        self.inner().certificates.clone()
    }

    /// From now on what is unread counts on `account`.
    pub(crate) fn share(&self, account: &Arc<Account>) {
        self.inner().state().share(account.clone());
        // What was given up for want of room is told.
        self.inner().outgoing.notify_one();
    }

    pub(crate) fn open(&self) -> Result<(u64, MuxSend, MuxRecv), TunnelError> {
        if let Some(reason) = self.close_reason() {
            return Err(TunnelError::Down(reason));
        }
        let id = self.inner().state().open().ok_or(TunnelError::Busy)?;
        self.inner().outgoing.notify_one();
        Ok(self.halves(id))
    }

    pub(crate) async fn accept(&self) -> Result<(u64, MuxSend, MuxRecv), CloseReason> {
        match std::future::poll_fn(|cx| self.inner().state().poll_accept(cx)).await {
            Some(id) => {
                // One that was stopped meanwhile is ended now.
                self.inner().outgoing.notify_one();
                Ok(self.halves(id))
            }
            None => Err(self.inner().reason()),
        }
    }

    fn halves(&self, id: StreamId) -> (u64, MuxSend, MuxRecv) {
        (id.index(), MuxSend { connection: self.clone(), id }, MuxRecv { connection: self.clone(), id })
    }

    pub(crate) fn send_datagram(&self, data: Bytes) -> Result<(), TunnelError> {
        if let Some(reason) = self.close_reason() {
            return Err(TunnelError::Down(reason));
        }
        self.inner().state().send_datagram(data);
        self.inner().outgoing.notify_one();
        Ok(())
    }

    pub(crate) async fn read_datagram(&self) -> Result<Bytes, CloseReason> {
        let read = std::future::poll_fn(|cx| self.inner().state().poll_datagram(cx)).await;
        read.ok_or_else(|| self.inner().reason())
    }

    pub(crate) fn close(&self, code: CloseCode, reason: &str) {
        self.inner().close(code, reason, CloseReason::here());
    }

    pub(crate) async fn closed(&self) -> CloseReason {
        self.inner().closed().await
    }

    pub(crate) fn close_reason(&self) -> Option<CloseReason> {
        self.inner().end.borrow().clone()
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.0.close(CloseCode::Shutdown, "nobody holds the tunnel any more", CloseReason::here());
    }
}

impl Inner {
    /// A lock whose holder panicked guards what nobody trusts any more; the connection's silence ends it.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn closed(&self) -> CloseReason {
        // `self` holds the sender.
        let mut end = self.end.subscribe();
        let ended = end.wait_for(Option::is_some).await;
        ended.ok().and_then(|reason| reason.clone()).unwrap_or_else(CloseReason::here)
    }

    fn reason(&self) -> CloseReason {
        self.end.borrow().clone().unwrap_or_else(CloseReason::here)
    }

    /// Ends the connection, and tells the peer `code` and `text`; for us it ended by `reason`.
    fn close(&self, code: CloseCode, text: &str, reason: CloseReason) {
        let mut farewell = self.farewell.lock().unwrap_or_else(PoisonError::into_inner);
        if self.end.borrow().is_none() {
            *farewell = Some((code, text.to_owned()));
            self.finish(reason);
        }
    }

    /// Ends the connection by `reason`, the first one given.
    fn finish(&self, reason: CloseReason) {
        let first = self.end.send_if_modified(|end| {
            let first = end.is_none();
            end.get_or_insert(reason);
            first
        });
        if first {
            self.state().finish();
            self.credit.close();
            self.room.iter().for_each(Semaphore::close);
        }
    }

    /// The microseconds of the clock that pings carry.
    fn clock(&self) -> u64 {
        micros(self.epoch.elapsed())
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

impl MuxSend {
    /// Writes all of `chunk`, waiting for the windows and for room in front of the socket.
    pub(crate) async fn write(&mut self, mut chunk: Bytes) -> Result<(), TunnelError> {
        let inner = self.connection.inner();
        while !chunk.is_empty() {
            let take = std::future::poll_fn(|cx| inner.state().poll_credit(self.id, chunk.len(), cx)).await;
            let take = take.map_err(|closed| self.error(closed))?;
            let class = inner.state().class(self.id);
            let credit = self.permit(&inner.credit, mux::cost(take)).await?;
            let room = self.permit(&inner.room[class as usize], mux::cost(take)).await?;
            inner.state().write(self.id, class, chunk.split_to(take)).map_err(|closed| self.error(closed))?;
            credit.forget();
            room.forget();
            inner.outgoing.notify_one();
        }
        Ok(())
    }

    /// Waits in turn for `bytes`, unless the peer stops the stream.
    async fn permit<'a>(&self, of: &'a Semaphore, bytes: usize) -> Result<SemaphorePermit<'a>, TunnelError> {
        // One frame at the most.
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        if let Ok(permit) = of.try_acquire_many(bytes) {
            return Ok(permit);
        }
        let permit = tokio::select! {
            biased;
            permit = of.acquire_many(bytes) => permit.ok(),
            () = self.stopped() => None,
        };
        permit.ok_or_else(|| {
            let closed = self.connection.inner().state().why_closed(self.id);
            self.error(closed)
        })
    }

    fn error(&self, closed: Closed) -> TunnelError {
        match closed {
            Closed::Stopped(code) => TunnelError::Reset(code),
            Closed::Ended => TunnelError::Protocol("written after its end".into()),
            Closed::Over => TunnelError::Lost(self.connection.inner().reason()),
        }
    }

    pub(crate) fn finish(&mut self) {
        self.end(None);
    }

    pub(crate) fn reset(&mut self, code: Code) {
        self.end(Some(code));
    }

    fn end(&self, reset: Option<Code>) {
        self.connection.inner().state().end(self.id, reset);
        self.connection.inner().outgoing.notify_one();
    }

    pub(crate) fn stopped(&self) -> impl Future<Output = ()> + use<> {
        let (connection, id) = (self.connection.clone(), self.id);
        std::future::poll_fn(move |cx| connection.inner().state().poll_stopped(id, cx))
    }

    pub(crate) fn lower_priority(&mut self) {
        self.connection.inner().state().lower(self.id);
    }
}

impl Drop for MuxSend {
    fn drop(&mut self) {
        self.end(Some(Code::Cancelled));
        self.connection.inner().state().drop_half(self.id, true);
    }
}

impl MuxRecv {
    pub(crate) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        max: usize,
    ) -> Poll<Result<Option<Bytes>, TunnelError>> {
        let inner = self.connection.inner();
        let read = {
            let mut state = inner.state();
            let before = state.has_control();
            let read = ready!(state.poll_read(self.id, max, cx));
            if !before && state.has_control() {
                inner.outgoing.notify_one();
            }
            read
        };
        Poll::Ready(match read {
            Some(Ok(bytes)) => Ok(bytes),
            Some(Err(code)) => Err(TunnelError::Reset(code)),
            None => Err(TunnelError::Lost(inner.reason())),
        })
    }

    pub(crate) fn stop(&mut self, code: Code) {
        self.connection.inner().state().stop(self.id, code);
        self.connection.inner().outgoing.notify_one();
    }
}

impl Drop for MuxRecv {
    fn drop(&mut self) {
        self.stop(Code::Cancelled);
        self.connection.inner().state().drop_half(self.id, false);
    }
}
