//! The side that answers.

mod answer;
mod body;
mod request;

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::Bytes;
use http::header::EXPECT;
use http::{Method, Request, Response, Version};
use http_body::Body as HttpBody;
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio_util::sync::CancellationToken;

use crate::chunked::Decoder;
use crate::framing::{self, Framing};
use crate::head::{self, Finder, Limits};
use crate::outgoing::Outgoing;
use crate::source::Source;
use crate::timers::{Timer, Timers};

use answer::Asked;
pub use answer::{Interim, date};
pub use body::Body;
pub use request::Refused;
use request::judge;

/// What a caller still sends of a request that is over is read and thrown away for so long, so that its end of the
/// connection is not reset before it has read the answer (RFC 9112, section 9.6).
const LINGER: Duration = Duration::from_secs(30);
/// ... but no longer than this after it has last sent something.
const LINGER_IDLE: Duration = Duration::from_secs(2);
/// ... and no longer than this once the process drains.
const LINGER_DRAIN: Duration = Duration::from_millis(500);
/// A drain waits no longer for the rest of a head that has begun.
const DRAIN_HEAD_WAIT: Duration = Duration::from_secs(2);

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
    /// Cancelled when connections end that idle: with `stop` of [`serve`] or behind it, so that a request that is on its way
    /// to an idle connection is still answered.
    pub leave: CancellationToken,
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

/// Serves a connection, of which `begun` was read already, until the caller leaves or it idles for too long. Once `stop` is
/// cancelled it ends after one more answer, which says so.
///
/// # Errors
/// [`Ended`]; what could be said to the caller was said.
pub async fn serve<S: Service>(
    stream: TcpStream,
    begun: Bytes,
    service: &S,
    options: &Options,
    stop: &CancellationToken,
) -> Result<(), Ended<<S::Body as HttpBody>::Error>>
where
    <S::Body as HttpBody>::Error: std::error::Error + 'static,
{
    let (read, write) = stream.into_split();
    let connection = Rc::new(Connection {
        source: RefCell::new(Some(Source::behind(begun, read))),
        out: RefCell::new(Some(Out { half: write, gathered: Outgoing::default() })),
        body: Cell::new(BodyState::Complete),
        waiting: RefCell::new(None),
        interim: Cell::new(false),
    });
    let _guard = Guard(connection.clone());
    let timer = options.timers.timer();
    loop {
        timer.set(options.idle);
        let head = connection.next_head(options, &timer).await;
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

impl Connection {
    /// The head of the next request; `None`: there is none.
    async fn next_head(&self, options: &Options, timer: &Timer) -> Result<Option<head::Request>, Ended> {
        let mut finder = Finder::default();
        let mut left = std::pin::pin!(options.leave.cancelled());
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
                if !draining && left.as_mut().poll(cx).is_ready() {
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
        let body = Body::new(self.clone(), Decoder::new(framing, options.limits), awaited);
        let understands = version == Version::HTTP_11;
        self.interim.set(understands);
        let interim = Interim::to(understands.then(|| self.clone()));
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
        // What was not told that it is the last is followed by another.
        Ok(if over.await && keep { After::Next } else { After::Close })
    }

    /// Whether the caller has gone. Only once its request is whole: until then somebody else reads.
    fn is_gone(&self, cx: &mut Context<'_>) -> bool {
        let whole = self.body.get() == BodyState::Complete;
        whole && self.source.borrow_mut().as_mut().is_none_or(|source| source.poll_gone(cx).is_ready())
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
}

impl<B> std::fmt::Debug for Reply<B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reply").field("status", &self.response.status()).finish_non_exhaustive()
    }
}
