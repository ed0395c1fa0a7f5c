//! Answers on their way out: heads, bodies, interim ones.

use std::cell::Cell;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, DATE, HeaderMap, HeaderValue, TRANSFER_ENCODING};
use http::response::Parts;
use http::{Method, StatusCode, Version};
use http_body::{Body as HttpBody, SizeHint};
use tokio_util::sync::CancellationToken;

use super::{BodyState, Connection, Ended, Reply};
use crate::framing::{self, is_bodiless};
use crate::head::{put_field, put_fields, put_status_line};
use crate::outgoing::{Mode, Outgoing};

/// Interim answers that are forwarded for one request: a server has a few hints to give, and no stream of them.
const INTERIM_MAX: u8 = 16;

/// What of a request decides how it is answered.
pub(super) struct Asked {
    pub(super) method: Method,
    pub(super) version: Version,
    pub(super) keep: bool,
}

/// Where interim answers go.
#[derive(Clone, Debug)]
pub struct Interim {
    /// None: the caller would not understand them.
    connection: Option<Rc<Connection>>,
    left: Rc<Cell<u8>>,
}

impl Interim {
    /// Those to `connection`, if it understands them.
    pub(super) fn to(connection: Option<Rc<Connection>>) -> Self {
        Self { connection, left: Rc::new(Cell::new(INTERIM_MAX)) }
    }

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

impl Connection {
    /// Sends an answer; whether the connection may be used again.
    pub(super) async fn respond<B: HttpBody<Data = Bytes>>(
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
        let bodiless = is_bodiless(&asked.method, parts.status);
        let mode =
            if bodiless { Mode::Nothing } else { of_body(&parts.headers, &body.size_hint(), asked.version) };
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
            put_head(&mut out.gathered, &parts, reason.as_deref(), mode, asked.version, keep || switched);
        }
        self.send_body(body, mode).await.map(|()| keep)
    }

    /// Sends the body of an answer behind its head.
    async fn send_body<B: HttpBody<Data = Bytes>>(
        &self,
        body: B,
        mut mode: Mode,
    ) -> Result<(), Ended<B::Error>>
    where
        B::Error: std::error::Error + 'static,
    {
        let mut body = std::pin::pin!(body);
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
        sent
    }

    /// Sends an interim answer, or leaves it for the final one to take along if the socket is full.
    pub(super) fn send_interim(&self, status: StatusCode, headers: &HeaderMap) {
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

/// Writes the head of an answer; `stays`: the connection does, behind it.
fn put_head(
    out: &mut Outgoing,
    parts: &Parts,
    reason: Option<&[u8]>,
    mode: Mode,
    version: Version,
    stays: bool,
) {
    let head = out.head();
    put_status_line(head, parts.status, reason);
    put_fields(head, &parts.headers);
    match mode {
        Mode::Length(length) if !parts.headers.contains_key(CONTENT_LENGTH) => {
            put_field(head, &CONTENT_LENGTH, HeaderValue::from(length).as_bytes());
        }
        Mode::Chunked => put_field(head, &TRANSFER_ENCODING, b"chunked"),
        _ => {}
    }
    match (stays, version) {
        (false, _) => put_field(head, &CONNECTION, b"close"),
        (true, Version::HTTP_10) => put_field(head, &CONNECTION, b"keep-alive"),
        (true, _) => {}
    }
    if !parts.headers.contains_key(DATE) {
        put_field(head, &DATE, &date_now());
    }
    head.extend_from_slice(b"\r\n");
    out.head_written();
}

/// How the body of an answer is sent to a caller of this version.
fn of_body(headers: &HeaderMap, size: &SizeHint, version: Version) -> Mode {
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
