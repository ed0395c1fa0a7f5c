//! The requests of callers that speak HTTP to this process.

use std::cell::Cell;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::{Request, Response, StatusCode, Version};
use http_body::{Body, Frame, SizeHint};
use http1::server::Reply;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Call, find, total};
use crate::access::{Counted, Line};
use crate::answer::{Answer, AnswerBody};
use crate::body::{BodyError, Incoming, RequestBody};
use crate::clock::Activity;
use crate::error::{ProxyError, Rejection};
use crate::metrics::{Direction, InProgressGuard, Outcome, RequestCounters};
use crate::retry;
use crate::route;
use crate::stall::Reader;
use crate::worker::{REQUESTS_MAX, Worker};
use crate::{fields, grpc, message};

/// How often a request may come through here: an endpoint may well ask for another service in its turn, but not for ever.
const PASSAGES_MAX: usize = 8;

/// Who asks, and how it is told what comes before an answer.
pub struct Caller<'a> {
    /// Its address.
    pub source: SocketAddr,
    /// To be cancelled when it does not take the answer: its connection, or its stream, is to be closed then.
    pub give_up: &'a CancellationToken,
    /// Sends an interim answer to it, if it understands them.
    pub interim: &'a dyn Fn(StatusCode, &HeaderMap),
}

/// A response as the listener sends it: counted when it is over.
#[derive(Debug)]
pub struct Outgoing {
    body: AnswerBody,
    counted: Counted,
    /// The caller, where it takes the answer piece by piece.
    reader: Option<Rc<Reader>>,
    /// A caller of gRPC is told in trailers how its call ended; by which gateway.
    grpc: Option<Rc<Worker>>,
    _in_progress: Option<InProgressGuard>,
}

/// Answers one request of a caller.
pub async fn serve(worker: &Rc<Worker>, request: Request<Incoming>, caller: Caller<'_>) -> Reply<Outgoing> {
    let nameless = &worker.shared.nameless;
    // gRPC is HTTP/2 only: callers of HTTP/1.1 need not be asked.
    let grpc = request.version() == Version::HTTP_2 && grpc::is_grpc(request.headers());
    let reject = |rejection, counters, outcome| reject(worker, grpc, rejection, counters, outcome).into();
    let Some(guard) = worker.shared.in_progress.enter(REQUESTS_MAX) else {
        let details = format!("this gateway serves {REQUESTS_MAX} requests at once and no more");
        let rejection = Rejection::new(ProxyError::ConnectionLimitReached, details);
        return reject(rejection, nameless, Outcome::Overloaded);
    };
    let started = Instant::now();
    let (parts, incoming) = request.into_parts();
    let version = parts.version;
    let (authority, mut head) = match message::request(parts) {
        Ok(judged) => judged,
        Err(bad) => return reject(bad.into(), nameless, Outcome::Malformed),
    };
    // Only for the look: a request that takes long must not keep a view that is long replaced.
    let found = find(&worker.shared.view.load(), &worker.shared.domain, &authority);
    let (service, port) = match found {
        Ok(found) => found,
        Err(rejection) => return reject(rejection, nameless, Outcome::NotFound),
    };
    if fields::times_through(&head.headers, &worker.shared.name) >= PASSAGES_MAX {
        let details =
            format!("it has come through here {PASSAGES_MAX} times: {authority} leads back to here");
        let rejection = Rejection::new(ProxyError::ProxyLoopDetected, details);
        return reject(rejection, &service.unanswered, Outcome::Broken);
    }
    let deadline = total(&service, grpc, &head.headers).map(|total| started + total);
    fields::append_via(&mut head.headers, version, &worker.shared.via, &worker.shared.name);
    let target = head.target.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
    let field = |name: &str| head.headers.get(name).map(HeaderValue::as_bytes);
    let key = route::key(&service.hash, field, target, caller.source.ip());
    let hash = key.map(|key| service.placement.hash(&key));
    let has_key = head.headers.contains_key(HeaderName::from_static("idempotency-key"));
    let replayable_method = retry::replayable_method(head.method.as_str(), has_key, &service.retry);
    let activity = Activity::new(started);
    let call = Call {
        worker,
        service: &service,
        port,
        head: &head,
        authority: &authority,
        body: RequestBody::from_caller(incoming, worker.shared.budget.reservation(), activity.clone()),
        activity: activity.clone(),
        started,
        deadline,
        grpc,
        hash,
        request_id: worker.pool.with_rng(|rng| rng.u128(..)).to_be_bytes(),
        replayable_method,
        caller: None,
        hedged: Cell::new(false),
        expired: Cell::new(false),
        interim: caller.interim,
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
            let mut reply = respond(answer, counted, Some(guard));
            let outgoing = reply.response.body_mut();
            outgoing.reader =
                streams.then(|| worker.stalls.watch(service.timeout.idle, caller.give_up.clone()));
            outgoing.grpc = grpc.then(|| worker.clone());
            reply
        }
        Err((failure, caller_at_fault)) => {
            let (rejection, outcome) = call.rejection(failure, caller_at_fault);
            counted.outcome = outcome;
            reject_counted(worker, grpc, rejection, counted).into()
        }
    }
}

/// An answer that no service of the mesh gave; counted by `counters` when it is over, and in progress until then with
/// `guard`.
pub fn pass_on(answer: Answer, counters: RequestCounters, guard: Option<InProgressGuard>) -> Reply<Outgoing> {
    respond(answer, Counted::begin(Some(counters), None), guard)
}

fn respond(answer: Answer, mut counted: Counted, guard: Option<InProgressGuard>) -> Reply<Outgoing> {
    if matches!(answer.body, AnswerBody::Whole(_)) {
        counted.outcome = Outcome::Answered;
    }
    let outgoing = Outgoing { body: answer.body, counted, reader: None, grpc: None, _in_progress: guard };
    let mut response = Response::new(outgoing);
    *response.status_mut() = answer.status;
    *response.headers_mut() = answer.headers;
    Reply { response, reason: answer.reason, takeover: None }
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
    let mut response = respond(answer, counted, None).response;
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
            Poll::Ready(Some(Err(error))) => {
                this.counted.outcome = Outcome::Cut;
                if let Some(worker) = this.grpc.take() {
                    let trailers = broken_call(error, &worker.shared.name);
                    this.body = AnswerBody::whole(Bytes::new());
                    return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
                }
            }
            // Behind an error there is nothing but our own end.
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

/// What a caller of gRPC is told of a call that broke off in the middle: what its library would have told it without us.
fn broken_call(error: &BodyError, gateway: &str) -> HeaderMap {
    let (status, what) = match error {
        BodyError::Deadline => (grpc::Status::DeadlineExceeded, "http_response_timeout"),
        _ => (grpc::Status::Unavailable, "connection_terminated"),
    };
    let mut trailers = HeaderMap::new();
    grpc::put_trailers(&mut trailers, status, &format!("{gateway}: {what}: {error}"));
    trailers
}
