//! A request of a peer on its way to an endpoint of this cluster. What it is given ([`Serving`]) leads to no peer and no
//! tunnel: a request crosses between clusters at most once.

mod call;
mod connection;

use std::cell::Cell;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use identity::{Identity, Role};
use proto::code::Code;
use proto::head::FlowHead;
use proto::limits::HOPS_MAX;
use registry::model::{ClusterName, DURATION_MAX, Grant, Protocol};
use tokio::time::Instant;
use tracing::debug;
use tunnel::{Exchange, Peer, Sender};

use crate::base::clock::Activity;
use crate::http::body::RequestBody;
use crate::http::fields::Declared;
use crate::http::join::End;
use crate::http::message::{self, RequestHead};
use crate::proxy::answer::Answer;
use crate::proxy::connection::carry::Carry;
use crate::proxy::error::Rejection;
use crate::proxy::exchange::codec;
use crate::proxy::exchange::facts::connect_wait;
use crate::proxy::exchange::server::{self, Interims};
use crate::proxy::worker::{PEER_REQUESTS_MAX, REQUESTS_MAX, Serving};
use crate::telemetry::metrics::{Direction, InProgress, Outcome};
use crate::telemetry::record::Record;
use crate::upstream::{Allowance, Ask};
use crate::view::LocalService;
use policy::authorize::{Caller, Gateway, authorize};
use policy::grpc;
use policy::retry::Failure;

pub use call::serve as serve_call;
pub use connection::serve as serve_connection;

/// Why a request of a peer ends without an answer.
#[derive(Debug)]
struct Refusal(Code, Outcome);

/// The linked cluster that asks.
#[derive(Clone, Copy, Debug)]
pub struct Asker<'a> {
    /// Its name.
    pub name: &'a ClusterName,
    /// Its requests that we work on.
    pub asking: &'a Arc<InProgress>,
    /// The gateway that opened the exchange.
    pub gateway: &'a Peer,
}

/// Refuses an exchange of a linked cluster that is over its budget, before any work.
pub fn shed(serving: &Serving, asker: Asker<'_>, exchange: Exchange) {
    refuse(serving, asker, exchange, record(serving, asker), Refusal(Code::Overloaded, Outcome::Overloaded));
}

fn record(serving: &Serving, asker: Asker<'_>) -> Record {
    let mut record = Record::begin(Direction::Inbound, &serving.nameless, Instant::now());
    record.peer(asker.name.as_str());
    record
}

/// Ends an exchange of which it is not known what it asks.
fn refuse(serving: &Serving, asker: Asker<'_>, exchange: Exchange, mut record: Record, why: Refusal) {
    let (Refusal(code, outcome), Exchange { mut sender, mut receiver }) = (why, exchange);
    record.counted_by(&serving.unnamed(asker.name));
    record.ends(outcome);
    server::refuse(&mut sender, &mut receiver, code);
}

/// Serves one exchange that a linked cluster opened.
pub async fn serve(serving: &Serving, asker: Asker<'_>, exchange: Exchange) {
    let of_all = serving.in_progress().enter(REQUESTS_MAX);
    let (Some(_of_all), Some(_of_peer)) = (of_all, asker.asking.enter(PEER_REQUESTS_MAX)) else {
        return shed(serving, asker, exchange);
    };
    let mut record = record(serving, asker);
    let mut exchange = exchange;
    let head = server::head(asker.gateway, &mut exchange.receiver).await;
    let Some(head) = head else {
        let broken = Refusal(Code::Internal, Outcome::Malformed);
        return refuse(serving, asker, exchange, record, broken);
    };
    let Exchange { mut sender, mut receiver } = exchange;
    let request = match Request::read(serving, asker, &head, &mut record) {
        Ok(request) => request,
        Err(Refusal(code, outcome)) => {
            record.ends(outcome);
            debug!(peer = %asker.name, code = code.as_str(), ?outcome, "Refused.");
            return server::refuse(&mut sender, &mut receiver, code);
        }
    };
    let activity = Activity::new(record.started());
    record.follows(&activity);
    let (body, kept) = match request.head.upgrade {
        None => (server::body(receiver, request.declared, serving.budget(), activity), None),
        // What comes behind the head is of what it is upgraded to.
        Some(_) => (RequestBody::empty(), Some(receiver)),
    };
    if body.failed() {
        record.ends(Outcome::Malformed);
        return sender.reset(Code::Internal);
    }
    let interims = Interims::default();
    let answered = {
        let answering = pin!(request.call(serving, &body, &interims));
        interims.while_answering(&mut sender, answering).await
    };
    let Some(answered) = answered else { return };
    match answered {
        // The peer's body broke off: whatever the endpoint made of that is no answer.
        _ if body.failed() => sender.reset(Code::Cancelled),
        Ok(Answer { upgraded: Some(served), headers, endpoint, .. }) if kept.is_some() => {
            record.status(StatusCode::SWITCHING_PROTOCOLS.as_u16());
            if let Some(endpoint) = endpoint {
                record.endpoint(endpoint.id());
            }
            if let (Ok(()), Some(receiver)) = (server::switch(&mut sender, &headers).await, kept) {
                let caller = End::Tunnel(Box::new(Exchange { sender, receiver }));
                let protocol = request.head.upgrade.clone();
                let carry = Carry { protocol, ..serving.carry(*served, record, None) };
                carry.run(caller).await;
            }
        }
        Ok(answer) => request.forward(serving, &mut sender, answer, &mut record).await,
        // It would be everywhere: said in an answer, as no code could say it.
        Err(failure @ Failure::AnswerTooLarge) => {
            record.ends(failure.into());
            let rejection = Rejection::from_failure(failure, &request.local.name);
            let grpc = grpc::is_grpc(&request.head.headers);
            let answer = rejection.answer(grpc, serving.name());
            server::forward(&mut sender, answer, &mut record, serving.stop()).await;
        }
        Err(failure) => {
            record.ends(failure.into());
            sender.reset(codec::code(failure));
        }
    }
}

/// A request that passed every check.
struct Request {
    local: Arc<LocalService>,
    port: u16,
    head: RequestHead,
    /// The hash of its key.
    key: Option<u64>,
    allowance: Allowance,
    /// The length of its body.
    declared: Declared,
    /// What is left of the total deadline.
    deadline: Option<Duration>,
}

impl Request {
    /// Reads the head and checks the grant first, then the rest, all before any work.
    fn read(
        serving: &Serving,
        asker: Asker<'_>,
        bytes: &Bytes,
        record: &mut Record,
    ) -> Result<Self, Refusal> {
        record.counted_by(&serving.unnamed(asker.name));
        let (head, head_fields) = proto::head::RequestHead::decode(bytes)
            .map_err(|_| Refusal(Code::Internal, Outcome::Malformed))?;
        let flow = head.flow;
        let local = admit(serving, asker, &flow, head.http.method, Protocol::is_http, record)?;
        let request = message::request_from_tunnel(bytes, &head, head_fields);
        let (request_head, declared) = request.ok_or(Refusal(Code::Internal, Outcome::Malformed))?;
        Ok(Self {
            port: flow.port,
            head: request_head,
            declared,
            key: flow.key_hash,
            allowance: Allowance {
                replayable: flow.replayable,
                attempts: flow.attempts_left.saturating_add(1),
                connect: connect_wait(&flow),
            },
            deadline: (flow.deadline_ms > 0).then(|| Duration::from_millis(flow.deadline_ms)),
            local,
        })
    }

    async fn call(
        &self,
        serving: &Serving,
        body: &RequestBody,
        interims: &Interims,
    ) -> Result<Answer, Failure> {
        let port = self.local.port(self.port).ok_or(Failure::Unavailable)?;
        // Whoever placed the request says when its time is over, and it may be a short one.
        let expired = Cell::new(false);
        let ask = Ask {
            way: serving.way(port, self.key, &expired),
            head: &self.head,
            body,
            allowance: self.allowance,
            interim: &|status, headers| interims.push(status, headers),
            stop: serving.stop(),
        };
        let calling = async {
            let answer = Answer::from(ask.send().await?);
            answer.settle(serving.budget()).await.map_err(|_| Failure::Reset)
        };
        match self.deadline {
            None => calling.await,
            Some(left) => tokio::time::timeout(left, calling).await.unwrap_or(Err(Failure::Deadline)),
        }
    }

    async fn forward(&self, serving: &Serving, sender: &mut Sender, mut answer: Answer, record: &mut Record) {
        let started = record.started();
        // Silence is for the gateway that asks to judge, by the policy that it has: it ends its stream.
        let (idle, total) = match self.deadline {
            Some(left) => (left, Some(started + left)),
            None => (DURATION_MAX, None),
        };
        answer.body.take(idle, total, Activity::new(started));
        self.local.durations.observe(started.elapsed());
        if let Some(endpoint) = &answer.endpoint {
            record.endpoint(endpoint.id());
        }
        let outcome = server::forward(sender, answer, record, serving.stop()).await;
        record.ends(outcome);
    }
}

/// What a flow of a peer is for, all of it checked that does not depend on what it carries: the grant first, then the port,
/// which must be one that `carries` this, then its placement.
fn admit(
    serving: &Serving,
    asker: Asker<'_>,
    flow: &FlowHead<'_>,
    method: &str,
    carries: impl FnOnce(Protocol) -> bool,
    record: &mut Record,
) -> Result<Arc<LocalService>, Refusal> {
    record.method(method);
    let local =
        serving.local(flow.namespace, flow.service).ok_or(Refusal(Code::Unknown, Outcome::NotFound))?;
    if let Some(counters) = local.inbound(asker.name) {
        record.asks(method, &local.name, counters);
    }
    if !authorized(&local.grant, &asker, flow.caller) {
        return Err(Refusal(Code::Denied, Outcome::Denied));
    }
    if flow.hops > HOPS_MAX {
        return Err(Refusal(Code::Internal, Outcome::Broken));
    }
    record.caller(flow.caller);
    if !local.port(flow.port).is_some_and(|(port, _)| carries(port.protocol)) {
        return Err(Refusal(Code::Unknown, Outcome::NotFound));
    }
    let agrees =
        local.placement.as_ref().is_none_or(|p| p.agrees(flow.generation, flow.key_hash, flow.owner));
    if !agrees && !flow.insist {
        return Err(Refusal(Code::Misplaced, Outcome::Misplaced));
    }
    if !agrees {
        // The caller has looked again and still disagrees: served, and said.
        serving.mismatch(&local.name, asker.name.as_str());
    }
    Ok(local)
}

/// Whether the gateway that asks may have a service for the workload `caller`, if it names one.
fn authorized(grant: &Grant, asker: &Asker<'_>, caller: Option<&str>) -> bool {
    let gateway = Gateway { cluster: asker.name, trust_domain: &asker.gateway.identity.trust_domain };
    let identity = caller.map(str::parse::<Identity>);
    let caller = match &identity {
        None => Caller::Anonymous,
        Some(Ok(caller)) if matches!(caller.role, Role::Workload { .. }) => {
            Caller::Workload { cluster: &caller.cluster, trust_domain: &caller.trust_domain }
        }
        Some(_) => Caller::Nonsense,
    };
    authorize(grant, gateway, caller).is_ok()
}
