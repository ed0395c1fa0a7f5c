//! One request to the endpoints of a port: which is asked, with what connection, and who is asked after one that fails.

use std::sync::Arc;
use std::time::Duration;

use http::header::{HOST, HeaderValue, TE};
use http::uri::{Authority, Scheme};
use http::{HeaderMap, Method, Request, StatusCode, Uri};
use http1::client::Asking;
use registry::model::Protocol;

use super::pool::{Reuse, SendError, Sending};
use super::search::{Exchange, Next, Search, Taken, Way, unblamed};
use super::{EndpointAnswer, EndpointBody, Held, Served};
use crate::http::body::{RequestBody, Upload, http2};
use crate::http::join::{self, End};
use crate::http::message::{self, BadAnswer, RequestHead};
use crate::http::{fields, upgrade};
use policy::balance::{EndpointState, InFlight};
use policy::grpc;
use policy::retry::Failure;

/// What was sent right behind a head is here by then, a loss on most ways included.
const END_WAIT: Duration = Duration::from_millis(200);

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
    /// Where it may go.
    pub way: Way<'a>,
    /// What is asked.
    pub head: &'a RequestHead,
    /// The body.
    pub body: &'a RequestBody,
    /// What it may do when an endpoint fails it.
    pub allowance: Allowance,
    /// Given interim answers that go on.
    pub interim: &'a dyn Fn(StatusCode, &HeaderMap),
    /// Cancelled when the process drains.
    pub stop: &'a tokio_util::sync::CancellationToken,
}

impl Ask<'_> {
    /// Sends the request to an endpoint, and on to others as long as that can do no harm: after a refusal any request,
    /// else those that are replayable. Those that are out by passive signs come last, and none is passed over for good
    /// while it might answer: where nothing else is left, one that took long to connect has all the time there is.
    ///
    /// # Errors
    /// What the last endpoint did; [`Failure::Unavailable`] when there is none.
    pub async fn send(&self) -> Result<EndpointAnswer, Failure> {
        if message::rarely_has_body(&self.head.method) {
            // Its end is most likely in the next packet or frame, of a tunnel or of HTTP/2. An endpoint that is told of a
            // body, though an empty one, may refuse it.
            self.body.begun(END_WAIT).await;
            if self.body.failed() {
                return Err(Failure::Cancelled);
            }
        }
        let mut search = Search::new();
        loop {
            let Taken { index, endpoint, exchange, connect, in_haste } =
                search.take(&self.way, self.allowance.connect)?;
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
            match self.judge(&mut search, &exchange, &error, in_haste) {
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
        let Self { head, body, .. } = self;
        let Way { pool, watch, .. } = &self.way;
        let clock = watch.clock;
        let connected = || watch.tell(endpoint, endpoint.connected(clock.now()));
        let interim = |status, mut headers| {
            if message::interim(status, &mut headers) {
                (self.interim)(status, &headers);
            }
        };
        let sending = Sending { endpoint, clock, reuse, connect, connected: &connected, interim: &interim };
        match endpoint.protocol() {
            // The other ports are refused where HTTP is placed.
            Protocol::Http
            | Protocol::Tcp
            | Protocol::Tls
            | Protocol::Udp
            | Protocol::Thrift
            | Protocol::Mux => {
                let target = origin(&head.target);
                let asked = head.upgrade.as_ref().map(|protocol| {
                    let mut headers = head.headers.clone();
                    let key = || pool.with_rng(|rng| rng.u128(..)).to_be_bytes();
                    upgrade::ask_http1(&mut headers, protocol, key);
                    headers
                });
                let headers = asked.as_ref().unwrap_or(&head.headers);
                let asking = Asking { method: &head.method, target, headers };
                let answer = pool.send(&sending, asking, body).await?;
                let http1::client::Answer { head, body, upload } = answer;
                if head.status == StatusCode::SWITCHING_PROTOCOLS {
                    return switched(head.headers, asked.as_ref(), body, endpoint);
                }
                let upload = upload.map(|upload| self.go_on(upload.run()));
                let body = EndpointBody::http1(body, (*pool).clone(), endpoint.address().clone());
                Ok(EndpointAnswer {
                    status: head.status,
                    reason: head.reason,
                    headers: head.headers,
                    body,
                    upload,
                    endpoint: endpoint.clone(),
                    upgraded: None,
                })
            }
            Protocol::Grpc => {
                if let Some(protocol) = &head.upgrade {
                    return self.connect(protocol, endpoint, &sending).await;
                }
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
                    upgraded: None,
                })
            }
        }
    }

    /// Asks an endpoint of HTTP/2 for a tunnel that speaks `protocol` (RFC 8441).
    async fn connect(
        &self,
        protocol: &HeaderValue,
        endpoint: &Arc<EndpointState>,
        sending: &Sending<'_>,
    ) -> Result<EndpointAnswer, SendError> {
        let Self { head, way, .. } = self;
        let malformed = |what: &str| SendError::Malformed(what.into());
        let protocol = protocol.to_str().map_err(|_| malformed("no such protocol"))?;
        let request = || {
            let mut request = Request::new(());
            *request.method_mut() = Method::CONNECT;
            *request.uri_mut() = absolute(head, endpoint);
            *request.headers_mut() = head.headers.clone();
            request.headers_mut().remove(HOST);
            upgrade::ask_http2(request.headers_mut());
            request.extensions_mut().insert(h2::ext::Protocol::from(protocol));
            request
        };
        let (response, mut send, stream) = way.pool.multiplexed.connect(way.pool, sending, request).await?;
        let (parts, received) = response.into_parts();
        let mut answer = EndpointAnswer {
            status: parts.status,
            reason: None,
            headers: parts.headers,
            body: EndpointBody::over(),
            upload: None,
            endpoint: endpoint.clone(),
            upgraded: None,
        };
        let received = http2::Received::new(received, None);
        if parts.status.is_success() {
            answer.status = StatusCode::SWITCHING_PROTOCOLS;
            fields::strip_hop_by_hop(&mut answer.headers);
            let end = End::Http2(join::Http2::new(send, received));
            answer.upgraded = Some(Box::new(Served { end, held: None }));
            // The stream counts for as long as it is held.
            answer.body = EndpointBody::http2_place(stream);
        } else {
            // It wants nothing more of us.
            let _ = send.send_data(bytes::Bytes::new(), true);
            answer.body = EndpointBody::http2(received, stream);
        }
        Ok(answer)
    }

    /// Notes what an endpoint did, for its health and for the answer; `in_haste`: the place of one that had less than the
    /// whole time to connect.
    fn judge(
        &self,
        search: &mut Search,
        exchange: &Exchange<'_>,
        error: &SendError,
        in_haste: Option<usize>,
    ) -> Next {
        let nobodys_fault = || exchange.end(|in_flight, _| unblamed(in_flight));
        match error {
            SendError::NotConnected(why) => return search.not_connected(exchange, why, in_haste),
            SendError::GoneAway if !search.gone_away && self.body.can_restart() => {
                // The end of a connection is not the endpoint's: it may well take another one.
                nobodys_fault();
                search.gone_away = true;
                return Next::Same;
            }
            SendError::Refused | SendError::GoneAway => {
                exchange.end(InFlight::failed);
                search.not_reached(Failure::Refused);
            }
            // No other endpoint would do better.
            SendError::TooLarge(_) => {
                nobodys_fault();
                return search.end(Failure::AnswerTooLarge);
            }
            SendError::NoTunnels => {
                nobodys_fault();
                return search.end(Failure::Malformed);
            }
            // The caller broke off in the middle of its body, not the endpoint.
            SendError::Body => {
                nobodys_fault();
                return search.end(Failure::Cancelled);
            }
            SendError::Cut | SendError::CutReused if self.body.failed() => {
                nobodys_fault();
                return search.end(Failure::Cancelled);
            }
            SendError::Cut | SendError::CutReused | SendError::Malformed(_) => {
                exchange.end(InFlight::failed);
                search.reached += 1;
                let malformed = matches!(error, SendError::Malformed(_));
                search.failure = if malformed { Failure::Malformed } else { Failure::Reset };
                if !self.allowance.replayable || search.reached >= self.allowance.attempts {
                    return Next::Nobody;
                }
            }
        }
        Next::Other
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
        if let Some(upgraded) = &mut answer.upgraded {
            exchange.end(InFlight::answered);
            let stream = answer.body.take_place();
            upgraded.held =
                exchange.in_flight.take().map(|in_flight| Held::new(in_flight, self.way.watch, stream));
            return Ok(answer);
        }
        let unavailable = grpc::is_unavailable(&answer.headers);
        let declared = match message::answer(&self.head.method, status, &mut answer.headers) {
            Ok(declared) => declared,
            Err(bad) => {
                tracing::debug!(endpoint = %self.way.port.0.name, error = %bad, "Endpoint response rejected.");
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
        answer.body.in_flight =
            exchange.in_flight.take().map(|in_flight| (in_flight, self.way.watch.clone()));
        Ok(answer)
    }
}

/// The answer of an endpoint of HTTP/1.1 that speaks something else from now on.
fn switched(
    mut headers: HeaderMap,
    asked: Option<&HeaderMap>,
    body: http1::client::ResponseBody,
    endpoint: &Arc<EndpointState>,
) -> Result<EndpointAnswer, SendError> {
    let malformed = || SendError::Malformed("it switched to a protocol that nobody asked for".into());
    if !asked.is_some_and(|asked| upgrade::agreed(asked, &mut headers)) {
        return Err(malformed());
    }
    let (begun, read, write) = body.into_io().ok_or_else(malformed)?;
    // Both are of one connection.
    let stream = read.reunite(write).map_err(|_| malformed())?;
    let upgraded = Served { end: End::socket(stream, begun), held: None };
    Ok(EndpointAnswer {
        status: StatusCode::SWITCHING_PROTOCOLS,
        reason: None,
        headers,
        body: EndpointBody::over(),
        upload: None,
        endpoint: endpoint.clone(),
        upgraded: Some(Box::new(upgraded)),
    })
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
    parts.authority = host.or_else(|| Authority::try_from(endpoint.address().authority()).ok());
    Uri::from_parts(parts).unwrap_or_else(|_| head.target.clone())
}
