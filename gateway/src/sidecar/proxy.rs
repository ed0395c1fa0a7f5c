//! The front of a sidecar: an explicit HTTP proxy (RFC 9110, section 3.7), and a listener for requests that name their
//! host.

use std::rc::Rc;

use http::Request;
use http1::server::Reply;
use tokio::time::Instant;

use super::Names;
use super::passthrough;
use crate::http::body::Incoming;
use crate::http::message;
use crate::proxy::error::{ProxyError, Rejection};
use crate::proxy::listener::Front;
use crate::proxy::outbound::{self, Caller, Outgoing};
use crate::proxy::worker::Worker;
use crate::telemetry::metrics::{Direction, Outcome};
use crate::telemetry::record::Record;
use policy::route::{self, NotMesh};

/// The front of one sidecar.
#[derive(Debug)]
pub struct Proxy {
    /// The thread that it runs on.
    pub worker: Rc<Worker>,
    /// What names mean.
    pub names: Rc<Names>,
    /// Whether what is no name of the mesh is forwarded.
    pub passthrough: bool,
}

/// What is to be done with a request.
enum Way {
    /// No gateway has said what its name means.
    Untold,
    /// It names something in the mesh, or nothing that could be named.
    Mesh,
    /// It is none of the mesh's business.
    Outside,
}

impl Front for Rc<Proxy> {
    fn worker(&self) -> &Rc<Worker> {
        &self.worker
    }

    async fn learn(&self, authority: &str) -> bool {
        !matches!(self.way(authority).await, Way::Untold)
    }

    async fn answer(&self, request: Request<Incoming>, caller: Caller<'_>) -> Reply<Outgoing> {
        // What is malformed is refused by whoever reads it again.
        let authority = message::authority(request.uri(), request.version(), request.headers());
        let authority = authority.unwrap_or_default();
        let reject = |error, outcome, details: String| {
            let started = Instant::now();
            let mut record = Record::begin(Direction::Outbound, &self.worker.nameless, started);
            record.method(request.method().as_str());
            record.ends(outcome);
            outbound::reject(
                &self.worker,
                outbound::is_grpc(&request),
                Rejection::new(error, details),
                record,
            )
        };
        match self.way(&authority).await {
            Way::Untold => {
                let details =
                    format!("cannot resolve `{authority}`: no gateway has answered; {}", self.last_error());
                reject(ProxyError::DestinationUnavailable, Outcome::Unavailable, details)
            }
            Way::Mesh => outbound::serve(&self.worker, request, caller).await,
            Way::Outside if !self.passthrough => {
                let details = format!(
                    "`{authority}` is no name of the mesh, and this sidecar forwards nothing else (`spec.passthrough`)"
                );
                reject(ProxyError::HttpRequestDenied, Outcome::Denied, details)
            }
            Way::Outside if outbound::is_connect(&request) => {
                passthrough::connect(&self.worker, request, &authority).await
            }
            Way::Outside => passthrough::forward(&self.worker, request, caller).await,
        }
    }
}

impl Proxy {
    fn last_error(&self) -> String {
        let clusters = self.worker.shared.peers.iter();
        clusters.filter_map(|cluster| cluster.last_error()).next().unwrap_or_else(|| "it was asked".into())
    }

    /// Tells names of the mesh from others, and learns what a name means that was not used before.
    async fn way(&self, authority: &str) -> Way {
        match route::parse(authority, &self.worker.shared.domain) {
            Ok(target) => {
                if self.names.learn(&target).await {
                    Way::Mesh
                } else {
                    Way::Untold
                }
            }
            Err(NotMesh::Domain) => Way::Outside,
            Err(_) => Way::Mesh,
        }
    }
}
