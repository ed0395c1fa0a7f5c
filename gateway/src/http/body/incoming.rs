//! A body as it comes from a caller's connection, in whichever version of HTTP.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame};

use super::{BodyError, http2};
use crate::http::message;

/// A body as it comes from a caller's connection.
#[derive(Debug)]
pub enum Incoming {
    /// Of HTTP/1.1.
    Http1(http1::server::Body),
    /// Of HTTP/2.
    Http2(http2::Received),
    /// None: what comes is of something else.
    Nothing,
}

/// The next of a message of HTTP/1.1, its trailers as they go on.
pub fn poll_http1(
    body: &mut (impl Body<Data = Bytes, Error = http1::BodyError> + Unpin),
    cx: &mut Context<'_>,
) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
    let mut next = ready!(Pin::new(body).poll_frame(cx));
    if let Some(Ok(frame)) = &mut next
        && let Some(trailers) = frame.trailers_mut()
    {
        message::trailers(trailers);
    }
    Poll::Ready(next.map(|next| next.map_err(BodyError::Http1)))
}

impl Incoming {
    pub(super) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self {
            Self::Http1(body) => poll_http1(body, cx),
            Self::Http2(body) => body.poll_frame(cx),
            Self::Nothing => Poll::Ready(None),
        }
    }

    pub(super) fn is_end_stream(&self) -> bool {
        match self {
            Self::Http1(body) => body.is_end_stream(),
            Self::Http2(body) => body.is_end_stream(),
            Self::Nothing => true,
        }
    }

    /// How long it is, if that is known.
    pub fn length(&self) -> Option<u64> {
        match self {
            Self::Http1(body) => body.size_hint().exact(),
            Self::Http2(body) => body.size_hint().exact(),
            Self::Nothing => Some(0),
        }
    }
}
