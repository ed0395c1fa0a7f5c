//! Bodies on HTTP/2 streams (RFC 9113), of callers and of endpoints: what comes is whole only with END_STREAM, whatever
//! code the stream is reset with; what goes out waits for flow control.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream};
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};

use super::BodyError;
use crate::http::message;

/// The body of a message that is received.
#[derive(Debug)]
pub struct Received {
    stream: RecvStream,
    length: Option<u64>,
    data_ended: bool,
}

impl Received {
    /// Of a message with this length, if it was said.
    pub fn new(stream: RecvStream, length: Option<u64>) -> Self {
        Self { stream, length, data_ended: false }
    }

    /// The next piece; `None`: it is complete.
    ///
    /// # Errors
    /// [`BodyError`]: it is not.
    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if !self.data_ended {
            match ready!(self.stream.poll_data(cx)) {
                Some(Ok(data)) => {
                    // What is handed on is read; whoever takes it slowly asks for more slowly.
                    if let Err(error) = self.stream.flow_control().release_capacity(data.len()) {
                        return Poll::Ready(Some(Err(BodyError::Http2(error))));
                    }
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(BodyError::Http2(error)))),
                None => self.data_ended = true,
            }
        }
        match ready!(self.stream.poll_trailers(cx)) {
            Ok(Some(mut trailers)) => {
                message::trailers(&mut trailers);
                Poll::Ready(Some(Ok(Frame::trailers(trailers))))
            }
            Ok(None) if self.stream.is_end_stream() => Poll::Ready(None),
            // RFC 9113, section 8.1: only END_STREAM completes a message, not a reset without an error.
            Ok(None) => Poll::Ready(Some(Err(BodyError::Truncated))),
            Err(error) => Poll::Ready(Some(Err(BodyError::Http2(error)))),
        }
    }

    /// Whether nothing more comes, and all of it came.
    pub fn is_end_stream(&self) -> bool {
        self.stream.is_end_stream()
    }

    /// What is known of its length.
    pub fn size_hint(&self) -> SizeHint {
        self.length.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

/// Why a body was not sent to its end.
#[derive(Debug)]
pub enum Unsent<E> {
    /// The other side reset the stream, or the connection is over.
    Stopped,
    /// The body itself failed; the stream was not reset yet.
    Body(E),
}

/// Sends a body to its end.
///
/// # Errors
/// [`Unsent`].
pub async fn send<B: Body<Data = Bytes>>(
    stream: &mut SendStream<Bytes>,
    body: Pin<&mut B>,
) -> Result<(), Unsent<B::Error>> {
    let mut sending = Sending { data: Bytes::new(), trailers: None, ended: false };
    let mut body = body;
    poll_fn(|cx| sending.poll(cx, stream, body.as_mut())).await
}

struct Sending {
    data: Bytes,
    trailers: Option<HeaderMap>,
    ended: bool,
}

impl Sending {
    fn poll<B: Body<Data = Bytes>>(
        &mut self,
        cx: &mut Context<'_>,
        stream: &mut SendStream<Bytes>,
        mut body: Pin<&mut B>,
    ) -> Poll<Result<(), Unsent<B::Error>>> {
        loop {
            if let Poll::Ready(Ok(_) | Err(_)) = stream.poll_reset(cx) {
                return Poll::Ready(Err(Unsent::Stopped));
            }
            if !self.data.is_empty() {
                stream.reserve_capacity(self.data.len());
                let Some(Ok(room)) = ready!(stream.poll_capacity(cx)) else {
                    return Poll::Ready(Err(Unsent::Stopped));
                };
                let part = self.data.split_to(room.min(self.data.len()));
                let last = self.data.is_empty() && (self.ended && self.trailers.is_none());
                stream.send_data(part, last).map_err(|_| Unsent::Stopped)?;
                if last {
                    return Poll::Ready(Ok(()));
                }
                continue;
            }
            if self.ended {
                let sent = match self.trailers.take() {
                    Some(trailers) => stream.send_trailers(trailers),
                    None => stream.send_data(Bytes::new(), true),
                };
                return Poll::Ready(sent.map_err(|_| Unsent::Stopped));
            }
            match ready!(body.as_mut().poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => {
                        self.data = data;
                        self.ended = body.is_end_stream();
                    }
                    Err(frame) => self.trailers = frame.into_trailers().ok(),
                },
                Some(Err(error)) => return Poll::Ready(Err(Unsent::Body(error))),
                None => self.ended = true,
            }
        }
    }
}

/// Ends a stream so that nobody takes what came for whole.
pub fn cut(stream: &mut SendStream<Bytes>) {
    stream.send_reset(Reason::INTERNAL_ERROR);
}
