//! What is no name of the mesh, forwarded as any proxy would: no placement, no retries, no identity.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode};
use http1::server::Reply;
use registry::base::time::Tick;
use registry::model::{Algorithm, HostPort, Port, Protocol, Retry};
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::base::clock::Activity;
use crate::http::body::{Incoming, RequestBody};
use crate::http::fields;
use crate::http::join::End;
use crate::http::message;
use crate::proxy::answer::Answer;
use crate::proxy::connection::carry::Carry;
use crate::proxy::error::{ProxyError, Rejection};
use crate::proxy::outbound::{self, Caller, Outgoing};
use crate::proxy::worker::{REQUESTS_MAX, Worker};
use crate::telemetry::metrics::{Direction, InProgressGuard, Outcome};
use crate::telemetry::record::Record;
use crate::upstream::{self, Allowance, Ask, Served};
use policy::balance::{EndpointSpec, Endpoints, Rule};
use policy::retry::{Failure, replayable_method};

/// How long a connection for CONNECT may take to be made.
const CONNECT_WAIT: Duration = Duration::from_secs(10);
/// How long nothing may move on such a connection, or in an exchange.
const IDLE_MAX: Duration = Duration::from_secs(15 * 60);

/// Forwards a request in plain HTTP/1.1 to the host that it names.
pub(super) async fn forward(
    worker: &Rc<Worker>,
    request: Request<Incoming>,
    caller: Caller<'_>,
) -> Reply<Outgoing> {
    let (mut record, room) = begin(worker, &request);
    let guard = match room {
        Ok(guard) => guard,
        Err(rejection) => return outbound::reject(worker, false, rejection, record),
    };
    let give_up = caller.give_up;
    match answer(worker, request, caller, &mut record).await {
        Ok(answer) => outbound::pass_on(worker, answer, record, guard, IDLE_MAX, give_up),
        Err(rejection) => outbound::reject(worker, false, rejection, record),
    }
}

/// The record of a request, and its room among those in progress if there is any.
fn begin(worker: &Rc<Worker>, request: &Request<Incoming>) -> (Record, Result<InProgressGuard, Rejection>) {
    let shared = &worker.shared;
    let mut record = Record::begin(Direction::Outbound, &worker.nameless, Instant::now());
    record.method(request.method().as_str());
    let room = shared.in_progress.enter(REQUESTS_MAX).ok_or_else(|| {
        record.ends(Outcome::Overloaded);
        Rejection::full(REQUESTS_MAX)
    });
    (record, room)
}

/// The answer of the host. Without us its caller would wait for as long as it takes, so nothing but silence ends it.
async fn answer(
    worker: &Rc<Worker>,
    request: Request<Incoming>,
    caller: Caller<'_>,
    record: &mut Record,
) -> Result<Answer, Rejection> {
    let shared = &worker.shared;
    let (parts, incoming) = request.into_parts();
    let version = parts.version;
    record.ends(Outcome::Malformed);
    let (authority, mut head) = message::request(parts)?;
    let address = address(&authority, 80).ok_or_else(|| malformed(&authority))?;
    if fields::times_through(&head.headers, &shared.name) > 0 {
        record.ends(Outcome::Broken);
        let details = "it has come through here already: the host leads back to this sidecar";
        return Err(Rejection::new(ProxyError::ProxyLoopDetected, details));
    }
    record.ends(Outcome::Cancelled);
    fields::append_via(&mut head.headers, version, &shared.via, &shared.name);

    let activity = Activity::new(record.started());
    record.follows(&activity);
    let body = RequestBody::from_caller(incoming, shared.budget.reservation(), activity.clone());
    let port = somewhere(address);
    // Only where a connection that had served before was closed under it (RFC 9112, section 9.3.1).
    let replayable = replayable_method(head.method.as_str(), false, &Retry::default());
    let expired = Cell::new(false);
    let ask = Ask {
        way: worker.way(&port, None, &expired),
        head: &head,
        body: &body,
        allowance: Allowance { replayable, attempts: 1, connect: CONNECT_WAIT },
        interim: caller.interim,
        stop: &shared.stop,
    };
    let answered = tokio::select! {
        answered = ask.send() => answered,
        () = activity.silent(IDLE_MAX) => Err(Failure::Deadline),
    };
    let answer = answered.map_err(|failure| {
        if let Some(fault) = body.fault() {
            record.ends(Outcome::Malformed);
            return fault.into();
        }
        record.ends(failure.into());
        Rejection::from_failure(failure, &authority)
    })?;
    let mut answer = Answer::from(answer);
    answer.body.take(IDLE_MAX, None, activity);
    outbound::say_protocol(&mut answer, &head);
    Ok(answer)
}

/// Makes a connection for a caller that speaks its own protocol on it (RFC 9110, section 9.3.6), such as TLS.
pub(super) async fn connect(
    worker: &Rc<Worker>,
    request: Request<Incoming>,
    authority: &str,
) -> Reply<Outgoing> {
    debug_assert!(outbound::is_connect(&request));
    let (mut record, room) = begin(worker, &request);
    let guard = match room {
        Ok(guard) => guard,
        Err(rejection) => return outbound::reject(worker, false, rejection, record),
    };
    let stream = match connection(authority, &mut record).await {
        Ok(stream) => stream,
        Err(rejection) => return outbound::reject(worker, false, rejection, record),
    };
    record.status(StatusCode::OK.as_u16());
    outbound::connected(outbound::Behind::Carry(Box::new(Carry {
        served: Served { end: End::socket(stream, Bytes::new()), held: None },
        protocol: None,
        idle: IDLE_MAX,
        idle_answered: None,
        record,
        counted: None,
        ends: worker.shared.ends(),
        drops: worker.shared.drops.clone(),
        guard: Some(guard),
    })))
}

/// A connection to the host that a caller names.
async fn connection(authority: &str, record: &mut Record) -> Result<TcpStream, Rejection> {
    record.ends(Outcome::Malformed);
    // There is no port that could be meant if none is named.
    let address =
        address(authority, 0).filter(|address| address.port != 0).ok_or_else(|| malformed(authority))?;
    record.ends(Outcome::Cancelled);
    upstream::connect(&address, CONNECT_WAIT).await.map_err(|error| {
        let kind = match error {
            upstream::ConnectError::Refused(_) => ProxyError::ConnectionRefused,
            upstream::ConnectError::Unanswered(_) => ProxyError::HttpResponseTimeout,
            upstream::ConnectError::Ours(_) => ProxyError::ProxyInternalError,
        };
        record.ends(Outcome::Unavailable);
        let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}"));
        Rejection::new(kind, format!("{address}: {error}{}", cause.unwrap_or_default()))
    })
}

/// The one endpoint behind an address.
fn somewhere(address: HostPort) -> (Port, Endpoints) {
    let port =
        Port { name: "outside".into(), number: address.port, protocol: Protocol::Http, proxy_header: false };
    let id = address.to_string().into();
    let spec = EndpointSpec { id, address, protocol: Protocol::Http, weight: 1, capacity: None };
    let rule = Rule { algorithm: Algorithm::RoundRobin, ring: None, checked: false, fail_open: false };
    (port, Endpoints::new(rule, [spec], None, Tick::ZERO))
}

/// The host and port of an authority.
fn address(authority: &str, default: u16) -> Option<HostPort> {
    let authority: http::uri::Authority = authority.parse().ok()?;
    if authority.as_str().contains('@') {
        return None;
    }
    let host = authority.host().trim_start_matches('[').trim_end_matches(']').into();
    Some(HostPort { host, port: authority.port_u16().unwrap_or(default) })
}

fn malformed(authority: &str) -> Rejection {
    Rejection::new(ProxyError::HttpRequestError, format!("`{authority}` is no host and port"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn an_authority_is_a_host_and_perhaps_a_port() {
        let read = |text: &str| address(text, 80).map(|a| (a.host, a.port));
        assert_eq!(read("example.com"), Some(("example.com".into(), 80)));
        assert_eq!(read("example.com:8080"), Some(("example.com".into(), 8080)));
        assert_eq!(read("[::1]:81"), Some(("::1".into(), 81)));
        assert_eq!(read("user@example.com"), None);
        assert_eq!(read("a b"), None);
    }
}
