//! A request of a caller in this cluster on its way to the cluster that serves it.
//!
//! [`serve`] is the whole path of a caller that speaks HTTP, [`serve_sidecar`] of one that comes through a sidecar: name,
//! key, placement, attempts, answer. What an attempt does is in `attempt`, a second one beside it in `hedge`; which
//! cluster is next and whether there is a next at all are decided by [`crate::placement`] and [`crate::retry`].

mod attempt;
mod hedge;
mod http;
mod sidecar;

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use ::http::{HeaderMap, StatusCode};
use hashring::NodeIndex;
use tokio::time::Instant;
use tracing::debug;

use crate::answer::Answer;
use crate::body::RequestBody;
use crate::clock::Activity;
use crate::error::{ProxyError, Rejection};
use crate::grpc;
use crate::message::RequestHead;
use crate::metrics::{AttemptKind, Outcome};
use crate::retry::{self, Failure, Progress, Verdict};
use crate::route;
use crate::view::{Server, Service, View};
use crate::worker::Worker;

pub use http::{Caller, Outgoing, pass_on, reject, serve};
pub use sidecar::serve as serve_sidecar;

/// One request with everything that does not change over its attempts.
struct Call<'a> {
    worker: &'a Rc<Worker>,
    service: &'a Arc<Service>,
    port: u16,
    head: &'a RequestHead,
    authority: &'a str,
    body: RequestBody,
    activity: Activity,
    started: Instant,
    /// When it must be over, all of it.
    deadline: Option<Instant>,
    /// Whether it is gRPC: an answer may be a failure although its HTTP status is none.
    grpc: bool,
    hash: Option<u64>,
    request_id: [u8; 16],
    replayable_method: bool,
    /// The SPIFFE ID of the workload that asks, where it came through its sidecar.
    caller: Option<&'a str>,
    /// It was hedged: one hedge a request.
    hedged: Cell<bool>,
    /// The time that the policy gives to the endpoint is over.
    expired: Cell<bool>,
    /// Sends an interim answer to the caller.
    interim: &'a dyn Fn(StatusCode, &HeaderMap),
}

/// How a call came out: the answer, and the node that gave it.
type Served = Result<(Answer, NodeIndex), (Failure, bool)>;

/// How an attempt came out, with the hedge beside it: the answer or the failure, and the node that it is of.
type Attempted = Result<(Answer, NodeIndex), (Failure, NodeIndex)>;

/// Clusters that were tried, in order.
#[derive(Clone, Copy, Debug)]
struct Tried {
    nodes: [NodeIndex; 16],
    len: usize,
}

impl Tried {
    fn none() -> Self {
        Self { nodes: [NodeIndex(0); 16], len: 0 }
    }

    fn push(&mut self, node: NodeIndex) {
        // Attempts are limited to fewer than this by the manifest.
        if let Some(slot) = self.nodes.get_mut(self.len) {
            *slot = node;
            self.len += 1;
        }
    }

    fn as_slice(&self) -> &[NodeIndex] {
        &self.nodes[..self.len]
    }
}

/// The service and port that an authority names in the mesh's `domain`.
pub(crate) fn find(view: &View, domain: &str, authority: &str) -> Result<(Arc<Service>, u16), Rejection> {
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
    let port = service.port(target.port).ok_or_else(|| {
        let ports: Vec<String> = service.ports.iter().map(|p| p.number.to_string()).collect();
        let details = format!("{} has no such port; it has {}", service.name, ports.join(", "));
        Rejection::new(ProxyError::DestinationNotFound, details)
    })?;
    Ok((service.clone(), port.number))
}

/// The time for the whole exchange: the policy's, and what a call of gRPC asks for if that is less.
pub(crate) fn total(service: &Service, grpc: bool, headers: &HeaderMap) -> Option<Duration> {
    let asked = if grpc { grpc::timeout(headers) } else { None };
    asked.into_iter().chain(service.timeout.total).min()
}

impl Call<'_> {
    /// Attempts until there is an answer or nothing more to try. The failure says whether the caller is at fault.
    async fn run(&self) -> Served {
        let shared = &self.worker.shared;
        self.service.budgets.retries().deposit(shared.clock.micros());
        self.service.budgets.hedges().deposit(shared.clock.micros());
        let mut timer = std::pin::pin!(self.timer());
        let mut attempts = std::pin::pin!(self.attempts());
        tokio::select! {
            biased;
            served = &mut attempts => served,
            caller_at_fault = &mut timer => Err((Failure::Deadline, caller_at_fault)),
        }
    }

    /// Ends when time is up: true if it was the caller who let it pass.
    async fn timer(&self) -> bool {
        let (timeout, total) = (&self.service.timeout, self.deadline);
        loop {
            let ended = self.body.ended_at(self.started);
            let idle = self.activity.last() + timeout.idle;
            let due = ended.map_or(idle, |ended| ended + timeout.head);
            let due = total.map_or(due, |total| total.min(due));
            if due <= Instant::now() {
                // Who gave it less time than it usually takes has no reason to complain of the endpoint.
                self.expired.set(ended.is_some() && total.is_none_or(|total| total > due));
                return ended.is_none() && total.is_none_or(|total| total > due);
            }
            tokio::time::sleep_until(due).await;
        }
    }

    async fn attempts(&self) -> Served {
        let shared = &self.worker.shared;
        let mut tried = Tried::none();
        let mut last = Failure::Unavailable;
        // The node that said `MISPLACED`, while it is asked once more.
        let mut insist: Option<NodeIndex> = None;
        // A peer to which a tunnel was lost, and which is up all the same: it is asked on another, once.
        let (mut again, mut was_again) = (None, false);
        loop {
            let known = insist.or_else(|| again.take());
            let Some(node) = known.or_else(|| self.next(&tried)) else { return Err((last, false)) };
            let kind = if tried.len == 0 { AttemptKind::First } else { AttemptKind::Retry };
            if known.is_none() {
                tried.push(node);
            }
            let done = self.attempt_with_hedge(node, &mut tried, insist.is_some(), kind).await;
            let (failure, node) = match &done {
                Err(failed) => *failed,
                Ok((answer, node)) => match self.failure_in(answer) {
                    Some(failure) => (failure, *node),
                    None => return done.map_err(|(f, _)| (f, false)),
                },
            };
            if self.body.failed() {
                return Err((failure, true));
            }
            let progress = Progress { insisted: insist.is_some(), ..self.progress(&tried) };
            let now = shared.clock.micros();
            let verdict =
                retry::verdict(failure, &progress, &self.service.retry, self.service.budgets.retries(), now);
            debug!(service = %self.service.name, cluster = %self.service.placement.cluster(node), ?failure, ?verdict, "Attempt failed.");
            insist = match verdict {
                Verdict::TryNext => None,
                Verdict::Insist => Some(node),
                // An answer of the endpoint, though a bad one, is better than ours.
                Verdict::GiveUp(_) => return done.map_err(|(f, _)| (f, false)),
            };
            if verdict == Verdict::TryNext && !was_again && self.is_up_otherwise(node, failure) {
                (again, was_again) = (Some(node), true);
            }
            if let (Ok(_), None, None) = (&done, insist, self.next(&tried)) {
                return done.map_err(|(f, _)| (f, false));
            }
            last = failure;
        }
    }

    /// What an answer says that is a failure all the same: whoever may try again does.
    fn failure_in(&self, answer: &Answer) -> Option<Failure> {
        let status = answer.status.as_u16();
        if self.service.retry.on.statuses.contains(&status) {
            Some(Failure::Status(status))
        } else if self.grpc && grpc::is_unavailable(&answer.headers) {
            Some(Failure::GrpcUnavailable)
        } else {
            None
        }
    }

    /// Whether the tunnel to `node` was lost, and the peer is up on another.
    fn is_up_otherwise(&self, node: NodeIndex, failure: Failure) -> bool {
        let now = self.worker.shared.clock.micros();
        matches!(failure, Failure::PeerLost | Failure::NotSent)
            && matches!(self.service.server(node), Server::Peer(..))
            && self.service.availability(node, self.port, now) == crate::placement::Availability::Up
    }

    fn next(&self, tried: &Tried) -> Option<NodeIndex> {
        let now = self.worker.shared.clock.micros();
        let placement = &self.service.placement;
        let availability = |node| self.service.availability(node, self.port, now);
        let capacity = |node| self.service.capacity(node, self.port, now);
        self.worker
            .pool
            .with_rng(|rng| placement.next_by(self.hash, tried.as_slice(), availability, capacity, rng))
    }

    /// What the caller is told of a call that failed, and how it counts.
    fn rejection(&self, failure: Failure, caller_at_fault: bool) -> (Rejection, Outcome) {
        if caller_at_fault {
            let details = "the request's body broke off or stalled";
            return (Rejection::new(ProxyError::ConnectionReadTimeout, details), Outcome::Cancelled);
        }
        debug!(service = %self.service.name, ?failure, "No answer.");
        let mut rejection = Rejection::from_failure(failure, &self.service.name);
        if rejection.error == ProxyError::DestinationUnavailable {
            rejection.details = format!("{}; {}", rejection.details, self.states());
        }
        (rejection, failure.into())
    }

    /// How the clusters are that could have served it, for people.
    fn states(&self) -> String {
        let (placement, now) = (&self.service.placement, self.worker.shared.clock.micros());
        let states = placement.nodes().map(|(node, member)| {
            format!("{} is {}", member.cluster, self.service.availability(node, self.port, now).as_str())
        });
        states.collect::<Vec<_>>().join(", ")
    }

    fn progress(&self, tried: &Tried) -> Progress {
        let used = u8::try_from(tried.len).unwrap_or(u8::MAX);
        Progress {
            attempts_left: self.service.retry.attempts.saturating_sub(used),
            replayable_method: self.replayable_method,
            body_kept: self.body.can_restart(),
            forwarded: false,
            insisted: false,
            expired: false,
        }
    }
}
