//! The admin port: `/live`, `/ready`, `/metrics`, `/v1/status`, `/v1/ring/locate`. Reads only.

mod status;

use std::sync::Arc;

use axum::Router;
use axum::extract::{Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::get;
use registry::model::ServiceName;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use crate::sync::Knowledge;
use crate::worker::Shared;

/// What the admin port shows.
#[derive(Clone, Debug)]
pub struct Admin {
    /// The data plane.
    pub shared: Arc<Shared>,
    /// The control plane.
    pub knowledge: Arc<Knowledge>,
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
        .route("/v1/ring/locate", get(locate))
        .with_state(admin);
    axum::serve(listener, routes).with_graceful_shutdown(drained.cancelled_owned()).await
}

/// Ready: sockets are bound and the catalog is loaded (both happen before this port answers), and it does not drain.
/// Peers do not enter: a gateway whose peers are all gone still serves its own cluster.
async fn ready(State(admin): State<Admin>) -> (StatusCode, &'static str) {
    if admin.shared.stop.is_cancelled() {
        (StatusCode::SERVICE_UNAVAILABLE, "draining\n")
    } else {
        (StatusCode::OK, "ready\n")
    }
}

async fn metrics(State(admin): State<Admin>) -> Response {
    status::refresh_gauges(&admin);
    match admin.shared.metrics.encode() {
        Ok(text) => {
            ([(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], text)
                .into_response()
        }
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

async fn status(State(admin): State<Admin>) -> Json<status::Status> {
    Json(status::of(&admin))
}

#[derive(Debug, Deserialize)]
struct LocateQuery {
    service: String,
    key: String,
}

/// Where a key is placed, whatever the health of its clusters.
#[derive(Debug, Serialize)]
struct Located {
    service: String,
    key: String,
    hash: String,
    ring: String,
    generation: u64,
    owner: Option<String>,
    near: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Problem {
    error: String,
}

async fn locate(State(admin): State<Admin>, Query(query): Query<LocateQuery>) -> Response {
    let problem = |status: StatusCode, error: String| (status, Json(Problem { error })).into_response();
    let (namespace, name) = query.service.split_once('/').unwrap_or(("default", &query.service));
    let name = match ServiceName::new(namespace, name) {
        Ok(name) => name,
        Err(error) => {
            return problem(
                StatusCode::BAD_REQUEST,
                format!("{error}; a service is asked for as `namespace/name`"),
            );
        }
    };
    let view = admin.shared.view.load();
    let Some(service) = view.union_of(&name) else {
        return problem(
            StatusCode::NOT_FOUND,
            format!("{name} is neither served nor imported into the union here"),
        );
    };
    let placement = &service.placement;
    let hash = placement.hash(query.key.as_bytes());
    Json(Located {
        service: name.to_string(),
        hash: format!("{hash:016x}"),
        ring: format!("{:016x}", placement.ring().fingerprint()),
        generation: placement.generation(),
        owner: placement.owner(hash).map(ToString::to_string),
        near: placement.ring().near(hash).map(|node| placement.cluster(node).to_string()).collect(),
        key: query.key,
    })
    .into_response()
}
