//! The connections of callers in this cluster, carried as such to the cluster that serves them: each is placed once, at its
//! beginning. Until an endpoint has taken it the next endpoint or cluster is tried; afterwards never.

use std::cell::Cell;
use std::net::{IpAddr, Ipv4Addr};
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use proto::code::Code;
use proto::frame::{Frame, FrameKind, put_frame};
use proto::head::ConnectionHead;
use proto::stream::StreamKind;
use registry::model::{Port, Protocol};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tracing::debug;
use tunnel::{Datagrams, Exchange, Peer, Tunnel};

use super::clusters::{Clusters, Target};
use super::{hash_told, in_circles, locate, terms, tunnels};
use crate::base::clock::Activity;
use crate::http::datagrams::Side;
use crate::http::join::End;
use crate::proxy::connection::Opened;
use crate::proxy::connection::carry::Carry;
use crate::proxy::error::{ProxyError, Rejection};
use crate::proxy::exchange::facts::Facts;
use crate::proxy::exchange::{codec, server};
use crate::proxy::flow::{Attempt, Flow, NotServed, Payload};
use crate::proxy::worker::{REQUESTS_MAX, Worker};
use crate::telemetry::metrics::{Direction, InProgressGuard, Outcome};
use crate::telemetry::record::Record;
use crate::upstream::{Served, dial, dial_datagrams};
use crate::view::{LocalService, Service, View};
use policy::retry::Failure;
use policy::route;

/// What the access log calls the method of a connection.
const METHOD: &str = "connection";

/// A connection whose service is known.
struct Placed<'a> {
    service: &'a Arc<Service>,
    port: &'a Port,
    authority: &'a str,
    opened: &'a Opened,
    hash: Option<u64>,
    id: [u8; 16],
    /// The SPIFFE ID of the workload that opened it, where it came through its sidecar.
    caller: Option<&'a str>,
}

/// The service and port that an authority names in the mesh's `domain`, for connections or, where UDP is `wanted`, for flows
/// of datagrams; without a number, the first port that speaks what is wanted, else the first of its kind.
pub fn find(
    view: &View,
    domain: &str,
    authority: &str,
    wanted: Protocol,
) -> Result<(Arc<Service>, Port), Rejection> {
    let (service, port) = locate(view, domain, authority, |ports, number| match number {
        Some(number) => ports.iter().find(|port| port.number == number),
        None => {
            let exact = ports.iter().find(|port| port.protocol == wanted);
            let near = || ports.iter().find(|port| port.protocol.is_carried_as(wanted));
            exact.or_else(near).or(ports.first())
        }
    })?;
    if !port.protocol.is_carried_as(wanted) {
        let (speaks, wanted) = (port.protocol.as_str(), wanted.as_str());
        let details = format!(
            "port {} of {} speaks {speaks}, and not what is carried here as {wanted}",
            port.number, service.name
        );
        return Err(Rejection::new(ProxyError::DestinationNotFound, details));
    }
    Ok((service, port))
}

/// Serves a connection of a caller, which leads to what `authority` names. What is not taken is reset: what was promised is
/// a connection, and there is none.
pub async fn serve(
    worker: &Rc<Worker>,
    authority: &str,
    wanted: Protocol,
    opened: &Opened,
    stream: TcpStream,
) {
    let caller = End::socket(stream, Bytes::new());
    if let Ok(carry) = open(worker, authority, wanted, opened).await {
        carry.run(caller).await;
    }
}

/// Opens a connection to what `authority` names.
///
/// # Errors
/// What a caller of HTTP is told.
pub async fn open(
    worker: &Rc<Worker>,
    authority: &str,
    wanted: Protocol,
    opened: &Opened,
) -> Result<Carry, Rejection> {
    let shared = &worker.shared;
    let mut record = Record::begin(Direction::Outbound, &worker.nameless, Instant::now());
    record.method(METHOD);
    let Some(guard) = shared.in_progress.enter(REQUESTS_MAX) else {
        record.ends(Outcome::Overloaded);
        return Err(Rejection::full(REQUESTS_MAX));
    };
    if let Some(rejection) = in_circles(opened.hops, authority) {
        record.ends(Outcome::Broken);
        return Err(rejection);
    }
    // Only for the look: a connection that takes long must not keep a view that is long replaced.
    let found = find(&shared.view.load(), &shared.domain, authority, wanted);
    let (service, port) = found.inspect_err(|rejection| {
        debug!(authority, error = %rejection.details, "Connection refused.");
        record.ends(Outcome::NotFound);
    })?;
    let source = opened.source.map(|source| source.ip());
    let key = route::connection_key(&service.hash, source, opened.server_name.as_deref(), |kind| {
        opened.tlvs.first(kind)
    });
    let placed = Placed {
        service: &service,
        port: &port,
        authority,
        opened,
        hash: key.map(|key| service.placement.hash(&key)),
        id: worker.pool.with_rng(|rng| rng.u128(..)).to_be_bytes(),
        caller: None,
    };
    match placed.open(worker, &mut record).await {
        Ok(served) => Ok(placed.carry(worker, record, guard, served)),
        Err(NotServed { failure, .. }) => Err(Rejection::from_failure(failure, &service.name)),
    }
}

/// Serves one connection that a sidecar opened, or a flow where there are `datagrams`; its workload is `caller`.
pub async fn serve_sidecar(
    worker: &Rc<Worker>,
    sidecar: &Peer,
    caller: &str,
    mut exchange: Exchange,
    datagrams: Option<Datagrams>,
) {
    let shared = &worker.shared;
    let mut record = Record::begin(Direction::Outbound, &worker.nameless, Instant::now());
    record.method(METHOD);
    record.caller(Some(caller));
    let Some(guard) = shared.in_progress.enter(REQUESTS_MAX) else {
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
    let wanted = if datagrams.is_some() { Protocol::Udp } else { Protocol::Tcp };
    let found = find(&shared.view.load(), &shared.domain, head.authority, wanted);
    let Ok((service, port)) = found else {
        record.ends(Outcome::NotFound);
        return server::refuse(&mut exchange.sender, &mut exchange.receiver, Code::Unknown);
    };
    let opened = Opened {
        source: head.source,
        destination: head.destination,
        server_name: head.server_name.map(str::to_owned),
        hops: head.flow.hops,
        ..Opened::default()
    };
    let hash = hash_told(&service, &head.flow, || {
        let source = opened.source.map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), |source| source.ip());
        route::connection_key(&service.hash, Some(source), head.server_name, |_| None)
    });
    let placed = Placed {
        service: &service,
        port: &port,
        authority: head.authority,
        opened: &opened,
        hash,
        id: head.flow.request_id,
        caller: Some(caller),
    };
    let opening = async {
        tokio::select! {
            biased;
            served = placed.open(worker, &mut record) => Some(served),
            () = exchange.sender.stopped() => None,
        }
    };
    match opening.await {
        Some(Ok(served)) if server::accept(&mut exchange.sender).await.is_ok() => {
            placed.carry(worker, record, guard, served).run(behind(exchange, datagrams)).await;
        }
        Some(Err(NotServed { failure, .. })) => {
            server::refuse(&mut exchange.sender, &mut exchange.receiver, codec::code(failure));
        }
        // Whoever opened it is gone.
        Some(Ok(_)) | None => {}
    }
}

impl Placed<'_> {
    /// Makes attempts until one side serves it, or there is nothing more to try; `record` is told.
    async fn open(&self, worker: &Rc<Worker>, record: &mut Record) -> Result<Served, NotServed> {
        let Self { service, port: &Port { number: port, .. }, .. } = *self;
        let shared = &worker.shared;
        record.asks(METHOD, &service.name, &service.unanswered);
        let expired = Cell::new(false);
        let (started, activity) = (record.started(), Activity::new(record.started()));
        let facts = Facts {
            service,
            port,
            id: self.id,
            hash: self.hash,
            deadline: None,
            replayable: true,
            caller: self.caller,
            hops: self.opened.hops,
        };
        let flow = Flow {
            candidates: Clusters { worker, service, port, record },
            payload: ConnectionPayload {
                worker,
                facts,
                authority: self.authority,
                opened: self.opened,
                protocol: self.port.protocol,
                expired: &expired,
            },
            terms: terms(service),
            hash: self.hash,
            // Nothing of it is read before an endpoint has taken it.
            replayable: true,
            started,
            deadline: None,
            activity,
            clock: shared.clock,
            expired: &expired,
        };
        let served = flow.run().await;
        match served {
            Ok((served, node)) => {
                service.durations.observe(started.elapsed());
                record.answered_by(service.placement.cluster(node).as_str(), service.counters(node));
                if let Some(held) = &served.held {
                    record.endpoint(held.endpoint().id());
                }
                Ok(served)
            }
            Err(not) => {
                debug!(service = %service.name, failure = ?not.failure, "No endpoint takes a connection.");
                record.ends(not.failure.into());
                Err(not)
            }
        }
    }

    /// What goes on from here.
    fn carry(&self, worker: &Worker, record: Record, guard: InProgressGuard, served: Served) -> Carry {
        Carry {
            served,
            protocol: None,
            idle: match self.port.protocol {
                Protocol::Udp => self.service.timeout.idle_of_flow(),
                _ => self.service.timeout.idle_of_connection(),
            },
            idle_answered: Some(self.service.timeout.idle_of_answered_flow()),
            record,
            counted: Some(self.service.connections.begin()),
            ends: worker.shared.ends(),
            drops: worker.shared.drops.clone(),
            guard: Some(guard),
        }
    }
}

/// What comes in a tunnel behind the heads of a connection, or of a flow of datagrams.
pub fn behind(exchange: Exchange, datagrams: Option<Datagrams>) -> End {
    match datagrams {
        None => End::Tunnel(Box::new(exchange)),
        Some(datagrams) => End::Datagrams(Side::tunnel(exchange, datagrams)),
    }
}

/// A connection as a flow carries it: until it is taken it is but its head.
struct ConnectionPayload<'a> {
    worker: &'a Rc<Worker>,
    facts: Facts<'a>,
    authority: &'a str,
    opened: &'a Opened,
    protocol: Protocol,
    /// Whether the time that the policy gives is over.
    expired: &'a Cell<bool>,
}

impl<'a> Payload for ConnectionPayload<'a> {
    type Target = Target<'a>;
    type Reply = Served;

    async fn send(&self, target: Target<'a>, attempt: Attempt) -> Result<Served, Failure> {
        let to_endpoint = async |local| self.to_endpoint(local).await;
        let send = async |tunnel: &Tunnel| self.send_through(tunnel, attempt).await;
        tunnels::attempt(self.worker, target, self.facts.replayable, || true, to_endpoint, send).await
    }
}

impl ConnectionPayload<'_> {
    async fn to_endpoint(&self, local: &LocalService) -> Result<Served, Failure> {
        let Facts { service, port, hash, caller, .. } = self.facts;
        let port = local.port(port).ok_or(Failure::Unavailable)?;
        let header = match port.0.proxy_header {
            true => self.opened.proxy_header(caller),
            false => Vec::new(),
        };
        let way = self.worker.way(port, hash, self.expired);
        if self.protocol == Protocol::Udp {
            return dial_datagrams(&way, service.timeout.connect).await;
        }
        dial(&way, service.timeout.connect, &header).await
    }

    /// Opens it through `tunnel`, and waits until an endpoint has taken it.
    async fn send_through(&self, tunnel: &Tunnel, attempt: Attempt) -> Result<Served, Failure> {
        let flow = self.protocol == Protocol::Udp;
        let mut first = tunnel::begin(if flow { StreamKind::Datagrams } else { StreamKind::Connection });
        let head = ConnectionHead {
            flow: self.facts.head(attempt),
            authority: self.authority,
            source: self.opened.source,
            destination: self.opened.destination,
            server_name: self.opened.server_name.as_deref(),
        };
        put_frame(&mut first, FrameKind::Head, |out| head.encode(out)).map_err(|_| Failure::TooLarge)?;
        let opened = match flow {
            false => tunnel.open(first.into(), false).await.map(|exchange| (exchange, None)),
            true => tunnel.open_datagrams(first.into()).await.map(|(e, datagrams)| (e, Some(datagrams))),
        };
        let (mut exchange, datagrams) = opened.map_err(|error| codec::failed(tunnel, &error))?;
        match exchange.receiver.frame().await {
            Ok(Some(Frame::Head(head))) if codec::answer(&head).is_some() => {
                Ok(Served { end: behind(exchange, datagrams), held: None })
            }
            Ok(_) => Err(Failure::Reset),
            Err(error) => Err(codec::failed(tunnel, &error)),
        }
    }
}
