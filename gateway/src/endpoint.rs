//! The way to an instance of a service on this side: connections of one worker, pooled with HTTP/1.1 and shared with
//! HTTP/2.

mod multiplex;
mod pool;

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, HOST, HeaderValue, TE, TRANSFER_ENCODING};
use http::uri::{Authority, Scheme};
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri};
use http_body::{Body, Frame};
use hyper::body::Incoming;
use registry::model::{Port, Protocol};

use crate::audit;
use crate::balance::{Change, EndpointState, Endpoints, InFlight};
use crate::body::{BodyError, RequestBody};
use crate::clock::Clock;
use crate::retry::Failure;
use crate::{fields, grpc};

pub use pool::Pool;
use pool::{Reuse, SendError};

/// Runs hyper's tasks on the thread that started them: nothing of the data plane moves between threads.
#[derive(Clone, Copy, Debug)]
pub struct LocalExecutor;

impl<F: Future<Output = ()> + 'static> hyper::rt::Executor<F> for LocalExecutor {
    fn execute(&self, task: F) {
        tokio::task::spawn_local(task);
    }
}

/// What is sent, apart from the body: independent of where it goes.
#[derive(Debug)]
pub struct RequestHead {
    /// The method.
    pub method: Method,
    /// Path and query, in origin form.
    pub target: Uri,
    /// End-to-end fields with `Host`.
    pub headers: HeaderMap,
}

/// What a request may do when an endpoint fails it.
#[derive(Clone, Copy, Debug)]
pub struct Allowance {
    /// Whether it may reach a second endpoint after a first has perhaps processed it.
    pub replayable: bool,
    /// Endpoints that it may reach in all; those that refuse it do not count.
    pub attempts: u8,
}

/// Sends a request to one of the endpoints of a port (by `key`, where they are picked so), and on to others as long as
/// that can do no harm: after a refusal any request, else those that are replayable. Of the answer, hop-by-hop fields
/// are removed.
///
/// # Errors
/// What the last endpoint did; [`Failure::Unavailable`] when none is ready.
pub async fn call(
    pool: &Rc<Pool>,
    (port, endpoints): &(Port, Endpoints),
    clock: &Clock,
    head: &RequestHead,
    body: &RequestBody,
    key: Option<u64>,
    allowance: Allowance,
) -> Result<Response<EndpointBody>, Failure> {
    let mut tried = Vec::new();
    let mut failure = Failure::Unavailable;
    let mut reached = 0;
    let mut gone_away = false;
    while let Some((index, in_flight)) = pool.with_rng(|rng| endpoints.take(clock.micros(), rng, key, &tried))
    {
        let endpoint = in_flight.endpoint();
        let again = allowance.replayable;
        let reuse = if again { Reuse::Any } else { Reuse::Fresh };
        let to = To { endpoint, protocol: port.protocol };
        let mut sent = send(pool, to, clock, head, body, reuse).await;
        // An endpoint may close an idle connection at the moment in which it is used again: that says nothing about
        // the endpoint, and a connection of its own will.
        if matches!(sent, Err(SendError::CutReused)) && again && body.can_restart() {
            sent = send(pool, to, clock, head, body, Reuse::None).await;
        }
        match sent {
            // Nobody asked it to switch (Upgrade is removed): it does not speak HTTP as we do.
            Ok((response, _)) if response.status() == StatusCode::SWITCHING_PROTOCOLS => {
                in_flight.erred(clock.micros());
                return Err(Failure::Reset);
            }
            Ok((response, lease)) => {
                let change = judge(endpoints, &in_flight, &response, clock.micros());
                tell(endpoint, change);
                return Ok(answer(response, lease, in_flight));
            }
            Err(SendError::Connect) => {
                tell(endpoint, in_flight.refused(clock.micros()));
                failure = if reached == 0 { Failure::Connect } else { failure };
            }
            Err(SendError::GoneAway) if !gone_away && body.can_restart() => {
                // The end of a connection is not the endpoint's: it may well take another one.
                gone_away = true;
                continue;
            }
            Err(SendError::Refused | SendError::GoneAway) => {
                tell(endpoint, endpoints.failed(&in_flight, clock.micros()));
                failure = if reached == 0 { Failure::Refused } else { failure };
                if !body.can_restart() {
                    break;
                }
            }
            // The caller broke off in the middle of its body, not the endpoint.
            Err(SendError::Cut | SendError::CutReused) if body.failed() => return Err(Failure::Cancelled),
            Err(SendError::Cut | SendError::CutReused) => {
                tell(endpoint, endpoints.failed(&in_flight, clock.micros()));
                reached += 1;
                failure = Failure::Reset;
                if !allowance.replayable || !body.can_restart() || reached >= allowance.attempts {
                    break;
                }
            }
        }
        tried.push(index);
    }
    Err(failure)
}

/// Where a request goes.
#[derive(Clone, Copy)]
struct To<'a> {
    endpoint: &'a EndpointState,
    protocol: Protocol,
}

async fn send(
    pool: &Rc<Pool>,
    to: To<'_>,
    clock: &Clock,
    head: &RequestHead,
    body: &RequestBody,
    reuse: Reuse,
) -> Result<(Response<Incoming>, Lease), SendError> {
    let To { endpoint, protocol } = to;
    let connected = || tell(endpoint, endpoint.connected(clock.micros()));
    let mut request = Request::new(body.reader());
    *request.method_mut() = head.method.clone();
    *request.headers_mut() = head.headers.clone();
    match protocol {
        Protocol::Http => {
            *request.uri_mut() = head.target.clone();
            if !body.is_empty() && !head.headers.contains_key(CONTENT_LENGTH) {
                // hyper sends a body of unknown length with any method only if it is told to.
                request.headers_mut().insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
            }
            let (response, lease) = pool.send(endpoint.address(), request, reuse, connected).await?;
            Ok((response, Lease::Whole(lease)))
        }
        Protocol::Grpc => {
            *request.uri_mut() = absolute(head, endpoint);
            request.headers_mut().remove(HOST);
            // We read trailers, whatever the caller said of its own hop. Servers of gRPC insist.
            request.headers_mut().insert(TE, HeaderValue::from_static("trailers"));
            let (response, stream) = pool.multiplexed.send(endpoint.address(), request, connected).await?;
            Ok((response, Lease::Stream(stream)))
        }
    }
}

/// The target with scheme and authority, as HTTP/2 has it (RFC 9113, section 8.3.1).
fn absolute(head: &RequestHead, endpoint: &EndpointState) -> Uri {
    let host = head.headers.get(HOST).and_then(|host| Authority::try_from(host.as_bytes()).ok());
    let mut parts = head.target.clone().into_parts();
    parts.scheme = Some(Scheme::HTTP);
    parts.authority = host.or_else(|| Authority::try_from(endpoint.address().to_string()).ok());
    Uri::from_parts(parts).unwrap_or_else(|_| head.target.clone())
}

/// What an answer says of the endpoint's health.
fn judge(endpoints: &Endpoints, request: &InFlight, answer: &Response<Incoming>, now: u64) -> Option<Change> {
    if grpc::is_unavailable(answer.headers()) {
        return endpoints.failed(request, now);
    }
    match answer.status().as_u16() {
        // What a server says that does not work, or whose own servers do not.
        502..=504 => endpoints.failed(request, now),
        500.. => {
            request.erred(now);
            None
        }
        _ => request.answered(now),
    }
}

/// Says in the log that an endpoint was taken into use, or out of it.
pub fn tell(endpoint: &EndpointState, change: Option<Change>) {
    if let Some(Change { ready, cause }) = change {
        let what = format!("endpoint {} at {}", endpoint.id(), endpoint.address());
        let states = if ready { ("out", "ready") } else { ("ready", "out") };
        let moved = format!("{} requests on it", endpoint.in_flight());
        audit::health("endpoint", what, states, cause, moved);
    }
}

fn answer(response: Response<Incoming>, lease: Lease, in_flight: InFlight) -> Response<EndpointBody> {
    let mut response =
        response.map(|incoming| EndpointBody { incoming, lease: Some(lease), _in_flight: in_flight });
    fields::strip_hop_by_hop(response.headers_mut());
    response
}

/// What an answer holds of its connection.
#[derive(Debug)]
enum Lease {
    /// All of it, with HTTP/1.1.
    Whole(pool::Lease),
    /// One stream, with HTTP/2.
    Stream(multiplex::Stream),
}

/// The body of an endpoint's answer; its connection can be used again when it was read to its end.
#[derive(Debug)]
pub struct EndpointBody {
    incoming: Incoming,
    lease: Option<Lease>,
    _in_flight: InFlight,
}

impl Body for EndpointBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        Poll::Ready(match ready!(Pin::new(&mut self.incoming).poll_frame(cx)) {
            Some(Ok(frame)) => Some(Ok(frame)),
            Some(Err(e)) => {
                self.lease = None;
                Some(Err(BodyError::Http(e)))
            }
            None => {
                match self.lease.take() {
                    Some(Lease::Whole(lease)) => lease.give_back(),
                    Some(Lease::Stream(stream)) => drop(stream),
                    None => {}
                }
                None
            }
        })
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }
}
