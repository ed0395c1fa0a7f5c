//! The clusters that may serve a request, as this process sees them, and the ways into them.

use std::rc::Rc;
use std::sync::Arc;

use hashring::NodeIndex;
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
pub(super) enum Target {
    /// To an endpoint of this cluster.
    Local(Arc<LocalService>),
    /// To a gateway of a linked cluster.
    Peer(Arc<PeerGateway>, Tunnel),
    /// From a sidecar: to any gateway of its own cluster.
    Gateways(Arc<PeerCluster>),
}

impl Candidates for Clusters<'_> {
    type Target = Target;
    type Watched = Arc<PeerGateway>;

    fn placement(&self) -> &Placement {
        &self.service.placement
    }

    fn availability(&self, node: NodeIndex, now: u64) -> Availability {
        self.service.availability(node, self.port, now)
    }

    fn capacity(&self, node: NodeIndex, now: u64) -> Option<u32> {
        self.service.capacity(node, self.port, now)
    }

    fn is_remote(&self, node: NodeIndex) -> bool {
        matches!(self.service.server(node), Server::Peer(..))
    }

    fn target(&self, node: NodeIndex) -> Result<Target, Failure> {
        match self.service.server(node) {
            Server::Local(local) => Ok(Target::Local(local.clone())),
            Server::Peer(peer, _) => {
                let (gateway, tunnel) = peer.pick(Some(self.worker.number)).ok_or(Failure::NotSent)?;
                Ok(Target::Peer(gateway, tunnel))
            }
            Server::Via(gateways, _) => Ok(Target::Gateways(gateways.clone())),
            Server::Unreachable => Err(Failure::NotSent),
        }
    }

    fn watched(&self, target: &Target) -> Option<Arc<PeerGateway>> {
        match target {
            Target::Local(_) | Target::Gateways(_) => None,
            Target::Peer(gateway, _) => Some(gateway.clone()),
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
