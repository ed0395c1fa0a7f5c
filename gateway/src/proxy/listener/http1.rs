//! HTTP/1.1 connections of callers.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use http::header::SEC_WEBSOCKET_KEY;
use http::{HeaderMap, Request, StatusCode};
use http1::server::{self, Body, Ended, Interim, Io, Options, Refused, Reply, Service, Takeover};
use http1::{HeadError, Limits};
use proto::limits::{HEAD_BYTES_MAX, MESSAGE_FIELDS_MAX};
use registry::model::HttpRules;
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Front, HEAD_WAIT};
use crate::http::body::{BodyError, Incoming};
use crate::http::join::End;
use crate::http::upgrade;
use crate::proxy::connection::carry::Carry;
use crate::proxy::error::{ProxyError, Rejection};
use crate::proxy::outbound::{self, Behind, Caller, Outgoing};
use crate::proxy::worker::Worker;
use crate::telemetry::metrics::{Direction, Outcome};
use crate::telemetry::record::Record;

/// One connection.
struct Connection<F> {
    front: F,
    source: SocketAddr,
    rules: Arc<HttpRules>,
    give_up: CancellationToken,
}

impl<F: Front> Service for Connection<F> {
    type Body = Outgoing;

    async fn call(&self, request: Request<Body>, interim: Interim) -> Reply<Outgoing> {
        let send = |status: StatusCode, headers: &HeaderMap| interim.send(status, headers);
        let caller =
            Caller { source: self.source, rules: &self.rules, give_up: &self.give_up, interim: &send };
        let key = request.headers().get(SEC_WEBSOCKET_KEY).cloned();
        let mut reply = self.front.answer(request.map(Incoming::Http1), caller).await;
        match reply.response.body_mut().take_behind() {
            None => {}
            Some(Behind::Carry(carry)) => {
                if let Some(protocol) = &carry.protocol {
                    let status = upgrade::answer_http1(key.as_ref(), protocol, reply.response.headers_mut());
                    *reply.response.status_mut() = status;
                }
                reply.takeover = Some(carried(*carry));
            }
            Some(Behind::Requests) => {
                let (front, source, rules) = (self.front.clone(), self.source, self.rules.clone());
                reply.takeover = Some(Box::new(move |Io { begun, read, write }| {
                    // Both are of one connection.
                    let Ok(stream) = read.reunite(write) else { return };
                    // Whoever asks for such a connection in such a connection may have it.
                    let serving: Pin<Box<dyn Future<Output = _>>> =
                        Box::pin(serve(front, stream, begun, source, rules));
                    tokio::task::spawn_local(serving);
                }));
            }
        }
        reply
    }

    fn refuse(&self, refused: Refused) -> Reply<Outgoing> {
        let worker = self.front.worker();
        let mut record = Record::begin(Direction::Outbound, &worker.nameless, Instant::now());
        record.ends(Outcome::Malformed);
        outbound::reject(worker, false, rejection(refused), record)
    }
}

/// Carries what comes on the connection from now on.
fn carried(carry: Carry) -> Takeover {
    Box::new(move |Io { begun, read, write }| {
        // Both are of one connection.
        if let Ok(stream) = read.reunite(write) {
            tokio::task::spawn_local(carry.run(End::socket(stream, begun)));
        }
    })
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

/// What holds for connections of a worker where `rules` do.
fn options(worker: &Worker, rules: &HttpRules) -> Options {
    let limits = Limits {
        bytes: rules.head_bytes.map_or(HEAD_BYTES_MAX, |most| most as usize),
        fields: rules.fields.map_or(MESSAGE_FIELDS_MAX, usize::from),
    };
    let leave = worker.shared.leave.clone();
    Options { limits, idle: HEAD_WAIT, timers: worker.timers.clone(), leave }
}

/// Serves one connection, of which `begun` was read already, until its caller leaves, or it idles for [`HEAD_WAIT`], or the process drains: then it ends after
/// the request that it is in.
pub(super) async fn serve(
    front: impl Front,
    stream: TcpStream,
    begun: Bytes,
    source: SocketAddr,
    rules: Arc<HttpRules>,
) -> Result<(), Ended<BodyError>> {
    let stop = front.worker().shared.stop.clone();
    let give_up = CancellationToken::new();
    let options = options(front.worker(), &rules);
    let connection = Connection { front, source, rules, give_up };
    let give_up = connection.give_up.clone();
    tokio::select! {
        biased;
        ended = server::serve(stream, begun, &connection, &options, &stop) => ended,
        // Dropping the connection resets it, and with it what waits for its reader.
        () = give_up.cancelled() => Ok(()),
    }
}
