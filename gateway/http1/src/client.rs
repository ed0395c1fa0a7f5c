//! The side that asks.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, HOST, HeaderMap, HeaderValue, TRANSFER_ENCODING};
use http::{Method, StatusCode};
use http_body::{Body, Frame, SizeHint};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

use crate::BodyError;
use crate::chunked::{Decoder, Item};
use crate::framing::{self, BadFraming, Framing};
use crate::head::{self, Finder, HeadError, Limits, put_field, put_request_line};
use crate::outgoing::{Mode, Outgoing};
use crate::source::Source;

/// Interim answers that are borne with before the final one.
const INTERIM_MAX: usize = 64;

/// A connection that is free for a request.
#[derive(Debug)]
pub struct Connection {
    source: Source,
    half: OwnedWriteHalf,
}

/// What is asked, apart from the body. The framing is not the caller's business, but for a `Content-Length`.
#[derive(Clone, Copy, Debug)]
pub struct Asking<'a> {
    /// The method.
    pub method: &'a Method,
    /// The target, in whichever form.
    pub target: &'a str,
    /// The fields, `Host` included.
    pub headers: &'a HeaderMap,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// Nothing of the request left: the connection had ended.
    #[error("the connection had ended")]
    Unsent(#[source] io::Error),
    /// The connection failed or ended before the head of an answer: it may have been processed.
    #[error("the connection was cut before an answer")]
    Cut(#[source] io::Error),
    /// What came is no answer, or more than one may be.
    #[error("the answer is malformed")]
    Head(#[source] HeadError),
    /// Where the answer ends is not known.
    #[error("the answer's end is not known")]
    Framing(#[source] BadFraming),
    /// Interim answers without an end.
    #[error("more than {INTERIM_MAX} interim answers")]
    Interim,
    /// The body of the request failed, or is not as long as was said.
    #[error("the request's body broke off")]
    Body,
}

/// An answer.
#[derive(Debug)]
pub struct Answer<B> {
    /// Its head.
    pub head: head::Response,
    /// Its body.
    pub body: ResponseBody,
    /// What is still to be sent of the request, if the answer came before its end: to be driven beside the body.
    pub upload: Option<Upload<B>>,
}

/// The body of an answer.
#[derive(Debug)]
pub struct ResponseBody {
    source: Source,
    decoder: Decoder,
    /// Where the other half is, or will be once the request is sent.
    half: Rc<RefCell<Option<OwnedWriteHalf>>>,
    keep: bool,
}

/// The rest of a request.
#[derive(Debug)]
pub struct Upload<B> {
    sending: Sending<B>,
    half: Option<OwnedWriteHalf>,
    back: Rc<RefCell<Option<OwnedWriteHalf>>>,
}

/// A request on its way.
#[derive(Debug)]
struct Sending<B> {
    body: Pin<Box<B>>,
    out: Outgoing,
    mode: Mode,
    ended: bool,
    trailers: Option<HeaderMap>,
}

/// How sending ended early.
enum Stopped {
    Io(io::Error),
    Body,
}

impl Connection {
    /// A connection that nothing was asked on.
    pub fn new(stream: TcpStream) -> Self {
        let (read, half) = stream.into_split();
        Self { source: Source::new(read), half }
    }

    /// Whether it may be used again: the other side has neither ended it nor sent anything.
    pub fn is_quiet(&self) -> bool {
        self.source.is_quiet()
    }

    /// The same, asked of the system: for a request that must not be written into a connection whose end has arrived.
    pub fn is_quiet_now(&self) -> bool {
        self.source.is_quiet_now()
    }

    /// Sends a request and reads the head of its answer; `interim` is given the heads of those before it. Dropping it
    /// ends the connection.
    ///
    /// # Errors
    /// [`SendError`]; the connection is of no use any more.
    pub async fn send<B: Body<Data = Bytes>>(
        self,
        asking: Asking<'_>,
        body: B,
        limits: &Limits,
        mut interim: impl FnMut(StatusCode, HeaderMap),
    ) -> Result<Answer<B>, SendError> {
        let Self { mut source, mut half } = self;
        let mut sending = Sending::new(asking, body);
        let (mut finder, mut wrote, mut broken) = (Finder::default(), false, None);
        let mut interims = 0;
        let head = loop {
            let found = poll_fn(|cx| {
                if broken.is_none() {
                    match sending.poll_send(cx, &mut half) {
                        Poll::Ready(Ok(())) => wrote = true,
                        Poll::Ready(Err(Stopped::Body)) => return Poll::Ready(Err(SendError::Body)),
                        // An answer may be here all the same: whoever refuses a long body often ends the connection.
                        Poll::Ready(Err(Stopped::Io(error))) if wrote || sending.has_begun() => {
                            broken = Some(error);
                        }
                        Poll::Ready(Err(Stopped::Io(error))) => {
                            return Poll::Ready(Err(SendError::Unsent(error)));
                        }
                        Poll::Pending => {}
                    }
                }
                loop {
                    match finder.take(&mut source.buf, limits) {
                        Ok(Some(head)) => return Poll::Ready(Ok(head)),
                        Ok(None) => {}
                        Err(error) => return Poll::Ready(Err(SendError::Head(error))),
                    }
                    match ready!(source.poll_head_bytes(cx)) {
                        Ok(true) => {}
                        Ok(false) => {
                            let error = broken.take().unwrap_or_else(|| io::ErrorKind::UnexpectedEof.into());
                            return Poll::Ready(Err(SendError::Cut(error)));
                        }
                        Err(error) => return Poll::Ready(Err(SendError::Cut(error))),
                    }
                }
            });
            let found = found.await?;
            let head = head::Response::parse(&found, limits).map_err(SendError::Head)?;
            if !head.status.is_informational() || head.status == StatusCode::SWITCHING_PROTOCOLS {
                break head;
            }
            interims += 1;
            if interims > INTERIM_MAX {
                return Err(SendError::Interim);
            }
            if head.status != StatusCode::CONTINUE {
                interim(head.status, head.headers);
            }
        };
        let framing = framing::of_response(head.version, head.status, &head.headers, asking.method)
            .map_err(SendError::Framing)?;
        let keep = framing != Framing::UntilClose
            && broken.is_none()
            && framing::keeps_alive(head.version, &head.headers);
        let back = Rc::<RefCell<_>>::default();
        let upload = if sending.is_sent() {
            *back.borrow_mut() = Some(half);
            None
        } else if broken.is_some() {
            None
        } else {
            Some(Upload { sending, half: Some(half), back: back.clone() })
        };
        let body = ResponseBody { source, decoder: Decoder::new(framing, *limits), half: back, keep };
        Ok(Answer { head, body, upload })
    }
}

impl<B: Body<Data = Bytes>> Sending<B> {
    fn new(asking: Asking<'_>, body: B) -> Self {
        let Asking { method, target, headers } = asking;
        let size = body.size_hint().exact();
        let declared = framing::content_length(headers).ok().flatten();
        let ended = body.is_end_stream();
        let mode = match (declared.or(size), ended) {
            (Some(length), false) => Mode::Length(length),
            (None, false) => Mode::Chunked,
            // What was declared must come.
            (Some(length @ 1..), true) => Mode::Length(length),
            (_, true) => Mode::Nothing,
        };
        let mut out = Outgoing::default();
        let head = out.head();
        head.reserve(512);
        put_request_line(head, method, target);
        // First, as RFC 9110, section 7.2 wants it.
        if let Some(host) = headers.get(HOST) {
            put_field(head, &HOST, host.as_bytes());
        }
        for (name, value) in headers.iter().filter(|(name, _)| *name != HOST) {
            put_field(head, name, value.as_bytes());
        }
        match mode {
            Mode::Length(length) if declared.is_none() => {
                put_field(head, &CONTENT_LENGTH, HeaderValue::from(length).as_bytes());
            }
            Mode::Chunked => put_field(head, &TRANSFER_ENCODING, b"chunked"),
            // RFC 9110, section 8.6: these are expected to have a body.
            Mode::Nothing
                if declared.is_none() && [Method::POST, Method::PUT, Method::PATCH].contains(method) =>
            {
                put_field(head, &CONTENT_LENGTH, b"0");
            }
            _ => {}
        }
        head.extend_from_slice(b"\r\n");
        out.head_written();
        let bad = ended && matches!(mode, Mode::Length(_));
        Self { body: Box::pin(body), out, mode, ended: ended && !bad, trailers: None }
    }

    /// Whether anything has been written.
    fn has_begun(&self) -> bool {
        self.out.is_begun()
    }

    fn is_sent(&self) -> bool {
        self.ended && self.out.is_empty()
    }

    /// Sends until all is sent.
    fn poll_send(&mut self, cx: &mut Context<'_>, half: &mut OwnedWriteHalf) -> Poll<Result<(), Stopped>> {
        loop {
            let mut waits = false;
            while !self.ended && !waits && !self.out.is_full() {
                match self.body.as_mut().poll_frame(cx) {
                    Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                        Ok(data) => {
                            self.out.data(&mut self.mode, data).map_err(|_| Stopped::Body)?;
                        }
                        Err(frame) => self.trailers = frame.into_trailers().ok(),
                    },
                    Poll::Ready(Some(Err(_))) => return Poll::Ready(Err(Stopped::Body)),
                    Poll::Ready(None) => {
                        self.ended = true;
                        self.out.end(self.mode, self.trailers.as_ref()).map_err(|_| Stopped::Body)?;
                    }
                    Poll::Pending => waits = true,
                }
            }
            if self.out.is_empty() {
                return if self.ended { Poll::Ready(Ok(())) } else { Poll::Pending };
            }
            ready!(self.out.poll_write(cx, half)).map_err(Stopped::Io)?;
        }
    }
}

impl<B: Body<Data = Bytes>> Upload<B> {
    /// Sends the rest, as far as the endpoint takes it; then the connection may be used again.
    pub async fn run(mut self) {
        let Some(mut half) = self.half.take() else { return };
        let sent = poll_fn(|cx| self.sending.poll_send(cx, &mut half)).await;
        if sent.is_ok() {
            *self.back.borrow_mut() = Some(half);
        } else {
            // No orderly end of half a request: the whole connection goes with the answer.
            half.forget();
        }
    }
}

impl ResponseBody {
    /// The connection behind an answer that ends HTTP on it (101, and 2xx to CONNECT): what the other side has sent already,
    /// and both halves. None: the request was not sent to its end.
    pub fn into_io(self) -> Option<(Bytes, OwnedReadHalf, OwnedWriteHalf)> {
        let half = self.half.take()?;
        let (begun, read) = self.source.into_parts();
        Some((begun, read, half))
    }

    /// The connection, if it can be used again: the answer was read to its end, and the request sent to its.
    pub fn into_connection(self) -> Option<Connection> {
        let half = self.half.take()?;
        let fit = self.keep && self.decoder.is_ended() && self.source.buf.is_empty();
        fit.then_some(Connection { source: self.source, half })
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        if this.decoder.is_ended() {
            return Poll::Ready(None);
        }
        Poll::Ready(match ready!(this.source.poll_item(cx, &mut this.decoder)) {
            Ok(Item::Data(data)) => Some(Ok(Frame::data(data))),
            Ok(Item::Trailers(trailers)) => Some(Ok(Frame::trailers(trailers))),
            Ok(Item::End) => None,
            Err(error) => Some(Err(error)),
        })
    }

    fn is_end_stream(&self) -> bool {
        self.decoder.is_ended()
    }

    fn size_hint(&self) -> SizeHint {
        self.decoder.remaining().map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}
