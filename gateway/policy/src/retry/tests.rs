#![allow(clippy::unwrap_used)]

use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use proptest::prelude::*;
use registry::model::RetryOn;

use super::*;

const SECOND: u64 = 1_000_000;

const ALL: [Failure; 13] = [
    Failure::NotSent,
    Failure::Connect,
    Failure::Unavailable,
    Failure::Refused,
    Failure::Overloaded,
    Failure::Misplaced,
    Failure::Denied,
    Failure::Unknown,
    Failure::PeerLost,
    Failure::Reset,
    Failure::Status(503),
    Failure::Deadline,
    Failure::Cancelled,
];

/// A GET with everything open.
const GET: Progress =
    Progress { attempts_left: 2, replayable_method: true, body_kept: true, insisted: false };
const POST: Progress = Progress { replayable_method: false, ..GET };

fn decide(failure: Failure, progress: &Progress) -> Verdict {
    verdict(failure, progress, &Retry::default(), &Budget::new(), Tick::ZERO)
}

fn gives_up(why: GiveUp) -> Verdict {
    Verdict::GiveUp(why)
}

#[test]
fn methods() {
    let policy = Retry { methods: vec!["REPORT".into()], ..Retry::default() };
    for method in ["GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE", "REPORT"] {
        assert!(replayable_method(method, false, &policy), "{method}");
    }
    for method in ["POST", "PATCH", "CONNECT", "get", "LOCK", ""] {
        assert!(!replayable_method(method, false, &policy), "{method}");
        assert!(replayable_method(method, true, &policy), "{method} with a key");
    }
}

#[test]
fn a_replayable_request_goes_on_after_all_that_another_cluster_may_do_better() {
    use Failure::*;
    for failure in ALL {
        let expected = match failure {
            Misplaced => Verdict::Insist,
            Denied | Unknown | Cancelled => gives_up(GiveUp::Final),
            Deadline => gives_up(GiveUp::Deadline),
            _ => Verdict::TryNext,
        };
        assert_eq!(decide(failure, &GET), expected, "{failure:?}");
    }
    assert_eq!(decide(Status(500), &GET), gives_up(GiveUp::Final));
}

#[test]
fn a_post_goes_on_only_where_nothing_was_processed() {
    use Failure::*;
    for failure in [NotSent, Connect, Unavailable, Refused, Overloaded] {
        assert_eq!(decide(failure, &POST), Verdict::TryNext, "{failure:?}");
        let consumed = Progress { body_kept: false, ..POST };
        assert_eq!(decide(failure, &consumed), gives_up(GiveUp::NotReplayable), "{failure:?}");
    }
    assert_eq!(decide(Misplaced, &POST), Verdict::Insist);
    for failure in [PeerLost, Reset, Status(503)] {
        assert_eq!(decide(failure, &POST), gives_up(GiveUp::NotReplayable), "{failure:?}");
    }
}

#[test]
fn misplaced_insists_once_and_then_goes_elsewhere() {
    let insisted = Progress { insisted: true, ..GET };
    assert_eq!(decide(Failure::Misplaced, &insisted), Verdict::TryNext);
    let last = Progress { attempts_left: 0, ..GET };
    assert_eq!(decide(Failure::Misplaced, &last), Verdict::Insist, "the same cluster is no further attempt");
    assert_eq!(decide(Failure::Misplaced, &Progress { insisted: true, ..last }), gives_up(GiveUp::Attempts));
}

#[test]
fn the_policy_chooses_retries_but_not_failover() {
    let policy = Retry { on: RetryOn::default(), ..Retry::default() };
    for failure in ALL {
        let goes_on =
            !matches!(verdict(failure, &GET, &policy, &Budget::new(), Tick::ZERO), Verdict::GiveUp(_));
        use Failure::*;
        assert_eq!(goes_on, matches!(failure, NotSent | Overloaded | Misplaced | PeerLost), "{failure:?}");
    }
    let policy = Retry { on: RetryOn { statuses: vec![429], ..RetryOn::default() }, ..Retry::default() };
    assert_eq!(verdict(Failure::Status(429), &GET, &policy, &Budget::new(), Tick::ZERO), Verdict::TryNext);
    assert_eq!(
        verdict(Failure::Status(503), &GET, &policy, &Budget::new(), Tick::ZERO),
        gives_up(GiveUp::Final)
    );
}

#[test]
fn only_what_may_have_been_work_in_vain_is_charged() {
    let policy = Retry { min_per_second: 0, budget_percent: 0, ..Retry::default() };
    for failure in ALL {
        let decided = verdict(failure, &GET, &policy, &Budget::new(), Tick::ZERO);
        use Failure::*;
        let charged = matches!(failure, Overloaded | Reset | Status(_));
        assert_eq!(decided == gives_up(GiveUp::Budget), charged, "{failure:?}");
    }
    // Nothing is charged for an attempt that does not happen.
    let budget = Budget::new();
    for progress in [Progress { attempts_left: 0, ..GET }, POST] {
        assert!(matches!(
            verdict(Failure::Reset, &progress, &Retry::default(), &budget, Tick::ZERO),
            Verdict::GiveUp(_)
        ));
    }
    assert_eq!(budget.spent(Tick::ZERO), 0);
    verdict(Failure::Reset, &GET, &Retry::default(), &budget, Tick::ZERO);
    assert_eq!(budget.spent(Tick::ZERO), 1);
}

#[test]
fn a_hedge_is_for_replayable_requests_and_within_its_budget() {
    let hedges = Budget::new();
    assert!(hedge(&GET, &hedges, Tick::ZERO));
    for progress in [POST, Progress { body_kept: false, ..GET }, Progress { attempts_left: 0, ..GET }] {
        assert!(!hedge(&progress, &hedges, Tick::ZERO), "{progress:?}");
    }
    assert_eq!(hedges.spent(Tick::ZERO), 1);
    let granted = (0..1000).filter(|_| hedge(&GET, &hedges, Tick::ZERO)).count();
    assert_eq!(granted, 99, "10 a second over 10 s");
    let busy = Budget::new();
    (0..20_000).for_each(|_| busy.deposit(Tick::ZERO));
    assert_eq!((0..1000).filter(|_| hedge(&GET, &busy, Tick::ZERO)).count(), 400, "2 % of the last 10 s");
}

#[test]
fn a_budget_is_a_share_of_the_last_ten_seconds() {
    let budget = Budget::new();
    for second in 0..10 {
        (0..100).for_each(|_| budget.deposit(Tick::at(second * SECOND)));
    }
    let take = |now| (0..1000).filter(|_| budget.try_withdraw(now, 20, 0)).count();
    assert_eq!(take(Tick::at(9 * SECOND)), 200);
    assert_eq!(take(Tick::at(10 * SECOND - 1)), 0);
    // The first second leaves the window with its deposits; what was spent stays in it.
    assert_eq!(take(Tick::at(10 * SECOND)), 0);
    // All deposits are gone before what was spent in the last of them is.
    assert_eq!(take(Tick::at(18 * SECOND)), 0);
    (0..100).for_each(|_| budget.deposit(Tick::at(19 * SECOND)));
    assert_eq!(budget.spent(Tick::at(19 * SECOND)), 0);
    assert_eq!(take(Tick::at(19 * SECOND)), 20);
}

#[test]
fn a_long_pause_forgets_everything() {
    let budget = Budget::new();
    (0..1000).for_each(|_| budget.deposit(Tick::at(3 * SECOND)));
    assert!(budget.try_withdraw(Tick::at(3 * SECOND), 20, 0));
    // The same bucket, any number of rounds later.
    assert!(!budget.try_withdraw(Tick::at(1003 * SECOND), 20, 0));
    assert_eq!(budget.spent(Tick::at(1003 * SECOND)), 0);
}

#[test]
fn workers_together_never_take_more_than_allowed() {
    let budget = Budget::new();
    let taken = AtomicU64::new(0);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..1000 {
                    if budget.try_withdraw(Tick::ZERO, 0, 10) {
                        taken.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    assert!((1..=100).contains(&taken.into_inner()));
    assert!(budget.spent(Tick::ZERO) <= 100);
}

proptest! {
    #[test]
    fn no_window_ever_holds_more_than_allowed(
        steps in prop::collection::vec((0u64..3 * SECOND, 0usize..40, 0usize..20), 1..60),
        percent in 0u8..=100,
        floor in 0u32..3,
    ) {
        let budget = Budget::new();
        let mut now = 0;
        let (mut deposits, mut taken) = (Vec::new(), Vec::new());
        for (pause, requests, retries) in steps {
            now += pause;
            for _ in 0..requests {
                budget.deposit(Tick::at(now));
                deposits.push(now);
            }
            for _ in 0..retries {
                let recent = |times: &[u64]| {
                    times.iter().filter(|&&at| now / SECOND - at / SECOND < 10).count() as u64
                };
                let allowed = (recent(&deposits) * u64::from(percent) / 100).max(u64::from(floor) * 10);
                let granted = budget.try_withdraw(Tick::at(now), percent, floor);
                prop_assert_eq!(granted, recent(&taken) < allowed);
                if granted {
                    taken.push(now);
                }
            }
        }
    }
}
