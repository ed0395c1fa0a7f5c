//! One request to the endpoints of a port: which is asked, with what connection, and who is asked after one that fails.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::header::{HOST, HeaderValue, TE};
use http::uri::{Authority, Scheme};
use http::{HeaderMap, Request, StatusCode, Uri};
use http1::client::Asking;
use registry::base::time::Tick;
use registry::model::{Port, Protocol};

use super::connect::ConnectError;
use super::pool::{Pool, Reuse, SendError, Sending};
use super::{EndpointAnswer, EndpointBody, Watch};
use crate::http::body::{RequestBody, Upload, http2};
use crate::http::message::{self, BadAnswer, RequestHead};
use policy::balance::{Change, EndpointState, Endpoints, InFlight};
use policy::grpc;
use policy::retry::Failure;

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
    fn end(&self, tell: impl FnOnce(&InFlight, Tick) -> Option<Change>) {
        if let Some(in_flight) = &self.in_flight {
            let change = tell(in_flight, self.watch.clock.now());
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
        let mut search = Search::new();
        loop {
            let (index, in_flight) = search.take(self)?;
            let others =
                !search.patient && self.port.1.has_others(self.watch.clock.now(), &search.tried, index);
            let most = if others { CONNECT_WAIT_WITH_OTHERS } else { Duration::MAX };
            let connect = self.allowance.connect.min(most);
            let endpoint = in_flight.endpoint().clone();
            let exchange = Exchange { in_flight: Some(in_flight), watch: self.watch, expired: self.expired };
            let replayable = self.allowance.replayable;
            // What is still being read may be gone by the time that another connection is to have it.
            let reuse = if replayable && self.body.is_buffered() { Reuse::Any } else { Reuse::Fresh };
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
            match search.judge(self, &exchange, &error, others.then_some(index)) {
                Next::Same => {}
                Next::Other if self.body.can_restart() => search.tried.push(index),
                Next::Other | Next::Nobody => return Err(search.failure),
            }
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
        let connected = || watch.tell(endpoint, endpoint.connected(clock.now()));
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
                let answer = pool.send(&sending, asking, body).await?;
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
                let (response, stream, upload) = pool.multiplexed.send(pool, &sending, request, body).await?;
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
                tracing::debug!(endpoint = %self.port.0.name, error = %bad, "Endpoint response rejected.");
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

/// Who is asked after a failure.
enum Next {
    /// Another endpoint, if there is one.
    Other,
    /// Perhaps the same.
    Same,
    /// Nobody.
    Nobody,
}

/// How far the search for an endpoint that serves has come.
struct Search {
    /// Those that were asked, by their place.
    tried: Vec<usize>,
    /// Those that took long to connect, and made way for others ...
    slow: Vec<usize>,
    /// ... and have all the time there is once no other is left.
    patient: bool,
    /// What the last one did.
    failure: Failure,
    /// Attempts after which an endpoint may have processed the request.
    reached: u8,
    gone_away: bool,
}

impl Search {
    fn new() -> Self {
        let (tried, slow) = (Vec::new(), Vec::new());
        Self { tried, slow, patient: false, failure: Failure::Unavailable, reached: 0, gone_away: false }
    }

    /// Begins a request at the next endpoint.
    fn take(&mut self, ask: &Ask<'_>) -> Result<(usize, InFlight), Failure> {
        let (endpoints, clock) = (&ask.port.1, ask.watch.clock);
        loop {
            let news = |endpoint: &Arc<EndpointState>, change| ask.watch.told(endpoint, Some(change));
            let tried = &self.tried;
            let taken = ask.pool.with_rng(|rng| endpoints.take(clock.now(), rng, ask.key, tried, news));
            if let Some(taken) = taken {
                return Ok(taken);
            }
            if self.slow.is_empty() {
                let nobody = self.failure == Failure::Unavailable;
                let crowded = nobody && endpoints.is_crowded(clock.now(), tried);
                return Err(if crowded { Failure::Overloaded } else { self.failure });
            }
            self.tried.retain(|index| !self.slow.contains(index));
            self.slow.clear();
            self.patient = true;
        }
    }

    /// Notes what an endpoint did, for its health and for the answer; `in_haste`: the place of one that had less than the
    /// whole time to connect.
    fn judge(
        &mut self,
        ask: &Ask<'_>,
        exchange: &Exchange<'_>,
        error: &SendError,
        in_haste: Option<usize>,
    ) -> Next {
        let nobodys_fault = || exchange.end(|in_flight, _| unblamed(in_flight));
        match error {
            SendError::Connect(ConnectError::Ours(_)) => {
                nobodys_fault();
                return self.end(Failure::NoRoom);
            }
            SendError::Connect(ConnectError::Unanswered(_)) => {
                exchange.end(InFlight::unanswered);
                self.slow.extend(in_haste);
                self.not_reached(Failure::Connect);
            }
            SendError::Connect(ConnectError::Refused(_)) => {
                exchange.end(InFlight::refused);
                self.not_reached(Failure::Connect);
            }
            SendError::Crowded => {
                nobodys_fault();
                self.not_reached(Failure::Overloaded);
            }
            SendError::GoneAway if !self.gone_away && ask.body.can_restart() => {
                // The end of a connection is not the endpoint's: it may well take another one.
                nobodys_fault();
                self.gone_away = true;
                return Next::Same;
            }
            SendError::Refused | SendError::GoneAway => {
                exchange.end(InFlight::failed);
                self.not_reached(Failure::Refused);
            }
            // No other endpoint would do better.
            SendError::TooLarge(_) => {
                nobodys_fault();
                return self.end(Failure::AnswerTooLarge);
            }
            // The caller broke off in the middle of its body, not the endpoint.
            SendError::Body => {
                nobodys_fault();
                return self.end(Failure::Cancelled);
            }
            SendError::Cut | SendError::CutReused if ask.body.failed() => {
                nobodys_fault();
                return self.end(Failure::Cancelled);
            }
            SendError::Cut | SendError::CutReused | SendError::Malformed(_) => {
                exchange.end(InFlight::failed);
                self.reached += 1;
                let malformed = matches!(error, SendError::Malformed(_));
                self.failure = if malformed { Failure::Malformed } else { Failure::Reset };
                if !ask.allowance.replayable || self.reached >= ask.allowance.attempts {
                    return Next::Nobody;
                }
            }
        }
        Next::Other
    }

    /// The request did not get as far as an endpoint: what one did that it reached says more.
    fn not_reached(&mut self, failure: Failure) {
        if self.reached == 0 {
            self.failure = failure;
        }
    }

    fn end(&mut self, failure: Failure) -> Next {
        self.failure = failure;
        Next::Nobody
    }
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
