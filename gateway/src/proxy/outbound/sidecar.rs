//! The requests that sidecars of this cluster send on: each is placed again, for it is the gateway that sees the other
//! clusters. Whoever asks is proven by the sidecar's certificate, and named to the cluster that serves.

use std::net::{IpAddr, Ipv4Addr};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::HeaderValue;
use http::{StatusCode, Version};
use proto::code::Code;
use tokio::time::Instant;
use tunnel::{Exchange, Peer};

use super::http::upgraded;
use super::{NotAnswered, Placed, find, hash_told, in_circles};
use crate::base::clock::Activity;
use crate::http::body::RequestBody;
use crate::http::fields::{self, Declared};
use crate::http::join::End;
use crate::http::message::{self, RequestHead};
use crate::proxy::answer::Answer;
use crate::proxy::error::Rejection;
use crate::proxy::exchange::server::{self, Interims};
use crate::proxy::worker::{REQUESTS_MAX, Worker};
use crate::telemetry::metrics::{Direction, Outcome};
use crate::telemetry::record::Record;
use crate::view::Service;
use policy::grpc;
use policy::route;

/// A request as its sidecar sent it.
struct Asked {
    service: Arc<Service>,
    port: u16,
    authority: String,
    head: RequestHead,
    declared: Declared,
    /// As the sidecar hashed it, if it placed by the contract that counts here.
    hash: Option<u64>,
    grpc: bool,
    request_id: [u8; 16],
    hops: u8,
    /// What is left of the total deadline.
    deadline: Option<Duration>,
}

/// Why it goes nowhere.
enum Refusal {
    /// The sidecar broke the protocol.
    Broken,
    /// The caller is told, in the words of gRPC if it speaks them.
    Rejected { rejection: Rejection, grpc: bool },
}

/// Refuses an exchange of a sidecar that is over its budget, before any work.
pub fn shed(worker: &Worker, caller: &str, mut exchange: Exchange) {
    record(worker, caller).ends(Outcome::Overloaded);
    server::refuse(&mut exchange.sender, &mut exchange.receiver, Code::Overloaded);
}

fn record(worker: &Worker, caller: &str) -> Record {
    let mut record = Record::begin(Direction::Outbound, &worker.nameless, Instant::now());
    record.caller(Some(caller));
    record
}

/// Serves one exchange that a sidecar opened; its workload is `caller`.
pub async fn serve(worker: &Rc<Worker>, sidecar: &Peer, caller: &str, exchange: Exchange) {
    let shared = &worker.shared;
    let Some(guard) = shared.in_progress.enter(REQUESTS_MAX) else {
        return shed(worker, caller, exchange);
    };
    let Exchange { mut sender, mut receiver } = exchange;
    let mut record = record(worker, caller);
    let Some(head) = server::head(sidecar, &mut receiver).await else {
        record.ends(Outcome::Malformed);
        return server::refuse(&mut sender, &mut receiver, Code::Internal);
    };
    let asked = match Asked::read(worker, &head, &mut record) {
        Ok(asked) => asked,
        Err(Refusal::Broken) => return server::refuse(&mut sender, &mut receiver, Code::Internal),
        Err(Refusal::Rejected { rejection, grpc }) => {
            let answer = rejection.answer(grpc, &shared.name);
            server::forward(&mut sender, answer, &mut record, &shared.stop).await;
            return;
        }
    };
    let Asked { service, head, .. } = &asked;
    let activity = Activity::new(record.started());
    let (body, kept) = match head.upgrade {
        None => (server::body(receiver, asked.declared, &shared.budget, activity.clone()), None),
        // What comes behind the head is of what it is upgraded to.
        Some(_) => (RequestBody::empty(), Some(receiver)),
    };
    if body.failed() {
        record.ends(Outcome::Malformed);
        return sender.reset(Code::Internal);
    }
    let grpc = asked.grpc;
    let interims = Interims::default();
    let interim = |status, headers: &http::HeaderMap| interims.push(status, headers);
    let total = asked.deadline.into_iter().chain(service.timeout.total).min();
    let placed = Placed {
        service,
        port: asked.port,
        head,
        authority: &asked.authority,
        body,
        activity,
        deadline: total.map(|total| record.started() + total),
        grpc,
        hash: asked.hash,
        id: asked.request_id,
        caller: Some(caller),
        hops: asked.hops,
        interim: &interim,
    };
    let answered = {
        let answering = pin!(placed.answer(worker, &mut record));
        interims.while_answering(&mut sender, answering).await
    };
    let Some(answered) = answered else { return };
    match answered {
        Ok(Answer { upgraded: Some(served), headers, .. }) if kept.is_some() => {
            record.status(StatusCode::SWITCHING_PROTOCOLS.as_u16());
            if let (Ok(()), Some(receiver)) = (server::switch(&mut sender, &headers).await, kept) {
                let idle = service.timeout.idle();
                let carry = upgraded(worker, *served, head.upgrade.clone(), idle, record, guard);
                carry.run(End::Tunnel(Box::new(Exchange { sender, receiver }))).await;
            }
        }
        Ok(answer) => {
            let sent = server::forward(&mut sender, answer, &mut record, &shared.stop).await;
            record.ends(sent);
        }
        Err(NotAnswered { caller_at_fault: true, .. }) => sender.reset(Code::Cancelled),
        Err(NotAnswered { rejection, .. }) => {
            let answer = rejection.answer(grpc, &shared.name);
            server::forward(&mut sender, answer, &mut record, &shared.stop).await;
        }
    }
}

impl Asked {
    /// Reads its head, and judges it; `record` is told how it ends unless it goes on.
    fn read(worker: &Rc<Worker>, bytes: &Bytes, record: &mut Record) -> Result<Self, Refusal> {
        record.ends(Outcome::Malformed);
        let (told, head_fields) = proto::head::RequestHead::decode(bytes).map_err(|_| Refusal::Broken)?;
        let view = worker.shared.view.load();
        let judged = message::request_from_tunnel(bytes, &told, head_fields);
        let (mut head, declared) = judged.ok_or(Refusal::Broken)?;
        let grpc = grpc::is_grpc(&head.headers);
        record.ends(Outcome::NotFound);
        let found = find(&view, &worker.shared.domain, told.http.authority);
        let (service, port) = found.map_err(|rejection| Refusal::Rejected { rejection, grpc })?;
        let hash = hash_told(&service, &told.flow, || {
            let field = |name: &str| head.headers.get(name).map(HeaderValue::as_bytes);
            // Whom a sidecar takes requests from is on its own host.
            let source = IpAddr::V4(Ipv4Addr::LOCALHOST);
            route::key(&service.hash, field, told.http.path, source)
        });
        let shared = &worker.shared;
        let hops = told.flow.hops.max(fields::hops(&head.headers));
        record.asks(head.method.as_str(), &service.name, &service.unanswered);
        if let Some(rejection) = in_circles(hops, told.http.authority) {
            record.ends(Outcome::Broken);
            return Err(Refusal::Rejected { rejection, grpc });
        }
        fields::append_via(&mut head.headers, Version::HTTP_11, &shared.via, &shared.name);
        record.ends(Outcome::Cancelled);
        Ok(Self {
            port,
            authority: told.http.authority.to_owned(),
            hash,
            grpc,
            request_id: told.flow.request_id,
            hops,
            deadline: (told.flow.deadline_ms > 0).then(|| Duration::from_millis(told.flow.deadline_ms)),
            service,
            head,
            declared,
        })
    }
}
