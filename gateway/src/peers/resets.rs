//! How many requests a peer may give up before they are answered.
//!
//! What is opened and reset costs the peer nothing and an endpoint a connect each time, however few are open at once:
//! HTTP/2's "rapid reset" (CVE-2023-44487). So a request that is given up early costs a token, and one that is answered
//! earns one. A peer that lets most of its requests be answered never notices; one that does not is left with the few
//! that come back by themselves, and with `OVERLOADED` before any work for the rest.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use proto::code::Code;
use registry::base::time::Tick;
use tunnel::Answered;

/// A request that was under way for longer was not given up early: of those there cannot be many.
const EARLY: Duration = Duration::from_secs(5);
/// That a peer is at its limit is said at most so often.
const SAY_AGAIN: Duration = Duration::from_secs(60);

/// The tokens of one peer. Many threads draw on them without a lock.
#[derive(Debug)]
pub struct ResetBudget {
    limits: Limits,
    left: AtomicI64,
    /// To when tokens have come back by themselves, in microseconds.
    refilled_at: AtomicU64,
    said_at: AtomicU64,
}

/// How many tokens there are.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Those that come back by themselves, a second.
    pub per_second: u32,
    /// To how many they come back, and what a peer starts with.
    pub free: u32,
    /// How many it can earn: as many requests as it may have under way, which it may then give up all at once.
    pub earned: u32,
}

impl ResetBudget {
    /// All free tokens are there.
    pub const fn new(limits: Limits) -> Self {
        Self {
            limits,
            left: AtomicI64::new(limits.free as i64),
            refilled_at: AtomicU64::new(0),
            said_at: AtomicU64::new(0),
        }
    }

    /// Whether a request that begins at `now`, in microseconds, may be worked on.
    pub fn admits(&self, now: Tick) -> bool {
        if self.left.load(Relaxed) > 0 {
            return true;
        }
        self.refill(now);
        self.left.load(Relaxed) > 0
    }

    /// A request that began at `began` is over at `now`. Gives whether it is to be said that the peer is at its limit.
    pub fn ended(&self, answered: Option<Answered>, began: Tick, now: Tick) -> bool {
        match answered {
            Some(Answered::Data) => self.earn(),
            // Whoever asked went away, or gave it too little time. What other codes say is our own doing.
            None | Some(Answered::Code(Code::Cancelled | Code::Deadline)) if is_early(began, now) => {
                self.refill(now);
                return self.left.fetch_sub(1, Relaxed) <= 1 && self.says(now);
            }
            None | Some(Answered::Code(_)) => {}
        }
        false
    }

    /// Nearly always there is nothing to earn any more, and nothing is written that other cores read.
    fn earn(&self) {
        if self.left.load(Relaxed) < i64::from(self.limits.earned) {
            self.left.fetch_add(1, Relaxed);
        }
    }

    /// What has come back by itself since it was last looked at.
    fn refill(&self, now: Tick) {
        let last = self.refilled_at.load(Relaxed);
        let token_micros = 1_000_000 / u64::from(self.limits.per_second.max(1));
        let missing = i64::from(self.limits.free) - self.left.load(Relaxed);
        let back = now.since(Tick::at(last)) / token_micros.max(1);
        let (back, until) = match i64::try_from(back) {
            Ok(back) if back < missing => (back, last + back as u64 * token_micros),
            // Nothing is missing from now on.
            _ => (missing.max(0), now.micros()),
        };
        if until > last && self.refilled_at.compare_exchange(last, until, Relaxed, Relaxed).is_ok() {
            self.left.fetch_add(back, Relaxed);
        }
    }

    fn says(&self, now: Tick) -> bool {
        let last = self.said_at.load(Relaxed);
        let due = last == 0 || now.since(Tick::at(last)) >= micros(SAY_AGAIN);
        due && self.said_at.compare_exchange(last, now.micros().max(1), Relaxed, Relaxed).is_ok()
    }
}

fn is_early(began: Tick, now: Tick) -> bool {
    now.since(began) < micros(EARLY)
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: u64 = 1_000_000;
    const LIMITS: Limits = Limits { per_second: 10, free: 20, earned: 100 };
    const GIVEN_UP: Option<Answered> = Some(Answered::Code(Code::Cancelled));

    #[test]
    fn who_gives_up_what_it_asks_is_left_with_what_comes_back_by_itself() {
        let budget = ResetBudget::new(LIMITS);
        for n in 0..20 {
            assert!(budget.admits(Tick::ZERO), "{n}");
            let said = budget.ended(GIVEN_UP, Tick::ZERO, Tick::at(1));
            assert_eq!(said, n == 19, "it is said as the last is gone");
        }
        assert!(!budget.admits(Tick::at(1)));
        let mut admitted = 0;
        for now in (0..10 * SECOND).step_by(10_000) {
            if budget.admits(Tick::at(now)) {
                admitted += 1;
                assert!(!budget.ended(GIVEN_UP, Tick::at(now), Tick::at(now)), "and not again");
            }
        }
        assert!((95..=101).contains(&admitted), "{admitted}");
        // Many that were begun at once are all paid for.
        let now = 100 * SECOND;
        assert!(budget.admits(Tick::at(now)));
        for _ in 0..50 {
            budget.ended(GIVEN_UP, Tick::at(now), Tick::at(now));
        }
        assert!(!budget.admits(Tick::at(now + 3 * SECOND - 1)));
        assert!(budget.admits(Tick::at(now + 4 * SECOND)));
    }

    #[test]
    fn who_is_answered_may_give_up_as_many_at_once() {
        let budget = ResetBudget::new(LIMITS);
        for _ in 0..1_000 {
            budget.ended(Some(Answered::Data), Tick::ZERO, Tick::at(1));
        }
        for _ in 0..100 {
            assert!(budget.admits(Tick::at(1)));
            budget.ended(GIVEN_UP, Tick::ZERO, Tick::at(1));
        }
        assert!(!budget.admits(Tick::at(1)), "never more than it has earned");
        // Half of them, for ever.
        for _ in 0..1_000 {
            budget.ended(Some(Answered::Data), Tick::at(1), Tick::at(1));
            assert!(budget.admits(Tick::at(1)));
            budget.ended(GIVEN_UP, Tick::at(1), Tick::at(1));
        }
    }

    #[test]
    fn what_is_our_own_doing_or_took_long_is_not_counted() {
        let budget = ResetBudget::new(LIMITS);
        for code in Code::ALL.into_iter().filter(|code| !matches!(code, Code::Cancelled | Code::Deadline)) {
            for _ in 0..100 {
                budget.ended(Some(Answered::Code(code)), Tick::ZERO, Tick::at(1));
            }
        }
        for _ in 0..100 {
            budget.ended(GIVEN_UP, Tick::ZERO, Tick::at(5 * SECOND));
        }
        assert_eq!(budget.left.load(Relaxed), 20);
        for _ in 0..20 {
            budget.ended(Some(Answered::Code(Code::Deadline)), Tick::ZERO, Tick::at(5 * SECOND - 1));
        }
        assert!(!budget.admits(Tick::at(5 * SECOND)));
    }

    proptest! {
        #[test]
        fn never_more_are_given_up_than_are_free_come_back_or_were_answered(
            steps in prop::collection::vec((0..200_000_u64, any::<bool>()), 1..500),
        ) {
            let budget = ResetBudget::new(LIMITS);
            let (mut now, mut given_up, mut answered) = (0, 0, 0);
            for (pause, gives_up) in steps {
                now += pause;
                if !budget.admits(Tick::at(now)) {
                    continue;
                }
                if gives_up {
                    given_up += 1;
                    budget.ended(GIVEN_UP, Tick::at(now), Tick::at(now));
                } else {
                    answered += 1;
                    budget.ended(Some(Answered::Data), Tick::at(now), Tick::at(now));
                }
                prop_assert!(given_up <= 20 + now / 100_000 + answered + 1);
            }
        }
    }
}
