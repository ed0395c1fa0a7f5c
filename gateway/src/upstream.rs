//! The way to an instance of a service on this side: connections of one worker, pooled with HTTP/1.1 and shared with
//! HTTP/2; which endpoint is asked, and who is after one that fails.

mod ask;
mod call;
mod connect;
mod dial;
mod idle;
mod multiplex;
mod pool;
mod probe;
mod search;

use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use http_body::{Body, Frame, SizeHint};
use registry::model::HostPort;

use crate::base::clock::Clock;
use crate::base::news::News;
use crate::http::body::{BodyError, Upload, http2, poll_http1};
use crate::http::fields;
use crate::telemetry::audit;
use policy::balance::{Change, EndpointState, InFlight};

pub use ask::{Allowance, Ask};
pub use call::{Called, Decoder, MESSAGE_BYTES_MAX, Message, Verdict, call};
pub use connect::{ConnectError, connect, is_ours};
pub use dial::{Held, Served, dial, dial_datagrams};
pub use pool::Pool;
pub use search::Way;

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
    /// What goes on behind an answer that ends HTTP (101).
    pub upgraded: Option<Box<Served>>,
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
    /// Nothing, on a stream that is something else from now on.
    Place(multiplex::Stream),
    /// Nothing any more.
    Over,
}

impl EndpointBody {
    /// None, but a place on a connection of HTTP/2.
    fn http2_place(stream: multiplex::Stream) -> Self {
        Self { source: BodySource::Place(stream), ..Self::over() }
    }

    /// That place.
    fn take_place(&mut self) -> Option<multiplex::Stream> {
        match std::mem::replace(&mut self.source, BodySource::Over) {
            BodySource::Place(stream) => Some(stream),
            _ => None,
        }
    }

    /// None: HTTP is over.
    fn over() -> Self {
        Self { source: BodySource::Over, declared: fields::Declared::NOTHING, in_flight: None }
    }

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
            watch.told(in_flight.endpoint(), in_flight.failed(watch.clock.now()));
        }
    }

    fn poll_source(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let next = match &mut self.source {
            BodySource::Http1(all) => ready!(poll_http1(&mut all.0, cx)),
            BodySource::Http2(all) => ready!(all.0.poll_frame(cx)),
            BodySource::Over | BodySource::Place(_) => return Poll::Ready(None),
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
            BodySource::Over | BodySource::Place(_) => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        self.declared.length().map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}
