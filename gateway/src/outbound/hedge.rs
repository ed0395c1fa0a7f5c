//! A second attempt beside one whose peer has become suspect.

use hashring::NodeIndex;

use super::attempt::{Attempt, Target};
use super::{Attempted, Call, Tried};
use crate::health::State;
use crate::metrics::AttemptKind;
use crate::placement::Availability;
use crate::retry::{self, Progress};

impl Call<'_> {
    /// One attempt; while it waits for a peer that becomes suspect, a second one beside it at the next candidate.
    pub(super) async fn attempt_with_hedge(
        &self,
        node: NodeIndex,
        tried: &mut Tried,
        insist: bool,
        kind: AttemptKind,
    ) -> Attempted {
        let shared = &self.worker.shared;
        let at = |node| move |failure| (failure, node);
        let target = Target::of(self.service, node, self.worker.number).map_err(at(node))?;
        let attempt =
            Attempt { number: tried.len.saturating_sub(1), left: self.progress(tried).attempts_left, insist };
        shared.attempts.made(kind);
        let gateway = target.gateway();
        let run = async |node, target, attempt| {
            self.attempt(target, attempt).await.map(|answer| (answer, node)).map_err(at(node))
        };
        let mut primary = std::pin::pin!(run(node, target, attempt));
        let Some(gateway) = gateway else { return primary.await };
        loop {
            let mut changed = std::pin::pin!(gateway.changed.notified());
            changed.as_mut().enable();
            if gateway.state() == State::Suspect {
                break;
            }
            tokio::select! {
                biased;
                done = &mut primary => return done,
                () = changed => {}
            }
        }
        // Suspect: the answer may never come. A peer that was suspect from the start is a last resort, with no better
        // candidate to hedge at.
        let progress = Progress { body_kept: self.body.is_buffered(), ..self.progress(tried) };
        let candidate = self
            .next(tried)
            .filter(|&n| self.service.availability(n, self.port, shared.clock.micros()) == Availability::Up);
        let Some(beside) = candidate else { return primary.await };
        let hedged =
            retry::hedge(&progress, self.hedged.get(), self.service.budgets.hedges(), shared.clock.micros());
        let second = if hedged { Target::of(self.service, beside, self.worker.number).ok() } else { None };
        let Some(second) = second else { return primary.await };
        tried.push(beside);
        self.hedged.set(true);
        shared.attempts.made(AttemptKind::Hedge);
        let attempt =
            Attempt { number: tried.len - 1, left: self.progress(tried).attempts_left, insist: false };
        let mut hedge = Box::pin(run(beside, second, attempt));
        // The first good answer wins; dropping the other cancels it.
        let first = tokio::select! {
            done = &mut primary => done,
            done = &mut hedge => done,
        };
        let good =
            |done: &Attempted| done.as_ref().is_ok_and(|(answer, _)| self.failure_in(answer).is_none());
        if good(&first) {
            return first;
        }
        let of_primary = match &first {
            Ok((_, of)) | Err((_, of)) => *of == node,
        };
        let second = if of_primary { hedge.await } else { primary.await };
        // A bad answer is better than none.
        if good(&second) || first.is_err() { second } else { first }
    }
}
