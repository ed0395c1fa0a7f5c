//! What is tried again, where, and at whose expense.
//!
//! Asked while nothing of an answer was forwarded and time is left. Three questions: does the policy want another attempt?
//! Could it do harm (the request may have been processed and is not replayable)? Is there budget for it?

mod budget;

use registry::base::time::Tick;
use registry::model::Retry;

pub use budget::Budget;

/// Hedges allowed in per cent of the requests of the last 10 s.
pub const HEDGE_PERCENT: u8 = 2;
/// Hedges allowed a second whatever the share.
pub const HEDGE_MIN_PER_SECOND: u32 = 10;

/// Whether a request's method allows that it is sent twice: idempotent by RFC 9110, section 9.2.2, or made so by an
/// `Idempotency-Key` (`has_key`), or declared so by the policy. Methods are case-sensitive (section 9.1).
///
/// That is half of *replayable*; the other half is that its body is wholly buffered.
pub fn replayable_method(method: &str, has_key: bool, policy: &Retry) -> bool {
    matches!(method, "GET" | "HEAD" | "OPTIONS" | "TRACE" | "PUT" | "DELETE")
        || has_key
        || policy.methods.iter().any(|declared| declared == method)
}

/// How an attempt failed, as the gateway that placed it sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Nothing of it left this process: no tunnel, no stream, or above the last stream of a GOAWAY.
    NotSent,
    /// No endpoint could be connected to.
    Connect,
    /// No endpoint was ready.
    Unavailable,
    /// The peer certified that it processed nothing (`REFUSED`).
    Refused,
    /// The peer shed it, unprocessed (`OVERLOADED`).
    Overloaded,
    /// Contract generation or owner disagree; unprocessed (`MISPLACED`).
    Misplaced,
    /// The service is not granted to us (`DENIED`).
    Denied,
    /// The peer has no such service or port (`UNKNOWN`).
    Unknown,
    /// The tunnel broke or the peer is down, after the request was sent.
    PeerLost,
    /// The exchange was cut or garbled, while the peer lives.
    Reset,
    /// An answer came that must not go on.
    Malformed,
    /// The head of the answer is larger than goes on: it would be everywhere.
    AnswerTooLarge,
    /// This process has no room for another connection; unprocessed.
    NoRoom,
    /// An answer with this status, nothing of it forwarded yet.
    Status(u16),
    /// An answer of gRPC that is nothing but the status `UNAVAILABLE`, nothing of it forwarded yet.
    GrpcUnavailable,
    /// Its head does not fit the tunnel: nowhere.
    TooLarge,
    /// Time is up (`DEADLINE`).
    Deadline,
    /// The caller went away (`CANCELLED`).
    Cancelled,
}

impl Failure {
    /// Whether it is certain that nothing was processed: then even a POST may be sent again.
    pub fn certifies_unprocessed(self) -> bool {
        matches!(
            self,
            Self::NotSent
                | Self::Connect
                | Self::Unavailable
                | Self::Refused
                | Self::Overloaded
                | Self::Misplaced
                | Self::Denied
                | Self::Unknown
                | Self::TooLarge
                | Self::NoRoom
        )
    }

    /// Whether the policy wants it tried again. It has no say in failover: a dead peer, a shed request or a stale
    /// contract are the mesh's own affairs.
    fn wanted(self, policy: &Retry) -> bool {
        match self {
            Self::NotSent | Self::Overloaded | Self::Misplaced | Self::PeerLost | Self::NoRoom => true,
            Self::Connect => policy.on.connect,
            Self::Unavailable | Self::GrpcUnavailable => policy.on.unavailable,
            Self::Refused => policy.on.refused,
            Self::Reset | Self::Malformed => policy.on.reset,
            Self::Status(status) => policy.on.statuses.contains(&status),
            Self::Denied
            | Self::Unknown
            | Self::TooLarge
            | Self::AnswerTooLarge
            | Self::Deadline
            | Self::Cancelled => false,
        }
    }

    /// Whether another attempt is charged to the budget: where the far side may have worked in vain, or is short of
    /// room. What never reached it, and what its death made necessary, is not; attempts bound those.
    fn charged(self) -> bool {
        matches!(
            self,
            Self::Overloaded | Self::Reset | Self::Malformed | Self::Status(_) | Self::GrpcUnavailable
        )
    }
}

/// How far a request has come when an attempt fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Clusters that may still be tried.
    pub attempts_left: u8,
    /// What [`replayable_method`] says.
    pub replayable_method: bool,
    /// Whether its body is at hand in full; without it not even an unprocessed request can be sent again.
    pub body_kept: bool,
    /// Whether this cluster has already been told to serve it in spite of a disagreement.
    pub insisted: bool,
}

/// What comes after a failed attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The next candidate.
    TryNext,
    /// The same cluster once more, with `insist` in the head; it counts as no other cluster.
    Insist,
    /// The failure is the answer.
    GiveUp(GiveUp),
}

/// Why there is no further attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GiveUp {
    /// It may have been processed and must not be twice, or its body is gone.
    NotReplayable,
    /// No other cluster would answer differently, or the policy does not want it.
    Final,
    /// The deadline passed.
    Deadline,
    /// All attempts are used up.
    Attempts,
    /// The retry budget is spent.
    Budget,
}

/// What comes after an attempt that ended in `failure`. Charges `budget` when, and only when, the verdict is another
/// attempt that is charged. `now` is in microseconds, as in [`Budget`].
pub fn verdict(failure: Failure, progress: &Progress, policy: &Retry, budget: &Budget, now: Tick) -> Verdict {
    let give_up = |why| Verdict::GiveUp(why);
    if !failure.wanted(policy) {
        return give_up(if failure == Failure::Deadline { GiveUp::Deadline } else { GiveUp::Final });
    }
    if !(failure.certifies_unprocessed() || progress.replayable_method) || !progress.body_kept {
        return give_up(GiveUp::NotReplayable);
    }
    if failure == Failure::Misplaced && !progress.insisted {
        return Verdict::Insist;
    }
    if progress.attempts_left == 0 {
        return give_up(GiveUp::Attempts);
    }
    if failure.charged() && !budget.try_withdraw(now, policy.budget_percent, policy.min_per_second) {
        return give_up(GiveUp::Budget);
    }
    Verdict::TryNext
}

/// Whether a request that waits for a suspect peer is sent to the next candidate as well; charges `hedges` if so.
pub fn hedge(progress: &Progress, hedges: &Budget, now: Tick) -> bool {
    progress.replayable_method
        && progress.body_kept
        && progress.attempts_left > 0
        && hedges.try_withdraw(now, HEDGE_PERCENT, HEDGE_MIN_PER_SECOND)
}

#[cfg(test)]
mod tests;
