//! `/v1/status`: everything that this gateway knows of itself, its peers and its services, of one moment.

use std::path::PathBuf;

use admin_api::status::{Condition, Endpoint, Link, Member, Path, Peer, Status, Tunnel};
use registry::base::time::Tick;
use registry::model::{Gateway, Mode, PeerImports};
use tunnel::Kind;

use super::Admin;
use super::store;
use crate::base::clock::Clock;
use crate::control::sync::{conditions, other_rings, told_ring};
use crate::peers::{PeerCluster, PeerGateway};
use crate::view::{LocalService, Server, Service, View};
use policy::balance::Eligibility;
use policy::health::State;

pub(super) fn of(admin: &Admin) -> Status {
    let shared = &admin.shared;
    let view = shared.view.load();
    let now = shared.clock.now();
    let gateways = shared.peers.iter().flat_map(|cluster| cluster.gateways().to_vec());
    Status {
        version: env!("CARGO_PKG_VERSION").into(),
        cluster: admin.gateway.cluster.to_string(),
        gateway: admin.gateway.id.clone(),
        region: admin.gateway.region.clone(),
        uid: admin.knowledge.uid().iter().map(|b| format!("{b:02x}")).collect(),
        boot: format!("{:016x}", admin.boot),
        admin_socket: admin_socket(&admin.gateway),
        started_unix_ms: shared.clock.started_unix_ms(),
        ready: !shared.stop.is_cancelled(),
        requests_in_progress: shared.in_progress.count(),
        registry: Some(store::registry(admin)),
        peers: gateways.map(|gateway| peer(&gateway)).collect(),
        links: shared.peers.iter().map(|cluster| link(admin, &cluster)).collect(),
        services: view.services().into_iter().map(|s| service(s, &view, now)).collect(),
        conditions: conditions(shared, &view, now).iter().map(condition).collect(),
    }
}

/// The admin socket, as a process with another working directory finds it.
fn admin_socket(gateway: &Gateway) -> PathBuf {
    let path = gateway.state_dir.join(super::socket::FILE);
    std::path::absolute(&path).unwrap_or(path)
}

/// Sets the gauges that are only looked at when somebody asks.
pub(super) fn refresh_gauges(admin: &Admin) {
    admin.shared.metrics.set_registry_up(admin.standing.borrow().unknown_since().is_none());
    let view = admin.shared.view.load();
    let differing = other_rings(&view, admin.shared.clock.now());
    admin.shared.metrics.set_rings_differing(differing.map(|(service, peer, _)| (&service.name, peer)));
    for cluster in admin.shared.peers.iter() {
        let name = &cluster.name;
        let gateways = cluster.gateways();
        let open = |kind: Kind| {
            let open: usize = gateways.iter().map(|g| g.count_open(kind)).sum();
            (kind.as_str(), i64::try_from(open).unwrap_or(i64::MAX))
        };
        let tunnels = [Kind::Quic, Kind::Tcp].map(open);
        let rtt = gateways
            .iter()
            .filter(|g| g.state() != State::Down)
            .map(|g| g.rtt().as_secs_f64())
            .reduce(f64::min);
        let imports = admin.knowledge.imports(name);
        let age = imports
            .as_deref()
            .and_then(|i| age_seconds(i, &admin.shared.clock))
            .and_then(|age| i64::try_from(age).ok());
        admin.shared.metrics.set_peer(name.as_str(), tunnels, rtt, age);
        for (over, count) in cluster.over.counts().filter(|(_, count)| *count > 0) {
            admin.shared.metrics.set_over_budget(name.as_str(), over.as_str(), count);
        }
    }
}

fn age_seconds(imports: &PeerImports, clock: &Clock) -> Option<u64> {
    (imports.synced_unix_ms > 0).then(|| clock.unix_ms().saturating_sub(imports.synced_unix_ms) / 1000)
}

fn path(path: &tunnel::Path, rate_max: Option<u64>) -> Path {
    let mbit = |bits: u64| bits as f64 / 1e6;
    Path {
        congestion: path.congestion.as_str().into(),
        rate_mbit: mbit(path.rate),
        max_rate_mbit: rate_max.map(mbit),
        window_bytes: path.window,
        loss_pct: path.loss * 100.0,
        copies: path.copying,
    }
}

pub(crate) fn peer(gateway: &PeerGateway) -> Peer {
    let mut tunnels = gateway.tunnels().to_vec();
    tunnels.sort_by_key(|tunnel| (tunnel.carrier(), tunnel.worker()));
    let tunnels = tunnels.iter().map(|tunnel| Tunnel {
        carrier: tunnel.carrier().as_str().into(),
        address: tunnel.remote_address().to_string(),
        rtt_ms: Some(gateway.rtt().as_secs_f64() * 1000.0),
        dialled_by: if tunnel.dialled() { "us" } else { "peer" }.into(),
        worker: tunnel.worker(),
        peer_worker: tunnel.peer().hello.worker,
        outstanding: tunnel.outstanding(),
        serving: tunnel.serving(),
        path: tunnel.path().map(|known| path(&known, tunnel.rate_max())),
    });
    Peer {
        cluster: gateway.cluster.to_string(),
        gateway: gateway.id.clone(),
        state: gateway.state().as_str().into(),
        since_unix_ms: gateway.since_unix_ms(),
        reason: gateway.reason(),
        tunnels: tunnels.collect(),
    }
}

fn link(admin: &Admin, cluster: &PeerCluster) -> Link {
    let imports = admin.knowledge.imports(&cluster.name);
    let imports = imports.as_deref();
    let gateways = cluster.gateways();
    let state = match gateways.iter().map(|g| g.state()).min_by_key(|s| *s as u8) {
        None => "connecting",
        Some(state) => state.as_str(),
    };
    Link {
        cluster: cluster.name.to_string(),
        addresses: cluster.link().addresses.iter().map(ToString::to_string).collect(),
        state: state.into(),
        last_error: cluster.last_error(),
        imported: imports.map_or(0, |i| i.services.len()),
        epoch: format!("{:016x}", imports.map_or(0, |i| i.epoch)),
        revision: imports.map_or(0, |i| i.revision),
        age_seconds: imports.and_then(|i| age_seconds(i, &admin.shared.clock)),
    }
}

pub(crate) fn service(service: &Service, view: &View, now: Tick) -> admin_api::status::Service {
    let placement = &service.placement;
    let port = service.ports.first().map_or(0, |p| p.number);
    let local = view.local(&service.name.namespace, &service.name.name);
    let members = placement.nodes().map(|(node, member)| Member {
        cluster: member.cluster.to_string(),
        region: member.region.clone(),
        weight: member.weight,
        serves: !matches!(service.server(node), Server::Unreachable),
        state: service.availability(node, port, now).as_str().into(),
        ready: service.capacity(node, port, now),
        ring: told_ring(service, node, now).map(|ring| format!("{ring:016x}")),
    });
    admin_api::status::Service {
        name: service.name.to_string(),
        local: local.is_some(),
        generation: placement.generation(),
        mode: mode(placement.mode()).into(),
        contract_from: service.contract_from.as_ref().map(ToString::to_string),
        members: members.collect(),
        ring: format!("{:016x}", placement.ring().fingerprint()),
        endpoints: local.map_or_else(Vec::new, |local| endpoints(local, now)),
    }
}

/// A mode as manifests write it.
pub(super) fn mode(mode: Mode) -> &'static str {
    match mode {
        Mode::LocalFirst => "local-first",
        Mode::Sharded => "sharded",
    }
}

fn endpoints(local: &LocalService, now: Tick) -> Vec<Endpoint> {
    let all = local.ports.iter().flat_map(|(_, endpoints)| endpoints.iter());
    all.map(|endpoint| Endpoint {
        id: endpoint.id().to_owned(),
        address: endpoint.address().to_string(),
        ready: endpoint.eligibility(now) == Eligibility::Eligible,
        state: endpoint.word(now).into(),
        in_flight: endpoint.in_flight(),
    })
    .collect()
}

pub(crate) fn condition(condition: &registry::model::Condition) -> Condition {
    Condition {
        object: condition.object.to_string(),
        kind: condition.kind().to_string().into(),
        status: condition.status(),
        reason: condition.reason.to_string().into(),
        message: condition.message.clone(),
    }
}
