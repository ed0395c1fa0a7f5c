//! A flow: what a caller sends, on its way to a cluster that serves it. One for every protocol.
//!
//! A [`Flow`] owns the attempts: which cluster is next, whether there is a next at all, the hedge beside a suspect peer,
//! the deadline, and what was tried. What it carries is a [`Payload`], where it may go are its [`Candidates`]. It opens
//! no connection and knows no HTTP, so that it runs in a simulation as it does on a worker.

mod hedge;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;

use std::cell::Cell;

use hashring::NodeIndex;
use registry::base::time::Tick;
use registry::model::{Retry, Timeout};
use tokio::time::Instant;
use tracing::debug;

use crate::base::clock::{Activity, Clock};
use crate::telemetry::metrics::AttemptKind;
use crate::telemetry::record::AttemptId;
use policy::placement::{Availability, Placement};
use policy::retry::{self, Budget, Failure, Progress, Verdict};

/// The clusters that may serve a flow, as they are at the moment of the question.
pub trait Candidates {
    /// A way into one of them.
    type Target;
    /// What shows whether the peer behind one still lives.
    type Watched: Watched;

    /// The contract that orders them.
    fn placement(&self) -> &Placement;

    /// Whether a cluster can serve it at `now`, in microseconds.
    fn availability(&self, node: NodeIndex, now: Tick) -> Availability;

    /// How much of it a cluster can serve at `now`, if that is known.
    fn capacity(&self, node: NodeIndex, now: Tick) -> Option<u32>;

    /// Whether a tunnel leads there: one that is lost may have another beside it.
    fn is_remote(&self, node: NodeIndex) -> bool;

    /// A way there for one attempt.
    ///
    /// # Errors
    /// [`Failure::NotSent`] when there is none.
    fn target(&self, node: NodeIndex) -> Result<Self::Target, Failure>;

    /// What shows whether the peer behind a target still lives; `None` where nobody watches.
    fn watched(&self, target: &Self::Target) -> Option<Self::Watched>;

    /// Random choices.
    fn with_rng<T>(&self, draw: impl FnOnce(&mut fastrand::Rng) -> T) -> T;

    /// An attempt begins.
    fn attempt_began(&self, node: NodeIndex, kind: AttemptKind) -> AttemptId;

    /// It has ended; one that never does was cancelled.
    fn attempt_ended(&self, attempt: AttemptId, failure: Option<Failure>);
}

/// A peer whose silence is judged while an attempt waits for it.
pub trait Watched {
    /// Ends once it is suspect.
    fn suspect(&self) -> impl Future<Output = ()>;
}

/// What a flow carries.
pub trait Payload {
    /// A way into a cluster, as its candidates give it.
    type Target;
    /// What comes back.
    type Reply;

    /// Whether all that was sent of it is still at hand, and may be sent again.
    fn can_restart(&self) -> bool {
        true
    }

    /// Whether it is at hand as a whole, so that it can be sent twice at once.
    fn is_buffered(&self) -> bool {
        true
    }

    /// Whether the caller's side of it broke off.
    fn failed(&self) -> bool {
        false
    }

    /// When the caller had sent all of it that an answer waits for; `None`: it has not yet.
    fn ended_at(&self, started: Instant) -> Option<Instant> {
        Some(started)
    }

    /// What a reply says that is a failure all the same: whoever may try again does.
    fn failure_in(&self, _: &Self::Reply) -> Option<Failure> {
        None
    }

    /// Sends it once, and waits for the reply. Dropped: the attempt is cancelled.
    fn send(
        &self,
        target: Self::Target,
        attempt: Attempt,
    ) -> impl Future<Output = Result<Self::Reply, Failure>>;
}

/// Which attempt it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// Attempts before this one.
    pub number: u8,
    /// Clusters that may still be tried.
    pub left: u8,
    /// The peer said `MISPLACED`, and shall serve it all the same.
    pub insist: bool,
}

/// What a service's policy and budgets allow a flow.
#[derive(Clone, Copy, Debug)]
pub struct Terms<'a> {
    /// What is tried again.
    pub retry: &'a Retry,
    /// How long it may take.
    pub timeout: &'a Timeout,
    /// Spent by retries.
    pub retries: &'a Budget,
    /// Spent by hedges.
    pub hedges: &'a Budget,
}

/// One flow, with everything that does not change over its attempts.
pub struct Flow<'a, C, P> {
    /// Where it may go.
    pub candidates: C,
    /// What it carries.
    pub payload: P,
    /// What it may cost.
    pub terms: Terms<'a>,
    /// The hash of its key, if it has one.
    pub hash: Option<u64>,
    /// What [`retry::replayable_method`] says.
    pub replayable: bool,
    /// When it began.
    pub started: Instant,
    /// When it must be over, all of it.
    pub deadline: Option<Instant>,
    /// When it last moved.
    pub activity: Activity,
    /// The time.
    pub clock: Clock,
    /// Set when the time that the policy gives is over: what waits then is late by its own doing.
    pub expired: &'a Cell<bool>,
}

/// How a flow came out: the reply, and the node that gave it.
pub type Served<R> = Result<(R, NodeIndex), NotServed>;

/// How an attempt came out, with the hedge beside it: the reply or the failure, and the node that it is of.
type Attempted<R> = Result<(R, NodeIndex), (Failure, NodeIndex)>;

/// Why nobody served a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotServed {
    /// What the last attempt did.
    pub failure: Failure,
    /// Whether it was its caller who broke off or let the time pass.
    pub caller_at_fault: bool,
}

impl NotServed {
    fn by(failure: Failure) -> Self {
        Self { failure, caller_at_fault: false }
    }

    fn by_caller(failure: Failure) -> Self {
        Self { failure, caller_at_fault: true }
    }
}

/// Clusters that were tried, in order.
#[derive(Clone, Copy, Debug)]
struct Tried {
    nodes: [NodeIndex; 16],
    len: u8,
    /// One hedge a flow.
    hedged: bool,
}

impl Tried {
    fn none() -> Self {
        Self { nodes: [NodeIndex(0); 16], len: 0, hedged: false }
    }

    fn push(&mut self, node: NodeIndex) {
        // Attempts are limited to fewer than this by the manifest.
        if let Some(slot) = self.nodes.get_mut(usize::from(self.len)) {
            *slot = node;
            self.len += 1;
        }
    }

    fn as_slice(&self) -> &[NodeIndex] {
        &self.nodes[..usize::from(self.len)]
    }
}

impl<C, P> Flow<'_, C, P>
where
    C: Candidates,
    P: Payload<Target = C::Target>,
{
    /// Makes attempts until there is a reply or nothing more to try.
    ///
    /// # Errors
    /// [`NotServed`]: with the failure of the last attempt, or [`Failure::Deadline`].
    pub async fn run(&self) -> Served<P::Reply> {
        let now = self.clock.now();
        self.terms.retries.deposit(now);
        self.terms.hedges.deposit(now);
        let mut timer = std::pin::pin!(self.timer());
        let mut attempts = std::pin::pin!(self.attempts());
        tokio::select! {
            biased;
            served = &mut attempts => served,
            caller_at_fault = &mut timer => Err(NotServed { failure: Failure::Deadline, caller_at_fault }),
        }
    }

    /// Ends when time is up: true if it was the caller who let it pass.
    async fn timer(&self) -> bool {
        let (timeout, total) = (self.terms.timeout, self.deadline);
        loop {
            let ended = self.payload.ended_at(self.started);
            let idle = self.activity.last() + timeout.idle();
            let due = ended.map_or(idle, |ended| ended + timeout.head);
            let due = total.map_or(due, |total| total.min(due));
            if due <= Instant::now() {
                // Who gave it less time than it usually takes has no reason to complain of the endpoint.
                self.expired.set(ended.is_some() && total.is_none_or(|total| total > due));
                return ended.is_none() && total.is_none_or(|total| total > due);
            }
            tokio::time::sleep_until(due).await;
        }
    }

    async fn attempts(&self) -> Served<P::Reply> {
        let mut tried = Tried::none();
        let Some(mut node) = self.next(&tried) else { return Err(NotServed::by(Failure::Unavailable)) };
        tried.push(node);
        // A node that said `MISPLACED` is asked once more, and told to serve.
        let (mut kind, mut insist) = (AttemptKind::First, false);
        // One whose tunnel was lost is asked once more, if it is up on another.
        let mut tunnel_replaced = false;
        loop {
            let done = self.attempt_with_hedge(node, &mut tried, insist, kind).await;
            let (failure, of) = match &done {
                Err(failed) => *failed,
                Ok((reply, of)) => match self.payload.failure_in(reply) {
                    Some(failure) => (failure, *of),
                    None => return done.map_err(|(failure, _)| NotServed::by(failure)),
                },
            };
            if self.payload.failed() {
                return Err(NotServed::by_caller(failure));
            }
            let again = !tunnel_replaced && self.is_up_otherwise(of, failure);
            let next = if again { Some(of) } else { self.next(&tried) };
            // Asked with the next one known: nothing is charged for an attempt that has nowhere to go.
            let verdict = self.verdict(failure, &tried, insist, next.is_some());
            let cluster = self.candidates.placement().cluster(of);
            debug!(%cluster, ?failure, ?verdict, "Attempt failed.");
            (node, insist) = match (verdict, next) {
                (Verdict::Insist, _) => (of, true),
                (Verdict::TryNext, Some(next)) => (next, false),
                // An answer of the far side, though a bad one, is better than ours.
                _ => return done.map_err(|(failure, _)| NotServed::by(failure)),
            };
            if verdict == Verdict::TryNext && again {
                tunnel_replaced = true;
            } else if verdict == Verdict::TryNext {
                tried.push(node);
            }
            kind = AttemptKind::Retry;
        }
    }

    fn verdict(&self, failure: Failure, tried: &Tried, insisted: bool, has_next: bool) -> Verdict {
        let progress = self.progress(tried);
        let attempts_left = if has_next { progress.attempts_left } else { 0 };
        let progress = Progress { insisted, attempts_left, ..progress };
        retry::verdict(failure, &progress, self.terms.retry, self.terms.retries, self.clock.now())
    }

    /// Whether the tunnel to `node` was lost, and the peer is up on another. (What was never sent has been offered to each
    /// by the payload.)
    fn is_up_otherwise(&self, node: NodeIndex, failure: Failure) -> bool {
        failure == Failure::PeerLost
            && self.candidates.is_remote(node)
            && self.candidates.availability(node, self.clock.now()) == Availability::Up
    }

    fn next(&self, tried: &Tried) -> Option<NodeIndex> {
        let (candidates, now) = (&self.candidates, self.clock.now());
        let availability = |node| candidates.availability(node, now);
        let capacity = |node| candidates.capacity(node, now);
        candidates.with_rng(|rng| {
            candidates.placement().next(self.hash, tried.as_slice(), availability, capacity, rng)
        })
    }

    fn progress(&self, tried: &Tried) -> Progress {
        Progress {
            attempts_left: self.terms.retry.attempts.saturating_sub(tried.len),
            replayable_method: self.replayable,
            body_kept: self.payload.can_restart(),
            insisted: false,
        }
    }
}
