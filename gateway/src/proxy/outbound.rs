//! A request of a caller in this cluster on its way to the cluster that serves it.
//!
//! [`serve`] is the whole path of a caller that speaks HTTP, [`serve_sidecar`] of one that comes through a sidecar. Both
//! place a request ([`find`], then [`Placed`]) and leave the attempts to a [`crate::proxy::flow`]: `clusters` says where it may go,
//! `payload` sends it there.

pub mod call;
mod clusters;
pub mod connection;
mod http;
mod payload;
mod sidecar;
mod tunnels;

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use ::http::{HeaderMap, StatusCode};
use proto::head::FlowHead;
use proto::limits::HOPS_MAX;
use registry::base::time::Tick;
use registry::model::Port;
use tokio::time::Instant;
use tracing::debug;

use crate::base::clock::Activity;
use crate::http::body::RequestBody;
use crate::http::message::RequestHead;
use crate::proxy::answer::Answer;
use crate::proxy::error::{ProxyError, Rejection};
use crate::proxy::exchange::client;
use crate::proxy::exchange::facts::Facts;
use crate::proxy::flow::{Flow, NotServed, Terms};
use crate::proxy::worker::Worker;
use crate::telemetry::metrics::Outcome;
use crate::telemetry::record::Record;
use crate::view::{Service, View};
use policy::grpc;
use policy::retry::{self, Failure};
use policy::route::{self, Key};

pub use http::{
    Behind, Caller, Outgoing, connected, is_connect, is_grpc, pass_on, reject, say_protocol, serve,
};
pub use sidecar::{serve as serve_sidecar, shed as shed_sidecar};

use clusters::Clusters;
use payload::HttpPayload;

/// A request whose service is known, with everything that does not change over its attempts.
struct Placed<'a> {
    service: &'a Arc<Service>,
    port: u16,
    head: &'a RequestHead,
    authority: &'a str,
    body: RequestBody,
    activity: Activity,
    /// When it must be over, all of it.
    deadline: Option<Instant>,
    /// Whether it is gRPC: an answer may be a failure although its HTTP status is none.
    grpc: bool,
    /// The hash of its key.
    hash: Option<u64>,
    id: [u8; 16],
    /// The SPIFFE ID of the workload that asks, where it came through its sidecar.
    caller: Option<&'a str>,
    /// Gateways and sidecars that have sent it on before.
    hops: u8,
    /// Sends an interim answer to the caller.
    interim: &'a dyn Fn(StatusCode, &HeaderMap),
}

/// Why a placed request is not answered.
struct NotAnswered {
    /// What its caller is told.
    rejection: Rejection,
    /// Whether it was the caller who broke off or let the time pass.
    caller_at_fault: bool,
}

/// The service and port that an authority names in the mesh's `domain`, for a request of HTTP.
pub(crate) fn find(view: &View, domain: &str, authority: &str) -> Result<(Arc<Service>, u16), Rejection> {
    let (service, port) = locate(view, domain, authority, |ports, number| match number {
        None => ports.first(),
        Some(number) => ports.iter().find(|port| port.number == number),
    })?;
    if !port.protocol.is_http() {
        let speaks = port.protocol.as_str();
        let details =
            format!("port {} of {} speaks {speaks}; a Listener leads there", port.number, service.name);
        return Err(Rejection::new(ProxyError::DestinationNotFound, details));
    }
    Ok((service, port.number))
}

/// The service that an authority names in the mesh's `domain`, and the port of it that `choose` finds for the number that
/// it gives.
fn locate(
    view: &View,
    domain: &str,
    authority: &str,
    choose: impl FnOnce(&[Port], Option<u16>) -> Option<&Port>,
) -> Result<(Arc<Service>, Port), Rejection> {
    let target = route::parse(authority, domain).map_err(|e| match e {
        route::NotMesh::Domain | route::NotMesh::Shape => {
            Rejection::new(ProxyError::DestinationNotFound, format!("`{authority}`: {e}"))
        }
        _ => Rejection::new(ProxyError::HttpRequestError, e.to_string()),
    })?;
    let service = view.service(&target).ok_or_else(|| {
        let details = format!(
            "no service `{authority}` is served or imported here; `ringway status` lists those that are"
        );
        Rejection::new(ProxyError::DestinationNotFound, details)
    })?;
    let port = choose(&service.ports, target.port).ok_or_else(|| {
        let ports: Vec<String> = service.ports.iter().map(|p| p.number.to_string()).collect();
        let details = format!("{} has no such port; it has {}", service.name, ports.join(", "));
        Rejection::new(ProxyError::DestinationNotFound, details)
    })?;
    let port = port.clone();
    Ok((service.clone(), port))
}

/// What a service's policy allows whatever is sent to it.
fn terms(service: &Service) -> Terms<'_> {
    let Service { retry, timeout, budgets, .. } = service;
    Terms { retry, timeout, retries: budgets.retries(), hedges: budgets.hedges() }
}

/// Why what has come through so many gateways and sidecars goes no further, if it does not.
fn in_circles(hops: u8, authority: &str) -> Option<Rejection> {
    (hops >= HOPS_MAX).then(|| {
        debug!(authority, "It goes in circles; refused.");
        let details = format!(
            "it has come through {HOPS_MAX} gateways and sidecars: {authority} leads back to where it came from"
        );
        Rejection::new(ProxyError::ProxyLoopDetected, details)
    })
}

/// The hash of the key of what a sidecar sends on. It is made once, at the first hop; unless that one did not know yet what
/// counts here: then of the `key` as it is seen here.
fn hash_told<'a>(
    service: &Service,
    told: &FlowHead<'_>,
    key: impl FnOnce() -> Option<Key<'a>>,
) -> Option<u64> {
    let placement = &service.placement;
    if service.pinned || told.generation == placement.generation() {
        return told.key_hash;
    }
    key().map(|key| placement.hash(&key))
}

/// The time for the whole exchange: the policy's, and what a call of gRPC asks for if that is less.
pub(crate) fn total(service: &Service, grpc: bool, headers: &HeaderMap) -> Option<Duration> {
    let asked = if grpc { grpc::timeout(headers) } else { None };
    asked.into_iter().chain(service.timeout.total).min()
}

impl Placed<'_> {
    /// Makes attempts until there is an answer or nothing more to try. `record` is told of either; how the answer's body
    /// ends is for whoever forwards it.
    async fn answer(&self, worker: &Rc<Worker>, record: &mut Record) -> Result<Answer, NotAnswered> {
        let Self { service, port, head, .. } = *self;
        let shared = &worker.shared;
        record.asks(head.method.as_str(), &service.name, &service.unanswered);
        record.caller(self.caller);
        record.follows(&self.activity);
        let has_key = head.headers.contains_key("idempotency-key");
        let replayable = retry::replayable_method(head.method.as_str(), has_key, &service.retry);
        let expired = Cell::new(false);
        let (id, hash, deadline, caller, hops) = (self.id, self.hash, self.deadline, self.caller, self.hops);
        let facts = Facts { service, port, id, hash, deadline, replayable, caller, hops };
        let request = client::Request {
            facts,
            authority: self.authority,
            head,
            body: &self.body,
            activity: &self.activity,
            interim: self.interim,
            stop: &shared.stop,
        };
        let terms = terms(service);
        let flow = Flow {
            candidates: Clusters { worker, service, port, record },
            payload: HttpPayload { worker, request, grpc: self.grpc, expired: &expired },
            terms,
            hash: self.hash,
            replayable,
            started: record.started(),
            deadline: self.deadline,
            activity: self.activity.clone(),
            clock: shared.clock,
            expired: &expired,
        };
        let served = flow.run().await;
        match served {
            Ok((mut answer, node)) => {
                service.durations.observe(record.started().elapsed());
                record.answered_by(service.placement.cluster(node).as_str(), service.counters(node));
                if let Some(endpoint) = &answer.endpoint {
                    record.endpoint(endpoint.id());
                }
                answer.body.take(service.timeout.idle(), self.deadline, self.activity.clone());
                Ok(answer)
            }
            Err(NotServed { failure, caller_at_fault }) => {
                let (rejection, outcome) = self.rejection(failure, caller_at_fault, shared.clock.now());
                record.ends(outcome);
                Err(NotAnswered { rejection, caller_at_fault })
            }
        }
    }

    /// What the caller is told of a request that was not served, and how it counts.
    fn rejection(&self, failure: Failure, caller_at_fault: bool, now: Tick) -> (Rejection, Outcome) {
        if let Some(fault) = self.body.fault() {
            return (fault.into(), Outcome::Malformed);
        }
        if caller_at_fault {
            let details = "the request's body broke off or stalled";
            return (Rejection::new(ProxyError::ConnectionReadTimeout, details), Outcome::Cancelled);
        }
        debug!(service = %self.service.name, ?failure, "No answer.");
        let mut rejection = Rejection::from_failure(failure, &self.service.name);
        if rejection.error == ProxyError::DestinationUnavailable {
            rejection.details = format!("{}; {}", rejection.details, self.states(now));
        }
        (rejection, failure.into())
    }

    /// How the clusters are that could have served it, for people.
    fn states(&self, now: Tick) -> String {
        let states = self.service.placement.nodes().map(|(node, member)| {
            format!("{} is {}", member.cluster, self.service.availability(node, self.port, now).as_str())
        });
        states.collect::<Vec<_>>().join(", ")
    }
}
