//! The side that answers.

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::{
    CONNECTION, CONTENT_LENGTH, DATE, EXPECT, HOST, HeaderMap, HeaderValue, TRANSFER_ENCODING,
};
use http::{Method, Request, Response, StatusCode, Uri, Version};
use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio_util::sync::CancellationToken;

use crate::BodyError;
use crate::chunked::{Decoder, Item};
use crate::framing::{self, BadFraming, Framing, is_bodiless};
use crate::head::{self, Finder, HeadError, Limits, put_field, put_fields, put_status_line};
use crate::outgoing::{Mode, Outgoing};
use crate::source::Source;
use crate::timers::{Timer, Timers};

/// Interim answers that are forwarded for one request: a server has a few hints to give, and no stream of them.
const INTERIM_MAX: u8 = 16;
/// What a caller still sends of a request that is over is read and thrown away for so long, so that its end of the
/// connection is not reset before it has read the answer (RFC 9112, section 9.6).
const LINGER: Duration = Duration::from_secs(30);
/// ... but no longer than this after it has last sent something.
const LINGER_IDLE: Duration = Duration::from_secs(2);
/// ... and no longer than this once the process drains.
const LINGER_DRAIN: Duration = Duration::from_millis(500);
/// A drain waits no longer for the rest of a head that has begun.
const DRAIN_HEAD_WAIT: Duration = Duration::from_secs(2);

/// Why a request is refused before it is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Its head.
    #[error(transparent)]
    Head(#[from] HeadError),
    /// Its end is not known.
    #[error(transparent)]
    Framing(#[from] BadFraming),
    /// No target of the forms that RFC 9112, section 3.2 has for its method.
    #[error("the request target is malformed")]
    Target,
    /// None, or more than one (RFC 9112, section 3.2).
    #[error("the request has {0} Host field")]
    Host(&'static str),
    /// The head was not whole in time.
    #[error("the head did not come in time")]
    TooSlow,
}

impl Refused {
    /// The status that says so.
    pub fn status(self) -> StatusCode {
        match self {
            Self::Head(HeadError::TooLarge(_) | HeadError::TooManyFields(_)) => {
                StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE
            }
            Self::Head(HeadError::Version) => StatusCode::HTTP_VERSION_NOT_SUPPORTED,
            Self::Framing(BadFraming::Coding) => StatusCode::NOT_IMPLEMENTED,
            Self::TooSlow => StatusCode::REQUEST_TIMEOUT,
            Self::Head(HeadError::Malformed(_)) | Self::Framing(_) | Self::Target | Self::Host(_) => {
                StatusCode::BAD_REQUEST
            }
        }
    }
}

/// Who answers.
pub trait Service {
    /// The bodies of answers.
    type Body: HttpBody<Data = Bytes>;

    /// Answers one request. Dropped when the caller goes away.
    fn call(&self, request: Request<Body>, interim: Interim) -> impl Future<Output = Reply<Self::Body>>;

    /// The answer to what is no request; the connection is closed behind it.
    fn refuse(&self, refused: Refused) -> Reply<Self::Body>;
}

/// An answer, and what is to be done behind it.
pub struct Reply<B> {
    /// Its head and body. The framing is not the service's business: `Content-Length` is, where it is known.
    pub response: Response<B>,
    /// What is to stand behind the status instead of the usual.
    pub reason: Option<Bytes>,
    /// Who has the connection from now on: of answers that say so (101, and 2xx to CONNECT).
    pub takeover: Option<Takeover>,
}

impl<B> From<Response<B>> for Reply<B> {
    fn from(response: Response<B>) -> Self {
        Self { response, reason: None, takeover: None }
    }
}

/// Takes a connection over.
pub type Takeover = Box<dyn FnOnce(Io)>;

/// A connection that speaks something else from now on.
#[derive(Debug)]
pub struct Io {
    /// What the caller has sent already.
    pub begun: Bytes,
    /// What it sends.
    pub read: OwnedReadHalf,
    /// What it gets.
    pub write: OwnedWriteHalf,
}

/// What holds for all connections of a listener.
#[derive(Debug)]
pub struct Options {
    /// What heads and trailers may be.
    pub limits: Limits,
    /// How long a connection may idle, and a head may take.
    pub idle: Duration,
    /// The clock of idle connections.
    pub timers: Rc<Timers>,
}

/// Why a connection ended before its time.
#[derive(Debug, thiserror::Error)]
pub enum Ended<E: std::error::Error + 'static = Infallible> {
    /// It failed.
    #[error("the connection failed")]
    Io(#[from] std::io::Error),
    /// The caller went away in the middle of an exchange.
    #[error("the caller went away")]
    Gone,
    /// An answer broke off.
    #[error("the answer broke off")]
    Answer(#[source] E),
    /// An answer is not as long as its head says.
    #[error("the answer is not as long as its head says")]
    Length,
    /// What came is no request.
    #[error(transparent)]
    Refused(#[from] Refused),
}

/// The body of a request, read from its connection by whoever polls it.
#[derive(Debug)]
pub struct Body {
    connection: Rc<Connection>,
    decoder: Decoder,
    /// The caller waits to be told that it may send (RFC 9110, section 10.1.1).
    awaited: bool,
}

/// Where interim answers go.
#[derive(Clone, Debug)]
pub struct Interim {
    /// None: the caller would not understand them.
    connection: Option<Rc<Connection>>,
    left: Rc<Cell<u8>>,
}

#[derive(Debug)]
struct Connection {
    /// None once it is over.
    source: RefCell<Option<Source>>,
    out: RefCell<Option<Out>>,
    body: Cell<BodyState>,
    /// Whoever waits for the end of a body.
    waiting: RefCell<Option<Waker>>,
    /// An exchange is under way whose final answer has not begun.
    interim: Cell<bool>,
}

#[derive(Debug)]
struct Out {
    half: OwnedWriteHalf,
    gathered: Outgoing,
}

/// How far the body of the current request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum BodyState {
    /// Somebody may still read it.
    Open,
    /// It was read to its end.
    Complete,
    /// Nobody reads the rest.
    Abandoned,
}

/// Ends a connection, whoever still holds a part of it.
struct Guard(Rc<Connection>);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.source.take();
        self.0.out.take();
    }
}

/// Serves a connection until the caller leaves, it idles for too long, or `stop` is cancelled: then it ends after the
/// exchange that it is in.
///
/// # Errors
/// [`Ended`]; what could be said to the caller was said.
pub async fn serve<S: Service>(
    stream: TcpStream,
    service: &S,
    options: &Options,
    stop: &CancellationToken,
) -> Result<(), Ended<<S::Body as HttpBody>::Error>>
where
    <S::Body as HttpBody>::Error: std::error::Error + 'static,
{
    let (read, write) = stream.into_split();
    let connection = Rc::new(Connection {
        source: RefCell::new(Some(Source::new(read))),
        out: RefCell::new(Some(Out { half: write, gathered: Outgoing::default() })),
        body: Cell::new(BodyState::Complete),
        waiting: RefCell::new(None),
        interim: Cell::new(false),
    });
    let _guard = Guard(connection.clone());
    let timer = options.timers.timer();
    loop {
        timer.set(options.idle);
        let head = connection.next_head(options, &timer, stop).await;
        timer.clear();
        let refused = match head {
            Ok(None) => return Ok(()),
            Ok(Some(head)) => match judge(head) {
                Ok((request, framing)) => {
                    match connection.exchange(service, request, framing, options, stop).await? {
                        After::Next => continue,
                        After::Close => {
                            connection.close(stop).await;
                            return Ok(());
                        }
                        After::TakenOver => return Ok(()),
                    }
                }
                Err(refused) => refused,
            },
            Err(Ended::Refused(refused)) => refused,
            Err(Ended::Io(error)) => return Err(Ended::Io(error)),
            Err(_) => return Err(Ended::Gone),
        };
        let asked = Asked { method: Method::GET, version: Version::HTTP_11, keep: false };
        connection.body.set(BodyState::Abandoned);
        connection.respond(service.refuse(refused), asked, stop).await?;
        connection.close(stop).await;
        return Err(Ended::Refused(refused));
    }
}

/// What comes after an exchange.
enum After {
    Next,
    Close,
    TakenOver,
}

/// What of a request decides how it is answered.
struct Asked {
    method: Method,
    version: Version,
    keep: bool,
}

/// A request from its head.
fn judge(head: head::Request) -> Result<(Request<()>, Framing), Refused> {
    let framing = framing::of_request(head.version, &head.headers)?;
    let hosts = head.headers.get_all(HOST).iter().count();
    if hosts > 1 {
        return Err(Refused::Host("more than one"));
    }
    if hosts == 0 && head.version == Version::HTTP_11 {
        return Err(Refused::Host("no"));
    }
    let mut request = Request::new(());
    *request.uri_mut() = target(&head.method, head.target).ok_or(Refused::Target)?;
    *request.method_mut() = head.method;
    *request.version_mut() = head.version;
    *request.headers_mut() = head.headers;
    Ok((request, framing))
}

/// A request target in one of the four forms (RFC 9112, section 3.2).
fn target(method: &Method, target: Bytes) -> Option<Uri> {
    // No form has a fragment, and whoever cuts it off asks for something else than was meant.
    if target.contains(&b'#') {
        return None;
    }
    let connect = *method == Method::CONNECT;
    let any = *method == Method::OPTIONS && target[..] == *b"*";
    let origin = target.first() == Some(&b'/');
    let uri = Uri::from_maybe_shared(target).ok()?;
    let fits = match (connect, uri.scheme(), uri.authority()) {
        (true, None, Some(_)) => uri.path_and_query().is_none(),
        (false, Some(_), Some(_)) => true,
        (false, None, None) => origin || any,
        _ => false,
    };
    fits.then_some(uri)
}

impl Connection {
    /// The head of the next request; `None`: there is none.
    async fn next_head(
        &self,
        options: &Options,
        timer: &Timer,
        stop: &CancellationToken,
    ) -> Result<Option<head::Request>, Ended> {
        let mut finder = Finder::default();
        let mut stopped = std::pin::pin!(stop.cancelled());
        let mut draining = false;
        let found = poll_fn(|cx| {
            let mut source = self.source.borrow_mut();
            let Some(source) = &mut *source else { return Poll::Ready(Ok(None)) };
            loop {
                match finder.take(&mut source.buf, &options.limits) {
                    Ok(None) => {}
                    found => return Poll::Ready(found.map_err(|e| Ended::Refused(e.into()))),
                }
                if timer.poll_due(cx).is_ready() {
                    let begun = finder.has_begun() && !draining;
                    let refused = Ended::Refused(Refused::TooSlow);
                    return Poll::Ready(if begun { Err(refused) } else { Ok(None) });
                }
                if !draining && stopped.as_mut().poll(cx).is_ready() {
                    if !finder.has_begun() {
                        return Poll::Ready(Ok(None));
                    }
                    draining = true;
                    timer.set(DRAIN_HEAD_WAIT);
                }
                match ready!(source.poll_head_bytes(cx)) {
                    Ok(true) => {}
                    // Whether it was in the middle of a head or not: nothing was asked.
                    Ok(false) => return Poll::Ready(Ok(None)),
                    Err(error) => return Poll::Ready(Err(Ended::Io(error))),
                }
            }
        });
        let Some(head) = found.await? else { return Ok(None) };
        match head::Request::parse(&head, &options.limits) {
            Ok(head) => Ok(Some(head)),
            Err(error) => Err(Ended::Refused(error.into())),
        }
    }

    async fn exchange<S: Service>(
        self: &Rc<Self>,
        service: &S,
        request: Request<()>,
        framing: Framing,
        options: &Options,
        stop: &CancellationToken,
    ) -> Result<After, Ended<<S::Body as HttpBody>::Error>>
    where
        <S::Body as HttpBody>::Error: std::error::Error + 'static,
    {
        let version = request.version();
        let asked = Asked {
            method: request.method().clone(),
            version,
            keep: framing::keeps_alive(version, request.headers()),
        };
        let empty = framing == Framing::Empty;
        self.body.set(if empty { BodyState::Complete } else { BodyState::Open });
        let awaited = !empty
            && version == Version::HTTP_11
            && request
                .headers()
                .get(EXPECT)
                .is_some_and(|e| e.as_bytes().eq_ignore_ascii_case(b"100-continue"));
        let body = Body { connection: self.clone(), decoder: Decoder::new(framing, options.limits), awaited };
        let understands = version == Version::HTTP_11;
        self.interim.set(understands);
        let interim =
            Interim { connection: understands.then(|| self.clone()), left: Rc::new(Cell::new(INTERIM_MAX)) };
        // Boxed, so that an idle connection does not hold the room that a request takes.
        let mut call = Box::pin(service.call(request.map(|()| body), interim));
        let reply = poll_fn(|cx| {
            if let Poll::Ready(reply) = call.as_mut().poll(cx) {
                return Poll::Ready(Some(reply));
            }
            if self.is_gone(cx) { Poll::Ready(None) } else { Poll::Pending }
        });
        let reply = reply.await;
        drop(call);
        let mut reply = reply.ok_or(Ended::Gone)?;
        let takeover = reply.takeover.take();
        let keep = self.respond(reply, asked, stop).await?;
        if let Some(takeover) = takeover {
            if let (Some(source), Some(out)) = (self.source.take(), self.out.take()) {
                let (begun, read) = source.into_parts();
                takeover(Io { begun, read, write: out.half });
            }
            return Ok(After::TakenOver);
        }
        // An answer may come before the whole request; whoever takes the rest of it still does.
        let over = poll_fn(|cx| {
            if self.body.get() == BodyState::Open {
                *self.waiting.borrow_mut() = Some(cx.waker().clone());
                return Poll::Pending;
            }
            Poll::Ready(self.body.get() == BodyState::Complete)
        });
        Ok(if over.await && keep && !stop.is_cancelled() { After::Next } else { After::Close })
    }

    /// Whether the caller has gone. Only once its request is whole: until then somebody else reads.
    fn is_gone(&self, cx: &mut Context<'_>) -> bool {
        let whole = self.body.get() == BodyState::Complete;
        whole && self.source.borrow_mut().as_mut().is_none_or(|source| source.poll_gone(cx).is_ready())
    }

    /// Sends an answer; whether the connection may be used again.
    async fn respond<B: HttpBody<Data = Bytes>>(
        &self,
        reply: Reply<B>,
        asked: Asked,
        stop: &CancellationToken,
    ) -> Result<bool, Ended<B::Error>>
    where
        B::Error: std::error::Error + 'static,
    {
        self.interim.set(false);
        let Reply { response, reason, takeover } = reply;
        let (mut parts, body) = response.into_parts();
        let mut body = std::pin::pin!(body);
        let bodiless = is_bodiless(&asked.method, parts.status);
        let mut mode =
            if bodiless { Mode::Nothing } else { mode(&parts.headers, &body.size_hint(), asked.version) };
        if parts.status == StatusCode::NO_CONTENT || parts.status.is_informational() {
            // RFC 9110, section 8.6.
            parts.headers.remove(CONTENT_LENGTH);
        }
        let switched = parts.status == StatusCode::SWITCHING_PROTOCOLS || takeover.is_some();
        let keep = asked.keep
            && mode != Mode::UntilClose
            && self.body.get() != BodyState::Abandoned
            && !stop.is_cancelled();
        if let Some(out) = &mut *self.out.borrow_mut() {
            let head = out.gathered.head();
            put_status_line(head, parts.status, reason.as_deref());
            put_fields(head, &parts.headers);
            match mode {
                Mode::Length(length) if !parts.headers.contains_key(CONTENT_LENGTH) => {
                    put_field(head, &CONTENT_LENGTH, HeaderValue::from(length).as_bytes());
                }
                Mode::Chunked => put_field(head, &TRANSFER_ENCODING, b"chunked"),
                _ => {}
            }
            match (keep || switched, asked.version) {
                (false, _) => put_field(head, &CONNECTION, b"close"),
                (true, Version::HTTP_10) => put_field(head, &CONNECTION, b"keep-alive"),
                (true, _) => {}
            }
            if !parts.headers.contains_key(DATE) {
                put_field(head, &DATE, &date_now());
            }
            head.extend_from_slice(b"\r\n");
            out.gathered.head_written();
        }
        let mut ended = false;
        let mut trailers: Option<HeaderMap> = None;
        let sent = poll_fn(|cx| {
            let mut out = self.out.borrow_mut();
            let Some(out) = &mut *out else { return Poll::Ready(Err(Ended::Gone)) };
            loop {
                let mut waits = false;
                while !ended && !waits && !out.gathered.is_full() {
                    match body.as_mut().poll_frame(cx) {
                        Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                            Ok(data) => out.gathered.data(&mut mode, data).map_err(|_| Ended::Length)?,
                            Err(frame) => trailers = frame.into_trailers().ok(),
                        },
                        Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(Ended::Answer(error))),
                        Poll::Ready(None) => ended = true,
                        Poll::Pending => waits = true,
                    }
                    if !ended && body.is_end_stream() {
                        ended = true;
                    }
                    if ended {
                        out.gathered.end(mode, trailers.as_ref()).map_err(|_| Ended::Length)?;
                    }
                }
                if out.gathered.is_empty() && !ended {
                    // The caller may leave while there is nothing to send to it.
                    return if self.is_gone(cx) { Poll::Ready(Err(Ended::Gone)) } else { Poll::Pending };
                }
                ready!(out.gathered.poll_write(cx, &mut out.half)).map_err(Ended::Io)?;
                if ended {
                    out.gathered.rest();
                    return Poll::Ready(Ok(()));
                }
            }
        });
        let sent = sent.await;
        if sent.is_err() && mode == Mode::UntilClose {
            // Its end is the connection's: only a reset tells that it is none.
            if let Some(out) = self.out.take() {
                let _ = socket2::SockRef::from(out.half.as_ref()).set_linger(Some(Duration::ZERO));
                // Without the orderly end that dropping it would be.
                out.half.forget();
            }
        }
        sent.map(|()| keep)
    }

    /// Ends the connection so that the caller can read what was sent to it, although it may still be sending itself.
    async fn close(&self, stop: &CancellationToken) {
        if let Some(out) = self.out.take() {
            // Ends our half.
            drop(out.half);
        }
        let Some(mut source) = self.source.take() else { return };
        if self.body.get() == BodyState::Complete && source.buf.is_empty() {
            return;
        }
        let drain = async {
            loop {
                source.buf.clear();
                let more = poll_fn(|cx| source.poll_head_bytes(cx));
                match tokio::time::timeout(LINGER_IDLE, more).await {
                    Ok(Ok(true)) => {}
                    _ => return,
                }
            }
        };
        let drains = async {
            stop.cancelled().await;
            tokio::time::sleep(LINGER_DRAIN).await;
        };
        tokio::select! {
            _ = tokio::time::timeout(LINGER, drain) => {}
            () = drains => {}
        }
    }

    fn body_is(&self, state: BodyState) {
        self.body.set(state);
        if let Some(waiting) = self.waiting.take() {
            waiting.wake();
        }
    }

    /// Sends an interim answer, or leaves it for the final one to take along if the socket is full.
    fn send_interim(&self, status: StatusCode, headers: &HeaderMap) {
        let mut out = self.out.borrow_mut();
        let Some(out) = out.as_mut().filter(|_| self.interim.get()) else { return };
        let head = out.gathered.head();
        put_status_line(head, status, None);
        put_fields(head, headers);
        head.extend_from_slice(b"\r\n");
        out.gathered.head_written();
        // What is left is written with the next piece.
        let _ = out.gathered.poll_write(&mut Context::from_waker(Waker::noop()), &mut out.half);
    }
}

/// How the body of an answer is sent to a caller of this version.
fn mode(headers: &HeaderMap, size: &SizeHint, version: Version) -> Mode {
    let length = framing::content_length(headers).ok().flatten().or_else(|| size.exact());
    match (length, version) {
        (Some(length), _) => Mode::Length(length),
        (None, Version::HTTP_10) => Mode::UntilClose,
        (None, _) => Mode::Chunked,
    }
}

/// The time for `Date`, which whoever forwards an answer without one adds (RFC 9110, section 6.6.1). Made once a second.
pub fn date() -> HeaderValue {
    HeaderValue::from_bytes(&date_now()).unwrap_or_else(|_| HeaderValue::from_static(""))
}

fn date_now() -> [u8; 29] {
    thread_local! {
        static DATE_NOW: Cell<(u64, [u8; 29])> = const { Cell::new((0, [b' '; 29])) };
    }
    let now = SystemTime::now();
    let second = now.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let (known, mut text) = DATE_NOW.get();
    if known != second {
        let fresh = httpdate::fmt_http_date(now);
        // Always 29 bytes (RFC 9110, section 5.6.7).
        if fresh.len() == text.len() {
            text.copy_from_slice(fresh.as_bytes());
            DATE_NOW.set((second, text));
        }
    }
    text
}

impl Interim {
    /// An end without a connection: whatever is sent goes nowhere.
    pub fn nowhere() -> Self {
        Self { connection: None, left: Rc::default() }
    }

    /// Forwards an interim answer (RFC 9110, section 15.2), unless there were too many, or the final one has begun.
    pub fn send(&self, status: StatusCode, headers: &HeaderMap) {
        let Some(connection) = self.connection.as_ref().filter(|_| self.left.get() > 0) else { return };
        self.left.set(self.left.get() - 1);
        connection.send_interim(status, headers);
    }
}

impl HttpBody for Body {
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
        let mut source = this.connection.source.borrow_mut();
        let Some(source) = &mut *source else { return Poll::Ready(Some(Err(BodyError::Over))) };
        if std::mem::take(&mut this.awaited) && source.buf.is_empty() {
            this.connection.send_interim(StatusCode::CONTINUE, &HeaderMap::new());
        }
        let item = match ready!(source.poll_item(cx, &mut this.decoder)) {
            Ok(item) => item,
            Err(error) => {
                this.connection.body_is(BodyState::Abandoned);
                return Poll::Ready(Some(Err(error)));
            }
        };
        if this.decoder.is_ended() {
            this.connection.body_is(BodyState::Complete);
        }
        Poll::Ready(match item {
            Item::Data(data) => Some(Ok(Frame::data(data))),
            Item::Trailers(trailers) => Some(Ok(Frame::trailers(trailers))),
            Item::End => None,
        })
    }

    fn is_end_stream(&self) -> bool {
        self.decoder.is_ended()
    }

    fn size_hint(&self) -> SizeHint {
        self.decoder.remaining().map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        if !self.decoder.is_ended() && self.connection.body.get() == BodyState::Open {
            self.connection.body_is(BodyState::Abandoned);
        }
    }
}

impl<B> std::fmt::Debug for Reply<B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reply").field("status", &self.response.status()).finish_non_exhaustive()
    }
}
