//! The access log: a line for each request, once it is over. Off unless asked for (`RINGWAY_LOG=info,ringway::access=debug`);
//! then it tells who asked for what and how it ended, never paths, queries, fields or bodies.

use registry::model::ServiceName;
use tokio::time::Instant;
use tracing::Level;

use crate::metrics::{Direction, Outcome, RequestCounters};

/// The log target of every line.
const TARGET: &str = "ringway::access";

/// One request, from its start.
#[derive(Debug)]
pub struct Line {
    direction: Direction,
    method: String,
    service: String,
    caller: Option<String>,
    started: Instant,
    /// The cluster that asks, or the one that answered.
    peer: String,
    /// The status of the answer, once there is one.
    status: Option<u16>,
}

impl Line {
    /// Begins a line; none while nobody listens, which costs a look at an atomic.
    ///
    /// `caller` is the SPIFFE ID of the workload that asks, as far as it is proven: by its certificate, or by its
    /// gateway's word within its own cluster.
    pub fn begin(
        direction: Direction,
        method: &str,
        service: &ServiceName,
        caller: Option<&str>,
        started: Instant,
    ) -> Option<Box<Self>> {
        tracing::enabled!(target: TARGET, Level::DEBUG).then(|| {
            Box::new(Self {
                direction,
                method: method.into(),
                service: service.to_string(),
                caller: caller.map(Into::into),
                started,
                peer: String::new(),
                status: None,
            })
        })
    }

    /// Names the other cluster.
    pub fn peer(&mut self, peer: &str) {
        self.peer = peer.into();
    }

    /// The head of the answer.
    pub fn status(&mut self, status: u16) {
        self.status = Some(status);
    }

    /// The request is over.
    pub fn end(self, outcome: Outcome) {
        let Self { direction, method, service, caller, started, peer, status } = self;
        let (direction, outcome) = (direction.as_str(), outcome.as_str());
        let caller = caller.as_deref().unwrap_or("anonymous");
        let milliseconds = started.elapsed().as_secs_f64() * 1000.0;
        tracing::debug!(
            target: TARGET, direction, method, service, peer, caller, status, outcome, milliseconds, "Request."
        );
    }
}

/// Counts a request when it is over, however it ends, and logs it.
#[derive(Debug)]
pub struct Counted {
    /// Where; none for a peer that no link knows.
    pub counters: Option<RequestCounters>,
    /// Its line in the log, if somebody listens.
    pub line: Option<Box<Line>>,
    /// How it ended, as far as that is known: what is dropped before was given up by its caller.
    pub outcome: Outcome,
}

impl Counted {
    /// A request that goes on.
    pub fn begin(counters: Option<RequestCounters>, line: Option<Box<Line>>) -> Self {
        Self { counters, line, outcome: Outcome::Cancelled }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        if let Some(counters) = &self.counters {
            counters.ended(self.outcome);
        }
        if let Some(line) = self.line.take() {
            line.end(self.outcome);
        }
    }
}
