//! The asking side of an exchange: a request goes into a tunnel, its answer comes back.

use std::task::Poll;

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use proto::code::Code;
use proto::frame::{Frame, FrameKind, put_frame};
use proto::head::{FlowHead, HeadError, HttpHead};
use proto::stream::StreamKind;
use tokio_util::sync::CancellationToken;
use tunnel::{Exchange, Receiver, Tunnel};

use super::codec;
use super::copy::{CopyError, copy};
use super::facts::Facts;
use crate::base::clock::Activity;
use crate::http::body::{Reader, RequestBody, Tunnelled, Upload};
use crate::http::fields;
use crate::http::join::End;
use crate::http::message::{self, RequestHead};
use crate::proxy::answer::{Answer, AnswerBody, Source};
use crate::proxy::flow::Attempt;
use crate::upstream::Served;
use policy::retry::Failure;

/// A request as it goes through tunnels, the same over all its attempts.
pub struct Request<'a> {
    /// What is told of it whatever it is.
    pub facts: Facts<'a>,
    /// What its caller asked for.
    pub authority: &'a str,
    /// What is asked.
    pub head: &'a RequestHead,
    /// The body.
    pub body: &'a RequestBody,
    /// Moves with the body.
    pub activity: &'a Activity,
    /// Sends an interim answer to the caller.
    pub interim: &'a dyn Fn(StatusCode, &HeaderMap),
    /// Cancelled when the process drains.
    pub stop: &'a CancellationToken,
}

impl Request<'_> {
    /// Sends it through `tunnel`.
    ///
    /// # Errors
    /// What the tunnel or the far side says.
    pub async fn send(&self, tunnel: &Tunnel, attempt: Attempt) -> Result<Answer, Failure> {
        if !self.body.is_empty() {
            std::future::poll_fn(|cx| {
                self.body.read_ahead(cx);
                Poll::Ready(())
            })
            .await;
        }
        let mut first = tunnel::begin(StreamKind::Exchange);
        self.put_head(&mut first, attempt).map_err(|_| Failure::TooLarge)?;
        let upgrade = self.head.upgrade.is_some();
        let whole = !upgrade && self.body.put_whole(&mut first);
        let sent = tunnel.open(first.into(), whole).await;
        let Exchange { sender, mut receiver } = sent.map_err(|error| codec::failed(tunnel, &error))?;
        if upgrade {
            return self.upgrade(tunnel, Exchange { sender, receiver }).await;
        }
        let upload = if whole {
            drop(sender);
            None
        } else {
            let upload = upload(sender, self.body.reader(), self.activity.clone());
            Some(Upload::begin(upload, self.body.clone(), self.stop.clone()))
        };
        let (status, mut headers) = self.answer(tunnel, &mut receiver).await?;
        // A peer's gateway has judged it; one that has not must not reach our caller's connection.
        let declared =
            message::answer(&self.head.method, status, &mut headers).map_err(|_| Failure::Malformed)?;
        let body = AnswerBody::stream(Source::Tunnel(Tunnelled::new(receiver, declared)), upload);
        Ok(Answer { status, reason: None, headers, body, endpoint: None, upgraded: None })
    }

    /// The head of the answer, interim ones forwarded.
    async fn answer(
        &self,
        tunnel: &Tunnel,
        receiver: &mut Receiver,
    ) -> Result<(StatusCode, HeaderMap), Failure> {
        loop {
            match receiver.frame().await {
                Ok(Some(Frame::Head(head))) => return codec::answer(&head).ok_or(Failure::Reset),
                Ok(Some(Frame::Interim(head))) => self.hint(&head),
                Ok(_) => return Err(Failure::Reset),
                Err(error) => return Err(codec::failed(tunnel, &error)),
            }
        }
    }

    /// Waits for the answer to a request that is to speak something else behind its heads.
    async fn upgrade(&self, tunnel: &Tunnel, mut exchange: Exchange) -> Result<Answer, Failure> {
        let (status, mut headers) = self.answer(tunnel, &mut exchange.receiver).await?;
        if status == StatusCode::SWITCHING_PROTOCOLS {
            fields::strip_hop_by_hop(&mut headers);
            let upgraded = Some(Box::new(Served { end: End::Tunnel(Box::new(exchange)), held: None }));
            let body = AnswerBody::whole(Bytes::new());
            return Ok(Answer { status, reason: None, headers, body, endpoint: None, upgraded });
        }
        let Exchange { mut sender, receiver } = exchange;
        // It has nothing more to send; whoever answers need not wait for it.
        let _ = sender.end(None).await;
        let declared =
            message::answer(&self.head.method, status, &mut headers).map_err(|_| Failure::Malformed)?;
        let body = AnswerBody::stream(Source::Tunnel(Tunnelled::new(receiver, declared)), None);
        Ok(Answer { status, reason: None, headers, body, endpoint: None, upgraded: None })
    }

    /// Forwards an interim answer; one that makes no sense is left out, as any may be.
    fn hint(&self, head: &Bytes) {
        let Some((status, mut headers)) = codec::answer(head) else { return };
        if message::interim(status, &mut headers) {
            (self.interim)(status, &headers);
        }
    }

    fn put_head(&self, out: &mut Vec<u8>, attempt: Attempt) -> Result<(), HeadError> {
        let text = |name: &str| self.head.headers.get(name).and_then(|v| v.to_str().ok());
        let traceparent =
            text("traceparent").filter(|t| t.len() <= 64 && t.bytes().all(|b| b.is_ascii_graphic()));
        let flow = FlowHead { traceparent, ..self.facts.head(attempt) };
        let http = HttpHead {
            method: self.head.method.as_str(),
            path: self.head.target.path_and_query().map_or("/", |p| p.as_str()),
            authority: self.authority,
            upgrade: self.head.upgrade.as_ref().and_then(|protocol| protocol.to_str().ok()),
        };
        let head = proto::head::RequestHead { flow, http };
        put_frame(out, FrameKind::Head, |out| head.encode(fields::of(&self.head.headers), out))
    }
}

/// Sends the rest of a request's body beside the answer. What fails here shows on the answer's side.
async fn upload(mut sender: tunnel::Sender, reader: Reader, activity: Activity) {
    if let Err(CopyError::Source(_)) = copy(&mut sender, reader, |_| activity.touch()).await {
        sender.reset(Code::Cancelled);
    }
}
