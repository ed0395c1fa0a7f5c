//! A second attempt beside one whose peer has become suspect.

use hashring::NodeIndex;

use super::{Attempt, Attempted, Candidates, Flow, Payload, Tried, Watched};
use crate::telemetry::metrics::AttemptKind;
use policy::placement::Availability;
use policy::retry::{self, Progress};

impl<C, P> Flow<'_, C, P>
where
    C: Candidates,
    P: Payload<Target = C::Target>,
{
    /// One attempt; while it waits for a peer that becomes suspect, a second one beside it at the next candidate.
    pub(super) async fn attempt_with_hedge(
        &self,
        node: NodeIndex,
        tried: &mut Tried,
        insist: bool,
        kind: AttemptKind,
    ) -> Attempted<P::Reply> {
        let target = self.candidates.target(node).map_err(|failure| (failure, node))?;
        let watched = self.candidates.watched(&target);
        let mut primary = std::pin::pin!(self.attempt(node, target, tried, insist, kind));
        let Some(watched) = watched else { return primary.await };
        tokio::select! {
            biased;
            done = &mut primary => return done,
            () = watched.suspect() => {}
        }
        // The answer may never come. A peer that was suspect from the start is a last resort, with no better candidate to
        // hedge at.
        let Some((beside, target)) = self.second(tried) else { return primary.await };
        tried.push(beside);
        tried.hedged = true;
        // Boxed, as is what is rare elsewhere: each request would be larger by the room that one in a thousand takes.
        let mut hedge = Box::pin(self.attempt(beside, target, tried, false, AttemptKind::Hedge));
        // The first good answer wins; dropping the other cancels it.
        let first = tokio::select! {
            biased;
            done = &mut primary => done,
            done = &mut hedge => done,
        };
        let good = |done: &Attempted<P::Reply>| {
            done.as_ref().is_ok_and(|(reply, _)| self.payload.failure_in(reply).is_none())
        };
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

    /// One attempt, the last that was pushed to `tried`.
    fn attempt(
        &self,
        node: NodeIndex,
        target: C::Target,
        tried: &Tried,
        insist: bool,
        kind: AttemptKind,
    ) -> impl Future<Output = Attempted<P::Reply>> + use<'_, C, P> {
        let left = self.progress(tried).attempts_left;
        let attempt = Attempt { number: tried.len.saturating_sub(1), left, insist };
        let id = self.candidates.attempt_began(node, kind);
        async move {
            let sent = self.payload.send(target, attempt).await;
            self.candidates.attempt_ended(id, sent.as_ref().err().copied());
            match sent {
                Ok(reply) => Ok((reply, node)),
                Err(failure) => Err((failure, node)),
            }
        }
    }

    /// Where a hedge goes, if there may be one: to a candidate that is up, once a flow, and within the budget.
    fn second(&self, tried: &Tried) -> Option<(NodeIndex, C::Target)> {
        let now = self.clock.now();
        let progress = Progress { body_kept: self.payload.is_buffered(), ..self.progress(tried) };
        let node = self.next(tried)?;
        if self.candidates.availability(node, now) != Availability::Up {
            return None;
        }
        if tried.hedged || !retry::hedge(&progress, self.terms.hedges, now) {
            return None;
        }
        self.candidates.target(node).ok().map(|target| (node, target))
    }
}
