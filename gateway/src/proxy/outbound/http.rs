//! The requests of callers that speak HTTP to this process.

use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::{HeaderMap, HeaderValue};
use http::{Request, Response, StatusCode, Version};
use http_body::{Body, Frame, SizeHint};
use http1::server::{Reply, Takeover};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Placed, find, total};
use crate::base::clock::Activity;
use crate::base::stall::Reader;
use crate::http::body::{BodyError, Incoming, RequestBody};
use crate::http::{fields, message};
use crate::proxy::answer::{Answer, AnswerBody};
use crate::proxy::error::{ProxyError, Rejection};
use crate::proxy::worker::{REQUESTS_MAX, Worker};
use crate::telemetry::metrics::{Direction, InProgressGuard, Outcome};
use crate::telemetry::record::Record;
use policy::grpc;
use policy::route;

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

/// A response as the listener sends it: its record is closed when it is over.
#[derive(Debug)]
pub struct Outgoing {
    body: AnswerBody,
    /// None: what it is of goes on elsewhere.
    record: Option<Record>,
    /// The caller, where it takes the answer piece by piece.
    reader: Option<Rc<Reader>>,
    /// A caller of gRPC is told in trailers how its call ended; by which gateway.
    grpc: Option<Rc<Worker>>,
    _in_progress: Option<InProgressGuard>,
}

/// Whether a request is a call of gRPC, which is HTTP/2 only: callers of HTTP/1.1 need not be asked.
pub fn is_grpc<B>(request: &Request<B>) -> bool {
    request.version() == Version::HTTP_2 && grpc::is_grpc(request.headers())
}

/// Answers one request of a caller.
pub async fn serve(worker: &Rc<Worker>, request: Request<Incoming>, caller: Caller<'_>) -> Reply<Outgoing> {
    let shared = &worker.shared;
    let mut record = Record::begin(Direction::Outbound, &worker.nameless, Instant::now());
    record.method(request.method().as_str());
    let grpc = is_grpc(&request);
    let Some(guard) = shared.in_progress.enter(REQUESTS_MAX) else {
        record.ends(Outcome::Overloaded);
        let details = format!("this gateway serves {REQUESTS_MAX} requests at once and no more");
        let rejection = Rejection::new(ProxyError::ConnectionLimitReached, details);
        return reject(worker, grpc, rejection, record);
    };
    let give_up = caller.give_up;
    match answer(worker, request, caller, grpc, &mut record).await {
        Ok((answer, idle)) => {
            let mut reply = pass_on(worker, answer, record, guard, idle, give_up);
            reply.response.body_mut().grpc = grpc.then(|| worker.clone());
            reply
        }
        Err(rejection) => reject(worker, grpc, rejection, record),
    }
}

/// The answer of the cluster that serves it, and for how long nothing may move of it.
async fn answer(
    worker: &Rc<Worker>,
    request: Request<Incoming>,
    caller: Caller<'_>,
    grpc: bool,
    record: &mut Record,
) -> Result<(Answer, Duration), Rejection> {
    let shared = &worker.shared;
    let (parts, incoming) = request.into_parts();
    let version = parts.version;
    record.ends(Outcome::Malformed);
    let (authority, mut head) = message::request(parts)?;
    record.ends(Outcome::NotFound);
    // Only for the look: a request that takes long must not keep a view that is long replaced.
    let found = find(&shared.view.load(), &shared.domain, &authority);
    let (service, port) = found?;
    if fields::times_through(&head.headers, &shared.name) >= PASSAGES_MAX {
        record.asks(head.method.as_str(), &service.name, &service.unanswered);
        record.ends(Outcome::Broken);
        let details =
            format!("it has come through here {PASSAGES_MAX} times: {authority} leads back to here");
        return Err(Rejection::new(ProxyError::ProxyLoopDetected, details));
    }
    record.ends(Outcome::Cancelled);
    let deadline = total(&service, grpc, &head.headers).map(|total| record.started() + total);
    fields::append_via(&mut head.headers, version, &shared.via, &shared.name);
    let target = head.target.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
    let field = |name: &str| head.headers.get(name).map(HeaderValue::as_bytes);
    let key = route::key(&service.hash, field, target, caller.source.ip());
    let activity = Activity::new(record.started());
    let placed = Placed {
        service: &service,
        port,
        head: &head,
        authority: &authority,
        body: RequestBody::from_caller(incoming, shared.budget.reservation(), activity.clone()),
        activity,
        deadline,
        grpc,
        hash: key.map(|key| service.placement.hash(&key)),
        id: worker.pool.with_rng(|rng| rng.u128(..)).to_be_bytes(),
        caller: None,
        interim: caller.interim,
    };
    let answer = placed.answer(worker, record).await.map_err(|not| not.rejection)?;
    Ok((answer, service.timeout.idle))
}

/// An answer on its way to the caller; `record` is closed when it is over, and in progress until then with `guard`. A
/// caller that takes nothing of it for `idle` is given up.
pub fn pass_on(
    worker: &Worker,
    answer: Answer,
    mut record: Record,
    guard: InProgressGuard,
    idle: Duration,
    give_up: &CancellationToken,
) -> Reply<Outgoing> {
    record.status(answer.status.as_u16());
    let reader = match &answer.body {
        AnswerBody::Whole(whole) => {
            record.ends(Outcome::Answered);
            record.sent(whole.data().map_or(0, Bytes::len));
            None
        }
        AnswerBody::Stream(_) => Some(worker.stalls.watch(idle, give_up.clone())),
    };
    let mut reply = respond(answer, Some(record));
    let outgoing = reply.response.body_mut();
    (outgoing.reader, outgoing._in_progress) = (reader, Some(guard));
    reply
}

/// The answer behind which the connection is taken over: what comes there has the record.
pub fn take_over(takeover: Takeover) -> Reply<Outgoing> {
    let answer = Answer {
        status: StatusCode::OK,
        reason: None,
        headers: HeaderMap::new(),
        body: AnswerBody::whole(Bytes::new()),
        endpoint: None,
    };
    Reply { takeover: Some(takeover), ..respond(answer, None) }
}

/// The answer to a request that goes nowhere, as `record` says.
pub fn reject(worker: &Worker, grpc: bool, rejection: Rejection, mut record: Record) -> Reply<Outgoing> {
    let answer = rejection.answer(grpc, &worker.shared.name);
    record.status(answer.status.as_u16());
    // Whole as it is, it is no answer of the service.
    respond(answer, Some(record))
}

fn respond(answer: Answer, record: Option<Record>) -> Reply<Outgoing> {
    let outgoing = Outgoing { body: answer.body, record, reader: None, grpc: None, _in_progress: None };
    let mut response = Response::new(outgoing);
    *response.status_mut() = answer.status;
    *response.headers_mut() = answer.headers;
    Reply { response, reason: answer.reason, takeover: None }
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
        // A whole answer was counted when it began.
        let (AnswerBody::Stream(_), Some(record)) = (&this.body, &mut this.record) else { return polled };
        match &polled {
            Poll::Ready(Some(Ok(frame))) => record.sent(frame.data_ref().map_or(0, Bytes::len)),
            Poll::Ready(Some(Err(error))) => {
                record.ends(Outcome::Cut);
                if let Some(worker) = this.grpc.take() {
                    let trailers = broken_call(error, &worker.shared.name);
                    this.body = AnswerBody::whole(Bytes::new());
                    return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
                }
            }
            // Behind an error there is nothing but our own end.
            Poll::Ready(None) if record.outcome() == Outcome::Cancelled => record.ends(Outcome::Answered),
            Poll::Ready(None) | Poll::Pending => {}
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
