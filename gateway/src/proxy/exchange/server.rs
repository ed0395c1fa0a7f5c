//! The serving side of an exchange: the head and body of a request that came through a tunnel, and the way of its
//! answer back, interim ones first.

use std::cell::{Cell, RefCell};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use proto::code::Code;
use proto::frame::{END, Frame, FrameKind, put_frame, put_frame_header};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing::debug;
use tunnel::{Peer, Receiver, Sender, TunnelError};

use super::codec;
use super::copy::{CopyError, copy};
use crate::base::budget::ByteBudget;
use crate::base::clock::Activity;
use crate::http::body::{RequestBody, Tunnelled};
use crate::http::fields::{self, Declared};
use crate::proxy::answer::{Answer, AnswerBody, Whole};
use crate::telemetry::metrics::Outcome;
use crate::telemetry::record::Record;

/// The head of a request must be whole by then: it fits a few packets, and the peer sent it at once.
const HEAD_WAIT: Duration = Duration::from_secs(5);

/// Reads the first frame of an exchange, which must be its head; `None`: it is not, and the exchange is to be refused.
pub async fn head(peer: &Peer, receiver: &mut Receiver) -> Option<Bytes> {
    match tokio::time::timeout(HEAD_WAIT, receiver.frame()).await {
        Ok(Ok(Some(Frame::Head(head)))) => return Some(head),
        Ok(Ok(_)) | Err(_) => {}
        Ok(Err(error)) => debug!(peer = %peer.hello.cluster, %error, "No head."),
    }
    None
}

/// Interim answers on their way to the peer: sent as they come, while the final one is awaited.
#[derive(Debug, Default)]
pub struct Interims {
    frames: RefCell<Vec<u8>>,
    count: Cell<u8>,
    came: Notify,
}

impl Interims {
    /// Takes one; those that are too many are left out, as any may be.
    pub fn push(&self, status: StatusCode, headers: &HeaderMap) {
        if self.count.get() >= proto::limits::INTERIM_FRAMES_MAX {
            return;
        }
        if codec::put_answer(&mut self.frames.borrow_mut(), FrameKind::Interim, status, headers).is_ok() {
            self.count.set(self.count.get() + 1);
            self.came.notify_one();
        }
    }

    /// What `answering` gives; what comes meanwhile is sent to the peer. `None`: the peer wants no answer any more.
    pub async fn while_answering<T>(
        &self,
        sender: &mut Sender,
        mut answering: Pin<&mut impl Future<Output = T>>,
    ) -> Option<T> {
        let mut stopped = pin!(sender.stopped());
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
    receiver: Receiver,
    declared: Declared,
    budget: &Arc<ByteBudget>,
    activity: Activity,
) -> RequestBody {
    let mut body = Tunnelled::new(receiver, declared);
    let is_here = body.end_is_here();
    let mut body = RequestBody::from_tunnel(body, budget.reservation(), activity);
    if is_here {
        body.read_ahead(&mut Context::from_waker(Waker::noop()));
        body = body.or_empty();
    }
    body
}

/// Tells the peer that an endpoint has taken its connection.
///
/// # Errors
/// It wants it no more.
pub async fn accept(sender: &mut Sender) -> Result<(), TunnelError> {
    put(sender, StatusCode::OK, &HeaderMap::new()).await
}

/// Tells the peer that the exchange is upgraded.
///
/// # Errors
/// It wants it no more.
pub async fn switch(sender: &mut Sender, headers: &HeaderMap) -> Result<(), TunnelError> {
    put(sender, StatusCode::SWITCHING_PROTOCOLS, headers).await
}

async fn put(sender: &mut Sender, status: StatusCode, headers: &HeaderMap) -> Result<(), TunnelError> {
    let mut first = Vec::with_capacity(512);
    codec::put_answer(&mut first, FrameKind::Head, status, headers)
        .map_err(|error| TunnelError::Protocol(error.to_string()))?;
    sender.write(first.into()).await
}

/// Ends an exchange without an answer.
pub fn refuse(sender: &mut Sender, receiver: &mut Receiver, code: Code) {
    sender.reset(code);
    receiver.stop(code);
}

/// Sends an answer to the peer, and gives how that ended; its status and bytes go into `record`. Once `stop` is cancelled it
/// also waits until it has arrived: the drain closes the tunnel after the last request.
pub async fn forward(
    sender: &mut Sender,
    answer: Answer,
    record: &mut Record,
    stop: &CancellationToken,
) -> Outcome {
    let outcome = send(sender, answer, record).await;
    if stop.is_cancelled() {
        sender.stopped().await;
    }
    outcome
}

async fn send(sender: &mut Sender, answer: Answer, record: &mut Record) -> Outcome {
    let Answer { status, headers, body, .. } = answer;
    record.status(status.as_u16());
    let mut first = Vec::with_capacity(512);
    if codec::put_answer(&mut first, FrameKind::Head, status, &headers).is_err() {
        sender.reset(Code::Internal);
        return Outcome::Broken;
    }
    let body = match body {
        AnswerBody::Whole(whole) => {
            put_whole(&mut first, &whole);
            if sender.write(first.into()).await.is_err() {
                return Outcome::Cancelled;
            }
            record.sent(whole.data().map_or(0, Bytes::len));
            sender.finish();
            return Outcome::Answered;
        }
        AnswerBody::Stream(body) => body,
    };
    if sender.write(first.into()).await.is_err() {
        return Outcome::Cancelled;
    }
    match copy(sender, body, |bytes| record.sent(bytes)).await {
        Ok(()) => {}
        Err(CopyError::Gone) => return Outcome::Cancelled,
        Err(CopyError::Source(error)) => {
            debug!(%error, "Endpoint response truncated.");
            sender.reset(Code::Internal);
            return Outcome::Cut;
        }
    }
    // Much of it may still be on its way: a gateway that drains must not close under it. The peer's probes bound this.
    sender.stopped().await;
    Outcome::Answered
}

/// Appends a whole body and its end. Trailers that do not fit are left out: they are never needed to understand the
/// message.
fn put_whole(out: &mut Vec<u8>, whole: &Whole) {
    if let Some(data) = whole.data() {
        put_frame_header(out, FrameKind::Data, data.len());
        out.extend_from_slice(data);
    }
    if let Some(trailers) = whole.trailers() {
        let put = |out: &mut Vec<u8>| proto::head::encode_fields(fields::of(trailers), out);
        let _ = put_frame(out, FrameKind::Trailers, put);
    }
    out.extend_from_slice(&END);
}
