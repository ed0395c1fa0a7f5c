//! The requests of callers that speak HTTP to this process.

use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{HeaderMap, HeaderValue};
use http::{Request, Response, StatusCode, Version};
use http_body::{Body, Frame, SizeHint};
use http1::server::Reply;
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
    record: Record,
    /// The caller, where it takes the answer piece by piece.
    reader: Option<Rc<Reader>>,
    /// A caller of gRPC is told in trailers how its call ended; by which gateway.
    grpc: Option<Rc<Worker>>,
    _in_progress: Option<InProgressGuard>,
}

/// Answers one request of a caller.
pub async fn serve(worker: &Rc<Worker>, request: Request<Incoming>, caller: Caller<'_>) -> Reply<Outgoing> {
    let shared = &worker.shared;
    let mut record = Record::begin(Direction::Outbound, &shared.nameless, Instant::now());
    record.method(request.method().as_str());
    // gRPC is HTTP/2 only: callers of HTTP/1.1 need not be asked.
    let grpc = request.version() == Version::HTTP_2 && grpc::is_grpc(request.headers());
    let Some(guard) = shared.in_progress.enter(REQUESTS_MAX) else {
        record.ends(Outcome::Overloaded);
        let details = format!("this gateway serves {REQUESTS_MAX} requests at once and no more");
        let rejection = Rejection::new(ProxyError::ConnectionLimitReached, details);
        return reject(worker, grpc, rejection, record);
    };
    match answer(worker, request, caller, grpc, &mut record).await {
        Ok((answer, reader)) => {
            let mut reply = pass_on(answer, record, Some(guard));
            let outgoing = reply.response.body_mut();
            outgoing.reader = reader;
            outgoing.grpc = grpc.then(|| worker.clone());
            reply
        }
        Err(rejection) => reject(worker, grpc, rejection, record),
    }
}

/// The answer of the cluster that serves it, and what shows whether the caller takes it.
async fn answer(
    worker: &Rc<Worker>,
    request: Request<Incoming>,
    caller: Caller<'_>,
    grpc: bool,
    record: &mut Record,
) -> Result<(Answer, Option<Rc<Reader>>), Rejection> {
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
    let streams = matches!(answer.body, AnswerBody::Stream(_));
    let reader = streams.then(|| worker.stalls.watch(service.timeout.idle, caller.give_up.clone()));
    Ok((answer, reader))
}

/// An answer on its way to the caller; `record` is closed when it is over, and in progress until then with `guard`.
pub fn pass_on(answer: Answer, mut record: Record, guard: Option<InProgressGuard>) -> Reply<Outgoing> {
    record.status(answer.status.as_u16());
    if let AnswerBody::Whole(whole) = &answer.body {
        record.ends(Outcome::Answered);
        record.sent(whole.data().map_or(0, Bytes::len));
    }
    respond(answer, record, guard)
}

/// The answer to a request that goes nowhere, as `record` says.
pub fn reject(worker: &Worker, grpc: bool, rejection: Rejection, mut record: Record) -> Reply<Outgoing> {
    let name = &worker.shared.name;
    let answer = if grpc { rejection.into_grpc_answer(name) } else { rejection.into_answer(name) };
    record.status(answer.status.as_u16());
    // Whole as it is, it is no answer of the service.
    respond(answer, record, None)
}

fn respond(answer: Answer, record: Record, guard: Option<InProgressGuard>) -> Reply<Outgoing> {
    let outgoing = Outgoing { body: answer.body, record, reader: None, grpc: None, _in_progress: guard };
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
        match &polled {
            Poll::Ready(Some(Ok(frame))) if matches!(this.body, AnswerBody::Stream(_)) => {
                this.record.sent(frame.data_ref().map_or(0, Bytes::len));
            }
            Poll::Ready(Some(Err(error))) => {
                this.record.ends(Outcome::Cut);
                if let Some(worker) = this.grpc.take() {
                    let trailers = broken_call(error, &worker.shared.name);
                    this.body = AnswerBody::whole(Bytes::new());
                    return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
                }
            }
            // Behind an error there is nothing but our own end.
            Poll::Ready(None)
                if this.record.outcome() == Outcome::Cancelled
                    && matches!(this.body, AnswerBody::Stream(_)) =>
            {
                this.record.ends(Outcome::Answered);
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
