//! What is no name of the mesh, forwarded as any proxy would: no placement, no retries, no identity.

use std::rc::Rc;
use std::time::Duration;

use http::header::{HOST, HeaderValue};
use http::{Request, Response, StatusCode, Uri};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use registry::model::{Algorithm, HostPort, Port, Protocol, Timeout};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tracing::debug;

use crate::answer::{Answer, AnswerBody};
use crate::balance::{EndpointSpec, Endpoints, Rule};
use crate::body::RequestBody;
use crate::clock::Activity;
use crate::endpoint::{self, Allowance, RequestHead};
use crate::error::{ProxyError, Rejection};
use crate::fields;
use crate::metrics::{InProgressGuard, Outcome};
use crate::outbound::{self, Outgoing};
use crate::retry::Failure;
use crate::worker::{REQUESTS_MAX, Worker};

/// How long a connection for CONNECT may take to be made.
const CONNECT_WAIT: Duration = Duration::from_secs(10);
/// How long nothing may move on such a connection.
const IDLE_MAX: Duration = Duration::from_secs(15 * 60);
/// Bytes read at once from either side of it.
const CHUNK_BYTES: usize = 16 * 1024;

/// Forwards a request in plain HTTP/1.1 to the host that it names.
pub(super) async fn forward(
    worker: &Rc<Worker>,
    request: Request<Incoming>,
    authority: &str,
) -> Response<Outgoing> {
    let shared = &worker.shared;
    let Some(guard) = shared.in_progress.enter(REQUESTS_MAX) else { return full(worker) };
    let Some(address) = address(authority, 80) else { return malformed(worker, authority) };
    let (parts, incoming) = request.into_parts();
    if via_us(&parts.headers, &shared.name) {
        let details = "it has come through here already: the host leads back to this sidecar";
        return reject(worker, Rejection::new(ProxyError::DestinationUnavailable, details));
    }
    let mut headers = parts.headers;
    fields::strip_hop_by_hop(&mut headers);
    fields::append_via(&mut headers, parts.version, &shared.via, &shared.name);
    if let Ok(host) = HeaderValue::from_str(authority) {
        headers.insert(HOST, host);
    }
    let path = parts.uri.path_and_query().map_or("/", |p| p.as_str());
    let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
    let target = Uri::try_from(path).unwrap_or_else(|_| Uri::from_static("/"));
    let head = RequestHead { method: parts.method, target, headers };

    let started = Instant::now();
    let activity = Activity::new(started);
    let body = RequestBody::from_http(incoming, shared.budget.reservation(), activity.clone());
    let (port, timeout) = (somewhere(address), Timeout::default());
    let once = Allowance { replayable: false, attempts: 1 };
    let call = endpoint::call(&worker.pool, &port, &shared.clock, &head, &body, None, once);
    let answered = tokio::select! {
        answered = call => answered,
        () = too_slow(&body, started, &activity, &timeout) => Err(Failure::Deadline),
    };
    match answered {
        Ok(answer) => {
            let mut answer = Answer::from(answer);
            answer.body.limit(timeout.idle, None, activity);
            outbound::pass_on(answer, shared.nameless.clone(), Some(guard))
        }
        Err(failure) => reject(worker, Rejection::from_failure(failure, &authority)),
    }
}

/// Ends when the answer's head is overdue, or nothing moves.
async fn too_slow(body: &RequestBody, started: Instant, activity: &Activity, timeout: &Timeout) {
    loop {
        let ended = body.ended_at(started);
        let due = ended.map_or(activity.last() + timeout.idle, |ended| ended + timeout.head);
        if due <= Instant::now() {
            return;
        }
        tokio::time::sleep_until(due).await;
    }
}

/// Makes a connection for a caller that speaks its own protocol on it (RFC 9110, section 9.3.6), such as TLS.
pub(super) async fn connect(
    worker: &Rc<Worker>,
    request: Request<Incoming>,
    authority: &str,
) -> Response<Outgoing> {
    let shared = &worker.shared;
    let Some(guard) = shared.in_progress.enter(REQUESTS_MAX) else { return full(worker) };
    // There is no port that could be meant if none is named.
    let Some(address) = address(authority, 0).filter(|address| address.port != 0) else {
        return malformed(worker, authority);
    };
    let connecting = TcpStream::connect((&*address.host, address.port));
    let stream = match tokio::time::timeout(CONNECT_WAIT, connecting).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            let details = format!("{address}: {error}");
            return reject(worker, Rejection::new(ProxyError::ConnectionRefused, details));
        }
        Err(_) => {
            let details = format!("{address}: no connection within {CONNECT_WAIT:?}");
            return reject(worker, Rejection::new(ProxyError::HttpResponseTimeout, details));
        }
    };
    // Small records of TLS shall not wait for each other; without it they are slow, and right.
    let _ = stream.set_nodelay(true);
    let upgrade = hyper::upgrade::on(request);
    let cut = shared.cut.clone();
    tokio::task::spawn_local(async move {
        tokio::select! {
            () = relay(upgrade, stream, guard) => {}
            () = cut.cancelled() => {}
        }
    });
    let answer = Answer {
        status: StatusCode::OK,
        headers: http::HeaderMap::new(),
        body: AnswerBody::whole(bytes::Bytes::new()),
    };
    outbound::pass_on(answer, shared.nameless.clone(), None)
}

/// Moves bytes both ways until both sides have ended, one fails, or nothing moves for too long.
async fn relay(upgrade: OnUpgrade, stream: TcpStream, _guard: InProgressGuard) {
    let Ok(caller) = upgrade.await else { return };
    let (from_caller, to_caller) = tokio::io::split(TokioIo::new(caller));
    let (from_server, to_server) = stream.into_split();
    let activity = Activity::new(Instant::now());
    let both = async {
        tokio::join!(copy(from_caller, to_server, &activity), copy(from_server, to_caller, &activity));
    };
    let idle = async {
        while activity.last() + IDLE_MAX > Instant::now() {
            tokio::time::sleep_until(activity.last() + IDLE_MAX).await;
        }
    };
    tokio::select! {
        () = both => {}
        () = idle => debug!("Cut a connection on which nothing moved."),
    }
}

async fn copy(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, activity: &Activity) {
    let mut chunk = vec![0; CHUNK_BYTES];
    while let Ok(count) = from.read(&mut chunk).await {
        if count == 0 || to.write_all(&chunk[..count]).await.is_err() {
            break;
        }
        activity.touch();
    }
    // The other direction may go on; one that failed ends by itself.
    let _ = to.shutdown().await;
}

/// The one endpoint behind an address.
fn somewhere(address: HostPort) -> (Port, Endpoints) {
    let port = Port { name: "outside".into(), number: address.port, protocol: Protocol::Http };
    let spec = EndpointSpec { id: address.to_string().into(), address, weight: 1, capacity: None };
    let rule = Rule { algorithm: Algorithm::RoundRobin, ring: None, checked: false };
    (port, Endpoints::new(rule, [spec], None, 0))
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

/// Whether `Via` names us (RFC 9110, section 7.6.3).
fn via_us(headers: &http::HeaderMap, name: &str) -> bool {
    let named = |value: &HeaderValue| {
        let mut stops = value.to_str().unwrap_or_default().split(',');
        stops.any(|stop| stop.split_whitespace().nth(1) == Some(name))
    };
    headers.get_all(http::header::VIA).iter().any(named)
}

fn full(worker: &Rc<Worker>) -> Response<Outgoing> {
    let details = format!("this sidecar serves {REQUESTS_MAX} requests at once and no more");
    reject(worker, Rejection::new(ProxyError::ConnectionLimitReached, details))
}

fn malformed(worker: &Rc<Worker>, authority: &str) -> Response<Outgoing> {
    let details = format!("`{authority}` is no host and port");
    reject(worker, Rejection::new(ProxyError::HttpRequestError, details))
}

fn reject(worker: &Rc<Worker>, rejection: Rejection) -> Response<Outgoing> {
    outbound::reject(worker, false, rejection, &worker.shared.nameless, Outcome::Unavailable)
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

    #[test]
    fn a_request_that_comes_back_is_known_by_its_way() {
        let mut headers = http::HeaderMap::new();
        headers.append("via", HeaderValue::from_static("1.1 other, 2 west.gateway"));
        assert!(!via_us(&headers, "west.sidecar"));
        headers.append("via", HeaderValue::from_static("1.1 a,1.1 west.sidecar"));
        assert!(via_us(&headers, "west.sidecar"));
    }
}
