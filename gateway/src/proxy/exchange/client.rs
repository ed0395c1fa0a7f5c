//! The asking side of an exchange: a request goes into a tunnel, its answer comes back.

use std::task::Poll;

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use proto::code::Code;
use proto::frame::{Frame, FrameKind, put_frame};
use proto::head::{FlowHead, HeadError, HttpHead};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tunnel::{Exchange, Tunnel, TunnelError};

use super::codec;
use super::copy::{CopyError, copy};
use crate::base::clock::Activity;
use crate::http::body::{Reader, RequestBody, Tunnelled, Upload};
use crate::http::fields;
use crate::http::message::{self, RequestHead};
use crate::proxy::answer::{Answer, AnswerBody, Source};
use crate::proxy::flow::Attempt;
use crate::view::Service;
use policy::retry::Failure;

/// A request as it goes through tunnels, the same over all its attempts.
pub struct Request<'a> {
    /// The service that it is placed by, and its port.
    pub service: &'a Service,
    /// The port as callers see it.
    pub port: u16,
    /// Names it over all its attempts.
    pub id: [u8; 16],
    /// The hash of its key.
    pub hash: Option<u64>,
    /// When it must be over, all of it.
    pub deadline: Option<Instant>,
    /// Whether its method allows that it is sent twice.
    pub replayable: bool,
    /// The SPIFFE ID of the workload that asks, where it came through its sidecar.
    pub caller: Option<&'a str>,
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
        let mut first = tunnel::begin_exchange();
        self.put_head(&mut first, attempt).map_err(|_| Failure::TooLarge)?;
        let whole = self.body.put_whole(&mut first);
        let sent = tunnel.open(first.into(), whole).await;
        let Exchange { sender, mut receiver } = sent.map_err(|error| failed(tunnel, &error))?;
        let upload = if whole {
            drop(sender);
            None
        } else {
            let upload = upload(sender, self.body.reader(), self.activity.clone());
            Some(Upload::begin(upload, self.body.clone(), self.stop.clone()))
        };
        let head = loop {
            match receiver.frame().await {
                Ok(Some(Frame::Head(head))) => break head,
                Ok(Some(Frame::Interim(head))) => self.hint(&head),
                Ok(_) => return Err(Failure::Reset),
                Err(error) => return Err(failed(tunnel, &error)),
            }
        };
        let (status, mut headers) = codec::answer(&head).ok_or(Failure::Reset)?;
        // A peer's gateway has judged it; one that has not must not reach our caller's connection.
        let declared =
            message::answer(&self.head.method, status, &mut headers).map_err(|_| Failure::Malformed)?;
        let body = AnswerBody::stream(Source::Tunnel(Tunnelled::new(receiver, declared)), upload);
        Ok(Answer { status, reason: None, headers, body, endpoint: None })
    }

    /// Forwards an interim answer; one that makes no sense is left out, as any may be.
    fn hint(&self, head: &Bytes) {
        let Some((status, mut headers)) = codec::answer(head) else { return };
        if message::interim(status, &mut headers) {
            (self.interim)(status, &headers);
        }
    }

    fn put_head(&self, out: &mut Vec<u8>, attempt: Attempt) -> Result<(), HeadError> {
        let service = self.service;
        let placement = &service.placement;
        // A pinned name skips the ring of clusters: there is nothing to agree on.
        let generation = if service.pinned { 0 } else { placement.generation() };
        let owner = self.hash.filter(|_| !service.pinned).and_then(|hash| placement.owner(hash));
        let left = self.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let text = |name: &str| self.head.headers.get(name).and_then(|v| v.to_str().ok());
        let flow = FlowHead {
            request_id: self.id,
            namespace: &service.name.namespace,
            service: &service.name.name,
            port: self.port,
            generation,
            key_hash: self.hash,
            owner: owner.map(registry::model::ClusterName::as_str),
            attempt: attempt.number,
            attempts_left: attempt.left,
            replayable: self.replayable,
            insist: attempt.insist,
            // At least 1: 0 means that there is no deadline.
            deadline_ms: left.map_or(0, |t| u64::try_from(t.as_millis()).unwrap_or(u64::MAX).max(1)),
            traceparent: text("traceparent")
                .filter(|t| t.len() <= 64 && t.bytes().all(|b| b.is_ascii_graphic())),
            tracestate: None,
            caller: self.caller,
            endpoint: None,
        };
        let http = HttpHead {
            method: self.head.method.as_str(),
            path: self.head.target.path_and_query().map_or("/", |p| p.as_str()),
            authority: self.authority,
        };
        let head = proto::head::RequestHead { flow, http };
        put_frame(out, FrameKind::Head, |out| head.encode(fields::of(&self.head.headers), out))
    }
}

fn failed(tunnel: &Tunnel, error: &TunnelError) -> Failure {
    let hello = &tunnel.peer().hello;
    tracing::debug!(peer = %hello.cluster, gateway = %hello.gateway, %error, "Exchange failed.");
    codec::failure(error)
}

/// Sends the rest of a request's body beside the answer. What fails here shows on the answer's side.
async fn upload(mut sender: tunnel::Sender, reader: Reader, activity: Activity) {
    if let Err(CopyError::Source(_)) = copy(&mut sender, reader, |_| activity.touch()).await {
        sender.reset(Code::Cancelled);
    }
}
