//! The serving side of an exchange: the head and body of a request that came through a tunnel, and the way of its
//! answer back, interim ones first.

use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use http_body::Body;
use proto::code::Code;
use proto::frame::{END, Frame, FrameKind, put_frame, put_frame_header};
use proto::head::ResponseHead;
use tokio::sync::Notify;
use tracing::debug;
use tunnel::{Peer, Receiver, Sender};

use crate::answer::{Answer, AnswerBody};
use crate::body::RequestBody;
use crate::budget::ByteBudget;
use crate::clock::Activity;
use crate::fields::{self, Declared};
use crate::metrics::Outcome;

/// The head of a request must be whole by then: it fits a few packets, and the peer sent it at once.
const HEAD_WAIT: Duration = Duration::from_secs(5);

/// Reads the first frame of an exchange, which must be its head; `None`: it is not, and the exchange was refused.
pub async fn head(peer: &Peer, sender: &mut Sender, receiver: &mut Receiver) -> Option<Bytes> {
    match tokio::time::timeout(HEAD_WAIT, receiver.frame()).await {
        Ok(Ok(Some(Frame::Head(head)))) => return Some(head),
        Ok(Ok(_)) | Err(_) => refuse(sender, receiver, Code::Internal),
        Ok(Err(error)) => {
            debug!(peer = %peer.hello.cluster, %error, "No head.");
            sender.reset(Code::Internal);
        }
    }
    None
}

/// Interim answers on their way to the peer: sent as they come, while the final one is awaited.
#[derive(Debug, Default)]
pub struct Interims {
    frames: std::cell::RefCell<Vec<u8>>,
    count: std::cell::Cell<u8>,
    came: Notify,
}

impl Interims {
    /// Takes one; those that are too many are left out, as any may be.
    pub fn push(&self, status: StatusCode, headers: &HeaderMap) {
        if self.count.get() >= proto::limits::INTERIM_FRAMES_MAX {
            return;
        }
        let head = ResponseHead { status: status.as_u16(), endpoint: None };
        let mut frames = self.frames.borrow_mut();
        let put = put_frame(&mut frames, FrameKind::Interim, |out| head.encode(fields::of(headers), out));
        if put.is_ok() {
            self.count.set(self.count.get() + 1);
            self.came.notify_one();
        }
    }

    /// What `answering` gives; what comes meanwhile is sent to the peer. `None`: the peer wants no answer any more.
    pub async fn while_answering<T>(
        &self,
        sender: &mut Sender,
        answering: impl Future<Output = T>,
    ) -> Option<T> {
        let stopped = sender.stopped();
        let (mut answering, mut stopped) = (std::pin::pin!(answering), std::pin::pin!(stopped));
        loop {
            let answered = tokio::select! {
                biased;
                answered = &mut answering => Some(answered),
                () = &mut stopped => return None,
                () = self.came.notified() => None,
            };
            let frames = std::mem::take(&mut *self.frames.borrow_mut());
            if !frames.is_empty() && sender.write(frames.into()).await.is_err() {
                return None;
            }
            if answered.is_some() {
                return answered;
            }
        }
    }
}

/// The body of a request whose head was read.
pub fn body(
    mut receiver: Receiver,
    declared: Declared,
    budget: &Arc<ByteBudget>,
    activity: Activity,
) -> RequestBody {
    let is_here = receiver.end_is_here();
    let mut body = RequestBody::from_tunnel(receiver, declared, budget.reservation(), activity);
    if is_here {
        body.read_ahead(&mut Context::from_waker(Waker::noop()));
        body = body.or_empty();
    }
    body
}

/// Ends an exchange without an answer.
pub fn refuse(sender: &mut Sender, receiver: &mut Receiver, code: Code) {
    sender.reset(code);
    receiver.stop(code);
}

/// Sends an answer to the peer.
pub async fn forward(sender: &mut Sender, answer: Answer) -> Outcome {
    let Answer { status, headers, mut body, .. } = answer;
    let mut first = Vec::with_capacity(512);
    if put_head(&mut first, status, &headers).is_err() {
        sender.reset(Code::Internal);
        return Outcome::Broken;
    }
    if let AnswerBody::Whole(whole) = &body {
        if let Some(data) = whole.data() {
            put_frame_header(&mut first, FrameKind::Data, data.len());
            first.extend_from_slice(data);
        }
        if let Some(trailers) = whole.trailers() {
            // Trailers that do not fit are left out: they are never needed to understand the message.
            let _ = put_frame(&mut first, FrameKind::Trailers, |out| {
                proto::head::encode_fields(fields::of(trailers), out)
            });
        }
        first.extend_from_slice(&END);
        if sender.write(first.into()).await.is_err() {
            return Outcome::Cancelled;
        }
        sender.finish();
        return Outcome::Answered;
    }
    if sender.write(first.into()).await.is_err() {
        return Outcome::Cancelled;
    }
    let mut trailers = None;
    let stopped = sender.stopped();
    let mut stopped = std::pin::pin!(stopped);
    loop {
        // A peer that stops while the endpoint is silent must not leave the endpoint working.
        let frame = tokio::select! {
            biased;
            frame = std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)) => frame,
            () = &mut stopped => return Outcome::Cancelled,
        };
        match frame {
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => {
                    if sender.data(data).await.is_err() {
                        return Outcome::Cancelled;
                    }
                }
                Err(frame) => trailers = frame.into_trailers().ok(),
            },
            Some(Err(error)) => {
                debug!(%error, "The endpoint's answer broke off.");
                sender.reset(Code::Internal);
                return Outcome::Cut;
            }
            None => break,
        }
    }
    let mut encoded = Vec::new();
    let trailers = trailers.filter(|t| proto::head::encode_fields(fields::of(t), &mut encoded).is_ok());
    if sender.end(trailers.map(|_| encoded.as_slice())).await.is_err() {
        return Outcome::Cancelled;
    }
    // Much of it may still be on its way: a gateway that drains must not close under it. The peer's probes bound this.
    stopped.await;
    Outcome::Answered
}

fn put_head(
    out: &mut Vec<u8>,
    status: StatusCode,
    headers: &HeaderMap,
) -> Result<(), proto::head::HeadError> {
    let head = ResponseHead { status: status.as_u16(), endpoint: None };
    put_frame(out, FrameKind::Head, |out| head.encode(fields::of(headers), out))
}
