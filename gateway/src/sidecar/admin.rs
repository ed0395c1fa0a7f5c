//! The admin port of a sidecar: `/live`, `/ready`, `/metrics`, `/v1/status`. Reads only.

use std::net::TcpListener;
use std::sync::Arc;

use admin_api::status::Sidecar as Document;
use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::get;
use registry::model::{Condition, Sidecar};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::admin::port::{self, Hosts};
use crate::admin::{condition, exposition, found, peer, readiness, service};
use crate::proxy::worker::Shared;

/// What it shows.
#[derive(Clone, Debug)]
pub struct Admin {
    /// The process as its manifest declares it.
    pub sidecar: Arc<Sidecar>,
    /// The data plane.
    pub shared: Arc<Shared>,
    /// What does not hold of its files.
    pub conditions: watch::Receiver<Vec<Condition>>,
}

/// Serves the admin port until the process has drained.
///
/// # Errors
/// As [`port::serve`].
pub async fn serve(admin: Admin, listener: TcpListener, drained: CancellationToken) -> std::io::Result<()> {
    let hosts = Hosts::new(&admin.sidecar.admin_hosts, "Sidecar");
    let routes = Router::new()
        .route("/live", get(|| async { "live\n" }))
        .route("/ready", get(ready))
        .route("/metrics", get(metrics))
        .route("/v1/status", get(status))
        .with_state(admin);
    port::serve(routes, listener, hosts, drained).await
}

/// Ready: sockets are bound, and it does not drain. Gateways do not enter: what is local is served without them.
async fn ready(State(admin): State<Admin>) -> (StatusCode, &'static str) {
    readiness(&admin.shared)
}

async fn metrics(State(admin): State<Admin>) -> Response {
    exposition(admin.shared, || {}).await
}

async fn status(State(admin): State<Admin>) -> Response {
    found(move || of(admin)).await
}

fn of(admin: Admin) -> Document {
    let Admin { sidecar, shared, conditions } = admin;
    let view = shared.view.load();
    let now = shared.clock.now();
    let cluster = shared.peers.get(&sidecar.cluster);
    let gateways = cluster.iter().flat_map(|cluster| cluster.gateways().to_vec());
    Document {
        version: env!("CARGO_PKG_VERSION").into(),
        cluster: sidecar.cluster.to_string(),
        sidecar: sidecar.id.clone(),
        identity: shared.local.borrow().credentials.identity().to_string(),
        started_unix_ms: shared.clock.started_unix_ms(),
        ready: !shared.stop.is_cancelled(),
        requests_in_progress: shared.in_progress.count(),
        gateways: gateways.map(|gateway| peer(&gateway)).collect(),
        last_error: cluster.as_ref().and_then(|cluster| cluster.last_error()),
        services: view.services().into_iter().map(|s| service(s, &view, now)).collect(),
        conditions: conditions.borrow().iter().map(condition).collect(),
    }
}
