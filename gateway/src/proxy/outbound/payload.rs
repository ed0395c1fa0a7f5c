//! An HTTP request as a flow carries it: to an endpoint, or through a tunnel.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use tokio::time::Instant;
use tunnel::Tunnel;

use super::clusters::Target;
use crate::http::body::BodyError;
use crate::peers::PeerCluster;
use crate::proxy::answer::Answer;
use crate::proxy::error::Rejection;
use crate::proxy::exchange::{client, codec};
use crate::proxy::flow::{Attempt, Payload};
use crate::proxy::worker::Worker;
use crate::upstream::{Allowance, Ask};
use crate::view::LocalService;
use policy::grpc;
use policy::retry::Failure;

/// How long a sidecar's request waits for a gateway: a restart is over by then.
const GATEWAY_WAIT: Duration = Duration::from_secs(5);
/// Tunnels that one attempt may fail on: to a linked cluster, or from a sidecar to its gateways.
const TUNNELS_MAX: usize = 8;

/// One request of HTTP.
pub(super) struct HttpPayload<'a> {
    pub(super) worker: &'a Rc<Worker>,
    pub(super) request: client::Request<'a>,
    /// Whether it is gRPC: an answer may be a failure although its HTTP status is none.
    pub(super) grpc: bool,
    /// Whether the time that the policy gives is over.
    pub(super) expired: &'a Cell<bool>,
}

impl<'a> Payload for HttpPayload<'a> {
    type Target = Target<'a>;
    type Reply = Answer;

    fn can_restart(&self) -> bool {
        self.request.body.can_restart()
    }

    fn is_buffered(&self) -> bool {
        self.request.body.is_buffered()
    }

    fn failed(&self) -> bool {
        self.request.body.failed()
    }

    fn ended_at(&self, started: Instant) -> Option<Instant> {
        self.request.body.ended_at(started)
    }

    fn failure_in(&self, answer: &Answer) -> Option<Failure> {
        let status = answer.status.as_u16();
        if Rejection::is_everywhere(&answer.headers) {
            None
        } else if self.request.service.retry.on.statuses.contains(&status) {
            Some(Failure::Status(status))
        } else if self.grpc && grpc::is_unavailable(&answer.headers) {
            Some(Failure::GrpcUnavailable)
        } else {
            None
        }
    }

    async fn send(&self, target: Target<'a>, attempt: Attempt) -> Result<Answer, Failure> {
        let answer = match target {
            Target::Local(local) => self.to_endpoint(local).await?,
            Target::Peer(cluster, _, tunnel) => self.through(cluster, tunnel, attempt).await?,
            Target::Gateways(cluster) => self.through_any(cluster, attempt).await?,
        };
        answer.settle(&self.worker.shared.budget).await.map_err(|error| match error {
            BodyError::Tunnel(error) => codec::failure(&error),
            _ => Failure::Reset,
        })
    }
}

impl HttpPayload<'_> {
    async fn to_endpoint(&self, local: &LocalService) -> Result<Answer, Failure> {
        let client::Request { service, head, body, hash, replayable, interim, stop, .. } = self.request;
        let port = local.port(self.request.port).ok_or(Failure::Unavailable)?;
        let attempts = service.retry.attempts;
        let ask = Ask {
            pool: &self.worker.pool,
            port,
            watch: &self.worker.watch,
            head,
            body,
            key: hash,
            allowance: Allowance { replayable, attempts, connect: service.timeout.connect },
            expired: self.expired,
            interim,
            stop,
        };
        Ok(ask.send().await?.into())
    }

    /// Through a tunnel to a peer; where nothing could be sent, for it has no room for another stream or has just ended,
    /// through the next one.
    async fn through(
        &self,
        cluster: &PeerCluster,
        mut tunnel: Tunnel,
        attempt: Attempt,
    ) -> Result<Answer, Failure> {
        let mut tried = Vec::new();
        loop {
            let sent = self.request.send(&tunnel, attempt).await;
            // A part of the body may be gone although the tunnel has taken nothing that counts.
            if !matches!(sent, Err(Failure::NotSent)) || !self.is_at_hand() {
                return sent;
            }
            tried.push(tunnel);
            let next = if tried.len() < TUNNELS_MAX {
                cluster.pick_but(Some(self.worker.number), &tried)
            } else {
                None
            };
            let Some((_, next)) = next else { return sent };
            tunnel = next;
        }
    }

    /// Through one gateway of the own cluster after the other, as endpoints of a service are tried: on from one that has
    /// processed nothing, or may process it twice. With none left it waits for one to come, for there is no other way.
    async fn through_any(&self, cluster: &PeerCluster, attempt: Attempt) -> Result<Answer, Failure> {
        let give_up = Instant::now() + GATEWAY_WAIT;
        let mut tried: Vec<Tunnel> = Vec::new();
        let mut last = Failure::NotSent;
        while tried.len() < TUNNELS_MAX {
            let mut changed = std::pin::pin!(cluster.changed.notified());
            changed.as_mut().enable();
            let Some((_, tunnel)) = cluster.pick_but(Some(self.worker.number), &tried) else {
                // One that is full is there, and to wait for it would fill it more.
                let full = last == Failure::NotSent && tried.iter().any(Tunnel::is_open);
                if last == Failure::Overloaded || full {
                    return Err(Failure::Overloaded);
                }
                tokio::select! {
                    () = changed => continue,
                    () = tokio::time::sleep_until(give_up) => break,
                }
            };
            match self.request.send(&tunnel, attempt).await {
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
            Failure::PeerLost => self.request.replayable,
            _ => false,
        };
        harmless && self.is_at_hand()
    }

    /// Whether all of it is here to be sent again.
    fn is_at_hand(&self) -> bool {
        self.can_restart() && !self.failed()
    }
}
