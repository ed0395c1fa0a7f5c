//! The requests of callers that speak HTTP to this process.

use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::{HeaderMap, HeaderValue, UPGRADE};
use http::{Method, Request, Response, StatusCode, Version};
use http_body::{Body, Frame, SizeHint};
use http1::server::Reply;
use registry::model::{HttpRules, Protocol};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Placed, connection, find, in_circles, total};
use crate::base::clock::Activity;
use crate::base::stall::Reader;
use crate::http::body::{BodyError, Incoming, RequestBody};
use crate::http::message::RequestHead;
use crate::http::{fields, forwarded, message};
use crate::proxy::answer::{Answer, AnswerBody};
use crate::proxy::connection::Opened;
use crate::proxy::connection::carry::Carry;
use crate::proxy::error::{ProxyError, Rejection};
use crate::proxy::worker::{REQUESTS_MAX, Worker};
use crate::telemetry::metrics::{Direction, InProgressGuard, Outcome};
use crate::telemetry::record::Record;
use crate::upstream::Served;
use policy::grpc;
use policy::route;

/// Who asks, and how it is told what comes before an answer.
pub struct Caller<'a> {
    /// The address that it connected from.
    pub source: SocketAddr,
    /// What holds where it came in.
    pub rules: &'a HttpRules,
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
    /// What comes behind an answer that ends HTTP.
    behind: Option<Behind>,
    _in_progress: Option<InProgressGuard>,
}

/// Whether a request is a call of gRPC, which is HTTP/2 only: callers of HTTP/1.1 need not be asked.
pub fn is_grpc<B>(request: &Request<B>) -> bool {
    request.version() == Version::HTTP_2 && grpc::is_grpc(request.headers())
}

/// Whether a request asks for a connection (RFC 9110, section 9.3.6), and not for one that is said to speak something (RFC
/// 8441).
pub fn is_connect<B>(request: &Request<B>) -> bool {
    request.method() == Method::CONNECT && request.extensions().get::<h2::ext::Protocol>().is_none()
}

/// What comes behind an answer that ends an exchange of HTTP, and has the connection or the stream from then on.
#[derive(Debug)]
pub enum Behind {
    /// Bytes, carried as they are.
    Carry(Box<Carry>),
    /// Requests of a caller that takes this for a proxy of connections, and asked for a port of HTTP: each is placed by
    /// itself, as if it had come here at once.
    Requests,
}

impl Outgoing {
    /// What comes behind this answer, if it ends HTTP.
    pub fn take_behind(&mut self) -> Option<Behind> {
        self.behind.take()
    }
}

/// Answers one request of a caller.
pub async fn serve(worker: &Rc<Worker>, request: Request<Incoming>, caller: Caller<'_>) -> Reply<Outgoing> {
    let shared = &worker.shared;
    if is_connect(&request) {
        return connect(worker, &request, caller.source).await;
    }
    let mut record = Record::begin(Direction::Outbound, &worker.nameless, Instant::now());
    record.method(request.method().as_str());
    let grpc = is_grpc(&request);
    let Some(guard) = shared.in_progress.enter(REQUESTS_MAX) else {
        record.ends(Outcome::Overloaded);
        return reject(worker, grpc, Rejection::full(REQUESTS_MAX), record);
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
    allowed(&head, &incoming, caller.rules)?;
    if !fields::may_go_on(&head.method, &mut head.headers) {
        let answer = last(&head.method)?;
        record.ends(Outcome::Answered);
        // It is whole: nothing of it is waited for.
        return Ok((answer, Duration::ZERO));
    }
    record.ends(Outcome::NotFound);
    // Only for the look: a request that takes long must not keep a view that is long replaced.
    let found = find(&shared.view.load(), &shared.domain, &authority);
    let (service, port) = found?;
    let hops = fields::hops(&head.headers);
    if let Some(rejection) = in_circles(hops, &authority) {
        record.asks(head.method.as_str(), &service.name, &service.unanswered);
        record.ends(Outcome::Broken);
        return Err(rejection);
    }
    record.ends(Outcome::Cancelled);
    let deadline = total(&service, grpc, &head.headers).map(|total| record.started() + total);
    fields::append_via(&mut head.headers, version, &shared.via, &shared.name);
    let peer = caller.source.ip();
    let source = forwarded::caller(&head.headers, caller.rules, peer);
    forwarded::tell(&mut head.headers, caller.rules, peer, &authority);
    let target = head.target.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
    let field = |name: &str| head.headers.get(name).map(HeaderValue::as_bytes);
    let key = route::key(&service.hash, field, target, source);
    let activity = Activity::new(record.started());
    let placed = Placed {
        service: &service,
        port,
        head: &head,
        authority: &authority,
        body: RequestBody::from_caller(incoming, shared.budget.reservation(), activity.clone())
            .at_most(caller.rules.body_bytes.unwrap_or(u64::MAX)),
        activity,
        deadline,
        grpc,
        hash: key.map(|key| service.placement.hash(&key)),
        id: worker.pool.with_rng(|rng| rng.u128(..)).to_be_bytes(),
        caller: None,
        hops,
        interim: caller.interim,
    };
    let mut answer = placed.answer(worker, record).await.map_err(|not| not.rejection)?;
    say_protocol(&mut answer, &head);
    Ok((answer, service.timeout.idle()))
}

/// Says in an answer that agrees to an upgrade what was agreed to, for [`pass_on`].
pub fn say_protocol(answer: &mut Answer, asked: &RequestHead) {
    if let (true, Some(protocol)) = (answer.upgraded.is_some(), &asked.upgrade) {
        answer.headers.insert(UPGRADE, protocol.clone());
    }
}

/// Whether a request is one that may come in where `rules` hold.
fn allowed(head: &RequestHead, body: &Incoming, rules: &HttpRules) -> Result<(), Rejection> {
    let headers = &head.headers;
    if let Some(most) = rules.line_bytes.map(|most| most as usize) {
        let target = head.target.path_and_query().map_or(0, |target| target.as_str().len());
        if target > most {
            let details = format!(
                "the request's target has {target} bytes; {most} may come here (spec.http.lineBytes)"
            );
            return Err(Rejection::new(ProxyError::HttpRequestTargetTooLong, details));
        }
        let longer = headers.iter().find(|(name, value)| name.as_str().len() + value.len() > most);
        if let Some((name, value)) = longer {
            let length = name.as_str().len() + value.len();
            let details =
                format!("the field {name} has {length} bytes; {most} may come here (spec.http.lineBytes)");
            return Err(Rejection::new(ProxyError::HttpRequestHeadTooLarge, details));
        }
    }
    if let Some(most) = rules.fields.filter(|most| headers.len() > usize::from(*most)) {
        let details =
            format!("the request has {} fields; {most} may come here (spec.http.fields)", headers.len());
        return Err(Rejection::new(ProxyError::HttpRequestHeadTooLarge, details));
    }
    match (body.length(), rules.body_bytes) {
        (Some(length), Some(most)) if length > most => {
            let details =
                format!("the request's body has {length} bytes; {most} may come here (spec.http.bodyBytes)");
            Err(Rejection::new(ProxyError::HttpRequestBodyTooLarge, details))
        }
        _ => Ok(()),
    }
}

/// An answer on its way to the caller; `record` is closed when it is over, and in progress until then with `guard`. A
/// caller that takes nothing of it for `idle` is given up, and so is an exchange that is upgraded and idles as long.
pub fn pass_on(
    worker: &Worker,
    mut answer: Answer,
    mut record: Record,
    guard: InProgressGuard,
    idle: Duration,
    give_up: &CancellationToken,
) -> Reply<Outgoing> {
    record.status(answer.status.as_u16());
    if let Some(served) = answer.upgraded.take() {
        let protocol = answer.headers.remove(UPGRADE);
        let carry = upgraded(worker, *served, protocol, idle, record, guard);
        return take_over(answer, Behind::Carry(Box::new(carry)));
    }
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

/// The answer to a request that nobody else shall get (`Max-Forwards: 0`).
fn last(method: &Method) -> Result<Answer, Rejection> {
    match *method {
        Method::OPTIONS => Ok(empty()),
        _ => {
            let details =
                format!("{method} has come as far as it may (Max-Forwards), and is not served here");
            Err(Rejection::new(ProxyError::HttpMethodUnsupported, details))
        }
    }
}

/// 200, and nothing else.
fn empty() -> Answer {
    Answer {
        status: StatusCode::OK,
        reason: None,
        headers: HeaderMap::new(),
        body: AnswerBody::whole(Bytes::new()),
        endpoint: None,
        upgraded: None,
    }
}

/// The answer that `behind` comes behind.
fn take_over(answer: Answer, behind: Behind) -> Reply<Outgoing> {
    let mut reply = respond(answer, None);
    reply.response.body_mut().behind = Some(behind);
    reply
}

/// The answer to CONNECT that says that there is a connection.
pub fn connected(behind: Behind) -> Reply<Outgoing> {
    take_over(empty(), behind)
}

/// An exchange that speaks `protocol` from now on.
pub(super) fn upgraded(
    worker: &Worker,
    served: Served,
    protocol: Option<HeaderValue>,
    idle: Duration,
    record: Record,
    guard: InProgressGuard,
) -> Carry {
    let (ends, drops) = (worker.shared.ends(), worker.shared.drops.clone());
    let idle_answered = None;
    Carry { served, protocol, idle, idle_answered, record, counted: None, ends, drops, guard: Some(guard) }
}

/// Makes a connection to a port of the mesh for a caller that speaks its own protocol on it (RFC 9110, section 9.3.6).
async fn connect(worker: &Rc<Worker>, request: &Request<Incoming>, source: SocketAddr) -> Reply<Outgoing> {
    let authority = message::authority(request.uri(), request.version(), request.headers());
    let hops = fields::hops(request.headers());
    let opened = Opened { source: Some(source), hops, ..Opened::default() };
    let made = match authority {
        Ok(authority) if find(&worker.shared.view.load(), &worker.shared.domain, &authority).is_ok() => {
            return connected(Behind::Requests);
        }
        Ok(authority) => connection::open(worker, &authority, Protocol::Tcp, &opened).await,
        Err(error) => Err(error.into()),
    };
    match made {
        Ok(carry) => connected(Behind::Carry(Box::new(carry))),
        Err(rejection) => respond(rejection.answer(false, &worker.shared.name), None),
    }
}

/// The answer to a request that goes nowhere, as `record` says.
pub fn reject(worker: &Worker, grpc: bool, rejection: Rejection, mut record: Record) -> Reply<Outgoing> {
    let answer = rejection.answer(grpc, &worker.shared.name);
    record.status(answer.status.as_u16());
    // Whole as it is, it is no answer of the service.
    respond(answer, Some(record))
}

fn respond(answer: Answer, record: Option<Record>) -> Reply<Outgoing> {
    let outgoing =
        Outgoing { body: answer.body, record, reader: None, grpc: None, behind: None, _in_progress: None };
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
