//! HTTP/1.1 connections of callers.

use std::net::SocketAddr;
use std::rc::Rc;

use http::{HeaderMap, Request, StatusCode};
use http1::server::{self, Body, Ended, Interim, Options, Refused, Reply, Service};
use http1::{HeadError, Limits};
use proto::limits::{HEAD_BYTES_MAX, MESSAGE_FIELDS_MAX};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Front, HEAD_WAIT};
use crate::http::body::{BodyError, Incoming};
use crate::proxy::error::{ProxyError, Rejection};
use crate::proxy::outbound::{self, Caller, Outgoing};
use crate::proxy::worker::Worker;
use crate::telemetry::metrics::{Direction, Outcome};
use crate::telemetry::record::Record;

/// One connection.
struct Connection<F> {
    front: F,
    source: SocketAddr,
    give_up: CancellationToken,
}

impl<F: Front> Service for Connection<F> {
    type Body = Outgoing;

    async fn call(&self, request: Request<Body>, interim: Interim) -> Reply<Outgoing> {
        let send = |status: StatusCode, headers: &HeaderMap| interim.send(status, headers);
        let caller = Caller { source: self.source, give_up: &self.give_up, interim: &send };
        self.front.answer(request.map(Incoming::Http1), caller).await
    }

    fn refuse(&self, refused: Refused) -> Reply<Outgoing> {
        let worker = self.front.worker();
        let mut record = Record::begin(Direction::Outbound, &worker.nameless, Instant::now());
        record.ends(Outcome::Malformed);
        outbound::reject(worker, false, rejection(refused), record)
    }
}

/// What a caller is told whose request is none.
fn rejection(refused: Refused) -> Rejection {
    let details = match refused {
        Refused::Head(HeadError::TooLarge(_) | HeadError::TooManyFields(_)) => {
            format!("{refused}; send fewer or shorter header fields")
        }
        _ => refused.to_string(),
    };
    let error = match refused.status() {
        StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => ProxyError::HttpRequestHeadTooLarge,
        StatusCode::REQUEST_TIMEOUT => ProxyError::ConnectionReadTimeout,
        StatusCode::BAD_REQUEST => ProxyError::HttpRequestError,
        status => ProxyError::HttpNotImplemented(status),
    };
    Rejection::new(error, details)
}

/// What holds for all connections of a worker.
pub(super) fn options(worker: &Worker) -> Options {
    let limits = Limits { bytes: HEAD_BYTES_MAX, fields: MESSAGE_FIELDS_MAX };
    Options { limits, idle: HEAD_WAIT, timers: worker.timers.clone() }
}

/// Serves one connection until its caller leaves, or it idles for [`HEAD_WAIT`], or the process drains: then it ends after
/// the request that it is in.
pub(super) async fn serve(
    front: impl Front,
    stream: TcpStream,
    source: SocketAddr,
    options: Rc<Options>,
) -> Result<(), Ended<BodyError>> {
    let stop = front.worker().shared.stop.clone();
    let connection = Connection { front, source, give_up: CancellationToken::new() };
    let give_up = connection.give_up.clone();
    tokio::select! {
        biased;
        ended = server::serve(stream, &connection, &options, &stop) => ended,
        // Dropping the connection resets it, and with it what waits for its reader.
        () = give_up.cancelled() => Ok(()),
    }
}
