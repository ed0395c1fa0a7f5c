//! The clusters that may serve a request, as this process sees them, and the ways into them.

use std::rc::Rc;
use std::sync::Arc;

use hashring::NodeIndex;
use registry::base::time::Tick;
use tunnel::Tunnel;

use crate::peers::{PeerCluster, PeerGateway};
use crate::proxy::flow::{Candidates, Watched};
use crate::proxy::worker::Worker;
use crate::telemetry::metrics::AttemptKind;
use crate::telemetry::record::{AttemptId, Record};
use crate::view::{LocalService, Server, Service};
use policy::health::State;
use policy::placement::{Availability, Placement};
use policy::retry::Failure;

/// Where the requests of one service and port may go.
pub(super) struct Clusters<'a> {
    pub(super) worker: &'a Rc<Worker>,
    pub(super) service: &'a Service,
    pub(super) port: u16,
    pub(super) record: &'a Record,
}

/// Where an attempt goes.
#[derive(Debug)]
pub(super) enum Target<'a> {
    /// To an endpoint of this cluster.
    Local(&'a LocalService),
    /// To a linked cluster: first through this tunnel to one of its gateways.
    Peer(&'a PeerCluster, Arc<PeerGateway>, Tunnel),
    /// From a sidecar: to any gateway of its own cluster.
    Gateways(&'a PeerCluster),
}

impl<'a> Candidates for Clusters<'a> {
    type Target = Target<'a>;
    type Watched = Arc<PeerGateway>;

    fn placement(&self) -> &Placement {
        &self.service.placement
    }

    fn availability(&self, node: NodeIndex, now: Tick) -> Availability {
        self.service.availability(node, self.port, now)
    }

    fn capacity(&self, node: NodeIndex, now: Tick) -> Option<u32> {
        self.service.capacity(node, self.port, now)
    }

    fn is_remote(&self, node: NodeIndex) -> bool {
        matches!(self.service.server(node), Server::Peer(..))
    }

    fn target(&self, node: NodeIndex) -> Result<Target<'a>, Failure> {
        let service: &'a Service = self.service;
        match service.server(node) {
            Server::Local(local) => Ok(Target::Local(local)),
            Server::Peer(peer, _) => {
                let (gateway, tunnel) = peer.pick(Some(self.worker.number)).ok_or(Failure::NotSent)?;
                Ok(Target::Peer(peer, gateway, tunnel))
            }
            Server::Via(gateways, _) => Ok(Target::Gateways(gateways)),
            Server::Unreachable => Err(Failure::NotSent),
        }
    }

    fn watched(&self, target: &Target<'a>) -> Option<Arc<PeerGateway>> {
        match target {
            Target::Local(_) | Target::Gateways(_) => None,
            Target::Peer(_, gateway, _) => Some(gateway.clone()),
        }
    }

    fn with_rng<T>(&self, draw: impl FnOnce(&mut fastrand::Rng) -> T) -> T {
        self.worker.pool.with_rng(draw)
    }

    fn attempt_began(&self, node: NodeIndex, kind: AttemptKind) -> AttemptId {
        self.worker.shared.attempts.made(kind);
        self.record.attempt_began(self.service.placement.cluster(node), kind)
    }

    fn attempt_ended(&self, attempt: AttemptId, failure: Option<Failure>) {
        self.record.attempt_ended(attempt, failure);
    }
}

impl Watched for Arc<PeerGateway> {
    async fn suspect(&self) {
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            if self.state() == State::Suspect {
                return;
            }
            changed.await;
        }
    }
}
