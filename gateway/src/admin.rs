//! The admin port: `/live`, `/ready`, `/metrics`, `/v1/status`, `/v1/ring`, `/v1/ring/locate`,
//! `/v1/explain`, `/v1/check`, `/v1/registry`. Reads only.

pub mod asked;
pub(crate) mod check;
pub(crate) mod explain;
pub mod objects;
pub mod pool;
pub mod port;
pub(crate) mod registry;
pub mod remote;
mod ring;
pub mod socket;
mod status;
mod store;

pub(crate) use status::{condition, peer, service};
pub use store::StartedWithout;

use std::net::TcpListener;
use std::sync::Arc;

use ::registry::model::Gateway;
use ::registry::store::AnyStore;
use ::registry::tasks::election::Standing;
use ::registry::tasks::members::Members;
use ::registry::tasks::owned::Owned;
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::get;
use serde::Serialize;
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;

use self::port::Hosts;
use crate::control::sync::Knowledge;
use crate::proxy::worker::Shared;

/// What the admin port shows.
#[derive(Clone, Debug)]
pub struct Admin {
    /// The process as its manifest declares it.
    pub gateway: Arc<Gateway>,
    /// The data plane.
    pub shared: Arc<Shared>,
    /// The control plane.
    pub knowledge: Arc<Knowledge>,
    /// The registry.
    pub registry: Owned<AnyStore>,
    /// How we stand among the gateways of our cluster.
    pub standing: watch::Receiver<Standing>,
    /// Those gateways.
    pub members: watch::Receiver<Arc<Members>>,
    /// Set if the registry did not answer at the start.
    pub started_without: Option<StartedWithout>,
    /// The random number of this start.
    pub boot: u64,
}

/// Serves the admin port until the process has drained.
///
/// # Errors
/// As [`port::serve`].
pub async fn serve(admin: Admin, listener: TcpListener, drained: CancellationToken) -> std::io::Result<()> {
    let hosts = Hosts::new(&admin.gateway.listen.admin_hosts, "Gateway");
    let routes = Router::new()
        .route("/live", get(|| async { "live\n" }))
        .route("/ready", get(ready))
        .route("/metrics", get(metrics))
        .route("/v1/status", get(status))
        .route("/v1/ring", get(ring::ring))
        .route("/v1/ring/locate", get(ring::locate))
        .route("/v1/explain", get(explain::answer))
        .route("/v1/check", get(check::answer))
        .route("/v1/registry", get(registry::dump))
        .with_state(admin);
    port::serve(routes, listener, hosts, drained).await
}

/// Serves the admin port of a process that cannot start yet: alive, and not ready for this reason, until `over`.
///
/// # Errors
/// As [`port::serve`].
pub async fn serve_waiting(
    why: &'static str,
    listener: TcpListener,
    hosts: Hosts,
    over: CancellationToken,
) -> std::io::Result<()> {
    let routes = Router::new()
        .route("/live", get(|| async { "live\n" }))
        .fallback(move || async move { (StatusCode::SERVICE_UNAVAILABLE, why) });
    port::serve(routes, listener, hosts, over).await
}

/// What `/ready` answers: whether the process takes requests.
pub(crate) fn readiness(shared: &Shared) -> (StatusCode, &'static str) {
    if shared.stop.is_cancelled() {
        (StatusCode::SERVICE_UNAVAILABLE, "draining\n")
    } else {
        (StatusCode::OK, "ready\n")
    }
}

/// What `/metrics` answers, after `refresh` has set what is only looked at when somebody asks. None of it keeps this thread.
pub(crate) async fn exposition(shared: Arc<Shared>, refresh: impl FnOnce() + Send + 'static) -> Response {
    match spawn_blocking(move || shared.metrics.encode(refresh)).await {
        Ok(Ok(text)) => {
            ([(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], text)
                .into_response()
        }
        Ok(Err(error)) => problem(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
        Err(panic) => problem(StatusCode::INTERNAL_SERVER_ERROR, panic.to_string()),
    }
}

/// The JSON of what `find` finds. Of a large mesh it takes a while, and none of it keeps this thread.
pub(crate) async fn found<T: Serialize>(find: impl FnOnce() -> T + Send + 'static) -> Response {
    match spawn_blocking(move || serde_json::to_vec(&find())).await {
        Ok(Ok(json)) => ([(header::CONTENT_TYPE, "application/json")], json).into_response(),
        Ok(Err(error)) => problem(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
        Err(panic) => problem(StatusCode::INTERNAL_SERVER_ERROR, panic.to_string()),
    }
}

/// Ready: sockets are bound and the catalog is loaded (both happen before this port answers), and it does not drain.
/// Peers do not enter: a gateway whose peers are all gone still serves its own cluster.
async fn ready(State(admin): State<Admin>) -> (StatusCode, &'static str) {
    readiness(&admin.shared)
}

async fn metrics(State(admin): State<Admin>) -> Response {
    exposition(admin.shared.clone(), move || status::refresh_gauges(&admin)).await
}

async fn status(State(admin): State<Admin>) -> Response {
    found(move || status::of(&admin)).await
}

/// Why a question has no answer, as programs read it.
#[derive(Debug, Serialize)]
struct Problem {
    error: String,
}

/// An answer that is none, and why.
fn problem(status: StatusCode, error: String) -> Response {
    (status, Json(Problem { error })).into_response()
}
