//! One attempt: at a local endpoint, or through a tunnel.

use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use hashring::NodeIndex;
use http::StatusCode;
use http_body::Body;
use proto::code::Code;
use proto::frame::{Frame, FrameKind, put_frame};
use tokio::time::Instant;
use tunnel::{Exchange, Tunnel, TunnelError};

use super::Call;
use crate::answer::{Answer, AnswerBody, Source};
use crate::body::{Reader, Upload};
use crate::clock::Activity;
use crate::endpoint::{Allowance, Ask};
use crate::fields;
use crate::message;
use crate::peers::{PeerCluster, PeerGateway};
use crate::retry::Failure;
use crate::view::{LocalService, Server, Service};

/// How long a sidecar's request waits for a gateway: a restart is over by then.
const GATEWAY_WAIT: Duration = Duration::from_secs(5);
/// Tunnels to gateways that one request of a sidecar may fail on.
const GATEWAY_TUNNELS_MAX: usize = 8;

/// Where an attempt goes.
#[derive(Debug)]
pub(super) enum Target {
    Local(Arc<LocalService>),
    Peer(Arc<PeerGateway>, Tunnel),
    /// From a sidecar: any gateway of its own cluster.
    Gateways(Arc<PeerCluster>),
}

/// Which attempt it is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Attempt {
    /// Attempts before this one.
    pub(super) number: usize,
    /// Clusters that may still be tried.
    pub(super) left: u8,
    /// The peer said `MISPLACED`, and shall serve it all the same.
    pub(super) insist: bool,
}

impl Target {
    /// Where an attempt at `node` goes that `worker` makes.
    pub(super) fn of(service: &Service, node: NodeIndex, worker: u8) -> Result<Self, Failure> {
        match service.server(node) {
            Server::Local(local) => Ok(Self::Local(local.clone())),
            Server::Peer(peer, _) => {
                let (gateway, tunnel) = peer.pick(Some(worker)).ok_or(Failure::NotSent)?;
                Ok(Self::Peer(gateway, tunnel))
            }
            Server::Via(gateways, _) => Ok(Self::Gateways(gateways.clone())),
            Server::Unreachable => Err(Failure::NotSent),
        }
    }

    pub(super) fn gateway(&self) -> Option<Arc<PeerGateway>> {
        match self {
            Self::Local(_) | Self::Gateways(_) => None,
            Self::Peer(gateway, _) => Some(gateway.clone()),
        }
    }
}

impl Call<'_> {
    pub(super) async fn attempt(&self, target: Target, attempt: Attempt) -> Result<Answer, Failure> {
        let answer = match target {
            Target::Local(local) => self.at_local(&local).await?,
            Target::Peer(gateway, tunnel) => self.through(&gateway, &tunnel, attempt).await?,
            Target::Gateways(cluster) => self.through_any(&cluster, attempt).await?,
        };
        let idle = self.service.timeout.idle;
        answer.settle(&self.worker.shared.budget, idle).await.map_err(|e| match e {
            crate::body::BodyError::Tunnel(e) => failure(&e),
            _ => Failure::Reset,
        })
    }

    async fn at_local(&self, local: &LocalService) -> Result<Answer, Failure> {
        let port = local.port(self.port).ok_or(Failure::Unavailable)?;
        let allowance = Allowance {
            replayable: self.replayable_method,
            attempts: self.service.retry.attempts,
            connect: self.service.timeout.connect,
        };
        let ask = Ask {
            pool: &self.worker.pool,
            port,
            clock: self.worker.shared.clock,
            head: self.head,
            body: &self.body,
            key: self.hash,
            allowance,
            expired: &self.expired,
            interim: self.interim,
            stop: &self.worker.shared.stop,
        };
        Ok(ask.send().await?.into())
    }

    /// Through one gateway of the own cluster after the other, as endpoints of a service are tried: on from one that has
    /// processed nothing, or may process it twice. With none left it waits for one to come, for there is no other way.
    async fn through_any(&self, cluster: &PeerCluster, attempt: Attempt) -> Result<Answer, Failure> {
        let give_up = Instant::now() + GATEWAY_WAIT;
        let mut tried: Vec<Tunnel> = Vec::new();
        let mut last = Failure::NotSent;
        while tried.len() < GATEWAY_TUNNELS_MAX {
            let mut changed = std::pin::pin!(cluster.changed.notified());
            changed.as_mut().enable();
            let Some((gateway, tunnel)) = cluster.pick_but(Some(self.worker.number), &tried) else {
                if last == Failure::Overloaded {
                    // One that is full is there, and to wait for it would fill it more.
                    break;
                }
                tokio::select! {
                    () = changed => continue,
                    () = tokio::time::sleep_until(give_up) => break,
                }
            };
            match self.through(&gateway, &tunnel, attempt).await {
                Err(failure) if self.may_go_on(failure) => last = failure,
                done => return done,
            }
            tried.push(tunnel);
        }
        Err(last)
    }

    /// Whether another gateway may be asked after one that failed like this.
    fn may_go_on(&self, failure: Failure) -> bool {
        let harmless = match failure {
            Failure::NotSent | Failure::Refused | Failure::Overloaded => true,
            Failure::PeerLost => self.replayable_method,
            _ => false,
        };
        harmless && self.body.can_restart() && !self.body.failed()
    }

    async fn through(
        &self,
        gateway: &PeerGateway,
        tunnel: &Tunnel,
        attempt: Attempt,
    ) -> Result<Answer, Failure> {
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
        let Exchange { sender, mut receiver } = sent.map_err(|e| self.peer_failure(gateway, &e))?;
        let upload = if whole {
            drop(sender);
            None
        } else {
            let upload = upload(sender, self.body.reader(), self.activity.clone());
            Some(Upload::begin(upload, self.body.clone(), self.worker.shared.stop.clone()))
        };
        let head = loop {
            match receiver.frame().await {
                Ok(Some(Frame::Head(head))) => break head,
                Ok(Some(Frame::Interim(head))) => self.hint(&head),
                Ok(_) => return Err(Failure::Reset),
                Err(e) => return Err(self.peer_failure(gateway, &e)),
            }
        };
        let (response, head_fields) = proto::head::ResponseHead::decode(&head).map_err(|_| Failure::Reset)?;
        let mut headers = fields::to_headers(&head, head_fields).ok_or(Failure::Reset)?;
        let status = StatusCode::from_u16(response.status).map_err(|_| Failure::Reset)?;
        // A peer's gateway has judged it; one that has not must not reach our caller's connection.
        let declared =
            message::answer(&self.head.method, status, &mut headers).map_err(|_| Failure::Malformed)?;
        let body = AnswerBody::stream(Source::Tunnel(receiver, declared), upload);
        Ok(Answer { status, reason: None, headers, body })
    }

    /// Forwards an interim answer; one that makes no sense is left out, as any may be.
    fn hint(&self, head: &bytes::Bytes) {
        let Ok((response, head_fields)) = proto::head::ResponseHead::decode(head) else { return };
        let Some(mut headers) = fields::to_headers(head, head_fields) else { return };
        let Ok(status) = StatusCode::from_u16(response.status) else { return };
        if message::interim(status, &mut headers) {
            (self.interim)(status, &headers);
        }
    }

    fn put_head(&self, out: &mut Vec<u8>, attempt: Attempt) -> Result<(), proto::head::HeadError> {
        let service = self.service;
        let placement = &service.placement;
        // A pinned name skips the ring of clusters: there is nothing to agree on.
        let generation = if service.pinned { 0 } else { placement.generation() };
        let owner = self.hash.filter(|_| !service.pinned).and_then(|hash| placement.owner(hash));
        let total = self.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let text = |name: &str| self.head.headers.get(name).and_then(|v| v.to_str().ok());
        let head = proto::head::RequestHead {
            request_id: self.request_id,
            namespace: &service.name.namespace,
            service: &service.name.name,
            port: self.port,
            generation,
            key_hash: self.hash,
            owner: owner.map(registry::model::ClusterName::as_str),
            attempt: u8::try_from(attempt.number).unwrap_or(u8::MAX),
            attempts_left: attempt.left,
            replayable: self.replayable_method,
            insist: attempt.insist,
            // At least 1: 0 means that there is no deadline.
            deadline_ms: total.map_or(0, |t| u64::try_from(t.as_millis()).unwrap_or(u64::MAX).max(1)),
            traceparent: text("traceparent")
                .filter(|t| t.len() <= 64 && t.bytes().all(|b| b.is_ascii_graphic())),
            tracestate: None,
            caller: self.caller,
            endpoint: None,
            method: self.head.method.as_str(),
            path: self.head.target.path_and_query().map_or("/", |p| p.as_str()),
            authority: self.authority,
        };
        put_frame(out, FrameKind::Head, |out| head.encode(fields::of(&self.head.headers), out))
    }

    /// A lost connection to a gateway that is down, or to one that lives and broke only this exchange.
    fn peer_failure(&self, gateway: &PeerGateway, error: &TunnelError) -> Failure {
        tracing::debug!(peer = %gateway.cluster, gateway = %gateway.id, %error, "Exchange failed.");
        failure(error)
    }
}

/// What a tunnel's error means for the request.
fn failure(error: &TunnelError) -> Failure {
    match error {
        TunnelError::Down(_)
        | TunnelError::Busy
        | TunnelError::Abandoned
        | TunnelError::Connect(_)
        | TunnelError::Hello(_) => Failure::NotSent,
        TunnelError::Lost(_) => Failure::PeerLost,
        TunnelError::Truncated | TunnelError::Protocol(_) => Failure::Reset,
        TunnelError::Reset(code) => match code {
            Code::Refused => Failure::Refused,
            Code::Overloaded => Failure::Overloaded,
            Code::Misplaced => Failure::Misplaced,
            Code::Denied => Failure::Denied,
            Code::Unknown => Failure::Unknown,
            Code::Deadline => Failure::Deadline,
            Code::Cancelled | Code::Internal => Failure::Reset,
        },
    }
}

/// Sends the rest of a request's body beside the answer. What fails here shows on the answer's side.
async fn upload(mut sender: tunnel::Sender, mut reader: Reader, activity: Activity) {
    let mut trailers = None;
    loop {
        match std::future::poll_fn(|cx| Pin::new(&mut reader).poll_frame(cx)).await {
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => {
                    if sender.data(data).await.is_err() {
                        return;
                    }
                    activity.touch();
                }
                Err(frame) => trailers = frame.into_trailers().ok(),
            },
            Some(Err(_)) => return sender.reset(Code::Cancelled),
            None => break,
        }
    }
    let mut encoded = Vec::new();
    let trailers = trailers.filter(|t| proto::head::encode_fields(fields::of(t), &mut encoded).is_ok());
    // A failure here is the peer's stop or the tunnel's end.
    let _ = sender.end(trailers.map(|_| encoded.as_slice())).await;
}
