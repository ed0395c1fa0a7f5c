//! The way to an instance of a service on this side: connections of one worker, pooled with HTTP/1.1 and shared with
//! HTTP/2; which endpoint is asked, and who is after one that fails.

mod connect;
mod multiplex;
mod pool;
mod probe;

use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::header::{HOST, HeaderValue, TE};
use http::uri::{Authority, Scheme};
use http::{HeaderMap, Request, StatusCode, Uri};
use http_body::{Body, Frame, SizeHint};
use http1::client::Asking;
use registry::model::{HostPort, Port, Protocol};

use crate::base::clock::Clock;
use crate::base::news::News;
use crate::http::body::{BodyError, RequestBody, Upload, http2};
use crate::http::fields;
use crate::http::message::{self, BadAnswer, RequestHead};
use crate::telemetry::audit;
use policy::balance::{Change, EndpointState, Endpoints, InFlight};
use policy::grpc;
use policy::retry::Failure;

pub use connect::{ConnectError, connect, is_ours};
pub use pool::Pool;
use pool::{Reuse, SendError, Sending};

/// How long a connect may take while another endpoint could be asked instead.
const CONNECT_WAIT_WITH_OTHERS: Duration = Duration::from_secs(1);

/// What a request may do when an endpoint fails it.
#[derive(Clone, Copy, Debug)]
pub struct Allowance {
    /// Whether it may reach a second endpoint after a first has perhaps processed it.
    pub replayable: bool,
    /// Endpoints that it may reach in all; those that refuse it do not count.
    pub attempts: u8,
    /// How long a connection may take to be made, where no other endpoint is left.
    pub connect: Duration,
}

/// A request for one of the endpoints of a port.
pub struct Ask<'a> {
    /// The connections of the worker.
    pub pool: &'a Rc<Pool>,
    /// The port, and its endpoints.
    pub port: &'a (Port, Endpoints),
    /// The time, and who hears of changes.
    pub watch: &'a Rc<Watch>,
    /// What is asked.
    pub head: &'a RequestHead,
    /// The body.
    pub body: &'a RequestBody,
    /// The hash of its key, where endpoints are picked by it.
    pub key: Option<u64>,
    /// What it may do when an endpoint fails it.
    pub allowance: Allowance,
    /// Set when the time that the policy gives is over: being dropped then is the endpoint's doing.
    pub expired: &'a Cell<bool>,
    /// Given interim answers that go on.
    pub interim: &'a dyn Fn(StatusCode, &HeaderMap),
    /// Cancelled when the process drains.
    pub stop: &'a tokio_util::sync::CancellationToken,
}

/// A request in flight, whose end is told however it ends.
#[derive(Debug)]
struct Exchange<'a> {
    in_flight: Option<InFlight>,
    watch: &'a Rc<Watch>,
    expired: &'a Cell<bool>,
}

impl Exchange<'_> {
    /// Tells how it ended.
    fn end(&self, tell: impl FnOnce(&InFlight, u64) -> Option<Change>) {
        if let Some(in_flight) = &self.in_flight {
            let change = tell(in_flight, self.watch.clock.micros());
            self.watch.told(in_flight.endpoint(), change);
        }
    }
}

impl Drop for Exchange<'_> {
    fn drop(&mut self) {
        let expired = self.expired.get();
        self.end(|in_flight, now| if expired { in_flight.timed_out(now) } else { in_flight.given_up(now) });
    }
}

impl Ask<'_> {
    /// Sends the request to an endpoint, and on to others as long as that can do no harm: after a refusal any request,
    /// else those that are replayable. Those that are out by passive signs come last, and none is passed over for good
    /// while it might answer: where nothing else is left, one that took long to connect has all the time there is.
    ///
    /// # Errors
    /// What the last endpoint did; [`Failure::Unavailable`] when there is none.
    pub async fn send(&self) -> Result<EndpointAnswer, Failure> {
        let (pool, clock) = (self.pool, self.watch.clock);
        let endpoints = &self.port.1;
        let mut tried = Vec::new();
        // Those that took long to connect, and made way for others; once no other is left they have all the time there is.
        let (mut slow, mut patient) = (Vec::new(), false);
        let mut failure = Failure::Unavailable;
        let (mut reached, mut gone_away) = (0, false);
        loop {
            let news = |endpoint: &Arc<EndpointState>, change| self.watch.told(endpoint, Some(change));
            let taken = pool.with_rng(|rng| endpoints.take(clock.micros(), rng, self.key, &tried, news));
            let Some((index, in_flight)) = taken else {
                if !slow.is_empty() {
                    tried.retain(|index| !slow.contains(index));
                    slow.clear();
                    patient = true;
                    continue;
                }
                let crowded = failure == Failure::Unavailable && endpoints.is_crowded(clock.micros(), &tried);
                return Err(if crowded { Failure::Overloaded } else { failure });
            };
            let others = !patient && endpoints.has_others(clock.micros(), &tried, index);
            let connect = if others {
                self.allowance.connect.min(CONNECT_WAIT_WITH_OTHERS)
            } else {
                self.allowance.connect
            };
            let endpoint = in_flight.endpoint().clone();
            let exchange = Exchange { in_flight: Some(in_flight), watch: self.watch, expired: self.expired };
            let replayable = self.allowance.replayable;
            let reuse = if replayable { Reuse::Any } else { Reuse::Fresh };
            let mut sent = self.attempt(&endpoint, reuse, connect).await;
            // An endpoint may close an idle connection at the moment in which it is used again: that says nothing about
            // the endpoint, and a connection of its own will.
            if matches!(sent, Err(SendError::CutReused)) && replayable && self.body.can_restart() {
                sent = self.attempt(&endpoint, Reuse::None, connect).await;
            }
            let error = match sent {
                Ok(sent) => return self.answer(sent, exchange),
                Err(error) => error,
            };
            match error {
                SendError::Connect(ConnectError::Ours(_)) => {
                    exchange.end(|in_flight, _| unblamed(in_flight));
                    return Err(Failure::NoRoom);
                }
                SendError::Connect(ConnectError::Unanswered(_)) => {
                    exchange.end(InFlight::unanswered);
                    failure = if reached == 0 { Failure::Connect } else { failure };
                    if others {
                        slow.push(index);
                    }
                }
                SendError::Connect(ConnectError::Refused(_)) => {
                    exchange.end(InFlight::refused);
                    failure = if reached == 0 { Failure::Connect } else { failure };
                }
                SendError::Crowded => {
                    exchange.end(|in_flight, _| unblamed(in_flight));
                    failure = if reached == 0 { Failure::Overloaded } else { failure };
                }
                SendError::GoneAway if !gone_away && self.body.can_restart() => {
                    // The end of a connection is not the endpoint's: it may well take another one.
                    exchange.end(|in_flight, _| unblamed(in_flight));
                    gone_away = true;
                    continue;
                }
                SendError::Refused | SendError::GoneAway => {
                    exchange.end(InFlight::failed);
                    failure = if reached == 0 { Failure::Refused } else { failure };
                }
                // Nobody's fault, and no other endpoint would do better.
                SendError::TooLarge(_) => {
                    exchange.end(|in_flight, _| unblamed(in_flight));
                    return Err(Failure::AnswerTooLarge);
                }
                // The caller broke off in the middle of its body, not the endpoint.
                SendError::Body => {
                    exchange.end(|in_flight, _| unblamed(in_flight));
                    return Err(Failure::Cancelled);
                }
                SendError::Cut | SendError::CutReused if self.body.failed() => {
                    exchange.end(|in_flight, _| unblamed(in_flight));
                    return Err(Failure::Cancelled);
                }
                SendError::Cut | SendError::CutReused | SendError::Malformed(_) => {
                    exchange.end(InFlight::failed);
                    reached += 1;
                    failure = if matches!(error, SendError::Malformed(_)) {
                        Failure::Malformed
                    } else {
                        Failure::Reset
                    };
                    if !replayable || reached >= self.allowance.attempts {
                        return Err(failure);
                    }
                }
            }
            if !self.body.can_restart() {
                return Err(failure);
            }
            tried.push(index);
        }
    }

    /// One attempt at one endpoint.
    async fn attempt(
        &self,
        endpoint: &Arc<EndpointState>,
        reuse: Reuse,
        connect: Duration,
    ) -> Result<EndpointAnswer, SendError> {
        let Self { pool, head, body, watch, .. } = self;
        let clock = watch.clock;
        let connected = || watch.tell(endpoint, endpoint.connected(clock.micros()));
        let interim = |status, mut headers| {
            if message::interim(status, &mut headers) {
                (self.interim)(status, &headers);
            }
        };
        let sending = Sending { endpoint, clock, reuse, connect, connected: &connected, interim: &interim };
        match endpoint.protocol() {
            Protocol::Http => {
                let target = origin(&head.target);
                let asking = Asking { method: &head.method, target, headers: &head.headers };
                let answer = pool.send(&sending, asking, || body.reader()).await?;
                let http1::client::Answer { head, body, upload } = answer;
                let upload = upload.map(|upload| self.go_on(upload.run()));
                let body = EndpointBody::http1(body, (*pool).clone(), endpoint.address().clone());
                Ok(EndpointAnswer {
                    status: head.status,
                    reason: head.reason,
                    headers: head.headers,
                    body,
                    upload,
                    endpoint: endpoint.clone(),
                })
            }
            Protocol::Grpc => {
                let request = || {
                    let mut request = Request::new(());
                    *request.method_mut() = head.method.clone();
                    *request.uri_mut() = absolute(head, endpoint);
                    *request.headers_mut() = head.headers.clone();
                    request.headers_mut().remove(HOST);
                    // We read trailers, whatever the caller said of its own hop. Servers of gRPC insist.
                    request.headers_mut().insert(TE, HeaderValue::from_static("trailers"));
                    request
                };
                let (response, stream, upload) =
                    pool.multiplexed.send(pool, &sending, request, || body.reader()).await?;
                let (parts, received) = response.into_parts();
                let upload = upload.map(|upload| self.go_on(upload));
                let body = EndpointBody::http2(http2::Received::new(received, None), stream);
                Ok(EndpointAnswer {
                    status: parts.status,
                    reason: None,
                    headers: parts.headers,
                    body,
                    upload,
                    endpoint: endpoint.clone(),
                })
            }
        }
    }

    /// Sends the rest of a request beside its answer.
    fn go_on(&self, upload: impl Future<Output = ()> + 'static) -> Upload {
        Upload::begin(upload, self.body.clone(), self.stop.clone())
    }

    /// Judges an answer, and what it says of the endpoint's health.
    fn answer(
        &self,
        mut answer: EndpointAnswer,
        mut exchange: Exchange<'_>,
    ) -> Result<EndpointAnswer, Failure> {
        let status = answer.status;
        let unavailable = grpc::is_unavailable(&answer.headers);
        let declared = match message::answer(&self.head.method, status, &mut answer.headers) {
            Ok(declared) => declared,
            Err(bad) => {
                tracing::debug!(endpoint = %self.port.0.name, error = %bad, "The answer of an endpoint does not go on.");
                if bad == BadAnswer::TooManyFields {
                    exchange.end(|in_flight, _| unblamed(in_flight));
                    return Err(Failure::AnswerTooLarge);
                }
                exchange.end(InFlight::failed);
                return Err(Failure::Malformed);
            }
        };
        match status.as_u16() {
            // What a server says that does not work, or whose own servers do not.
            _ if unavailable => exchange.end(InFlight::failed),
            502..=504 => exchange.end(InFlight::failed),
            500.. => exchange.end(|in_flight, now| {
                in_flight.erred(now);
                None
            }),
            _ => exchange.end(InFlight::answered),
        }
        answer.body.declared = declared;
        answer.body.in_flight = exchange.in_flight.take().map(|in_flight| (in_flight, self.watch.clone()));
        Ok(answer)
    }
}

/// The answer of an endpoint, its body to come.
#[derive(Debug)]
pub struct EndpointAnswer {
    /// Its status.
    pub status: StatusCode,
    /// What stood behind the status, if it was unusual.
    pub reason: Option<Bytes>,
    /// Its fields, hop-by-hop ones removed.
    pub headers: HeaderMap,
    /// Its body.
    pub body: EndpointBody,
    /// What is still to be sent of the request, if the answer came before its end.
    pub upload: Option<Upload>,
    /// Which endpoint it is of.
    pub endpoint: Arc<EndpointState>,
}

fn unblamed(in_flight: &InFlight) -> Option<Change> {
    in_flight.unblamed();
    None
}

/// Path and query, or `*`.
fn origin(target: &Uri) -> &str {
    target.path_and_query().map_or("/", http::uri::PathAndQuery::as_str)
}

/// The target with scheme and authority, as HTTP/2 has it (RFC 9113, section 8.3.1).
fn absolute(head: &RequestHead, endpoint: &EndpointState) -> Uri {
    let host = head.headers.get(HOST).and_then(|host| Authority::try_from(host.as_bytes()).ok());
    let mut parts = head.target.clone().into_parts();
    parts.scheme = Some(Scheme::HTTP);
    parts.authority = host.or_else(|| Authority::try_from(endpoint.address().to_string()).ok());
    Uri::from_parts(parts).unwrap_or_else(|_| head.target.clone())
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

/// The time, and who hears when the state of an endpoint changes.
#[derive(Debug)]
pub struct Watch {
    /// The time.
    pub clock: Clock,
    news: News,
}

impl Watch {
    /// Changes are told to those who follow `news`.
    pub fn new(clock: Clock, news: News) -> Rc<Self> {
        Rc::new(Self { clock, news })
    }

    /// Logs a change, and wakes those who follow the states of endpoints.
    fn tell(&self, endpoint: &EndpointState, change: Option<Change>) {
        if change.is_some() {
            self.news.tell();
        }
        tell(endpoint, change);
    }

    /// The same after an exchange with it; one that is out is probed in the background.
    fn told(self: &Rc<Self>, endpoint: &Arc<EndpointState>, change: Option<Change>) {
        self.tell(endpoint, change);
        probe::look_after(endpoint, self);
    }
}

/// The body of an endpoint's answer; its connection can be used again when it was read to its end.
#[derive(Debug)]
pub struct EndpointBody {
    source: BodySource,
    declared: fields::Declared,
    in_flight: Option<(InFlight, Rc<Watch>)>,
}

/// Where it comes from, with what it holds of its connection.
#[derive(Debug)]
enum BodySource {
    /// All of it, with HTTP/1.1.
    Http1(Box<(http1::client::ResponseBody, Rc<Pool>, HostPort)>),
    /// One stream, with HTTP/2.
    Http2(Box<(http2::Received, multiplex::Stream)>),
    /// Nothing any more.
    Over,
}

impl EndpointBody {
    fn http1(body: http1::client::ResponseBody, pool: Rc<Pool>, address: HostPort) -> Self {
        let source = BodySource::Http1(Box::new((body, pool, address)));
        Self { source, declared: fields::Declared::UNKNOWN, in_flight: None }
    }

    fn http2(body: http2::Received, stream: multiplex::Stream) -> Self {
        let source = BodySource::Http2(Box::new((body, stream)));
        Self { source, declared: fields::Declared::UNKNOWN, in_flight: None }
    }

    /// All of it came.
    fn complete(&mut self) {
        if let BodySource::Http1(all) = std::mem::replace(&mut self.source, BodySource::Over) {
            let (body, pool, address) = *all;
            if let Some(connection) = body.into_connection() {
                pool.give_back(&address, connection);
            }
        }
        if let Some((in_flight, _)) = &self.in_flight {
            in_flight.completed();
        }
    }

    /// The endpoint broke off.
    fn broke_off(&mut self) {
        self.source = BodySource::Over;
        if let Some((in_flight, watch)) = &self.in_flight {
            watch.told(in_flight.endpoint(), in_flight.failed(watch.clock.micros()));
        }
    }

    fn poll_source(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let next = match &mut self.source {
            BodySource::Http1(all) => match ready!(Pin::new(&mut all.0).poll_frame(cx)) {
                Some(Ok(mut frame)) => {
                    if let Some(trailers) = frame.trailers_mut() {
                        message::trailers(trailers);
                    }
                    Some(Ok(frame))
                }
                Some(Err(error)) => Some(Err(BodyError::Http1(error))),
                None => None,
            },
            BodySource::Http2(all) => ready!(all.0.poll_frame(cx)),
            BodySource::Over => return Poll::Ready(None),
        };
        Poll::Ready(match next {
            Some(Ok(frame)) => match frame.data_ref().is_none_or(|data| self.declared.take(data.len())) {
                true => Some(Ok(frame)),
                false => Some(Err(BodyError::Length)),
            },
            None if !self.declared.is_met() => Some(Err(BodyError::Length)),
            other => other,
        })
    }
}

impl Body for EndpointBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let polled = ready!(self.poll_source(cx));
        match &polled {
            None => self.complete(),
            Some(Err(_)) => self.broke_off(),
            Some(Ok(_)) => {}
        }
        Poll::Ready(polled)
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            BodySource::Http1(all) => all.0.is_end_stream(),
            BodySource::Http2(all) => all.0.is_end_stream(),
            BodySource::Over => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        self.declared.length().map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}
