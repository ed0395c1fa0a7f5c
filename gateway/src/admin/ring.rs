//! `/v1/ring` and `/v1/ring/locate`: the ring of clusters that a service is placed by, and where it puts a key.

use std::sync::Arc;

use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Json, Response};
use registry::model::ServiceName;
use serde::{Deserialize, Serialize};

use super::status::mode;
use super::{Admin, problem};
use crate::control::sync::told_ring;
use crate::view::{Service, View};

#[derive(Debug, Deserialize)]
pub(super) struct RingQuery {
    service: String,
}

#[derive(Debug, Deserialize)]
pub(super) struct LocateQuery {
    service: String,
    key: String,
}

/// All that a ring is a function of, and what peers say theirs is.
#[derive(Debug, Serialize)]
struct Ring {
    service: String,
    /// Fingerprint.
    ring: String,
    generation: u64,
    mode: &'static str,
    contract_from: Option<String>,
    seed: u64,
    members: Vec<Member>,
}

#[derive(Debug, Serialize)]
struct Member {
    cluster: String,
    region: String,
    weight: u32,
    /// Fingerprint of the ring that it places by, if it told.
    ring: Option<String>,
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

/// Answers `/v1/ring`.
pub(super) async fn ring(State(admin): State<Admin>, Query(query): Query<RingQuery>) -> Response {
    let service = match find(&admin.shared.view.load(), &query.service) {
        Ok(service) => service,
        Err(refused) => return refused.into_response(),
    };
    let (placement, now) = (&service.placement, admin.shared.clock.now());
    let members = placement.nodes().map(|(node, member)| Member {
        cluster: member.cluster.to_string(),
        region: member.region.clone(),
        weight: member.weight,
        ring: told_ring(&service, node, now).map(hex),
    });
    Json(Ring {
        service: service.name.to_string(),
        ring: hex(placement.ring().fingerprint()),
        generation: placement.generation(),
        mode: mode(placement.mode()),
        contract_from: service.contract_from.as_ref().map(ToString::to_string),
        seed: placement.seed(),
        members: members.collect(),
    })
    .into_response()
}

/// Answers `/v1/ring/locate`.
pub(super) async fn locate(State(admin): State<Admin>, Query(query): Query<LocateQuery>) -> Response {
    let service = match find(&admin.shared.view.load(), &query.service) {
        Ok(service) => service,
        Err(refused) => return refused.into_response(),
    };
    let placement = &service.placement;
    let hash = placement.hash(query.key.as_bytes());
    Json(Located {
        service: service.name.to_string(),
        hash: hex(hash),
        ring: hex(placement.ring().fingerprint()),
        generation: placement.generation(),
        owner: placement.owner(hash).map(ToString::to_string),
        near: placement.ring().near(hash).map(|node| placement.cluster(node).to_string()).collect(),
        key: query.key,
    })
    .into_response()
}

/// Why a service cannot be shown.
struct Refused(StatusCode, String);

impl Refused {
    fn into_response(self) -> Response {
        problem(self.0, self.1)
    }
}

/// The union name that is asked for as `namespace/name`.
fn find(view: &View, service: &str) -> Result<Arc<Service>, Refused> {
    let (namespace, name) = service.split_once('/').unwrap_or(("default", service));
    let name = ServiceName::new(namespace, name).map_err(|error| {
        Refused(StatusCode::BAD_REQUEST, format!("{error}; a service is asked for as `namespace/name`"))
    })?;
    let missing = || {
        Refused(StatusCode::NOT_FOUND, format!("{name} is neither served nor imported into the union here"))
    };
    view.union_of(&name).cloned().ok_or_else(missing)
}

fn hex(word: u64) -> String {
    format!("{word:016x}")
}
