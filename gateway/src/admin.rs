//! The admin port: `/live`, `/ready`, `/metrics`, `/v1/status`, `/v1/ring`, `/v1/ring/locate`,
//! `/v1/explain`, `/v1/check`, `/v1/registry`. Reads only.

pub(crate) mod check;
pub(crate) mod explain;
pub mod objects;
pub mod pool;
pub(crate) mod registry;
pub mod remote;
mod ring;
pub mod socket;
mod status;
mod store;

pub(crate) use status::{ConditionStatus, Peer, ServiceStatus, condition, peer, service};
pub use store::StartedWithout;

use std::sync::Arc;

use ::registry::election::Standing;
use ::registry::members::Members;
use ::registry::model::Gateway;
use ::registry::owned::Owned;
use ::registry::store::AnyStore;
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::get;
use serde::Serialize;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::sync::Knowledge;
use crate::worker::Shared;

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
/// When the listener fails.
pub async fn serve(
    admin: Admin,
    listener: tokio::net::TcpListener,
    drained: CancellationToken,
) -> std::io::Result<()> {
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
    axum::serve(listener, routes).with_graceful_shutdown(drained.cancelled_owned()).await
}

/// Serves the admin port of a process that cannot start yet: alive, and not ready for this reason, until `over`.
///
/// # Errors
/// When the listener fails.
pub async fn serve_waiting(
    why: &'static str,
    listener: tokio::net::TcpListener,
    over: CancellationToken,
) -> std::io::Result<()> {
    let routes = Router::new()
        .route("/live", get(|| async { "live\n" }))
        .fallback(move || async move { (StatusCode::SERVICE_UNAVAILABLE, why) });
    axum::serve(listener, routes).with_graceful_shutdown(over.cancelled_owned()).await
}

/// What `/ready` answers: whether the process takes requests.
pub(crate) fn readiness(shared: &Shared) -> (StatusCode, &'static str) {
    if shared.stop.is_cancelled() {
        (StatusCode::SERVICE_UNAVAILABLE, "draining\n")
    } else {
        (StatusCode::OK, "ready\n")
    }
}

/// What `/metrics` answers.
pub(crate) fn exposition(shared: &Shared) -> Response {
    match shared.metrics.encode() {
        Ok(text) => {
            ([(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], text)
                .into_response()
        }
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

/// Ready: sockets are bound and the catalog is loaded (both happen before this port answers), and it does not drain.
/// Peers do not enter: a gateway whose peers are all gone still serves its own cluster.
async fn ready(State(admin): State<Admin>) -> (StatusCode, &'static str) {
    readiness(&admin.shared)
}

async fn metrics(State(admin): State<Admin>) -> Response {
    status::refresh_gauges(&admin);
    exposition(&admin.shared)
}

async fn status(State(admin): State<Admin>) -> Json<status::Status> {
    Json(status::of(&admin))
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
