//! A body as it comes through a tunnel, of a request or of an answer: its length is held against what was declared, and its
//! trailers must be HTTP.

use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::Frame;
use proto::frame::Frame as TunnelFrame;

use super::BodyError;
use crate::http::fields::Declared;
use crate::http::message;

/// The rest of a message whose head was read.
#[derive(Debug)]
pub struct Tunnelled {
    receiver: tunnel::Receiver,
    declared: Declared,
}

impl Tunnelled {
    /// What is still to come on `receiver`, of a message that declared its length so.
    pub fn new(receiver: tunnel::Receiver, declared: Declared) -> Self {
        Self { receiver, declared }
    }

    /// What is to come of it, if that is known.
    pub fn length(&self) -> Option<u64> {
        self.declared.length()
    }

    /// Whether its end came with what was read last.
    pub fn end_is_here(&mut self) -> bool {
        self.receiver.end_is_here()
    }

    /// The next frame; `None` at its end.
    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let declared = &mut self.declared;
        self.receiver.poll_frame(cx).map(|frame| match frame {
            Ok(Some(TunnelFrame::Data(bytes))) if declared.take(bytes.len()) => Some(Ok(Frame::data(bytes))),
            Ok(Some(TunnelFrame::Data(_))) => Some(Err(BodyError::Length)),
            Ok(Some(TunnelFrame::Trailers(bytes))) => {
                Some(message::trailers_from_tunnel(&bytes).map(Frame::trailers).ok_or(BodyError::Trailers))
            }
            Ok(Some(TunnelFrame::End) | None) if declared.is_met() => None,
            Ok(Some(TunnelFrame::End) | None) => Some(Err(BodyError::Length)),
            // The decoder lets heads stand only at the beginning.
            Ok(Some(TunnelFrame::Head(_) | TunnelFrame::Interim(_))) => Some(Err(BodyError::Trailers)),
            Err(error) => Some(Err(BodyError::Tunnel(error))),
        })
    }
}
