//! The requests that sidecars of this cluster send on: each is placed again, for it is the gateway that sees the other
//! clusters. Whoever asks is proven by the sidecar's certificate, and named to the cluster that serves.

use std::cell::Cell;
use std::net::{IpAddr, Ipv4Addr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Version;
use http::header::{HeaderName, HeaderValue};
use proto::code::Code;
use tokio::time::Instant;
use tunnel::{Exchange, Peer, Sender};

use super::{Call, find};
use crate::access::{Counted, Line};
use crate::clock::Activity;
use crate::error::Rejection;
use crate::exchange::{self, Interims};
use crate::fields::{self, Declared};
use crate::grpc;
use crate::message::{self, RequestHead};
use crate::metrics::{Direction, Outcome};
use crate::retry;
use crate::route;
use crate::view::Service;
use crate::worker::{REQUESTS_MAX, Worker};

/// A request as its sidecar sent it.
struct Asked {
    service: Arc<Service>,
    port: u16,
    authority: String,
    head: RequestHead,
    declared: Declared,
    /// As the sidecar hashed it, if it placed by the contract that counts here.
    hash: Option<u64>,
    request_id: [u8; 16],
    /// What is left of the total deadline.
    deadline: Option<Duration>,
}

/// Why it goes nowhere.
enum Refusal {
    /// The sidecar broke the protocol.
    Broken,
    /// The caller is told.
    Rejected(Rejection),
}

/// Serves one exchange that a sidecar opened; its workload is `caller`.
pub async fn serve(worker: &Rc<Worker>, sidecar: &Peer, caller: &str, exchange: Exchange) {
    let shared = &worker.shared;
    let Exchange { mut sender, mut receiver } = exchange;
    let Some(_guard) = shared.in_progress.enter(REQUESTS_MAX) else {
        return exchange::refuse(&mut sender, &mut receiver, Code::Overloaded);
    };
    let Some(head) = exchange::head(sidecar, &mut sender, &mut receiver).await else { return };
    let started = Instant::now();
    let asked = match Asked::read(worker, &head) {
        Ok(asked) => asked,
        Err(Refusal::Broken) => return exchange::refuse(&mut sender, &mut receiver, Code::Internal),
        Err(Refusal::Rejected(rejection)) => {
            shared.nameless.ended(Outcome::NotFound);
            exchange::forward(&mut sender, rejection.into_answer(&shared.name)).await;
            return;
        }
    };
    let Asked { service, head, .. } = &asked;
    let line = Line::begin(Direction::Outbound, head.method.as_str(), &service.name, Some(caller), started);
    let mut counted = Counted::begin(Some(service.unanswered.clone()), line);
    let activity = Activity::new(started);
    let body = exchange::body(receiver, asked.declared, &shared.budget, activity.clone());
    if body.failed() {
        return sender.reset(Code::Internal);
    }
    let grpc = grpc::is_grpc(&head.headers);
    let has_key = head.headers.contains_key(HeaderName::from_static("idempotency-key"));
    let interims = Interims::default();
    let interim = |status, headers: &http::HeaderMap| interims.push(status, headers);
    let total = asked.deadline.into_iter().chain(service.timeout.total).min();
    let call = Call {
        worker,
        service,
        port: asked.port,
        head,
        authority: &asked.authority,
        body,
        activity: activity.clone(),
        started,
        deadline: total.map(|total| started + total),
        grpc,
        hash: asked.hash,
        request_id: asked.request_id,
        replayable_method: retry::replayable_method(head.method.as_str(), has_key, &service.retry),
        caller: Some(caller),
        hedged: Cell::new(false),
        expired: Cell::new(false),
        interim: &interim,
    };
    let Some(served) = interims.while_answering(&mut sender, call.run()).await else { return };
    let answer = match served {
        Ok((mut answer, node)) => {
            service.durations.observe(started.elapsed());
            counted.counters = Some(service.counters(node).clone());
            if let Some(line) = &mut counted.line {
                line.peer(service.placement.cluster(node).as_str());
            }
            answer.body.limit(service.timeout.idle, call.deadline, activity);
            answer
        }
        Err((_, true)) => return sender.reset(Code::Cancelled),
        Err((failure, false)) => {
            let (rejection, outcome) = call.rejection(failure, false);
            counted.outcome = outcome;
            if grpc { rejection.into_grpc_answer(&shared.name) } else { rejection.into_answer(&shared.name) }
        }
    };
    if let Some(line) = &mut counted.line {
        line.status(answer.status.as_u16());
    }
    let told = counted.outcome;
    let sent = exchange::forward(&mut sender, answer).await;
    counted.outcome = if told == Outcome::Cancelled { sent } else { told };
    linger(worker, &sender).await;
}

/// A drain closes the tunnel after the last request: what was written must have arrived by then.
async fn linger(worker: &Worker, sender: &Sender) {
    if worker.shared.stop.is_cancelled() {
        sender.stopped().await;
    }
}

impl Asked {
    fn read(worker: &Rc<Worker>, bytes: &Bytes) -> Result<Self, Refusal> {
        let (told, head_fields) = proto::head::RequestHead::decode(bytes).map_err(|_| Refusal::Broken)?;
        let view = worker.shared.view.load();
        let (service, port) =
            find(&view, &worker.shared.domain, told.authority).map_err(Refusal::Rejected)?;
        let judged = message::request_from_tunnel(bytes, &told, head_fields);
        let (mut head, declared) = judged.ok_or(Refusal::Broken)?;
        let placement = &service.placement;
        // Hashed once, at the first hop: unless that one did not know yet what counts here.
        let hash = if service.pinned || told.generation == placement.generation() {
            told.key_hash
        } else {
            let field = |name: &str| head.headers.get(name).map(HeaderValue::as_bytes);
            // Whom a sidecar takes requests from is on its own host.
            let source = IpAddr::V4(Ipv4Addr::LOCALHOST);
            route::key(&service.hash, field, told.path, source).map(|key| placement.hash(&key))
        };
        let shared = &worker.shared;
        fields::append_via(&mut head.headers, Version::HTTP_11, &shared.via, &shared.name);
        Ok(Self {
            port,
            authority: told.authority.to_owned(),
            hash,
            request_id: told.request_id,
            deadline: (told.deadline_ms > 0).then(|| Duration::from_millis(told.deadline_ms)),
            service,
            head,
            declared,
        })
    }
}
