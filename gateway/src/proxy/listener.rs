//! HTTP from callers, of a gateway or of a sidecar: HTTP/1.1 and, by prior knowledge (RFC 9113, section 3.3), HTTP/2 on one port.

mod http1;
mod http2;

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::task::{Poll, ready};
use std::time::Duration;

use ::http1::server::{Options, Reply};
use http::Request;
use tokio::io::{Interest, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::task::TaskTracker;
use tracing::debug;

use crate::http::body::Incoming;
use crate::proxy::outbound::{self, Caller, Outgoing};
use crate::proxy::worker::{Room, Worker};
use crate::telemetry::limited::limited;
use crate::upstream;

/// Client connections of a process, if its descriptors allow so many; more wait in the kernel's accept queue.
const CONNECTIONS_MAX: usize = 20_000;
/// Descriptors that client connections leave for everything else.
const DESCRIPTORS_KEPT: u64 = 128;
/// The least that is served, whatever the limit of descriptors is.
const CONNECTIONS_LEAST: usize = 16;
/// While a connection waits for room, another idle one makes way after so long.
const ROOM_PAUSE: Duration = Duration::from_millis(20);
/// A head must be whole, and an idle connection used again, within this time.
const HEAD_WAIT: Duration = Duration::from_secs(75);
/// Pause after an accept that failed for want of file descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How a connection begins that speaks HTTP/2 (RFC 9113, section 3.4). `PRI` is reserved so that no request of
/// HTTP/1.1 begins like this (section 11.6): these bytes are enough to tell.
const PREFACE: &[u8] = b"PRI ";

/// How many client connections a process may hold that may have so many descriptors open: most of them, for many callers
/// are idle, and those that are not share connections to endpoints or need one each.
pub fn connections_max(descriptors: u64) -> usize {
    let room = descriptors.saturating_sub(DESCRIPTORS_KEPT) / 4 * 3;
    let room = usize::try_from(room).unwrap_or(usize::MAX);
    room.clamp(CONNECTIONS_LEAST, CONNECTIONS_MAX)
}

/// Who answers what a listener takes.
pub trait Front: Clone + 'static {
    /// The thread that it runs on.
    fn worker(&self) -> &Rc<Worker>;

    /// Answers one request.
    fn answer(&self, request: Request<Incoming>, caller: Caller<'_>)
    -> impl Future<Output = Reply<Outgoing>>;
}

/// A gateway's: every request is for a name of the mesh.
impl Front for Rc<Worker> {
    fn worker(&self) -> &Rc<Worker> {
        self
    }

    async fn answer(&self, request: Request<Incoming>, caller: Caller<'_>) -> Reply<Outgoing> {
        outbound::serve(self, request, caller).await
    }
}

/// What a connection speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    Http1,
    Http2,
}

/// Accepts and serves connections until the process drains; then each ends after the requests that it is in, and this
/// after the last of them.
pub async fn serve(front: impl Front, listener: TcpListener) {
    let worker = front.worker().clone();
    let stop = worker.shared.stop.clone();
    let options = Rc::new(http1::options(&worker));
    let connections = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            () = worker.shared.callers.wanted.notified() => {
                worker.timers.expire_oldest();
                continue;
            }
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, source)) => {
                let permit = tokio::select! {
                    () = stop.cancelled() => break,
                    permit = room(&worker) => permit,
                };
                let Some(permit) = permit else { return };
                let served = connection(front.clone(), stream, source, options.clone(), permit);
                connections.spawn_local(served);
            }
            // What is accepted needs a connection to an endpoint, and more than it can be served would be refused.
            Err(error) if upstream::is_ours(&error) => {
                limited!(WARN, STRANGERS, "", "Cannot accept a connection of a caller.", %error);
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
            Err(error) => debug!(%error, "Connection closed before it was accepted."),
        }
        worker.pool.recovered().await;
    }
    drop(listener);
    connections.close();
    connections.wait().await;
}

/// Room for one more connection. Where there is none, those that have idled for longest make way: their callers open
/// another when they need it.
async fn room(worker: &Worker) -> Option<OwnedSemaphorePermit> {
    let Room { left, wanted } = &worker.shared.callers;
    loop {
        if let Ok(permit) = left.clone().try_acquire_owned() {
            return Some(permit);
        }
        if !worker.timers.expire_oldest() {
            // Others may have some.
            wanted.notify_waiters();
        }
        if let Ok(permit) = tokio::time::timeout(ROOM_PAUSE, left.clone().acquire_owned()).await {
            // Closed it never is.
            return permit.ok();
        }
    }
}

async fn connection(
    front: impl Front,
    stream: TcpStream,
    source: SocketAddr,
    options: Rc<Options>,
    _permit: OwnedSemaphorePermit,
) {
    let stop = front.worker().shared.stop.clone();
    let version = tokio::select! {
        biased;
        version = tokio::time::timeout(HEAD_WAIT, version(&stream)) => version,
        // Nothing was asked yet.
        () = stop.cancelled() => return,
    };
    let version = version.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
    let version = match version.and_then(|version| stream.set_nodelay(true).map(|()| version)) {
        Ok(version) => version,
        Err(error) => return debug!(%source, %error, "Connection ended before the first request."),
    };
    match version {
        Version::Http1 => {
            if let Err(error) = http1::serve(front, stream, source, options).await {
                debug!(%source, error = &error as &dyn std::error::Error, "Connection ended.");
            }
        }
        Version::Http2 => {
            if let Err(error) = http2::serve(front, stream, source).await {
                debug!(%source, %error, "Connection ended.");
            }
        }
    }
}

/// Looks at the first bytes of a connection and leaves them there.
async fn version(stream: &TcpStream) -> io::Result<Version> {
    poll_fn(|cx| {
        loop {
            let mut bytes = [0; PREFACE.len()];
            let mut bytes = ReadBuf::new(&mut bytes);
            let count = ready!(stream.poll_peek(cx, &mut bytes))?;
            let seen = bytes.filled();
            if !PREFACE.starts_with(seen) || count == 0 {
                return Poll::Ready(Ok(Version::Http1));
            }
            if count == PREFACE.len() {
                return Poll::Ready(Ok(Version::Http2));
            }
            // The rest is still under way. What is here was looked at: only news shall wake this task. The next look
            // finds the socket not ready and waits.
            let looked_at =
                stream.try_io(Interest::READABLE, || Err::<(), _>(io::ErrorKind::WouldBlock.into()));
            debug_assert!(looked_at.is_err());
        }
    })
    .await
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::net::Ipv4Addr;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (client, server) = tokio::join!(TcpStream::connect(address), listener.accept());
        (client.unwrap(), server.unwrap().0)
    }

    #[tokio::test]
    async fn the_first_bytes_tell_and_stay() {
        for (sent, expected) in [
            (&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], Version::Http2),
            (b"GET / HTTP/1.1\r\n\r\n", Version::Http1),
            (b"PRINT / HTTP/1.1\r\n\r\n", Version::Http1),
            (b"POST / HTTP/1.1\r\n\r\n", Version::Http1),
        ] {
            let (mut client, mut server) = pair().await;
            client.write_all(sent).await.unwrap();
            assert_eq!(version(&server).await.unwrap(), expected);
            let mut read = vec![0; sent.len()];
            server.read_exact(&mut read).await.unwrap();
            assert_eq!(read, sent);
        }
    }

    #[tokio::test]
    async fn a_preface_in_crumbs_is_waited_for() {
        for (rest, expected) in [(&b"RI * HTTP/2.0"[..], Version::Http2), (b"UT / HTTP/1.1", Version::Http1)]
        {
            let (mut client, server) = pair().await;
            client.write_all(b"P").await.unwrap();
            let mut looking = std::pin::pin!(version(&server));
            // One byte says nothing, and looking at it again and again would say no more.
            server.readable().await.unwrap();
            assert!(tokio::time::timeout(Duration::from_millis(20), &mut looking).await.is_err());
            client.write_all(rest).await.unwrap();
            assert_eq!(looking.await.unwrap(), expected);
        }
    }

    #[tokio::test]
    async fn a_connection_that_ends_at_once_is_no_http2() {
        let (client, server) = pair().await;
        drop(client);
        assert_eq!(version(&server).await.unwrap(), Version::Http1);
    }
}
