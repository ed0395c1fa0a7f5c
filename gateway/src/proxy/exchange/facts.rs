//! What the cluster that serves a flow is told of it, whatever it carries.

use std::time::Duration;

use proto::head::FlowHead;
use registry::model::{ClusterName, Timeout};
use tokio::time::Instant;

use crate::proxy::flow::Attempt;
use crate::view::Service;

/// What is told of a flow, the same over all its attempts.
#[derive(Clone, Copy)]
pub struct Facts<'a> {
    /// The service that it is placed by.
    pub service: &'a Service,
    /// The port as callers see it.
    pub port: u16,
    /// Names it over all its attempts.
    pub id: [u8; 16],
    /// The hash of its key.
    pub hash: Option<u64>,
    /// When it must be over, all of it.
    pub deadline: Option<Instant>,
    /// Whether it may be sent twice.
    pub replayable: bool,
    /// The SPIFFE ID of the workload that asks, where it came through its sidecar.
    pub caller: Option<&'a str>,
    /// Gateways and sidecars that have sent it on before.
    pub hops: u8,
}

/// The longest that a connection for a peer may take to be made.
const CONNECT_MAX: Duration = Duration::from_secs(60);

/// How long a connection to an endpoint may take to be made that serves `flow`.
pub fn connect_wait(flow: &FlowHead<'_>) -> Duration {
    match flow.connect_ms {
        0 => Timeout::default().connect,
        told => Duration::from_millis(told).min(CONNECT_MAX),
    }
}

impl Facts<'_> {
    /// The head of one attempt.
    pub fn head(&self, attempt: Attempt) -> FlowHead<'_> {
        let service = self.service;
        let placement = &service.placement;
        // A pinned name skips the ring of clusters: there is nothing to agree on.
        let generation = if service.pinned { 0 } else { placement.generation() };
        let owner = self.hash.filter(|_| !service.pinned).and_then(|hash| placement.owner(hash));
        let left = self.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        FlowHead {
            request_id: self.id,
            namespace: &service.name.namespace,
            service: &service.name.name,
            port: self.port,
            generation,
            key_hash: self.hash,
            owner: owner.map(ClusterName::as_str),
            attempt: attempt.number,
            attempts_left: attempt.left,
            replayable: self.replayable,
            insist: attempt.insist,
            // At least 1: 0 means that there is no deadline.
            deadline_ms: left.map_or(0, |t| u64::try_from(t.as_millis()).unwrap_or(u64::MAX).max(1)),
            connect_ms: match service.timeout.connect {
                connect if connect == Timeout::default().connect => 0,
                connect => u64::try_from(connect.as_millis()).unwrap_or(u64::MAX).max(1),
            },
            traceparent: None,
            tracestate: None,
            caller: self.caller,
            hops: self.hops.saturating_add(1),
            endpoint: None,
        }
    }
}
