//! A call of a peer, of Thrift or Mux, on its way to an endpoint of this cluster.

use std::cell::Cell;
use std::time::Duration;

use proto::code::Code;
use proto::head::ConnectionHead;
use registry::model::Protocol;
use tunnel::Exchange;

use super::{Asker, Refusal, admit, record, refuse, shed};
use crate::proxy::exchange::facts::connect_wait;
use crate::proxy::exchange::{call, server};
use crate::proxy::worker::{PEER_REQUESTS_MAX, REQUESTS_MAX, Serving};
use crate::telemetry::metrics::Outcome;
use crate::upstream::{self, Allowance};
use policy::retry::Failure;

/// Serves one call that a linked cluster sends.
pub async fn serve(serving: &Serving, asker: Asker<'_>, mut exchange: Exchange) {
    let of_all = serving.in_progress().enter(REQUESTS_MAX);
    let (Some(_of_all), Some(_of_peer)) = (of_all, asker.asking.enter(PEER_REQUESTS_MAX)) else {
        return shed(serving, asker, exchange);
    };
    let mut record = record(serving, asker);
    let broken = || Refusal(Code::Internal, Outcome::Malformed);
    let Some(bytes) = server::head(asker.gateway, &mut exchange.receiver).await else {
        return refuse(serving, asker, exchange, record, broken());
    };
    let Ok(head) = ConnectionHead::decode(&bytes) else {
        return refuse(serving, asker, exchange, record, broken());
    };
    record.counted_by(&serving.unnamed(asker.name));
    let flow = head.flow;
    // Before anything of the message is kept.
    let carries = |protocol: Protocol| protocol.has_calls();
    let local = match admit(serving, asker, &flow, "call", carries, &mut record) {
        Ok(local) => local,
        Err(Refusal(code, outcome)) => {
            record.ends(outcome);
            return server::refuse(&mut exchange.sender, &mut exchange.receiver, code);
        }
    };
    let Some(port) = local.port(flow.port) else {
        record.ends(Outcome::NotFound);
        return server::refuse(&mut exchange.sender, &mut exchange.receiver, Code::Unknown);
    };
    let mut held = serving.budget().reservation();
    let Some(message) = call::called(&mut exchange, port.0.protocol, &mut held, &mut record).await else {
        return;
    };
    let expired = Cell::new(false);
    let allowance = Allowance {
        replayable: flow.replayable,
        attempts: flow.attempts_left.saturating_add(1),
        connect: connect_wait(&flow),
    };
    let calling = async {
        let way = serving.way(port, flow.key_hash, &expired);
        let calling = upstream::call(&way, allowance, &message, serving.budget());
        match flow.deadline_ms {
            0 => calling.await,
            left => {
                let left = Duration::from_millis(left);
                tokio::time::timeout(left, calling).await.unwrap_or(Err(Failure::Deadline))
            }
        }
    };
    let called = tokio::select! {
        biased;
        called = calling => called,
        // The peer has another way, or its caller has left.
        () = exchange.sender.stopped() => return,
    };
    match called {
        Ok(called) => {
            record.endpoint(called.endpoint.id());
            local.durations.observe(record.started().elapsed());
            call::answered(&mut record, called.answer.as_ref());
            if call::answer(&mut exchange.sender, called.answer.as_ref()).await.is_err() {
                record.ends(Outcome::Cancelled);
            }
        }
        Err(failure) => {
            record.ends(failure.into());
            call::refuse(&mut exchange, &message, failure, &local.name, serving.name()).await;
        }
    }
}
