//! An HTTP request as a flow carries it: to an endpoint, or through a tunnel.

use std::cell::Cell;
use std::rc::Rc;

use tokio::time::Instant;
use tunnel::Tunnel;

use super::clusters::Target;
use super::tunnels;
use crate::http::body::BodyError;
use crate::proxy::answer::Answer;
use crate::proxy::error::Rejection;
use crate::proxy::exchange::facts::Facts;
use crate::proxy::exchange::{client, codec};
use crate::proxy::flow::{Attempt, Payload};
use crate::proxy::worker::Worker;
use crate::upstream::{Allowance, Ask};
use crate::view::LocalService;
use policy::grpc;
use policy::retry::Failure;

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
        } else if self.request.facts.service.retry.on.statuses.contains(&status) {
            Some(Failure::Status(status))
        } else if self.grpc && grpc::is_unavailable(&answer.headers) {
            Some(Failure::GrpcUnavailable)
        } else {
            None
        }
    }

    async fn send(&self, target: Target<'a>, attempt: Attempt) -> Result<Answer, Failure> {
        // Boxed, so that a request to a peer does not hold the room that one to an endpoint takes.
        let to_endpoint = async |local| Box::pin(self.to_endpoint(local)).await;
        let send = async |tunnel: &Tunnel| self.request.send(tunnel, attempt).await;
        // A part of the body may be gone although the tunnel has taken nothing that counts.
        let at_hand = || self.is_at_hand();
        let replayable = self.request.facts.replayable;
        let answer = tunnels::attempt(self.worker, target, replayable, at_hand, to_endpoint, send).await?;
        answer.settle(&self.worker.shared.budget).await.map_err(|error| match error {
            BodyError::Tunnel(error) => codec::failure(&error),
            _ => Failure::Reset,
        })
    }
}

impl HttpPayload<'_> {
    async fn to_endpoint(&self, local: &LocalService) -> Result<Answer, Failure> {
        let client::Request { facts, head, body, interim, stop, .. } = self.request;
        let Facts { service, hash, replayable, .. } = facts;
        let port = local.port(facts.port).ok_or(Failure::Unavailable)?;
        let attempts = service.retry.attempts;
        let ask = Ask {
            way: self.worker.way(port, hash, self.expired),
            head,
            body,
            allowance: Allowance { replayable, attempts, connect: service.timeout.connect },
            interim,
            stop,
        };
        Ok(ask.send().await?.into())
    }

    /// Whether all of it is here to be sent again.
    fn is_at_hand(&self) -> bool {
        self.can_restart() && !self.failed()
    }
}
