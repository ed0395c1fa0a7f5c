//! A connection of a peer on its way to an endpoint of this cluster.

use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use proto::code::Code;
use proto::head::ConnectionHead;
use registry::model::Protocol;
use tunnel::{Datagrams, Exchange};

use super::{Asker, Refusal, admit, record, refuse, shed};
use crate::proxy::connection::Opened;
use crate::proxy::exchange::facts::connect_wait;
use crate::proxy::exchange::{codec, server};
use crate::proxy::outbound::connection::behind;
use crate::proxy::worker::{PEER_REQUESTS_MAX, REQUESTS_MAX, Serving};
use crate::telemetry::metrics::Outcome;
use crate::telemetry::record::Record;
use crate::upstream::{Served, dial, dial_datagrams};
use crate::view::LocalService;
use policy::retry::Failure;

/// Serves one connection that a linked cluster opened, or a flow where there are `datagrams`.
pub async fn serve(
    serving: &Serving,
    asker: Asker<'_>,
    mut exchange: Exchange,
    datagrams: Option<Datagrams>,
) {
    let of_all = serving.in_progress().enter(REQUESTS_MAX);
    let (Some(_of_all), Some(_of_peer)) = (of_all, asker.asking.enter(PEER_REQUESTS_MAX)) else {
        return shed(serving, asker, exchange);
    };
    let mut record = record(serving, asker);
    let Some(head) = server::head(asker.gateway, &mut exchange.receiver).await else {
        let broken = Refusal(Code::Internal, Outcome::Malformed);
        return refuse(serving, asker, exchange, record, broken);
    };
    let asked = match Asked::read(serving, asker, &head, datagrams.is_some(), &mut record) {
        Ok(asked) => asked,
        Err(Refusal(code, outcome)) => {
            record.ends(outcome);
            return server::refuse(&mut exchange.sender, &mut exchange.receiver, code);
        }
    };
    let dialled = tokio::select! {
        biased;
        dialled = asked.dial(serving) => dialled,
        // The peer has another way, or its caller has left.
        () = exchange.sender.stopped() => return,
    };
    let served = match dialled {
        Ok(served) => served,
        Err(failure) => {
            record.ends(failure.into());
            return server::refuse(&mut exchange.sender, &mut exchange.receiver, codec::code(failure));
        }
    };
    if let Some(held) = &served.held {
        record.endpoint(held.endpoint().id());
    }
    asked.local.durations.observe(record.started().elapsed());
    if server::accept(&mut exchange.sender).await.is_err() {
        return;
    }
    let counted = Some(asked.local.connections.begin());
    serving.carry(served, record, counted).run(behind(exchange, datagrams)).await;
}

/// A connection that passed every check.
struct Asked {
    local: Arc<LocalService>,
    port: u16,
    /// The hash of its key.
    key: Option<u64>,
    /// How long a connection to an endpoint may take to be made.
    connect: Duration,
    opened: Opened,
    /// The workload that opened it.
    caller: Option<String>,
}

impl Asked {
    fn read(
        serving: &Serving,
        asker: Asker<'_>,
        bytes: &Bytes,
        flow_of_datagrams: bool,
        record: &mut Record,
    ) -> Result<Self, Refusal> {
        record.counted_by(&serving.unnamed(asker.name));
        let head = ConnectionHead::decode(bytes).map_err(|_| Refusal(Code::Internal, Outcome::Malformed))?;
        let flow = head.flow;
        let wanted = if flow_of_datagrams { Protocol::Udp } else { Protocol::Tcp };
        let carries = |protocol: Protocol| protocol.is_carried_as(wanted);
        let local = admit(serving, asker, &flow, "connection", carries, record)?;
        let server_name = head.server_name.map(str::to_owned);
        let opened = Opened {
            source: head.source,
            destination: head.destination,
            server_name,
            hops: flow.hops,
            ..Opened::default()
        };
        Ok(Self {
            local,
            port: flow.port,
            key: flow.key_hash,
            connect: connect_wait(&flow),
            opened,
            caller: flow.caller.map(str::to_owned),
        })
    }

    async fn dial(&self, serving: &Serving) -> Result<Served, Failure> {
        let port = self.local.port(self.port).ok_or(Failure::Unavailable)?;
        let expired = Cell::new(false);
        if port.0.protocol == Protocol::Udp {
            return dial_datagrams(&serving.way(port, self.key, &expired), self.connect).await;
        }
        let header = match port.0.proxy_header {
            true => self.opened.proxy_header(self.caller.as_deref()),
            false => Vec::new(),
        };
        dial(&serving.way(port, self.key, &expired), self.connect, &header).await
    }
}
