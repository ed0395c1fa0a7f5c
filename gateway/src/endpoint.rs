//! The way to an instance of a service on this side: pooled HTTP/1.1 connections of one worker.

mod pool;

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, HeaderValue, TRANSFER_ENCODING};
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri};
use http_body::{Body, Frame};
use hyper::body::Incoming;
use tracing::info;

use crate::balance::{Change, EndpointState, Endpoints, InFlight};
use crate::body::{BodyError, RequestBody};
use crate::clock::Clock;
use crate::fields;
use crate::retry::Failure;

pub use pool::Pool;
use pool::{Lease, Reuse, SendError};

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
    /// Whether it may reach a second endpoint after it has reached a first.
    pub replayable: bool,
    /// Endpoints that it may reach in all; those that refuse the connection do not count.
    pub attempts: u8,
}

/// Sends a request to one of `endpoints` (by `key`, where they are picked so), and on to others as long as that can do
/// no harm: after a refused connection /// any request, else those that are replayable. Of the answer, hop-by-hop fields are removed.
///
/// # Errors
/// What the last endpoint did; [`Failure::Unavailable`] when none is ready.
pub async fn call(
    pool: &Rc<Pool>,
    endpoints: &Endpoints,
    clock: &Clock,
    head: &RequestHead,
    body: &RequestBody,
    key: Option<u64>,
    allowance: Allowance,
) -> Result<Response<EndpointBody>, Failure> {
    let mut tried = Vec::new();
    let mut failure = Failure::Unavailable;
    let mut reached = 0;
    while let Some((index, in_flight)) = pool.with_rng(|rng| endpoints.take(clock.micros(), rng, key, &tried))
    {
        let endpoint = in_flight.endpoint();
        let again = allowance.replayable;
        let mut sent =
            send(pool, endpoint, clock, head, body, if again { Reuse::Any } else { Reuse::Fresh }).await;
        // An endpoint may close an idle connection at the moment in which it is used again: that says nothing about
        // the endpoint, and a connection of its own will.
        if matches!(sent, Err(SendError::CutReused)) && again && body.can_restart() {
            sent = send(pool, endpoint, clock, head, body, Reuse::None).await;
        }
        match sent {
            // Nobody asked it to switch (Upgrade is removed): it does not speak HTTP as we do.
            Ok((response, _)) if response.status() == StatusCode::SWITCHING_PROTOCOLS => {
                in_flight.erred(clock.micros());
                return Err(Failure::Reset);
            }
            Ok((response, lease)) => {
                audit(endpoint, judge(endpoints, &in_flight, response.status(), clock.micros()));
                return Ok(answer(response, lease, in_flight));
            }
            Err(SendError::Connect) => {
                audit(endpoint, in_flight.refused(clock.micros()));
                failure = if reached == 0 { Failure::Connect } else { failure };
            }
            // The caller broke off in the middle of its body, not the endpoint.
            Err(SendError::Cut | SendError::CutReused) if body.failed() => return Err(Failure::Cancelled),
            Err(SendError::Cut | SendError::CutReused) => {
                audit(endpoint, endpoints.failed(&in_flight, clock.micros()));
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

async fn send(
    pool: &Rc<Pool>,
    endpoint: &EndpointState,
    clock: &Clock,
    head: &RequestHead,
    body: &RequestBody,
    reuse: Reuse,
) -> Result<(Response<Incoming>, Lease), SendError> {
    let mut request = Request::new(body.reader());
    *request.method_mut() = head.method.clone();
    *request.uri_mut() = head.target.clone();
    *request.headers_mut() = head.headers.clone();
    if !body.is_empty() && !head.headers.contains_key(CONTENT_LENGTH) {
        // hyper sends a body of unknown length with any method only if it is told to.
        request.headers_mut().insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
    let connected = || audit(endpoint, endpoint.connected(clock.micros()));
    pool.send(endpoint.address(), request, reuse, connected).await
}

/// What an answer says of the endpoint's health.
fn judge(endpoints: &Endpoints, request: &InFlight, status: StatusCode, now: u64) -> Option<Change> {
    match status.as_u16() {
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
pub fn audit(endpoint: &EndpointState, change: Option<Change>) {
    if let Some(Change { ready, cause }) = change {
        let (endpoint, address) = (endpoint.id(), endpoint.address());
        info!(endpoint, %address, ready, %cause, "Audit: endpoint health changed.");
    }
}

fn answer(response: Response<Incoming>, lease: Lease, in_flight: InFlight) -> Response<EndpointBody> {
    let mut response =
        response.map(|incoming| EndpointBody { incoming, lease: Some(lease), _in_flight: in_flight });
    fields::strip_hop_by_hop(response.headers_mut());
    response
}

/// The body of an endpoint's answer; its connection goes back to the pool when it was read to its end.
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
                if let Some(lease) = self.lease.take() {
                    lease.give_back();
                }
                None
            }
        })
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }
}
