//! A request of a peer on its way to an endpoint of this cluster. It is given no tunnels: a request crosses the WAN at
//! most once.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use identity::{Identity, Role};
use proto::code::Code;
use registry::model::Timeout;
use tokio::time::Instant;
use tracing::debug;
use tunnel::{Exchange, Peer};

use crate::access::{Counted, Line};
use crate::answer::Answer;
use crate::body::RequestBody;
use crate::clock::Activity;
use crate::endpoint::{Allowance, Ask};
use crate::error::Rejection;
use crate::exchange::{self, Interims};
use crate::fields::Declared;
use crate::message::{self, RequestHead};
use crate::metrics::{Direction, Outcome, RequestCounters};
use crate::peers::PeerCluster;
use crate::retry::Failure;
use crate::view::LocalService;
use crate::worker::{PEER_REQUESTS_MAX, REQUESTS_MAX, Worker};

/// Why a request of a peer ends without an answer.
#[derive(Debug)]
struct Refusal(Code, Outcome);

/// Serves one exchange that `peer`, a gateway of `cluster`, opened.
pub async fn serve(worker: Rc<Worker>, cluster: &PeerCluster, peer: &Peer, exchange: Exchange) {
    let Exchange { mut sender, mut receiver } = exchange;
    let of_all = worker.shared.in_progress.enter(REQUESTS_MAX);
    let (Some(_of_all), Some(_of_peer)) = (of_all, cluster.asking.enter(PEER_REQUESTS_MAX)) else {
        return exchange::refuse(&mut sender, &mut receiver, Code::Overloaded);
    };
    let Some(head) = exchange::head(peer, &mut sender, &mut receiver).await else { return };
    let started = Instant::now();
    let mut request = match Request::read(&worker, peer, &head, started) {
        Ok(request) => request,
        Err(Refusal(code, outcome)) => {
            debug!(peer = %peer.hello.cluster, code = code.as_str(), ?outcome, "Refused.");
            return exchange::refuse(&mut sender, &mut receiver, code);
        }
    };
    let mut counted = Counted::begin(request.counters.clone(), request.line.take());
    let budget = &worker.shared.budget;
    let body = exchange::body(receiver, request.declared, budget, Activity::new(started));
    if body.failed() {
        return sender.reset(Code::Internal);
    }
    let interims = Interims::default();
    let answering = request.call(&worker, &body, &interims);
    let Some(answered) = interims.while_answering(&mut sender, answering).await else { return };
    match answered {
        // The peer's body broke off: whatever the endpoint made of that is no answer.
        _ if body.failed() => sender.reset(Code::Cancelled),
        Ok(mut answer) => {
            if let Some(left) = request.deadline {
                answer.body.limit(left, Some(started + left), Activity::new(started));
            }
            request.local.durations.observe(started.elapsed());
            if let Some(line) = &mut counted.line {
                line.status(answer.status.as_u16());
            }
            counted.outcome = exchange::forward(&mut sender, answer).await;
            if worker.shared.stop.is_cancelled() {
                // The drain closes the tunnel after the last request: what was written must have arrived by then.
                sender.stopped().await;
            }
        }
        // It would be everywhere: said in an answer, as no code could say it.
        Err(failure @ Failure::AnswerTooLarge) => {
            counted.outcome = failure.into();
            let rejection = Rejection::from_failure(failure, &request.local.name);
            exchange::forward(&mut sender, rejection.into_answer(&worker.shared.name)).await;
        }
        Err(failure) => {
            counted.outcome = failure.into();
            let code = match failure {
                Failure::Connect | Failure::Unavailable | Failure::Refused => Code::Refused,
                Failure::Overloaded | Failure::NoRoom => Code::Overloaded,
                Failure::Deadline => Code::Deadline,
                Failure::Cancelled => Code::Cancelled,
                _ => Code::Internal,
            };
            sender.reset(code);
        }
    }
}

/// A request that passed every check.
struct Request {
    local: std::sync::Arc<LocalService>,
    port: u16,
    head: RequestHead,
    /// The hash of its key.
    key: Option<u64>,
    allowance: Allowance,
    /// The length of its body.
    declared: Declared,
    /// What is left of the total deadline.
    deadline: Option<Duration>,
    counters: Option<RequestCounters>,
    line: Option<Box<Line>>,
}

impl Request {
    /// Reads the head and checks the grant first, then the rest, all before any work.
    fn read(worker: &Worker, peer: &Peer, bytes: &Bytes, started: Instant) -> Result<Self, Refusal> {
        let (head, head_fields) =
            proto::head::RequestHead::decode(bytes).map_err(|_| Refusal(Code::Internal, Outcome::Broken))?;
        let view = worker.shared.view.load();
        let local = view
            .local(head.namespace, head.service)
            .ok_or(Refusal(Code::Unknown, Outcome::NotFound))?
            .clone();
        let asks = registry::model::ClusterName::new(&peer.hello.cluster)
            .map_err(|_| Refusal(Code::Denied, Outcome::Denied))?;
        if !local.grant.allows(&asks) || !head.caller.is_none_or(|caller| vouches_for(peer, caller)) {
            return Err(Refusal(Code::Denied, Outcome::Denied));
        }
        let counters = local.inbound(asks.as_str()).cloned();
        if local.endpoints(head.port).is_none() {
            return Err(Refusal(Code::Unknown, Outcome::NotFound));
        }
        let agrees =
            local.placement.as_ref().is_none_or(|p| p.agrees(head.generation, head.key_hash, head.owner));
        if !agrees && !head.insist {
            return Err(Refusal(Code::Misplaced, Outcome::Misplaced));
        }
        if !agrees {
            // The caller has looked again and still disagrees: served, and said.
            worker.shared.metrics.mismatch(&local.name, asks.as_str());
        }
        let request = message::request_from_tunnel(bytes, &head, head_fields);
        let (request_head, declared) = request.ok_or(Refusal(Code::Internal, Outcome::Malformed))?;
        let mut line = Line::begin(Direction::Inbound, head.method, &local.name, head.caller, started);
        if let Some(line) = &mut line {
            line.peer(asks.as_str());
        }
        Ok(Self {
            port: head.port,
            head: request_head,
            declared,
            key: head.key_hash,
            allowance: Allowance {
                replayable: head.replayable,
                attempts: head.attempts_left.saturating_add(1),
                connect: Timeout::default().connect,
            },
            deadline: (head.deadline_ms > 0).then(|| Duration::from_millis(head.deadline_ms)),
            counters,
            line,
            local,
        })
    }

    async fn call(
        &self,
        worker: &Rc<Worker>,
        body: &RequestBody,
        interims: &Interims,
    ) -> Result<Answer, Failure> {
        let port = self.local.port(self.port).ok_or(Failure::Unavailable)?;
        let shared = &worker.shared;
        // Whoever placed the request says when its time is over, and it may be a short one.
        let expired = Cell::new(false);
        let ask = Ask {
            pool: &worker.pool,
            port,
            clock: shared.clock,
            head: &self.head,
            body,
            key: self.key,
            allowance: self.allowance,
            expired: &expired,
            interim: &|status, headers| interims.push(status, headers),
            stop: &shared.stop,
        };
        let idle = Timeout::default().idle;
        let calling = async {
            let answer = Answer::from(ask.send().await?);
            answer.settle(&shared.budget, idle).await.map_err(|_| Failure::Reset)
        };
        match self.deadline {
            None => calling.await,
            Some(left) => tokio::time::timeout(left, calling).await.unwrap_or(Err(Failure::Deadline)),
        }
    }
}

/// Whether a gateway may speak for this workload: it is one of its own cluster, within the trust domain that the link
/// gives it (of which the gateway's own certificate is).
fn vouches_for(peer: &Peer, caller: &str) -> bool {
    caller.parse::<Identity>().is_ok_and(|caller| {
        matches!(caller.role, Role::Workload { .. })
            && caller.trust_domain == peer.identity.trust_domain
            && caller.cluster == peer.identity.cluster
    })
}
