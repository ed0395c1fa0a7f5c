//! A request of a local caller on its way to the cluster that serves it.
//!
//! [`serve`] is the whole path: name, key, placement, attempts, answer. What an attempt does is in `attempt`, a second
//! one beside it in `hedge`; which cluster is next and whether there is a next at all are decided by
//! [`crate::placement`] and [`crate::retry`].

mod attempt;
mod hedge;

use std::borrow::Cow;
use std::cell::Cell;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hashring::NodeIndex;
use http::header::{HOST, HeaderName, HeaderValue};
use http::{Method, Request, Response, Uri, Version};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::answer::{Answer, AnswerBody};
use crate::body::{BodyError, RequestBody};
use crate::clock::Activity;
use crate::endpoint::RequestHead;
use crate::error::{ProxyError, Rejection};
use crate::metrics::{AttemptKind, InProgressGuard, Outcome, RequestCounters};
use crate::retry::{self, Failure, Progress, Verdict};
use crate::route;
use crate::stall::Reader;
use crate::view::{Server, Service, View};
use crate::worker::{REQUESTS_MAX, Worker};
use crate::{fields, grpc};

/// A response as the listener sends it: counted when it is over.
#[derive(Debug)]
pub struct Outgoing {
    body: AnswerBody,
    observed: Observed,
    /// The caller, where it takes the answer piece by piece.
    reader: Option<Rc<Reader>>,
}

/// Counts the request when its answer is over, however it ends.
#[derive(Debug)]
struct Observed {
    counters: Option<RequestCounters>,
    outcome: Outcome,
    _in_progress: Option<InProgressGuard>,
}

/// One request with everything that does not change over its attempts.
#[derive(Debug)]
struct Call<'a> {
    worker: &'a Rc<Worker>,
    service: &'a Arc<Service>,
    port: u16,
    head: &'a RequestHead,
    authority: &'a str,
    body: RequestBody,
    activity: Activity,
    started: Instant,
    /// When it must be over, all of it.
    deadline: Option<Instant>,
    /// Whether it is gRPC: an answer may be a failure although its HTTP status is none.
    grpc: bool,
    hash: Option<u64>,
    request_id: [u8; 16],
    replayable_method: bool,
    /// It was hedged: one hedge a request.
    hedged: Cell<bool>,
}

/// How a call came out: the answer, and the node that gave it.
type Served = Result<(Answer, NodeIndex), (Failure, bool)>;

/// How an attempt came out, with the hedge beside it: the answer or the failure, and the node that it is of.
type Attempted = Result<(Answer, NodeIndex), (Failure, NodeIndex)>;

/// Clusters that were tried, in order.
#[derive(Clone, Copy, Debug)]
struct Tried {
    nodes: [NodeIndex; 16],
    len: usize,
}

impl Tried {
    fn none() -> Self {
        Self { nodes: [NodeIndex(0); 16], len: 0 }
    }

    fn push(&mut self, node: NodeIndex) {
        // Attempts are limited to fewer than this by the manifest.
        if let Some(slot) = self.nodes.get_mut(self.len) {
            *slot = node;
            self.len += 1;
        }
    }

    fn as_slice(&self) -> &[NodeIndex] {
        &self.nodes[..self.len]
    }
}

/// Answers one request of a caller at `source`. `give_up` is cancelled when the caller does not take the answer: the
/// connection is to be closed then.
pub async fn serve(
    worker: &Rc<Worker>,
    request: Request<Incoming>,
    source: SocketAddr,
    give_up: &CancellationToken,
) -> Response<Outgoing> {
    let view = worker.shared.view.load_full();
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
    let service = match find(&view, &worker.shared.gateway.domain, &authority) {
        Ok(found) => found,
        Err(rejection) => return reject(rejection, nameless, Outcome::NotFound),
    };
    let (service, port) = service;

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
        hedged: Cell::new(false),
    };
    let mut cancelled = Observed::of(service.unanswered.clone(), Outcome::Cancelled, None);
    let served = call.run().await;
    cancelled.counters = None;
    match served {
        Ok((mut answer, node)) => {
            service.durations.observe(started.elapsed());
            answer.body.limit(service.timeout.idle, deadline, activity);
            let counters = service.counters(node).clone();
            let streams = matches!(answer.body, AnswerBody::Stream(_));
            let mut response = respond(answer, Observed::of(counters, Outcome::Cancelled, Some(guard)));
            response.body_mut().reader =
                streams.then(|| worker.stalls.watch(service.timeout.idle, give_up.clone()));
            response
        }
        Err((_, true)) => {
            let rejection =
                Rejection::new(ProxyError::ConnectionReadTimeout, "the request's body broke off or stalled");
            reject(rejection, &service.unanswered, Outcome::Cancelled)
        }
        Err((failure, false)) => {
            debug!(service = %service.name, ?failure, "No answer.");
            let mut rejection = Rejection::from_failure(failure, &service.name);
            if rejection.error == ProxyError::DestinationUnavailable {
                rejection.details = format!("{}; {}", rejection.details, call.states());
            }
            reject(rejection, &service.unanswered, failure.into())
        }
    }
}

/// The time for the whole exchange: the policy's, and what a call of gRPC asks for if that is less.
pub(crate) fn total(service: &Service, grpc: bool, headers: &http::HeaderMap) -> Option<Duration> {
    let asked = if grpc { grpc::timeout(headers) } else { None };
    asked.into_iter().chain(service.timeout.total).min()
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
fn authority(uri: &Uri, headers: &http::HeaderMap) -> Result<String, Rejection> {
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

/// The service and port that an authority names in the mesh's `domain`.
pub(crate) fn find(view: &View, domain: &str, authority: &str) -> Result<(Arc<Service>, u16), Rejection> {
    let target = route::parse(authority, domain).map_err(|e| match e {
        route::NotMesh::Domain | route::NotMesh::Shape => {
            Rejection::new(ProxyError::DestinationNotFound, format!("`{authority}`: {e}"))
        }
        _ => Rejection::new(ProxyError::HttpRequestError, e.to_string()),
    })?;
    let service = view.service(&target).ok_or_else(|| {
        let details = format!(
            "no service `{authority}` is served or imported here; `ringway status` lists those that are"
        );
        Rejection::new(ProxyError::DestinationNotFound, details)
    })?;
    let port = service.port(target.port).ok_or_else(|| {
        let ports: Vec<String> = service.ports.iter().map(|p| p.number.to_string()).collect();
        let details = format!("{} has no such port; it has {}", service.name, ports.join(", "));
        Rejection::new(ProxyError::DestinationNotFound, details)
    })?;
    Ok((service.clone(), port.number))
}

impl Call<'_> {
    /// Attempts until there is an answer or nothing more to try. The failure says whether the caller is at fault.
    async fn run(&self) -> Served {
        let shared = &self.worker.shared;
        self.service.budgets.retries.deposit(shared.clock.micros());
        self.service.budgets.hedges.deposit(shared.clock.micros());
        let mut timer = std::pin::pin!(self.timer());
        let mut attempts = std::pin::pin!(self.attempts());
        tokio::select! {
            biased;
            served = &mut attempts => served,
            caller_at_fault = &mut timer => Err((Failure::Deadline, caller_at_fault)),
        }
    }

    /// Ends when time is up: true if it was the caller who let it pass.
    async fn timer(&self) -> bool {
        let (timeout, total) = (&self.service.timeout, self.deadline);
        loop {
            let ended = self.body.ended_at(self.started);
            let idle = self.activity.last() + timeout.idle;
            let due = ended.map_or(idle, |ended| ended + timeout.head);
            let due = total.map_or(due, |total| total.min(due));
            if due <= Instant::now() {
                return ended.is_none() && total.is_none_or(|total| total > due);
            }
            tokio::time::sleep_until(due).await;
        }
    }

    async fn attempts(&self) -> Served {
        let shared = &self.worker.shared;
        let mut tried = Tried::none();
        let mut last = Failure::Unavailable;
        // The node that said `MISPLACED`, while it is asked once more.
        let mut insist: Option<NodeIndex> = None;
        // A peer to which a tunnel was lost, and which is up all the same: it is asked on another, once.
        let (mut again, mut was_again) = (None, false);
        loop {
            let known = insist.or_else(|| again.take());
            let Some(node) = known.or_else(|| self.next(&tried)) else { return Err((last, false)) };
            let kind = if tried.len == 0 { AttemptKind::First } else { AttemptKind::Retry };
            if known.is_none() {
                tried.push(node);
            }
            let done = self.attempt_with_hedge(node, &mut tried, insist.is_some(), kind).await;
            let (failure, node) = match &done {
                Err(failed) => *failed,
                Ok((answer, node)) => match self.failure_in(answer) {
                    Some(failure) => (failure, *node),
                    None => return done.map_err(|(f, _)| (f, false)),
                },
            };
            if self.body.failed() {
                return Err((failure, true));
            }
            let progress = Progress { insisted: insist.is_some(), ..self.progress(&tried) };
            let now = shared.clock.micros();
            let verdict =
                retry::verdict(failure, &progress, &self.service.retry, &self.service.budgets.retries, now);
            debug!(service = %self.service.name, cluster = %self.service.placement.cluster(node), ?failure, ?verdict, "Attempt failed.");
            insist = match verdict {
                Verdict::TryNext => None,
                Verdict::Insist => Some(node),
                // An answer of the endpoint, though a bad one, is better than ours.
                Verdict::GiveUp(_) => return done.map_err(|(f, _)| (f, false)),
            };
            if verdict == Verdict::TryNext && !was_again && self.is_up_otherwise(node, failure) {
                (again, was_again) = (Some(node), true);
            }
            if let (Ok(_), None, None) = (&done, insist, self.next(&tried)) {
                return done.map_err(|(f, _)| (f, false));
            }
            last = failure;
        }
    }

    /// What an answer says that is a failure all the same: whoever may try again does.
    fn failure_in(&self, answer: &Answer) -> Option<Failure> {
        let status = answer.status.as_u16();
        if self.service.retry.on.statuses.contains(&status) {
            Some(Failure::Status(status))
        } else if self.grpc && grpc::is_unavailable(&answer.headers) {
            Some(Failure::GrpcUnavailable)
        } else {
            None
        }
    }

    /// Whether the tunnel to `node` was lost, and the peer is up on another.
    fn is_up_otherwise(&self, node: NodeIndex, failure: Failure) -> bool {
        let now = self.worker.shared.clock.micros();
        matches!(failure, Failure::PeerLost | Failure::NotSent)
            && matches!(self.service.server(node), Server::Peer(..))
            && self.service.availability(node, self.port, now) == crate::placement::Availability::Up
    }

    fn next(&self, tried: &Tried) -> Option<NodeIndex> {
        let now = self.worker.shared.clock.micros();
        let placement = &self.service.placement;
        let availability = |node| self.service.availability(node, self.port, now);
        let capacity = |node| self.service.capacity(node, self.port, now);
        self.worker
            .pool
            .with_rng(|rng| placement.next_by(self.hash, tried.as_slice(), availability, capacity, rng))
    }

    /// How the clusters are that could have served it, for people.
    fn states(&self) -> String {
        let (placement, now) = (&self.service.placement, self.worker.shared.clock.micros());
        let states = placement.nodes().map(|(node, member)| {
            format!("{} is {}", member.cluster, self.service.availability(node, self.port, now).as_str())
        });
        states.collect::<Vec<_>>().join(", ")
    }

    fn progress(&self, tried: &Tried) -> Progress {
        let used = u8::try_from(tried.len).unwrap_or(u8::MAX);
        Progress {
            attempts_left: self.service.retry.attempts.saturating_sub(used),
            replayable_method: self.replayable_method,
            body_kept: self.body.can_restart(),
            forwarded: false,
            insisted: false,
            expired: false,
        }
    }
}

impl Observed {
    fn of(counters: RequestCounters, outcome: Outcome, guard: Option<InProgressGuard>) -> Self {
        Self { counters: Some(counters), outcome, _in_progress: guard }
    }
}

impl Drop for Observed {
    fn drop(&mut self) {
        if let Some(counters) = &self.counters {
            counters.ended(self.outcome);
        }
    }
}

fn respond(answer: Answer, mut observed: Observed) -> Response<Outgoing> {
    if matches!(answer.body, AnswerBody::Whole(_)) {
        observed.outcome = Outcome::Answered;
    }
    let mut response = Response::new(Outgoing { body: answer.body, observed, reader: None });
    *response.status_mut() = answer.status;
    *response.headers_mut() = answer.headers;
    response
}

fn reject(
    worker: &Rc<Worker>,
    grpc: bool,
    rejection: Rejection,
    counters: &RequestCounters,
    outcome: Outcome,
) -> Response<Outgoing> {
    let name = &worker.shared.name;
    let answer = if grpc { rejection.into_grpc_answer(name) } else { rejection.into_answer(name) };
    let mut response = respond(answer, Observed::of(counters.clone(), outcome, None));
    response.body_mut().observed.outcome = outcome;
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
            Poll::Ready(Some(Err(_))) => this.observed.outcome = Outcome::Cut,
            Poll::Ready(None) if this.observed.outcome == Outcome::Cancelled => {
                this.observed.outcome = Outcome::Answered;
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
