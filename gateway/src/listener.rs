//! HTTP from callers, of a gateway or of a sidecar: HTTP/1.1 and, by prior knowledge (RFC 9113, section 3.3), HTTP/2 on one port.

mod http2;

use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, ready};
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{Interest, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::spawn_local;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::outbound::{self, Outgoing};
use crate::worker::Worker;

/// Client connections of one worker; more wait in the kernel's accept queue.
const CONNECTIONS_MAX: u32 = 20_000;
/// A head must be whole, and an idle connection used again, within this time.
const HEAD_WAIT: Duration = Duration::from_secs(75);
/// Buffer per connection: twice the largest head, so that the answer to one that is too large is ours (431 with
/// `Proxy-Status`), and hyper's only beyond that.
const BUFFER_BYTES: usize = 2 * proto::limits::HEAD_BYTES_MAX;
/// Pause after an accept that failed for want of file descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How a connection begins that speaks HTTP/2 (RFC 9113, section 3.4). `PRI` is reserved so that no request of
/// HTTP/1.1 begins like this (section 11.6): these bytes are enough to tell.
const PREFACE: &[u8] = b"PRI ";

/// Who answers what a listener takes.
pub trait Front: Clone + 'static {
    /// The thread that it runs on.
    fn worker(&self) -> &Rc<Worker>;

    /// Answers one request of a caller at `source`. `give_up` is cancelled when the caller does not take the answer: the
    /// connection is to be closed then.
    fn answer(
        &self,
        request: Request<Incoming>,
        source: SocketAddr,
        give_up: &CancellationToken,
    ) -> impl Future<Output = Response<Outgoing>>;
}

/// A gateway's: every request is for a name of the mesh.
impl Front for Rc<Worker> {
    fn worker(&self) -> &Rc<Worker> {
        self
    }

    async fn answer(
        &self,
        request: Request<Incoming>,
        source: SocketAddr,
        give_up: &CancellationToken,
    ) -> Response<Outgoing> {
        outbound::serve(self, request, source, give_up).await
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
    let connections = Arc::new(Semaphore::new(CONNECTIONS_MAX as usize));
    let stop = front.worker().shared.stop.clone();
    loop {
        // The semaphore is never closed.
        let Ok(permit) = connections.clone().acquire_owned().await else { return };
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, source)) => {
                spawn_local(connection(front.clone(), stream, source, permit));
            }
            Err(error) => {
                warn!(%error, "Cannot accept a connection.");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    // Every connection holds one.
    let _ = connections.acquire_many(CONNECTIONS_MAX).await;
}

async fn connection(front: impl Front, stream: TcpStream, source: SocketAddr, _permit: OwnedSemaphorePermit) {
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
        Err(error) => return debug!(%source, %error, "The connection ended before it began."),
    };
    let ended = match version {
        Version::Http1 => serve_http1(front, stream, source).await,
        Version::Http2 => http2::serve(front, stream, source).await,
    };
    if let Err(error) = ended {
        debug!(%source, %error, "Connection ended.");
    }
}

async fn serve_http1(front: impl Front, stream: TcpStream, source: SocketAddr) -> hyper::Result<()> {
    let stop = front.worker().shared.stop.clone();
    let give_up = CancellationToken::new();
    let service = service_fn(|request: Request<Incoming>| {
        let (front, give_up) = (front.clone(), give_up.clone());
        async move { Ok::<_, Infallible>(front.answer(request, source, &give_up).await) }
    });
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_WAIT)
        .max_buf_size(BUFFER_BYTES)
        .serve_connection(TokioIo::new(stream), service)
        // A sidecar may be asked for a connection (CONNECT); whoever does not take it has none.
        .with_upgrades();
    let mut serving = std::pin::pin!(serving);
    tokio::select! {
        ended = &mut serving => return ended,
        // Dropping the connection resets it, and with it what waits for its reader.
        () = give_up.cancelled() => return Ok(()),
        () = stop.cancelled() => serving.as_mut().graceful_shutdown(),
    }
    tokio::select! {
        ended = serving => ended,
        () = give_up.cancelled() => Ok(()),
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
