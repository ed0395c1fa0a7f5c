//! The body of a request.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::StatusCode;
use http::header::HeaderMap;
use http_body::{Body as HttpBody, Frame, SizeHint};

use super::{BodyState, Connection};
use crate::BodyError;
use crate::chunked::{Decoder, Item};

/// The body of a request, read from its connection by whoever polls it.
#[derive(Debug)]
pub struct Body {
    connection: Rc<Connection>,
    decoder: Decoder,
    /// The caller waits to be told that it may send (RFC 9110, section 10.1.1).
    awaited: bool,
}

impl Body {
    /// The body that follows a head; `awaited`: its caller waits to be told that it may send.
    pub(super) fn new(connection: Rc<Connection>, decoder: Decoder, awaited: bool) -> Self {
        Self { connection, decoder, awaited }
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
