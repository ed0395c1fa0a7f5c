//! Bodies: a request's, which may have to be sent twice, and an answer's, which must never look whole when it is cut.

mod error;
pub mod http2;
mod incoming;
mod tunnel;
mod upload;

use std::cell::RefCell;
use std::collections::VecDeque;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use proto::limits;
use tokio_util::sync::CancellationToken;

use crate::base::budget::Reservation;
use crate::base::clock::Activity;

pub use error::{BodyError, Fault};
pub use incoming::{Incoming, poll_http1};
pub use tunnel::Tunnelled;
pub use upload::Upload;

/// Where the bytes of a request's body come from.
#[derive(Debug)]
enum Source {
    Caller(Incoming),
    Tunnel(Box<Tunnelled>),
    /// Read to its end.
    Ended,
    /// Failed: whoever reads is told.
    Failed,
    /// Chunks that a test wrote down.
    #[cfg(test)]
    Script(VecDeque<Bytes>),
}

/// The body of a request, read as it comes and kept from its beginning up to [`limits::REPLAY_BODY_BYTES_MAX`], so that
/// another attempt can start over. Clones share it; at most one reader may be ahead of what is kept.
#[derive(Clone, Debug)]
pub struct RequestBody(Option<Rc<RefCell<Shared>>>);

#[derive(Debug)]
struct Shared {
    source: Source,
    kept: Vec<Bytes>,
    kept_bytes: usize,
    trailers: Option<HeaderMap>,
    /// It became too long to be kept: there is one reading of it, by the reader that is ahead.
    dropped: bool,
    /// Whether that reader is known.
    claimed: bool,
    /// What it has yet to read of what was kept.
    unread: VecDeque<Bytes>,
    /// Moves whenever something comes.
    activity: Activity,
    /// Declared length, if any.
    length: Option<u64>,
    /// Bytes that may still come; one more, and the body has failed.
    room: u64,
    /// What its sender did wrong.
    fault: Option<Fault>,
    /// Whoever waits to hear that it has failed.
    watcher: Option<Waker>,
    reserved: Reservation,
    ended_at: Option<tokio::time::Instant>,
}

impl RequestBody {
    /// No body at all.
    pub fn empty() -> Self {
        Self(None)
    }

    /// The body of a request that a caller sends.
    pub fn from_caller(body: Incoming, reserved: Reservation, activity: Activity) -> Self {
        if body.is_end_stream() {
            return Self::empty();
        }
        let length = body.length();
        Self::new(Source::Caller(body), length, reserved, activity)
    }

    /// The body of a request that came through a tunnel; its head was read.
    pub fn from_tunnel(body: Tunnelled, reserved: Reservation, activity: Activity) -> Self {
        let length = body.length();
        Self::new(Source::Tunnel(Box::new(body)), length, reserved, activity)
    }

    fn new(source: Source, length: Option<u64>, reserved: Reservation, activity: Activity) -> Self {
        Self(Some(Rc::new(RefCell::new(Shared {
            source,
            kept: Vec::new(),
            kept_bytes: 0,
            trailers: None,
            dropped: false,
            claimed: false,
            unread: VecDeque::new(),
            activity,
            length,
            room: u64::MAX,
            fault: None,
            watcher: None,
            reserved,
            ended_at: None,
        }))))
    }

    /// The same of `most` bytes: if more come, the caller is at fault.
    pub fn at_most(self, most: u64) -> Self {
        if let Some(shared) = &self.0 {
            shared.borrow_mut().room = most;
        }
        self
    }

    /// What its sender did wrong, if it has failed by that.
    pub fn fault(&self) -> Option<Fault> {
        self.0.as_ref().and_then(|s| s.borrow().fault)
    }

    /// Ready when it has failed: there is nothing to be answered any more.
    pub fn poll_failed(&self, cx: &Context<'_>) -> Poll<()> {
        let Some(shared) = &self.0 else { return Poll::Pending };
        let mut s = shared.borrow_mut();
        if matches!(s.source, Source::Failed) {
            return Poll::Ready(());
        }
        s.watcher = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// Whether an attempt may start from the beginning: all of it is still here, and the source has not failed.
    pub fn can_restart(&self) -> bool {
        self.0.as_ref().is_none_or(|s| {
            let s = s.borrow();
            (!s.dropped || !s.claimed) && !matches!(s.source, Source::Failed)
        })
    }

    /// Whether all of it is here and kept: it can be sent any number of times, to several at once.
    pub fn is_buffered(&self) -> bool {
        self.0.as_ref().is_none_or(|s| {
            let s = s.borrow();
            !s.dropped && matches!(s.source, Source::Ended)
        })
    }

    /// Since when the caller has nothing more to send; `None` while it still sends.
    pub fn ended_at(&self, started: tokio::time::Instant) -> Option<tokio::time::Instant> {
        self.0.as_ref().map_or(Some(started), |s| s.borrow().ended_at)
    }

    /// Waits until nothing has moved for `idle`, or `stop` is cancelled; then nothing more of it is taken.
    pub async fn until_idle(&self, idle: Duration, stop: &CancellationToken) {
        let Some(shared) = &self.0 else { return };
        let activity = shared.borrow().activity.clone();
        tokio::select! {
            () = activity.silent(idle) => {}
            () = stop.cancelled() => {}
        }
        let mut shared = shared.borrow_mut();
        if !matches!(shared.source, Source::Ended) {
            // Whoever sends it is told so by the end of its connection.
            shared.source = Source::Failed;
        }
    }

    /// Whether the caller is at fault: its body broke off.
    pub fn failed(&self) -> bool {
        self.0.as_ref().is_some_and(|s| matches!(s.borrow().source, Source::Failed))
    }

    /// Reads what is there without waiting, so that a small body travels with the head.
    pub fn read_ahead(&self, cx: &mut Context<'_>) {
        let Some(shared) = &self.0 else { return };
        let mut s = shared.borrow_mut();
        while !s.dropped && s.kept_bytes < limits::SMALL_BODY_BYTES {
            match s.poll_source(cx) {
                Poll::Ready(Some(Ok(chunk))) => {
                    if !s.keep(&chunk) {
                        // Nobody has read anything yet: the first reader gets it all.
                        s.unread = std::mem::take(&mut s.kept).into();
                        s.unread.push_back(chunk);
                    }
                }
                Poll::Ready(_) | Poll::Pending => return,
            }
        }
    }

    /// Appends all of a small buffered body and its end to `out` as frames, if that is what it is.
    pub fn put_whole(&self, out: &mut Vec<u8>) -> bool {
        use proto::frame::{END, FrameKind, put_frame_header};
        if let Some(shared) = &self.0 {
            let s = shared.borrow();
            let small = s.kept_bytes <= limits::SMALL_BODY_BYTES;
            if s.dropped || !small || !matches!(s.source, Source::Ended) || s.trailers.is_some() {
                return false;
            }
            if s.kept_bytes > 0 {
                put_frame_header(out, FrameKind::Data, s.kept_bytes);
                s.kept.iter().for_each(|chunk| out.extend_from_slice(chunk));
            }
        }
        out.extend_from_slice(&END);
        true
    }

    /// Waits until it is known whether there is a body at all, for `wait` at most: its end may come a moment after its
    /// head. With a declared length it is known.
    pub async fn begun(&self, wait: Duration) {
        if self.has_begun() {
            return;
        }
        let begun = std::future::poll_fn(|cx| {
            self.read_ahead(cx);
            if self.has_begun() { Poll::Ready(()) } else { Poll::Pending }
        });
        // Else it is seen to as it comes.
        let _ = tokio::time::timeout(wait, begun).await;
    }

    fn has_begun(&self) -> bool {
        self.0.as_ref().is_none_or(|s| {
            let s = s.borrow();
            let over = matches!(s.source, Source::Ended | Source::Failed);
            over || s.dropped || !s.kept.is_empty() || s.length.is_some()
        })
    }

    /// This body, or none if it has turned out to be empty: then it is known without waiting that nothing comes.
    pub fn or_empty(self) -> Self {
        if self.0.as_ref().is_some_and(|s| s.borrow().is_nothing()) { Self::empty() } else { self }
    }

    /// A reader from the beginning.
    pub fn reader(&self) -> Reader {
        Reader { body: self.clone(), at: 0, ahead: false, trailers_given: false }
    }
}

impl Shared {
    /// Whether it has turned out that there is nothing of it.
    fn is_nothing(&self) -> bool {
        let ended = matches!(self.source, Source::Ended) && !self.dropped;
        ended && self.kept.is_empty() && self.trailers.is_none()
    }

    /// The next chunk of the source; `None` at its end, with the trailers put aside.
    fn poll_source(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        loop {
            let next = match &mut self.source {
                Source::Caller(body) => ready!(body.poll_frame(cx)).transpose(),
                Source::Tunnel(body) => ready!(body.poll_frame(cx)).transpose(),
                #[cfg(test)]
                Source::Script(chunks) => Ok(chunks.pop_front().map(Frame::data)),
                Source::Ended => return Poll::Ready(None),
                Source::Failed => return Poll::Ready(Some(Err(BodyError::Gone))),
            };
            self.activity.touch();
            match next {
                Ok(Some(frame)) => match frame.into_data() {
                    Ok(data) if data.is_empty() => {}
                    Ok(data) => {
                        let Some(room) = self.room.checked_sub(data.len() as u64) else {
                            return self.fail(BodyError::TooLong);
                        };
                        self.room = room;
                        self.activity.receive(data.len());
                        return Poll::Ready(Some(Ok(data)));
                    }
                    Err(frame) => self.trailers = frame.into_trailers().ok(),
                },
                Ok(None) => {
                    self.source = Source::Ended;
                    self.ended_at = Some(tokio::time::Instant::now());
                }
                Err(e) => {
                    return self.fail(e);
                }
            }
        }
    }

    /// It ends here, by this.
    fn fail<T>(&mut self, error: BodyError) -> Poll<Option<Result<T, BodyError>>> {
        self.source = Source::Failed;
        self.fault = match error {
            BodyError::TooLong => Some(Fault::TooLong),
            BodyError::Http1(http1::BodyError::Chunk(_) | http1::BodyError::TooLarge) => {
                Some(Fault::Malformed)
            }
            _ => None,
        };
        if let Some(watcher) = self.watcher.take() {
            watcher.wake();
        }
        Poll::Ready(Some(Err(error)))
    }

    /// Keeps a chunk for another attempt. False: it is too much, and from now on there is one reading only.
    fn keep(&mut self, chunk: &Bytes) -> bool {
        let fits = self.kept_bytes + chunk.len() <= limits::REPLAY_BODY_BYTES_MAX;
        if fits && self.reserved.grow(chunk.len()) {
            self.kept_bytes += chunk.len();
            self.kept.push(chunk.clone());
            return true;
        }
        self.dropped = true;
        self.kept_bytes = 0;
        self.reserved.release();
        false
    }
}

/// Reads a [`RequestBody`] from its beginning.
#[derive(Debug)]
pub struct Reader {
    body: RequestBody,
    at: usize,
    /// This reader has passed what is kept.
    ahead: bool,
    trailers_given: bool,
}

impl Body for Reader {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        let Some(shared) = &this.body.0 else { return Poll::Ready(None) };
        let mut s = shared.borrow_mut();
        if s.dropped && !this.ahead {
            if s.claimed || this.at > 0 {
                return Poll::Ready(Some(Err(BodyError::Gone)));
            }
            (s.claimed, this.ahead) = (true, true);
        }
        if this.ahead
            && let Some(chunk) = s.unread.pop_front()
        {
            return Poll::Ready(Some(Ok(Frame::data(chunk))));
        }
        if !s.dropped
            && let Some(chunk) = s.kept.get(this.at)
        {
            this.at += 1;
            return Poll::Ready(Some(Ok(Frame::data(chunk.clone()))));
        }
        match ready!(s.poll_source(cx)) {
            Some(Ok(chunk)) => {
                if !s.dropped {
                    if s.keep(&chunk) {
                        this.at = s.kept.len();
                    } else {
                        s.kept = Vec::new();
                        (s.claimed, this.ahead) = (true, true);
                    }
                }
                Poll::Ready(Some(Ok(Frame::data(chunk))))
            }
            Some(Err(e)) => Poll::Ready(Some(Err(e))),
            None => match s.trailers.clone() {
                Some(trailers) if !this.trailers_given => {
                    this.trailers_given = true;
                    Poll::Ready(Some(Ok(Frame::trailers(trailers))))
                }
                _ => Poll::Ready(None),
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.0.as_ref().is_none_or(|s| s.borrow().is_nothing())
    }

    fn size_hint(&self) -> SizeHint {
        match &self.body.0 {
            None => SizeHint::with_exact(0),
            Some(s) => s.borrow().length.map_or_else(SizeHint::default, SizeHint::with_exact),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::task::Waker;

    use super::*;
    use crate::base::budget::ByteBudget;

    fn body(chunks: &[usize], budget: usize) -> RequestBody {
        let source = Source::Script(chunks.iter().map(|&n| Bytes::from(vec![7; n])).collect());
        let activity = Activity::new(tokio::time::Instant::now());
        RequestBody::new(source, None, ByteBudget::new(budget).reservation(), activity)
    }

    fn now() -> Context<'static> {
        Context::from_waker(Waker::noop())
    }

    /// Reads `reader` to its end, or to its error.
    fn read(reader: &mut Reader) -> Result<usize, BodyError> {
        let mut bytes = 0;
        loop {
            match Pin::new(&mut *reader).poll_frame(&mut now()) {
                Poll::Ready(Some(frame)) => bytes += frame?.into_data().unwrap().len(),
                Poll::Ready(None) => return Ok(bytes),
                Poll::Pending => unreachable!("a script never waits"),
            }
        }
    }

    #[test]
    fn a_small_body_can_be_read_any_number_of_times() {
        let body = body(&[10, 20, 30], 1 << 20);
        for _ in 0..3 {
            assert!(body.can_restart());
            assert_eq!(read(&mut body.reader()).unwrap(), 60);
        }
        assert!(body.is_buffered());
    }

    #[test]
    fn what_was_read_ahead_reaches_the_first_reader_however_large_it_is() {
        for chunks in [&[1000, 100_000, 5][..], &[200_000], &[10, 70_000, 70_000]] {
            let body = body(chunks, 1 << 20);
            body.read_ahead(&mut now());
            assert!(body.can_restart(), "nobody has read anything yet");
            let mut first = body.reader();
            assert_eq!(read(&mut first).unwrap(), chunks.iter().sum::<usize>());
            assert!(!body.can_restart() && !body.is_buffered());
            assert!(matches!(read(&mut body.reader()), Err(BodyError::Gone)));
        }
    }

    #[test]
    fn a_spent_budget_costs_the_replay_and_not_the_request() {
        let body = body(&[100, 100], 0);
        body.read_ahead(&mut now());
        assert_eq!(read(&mut body.reader()).unwrap(), 200);
        assert!(!body.can_restart());
    }

    #[test]
    fn a_reader_that_was_overtaken_is_told() {
        let body = body(&[60_000, 60_000], 1 << 20);
        let mut slow = body.reader();
        assert!(matches!(Pin::new(&mut slow).poll_frame(&mut now()), Poll::Ready(Some(Ok(_)))));
        assert_eq!(read(&mut body.reader()).unwrap(), 120_000);
        assert!(matches!(read(&mut slow), Err(BodyError::Gone)));
    }

    #[test]
    fn only_a_small_whole_body_travels_with_the_head() {
        let mut out = Vec::new();
        let small = body(&[3], 1 << 20);
        small.read_ahead(&mut now());
        assert!(small.put_whole(&mut out));
        assert_eq!(out, [0, 3, 7, 7, 7, 3, 0]);
        let large = body(&[limits::SMALL_BODY_BYTES, 1], 1 << 20);
        large.read_ahead(&mut now());
        assert!(!large.put_whole(&mut out));
    }
}
