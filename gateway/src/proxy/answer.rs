//! An answer on its way to the caller, wherever it comes from.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, StatusCode};
use http_body::{Body, Frame, SizeHint};
use proto::limits;
use tokio::time::{Instant, Sleep};

use crate::base::budget::{ByteBudget, Reservation};
use crate::base::clock::Activity;
use crate::http::body::{BodyError, Tunnelled, Upload};
use crate::upstream::{EndpointAnswer, EndpointBody, Served};
use policy::balance::EndpointState;

/// The head of an answer with its body to come.
#[derive(Debug)]
pub struct Answer {
    /// Its status.
    pub status: StatusCode,
    /// What stood behind the status, if it was unusual and came by HTTP/1.1.
    pub reason: Option<Bytes>,
    /// Its fields, hop-by-hop ones removed.
    pub headers: HeaderMap,
    /// Its body.
    pub body: AnswerBody,
    /// The endpoint of this cluster that it is of.
    pub endpoint: Option<Arc<EndpointState>>,
    /// What goes on behind an answer that ends HTTP (101).
    pub upgraded: Option<Box<Served>>,
}

/// The body of an answer.
#[derive(Debug)]
pub enum AnswerBody {
    /// All of it: a cut can no longer reach the caller.
    Whole(Whole),
    /// Still coming.
    Stream(Box<Streaming>),
}

/// A collected body.
#[derive(Debug)]
pub struct Whole {
    data: Option<Bytes>,
    trailers: Option<HeaderMap>,
    /// What is still to be sent of the request.
    upload: Option<Upload>,
    /// Held against the budget until it is forwarded.
    _reserved: Option<Reservation>,
}

/// A body that is forwarded as it comes.
#[derive(Debug)]
pub struct Streaming {
    source: Source,
    /// What is still to be sent of the request.
    upload: Option<Upload>,
    limit: Option<Limit>,
}

/// Where the bytes come from.
#[derive(Debug)]
pub enum Source {
    /// A local endpoint.
    Endpoint(EndpointBody),
    /// A peer.
    Tunnel(Tunnelled),
}

/// How long a body may take.
#[derive(Debug)]
struct Limit {
    idle: Duration,
    total: Option<Instant>,
    activity: Activity,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Limit {
    fn due(&self) -> Instant {
        let idle = self.activity.last() + self.idle;
        self.total.map_or(idle, |total| total.min(idle))
    }
}

impl From<EndpointAnswer> for Answer {
    fn from(answer: EndpointAnswer) -> Self {
        let EndpointAnswer { status, reason, headers, body, upload, endpoint, upgraded } = answer;
        let body = AnswerBody::stream(Source::Endpoint(body), upload);
        Self { status, reason, headers, body, endpoint: Some(endpoint), upgraded }
    }
}

impl Answer {
    /// Collects a small answer: declared to be at most [`limits::SMALL_BODY_BYTES`], or complete with its head. Others
    /// are left to stream, as is everything while the budget is spent.
    ///
    /// # Errors
    /// When the body is cut: the attempt has failed, and nothing of it was forwarded.
    pub async fn settle(self, budget: &Arc<ByteBudget>) -> Result<Self, BodyError> {
        if self.upgraded.is_some() {
            return Ok(self);
        }
        let Self { status, reason, headers, body, endpoint, upgraded } = self;
        let with = |body| Self { status, reason, headers, body, endpoint, upgraded };
        let AnswerBody::Stream(mut stream) = body else { return Ok(with(body)) };
        let small = stream.source.length().is_some_and(|n| n <= limits::SMALL_BODY_BYTES as u64);
        let mut reserved = budget.reservation();
        let room = reserved.grow(limits::SMALL_BODY_BYTES);
        let mut whole = Whole { data: None, trailers: None, upload: None, _reserved: Some(reserved) };
        if !room || !(small || stream.source.end_is_here()) {
            return Ok(with(AnswerBody::Stream(stream)));
        }
        let mut gathered = BytesMut::new();
        // Of the source: the rest of the request goes on behind an answer that is taken, and only then.
        while let Some(frame) = std::future::poll_fn(|cx| stream.poll_next(cx)).await {
            match frame?.into_data() {
                Ok(data) if whole.data.is_none() && gathered.is_empty() => whole.data = Some(data),
                Ok(data) => {
                    if let Some(first) = whole.data.take() {
                        gathered.extend_from_slice(&first);
                    }
                    gathered.extend_from_slice(&data);
                }
                Err(frame) => whole.trailers = frame.into_trailers().ok(),
            }
        }
        if !gathered.is_empty() {
            whole.data = Some(gathered.freeze());
        }
        whole.upload = stream.upload.take();
        Ok(with(AnswerBody::Whole(whole)))
    }
}

impl AnswerBody {
    /// A whole body.
    pub fn whole(data: Bytes) -> Self {
        let data = (!data.is_empty()).then_some(data);
        Self::Whole(Whole { data, trailers: None, upload: None, _reserved: None })
    }

    /// A body to come, beside which `upload` goes on.
    pub fn stream(source: Source, upload: Option<Upload>) -> Self {
        Self::Stream(Box::new(Streaming { source, upload, limit: None }))
    }

    /// It is the answer that goes on, and not one that another attempt is made behind. Ends it with an error when nothing
    /// moves for `idle`, and at `total`; what is still to be sent of the request goes on behind it for as long as that moves.
    pub fn take(&mut self, idle: Duration, total: Option<Instant>, activity: Activity) {
        match self {
            Self::Stream(stream) => stream.limit = Some(Limit { idle, total, activity, sleep: None }),
            Self::Whole(whole) => {
                if let Some(upload) = whole.upload.take() {
                    upload.go_on(idle);
                }
            }
        }
    }
}

impl Whole {
    /// The bytes, if any.
    pub fn data(&self) -> Option<&Bytes> {
        self.data.as_ref()
    }

    /// The trailers, if any.
    pub fn trailers(&self) -> Option<&HeaderMap> {
        self.trailers.as_ref()
    }
}

impl Source {
    /// What is to come of it, if that is known.
    fn length(&self) -> Option<u64> {
        match self {
            Self::Endpoint(body) => body.size_hint().exact(),
            Self::Tunnel(body) => body.length(),
        }
    }

    /// Whether the end of the body came with the head.
    fn end_is_here(&mut self) -> bool {
        match self {
            Self::Endpoint(body) => body.is_end_stream(),
            Self::Tunnel(body) => body.end_is_here(),
        }
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self {
            Self::Endpoint(body) => Pin::new(body).poll_frame(cx),
            Self::Tunnel(body) => body.poll_frame(cx),
        }
    }
}

impl Streaming {
    /// What comes next, for as long as the request goes on that it is the answer to.
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match (self.source.poll_frame(cx), &self.upload) {
            (Poll::Pending, Some(upload)) if upload.poll_failed(cx).is_ready() => {
                Poll::Ready(Some(Err(BodyError::Request)))
            }
            (polled, _) => polled,
        }
    }
}

impl Body for Streaming {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        let polled = this.poll_next(cx);
        if matches!(polled, Poll::Ready(None))
            && let Some(limit) = &this.limit
            && let Some(upload) = this.upload.take()
        {
            upload.go_on(limit.idle);
        }
        let Some(limit) = &mut this.limit else { return polled };
        if polled.is_ready() {
            limit.activity.touch();
            return polled;
        }
        loop {
            let due = limit.due();
            let sleep = limit.sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(due)));
            if sleep.deadline() != due {
                sleep.as_mut().reset(due);
            }
            if sleep.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            if limit.due() <= Instant::now() {
                let late = limit.total.is_some_and(|total| total <= Instant::now());
                return Poll::Ready(Some(Err(if late { BodyError::Deadline } else { BodyError::Idle })));
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        self.source.length().map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut *self {
            Self::Whole(whole) => Poll::Ready(match (whole.data.take(), whole.trailers.take()) {
                (Some(data), trailers) => {
                    whole.trailers = trailers;
                    Some(Ok(Frame::data(data)))
                }
                (None, Some(trailers)) => Some(Ok(Frame::trailers(trailers))),
                (None, None) => None,
            }),
            Self::Stream(stream) => Pin::new(&mut **stream).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(whole) => whole.data.is_none() && whole.trailers.is_none(),
            // Says "no" when in doubt: the body's last word must be heard, so that a cut is never missed.
            Self::Stream(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            // A declared length would leave the trailers no room in HTTP/1.1.
            Self::Whole(Whole { data, trailers: None, .. }) => {
                SizeHint::with_exact(data.as_ref().map_or(0, |d| d.len() as u64))
            }
            Self::Whole(_) | Self::Stream(_) => SizeHint::default(),
        }
    }
}
