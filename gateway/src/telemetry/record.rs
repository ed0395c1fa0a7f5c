//! The record of one exchange: made first, closed last, however the exchange ends. Metrics and the access log come from
//! it and from nowhere else, so no early return escapes them.
//!
//! The access log is off unless asked for (`RINGWAY_LOG=info,ringway::access=debug`); then it tells who asked for what, how
//! it ended and what was tried, never paths, queries, fields or bodies.

use std::cell::RefCell;
use std::fmt;
use std::time::Duration;

use registry::model::ServiceName;
use tokio::time::Instant;
use tracing::Level;

use crate::base::clock::Activity;
use crate::telemetry::metrics::{AttemptKind, Direction, Outcome, RequestCounters};
use policy::retry::Failure;

/// The log target of every access line.
const TARGET: &str = "ringway::access";
/// Attempts that a line tells of; a flow makes no more.
const ATTEMPTS_MAX: usize = 16;

/// One exchange, from its first byte. Counted and logged when it is dropped.
#[derive(Debug)]
pub struct Record {
    direction: Direction,
    started: Instant,
    counters: RequestCounters,
    outcome: Outcome,
    /// Bytes of the answer's body that went on.
    sent: u64,
    /// What the access log tells; none while nobody listens.
    details: Option<Box<Details>>,
}

#[derive(Debug, Default)]
struct Details {
    method: String,
    service: String,
    caller: Option<String>,
    /// The cluster that asks, or the one that answered.
    peer: String,
    /// The endpoint that answered, where it is one of this cluster.
    endpoint: String,
    /// The status of the answer, once there is one.
    status: Option<u16>,
    /// Knows the bytes of the request's body that have come.
    activity: Option<Activity>,
    attempts: RefCell<Vec<Tried>>,
}

/// One attempt.
#[derive(Debug)]
struct Tried {
    cluster: String,
    kind: AttemptKind,
    started: Instant,
    /// How long it took and what came of it; `None`: it was cancelled, or is under way.
    ended: Option<(Duration, Option<Failure>)>,
}

/// The attempt of this number, for [`Record::attempt_ended`].
#[derive(Clone, Copy, Debug, Default)]
pub struct AttemptId(usize);

impl Record {
    /// Begins one; counted by `counters` as [`Outcome::Cancelled`] until more is known, for what is dropped before was
    /// given up by its caller. Costs a look at an atomic, and nothing more while nobody listens to the access log.
    pub fn begin(direction: Direction, counters: &RequestCounters, started: Instant) -> Self {
        let listened = tracing::enabled!(target: TARGET, Level::DEBUG);
        Self {
            direction,
            started,
            counters: counters.clone(),
            outcome: Outcome::Cancelled,
            sent: 0,
            details: listened.then(Box::default),
        }
    }

    /// When it began.
    pub fn started(&self) -> Instant {
        self.started
    }

    /// What is asked of which service; counted by `counters` from now on.
    pub fn asks(&mut self, method: &str, service: &ServiceName, counters: &RequestCounters) {
        self.counters = counters.clone();
        if let Some(details) = &mut self.details {
            details.method = method.into();
            details.service = service.to_string();
        }
    }

    /// Counted by `counters` from now on.
    pub fn counted_by(&mut self, counters: &RequestCounters) {
        self.counters = counters.clone();
    }

    /// What is asked, of no service that is known.
    pub fn method(&mut self, method: &str) {
        if let Some(details) = &mut self.details {
            details.method = method.into();
        }
    }

    /// The SPIFFE ID of the workload that asks, as far as it is proven: by its certificate, or by its gateway's word
    /// within its own cluster.
    pub fn caller(&mut self, caller: Option<&str>) {
        if let (Some(details), Some(caller)) = (&mut self.details, caller) {
            details.caller = Some(caller.into());
        }
    }

    /// The other cluster: the one that asks, or the one that answered.
    pub fn peer(&mut self, peer: &str) {
        if let Some(details) = &mut self.details {
            details.peer = peer.into();
        }
    }

    /// The cluster that answered; counted by `counters` from now on.
    pub fn answered_by(&mut self, peer: &str, counters: &RequestCounters) {
        self.counters = counters.clone();
        self.peer(peer);
    }

    /// The endpoint of this cluster that answered.
    pub fn endpoint(&mut self, endpoint: &str) {
        if let Some(details) = &mut self.details {
            details.endpoint = endpoint.into();
        }
    }

    /// The status of the answer.
    pub fn status(&mut self, status: u16) {
        if let Some(details) = &mut self.details {
            details.status = Some(status);
        }
    }

    /// What counts the bytes of the request's body.
    pub fn follows(&mut self, activity: &Activity) {
        if let Some(details) = &mut self.details {
            details.activity = Some(activity.clone());
        }
    }

    /// Bytes of the answer's body went on.
    pub fn sent(&mut self, bytes: usize) {
        self.sent += bytes as u64;
    }

    /// An attempt begins.
    pub fn attempt_began(&self, cluster: &dyn fmt::Display, kind: AttemptKind) -> AttemptId {
        let Some(details) = &self.details else { return AttemptId(0) };
        let mut attempts = details.attempts.borrow_mut();
        let id = AttemptId(attempts.len());
        if attempts.len() < ATTEMPTS_MAX {
            let (cluster, started) = (cluster.to_string(), Instant::now());
            attempts.push(Tried { cluster, kind, started, ended: None });
        }
        id
    }

    /// An attempt has ended.
    pub fn attempt_ended(&self, id: AttemptId, failure: Option<Failure>) {
        let Some(details) = &self.details else { return };
        if let Some(attempt) = details.attempts.borrow_mut().get_mut(id.0) {
            attempt.ended = Some((attempt.started.elapsed(), failure));
        }
    }

    /// How it ended, as far as that is known.
    pub fn ends(&mut self, outcome: Outcome) {
        self.outcome = outcome;
    }

    /// What [`Record::ends`] said last.
    pub fn outcome(&self) -> Outcome {
        self.outcome
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        self.counters.ended(self.outcome);
        let Some(details) = &self.details else { return };
        let Details { method, service, caller, peer, endpoint, status, activity, attempts } = &**details;
        let received = activity.as_ref().map_or(0, Activity::received);
        let carried = activity.as_ref().map_or(0, Activity::sent);
        let (direction, outcome, sent) =
            (self.direction.as_str(), self.outcome.as_str(), self.sent + carried);
        let caller = caller.as_deref().unwrap_or("anonymous");
        let milliseconds = self.started.elapsed().as_secs_f64() * 1000.0;
        let attempts = Attempts(&attempts.borrow()).to_string();
        tracing::debug!(
            target: TARGET,
            direction, method, service, peer, endpoint, caller, status, outcome, milliseconds, received, sent, attempts,
            "Request."
        );
    }
}

/// As `west first 1.2 ms Connect, east retry 3.4 ms ok`.
struct Attempts<'a>(&'a [Tried]);

impl fmt::Display for Attempts<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, Tried { cluster, kind, ended, .. }) in self.0.iter().enumerate() {
            let separator = if number == 0 { "" } else { ", " };
            write!(f, "{separator}{cluster} {}", kind.as_str())?;
            match ended {
                None => f.write_str(" cancelled")?,
                Some((took, failure)) => {
                    write!(f, " {:.1} ms ", took.as_secs_f64() * 1000.0)?;
                    match failure {
                        None => f.write_str("ok")?,
                        Some(failure) => write!(f, "{failure:?}")?,
                    }
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU8;

    use super::*;
    use crate::telemetry::metrics::Metrics;

    fn counters(metrics: &Metrics, peer: &str) -> RequestCounters {
        let peer = registry::model::ClusterName::new(peer).ok();
        metrics.requests(Direction::Outbound, &"shop/cart".into(), peer.as_ref())
    }

    #[tokio::test]
    async fn what_is_dropped_was_given_up_by_its_caller() {
        let metrics = Metrics::new(NonZeroU8::MIN);
        let nobody = counters(&metrics, "");
        drop(Record::begin(Direction::Outbound, &nobody, Instant::now()));
        assert_eq!(nobody.count(Outcome::Cancelled), 1);
    }

    #[tokio::test]
    async fn an_exchange_counts_once_and_for_whoever_answered() {
        let metrics = Metrics::new(NonZeroU8::MIN);
        let (nobody, east) = (counters(&metrics, ""), counters(&metrics, "east"));
        let mut record = Record::begin(Direction::Outbound, &nobody, Instant::now());
        record.answered_by("east", &east);
        record.ends(Outcome::Cut);
        record.ends(Outcome::Answered);
        drop(record);
        assert_eq!(east.count(Outcome::Answered), 1);
        assert_eq!(east.count(Outcome::Cut) + nobody.count(Outcome::Cancelled), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn attempts_are_told_with_their_times() {
        let attempts = [
            Tried {
                cluster: "west".into(),
                kind: AttemptKind::First,
                started: Instant::now(),
                ended: Some((Duration::from_micros(1_250), Some(Failure::Connect))),
            },
            Tried { cluster: "east".into(), kind: AttemptKind::Hedge, started: Instant::now(), ended: None },
        ];
        assert_eq!(Attempts(&attempts).to_string(), "west first 1.2 ms Connect, east hedge cancelled");
    }
}
