//! The requests of callers that speak HTTP to this process.

use std::borrow::Cow;
use std::cell::Cell;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{HOST, HeaderName, HeaderValue};
use http::{Method, Request, Response, Uri, Version};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Call, find, total};
use crate::access::{Counted, Line};
use crate::answer::{Answer, AnswerBody};
use crate::body::{BodyError, RequestBody};
use crate::clock::Activity;
use crate::endpoint::RequestHead;
use crate::error::{ProxyError, Rejection};
use crate::metrics::{Direction, InProgressGuard, Outcome, RequestCounters};
use crate::retry;
use crate::route;
use crate::stall::Reader;
use crate::worker::{REQUESTS_MAX, Worker};
use crate::{fields, grpc};

/// A response as the listener sends it: counted when it is over.
#[derive(Debug)]
pub struct Outgoing {
    body: AnswerBody,
    counted: Counted,
    /// The caller, where it takes the answer piece by piece.
    reader: Option<Rc<Reader>>,
    _in_progress: Option<InProgressGuard>,
}

/// Answers one request of a caller at `source`. `give_up` is cancelled when the caller does not take the answer: the
/// connection is to be closed then.
pub async fn serve(
    worker: &Rc<Worker>,
    request: Request<Incoming>,
    source: SocketAddr,
    give_up: &CancellationToken,
) -> Response<Outgoing> {
    let nameless = &worker.shared.nameless;
    // gRPC is HTTP/2 only: callers of HTTP/1.1 need not be asked.
    let grpc = request.version() == Version::HTTP_2 && grpc::is_grpc(request.headers());
    let reject = |rejection, counters, outcome| reject(worker, grpc, rejection, counters, outcome);
    let Some(guard) = worker.shared.in_progress.enter(REQUESTS_MAX) else {
        let details = format!("this gateway serves {REQUESTS_MAX} requests at once and no more");
        let rejection = Rejection::new(ProxyError::ConnectionLimitReached, details);
        return reject(rejection, nameless, Outcome::Overloaded);
    };
    let started = Instant::now();
    let (parts, incoming) = request.into_parts();
    // CONNECT and the like: nothing here is a tunnel for the caller (RFC 9110, section 9.3.6).
    if parts.method == Method::CONNECT {
        let rejection = Rejection::new(ProxyError::HttpMethodUnsupported, "CONNECT is not served here");
        return reject(rejection, nameless, Outcome::Malformed);
    }
    let authority = match authority(&parts.uri, &parts.headers) {
        Ok(authority) => authority,
        Err(rejection) => return reject(rejection, nameless, Outcome::Malformed),
    };
    // Only for the look: a request that takes long must not keep a view that is long replaced.
    let found = find(&worker.shared.view.load(), &worker.shared.domain, &authority);
    let (service, port) = match found {
        Ok(found) => found,
        Err(rejection) => return reject(rejection, nameless, Outcome::NotFound),
    };

    let mut headers = parts.headers;
    fields::strip_hop_by_hop(&mut headers);
    if let Ok(host) = HeaderValue::from_str(&authority) {
        headers.insert(HOST, host);
    }
    let deadline = total(&service, grpc, &headers).map(|total| started + total);
    fields::append_via(&mut headers, parts.version, &worker.shared.via, &worker.shared.name);
    let target = target(&parts.uri);
    let key =
        route::key(&service.hash, |name| headers.get(name).map(HeaderValue::as_bytes), &target, source.ip());
    let hash = key.map(|key| service.placement.hash(&key));
    let has_key = headers.contains_key(HeaderName::from_static("idempotency-key"));
    let replayable_method = retry::replayable_method(parts.method.as_str(), has_key, &service.retry);
    let head = RequestHead {
        method: parts.method,
        target: Uri::try_from(&*target).unwrap_or_else(|_| Uri::from_static("/")),
        headers,
    };
    let activity = Activity::new(started);
    let call = Call {
        worker,
        service: &service,
        port,
        head: &head,
        authority: &authority,
        body: RequestBody::from_http(incoming, worker.shared.budget.reservation(), activity.clone()),
        activity: activity.clone(),
        started,
        deadline,
        grpc,
        hash,
        request_id: worker.pool.with_rng(|rng| rng.u128(..)).to_be_bytes(),
        replayable_method,
        caller: None,
        hedged: Cell::new(false),
    };
    let line = Line::begin(Direction::Outbound, head.method.as_str(), &service.name, None, started);
    let mut counted = Counted::begin(Some(service.unanswered.clone()), line);
    match call.run().await {
        Ok((mut answer, node)) => {
            if let Some(line) = &mut counted.line {
                line.peer(service.placement.cluster(node).as_str());
                line.status(answer.status.as_u16());
            }
            service.durations.observe(started.elapsed());
            answer.body.limit(service.timeout.idle, deadline, activity);
            counted.counters = Some(service.counters(node).clone());
            let streams = matches!(answer.body, AnswerBody::Stream(_));
            let mut response = respond(answer, counted, Some(guard));
            response.body_mut().reader =
                streams.then(|| worker.stalls.watch(service.timeout.idle, give_up.clone()));
            response
        }
        Err((failure, caller_at_fault)) => {
            let (rejection, outcome) = call.rejection(failure, caller_at_fault);
            counted.outcome = outcome;
            reject_counted(worker, grpc, rejection, counted)
        }
    }
}

/// The target in origin form (RFC 9112, section 3.2.1): an absolute one without a path has an empty path there.
pub(crate) fn target(uri: &Uri) -> Cow<'_, str> {
    match uri.path_and_query().map(http::uri::PathAndQuery::as_str) {
        None | Some("") => "/".into(),
        Some(query) if query.starts_with('?') => format!("/{query}").into(),
        Some(target) => target.into(),
    }
}

/// The authority that the caller asks for: of the target if it is absolute, else `Host` (RFC 9112, section 3.2.2).
///
/// # Errors
/// When there is none, or more than one.
pub fn authority(uri: &Uri, headers: &http::HeaderMap) -> Result<String, Rejection> {
    let bad = |text: &str| Rejection::new(ProxyError::HttpRequestError, text);
    if let Some(authority) = uri.authority() {
        return Ok(authority.as_str().to_owned());
    }
    let mut hosts = headers.get_all(HOST).iter();
    match (hosts.next(), hosts.next()) {
        (Some(host), None) => {
            host.to_str().map(str::to_owned).map_err(|_| bad("the Host field is not ASCII"))
        }
        (None, _) => Err(bad("the request has no Host field")),
        // RFC 9112, section 3.2: more than one is a bad request, not a choice.
        (Some(_), Some(_)) => Err(bad("the request has more than one Host field")),
    }
}

/// An answer that no service of the mesh gave; counted by `counters` when it is over, and in progress until then with
/// `guard`.
pub fn pass_on(
    answer: Answer,
    counters: RequestCounters,
    guard: Option<InProgressGuard>,
) -> Response<Outgoing> {
    respond(answer, Counted::begin(Some(counters), None), guard)
}

fn respond(answer: Answer, mut counted: Counted, guard: Option<InProgressGuard>) -> Response<Outgoing> {
    if matches!(answer.body, AnswerBody::Whole(_)) {
        counted.outcome = Outcome::Answered;
    }
    let outgoing = Outgoing { body: answer.body, counted, reader: None, _in_progress: guard };
    let mut response = Response::new(outgoing);
    *response.status_mut() = answer.status;
    *response.headers_mut() = answer.headers;
    response
}

/// The answer to a request that goes nowhere; counted as `outcome`.
pub fn reject(
    worker: &Rc<Worker>,
    grpc: bool,
    rejection: Rejection,
    counters: &RequestCounters,
    outcome: Outcome,
) -> Response<Outgoing> {
    reject_counted(worker, grpc, rejection, Counted { counters: Some(counters.clone()), line: None, outcome })
}

fn reject_counted(
    worker: &Rc<Worker>,
    grpc: bool,
    rejection: Rejection,
    mut counted: Counted,
) -> Response<Outgoing> {
    let name = &worker.shared.name;
    let answer = if grpc { rejection.into_grpc_answer(name) } else { rejection.into_answer(name) };
    if let Some(line) = &mut counted.line {
        line.status(answer.status.as_u16());
    }
    let outcome = counted.outcome;
    let mut response = respond(answer, counted, None);
    // Whole as it is, it is no answer of the service.
    response.body_mut().counted.outcome = outcome;
    response
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        let polled = Pin::new(&mut this.body).poll_frame(cx);
        if let Some(reader) = &this.reader {
            if polled.is_ready() { reader.took() } else { reader.waits() }
        }
        match &polled {
            Poll::Ready(Some(Err(_))) => this.counted.outcome = Outcome::Cut,
            Poll::Ready(None) if this.counted.outcome == Outcome::Cancelled => {
                this.counted.outcome = Outcome::Answered;
            }
            _ => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
