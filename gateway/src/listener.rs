//! Plain HTTP/1.1 from callers without a sidecar.

use std::convert::Infallible;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::spawn_local;
use tracing::{debug, warn};

use crate::outbound;
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

/// Accepts and serves connections until the process drains; then each ends after the request that it is in.
pub async fn serve(worker: Rc<Worker>, listener: TcpListener) {
    let connections = Arc::new(Semaphore::new(CONNECTIONS_MAX as usize));
    let stop = worker.shared.stop.clone();
    loop {
        // The semaphore is never closed.
        let Ok(permit) = connections.clone().acquire_owned().await else { return };
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, source)) => {
                spawn_local(connection(worker.clone(), stream, source, permit));
            }
            Err(error) => {
                warn!(%error, "Cannot accept a connection.");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn connection(
    worker: Rc<Worker>,
    stream: TcpStream,
    source: std::net::SocketAddr,
    _permit: OwnedSemaphorePermit,
) {
    if let Err(error) = stream.set_nodelay(true) {
        return debug!(%source, %error, "The connection ended before it began.");
    }
    let stop = worker.shared.stop.clone();
    let service = service_fn(|request: Request<Incoming>| {
        let worker = worker.clone();
        async move { Ok::<_, Infallible>(outbound::serve(&worker, request, source).await) }
    });
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_WAIT)
    drop(listener);
    // Every connection holds one.
    let _ = connections.acquire_many(CONNECTIONS_MAX).await;
        .max_buf_size(BUFFER_BYTES)
        .serve_connection(TokioIo::new(stream), service);
    let mut serving = std::pin::pin!(serving);
    let ended = tokio::select! {
        ended = &mut serving => ended,
        () = stop.cancelled() => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = ended {
        debug!(%source, %error, "Connection ended.");
    }
}
