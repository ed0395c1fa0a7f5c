//! The calls of Thrift and Mux of callers in this cluster: each is placed and balanced by itself, whatever connection it came on.

use std::cell::Cell;
use std::net::{IpAddr, Ipv4Addr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use proto::code::Code;
use proto::head::ConnectionHead;
use registry::model::Protocol;
use tokio::time::Instant;
use tracing::debug;
use tunnel::{Exchange, Peer, Tunnel};

use super::clusters::{Clusters, Target};
use super::connection::find;
use super::{hash_told, in_circles, terms, tunnels};
use crate::base::budget::Reservation;
use crate::base::clock::Activity;
use crate::proxy::connection::Opened;
use crate::proxy::error::Rejection;
use crate::proxy::exchange::facts::Facts;
use crate::proxy::exchange::{call, server};
use crate::proxy::flow::{Attempt, Flow, NotServed, Payload};
use crate::proxy::worker::{REQUESTS_MAX, Worker};
use crate::telemetry::metrics::{Direction, InProgressGuard, Outcome};
use crate::telemetry::record::Record;
use crate::upstream::{self, Allowance, Called, Message};
use crate::view::{LocalService, Service};
use policy::balance::EndpointState;
use policy::retry::Failure;
use policy::route;

/// A call whose service is known.
struct Placed<'a> {
    service: &'a Arc<Service>,
    port: u16,
    authority: &'a str,
    opened: &'a Opened,
    message: &'a Message,
    hash: Option<u64>,
    id: [u8; 16],
    /// The SPIFFE ID of the workload that calls, where it came through its sidecar.
    caller: Option<&'a str>,
    /// What its sidecar leaves of the time for it.
    left: Option<Duration>,
}

/// What came of a call.
#[derive(Debug)]
struct Reply {
    answer: Option<Message>,
    /// That of this cluster which gave it.
    endpoint: Option<Arc<EndpointState>>,
    /// What the answer counts on.
    held: Reservation,
}

/// An answer until its caller has it: it counts as in progress.
#[derive(Debug)]
pub struct Answer {
    /// What the caller gets.
    pub message: Message,
    _held: Reservation,
    _guard: InProgressGuard,
}

/// Serves one call of a caller, to what `authority` names. Gives the answer, if it is to have one.
///
/// # Errors
/// Why it is not served.
pub async fn serve(
    worker: &Rc<Worker>,
    authority: &str,
    opened: &Opened,
    message: &Message,
) -> Result<Option<Answer>, Rejection> {
    let shared = &worker.shared;
    let mut record = Record::begin(Direction::Outbound, &worker.nameless, Instant::now());
    record.method(message.method());
    let Some(guard) = shared.in_progress.enter(REQUESTS_MAX) else {
        record.ends(Outcome::Overloaded);
        return Err(Rejection::full(REQUESTS_MAX));
    };
    if let Some(rejection) = in_circles(opened.hops, authority) {
        record.ends(Outcome::Broken);
        return Err(rejection);
    }
    // Only for the look: a call that takes long must not keep a view that is long replaced.
    let found = find(&shared.view.load(), &shared.domain, authority, message.protocol());
    let (service, port) = found.inspect_err(|rejection| {
        debug!(authority, error = %rejection.details, "Call refused.");
        record.ends(Outcome::NotFound);
    })?;
    let source = opened.source.map(|source| source.ip());
    let key = route::connection_key(&service.hash, source, None, |kind| opened.tlvs.first(kind));
    let placed = Placed {
        service: &service,
        port: port.number,
        authority,
        opened,
        message,
        hash: key.map(|key| service.placement.hash(&key)),
        id: worker.pool.with_rng(|rng| rng.u128(..)).to_be_bytes(),
        caller: None,
        left: None,
    };
    match placed.call(worker, &mut record).await {
        Ok(Reply { answer, held, .. }) => {
            Ok(answer.map(|message| Answer { message, _held: held, _guard: guard }))
        }
        Err(NotServed { failure, .. }) => Err(call::rejection(failure, &service.name)),
    }
}

/// Serves one call that a sidecar sends on for its workload, `caller`.
pub async fn serve_sidecar(worker: &Rc<Worker>, sidecar: &Peer, caller: &str, mut exchange: Exchange) {
    let shared = &worker.shared;
    let mut record = Record::begin(Direction::Outbound, &worker.nameless, Instant::now());
    record.caller(Some(caller));
    let Some(_guard) = shared.in_progress.enter(REQUESTS_MAX) else {
        record.ends(Outcome::Overloaded);
        return server::refuse(&mut exchange.sender, &mut exchange.receiver, Code::Overloaded);
    };
    let bytes = server::head(sidecar, &mut exchange.receiver).await;
    let Some(head) = bytes.as_ref().and_then(|bytes| ConnectionHead::decode(bytes).ok()) else {
        record.ends(Outcome::Malformed);
        return server::refuse(&mut exchange.sender, &mut exchange.receiver, Code::Internal);
    };
    if in_circles(head.flow.hops, head.authority).is_some() {
        record.ends(Outcome::Broken);
        return server::refuse(&mut exchange.sender, &mut exchange.receiver, Code::Denied);
    }
    // Before anything of the message is kept.
    let found = {
        let (view, domain) = (shared.view.load(), &shared.domain);
        match [Protocol::Thrift, Protocol::Mux].map(|protocol| find(&view, domain, head.authority, protocol))
        {
            // It names no port, and there is one of each.
            [Ok(thrift), Ok(mux)] => Ok(if mux.1.number == head.flow.port { mux } else { thrift }),
            [thrift, mux] => thrift.or(mux),
        }
    };
    let Ok((service, port)) = found else {
        record.ends(Outcome::NotFound);
        return server::refuse(&mut exchange.sender, &mut exchange.receiver, Code::Unknown);
    };
    let mut held = shared.budget.reservation();
    let Some(message) = call::called(&mut exchange, port.protocol, &mut held, &mut record).await else {
        return;
    };
    let opened = Opened { source: head.source, hops: head.flow.hops, ..Opened::default() };
    let hash = hash_told(&service, &head.flow, || {
        let source = opened.source.map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), |source| source.ip());
        route::connection_key(&service.hash, Some(source), None, |_| None)
    });
    let placed = Placed {
        service: &service,
        port: port.number,
        authority: head.authority,
        opened: &opened,
        message: &message,
        hash,
        id: head.flow.request_id,
        caller: Some(caller),
        left: (head.flow.deadline_ms > 0).then(|| Duration::from_millis(head.flow.deadline_ms)),
    };
    let calling = async {
        tokio::select! {
            biased;
            called = placed.call(worker, &mut record) => Some(called),
            () = exchange.sender.stopped() => None,
        }
    };
    let reply = match calling.await {
        Some(Ok(reply)) => reply,
        Some(Err(NotServed { failure, .. })) => {
            return call::refuse(&mut exchange, &message, failure, &service.name, &shared.name).await;
        }
        None => return,
    };
    if call::answer(&mut exchange.sender, reply.answer.as_ref()).await.is_err() {
        record.ends(Outcome::Cancelled);
    }
}

impl Placed<'_> {
    /// Makes attempts until one side serves it, or there is nothing more to try; `record` is told.
    async fn call(&self, worker: &Rc<Worker>, record: &mut Record) -> Result<Reply, NotServed> {
        let Self { service, port, hash, message, .. } = *self;
        let shared = &worker.shared;
        let method = message.method();
        record.asks(method, &service.name, &service.unanswered);
        // The message is here: from now on its answer is waited for.
        let started = Instant::now();
        let waits = [self.left, service.timeout.total, message.given()];
        let deadline = waits.into_iter().flatten().min().map(|total| started + total);
        let replayable = service.retry.methods.iter().any(|declared| declared == method);
        let expired = Cell::new(false);
        let (id, caller, hops) = (self.id, self.caller, self.opened.hops);
        let facts = Facts { service, port, id, hash, deadline, replayable, caller, hops };
        let flow = Flow {
            candidates: Clusters { worker, service, port, record },
            payload: CallPayload { worker, facts, placed: self, expired: &expired },
            terms: terms(service),
            hash,
            replayable,
            started,
            deadline,
            activity: Activity::new(started),
            clock: shared.clock,
            expired: &expired,
        };
        let served = flow.run().await;
        match served {
            Ok((reply, node)) => {
                service.durations.observe(started.elapsed());
                record.answered_by(service.placement.cluster(node).as_str(), service.counters(node));
                if let Some(endpoint) = &reply.endpoint {
                    record.endpoint(endpoint.id());
                }
                call::answered(record, reply.answer.as_ref());
                Ok(reply)
            }
            Err(not) => {
                debug!(service = %service.name, failure = ?not.failure, "No endpoint serves a call.");
                record.ends(not.failure.into());
                Err(not)
            }
        }
    }
}

/// A call as a flow carries it: whole.
struct CallPayload<'a> {
    worker: &'a Rc<Worker>,
    facts: Facts<'a>,
    placed: &'a Placed<'a>,
    /// Whether the time that the policy gives is over.
    expired: &'a Cell<bool>,
}

impl<'a> Payload for CallPayload<'a> {
    type Target = Target<'a>;
    type Reply = Reply;

    async fn send(&self, target: Target<'a>, attempt: Attempt) -> Result<Reply, Failure> {
        let to_endpoint = async |local| self.to_endpoint(local).await;
        let send = async |tunnel: &Tunnel| self.send_through(tunnel, attempt).await;
        tunnels::attempt(self.worker, target, self.facts.replayable, || true, to_endpoint, send).await
    }
}

impl CallPayload<'_> {
    async fn to_endpoint(&self, local: &LocalService) -> Result<Reply, Failure> {
        let Facts { service, port, hash, replayable, .. } = self.facts;
        let port = local.port(port).ok_or(Failure::Unavailable)?;
        let attempts = service.retry.attempts;
        let allowance = Allowance { replayable, attempts, connect: service.timeout.connect };
        let way = self.worker.way(port, hash, self.expired);
        let budget = &self.worker.shared.budget;
        let Called { answer, held, endpoint } =
            upstream::call(&way, allowance, self.placed.message, budget).await?;
        Ok(Reply { answer, endpoint: Some(endpoint), held })
    }

    async fn send_through(&self, tunnel: &Tunnel, attempt: Attempt) -> Result<Reply, Failure> {
        let Placed { authority, opened, message, .. } = *self.placed;
        let head = ConnectionHead {
            flow: self.facts.head(attempt),
            authority,
            source: opened.source,
            destination: None,
            server_name: None,
        };
        let mut held = self.worker.shared.budget.reservation();
        let answer = call::send(tunnel, &head, message, &mut held).await?;
        let is_answer = match &answer {
            None => message.is_oneway(),
            Some(answer) => message.is_answered_by(answer),
        };
        if !is_answer {
            return Err(Failure::Malformed);
        }
        Ok(Reply { answer, endpoint: None, held })
    }
}
